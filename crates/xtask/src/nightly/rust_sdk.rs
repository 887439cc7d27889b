//! The room list of matrix-rust-sdk with a hearth. The program is a workspace of its own, `tests/rust-sdk`: building the
//! SDK takes longer than building the server, and no other test needs it.

use std::path::Path;
use std::process::Command;

use super::{Night, RUST_SDK};
use crate::{Error, run};

/// Where it is built, below the root: apart from the server, with which it shares neither versions nor features.
const TARGET: &str = "target/rust-sdk";

/// Builds the program, with exactly the versions of its lock file.
///
/// # Errors
/// The build fails.
pub fn build(root: &Path) -> Result<(), Error> {
    let args = ["build", "--locked", "--manifest-path", RUST_SDK, "--target-dir", TARGET];
    run::shown("cargo", &args, root, &[])
}

/// Plays its stories, each against a `hearth` that it starts itself.
pub fn play(root: &Path, hearth: &Path, night: &mut Night) {
    let mut command = Command::new(root.join(TARGET).join("debug/rust-sdk"));
    command.arg("--hearth").arg(hearth).current_dir(root);
    night.tests("the room list of matrix-rust-sdk", command, &[]);
}

//! `cargo xtask bench`: CPU time per operation of the whole server process tree, beside Synapse in
//! the same run. Ratios, not milliseconds, carry over to another machine.

use std::path::Path;

use crate::{Error, run, setup};

/// What to measure.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Only the operations whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
}

/// Builds the server, measures, and prints the table.
///
/// # Errors
/// The server cannot be built, or a run fails.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let tools = setup::setup(root)?;
    run::shown("cargo", &["build", "--release", "--package", "server"], root, &[])?;
    let hearth = root.join("target/release/hearth");
    let hearth = hearth.to_string_lossy();
    let mut args = vec!["bench.mjs", "--hearth", &hearth];
    let synapse = tools.synapse.map(|folder| folder.to_string_lossy().into_owned());
    if let Some(folder) = &synapse {
        args.extend(["--synapse", folder]);
    }
    if let Some(only) = &options.only {
        args.extend(["--only", only]);
    }
    run::shown(&tools.node.to_string_lossy(), &args, &root.join("tests/bench"), &[])
}

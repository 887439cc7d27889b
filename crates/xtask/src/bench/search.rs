//! `cargo xtask bench-search`: what indexing and searching cost with many messages in six languages.

use std::path::Path;

use clap::Args;

use crate::{Error, run};

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// How many messages there are.
    #[arg(long, default_value_t = 300_000)]
    messages: usize,
}

/// Fills a database, and prints what was measured.
///
/// # Errors
/// [`Error`] if the build fails.
pub fn bench(root: &Path, options: &Options) -> Result<(), Error> {
    let messages = options.messages.to_string();
    let args = ["run", "--release", "--quiet", "-p", "search", "--example", "bench", "--", messages.as_str()];
    run::shown("cargo", &args, root, &[])
}

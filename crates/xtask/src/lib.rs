//! What developers run beside cargo: the laws of the house as a test, the coverage of the
//! specification's routes, the set-up and the run of all tests, the benchmarks.

pub mod bench;
pub mod nightly;
pub mod postgres;
pub mod run;
pub mod setup;
pub mod spec;
pub mod test;
pub mod tidy;

use std::path::{Path, PathBuf};

/// Why a task could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file says something that it must not.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A program could not be started.
    #[error("cannot run `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("`{program}` failed: {message}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// Its exit code or the end of its output.
        message: String,
    },
    /// Something that tests need is absent and could not be installed.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The task ran, and what it checks does not hold.
    #[error("{0}")]
    Checks(String),
}

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Reads a text file.
///
/// # Errors
/// [`Error::File`] with its path.
pub fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_path_buf(), source })
}

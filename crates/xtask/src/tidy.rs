//! The laws of the house, checked on the text of the tree.
//!
//! Each check looks at one kind of thing (manifests, code, words, functions, documents) and adds what
//! it finds to one list; [`exceptions`] is the only way around a law, and each line of it has a
//! reason. `cargo test -p xtask` runs all of it on this repository, and each check on a bad example.

mod code;
mod documents;
mod exceptions;
mod functions;
mod manifests;
mod source;
mod words;

use std::path::{Path, PathBuf};

pub use exceptions::{EXCEPTIONS, Exception};
pub use source::Source;

use crate::Error;

/// One place where a law is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path below the repository's root.
    pub path: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// Short name of the law, as exceptions cite it.
    pub law: &'static str,
    /// What is wrong and what to do instead.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.law, self.message)
    }
}

/// The manifest of one of our crates.
#[derive(Debug)]
pub struct Manifest {
    /// Path of `Cargo.toml` below the repository's root.
    pub path: String,
    /// The package's name.
    pub package: String,
    /// Names of its normal and build dependencies.
    pub dependencies: Vec<String>,
    /// Names of its dev-dependencies.
    pub dev_dependencies: Vec<String>,
}

/// All that the checks look at.
#[derive(Debug, Default)]
pub struct Tree {
    /// The manifests below `crates/`.
    pub manifests: Vec<Manifest>,
    /// The Rust files below `crates/`.
    pub sources: Vec<Source>,
    /// Every text file of the repository: path below the root, and contents.
    pub texts: Vec<(String, String)>,
}

impl Tree {
    /// Reads the tree at `root`: the files that git knows or would add.
    ///
    /// # Errors
    /// A file that cannot be read, or a manifest that is no TOML.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        for path in files(root)? {
            let Ok(text) = std::fs::read_to_string(root.join(&path)) else {
                continue; // Deleted in the work tree, or no text.
            };
            let name = path.to_string_lossy().replace('\\', "/");
            if name.starts_with("crates/") && name.ends_with("/Cargo.toml") {
                tree.manifests.push(manifests::parse(&name, &text)?);
            }
            tree.texts.push((name, text));
        }
        for (name, text) in &tree.texts {
            if name.starts_with("crates/") && name.ends_with(".rs") {
                let package = package_of(&tree.manifests, name);
                tree.sources.push(Source::parse(Path::new(name), package, text));
            }
        }
        Ok(tree)
    }

    /// Runs every check; what the exceptions cover is left out, what they cover no more is reported.
    #[must_use]
    pub fn violations(&self, exceptions: &[Exception]) -> Vec<Violation> {
        let mut found = Vec::new();
        manifests::check(self, &mut found);
        code::check(self, &mut found);
        words::check(self, &mut found);
        functions::check(self, &mut found);
        documents::check(self, &mut found);
        let mut left = exceptions::apply(found, exceptions);
        left.sort();
        left
    }
}

/// The package that a file belongs to: the one with the longest folder above it.
fn package_of<'a>(manifests: &'a [Manifest], file: &str) -> &'a str {
    manifests
        .iter()
        .filter(|m| m.path.strip_suffix("Cargo.toml").is_some_and(|folder| file.starts_with(folder)))
        .max_by_key(|m| m.path.len())
        .map_or("", |m| m.package.as_str())
}

/// Paths below `root` of the files that are tracked, or would be by `git add`.
fn files(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = crate::run::output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"], root)?;
    let mut paths: Vec<PathBuf> = listing.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Checks the repository at `root` and prints each violation.
///
/// # Errors
/// [`Error::Checks`] when a law is broken; or a file that cannot be read.
pub fn tidy(root: &Path) -> Result<(), Error> {
    let tree = Tree::read(root)?;
    let violations = tree.violations(EXCEPTIONS);
    for violation in &violations {
        println!("{violation}");
    }
    if violations.is_empty() {
        let (crates, files) = (tree.manifests.len(), tree.sources.len());
        println!("tidy: {crates} crates, {files} Rust files, no law broken");
        return Ok(());
    }
    Err(Error::Checks(format!("tidy: {} violations", violations.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_keeps_its_laws() {
        let tree = Tree::read(&crate::root()).expect("the tree can be read");
        assert!(tree.manifests.len() > 10 && tree.sources.len() > 10, "the tree was not found");
        let found = tree.violations(EXCEPTIONS);
        let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(listed.is_empty(), "{} violations:\n{}", listed.len(), listed.join("\n"));
    }

    #[test]
    fn a_file_belongs_to_the_innermost_crate() {
        let manifest = |path: &str, package: &str| Manifest {
            path: path.to_owned(),
            package: package.to_owned(),
            dependencies: Vec::new(),
            dev_dependencies: Vec::new(),
        };
        let all = [manifest("crates/store/Cargo.toml", "store"), manifest("crates/store/sqlite/Cargo.toml", "sqlite")];
        assert_eq!(package_of(&all, "crates/store/sqlite/src/lib.rs"), "sqlite");
        assert_eq!(package_of(&all, "crates/store/src/lib.rs"), "store");
    }
}

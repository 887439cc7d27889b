//! The directory of files, and why no row ever names a missing file.
//!
//! A file is written under its final name, which nobody knows yet; beside it stands an empty marker of the same name in
//! `unfinished/`. The row that names the file is committed once file and directory are durable, and only then the marker
//! goes. Deleting runs the other way: marker, row, file, marker. So after a crash at any moment each file without a row
//! has a marker, and opening the store deletes what is marked and has no row.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use store::Entropy;

/// Random bytes of a file name, which are written as twice as many hexadecimal digits.
const NAME_BYTES: usize = 16;

/// The name of a file: 32 lower-case hexadecimal digits, made by us and never taken from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileName(String);

impl FileName {
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        let mut bytes = [0_u8; NAME_BYTES];
        entropy.fill(&mut bytes);
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// From a stored row or a directory entry; `None` if it is no such name.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let valid = text.len() == 2 * NAME_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The directory. All calls block.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    files: Arc<Path>,
    unfinished: Arc<Path>,
    /// Folders of files whose own place has been made durable since the start.
    placed: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Directory {
    /// Opens the directory and makes what is missing of it.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let files = root.join("files");
        let unfinished = root.join("unfinished");
        fs::create_dir_all(&files)?;
        fs::create_dir_all(&unfinished)?;
        sync_directory(root)?;
        Ok(Self { files: files.into(), unfinished: unfinished.into(), placed: Arc::default() })
    }

    /// Creates an empty file and its marker.
    pub(crate) fn create(&self, name: &FileName) -> io::Result<File> {
        self.mark(name)?;
        match fs::create_dir(self.folder(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).open(self.path(name))
    }

    /// Returns once the file's bytes, its marker and its place would survive a power failure.
    pub(crate) fn make_durable(&self, name: &FileName, file: &File) -> io::Result<()> {
        file.sync_all()?;
        // The marker first: a file without one would stay for ever if its row never came. Where one journal serves the
        // whole file system, the first of these calls has written them all.
        sync_directory(&self.unfinished)?;
        let folder = self.folder(name);
        sync_directory(&folder)?;
        if !self.placed.lock().contains(&folder) {
            sync_directory(&self.files)?;
            self.placed.lock().insert(folder);
        }
        Ok(())
    }

    /// Opens a finished file for reading.
    pub(crate) fn read(&self, name: &FileName) -> io::Result<File> {
        File::open(self.path(name))
    }

    /// Marks files before the rows that name them are deleted; returns once the markers are durable.
    pub(crate) fn doom(&self, names: &[FileName]) -> io::Result<()> {
        names.iter().try_for_each(|name| self.mark(name))?;
        sync_directory(&self.unfinished)
    }

    /// Marks a file as one to delete unless a row names it.
    fn mark(&self, name: &FileName) -> io::Result<()> {
        File::create(self.unfinished.join(name.as_str())).map(drop)
    }

    /// Removes the marker of a file that a row names.
    pub(crate) fn settle(&self, name: &FileName) -> io::Result<()> {
        remove(&self.unfinished.join(name.as_str()))
    }

    /// Deletes a file that no row names, then its marker.
    pub(crate) fn discard(&self, name: &FileName) -> io::Result<()> {
        remove(&self.path(name))?;
        self.settle(name)
    }

    /// The marked files, with the time of marking in milliseconds since the epoch.
    pub(crate) fn marked(&self) -> io::Result<Vec<(FileName, i64)>> {
        let mut marked = Vec::new();
        for entry in fs::read_dir(&self.unfinished)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(FileName::from_text) else { continue };
            let age = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            marked.push((name, i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        }
        Ok(marked)
    }

    /// Names of the folders that files are spread over, as far as they exist.
    pub(crate) fn folders(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(&self.files)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    /// The files of a folder that are not marked: finished ones, as far as a row names them.
    pub(crate) fn unmarked(&self, folder: &Path) -> io::Result<Vec<FileName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().to_str().and_then(FileName::from_text);
            names.extend(name.filter(|name| !self.unfinished.join(name.as_str()).exists()));
        }
        Ok(names)
    }

    /// Files are spread over 256 folders, so that none of them grows unwieldy.
    fn folder(&self, name: &FileName) -> PathBuf {
        self.files.join(&name.as_str()[..2])
    }

    pub(crate) fn path(&self, name: &FileName) -> PathBuf {
        self.folder(name).join(name.as_str())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm7_file_names_are_hexadecimal_only() {
        assert!(FileName::from_text("0123456789abcdef0123456789abcdef").is_some());
        for text in ["", "..", "0123456789abcdef0123456789abcde", "0123456789ABCDEF0123456789abcdef"] {
            assert!(FileName::from_text(text).is_none(), "{text}");
        }
        assert!(FileName::from_text("../../../../../../../etc/passwd.").is_none());
    }
}

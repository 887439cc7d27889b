//! The key with which the server signs: a file in the data folder, made at the first start and never sent anywhere.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use event::SigningKey;
use store::Entropy;

/// The file's name.
const FILE: &str = "signing.key";

/// What it is called until all of it is on the disk.
const DRAFT: &str = "signing.key.new";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no signing key in the form `ed25519 VERSION SEED`")]
    Format {
        /// The file.
        path: String,
    },
}

/// Where the key of `data_dir` stands.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Reads the key of `data_dir`; `None` if there is no such file.
///
/// The form is `ed25519 VERSION SEED`, the seed in unpadded Base64: the one that other servers use too.
///
/// # Errors
/// If the file cannot be read or understood. An unreadable key is never replaced: peers would distrust us.
pub fn read(data_dir: &Path) -> Result<Option<SigningKey>, Error> {
    let path = path(data_dir);
    let Some(text) = text_of(&path)? else { return Ok(None) };
    warn_if_readable(&path);
    parse(&text).map(Some).ok_or_else(|| Error::Format { path: path.display().to_string() })
}

/// Reads the key that is to take the place of the one of `data_dir`; `None` if there is none, or half of one.
///
/// # Errors
/// If the file cannot be read.
pub fn read_draft(data_dir: &Path) -> Result<Option<SigningKey>, Error> {
    Ok(text_of(&data_dir.join(DRAFT))?.as_deref().and_then(parse))
}

/// Writes a key that is to take the place of the one of `data_dir`; returns once it is on the disk.
///
/// # Errors
/// If the file cannot be written.
pub fn write_draft(data_dir: &Path, key: &SigningKey) -> Result<(), Error> {
    let draft = data_dir.join(DRAFT);
    let written = draft_file(&draft, key).and_then(|()| File::open(data_dir)?.sync_all());
    written.map_err(|error| Error::File { path: draft.display().to_string(), error })
}

/// Gives the key of [`write_draft`] the place of the old one, which is gone then.
///
/// # Errors
/// If the file cannot be renamed.
pub fn place_draft(data_dir: &Path) -> Result<(), Error> {
    let placed = fs::rename(data_dir.join(DRAFT), path(data_dir)).and_then(|()| File::open(data_dir)?.sync_all());
    placed.map_err(|error| Error::File { path: path(data_dir).display().to_string(), error })
}

fn text_of(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::File { path: path.display().to_string(), error }),
    }
}

/// Makes the key of a `data_dir` that has none. If another process does the same at the same time, both get one key.
///
/// # Errors
/// If the file cannot be written, or holds something else meanwhile.
pub fn make(data_dir: &Path, entropy: &dyn Entropy) -> Result<SigningKey, Error> {
    let (path, key) = (path(data_dir), generate(entropy));
    match write(data_dir, &path, &key) {
        Ok(()) => Ok(key),
        Err(error) => match read(data_dir)? {
            Some(theirs) => Ok(theirs),
            None => Err(Error::File { path: path.display().to_string(), error }),
        },
    }
}

/// A new key, which no file holds.
pub fn generate(entropy: &dyn Entropy) -> SigningKey {
    let mut seed = [0_u8; 32];
    entropy.fill(&mut seed);
    SigningKey::generate(&seed)
}

fn parse(text: &str) -> Option<SigningKey> {
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    let mut words = line.split_whitespace();
    let (algorithm, version, seed) = (words.next()?, words.next()?, words.next()?);
    if algorithm != "ed25519" || words.next().is_some() {
        return None;
    }
    SigningKey::from_seed_b64(&format!("ed25519:{version}"), seed).ok()
}

/// Writes the file as a whole or not at all: half a key, left by a full disk, would stop every later start.
fn write(data_dir: &Path, path: &Path, key: &SigningKey) -> std::io::Result<()> {
    let draft = data_dir.join(DRAFT);
    draft_file(&draft, key)?;
    let placed = place(&draft, path);
    if placed.is_err() {
        drop(fs::remove_file(&draft));
    }
    placed?;
    File::open(data_dir)?.sync_all()
}

/// The file with the key in it, in place of what stands there.
fn draft_file(draft: &Path, key: &SigningKey) -> std::io::Result<()> {
    match fs::remove_file(draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    let version = key.key_id().trim_start_matches("ed25519:");
    let line = format!("ed25519 {version} {}\n", key.seed_b64());
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        drop(fs::remove_file(draft));
    }
    written
}

/// Gives the draft its name, and never takes that name from another process's key where the file system can tell.
fn place(draft: &Path, path: &Path) -> std::io::Result<()> {
    match fs::hard_link(draft, path) {
        Ok(()) => fs::remove_file(draft),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        // No links on this file system.
        Err(_) => fs::rename(draft, path),
    }
}

fn warn_if_readable(path: &Path) {
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others than the owner can read the signing key: `chmod 600` it");
    }
}

//! Backups: one folder with the database, the signing key and the media; made while the server runs, put back while it
//! does not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::Engine as _;

use crate::config::{Config, Database};
use crate::{keys, transfer};

/// Rows between two lines of progress.
const PROGRESS_ROWS: u64 = 50_000;

/// Names within a backup.
const DATABASE: &str = "hearth.db";
/// Where SQLite keeps what is not in the database file yet. A backup has none.
const LOG: &str = "hearth.db-wal";
/// Where a database grows until it is whole.
const DRAFT: &str = "unfinished";
const KEY: &str = "signing.key";
const MEDIA: &str = "media";

/// Why a backup or its way back failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Something stands where the copy should go.
    #[error("{0} exists and is not empty: name another folder")]
    Used(PathBuf),
    /// A database stands where the restored one should go.
    #[error("{0} exists: a restore replaces nothing")]
    Taken(PathBuf),
    /// The copy would copy itself.
    #[error("{0} lies within the media folder: name another folder")]
    Within(PathBuf),
    /// The folder is no backup.
    #[error("{0} holds no `hearth.db`: it is no backup")]
    NoBackup(PathBuf),
    /// The folder is one that a server works or worked on.
    #[error(
        "{0} is not empty: the folder is no finished backup, and without that file data would be lost; use `hearth backup`"
    )]
    Unfinished(PathBuf),
    /// The backup's signing key is no key.
    #[error("{0}: the backup is damaged")]
    Key(#[from] keys::Error),
    /// The backup has no signing key.
    #[error("{0} is missing: the folder is no finished backup")]
    NoKey(PathBuf),
    /// The backup is to go into PostgreSQL.
    #[error(
        "a backup is put into PostgreSQL in two steps: `hearth restore FOLDER --set database.url=sqlite:`, and then \
         `hearth migrate-database --set database.url=sqlite: --to postgres://…` into an empty database"
    )]
    Postgres,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |error| Error::File { path, error }
}

/// Makes a backup in the folder `to`, which must be new or empty. Blocks for long.
///
/// The database is copied first: media that comes later is not named in it, and media that it names is deleted by
/// nobody but users in the meantime.
///
/// # Errors
/// As [`Error`] says. An unfinished backup has no `hearth.db` or no `signing.key`.
pub fn backup(database: &sqlite::Sqlite, config: &Config, to: &Path, say: impl Fn(String)) -> Result<(), Error> {
    make_empty(to)?;
    refuse_within(to, &config.media_dir)?;
    let told = std::cell::Cell::new(0);
    database.backup(&to.join(DATABASE), |done, all| {
        let percent = (done * 100).checked_div(all).unwrap_or(100);
        if percent >= told.get() + 10 {
            told.set(percent);
            say(format!("database: {percent} %"));
        }
    })?;
    finish(config, to, say)
}

/// Begins a backup of a PostgreSQL database: copies it into a SQLite one in the folder `to`, which must be new or empty.
/// What is committed meanwhile, by whichever node, is not in it.
///
/// # Errors
/// As [`Error`] says.
pub async fn begin_from_postgres(
    database: &postgres::Postgres,
    config: &Config,
    to: &Path,
    mut say: impl FnMut(String),
) -> Result<(), Error> {
    make_empty(to)?;
    refuse_within(to, &config.media_dir)?;
    let snapshot = database.snapshot().await?;
    let draft = to.join(DRAFT);
    make_empty(&draft)?;
    let copy = Arc::new(sqlite::Sqlite::open(&draft.join(DATABASE), sqlite::Options::default())?);
    let (mut current, mut told) = (String::new(), 0);
    let copied = transfer::copy(&snapshot, copy.as_ref(), |table, rows| {
        if table != current || rows >= told + PROGRESS_ROWS {
            (current, told) = (table.to_owned(), rows);
            say(format!("{table}: {rows} rows"));
        }
    })
    .await;
    drop(snapshot);
    // Checked, as one file, and under its name only when it is whole.
    let placed = match copied {
        Ok(_) => {
            let (copy, to) = (Arc::clone(&copy), to.join(DATABASE));
            let placing = tokio::task::spawn_blocking(move || copy.backup(&to, |_, _| {}));
            placing.await.unwrap_or(Err(store::Error::Closed))
        }
        Err(error) => Err(error),
    };
    copy.close().await;
    fs::remove_dir_all(&draft).map_err(failed(&draft))?;
    placed.map_err(Error::from)
}

/// Adds media and key to a backup that has its database.
///
/// # Errors
/// As [`Error`] says.
pub fn finish(config: &Config, to: &Path, say: impl Fn(String)) -> Result<(), Error> {
    let files = copy_folder(&config.media_dir, &to.join(MEDIA))?;
    say(format!("media: {files} files"));
    copy_file(&config.data_dir.join(KEY), &to.join(KEY))?;
    say(format!("The backup stands in {}. It holds secrets: keep it as safe as the server.", to.display()));
    Ok(())
}

/// Puts a backup into the data folder of `config`, which must not hold a database yet, and prepares it to be served.
///
/// # Errors
/// As [`Error`] says.
pub fn restore(backup: &Path, config: &Config, say: impl Fn(String)) -> Result<(), Error> {
    let Database::Sqlite(database) = &config.database else { return Err(Error::Postgres) };
    if !backup.join(DATABASE).is_file() {
        return Err(Error::NoBackup(backup.to_owned()));
    }
    let log = backup.join(LOG);
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(Error::Unfinished(log));
    }
    if keys::read(backup)?.is_none() {
        return Err(Error::NoKey(keys::path(backup)));
    }
    if database.exists() {
        return Err(Error::Taken(database.clone()));
    }
    make_empty(&config.data_dir)?;
    copy_file(&backup.join(KEY), &config.data_dir.join(KEY))?;
    let files = copy_folder(&backup.join(MEDIA), &config.media_dir)?;
    say(format!("media: {files} files"));
    let restored = restore_database(&backup.join(DATABASE), database)?;
    say(format!("database: positions go on from {}, tokens are of epoch {}", restored.counter, restored.token_epoch));
    say(format!("Restored into {}. Never run this server and the one it was copied from.", config.data_dir.display()));
    Ok(())
}

/// Copies and prepares the database under another name: nobody may serve half of it, or give its positions twice.
fn restore_database(from: &Path, to: &Path) -> Result<sqlite::backup::Restored, Error> {
    let beside = |suffix: &str| {
        let mut path = to.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    let draft = beside(".restoring");
    copy_file(from, &draft)?;
    let restored = sqlite::prepare_restored(&draft)?;
    // The log of a database that stood here once would be taken for this one's.
    for left in [beside(".restoring.lock"), beside("-wal"), beside("-shm"), beside("-journal")] {
        match fs::remove_file(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&left)(error)),
            _ => {}
        }
    }
    fs::rename(&draft, to).map_err(failed(to))?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
    Ok(restored)
}

fn make_empty(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    match fs::read_dir(folder).map_err(failed(folder))?.next() {
        Some(_) => Err(Error::Used(folder.to_owned())),
        None => Ok(()),
    }
}

fn refuse_within(folder: &Path, media: &Path) -> Result<(), Error> {
    match (folder.canonicalize(), media.canonicalize()) {
        (Ok(within), Ok(media)) if within.starts_with(&media) => Err(Error::Within(folder.to_owned())),
        _ => Ok(()),
    }
}

/// Copies a file with its permissions, and waits until it is on the disk.
fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map_err(|error| {
        let path = format!("{} to {}", from.display(), to.display());
        Error::File { path, error }
    })?;
    fs::File::open(to).and_then(|file| file.sync_all()).map_err(failed(to))
}

/// Copies a folder and all below it; answers the number of files. A folder that does not exist is empty.
fn copy_folder(from: &Path, to: &Path) -> Result<u64, Error> {
    if !from.exists() {
        return Ok(0);
    }
    fs::create_dir_all(to).map_err(failed(to))?;
    let mut files = 0;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files += copy_folder(&from, &to)?,
            Ok(_) => match copy_file(&from, &to) {
                // Deleted by its user in the meantime.
                Err(Error::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other?;
                    files += 1;
                }
            },
            Err(error) => return Err(failed(&from)(error)),
        }
    }
    fs::File::open(to).and_then(|folder| folder.sync_all()).map_err(failed(to))?;
    Ok(files)
}

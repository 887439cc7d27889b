//! Backups while the server runs, and what a restored database needs before it is served.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use store::tables::core::{CounterRow, JobRow, LOST_POSITIONS, LostPositions, MetaRow};
use store::{Error, Row};

use crate::lock::{self, Lock};
use crate::{errors, open, schema};

/// Pages copied between two looks at what else goes on.
const PAGES_PER_STEP: i32 = 1_000;
/// The log cannot be emptied while a backup holds its snapshot: a backup that makes it grow beyond this ends.
const LOG_BYTES_MAX: u64 = 4 << 30;
/// Disk space next to the database below which a backup ends, so that the log keeps room to grow.
#[cfg(unix)]
const FREE_BYTES_MIN: u64 = 128 << 20;
/// How far a restore moves the counter at least: beyond all that the lost future may have given.
const COUNTER_JUMP: i64 = 1 << 40;
/// And so much further for each second since 1970: if one backup is restored twice, the second server's positions begin
/// after all that the first one gave meanwhile. (SQLite tells the time: a restore runs alone and is given no clock.) 2,500
/// restores fit below 2^53.
const POSITIONS_PER_SECOND: i64 = 1_000;
/// The kind of the jobs that [`prepare_restored`] leaves.
pub const AFTER_RESTORE: &str = "after_restore";
/// What must be done once after a restore, before or while the database is served: names of the jobs left.
pub const RESTORE_JOBS: [&str; 3] = ["drop_one_time_keys", "mark_device_lists_stale", "new_transaction_ids_to_peers"];

/// What [`prepare_restored`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The counter of positions now.
    pub counter: i64,
    /// The epoch of tokens now.
    pub token_epoch: i64,
}

/// Copies the database at `from` to the file `to`; see [`crate::Sqlite::backup`].
pub(crate) fn copy(from: &Path, vfs: Option<&str>, to: &Path, progress: impl Fn(u64, u64)) -> Result<(), Error> {
    let draft = lock::beside(to, ".partial");
    remove(&draft)?;
    let copied = copy_pages(from, vfs, &draft, progress).and_then(|()| check(&draft));
    let placed = copied.and_then(|()| {
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        open::put_in_place(&draft, to, directory)
    });
    if placed.is_err() {
        drop(remove(&draft));
    }
    placed
}

fn remove(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let path = lock::beside(path, suffix);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(errors::io(&format!("remove {}", path.display()), &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn copy_pages(from: &Path, vfs: Option<&str>, to: &Path, progress: impl Fn(u64, u64)) -> Result<(), Error> {
    let source = open::connect(from, vfs)?;
    source.pragma_update(None, "query_only", true).map_err(errors::engine)?;
    // The snapshot: without it, every commit would start the copy anew.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(errors::engine)?;
    let mut target = open::connect(to, None)?;
    open::for_owner_only(to)?;
    target.execute_batch("PRAGMA synchronous = OFF").map_err(errors::engine)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(errors::engine)?;
        loop {
            let step = backup.step(PAGES_PER_STEP).map_err(errors::engine)?;
            let at = backup.progress();
            let all = u64::try_from(at.pagecount).unwrap_or(0);
            progress(all.saturating_sub(u64::try_from(at.remaining).unwrap_or(0)), all);
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(Error::Engine("another program holds the backup's files".to_owned())),
            }
            room_left(from)?;
        }
    }
    source.execute_batch("COMMIT").map_err(errors::engine)?;
    Ok(())
}

/// Whether the log still has room to grow while the snapshot is held.
fn room_left(database: &Path) -> Result<(), Error> {
    let log = std::fs::metadata(lock::beside(database, "-wal")).map_or(0, |metadata| metadata.len());
    if log > LOG_BYTES_MAX {
        return Err(Error::Unusable(format!(
            "the backup was given up: the database's log grew beyond {} MiB meanwhile; try when there is less to do",
            LOG_BYTES_MAX >> 20
        )));
    }
    #[cfg(unix)]
    if let Ok(status) = rustix::fs::statvfs(database)
        && status.f_bavail.saturating_mul(status.f_frsize) < FREE_BYTES_MIN
    {
        return Err(Error::DiskFull);
    }
    Ok(())
}

/// Makes the copy one self-contained file and has SQLite check it.
fn check(copy: &Path) -> Result<(), Error> {
    let connection = open::connect(copy, None)?;
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(errors::engine)?;
    let verdict = quick_check(&connection).map_err(errors::engine)?;
    connection.close().map_err(|(_, error)| errors::engine(error))?;
    if verdict != "ok" {
        return Err(Error::Unusable(format!(
            "the copy did not pass its check ({verdict}): the database itself may be damaged; keep earlier backups"
        )));
    }
    Ok(())
}

/// SQLite's own check of a file: `ok`, or the first thing found wrong.
pub(crate) fn quick_check(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
}

/// Makes a database that was put back from a backup fit to be served: positions go on far beyond those that the lost
/// future gave, tokens get a new epoch, and a job per name of [`RESTORE_JOBS`] tells the rooms above what they must do
/// (one-time keys that were claimed since must not be claimed again). Call it once per restore, before opening.
///
/// # Errors
/// [`Error::Unusable`] if the file is no database of ours or in use, else as the engine says.
pub fn prepare_restored(path: &Path) -> Result<Restored, Error> {
    let _held = Lock::take(path)?;
    open::require_ours(path)?;
    let connection = open::connect(path, None)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(errors::engine)?;
    let mut restored = Restored { counter: 0, token_epoch: 0 };
    schema::in_transaction(&connection, |connection| {
        let before = counter(connection)?;
        restored = Restored { counter: jump(connection)?, token_epoch: raise_epoch(connection)? };
        remember_lost(connection, before, restored.counter)?;
        leave_jobs(connection)
    })?;
    connection.close().map_err(|(_, error)| errors::engine(error))?;
    Ok(restored)
}

fn jump(connection: &Connection) -> rusqlite::Result<i64> {
    let text = format!(
        "INSERT INTO {} (id, pos) VALUES (1, ?1 + unixepoch() * ?2) ON CONFLICT (id) \
         DO UPDATE SET pos = pos + excluded.pos RETURNING pos",
        CounterRow::TABLE.name
    );
    connection.query_row(&text, [COUNTER_JUMP, POSITIONS_PER_SECOND], |row| row.get(0))
}

fn counter(connection: &Connection) -> rusqlite::Result<i64> {
    let text = format!("SELECT coalesce(max(pos), 0) FROM {}", CounterRow::TABLE.name);
    connection.query_row(&text, [], |row| row.get(0))
}

/// Remembers which positions the lost future may have given: by them, tokens of that future are known.
fn remember_lost(connection: &Connection, before: i64, now: i64) -> rusqlite::Result<()> {
    let read = format!("SELECT coalesce(max(value), '') FROM {} WHERE name = ?1", MetaRow::TABLE.name);
    let known: String = connection.query_row(&read, [LOST_POSITIONS], |row| row.get(0))?;
    let mut lost = LostPositions::parse(&known);
    lost.add(before, now);
    let write = format!("INSERT OR REPLACE INTO {} (name, value) VALUES (?1, ?2)", MetaRow::TABLE.name);
    connection.execute(&write, (LOST_POSITIONS, lost.to_string())).map(drop)
}

fn raise_epoch(connection: &Connection) -> rusqlite::Result<i64> {
    let text = format!(
        "INSERT INTO {} (name, value) VALUES ('token_epoch', '1') ON CONFLICT (name) \
         DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) RETURNING CAST(value AS INTEGER)",
        MetaRow::TABLE.name
    );
    connection.query_row(&text, [], |row| row.get(0))
}

fn leave_jobs(connection: &Connection) -> rusqlite::Result<()> {
    let text = format!(
        "INSERT OR REPLACE INTO {} (kind, name, cursor, due_ms, failures) VALUES (?1, ?2, '', 0, 0)",
        JobRow::TABLE.name
    );
    RESTORE_JOBS.iter().try_for_each(|name| connection.execute(&text, (AFTER_RESTORE, name)).map(drop))
}

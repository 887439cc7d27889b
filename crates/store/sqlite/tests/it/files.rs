//! What opening does with files that are not, or not quite, ours.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use sqlite::schema::{Migration, Schema};
use sqlite::{Options, Sqlite};
use store::tables::core::{JobRow, ReaderRow};
use store::{Engine, Error};

use crate::support::{numbered, numbers, open, rows};

/// Opening fails, says `wanted`, and leaves the file as it was.
fn refused(path: &Path, options: Options, wanted: &str) {
    let before = std::fs::read(path).ok();
    match Sqlite::open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(Error::Unusable(text)) => assert!(text.contains(wanted), "{text}"),
        Err(error) => panic!("{error:?}"),
    }
    assert_eq!(std::fs::read(path).ok(), before, "the file was touched");
}

#[test]
fn foreign_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"dear diary").unwrap();
    refused(&path, Options::default(), "some other file");
    std::fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refused(&path, Options::default(), "another program");
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"], "nothing is left beside it");
    refused(directory.path(), Options::default(), "not a file");
    refused(&directory.path().join("no").join("file"), Options::default(), "create it");
    let fresh = directory.path().join("fresh");
    std::fs::write(directory.path().join("fresh-wal"), b"log").unwrap();
    refused(&fresh, Options::default(), "its log");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let engine = open(&path);
    engine.submit(numbered(1, 10)).await.unwrap();
    engine.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(3_000);
    bytes[200..].fill(0x5A);
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(Sqlite::open(&path, Options::default()), Err(Error::Unusable(_))));
}

#[tokio::test]
async fn an_empty_file_and_a_crashed_creation_become_databases() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    std::fs::write(&path, b"").unwrap();
    std::fs::write(directory.path().join("hearth.db.new"), b"SQLite format 3\0 and half a header").unwrap();
    let engine = open(&path);
    engine.submit(numbered(1, 10)).await.unwrap();
    assert_eq!(numbers(&engine).await, 1);
}

#[tokio::test]
async fn one_at_a_time_uses_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    let engine = open(&path);
    engine.submit(numbered(1, 10)).await.unwrap();
    assert!(
        matches!(Sqlite::open(&path, Options::default()), Err(Error::Unusable(text)) if text.contains("another process"))
    );
    engine.submit(numbered(2, 10)).await.unwrap();
    engine.close().await;
    // A lock file that nobody holds, as kill -9 leaves it.
    assert!(directory.path().join("hearth.db.lock").exists());
    let engine = open(&path);
    assert_eq!(numbers(&engine).await, 2);
    engine.close().await;
    // Another process that holds the lock.
    let lock = directory.path().join("hearth.db.lock");
    let Ok(mut child) = Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo held; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
    else {
        return;
    };
    let mut line = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert!(matches!(Sqlite::open(&path, Options::default()), Err(Error::Unusable(_))));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn newer_versions_are_refused_unless_they_say_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    open(&path).close().await;
    let set = |version: i64, compat: i64| {
        Connection::open(&path)
            .unwrap()
            .execute("UPDATE schema SET version = ?1, compat_version = ?2", (version, compat))
            .unwrap();
    };
    set(99, 98);
    refused(&path, Options::default(), "newer version");
    set(99, 1);
    open(&path).close().await;
    set(0, 0);
    assert!(matches!(Sqlite::open(&path, Options::default()), Err(Error::Unusable(text)) if text.contains("no way")));
}

#[tokio::test]
async fn a_table_with_other_columns_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    open(&path).close().await;
    Connection::open(&path).unwrap().execute_batch("ALTER TABLE meta ADD COLUMN extra TEXT").unwrap();
    assert!(matches!(Sqlite::open(&path, Options::default()), Err(Error::Unusable(text)) if text.contains("meta")));
}

/// Two steps: a column more, then its content.
const STEPS: &[Migration] = &[
    Migration {
        to: 2,
        run: |connection| connection.execute_batch("ALTER TABLE readers ADD COLUMN done INTEGER NOT NULL DEFAULT 5"),
    },
    Migration {
        to: 3,
        run: |connection| connection.execute("UPDATE readers SET done = done + owner_epoch", []).map(drop),
    },
];

const FAILING: &[Migration] = &[
    Migration {
        to: 2,
        run: |connection| connection.execute_batch("ALTER TABLE readers ADD COLUMN done INTEGER NOT NULL DEFAULT 5"),
    },
    Migration { to: 3, run: |connection| connection.execute_batch("DELETE FROM readers; SELECT * FROM nowhere") },
];

fn schema(version: i64, migrations: &'static [Migration]) -> Options {
    Options {
        schema: Schema { version, compat_version: version, migrations, ..Schema::current() },
        ..Options::default()
    }
}

/// A database of version 1 of another history: without the column, without the jobs.
async fn older(path: &Path) {
    let engine = Sqlite::open(path, schema(1, &[])).unwrap();
    engine.submit(numbered(1, 10)).await.unwrap();
    engine.close().await;
    Connection::open(path).unwrap().execute_batch("ALTER TABLE readers DROP COLUMN done; DROP TABLE jobs").unwrap();
}

#[tokio::test]
async fn an_older_version_is_brought_up_after_a_backup() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    older(&path).await;
    let engine = Sqlite::open(&path, schema(3, STEPS)).unwrap();
    let read = store::Read::prefix::<ReaderRow>(Vec::new());
    let row: ReaderRow = engine.read(vec![read]).await.unwrap().remove(0).one().unwrap().unwrap();
    assert_eq!((row.done, row.owner_epoch), (6, 1));
    assert_eq!(rows::<JobRow>(&engine).await, 0, "a missing table is made");
    engine.close().await;
    // Once is enough.
    Sqlite::open(&path, schema(3, STEPS)).unwrap().close().await;
    refused(&path, schema(2, STEPS), "newer version");
    let backup = Connection::open(directory.path().join("hearth.db.before-v3")).unwrap();
    let version: i64 = backup.query_row("SELECT version FROM schema", [], |row| row.get(0)).unwrap();
    let readers: i64 = backup.query_row("SELECT count(*) FROM readers", [], |row| row.get(0)).unwrap();
    assert_eq!((version, readers), (1, 1), "the backup is of before");
}

#[tokio::test]
async fn a_failed_step_leaves_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.db");
    older(&path).await;
    assert!(Sqlite::open(&path, schema(3, FAILING)).is_err());
    let connection = Connection::open(&path).unwrap();
    let version: i64 = connection.query_row("SELECT version FROM schema", [], |row| row.get(0)).unwrap();
    let readers: i64 = connection.query_row("SELECT count(*) FROM readers", [], |row| row.get(0)).unwrap();
    assert_eq!((version, readers), (2, 1));
    drop(connection);
    let engine = Sqlite::open(&path, schema(3, STEPS)).unwrap();
    assert_eq!(rows::<ReaderRow>(&engine).await, 1);
}

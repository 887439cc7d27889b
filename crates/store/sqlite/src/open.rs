//! Opening a database: what is there, whether it is ours, and the threads that serve it.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use store::tables::core::CounterRow;
use store::{Error, Notifier, Row, StreamPosition};

use crate::lock::{self, Lock};
use crate::reader::{Quick, Reader};
use crate::writer::{self, BUSY_PATIENCE, Fatal, Writer};
use crate::{
    Job, LogPolicy, OnFatal, OnGroup, Options, QUEUE_BATCHES_MAX, QUEUE_READS_MAX, SQLITE_VERSION_MIN, Shared, Sqlite,
    Waiting, errors, reader, schema,
};

/// Bytes of a database file's header.
const HEADER_BYTES: usize = 100;
/// What each SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Where `application_id` stands in the header.
const APPLICATION_ID_AT: std::ops::Range<usize> = 68..72;
/// Bytes to which the log is cut when it is emptied.
const LOG_BYTES_KEPT: i64 = 64 << 20;

pub(crate) fn open(path: &Path, options: Options) -> Result<Sqlite, Error> {
    let linked = rusqlite::version_number();
    if linked < SQLITE_VERSION_MIN {
        return Err(Error::Unusable(format!(
            "this program is linked with SQLite {}, which can lose data: it needs 3.51.3 or later",
            rusqlite::version()
        )));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    lock::refuse_network(directory)?;
    if !directory.is_dir() {
        return Err(Error::Unusable(format!("the directory {} does not exist: create it", directory.display())));
    }
    // Before the file is looked at: to close it again would drop what locks SQLite has on it elsewhere in this process.
    let held = Lock::take(path)?;
    match identify(path) {
        Ok(Found::Ours) => {}
        Ok(Found::Nothing) => create(path, directory, &options)?,
        Err(error) => {
            held.withdraw();
            return Err(error);
        }
    }
    let vfs = options.vfs.as_deref();
    let connection = connect(path, vfs)?;
    prepare_writer(&connection, options.cache_bytes / 2).map_err(|error| unusable(path, &error))?;
    options.schema.bring_up(&connection, path, vfs)?;
    let end = counter(&connection).map_err(errors::engine)?;
    let shared = Arc::new(Shared {
        notifier: Notifier::new(StreamPosition(end)),
        ended: OnceLock::new(),
        closing: AtomicBool::new(false),
        unread: AtomicBool::new(false),
        queued_bytes: AtomicUsize::new(0),
    });
    let (jobs, queue) = flume::bounded(QUEUE_BATCHES_MAX);
    let (reads, read_queue) = flume::bounded(QUEUE_READS_MAX);
    let readers = options.readers.max(1);
    let n_quick = readers.div_ceil(2);
    let cache_bytes = options.cache_bytes / 2 / (readers + n_quick);
    let connect_reader = || {
        let connection = connect(path, vfs)?;
        prepare_reader(&connection, cache_bytes).map_err(|error| unusable(path, &error))?;
        Ok::<_, Error>(connection)
    };
    let mut threads = Vec::new();
    for _ in 0..readers {
        let reader = Reader::new(connect_reader()?, options.read_time_max).map_err(|error| unusable(path, &error))?;
        threads.push(spawn_reader(reader, read_queue.clone(), shared.clone())?);
    }
    let mut quick = Vec::new();
    for _ in 0..n_quick {
        let reader = Quick::new(connect_reader()?).map_err(|error| unusable(path, &error))?;
        quick.push(Mutex::new(Some(reader)));
    }
    let life = Life { connection, queue: queue.clone(), shared: shared.clone(), held };
    threads.push(spawn_writer(life, options.on_group, options.log, options.on_fatal)?);
    let vfs = options.vfs;
    let waiting = Waiting { jobs: queue, reads: read_queue };
    Ok(Sqlite { path: path.to_owned(), vfs, shared, jobs, reads, quick, waiting, threads: Mutex::new(threads) })
}

/// What stands at a path.
enum Found {
    /// Nothing, or an empty file.
    Nothing,
    /// A database of ours.
    Ours,
}

/// Looks at a file without letting SQLite touch it.
fn identify(path: &Path) -> Result<Found, Error> {
    let foreign = |what: &str| {
        Err(Error::Unusable(format!(
            "{} is {what}, not a database of this server: move it away, or name another path",
            path.display()
        )))
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return nothing(path),
        Err(error) => return Err(errors::io(&format!("open {}", path.display()), &error)),
    };
    if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return foreign("not a file");
    }
    let mut header = Vec::new();
    file.take(HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(|error| errors::io(&format!("read {}", path.display()), &error))?;
    if header.is_empty() {
        return nothing(path);
    }
    if !header.starts_with(MAGIC) {
        return foreign("some other file");
    }
    if header.get(APPLICATION_ID_AT) != Some(&schema::APPLICATION_ID.to_be_bytes()) {
        return foreign("the SQLite database of another program");
    }
    Ok(Found::Ours)
}

/// Refuses anything but a database of ours.
pub(crate) fn require_ours(path: &Path) -> Result<(), Error> {
    match identify(path)? {
        Found::Ours => Ok(()),
        Found::Nothing => Err(Error::Unusable(format!("there is no database at {}", path.display()))),
    }
}

/// A log without its database must not be played into a new one.
fn nothing(path: &Path) -> Result<Found, Error> {
    let log = lock::beside(path, "-wal");
    if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > 0) {
        return Err(Error::Unusable(format!(
            "{} is missing but its log {} is there: put both back, or move the log away to start anew",
            path.display(),
            log.display()
        )));
    }
    Ok(Found::Nothing)
}

/// Makes the database beside its place and renames it there, so that no crash leaves half of one.
fn create(path: &Path, directory: &Path, options: &Options) -> Result<(), Error> {
    let draft = lock::beside(path, ".new");
    for leftover in [draft.clone(), lock::beside(&draft, "-journal")] {
        match std::fs::remove_file(&leftover) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(errors::io(&format!("remove {}", leftover.display()), &error));
            }
            _ => {}
        }
    }
    let connection = connect(&draft, options.vfs.as_deref())?;
    connection.execute_batch("PRAGMA page_size = 4096; PRAGMA synchronous = FULL").map_err(errors::engine)?;
    for_owner_only(&draft)?;
    schema::in_transaction(&connection, |connection| options.schema.create(connection))?;
    connection.close().map_err(|(_, error)| errors::engine(error))?;
    put_in_place(&draft, path, directory)
}

/// A database holds secrets. SQLite gives its other files the same permissions.
pub(crate) fn for_owner_only(path: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|error| errors::io(&format!("set the permissions of {}", path.display()), &error))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Makes the file `from` durable and gives it its name.
pub(crate) fn put_in_place(from: &Path, to: &Path, directory: &Path) -> Result<(), Error> {
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    sync(from)
        .and_then(|()| std::fs::rename(from, to))
        .and_then(|()| sync(directory))
        .map_err(|error| errors::io(&format!("put {} in place", to.display()), &error))
}

/// A connection to the file.
pub(crate) fn connect(path: &Path, vfs: Option<&str>) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }
    .map_err(|error| unusable(path, &error))?;
    connection.busy_timeout(BUSY_PATIENCE).map_err(errors::engine)?;
    // Else each new limit or bound has its statement prepared anew, for a better plan that never comes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(errors::engine)?;
    connection
        .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY")
        .map_err(|error| unusable(path, &error))?;
    Ok(connection)
}

fn prepare_writer(connection: &Connection, cache_bytes: usize) -> rusqlite::Result<()> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode is {mode}, not WAL")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |_| Ok(()))?;
    set_cache(connection, cache_bytes)
}

fn prepare_reader(connection: &Connection, cache_bytes: usize) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "query_only", true)?;
    set_cache(connection, cache_bytes)
}

fn set_cache(connection: &Connection, bytes: usize) -> rusqlite::Result<()> {
    // Negative: in KiB, not in pages.
    let kibibytes = i64::try_from(bytes >> 10).unwrap_or(i64::MAX).max(64);
    connection.pragma_update(None, "cache_size", -kibibytes)
}

fn counter(connection: &Connection) -> rusqlite::Result<i64> {
    let text = format!("SELECT coalesce(max(pos), 0) FROM {}", CounterRow::TABLE.name);
    connection.query_row(&text, [], |row| row.get(0))
}

fn unusable(path: &Path, error: &rusqlite::Error) -> Error {
    match errors::code(error) {
        Some(rusqlite::ErrorCode::DiskFull) => Error::DiskFull,
        _ => Error::Unusable(format!(
            "the database {} cannot be opened ({error}): check its permissions and the disk, or restore a backup",
            path.display()
        )),
    }
}

fn spawn_reader(
    reader: Reader,
    queue: flume::Receiver<reader::Job>,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name("store-reader".to_owned())
        .spawn(move || reader.run(&queue, &shared))
        .map_err(|error| errors::io("start a reader thread", &error))
}

/// What the writer's thread owns; the lock is let go last.
struct Life {
    connection: Connection,
    queue: flume::Receiver<Job>,
    shared: Arc<Shared>,
    held: Lock,
}

fn spawn_writer(
    life: Life,
    on_group: Option<OnGroup>,
    log: LogPolicy,
    on_fatal: Option<OnFatal>,
) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || write_until_end(life, on_group, log, on_fatal))
        .map_err(|error| errors::io("start the writer thread", &error))
}

fn write_until_end(life: Life, on_group: Option<OnGroup>, log: LogPolicy, on_fatal: Option<OnFatal>) {
    let Life { connection, queue, shared, held } = life;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        Writer::new(&connection, &queue, &shared, on_group, log).map_err(|error| Fatal(error.to_string()))?.run()
    }));
    let fatal = match ended {
        Ok(Ok(())) => None,
        Ok(Err(Fatal(detail))) => Some(detail),
        Err(panic) => Some(format!("the thread that writes the database panicked: {}", panic_text(panic.as_ref()))),
    };
    let error = fatal.clone().map_or(Error::Closed, Error::Unusable);
    drop(shared.ended.set(error));
    // What is sent after this is refused by who sends it.
    writer::refuse_rest(&queue, &shared);
    if let Some(detail) = fatal {
        tracing::error!(%detail, "the database can no longer be written");
        if let Some(on_fatal) = on_fatal {
            on_fatal();
        }
    }
    drop(connection);
    drop(held);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

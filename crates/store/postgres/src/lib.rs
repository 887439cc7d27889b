//! The engine on PostgreSQL: several nodes share one database, and each sees the commits of all in one order.
//!
//! One task writes ([`writer`]), one publishes ([`publisher`]), one whispers ([`whisperer`]), a pool reads ([`reader`]). Tables, keys and reads are
//! those of the storage contract; this crate knows nothing of Matrix. Text is stored in collation `C`, so that it orders
//! bytewise, and without NUL ([`text`]).
//!
//! All nodes talk to the one primary, each connection to a server process of its own: a pooler between them must pool by
//! session. Of each node, one connection writes, one listens, one whispers, one imports, and up to [`Options::readers`] read.

mod connection;
mod params;
mod publisher;
mod reader;
mod route;
mod schema;
mod snapshot;
mod sql;
mod text;
mod whisperer;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use store::{
    CommitBatch, CommitError, Engine, Error, Notifier, Read, Rows, StreamPosition, Table, Ticket, Value, Whispers,
    merge,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::{Backoff, Connection, Fault, Hints};
use crate::params::key_arrays;
use crate::publisher::Publisher;
use crate::reader::Pool;
use crate::route::Route;
pub use crate::snapshot::Snapshot;
use crate::sql::Insertion;
use crate::whisperer::Whisperer;
use crate::writer::{Job, Writer};

/// The most batches that wait for the writer.
const QUEUE_MAX: usize = 100_000;

/// The most groups that wait to be published.
const SETTLED_MAX: usize = 64;

/// The most rows of one statement of an import.
const IMPORT_ROWS_MAX: usize = 1_000;

/// How long one statement of an import may take.
const IMPORT_WAIT: Duration = Duration::from_secs(120);

/// How long closing waits for what is queued.
const CLOSE_WAIT: Duration = Duration::from_secs(60);

/// The most characters of a writer's given name that its full name keeps.
const NAME_MAX: usize = 20;

/// How our connections are called, for those who look at the database; writers go by names of their own, which begin so.
const APPLICATION: &str = "hearth";

/// How the engine is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of reading connections, opened as needed. Three more are used for writing, listening and whispering.
    pub readers: usize,
    /// The node's name, for those who look at the database; a random part is added.
    pub writer: String,
    /// How long reads and the first connection try again when PostgreSQL is away.
    pub patience: Duration,
    /// How long PostgreSQL may take for one round trip of a commit before its connection counts as lost.
    pub commit_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            readers: 8,
            writer: "hearth".to_owned(),
            patience: Duration::from_secs(10),
            commit_wait: Duration::from_secs(30),
        }
    }
}

/// A PostgreSQL database, as one node uses it.
pub struct Postgres {
    route: Route,
    patience: Duration,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    tasks: Mutex<Option<Tasks>>,
    whispers: Arc<Whispers>,
    pool: Arc<Pool>,
    notifier: Arc<Notifier>,
    importing: tokio::sync::Mutex<Option<Connection>>,
}

/// What runs beside the requests.
struct Tasks {
    writer: JoinHandle<()>,
    publisher: JoinHandle<()>,
    whisperer: JoinHandle<()>,
}

impl Postgres {
    /// Opens the database at a `postgres://` URL and creates the schema if the database is empty. Several nodes may do
    /// so at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the address or the database cannot be used as it is; [`Error::Unavailable`] if PostgreSQL
    /// does not answer.
    pub async fn open(url: &str, options: Options) -> Result<Self, Error> {
        let route = Route::parse(url)?.named(APPLICATION);
        let deadline = Instant::now() + options.patience;
        let mut connection = Connection::open_by(&route, deadline).await.map_err(Fault::into_error)?;
        let end = schema::prepare(&mut connection).await?;
        let name = unique_name(&mut connection, &options.writer).await?;
        let notifier = Arc::new(Notifier::new(StreamPosition(end)));
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let (whispers, texts) = Whispers::new();
        let hints = Hints {
            told: Arc::new(watch::Sender::new(0)),
            own: Arc::default(),
            own_mouth: Arc::default(),
            whispers: Arc::new(whispers),
        };
        let whispers = Arc::clone(&hints.whispers);
        let whisperer = Whisperer { route: route.clone(), texts, hints: hints.clone(), connection: None };
        let (writer, publisher) = start(&route, &options, name, jobs, Arc::clone(&notifier), hints);
        let tasks = Tasks { writer, publisher, whisperer: tokio::spawn(whisperer.run()) };
        Ok(Self {
            pool: Arc::new(Pool::new(route.clone(), options.readers, options.patience)),
            route,
            whispers,
            patience: options.patience,
            queue: Mutex::new(Some(queue)),
            tasks: Mutex::new(Some(tasks)),
            notifier,
            importing: tokio::sync::Mutex::new(Some(connection)),
        })
    }

    /// How many connections others have to a database that are a Hearth's: of nodes that serve, and of commands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL does not answer; [`Error::Unusable`] for an address that cannot be used.
    pub async fn connections_of_others(url: &str) -> Result<i64, Error> {
        let route = Route::parse(url)?.named(&format!("{APPLICATION} looks"));
        let deadline = Instant::now() + Options::default().patience;
        let mut connection = Connection::open_by(&route, deadline).await.map_err(Fault::into_error)?;
        schema::connections_of_others(&mut connection, APPLICATION).await
    }

    /// The database as it is now, to be read for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        Snapshot::take(&self.route).await
    }

    /// Imports in one transaction, and again from the start if it was cut short: writing the same rows twice changes
    /// nothing. Unique values may change places, so when they are in the way, rows are deleted before they are written.
    async fn import_rows(&self, table: &'static Table, rows: &[&[Value]]) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience;
        let mut backoff = Backoff::new();
        let mut thorough = false;
        loop {
            let mut slot = self.importing.lock().await;
            match self.import_once(&mut slot, table, rows, thorough).await {
                Ok(()) => return Ok(()),
                Err(Fault::Lost(_) | Fault::Busy(_)) if Instant::now() < deadline => {
                    *slot = None;
                    backoff.pause().await;
                }
                Err(fault) => {
                    // A connection in a failed transaction is of no use.
                    *slot = None;
                    match fault {
                        Fault::Unique(_) if !thorough => thorough = true,
                        fault => return Err(fault.into_error()),
                    }
                }
            }
        }
    }

    async fn import_once(
        &self,
        slot: &mut Option<Connection>,
        table: &'static Table,
        rows: &[&[Value]],
        thorough: bool,
    ) -> Result<(), Fault> {
        let connection = match slot.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => slot.insert(connection),
            None => slot.insert(Connection::open(&self.route, None).await?),
        };
        connection.execute("BEGIN").await?;
        for chunk in rows.chunks(IMPORT_ROWS_MAX).filter(|_| thorough) {
            let call = connection.call(&sql::delete(table), key_arrays(table, table.key, chunk)).await?;
            connection.run(&[call], IMPORT_WAIT).await?;
        }
        let text = sql::insert(table, Insertion::Replace, false);
        for chunk in rows.chunks(IMPORT_ROWS_MAX) {
            let call = connection.call(&text, key_arrays(table, table.columns.len(), chunk)).await?;
            connection.run(&[call], IMPORT_WAIT).await?;
        }
        connection.execute("COMMIT").await
    }
}

/// Starts the writer and the publisher.
fn start(
    route: &Route,
    options: &Options,
    name: String,
    queue: mpsc::Receiver<Job>,
    notifier: Arc<Notifier>,
    hints: Hints,
) -> (JoinHandle<()>, JoinHandle<()>) {
    let (settling, settled) = mpsc::channel(SETTLED_MAX);
    let reached = notifier.watermark().0;
    let publisher =
        Publisher { route: route.clone(), notifier, reached, settled, connection: None, hints: hints.clone() };
    let writer = Writer {
        route: route.named(&format!("hearth-{name}")),
        name,
        queue,
        settled: settling,
        connection: None,
        hints,
        commit_wait: options.commit_wait,
        number: 0,
        away: None,
    };
    (tokio::spawn(writer.run()), tokio::spawn(publisher.run()))
}

/// A name that no other process has had: the given one with random digits.
async fn unique_name(connection: &mut Connection, given: &str) -> Result<String, Error> {
    let text = "SELECT replace(gen_random_uuid()::text, '-', '')";
    let call = connection.call(text, Vec::new()).await.map_err(Fault::into_error)?;
    let rows = connection.run(&[call], IMPORT_WAIT).await.map_err(Fault::into_error)?;
    let random: Option<String> = rows.iter().flatten().next().and_then(|row| row.try_get(0).ok());
    let random = random.ok_or_else(|| Error::Engine("PostgreSQL gives no random name".to_owned()))?;
    let given: String = given.chars().filter(char::is_ascii_graphic).take(NAME_MAX).collect();
    Ok(format!("{given}-{random}"))
}

#[async_trait]
impl Engine for Postgres {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        let refuse = |outcome: store::Outcome, error: Error| drop(outcome.send(Err(CommitError::Store(error))));
        if let Err(error) = merge::well_formed(&batch) {
            refuse(outcome, error);
            return ticket;
        }
        let queue = self.queue.lock();
        match queue.as_ref().map(|queue| queue.try_send(Job { batch, outcome })) {
            // Dropped with the batch, the outcome says that the store is closed.
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) | None => {}
            Some(Err(mpsc::error::TrySendError::Full(job))) => {
                refuse(job.outcome, Error::Unavailable(format!("{QUEUE_MAX} batches already wait for the writer")));
            }
        }
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        for read in &reads {
            read.well_formed()?;
        }
        self.pool.read(reads).await
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    fn whispers(&self) -> Option<Arc<Whispers>> {
        Some(Arc::clone(&self.whispers))
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        if self.queue.lock().is_none() {
            return Err(Error::Closed);
        }
        // No key may stand twice in one statement; the last row of a key counts.
        let mut by_key: BTreeMap<&[Value], &[Value]> = BTreeMap::new();
        for row in &rows {
            merge::row_fits(table, row)?;
            by_key.insert(row.get(..table.key).unwrap_or_default(), row);
        }
        let rows: Vec<&[Value]> = by_key.into_values().collect();
        self.import_rows(table, &rows).await
    }

    async fn close(&self) {
        // Without a sender the writer ends after what is queued, and the publisher after the writer.
        drop(self.queue.lock().take());
        let tasks = self.tasks.lock().take();
        if let Some(Tasks { writer, publisher, whisperer }) = tasks {
            whisperer.abort();
            let (stop_writer, stop_publisher) = (writer.abort_handle(), publisher.abort_handle());
            if tokio::time::timeout(CLOSE_WAIT, async { (writer.await, publisher.await) }).await.is_err() {
                tracing::error!("PostgreSQL stays away: what is still queued is given up");
                stop_writer.abort();
                stop_publisher.abort();
            }
        }
        self.pool.close();
        drop(self.importing.lock().await.take());
    }
}

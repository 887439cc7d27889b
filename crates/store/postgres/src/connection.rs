//! One connection: how it is opened, its prepared statements, pipelines of statements, and what its errors mean.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::TryStreamExt;
use store::{Error, Whispers};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Socket, Statement};

use crate::params::Param;
use crate::route::Route;

/// The most statements that one connection keeps prepared.
const STATEMENTS_MAX: usize = 1_000;

/// How long a connection may take to be opened.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How long a statement outside of pipelines may take; creating the schema is the longest.
const EXECUTE_WAIT: Duration = Duration::from_secs(60);

/// First and longest pause between two tries to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The channel on which nodes tell each other of commits: `first,last`.
pub const CHANNEL: &str = "hearth";

/// The channel on which nodes whisper: texts, one per line.
pub const WHISPERS: &str = "hearth_whispers";

/// Every access goes along an index by equality and range; with plans fixed to that, none degrades when statistics are
/// missing or stale.
const SETTINGS: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off; SET max_parallel_workers_per_gather = 0; \
    SET plan_cache_mode = force_generic_plan; SET client_min_messages = warning; \
    SET idle_in_transaction_session_timeout = '10s'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// Why a pipeline did not succeed.
#[derive(Debug)]
pub enum Fault {
    /// The connection is gone or unusable: what had been sent may or may not have been executed.
    Lost(String),
    /// Another transaction was in the way: nothing was done; the same may succeed now.
    Busy(String),
    /// A unique index (its name) or primary key would have been violated: nothing was done.
    Unique(String),
    /// The server refused for good: nothing was done.
    Refused(Error),
}

impl Fault {
    /// As a caller of the store is told.
    pub fn into_error(self) -> Error {
        match self {
            Self::Lost(reason) => Error::Unavailable(format!("PostgreSQL cannot be reached: {reason}")),
            Self::Busy(reason) => Error::Unavailable(reason),
            Self::Unique(index) => Error::Engine(format!("unique index {index} is violated")),
            Self::Refused(error) => error,
        }
    }

    fn of(error: &tokio_postgres::Error) -> Self {
        // A reply that the driver cannot make sense of is as good as none.
        let Some(refusal) = error.as_db_error() else { return Self::Lost(describe(error)) };
        let code = refusal.code();
        let fatal = matches!(refusal.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        // A primary that became a standby takes no writes: another connection may lead to the new primary.
        let demoted = *code == SqlState::READ_ONLY_SQL_TRANSACTION;
        if fatal || demoted || code.code().starts_with("08") || code.code().starts_with("57P") {
            return Self::Lost(describe(error));
        }
        match *code {
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE
            | SqlState::QUERY_CANCELED => Self::Busy(describe(error)),
            SqlState::UNIQUE_VIOLATION => Self::Unique(refusal.constraint().unwrap_or_default().to_owned()),
            SqlState::DISK_FULL => Self::Refused(Error::DiskFull),
            _ => Self::Refused(Error::Engine(describe(error))),
        }
    }
}

/// An error with its causes; the driver's own text leaves the server's message out.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        let detail = refusal.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", refusal.message(), refusal.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// An open connection.
pub struct Connection {
    client: Client,
    driver: AbortHandle,
    statements: BTreeMap<String, Statement>,
    /// The server process behind it.
    pub pid: i32,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whatever is under way must not linger on a connection that nobody listens to.
        self.driver.abort();
    }
}

/// One statement of a pipeline.
pub struct Call<'a> {
    statement: Statement,
    params: Vec<Param<'a>>,
}

/// Who listens to notifications: told the highest position named, unless by the process that is left out.
#[derive(Clone)]
pub struct Hints {
    /// The highest position of which other nodes told.
    pub told: Arc<watch::Sender<i64>>,
    /// The server process of this node's writer, whose commits need no hint.
    pub own: Arc<AtomicI32>,
    /// The server process by which this node whispers: it does not hear itself.
    pub own_mouth: Arc<AtomicI32>,
    /// Who hears what other nodes whisper.
    pub whispers: Arc<Whispers>,
}

impl Hints {
    fn notified(&self, message: &tokio_postgres::Notification) {
        let from = message.process_id();
        match message.channel() {
            CHANNEL if from != self.own.load(Ordering::Relaxed) => self.committed(message.payload()),
            WHISPERS if from != self.own_mouth.load(Ordering::Relaxed) => {
                message.payload().lines().for_each(|text| self.whispers.hear(text));
            }
            _ => {}
        }
    }

    fn committed(&self, payload: &str) {
        let last = payload.split_once(',').and_then(|(_, last)| last.parse::<i64>().ok()).unwrap_or(0);
        self.told.send_if_modified(|told| {
            let more = last > *told;
            *told = last.max(*told);
            more
        });
    }
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// As the network and the server say; [`Fault::Lost`] if trying again may help.
    pub async fn open(route: &Route, hints: Option<Hints>) -> Result<Self, Fault> {
        let (client, driver) = match &route.tls {
            Some(tls) => connect(&route.config, tls.clone(), hints).await?,
            None => connect(&route.config, NoTls, hints).await?,
        };
        let mut opened = Self { client, driver, statements: BTreeMap::new(), pid: 0 };
        opened.execute(SETTINGS).await?;
        let call = opened.call("SELECT pg_backend_pid()", Vec::new()).await?;
        let rows = opened.run(&[call], CONNECT_WAIT).await?;
        opened.pid = rows.first().and_then(|rows| rows.first()).and_then(|row| row.try_get(0).ok()).unwrap_or(0);
        Ok(opened)
    }

    /// Opens a connection, trying again with growing pauses until the deadline.
    ///
    /// # Errors
    /// The last fault.
    pub async fn open_by(route: &Route, deadline: tokio::time::Instant) -> Result<Self, Fault> {
        let mut backoff = Backoff::new();
        loop {
            match Self::open(route, None).await {
                Err(Fault::Lost(reason)) if tokio::time::Instant::now() < deadline => {
                    tracing::warn!(reason, "PostgreSQL cannot be reached; trying again");
                    backoff.pause().await;
                }
                other => return other,
            }
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Executes statements without parameters, in simple form.
    ///
    /// # Errors
    /// As the server says.
    pub async fn execute(&self, sql: &str) -> Result<(), Fault> {
        match tokio::time::timeout(EXECUTE_WAIT, self.client.batch_execute(sql)).await {
            Ok(done) => done.map_err(|error| Fault::of(&error)),
            Err(_) => Err(Fault::Lost("no answer in time".to_owned())),
        }
    }

    /// Prepares a statement, if it is not yet.
    ///
    /// # Errors
    /// As the server says.
    pub async fn call<'a>(&mut self, sql: &str, params: Vec<Param<'a>>) -> Result<Call<'a>, Fault> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(Call { statement: statement.clone(), params });
        }
        let statement = match tokio::time::timeout(CONNECT_WAIT, self.client.prepare(sql)).await {
            Ok(Ok(statement)) => statement,
            Ok(Err(error)) => return Err(Fault::of(&error)),
            Err(_) => return Err(Fault::Lost("no answer in time".to_owned())),
        };
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(Call { statement, params })
    }

    /// Sends all calls at once and returns the rows of each, in order.
    ///
    /// # Errors
    /// The first fault; but [`Fault::Lost`] if any call met it, since then nothing is known of those after it.
    pub async fn run(&self, calls: &[Call<'_>], limit: Duration) -> Result<Vec<Vec<Row>>, Fault> {
        let Ok(results) = tokio::time::timeout(limit, self.send(calls)).await else {
            return Err(Fault::Lost(format!("no answer within {} s", limit.as_secs())));
        };
        let unsent = results.len() < calls.len();
        let mut rows = Vec::with_capacity(results.len());
        let mut first_fault = None;
        for result in results {
            match result {
                Ok(found) => rows.push(found),
                // The driver refused a parameter: neither this call nor any after it was sent.
                Err(error) if unsent && error.as_db_error().is_none() && !error.is_closed() => {
                    return Err(Fault::Refused(Error::Engine(describe(&error))));
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Lost(reason) => return Err(Fault::Lost(reason)),
                    fault => first_fault = first_fault.or(Some(fault)),
                },
            }
        }
        first_fault.map_or(Ok(rows), Err)
    }

    async fn send(&self, calls: &[Call<'_>]) -> Vec<Result<Vec<Row>, tokio_postgres::Error>> {
        let mut waiting: Vec<_> = calls.iter().map(|call| Sent::Waiting(Box::pin(self.answer(call)))).collect();
        // The first poll of each sends it; answers come in the same order, so then each is awaited in turn.
        // One that fails at once was not sent: then the rest, a COMMIT for instance, must not be either.
        let sent = poll_fn(|context| {
            for (place, sent) in waiting.iter_mut().enumerate() {
                if let Sent::Waiting(future) = sent
                    && let Poll::Ready(result) = future.as_mut().poll(context)
                {
                    let failed = result.is_err();
                    *sent = Sent::Answered(result);
                    if failed {
                        return Poll::Ready(place + 1);
                    }
                }
            }
            Poll::Ready(calls.len())
        })
        .await;
        waiting.truncate(sent);
        let mut results = Vec::with_capacity(waiting.len());
        for sent in waiting {
            results.push(match sent {
                Sent::Answered(result) => result,
                Sent::Waiting(future) => future.await,
            });
        }
        results
    }

    async fn answer(&self, call: &Call<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
        let params: Vec<&(dyn ToSql + Sync)> = call.params.iter().map(Param::as_sql).collect();
        self.client.query_raw(&call.statement, params).await?.try_collect().await
    }
}

/// Connects, and drives the connection in a task of its own.
async fn connect<T>(config: &Config, tls: T, hints: Option<Hints>) -> Result<(Client, AbortHandle), Fault>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = match tokio::time::timeout(CONNECT_WAIT, config.connect(tls)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Err(connect_fault(&error)),
        Err(_) => return Err(Fault::Lost("no answer in time".to_owned())),
    };
    let driver = tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match (message, &hints) {
                (Ok(AsyncMessage::Notification(message)), Some(hints)) => hints.notified(&message),
                (Ok(AsyncMessage::Notice(notice)), _) => tracing::debug!(%notice, "PostgreSQL says"),
                (Ok(_), _) => {}
                (Err(error), _) => {
                    tracing::debug!(error = describe(&error), "a PostgreSQL connection ended");
                    break;
                }
            }
        }
    });
    Ok((client, driver.abort_handle()))
}

enum Sent<F> {
    Waiting(Pin<Box<F>>),
    Answered(Result<Vec<Row>, tokio_postgres::Error>),
}

/// A server that starts, stops or has no free connection is worth another try; a wrong password is not.
fn connect_fault(error: &tokio_postgres::Error) -> Fault {
    let retry = error.code().is_none_or(|code| {
        code.code().starts_with("57P") || code.code().starts_with("53") || code.code().starts_with("08")
    });
    if is_mistrust(error) {
        return Fault::Refused(Error::Unusable(format!(
            "TLS to PostgreSQL fails: {}: correct `sslmode` or `sslrootcert` of the address, or the server's certificate",
            describe(error)
        )));
    }
    if retry {
        return Fault::Lost(describe(error));
    }
    Fault::Refused(Error::Unusable(format!(
        "PostgreSQL refuses the connection: {}: correct the address, or create what it names",
        describe(error)
    )))
}

/// Whether TLS failed for what the server is, and not because the connection broke.
fn is_mistrust(error: &tokio_postgres::Error) -> bool {
    let Some(source) = error.source() else { return false };
    match source.downcast_ref::<std::io::Error>() {
        Some(broken) => broken.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        // "server does not support TLS", which has no type of its own.
        None => error.to_string().contains("TLS"),
    }
}

/// Growing pauses between tries.
pub struct Backoff(Duration);

impl Backoff {
    /// Starts with the shortest pause.
    pub fn new() -> Self {
        Self(BACKOFF.0)
    }

    /// Waits, and longer the next time.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF.1);
    }
}

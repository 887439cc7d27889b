//! Reads: a pool of connections; each list of reads is one snapshot and one round trip.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use store::{Error, Read, Rows};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::connection::{Backoff, Connection, Fault};
use crate::params::decode_row;
use crate::route::Route;
use crate::sql::{self, Shape};

/// How long one answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// The most reads that are merged into one statement.
const MERGE_MAX: usize = 10_000;

/// Begins a snapshot.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// The reading connections, opened when needed.
pub struct Pool {
    route: Route,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    patience: Duration,
    /// The last read found nobody to answer it, for all its patience.
    away: AtomicBool,
}

/// A statement that answers one or several reads.
struct Answering {
    /// Places of the reads.
    places: Vec<usize>,
    /// Whether the first column of the answer says which of them a row belongs to.
    merged: bool,
}

impl Pool {
    /// A pool of `size` connections. Reads are tried again for as long as `patience` when PostgreSQL is away.
    pub fn new(route: Route, size: usize, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(size.max(1)));
        Self { route, idle: Mutex::default(), permits, patience, away: AtomicBool::new(false) }
    }

    /// Answers all reads from one snapshot. While PostgreSQL is known to be away, each read tries only once: who waits
    /// for all others before it would wait for minutes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL stays away; [`Error::Closed`] after [`Pool::close`].
    pub async fn read(self: &Arc<Self>, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        let (patience, wait) = match self.away.load(Ordering::Relaxed) {
            true => (Duration::ZERO, self.patience.min(ANSWER_WAIT)),
            false => (self.patience, ANSWER_WAIT),
        };
        let deadline = Instant::now() + patience;
        let permit = match tokio::time::timeout(wait, self.permits.clone().acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| Error::Closed)?,
            Err(_) => return Err(Error::Unavailable("all reading connections have been busy for too long".to_owned())),
        };
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        // The caller may go away at any time; in a task of its own, the read ends well and its connection stays usable.
        let pool = self.clone();
        let reading = tokio::spawn(async move {
            let _permit = permit;
            pool.read_by(&reads, deadline).await
        });
        reading.await.unwrap_or(Err(Error::Closed))
    }

    async fn read_by(&self, reads: &[Read], deadline: Instant) -> Result<Vec<Rows>, Error> {
        let mut backoff = Backoff::new();
        loop {
            let read = self.read_once(reads).await;
            let lost = matches!(read, Err(Fault::Lost(_)));
            match read {
                Err(Fault::Lost(reason) | Fault::Busy(reason)) if Instant::now() < deadline => {
                    tracing::debug!(reason, "a read is tried again");
                    backoff.pause().await;
                }
                done => {
                    self.away.store(lost, Ordering::Relaxed);
                    return done.map_err(Fault::into_error);
                }
            }
        }
    }

    /// Ends the pool: later reads fail.
    pub fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }

    async fn read_once(&self, reads: &[Read]) -> Result<Vec<Rows>, Fault> {
        let mut connection = self.take().await?;
        let answer = answer(&mut connection, reads, false).await;
        let usable = matches!(&answer, Ok(_) | Err(Fault::Refused(_) | Fault::Busy(_) | Fault::Unique(_)));
        if usable && !connection.is_closed() && !self.permits.is_closed() {
            self.idle.lock().push(connection);
        }
        answer
    }

    async fn take(&self) -> Result<Connection, Fault> {
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(connection) if connection.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => return Connection::open(&self.route, None).await,
            }
        }
    }
}

/// Answers all reads from one snapshot: that of the transaction that was `begun`, or a new one.
pub(crate) async fn answer(connection: &mut Connection, reads: &[Read], begun: bool) -> Result<Vec<Rows>, Fault> {
    let mut calls = Vec::new();
    let mut answering = Vec::new();
    for places in alike(reads) {
        let merged = places.len() > 1;
        let wanted: Vec<&Read> = places.iter().filter_map(|place| reads.get(*place)).collect();
        let (text, params) = match wanted.as_slice() {
            [read] => sql::select(read),
            wanted => sql::select_merged(wanted),
        };
        calls.push(connection.call(&text, params).await?);
        answering.push(Answering { places, merged });
    }
    // One statement is a snapshot by itself.
    let transaction = calls.len() > 1 && !begun;
    if transaction {
        calls.insert(0, connection.call(BEGIN, Vec::new()).await?);
        calls.push(connection.call("COMMIT", Vec::new()).await?);
    }
    let answers = connection.run(&calls, ANSWER_WAIT).await?;
    let mut found = vec![Rows::default(); reads.len()];
    for (answering, rows) in answering.iter().zip(answers.into_iter().skip(usize::from(transaction))) {
        distribute(answering, &rows, reads, &mut found)?;
    }
    Ok(found)
}

/// Places of reads that differ in nothing but values, together.
fn alike(reads: &[Read]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<Shape, Vec<usize>> = BTreeMap::new();
    if reads.len() == 1 {
        return vec![vec![0]];
    }
    for (place, read) in reads.iter().enumerate() {
        groups.entry(sql::shape(read)).or_default().push(place);
    }
    groups
        .into_values()
        .flat_map(|places| places.chunks(MERGE_MAX).map(<[usize]>::to_vec).collect::<Vec<_>>())
        .collect()
}

fn distribute(answering: &Answering, rows: &[Row], reads: &[Read], found: &mut [Rows]) -> Result<(), Fault> {
    for row in rows {
        let among = if answering.merged { row.try_get::<_, i64>(0).unwrap_or(0) } else { 1 };
        let place = usize::try_from(among - 1).ok().and_then(|among| answering.places.get(among)).copied();
        let Some((place, read)) = place.and_then(|place| Some((place, reads.get(place)?))) else {
            return Err(Fault::Refused(Error::Engine("PostgreSQL answered a read that was not asked".to_owned())));
        };
        let values = decode_row(read.table, row, usize::from(answering.merged)).map_err(Fault::Refused)?;
        if let Some(rows) = found.get_mut(place) {
            rows.0.push(values);
        }
    }
    Ok(())
}

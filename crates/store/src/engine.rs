//! The contract that each storage engine fulfils, and the typed door to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::tables::core::{CounterRow, MetaRow, SequenceRow};
use crate::{
    CommitBatch, CommitError, Committed, Error, Notifier, Read, Row, Rows, StreamPosition, Table, Value, Whispers,
};

/// How many numbers a process takes from a sequence at a time.
const SEQUENCE_BLOCK: i64 = 1_000;

/// A storage engine: SQLite, PostgreSQL or the in-memory model.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Queues a batch; the ticket resolves once it is durable and published to the notifier, or dropped.
    /// Batches are judged and committed in the order of these calls. Dropping the ticket does not cancel the batch.
    fn submit(&self, batch: CommitBatch) -> Ticket;

    /// Answers all reads from one snapshot that holds every commit whose ticket has resolved.
    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error>;

    /// Where commits are published.
    fn notifier(&self) -> &Notifier;

    /// What the nodes of one database tell each other in passing; `None` where there can be no other node.
    fn whispers(&self) -> Option<Arc<Whispers>> {
        None
    }

    /// For moving databases: writes rows as they are, replacing those of equal key; durable on return.
    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error>;

    /// Ends the writer after what is queued is committed; later calls fail with [`Error::Closed`].
    async fn close(&self);
}

/// The outcome of a submitted batch, once it is known.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Committed, CommitError>>);

/// The engine's end of a [`Ticket`].
pub type Outcome = oneshot::Sender<Result<Committed, CommitError>>;

impl Ticket {
    /// A ticket and the end that resolves it.
    pub fn new() -> (Outcome, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for Ticket {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(CommitError::Store(Error::Closed))))
    }
}

/// The store: an engine and what every engine shares. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
    sequences: Arc<tokio::sync::Mutex<BTreeMap<&'static str, (i64, i64)>>>,
    watermark_at_open: StreamPosition,
    epoch: Arc<Mutex<i64>>,
}

impl Store {
    /// Wraps an opened engine.
    ///
    /// # Errors
    /// Any [`Error`] of the first read.
    pub async fn new(engine: Arc<dyn Engine>) -> Result<Self, Error> {
        let store = Self {
            watermark_at_open: engine.notifier().watermark(),
            engine,
            sequences: Arc::default(),
            epoch: Arc::new(Mutex::new(0)),
        };
        let epoch = store.meta("token_epoch").await?.and_then(|text| text.parse().ok()).unwrap_or(0);
        *store.epoch.lock() = epoch;
        Ok(store)
    }

    /// The engine itself.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Where commits are published.
    pub fn notifier(&self) -> &Notifier {
        self.engine.notifier()
    }

    /// The last committed position of which all followers know.
    pub fn watermark(&self) -> StreamPosition {
        self.notifier().watermark()
    }

    /// The watermark at the time the store was opened.
    pub fn watermark_at_open(&self) -> StreamPosition {
        self.watermark_at_open
    }

    /// Counts restores from a backup: tokens of another epoch name positions of a lost future.
    pub fn token_epoch(&self) -> i64 {
        *self.epoch.lock()
    }

    /// Queues a batch; see [`Engine::submit`].
    pub fn submit(&self, batch: CommitBatch) -> Ticket {
        self.engine.submit(batch)
    }

    /// Commits a batch and waits until it is durable.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if a check did not hold; else as the engine says.
    pub async fn commit(&self, batch: CommitBatch) -> Result<Committed, CommitError> {
        self.submit(batch).await
    }

    /// Answers all reads from one snapshot.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.engine.read(reads).await
    }

    /// Answers one read with all its rows.
    ///
    /// # Errors
    /// As the engine says; [`Error::Corrupt`] if a row does not decode.
    pub async fn all<R: Row>(&self, read: Read) -> Result<Vec<R>, Error> {
        debug_assert_eq!(read.table, R::TABLE, "the read is of the row's table");
        self.read(vec![read]).await?.into_iter().next().unwrap_or_default().all()
    }

    /// Answers one read with its first row.
    ///
    /// # Errors
    /// As the engine says; [`Error::Corrupt`] if a row does not decode.
    pub async fn one<R: Row>(&self, read: Read) -> Result<Option<R>, Error> {
        debug_assert_eq!(read.table, R::TABLE, "the read is of the row's table");
        self.read(vec![read.limit(1)]).await?.into_iter().next().unwrap_or_default().one()
    }

    /// The row with this primary key.
    ///
    /// # Errors
    /// As the engine says; [`Error::Corrupt`] if the row does not decode.
    pub async fn get<R: Row>(&self, key: Vec<Value>) -> Result<Option<R>, Error> {
        self.one(Read::get::<R>(key)).await
    }

    /// The next number of a sequence. Numbers are unique and rising per process, with gaps; never reused.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn next_number(&self, sequence: &'static str) -> Result<i64, Error> {
        self.next_numbers(sequence, 1).await
    }

    /// The first of `count` consecutive numbers of a sequence.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn next_numbers(&self, sequence: &'static str, count: i64) -> Result<i64, Error> {
        let mut sequences = self.sequences.lock().await;
        let (next, end) = sequences.get(sequence).copied().unwrap_or((0, 0));
        if next > 0 && next + count <= end {
            sequences.insert(sequence, (next + count, end));
            return Ok(next);
        }
        let block = SEQUENCE_BLOCK.max(count);
        let first = self.reserve(sequence, block).await?;
        sequences.insert(sequence, (first + count, first + block));
        Ok(first)
    }

    async fn reserve(&self, sequence: &'static str, count: i64) -> Result<i64, Error> {
        loop {
            let key = vec![Value::from(sequence)];
            let row = self.get::<SequenceRow>(key.clone()).await?;
            let first = row.as_ref().map_or(1, |row| row.next);
            let mut batch = CommitBatch::new();
            match row {
                Some(row) => batch.expect_equals::<SequenceRow>(key, "next", row.next),
                None => batch.expect_absent::<SequenceRow>(key),
            };
            batch.put(SequenceRow { name: sequence.to_owned(), next: first + count });
            match self.commit(batch).await {
                Ok(_) => return Ok(first),
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
    }

    /// A value of the `meta` table.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.get::<MetaRow>(vec![Value::from(name)]).await?.map(|row| row.value))
    }

    /// Sets a value of the `meta` table.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn set_meta(&self, name: &str, value: &str) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        batch.put(MetaRow { name: name.to_owned(), value: value.to_owned() });
        match self.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            Err(CommitError::Conflict { .. }) => Err(Error::Engine("a batch without checks met a conflict".to_owned())),
        }
    }

    /// The stored counter: the last position that was ever given.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn stored_counter(&self) -> Result<StreamPosition, Error> {
        Ok(self
            .get::<CounterRow>(vec![Value::Int(1)])
            .await?
            .map_or(StreamPosition::ZERO, |row| StreamPosition(row.pos)))
    }
}

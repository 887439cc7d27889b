//! A storage engine that takes every step by itself, so that a single thread can do other things between any two of
//! them, as the seed says: a batch is queued, committed (readers see it), told to the followers, the watermark moves,
//! the ticket resolves. A real engine takes the same steps on a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use async_trait::async_trait;
use parking_lot::Mutex;
use store::model::Model;
use store::{
    CommitBatch, Engine, Error, Follower, Notifier, Outcome, Read, Rows, StreamEntry, StreamPosition, Table, Ticket,
    Value,
};
use tokio::sync::mpsc as tasks;

/// Most other tasks' turns between two steps.
const TURNS_MAX: u64 = 4;

/// Numbers that look random and are the same for the same seed.
pub struct Dice(AtomicU64);

impl Dice {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        let mut state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (state ^ (state >> 31)) % end
    }

    /// Lets others have some turns.
    pub async fn pause(&self) {
        for _ in 0..self.below(TURNS_MAX + 1) {
            tokio::task::yield_now().await;
        }
    }
}

/// What a batch told.
type Told = (StreamPosition, Vec<StreamEntry>);

/// The model's own follower: keeps what is to be published later.
#[derive(Default)]
struct Kept(Mutex<Vec<Told>>);

impl Follower for Kept {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        self.0.lock().push((first, entries.to_vec()));
    }
}

/// The engine.
pub struct Stepped {
    model: Arc<Model>,
    notifier: Arc<Notifier>,
    dice: Arc<Dice>,
    queue: tasks::UnboundedSender<(CommitBatch, Outcome)>,
    gate: Mutex<Option<Gate>>,
}

impl Stepped {
    /// An empty database, written by a task of this runtime.
    pub fn new(dice: Arc<Dice>) -> Arc<Self> {
        let (model, kept) = (Arc::new(Model::new()), Arc::new(Kept::default()));
        model.notifier().add_follower(kept.clone());
        let notifier = Arc::new(Notifier::new(StreamPosition::ZERO));
        let (publisher, gate) = Publisher::new(notifier.clone());
        let (queue, waiting) = tasks::unbounded_channel();
        tokio::spawn(write(model.clone(), kept, publisher, dice.clone(), waiting));
        Arc::new(Self { model, notifier, dice, queue, gate: Mutex::new(Some(gate)) })
    }

    /// From now on others have turns between the telling of the followers, of which there must be no more to come, and
    /// the moving of the watermark.
    pub fn all_follow(&self) {
        if let Some(gate) = self.gate.lock().take() {
            self.notifier.add_follower(Arc::new(gate));
        }
    }
}

#[async_trait]
impl Engine for Stepped {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        assert!(self.queue.send((batch, outcome)).is_ok(), "the writer lives as long as the engine");
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.dice.pause().await;
        let found = self.model.read(reads).await;
        self.dice.pause().await;
        found
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.model.import(table, rows).await
    }

    async fn close(&self) {
        self.model.close().await;
    }
}

async fn write(
    model: Arc<Model>,
    kept: Arc<Kept>,
    mut publisher: Publisher,
    dice: Arc<Dice>,
    mut waiting: tasks::UnboundedReceiver<(CommitBatch, Outcome)>,
) {
    while let Some((batch, outcome)) = waiting.recv().await {
        dice.pause().await;
        let committed = model.submit(batch).await;
        let told = std::mem::take(&mut *kept.0.lock());
        for (first, entries) in told {
            dice.pause().await;
            publisher.publish(first, entries, &dice).await;
        }
        dice.pause().await;
        // Who asked may have gone.
        drop(outcome.send(committed));
    }
}

/// How far a publication has come.
enum Step {
    /// All followers know.
    Told,
    /// The watermark has moved.
    Done,
}

/// [`Notifier::publish`] cannot be halted half-way by a task. So a thread calls it, while this one stands still: at any
/// time exactly one of the two runs.
struct Publisher {
    work: mpsc::Sender<Told>,
    steps: mpsc::Receiver<Step>,
    go_on: mpsc::Sender<()>,
}

/// The last follower: halts the publishing thread until it may go on.
struct Gate {
    steps: mpsc::Sender<Step>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Follower for Gate {
    fn committed(&self, _first: StreamPosition, _entries: &[StreamEntry]) {
        if self.steps.send(Step::Told).is_ok() {
            // If the other thread has gone there is nothing to wait for.
            self.go_on.lock().recv().unwrap_or_default();
        }
    }
}

impl Publisher {
    fn new(notifier: Arc<Notifier>) -> (Self, Gate) {
        let (work, to_do) = mpsc::channel::<Told>();
        let (told, steps) = mpsc::channel();
        let (go_on, allowed) = mpsc::channel();
        let done = told.clone();
        std::thread::spawn(move || {
            while let Ok((first, entries)) = to_do.recv() {
                notifier.publish(first, &entries);
                if done.send(Step::Done).is_err() {
                    return;
                }
            }
        });
        (Self { work, steps, go_on }, Gate { steps: told, go_on: Mutex::new(allowed) })
    }

    async fn publish(&mut self, first: StreamPosition, entries: Vec<StreamEntry>, dice: &Dice) {
        self.work.send((first, entries)).unwrap();
        if matches!(self.steps.recv().unwrap(), Step::Done) {
            return;
        }
        dice.pause().await;
        self.go_on.send(()).unwrap();
        assert!(matches!(self.steps.recv().unwrap(), Step::Done), "told once");
    }
}

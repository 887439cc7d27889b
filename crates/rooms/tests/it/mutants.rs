//! Engines with one safeguard switched off: the checks of these tests find each of them out, so they mean something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rooms::Preset;
use store::engine::Outcome;
use store::model::Model;
use store::{
    CommitBatch, Committed, Engine, Error, Follower, Notifier, Read, Rows, StreamEntry, StreamPosition, Table, Ticket,
    Value, Write,
};

use crate::harness::{room_of, rooms_on, text, user};
use crate::nodes::Nodes;

/// What is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// Nothing: what the checks must not find out.
    Nothing,
    /// Checks on the rows of rooms.
    CompareAndSwap,
    /// Every second publication of a commit.
    Publishing,
    /// The history of room heads.
    HeadHistory,
}

/// A model with something switched off. It can also let several batches meet.
pub struct Mutant {
    inner: Model,
    off: Off,
    active: Arc<AtomicBool>,
    notifier: Arc<Notifier>,
    meeting: AtomicUsize,
    waiting: Mutex<Vec<(CommitBatch, Outcome)>>,
    /// How many batches until one is refused; 0 for none.
    refusing: AtomicUsize,
}

/// Hands publications on, or not.
struct Relay {
    to: Arc<Notifier>,
    off: Off,
    active: Arc<AtomicBool>,
    told: AtomicUsize,
}

impl Follower for Relay {
    fn committed(&self, first: StreamPosition, entries: &[StreamEntry]) {
        let odd = self.told.fetch_add(1, Ordering::AcqRel) % 2 == 1;
        if !(odd && self.off == Off::Publishing && self.active.load(Ordering::Acquire)) {
            self.to.publish(first, entries);
        }
    }
}

impl Mutant {
    /// An empty model; what is off is off from [`Mutant::begin`] on.
    pub fn new(off: Off) -> Arc<Self> {
        let inner = Model::new();
        let notifier = Arc::new(Notifier::new(inner.notifier().watermark()));
        let active = Arc::new(AtomicBool::new(false));
        let relay = Relay { to: Arc::clone(&notifier), off, active: Arc::clone(&active), told: AtomicUsize::new(0) };
        inner.notifier().add_follower(Arc::new(relay));
        Arc::new(Self {
            inner,
            off,
            active,
            notifier,
            meeting: AtomicUsize::new(0),
            waiting: Mutex::default(),
            refusing: AtomicUsize::new(0),
        })
    }

    /// Switches off what is to be off.
    pub fn begin(&self) {
        self.active.store(true, Ordering::Release);
    }

    /// The next `n` batches are held back until all of them are there.
    fn let_meet(&self, n: usize) {
        self.meeting.store(n, Ordering::Release);
    }

    /// Holds batches back until [`Mutant::release`].
    pub fn hold(&self) {
        self.let_meet(usize::MAX);
    }

    /// Has the store fail once, at the `n`-th batch from now.
    pub fn refuse(&self, n: usize) {
        self.refusing.store(n, Ordering::Release);
    }

    /// How many batches are held back.
    pub fn held(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Hands on what was held back.
    pub fn release(&self) {
        self.let_meet(0);
        let held: Vec<_> = self.waiting.lock().drain(..).collect();
        for (batch, outcome) in held {
            self.pass_on(batch, outcome);
        }
    }

    fn change(&self, batch: &mut CommitBatch) {
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        match self.off {
            Off::CompareAndSwap => batch.checks.retain(|check| check.table.name != "rooms"),
            Off::HeadHistory => {
                batch.writes.retain(|write| !matches!(write, Write::Put { table, .. } if table.name == "room_heads"));
            }
            Off::Nothing | Off::Publishing => {}
        }
    }

    fn pass_on(&self, batch: CommitBatch, outcome: Outcome) {
        let ticket = self.inner.submit(batch);
        tokio::spawn(async move {
            // Nobody waits any more if this fails.
            outcome.send(ticket.await).ok();
        });
    }
}

#[async_trait::async_trait]
impl Engine for Mutant {
    fn submit(&self, mut batch: CommitBatch) -> Ticket {
        self.change(&mut batch);
        let (outcome, ticket) = Ticket::new();
        let one_less = |left: usize| left.checked_sub(1);
        if self.refusing.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less) == Ok(1) {
            outcome.send(Err(Error::Engine("the disk is on fire".to_owned()).into())).ok();
            return ticket;
        }
        let meeting = self.meeting.load(Ordering::Acquire);
        let mut waiting = self.waiting.lock();
        waiting.push((batch, outcome));
        if waiting.len() >= meeting {
            self.meeting.store(0, Ordering::Release);
            for (batch, outcome) in waiting.drain(..) {
                self.pass_on(batch, outcome);
            }
        }
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.inner.read(reads).await
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.inner.import(table, rows).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Two nodes build on the same head, and their batches meet.
async fn batches_meet(off: Off) -> Result<(), String> {
    let mutant = Mutant::new(off);
    let nodes = Nodes::on(mutant.clone(), mutant.clone()).await;
    mutant.begin();
    let mut acknowledged = std::collections::BTreeMap::new();
    for round in 0..3 {
        // Both have loaded the room and know the same head.
        for rooms in &nodes.both {
            rooms.room(&nodes.room_id).await.unwrap().unwrap();
        }
        mutant.let_meet(2);
        let (one, other) = (format!("{round} one"), format!("{round} other"));
        let (first, second) = tokio::join!(
            nodes.both[0].send(&nodes.room_id, text(&user("user0"), &one)),
            nodes.both[1].send(&nodes.room_id, text(&user("user1"), &other)),
        );
        acknowledged.insert(one, first.map_err(|error| error.to_string())?.to_string());
        acknowledged.insert(other, second.map_err(|error| error.to_string())?.to_string());
    }
    nodes.check(&acknowledged).await
}

#[tokio::test]
async fn compare_and_swap_off_is_caught() {
    batches_meet(Off::Nothing).await.unwrap();
    let found = batches_meet(Off::CompareAndSwap).await;
    assert!(found.is_err(), "rooms whose versions are not compared lose events");
}

/// What was answered can be read, and whoever waits for it wakes.
async fn answers_are_readable(off: Off) -> Result<(), String> {
    let mutant = Mutant::new(off);
    let rooms = rooms_on(mutant.clone(), "one.test", 1).await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "12", Preset::PublicChat)).await.unwrap();
    mutant.begin();
    for step in 0..4 {
        let watermark = rooms.store().notifier().subscribe();
        let id = rooms.send(&room_id, text(&alice, &step.to_string())).await.map_err(|error| error.to_string())?;
        let room = rooms.room(&room_id).await.unwrap().unwrap();
        if room.head().extremities.iter().all(|extremity| extremity.id != id) {
            return Err(format!("{id} was answered and is not part of the head that readers see"));
        }
        if !watermark.has_changed().unwrap() {
            return Err(format!("nobody was woken for {id}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_wake_up_is_caught() {
    answers_are_readable(Off::Nothing).await.unwrap();
    let found = answers_are_readable(Off::Publishing).await;
    assert!(found.is_err(), "commits that are not published leave readers behind");
}

/// Whether one batch is all that a submitter waits for: the wrapper itself loses nothing.
#[tokio::test]
async fn a_mutant_answers_every_batch() {
    let mutant = Mutant::new(Off::Nothing);
    mutant.let_meet(3);
    let tickets: Vec<_> = (0..3).map(|_| mutant.submit(CommitBatch::new())).collect();
    for ticket in tickets {
        let _committed: Committed = ticket.await.unwrap();
    }
}

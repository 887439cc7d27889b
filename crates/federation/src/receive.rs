//! What other servers send: transactions come in here, are checked and queued, and workers take the events into the
//! rooms.
//!
//! The checks that need nothing but the event (ACL, format, signatures, hash) are made before the transaction is
//! answered, and the answer says per event how they went. Events that pass are rows of the [`queue`] by then, so that an
//! answered transaction is never lost. A [`worker`] takes rooms in turn, and each room's events in order of arrival; one
//! that builds on unknown events waits in the room engine while [`gaps`] asks other servers for what is missing. A dead
//! end costs only the event that led there: it is tried again a few times, ever later, and then dropped with its reason.
//!
//! Peers are bounded: in the transactions under way, in the events queued, in the workers that their events keep busy,
//! in the gaps that are filled because of them.

mod acquaintances;
mod ask;
mod edus;
mod gaps;
mod history;
mod out_of_band;
mod queue;
mod schedule;
mod transaction;
mod worker;

use std::time::Duration;

use store::tables::federation::{InboundDropRow, InboundTransactionRow};
use store::{CommitBatch, Read, Store};
use tokio::sync::watch;

use self::acquaintances::Acquaintances;
use self::gaps::Pauses;
use self::queue::{Queue, commit};
use self::transaction::Lanes;
use crate::{Federation, Result};

pub(crate) use self::ask::is_askable;
pub use self::edus::Edus;
pub(crate) use self::transaction::federation_form;

/// How many [`Federation::receive`] a server should run: most of their time is waiting for others.
pub const WORKERS: usize = 16;
/// How often an idle worker looks for what has become due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the answer to a transaction is kept, in milliseconds.
const ANSWERS_KEPT_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// How long the reason is kept why an event was dropped, in milliseconds.
const DROPS_KEPT_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// Rows that one run of [`Federation::prune`] removes at most, of each kind.
const PRUNED_MAX: u32 = 10_000;

/// What is in memory of receiving.
pub(crate) struct Receiver {
    queue: Queue,
    lanes: Lanes,
    gaps: Pauses,
    acquaintances: Acquaintances,
}

impl Receiver {
    pub(crate) fn new(store: Store) -> Self {
        let acquaintances = Acquaintances::new(store.clone());
        Self { queue: Queue::new(store), lanes: Lanes::default(), gaps: Pauses::default(), acquaintances }
    }
}

impl Federation {
    /// Takes up what a former life of the process left in the queue; once, before the first [`Federation::receive`].
    ///
    /// # Errors
    /// As the store says.
    pub async fn resume(&self) -> Result<()> {
        Ok(self.receiver.queue.resume().await?)
    }

    /// One worker: takes queued events into their rooms until `stop` becomes true.
    pub async fn receive(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let worked = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                worked = self.work() => worked,
            };
            if worked {
                continue;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.receiver.queue.schedule.changed.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Takes queued events into their rooms until none is due.
    pub async fn receive_due(&self) {
        while self.work().await {}
    }

    /// Why an event was dropped that had been accepted for its room, if it was.
    ///
    /// # Errors
    /// As the store says.
    pub async fn dropped(&self, room_id: &str, event_id: &str) -> Result<Option<String>> {
        let row: Option<InboundDropRow> = self.store.get(vec![room_id.into(), event_id.into()]).await?;
        Ok(row.map(|row| row.reason))
    }

    /// Forgets old answers to transactions and old reasons; to be called now and then.
    ///
    /// # Errors
    /// As the store says.
    pub async fn prune(&self) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let answers = Read::along::<InboundTransactionRow>(InboundTransactionRow::BY_TIME, vec![])
            .before(now_ms.saturating_sub(ANSWERS_KEPT_MS));
        let drops =
            Read::along::<InboundDropRow>(InboundDropRow::BY_TIME, vec![]).before(now_ms.saturating_sub(DROPS_KEPT_MS));
        let mut batch = CommitBatch::new();
        for row in self.store.all::<InboundTransactionRow>(answers.limit(PRUNED_MAX)).await? {
            batch.delete::<InboundTransactionRow>(vec![row.origin.into(), row.txn_id.into()]);
        }
        for row in self.store.all::<InboundDropRow>(drops.limit(PRUNED_MAX)).await? {
            batch.delete::<InboundDropRow>(vec![row.room_id.into(), row.event_id.into()]);
        }
        if !batch.is_empty() {
            commit(&self.store, batch).await?;
        }
        Ok(())
    }
}

//! The publisher: tells this node's followers of every commit of every node, in position order, and then answers.
//!
//! Its own writer's groups come over a channel. Those of other nodes are read from the `stream` table: when a hint of
//! PostgreSQL's NOTIFY names a higher position, when an own group leaves a gap, and once a second in any case, so that
//! hints may be lost without harm.

use std::sync::Arc;
use std::time::Duration;

use store::tables::core::StreamRow;
use store::{Notifier, Row as _, StreamEntry, StreamKind, StreamPosition};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::connection::{Backoff, CHANNEL, Connection, Fault, Hints, WHISPERS};
use crate::params::{Param, decode_row};
use crate::route::Route;
use crate::writer::Settled;

/// How often the stream is looked at when no hint comes.
const POLL: Duration = Duration::from_secs(1);

/// The most entries that are fetched at once.
const FETCH_MAX: i64 = 1_000;

/// How long one look at the stream may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

const FETCH: &str = "SELECT pos, kind, room, user_id, number FROM stream \
    WHERE pos > $1::bigint ORDER BY pos LIMIT $2::bigint";

/// The publisher's task.
pub struct Publisher {
    /// Where PostgreSQL is.
    pub route: Route,
    /// Where is published.
    pub notifier: Arc<Notifier>,
    /// All commits up to here have been published.
    pub reached: i64,
    /// The own writer's groups.
    pub settled: mpsc::Receiver<Settled>,
    /// The listening connection, if it stands.
    pub connection: Option<Connection>,
    /// Where that connection notes what other nodes tell.
    pub hints: Hints,
}

impl Publisher {
    /// Works until the writer has ended.
    pub async fn run(mut self) {
        let mut told: watch::Receiver<i64> = self.hints.told.subscribe();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                settled = self.settled.recv() => match settled {
                    Some(settled) => self.settle(settled).await,
                    None => return,
                },
                _ = told.changed() => {
                    let end = *told.borrow_and_update();
                    if end > self.reached {
                        self.look(end).await;
                    }
                }
                _ = tick.tick() => self.look(0).await,
            }
        }
    }

    /// Publishes one group of the own writer, after all that lies before it, and answers its batches.
    async fn settle(&mut self, settled: Settled) {
        let first = settled.end - i64::try_from(settled.entries.len()).unwrap_or(0) + 1;
        if first == self.reached + 1 {
            self.publish(first, &settled.entries);
        }
        let mut backoff = Backoff::new();
        while self.reached < settled.end {
            match self.fetch(settled.end).await {
                Ok(()) => {}
                Err(fault) => {
                    tracing::warn!(?fault, "the stream cannot be read; commits wait to be published");
                    self.connection = None;
                    backoff.pause().await;
                }
            }
        }
        for (outcome, answer) in settled.answers {
            // Nobody may wait for it any more.
            drop(outcome.send(answer));
        }
    }

    /// Publishes what there is; failing is no harm, since it is tried again within the second.
    async fn look(&mut self, end: i64) {
        if let Err(fault) = self.fetch(end).await {
            tracing::debug!(?fault, "the stream cannot be read");
            self.connection = None;
        }
    }

    /// Publishes what the stream holds beyond what was reached. All up to `end` is known to be committed.
    async fn fetch(&mut self, end: i64) -> Result<(), Fault> {
        let mut connection = self.listening().await?;
        loop {
            let params = vec![Param::Int(Some(self.reached)), Param::Int(Some(FETCH_MAX))];
            let call = connection.call(FETCH, params).await?;
            let rows = connection.run(&[call], ANSWER_WAIT).await?.into_iter().flatten();
            let mut found = Vec::new();
            for row in rows {
                let values = decode_row(StreamRow::TABLE, &row, 0).map_err(Fault::Refused)?;
                found.push(StreamRow::from_values(values).map_err(Fault::Refused)?);
            }
            let more = i64::try_from(found.len()).unwrap_or(0) == FETCH_MAX;
            self.publish_rows(found);
            if !more {
                break;
            }
        }
        // Positions without a row were jumped over or pruned.
        self.reached = self.reached.max(end);
        self.connection = Some(connection);
        Ok(())
    }

    async fn listening(&mut self) -> Result<Connection, Fault> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            return Ok(connection);
        }
        let connection = Connection::open(&self.route, Some(self.hints.clone())).await?;
        connection.execute(&format!("LISTEN {CHANNEL}; LISTEN {WHISPERS}")).await?;
        Ok(connection)
    }

    /// Publishes rows of the stream, each stretch of consecutive positions at once.
    fn publish_rows(&mut self, rows: Vec<StreamRow>) {
        let mut first = 0;
        let mut entries = Vec::new();
        for row in rows {
            let next = first + i64::try_from(entries.len()).unwrap_or(0);
            if row.pos.0 != next {
                self.publish(first, &entries);
                entries.clear();
                first = row.pos.0;
            }
            match StreamKind::from_number(row.kind) {
                Some(kind) => {
                    entries.push(StreamEntry { kind, room: row.room, user: row.user_id, number: row.number });
                }
                None => {
                    tracing::warn!(kind = row.kind, pos = row.pos.0, "a stream entry is of a newer version's kind");
                    self.publish(first, &entries);
                    entries.clear();
                    first = row.pos.0 + 1;
                    self.reached = row.pos.0;
                }
            }
        }
        self.publish(first, &entries);
    }

    fn publish(&mut self, first: i64, entries: &[StreamEntry]) {
        if entries.is_empty() {
            return;
        }
        self.notifier.publish(StreamPosition(first), entries);
        self.reached = self.reached.max(first + i64::try_from(entries.len()).unwrap_or(0) - 1);
    }
}

//! Tables of the store itself: the counter, the stream, sequences, reader positions and jobs.

use crate::{RoomNum, Row, StreamPosition, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[
    MetaRow::TABLE,
    CounterRow::TABLE,
    SequenceRow::TABLE,
    StreamRow::TABLE,
    ReaderRow::TABLE,
    JobRow::TABLE,
    WriterRow::TABLE,
];

/// Name of the fact (in `meta`) that tells which positions were given in futures that a restore has undone.
pub const LOST_POSITIONS: &str = "lost_positions";

/// Ranges of positions that were given in futures that a restore has undone: after each restore positions go on far
/// beyond those that may have been given since the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostPositions(Vec<(i64, i64)>);

impl LostPositions {
    /// Reads the stored form: `after-before` per restore, divided by commas. What has another form is left out.
    pub fn parse(text: &str) -> Self {
        let number = |text: &str| text.parse::<i64>().ok();
        let range =
            |text: &str| text.split_once('-').and_then(|(after, before)| Some((number(after)?, number(before)?)));
        Self(text.split(',').filter_map(range).collect())
    }

    /// Adds a restore that moved the counter from one position to another.
    pub fn add(&mut self, from: i64, to: i64) {
        self.0.push((from, to));
    }

    /// If a position is of a lost future: the last one before it that was not lost.
    pub fn last_before(&self, pos: StreamPosition) -> Option<StreamPosition> {
        let found = self.0.iter().find(|(after, before)| *after < pos.0 && pos.0 < *before);
        found.map(|(after, _)| StreamPosition(*after))
    }

    /// Where the stream went on after the last restore; zero if there was none. What was known before it may be outdated.
    pub fn last_restored(&self) -> StreamPosition {
        self.0.iter().map(|(_, before)| StreamPosition(*before)).max().unwrap_or(StreamPosition::ZERO)
    }
}

impl std::fmt::Display for LostPositions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (after, before)) in self.0.iter().enumerate() {
            write!(f, "{}{after}-{before}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

table! {
    /// Facts about the database as a whole: server name, token epoch, lost positions.
    "meta" => MetaRow key(name) {
        /// Name of the fact.
        name: String,
        /// Its value.
        value: String,
    }
}

table! {
    /// The one counter of stream positions. One row, `id` 1, written by engines only.
    "counter" => CounterRow key(id) {
        /// Always 1.
        id: i64,
        /// The last position given.
        pos: i64,
    }
}

table! {
    /// Where each sequence of internal numbers goes on.
    "sequences" => SequenceRow key(name) {
        /// Name of the sequence.
        name: String,
        /// First number not yet reserved by any process.
        next: i64,
    }
}

table! {
    /// What changed at each position. Written by engines from the batch's stream entries.
    "stream" => StreamRow key(pos) {
        /// The position.
        pos: StreamPosition,
        /// A [`crate::StreamKind`] as number.
        kind: i64,
        /// The room, if any.
        room: Option<RoomNum>,
        /// The user, if any.
        user_id: Option<UserId>,
        /// A number whose meaning the kind gives.
        number: Option<i64>,
    }
}

table! {
    /// How far each reader of the stream has come (pushers, appservices, destinations, the search index).
    "readers" => ReaderRow key(name) {
        /// Kind and key of the reader.
        name: String,
        /// The owner's epoch: changed by compare-and-swap when another node takes over.
        owner_epoch: i64,
        /// All entries up to here are done with.
        done: i64,
    }
}

table! {
    /// Long work that survives a crash: one row per job, deleted when done.
    "jobs" => JobRow key(kind, name) {
        /// Kind of the job, which names its runner.
        kind: String,
        /// What it works on.
        name: String,
        /// Where it has come to, in the runner's own form.
        cursor: String,
        /// Not before this time, in milliseconds since the epoch.
        due_ms: i64,
        /// How often it has failed in a row.
        failures: i64,
    }
    index BY_DUE(due_ms);
}

table! {
    /// The last commit of each writing process, by which the outcome of a commit that lost its connection is learnt.
    "writers" => WriterRow key(writer) {
        /// Random name of the process.
        writer: String,
        /// Number of its last durable commit.
        commits: i64,
        /// The last stream position as of that commit.
        last_pos: i64,
    }
}

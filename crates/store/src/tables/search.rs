//! Tables of the search index: which words which messages have.

use crate::{EventNum, RoomNum, Row, Table, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[SearchRunRow::TABLE, SearchBlockRow::TABLE, SearchDocumentRow::TABLE];

table! {
    /// A run of the index: postings in order, in blocks. Small runs are merged into larger ones.
    "search_runs" => SearchRunRow key(run) {
        /// Its number.
        run: i64,
        /// What is to be made of it; see `search::runs`.
        state: i64,
        /// How many documents had postings in it when it was written.
        documents: i64,
        /// The earliest time of a document, in milliseconds since the epoch.
        from_ms: i64,
        /// The latest time of a document.
        to_ms: i64,
        /// The lowest number of an event.
        from_event: EventNum,
        /// The highest number of an event.
        to_event: EventNum,
    }
}

table! {
    /// A block of a run.
    "search_blocks" => SearchBlockRow key(run, first) {
        /// The run.
        run: i64,
        /// No posting in the block is below this one, and none of an earlier block is at or above it.
        first: Vec<u8>,
        /// The postings, packed.
        postings: Vec<u8>,
    }
}

table! {
    /// What the index has of an event, so that it can be taken out again when its text is gone.
    "search_documents" => SearchDocumentRow key(room, event) {
        /// The room.
        room: RoomNum,
        /// The event.
        event: EventNum,
        /// The time by which it is ordered, in milliseconds since the epoch.
        at_ms: i64,
        /// For an edit: the event whose text it replaces.
        target: Option<EventNum>,
        /// The terms of its text, packed.
        terms: Vec<u8>,
    }
}

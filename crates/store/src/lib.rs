//! The storage contract: tables, the commit batch, reads, the stream of changes and its notifier.
//!
//! Everything durable is a row of a declared table ([`tables`]). The only way to write is a [`CommitBatch`]: checks,
//! rows and stream entries that become durable together or not at all. The only way to read is a list of typed
//! [`Read`]s, answered from one snapshot in one round trip. Engines (SQLite, PostgreSQL, the in-memory [`model`]) know
//! tables, keys and ranges, and nothing of Matrix; they pass one conformance suite.

pub mod batch;
pub mod clock;
pub mod conformance;
pub mod engine;
pub mod error;
pub mod ids;
pub mod inbox;
pub mod merge;
pub mod model;
pub mod notifier;
pub mod read;
pub mod shards;
pub mod table;
pub mod tables;
pub mod value;
pub mod whispers;

pub use batch::{Check, CommitBatch, Committed, Expect, StreamEntry, StreamKind, Write};
pub use clock::{Clock, Entropy};
pub use engine::{Engine, Outcome, Store, Ticket};
pub use error::{CommitError, Error};
pub use ids::{DeviceId, EventNum, RoomNum, StreamPosition, UserId};
pub use inbox::Inbox;
pub use notifier::{Follower, Notifier};
pub use read::{LIMIT_MAX, Read, Rows};
pub use shards::{Nodes, Shards};
pub use table::{Column, Index, Row, Table, decode};
pub use value::{ColumnType, Field, Value};
pub use whispers::Whispers;

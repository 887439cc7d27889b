//! Tables of pushing: what waits for each pusher.

use crate::{EventNum, RoomNum, Row, StreamPosition, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[PushRow::TABLE, PushStateRow::TABLE];

table! {
    /// What a pusher's gateway is to be told, in the order of positions.
    "pushes" => PushRow key(user_id, app_id, pushkey, pos) {
        /// Whose pusher.
        user_id: UserId,
        /// The pusher's app.
        app_id: String,
        /// The pusher's address within the app.
        pushkey: String,
        /// Position of what happened.
        pos: StreamPosition,
        /// The room in which it happened; none where the number of unread messages alone may have changed.
        room: Option<RoomNum>,
        /// The event that notifies; none where the number of unread messages alone may have changed.
        event: Option<EventNum>,
        /// The actions of the rule that matched, a JSON array.
        actions: String,
        /// When it was queued, in milliseconds since the epoch.
        queued_ms: i64,
    }
}

table! {
    /// What a pusher's gateway was told last, and how it fares. A pusher without a row was never told anything.
    "push_states" => PushStateRow key(user_id, app_id, pushkey) {
        /// Whose pusher.
        user_id: UserId,
        /// The pusher's app.
        app_id: String,
        /// The pusher's address within the app.
        pushkey: String,
        /// The number of what is unread that the gateway was told last; -1 if it is not known what it has heard, since it
        /// did not answer.
        badge: i64,
        /// Since when the gateway fails, in milliseconds since the epoch; 0 if it answers.
        failing_since_ms: i64,
        /// How often it has failed in a row.
        failures: i64,
        /// Not before this time is it tried again, in milliseconds since the epoch.
        retry_at_ms: i64,
    }
}

//! Tables of federation.

use crate::{Row, StreamPosition, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[
    DestinationRow::TABLE,
    OutboundEduRow::TABLE,
    DeviceListDueRow::TABLE,
    DeviceListSentRow::TABLE,
    InboundPduRow::TABLE,
    InboundTransactionRow::TABLE,
    InboundDropRow::TABLE,
    ServerKeyRow::TABLE,
    ServerKeyResponseRow::TABLE,
    RetiredKeyRow::TABLE,
];

table! {
    /// Another server that is behind: it could not be reached, or has not caught up since. A server without a row has
    /// been sent everything that the reader `federation` is past.
    "destinations" => DestinationRow key(server) {
        /// The server's name.
        server: String,
        /// Everything up to here has been sent.
        behind_from: StreamPosition,
        /// Since when it fails, in milliseconds since the epoch; 0 if it answers.
        failing_since_ms: i64,
        /// How often it has failed in a row.
        failures: i64,
        /// Not before this time is it tried again, in milliseconds since the epoch.
        retry_at_ms: i64,
    }
}

table! {
    /// An EDU that must arrive (a to-device message) and waits for its destination.
    "outbound_edus" => OutboundEduRow key(server, pos, number) {
        /// The destination.
        server: String,
        /// Position at which it was sent.
        pos: StreamPosition,
        /// Its place among those of one batch.
        number: i64,
        /// The EDU, a JSON object.
        edu: String,
    }
}

table! {
    /// A local user's devices or keys changed, and a server that shares a room with the user has not been told: at most
    /// one row of each pair.
    "device_lists_due" => DeviceListDueRow key(server, user_id, pos) {
        /// The destination.
        server: String,
        /// The local user.
        user_id: UserId,
        /// Position of the last change.
        pos: StreamPosition,
        /// When it became due, in milliseconds since the epoch.
        at_ms: i64,
    }
}

table! {
    /// What a server was last told of a local user's devices.
    "device_lists_sent" => DeviceListSentRow key(server, user_id) {
        /// The destination.
        server: String,
        /// The local user.
        user_id: UserId,
        /// The `stream_id` that it was told.
        stream_id: i64,
        /// Hashes of what it was told of each device: a JSON object by device id.
        devices: String,
        /// Hash of the cross-signing keys that it was told; empty for none.
        signing: String,
    }
}

table! {
    /// An event of another server that passed format, signature and hash checks and waits for its room's worker.
    "inbound_pdus" => InboundPduRow key(room_id, event_id) {
        /// The room.
        room_id: String,
        /// The event.
        event_id: String,
        /// Its place in the order of arrival.
        number: i64,
        /// The server that sent it.
        origin: String,
        /// The event as it came.
        pdu: Vec<u8>,
        /// How often the worker has tried in vain.
        attempts: i64,
        /// Not before this time is it tried, in milliseconds since the epoch.
        due_ms: i64,
    }
    index BY_DUE (room_id, due_ms, number);
}

table! {
    /// The answer to a transaction of another server, kept for when the transaction is sent again.
    "inbound_transactions" => InboundTransactionRow key(origin, txn_id) {
        /// The server that sent it.
        origin: String,
        /// Its id, which that server chose.
        txn_id: String,
        /// The body of the answer.
        answer: String,
        /// When it was answered, in milliseconds since the epoch.
        at_ms: i64,
    }
    index BY_TIME (at_ms);
}

table! {
    /// An accepted event of another server that came to a dead end: what it builds on cannot be had.
    "inbound_drops" => InboundDropRow key(room_id, event_id) {
        /// The room.
        room_id: String,
        /// The event.
        event_id: String,
        /// The server that sent it.
        origin: String,
        /// Why it was dropped.
        reason: String,
        /// When, in milliseconds since the epoch.
        at_ms: i64,
    }
    index BY_TIME (at_ms);
}

table! {
    /// A key of another server. Kept when that server is gone: its old events are checked with it.
    "server_keys" => ServerKeyRow key(server, key_id) {
        /// Whose.
        server: String,
        /// Its id, with the algorithm.
        key_id: String,
        /// The public half in Base64.
        public: String,
        /// Until when it is trusted, in milliseconds since the epoch; never more than seven days from when it was got.
        valid_until_ms: i64,
        /// When it ceased to sign, in milliseconds since the epoch; none for a current key.
        expired_ms: Option<i64>,
        /// When it was got, in milliseconds since the epoch.
        fetched_ms: i64,
        /// SHA-256 of the response that it came in.
        response: Vec<u8>,
    }
}

table! {
    /// A key response as its server signed it, for those who ask us as a notary. Lives as long as a key of it.
    "server_key_responses" => ServerKeyResponseRow key(server, hash) {
        /// Whose.
        server: String,
        /// SHA-256 of the response.
        hash: Vec<u8>,
        /// The response, a JSON object with the server's own signatures.
        response: String,
        /// Until when it is trusted, in milliseconds since the epoch.
        valid_until_ms: i64,
        /// When it was got, in milliseconds since the epoch.
        fetched_ms: i64,
    }
}

table! {
    /// A key with which this server signed once.
    "retired_keys" => RetiredKeyRow key(key_id) {
        /// Its id, with the algorithm.
        key_id: String,
        /// The public half in Base64.
        public: String,
        /// When it ceased to sign, in milliseconds since the epoch.
        expired_ms: i64,
    }
}

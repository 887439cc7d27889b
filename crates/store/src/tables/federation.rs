//! Tables of federation.

use crate::{Row, Table, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[ServerKeyRow::TABLE, ServerKeyResponseRow::TABLE, RetiredKeyRow::TABLE];

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

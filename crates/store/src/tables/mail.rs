//! Tables of e-mail: the addresses of accounts, sessions in which an address is confirmed, and mails that wait.

use crate::{Row, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[ThreepidRow::TABLE, EmailSessionRow::TABLE, MailRow::TABLE, UnsubscribeRow::TABLE];

table! {
    /// A third-party identifier of a local account. One identifier belongs to one account.
    "threepids" => ThreepidRow key(medium, address) {
        /// `email`.
        medium: String,
        /// The address in the form in which addresses are compared.
        address: String,
        /// Whose.
        user_id: UserId,
        /// The address as it was confirmed: where mail goes.
        mailbox: String,
        /// When it was confirmed, in milliseconds since the epoch.
        validated_ms: i64,
        /// When the account got it, in milliseconds since the epoch.
        added_ms: i64,
    }
    index BY_USER(user_id);
}

table! {
    /// A session in which somebody shows to receive the mail of an address, for one purpose.
    "email_sessions" => EmailSessionRow key(sid) {
        /// Its id, which follows from purpose, user, address and client secret.
        sid: String,
        /// `register`, `add` or `reset`.
        purpose: String,
        /// `add`: who asked, if a token said so. `reset`: whose address it is. Else empty.
        user_id: String,
        /// The address in the form in which addresses are compared.
        address: String,
        /// Where its mail goes.
        mailbox: String,
        /// SHA-256 of the client's secret.
        client_secret_hash: Vec<u8>,
        /// The highest attempt for which a mail was queued.
        send_attempt: i64,
        /// SHA-256 of the tokens that were mailed, 32 bytes each, the newest last.
        tokens: Vec<u8>,
        /// Where the page leads on once the address is confirmed.
        next_link: Option<String>,
        /// Whether it can be confirmed: one about which nothing may be told is not, and looks the same.
        open: bool,
        /// When the address was confirmed, in milliseconds since the epoch.
        validated_ms: Option<i64>,
        /// When it ends, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_USER(user_id);
    index BY_EXPIRY(expires_ms);
}

table! {
    /// A mail that waits to be sent. Tokens are made when it leaves, so that none stands here.
    "mails" => MailRow key(id) {
        /// Its id, by which mailboxes can tell that it came twice.
        id: String,
        /// What it says: the name of its templates.
        kind: String,
        /// Where it goes.
        mailbox: String,
        /// The session whose token it is to carry; empty for none.
        sid: String,
        /// What is filled in, a JSON object.
        content: String,
        /// When it was queued, in milliseconds since the epoch.
        queued_ms: i64,
        /// Not before this time is it tried, in milliseconds since the epoch.
        due_ms: i64,
        /// How often it has failed.
        failures: i64,
    }
    index BY_DUE(due_ms);
}

table! {
    /// A link by which the mails of a pusher end, by the SHA-256 of its token.
    "unsubscribes" => UnsubscribeRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// Whose pusher.
        user_id: UserId,
        /// The pusher's app.
        app_id: String,
        /// The pusher's address within the app.
        pushkey: String,
        /// When the link ends, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

//! Tables of accounts, sessions, devices and what users keep. Secrets stand here only as hashes.

use crate::{DeviceId, EventNum, RoomNum, Row, StreamPosition, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[
    AccountRow::TABLE,
    AccessTokenRow::TABLE,
    RefreshTokenRow::TABLE,
    DeviceRow::TABLE,
    DehydratedDeviceRow::TABLE,
    DeviceSeenRow::TABLE,
    DeviceChangeRow::TABLE,
    LoginTokenRow::TABLE,
    OpenIdTokenRow::TABLE,
    RegistrationTokenRow::TABLE,
    SetupTokenRow::TABLE,
    UiaSessionRow::TABLE,
    CrossSigningResetRow::TABLE,
    ProfileRow::TABLE,
    AccountDataRow::TABLE,
    FilterRow::TABLE,
    ReceiptRow::TABLE,
    ToDeviceRow::TABLE,
    ToDeviceTransactionRow::TABLE,
    PusherRow::TABLE,
    DeviceKeysRow::TABLE,
    OneTimeKeyRow::TABLE,
    FallbackKeyRow::TABLE,
    CrossSigningKeyRow::TABLE,
    KeySignatureRow::TABLE,
    RemoteDeviceListRow::TABLE,
    RemoteDeviceRow::TABLE,
    BackupVersionRow::TABLE,
    BackupKeyRow::TABLE,
    RendezvousRow::TABLE,
    ReportRow::TABLE,
    ErasedUserRow::TABLE,
    ThreadSubscriptionRow::TABLE,
    SyncConnectionRow::TABLE,
    SyncConnectionStateRow::TABLE,
];

table! {
    /// A local account. Never deleted: a deactivated one keeps its id reserved.
    "accounts" => AccountRow key(user_id) {
        /// The user.
        user_id: UserId,
        /// Argon2id hash of the password in PHC form; none if the account has no password.
        password_hash: Option<String>,
        /// Server administrator.
        admin: bool,
        /// `user`, `guest` or `appservice`.
        kind: String,
        /// Deactivated for ever.
        deactivated: bool,
        /// Locked: sessions live but may do nothing but log out.
        locked: bool,
        /// Suspended: may read but not write.
        suspended: bool,
        /// Erasure was asked for at deactivation.
        erased: bool,
        /// When it was made, in milliseconds since the epoch.
        created_ms: i64,
        /// Id of the appservice that made it.
        appservice: Option<String>,
    }
}

table! {
    /// A deactivated local user who asked for erasure: who comes into a room later gets the user's events pruned.
    "erased_users" => ErasedUserRow key(user_id) {
        /// The user.
        user_id: UserId,
        /// Position of the erasure.
        pos: StreamPosition,
    }
}

table! {
    /// An access token, by the SHA-256 of its text.
    "access_tokens" => AccessTokenRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// Whose.
        user_id: UserId,
        /// The device it belongs to.
        device_id: DeviceId,
        /// When it was given, in milliseconds since the epoch.
        created_ms: i64,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: Option<i64>,
        /// The refresh token that came with it, by hash: with one, expiry is a soft logout.
        refresh: Option<Vec<u8>>,
        /// The refresh token, by hash, that dies with this token's first use.
        retires: Option<Vec<u8>>,
        /// By which API the session began: `legacy` or `oauth`.
        kind: String,
    }
    index BY_USER(user_id, device_id);
}

table! {
    /// A refresh token, by the SHA-256 of its text.
    "refresh_tokens" => RefreshTokenRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// Whose.
        user_id: UserId,
        /// The device it belongs to.
        device_id: DeviceId,
        /// The access token that was given with it, by hash.
        access: Vec<u8>,
        /// The refresh token, by hash, that dies with this token's first use.
        retires: Option<Vec<u8>>,
        /// The refresh token, by hash, that this one was exchanged for, as yet unused.
        successor: Option<Vec<u8>>,
        /// By which API the session began: `legacy` or `oauth`.
        kind: String,
    }
    index BY_USER(user_id, device_id);
}

table! {
    /// A device of a local user.
    "devices" => DeviceRow key(user_id, device_id) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// Name for people to read.
        display_name: Option<String>,
        /// When it was made, in milliseconds since the epoch.
        created_ms: i64,
    }
}

table! {
    /// When and where a device was last seen, coarsely.
    "device_seen" => DeviceSeenRow key(user_id, device_id) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// When, in milliseconds since the epoch.
        seen_ms: i64,
        /// The client's address.
        ip: String,
        /// What the client called itself.
        user_agent: String,
    }
}

table! {
    /// When a user's devices, device names, keys or cross-signing keys last changed.
    "device_changes" => DeviceChangeRow key(user_id) {
        /// The user, local or remote.
        user_id: UserId,
        /// Position of the last change.
        pos: StreamPosition,
    }
    index BY_POS(pos);
}

table! {
    /// A login token (`m.login.token`): single use, for a short time.
    "login_tokens" => LoginTokenRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// Whom it logs in.
        user_id: UserId,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

table! {
    /// An OpenID token, by which another service learns who a user is.
    "openid_tokens" => OpenIdTokenRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// Whom it names.
        user_id: UserId,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

table! {
    /// A registration token (`m.login.registration_token`).
    "registration_tokens" => RegistrationTokenRow key(token) {
        /// Its text, which administrators list and hand out.
        token: String,
        /// How many accounts it may make; none for no limit.
        uses_allowed: Option<i64>,
        /// Registrations that have shown it and are not finished.
        pending: i64,
        /// Accounts made with it.
        completed: i64,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: Option<i64>,
    }
}

table! {
    /// The one-time token that lets the first account of a fresh server be made, as an administrator.
    "setup_tokens" => SetupTokenRow key(token_hash) {
        /// SHA-256 of the token.
        token_hash: Vec<u8>,
        /// When it was made, in milliseconds since the epoch.
        created_ms: i64,
    }
}

table! {
    /// A session of user-interactive authentication. Holds what was proven, never a credential.
    "uia_sessions" => UiaSessionRow key(session) {
        /// Its id.
        session: String,
        /// The account whose token began it; empty where there is none.
        user_id: String,
        /// Method and path of the request.
        operation: String,
        /// SHA-256 of the request's body without `auth`, once it is bound.
        body_hash: Option<Vec<u8>>,
        /// The completed stages in order, as a JSON array.
        completed: String,
        /// The registration token whose pending uses count this session, or `first-account`.
        registration_token: Option<String>,
        /// The session in which an e-mail address was confirmed, by its id.
        email_session: Option<String>,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

table! {
    /// The user's leave, given on the account-management page, to reset cross-signing once.
    "cross_signing_resets" => CrossSigningResetRow key(user_id) {
        /// Whose keys.
        user_id: UserId,
        /// When it expires, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

table! {
    /// A field of a user's profile.
    "profiles" => ProfileRow key(user_id, field) {
        /// The user.
        user_id: UserId,
        /// Name of the field.
        field: String,
        /// Its value, as JSON.
        value: String,
    }
}

table! {
    /// Account data of a user, global or of a room. `m.push_rules` holds only what differs from the default rules.
    "account_data" => AccountDataRow key(user_id, room_id, kind) {
        /// Whose.
        user_id: UserId,
        /// The room id; empty for global account data.
        room_id: String,
        /// Its type.
        kind: String,
        /// Its content, a JSON object.
        content: String,
        /// Position of the last change.
        pos: StreamPosition,
    }
    index BY_POS(user_id, pos);
    index BY_KIND(kind);
    index BY_ROOM(room_id);
}

table! {
    /// A filter that a client has stored.
    "filters" => FilterRow key(user_id, filter_id) {
        /// Whose.
        user_id: UserId,
        /// Derived from the filter's text, so that the same filter is stored once.
        filter_id: String,
        /// The filter, a JSON object.
        filter: String,
    }
}

table! {
    /// A user's newest receipt of a type in a room, per thread.
    "receipts" => ReceiptRow key(room, user_id, receipt_type, thread) {
        /// The room.
        room: RoomNum,
        /// Whose.
        user_id: UserId,
        /// `m.read`, `m.read.private` or `m.fully_read`.
        receipt_type: String,
        /// The thread root's event id, `main`, or empty for an unthreaded receipt.
        thread: String,
        /// The event that has been read.
        event_id: String,
        /// Its number; none while the event is unknown.
        event: Option<EventNum>,
        /// Its stream position, by which receipts are compared; zero while it is unknown.
        event_pos: StreamPosition,
        /// The room's message counter at the event.
        messages: i64,
        /// When it was read, in milliseconds since the epoch.
        ts: i64,
        /// Position of the last change.
        pos: StreamPosition,
    }
    index BY_POS(room, pos);
}

table! {
    /// A to-device message that waits for its device.
    "to_device" => ToDeviceRow key(user_id, device_id, pos) {
        /// The recipient.
        user_id: UserId,
        /// The recipient's device.
        device_id: DeviceId,
        /// Position at which it arrived.
        pos: StreamPosition,
        /// Who sent it.
        sender: UserId,
        /// Its type.
        kind: String,
        /// Its content, a JSON object.
        content: String,
    }
}

table! {
    /// A transaction id of `/sendToDevice` that has been used.
    "to_device_transactions" => ToDeviceTransactionRow key(user_id, device_id, kind, txn_id) {
        /// The sender.
        user_id: UserId,
        /// The sender's device, which is the scope of the id.
        device_id: DeviceId,
        /// The type of the messages, which is part of the path.
        kind: String,
        /// The id.
        txn_id: String,
        /// When, in milliseconds since the epoch.
        at_ms: i64,
    }
    index BY_TIME(at_ms);
}

table! {
    /// Where a user's notifications are pushed.
    "pushers" => PusherRow key(user_id, app_id, pushkey) {
        /// Whose.
        user_id: UserId,
        /// The app.
        app_id: String,
        /// The address within the app.
        pushkey: String,
        /// The device whose session set it and with which it dies.
        device_id: DeviceId,
        /// All of it, a JSON object as in the API.
        pusher: String,
        /// When it was set, in milliseconds since the epoch.
        created_ms: i64,
        /// Position of the last change.
        pos: StreamPosition,
    }
    index BY_KEY(app_id, pushkey);
}

table! {
    /// The identity keys of a local user's device.
    "device_keys" => DeviceKeysRow key(user_id, device_id) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// The signed object, as uploaded.
        keys: String,
    }
}

table! {
    /// A one-time key that nobody has claimed. In key order they are handed out: oldest first.
    "one_time_keys" => OneTimeKeyRow key(user_id, device_id, algorithm, number) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// The algorithm.
        algorithm: String,
        /// Rises with each upload.
        number: i64,
        /// The key's id, without the algorithm.
        key_id: String,
        /// The key, as uploaded.
        key: String,
    }
}

table! {
    /// A device's fallback key of an algorithm, for when no one-time key is left.
    "fallback_keys" => FallbackKeyRow key(user_id, device_id, algorithm) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// The algorithm.
        algorithm: String,
        /// The key's id, without the algorithm.
        key_id: String,
        /// The key, as uploaded.
        key: String,
        /// It has been handed out.
        used: bool,
    }
}

table! {
    /// A cross-signing key of a user.
    "cross_signing_keys" => CrossSigningKeyRow key(user_id, usage) {
        /// Whose.
        user_id: UserId,
        /// `master`, `self_signing` or `user_signing`.
        usage: String,
        /// The key object, as uploaded.
        key: String,
    }
}

table! {
    /// A signature of one user's key by another key, as uploaded to `/keys/signatures/upload`.
    "key_signatures" => KeySignatureRow key(user_id, target, signer, signer_key) {
        /// Whose key is signed.
        user_id: UserId,
        /// The signed key: a device id or the public key of a cross-signing key.
        target: String,
        /// Who signed it.
        signer: UserId,
        /// The id of the signing key, with its algorithm.
        signer_key: String,
        /// The signature.
        signature: String,
    }
    index BY_SIGNER(signer);
}

table! {
    /// A copy of the device list of another server's user.
    "remote_device_lists" => RemoteDeviceListRow key(user_id) {
        /// Whose.
        user_id: UserId,
        /// Number of the update up to which the list was whole when it was fetched.
        stream_id: i64,
        /// Numbers of the updates that were applied since, divided by commas.
        seen: String,
        /// The user's master key, as told.
        master: Option<String>,
        /// The user's self-signing key, as told.
        self_signing: Option<String>,
        /// Position of the stream before the list was asked for.
        pos: StreamPosition,
        /// When it was fetched, in milliseconds since the epoch.
        fetched_ms: i64,
        /// When the list is to be fetched anew, in milliseconds since the epoch; none while the copy holds.
        due_ms: Option<i64>,
        /// How often that has failed in a row.
        failures: i64,
    }
    index BY_DUE(due_ms);
}

table! {
    /// A device of another server's user, part of the copy of the user's list.
    "remote_devices" => RemoteDeviceRow key(user_id, device_id) {
        /// Whose.
        user_id: UserId,
        /// The device.
        device_id: String,
        /// The signed object, as told.
        keys: String,
        /// Name for people to read.
        display_name: Option<String>,
    }
}

table! {
    /// A version of a user's key backup.
    "backup_versions" => BackupVersionRow key(user_id, version) {
        /// Whose.
        user_id: UserId,
        /// The version, from 1.
        version: i64,
        /// The algorithm.
        algorithm: String,
        /// Its `auth_data`, a JSON object.
        auth_data: String,
        /// Raised with each change of the keys.
        etag: i64,
        /// Number of keys.
        count: i64,
        /// Deleted: the number is not given again.
        deleted: bool,
    }
}

table! {
    /// A backed-up room key.
    "backup_keys" => BackupKeyRow key(user_id, version, room_id, session_id) {
        /// Whose.
        user_id: UserId,
        /// The backup version.
        version: i64,
        /// The room.
        room_id: String,
        /// The Megolm session.
        session_id: String,
        /// Lowest message index that the key decrypts.
        first_message_index: i64,
        /// How often it was forwarded.
        forwarded_count: i64,
        /// Whether the device that backed it up had verified its origin.
        is_verified: bool,
        /// The encrypted key, a JSON object.
        session_data: String,
    }
}

table! {
    /// Where two devices meet for a sign-in by QR code: a place in a slot, for some minutes.
    "rendezvous" => RendezvousRow key(slot) {
        /// The slot: there is a fixed number of them.
        slot: i64,
        /// What one must know to find the place.
        secret: String,
        /// The form of the API by which it was opened.
        dialect: String,
        /// What was left there last.
        data: Vec<u8>,
        /// Rises with each write.
        sequence: i64,
        /// When it was written last, in milliseconds since the epoch.
        changed_ms: i64,
        /// When it ends, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_EXPIRY(expires_ms);
}

table! {
    /// A user's report of something inappropriate, for administrators to read.
    "reports" => ReportRow key(number) {
        /// Rises with each report.
        number: i64,
        /// Who reported it.
        reporter: UserId,
        /// What it is about: `room`, `event` or `user`.
        about: String,
        /// The room, for `room` and `event`.
        room_id: Option<String>,
        /// The event, for `event`.
        event_id: Option<String>,
        /// The user, for `user`; the event's sender, for `event`.
        user_id: Option<UserId>,
        /// Why.
        reason: String,
        /// The event as it was when it was reported, as JSON, for `event`.
        event: Option<String>,
        /// When, in milliseconds since the epoch.
        at_ms: i64,
        /// When an administrator was done with it, in milliseconds since the epoch.
        closed_ms: Option<i64>,
    }
    index BY_REPORTER(reporter);
}

table! {
    /// That a user follows a thread, or does so no more (MSC4306).
    "thread_subscriptions" => ThreadSubscriptionRow key(user_id, room_id, root) {
        /// Whose.
        user_id: UserId,
        /// The room id.
        room_id: String,
        /// Event id of the thread's root.
        root: String,
        /// Whether the user follows it.
        subscribed: bool,
        /// Whether a client subscribed by itself.
        automatic: bool,
        /// Position of the last change.
        pos: StreamPosition,
    }
    index BY_POS(user_id, pos);
    index BY_ROOM(room_id);
}

table! {
    /// A connection of sliding sync: its client has had the answer that made `tip`, or the one before it.
    "sync_connections" => SyncConnectionRow key(user_id, device_id, conn_id) {
        /// Whose.
        user_id: UserId,
        /// The device; empty where the session has none.
        device_id: DeviceId,
        /// As the client calls it.
        conn_id: String,
        /// Generation of the newest state.
        tip: i64,
        /// Generation of the state before it; the same where there is none.
        parent: i64,
        /// When it was last used, about, in milliseconds since the epoch.
        used_ms: i64,
    }
    index BY_USED(used_ms);
}

table! {
    /// What a connection of sliding sync has been sent, as of one generation.
    "sync_connection_states" => SyncConnectionStateRow key(user_id, device_id, conn_id, generation) {
        /// Whose.
        user_id: UserId,
        /// The device; empty where the session has none.
        device_id: DeviceId,
        /// As the client calls it.
        conn_id: String,
        /// The generation, unique on the server.
        generation: i64,
        /// The state, in the form of `sync::sliding::connection`.
        state: Vec<u8>,
    }
}

table! {
    /// A user's dehydrated device (MSC3814). It has a row in `devices` as well, and keys like any other.
    "dehydrated_devices" => DehydratedDeviceRow key(user_id) {
        /// Whose.
        user_id: UserId,
        /// Its id.
        device_id: DeviceId,
        /// What a client needs to wake it, encrypted for the user; JSON text, as uploaded.
        data: String,
    }
}

//! Tables of the room engine.

use crate::{DeviceId, EventNum, RoomNum, Row, StreamPosition, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[
    RoomRow::TABLE,
    EventRow::TABLE,
    EventBytesRow::TABLE,
    StateEventRow::TABLE,
    FragmentRow::TABLE,
    MissingPrevRow::TABLE,
    StateKeyRow::TABLE,
    StateSegmentRow::TABLE,
    RoomHeadRow::TABLE,
    MembershipRow::TABLE,
    RelationRow::TABLE,
    RedactionRow::TABLE,
    AliasRow::TABLE,
    TransactionRow::TABLE,
    DelayedEventRow::TABLE,
    DelayRow::TABLE,
    StickyRow::TABLE,
    NotificationRow::TABLE,
    MutedRow::TABLE,
    MutingRow::TABLE,
    UncountedRow::TABLE,
    ThreadRow::TABLE,
    OwnMessageRow::TABLE,
    OwnInThreadRow::TABLE,
    ThreadAsideRow::TABLE,
    HistoryGapRow::TABLE,
    RoomServerRow::TABLE,
    ResidencyRow::TABLE,
    RemoteRoomRow::TABLE,
    PartialRoomRow::TABLE,
    PartialEventRow::TABLE,
    LeftOutRow::TABLE,
];

table! {
    /// A room and its head: rewritten with every event, guarded by `version`.
    "rooms" => RoomRow key(room) {
        /// The room's number.
        room: RoomNum,
        /// The room id.
        room_id: String,
        /// The room version's identifier.
        room_version: String,
        /// Number of the create event.
        create: i64,
        /// Another number with each batch of the room, never the same twice: what compare-and-swap compares.
        version: i64,
        /// Current state: root of the tree of `m.room.member` events.
        head_members: Vec<u8>,
        /// Current state: root of the tree of all other state events.
        head_rest: Vec<u8>,
        /// Event numbers of the forward extremities, packed.
        extremities: Vec<u8>,
        /// The live fragment of the timeline, to which new events are appended.
        fragment: i64,
        /// Index of the next event in the live fragment.
        next_index: i64,
        /// Number of the next state segment.
        next_segment: i64,
        /// Number of the next state key.
        next_key: i64,
        /// Bytes of state segments written since the last checkpoint.
        segment_bytes: i64,
        /// How many notifiable messages the main timeline has had (the prefix counter of unread counts).
        messages: i64,
        /// Joined members.
        joined: i64,
        /// Invited members.
        invited: i64,
        /// Position of the last event.
        last_pos: StreamPosition,
        /// Depth of the deepest forward extremity.
        depth: i64,
        /// Whether the room stands in the public directory.
        published: bool,
        /// The room this one was upgraded to, where a local tombstone says so.
        successor: Option<String>,
    }
    unique BY_ID(room_id);
}

table! {
    /// An event's place, graph and flags. Its bytes stand in `event_bytes`.
    "events" => EventRow key(event) {
        /// The event's number.
        event: EventNum,
        /// Its room.
        room: RoomNum,
        /// Its id, unique within the room (room versions 1 and 2 let servers choose ids).
        event_id: String,
        /// Stream position at which it became visible; none for outliers, rejected and soft-failed events.
        pos: Option<StreamPosition>,
        /// The timeline fragment it stands in.
        fragment: Option<i64>,
        /// Its index in the fragment.
        idx: Option<i64>,
        /// Depth as the event says.
        depth: i64,
        /// `origin_server_ts`.
        ts: i64,
        /// Sender.
        sender: UserId,
        /// Event type.
        kind: String,
        /// State key, if a state event.
        state_key: Option<String>,
        /// Flag bits; see `rooms::flags`.
        flags: i64,
        /// Why it was rejected or soft-failed.
        reason: Option<String>,
        /// State before it: the two roots; none for outliers.
        state_before: Option<Vec<u8>>,
        /// State after it, where that differs from the state before.
        state_after: Option<Vec<u8>>,
        /// The room's message counter after this event.
        messages: i64,
        /// The event id of the thread root it belongs to.
        thread: Option<String>,
        /// The event that redacted it.
        redacted_by: Option<EventNum>,
        /// For a state event: the one it replaced in the state before it.
        replaces: Option<EventNum>,
        /// For a local event: the sending device and its transaction id, divided by a line feed; or the delay id under
        /// which it was scheduled, without one.
        transaction: Option<String>,
        /// Event numbers of its previous events that are known, packed.
        prev: Vec<u8>,
        /// Event numbers of its auth events, packed.
        auth: Vec<u8>,
    }
    index BY_TIMELINE(room, fragment, idx);
    index BY_POS(room, pos);
    unique BY_ID(room, event_id);
}

table! {
    /// The exact bytes of an event in federation form (rewritten only by a redaction).
    "event_bytes" => EventBytesRow key(event) {
        /// The event's number.
        event: EventNum,
        /// Its JSON.
        json: Vec<u8>,
    }
}

table! {
    /// The auth edges of a room's state events, from which its auth graph is loaded in one read.
    "state_events" => StateEventRow key(room, event) {
        /// The room.
        room: RoomNum,
        /// The state event.
        event: EventNum,
        /// The key at which it is state.
        key_id: i64,
        /// Event numbers of its auth events, packed.
        auth: Vec<u8>,
    }
}

table! {
    /// A stretch of a room's timeline without gaps. Timeline order is fragment by fragment along `next`, then index.
    "fragments" => FragmentRow key(room, fragment) {
        /// The room.
        room: RoomNum,
        /// Number of the fragment within the room.
        fragment: i64,
        /// The fragment before it.
        previous: Option<i64>,
        /// The fragment after it.
        next: Option<i64>,
        /// Whether history before its first event is missing.
        gap: bool,
    }
}

table! {
    /// That an event is known to be missing since a known one names it as previous.
    "missing_prevs" => MissingPrevRow key(room, event_id, child) {
        /// The room.
        room: RoomNum,
        /// The missing event's id.
        event_id: String,
        /// The known event that names it.
        child: EventNum,
    }
}

table! {
    /// The dense numbers that a room's state trees use for (type, state key).
    "state_keys" => StateKeyRow key(room, key_id) {
        /// The room.
        room: RoomNum,
        /// The number, from 0 in order of first appearance.
        key_id: i64,
        /// Event type.
        kind: String,
        /// State key.
        state_key: String,
    }
    unique BY_NAME(room, kind, state_key);
}

table! {
    /// New nodes of state trees, one row per change.
    "state_segments" => StateSegmentRow key(room, segment) {
        /// The room.
        room: RoomNum,
        /// Number of the segment within the room.
        segment: i64,
        /// The nodes.
        nodes: Vec<u8>,
        /// CRC-32 of the nodes.
        crc32: u32,
        /// The lowest segment that any node of this one reaches.
        lowest: i64,
    }
}

table! {
    /// The room's current state as of each position at which it changed. State as of a token is read here, never from
    /// an event's snapshot: an event on an old fork can change the resolved state.
    "room_heads" => RoomHeadRow key(room, pos) {
        /// The room.
        room: RoomNum,
        /// From this position on.
        pos: StreamPosition,
        /// Root of the tree of members.
        members: Vec<u8>,
        /// Root of the tree of other state.
        rest: Vec<u8>,
    }
}

table! {
    /// A local user's membership of a room.
    "memberships" => MembershipRow key(user_id, room) {
        /// The user.
        user_id: UserId,
        /// The room.
        room: RoomNum,
        /// `join`, `invite`, `knock`, `leave` or `ban`.
        membership: String,
        /// The membership event.
        event: EventNum,
        /// Position of the last change.
        pos: StreamPosition,
        /// Position of the join, for joined members: a room joined since a token is sent whole.
        joined_pos: StreamPosition,
        /// Position at which the last join ended; 0 while it lasts or if there never was one.
        left_pos: StreamPosition,
        /// Who set it.
        sender: UserId,
        /// The room's message counter at the join: what came before is not unread.
        joined_messages: i64,
        /// The user has forgotten the room.
        forgotten: bool,
        /// Stripped state for an invite or a knock, as a JSON array.
        stripped: Option<Vec<u8>>,
    }
    index BY_ROOM(room, membership);
    index BY_POS(user_id, pos);
}

table! {
    /// An event's relation to its parent.
    "relations" => RelationRow key(room, parent, rel_type, event) {
        /// The room.
        room: RoomNum,
        /// The parent's event id.
        parent: String,
        /// `m.annotation`, `m.replace`, `m.thread`, `m.reference` or other.
        rel_type: String,
        /// The child.
        event: EventNum,
        /// The child's type.
        kind: String,
        /// The child's sender.
        sender: UserId,
        /// The child's `origin_server_ts`.
        ts: i64,
        /// An annotation's key.
        aggregation_key: Option<String>,
    }
}

table! {
    /// A redaction and its target, which may not have come yet.
    "redactions" => RedactionRow key(room, target, event) {
        /// The room.
        room: RoomNum,
        /// The redacted event's id.
        target: String,
        /// The redaction event.
        event: EventNum,
        /// When the stored bytes of the target are to be rewritten in pruned form, ms since the epoch; 0 when done.
        rewrite_due_ms: i64,
    }
    index BY_DUE(rewrite_due_ms);
}

table! {
    /// A room alias of this server.
    "aliases" => AliasRow key(alias) {
        /// The full alias.
        alias: String,
        /// The room id it points to.
        room_id: String,
        /// Who made it.
        creator: UserId,
    }
    index BY_ROOM(room_id);
}

table! {
    /// The answer that a client's transaction id got, so that a repeated request adds nothing.
    "transactions" => TransactionRow key(user_id, device_id, path, txn_id) {
        /// Whose.
        user_id: UserId,
        /// The device, which is the scope of the id.
        device_id: DeviceId,
        /// The request path without the id.
        path: String,
        /// The id.
        txn_id: String,
        /// The answer: an event id, or empty.
        answer: String,
        /// When it was given, in milliseconds since the epoch.
        at_ms: i64,
    }
    index BY_TIME(at_ms);
}

table! {
    /// An event that a user has asked to be sent later, and for some days what became of it (MSC4140).
    "delayed_events" => DelayedEventRow key(delay_id) {
        /// Its id: who knows it may restart, send or cancel the event.
        delay_id: String,
        /// Whose.
        user_id: UserId,
        /// The room id; the room may be gone.
        room_id: String,
        /// Event type.
        kind: String,
        /// State key, if it is to be a state event.
        state_key: Option<String>,
        /// Content, as JSON.
        content: String,
        /// How long the event is to be sticky once it is sent, in milliseconds (MSC4354).
        sticky_ms: Option<i64>,
        /// How long after its last start it is sent, in milliseconds.
        delay_ms: i64,
        /// Its last start, once it is finalised; before that `delays` says so. In milliseconds since the epoch.
        since_ms: Option<i64>,
        /// When it was sent, cancelled or found impossible, in milliseconds since the epoch.
        finalised_ms: Option<i64>,
        /// The event that was sent.
        event_id: Option<String>,
        /// Why it could not be sent: the error as a client gets it, as JSON.
        error: Option<String>,
    }
    index BY_USER(user_id);
    index BY_FINALISED(finalised_ms);
}

table! {
    /// When a delayed event is due; gone when it is finalised. All that a restart changes.
    "delays" => DelayRow key(delay_id) {
        /// The delayed event.
        delay_id: String,
        /// Whose.
        user_id: UserId,
        /// When it was scheduled or last restarted, in milliseconds since the epoch.
        since_ms: i64,
        /// When it is to be sent; later than asked for if that could not be done. In milliseconds since the epoch.
        due_ms: i64,
    }
    index BY_DUE(due_ms);
    index BY_USER(user_id, due_ms);
}

table! {
    /// An event that is to reach everybody in its room until it expires (MSC4354).
    "sticky_events" => StickyRow key(room, event) {
        /// The room.
        room: RoomNum,
        /// The event's number.
        event: EventNum,
        /// Who sent it.
        sender: UserId,
        /// When clients learn of it; none while it is soft-failed.
        pos: Option<StreamPosition>,
        /// When it ends to be sticky, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_POS(pos);
    index BY_EXPIRY(expires_ms);
}

table! {
    /// An event that highlights for a user, or that counts or does not by a rule of the user's own. Messages that count
    /// by the default rules have no row: the prefix counters hold them.
    "notifications" => NotificationRow key(user_id, room, pos) {
        /// The user.
        user_id: UserId,
        /// The room.
        room: RoomNum,
        /// The event's position.
        pos: StreamPosition,
        /// The event.
        event: EventNum,
        /// The event id of the thread root, or empty for the main timeline.
        thread: String,
        /// Added to what the event counts for the user by the prefix counter and [`MutingRow`]: 1, -1 or 0.
        notify: i64,
        /// Whether it highlights.
        highlight: bool,
    }
}

table! {
    /// A local user who mutes a room now.
    "muted" => MutedRow key(room, user_id) {
        /// The room.
        room: RoomNum,
        /// The user.
        user_id: UserId,
    }
}

table! {
    /// The message with which a user's muting of a room begins or ends. What lies in between counts for nothing to the user,
    /// but for what has a row of its own.
    "muting" => MutingRow key(user_id, room, pos) {
        /// The user.
        user_id: UserId,
        /// The room.
        room: RoomNum,
        /// The message's position.
        pos: StreamPosition,
        /// Whether it begins.
        muted: bool,
        /// The room's message counter before the message.
        messages: i64,
    }
}

table! {
    /// An event that was redacted after it had been counted: whoever had not read it has nothing to read there any more.
    /// Prefix counters and the rows of the event stay as they are, so that a redaction costs the same in a room of any size.
    "uncounted" => UncountedRow key(room, pos) {
        /// The room.
        room: RoomNum,
        /// The event's position.
        pos: StreamPosition,
        /// Whether the prefix counter of the main timeline holds it.
        by_default: bool,
    }
}

table! {
    /// A thread of a room.
    "threads" => ThreadRow key(room, root) {
        /// The room.
        room: RoomNum,
        /// Event id of the thread's root.
        root: String,
        /// Position of its last event.
        last_pos: StreamPosition,
        /// Its last event.
        latest: EventNum,
    }
    index BY_POS(room, last_pos);
}

table! {
    /// A local user's own last message in the main timeline of a room: sending is reading.
    "own_messages" => OwnMessageRow key(user_id, room) {
        /// The user.
        user_id: UserId,
        /// The room.
        room: RoomNum,
        /// Position of the message.
        pos: StreamPosition,
        /// The room's message counter at it.
        messages: i64,
    }
}

table! {
    /// A local user's own last event in a thread, of whatever kind: sending is reading there, too.
    "own_in_threads" => OwnInThreadRow key(user_id, room, root) {
        /// The user.
        user_id: UserId,
        /// The room.
        room: RoomNum,
        /// Event id of the thread's root.
        root: String,
        /// Position of the event.
        pos: StreamPosition,
    }
}

table! {
    /// An event that notifies by the default rules and stands in a thread without being a reply: an edit that mentions the
    /// room, say. No counter holds it.
    "thread_asides" => ThreadAsideRow key(room, pos) {
        /// The room.
        room: RoomNum,
        /// The event's position.
        pos: StreamPosition,
        /// Event id of the thread's root.
        root: String,
    }
}

table! {
    /// A place where a room's history is missing: an event of the timeline names a previous event that is in none.
    "history_gaps" => HistoryGapRow key(room, event_id, child) {
        /// The room.
        room: RoomNum,
        /// The previous event's id.
        event_id: String,
        /// The event of the timeline that names it.
        child: EventNum,
        /// The fragment in which that stands.
        fragment: i64,
    }
    index BY_FRAGMENT(room, fragment);
}

table! {
    /// A server with joined members in a room.
    "room_servers" => RoomServerRow key(room, server) {
        /// The room.
        room: RoomNum,
        /// The server.
        server: String,
        /// How many of its users are joined.
        joined: i64,
    }
}

table! {
    /// When a server came to have joined members in a room, and when it had no more: up to and including that position
    /// it is sent what happens there.
    "residencies" => ResidencyRow key(room, server, pos) {
        /// The room.
        room: RoomNum,
        /// The server.
        server: String,
        /// The position of the change.
        pos: StreamPosition,
        /// Whether it has joined members from then on.
        resident: bool,
    }
    index BY_POS(room, pos);
    index BY_SERVER(server, room, pos);
}

table! {
    /// The number that is set aside for a room that this server is not in: local users are invited to it, or it is being
    /// joined. The room has no row in `rooms` yet.
    "remote_rooms" => RemoteRoomRow key(room_id) {
        /// The room id.
        room_id: String,
        /// The room's number.
        room: RoomNum,
        /// The room version's identifier.
        room_version: String,
        /// Another number with each attempt to join, which guards what that writes ahead.
        import: i64,
        /// When it was set aside, in milliseconds since the epoch.
        at_ms: i64,
    }
    unique BY_NUM(room);
}

table! {
    /// A room that was joined with part of its state (MSC3902): most memberships from before the join come later.
    "partial_rooms" => PartialRoomRow key(room) {
        /// The room.
        room: RoomNum,
        /// Event id of the join; the state before it is what is missing.
        join_id: String,
        /// The server that let us in.
        resident: String,
        /// The servers that were said to be in the room, divided by line feeds. As long as the state is not whole, each
        /// of them counts as if it had one joined user more than is known; after that there are none.
        servers: String,
        /// When the room was joined, in milliseconds since the epoch.
        since_ms: i64,
        /// Since when the room's state is whole; zero as long as it is not.
        whole_pos: StreamPosition,
    }
}

table! {
    /// An event that was judged by part of a room's state, and is to be judged again.
    "partial_events" => PartialEventRow key(room, event) {
        /// The room.
        room: RoomNum,
        /// The event.
        event: EventNum,
    }
}

table! {
    /// An event of the state before an edge, which is a join or an event behind a gap, or of the auth chain of that, that
    /// could not be verified, since a key could not be had at that moment, or that cites such a one. As long as there are
    /// any, events are judged by part of the state.
    "left_out" => LeftOutRow key(room, edge, event_id) {
        /// The room.
        room: RoomNum,
        /// The id of the event before which it is missing.
        edge: String,
        /// The event's id.
        event_id: String,
        /// Whether it belongs to the state before the edge; else to the auth chain of that.
        in_state: bool,
        /// Whether the edge is a join of this server, whose state a resident vouched for.
        at_join: bool,
        /// The state that was told without it: the roots of its trees.
        told: Vec<u8>,
        /// The event as it came.
        json: Vec<u8>,
    }
}

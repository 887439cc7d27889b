//! Flag bits of a stored event.

/// Known only as part of another event's state or auth chain: it has no place in the timeline and no state of its own.
pub const OUTLIER: i64 = 1;
/// Failed the auth rules against its auth events or the state before it: never shown, never an extremity.
pub const REJECTED: i64 = 2;
/// Failed the auth rules against the current state: not shown, not an extremity, but part of state resolution.
pub const SOFT_FAILED: i64 = 4;
/// Its stored content was pruned: by a redaction, or since its content hash did not match.
pub const REDACTED: i64 = 8;
/// Waits for previous or auth events that are not known yet; becomes an ordinary event when they have come.
pub const WAITING: i64 = 16;
/// Counts as a notifiable message for members with default push rules.
pub const NOTIFIABLE: i64 = 32;
/// Its redaction has been judged valid (for redaction events).
pub const REDACTION_APPLIED: i64 = 64;

/// Came through a membership handshake of this server, which hands it on to the other servers in the room.
pub const FORWARDED: i64 = 128;

/// Judged by part of the room's state: it is to be judged again when the whole is known (MSC3902).
pub const PARTIAL: i64 = 256;

/// For some members it counts otherwise than by default, or highlights: they have rows of their own.
pub const EXCEPTIONS: i64 = 512;

/// Some member had muted the room when it came.
pub const MUTED: i64 = 1_024;

/// Bits that an event has before it is judged, and keeps.
pub const KEPT: i64 = REDACTED | FORWARDED;
/// Bits of an event that has no place in any timeline.
pub const HIDDEN: i64 = OUTLIER | REJECTED | SOFT_FAILED | WAITING;

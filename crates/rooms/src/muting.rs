//! Members who have muted a room. To them each message counts for nothing, which would be a row for each of them and each
//! message. Instead it is noted at which message it began and at which it ended: what lies between counts for nothing,
//! and only what a rule picks out there (a mention, say) has a row.
//!
//! Where it begins and ends is decided in the room's queue, by the messages themselves: whether a message lies within such
//! a stretch and whether it has a row of its own are one decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use event::Pdu;
use store::tables::rooms::{MembershipRow, MutedRow, MutingRow};
use store::{CommitBatch, Read, RoomNum, StreamPosition, UserId};

use crate::notify::{Exception, Judgement};
use crate::room::Head;

/// Most changes of one user's muting of one room that are looked at.
pub(crate) const CHANGES_MAX: u32 = 1_000;

/// What one user's count of an event is changed by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub user: UserId,
    /// Added to what the event counts for the user without this.
    pub notify: i64,
    pub highlight: bool,
}

/// What an event counts for whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Weighed {
    /// Whether it counts for members with default rules.
    pub by_default: bool,
    /// For whom it counts otherwise than by the room's counter and the muting.
    pub own: Vec<Own>,
    /// Who begins (true) or ends to mute the room with it.
    pub changes: Vec<(UserId, bool)>,
    /// Whether anybody mutes the room now.
    pub is_muted: bool,
}

/// Whether this is a message as rooms are muted for. Other events may count and not count by other rules.
fn is_plain(pdu: &Pdu) -> bool {
    matches!(pdu.kind.as_str(), "m.room.message" | "m.room.encrypted")
}

/// Weighs what the push rules said of an event, given who mutes the room before it.
pub(crate) fn weigh(judged: Judgement, pdu: &Pdu, head: &Head) -> Weighed {
    let Judgement { by_default, exceptions } = judged;
    let decides = by_default && is_plain(pdu);
    let mut weighed = Weighed { by_default, ..Weighed::default() };
    let named: BTreeSet<&UserId> = exceptions.iter().map(|exception| &exception.user).collect();
    let unnamed = head.muted.iter().filter(|user| {
        by_default && head.local.contains(*user) && user.as_str() != pdu.sender && !named.contains(user)
    });
    for user in unnamed {
        // It counts for the user as for anybody.
        match decides {
            true => weighed.changes.push((user.clone(), false)),
            false => weighed.own.push(Own { user: user.clone(), notify: 1, highlight: false }),
        }
    }
    for Exception { user, notify, highlight, standing } in &exceptions {
        let mut muted = head.muted.contains(user);
        if decides && *standing && muted == *notify {
            muted = !notify;
            weighed.changes.push((user.clone(), muted));
        }
        let added = i64::from(*notify) - i64::from(by_default && !muted);
        if added != 0 || *highlight {
            weighed.own.push(Own { user: user.clone(), notify: added, highlight: *highlight });
        }
    }
    let ended = weighed.changes.iter().filter(|(_, muted)| !muted).count();
    let begun = weighed.changes.len() - ended;
    weighed.is_muted = head.muted.len() + begun > ended;
    weighed
}

/// Notes who begins or ends to mute a room with an event at `pos`, before which the room's counter was `messages`.
pub(crate) fn keep(
    batch: &mut CommitBatch,
    head: &mut Head,
    changes: Vec<(UserId, bool)>,
    (pos, messages): (StreamPosition, i64),
) {
    if changes.is_empty() {
        return;
    }
    let room: RoomNum = head.row.room;
    let users = Arc::make_mut(&mut head.muted);
    for (user_id, muted) in changes {
        batch.put(MutingRow { user_id: user_id.clone(), room, pos, muted, messages });
        match muted {
            true => {
                batch.put(MutedRow { room, user_id: user_id.clone() });
                users.insert(user_id);
            }
            false => {
                batch.delete::<MutedRow>(vec![room.into(), (&user_id).into()]);
                users.remove(&user_id);
            }
        }
    }
}

/// The stretches in which a user muted a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Muting(Vec<MutingRow>);

impl Muting {
    /// Reads the changes of it, the newest first.
    pub fn read(row: &MembershipRow) -> Read {
        Read::prefix::<MutingRow>(vec![(&row.user_id).into(), row.room.into()]).reverse()
    }

    /// From the changes, the newest first.
    pub fn of(mut changes: Vec<MutingRow>) -> Self {
        changes.reverse();
        Self(changes)
    }

    /// Whether the user muted the room when something came at a position.
    pub fn covers(&self, pos: StreamPosition) -> bool {
        let after = self.0.partition_point(|change| change.pos <= pos);
        after.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|change| change.muted)
    }

    /// How many of the messages that the room's counter holds lie in those stretches: of those behind `after`, up to `upto`.
    pub fn messages(&self, after: i64, upto: i64) -> i64 {
        let ends = self.0.iter().skip(1).map(|change| change.messages).chain([upto]);
        let stretches = self.0.iter().zip(ends).filter(|(change, _)| change.muted);
        stretches.map(|(change, end)| (end.min(upto) - change.messages.max(after)).max(0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(pos: i64, muted: bool, messages: i64) -> MutingRow {
        MutingRow { user_id: "@a:us".into(), room: RoomNum(1), pos: StreamPosition(pos), muted, messages }
    }

    #[test]
    fn what_lies_in_a_muted_stretch_is_known_by_place_and_by_number() {
        let muting = Muting(vec![change(10, true, 3), change(20, false, 7), change(30, true, 9)]);
        let covered: Vec<i64> =
            [9, 10, 19, 20, 29, 30, 99].into_iter().filter(|n| muting.covers(StreamPosition(*n))).collect();
        assert_eq!(covered, [10, 19, 30, 99]);
        for (after, upto, expected) in
            [(0, 12, 7), (3, 12, 7), (5, 12, 5), (7, 12, 3), (9, 12, 3), (11, 12, 1), (12, 12, 0), (0, 5, 2), (0, 3, 0)]
        {
            assert_eq!(muting.messages(after, upto), expected, "after {after} up to {upto}");
        }
        assert_eq!((Muting::default().messages(0, 9), Muting::default().covers(StreamPosition(5))), (0, false));
    }
}

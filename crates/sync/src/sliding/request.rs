//! What a client asks for, whichever dialect it speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use store::{DeviceId, UserId};
use users::presence::PresenceState;

use crate::sliding::config::Config;

/// Lists by name.
pub type Lists = BTreeMap<String, List>;
/// What is wanted of single rooms, by room id.
pub type Subscriptions = BTreeMap<String, Config>;

/// The words that a client uses and expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `org.matrix.simplified_msc3575`, which clients speak today.
    Deployed,
    /// MSC4186 as accepted.
    Accepted,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: Option<DeviceId>,
    /// In which words.
    pub dialect: Dialect,
    /// Which of the device's connections.
    pub conn_id: String,
    /// Where the connection stands; `None` to begin it anew.
    pub pos: Option<String>,
    /// How long to wait for news.
    pub timeout: Duration,
    /// How the user is marked by this request.
    pub set_presence: PresenceState,
    /// Handed back in the answer.
    pub txn_id: Option<String>,
    /// The lists.
    pub lists: Lists,
    /// The subscriptions.
    pub subscriptions: Subscriptions,
    /// What goes beyond rooms.
    pub extensions: Extensions,
}

/// A list of rooms, the one with the newest event first.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Which of it are wanted, both ends included, from 0; `None` for all.
    pub ranges: Option<Vec<(usize, usize)>>,
    /// What is wanted of each room.
    pub config: Config,
    /// Which rooms stand in it.
    pub filters: Filters,
}

/// Which rooms stand in a list: those that fit whatever is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Direct chats, or all others.
    pub is_dm: Option<bool>,
    /// Encrypted rooms, or all others.
    pub is_encrypted: Option<bool>,
    /// Invites, or all others.
    pub is_invite: Option<bool>,
    /// Rooms of one of these types; `None` stands for rooms without one.
    pub room_types: Option<Vec<Option<String>>>,
    /// Rooms of none of these types.
    pub not_room_types: Vec<Option<String>>,
    /// Children of one of these spaces.
    pub spaces: Option<Vec<String>>,
    /// Rooms with one of these tags.
    pub tags: Option<Vec<String>>,
    /// Rooms with none of these tags.
    pub not_tags: Vec<String>,
}

/// What goes beyond rooms.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// Messages for the device.
    pub to_device: Option<ToDevice>,
    /// Device lists and counts of keys.
    pub e2ee: bool,
    /// Account data.
    pub account_data: Option<Scope>,
    /// Receipts.
    pub receipts: Option<Scope>,
    /// Who types.
    pub typing: Option<Scope>,
    /// Which threads the user follows: at most so many changes.
    pub thread_subscriptions: Option<u64>,
    /// Sticky events, of all rooms of the user; with limit and token as for messages.
    pub sticky: Option<ToDevice>,
}

/// Messages for the device.
#[derive(Clone, Debug, Default)]
pub struct ToDevice {
    /// At most so many.
    pub limit: Option<u64>,
    /// After this token, which says that all up to there have come.
    pub since: Option<String>,
}

/// For which rooms an extension is wanted; by default for all in the lists' ranges and all subscriptions.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Those in these lists' ranges; `*` for all lists.
    pub lists: Option<Vec<String>>,
    /// These subscriptions; `*` for all.
    pub rooms: Option<Vec<String>>,
}

impl Scope {
    /// Whether a room is wanted that stands in the ranges of these lists, or is subscribed to.
    pub fn includes(&self, room_id: &str, lists: &[&str], subscribed: bool) -> bool {
        let names = |names: &Option<Vec<String>>, wanted: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|name| name == "*" || name == wanted))
        };
        lists.iter().any(|list| names(&self.lists, list)) || (subscribed && names(&self.rooms, room_id))
    }
}

/// Merges ranges and cuts them to a list's length, in order. Ends are not included any more.
pub(crate) fn windows(ranges: Option<&[(usize, usize)]>, length: usize) -> Vec<(usize, usize)> {
    let Some(ranges) = ranges else { return vec![(0, length)] };
    let mut windows: Vec<(usize, usize)> = Vec::new();
    let mut sorted: Vec<_> = ranges.iter().filter(|(first, last)| first <= last && *first < length).collect();
    sorted.sort_unstable();
    for (first, last) in sorted {
        let end = last.saturating_add(1).min(length);
        match windows.last_mut() {
            Some(window) if *first <= window.1 => window.1 = window.1.max(end),
            _ => windows.push((*first, end)),
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cz2_ranges_are_cut_and_merged() {
        type Ranges<'a> = &'a [(usize, usize)];
        let table: [(Option<Ranges<'_>>, usize, Ranges<'_>); 10] = [
            (None, 3, &[(0, 3)]),
            (Some(&[]), 3, &[]),
            (Some(&[(0, 0)]), 3, &[(0, 1)]),
            (Some(&[(0, 19)]), 3, &[(0, 3)]),
            (Some(&[(3, 5)]), 3, &[]),
            (Some(&[(2, 1)]), 3, &[]),
            (Some(&[(5, 9), (0, 2)]), 20, &[(0, 3), (5, 10)]),
            (Some(&[(0, 5), (3, 8)]), 20, &[(0, 9)]),
            (Some(&[(0, 2), (3, 4)]), 20, &[(0, 5)]),
            (Some(&[(0, usize::MAX)]), 4, &[(0, 4)]),
        ];
        for (ranges, length, expected) in table {
            assert_eq!(windows(ranges, length), expected, "{ranges:?} {length}");
        }
    }

    #[test]
    fn cz8_scopes_name_lists_and_rooms() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let scope = |lists, rooms| Scope { lists, rooms };
        let table = [
            (scope(None, None), &["a"][..], false, true),
            (scope(None, None), &[][..], true, true),
            (scope(None, None), &[][..], false, false),
            (scope(names(&[]), None), &["a"][..], false, false),
            (scope(names(&["b"]), None), &["a", "b"][..], false, true),
            (scope(names(&["*"]), names(&[])), &["a"][..], true, true),
            (scope(names(&[]), names(&["!r"])), &["a"][..], true, true),
            (scope(names(&[]), names(&["!other"])), &["a"][..], true, false),
            (scope(names(&[]), names(&["*"])), &[][..], true, true),
        ];
        for (scope, lists, subscribed, expected) in table {
            assert_eq!(scope.includes("!r", lists, subscribed), expected, "{scope:?} {lists:?} {subscribed}");
        }
    }
}

//! Presence: who is there. Volatile; fades by itself when no request comes (client-server API, "Presence").

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use store::UserId;

use crate::volatile::{Volatile, VolatileChange};
use crate::{Error, Users};

/// Bytes that a status message may have.
pub const STATUS_BYTES_MAX: usize = 1_024;
/// After this time without activity an online user is no longer "currently active".
const ACTIVE_MS: i64 = 60_000;
/// After this time without activity an online user is unavailable.
const IDLE_MS: i64 = 5 * 60_000;
/// After this time without any request a user is offline.
const OFFLINE_MS: i64 = 60_000;

/// The presence states of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceState {
    /// There.
    Online,
    /// There, and idle.
    Unavailable,
    /// Not there, or hiding it.
    Offline,
}

impl PresenceState {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }

    /// From the specification's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Online, Self::Unavailable, Self::Offline].into_iter().find(|state| state.as_str() == word)
    }
}

/// A user's presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The state.
    pub state: PresenceState,
    /// The status message.
    pub status: Option<String>,
    /// Last activity, in milliseconds since the epoch.
    pub active_ms: i64,
    /// Last request of any client, in milliseconds since the epoch.
    pub seen_ms: i64,
    /// Whether the user does something right now.
    pub currently_active: bool,
}

#[derive(Default)]
struct Boards {
    users: HashMap<UserId, (Presence, i64)>,
    changes: BTreeMap<i64, UserId>,
}

/// The presence of all users that have shown one.
pub(crate) struct Board {
    boards: Mutex<Boards>,
    volatile: Arc<Volatile>,
    server_name: String,
}

impl Board {
    pub(crate) fn new(volatile: Arc<Volatile>, server_name: String) -> Self {
        Self { boards: Mutex::default(), volatile, server_name }
    }

    fn put(&self, boards: &mut Boards, user: &UserId, presence: Presence) {
        let before = boards.users.get(user);
        let told = before.is_some_and(|(before, _)| {
            (before.state, &before.status, before.currently_active)
                == (presence.state, &presence.status, presence.currently_active)
        });
        if told && let Some((kept, _)) = boards.users.get_mut(user) {
            *kept = presence;
            return;
        }
        self.volatile.change(VolatileChange::Presence(user), |number| {
            if let Some((_, last)) = boards.users.insert(user.clone(), (presence, number)) {
                boards.changes.remove(&last);
            }
            boards.changes.insert(number, user.clone());
        });
    }

    /// Lets the presence of local users who do nothing, or of whom nothing is heard, fade. Other servers tell of theirs.
    pub(crate) fn fade(&self, now_ms: i64) {
        let mut boards = self.boards.lock();
        let faded: Vec<(UserId, Presence)> = boards
            .users
            .iter()
            .filter(|(user, _)| user.server_name() == self.server_name)
            .filter(|(_, (presence, _))| presence.state != PresenceState::Offline)
            .map(|(user, (presence, _))| (user.clone(), faded(presence.clone(), now_ms)))
            .collect();
        for (user, presence) in faded {
            self.put(&mut boards, &user, presence);
        }
    }
}

fn faded(mut presence: Presence, now_ms: i64) -> Presence {
    // Where the clock jumped back, nobody stays online until it has caught up.
    presence.active_ms = presence.active_ms.min(now_ms);
    presence.seen_ms = presence.seen_ms.min(now_ms);
    let idle = now_ms - presence.active_ms;
    if now_ms - presence.seen_ms > OFFLINE_MS {
        presence.state = PresenceState::Offline;
    } else if presence.state == PresenceState::Online && idle > IDLE_MS {
        presence.state = PresenceState::Unavailable;
    }
    presence.currently_active = presence.state == PresenceState::Online && idle < ACTIVE_MS;
    presence
}

impl Users {
    /// A user says its presence. A missing `status` clears the message.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the status message.
    pub fn set_presence(&self, user: &UserId, state: PresenceState, status: Option<String>) -> Result<(), Error> {
        if status.as_ref().is_some_and(|status| status.len() > STATUS_BYTES_MAX) {
            return Err(Error::TooLarge("the status message"));
        }
        if !self.options.presence {
            return Ok(());
        }
        let now = self.now();
        let mut boards = self.presence.boards.lock();
        let currently_active = state == PresenceState::Online;
        let presence = Presence { state, status, active_ms: now, seen_ms: now, currently_active };
        self.presence.put(&mut boards, user, presence);
        Ok(())
    }

    /// A client of the user syncs, with `set_presence` as it says. It counts as activity only when it says online, and
    /// does not wake a user that another client keeps online.
    pub fn presence_seen(&self, user: &UserId, state: PresenceState) {
        if !self.options.presence || state == PresenceState::Offline {
            return;
        }
        let now = self.now();
        let mut boards = self.presence.boards.lock();
        let before = boards.users.get(user).map(|(presence, _)| presence.clone());
        let active = state == PresenceState::Online;
        let mut presence =
            before.unwrap_or(Presence { state, status: None, active_ms: now, seen_ms: now, currently_active: active });
        presence.seen_ms = now;
        if active || presence.state == PresenceState::Offline {
            presence.state = state;
        }
        if active {
            presence.active_ms = now;
            presence.currently_active = true;
        }
        self.presence.put(&mut boards, user, presence);
    }

    /// Presence of a remote user, as its server tells it.
    pub fn receive_presence(&self, user: &UserId, presence: Presence) {
        if self.options.presence {
            let mut boards = self.presence.boards.lock();
            self.presence.put(&mut boards, user, presence);
        }
    }

    /// A user's presence, if it has shown one since the start.
    pub fn presence(&self, user: &UserId) -> Option<Presence> {
        self.presence.boards.lock().users.get(user).map(|(presence, _)| presence.clone())
    }

    /// The users whose presence changed after the volatile number `since`, in order of change, with their presence now.
    pub fn presence_since(&self, since: i64) -> Vec<(UserId, Presence)> {
        let boards = self.presence.boards.lock();
        let changed = boards.changes.range(since.saturating_add(1)..).map(|(_, user)| user);
        changed.filter_map(|user| Some((user.clone(), boards.users.get(user)?.0.clone()))).collect()
    }
}

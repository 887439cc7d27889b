//! What the nodes of one database tell each other of typing and presence, which no database holds.
//!
//! Each node tells of its own users only: who types by a request to it, whose clients it has seen. What may be lost on the
//! way heals by itself, since everything that lasts is told again before the others forget it. Times are told as ages:
//! the clocks of two machines need not agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::{Clock, RoomNum, Store, UserId, Whispers};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use users::Users;
use users::presence::{Presence, PresenceState};
use users::volatile::{VolatileChange, VolatileFollower};

/// How often everything that lasts is told again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long another node's typist types without being told of again, in milliseconds.
const TYPING_MS: i64 = 30_000;
/// Typists of one room that others are told of.
const TYPISTS_MAX: usize = 20;
/// Changes that may wait to be told; further ones are told with the rest, a little later.
const CHANGES_MAX: usize = 10_000;

/// What one node tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whisper {
    /// Who types in a room by requests to this node: all of them.
    Typing { node: String, room: RoomNum, users: BTreeSet<UserId> },
    /// A user has stopped typing by a request to this node, and had begun by one to another.
    Stopped { room: RoomNum, user: UserId },
    /// The presence of a user whose client this node has seen.
    Presence {
        user: UserId,
        state: String,
        status: Option<String>,
        active_age_ms: i64,
        seen_age_ms: i64,
        currently_active: bool,
    },
}

/// What has changed here.
enum Change {
    Typing(RoomNum),
    Presence(UserId),
}

/// Passes changes on to the task that tells them.
struct Changes(mpsc::Sender<Change>);

impl VolatileFollower for Changes {
    fn changed(&self, _number: i64, change: VolatileChange<'_>) {
        let change = match change {
            VolatileChange::Typing(room) => Change::Typing(room),
            VolatileChange::Presence(user) => Change::Presence(user.clone()),
        };
        // One too many is told when everything is told again.
        drop(self.0.try_send(change));
    }
}

/// Begins to tell and to listen, where the database may have other nodes; ends with the accounts.
pub fn begin(users: &Arc<Users>, store: &Store, clock: &Arc<dyn Clock>) {
    let Some(whispers) = store.engine().whispers() else { return };
    let (sender, changes) = mpsc::channel(CHANGES_MAX);
    users.volatile().add_follower(Arc::new(Changes(sender)));
    let neighbors = Neighbors {
        users: Arc::downgrade(users),
        clock: Arc::clone(clock),
        node: users.volatile().position().epoch.to_string(),
        whispers,
        theirs: BTreeMap::new(),
        told: HashMap::new(),
        seen: HashMap::new(),
    };
    tokio::spawn(neighbors.run(changes));
}

struct Neighbors {
    users: Weak<Users>,
    clock: Arc<dyn Clock>,
    node: String,
    whispers: Arc<Whispers>,
    /// Who types by other nodes, by room and node, and until when if they tell no more.
    theirs: BTreeMap<(RoomNum, String), BTreeMap<UserId, i64>>,
    /// Who types by this node, as the others were told.
    told: HashMap<RoomNum, BTreeSet<UserId>>,
    /// When a client of a user was last seen, as the others told or were told.
    seen: HashMap<UserId, i64>,
}

impl Neighbors {
    async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut ear = self.whispers.listen();
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.recv() => {
                    let (Some(change), Some(users)) = (change, self.users.upgrade()) else { return };
                    match change {
                        Change::Typing(room) => self.tell_typing(&users, room),
                        Change::Presence(user) => {
                            if let Some(presence) = users.presence(&user) {
                                self.tell_presence(user, presence);
                            }
                        }
                    }
                }
                heard = ear.recv() => match heard {
                    Ok(text) => {
                        let Some(users) = self.users.upgrade() else { return };
                        self.hear(&users, &text);
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = again.tick() => {
                    let Some(users) = self.users.upgrade() else { return };
                    self.tell_again(&users);
                }
            }
        }
    }

    fn tell(&self, whisper: &Whisper) {
        match serde_json::to_string(whisper) {
            Ok(text) => self.whispers.tell(text),
            Err(error) => tracing::debug!(%error, "nothing can be told to the other nodes"),
        }
    }

    /// The rooms and users of whom other nodes tell, with those that have ended left out.
    fn theirs_in(&self, room: RoomNum) -> impl Iterator<Item = &UserId> {
        let now_ms = self.clock.now_ms();
        let of_room = self.theirs.range((room, String::new())..).take_while(move |((of, _), _)| *of == room);
        of_room.flat_map(|(_, users)| users).filter(move |(_, until)| **until > now_ms).map(|(user, _)| user)
    }

    fn tell_typing(&mut self, users: &Users, room: RoomNum) {
        let typing = users.typing_in(room);
        let theirs: BTreeSet<UserId> = self.theirs_in(room).cloned().collect();
        for user in theirs.difference(&typing) {
            self.forget_typist(room, user);
            self.tell(&Whisper::Stopped { room, user: user.clone() });
        }
        let own: BTreeSet<UserId> = typing.difference(&theirs).take(TYPISTS_MAX).cloned().collect();
        if own != self.told.get(&room).cloned().unwrap_or_default() {
            self.tell_typists(room, own);
        }
    }

    fn tell_typists(&mut self, room: RoomNum, users: BTreeSet<UserId>) {
        self.tell(&Whisper::Typing { node: self.node.clone(), room, users: users.clone() });
        match users.is_empty() {
            true => self.told.remove(&room),
            false => self.told.insert(room, users),
        };
    }

    fn forget_typist(&mut self, room: RoomNum, user: &UserId) {
        for ((of, _), users) in &mut self.theirs {
            if *of == room {
                users.remove(user);
            }
        }
    }

    /// Tells of a user's presence, if a client has been seen here since the others last told or were told.
    fn tell_presence(&mut self, user: UserId, presence: Presence) {
        if self.seen.get(&user).is_some_and(|seen| *seen >= presence.seen_ms) {
            return;
        }
        let now_ms = self.clock.now_ms();
        self.seen.insert(user.clone(), presence.seen_ms);
        self.tell(&Whisper::Presence {
            user,
            state: presence.state.as_str().to_owned(),
            status: presence.status,
            active_age_ms: now_ms - presence.active_ms,
            seen_age_ms: now_ms - presence.seen_ms,
            currently_active: presence.currently_active,
        });
    }

    fn tell_again(&mut self, users: &Users) {
        let now_ms = self.clock.now_ms();
        self.theirs.retain(|_, users| {
            users.retain(|_, until| *until > now_ms);
            !users.is_empty()
        });
        for (room, typists) in self.told.clone() {
            self.tell_typists(room, typists);
        }
        for (user, presence) in users.presence_since(0) {
            self.tell_presence(user, presence);
        }
    }

    fn hear(&mut self, users: &Users, text: &str) {
        match serde_json::from_str(text) {
            Ok(Whisper::Typing { node, room, users: typists }) => self.hear_typing(users, node, room, typists),
            Ok(Whisper::Stopped { room, user }) => users.set_typing(room, &user, None),
            Ok(Whisper::Presence { user, state, status, active_age_ms, seen_age_ms, currently_active }) => {
                let now_ms = self.clock.now_ms();
                let Some(state) = PresenceState::parse(&state) else { return };
                let (active_ms, seen_ms) = (now_ms - active_age_ms, now_ms - seen_age_ms);
                if users.presence(&user).is_some_and(|known| known.seen_ms > seen_ms) {
                    return;
                }
                self.seen.insert(user.clone(), seen_ms);
                users.receive_presence(&user, Presence { state, status, active_ms, seen_ms, currently_active });
            }
            Err(error) => tracing::debug!(%error, "another node tells what this one does not understand"),
        }
    }

    fn hear_typing(&mut self, users: &Users, node: String, room: RoomNum, typists: BTreeSet<UserId>) {
        let before = self.theirs.remove(&(room, node.clone())).unwrap_or_default();
        let until = self.clock.now_ms() + TYPING_MS;
        if !typists.is_empty() {
            // Before they type here too: else they would count as this node's own.
            self.theirs.insert((room, node), typists.iter().map(|user| (user.clone(), until)).collect());
        }
        for user in before.keys().filter(|user| !typists.contains(*user)) {
            users.set_typing(room, user, None);
        }
        let own = self.told.get(&room);
        for user in typists.iter().filter(|user| !own.is_some_and(|own| own.contains(*user))) {
            users.set_typing(room, user, Some(TYPING_MS));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use store::model::Model;
    use testkit::{FakeClock, SeededEntropy};

    use super::*;

    const ROOM: RoomNum = RoomNum(7);

    struct Node {
        users: Arc<Users>,
        neighbors: Neighbors,
        sending: mpsc::Receiver<String>,
    }

    async fn node(clock: &Arc<FakeClock>, seed: u64) -> Node {
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        let (entropy, options) = (Arc::new(SeededEntropy::new(seed)), users::Options::new("hearth.test"));
        let users = Users::new(store, clock.clone(), entropy, Arc::new(users::Inline), options).await.unwrap();
        let (whispers, sending) = Whispers::new();
        let neighbors = Neighbors {
            users: Arc::downgrade(&users),
            clock: Arc::clone(clock) as _,
            node: format!("node{seed}"),
            whispers: Arc::new(whispers),
            theirs: BTreeMap::new(),
            told: HashMap::new(),
            seen: HashMap::new(),
        };
        Node { users, neighbors, sending }
    }

    impl Node {
        /// Tells of a room, and hands everything to the other node; answers how much that was.
        fn exchange(&mut self, other: &mut Self) -> usize {
            self.neighbors.tell_typing(&self.users, ROOM);
            for (user, presence) in self.users.presence_since(0) {
                self.neighbors.tell_presence(user, presence);
            }
            let mut told = 0;
            while let Ok(text) = self.sending.try_recv() {
                other.neighbors.hear(&other.users, &text);
                told += 1;
            }
            told
        }
    }

    #[tokio::test]
    async fn typing_is_told_once_and_ends_wherever_it_ends() {
        let clock = Arc::new(FakeClock::default());
        let (mut one, mut two) = (node(&clock, 1).await, node(&clock, 2).await);
        let alice = UserId::from("@alice:hearth.test");
        for stops_at_home in [true, false] {
            one.users.set_typing(ROOM, &alice, Some(20_000));
            assert_eq!(one.exchange(&mut two), 1);
            assert_eq!(two.users.typing_in(ROOM), BTreeSet::from([alice.clone()]));
            assert_eq!(two.exchange(&mut one), 0, "what was heard is not told back");
            if stops_at_home {
                one.users.set_typing(ROOM, &alice, None);
            } else {
                two.users.set_typing(ROOM, &alice, None);
                assert_eq!(two.exchange(&mut one), 1);
            }
            one.exchange(&mut two);
            assert!(one.users.typing_in(ROOM).is_empty() && two.users.typing_in(ROOM).is_empty());
        }
        // The node dies: nobody types for ever.
        one.users.set_typing(ROOM, &alice, Some(120_000));
        one.exchange(&mut two);
        clock.advance(TYPING_MS + 1_000);
        assert!(two.users.typing_in(ROOM).is_empty());
    }

    #[tokio::test]
    async fn presence_comes_from_where_a_client_is_seen() {
        let clock = Arc::new(FakeClock::default());
        let (mut one, mut two) = (node(&clock, 1).await, node(&clock, 2).await);
        let alice = UserId::from("@alice:hearth.test");
        one.users.set_presence(&alice, PresenceState::Online, Some("here".to_owned())).unwrap();
        assert_eq!(one.exchange(&mut two), 1);
        let seen = two.users.presence(&alice).unwrap();
        assert_eq!((seen.state, seen.status.as_deref()), (PresenceState::Online, Some("here")));
        assert_eq!(two.exchange(&mut one), 0);
        // It fades on both, and neither tells the other of that.
        clock.advance(3_600_000);
        for node in [&mut one, &mut two] {
            node.users.tick();
            assert_eq!(node.users.presence(&alice).unwrap().state, PresenceState::Offline);
        }
        assert_eq!((one.exchange(&mut two), two.exchange(&mut one)), (0, 0));
        two.users.presence_seen(&alice, PresenceState::Online);
        assert_eq!(two.exchange(&mut one), 1);
        assert_eq!(one.users.presence(&alice).unwrap().state, PresenceState::Online);
    }
}

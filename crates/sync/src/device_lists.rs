//! Whose devices a client has to learn, and whose it need not follow any more: the `device_lists` of an answer, and
//! `/keys/changes` (client-server API, "Extensions to /sync"; behaviours CE4, CE5, CE14).
//!
//! It follows from stored state, so it is the same for any span and after a restart: in each room that changed, the
//! members then are compared with the members now. Of a large room this costs what changed, except when the reader itself
//! has come or gone. Who shares a room with the reader is looked up for the few that are asked about.
//!
//! Rooms count whether they are encrypted or not: that one tells more than a client needs, and nothing too late when a
//! room becomes encrypted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rooms::state::{MEMBER, type_key};
use rooms::state_tree::Root;
use rooms::{Event, Room, Roots};
use store::{EventNum, RoomNum, StreamPosition, UserId};

use crate::known::Memberships;
use crate::{Error, Sync, Token};

/// Members that are read at a time.
const CHUNK: usize = 1_000;

/// The answer to a client's question whose devices changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Whose keys to ask for: their devices or keys changed, or they have come to share a room with the user.
    pub changed: BTreeSet<UserId>,
    /// Who shares no room any more.
    pub left: BTreeSet<UserId>,
}

/// Users whom changes of membership concern.
#[derive(Default)]
pub(crate) struct People {
    /// Who shares a room now and perhaps did not before.
    pub came: BTreeSet<UserId>,
    /// Who shared a room before and perhaps does no more.
    pub gone: BTreeSet<UserId>,
}

impl Sync {
    /// Whose devices changed for a user after one token. The other token is a hint up to where the client has been told
    /// already: what is newer comes too, unless nothing lies between the two.
    ///
    /// # Errors
    /// [`Error::BadToken`]; as the store says.
    pub async fn device_list_changes(&self, user: &UserId, from: &str, to: &str) -> Result<DeviceLists, Error> {
        let (mut from, to) = (Token::parse(from)?, Token::parse(to)?);
        let lost = !self.reach(&mut from).await?;
        if from.pos >= to.pos && !lost {
            return Ok(DeviceLists::default());
        }
        let (upto, memberships) = self.settled(user).await?;
        let rooms = memberships.rows.keys().copied().collect();
        let people = self.people(&memberships, &rooms, from.pos, upto, lost).await?;
        self.device_lists(user, &memberships, from.pos, upto, &people).await
    }

    /// Both lists for a span in which these people came and went.
    pub(crate) async fn device_lists(
        &self,
        user: &UserId,
        memberships: &Memberships,
        since: StreamPosition,
        upto: StreamPosition,
        people: &People,
    ) -> Result<DeviceLists, Error> {
        let changes = match self.changes.device_lists() > since {
            true => self.users.device_changes(since, upto).await?,
            false => Vec::new(),
        };
        let changes: BTreeSet<UserId> = changes.into_iter().map(|(user, _)| user).collect();
        let asked: BTreeSet<UserId> = changes.iter().chain(&people.came).chain(&people.gone).cloned().collect();
        let sharing = self.sharing(memberships, asked.into_iter().map(at_all).collect()).await?;
        let came = people.came.iter().filter(|other| *other != user);
        let mut changed: BTreeSet<UserId> =
            changes.iter().chain(came).filter(|other| sharing.contains(*other)).cloned().collect();
        changed.extend(changes.contains(user).then(|| user.clone()));
        let left = people.gone.iter().filter(|other| *other != user && !sharing.contains(*other)).cloned().collect();
        Ok(DeviceLists { changed, left })
    }

    /// Who came to share a room with a user, and who shared one before, by what changed in these rooms. With `anew`, all
    /// that was before is unknown.
    pub(crate) async fn people(
        &self,
        memberships: &Memberships,
        rooms: &BTreeSet<RoomNum>,
        since: StreamPosition,
        upto: StreamPosition,
        anew: bool,
    ) -> Result<People, Error> {
        let mut people = People::default();
        for row in rooms.iter().filter_map(|room| memberships.rows.get(room)) {
            let joined = row.membership == "join";
            if !joined && (row.pos <= since || anew) {
                continue;
            }
            // An invite to a room that this server is not in has no members.
            let Some(room) = self.rooms.room_by_num(row.room).await? else { continue };
            if joined && row.joined_pos <= since && !anew {
                self.meet(&room, since, upto, &mut people).await?;
                continue;
            }
            if joined {
                let now = self.state_at(&room, upto).await?;
                self.add_joined(&room, now, &mut people.came).await?;
            }
            let before = if anew { Roots::EMPTY } else { self.state_at(&room, since).await? };
            if self.is_joined(&room, before, &row.user_id).await? {
                self.add_joined(&room, before, &mut people.gone).await?;
            }
        }
        Ok(people)
    }

    /// Finds out who came and who left while the reader was in a room.
    async fn meet(
        &self,
        room: &Arc<Room>,
        since: StreamPosition,
        upto: StreamPosition,
        people: &mut People,
    ) -> Result<(), Error> {
        if room.head().row.last_pos <= since {
            return Ok(());
        }
        let (before, now) = (self.state_at(room, since).await?, self.state_at(room, upto).await?);
        if before.members == now.members {
            return Ok(());
        }
        let (before, now) = (Roots { rest: Root::EMPTY, ..before }, Roots { rest: Root::EMPTY, ..now });
        let changes = self.rooms.state_delta(room, before, now).await?;
        for some in changes.chunks(CHUNK) {
            let nums: Vec<EventNum> = some.iter().flat_map(|change| [change.before, change.after]).flatten().collect();
            let events = self.rooms.events(room, None, &nums).await?;
            let joins: HashMap<EventNum, &Arc<Event>> =
                events.iter().filter(|event| is_join(event)).map(|event| (event.num(), event)).collect();
            let join = |num: Option<EventNum>| num.and_then(|num| joins.get(&num));
            for change in some {
                match (join(change.before), join(change.after)) {
                    (None, Some(after)) => people.came.extend(member(after)),
                    (Some(before), None) => people.gone.extend(member(before)),
                    // With something between the two, the member may have been away, and nothing was heard meanwhile.
                    (Some(before), Some(after)) if after.row.replaces != Some(before.num()) => {
                        people.came.extend(member(after));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn add_joined(&self, room: &Arc<Room>, state: Roots, to: &mut BTreeSet<UserId>) -> Result<(), Error> {
        let nums = self.rooms.tree_nums(room, state.members).await?;
        for some in nums.chunks(CHUNK) {
            let events = self.rooms.events(room, None, some).await?;
            to.extend(events.iter().filter(|event| is_join(event)).filter_map(member));
        }
        Ok(())
    }

    async fn is_joined(&self, room: &Arc<Room>, state: Roots, user: &UserId) -> Result<bool, Error> {
        let own = [type_key(MEMBER, user.as_str())];
        Ok(self.rooms.state_map(room, None, state, &own).await?.membership(user.as_str()) == "join")
    }

    /// Which of these other users share a room with a user, and have done so ever since a position: the same room, in which
    /// neither of the two was away since.
    ///
    /// # Errors
    /// As the store says.
    pub async fn shared_since(
        &self,
        user: &UserId,
        mut asked: BTreeMap<UserId, StreamPosition>,
    ) -> Result<BTreeSet<UserId>, Error> {
        // What was told in a lost future is not told again.
        let restored = self.lost_positions().await?.last_restored();
        asked.retain(|_, pos| *pos >= restored);
        let memberships = self.memberships(user).await?;
        self.sharing(&memberships, asked).await
    }

    /// Which of these users share a joined room now, and have done so since the position.
    pub(crate) async fn sharing(
        &self,
        memberships: &Memberships,
        mut asked: BTreeMap<UserId, StreamPosition>,
    ) -> Result<BTreeSet<UserId>, Error> {
        let mut sharing = BTreeSet::new();
        for row in memberships.joined() {
            if asked.is_empty() {
                break;
            }
            let Some(room) = self.rooms.room_by_num(row.room).await? else { continue };
            let head = room.head();
            let since = |pos: StreamPosition| row.joined_pos <= pos;
            let local = |(user, pos): &(&UserId, &StreamPosition)| since(**pos) && head.local.contains(*user);
            let mut found: BTreeSet<UserId> = asked.iter().filter(local).map(|(user, _)| user.clone()).collect();
            let is_there = |(user, pos): &(&UserId, &StreamPosition)| {
                let joined = || head.servers.get(user.server_name()).is_some_and(|joined| *joined > 0);
                since(**pos) && !self.users.is_local(user) && joined()
            };
            let remote: Vec<&UserId> = asked.iter().filter(is_there).map(|(user, _)| user).collect();
            // What was state when the room was joined has no position.
            let has_been = |event: &&Arc<Event>| {
                let member = member(event).and_then(|user| asked.get(&user));
                is_join(event) && member.is_some_and(|pos| event.row.pos.is_none_or(|since| since <= *pos))
            };
            if i64::try_from(remote.len()).unwrap_or(i64::MAX) > head.row.joined {
                let nums = self.rooms.tree_nums(&room, head.state.members).await?;
                for some in nums.chunks(CHUNK) {
                    let events = self.rooms.events(&room, None, some).await?;
                    found.extend(events.iter().filter(has_been).filter_map(member));
                }
            } else {
                for some in remote.chunks(CHUNK) {
                    let pairs: Vec<_> = some.iter().map(|user| type_key(MEMBER, user.as_str())).collect();
                    let state = self.rooms.state_map(&room, None, head.state, &pairs).await?;
                    found.extend(state.0.values().filter(has_been).filter_map(member));
                }
            }
            asked.retain(|user, _| !found.contains(user));
            sharing.append(&mut found);
        }
        Ok(sharing)
    }
}

/// Asks for whoever shares a room, however short.
pub(crate) fn at_all(user: UserId) -> (UserId, StreamPosition) {
    (user, StreamPosition(i64::MAX))
}

fn is_join(event: &Arc<Event>) -> bool {
    event.pdu.membership() == Some("join")
}

/// Whose membership an event sets.
fn member(event: &Arc<Event>) -> Option<UserId> {
    event.pdu.state_key.as_deref().map(UserId::from)
}

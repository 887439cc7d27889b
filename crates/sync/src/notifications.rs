//! What notified a user, of all rooms together and newest first: `GET /notifications` (client-server API, "Listing
//! notifications"; behaviour CP10). It lists what `/sync` counts as unread, and what of that has been read since.
//!
//! Rooms are looked at in the order of their newest events, each only as far back as the page goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::notifications::Notified;
use rooms::{Event, Room};
use store::tables::rooms::RoomRow;
use store::{Read, RoomNum, StreamPosition, UserId};

use crate::known::Memberships;
use crate::{Error, Sync};

/// Events of a room that are looked at at a time.
const LOOK: u32 = 32;
/// Events that are looked at for one page: of many that notify nobody, the rest is left to the next page.
const SEEN_MAX: usize = 5_000;

/// Which notifications.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where a page before this one ended.
    pub from: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// Only what highlights.
    pub only_highlights: bool,
}

/// A notification.
pub struct Notification {
    /// The room.
    pub room: Arc<Room>,
    /// The event.
    pub event: Arc<Event>,
    /// Whether it highlights.
    pub highlight: bool,
    /// Whether the user has read it.
    pub read: bool,
}

/// Some notifications, and where the next ones are.
pub struct Page {
    /// The notifications, newest first.
    pub notifications: Vec<Notification>,
    /// The token of the next page; none at the end.
    pub next: Option<String>,
}

/// The rooms that are still to be looked at, and what was found in them that older events of other rooms may precede.
struct Merge {
    /// Each room with the position of its newest event that was not looked at, or one after that.
    rooms: BTreeSet<(StreamPosition, RoomNum)>,
    found: BTreeMap<StreamPosition, (RoomNum, Notified)>,
}

impl Sync {
    /// A page of notifications. What comes after the first page was asked for stands before it, and shifts nothing.
    ///
    /// # Errors
    /// [`Error::BadToken`]; as the store says.
    pub async fn notifications(&self, user: &UserId, query: &Query) -> Result<Page, Error> {
        let (upto, memberships) = self.settled(user).await?;
        let from = query.from.as_deref().map(parse).transpose()?;
        let newest = from.map_or(upto, |before| StreamPosition(before.0 - 1).min(upto));
        let mut merge = Merge { rooms: self.rooms_by_news(&memberships, newest).await?, found: BTreeMap::new() };
        let (mut notifications, mut n_seen, mut next) = (Vec::new(), 0, None);
        let mut read_upto = BTreeMap::new();
        while notifications.len() < query.limit {
            if let Some((pos, room, notified)) = merge.take_newest() {
                next = Some(pos);
                notifications.extend(self.notification(&memberships, room, notified, &mut read_upto).await?);
                continue;
            }
            let Some((bound, room)) = merge.rooms.pop_last() else { return Ok(Page { notifications, next: None }) };
            if n_seen >= SEEN_MAX {
                next = Some(StreamPosition(bound.0 + 1));
                break;
            }
            n_seen += self.look(&memberships, &mut merge, (bound, room), query.only_highlights).await?;
        }
        Ok(Page { notifications, next: next.map(|pos| format!("n{pos}")) })
    }

    /// The rooms to which the user is joined, with the position of the newest event, if that is not before the join.
    async fn rooms_by_news(
        &self,
        memberships: &Memberships,
        newest: StreamPosition,
    ) -> Result<BTreeSet<(StreamPosition, RoomNum)>, Error> {
        let joined: Vec<_> = memberships.rows.values().filter(|row| row.membership == "join").collect();
        let reads = joined.iter().map(|row| Read::get::<RoomRow>(vec![row.room.into()])).collect();
        let mut rooms = BTreeSet::new();
        for (row, found) in joined.iter().zip(self.store.read(reads).await?) {
            let Some(room) = found.one::<RoomRow>()? else { continue };
            let bound = room.last_pos.min(newest);
            if bound > row.joined_pos {
                rooms.insert((bound, row.room));
            }
        }
        Ok(rooms)
    }

    /// Looks at some more events of a room; how many.
    async fn look(
        &self,
        memberships: &Memberships,
        merge: &mut Merge,
        (bound, num): (StreamPosition, RoomNum),
        only_highlights: bool,
    ) -> Result<usize, Error> {
        let (Some(row), Some(room)) = (memberships.rows.get(&num), self.rooms.room_by_num(num).await?) else {
            return Ok(0);
        };
        let before = StreamPosition(bound.0 + 1);
        let look = match only_highlights {
            true => self.rooms.highlighted(&room, row, before, LOOK).await?,
            false => self.rooms.notified(&room, row, before, LOOK).await?,
        };
        merge.found.extend(look.found.into_iter().map(|notified| (notified.event.pos(), (num, notified))));
        merge.rooms.extend(look.before.map(|before| (StreamPosition(before.0 - 1), num)));
        Ok(look.n_seen.max(1))
    }

    async fn notification(
        &self,
        memberships: &Memberships,
        num: RoomNum,
        Notified { event, highlight }: Notified,
        read_upto: &mut BTreeMap<(RoomNum, Option<String>), StreamPosition>,
    ) -> Result<Option<Notification>, Error> {
        let (Some(row), Some(room)) = (memberships.rows.get(&num), self.rooms.room_by_num(num).await?) else {
            return Ok(None);
        };
        let key = (num, event.row.thread.clone());
        let upto = match read_upto.get(&key) {
            Some(upto) => *upto,
            None => {
                let marks = self.marks(&row.user_id, num).await?;
                let upto = self.rooms.read_upto(&room, row, &marks, event.row.thread.as_deref()).await?;
                read_upto.insert(key, upto);
                upto
            }
        };
        let read = event.pos() <= upto;
        Ok(Some(Notification { room, event, highlight, read }))
    }
}

impl Merge {
    /// The newest that was found, if nothing newer can be found any more.
    fn take_newest(&mut self) -> Option<(StreamPosition, RoomNum, Notified)> {
        let (pos, _) = self.found.last_key_value()?;
        if self.rooms.last().is_some_and(|(bound, _)| bound >= pos) {
            return None;
        }
        self.found.pop_last().map(|(pos, (room, notified))| (pos, room, notified))
    }
}

/// The position before which the next page begins.
fn parse(token: &str) -> Result<StreamPosition, Error> {
    let number = token.strip_prefix('n').and_then(|number| number.parse::<i64>().ok());
    let position = number.filter(|number| *number > 0).map(StreamPosition);
    position.ok_or_else(|| Error::BadToken(token.to_owned()))
}

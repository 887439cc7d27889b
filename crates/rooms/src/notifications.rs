//! What notified a user in a room, newest first: the events that [`Rooms::unread`] counts, whether they are read or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::tables::rooms::{MembershipRow, MutingRow, NotificationRow, OwnInThreadRow, OwnMessageRow, UncountedRow};
use store::{EventNum, Read, StreamPosition, UserId};

use crate::event::Event;
use crate::muting::{self, Muting};
use crate::room::Room;
use crate::unread::ReadMarks;
use crate::{Result, Rooms, flags};

/// An event that notified a user.
#[derive(Clone, Debug)]
pub struct Notified {
    /// The event.
    pub event: Arc<Event>,
    /// Whether it highlights.
    pub highlight: bool,
}

/// A look at a part of a room's past.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What was found, newest first.
    pub found: Vec<Notified>,
    /// Where to look on, which is before this position; none if there is no more.
    pub before: Option<StreamPosition>,
    /// How many events were looked at.
    pub n_seen: usize,
}

impl Rooms {
    /// Looks at the newest `limit` events before a position, back to the user's join, for those that notified the user.
    ///
    /// # Errors
    /// As the store says.
    pub async fn notified(&self, room: &Room, row: &MembershipRow, before: StreamPosition, limit: u32) -> Result<Look> {
        let upto = StreamPosition(before.0 - 1);
        let events = self.newest(room, row.joined_pos, upto, limit).await?;
        let more = events.len() >= limit as usize;
        let last = events.last().map(|event| event.pos()).filter(|_| more);
        let from = last.unwrap_or(row.joined_pos);
        let rows = Read::prefix::<NotificationRow>(vec![(&row.user_id).into(), room.num.into()]);
        let muting = Muting::read(row).limit(muting::CHANGES_MAX);
        let reads = vec![rows.from(from).up_to(upto), uncounted(room, from, upto), muting];
        let mut found = self.store.read(reads).await?.into_iter();
        let rows: Vec<NotificationRow> = found.next().unwrap_or_default().all()?;
        let rows: BTreeMap<StreamPosition, NotificationRow> = rows.into_iter().map(|row| (row.pos, row)).collect();
        let gone = positions(found.next().unwrap_or_default().all()?);
        let muting = Muting::of(found.next().unwrap_or_default().all()?);
        let n_seen = events.len();
        let found = events.into_iter().filter_map(|event| {
            let own = rows.get(&event.pos());
            let by_default = event.has(flags::NOTIFIABLE) && !muting.covers(event.pos());
            let counts = i64::from(by_default) + own.map_or(0, |row| row.notify);
            let notifies = counts > 0 && event.row.sender != row.user_id && !gone.contains(&event.pos());
            let highlight = own.is_some_and(|row| row.highlight);
            notifies.then_some(Notified { event, highlight })
        });
        Ok(Look { found: found.collect(), before: last, n_seen })
    }

    /// The same of what highlights alone.
    ///
    /// # Errors
    /// As the store says.
    pub async fn highlighted(
        &self,
        room: &Room,
        row: &MembershipRow,
        before: StreamPosition,
        limit: u32,
    ) -> Result<Look> {
        let upto = StreamPosition(before.0 - 1);
        let read = Read::prefix::<NotificationRow>(vec![(&row.user_id).into(), room.num.into()]);
        let read = read.after(row.joined_pos).up_to(upto).reverse().limit(limit);
        let rows: Vec<NotificationRow> = self.store.all(read).await?;
        let n_seen = rows.len();
        let last = rows.last().map(|row| row.pos).filter(|_| n_seen >= limit as usize);
        let gone = self.store.all(uncounted(room, last.unwrap_or(row.joined_pos), upto)).await?;
        let gone = positions(gone);
        let nums: Vec<EventNum> =
            rows.iter().filter(|row| row.highlight && !gone.contains(&row.pos)).map(|row| row.event).collect();
        let events = self.events_left(room, None, &nums).await?;
        let found = events.into_iter().map(|event| Notified { event, highlight: true }).collect();
        Ok(Look { found, before: last, n_seen })
    }

    /// Those of these users, members of the room or invited by it, whom an event notified when it came, and whether it
    /// highlighted: what was counted then, whatever their rules say now.
    ///
    /// # Errors
    /// As the store says.
    pub async fn notified_by(&self, room: &Room, event: &Event, users: &[UserId]) -> Result<Vec<(UserId, bool)>> {
        let by_default = event.has(flags::NOTIFIABLE);
        if !event.has(flags::EXCEPTIONS | flags::MUTED) {
            let users = users.iter().filter(|_| by_default);
            return Ok(users.map(|user| (user.clone(), false)).collect());
        }
        let in_room = |user: &UserId| vec![user.into(), room.num.into()];
        let key = |user: &UserId| vec![user.into(), room.num.into(), event.pos().into()];
        let muting = |user: &UserId| Read::prefix::<MutingRow>(in_room(user)).up_to(event.pos()).reverse().limit(1);
        let reads = users.iter().flat_map(|user| [Read::get::<NotificationRow>(key(user)), muting(user)]).collect();
        let mut found = self.store.read(reads).await?.into_iter();
        let mut notified = Vec::new();
        for user in users {
            let row = found.next().unwrap_or_default().one::<NotificationRow>()?;
            let muting = found.next().unwrap_or_default().one::<MutingRow>()?;
            let (counts, highlights) = row.map_or((0, false), |row| (row.notify, row.highlight));
            let counts_else = by_default && !muting.is_some_and(|change| change.muted);
            if i64::from(counts_else) + counts > 0 {
                notified.push((user.clone(), highlights));
            }
        }
        Ok(notified)
    }

    /// Whether a joined user has yet to read an event: nothing at or behind it was read or sent by the user, and it was not
    /// redacted.
    ///
    /// # Errors
    /// As the store says.
    pub async fn is_unread(&self, room: &Room, row: &MembershipRow, marks: &ReadMarks, event: &Event) -> Result<bool> {
        if event.row.redacted_by.is_some() || event.pos() <= row.joined_pos.max(marks.all.pos) {
            return Ok(false);
        }
        Ok(event.pos() > self.read_upto(room, row, marks, event.row.thread.as_deref()).await?)
    }

    /// Up to where a joined user has read the main timeline, or a thread.
    ///
    /// # Errors
    /// As the store says.
    pub async fn read_upto(
        &self,
        room: &Room,
        row: &MembershipRow,
        marks: &ReadMarks,
        thread: Option<&str>,
    ) -> Result<StreamPosition> {
        let mut key = vec![(&row.user_id).into(), room.num.into()];
        let (mark, own) = match thread {
            None => (marks.main.pos, self.store.get::<OwnMessageRow>(key).await?.map(|own| own.pos)),
            Some(root) => {
                key.push(root.into());
                let mark = marks.threads.get(root).map_or(StreamPosition::ZERO, |mark| mark.pos);
                (mark, self.store.get::<OwnInThreadRow>(key).await?.map(|own| own.pos))
            }
        };
        Ok(row.joined_pos.max(marks.all.pos).max(mark).max(own.unwrap_or(StreamPosition::ZERO)))
    }
}

fn uncounted(room: &Room, from: StreamPosition, upto: StreamPosition) -> Read {
    Read::prefix::<UncountedRow>(vec![room.num.into()]).from(from).up_to(upto)
}

fn positions(rows: Vec<UncountedRow>) -> BTreeSet<StreamPosition> {
    rows.into_iter().map(|row| row.pos).collect()
}

//! Unread counts: a function of (read markers, events, rules). Messages that count by the default rules are counted by
//! the room's prefix counter; everything else has a row of its own. What is redacted counts no more: events that had
//! been counted before have a row that says so.

use std::collections::{BTreeMap, BTreeSet};

use store::tables::rooms::{MembershipRow, NotificationRow, OwnMessageRow, RelationRow, ThreadRow, UncountedRow};
use store::{EventNum, Read, StreamPosition};

use crate::room::Room;
use crate::{Result, Rooms, flags};

/// Most threads with unread messages that are counted apart.
const THREADS_MAX: u32 = 200;
/// Most unread messages that are counted in one thread.
const THREAD_MESSAGES_MAX: u32 = 1_000;
/// Most rows of highlights and exceptions that are counted.
const ROWS_MAX: u32 = 10_000;

/// Rows that are read at first: usually there are fewer, and a store answers a read of so few on the spot.
const FEW: u32 = 4;

/// How far a user has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Position of the last read event.
    pub pos: StreamPosition,
    /// The room's message counter at that event.
    pub messages: i64,
}

impl Mark {
    fn max(self, other: Self) -> Self {
        Self { pos: self.pos.max(other.pos), messages: self.messages.max(other.messages) }
    }
}

/// A user's receipts in a room, private and public alike: the more advanced counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadMarks {
    /// Unthreaded: everything up to here.
    pub all: Mark,
    /// The main timeline only.
    pub main: Mark,
    /// Threads, by root.
    pub threads: BTreeMap<String, Mark>,
}

/// Unread messages and highlights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Notifications.
    pub notifications: i64,
    /// Highlights.
    pub highlights: i64,
}

/// Unread counts of a room for a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// The main timeline.
    pub main: Counts,
    /// Threads with something unread.
    pub threads: BTreeMap<String, Counts>,
}

impl Unread {
    /// Main timeline and threads together.
    pub fn total(&self) -> Counts {
        self.threads.values().fold(self.main, |sum, counts| Counts {
            notifications: sum.notifications + counts.notifications,
            highlights: sum.highlights + counts.highlights,
        })
    }
}

impl Rooms {
    /// Counts what a joined user has not read.
    ///
    /// # Errors
    /// As the store says.
    pub async fn unread(&self, room: &Room, row: &MembershipRow, marks: &ReadMarks) -> Result<Unread> {
        let joined = Mark { pos: row.joined_pos, messages: row.joined_messages };
        let all = joined.max(marks.all);
        let head = room.head();
        let rows_read = Read::prefix::<NotificationRow>(vec![(&row.user_id).into(), room.num.into()]).after(all.pos);
        let threads_read = Read::along::<ThreadRow>(ThreadRow::BY_POS, vec![room.num.into()]).after(all.pos).reverse();
        let redacted_read = Read::prefix::<UncountedRow>(vec![room.num.into()]).after(all.pos);
        let own_read = Read::get::<OwnMessageRow>(vec![(&row.user_id).into(), room.num.into()]);
        let few = [&rows_read, &threads_read, &redacted_read].map(|read| read.clone().limit(FEW));
        let reads = few.into_iter().chain([own_read]).collect();
        let mut found = self.store.read(reads).await?.into_iter();
        let mut rows = found.next().unwrap_or_default().all::<NotificationRow>()?;
        let mut threads = found.next().unwrap_or_default().all::<ThreadRow>()?;
        let mut redacted = found.next().unwrap_or_default().all::<UncountedRow>()?;
        let own = found.next().unwrap_or_default().one::<OwnMessageRow>()?;
        if [rows.len(), threads.len(), redacted.len()].into_iter().max() >= Some(FEW as usize) {
            let reads = vec![rows_read.limit(ROWS_MAX), threads_read.limit(THREADS_MAX), redacted_read.limit(ROWS_MAX)];
            let mut found = self.store.read(reads).await?.into_iter();
            rows = found.next().unwrap_or_default().all()?;
            threads = found.next().unwrap_or_default().all()?;
            redacted = found.next().unwrap_or_default().all()?;
        }
        // Both in the order of positions.
        rows.retain(|row| redacted.binary_search_by_key(&row.pos, |redacted| redacted.pos).is_err());
        let own = own.map_or(Mark::default(), |row| Mark { pos: row.pos, messages: row.messages });
        let main = all.max(own).max(marks.main);
        let mut unread = Unread::default();
        let gone = redacted.iter().filter(|redacted| redacted.by_default && redacted.pos > main.pos).count();
        unread.main.notifications = (head.row.messages - main.messages).max(0) - i64::try_from(gone).unwrap_or(0);
        let looked_at: BTreeSet<String> = threads.iter().map(|thread| thread.root.clone()).collect();
        for thread in threads {
            let mark = all.max(marks.threads.get(&thread.root).copied().unwrap_or_default());
            let (counts, mark) = self.unread_in_thread(room, row, &thread, mark).await?;
            let mut counts = Counts { notifications: counts, highlights: 0 };
            for row in rows.iter().filter(|row| row.thread == thread.root && row.pos > mark) {
                add(&mut counts, row);
            }
            if counts != Counts::default() {
                unread.threads.insert(thread.root, counts);
            }
        }
        for row in rows.iter().filter(|row| row.thread.is_empty() && row.pos > main.pos) {
            add(&mut unread.main, row);
        }
        // An edit or a reaction can be newer than every reply of its thread.
        for row in rows.iter().filter(|row| !row.thread.is_empty() && !looked_at.contains(&row.thread)) {
            let mark = all.max(marks.threads.get(&row.thread).copied().unwrap_or_default());
            if row.pos > mark.pos {
                add(unread.threads.entry(row.thread.clone()).or_default(), row);
            }
        }
        unread.main.notifications = unread.main.notifications.max(0);
        Ok(unread)
    }

    /// Notifiable messages of a thread behind the mark or the user's own last one, whichever is later.
    async fn unread_in_thread(
        &self,
        room: &Room,
        row: &MembershipRow,
        thread: &ThreadRow,
        mark: Mark,
    ) -> Result<(i64, StreamPosition)> {
        if thread.last_pos <= mark.pos {
            return Ok((0, mark.pos));
        }
        let prefix = vec![room.num.into(), thread.root.as_str().into(), "m.thread".into()];
        let read = Read::prefix::<RelationRow>(prefix).reverse().limit(THREAD_MESSAGES_MAX);
        let rows: Vec<RelationRow> = self.store.all(read).await?;
        let nums: Vec<EventNum> = rows.iter().map(|row| row.event).collect();
        let mut events = self.events(room, None, &nums).await?;
        events.sort_by_key(|event| std::cmp::Reverse(event.row.pos));
        let mut count = 0;
        for event in events {
            if event.pos() <= mark.pos {
                break;
            }
            if event.row.sender == row.user_id {
                return Ok((count, event.pos()));
            }
            count += i64::from(event.has(flags::NOTIFIABLE));
        }
        Ok((count, mark.pos))
    }
}

fn add(counts: &mut Counts, row: &NotificationRow) {
    counts.notifications += row.notify;
    counts.highlights += i64::from(row.highlight);
}

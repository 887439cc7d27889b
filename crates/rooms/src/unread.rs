//! Unread counts: a function of (read markers, events, rules). Messages that count by the default rules are counted by
//! the room's prefix counter; everything else has a row of its own. What is redacted counts no more: events that had
//! been counted before have a row that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use store::tables::rooms::{
    MembershipRow, MutingRow, NotificationRow, OwnInThreadRow, OwnMessageRow, RelationRow, ThreadAsideRow, ThreadRow,
    UncountedRow,
};
use store::tables::users::ReceiptRow;
use store::{EventNum, Read, StreamPosition};

use crate::event::Event;
use crate::muting::{self, Muting};
use crate::room::Room;
use crate::{Result, Rooms, flags};

/// Most threads with unread messages that are counted apart.
const THREADS_MAX: u32 = 200;
/// Most unread messages that are counted in one thread.
const THREAD_MESSAGES_MAX: u32 = 1_000;
/// Most rows of highlights and exceptions that are counted.
const ROWS_MAX: u32 = 10_000;

/// Newest unread events among which those of ignored users are looked for.
const UNSEEN_SCANNED_MAX: u32 = 1_000;

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

impl ReadMarks {
    /// From the user's receipts: public and private alike, the more advanced counts.
    pub fn of(receipts: &[ReceiptRow]) -> Self {
        let mut marks = Self::default();
        for row in receipts.iter().filter(|row| row.receipt_type != "m.fully_read") {
            let mark = match row.thread.as_str() {
                "" => &mut marks.all,
                "main" => &mut marks.main,
                thread => marks.threads.entry(thread.to_owned()).or_default(),
            };
            if row.event_pos > mark.pos {
                *mark = Mark { pos: row.event_pos, messages: row.messages };
            }
        }
        marks
    }
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

/// What was found after the mark of a room as a whole.
struct Threads<'a> {
    threads: Vec<ThreadRow>,
    rows: Vec<NotificationRow>,
    asides: Vec<ThreadAsideRow>,
    muting: &'a Muting,
    ignored: &'a BTreeSet<String>,
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
    /// Counts what a joined user has not read. Of those whom the user ignores nothing counts that is no state, whenever it
    /// came: the user does not see it, and could not read it.
    ///
    /// # Errors
    /// As the store says.
    pub async fn unread(
        &self,
        room: &Room,
        row: &MembershipRow,
        marks: &ReadMarks,
        ignored: &BTreeSet<String>,
    ) -> Result<Unread> {
        let joined = Mark { pos: row.joined_pos, messages: row.joined_messages };
        let all = joined.max(marks.all);
        let head = room.head();
        let rows_read = Read::prefix::<NotificationRow>(vec![(&row.user_id).into(), room.num.into()]).after(all.pos);
        let threads_read = Read::along::<ThreadRow>(ThreadRow::BY_POS, vec![room.num.into()]).after(all.pos).reverse();
        let redacted_read = Read::prefix::<UncountedRow>(vec![room.num.into()]).after(all.pos);
        let asides_read = Read::prefix::<ThreadAsideRow>(vec![room.num.into()]).after(all.pos);
        let own_read = Read::get::<OwnMessageRow>(vec![(&row.user_id).into(), room.num.into()]);
        let muting_read = Muting::read(row);
        let few = [&rows_read, &threads_read, &redacted_read, &asides_read, &muting_read];
        let few = few.map(|read| read.clone().limit(FEW));
        let reads = few.into_iter().chain([own_read]).collect();
        let mut found = self.store.read(reads).await?.into_iter();
        let mut rows = found.next().unwrap_or_default().all::<NotificationRow>()?;
        let mut threads = found.next().unwrap_or_default().all::<ThreadRow>()?;
        let mut redacted = found.next().unwrap_or_default().all::<UncountedRow>()?;
        let mut asides = found.next().unwrap_or_default().all::<ThreadAsideRow>()?;
        let mut muting = found.next().unwrap_or_default().all::<MutingRow>()?;
        let own = found.next().unwrap_or_default().one::<OwnMessageRow>()?;
        let most = [rows.len(), threads.len(), redacted.len(), asides.len(), muting.len()].into_iter().max();
        if most >= Some(FEW as usize) {
            let [rows_read, redacted_read, asides_read] =
                [rows_read, redacted_read, asides_read].map(|read| read.limit(ROWS_MAX));
            let (threads_read, muting_read) = (threads_read.limit(THREADS_MAX), muting_read.limit(muting::CHANGES_MAX));
            let reads = vec![rows_read, threads_read, redacted_read, asides_read, muting_read];
            let mut found = self.store.read(reads).await?.into_iter();
            rows = found.next().unwrap_or_default().all()?;
            threads = found.next().unwrap_or_default().all()?;
            redacted = found.next().unwrap_or_default().all()?;
            asides = found.next().unwrap_or_default().all()?;
            muting = found.next().unwrap_or_default().all()?;
        }
        let muting = Muting::of(muting);
        // All in the order of positions.
        let stands = |pos: StreamPosition| redacted.binary_search_by_key(&pos, |redacted| redacted.pos).is_err();
        rows.retain(|row| stands(row.pos));
        asides.retain(|aside| stands(aside.pos) && !muting.covers(aside.pos));
        let own = own.map_or(Mark::default(), |row| Mark { pos: row.pos, messages: row.messages });
        let main = all.max(own).max(marks.main);
        let any = head.row.messages > main.messages || !(rows.is_empty() && threads.is_empty() && asides.is_empty());
        let unseen = if any { self.unseen(room, all.pos, ignored).await? } else { BTreeMap::new() };
        rows.retain(|row| !unseen.contains_key(&row.pos));
        asides.retain(|aside| !unseen.contains_key(&aside.pos));
        let mut unread = Unread::default();
        let counts = |pos: StreamPosition| pos > main.pos && !muting.covers(pos);
        let gone = redacted.iter().filter(|redacted| redacted.by_default && counts(redacted.pos)).count();
        let unseen = unseen.iter().filter(|(pos, counted)| **counted && counts(**pos) && stands(**pos)).count();
        let muted = muting.messages(main.messages, head.row.messages);
        unread.main.notifications =
            (head.row.messages - main.messages).max(0) - muted - i64::try_from(gone + unseen).unwrap_or(0);
        for row in rows.iter().filter(|row| row.thread.is_empty() && row.pos > main.pos) {
            add(&mut unread.main, row);
        }
        unread.main.notifications = unread.main.notifications.max(0);
        let threads = Threads { threads, rows, asides, muting: &muting, ignored };
        unread.threads = self.unread_threads(room, row, (marks, all), &threads).await?;
        Ok(unread)
    }

    /// What came after a position from those who are ignored, and whether the room's prefix counter counts it. Of very much
    /// only the newest part is looked at.
    async fn unseen(
        &self,
        room: &Room,
        since: StreamPosition,
        ignored: &BTreeSet<String>,
    ) -> Result<BTreeMap<StreamPosition, bool>> {
        if ignored.is_empty() {
            return Ok(BTreeMap::new());
        }
        let events = self.newest(room, since, room.head().row.last_pos, UNSEEN_SCANNED_MAX).await?;
        let unseen = events.iter().filter(|event| is_unseen(event, ignored));
        let counted = |event: &Event| event.has(flags::NOTIFIABLE) && event.row.thread.is_none();
        Ok(unseen.map(|event| (event.pos(), counted(event))).collect())
    }

    /// Threads with something unread: of those with replies after the mark, and those of which there is something else,
    /// since an edit or a reaction can be newer than every reply of its thread.
    async fn unread_threads(
        &self,
        room: &Room,
        row: &MembershipRow,
        (marks, all): (&ReadMarks, Mark),
        found: &Threads<'_>,
    ) -> Result<BTreeMap<String, Counts>> {
        let rows = found.rows.iter().filter(|row| !row.thread.is_empty());
        let roots = found.threads.iter().map(|thread| &thread.root).chain(rows.clone().map(|row| &row.thread));
        let roots = roots.chain(found.asides.iter().map(|aside| &aside.root)).collect();
        let own = self.own_in_threads(room, row, &roots).await?;
        let read = |root: &String| {
            let mark = marks.threads.get(root).map_or(StreamPosition::ZERO, |mark| mark.pos);
            all.pos.max(mark).max(own.get(root).copied().unwrap_or(StreamPosition::ZERO))
        };
        let mut unread: BTreeMap<String, Counts> = BTreeMap::new();
        for thread in found.threads.iter().filter(|thread| thread.last_pos > read(&thread.root)) {
            let read_to = read(&thread.root);
            let notifications = self.unread_in_thread(room, &thread.root, read_to, found).await?;
            unread.insert(thread.root.clone(), Counts { notifications, highlights: 0 });
        }
        for aside in found.asides.iter().filter(|aside| aside.pos > read(&aside.root)) {
            unread.entry(aside.root.clone()).or_default().notifications += 1;
        }
        for row in rows.filter(|row| row.pos > read(&row.thread)) {
            add(unread.entry(row.thread.clone()).or_default(), row);
        }
        for counts in unread.values_mut() {
            // Replies are counted up to a bound, those that do not count for the user without.
            counts.notifications = counts.notifications.max(0);
        }
        unread.retain(|_, counts| *counts != Counts::default());
        Ok(unread)
    }

    /// Where the user has last sent something in these threads.
    async fn own_in_threads(
        &self,
        room: &Room,
        row: &MembershipRow,
        roots: &BTreeSet<&String>,
    ) -> Result<BTreeMap<String, StreamPosition>> {
        if roots.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = |root: &str| vec![(&row.user_id).into(), room.num.into(), root.into()];
        let reads = roots.iter().map(|root| Read::get::<OwnInThreadRow>(key(root))).collect();
        let mut own = BTreeMap::new();
        for found in self.store.read(reads).await? {
            own.extend(found.one::<OwnInThreadRow>()?.map(|row| (row.root, row.pos)));
        }
        Ok(own)
    }

    /// Notifiable messages of a thread behind what is read of it.
    async fn unread_in_thread(
        &self,
        room: &Room,
        root: &str,
        read_to: StreamPosition,
        found: &Threads<'_>,
    ) -> Result<i64> {
        let prefix = vec![room.num.into(), root.into(), "m.thread".into()];
        let read = Read::prefix::<RelationRow>(prefix).reverse().limit(THREAD_MESSAGES_MAX);
        let rows: Vec<RelationRow> = self.store.all(read).await?;
        let nums: Vec<EventNum> = rows.iter().map(|row| row.event).collect();
        let events = self.events(room, None, &nums).await?;
        let counts = |event: &&Arc<Event>| {
            event.has(flags::NOTIFIABLE) && !is_unseen(event, found.ignored) && !found.muting.covers(event.pos())
        };
        let unread = events.iter().filter(|event| event.pos() > read_to).filter(counts);
        Ok(i64::try_from(unread.count()).unwrap_or(0))
    }
}

/// Whether somebody who ignores these users does not see an event.
pub fn is_unseen(event: &Event, ignored: &BTreeSet<String>) -> bool {
    !event.pdu.is_state() && ignored.contains(event.row.sender.as_str())
}

fn add(counts: &mut Counts, row: &NotificationRow) {
    counts.notifications += row.notify;
    counts.highlights += i64::from(row.highlight);
}

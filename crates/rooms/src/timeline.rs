//! A room's timeline: places in it, pages of it, and the tokens that name places.
//!
//! Timeline order is fragment by fragment, then index. A pagination token names a place between two events; a sync token
//! names a stream position, which is turned into the place after the last event that it had seen.

use std::sync::Arc;

use store::tables::rooms::{EventRow, FragmentRow};
use store::{Read, StreamPosition};

use crate::event::Event;
use crate::room::Room;
use crate::state::Roots;
use crate::visibility::Viewer;
use crate::{Error, Result, Rooms};

/// Most events that one request looks at, shown or not.
const SCANNED_MAX: usize = 5_000;
/// Events read at a time.
const CHUNK: u32 = 256;

/// A place between two events of a room: before the event with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The fragment.
    pub fragment: i64,
    /// The index of the event after the place.
    pub idx: i64,
}

impl Place {
    /// Just before an event; `None` if it stands in no timeline.
    pub fn before(event: &Event) -> Option<Self> {
        Some(Self { fragment: event.row.fragment?, idx: event.row.idx? })
    }

    /// Just after an event; `None` if it stands in no timeline.
    pub fn after(event: &Event) -> Option<Self> {
        Self::before(event).map(|place| Self { idx: place.idx + 1, ..place })
    }
}

/// A token as clients send it: of a place, or of a stream position (any token of sync).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `t<fragment>_<index>`.
    Place(Place),
    /// `s<position>_…`.
    Position(StreamPosition),
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Error::BadToken`] if it is neither form.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::BadToken(text.to_owned());
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0).ok_or_else(bad);
        if let Some(rest) = text.strip_prefix('t') {
            let (fragment, idx) = rest.split_once('_').ok_or_else(bad)?;
            // History from before stands at indexes below zero.
            let idx = idx.parse().map_err(|_| bad())?;
            return Ok(Self::Place(Place { fragment: number(fragment)?, idx }));
        }
        let rest = text.strip_prefix('s').ok_or_else(bad)?;
        let position = rest.split('_').next().unwrap_or_default();
        Ok(Self::Position(StreamPosition(number(position)?)))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "t{}_{}", self.fragment, self.idx)
    }
}

/// Which way to page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards older events.
    Backward,
    /// Towards newer events.
    Forward,
}

/// What to page through.
#[derive(Clone, Copy, Debug)]
pub struct PageQuery {
    /// Where to start.
    pub from: Place,
    /// Which way.
    pub direction: Direction,
    /// Where to stop, if not at the end.
    pub until: Option<Place>,
    /// At most so many events.
    pub limit: usize,
}

/// Some events in the order of the direction, and where to go on.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events.
    pub events: Vec<Arc<Event>>,
    /// Where the next page starts; `None` at the end of the timeline.
    pub end: Option<Place>,
}

impl Rooms {
    /// The place that a token names in this room.
    ///
    /// # Errors
    /// [`Error::BadToken`] if it is no token; as the store says.
    pub async fn place(&self, room: &Room, token: Token) -> Result<Place> {
        match token {
            Token::Place(place) => Ok(place),
            Token::Position(pos) => self.place_at(room, pos).await,
        }
    }

    /// The place after the last event that was visible at a stream position.
    ///
    /// # Errors
    /// As the store says.
    pub async fn place_at(&self, room: &Room, pos: StreamPosition) -> Result<Place> {
        let read = Read::along::<EventRow>(EventRow::BY_POS, vec![room.num.into()]).up_to(pos).reverse();
        let row = self.store.one::<EventRow>(read).await?;
        let place = row.and_then(|row| Some(Place { fragment: row.fragment?, idx: row.idx? + 1 }));
        Ok(place.unwrap_or(Place { fragment: 0, idx: 0 }))
    }

    /// The room's state as of a token, but not later than `latest`.
    ///
    /// # Errors
    /// As the store says.
    pub async fn state_at_token(&self, room: &Room, token: Token, latest: Option<StreamPosition>) -> Result<Roots> {
        let pos = match token {
            // Of the time when only part of the state was known there is nothing to tell.
            Token::Position(pos) => pos.max(room.whole_pos()),
            Token::Place(place) => {
                let prefix = vec![room.num.into(), place.fragment.into()];
                let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, prefix).before(place.idx).reverse();
                match self.store.one::<EventRow>(read).await? {
                    None => return Ok(Roots::EMPTY),
                    Some(row) => match row.pos {
                        Some(pos) => pos,
                        // History from before this server was in the room is not in the stream: the event tells.
                        None => return Ok(self.event(room, row.event).await?.state_after().unwrap_or(Roots::EMPTY)),
                    },
                }
            }
        };
        self.state_at(room, latest.map_or(pos, |latest| pos.min(latest))).await
    }

    /// The place after the newest event.
    pub fn live_end(&self, room: &Room) -> Place {
        let head = room.head();
        Place { fragment: head.row.fragment, idx: head.row.next_index }
    }

    /// The place before the oldest known event.
    ///
    /// # Errors
    /// As the store says.
    pub async fn start(&self, room: &Room) -> Result<Place> {
        let mut fragment = room.head().row.fragment;
        while let Some(previous) = self.neighbor(room, fragment, Direction::Backward).await? {
            fragment = previous;
        }
        let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, vec![room.num.into(), fragment.into()]);
        let first = self.store.one::<EventRow>(read).await?;
        Ok(Place { fragment, idx: first.and_then(|row| row.idx).unwrap_or(0) })
    }

    /// A page of what `viewer` may see and `keep` accepts. It goes on past events that are not shown, so that a page
    /// without events means the end, or that very many were skipped and the end token leads on.
    ///
    /// # Errors
    /// As the store says.
    pub async fn page(
        &self,
        room: &Room,
        query: PageQuery,
        viewer: &mut Viewer<'_>,
        keep: impl Fn(&Event) -> bool,
    ) -> Result<Page> {
        let mut events = Vec::new();
        let mut at = query.from;
        let mut scanned = 0;
        while events.len() < query.limit && scanned < SCANNED_MAX {
            let seen = self.changes_seen();
            let rows = self.rows(room, at, query).await?;
            if rows.is_empty() {
                if query.until.is_some_and(|until| until.fragment == at.fragment) {
                    return Ok(Page { events, end: None });
                }
                match self.beyond(room, at.fragment, query.direction).await? {
                    Some(place) => {
                        at = place;
                        continue;
                    }
                    None => return Ok(Page { events, end: None }),
                }
            }
            scanned += rows.len();
            for event in self.events_of_rows(room.rules.version(), rows, seen).await? {
                if events.len() == query.limit {
                    break;
                }
                at = passed(&event, query.direction).unwrap_or(at);
                if keep(&event) {
                    events.extend(viewer.view(event).await?);
                }
            }
        }
        // A full page may end where history is missing: who goes on from there may have it fetched.
        let ends = self.is_end(room, at, query).await? && !self.is_gap_behind(room, at, query).await?;
        Ok(Page { events, end: Some(at).filter(|_| !ends) })
    }

    /// Whether history is missing before the oldest known event of the fragment in which a page back in time ends.
    async fn is_gap_behind(&self, room: &Room, at: Place, query: PageQuery) -> Result<bool> {
        if query.direction == Direction::Forward || query.until.is_some_and(|until| until.fragment == at.fragment) {
            return Ok(false);
        }
        let row = self.store.get::<FragmentRow>(vec![room.num.into(), at.fragment.into()]).await?;
        Ok(row.is_some_and(|row| row.gap))
    }

    async fn rows(&self, room: &Room, at: Place, query: PageQuery) -> Result<Vec<EventRow>> {
        let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, vec![room.num.into(), at.fragment.into()]);
        let until = query.until.filter(|until| until.fragment == at.fragment);
        let missing = u32::try_from(query.limit).unwrap_or(CHUNK).clamp(1, CHUNK) + 1;
        let read = match query.direction {
            Direction::Backward => {
                let read = read.before(at.idx).reverse();
                if let Some(until) = until { read.from(until.idx) } else { read }
            }
            Direction::Forward => {
                let read = read.from(at.idx);
                if let Some(until) = until { read.before(until.idx) } else { read }
            }
        };
        Ok(self.store.all(read.limit(missing)).await?)
    }

    async fn is_end(&self, room: &Room, at: Place, query: PageQuery) -> Result<bool> {
        let query = PageQuery { limit: 1, ..query };
        let stops = query.until.is_some_and(|until| until.fragment == at.fragment);
        Ok(self.rows(room, at, query).await?.is_empty()
            && (stops || self.neighbor(room, at.fragment, query.direction).await?.is_none()))
    }

    /// The position of the first event of the stream that follows an event of history in its fragment.
    pub(crate) async fn position_after(&self, room: &Room, event: &Event) -> Result<StreamPosition> {
        let (Some(fragment), Some(idx)) = (event.row.fragment, event.row.idx) else { return Ok(StreamPosition::ZERO) };
        let prefix = vec![room.num.into(), fragment.into()];
        let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, prefix).from(idx.max(0));
        Ok(self.store.one::<EventRow>(read).await?.and_then(|row| row.pos).unwrap_or(StreamPosition::ZERO))
    }

    /// The place at the near end of the next fragment in a direction, if there is one.
    ///
    /// # Errors
    /// As the store says.
    pub async fn beyond(&self, room: &Room, fragment: i64, direction: Direction) -> Result<Option<Place>> {
        let idx = if direction == Direction::Backward { i64::MAX } else { i64::MIN };
        Ok(self.neighbor(room, fragment, direction).await?.map(|fragment| Place { fragment, idx }))
    }

    /// Where history is missing just beside an event, on the side from which a search came to it in a direction, or
    /// where a search without success ended: the place before which it is missing.
    ///
    /// # Errors
    /// As the store says.
    pub async fn gap_beside(&self, room: &Room, found: Option<&Event>, came: Direction) -> Result<Option<Place>> {
        let timeline =
            |fragment: i64| Read::along::<EventRow>(EventRow::BY_TIMELINE, vec![room.num.into(), fragment.into()]);
        let place = match (came, found.and_then(Place::before)) {
            (Direction::Forward, None) => return Ok(None),
            (Direction::Forward, Some(place)) => place,
            (Direction::Backward, None) => self.start(room).await?,
            (Direction::Backward, Some(place)) => {
                if self.store.one::<EventRow>(timeline(place.fragment).after(place.idx)).await?.is_some() {
                    return Ok(None);
                }
                match self.beyond(room, place.fragment, Direction::Forward).await? {
                    Some(place) => place,
                    None => return Ok(None),
                }
            }
        };
        let fragment = self.store.get::<FragmentRow>(vec![room.num.into(), place.fragment.into()]).await?;
        let older = self.store.one::<EventRow>(timeline(place.fragment).before(place.idx)).await?;
        Ok(Some(place).filter(|_| older.is_none() && fragment.is_some_and(|row| row.gap)))
    }

    async fn neighbor(&self, room: &Room, fragment: i64, direction: Direction) -> Result<Option<i64>> {
        let row = self.store.get::<FragmentRow>(vec![room.num.into(), fragment.into()]).await?;
        Ok(row.and_then(|row| if direction == Direction::Backward { row.previous } else { row.next }))
    }

    /// The newest events that became visible in `(since, upto]`, newest first, at most `limit`.
    ///
    /// # Errors
    /// As the store says.
    pub async fn newest(
        &self,
        room: &Room,
        since: StreamPosition,
        upto: StreamPosition,
        limit: u32,
    ) -> Result<Vec<Arc<Event>>> {
        let seen = self.changes_seen();
        let read = Read::along::<EventRow>(EventRow::BY_POS, vec![room.num.into()]).after(since).up_to(upto);
        let rows = self.store.all(read.reverse().limit(limit)).await?;
        self.events_of_rows(room.rules.version(), rows, seen).await
    }
}

fn passed(event: &Event, direction: Direction) -> Option<Place> {
    match direction {
        Direction::Backward => Place::before(event),
        Direction::Forward => Place::after(event),
    }
}

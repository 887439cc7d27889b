//! Asking the index: which events have all the words, newest first, and of these what the user may see.
//!
//! Runs are looked at from the newest on, and no further than the page goes. What they find is compared with what each event
//! says to this user now. Both are bounded: a page that is not full when a bound is met names where the next one goes on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rooms::visibility::Viewer;
use rooms::{Event, Room};
use serde::{Deserialize, Serialize};
use store::tables::rooms::MembershipRow;
use store::tables::search::SearchRunRow;
use store::{EventNum, RoomNum, UserId};

use crate::block::{Moment, Posting};
use crate::documents::{ENCRYPTION, is_edit};
use crate::runs::ranges_of;
use crate::words::{SEARCH_TERM_BYTES_MAX, Wanted};
use crate::{Error, Key, Result, Search, text};

/// Up to so many rooms each is looked up by itself; of more, a word's postings are gone through.
const ROOMS_LOOKED_UP: usize = 8;
/// Postings that one question reads; the last run may go beyond.
const POSTINGS_MAX: usize = 400_000;
/// Events that one question compares.
const COMPARED_MAX: usize = 1_000;
/// Bytes of texts that one question compares; more are looked at by what is compared last.
const COMPARED_BYTES_MAX: usize = 4 << 20;
/// Events that are compared at a time.
const COMPARED_AT_A_TIME: usize = 32;
/// Hits among which the best are looked for; then come the best of the next so many older ones.
const RANKED: usize = 200;
/// Rooms that came before another, one replaced by the next, that are searched along with it.
const PREDECESSORS_MAX: usize = 10;
/// Rooms that a question may name.
pub const ROOMS_MAX: usize = 1_000;
/// How often a question is asked anew because runs were merged under it.
const ATTEMPTS_MAX: usize = 3;
/// Words that clients are told to mark.
const HIGHLIGHTS_MAX: usize = 100;
/// Most bytes of a token.
const TOKEN_BYTES_MAX: usize = 2_048;

/// In which order hits come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    Recent,
    /// What matches best first.
    Rank,
}

/// Which events to look for.
pub struct Query<'a> {
    /// Who asks.
    pub user: &'a UserId,
    /// The words, all of which must occur.
    pub search_term: &'a str,
    /// Where they may occur.
    pub keys: &'a BTreeSet<Key>,
    /// Only in these rooms, and those that they replace.
    pub rooms: Option<&'a [String]>,
    /// Not in these rooms.
    pub not_rooms: &'a [String],
    /// Only events that this accepts.
    pub accepts: &'a (dyn Fn(&Event) -> bool + Send + Sync),
    /// In which order.
    pub order: Order,
    /// At most so many.
    pub limit: usize,
    /// Where to go on.
    pub from: Option<Token>,
}

/// Where a page ended. Opaque to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Only events before this moment.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    before: Option<(i64, i64)>,
    /// The last of those among which the best are looked for.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    to: Option<(i64, i64)>,
    /// How many of these were given.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    given: usize,
    /// Only events of this room.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Only events of this sender.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Error::BadToken`].
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Error::BadToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Error::BadToken)?;
        if !bytes.starts_with(b"{") {
            return Err(Error::BadToken);
        }
        serde_json::from_slice(&bytes).map_err(|_| Error::BadToken)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Numbers and texts always serialize.
        f.write_str(&URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default()))
    }
}

/// An event that was found.
pub struct Hit {
    /// Its room.
    pub room: Arc<Room>,
    /// The event as the user may see it.
    pub event: Arc<Event>,
    /// How well it matches, from 0 to 1.
    pub rank: f64,
    at: Moment,
    text: String,
}

/// What was found.
pub struct Found {
    /// The hits, in order.
    pub hits: Vec<Hit>,
    /// About how many there are.
    pub count: usize,
    /// Words to mark.
    pub highlights: BTreeSet<String>,
    /// Where the next page is; none at the end.
    pub next: Option<Token>,
    given_of: BTreeMap<(bool, String), usize>,
}

impl Found {
    /// Where the next page of the hits of one room is.
    pub fn next_in_room(&self, room_id: &str) -> Option<Token> {
        self.next_of(Some(room_id), None)
    }

    /// Where the next page of the hits of one sender is.
    pub fn next_of_sender(&self, sender: &str) -> Option<Token> {
        self.next_of(None, Some(sender))
    }

    fn next_of(&self, room: Option<&str>, sender: Option<&str>) -> Option<Token> {
        let next = self.next.clone()?;
        let key = (room.is_some(), room.or(sender)?.to_owned());
        let given = next.to.and_then(|_| self.given_of.get(&key).copied()).unwrap_or(0);
        let (room, sender) = (room.map(str::to_owned).or(next.room), sender.map(str::to_owned).or(next.sender));
        Some(Token { given, room, sender, ..next })
    }
}

/// The rooms in which is searched, with the user's memberships.
type Memberships = BTreeMap<RoomNum, MembershipRow>;

/// One look through the index.
struct Scan<'a> {
    query: &'a Query<'a>,
    wanted: &'a Wanted,
    memberships: &'a Memberships,
    sender: Option<String>,
    /// Only what is before.
    before: Moment,
    /// Only what is at or after.
    from: Moment,
    /// The runs that were not looked at, the newest last.
    runs: Vec<SearchRunRow>,
    used: Vec<i64>,
    candidates: BTreeSet<(Moment, RoomNum)>,
    n_postings: usize,
    n_compared: usize,
    n_bytes: usize,
    rooms: BTreeMap<RoomNum, Option<Arc<Room>>>,
}

/// What a look found: hits, newest first, and before which moment it ended, if not at the end.
struct Window {
    hits: Vec<Hit>,
    before: Option<Moment>,
}

impl Search {
    /// Finds events.
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::TooManyRooms`]; as the store says.
    pub async fn find(&self, query: &Query<'_>) -> Result<Found> {
        if query.search_term.len() > SEARCH_TERM_BYTES_MAX {
            return Err(Error::TooLong(SEARCH_TERM_BYTES_MAX));
        }
        if query.rooms.is_some_and(|rooms| rooms.len() > ROOMS_MAX) {
            return Err(Error::TooManyRooms(ROOMS_MAX));
        }
        let wanted = Wanted::new(query.search_term);
        let token = query.from.clone().unwrap_or_default();
        let memberships = self.memberships(query, token.room.as_deref()).await?;
        let found = if wanted.is_empty() || memberships.is_empty() || query.limit == 0 {
            Found { hits: Vec::new(), count: 0, highlights: BTreeSet::new(), next: None, given_of: BTreeMap::new() }
        } else {
            match query.order {
                Order::Recent => self.recent(query, &wanted, &memberships, &token).await?,
                Order::Rank => self.ranked(query, &wanted, &memberships, &token).await?,
            }
        };
        Ok(Found { highlights: highlights(&wanted, &found.hits), ..found })
    }

    async fn recent(
        &self,
        query: &Query<'_>,
        wanted: &Wanted,
        memberships: &Memberships,
        token: &Token,
    ) -> Result<Found> {
        let Window { mut hits, mut before } = self.window(query, wanted, memberships, token, query.limit + 1).await?;
        // Of what is not looked at yet nobody knows whether the user may see it.
        let count = hits.len();
        if hits.len() > query.limit {
            hits.truncate(query.limit);
            before = hits.last().map(|hit| hit.at);
        }
        let next = before.map(|before| Token { before: Some(numbers(before)), ..token.clone() });
        Ok(Found { hits, count, highlights: BTreeSet::new(), next, given_of: BTreeMap::new() })
    }

    async fn ranked(
        &self,
        query: &Query<'_>,
        wanted: &Wanted,
        memberships: &Memberships,
        token: &Token,
    ) -> Result<Found> {
        let Window { mut hits, before } = self.window(query, wanted, memberships, token, RANKED).await?;
        let count = hits.len();
        let oldest = hits.last().map(|hit| hit.at);
        // What comes between two pages is not to shift them.
        let after_newest = hits.first().map(|Hit { at, .. }| (at.0, at.1.0.saturating_add(1)));
        // Stable: of those that match as well the newest first.
        hits.sort_by(|hit, other| other.rank.total_cmp(&hit.rank));
        let mut given_of = BTreeMap::new();
        for hit in hits.iter().take(token.given.saturating_add(query.limit)) {
            *given_of.entry((true, hit.room.id.clone())).or_default() += 1;
            *given_of.entry((false, hit.event.pdu.sender.clone())).or_default() += 1;
        }
        let given = token.given.saturating_add(query.limit);
        // The end of the look, if this one was a part of a larger one.
        let end = token.to.map(moment).or(oldest);
        let next = if given < hits.len() {
            Some(Token { before: token.before.or(after_newest), given, to: end.map(numbers), ..token.clone() })
        } else {
            let after = match token.to {
                Some(to) => Some(to),
                None => before.map(numbers),
            };
            after.map(|after| Token { before: Some(after), to: None, given: 0, ..token.clone() })
        };
        let hits = hits.into_iter().skip(token.given).take(query.limit).collect();
        Ok(Found { hits, count, highlights: BTreeSet::new(), next, given_of })
    }

    /// The user's memberships of the rooms in which is to be searched: those in which the user is or was.
    async fn memberships(&self, query: &Query<'_>, only: Option<&str>) -> Result<Memberships> {
        let mut memberships: Memberships =
            self.rooms.memberships(query.user).await?.into_iter().map(|row| (row.room, row)).collect();
        memberships.retain(|_, row| !row.forgotten && (row.membership == "join" || row.left_pos.0 > 0));
        if let Some(ids) = query.rooms {
            let listed = self.with_predecessors(ids).await?;
            memberships.retain(|room, _| listed.contains(room));
        }
        if let Some(id) = only {
            let room = self.rooms.room(id).await?.map(|room| room.num);
            memberships.retain(|num, _| Some(*num) == room);
        }
        Ok(memberships)
    }

    /// The rooms with these ids, and those that they replace (CR21).
    async fn with_predecessors(&self, ids: &[String]) -> Result<HashSet<RoomNum>> {
        let mut found = HashSet::new();
        for id in ids {
            let mut next = Some(id.clone());
            for _ in 0..=PREDECESSORS_MAX {
                let Some(id) = next.take() else { break };
                let Some(room) = self.rooms.room(&id).await? else { break };
                if !found.insert(room.num) {
                    break;
                }
                let predecessor = room.create.content.get("predecessor").and_then(event::Json::as_object);
                next = predecessor.and_then(|old| old.get("room_id")?.as_str()).map(str::to_owned);
            }
        }
        Ok(found)
    }

    /// The newest hits within the token's bounds, about `most` of them.
    async fn window(
        &self,
        query: &Query<'_>,
        wanted: &Wanted,
        memberships: &Memberships,
        token: &Token,
        most: usize,
    ) -> Result<Window> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut runs = self.live_runs().await?;
            runs.sort_by_key(|run| (run.to_ms, run.run));
            let mut scan = Scan {
                query,
                wanted,
                memberships,
                sender: token.sender.clone(),
                before: token.before.map_or((i64::MAX, EventNum(i64::MAX)), moment),
                from: token.to.map_or((i64::MIN, EventNum(i64::MIN)), moment),
                runs,
                used: Vec::new(),
                candidates: BTreeSet::new(),
                n_postings: 0,
                n_compared: 0,
                n_bytes: 0,
                rooms: BTreeMap::new(),
            };
            let window = scan.look(self, most).await?;
            let live: HashSet<i64> = self.live_runs().await?.into_iter().map(|run| run.run).collect();
            if attempts == ATTEMPTS_MAX || scan.used.iter().all(|run| live.contains(run)) {
                return Ok(window);
            }
        }
    }
}

impl Scan<'_> {
    async fn look(&mut self, search: &Search, most: usize) -> Result<Window> {
        let mut hits = Vec::new();
        let (mut before, mut cut) = (None, false);
        while hits.len() < most {
            // What a run that was not looked at may have before what is known comes first.
            while self.runs.last().is_some_and(|run| !self.precedes(run)) {
                let Some(run) = self.runs.pop() else { break };
                let after_run = (run.to_ms.saturating_add(1), EventNum(0));
                if self.n_postings > POSTINGS_MAX && after_run < self.before {
                    // Everything after the run is known.
                    return Ok(Window { hits, before: Some(after_run) });
                }
                self.read_run(search, &run).await?;
            }
            let some = self.take_candidates(COMPARED_AT_A_TIME);
            let Some(last) = some.last().copied() else { break };
            if self.has_compared_enough() {
                cut = true;
                break;
            }
            self.n_compared += some.len();
            hits.extend(self.compare(search, some).await?);
            before = Some(last.0);
            self.before = last.0;
        }
        let ended = self.candidates.is_empty() && self.runs.is_empty() && !cut;
        hits.truncate(most);
        let before = if hits.len() == most { hits.last().map(|hit| hit.at) } else { before };
        Ok(Window { before: before.filter(|_| !ended), hits })
    }

    /// Whether what this question may compare is used up.
    fn has_compared_enough(&self) -> bool {
        self.n_compared >= COMPARED_MAX || self.n_bytes >= COMPARED_BYTES_MAX
    }

    /// Whether something is known that is newer than all that a run may have.
    fn precedes(&self, run: &SearchRunRow) -> bool {
        self.candidates.last().is_some_and(|(newest, _)| newest.0 > run.to_ms)
    }

    /// The newest of what is known, as far as no other run may have something newer.
    fn take_candidates(&mut self, most: usize) -> Vec<(Moment, RoomNum)> {
        let mut taken = Vec::new();
        let bound = self.runs.last().map(|run| run.to_ms);
        while taken.len() < most
            && let Some(newest) = self.candidates.last().copied()
            && bound.is_none_or(|bound| newest.0.0 > bound)
        {
            self.candidates.remove(&newest);
            taken.push(newest);
        }
        taken
    }

    /// Reads from a run which events have all terms.
    async fn read_run(&mut self, search: &Search, run: &SearchRunRow) -> Result<()> {
        if run.from_ms > self.before.0 || run.to_ms < self.from.0 {
            return Ok(());
        }
        self.used.push(run.run);
        let rooms: Option<Vec<RoomNum>> =
            (self.memberships.len() <= ROOMS_LOOKED_UP).then(|| self.memberships.keys().copied().collect());
        let mut all: Option<BTreeSet<(Moment, RoomNum)>> = None;
        for terms in self.wanted.ranges() {
            let (postings, n_read) = search.postings_between(run.run, &ranges_of(terms, rooms.as_deref())).await?;
            self.n_postings += n_read;
            let fits = |posting: &Posting| {
                posting.moment() < self.before
                    && posting.moment() >= self.from
                    && self.memberships.contains_key(&posting.room)
            };
            let places = postings.into_iter().filter(fits).map(|posting| (posting.moment(), posting.room));
            let both: BTreeSet<(Moment, RoomNum)> = match all {
                None => places.collect(),
                Some(all) => places.filter(|place| all.contains(place)).collect(),
            };
            if both.is_empty() {
                return Ok(());
            }
            all = Some(both);
        }
        self.candidates.extend(all.into_iter().flatten());
        Ok(())
    }

    /// Those of the candidates that say what is searched, to this user.
    async fn compare(&mut self, search: &Search, some: Vec<(Moment, RoomNum)>) -> Result<Vec<Hit>> {
        let mut by_room: BTreeMap<RoomNum, BTreeMap<EventNum, Moment>> = BTreeMap::new();
        for (at, room) in some {
            by_room.entry(room).or_default().insert(at.1, at);
        }
        let mut hits = Vec::new();
        for (num, events) in by_room {
            if let Some(room) = self.room(search, num).await? {
                hits.extend(self.compare_in(search, &room, &events).await?);
            }
        }
        hits.sort_by_key(|hit| std::cmp::Reverse(hit.at));
        Ok(hits)
    }

    async fn compare_in(
        &mut self,
        search: &Search,
        room: &Arc<Room>,
        moments: &BTreeMap<EventNum, Moment>,
    ) -> Result<Vec<Hit>> {
        let memberships = self.memberships;
        let Some(membership) = memberships.get(&room.num) else { return Ok(Vec::new()) };
        let mut viewer = Viewer::with_membership(&search.rooms, room, self.query.user, Some(membership.clone()));
        let nums: Vec<EventNum> = moments.keys().copied().collect();
        let mut seen = Vec::new();
        for event in search.rooms.events_left(room, None, &nums).await? {
            let fits = text::key_of(&event).is_some_and(|key| self.query.keys.contains(&key))
                && self.sender.as_ref().is_none_or(|sender| *sender == event.pdu.sender)
                && !is_edit(&event)
                && !(membership.membership != "join" && event.pos() > membership.left_pos)
                && (self.query.accepts)(&event);
            if fits {
                seen.extend(viewer.view(event).await?);
            }
        }
        let edits = search.rooms.newest_edits(room, &seen, Some(&mut viewer)).await?;
        let mut hits = Vec::new();
        for (event, edit) in seen.into_iter().zip(edits) {
            let text = text::text_of(&event, edit.as_deref());
            self.n_bytes += text.as_ref().map_or(0, |text| self.wanted.cost(text));
            if let (Some(text), Some(at)) = (text, moments.get(&event.num()).copied())
                && let Some(rank) = self.wanted.rank(&text)
            {
                hits.push(Hit { room: Arc::clone(room), event, rank, at, text });
            }
        }
        Ok(hits)
    }

    /// A room, unless its events are encrypted: then what was said before in plain text is not searched either.
    async fn room(&mut self, search: &Search, num: RoomNum) -> Result<Option<Arc<Room>>> {
        if let Some(known) = self.rooms.get(&num) {
            return Ok(known.clone());
        }
        let room = match search.rooms.room_by_num(num).await? {
            Some(room)
                if !self.query.not_rooms.contains(&room.id)
                    && search.rooms.current(&room, ENCRYPTION, "").await?.is_none() =>
            {
                Some(room)
            }
            _ => None,
        };
        self.rooms.insert(num, room.clone());
        Ok(room)
    }
}

fn highlights(wanted: &Wanted, hits: &[Hit]) -> BTreeSet<String> {
    let mut words: BTreeSet<String> = wanted.texts().take(HIGHLIGHTS_MAX).cloned().collect();
    for hit in hits {
        wanted.highlights(&hit.text, &mut words, HIGHLIGHTS_MAX);
    }
    words
}

fn moment((at_ms, event): (i64, i64)) -> Moment {
    (at_ms, EventNum(event))
}

fn numbers((at_ms, event): Moment) -> (i64, i64) {
    (at_ms, event.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tokens_are_read_as_they_were_written() {
        let token = Token {
            before: Some((5, 7)),
            to: Some((i64::MIN, 1)),
            given: 3,
            room: Some("!r".to_owned()),
            sender: None,
        };
        assert_eq!(Token::parse(&token.to_string()).unwrap(), token);
        for text in ["", "x", "😀", "eyJiIjoxfQ", &"A".repeat(TOKEN_BYTES_MAX + 1), "W10", "bnVsbA"] {
            assert!(matches!(Token::parse(text), Err(Error::BadToken)), "{text}");
        }
    }
}

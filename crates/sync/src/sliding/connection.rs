//! What a connection has been sent, and its stored form.
//!
//! What is new in a room since any position can be answered from the store. So a connection remembers for each room no
//! more than *up to where* its client has it, and what of it was ever asked for. A room that the client has up to its
//! own position is [`Upto::Live`]: nothing is stored of how far that is, and an answer that only goes on with live rooms
//! changes no state. When a live room changes while the client does not look at it, it begins to lag: at the position
//! that the client had come to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use store::{RoomNum, StreamPosition};
use users::connections::ConnectionId;

use crate::sliding::config::Rules;
use crate::{Error, Sync};

/// The depth of a timeline that the client has all of.
pub(crate) const WHOLE: usize = u32::MAX as usize;
/// Version of the stored form.
const VERSION: u8 = 1;
/// Bytes of memory for states.
const STATE_BYTES_MAX: u64 = 32 << 20;
/// Bytes that one room takes in a state, about.
const ROOM_BYTES: usize = 120;
/// About as many states are in memory.
const STATES: usize = 1_000;

/// Up to where a client has something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Upto {
    /// It has nothing.
    #[default]
    Never,
    /// Up to the client's own position.
    Live,
    /// Up to here.
    At(StreamPosition),
}

impl Upto {
    /// Up to where, for a client that has come to `pos`; `None` if it has nothing.
    pub fn since(self, pos: StreamPosition) -> Option<StreamPosition> {
        match self {
            Self::Never => None,
            Self::Live => Some(pos),
            Self::At(at) => Some(at.min(pos)),
        }
    }

    /// Something happened after `pos`, to which the client has come, and it is not told.
    pub fn lag(&mut self, pos: StreamPosition) {
        if *self == Self::Live {
            *self = Self::At(pos);
        }
    }
}

/// What a connection has been sent of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Timeline, state and whatever is told with them; of others than members, the membership.
    pub events: Upto,
    /// Receipts.
    pub receipts: Upto,
    /// The room's account data.
    pub account_data: Upto,
    /// Whether the client believes the user to be joined.
    pub joined: bool,
    /// Whether the client was told that it is a direct chat.
    pub is_dm: bool,
    /// How many of the newest events it has, at least.
    pub depth: usize,
    /// Which state it was ever sent, and has been kept up to date about. Equal rules mostly are in the same place.
    pub rules: Arc<Rules>,
}

impl Sent {
    /// Whether the client was sent, and has been kept up to date about, whatever these rules want.
    pub fn has(&self, rules: &Arc<Rules>) -> bool {
        Arc::ptr_eq(&self.rules, rules) || self.rules.cover(rules)
    }
}

/// What a connection has been sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Global account data.
    pub account_data: Upto,
    /// By room.
    pub rooms: BTreeMap<RoomNum, Sent>,
}

/// What an answer changes of it.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Global account data.
    pub account_data: Option<Upto>,
    /// The rooms that may have changed; `None` if nothing is remembered of them any more.
    pub rooms: BTreeMap<RoomNum, Option<Sent>>,
}

impl Step {
    /// What has been sent of a room once this is done.
    pub fn sent(&self, state: &State, room: RoomNum) -> Option<Sent> {
        self.rooms.get(&room).cloned().unwrap_or_else(|| state.rooms.get(&room).cloned())
    }

    /// The state after it; `None` if that is the same.
    pub fn after(self, state: &State) -> Option<State> {
        let changed_data = self.account_data.is_some_and(|upto| upto != state.account_data);
        let differs = |(room, sent): (&RoomNum, &Option<Sent>)| state.rooms.get(room) != sent.as_ref();
        if !changed_data && !self.rooms.iter().any(differs) {
            return None;
        }
        let mut next = state.clone();
        next.account_data = self.account_data.unwrap_or(next.account_data);
        for (room, sent) in self.rooms {
            match sent {
                Some(sent) => drop(next.rooms.insert(room, sent)),
                None => drop(next.rooms.remove(&room)),
            }
        }
        Some(next)
    }
}

#[derive(Clone)]
pub(crate) struct Weight;

impl Weighter<i64, Arc<State>> for Weight {
    fn weight(&self, _generation: &i64, state: &Arc<State>) -> u64 {
        let rules: usize = Places::of(state).rules.iter().map(|rules| rules.bytes()).sum();
        let bytes = (state.rooms.len() + 4) * ROOM_BYTES + rules;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// States in memory, by generation. They never change.
pub(crate) struct States(Cache<i64, Arc<State>, Weight>);

impl Default for States {
    fn default() -> Self {
        Self(Cache::with_weighter(STATES, STATE_BYTES_MAX, Weight))
    }
}

impl Sync {
    /// What a connection had been sent as of a generation from which it may go on, and its newest generation.
    pub(crate) async fn connection(&self, id: &ConnectionId, generation: i64) -> Result<(Arc<State>, i64), Error> {
        let tip = self.users.connection_tip(id, generation).await?.ok_or(Error::UnknownPos)?;
        if let Some(state) = self.connections.0.get(&generation) {
            return Ok((state, tip));
        }
        let stored = self.users.connection_state(id, generation).await?.ok_or(Error::UnknownPos)?;
        // A form of another version is as good as none.
        let state = decode(&stored, |rules| self.known.shared(&rules));
        let state = Arc::new(state.ok_or(Error::UnknownPos)?);
        self.connections.0.insert(generation, Arc::clone(&state));
        Ok((state, tip))
    }

    /// Stores what a connection has been sent, once this answer is taken for sent: the first time, or going on from a
    /// generation while another is the newest. Returns the new generation.
    pub(crate) async fn put_connection(
        &self,
        id: &ConnectionId,
        from: Option<(i64, i64)>,
        state: State,
    ) -> Result<i64, Error> {
        let stored = encode(&state);
        let generation = match from {
            None => self.users.begin_connection(id, stored).await?,
            Some((from, tip)) => {
                self.users.advance_connection(id, from, tip, stored).await?.ok_or(Error::UnknownPos)?
            }
        };
        self.connections.0.insert(generation, Arc::new(state));
        Ok(generation)
    }
}

/// Where each room's rules stand among those that differ. What is in the same place is not compared.
#[derive(Default)]
struct Places<'a> {
    rules: Vec<&'a Rules>,
    by_room: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(state: &'a State) -> Self {
        let mut places = Self::default();
        let (mut by_address, mut by_content, mut last) = (HashMap::new(), HashMap::new(), None);
        for sent in state.rooms.values() {
            let address = Arc::as_ptr(&sent.rules);
            let place = match last.filter(|(before, _)| *before == address) {
                Some((_, place)) => place,
                None => *by_address.entry(address).or_insert_with(|| {
                    *by_content.entry(&*sent.rules).or_insert_with(|| {
                        places.rules.push(&sent.rules);
                        places.rules.len() - 1
                    })
                }),
            };
            last = Some((address, place));
            places.by_room.push(place);
        }
        places
    }
}

/// The stored form: version, global account data, distinct rules as JSON, rooms.
fn encode(state: &State) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_upto(&mut bytes, state.account_data);
    let places = Places::of(state);
    put_len(&mut bytes, places.rules.len());
    for rules in &places.rules {
        // Strings and lists always serialize.
        let text = serde_json::to_vec(rules).unwrap_or_default();
        put_len(&mut bytes, text.len());
        bytes.extend(text);
    }
    put_len(&mut bytes, state.rooms.len());
    let mut before = 0;
    for ((room, sent), place) in state.rooms.iter().zip(places.by_room) {
        put_number(&mut bytes, room.0 - before);
        before = room.0;
        bytes.push(u8::from(sent.joined) | u8::from(sent.is_dm) << 1);
        for upto in [sent.events, sent.receipts, sent.account_data] {
            put_upto(&mut bytes, upto);
        }
        put_len(&mut bytes, sent.depth);
        put_len(&mut bytes, place);
    }
    bytes
}

/// Reads what [`encode`] wrote.
fn decode(bytes: &[u8], shared: impl Fn(Arc<Rules>) -> Arc<Rules>) -> Option<State> {
    let mut bytes = bytes;
    if take_byte(&mut bytes)? != VERSION {
        return None;
    }
    let account_data = take_upto(&mut bytes)?;
    let mut rules = Vec::new();
    for _ in 0..take_len(&mut bytes)? {
        let length = take_len(&mut bytes)?;
        let (text, rest) = bytes.split_at_checked(length)?;
        rules.push(shared(Arc::new(serde_json::from_slice::<Rules>(text).ok()?)));
        bytes = rest;
    }
    let (mut rooms, mut room) = (BTreeMap::new(), 0_i64);
    for _ in 0..take_len(&mut bytes)? {
        room = room.checked_add(take_number(&mut bytes)?)?;
        let flags = take_byte(&mut bytes)?;
        let sent = Sent {
            joined: flags & 1 != 0,
            is_dm: flags & 2 != 0,
            events: take_upto(&mut bytes)?,
            receipts: take_upto(&mut bytes)?,
            account_data: take_upto(&mut bytes)?,
            depth: take_len(&mut bytes)?,
            rules: Arc::clone(rules.get(take_len(&mut bytes)?)?),
        };
        rooms.insert(RoomNum(room), sent);
    }
    bytes.is_empty().then_some(State { account_data, rooms })
}

/// Positions are never negative: 0 is never, 1 is live.
fn put_upto(bytes: &mut Vec<u8>, upto: Upto) {
    put_number(
        bytes,
        match upto {
            Upto::Never => 0,
            Upto::Live => 1,
            Upto::At(pos) => pos.0.saturating_add(2),
        },
    );
}

fn take_upto(bytes: &mut &[u8]) -> Option<Upto> {
    Some(match take_number(bytes)? {
        0 => Upto::Never,
        1 => Upto::Live,
        pos => Upto::At(StreamPosition(pos.checked_sub(2)?)),
    })
}

fn put_len(bytes: &mut Vec<u8>, length: usize) {
    put_number(bytes, i64::try_from(length).unwrap_or(i64::MAX));
}

fn take_len(bytes: &mut &[u8]) -> Option<usize> {
    usize::try_from(take_number(bytes)?).ok()
}

/// Seven bits a byte, lowest first.
fn put_number(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = number.cast_unsigned();
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7F).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
}

fn take_number(bytes: &mut &[u8]) -> Option<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number.cast_signed());
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use store::UserId;

    use super::*;
    use crate::sliding::config::Rule;

    /// Numbers that differ, the same in each run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }

        fn upto(&mut self) -> Upto {
            match self.roll(3) {
                0 => Upto::Never,
                1 => Upto::Live,
                _ => Upto::At(StreamPosition(self.roll(1 << 30).cast_signed())),
            }
        }
    }

    fn state(dice: &mut Dice) -> State {
        let user = UserId::from("@a:s");
        let mut state = State { account_data: dice.upto(), ..State::default() };
        for _ in 0..dice.roll(40) {
            let pairs = vec![("m.room.name".to_owned(), dice.roll(3).to_string())];
            let sent = Sent {
                events: dice.upto(),
                receipts: dice.upto(),
                account_data: dice.upto(),
                joined: dice.roll(2) == 0,
                is_dm: dice.roll(2) == 0,
                depth: if dice.roll(2) == 0 { usize::try_from(dice.roll(200)).unwrap() } else { WHOLE },
                rules: Arc::new(Rules(vec![Rule::of_pairs(&pairs, &user)])),
            };
            state.rooms.insert(RoomNum(dice.roll(1_000).cast_signed()), sent);
        }
        state
    }

    #[test]
    fn cz1_states_come_back_and_broken_ones_are_refused() {
        let mut dice = Dice(1);
        for _ in 0..200 {
            let state = state(&mut dice);
            let bytes = encode(&state);
            assert_eq!(decode(&bytes, |rules| rules).unwrap(), state);
            assert_eq!(decode(&bytes[..bytes.len() - 1], |rules| rules), None);
        }
        assert_eq!(decode(&[], |rules| rules), None);
        assert_eq!(decode(&[VERSION + 1, 0, 0, 0], |rules| rules), None);
    }

    #[test]
    fn cz1_a_step_that_changes_nothing_is_none() {
        let state = state(&mut Dice(7));
        let (room, sent) = state.rooms.iter().next().unwrap();
        let same = || Step { account_data: Some(state.account_data), rooms: [(*room, Some(sent.clone()))].into() };
        assert_eq!(same().after(&state), None);
        let mut gone = same();
        gone.rooms.insert(*room, None);
        assert!(!gone.after(&state).unwrap().rooms.contains_key(room));
        let mut lagging = sent.clone();
        lagging.events = Upto::Live;
        lagging.events.lag(StreamPosition(5));
        assert_eq!(lagging.events, Upto::At(StreamPosition(5)));
        lagging.events.lag(StreamPosition(9));
        assert_eq!(lagging.events, Upto::At(StreamPosition(5)), "it stays where it was");
    }
}

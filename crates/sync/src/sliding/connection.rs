//! What a connection has been sent, and its stored form.
//!
//! What is new in a room since any position can be answered from the store. So a connection remembers for each room no
//! more than *up to where* its client has it, and what of it was ever asked for. A room that the client has up to its
//! own position is [`Upto::Live`]: nothing is stored of how far that is, and an answer that only goes on with live rooms
//! changes no state. When a live room changes while the client does not look at it, it begins to lag: at the position
//! that the client had come to.
//!
//! A little that changes since the stored state is not stored but carried by the client, in the position that it hands
//! back: a room that comes into view costs no write. What a client makes up there it tells itself: what it may be told of a
//! room is decided by its membership.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
/// Bytes that a client is given to carry at most: some dozen rooms. Positions stand in addresses.
const CARRIED_MAX: usize = 400;
/// Characters of that as text, at most.
const CARRIED_CHARS_MAX: usize = CARRIED_MAX.div_ceil(3) * 4;
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

/// What a connection had been sent as it is stored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    account_data: Upto,
    rooms: BTreeMap<RoomNum, Sent>,
    /// The rules that differ, in the order in which rooms first have them.
    rules: Vec<Arc<Rules>>,
}

impl Stored {
    fn of(account_data: Upto, rooms: BTreeMap<RoomNum, Sent>) -> Self {
        let mut rules: Vec<Arc<Rules>> = Vec::new();
        for sent in rooms.values() {
            if place_of(&rules, &sent.rules).is_none() {
                rules.push(Arc::clone(&sent.rules));
            }
        }
        Self { account_data, rooms, rules }
    }
}

/// Where rules stand among those that differ. What is in the same place in memory is not compared.
fn place_of(all: &[Arc<Rules>], rules: &Arc<Rules>) -> Option<usize> {
    let same_place = all.iter().position(|one| Arc::ptr_eq(one, rules));
    same_place.or_else(|| all.iter().position(|one| one == rules))
}

/// What a connection has been sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Global account data.
    pub account_data: Upto,
    stored: Arc<Stored>,
    /// Rooms of which it is otherwise than stored; `None` where nothing is remembered any more.
    changed: BTreeMap<RoomNum, Option<Sent>>,
}

impl State {
    /// What has been sent of a room.
    pub fn get(&self, room: RoomNum) -> Option<&Sent> {
        match self.changed.get(&room) {
            Some(changed) => changed.as_ref(),
            None => self.stored.rooms.get(&room),
        }
    }

    /// The rooms of which something has been sent.
    pub fn iter(&self) -> impl Iterator<Item = (RoomNum, &Sent)> {
        let stored = self.stored.rooms.iter().filter(|(room, _)| !self.changed.contains_key(room));
        let changed = self.changed.iter().filter_map(|(room, sent)| Some((room, sent.as_ref()?)));
        stored.chain(changed).map(|(room, sent)| (*room, sent))
    }

    /// Whether all is as stored.
    fn is_stored(&self) -> bool {
        self.changed.is_empty() && self.account_data == self.stored.account_data
    }

    /// The same, to be stored.
    fn whole(self) -> Self {
        if self.is_stored() {
            return self;
        }
        let Self { account_data, stored, changed } = self;
        let mut rooms = stored.rooms.clone();
        for (room, sent) in changed {
            match sent {
                Some(sent) => drop(rooms.insert(room, sent)),
                None => drop(rooms.remove(&room)),
            }
        }
        Self { account_data, stored: Arc::new(Stored::of(account_data, rooms)), changed: BTreeMap::new() }
    }

    /// What the client is to carry, as text; empty if all is as stored, `None` if it is too much for that.
    pub fn carried(&self) -> Option<String> {
        if self.is_stored() {
            return Some(String::new());
        }
        let mut bytes = Vec::new();
        put_upto(&mut bytes, self.account_data);
        let mut before = 0;
        for (room, sent) in &self.changed {
            put_number(&mut bytes, room.0 - before);
            before = room.0;
            match sent {
                Some(sent) => put_sent(&mut bytes, sent, place_of(&self.stored.rules, &sent.rules)?),
                None => bytes.push(GONE),
            }
            if bytes.len() > CARRIED_MAX {
                return None;
            }
        }
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The state of a client that carries this.
    pub fn carrying(&self, text: &str) -> Option<Self> {
        let mut next = self.clone();
        if text.is_empty() {
            return Some(next);
        }
        if text.len() > CARRIED_CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut bytes = bytes.as_slice();
        next.account_data = take_upto(&mut bytes)?;
        let mut room = 0_i64;
        while !bytes.is_empty() {
            // They stand in order, each once.
            let step = take_number(&mut bytes).filter(|step| *step > 0)?;
            room = room.checked_add(step)?;
            next.changed.insert(RoomNum(room), take_sent(&mut bytes, &self.stored.rules)?);
        }
        Some(next)
    }
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
        self.rooms.get(&room).cloned().unwrap_or_else(|| state.get(room).cloned())
    }

    /// The state after it; `None` if that is the same.
    pub fn after(self, state: &State) -> Option<State> {
        let changed_data = self.account_data.is_some_and(|upto| upto != state.account_data);
        let differs = |(room, sent): (&RoomNum, &Option<Sent>)| state.get(*room) != sent.as_ref();
        if !changed_data && !self.rooms.iter().any(differs) {
            return None;
        }
        let mut next = state.clone();
        next.account_data = self.account_data.unwrap_or(next.account_data);
        for (room, sent) in self.rooms {
            if next.stored.rooms.get(&room) == sent.as_ref() {
                next.changed.remove(&room);
            } else {
                next.changed.insert(room, sent);
            }
        }
        Some(next)
    }
}

#[derive(Clone)]
pub(crate) struct Weight;

impl Weighter<i64, Arc<State>> for Weight {
    fn weight(&self, _generation: &i64, state: &Arc<State>) -> u64 {
        let rules: usize = state.stored.rules.iter().map(|rules| rules.bytes()).sum();
        let bytes = (state.stored.rooms.len() + 4) * ROOM_BYTES + rules;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// States as they are stored, in memory, by generation. They never change.
pub(crate) struct States(Cache<i64, Arc<State>, Weight>);

impl Default for States {
    fn default() -> Self {
        Self(Cache::with_weighter(STATES, STATE_BYTES_MAX, Weight))
    }
}

impl Sync {
    /// What a connection had been sent as it is stored with a generation from which it may go on, and its newest generation.
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
        let state = state.whole();
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

/// The stored form: version, global account data, distinct rules as JSON, rooms.
fn encode(state: &State) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    put_upto(&mut bytes, state.account_data);
    let Stored { rooms, rules, .. } = &*state.stored;
    put_len(&mut bytes, rules.len());
    for rules in rules {
        // Strings and lists always serialize.
        let text = serde_json::to_vec(&**rules).unwrap_or_default();
        put_len(&mut bytes, text.len());
        bytes.extend(text);
    }
    put_len(&mut bytes, rooms.len());
    let (mut before, mut last) = (0, (&Arc::default(), 0));
    for (room, sent) in rooms {
        put_number(&mut bytes, room.0 - before);
        before = room.0;
        if !Arc::ptr_eq(last.0, &sent.rules) {
            last = (&sent.rules, place_of(rules, &sent.rules).unwrap_or(0));
        }
        put_sent(&mut bytes, sent, last.1);
    }
    bytes
}

/// Marks a room of which nothing is remembered.
const GONE: u8 = 4;

fn put_sent(bytes: &mut Vec<u8>, sent: &Sent, place: usize) {
    bytes.push(u8::from(sent.joined) | u8::from(sent.is_dm) << 1);
    for upto in [sent.events, sent.receipts, sent.account_data] {
        put_upto(bytes, upto);
    }
    put_len(bytes, sent.depth);
    put_len(bytes, place);
}

/// What has been sent of a room: nothing that is remembered, perhaps. The outer `None` if it cannot be read.
fn take_sent(bytes: &mut &[u8], rules: &[Arc<Rules>]) -> Option<Option<Sent>> {
    let flags = take_byte(bytes)?;
    if flags & GONE != 0 {
        return Some(None);
    }
    Some(Some(Sent {
        joined: flags & 1 != 0,
        is_dm: flags & 2 != 0,
        events: take_upto(bytes)?,
        receipts: take_upto(bytes)?,
        account_data: take_upto(bytes)?,
        depth: take_len(bytes)?,
        rules: Arc::clone(rules.get(take_len(bytes)?)?),
    }))
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
        let sent = take_sent(&mut bytes, &rules)??;
        rooms.insert(RoomNum(room), sent);
    }
    let stored = Arc::new(Stored { account_data, rooms, rules });
    bytes.is_empty().then_some(State { account_data, stored, changed: BTreeMap::new() })
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

    fn sent(dice: &mut Dice) -> Sent {
        let pairs = vec![("m.room.name".to_owned(), dice.roll(3).to_string())];
        Sent {
            events: dice.upto(),
            receipts: dice.upto(),
            account_data: dice.upto(),
            joined: dice.roll(2) == 0,
            is_dm: dice.roll(2) == 0,
            depth: if dice.roll(2) == 0 { usize::try_from(dice.roll(200)).unwrap() } else { WHOLE },
            rules: Arc::new(Rules(vec![Rule::of_pairs(&pairs, &UserId::from("@a:s"))])),
        }
    }

    fn room(dice: &mut Dice) -> RoomNum {
        RoomNum(1 + dice.roll(1_000).cast_signed())
    }

    fn state(dice: &mut Dice) -> State {
        let account_data = Some(dice.upto());
        let rooms = (0..dice.roll(40)).map(|_| (room(dice), Some(sent(dice)))).collect();
        Step { account_data, rooms }.after(&State::default()).unwrap_or_default().whole()
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
        let (room, sent) = state.iter().next().unwrap();
        let same = || Step { account_data: Some(state.account_data), rooms: [(room, Some(sent.clone()))].into() };
        assert_eq!(same().after(&state), None);
        let mut gone = same();
        gone.rooms.insert(room, None);
        assert!(gone.after(&state).unwrap().get(room).is_none());
        let mut lagging = sent.clone();
        lagging.events = Upto::Live;
        lagging.events.lag(StreamPosition(5));
        assert_eq!(lagging.events, Upto::At(StreamPosition(5)));
        lagging.events.lag(StreamPosition(9));
        assert_eq!(lagging.events, Upto::At(StreamPosition(5)), "it stays where it was");
    }
    /// Steps by chance: what a client carries is what would have been stored, wherever it is read.
    #[test]
    fn cz1_what_a_client_carries_comes_back() {
        let (mut dice, mut stored_anew, mut longest) = (Dice(3), 0, 0);
        for _ in 0..50 {
            let stored = state(&mut dice);
            let again = decode(&encode(&stored), |rules| rules).unwrap();
            let (mut now, mut plain) = (stored.clone(), stored.clone());
            for _ in 0..60 {
                let known = now.iter().next().map(|(room, _)| room);
                let rooms = match (dice.roll(5), known) {
                    (0, Some(known)) => BTreeMap::from([(known, None)]),
                    _ => BTreeMap::from([(room(&mut dice), Some(sent(&mut dice)))]),
                };
                let account_data = (dice.roll(4) == 0).then(|| dice.upto());
                let step = || Step { account_data, rooms: rooms.clone() };
                let Some(next) = step().after(&now) else { continue };
                plain = step().after(&plain).unwrap().whole();
                let Some(carried) = next.carried() else {
                    stored_anew += 1;
                    break;
                };
                longest = longest.max(carried.len());
                now = again.carrying(&carried).unwrap();
                assert_eq!(now.clone().whole(), plain);
                assert_eq!(now.carried().unwrap(), carried);
            }
        }
        assert!(stored_anew > 10 && (400..=560).contains(&longest), "{stored_anew} {longest}");
    }

    #[test]
    fn cz1_what_no_client_was_given_to_carry_is_refused() {
        let stored = state(&mut Dice(7));
        for text in ["AQ=", "!", "_", "AQEB", &"AQ".repeat(300)] {
            assert_eq!(stored.carrying(text), None, "{text}");
        }
        // A room that stands twice, and more rooms than any client was given.
        let entry = |step: u8| [step, GONE];
        let text = |steps: &[u8]| {
            let entries = steps.iter().flat_map(|step| entry(*step));
            URL_SAFE_NO_PAD.encode([0].into_iter().chain(entries).collect::<Vec<u8>>())
        };
        assert!(stored.carrying(&text(&[5, 1])).is_some());
        assert_eq!(stored.carrying(&text(&[5, 0])), None);
        assert!(stored.carrying(&text(&[1; 190])).is_some());
        assert_eq!(stored.carrying(&text(&[1; 250])), None);
        let another = Step { account_data: None, rooms: BTreeMap::from([(RoomNum(5), Some(sent(&mut Dice(9))))]) };
        let foreign = another.after(&State::default()).unwrap();
        assert_eq!(foreign.carried(), None, "its rules are not among the stored ones");
    }
}

//! Postings, their order and their packed form.
//!
//! A posting says that an event of a room has a term. Postings are ordered by term, room, time and event; a block holds
//! some that follow each other, each as the difference to the one before it.

use std::collections::BTreeSet;

use store::{EventNum, RoomNum};

use crate::words::Term;

/// Bytes of a block from which on the next posting begins another one.
const BLOCK_BYTES: usize = 6 << 10;
/// Bytes of a posting's place in the order: six of the term, eight each of room, time and event.
const TERM_BYTES: usize = 6;

/// By which documents are ordered: the time in milliseconds since the epoch, then the event's number.
pub(crate) type Moment = (i64, EventNum);

/// That an event has a term. The order of the fields is that of postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Posting {
    pub term: Term,
    pub room: RoomNum,
    pub at_ms: i64,
    pub event: EventNum,
}

impl Posting {
    /// The first one that a term can have.
    pub fn first_of(term: Term) -> Self {
        Self { term, room: RoomNum(0), at_ms: 0, event: EventNum(0) }
    }

    /// The last one that a term can have.
    pub fn last_of(term: Term) -> Self {
        Self { term, room: RoomNum(i64::MAX), at_ms: i64::MAX, event: EventNum(i64::MAX) }
    }

    /// The first one that a term can have in a room.
    pub fn first_in(term: Term, room: RoomNum) -> Self {
        Self { room, ..Self::first_of(term) }
    }

    /// The last one that a term can have in a room.
    pub fn last_in(term: Term, room: RoomNum) -> Self {
        Self { room, ..Self::last_of(term) }
    }

    /// When what it is about was said.
    pub fn moment(&self) -> Moment {
        (self.at_ms, self.event)
    }

    /// Bytes that are ordered as postings are: no number in them is below zero.
    pub fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(TERM_BYTES + 24);
        key.extend(self.term.to_be_bytes().iter().skip(8 - TERM_BYTES));
        for number in [self.room.0, self.at_ms, self.event.0] {
            key.extend(number.to_be_bytes());
        }
        key
    }
}

/// Packs postings, which must come in order, into blocks.
pub(crate) struct Packer {
    first: Option<Posting>,
    last: Posting,
    bytes: Vec<u8>,
}

impl Default for Packer {
    fn default() -> Self {
        Self { first: None, last: Posting::first_of(0), bytes: Vec::new() }
    }
}

impl Packer {
    /// Adds a posting. Returns a block, and the first posting in it, when one is full.
    pub fn push(&mut self, posting: Posting) -> Option<(Posting, Vec<u8>)> {
        let full = if self.bytes.len() >= BLOCK_BYTES { self.finish() } else { None };
        if self.first.is_none() {
            self.first = Some(posting);
        }
        append(&mut self.bytes, &self.last, &posting);
        self.last = posting;
        full
    }

    /// What is left.
    pub fn finish(&mut self) -> Option<(Posting, Vec<u8>)> {
        let first = self.first.take()?;
        self.last = Posting::first_of(0);
        Some((first, std::mem::take(&mut self.bytes)))
    }
}

fn append(bytes: &mut Vec<u8>, last: &Posting, posting: &Posting) {
    if posting.term != last.term {
        push(bytes, 2);
        push(bytes, posting.term.saturating_sub(last.term));
        push(bytes, unsigned(posting.room.0));
    } else if posting.room != last.room {
        push(bytes, 1);
        push(bytes, unsigned(posting.room.0));
    } else {
        push(bytes, 0);
    }
    push(bytes, zigzag(posting.at_ms.wrapping_sub(last.at_ms)));
    push(bytes, zigzag(posting.event.0.wrapping_sub(last.event.0)));
}

/// Packs postings into one block, however many they are.
pub(crate) fn pack(postings: &[Posting]) -> Vec<u8> {
    let (mut bytes, mut last) = (Vec::new(), Posting::first_of(0));
    for posting in postings {
        append(&mut bytes, &last, posting);
        last = *posting;
    }
    bytes
}

/// Reads a block. `None` if it is damaged.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Vec<Posting>> {
    let mut postings = Vec::with_capacity(bytes.len() / 6);
    let mut rest = bytes;
    let mut last = Posting::first_of(0);
    while !rest.is_empty() {
        match take(&mut rest)? {
            0 => {}
            1 => last.room = RoomNum(signed(take(&mut rest)?)?),
            2 => {
                last.term = last.term.checked_add(take(&mut rest)?)?;
                last.room = RoomNum(signed(take(&mut rest)?)?);
            }
            _ => return None,
        }
        last.at_ms = last.at_ms.wrapping_add(unzigzag(take(&mut rest)?));
        last.event = EventNum(last.event.0.wrapping_add(unzigzag(take(&mut rest)?)));
        postings.push(last);
    }
    Some(postings)
}

/// Packs the terms of a document.
pub(crate) fn pack_terms(terms: &BTreeSet<Term>) -> Vec<u8> {
    let (mut bytes, mut last) = (Vec::new(), 0);
    for term in terms {
        push(&mut bytes, term - last);
        last = *term;
    }
    bytes
}

/// Reads the terms of a document. `None` if they are damaged.
pub(crate) fn unpack_terms(bytes: &[u8]) -> Option<BTreeSet<Term>> {
    let (mut rest, mut last, mut terms) = (bytes, 0_u64, BTreeSet::new());
    while !rest.is_empty() {
        last = last.checked_add(take(&mut rest)?)?;
        terms.insert(last);
    }
    Some(terms)
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        if shift > 63 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> Option<i64> {
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn some() -> Vec<Posting> {
        let mut postings = Vec::new();
        for n in 0..5_000_i64 {
            postings.push(Posting {
                term: u64::try_from(n % 97).unwrap() << 35,
                room: RoomNum(n % 7),
                at_ms: 1_700_000_000_000 - n * 977 % 100_000,
                event: EventNum(n * n % 10_007),
            });
        }
        postings.sort_unstable();
        postings
    }

    #[test]
    fn blocks_hold_what_was_packed_in_the_order_of_their_keys() {
        let postings = some();
        let (mut packer, mut blocks) = (Packer::default(), Vec::new());
        for posting in &postings {
            blocks.extend(packer.push(*posting));
        }
        blocks.extend(packer.finish());
        assert!(blocks.len() > 3);
        assert!(blocks.windows(2).all(|pair| pair[0].0.key() < pair[1].0.key()));
        assert!(postings.windows(2).all(|pair| pair[0].key() <= pair[1].key()));
        let unpacked: Vec<Posting> = blocks.iter().flat_map(|(_, bytes)| unpack(bytes).unwrap()).collect();
        assert_eq!(unpacked, postings);
        assert_eq!(unpack(&pack(&postings)).unwrap(), postings);
    }

    #[test]
    fn damaged_blocks_are_no_postings() {
        for bytes in [&[9][..], &[2, 1], &[0x80], &[0xff; 12], &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]
        {
            assert_eq!(unpack(bytes), None, "{bytes:?}");
        }
        assert_eq!(unpack(&[]).unwrap(), []);
        let terms = BTreeSet::from([0, 7, 1 << 42]);
        assert_eq!(unpack_terms(&pack_terms(&terms)).unwrap(), terms);
    }
}

//! Segments: the rows that hold the nodes of a room's trees, their bytes, and the
//! writer that fills them.
//!
//! A segment is a version byte and then nodes until the end of the bytes. A leaf is
//! `width, mask (2), base, value…`: every present value is stored as its distance
//! from the smallest one in `width` bytes. An inner node is `0x10, mask (2),
//! (segments back, index)…`. Pointers never lead to a later segment, nor in the same
//! segment to a later node, so no bytes whatsoever can describe a loop.

use std::sync::Arc;

use bytes::Bytes;

use super::{FAN_OUT, SEGMENT_NUMBER_MAX, SegNo, TreeError, Value};
use crate::packed::{put_varint, take_varint, unzigzag, zigzag};

/// The most bytes that one segment takes, so that writing a large state never
/// holds the storage for long and reading one never loads much at once.
pub const SEGMENT_BYTES_MAX: usize = 64 * 1024;

/// The first byte of every segment.
const SEGMENT_VERSION: u8 = 1;
/// The first byte of an inner node; a leaf begins with its width, which is smaller.
const INNER: u8 = 0x10;
/// The widest stored distance of a leaf.
const WIDTH_MAX: u8 = 8;

/// A place in a room's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub segment: SegNo,
    pub index: u16,
}

/// The decoded form of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Leaf([Option<Value>; FAN_OUT]),
    Inner([Option<Place>; FAN_OUT]),
}

/// One row of the table of segments, as it is written and as it is read back.
/// A row never changes once it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// The number of the segment within its room.
    pub segment: SegNo,
    /// No node of this segment reaches, over any number of steps, a segment below
    /// this one. The bound may be lower than need be, never higher.
    pub lowest: SegNo,
    /// The nodes, at most [`SEGMENT_BYTES_MAX`] bytes.
    pub nodes: Bytes,
    /// Checksum over the two numbers and the nodes.
    pub crc32: u32,
}

impl SegmentRow {
    fn new(segment: SegNo, lowest: SegNo, nodes: Vec<u8>) -> Self {
        let crc32 = checksum(segment, lowest, &nodes);
        Self { segment, lowest, nodes: nodes.into(), crc32 }
    }
}

/// A segment in memory: checked once, after which any of its nodes is read directly.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    number: SegNo,
    lowest: SegNo,
    nodes: Bytes,
    offsets: Box<[u16]>,
}

impl Segment {
    /// Checks a stored row: its checksum, its bounds and every node in it.
    pub fn decode(row: &SegmentRow) -> Result<Arc<Self>, TreeError> {
        let corrupt = |what| TreeError::Corrupt { segment: row.segment, what };
        if row.nodes.len() > SEGMENT_BYTES_MAX {
            return Err(corrupt("it is too long"));
        }
        if row.segment > SEGMENT_NUMBER_MAX || row.lowest > row.segment {
            return Err(corrupt("its number is out of range"));
        }
        if checksum(row.segment, row.lowest, &row.nodes) != row.crc32 {
            return Err(corrupt("its checksum is wrong"));
        }
        let offsets = check_nodes(row).map_err(corrupt)?;
        Ok(Arc::new(Self {
            number: row.segment,
            lowest: row.lowest,
            nodes: row.nodes.clone(),
            offsets: offsets.into(),
        }))
    }

    /// The number of the segment within its room.
    pub fn number(&self) -> SegNo {
        self.number
    }

    /// See [`SegmentRow::lowest`].
    pub fn lowest(&self) -> SegNo {
        self.lowest
    }

    /// How many nodes the segment holds.
    pub fn nodes(&self) -> usize {
        self.offsets.len()
    }

    /// About how many bytes of memory the segment takes: the weight in a cache.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.nodes.len() + self.offsets.len() * size_of::<u16>()
    }

    pub(super) fn node(&self, index: u16) -> Result<Node, TreeError> {
        let corrupt = |what| TreeError::Corrupt { segment: self.number, what };
        let offset =
            *self.offsets.get(usize::from(index)).ok_or_else(|| corrupt("a pointer leads behind its last node"))?;
        let mut bytes = self.nodes.get(usize::from(offset)..).ok_or_else(|| corrupt("a node lies outside"))?;
        take_node(&mut bytes, self.number).map_err(corrupt)
    }
}

/// Walks over all nodes of a row and returns where each begins.
fn check_nodes(row: &SegmentRow) -> Result<Vec<u16>, &'static str> {
    let mut offsets = Vec::new();
    let (&version, mut bytes) = row.nodes.split_first().ok_or("it is empty")?;
    if version != SEGMENT_VERSION {
        return Err("its version is unknown");
    }
    while !bytes.is_empty() {
        let offset = row.nodes.len() - bytes.len();
        let node = take_node(&mut bytes, row.segment)?;
        if let Node::Inner(places) = &node {
            for place in places.iter().flatten() {
                let later = place.segment == row.segment && usize::from(place.index) >= offsets.len();
                if later || place.segment < row.lowest {
                    return Err("a pointer is out of range");
                }
            }
        }
        offsets.push(u16::try_from(offset).map_err(|_| "it is too long")?);
    }
    Ok(offsets)
}

fn checksum(segment: SegNo, lowest: SegNo, nodes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&lowest.to_le_bytes());
    hasher.update(nodes);
    hasher.finalize()
}

fn take_bytes<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(n).ok_or("it is cut off")?;
    *bytes = rest;
    Ok(taken)
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, &'static str> {
    take_varint(bytes).map_err(|_| "a number is broken")
}

fn take_node(bytes: &mut &[u8], own: SegNo) -> Result<Node, &'static str> {
    let head = take_bytes(bytes, 3)?;
    let mask = u16::from_le_bytes([head[1], head[2]]);
    if mask == 0 {
        return Err("a node is empty");
    }
    match head[0] {
        INNER => take_inner(bytes, mask, own).map(Node::Inner),
        width if width <= WIDTH_MAX => take_leaf(bytes, mask, usize::from(width)).map(Node::Leaf),
        _ => Err("a node is of an unknown kind"),
    }
}

fn take_leaf(bytes: &mut &[u8], mask: u16, width: usize) -> Result<[Option<Value>; FAN_OUT], &'static str> {
    let base = unzigzag(take_number(bytes)?);
    let mut slots = [None; FAN_OUT];
    for (place, slot) in slots.iter_mut().enumerate() {
        if mask & (1 << place) != 0 {
            let mut distance = [0; 8];
            distance[..width].copy_from_slice(take_bytes(bytes, width)?);
            *slot = Some(base.wrapping_add(u64::from_le_bytes(distance) as i64));
        }
    }
    Ok(slots)
}

fn take_inner(bytes: &mut &[u8], mask: u16, own: SegNo) -> Result<[Option<Place>; FAN_OUT], &'static str> {
    let mut slots = [None; FAN_OUT];
    for (place, slot) in slots.iter_mut().enumerate() {
        if mask & (1 << place) != 0 {
            let back = take_number(bytes)?;
            let segment = own.checked_sub(back).ok_or("a pointer is out of range")?;
            let index = u16::try_from(take_number(bytes)?).map_err(|_| "a pointer is out of range")?;
            *slot = Some(Place { segment, index });
        }
    }
    Ok(slots)
}

fn mask_of<T>(slots: &[Option<T>; FAN_OUT]) -> u16 {
    let present = slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
    present.fold(0, |mask, (place, _)| mask | (1 << place))
}

fn put_leaf(out: &mut Vec<u8>, slots: &[Option<Value>; FAN_OUT]) {
    let base = slots.iter().flatten().copied().min().unwrap_or(0);
    let distance = |value: Value| value.wrapping_sub(base) as u64;
    let widest = slots.iter().flatten().map(|&value| distance(value)).max().unwrap_or(0);
    let width = (u64::BITS - widest.leading_zeros()).div_ceil(8) as usize;
    out.push(width as u8);
    out.extend_from_slice(&mask_of(slots).to_le_bytes());
    put_varint(out, zigzag(base));
    for &value in slots.iter().flatten() {
        out.extend_from_slice(&distance(value).to_le_bytes()[..width]);
    }
}

fn put_inner(out: &mut Vec<u8>, own: SegNo, slots: &[Option<Place>; FAN_OUT]) {
    out.push(INNER);
    out.extend_from_slice(&mask_of(slots).to_le_bytes());
    for place in slots.iter().flatten() {
        put_varint(out, own - place.segment);
        put_varint(out, u64::from(place.index));
    }
}

/// Fills consecutive segments with nodes, children before parents.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    current: SegNo,
    lowest: SegNo,
    nodes: Vec<u8>,
    n_nodes: u16,
    rows: Vec<SegmentRow>,
}

impl SegmentWriter {
    /// Writes segments from `first` on, from which nothing below `lowest` will be reached.
    pub fn new(first: SegNo, lowest: SegNo) -> Self {
        Self { current: first, lowest, nodes: Vec::new(), n_nodes: 0, rows: Vec::new() }
    }

    /// Adds a node, all of whose pointers lead to what was written before it.
    pub fn push(&mut self, node: &Node) -> Result<Place, TreeError> {
        let mut bytes = self.encode(node);
        if self.nodes.len() + bytes.len() > SEGMENT_BYTES_MAX {
            self.close();
            self.current += 1;
            // Pointers are relative to the segment that they stand in.
            bytes = self.encode(node);
        }
        if self.current > SEGMENT_NUMBER_MAX {
            return Err(TreeError::Order { segment: self.current });
        }
        if self.nodes.is_empty() {
            self.nodes.push(SEGMENT_VERSION);
        }
        self.nodes.extend_from_slice(&bytes);
        let place = Place { segment: self.current, index: self.n_nodes };
        self.n_nodes += 1;
        Ok(place)
    }

    /// The rows, in ascending order of their numbers.
    pub fn finish(mut self) -> Vec<SegmentRow> {
        self.close();
        self.rows
    }

    fn encode(&self, node: &Node) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        match node {
            Node::Leaf(slots) => put_leaf(&mut bytes, slots),
            Node::Inner(slots) => put_inner(&mut bytes, self.current, slots),
        }
        bytes
    }

    fn close(&mut self) {
        if !self.nodes.is_empty() {
            let nodes = std::mem::take(&mut self.nodes);
            let lowest = self.lowest.min(self.current);
            self.rows.push(SegmentRow::new(self.current, lowest, nodes));
            self.n_nodes = 0;
        }
    }
}

#[cfg(test)]
mod tests;

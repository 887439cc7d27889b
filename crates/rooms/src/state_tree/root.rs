//! The root of one snapshot: where its topmost node lies and how much is below.

use super::{HEIGHT_MAX, KeyId, SEGMENT_NUMBER_MAX, SegNo, Sub, TreeError};
use crate::packed::{put_varint, take_varint};

/// The first half byte of an encoded root; the other half is its height.
const ROOT_VERSION: u8 = 1;

/// The most bytes that an encoded root takes.
pub const ROOT_BYTES_MAX: usize = 16;

/// What a key takes in a freshly written tree: measured, used for estimates only.
const BYTES_PER_KEY: u64 = 5;

/// One snapshot of the state: a place in a segment, the height of the tree
/// (0 is the empty state, 1 a single leaf) and the number of keys in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root {
    pub(super) segment: SegNo,
    pub(super) index: u16,
    pub(super) height: u8,
    pub(super) count: u32,
}

impl Root {
    /// The snapshot without any state.
    pub const EMPTY: Self = Self { segment: 0, index: 0, height: 0, count: 0 };

    /// How many keys have a value in this snapshot.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.height == 0
    }

    /// The segment that holds the topmost node; none for the empty snapshot. No
    /// node of the snapshot lies in a segment with a higher number.
    pub fn segment(&self) -> Option<SegNo> {
        (self.height > 0).then_some(self.segment)
    }

    /// About how many bytes the snapshot takes when it is written afresh.
    pub fn bytes_estimate(&self) -> u64 {
        u64::from(self.count) * BYTES_PER_KEY
    }

    /// The stored form, at most [`ROOT_BYTES_MAX`] bytes, typically seven.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ROOT_BYTES_MAX);
        bytes.push((ROOT_VERSION << 4) | self.height);
        if self.height > 0 {
            put_varint(&mut bytes, self.segment);
            put_varint(&mut bytes, u64::from(self.index));
            put_varint(&mut bytes, u64::from(self.count));
        }
        bytes
    }

    /// Reads what [`Root::to_bytes`] wrote.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, TreeError> {
        Self::take(&mut bytes).filter(|_| bytes.is_empty()).ok_or(TreeError::CorruptRoot)
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (&first, rest) = bytes.split_first()?;
        *bytes = rest;
        let height = first & 0x0f;
        if first >> 4 != ROOT_VERSION || height > HEIGHT_MAX {
            return None;
        }
        if height == 0 {
            return Some(Self::EMPTY);
        }
        let segment = take_varint(bytes).ok()?;
        let index = u16::try_from(take_varint(bytes).ok()?).ok()?;
        let count = u32::try_from(take_varint(bytes).ok()?).ok()?;
        (segment <= SEGMENT_NUMBER_MAX && count > 0).then_some(Self { segment, index, height, count })
    }

    pub(super) fn sub(&self) -> Option<Sub> {
        (self.height > 0).then_some(Sub { segment: self.segment, index: self.index, height: self.height })
    }

    pub(super) fn from_sub(sub: Option<Sub>, count: u32) -> Self {
        sub.map_or(Self::EMPTY, |sub| Self { segment: sub.segment, index: sub.index, height: sub.height, count })
    }
}

/// The height of the lowest tree that has a place for `key`.
pub(super) fn height_for(key: KeyId) -> u8 {
    let bits = u32::BITS - key.leading_zeros();
    bits.div_ceil(4).max(1) as u8
}

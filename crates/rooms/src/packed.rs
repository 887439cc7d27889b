//! Packed lists of event numbers: the auth edges and previous edges of an event
//! as they are stored beside it, and the variable-length integers under them.

/// The most edges that one packed list may hold. A PDU has at most 65,536 bytes
/// and an edge takes at least five of them, so no acceptable event reaches this.
pub const EDGES_MAX: usize = 16_384;

/// The longest variable-length integer: 64 bits in groups of seven.
const VARINT_BYTES_MAX: usize = 10;

/// Why stored bytes are not a packed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// The bytes end inside a number.
    #[error("the bytes end inside a packed number")]
    CutOff,
    /// A number does not fit in 64 bits.
    #[error("a packed number is longer than 64 bits")]
    TooLong,
    /// The list holds more than [`EDGES_MAX`] numbers.
    #[error("a packed list has more than {EDGES_MAX} numbers")]
    TooMany,
}

/// Packs the event numbers that `event` points to. Each is written as its
/// distance from the one before, the first from `event` itself, so neighbors in
/// time take one or two bytes. Order and repetitions are kept.
pub fn pack(event: i64, edges: &[i64]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(edges.len() * 3);
    let mut last = event;
    for &edge in edges {
        put_varint(&mut packed, zigzag(last.wrapping_sub(edge)));
        last = edge;
    }
    packed
}

/// The event numbers that [`pack`] wrote for `event`, in the same order.
pub fn unpack(event: i64, mut packed: &[u8]) -> Result<Vec<i64>, PackedError> {
    let mut edges = Vec::new();
    let mut last = event;
    while !packed.is_empty() {
        if edges.len() == EDGES_MAX {
            return Err(PackedError::TooMany);
        }
        last = last.wrapping_sub(unzigzag(take_varint(&mut packed)?));
        edges.push(last);
    }
    Ok(edges)
}

/// Appends `number` in groups of seven bits, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes one number that [`put_varint`] wrote off the front of `bytes`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Result<u64, PackedError> {
    let mut number = 0u64;
    for place in 0..VARINT_BYTES_MAX {
        let (&byte, rest) = bytes.split_first().ok_or(PackedError::CutOff)?;
        *bytes = rest;
        // The tenth group has room for the topmost bit only.
        if place == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(PackedError::TooLong);
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(PackedError::TooLong)
}

/// Maps small numbers of either sign to small numbers: 0, -1, 1, -2 … to 0, 1, 2, 3 ….
pub(crate) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The number that [`zigzag`] mapped.
pub(crate) fn unzigzag(number: u64) -> i64 {
    ((number >> 1) as i64) ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbors_take_one_byte() {
        assert_eq!(pack(1_000_000, &[999_999, 999_950, 999_960]).len(), 3);
        assert!(pack(7, &[]).is_empty());
    }

    #[test]
    fn broken_bytes_are_named() {
        assert_eq!(unpack(1, &[0x80]), Err(PackedError::CutOff));
        assert_eq!(unpack(1, &[0xff; 12]), Err(PackedError::TooLong));
        assert_eq!(unpack(1, &vec![2; EDGES_MAX + 1]), Err(PackedError::TooMany));
        assert_eq!(unpack(1, &vec![2; EDGES_MAX]).unwrap().len(), EDGES_MAX);
    }

    proptest! {
        #[test]
        fn every_list_comes_back(event: i64, edges: Vec<i64>) {
            prop_assert_eq!(unpack(event, &pack(event, &edges)).unwrap(), edges);
        }

        #[test]
        fn any_bytes_are_a_list_or_an_error(event: i64, bytes: Vec<u8>) {
            if let Ok(edges) = unpack(event, &bytes) {
                prop_assert!(edges.len() <= bytes.len());
            }
        }
    }
}

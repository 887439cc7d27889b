//! Changes to an input that parsers stumble over.

/// The longest input that is made; what is longer is cut.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// The most changes to one input at once.
const CHANGES_MAX: u64 = 6;

/// Pieces of the formats that Matrix servers read, and what is at the edge of them.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\u00e9",
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-1",
    "1.0",
    "1e400",
    "1E+2",
    "9007199254740991",
    "9007199254740992",
    "-9223372036854775809",
    "18446744073709551616",
    "\"\":",
    "{\"a\":{\"a\":",
    "[[[[[[[[",
    "@a:b",
    "!r:b",
    "$e",
    "#x:b",
    "mxc://",
    ":8448",
    "[::1]",
    "%00",
    "%ff",
    "%25",
    "+",
    "&",
    "=",
    "s1_a_2",
    "t1_2",
    "\r\n",
    "\t",
    "\u{0}",
    "\u{202e}",
    "\u{fffd}",
    "\"type\":",
    "\"content\":",
    "\"sender\":",
    "\"state_key\":\"\"",
    "\"room_id\":",
    "\"depth\":",
    "\"hashes\":",
    "\"signatures\":",
    "\"auth_events\":",
    "\"prev_events\":",
    "\"origin_server_ts\":",
    "\"redacts\":",
    "\"membership\":",
    "\"users\":",
    "\"third_party_invite\":",
    "\"m.relates_to\":",
    "\"limit\":",
    "\"types\":",
    "\"not_types\":",
];

/// A source of chance that repeats itself for a seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Chance for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `end`, 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // xorshift64*: good enough to choose places, and without a dependency.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        usize::try_from(number).unwrap_or(usize::MAX).checked_rem(end).unwrap_or(0)
    }
}

/// A changed copy of `input`; `other` is another input to take parts from.
pub fn mutate(input: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let changes = 1 + chance.below(usize::try_from(CHANGES_MAX).unwrap_or(1));
    for _ in 0..changes {
        change(&mut bytes, other, chance);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

/// One change.
fn change(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len() + 1);
    let end = (at + 1 + chance.below(16)).min(bytes.len());
    match chance.below(8) {
        0 => flip(bytes, at, chance),
        1 => drop(bytes.drain(at.min(end)..end)),
        2 => insert(bytes, at, PIECES[chance.below(PIECES.len())].as_bytes()),
        3 => {
            let piece = PIECES[chance.below(PIECES.len())].as_bytes();
            bytes.splice(at.min(end)..end, piece.iter().copied());
        }
        4 => {
            let part = bytes[at.min(end)..end].to_vec();
            insert(bytes, at, &part.repeat(1 + chance.below(40)));
        }
        5 => {
            let from = chance.below(other.len() + 1);
            let to = (from + chance.below(64)).min(other.len());
            insert(bytes, at, &other[from..to]);
        }
        6 => bytes.truncate(at),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = u8::try_from(chance.below(256)).unwrap_or(0);
            }
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, chance: &mut Chance) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << chance.below(8);
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.splice(at..at, part.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let run = |seed| {
            let mut chance = Chance::new(seed);
            (0..50).map(|_| mutate(b"{\"a\":1}", b"[2]", &mut chance)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn inputs_stay_bounded() {
        let mut chance = Chance::new(1);
        let mut input = b"x".repeat(INPUT_BYTES_MAX);
        for _ in 0..2_000 {
            input = mutate(&input, &[], &mut chance);
            assert!(input.len() <= INPUT_BYTES_MAX);
        }
    }
}

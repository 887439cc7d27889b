//! Secrets that this server makes and later recognizes: random text, stored only as SHA-256.

use sha2::{Digest, Sha256};
use store::Entropy;
use store::clock::random_text;
use subtle::ConstantTimeEq;

/// Characters of a token: 62^40 values, 238 bits.
const TOKEN_LENGTH: usize = 40;

/// A fresh token: a prefix that tells people and scanners what it is, and random text.
pub fn token(entropy: &dyn Entropy, prefix: &str) -> String {
    format!("{prefix}_{}", random_text(entropy, TOKEN_LENGTH))
}

/// The hash under which a token is stored.
pub fn hash(token: &str) -> Vec<u8> {
    sha256(token.as_bytes()).to_vec()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Whether two secrets are equal, in time that depends on their length only.
pub fn equal(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! Time and randomness, passed in so that tests and simulations decide both.

use std::time::Duration;

/// A source of wall-clock time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump back.
    fn now_ms(&self) -> i64;
}

/// A source of random bytes fit for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// `length` random characters of `A–Z a–z 0–9`, each with 62 equally likely values.
pub fn random_text(entropy: &dyn Entropy, length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    let mut bytes = [0_u8; 32];
    while text.len() < length {
        entropy.fill(&mut bytes);
        // Values from 248 on would make the first characters likelier than the rest.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        text.extend(
            fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)))
                .map(|byte| char::from(*byte))
                .take(length - text.len()),
        );
    }
    text
}

/// The wait after `failures` failures in a row: doubled each time, at most `max`, and up to a quarter longer or shorter
/// by chance, so that servers that failed together are not tried together.
pub fn back_off(first: Duration, max: Duration, failures: u32, entropy: &dyn Entropy) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(31)).unwrap_or(u32::MAX));
    let base = doubled.min(max);
    let mut byte = [0; 1];
    entropy.fill(&mut byte);
    let chance = u32::from(byte[0]);
    // 192/256 to 320/256 of it.
    (base / 256).saturating_mul(192 + chance / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn fa12_waits_grow_to_a_bound_and_are_spread() {
        let (first, max) = (Duration::from_secs(4), Duration::from_secs(64));
        let of = |failures, byte| back_off(first, max, failures, &Fixed(byte)).as_millis();
        assert_eq!(
            (of(1, 128), of(2, 128), of(5, 128), of(6, 128), of(4_000, 128)),
            (4_000, 8_000, 64_000, 64_000, 64_000)
        );
        assert_eq!((of(1, 0), of(1, 255)), (3_000, 4_984));
    }
}

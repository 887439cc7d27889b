//! Time and chance as tests decide them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use store::{Clock, Entropy};

/// When a [`FakeClock`] begins, in milliseconds since the Unix epoch.
const BEGINNING_MS: i64 = 1_700_000_000_000;

/// A clock of which each look is a millisecond later, so that nothing happens at the same time.
pub struct FakeClock(AtomicI64);

impl Default for FakeClock {
    fn default() -> Self {
        Self(AtomicI64::new(BEGINNING_MS))
    }
}

impl FakeClock {
    /// Moves the clock on by so many milliseconds; back, if they are negative.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Bytes that differ at each call and are the same in each run.
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// The bytes of a seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let mut state = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
            state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            *byte = (state >> 29).to_le_bytes()[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_looks_and_by_order() {
        let clock = FakeClock::default();
        let first = clock.now_ms();
        assert_eq!(clock.now_ms(), first + 1);
        clock.advance(1_000);
        assert_eq!(clock.now_ms(), first + 1_002);
        clock.advance(-1_000);
        assert_eq!(clock.now_ms(), first + 3);
    }

    #[test]
    fn a_seed_decides_the_bytes() {
        let bytes = |entropy: &SeededEntropy| {
            let mut bytes = [0; 16];
            entropy.fill(&mut bytes);
            bytes
        };
        let entropy = SeededEntropy::new(1);
        let (first, second) = (bytes(&entropy), bytes(&entropy));
        assert_ne!(first, second, "each call differs");
        let again = SeededEntropy::new(1);
        assert_eq!([bytes(&again), bytes(&again)], [first, second]);
        assert_ne!(bytes(&SeededEntropy::new(2)), first);
    }
}

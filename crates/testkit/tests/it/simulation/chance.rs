//! Chance that a seed decides.

use std::sync::Arc;

use parking_lot::Mutex;

/// A sequence of random numbers. Clones draw from the same one.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<u64>>);

impl Chance {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        let chance = Self(Arc::new(Mutex::new(seed)));
        // Neighboring seeds are to begin differently.
        chance.draw();
        chance
    }

    /// Another sequence, decided by this one.
    pub fn fork(&self) -> Self {
        Self::new(self.draw())
    }

    /// The next number.
    pub fn draw(&self) -> u64 {
        // SplitMix64.
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// A number from `first` to `last`.
    pub fn between(&self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// Whether something happens that happens so many times in a thousand.
    pub fn permille(&self, times: u64) -> bool {
        self.below(1_000) < times
    }

    /// One of them.
    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

impl store::Entropy for Chance {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }
}

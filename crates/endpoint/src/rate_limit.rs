//! Rate limits: one token bucket per class and key (a user, an address), in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use store::Clock;

use crate::Error;

/// Buckets kept in memory; when there would be more, those that are full again are dropped, then the oldest.
const BUCKETS_MAX: usize = 100_000;

/// What is limited. Each class has a table of its own in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RateClass {
    /// Events sent to rooms, per user.
    Messages,
    /// Attempts to log in, per address and per account.
    Logins,
    /// New accounts, and questions whether a name is free, per address.
    Registrations,
    /// Joins and knocks, per user.
    Joins,
    /// Invites sent, per user.
    Invites,
    /// New rooms and upgrades, per user.
    RoomCreations,
    /// Files uploaded, per user.
    Uploads,
    /// Previews of URLs, per user.
    Previews,
    /// Reports of content, per user.
    Reports,
    /// Mails that are asked for, per client's address and per mail address.
    Mails,
    /// Decisions about delayed events, among them heart-beats, per user whose event it is.
    DelayedEvents,
    /// Searches in what messages say, per user.
    Searches,
    /// Everything else that the specification marks as rate-limited, per user or address.
    Requests,
}

impl RateClass {
    /// All classes.
    pub const ALL: [Self; 13] = [
        Self::Messages,
        Self::Logins,
        Self::Registrations,
        Self::Joins,
        Self::Invites,
        Self::RoomCreations,
        Self::Uploads,
        Self::Previews,
        Self::Reports,
        Self::Mails,
        Self::DelayedEvents,
        Self::Searches,
        Self::Requests,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Logins => "logins",
            Self::Registrations => "registrations",
            Self::Joins => "joins",
            Self::Invites => "invites",
            Self::RoomCreations => "room_creations",
            Self::Uploads => "uploads",
            Self::Previews => "previews",
            Self::Reports => "reports",
            Self::Mails => "mails",
            Self::DelayedEvents => "delayed_events",
            Self::Searches => "searches",
            Self::Requests => "requests",
        }
    }

    /// What holds where the configuration says nothing.
    pub const fn default_rate(self) -> Rate {
        let (per_second, burst) = match self {
            Self::Messages => (10.0, 100.0),
            Self::Logins => (0.2, 10.0),
            Self::Registrations => (0.2, 10.0),
            Self::Joins => (1.0, 30.0),
            Self::Invites => (1.0, 50.0),
            Self::RoomCreations => (0.5, 20.0),
            Self::Uploads => (2.0, 50.0),
            Self::Previews => (2.0, 100.0),
            Self::Reports => (0.2, 10.0),
            Self::Mails => (0.01, 10.0),
            Self::DelayedEvents => (5.0, 100.0),
            Self::Searches => (1.0, 30.0),
            Self::Requests => (50.0, 500.0),
        };
        Rate { per_second, burst }
    }
}

/// How often something is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that come back each second; at least 0.001.
    pub per_second: f64,
    /// Tokens of a full bucket; at least 1.
    pub burst: f64,
}

/// The limits of every class.
#[derive(Clone, Debug)]
pub struct RateLimits {
    /// Off: nothing is limited.
    pub enabled: bool,
    /// The classes; a missing one has its [`RateClass::default_rate`].
    pub rates: BTreeMap<RateClass, Rate>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { enabled: true, rates: BTreeMap::new() }
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_ms: i64,
}

/// All buckets.
pub struct RateLimiter {
    limits: RateLimits,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    buckets: Mutex<HashMap<(RateClass, u64), Bucket>>,
}

impl RateLimiter {
    /// A limiter whose buckets are all full.
    pub fn new(limits: RateLimits, clock: Arc<dyn Clock>) -> Self {
        Self { limits, clock, hasher: RandomState::new(), buckets: Mutex::default() }
    }

    /// Takes a token from the bucket of `key`.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` with the time until there is one.
    pub fn take(&self, class: RateClass, key: &str) -> Result<(), Error> {
        self.draw(class, key, 1.0)
    }

    /// Whether a token is there, without taking it.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED` with the time until there is one.
    pub fn check(&self, class: RateClass, key: &str) -> Result<(), Error> {
        self.draw(class, key, 0.0)
    }

    fn draw(&self, class: RateClass, key: &str, tokens: f64) -> Result<(), Error> {
        if !self.limits.enabled {
            return Ok(());
        }
        let rate = self.limits.rates.get(&class).copied().unwrap_or(class.default_rate());
        let rate = Rate { per_second: rate.per_second.max(0.001), burst: rate.burst.max(1.0) };
        let now_ms = self.clock.now_ms();
        let key = (class, self.hasher.hash_one(key));
        let mut buckets = self.buckets.lock();
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            self.make_room(&mut buckets, now_ms);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: rate.burst, at_ms: now_ms });
        refill(bucket, rate, now_ms);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= tokens;
            return Ok(());
        }
        let wait_ms = ((1.0 - bucket.tokens) / rate.per_second * 1_000.0).ceil();
        // Positive and finite: a bucket lacks at most one token, and the rate has a floor.
        Err(Error::limit_exceeded(wait_ms as u64))
    }

    fn make_room(&self, buckets: &mut HashMap<(RateClass, u64), Bucket>, now_ms: i64) {
        buckets.retain(|(class, _), bucket| {
            let rate = self.limits.rates.get(class).copied().unwrap_or(class.default_rate());
            refill(bucket, rate, now_ms);
            bucket.tokens < rate.burst
        });
        if buckets.len() >= BUCKETS_MAX {
            // So many busy keys are an attack: start afresh rather than grow.
            tracing::warn!(buckets = buckets.len(), "the rate limiter had to forget all its buckets");
            buckets.clear();
        }
    }
}

/// Adds what has come back since the bucket was last looked at. A clock that jumps back adds nothing.
fn refill(bucket: &mut Bucket, rate: Rate, now_ms: i64) {
    let passed_ms = (now_ms - bucket.at_ms).max(0);
    bucket.tokens = (bucket.tokens + passed_ms as f64 / 1_000.0 * rate.per_second).min(rate.burst);
    bucket.at_ms = now_ms;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn limiter(enabled: bool) -> (Arc<Hand>, RateLimiter) {
        let clock = Arc::new(Hand::default());
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let limits = RateLimits { enabled, rates: BTreeMap::from([(RateClass::Messages, rate)]) };
        (Arc::clone(&clock), RateLimiter::new(limits, clock))
    }

    #[test]
    fn cb9_a_bucket_empties_and_fills_again() {
        let (clock, limiter) = limiter(true);
        for _ in 0..3 {
            limiter.take(RateClass::Messages, "@a:x").unwrap();
        }
        let error = limiter.take(RateClass::Messages, "@a:x").unwrap_err();
        assert_eq!((error.status.as_u16(), error.errcode), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(error.extra["retry_after_ms"], 500);
        limiter.take(RateClass::Messages, "@b:x").unwrap();
        limiter.take(RateClass::Joins, "@a:x").unwrap();
        clock.0.store(500, Ordering::Relaxed);
        limiter.take(RateClass::Messages, "@a:x").unwrap();
        limiter.take(RateClass::Messages, "@a:x").unwrap_err();
        clock.0.store(-10_000, Ordering::Relaxed);
        limiter.take(RateClass::Messages, "@a:x").unwrap_err();
    }

    #[test]
    fn the_switch_turns_it_off() {
        let (_, limiter) = limiter(false);
        for _ in 0..1_000 {
            limiter.take(RateClass::Messages, "@a:x").unwrap();
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (_, limiter) = limiter(true);
        for n in 0..BUCKETS_MAX + 10 {
            limiter.take(RateClass::Messages, &n.to_string()).unwrap();
        }
        assert!(limiter.buckets.lock().len() <= BUCKETS_MAX);
    }
}

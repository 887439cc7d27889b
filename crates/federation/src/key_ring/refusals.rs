//! What need not be asked for again so soon: servers that do not answer, and keys that they do not have. Kept in memory,
//! bounded, with growing pauses.

use quick_cache::sync::Cache;

use super::Wanted;

/// First pause after a failure, in milliseconds.
const PAUSE_MS_MIN: i64 = 60_000;
/// Longest pause, in milliseconds.
const PAUSE_MS_MAX: i64 = 10 * 60 * 1000;
/// After an answer a server is not asked again for so long, whatever key is wanted: somebody may be making names up.
const ANSWERED_PAUSE_MS: i64 = 10_000;
/// Servers, and keys, that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// How often in a row something failed, and until when it is left alone.
#[derive(Clone, Copy, Debug)]
struct Pause {
    failures: u32,
    until_ms: i64,
}

impl Pause {
    fn holds(self, now_ms: i64) -> bool {
        // A pause longer than the longest was begun before the clock jumped back.
        let left_ms = self.until_ms.saturating_sub(now_ms);
        (1..=PAUSE_MS_MAX).contains(&left_ms)
    }

    fn after(previous: Option<Self>, now_ms: i64) -> Self {
        let failures = previous.map_or(0, |pause| pause.failures).saturating_add(1);
        let pause_ms = PAUSE_MS_MIN.saturating_mul(1 << (failures - 1).min(16)).min(PAUSE_MS_MAX);
        Self { failures, until_ms: now_ms.saturating_add(pause_ms) }
    }
}

/// The negative cache.
pub(super) struct Refusals {
    servers: Cache<String, Pause>,
    keys: Cache<(String, String), Pause>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { servers: Cache::new(REMEMBERED_MAX), keys: Cache::new(REMEMBERED_MAX) }
    }
}

impl Refusals {
    /// Whether asking for this key now is in vain.
    pub(super) fn hold_back(&self, wanted: &Wanted, now_ms: i64) -> bool {
        self.pauses(&wanted.server, now_ms) || self.keys.get(&key(wanted)).is_some_and(|pause| pause.holds(now_ms))
    }

    /// Whether this server is left alone now.
    pub(super) fn pauses(&self, server: &str, now_ms: i64) -> bool {
        self.servers.get(server).is_some_and(|pause| pause.holds(now_ms))
    }

    /// The server could not be reached or answered nonsense.
    pub(super) fn server_failed(&self, server: &str, now_ms: i64) {
        let pause = Pause::after(self.servers.get(server), now_ms);
        self.servers.insert(server.to_owned(), pause);
    }

    /// The server answered as it should.
    pub(super) fn server_answered(&self, server: &str, now_ms: i64) {
        let until_ms = now_ms.saturating_add(ANSWERED_PAUSE_MS);
        self.servers.insert(server.to_owned(), Pause { failures: 0, until_ms });
    }

    /// Nobody had the key, or none that is valid for long enough.
    pub(super) fn key_missing(&self, wanted: &Wanted, now_ms: i64) {
        let key = key(wanted);
        if self.keys.get(&key).is_some_and(|pause| pause.holds(now_ms)) {
            // Somebody else who wanted it at the same time has just said so.
            return;
        }
        let pause = Pause::after(self.keys.get(&key), now_ms);
        self.keys.insert(key, pause);
    }
}

fn key(wanted: &Wanted) -> (String, String) {
    (wanted.server.clone(), wanted.key_id.clone())
}

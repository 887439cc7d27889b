//! `/.well-known/matrix/server` of other servers, with its caching: by the answer's own words, within bounds.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use http::header::{CACHE_CONTROL, DATE, EXPIRES};
use http::{HeaderMap, StatusCode};
use quick_cache::sync::Cache;
use store::Clock;

use super::ServerName;
use crate::locks::Locks;

/// Largest answer, in bytes.
pub const BYTES_MAX: usize = 50 * 1024;
/// Most redirections that are followed.
pub const REDIRECTS_MAX: u32 = 5;
/// Time for the whole of it.
pub const TIMEOUT: Duration = Duration::from_secs(10);

const MINUTE_MS: i64 = 60 * 1000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// How long an answer is kept that does not say.
const KEPT_MS_DEFAULT: i64 = 24 * HOUR_MS;
/// How long an answer is kept at most.
const KEPT_MS_MAX: i64 = 48 * HOUR_MS;
/// How long an answer is kept at least, whatever it says: it is not fetched for each request.
const KEPT_MS_MIN: i64 = 5 * MINUTE_MS;
/// First pause after a failure; it doubles.
const PAUSE_MS_MIN: i64 = 5 * MINUTE_MS;
/// Longest pause after failures.
const PAUSE_MS_MAX: i64 = HOUR_MS;
/// Hosts whose answers are kept.
const HOSTS_MAX: usize = 10_000;

/// An answer to the request for the file.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: bytes::Bytes,
}

/// Gets the file; redirections are followed below.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The answer of `https://<host>/.well-known/matrix/server`; `None` if there was none within the bounds.
    async fn fetch(&self, host: &str) -> Option<Answer>;
}

/// What is known of a host.
#[derive(Clone, Debug)]
struct Entry {
    /// To whom it delegates.
    delegated: Option<String>,
    /// When `delegated` was fetched.
    fetched_ms: i64,
    /// Until when the host is not asked again.
    until_ms: i64,
    /// Failures in a row.
    failures: u32,
}

/// The files of all hosts.
pub struct WellKnown {
    fetch: Box<dyn Fetch>,
    clock: Arc<dyn Clock>,
    entries: Cache<String, Entry>,
    locks: Locks,
}

impl WellKnown {
    /// An empty cache before `fetch`.
    pub fn new(fetch: Box<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { fetch, clock, entries: Cache::new(HOSTS_MAX), locks: Locks::default() }
    }

    /// The server name to which a host delegates, if it does.
    pub async fn delegated(&self, host: &str) -> Option<String> {
        if let Some(entry) = self.fresh(host) {
            return entry.delegated;
        }
        let _one_at_a_time = self.locks.hold(host).await;
        if let Some(entry) = self.fresh(host) {
            return entry.delegated;
        }
        let answer = self.fetch.fetch(host).await;
        let entry = entry(answer, self.entries.get(host), self.clock.now_ms());
        self.entries.insert(host.to_owned(), entry.clone());
        entry.delegated
    }

    /// Asks the host again at the next opportunity, unless it was asked just now.
    pub fn forget(&self, host: &str) {
        let just_now = self.clock.now_ms().saturating_sub(KEPT_MS_MIN);
        if self.entries.get(host).is_some_and(|entry| entry.fetched_ms <= just_now) {
            self.entries.remove(host);
        }
    }

    fn fresh(&self, host: &str) -> Option<Entry> {
        let left_ms = |entry: &Entry| entry.until_ms.saturating_sub(self.clock.now_ms());
        // What is kept longer than anything may be was fetched before the clock jumped back.
        self.entries.get(host).filter(|entry| (1..=KEPT_MS_MAX).contains(&left_ms(entry)))
    }
}

/// What is to be remembered of an answer, or of there being none.
fn entry(answer: Option<Answer>, previous: Option<Entry>, now_ms: i64) -> Entry {
    let passing = answer.as_ref().is_none_or(|answer| answer.status.is_server_error());
    if let Some((delegated, kept_ms)) = answer.as_ref().and_then(delegation) {
        let until_ms = now_ms.saturating_add(kept_ms);
        return Entry { delegated: Some(delegated), fetched_ms: now_ms, until_ms, failures: 0 };
    }
    let failures = previous.as_ref().map_or(0, |entry| entry.failures).saturating_add(1);
    let pause_ms = PAUSE_MS_MIN.saturating_mul(1 << (failures - 1).min(8)).min(PAUSE_MS_MAX);
    // A host that fails in passing still delegates to where it did, for as long as an answer is kept at most.
    let kept = previous.filter(|entry| {
        passing && entry.delegated.is_some() && (0..KEPT_MS_MAX).contains(&now_ms.saturating_sub(entry.fetched_ms))
    });
    let (delegated, fetched_ms) = kept.map_or((None, now_ms), |entry| (entry.delegated, entry.fetched_ms));
    Entry { delegated, fetched_ms, until_ms: now_ms.saturating_add(pause_ms), failures }
}

/// `m.server` of a valid answer, whatever its content type, and for how many milliseconds that is kept.
pub fn delegation(answer: &Answer) -> Option<(String, i64)> {
    if answer.status != StatusCode::OK || answer.body.len() > BYTES_MAX {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    let name = body.get("m.server")?.as_str()?;
    ServerName::parse(name).is_ok().then(|| (name.to_owned(), kept_ms(&answer.headers)))
}

/// For how long an answer is kept, in milliseconds (RFC 9111, section 4.2.1).
fn kept_ms(headers: &HeaderMap) -> i64 {
    let kept_ms = cache_control_ms(headers).or_else(|| expires_ms(headers)).unwrap_or(KEPT_MS_DEFAULT);
    kept_ms.clamp(KEPT_MS_MIN, KEPT_MS_MAX)
}

fn cache_control_ms(headers: &HeaderMap) -> Option<i64> {
    let values = || headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = || values().flat_map(|value| value.split(',')).map(str::trim);
    let named = |name: &str| directives().any(|directive| directive.eq_ignore_ascii_case(name));
    if named("no-store") || named("no-cache") {
        return Some(0);
    }
    let max_age = directives().find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let digits = value.trim().trim_matches('"');
        let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large is very long.
        (name.trim().eq_ignore_ascii_case("max-age") && numeric).then(|| digits.parse::<i64>().unwrap_or(i64::MAX))
    });
    max_age.map(|seconds| seconds.saturating_mul(1000))
}

fn expires_ms(headers: &HeaderMap) -> Option<i64> {
    let expires = headers.get(EXPIRES)?;
    let time = |value: &http::HeaderValue| {
        let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
        i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    };
    // A date that is none, such as `0`, has passed (RFC 9111, section 5.3).
    let Some(expires) = time(expires) else { return Some(0) };
    let date = headers.get(DATE).and_then(time)?;
    Some(expires.saturating_sub(date))
}

//! Previews of URLs: what a page on the web says of itself, with a copy of its image, kept for some time.
//!
//! [`Previews`] is the door. What a user names is untrusted in every way: the URL is judged by [`Rules`] at each hop, the
//! addresses behind it by whoever gives [`Web`], and of what comes back so many bytes are read for so long. A page is
//! parsed away from the async workers, without a tree. Requests for the same URL at the same time ask once; what was
//! found stands in `url_previews`, and what was not is remembered for a minute.

mod charset;
mod embed;
mod fetch;
mod page;
mod picture;
mod purge;
mod rules;
mod text;
mod web;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use quick_cache::sync::Cache;
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};
use store::tables::media::UrlPreviewRow;
use store::{CommitBatch, Read, UserId, Value};
use tokio::sync::Semaphore;
use url::Url;

pub use rules::{Rule, RuleError, Rules};
pub use web::{Answer, Body, Unreachable, Wanted, Web};

use crate::incoming::Received;
use crate::locks::Places;
use crate::previews::picture::Picture;
use crate::previews::rules::Refusal;
use crate::upload::unexpected;
use crate::{Error, Media};

/// Pages that are looked at at the same time; each may take a mebibyte or two.
const AT_ONCE_MAX: usize = 16;

/// How many of these one user's requests may take.
const OF_USER_AT_ONCE: u8 = 4;

/// Requests of one user that may wait.
const WAITING_MAX: u32 = 64;

/// Failures that are remembered.
const FAILURES_MAX: usize = 10_000;

/// For how long a failure is told again rather than tried again, in milliseconds.
const FAILURE_KEPT_MS: i64 = 60_000;

/// For how long a preview stands for what the page says now, in milliseconds.
const FRESH_MS: i64 = 60 * 60 * 1000;

/// What previews are given at boot.
#[derive(Clone, Debug)]
pub struct PreviewOptions {
    /// What may be previewed.
    pub rules: Rules,
    /// How long previews and their images are kept, in milliseconds.
    pub kept_ms: i64,
    /// Most bytes of all images of previews together.
    pub bytes_max: u64,
    /// Most previews.
    pub previews_max: usize,
}

impl Default for PreviewOptions {
    fn default() -> Self {
        let week_ms = 7 * 24 * 60 * 60 * 1000;
        Self { rules: Rules::default(), kept_ms: week_ms, bytes_max: 1 << 30, previews_max: 50_000 }
    }
}

/// What a page that came from `url` says of itself, and the addresses of its images; `None` if `url` may not be previewed.
pub fn read_page(
    rules: &Rules,
    url: &str,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Option<(BTreeMap<String, String>, Vec<String>)> {
    let url = rules.permitted(url).ok()?;
    let page = page::read(&charset::decode(bytes, content_type), &url);
    Some((page.properties, page.images.into_iter().map(String::from).collect()))
}

/// Previews of URLs. Cheap to clone.
#[derive(Clone)]
pub struct Previews {
    inner: Arc<Inner>,
}

struct Inner {
    media: Media,
    web: Arc<dyn Web>,
    options: PreviewOptions,
    failures: Cache<Key, (Error, i64)>,
    places: Semaphore,
    waiting: Places,
    /// Bytes of all images, as far as they have been added up.
    stored_bytes: AtomicU64,
    /// When they are added up again, in milliseconds since the epoch.
    add_up_at_ms: AtomicI64,
}

/// SHA-256 of a URL.
type Key = [u8; 32];

impl Previews {
    /// Previews whose images stand in `media`.
    pub fn new(media: Media, web: Arc<dyn Web>, options: PreviewOptions) -> Self {
        let inner = Inner {
            media,
            web,
            options,
            failures: Cache::new(FAILURES_MAX),
            places: Semaphore::new(AT_ONCE_MAX),
            waiting: Places::default(),
            stored_bytes: AtomicU64::new(0),
            add_up_at_ms: AtomicI64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is known of a URL, as clients are told it. `at_ms` is when it should have been so: what was found earlier
    /// than that and within an hour of it will do, or else what was found next.
    ///
    /// # Errors
    /// [`Error::BadUrl`]; [`Error::UrlDenied`]; [`Error::UrlUnreachable`]; [`Error::TooManyAtOnce`]; [`Error::Store`].
    pub async fn preview(&self, user: &UserId, url: &str, at_ms: Option<i64>) -> Result<Map<String, Json>, Error> {
        let url = self.inner.options.rules.permitted(url).map_err(|refusal| match refusal {
            Refusal::Malformed => Error::BadUrl,
            Refusal::Denied => Error::UrlDenied,
        })?;
        let key: Key = Sha256::digest(url.as_str()).into();
        if let Some(known) = self.known(&key, at_ms).await? {
            return Ok(known);
        }
        let waiting = self.inner.waiting.take(user.as_str(), WAITING_MAX);
        let _waiting = waiting.ok_or(Error::TooManyAtOnce)?;
        let locks = &self.inner.media.inner.locks;
        let turn = key.first().copied().unwrap_or(0) % OF_USER_AT_ONCE;
        let _turn = locks.hold(format!("previews {user} {turn}")).await;
        let _one_at_a_time = locks.hold(format!("preview {url}")).await;
        if let Some(known) = self.known(&key, at_ms).await? {
            return Ok(known);
        }
        let _place = self.inner.places.acquire().await.map_err(|_| Error::JobDropped)?;
        match self.look(&url).await {
            Ok(found) => self.keep(key, &url, found).await,
            Err(error) => {
                self.note_failure(key, &error);
                Err(error)
            }
        }
    }

    /// What was found before, or that nothing was.
    async fn known(&self, key: &Key, at_ms: Option<i64>) -> Result<Option<Map<String, Json>>, Error> {
        let now_ms = self.now_ms();
        let at_ms = at_ms.unwrap_or(now_ms).min(now_ms);
        let of_url = || Read::prefix::<UrlPreviewRow>(vec![Value::Blob(key.to_vec())]).limit(1);
        let reads = vec![of_url().up_to(at_ms).reverse(), of_url().after(at_ms)];
        let mut rows = self.inner.media.inner.store.read(reads).await?.into_iter();
        let before: Option<UrlPreviewRow> = rows.next().unwrap_or_default().one()?;
        let after: Option<UrlPreviewRow> = rows.next().unwrap_or_default().one()?;
        let oldest_ms = now_ms.saturating_sub(self.inner.options.kept_ms);
        let fresh_ms = at_ms.saturating_sub(FRESH_MS).max(oldest_ms);
        let before = before.filter(|row| row.fetched_ms > fresh_ms);
        let found = before.or(after.filter(|row| row.fetched_ms > oldest_ms));
        match found.and_then(|row| serde_json::from_str(&row.properties).ok()) {
            Some(properties) => Ok(Some(properties)),
            None => match self.inner.failures.get(key) {
                Some((error, until_ms)) if until_ms > now_ms => Err(error),
                _ => Ok(None),
            },
        }
    }

    /// Keeps what was found, with its image, in one batch.
    async fn keep(&self, key: Key, url: &Url, found: Found) -> Result<Map<String, Json>, Error> {
        let media = &self.inner.media;
        let Found { mut properties, picture } = found;
        let mut batch = CommitBatch::new();
        let mut row = UrlPreviewRow {
            url_sha256: key.to_vec(),
            fetched_ms: self.now_ms(),
            url: url.as_str().to_owned(),
            properties: String::new(),
            image: None,
            image_bytes: 0,
        };
        let mut received: Option<Received> = None;
        if let Some(picture) = picture {
            let mxc = media.new_mxc()?;
            picture.describe(&mxc, &mut properties);
            row.image = Some(mxc.media_id().to_owned());
            row.image_bytes = i64::try_from(picture.received.size).unwrap_or(i64::MAX);
            batch.put(media.row(&mxc, None, picture.label(), &picture.received));
            received = Some(picture.received);
        }
        row.properties = Json::Object(properties.clone()).to_string();
        let bytes = u64::try_from(row.image_bytes).unwrap_or(0);
        batch.put(row);
        if let Some(received) = &mut received {
            received.guard.disarm();
        }
        match media.inner.store.commit(batch).await {
            Ok(_) => received.into_iter().for_each(|received| received.guard.settle()),
            Err(error) => {
                received.into_iter().for_each(|received| received.guard.discard());
                return Err(unexpected(error));
            }
        }
        self.inner.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(properties)
    }

    fn note_failure(&self, key: Key, error: &Error) {
        if matches!(error, Error::UrlUnreachable) {
            let until_ms = self.now_ms().saturating_add(FAILURE_KEPT_MS);
            self.inner.failures.insert(key, (error.clone(), until_ms));
        }
    }

    fn now_ms(&self) -> i64 {
        self.inner.media.inner.clock.now_ms()
    }
}

/// What was found behind a URL.
#[derive(Default)]
struct Found {
    properties: Map<String, Json>,
    picture: Option<Picture>,
}

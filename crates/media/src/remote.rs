//! Media of other servers: fetched once by what is given at boot, then kept like our own until nobody has asked for it in
//! a long time.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use store::tables::media::{MediaRow, RemoteMediaRow, ThumbnailRow};
use store::{CommitBatch, CommitError, Read};

use crate::upload::{key, unexpected};
use crate::{Error, Incoming, Label, Media, Mxc};

/// Failures that are remembered.
pub(crate) const FAILURES_MAX: usize = 10_000;

/// For how long a failure is told again rather than tried again, in milliseconds.
const FAILURE_KEPT_MS: i64 = 60_000;

/// How exactly the last use is noted, in milliseconds: a write a day at most.
const USE_NOTED_MS: i64 = 24 * 60 * 60 * 1000;

/// Pieces of media that one call deletes, for their age or for room.
const PURGED_AT_ONCE: u32 = 500;

/// Pieces of media whose sizes are read at a time.
const SIZES_AT_ONCE: u32 = 500;

/// How often all remote media is added up, in milliseconds.
const ADDED_UP_MS: i64 = 60 * 60 * 1000;

/// Fetches media from other servers.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Fetches the content of an address of another server into `into`, which refuses what is too large, and returns
    /// what that server declared.
    ///
    /// # Errors
    /// [`Error::NotFound`] if that server has no such media; [`Error::NotYetUploaded`] if it waits for the content itself;
    /// [`Error::RemoteTooLarge`]; [`Error::RemoteFailed`] if it cannot be reached or answers nonsense; errors of `into` as
    /// they are.
    async fn fetch(&self, mxc: &Mxc, into: &mut Incoming) -> Result<Label, Error>;
}

impl Media {
    /// Fetches and keeps remote media; requests for the same address at the same time fetch once.
    pub(crate) async fn fetch(&self, mxc: &Mxc) -> Result<MediaRow, Error> {
        let Some(remote) = &self.inner.remote else { return Err(Error::NotFound) };
        let _one_at_a_time = self.inner.locks.hold(format!("fetch {mxc}")).await;
        if let Some(row) = self.inner.store.get::<MediaRow>(key(mxc)).await? {
            return Ok(row);
        }
        self.failed_before(mxc)?;
        let mut incoming = self.incoming(self.inner.options.upload_bytes_max);
        let label = match remote.fetch(mxc, &mut incoming).await.map_err(as_remote) {
            Ok(label) => label,
            Err(error) => {
                self.note_failure(mxc, &error);
                return Err(error);
            }
        };
        // A label that we would not take from our own users is left out rather than refused.
        let label = label.checked().or_else(|_| Label::default().checked())?;
        let mut received = incoming.finish().await?;
        let row = self.row(mxc, None, label, &received);
        received.guard.disarm();
        let mut batch = CommitBatch::new();
        batch.put(row.clone()).put(self.used_now(mxc));
        match self.inner.store.commit(batch).await {
            Ok(_) => received.guard.settle(),
            Err(error) => {
                received.guard.discard();
                return Err(unexpected(error));
            }
        }
        Ok(row)
    }

    /// Notes that remote media was asked for, at most once a day.
    pub(crate) async fn note_use(&self, mxc: &Mxc, noted: Option<&RemoteMediaRow>) {
        let now = self.used_now(mxc);
        if noted.is_none_or(|noted| now.used_ms.saturating_sub(noted.used_ms) < USE_NOTED_MS) {
            return;
        }
        let mut batch = CommitBatch::new();
        batch.expect_present::<RemoteMediaRow>(key(mxc)).put(now);
        if let Err(error @ CommitError::Store(_)) = self.inner.store.commit(batch).await {
            tracing::warn!(%mxc, %error, "could not note that media was used");
        }
    }

    /// Deletes some of the remote media that nobody has asked for since `before_ms`, and returns how much. What is
    /// quarantined stays: fetched again, it would be seen again.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Store`].
    pub async fn purge_remote(&self, before_ms: i64) -> Result<usize, Error> {
        let idle = Read::along::<RemoteMediaRow>(RemoteMediaRow::BY_USE, vec![]).before(before_ms);
        let idle: Vec<RemoteMediaRow> = self.inner.store.all(idle.limit(PURGED_AT_ONCE)).await?;
        let mut purged = 0;
        for row in idle {
            let mxc = Mxc::new(&row.server_name, &row.media_id)?;
            let media = self.inner.store.get::<MediaRow>(key(&mxc)).await?;
            if media.is_some_and(|media| media.quarantined_by.is_some()) {
                self.note_use(&mxc, Some(&row)).await;
                continue;
            }
            match self.delete(&mxc).await {
                Ok(()) => purged += 1,
                // Somebody else was quicker.
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(purged)
    }

    /// Deletes some of the remote media for which there is no room, if all of it with its thumbnails has more than so many
    /// bytes, and returns how much: what was asked for last is kept, and what is quarantined. It is added up once an hour,
    /// so that much more may come in between.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Store`].
    pub async fn shrink_remote(&self, bytes_max: u64) -> Result<usize, Error> {
        let now_ms = self.inner.clock.now_ms();
        if now_ms < self.inner.add_up_at_ms.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let (mut bytes, mut before, mut purged) = (0_u64, i64::MAX, 0);
        loop {
            let uses = self.uses_before(before).await?;
            let Some(last) = uses.last() else { break };
            before = last.used_ms;
            for (mxc, media, size) in self.sizes(&uses).await? {
                bytes = bytes.saturating_add(size);
                if bytes <= bytes_max || media.quarantined_by.is_some() {
                    continue;
                }
                if purged == PURGED_AT_ONCE as usize {
                    return Ok(purged);
                }
                match self.delete(&mxc).await {
                    Ok(()) => purged += 1,
                    // Somebody else was quicker.
                    Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.inner.add_up_at_ms.store(now_ms.saturating_add(ADDED_UP_MS), Ordering::Relaxed);
        Ok(purged)
    }

    /// Remote media that was last used before a time, the latest first: as much as is looked at together, and all that was
    /// used in the same moment as the last of it.
    async fn uses_before(&self, before_ms: i64) -> Result<Vec<RemoteMediaRow>, Error> {
        let along = |prefix| Read::along::<RemoteMediaRow>(RemoteMediaRow::BY_USE, prefix);
        let read = along(vec![]).before(before_ms).reverse().limit(SIZES_AT_ONCE);
        let mut uses: Vec<RemoteMediaRow> = self.inner.store.all(read).await?;
        if let Some(last_ms) = uses.last().map(|last| last.used_ms) {
            uses.retain(|row| row.used_ms != last_ms);
            uses.extend(self.inner.store.all::<RemoteMediaRow>(along(vec![last_ms.into()])).await?);
        }
        Ok(uses)
    }

    /// The media of some uses, with the bytes of its files.
    async fn sizes(&self, uses: &[RemoteMediaRow]) -> Result<Vec<(Mxc, MediaRow, u64)>, Error> {
        let mut mxcs = Vec::with_capacity(uses.len());
        let mut reads = Vec::with_capacity(uses.len() * 2);
        for row in uses {
            let mxc = Mxc::new(&row.server_name, &row.media_id)?;
            reads.extend([Read::get::<MediaRow>(key(&mxc)), Read::prefix::<ThumbnailRow>(key(&mxc))]);
            mxcs.push(mxc);
        }
        let mut found = self.inner.store.read(reads).await?.into_iter();
        let mut sizes = Vec::with_capacity(mxcs.len());
        for mxc in mxcs {
            let media: Option<MediaRow> = found.next().unwrap_or_default().one()?;
            let thumbnails: Vec<ThumbnailRow> = found.next().unwrap_or_default().all()?;
            let Some(media) = media else { continue };
            let bytes = thumbnails.iter().map(|thumbnail| thumbnail.size).sum::<i64>().saturating_add(media.size);
            sizes.push((mxc, media, u64::try_from(bytes).unwrap_or(0)));
        }
        Ok(sizes)
    }

    fn used_now(&self, mxc: &Mxc) -> RemoteMediaRow {
        RemoteMediaRow {
            server_name: mxc.server_name().to_owned(),
            media_id: mxc.media_id().to_owned(),
            used_ms: self.inner.clock.now_ms(),
        }
    }

    /// Tells a failure again that is not long ago: many clients ask for what a room shows, all at once.
    fn failed_before(&self, mxc: &Mxc) -> Result<(), Error> {
        match self.inner.failures.get(mxc) {
            Some((error, until_ms)) if until_ms > self.inner.clock.now_ms() => Err(error),
            _ => Ok(()),
        }
    }

    fn note_failure(&self, mxc: &Mxc, error: &Error) {
        if matches!(error, Error::NotFound | Error::RemoteFailed | Error::RemoteTooLarge) {
            let until_ms = self.inner.clock.now_ms().saturating_add(FAILURE_KEPT_MS);
            self.inner.failures.insert(mxc.clone(), (error.clone(), until_ms));
        }
    }
}

fn as_remote(error: Error) -> Error {
    match error {
        Error::TooLarge { .. } => Error::RemoteTooLarge,
        other => other,
    }
}

//! Media of other servers: fetched once by what is given at boot, then kept like our own until nobody has asked for it in
//! a long time.

use async_trait::async_trait;
use store::tables::media::{MediaRow, RemoteMediaRow};
use store::{CommitBatch, CommitError, Read};

use crate::upload::{key, unexpected};
use crate::{Error, Incoming, Label, Media, Mxc};

/// Failures that are remembered.
pub(crate) const FAILURES_MAX: usize = 10_000;

/// For how long a failure is told again rather than tried again, in milliseconds.
const FAILURE_KEPT_MS: i64 = 60_000;

/// How exactly the last use is noted, in milliseconds: a write a day at most.
const USE_NOTED_MS: i64 = 24 * 60 * 60 * 1000;

/// Pieces of media that one call deletes for their age.
const PURGED_AT_ONCE: u32 = 500;

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

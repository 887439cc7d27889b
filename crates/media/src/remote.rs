//! Media of other servers: fetched once by what is given at boot, then kept like our own.

use async_trait::async_trait;
use store::CommitBatch;
use store::tables::media::MediaRow;

use crate::upload::{key, unexpected};
use crate::{Error, Incoming, Label, Media, Mxc};

/// Fetches media from other servers.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// Fetches the content of an address of another server into `into`, which refuses what is too large, and returns
    /// what that server declared.
    ///
    /// # Errors
    /// [`Error::NotFound`] if that server has no such media; [`Error::RemoteFailed`] if it cannot be reached or answers
    /// nonsense; errors of `into` as they are.
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
        let mut incoming = self.incoming(self.inner.options.upload_bytes_max);
        let label = remote.fetch(mxc, &mut incoming).await.map_err(as_remote)?;
        // A label that we would not take from our own users is left out rather than refused.
        let label = label.checked().or_else(|_| Label::default().checked())?;
        let mut received = incoming.finish().await?;
        let row = self.row(mxc, None, label, &received);
        received.guard.disarm();
        let mut batch = CommitBatch::new();
        batch.put(row.clone());
        match self.inner.store.commit(batch).await {
            Ok(_) => received.guard.settle(),
            Err(error) => {
                received.guard.discard();
                return Err(unexpected(error));
            }
        }
        Ok(row)
    }
}

fn as_remote(error: Error) -> Error {
    match error {
        Error::TooLarge { .. } => Error::RemoteTooLarge,
        other => other,
    }
}

//! Downloads: the row decides who may have the content, the file gives the bytes.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use store::Read;
use store::tables::media::{MediaPendingRow, MediaRow, RemoteMediaRow};

use crate::content::Source;
use crate::upload::key;
use crate::{Content, Error, Media, Mxc};

/// How often those who wait for content look themselves: another node may have received it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// By which routes a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The authenticated ones.
    Authenticated,
    /// The deprecated ones, which serve only media from before the freeze and fetch nothing.
    Unauthenticated,
}

impl Media {
    /// The content of an address, to be opened for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, it is quarantined or this door does not serve it;
    /// [`Error::NotYetUploaded`] if its address was created and waits for content; for remote media also
    /// [`Error::RemoteFailed`] and [`Error::RemoteTooLarge`].
    pub async fn content(&self, mxc: &Mxc, door: Door) -> Result<Content, Error> {
        let row = self.visible_row(mxc, door).await?;
        Ok(self.content_of(row))
    }

    /// Waits until the content of a created address may have come. Returns after a second at the latest.
    pub async fn arrival(&self) {
        // Elapsing is one of the two ways to return.
        let _ = tokio::time::timeout(LOOK_AGAIN, self.inner.arrived.notified()).await;
    }

    /// The row of an address that may be served by this door.
    pub(crate) async fn visible_row(&self, mxc: &Mxc, door: Door) -> Result<MediaRow, Error> {
        let pending = Read::get::<MediaPendingRow>(vec![mxc.media_id().into()]);
        let reads = vec![Read::get::<MediaRow>(key(mxc)), pending, Read::get::<RemoteMediaRow>(key(mxc))];
        let mut rows = self.inner.store.read(reads).await?.into_iter();
        let row: Option<MediaRow> = rows.next().unwrap_or_default().one()?;
        let pending: Option<MediaPendingRow> = rows.next().unwrap_or_default().one()?;
        let used: Option<RemoteMediaRow> = rows.next().unwrap_or_default().one()?;
        let pending = pending.filter(|pending| pending.expires_ms > self.inner.clock.now_ms());
        let row = match row {
            Some(row) => row,
            None if door == Door::Unauthenticated => return Err(Error::NotFound),
            None if !self.is_local(mxc) => self.fetch(mxc).await?,
            None if pending.is_some() => return Err(Error::NotYetUploaded),
            None => return Err(Error::NotFound),
        };
        let served = door == Door::Authenticated || row.unauthenticated;
        if row.quarantined_by.is_some() || !served {
            return Err(Error::NotFound);
        }
        self.note_use(mxc, used.as_ref()).await;
        Ok(row)
    }

    pub(crate) fn content_of(&self, row: MediaRow) -> Content {
        Content {
            content_type: row.content_type,
            file_name: row.file_name,
            size: u64::try_from(row.size).unwrap_or(0),
            tag: BASE64_URL_SAFE_NO_PAD.encode(&row.sha256),
            source: self.stored(row.file, "media"),
        }
    }

    pub(crate) fn stored(&self, file: String, table: &'static str) -> Source {
        let directory = self.inner.directory.clone();
        Source::Stored { directory, blocking: Arc::clone(&self.inner.blocking), file, table }
    }
}

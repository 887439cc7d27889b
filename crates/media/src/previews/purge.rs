//! Forgetting previews: those that are old, and the oldest where there are too many.

use std::sync::atomic::Ordering;

use store::tables::media::{MediaRow, UrlPreviewRow};
use store::{CommitBatch, Read, Value};

use super::Previews;
use crate::upload::{key, unexpected};
use crate::{Error, Mxc};

/// Previews that one call forgets, for their age or for room.
const FORGOTTEN_AT_ONCE: usize = 500;

/// Previews that are added up at a time.
const ADDED_UP_AT_ONCE: u32 = 500;

/// How often all previews are added up, in milliseconds.
const ADDED_UP_MS: i64 = 60 * 60 * 1000;

impl Previews {
    /// Forgets some of the previews that are too old, or for which there is no room, with their images; how many. To be
    /// called about once a minute.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Store`].
    pub async fn purge(&self) -> Result<usize, Error> {
        let oldest_ms = self.now_ms().saturating_sub(self.inner.options.kept_ms);
        let old = Read::along::<UrlPreviewRow>(UrlPreviewRow::BY_AGE, vec![]).up_to(oldest_ms);
        let old: Vec<UrlPreviewRow> = self.inner.media.inner.store.all(old.limit(ADDED_UP_AT_ONCE)).await?;
        let mut forgotten = 0;
        for row in old {
            self.forget(row).await?;
            forgotten += 1;
        }
        Ok(forgotten + self.shrink().await?)
    }

    /// Adds the previews up, from the newest to the oldest, if it is time, and forgets those beyond the bounds.
    async fn shrink(&self) -> Result<usize, Error> {
        let now_ms = self.now_ms();
        if now_ms < self.inner.add_up_at_ms.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let options = &self.inner.options;
        let (mut bytes, mut previews, mut forgotten, mut before_ms) = (0_u64, 0_usize, 0_usize, i64::MAX);
        loop {
            let rows = self.older_than(before_ms).await?;
            let Some(last) = rows.last() else { break };
            before_ms = last.fetched_ms;
            for row in rows {
                let size = u64::try_from(row.image_bytes).unwrap_or(0);
                // Room for a while: else each new image would be one too many.
                if bytes.saturating_add(size) <= options.bytes_max / 4 * 3 && previews < options.previews_max {
                    bytes += size;
                    previews += 1;
                    continue;
                }
                if forgotten == FORGOTTEN_AT_ONCE {
                    return Ok(forgotten);
                }
                self.forget(row).await?;
                forgotten += 1;
            }
        }
        self.inner.stored_bytes.store(bytes, Ordering::Relaxed);
        self.inner.add_up_at_ms.store(now_ms.saturating_add(ADDED_UP_MS), Ordering::Relaxed);
        Ok(forgotten)
    }

    /// Previews from before a time, newest first; those of the same moment as the last of them come along.
    async fn older_than(&self, before_ms: i64) -> Result<Vec<UrlPreviewRow>, Error> {
        let along = |prefix| Read::along::<UrlPreviewRow>(UrlPreviewRow::BY_AGE, prefix);
        let read = along(vec![]).before(before_ms).reverse().limit(ADDED_UP_AT_ONCE);
        let mut rows: Vec<UrlPreviewRow> = self.inner.media.inner.store.all(read).await?;
        if let Some(last_ms) = rows.last().map(|last| last.fetched_ms) {
            rows.retain(|row| row.fetched_ms != last_ms);
            rows.extend(self.inner.media.inner.store.all::<UrlPreviewRow>(along(vec![last_ms.into()])).await?);
        }
        Ok(rows)
    }

    /// Has all previews added up at the next call of [`Previews::purge`].
    pub(super) fn look_for_room(&self) {
        self.inner.add_up_at_ms.store(0, Ordering::Relaxed);
    }

    /// Forgets a preview and its image. A quarantined image stays, hidden, so that it can be looked at.
    async fn forget(&self, row: UrlPreviewRow) -> Result<(), Error> {
        let media = &self.inner.media;
        if let Some(image) = &row.image {
            let mxc = Mxc::new(&media.inner.options.server_name, image)?;
            let stored: Option<MediaRow> = media.inner.store.get(key(&mxc)).await?;
            if stored.is_some_and(|stored| stored.quarantined_by.is_none()) {
                match media.delete(&mxc).await {
                    // Somebody else was quicker.
                    Ok(()) | Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut batch = CommitBatch::new();
        batch.delete::<UrlPreviewRow>(vec![Value::Blob(row.url_sha256), row.fetched_ms.into()]);
        media.inner.store.commit(batch).await.map_err(unexpected)?;
        Ok(())
    }
}

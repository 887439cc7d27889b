//! Thumbnails on request: made once for each size, kept beside the original, within one budget of memory.

use std::io::BufReader;
use std::sync::Arc;

use bytes::Bytes;
use store::tables::media::{MediaRow, ThumbnailRow};
use store::{CommitBatch, CommitError, Read, Row as _, Value};

use crate::content::Source;
use crate::directory::FileName;
use crate::thumbnail::{self, Outcome};
use crate::upload::key;
use crate::{Asked, Content, Door, Error, Media, Mxc, PERMIT_BYTES, blocking};

impl Media {
    /// A thumbnail of the content of an address, or the original where that is smaller than asked.
    ///
    /// # Errors
    /// [`Error::BadSize`]; [`Error::NotThumbnailable`]; [`Error::ImageTooLarge`]; and as [`Media::content`].
    pub async fn thumbnail(&self, mxc: &Mxc, asked: &Asked, door: Door) -> Result<Content, Error> {
        if asked.width == 0 || asked.height == 0 {
            return Err(Error::BadSize);
        }
        let row = self.visible_row(mxc, door).await?;
        if let Some(kept) = self.kept(mxc, asked).await? {
            return Ok(kept);
        }
        let name = format!("thumbnail {mxc} {} {} {:?}", asked.width, asked.height, (asked.method, asked.animated));
        let _one_at_a_time = self.inner.locks.hold(name).await;
        if let Some(kept) = self.kept(mxc, asked).await? {
            return Ok(kept);
        }
        match self.make_thumbnail(&row, asked).await? {
            Outcome::Original(content_type) => Ok(self.original(row, content_type)),
            Outcome::Made(bytes, content_type) => {
                let bytes = Bytes::from(bytes);
                if let Err(error) = self.keep(mxc, asked, bytes.clone(), content_type).await {
                    tracing::warn!(%mxc, %error, "could not keep a thumbnail");
                }
                Ok(fresh(&row, asked, bytes, content_type))
            }
        }
    }

    /// A thumbnail that was made before.
    async fn kept(&self, mxc: &Mxc, asked: &Asked) -> Result<Option<Content>, Error> {
        let Some(row) = self.inner.store.get::<ThumbnailRow>(thumbnail_key(mxc, asked)).await? else { return Ok(None) };
        Ok(Some(Content {
            file_name: Some(file_name(&row.content_type).to_owned()),
            content_type: row.content_type,
            size: u64::try_from(row.size).unwrap_or(0),
            tag: row.file.clone(),
            source: self.stored(row.file, "media_thumbnails"),
        }))
    }

    async fn make_thumbnail(&self, row: &MediaRow, asked: &Asked) -> Result<Outcome, Error> {
        let options = &self.inner.options;
        if u64::try_from(row.size).unwrap_or(u64::MAX) > options.image_bytes_max {
            return Err(Error::ImageTooLarge);
        }
        let lost = || Error::FileLost { table: MediaRow::TABLE.name, file: row.file.clone() };
        let name = FileName::from_text(&row.file).ok_or_else(lost)?;
        let (directory, pixels_max) = (self.inner.directory.clone(), options.pixels_max);
        let opened = blocking::run(&self.inner.blocking, move || {
            let file = directory.read(&name)?;
            let header = thumbnail::header(BufReader::new(&file), pixels_max)?;
            Ok::<_, Error>((file, header))
        });
        let (file, header) = opened.await.map_err(damaged)??;
        let permits = header.cost_bytes(asked)?.div_ceil(PERMIT_BYTES).max(1);
        let permits = u32::try_from(permits).map_err(|_| Error::ImageTooLarge)?;
        let share =
            Arc::clone(&self.inner.decoding).acquire_many_owned(permits).await.map_err(|_| Error::JobDropped)?;
        let asked = *asked;
        let made = blocking::run_long(&self.inner.blocking, move || {
            // The job keeps its share until it ends: whoever asked may have gone long before.
            let _share = share;
            thumbnail::make(BufReader::new(file), &header, &asked)
        });
        made.await.map_err(damaged)?
    }

    /// Keeps a thumbnail, unless many of this media are kept already or the media has been deleted meanwhile.
    async fn keep(&self, mxc: &Mxc, asked: &Asked, bytes: Bytes, content_type: &str) -> Result<(), Error> {
        let limit = self.inner.options.thumbnails_kept_max;
        let rows = self.inner.store.read(vec![Read::prefix::<ThumbnailRow>(key(mxc)).limit(limit)]).await?;
        if rows.iter().map(|rows| rows.0.len()).sum::<usize>() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let mut incoming = self.incoming(u64::MAX);
        incoming.push(bytes).await?;
        let mut received = incoming.finish().await?;
        let mut batch = CommitBatch::new();
        batch.expect_present::<MediaRow>(key(mxc)).put(ThumbnailRow {
            server_name: mxc.server_name().to_owned(),
            media_id: mxc.media_id().to_owned(),
            width: asked.width,
            height: asked.height,
            method: asked.method.as_str().to_owned(),
            animated: asked.animated,
            content_type: content_type.to_owned(),
            size: i64::try_from(received.size).unwrap_or(i64::MAX),
            file: received.guard.name().as_str().to_owned(),
            created_ms: self.inner.clock.now_ms(),
        });
        batch.expect_absent::<ThumbnailRow>(thumbnail_key(mxc, asked));
        received.guard.disarm();
        match self.inner.store.commit(batch).await {
            Ok(_) => received.guard.settle(),
            // Deleted meanwhile, or another node was quicker: this one is not needed.
            Err(CommitError::Conflict { .. }) => received.guard.discard(),
            Err(CommitError::Store(error)) => {
                received.guard.discard();
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn original(&self, row: MediaRow, content_type: &'static str) -> Content {
        let mut content = self.content_of(row);
        content.content_type = content_type.to_owned();
        content
    }
}

/// A thumbnail that is still in memory. It is the same for the same original and size, and so is its tag.
fn fresh(row: &MediaRow, asked: &Asked, bytes: Bytes, content_type: &'static str) -> Content {
    Content {
        content_type: content_type.to_owned(),
        file_name: Some(file_name(content_type).to_owned()),
        size: u64::try_from(bytes.len()).unwrap_or(0),
        tag: format!("{}-{}-{}", row.file, asked.width, asked.height),
        source: Source::Memory(bytes),
    }
}

fn thumbnail_key(mxc: &Mxc, asked: &Asked) -> Vec<Value> {
    let mut key = key(mxc);
    key.extend([asked.width.into(), asked.height.into(), asked.method.as_str().into(), asked.animated.into()]);
    key
}

fn file_name(content_type: &str) -> &'static str {
    match content_type {
        "image/jpeg" => "thumbnail.jpg",
        "image/gif" => "thumbnail.gif",
        _ => "thumbnail.png",
    }
}

/// A decoder that panicked met a file that it cannot decode; anything else is as it was.
fn damaged(error: Error) -> Error {
    match error {
        Error::JobDropped => Error::NotThumbnailable,
        other => other,
    }
}

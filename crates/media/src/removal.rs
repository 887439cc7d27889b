//! Quarantine and deletion. Both take effect with their commit: every route asks the row first.

use std::io;

use store::tables::media::{MediaRow, RemoteMediaRow, ThumbnailRow};
use store::{CommitBatch, CommitError, Read};

use crate::directory::FileName;
use crate::upload::{charge, key};
use crate::{Error, Media, Mxc, blocking};

/// How often a deletion is tried again after its rows changed meanwhile.
const TRIES_MAX: usize = 50;

impl Media {
    /// Hides media from everybody, on behalf of `by`; with `None`, shows it again.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such media.
    pub async fn quarantine(&self, mxc: &Mxc, by: Option<&str>) -> Result<(), Error> {
        let row = self.inner.store.get::<MediaRow>(key(mxc)).await?.ok_or(Error::NotFound)?;
        let mut batch = CommitBatch::new();
        batch.expect_present::<MediaRow>(key(mxc)).put(MediaRow { quarantined_by: by.map(str::to_owned), ..row });
        match self.inner.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(Error::NotFound),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Deletes media, its thumbnails and their files, and gives the uploader's quota back.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such media.
    pub async fn delete(&self, mxc: &Mxc) -> Result<(), Error> {
        for _ in 0..TRIES_MAX {
            let row = self.inner.store.get::<MediaRow>(key(mxc)).await?.ok_or(Error::NotFound)?;
            let thumbnails: Vec<ThumbnailRow> = self.inner.store.all(Read::prefix::<ThumbnailRow>(key(mxc))).await?;
            let files: Vec<FileName> = std::iter::once(&row.file)
                .chain(thumbnails.iter().map(|thumbnail| &thumbnail.file))
                .filter_map(|file| FileName::from_text(file))
                .collect();
            let mut batch = CommitBatch::new();
            if let Some(uploader) = &row.uploader {
                charge(&mut batch, self.usage(uploader).await?, -1, -row.size);
            }
            batch.expect_equals::<MediaRow>(key(mxc), "file", row.file).delete::<MediaRow>(key(mxc));
            batch.delete_prefix::<ThumbnailRow>(key(mxc)).delete::<RemoteMediaRow>(key(mxc));
            self.mark(files.clone()).await?;
            match self.inner.store.commit(batch).await {
                Ok(_) => return self.discard(files).await,
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(Error::Store(store::Error::Engine(format!("{mxc} changes too fast to be deleted"))))
    }

    /// Deletes the files that no row names and returns their number. Crashes leave none; but a backup copies the database
    /// before the files, so that after restoring one, files are there that the database does not know. May run while
    /// media is served; reads every file's row.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Store`].
    pub async fn delete_unnamed(&self) -> Result<u64, Error> {
        let directory = self.inner.directory.clone();
        let folders = blocking::run(&self.inner.blocking, move || directory.folders()).await??;
        let mut deleted = 0;
        for folder in folders {
            let directory = self.inner.directory.clone();
            // Looked at before the rows: what is unmarked has its row already or never gets one.
            for name in blocking::run(&self.inner.blocking, move || directory.unmarked(&folder)).await?? {
                if !self.is_named(&name).await? {
                    self.discard(vec![name]).await?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    /// Marks files before the rows that name them are deleted.
    async fn mark(&self, files: Vec<FileName>) -> Result<(), Error> {
        let directory = self.inner.directory.clone();
        Ok(blocking::run(&self.inner.blocking, move || directory.doom(&files)).await??)
    }

    async fn discard(&self, files: Vec<FileName>) -> Result<(), Error> {
        let directory = self.inner.directory.clone();
        let discarded: io::Result<()> =
            blocking::run(&self.inner.blocking, move || files.iter().try_for_each(|file| directory.discard(file)))
                .await?;
        Ok(discarded?)
    }
}

//! Uploads: bounded, charged to the uploader's quota, and named by ids that the server chooses.

use bytes::Bytes;
use store::clock::random_text;
use store::tables::media::{MediaPendingRow, MediaRow, MediaUsageRow};
use store::{CommitBatch, CommitError, Read, UserId, Value};

use crate::incoming::Received;
use crate::locks::Place;
use crate::{Error, Incoming, Media, Mxc};

/// Characters of a media id: about 143 bits of randomness, not to be guessed.
const MEDIA_ID_LENGTH: usize = 24;

/// Most bytes of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Most bytes of a file name.
const FILE_NAME_BYTES_MAX: usize = 1024;

/// The content type of what was uploaded without one.
const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// How often a commit is tried again after another process changed the same user's usage.
const TRIES_MAX: usize = 50;

/// Place in the batch of the check that the user's usage has not changed.
const USAGE_CHECK: usize = 0;

/// What an uploader declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Content type; `application/octet-stream` if none.
    pub content_type: Option<String>,
    /// File name.
    pub file_name: Option<String>,
}

/// An upload that is being received. Dropped unfinished, it leaves nothing behind.
pub struct Upload {
    media: Media,
    mxc: Mxc,
    uploader: UserId,
    label: Label,
    created: bool,
    incoming: Incoming,
    place: Place,
}

/// A media id without content yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The address.
    pub mxc: Mxc,
    /// When the id lapses, in milliseconds since the epoch.
    pub expires_ms: i64,
}

impl Label {
    /// Checks that both parts can be stored and sent in headers, and fills in the default content type.
    ///
    /// # Errors
    /// [`Error::BadLabel`].
    pub(crate) fn checked(self) -> Result<Self, Error> {
        let content_type = match self.content_type {
            Some(text) if !text.trim().is_empty() => text.trim().to_owned(),
            _ => DEFAULT_CONTENT_TYPE.to_owned(),
        };
        let visible = content_type.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !visible || content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return Err(Error::BadLabel("the content type"));
        }
        let file_name = self.file_name.filter(|name| !name.is_empty());
        if file_name.as_ref().is_some_and(|name| name.len() > FILE_NAME_BYTES_MAX) {
            return Err(Error::BadLabel("the file name"));
        }
        Ok(Self { content_type: Some(content_type), file_name })
    }
}

impl Media {
    /// Begins an upload under a new address. `size` is the number of bytes, if it is known beforehand.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::QuotaReached`] as far as they are known already; [`Error::BadLabel`];
    /// [`Error::TooManyAtOnce`].
    pub async fn begin_upload(&self, uploader: &UserId, label: Label, size: Option<u64>) -> Result<Upload, Error> {
        let mxc = self.new_mxc()?;
        self.begin(uploader, mxc, false, label, size).await
    }

    /// Begins the upload of the content of an address from [`Media::create`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such address or it has lapsed; [`Error::NotCreator`];
    /// [`Error::AlreadyUploaded`]; and as [`Media::begin_upload`].
    pub async fn begin_upload_to(
        &self,
        uploader: &UserId,
        mxc: &Mxc,
        label: Label,
        size: Option<u64>,
    ) -> Result<Upload, Error> {
        self.check_pending(uploader, mxc).await?;
        self.begin(uploader, mxc.clone(), true, label, size).await
    }

    /// Hands out an address whose content is to come later.
    ///
    /// # Errors
    /// [`Error::TooManyPending`] if the user has too many of them.
    pub async fn create(&self, creator: &UserId) -> Result<Created, Error> {
        let _one_at_a_time = self.inner.locks.hold(format!("create {creator}")).await;
        let now_ms = self.inner.clock.now_ms();
        let limit = self.inner.options.pending_max;
        let pending = Read::along::<MediaPendingRow>(MediaPendingRow::BY_CREATOR, vec![creator.into()]).after(now_ms);
        let pending: Vec<MediaPendingRow> = self.inner.store.all(pending.limit(limit.saturating_add(1))).await?;
        if pending.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Error::TooManyPending);
        }
        let created = Created { mxc: self.new_mxc()?, expires_ms: now_ms + self.inner.options.pending_ms };
        let mut batch = CommitBatch::new();
        batch.put(MediaPendingRow {
            media_id: created.mxc.media_id().to_owned(),
            creator: creator.clone(),
            expires_ms: created.expires_ms,
        });
        self.forget_lapsed(&mut batch, creator, now_ms).await?;
        self.inner.store.commit(batch).await.map_err(unexpected)?;
        Ok(created)
    }

    /// Deletes the creator's lapsed ids along with what is written anyway.
    async fn forget_lapsed(&self, batch: &mut CommitBatch, creator: &UserId, now_ms: i64) -> Result<(), Error> {
        let lapsed = Read::along::<MediaPendingRow>(MediaPendingRow::BY_CREATOR, vec![creator.into()]).up_to(now_ms);
        let lapsed: Vec<MediaPendingRow> = self.inner.store.all(lapsed).await?;
        for row in lapsed {
            batch.delete::<MediaPendingRow>(vec![row.media_id.into()]);
        }
        Ok(())
    }

    async fn begin(
        &self,
        uploader: &UserId,
        mxc: Mxc,
        created: bool,
        label: Label,
        size: Option<u64>,
    ) -> Result<Upload, Error> {
        let label = label.checked()?;
        let max = self.inner.options.upload_bytes_max;
        let size = size.unwrap_or(0);
        if size > max {
            return Err(Error::TooLarge { max });
        }
        self.check_quota(&self.usage(uploader).await?, size)?;
        let at_once = self.inner.options.uploads_at_once_max;
        let place = self.inner.uploading.take(uploader.as_str(), at_once).ok_or(Error::TooManyAtOnce)?;
        Ok(Upload {
            media: self.clone(),
            mxc,
            uploader: uploader.clone(),
            label,
            created,
            incoming: self.incoming(max),
            place,
        })
    }

    /// That the address waits for this user's content.
    async fn check_pending(&self, uploader: &UserId, mxc: &Mxc) -> Result<(), Error> {
        if !self.is_local(mxc) {
            return Err(Error::NotFound);
        }
        let pending: Option<MediaPendingRow> = self.inner.store.get(vec![mxc.media_id().into()]).await?;
        match pending {
            Some(pending) if pending.creator != *uploader => Err(Error::NotCreator),
            Some(pending) if pending.expires_ms <= self.inner.clock.now_ms() => Err(Error::NotFound),
            Some(_) => Ok(()),
            None if self.inner.store.get::<MediaRow>(key(mxc)).await?.is_some() => Err(Error::AlreadyUploaded),
            None => Err(Error::NotFound),
        }
    }

    pub(crate) async fn usage(&self, user: &UserId) -> Result<MediaUsageRow, Error> {
        let usage = self.inner.store.get(vec![user.into()]).await?;
        Ok(usage.unwrap_or(MediaUsageRow { user_id: user.clone(), files: 0, bytes: 0, version: 0 }))
    }

    fn check_quota(&self, usage: &MediaUsageRow, size: u64) -> Result<(), Error> {
        let over = |used: i64, more: u64, max: Option<u64>| {
            max.is_some_and(|max| u64::try_from(used).unwrap_or(0).saturating_add(more) > max)
        };
        let options = &self.inner.options;
        if over(usage.bytes, size, options.user_bytes_max) || over(usage.files, 1, options.user_files_max) {
            return Err(Error::QuotaReached);
        }
        Ok(())
    }

    pub(crate) fn new_mxc(&self) -> Result<Mxc, Error> {
        Mxc::new(&self.inner.options.server_name, &random_text(&*self.inner.entropy, MEDIA_ID_LENGTH))
    }
}

impl Upload {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`Error::TooLarge`] once the content exceeds the limit; [`Error::Io`] if it cannot be written.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.incoming.push(chunk).await
    }

    /// Ends the upload: returns its address once file and row are durable.
    ///
    /// # Errors
    /// [`Error::QuotaReached`]; [`Error::AlreadyUploaded`] or [`Error::NotFound`] if the address was filled or lapsed
    /// meanwhile; [`Error::Io`]; [`Error::Store`].
    pub async fn finish(self) -> Result<Mxc, Error> {
        let Self { media, mxc, uploader, label, created, incoming, place: _place } = self;
        let mut received = incoming.finish().await?;
        let row = media.row(&mxc, Some(uploader.clone()), label, &received);
        // Once the batch is submitted it may be committed even if nobody waits for the answer.
        received.guard.disarm();
        match media.commit_upload(row, &uploader, created).await {
            Ok(()) => received.guard.settle(),
            Err(error) => {
                received.guard.discard();
                return Err(error);
            }
        }
        media.inner.arrived.notify_waiters();
        Ok(mxc)
    }
}

impl Media {
    pub(crate) fn row(&self, mxc: &Mxc, uploader: Option<UserId>, label: Label, received: &Received) -> MediaRow {
        MediaRow {
            server_name: mxc.server_name().to_owned(),
            media_id: mxc.media_id().to_owned(),
            uploader,
            content_type: label.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
            file_name: label.file_name,
            size: i64::try_from(received.size).unwrap_or(i64::MAX),
            sha256: received.sha256.clone(),
            file: received.guard.name().as_str().to_owned(),
            created_ms: self.inner.clock.now_ms(),
            quarantined_by: None,
            unauthenticated: false,
        }
    }

    /// Commits the row together with the user's new usage. `created`: the address must still be pending.
    async fn commit_upload(&self, row: MediaRow, uploader: &UserId, created: bool) -> Result<(), Error> {
        let _one_at_a_time = self.inner.locks.hold(format!("usage {uploader}")).await;
        let mxc = Mxc::new(&row.server_name, &row.media_id)?;
        for _ in 0..TRIES_MAX {
            let usage = self.usage(uploader).await?;
            self.check_quota(&usage, u64::try_from(row.size).unwrap_or(u64::MAX))?;
            if created {
                self.check_pending(uploader, &mxc).await?;
            }
            let mut batch = CommitBatch::new();
            charge(&mut batch, usage, 1, row.size);
            batch.expect_absent::<MediaRow>(key(&mxc)).put(row.clone());
            if created {
                let pending = vec![Value::from(mxc.media_id())];
                batch.expect_present::<MediaPendingRow>(pending.clone()).delete::<MediaPendingRow>(pending);
            }
            match self.inner.store.commit(batch).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { check: USAGE_CHECK }) => {}
                Err(CommitError::Conflict { .. }) => return Err(Error::AlreadyUploaded),
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        Err(Error::Store(store::Error::Engine(format!("the media usage of {uploader} changes too fast"))))
    }
}

/// Adds `files` and `bytes` to a usage that was read, unless it has changed since.
pub(crate) fn charge(batch: &mut CommitBatch, usage: MediaUsageRow, files: i64, bytes: i64) {
    let key = vec![Value::from(&usage.user_id)];
    match usage.version {
        0 => batch.expect_absent::<MediaUsageRow>(key),
        version => batch.expect_equals::<MediaUsageRow>(key, "version", version),
    };
    batch.put(MediaUsageRow {
        files: usage.files.saturating_add(files).max(0),
        bytes: usage.bytes.saturating_add(bytes).max(0),
        version: usage.version + 1,
        ..usage
    });
}

/// The key of the row of an address.
pub(crate) fn key(mxc: &Mxc) -> Vec<Value> {
    vec![mxc.server_name().into(), mxc.media_id().into()]
}

/// For batches whose checks cannot fail.
pub(crate) fn unexpected(error: CommitError) -> Error {
    match error {
        CommitError::Store(error) => Error::Store(error),
        CommitError::Conflict { .. } => {
            Error::Store(store::Error::Engine("a batch without checks met a conflict".to_owned()))
        }
    }
}

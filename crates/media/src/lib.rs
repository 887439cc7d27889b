//! The media store: uploads, downloads and thumbnails of `mxc://` content, and previews of URLs.
//!
//! [`Media`] is the door. Rows stand in the database, bytes in files of one directory; [`directory`] says in which order
//! the two change so that a crash at any moment leaves no row without its file. Addresses reach a look-up only as
//! [`Mxc`], which is validated. Work that blocks runs on the executor given at boot; network is given as [`Remote`].

mod blocking;
mod content;
mod directory;
mod disposition;
mod download;
mod error;
mod incoming;
mod locks;
mod mxc;
mod options;
pub mod previews;
mod remote;
mod removal;
mod thumbnail;
mod thumbnails;
mod upload;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use quick_cache::sync::Cache;
use store::tables::media::{MediaRow, ThumbnailRow};
use store::{Clock, Entropy, Read, Store};
use tokio::sync::{Notify, Semaphore};

pub use blocking::{Blocking, Job};
pub use content::{Content, Reader};
pub use disposition::{disposition, file_name_of, is_inline};
pub use download::Door;
pub use error::Error;
pub use incoming::Incoming;
pub use mxc::Mxc;
pub use options::Options;
pub use remote::Remote;
pub use thumbnail::{Asked, Method};
pub use upload::{Created, Label, Upload};

use directory::{Directory, FileName};
use locks::{Locks, Places};

/// Bytes that one permit of the decoding budget stands for.
const PERMIT_BYTES: u64 = 1024 * 1024;

/// The media store. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    directory: Directory,
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    blocking: Arc<dyn Blocking>,
    remote: Option<Arc<dyn Remote>>,
    /// Why remote media could not be fetched, and until when that is told without trying again.
    failures: Cache<Mxc, (Error, i64)>,
    /// When all remote media is added up again, in milliseconds since the epoch.
    add_up_at_ms: AtomicI64,
    /// Uploads of one user, thumbnails of one kind and fetches of one address go one at a time.
    locks: Locks,
    /// Uploads that each user has under way.
    uploading: Places,
    /// Memory that all decoders share, in [`PERMIT_BYTES`].
    decoding: Arc<Semaphore>,
    /// Wakes those who wait for the content of a created media id.
    arrived: Notify,
}

impl Media {
    /// Opens the directory and deletes what a crash left of unfinished uploads and deletions.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be made or read; [`Error::Store`].
    pub async fn open(
        options: Options,
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        blocking: Arc<dyn Blocking>,
        remote: Option<Arc<dyn Remote>>,
    ) -> Result<Self, Error> {
        let root = options.directory.clone();
        let directory = blocking::run(&blocking, move || Directory::open(&root)).await??;
        let permits = usize::try_from(thumbnail::DECODE_BYTES_MAX.div_ceil(PERMIT_BYTES)).unwrap_or(1);
        let inner = Inner {
            options,
            directory,
            store,
            clock,
            entropy,
            blocking,
            remote,
            failures: Cache::new(remote::FAILURES_MAX),
            add_up_at_ms: AtomicI64::new(0),
            locks: Locks::default(),
            uploading: Places::default(),
            decoding: Arc::new(Semaphore::new(permits)),
            arrived: Notify::new(),
        };
        let media = Self { inner: Arc::new(inner) };
        media.sweep().await?;
        Ok(media)
    }

    /// Most bytes of an upload: `m.upload.size`.
    pub fn upload_bytes_max(&self) -> u64 {
        self.inner.options.upload_bytes_max
    }

    /// Whether media of this address belongs to this server.
    pub fn is_local(&self, mxc: &Mxc) -> bool {
        mxc.server_name() == self.inner.options.server_name
    }

    /// Settles or discards each marked file, as a row names it or not.
    async fn sweep(&self) -> Result<(), Error> {
        let directory = self.inner.directory.clone();
        let marked = blocking::run(&self.inner.blocking, move || directory.marked()).await??;
        let oldest_left_alone = self.inner.clock.now_ms().saturating_sub(self.inner.options.unfinished_ms);
        for (name, marked_ms) in marked {
            if self.inner.options.unfinished_ms > 0 && marked_ms > oldest_left_alone {
                continue;
            }
            let named = self.is_named(&name).await?;
            let directory = self.inner.directory.clone();
            blocking::run(
                &self.inner.blocking,
                move || {
                    if named { directory.settle(&name) } else { directory.discard(&name) }
                },
            )
            .await??;
        }
        Ok(())
    }

    /// Whether any row names this file.
    pub(crate) async fn is_named(&self, name: &FileName) -> Result<bool, Error> {
        let reads = vec![
            Read::along::<MediaRow>(MediaRow::BY_FILE, vec![name.as_str().into()]).limit(1),
            Read::along::<ThumbnailRow>(ThumbnailRow::BY_FILE, vec![name.as_str().into()]).limit(1),
        ];
        Ok(self.inner.store.read(reads).await?.iter().any(|rows| !rows.0.is_empty()))
    }

    /// A file to be received, of at most `bytes_max` bytes.
    fn incoming(&self, bytes_max: u64) -> Incoming {
        let name = FileName::random(&*self.inner.entropy);
        Incoming::new(self.inner.directory.clone(), Arc::clone(&self.inner.blocking), name, bytes_max)
    }
}

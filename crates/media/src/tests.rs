//! The media store on the in-memory database and a directory of its own.

#![expect(clippy::unwrap_used, reason = "tests")]

mod crashes;
mod downloads;
mod thumbnails;
mod uploads;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use store::model::Model;
use store::{Clock, Engine, Entropy, Store, UserId};
use tempfile::TempDir;

use crate::{Content, Door, Error, Job, Label, Media, Mxc, Options, Remote};

pub(crate) const SERVER: &str = "example.org";

/// A media store with its surroundings.
pub(crate) struct Bench {
    pub(crate) media: Media,
    pub(crate) store: Store,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) directory: Arc<TempDir>,
    engine: Arc<Model>,
    entropy: Arc<Counting>,
}

pub(crate) struct FixedClock(pub(crate) AtomicI64);

impl Clock for FixedClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let mixed = count.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 32)).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}, None).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options), remote: Option<Arc<dyn Remote>>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let engine = Arc::new(Model::new());
        let clock = Arc::new(FixedClock(AtomicI64::new(1_000_000)));
        let entropy = Arc::new(Counting(AtomicU64::new(0)));
        let mut options = Options::new(SERVER, directory.path());
        change(&mut options);
        let shared: Arc<dyn Engine> = engine.clone();
        let store = Store::new(shared).await.unwrap();
        let media = open(options, store.clone(), clock.clone(), entropy.clone(), remote).await;
        Self { media, store, clock, directory, engine, entropy }
    }

    /// The same directory and database after a restart, optionally on another engine over that database.
    pub(crate) async fn restarted(&self, engine: Option<Arc<dyn Engine>>) -> Self {
        let engine = engine.unwrap_or_else(|| self.engine.clone());
        let store = Store::new(engine).await.unwrap();
        let options = Options::new(SERVER, self.directory.path());
        let media = open(options, store.clone(), self.clock.clone(), self.entropy.clone(), None).await;
        Self {
            media,
            store,
            clock: self.clock.clone(),
            directory: self.directory.clone(),
            engine: self.engine.clone(),
            entropy: self.entropy.clone(),
        }
    }

    pub(crate) fn engine(&self) -> Arc<Model> {
        self.engine.clone()
    }

    pub(crate) async fn upload(&self, user: &str, bytes: impl Into<Bytes>) -> Result<Mxc, Error> {
        let mut upload = self.media.begin_upload(&user.into(), Label::default(), None).await?;
        upload.push(bytes.into()).await?;
        upload.finish().await
    }

    pub(crate) async fn download(&self, mxc: &Mxc) -> Result<Vec<u8>, Error> {
        read(self.media.content(mxc, Door::Authenticated).await?).await
    }

    /// All files of the directory, markers included.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.directory.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

async fn open(
    options: Options,
    store: Store,
    clock: Arc<FixedClock>,
    entropy: Arc<Counting>,
    remote: Option<Arc<dyn Remote>>,
) -> Media {
    Media::open(options, store, clock, entropy, Arc::new(|job: Job| job()), remote).await.unwrap()
}

pub(crate) async fn read(content: Content) -> Result<Vec<u8>, Error> {
    let mut reader = content.open(None).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await? {
        bytes.extend(chunk);
    }
    Ok(bytes)
}

pub(crate) fn alice() -> UserId {
    "@alice:example.org".into()
}

pub(crate) fn mxc(uri: &str) -> Mxc {
    Mxc::parse(uri).unwrap()
}

//! The conformance suite on SQLite.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlite::{Options, Sqlite};
use store::Engine;
use store::conformance::{self, Harness, Size};

/// Databases in a directory; a crash is a copy of the files of the open one.
struct Directory {
    root: tempfile::TempDir,
    databases: Mutex<Vec<PathBuf>>,
}

impl Directory {
    fn open(&self) -> Arc<dyn Engine> {
        let path = self.databases.lock().last().unwrap().clone();
        Arc::new(Sqlite::open(&path, Options::default()).unwrap())
    }

    fn next(&self) -> PathBuf {
        let mut databases = self.databases.lock();
        let directory = self.root.path().join(databases.len().to_string());
        std::fs::create_dir(&directory).unwrap();
        databases.push(directory.join("hearth.db"));
        databases.last().unwrap().clone()
    }
}

fn copy_if_there(from: &Path, to: &Path, suffix: &str) {
    let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
    if name(from).exists() {
        std::fs::copy(name(from), name(to)).unwrap();
    }
}

#[async_trait]
impl Harness for Directory {
    async fn fresh(&self) -> Arc<dyn Engine> {
        self.next();
        self.open()
    }

    async fn reopen(&self, engine: Arc<dyn Engine>, crash: bool) -> Arc<dyn Engine> {
        if crash {
            let old = self.databases.lock().last().unwrap().clone();
            let new = self.next();
            copy_if_there(&old, &new, "");
            copy_if_there(&old, &new, "-wal");
        }
        engine.close().await;
        self.open()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_fulfils_the_contract() {
    let directory = Directory { root: tempfile::tempdir().unwrap(), databases: Mutex::default() };
    let seeds = std::env::var("STORE_SEEDS").ok().and_then(|text| text.parse().ok());
    let usual = Size::default();
    let size = Size { seeds: 0..seeds.unwrap_or(usual.seeds.end), ..usual };
    conformance::run(&directory, &size).await.unwrap();
}

//! Crashes: no row without its file, and no file that is left over after the next start.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use parking_lot::Mutex;
use store::model::Model;
use store::{CommitBatch, CommitError, Engine, Error, Notifier, Outcome, Read, Rows, Table, Ticket, Value};

use super::{Bench, alice};
use crate::{Label, Mxc};

/// What the storage engine does with batches.
#[derive(Clone, Copy, PartialEq)]
enum Commits {
    /// Commits them, but nobody learns of it.
    Unheard,
    /// Refuses them.
    Refused,
}

/// The database with another way to commit.
struct Faulty {
    model: Arc<Model>,
    commits: Commits,
    unheard: Mutex<Vec<Outcome>>,
}

#[async_trait]
impl Engine for Faulty {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        match self.commits {
            Commits::Unheard => {
                drop(self.model.submit(batch));
                self.unheard.lock().push(outcome);
            }
            Commits::Refused => drop(outcome.send(Err(CommitError::Store(Error::DiskFull)))),
        }
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        self.model.read(reads).await
    }

    fn notifier(&self) -> &Notifier {
        self.model.notifier()
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        self.model.import(table, rows).await
    }

    async fn close(&self) {}
}

async fn faulty(bench: &Bench, commits: Commits) -> Bench {
    let engine = Faulty { model: bench.engine(), commits, unheard: Mutex::default() };
    bench.restarted(Some(Arc::new(engine))).await
}

/// Runs a future as far as it goes by itself, then drops it, as happens to a request whose client has gone.
fn abandon<T>(future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let bench = Bench::new().await;
    let mut upload = bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap();
    upload.push(vec![1; 300_000].into()).await.unwrap();
    assert_eq!(bench.files().len(), 2);
    drop(upload);
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn what_a_crash_leaves_of_an_upload_goes_at_the_next_start() {
    let bench = Bench::new().await;
    let stored = bench.upload("@alice:example.org", "stored").await.unwrap();
    let mut upload = bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap();
    upload.push(vec![1; 300_000].into()).await.unwrap();
    // The process ends here: nothing is dropped.
    std::mem::forget(upload);
    assert_eq!(bench.files().len(), 3);
    let bench = bench.restarted(None).await;
    assert_eq!(bench.files().len(), 1);
    assert_eq!(bench.download(&stored).await.unwrap(), b"stored");
}

#[tokio::test]
async fn a_commit_whose_outcome_nobody_heard_keeps_its_file() {
    let bench = Bench::new().await;
    let unheard = faulty(&bench, Commits::Unheard).await;
    let created = bench.media.create(&alice()).await.unwrap();
    let mut upload = unheard.media.begin_upload_to(&alice(), &created.mxc, Label::default(), None).await.unwrap();
    upload.push("kept".into()).await.unwrap();
    assert!(abandon(upload.finish()));
    assert_eq!(bench.download(&created.mxc).await.unwrap(), b"kept");
    let bench = bench.restarted(None).await;
    assert_eq!(bench.download(&created.mxc).await.unwrap(), b"kept");
    assert_eq!(bench.files().len(), 1, "the marker is gone");
}

#[tokio::test]
async fn a_refused_commit_leaves_no_file() {
    let bench = Bench::new().await;
    let refused = faulty(&bench, Commits::Refused).await;
    assert!(refused.upload("@alice:example.org", "text").await.is_err());
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_ended_or_undone_at_the_next_start() {
    let bench = Bench::new().await;
    let mxc: Mxc = bench.upload("@alice:example.org", "text").await.unwrap();
    // Cut short before the commit: the media is still there.
    assert!(faulty(&bench, Commits::Refused).await.media.delete(&mxc).await.is_err());
    let bench = bench.restarted(None).await;
    assert_eq!(bench.download(&mxc).await.unwrap(), b"text");
    assert_eq!(bench.files().len(), 1);
    // Cut short after the commit: the file goes.
    let unheard = faulty(&bench, Commits::Unheard).await;
    assert!(abandon(unheard.media.delete(&mxc)));
    assert_eq!(bench.files().len(), 2);
    let bench = bench.restarted(None).await;
    assert!(bench.download(&mxc).await.is_err());
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn young_unfinished_files_may_belong_to_another_node() {
    let bench = Bench::with(|options| options.unfinished_ms = 60_000, None).await;
    let upload_file = bench.directory.path().join("unfinished").join("0123456789abcdef0123456789abcdef");
    std::fs::write(&upload_file, "").unwrap();
    // The clock of the tests stands near the epoch, so the marker is of the future: younger than any age.
    let options = {
        let mut options = crate::Options::new(super::SERVER, bench.directory.path());
        options.unfinished_ms = 60_000;
        options
    };
    super::open(options, bench.store.clone(), bench.clock.clone(), bench.entropy.clone(), None).await;
    assert!(upload_file.exists());
    bench.restarted(None).await;
    assert!(!upload_file.exists());
}

#[tokio::test]
async fn files_that_a_restored_database_does_not_know_are_found() {
    let bench = Bench::new().await;
    let stored = bench.upload("@alice:example.org", "stored").await.unwrap();
    let name = "0123456789abcdef0123456789abcdef";
    let folder = bench.directory.path().join("files").join("01");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), "unknown").unwrap();
    std::fs::write(folder.join("README"), "not ours").unwrap();
    let mut under_way = bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap();
    under_way.push(vec![1; 300_000].into()).await.unwrap();
    assert_eq!(bench.media.delete_unnamed().await.unwrap(), 1);
    assert_eq!(bench.media.delete_unnamed().await.unwrap(), 0);
    assert!(!folder.join(name).exists() && folder.join("README").exists());
    let finished = under_way.finish().await.unwrap();
    assert_eq!(bench.download(&finished).await.unwrap().len(), 300_000);
    assert_eq!(bench.download(&stored).await.unwrap(), b"stored");
}

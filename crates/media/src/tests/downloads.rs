//! Downloads: doors, ranges, quarantine and deletion, remote media, and rows that contradict the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use store::tables::media::{MediaRow, RemoteMediaRow};
use store::{CommitBatch, Read};

use super::{Bench, alice, mxc};
use crate::upload::key;
use crate::{Asked, Door, Error, Incoming, Label, Method, Mxc, Remote};

const THUMBNAIL: Asked = Asked { width: 8, height: 8, method: Method::Scale, animated: false };

async fn change(bench: &Bench, mxc: &Mxc, change: impl FnOnce(&mut MediaRow)) {
    let mut row: MediaRow = bench.store.get(key(mxc)).await.unwrap().unwrap();
    change(&mut row);
    let mut batch = CommitBatch::new();
    batch.put(row);
    bench.store.commit(batch).await.unwrap();
}

/// SEC-media-fetching.
#[tokio::test]
async fn cm3_the_unauthenticated_door_serves_only_what_was_there_before_the_freeze() {
    let peer = Arc::new(Peer::default());
    let bench = Bench::with(|_| {}, Some(peer.clone())).await;
    let address = bench.upload("@alice:example.org", "text").await.unwrap();
    for unserved in [&address, &mxc("mxc://elsewhere.org/there")] {
        assert!(matches!(bench.media.content(unserved, Door::Unauthenticated).await, Err(Error::NotFound)));
        assert!(matches!(
            bench.media.thumbnail(unserved, &THUMBNAIL, Door::Unauthenticated).await,
            Err(Error::NotFound)
        ));
    }
    assert_eq!(peer.asked.load(Ordering::Relaxed), 0, "nothing is fetched for nobody");
    change(&bench, &address, |row| row.unauthenticated = true).await;
    assert!(bench.media.content(&address, Door::Unauthenticated).await.is_ok());
}

/// SEC-media-paths.
#[tokio::test]
async fn cm7_a_row_cannot_lead_out_of_the_directory() {
    let bench = Bench::new().await;
    let address = bench.upload("@alice:example.org", "text").await.unwrap();
    for file in ["../../../../../../etc/passwd", "", "/etc/passwd", "0123456789abcdef0123456789abcdef"] {
        change(&bench, &address, |row| row.file = file.to_owned()).await;
        let outcome = bench.download(&address).await;
        assert!(matches!(outcome, Err(Error::FileLost { table: "media", .. })), "{file}");
    }
}

#[tokio::test]
async fn a_file_of_another_size_is_not_served() {
    let bench = Bench::new().await;
    let address = bench.upload("@alice:example.org", "text").await.unwrap();
    change(&bench, &address, |row| row.size = 5).await;
    assert!(matches!(bench.download(&address).await, Err(Error::FileLost { .. })));
}

/// However fast a file can be read, others have their turn between two chunks of it.
#[tokio::test]
async fn a_download_takes_turns_with_all_else() {
    let bench = Bench::new().await;
    let address = bench.upload("@alice:example.org", vec![7; 300_000]).await.unwrap();
    let mut reader = bench.media.content(&address, Door::Authenticated).await.unwrap().open(None).await.unwrap();
    let first = reader.next().now_or_never().unwrap().unwrap().unwrap();
    assert!(first.len() <= 64 << 10, "{} bytes at once", first.len());
    for _ in 0..3 {
        assert!(reader.next().now_or_never().is_none());
    }
}

#[tokio::test]
async fn cm12_ranges() {
    let bench = Bench::new().await;
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let address = bench.upload("@alice:example.org", bytes.clone()).await.unwrap();
    for (range, expected) in [
        (0..700_000, &bytes[..]),
        (0..1, &bytes[..1]),
        (262_143..262_145, &bytes[262_143..262_145]),
        (100_000..650_000, &bytes[100_000..650_000]),
        (699_999..700_000, &bytes[699_999..]),
        (699_999..u64::MAX, &bytes[699_999..]),
        (700_000..700_001, &[]),
    ] {
        let content = bench.media.content(&address, Door::Authenticated).await.unwrap();
        assert_eq!(content.size, 700_000);
        let mut reader = content.open(Some(range.clone())).await.unwrap();
        let mut found = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            assert!(chunk.len() <= 256 * 1024);
            found.extend(chunk);
        }
        assert!(found == expected, "{range:?}");
    }
}

#[tokio::test]
async fn cm13_quarantine_hides_at_once_and_everywhere() {
    let bench = Bench::new().await;
    let png = super::thumbnails::png(20, 20);
    let address = bench.upload("@alice:example.org", png).await.unwrap();
    bench.media.thumbnail(&address, &THUMBNAIL, Door::Authenticated).await.unwrap();
    bench.media.quarantine(&address, Some("@admin:example.org")).await.unwrap();
    assert!(matches!(bench.media.content(&address, Door::Authenticated).await, Err(Error::NotFound)));
    let thumbnail = bench.media.thumbnail(&address, &THUMBNAIL, Door::Authenticated).await;
    assert!(matches!(thumbnail, Err(Error::NotFound)));
    bench.media.quarantine(&address, None).await.unwrap();
    assert!(bench.download(&address).await.is_ok());
    assert!(matches!(bench.media.quarantine(&mxc("mxc://example.org/x"), None).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn cm13_deletion_takes_file_thumbnails_and_quota() {
    let bench = Bench::new().await;
    let png = super::thumbnails::png(20, 20);
    let address = bench.upload("@alice:example.org", png).await.unwrap();
    bench.media.thumbnail(&address, &THUMBNAIL, Door::Authenticated).await.unwrap();
    assert_eq!(bench.files().len(), 2);
    bench.media.delete(&address).await.unwrap();
    assert!(bench.files().is_empty());
    assert!(matches!(bench.download(&address).await, Err(Error::NotFound)));
    let usage = bench.media.usage(&alice()).await.unwrap();
    assert_eq!((usage.files, usage.bytes), (0, 0));
    assert!(matches!(bench.media.delete(&address).await, Err(Error::NotFound)));
}

/// Another server, which has `there`, `large` and nothing else.
#[derive(Default)]
struct Peer {
    asked: AtomicUsize,
}

#[async_trait]
impl Remote for Peer {
    async fn fetch(&self, mxc: &Mxc, into: &mut Incoming) -> Result<Label, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // Lets others come to the same point.
        tokio::task::yield_now().await;
        match mxc.media_id() {
            "there" => into.push("from elsewhere".into()).await?,
            "large" => into.push(vec![0; 101].into()).await?,
            _ => return Err(Error::NotFound),
        }
        Ok(Label { content_type: Some("text/css".to_owned()), file_name: Some("x".repeat(2000)) })
    }
}

/// SEC-media-fetching.
#[tokio::test]
async fn cm10_remote_media_is_fetched_once_and_kept() {
    let peer = Arc::new(Peer::default());
    let bench = Bench::with(|options| options.upload_bytes_max = 100, Some(peer.clone())).await;
    let there = mxc("mxc://elsewhere.org/there");
    let (one, two) = tokio::join!(bench.download(&there), bench.download(&there));
    assert_eq!((one.unwrap(), two.unwrap()), (b"from elsewhere".to_vec(), b"from elsewhere".to_vec()));
    assert_eq!(peer.asked.load(Ordering::Relaxed), 1);
    let large = bench.download(&mxc("mxc://elsewhere.org/large")).await;
    assert!(matches!(large, Err(Error::RemoteTooLarge)));
    assert!(matches!(bench.download(&mxc("mxc://elsewhere.org/none")).await, Err(Error::NotFound)));
    assert_eq!(bench.files().len(), 1);
    assert!(matches!(bench.download(&mxc("mxc://example.org/there")).await, Err(Error::NotFound)), "our own name");
}

#[tokio::test]
async fn remote_media_without_a_way_to_fetch_it_is_not_found() {
    let bench = Bench::new().await;
    assert!(matches!(bench.download(&mxc("mxc://elsewhere.org/there")).await, Err(Error::NotFound)));
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// SEC-media-fetching.
#[tokio::test]
async fn cm10_remote_media_is_deleted_once_nobody_has_asked_for_it_in_a_long_time() {
    let peer = Arc::new(Peer::default());
    let bench = Bench::with(|_| {}, Some(peer.clone())).await;
    let ours = bench.upload("@alice:example.org", "text").await.unwrap();
    let (there, too) = (mxc("mxc://elsewhere.org/there"), mxc("mxc://other.org/there"));
    bench.download(&there).await.unwrap();
    bench.download(&too).await.unwrap();
    let now = |bench: &Bench| bench.clock.0.load(Ordering::Relaxed);
    let begin = now(&bench);
    // Used again within a day, which is not noted, and after one, which is.
    bench.clock.0.fetch_add(DAY_MS - 1, Ordering::Relaxed);
    bench.download(&too).await.unwrap();
    assert_eq!(bench.media.purge_remote(begin).await.unwrap(), 0);
    bench.clock.0.fetch_add(1, Ordering::Relaxed);
    bench.download(&there).await.unwrap();
    assert_eq!(bench.media.purge_remote(now(&bench)).await.unwrap(), 1);
    assert_eq!(peer.asked.load(Ordering::Relaxed), 2);
    bench.download(&there).await.unwrap();
    assert_eq!(peer.asked.load(Ordering::Relaxed), 2);
    bench.download(&too).await.unwrap();
    assert_eq!(peer.asked.load(Ordering::Relaxed), 3);
    assert_eq!(bench.media.purge_remote(i64::MAX).await.unwrap(), 2);
    assert_eq!(bench.files().len(), 1);
    assert!(bench.store.all::<RemoteMediaRow>(Read::prefix::<RemoteMediaRow>(vec![])).await.unwrap().is_empty());
    assert!(bench.download(&ours).await.is_ok(), "our own is kept");
}

/// SEC-media-fetching: what other servers' media takes has a bound, if an administrator wants one.
#[tokio::test]
async fn cm10_of_too_much_remote_media_what_was_not_asked_for_longest_is_deleted() {
    let peer = Arc::new(Peer::default());
    let bench = Bench::with(|_| {}, Some(peer.clone())).await;
    let ours = bench.upload("@alice:example.org", "text").await.unwrap();
    let theirs: Vec<Mxc> = (0..4).map(|n| mxc(&format!("mxc://elsewhere{n}.org/there"))).collect();
    for mxc in &theirs {
        bench.download(mxc).await.unwrap();
        bench.clock.0.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    }
    let quarantined = mxc("mxc://bad.org/there");
    bench.download(&quarantined).await.unwrap();
    bench.media.quarantine(&quarantined, Some("@admin:example.org")).await.unwrap();
    // The oldest was used last, but for the quarantined one, which counts and stays.
    bench.clock.0.fetch_add(DAY_MS, Ordering::Relaxed);
    bench.download(&theirs[0]).await.unwrap();
    let row: MediaRow = bench.store.get(key(&theirs[0])).await.unwrap().unwrap();
    let size = u64::try_from(row.size).unwrap();
    assert_eq!(bench.media.shrink_remote(5 * size).await.unwrap(), 0);
    assert_eq!(bench.media.shrink_remote(0).await.unwrap(), 0, "it was added up just now");
    bench.clock.0.fetch_add(60 * 60 * 1000, Ordering::Relaxed);
    assert_eq!(bench.media.shrink_remote(3 * size).await.unwrap(), 2);
    let asked = peer.asked.load(Ordering::Relaxed);
    for kept in [&theirs[0], &theirs[3], &ours] {
        bench.download(kept).await.unwrap();
    }
    assert_eq!(peer.asked.load(Ordering::Relaxed), asked);
    bench.download(&theirs[1]).await.unwrap();
    assert_eq!(peer.asked.load(Ordering::Relaxed), asked + 1, "it can be had again");
    bench.clock.0.fetch_add(60 * 60 * 1000, Ordering::Relaxed);
    assert_eq!(bench.media.shrink_remote(0).await.unwrap(), 3, "all but what is quarantined");
}

#[tokio::test]
async fn cm13_what_is_quarantined_is_not_deleted_and_fetched_again() {
    let bench = Bench::with(|_| {}, Some(Arc::new(Peer::default()))).await;
    let there = mxc("mxc://elsewhere.org/there");
    bench.download(&there).await.unwrap();
    bench.media.quarantine(&there, Some("@admin:example.org")).await.unwrap();
    bench.clock.0.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    assert_eq!(bench.media.purge_remote(bench.clock.0.load(Ordering::Relaxed)).await.unwrap(), 0);
    assert!(matches!(bench.download(&there).await, Err(Error::NotFound)));
}

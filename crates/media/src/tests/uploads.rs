//! Uploads: limits, quotas, labels, and addresses that are created before their content comes.

use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};
use store::tables::media::MediaRow;

use super::{Bench, SERVER, alice, mxc};
use crate::upload::key;
use crate::{Door, Error, Label, Mxc};

const BOB: &str = "@bob:example.org";

fn label(content_type: &str, file_name: &str) -> Label {
    Label { content_type: Some(content_type.to_owned()), file_name: Some(file_name.to_owned()) }
}

async fn row(bench: &Bench, mxc: &Mxc) -> Option<MediaRow> {
    bench.store.get(key(mxc)).await.unwrap()
}

#[tokio::test]
async fn cm1_an_upload_is_stored_under_an_id_that_the_server_chose() {
    let bench = Bench::new().await;
    let label = label("text/plain; charset=utf-8", "notes ä.txt");
    let mut upload = bench.media.begin_upload(&alice(), label, Some(11)).await.unwrap();
    upload.push("hello ".into()).await.unwrap();
    upload.push("world".into()).await.unwrap();
    let mxc = upload.finish().await.unwrap();
    assert_eq!(mxc.server_name(), SERVER);
    assert_eq!(mxc.media_id().len(), 24);
    let row = row(&bench, &mxc).await.unwrap();
    assert_eq!(row.uploader, Some(alice()));
    assert_eq!(row.content_type, "text/plain; charset=utf-8");
    assert_eq!(row.file_name.as_deref(), Some("notes ä.txt"));
    assert_eq!((row.size, row.created_ms, row.unauthenticated), (11, 1_000_000, false));
    assert_eq!(row.sha256, Sha256::digest(b"hello world").to_vec());
    assert_eq!(bench.download(&mxc).await.unwrap(), b"hello world");
    assert_eq!(bench.files().len(), 1, "no marker is left");
    let other = bench.upload("@alice:example.org", "hello world").await.unwrap();
    assert_ne!(other, mxc);
}

#[tokio::test]
async fn cm1_an_empty_upload_is_an_upload() {
    let bench = Bench::new().await;
    let upload = bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap();
    let mxc = upload.finish().await.unwrap();
    assert_eq!(row(&bench, &mxc).await.unwrap().content_type, "application/octet-stream");
    assert!(bench.download(&mxc).await.unwrap().is_empty());
}

#[tokio::test]
async fn cm1_uploads_are_bounded() {
    let bench = Bench::with(|options| options.upload_bytes_max = 300_000, None).await;
    let refused = bench.media.begin_upload(&alice(), Label::default(), Some(300_001)).await;
    assert!(matches!(refused, Err(Error::TooLarge { max: 300_000 })));
    let mut upload = bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap();
    for _ in 0..3 {
        upload.push(vec![7; 100_000].into()).await.unwrap();
    }
    assert_eq!(bench.files().len(), 2, "what has come is on disk, not in memory");
    assert!(matches!(upload.push("x".into()).await, Err(Error::TooLarge { max: 300_000 })));
    drop(upload);
    assert!(bench.files().is_empty());
    let whole = bench.upload("@alice:example.org", vec![7; 300_000]).await.unwrap();
    assert_eq!(bench.download(&whole).await.unwrap().len(), 300_000);
}

#[tokio::test]
async fn cm1_quotas_count_bytes_and_files_of_each_user() {
    let bench = Bench::with(
        |options| {
            options.user_bytes_max = Some(10);
            options.user_files_max = Some(2);
        },
        None,
    )
    .await;
    let first = bench.upload("@alice:example.org", "1234567").await.unwrap();
    let early = bench.media.begin_upload(&alice(), Label::default(), Some(4)).await;
    assert!(matches!(early, Err(Error::QuotaReached)), "known before anything is sent");
    let late = bench.upload("@alice:example.org", "1234").await;
    assert!(matches!(late, Err(Error::QuotaReached)), "known once it has come");
    assert_eq!(bench.files().len(), 1, "what was refused is not kept");
    bench.upload("@alice:example.org", "123").await.unwrap();
    assert!(matches!(bench.upload("@alice:example.org", "").await, Err(Error::QuotaReached)), "two files");
    bench.upload(BOB, "1234567890").await.unwrap();
    bench.media.delete(&first).await.unwrap();
    bench.upload("@alice:example.org", "1234567").await.unwrap();
    let usage = bench.media.usage(&alice()).await.unwrap();
    assert_eq!((usage.files, usage.bytes), (2, 10));
}

#[tokio::test]
async fn cm1_concurrent_uploads_do_not_pass_the_quota() {
    let bench = Bench::with(|options| options.user_files_max = Some(1), None).await;
    let mut uploads = Vec::new();
    for _ in 0..3 {
        uploads.push(bench.media.begin_upload(&alice(), Label::default(), None).await.unwrap());
    }
    let mut stored = 0;
    for upload in uploads {
        stored += usize::from(upload.finish().await.is_ok());
    }
    assert_eq!((stored, bench.files().len()), (1, 1));
}

#[tokio::test]
async fn cm1_uploads_under_way_are_bounded() {
    let bench = Bench::with(|options| options.uploads_at_once_max = 2, None).await;
    let begin = |user: &str| {
        let (media, user) = (bench.media.clone(), user.into());
        async move { media.begin_upload(&user, Label::default(), None).await }
    };
    let first = begin("@alice:example.org").await.unwrap();
    let second = begin("@alice:example.org").await.unwrap();
    assert!(matches!(begin("@alice:example.org").await, Err(Error::TooManyAtOnce)));
    begin(BOB).await.unwrap();
    first.finish().await.unwrap();
    begin("@alice:example.org").await.unwrap();
    drop(second);
    begin("@alice:example.org").await.unwrap();
}

#[tokio::test]
async fn cm1_labels_fit_into_headers() {
    let bench = Bench::new().await;
    let long = "a".repeat(1025);
    for refused in [label("text/\nplain", "a"), label("täxt", "a"), label(&"a".repeat(256), "a"), label("a/b", &long)]
    {
        let outcome = bench.media.begin_upload(&alice(), refused.clone(), None).await;
        assert!(matches!(outcome, Err(Error::BadLabel(_))), "{refused:?}");
    }
    let upload = bench.media.begin_upload(&alice(), label("  ", ""), None).await.unwrap();
    let stored = row(&bench, &upload.finish().await.unwrap()).await.unwrap();
    assert_eq!((stored.content_type.as_str(), stored.file_name), ("application/octet-stream", None));
}

#[tokio::test]
async fn cm2_a_created_address_takes_content_once_from_its_creator() {
    let bench = Bench::new().await;
    let created = bench.media.create(&alice()).await.unwrap();
    assert_eq!(created.expires_ms, 1_000_000 + 24 * 60 * 60 * 1000);
    let begin = |user: &str| {
        let (media, mxc, user) = (bench.media.clone(), created.mxc.clone(), user.into());
        async move { media.begin_upload_to(&user, &mxc, Label::default(), None).await }
    };
    let before = bench.media.content(&created.mxc, Door::Authenticated).await;
    assert!(matches!(before, Err(Error::NotYetUploaded)));
    assert!(matches!(begin(BOB).await, Err(Error::NotCreator)));
    let first = begin("@alice:example.org").await.unwrap();
    let mut second = begin("@alice:example.org").await.unwrap();
    second.push("second".into()).await.unwrap();
    assert_eq!(first.finish().await.unwrap(), created.mxc);
    assert!(matches!(second.finish().await, Err(Error::AlreadyUploaded)));
    assert!(matches!(begin("@alice:example.org").await, Err(Error::AlreadyUploaded)));
    assert!(bench.download(&created.mxc).await.unwrap().is_empty());
    assert_eq!(bench.files().len(), 1);
}

#[tokio::test]
async fn cm2_created_addresses_lapse() {
    let bench = Bench::new().await;
    let created = bench.media.create(&alice()).await.unwrap();
    let upload = bench.media.begin_upload_to(&alice(), &created.mxc, Label::default(), None).await.unwrap();
    bench.clock.0.store(created.expires_ms, Ordering::Relaxed);
    let begun = bench.media.begin_upload_to(&alice(), &created.mxc, Label::default(), None).await;
    assert!(matches!(begun, Err(Error::NotFound)));
    assert!(matches!(upload.finish().await, Err(Error::NotFound)), "too late");
    assert!(matches!(bench.media.content(&created.mxc, Door::Authenticated).await, Err(Error::NotFound)));
    for address in ["mxc://example.org/never", "mxc://elsewhere.org/never"] {
        let begun = bench.media.begin_upload_to(&alice(), &mxc(address), Label::default(), None).await;
        assert!(matches!(begun, Err(Error::NotFound)), "{address}");
    }
}

#[tokio::test]
async fn cm2_pending_addresses_are_bounded() {
    let bench = Bench::with(|options| options.pending_max = 2, None).await;
    let first = bench.media.create(&alice()).await.unwrap();
    bench.media.create(&alice()).await.unwrap();
    assert!(matches!(bench.media.create(&alice()).await, Err(Error::TooManyPending)));
    bench.media.create(&BOB.into()).await.unwrap();
    let upload = bench.media.begin_upload_to(&alice(), &first.mxc, Label::default(), None).await.unwrap();
    upload.finish().await.unwrap();
    let last = bench.media.create(&alice()).await.unwrap();
    bench.clock.0.store(last.expires_ms, Ordering::Relaxed);
    bench.media.create(&alice()).await.unwrap();
    bench.media.create(&alice()).await.unwrap();
}

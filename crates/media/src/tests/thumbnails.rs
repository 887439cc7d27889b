//! Thumbnails through the whole store: kept ones, types, limits.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};
use store::Read;
use store::tables::media::ThumbnailRow;

use super::{Bench, alice, read};
use crate::upload::key;
use crate::{Asked, Content, Door, Error, Label, Method, Mxc};

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(width, height)).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

async fn thumbnail(bench: &Bench, mxc: &Mxc, width: u32, height: u32) -> Result<Content, Error> {
    let asked = Asked { width, height, method: Method::Scale, animated: false };
    bench.media.thumbnail(mxc, &asked, Door::Authenticated).await
}

async fn kept(bench: &Bench, mxc: &Mxc) -> usize {
    bench.store.all::<ThumbnailRow>(Read::prefix::<ThumbnailRow>(key(mxc))).await.unwrap().len()
}

#[tokio::test]
async fn cm8_a_thumbnail_is_made_once_and_kept() {
    let bench = Bench::new().await;
    let mxc = bench.upload("@alice:example.org", png(64, 32)).await.unwrap();
    let made = thumbnail(&bench, &mxc, 16, 8).await.unwrap();
    assert_eq!((made.content_type.as_str(), made.file_name.as_deref()), ("image/png", Some("thumbnail.png")));
    let made = read(made).await.unwrap();
    assert_eq!(image::load_from_memory(&made).unwrap().width(), 16);
    assert_eq!(kept(&bench, &mxc).await, 1);
    let again = thumbnail(&bench, &mxc, 16, 8).await.unwrap();
    assert!(matches!(again.source, crate::content::Source::Stored { table: "media_thumbnails", .. }));
    assert_eq!(read(again).await.unwrap(), made);
    assert_eq!((kept(&bench, &mxc).await, bench.files().len()), (1, 2));
}

#[tokio::test]
async fn cm8_only_so_many_thumbnails_are_kept() {
    let bench = Bench::with(|options| options.thumbnails_kept_max = 2, None).await;
    let mxc = bench.upload("@alice:example.org", png(64, 64)).await.unwrap();
    for size in 10..15 {
        let bytes = read(thumbnail(&bench, &mxc, size, size).await.unwrap()).await.unwrap();
        assert_eq!(image::load_from_memory(&bytes).unwrap().width(), size);
    }
    assert_eq!((kept(&bench, &mxc).await, bench.files().len()), (2, 3));
}

/// SEC-media-decoders.
#[tokio::test]
async fn cm8_the_type_is_that_of_the_bytes_not_the_declared_one() {
    let bench = Bench::new().await;
    let label = Label { content_type: Some("image/svg+xml".to_owned()), file_name: Some("x.svg".to_owned()) };
    let mut upload = bench.media.begin_upload(&alice(), label.clone(), None).await.unwrap();
    upload.push(png(8, 8).into()).await.unwrap();
    let image = upload.finish().await.unwrap();
    let original = thumbnail(&bench, &image, 100, 100).await.unwrap();
    assert_eq!(original.content_type, "image/png");
    assert_eq!(read(original).await.unwrap(), png(8, 8));
    let label = Label { content_type: Some("image/png".to_owned()), ..label };
    let mut upload = bench.media.begin_upload(&alice(), label, None).await.unwrap();
    upload.push("<svg xmlns='http://www.w3.org/2000/svg'/>".into()).await.unwrap();
    let drawing = upload.finish().await.unwrap();
    assert!(matches!(thumbnail(&bench, &drawing, 100, 100).await, Err(Error::NotThumbnailable)));
}

/// SEC-media-decoders.
#[tokio::test]
async fn cm8_limits() {
    let bench = Bench::with(|options| (options.pixels_max, options.image_bytes_max) = (1000, 10_000), None).await;
    let bomb = bench.upload("@alice:example.org", png(40, 30)).await.unwrap();
    assert!(matches!(thumbnail(&bench, &bomb, 10, 10).await, Err(Error::ImageTooLarge)));
    let mut padded = png(20, 20);
    padded.resize(10_001, 0);
    let padded = bench.upload("@alice:example.org", padded).await.unwrap();
    assert!(matches!(thumbnail(&bench, &padded, 10, 10).await, Err(Error::ImageTooLarge)));
    let good = bench.upload("@alice:example.org", png(20, 20)).await.unwrap();
    assert!(thumbnail(&bench, &good, 10, 10).await.is_ok());
    for (width, height) in [(0, 1), (1, 0), (0, 0)] {
        assert!(matches!(thumbnail(&bench, &good, width, height).await, Err(Error::BadSize)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cm8_the_same_thumbnail_is_made_once_for_all_who_ask() {
    let bench = Bench::new().await;
    let mxc = bench.upload("@alice:example.org", png(200, 200)).await.unwrap();
    let asked = Asked { width: 50, height: 50, method: Method::Crop, animated: false };
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (media, mxc) = (bench.media.clone(), mxc.clone());
            tokio::spawn(async move { media.thumbnail(&mxc, &asked, Door::Authenticated).await })
        })
        .collect();
    let mut fresh = 0;
    for answer in asking {
        let content = answer.await.unwrap().unwrap();
        fresh += usize::from(matches!(content.source, crate::content::Source::Memory(_)));
        assert_eq!(image::load_from_memory(&read(content).await.unwrap()).unwrap().width(), 50);
    }
    assert_eq!((fresh, kept(&bench, &mxc).await, bench.files().len()), (1, 1, 2));
}

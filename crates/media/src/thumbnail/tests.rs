//! Thumbnails of images that are made here.

#![expect(clippy::unwrap_used, reason = "tests")]

use image::{Delay, GenericImageView as _, Rgb, Rgba};

use super::*;

const PIXELS_MAX: u64 = 1_000_000;

fn asked(width: u32, height: u32, method: Method, animated: bool) -> Asked {
    Asked { width, height, method, animated }
}

fn scale(width: u32, height: u32) -> Asked {
    asked(width, height, Method::Scale, false)
}

fn thumbnail(file: &[u8], asked: &Asked) -> Result<Outcome, Error> {
    let header = header(Cursor::new(file), PIXELS_MAX)?;
    make(Cursor::new(file), &header, asked)
}

/// The thumbnail, which must be a new image of this type.
#[track_caller]
fn made(file: &[u8], asked: &Asked, expected_type: &str) -> DynamicImage {
    match thumbnail(file, asked).unwrap() {
        Outcome::Made(bytes, content_type) => {
            assert_eq!(content_type, expected_type);
            image::load_from_memory(&bytes).unwrap()
        }
        Outcome::Original(content_type) => panic!("the original ({content_type})"),
    }
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG chunk with its checksum.
fn chunk(kind: &[u8], contents: &[u8]) -> Vec<u8> {
    let body = [kind, contents].concat();
    let mut crc = u32::MAX;
    for byte in &body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    [&u32::try_from(contents.len()).unwrap().to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
}

/// The contents of a PNG file's only chunk of pixels.
fn pixels_of(png: &[u8]) -> Vec<u8> {
    let at = png.windows(4).position(|window| window == b"IDAT").unwrap();
    let length = u32::from_be_bytes(png[at - 4..at].try_into().unwrap());
    png[at + 4..at + 4 + usize::try_from(length).unwrap()].to_vec()
}

/// An animated PNG of frames of equal size.
fn animated_png(frames: &[DynamicImage]) -> Vec<u8> {
    let (width, height) = (frames[0].width().to_be_bytes(), frames[0].height().to_be_bytes());
    let files: Vec<Vec<u8>> = frames.iter().map(|frame| encoded(frame, ImageFormat::Png)).collect();
    // Signature and header.
    let mut bytes = files[0][..33].to_vec();
    let count = u32::try_from(frames.len()).unwrap().to_be_bytes();
    bytes.extend(chunk(b"acTL", &[&count[..], &[0; 4]].concat()));
    let mut sequence = 0_u32;
    let mut next = || {
        sequence += 1;
        (sequence - 1).to_be_bytes()
    };
    for (place, file) in files.iter().enumerate() {
        let control = [&next()[..], &width, &height, &[0; 8], &[0, 1, 0, 10, 0, 0]].concat();
        bytes.extend(chunk(b"fcTL", &control));
        if place == 0 {
            bytes.extend(chunk(b"IDAT", &pixels_of(file)));
        } else {
            bytes.extend(chunk(b"fdAT", &[&next()[..], &pixels_of(file)].concat()));
        }
    }
    bytes.extend(chunk(b"IEND", &[]));
    bytes
}

/// A RIFF chunk.
fn riff(kind: &[u8], contents: &[u8]) -> Vec<u8> {
    let padding: &[u8] = if contents.len() % 2 == 1 { &[0] } else { &[] };
    [kind, &u32::try_from(contents.len()).unwrap().to_le_bytes(), contents, padding].concat()
}

/// An animated WebP of frames of equal size.
fn animated_webp(frames: &[DynamicImage]) -> Vec<u8> {
    let three = |number: u32| number.to_le_bytes()[..3].to_vec();
    let size = [three(frames[0].width() - 1), three(frames[0].height() - 1)].concat();
    let mut body = b"WEBP".to_vec();
    body.extend(riff(b"VP8X", &[&[0b10, 0, 0, 0][..], &size].concat()));
    body.extend(riff(b"ANIM", &[0; 6]));
    for frame in frames {
        // After the headers of file and container, the image's own chunk follows.
        let image = encoded(frame, ImageFormat::WebP)[12..].to_vec();
        body.extend(riff(b"ANMF", &[&[0; 6][..], &size, &three(100), &[0], &image].concat()));
    }
    riff(b"RIFF", &body)
}

/// Red on the left, blue on the right.
fn two_halves(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }).into()
}

fn is_red(image: &DynamicImage, x: u32, y: u32) -> bool {
    let [red, _, blue, _] = image.get_pixel(x, y).0;
    red > 200 && blue < 60
}

/// Adds an EXIF segment with this orientation to a JPEG file.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat()
}

fn gif(width: u16, height: u16, frames: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.set_repeat(Repeat::Infinite).unwrap();
    for frame in 0..frames {
        let image = RgbaImage::from_pixel(width.into(), height.into(), Rgba([frame * 80, 10, 10, 255]));
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(70, 1))).unwrap();
    }
    drop(encoder);
    bytes
}

fn frames_of(gif: &[u8]) -> Vec<Frame> {
    GifDecoder::new(Cursor::new(gif)).unwrap().into_frames().collect_frames().unwrap()
}

#[test]
fn cm8_every_format_gives_png_or_jpeg() {
    let opaque = two_halves(200, 100);
    for (format, content_type) in [
        (ImageFormat::Jpeg, "image/jpeg"),
        (ImageFormat::Png, "image/png"),
        (ImageFormat::Bmp, "image/png"),
        (ImageFormat::WebP, "image/jpeg"),
    ] {
        let small = made(&encoded(&opaque, format), &scale(50, 10), content_type);
        assert_eq!((small.width(), small.height()), (50, 25), "{format:?}");
        assert!(is_red(&small, 5, 12) && !is_red(&small, 45, 12), "{format:?}");
    }
    let transparent = DynamicImage::from(RgbaImage::from_pixel(100, 100, Rgba([9, 200, 9, 100])));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let small = made(&encoded(&transparent, format), &scale(10, 10), "image/png");
        let [_, green, _, alpha] = small.get_pixel(5, 5).0;
        assert!(green.abs_diff(200) < 3 && alpha == 100, "{format:?}");
    }
}

#[test]
fn cm8_crop_keeps_the_aspect_and_takes_the_middle() {
    let mut wide = two_halves(300, 100).into_rgb8();
    for (x, _, pixel) in wide.enumerate_pixels_mut() {
        if !(100..200).contains(&x) {
            *pixel = Rgb([0, 255, 0]);
        }
    }
    let file = encoded(&wide.into(), ImageFormat::Png);
    let small = made(&file, &asked(50, 50, Method::Crop, false), "image/png");
    assert_eq!((small.width(), small.height()), (50, 50));
    assert!(is_red(&small, 10, 25) && !is_red(&small, 40, 25));
    assert!(small.to_rgb8().pixels().all(|pixel| pixel.0[1] < 128), "the sides were cut off");
}

#[test]
fn cm8_the_original_where_it_is_smaller() {
    let image = two_halves(60, 40);
    for (format, content_type) in
        [(ImageFormat::Jpeg, "image/jpeg"), (ImageFormat::Png, "image/png"), (ImageFormat::WebP, "image/webp")]
    {
        let file = encoded(&image, format);
        for asked in [scale(60, 40), scale(100, 10), asked(10, 41, Method::Crop, false), scale(u32::MAX, u32::MAX)] {
            let outcome = thumbnail(&file, &asked).unwrap();
            assert!(matches!(outcome, Outcome::Original(found) if found == content_type), "{format:?} {asked:?}");
        }
    }
    // A bitmap is no type of a thumbnail: it keeps its size, but becomes PNG.
    let small = made(&encoded(&image, ImageFormat::Bmp), &scale(100, 100), "image/png");
    assert_eq!((small.width(), small.height()), (60, 40));
}

#[test]
fn cm8_exif_orientation_is_applied_and_metadata_dropped() {
    let plain = encoded(&two_halves(160, 80), ImageFormat::Jpeg);
    // Where the red half ends up: (orientation, thumbnail asked, a point in it, a point opposite).
    for (orientation, size, red, blue) in [
        (1, (40, 20), (5, 10), (35, 10)),
        (2, (40, 20), (35, 10), (5, 10)),
        (3, (40, 20), (35, 10), (5, 10)),
        (4, (40, 20), (5, 10), (35, 10)),
        (5, (20, 40), (10, 5), (10, 35)),
        (6, (20, 40), (10, 5), (10, 35)),
        (7, (20, 40), (10, 35), (10, 5)),
        (8, (20, 40), (10, 35), (10, 5)),
    ] {
        let file = with_orientation(&plain, orientation);
        for method in [Method::Scale, Method::Crop] {
            let Outcome::Made(bytes, "image/jpeg") = thumbnail(&file, &asked(size.0, size.1, method, false)).unwrap()
            else {
                panic!("no JPEG for orientation {orientation}");
            };
            assert!(!bytes.windows(4).any(|window| window == b"Exif"));
            let small = image::load_from_memory(&bytes).unwrap();
            assert_eq!((small.width(), small.height()), size, "{orientation}");
            assert!(is_red(&small, red.0, red.1) && !is_red(&small, blue.0, blue.1), "{orientation}");
        }
    }
}

#[test]
fn cm8_bombs_are_refused_by_pixel_count() {
    // A few bytes that claim the largest canvas.
    let mut bomb = gif(1, 1, 1);
    bomb[6..10].fill(0xFF);
    assert!(matches!(header(Cursor::new(&bomb), 32_000_000), Err(Error::ImageTooLarge)));
    let large = DynamicImage::new_luma8(1001, 1000);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
        let file = encoded(&large.to_rgb8().into(), format);
        assert!(matches!(header(Cursor::new(&file), PIXELS_MAX), Err(Error::ImageTooLarge)), "{format:?}");
    }
    let largest = encoded(&DynamicImage::new_luma8(1000, 1000), ImageFormat::Png);
    assert!(thumbnail(&largest, &scale(10, 10)).is_ok());
}

#[test]
fn cm8_what_is_no_image_has_no_thumbnail() {
    let png = encoded(&two_halves(200, 100), ImageFormat::Png);
    let svg = b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1\" height=\"1\"/>".as_slice();
    for file in [b"".as_slice(), b"x", b"plain text, long enough for any format", svg, b"%PDF-1.7 ", &png[..20], b"BM"]
    {
        assert!(matches!(thumbnail(file, &scale(10, 10)), Err(Error::NotThumbnailable)), "{file:?}");
    }
    assert!(matches!(thumbnail(&png[..png.len() / 2], &scale(10, 10)), Err(Error::NotThumbnailable)));
}

#[test]
fn cm9_static_unless_asked() {
    let file = gif(64, 64, 3);
    let small = made(&file, &scale(32, 32), "image/png");
    assert_eq!((small.width(), small.height()), (32, 32));
    // Also where the original is small enough to be returned: that one moves.
    let still = made(&file, &scale(64, 64), "image/png");
    assert_eq!((still.width(), still.height()), (64, 64));
    assert_eq!(still.get_pixel(0, 0).0[0], 0, "the first frame");
    let outcome = thumbnail(&gif(64, 64, 1), &scale(64, 64)).unwrap();
    assert!(matches!(outcome, Outcome::Original("image/gif")), "one frame does not move");
}

#[test]
fn cm9_animated_where_the_source_is() {
    let file = gif(64, 64, 3);
    let Outcome::Made(small, "image/gif") = thumbnail(&file, &asked(32, 32, Method::Crop, true)).unwrap() else {
        panic!("no GIF");
    };
    let frames = frames_of(&small);
    assert_eq!(frames.len(), 3);
    for (place, frame) in frames.iter().enumerate() {
        assert_eq!(frame.buffer().dimensions(), (32, 32));
        assert_eq!(frame.delay().numer_denom_ms(), (70, 1));
        assert!(frame.buffer().get_pixel(9, 9).0[0].abs_diff(u8::try_from(place).unwrap() * 80) < 12);
    }
    let outcome = thumbnail(&file, &asked(64, 64, Method::Crop, true)).unwrap();
    assert!(matches!(outcome, Outcome::Original("image/gif")));
    let photograph = encoded(&two_halves(64, 64), ImageFormat::Jpeg);
    made(&photograph, &asked(32, 32, Method::Crop, true), "image/jpeg");
}

#[test]
fn cm9_every_animated_format() {
    let blue = RgbImage::from_pixel(40, 20, Rgb([0, 0, 255]));
    let frames = [two_halves(40, 20), blue.into()];
    for (file, original) in [(animated_png(&frames), "image/png"), (animated_webp(&frames), "image/webp")] {
        let Outcome::Made(small, "image/gif") = thumbnail(&file, &asked(20, 10, Method::Scale, true)).unwrap() else {
            panic!("{original}: no GIF");
        };
        let small: Vec<DynamicImage> = frames_of(&small).into_iter().map(|frame| frame.into_buffer().into()).collect();
        assert_eq!(small.len(), 2, "{original}");
        assert!(is_red(&small[0], 3, 5) && !is_red(&small[0], 17, 5), "{original}");
        assert!(!is_red(&small[1], 3, 5), "{original}");
        for size in [(20, 10), (40, 20), (80, 80)] {
            let Outcome::Made(still, _) = thumbnail(&file, &scale(size.0, size.1)).unwrap() else {
                panic!("{original}: moves");
            };
            assert!(frames_are_one(&still), "{original} {size:?}");
            assert!(is_red(&image::load_from_memory(&still).unwrap(), 3, 5), "{original} {size:?}");
        }
        let outcome = thumbnail(&file, &asked(40, 20, Method::Scale, true)).unwrap();
        assert!(matches!(outcome, Outcome::Original(found) if found == original));
    }
}

/// Whether a file of a thumbnail is of a format that does not move.
fn frames_are_one(file: &[u8]) -> bool {
    match image::guess_format(file).unwrap() {
        ImageFormat::Jpeg => true,
        ImageFormat::Png => !PngDecoder::new(Cursor::new(file)).unwrap().is_apng().unwrap(),
        _ => false,
    }
}

#[test]
fn cm8_damaged_images_do_no_harm() {
    let image = two_halves(24, 16);
    let formats = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif];
    let mut files: Vec<Vec<u8>> = formats.iter().map(|format| encoded(&image, *format)).collect();
    files.push(animated_png(&[image.clone(), image.clone()]));
    files.push(animated_webp(&[image.clone(), image]));
    let mut seed = 1_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for round in 0..400 {
        for file in &files {
            let mut damaged = file.clone();
            for _ in 0..=next(4) {
                let place = next(damaged.len());
                damaged[place] = next(256).to_le_bytes()[0];
            }
            damaged.truncate(damaged.len() - if round % 4 == 0 { next(damaged.len()) } else { 0 });
            // Whatever comes of it, it comes to an end without a panic and within the limits.
            let asked = asked(8, 8, Method::Crop, round % 2 == 0);
            if let Ok(Outcome::Made(bytes, _)) = thumbnail(&damaged, &asked) {
                assert!(image::load_from_memory(&bytes).is_ok());
            }
        }
    }
}

#[test]
fn cm8_a_jpeg_of_thousands_of_scans_is_refused() {
    let mut file = encoded(&two_halves(24, 16), ImageFormat::Jpeg);
    file.extend([0xFF, 0xDA].repeat(SCANS_MAX - 1));
    assert!(header(Cursor::new(&file), PIXELS_MAX).is_ok());
    file.extend([0xFF, 0xDA]);
    assert!(matches!(header(Cursor::new(&file), PIXELS_MAX), Err(Error::NotThumbnailable)));
}

#[test]
fn cm9_too_many_frames_give_a_static_thumbnail() {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
    for _ in 0..=FRAMES_MAX {
        encoder.encode_frame(Frame::new(RgbaImage::new(4, 4))).unwrap();
    }
    drop(encoder);
    made(&bytes, &asked(2, 2, Method::Scale, true), "image/png");
}

/// Pixels of images that are not decoded whole.
const LARGE_PIXELS_MAX: u64 = 32_000_000;

/// Colors that change from side to side, so that each thumbnail of it can be compared.
fn large(width: u32, height: u32) -> DynamicImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let part = |at: u32, size: u32| u8::try_from(at * 255 / size).unwrap();
        image::Rgba([part(x, width), part(y, height), 40, 255])
    })
    .into()
}

#[test]
fn cm8_large_images_become_what_they_would_if_decoded_whole() {
    let (width, height) = (3_003, 2_001);
    let image = large(width, height);
    let rgb = DynamicImage::from(image.to_rgb8());
    let sixteen = DynamicImage::from(image.to_rgba16());
    let gray = DynamicImage::from(image.to_luma_alpha16());
    for (name, file, opaque) in [
        ("jpeg", encoded(&rgb, ImageFormat::Jpeg), true),
        ("png", encoded(&rgb, ImageFormat::Png), true),
        ("png with alpha", encoded(&image, ImageFormat::Png), false),
        ("png of 16 bits", encoded(&sixteen, ImageFormat::Png), false),
        ("gray png", encoded(&gray, ImageFormat::Png), false),
    ] {
        let header = header(Cursor::new(&file), LARGE_PIXELS_MAX).unwrap();
        let decoded = image::load_from_memory(&file).unwrap();
        for (asked, size) in [(scale(300, 100), (300, 200)), (asked(96, 96, Method::Crop, false), (96, 96))] {
            let target = geometry::target(header.seen_size(), &asked);
            let plan = header.plan(target.as_ref()).unwrap();
            assert!(plan.factor > 1 && plan.bytes < WHOLE_BYTES_MAX, "{name}: {plan:?}");
            let Outcome::Made(bytes, _) = make(Cursor::new(&file), &header, &asked).unwrap() else { panic!("{name}") };
            let small = image::load_from_memory(&bytes).unwrap();
            assert_eq!((small.width(), small.height()), size, "{name}");
            assert_eq!(small.color().has_alpha(), !opaque, "{name}");
            let whole = shrink(decoded.clone(), header.orientation, target.as_ref()).unwrap();
            let (small, whole) = (small.to_rgba8(), whole.to_rgba8());
            let farthest = small.iter().zip(whole.iter()).map(|(one, other)| one.abs_diff(*other)).max();
            assert!(farthest < Some(8), "{name}: {farthest:?}");
        }
    }
}

#[test]
fn cm8_what_is_transparent_lends_no_color_to_what_is_not() {
    let image = RgbaImage::from_fn(3_000, 2_000, |x, _| {
        if x % 2 == 0 { image::Rgba([255, 0, 0, 255]) } else { image::Rgba([0, 255, 0, 0]) }
    });
    let file = encoded(&image.into(), ImageFormat::Png);
    let header = header(Cursor::new(&file), LARGE_PIXELS_MAX).unwrap();
    let Outcome::Made(bytes, _) = make(Cursor::new(&file), &header, &scale(30, 20)).unwrap() else {
        panic!("not made")
    };
    let small = image::load_from_memory(&bytes).unwrap().to_rgba8();
    let pixel = *small.get_pixel(15, 10);
    assert!(pixel.0[0] > 250 && pixel.0[1] < 5 && pixel.0[3].abs_diff(128) < 3, "{pixel:?}");
}

/// SEC-media-decoders: what needs more memory than all decoders have is not decoded.
#[test]
fn cm8_what_needs_too_much_memory_is_refused_before_it_is_decoded() {
    let of = |format: ImageFormat, bytes_per_pixel: u64, in_one_pass: bool| Header {
        format,
        width: 5_000,
        height: 4_000,
        orientation: Orientation::NoTransforms,
        bytes_per_pixel,
        bytes_besides: 0,
        in_one_pass,
    };
    let small = scale(320, 240);
    for (name, header, fits) in [
        ("a photograph", of(ImageFormat::Jpeg, 3, true), true),
        ("one in several scans", of(ImageFormat::Jpeg, 9, false), false),
        ("a screenshot", of(ImageFormat::Png, 3, true), true),
        ("one of 16 bits", of(ImageFormat::Png, 12, true), true),
        ("one in several passes", of(ImageFormat::Png, 3, false), false),
        ("an animation", of(ImageFormat::Gif, ANIMATED_BYTES_PER_PIXEL, false), false),
        ("a bitmap", of(ImageFormat::Bmp, 3, false), false),
    ] {
        let cost = header.cost_bytes(&small);
        assert_eq!(cost.is_ok(), fits, "{name}: {cost:?}");
        assert!(cost.is_ok_and(|bytes| bytes <= DECODE_BYTES_MAX / 4) || !fits, "{name}");
    }
    let moving = Header { width: 1_000, height: 1_000, ..of(ImageFormat::Png, 4, true) };
    let asked = asked(100, 100, Method::Scale, true);
    assert_eq!(moving.cost_bytes(&asked).unwrap(), 1_000_000 * ANIMATED_BYTES_PER_PIXEL);
}

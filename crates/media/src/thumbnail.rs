//! Thumbnails: what size to make, and making it. All of it blocks and is bounded before anything is decoded.
//!
//! The format is decided by the file's first bytes, never by the declared type, among a few that are decoded in safe
//! Rust. Width, height and the memory that decoding needs are read from the header and compared with the limits; then
//! the pixels are decoded, resized, turned as the EXIF orientation says and encoded anew, so no metadata survives.

mod geometry;
mod reduced;

use std::io::{BufRead, Cursor, Read as _, Seek, SeekFrom};

use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, ResizeOptions, Resizer};
use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{PngDecoder, PngEncoder};
use image::codecs::webp::WebPDecoder;
use image::metadata::{LoopCount, Orientation};
use image::{
    AnimationDecoder, ColorType, DynamicImage, Frame, Frames, ImageDecoder as _, ImageError, ImageFormat, ImageReader,
    Limits, RgbImage, RgbaImage,
};

use self::geometry::Target;
pub use self::geometry::{Asked, Method};
use crate::Error;

/// Quality of JPEG thumbnails, of 100.
const JPEG_QUALITY: u8 = 85;

/// Speed of the palette search for GIF thumbnails, from 1 (best) to 30 (fastest).
const GIF_SPEED: i32 = 20;

/// Most frames of an animated thumbnail; what has more gets a static one.
const FRAMES_MAX: u64 = 250;

/// Most pixels of all frames of an animated thumbnail's original together; what has more gets a static one.
const ANIMATION_PIXELS_MAX: u64 = 200_000_000;

/// Most scans of a JPEG file. Photographs have one or about ten; thousands would each be decoded over the whole image.
const SCANS_MAX: usize = 200;

/// Memory for what stands in a file before its pixels, such as compressed color profiles.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most bytes that all decoders together may need. What needs more by itself is refused.
pub(crate) const DECODE_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// What needs no more is decoded whole; of what needs more, a smaller image is made while it is read, where that is possible.
const WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes per pixel of the image that is made while reading: colors as they are added up, and as they are in the end.
const REDUCED_BYTES_PER_PIXEL: u64 = 8;

/// Bytes per pixel for an animation: its canvas, a frame of it, and the frame as it is resized.
const ANIMATED_BYTES_PER_PIXEL: u64 = 12;

/// Bytes per pixel for a JPEG file that comes in several scans: all that was read of each channel.
const SCANS_BYTES_PER_PIXEL: u64 = 6;

/// Bytes of a file's beginning by which its format is told.
const MAGIC_BYTES: u64 = 32;

/// Where a PNG file says whether it comes in several passes.
const PNG_PASSES_AT: usize = 28;

/// An image as its header describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    format: ImageFormat,
    /// Size as stored, before the orientation is applied.
    width: u32,
    height: u32,
    orientation: Orientation,
    /// What decoding it whole needs.
    bytes_per_pixel: u64,
    /// What decoding it whole needs besides.
    bytes_besides: u64,
    /// Whether its rows come one after the other.
    in_one_pass: bool,
}

/// How an image is decoded, and what that needs at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// So many pixels in each direction become one; 1: it is decoded whole.
    factor: u32,
    bytes: u64,
}

/// What there is to serve.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The original as it is, under this content type.
    Original(&'static str),
    /// A thumbnail that was made, and its content type.
    Made(Vec<u8>, &'static str),
}

/// A file or what stands for it.
pub(crate) trait Input: BufRead + Seek {}

impl<I: BufRead + Seek> Input for I {}

/// Reads the header of an image.
///
/// # Errors
/// [`Error::NotThumbnailable`] if it is none; [`Error::ImageTooLarge`] if it has more than `pixels_max` pixels.
pub(crate) fn header(mut input: impl Input, pixels_max: u64) -> Result<Header, Error> {
    let (format, magic) = format(&mut input)?;
    let header = if format == ImageFormat::Jpeg {
        check_scans(&mut input)?;
        reduced::jpeg_header(input)?
    } else {
        let mut reader = ImageReader::with_format(input, format);
        reader.limits(limits(HEADER_BYTES_MAX));
        let mut decoder = reader.into_decoder().map_err(refused)?;
        let (width, height) = decoder.dimensions();
        let color = decoder.color_type();
        let pixel = u64::from(color.bytes_per_pixel());
        let as_needed = if color.has_alpha() { 4 } else { 3 };
        let bytes_per_pixel = match format {
            ImageFormat::Gif => ANIMATED_BYTES_PER_PIXEL,
            // Its planes of light and color, or what its lossless form refers back to.
            ImageFormat::WebP => pixel + 6,
            _ if matches!(color, ColorType::Rgb8 | ColorType::Rgba8) => pixel,
            _ => pixel + as_needed,
        };
        Header {
            format,
            width,
            height,
            orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
            bytes_per_pixel,
            bytes_besides: 0,
            in_one_pass: format == ImageFormat::Png && magic.get(PNG_PASSES_AT) == Some(&0),
        }
    };
    if header.width == 0 || header.height == 0 {
        return Err(Error::NotThumbnailable);
    }
    if header.pixels() > pixels_max { Err(Error::ImageTooLarge) } else { Ok(header) }
}

impl Header {
    /// Bytes that making a thumbnail may need at most, for the budget that all decoders share.
    ///
    /// # Errors
    /// [`Error::ImageTooLarge`] if it is more than they have.
    pub(crate) fn cost_bytes(&self, asked: &Asked) -> Result<u64, Error> {
        let target = geometry::target(self.seen_size(), asked);
        if target.is_none() && safe_type(self.format).is_some() && (asked.animated || self.format != ImageFormat::Gif) {
            // The original as it is; or if it moves and should not, a picture of its size, for which there may be no room.
            return Ok(self.plan(None).map_or(0, |plan| plan.bytes));
        }
        let still = self.plan(target.as_ref())?;
        let moving = if asked.animated && self.may_move() { self.pixels() * ANIMATED_BYTES_PER_PIXEL } else { 0 };
        Ok(still.bytes.max(moving))
    }

    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Whether there is room to decode all its frames.
    fn may_move(&self) -> bool {
        self.pixels() * ANIMATED_BYTES_PER_PIXEL <= DECODE_BYTES_MAX
    }

    /// How to decode it for a target.
    fn plan(&self, target: Option<&Target>) -> Result<Plan, Error> {
        let whole = Plan { factor: 1, bytes: self.pixels() * self.bytes_per_pixel + self.bytes_besides };
        if whole.bytes <= WHOLE_BYTES_MAX {
            return Ok(whole);
        }
        let target = target.map(|target| if turns_axes(self.orientation) { target.turned() } else { *target });
        let factor =
            target.map_or(1, |target| (self.width / target.width.max(1)).min(self.height / target.height.max(1)));
        let reducible = match self.format {
            ImageFormat::Png => self.in_one_pass,
            ImageFormat::Jpeg => true,
            _ => false,
        };
        if reducible && factor > 1 {
            let reduced = reduced::plan(self, factor);
            if reduced.bytes <= DECODE_BYTES_MAX {
                return Ok(reduced);
            }
        }
        if whole.bytes <= DECODE_BYTES_MAX { Ok(whole) } else { Err(Error::ImageTooLarge) }
    }

    /// The type under which an image of this format may be shown.
    pub(crate) fn content_type(&self) -> Option<&'static str> {
        safe_type(self.format)
    }

    /// Width and height as a viewer sees them.
    pub(crate) fn seen_size(&self) -> (u32, u32) {
        if turns_axes(self.orientation) { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// Makes the thumbnail that was asked for of the image that `header` describes.
///
/// # Errors
/// [`Error::NotThumbnailable`] if it does not decode; [`Error::ImageTooLarge`] if decoding needs too much memory.
pub(crate) fn make(mut input: impl Input, header: &Header, asked: &Asked) -> Result<Outcome, Error> {
    let target = geometry::target(header.seen_size(), asked);
    let safe_type = safe_type(header.format);
    if let Some(content_type) = safe_type
        && target.is_none()
        && asked.animated
    {
        return Ok(Outcome::Original(content_type));
    }
    let animated = is_animated(&mut input, header)?;
    if target.is_none()
        && !animated
        && let Some(content_type) = safe_type
    {
        return Ok(Outcome::Original(content_type));
    }
    let plan = header.plan(target.as_ref())?;
    if animated
        && asked.animated
        && header.may_move()
        && let Some(gif) = animate(&mut input, header, target.as_ref())?
    {
        return Ok(Outcome::Made(gif, "image/gif"));
    }
    let image = if plan.factor > 1 { reduced::decode(&mut input, header, plan)? } else { decode(&mut input, header)? };
    let image = shrink(image, header.orientation, target.as_ref())?;
    encode(&image, header.format)
}

/// The format, and the bytes that it was told by.
fn format(input: &mut impl Input) -> Result<(ImageFormat, Vec<u8>), Error> {
    let mut magic = Vec::new();
    input.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
    input.seek(SeekFrom::Start(0))?;
    match image::guess_format(&magic) {
        Ok(
            format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Gif | ImageFormat::WebP | ImageFormat::Bmp),
        ) => Ok((format, magic)),
        _ => Err(Error::NotThumbnailable),
    }
}

/// Refuses a JPEG file with too many scans. Their marker stands nowhere in compressed data; a preview inside of the
/// metadata may add some, which is why the limit is generous.
fn check_scans(input: &mut impl Input) -> Result<(), Error> {
    let (mut scans, mut after_ff) = (0, false);
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        for byte in buffer {
            scans += usize::from(after_ff && *byte == 0xDA);
            after_ff = *byte == 0xFF;
        }
        let length = buffer.len();
        input.consume(length);
    }
    input.seek(SeekFrom::Start(0))?;
    if scans > SCANS_MAX { Err(Error::NotThumbnailable) } else { Ok(()) }
}

/// The type under which an original of this format may be served as a thumbnail.
fn safe_type(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("image/jpeg"),
        ImageFormat::Png => Some("image/png"),
        ImageFormat::Gif => Some("image/gif"),
        ImageFormat::WebP => Some("image/webp"),
        _ => None,
    }
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}

fn refused(error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::ImageTooLarge,
        _ => Error::NotThumbnailable,
    }
}

fn turns_axes(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

fn is_animated(input: &mut impl Input, header: &Header) -> Result<bool, Error> {
    input.seek(SeekFrom::Start(0))?;
    match header.format {
        ImageFormat::Png => PngDecoder::with_limits(input, limits(DECODE_BYTES_MAX))
            .and_then(|decoder| decoder.is_apng())
            .map_err(refused),
        ImageFormat::WebP => WebPDecoder::new(input).map(|decoder| decoder.has_animation()).map_err(refused),
        // Only a second frame tells.
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(input).map_err(refused)?;
            decoder.set_limits(limits(DECODE_BYTES_MAX)).map_err(refused)?;
            Ok(decoder.into_frames().take(2).filter(Result::is_ok).count() == 2)
        }
        _ => Ok(false),
    }
}

fn decode(input: &mut impl Input, header: &Header) -> Result<DynamicImage, Error> {
    input.seek(SeekFrom::Start(0))?;
    let mut reader = ImageReader::with_format(input, header.format);
    reader.limits(limits(DECODE_BYTES_MAX));
    reader.decode().map_err(refused)
}

/// Resizes to the target, if there is one, and applies the orientation.
fn shrink(image: DynamicImage, orientation: Orientation, target: Option<&Target>) -> Result<DynamicImage, Error> {
    let mut image = match target {
        // It is cheaper to turn the small image than the large one, so the target is turned back instead.
        Some(target) if turns_axes(orientation) => resize(image, &target.turned())?,
        Some(target) => resize(image, target)?,
        None => image,
    };
    image.apply_orientation(orientation);
    Ok(image)
}

fn resize(image: DynamicImage, target: &Target) -> Result<DynamicImage, Error> {
    let (width, height) = (image.width(), image.height());
    let alpha = image.color().has_alpha();
    let (pixels, pixel_type) = if alpha {
        (image.into_rgba8().into_raw(), PixelType::U8x4)
    } else {
        (image.into_rgb8().into_raw(), PixelType::U8x3)
    };
    let source = Image::from_vec_u8(width, height, pixels, pixel_type).map_err(|_| Error::NotThumbnailable)?;
    let mut small = Image::new(target.width, target.height, pixel_type);
    let options =
        if target.crop { ResizeOptions::new().fit_into_destination(Some((0.5, 0.5))) } else { ResizeOptions::new() };
    Resizer::new().resize(&source, &mut small, &options).map_err(|_| Error::NotThumbnailable)?;
    let pixels = small.into_vec();
    let image = if alpha {
        RgbaImage::from_raw(target.width, target.height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(target.width, target.height, pixels).map(DynamicImage::from)
    };
    image.ok_or(Error::NotThumbnailable)
}

/// Photographs become JPEG, drawings and what is transparent PNG.
fn encode(image: &DynamicImage, format: ImageFormat) -> Result<Outcome, Error> {
    let mut bytes = Cursor::new(Vec::new());
    let photograph = matches!(format, ImageFormat::Jpeg | ImageFormat::WebP);
    if photograph && !image.color().has_alpha() {
        let image = image.to_rgb8();
        image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)).map_err(refused)?;
        return Ok(Outcome::Made(bytes.into_inner(), "image/jpeg"));
    }
    let image = if image.color().has_alpha() {
        DynamicImage::from(image.to_rgba8())
    } else {
        DynamicImage::from(image.to_rgb8())
    };
    image.write_with_encoder(PngEncoder::new(&mut bytes)).map_err(refused)?;
    Ok(Outcome::Made(bytes.into_inner(), "image/png"))
}

/// An animated GIF of all frames; `None` if there are too many of them or one is damaged.
fn animate(input: &mut impl Input, header: &Header, target: Option<&Target>) -> Result<Option<Vec<u8>>, Error> {
    input.seek(SeekFrom::Start(0))?;
    let limits = limits(DECODE_BYTES_MAX);
    let (frames, loops) = match header.format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(input).map_err(refused)?;
            decoder.set_limits(limits).map_err(refused)?;
            looping(decoder)
        }
        ImageFormat::Png => {
            looping(PngDecoder::with_limits(input, limits).and_then(PngDecoder::apng).map_err(refused)?)
        }
        ImageFormat::WebP => looping(WebPDecoder::new(input).map_err(refused)?),
        _ => return Ok(None),
    };
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut gif, GIF_SPEED);
    encoder.set_repeat(loops).map_err(refused)?;
    let frames_max = FRAMES_MAX.min(ANIMATION_PIXELS_MAX / (u64::from(header.width) * u64::from(header.height)));
    for (place, frame) in (0..).zip(frames) {
        let Ok(frame) = frame else { return Ok(None) };
        if place >= frames_max {
            return Ok(None);
        }
        let delay = frame.delay();
        let image = shrink(frame.into_buffer().into(), header.orientation, target)?;
        encoder.encode_frame(Frame::from_parts(image.into_rgba8(), 0, 0, delay)).map_err(refused)?;
    }
    drop(encoder);
    Ok(Some(gif))
}

fn looping<'a>(decoder: impl AnimationDecoder<'a>) -> (Frames<'a>, Repeat) {
    let loops = match decoder.loop_count() {
        LoopCount::Infinite => Repeat::Infinite,
        LoopCount::Finite(count) => Repeat::Finite(u16::try_from(count.get()).unwrap_or(u16::MAX)),
    };
    (decoder.into_frames(), loops)
}

#[cfg(test)]
mod tests;

//! Large images, made smaller while they are read, so that all of one is never in memory: rows of PNG are added up as they
//! come, and JPEG is decoded at an eighth to a half of its size.

use std::io::SeekFrom;

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use jpeg_decoder::{CodingProcess, PixelFormat};

use super::{DECODE_BYTES_MAX, HEADER_BYTES_MAX, Header, Input, Plan, REDUCED_BYTES_PER_PIXEL, SCANS_BYTES_PER_PIXEL};
use crate::Error;

/// JPEG is decoded at an eighth of its size at least.
const JPEG_FACTOR_MAX: u32 = 8;

/// Reads the header of a JPEG file without the rest of it.
pub(super) fn jpeg_header(mut input: impl Input) -> Result<Header, Error> {
    let size = input.seek(SeekFrom::End(0))?;
    input.seek(SeekFrom::Start(0))?;
    let mut decoder = jpeg_decoder::Decoder::new(&mut input);
    decoder.read_info().map_err(|_| Error::NotThumbnailable)?;
    let info = decoder.info().ok_or(Error::NotThumbnailable)?;
    let orientation = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    let scans = if info.coding_process == CodingProcess::DctProgressive { SCANS_BYTES_PER_PIXEL } else { 0 };
    // What is not three channels of a byte is converted.
    let pixel = if info.pixel_format == PixelFormat::RGB24 { 3 } else { 7 };
    Ok(Header {
        format: ImageFormat::Jpeg,
        width: info.width.into(),
        height: info.height.into(),
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
        bytes_per_pixel: pixel + scans,
        // Decoded whole, the file is in memory beside its pixels.
        bytes_besides: size,
        in_one_pass: scans == 0,
    })
}

/// What is needed to decode an image made smaller by a factor.
pub(super) fn plan(header: &Header, factor: u32) -> Plan {
    let jpeg = header.format == ImageFormat::Jpeg;
    let factor = if jpeg { 1 << factor.min(JPEG_FACTOR_MAX).ilog2() } else { factor };
    let (width, height) = (header.width.div_ceil(factor), header.height.div_ceil(factor));
    let reduced = u64::from(width) * u64::from(height) * REDUCED_BYTES_PER_PIXEL;
    // Beside it: sums of one row, and two rows as they are read; or what has been read of each scan.
    let rows = u64::from(width) * 40 + u64::from(header.width) * 32;
    let scans = if jpeg && !header.in_one_pass { header.pixels() * SCANS_BYTES_PER_PIXEL } else { 0 };
    Plan { factor, bytes: reduced + rows + scans }
}

/// Decodes an image made smaller as planned.
pub(super) fn decode(input: &mut impl Input, header: &Header, plan: Plan) -> Result<DynamicImage, Error> {
    input.seek(SeekFrom::Start(0))?;
    match header.format {
        ImageFormat::Jpeg => jpeg(input, header, plan.factor),
        _ => png(input, header, plan.factor),
    }
}

fn jpeg(input: &mut impl Input, header: &Header, factor: u32) -> Result<DynamicImage, Error> {
    let mut decoder = jpeg_decoder::Decoder::new(input);
    decoder.set_max_decoding_buffer_size(usize::try_from(DECODE_BYTES_MAX).unwrap_or(usize::MAX));
    let least = |size: u32| u16::try_from(size.div_ceil(factor)).unwrap_or(u16::MAX);
    let scaled = decoder.scale(least(header.width), least(header.height)).map_err(|_| Error::NotThumbnailable)?;
    let (width, height) = (u32::from(scaled.0), u32::from(scaled.1));
    let pixels = decoder.decode().map_err(|_| Error::NotThumbnailable)?;
    let image = match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::RGB24) => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        Some(PixelFormat::L8) => image::GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        // Print colors and deep grays in such sizes are for no chat.
        _ => return Err(Error::ImageTooLarge),
    };
    image.ok_or(Error::NotThumbnailable)
}

fn png(input: &mut impl Input, header: &Header, factor: u32) -> Result<DynamicImage, Error> {
    let limits = png::Limits { bytes: usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX) };
    let mut decoder = png::Decoder::new_with_limits(input, limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|_| Error::NotThumbnailable)?;
    let (color, _) = reader.output_color_type();
    let mut sums = Sums::new(header.width, factor, color.samples());
    let (width, height) = (header.width.div_ceil(factor), header.height.div_ceil(factor));
    let mut pixels = Vec::with_capacity(width as usize * height as usize * sums.channels_out());
    for row in 1..=header.height {
        let data = reader.next_row().map_err(|_| Error::NotThumbnailable)?.ok_or(Error::NotThumbnailable)?;
        sums.add(data.data());
        if row % factor == 0 || row == header.height {
            sums.end(&mut pixels);
        }
    }
    let image = match sums.channels_out() {
        4 => RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    };
    image.ok_or(Error::NotThumbnailable)
}

/// Colors of some rows, added up for each pixel that becomes of them. What is transparent has no color.
struct Sums {
    factor: usize,
    /// Gray, gray with alpha, colors, colors with alpha.
    channels: usize,
    /// For each pixel: red, green and blue, weighted by alpha; alpha; and how many there were.
    sums: Vec<[u64; 5]>,
}

impl Sums {
    fn new(width: u32, factor: u32, channels: usize) -> Self {
        let sums = vec![[0; 5]; width.div_ceil(factor) as usize];
        Self { factor: factor as usize, channels, sums }
    }

    fn has_alpha(&self) -> bool {
        matches!(self.channels, 2 | 4)
    }

    fn channels_out(&self) -> usize {
        if self.has_alpha() { 4 } else { 3 }
    }

    fn add(&mut self, row: &[u8]) {
        let (channels, alpha) = (self.channels, self.has_alpha());
        for (pixels, sum) in row.chunks(self.factor * channels).zip(&mut self.sums) {
            for pixel in pixels.chunks_exact(channels) {
                let color = match *pixel {
                    [gray] | [gray, _] => [gray; 3],
                    [red, green, blue] | [red, green, blue, _] => [red, green, blue],
                    _ => continue,
                };
                let weight = if alpha { pixel.last().map_or(0, |alpha| u64::from(*alpha)) } else { 255 };
                let [red, green, blue, weights, count] = sum;
                *red += u64::from(color[0]) * weight;
                *green += u64::from(color[1]) * weight;
                *blue += u64::from(color[2]) * weight;
                *weights += weight;
                *count += 1;
            }
        }
    }

    /// Writes the row that has been added up, and begins the next.
    fn end(&mut self, pixels: &mut Vec<u8>) {
        let byte = |sum: u64, of: u64| u8::try_from((sum + of / 2).checked_div(of).unwrap_or(0)).unwrap_or(u8::MAX);
        let alpha = self.has_alpha();
        for [red, green, blue, weights, count] in &mut self.sums {
            pixels.extend([byte(*red, *weights), byte(*green, *weights), byte(*blue, *weights)]);
            if alpha {
                pixels.push(byte(*weights, *count));
            }
            [*red, *green, *blue, *weights, *count] = [0; 5];
        }
    }
}

//! Files that are made up: photographs, and images that are much more than they seem.

/// Bits of the fixed code of deflate (RFC 1951, section 3.2.6), written from the lowest on.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    count: u32,
}

impl Bits {
    /// A number, its lowest bit first.
    fn number(&mut self, value: u32, bits: u32) {
        self.pending |= value << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..1]);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// A code, its highest bit first.
    fn code(&mut self, code: u32, bits: u32) {
        for bit in (0..bits).rev() {
            self.number((code >> bit) & 1, 1);
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.number(0, 7);
        self.bytes
    }
}

/// So many zero bytes, packed: a thousandth of their size or less.
fn packed_zeros(count: u64) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.number(1, 1); // The last block,
    bits.number(1, 2); // in the fixed code:
    bits.code(0b0011_0000, 8); // a zero,
    let repeats = (count - 1) / 258;
    for _ in 0..repeats {
        bits.code(0b1100_0101, 8); // 258 bytes
        bits.code(0, 5); // as the last one,
    }
    for _ in 0..count - 1 - repeats * 258 {
        bits.code(0b0011_0000, 8); // and zeros,
    }
    bits.code(0, 7); // and the end.
    // The sum of zeros alone (RFC 1950): one, and their number.
    let sum = ((count % 65_521) << 16 | 1) as u32;
    [&[0x78, 0x01], &bits.end()[..], &sum.to_be_bytes()].concat()
}

/// Bytes as they are, in blocks.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = bytes.chunks(0xFFFF).count();
    for (n, block) in bytes.chunks(0xFFFF).enumerate() {
        let size = block.len() as u16;
        out.push(u8::from(n + 1 == blocks));
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(&(!size).to_le_bytes());
        out.extend_from_slice(block);
    }
    let (mut one, mut two) = (1_u32, 0_u32);
    for byte in bytes {
        one = (one + u32::from(*byte)) % 65_521;
        two = (two + one) % 65_521;
    }
    out.extend_from_slice(&(two << 16 | one).to_be_bytes());
    out
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { 0xEDB8_8320 ^ (sum >> 1) } else { sum >> 1 };
        }
    }
    !sum
}

fn png((width, height): (u32, u32), depth: u8, color: u8, pixels: &[u8]) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat();
    for (name, body) in [(b"IHDR", &head[..]), (b"IDAT", pixels), (b"IEND", &[])] {
        let named = [&name[..], body].concat();
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&named);
        out.extend_from_slice(&crc(&named).to_be_bytes());
    }
    out
}

/// A picture of many colors, as a camera would take it.
pub fn photograph(width: u32, height: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity((width as usize * 3 + 1) * height as usize);
    let mut grain = 1_u32;
    for y in 0..height {
        pixels.push(0);
        for x in 0..width {
            grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let shade = ((x ^ y) & 0x7F) as u8;
            pixels.extend_from_slice(&[shade, (x / 16) as u8, (grain >> 28) as u8 + 100]);
        }
    }
    png((width, height), 8, 2, &stored(&pixels))
}

/// A black picture of few bytes and many pixels, of eight bytes each.
pub fn packed_picture(width: u32, height: u32) -> Vec<u8> {
    let bytes = (u64::from(width) * 8 + 1) * u64::from(height);
    png((width, height), 16, 6, &packed_zeros(bytes))
}

/// A picture that says it is larger than any screen.
pub fn vast_picture() -> Vec<u8> {
    png((60_000, 60_000), 8, 6, &packed_zeros(60_001))
}

/// An animation of a large picture of which each frame changes one pixel.
pub fn restless_animation(side: u16, frames: usize) -> Vec<u8> {
    let size = [side.to_le_bytes(), side.to_le_bytes()].concat();
    let mut out = [b"GIF89a", &size[..], &[0x80, 0, 0, 0, 0, 0, 255, 255, 255]].concat();
    for n in 0..frames {
        out.extend_from_slice(&[0x21, 0xF9, 4, 4, 2, 0, 0, 0]);
        let place = ((n % usize::from(side)) as u16).to_le_bytes();
        out.extend_from_slice(&[&[0x2C], &place[..], &place, &[1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0]].concat());
    }
    out.push(0x3B);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_formats() {
        assert_eq!(crc(b"IEND"), 0xAE42_6082);
        assert_eq!(stored(b"abc").last_chunk::<4>(), Some(&0x024D_0127_u32.to_be_bytes()));
    }

    #[test]
    fn what_is_packed_is_small() {
        let picture = packed_picture(4_000, 4_000);
        assert!(picture.len() < 1 << 20, "{}", picture.len());
        assert_eq!(packed_zeros(1), [0x78, 1, 0x63, 0, 0, 0, 1, 0, 1]);
    }
}

//! The `Range` header (RFC 9110, section 14): one range of bytes, which is what players ask for.

use std::ops::Range;

/// Which part of the content to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no range was asked for, or one that may be ignored (several, or of unknown form).
    Whole,
    /// These bytes; never empty.
    Range(Range<u64>),
    /// A range that begins behind the end.
    Beyond,
}

/// Reads the header for content of `size` bytes.
pub(super) fn parse(header: &str, size: u64) -> Part {
    let Some((unit, range)) = header.split_once('=') else { return Part::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let range = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (None, Some(length)) if first.is_empty() => size.saturating_sub(length)..size,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Beyond } else { Part::Range(range) }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm12_ranges_are_read() {
        let check = |header, expected| assert_eq!(parse(header, 100), expected, "{header}");
        check("bytes=0-0", Part::Range(0..1));
        check("bytes=10-19", Part::Range(10..20));
        check("bytes=10-", Part::Range(10..100));
        check("bytes=-10", Part::Range(90..100));
        check("bytes=-1000", Part::Range(0..100));
        check("bytes=99-99999999999999999999999", Part::Range(99..100));
        check("Bytes= 0-1", Part::Range(0..2));
        check("bytes=100-", Part::Beyond);
        check("bytes=100-200", Part::Beyond);
        check("bytes=-0", Part::Beyond);
        for ignored in
            ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-1", "bytes=0-1,5-6", "lines=0-1", "bytes=+1-2"]
        {
            check(ignored, Part::Whole);
        }
        assert_eq!(parse("bytes=0-", 0), Part::Beyond);
    }
}

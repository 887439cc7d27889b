//! Which bytes are which characters: by a mark at the beginning, what the answer declares, what the page declares, or
//! what they look like, in this order (HTML, "Determining the character encoding").

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252, X_USER_DEFINED};

/// A declaration further down does not count.
const DECLARED_WITHIN_BYTES: usize = 4 * 1024;

/// The text of a page.
pub(crate) fn decode(bytes: &[u8], content_type: Option<&str>) -> String {
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        let rest = bytes.get(mark..).unwrap_or_default();
        return encoding.decode_without_bom_handling(rest).0.into_owned();
    }
    let by_answer = content_type.and_then(|text| named(text.as_bytes()));
    let encoding = by_answer.or_else(|| declared(bytes)).unwrap_or_else(|| guess(bytes));
    encoding.decode_without_bom_handling(bytes).0.into_owned()
}

/// What a page that is readable so far says in a `meta` element.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let mut rest = bytes.get(..DECLARED_WITHIN_BYTES).unwrap_or(bytes);
    while let Some(at) = position(rest, b"<meta") {
        rest = rest.get(at + 5..)?;
        let end = rest.iter().position(|byte| *byte == b'>').unwrap_or(rest.len());
        if let Some(encoding) = named(rest.get(..end)?) {
            // Whoever could read this far read no UTF-16.
            let odd = encoding == X_USER_DEFINED;
            return Some(if encoding.is_ascii_compatible() && !odd { encoding } else { UTF_8 });
        }
    }
    None
}

/// The encoding behind `charset=`, if it is one that is known.
fn named(text: &[u8]) -> Option<&'static Encoding> {
    let mut rest = text.get(position(text, b"charset")? + 7..)?.trim_ascii_start();
    rest = rest.strip_prefix(b"=")?.trim_ascii_start();
    rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b';' | b'/' | b'>');
    let end = rest.iter().position(ends).unwrap_or(rest.len());
    Encoding::for_label_no_replacement(rest.get(..end)?)
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    match std::str::from_utf8(bytes) {
        // A character that is cut off at the end is no mistake of the page.
        Err(error) if error.error_len().is_some() => WINDOWS_1252,
        _ => UTF_8,
    }
}

fn position(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm11_charsets_are_found() {
        let check = |bytes: &[u8], content_type: Option<&str>, expected: &str| {
            assert_eq!(decode(bytes, content_type), expected, "{content_type:?}");
        };
        check("grüße".as_bytes(), None, "grüße");
        check("grüße".as_bytes(), Some("text/html"), "grüße");
        check(b"gr\xfc\xdfe", None, "grüße");
        check(b"gr\xfc\xdfe", Some("text/html; Charset=\"ISO-8859-1\""), "grüße");
        check(b"\xef\xe9\xe2\xe5\xf2", Some("text/html;charset=koi8-r"), "ОИБЕР");
        check(b"<META CharSet=shift_jis>\x93\xfa\x96\x7b", None, "<META CharSet=shift_jis>日本");
        let http_equiv = b"<meta http-equiv=Content-Type content='text/html; charset=euc-kr'>\xc7\xd1";
        check(http_equiv, None, "<meta http-equiv=Content-Type content='text/html; charset=euc-kr'>한");
        // What the answer says counts for more than what the page says, and a mark counts for more than either.
        check("<meta charset=koi8-r>ü".as_bytes(), Some("text/html; charset=utf-8"), "<meta charset=koi8-r>ü");
        check(b"\xff\xfea\0\xfc\0", Some("text/html; charset=utf-8"), "aü");
        check(b"\xef\xbb\xbf\xc3\xbc", Some("text/html; charset=koi8-r"), "ü");
        // No declaration in ASCII can be true of UTF-16, and some names are traps.
        check("<meta charset=utf-16>ü".as_bytes(), None, "<meta charset=utf-16>ü");
        check("<meta charset=x-user-defined>ü".as_bytes(), None, "<meta charset=x-user-defined>ü");
        check("ü".as_bytes(), Some("text/html; charset=iso-2022-kr"), "ü");
        check("ü".as_bytes(), Some("text/html; charset=none"), "ü");
        check("aü".as_bytes().get(..2).unwrap_or_default(), None, "a\u{fffd}");
        check(b"<meta charset", None, "<meta charset");
        check(b"", None, "");
    }
}

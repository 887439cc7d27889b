//! Which content may be shown in place, and the `Content-Disposition` that says so.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

/// Types that a browser may render in place (client-server API, "Serving inline content").
const INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// Whether content of this type may be shown in place. Parameters and case do not count.
pub fn is_inline(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    INLINE.iter().any(|safe| essence.eq_ignore_ascii_case(safe))
}

/// The value of the `Content-Disposition` header: always visible ASCII, whatever the file name.
pub fn disposition(content_type: &str, file_name: Option<&str>) -> String {
    let mut value = String::from(if is_inline(content_type) { "inline" } else { "attachment" });
    let Some(name) = file_name.filter(|name| !name.is_empty()) else { return value };
    if name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        value.push_str("; filename=\"");
        for character in name.chars() {
            if matches!(character, '"' | '\\') {
                value.push('\\');
            }
            value.push(character);
        }
        value.push('"');
    } else {
        value.push_str("; filename*=utf-8''");
        percent_encode(name, &mut value);
    }
    value
}

/// The file name that a `Content-Disposition` header gives (RFC 6266): `filename*`, which can be of any letters, before
/// `filename`. `None` if it gives none that is readable.
pub fn file_name_of(disposition: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(disposition) {
        if name.eq_ignore_ascii_case("filename*") {
            let decoded = extended(&value);
            if decoded.is_some() {
                return decoded;
            }
        } else if name.eq_ignore_ascii_case("filename") && plain.is_none() {
            plain = Some(value);
        }
    }
    plain.filter(|name| !name.is_empty())
}

/// The parameters of a header's value: `type; name=value; name="quoted \" value"`.
fn parameters(header: &str) -> Vec<(&str, String)> {
    let mut parameters = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once('=') {
        // Before the name may stand the end of the last value, or a word without a value.
        let name = name.rsplit(';').next().unwrap_or_default().trim();
        let (value, after) = value(after.trim_start());
        parameters.push((name, value));
        rest = after;
    }
    parameters
}

/// A value at the beginning of a text, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (place, character) in quoted.char_indices() {
        match character {
            '"' if !escaped => return (value, &quoted[place + 1..]),
            '\\' if !escaped => escaped = true,
            character => {
                value.push(character);
                escaped = false;
            }
        }
    }
    (value, "")
}

/// A value with its charset and language (RFC 8187): `utf-8'en'na%C3%AFve`. Others than UTF-8 are from another time.
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

/// Appends `text` with all but RFC 8187's `attr-char` percent-encoded.
fn percent_encode(text: &str, value: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            value.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(value, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm4_inline_only_for_safe_types() {
        for safe in INLINE {
            assert!(is_inline(safe), "{safe}");
        }
        for safe in ["text/plain; charset=utf-8", "TEXT/Plain", "image/png ;x=y", " image/png", "image/png;"] {
            assert!(is_inline(safe), "{safe}");
        }
        for unsafe_type in [
            "",
            "text/html",
            "Text/HTML; charset=utf-8",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/pdf",
            "application/octet-stream",
            "text/xml",
            "text/javascript",
            "text/plainer",
            "text/html; image/png",
            "text/html, image/png",
            "image/*",
        ] {
            assert!(!is_inline(unsafe_type), "{unsafe_type}");
        }
    }

    #[test]
    fn cm5_file_names_are_read() {
        let check = |header: &str, expected: Option<&str>| {
            assert_eq!(file_name_of(header).as_deref(), expected, "{header}");
        };
        for name in ["cat.png", "my cat; 2.png", "a\"b\\c", "🐱 é.png", "a\r\nSet-Cookie: x", "a=b'c'.txt", "%41"] {
            check(&disposition("image/png", Some(name)), Some(name));
            check(&disposition("text/html", Some(name)), Some(name));
        }
        check("", None);
        check("inline", None);
        check("attachment;", None);
        check("attachment; filename=", None);
        check("attachment; filename=\"\"", None);
        check("attachment; size=3; filename=a.png ; x=y", Some("a.png"));
        check("attachment;FILENAME = \"a.png\";x", Some("a.png"));
        check("attachment; filename=\"plain\"; filename*=UTF-8'en'%e2%82%ac", Some("€"));
        check("attachment; filename*=utf-8''%ff; filename=plain", Some("plain"));
        check("attachment; filename*=iso-8859-1''%e9; filename=plain", Some("plain"));
        check("attachment; filename*=nothing", None);
        check("attachment; x; filename=a.png", Some("a.png"));
        check("attachment; filename=\"open", Some("open"));
        check("attachment; note=\"filename=evil\"; filename=good", Some("good"));
    }

    #[test]
    fn cm5_file_names() {
        let check = |name, expected: &str| assert_eq!(disposition("image/png", name), expected);
        check(None, "inline");
        check(Some(""), "inline");
        check(Some("cat.png"), "inline; filename=\"cat.png\"");
        check(Some("my cat; 2.png"), "inline; filename=\"my cat; 2.png\"");
        check(Some("a\"b\\c"), "inline; filename=\"a\\\"b\\\\c\"");
        check(Some("🐱 é.png"), "inline; filename*=utf-8''%F0%9F%90%B1%20%C3%A9.png");
        check(Some("a\r\nSet-Cookie: x"), "inline; filename*=utf-8''a%0D%0ASet-Cookie%3A%20x");
        assert_eq!(disposition("text/html", Some("a.html")), "attachment; filename=\"a.html\"");
        assert_eq!(disposition("image/svg+xml", None), "attachment");
    }
}

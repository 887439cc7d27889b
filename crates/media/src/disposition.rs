//! Which content may be shown in place, and the `Content-Disposition` that says so.

use std::fmt::Write as _;

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

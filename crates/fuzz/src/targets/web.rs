//! What the web sends: pages that are previewed, and the URLs that lead to them.

use media::previews::{Rules, read_page};

use super::{bytes_of, short};

/// Where the pages are.
const URL: &str = "https://example.org/a/b";

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "text/html; charset=utf-8\n<!DOCTYPE html><meta property=og:title content='A &amp; B'><title>T</title><p>Words</p>",
        "\n<meta charset=koi8-r><meta property=og:image content=/i.png><link rel=image_src href='//x/y'><base href=/z/>",
        "text/html\n<script><!-- x --></script><meta name=twitter:image content='javascript:1'><nav><p>no</nav><h1>H</h1>",
        "text/html;charset=shift_jis\n<meta property=og:url content='https:x'><noscript><meta name=description content=d>",
    ])
}

/// Pages: what is told is plain, bounded, and leads to the web alone.
pub(super) fn page(input: &[u8]) -> String {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (content_type, body) = input.split_at(end);
    let content_type = String::from_utf8_lossy(content_type);
    let Some((properties, images)) = read_page(&Rules::default(), URL, Some(&content_type), body) else {
        return "no page".to_owned();
    };
    for (name, value) in &properties {
        assert!(name.len() <= 64 && value.chars().count() <= 2_048, "`{name}`");
        assert!(!value.is_empty() && !value.chars().any(char::is_control), "`{name}`: `{value}`");
        assert!(!name.ends_with("url") || value.starts_with("http"), "`{name}`: `{value}`");
    }
    for image in &images {
        assert!(image.starts_with("https://") || image.starts_with("http://"), "`{image}`");
    }
    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
    format!("{} {}", short(names.join(" ")), images.len())
}

pub(super) fn rule_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "example.org\nhttps://www.example.org./a?b",
        "https://example.org/a/\nhttp://EXAMPLE.org:80/%61/b#c",
        "*.pdf\nhttps://a.b/c.PDF",
        "127.0.0.1\nhttp://0x7f.1:8080/",
        "[::1]\nhttp://[0:0::1]/",
    ])
}

/// Rules and URLs: what a rule denies it allows where it stands in the other list, and the other way round.
pub(super) fn preview_rules(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (rule, url) = text.split_once('\n').unwrap_or((&text, URL));
    let list = [rule.to_owned()];
    let (allow, deny) = match (Rules::of(&list, &[]), Rules::of(&[], &list)) {
        (Ok(allow), Ok(deny)) => (allow, deny),
        (Err(error), _) | (_, Err(error)) => return short(error),
    };
    let passes = |rules: &Rules| read_page(rules, url, None, b"").is_some();
    let (open, allowed, denied) = (passes(&Rules::default()), passes(&allow), !passes(&deny));
    assert!(if open { allowed == denied } else { !allowed && denied }, "`{rule}` `{url}`");
    format!("{open} {allowed}")
}

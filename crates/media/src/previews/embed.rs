//! oEmbed: what a site says of a page in JSON. It fills in what the page itself does not say.

use serde::Deserialize;
use url::Url;

use super::page::{DESCRIPTION_CHARS_MAX, PROPERTY_CHARS_MAX, Page, text_of};
use super::text::clean;

/// The members that are looked at; any of them may be missing or odd.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Embed {
    #[serde(rename = "type")]
    kind: Text,
    title: Text,
    provider_name: Text,
    author_name: Text,
    thumbnail_url: Text,
    url: Text,
    html: Text,
}

/// A text, or something else that counts as none.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "serde_json::Value")]
struct Text(Option<String>);

impl From<serde_json::Value> for Text {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self(Some(text)),
            _ => Self(None),
        }
    }
}

impl Text {
    fn clean(&self, chars_max: usize) -> Option<String> {
        clean(self.0.as_deref()?, chars_max)
    }
}

/// Whether a page leaves something open that a description of it may tell.
pub(crate) fn is_wanted(page: &Page) -> bool {
    page.images.is_empty() || ["og:title", "og:description"].iter().any(|name| !page.properties.contains_key(*name))
}

/// Fills in what `json`, which came from `url`, tells of a page. What is no such JSON tells nothing.
pub(crate) fn fill_in(page: &mut Page, json: &[u8], url: &Url) {
    let Ok(embed) = serde_json::from_slice::<Embed>(json) else { return };
    let text = || text_of(embed.html.0.as_deref()?, url, DESCRIPTION_CHARS_MAX);
    let kind = embed.kind.0.as_deref().unwrap_or_default();
    let found = [
        ("og:title", embed.title.clean(PROPERTY_CHARS_MAX).or_else(|| embed.author_name.clean(PROPERTY_CHARS_MAX))),
        ("og:site_name", embed.provider_name.clean(PROPERTY_CHARS_MAX)),
        ("og:description", if kind == "rich" { text() } else { None }),
        ("og:type", (kind == "video").then(|| "video.other".to_owned())),
    ];
    for (name, value) in found {
        if let Some(value) = value {
            page.properties.entry(name.to_owned()).or_insert(value);
        }
    }
    let photo = if kind == "photo" { &embed.url } else { &Text(None) };
    let addresses = [photo, &embed.thumbnail_url].into_iter().filter_map(|text| url.join(text.0.as_deref()?).ok());
    page.images.extend(addresses.filter(|url| matches!(url.scheme(), "http" | "https")));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::page;
    use super::*;

    fn filled(html: &str, json: &str) -> (Vec<(String, String)>, Vec<String>) {
        let url = Url::parse("https://example.org/oembed").unwrap();
        let mut page = page::read(html, &url);
        fill_in(&mut page, json.as_bytes(), &url);
        (page.properties.into_iter().collect(), page.images.into_iter().map(String::from).collect())
    }

    fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn cm11_descriptions_in_json_fill_in_what_is_missing() {
        let video =
            r#"{"type":"video","title":" A\nvideo","provider_name":"Tube","thumbnail_url":"/t.jpg","width":"wide"}"#;
        let expected = own(&[("og:site_name", "Tube"), ("og:title", "A video"), ("og:type", "video.other")]);
        assert_eq!(filled("", video), (expected, vec!["https://example.org/t.jpg".to_owned()]));
        let html = "<meta property=og:title content=Own><meta property=og:image content=/own.png>";
        let (properties, images) = filled(html, video);
        assert!(properties.contains(&("og:title".to_owned(), "Own".to_owned())), "{properties:?}");
        assert_eq!(images, ["https://example.org/own.png", "https://example.org/t.jpg"]);
        let rich =
            r#"{"type":"rich","author_name":"Ann","html":"<p>Said <b>this</b></p><script>x</script>","url":"/no.png"}"#;
        assert_eq!(filled("", rich), (own(&[("og:description", "Said this"), ("og:title", "Ann")]), Vec::new()));
        let photo = r#"{"type":"photo","url":"https://i.example/p.png"}"#;
        assert_eq!(filled("", photo).1, ["https://i.example/p.png"]);
    }

    /// SEC-preview-text.
    #[test]
    fn cm11_odd_descriptions_tell_nothing() {
        let deep = format!("{{\"title\":{}", "[".repeat(60_000));
        for json in [
            "",
            "null",
            "[]",
            "{",
            "{\"title\":1,\"html\":[],\"type\":{}}",
            "{\"thumbnail_url\":\"javascript:x\"}",
            &deep,
        ] {
            assert_eq!(filled("", json), (Vec::new(), Vec::new()), "{json:.40}");
        }
    }

    #[test]
    fn cm11_who_says_all_is_not_asked_for_more() {
        let url = Url::parse("https://example.org/").unwrap();
        let html = "<meta property=og:title content=a><meta property=og:description content=b><meta property=og:image content=c>";
        assert!(!is_wanted(&page::read(html, &url)));
        assert!(is_wanted(&page::read("<title>a</title><p>b</p><meta property=og:image content=c>", &url)));
    }
}

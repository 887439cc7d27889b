//! What a page says of itself: OpenGraph first, then Twitter's cards, then its title, headings and paragraphs.
//!
//! The page is read once from front to back as tags and text. No tree is built, so that nesting costs nothing, and of
//! everything there is a bound on how much is kept. What comes out is plain text and addresses of the web.

use std::collections::BTreeMap;
use std::convert::Infallible;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Span, Tokenizer};
use url::Url;

use super::rules::URL_BYTES_MAX;
use super::text::clean;

/// Most characters of a title or another property.
pub(crate) const PROPERTY_CHARS_MAX: usize = 300;

/// Most characters of a description.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 500;

/// Most properties of a page.
const PROPERTIES_MAX: usize = 40;

/// Most bytes of a property's name.
const NAME_BYTES_MAX: usize = 64;

/// Most bytes of an attribute that are kept.
const ATTRIBUTE_BYTES_MAX: usize = 4 * 1024;

/// Most bytes of text that are kept to make a description of.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Most images that a page names.
const IMAGES_MAX: usize = 8;

/// An image in the text is for a preview if it is at least so wide and high.
const IMAGE_PIXELS_MIN: u32 = 100;

/// The vocabularies whose properties clients are told.
const VOCABULARIES: &[&str] = &["og:", "article:", "book:", "profile:", "music:", "video:"];

/// Properties that say where something is, beside those that end in `:url`.
const ADDRESSES: &[&str] = &["og:url", "og:see_also", "og:video", "og:audio"];

/// Elements whose text is not what the page is about.
const SKIPPED: &[&str] = &[
    "script", "style", "noscript", "template", "svg", "math", "nav", "footer", "aside", "form", "button", "select",
    "textarea", "iframe", "object", "dialog", "menu",
];

/// Attributes that are looked at.
const ATTRIBUTES: &[&str] =
    &["property", "name", "itemprop", "content", "href", "rel", "type", "src", "width", "height"];

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// Properties by name, plain text.
    pub(crate) properties: BTreeMap<String, String>,
    /// Addresses of images, the best first.
    pub(crate) images: Vec<Url>,
    /// Where a description in JSON is.
    pub(crate) embed: Option<Url>,
    /// What the page's own words give for a title and a description, where nothing says what they are.
    pub(crate) guesses: Guesses,
}

/// Title and description for want of better.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Guesses {
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
}

/// Reads a page that came from `url`.
pub(crate) fn read(html: &str, url: &Url) -> Page {
    let mut reader = Reader::new(url);
    reader.read(html);
    reader.page()
}

/// The text of a piece of HTML.
pub(crate) fn text_of(html: &str, url: &Url, chars_max: usize) -> Option<String> {
    let mut reader = Reader::new(url);
    reader.read(html);
    clean(&reader.text, chars_max)
}

/// A start tag of which the attributes are being read.
struct Tag {
    name: &'static str,
    attribute: Option<&'static str>,
    attributes: BTreeMap<&'static str, String>,
}

/// What the text belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Title,
    Heading,
    Paragraph,
    Elsewhere,
}

struct Reader {
    base: Url,
    base_is_given: bool,
    tag: Option<Tag>,
    place: Place,
    /// The element that is being skipped, and how often it stands in itself.
    skipped: Option<(&'static str, u32)>,
    open_graph: BTreeMap<String, String>,
    /// Twitter's cards and plain `meta` elements.
    others: BTreeMap<&'static str, String>,
    images: Vec<(Rank, String)>,
    embed: Option<String>,
    title: String,
    /// The title has ended; further ones are not the page's.
    titled: bool,
    heading: String,
    paragraphs: String,
    text: String,
}

/// Where an image is named; the first is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    OpenGraph,
    Twitter,
    Item,
    Link,
    Text,
}

impl Reader {
    fn new(url: &Url) -> Self {
        Self {
            base: url.clone(),
            base_is_given: false,
            tag: None,
            place: Place::Elsewhere,
            skipped: None,
            open_graph: BTreeMap::new(),
            others: BTreeMap::new(),
            images: Vec::new(),
            embed: None,
            title: String::new(),
            titled: false,
            heading: String::new(),
            paragraphs: String::new(),
            text: String::new(),
        }
    }

    fn read(&mut self, html: &str) {
        let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
            self.take(&event);
            None
        });
        emitter.naively_switch_states(true);
        let mut tokenizer = Tokenizer::new_with_emitter(html, emitter);
        while tokenizer.next().is_some() {}
    }

    fn take(&mut self, event: &CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => self.open(name),
            CallbackEvent::AttributeName { name } => {
                if let Some(tag) = &mut self.tag {
                    let known = ATTRIBUTES.iter().find(|known| known.as_bytes() == *name);
                    // The first of several counts.
                    tag.attribute = known.copied().filter(|name| !tag.attributes.contains_key(name));
                }
            }
            CallbackEvent::AttributeValue { value } => {
                if let Some(tag) = &mut self.tag
                    && let Some(name) = tag.attribute.take()
                {
                    let value = value.get(..ATTRIBUTE_BYTES_MAX).unwrap_or(value);
                    tag.attributes.insert(name, String::from_utf8_lossy(value).into_owned());
                }
            }
            CallbackEvent::CloseStartTag { .. } => {
                if let Some(tag) = self.tag.take() {
                    self.element(&tag);
                }
            }
            CallbackEvent::EndTag { name } => self.close(name),
            CallbackEvent::String { value } => self.say(value),
            _ => {}
        }
    }

    fn open(&mut self, name: &[u8]) {
        let looked_at = ["meta", "link", "img", "base"].into_iter().find(|known| known.as_bytes() == name);
        self.tag = looked_at.map(|name| Tag { name, attribute: None, attributes: BTreeMap::new() });
        if let Some(skipped) = SKIPPED.iter().find(|skipped| skipped.as_bytes() == name) {
            match &mut self.skipped {
                None => self.skipped = Some((skipped, 1)),
                Some((outer, times)) if outer == skipped => *times = times.saturating_add(1),
                Some(_) => {}
            }
        }
        if self.skipped.is_some() {
            return;
        }
        self.place = match name {
            b"title" => Place::Title,
            b"h1" if self.heading.is_empty() => Place::Heading,
            b"p" => Place::Paragraph,
            // What ends a paragraph without saying so.
            b"div" | b"ul" | b"ol" | b"table" | b"section" | b"article" | b"main" | b"header" | b"h2" | b"h3" => {
                Place::Elsewhere
            }
            _ => self.place,
        };
        self.separate();
    }

    fn close(&mut self, name: &[u8]) {
        self.tag = None;
        if let Some((skipped, times)) = &mut self.skipped {
            if skipped.as_bytes() == name {
                *times -= 1;
                self.skipped = self.skipped.filter(|(_, times)| *times > 0);
            }
            return;
        }
        self.titled |= name == b"title" && !self.title.is_empty();
        if matches!(name, b"title" | b"h1" | b"p") {
            self.place = Place::Elsewhere;
        }
        self.separate();
    }

    /// Words of two elements are two words, but for those of a line of text, where a space too many does no harm either.
    fn separate(&mut self) {
        for text in [&mut self.paragraphs, &mut self.text] {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
        }
    }

    fn say(&mut self, value: &[u8]) {
        if self.skipped.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(value.get(..TEXT_BYTES_MAX).unwrap_or(value));
        match self.place {
            Place::Title if self.titled => {}
            Place::Title => push(&mut self.title, &text),
            Place::Heading => push(&mut self.heading, &text),
            Place::Paragraph => push(&mut self.paragraphs, &text),
            Place::Elsewhere => {}
        }
        if self.place != Place::Title {
            push(&mut self.text, &text);
        }
    }

    fn element(&mut self, tag: &Tag) {
        let attribute =
            |name: &str| tag.attributes.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        match tag.name {
            "meta" => {
                let names = ["property", "name", "itemprop"].into_iter().filter_map(attribute);
                let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
                if let Some(content) = attribute("content") {
                    names.iter().for_each(|name| self.property(name, content));
                }
            }
            "link" => self.link(attribute("rel"), attribute("type"), attribute("href")),
            "img" => {
                let large = |name: &str| {
                    attribute(name)
                        .and_then(|size| size.parse::<u32>().ok())
                        .is_some_and(|size| size >= IMAGE_PIXELS_MIN)
                };
                if let Some(source) = attribute("src").filter(|_| large("width") && large("height")) {
                    self.image(Rank::Text, source);
                }
            }
            _ => {
                let given = attribute("href").and_then(|href| self.base.join(href).ok());
                if let Some(base) = given.filter(|_| !self.base_is_given) {
                    self.base = base;
                    self.base_is_given = true;
                }
            }
        }
    }

    fn property(&mut self, name: &str, content: &str) {
        match name {
            "og:image" | "og:image:url" | "og:image:secure_url" => self.image(Rank::OpenGraph, content),
            "twitter:image" | "twitter:image:src" => self.image(Rank::Twitter, content),
            "image" => self.image(Rank::Item, content),
            _ => {}
        }
        let plain = ["twitter:title", "twitter:description", "description", "dc.description"];
        if let Some(name) = plain.into_iter().find(|plain| *plain == name) {
            self.others.entry(name).or_insert_with(|| content.to_owned());
        }
        // Of images clients are told what is true of the copy that they get.
        let of_image = name.starts_with("og:image") && name != "og:image:alt";
        let known = VOCABULARIES.iter().any(|start| name.starts_with(start)) && name.len() <= NAME_BYTES_MAX;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.' | b'-'));
        if known && plain && !of_image && self.open_graph.len() < PROPERTIES_MAX {
            self.open_graph.entry(name.to_owned()).or_insert_with(|| content.to_owned());
        }
    }

    fn link(&mut self, rel: Option<&str>, content_type: Option<&str>, href: Option<&str>) {
        let Some(href) = href else { return };
        let rel = rel.unwrap_or_default().to_ascii_lowercase();
        let is = |word: &str| rel.split_ascii_whitespace().any(|rel| rel == word);
        if is("image_src") {
            self.image(Rank::Link, href);
        }
        let json = content_type.is_some_and(|text| text.eq_ignore_ascii_case("application/json+oembed"));
        if is("alternate") && json && self.embed.is_none() {
            self.embed = Some(href.to_owned());
        }
    }

    fn image(&mut self, rank: Rank, address: &str) {
        if self.images.len() < IMAGES_MAX {
            self.images.push((rank, address.to_owned()));
        }
    }

    fn page(mut self) -> Page {
        self.images.sort_by_key(|(rank, _)| *rank);
        let mut images: Vec<Url> = Vec::new();
        for address in self.images.iter().filter_map(|(_, address)| self.address(address)) {
            if !images.contains(&address) {
                images.push(address);
            }
        }
        let described = ["twitter:description", "description", "dc.description"];
        let described: Vec<&str> =
            described.iter().filter_map(|name| self.others.get(name).map(String::as_str)).collect();
        let mut properties = BTreeMap::new();
        for (name, value) in &self.open_graph {
            if let Some(value) = self.value(name, value) {
                properties.insert(name.clone(), value);
            }
        }
        if let Some(title) = self.others.get("twitter:title").and_then(|title| clean(title, PROPERTY_CHARS_MAX)) {
            properties.entry("og:title".to_owned()).or_insert(title);
        }
        if let Some(text) = described.iter().find_map(|text| clean(text, DESCRIPTION_CHARS_MAX)) {
            properties.entry("og:description".to_owned()).or_insert(text);
        }
        let guesses = Guesses {
            title: [&self.title, &self.heading].into_iter().find_map(|text| clean(text, PROPERTY_CHARS_MAX)),
            description: [&self.paragraphs, &self.text].into_iter().find_map(|text| clean(text, DESCRIPTION_CHARS_MAX)),
        };
        let embed = self.embed.as_deref().and_then(|address| self.address(address));
        Page { properties, images, embed, guesses }
    }

    /// The value of a property as clients are told it; `None` if there is nothing to it, or it leads to no place of the web.
    fn value(&self, name: &str, value: &str) -> Option<String> {
        if ADDRESSES.contains(&name) || name.ends_with(":url") || name.ends_with(":secure_url") {
            return self.address(value).map(String::from);
        }
        let runs = Url::parse(value.trim()).is_ok_and(|url| matches!(url.scheme(), "javascript" | "data" | "vbscript"));
        let chars_max = if name == "og:description" { DESCRIPTION_CHARS_MAX } else { PROPERTY_CHARS_MAX };
        clean(value, chars_max).filter(|_| !runs)
    }

    /// The place of the web that an address leads to from this page.
    fn address(&self, address: &str) -> Option<Url> {
        let url = self.base.join(address.trim()).ok()?;
        let web = matches!(url.scheme(), "http" | "https") && url.as_str().len() <= URL_BYTES_MAX;
        web.then_some(url)
    }
}

/// Adds as much as is kept.
fn push(text: &mut String, more: &str) {
    let room = TEXT_BYTES_MAX.saturating_sub(text.len());
    let end = (0..=room.min(more.len())).rev().find(|end| more.is_char_boundary(*end));
    text.push_str(more.get(..end.unwrap_or(0)).unwrap_or_default());
}

#[cfg(test)]
mod tests;

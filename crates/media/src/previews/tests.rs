//! Previews over a web that is made up.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::json;
use store::Clock as _;
use store::tables::media::MediaRow;
use tokio::sync::watch;

use super::*;
use crate::Mxc;
use crate::tests::{Bench, alice};

/// What a site sends.
#[derive(Clone)]
struct Reply {
    status: u16,
    content_type: Option<&'static str>,
    location: Option<&'static str>,
    compressed: bool,
    chunks: Vec<Bytes>,
    /// What comes after the chunks.
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    Repeats,
    BreaksOff,
    Hangs,
}

fn reply(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let chunks = vec![body.into()];
    Reply { status: 200, content_type: Some(content_type), location: None, compressed: false, chunks, then: Then::End }
}

fn html(body: &str) -> Reply {
    reply("text/html; charset=utf-8", body.to_owned())
}

fn redirect(location: &'static str) -> Reply {
    Reply { status: 302, location: Some(location), ..html("") }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// All there is.
struct Sites {
    replies: Mutex<BTreeMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
    open: watch::Sender<bool>,
    /// Bytes that were taken.
    taken: Arc<AtomicU64>,
}

#[async_trait]
impl Web for Sites {
    async fn get(&self, url: &str, _: Wanted) -> Result<Answer, Unreachable> {
        self.asked.lock().push(url.to_owned());
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let reply = self.replies.lock().get(url).cloned().ok_or_else(|| Unreachable("nobody".to_owned()))?;
        Ok(Answer {
            status: reply.status,
            content_type: reply.content_type.map(str::to_owned),
            location: reply.location.map(str::to_owned),
            compressed: reply.compressed,
            body: Box::new(Sent { chunks: reply.chunks, then: reply.then, at: 0, taken: Arc::clone(&self.taken) }),
        })
    }
}

struct Sent {
    chunks: Vec<Bytes>,
    then: Then,
    at: usize,
    taken: Arc<AtomicU64>,
}

#[async_trait]
impl Body for Sent {
    async fn next(&mut self) -> Result<Option<Bytes>, Unreachable> {
        self.at += 1;
        let next = self.chunks.get(self.at - 1).or(self.chunks.last()).map_or(0, Bytes::len);
        self.taken.fetch_add(u64::try_from(next).unwrap(), Ordering::Relaxed);
        match (self.chunks.get(self.at - 1), self.then) {
            (Some(chunk), _) => Ok(Some(chunk.clone())),
            (None, Then::Repeats) => Ok(self.chunks.last().cloned()),
            (None, Then::BreaksOff) => Err(Unreachable("it broke off".to_owned())),
            (None, Then::Hangs) => std::future::pending().await,
            (None, Then::End) => Ok(None),
        }
    }
}

struct World {
    bench: Bench,
    sites: Arc<Sites>,
    previews: Previews,
}

impl World {
    async fn new() -> Self {
        Self::with(PreviewOptions::default()).await
    }

    async fn with(options: PreviewOptions) -> Self {
        let bench = Bench::with(|options| options.pixels_max = 1_000_000, None).await;
        let (replies, asked, open) = (Mutex::default(), Mutex::default(), watch::Sender::new(true));
        let sites = Arc::new(Sites { replies, asked, open, taken: Arc::default() });
        let previews = Previews::new(bench.media.clone(), Arc::clone(&sites) as _, options);
        Self { bench, sites, previews }
    }

    async fn denying(rule: &str) -> Self {
        let rules = Rules::of(&[], &[rule.to_owned()]).unwrap();
        Self::with(PreviewOptions { rules, ..PreviewOptions::default() }).await
    }

    fn site(&self, url: &str, reply: Reply) {
        self.sites.replies.lock().insert(url.to_owned(), reply);
    }

    async fn look(&self, url: &str) -> Result<Json, Error> {
        self.previews.preview(&alice(), url, None).await.map(Json::Object)
    }

    async fn look_at(&self, url: &str, at_ms: i64) -> Json {
        Json::Object(self.previews.preview(&alice(), url, Some(at_ms)).await.unwrap())
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.sites.asked.lock())
    }

    fn pass(&self, ms: i64) {
        self.bench.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    async fn count<R: store::Row>(&self) -> usize {
        self.bench.store.all::<R>(Read::prefix::<R>(vec![])).await.unwrap().len()
    }
}

fn image_of(preview: &Json) -> Mxc {
    Mxc::parse(preview["og:image"].as_str().unwrap()).unwrap()
}

#[track_caller]
fn unreachable(outcome: Result<Json, Error>) {
    assert!(matches!(outcome, Err(Error::UrlUnreachable)), "{outcome:?}");
}

const PAGE: &str = "https://a.example/page";
const IMAGE: &str = "https://img.example/i.png";
const HTML: &str = "<meta property=og:title content=Title><meta property=og:description content=Words>\
                    <meta property=og:image content='https://img.example/i.png'><meta property=og:image:width content=9>";

/// A picture of a kind that browsers need not know.
const BMP: &[u8] = b"\x42\x4d\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x18\0\0\0\0\0\
    \x10\0\0\0\x13\x0b\0\0\x13\x0b\0\0\0\0\0\0\0\0\0\0\xff\0\0\0\xff\0\0\0\0\0\xff\xff\xff\xff\xff\0\0";

#[tokio::test]
async fn cm11_a_page_is_shown_with_a_copy_of_its_image() {
    let world = World::new().await;
    world.site(PAGE, html(HTML));
    world.site(IMAGE, reply("image/jpeg", png(30, 20)));
    let preview = world.look(&format!("{PAGE}#fragment")).await.unwrap();
    let mxc = image_of(&preview);
    let expected = json!({
        "og:title": "Title",
        "og:description": "Words",
        "og:image": mxc.to_string(),
        "og:image:type": "image/png",
        "og:image:width": 30,
        "og:image:height": 20,
        "matrix:image:size": png(30, 20).len(),
    });
    assert_eq!(preview, expected);
    assert!(world.bench.media.is_local(&mxc));
    assert_eq!(world.bench.download(&mxc).await.unwrap(), png(30, 20));
    assert_eq!(world.asked(), [PAGE, IMAGE]);
    assert_eq!(world.look(PAGE).await.unwrap(), expected, "it is kept");
    let again = Previews::new(world.bench.media.clone(), world.sites.clone(), PreviewOptions::default());
    assert_eq!(Json::Object(again.preview(&alice(), PAGE, None).await.unwrap()), expected, "also over a restart");
    assert_eq!(world.asked(), [""; 0]);
}

#[tokio::test]
async fn cm11_links_to_images_and_other_things() {
    let world = World::new().await;
    world.site(IMAGE, reply("image/png", png(3, 2)));
    let preview = world.look(IMAGE).await.unwrap();
    assert_eq!((&preview["og:image:width"], preview.get("og:title")), (&json!(3), None));
    assert_eq!(world.bench.download(&image_of(&preview)).await.unwrap(), png(3, 2));
    for (url, other) in [
        ("https://a.example/svg", reply("image/svg+xml", "<svg onload=alert(1)>")),
        ("https://a.example/liar", reply("image/png", "<script>alert(1)</script>")),
        ("https://a.example/pdf", reply("application/pdf", "%PDF")),
        ("https://a.example/text", reply("text/plain", "<title>no</title>")),
        ("https://a.example/empty", html("")),
    ] {
        world.site(url, other);
        assert_eq!(world.look(url).await.unwrap(), json!({}), "{url}");
    }
    world.site("https://a.example/untyped", Reply { content_type: None, ..html("<title>yes</title>") });
    assert_eq!(world.look("https://a.example/untyped").await.unwrap(), json!({ "og:title": "yes" }));
    assert_eq!(world.count::<MediaRow>().await, 1);
}

/// SEC-media-decoders: what becomes a copy of an image is decided by its bytes, within bounds of size and pixels.
#[tokio::test]
async fn cm11_images_that_are_none_or_too_large_are_left_out() {
    let world = World::new().await;
    world.site(PAGE, html(HTML));
    let piece = vec![png(3, 2).into(), Bytes::from(vec![0; 256 * 1024])];
    for bad in [
        reply("text/html", png(3, 2)),
        reply("image/svg+xml", png(3, 2)),
        reply("image/png", "<html>"),
        reply("image/png", ""),
        reply("image/bmp", BMP),
        reply("image/png", png(1_001, 1_000)),
        Reply { then: Then::BreaksOff, ..reply("image/png", png(3, 2)) },
        Reply { then: Then::Repeats, chunks: piece, ..reply("image/png", "") },
        Reply { compressed: true, ..reply("image/png", png(3, 2)) },
        Reply { status: 404, ..reply("image/png", png(3, 2)) },
    ] {
        world.pass(2 * FRESH_MS);
        world.site(IMAGE, bad);
        assert_eq!(world.look(PAGE).await.unwrap(), json!({ "og:title": "Title", "og:description": "Words" }));
        assert_eq!(world.bench.files(), [] as [std::path::PathBuf; 0], "nothing is left of it");
    }
    assert_eq!(world.asked().len(), 20);
    let taken = world.sites.taken.load(Ordering::Relaxed);
    assert!((8 << 20..10 << 20).contains(&taken), "of what has no end {taken} bytes are taken");
    world.pass(2 * FRESH_MS);
    let second = HTML.to_owned() + "<meta name=twitter:image content='https://img.example/second.png'>";
    world.site(PAGE, html(&second));
    world.site("https://img.example/second.png", reply("image/png", png(3, 2)));
    assert_eq!(world.look(PAGE).await.unwrap()["og:image:width"], 3, "the next one will do");
}

/// SEC-preview-parsing: of a page without end the beginning is looked at.
#[tokio::test]
async fn cm11_pages_without_end_are_cut() {
    let world = World::new().await;
    let begin = Bytes::from("<title>The beginning</title>");
    let chunks = vec![begin, Bytes::from("<div>".repeat(10_000))];
    world.site(PAGE, Reply { then: Then::Repeats, chunks, ..html("") });
    assert_eq!(world.look(PAGE).await.unwrap(), json!({ "og:title": "The beginning" }));
    let broken = "https://a.example/broken";
    world.site(broken, Reply { then: Then::BreaksOff, ..html("<title>The beginning</title>") });
    unreachable(world.look(broken).await);
    let taken = world.sites.taken.load(Ordering::Relaxed);
    assert!((1 << 20..2 << 20).contains(&taken), "{taken} bytes are taken");
}

#[tokio::test]
async fn cm11_descriptions_in_json_are_asked_for_where_something_is_missing() {
    let world = World::new().await;
    let link = "<title>Bare</title><link rel=alternate type=application/json+oembed href='/embed'>";
    world.site(PAGE, html(link));
    let json = json!({ "type": "video", "title": "Video", "provider_name": "Tube", "thumbnail_url": IMAGE });
    world.site("https://a.example/embed", reply("application/json", json.to_string()));
    world.site(IMAGE, reply("image/png", png(3, 2)));
    let preview = world.look(PAGE).await.unwrap();
    assert_eq!((&preview["og:title"], &preview["og:site_name"]), (&json!("Video"), &json!("Tube")));
    assert_eq!(world.bench.download(&image_of(&preview)).await.unwrap(), png(3, 2));
    assert_eq!(world.asked(), [PAGE, "https://a.example/embed", IMAGE]);
    let whole = "https://a.example/whole";
    world.site(whole, html(&format!("{HTML}{link}")));
    world.look(whole).await.unwrap();
    assert_eq!(world.asked(), [whole, IMAGE]);
    let endless = "https://b.example/";
    world.site(endless, html(link));
    world.site("https://b.example/embed", Reply { then: Then::Repeats, ..reply("application/json", "[".repeat(1024)) });
    assert_eq!(world.look(endless).await.unwrap(), json!({ "og:title": "Bare" }));
}

#[tokio::test]
async fn cm11_redirections_are_followed_to_an_end() {
    let world = World::new().await;
    for (from, to) in [("1", "2"), ("2", "https://a.example/3"), ("3", "//a.example/4"), ("4", "5"), ("5", "6")] {
        world.site(&format!("https://a.example/{from}"), redirect(to));
    }
    world.site("https://a.example/6", html("<title>End</title><meta property=og:url content=here>"));
    assert_eq!(world.look("https://a.example/1").await.unwrap()["og:url"], "https://a.example/here");
    world.site("https://a.example/0", redirect("1"));
    unreachable(world.look("https://a.example/0").await);
    assert_eq!(world.asked().len(), 12, "five and no more");
    for nowhere in
        ["file:///etc/passwd", "javascript:alert(1)", "https://u:p@a.example/6", "http://", "https://a.example:25/"]
    {
        world.site(PAGE, redirect(nowhere));
        unreachable(world.look(PAGE).await);
        assert_eq!(world.asked(), [PAGE], "{nowhere}");
        world.pass(FAILURE_KEPT_MS);
    }
    world.site(PAGE, Reply { location: None, ..redirect("") });
    unreachable(world.look(PAGE).await);
}

/// SEC-preview-rules: what is denied is asked for at no hop, as no image and as no description.
#[tokio::test]
async fn cm11_what_is_denied_is_never_asked_for() {
    let world = World::denying("evil.example").await;
    for url in ["https://evil.example/", "http://www.evil.example/a", "https://EVIL.example./"] {
        let outcome = world.look(url).await;
        assert!(matches!(outcome, Err(Error::UrlDenied)), "{url}: {outcome:?}");
    }
    assert_eq!(world.asked(), [""; 0]);
    world.site(PAGE, redirect("https://www.evil.example/"));
    unreachable(world.look(PAGE).await);
    assert_eq!(world.asked(), [PAGE]);
    let second = "https://a.example/second";
    world.site(
        second,
        html(
            "<title>T</title><meta property=og:image content='https://evil.example/i.png'>\
             <link rel=alternate type=application/json+oembed href='https://evil.example/o'>",
        ),
    );
    assert_eq!(world.look(second).await.unwrap(), json!({ "og:title": "T" }));
    assert_eq!(world.asked(), [second]);
    let third = "https://a.example/third";
    world.site(third, html("<title>T</title><meta property=og:image content=/i.png>"));
    world.site("https://a.example/i.png", redirect("https://evil.example/i.png"));
    assert_eq!(world.look(third).await.unwrap(), json!({ "og:title": "T" }));
    assert_eq!(world.asked(), [third, "https://a.example/i.png"]);
}

#[tokio::test]
async fn cm11_failures_are_told_again_for_a_minute() {
    let world = World::new().await;
    for bad in
        [Reply { status: 404, ..html("") }, Reply { status: 500, ..html("") }, Reply { compressed: true, ..html("") }]
    {
        world.site(PAGE, bad);
        unreachable(world.look(PAGE).await);
        unreachable(world.look(PAGE).await);
        assert_eq!(world.asked(), [PAGE]);
        world.pass(FAILURE_KEPT_MS);
    }
    world.site(PAGE, html("<title>Here</title>"));
    assert_eq!(world.look(PAGE).await.unwrap(), json!({ "og:title": "Here" }));
    let outcome = world.look("ftp://a.example/").await;
    assert!(matches!(outcome, Err(Error::BadUrl)), "{outcome:?}");
}

#[tokio::test]
async fn cm11_many_ask_and_the_site_is_asked_once() {
    let world = World::new().await;
    world.site(PAGE, html("<title>Here</title>"));
    world.sites.open.send_replace(false);
    let users: Vec<UserId> = (0..40).map(|n| format!("@u{n}:example.org").into()).collect();
    let asking = join_all(users.iter().map(|user| world.previews.preview(user, PAGE, None)));
    let release = async {
        while world.sites.asked.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        world.sites.open.send_replace(true);
    };
    let (answers, ()) = tokio::join!(asking, release);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap()["og:title"] == "Here"));
    assert_eq!(world.asked(), [PAGE]);
}

#[tokio::test]
async fn cm11_one_user_cannot_keep_all_others_waiting() {
    let world = World::new().await;
    world.site(PAGE, html("<title>Here</title>"));
    world.sites.open.send_replace(false);
    let mallory: UserId = "@mallory:example.org".into();
    let urls: Vec<String> = (0..200).map(|n| format!("https://slow.example/{n}")).collect();
    let flood = join_all(urls.iter().map(|url| world.previews.preview(&mallory, url, None)));
    let until_asked = async |count: usize| {
        while world.sites.asked.lock().len() < count {
            tokio::task::yield_now().await;
        }
    };
    let release = async {
        until_asked(usize::from(OF_USER_AT_ONCE) + 1).await;
        assert!(world.asked().iter().any(|url| url == PAGE), "alice need not wait for mallory");
        world.sites.open.send_replace(true);
    };
    let alices = async {
        until_asked(usize::from(OF_USER_AT_ONCE)).await;
        world.look(PAGE).await
    };
    let (flood, alices, ()) = tokio::join!(flood, alices, release);
    assert_eq!(alices.unwrap(), json!({ "og:title": "Here" }));
    let refused = flood.iter().filter(|outcome| matches!(outcome, Err(Error::TooManyAtOnce))).count();
    assert_eq!(refused, 200 - WAITING_MAX as usize);
}

/// SEC-preview-parsing: who does not answer, or never ends, is given up.
#[tokio::test(start_paused = true)]
async fn cm11_slow_sites_are_given_up() {
    let world = World::new().await;
    world.site(PAGE, Reply { then: Then::Hangs, ..html("<title>Here</title>") });
    unreachable(world.look(PAGE).await);
    let second = "https://a.example/second";
    world.site(second, html(HTML));
    world.site(IMAGE, Reply { then: Then::Hangs, ..reply("image/png", png(3, 2)) });
    assert_eq!(world.look(second).await.unwrap(), json!({ "og:title": "Title", "og:description": "Words" }));
    world.sites.open.send_replace(false);
    unreachable(world.look("https://silent.example/").await);
}

#[tokio::test]
async fn cm11_what_was_found_lasts_an_hour_and_its_past_longer() {
    let world = World::new().await;
    let title = |text: &str| json!({ "og:title": text });
    let begin = world.bench.clock.now_ms();
    world.site(PAGE, html("<title>One</title>"));
    assert_eq!(world.look(PAGE).await.unwrap(), title("One"));
    world.site(PAGE, html("<title>Two</title>"));
    world.pass(FRESH_MS - 1);
    assert_eq!(world.look(PAGE).await.unwrap(), title("One"));
    world.pass(1);
    assert_eq!(world.look(PAGE).await.unwrap(), title("Two"));
    world.pass(2 * FRESH_MS);
    world.asked();
    // When the message was written it looked like this; before that nobody knows, and the next will do.
    for (at_ms, expected) in
        [(begin, "One"), (begin + 1, "One"), (begin + FRESH_MS, "Two"), (begin - 1, "One"), (0, "One"), (-1, "One")]
    {
        assert_eq!(world.look_at(PAGE, at_ms).await, title(expected), "{at_ms}");
    }
    assert_eq!(world.asked(), [""; 0]);
    world.site(PAGE, html("<title>Three</title>"));
    assert_eq!(world.look_at(PAGE, i64::MAX).await, title("Three"), "what is to come is what is now");
}

#[tokio::test]
async fn cm11_old_previews_go_with_their_images() {
    let world = World::new().await;
    world.site(PAGE, html(HTML));
    world.site(IMAGE, reply("image/png", png(3, 2)));
    let preview = world.look(PAGE).await.unwrap();
    let hidden = image_of(&world.look(IMAGE).await.unwrap());
    world.bench.media.quarantine(&hidden, Some("@admin:example.org")).await.unwrap();
    world.pass(PreviewOptions::default().kept_ms - 1);
    assert_eq!(world.previews.purge().await.unwrap(), 0);
    assert_eq!(world.bench.download(&image_of(&preview)).await.unwrap(), png(3, 2));
    world.pass(1);
    assert_eq!(world.previews.purge().await.unwrap(), 2);
    assert!(matches!(world.bench.download(&image_of(&preview)).await, Err(Error::NotFound)));
    assert_eq!(world.count::<UrlPreviewRow>().await, 0);
    assert_eq!(
        (world.count::<MediaRow>().await, world.bench.files().len()),
        (1, 1),
        "what is quarantined is kept, hidden"
    );
    world.asked();
    assert_ne!(image_of(&world.look(PAGE).await.unwrap()), image_of(&preview));
    assert_eq!(world.asked(), [PAGE, IMAGE]);
}

#[tokio::test]
async fn cm11_what_is_too_old_is_shown_to_nobody_even_before_it_is_gone() {
    let world = World::new().await;
    world.site(PAGE, html("<title>One</title>"));
    let begin = world.bench.clock.now_ms();
    world.look(PAGE).await.unwrap();
    world.site(PAGE, html("<title>Two</title>"));
    world.pass(PreviewOptions::default().kept_ms);
    assert_eq!(world.look_at(PAGE, begin).await, json!({ "og:title": "Two" }));
}

#[tokio::test]
async fn cm11_previews_and_their_images_are_bounded() {
    let size = u64::try_from(png(3, 2).len()).unwrap();
    let options = PreviewOptions { previews_max: 6, bytes_max: 4 * size, ..PreviewOptions::default() };
    let world = World::with(options).await;
    world.previews.purge().await.unwrap();
    world.site(IMAGE, reply("image/png", png(3, 2)));
    let mut images = Vec::new();
    for n in 0..8 {
        let url = format!("https://a.example/{n}");
        world.site(&url, html(HTML));
        images.push(world.look(&url).await.unwrap().get("og:image").is_some());
        world.pass(1);
    }
    assert_eq!(images, [true, true, true, true, false, false, false, false], "no more than there is room for");
    assert_eq!(world.previews.purge().await.unwrap(), 2, "the oldest");
    assert_eq!((world.count::<UrlPreviewRow>().await, world.count::<MediaRow>().await), (6, 2));
    world.site("https://a.example/again", html(HTML));
    assert!(world.look("https://a.example/again").await.unwrap().get("og:image").is_some());
}

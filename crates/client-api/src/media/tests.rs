//! The media routes as a client sees them, on the in-memory store.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use endpoint::requester::Origin;
use endpoint::{Lookup, Options, Session, Sessions, layers};
use http::Request;
use store::model::Model;
use store::tables::media::MediaRow;
use store::{Clock, CommitBatch, Entropy, Store};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;

const UPLOAD: &str = "/_matrix/media/v3/upload";

#[derive(Clone)]
struct World {
    door: Arc<Door>,
    media: Media,
}

impl FromRef<World> for Arc<Door> {
    fn from_ref(world: &World) -> Self {
        Arc::clone(&world.door)
    }
}

impl FromRef<World> for Media {
    fn from_ref(world: &World) -> Self {
        world.media.clone()
    }
}

/// Every token is the name of a user.
struct Names;

#[async_trait]
impl Sessions for Names {
    async fn session(&self, token: &str, _: &Origin) -> Result<Lookup, Error> {
        Ok(Lookup::Known(Session {
            user_id: format!("@{token}:example.org").into(),
            device_id: None,
            guest: token == "guest",
            admin: false,
            locked: false,
            suspended: false,
            rate_limited: false,
            oauth: false,
        }))
    }
}

/// Each look at the clock is a millisecond later.
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
}

impl Entropy for Ticking {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(167).to_le_bytes()[0];
        }
    }
}

struct Bench {
    router: Router,
    media: Media,
    store: Store,
    _directory: TempDir,
}

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn errcode(&self) -> String {
        self.json()["errcode"].as_str().unwrap_or_default().to_owned()
    }
}

async fn bench(change: impl FnOnce(&mut media::Options)) -> Bench {
    bench_with(change, None).await
}

async fn bench_with(change: impl FnOnce(&mut media::Options), remote: Option<Arc<dyn media::Remote>>) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Ticking(AtomicU64::new(1000)));
    let mut options = media::Options::new("example.org", directory.path());
    change(&mut options);
    let store = Store::new(Arc::new(Model::new())).await.unwrap();
    let blocking = Arc::new(|job: media::Job| job());
    let media = Media::open(options, store.clone(), clock.clone(), clock.clone(), blocking, remote).await.unwrap();
    let door = Arc::new(Door::new(Arc::new(Names), clock, Options::default()));
    let router = layers::wrap(routes::<World>().with_state(World { door, media: media.clone() }));
    Bench { router, media, store, _directory: directory }
}

impl Bench {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn ask(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// As alice.
    async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let headers = [&[("authorization", "Bearer alice")], headers].concat();
        self.ask(Method::GET, uri, &headers, "").await
    }

    /// Uploads as alice and returns `server/id`.
    async fn upload(&self, content_type: &str, query: &str, body: impl Into<Body>) -> String {
        let headers = [("authorization", "Bearer alice"), ("content-type", content_type)];
        let answer = self.ask(Method::POST, &format!("{UPLOAD}{query}"), &headers, body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
    }
}

fn at(route: &str, address: &str) -> String {
    format!("/_matrix/client/v1/media/{route}/{address}")
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(width, height).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn cm1_what_is_uploaded_is_served() {
    let bench = bench(|_| {}).await;
    for prefix in MEDIA {
        let headers = [("authorization", "Bearer alice"), ("content-type", "text/plain; charset=UTF-8")];
        let answer = bench.ask(Method::POST, &format!("{prefix}/upload"), &headers, "hello").await;
        let uri = answer.json()["content_uri"].as_str().unwrap().to_owned();
        let address = uri.strip_prefix("mxc://example.org/").unwrap();
        assert!(address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{address}");
        let answer = bench.get(&at("download/example.org", address), &[]).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"hello".as_slice()));
        assert_eq!(answer.header("content-type"), "text/plain; charset=UTF-8");
        assert_eq!(answer.header("content-length"), "5");
    }
    let untyped = bench.ask(Method::POST, UPLOAD, &[("authorization", "Bearer alice")], "x").await;
    let address = untyped.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let answer = bench.get(&at("download", &address), &[]).await;
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("content-disposition"), "attachment");
}

#[tokio::test]
async fn cm1_too_much_is_refused() {
    let bench = bench(|options| {
        options.upload_bytes_max = 10;
        options.user_bytes_max = Some(15);
    })
    .await;
    let config = bench.get("/_matrix/client/v1/media/config", &[]).await;
    assert_eq!(config.json(), json!({ "m.upload.size": 10 }));
    let token = ("authorization", "Bearer alice");
    let announced = bench.ask(Method::POST, UPLOAD, &[token, ("content-length", "11")], "hello world").await;
    assert_eq!((announced.status, announced.errcode().as_str()), (413, "M_TOO_LARGE"));
    let chunks = stream_of(&["hello ", "wor", "ld"]);
    let unannounced = bench.ask(Method::POST, UPLOAD, &[token], chunks).await;
    assert_eq!((unannounced.status, unannounced.errcode().as_str()), (413, "M_TOO_LARGE"));
    bench.upload("text/plain", "", "0123456789").await;
    let over = bench.ask(Method::POST, UPLOAD, &[token], "012345").await;
    assert_eq!((over.status, over.errcode().as_str()), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn cm1_large_files_come_and_go_in_chunks() {
    let bench = bench(|_| {}).await;
    let bytes: Vec<u8> = (0..900_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let chunks: Vec<Result<Bytes, std::io::Error>> =
        bytes.chunks(70_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let address = bench.upload("text/plain", "", Body::from_stream(futures_util::stream::iter(chunks))).await;
    let answer = bench.get(&at("download", &address), &[]).await;
    assert_eq!(answer.header("content-length"), "900000");
    assert!(answer.body == bytes);
}

#[tokio::test]
async fn cm1_a_client_that_asks_first_need_not_send() {
    let bench = bench(|options| options.upload_bytes_max = 10).await;
    let headers = [("authorization", "Bearer alice"), ("content-length", "11"), ("expect", "100-continue")];
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let answer = bench.ask(Method::POST, UPLOAD, &headers, body).await;
    assert_eq!((answer.status, answer.errcode().as_str()), (413, "M_TOO_LARGE"));
}

#[tokio::test]
async fn cm1_an_upload_that_breaks_off_is_none() {
    let bench = bench(|options| options.user_files_max = Some(1)).await;
    let chunks = [Ok("some"), Err(std::io::Error::other("gone"))];
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    let broken = bench.ask(Method::POST, UPLOAD, &[("authorization", "Bearer alice")], body).await;
    assert_eq!((broken.status, broken.errcode().as_str()), (400, "M_UNKNOWN"));
    bench.upload("text/plain", "", "the quota is untouched").await;
}

fn stream_of(chunks: &[&'static str]) -> Body {
    let chunks: Vec<Result<&'static str, std::io::Error>> = chunks.iter().map(|chunk| Ok(*chunk)).collect();
    Body::from_stream(futures_util::stream::iter(chunks))
}

#[tokio::test]
async fn cm2_content_may_come_after_its_address() {
    let bench = bench(|_| {}).await;
    let alice = ("authorization", "Bearer alice");
    let created = bench.ask(Method::POST, "/_matrix/media/v1/create", &[alice], "{}").await.json();
    assert!(created["unused_expires_at"].as_i64().unwrap() > 24 * 60 * 60 * 1000);
    let address = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let early = bench.get(&format!("{}?timeout_ms=0", at("download", &address)), &[]).await;
    assert_eq!((early.status, early.errcode().as_str()), (504, "M_NOT_YET_UPLOADED"));
    let put = format!("{UPLOAD}/{address}");
    let stranger = bench.ask(Method::PUT, &put, &[("authorization", "Bearer bob")], "x").await;
    assert_eq!((stranger.status, stranger.errcode().as_str()), (403, "M_FORBIDDEN"));
    let waiting = at("download", &address);
    let token = [alice];
    let (waited, done) = tokio::join!(bench.get(&waiting, &[]), bench.ask(Method::PUT, &put, &token, "later"));
    assert_eq!((done.status, done.json()), (200, json!({})));
    assert_eq!((waited.status, waited.body.as_slice()), (200, b"later".as_slice()));
    let again = bench.ask(Method::PUT, &put, &[alice], "x").await;
    assert_eq!((again.status, again.errcode().as_str()), (409, "M_CANNOT_OVERWRITE_MEDIA"));
    let never = bench.ask(Method::PUT, &format!("{UPLOAD}/example.org/never"), &[alice], "x").await;
    assert_eq!((never.status, never.errcode().as_str()), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn cm2_addresses_without_content_are_few_and_lapse() {
    // Each look at the clock is a millisecond later.
    let bench = bench(|options| {
        options.pending_max = 2;
        options.pending_ms = 2_000;
    })
    .await;
    let alice = ("authorization", "Bearer alice");
    let create = async |token| bench.ask(Method::POST, "/_matrix/media/v1/create", &[token], "").await;
    let first = create(alice).await.json();
    let address = first["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    assert_eq!(create(alice).await.status, 200);
    let third = create(alice).await;
    assert_eq!((third.status, third.errcode().as_str()), (429, "M_LIMIT_EXCEEDED"));
    assert!(third.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(create(("authorization", "Bearer bob")).await.status, 200, "others are counted by themselves");
    for route in ["download", "thumbnail"] {
        let uri = format!("{}?width=4&height=4&timeout_ms=3", at(route, &address));
        let early = bench.get(&uri, &[]).await;
        assert_eq!((early.status, early.errcode().as_str()), (504, "M_NOT_YET_UPLOADED"), "{route}");
    }
    while bench.get(&format!("{}?timeout_ms=0", at("download", &address)), &[]).await.status == 504 {}
    let late = bench.get(&at("download", &address), &[]).await;
    assert_eq!((late.status, late.errcode().as_str()), (404, "M_NOT_FOUND"), "nobody waits for what has lapsed");
    let put = bench.ask(Method::PUT, &format!("{UPLOAD}/{address}"), &[alice], "x").await;
    assert_eq!((put.status, put.errcode().as_str()), (404, "M_NOT_FOUND"));
    assert_eq!(create(alice).await.status, 200, "and it counts no more");
}

#[tokio::test]
async fn cm3_who_may_ask() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("image/png", "", png(8, 8)).await;
    let thumbnail = format!("{}?width=4&height=4", at("thumbnail", &address));
    let reads = [at("download", &address), at("download", &address) + "/x.png", thumbnail];
    let configs = ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config"];
    for uri in reads.iter().map(String::as_str).chain(configs) {
        let nobody = bench.ask(Method::GET, uri, &[], "").await;
        assert_eq!((nobody.status, nobody.errcode().as_str()), (401, "M_MISSING_TOKEN"), "{uri}");
        let guest = bench.ask(Method::GET, uri, &[("authorization", "Bearer guest")], "").await;
        // Guests read, and upload nothing.
        let expected = if configs.contains(&uri) { 403 } else { 200 };
        assert_eq!(guest.status, expected, "{uri}");
    }
    let guest = bench.ask(Method::POST, UPLOAD, &[("authorization", "Bearer guest")], "x").await;
    assert_eq!((guest.status, guest.errcode().as_str()), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    // The old routes have nothing, not even for those with a token.
    for uri in reads {
        let old = uri.replace("/_matrix/client/v1/media", "/_matrix/media/v3");
        assert_eq!(bench.ask(Method::GET, &old, &[], "").await.errcode(), "M_NOT_FOUND", "{old}");
        assert_eq!(bench.get(&old, &[]).await.status, 404, "{old}");
    }
}

#[tokio::test]
async fn cm3_the_old_routes_serve_what_is_older_than_the_freeze() {
    let bench = bench(|_| {}).await;
    let picture = png(8, 8);
    let address = bench.upload("image/png", "?filename=old.png", picture.clone()).await;
    let (server, id) = address.split_once('/').unwrap();
    let mut row: MediaRow = bench.store.get(vec![server.into(), id.into()]).await.unwrap().unwrap();
    row.unauthenticated = true;
    let mut batch = CommitBatch::new();
    batch.put(row);
    bench.store.commit(batch).await.unwrap();
    for prefix in MEDIA {
        for (path, width, name) in [
            (format!("download/{address}"), 8, "old.png"),
            (format!("download/{address}/new.png"), 8, "new.png"),
            (format!("download/{address}?allow_remote=false&allow_redirect=true"), 8, "old.png"),
            (format!("thumbnail/{address}?width=4&height=4"), 4, "thumbnail.png"),
        ] {
            let answer = bench.ask(Method::GET, &format!("{prefix}/{path}"), &[], "").await;
            assert_eq!(answer.status, 200, "{prefix} {path}");
            assert_eq!(image::load_from_memory(&answer.body).unwrap().width(), width, "{prefix} {path}");
            assert_eq!(answer.header("content-type"), "image/png");
            assert_eq!(answer.header("content-disposition"), format!("inline; filename=\"{name}\""));
            check_safe(&answer);
        }
    }
}

/// What keeps a browser from running content or taking it for something else.
fn check_safe(answer: &Answer) {
    assert!(answer.header("content-security-policy").starts_with("sandbox; default-src 'none';"));
    assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn cm4_nothing_that_runs_is_shown_in_place() {
    let bench = bench(|_| {}).await;
    for (content_type, disposition) in [
        ("text/plain; charset=utf-8", "inline"),
        ("IMAGE/PNG", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/pdf", "attachment"),
        ("nonsense", "attachment"),
    ] {
        let address = bench.upload(content_type, "", "<script>").await;
        let answer = bench.get(&at("download", &address), &[]).await;
        assert_eq!(answer.header("content-disposition"), disposition, "{content_type}");
        assert_eq!(answer.header("content-type"), content_type);
        check_safe(&answer);
    }
}

#[tokio::test]
async fn cm4_thumbnails_are_as_safe_whether_made_stored_or_the_original() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("image/png", "", png(8, 8)).await;
    for query in ["width=4&height=4", "width=4&height=4", "width=80&height=80"] {
        let answer = bench.get(&format!("{}?{query}", at("thumbnail", &address)), &[]).await;
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.header("content-disposition").starts_with("inline"), "{query}");
        check_safe(&answer);
    }
}

#[tokio::test]
async fn cm5_file_names() {
    let bench = bench(|_| {}).await;
    let check = async |query: &str, suffix: &str, expected: &str| {
        let address = bench.upload("image/png", query, "x").await;
        let answer = bench.get(&(at("download", &address) + suffix), &[]).await;
        assert_eq!(answer.header("content-disposition"), expected, "{query} {suffix}");
    };
    check("", "", "inline").await;
    check("?filename=", "", "inline").await;
    check("?filename=my%20cat.png", "", "inline; filename=\"my cat.png\"").await;
    check("?filename=%F0%9F%90%B1.png", "", "inline; filename*=utf-8''%F0%9F%90%B1.png").await;
    check("?filename=cat.png", "/dog.png", "inline; filename=\"dog.png\"").await;
    check("?filename=cat.png", "/%C3%A9%2F%22.png", "inline; filename*=utf-8''%C3%A9%2F%22.png").await;
    check("?filename=a%0D%0Ab", "", "inline; filename*=utf-8''a%0D%0Ab").await;
}

#[tokio::test]
async fn cm7_addresses_that_lead_elsewhere() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("text/plain", "", "x").await;
    let id = address.split_once('/').unwrap().1;
    for bad in [
        "example.org/..%2F..%2Fetc%2Fpasswd".to_owned(),
        "example.org/%2e%2e".to_owned(),
        "..%2F..%2F/passwd".to_owned(),
        format!("%2e%2e/{id}"),
        format!("example.org%2F..%2Fexample.org/{id}"),
        format!("example.org/{id}%00"),
        format!("example.org/{id}."),
        "example.org/never".to_owned(),
        format!("elsewhere.org/{id}"),
    ] {
        for uri in [at("download", &bad), at("download", &bad) + "/x", at("thumbnail", &bad) + "?width=1&height=1"] {
            let answer = bench.get(&uri, &[]).await;
            assert_eq!((answer.status, answer.errcode().as_str()), (404, "M_NOT_FOUND"), "{uri}");
        }
    }
}

#[tokio::test]
async fn cm8_thumbnails() {
    let bench = bench(|options| options.pixels_max = 10_000).await;
    let address = bench.upload("image/png", "?filename=big.bmp", png(80, 40)).await;
    let ask = async |address: &str, query: &str| bench.get(&format!("{}?{query}", at("thumbnail", address)), &[]).await;
    for (query, size) in [
        ("width=20&height=20&method=crop", (20, 20)),
        ("width=20&height=20&method=scale", (40, 20)),
        ("width=20&height=20", (40, 20)),
        ("width=100&height=100&method=crop", (80, 40)),
    ] {
        let answer = ask(&address, query).await;
        let image = image::load_from_memory(&answer.body).unwrap();
        assert_eq!((image.width(), image.height()), size, "{query}");
        assert_eq!(answer.header("content-type"), "image/png");
        assert!(answer.header("content-disposition").starts_with("inline; filename="), "{query}");
    }
    for (query, errcode) in [
        ("width=20", "M_MISSING_PARAM"),
        ("height=20", "M_MISSING_PARAM"),
        ("width=-1&height=20", "M_INVALID_PARAM"),
        ("width=1.5&height=20", "M_INVALID_PARAM"),
        ("width=0&height=20", "M_INVALID_PARAM"),
        ("width=20&height=20&method=stretch", "M_INVALID_PARAM"),
    ] {
        let answer = ask(&address, query).await;
        assert_eq!((answer.status, answer.errcode().as_str()), (400, errcode), "{query}");
    }
    let text = bench.upload("image/png", "", "no image").await;
    let answer = ask(&text, "width=1&height=1").await;
    assert_eq!((answer.status, answer.errcode().as_str()), (400, "M_UNKNOWN"));
    let bomb = bench.upload("image/png", "", png(101, 100)).await;
    let answer = ask(&bomb, "width=1&height=1").await;
    assert_eq!((answer.status, answer.errcode().as_str()), (413, "M_TOO_LARGE"));
}

/// A GIF of two frames.
fn moving(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for shade in [0, 255] {
        let picture = image::RgbaImage::from_pixel(width, height, image::Rgba([shade, shade, shade, 255]));
        encoder.encode_frame(image::Frame::new(picture)).unwrap();
    }
    drop(encoder);
    bytes
}

fn frames(gif: &[u8]) -> usize {
    use image::AnimationDecoder as _;
    let decoder = image::codecs::gif::GifDecoder::new(std::io::Cursor::new(gif)).unwrap();
    decoder.into_frames().collect_frames().unwrap().len()
}

#[tokio::test]
async fn cm9_thumbnails_move_only_where_they_are_asked_to() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("image/gif", "", moving(16, 16)).await;
    // Twice: made, then stored.
    for (query, n_frames) in [("animated=true", 2), ("animated=false", 1), ("", 1)].repeat(2) {
        let uri = format!("{}?width=8&height=8&{query}", at("thumbnail", &address));
        let answer = bench.get(&uri, &[]).await;
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(image::load_from_memory(&answer.body).unwrap().width(), 8, "{query}");
        let found = if answer.header("content-type") == "image/gif" { frames(&answer.body) } else { 1 };
        assert_eq!(found, n_frames, "{query}");
    }
    let answer = bench.get(&format!("{}?width=8&height=8&animated=maybe", at("thumbnail", &address)), &[]).await;
    assert_eq!((answer.status, answer.errcode().as_str()), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn cm8_an_image_of_another_server_that_is_too_large_is_its_fault() {
    let change = |options: &mut media::Options| options.pixels_max = 10_000;
    let bench = bench_with(change, Some(Arc::new(Elsewhere))).await;
    let picture = bench.get(&at("thumbnail", "elsewhere.org/picture?width=20&height=20"), &[]).await;
    assert_eq!((picture.status, picture.errcode().as_str()), (502, "M_TOO_LARGE"));
    assert_eq!(bench.get(&at("download", "elsewhere.org/picture"), &[]).await.status, 200);
}

#[tokio::test]
async fn cm12_parts_and_what_is_known_already() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("video/mp4", "", "0123456789").await;
    let uri = at("download", &address);
    let whole = bench.get(&uri, &[]).await;
    assert_eq!((whole.status, whole.header("accept-ranges")), (200, "bytes"));
    assert!(whole.header("cache-control").contains("immutable") && whole.header("cache-control").contains("private"));
    let tag = whole.header("etag").to_owned();
    let known = bench.get(&uri, &[("if-none-match", &format!("\"x\", W/{tag}"))]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let part = bench.get(&uri, &[("range", "bytes=2-4"), ("if-range", &tag)]).await;
    assert_eq!((part.status, part.body.as_slice()), (206, b"234".as_slice()));
    assert_eq!((part.header("content-range"), part.header("content-length")), ("bytes 2-4/10", "3"));
    let changed = bench.get(&uri, &[("range", "bytes=2-4"), ("if-range", "\"other\"")]).await;
    assert_eq!((changed.status, changed.body.len()), (200, 10));
    let beyond = bench.get(&uri, &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
    let head = bench.ask(Method::HEAD, &uri, &[("authorization", "Bearer alice")], "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "10", 0));
    assert_eq!(head.header("content-type"), "video/mp4");
}

#[tokio::test]
async fn cm12_thumbnails_are_known_again_too() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("image/png", "", png(80, 80)).await;
    let uri = format!("{}?width=20&height=20", at("thumbnail", &address));
    bench.get(&uri, &[]).await;
    let kept = bench.get(&uri, &[]).await;
    assert!(kept.header("cache-control").contains("immutable"));
    let tag = kept.header("etag").to_owned();
    let known = bench.get(&uri, &[("if-none-match", &tag)]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = bench.ask(Method::HEAD, &uri, &[("authorization", "Bearer alice")], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), kept.body.len().to_string());
    let part = bench.get(&uri, &[("range", "bytes=0-3")]).await;
    assert_eq!((part.status, part.body.as_slice()), (206, kept.body.get(..4).unwrap()));
}

#[tokio::test]
async fn cm13_quarantined_media_is_gone_from_every_route() {
    let bench = bench(|_| {}).await;
    let address = bench.upload("image/png", "", png(8, 8)).await;
    let thumbnail = format!("{}?width=4&height=4", at("thumbnail", &address));
    assert_eq!(bench.get(&thumbnail, &[]).await.status, 200);
    let mxc = Mxc::parse(&format!("mxc://{address}")).unwrap();
    bench.media.quarantine(&mxc, Some("@admin:example.org")).await.unwrap();
    for uri in [at("download", &address), at("download", &address) + "/x", thumbnail.clone()] {
        assert_eq!(bench.get(&uri, &[]).await.errcode(), "M_NOT_FOUND", "{uri}");
        let known = bench.get(&uri, &[("if-none-match", "*"), ("range", "bytes=0-")]).await;
        assert_eq!(known.status, 404, "{uri}: also for those who have it");
    }
    bench.media.quarantine(&mxc, None).await.unwrap();
    let download = at("download", &address);
    assert_eq!(bench.get(&download, &[]).await.status, 200);
    bench.media.delete(&mxc).await.unwrap();
    for uri in [download, thumbnail] {
        assert_eq!(bench.get(&uri, &[]).await.errcode(), "M_NOT_FOUND", "{uri}");
    }
}

/// Another server, which has a picture and a file that is too large.
struct Elsewhere;

#[async_trait::async_trait]
impl media::Remote for Elsewhere {
    async fn fetch(&self, mxc: &Mxc, into: &mut media::Incoming) -> Result<Label, media::Error> {
        match mxc.media_id() {
            "picture" => into.push(png(200, 100).into()).await?,
            "large" => into.push(vec![0; 10_001].into()).await?,
            "later" => return Err(media::Error::NotYetUploaded),
            "broken" => return Err(media::Error::RemoteFailed),
            _ => return Err(media::Error::NotFound),
        }
        Ok(Label { content_type: Some("image/png".to_owned()), file_name: Some("größe.png".to_owned()) })
    }
}

#[tokio::test]
async fn cm3_cm5_cm10_media_of_other_servers() {
    let bench = bench_with(|options| options.upload_bytes_max = 10_000, Some(Arc::new(Elsewhere))).await;
    let picture = bench.get(&at("download", "elsewhere.org/picture"), &[]).await;
    assert_eq!((picture.status, &picture.body), (200, &png(200, 100)));
    assert_eq!(picture.header("content-type"), "image/png");
    assert_eq!(picture.header("content-disposition"), "inline; filename*=utf-8''gr%C3%B6%C3%9Fe.png");
    let renamed = bench.get(&at("download", "elsewhere.org/picture/mine.png"), &[]).await;
    assert_eq!(renamed.header("content-disposition"), "inline; filename=\"mine.png\"");
    let thumbnail = bench.get(&at("thumbnail", "elsewhere.org/picture?width=20&height=20"), &[]).await;
    assert_eq!(thumbnail.status, 200);
    assert_eq!(image::load_from_memory(&thumbnail.body).unwrap().height(), 20);
    for (path, status, errcode) in [
        ("elsewhere.org/large", 502, "M_TOO_LARGE"),
        ("elsewhere.org/broken", 502, "M_UNKNOWN"),
        ("elsewhere.org/none", 404, "M_NOT_FOUND"),
        ("example.org/picture", 404, "M_NOT_FOUND"),
        ("elsewhere.org/later?timeout_ms=0", 504, "M_NOT_YET_UPLOADED"),
        ("..%2Felsewhere.org/picture", 404, "M_NOT_FOUND"),
    ] {
        let answer = bench.get(&at("download", path), &[]).await;
        assert_eq!((answer.status, answer.errcode().as_str()), (status, errcode), "{path}");
    }
    for old in ["download/elsewhere.org/picture", "thumbnail/elsewhere.org/picture?width=20&height=20"] {
        let answer = bench.get(&format!("/_matrix/media/v3/{old}"), &[]).await;
        assert_eq!((answer.status, answer.errcode().as_str()), (404, "M_NOT_FOUND"), "{old}");
    }
}

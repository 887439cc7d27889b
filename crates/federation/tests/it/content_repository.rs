//! Media of other servers: how it is asked for, what is kept of the answers, and what becomes of those that are wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use federation::client::{Client, Reach};
use federation::content_repository::RemoteMedia;
use federation::transport::{Incoming, Limits, Outgoing, Transport, TransportError};
use futures_util::{StreamExt, stream};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use media::{Content, Door, Error, Media, Mxc, Options};
use parking_lot::Mutex;
use store::model::Model;
use store::{Clock, Entropy, Store};

use crate::harness::{US, key};

const FILE: &str = "mxc://two.test/file";
const SIGNED: &str = "two.test/_matrix/federation/v1/media/download/file?timeout_ms=5000";
const LEGACY: &str = "two.test/_matrix/media/v3/download/two.test/file?allow_remote=false&timeout_ms=5000";
/// The headers of content that has nothing else to say; the parser wants one.
const PLAIN: &str = "Content-Type: application/octet-stream\r\n";
const ELSEWHERE: &str = "https://cdn.test/x?key=secret";

/// An answer, chunk by chunk.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    chunks: Vec<Bytes>,
    broken: bool,
}

impl Answer {
    fn of(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, chunks: vec![body.into()], broken: false }
    }

    fn error(status: u16, errcode: &str) -> Self {
        Self::of(status, "application/json", format!(r#"{{"errcode":"{errcode}","error":""}}"#))
    }

    fn parts(body: impl Into<Bytes>) -> Self {
        Self::of(200, "multipart/mixed; boundary=\"a b\"", body)
    }

    /// The two parts that the specification wants, the second with these headers.
    fn two(headers: &str, content: &str) -> Self {
        let head = "--a b\r\nContent-Type: application/json\r\n\r\n{}";
        Self::parts(format!("{head}\r\n--a b\r\n{headers}\r\n{content}\r\n--a b--\r\n"))
    }

    /// In chunks of a byte each.
    fn in_crumbs(self) -> Self {
        let chunks = self.chunks.concat().into_iter().map(|byte| Bytes::from(vec![byte])).collect();
        Self { chunks, ..self }
    }
}

/// A network where answers lie ready, by server and path, or by URL.
#[derive(Default)]
struct Shelf {
    answers: Mutex<BTreeMap<String, Answer>>,
    /// What was asked for, and whether the request was signed.
    asked: Mutex<Vec<(String, bool)>>,
    /// Chunks that were taken of all answers.
    taken: Arc<AtomicUsize>,
}

impl Shelf {
    fn put(&self, at: &str, answer: Answer) {
        self.answers.lock().insert(at.to_owned(), answer);
    }

    fn take(&self, at: String, signed: bool) -> Result<Incoming, TransportError> {
        let answer = self.answers.lock().get(&at).cloned();
        self.asked.lock().push((at.clone(), signed));
        let answer = answer.ok_or(TransportError::NotFound(at))?;
        let header = |(name, value): (&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let headers: HeaderMap = answer.headers.into_iter().map(header).collect();
        let end = answer.broken.then(|| Err(TransportError::Connection("broken".to_owned())));
        let chunks = answer.chunks.into_iter().map(Ok).chain(end).map(|chunk| chunk.map(Frame::data));
        let taken = Arc::clone(&self.taken);
        let chunks = stream::iter(chunks).inspect(move |_| {
            taken.fetch_add(1, Ordering::Relaxed);
        });
        let status = StatusCode::from_u16(answer.status).unwrap();
        Ok(Incoming { status, headers, body: StreamBody::new(chunks).boxed_unsync() })
    }
}

#[async_trait]
impl Transport for Shelf {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let signed = request.headers.contains_key(AUTHORIZATION);
        self.take(format!("{}{}", request.destination, request.path_and_query), signed)
    }

    async fn fetch(&self, url: &str, _: Limits) -> Result<Incoming, TransportError> {
        self.take(url.to_owned(), false)
    }
}

struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Entropy for Ticking {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(167).to_le_bytes()[0];
        }
    }
}

/// A media store that fetches from a shelf.
struct Bench {
    media: Media,
    shelf: Arc<Shelf>,
    clock: Arc<Ticking>,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with(100, &[]).await
    }

    async fn with(bytes_max: u64, denied: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (shelf, clock) = (Arc::new(Shelf::default()), Arc::new(Ticking(AtomicI64::new(1_000_000))));
        let denied: Vec<String> = denied.iter().map(ToString::to_string).collect();
        let transport = Arc::clone(&shelf) as Arc<dyn Transport>;
        let client = Client::new(US, Arc::new(key(US)), transport, Reach::new(None, &denied));
        let options = Options { upload_bytes_max: bytes_max, ..Options::new(US, directory.path()) };
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        let (remote, blocking) = (Arc::new(RemoteMedia::new(client)), Arc::new(|job: media::Job| job()));
        let media = Media::open(options, store, clock.clone(), clock.clone(), blocking, Some(remote)).await.unwrap();
        Self { media, shelf, clock, _directory: directory }
    }

    async fn get(&self, uri: &str) -> Result<Content, Error> {
        self.media.content(&Mxc::parse(uri).unwrap(), Door::Authenticated).await
    }

    /// The file as text, once the other server answers so.
    async fn told(&self, answer: Answer) -> Result<String, Error> {
        self.shelf.put(SIGNED, answer);
        Ok(read(self.get(FILE).await?).await)
    }

    fn asked(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut *self.shelf.asked.lock())
    }
}

async fn read(content: Content) -> String {
    let mut reader = content.open(None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        bytes.extend(chunk);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn cm6_media_of_another_server_comes_in_two_parts_and_once() {
    let bench = Bench::new().await;
    let headers = "Content-Type: text/plain\r\nContent-Disposition: inline; filename*=utf-8''n%C3%A4iv.txt\r\n";
    bench.shelf.put(SIGNED, Answer::two(headers, "Hello,\r\n--a world").in_crumbs());
    let content = bench.get(FILE).await.unwrap();
    assert_eq!((content.content_type.as_str(), content.file_name.as_deref()), ("text/plain", Some("näiv.txt")));
    assert_eq!(read(content).await, "Hello,\r\n--a world");
    assert_eq!(bench.asked(), [(SIGNED.to_owned(), true)]);
    assert_eq!(read(bench.get(FILE).await.unwrap()).await, "Hello,\r\n--a world");
    assert_eq!(bench.asked(), [], "it is kept");
}

#[tokio::test]
async fn cm5_what_has_no_name_gets_none() {
    let bench = Bench::new().await;
    bench.shelf.put(SIGNED, Answer::two(PLAIN, "x"));
    let content = bench.get(FILE).await.unwrap();
    assert_eq!((content.content_type.as_str(), content.file_name), ("application/octet-stream", None));
}

#[tokio::test]
async fn cm6_cm14_a_location_is_fetched_without_credentials_and_not_remembered() {
    let bench = Bench::new().await;
    bench.shelf.put(SIGNED, Answer::two(&format!("Location: {ELSEWHERE}\r\n"), ""));
    let headers =
        vec![("content-type", "image/png".to_owned()), ("content-disposition", "inline; filename=a.png".to_owned())];
    bench.shelf.put(ELSEWHERE, Answer { headers, ..Answer::of(200, "", "from elsewhere") });
    let content = bench.get(FILE).await.unwrap();
    assert_eq!((content.content_type.as_str(), content.file_name.as_deref()), ("image/png", Some("a.png")));
    assert_eq!(read(content).await, "from elsewhere");
    let both = [(SIGNED.to_owned(), true), (ELSEWHERE.to_owned(), false)];
    assert_eq!(bench.asked(), both);
    bench.media.delete(&Mxc::parse(FILE).unwrap()).await.unwrap();
    assert!(bench.get(FILE).await.is_ok());
    assert_eq!(bench.asked(), both, "the address is asked for again");

    let bench = Bench::new().await;
    bench.shelf.put(ELSEWHERE, Answer::error(404, "M_NOT_FOUND"));
    let gone = bench.told(Answer::two(&format!("Location: {ELSEWHERE}\r\n"), "")).await;
    assert!(matches!(gone, Err(Error::NotFound)), "{gone:?}");
}

#[tokio::test]
async fn cm6_cm14_the_old_route_is_for_servers_that_know_no_other() {
    let bench = Bench::new().await;
    let headers = vec![("content-type", "text/plain".to_owned()), ("content-disposition", "inline".to_owned())];
    bench.shelf.put(LEGACY, Answer { headers, ..Answer::of(200, "", "old") });
    assert_eq!(bench.told(Answer::error(404, "M_UNRECOGNIZED")).await.unwrap(), "old");
    assert_eq!(bench.asked(), [(SIGNED.to_owned(), true), (LEGACY.to_owned(), false)]);
    for (status, errcode) in
        [(404, "M_NOT_FOUND"), (404, ""), (403, "M_UNRECOGNIZED"), (405, "M_UNRECOGNIZED"), (500, "M_UNKNOWN")]
    {
        let bench = Bench::new().await;
        bench.shelf.put(LEGACY, Answer::of(200, "text/plain", "old"));
        assert!(bench.told(Answer::error(status, errcode)).await.is_err(), "{status} {errcode}");
        assert_eq!(bench.asked(), [(SIGNED.to_owned(), true)], "{status} {errcode}");
    }
}

#[tokio::test]
async fn cm10_refusals_of_the_other_server_have_their_meaning() {
    let refusal = async |answer: Answer| Bench::new().await.told(answer).await.unwrap_err();
    assert!(matches!(refusal(Answer::error(404, "M_NOT_FOUND")).await, Error::NotFound));
    assert!(matches!(refusal(Answer::error(502, "M_TOO_LARGE")).await, Error::RemoteTooLarge));
    assert!(matches!(refusal(Answer::error(504, "M_NOT_YET_UPLOADED")).await, Error::NotYetUploaded));
    assert!(matches!(refusal(Answer::error(500, "M_UNKNOWN")).await, Error::RemoteFailed));
    assert!(matches!(refusal(Answer::error(307, "")).await, Error::RemoteFailed), "no redirection is followed");
    let unreachable = Bench::new().await.get(FILE).await;
    assert!(matches!(unreachable, Err(Error::RemoteFailed)));
    let denied = Bench::with(100, &["two.test"]).await;
    assert!(matches!(denied.told(Answer::two(PLAIN, "x")).await, Err(Error::NotFound)));
    assert_eq!(denied.asked(), []);
}

/// SEC-media-answers.
#[tokio::test]
async fn cm10_what_is_too_large_or_broken_is_not_kept() {
    let large = "x".repeat(101);
    let by_location = |bench: &Bench, answer: Answer| {
        bench.shelf.put(ELSEWHERE, answer);
        Answer::two(&format!("Location: {ELSEWHERE}\r\n"), "")
    };
    let bench = Bench::new().await;
    assert!(matches!(bench.told(Answer::two(PLAIN, &large)).await, Err(Error::RemoteTooLarge)));
    let bench = Bench::new().await;
    let answer = by_location(&bench, Answer::of(200, "text/plain", large));
    assert!(matches!(bench.told(answer).await, Err(Error::RemoteTooLarge)));
    let bench = Bench::new().await;
    let answer = by_location(&bench, Answer { broken: true, ..Answer::of(200, "text/plain", "half") });
    assert!(matches!(bench.told(answer).await, Err(Error::RemoteFailed)));

    let whole = Answer::two(PLAIN, "content");
    let cut = |by: usize| {
        let text = whole.chunks.concat();
        Answer::parts(text[..text.len() - by].to_vec())
    };
    let mut broken = vec![
        Answer { broken: true, ..cut(5) },
        Answer::of(200, "text/html", whole.chunks.concat()),
        Answer::of(200, "multipart/form-data; boundary=\"a b\"", whole.chunks.concat()),
        Answer::of(200, "multipart/mixed", whole.chunks.concat()),
        Answer::of(200, "multipart/mixed; boundary=\"\"", whole.chunks.concat()),
        Answer::of(200, "multipart/mixed; boundary=other", whole.chunks.concat()),
        Answer { headers: Vec::new(), ..whole.clone() },
        Answer::parts(""),
        Answer::parts("--a b--\r\n"),
        Answer::parts("--a b\r\n\r\n{}\r\n--a b--\r\n"),
        Answer::parts("--a b\r\n\r\n{}\r\n--a b\r\nno header\r\n\r\nx\r\n--a b--\r\n"),
    ];
    // The end of the boundary's line, the boundary, the content.
    broken.extend((5..20).map(cut));
    for (number, answer) in broken.into_iter().enumerate() {
        let bench = Bench::new().await;
        let outcome = bench.told(answer).await;
        assert!(matches!(outcome, Err(Error::RemoteFailed)), "{number}: {outcome:?}");
    }
}

/// SEC-media-answers.
#[tokio::test]
async fn cm10_an_answer_without_end_is_given_up_before_it_fills_the_memory() {
    let filler: Vec<Bytes> = std::iter::repeat_n(Bytes::from(vec![b'x'; 64 << 10]), 1_000).collect();
    for begin in ["", "--a b\r\n", "--a b\r\n\r\n", "--a b\r\n\r\n{}\r\n--a b\r\nX: "] {
        let bench = Bench::with(u64::MAX, &[]).await;
        let chunks = [vec![Bytes::from(begin)], filler.clone()].concat();
        let outcome = bench.told(Answer { chunks, ..Answer::parts("") }).await;
        assert!(matches!(outcome, Err(Error::RemoteFailed)), "{begin:?}: {outcome:?}");
        let taken = bench.shelf.taken.load(Ordering::Relaxed);
        assert!(taken < 25, "{begin:?}: {taken} chunks of 64 KiB");
    }
}

#[tokio::test]
async fn cm10_failures_are_told_again_for_a_minute_only() {
    let bench = Bench::new().await;
    assert!(bench.told(Answer::error(404, "M_NOT_FOUND")).await.is_err());
    assert!(matches!(bench.told(Answer::two(PLAIN, "there now")).await, Err(Error::NotFound)));
    assert_eq!(bench.asked().len(), 1);
    bench.clock.0.fetch_add(61_000, Ordering::Relaxed);
    assert_eq!(bench.told(Answer::two(PLAIN, "there now")).await.unwrap(), "there now");
    assert_eq!(bench.asked().len(), 1);

    let bench = Bench::new().await;
    assert!(bench.told(Answer::error(504, "M_NOT_YET_UPLOADED")).await.is_err());
    assert_eq!(bench.told(Answer::two(PLAIN, "uploaded")).await.unwrap(), "uploaded", "that one is no failure");
}

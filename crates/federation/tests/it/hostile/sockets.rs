//! A peer that speaks HTTP by hand, to a server behind the program's own listener: what it writes costs nobody but itself.
//! After each of its deeds an honest transaction is accepted, at once.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Method;
use rooms::Room;
use serde_json::{Value, json};
use testkit::{Listening, Panics, RawPeer};
use tokio::time::Instant;

use super::{EVIL, GOOD};
use crate::harness::{Peer, World, id, user};

const VERSION: &str = "/_matrix/federation/v1/version";
const SEND: &str = "/_matrix/federation/v1/send/";
/// What a smuggled request would be answered with.
const SMUGGLED_STATUS: u16 = 404;
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
/// A header that makes the server read the body.
const SIGNED: &str = "Authorization: X-Matrix origin=\"evil.test\",key=\"ed25519:x\",sig=\"AAAA\"\r\n";
const MIB: usize = 1 << 20;

/// A server that listens, with a room that an honest peer is in.
struct Served {
    world: World,
    listening: Listening,
    room: Arc<Room>,
    honest: Peer,
    panics: Panics,
    sent: u32,
}

impl Served {
    /// On a clock that moves on when nothing else happens, so that what a server waits for comes at once.
    async fn new() -> Self {
        tokio::time::pause();
        let world = World::paused().await;
        let panics = Panics::watch();
        let listening = Listening::on_loopback(world.routes()).await;
        let room = world.room("10").await;
        let honest = Peer::new(GOOD);
        honest.join(&world, &room, "bob").await;
        Self { world, listening, room, honest, panics, sent: 0 }
    }

    async fn connect(&self) -> RawPeer {
        RawPeer::connect(self.listening.address).await
    }

    /// Writes bytes on a connection of their own; the statuses of all answers until the server closes it, if only because
    /// nothing more comes.
    async fn answers(&self, bytes: impl AsRef<[u8]>) -> Vec<u16> {
        let mut peer = self.connect().await;
        // The server may have closed before all was written.
        drop(peer.write(bytes).await);
        peer.answers().await
    }

    /// An honest transaction is accepted, and nothing broke before.
    async fn serves_on(&mut self, after: &str) {
        let begun = Instant::now();
        self.sent += 1;
        let message = self.honest.message(&self.world, &self.room, "bob", &self.sent.to_string()).await;
        let body = json!({ "origin": GOOD, "pdus": [crate::harness::value(&message)], "edus": [] });
        let mut peer = self.connect().await;
        let path = format!("{SEND}honest{}", self.sent);
        peer.write(self.honest.wire(&Method::PUT, &path, Some(&body))).await.unwrap();
        let answer = peer.answer().await.unwrap();
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &said["pdus"][id(&message)]), (200, &json!({})), "after {after}");
        self.world.federation.receive_due().await;
        assert_eq!(self.world.fate(&self.room, &id(&message)).await, None, "after {after}");
        assert!(begun.elapsed() < Duration::from_secs(10), "after {after}: {:?}", begun.elapsed());
        assert_eq!(self.panics.count(), 0, "after {after}");
    }
}

/// An unsigned `PUT /send` with these headers, each with its line end, and whatever follows.
fn put(headers: &str, rest: &str) -> String {
    format!("PUT {SEND}x HTTP/1.1\r\nHost: x\r\n{headers}\r\n{rest}")
}

/// Requests of which two servers in a row could think differently where they end, by name.
fn desynchronizing() -> Vec<(&'static str, String)> {
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let of = |name, headers: &str| (name, put(headers, &chunked));
    let mut all = vec![
        of("a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        of("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        of("chunks and a length beyond", "Transfer-Encoding: chunked\r\nContent-Length: 500\r\n"),
        of("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        of("chunks that are not the last coding", "Transfer-Encoding: chunked, identity\r\n"),
        of("an unknown coding", "Transfer-Encoding: xchunked\r\n"),
        of("a coding with a vertical tab", "Transfer-Encoding: \x0bchunked\r\n"),
        of("a folded coding", "Transfer-Encoding:\r\n chunked\r\n"),
        of("a folded header", "X: a\r\n Transfer-Encoding: chunked\r\n"),
        of("a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        of("a header without name", ": x\r\nTransfer-Encoding: chunked\r\n"),
        of("a bare return in a header", "X: a\rTransfer-Encoding: chunked\r\n"),
        of("a zero in a header", "X: a\0b\r\nTransfer-Encoding: chunked\r\n"),
        ("chunks in HTTP/1.0", put("Transfer-Encoding: chunked\r\n", &chunked).replace("HTTP/1.1", "HTTP/1.0")),
    ];
    for lengths in ["Content-Length: 0\r\nContent-Length: 37\r\n", "Content-Length: 37, 0\r\n"] {
        all.push(("two lengths", put(lengths, SMUGGLED)));
    }
    for length in ["+37", "-1", "0x25", "3 7", "", "37.0", "18446744073709551653", "٣"] {
        all.push(("an odd length", put(&format!("Content-Length: {length}\r\n"), SMUGGLED)));
    }
    for size in ["FFFFFFFFFFFFFFFF", "10000000000000000", "-1", "+0", "0x0", "0 0", "", "g"] {
        for signed in ["", SIGNED] {
            let headers = format!("{signed}Transfer-Encoding: chunked\r\n");
            all.push(("an odd size of a chunk", put(&headers, &format!("{size}\r\n\r\n{SMUGGLED}"))));
        }
    }
    all.push((
        "a chunk that is longer than it says",
        put("Transfer-Encoding: chunked\r\n", &format!("1\r\nab\r\n{chunked}")),
    ));
    all
}

/// SEC-request-smuggling.
#[tokio::test]
async fn no_request_hides_in_another() {
    let mut served = Served::new().await;
    for (name, bytes) in desynchronizing() {
        let answers = served.answers(&bytes).await;
        assert!(!answers.contains(&SMUGGLED_STATUS), "{name}: {answers:?} to {bytes}");
        assert!(answers.len() <= 1 && answers.iter().all(|status| matches!(status, 400 | 401)), "{name}: {answers:?}");
        served.serves_on(name).await;
    }
    // Where a body ends as all agree, the next request is one.
    let length = SMUGGLED.len();
    assert_eq!(served.answers(put(&format!("Content-Length: {length}\r\n"), SMUGGLED)).await, [401]);
    assert_eq!(served.answers(put("Content-Length: 0\r\n", SMUGGLED)).await, [401, SMUGGLED_STATUS]);
    let chunks = format!("1\r\n \r\n0\r\n\r\n{SMUGGLED}");
    assert_eq!(served.answers(put("Transfer-Encoding: chunked\r\n", &chunks)).await, [401, SMUGGLED_STATUS]);
}

/// SEC-request-smuggling: answers come in the order of the requests, however they are mixed and however they arrive.
#[tokio::test]
async fn pipelined_answers_are_never_swapped() {
    let mut served = Served::new().await;
    let mut bytes = Vec::new();
    for number in 0..50 {
        let name = served.world.register(&format!("user{number}")).await;
        served.world.users.put_profile_field(&name, "displayname", json!(name.as_str())).await.unwrap();
        let path = format!("/_matrix/federation/v1/query/profile?user_id={name}");
        bytes.extend(served.honest.wire(&Method::GET, &path, None));
        bytes.extend(put(&format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED).bytes());
        bytes.extend(served.honest.wire(&Method::POST, "/_matrix/federation/v1/user/keys/query", Some(&json!({}))));
    }
    for piece in [bytes.len(), 7, 1_000] {
        let mut peer = served.connect().await;
        let mut numbers = 0..50;
        let writes = async {
            let mut answers = Vec::new();
            for chunk in bytes.chunks(piece) {
                peer.write(chunk).await.unwrap();
            }
            for _ in 0..150 {
                answers.push(peer.answer().await.unwrap());
            }
            answers
        };
        let answers = writes.await;
        for three in answers.chunks(3) {
            let [profile, refused, keys] = three else { unreachable!() };
            let profile: Value = serde_json::from_slice(&profile.body).unwrap();
            let expected = user(&format!("user{}", numbers.next().unwrap()));
            assert_eq!(profile["displayname"], expected.as_str());
            assert_eq!((refused.status, keys.status), (401, 400));
        }
    }
    served.serves_on("pipelining").await;
}

/// SEC-slow-peers: a body or a head that never comes is waited for within bounds, and holds up nobody.
#[tokio::test]
async fn what_never_comes_is_not_waited_for() {
    let mut served = Served::new().await;
    let never = [
        "GET /_matrix/federation/v1/ver".to_owned(),
        "GET /_matrix/federation/v1/version HTTP/1.1\r\nHost: x\r\nX: ".to_owned(),
        put("Content-Length: 1000\r\n", "{"),
        put(&format!("{SIGNED}Content-Length: 1000\r\n"), "{"),
        put(&format!("{SIGNED}Content-Length: 1000\r\n"), ""),
        put(&format!("{SIGNED}Transfer-Encoding: chunked\r\n"), "1\r\n{\r\n"),
        put(&format!("{SIGNED}Transfer-Encoding: chunked\r\n"), "ff"),
    ];
    let mut peers = Vec::new();
    for bytes in never.iter().cycle().take(never.len() * 20) {
        let mut peer = served.connect().await;
        peer.write(bytes).await.unwrap();
        peers.push(peer);
    }
    let begun = Instant::now();
    served.serves_on("silence").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody was waited for: {:?}", begun.elapsed());
    for mut peer in peers {
        let answers = peer.answers().await;
        assert!(answers.iter().all(|status| matches!(status, 400 | 401 | 408)), "{answers:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}

/// SEC-slow-peers: nor is one that comes a byte at a time.
#[tokio::test]
async fn who_drips_is_given_up() {
    let mut served = Served::new().await;
    let mut peer = served.connect().await;
    peer.write(put(&format!("{SIGNED}Content-Length: 1000000\r\n"), "{")).await.unwrap();
    let begun = Instant::now();
    let mut drips = 0;
    while drips < 1_000 && peer.write(" ").await.is_ok() {
        drips += 1;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(180), "{:?}", begun.elapsed());
    served.serves_on("a drip").await;
}

/// SEC-large-bodies: what is too large is refused before it is read, or as soon as that shows, and is not read for ever.
#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_with_and_without_a_length() {
    let mut served = Served::new().await;
    let evil = Peer::new(EVIL);
    let path = format!("{SEND}large");
    let authorization = evil.authorization(&Method::PUT, &path, Some("{}"));
    for length in [17 * MIB, 65 * MIB, usize::MAX >> 1] {
        let mut peer = served.connect().await;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {length}\r\n\r\n"
        );
        peer.write(head).await.unwrap();
        assert_eq!(peer.answer().await.map(|answer| answer.status), Some(413), "{length}: before any byte of it");
        let taken = peer.flood(&[b' '; 64 * 1024], length.min(200 * MIB)).await;
        assert!(taken <= 80 * MIB, "{length}: {taken} bytes were read");
        served.serves_on("a length beyond the limit").await;
    }
    let mut peer = served.connect().await;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    peer.write(head).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(64 * 1024));
    assert!(peer.flood(chunk.as_bytes(), 17 * MIB).await >= 17 * MIB);
    assert_eq!(peer.answer().await.map(|answer| answer.status), Some(413));
    let taken = peer.flood(chunk.as_bytes(), 200 * MIB).await;
    assert!(taken <= 80 * MIB, "{taken} bytes were read");
    served.serves_on("chunks beyond the limit").await;
}

/// SEC-large-bodies: many large bodies at once do not add up: who comes when there are too many is told to wait, and small
/// ones go on.
#[tokio::test]
async fn large_bodies_do_not_add_up() {
    let mut served = Served::new().await;
    let evil = Peer::new(EVIL);
    let path = format!("{SEND}many");
    let authorization = evil.authorization(&Method::PUT, &path, Some("{}"));
    let most = "x".repeat(13 * MIB);
    // Each sends most of its body, and then nothing more: four of them are within the budget.
    let answers = FuturesUnordered::new();
    for _ in 0..8 {
        let mut peer = served.connect().await;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            15 * MIB
        );
        peer.write(head).await.unwrap();
        assert_eq!(peer.answer().await.unwrap().status, 100, "what is only announced takes nothing from others");
        peer.flood(most.as_bytes(), most.len()).await;
        answers.push(async move { peer.answer().await.unwrap().status });
    }
    served.serves_on("large bodies").await;
    let mut answers: Vec<u16> = answers.collect().await;
    answers.sort_unstable();
    // Those within it are given up when they do not go on, and with them their part of it goes.
    assert_eq!(answers, [400, 400, 400, 400, 429, 429, 429, 429]);
    let edu = json!({ "edu_type": "m.made.up", "content": { "x": "x".repeat(130_000) } });
    let body = json!({ "origin": GOOD, "pdus": [], "edus": vec![edu; 100] });
    for number in 0..5 {
        let mut peer = served.connect().await;
        let path = format!("{SEND}large{number}");
        peer.write(served.honest.wire(&Method::PUT, &path, Some(&body))).await.unwrap();
        assert_eq!(peer.answer().await.unwrap().status, 200);
    }
}

/// SEC-header-floods: heads have bounds in size and number, over both versions of HTTP.
#[tokio::test]
async fn heads_without_end_are_cut() {
    let mut served = Served::new().await;
    let line = "X-Flood: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n";
    let floods = [
        ("headers", format!("GET {VERSION} HTTP/1.1\r\nHost: x\r\n"), line.to_owned()),
        ("one header", format!("GET {VERSION} HTTP/1.1\r\nHost: x\r\nX: "), "y".repeat(1_000)),
        ("a path", "GET /".to_owned(), "y".repeat(1_000)),
        ("a method", String::new(), "Y".repeat(1_000)),
        ("empty lines", String::new(), "\r\n".repeat(500)),
        ("an extension of a chunk", put(&format!("{SIGNED}Transfer-Encoding: chunked\r\n"), "1;"), "y".repeat(1_000)),
        ("trailers", put(&format!("{SIGNED}Transfer-Encoding: chunked\r\n"), "0\r\n"), line.to_owned()),
    ];
    for (name, begin, more) in floods {
        let mut peer = served.connect().await;
        peer.write(begin).await.unwrap();
        let taken = peer.flood(more.as_bytes(), 64 * MIB).await;
        assert!(taken < 16 * MIB, "{name}: {taken} bytes were read");
        let answers = peer.answers().await;
        assert!(answers.iter().all(|status| matches!(status, 400 | 401 | 414 | 431)), "{name}: {answers:?}");
        served.serves_on(name).await;
    }
    let mut many = format!("GET {VERSION} HTTP/1.1\r\nHost: x\r\n");
    (0..1_000).for_each(|number| write!(many, "X-{number}: y\r\n").unwrap());
    assert_eq!(served.answers(many + "\r\n").await, [431]);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// SEC-header-floods: the floods of HTTP/2: headers that go on, streams that are opened and taken back, settings, pings.
#[tokio::test]
async fn floods_of_frames_end_the_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // GET, http, /, and a literal header.
    let get = [0x82, 0x86, 0x84];
    let literal = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let mut served = Served::new().await;
    let resets: Vec<u8> = (0..20_000_u32)
        .flat_map(|n| [frame(1, 5, 2 * n + 1, &get), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
        .collect();
    let floods = [
        ("continuations", frame(1, 1, 1, &get), frame(9, 0, 1, &literal.repeat(100))),
        ("resets", Vec::new(), resets),
        ("nonsense", Vec::new(), frame(77, 255, 0, &[0; 16_000])),
        ("a frame too large", Vec::new(), frame(0, 0, 1, &vec![0; 1 << 20])),
        ("data for no stream", Vec::new(), frame(0, 0, 9, b"x").repeat(100)),
    ];
    for (name, begin, more) in floods {
        let mut peer = served.connect().await;
        peer.write([PREFACE, &frame(4, 0, 0, &[]), &begin].concat()).await.unwrap();
        let taken = peer.flood(&more, 8 * MIB).await;
        // Frames of unknown types are to be ignored (RFC 9113, section 4.1).
        assert!(taken < 8 * MIB || name == "nonsense", "{name}: {taken} bytes were read");
        drop(peer);
        served.serves_on(name).await;
    }
}

/// SEC-odd-bytes: bytes that are no text, in every place of a request.
#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let mut served = Served::new().await;
    let get = |path: &[u8], headers: &[u8]| {
        [b"GET ", path, b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", headers, b"\r\n"].concat()
    };
    let path = VERSION.as_bytes();
    let long = "x".repeat(5_000);
    let mut requests = vec![
        get(&[path, b"\xff"].concat(), b""),
        get(&[path, b"?\xc3\x28=\xff"].concat(), b""),
        get(b"/_matrix/federation/v1/event/%FF%FE", SIGNED.as_bytes()),
        get(b"/_matrix/federation/v1/event/%", SIGNED.as_bytes()),
        get(b"/_matrix/federation/v1/query/profile?user_id=%FF&user_id=%", SIGNED.as_bytes()),
        get(b"/_matrix/federation/v1/event/%00", SIGNED.as_bytes()),
        get(b"//_matrix//federation/../../etc/passwd", b""),
        get(b"http://evil.test/_matrix/federation/v1/event/x", b""),
        get(b"*", b""),
        get(b"", b""),
        get(path, b"X: \xff\xfe\r\n").replace_version(b"HTTP/9.9"),
        get(path, b"\xff: x\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\0\0\0\0\0\0\0\0\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\nHost: x\n\n".to_vec(),
    ];
    let event = b"/_matrix/federation/v1/event/$x";
    for header in [
        "X-Matrix",
        "X-Matrix ",
        "X-Matrix \u{ff}\u{fe}",
        "X-Matrix origin",
        "X-Matrix origin=",
        "X-Matrix origin=\"",
        "X-Matrix origin=\"evil.test",
        "X-Matrix origin=\"\\\"",
        "X-Matrix ,,,,,,,,",
        "X-Matrix origin=evil.test,origin=two.test,key=ed25519:x,sig=AAAA",
        "X-Matrix origin=evil.test,key=rsa:x,sig=AAAA",
        "X-Matrix origin=evil.test,key=\"ed25519:\0\",sig=AAAA",
        "X-Matrix origin=one.test,key=ed25519:x,sig=AAAA",
        "X-Matrix origin=127.0.0.1:0,key=ed25519:x,sig=AAAA",
        "X-Matrix origin=[::1]:99999,key=ed25519:x,sig=AAAA",
        "X-Matrix origin=evil.test,key=ed25519:x,sig=====",
        "Bearer x",
        "Basic x",
        &format!("X-Matrix origin={long},key={long},sig={long}"),
        &format!("X-Matrix {}", "a=b,".repeat(2_000)),
        &format!("X-Matrix {}", "\\".repeat(2_000)),
    ] {
        requests.push(get(event, format!("Authorization: {header}\r\n").as_bytes()));
    }
    for bytes in requests {
        let answers = served.answers(&bytes).await;
        let good = |status: &u16| matches!(status, 400 | 401 | 404);
        assert!(answers.len() <= 1 && answers.iter().all(good), "{}: {answers:?}", bytes.escape_ascii());
        served.serves_on(&bytes.escape_ascii().to_string()).await;
    }
}

/// Another version in the first line.
trait ReplaceVersion {
    fn replace_version(self, version: &[u8]) -> Vec<u8>;
}

impl ReplaceVersion for Vec<u8> {
    fn replace_version(mut self, version: &[u8]) -> Vec<u8> {
        let at = self.windows(8).position(|eight| eight == b"HTTP/1.1").unwrap();
        self[at..at + 8].copy_from_slice(version);
        self
    }
}

/// SEC-compressed-bodies: a body that says it is compressed is read as it is, so a small one stays small.
#[tokio::test]
async fn compressed_bodies_are_not_unpacked() {
    let mut served = Served::new().await;
    let evil = Peer::new(EVIL);
    // The head of a gzip stream, and what is no deflate stream behind it.
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 1_000]].concat();
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let path = format!("{SEND}packed");
        let authorization = evil.authorization(&Method::PUT, &path, Some("{}"));
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            gzip.len()
        );
        assert_eq!(served.answers([head.as_bytes(), &gzip].concat()).await, [400], "{coding}");
        served.serves_on(coding).await;
    }
}

/// SEC-oversized-transactions: signed, and still more than a transaction may be.
#[tokio::test]
async fn transactions_beyond_reason_harm_only_themselves() {
    let mut served = Served::new().await;
    let evil = Peer::new(EVIL);
    evil.join(&served.world, &served.room, "mallory").await;
    let event = json!({ "room_id": served.room.id, "type": "m.room.message" });
    let edu = json!({ "edu_type": "m.typing", "content": {} });
    let mut deep = json!(1);
    (0..100).for_each(|_| deep = json!([deep.take()]));
    let key = "k".repeat(5 * MIB);
    let members: serde_json::Map<String, Value> = (0..100_000).map(|n| (format!("k{n}"), json!(n))).collect();
    for (number, (body, expected)) in [
        (json!({ "pdus": vec![event.clone(); 50], "edus": vec![edu.clone(); 100] }), 200),
        (json!({ "pdus": vec![event.clone(); 51], "edus": [] }), 400),
        (json!({ "pdus": [], "edus": vec![edu.clone(); 101] }), 400),
        (json!({ "pdus": [{ "room_id": served.room.id, "content": deep }], "edus": [{ "edu_type": "m.typing", "content": deep }] }), 200),
        (json!({ "pdus": [], "edus": [], &key: &key }), 200),
        (json!({ "pdus": [{ &key: 1, "room_id": &key }, { "room_id": served.room.id, &key: 1 }], "edus": [] }), 200),
        (json!({ "pdus": [{ "room_id": served.room.id, "content": members }], "edus": [{ "edu_type": "m.receipt", "content": members }] }), 200),
        (json!({ "pdus": [null, 1, "x", [], [[]], {}, { "room_id": 1 }], "edus": [null, 1, "x", [], {}, { "edu_type": 1 }] }), 200),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("{SEND}t{number}");
        assert_eq!(served.answers(evil.wire(&Method::PUT, &path, Some(&body))).await, [expected], "{number}");
        served.serves_on(&path).await;
    }
    // Deeper than the reader follows, with a signature that fits the rest.
    let path = format!("{SEND}deep");
    let authorization = evil.authorization(&Method::PUT, &path, Some("{}"));
    for body in ["[".repeat(MIB), "{\"a\":".repeat(MIB), format!("{{\"pdus\":{}", "[".repeat(MIB))] {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        assert_eq!(served.answers(head + &body).await, [400]);
        served.serves_on("depth").await;
    }
}

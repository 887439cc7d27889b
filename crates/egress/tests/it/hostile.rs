//! Servers that answer with what is no answer, or with one that never ends: whoever asked gets an error within its bounds,
//! and the connection is closed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use egress::{Egress, Error, Fetch, Limits, Options};
use tokio::time::Instant;

use crate::dns_server::NameServer;
use crate::requests::{error_of, options, text};
use crate::tls_server::{Authority, RawServer, Script};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 100_000 };
/// What the sockets and a client's buffers hold together, and then some.
const TAKEN_MAX: u64 = 16 << 20;
const OK: &str = "HTTP/1.1 200 OK\r\n";

fn script(begin: &str, more: &str) -> Script {
    Script { begin: begin.into(), more: more.into(), ..Script::default() }
}

fn drip(begin: &str, more: &str) -> Script {
    Script { pause: Duration::from_millis(100), ..script(begin, more) }
}

/// What is answered to a path.
fn answer(path: &str) -> Script {
    let long = "y".repeat(1_000);
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    match path {
        "/headers" => script(OK, &format!("X: {long}\r\n")),
        "/header" => script(&format!("{OK}X: "), &long),
        "/status" => script("HTTP/1.1 200 ", &long),
        "/nothing" => script("", &long),
        "/informational" => drip("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        "/flood" => script("", &"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(100)),
        "/body" => script(&format!("{OK}\r\n"), &long),
        "/chunks" => script(&chunked, &format!("3e8\r\n{long}\r\n")),
        "/small-chunks" => script(&chunked, &"1\r\ny\r\n".repeat(1_000)),
        "/extension" => script(&format!("{chunked}1;"), &long),
        "/size" => drip(&chunked, "0"),
        "/trailers" => script(&format!("{chunked}0\r\n"), &format!("X: {long}\r\n")),
        "/slow-head" => drip(OK, "X: y\r\n"),
        "/slow-body" => drip(&format!("{OK}Content-Length: 1000\r\n\r\n"), "y"),
        "/slow-chunks" => drip(&chunked, "1\r\ny\r\n"),
        "/silent" => Script { stays: true, ..Script::default() },
        "/silent-body" => Script { stays: true, ..script(&format!("{OK}Content-Length: 9\r\n\r\n1"), "") },
        "/short" => script(&format!("{OK}Content-Length: 9\r\n\r\n1"), ""),
        "/short-chunks" => script(&format!("{chunked}9\r\n1"), ""),
        "/two-lengths" => script(&format!("{OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\n12"), ""),
        "/odd-length" => script(&format!("{OK}Content-Length: -1\r\n\r\n12"), ""),
        "/huge-length" => Script { stays: true, ..script(&format!("{OK}Content-Length: 99999999999\r\n\r\n1"), "") },
        "/overflow" => script(&format!("{chunked}fffffffffffffffff\r\n1"), ""),
        "/folded" => script(&format!("{OK}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), ""),
        "/garbage" => Script { begin: vec![0xff; 1_000], ..Script::default() },
        _ => script(&format!("{OK}Content-Length: 2\r\n\r\nhi"), ""),
    }
}

async fn server(authority: &Authority) -> RawServer {
    let path = |head: &str| head.split(' ').nth(1).map(str::to_owned).unwrap_or_default();
    RawServer::start("127.0.0.1:0", authority, &["127.0.0.1"], move |head| answer(&path(head))).await
}

/// SEC-outbound-bounds: no answer takes more memory or time than it may, whatever it is made of.
#[tokio::test(start_paused = true)]
async fn answers_without_end_are_given_up() {
    let authority = Authority::new();
    let egress = Egress::new(options(&authority)).unwrap();
    let server = server(&authority).await;
    let broken: fn(&Error) -> bool = |error| matches!(error, Error::Connection(_));
    let too_large: fn(&Error) -> bool = |error| *error == Error::TooLarge;
    let late: fn(&Error) -> bool = |error| *error == Error::Timeout;
    for (path, expected) in [
        ("/headers", broken),
        ("/header", broken),
        ("/status", broken),
        ("/nothing", broken),
        ("/informational", late),
        ("/body", too_large),
        ("/chunks", too_large),
        ("/small-chunks", too_large),
        ("/extension", broken),
        ("/size", late),
        ("/trailers", broken),
        ("/slow-head", late),
        ("/slow-body", late),
        ("/slow-chunks", late),
        ("/silent", late),
        ("/silent-body", late),
        ("/short", broken),
        ("/short-chunks", broken),
        ("/two-lengths", broken),
        ("/odd-length", broken),
        ("/huge-length", too_large),
        ("/overflow", broken),
        ("/folded", broken),
        ("/garbage", broken),
    ] {
        let (begun, before) = (Instant::now(), server.taken.load(Ordering::SeqCst));
        let error = error_of(egress.fetch(Fetch::get(server.url("127.0.0.1", path), LIMITS)).await).await;
        assert!(expected(&error), "{path}: {error:?}");
        assert!(begun.elapsed() <= LIMITS.timeout + Duration::from_millis(100), "{path}: {:?}", begun.elapsed());
        server.left().await;
        let taken = server.taken.load(Ordering::SeqCst) - before;
        assert!(taken < TAKEN_MAX, "{path}: {taken} bytes");
        let good = egress.fetch(Fetch::get(server.url("127.0.0.1", "/good"), LIMITS)).await;
        assert_eq!(text(good.unwrap()).await, "hi", "after {path}");
    }
}

/// SEC-outbound-bounds: one that never lets a reader rest, on a clock that nobody moves.
#[tokio::test]
async fn a_flood_of_hints_ends_in_time() {
    let authority = Authority::new();
    let egress = Egress::new(options(&authority)).unwrap();
    let server = server(&authority).await;
    let limits = Limits { timeout: Duration::from_millis(300), ..LIMITS };
    let flood = egress.fetch(Fetch::get(server.url("127.0.0.1", "/flood"), limits)).await;
    assert_eq!(error_of(flood).await, Error::Timeout);
    server.left().await;
}

/// SEC-outbound-bounds: what comes behind an answer is not the answer to the next request.
#[tokio::test(start_paused = true)]
async fn nothing_is_smuggled_behind_an_answer() {
    let authority = Authority::new();
    let hidden = format!("{OK}Content-Length: 4\r\n\r\nevil");
    let answers = move |head: &str| {
        let begin = match head.split(' ').nth(1).unwrap_or_default() {
            "/long" => format!("{OK}Content-Length: 2\r\n\r\nhi{hidden}"),
            "/chunks" => format!("{OK}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{hidden}"),
            "/both" => {
                format!("{OK}Content-Length: 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{hidden}")
            }
            "/none" => format!("HTTP/1.1 204 No Content\r\nContent-Length: 57\r\n\r\n{hidden}"),
            _ => format!("{OK}Content-Length: 4\r\n\r\ngood"),
        };
        Script { begin: begin.into(), stays: true, ..Script::default() }
    };
    let server = RawServer::start("127.0.0.1:0", &authority, &["127.0.0.1"], answers).await;
    let egress = Egress::new(options(&authority)).unwrap();
    let ask = async |path: &str| egress.fetch(Fetch::get(server.url("127.0.0.1", path), LIMITS)).await;
    for path in ["/long", "/chunks", "/both", "/none"] {
        let said = text(ask(path).await.unwrap()).await;
        assert_eq!(said, if path == "/none" { "" } else { "hi" }, "{path}");
        assert_eq!(text(ask("/good").await.unwrap()).await, "good", "after {path}");
    }
}

/// SEC-outbound-bounds: all hops of a redirection share one time limit.
#[tokio::test(start_paused = true)]
async fn hops_do_not_add_up() {
    let authority = Authority::new();
    let answers = |_: &str| Script {
        begin: b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 9\r\n".to_vec(),
        more: b"X: y\r\n".to_vec(),
        pause: Duration::from_secs(3),
        ..Script::default()
    };
    let server = RawServer::start("127.0.0.1:0", &authority, &["127.0.0.1"], answers).await;
    let egress = Egress::new(options(&authority)).unwrap();
    let begun = Instant::now();
    let fetch = Fetch { redirects_max: 5, ..Fetch::get(server.url("127.0.0.1", "/"), LIMITS) };
    assert_eq!(error_of(egress.fetch(fetch).await).await, Error::Timeout);
    assert!(begun.elapsed() <= LIMITS.timeout + Duration::from_millis(100));
    server.left().await;
}

/// SEC-outbound-bounds: nothing is unpacked, so that what is small stays small.
#[tokio::test(start_paused = true)]
async fn packed_answers_stay_packed() {
    let authority = Authority::new();
    let packed = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 100]].concat();
    let bytes = packed.clone();
    let answers = move |_: &str| Script {
        begin: [format!("{OK}Content-Encoding: gzip\r\nContent-Length: 110\r\n\r\n").as_bytes(), &bytes].concat(),
        ..Script::default()
    };
    let server = RawServer::start("127.0.0.1:0", &authority, &["127.0.0.1"], answers).await;
    let names = NameServer::start().await;
    let egress = Egress::new(Options { name_servers: vec![names.address], ..options(&authority) }).unwrap();
    let response = egress.fetch(Fetch::get(server.url("127.0.0.1", "/"), LIMITS)).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.body).await.unwrap().to_bytes();
    assert_eq!(body, packed);
}

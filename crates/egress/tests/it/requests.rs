//! What requests do: where they connect, what they bear, when they end, and what they refuse.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use egress::{Egress, Endpoint, Error, Fetch, Limits, Options, Request, Response, Route, Schemes, Trust};
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;

use crate::dns_server::NameServer;
use crate::tls_server::{Authority, Reply, Seen, Server};

/// Long enough for a busy machine.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 1_000 };
const BOTH: &[&str] = &["h2", "http/1.1"];
const ONE: &[&str] = &["http/1.1"];

pub fn options(authority: &Authority) -> Options {
    Options {
        allowed_private_ranges: vec!["127.0.0.0/8".parse().unwrap()],
        trust: Trust { extra_ca_files: vec![authority.file().to_owned()], verify_certificates: true },
        ..Options::default()
    }
}

fn client(authority: &Authority) -> Egress {
    Egress::new(options(authority)).unwrap()
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint { addresses: vec![server.address.ip()], port: server.address.port() }
}

fn request(endpoints: Vec<Endpoint>, certificate: &str, host: &str) -> Request {
    Request {
        route: Route::tls(endpoints, certificate, host).unwrap(),
        method: Method::GET,
        path_and_query: "/a%2Fb?c".to_owned(),
        headers: HeaderMap::new(),
        body: None,
        limits: LIMITS,
    }
}

pub async fn text(response: Response) -> String {
    String::from_utf8(response.body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn error_of(outcome: Result<Response, Error>) -> Error {
    match outcome {
        Err(error) => error,
        Ok(response) => response.body.collect().await.err().unwrap(),
    }
}

#[tokio::test]
async fn address_certificate_and_host_are_three_things() {
    let authority = Authority::new();
    for (alpn, http) in [(BOTH, 2), (ONE, 1)] {
        let server = Server::start("127.0.0.1:0", &authority, &["real.test"], alpn, |_| Reply::ok("hi")).await;
        let egress = client(&authority);
        let response = egress.send(request(vec![endpoint(&server)], "real.test", "shown.test:99")).await.unwrap();
        assert_eq!(text(response).await, "hi");
        let Seen { address, sni, host, path, headers, http: spoken, .. } = server.last();
        assert_eq!(address, server.address);
        assert_eq!((sni.as_deref(), host.as_str(), path.as_str()), (Some("real.test"), "shown.test:99", "/a%2Fb?c"));
        assert_eq!(spoken, http);
        assert!(headers.get(USER_AGENT).unwrap().to_str().unwrap().starts_with("Hearth/"));
        assert_eq!(headers.get("accept-encoding"), None);
    }
}

#[tokio::test]
async fn an_address_has_a_certificate_and_no_sni() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", &authority, &["127.0.0.1"], BOTH, |_| Reply::ok("")).await;
    let egress = client(&authority);
    egress.send(request(vec![endpoint(&server)], "127.0.0.1", "127.0.0.1")).await.unwrap();
    assert_eq!(server.last().sni, None);
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", &authority, &["real.test"], BOTH, |_| Reply::ok("")).await;
    let ask = async |egress: &Egress, name: &str| {
        egress.send(request(vec![endpoint(&server)], name, "h.test")).await.map(|response| response.status.as_u16())
    };
    assert_eq!(ask(&client(&authority), "real.test").await, Ok(200));
    let wrong_name = ask(&client(&authority), "other.test").await;
    assert!(matches!(wrong_name, Err(Error::Certificate(_))), "{wrong_name:?}");
    let wrong_authority = ask(&client(&Authority::new()), "real.test").await;
    assert!(matches!(wrong_authority, Err(Error::Certificate(_))), "{wrong_authority:?}");
    let mut options = options(&Authority::new());
    options.trust = Trust { extra_ca_files: Vec::new(), verify_certificates: false };
    assert_eq!(ask(&Egress::new(options).unwrap(), "other.test").await, Ok(200));
}

/// SEC-ssrf.
#[tokio::test]
async fn private_addresses_are_refused_however_they_are_reached() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", &authority, &["inside.test", "127.0.0.1"], BOTH, |_| Reply::ok("")).await;
    let names = NameServer::start().await;
    names.address("inside.test", "127.0.0.1");
    let strict =
        Options { allowed_private_ranges: Vec::new(), name_servers: vec![names.address], ..options(&authority) };
    let egress = Egress::new(strict).unwrap();
    let sent = egress.send(request(vec![endpoint(&server)], "inside.test", "inside.test")).await;
    assert!(matches!(error_of(sent).await, Error::Forbidden(_)));
    let mapped = vec![Endpoint { addresses: vec!["::ffff:127.0.0.1".parse().unwrap()], ..endpoint(&server) }];
    assert!(matches!(error_of(egress.send(request(mapped, "inside.test", "h")).await).await, Error::Forbidden(_)));
    for host in ["inside.test", "localhost", "127.0.0.1", "[::1]", "2130706433"] {
        let fetched = egress.fetch(Fetch::get(server.url(host, "/"), LIMITS)).await;
        let error = error_of(fetched).await;
        assert!(matches!(error, Error::Forbidden(_) | Error::NotFound(_)), "{host}: {error:?}");
    }
    assert!(server.seen.lock().is_empty());
}

/// SEC-ssrf.
#[tokio::test]
async fn each_hop_of_a_redirection_is_filtered() {
    let authority = Authority::new();
    // Only this one address is allowed; the server sends elsewhere.
    let inside = Server::start("127.0.0.2:0", &authority, &["inside.test"], BOTH, |_| Reply::ok("secret")).await;
    let target = inside.url("inside.test", "/");
    let server =
        Server::start("127.0.0.1:0", &authority, &["a.test"], BOTH, move |_| Reply::redirect(target.clone())).await;
    let names = NameServer::start().await;
    names.address("a.test", "127.0.0.1");
    names.address("inside.test", "127.0.0.2");
    let only = Options {
        allowed_private_ranges: vec!["127.0.0.1".parse().unwrap()],
        name_servers: vec![names.address],
        ..options(&authority)
    };
    let egress = Egress::new(only).unwrap();
    let fetch = Fetch { redirects_max: 3, ..Fetch::get(server.url("a.test", "/"), LIMITS) };
    assert!(matches!(error_of(egress.fetch(fetch).await).await, Error::Forbidden(_)));
    assert!(inside.seen.lock().is_empty());
}

/// SEC-outbound-bounds.
#[tokio::test]
async fn redirections_are_followed_so_often_and_no_more() {
    let authority = Authority::new();
    let answers = |seen: &Seen| match seen.path.as_str() {
        "/start" => Reply::redirect("/one"),
        "/one" => Reply::redirect("two?x"),
        "/two?x" => Reply::ok("there"),
        "/plain" => Reply::redirect("http://a.test/"),
        "/loop" => Reply::redirect("/loop"),
        _ => Reply::redirect("/start"),
    };
    let server = Server::start("127.0.0.1:0", &authority, &["a.test"], BOTH, answers).await;
    let names = NameServer::start().await;
    names.address("a.test", "127.0.0.1");
    let egress = Egress::new(Options { name_servers: vec![names.address], ..options(&authority) }).unwrap();
    let fetch = async |path: &str, redirects_max: u32| {
        egress.fetch(Fetch { redirects_max, ..Fetch::get(server.url("a.test", path), LIMITS) }).await
    };
    assert_eq!(text(fetch("/start", 2).await.unwrap()).await, "there");
    assert_eq!(error_of(fetch("/start", 1).await).await, Error::Redirect("too often"));
    assert_eq!(fetch("/start", 0).await.unwrap().status, 302);
    let before = server.seen.lock().len();
    assert_eq!(error_of(fetch("/loop", 5).await).await, Error::Redirect("too often"));
    assert_eq!(server.seen.lock().len() - before, 6);
    assert_eq!(error_of(fetch("/plain", 5).await).await, Error::Redirect("to where none is followed"));
    let plain = Fetch::get("http://a.test/", LIMITS);
    assert!(matches!(error_of(egress.fetch(plain).await).await, Error::Request(_)));
}

#[tokio::test]
async fn a_secret_does_not_follow_to_another_host() {
    let authority = Authority::new();
    let other = Server::start("127.0.0.1:0", &authority, &["b.test"], BOTH, |_| Reply::ok("")).await;
    let target = other.url("b.test", "/");
    let server =
        Server::start("127.0.0.1:0", &authority, &["a.test"], BOTH, move |_| Reply::redirect(target.clone())).await;
    let names = NameServer::start().await;
    names.address("a.test", "127.0.0.1");
    names.address("b.test", "127.0.0.1");
    let egress = Egress::new(Options { name_servers: vec![names.address], ..options(&authority) }).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("secret"))]);
    let fetch = Fetch { redirects_max: 1, headers, ..Fetch::get(server.url("a.test", "/"), LIMITS) };
    egress.fetch(fetch).await.unwrap();
    assert!(server.last().headers.contains_key(AUTHORIZATION));
    assert!(!other.last().headers.contains_key(AUTHORIZATION));
}

/// SEC-outbound-bounds.
#[tokio::test]
async fn bodies_end_at_their_bound() {
    let authority = Authority::new();
    let answers = |seen: &Seen| match seen.path.as_str() {
        "/chunked" => Reply { headers: vec![("x", "y".to_owned())], ..Reply::ok("x".repeat(1_001)) },
        "/exact" => Reply::ok("x".repeat(1_000)),
        _ => Reply::ok("x".repeat(1_000_000)),
    };
    for alpn in [BOTH, ONE] {
        let server = Server::start("127.0.0.1:0", &authority, &["a.test"], alpn, answers).await;
        let egress = client(&authority);
        let ask = async |path: &str| {
            let request =
                Request { path_and_query: path.to_owned(), ..request(vec![endpoint(&server)], "a.test", "a.test") };
            egress.send(request).await
        };
        assert_eq!(text(ask("/exact").await.unwrap()).await.len(), 1_000);
        assert_eq!(error_of(ask("/chunked").await).await, Error::TooLarge);
        assert_eq!(error_of(ask("/").await).await, Error::TooLarge);
    }
}

/// SEC-outbound-bounds.
#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_only_so_long() {
    let authority = Authority::new();
    let hangs = |_: &Seen| Reply { hangs: true, ..Reply::ok("") };
    let server = Server::start("127.0.0.1:0", &authority, &["a.test"], BOTH, hangs).await;
    let egress = client(&authority);
    let short = Limits { timeout: Duration::from_millis(200), ..LIMITS };
    let request = Request { limits: short, ..request(vec![endpoint(&server)], "a.test", "a.test") };
    assert_eq!(error_of(egress.send(request).await).await, Error::Timeout);
}

#[tokio::test]
async fn connections_are_used_again_and_replaced_when_they_are_gone() {
    let authority = Authority::new();
    for alpn in [ONE, BOTH] {
        let server = Server::start("127.0.0.1:0", &authority, &["a.test"], alpn, |_| Reply::ok("hi")).await;
        let egress = client(&authority);
        let ask = async || {
            let response = egress.send(request(vec![endpoint(&server)], "a.test", "a.test")).await.unwrap();
            assert_eq!(text(response).await, "hi");
            server.last().connection
        };
        assert_eq!((ask().await, ask().await, ask().await), (1, 1, 1));
        server.cut();
        assert_eq!((ask().await, ask().await), (2, 2), "{alpn:?}");
    }
}

#[tokio::test]
async fn services_do_not_share_connections() {
    let authority = Authority::new();
    let names = &["a.test", "b.test"];
    let server = Server::start("127.0.0.1:0", &authority, names, BOTH, |_| Reply::ok("")).await;
    let egress = client(&authority);
    let ask = async |certificate: &str, host: &str| {
        egress.send(request(vec![endpoint(&server)], certificate, host)).await.unwrap();
        server.last().connection
    };
    assert_eq!(ask("a.test", "a.test").await, 1);
    assert_eq!(ask("b.test", "b.test").await, 2);
    assert_eq!(ask("a.test", "b.test").await, 3);
    assert_eq!(ask("a.test", "a.test").await, 1);
}

#[tokio::test]
async fn so_many_requests_at_once_and_no_more_connections_than_that() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", &authority, &["a.test"], ONE, |_| Reply::ok("hi")).await;
    let egress = client(&authority);
    let all = (0..200).map(|_| async {
        let response = egress.send(request(vec![endpoint(&server)], "a.test", "a.test")).await.unwrap();
        text(response).await
    });
    assert!(join_all(all).await.iter().all(|answer| answer == "hi"));
    let most = server.seen.lock().iter().map(|seen| seen.connection).max().unwrap();
    assert_eq!(server.seen.lock().len(), 200);
    assert!(most < 200, "{most} connections for 200 requests");
}

#[tokio::test]
async fn fa3_all_addresses_and_endpoints_are_tried() {
    let authority = Authority::new();
    let server = Server::start("127.0.0.1:0", &authority, &["a.test"], BOTH, |_| Reply::ok("")).await;
    let other = Server::start("127.0.0.1:0", &authority, &["other.test"], BOTH, |_| Reply::ok("")).await;
    let egress = client(&authority);
    let dead: IpAddr = "127.0.0.77".parse().unwrap();
    // Within an endpoint: one that refuses, one that may not be reached, then the right one.
    let forbidden: IpAddr = "10.255.255.1".parse().unwrap();
    let addresses = vec![dead, forbidden, server.address.ip()];
    let one = vec![Endpoint { addresses, port: server.address.port() }];
    assert!(egress.send(request(one, "a.test", "a.test")).await.is_ok());
    // One endpoint after the other: a dead one, one with the certificate of somebody else.
    let egress = client(&authority);
    let endpoints = vec![Endpoint { addresses: vec![dead], port: 1 }, endpoint(&other), endpoint(&server)];
    assert!(egress.send(request(endpoints, "a.test", "a.test")).await.is_ok());
    assert!(other.seen.lock().is_empty());
    assert_eq!(server.seen.lock().len(), 2);
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_repeated_only_if_that_does_no_harm() {
    let authority = Authority::new();
    let failing = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&failing);
    let answers = move |_: &Seen| Reply { hangs: fails.load(Ordering::SeqCst), ..Reply::ok("") };
    let server = Arc::new(Server::start("127.0.0.1:0", &authority, &["a.test"], ONE, answers).await);
    let ask = async |method: Method| {
        let egress = client(&authority);
        let request = |method: Method| Request {
            method,
            body: Some(Bytes::from_static(b"{}")),
            ..request(vec![endpoint(&server)], "a.test", "a.test")
        };
        let response = egress.send(request(Method::GET)).await.unwrap();
        assert_eq!(text(response).await, "");
        failing.store(true, Ordering::SeqCst);
        let before = server.seen.lock().len();
        let cutting = async {
            while server.seen.lock().len() == before {
                tokio::task::yield_now().await;
            }
            failing.store(false, Ordering::SeqCst);
            server.cut();
        };
        let (outcome, ()) = tokio::join!(egress.send(request(method)), cutting);
        (outcome.is_ok(), server.seen.lock().len() - before)
    };
    assert_eq!(ask(Method::PUT).await, (true, 2));
    assert_eq!(ask(Method::POST).await, (false, 1));
}

#[tokio::test]
async fn names_are_looked_up_where_they_should_be() {
    let names = NameServer::start().await;
    names.address("both.test", "192.0.2.1");
    names.address("both.test", "2001:db8::1");
    names.address("both.test", "192.0.2.2");
    names.address("six.test", "2001:db8::2");
    names.srv("_x._tcp.both.test", 1, 2, 3, "six.test");
    let authority = Authority::new();
    let egress = Egress::new(Options { name_servers: vec![names.address], ..options(&authority) }).unwrap();
    let addresses = async |name: &str| {
        let found = egress.resolver().addresses(name).await.unwrap();
        let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
        // Which of two addresses of a kind comes first is the name server's affair.
        found.sort();
        found.join(" ")
    };
    assert_eq!(addresses("both.test").await, "192.0.2.1 192.0.2.2 2001:db8::1");
    assert!(egress.resolver().addresses("BOTH.test").await.unwrap().first().unwrap().is_ipv6());
    assert_eq!(addresses("six.test").await, "2001:db8::2");
    assert_eq!(addresses("nobody.test").await, "");
    assert_eq!(addresses("localhost").await, "127.0.0.1 ::1");
    assert_eq!(addresses("a.localhost.").await, "127.0.0.1 ::1");
    assert_eq!(addresses("192.0.2.9").await, "192.0.2.9");
    let srv = egress.resolver().srv("_x._tcp.both.test").await.unwrap();
    let [one] = srv.as_slice() else { unreachable!("{srv:?}") };
    assert_eq!((one.priority, one.weight, one.port, one.target.as_str()), (1, 2, 3, "six.test"));
    assert!(egress.resolver().srv("_x._tcp.six.test").await.unwrap().is_empty());
}

#[tokio::test]
async fn plain_http_goes_where_it_is_wanted() {
    let egress = client(&Authority::new());
    let fetch = Fetch { schemes: Schemes::HttpToo, ..Fetch::get("http://127.0.0.1:1/", LIMITS) };
    // Nobody listens there: what matters is that it was tried.
    assert!(matches!(error_of(egress.fetch(fetch).await).await, Error::Connection(_)));
}

#[test]
fn a_file_without_certificates_is_refused() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path().to_owned(), "/nowhere/ca.pem".into()] {
        let trust = Trust { extra_ca_files: vec![path], verify_certificates: true };
        assert!(Egress::new(Options { trust, ..Options::default() }).is_err());
    }
}

//! The real transport against servers on loopback addresses, a name server of the test and certificates of its authority:
//! what each arrangement of a server name leads to (address, SNI, `Host`, port), and a request that crosses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use egress::{Egress, Options, Trust};
use event::Json;
use federation::Error;
use federation::client::{Client, Reach};
use federation::https::{Https, HttpsOptions};
use federation::transport::{Limits, TransportError};
use http::Method;
use http_body_util::BodyExt;
use store::{Clock, Entropy};

use crate::dns_server::NameServer;
use crate::harness::key;
use crate::tls_server::{Authority, RawServer, Reply, Script, Seen, Server};
use crate::trust::{StandingClock, US};

/// Long enough for a busy machine.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(60), body_bytes_max: 10_000 };
const BOTH: &[&str] = &["h2", "http/1.1"];
const VERSION: &str = "/_matrix/federation/v1/version";

/// Always the same.
struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// Loopback addresses that no other run of these tests on this machine uses.
fn address(number: u32) -> String {
    let process = std::process::id() % 60_000;
    format!("127.{}.{}.{}", 10 + process / 250, 1 + process % 250, number)
}

/// A network and a client in it.
struct Network {
    authority: Authority,
    names: NameServer,
    /// The port of all `.well-known` files.
    port: u16,
    /// Serves them; what they say, by host.
    well_known: Server,
    client: Client,
}

impl Network {
    /// `files`: what hosts answer to the request for the file.
    async fn new(files: &[(&str, Reply)]) -> Self {
        let authority = Authority::new();
        let names = NameServer::start().await;
        let hosts: Vec<&str> = files.iter().map(|(host, _)| *host).collect();
        let replies: BTreeMap<String, Reply> =
            files.iter().map(|(host, reply)| ((*host).to_owned(), reply.clone())).collect();
        let answers = move |seen: &Seen| {
            let host = seen.host.split(':').next().unwrap_or_default();
            match seen.path.as_str() {
                "/elsewhere" => Reply::ok(r#"{"m.server":"hosted.test"}"#),
                "/.well-known/matrix/server" => replies.get(host).cloned().unwrap_or_default(),
                _ => Reply { status: 404, ..Reply::default() },
            }
        };
        let well_known = Server::start(&format!("{}:0", address(1)), &authority, &hosts, BOTH, answers).await;
        for host in &hosts {
            names.address(host, &address(1));
        }
        let port = well_known.address.port();
        let client = client(&authority, &names, port, true);
        Self { authority, names, port, well_known, client }
    }

    /// A server that answers with what it saw.
    async fn server(&self, socket: &str, certificate: &[&str]) -> Server {
        let echo = |seen: &Seen| {
            let sni = seen.sni.as_deref().unwrap_or("-");
            Reply::ok(format!(r#"{{"seen":"{} | {sni} | {}"}}"#, seen.address, seen.host))
        };
        Server::start(socket, &self.authority, certificate, BOTH, echo).await
    }

    /// Where a request to a server arrived: `address | SNI | Host`.
    async fn route(&self, name: &str) -> Result<String, Error> {
        route(&self.client, name).await
    }
}

async fn route(client: &Client, name: &str) -> Result<String, Error> {
    let answer = client.json(name, Method::GET, VERSION, None, LIMITS).await?;
    Ok(answer.get("seen").and_then(Json::as_str).unwrap().to_owned())
}

fn client(authority: &Authority, names: &NameServer, well_known_port: u16, loopback: bool) -> Client {
    let options = Options {
        allowed_private_ranges: loopback.then(|| "127.0.0.0/8".parse().unwrap()).into_iter().collect(),
        trust: Trust { extra_ca_files: vec![authority.file().to_owned()], verify_certificates: true },
        name_servers: vec![names.address],
        ..Options::default()
    };
    let egress = Egress::new(options).unwrap();
    let clock = StandingClock::new() as Arc<dyn Clock>;
    let https = Https::new(egress, clock, Arc::new(Zeros), HttpsOptions { well_known_port });
    Client::new(US, Arc::new(key(US)), Arc::new(https), Reach::default())
}

fn delegation(to: &str) -> Reply {
    Reply { headers: vec![("content-type", "text/plain".to_owned())], ..Reply::ok(format!(r#"{{"m.server":"{to}"}}"#)) }
}

#[tokio::test]
async fn fa1_requests_arrive_with_the_delegated_name_at_the_right_address_and_port() {
    let four = address(4);
    let to_port = delegation("hosted.test:8448");
    let network = Network::new(&[
        ("to-host.test", delegation("hosted.test")),
        ("to-port.test", to_port),
        ("to-address.test", delegation(&four)),
        ("to-srv.test", delegation("srv.test")),
        ("redirected.test", Reply::redirect("/elsewhere")),
        ("invalid.test", Reply::ok("<html>")),
        ("large.test", Reply::ok(format!(r#"{{"m.server":"hosted.test","x":"{}"}}"#, "x".repeat(60_000)))),
        ("missing.test", Reply { status: 404, ..Reply::default() }),
    ])
    .await;
    // All of one address and the port 8448, which servers have that name none.
    let plain = ["invalid.test", "large.test", "missing.test"];
    let certificate = [&plain[..], &["hosted.test", "plain.test"]].concat();
    let at_port = network.server(&format!("{}:8448", address(1)), &certificate).await;
    network.names.address("hosted.test", &address(1));
    network.names.address("plain.test", &address(1));
    let literal = network.server(&format!("{four}:8448"), &[&four]).await;
    // The target of an SRV record has a certificate for the name that has the record.
    let target = network.server(&format!("{}:0", address(2)), &["srv.test", "old.test"]).await;
    let port = target.address.port();
    network.names.address("target.test", &address(2));
    network.names.address("dead.test", &address(3));
    network.names.srv("_matrix-fed._tcp.srv.test", 1, 0, 1, "dead.test");
    network.names.srv("_matrix-fed._tcp.srv.test", 2, 0, port, "target.test");
    network.names.srv("_matrix._tcp.srv.test", 1, 0, 2, "dead.test");
    network.names.srv("_matrix._tcp.old.test", 1, 0, port, "target.test");
    let (at_port, literal, target) = (at_port.address, literal.address, target.address);
    let with_port = format!("plain.test:{}", at_port.port());
    let table = [
        ("to-host.test", format!("{at_port} | hosted.test | hosted.test")),
        ("to-port.test", format!("{at_port} | hosted.test | hosted.test:8448")),
        ("to-address.test", format!("{literal} | - | {four}")),
        (four.as_str(), format!("{literal} | - | {four}")),
        ("to-srv.test", format!("{target} | srv.test | srv.test")),
        ("srv.test", format!("{target} | srv.test | srv.test")),
        ("old.test", format!("{target} | old.test | old.test")),
        ("redirected.test", format!("{at_port} | hosted.test | hosted.test")),
        ("plain.test", format!("{at_port} | plain.test | plain.test")),
        (with_port.as_str(), format!("{at_port} | plain.test | {with_port}")),
        ("invalid.test", format!("{at_port} | invalid.test | invalid.test")),
        ("large.test", format!("{at_port} | large.test | large.test")),
        ("missing.test", format!("{at_port} | missing.test | missing.test")),
    ];
    for (name, expected) in table {
        assert_eq!(network.route(name).await.unwrap(), expected, "{name}");
    }
    // What `.well-known` said is not fetched again.
    let before = network.well_known.seen.lock().len();
    assert!(network.route("to-host.test").await.is_ok());
    assert_eq!(network.well_known.seen.lock().len(), before);
}

#[tokio::test]
async fn fa1_a_certificate_for_the_target_of_an_srv_record_is_not_enough() {
    let network = Network::new(&[]).await;
    let server = network.server("127.0.0.1:0", &["target.test"]).await;
    network.names.address("target.test", "127.0.0.1");
    network.names.srv("_matrix-fed._tcp.srv.test", 1, 0, server.address.port(), "target.test");
    let refused = network.route("srv.test").await;
    assert!(matches!(refused, Err(Error::Unreachable { error: TransportError::Certificate(_), .. })), "{refused:?}");
    assert!(server.seen.lock().is_empty(), "nothing was sent");
}

/// SEC-ssrf.
#[tokio::test]
async fn private_addresses_are_refused_whoever_names_them() {
    let network = Network::new(&[]).await;
    let server = network.server("127.0.0.1:0", &["inside.test", "127.0.0.1"]).await;
    network.names.address("inside.test", "127.0.0.1");
    network.names.srv("_matrix-fed._tcp.srv.test", 1, 0, server.address.port(), "inside.test");
    let strict = client(&network.authority, &network.names, network.port, false);
    let port = server.address.port();
    for name in
        [format!("inside.test:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "srv.test".to_owned()]
    {
        let refused = route(&strict, &name).await;
        assert!(
            matches!(refused, Err(Error::Unreachable { error: TransportError::NotFound(_), .. })),
            "{name}: {refused:?}"
        );
    }
    assert!(server.seen.lock().is_empty());
    assert!(network.route(&format!("127.0.0.1:{port}")).await.is_ok(), "where loopback is allowed, it is reached");
}

/// SEC-well-known: what a host answers for its file may be endless, huge, or a circle: it counts as missing, and the
/// server is looked for in the next place. Slow ones are `egress`'s affair.
#[tokio::test]
async fn fa2_hostile_files_are_as_if_there_were_none() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let script =
        |begin: &str, more: &str| Script { begin: begin.into(), more: more.into(), stays: true, ..Script::default() };
    let file = r#"{"m.server":"elsewhere.test:1"}"#;
    let size = file.len() + 60_000;
    let scripts = BTreeMap::from([
        (
            "circle.test",
            script("HTTP/1.1 302 Found\r\nLocation: /.well-known/matrix/server\r\nContent-Length: 0\r\n\r\n", ""),
        ),
        ("inside.test", script("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "")),
        ("huge.test", script(&format!("{OK}Content-Length: {size}\r\n\r\n{file}{}", " ".repeat(60_000)), "")),
        ("endless.test", script(&format!("{OK}\r\n{file}"), &" ".repeat(1_000))),
        ("headers.test", script(OK, &format!("X: {}\r\n", "y".repeat(1_000)))),
    ]);
    let hosts: Vec<&'static str> = scripts.keys().copied().collect();
    let (authority, names) = (Authority::new(), NameServer::start().await);
    let of_host = move |head: &str| {
        let host = head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
        scripts.get(host.unwrap_or_default().split(':').next().unwrap()).cloned().unwrap_or_default()
    };
    let files = RawServer::start("127.0.0.1:0", &authority, &hosts, of_host).await;
    let server = Server::start("127.0.0.1:0", &authority, &hosts, BOTH, |_| Reply::ok(r#"{"seen":"here"}"#)).await;
    names.address("target.test", "127.0.0.1");
    for host in &hosts {
        names.address(host, "127.0.0.1");
        names.srv(&format!("_matrix-fed._tcp.{host}"), 1, 0, server.address.port(), "target.test");
    }
    let client = client(&authority, &names, files.address.port(), true);
    for host in hosts {
        let begun = std::time::Instant::now();
        assert_eq!(route(&client, host).await.unwrap(), "here", "{host}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{host}: {:?}", begun.elapsed());
    }
    assert!(files.taken.load(std::sync::atomic::Ordering::SeqCst) < 16 << 20);
}

#[tokio::test]
async fn an_answer_is_bounded_and_a_matrix_error_is_told() {
    let network = Network::new(&[]).await;
    let answers = |seen: &Seen| match seen.path.as_str() {
        "/large" => Reply::ok("x".repeat(20_000)),
        "/error" => Reply { status: 403, ..Reply::ok(r#"{"errcode":"M_FORBIDDEN","error":"no","room_version":"1"}"#) },
        "/html" => Reply { status: 502, ..Reply::ok("<html>") },
        _ => Reply::ok("[]"),
    };
    let server = Server::start("127.0.0.1:0", &network.authority, &["127.0.0.1"], BOTH, answers).await;
    let name = server.address.to_string();
    let ask = async |path: &str| network.client.json(&name, Method::GET, path, None, LIMITS).await;
    assert!(matches!(ask("/large").await, Err(Error::Unreachable { error: TransportError::TooLarge, .. })));
    match ask("/error").await {
        Err(Error::Remote { status, errcode, message, body, .. }) => {
            assert_eq!((status.as_u16(), errcode.as_str(), message.as_str()), (403, "M_FORBIDDEN", "no"));
            assert_eq!(body["room_version"], "1");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(ask("/html").await, Err(Error::Remote { errcode, .. }) if errcode.is_empty()));
    assert!(matches!(ask("/list").await, Err(Error::Malformed { .. })));
}

/// SEC-ssrf.
#[tokio::test]
async fn cm6_a_location_is_fetched_as_anybody_would_and_never_from_inside() {
    let network = Network::new(&[]).await;
    let answers = |seen: &Seen| match seen.path.as_str() {
        "/moved" => Reply::redirect("/file"),
        "/plain" => Reply::redirect("http://cdn.test/file"),
        _ => Reply::ok("content"),
    };
    let server = Server::start("127.0.0.1:0", &network.authority, &["cdn.test"], BOTH, answers).await;
    network.names.address("cdn.test", "127.0.0.1");
    let url = |path: &str| format!("https://cdn.test:{}{path}", server.address.port());
    for path in ["/file", "/moved"] {
        let incoming = network.client.fetch("two.test", &url(path), LIMITS).await.unwrap();
        assert_eq!(incoming.body.collect().await.unwrap().to_bytes(), "content");
    }
    assert!(
        server.seen.lock().iter().all(|seen| !seen.headers.contains_key("authorization")),
        "nobody learns who asks"
    );
    let seen = server.seen.lock().len();
    let strict = client(&network.authority, &network.names, network.port, false);
    assert!(strict.fetch("two.test", &url("/file"), LIMITS).await.is_err());
    assert!(network.client.fetch("two.test", &url("/file").replace("https", "http"), LIMITS).await.is_err());
    assert_eq!(server.seen.lock().len(), seen);
    assert!(network.client.fetch("two.test", &url("/plain"), LIMITS).await.is_err());
}

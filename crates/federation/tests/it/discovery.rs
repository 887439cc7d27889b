//! Where servers are found: the six steps as one table, and the caching of `.well-known`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use egress::Srv;
use federation::discovery::{Answer, DiscoveryError, Fetch, Host, Lookup, ServerName, WellKnown, find};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use store::{Clock, Entropy};

use crate::trust::StandingClock;

/// A world of names; it writes down what it is asked.
#[derive(Default)]
struct World {
    well_known: BTreeMap<&'static str, &'static str>,
    srv: BTreeMap<&'static str, Vec<Srv>>,
    addresses: BTreeMap<&'static str, Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl Lookup for World {
    async fn well_known(&self, host: &str) -> Option<String> {
        self.asked.lock().push(format!("well-known {host}"));
        self.well_known.get(host).map(ToString::to_string)
    }

    async fn srv(&self, name: &str) -> Vec<Srv> {
        self.asked.lock().push(format!("SRV {name}"));
        self.srv.get(name).cloned().unwrap_or_default()
    }

    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.asked.lock().push(format!("addresses {host}"));
        let addresses = self.addresses.get(host).cloned().unwrap_or_default();
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }
}

/// Counts up, so that draws differ and repeat from run to run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 7;
        for (byte, from) in bytes.iter_mut().zip(number.to_le_bytes()) {
            *byte = from;
        }
    }
}

fn chance() -> Counting {
    Counting(AtomicU64::new(1))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Srv {
    Srv { priority, weight, port, target: target.to_owned() }
}

fn world() -> World {
    let addresses = [
        ("plain.test", vec!["192.0.2.1"]),
        ("six.test", vec!["2001:db8::6"]),
        ("both.test", vec!["2001:db8::7", "192.0.2.7"]),
        ("target.test", vec!["192.0.2.20"]),
        ("backup.test", vec!["192.0.2.21", "192.0.2.22"]),
        ("hosted.test", vec!["192.0.2.30"]),
        ("delegating.test", vec!["192.0.2.99"]),
        ("srv.test", vec!["192.0.2.99"]),
        ("old.test", vec!["192.0.2.99"]),
    ];
    let well_known = [
        ("to-host.test", "hosted.test"),
        ("to-port.test", "hosted.test:443"),
        ("to-address.test", "192.0.2.40"),
        ("to-address-port.test", "[2001:db8::40]:444"),
        ("to-srv.test", "srv.test"),
        ("to-old-srv.test", "old.test"),
        ("to-itself.test", "to-itself.test"),
        ("to-chain.test", "to-host.test"),
        ("plain.test", "not a server name"),
        ("both.test", "hosted.test:99999"),
    ];
    let records = [
        ("_matrix-fed._tcp.srv.test", vec![srv(20, 0, 8449, "backup.test"), srv(10, 0, 8450, "target.test")]),
        ("_matrix._tcp.srv.test", vec![srv(0, 0, 1, "plain.test")]),
        ("_matrix._tcp.old.test", vec![srv(0, 0, 8451, "target.test")]),
        ("_matrix-fed._tcp.dead-first.test", vec![srv(1, 0, 1, "dead.test"), srv(2, 0, 8452, "six.test")]),
        ("_matrix-fed._tcp.dead.test", vec![srv(1, 0, 1, "gone.test")]),
    ];
    World { well_known: well_known.into(), srv: records.into(), addresses: addresses.into(), asked: Mutex::default() }
}

/// Where a name leads, as `sockets | certificate | Host`.
async fn route(name: &str) -> String {
    match find(name, &world(), &chance()).await {
        Ok(found) => {
            let sockets = found.endpoints.iter().flat_map(|endpoint| {
                endpoint.addresses.iter().map(|address| std::net::SocketAddr::new(*address, endpoint.port).to_string())
            });
            format!("{} | {} | {}", sockets.collect::<Vec<_>>().join(" "), found.certificate, found.host)
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn fa1_each_arrangement_leads_to_its_address_certificate_and_host() {
    let table = [
        // Step 1: addresses.
        ("192.0.2.5", "192.0.2.5:8448 | 192.0.2.5 | 192.0.2.5"),
        ("192.0.2.5:99", "192.0.2.5:99 | 192.0.2.5 | 192.0.2.5:99"),
        ("[2001:db8::5]", "[2001:db8::5]:8448 | 2001:db8::5 | [2001:db8::5]"),
        ("[2001:db8::5]:99", "[2001:db8::5]:99 | 2001:db8::5 | [2001:db8::5]:99"),
        // Step 2: a port.
        ("plain.test:8448", "192.0.2.1:8448 | plain.test | plain.test:8448"),
        ("to-host.test:99", "to-host.test has no address"),
        ("srv.test:99", "192.0.2.99:99 | srv.test | srv.test:99"),
        // Step 3: .well-known.
        ("to-address.test", "192.0.2.40:8448 | 192.0.2.40 | 192.0.2.40"),
        ("to-address-port.test", "[2001:db8::40]:444 | 2001:db8::40 | [2001:db8::40]:444"),
        ("to-port.test", "192.0.2.30:443 | hosted.test | hosted.test:443"),
        ("to-srv.test", "192.0.2.20:8450 192.0.2.21:8449 192.0.2.22:8449 | srv.test | srv.test"),
        ("to-old-srv.test", "192.0.2.20:8451 | old.test | old.test"),
        ("to-host.test", "192.0.2.30:8448 | hosted.test | hosted.test"),
        // One step of delegation only.
        ("to-chain.test", "to-host.test has no address"),
        ("to-itself.test", "to-itself.test has no address"),
        // Steps 4 and 5: SRV records of the name itself.
        ("srv.test", "192.0.2.20:8450 192.0.2.21:8449 192.0.2.22:8449 | srv.test | srv.test"),
        ("old.test", "192.0.2.20:8451 | old.test | old.test"),
        ("dead-first.test", "[2001:db8::6]:8452 | dead-first.test | dead-first.test"),
        ("dead.test", "dead.test has no address"),
        // Step 6: the name itself. An invalid .well-known is none.
        ("plain.test", "192.0.2.1:8448 | plain.test | plain.test"),
        ("six.test", "[2001:db8::6]:8448 | six.test | six.test"),
        ("both.test", "[2001:db8::7]:8448 192.0.2.7:8448 | both.test | both.test"),
        ("nowhere.test", "nowhere.test has no address"),
    ];
    for (name, expected) in table {
        assert_eq!(route(name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn fa1_nothing_is_asked_that_need_not_be() {
    let asked = async |name: &str| {
        let world = world();
        drop(find(name, &world, &chance()).await);
        world.asked.into_inner().join(", ")
    };
    assert_eq!(asked("192.0.2.5").await, "");
    assert_eq!(asked("plain.test:99").await, "addresses plain.test");
    assert_eq!(asked("to-port.test").await, "well-known to-port.test, addresses hosted.test");
    // The deprecated record only if there is none of the other.
    let srv = "well-known srv.test, SRV _matrix-fed._tcp.srv.test, addresses target.test, addresses backup.test";
    assert_eq!(asked("srv.test").await, srv);
    let plain = "well-known six.test, SRV _matrix-fed._tcp.six.test, SRV _matrix._tcp.six.test, addresses six.test";
    assert_eq!(asked("six.test").await, plain);
    assert_eq!(asked("not a name").await, "");
}

#[tokio::test]
async fn fa3_srv_targets_are_tried_by_priority_and_spread_by_weight() {
    let mut world = World::default();
    let names = ["a.test", "b.test", "c.test", "d.test"];
    for (number, name) in names.iter().enumerate() {
        world.addresses.insert(name, vec![["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"][number]]);
    }
    let records =
        vec![srv(2, 0, 4, "d.test"), srv(1, 0, 1, "a.test"), srv(1, 10, 2, "b.test"), srv(1, 90, 3, "c.test")];
    world.srv.insert("_matrix-fed._tcp.spread.test", records);
    let chance = chance();
    let mut first = BTreeMap::new();
    for _ in 0..1_000 {
        let found = find("spread.test", &world, &chance).await.unwrap();
        let ports: Vec<u16> = found.endpoints.iter().map(|endpoint| endpoint.port).collect();
        assert_eq!(ports.len(), 4, "all are there");
        assert_eq!(ports[3], 4, "the lower priority comes last");
        *first.entry(ports[0]).or_insert(0) += 1;
    }
    let share = |port: u16| first.get(&port).copied().unwrap_or(0);
    assert!(share(3) > 800 && share(2) > 50 && share(2) < 200 && share(1) < 50, "{first:?}");
}

#[test]
fn fa11_server_names_are_read_strictly() {
    let long_label = format!("{}.test", "a".repeat(64));
    let long = format!("{}test", "a.".repeat(126));
    let bad = [
        "",
        ":",
        ":80",
        "a.test:",
        "a.test:x",
        "a.test:0",
        "a.test:65536",
        "a.test:123456",
        "a.test:-1",
        "a.test:+1",
        "a.test:80:80",
        "a..test",
        ".test",
        "a.test.",
        "-a.test",
        "a-.test",
        "a_b.test",
        "a b",
        "ä.test",
        "a/b",
        "a@b",
        "a.test/",
        "a.test?x",
        "a\0.test",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "0x7f.1",
        "127.1",
        "2130706433",
        "a.0x7f",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::g]",
        "[::1%eth0]",
        "[1.2.3.4]",
        "[]",
        &long_label,
        &long,
        &"a".repeat(256),
    ];
    for name in bad {
        assert!(ServerName::parse(name).is_err(), "{name:?}");
    }
    let good = ["a", "a.test", "A.Test", "a-b.test:1", "xn--bcher-kva.test", "1a.2b", "a.test:65535", "a.test:08448"];
    for name in good {
        let parsed = ServerName::parse(name).unwrap_or_else(|_| panic!("{name}"));
        assert_eq!(parsed.text, name);
        assert!(matches!(parsed.host, Host::Name(_)));
    }
    for (name, address, port) in
        [("1.2.3.4", "1.2.3.4", None), ("1.2.3.4:5", "1.2.3.4", Some(5)), ("[::1]:6", "::1", Some(6))]
    {
        let parsed = ServerName::parse(name).unwrap();
        assert_eq!((parsed.host, parsed.port), (Host::Address(address.parse().unwrap()), port));
    }
}

#[tokio::test]
async fn fa11_what_is_no_server_name_leads_nowhere() {
    let found = find("127.1", &world(), &chance()).await;
    assert!(matches!(found, Err(DiscoveryError::Name(_))), "{found:?}");
}

/// A host whose `.well-known` the test decides.
#[derive(Clone, Default)]
struct File {
    answer: Arc<Mutex<Option<Answer>>>,
    count: Arc<AtomicU64>,
}

#[async_trait]
impl Fetch for File {
    async fn fetch(&self, _: &str) -> Option<Answer> {
        self.count.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.answer.lock().clone()
    }
}

impl File {
    fn set(&self, status: u16, headers: &[(&str, &str)], body: &str) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        *self.answer.lock() = Some(Answer { status, headers, body: Bytes::from(body.to_owned()) });
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

fn well_known(file: &File) -> (WellKnown, Arc<StandingClock>) {
    let clock = StandingClock::new();
    (WellKnown::new(Box::new(file.clone()), Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

const BODY: &str = r#"{"m.server":"hosted.test:443"}"#;
const MINUTE_MS: i64 = 60_000;

/// After how many minutes an answer with these headers is fetched again.
async fn kept_minutes(headers: &[(&str, &str)]) -> i64 {
    let file = File::default();
    file.set(200, headers, BODY);
    let (well_known, clock) = well_known(&file);
    assert_eq!(well_known.delegated("a.test").await.as_deref(), Some("hosted.test:443"));
    let mut minutes = 0;
    while file.count() == 1 {
        clock.advance(MINUTE_MS);
        minutes += 1;
        assert!(minutes < 10_000, "it is kept for ever");
        assert!(well_known.delegated("a.test").await.is_some());
    }
    minutes
}

#[tokio::test]
async fn fa2_well_known_is_kept_as_it_says_within_bounds() {
    assert_eq!(kept_minutes(&[]).await, 24 * 60);
    assert_eq!(kept_minutes(&[("cache-control", "public, max-age=7200")]).await, 120);
    assert_eq!(kept_minutes(&[("cache-control", "Max-Age=\"7200\"")]).await, 120);
    assert_eq!(kept_minutes(&[("cache-control", "max-age=99999999999999999999")]).await, 48 * 60);
    assert_eq!(kept_minutes(&[("cache-control", "max-age=1")]).await, 5);
    assert_eq!(kept_minutes(&[("cache-control", "no-store")]).await, 5);
    assert_eq!(kept_minutes(&[("cache-control", "max-age=nonsense")]).await, 24 * 60);
    let date = ("date", "Tue, 14 Nov 2023 22:00:00 GMT");
    assert_eq!(kept_minutes(&[date, ("expires", "Wed, 15 Nov 2023 00:00:00 GMT")]).await, 120);
    assert_eq!(kept_minutes(&[date, ("expires", "Tue, 15 Nov 2033 00:00:00 GMT")]).await, 48 * 60);
    assert_eq!(kept_minutes(&[date, ("expires", "0")]).await, 5);
    let both = [date, ("expires", "Wed, 15 Nov 2023 00:00:00 GMT"), ("cache-control", "max-age=3600")];
    assert_eq!(kept_minutes(&both).await, 60);
}

#[tokio::test]
async fn fa2_an_invalid_answer_is_as_if_there_were_none() {
    let large = format!(r#"{{"m.server":"hosted.test","x":"{}"}}"#, "x".repeat(60_000));
    let cases: &[(u16, &str)] = &[
        (404, BODY),
        (500, BODY),
        (201, BODY),
        (200, ""),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, r#"{"m.server":null}"#),
        (200, r#"{"m.server":""}"#),
        (200, r#"{"m.server":"https://hosted.test"}"#),
        (200, r#"{"m.server":"hosted.test:http"}"#),
        (200, &large),
    ];
    for (status, body) in cases {
        let file = File::default();
        file.set(*status, &[("cache-control", "max-age=172800")], body);
        let (well_known, _) = well_known(&file);
        assert_eq!(well_known.delegated("a.test").await, None, "{status} {body:.40}");
    }
    // Any content type will do.
    let file = File::default();
    file.set(200, &[("content-type", "text/html")], BODY);
    assert!(well_known(&file).0.delegated("a.test").await.is_some());
}

#[tokio::test]
async fn fa2_failures_are_kept_for_growing_times_of_an_hour_at_most() {
    let file = File::default();
    file.set(404, &[("cache-control", "max-age=172800")], "");
    let (well_known, clock) = well_known(&file);
    let mut asked_at = Vec::new();
    for minute in 0..300 {
        let before = file.count();
        assert_eq!(well_known.delegated("a.test").await, None);
        if file.count() > before {
            asked_at.push(minute);
        }
        clock.advance(MINUTE_MS);
    }
    assert_eq!(asked_at, [0, 5, 15, 35, 75, 135, 195, 255]);
}

#[tokio::test]
async fn fa2_a_host_that_fails_in_passing_still_delegates() {
    let file = File::default();
    file.set(200, &[("cache-control", "max-age=3600")], BODY);
    let (well_known, clock) = well_known(&file);
    assert!(well_known.delegated("a.test").await.is_some());
    *file.answer.lock() = None;
    clock.advance(2 * 60 * MINUTE_MS);
    assert!(well_known.delegated("a.test").await.is_some());
    file.set(503, &[], "");
    clock.advance(2 * 60 * MINUTE_MS);
    assert!(well_known.delegated("a.test").await.is_some());
    // No longer than any answer is kept; and a host that says there is none has none.
    clock.advance(48 * 60 * MINUTE_MS);
    assert_eq!(well_known.delegated("a.test").await, None);
    file.set(200, &[], BODY);
    clock.advance(60 * MINUTE_MS);
    assert!(well_known.delegated("a.test").await.is_some());
    file.set(404, &[], "");
    clock.advance(25 * 60 * MINUTE_MS);
    assert_eq!(well_known.delegated("a.test").await, None);
}

#[tokio::test]
async fn fa2_a_file_is_fetched_once_for_all_who_want_it() {
    let file = File::default();
    file.set(200, &[], BODY);
    let (well_known, clock) = well_known(&file);
    let all = (0..20).map(|_| well_known.delegated("a.test"));
    assert!(futures_util::future::join_all(all).await.iter().all(Option::is_some));
    assert_eq!(file.count(), 1);
    // Who was just asked is not forgotten; who was asked long ago is.
    well_known.forget("a.test");
    assert!(well_known.delegated("a.test").await.is_some());
    assert_eq!(file.count(), 1);
    clock.advance(6 * MINUTE_MS);
    well_known.forget("a.test");
    assert!(well_known.delegated("a.test").await.is_some());
    assert_eq!(file.count(), 2);
}

//! The targets, one for each thing that is read from outside.

mod clients;
mod servers;
mod web;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use event::auth_rules::{AuthEvent, check_against_auth_events};
use event::power_levels::PowerLevels;
use event::{Json, Keys, Pdu, Rules, SUPPORTED_VERSIONS, VerifyKey};

/// A parser with inputs to start from.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, as its test and its failures have it.
    pub name: &'static str,
    /// Inputs that the parser takes.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Gives the bytes to the parser and checks what has to hold of its answer; answers it in short.
    pub run: fn(&[u8]) -> String,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "json", seeds: json_seeds, run: json },
    Target { name: "pdu", seeds: pdu_seeds, run: pdu },
    Target { name: "verify", seeds: pdu_seeds, run: verify },
    Target { name: "power_levels", seeds: power_level_seeds, run: power_levels },
    Target { name: "auth_rules", seeds: pdu_seeds, run: auth_rules },
    Target { name: "edu", seeds: json_seeds, run: edu },
    Target { name: "ids", seeds: id_seeds, run: ids },
    Target { name: "keys", seeds: id_seeds, run: keys },
    Target { name: "sync_token", seeds: token_seeds, run: sync_token },
    Target { name: "page_token", seeds: token_seeds, run: page_token },
    Target { name: "filter", seeds: filter_seeds, run: filter },
    Target { name: "query", seeds: query_seeds, run: query },
    Target { name: "body", seeds: json_seeds, run: body },
    Target { name: "mxc", seeds: id_seeds, run: mxc },
    Target { name: "disposition", seeds: id_seeds, run: disposition },
    Target { name: "access_token", seeds: clients::access_token_seeds, run: clients::access_token },
    Target { name: "push_rules", seeds: clients::push_rule_seeds, run: clients::push_rules },
    Target { name: "x_matrix", seeds: servers::header_seeds, run: servers::x_matrix },
    Target { name: "server_name", seeds: servers::name_seeds, run: servers::server_name },
    Target { name: "well_known", seeds: servers::well_known_seeds, run: servers::well_known },
    Target { name: "key_response", seeds: servers::key_response_seeds, run: servers::key_response },
    Target { name: "template", seeds: servers::template_seeds, run: servers::template },
    Target { name: "send_join", seeds: servers::send_join_seeds, run: servers::send_join },
    Target { name: "acl", seeds: servers::acl_seeds, run: servers::acl },
    Target { name: "page", seeds: web::page_seeds, run: web::page },
    Target { name: "preview_rules", seeds: web::rule_seeds, run: web::preview_rules },
];

/// An answer without the digits and quoted parts that would make each one new.
fn short(answer: impl std::fmt::Display) -> String {
    let text = answer.to_string();
    let plain = text.split('`').step_by(2).collect::<String>();
    plain.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

fn bytes_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn json_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"a":[1,-2,null,true,"x\u00e9\n"],"b":{"c":{}}}"#,
        r#"{"edu_type":"m.typing","content":{"room_id":"!r:b","user_id":"@a:b","typing":true}}"#,
        r#"{"name":"x","limit":10,"flag":false,"list":["a"],"inner":{"key":"value"}}"#,
        "[1.5e10,-0,1e2,9007199254740993]",
    ])
}

/// JSON: what is read and written canonically reads as the same again.
fn json(input: &[u8]) -> String {
    match Json::from_slice(input) {
        Ok(value) => {
            let text = value.to_canonical_string();
            let again = Json::from_slice(text.as_bytes()).map(|value| value.to_canonical_string());
            assert_eq!(again.as_ref(), Ok(&text), "canonical JSON reads as itself");
            format!("{} {}", text.len().ilog2(), text.chars().filter(|c| "{[:".contains(*c)).count().min(20))
        }
        Err(error) => short(error),
    }
}

/// Events of an early, a middle and the newest format; the first byte chooses the room version.
fn pdu_seeds() -> Vec<Vec<u8>> {
    let hash =
        r#""hashes":{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"},"signatures":{"b":{"ed25519:1":"c2ln"}}"#;
    let hashed = r#""auth_events":["$47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"],"prev_events":[]"#;
    let common = r#""sender":"@a:b","origin_server_ts":1700000000000,"depth":3"#;
    let texts = [
        format!(
            r#"{{"event_id":"$e:b","room_id":"!r:b","type":"m.room.message","content":{{"body":"x"}},"auth_events":[["$a:b",{{"sha256":"x"}}]],"prev_events":[],{common},{hash}}}"#
        ),
        format!(
            r#"{{"room_id":"!r:b","type":"m.room.member","state_key":"@a:b","content":{{"membership":"join","join_authorised_via_users_server":"@c:b"}},{hashed},{common},{hash}}}"#
        ),
        format!(
            r#"{{"room_id":"!r:b","type":"m.room.redaction","redacts":"$x","content":{{"redacts":"$y"}},{hashed},{common},{hash}}}"#
        ),
        format!(
            r#"{{"type":"m.room.create","state_key":"","content":{{"room_version":"12","additional_creators":["@c:b"]}},"auth_events":[],"prev_events":[],"sender":"@a:b","origin_server_ts":1,"depth":1,{hash}}}"#
        ),
        format!(
            r#"{{"room_id":"!r:b","type":"m.room.power_levels","state_key":"","content":{{"users":{{"@a:b":100}},"ban":"50"}},{hashed},{common},{hash}}}"#
        ),
    ];
    let versions = 0..SUPPORTED_VERSIONS.len();
    let seed = |n: usize| texts.iter().map(move |text| [&[u8::try_from(n).unwrap_or(0)], text.as_bytes()].concat());
    versions.flat_map(seed).collect()
}

/// The rules that the first byte chooses, and the rest.
fn versioned(input: &[u8]) -> (&'static Rules, &[u8]) {
    let (first, rest) = input.split_first().map_or((0, input), |(first, rest)| (usize::from(*first), rest));
    let version = SUPPORTED_VERSIONS[first % SUPPORTED_VERSIONS.len()];
    (Rules::of(version).unwrap_or_else(|| panic!("version {version} is supported")), rest)
}

/// Events: every version's format, ids, redaction. What is redacted is an event, and stays as it is.
fn pdu(input: &[u8]) -> String {
    let (rules, rest) = versioned(input);
    let parsed = match Pdu::parse(rules, Bytes::copy_from_slice(rest)) {
        Ok(parsed) => parsed,
        Err(error) => return short(error),
    };
    let object = parsed.object();
    let once = event::redact(rules, &object);
    assert_eq!(event::redact(rules, &once), once, "redacting twice is redacting once");
    assert_eq!(event::reference_hash(rules, &once), event::reference_hash(rules, &object), "the id survives redaction");
    if let Ok(redacted) = parsed.redacted(rules) {
        assert_eq!(redacted.event_id, parsed.event_id, "the id survives redaction");
    }
    let stored = Pdu::stored(rules, parsed.event_id.clone(), parsed.bytes.clone());
    assert_eq!(stored.as_ref(), Ok(&parsed), "a stored event reads as it was");
    format!("{} {} {}", rules.version(), parsed.kind.len().min(30), parsed.is_state())
}

/// Nobody's key is known.
struct NoKeys;

impl Keys for NoKeys {
    fn key(&self, _server: &str, _key_id: &str) -> Option<VerifyKey> {
        None
    }
}

/// Signatures of events: nothing is verified without a key.
fn verify(input: &[u8]) -> String {
    let (rules, rest) = versioned(input);
    match event::verify(rules, Bytes::copy_from_slice(rest), &NoKeys, 1_700_000_000_000) {
        Ok(_) => panic!("an event is verified without a key"),
        Err(error) => short(error),
    }
}

fn power_level_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"users":{"@a:b":100,"@c:b":"50"},"users_default":0,"events":{"m.room.name":50},"events_default":0,"state_default":50,"ban":50,"kick":50,"redact":50,"invite":0,"notifications":{"room":50}}"#,
        r#"{"users":{"@a:b":9007199254740991},"ban":" +7 "}"#,
    ];
    (0..SUPPORTED_VERSIONS.len())
        .flat_map(|n| texts.iter().map(move |text| [&[u8::try_from(n).unwrap_or(0)], text.as_bytes()].concat()))
        .collect()
}

/// An event of `kind` by `@a:b` with this content, if it has the format.
fn event_with(rules: &Rules, kind: &str, content: &str) -> Option<Pdu> {
    let text = format!(
        r#"{{"event_id":"$e:b","room_id":"!r:b","type":"{kind}","state_key":"","content":{content},"auth_events":[],"prev_events":[],"sender":"@a:b","origin_server_ts":1,"depth":1,"hashes":{{"sha256":"x"}},"signatures":{{}}}}"#
    );
    Pdu::parse(rules, Bytes::from(text)).ok()
}

/// The create event of a room of these rules.
fn create_event(rules: &Rules) -> Option<Pdu> {
    let text = format!(
        r#"{{"event_id":"$c:b","type":"m.room.create","state_key":"","content":{{"creator":"@a:b","room_version":"{}"}},"auth_events":[],"prev_events":[],"sender":"@a:b","origin_server_ts":1,"depth":1,"hashes":{{"sha256":"x"}},"signatures":{{}}"#,
        rules.version()
    );
    let with_room = format!(r#"{text},"room_id":"!r:b"}}"#);
    let parsed = Pdu::parse(rules, Bytes::from(with_room));
    parsed.or_else(|_| Pdu::parse(rules, Bytes::from(format!("{text}}}")))).ok()
}

/// Power levels: any content gives every level.
fn power_levels(input: &[u8]) -> String {
    let (rules, rest) = versioned(input);
    let Ok(text) = std::str::from_utf8(rest) else { return "no text".to_owned() };
    let Some(create) = create_event(rules) else { panic!("no create event in version {}", rules.version()) };
    let Some(levels) = event_with(rules, "m.room.power_levels", text) else { return "no event".to_owned() };
    let levels = PowerLevels::from_state(rules, Some(&levels), &create);
    let all = [levels.user("@a:b"), levels.user("@z:b"), levels.required("m.room.name", true), levels.invite()];
    let more = [levels.kick(), levels.ban(), levels.redact(), levels.notification("room")];
    format!("{} {all:?} {more:?}", levels.users().len().min(5)).chars().take(80).collect()
}

/// Authorization: any event is judged against any state.
fn auth_rules(input: &[u8]) -> String {
    let (rules, rest) = versioned(input);
    let Some(create) = create_event(rules) else { panic!("no create event in version {}", rules.version()) };
    let parsed = match Pdu::parse(rules, Bytes::copy_from_slice(rest)) {
        Ok(parsed) => parsed,
        Err(error) => return short(error),
    };
    let auth: Vec<AuthEvent> = [create.clone()]
        .into_iter()
        .chain(event_with(rules, "m.room.join_rules", r#"{"join_rule":"public"}"#))
        .map(|pdu| AuthEvent { pdu: Arc::new(pdu), rejected: false })
        .collect();
    match check_against_auth_events(rules, &parsed, &auth, &create) {
        Ok(()) => "allowed".to_owned(),
        Err(denied) => format!("{} {}", rules.version(), denied.rule),
    }
}

/// EDUs: what is read is written as it was.
fn edu(input: &[u8]) -> String {
    let Ok(object) = Json::object_from_slice(input) else { return "no object".to_owned() };
    match event::edu::Edu::from_json(object) {
        Some(edu) => {
            let once = Json::Object(edu.into_json()).to_canonical_string();
            assert!(once.contains("edu_type"), "an EDU without its type: {once}");
            format!("{}", once.len().min(200))
        }
        None => "none".to_owned(),
    }
}

fn id_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "@alice:example.org",
        "@a=b/c:[2001:db8::1]:8448",
        "!room:example.org",
        "!47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
        "mxc://example.org/abcDEF_-123",
        "mxc://127.0.0.1:80/x",
        "photo of the fire.png",
        "naïve \"file\".txt",
        "image/png; charset=x",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        "ed25519:a_1",
    ])
}

/// Ids: the server of a user id is a part of it.
fn ids(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let server = event::ids::user_server(&text);
    if let Some(server) = server {
        assert!(text.ends_with(server) && text.starts_with('@'), "`{server}` of `{text}`");
    }
    let domain = event::ids::domain(&text).map(|domain| text.ends_with(domain));
    let [user, name] = [event::ids::is_user_id(&text), event::ids::is_server_name(&text)];
    format!("{} {user} {name} {domain:?}", server.is_some())
}

/// Keys of others and of a file.
fn keys(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (id, key) = text.split_once(' ').unwrap_or(("ed25519:a_1", &text));
    let public = VerifyKey::from_b64(key, 1, None);
    if let Some(public) = &public {
        assert!(!public.verify(b"", "c2ln"), "a signature of three bytes verifies");
    }
    let own = event::SigningKey::from_seed_b64(id, key);
    format!("{} {}", public.is_some(), own.map_or_else(short, |_| "key".to_owned()))
}

fn token_seeds() -> Vec<Vec<u8>> {
    bytes_of(&["s17_abc_4", "s17_x_4_12", "t3_44", "s0", "s9223372036854775807_e_9223372036854775807_1"])
}

/// Sync tokens: what is read is written as the same token.
fn sync_token(input: &[u8]) -> String {
    match sync::Token::parse(&String::from_utf8_lossy(input)) {
        Ok(token) => {
            let again = sync::Token::parse(&token.to_string());
            assert_eq!(again.ok().as_ref(), Some(&token), "a token reads as itself");
            format!("{} {}", token.number.min(9), token.epoch.len().min(9))
        }
        Err(error) => short(error),
    }
}

/// Tokens of pages: either form is read, and nothing else.
fn page_token(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match rooms::timeline::Token::parse(&text) {
        Ok(_) => {
            assert!(text.starts_with(['s', 't']), "`{text}` is a token");
            format!("token {}", text.len().min(30))
        }
        Err(error) => short(error),
    }
}

fn filter_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"room":{"timeline":{"limit":10,"types":["m.room.*"],"not_senders":["@a:b"]},"state":{"lazy_load_members":true},"rooms":["!r:b"],"include_leave":true},"presence":{"not_types":["*"]},"event_fields":["content.body"],"event_format":"client"}"#,
        r#"{"types":["m.room.*","*"],"not_types":["m.*.x"],"senders":["@a:b"],"contains_url":true,"limit":0}"#,
    ])
}

/// Filters: what is read judges anything, and its limit is bounded.
fn filter(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let whole = sync::Filter::parse(&text).map_or_else(short, |_| "filter".to_owned());
    match sync::EventFilter::parse(&text) {
        Ok(filter) => {
            assert!(filter.timeline_limit() <= 100_000, "limit {}", filter.timeline_limit());
            let [one, other] = [filter.accepts("m.room.message", Some("@a:b")), filter.accepts("", None)];
            format!("{whole} {one} {other} {}", filter.accepts_room("!r:b"))
        }
        Err(error) => format!("{whole} {}", short(error)),
    }
}

fn query_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "from=s1_a_2&dir=b&limit=10&filter=%7B%22limit%22%3A1%7D",
        "at=x&at=y&full_state=true&name=a+b%20c",
        "&&=&a=&=b",
    ])
}

/// What routes ask of a query.
#[derive(Debug, serde::Deserialize)]
struct Query {
    #[serde(default)]
    limit: Option<u64>,
    #[serde(default)]
    full_state: Option<bool>,
    #[serde(default)]
    at: Vec<String>,
    #[serde(default)]
    from: Option<String>,
}

/// Query strings.
fn query(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let pairs = endpoint::query::pairs(&text).count();
    match endpoint::parse_query::<Query>(&text) {
        Ok(query) => {
            let given = [query.limit.is_some(), query.full_state.is_some(), query.from.is_some()];
            format!("{} {} {given:?}", pairs.min(9), query.at.len().min(9))
        }
        Err(error) => short(format!("{error:?}")),
    }
}

/// What routes ask of a body.
#[derive(Debug, serde::Deserialize)]
struct Body {
    name: Option<String>,
    limit: Option<u64>,
    flag: Option<bool>,
    #[serde(default)]
    list: Vec<String>,
    #[serde(default)]
    inner: BTreeMap<String, serde_json::Value>,
}

/// Bodies of requests.
fn body(input: &[u8]) -> String {
    match endpoint::body::parse_json::<Body>(input) {
        Ok(body) => {
            let given = [body.name.is_some(), body.limit.is_some(), body.flag.is_some()];
            format!("{} {} {given:?}", body.list.len().min(9), body.inner.len().min(9))
        }
        Err(error) => short(format!("{error:?}")),
    }
}

/// Media URIs: what is read is safe in a path.
fn mxc(input: &[u8]) -> String {
    match media::Mxc::parse(&String::from_utf8_lossy(input)) {
        Ok(mxc) => {
            let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(mxc.media_id().chars().all(safe), "media id `{}`", mxc.media_id());
            assert!(!mxc.server_name().contains(['/', '\\', '\0', '%', '?', '#']), "server `{}`", mxc.server_name());
            format!("{} {}", mxc.server_name().len().min(20), mxc.media_id().len().min(20))
        }
        Err(error) => short(error),
    }
}

/// File names and types of others in a header: one line of visible ASCII.
fn disposition(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (kind, name) = text.split_once('\n').unwrap_or(("text/plain", &text));
    let value = media::disposition(kind, Some(name));
    assert!(value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "`{value}`");
    format!("{} {}", media::is_inline(kind), value.len().min(60))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drive::{drive, save};

    /// Runs the target of this name for as long as the environment says, on what it says.
    fn fuzz(name: &str) {
        let number = |key: &str| std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let (seconds, seed) = (number("HEARTH_FUZZ_SECONDS"), number("HEARTH_FUZZ_SEED"));
        let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
        let outcome = drive(target, Duration::from_secs(seconds), seed);
        println!("figures: {} inputs, {} different answers", outcome.tried, outcome.answers);
        if let Some((input, said)) = outcome.failure {
            let place = save(target, &input).map_or_else(|e| e.to_string(), |path| path.display().to_string());
            panic!(
                "{name}, seed {seed}: {said}\ninput, also in {place}: {}",
                String::from_utf8_lossy(&input).escape_debug()
            );
        }
        assert!(outcome.answers > 2, "{name} always answers the same");
    }

    /// A test for each target.
    macro_rules! each {
        ($($name:ident)*) => {
            const NAMES: &[&str] = &[$(stringify!($name)),*];
            mod each { $(#[test] fn $name() { super::fuzz(stringify!($name)); })* }
        };
    }

    each!(
        json pdu verify power_levels auth_rules edu ids keys sync_token page_token filter query body mxc disposition
        access_token push_rules x_matrix server_name well_known key_response template send_join acl page
        preview_rules
    );

    #[test]
    fn each_target_has_its_test() {
        assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), NAMES);
    }
}

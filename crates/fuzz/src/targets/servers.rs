//! What other servers send besides events: headers, answers, names, lists.

use event::{Json, Object, Rules};
use federation::discovery::{Answer, ServerName, delegation};
use federation::elements::{Element, Elements};
use federation::key_ring::KeyResponse;
use federation::x_matrix::{HEADER_BYTES_MAX, XMatrix};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::de::IgnoredAny;
use store::UserId;

use super::{bytes_of, short};

/// The time at which answers are read, in milliseconds since the epoch.
const NOW_MS: i64 = 1_700_000_000_000;

pub(super) fn header_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="c2ln""#,
        r#"x-matrix origin=a.test:8448 , KEY = ed25519:a_b,sig="\"\\",unknown=1"#,
        "X-Matrix ,,origin=[::1]:80,key=ed25519:1,sig=x,",
        "Bearer token",
    ])
}

/// The header by which servers sign requests: what is read is written as the same.
pub(super) fn x_matrix(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match XMatrix::parse(&text) {
        Ok(read) => {
            let header = read.header();
            if header.len() <= HEADER_BYTES_MAX {
                assert_eq!(XMatrix::parse(&header).as_ref(), Ok(&read), "a header reads as it was");
            }
            let lengths = [&read.origin, &read.key, &read.signature].map(|part| part.len().min(20));
            format!("{lengths:?} {:?}", read.destination.map(|name| name.len().min(20)))
        }
        Err(error) => short(error),
    }
}

pub(super) fn name_seeds() -> Vec<Vec<u8>> {
    bytes_of(&["example.org", "a-b.c:8448", "1.2.3.4:1", "[2001:db8::1]:443", "0x7f.1", "[::ffff:1.2.3.4]", "x..y"])
}

/// Server names: what is one is one in an id too, and says what it was read from.
pub(super) fn server_name(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    match ServerName::parse(&text) {
        Ok(name) => {
            assert_eq!(name.text, text, "a name is kept as it was");
            assert!(event::ids::is_server_name(&text), "`{text}` leads somewhere and is no server name");
            assert!(text.is_ascii() && !text.contains(['/', '@', '%', '\0', ' ']), "`{text}` is safe in an address");
            format!("{} {:?}", text.len().min(40), name.port.map(|port| port / 10_000))
        }
        Err(error) => short(error),
    }
}

pub(super) fn well_known_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "cache-control: max-age=3600, public\r\n\r\n{\"m.server\":\"a.test:443\"}",
        "cache-control: no-store\r\nexpires: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n{\"m.server\":\"[::1]\"}",
        "expires: Thu, 01 Jan 2026 01:00:00 GMT\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n{\"m.server\":\"a.test\",\"x\":1}",
        "expires: 0\r\n\r\n{\"m.server\":7}",
    ])
}

/// `/.well-known/matrix/server`: whom it names is a server, for a time within bounds.
pub(super) fn well_known(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or(("", &text));
    let headers: HeaderMap = head
        .split("\r\n")
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?)))
        .collect();
    let answer = Answer { status: StatusCode::OK, headers, body: body.to_owned().into() };
    match delegation(&answer) {
        Some((name, kept_ms)) => {
            assert!(ServerName::parse(&name).is_ok(), "`{name}` is no server name");
            assert!((1..=48 * 3_600_000).contains(&kept_ms), "kept for {kept_ms} ms");
            format!("{} {}", name.len().min(40), kept_ms / 3_600_000)
        }
        None => "nobody".to_owned(),
    }
}

pub(super) fn key_response_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"server_name":"a.test","valid_until_ts":1700000001000,"verify_keys":{"ed25519:1":{"key":"Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"}},"old_verify_keys":{"ed25519:0":{"expired_ts":1,"key":"Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"}},"signatures":{"a.test":{"ed25519:1":"x"}}}"#,
        r#"{"server_name":"a.test","valid_until_ts":-1,"verify_keys":[]}"#,
    ])
}

/// Key responses: none is believed that is not signed.
pub(super) fn key_response(input: &[u8]) -> String {
    let Ok(object) = Json::object_from_slice(input) else { return "no object".to_owned() };
    match KeyResponse::read(&object, "a.test", NOW_MS.unsigned_abs()) {
        Ok(_) => panic!("a response is believed without a signature"),
        Err(error) => format!("{} {}", short(error), KeyResponse::may_be_signed(&object)),
    }
}

pub(super) fn template_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"room_version":"11","event":{"room_id":"!r:b","type":"m.room.member","sender":"@a:us","state_key":"@a:us","depth":7,"content":{"membership":"join","join_authorised_via_users_server":"@c:b"},"prev_events":["$p"],"auth_events":["$a"]}}"#,
        r#"{"event":{"room_id":"!r:b","type":"m.room.member","sender":"@a:us","state_key":"@a:us","depth":-7,"content":{"membership":"join"},"prev_events":[["$p:b",{"sha256":"x"}]],"auth_events":[]}}"#,
    ])
}

/// Templates of memberships: nothing but the edges and the authorizer is taken.
pub(super) fn template(input: &[u8]) -> String {
    let Ok(object) = Json::object_from_slice(input) else { return "no object".to_owned() };
    let user = UserId::from("@a:us");
    let version = object.get("room_version").map_or(Some("1"), Json::as_str);
    let Some(rules) = version.and_then(Rules::of) else { return "no version".to_owned() };
    let Some(event) = object.get("event").and_then(Json::as_object) else { return "no event".to_owned() };
    match rooms::remote::read_template(rules, "!r:b", &user, "join", event, Object::new(), NOW_MS) {
        Ok(template) => {
            assert!(template.content.len() <= 2 && template.sender == "@a:us" && template.depth > 0, "{template:?}");
            format!("{} {} {}", rules.version(), template.prev_events.len(), template.auth_events.len())
        }
        Err(error) => short(error),
    }
}

pub(super) fn send_join_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"state":[{"a":1},{"b":[]}],"auth_chain":[],"event":{},"members_omitted":true,"servers_in_room":["b"],"origin":"b"}"#,
        r#"[200,{"state":[],"auth_chain":[{"a":"\u0000"}]}]"#,
    ])
}

/// The frame of answers to `send_join`: read whole or in two pieces it is the same, and nothing that is JSON breaks it.
pub(super) fn send_join(input: &[u8]) -> String {
    const LISTS: &[&str] = &["state", "auth_chain"];
    let read = |pieces: &[&[u8]]| {
        let (mut reader, mut found) = (Elements::new(LISTS), Vec::new());
        let fed = pieces.iter().try_for_each(|piece| reader.feed(piece, &mut found));
        fed.and_then(|()| reader.finish()).map(|rest| (rest, found))
    };
    let whole = read(&[input]);
    let (first, second) = input.split_at(input.first().map_or(0, |byte| usize::from(*byte) % (input.len() + 1)));
    assert_eq!(read(&[first, second]), whole, "an answer that comes in pieces reads as the whole");
    let object: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(input).ok();
    match whole {
        Ok((rest, found)) => {
            if object.is_some() {
                assert!(serde_json::from_slice::<serde_json::Value>(&rest).is_ok(), "what is left is no JSON");
                let is_json = |element: &Element| serde_json::from_slice::<IgnoredAny>(&element.json).is_ok();
                assert!(found.iter().all(is_json), "an element of a JSON list is JSON");
            }
            format!("{} {} {}", found.len().min(5), rest.len().min(60), object.is_some())
        }
        Err(error) => {
            assert!(object.is_none(), "an object is refused: {error}");
            short(error)
        }
    }
}

pub(super) fn acl_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        r#"{"allow":["*"],"deny":["*.evil.test","1.2.3.?"],"allow_ip_literals":false}"#,
        r#"{"allow":["a*b*c*.test","one.test"],"deny":7}"#,
    ])
}

/// Server ACLs: any content judges any name, deny beats allow, and nobody is allowed without a list.
pub(super) fn acl(input: &[u8]) -> String {
    let Ok(object) = Json::object_from_slice(input) else { return "no object".to_owned() };
    let allows = |content: &Object| {
        ["one.test", "a.evil.test:80", "1.2.3.4", "[::1]:1"].map(|name| federation::acl::allows(Some(content), name))
    };
    let judged = allows(&object);
    let without = Object::from_iter(object.into_iter().filter(|(name, _)| name != "allow"));
    assert_eq!(allows(&without), [false; 4], "without a list nobody is allowed");
    format!("{judged:?}")
}

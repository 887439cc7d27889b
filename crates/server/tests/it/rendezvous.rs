//! Where two devices meet for a sign-in by QR code: MSC4108 as of 2024, and MSC4388.

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::in_process::{Here, start};

const PLAIN: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const JSON: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const BASE: &str = "https://matrix.hearth.test";

/// A server with a public address, and as it comes else; without limits on requests.
async fn server() -> Here {
    start(&["public_base_url=https://matrix.hearth.test", "rate_limits.enabled=false"]).await
}

/// A request as text, with some headers.
async fn plain(here: &Here, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    here.raw(request.body(Body::from(body.to_owned())).unwrap()).await
}

const TEXT: (&str, &str) = ("content-type", "text/plain");

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn errcode(response: &Response<Bytes>) -> (u16, String) {
    (response.status().as_u16(), json_of(response)["errcode"].as_str().unwrap().to_owned())
}

/// Opens a place; its path and its tag.
async fn open(here: &Here, data: &str) -> (String, String) {
    let opened = plain(here, Method::POST, PLAIN, &[TEXT], data).await;
    assert_eq!(opened.status(), 201, "{opened:?}");
    let url = json_of(&opened)["url"].as_str().unwrap().to_owned();
    (url.strip_prefix(BASE).unwrap().to_owned(), header(&opened, "etag").to_owned())
}

#[tokio::test]
async fn two_devices_meet_at_a_place_that_both_read_and_write() {
    let here = server().await;
    let opened = plain(&here, Method::POST, PLAIN, &[TEXT], "").await;
    for name in ["etag", "expires", "last-modified"] {
        assert_ne!(header(&opened, name), "", "{name}");
    }
    let expires = header(&opened, "expires");
    assert_eq!(expires, "Tue, 14 Nov 2023 22:18:20 GMT", "five minutes from the beginning");
    assert_eq!(header(&opened, "last-modified"), "Tue, 14 Nov 2023 22:13:20 GMT");
    assert_eq!((header(&opened, "cache-control"), header(&opened, "pragma")), ("no-store, no-transform", "no-cache"));
    assert_eq!(header(&opened, "content-type"), "application/json");
    assert_eq!(header(&opened, "location"), json_of(&opened)["url"]);
    for exposed in ["ETag", "Location"] {
        assert!(header(&opened, "access-control-expose-headers").contains(exposed), "{exposed}");
    }
    assert_eq!(header(&opened, "access-control-allow-origin"), "*");
    let (path, first) = open(&here, "").await;

    let read = plain(&here, Method::GET, &path, &[], "").await;
    assert_eq!((read.status().as_u16(), header(&read, "etag"), &read.body()[..]), (200, first.as_str(), &b""[..]));
    assert_eq!(header(&read, "content-type"), "text/plain");
    let unchanged = plain(&here, Method::GET, &path, &[("if-none-match", &first)], "").await;
    assert_eq!((unchanged.status().as_u16(), header(&unchanged, "etag")), (304, first.as_str()));

    let written = plain(&here, Method::PUT, &path, &[TEXT, ("if-match", &first)], "from B").await;
    assert_eq!((written.status().as_u16(), written.body().len()), (202, 0));
    let second = header(&written, "etag").to_owned();
    assert_ne!(second, first);
    let read = plain(&here, Method::GET, &path, &[("if-none-match", &first)], "").await;
    assert_eq!(
        (read.status().as_u16(), header(&read, "etag"), &read.body()[..]),
        (200, second.as_str(), &b"from B"[..])
    );

    // Who has not seen that may not write over it. A proxy may have made the tag a weak one.
    let late = plain(&here, Method::PUT, &path, &[TEXT, ("if-match", &first)], "from A").await;
    assert_eq!((errcode(&late), header(&late, "etag")), ((412, "M_UNKNOWN".to_owned()), second.as_str()));
    assert_eq!(json_of(&late)["org.matrix.msc4108.errcode"], "M_CONCURRENT_WRITE");
    let weak = format!("W/{second}");
    assert_eq!(plain(&here, Method::GET, &path, &[("if-none-match", &weak)], "").await.status(), 304);
    let again = plain(&here, Method::PUT, &path, &[TEXT, ("if-match", &weak)], "from B").await;
    assert_eq!(again.status(), 202);
    assert_ne!(header(&again, "etag"), second, "the same text anew is news");

    assert_eq!(plain(&here, Method::DELETE, &path, &[], "").await.status(), 204);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(errcode(&plain(&here, method, &path, &[], "").await), (404, "M_NOT_FOUND".to_owned()));
    }
    let gone = plain(&here, Method::PUT, &path, &[TEXT, ("if-match", &second)], "x").await;
    assert_eq!(errcode(&gone), (404, "M_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn what_is_no_payload_is_refused() {
    let here = server().await;
    let (path, tag) = open(&here, &"x".repeat(4_096)).await;
    let large = "x".repeat(4_097);
    let tag = ("if-match", tag.as_str());
    let check = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str, expected: (u16, &str)| {
        let answer = plain(&here, method, path, headers, body).await;
        assert_eq!(errcode(&answer), (expected.0, expected.1.to_owned()), "{headers:?}");
    };
    check(Method::POST, PLAIN, &[TEXT], &large, (413, "M_TOO_LARGE")).await;
    check(Method::PUT, &path, &[TEXT, tag], &large, (413, "M_TOO_LARGE")).await;
    check(Method::POST, PLAIN, &[], "x", (400, "M_MISSING_PARAM")).await;
    check(Method::POST, PLAIN, &[("content-type", "text/html")], "x", (400, "M_INVALID_PARAM")).await;
    check(Method::PUT, &path, &[TEXT], "x", (400, "M_MISSING_PARAM")).await;
    check(Method::PUT, &path, &[TEXT, ("if-match", "1")], "x", (400, "M_INVALID_PARAM")).await;
    check(Method::GET, &path, &[("sec-fetch-dest", "document")], "", (403, "M_FORBIDDEN")).await;
    let script = plain(&here, Method::GET, &path, &[("sec-fetch-dest", "empty"), ("sec-fetch-mode", "cors")], "").await;
    assert_eq!(script.status(), 200);
    // An address is not made up: without one, clients would put a wrong one into the code.
    let unnamed = start(&[]).await;
    assert_eq!(errcode(&plain(&unnamed, Method::POST, PLAIN, &[TEXT], "").await), (404, "M_UNRECOGNIZED".to_owned()));
}

#[tokio::test]
async fn the_form_of_msc4388_is_json() {
    let here = server().await;
    let found = here.ask(Method::GET, JSON, Value::Null).await;
    assert_eq!((found.0.status().as_u16(), found.1), (200, json!({ "create_available": true })));
    let (head, opened) = here.ask(Method::POST, JSON, json!({ "data": "from G" })).await;
    assert_eq!(head.status(), 200, "{opened}");
    let path = format!("{JSON}/{}", opened["id"].as_str().unwrap());
    assert!((290_000..=300_000).contains(&opened["expires_in_ms"].as_i64().unwrap()), "{opened}");
    let (_, read) = here.ask(Method::GET, &path, Value::Null).await;
    assert_eq!((&read["data"], &read["sequence_token"]), (&json!("from G"), &opened["sequence_token"]));
    assert!(read["expires_in_ms"].as_i64() <= opened["expires_in_ms"].as_i64());

    let write = |token: &Value, data: &str| json!({ "sequence_token": token, "data": data });
    let first = &opened["sequence_token"];
    let (head, written) = here.ask(Method::PUT, &path, write(first, "from S")).await;
    assert_eq!(head.status(), 200);
    assert_ne!(&written["sequence_token"], first);
    // Who did not get the answer may send it again; it counts once.
    let again = here.ask(Method::PUT, &path, write(first, "from S")).await;
    assert_eq!((again.0.status().as_u16(), &again.1), (200, &written));
    let late = here.ask(Method::PUT, &path, write(first, "from G again")).await;
    assert_eq!((late.0.status().as_u16(), &late.1["errcode"]), (409, &json!("M_CONCURRENT_WRITE")));
    let (_, read) = here.ask(Method::GET, &path, Value::Null).await;
    assert_eq!((&read["data"], &read["sequence_token"]), (&json!("from S"), &written["sequence_token"]));

    let large = here.ask(Method::PUT, &path, write(&written["sequence_token"], &"x".repeat(4_097))).await;
    assert_eq!((large.0.status().as_u16(), &large.1["errcode"]), (413, &json!("M_TOO_LARGE")));
    let shown = plain(&here, Method::GET, &path, &[("sec-fetch-mode", "navigate")], "").await;
    assert_eq!(errcode(&shown), (403, "M_FORBIDDEN".to_owned()));
    // The other form does not lead there.
    let other = path.replace(JSON, PLAIN);
    assert_eq!(plain(&here, Method::GET, &other, &[], "").await.status(), 404);
    assert_eq!(here.ask(Method::DELETE, &path, Value::Null).await.1, json!({}));
    let gone = here.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!((gone.0.status().as_u16(), &gone.1["errcode"]), (404, &json!("M_NOT_FOUND")));
}

#[tokio::test]
async fn every_node_knows_the_place_and_it_ends_by_itself() {
    let here = server().await;
    let other = here.neighbor().await;
    let (path, tag) = open(&here, "from A").await;
    let written = plain(&other, Method::PUT, &path, &[TEXT, ("if-match", &tag)], "from B").await;
    assert_eq!(written.status(), 202);
    assert_eq!(&plain(&here, Method::GET, &path, &[], "").await.body()[..], b"from B");
    here.clock.advance(299_000);
    assert_eq!(plain(&other, Method::GET, &path, &[], "").await.status(), 200, "a write does not prolong it");
    here.clock.advance(1_000);
    for node in [&here, &other] {
        assert_eq!(plain(node, Method::GET, &path, &[], "").await.status(), 404);
    }
}

/// Strangers may neither fill the disk nor keep users from signing in a device of theirs.
#[tokio::test]
async fn there_are_so_many_places_and_some_are_for_users() {
    let here = server().await;
    let alice = here.person("alice").await;
    let mut opened = 0;
    let mut refused = 0;
    for _ in 0..4_000 {
        let answer = plain(&here, Method::POST, PLAIN, &[TEXT], "x").await;
        match answer.status().as_u16() {
            201 => opened += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!((700..=768).contains(&opened) && refused > 3_000, "{opened} {refused}");
    let token = format!("Bearer {alice}");
    let mut own = 0;
    for _ in 0..20 {
        let answer = plain(&here, Method::POST, PLAIN, &[TEXT, ("authorization", &token)], "x").await;
        own += usize::from(answer.status() == 201);
    }
    assert!(own > 10, "{own}");
    here.clock.advance(300_000);
    open(&here, "there is room again").await;
}

#[tokio::test]
async fn who_opens_many_places_has_to_wait() {
    let here = start(&["public_base_url=https://matrix.hearth.test", "rate_limits.logins.burst=3"]).await;
    for _ in 0..3 {
        assert_eq!(plain(&here, Method::POST, PLAIN, &[TEXT], "x").await.status(), 201);
    }
    let refused = plain(&here, Method::POST, PLAIN, &[TEXT], "x").await;
    assert_eq!(errcode(&refused), (429, "M_LIMIT_EXCEEDED".to_owned()));
    let refused = here.ask(Method::POST, JSON, json!({ "data": "x" })).await;
    assert_eq!(refused.0.status(), 429);
}

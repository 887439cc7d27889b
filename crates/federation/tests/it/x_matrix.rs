//! Requests between servers: the header, what it signs, and whose it is.

use std::sync::Arc;

use event::{Json, Object};
use federation::client::{Client, Reach, path};
use federation::key_ring::RequestError;
use federation::transport::Limits;
use federation::x_matrix::{HeaderError, XMatrix, sign, signed_object};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use crate::harness::{key, object};
use crate::trust::{NOW_MS, Net, Trust, US, response};

const THEM: &str = "two.test";

fn parsed(header: &str) -> XMatrix {
    XMatrix::parse(header).unwrap_or_else(|error| panic!("{header}: {error}"))
}

#[test]
fn fa4_x_matrix_is_parsed_tolerantly() {
    let expected = XMatrix {
        origin: "a.test:8448".to_owned(),
        destination: Some("b.test".to_owned()),
        key: "ed25519:k1".to_owned(),
        signature: "c2ln/+==".to_owned(),
    };
    let headers = [
        r#"X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:k1",sig="c2ln/+==""#,
        r#"x-matrix   SIG="c2ln/+==" , Key="ed25519:k1",destination=b.test	,	Origin=a.test:8448"#,
        r#"X-MATRIX origin=a.test:8448,destination="b.test",key=ed25519:k1,sig=c2ln/+=="#,
        r#"X-Matrix origin="a.\test\:8448",destination="b.test",key="ed25519:k1",sig="c2ln/+==",extra="\"x\",y""#,
        r#"X-Matrix ,origin = "a.test:8448",, destination="b.test",key="ed25519:k1",new=1,sig="c2ln/+==","#,
    ];
    for header in headers {
        assert_eq!(parsed(header), expected, "{header}");
    }
    let without = parsed(r#"X-Matrix origin=a.test,key="ed25519:k1",sig="c2ln""#);
    assert_eq!((without.destination, without.origin.as_str()), (None, "a.test"));
}

#[test]
fn fa4_what_is_no_x_matrix_is_refused() {
    let check = |header: &str, expected| assert_eq!(XMatrix::parse(header), Err(expected), "{header}");
    check("Bearer abc", HeaderError::Scheme);
    check("", HeaderError::Scheme);
    check("X-Matrix", HeaderError::Scheme);
    check("X-Matrix key=a,sig=b", HeaderError::Missing("origin"));
    // The name on the wire is `sig`.
    check("X-Matrix origin=a,key=b,signature=c", HeaderError::Missing("sig"));
    check("X-Matrix origin=a,origin=b,key=c,sig=d", HeaderError::Twice("origin"));
    for broken in ["origin", "origin=", "=a", "origin=\"a", "origin=\"a\\", "origin=\"a\"b", "ori gin=a", "origin=a\"b"]
    {
        check(&format!("X-Matrix {broken}"), HeaderError::Syntax);
    }
    check(&format!("X-Matrix origin={}", "a".repeat(5_000)), HeaderError::Syntax);
    check(&format!("X-Matrix {}", "a=b,".repeat(100)), HeaderError::Syntax);
}

#[test]
fn fa4_what_is_sent_suits_the_oldest_servers() {
    let header = sign(&key(US), &Method::GET, "/x", US, THEM, None).header();
    let start = format!("X-Matrix origin=\"{US}\",destination=\"{THEM}\",key=\"{}\",sig=\"", key(US).key_id());
    assert!(header.starts_with(&start), "{header}");
    assert_eq!(parsed(&header).destination.as_deref(), Some(THEM));
}

/// A request's headers, signed by `THEM`.
fn signed(method: &Method, uri: &str, destination: &str, content: Option<&Object>) -> XMatrix {
    let content = content.map(event::canonical_json::to_bytes);
    sign(&key(THEM), method, uri, THEM, destination, content.as_deref())
}

fn headers(signed: &[&XMatrix]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for by in signed {
        headers.append(AUTHORIZATION, HeaderValue::from_str(&by.header()).unwrap());
    }
    headers
}

async fn with_keys_of_them() -> Trust {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + 86_400_000));
    Trust::new(net).await
}

#[tokio::test]
async fn fa5_the_signature_covers_method_raw_uri_and_body() {
    let trust = with_keys_of_them().await;
    let uri = "/_matrix/federation/v1/event/%24a%2Fb?x=%20&y";
    let content = object(json!({ "b": [1, "ü"], "a": {} }));
    let by = signed(&Method::PUT, uri, US, Some(&content));
    let verify = async |method: Method, uri: &str, content: Option<&Object>| {
        trust.ring.verify_request(&headers(&[&by]), &method, uri, content).await.ok()
    };
    assert_eq!(verify(Method::PUT, uri, Some(&content)).await.as_deref(), Some(THEM));
    assert_eq!(verify(Method::POST, uri, Some(&content)).await, None);
    // Decoding the path would change what was signed.
    assert_eq!(verify(Method::PUT, "/_matrix/federation/v1/event/$a/b?x=%20&y", Some(&content)).await, None);
    assert_eq!(verify(Method::PUT, "/_matrix/federation/v1/event/%24a%2Fb", Some(&content)).await, None);
    assert_eq!(verify(Method::PUT, uri, Some(&Object::new())).await, None);
    assert_eq!(verify(Method::PUT, uri, None).await, None);
    // Without a body there is no `content`, which is not an empty one.
    let bare = signed(&Method::GET, uri, US, None);
    let bare = headers(&[&bare]);
    assert!(trust.ring.verify_request(&bare, &Method::GET, uri, None).await.is_ok());
    assert!(trust.ring.verify_request(&bare, &Method::GET, uri, Some(&Object::new())).await.is_err());
}

#[tokio::test]
async fn fa5_what_the_client_sends_is_what_it_signed() {
    let net = Arc::new(Net::default());
    let transport = Arc::clone(&net) as Arc<dyn federation::transport::Transport>;
    let client = Client::new(US, Arc::new(key(US)), transport, Reach::default());
    let uri = path("/_matrix/federation/v1/event", &["$a/b ü"], &[("v", "1&2")]);
    assert_eq!(uri, "/_matrix/federation/v1/event/%24a%2Fb%20%C3%BC?v=1%262");
    let body = object(json!({ "z": 1, "a": "é" }));
    drop(client.json(THEM, Method::PUT, &uri, Some(&body), Limits::default()).await);
    drop(client.json(THEM, Method::GET, &uri, None, Limits::default()).await);
    drop(client.json(THEM, Method::GET, "/not a path", None, Limits::default()).await);
    let seen = net.seen.lock().clone();
    assert_eq!(seen.len(), 2, "a path that would be changed on its way is not sent");
    for request in seen {
        let header = request.headers.get(AUTHORIZATION).unwrap().to_str().unwrap();
        let content = request.body.as_ref().map(|body| Json::object_from_slice(body).unwrap());
        let mut expected = signed_object(&request.method, &request.path_and_query, US, THEM, content.as_ref());
        key(US).sign_json(&mut expected, US);
        assert_eq!(
            expected["signatures"].get(US).unwrap().get(key(US).key_id()),
            Some(&parsed(header).signature.into())
        );
    }
}

#[tokio::test]
async fn fa4_the_destination_must_be_us_if_it_is_named() {
    let trust = with_keys_of_them().await;
    let uri = "/_matrix/federation/v1/version";
    let ask = async |by: &XMatrix| trust.ring.verify_request(&headers(&[by]), &Method::GET, uri, None).await;
    let mut by = signed(&Method::GET, uri, US, None);
    assert_eq!(ask(&by).await.unwrap(), THEM);
    by.destination = None;
    assert_eq!(ask(&by).await.unwrap(), THEM);
    by.destination = Some("three.test".to_owned());
    let refused = ask(&by).await.unwrap_err();
    assert!(matches!(refused, RequestError::Destination), "{refused:?}");
    assert_eq!(endpoint::Error::from(refused).status, 401);
    // Signed for somebody else and stripped of its destination.
    let mut replayed = signed(&Method::GET, uri, "three.test", None);
    replayed.destination = None;
    assert!(matches!(ask(&replayed).await, Err(RequestError::Signature(_))));
}

#[tokio::test]
async fn fa4_several_headers_are_several_signatures() {
    let net = Net::default();
    let (first, second) = (key(THEM), key("another key"));
    let mut both = response(THEM, &first, NOW_MS + 86_400_000);
    let keys = both.get_mut("verify_keys").and_then(Json::as_object_mut).unwrap();
    keys.insert(second.key_id().to_owned(), Json::from(object(json!({ "key": second.public_b64() }))));
    both.remove("signatures");
    first.sign_json(&mut both, THEM);
    second.sign_json(&mut both, THEM);
    net.publish(THEM, both);
    let trust = Trust::new(net).await;
    let one = sign(&first, &Method::GET, "/x", THEM, US, None);
    let two = sign(&second, &Method::GET, "/x", THEM, US, None);
    let ask = async |by: &[&XMatrix]| trust.ring.verify_request(&headers(by), &Method::GET, "/x", None).await;
    assert_eq!(ask(&[&one, &two]).await.unwrap(), THEM);
    // Each of them must be right.
    let wrong = XMatrix { signature: one.signature.clone(), ..two.clone() };
    assert!(matches!(ask(&[&one, &wrong]).await, Err(RequestError::Signature(_))));
    // A key that nobody knows proves nothing, and takes nothing away.
    let unknown = XMatrix { key: "ed25519:unknown".to_owned(), ..two.clone() };
    assert_eq!(ask(&[&one, &unknown]).await.unwrap(), THEM);
    assert!(matches!(ask(&[&unknown]).await, Err(RequestError::Signature(_))));
    let other = XMatrix { origin: "three.test".to_owned(), ..two };
    assert!(matches!(ask(&[&one, &other]).await, Err(RequestError::Contradiction)));
    assert!(matches!(ask(&[]).await, Err(RequestError::Missing)));
}

/// SEC-origin.
#[tokio::test]
async fn fa11_an_origin_must_be_another_servers_name() {
    let trust = with_keys_of_them().await;
    for origin in [US, "", "two.test:port", "two test", "@a:two.test", &"a".repeat(256)] {
        let by = XMatrix { origin: origin.to_owned(), ..signed(&Method::GET, "/x", US, None) };
        let refused = trust.ring.verify_request(&headers(&[&by]), &Method::GET, "/x", None).await;
        assert!(matches!(refused, Err(RequestError::Origin | RequestError::Header(_))), "{origin}: {refused:?}");
    }
    assert!(trust.net.seen.lock().is_empty(), "nobody was asked for keys of such");
}

#[tokio::test]
async fn fa14_names_of_servers_are_case_sensitive() {
    let trust = with_keys_of_them().await;
    let by = sign(&key(THEM), &Method::GET, "/x", "TWO.test", US, None);
    assert!(trust.ring.verify_request(&headers(&[&by]), &Method::GET, "/x", None).await.is_err());
    let shouted = signed(&Method::GET, "/x", &US.to_uppercase(), None);
    let refused = trust.ring.verify_request(&headers(&[&shouted]), &Method::GET, "/x", None).await;
    assert!(matches!(refused, Err(RequestError::Destination)));
}

/// SEC-denied-servers.
#[tokio::test]
async fn a_server_that_is_denied_is_refused_in_both_directions() {
    let net = Net::default();
    net.publish(THEM, response(THEM, &key(THEM), NOW_MS + 86_400_000));
    let trust = Trust::with(net, Reach::new(None, &["Two.Test".to_owned()]), &[]).await;
    let by = signed(&Method::GET, "/x", US, None);
    let refused = trust.ring.verify_request(&headers(&[&by]), &Method::GET, "/x", None).await.unwrap_err();
    assert_eq!(endpoint::Error::from(refused).status, 403);
    let sent = trust.ring.client().json(THEM, Method::GET, "/x", None, Limits::default()).await;
    assert!(matches!(sent, Err(federation::Error::Denied(_))), "{sent:?}");
    assert!(trust.net.seen.lock().is_empty());
}

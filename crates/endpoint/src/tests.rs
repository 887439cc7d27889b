//! The door as a client sees it: requests through a wrapped router.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::FromRef;
use axum::response::Redirect;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{Method, Request, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use store::Clock;
use tower::ServiceExt;

use crate::requester::Origin;
use crate::{
    AnyRequester, Door, Error, GuestRequester, JsonBody, Lookup, OptionalBody, OptionalRequester, Options, Path,
    Requester, Session, Sessions, layers,
};

struct Names;

#[async_trait]
impl Sessions for Names {
    async fn session(&self, token: &str, _: &Origin) -> Result<Lookup, Error> {
        let session = Session {
            user_id: format!("@{token}:x").into(),
            device_id: Some("D".into()),
            guest: token == "guest",
            admin: false,
            locked: token == "locked",
            suspended: false,
            rate_limited: true,
            oauth: false,
        };
        Ok(match token {
            "expired" => Lookup::Expired,
            "alice" | "guest" | "locked" => Lookup::Known(session),
            _ => Lookup::Unknown,
        })
    }
}

struct Stopped;

impl Clock for Stopped {
    fn now_ms(&self) -> i64 {
        0
    }
}

#[derive(Clone)]
struct World(Arc<Door>);

impl FromRef<World> for Arc<Door> {
    fn from_ref(world: &World) -> Self {
        Arc::clone(&world.0)
    }
}

#[derive(Default, Deserialize)]
struct Reason {
    reason: Option<String>,
}

fn router() -> Router {
    let options = Options { json_body_bytes_max: 100, ..Options::default() };
    let world = World(Arc::new(Door::new(Arc::new(Names), Arc::new(Stopped), options)));
    let routes = Router::new()
        .route("/_matrix/user", get(|who: Requester| async move { Json(json!({ "user": who.user_id })) }))
        .route("/_matrix/guest", get(|GuestRequester(who): GuestRequester| async move { Json(json!(who.guest)) }))
        .route("/_matrix/logout", post(|AnyRequester(who): AnyRequester| async move { Json(json!(who.locked)) }))
        .route(
            "/_matrix/optional",
            get(|OptionalRequester(who): OptionalRequester| async move { Json(json!(who.is_some())) }),
        )
        .route(
            "/_matrix/rooms/{room}/state/{key}",
            put(|Path(ids): Path<(String, String)>| async move { Json(json!(ids)) }),
        )
        .route("/_matrix/json", post(|JsonBody(body): JsonBody<Value>| async { Json(body) }))
        .route(
            "/_matrix/leave",
            post(|OptionalBody(body): OptionalBody<Reason>| async move { Json(json!(body.reason)) }),
        )
        .route("/_matrix/panic", get(|| async { panics() }))
        .route("/_matrix/elsewhere", get(|| async { Redirect::temporary("https://example.org/") }))
        .with_state(world);
    layers::wrap(layers::with_fallbacks(routes))
}

fn panics() -> Json<Value> {
    panic!("on purpose, in a test")
}

async fn ask(method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn check(method: Method, uri: &str, headers: &[(&str, &str)], body: &str, status: u16, errcode: &str) {
    let (found, json) = read(ask(method.clone(), uri, headers, body).await).await;
    assert_eq!(
        (found, json["errcode"].as_str().unwrap_or("")),
        (status, errcode),
        "{method} {uri} {headers:?}: {json}"
    );
}

#[tokio::test]
async fn cb1_unknown_paths_and_methods() {
    check(Method::GET, "/_matrix/key/v9/none", &[], "", 404, "M_UNRECOGNIZED").await;
    check(Method::GET, "/", &[], "", 404, "M_UNRECOGNIZED").await;
    check(Method::DELETE, "/_matrix/user", &[], "", 405, "M_UNRECOGNIZED").await;
}

#[tokio::test]
async fn cb2_every_answer_has_cors_headers() {
    let answers = [
        (Method::OPTIONS, "/_matrix/user", 200),
        (Method::OPTIONS, "/_matrix/none", 200),
        (Method::OPTIONS, "/_matrix/panic", 200),
        (Method::GET, "/_matrix/user", 401),
        (Method::GET, "/_matrix/none", 404),
        (Method::DELETE, "/_matrix/user", 405),
        (Method::GET, "/_matrix/elsewhere", 307),
        (Method::GET, "/_matrix/panic", 500),
    ];
    for (method, uri, status) in answers {
        let response = ask(method.clone(), uri, &[], "").await;
        assert_eq!(response.status(), status, "{method} {uri}");
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "{method} {uri}");
        assert!(response.headers()["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
        assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("Authorization"));
    }
}

/// Headers and path of a request, status and code of its answer.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u16, &'a str);

#[tokio::test]
async fn cb3_tokens() {
    let cases: [Case<'_>; 9] = [
        (&[], "/_matrix/user", 401, "M_MISSING_TOKEN"),
        (&[("authorization", "Bearer ")], "/_matrix/user", 401, "M_MISSING_TOKEN"),
        (&[("authorization", "Basic YTpi")], "/_matrix/user", 401, "M_MISSING_TOKEN"),
        (&[("authorization", "Bearer nobody")], "/_matrix/user", 401, "M_UNKNOWN_TOKEN"),
        (&[("authorization", "Bearer alice bob")], "/_matrix/user", 401, "M_UNKNOWN_TOKEN"),
        (&[("authorization", "Bearer alice")], "/_matrix/user?access_token=bob", 401, "M_UNKNOWN_TOKEN"),
        (&[("authorization", "Bearer guest")], "/_matrix/user", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        (&[("authorization", "Bearer locked")], "/_matrix/guest", 401, "M_USER_LOCKED"),
        (&[("authorization", "Bearer nobody")], "/_matrix/optional", 401, "M_UNKNOWN_TOKEN"),
    ];
    for (headers, uri, status, errcode) in cases {
        check(Method::GET, uri, headers, "", status, errcode).await;
    }
    check(Method::GET, "/_matrix/user?access_token=", &[], "", 401, "M_MISSING_TOKEN").await;
    check(Method::GET, "/_matrix/user?access_token=alice", &[], "", 200, "").await;
    check(Method::GET, "/_matrix/user", &[("authorization", "bearer alice")], "", 200, "").await;
    check(Method::GET, "/_matrix/guest", &[("authorization", "Bearer guest")], "", 200, "").await;
    check(Method::POST, "/_matrix/logout", &[("authorization", "Bearer locked")], "", 200, "").await;
    check(Method::GET, "/_matrix/optional", &[], "", 200, "").await;
    let (_, expired) = read(ask(Method::GET, "/_matrix/user?access_token=expired", &[], "").await).await;
    assert_eq!((expired["errcode"].as_str(), expired["soft_logout"].as_bool()), (Some("M_UNKNOWN_TOKEN"), Some(true)));
    let (_, unknown) = read(ask(Method::GET, "/_matrix/user?access_token=nobody", &[], "").await).await;
    assert_eq!(unknown["soft_logout"], false);
}

#[tokio::test]
async fn cb4_the_content_type_does_not_matter() {
    check(Method::POST, "/_matrix/json", &[], "{}", 200, "").await;
    check(Method::POST, "/_matrix/json", &[("content-type", "text/odd")], "{}", 200, "").await;
    check(Method::POST, "/_matrix/json", &[], "{", 400, "M_NOT_JSON").await;
    check(Method::POST, "/_matrix/json", &[], "", 400, "M_NOT_JSON").await;
    check(Method::POST, "/_matrix/json", &[], &"[".repeat(101), 413, "M_TOO_LARGE").await;
}

#[tokio::test]
async fn cb10_path_segments_are_decoded_once() {
    let uri = "/_matrix/rooms/%21a%2Fb%23%2B+%C3%BC%3Ax/state/%252F";
    let (status, json) = read(ask(Method::PUT, uri, &[], "").await).await;
    assert_eq!((status, json), (200, json!(["!a/b#++ü:x", "%2F"])));
    check(Method::PUT, "/_matrix/rooms/%FF/state/a", &[], "", 400, "M_INVALID_PARAM").await;
}

#[tokio::test]
async fn cb11_bodies_may_be_empty() {
    check(Method::POST, "/_matrix/leave", &[], "", 200, "").await;
    check(Method::POST, "/_matrix/leave", &[], "{}", 200, "").await;
    check(Method::POST, "/_matrix/leave", &[], "{\"reason\":1}", 400, "M_BAD_JSON").await;
}

#[tokio::test]
async fn a_panic_fails_its_own_request() {
    let (status, json) = read(ask(Method::GET, "/_matrix/panic", &[], "").await).await;
    assert_eq!((status, json["errcode"].as_str()), (500, Some("M_UNKNOWN")));
    assert!(!json.to_string().contains("on purpose"));
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let response = ask(Method::HEAD, "/_matrix/optional", &[], "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(read(response).await.1, Value::Null);
}

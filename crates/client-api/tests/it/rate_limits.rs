//! Rate limits, and who is exempt from them (behaviour CB9).

use std::sync::Arc;

use async_trait::async_trait;
use client_api::State;
use endpoint::rate_limit::Rate;
use endpoint::requester::Origin;
use endpoint::{Door, Error, Lookup, Options, RateClass, RateLimits, Session, Sessions};
use http::Request;
use serde_json::{Value, json};
use testkit::Server;
use tower::ServiceExt as _;

/// Every token is the name of a user; limits do not hold for `bridge`.
struct Names;

#[async_trait]
impl Sessions for Names {
    async fn session(&self, token: &str, _: &Origin) -> Result<Lookup, Error> {
        Ok(Lookup::Known(Session {
            user_id: format!("@{token}:example.org").into(),
            device_id: Some("DEVICE".into()),
            guest: false,
            admin: false,
            locked: false,
            suspended: false,
            rate_limited: token != "bridge",
            oauth: false,
        }))
    }
}

/// A server at whose door everything is allowed twice.
async fn twice() -> (Server, State) {
    let server = Server::new().await;
    let once = Rate { per_second: 0.001, burst: 2.0 };
    let rates = RateClass::ALL.map(|class| (class, once)).into_iter().collect();
    let options = Options { rate_limits: RateLimits { enabled: true, rates }, ..Options::default() };
    let door = Arc::new(Door::new(Arc::new(Names), server.state.clock.clone(), options));
    let state = State { door, ..server.state.clone() };
    (server, state)
}

#[tokio::test]
async fn cb9_who_is_not_rate_limited_is_nowhere() {
    let (server, state) = twice().await;
    let router = client_api::router(state);
    let wrong = json!({ "type": "m.login.password", "password": "wrong" });
    let requests = |user: &str, room: &str| {
        let state = format!("/rooms/{}/state/org.example", testkit::encoded(room));
        [
            ("PUT", state, json!({}), 200),
            ("POST", "/createRoom".to_owned(), json!({}), 200),
            ("POST", "/search".to_owned(), json!({ "search_categories": {} }), 200),
            ("PUT", format!("/profile/@{user}:example.org/displayname"), json!({ "displayname": "x" }), 200),
            ("POST", "/delete_devices".to_owned(), json!({ "devices": ["X"], "auth": wrong }), 401),
            ("POST", "/account/password".to_owned(), json!({ "new_password": "x", "auth": wrong }), 401),
        ]
    };
    for (user, limited) in [("alice", true), ("bridge", false)] {
        let room = server.register(user).await.create_room(json!({})).await;
        for (method, path, body, status) in requests(user, &room) {
            let mut answers = Vec::new();
            for _ in 0..4 {
                let request = Request::builder().method(method).uri(format!("/_matrix/client/v3{path}"));
                let request = request.header("authorization", format!("Bearer {user}"));
                let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
                answers.push(router.clone().oneshot(request).await.unwrap());
            }
            let last = answers.pop().unwrap();
            let expected = if limited { 429 } else { status };
            assert_eq!(last.status(), expected, "{user} {path}");
            assert_eq!(last.headers().contains_key("retry-after"), limited, "{user} {path}");
            let bytes = axum::body::to_bytes(last.into_body(), usize::MAX).await.unwrap();
            let json: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(json["errcode"] == "M_LIMIT_EXCEEDED", limited, "{user} {path}: {json}");
        }
    }
}

//! A whole server in this process, on the in-memory store and a clock that stands still: what tests of behaviour use.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Body;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::world::{SystemEntropy, World};
use store::model::Model;
use store::{Clock, Store};
use tower::ServiceExt;

/// A clock that tests move by hand.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Here {
    clock: Arc<Hand>,
    running: Running,
    _folder: tempfile::TempDir,
}

async fn start(settings: &[&str]) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("data_dir={}", folder.path().display());
    let config = Config::of(&[&[data_dir.as_str(), "server_name=hearth.test"], settings].concat()).unwrap();
    let clock = Arc::new(Hand(AtomicI64::new(1_700_000_000_000)));
    let world = World { clock: Arc::clone(&clock) as _, entropy: Arc::new(SystemEntropy) };
    let store = Store::new(Arc::new(Model::new())).await.unwrap();
    let running = boot::build_on(store.into(), &config, &world, None).await.unwrap();
    Here { clock, running, _folder: folder }
}

impl Here {
    async fn ask(&self, method: Method, path: &str, body: Value) -> (Response<()>, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_string())).unwrap();
        let (head, body) = self.running.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn cb9_a_limited_client_is_told_when_to_come_back() {
    let here = start(&["rate_limits.logins.burst=2", "rate_limits.logins.per_second=0.5"]).await;
    let login = async || {
        let identifier = json!({ "type": "m.id.user", "user": "nobody" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "guess" });
        here.ask(Method::POST, "/_matrix/client/v3/login", body).await
    };
    let mut refused = login().await;
    for _ in 0..10 {
        if refused.0.status() == 429 {
            break;
        }
        assert_eq!(refused.0.status(), 403);
        refused = login().await;
    }
    let (head, body) = refused;
    assert_eq!((head.status().as_u16(), body["errcode"].as_str()), (429, Some("M_LIMIT_EXCEEDED")));
    let wait_s: i64 = head.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait_s), "{wait_s}");
    assert!(body["retry_after_ms"].as_i64().unwrap() <= wait_s * 1_000);

    here.clock.0.fetch_add(wait_s * 1_000, Ordering::Relaxed);
    assert_eq!(login().await.0.status(), 403);
}

#[tokio::test]
async fn a_switch_turns_rate_limits_off() {
    let here = start(&["rate_limits.enabled=false", "rate_limits.registrations.burst=1"]).await;
    for _ in 0..50 {
        let (head, _) = here.ask(Method::GET, "/_matrix/client/v3/register/available?username=a", Value::Null).await;
        assert_eq!(head.status(), 200);
    }
}

#[tokio::test]
async fn every_route_of_the_server_can_be_built_together() {
    // Two routes of one path would panic here, and nowhere earlier.
    let here = start(&[]).await;
    assert_eq!(here.running.server_name, "hearth.test");
    let (head, body) = here.ask(Method::GET, "/health", Value::Null).await;
    assert_eq!((head.status().as_u16(), body), (200, json!({ "status": "ok" })));
    here.running.tick();
    here.running.housekeeping().await;
}

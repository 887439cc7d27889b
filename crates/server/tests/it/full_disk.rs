//! A whole server whose disk fills up in mid-use: what was acknowledged stays, what was refused is not there, and it goes
//! on by itself once there is room.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::world::World;
use sqlite::shim::Disk;
use store::Store;
use tower::ServiceExt;
use users::login::NewDevice;
use users::registration::NewAccount;

/// Messages that more than fill the disk.
const MESSAGES_MAX: usize = 200;

async fn ask(running: &Running, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder().method(method).uri(format!("/_matrix/client/v3/{path}"));
    let request = request.header("authorization", format!("Bearer {token}")).body(Body::from(body.to_string()));
    let (head, body) = running.router.clone().oneshot(request.unwrap()).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Sends a message that takes some pages; answers the status and the event's id.
async fn say(running: &Running, token: &str, room: &str, number: usize) -> (u16, Value) {
    let path = format!("rooms/{room}/send/m.room.message/{number}");
    let content = json!({ "msgtype": "m.text", "body": "x".repeat(20_000) });
    let (status, answer) = ask(running, token, Method::PUT, &path, content).await;
    (status, answer["event_id"].clone())
}

/// The ids of the room's messages, oldest first.
async fn messages(running: &Running, token: &str, room: &str) -> Vec<Value> {
    let path = format!("rooms/{room}/messages?dir=f&limit=1000");
    let (_, answer) = ask(running, token, Method::GET, &path, Value::Null).await;
    let events = answer["chunk"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == "m.room.message").map(|mut e| e["event_id"].take()).collect()
}

#[tokio::test]
async fn a_disk_that_fills_up_in_mid_use_loses_and_halves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("data_dir={}", folder.path().display());
    let config = Config::of(&[&data_dir, "server_name=hearth.test", "rate_limits.enabled=false"]).unwrap();
    let disk = Disk::new(7).unwrap();
    let options = sqlite::Options { vfs: Some(disk.vfs().to_owned()), ..sqlite::Options::default() };
    let engine = sqlite::Sqlite::open(&folder.path().join("hearth.db"), options).unwrap();
    let store = Store::new(Arc::new(engine)).await.unwrap();
    let running = boot::build_on(store.into(), &config, &World::real(), None).await.unwrap();
    let new =
        NewAccount { localpart: Some("alice".to_owned()), login: Some(NewDevice::default()), ..NewAccount::default() };
    let login = running.users.register(new).await.unwrap().login.unwrap();
    let token = login.access_token.as_str();
    let (_, made) = ask(&running, token, Method::POST, "createRoom", json!({})).await;
    let room = made["room_id"].as_str().unwrap();

    disk.limit_growth(Some(1_000_000));
    let mut acknowledged = Vec::new();
    let refused = loop {
        let (status, id) = say(&running, token, room, acknowledged.len()).await;
        if status != 200 {
            break status;
        }
        acknowledged.push(id);
        assert!(acknowledged.len() < MESSAGES_MAX, "the disk never filled");
    };
    assert_eq!(refused, 507);
    assert_eq!(messages(&running, token, room).await, acknowledged, "reads go on");
    assert_eq!(ask(&running, token, Method::GET, "sync", Value::Null).await.0, 200);

    // The client's own repetition of what was refused is the first to succeed.
    disk.limit_growth(None);
    let (status, id) = say(&running, token, room, acknowledged.len()).await;
    assert_eq!(status, 200);
    acknowledged.push(id);
    assert_eq!(messages(&running, token, room).await, acknowledged);
    running.store.engine().close().await;
}

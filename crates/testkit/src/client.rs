//! A user's client of a server in this process.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use client_api::State;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use store::{DeviceId, UserId};
use tower::ServiceExt as _;
use users::login::NewDevice;

use crate::{encoded, list, next_batch, text};

/// A user's client on one device.
#[derive(Clone)]
pub struct Client {
    /// What the handlers of its server are given.
    pub state: State,
    pub(crate) router: Router,
    /// The user id.
    pub user: String,
    /// The device id.
    pub device: String,
    /// The access token; empty for nobody's.
    pub token: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null if it is no JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// Status and body, to be compared together.
    pub fn pair(self) -> (u16, Value) {
        (self.status, self.json)
    }

    /// Asserts status and code.
    #[track_caller]
    pub fn refused(self, status: u16, errcode: &str) {
        assert_eq!((self.status, self.json["errcode"].as_str()), (status, Some(errcode)), "{}", self.json);
    }
}

impl Client {
    /// The user id, as the rooms below HTTP take it.
    pub fn id(&self) -> UserId {
        UserId::from(self.user.as_str())
    }

    /// The device id, as the rooms below HTTP take it.
    pub fn device_id(&self) -> DeviceId {
        DeviceId::from(self.device.as_str())
    }

    /// Logs the same user in on another device, or on the same one again.
    pub async fn login(&self, device: &str) -> Self {
        let device = NewDevice { id: Some(DeviceId::from(device)), ..NewDevice::default() };
        let login = self.state.users.login(&self.id(), device).await.unwrap();
        Self {
            user: login.user.to_string(),
            device: login.device.to_string(),
            token: login.access_token,
            ..self.clone()
        }
    }

    /// Sends a request. Paths are below `/_matrix/client/v3` unless they begin with `/_`.
    pub async fn request(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let uri = if path.starts_with("/_") { path.to_owned() } else { format!("/_matrix/client/v3{path}") };
        let mut request = Request::builder().method(method).uri(uri);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        let text = String::from_utf8_lossy(&body).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "").await
    }

    /// PUT.
    pub async fn put(&self, path: &str, json: Value) -> Answer {
        self.request(Method::PUT, path, json.to_string()).await
    }

    /// POST.
    pub async fn post(&self, path: &str, json: Value) -> Answer {
        self.request(Method::POST, path, json.to_string()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, "").await
    }

    /// Creates a room and returns its id.
    pub async fn create_room(&self, json: Value) -> String {
        text(&self.post("/createRoom", json).await.ok()["room_id"])
    }

    /// Creates a room that anyone may join.
    pub async fn public_room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" })).await
    }

    /// Joins a room.
    pub async fn join(&self, room: &str) {
        self.post(&format!("/rooms/{room}/join"), json!({})).await.ok();
    }

    /// Leaves a room.
    pub async fn leave(&self, room: &str) {
        self.post(&format!("/rooms/{room}/leave"), json!({})).await.ok();
    }

    /// Invites a user.
    pub async fn invite(&self, room: &str, user: &str) -> Answer {
        self.post(&format!("/rooms/{room}/invite"), json!({ "user_id": user })).await
    }

    /// Sends an event, with a transaction id of its own, and returns its id.
    pub async fn send(&self, room: &str, kind: &str, content: Value) -> String {
        text(&self.try_send(room, kind, content).await.ok()["event_id"])
    }

    /// Sends an event, with a transaction id of its own.
    pub async fn try_send(&self, room: &str, kind: &str, content: Value) -> Answer {
        static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
        let transaction = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("/rooms/{room}/send/{kind}/own{transaction}"), content).await
    }

    /// Sends a message and returns its event id.
    pub async fn say(&self, room: &str, body: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    /// Sets a state event with an empty state key and returns its event id.
    pub async fn set_state(&self, room: &str, kind: &str, content: Value) -> String {
        text(&self.put(&format!("/rooms/{room}/state/{kind}"), content).await.ok()["event_id"])
    }

    /// Sets a state event and returns its event id.
    pub async fn set_state_of(&self, room: &str, kind: &str, state_key: &str, content: Value) -> String {
        let path = format!("/rooms/{room}/state/{kind}/{}", encoded(state_key));
        text(&self.put(&path, content).await.ok()["event_id"])
    }

    /// The content of a state event with an empty state key.
    pub async fn state(&self, room: &str, kind: &str) -> Value {
        self.get(&format!("/rooms/{room}/state/{kind}")).await.ok()
    }

    /// Syncs without waiting; `since` may be empty.
    pub async fn sync(&self, since: &str) -> Value {
        let since = if since.is_empty() { String::new() } else { format!("&since={since}") };
        self.sync_with(&format!("timeout=0{since}")).await
    }

    /// Syncs with a query (`since=…&timeout=…`).
    pub async fn sync_with(&self, query: &str) -> Value {
        self.get(&format!("/sync?{query}")).await.ok()
    }

    /// Syncs from an earlier answer on, with more of a query.
    pub async fn sync_since(&self, answer: &Value, query: &str) -> Value {
        self.sync_with(&format!("since={}&{query}", next_batch(answer))).await
    }

    /// All events of a room that the user sees, oldest first.
    pub async fn timeline(&self, room: &str) -> Vec<Value> {
        let page = self.get(&format!("/rooms/{room}/messages?dir=b&limit=1000")).await.ok();
        let mut events = list(&page["chunk"]);
        events.reverse();
        events
    }

    /// The bodies of all messages of a room that the user sees, oldest first.
    pub async fn bodies(&self, room: &str) -> Vec<String> {
        let timeline = self.timeline(room).await;
        timeline.iter().filter_map(|event| event["content"]["body"].as_str()).map(str::to_owned).collect()
    }
}

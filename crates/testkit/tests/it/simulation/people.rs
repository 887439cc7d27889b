//! Users and their clients: requests that may stay without an answer, and syncs that go on through everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use parking_lot::Mutex;
use serde_json::{Value, json};
use testkit::{encoded, text};
use tokio::sync::watch;
use tower::ServiceExt as _;
use users::login::NewDevice;
use users::registration::NewAccount;

use super::chance::Chance;
use super::node::Node;

/// How long a client waits before it tries again.
const AGAIN: Duration = Duration::from_secs(1);
/// Events of a room that one sync shows at most.
const TIMELINE_MAX: u64 = 20;
/// How often a room is paged until nothing more comes.
const PAGINGS_MAX: usize = 5;

/// A user with one device.
pub struct Person {
    /// The user's server.
    pub node: Arc<Node>,
    /// The user id.
    pub user: String,
    /// What the user does is decided by this.
    pub chance: Chance,
    token: String,
    transactions: AtomicU64,
}

impl Person {
    /// Registers a user.
    pub async fn new(node: &Arc<Node>, name: &str, chance: &Chance) -> Arc<Self> {
        let device = NewDevice { id: Some("DEVICE".into()), ..NewDevice::default() };
        let localpart = Some(name.to_owned());
        let account = NewAccount { localpart, login: Some(device), ..NewAccount::default() };
        let users = Arc::clone(&node.up().unwrap().running.users);
        let login = users.register(account).await.unwrap().login.unwrap();
        Arc::new(Self {
            node: Arc::clone(node),
            user: login.user.to_string(),
            chance: chance.fork(),
            token: login.access_token,
            transactions: AtomicU64::new(0),
        })
    }

    /// Sends a request below `/_matrix/client/v3`. `None` if no answer comes, since the server is off or ends meanwhile.
    pub async fn request(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        let up = self.node.up()?;
        let body = if method == Method::GET { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .body(body)
            .unwrap();
        let answered = async {
            let (head, body) = up.router().oneshot(request).await.unwrap().into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            (head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
        };
        up.life.within(answered).await
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        self.request(Method::GET, path, &Value::Null).await
    }

    /// PUT.
    pub async fn put(&self, path: &str, body: Value) -> Option<(u16, Value)> {
        self.request(Method::PUT, path, &body).await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: Value) -> Option<(u16, Value)> {
        self.request(Method::POST, path, &body).await
    }

    /// A transaction id that was not used before.
    pub fn transaction(&self) -> u64 {
        self.transactions.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a message until there is an answer, as clients do: with the same transaction id. Answers the event's id, if
    /// the server took it.
    pub async fn say(&self, room: &str) -> Option<String> {
        let transaction = self.transaction();
        let body = json!({ "msgtype": "m.text", "body": format!("{} {transaction}", self.user) });
        let path = format!("/rooms/{}/send/m.room.message/{transaction}", encoded(room));
        loop {
            match self.put(&path, body.clone()).await {
                None => tokio::time::sleep(AGAIN).await,
                Some((200, answer)) => return Some(text(&answer["event_id"])),
                Some(_) => return None,
            }
        }
    }

    /// Pages to the start of a room, again if that was not reached: servers pause after they have asked others in vain.
    pub async fn history(&self, room: &str) -> Result<Vec<Value>, String> {
        let mut events = self.pages(room).await?;
        for _ in 0..2 {
            if events.iter().any(|event| event["type"] == "m.room.create") {
                break;
            }
            tokio::time::sleep(Duration::from_secs(40)).await;
            events = self.pages(room).await?;
        }
        // What waited for some of that history becomes news as soon as it has come.
        for _ in 0..PAGINGS_MAX {
            let again = self.pages(room).await?;
            if again.len() == events.len() {
                return Ok(again);
            }
            events = again;
        }
        Err(format!("{} gets more events of {room} each time it pages", self.user))
    }

    /// Pages back from the end of a room as far as it goes. Answers the events from newest to oldest; no event is on two pages.
    async fn pages(&self, room: &str) -> Result<Vec<Value>, String> {
        let (mut events, mut from, mut vain) = (Vec::new(), String::new(), 0);
        let mut seen = BTreeSet::new();
        loop {
            let path = format!("/rooms/{}/messages?dir=b&limit=200{from}", encoded(room));
            let (status, page) = self.get(&path).await.ok_or("the server is off")?;
            if status != 200 {
                return Err(format!("{} cannot page: {status} {page}", self.user));
            }
            let chunk = testkit::list(&page["chunk"]);
            for event in &chunk {
                if !seen.insert(text(&event["event_id"])) {
                    return Err(format!("{} is paged {} twice", self.user, event["event_id"]));
                }
            }
            vain = if chunk.is_empty() { vain + 1 } else { 0 };
            events.extend(chunk);
            let Some(end) = page["end"].as_str() else { return Ok(events) };
            if vain > 5 {
                return Err(format!("{} cannot page further than {end}: it stays empty", self.user));
            }
            from = format!("&from={}", encoded(end));
            if vain > 0 {
                // The server asks others for more, and pauses after a vain try.
                tokio::time::sleep(Duration::from_secs(40)).await;
            }
        }
    }
}

/// What a client has been shown.
#[derive(Default)]
struct Shown {
    since: String,
    /// Events of timelines, by room.
    timeline: BTreeMap<String, BTreeSet<String>>,
    /// Events that were paged to where a timeline was limited.
    paged: BTreeMap<String, BTreeSet<String>>,
    /// Rooms in which the user has not been all the time since the first sync of it.
    interrupted: BTreeSet<String>,
    /// What a client must never see.
    wrong: Vec<String>,
    syncs: u64,
}

/// A client that syncs for ever.
pub struct Syncer {
    /// Its user.
    pub person: Arc<Person>,
    shown: Mutex<Shown>,
}

impl Syncer {
    /// A client that has not synced yet.
    pub fn new(person: &Arc<Person>) -> Arc<Self> {
        Arc::new(Self { person: Arc::clone(person), shown: Mutex::default() })
    }

    /// Syncs now and then until `stop` becomes true, and reads each answer to its end.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            self.sync(10_000).await;
            tokio::time::sleep(Duration::from_millis(self.person.chance.between(200, 4_000))).await;
        }
    }

    /// One sync. Whether it was answered.
    pub async fn sync(&self, timeout: u64) -> bool {
        let since = match self.shown.lock().since.as_str() {
            "" => String::new(),
            since => format!("&since={}", encoded(since)),
        };
        let filter = encoded(&json!({ "room": { "timeline": { "limit": TIMELINE_MAX } } }).to_string());
        let path = format!("/sync?set_presence=offline&timeout={timeout}&filter={filter}{since}");
        match self.person.get(&path).await {
            None => false,
            Some((200, answer)) => {
                self.read(&answer).await;
                true
            }
            Some((status, answer)) => {
                self.wrong(format!("a sync of {} is answered {status} {answer}", self.person.user));
                false
            }
        }
    }

    async fn read(&self, answer: &Value) {
        for (room, section) in answer["rooms"]["leave"].as_object().into_iter().flatten() {
            self.show(room, section);
            let mut shown = self.shown.lock();
            shown.interrupted.insert(room.clone());
            // Who comes back may be shown again what was before.
            shown.timeline.remove(room);
        }
        for (room, section) in answer["rooms"]["join"].as_object().into_iter().flatten() {
            self.show(room, section);
            if section["timeline"]["limited"] == true {
                self.page_to_known(room, section["timeline"]["prev_batch"].as_str().unwrap_or_default()).await;
            }
        }
        let mut shown = self.shown.lock();
        shown.since = text(&answer["next_batch"]);
        shown.syncs += 1;
    }

    fn show(&self, room: &str, section: &Value) {
        let mut shown = self.shown.lock();
        let events = shown.timeline.entry(room.to_owned()).or_default();
        let mut twice = Vec::new();
        for event in section["timeline"]["events"].as_array().into_iter().flatten() {
            if !events.insert(text(&event["event_id"])) {
                twice.push(format!("{} is shown {} of {room} twice", self.person.user, event["event_id"]));
            }
        }
        shown.wrong.extend(twice);
    }

    /// Pages back from where a timeline was limited to what the client has.
    async fn page_to_known(&self, room: &str, from: &str) {
        let mut from = from.to_owned();
        loop {
            let path = format!("/rooms/{}/messages?dir=b&limit=50&from={}", encoded(room), encoded(&from));
            let Some((200, page)) = self.person.get(&path).await else {
                // The gap stays open in this client.
                self.shown.lock().interrupted.insert(room.to_owned());
                return;
            };
            let chunk = testkit::list(&page["chunk"]);
            let mut shown = self.shown.lock();
            let known = shown.timeline.get(room).cloned().unwrap_or_default();
            let paged = shown.paged.entry(room.to_owned()).or_default();
            let mut meets = chunk.is_empty();
            for event in &chunk {
                let id = text(&event["event_id"]);
                meets |= known.contains(&id) || !paged.insert(id);
            }
            drop(shown);
            match page["end"].as_str() {
                Some(end) if !meets => from = end.to_owned(),
                _ => return,
            }
        }
    }

    fn wrong(&self, what: String) {
        self.shown.lock().wrong.push(what);
    }

    /// What was wrong.
    pub fn wrongs(&self) -> Vec<String> {
        self.shown.lock().wrong.clone()
    }

    /// How many syncs were answered.
    pub fn syncs(&self) -> u64 {
        self.shown.lock().syncs
    }

    /// Whether the client follows a room without interruption.
    pub fn follows(&self, room: &str) -> bool {
        let shown = self.shown.lock();
        shown.timeline.contains_key(room) && !shown.interrupted.contains(room)
    }

    /// Whether the client has an event.
    pub fn has(&self, room: &str, event: &str) -> bool {
        let shown = self.shown.lock();
        [&shown.timeline, &shown.paged].iter().any(|of| of.get(room).is_some_and(|events| events.contains(event)))
    }
}

//! A server with users who have phones, and its restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use push::Report;
use serde_json::{Value, json};
use server::boot::{self, Running};
use server::config::Config;
use server::outgoing;
use server::world::World as Outside;
use store::model::Model;
use store::{Engine, Store, UserId};
use testkit::{FakeClock, Letters, SeededEntropy, encoded, text};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;
use users::login::NewDevice;
use users::registration::NewAccount;

/// An end for what hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The settings by which the gateway of a test can be reached.
const REACHABLE: [&str; 2] = ["push.http_gateways=true", "push.allowed_private_ranges=[\"127.0.0.1\"]"];

/// A server.
pub struct World {
    pub clock: Arc<FakeClock>,
    pub running: Arc<Running>,
    engine: Arc<dyn Engine>,
    config: Config,
    outside: Outside,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(&REACHABLE).await
    }

    /// One that reaches the gateways of tests, with more settings.
    pub async fn and(settings: &[&str]) -> Self {
        Self::with(&[&REACHABLE[..], settings].concat()).await
    }

    /// One that sends mail, and the mails.
    pub async fn mailing() -> (Self, Arc<Letters>) {
        let letters = Arc::new(Letters::default());
        let settings = [
            "email.url=smtp+plain://127.0.0.1:1",
            "email.from=noreply@hearth.test",
            "public_base_url=https://matrix.hearth.test",
        ];
        (Self::built(&settings, Some(Arc::clone(&letters) as _)).await, letters)
    }

    pub async fn with(settings: &[&str]) -> Self {
        Self::built(settings, None).await
    }

    async fn built(settings: &[&str], mailer: Option<Arc<dyn users::Mailer>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = format!("data_dir={}", folder.path().display());
        let own = [data_dir.as_str(), "server_name=hearth.test", "rate_limits.enabled=false"];
        let config = Config::of(&[&own[..], settings].concat()).unwrap();
        let clock = Arc::new(FakeClock::default());
        let outside = Outside::of(Arc::clone(&clock) as _, Arc::new(SeededEntropy::new(1)));
        let outside = Outside { mailer, ..outside };
        let engine = Arc::new(Model::new()) as Arc<dyn Engine>;
        let (running, stop, task) = boot_on(&engine, &config, &outside).await;
        Self { clock, running, engine, config, outside, stop, task: Some(task), _folder: folder }
    }

    /// The program ends wherever it is, and begins again.
    pub async fn restart(&mut self) {
        self.end().await;
        let (running, stop, task) = boot_on(&self.engine, &self.config, &self.outside).await;
        (self.running, self.stop, self.task) = (running, stop, Some(task));
    }

    /// The program ends wherever it is; requests are still answered.
    pub async fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
    }

    /// Moves the clock, and lets the server notice.
    pub async fn pass(&self, ms: i64) {
        self.clock.advance(ms);
        self.running.tick().await;
    }

    /// Waits until pushing fares as it is expected to.
    pub async fn until(&self, fares: impl Fn(Report) -> bool) {
        let push = self.running.push.as_ref().unwrap();
        let waiting = async {
            while !fares(push.report()) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{:?}", push.report()));
    }

    pub async fn person(&self, name: &str) -> Person {
        let device = NewDevice { id: Some("PHONE".into()), ..NewDevice::default() };
        let new = NewAccount { localpart: Some(name.to_owned()), login: Some(device), ..NewAccount::default() };
        let login = self.running.users.register(new).await.unwrap().login.unwrap();
        Person { user: login.user.to_string(), token: login.access_token }
    }

    pub async fn people<const N: usize>(&self, names: [&str; N]) -> [Person; N] {
        let mut people = Vec::new();
        for name in names {
            people.push(self.person(name).await);
        }
        people.try_into().unwrap_or_else(|_| panic!("as many people as names"))
    }

    /// Another device of a user.
    pub async fn login(&self, person: &Person, device: &str) -> Person {
        let device = NewDevice { id: Some(device.into()), ..NewDevice::default() };
        let login = self.running.users.login(&person.id(), device).await.unwrap();
        Person { user: login.user.to_string(), token: login.access_token }
    }

    pub async fn try_ask(&self, person: &Person, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3/{path}"))
            .header("authorization", format!("Bearer {}", person.token));
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (head, body) = self.running.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ask(&self, person: &Person, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.try_ask(person, method, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    pub async fn get(&self, person: &Person, path: &str) -> Value {
        self.ask(person, Method::GET, path, Value::Null).await
    }

    pub async fn post(&self, person: &Person, path: &str, body: Value) -> Value {
        self.ask(person, Method::POST, path, body).await
    }

    pub async fn put(&self, person: &Person, path: &str, body: Value) -> Value {
        self.ask(person, Method::PUT, path, body).await
    }

    /// Gives a user's device a pusher to a gateway. Its key is the user's name, unless `change` says otherwise.
    pub async fn set_pusher(&self, person: &Person, url: &str, change: Value) {
        let key = person.user.trim_start_matches('@').split(':').next().unwrap();
        let mut pusher = json!({
            "kind": "http", "app_id": "org.example.app", "pushkey": key, "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en", "data": { "url": url },
        });
        for (member, value) in change.as_object().unwrap() {
            match (member.as_str(), value.as_object()) {
                ("data", Some(data)) => pusher["data"].as_object_mut().unwrap().extend(data.clone()),
                _ => pusher[member] = value.clone(),
            }
        }
        self.post(person, "pushers/set", pusher).await;
    }

    pub async fn pushkeys(&self, person: &Person) -> Vec<String> {
        let pushers = self.get(person, "pushers").await;
        pushers["pushers"].as_array().unwrap().iter().map(|pusher| text(&pusher["pushkey"])).collect()
    }

    /// A room of the first of these people, in which the others are.
    pub async fn room(&self, people: &[&Person], options: Value) -> String {
        let mut options = options;
        options["preset"] = json!("public_chat");
        let room = text(&self.post(people[0], "createRoom", options).await["room_id"]);
        for other in &people[1..] {
            self.post(other, &format!("join/{}", encoded(&room)), json!({})).await;
        }
        room
    }

    pub async fn send(&self, person: &Person, room: &str, kind: &str, content: Value) -> String {
        static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);
        let transaction = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        let path = format!("rooms/{}/send/{kind}/t{transaction}", encoded(room));
        text(&self.put(person, &path, content).await["event_id"])
    }

    pub async fn say(&self, person: &Person, room: &str, body: &str) -> String {
        self.send(person, room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    pub async fn read(&self, person: &Person, room: &str, event: &str) {
        let path = format!("rooms/{}/receipt/m.read/{}", encoded(room), encoded(event));
        self.post(person, &path, json!({})).await;
    }
}

async fn boot_on(
    engine: &Arc<dyn Engine>,
    config: &Config,
    outside: &Outside,
) -> (Arc<Running>, watch::Sender<bool>, JoinHandle<()>) {
    let store = Store::new(Arc::clone(engine)).await.unwrap();
    let running = Arc::new(boot::build_on(store.into(), config, outside, None).await.unwrap());
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(outgoing::run(Arc::clone(&running), stopped));
    (running, stop, task)
}

/// A user's device.
#[derive(Clone)]
pub struct Person {
    pub user: String,
    pub token: String,
}

impl Person {
    pub fn id(&self) -> UserId {
        UserId::from(self.user.as_str())
    }
}

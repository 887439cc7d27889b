//! A push gateway: it looks at what it is told, shows it to the test, and answers as the test likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::FINE;
use super::world::World;

/// An end for what hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Minutes of a server's time in which a push must come: fewer than a push waits at most.
const MINUTES_MAX: usize = 1_000;

/// How the gateway answers.
#[derive(Clone, Debug)]
pub enum Mood {
    /// With a status and a body.
    Answers(u16, String),
    /// Not before its mood changes.
    Waits,
}

/// What the routes are given.
#[derive(Clone)]
struct Desk {
    heard: mpsc::UnboundedSender<Value>,
    mood: watch::Receiver<Mood>,
}

/// A gateway that listens.
pub struct Gateway {
    address: SocketAddr,
    heard: Arc<Mutex<mpsc::UnboundedReceiver<Value>>>,
    mood: watch::Sender<Mood>,
}

async fn notify(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    assert_eq!(headers["content-type"], "application/json");
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    // Whether the test still listens is no matter.
    drop(desk.heard.send(body["notification"].take()));
    let mut mood = desk.mood;
    let mood = mood.wait_for(|mood| matches!(mood, Mood::Answers(..))).await.unwrap().clone();
    let Mood::Answers(status, body) = mood else { unreachable!("it was waited for") };
    (StatusCode::from_u16(status).unwrap(), body)
}

impl Gateway {
    pub async fn start() -> Self {
        let (heard, hears) = mpsc::unbounded_channel();
        let (mood, moods) = watch::channel(Mood::Answers(FINE.0, FINE.1.to_owned()));
        let routes = Router::new().route("/_matrix/push/v1/notify", post(notify));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = axum::serve(listener, routes.with_state(Desk { heard, mood: moods }));
        tokio::spawn(async move { served.await.unwrap() });
        Self { address, heard: Arc::new(Mutex::new(hears)), mood }
    }

    pub fn url(&self) -> String {
        format!("http://{}/_matrix/push/v1/notify", self.address)
    }

    pub fn answers(&self, status: u16, body: &str) {
        self.mood.send_replace(Mood::Answers(status, body.to_owned()));
    }

    /// It takes requests, and answers none.
    pub fn waits(&self) {
        self.mood.send_replace(Mood::Waits);
    }

    pub fn is_fine(&self) {
        self.answers(FINE.0, FINE.1);
    }

    /// The next notification.
    #[expect(clippy::await_holding_lock, reason = "a test has one thread, and listens at one place at a time")]
    pub async fn next(&self) -> Value {
        let mut heard = self.heard.lock();
        tokio::time::timeout(PATIENCE, heard.recv()).await.expect("a push comes").unwrap()
    }

    /// The next notification, however much time of the server's has to pass until it tries again.
    pub async fn next_in_time(&self, world: &World) -> Value {
        for _ in 0..MINUTES_MAX {
            let some_turns = async {
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                next = self.next() => return next,
                () = some_turns => world.pass(60_000).await,
            }
        }
        panic!("no push comes in {MINUTES_MAX} minutes");
    }

    /// The text of the message of which the next notification tells.
    pub async fn next_body(&self) -> String {
        let next = self.next().await;
        next["content"]["body"].as_str().unwrap_or_else(|| panic!("a message: {next}")).to_owned()
    }

    /// The number that the next notification tells, which is of no event.
    pub async fn next_number(&self) -> i64 {
        let next = self.next().await;
        assert!(next.get("event_id").is_none(), "{next}");
        unread(&next)
    }

    /// What has come meanwhile and was not looked at.
    pub fn rest(&self) -> Vec<Value> {
        let mut heard = self.heard.lock();
        std::iter::from_fn(|| heard.try_recv().ok()).collect()
    }
}

/// The number that a notification tells; a count of zero is left out.
pub fn unread(notification: &Value) -> i64 {
    let counts = notification["counts"].as_object().unwrap();
    assert!(counts.values().all(|count| count.as_i64() > Some(0)), "{notification}");
    counts.get("unread").map_or(0, |unread| unread.as_i64().unwrap())
}

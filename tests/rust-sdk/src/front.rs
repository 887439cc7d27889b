//! What stands between the SDK and the server, as a reverse proxy would: it remembers what was asked and answered, and can
//! break off an answer. A check on the SDK's view shows that things work; one on this shows that they work for the
//! reason that it names.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use matrix_sdk::reqwest;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checks::{Fallible, within};

/// The dialect that the SDK speaks.
const SYNC: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// Bytes of a body, at most.
const BODY_BYTES_MAX: usize = 64 << 20;

/// The headers that a request needs.
const PASSED: [HeaderName; 2] = [AUTHORIZATION, CONTENT_TYPE];

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Which one it is, counted from 0.
    pub number: usize,
    /// The path asked for.
    pub path: String,
    /// The parameter `pos`.
    pub pos: Option<String>,
    /// The body of the request.
    pub asked: Value,
    /// The status of the answer.
    pub status: u16,
    /// The body of the answer.
    pub answered: Value,
    /// Whether the answer was broken off.
    pub broken: bool,
}

impl Exchange {
    /// Whether it is one of sliding sync, on this connection.
    pub fn is_sync(&self, conn_id: &str) -> bool {
        self.path == SYNC && self.asked["conn_id"] == conn_id
    }

    /// The ids of the rooms in the answer, in order.
    pub fn rooms(&self) -> Vec<&str> {
        self.answered["rooms"].as_object().into_iter().flat_map(|rooms| rooms.keys().map(String::as_str)).collect()
    }
}

/// A front of one server for one client.
pub struct Front {
    url: String,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

struct Seen {
    upstream: String,
    http: reqwest::Client,
    exchanges: Mutex<Vec<Exchange>>,
    /// The connection whose next answer with a room is broken off.
    to_break: Mutex<Option<String>>,
    changed: watch::Sender<usize>,
}

impl Front {
    /// Opens one before the server at `upstream`.
    pub async fn open(upstream: String) -> Fallible<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let seen = Arc::new(Seen {
            upstream,
            http: reqwest::Client::new(),
            exchanges: Mutex::default(),
            to_break: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&seen));
        let task = tokio::spawn(async move {
            // It serves until the process ends, or the front is dropped.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { url, seen, task })
    }

    /// Where clients reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many exchanges there were.
    pub fn count(&self) -> usize {
        lock(&self.seen.exchanges).len()
    }

    /// What was exchanged with sliding sync on a connection, from exchange number `from` on.
    pub fn syncs(&self, conn_id: &str, from: usize) -> Vec<Exchange> {
        let exchanges = lock(&self.seen.exchanges);
        exchanges.iter().skip(from).filter(|exchange| exchange.is_sync(conn_id)).cloned().collect()
    }

    /// Waits for an exchange from number `from` on; answers the first.
    pub async fn until(&self, what: &str, from: usize, fits: impl Fn(&Exchange) -> bool) -> Fallible<Exchange> {
        let mut changes = self.seen.changed.subscribe();
        let found = async {
            loop {
                let found = lock(&self.seen.exchanges).iter().skip(from).find(|exchange| fits(exchange)).cloned();
                if let Some(found) = found {
                    return Ok(found);
                }
                changes.changed().await?;
            }
        };
        within(what, found).await?
    }

    /// Breaks off the next answer on a connection that holds a room: the server believes to have sent it.
    pub fn break_off_next(&self, conn_id: &str) {
        *lock(&self.seen.to_break) = Some(conn_id.to_owned());
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn remember(&self, mut exchange: Exchange) {
        let mut exchanges = lock(&self.exchanges);
        exchange.number = exchanges.len();
        exchanges.push(exchange);
        drop(exchanges);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether this answer is the one to be broken off.
    fn is_to_break(&self, exchange: &Exchange) -> bool {
        let mut to_break = lock(&self.to_break);
        let is_it = to_break.as_ref().is_some_and(|conn_id| exchange.is_sync(conn_id) && !exchange.rooms().is_empty());
        if is_it {
            *to_break = None;
        }
        is_it
    }
}

/// Passes a request on, and its answer back.
async fn pass(State(seen): State<Arc<Seen>>, request: Request) -> Response {
    match exchange(&seen, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn exchange(seen: &Seen, request: Request) -> Fallible<Response> {
    let (parts, body) = request.into_parts();
    let asked = to_bytes(body, BODY_BYTES_MAX).await?;
    let url = format!("{}{}", seen.upstream, parts.uri);
    let forwarded = seen.http.request(parts.method, url).headers(passed(&parts.headers)).body(asked.clone());
    let answer = forwarded.send().await?;
    let (status, headers) = (answer.status(), passed(answer.headers()));
    let answered = answer.bytes().await?;
    let mut exchange = Exchange {
        number: 0,
        path: parts.uri.path().to_owned(),
        pos: parameter(parts.uri.query().unwrap_or_default(), "pos"),
        asked: json(&asked),
        status: status.as_u16(),
        answered: json(&answered),
        broken: false,
    };
    exchange.broken = seen.is_to_break(&exchange);
    let body = if exchange.broken { broken(&answered) } else { Body::from(answered.clone()) };
    seen.remember(exchange);
    Ok((status, headers, [(CONTENT_LENGTH, answered.len().to_string())], body).into_response())
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    let kept = PASSED.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    kept.collect()
}

/// The first half of a body, then the end of the connection.
fn broken(body: &Bytes) -> Body {
    let half = body.slice(..body.len() / 2);
    Body::from_stream(stream::iter([Ok(half), Err(std::io::Error::other("broken off"))]))
}

/// A parameter whose value needs no decoding, as those of positions do not.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.to_owned())
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

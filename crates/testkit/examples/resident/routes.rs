//! The routes of the server-server API that a joining server needs.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use event::{Json, Object};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::room::{self, Event};
use crate::{Peer, now_ms};

/// How long our keys are valid: a day.
const KEYS_VALID_MS: i64 = 24 * 3_600 * 1_000;

/// Answers for the server at a place.
pub async fn serve(peer: Arc<Peer>, place: usize, listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let peer = Arc::clone(&peer);
        tokio::spawn(async move {
            drop(tcp.set_nodelay(true));
            let Ok(tls) = peer.tls.acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| respond(Arc::clone(&peer), place, request));
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await);
        });
    }
}

async fn respond(
    peer: Arc<Peer>,
    place: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::builder().status(StatusCode::BAD_REQUEST).body(Full::default()).unwrap());
    };
    let asked = Asked::new(&parts.method, &parts.uri);
    let (status, body) = match answer(&peer, place, &asked, body.to_bytes()) {
        Some(body) => (StatusCode::OK, body),
        None => (StatusCode::NOT_FOUND, json_bytes(&json!({ "errcode": "M_NOT_FOUND", "error": "not here" }))),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(body)).unwrap())
}

/// A request's method, and its path and query decoded.
struct Asked {
    method: Method,
    segments: Vec<String>,
    query: Vec<(String, String)>,
}

impl Asked {
    fn new(method: &Method, uri: &http::Uri) -> Self {
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let segments = uri.path().split('/').skip(2).map(decoded).collect();
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
        Self { method: method.clone(), segments, query }
    }

    fn value(&self, name: &str) -> &str {
        self.query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

fn json_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn answer(peer: &Peer, place: usize, asked: &Asked, body: Bytes) -> Option<Bytes> {
    let segments: Vec<&str> = asked.segments.iter().map(String::as_str).collect();
    let own = &peer.servers[place].name;
    match segments.as_slice() {
        ["key", "v2", "server", ..] => Some(keys(peer, place)),
        ["federation", "v1", "version"] => {
            Some(json_bytes(&json!({ "server": { "name": "resident", "version": "1" } })))
        }
        ["federation", "v1", "send", _] => Some(transaction(peer, place, &body)),
        ["federation", "v1", "user", "devices", user] => {
            Some(json_bytes(&json!({ "user_id": user, "stream_id": 1, "devices": [] })))
        }
        ["federation", "v1", "event", id] => {
            let rooms = peer.rooms.lock();
            let event = rooms.values().find_map(|room| room.event(id))?;
            Some(pdus(own, "pdus", &[event]))
        }
        ["federation", version, route, room, rest @ ..] => {
            in_room(peer, own, (version, route, room, rest.first().copied().unwrap_or_default()), asked, body)
        }
        _ => None,
    }
}

fn in_room(peer: &Peer, own: &str, path: (&str, &str, &str, &str), asked: &Asked, body: Bytes) -> Option<Bytes> {
    let (version, route, room, last) = path;
    let mut rooms = peer.rooms.lock();
    let room = rooms.get_mut(room)?;
    let ids = |events: &[&Event]| events.iter().map(|event| event.id.to_string()).collect::<Vec<_>>();
    match (version, route) {
        ("v1", "make_join") => Some(json_bytes(&room.join_template(last))),
        ("v2", "send_join") if asked.method == Method::PUT => {
            Some(room.join(body, asked.value("omit_members") == "true"))
        }
        ("v1", "state_ids") => {
            let (state, auth) = room.state_and_auth(asked.value("event_id"))?;
            Some(json_bytes(&json!({ "pdu_ids": ids(&state), "auth_chain_ids": ids(&auth) })))
        }
        ("v1", "state") => {
            let (state, auth) = room.state_and_auth(asked.value("event_id"))?;
            let origin = json!({ "origin": own }).to_string();
            let lists = [("pdus", room::list(&state)), ("auth_chain", room::list(&auth))];
            Some(room::with_lists(&origin, &lists))
        }
        ("v1", "event_auth") => {
            let (_, auth) = room.state_and_auth(last)?;
            Some(pdus(own, "auth_chain", &auth))
        }
        ("v1", "backfill") => {
            let limit = asked.value("limit").parse().unwrap_or(100);
            Some(pdus(own, "pdus", &room.back_from(asked.value("v"), limit)))
        }
        ("v1", "get_missing_events") => {
            let asked: Missing = serde_json::from_slice(&body).ok()?;
            Some(pdus(own, "events", &room.between(&asked.earliest_events, &asked.latest_events, asked.limit)))
        }
        _ => None,
    }
}

fn pdus(origin: &str, name: &str, events: &[&Event]) -> Bytes {
    let rest = json!({ "origin": origin, "origin_server_ts": now_ms() }).to_string();
    room::with_lists(&rest, &[(name, room::list(events))])
}

/// The keys of the server at a place, signed.
fn keys(peer: &Peer, place: usize) -> Bytes {
    let server = &peer.servers[place];
    let object = json!({
        "server_name": server.name,
        "verify_keys": { server.key.key_id(): { "key": server.key.public_b64() } },
        "old_verify_keys": {},
        "valid_until_ts": now_ms() + KEYS_VALID_MS,
    });
    let mut object = match Json::from(object) {
        Json::Object(object) => object,
        _ => Object::new(),
    };
    server.key.sign_json(&mut object, &server.name);
    Bytes::from(Json::Object(object).to_canonical_string())
}

/// A transaction as it comes.
#[derive(serde::Deserialize)]
struct Transaction<'a> {
    #[serde(borrow, default)]
    pdus: Vec<&'a RawValue>,
}

/// What is asked about a gap.
#[derive(serde::Deserialize)]
struct Missing {
    earliest_events: Vec<String>,
    latest_events: Vec<String>,
    limit: usize,
}

/// What tells whose event it is.
#[derive(serde::Deserialize)]
struct Head {
    room_id: String,
}

fn transaction(peer: &Peer, place: usize, body: &[u8]) -> Bytes {
    let transaction: Transaction<'_> = serde_json::from_slice(body).unwrap();
    let mut rooms = peer.rooms.lock();
    for pdu in transaction.pdus {
        let head: Head = serde_json::from_str(pdu.get()).unwrap();
        if let Some(room) = rooms.get_mut(&head.room_id) {
            room.receive(place, Bytes::copy_from_slice(pdu.get().as_bytes()));
        }
    }
    json_bytes(&json!({ "pdus": {} }))
}

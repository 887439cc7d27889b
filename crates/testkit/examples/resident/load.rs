//! Messages of one of our servers to a server that has joined a room.

use std::time::Instant;

use bytes::Bytes;
use event::{Json, Object};
use federation::x_matrix;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{Peer, Server, now_ms};

type Sender = http1::SendRequest<Full<Bytes>>;

/// Sends this many messages of the first server's member, so many in each transaction, one transaction after the other
/// on one connection. Answers how long that took, and the last event's id.
pub async fn send(
    peer: &Peer,
    room: &str,
    to: &str,
    port: u16,
    events: usize,
    per_transaction: usize,
) -> Result<Value, String> {
    let server = &peer.servers[0];
    let (mut bodies, mut last) = (Vec::new(), String::new());
    {
        // Made before the clock runs.
        let mut rooms = peer.rooms.lock();
        let room = rooms.get_mut(room).ok_or("no such room")?;
        let mut left = events;
        while left > 0 {
            let count = left.min(per_transaction.max(1));
            let ids: Vec<String> = (0..count)
                .map(|n| room.message(server, &format!("message {} of a load", left - n)).to_string())
                .collect();
            let pdus: Vec<Json> = ids.iter().filter_map(|id| Json::from_slice(&room.event(id)?.bytes).ok()).collect();
            bodies.push(object_of(&server.name, pdus));
            last = ids.last().cloned().unwrap_or_default();
            left -= count;
        }
    }
    let mut sender = connect(peer, port).await?;
    let (started, begun_ms) = (Instant::now(), now_ms());
    let mut failed = 0;
    for (n, body) in bodies.into_iter().enumerate() {
        let answer = transaction(&mut sender, server, to, &format!("{begun_ms}.{n}"), body).await?;
        let results = answer.get("pdus").and_then(Value::as_object);
        failed += results.map_or(0, |results| results.values().filter(|result| result.get("error").is_some()).count());
    }
    Ok(json!({ "seconds": started.elapsed().as_secs_f64(), "failed": failed, "last": last }))
}

fn object_of(origin: &str, pdus: Vec<Json>) -> Object {
    Object::from([
        ("origin".to_owned(), Json::from(origin)),
        ("origin_server_ts".to_owned(), Json::Int(now_ms())),
        ("pdus".to_owned(), Json::Array(pdus)),
    ])
}

async fn connect(peer: &Peer, port: u16) -> Result<Sender, String> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    let tls = peer.tls.connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn transaction(sender: &mut Sender, from: &Server, to: &str, id: &str, body: Object) -> Result<Value, String> {
    let path = format!("/_matrix/federation/v1/send/{id}");
    let body = Json::Object(body).to_canonical_string();
    let signed = x_matrix::sign(&from.key, &Method::PUT, &path, &from.name, to, Some(body.as_bytes()));
    let request = Request::builder()
        .method(Method::PUT)
        .uri(path)
        .header(HOST, to)
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, signed.header())
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)));
    }
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

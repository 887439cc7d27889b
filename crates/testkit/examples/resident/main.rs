//! A generated peer for benchmarks: one process that answers for many servers on loopback, which share rooms of any
//! size with real signatures. Another server can join such a room, send to it, and be sent to.
//!
//! `resident FOLDER SERVERS` writes a certificate authority and a certificate for the server under test into the
//! folder, then takes commands from standard input, one a line, and answers each with one line of JSON:
//!
//! - `room MEMBERS` makes a room of all servers and answers its id and a server to join through;
//! - `joined ROOM` says when the answer to the last join of the room began;
//! - `load ROOM SERVER PORT EVENTS PER_TRANSACTION` sends messages to a server that has joined;
//! - `received ROOM` says what has arrived from that server at how many of ours.
//!
//! Requests are not checked: what is measured is the other side.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers: whatever fails ends it")]

mod load;
mod room;
mod routes;
mod tls;

use std::collections::HashMap;
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use event::SigningKey;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use room::Room;

/// Addresses in the last part of one 127.0.x.
const ADDRESSES_PER_NET: usize = 250;

/// One of the servers that the process answers for.
pub struct Server {
    pub name: String,
    pub address: Ipv4Addr,
    pub key: SigningKey,
}

/// Everything that is served.
pub struct Peer {
    pub servers: Vec<Server>,
    pub rooms: Mutex<HashMap<String, Room>>,
    pub tls: tls::Tls,
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn address(n: usize) -> Ipv4Addr {
    let (net, host) = (1 + n / ADDRESSES_PER_NET, 1 + n % ADDRESSES_PER_NET);
    Ipv4Addr::new(127, 0, u8::try_from(net).unwrap(), u8::try_from(host).unwrap())
}

fn servers(count: usize, port: u16) -> Vec<Server> {
    let server = |n: usize| {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        let address = address(n);
        Server { name: format!("{address}:{port}"), address, key: SigningKey::generate(&seed) }
    };
    (0..count).map(server).collect()
}

async fn command(peer: &Peer, line: &str) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
    match words.as_slice() {
        ["room", members] => {
            let number = peer.rooms.lock().len();
            let room = Room::generate(&peer.servers, number, members.parse().unwrap());
            let answer = json!({ "room_id": room.id.as_str(), "via": peer.servers[0].name });
            peer.rooms.lock().insert(room.id.to_string(), room);
            Ok(answer)
        }
        ["joined", room] => Ok(peer.rooms.lock()[*room].joined.clone()),
        ["received", room] => Ok(peer.rooms.lock()[*room].received.report()),
        ["load", room, server, port, events, per_transaction] => {
            let port = port.parse().map_err(|_| "no port".to_owned())?;
            load::send(peer, room, server, port, number(events)?, number(per_transaction)?).await
        }
        _ => Err(format!("an unknown command: {line}")),
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, folder, count] = args.as_slice() else { panic!("resident FOLDER SERVERS") };
    let count = count.parse().unwrap();
    let first = TcpListener::bind((address(0), 0)).await.unwrap();
    let port = first.local_addr().unwrap().port();
    let servers = servers(count, port);
    let addresses: Vec<Ipv4Addr> = servers.iter().map(|server| server.address).collect();
    let tls = tls::Tls::generate(Path::new(folder), &addresses);
    let mut listeners = vec![first];
    for address in addresses.iter().skip(1) {
        listeners.push(TcpListener::bind((*address, port)).await.unwrap());
    }
    let peer = Arc::new(Peer { servers, rooms: Mutex::default(), tls });
    for (place, listener) in listeners.into_iter().enumerate() {
        tokio::spawn(routes::serve(Arc::clone(&peer), place, listener));
    }
    println!("{}", json!({ "ready": true }));
    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    // The end of standard input is the end.
    while let Some(line) = commands.recv().await {
        let answer = command(&peer, &line).await.unwrap_or_else(|error| json!({ "error": error }));
        println!("{answer}");
    }
}

//! A name server on the loopback address that knows what a test tells it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Records by lower-case name and type, as their data on the wire.
type Zone = BTreeMap<(String, u16), Vec<Vec<u8>>>;

/// A running name server; it ends when this is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone: Arc<Mutex<Zone>> = Arc::default();
        let knows = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&buffer[..length], &knows.lock());
                drop(socket.send_to(&answer, from).await);
            }
        });
        Self { address, zone, task }
    }

    /// The name has this address too.
    pub fn address(&self, name: &str, address: &str) {
        let (kind, data) = match address.parse().unwrap() {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        self.zone.lock().entry((name.to_owned(), kind)).or_default().push(data);
    }

    /// The name has this SRV record too.
    pub fn srv(&self, name: &str, priority: u16, weight: u16, port: u16, target: &str) {
        let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|number| number.to_be_bytes()).collect();
        for label in target.split('.') {
            data.push(u8::try_from(label.len()).unwrap());
            data.extend(label.bytes());
        }
        data.push(0);
        self.zone.lock().entry((name.to_owned(), SRV)).or_default().push(data);
    }
}

/// Answers a query with one question (RFC 1035, section 4).
fn answer(query: &[u8], zone: &Zone) -> Vec<u8> {
    let (name, end) = name_at(query, 12);
    let kind = u16::from_be_bytes([query[end], query[end + 1]]);
    let known = zone.keys().any(|(of, _)| *of == name);
    let records = zone.get(&(name, kind)).cloned().unwrap_or_default();
    // A response to a recursive query, without error or with NXDOMAIN.
    let flags: u16 = if known { 0x8180 } else { 0x8183 };
    let count = u16::try_from(records.len()).unwrap();
    let mut answer = query[..2].to_vec();
    for number in [flags, 1, count, 0, 0] {
        answer.extend(number.to_be_bytes());
    }
    answer.extend(&query[12..end + 4]);
    for data in records {
        // The name of the question; the type; the class; for how long; the data.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// The name that starts there, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        let length = usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..at + 1 + length]).to_lowercase());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}

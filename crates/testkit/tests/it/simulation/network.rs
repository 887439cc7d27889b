//! The network: requests between servers are delayed, lost before or after they are answered, sent twice, and cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tower::ServiceExt as _;

use super::chance::Chance;
use super::node::{Life, Node};

/// What the network does to a request, in times of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// It is lost.
    pub lost: u64,
    /// It arrives, and its answer is lost.
    pub answer_lost: u64,
    /// It arrives twice.
    pub twice: u64,
    /// It takes much longer.
    pub slow: u64,
}

/// Paths that are never answered, for showing what comes of that.
pub type Refused = &'static [&'static str];

/// What the network knows.
#[derive(Default)]
struct Net {
    nodes: BTreeMap<String, Weak<Node>>,
    weather: Weather,
    /// Pairs (from, to) between which nothing passes.
    cut: BTreeSet<(String, String)>,
    delivered: u64,
    /// Of all that was delivered, in order: two runs of a seed have the same.
    trace: u64,
}

/// The network of all servers.
pub struct Network {
    net: Mutex<Net>,
    chance: Chance,
    refused: Refused,
}

/// The answer to a request, read whole.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Network {
    /// A network without servers, in good weather.
    pub fn new(chance: &Chance, refused: Refused) -> Arc<Self> {
        Arc::new(Self { net: Mutex::default(), chance: chance.fork(), refused })
    }

    /// Makes a server reachable.
    pub fn join(&self, node: &Arc<Node>) {
        self.net.lock().nodes.insert(node.name.clone(), Arc::downgrade(node));
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.net.lock().weather = weather;
    }

    /// Cuts every way from servers of the one group to servers of the other, and back if `both`.
    pub fn cut(&self, ones: &[&str], others: &[&str], both: bool) {
        let mut net = self.net.lock();
        for one in ones {
            for other in others {
                net.cut.insert(((*one).to_owned(), (*other).to_owned()));
                if both {
                    net.cut.insert(((*other).to_owned(), (*one).to_owned()));
                }
            }
        }
    }

    /// Mends everything that was cut.
    pub fn heal(&self) {
        self.net.lock().cut.clear();
    }

    /// How many requests have been delivered.
    pub fn delivered(&self) -> u64 {
        self.net.lock().delivered
    }

    /// A number that is made of all deliveries.
    pub fn trace(&self) -> u64 {
        self.net.lock().trace
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.net.lock().cut.contains(&(from.to_owned(), to.to_owned()))
    }

    async fn delay(&self) {
        let slow = self.net.lock().weather.slow;
        let ms = if self.chance.permille(slow) { self.chance.between(500, 15_000) } else { self.chance.between(2, 60) };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn note(&self, from: &str, request: &Outgoing) {
        let mut net = self.net.lock();
        net.delivered += 1;
        let method = request.method.as_str();
        let path = request.path_and_query.as_str();
        let parts = [from, &request.destination, method, path].map(str::as_bytes);
        let body = request.body.as_deref().unwrap_or_default();
        for byte in parts.into_iter().chain([body]).flatten() {
            net.trace = (net.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// Hands a request to its server. `None` if there is none, or it ends meanwhile.
    async fn deliver(&self, from: &str, request: &Outgoing) -> Option<Answer> {
        let node = self.net.lock().nodes.get(&request.destination).and_then(Weak::upgrade)?;
        let up = node.up()?;
        self.note(from, request);
        if self.refused.iter().any(|path| request.path_and_query.contains(path)) {
            return Some(Answer { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), body: Bytes::new() });
        }
        let mut arriving = Request::builder().method(&request.method).uri(&request.path_and_query);
        arriving.headers_mut().unwrap().extend(request.headers.clone());
        let body = request.body.clone().map_or_else(Body::empty, Body::from);
        let arriving = arriving.body(body).unwrap();
        let handled = async {
            let (head, body) = up.router().oneshot(arriving).await.unwrap().into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            Answer { status: head.status, headers: head.headers, body }
        };
        up.life.within(handled).await
    }
}

/// The way of one life of a server into the network.
pub struct Wire {
    /// The network.
    pub network: Arc<Network>,
    /// The server's name.
    pub from: String,
    /// The life.
    pub life: Life,
}

impl Wire {
    async fn exchange(&self, request: Outgoing) -> Result<Answer, TransportError> {
        let network = &self.network;
        let weather = network.net.lock().weather;
        let broken = || TransportError::Connection("it broke".to_owned());
        network.delay().await;
        if network.is_cut(&self.from, &request.destination) || network.chance.permille(weather.lost) {
            network.delay().await;
            return Err(broken());
        }
        // Whoever asked may be gone while the other still works on it.
        let handling = |after: bool| {
            let (network, from, request) = (Arc::clone(network), self.from.clone(), request.clone());
            tokio::spawn(async move {
                if after {
                    network.delay().await;
                }
                network.deliver(&from, &request).await
            })
        };
        if network.chance.permille(weather.twice) {
            handling(true);
        }
        let answer = handling(false).await.ok().flatten();
        network.delay().await;
        if network.is_cut(&request.destination, &self.from) || network.chance.permille(weather.answer_lost) {
            return Err(broken());
        }
        answer.ok_or_else(broken)
    }
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let timeout = request.limits.timeout;
        let exchanged = self.life.within(tokio::time::timeout(timeout, self.exchange(request))).await;
        let Some(exchanged) = exchanged else { return std::future::pending().await };
        let Answer { status, headers, body } = exchanged.unwrap_or(Err(TransportError::Timeout))?;
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status, headers, body })
    }
}

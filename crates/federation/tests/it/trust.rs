//! A key ring on the in-memory store, before a network in which the test decides who publishes which keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use event::{Json, Object, SigningKey};
use federation::client::{Client, Reach};
use federation::key_ring::{KeyRing, OwnKeys, Parts, Wanted};
use federation::transport::{Incoming, Outgoing, Transport, TransportError};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::json;
use store::model::Model;
use store::{Clock, Engine, Store};
use users::Inline;

use crate::harness::{key, object};

/// The server's name.
pub const US: &str = "one.test";
/// When tests begin, in milliseconds since the epoch.
pub const NOW_MS: u64 = 1_700_000_000_000;
/// The path of a server's keys.
pub const SERVER_PATH: &str = "/_matrix/key/v2/server";
/// The path of a notary.
pub const QUERY_PATH: &str = "/_matrix/key/v2/query";

/// A clock that stands until it is told to go on.
pub struct StandingClock(AtomicI64);

impl StandingClock {
    /// At [`NOW_MS`].
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(i64::try_from(NOW_MS).unwrap())))
    }

    /// Moves it.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for StandingClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A network: answers by server and path. Who has none cannot be reached.
#[derive(Default)]
pub struct Net {
    answers: Mutex<BTreeMap<(String, String), Object>>,
    /// All requests, in order.
    pub seen: Mutex<Vec<Outgoing>>,
}

impl Net {
    /// From now on the server publishes this about its keys.
    pub fn publish(&self, server: &str, response: Object) {
        self.answer(server, SERVER_PATH, response);
    }

    /// From now on the server answers so.
    pub fn answer(&self, server: &str, path: &str, answer: Object) {
        self.answers.lock().insert((server.to_owned(), path.to_owned()), answer);
    }

    /// From now on the server cannot be reached.
    pub fn leave(&self, server: &str) {
        self.answers.lock().retain(|(of, _), _| of != server);
    }

    /// How often the server was asked.
    pub fn count(&self, server: &str) -> usize {
        self.seen.lock().iter().filter(|request| request.destination == server).count()
    }
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let key = (request.destination.clone(), request.path_and_query.clone());
        self.seen.lock().push(request);
        // Lets others ask at the same time.
        tokio::task::yield_now().await;
        let answer = self.answers.lock().get(&key).cloned().ok_or(TransportError::Timeout)?;
        let text = Json::Object(answer).to_canonical_string();
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        Ok(Incoming { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }
}

/// A key ring and what is around it.
pub struct Trust {
    pub ring: KeyRing,
    pub net: Arc<Net>,
    pub store: Store,
    pub clock: Arc<StandingClock>,
}

impl Trust {
    /// Of a server without notaries.
    pub async fn new(net: Net) -> Self {
        Self::with(net, Reach::default(), &[]).await
    }

    /// With all that can be set.
    pub async fn with(net: Net, reach: Reach, notaries: &[&str]) -> Self {
        let store = Store::new(Arc::new(Model::new())).await.unwrap();
        Self::on(store, Arc::new(net), StandingClock::new(), reach, notaries).await
    }

    /// Of a server on an engine.
    pub async fn over(engine: Arc<dyn Engine>, net: Net) -> Self {
        let store = Store::new(engine).await.unwrap();
        Self::on(store, Arc::new(net), StandingClock::new(), Reach::default(), &[]).await
    }

    /// Another life of the same server.
    pub async fn restarted(self) -> Self {
        Self::on(self.store, self.net, self.clock, Reach::default(), &[]).await
    }

    async fn on(store: Store, net: Arc<Net>, clock: Arc<StandingClock>, reach: Reach, notaries: &[&str]) -> Self {
        let own = Arc::new(key(US));
        let transport = Arc::clone(&net) as Arc<dyn Transport>;
        let ring = KeyRing::new(Parts {
            store: store.clone(),
            client: Client::new(US, Arc::clone(&own), transport, reach),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            own: OwnKeys::load(&store, US, own).await.unwrap(),
            notaries: notaries.iter().map(ToString::to_string).collect(),
            blocking: Arc::new(Inline),
            cores: 2,
        });
        Self { ring, net, store, clock }
    }

    /// Whether a key can be had that vouches for this time.
    pub async fn has(&self, server: &str, key: &SigningKey, minimum_valid_until_ts: u64) -> bool {
        let wanted = wanted(server, key.key_id(), minimum_valid_until_ts);
        let keys = self.ring.keys_for(&[wanted]).await.unwrap();
        event::Keys::key(&keys, server, key.key_id())
            .is_some_and(|known| known.expired_ts.is_some() || known.valid_until_ts >= minimum_valid_until_ts)
    }
}

/// A wanted key.
pub fn wanted(server: &str, key_id: &str, minimum_valid_until_ts: u64) -> Wanted {
    Wanted { server: server.to_owned(), key_id: key_id.to_owned(), minimum_valid_until_ts }
}

/// What a server publishes that has one key.
pub fn response(server: &str, key: &SigningKey, valid_until_ts: u64) -> Object {
    response_with(server, key, valid_until_ts, &[])
}

/// What a server publishes that has one key, and has had others until these times.
pub fn response_with(server: &str, key: &SigningKey, valid_until_ts: u64, old: &[(&SigningKey, u64)]) -> Object {
    let old: serde_json::Map<_, _> = old
        .iter()
        .map(|(key, expired)| (key.key_id().to_owned(), json!({ "key": key.public_b64(), "expired_ts": expired })))
        .collect();
    let mut response = object(json!({
        "server_name": server,
        "valid_until_ts": valid_until_ts,
        "verify_keys": { key.key_id(): { "key": key.public_b64() } },
        "old_verify_keys": old,
    }));
    key.sign_json(&mut response, server);
    response
}

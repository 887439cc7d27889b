//! What several tests need: repeatable randomness, keys, and views of our
//! events for the crates that serve as oracles.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use event::{Json, Keys, Object, Pdu, Rules, SigningKey, VerifyKey};
use ruma_common::room_version_rules::RoomVersionRules;
use ruma_common::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId,
};
use ruma_events::TimelineEventType;
use serde_json::value::RawValue;

/// SplitMix64: small, seeded, the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// How many seeds a differential test runs.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    seeds_of("EVENT_SEEDS", default)
}

/// As many seeds as an environment variable says.
pub fn seeds_of(name: &str, default: u64) -> std::ops::Range<u64> {
    let n = std::env::var(name).ok().and_then(|n| n.parse().ok());
    0..n.unwrap_or(default)
}

pub fn rules(version: &str) -> &'static Rules {
    Rules::of(version).unwrap()
}

pub fn ruma_rules(version: &str) -> RoomVersionRules {
    RoomVersionId::try_from(version).unwrap().rules().unwrap()
}

pub fn object(value: serde_json::Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => panic!("not an object"),
    }
}

pub fn canonical(object: &Object) -> CanonicalJsonObject {
    serde_json::from_slice(&event::canonical_json::to_bytes(object)).unwrap()
}

/// A signing key per server, made from its name.
pub fn key_of(server: &str) -> SigningKey {
    let mut seed = [7; 32];
    seed.iter_mut().zip(server.bytes()).for_each(|(to, from)| *to = from);
    SigningKey::generate(&seed)
}

/// The keys of all servers, valid until a given time.
pub struct AllKeys {
    pub valid_until_ts: u64,
    pub expired_ts: Option<u64>,
}

impl AllKeys {
    pub const FOREVER: AllKeys = AllKeys { valid_until_ts: u64::MAX, expired_ts: None };
}

impl Keys for AllKeys {
    fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey> {
        let key = key_of(server);
        if key.key_id() != key_id {
            return None;
        }
        VerifyKey::from_b64(&key.public_b64(), self.valid_until_ts, self.expired_ts)
    }
}

/// An event without valid hashes and signatures, from its JSON.
pub fn pdu(rules: &Rules, value: serde_json::Value) -> Arc<Pdu> {
    let mut event = object(value);
    for key in ["hashes", "signatures"] {
        event.entry(key.to_owned()).or_insert_with(|| Json::Object(Object::new()));
    }
    let bytes = Bytes::from(event::canonical_json::to_bytes(&event));
    Arc::new(Pdu::parse(rules, bytes).unwrap())
}

/// Our event as the state resolution oracle wants it.
#[derive(Debug, Clone)]
pub struct OraclePdu {
    pdu: Arc<Pdu>,
    sender: OwnedUserId,
    kind: TimelineEventType,
    content: Box<RawValue>,
    ts: MilliSecondsSinceUnixEpoch,
    rejected: bool,
}

impl OraclePdu {
    pub fn new(pdu: &Arc<Pdu>, rejected: bool) -> Self {
        let content = event::canonical_json::to_string(&pdu.content);
        OraclePdu {
            sender: pdu.sender.as_str().try_into().unwrap(),
            kind: pdu.kind.as_str().into(),
            content: RawValue::from_string(content).unwrap(),
            ts: serde_json::from_value(pdu.origin_server_ts.into()).unwrap(),
            pdu: pdu.clone(),
            rejected,
        }
    }
}

impl ruma_state_res::Event for OraclePdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.pdu.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.pdu.names_room().then_some(&self.pdu.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.pdu.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.pdu.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.pdu.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// Events by ID.
pub type Store = BTreeMap<OwnedEventId, Arc<Pdu>>;

/// Looks an event up for the oracle.
pub fn oracle_event(store: &Store, id: &EventId, rejected: bool) -> Option<OraclePdu> {
    store.get(id).map(|pdu| OraclePdu::new(pdu, rejected))
}

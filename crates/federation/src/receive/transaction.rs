//! A transaction: each event is checked by itself and queued, each EDU is done, and the answer is kept for when the
//! transaction comes again (behaviours FE1, FA9).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use endpoint::Error;
use event::{EdgeLimits, EventIdFormat, Json, Object, Rules, Verified, canonical_json};
use parking_lot::Mutex;
use rooms::flags;
use serde_json::{Value, json};
use store::CommitBatch;
use store::tables::federation::InboundTransactionRow;

use super::queue::commit;
use crate::inbound::error_map;
use crate::{Federation, verify};

/// Most events of one transaction (server-server API, "Transactions").
const PDUS_MAX: usize = 50;
/// Most EDUs of one transaction.
const EDUS_MAX: usize = 100;
/// Bytes that a transaction's id may have.
const TXN_ID_BYTES_MAX: usize = 255;
/// Most transactions of one peer that are under way or wait; a peer should send one at a time.
const UNDER_WAY_MAX: usize = 8;
/// What a peer is told to wait that sends too much at once, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// Transactions of one peer are done one at a time, so that one that comes twice at once is done once.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Lanes {
    /// The lane of a peer; `None` if too many are in it.
    fn of(&self, origin: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut lanes = self.0.lock();
        let lane = Arc::clone(lanes.entry(origin.to_owned()).or_default());
        // The map holds one, and each transaction another.
        (Arc::strong_count(&lane) <= UNDER_WAY_MAX + 1).then_some(lane)
    }

    /// Forgets the lane of a peer that nobody is in. The caller has let go of its own.
    fn leave(&self, origin: &str) {
        let mut lanes = self.0.lock();
        if lanes.get(origin).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(origin);
        }
    }
}

/// What the checks that are made at once came to: the answer per event, and what goes on to the queue.
#[derive(Default)]
struct Sorted {
    results: BTreeMap<String, Value>,
    accepted: Vec<Verified>,
}

impl Sorted {
    fn refuse(&mut self, rules: &Rules, event: &Object, reason: &str) {
        if let Some(id) = event_id(rules, event) {
            self.results.insert(id, json!({ "error": reason }));
        }
    }
}

impl Federation {
    /// Takes in a transaction and returns the body of the answer.
    pub(crate) async fn transaction(&self, origin: &str, txn_id: &str, content: Object) -> Result<String, Error> {
        if txn_id.len() > TXN_ID_BYTES_MAX {
            return Err(Error::invalid_param("The transaction's id is too long."));
        }
        let lanes = &self.receiver.lanes;
        let lane = lanes.of(origin).ok_or_else(|| Error::limit_exceeded(RETRY_MS))?;
        let turn = lane.lock().await;
        let answer = self.transaction_in_turn(origin, txn_id, content).await;
        drop(turn);
        drop(lane);
        lanes.leave(origin);
        answer
    }

    async fn transaction_in_turn(&self, origin: &str, txn_id: &str, mut content: Object) -> Result<String, Error> {
        let key = vec![origin.into(), txn_id.into()];
        if let Some(row) = self.store.get::<InboundTransactionRow>(key).await? {
            return Ok(row.answer);
        }
        let pdus = list(&mut content, "pdus")?;
        let edus = list(&mut content, "edus")?;
        if pdus.len() > PDUS_MAX || edus.len() > EDUS_MAX {
            return Err(Error::bad_json(format!("A transaction has at most {PDUS_MAX} PDUs and {EDUS_MAX} EDUs.")));
        }
        if !pdus.is_empty() && !self.receiver.queue.has_place(origin) {
            return Err(Error::limit_exceeded(RETRY_MS));
        }
        let sorted = self.sort(origin, pdus).await?;
        self.take_edus(origin, edus).await?;
        let answer = json!({ "pdus": sorted.results }).to_string();
        if sorted.results.is_empty() {
            // EDUs may come twice, and the answer would be the same: nothing is kept of what costs the peer nothing.
            return Ok(answer);
        }
        let mut batch = CommitBatch::new();
        let rows = self.receiver.queue.put(&mut batch, origin, sorted.accepted).await?;
        batch.put(InboundTransactionRow {
            origin: origin.to_owned(),
            txn_id: txn_id.to_owned(),
            answer: answer.clone(),
            at_ms: self.clock.now_ms(),
        });
        commit(&self.store, batch).await?;
        self.receiver.queue.added(&rows);
        Ok(answer)
    }

    /// The checks that are made at once, room by room.
    async fn sort(&self, origin: &str, pdus: Vec<Json>) -> Result<Sorted, Error> {
        let mut by_room: BTreeMap<String, Vec<Object>> = BTreeMap::new();
        for pdu in pdus {
            // What is no object, or names no room, has no id under which it could be answered.
            let Json::Object(event) = pdu else { continue };
            let Some(room_id) = event.get("room_id").and_then(Json::as_str) else { continue };
            by_room.entry(room_id.to_owned()).or_default().push(event);
        }
        let mut sorted = Sorted::default();
        for (room_id, events) in by_room {
            self.sort_room(origin, &room_id, events, &mut sorted).await?;
        }
        Ok(sorted)
    }

    async fn sort_room(
        &self,
        origin: &str,
        room_id: &str,
        events: Vec<Object>,
        sorted: &mut Sorted,
    ) -> Result<(), Error> {
        let Some(rules) = self.rules_of(room_id).await.map_err(error_map::rooms)? else {
            tracing::debug!(origin, room_id, "events of an unknown room were passed over");
            return Ok(());
        };
        let room = self.resident_room(room_id).await?;
        if let Some(room) = &room
            && !self.is_heard(room, origin).await.map_err(error_map::rooms)?
        {
            for event in &events {
                sorted.refuse(rules, event, "your server is banned from this room");
            }
            return Ok(());
        }
        let (events, outside): (Vec<Object>, Vec<Object>) =
            events.into_iter().partition(|event| room.is_some() || self.concerns_local_user(event));
        for event in &outside {
            sorted.refuse(rules, event, "this server is not in the room");
        }
        let texts = events.iter().map(|event| federation_form(rules, event)).collect();
        let verified = verify::pdus(&self.key_ring, rules, texts, EdgeLimits::Enforced).await?;
        for (event, verified) in events.iter().zip(verified) {
            match verified {
                Err(error) => sorted.refuse(rules, event, &error.to_string()),
                Ok(verified) => {
                    let id = verified.pdu().event_id.to_string();
                    let known = match &room {
                        Some(room) => self.rooms.event_by_id(room, &id).await.map_err(error_map::rooms)?,
                        None => None,
                    };
                    sorted.results.insert(id, json!({}));
                    if known.is_none_or(|known| known.has(flags::WAITING | flags::OUTLIER)) {
                        sorted.accepted.push(verified);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Federation {
    /// Whether an event is a membership of a user of this server: of a room that this server is not in, nothing else
    /// counts.
    fn concerns_local_user(&self, event: &Object) -> bool {
        let text = |member: &str| event.get(member).and_then(Json::as_str);
        let target = text("state_key").and_then(event::ids::user_server);
        text("type") == Some("m.room.member") && target == Some(self.rooms.server_name())
    }
}

/// A list of the transaction; one that is missing is empty.
fn list(content: &mut Object, member: &str) -> Result<Vec<Json>, Error> {
    match content.remove(member) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(list)) => Ok(list),
        Some(_) => Err(Error::bad_json(format!("`{member}` is no list."))),
    }
}

/// An event as it is kept: canonical, without what its server says beside it. Numbers that the room version refuses stay as
/// they are, so that they are: the canonical form of `1e3` would be a good number.
pub(crate) fn federation_form(rules: &Rules, event: &Object) -> Bytes {
    let mut event = event.clone();
    event.remove("unsigned");
    if rules.strict_canonical_json && canonical_json::check_strict_object(&event).is_err() {
        return serde_json::to_vec(&Json::Object(event)).unwrap_or_default().into();
    }
    Bytes::from(canonical_json::to_bytes(&event))
}

/// The id of an event that need not be well-formed.
fn event_id(rules: &Rules, event: &Object) -> Option<String> {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
    let hash = || event::reference_hash(rules, event);
    match rules.event_id_format {
        EventIdFormat::Chosen => event.get("event_id")?.as_str().map(str::to_owned),
        EventIdFormat::Hash => Some(format!("${}", BASE64_STANDARD_NO_PAD.encode(hash()))),
        EventIdFormat::UrlSafeHash => Some(format!("${}", BASE64_URL_SAFE_NO_PAD.encode(hash()))),
    }
}

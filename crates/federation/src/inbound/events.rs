//! `GET /_matrix/federation/v1/{state,state_ids}/{roomId}`, `/event/{eventId}` and `/timestamp_to_event/{roomId}`
//! (`data/api/server-server/events.yaml`).

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, extract};
use bytes::Bytes;
use endpoint::{Error, Path, Query};
use http::header::CONTENT_TYPE;
use rooms::remote::{ServerViewer, Sight};
use rooms::timeline::{Direction, PageQuery, Place};
use rooms::{Event, Room, flags};
use serde::Deserialize;
use serde_json::{Value, json};
use store::tables::rooms::{EventRow, ResidencyRow};
use store::{Read, RoomNum};

use super::access::Signed;
use super::error_map;
use super::events_body::{EventsBody, joined};
use crate::Federation;

/// Rooms of a server in which an event is looked for at a time.
const ROOMS_CHUNK: usize = 250;
/// Events of the timeline that are looked through for a timestamp.
const SCANNED_MAX: usize = 20_000;
/// Events of one page of that.
const PAGE: usize = 250;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/state/{room_id}", get(state))
        .route("/_matrix/federation/v1/state_ids/{room_id}", get(state_ids))
        .route("/_matrix/federation/v1/event/{event_id}", get(event))
        .route("/_matrix/federation/v1/timestamp_to_event/{room_id}", get(timestamp_to_event))
        .route("/_matrix/federation/unstable/org.matrix.msc3030/timestamp_to_event/{room_id}", get(timestamp_to_event))
}

#[derive(Debug, Deserialize)]
struct StateParameters {
    event_id: String,
}

async fn state(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    Query(parameters): Query<StateParameters>,
    request: Signed,
) -> Result<Response, Error> {
    let room = federation.whole_room_of(&request.origin, &room_id).await?;
    let event = federation.event_of(&room, &parameters.event_id).await?;
    let found = federation.rooms.state_nums_before(&room.id, event.id()).await;
    let (room, nums) = found.map_err(error_map::rooms)?;
    let body = EventsBody::new(&federation, &room);
    Ok(body.events("pdus", nums.state).events("auth_chain", nums.auth_chain).respond())
}

async fn state_ids(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    Query(parameters): Query<StateParameters>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let room = federation.whole_room_of(&request.origin, &room_id).await?;
    let event = federation.event_of(&room, &parameters.event_id).await?;
    let found = federation.rooms.state_nums_before(&room.id, event.id()).await;
    let (_, nums) = found.map_err(error_map::rooms)?;
    let state = federation.rooms.event_ids(&nums.state).await.map_err(error_map::rooms)?;
    let auth_chain = federation.rooms.event_ids(&nums.auth_chain).await.map_err(error_map::rooms)?;
    Ok(Json(json!({ "pdu_ids": state, "auth_chain_ids": auth_chain })))
}

async fn event(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(event_id): Path<String>,
    request: Signed,
) -> Result<Response, Error> {
    let found = federation.shared_event(&request.origin, &event_id).await?;
    let (room, event) = found.ok_or_else(|| Error::not_found("This event is not known here."))?;
    let shown = federation.shown(&room, &request.origin, &[event]).await?;
    Ok(transaction(&federation, shown))
}

/// Events in the form of a transaction.
pub(super) fn transaction(federation: &Federation, events: Vec<Bytes>) -> Response {
    let head = json!({ "origin": federation.rooms.server_name(), "origin_server_ts": federation.clock.now_ms() });
    let head = head.to_string();
    let mut text = head.trim_end_matches('}').as_bytes().to_vec();
    text.extend_from_slice(b",\"pdus\":[");
    text.extend_from_slice(&joined(events, true));
    text.extend_from_slice(b"]}");
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

impl Federation {
    /// An event of any room that a server is in.
    async fn shared_event(&self, origin: &str, event_id: &str) -> Result<Option<(Arc<Room>, Arc<Event>)>, Error> {
        let read = Read::along::<ResidencyRow>(ResidencyRow::BY_SERVER, vec![origin.into()]);
        let mut rooms: Vec<RoomNum> =
            self.store.all::<ResidencyRow>(read).await?.into_iter().map(|row| row.room).collect();
        rooms.dedup();
        for chunk in rooms.chunks(ROOMS_CHUNK) {
            let reads = chunk
                .iter()
                .map(|room| Read::along::<EventRow>(EventRow::BY_ID, vec![(*room).into(), event_id.into()]).limit(1));
            for (num, found) in chunk.iter().zip(self.store.read(reads.collect()).await?) {
                if found.0.is_empty() {
                    continue;
                }
                let Some(room) = self.rooms.room_by_num(*num).await.map_err(error_map::rooms)? else { continue };
                // Whether it may ask about the room is for the room's own check; a refusal looks like no event.
                let Ok(room) = self.room_of(origin, &room.id).await else { continue };
                let event = self.rooms.event_by_id(&room, event_id).await.map_err(error_map::rooms)?;
                if let Some(event) = event.filter(|event| !event.has(flags::WAITING)) {
                    return Ok(Some((room, event)));
                }
            }
        }
        Ok(None)
    }

    /// Events as a server may see them: those that it may not are pruned, since it needs their edges.
    pub(super) async fn shown(&self, room: &Room, server: &str, events: &[Arc<Event>]) -> Result<Vec<Bytes>, Error> {
        let mut viewer = ServerViewer::new(&self.rooms, room, server);
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            match viewer.sees(event).await.map_err(error_map::rooms)? {
                Sight::Whole => shown.push(event.pdu.bytes.clone()),
                Sight::Redacted => shown.extend(event.pdu.redacted(room.rules).ok().map(|pdu| pdu.bytes)),
            }
        }
        Ok(shown)
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dir {
    B,
    F,
}

#[derive(Debug, Deserialize)]
struct TimestampParameters {
    ts: i64,
    dir: Dir,
}

async fn timestamp_to_event(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    Query(parameters): Query<TimestampParameters>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let room = federation.room_of(&request.origin, &room_id).await?;
    let mut viewer = ServerViewer::new(&federation.rooms, &room, &request.origin);
    let (direction, mut from) = match parameters.dir {
        Dir::B => (Direction::Backward, federation.rooms.live_end(&room)),
        Dir::F => (Direction::Forward, federation.rooms.start(&room).await.map_err(error_map::rooms)?),
    };
    for _ in 0..SCANNED_MAX / PAGE {
        let query = PageQuery { from, direction, until: None, limit: PAGE };
        let (events, next): (Vec<Arc<Event>>, Option<Place>) = federation.page_of(&room, query).await?;
        for event in events {
            let fits = match direction {
                Direction::Backward => event.row.ts <= parameters.ts,
                Direction::Forward => event.row.ts >= parameters.ts,
            };
            if fits && viewer.sees(&event).await.map_err(error_map::rooms)? == Sight::Whole {
                return Ok(Json(json!({ "event_id": event.id(), "origin_server_ts": event.row.ts })));
            }
        }
        let Some(next) = next else { break };
        from = next;
    }
    Err(Error::not_found("There is no event on that side of the timestamp."))
}

impl Federation {
    /// A page of the timeline, whoever may see it.
    async fn page_of(&self, room: &Room, query: PageQuery) -> Result<(Vec<Arc<Event>>, Option<Place>), Error> {
        let prefix = vec![room.num.into(), query.from.fragment.into()];
        let read = Read::along::<EventRow>(EventRow::BY_TIMELINE, prefix);
        let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
        let read = match query.direction {
            Direction::Backward => read.before(query.from.idx).reverse(),
            Direction::Forward => read.from(query.from.idx),
        };
        let rows: Vec<EventRow> = self.store.all(read.limit(limit)).await?;
        let nums: Vec<_> = rows.iter().map(|row| row.event).collect();
        let events = self.rooms.events(room, None, &nums).await.map_err(error_map::rooms)?;
        let next = match (events.last(), query.direction) {
            (Some(event), Direction::Backward) => Place::before(event),
            (Some(event), Direction::Forward) => Place::after(event),
            (None, direction) => {
                self.rooms.beyond(room, query.from.fragment, direction).await.map_err(error_map::rooms)?
            }
        };
        Ok((events, next))
    }
}

//! `GET /_matrix/federation/v1/make_join/{roomId}/{userId}` and `PUT /_matrix/federation/{v1,v2}/send_join/{roomId}/
//! {eventId}` (`data/api/server-server/joins-v1.yaml`, `joins-v2.yaml`).

use std::sync::Arc;

use axum::response::Response;
use axum::routing::{get, put};
use axum::{Json, Router, extract};
use endpoint::{Error, Path, Query};
use rooms::remote::StateNums;
use rooms::state::Roots;
use rooms::{Event, Room};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Signed;
use super::error_map;
use super::events_body::EventsBody;
use crate::Federation;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/make_join/{room_id}/{user_id}", get(make_join))
        .route("/_matrix/federation/v1/send_join/{room_id}/{event_id}", put(send_join_v1))
        .route("/_matrix/federation/v2/send_join/{room_id}/{event_id}", put(send_join))
}

#[derive(Debug, Deserialize)]
struct MakeParameters {
    #[serde(default)]
    ver: Vec<String>,
}

async fn make_join(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, user_id)): Path<(String, String)>,
    Query(parameters): Query<MakeParameters>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let versions = if parameters.ver.is_empty() { vec!["1".to_owned()] } else { parameters.ver };
    federation.make_member(&request, &room_id, &user_id, "join", Some(&versions)).await.map(Json)
}

#[derive(Debug, Deserialize)]
struct SendParameters {
    #[serde(default)]
    omit_members: bool,
    #[serde(default, rename = "org.matrix.msc3706.partial_state")]
    partial_state: bool,
}

async fn send_join(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    Query(parameters): Query<SendParameters>,
    request: Signed,
) -> Result<Response, Error> {
    let omit = parameters.omit_members || parameters.partial_state;
    let body = join(&federation, &room_id, &event_id, request, omit).await?;
    Ok(body.respond())
}

/// The old form: the answer stands in a list, after a number.
async fn send_join_v1(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path((room_id, event_id)): Path<(String, String)>,
    request: Signed,
) -> Result<Response, Error> {
    let body = join(&federation, &room_id, &event_id, request, false).await?;
    Ok(body.respond_within("[200,", "]"))
}

async fn join(
    federation: &Arc<Federation>,
    room_id: &str,
    event_id: &str,
    request: Signed,
    omit_members: bool,
) -> Result<EventsBody, Error> {
    let origin = request.origin.clone();
    let before: Vec<String> = match federation.resident_room(room_id).await? {
        Some(room) => room.servers().into_iter().collect(),
        None => Vec::new(),
    };
    let (room, event) = federation.send_member(&origin, room_id, event_id, "join", &request.object()?).await?;
    let omit_members = omit_members && room.head().row.joined >= i64::from(federation.options.members_omitted_from);
    let roots = event.state_before().ok_or_else(|| Error::internal("an accepted join has no state before it"))?;
    let nums = match omit_members {
        true => without_members(federation, &room, &event, roots).await?,
        false => federation.rooms.nums_of_state(&room, roots).await.map_err(error_map::rooms)?,
    };
    let text = std::str::from_utf8(&event.pdu.bytes).map_err(Error::internal)?;
    let mut body = EventsBody::new(federation, &room)
        .member("origin", &json!(federation.rooms.server_name()).to_string())
        .member("members_omitted", if omit_members { "true" } else { "false" })
        .member("event", text);
    if omit_members {
        body = body.member("servers_in_room", &json!(before).to_string());
    }
    Ok(body.events("state", nums.state).events("auth_chain", nums.auth_chain))
}

/// The state without the memberships, and the auth chains of that and of the join.
async fn without_members(
    federation: &Federation,
    room: &Room,
    event: &Event,
    roots: Roots,
) -> Result<StateNums, Error> {
    let rest = Roots { members: Roots::EMPTY.members, rest: roots.rest };
    let mut nums = federation.rooms.nums_of_state(room, rest).await.map_err(error_map::rooms)?;
    let chain = federation.rooms.auth_chain(&room.id, &[event.id().clone()]).await.map_err(error_map::rooms)?;
    nums.auth_chain.extend(chain.iter().map(|event| event.num()));
    nums.auth_chain.sort_unstable();
    nums.auth_chain.dedup();
    Ok(nums)
}

//! Delayed events (MSC4140): `PUT /_matrix/client/v3/rooms/{roomId}/delayed_event/{eventType}/{txnId}`,
//! `POST /_matrix/client/v1/delayed_events/{delayId}/{action}` and `GET /_matrix/client/v1/delayed_events/{delayId}`.
//!
//! Clients that are older than these routes schedule with a query parameter of `/send` and `/state`, and decide under the
//! proposal's own name: there the delay id alone is enough, without an access token, so that a service which sees that
//! somebody has lost the connection to a call can end it. A request for the stable routes is the owner's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::routing::{get, post, put};
use axum::{Json, Router, extract};
use endpoint::requester::Origin;
use endpoint::{
    ClientAddress, Error, GuestRequester, OptionalRequester, Path, Query, RateClass, RawBody, Requester, error,
};
use event::Json as EventJson;
use futures_util::{StreamExt, stream};
use rooms::delayed::Outcome;
use rooms::state::MEMBER;
use rooms::{Delayed, NewDelayed, NewEvent};
use serde::Deserialize;
use serde_json::{Value, json};
use users::registration::GUEST;

use super::access::{check_type, parse_content, transaction};
use super::{room_send, room_state};
use crate::{Routes, State, error_map};

/// The name under which clients found this before it was part of the specification.
const UNSTABLE: &str = "/org.matrix.msc4140";
/// Delayed events that are taken up at a time.
const DUE_MAX: u32 = 1_000;
/// Rooms that get theirs side by side.
const ROOMS_MAX: usize = 16;
/// How long the sending of one event is waited for, and that of all joins and invites which are due.
const ONE_MAX: Duration = Duration::from_secs(5);
const MEMBERS_MAX: Duration = Duration::from_secs(10);
/// When to try again what fails for a reason that may pass, in milliseconds, and for how long after it was due.
const RETRY_MS: i64 = 10_000;
const RETRIED_MS_MAX: i64 = 60 * 60_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    let (schedule, one, decide) =
        ("/rooms/{room_id}/delayed_event/{event_type}/{txn_id}", "/delayed_events/{id}", "{action}");
    Router::new()
        .client(schedule, put(put_delayed))
        .unstable(&format!("{UNSTABLE}{schedule}"), put(put_delayed))
        .client_v1(one, get(get_one))
        .unstable(&format!("{UNSTABLE}{one}"), get(get_one).post(decide_by_body))
        .client_v1(&format!("{one}/{decide}"), post(decide_as_owner))
        .unstable(&format!("{UNSTABLE}{one}/{decide}"), post(decide_by_id))
        .unstable(&format!("{UNSTABLE}/delayed_events"), get(get_scheduled))
}

/// What the query of `/send` and `/state` says of when, and for how long.
#[derive(Debug, Deserialize)]
pub(super) struct Later {
    /// How much later, in milliseconds.
    #[serde(rename = "org.matrix.msc4140.delay")]
    pub delay_ms: Option<i64>,
    /// For how long the event is to be sticky, in milliseconds (MSC4354).
    #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
    sticky_ms: Option<i64>,
}

impl Later {
    /// For how long the event is to be sticky, if it is to be.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` for more than an hour, and less than nothing.
    pub fn sticky_ms(&self) -> Result<Option<i64>, Error> {
        match self.sticky_ms {
            Some(sticky_ms) if !(0..=event::STICKY_MS_MAX).contains(&sticky_ms) => {
                let most = event::STICKY_MS_MAX;
                Err(Error::invalid_param(format!("`sticky_duration_ms` must be between 0 and {most}.")))
            }
            sticky_ms => Ok(sticky_ms),
        }
    }
}

/// Schedules an event as clients do that know the query parameter.
///
/// # Errors
/// In the words that such clients know; else as [`put_delayed`].
pub(super) async fn schedule_by_query(
    state: &State,
    room_id: &str,
    new: NewEvent,
    delay_ms: i64,
) -> Result<Json<Value>, Error> {
    schedule(state, room_id, new, delay_ms, "`org.matrix.msc4140.delay`").await.map_err(|error| match error {
        Refused::Limits(rooms::Error::DelayTooLong(max_ms)) => Error::max_delay_exceeded(max_ms),
        Refused::Limits(rooms::Error::TooManyDelayed(_)) => Error::max_delayed_events_exceeded(),
        other => other.into(),
    })
}

/// Why nothing was scheduled.
enum Refused {
    Request(Error),
    Limits(rooms::Error),
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Request(error) => error,
            Refused::Limits(error) => error_map::rooms(error),
        }
    }
}

async fn schedule(
    state: &State,
    room_id: &str,
    new: NewEvent,
    delay_ms: i64,
    parameter: &str,
) -> Result<Json<Value>, Refused> {
    if delay_ms <= 0 {
        return Err(Refused::Request(Error::invalid_param(format!("{parameter} must be more than 0."))));
    }
    state.rooms.joined_room(room_id, &new.sender).await.map_err(Refused::Limits)?;
    let mut transaction = new.transaction;
    if let Some(transaction) = &mut transaction {
        // The answer is of another form than that to a request without delay.
        transaction.path.push_str("?delay");
    }
    let delayed = NewDelayed {
        sender: new.sender,
        room_id: room_id.to_owned(),
        kind: new.kind,
        state_key: new.state_key,
        content: new.content,
        delay_ms,
        sticky_ms: new.sticky_ms,
        transaction,
    };
    let delay_id = state.rooms.schedule(delayed).await.map_err(Refused::Limits)?;
    Ok(Json(json!({ "delay_id": delay_id })))
}

async fn put_delayed(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((room_id, kind, txn_id)): Path<(String, String, String)>,
    Query(later): Query<Later>,
    RawBody(bytes): RawBody,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::Messages, &requester)?;
    check_type(&kind)?;
    let mut body = parse_content(&bytes)?;
    let Some(delay_ms) = body.get("delay_ms").and_then(EventJson::as_i64) else {
        return Err(Error::bad_json("`delay_ms` must be a whole number."));
    };
    let Some(EventJson::Object(content)) = body.remove("content") else {
        return Err(Error::bad_json("`content` must be an object."));
    };
    let mut new = match body.remove("state_key") {
        None => NewEvent::message(&requester.user_id, &kind, content),
        Some(EventJson::String(state_key)) => {
            room_state::check_state_type(&kind)?;
            NewEvent::state(&requester.user_id, &kind, &state_key, content)
        }
        Some(_) => return Err(Error::bad_json("`state_key` must be a string.")),
    };
    let path = format!("/rooms/{room_id}/delayed_event/{kind}");
    new.transaction = Some(transaction(&requester, path, txn_id)?);
    new.sticky_ms = later.sticky_ms()?;
    Ok(schedule(&state, &room_id, new, delay_ms, "`delay_ms`").await?)
}

/// What can be decided about a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Restart,
    Send,
    Cancel,
}

impl Action {
    fn named(name: &str) -> Option<Self> {
        match name {
            "restart" => Some(Self::Restart),
            "send" => Some(Self::Send),
            "cancel" => Some(Self::Cancel),
            _ => None,
        }
    }
}

async fn decide_as_owner(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path((id, action)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let action = Action::named(&action).ok_or_else(Error::unrecognized)?;
    let delayed = own(&state, &requester, &id).await?;
    decide(&state, delayed, action, Error::delayed_event_finalised).await
}

async fn decide_by_id(
    OptionalRequester(requester): OptionalRequester,
    address: ClientAddress,
    extract::State(state): extract::State<State>,
    Path((id, action)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let action = Action::named(&action).ok_or_else(Error::unrecognized)?;
    let delayed = known(&state, requester.as_ref(), address, &id).await?;
    // What clients of this route know is that an event which cannot be decided about any more is not there.
    decide(&state, delayed, action, not_there).await
}

#[derive(Debug, Deserialize)]
struct Decision {
    action: Option<String>,
}

async fn decide_by_body(
    requester: OptionalRequester,
    address: ClientAddress,
    state: extract::State<State>,
    Path(id): Path<String>,
    endpoint::JsonBody(decision): endpoint::JsonBody<Decision>,
) -> Result<Json<Value>, Error> {
    let action = decision.action.ok_or_else(|| Error::missing_param("action"))?;
    if Action::named(&action).is_none() {
        return Err(Error::invalid_param("`action` must be `restart`, `send` or `cancel`."));
    }
    decide_by_id(requester, address, state, Path((id, action))).await
}

fn not_there() -> Error {
    Error::not_found("There is no such delayed event.")
}

/// A delayed event of the requester.
async fn own(state: &State, requester: &Requester, id: &str) -> Result<Delayed, Error> {
    state.door.limit(RateClass::DelayedEvents, requester)?;
    let delayed = state.rooms.delayed(id).await.map_err(error_map::rooms)?;
    delayed.filter(|delayed| delayed.row.user_id == requester.user_id).ok_or_else(not_there)
}

/// A delayed event whose id somebody knows. What is done to it counts for its owner, whoever does it; an address that
/// guesses ids may not do so for long.
async fn known(
    state: &State,
    requester: Option<&Requester>,
    address: ClientAddress,
    id: &str,
) -> Result<Delayed, Error> {
    state.door.check_address(RateClass::Requests, address)?;
    let Some(delayed) = state.rooms.delayed(id).await.map_err(error_map::rooms)? else {
        state.door.limit_address(RateClass::Requests, address)?;
        return Err(not_there());
    };
    if requester.is_none_or(|requester| requester.rate_limited) {
        state.door.limiter.take(RateClass::DelayedEvents, delayed.row.user_id.as_str())?;
    }
    Ok(delayed)
}

async fn decide(
    state: &State,
    delayed: Delayed,
    action: Action,
    otherwise: fn() -> Error,
) -> Result<Json<Value>, Error> {
    let now = match action {
        Action::Restart => state.rooms.restart(delayed).await.map_err(error_map::rooms)?,
        Action::Cancel => state.rooms.cancel(delayed).await.map_err(error_map::rooms)?,
        Action::Send if delayed.timer.is_some() => {
            limit(state, &delayed)?;
            send(state, &delayed).await?;
            return Ok(error::empty());
        }
        Action::Send => Some(delayed),
    };
    let now = now.ok_or_else(not_there)?;
    let done = match action {
        Action::Restart => now.timer.is_some(),
        Action::Cancel => now.timer.is_none() && now.row.event_id.is_none(),
        Action::Send => now.row.event_id.is_some(),
    };
    if done { Ok(error::empty()) } else { Err(otherwise()) }
}

async fn get_one(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    own(&state, &requester, &id).await.map(|delayed| Json(rendered(&delayed)))
}

async fn get_scheduled(
    GuestRequester(requester): GuestRequester,
    extract::State(state): extract::State<State>,
) -> Result<Json<Value>, Error> {
    state.door.limit(RateClass::DelayedEvents, &requester)?;
    let scheduled = state.rooms.scheduled(&requester.user_id).await.map_err(error_map::rooms)?;
    let scheduled: Vec<Value> = scheduled.iter().map(rendered).collect();
    Ok(Json(json!({ "delayed_events": scheduled })))
}

fn rendered(delayed: &Delayed) -> Value {
    let (row, since_ms) = (&delayed.row, delayed.since_ms());
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut rendered = json!({
        "delay_id": row.delay_id,
        "room_id": row.room_id,
        "type": row.kind,
        "content": parsed(&row.content),
        "delay_ms": row.delay_ms,
        "delayed_since_ts": since_ms,
        // As these were called before.
        "delay": row.delay_ms,
        "running_since": since_ms,
    });
    if let Some(state_key) = &row.state_key {
        rendered["state_key"] = state_key.as_str().into();
    }
    if let Some(finalised_ms) = row.finalised_ms {
        rendered["finalised"] = json!({ "finalised_ts": finalised_ms });
        if let Some(event_id) = &row.event_id {
            rendered["finalised"]["event_id"] = event_id.as_str().into();
        }
        if let Some(error) = &row.error {
            rendered["finalised"]["error"] = parsed(error);
        }
    }
    rendered
}

/// Sends what is due; to be called about once a second. Of a room's events each is sent after those that were due before.
/// Joins and invites come last and for a limited time, since other servers may be slow to answer: nobody's call goes on
/// because of them. What there was no time for stays due.
///
/// # Errors
/// When the store fails; what is due stays so.
pub async fn send_due(state: &State) -> Result<(), Error> {
    let due = state.rooms.due(DUE_MAX).await.map_err(error_map::rooms)?;
    let (members, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|delayed| delayed.row.kind == MEMBER);
    send_all(state, others).await?;
    match tokio::time::timeout(MEMBERS_MAX, send_all(state, members)).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(()),
    }
}

async fn send_all(state: &State, due: Vec<Delayed>) -> Result<(), Error> {
    let mut rooms: BTreeMap<String, Vec<Delayed>> = BTreeMap::new();
    for delayed in due {
        rooms.entry(delayed.row.room_id.clone()).or_default().push(delayed);
    }
    let mut sent = stream::iter(rooms.into_values())
        .map(async |due| {
            for delayed in due {
                send_now_due(state, &delayed).await?;
            }
            Ok::<(), Error>(())
        })
        .buffer_unordered(ROOMS_MAX);
    while let Some(outcome) = sent.next().await {
        outcome?;
    }
    Ok(())
}

/// Sends one event, or notes why that cannot be done, or tries again later.
async fn send_now_due(state: &State, delayed: &Delayed) -> Result<(), Error> {
    let outcome = match limit(state, delayed) {
        // Who has sent too much learns of it when asking, and must send again (MSC4140).
        Err(refusal) => Err((false, refusal)),
        Ok(()) => match tokio::time::timeout(ONE_MAX, send(state, delayed)).await {
            Ok(sent) => sent.map_err(|error| (may_pass(&error), error)),
            Err(_) => Err((true, Error::connection_timeout("Another server does not answer."))),
        },
    };
    let Err((passes, error)) = outcome else { return Ok(()) };
    let due_ms = delayed.since_ms().saturating_add(delayed.row.delay_ms);
    let noted = if passes && state.clock.now_ms().saturating_sub(due_ms) < RETRIED_MS_MAX {
        state.rooms.postpone(delayed, RETRY_MS).await
    } else {
        state.rooms.finalise(delayed, Outcome::Failed(&error.body().to_string())).await
    };
    noted.map_err(error_map::rooms)
}

/// Whether what failed may succeed later without anybody's doing.
fn may_pass(error: &Error) -> bool {
    error.status.is_server_error() || error.retry_after_s.is_some()
}

/// Counts a delayed event as one that its sender sends now.
fn limit(state: &State, delayed: &Delayed) -> Result<(), Error> {
    state.door.limiter.take(RateClass::Messages, delayed.row.user_id.as_str())
}

/// Sends a delayed event as if its sender did so now: by the same ways, with the same checks.
async fn send(state: &State, delayed: &Delayed) -> Result<(), Error> {
    let requester = sender(state, delayed).await?;
    let row = &delayed.row;
    let content = delayed.content().map_err(error_map::rooms)?;
    let mut new = NewEvent::message(&row.user_id, &row.kind, content);
    new.state_key.clone_from(&row.state_key);
    new.sticky_ms = row.sticky_ms;
    new.delayed = Some(Box::new(delayed.clone()));
    let event_id = if new.state_key.is_some() {
        room_state::set(state, &requester, &row.room_id, new).await?
    } else {
        requester.not_suspended()?;
        room_send::send_event(state, &row.room_id, new).await?
    };
    if row.kind == MEMBER {
        // Joins and invites have ways of their own, on which the delay does not end with the event.
        state.rooms.finalise(delayed, Outcome::Sent(&event_id)).await.map_err(error_map::rooms)?;
    }
    Ok(())
}

/// The owner of a delayed event, as who asks that it be sent. It does not matter whether the device is still there: who
/// has logged out has not taken back what was scheduled.
async fn sender(state: &State, delayed: &Delayed) -> Result<Requester, Error> {
    let account = state.users.account(&delayed.row.user_id).await.map_err(error_map::users)?;
    let account = account.filter(|account| !account.deactivated).ok_or_else(Error::user_deactivated)?;
    if account.locked {
        return Err(Error::user_locked());
    }
    Ok(Requester {
        guest: account.kind == GUEST,
        user_id: account.user_id,
        device_id: None,
        admin: account.admin,
        locked: false,
        suspended: account.suspended,
        rate_limited: true,
        oauth: false,
        token: "".into(),
        origin: Origin { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), user_agent: String::new() },
    })
}

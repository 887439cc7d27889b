//! `POST /_matrix/client/v3/createRoom` (`data/api/client-server/create_room.yaml`).

use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, JsonBody, RateClass, Requester};
use event::{Json as EventJson, Object};
use federation::Remote;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use rooms::aliases::is_alias_localpart;
use rooms::{CreateRoom, Rooms};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use store::UserId;

use super::access::parse_user;
use super::people;
use crate::{Routes, State, error_map};

/// Most users that one request invites.
const INVITES_MAX: usize = 100;
/// Invites that are on their way to other servers at a time.
const INVITES_AT_ONCE: usize = 8;
/// How long an answer waits for them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most state events that one request brings.
const INITIAL_STATE_MAX: usize = 1_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/createRoom", post(create_room))
}

#[derive(Debug, Deserialize)]
struct Body {
    visibility: Option<Visibility>,
    room_alias_name: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    invite: Option<Vec<String>>,
    invite_3pid: Option<Vec<IgnoredAny>>,
    room_version: Option<String>,
    creation_content: Option<EventJson>,
    initial_state: Option<Vec<StateEvent>>,
    preset: Option<Preset>,
    is_direct: Option<bool>,
    power_level_content_override: Option<EventJson>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Private,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Preset {
    #[serde(rename = "private_chat")]
    Private,
    #[serde(rename = "public_chat")]
    Public,
    #[serde(rename = "trusted_private_chat")]
    TrustedPrivate,
}

#[derive(Debug, Deserialize)]
struct StateEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    content: EventJson,
}

async fn create_room(
    requester: Requester,
    extract::State(state): extract::State<State>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    requester.not_suspended()?;
    state.door.limit(RateClass::RoomCreations, &requester)?;
    let request = checked(&state, &requester, body).await?;
    for _ in request.invite.iter().filter(|user| !state.rooms.is_local(user)) {
        state.door.limit(RateClass::Invites, &requester)?;
    }
    let room_id = state.rooms.create_room(&request).await.map_err(error_map::rooms)?;
    if let Some(remote) = state.remote.clone()
        && request.invite.iter().any(|user| !state.rooms.is_local(user))
    {
        // They go on when the client has lost its patience, or its connection.
        let (done, invited) = tokio::sync::oneshot::channel();
        let invites = invite_remote(Arc::clone(&remote), Arc::clone(&state.rooms), request, room_id.clone());
        (remote.spawner)(Box::pin(invites.map(|()| done.send(()).unwrap_or_default())));
        drop(tokio::time::timeout(PATIENCE, invited).await);
    }
    Ok(Json(json!({ "room_id": room_id })))
}

/// Invites those users to the new room who are of other servers, several at a time.
async fn invite_remote(remote: Arc<Remote>, rooms: Arc<Rooms>, request: CreateRoom, room_id: String) {
    let mut invites = FuturesUnordered::new();
    for user in &request.invite {
        if rooms.is_local(user) {
            continue;
        }
        if invites.len() >= INVITES_AT_ONCE {
            let _: Option<()> = invites.next().await;
        }
        invites.push(invite_one(&remote, &request, &room_id, user));
    }
    while invites.next().await.is_some() {}
}

/// A failed invite does not lose the room; the creator can invite again.
async fn invite_one(remote: &Remote, request: &CreateRoom, room_id: &str, user: &UserId) {
    let mut content = Object::new();
    if request.is_direct {
        content.insert("is_direct".to_owned(), EventJson::Bool(true));
    }
    if let Err(error) = remote.handshakes.invite(room_id, &request.creator, user, content).await {
        tracing::info!(room_id, %user, %error, "a user of another server could not be invited to a new room");
    }
}

async fn checked(state: &State, requester: &Requester, body: Body) -> Result<CreateRoom, Error> {
    if body.invite_3pid.is_some_and(|invites| !invites.is_empty()) {
        return Err(Error::threepid_denied("This server sends no invites to third-party identifiers."));
    }
    if body.room_alias_name.as_deref().is_some_and(|name| !is_alias_localpart(name)) {
        return Err(Error::invalid_param("`room_alias_name` cannot be the local part of an alias."));
    }
    let initial_state = body.initial_state.unwrap_or_default();
    if initial_state.len() > INITIAL_STATE_MAX {
        return Err(Error::invalid_param(format!("`initial_state` may have {INITIAL_STATE_MAX} events.")));
    }
    let initial_state = initial_state
        .into_iter()
        .map(|event| Ok((event.kind, event.state_key, required("initial_state.content", event.content)?)))
        .collect::<Result<_, Error>>()?;
    let published = body.visibility == Some(Visibility::Public);
    let preset = match body.preset {
        Some(Preset::Public) => rooms::Preset::PublicChat,
        Some(Preset::Private) => rooms::Preset::PrivateChat,
        Some(Preset::TrustedPrivate) => rooms::Preset::TrustedPrivateChat,
        None if published => rooms::Preset::PublicChat,
        None => rooms::Preset::PrivateChat,
    };
    let overridden = body.power_level_content_override;
    Ok(CreateRoom {
        creator: requester.user_id.clone(),
        version: body.room_version,
        preset,
        published,
        alias_localpart: body.room_alias_name,
        name: body.name,
        topic: body.topic,
        invite: invitees(state, body.invite.unwrap_or_default()).await?,
        creation_content: object("creation_content", body.creation_content.unwrap_or_default())?,
        initial_state,
        is_direct: body.is_direct.unwrap_or(false),
        power_level_content_override: overridden
            .map(|content| object("power_level_content_override", content))
            .transpose()?,
        creator_profile: people::member_profile(state, &requester.user_id).await?,
        predecessor: None,
    })
}

/// The invited users; those who take no invites are left out, as any invite that fails.
async fn invitees(state: &State, named: Vec<String>) -> Result<Vec<UserId>, Error> {
    if named.len() > INVITES_MAX {
        return Err(Error::invalid_param(format!("`invite` may name {INVITES_MAX} users.")));
    }
    let mut invitees = Vec::with_capacity(named.len());
    for name in named {
        let user = parse_user(&name)?;
        if !invitees.contains(&user) && !people::blocks_invites(state, &user).await? {
            invitees.push(user);
        }
    }
    Ok(invitees)
}

/// Null stands for what is not given.
fn object(name: &str, json: EventJson) -> Result<Object, Error> {
    match json {
        EventJson::Null => Ok(Object::new()),
        json => required(name, json),
    }
}

fn required(name: &str, json: EventJson) -> Result<Object, Error> {
    match json {
        EventJson::Object(object) => Ok(object),
        _ => Err(Error::bad_json(format!("`{name}` must be an object."))),
    }
}

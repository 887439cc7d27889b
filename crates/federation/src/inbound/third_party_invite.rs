//! `PUT /_matrix/federation/v1/3pid/onbind` and `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
//! (`data/api/server-server/third_party_invite.yaml`; behaviour FJ11).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, Path, body, read_body};
use event::{Json as EventJson, Object};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;

use super::access::Signed;
use super::error_map;
use crate::Federation;
use crate::handshakes::ThirdPartyInvite;

/// Bytes of what an identity server tells, who may be anybody.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long the invites of one identifier may take together.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Invites of one identifier that are looked at.
const INVITES_MAX: usize = 50;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/3pid/onbind", put(onbind))
        .route("/_matrix/federation/v1/exchange_third_party_invite/{room_id}", put(exchange))
}

#[derive(Debug, Deserialize)]
struct Bound {
    mxid: String,
    invites: Vec<BoundInvite>,
}

#[derive(Debug, Deserialize)]
struct BoundInvite {
    mxid: String,
    room_id: String,
    sender: String,
    signed: serde_json::Map<String, Value>,
}

/// An identity server says whose an identifier is. Nothing is believed of it here: an invite comes of this only if its
/// signature is by a key of the offer in the room's state, which the inviting server checks.
async fn onbind(extract::State(federation): extract::State<Arc<Federation>>, body: Body) -> Result<Json<Value>, Error> {
    let bytes = read_body(body, BODY_BYTES_MAX).await?;
    let bound: Bound = body::parse_json(&bytes)?;
    let target = event::ids::is_user_id(&bound.mxid).then(|| UserId::from(bound.mxid.as_str()));
    let target = target.filter(|target| federation.users.is_local(target));
    let target = target.ok_or_else(|| Error::invalid_param("`mxid` is no user of this server."))?;
    if bound.invites.len() > INVITES_MAX {
        return Err(Error::too_large(format!("One identifier may have {INVITES_MAX} invites.")));
    }
    if !federation.users.is_active(&target).await.map_err(error_map::users)? {
        return Ok(Json(json!({})));
    }
    let ignored = federation.users.ignored(&target).await.map_err(error_map::users)?;
    let invites = bound.invites.into_iter().filter_map(|invite| invite.checked(&target));
    let wanted = invites.filter(|invite| !ignored.contains(invite.sender.as_str())).collect();
    // Anybody may ask this: what is not done in time is left.
    if tokio::time::timeout(TIMEOUT, redeem(&federation, wanted)).await.is_err() {
        tracing::info!(%target, "third-party invites were left, since other servers do not answer");
    }
    Ok(Json(json!({})))
}

async fn redeem(federation: &Federation, invites: Vec<ThirdPartyInvite>) {
    for invite in invites {
        if let Err(error) = federation.handshakes.redeem(&invite).await {
            tracing::info!(room_id = invite.room_id, %error, "a third-party invite did not become an invite");
        }
    }
}

impl BoundInvite {
    /// `None` if it is for somebody else, or nobody can have sent it.
    fn checked(self, target: &UserId) -> Option<ThirdPartyInvite> {
        let Self { mxid, room_id, sender, signed } = self;
        let good = mxid == target.as_str() && event::ids::is_user_id(&sender) && room_id.starts_with('!');
        let EventJson::Object(signed) = EventJson::from(Value::Object(signed)) else { return None };
        let sender = UserId::from(sender);
        (good && is_for(&signed, target)).then(|| ThirdPartyInvite { room_id, sender, target: target.clone(), signed })
    }
}

/// Another server asks for the invite that a user of this one has offered to a user of theirs.
async fn exchange(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(room_id): Path<String>,
    request: Signed,
) -> Result<Json<Value>, Error> {
    let origin = request.origin.clone();
    let event = request.clone().object()?;
    let invite = partial_invite(&event, &room_id)?;
    request.check_owns(invite.target.as_str())?;
    if !federation.users.is_local(&invite.sender) {
        return Err(refused("its sender is of another server"));
    }
    federation.whole_room_to_enter(&origin, &room_id).await?;
    federation.handshakes.issue(&invite).await.map_err(failed)?;
    Ok(Json(json!({})))
}

/// That the partial event is an invite as the path says.
fn partial_invite(event: &Object, room_id: &str) -> Result<ThirdPartyInvite, Error> {
    let text = |name: &str| event.get(name).and_then(EventJson::as_str).ok_or_else(|| Error::missing_param(name));
    if text("type")? != "m.room.member" {
        return Err(refused("it is no member event"));
    }
    if text("room_id")? != room_id {
        return Err(refused("it is of another room"));
    }
    let (sender, target) = (text("sender")?, text("state_key")?);
    if !event::ids::is_user_id(sender) || !event::ids::is_user_id(target) {
        return Err(refused("its sender or its target is no user id"));
    }
    let content = event.get("content").ok_or_else(|| Error::missing_param("content"))?;
    if content.get("membership").and_then(EventJson::as_str) != Some("invite") {
        return Err(refused("it is no invite"));
    }
    let signed = content.get("third_party_invite").and_then(|invite| invite.get("signed")?.as_object());
    let signed = signed.ok_or_else(|| Error::missing_param("third_party_invite"))?.clone();
    let (sender, target) = (UserId::from(sender), UserId::from(target));
    if !is_for(&signed, &target) {
        return Err(refused("what is signed is for somebody else"));
    }
    Ok(ThirdPartyInvite { room_id: room_id.to_owned(), sender, target, signed })
}

fn is_for(signed: &Object, target: &UserId) -> bool {
    let text = |name: &str| signed.get(name).and_then(EventJson::as_str);
    text("mxid") == Some(target.as_str()) && text("token").is_some()
}

fn refused(reason: &str) -> Error {
    Error::invalid_param(format!("The invite is refused: {reason}."))
}

/// What went wrong between this server and the identity server or the invited user's lies with neither side here.
fn failed(error: crate::Error) -> Error {
    match error {
        crate::Error::Rooms(error) => error_map::rooms(error),
        crate::Error::Users(error) => error_map::users(error),
        crate::Error::Store(error) => error.into(),
        other => Error::unknown(StatusCode::BAD_GATEWAY, other.to_string()),
    }
}

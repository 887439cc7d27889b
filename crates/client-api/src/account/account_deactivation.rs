//! `POST /_matrix/client/v3/account/deactivate`
//! (<https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate>; behaviour CA8).

use axum::routing::post;
use axum::{Json, Router, extract};
use endpoint::{Error, OptionalBody, RateClass, Requester};
use serde::Deserialize;
use serde_json::{Value, json};
use store::UserId;

use super::typed;
use super::uia::{BY_PASSWORD, Body, Target, prove};
use crate::{Routes, State, error_map};

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/account/deactivate", post(deactivate))
}

#[derive(Debug, Deserialize)]
struct Deactivation {
    #[serde(default)]
    erase: bool,
}

async fn deactivate(
    extract::State(state): extract::State<State>,
    requester: Requester,
    target: Target,
    OptionalBody(body): Body,
) -> Result<Json<Value>, Error> {
    let deactivation: Deactivation = typed(&body)?;
    state.door.limit(RateClass::Logins, &requester)?;
    prove(&state, BY_PASSWORD, &target, Some(&requester.user_id), &body).await?;
    state.users.deactivate(&requester.user_id, deactivation.erase).await.map_err(error_map::users)?;
    leave_all(&state, &requester.user_id).await?;
    // No third-party identifiers are kept, so none is left bound.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

/// Leaves every room and rejects every invite.
pub(super) async fn leave_all(state: &State, user: &UserId) -> Result<(), Error> {
    let memberships = state.rooms.memberships(user).await.map_err(error_map::rooms)?;
    let open = |membership: &str| matches!(membership, "join" | "invite" | "knock");
    for row in memberships.into_iter().filter(|row| open(&row.membership)) {
        let Some(room) = state.rooms.room_by_num(row.room).await.map_err(error_map::rooms)? else { continue };
        if let Err(cause) = state.rooms.leave(&room.id, user, None).await {
            tracing::warn!(%cause, room = room.id, "a deactivated user could not leave");
        }
    }
    Ok(())
}

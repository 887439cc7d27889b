//! `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
//! (<https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid>; behaviour CE10).

use std::collections::BTreeMap;

use axum::routing::put;
use axum::{Json, Router, extract};
use endpoint::{Error, GuestRequester, JsonBody, Path, error};
use event::MAX_ID_BYTES;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::{DeviceId, UserId};
use users::to_device::Messages;

use crate::room::access::check_txn_id;
use crate::{Routes, State, error_map};

/// Messages that one request sends.
const MESSAGES_MAX: usize = 10_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/sendToDevice/{kind}/{txn_id}", put(send))
}

#[derive(Debug, Deserialize)]
struct Body {
    messages: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
}

async fn send(
    extract::State(state): extract::State<State>,
    GuestRequester(requester): GuestRequester,
    Path((kind, txn_id)): Path<(String, String)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Value>, Error> {
    check_txn_id(&txn_id)?;
    if kind.len() > MAX_ID_BYTES {
        return Err(Error::invalid_param(format!("`eventType` may have {MAX_ID_BYTES} bytes.")));
    }
    if body.messages.values().map(BTreeMap::len).sum::<usize>() > MESSAGES_MAX {
        return Err(Error::too_large("Too many messages at once."));
    }
    let text = |contents: BTreeMap<String, Map<String, Value>>| {
        contents.into_iter().map(|(device, content)| (device, Value::Object(content).to_string())).collect()
    };
    let messages: Messages = body
        .messages
        .into_iter()
        .map(|(user, contents)| (UserId::from(user), text(contents)))
        .filter(|(user, _)| is_reached(&state, user))
        .collect();
    let device = requester.device_id.clone().unwrap_or_else(|| DeviceId::from(""));
    let users = &state.users;
    users
        .send_to_device(&requester.user_id, &kind, Some((&device, &txn_id)), &messages)
        .await
        .map_err(error_map::users)?;
    Ok(error::empty())
}

/// Whether messages to a user have a way: they are not stored for servers that they can never be sent to.
fn is_reached(state: &State, user: &UserId) -> bool {
    let permits = |server: &str| state.remote.as_ref().is_some_and(|remote| remote.client.reach().permits(server));
    state.users.is_local(user) || permits(user.server_name())
}

//! Where a request needs another server: aliases, joins, invites and profiles that are elsewhere.

use std::sync::Arc;

use endpoint::Error;
use event::{Json, Object};
use federation::Remote;
use http::StatusCode;
use rooms::aliases::is_alias;
use rooms::timeline::{Direction, Page, PageQuery};
use rooms::{Event, Room};
use store::UserId;

use crate::{State, error_map};

/// The errors of other servers as answers to clients. What only servers say to each other becomes a 502.
pub fn error(error: federation::Error) -> Error {
    use federation::Error as E;
    let text = error.to_string();
    match error {
        E::Rooms(error) => error_map::rooms(error),
        E::Users(error) => error_map::users(error),
        E::Store(error) => error.into(),
        E::Denied(_) => Error::forbidden(text),
        E::Remote { status, errcode, message, body, .. } => refusal(status, &errcode, message, &body),
        _ => Error::unknown(StatusCode::BAD_GATEWAY, text),
    }
}

/// As [`error`], where a user of the other server was to be invited: it is that server which lacks the room's version.
pub fn invite_error(failed: federation::Error) -> Error {
    match failed {
        federation::Error::Remote { errcode, .. } if errcode == "M_INCOMPATIBLE_ROOM_VERSION" => {
            Error::unsupported_room_version()
        }
        failed => error(failed),
    }
}

/// What another server refused, with its own code where the client-server API knows it for the same thing.
fn refusal(status: StatusCode, errcode: &str, message: String, body: &serde_json::Value) -> Error {
    match (status, errcode) {
        (StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION") => {
            let version = body.get("room_version").and_then(serde_json::Value::as_str).unwrap_or_default();
            Error::incompatible_room_version(version)
        }
        (StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN") => Error::unable_to_authorise_join(message),
        (StatusCode::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN") => Error::unable_to_grant_join(message),
        (StatusCode::FORBIDDEN, "M_INVITE_BLOCKED") => Error::invite_blocked(),
        (StatusCode::FORBIDDEN, _) => Error::forbidden(message),
        (StatusCode::NOT_FOUND, _) => Error::not_found(message),
        _ => Error::unknown(StatusCode::BAD_GATEWAY, message),
    }
}

/// The room that an id or an alias names, and servers that are in it; an alias of another server is asked for there.
///
/// # Errors
/// `M_NOT_FOUND` for an unknown alias, `M_INVALID_PARAM` for what is neither.
pub async fn resolve(state: &State, id_or_alias: &str) -> Result<(String, Vec<String>), Error> {
    let elsewhere = event::ids::domain(id_or_alias).filter(|server| *server != state.rooms.server_name());
    match (&state.remote, elsewhere) {
        (Some(remote), Some(server)) if is_alias(id_or_alias) && event::ids::is_server_name(server) => {
            let (room, mut servers) = remote.client.query_directory(server, id_or_alias).await.map_err(error)?;
            if !servers.iter().any(|known| known == server) {
                servers.push(server.to_owned());
            }
            Ok((room, servers))
        }
        _ => state.rooms.resolve_alias(id_or_alias).await.map_err(error_map::rooms),
    }
}

/// The way to a room of which this server has no member: other servers, and whom to ask.
pub struct Way {
    /// Other servers.
    pub remote: Arc<Remote>,
    /// Servers that may be in the room.
    pub via: Vec<String>,
}

/// The way to a room for a user, if this server is not in the room. The server of whoever invited the user comes first.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn way_to(state: &State, room_id: &str, user: &UserId, via: &[String]) -> Result<Option<Way>, Error> {
    let Some(remote) = &state.remote else { return Ok(None) };
    let room = state.rooms.room(room_id).await.map_err(error_map::rooms)?;
    if room.is_some_and(|room| room.has_server(state.rooms.server_name())) {
        return Ok(None);
    }
    let mut servers: Vec<String> = Vec::new();
    if let Some(row) = state.rooms.any_membership(room_id, user).await.map_err(error_map::rooms)? {
        servers.push(row.sender.server_name().to_owned());
    }
    servers.extend(via.iter().cloned());
    Ok(Some(Way { remote: Arc::clone(remote), via: servers }))
}

/// A member event's content with the reason that the user gives.
pub fn with_reason(mut content: Object, reason: Option<&str>) -> Object {
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), Json::from(reason));
    }
    content
}

/// Where a page back in time came to a place where history is missing, asks the servers in the room for it. True if
/// something came, so that the page is to be read again.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn fill_history(state: &State, room: &Room, query: PageQuery, page: &Page) -> Result<bool, Error> {
    let Some(remote) = &state.remote else { return Ok(false) };
    let crossed = page.events.iter().any(|event| event.row.fragment != Some(query.from.fragment));
    let short = page.events.len() < query.limit;
    if query.direction != Direction::Backward || !(short || crossed) {
        return Ok(false);
    }
    remote.federation.fill_history(room, query.from, query.limit).await.map_err(error)
}

/// Where the search for an event by its time came to a place where history is missing, fetches that if other servers
/// know an event there that is nearer to the time. True if something came, so that the search is to be made again.
///
/// # Errors
/// `M_UNKNOWN` when the store fails.
pub async fn fetch_by_time(
    state: &State,
    room: &Room,
    ts: i64,
    direction: Direction,
    found: Option<&Event>,
) -> Result<bool, Error> {
    let Some(remote) = &state.remote else { return Ok(false) };
    let behind = state.rooms.gap_beside(room, found, direction).await.map_err(error_map::rooms)?;
    let Some(behind) = behind else { return Ok(false) };
    let known_ts = found.map(|event| event.row.ts);
    remote.federation.fetch_by_time(room, ts, direction, known_ts, behind).await.map_err(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cr31_a_version_that_the_invitees_server_lacks_is_told_as_such() {
        let refused = || federation::Error::Remote {
            server: "two.test".to_owned(),
            status: StatusCode::BAD_REQUEST,
            errcode: "M_INCOMPATIBLE_ROOM_VERSION".to_owned(),
            message: "No.".to_owned(),
            body: json!({ "room_version": "12" }),
        };
        let told = |error: Error| (error.status.as_u16(), error.errcode);
        assert_eq!(told(invite_error(refused())), (400, "M_UNSUPPORTED_ROOM_VERSION"));
        assert_eq!(told(error(refused())), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
    }
}

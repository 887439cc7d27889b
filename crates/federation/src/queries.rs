//! What this server asks others on behalf of its users: aliases, profiles, public rooms, devices and keys, spaces, events
//! by time (server-server API, "Querying for information", "End-to-End Encryption", "Public Room Directory").

use std::collections::BTreeMap;
use std::time::Duration;

use event::{Json, Object};
use http::Method;

use crate::client::{Client, path};
use crate::transport::Limits;
use crate::{Error, Result};

/// A question that a person waits for.
const QUICK: Limits = Limits { timeout: Duration::from_secs(15), body_bytes_max: 4 << 20 };
/// Answers that may be long.
const LONG: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 32 << 20 };
/// Descriptions of rooms.
const DESCRIPTIONS: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 4 << 20 };
/// Servers that one alias may name.
const SERVERS_MAX: usize = 50;

impl Client {
    /// The room that an alias of another server names, and servers that are in it.
    ///
    /// # Errors
    /// [`Error::Remote`] with 404 for an unknown alias.
    pub async fn query_directory(&self, server: &str, alias: &str) -> Result<(String, Vec<String>)> {
        let path = path("/_matrix/federation/v1/query/directory", &[], &[("room_alias", alias)]);
        let answer = self.json(server, Method::GET, &path, None, QUICK).await?;
        let room_id = answer.get("room_id").and_then(Json::as_str).filter(|id| id.starts_with('!'));
        let room_id = room_id.ok_or_else(|| malformed(server, "`room_id` is missing"))?.to_owned();
        let servers = answer.get("servers").and_then(Json::as_array).unwrap_or_default();
        let servers = servers.iter().filter_map(Json::as_str).filter(|name| event::ids::is_server_name(name));
        Ok((room_id, servers.take(SERVERS_MAX).map(str::to_owned).collect()))
    }

    /// A user's profile, or one field of it.
    ///
    /// # Errors
    /// [`Error::Remote`] with 404 for an unknown user or field.
    pub async fn query_profile(&self, server: &str, user: &str, field: Option<&str>) -> Result<Object> {
        let mut query = vec![("user_id", user)];
        query.extend(field.map(|field| ("field", field)));
        let path = path("/_matrix/federation/v1/query/profile", &[], &query);
        self.json(server, Method::GET, &path, None, QUICK).await
    }

    /// The public rooms of another server, with a body as `POST /publicRooms` takes it.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn query_public_rooms(&self, server: &str, body: &Object) -> Result<Object> {
        self.json(server, Method::POST, "/_matrix/federation/v1/publicRooms", Some(body), DESCRIPTIONS).await
    }

    /// The device keys and cross-signing keys of another server's users: devices by user, none for all of a user's.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn query_keys(&self, server: &str, wanted: &BTreeMap<String, Vec<String>>) -> Result<Object> {
        let list = |devices: &Vec<String>| Json::Array(devices.iter().map(|id| Json::from(id.as_str())).collect());
        let wanted: Object = wanted.iter().map(|(user, devices)| (user.clone(), list(devices))).collect();
        let body = Object::from([("device_keys".to_owned(), Json::Object(wanted))]);
        self.json(server, Method::POST, "/_matrix/federation/v1/user/keys/query", Some(&body), LONG).await
    }

    /// Claims one-time keys of another server's users: algorithm by device by user.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn claim_keys(&self, server: &str, wanted: Object) -> Result<Object> {
        let body = Object::from([("one_time_keys".to_owned(), Json::Object(wanted))]);
        self.json(server, Method::POST, "/_matrix/federation/v1/user/keys/claim", Some(&body), LONG).await
    }

    /// All devices of another server's user, with the position of their list.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn query_devices(&self, server: &str, user: &str) -> Result<Object> {
        let path = path("/_matrix/federation/v1/user/devices", &[user], &[]);
        self.json(server, Method::GET, &path, None, LONG).await
    }

    /// One step of a space's hierarchy.
    ///
    /// # Errors
    /// [`Error::Remote`] with 404 if that server does not know the room or does not tell.
    pub async fn query_hierarchy(&self, server: &str, room_id: &str, suggested_only: bool) -> Result<Object> {
        let only = if suggested_only { "true" } else { "false" };
        let path = path("/_matrix/federation/v1/hierarchy", &[room_id], &[("suggested_only", only)]);
        self.json(server, Method::GET, &path, None, DESCRIPTIONS).await
    }

    /// The event closest to a time: (event id, its time in milliseconds since the epoch).
    ///
    /// # Errors
    /// [`Error::Remote`] with 404 if there is none.
    pub async fn query_timestamp(
        &self,
        server: &str,
        room_id: &str,
        ts: i64,
        direction: &str,
    ) -> Result<(String, i64)> {
        let query = [("ts", ts.to_string()), ("dir", direction.to_owned())];
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let path = path("/_matrix/federation/v1/timestamp_to_event", &[room_id], &query);
        let answer = self.json(server, Method::GET, &path, None, QUICK).await?;
        let id = answer.get("event_id").and_then(Json::as_str);
        let ts = answer.get("origin_server_ts").and_then(Json::as_i64);
        let (Some(id), Some(ts)) = (id, ts) else { return Err(malformed(server, "event id or time are missing")) };
        Ok((id.to_owned(), ts))
    }
}

fn malformed(server: &str, reason: &str) -> Error {
    Error::Malformed { server: server.to_owned(), reason: reason.to_owned() }
}

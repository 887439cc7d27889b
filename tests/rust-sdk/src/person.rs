//! Somebody who speaks plain HTTP with the server: the others in the stories, and what the SDK's user does on another
//! device.

use hmac::{Hmac, Mac};
use matrix_sdk::reqwest::{self, Method};
use matrix_sdk::ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::checks::{Fallible, ensure};
use crate::hearth::{Hearth, SHARED_SECRET};

/// Everybody's password.
pub const PASSWORD: &str = "a password for everybody in these stories";

/// An account with a session.
pub struct Person {
    http: reqwest::Client,
    base_url: String,
    /// The user's id.
    pub id: OwnedUserId,
    token: String,
    sent: std::cell::Cell<u32>,
}

impl Person {
    /// Registers an account with the secret that the server shares.
    pub async fn register(hearth: &Hearth, name: &str) -> Fallible<Self> {
        let (http, base_url) = (reqwest::Client::new(), hearth.base_url());
        let url = format!("{base_url}/_synapse/admin/v1/register");
        let offered: Value = serde_json::from_slice(&http.get(&url).send().await?.bytes().await?)?;
        let nonce = offered["nonce"].as_str().ok_or("no nonce")?;
        let mut mac = Hmac::<Sha1>::new_from_slice(SHARED_SECRET.as_bytes())?;
        mac.update([nonce, name, PASSWORD, "notadmin"].join("\0").as_bytes());
        let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = json!({ "nonce": nonce, "username": name, "password": PASSWORD, "admin": false, "mac": mac });
        let answer = http.post(&url).body(body.to_string()).send().await?;
        let registered: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let text = |key: &str| registered[key].as_str().ok_or_else(|| format!("no {key} in {registered}"));
        let (id, token) = (UserId::parse(text("user_id")?)?, text("access_token")?.to_owned());
        Ok(Self { http, base_url, id, token, sent: std::cell::Cell::new(0) })
    }

    /// The same user with another session's token.
    pub fn with_token(&self, token: &str) -> Self {
        let (http, base_url, id) = (self.http.clone(), self.base_url.clone(), self.id.clone());
        Self { http, base_url, id, token: token.to_owned(), sent: std::cell::Cell::new(0) }
    }

    /// Asks the server, whose answer must be a success.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Fallible<Value> {
        let url = format!("{}/_matrix/client/{path}", self.base_url);
        let request = self.http.request(method, url).bearer_auth(&self.token).body(body.to_string());
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure(status.is_success(), || format!("{path}: {status} {text}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Creates a room.
    pub async fn create_room(&self, body: &Value) -> Fallible<OwnedRoomId> {
        let answer = self.ask(Method::POST, "v3/createRoom", body).await?;
        Ok(RoomId::parse(answer["room_id"].as_str().ok_or("no room id")?)?)
    }

    /// Creates rooms with numbers as their names, `00` first. `guests` are invited.
    pub async fn create_rooms(&self, count: usize, guests: &[&Person]) -> Fallible<Vec<OwnedRoomId>> {
        let invite: Vec<&UserId> = guests.iter().map(|guest| &*guest.id).collect();
        let mut rooms = Vec::new();
        for number in 0..count {
            let body = json!({ "preset": "private_chat", "name": format!("{number:02}"), "invite": invite });
            rooms.push(self.create_room(&body).await?);
        }
        Ok(rooms)
    }

    /// Joins a room.
    pub async fn join(&self, room: &RoomId) -> Fallible {
        self.ask(Method::POST, &format!("v3/rooms/{room}/join"), &json!({})).await.map(drop)
    }

    /// Invites somebody.
    pub async fn invite(&self, room: &RoomId, guest: &UserId) -> Fallible {
        self.ask(Method::POST, &format!("v3/rooms/{room}/invite"), &json!({ "user_id": guest })).await.map(drop)
    }

    /// Takes an invite back.
    pub async fn uninvite(&self, room: &RoomId, guest: &UserId) -> Fallible {
        self.ask(Method::POST, &format!("v3/rooms/{room}/kick"), &json!({ "user_id": guest })).await.map(drop)
    }

    /// Says something.
    pub async fn say(&self, room: &RoomId, text: &str) -> Fallible<OwnedEventId> {
        self.send(room, &json!({ "msgtype": "m.text", "body": text })).await
    }

    /// Says something to somebody.
    pub async fn mention(&self, room: &RoomId, whom: &UserId, text: &str) -> Fallible<OwnedEventId> {
        self.send(room, &json!({ "msgtype": "m.text", "body": text, "m.mentions": { "user_ids": [whom] } })).await
    }

    async fn send(&self, room: &RoomId, content: &Value) -> Fallible<OwnedEventId> {
        self.sent.set(self.sent.get() + 1);
        let path = format!("v3/rooms/{room}/send/m.room.message/t{}", self.sent.get());
        event_id(&self.ask(Method::PUT, &path, content).await?)
    }

    /// Sets state.
    pub async fn set_state(&self, room: &RoomId, kind: &str, content: &Value) -> Fallible<OwnedEventId> {
        let path = format!("v3/rooms/{room}/state/{kind}/");
        event_id(&self.ask(Method::PUT, &path, content).await?)
    }

    /// Has read up to an event.
    pub async fn read(&self, room: &RoomId, event: &OwnedEventId) -> Fallible {
        let path = format!("v3/rooms/{room}/receipt/m.read/{event}");
        self.ask(Method::POST, &path, &json!({})).await.map(drop)
    }

    /// Marks a room as unread, or no longer.
    pub async fn mark_unread(&self, room: &RoomId, unread: bool) -> Fallible {
        let path = format!("v3/user/{}/rooms/{room}/account_data/m.marked_unread", self.id);
        self.ask(Method::PUT, &path, &json!({ "unread": unread })).await.map(drop)
    }

    /// Begins to type.
    pub async fn type_in(&self, room: &RoomId) -> Fallible {
        let path = format!("v3/rooms/{room}/typing/{}", self.id);
        self.ask(Method::PUT, &path, &json!({ "typing": true, "timeout": 30_000 })).await.map(drop)
    }
}

fn event_id(answer: &Value) -> Fallible<OwnedEventId> {
    let id = answer["event_id"].as_str().ok_or_else(|| format!("no event id in {answer}"))?;
    Ok(OwnedEventId::try_from(id)?)
}

//! Who asks, and may they: requests signed by another server (server-server API, "Request Authentication"), and what a
//! server must be to ask about a room (behaviours FA9, FA10).

use std::sync::Arc;

use axum::extract::{FromRequest, OriginalUri, Request};
use bytes::Bytes;
use endpoint::{Error, body};
use event::{Json, Object, Rules, ids};
use http::header::AUTHORIZATION;
use rooms::{Event, Room};
use serde::de::DeserializeOwned;
use store::tables::rooms::RemoteRoomRow;
use tokio::sync::OwnedSemaphorePermit;

use super::body::Held;
use super::error_map;
use crate::{Federation, acl};

/// A request that another server has signed.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    /// The server that signed it.
    pub origin: String,
    /// The body, if there is one.
    content: Option<Object>,
    bytes: Bytes,
    /// Its part of the memory for large bodies.
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl FromRequest<Arc<Federation>> for Signed {
    type Rejection = Error;

    async fn from_request(request: Request, federation: &Arc<Federation>) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        // A router that is nested in another one has lost the beginning of the path.
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
        let uri = uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string);
        if !parts.headers.contains_key(AUTHORIZATION) {
            // Before a large body is read.
            return Err(Error::unauthorized("The request is not signed."));
        }
        let Held { bytes, place } = federation.bodies.read(body).await?;
        let content = match bytes.is_empty() {
            true => None,
            false => Some(content_of(&bytes)?),
        };
        let verified = federation.key_ring.verify_request(&parts.headers, &parts.method, &uri, content.as_ref()).await;
        let origin = verified?;
        (federation.heard_from)(&origin);
        Ok(Self { origin, content, bytes, place })
    }
}

fn content_of(bytes: &[u8]) -> Result<Object, Error> {
    match Json::from_slice_shallow(bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(Error::bad_json("The body is no JSON object.")),
        Err(error) => Err(Error::not_json(format!("The body is no JSON: {error}."))),
    }
}

impl Signed {
    /// Its part of the memory for large bodies, to be held for as long as something of a large body is.
    pub fn place(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        self.place.clone()
    }

    /// The body, exactly as events need it.
    pub fn object(self) -> Result<Object, Error> {
        let content = self.transaction()?;
        if !content.values().all(Json::is_read) {
            return Err(Error::not_json("The body is nested too deeply."));
        }
        Ok(content)
    }

    /// The body of a transaction: one event in it that is nested too deeply ([`Json::Deep`]) must not keep the others
    /// from being read, for the server that hands it on would send them again for ever.
    pub fn transaction(self) -> Result<Object, Error> {
        self.content.ok_or_else(|| Error::not_json("The request has no body."))
    }

    /// The body as `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        body::parse_json(&self.bytes)
    }

    /// Whether a user belongs to the server that asks.
    pub fn owns(&self, user: &str) -> bool {
        ids::user_server(user) == Some(&self.origin)
    }

    /// Refuses users of other servers than the one that asks.
    pub fn check_owns(&self, user: &str) -> Result<(), Error> {
        if self.owns(user) {
            return Ok(());
        }
        Err(Error::forbidden("The user does not belong to the server that asks."))
    }
}

impl Federation {
    /// A room that this server is in.
    pub(crate) async fn resident_room(&self, room_id: &str) -> Result<Option<Arc<Room>>, Error> {
        let room = self.rooms.room(room_id).await.map_err(error_map::rooms)?;
        Ok(room.filter(|room| !room.head().local.is_empty()))
    }

    /// The rules of a room that this server is in, was in, or has been invited to.
    ///
    /// # Errors
    /// As the room engine says.
    pub(crate) async fn rules_of(&self, room_id: &str) -> rooms::Result<Option<&'static Rules>> {
        if let Some(room) = self.rooms.room(room_id).await? {
            return Ok(Some(room.rules));
        }
        let row: Option<RemoteRoomRow> = self.store.get(vec![room_id.into()]).await?;
        Ok(row.and_then(|row| Rules::of(&row.room_version)))
    }

    /// A room that another server wants to enter or leave: what it lacks for that is for the room's rules to say.
    pub(crate) async fn room_to_enter(&self, origin: &str, room_id: &str) -> Result<Arc<Room>, Error> {
        let room =
            self.resident_room(room_id).await?.ok_or_else(|| Error::not_found("This room is not known here."))?;
        self.check_acl(&room, origin).await?;
        Ok(room)
    }

    /// The same, where it takes the members to decide: as long as they are not all known here, another server is to be
    /// asked.
    pub(crate) async fn whole_room_to_enter(&self, origin: &str, room_id: &str) -> Result<Arc<Room>, Error> {
        let room = self.room_to_enter(origin, room_id).await?;
        self.demand_whole(room).await
    }

    /// A room that another server is in and may ask about. A room that is not known here looks the same as one that
    /// the other is not in.
    pub(crate) async fn room_of(&self, origin: &str, room_id: &str) -> Result<Arc<Room>, Error> {
        let outside = || Error::forbidden("Your server is not in this room.");
        let room = self.resident_room(room_id).await?.ok_or_else(outside)?;
        if !room.has_server(origin) {
            return Err(outside());
        }
        self.check_acl(&room, origin).await?;
        Ok(room)
    }

    /// The same, where what is asked is a matter of the whole state.
    pub(crate) async fn whole_room_of(&self, origin: &str, room_id: &str) -> Result<Arc<Room>, Error> {
        let room = self.room_of(origin, room_id).await?;
        self.demand_whole(room).await
    }

    /// A state that lacks something would be taken over by others as it is.
    async fn demand_whole(&self, room: Arc<Room>) -> Result<Arc<Room>, Error> {
        match room.is_partial() || self.rooms.awaits_left_out(&room).await.map_err(error_map::rooms)? {
            true => Err(Error::unable_due_to_partial_state()),
            false => Ok(room),
        }
    }

    /// An event of a room. One of another room looks the same as one that is not known.
    pub(crate) async fn event_of(&self, room: &Room, event_id: &str) -> Result<Arc<Event>, Error> {
        let event = self.rooms.event_by_id(room, event_id).await.map_err(error_map::rooms)?;
        event.ok_or_else(|| Error::not_found("This event is not known here."))
    }

    async fn check_acl(&self, room: &Room, origin: &str) -> Result<(), Error> {
        match self.is_heard(room, origin).await.map_err(error_map::rooms)? {
            true => Ok(()),
            false => Err(Error::forbidden("Your server is banned from this room.")),
        }
    }

    /// Whether the room's ACL lets a server speak.
    ///
    /// # Errors
    /// As the store says.
    pub(crate) async fn is_heard(&self, room: &Room, server: &str) -> rooms::Result<bool> {
        let acl = self.rooms.current(room, acl::SERVER_ACL, "").await?;
        let Some(acl) = acl else { return Ok(true) };
        let key = (room.num, acl.num(), server.to_owned());
        if let Some(heard) = self.heard.get(&key) {
            return Ok(heard);
        }
        let heard = acl::allows(Some(&acl.pdu.content), server);
        self.heard.insert(key, heard);
        Ok(heard)
    }
}

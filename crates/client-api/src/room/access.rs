//! What the routes of rooms share: who may read a room, contents and ids that clients send, rendering.

use std::collections::BTreeSet;
use std::sync::Arc;

use endpoint::{Error, Requester};
use event::{Json, JsonError, Object};
use rooms::view::Rendering;
use rooms::visibility::Viewer;
use rooms::{Event, Room, Rooms, Roots, Transaction};
use store::{DeviceId, StreamPosition, UserId};

use super::people;
use crate::{State, error_map};

/// A room that the requester may read.
pub struct Readable {
    /// The room.
    pub room: Arc<Room>,
    /// The state that the requester may read: the current one, or that at the leave.
    pub state: Roots,
}

/// The room, if the user may read it: is or was a member and has not forgotten it, or anyone may.
///
/// # Errors
/// `M_FORBIDDEN`, the same for a room that does not exist (CR10).
pub async fn readable(rooms: &Rooms, room_id: &str, user: &UserId) -> Result<Readable, Error> {
    let room = rooms.room(room_id).await.map_err(error_map::rooms)?;
    let room = room.ok_or(rooms::Error::NotInRoom).map_err(error_map::rooms)?;
    let state = rooms.readable_state(&room, user).await.map_err(error_map::rooms)?;
    Ok(Readable { room, state })
}

/// As [`readable`], with all members: waits for those that are still to come (MSC3902).
///
/// # Errors
/// As there; 503 if they do not come in time.
pub async fn readable_whole(rooms: &Rooms, room_id: &str, user: &UserId) -> Result<Readable, Error> {
    let found = readable(rooms, room_id, user).await?;
    if !found.room.is_partial() {
        return Ok(found);
    }
    rooms.need_members(room_id).await.map_err(error_map::rooms)?;
    readable(rooms, room_id, user).await
}

/// A reader of one room: sees what the requester may see and renders it for the requester's device.
pub struct Reader<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    requester: &'a Requester,
    ignored: BTreeSet<String>,
    /// What the requester may see.
    pub viewer: Viewer<'a>,
}

impl<'a> Reader<'a> {
    /// The requester as reader of a room.
    ///
    /// # Errors
    /// `M_UNKNOWN` when the store fails.
    pub async fn new(state: &'a State, room: &'a Room, requester: &'a Requester) -> Result<Self, Error> {
        let rooms = state.rooms.as_ref();
        let viewer = Viewer::new(rooms, room, &requester.user_id).await.map_err(error_map::rooms)?;
        let ignored = people::ignored(state, &requester.user_id).await?;
        Ok(Self { rooms, room, requester, ignored, viewer })
    }

    /// When the requester left the room for good; `None` for members and those who never were.
    pub fn left_at(&self) -> Option<StreamPosition> {
        let row = self.viewer.membership()?;
        (row.membership != "join" && row.left_pos.0 > 0).then_some(row.left_pos)
    }

    /// Users whom the requester ignores.
    pub fn ignored(&self) -> &BTreeSet<String> {
        &self.ignored
    }

    /// The events as JSON text, with aggregations bundled.
    ///
    /// # Errors
    /// `M_UNKNOWN` when the store fails.
    pub async fn render(&mut self, events: &[Arc<Event>]) -> Result<Vec<String>, Error> {
        let rendering = Rendering {
            user: &self.requester.user_id,
            device: self.requester.device_id.as_ref(),
            ignored: &self.ignored,
            with_room_id: true,
            bundled: true,
        };
        self.rooms.render(self.room, events, &mut self.viewer, &rendering).await.map_err(error_map::rooms)
    }
}

/// Reads the content of an event that a client sends: strictly, since it is stored and signed (CB4, CB5).
///
/// # Errors
/// `M_NOT_JSON`, `M_BAD_JSON`, `M_TOO_LARGE`.
pub fn parse_content(bytes: &[u8]) -> Result<Object, Error> {
    Json::object_from_slice(bytes).map_err(|error| match error {
        JsonError::TooLarge => Error::too_large(error.to_string()),
        JsonError::Syntax { .. } => Error::not_json(error.to_string()),
        JsonError::DuplicateKey(_) | JsonError::NotAnObject => Error::bad_json(error.to_string()),
    })
}

/// Refuses an empty event type, which would name nothing: a path of the API that lacks a part is a client's mistake.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn check_type(kind: &str) -> Result<(), Error> {
    if kind.is_empty() { Err(Error::invalid_param("The event type is empty.")) } else { Ok(()) }
}

/// A user id that a client names.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn parse_user(text: &str) -> Result<UserId, Error> {
    if event::ids::is_user_id(text) {
        Ok(UserId::from(text))
    } else {
        Err(Error::invalid_param(format!("`{text}` is no user id.")))
    }
}

/// Most bytes of a transaction id: it is part of keys that databases index.
const TXN_ID_BYTES_MAX: usize = 255;

/// The transaction of a request of this device (CB7).
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn transaction(requester: &Requester, path: String, txn_id: String) -> Result<Transaction, Error> {
    check_txn_id(&txn_id)?;
    let device = requester.device_id.clone().unwrap_or_else(|| DeviceId::from(""));
    Ok(Transaction { device, path, txn_id })
}

/// Refuses transaction ids of a length that no client makes.
///
/// # Errors
/// `M_INVALID_PARAM`.
pub fn check_txn_id(txn_id: &str) -> Result<(), Error> {
    if txn_id.len() > TXN_ID_BYTES_MAX {
        return Err(Error::invalid_param(format!("`txnId` may have {TXN_ID_BYTES_MAX} bytes.")));
    }
    Ok(())
}

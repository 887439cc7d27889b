//! What this server answers, as a resident, to servers whose users want to join, leave or knock (server-server API,
//! "Joining rooms", "Leaving rooms", "Knocking upon a room", "Restricted rooms").

use std::sync::Arc;

use ::event::auth_rules;
use ::event::power_levels::PowerLevels;
use ::event::{Json, Keys, Object, Pdu, Rules, SigningKey, Verified, VerifyError};
use bytes::Bytes;
use ruma_common::OwnedEventId;
use store::UserId;

use crate::room::Room;
use crate::send::newest;
use crate::state::{MEMBER, StateMap, type_key};
use crate::{Error, Rooms};

/// Why a server's user gets no template, or no signature.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TemplateError {
    /// Whether an allow condition holds cannot be told here: this server is not in the rooms that they name. Another
    /// resident may know (`M_UNABLE_TO_AUTHORISE_JOIN`).
    #[error("this server cannot tell whether the user may join")]
    UnableToAuthoriseJoin,
    /// The user may join, but no user of this server has the power to let others in (`M_UNABLE_TO_GRANT_JOIN`).
    #[error("no user of this server can let the user in")]
    UnableToGrantJoin,
    /// As the engine says: [`Error::NotInRoom`] for a room that this server is not in, [`Error::Forbidden`] if the auth
    /// rules do not allow the membership.
    #[error(transparent)]
    Rooms(#[from] Error),
}

/// An unsigned member event for a user of another server, to be completed and signed there.
#[derive(Clone, Debug)]
pub struct Template {
    /// The rules of the room's version. Whether the other server knows that version is for the caller to compare.
    pub rules: &'static Rules,
    /// The event, without hashes, signatures and id.
    pub event: Object,
}

/// The permission to sign one restricted join of another server's user: this server has found that the user satisfies
/// the room's conditions.
#[derive(Clone, Debug)]
pub struct JoinPermit {
    rules: &'static Rules,
    event_id: OwnedEventId,
    key: Arc<SigningKey>,
    server_name: String,
}

impl JoinPermit {
    /// Checks the signatures of all servers that must have signed the join but this one, and adds this one's.
    ///
    /// # Errors
    /// [`VerifyError`] if a signature is missing or wrong, or the bytes are not the event that was permitted.
    pub fn sign(&self, bytes: Bytes, keys: &dyn Keys, now_ms: u64) -> Result<Verified, VerifyError> {
        let signed = ::event::verify_and_co_sign(self.rules, bytes, keys, now_ms, &self.key, &self.server_name)?;
        match signed.filter(|signed| signed.pdu().event_id == self.event_id) {
            Some(signed) => Ok(signed),
            None => Err(VerifyError::AuthorisedVia),
        }
    }
}

/// What the allow conditions of a restricted room say about a user.
enum Condition {
    Holds,
    Fails,
    /// It names rooms that this server is not in.
    Unknown,
}

impl Rooms {
    /// A template of a membership (`join`, `leave` or `knock`) for a user of another server, if the auth rules would
    /// allow it now. A restricted join names a user of this server who lets the other in.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub async fn member_template(
        &self,
        room_id: &str,
        user: &UserId,
        membership: &str,
    ) -> Result<Template, TemplateError> {
        let room = self.resident_room(room_id).await?;
        if self.is_local(user) || !matches!(membership, "join" | "leave" | "knock") {
            return Err(Error::Invalid(
                "a template is for joins, leaves and knocks of other servers' users".to_owned(),
            )
            .into());
        }
        let mut content = Object::from([("membership".to_owned(), Json::from(membership))]);
        if membership == "join" {
            let state = self.member_state(&room, &[user]).await?;
            if let Some(authorizer) = self.remote_authorizer(&room, &state, user).await? {
                content.insert("join_authorised_via_users_server".to_owned(), Json::from(authorizer.as_str()));
            }
        }
        let event = self.template_event(&room, user, content).await?;
        Ok(Template { rules: room.rules, event })
    }

    async fn template_event(&self, room: &Arc<Room>, user: &UserId, content: Object) -> Result<Object, TemplateError> {
        let head = room.head();
        let pairs = auth_rules::auth_types(room.rules, user.as_str(), MEMBER, Some(user.as_str()), &content);
        let state = self.state_map(room, None, head.state, &pairs).await?;
        let prev = newest(&head.extremities);
        let template = ::event::Template {
            room_id: Some(crate::send::room_id(&room.id)?),
            sender: user.to_string(),
            kind: MEMBER.to_owned(),
            state_key: Some(user.to_string()),
            content,
            prev_events: prev.iter().map(|extremity| extremity.id.clone()).collect(),
            auth_events: state.0.values().map(|event| event.id().clone()).collect(),
            depth: ::event::Template::next_depth(prev.iter().map(|extremity| extremity.depth)),
            origin_server_ts: self.clock.now_ms(),
            ..::event::Template::default()
        };
        auth_rules::check(room.rules, &template, &state, &room.create)
            .map_err(|denied| Error::Forbidden(denied.to_string()))?;
        let mut event = template.unsigned_object(room.rules);
        event.insert("origin".to_owned(), Json::from(self.server_name()));
        Ok(event)
    }

    /// A room in which this server has joined users.
    pub(super) async fn resident_room(&self, room_id: &str) -> Result<Arc<Room>, Error> {
        let room = self.room(room_id).await?.ok_or(Error::NotInRoom)?;
        if room.head().local.is_empty() { Err(Error::NotInRoom) } else { Ok(room) }
    }

    /// For a restricted join that needs it: a user of this server who lets the other in.
    async fn remote_authorizer(
        &self,
        room: &Room,
        state: &StateMap,
        user: &UserId,
    ) -> Result<Option<UserId>, TemplateError> {
        let known = matches!(state.membership(user.as_str()), "invite" | "join" | "ban");
        if known || !is_restricted(room.rules, state) {
            return Ok(None);
        }
        match self.condition(state, user).await? {
            Condition::Holds => {}
            Condition::Fails => {
                return Err(Error::Forbidden("the user is in none of the rooms that let users in".to_owned()).into());
            }
            Condition::Unknown => return Err(TemplateError::UnableToAuthoriseJoin),
        }
        let levels = levels_of(room, state);
        let local = &room.head().local;
        let may_invite = |member: &&UserId| levels.user(member.as_str()) >= levels.invite();
        local.iter().find(may_invite).cloned().map(Some).ok_or(TemplateError::UnableToGrantJoin)
    }

    /// Whether the user is joined to a room that the join rules name. Malformed conditions are no conditions.
    async fn condition(&self, state: &StateMap, user: &UserId) -> Result<Condition, Error> {
        let mut unknown = false;
        for other in allowing_rooms(state) {
            let other = match self.room(&other).await? {
                Some(other) if !other.head().local.is_empty() => other,
                _ => {
                    unknown = true;
                    continue;
                }
            };
            let pairs = [type_key(MEMBER, user.as_str())];
            let members = self.state_map(&other, None, other.head().state, &pairs).await?;
            if members.membership(user.as_str()) == "join" {
                return Ok(Condition::Holds);
            }
        }
        Ok(if unknown { Condition::Unknown } else { Condition::Fails })
    }

    /// Whether this server signs a restricted join of another server's user, which names a user of this server as the
    /// one who lets the other in. `None` if the join names nobody of this server, so that it needs no such signature.
    ///
    /// # Errors
    /// See [`TemplateError`]; [`Error::Invalid`] if it is not a join of its sender.
    pub async fn permit_join(&self, room_id: &str, join: &Pdu) -> Result<Option<JoinPermit>, TemplateError> {
        let room = self.resident_room(room_id).await?;
        let is_join = join.kind == MEMBER
            && join.membership() == Some("join")
            && join.state_key.as_deref() == Some(join.sender.as_str())
            && join.room_id == room_id;
        if !is_join {
            return Err(Error::Invalid("the event is not a join of its sender to this room".to_owned()).into());
        }
        let named = join.content_str("join_authorised_via_users_server").map(UserId::from);
        let Some(authorizer) = named.filter(|user| room.rules.restricted && self.is_local(user)) else {
            return Ok(None);
        };
        let user = UserId::from(join.sender.as_str());
        let state = self.member_state(&room, &[&user, &authorizer]).await?;
        if !is_restricted(room.rules, &state) {
            return Err(Error::Forbidden("the room does not let users in by conditions".to_owned()).into());
        }
        match self.condition(&state, &user).await? {
            Condition::Holds => {}
            Condition::Fails => return Err(Error::Forbidden("the user satisfies no condition".to_owned()).into()),
            Condition::Unknown => return Err(TemplateError::UnableToAuthoriseJoin),
        }
        let levels = levels_of(&room, &state);
        let joined = state.membership(authorizer.as_str()) == "join";
        if !joined || levels.user(authorizer.as_str()) < levels.invite() {
            return Err(TemplateError::UnableToGrantJoin);
        }
        Ok(Some(JoinPermit {
            rules: room.rules,
            event_id: join.event_id.clone(),
            key: Arc::clone(&self.key),
            server_name: self.server_name().to_owned(),
        }))
    }
}

fn is_restricted(rules: &Rules, state: &StateMap) -> bool {
    match state.text("m.room.join_rules", "join_rule") {
        Some("restricted") => rules.restricted,
        Some("knock_restricted") => rules.knock_restricted,
        _ => false,
    }
}

fn levels_of<'a>(room: &'a Room, state: &'a StateMap) -> PowerLevels<'a> {
    let power = state.event("m.room.power_levels", "").map(|event| event.pdu.as_ref());
    PowerLevels::from_state(room.rules, power, &room.create)
}

/// The rooms whose members the join rules let in.
fn allowing_rooms(state: &StateMap) -> Vec<String> {
    let rules = state.event("m.room.join_rules", "");
    let Some(Json::Array(allow)) = rules.and_then(|rules| rules.pdu.content.get("allow")) else { return Vec::new() };
    let conditions = allow.iter().filter(|one| one.get("type").and_then(Json::as_str) == Some("m.room_membership"));
    conditions.filter_map(|one| one.get("room_id").and_then(Json::as_str)).map(str::to_owned).collect()
}

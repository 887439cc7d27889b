//! Our side of the membership handshakes: a resident's template becomes an event of ours (server-server API, "Joining
//! rooms", "Leaving rooms", "Knocking upon a room"). Of the template only its place in the graph is taken, and who
//! authorises a restricted join; all else this server says itself.

use ::event::{Json, MAX_AUTH_EVENTS, MAX_PREV_EVENTS, Object, Rules, Template, Verified};
use ruma_common::OwnedEventId;
use store::UserId;

use crate::state::MEMBER;
use crate::{Error, Result, Rooms};

impl Rooms {
    /// Makes a local user's member event of a resident's template, signed by this server. `extra` is content besides the
    /// membership: display name, avatar, reason.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the template is for another room, user or membership, or malformed: another resident may do
    /// better; [`Error::TooLarge`], [`Error::BadContent`].
    pub fn complete_template(
        &self,
        rules: &'static Rules,
        room_id: &str,
        user: &UserId,
        membership: &str,
        template: &Object,
        extra: Object,
    ) -> Result<Verified> {
        let mut completed = read_template(rules, room_id, user, membership, template, extra, self.clock.now_ms())?;
        completed.opaque_id = (!rules.event_id_is_hash()).then(|| self.opaque_id());
        self.build(rules, completed)
    }
}

/// The event that is made of a template, unsigned: see [`Rooms::complete_template`].
///
/// # Errors
/// [`Error::Invalid`] as there.
pub fn read_template(
    rules: &Rules,
    room_id: &str,
    user: &UserId,
    membership: &str,
    template: &Object,
    extra: Object,
    now_ms: i64,
) -> Result<Template> {
    let text = |name: &str| template.get(name).and_then(Json::as_str);
    let content = template.get("content").and_then(Json::as_object);
    let content = content.ok_or_else(|| malformed("content"))?;
    let expected = [("type", MEMBER), ("room_id", room_id), ("sender", user.as_str()), ("state_key", user.as_str())];
    if let Some((name, _)) = expected.into_iter().find(|(name, value)| text(name) != Some(*value)) {
        return Err(malformed(name));
    }
    if content.get("membership").and_then(Json::as_str) != Some(membership) {
        return Err(malformed("membership"));
    }
    let depth = template.get("depth").and_then(|depth| match depth {
        Json::Int(depth) if *depth >= 0 => Some(*depth),
        _ => None,
    });
    let mut own = extra;
    own.insert("membership".to_owned(), Json::from(membership));
    let authorizer = content.get("join_authorised_via_users_server").filter(|_| membership == "join");
    match authorizer {
        Some(Json::String(authorizer)) => {
            own.insert("join_authorised_via_users_server".to_owned(), Json::from(authorizer.as_str()));
        }
        Some(_) => return Err(malformed("join_authorised_via_users_server")),
        None => {}
    }
    Ok(Template {
        room_id: Some(crate::send::room_id(room_id)?),
        sender: user.to_string(),
        kind: MEMBER.to_owned(),
        state_key: Some(user.to_string()),
        content: own,
        prev_events: edges(rules, template, "prev_events", MAX_PREV_EVENTS)?,
        auth_events: edges(rules, template, "auth_events", MAX_AUTH_EVENTS)?,
        // Within what canonical JSON can say, whatever the room version allows others.
        depth: Template::next_depth([depth.ok_or_else(|| malformed("depth"))?.saturating_sub(1).max(0)]),
        origin_server_ts: now_ms,
        ..Template::default()
    })
}

fn malformed(name: &str) -> Error {
    Error::Invalid(format!("`{name}` of the template is not what was asked for"))
}

/// The ids in a list of edges: plain, or, in room versions 1 and 2, each with a hash.
fn edges(rules: &Rules, template: &Object, name: &str, max: usize) -> Result<Vec<OwnedEventId>> {
    let Some(Json::Array(edges)) = template.get(name) else { return Err(malformed(name)) };
    if edges.len() > max || (edges.is_empty() && name == "prev_events") {
        return Err(malformed(name));
    }
    let id = |edge: &Json| {
        let id = match edge {
            Json::Array(pair) if !rules.event_id_is_hash() => pair.first()?.as_str()?,
            edge => edge.as_str()?,
        };
        OwnedEventId::try_from(id.to_owned()).ok()
    };
    edges.iter().map(|edge| id(edge).ok_or_else(|| malformed(name))).collect()
}

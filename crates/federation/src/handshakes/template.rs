//! The template of a membership event that a resident server gives, checked (behaviours FJ2, FJ14).

use event::{Json, Object, Rules, Template};
use ruma_common::{OwnedEventId, OwnedRoomId};
use store::UserId;

use crate::{Error, Result};

/// What is wanted of a template.
pub struct Wanted<'a> {
    /// The room.
    pub room_id: &'a str,
    /// The user, who is sender and state key.
    pub user: &'a UserId,
    /// `join`, `leave` or `knock`.
    pub membership: &'a str,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
}

/// The rules of the room's version, and the event to build: from the template come its edges, its depth and who
/// authorizes a restricted join; the rest is what was asked for.
///
/// # Errors
/// [`Error::Malformed`] if the template is for something else; [`rooms::Error::UnsupportedVersion`].
pub fn read(server: &str, answer: &Object, wanted: &Wanted<'_>) -> Result<(&'static Rules, Template)> {
    let malformed = |reason: &str| Error::Malformed { server: server.to_owned(), reason: reason.to_owned() };
    // Without a version the server is so old that the room is of version 1 or 2; the edges tell them apart from later ones.
    let version = match answer.get("room_version") {
        None => "1",
        Some(version) => version.as_str().ok_or_else(|| malformed("`room_version` is no text"))?,
    };
    let rules = Rules::of(version).ok_or_else(|| rooms::Error::UnsupportedVersion(version.to_owned()))?;
    let event = answer.get("event").and_then(Json::as_object).ok_or_else(|| malformed("`event` is missing"))?;
    let text = |name: &str| event.get(name).and_then(Json::as_str);
    let user = Some(wanted.user.as_str());
    let content = event.get("content").and_then(Json::as_object).ok_or_else(|| malformed("`content` is missing"))?;
    if text("room_id") != Some(wanted.room_id)
        || text("type") != Some("m.room.member")
        || text("sender") != user
        || text("state_key") != user
        || content.get("membership").and_then(Json::as_str) != Some(wanted.membership)
    {
        return Err(malformed("the template is for another event than was asked for"));
    }
    let mut own = Object::from([("membership".to_owned(), Json::from(wanted.membership))]);
    if let Some(authorizer) = content.get("join_authorised_via_users_server").filter(|_| wanted.membership == "join") {
        let authorizer = authorizer.as_str().filter(|user| event::ids::is_user_id(user));
        let authorizer = authorizer.ok_or_else(|| malformed("`join_authorised_via_users_server` is no user id"))?;
        own.insert("join_authorised_via_users_server".to_owned(), Json::from(authorizer));
    }
    let room_id = OwnedRoomId::try_from(wanted.room_id).map_err(|_| malformed("the room id is not valid"))?;
    let template = Template {
        room_id: Some(room_id),
        sender: wanted.user.to_string(),
        kind: "m.room.member".to_owned(),
        state_key: Some(wanted.user.to_string()),
        content: own,
        prev_events: edges(event, "prev_events", event::MAX_PREV_EVENTS).ok_or_else(|| malformed("`prev_events`"))?,
        auth_events: edges(event, "auth_events", event::MAX_AUTH_EVENTS).ok_or_else(|| malformed("`auth_events`"))?,
        depth: depth_of(event),
        origin_server_ts: wanted.now_ms,
        ..Template::default()
    };
    Ok((rules, template))
}

/// Ids of edges, plain or (room versions 1 and 2) each with its hashes.
fn edges(event: &Object, name: &str, max: usize) -> Option<Vec<OwnedEventId>> {
    let edges = event.get(name)?.as_array()?;
    if edges.len() > max {
        return None;
    }
    let id = |edge: &Json| match edge {
        Json::Array(pair) => OwnedEventId::try_from(pair.first()?.as_str()?).ok(),
        edge => OwnedEventId::try_from(edge.as_str()?).ok(),
    };
    edges.iter().map(id).collect()
}

/// The depth, within what canonical JSON can say.
fn depth_of(event: &Object) -> i64 {
    let depth = event.get("depth").and_then(Json::as_i64).unwrap_or(1);
    Template::next_depth([depth.saturating_sub(1).max(0)])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        match Json::from(value) {
            Json::Object(object) => object,
            _ => panic!("no object"),
        }
    }

    fn template() -> Value {
        json!({ "room_version": "11", "event": {
            "room_id": "!r:x", "type": "m.room.member", "sender": "@a:us", "state_key": "@a:us", "depth": 7,
            "content": { "membership": "join", "join_authorised_via_users_server": "@mod:x", "evil": true },
            "prev_events": ["$p"], "auth_events": ["$a", "$b"], "unsigned": { "evil": true }, "origin": "evil",
        } })
    }

    fn check(change: impl FnOnce(&mut Value)) -> Result<(&'static Rules, Template)> {
        let mut answer = template();
        change(&mut answer);
        let user = UserId::from("@a:us");
        read("x", &object(answer), &Wanted { room_id: "!r:x", user: &user, membership: "join", now_ms: 5 })
    }

    #[test]
    fn fj2_nothing_of_a_template_is_taken_but_edges_and_authorizer() {
        let (rules, template) = check(|_| ()).unwrap();
        assert_eq!((rules.version(), template.depth, template.origin_server_ts), ("11", 7, 5));
        assert_eq!(template.content.keys().collect::<Vec<_>>(), ["join_authorised_via_users_server", "membership"]);
        assert_eq!((template.prev_events.len(), template.auth_events.len()), (1, 2));
        assert!(template.unsigned.is_none());
    }

    #[test]
    fn fj2_fj14_a_template_for_something_else_is_malformed() {
        let changes: [(&str, Value); 8] = [
            ("/event/room_id", json!("!other:x")),
            ("/event/type", json!("m.room.power_levels")),
            ("/event/sender", json!("@b:us")),
            ("/event/state_key", json!("@b:us")),
            ("/event/content/membership", json!("leave")),
            ("/event/content/join_authorised_via_users_server", json!(7)),
            ("/event/prev_events", json!({})),
            ("/event/auth_events", json!(vec!["$a"; 11])),
        ];
        for (path, value) in changes {
            let refused = check(|answer| *answer.pointer_mut(path).unwrap() = value);
            assert!(matches!(refused, Err(Error::Malformed { .. })), "{path}");
        }
        let unknown = check(|answer| answer["room_version"] = json!("nobody knows it"));
        assert!(matches!(unknown, Err(Error::Rooms(rooms::Error::UnsupportedVersion(_)))));
    }

    #[test]
    fn fj14_a_template_without_a_version_is_of_version_1() {
        let old = check(|answer| {
            drop(answer.as_object_mut().unwrap().remove("room_version"));
            answer["event"]["prev_events"] = json!([["$p:x", { "sha256": "" }]]);
            answer["event"]["auth_events"] = json!([["$a:x", { "sha256": "" }]]);
        });
        let (rules, template) = old.unwrap();
        assert_eq!((rules.version(), template.prev_events.first().unwrap().as_str()), ("1", "$p:x"));
    }
}

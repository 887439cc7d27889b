//! What a server with bad intent sends when all others are at peace: an event that no rule allows, and one that hides
//! behind a place in the graph from before its sender was banned. Neither may be shown to anybody.

use std::sync::Arc;

use event::{Json, Object, Rules, Template};
use federation::transport::Limits;
use http::Method;
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde_json::json;
use testkit::encoded;

use super::node::{Node, Up};
use super::story::{SharedRoom, Story};

/// An event that was sent and must not be shown.
pub struct Forged {
    /// The room.
    pub room: String,
    /// The event's id.
    pub event: String,
    /// Who sent it.
    pub server: String,
}

/// Sends such events to a room, where the room lets us.
pub async fn forge(story: &Story, room: &SharedRoom) -> Vec<Forged> {
    let mut forged = Vec::new();
    let rogue = story.chance.pick(&story.nodes);
    if !room.steady.contains(&rogue.name) {
        return forged;
    }
    let up = rogue.up().unwrap();
    if let Some(join) = foreign_join(story, room, rogue, &up).await {
        forged.extend(send(story, room, rogue, &up, join).await);
    }
    if let Some(message) = message_from_before_ban(story, room, &up).await {
        forged.extend(send(story, room, rogue, &up, message).await);
    }
    forged
}

/// A join of somebody else. `None` if the server is not in the room any more.
async fn foreign_join(story: &Story, room: &SharedRoom, rogue: &Node, up: &Up) -> Option<Template> {
    let others: Vec<_> = story.people.iter().filter(|person| person.node.name != rogue.name).collect();
    let target = story.chance.pick(&others).user.clone();
    let found = up.room(&room.id).await?;
    let head = found.head();
    let sender = head.local.first()?.to_string();
    let state = up.running.rooms.whole_state(&found, head.state).await.unwrap();
    let cited = |kind: &str, key: &str| {
        let holds = |event: &&Arc<rooms::Event>| event.pdu.state_entry() == Some((kind, key));
        state.iter().find(holds).map(|event| event.id().clone())
    };
    let auth = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender.as_str())];
    Some(Template {
        auth_events: auth.iter().filter_map(|(kind, key)| cited(kind, key)).collect(),
        prev_events: head.extremities.iter().map(|extremity| extremity.id.clone()).collect(),
        depth: Template::next_depth(head.extremities.iter().map(|extremity| extremity.depth)),
        state_key: Some(target),
        ..template(room, &sender, "m.room.member", json!({ "membership": "join" }))
    })
}

/// A message of a user whom the room's creator bans first; it follows the user's join. `None` if there is no such user,
/// or the ban is not allowed.
async fn message_from_before_ban(story: &Story, room: &SharedRoom, up: &Up) -> Option<Template> {
    let found = up.room(&room.id).await?;
    let head = found.head();
    let stays = |user: &str| story.syncers.iter().any(|syncer| syncer.person.user == user);
    let local = head.local.iter().map(ToString::to_string);
    let victim = local.into_iter().find(|user| !stays(user) && *user != room.creator.user)?;
    let state = up.running.rooms.whole_state(&found, head.state).await.unwrap();
    let joined = state.iter().find(|event| event.pdu.state_entry() == Some(("m.room.member", victim.as_str())))?;
    let path = format!("/rooms/{}/ban", encoded(&room.id));
    let (status, _) = room.creator.post(&path, json!({ "user_id": victim })).await?;
    if status != 200 {
        return None;
    }
    super::settling::quiet(story).await.ok()?;
    if !is_known_banned(story, room, &victim).await {
        return None;
    }
    let mut auth: Vec<OwnedEventId> = vec![joined.id().clone()];
    for id in &joined.pdu.auth_events {
        let cited = up.running.rooms.event_by_id(&found, id.as_str()).await.unwrap()?;
        if matches!(cited.pdu.kind.as_str(), "m.room.create" | "m.room.power_levels") {
            auth.push(id.clone());
        }
    }
    Some(Template {
        auth_events: auth,
        prev_events: vec![joined.id().clone()],
        depth: joined.pdu.depth + 1,
        ..template(room, &victim, "m.room.message", json!({ "msgtype": "m.text", "body": "I am still here" }))
    })
}

/// Whether a ban has come to most of the servers in the room: a creator who was removed, without knowing, bans nobody.
async fn is_known_banned(story: &Story, room: &SharedRoom, victim: &str) -> bool {
    let (mut n_servers, mut n_banned) = (0, 0);
    for node in &story.nodes {
        let up = node.up().unwrap();
        let Some(found) = up.room(&room.id).await.filter(|found| !found.head().local.is_empty()) else { continue };
        let state = up.running.rooms.whole_state(&found, found.head().state).await.unwrap();
        let is_ban = |event: &&Arc<rooms::Event>| {
            let bans = event.pdu.content.get("membership").and_then(Json::as_str) == Some("ban");
            bans && event.pdu.state_entry() == Some(("m.room.member", victim))
        };
        n_servers += 1;
        n_banned += usize::from(state.iter().any(|event| is_ban(&event)));
    }
    n_banned * 2 > n_servers
}

fn template(room: &SharedRoom, sender: &str, kind: &str, content: serde_json::Value) -> Template {
    let Json::Object(content) = Json::from(content) else { panic!("content is an object") };
    Template {
        room_id: Some(OwnedRoomId::try_from(room.id.as_str()).unwrap()),
        sender: sender.to_owned(),
        kind: kind.to_owned(),
        content,
        ..Template::default()
    }
}

/// Signs an event and sends it to all others.
async fn send(story: &Story, room: &SharedRoom, rogue: &Node, up: &Up, template: Template) -> Option<Forged> {
    let rules = Rules::of(&room.version).unwrap();
    // Rooms of version 12 are named after their create event, which is cited by that.
    let create = template.room_id.as_ref().unwrap().as_str().replacen('!', "$", 1);
    let mut template = template;
    if rules.special_create {
        template.auth_events.retain(|id| id.as_str() != create);
    }
    let event = event::build(rules, template, &rogue.key(), &rogue.name).unwrap();
    let pdu = event.pdu();
    let body = Object::from([
        ("origin".to_owned(), Json::from(rogue.name.as_str())),
        ("origin_server_ts".to_owned(), Json::Int(1)),
        ("pdus".to_owned(), Json::Array(vec![Json::Object(Json::object_from_slice(&pdu.bytes).unwrap())])),
    ]);
    let path = format!("/_matrix/federation/v1/send/{}", story.chance.draw());
    let client = &up.running.remote.as_ref().unwrap().client;
    for node in story.nodes.iter().filter(|node| node.name != rogue.name) {
        let answered = client.request(&node.name, Method::PUT, &path, Some(&body), Limits::default()).await;
        answered.unwrap();
    }
    let server = rogue.name.clone();
    Some(Forged { room: room.id.clone(), event: pdu.event_id.to_string(), server })
}

//! A room whose history is one line of events, and what can be asked about it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use event::{Json, Object, Pdu, Rules, Template};
use ruma_common::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json};

use crate::{Server, now_ms};

/// The version of the rooms.
const VERSION: &str = "11";

/// An event as it is sent, and where it stands in the state.
pub struct Event {
    pub id: OwnedEventId,
    pub bytes: Bytes,
    entry: Option<(String, String)>,
    auth: Vec<OwnedEventId>,
}

/// What has come by transactions.
#[derive(Default)]
pub struct Received {
    /// Events by the place of the server that got them.
    counts: BTreeMap<usize, usize>,
    last_ms: i64,
}

impl Received {
    /// Events at the server that has the fewest and in all, servers that have any, and when the last one came.
    pub fn report(&self) -> Value {
        json!({
            "servers": self.counts.len(),
            "events": self.counts.values().sum::<usize>(),
            "least": self.counts.values().min().copied().unwrap_or(0),
            "last_ms": self.last_ms,
        })
    }
}

/// A room.
pub struct Room {
    pub id: OwnedRoomId,
    events: Vec<Event>,
    places: HashMap<OwnedEventId, usize>,
    /// Create event, power levels and join rules: what authorizes a first join.
    auth_of_join: Vec<OwnedEventId>,
    depth: i64,
    servers: Vec<String>,
    /// About the last join.
    pub joined: Value,
    pub received: Received,
}

fn object(value: Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        _ => Object::new(),
    }
}

/// What [`Room::say`] is given.
struct Said<'a> {
    sender: &'a str,
    kind: &'a str,
    state_key: Option<&'a str>,
    content: Value,
    auth: Vec<OwnedEventId>,
}

impl Room {
    /// A public room with this many members, spread over all servers. Each server's first member is
    /// `@member:SERVER`.
    pub fn generate(servers: &[Server], number: usize, members: usize) -> Self {
        let id = OwnedRoomId::try_from(format!("!generated{number}:{}", servers[0].name)).unwrap();
        let names = servers.iter().take(members.max(1)).map(|server| server.name.clone()).collect();
        let mut room = Self {
            id,
            events: Vec::with_capacity(members + 8),
            places: HashMap::new(),
            auth_of_join: Vec::new(),
            depth: 0,
            servers: names,
            joined: Value::Null,
            received: Received::default(),
        };
        let first = &servers[0];
        let creator = format!("@creator:{}", first.name);
        let mut state = |kind: &str, key: &str, content: Value, auth: &[OwnedEventId]| {
            let said = Said { sender: &creator, kind, state_key: Some(key), content, auth: auth.to_vec() };
            room.say(first, said)
        };
        let create = state("m.room.create", "", json!({ "room_version": VERSION }), &[]);
        let joined = state("m.room.member", &creator, json!({ "membership": "join" }), std::slice::from_ref(&create));
        let auth = [create.clone(), joined.clone()];
        let power = state("m.room.power_levels", "", json!({ "users": { creator.as_str(): 100 } }), &auth);
        let auth = [create.clone(), power.clone(), joined];
        let rules = state("m.room.join_rules", "", json!({ "join_rule": "public" }), &auth);
        state("m.room.history_visibility", "", json!({ "history_visibility": "shared" }), &auth);
        state("m.room.name", "", json!({ "name": "A generated room" }), &auth);
        room.auth_of_join = vec![create, power, rules];
        for n in 0..members {
            room.join_member(&servers[n % servers.len()], n / servers.len());
        }
        room
    }

    fn join_member(&mut self, server: &Server, n: usize) {
        let name = if n == 0 { "member".to_owned() } else { format!("member{n}") };
        let user = format!("@{name}:{}", server.name);
        let avatar = format!("mxc://{}/{:024x}", server.name, n);
        let content = json!({ "membership": "join", "displayname": format!("Member {n}"), "avatar_url": avatar });
        let auth = self.auth_of_join.clone();
        let said = Said { sender: &user, kind: "m.room.member", state_key: Some(&user), content, auth };
        self.say(server, said);
    }

    /// A message of a server's first member.
    pub fn message(&mut self, server: &Server, text: &str) -> OwnedEventId {
        let sender = format!("@member:{}", server.name);
        let join = self.state_before(self.events.len()).get(&("m.room.member".to_owned(), sender.clone())).copied();
        let auth = self.auth_of_join.iter().take(2).cloned().chain(join.map(|place| self.events[place].id.clone()));
        let auth = auth.collect();
        let content = json!({ "msgtype": "m.text", "body": text });
        let said = Said { sender: &sender, kind: "m.room.message", state_key: None, content, auth };
        self.say(server, said)
    }

    fn say(&mut self, server: &Server, said: Said<'_>) -> OwnedEventId {
        let template = Template {
            room_id: Some(self.id.clone()),
            sender: said.sender.to_owned(),
            kind: said.kind.to_owned(),
            state_key: said.state_key.map(str::to_owned),
            content: object(said.content),
            prev_events: self.events.last().map(|event| event.id.clone()).into_iter().collect(),
            auth_events: said.auth,
            depth: self.depth + 1,
            origin_server_ts: now_ms(),
            ..Template::default()
        };
        let built = event::build(Rules::of(VERSION).unwrap(), template, &server.key, &server.name).unwrap();
        self.keep(built.pdu())
    }

    fn keep(&mut self, pdu: &Pdu) -> OwnedEventId {
        let id = pdu.event_id.clone();
        if self.places.contains_key(&id) {
            return id;
        }
        self.depth = self.depth.max(pdu.depth);
        let entry = pdu.state_entry().map(|(kind, key)| (kind.to_owned(), key.to_owned()));
        self.places.insert(id.clone(), self.events.len());
        let auth = pdu.auth_events.clone();
        self.events.push(Event { id: id.clone(), bytes: pdu.bytes.clone(), entry, auth });
        id
    }

    /// Takes in an event of another server, as the newest; answers its id.
    pub fn take(&mut self, bytes: Bytes) -> OwnedEventId {
        self.keep(&Pdu::parse(Rules::of(VERSION).unwrap(), bytes).unwrap())
    }

    /// Notes that one of our servers was sent an event.
    pub fn receive(&mut self, place: usize, pdu: Bytes) {
        *self.received.counts.entry(place).or_default() += 1;
        self.received.last_ms = now_ms();
        self.take(pdu);
    }

    /// An event by its id.
    pub fn event(&self, id: &str) -> Option<&Event> {
        let id = OwnedEventId::try_from(id).ok()?;
        self.events.get(*self.places.get(&id)?)
    }

    /// The newest events up to one of them, newest first.
    pub fn back_from(&self, id: &str, limit: usize) -> Vec<&Event> {
        let place = OwnedEventId::try_from(id).ok().and_then(|id| self.places.get(&id).copied());
        let Some(place) = place else { return Vec::new() };
        self.events[..=place].iter().rev().take(limit).collect()
    }

    /// The newest events between two of the room's line, oldest first.
    pub fn between(&self, earliest: &[String], latest: &[String], limit: usize) -> Vec<&Event> {
        let place = |id: &String| OwnedEventId::try_from(id.as_str()).ok().and_then(|id| self.places.get(&id).copied());
        let from = earliest.iter().filter_map(place).max().map_or(0, |place| place + 1);
        let to = latest.iter().filter_map(place).max().unwrap_or(0);
        let from = from.max(to.saturating_sub(limit));
        self.events.get(from..to).into_iter().flatten().collect()
    }

    /// Places of the state before the event at a place.
    fn state_before(&self, place: usize) -> BTreeMap<&(String, String), usize> {
        let entries = self.events[..place].iter().enumerate();
        entries.filter_map(|(place, event)| Some((event.entry.as_ref()?, place))).collect()
    }

    /// The state before an event, and the auth events of all that, and theirs.
    pub fn state_and_auth(&self, id: &str) -> Option<(Vec<&Event>, Vec<&Event>)> {
        let id = OwnedEventId::try_from(id).ok()?;
        let state = self.state_before(*self.places.get(&id)?);
        let state: Vec<&Event> = state.into_values().map(|place| &self.events[place]).collect();
        let auth = self.auth_chain(&state);
        Some((state, auth))
    }

    fn auth_chain<'r>(&'r self, of: &[&Event]) -> Vec<&'r Event> {
        let mut seen: HashSet<&OwnedEventId> = HashSet::new();
        let mut open: Vec<OwnedEventId> = of.iter().flat_map(|event| event.auth.clone()).collect();
        let mut chain = Vec::new();
        while let Some(id) = open.pop() {
            let event = &self.events[self.places[&id]];
            if seen.insert(&event.id) {
                open.extend(event.auth.iter().cloned());
                chain.push(event);
            }
        }
        chain
    }

    /// What a new member's server starts its join from.
    pub fn join_template(&self, user: &str) -> Value {
        let ids = |ids: &[OwnedEventId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let last: Vec<OwnedEventId> = self.events.last().map(|event| event.id.clone()).into_iter().collect();
        json!({ "room_version": VERSION, "event": {
            "type": "m.room.member", "room_id": self.id.as_str(), "sender": user, "state_key": user,
            "content": { "membership": "join" }, "depth": self.depth + 1, "origin_server_ts": now_ms(),
            "prev_events": ids(&last), "auth_events": ids(&self.auth_of_join),
        } })
    }

    /// Takes a join, and answers with the state before it; without the members, if they may be left out.
    pub fn join(&mut self, join: Bytes, omit_members: bool) -> Bytes {
        let id = self.take(join.clone());
        let (state, _) = self.state_and_auth(id.as_str()).unwrap();
        let is_member = |event: &&Event| event.entry.as_ref().is_some_and(|(kind, _)| kind == "m.room.member");
        let state: Vec<&Event> = state.into_iter().filter(|event| !omit_members || !is_member(event)).collect();
        let auth = self.auth_chain(&[state.as_slice(), &[self.event(id.as_str()).unwrap()]].concat());
        let rest =
            json!({ "origin": self.servers[0], "members_omitted": omit_members, "servers_in_room": self.servers });
        let rest = rest.to_string();
        let lists = [("state", list(&state)), ("auth_chain", list(&auth)), ("event", join.to_vec())];
        let answer = with_lists(&rest, &lists);
        self.joined = json!({
            "answered_ms": now_ms(), "state": state.len(), "members_omitted": omit_members, "bytes": answer.len(),
        });
        answer
    }
}

/// Events as a JSON array.
pub fn list(events: &[&Event]) -> Vec<u8> {
    let mut text = vec![b'['];
    for (place, event) in events.iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&event.bytes);
    }
    text.push(b']');
    text
}

/// A JSON object with more members, which are JSON already. The object must not be empty.
pub fn with_lists(object: &str, lists: &[(&str, Vec<u8>)]) -> Bytes {
    let mut text = object.trim_end_matches('}').as_bytes().to_vec();
    for (name, value) in lists {
        text.extend_from_slice(format!(",\"{name}\":").as_bytes());
        text.extend_from_slice(value);
    }
    text.push(b'}');
    Bytes::from(text)
}

//! Rooms as other servers describe them to those who need not be in them: pages of their directories, and spaces with
//! their children (server-server API, "Public Room Directory", "Spaces"). What another server says is cleaned one entry at a
//! time: a description without an id is none, and a member of the wrong kind is left out of its description.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use event::{Json, Object};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value, json};
use store::Clock;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Result;
use crate::client::Client;

/// How long a description is taken for true, and how long that nobody gave one, in milliseconds.
const KEPT_MS: i64 = 5 * 60_000;
const MISSING_MS: i64 = 60_000;
/// Bytes of memory for descriptions.
const CACHE_BYTES: u64 = 8 << 20;
/// Descriptions that are expected in memory.
const CACHED: usize = 1_000;
/// Servers that are asked for one room.
const ASKED_MAX: usize = 3;
/// How long one of them is waited for.
const ONE_MAX: Duration = Duration::from_secs(8);
/// Bytes of one text in a description.
const TEXT_BYTES_MAX: usize = 8 * 1_024;
/// Children of a space that are taken.
const CHILDREN_MAX: usize = 500;
/// Servers through which a child is said to be found.
const VIA_MAX: usize = 10;
/// Rooms whose members a room lets in, as far as it is described.
const ALLOWED_MAX: usize = 100;
/// Rooms that are taken of one page of a directory.
const PAGE_MAX: usize = 500;
/// Bytes of a token of another server.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Members of a description that are texts.
const TEXTS: &[&str] =
    &["name", "topic", "canonical_alias", "avatar_url", "room_type", "join_rule", "room_version", "encryption"];

/// A room as another server describes it: the members of a summary
/// (`data/api/client-server/definitions/room_summary.yaml`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description(pub Map<String, Value>);

impl Description {
    /// Cleans what a server says; `None` if it does not say of which room.
    fn of(told: &Object) -> Option<Self> {
        let room_id = told.get("room_id").and_then(Json::as_str).filter(|id| is_room_id(id))?;
        let flag = |name: &str| told.get(name).and_then(Json::as_bool).unwrap_or(false);
        let joined = told.get("num_joined_members").and_then(Json::as_i64).unwrap_or(0).max(0);
        let mut members = Map::from_iter([
            ("room_id".to_owned(), json!(room_id)),
            ("num_joined_members".to_owned(), json!(joined)),
            ("world_readable".to_owned(), json!(flag("world_readable"))),
            ("guest_can_join".to_owned(), json!(flag("guest_can_join"))),
        ]);
        for name in TEXTS {
            let text = told.get(*name).and_then(Json::as_str);
            let text = text.filter(|text| !text.is_empty() && text.len() <= TEXT_BYTES_MAX);
            let text = text.filter(|text| *name != "avatar_url" || text.starts_with("mxc://"));
            members.extend(text.map(|text| ((*name).to_owned(), json!(text))));
        }
        let allowed = told.get("allowed_room_ids").and_then(Json::as_array).unwrap_or_default();
        let allowed: Vec<&str> =
            allowed.iter().filter_map(Json::as_str).filter(|id| is_room_id(id)).take(ALLOWED_MAX).collect();
        if !allowed.is_empty() {
            members.insert("allowed_room_ids".to_owned(), json!(allowed));
        }
        Some(Self(members))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The room's id.
    pub fn room_id(&self) -> &str {
        self.text("room_id").unwrap_or_default()
    }

    /// Whether it is a space.
    pub fn is_space(&self) -> bool {
        self.text("room_type") == Some("m.space")
    }

    /// Whether anyone may read the room, join it or knock. Where nothing is said of joining, that is public: the member came
    /// late.
    pub fn is_open(&self) -> bool {
        let joinable = matches!(self.text("join_rule"), None | Some("public" | "knock" | "knock_restricted"));
        joinable || self.0.get("world_readable") == Some(&Value::Bool(true))
    }

    /// The rooms whose members may join.
    pub fn allowed_rooms(&self) -> impl Iterator<Item = &str> {
        self.0.get("allowed_room_ids").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

/// A child of a space.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// The child's id.
    pub room_id: String,
    /// Servers through which it is found.
    pub via: Vec<String>,
    /// The event that names it, as hierarchies show it.
    pub event: Value,
    order: (bool, Option<String>, i64),
}

impl Child {
    fn of(told: &Json) -> Option<Self> {
        let text = |name: &str| told.get(name).and_then(Json::as_str);
        let room_id = text("state_key").filter(|id| is_room_id(id) && text("type") == Some("m.space.child"))?;
        let sender = text("sender").filter(|sender| sender.starts_with('@') && sender.len() <= 255)?;
        let content = told.get("content")?.as_object()?;
        let via = content.get("via").and_then(Json::as_array).unwrap_or_default();
        let names = via.iter().filter_map(Json::as_str).filter(|name| event::ids::is_server_name(name));
        let via: Vec<String> = names.take(VIA_MAX).map(str::to_owned).collect();
        let ts = told.get("origin_server_ts").and_then(Json::as_i64).unwrap_or(0);
        let valid = |order: &&str| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        let order = content.get("order").and_then(Json::as_str).filter(valid);
        let mut shown = Map::from_iter([("via".to_owned(), json!(via))]);
        shown.extend(order.map(|order| ("order".to_owned(), json!(order))));
        let suggested = content.get("suggested").and_then(Json::as_bool);
        shown.extend(suggested.map(|suggested| ("suggested".to_owned(), json!(suggested))));
        let event = json!({
            "type": "m.space.child",
            "state_key": room_id,
            "content": shown,
            "sender": sender,
            "origin_server_ts": ts,
        });
        let order = (order.is_none(), order.map(str::to_owned), ts);
        (!via.is_empty()).then(|| Self { room_id: room_id.to_owned(), via, event, order })
    }
}

/// A room with what is next to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// The room itself.
    pub room: Description,
    /// The children of a space, in their order.
    pub children: Vec<Child>,
    /// Those of them that the server knows, by id.
    pub known: BTreeMap<String, Description>,
    /// Those into which it sees no way for this server.
    pub closed: BTreeSet<String>,
}

impl Described {
    fn of(answer: &Object, room_id: &str) -> Option<Self> {
        let told = answer.get("room")?.as_object()?;
        let room = Description::of(told).filter(|room| room.room_id() == room_id)?;
        let list = |of: &Object, name: &str| of.get(name).and_then(Json::as_array).unwrap_or_default().to_vec();
        let mut children: Vec<Child> = list(told, "children_state").iter().filter_map(Child::of).collect();
        children.sort_by(|a, b| (&a.order, &a.room_id).cmp(&(&b.order, &b.room_id)));
        let mut seen = BTreeSet::new();
        children.retain(|child| seen.insert(child.room_id.clone()));
        children.truncate(CHILDREN_MAX);
        let named: BTreeSet<&str> = children.iter().map(|child| child.room_id.as_str()).collect();
        let known = list(answer, "children").iter().filter_map(|child| Description::of(child.as_object()?)).collect();
        let known: Vec<Description> = known;
        let known = known.into_iter().filter(|child| named.contains(child.room_id()));
        let known = known.map(|child| (child.room_id().to_owned(), child)).collect();
        let closed = list(answer, "inaccessible_children");
        let closed =
            closed.iter().filter_map(Json::as_str).filter(|id| named.contains(id)).map(str::to_owned).collect();
        Some(Self { room, children, known, closed })
    }

    fn bytes(&self) -> usize {
        let of =
            |members: &Map<String, Value>| members.values().map(|value| value.to_string().len() + 40).sum::<usize>();
        let children = self.children.iter().map(|child| child.event.to_string().len() * 2).sum::<usize>();
        let known = self.known.values().map(|child| of(&child.0)).sum::<usize>();
        of(&self.room.0) + children + known + self.closed.len() * 80
    }
}

/// What is remembered of a room, and until when.
#[derive(Clone)]
struct Kept {
    until_ms: i64,
    described: Option<Arc<Described>>,
}

/// Which server was asked of which room, and whether for suggested children alone. What one says is no other's word.
type Asked = (String, String, bool);

#[derive(Clone)]
struct Weight;

impl Weighter<Asked, Kept> for Weight {
    fn weight(&self, (server, room_id, _): &Asked, kept: &Kept) -> u64 {
        let bytes =
            200 + server.len() + room_id.len() + kept.described.as_ref().map_or(0, |described| described.bytes());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Asks for descriptions, and remembers them for a while: a hierarchy is walked anew with every page.
pub struct Descriptions {
    client: Client,
    clock: Arc<dyn Clock>,
    kept: Cache<Asked, Kept, Weight>,
}

impl Descriptions {
    /// Nothing is remembered yet.
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, kept: Cache::with_weighter(CACHED, CACHE_BYTES, Weight) }
    }

    /// A room as the first of some servers describes it that knows it, asked no longer than until `deadline`. `None` if none
    /// does.
    pub async fn of(
        &self,
        room_id: &str,
        via: &[String],
        suggested_only: bool,
        deadline: Instant,
    ) -> Option<Arc<Described>> {
        // Whose name the room bears comes first.
        let via = event::ids::domain(room_id).into_iter().chain(via.iter().map(String::as_str));
        let mut servers: Vec<&str> = Vec::new();
        for server in via.filter(|server| self.client.reaches(server)) {
            if servers.len() < ASKED_MAX && !servers.contains(&server) {
                servers.push(server);
            }
        }
        for server in servers {
            let described = self.of_server(server, room_id, suggested_only, deadline).await?;
            if described.is_some() {
                return described;
            }
        }
        None
    }

    /// A room as one server describes it. The outer `None` if the time is up: nothing is known by that.
    async fn of_server(
        &self,
        server: &str,
        room_id: &str,
        suggested_only: bool,
        deadline: Instant,
    ) -> Option<Option<Arc<Described>>> {
        let key = (server.to_owned(), room_id.to_owned(), suggested_only);
        let now_ms = self.clock.now_ms();
        if let Some(kept) = self.kept.get(&key).filter(|kept| kept.until_ms > now_ms) {
            return Some(kept.described);
        }
        let asked = timeout(ONE_MAX, self.client.query_hierarchy(server, room_id, suggested_only));
        let described = match timeout_at(deadline, asked).await.ok()? {
            Ok(Ok(answer)) => Described::of(&answer, room_id).map(Arc::new),
            Ok(Err(error)) => {
                tracing::debug!(server, room_id, %error, "a room is not described");
                None
            }
            Err(_) => {
                tracing::debug!(server, room_id, "a room is not described in time");
                None
            }
        };
        let kept_ms = if described.is_some() { KEPT_MS } else { MISSING_MS };
        self.kept.insert(key, Kept { until_ms: now_ms.saturating_add(kept_ms), described: described.clone() });
        Some(described)
    }

    /// A page of another server's directory, cleaned; `body` as `POST /publicRooms` takes it.
    ///
    /// # Errors
    /// As the other server says, or as it is not reached.
    pub async fn directory_page(&self, server: &str, body: &Object) -> Result<Value> {
        let answer = self.client.query_public_rooms(server, body).await?;
        let chunk = answer.get("chunk").and_then(Json::as_array).unwrap_or_default();
        let chunk = chunk.iter().filter_map(|room| Description::of(room.as_object()?)).take(PAGE_MAX);
        let chunk: Vec<Value> = chunk.map(|room| Value::Object(room.0)).collect();
        let mut page = json!({ "chunk": chunk });
        for name in ["next_batch", "prev_batch"] {
            let token = answer.get(name).and_then(Json::as_str);
            if let Some(token) = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX) {
                page[name] = token.into();
            }
        }
        let total = answer.get("total_room_count_estimate").and_then(Json::as_i64);
        if let Some(total) = total.filter(|total| *total >= 0) {
            page["total_room_count_estimate"] = total.into();
        }
        Ok(page)
    }
}

fn is_room_id(id: &str) -> bool {
    id.starts_with('!') && id.len() > 1 && id.len() <= 255
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn object(value: Value) -> Object {
        Json::from(value).as_object().unwrap().clone()
    }

    #[test]
    fn fq6_descriptions_are_cleaned_one_by_one() {
        let told = object(json!({
            "room_id": "!a:two", "name": 5, "topic": "t", "num_joined_members": -3, "world_readable": "yes",
            "join_rule": "restricted", "allowed_room_ids": ["!b:two", 7, "nonsense"], "secret": { "a": 1 },
            "avatar_url": "https://two/a.png", "canonical_alias": "x".repeat(TEXT_BYTES_MAX + 1),
        }));
        let expected = json!({
            "room_id": "!a:two", "topic": "t", "num_joined_members": 0, "world_readable": false,
            "guest_can_join": false, "join_rule": "restricted", "allowed_room_ids": ["!b:two"],
        });
        assert_eq!(Value::Object(Description::of(&told).unwrap().0), expected);
        for nameless in [json!({}), json!({ "room_id": 1 }), json!({ "room_id": "@a:two" })] {
            assert_eq!(Description::of(&object(nameless)), None);
        }
    }

    #[test]
    fn cr20_children_stand_in_their_order_and_others_are_left_out() {
        let child = |id: &str, content: Value| json!({ "type": "m.space.child", "state_key": id, "sender": "@a:two", "origin_server_ts": 5, "content": content });
        let via = |order: &str| json!({ "via": ["two"], "order": order });
        let answer = object(json!({
            "room": {
                "room_id": "!s:two", "room_type": "m.space",
                "children_state": [
                    child("!late:two", json!({ "via": ["two"] })), child("!b:two", via("b")), child("!a:two", via("a")),
                    child("!a:two", via("z")), child("!none:two", json!({ "via": [] })), child("x", via("a")), 5,
                    child("!odd:two", json!({ "via": ["not a server"] })), { "type": "m.space.child" },
                ],
            },
            "children": [{ "room_id": "!a:two", "name": "A" }, { "room_id": "!stranger:two" }, 7],
            "inaccessible_children": ["!b:two", "!stranger:two", 1],
        }));
        let described = Described::of(&answer, "!s:two").unwrap();
        let ids: Vec<&str> = described.children.iter().map(|child| child.room_id.as_str()).collect();
        assert_eq!(ids, ["!a:two", "!b:two", "!late:two"]);
        assert_eq!(described.known.keys().collect::<Vec<_>>(), ["!a:two"]);
        assert_eq!(described.closed.iter().collect::<Vec<_>>(), ["!b:two"]);
        assert!(Described::of(&answer, "!other:two").is_none(), "another room than was asked for");
    }
}

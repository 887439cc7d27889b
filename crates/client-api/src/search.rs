//! `POST /_matrix/client/v3/search` (`data/api/client-server/search.yaml`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::search::{Found, Hit, Key, Order, Query as Search, Token};
use ::sync::filter::EventFilter;
use axum::routing::post;
use axum::{Router, extract};
use endpoint::{Error, JsonBody, Query, RateClass, Requester};
use rooms::timeline::{Direction, Place};
use rooms::{Event, Room, state::MEMBER, state::type_key};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::json_text::JsonText;
use crate::room::access::Reader;
use crate::room::message_pagination::{filter_of, members_of};
use crate::room::{event_context, people};
use crate::{Routes, State, error_map};

/// Results of an answer where the client does not say.
const LIMIT_DEFAULT: u64 = 10;
/// Most results of an answer.
const LIMIT_MAX: u64 = 100;
/// Events before and after a result where the client does not say.
const CONTEXT_DEFAULT: u64 = 5;
/// Most events before and after a result.
const CONTEXT_MAX: u64 = 20;
/// Most events around all results of an answer.
const CONTEXTS_MAX: u64 = 1_000;
/// Most state events of an answer; members beyond are left out, but for who sent the results.
const STATE_MAX: usize = 20_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new().client("/search", post(search))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    next_batch: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Body {
    search_categories: Categories,
}

#[derive(Debug, Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Debug, Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<String>>,
    filter: Option<Box<RawValue>>,
    order_by: Option<OrderBy>,
    event_context: Option<Context>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OrderBy {
    Recent,
    Rank,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Context {
    before_limit: Option<u64>,
    after_limit: Option<u64>,
    #[serde(default)]
    include_profile: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    key: GroupKey,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum GroupKey {
    RoomId,
    Sender,
}

async fn search(
    requester: Requester,
    extract::State(state): extract::State<State>,
    Query(parameters): Query<Parameters>,
    JsonBody(body): JsonBody<Body>,
) -> Result<JsonText, Error> {
    state.door.limit(RateClass::Searches, &requester)?;
    let Some(criteria) = body.search_categories.room_events else {
        return Ok(JsonText::object().raw("search_categories", "{}"));
    };
    let from = parameters.next_batch.as_deref().filter(|token| !token.is_empty()).map(Token::parse);
    let from = from.transpose().map_err(error_map::search)?;
    let keys = keys_of(criteria.keys.as_deref())?;
    let filter = criteria.filter.as_deref().map(RawValue::get);
    let filter = filter_of(filter).map_err(|_| Error::bad_json("`filter` is no filter of room events."))?;
    let ignored = people::ignored(&state, &requester.user_id).await?;
    let accepts = |event: &Event| filter.accepts_event(event) && !ignored.contains(&event.pdu.sender);
    let limit = filter.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let order = match criteria.order_by {
        Some(OrderBy::Recent) => Order::Recent,
        Some(OrderBy::Rank) | None => Order::Rank,
    };
    let query = Search {
        user: &requester.user_id,
        search_term: &criteria.search_term,
        keys: &keys,
        rooms: filter.rooms.as_deref(),
        not_rooms: &filter.not_rooms,
        accepts: &accepts,
        order,
        limit: usize::try_from(limit).unwrap_or(1),
        from,
    };
    let found = state.search.find(&query).await.map_err(error_map::search)?;
    let context = criteria.event_context.map(|context| context.bounded(limit));
    let results = results(&state, &requester, &found.hits, context).await?;
    let mut answer = JsonText::object()
        .value("count", found.count)
        .value("highlights", json!(found.highlights))
        .list("results", &results)
        .optional("next_batch", found.next.as_ref().map(Token::to_string));
    if !criteria.groupings.group_by.is_empty() {
        let keys: BTreeSet<GroupKey> = criteria.groupings.group_by.iter().map(|group| group.key).collect();
        answer = answer.raw("groups", &groups(&found, &keys).to_string());
    }
    if criteria.include_state {
        answer = answer.raw("state", &states(&state, &requester, &found.hits, &filter).await?);
    }
    Ok(JsonText::object().raw("search_categories", &JsonText::object().raw("room_events", &answer.text()).text()))
}

fn keys_of(names: Option<&[String]>) -> Result<BTreeSet<Key>, Error> {
    let Some(names) = names else { return Ok(Key::ALL.into()) };
    let key = |name: &String| {
        let known = Key::ALL.into_iter().find(|key| key.name() == name);
        known.ok_or_else(|| Error::invalid_param(format!("`keys`: {name:?} cannot be searched.")))
    };
    names.iter().map(key).collect()
}

/// What is asked for around a result, within bounds.
#[derive(Clone, Copy)]
struct Around {
    before: usize,
    after: usize,
    profiles: bool,
}

impl Context {
    fn bounded(self, limit: u64) -> Around {
        // At least what clients get that do not say.
        let most = (CONTEXTS_MAX / (2 * limit)).clamp(CONTEXT_DEFAULT, CONTEXT_MAX);
        let bounded = |asked: Option<u64>| usize::try_from(asked.unwrap_or(CONTEXT_DEFAULT).min(most)).unwrap_or(0);
        Around { before: bounded(self.before_limit), after: bounded(self.after_limit), profiles: self.include_profile }
    }
}

/// The hits as JSON text, in order.
async fn results(
    state: &State,
    requester: &Requester,
    hits: &[Hit],
    around: Option<Around>,
) -> Result<Vec<String>, Error> {
    let mut by_room: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, hit) in hits.iter().enumerate() {
        by_room.entry(hit.room.id.as_str()).or_default().push(place);
    }
    let mut results = vec![String::new(); hits.len()];
    for places in by_room.into_values() {
        let Some(first) = places.first().and_then(|place| hits.get(*place)) else { continue };
        let mut reader = Reader::new(state, &first.room, requester).await?;
        for (place, hit) in places.into_iter().filter_map(|place| Some((place, hits.get(place)?))) {
            let event = reader.render(std::slice::from_ref(&hit.event)).await?.concat();
            let mut result = JsonText::object().value("rank", hit.rank).raw("result", &event);
            if let Some(around) = around {
                result = result.raw("context", &context(state, &mut reader, hit, around).await?);
            }
            if let Some(slot) = results.get_mut(place) {
                *slot = result.text();
            }
        }
    }
    Ok(results)
}

/// What stands around a hit.
async fn context(state: &State, reader: &mut Reader<'_>, hit: &Hit, around: Around) -> Result<String, Error> {
    let (room, event) = (&hit.room, &hit.event);
    let filter = EventFilter::default();
    let before =
        event_context::page(state, room, reader, event, Direction::Backward, around.before, &filter).await?.events;
    let mut after =
        event_context::page(state, room, reader, event, Direction::Forward, around.after, &filter).await?.events;
    if let Some(left) = reader.left_at() {
        // What came after the leave is not for those who left, though anybody might have seen it (CR9).
        after.retain(|event| event.pos() <= left);
    }
    let start = Place::before(before.last().unwrap_or(event)).map(|place| place.to_string());
    let end = Place::after(after.last().unwrap_or(event)).map(|place| place.to_string());
    let mut text = JsonText::object()
        .optional("start", start)
        .optional("end", end)
        .list("events_before", &reader.render(&before).await?)
        .list("events_after", &reader.render(&after).await?);
    if around.profiles {
        let shown: Vec<&Arc<Event>> = before.iter().chain([event]).chain(&after).collect();
        text = text.raw("profile_info", &Value::Object(profiles(state, room, event, &shown).await?).to_string());
    }
    Ok(text.text())
}

/// Names and pictures of those who sent some events, as they were when one of them was sent.
async fn profiles(
    state: &State,
    room: &Room,
    event: &Event,
    shown: &[&Arc<Event>],
) -> Result<Map<String, Value>, Error> {
    let Some(roots) = event.state_after() else { return Ok(Map::new()) };
    let senders: BTreeSet<&str> = shown.iter().map(|event| event.pdu.sender.as_str()).collect();
    let pairs: Vec<_> = senders.iter().map(|sender| type_key(MEMBER, sender)).collect();
    let members = state.rooms.state_map(room, None, roots, &pairs).await.map_err(error_map::rooms)?;
    let mut profiles = Map::new();
    for sender in senders {
        let Some(member) = members.event(MEMBER, sender) else { continue };
        let mut profile = Map::new();
        for name in ["displayname", "avatar_url"] {
            let text = member.pdu.content.get(name).and_then(event::Json::as_str);
            profile.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        profiles.insert(sender.to_owned(), Value::Object(profile));
    }
    Ok(profiles)
}

/// The hits by what they have in common, in the order of the first of each.
fn groups(found: &Found, keys: &BTreeSet<GroupKey>) -> Value {
    let mut all = Map::new();
    for key in keys {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for hit in &found.hits {
            let name = match key {
                GroupKey::RoomId => hit.room.id.as_str(),
                GroupKey::Sender => hit.event.pdu.sender.as_str(),
            };
            let id = hit.event.id().as_str();
            match groups.iter_mut().find(|(known, _)| *known == name) {
                Some((_, ids)) => ids.push(id),
                None => groups.push((name, vec![id])),
            }
        }
        let mut named = Map::new();
        for (order, (name, ids)) in (1..).zip(groups) {
            let next = match key {
                GroupKey::RoomId => found.next_in_room(name),
                GroupKey::Sender => found.next_of_sender(name),
            };
            let mut group = json!({ "order": order, "results": ids });
            if let (Some(next), Some(group)) = (next, group.as_object_mut()) {
                group.insert("next_batch".to_owned(), next.to_string().into());
            }
            named.insert(name.to_owned(), group);
        }
        let name = match key {
            GroupKey::RoomId => "room_id",
            GroupKey::Sender => "sender",
        };
        all.insert(name.to_owned(), Value::Object(named));
    }
    Value::Object(all)
}

/// The state of each room of the hits that the requester may read now, as JSON text.
async fn states(state: &State, requester: &Requester, hits: &[Hit], filter: &EventFilter) -> Result<String, Error> {
    let rooms: BTreeMap<&str, &Arc<Room>> = hits.iter().map(|hit| (hit.room.id.as_str(), &hit.room)).collect();
    let (mut states, mut left) = (JsonText::object(), STATE_MAX);
    for (id, room) in rooms {
        let roots = state.rooms.readable_state(room, &requester.user_id).await.map_err(error_map::rooms)?;
        let mut nums = state.rooms.tree_nums(room, roots.rest).await.map_err(error_map::rooms)?;
        nums.truncate(left);
        let members = state.rooms.tree_nums(room, roots.members).await.map_err(error_map::rooms)?;
        let lazy = filter.lazy_load_members || nums.len() + members.len() > left;
        if !lazy {
            nums.extend(members);
        }
        left = left.saturating_sub(nums.len());
        let events = state.rooms.events(room, None, &nums).await.map_err(error_map::rooms)?;
        let mut rendered: Vec<String> =
            events.iter().map(|event| state.rooms.render_state(room, event, true)).collect();
        if lazy {
            let shown: Vec<Arc<Event>> =
                hits.iter().filter(|hit| hit.room.id == room.id).map(|hit| Arc::clone(&hit.event)).collect();
            rendered.extend(members_of(state, room, &shown, roots).await?);
        }
        states = states.list(id, &rendered);
    }
    Ok(states.text())
}

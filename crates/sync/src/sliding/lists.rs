//! Which rooms a request is about: the ranges of its lists and its subscriptions (behaviours CZ2, CZ3, CZ7, CZ10).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rooms::state::type_key;
use serde_json::Value;
use store::tables::rooms::MembershipRow;
use store::{RoomNum, StreamPosition};
use users::account_data::{AccountData, TAGS};

use crate::sliding::Context;
use crate::sliding::config::Config;
use crate::sliding::request::{Filters, windows};
use crate::{Error, Sync};

const ENCRYPTION: &str = "m.room.encryption";

/// What is wanted of a room, and why.
#[derive(Debug, Default)]
pub(crate) struct Want<'a> {
    /// Of all lists and subscriptions together.
    pub config: Arc<Config>,
    /// The lists in whose ranges it stands.
    pub lists: Vec<&'a str>,
    /// Whether it is subscribed to.
    pub subscribed: bool,
}

/// Configurations of lists put together: thousands of rooms share few. By the addresses of the two, which stay theirs as
/// long as both are held here.
#[derive(Default)]
struct Unions(HashMap<(usize, usize), Union>);

struct Union {
    _parts: [Arc<Config>; 2],
    whole: Arc<Config>,
}

impl Unions {
    /// What is wanted by either; if the other is the `first`, by that alone.
    fn of(&mut self, one: &Arc<Config>, other: &Arc<Config>, first: bool) -> Arc<Config> {
        if first {
            return Arc::clone(other);
        }
        let key = (Arc::as_ptr(one).addr(), Arc::as_ptr(other).addr());
        let union = self.0.entry(key).or_insert_with(|| {
            let mut whole = Config::clone(one);
            whole.add(other);
            Union { _parts: [Arc::clone(one), Arc::clone(other)], whole: Arc::new(whole) }
        });
        Arc::clone(&union.whole)
    }
}

/// The rooms of a request.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// By room.
    pub rooms: BTreeMap<RoomNum, Want<'a>>,
    /// How many rooms stand in each list once the client knows this answer, whatever its ranges.
    pub counts: Vec<(&'a str, usize)>,
}

/// The rooms that lists are made of.
#[derive(Default)]
struct Order {
    /// In their order.
    rooms: Vec<RoomNum>,
    /// Those of them that are there to be told of one last time.
    leaving: BTreeSet<RoomNum>,
}

/// What filters look at besides memberships.
#[derive(Default)]
struct Known {
    /// Room ids by tag.
    tagged: BTreeMap<String, BTreeSet<String>>,
    /// Children by space.
    children: BTreeMap<String, BTreeSet<String>>,
}

/// What filters look at of one room.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    room_type: Option<String>,
    encrypted: bool,
}

impl Sync {
    /// The rooms that a request is about.
    pub(crate) async fn wanted<'a>(&self, ctx: &Context<'a>) -> Result<Wanted<'a>, Error> {
        let mut wanted = Wanted::default();
        let Order { rooms: order, leaving } =
            if ctx.request.lists.is_empty() { Order::default() } else { self.order(ctx).await? };
        if ctx.request.lists.values().any(|list| list.filters.needs_rooms()) {
            // All at once, which is quicker than one by one.
            self.hold_rooms(ctx.memberships).await?;
        }
        let known = self.known_of(ctx).await?;
        let mut unions = Unions::default();
        for (name, list) in &ctx.request.lists {
            let config = self.shared(&list.config);
            let found = match list.filters == Filters::default() {
                true => order.clone(),
                false => self.filtered(ctx, &order, &list.filters, &known).await?,
            };
            let mut told_last = 0;
            for (first, end) in windows(list.ranges.as_deref(), found.len()) {
                for room in found.get(first..end).unwrap_or_default() {
                    told_last += usize::from(leaving.contains(room));
                    let want = wanted.rooms.entry(*room).or_default();
                    want.config = unions.of(&want.config, &config, want.lists.is_empty());
                    want.lists.push(name);
                }
            }
            wanted.counts.push((name, found.len() - told_last));
        }
        for (room_id, config) in &ctx.request.subscriptions {
            let Some(row) = self.rooms.any_membership(room_id, &ctx.request.user).await? else { continue };
            // The row as of this answer.
            let Some(row) = ctx.memberships.rows.get(&row.room) else { continue };
            let was_there = row.left_pos > StreamPosition::ZERO && !row.forgotten;
            let is_there = matches!(row.membership.as_str(), "join" | "invite" | "knock");
            if is_there || was_there || ctx.is_told_of_less(row) {
                let want = wanted.rooms.entry(row.room).or_default();
                let first = want.lists.is_empty();
                want.config = unions.of(&want.config, &self.shared(config), first);
                want.subscribed = true;
            }
        }
        Ok(wanted)
    }

    /// A configuration whose rules are those that connections remember, if they are the same.
    fn shared(&self, config: &Config) -> Arc<Config> {
        Arc::new(Config { rules: self.known.shared(&config.rules), ..config.clone() })
    }

    /// The rooms that lists are made of: those with the newest event first, whoever may see it. Of rooms in which the user
    /// is not, what happens there does not show: the last change of membership counts.
    async fn order(&self, ctx: &Context<'_>) -> Result<Order, Error> {
        let joined = self.joined_by_newest(&ctx.request.user, ctx.memberships).await?;
        let (mut others, mut leaving) = (Vec::new(), BTreeSet::new());
        for row in ctx.memberships.others.iter().filter_map(|room| ctx.memberships.rows.get(room)) {
            if !is_listed(ctx, row) {
                if !is_leaving(ctx, row) {
                    continue;
                }
                leaving.insert(row.room);
            }
            others.push((std::cmp::Reverse(row.pos), row.room));
        }
        others.sort_unstable();
        let (mut rooms, mut joined) = (Vec::with_capacity(others.len() + joined.rooms.len()), &joined.rooms[..]);
        for other in others {
            let (newer, older) = joined.split_at(joined.partition_point(|newest| *newest < other));
            rooms.extend(newer.iter().map(|(_, room)| *room));
            rooms.push(other.1);
            joined = older;
        }
        rooms.extend(joined.iter().map(|(_, room)| *room));
        Ok(Order { rooms, leaving })
    }

    /// Reads what the filters of all lists need.
    async fn known_of(&self, ctx: &Context<'_>) -> Result<Known, Error> {
        let mut known = Known::default();
        let filters = || ctx.request.lists.values().map(|list| &list.filters);
        if filters().any(|filters| filters.tags.is_some() || !filters.not_tags.is_empty()) {
            let all = self.users.all_account_data(&ctx.request.user).await?;
            for data in all.iter().filter(|data| data.kind == TAGS) {
                for tag in tags(data) {
                    known.tagged.entry(tag).or_default().insert(data.room_id.clone());
                }
            }
        }
        let spaces: BTreeSet<&String> = filters().filter_map(|filters| filters.spaces.as_ref()).flatten().collect();
        for space in spaces {
            let Some(room) = self.rooms.room(space).await? else { continue };
            let is_joined = ctx.memberships.rows.get(&room.num).is_some_and(|row| row.membership == "join");
            if is_joined {
                let children = self.rooms.space_children(&room, false).await?;
                let children = children.iter().filter_map(|child| child.pdu.state_key.clone()).collect();
                known.children.insert(space.clone(), children);
            }
        }
        Ok(known)
    }

    async fn filtered(
        &self,
        ctx: &Context<'_>,
        order: &[RoomNum],
        filters: &Filters,
        known: &Known,
    ) -> Result<Vec<RoomNum>, Error> {
        let mut found = Vec::new();
        for room in order {
            let Some(row) = ctx.memberships.rows.get(room) else { continue };
            if filters.is_invite.is_some_and(|wanted| wanted != (row.membership == "invite")) {
                continue;
            }
            if filters.needs_ids() {
                let Some(room_id) = self.room_id(row.room).await? else { continue };
                if filters.is_dm.is_some_and(|wanted| wanted != ctx.direct.contains(&room_id)) {
                    continue;
                }
                if !known.allows(filters, &room_id) {
                    continue;
                }
            }
            if filters.looks_inside() && !filters.allow(&self.facts(row, filters.is_encrypted.is_some()).await?) {
                continue;
            }
            found.push(row.room);
        }
        Ok(found)
    }

    /// The id of a room, whether this server is in it or not.
    pub(crate) async fn room_id(&self, room: RoomNum) -> Result<Option<String>, Error> {
        if let Some(room) = self.rooms.room_by_num(room).await? {
            return Ok(Some(room.id.clone()));
        }
        Ok(self.rooms.remote_room(room).await?.map(|room| room.room_id))
    }

    /// What a room is, as its member knows it: of a room that one is invited to, what the invite says. Whether it is
    /// encrypted is looked up if that is asked for.
    async fn facts(&self, row: &MembershipRow, with_encryption: bool) -> Result<Facts, Error> {
        if let Some(stripped) = row.stripped.as_deref().filter(|_| row.membership != "join") {
            return Ok(stripped_facts(stripped));
        }
        let Some(room) = self.rooms.room_by_num(row.room).await? else { return Ok(Facts::default()) };
        let room_type = room.create.content.get("type").and_then(|kind| kind.as_str()).map(str::to_owned);
        if !with_encryption {
            return Ok(Facts { room_type, encrypted: false });
        }
        let state = match row.membership.as_str() {
            "join" => room.head().state,
            _ => self.state_at(&room, row.left_pos).await?,
        };
        let found = self.rooms.state_map(&room, None, state, &[type_key(ENCRYPTION, "")]).await?;
        Ok(Facts { room_type, encrypted: found.event(ENCRYPTION, "").is_some() })
    }
}

impl Known {
    /// Whether a room fits a filter as far as tags and spaces go.
    fn allows(&self, filters: &Filters, room_id: &str) -> bool {
        let within = |sets: &BTreeMap<String, BTreeSet<String>>, names: &[String]| {
            names.iter().any(|name| sets.get(name).is_some_and(|rooms| rooms.contains(room_id)))
        };
        !within(&self.tagged, &filters.not_tags)
            && filters.tags.as_ref().is_none_or(|names| within(&self.tagged, names))
            && filters.spaces.as_ref().is_none_or(|names| within(&self.children, names))
    }
}

impl Filters {
    /// Whether room ids are compared.
    fn needs_ids(&self) -> bool {
        self.is_dm.is_some() || self.tags.is_some() || !self.not_tags.is_empty() || self.spaces.is_some()
    }

    fn needs_rooms(&self) -> bool {
        self.needs_ids() || self.looks_inside()
    }

    fn looks_inside(&self) -> bool {
        self.is_encrypted.is_some() || self.room_types.is_some() || !self.not_room_types.is_empty()
    }

    fn allow(&self, facts: &Facts) -> bool {
        self.is_encrypted.is_none_or(|wanted| wanted == facts.encrypted)
            && !self.not_room_types.contains(&facts.room_type)
            && self.room_types.as_ref().is_none_or(|types| types.contains(&facts.room_type))
    }
}

impl Context<'_> {
    /// Whether the client was told of a membership that this one has replaced.
    pub(crate) fn is_told_of_less(&self, row: &MembershipRow) -> bool {
        let told = self.state.get(row.room).and_then(|sent| sent.events.since(self.since()));
        told.is_some_and(|told| row.pos > told)
    }
}

/// Whether a room to which the user is not joined stands in lists. What one has left does not; being removed by others is something to see.
fn is_listed(ctx: &Context<'_>, row: &MembershipRow) -> bool {
    match row.membership.as_str() {
        "knock" => true,
        "invite" => !ctx.ignored.contains(row.sender.as_str()),
        _ => row.sender != ctx.request.user && row.left_pos > StreamPosition::ZERO && !row.forgotten,
    }
}

/// Whether a room that stands in lists no more still has to be told of, since the client believes otherwise. It keeps its
/// place until it is told, and is not counted in the answer that does: the client would not hear of the smaller count
/// before other news.
fn is_leaving(ctx: &Context<'_>, row: &MembershipRow) -> bool {
    !matches!(row.membership.as_str(), "knock" | "invite") && ctx.is_told_of_less(row)
}

fn tags(data: &AccountData) -> Vec<String> {
    let content: Value = serde_json::from_str(&data.content).unwrap_or_default();
    let tags = content.get("tags").and_then(Value::as_object);
    tags.map(|tags| tags.keys().cloned().collect()).unwrap_or_default()
}

fn stripped_facts(stripped: &[u8]) -> Facts {
    let events: Vec<Value> = serde_json::from_slice(stripped).unwrap_or_default();
    let of_type = |kind: &str| events.iter().find(|event| event.get("type").and_then(Value::as_str) == Some(kind));
    let room_type = of_type("m.room.create").and_then(|event| event.pointer("/content/type")?.as_str());
    Facts { room_type: room_type.map(str::to_owned), encrypted: of_type(ENCRYPTION).is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(types: &[Option<&str>]) -> Vec<Option<String>> {
        types.iter().map(|kind| kind.map(str::to_owned)).collect()
    }

    #[test]
    fn cz10_room_types_may_be_none_and_not_wins() {
        let facts = |kind: Option<&str>| Facts { room_type: kind.map(str::to_owned), encrypted: false };
        type Types<'a> = &'a [Option<&'a str>];
        let table: [(Option<Types<'_>>, Types<'_>, Option<&str>, bool); 8] = [
            (None, &[], Some("m.space"), true),
            (None, &[Some("m.space")], Some("m.space"), false),
            (None, &[Some("m.space")], None, true),
            (None, &[None], None, false),
            (Some(&[None]), &[], None, true),
            (Some(&[None]), &[], Some("m.space"), false),
            (Some(&[Some("m.space"), None]), &[Some("m.space")], Some("m.space"), false),
            (Some(&[]), &[], None, false),
        ];
        for (only, not, kind, expected) in table {
            let filters = Filters { room_types: only.map(types), not_room_types: types(not), ..Filters::default() };
            assert_eq!(filters.allow(&facts(kind)), expected, "{only:?} {not:?} {kind:?}");
        }
    }

    #[test]
    fn cz10_tags_and_spaces() {
        let set = |rooms: &[&str]| rooms.iter().map(|room| (*room).to_owned()).collect::<BTreeSet<_>>();
        let known = Known {
            tagged: [("m.favourite".to_owned(), set(&["!a", "!b"])), ("m.lowpriority".to_owned(), set(&["!b"]))].into(),
            children: [("!space".to_owned(), set(&["!a"]))].into(),
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        type Names<'a> = &'a [&'a str];
        let table: [(Option<Names<'_>>, Names<'_>, Option<Names<'_>>, Names<'_>); 7] = [
            (None, &[], None, &["!a", "!b", "!c"]),
            (Some(&["m.favourite"]), &[], None, &["!a", "!b"]),
            (Some(&["m.favourite"]), &["m.lowpriority"], None, &["!a"]),
            (None, &["m.favourite"], None, &["!c"]),
            (None, &[], Some(&["!space", "!unknown"]), &["!a"]),
            (Some(&[]), &[], None, &[]),
            (Some(&["x", "m.lowpriority"]), &[], Some(&["!space"]), &[]),
        ];
        for (tags, not_tags, spaces, expected) in table {
            let filters = Filters {
                tags: tags.map(names),
                not_tags: names(not_tags),
                spaces: spaces.map(names),
                ..Filters::default()
            };
            let found: Vec<_> = ["!a", "!b", "!c"].into_iter().filter(|room| known.allows(&filters, room)).collect();
            assert_eq!(found, expected, "{filters:?}");
        }
    }

    #[test]
    fn cz10_invites_tell_what_they_tell() {
        let stripped = br#"[{"type":"m.room.create","content":{"type":"m.space"}},{"type":"m.room.encryption"}]"#;
        assert_eq!(stripped_facts(stripped), Facts { room_type: Some("m.space".to_owned()), encrypted: true });
        assert_eq!(stripped_facts(b"[{}]"), Facts::default());
        assert_eq!(stripped_facts(b"x"), Facts::default());
    }
}

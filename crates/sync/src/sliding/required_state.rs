//! The state that a room's answer holds: all that is wanted when the client has nothing, else what changed of what it
//! was ever sent, and what it wants for the first time (behaviours CZ3 to CZ6). It is always the state after the
//! timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rooms::state::{TypeKey, type_key};
use rooms::state_tree::Root;
use rooms::{Event, Room, Roots};
use store::{EventNum, UserId};

use crate::room_section::Timeline;
use crate::sliding::Context;
use crate::sliding::config::{MEMBER, Rules};
use crate::sliding::room::Telling;
use crate::{Error, Sync};

/// State to tell of.
#[derive(Default)]
pub(crate) struct RequiredState {
    /// The events.
    pub events: Vec<Arc<Event>>,
    /// What there is no more.
    pub gone: Vec<(String, String)>,
    /// Types of which something changed, wanted or not, but for members.
    pub kinds: BTreeSet<String>,
    /// Whether any member changed.
    pub members_changed: bool,
}

/// What changed between two states.
#[derive(Default)]
struct Delta {
    now: Vec<Arc<Event>>,
    gone: Vec<Arc<Event>>,
}

impl Sync {
    /// The state to tell of.
    pub(crate) async fn required_state(
        &self,
        ctx: &Context<'_>,
        telling: &Telling<'_>,
        timeline: &Timeline,
    ) -> Result<RequiredState, Error> {
        let Telling { room, want, was, end, initial, grown, .. } = *telling;
        let mut state = RequiredState::default();
        let mut found: BTreeMap<EventNum, Arc<Event>> = BTreeMap::new();
        if !initial {
            self.add_changes(telling, timeline, &mut state, &mut found).await?;
        }
        if initial || grown {
            for event in self.matching(room, end, &want.config.rules).await? {
                let is_new =
                    initial || !event.pdu.state_entry().is_some_and(|(kind, key)| was.rules.matches(kind, key));
                if is_new {
                    found.insert(event.num(), event);
                }
            }
        }
        if telling.rules().lazy() {
            self.add_needed_members(ctx, telling, timeline, &mut found).await?;
        }
        state.events = found.into_values().collect();
        Ok(state)
    }

    /// Adds what changed since the client had the room.
    async fn add_changes(
        &self,
        telling: &Telling<'_>,
        timeline: &Timeline,
        state: &mut RequiredState,
        found: &mut BTreeMap<EventNum, Arc<Event>>,
    ) -> Result<(), Error> {
        let Telling { room, was, since, upto, end, .. } = *telling;
        let mut known = self.state_at(room, since).await?;
        let rest =
            self.delta(room, Roots { members: Root::EMPTY, ..known }, Roots { members: Root::EMPTY, ..end }).await?;
        state.kinds = rest.now.iter().chain(&rest.gone).map(|event| event.pdu.kind.clone()).collect();
        state.members_changed = known.members != end.members;
        let mut delta = rest;
        let lazy = was.rules.lazy();
        if state.members_changed && was.rules.some_members() {
            let whole_pos = room.whole_pos();
            let mut named: BTreeSet<TypeKey> = BTreeSet::new();
            if !was.rules.all_members() && since < whole_pos && whole_pos <= upto {
                // Who was in the room before it was whole is no news.
                let meanwhile = self.skip_completion(room, &mut known).await?;
                named.extend(meanwhile.iter().filter_map(|event| event.pdu.state_entry()).map(owned));
            }
            if lazy && timeline.limited {
                // The client asks anew for members that it needs. Those that it named are told.
                named.extend(was.rules.pairs().filter(|(kind, _)| *kind == MEMBER).map(owned));
            } else {
                let (known, end) = (Roots { rest: Root::EMPTY, ..known }, Roots { rest: Root::EMPTY, ..end });
                let members = self.delta(room, known, end).await?;
                delta.now.extend(members.now);
                delta.gone.extend(members.gone);
            }
            let named: Vec<TypeKey> = named.into_iter().collect();
            let members = self.rooms.state_map(room, None, end, &named).await?;
            found.extend(members.0.into_values().map(|event| (event.num(), event)));
        }
        let wanted = |event: &Arc<Event>| {
            let entry = event.pdu.state_entry();
            entry.is_some_and(|(kind, key)| was.rules.matches(kind, key) || (lazy && kind == MEMBER))
        };
        found.extend(delta.now.into_iter().filter(wanted).map(|event| (event.num(), event)));
        let gone = delta.gone.into_iter().filter(wanted);
        state.gone.extend(gone.filter_map(|event| event.pdu.state_entry().map(owned)));
        Ok(())
    }

    async fn delta(&self, room: &Arc<Room>, known: Roots, end: Roots) -> Result<Delta, Error> {
        if known == end {
            return Ok(Delta::default());
        }
        let changes = self.rooms.state_delta(room, known, end).await?;
        let now: Vec<EventNum> = changes.iter().filter_map(|change| change.after).collect();
        let gone: Vec<EventNum> =
            changes.iter().filter(|change| change.after.is_none()).filter_map(|change| change.before).collect();
        let now = self.rooms.events(room, None, &now).await?;
        Ok(Delta { now, gone: self.rooms.events(room, None, &gone).await? })
    }

    /// All of a state that rules want for itself.
    async fn matching(&self, room: &Arc<Room>, end: Roots, rules: &Rules) -> Result<Vec<Arc<Event>>, Error> {
        let mut pairs: BTreeSet<TypeKey> = rules.pairs().map(owned).collect();
        let mut found = Vec::new();
        if rules.any_type() {
            let nums = self.rooms.tree_nums(room, end.rest).await?;
            found.extend(self.rooms.events(room, None, &nums).await?);
            pairs.retain(|(kind, _)| kind == MEMBER);
        } else {
            let kinds: Vec<&str> = rules.types().collect();
            if !kinds.is_empty() {
                pairs.extend(self.rooms.keys_of(room, &kinds).await?);
            }
        }
        if rules.all_members() {
            let nums = self.rooms.tree_nums(room, end.members).await?;
            found.extend(self.rooms.events(room, None, &nums).await?);
            pairs.retain(|(kind, _)| kind != MEMBER);
        }
        let pairs: Vec<TypeKey> = pairs.into_iter().collect();
        found.extend(self.rooms.state_map(room, None, end, &pairs).await?.0.into_values());
        found.retain(|event| event.pdu.state_entry().is_some_and(|(kind, key)| rules.matches(kind, key)));
        Ok(found)
    }

    /// Adds the members whom the timeline needs and of whom the client has not been told, as far as it was told.
    async fn add_needed_members(
        &self,
        ctx: &Context<'_>,
        telling: &Telling<'_>,
        timeline: &Timeline,
        found: &mut BTreeMap<EventNum, Arc<Event>>,
    ) -> Result<(), Error> {
        let Telling { room, since, end, initial, expanded, grown, .. } = *telling;
        let (user, device) = (&ctx.request.user, &ctx.lazy_device);
        if initial || expanded || grown || timeline.limited {
            self.lazy.forget(user, device, room.num);
        } else {
            self.lazy.begin(user, device, room.num, since);
        }
        let mut needed: BTreeSet<UserId> = BTreeSet::new();
        for event in &timeline.events {
            needed.insert(UserId::from(event.pdu.sender.as_str()));
            needed
                .extend(event.pdu.state_entry().filter(|(kind, _)| *kind == MEMBER).map(|(_, key)| UserId::from(key)));
        }
        let told: Vec<UserId> = found
            .values()
            .filter_map(|event| event.pdu.state_entry())
            .filter(|(kind, _)| *kind == MEMBER)
            .map(|(_, key)| UserId::from(key))
            .collect();
        for member in &told {
            self.lazy.tell(user, device, room.num, member, ctx.upto);
            needed.remove(member);
        }
        let missing: Vec<TypeKey> = needed
            .iter()
            .filter(|member| self.lazy.tell(user, device, room.num, member, ctx.upto))
            .map(|member| type_key(MEMBER, member.as_str()))
            .collect();
        let members = self.rooms.state_map(room, None, end, &missing).await?;
        found.extend(members.0.into_values().map(|event| (event.num(), event)));
        Ok(())
    }
}

fn owned((kind, state_key): (&str, &str)) -> TypeKey {
    type_key(kind, state_key)
}

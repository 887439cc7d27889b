//! Who is notified of an event: decided by an evaluator that the room engine is given at boot, so that counts commit
//! with the event.

use std::sync::Arc;

use async_trait::async_trait;
use event::power_levels::{Level, PowerLevels};
use event::{Pdu, Rules};
use store::UserId;

use crate::draft::Draft;
use crate::room::{Head, Overlay, Room};
use crate::state::{MEMBER, StateMap, type_key};
use crate::{Result, Rooms};

/// Most local members for whom rules are evaluated one by one, per event.
const EVALUATED_MAX: usize = 100_000;

/// What push rules look at besides the event (client-server API, push rule conditions).
pub struct RoomContext<'a> {
    /// The room id.
    pub room_id: &'a str,
    /// Joined members.
    pub joined: u64,
    /// The sender's power level; `i64::MAX` for creators in room version 12.
    pub sender_level: i64,
    /// The level that a kind of notification needs, such as `room` for `@room`.
    pub notification_level: &'a (dyn Fn(&str) -> i64 + Send + Sync),
    /// The member events of those who look for their names ([`Notify::look_for_names`]).
    pub state: &'a StateMap,
}

/// A local user for whom the event counts otherwise than by default, or highlights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The user.
    pub user: UserId,
    /// Whether it counts as a notification for the user.
    pub notify: bool,
    /// Whether it highlights.
    pub highlight: bool,
    /// Whether the rule that says so speaks of all messages in the room, rather than of something about this one.
    pub standing: bool,
}

/// What the evaluator says about one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the event counts for members with default rules.
    pub by_default: bool,
    /// Members for whom it is otherwise, or who are highlighted.
    pub exceptions: Vec<Exception>,
}

/// Evaluates push rules. Given to the engine at boot.
#[async_trait]
pub trait Notify: Send + Sync + 'static {
    /// Those of these local users whose rules look for their display names in the room.
    async fn look_for_names(&self, _users: &[UserId]) -> Vec<UserId> {
        Vec::new()
    }

    /// Judges an event for these local users (the sender is not among them).
    async fn judge(&self, event: &Arc<Pdu>, context: &RoomContext<'_>, users: &[UserId]) -> Judgement;
}

/// An evaluator by which messages count and nothing highlights.
pub struct MessagesCount;

#[async_trait]
impl Notify for MessagesCount {
    async fn judge(&self, event: &Arc<Pdu>, _context: &RoomContext<'_>, _users: &[UserId]) -> Judgement {
        let by_default = matches!(event.kind.as_str(), "m.room.message" | "m.room.encrypted");
        Judgement { by_default, exceptions: Vec::new() }
    }
}

/// What push rules look at in a room, as of one of its states.
pub struct Circumstances {
    /// Joined members.
    pub joined: u64,
    /// The member events of those who look for their names, and the power levels.
    pub state: StateMap,
    rules: &'static Rules,
    create: Arc<Pdu>,
}

impl Circumstances {
    fn levels(&self) -> PowerLevels<'_> {
        let power = self.state.event("m.room.power_levels", "").map(|event| &*event.pdu);
        PowerLevels::from_state(self.rules, power, &self.create)
    }

    /// A user's power level; `i64::MAX` for creators in room version 12.
    pub fn level_of(&self, user: &str) -> i64 {
        number(self.levels().user(user))
    }

    /// The level that a kind of notification needs, such as `room` for `@room`.
    pub fn notification_level(&self, kind: &str) -> i64 {
        number(self.levels().notification(kind))
    }

    /// A user's name in the room, if the user was asked for and has one.
    pub fn display_name(&self, user: &str) -> Option<&str> {
        self.state.event(MEMBER, user)?.pdu.content.get("displayname")?.as_str()
    }
}

fn number(level: Level) -> i64 {
    match level {
        Level::Int(level) => level,
        Level::Infinite => i64::MAX,
    }
}

impl Rooms {
    /// What push rules look at in a room as it is now; `named` are those who look for their names.
    ///
    /// # Errors
    /// As the store says.
    pub async fn circumstances(&self, room: &Room, named: &[UserId]) -> Result<Circumstances> {
        self.circumstances_in(room, None, &room.head(), named).await
    }

    async fn circumstances_in(
        &self,
        room: &Room,
        overlay: Option<&Overlay>,
        head: &Head,
        named: &[UserId],
    ) -> Result<Circumstances> {
        let members = named.iter().map(|user| type_key(MEMBER, user.as_str()));
        let pairs: Vec<_> = std::iter::once(type_key("m.room.power_levels", "")).chain(members).collect();
        let state = self.state_map(room, overlay, head.state, &pairs).await?;
        // A large room of which few members are known yet is no conversation of two.
        let assumed = head.partial.as_ref().map_or(0, |_| head.servers.len() as u64);
        let joined = u64::try_from(head.row.joined).unwrap_or(0).max(assumed);
        Ok(Circumstances { joined, state, rules: room.rules, create: Arc::clone(&room.create) })
    }

    pub(crate) async fn judge_notifications(&self, draft: &Draft<'_>, pdu: &Arc<Pdu>) -> Result<Judgement> {
        let others = draft.head.local.iter().filter(|user| user.as_str() != pdu.sender);
        let mut users: Vec<UserId> = others.take(EVALUATED_MAX).cloned().collect();
        if pdu.membership() == Some("invite")
            && let Some(target) = pdu.state_key.as_deref().map(UserId::from)
            && target.server_name() == self.server_name()
            && target.as_str() != pdu.sender
            && !draft.head.local.contains(&target)
        {
            users.push(target);
        }
        let named = self.notify.look_for_names(&users).await;
        let found = self.circumstances_in(draft.room, Some(&draft.overlay), &draft.head, &named).await?;
        let context = RoomContext {
            room_id: &draft.room.id,
            joined: found.joined,
            sender_level: found.level_of(&pdu.sender),
            notification_level: &|kind| found.notification_level(kind),
            state: &found.state,
        };
        Ok(self.notify.judge(pdu, &context, &users).await)
    }
}

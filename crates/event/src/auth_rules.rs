//! The authorization rules of all room versions, and the selection of auth events.
//!
//! Rules are cited by their numbers in room version 12; a rule that only older
//! versions have is named instead. Signatures are not checked here: that a
//! restricted join carries the signature of the authorising server (rule 5.2)
//! is part of [`verify`](crate::verify).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ruma_common::{EventId, OwnedEventId, RoomId};

use crate::builder::Template;
use crate::ids;
use crate::json::{Json, Object};
use crate::pdu::{Pdu, create_of_room_id};
use crate::power_levels::{MalformedLevel, PowerLevels};
use crate::room_version::{Rules, SUPPORTED_VERSIONS};

mod member;
mod power_levels;
mod selection;

pub use selection::auth_types;

/// A room state, as far as the rules ask for it.
pub trait StateView {
    /// The event that the state holds under a type and state key.
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>>;
}

impl StateView for BTreeMap<(String, String), Arc<Pdu>> {
    fn get(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        BTreeMap::get(self, &(kind.to_owned(), state_key.to_owned())).cloned()
    }
}

/// An event named in `auth_events`.
#[derive(Debug, Clone)]
pub struct AuthEvent {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// Whether it was rejected on receipt.
    pub rejected: bool,
}

/// Why an event is not authorized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The rule, numbered as in room version 12, for example `5.3.3`.
    pub rule: &'static str,
    /// What the event did wrong.
    pub reason: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (authorization rule {})", self.reason, self.rule)
    }
}

impl std::error::Error for Denied {}

/// The refusal under a rule.
pub(crate) fn denied<T>(rule: &'static str, reason: impl Into<String>) -> Result<T, Denied> {
    Err(Denied { rule, reason: reason.into() })
}

impl From<MalformedLevel> for Denied {
    fn from(error: MalformedLevel) -> Self {
        Denied { rule: "power levels", reason: error.to_string() }
    }
}

/// The event that the rules are applied to: a received one or a local
/// [`Template`] that is not signed yet.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    room_id: Option<&'a RoomId>,
    event_id: Option<&'a EventId>,
    sender: &'a str,
    kind: &'a str,
    state_key: Option<&'a str>,
    content: &'a Object,
    prev_events: &'a [OwnedEventId],
    redacts: Option<&'a EventId>,
    names_room: bool,
}

impl<'a> From<&'a Pdu> for Subject<'a> {
    fn from(pdu: &'a Pdu) -> Self {
        Subject {
            room_id: Some(&pdu.room_id),
            event_id: Some(&pdu.event_id),
            sender: &pdu.sender,
            kind: &pdu.kind,
            state_key: pdu.state_key.as_deref(),
            content: &pdu.content,
            prev_events: &pdu.prev_events,
            redacts: pdu.redacts.as_deref(),
            names_room: pdu.names_room(),
        }
    }
}

impl<'a> From<&'a Arc<Pdu>> for Subject<'a> {
    fn from(pdu: &'a Arc<Pdu>) -> Self {
        Subject::from(pdu.as_ref())
    }
}

impl<'a> From<&'a Template> for Subject<'a> {
    fn from(template: &'a Template) -> Self {
        Subject {
            room_id: template.room_id.as_deref(),
            event_id: None,
            sender: &template.sender,
            kind: &template.kind,
            state_key: template.state_key.as_deref(),
            content: &template.content,
            prev_events: &template.prev_events,
            redacts: template.redacts.as_deref(),
            names_room: template.room_id.is_some(),
        }
    }
}

impl<'a> Subject<'a> {
    fn content_str(&self, key: &str) -> Option<&'a str> {
        self.content.get(key).and_then(Json::as_str)
    }

    fn sender_server(&self) -> &'a str {
        ids::domain(self.sender).unwrap_or_default()
    }
}

/// Rules 1 to 3, then all others against the state that the auth events make.
///
/// `auth` holds what the event names in `auth_events`, in any order; `create`
/// is the accepted create event of the room.
///
/// # Errors
///
/// The rule that the event breaks; the event is to be rejected.
pub fn check_against_auth_events(rules: &Rules, pdu: &Pdu, auth: &[AuthEvent], create: &Pdu) -> Result<(), Denied> {
    check_auth_events(rules, pdu, auth, create)?;
    let state: BTreeMap<(String, String), Arc<Pdu>> = auth
        .iter()
        .filter_map(|auth| {
            let (kind, state_key) = auth.pdu.state_entry()?;
            Some(((kind.to_owned(), state_key.to_owned()), auth.pdu.clone()))
        })
        .collect();
    check(rules, pdu, &state, create)
}

/// Rules 1 to 3: what does not depend on a state.
///
/// # Errors
///
/// The rule that the event breaks; the event is to be rejected.
pub fn check_auth_events(rules: &Rules, pdu: &Pdu, auth: &[AuthEvent], create: &Pdu) -> Result<(), Denied> {
    if pdu.kind == "m.room.create" {
        return check_create(rules, &Subject::from(pdu));
    }
    check_room(rules, pdu, create)?;
    let state_key = pdu.state_key.as_deref();
    let expected = auth_types(rules, &pdu.sender, &pdu.kind, state_key, &pdu.content);
    let mut seen: Vec<(&str, &str)> = Vec::with_capacity(auth.len());
    for id in &pdu.auth_events {
        let Some(AuthEvent { pdu: auth, rejected }) = auth.iter().find(|a| a.pdu.event_id == *id) else {
            return denied("3", format!("the auth event {id} is missing"));
        };
        let Some(entry) = auth.state_entry() else {
            return denied("3.2", format!("the auth event {id} is not a state event"));
        };
        if seen.contains(&entry) {
            return denied("3.1", format!("the auth events hold {entry:?} twice"));
        }
        if !expected.iter().any(|(kind, key)| (kind.as_str(), key.as_str()) == entry) {
            return denied("3.2", format!("{entry:?} does not belong into the auth events"));
        }
        if *rejected {
            return denied("3.3", format!("the auth event {id} was rejected"));
        }
        if auth.room_id != pdu.room_id {
            return denied("3.5", format!("the auth event {id} is of another room"));
        }
        seen.push(entry);
    }
    if !rules.special_create && !seen.contains(&("m.room.create", "")) {
        return denied("3.4", "there is no create event among the auth events");
    }
    Ok(())
}

/// Rule 2 (version 12), and that the given create event is that of the room.
fn check_room(rules: &Rules, pdu: &Pdu, create: &Pdu) -> Result<(), Denied> {
    let same_room = if rules.special_create {
        create_of_room_id(&pdu.room_id).as_ref() == Some(&create.event_id)
    } else {
        create.room_id == pdu.room_id
    };
    if same_room { Ok(()) } else { denied("2", "the event is of another room") }
}

/// Rule 1.
fn check_create(rules: &Rules, event: &Subject<'_>) -> Result<(), Denied> {
    if !event.prev_events.is_empty() {
        return denied("1.1", "a create event has no previous events");
    }
    if rules.special_create {
        if event.names_room {
            return denied("1.2", "a create event has no room ID");
        }
    } else if event.room_id.and_then(|id| ids::domain(id.as_str())) != Some(event.sender_server()) {
        return denied("1.2", "the room ID is of another server than the sender");
    }
    match event.content.get("room_version") {
        None => {}
        Some(Json::String(version)) if SUPPORTED_VERSIONS.contains(&version.as_str()) => {}
        Some(_) => return denied("1.3", "the room version is not known"),
    }
    if !rules.creator_is_sender && !event.content.contains_key("creator") {
        return denied("create without creator", "the create event names no creator");
    }
    if rules.privileged_creators && !additional_creators_valid(event.content) {
        return denied("1.4", "`additional_creators` is not a list of user IDs");
    }
    Ok(())
}

fn additional_creators_valid(content: &Object) -> bool {
    match content.get("additional_creators") {
        None => true,
        Some(Json::Array(users)) => users.iter().all(|user| user.as_str().is_some_and(ids::is_user_id)),
        Some(_) => false,
    }
}

/// All rules that depend on a state, against that state; for a create event
/// rule 1.
///
/// # Errors
///
/// The rule that the event breaks.
pub fn check<'a>(
    rules: &Rules,
    event: impl Into<Subject<'a>>,
    state: &dyn StateView,
    create: &Pdu,
) -> Result<(), Denied> {
    let event = event.into();
    if event.kind == "m.room.create" {
        return check_create(rules, &event);
    }
    let federates = create.content.get("m.federate").and_then(Json::as_bool) != Some(false);
    if !federates && event.sender_server() != create.sender_server() {
        return denied("4", "the room is not federated");
    }
    if rules.special_aliases && event.kind == "m.room.aliases" {
        return check_aliases(&event);
    }
    let context = Context { rules, event, state, create };
    if event.kind == "m.room.member" {
        return member::check(&context);
    }
    check_other(&context)
}

/// The rule for `m.room.aliases` of room versions 1 to 5.
fn check_aliases(event: &Subject<'_>) -> Result<(), Denied> {
    if event.state_key == Some(event.sender_server()) {
        return Ok(());
    }
    denied("m.room.aliases", "the state key is not the sender's server")
}

/// Rules 6 to 11.
fn check_other(context: &Context<'_>) -> Result<(), Denied> {
    let event = &context.event;
    if context.membership(event.sender) != "join" {
        return denied("6", "the sender is not joined");
    }
    let power_levels_event = context.state.get("m.room.power_levels", "");
    let levels = PowerLevels::from_state(context.rules, power_levels_event.as_deref(), context.create);
    let sender_level = levels.try_user(event.sender)?;
    if event.kind == "m.room.third_party_invite" {
        if sender_level >= levels.try_property("invite")? {
            return Ok(());
        }
        return denied("7.1", "the sender may not invite");
    }
    if levels.try_required(event.kind, event.state_key.is_some())? > sender_level {
        return denied("8", format!("the sender may not send events of type {}", event.kind));
    }
    let foreign_key = |key: &str| key.starts_with('@') && key != event.sender;
    if event.state_key.is_some_and(foreign_key) {
        return denied("9", "the state key is another user's ID");
    }
    if event.kind == "m.room.power_levels" {
        return power_levels::check(context, power_levels_event.as_deref(), sender_level);
    }
    // One that was redacted itself names no target any more. It takes nothing away from anybody, and whoever saw it whole
    // has accepted it: to reject it, too, what follows it, would part those who saw it from those who did not.
    let target = event.redacts.filter(|_| context.rules.redaction_auth_rule && event.kind == "m.room.redaction");
    if let Some(target) = target {
        let same_server = ids::domain(target.as_str()) == Some(own_id_server(event));
        if !same_server && sender_level < levels.try_property("redact")? {
            return denied("m.room.redaction", "the sender may not redact");
        }
    }
    Ok(())
}

/// The server in the event's ID; a template will get one of the sender's server.
fn own_id_server<'a>(event: &Subject<'a>) -> &'a str {
    let id = event.event_id.map(EventId::as_str);
    id.and_then(ids::domain).unwrap_or_else(|| event.sender_server())
}

/// What the single rules look at.
struct Context<'a> {
    rules: &'a Rules,
    event: Subject<'a>,
    state: &'a dyn StateView,
    create: &'a Pdu,
}

impl Context<'_> {
    /// The membership of a user; `leave` where there is none.
    fn membership(&self, user_id: &str) -> String {
        let member = self.state.get("m.room.member", user_id);
        let membership = member.as_deref().and_then(Pdu::membership);
        membership.unwrap_or("leave").to_owned()
    }

    /// The join rule; `invite` where there is none.
    fn join_rule(&self) -> String {
        let join_rules = self.state.get("m.room.join_rules", "");
        let join_rule = join_rules.as_deref().and_then(|pdu| pdu.content_str("join_rule"));
        join_rule.unwrap_or("invite").to_owned()
    }
}

//! Judging an event by push rules: pure, and cheap for the many users who have default rules (behaviours CP2, CP3).
//!
//! Default rules speak of one user in two places only: an invite for it, and a mention of it. So they are evaluated once
//! for everybody, and again only for the few whom the event names.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::LazyLock;

use event::{Json, Pdu};
use serde_json::Value;
use store::UserId;

use super::{Rule, RuleKind, Ruleset};
use crate::{Error, Users};

/// How many characters the patterns of all users together may look at for one event; a pattern for which nothing is left
/// does not match. Some milliseconds: the room waits meanwhile.
const LOOKS_MAX: u64 = 20_000_000;
/// Bounds of each user's share of them. A message of any size can be searched for many usual patterns with the least.
const LOOKS_OF_USER: std::ops::RangeInclusive<u64> = 200_000..=4_000_000;
/// The user id of nobody, for whom the default rules are evaluated on behalf of all that an event does not name.
const NOBODY: &str = "@";
/// The kind of the condition that asks whether the user follows the thread (MSC4306).
pub(super) const FOLLOWS_THREAD: &str = "io.element.msc4306.thread_subscription";

static DEFAULT: LazyLock<Compiled> = LazyLock::new(|| Compiled::new(&Ruleset::default().rules(&UserId::from(NOBODY))));

/// What the rules look at besides the event.
#[derive(Clone)]
pub struct Context<'a> {
    /// The room id.
    pub room_id: &'a str,
    /// Joined members.
    pub joined: u64,
    /// The sender's power level; `i64::MAX` for creators from room version 12 on.
    pub sender_level: i64,
    /// The level that a kind of notification needs, such as `room` for `@room`: the room's `notifications`.
    pub notification_level: &'a (dyn Fn(&str) -> i64 + Send + Sync),
    /// A user's display name in the room, where it is known.
    pub display_name: &'a (dyn Fn(&UserId) -> Option<String> + Send + Sync),
}

/// What the rules say for one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// The event counts as a notification.
    pub notify: bool,
    /// It highlights.
    pub highlight: bool,
}

/// What the rules say for all local users of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the event counts for those who are not among the exceptions.
    pub by_default: bool,
    /// Those for whom it counts otherwise, or highlights; and whether the rule that says so is a standing one: one that
    /// speaks of all messages in the room, or of all, rather than of something about this one.
    pub exceptions: Vec<(UserId, Notified, bool)>,
}

/// Rules made ready for evaluation, most important first.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    rules: Vec<CompiledRule>,
    /// Whether any rule looks for the user's display name.
    looks_for_name: bool,
    /// Whether any rule asks whether the user follows the thread.
    asks_for_threads: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct CompiledRule {
    conditions: Vec<Condition>,
    /// Whether it holds for all messages in a room alike.
    standing: bool,
    outcome: Notified,
    actions: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Match { path: Vec<String>, glob: Glob, words: bool },
    Is { path: Vec<String>, value: Value },
    Contains { path: Vec<String>, value: Value },
    DisplayName,
    MemberCount { comparison: Comparison, count: u64 },
    Permission(String),
    FollowsThread(bool),
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    Greater,
    AtMost,
    AtLeast,
}

/// A glob over lower-cased characters: pieces between which `*` stands for any number, in which [`ONE`] stands for exactly
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Vec<char>>);

/// A text in lower case, where there is one.
type Folded = Option<Rc<[char]>>;

/// An event under evaluation: its texts are lower-cased once, and what patterns cost is bounded.
struct Sight<'a> {
    event: &'a Pdu,
    context: &'a Context<'a>,
    /// Those who follow the thread of the event.
    followers: &'a BTreeSet<UserId>,
    folded: RefCell<BTreeMap<Vec<String>, Folded>>,
    looks: Looks,
}

/// How many characters may still be looked at.
pub(crate) struct Looks(Cell<u64>);

impl Looks {
    /// So many.
    pub(crate) fn new(count: u64) -> Self {
        Self(Cell::new(count))
    }

    /// Takes so many, if they are left; else none are left.
    fn take(&self, count: usize) -> bool {
        let left = self.0.get().checked_sub(u64::try_from(count).unwrap_or(u64::MAX));
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

impl<'a> Sight<'a> {
    fn new(event: &'a Pdu, context: &'a Context<'a>, followers: &'a BTreeSet<UserId>) -> Self {
        Self { event, context, followers, folded: RefCell::default(), looks: Looks::new(*LOOKS_OF_USER.end()) }
    }

    /// Whether the text at `path` matches; false if there is none.
    fn matches(&self, path: &[String], glob: &Glob, words: bool) -> bool {
        let known = self.folded.borrow().get(path).cloned();
        let folded = known.unwrap_or_else(|| {
            let text = text_at(self.event, self.context, path);
            let folded = text.map(|text| fold(text).into());
            self.folded.borrow_mut().insert(path.to_vec(), folded.clone());
            folded
        });
        folded.is_some_and(|text| match words {
            true => glob.matches_words(&text, &self.looks),
            false => glob.matches(&text, &self.looks),
        })
    }
}

impl Compiled {
    /// Compiles the enabled ones of these rules.
    pub fn new(rules: &[Rule]) -> Self {
        let enabled = rules.iter().filter(|rule| rule.enabled);
        let rules: Vec<CompiledRule> = enabled
            .map(|rule| CompiledRule {
                conditions: conditions(rule),
                standing: is_standing(rule),
                outcome: outcome(&rule.actions),
                actions: rule.actions.clone(),
            })
            .collect();
        let looks_for_name = rules.iter().any(|rule| rule.conditions.contains(&Condition::DisplayName));
        let asks = |condition: &Condition| matches!(condition, Condition::FollowsThread(_));
        let asks_for_threads = rules.iter().any(|rule| rule.conditions.iter().any(asks));
        Self { rules, looks_for_name, asks_for_threads }
    }

    /// Whether any rule asks whether the user follows the thread of an event.
    pub(super) fn asks_for_threads(&self) -> bool {
        self.asks_for_threads
    }

    /// The actions of the first rule that matches; empty if none does.
    pub fn actions(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> &[Value] {
        self.first(user, &Sight::new(event, context, &BTreeSet::new())).map_or(&[], |rule| &rule.actions)
    }

    /// What the first rule that matches says; nothing if none does.
    pub fn evaluate(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> Notified {
        self.outcome(user, &Sight::new(event, context, &BTreeSet::new()))
    }

    fn outcome(&self, user: &UserId, sight: &Sight<'_>) -> Notified {
        self.first(user, sight).map_or(Notified::default(), |rule| rule.outcome)
    }

    fn first(&self, user: &UserId, sight: &Sight<'_>) -> Option<&CompiledRule> {
        self.rules.iter().find(|rule| rule.conditions.iter().all(|condition| condition.holds(user, sight)))
    }
}

/// Whether a rule holds for all messages in a room alike: one of the last resort, one for the room, or one above all others
/// that asks for nothing but the room.
fn is_standing(rule: &Rule) -> bool {
    let asks_for_room = |condition: &Value| {
        condition["key"] == "room_id" && matches!(condition["kind"].as_str(), Some("event_match" | "event_property_is"))
    };
    match rule.kind {
        RuleKind::Room => true,
        RuleKind::Override => rule.conditions.iter().all(asks_for_room),
        RuleKind::Underride => rule.default,
        RuleKind::Content | RuleKind::Postcontent | RuleKind::Sender => false,
    }
}

fn conditions(rule: &Rule) -> Vec<Condition> {
    let is = |key: &str, id: &str| vec![Condition::Is { path: vec![key.to_owned()], value: id.into() }];
    match rule.kind {
        RuleKind::Override | RuleKind::Postcontent | RuleKind::Underride => {
            rule.conditions.iter().map(compile).collect()
        }
        RuleKind::Room => is("room_id", &rule.rule_id),
        RuleKind::Sender => is("sender", &rule.rule_id),
        RuleKind::Content => {
            let path = vec!["content".to_owned(), "body".to_owned()];
            let glob = Glob::new(rule.pattern.as_deref().unwrap_or_default());
            vec![Condition::Match { path, glob, words: true }]
        }
    }
}

fn outcome(actions: &[Value]) -> Notified {
    let notify = actions.iter().any(|action| action == "notify");
    let highlight = actions.iter().any(|action| {
        action.get("set_tweak").is_some_and(|tweak| tweak == "highlight")
            && action.get("value").is_none_or(|value| value == &Value::Bool(true))
    });
    Notified { notify, highlight: notify && highlight }
}

/// A condition; one that is not understood never holds.
fn compile(condition: &Value) -> Condition {
    let text = |member: &str| condition.get(member).and_then(Value::as_str);
    let path = || text("key").map(segments);
    let scalar = || condition.get("value").filter(|value| !value.is_array() && !value.is_object() && !value.is_f64());
    let compiled = match text("kind") {
        Some("event_match") => path().zip(text("pattern")).map(|(path, pattern)| Condition::Match {
            words: path == ["content", "body"],
            path,
            glob: Glob::new(pattern),
        }),
        Some("event_property_is") => {
            path().zip(scalar()).map(|(path, value)| Condition::Is { path, value: value.clone() })
        }
        Some("event_property_contains") => {
            path().zip(scalar()).map(|(path, value)| Condition::Contains { path, value: value.clone() })
        }
        Some("contains_display_name") => Some(Condition::DisplayName),
        Some("room_member_count") => text("is").and_then(member_count),
        Some("sender_notification_permission") => text("key").map(|key| Condition::Permission(key.to_owned())),
        Some(FOLLOWS_THREAD) => condition.get("subscribed").and_then(Value::as_bool).map(Condition::FollowsThread),
        _ => None,
    };
    compiled.unwrap_or(Condition::Never)
}

fn member_count(is: &str) -> Option<Condition> {
    let signs = [
        ("==", Comparison::Equal),
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
        ("", Comparison::Equal),
    ];
    let (count, comparison) =
        signs.iter().find_map(|(sign, comparison)| Some((is.strip_prefix(sign)?, *comparison)))?;
    Some(Condition::MemberCount { comparison, count: count.parse().ok()? })
}

/// The parts of a dot-separated path, in which a backslash lets a dot or a backslash stand for itself (appendices,
/// "Dot-separated property paths").
fn segments(key: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let mut chars = key.chars().peekable();
    while let Some(c) = chars.next() {
        let next = match c {
            '.' => {
                segments.push(String::new());
                continue;
            }
            '\\' => chars.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\'),
            c => c,
        };
        if let Some(last) = segments.last_mut() {
            last.push(next);
        }
    }
    segments
}

impl Condition {
    fn holds(&self, user: &UserId, sight: &Sight<'_>) -> bool {
        let (event, context) = (sight.event, sight.context);
        match self {
            Self::Match { path, glob, words } => sight.matches(path, glob, *words),
            Self::Is { path, value } => match value.as_str() {
                Some(wanted) => text_at(event, context, path) == Some(wanted),
                None => find(event, path).is_some_and(|found| equal(found, value)),
            },
            Self::Contains { path, value } => find(event, path)
                .and_then(Json::as_array)
                .is_some_and(|items| items.iter().any(|item| equal(item, value))),
            Self::DisplayName => (context.display_name)(user).is_some_and(|name| {
                sight.matches(&["content".to_owned(), "body".to_owned()], &Glob::literal(&name), true)
            }),
            Self::MemberCount { comparison, count } => match comparison {
                Comparison::Equal => context.joined == *count,
                Comparison::Less => context.joined < *count,
                Comparison::Greater => context.joined > *count,
                Comparison::AtMost => context.joined <= *count,
                Comparison::AtLeast => context.joined >= *count,
            },
            Self::Permission(key) => context.sender_level >= (context.notification_level)(key),
            Self::FollowsThread(follows) => thread_root(event).is_some() && sight.followers.contains(user) == *follows,
            Self::Never => false,
        }
    }
}

/// The root of the thread in which an event is a reply.
fn thread_root(event: &Pdu) -> Option<&str> {
    let relation = event.content.get("m.relates_to")?;
    let is_reply = relation.get("rel_type").and_then(Json::as_str) == Some("m.thread");
    relation.get("event_id").and_then(Json::as_str).filter(|_| is_reply)
}

/// The string at `path`.
fn text_at<'a>(event: &'a Pdu, context: &Context<'a>, path: &[String]) -> Option<&'a str> {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["type"] => Some(&event.kind),
        ["sender"] => Some(&event.sender),
        ["state_key"] => event.state_key.as_deref(),
        ["room_id"] => Some(context.room_id),
        ["event_id"] => Some(event.event_id.as_str()),
        ["redacts"] => event.redacts.as_ref().map(|id| id.as_str()),
        _ => find(event, path).and_then(Json::as_str),
    }
}

/// The value at `path` in the content; only the content is of any shape.
fn find<'a>(event: &'a Pdu, path: &[String]) -> Option<&'a Json> {
    let (first, rest) = path.split_first()?;
    if first != "content" {
        return None;
    }
    let (second, rest) = rest.split_first()?;
    rest.iter().try_fold(event.content.get(second.as_str())?, |value, segment| value.get(segment))
}

fn equal(found: &Json, wanted: &Value) -> bool {
    match wanted {
        Value::Null => found.is_null(),
        Value::Bool(wanted) => found.as_bool() == Some(*wanted),
        Value::Number(wanted) => wanted.as_i64().is_some_and(|wanted| found.as_i64() == Some(wanted)),
        Value::String(wanted) => found.as_str() == Some(wanted.as_str()),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Stands for `?` in a compiled glob: no text has this private-use character folded to it.
const ONE: char = '\u{10FFFF}';

fn fold(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        let one = |c: char| if c == '?' { ONE } else { c };
        Self(pattern.split('*').map(|piece| fold(piece).into_iter().map(one).collect()).collect())
    }

    /// Matches this text itself.
    fn literal(text: &str) -> Self {
        Self(vec![fold(text)])
    }

    /// Whether the glob matches the whole text, which is lower-cased.
    pub(crate) fn matches(&self, text: &[char], looks: &Looks) -> bool {
        self.matches_between(text, &|start| start == 0, &|end| end == text.len(), looks)
    }

    /// Whether the glob matches a part of the text that begins and ends at word boundaries.
    pub(crate) fn matches_words(&self, text: &[char], looks: &Looks) -> bool {
        let is_word = |c: Option<&char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
        // Before a place and after it: at least one is outside of words, or the text ends there.
        let boundary = |place: usize| {
            place == 0 || place >= text.len() || !is_word(text.get(place - 1)) || !is_word(text.get(place))
        };
        let empty = self.0.iter().all(Vec::is_empty) && self.0.len() < 2;
        !empty && self.matches_between(text, &boundary, &boundary, looks)
    }

    /// Whether a part of the text matches that begins and ends where it may. Each piece but the last is taken where it
    /// comes first: what follows a `*` has the most room then, so there is no going back.
    fn matches_between(
        &self,
        text: &[char],
        begins: &dyn Fn(usize) -> bool,
        ends: &dyn Fn(usize) -> bool,
        looks: &Looks,
    ) -> bool {
        let Some((last, before)) = self.0.split_last() else { return false };
        let mut from = 0;
        for (n, piece) in before.iter().enumerate() {
            match place_of(piece, text, from, looks, |start| n > 0 || begins(start)) {
                Some(start) => from = start + piece.len(),
                None => return false,
            }
        }
        let alone = before.is_empty();
        place_of(last, text, from, looks, |start| (!alone || begins(start)) && ends(start + last.len())).is_some()
    }
}

/// Where a piece comes first in the text from a place on, among the places that `may` allows.
fn place_of(piece: &[char], text: &[char], from: usize, looks: &Looks, may: impl Fn(usize) -> bool) -> Option<usize> {
    for start in from..=text.len().checked_sub(piece.len())? {
        if !looks.take(1) {
            return None;
        }
        if !may(start) {
            continue;
        }
        let agrees = |(wanted, found): &(&char, &char)| **wanted == ONE || wanted == found;
        let agreeing = piece.iter().zip(text.get(start..).unwrap_or_default()).take_while(agrees).count();
        if !looks.take(agreeing) {
            return None;
        }
        if agreeing == piece.len() {
            return Some(start);
        }
    }
    None
}

impl Users {
    /// Those of these users whose rules look for their display names ([`Context::display_name`]).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn look_for_names(&self, users: &[UserId]) -> Result<Vec<UserId>, Error> {
        self.refresh_push_rules().await?;
        let all_own = self.push_rules.own.read();
        let looks = |user: &&UserId| all_own.get(*user).is_some_and(|rules| rules.looks_for_name);
        Ok(users.iter().filter(looks).cloned().collect())
    }

    /// Judges an event for these local users. The sender is not notified. Who ignores the sender is judged as others are:
    /// what one does not see is left out when it is counted or shown, by the list as it is then.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn judge(&self, event: &Pdu, context: &Context<'_>, users: &[UserId]) -> Result<Judgement, Error> {
        self.refresh_push_rules().await?;
        let mut judgement = Judgement::default();
        let followers = self.followers(event, context, users).await?;
        self.match_each(event, context, (users, &followers), |base, found| {
            let says = found.map(|(user, rule)| match rule {
                Some(rule) => (user, rule.outcome, rule.standing),
                None => (user, Notified::default(), true),
            });
            let base = base.map_or(Notified::default(), |rule| rule.outcome);
            judgement.by_default = base.notify;
            let exceptions = says.filter(|(_, says, _)| says.highlight || says.notify != base.notify);
            judgement.exceptions.extend(exceptions.map(|(user, says, standing)| (user.clone(), says, standing)));
        });
        Ok(judgement)
    }

    /// Those of these local users whom an event notifies, with the actions of the rule that says so.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn notified(
        &self,
        event: &Pdu,
        context: &Context<'_>,
        users: &[UserId],
    ) -> Result<Vec<(UserId, Vec<Value>)>, Error> {
        self.refresh_push_rules().await?;
        let mut notified = Vec::new();
        let followers = self.followers(event, context, users).await?;
        self.match_each(event, context, (users, &followers), |_, found| {
            if let Some((user, Some(rule))) = found.filter(|(_, rule)| rule.is_some_and(|rule| rule.outcome.notify)) {
                notified.push((user.clone(), rule.actions.clone()));
            }
        });
        Ok(notified)
    }

    /// Those of these users who follow the thread that an event is in, as far as their rules ask for that.
    async fn followers(&self, event: &Pdu, context: &Context<'_>, users: &[UserId]) -> Result<BTreeSet<UserId>, Error> {
        match thread_root(event) {
            Some(root) => {
                let asking = self.push_rules.followers_of_threads(users);
                self.thread_subscribers(context.room_id, root, &asking).await
            }
            None => Ok(BTreeSet::new()),
        }
    }

    /// Finds the rule that holds for each of these local users; none for the sender and those who ignore it. `tell` is given
    /// the rule for those who are nothing special too, once without a user and then with each.
    fn match_each(
        &self,
        event: &Pdu,
        context: &Context<'_>,
        (users, followers): (&[UserId], &BTreeSet<UserId>),
        mut tell: impl FnMut(Option<&CompiledRule>, Option<(&UserId, Option<&CompiledRule>)>),
    ) {
        let sight = Sight::new(event, context, followers);
        let base = DEFAULT.first(&UserId::from(NOBODY), &sight);
        tell(base, None);
        let named = named_users(event);
        let all_own = self.push_rules.own.read();
        let n_own = users.iter().filter(|user| all_own.contains_key(*user)).count();
        let share = LOOKS_MAX / u64::try_from(n_own.max(1)).unwrap_or(u64::MAX);
        let share = share.clamp(*LOOKS_OF_USER.start(), *LOOKS_OF_USER.end());
        for user in users {
            let own = all_own.get(user);
            sight.looks.0.set(share);
            if user.as_str() == event.sender {
                tell(base, Some((user, None)));
            } else if let Some(rules) = own {
                tell(base, Some((user, rules.first(user, &sight))));
            } else if named.contains(user.as_str()) {
                let rules = Compiled::new(&Ruleset::default().rules(user));
                tell(base, Some((user, rules.first(user, &sight))));
            } else {
                tell(base, Some((user, base)));
            }
        }
    }
}

/// The users whom default rules can treat differently: mentioned ones, and the target of a membership.
fn named_users(event: &Pdu) -> BTreeSet<&str> {
    let mentions = event.content.get("m.mentions").and_then(|mentions| mentions.get("user_ids"));
    let mentioned = mentions.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    mentioned.chain(event.state_key.as_deref()).collect()
}

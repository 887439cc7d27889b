//! Judging an event by push rules: pure, and cheap for the many users who have default rules (behaviours CP2, CP3).
//!
//! Default rules speak of one user in two places only: an invite for it, and a mention of it. So they are evaluated once
//! for everybody, and again only for the few whom the event names.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use event::{Json, Pdu};
use serde_json::Value;
use store::UserId;

use super::{Rule, RuleKind, Ruleset};
use crate::{Error, Users};

/// The power level for keys of `notifications` that are not named.
const NOTIFICATION_LEVEL: i64 = 50;
/// The user id of nobody, for whom the default rules are evaluated on behalf of all that an event does not name.
const NOBODY: &str = "@";

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
    /// The level needed for `@room`.
    pub room_notification_level: i64,
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
    /// Those for whom it counts otherwise, or highlights.
    pub exceptions: Vec<(UserId, Notified)>,
}

/// Rules made ready for evaluation, most important first.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled(Vec<CompiledRule>);

#[derive(Clone, Debug, PartialEq)]
struct CompiledRule {
    conditions: Vec<Condition>,
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

/// A glob over lower-cased characters: `*` any number, `?` exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<char>);

impl Compiled {
    /// Compiles the enabled ones of these rules.
    pub fn new(rules: &[Rule]) -> Self {
        let enabled = rules.iter().filter(|rule| rule.enabled);
        Self(
            enabled
                .map(|rule| CompiledRule {
                    conditions: conditions(rule),
                    outcome: outcome(&rule.actions),
                    actions: rule.actions.clone(),
                })
                .collect(),
        )
    }

    /// The actions of the first rule that matches; empty if none does.
    pub fn actions(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> &[Value] {
        self.first(user, event, context).map_or(&[], |rule| &rule.actions)
    }

    /// What the first rule that matches says; nothing if none does.
    pub fn evaluate(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> Notified {
        self.first(user, event, context).map_or(Notified::default(), |rule| rule.outcome)
    }

    fn first(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> Option<&CompiledRule> {
        self.0.iter().find(|rule| rule.conditions.iter().all(|condition| condition.holds(user, event, context)))
    }
}

fn conditions(rule: &Rule) -> Vec<Condition> {
    let is = |key: &str, id: &str| vec![Condition::Is { path: vec![key.to_owned()], value: id.into() }];
    match rule.kind {
        RuleKind::Override | RuleKind::Underride => rule.conditions.iter().map(compile).collect(),
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
    fn holds(&self, user: &UserId, event: &Pdu, context: &Context<'_>) -> bool {
        match self {
            Self::Match { path, glob, words } => {
                with_text(
                    event,
                    context,
                    path,
                    |text| {
                        if *words { glob.matches_words(text) } else { glob.matches(text) }
                    },
                )
            }
            Self::Is { path, value } => match value.as_str() {
                Some(wanted) => with_text(event, context, path, |text| text == wanted),
                None => find(event, path).is_some_and(|found| equal(found, value)),
            },
            Self::Contains { path, value } => find(event, path)
                .and_then(Json::as_array)
                .is_some_and(|items| items.iter().any(|item| equal(item, value))),
            Self::DisplayName => (context.display_name)(user).is_some_and(|name| {
                let glob = Glob::literal(&name);
                with_text(event, context, &["content".to_owned(), "body".to_owned()], |body| glob.matches_words(body))
            }),
            Self::MemberCount { comparison, count } => match comparison {
                Comparison::Equal => context.joined == *count,
                Comparison::Less => context.joined < *count,
                Comparison::Greater => context.joined > *count,
                Comparison::AtMost => context.joined <= *count,
                Comparison::AtLeast => context.joined >= *count,
            },
            Self::Permission(key) => {
                let needed = if key == "room" { context.room_notification_level } else { NOTIFICATION_LEVEL };
                context.sender_level >= needed
            }
            Self::Never => false,
        }
    }
}

/// Whether the string at `path` fulfils `test`; false if there is none.
fn with_text(event: &Pdu, context: &Context<'_>, path: &[String], test: impl Fn(&str) -> bool) -> bool {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["type"] => test(&event.kind),
        ["sender"] => test(&event.sender),
        ["state_key"] => event.state_key.as_deref().is_some_and(test),
        ["room_id"] => test(context.room_id),
        ["event_id"] => test(event.event_id.as_str()),
        ["redacts"] => event.redacts.as_ref().is_some_and(|id| test(id.as_str())),
        _ => find(event, path).and_then(Json::as_str).is_some_and(test),
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

/// Stand-ins for `*` and `?` in a compiled glob: no text has these private-use characters folded to them.
const ANY: char = '\u{10FFFE}';
const ONE: char = '\u{10FFFF}';

impl Glob {
    fn new(pattern: &str) -> Self {
        let chars = pattern.chars().flat_map(char::to_lowercase).map(|c| match c {
            '*' => ANY,
            '?' => ONE,
            c => c,
        });
        let mut glob: Vec<char> = chars.collect();
        glob.dedup_by(|one, other| *one == ANY && *other == ANY);
        Self(glob)
    }

    /// Matches this text itself.
    fn literal(text: &str) -> Self {
        Self(text.chars().flat_map(char::to_lowercase).collect())
    }

    /// Whether the glob matches the whole text. Takes at most length of glob × length of text steps.
    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        reach(&self.0, &text, 0).last() == Some(&true)
    }

    /// Whether the glob matches a part of the text that begins and ends at word boundaries.
    fn matches_words(&self, text: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        let is_word = |c: Option<&char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
        // Before a place and after it: at least one is outside of words, or the text ends there.
        let boundary = |place: usize| {
            place == 0 || place >= text.len() || !is_word(text.get(place - 1)) || !is_word(text.get(place))
        };
        // A leading `*` matches from the start if it matches at all, so one pass is enough for it.
        let free = self.0.first() == Some(&ANY);
        let starts = (0..=text.len()).filter(|start| boundary(*start)).take(if free { 1 } else { text.len() + 1 });
        starts.into_iter().any(|start| {
            let plausible = match self.0.first() {
                Some(&ANY | &ONE) | None => true,
                Some(first) => text.get(start) == Some(first),
            };
            plausible
                && reach(&self.0, &text, start)
                    .iter()
                    .enumerate()
                    .any(|(length, reached)| *reached && boundary(start + length))
        })
    }
}

/// For each length, whether the glob matches exactly that much of `text` from `start` on.
fn reach(glob: &[char], text: &[char], start: usize) -> Vec<bool> {
    let text = text.get(start..).unwrap_or_default();
    let mut reached = vec![false; text.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for wanted in glob {
        let mut next = vec![false; text.len() + 1];
        if *wanted == ANY {
            let mut seen = false;
            for (next, reached) in next.iter_mut().zip(&reached) {
                seen |= *reached;
                *next = seen;
            }
        } else {
            for ((next, reached), c) in next.iter_mut().skip(1).zip(&reached).zip(text) {
                *next = *reached && (*wanted == ONE || wanted == c);
            }
        }
        if !next.contains(&true) {
            return vec![false; text.len() + 1];
        }
        reached = next;
    }
    reached
}

impl Users {
    /// Judges an event for these local users. The sender and those who ignore it are not notified.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn judge(&self, event: &Pdu, context: &Context<'_>, users: &[UserId]) -> Result<Judgement, Error> {
        self.refresh_push_rules().await?;
        let base = DEFAULT.evaluate(&UserId::from(NOBODY), event, context);
        let named = named_users(event);
        let mut exceptions = Vec::new();
        let all_own = self.push_rules.own.read();
        for user in users {
            let own = all_own.get(user);
            let ignored = own.is_some_and(|own| own.ignored.contains(event.sender.as_str()));
            let says = if ignored || user.as_str() == event.sender {
                Notified::default()
            } else if let Some(rules) = own.and_then(|own| own.rules.as_ref()) {
                rules.evaluate(user, event, context)
            } else if named.contains(user.as_str()) {
                Compiled::new(&Ruleset::default().rules(user)).evaluate(user, event, context)
            } else {
                base
            };
            if says.highlight || says.notify != base.notify {
                exceptions.push((user.clone(), says));
            }
        }
        Ok(Judgement { by_default: base.notify, exceptions })
    }
}

/// The users whom default rules can treat differently: mentioned ones, and the target of a membership.
fn named_users(event: &Pdu) -> BTreeSet<&str> {
    let mentions = event.content.get("m.mentions").and_then(|mentions| mentions.get("user_ids"));
    let mentioned = mentions.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    mentioned.chain(event.state_key.as_deref()).collect()
}

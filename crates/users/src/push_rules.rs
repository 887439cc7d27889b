//! Push rules: a user's own rules over the default ones (client-server API, "Push Rules"; behaviours CP1 to CP3).
//!
//! Stored is only what differs from the default rules, as the account data `m.push_rules`: most users have no row. What
//! differs stands compiled in memory for all local users, so that events are judged without a read.

mod defaults;
pub mod evaluate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use store::tables::users::AccountDataRow;
use store::{CommitBatch, Follower, Read, StreamEntry, StreamKind, StreamPosition, UserId, Value};

use crate::account_data::{JUDGED_BY, add_account_data};
use crate::accounts::expect_unchanged;
use crate::{Error, RETRIES_MAX, Users};
pub use evaluate::{Compiled, Context, Judgement, Notified};

/// The type of the account data.
pub const PUSH_RULES: &str = "m.push_rules";
/// Rules of their own that a user may have.
const RULES_MAX: usize = 2_000;
/// Bytes that one rule may have as JSON.
const RULE_BYTES_MAX: usize = 16 * 1_024;
/// The default rule that stands above all others.
const MASTER: &str = ".m.rule.master";

/// The kinds of rules, in order of importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Before all others.
    Override,
    /// By a pattern in the message.
    Content,
    /// After these, by conditions: the server's own rules about threads (MSC4306).
    Postcontent,
    /// By room: the rule's id is the room's.
    Room,
    /// By sender: the rule's id is the user's.
    Sender,
    /// After all others.
    Underride,
}

impl RuleKind {
    /// All kinds, most important first.
    pub const ALL: [Self; 6] =
        [Self::Override, Self::Content, Self::Postcontent, Self::Room, Self::Sender, Self::Underride];

    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Override => "override",
            Self::Content => "content",
            Self::Postcontent => "postcontent",
            Self::Room => "room",
            Self::Sender => "sender",
            Self::Underride => "underride",
        }
    }

    /// From the specification's word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    fn has_conditions(self) -> bool {
        matches!(self, Self::Override | Self::Postcontent | Self::Underride)
    }
}

/// A push rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Its kind.
    pub kind: RuleKind,
    /// Its id, unique within the kind.
    pub rule_id: String,
    /// Whether it is a default rule of the server.
    pub default: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Its actions.
    pub actions: Vec<Json>,
    /// Its conditions, for override and underride rules.
    #[serde(default)]
    pub conditions: Vec<Json>,
    /// Its pattern, for content rules.
    #[serde(default)]
    pub pattern: Option<String>,
}

/// What a client sets of a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewRule {
    /// Its actions.
    pub actions: Vec<Json>,
    /// Its conditions.
    pub conditions: Vec<Json>,
    /// Its pattern.
    pub pattern: Option<String>,
}

/// Where a new rule goes among the user's rules of its kind; with neither, above them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Just above this rule.
    pub before: Option<String>,
    /// Just below this rule; counts only without `before`.
    pub after: Option<String>,
}

/// How a default rule was changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Changed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actions: Option<Vec<Json>>,
}

/// A user's rules: what differs from the default ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ruleset {
    /// The user's own rules, most important first within a kind.
    #[serde(default)]
    own: Vec<Rule>,
    /// Changed default rules, by id.
    #[serde(default)]
    changed: BTreeMap<String, Changed>,
    /// Whether the rules about threads are among the default rules: from the user's first subscription on. By them, replies
    /// in other threads count no more, which would be wrong for users whose clients know nothing of subscriptions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    threads: bool,
}

impl Rule {
    /// The rule as the specification writes it.
    pub fn to_json(&self) -> Json {
        let mut rule = json!({
            "rule_id": self.rule_id,
            "default": self.default,
            "enabled": self.enabled,
            "actions": self.actions,
        });
        if self.kind.has_conditions() {
            rule["conditions"] = self.conditions.clone().into();
        }
        if let Some(pattern) = &self.pattern {
            rule["pattern"] = pattern.clone().into();
        }
        rule
    }
}

impl Ruleset {
    /// From its stored form; what cannot be read counts as nothing changed.
    pub(crate) fn parse(stored: &str) -> Self {
        serde_json::from_str(stored).unwrap_or_default()
    }

    /// All rules that hold for `user`, most important first.
    pub fn rules(&self, user: &UserId) -> Vec<Rule> {
        let defaults = self.defaults(user);
        let mut rules: Vec<Rule> = defaults.iter().filter(|rule| rule.rule_id == MASTER).cloned().collect();
        for kind in RuleKind::ALL {
            rules.extend(self.own.iter().filter(|rule| rule.kind == kind).cloned());
            rules.extend(defaults.iter().filter(|rule| rule.kind == kind && rule.rule_id != MASTER).cloned());
        }
        rules
    }

    fn defaults(&self, user: &UserId) -> Vec<Rule> {
        let mut rules = defaults::rules(user);
        if self.threads {
            rules.extend(defaults::about_threads());
        }
        for rule in &mut rules {
            if let Some(changed) = self.changed.get(&rule.rule_id) {
                rule.enabled = changed.enabled.unwrap_or(rule.enabled);
                rule.actions = changed.actions.clone().unwrap_or_else(|| rule.actions.clone());
            }
        }
        rules
    }

    /// The content of `m.push_rules`: `{"global": {…}}` with all kinds that there are for everybody, or for this user.
    pub fn content(&self, user: &UserId) -> Json {
        let kinds = RuleKind::ALL.iter().filter(|kind| self.threads || **kind != RuleKind::Postcontent);
        let mut global: serde_json::Map<String, Json> =
            kinds.map(|kind| (kind.as_str().to_owned(), json!([]))).collect();
        for rule in self.rules(user) {
            if let Some(Json::Array(rules)) = global.get_mut(rule.kind.as_str()) {
                rules.push(rule.to_json());
            }
        }
        json!({ "global": global })
    }

    /// A rule.
    pub fn get(&self, user: &UserId, kind: RuleKind, rule_id: &str) -> Option<Rule> {
        self.rules(user).into_iter().find(|rule| rule.kind == kind && rule.rule_id == rule_id)
    }

    fn is_default(&self, user: &UserId, kind: RuleKind, rule_id: &str) -> bool {
        self.defaults(user).iter().any(|rule| rule.kind == kind && rule.rule_id == rule_id)
    }

    fn own_place(&self, kind: RuleKind, rule_id: &str) -> Option<usize> {
        self.own.iter().position(|rule| rule.kind == kind && rule.rule_id == rule_id)
    }

    fn put(&mut self, kind: RuleKind, rule_id: &str, new: NewRule, place: &Place) -> Result<(), Error> {
        check_rule(kind, rule_id, &new)?;
        for other in [&place.before, &place.after].into_iter().flatten() {
            if other == rule_id || self.own_place(kind, other).is_none() {
                return Err(Error::RuleNotFound(other.clone()));
            }
        }
        let old = self.own_place(kind, rule_id).map(|old| (old, self.own.remove(old)));
        let relative = match (&place.before, &place.after) {
            (Some(before), _) => self.own_place(kind, before),
            (None, Some(after)) => self.own_place(kind, after).map(|after| after + 1),
            (None, None) => None,
        };
        let at = relative.unwrap_or_else(|| old.as_ref().map_or(0, |(old, _)| *old));
        let rule = Rule {
            kind,
            rule_id: rule_id.to_owned(),
            default: false,
            enabled: old.is_none_or(|(_, rule)| rule.enabled),
            actions: without_historical(new.actions),
            conditions: if kind.has_conditions() { new.conditions } else { Vec::new() },
            pattern: new.pattern.filter(|_| kind == RuleKind::Content),
        };
        self.own.insert(at, rule);
        if self.own.len() > RULES_MAX { Err(Error::TooLarge("the number of push rules")) } else { Ok(()) }
    }

    fn delete(&mut self, user: &UserId, kind: RuleKind, rule_id: &str) -> Result<(), Error> {
        if self.is_default(user, kind, rule_id) {
            return Err(Error::InvalidParam("Default rules cannot be deleted.".to_owned()));
        }
        let place = self.own_place(kind, rule_id).ok_or(Error::NotFound("the push rule"))?;
        self.own.remove(place);
        Ok(())
    }

    fn change(
        &mut self,
        user: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: Option<bool>,
        actions: Option<Vec<Json>>,
    ) -> Result<(), Error> {
        let actions = actions.map(without_historical);
        if let Some(rule) = self.own_place(kind, rule_id).and_then(|place| self.own.get_mut(place)) {
            rule.enabled = enabled.unwrap_or(rule.enabled);
            rule.actions = actions.unwrap_or_else(|| rule.actions.clone());
            return Ok(());
        }
        if !self.is_default(user, kind, rule_id) {
            return Err(Error::NotFound("the push rule"));
        }
        let changed = self.changed.entry(rule_id.to_owned()).or_default();
        changed.enabled = enabled.or(changed.enabled);
        changed.actions = actions.or_else(|| changed.actions.take());
        Ok(())
    }
}

/// What clients may not set (CP1).
fn check_rule(kind: RuleKind, rule_id: &str, new: &NewRule) -> Result<(), Error> {
    let refused = |message: &str| Err(Error::InvalidParam(message.to_owned()));
    if rule_id.is_empty() || rule_id.starts_with('.') {
        return refused("Ids of push rules that begin with `.` belong to the server.");
    }
    if rule_id.contains(['/', '\\']) {
        return refused("Ids of push rules have no slashes or backslashes.");
    }
    if kind == RuleKind::Postcontent {
        return refused("Rules of this kind belong to the server.");
    }
    if kind == RuleKind::Content && new.pattern.is_none() {
        return refused("A content rule has a `pattern`.");
    }
    if !new.conditions.iter().all(|condition| condition.get("kind").is_some_and(Json::is_string)) {
        return refused("A condition is an object with a `kind`.");
    }
    let conditions_bytes: usize = new.conditions.iter().chain(&new.actions).map(|one| one.to_string().len()).sum();
    if conditions_bytes + new.pattern.as_ref().map_or(0, String::len) + rule_id.len() > RULE_BYTES_MAX {
        return Err(Error::TooLarge("the push rule"));
    }
    check_actions(&new.actions)
}

fn check_actions(actions: &[Json]) -> Result<(), Error> {
    let fits = |action: &Json| match action {
        Json::String(_) => true,
        Json::Object(action) => action.get("set_tweak").is_some_and(Json::is_string),
        _ => false,
    };
    if actions.iter().all(fits) {
        Ok(())
    } else {
        Err(Error::InvalidParam("An action is a string or an object with `set_tweak`.".to_owned()))
    }
}

/// Drops the actions of older specifications, which mean nothing.
fn without_historical(mut actions: Vec<Json>) -> Vec<Json> {
    actions.retain(|action| action != "dont_notify" && action != "coalesce");
    actions
}

/// The compiled rules of all local users that have some of their own. Follows the stream: other nodes' changes mark a user as stale.
#[derive(Default)]
pub(crate) struct Cache {
    own: RwLock<HashMap<UserId, Arc<Compiled>>>,
    stale: RwLock<BTreeSet<UserId>>,
}

impl Cache {
    /// The users that have rules of their own.
    pub(crate) fn users_with_rules(&self) -> Vec<UserId> {
        self.own.read().keys().cloned().collect()
    }

    /// Those of these users whose rules ask whether they follow a thread.
    pub(crate) fn followers_of_threads<'a>(&self, users: &'a [UserId]) -> Vec<&'a UserId> {
        let own = self.own.read();
        let asks = |user: &&UserId| own.get(*user).is_some_and(|rules| rules.asks_for_threads());
        users.iter().filter(asks).collect()
    }
}

impl Follower for Cache {
    fn committed(&self, _first: StreamPosition, entries: &[StreamEntry]) {
        let changed =
            entries.iter().filter(|entry| entry.kind == StreamKind::AccountData && entry.number == Some(JUDGED_BY));
        let users: Vec<UserId> = changed.filter_map(|entry| entry.user.clone()).collect();
        if !users.is_empty() {
            self.stale.write().extend(users);
        }
    }
}

impl Users {
    /// A user's rules.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn push_rules_for(&self, user: &UserId) -> Result<Ruleset, Error> {
        let row = self.account_data_row(user, "", PUSH_RULES).await?;
        Ok(row.map(|row| Ruleset::parse(&row.content)).unwrap_or_default())
    }

    /// Makes or replaces a rule of the user's own.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], [`Error::RuleNotFound`] for `before` and `after`, [`Error::TooLarge`].
    pub async fn put_push_rule(
        &self,
        user: &UserId,
        kind: RuleKind,
        rule_id: &str,
        new: NewRule,
        place: &Place,
    ) -> Result<(), Error> {
        self.change_rules(user, |rules| rules.put(kind, rule_id, new.clone(), place)).await
    }

    /// Gives a user the rules about threads, from the first subscription on.
    pub(crate) async fn add_thread_rules(&self, user: &UserId) -> Result<(), Error> {
        if self.push_rules_for(user).await?.threads {
            return Ok(());
        }
        let add = |rules: &mut Ruleset| {
            rules.threads = true;
            Ok(())
        };
        self.change_rules(user, add).await
    }

    /// Deletes a rule of the user's own.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InvalidParam`] for a default rule.
    pub async fn delete_push_rule(&self, user: &UserId, kind: RuleKind, rule_id: &str) -> Result<(), Error> {
        self.change_rules(user, |rules| rules.delete(user, kind, rule_id)).await
    }

    /// Enables or disables a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn enable_push_rule(
        &self,
        user: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), Error> {
        self.change_rules(user, |rules| rules.change(user, kind, rule_id, Some(enabled), None)).await
    }

    /// Gives a rule other actions.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidParam`].
    pub async fn set_push_rule_actions(
        &self,
        user: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Json>,
    ) -> Result<(), Error> {
        check_actions(&actions)?;
        self.change_rules(user, |rules| rules.change(user, kind, rule_id, None, Some(actions.clone()))).await
    }

    /// Copies a user's rules about a room to the room that replaces it (CR21).
    pub(crate) async fn copy_room_rules(&self, user: &UserId, old_room: &str, new_room: &str) -> Result<(), Error> {
        let rules = self.push_rules_for(user).await?;
        let Some(rule) = rules.get(user, RuleKind::Room, old_room) else { return Ok(()) };
        let new = NewRule { actions: rule.actions, ..NewRule::default() };
        self.put_push_rule(user, RuleKind::Room, new_room, new, &Place::default()).await
    }

    async fn change_rules(
        &self,
        user: &UserId,
        change: impl Fn(&mut Ruleset) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _turn = self.queues.turn(user).await;
        for _ in 0..RETRIES_MAX {
            let row = self.account_data_row(user, "", PUSH_RULES).await?;
            let mut rules = row.as_ref().map(|row| Ruleset::parse(&row.content)).unwrap_or_default();
            change(&mut rules)?;
            let mut batch = CommitBatch::new();
            match row {
                Some(row) => expect_unchanged(&mut batch, row),
                None => {
                    let key = vec![Value::from(user), Value::from(""), Value::from(PUSH_RULES)];
                    batch.expect_absent::<AccountDataRow>(key);
                }
            }
            let stored = serde_json::to_string(&rules).map_err(|_| Error::TooLarge("the push rules"))?;
            add_account_data(&mut batch, user, "", PUSH_RULES, stored)?;
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
                Ok(_) => return self.reload_push_rules(user).await,
            }
        }
        Err(Error::Conflict)
    }

    /// Reads what all users have of their own; at boot.
    pub(crate) async fn load_push_rules(&self) -> Result<(), Error> {
        let read = Read::along::<AccountDataRow>(AccountDataRow::BY_KIND, vec![Value::from(PUSH_RULES)]);
        let rows: Vec<AccountDataRow> = self.store.all(read).await?;
        for row in rows {
            self.reload_push_rules(&row.user_id).await?;
        }
        Ok(())
    }

    /// Reads again what a user has of its own.
    pub(crate) async fn reload_push_rules(&self, user: &UserId) -> Result<(), Error> {
        self.push_rules.stale.write().remove(user);
        let rules = self.account_data_row(user, "", PUSH_RULES).await?;
        let rules = rules.map(|row| Ruleset::parse(&row.content)).filter(|rules| *rules != Ruleset::default());
        let rules = rules.map(|rules| Arc::new(Compiled::new(&rules.rules(user))));
        let mut own = self.push_rules.own.write();
        match rules {
            Some(rules) => own.insert(user.clone(), rules),
            None => own.remove(user),
        };
        Ok(())
    }

    /// Reads again what other nodes changed. To be called before judging; costs nothing when nothing changed.
    pub(crate) async fn refresh_push_rules(&self) -> Result<(), Error> {
        if self.push_rules.stale.read().is_empty() {
            return Ok(());
        }
        let stale = std::mem::take(&mut *self.push_rules.stale.write());
        for user in stale {
            self.reload_push_rules(&user).await?;
        }
        Ok(())
    }
}

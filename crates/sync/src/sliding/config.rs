//! What of a room a client wants: the union of what its lists and subscriptions ask for (behaviours CZ3, CZ6).
//!
//! Both dialects' `required_state` become rules. State is wanted if any rule wants it; a rule's exclusions hold for that
//! rule alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use store::UserId;

/// Type of membership events.
pub(crate) const MEMBER: &str = "m.room.member";
/// Most rules of one room: with more, only those of the newest request are kept.
const RULES_MAX: usize = 8;

/// Which state: absent parts match anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Pattern {
    /// The event type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The state key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
}

/// One list's or one subscription's wishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// What is wanted.
    pub include: Vec<Pattern>,
    /// What of it is not.
    pub exclude: Vec<Pattern>,
    /// Whether the members that the timeline needs are wanted too. Members are then none of what an absent type matches.
    #[serde(rename = "lazy_members")]
    pub lazy: bool,
}

/// The wishes of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules(pub Vec<Rule>);

/// What is wanted of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Its state. All rooms of a list share it, and remember it.
    pub rules: Arc<Rules>,
    /// Events of its timeline.
    pub timeline_limit: usize,
}

impl Rules {
    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        let patterns = self.0.iter().flat_map(|rule| rule.include.iter().chain(&rule.exclude));
        let texts = |pattern: &Pattern| {
            [&pattern.kind, &pattern.state_key].into_iter().flatten().map(String::len).sum::<usize>()
        };
        patterns.map(|pattern| size_of::<Pattern>() + texts(pattern)).sum()
    }
}

impl Pattern {
    fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.kind.as_deref().is_none_or(|own| own == kind)
            && self.state_key.as_deref().is_none_or(|own| own == state_key)
    }

    /// Whether it matches whatever the other one does.
    fn covers(&self, other: &Self) -> bool {
        (self.kind.is_none() || self.kind == other.kind)
            && (self.state_key.is_none() || self.state_key == other.state_key)
    }
}

impl Rule {
    /// The deployed dialect's pairs: `*` for anything, `$ME` for the user, `$LAZY` for the members that are needed.
    pub fn of_pairs(pairs: &[(String, String)], user: &UserId) -> Self {
        let mut rule = Self::default();
        for (kind, state_key) in pairs {
            if kind == MEMBER && state_key == "$LAZY" {
                rule.lazy = true;
                continue;
            }
            let state_key = match state_key.as_str() {
                "*" => None,
                "$ME" => Some(user.to_string()),
                other => Some(other.to_owned()),
            };
            rule.include.push(Pattern { kind: (kind != "*").then(|| kind.clone()), state_key });
        }
        rule
    }

    fn matches(&self, kind: &str, state_key: &str) -> bool {
        let leaves_out = |pattern: &Pattern| self.lazy && pattern.kind.is_none() && kind == MEMBER;
        self.include.iter().any(|pattern| pattern.matches(kind, state_key) && !leaves_out(pattern))
            && !self.exclude.iter().any(|pattern| pattern.matches(kind, state_key))
    }

    fn matches_all_members(&self) -> bool {
        let of_members = |pattern: &&Pattern| {
            let any_type = pattern.kind.is_none() && !self.lazy;
            any_type || pattern.kind.as_deref() == Some(MEMBER)
        };
        let excludes = |pattern: &Pattern| pattern.kind.as_deref().is_none_or(|kind| kind == MEMBER);
        self.include.iter().filter(of_members).any(|pattern| pattern.state_key.is_none())
            && !self.exclude.iter().any(excludes)
    }

    /// Whether it matches whatever a pattern of `other` does.
    fn covers(&self, pattern: &Pattern, other: &Self) -> bool {
        let with_members = |own: &Pattern| {
            let may_be_member = pattern.kind.as_deref().map_or(!other.lazy, |kind| kind == MEMBER);
            !(self.lazy && own.kind.is_none() && may_be_member)
        };
        self.exclude.is_empty() && self.include.iter().any(|own| own.covers(pattern) && with_members(own))
    }
}

impl Rules {
    /// Whether a piece of state is wanted for itself.
    pub fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.0.iter().any(|rule| rule.matches(kind, state_key))
    }

    /// Whether all members are wanted.
    pub fn all_members(&self) -> bool {
        self.0.iter().any(Rule::matches_all_members)
    }

    /// Whether the members that the timeline needs are wanted, and not all of them anyway.
    pub fn lazy(&self) -> bool {
        self.0.iter().any(|rule| rule.lazy) && !self.all_members()
    }

    /// Whether any piece of state of some type, whichever it is, is wanted.
    pub fn any_type(&self) -> bool {
        self.0.iter().flat_map(|rule| &rule.include).any(|pattern| pattern.kind.is_none())
    }

    /// The types of which all is wanted, but for members.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter().flat_map(|rule| &rule.include).filter(|pattern| pattern.state_key.is_none());
        all.filter_map(|pattern| pattern.kind.as_deref()).filter(|kind| *kind != MEMBER)
    }

    /// What is wanted by its full name.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|rule| &rule.include)
            .filter_map(|pattern| Some((pattern.kind.as_deref().unwrap_or(MEMBER), pattern.state_key.as_deref()?)))
    }

    /// Whether any member may be wanted.
    pub fn some_members(&self) -> bool {
        let concerns = |pattern: &Pattern| pattern.kind.as_deref().is_none_or(|kind| kind == MEMBER);
        self.0.iter().any(|rule| rule.lazy || rule.include.iter().any(concerns))
    }

    /// Whether whatever `asked` wants is wanted here too. It may say no where it is.
    pub fn cover(&self, asked: &Self) -> bool {
        let lazily = !asked.lazy() || self.lazy() || self.all_members();
        let has = |rule: &Rule| {
            let found = |pattern: &Pattern| self.0.iter().any(|own| own.covers(pattern, rule));
            self.0.contains(rule) || rule.include.iter().all(found)
        };
        lazily && asked.0.iter().all(has)
    }

    /// What either of the two wants; if that has become too much to remember, what the other wants.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut rules = self.0.clone();
        rules.extend(other.0.iter().filter(|rule| !self.0.contains(rule)).cloned());
        if rules.len() > RULES_MAX { other.clone() } else { Self(rules) }
    }
}

impl Config {
    /// Adds another's wishes.
    pub fn add(&mut self, other: &Self) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit);
        let fresh: Vec<Rule> = other.rules.0.iter().filter(|rule| !self.rules.0.contains(rule)).cloned().collect();
        if !fresh.is_empty() {
            Arc::make_mut(&mut self.rules).0.extend(fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [&str; 3] = [MEMBER, "m.room.name", "m.space.child"];
    const KEYS: [&str; 3] = ["", "@me:s", "!x"];

    fn pair(kind: &str, state_key: &str) -> (String, String) {
        (kind.to_owned(), state_key.to_owned())
    }

    fn rules(pairs: &[(&str, &str)]) -> Rules {
        let pairs: Vec<_> = pairs.iter().map(|(kind, key)| pair(kind, key)).collect();
        Rules(vec![Rule::of_pairs(&pairs, &UserId::from("@me:s"))])
    }

    #[test]
    fn cz6_pairs_say_which_state_is_wanted() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let table: [(Pairs<'_>, Pairs<'_>, bool, bool); 9] = [
            (&[], &[], false, false),
            (&[("m.room.name", "")], &[("m.room.name", "")], false, false),
            (&[("m.space.child", "*")], &[("m.space.child", ""), ("m.space.child", "!x")], false, false),
            (&[(MEMBER, "$ME")], &[(MEMBER, "@me:s")], false, false),
            (&[(MEMBER, "$LAZY")], &[], true, false),
            (&[(MEMBER, "*")], &[(MEMBER, "@me:s")], false, true),
            (&[(MEMBER, "*"), (MEMBER, "$LAZY")], &[(MEMBER, "@me:s")], false, true),
            (&[("*", "*")], &[(MEMBER, "@me:s"), ("m.room.name", "")], false, true),
            (&[("*", "*"), (MEMBER, "$LAZY"), (MEMBER, "$ME")], &[("m.room.name", ""), (MEMBER, "@me:s")], true, false),
        ];
        for (pairs, wanted, lazy, all) in table {
            let rules = rules(pairs);
            for (kind, key) in wanted {
                assert!(rules.matches(kind, key), "{pairs:?} {kind} {key}");
            }
            assert_eq!((rules.lazy(), rules.all_members()), (lazy, all), "{pairs:?}");
            assert!(all || !rules.matches(MEMBER, "@other:s"), "{pairs:?}");
        }
        assert!(!rules(&[("m.room.name", "")]).matches("m.room.name", "x"));
    }

    #[test]
    fn cz6_exclusions_beat_inclusions_of_their_own_rule() {
        let pattern = |kind: Option<&str>| Pattern { kind: kind.map(str::to_owned), state_key: None };
        let but = Rule { include: vec![pattern(None)], exclude: vec![pattern(Some("m.room.name"))], lazy: false };
        let one = Rules(vec![but.clone()]);
        assert!(one.matches("m.room.topic", "") && !one.matches("m.room.name", "") && one.all_members());
        let names = Rule { include: vec![pattern(Some("m.room.name"))], ..Rule::default() };
        assert!(Rules(vec![but, names]).matches("m.room.name", ""), "another list wants it");
        let but_members = Rule { include: vec![pattern(None)], exclude: vec![pattern(Some(MEMBER))], lazy: true };
        let lazy = Rules(vec![but_members]);
        assert!(lazy.lazy() && !lazy.matches(MEMBER, "@me:s"));
    }

    /// Against brute force: what is said to be covered is, and a union wants what either does.
    #[test]
    fn cz3_unions_want_what_either_wants() {
        let choices: [(&str, &str); 7] = [
            (MEMBER, "*"),
            (MEMBER, "$LAZY"),
            (MEMBER, "$ME"),
            ("*", "*"),
            ("*", ""),
            ("m.room.name", ""),
            ("m.space.child", "*"),
        ];
        let mut all = Vec::new();
        for bits in 0..1_usize << choices.len() {
            let chosen: Vec<_> =
                choices.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, one)| *one).collect();
            all.push(rules(&chosen));
        }
        let every = || KINDS.into_iter().flat_map(|kind| KEYS.into_iter().map(move |key| (kind, key)));
        for one in &all {
            assert!(one.cover(one));
            for other in &all {
                let union = one.union(other);
                assert!(union.cover(one) && union.cover(other));
                for (kind, key) in every() {
                    let either = one.matches(kind, key) || other.matches(kind, key);
                    assert_eq!(union.matches(kind, key), either);
                    assert!(
                        !one.cover(other) || one.matches(kind, key) || !other.matches(kind, key),
                        "{one:?} {other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn cz3_too_many_rules_leave_the_newest() {
        let mut kept = Rules::default();
        for n in 0..20 {
            let asked = rules(&[(&format!("x.{n}"), "")]);
            kept = kept.union(&asked);
            assert!(kept.cover(&asked) && kept.0.len() <= RULES_MAX);
        }
    }
}

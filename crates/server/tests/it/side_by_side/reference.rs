//! What clients must come to know: computed from the log of what was acknowledged, by the words of the specification and
//! without any of the server's code.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Type and state key.
pub type Key = (String, String);

/// Type of membership events.
pub const MEMBER: &str = "m.room.member";
/// Type of events that say who may see the history.
const VISIBILITY: &str = "m.room.history_visibility";
/// How many relations are followed from an event to a thread.
const HOPS_MAX: usize = 3;

/// An event as the server accepted it.
#[derive(Clone, Debug)]
pub struct Fact {
    pub id: String,
    pub kind: String,
    pub sender: String,
    pub state_key: Option<String>,
    pub content: Value,
}

/// What a user's rules said of an event when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub notifications: i64,
    pub highlights: i64,
}

/// An event in the log of a room, with what held before it.
struct Entry {
    fact: Fact,
    /// The root of the thread in which it is.
    thread: Option<String>,
    visibility: String,
    members: BTreeMap<String, String>,
    /// Whom it notifies.
    notified: BTreeMap<String, Counts>,
    /// Who has ignored its sender since it came, if only for a time.
    silenced: BTreeSet<String>,
}

/// Whether a user may see an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The rules of history visibility say so.
    Must,
    /// It ends a membership of the user's own, of which sync tells whatever the visibility.
    May,
    MustNot,
}

/// A room as the log of what was acknowledged.
#[derive(Default)]
pub struct Room {
    pub id: String,
    log: Vec<Entry>,
    places: BTreeMap<String, usize>,
    state: BTreeMap<Key, usize>,
    /// What was redacted, and by what.
    redacted: BTreeMap<usize, usize>,
    /// By user, type of receipt and thread.
    receipts: BTreeMap<(String, String, String), usize>,
    /// Whom users ignore.
    ignored: BTreeMap<String, BTreeSet<String>>,
}

impl Room {
    /// A room in which nothing has happened.
    pub fn new(id: String) -> Self {
        Self { id, ..Self::default() }
    }

    /// Adds an event that was accepted, and whom it notifies.
    pub fn append(&mut self, fact: Fact, notified: BTreeMap<String, Counts>) {
        let place = self.log.len();
        assert!(self.places.insert(fact.id.clone(), place).is_none(), "{} was accepted twice", fact.id);
        let (visibility, members) = (self.visibility(), self.members());
        let thread = self.thread_of(&fact.content);
        if let Some(state_key) = &fact.state_key {
            self.state.insert((fact.kind.clone(), state_key.clone()), place);
        }
        if let Some(target) = fact.content.get("redacts").and_then(|id| self.places.get(id.as_str()?)) {
            self.redacted.entry(*target).or_insert(place);
        }
        let silenced = self.ignored.iter().filter(|(_, ignored)| ignored.contains(&fact.sender));
        let silenced = silenced.map(|(user, _)| user.clone()).collect();
        self.log.push(Entry { fact, thread, visibility, members, notified, silenced });
    }

    /// A user ignores these from now on, and nobody else.
    pub fn ignore(&mut self, user: &str, ignored: &BTreeSet<String>) {
        for entry in self.log.iter_mut().filter(|entry| ignored.contains(&entry.fact.sender)) {
            entry.silenced.insert(user.to_owned());
        }
        self.ignored.insert(user.to_owned(), ignored.clone());
    }

    /// Whether a user has ignored the sender since the event came, if only for a time.
    pub fn is_silenced(&self, user: &str, place: usize) -> bool {
        self.log[place].silenced.contains(user)
    }

    /// Whether a user does not see an event since its sender is ignored.
    fn is_unseen(&self, user: &str, fact: &Fact) -> bool {
        fact.state_key.is_none() && self.ignored.get(user).is_some_and(|ignored| ignored.contains(&fact.sender))
    }

    /// The root of the thread in which an event of this content is: its own, or that of what it relates to.
    fn thread_of(&self, content: &Value) -> Option<String> {
        let mut content = content;
        for _ in 0..=HOPS_MAX {
            let relation = content.get("m.relates_to")?;
            let target = relation.get("event_id")?.as_str()?;
            if relation["rel_type"] == "m.thread" {
                return Some(target.to_owned());
            }
            content = &self.log[*self.places.get(target)?].fact.content;
        }
        None
    }

    pub fn len(&self) -> usize {
        self.log.len()
    }

    pub fn fact(&self, place: usize) -> &Fact {
        &self.log[place].fact
    }

    pub fn place(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
    }

    pub fn thread(&self, place: usize) -> Option<&str> {
        self.log[place].thread.as_deref()
    }

    /// What an event was redacted by.
    pub fn redaction(&self, place: usize) -> Option<usize> {
        self.redacted.get(&place).copied()
    }

    pub fn is_redacted(&self, place: usize) -> bool {
        self.redacted.contains_key(&place)
    }

    /// The ids of the current state.
    pub fn state(&self) -> BTreeMap<Key, String> {
        self.state.iter().map(|(key, place)| (key.clone(), self.log[*place].fact.id.clone())).collect()
    }

    /// The content of a part of the current state.
    pub fn current(&self, kind: &str, state_key: &str) -> Option<&Value> {
        let place = self.state.get(&(kind.to_owned(), state_key.to_owned()))?;
        Some(&self.log[*place].fact.content)
    }

    fn visibility(&self) -> String {
        let set = self.current(VISIBILITY, "").and_then(|content| content["history_visibility"].as_str());
        set.unwrap_or("shared").to_owned()
    }

    /// Memberships by user.
    pub fn members(&self) -> BTreeMap<String, String> {
        let members = self.state.iter().filter(|((kind, _), _)| kind == MEMBER);
        let membership = |place: &usize| self.log[*place].fact.content["membership"].as_str().unwrap_or("").to_owned();
        members.map(|((_, user), place)| (user.clone(), membership(place))).collect()
    }

    pub fn membership(&self, user: &str) -> &str {
        self.current(MEMBER, user).and_then(|content| content["membership"].as_str()).unwrap_or("leave")
    }

    pub fn count(&self, membership: &str) -> i64 {
        self.members().values().map(|one| i64::from(one == membership)).sum()
    }

    /// A user's membership before an event, and before the one that would come next.
    fn membership_at(&self, user: &str, place: usize) -> &str {
        self.log
            .get(place)
            .map_or_else(|| self.membership(user), |next| next.members.get(user).map_or("leave", |is| is))
    }

    /// Which events a user may see (client-server API, room history visibility).
    pub fn sights(&self, user: &str) -> Vec<Sight> {
        let places = 0..self.log.len();
        let last_joined = places.clone().rev().find(|place| self.membership_at(user, place + 1) == "join");
        places.map(|place| self.sight(user, place, last_joined >= Some(place))).collect()
    }

    fn sight(&self, user: &str, place: usize, joins_later: bool) -> Sight {
        let entry = &self.log[place];
        let (before, after) = (self.membership_at(user, place), self.membership_at(user, place + 1));
        let allows = |visibility: &str, membership: &str| match (visibility, membership) {
            (_, "join") | ("world_readable", _) | ("invited", "invite") => true,
            ("shared", _) => joins_later,
            _ => false,
        };
        let own = entry.fact.kind == MEMBER && entry.fact.state_key.as_deref() == Some(user);
        let turned = match entry.fact.kind == VISIBILITY {
            true => entry.fact.content["history_visibility"].as_str().unwrap_or("shared"),
            false => entry.visibility.as_str(),
        };
        if allows(&entry.visibility, before) || allows(turned, before) || (own && allows(&entry.visibility, after)) {
            return Sight::Must;
        }
        if own && before != "leave" { Sight::May } else { Sight::MustNot }
    }

    /// Whether a user was in the room, and is out of it by the last word of somebody else (MSC4186: such rooms stay in
    /// lists).
    pub fn was_removed(&self, user: &str) -> bool {
        let own = self.state.get(&(MEMBER.to_owned(), user.to_owned())).map(|place| &self.log[*place].fact);
        let was_in = (0..self.log.len()).any(|place| self.membership_at(user, place) == "join");
        was_in
            && own.is_some_and(|own| {
                own.sender != user && matches!(own.content["membership"].as_str(), Some("leave" | "ban"))
            })
    }

    /// Where the user's last stay began, or the last one ended.
    pub fn last_turn(&self, user: &str) -> usize {
        let own = |place: &usize| {
            let fact = self.fact(*place);
            let turns = (fact.content["membership"] == "join") != (self.membership_at(user, *place) == "join");
            fact.kind == MEMBER && fact.state_key.as_deref() == Some(user) && turns
        };
        (0..self.log.len()).rfind(own).unwrap_or(0)
    }

    /// Moves a receipt on; never back.
    pub fn receive(&mut self, user: &str, kind: &str, thread: &str, place: usize) {
        let at = self.receipts.entry((user.to_owned(), kind.to_owned(), thread.to_owned())).or_insert(place);
        *at = (*at).max(place);
    }

    /// Where a receipt stands.
    pub fn receipt(&self, user: &str, kind: &str, thread: &str) -> Option<usize> {
        self.receipts.get(&(user.to_owned(), kind.to_owned(), thread.to_owned())).copied()
    }

    /// The threads for which somebody has a receipt, of the unthreaded ones too (empty).
    pub fn receipt_threads(&self) -> BTreeSet<String> {
        self.receipts.keys().map(|(_, _, thread)| thread.clone()).collect()
    }

    /// What notifies a joined user and was not read, with what it counts (client-server API, "Marking notifications as
    /// read"). Who sends something has read what stands before it, in the main timeline or in that thread; changes of state
    /// are sent from elsewhere.
    pub fn unread_events(&self, user: &str) -> Vec<(usize, Counts)> {
        let mark = |thread: &str| {
            let kinds = ["m.read", "m.read.private"];
            kinds.into_iter().filter_map(|kind| self.receipt(user, kind, thread)).max()
        };
        let all = mark("").max(Some(self.last_turn(user)));
        let mut spoke: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for (place, entry) in self.log.iter().enumerate() {
            if entry.fact.sender == user && entry.fact.state_key.is_none() {
                spoke.insert(entry.thread.as_deref(), place);
            }
        }
        let is_unread = |place: usize, entry: &Entry| {
            let thread = entry.thread.as_deref();
            let read = all.max(mark(thread.unwrap_or("main"))).max(spoke.get(&thread).copied());
            Some(place) > read && !self.is_redacted(place) && !self.is_unseen(user, &entry.fact)
        };
        let notify = self.log.iter().enumerate().filter_map(|(n, entry)| Some((n, entry, *entry.notified.get(user)?)));
        notify.filter(|(place, entry, _)| is_unread(*place, entry)).map(|(place, _, counts)| (place, counts)).collect()
    }

    /// What a joined user has not read: of the main timeline, and of threads with anything unread.
    pub fn unread(&self, user: &str) -> (Counts, BTreeMap<String, Counts>) {
        let (mut main, mut threads) = (Counts::default(), BTreeMap::<String, Counts>::new());
        for (place, counts) in self.unread_events(user) {
            let sum = self.thread(place).map_or(&mut main, |root| threads.entry(root.to_owned()).or_default());
            sum.notifications += counts.notifications;
            sum.highlights += counts.highlights;
        }
        (main, threads)
    }

    /// Whether an event notified a user when it came.
    pub fn notified(&self, user: &str, place: usize) -> bool {
        self.log[place].notified.contains_key(user)
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "room {}", self.id)?;
        for (place, entry) in self.log.iter().enumerate() {
            let Fact { id, kind, sender, state_key, content } = &entry.fact;
            let gone = if self.is_redacted(place) { ", redacted" } else { "" };
            let state_key = state_key.as_deref().map(|key| format!(" [{key}]")).unwrap_or_default();
            let notified: Vec<_> = entry.notified.iter().map(|(user, says)| (user, says.highlights)).collect();
            writeln!(f, "{place:3} {id} {sender} {kind}{state_key} {content}{gone}, notifies {notified:?}")?;
        }
        for ((user, kind, thread), place) in &self.receipts {
            writeln!(f, "    {user} {kind} {thread:?} at {place}")?;
        }
        Ok(())
    }
}

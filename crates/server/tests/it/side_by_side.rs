//! Clients of all dialects side by side, on a whole server where anything happens: whatever they ask, in whatever order,
//! and whichever answers are lost, each of them comes to know what the log of acknowledged events says, nothing twice and
//! nothing missing, and counts what a slow count of that log counts.

mod clients;
mod pushes;
mod reference;
mod rules;
mod world;

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;
use testkit::encoded;

use clients::{Client, Dialect, Piece, View};
use reference::{Counts, MEMBER, Sight};
use world::{ROOMS, World};

/// Steps in one world. The store in memory looks through whole tables, so that many small worlds are faster than a few
/// large ones.
const STEPS: u64 = 125;
/// Worlds of all tests.
const SEEDS: u64 = 80;
/// After so many steps all clients catch up.
const SETTLED_EVERY: u64 = 125;
/// Most requests until a client has everything.
const REQUESTS_MAX: usize = 20;
/// One of so many requests follows each step, per client.
const SELDOM: usize = 14;

/// Everything of one seed.
struct Play {
    world: World,
    clients: Vec<Client>,
}

impl Play {
    async fn new(seed: u64) -> Self {
        let mut world = World::new(seed).await;
        let mut clients = Vec::new();
        for user in world.users.clone().into_iter().skip(1) {
            let after = [world.below(2) == 0, world.below(2) == 0];
            let kinds = [
                (Dialect::V3 { after: after[0], threads: true }, false),
                (Dialect::V3 { after: after[1], threads: false }, true),
                (Dialect::Deployed { in_space: world.below(3) == 0 }, world.below(3) == 0),
                (Dialect::Accepted, world.below(3) == 0),
            ];
            for (n, (dialect, lazy)) in kinds.into_iter().enumerate() {
                let token = world.login(&user, &format!("DEVICE{n}")).await;
                clients.push(Client {
                    label: format!("seed {seed}, {user}, {dialect:?}, lazy {lazy}"),
                    user: user.clone(),
                    token,
                    dialect,
                    lazy,
                    limit: 1 + world.below(5),
                    at: None,
                    views: BTreeMap::new(),
                    lists: BTreeMap::new(),
                    old: Vec::new(),
                });
            }
        }
        Self { world, clients }
    }

    /// One request; `None` if the server has forgotten the position.
    async fn request(&self, client: &Client, last: Option<usize>) -> Option<Value> {
        let at = client.at.as_deref().unwrap_or_default();
        let (method, path, body) = match client.dialect {
            Dialect::V3 { after, .. } => {
                let filter = encoded(&client.filter());
                let query = format!("since={at}&filter={filter}&use_state_after={after}&set_presence=offline");
                (Method::GET, format!("v3/sync?{query}"), Value::Null)
            }
            Dialect::Deployed { .. } => {
                let path = "unstable/org.matrix.simplified_msc3575/sync";
                let body = client.body(self.world.space(), last);
                (Method::POST, format!("{path}?pos={at}&set_presence=offline"), body)
            }
            Dialect::Accepted => (Method::POST, "v4/sync".to_owned(), client.body(self.world.space(), last)),
        };
        let (status, answer) = self.world.ask(&client.token, method, &path, &body).await;
        if status == 400 && answer["errcode"] == "M_UNKNOWN_POS" {
            assert!(client.at.is_some(), "{}: {answer}", client.label);
            return None;
        }
        assert_eq!(status, 200, "{}: {answer}", client.label);
        Some(answer)
    }

    /// A client asks as it likes: perhaps it goes back to an old state, perhaps the answer is lost.
    async fn ask(&mut self, n: usize) {
        let mut client = self.clients[n].clone();
        if !client.old.is_empty() && self.world.below(8) == 0 {
            let old = self.world.below(client.old.len());
            let (at, views) = client.old[old].clone();
            client.old.truncate(old);
            (client.at, client.views) = (at, views);
        }
        let last = (client.dialect == Dialect::Accepted).then(|| self.world.below(ROOMS));
        let is_lost = self.world.below(4) == 0;
        match self.request(&client, last).await {
            None => client.begin_anew(),
            Some(_) if is_lost => {}
            Some(answer) => {
                client.take(&answer);
                self.check_ignored(&client, &answer);
                if client.sees_all() {
                    self.compare(&client, false);
                }
                if self.world.below(3) == 0 {
                    self.fill(&mut client).await;
                }
            }
        }
        self.clients[n] = client;
    }

    /// Lets a client have everything, and compares.
    async fn settle(&mut self, client: &mut Client) {
        for n in 0.. {
            assert!(n < REQUESTS_MAX, "{}: there is always something new", client.label);
            let Some(answer) = self.request(client, None).await else {
                client.begin_anew();
                continue;
            };
            self.check_ignored(client, &answer);
            if !client.take(&answer) {
                break;
            }
        }
        self.fill(client).await;
        self.compare(client, true);
    }

    async fn settle_all(&mut self) {
        for n in 0..self.clients.len() {
            let mut client = self.clients[n].clone();
            self.settle(&mut client).await;
            self.clients[n] = client.clone();
            if matches!(client.dialect, Dialect::V3 { .. }) {
                client.begin_anew();
                client.label += ", anew";
                self.settle(&mut client).await;
            }
        }
    }

    /// Nothing comes of those whom the user ignores, but for the state.
    fn check_ignored(&self, client: &Client, answer: &Value) {
        let Some(ignored) = self.world.ignored.get(&client.user) else { return };
        let joined = answer["rooms"]["join"].as_object().into_iter().flat_map(|rooms| rooms.values());
        let of_v3 = joined.map(|room| &room["timeline"]["events"]);
        let of_sliding = answer["rooms"].as_object().into_iter().flat_map(|rooms| rooms.values());
        for events in of_v3.chain(of_sliding.map(|room| &room["timeline"])) {
            for event in events.as_array().into_iter().flatten() {
                let is_ignored = ignored.contains(event["sender"].as_str().unwrap_or_default());
                assert!(!is_ignored || event.get("state_key").is_some(), "{}: {event}", client.label);
            }
        }
    }

    /// Pages for what is missing in the timelines of a client. The first gap first: what is before a gap is whole then, and
    /// pages meet it even where some of it is hidden meanwhile.
    async fn fill(&mut self, client: &mut Client) {
        let token = client.token.clone();
        let rooms: Vec<String> = client.views.keys().cloned().collect();
        for room_id in rooms {
            let context = format!("{} {room_id}", client.label);
            let is_gap = |piece: &Piece| matches!(piece, Piece::Gap { .. });
            while let Some(view) = client.views.get_mut(&room_id)
                && let Some(at) = view.timeline.iter().position(is_gap)
            {
                if !self.fill_gap(&token, &room_id, view, at, &context).await {
                    break;
                }
            }
        }
    }

    /// Pages back from a gap, until what is known or to the beginning. False if the room may not be read.
    async fn fill_gap(&mut self, token: &str, room_id: &str, view: &mut View, at: usize, context: &str) -> bool {
        let Piece::Gap { from, to } = view.timeline[at].clone() else { return true };
        let to = to.filter(|_| self.world.below(2) == 0);
        let before = View { timeline: view.timeline[..at].to_vec(), ..View::default() }.known();
        let known = view.known();
        let (mut from, mut found) = (Some(from), Vec::new());
        'pages: while let Some(start) = from.take() {
            let limit = 1 + self.world.below(8);
            let to = to.as_deref().map(|to| format!("&to={}", encoded(to))).unwrap_or_default();
            let path =
                format!("v3/rooms/{}/messages?dir=b&from={}&limit={limit}{to}", encoded(room_id), encoded(&start));
            let (status, page) = self.world.ask(token, Method::GET, &path, &Value::Null).await;
            if status == 403 && view.membership != "join" {
                return false;
            }
            assert_eq!(status, 200, "{context}: {page}");
            for event in page["chunk"].as_array().unwrap() {
                let id = event["event_id"].as_str().unwrap().to_owned();
                if to.is_empty() && before.contains(&id) {
                    break 'pages;
                }
                assert!(!known.contains(&id), "{context}: {event} came twice, to {to}");
                found.push(Piece::Event(id, event.clone()));
            }
            from = page["end"].as_str().map(str::to_owned);
        }
        found.reverse();
        view.timeline.splice(at..=at, found);
        true
    }

    /// Compares what a client knows with what it should know; with its timelines, if it is settled.
    fn compare(&self, client: &Client, settled: bool) {
        let mut listed = [0, 0];
        for (n, room) in self.world.rooms.iter().enumerate() {
            let context = format!("{}, room {n} {}", client.label, room.id);
            let (membership, in_space) = (room.membership(&client.user), n < ROOMS && self.world.is_in_space(n));
            let is_there = matches!(membership, "join" | "invite");
            let is_listed = is_there || room.was_removed(&client.user);
            listed[0] += u64::from(is_listed);
            listed[1] += u64::from(is_listed && in_space);
            if client.dialect == (Dialect::Deployed { in_space: true }) && !in_space {
                continue;
            }
            let nothing = View::default();
            let view = client.views.get(&room.id).unwrap_or(&nothing);
            let known = if matches!(view.membership.as_str(), "join" | "invite") { &view.membership } else { "" };
            assert_eq!(known, if is_there { membership } else { "" }, "{context}");
            if membership == "join" {
                self.compare_joined(client, view, n, &context);
            }
            if settled && view.whole && membership != "invite" {
                self.compare_timeline(client, view, n, &context);
            }
        }
        for (name, expected) in ["all", "space"].into_iter().zip(listed) {
            // A room that was left stands in its lists until the client is told.
            let found = client.lists.get(name).copied().filter(|_| settled);
            assert!(found.is_none_or(|found| found == expected), "{}: {name}: {found:?}, {expected}", client.label);
        }
    }

    fn compare_joined(&self, client: &Client, view: &View, n: usize, context: &str) {
        let room = &self.world.rooms[n];
        let (mut state, mut known) = (room.state(), view.state.clone());
        if client.lazy {
            let members = |kind: &str| kind == MEMBER;
            for (key, id) in known.iter().filter(|((kind, _), _)| members(kind)) {
                assert_eq!(state.get(key), Some(id), "{context}: {key:?}");
            }
            state.retain(|(kind, _), _| !members(kind));
            known.retain(|(kind, _), _| !members(kind));
        }
        assert_eq!(known, state, "{context}");
        assert_eq!((view.joined, view.invited), (room.count("join"), room.count("invite")), "{context}");
        self.compare_receipts(client, view, n, context);
        let (main, threads) = room.unread(&client.user);
        let total = threads.values().fold(main, |sum, counts| Counts {
            notifications: sum.notifications + counts.notifications,
            highlights: sum.highlights + counts.highlights,
        });
        match client.dialect {
            Dialect::V3 { threads: true, .. } => {
                assert_eq!((view.counts, &view.threads), (main, &threads), "{context}");
            }
            Dialect::V3 { .. } | Dialect::Deployed { .. } => assert_eq!(view.counts, total, "{context}"),
            Dialect::Accepted => {}
        }
    }

    /// How far everybody has read, as far as the client may know. A receipt without a thread counts for all threads.
    fn compare_receipts(&self, client: &Client, view: &View, n: usize, context: &str) {
        let room = &self.world.rooms[n];
        let is_v3 = matches!(client.dialect, Dialect::V3 { .. });
        let ever_ignored = self.world.ever_ignored.get(&client.user);
        for (user, kind, _) in view.receipts.keys() {
            assert!(kind == "m.read" || *user == client.user, "{context}: {kind} of {user}");
        }
        for user in &self.world.users {
            let is_own = *user == client.user;
            // With sliding sync, others' receipts come only with the events that they are at.
            if !is_own && (!is_v3 || ever_ignored.is_some_and(|ignored| ignored.contains(user))) {
                continue;
            }
            let kinds: &[&str] = if is_own { &["m.read", "m.read.private"] } else { &["m.read"] };
            for kind in kinds {
                let known = |thread: &str| {
                    let event = view.receipts.get(&(user.clone(), (*kind).to_owned(), thread.to_owned()));
                    event.map(|event| room.place(event).unwrap_or_else(|| panic!("{context}: {event}")))
                };
                for thread in room.receipt_threads() {
                    let own = room.receipt(user, kind, &thread);
                    if !is_v3 && own.is_some_and(|place| room.fact(place).id == thread) {
                        // At the root nothing of a thread is read yet. There is room for one receipt at an event only, and
                        // the root has others.
                        continue;
                    }
                    let expected = own.max(room.receipt(user, kind, ""));
                    assert_eq!(known(&thread).max(known("")), expected, "{context}: {kind} of {user} in {thread:?}");
                }
            }
        }
        let marker = room.receipt(&client.user, "m.fully_read", "").map(|place| &room.fact(place).id);
        assert_eq!(view.fully_read.as_ref(), marker, "{context}");
    }

    /// All events that the user may see, in their order; of a room that was left, up to there.
    fn compare_timeline(&self, client: &Client, view: &View, n: usize, context: &str) {
        let room = &self.world.rooms[n];
        let is_joined = room.membership(&client.user) == "join";
        let end = if is_joined { room.len() } else { room.last_turn(&client.user) + 1 };
        let never = self.world.ever_ignored.get(&client.user);
        let is_ignored = |place: usize| {
            let fact = room.fact(place);
            fact.state_key.is_none() && never.is_some_and(|ignored| ignored.contains(&fact.sender))
        };
        let sights = room.sights(&client.user);
        let mut found = Vec::new();
        for piece in &view.timeline {
            let Piece::Event(id, event) = piece else {
                assert!(!is_joined, "{context}: a gap");
                return;
            };
            let place = room.place(id).unwrap_or_else(|| panic!("{context}: {event} was never acknowledged"));
            assert_ne!(sights[place], Sight::MustNot, "{context}: {event} is not to be seen");
            if !is_ignored(place) && place < end && sights[place] == Sight::Must {
                found.push(place);
            }
        }
        let expected: Vec<usize> =
            (0..end).filter(|place| sights[*place] == Sight::Must && !is_ignored(*place)).collect();
        assert_eq!(found, expected, "{context}");
        self.compare_contents((&client.user, view), n, context, &is_ignored);
    }

    /// What messages say, or that they say nothing any more.
    fn compare_contents(
        &self,
        (user, view): (&str, &View),
        n: usize,
        context: &str,
        is_ignored: &dyn Fn(usize) -> bool,
    ) {
        let room = &self.world.rooms[n];
        let (mut gone, known, sights) = (Vec::new(), view.known(), room.sights(user));
        for piece in &view.timeline {
            let Piece::Event(_, event) = piece else { continue };
            gone.extend(event["content"]["redacts"].as_str().map(str::to_owned));
        }
        for place in (0..room.len()).filter(|place| !is_ignored(*place) && known.contains(&room.fact(*place).id)) {
            let fact = room.fact(place);
            let found = view.timeline.iter().find_map(|piece| match piece {
                Piece::Event(id, event) if *id == fact.id => Some(event),
                _ => None,
            });
            let found = found.unwrap_or(&Value::Null);
            let is_gone = found["unsigned"].get("redacted_because").is_some() || gone.contains(&fact.id);
            assert_eq!((&found["type"], &found["sender"]), (&Value::from(&*fact.kind), &Value::from(&*fact.sender)));
            // Of a redaction that the user may not see, nothing is known until the event comes anew.
            let is_told = room.redaction(place).is_none_or(|by| sights[by] == Sight::Must);
            if view.membership == "join" && is_told {
                assert_eq!(is_gone, room.is_redacted(place), "{context}: {found}");
            }
            if !is_gone && fact.state_key.is_none() {
                assert_eq!(found["content"], fact.content, "{context}");
            }
        }
    }
}

/// Prints what happened in each room, if a comparison fails.
impl Drop for Play {
    fn drop(&mut self) {
        for room in self.world.rooms.iter().filter(|_| std::thread::panicking()) {
            eprintln!("{room:?}");
        }
    }
}

/// Plays these seeds; the one that the environment names instead, if it is among them, or beyond those of all tests.
async fn play(seeds: std::ops::Range<u64>) {
    let only: Option<u64> = std::env::var("HEARTH_SIDE_BY_SIDE").ok().map(|seed| seed.parse().unwrap());
    let seeds = match only {
        None => seeds,
        Some(only) if seeds.contains(&only) || (seeds.start == 0 && only >= SEEDS) => only..only + 1,
        Some(_) => 0..0,
    };
    for seed in seeds {
        let mut play = Play::new(seed).await;
        for step in 1..=STEPS {
            for client in &mut play.clients {
                let label = client.label.split(", step").next().unwrap_or_default().to_owned();
                client.label = format!("{label}, step {step}");
            }
            play.world.act().await;
            for n in 0..play.clients.len() {
                if play.world.below(SELDOM) == 0 {
                    play.ask(n).await;
                }
            }
            if step % SETTLED_EVERY == 0 {
                play.settle_all().await;
            }
        }
    }
}

#[tokio::test]
async fn cy3_cy10_cz1_clients_side_by_side_come_to_know_what_was_acknowledged() {
    play(0..SEEDS / 2).await;
}

#[tokio::test]
async fn cy3_cy10_cz1_and_so_do_more_of_them() {
    play(SEEDS / 2..SEEDS).await;
}

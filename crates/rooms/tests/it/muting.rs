//! Members who mute a room now and then: what counts for them against slow counting, and what is stored for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use event::{Object, Pdu};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rooms::unread::{Mark, ReadMarks, Unread};
use rooms::{Event, Exception, Judgement, NewEvent, Notify, Options, Preset, RoomContext, Rooms};
use serde_json::json;
use store::model::Model;
use store::tables::rooms::{MutedRow, MutingRow, NotificationRow};
use store::{Engine, Read, StreamPosition, UserId};

use crate::harness::{content, room_of, rooms_notifying, text, user};

/// Messages and stickers count. To those who mute the room messages count for nothing, unless they say "you"; and what
/// says "psst" counts for nobody.
#[derive(Default)]
struct Rules {
    muting: Mutex<BTreeSet<UserId>>,
}

impl Rules {
    fn mute(&self, user: &UserId, on: bool) {
        let mut muting = self.muting.lock();
        let _changed = if on { muting.insert(user.clone()) } else { muting.remove(user) };
    }

    /// Whether an event counts for a user, highlights, and is judged as all messages in the room are.
    fn say(&self, user: &UserId, kind: &str, body: &str) -> (bool, bool, bool) {
        match (kind, body) {
            (_, body) if body.contains("you") => (true, true, false),
            (_, body) if body.contains("psst") => (false, false, false),
            ("m.room.message", _) => (!self.muting.lock().contains(user), false, true),
            ("m.sticker", _) => (true, false, true),
            _ => (false, false, true),
        }
    }
}

#[async_trait]
impl Notify for Rules {
    async fn judge(&self, event: &Arc<Pdu>, _context: &RoomContext<'_>, users: &[UserId]) -> Judgement {
        let by_default = matches!(event.kind.as_str(), "m.room.message" | "m.sticker");
        let body = event.content.get("body").and_then(|body| body.as_str()).unwrap_or_default();
        let exceptions = users.iter().filter_map(|user| {
            let (notify, highlight, standing) = self.say(user, &event.kind, body);
            (notify != by_default || highlight).then(|| Exception { user: user.clone(), notify, highlight, standing })
        });
        Judgement { by_default, exceptions: exceptions.collect() }
    }
}

struct Room {
    rules: Arc<Rules>,
    rooms: Arc<Rooms>,
    id: String,
    room: Arc<rooms::Room>,
}

async fn open(engine: &Arc<Model>, rules: &Arc<Rules>, seed: u64) -> Arc<Rooms> {
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    rooms_notifying(engine, Options::new("one.test"), seed, Arc::clone(rules) as _).await
}

impl Room {
    async fn new(engine: &Arc<Model>, people: &[UserId]) -> Self {
        let rules = Arc::<Rules>::default();
        let rooms = open(engine, &rules, 1).await;
        let id = rooms.create_room(&room_of(&people[0], "11", Preset::PublicChat)).await.unwrap();
        for guest in &people[1..] {
            rooms.join(&id, guest, None, content(json!({}))).await.unwrap();
        }
        let room = rooms.room(&id).await.unwrap().unwrap();
        Self { rules, rooms, id, room }
    }

    async fn send(&self, new: NewEvent) -> Arc<Event> {
        let id = self.rooms.send(&self.id, new).await.unwrap();
        self.rooms.event_by_id(&self.room, id.as_str()).await.unwrap().unwrap()
    }

    async fn unread(&self, me: &UserId, marks: &ReadMarks) -> Unread {
        let row = self.rooms.membership_row(self.room.num, me).await.unwrap().unwrap();
        self.rooms.unread(&self.room, &row, marks, &BTreeSet::new()).await.unwrap()
    }
}

/// An event and what it counted for the user when it came: notifications, highlights.
type Said = (Arc<Event>, i64, i64);

#[tokio::test]
async fn who_mutes_a_room_now_and_then_is_counted_exactly() {
    let bodies = ["a", "b", "hey you", "psst"];
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let (engine, people) = (Arc::new(Model::new()), ["alice", "bob", "carl"].map(user));
        let mut here = Room::new(&engine, &people).await;
        let me = &people[1];
        let (mut said, mut gone) = (Vec::<Said>::new(), BTreeSet::new());
        let (mut all, mut main) = (None, None);
        for step in 0..80 {
            let sender = &people[random.random_range(0..people.len())];
            let body = bodies[random.random_range(0..bodies.len())];
            let root = said.iter().map(|(event, ..)| event).find(|event| event.row.thread.is_none());
            match random.random_range(0..12) {
                0 | 1 => here.rules.mute(me, random.random()),
                2 if !said.is_empty() => all = all.max(Some(random.random_range(0..said.len()))),
                3 if !said.is_empty() => main = main.max(Some(random.random_range(0..said.len()))),
                4 if !said.is_empty() => {
                    let place = random.random_range(0..said.len());
                    let mut redaction = NewEvent::message(&people[0], "m.room.redaction", Object::new());
                    redaction.redacts = Some(said[place].0.id().clone());
                    here.send(redaction).await;
                    gone.insert(place);
                }
                5 => {
                    // A restart: who mutes is read from the store.
                    here.rooms = open(&engine, &here.rules, 1_000 * (seed + 1) + step).await;
                    here.room = here.rooms.room(&here.id).await.unwrap().unwrap();
                }
                n => {
                    let kind = if n == 6 { "m.sticker" } else { "m.room.message" };
                    let relation = root
                        .filter(|_| n == 7 || n == 8)
                        .map(|root| json!({ "rel_type": "m.thread", "event_id": root.id() }));
                    let mut body_of = json!({ "msgtype": "m.text", "body": body });
                    if let Some(relation) = relation {
                        body_of["m.relates_to"] = relation;
                    }
                    let (notify, highlight, _) = here.rules.say(me, kind, body);
                    let event = here.send(NewEvent::message(sender, kind, content(body_of))).await;
                    let counts = sender != me;
                    said.push((event, i64::from(notify && counts), i64::from(highlight && counts)));
                }
            }
            let mark = |place: usize| Mark { pos: said[place].0.pos(), messages: said[place].0.row.messages };
            let marks = ReadMarks {
                all: all.map(mark).unwrap_or_default(),
                main: main.map(mark).unwrap_or_default(),
                ..ReadMarks::default()
            };
            let unread = here.unread(me, &marks).await;
            let expected = slowly(&said, &gone, me, (all, main));
            let total = |of: &Unread| (of.main.notifications, of.main.highlights, of.total().notifications);
            assert_eq!(total(&unread), expected, "seed {seed}, step {step}");
        }
        looks_back(&here, me, &said, &gone).await;
    }
}

/// Main notifications, main highlights, notifications with those of threads.
fn slowly(
    said: &[Said],
    gone: &BTreeSet<usize>,
    me: &UserId,
    (all, main): (Option<usize>, Option<usize>),
) -> (i64, i64, i64) {
    let (mut notifications, mut highlights, mut in_threads) = (0, 0, 0);
    let last_own = |thread: Option<&String>| {
        said.iter().rposition(|(event, ..)| event.row.sender == *me && event.row.thread.as_ref() == thread)
    };
    for (place, (event, notify, highlight)) in said.iter().enumerate() {
        let after = |mark: Option<usize>| mark.is_none_or(|mark| place > mark);
        let thread = event.row.thread.as_ref();
        if gone.contains(&place) || !after(all) || !after(last_own(thread)) {
            continue;
        }
        match thread {
            None if after(main) => {
                notifications += notify;
                highlights += highlight;
            }
            None => {}
            Some(_) => in_threads += notify,
        }
    }
    (notifications, highlights, notifications + in_threads)
}

/// What notified the user is listed, and was pushed, as it was counted.
async fn looks_back(here: &Room, me: &UserId, said: &[Said], gone: &BTreeSet<usize>) {
    let row = here.rooms.membership_row(here.room.num, me).await.unwrap().unwrap();
    let look = here.rooms.notified(&here.room, &row, StreamPosition(i64::MAX), 1_000).await.unwrap();
    let mut listed: Vec<String> = look.found.iter().map(|found| found.event.id().to_string()).collect();
    listed.reverse();
    let notified = |place: usize| said[place].1 > 0;
    let left = (0..said.len()).filter(|place| notified(*place) && !gone.contains(place));
    assert_eq!(listed, left.map(|place| said[place].0.id().to_string()).collect::<Vec<_>>());
    for (place, (event, ..)) in said.iter().enumerate().filter(|(_, (event, ..))| event.row.sender != *me) {
        let told = here.rooms.notified_by(&here.room, event, std::slice::from_ref(me)).await.unwrap();
        assert_eq!(!told.is_empty(), notified(place), "{}", event.row.event_id);
    }
}

#[tokio::test]
async fn a_muted_room_costs_no_row_per_message() {
    let (engine, people) = (Arc::new(Model::new()), ["alice", "bob", "carl"].map(user));
    let here = Room::new(&engine, &people).await;
    let [alice, bob, carl] = &people;
    for muting in [bob, carl] {
        here.rules.mute(muting, true);
    }
    for n in 0..50 {
        here.send(text(alice, &n.to_string())).await;
    }
    let none = ReadMarks::default();
    assert_eq!(here.unread(bob, &none).await, Unread::default());
    let rows = async || {
        let store = here.rooms.store();
        let counted: Vec<NotificationRow> = store.all(Read::prefix::<NotificationRow>(vec![])).await.unwrap();
        let changes: Vec<MutingRow> = store.all(Read::prefix::<MutingRow>(vec![])).await.unwrap();
        let muted: Vec<MutedRow> = store.all(Read::prefix::<MutedRow>(vec![])).await.unwrap();
        (counted.len(), changes.len(), muted.len())
    };
    assert_eq!(rows().await, (0, 2, 2));
    here.send(text(alice, "hey you")).await;
    here.rules.mute(bob, false);
    here.send(text(alice, "again")).await;
    assert_eq!(here.unread(bob, &none).await.main.notifications, 2);
    assert_eq!(here.unread(carl, &none).await.main.notifications, 1);
    assert_eq!(rows().await, (2, 3, 1));
    here.rooms.purge_room(&here.id).await.unwrap();
    assert_eq!(rows().await, (0, 0, 0));
}

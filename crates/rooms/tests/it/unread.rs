//! Unread counts against slow counting, on conversations made by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use event::Object;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rooms::unread::{Mark, ReadMarks};
use rooms::{Event, NewEvent, Preset};
use serde_json::{Value, json};
use store::UserId;

use crate::harness::{content, room_of, rooms, text, user};

/// What is read so far: of everything, of the main timeline, of each thread (places in the conversation).
#[derive(Debug, Default)]
struct Read {
    all: Option<usize>,
    main: Option<usize>,
    threads: BTreeMap<String, usize>,
}

/// Unread messages of `me`, who sees all of `said`: of the main timeline, and of threads with something unread. What is
/// redacted counts no more, but has been said, also in a thread.
fn count(said: &[Arc<Event>], gone: &BTreeSet<usize>, me: &str, read: &Read) -> (i64, BTreeMap<String, i64>) {
    let (mut main, mut threads) = (0, BTreeMap::new());
    // Whoever says something has read what stands before it, there.
    let own_main = said.iter().rposition(|event| event.row.thread.is_none() && event.row.sender.as_str() == me);
    for (place, event) in said.iter().enumerate() {
        let unread_after = |mark: Option<usize>| mark.is_none_or(|mark| place > mark);
        if !unread_after(read.all) || gone.contains(&place) {
            continue;
        }
        match &event.row.thread {
            None => main += i64::from(unread_after(read.main) && unread_after(own_main)),
            Some(root) => {
                let own = said
                    .iter()
                    .rposition(|other| other.row.thread.as_ref() == Some(root) && other.row.sender.as_str() == me);
                if unread_after(read.threads.get(root).copied()) && unread_after(own) {
                    *threads.entry(root.clone()).or_default() += 1;
                }
            }
        }
    }
    (main, threads)
}

#[tokio::test]
async fn unread_counts_are_what_slow_counting_says() {
    for seed in 0..25 {
        let mut random = StdRng::seed_from_u64(seed);
        let rooms = rooms().await;
        let people = ["alice", "bob", "carl"].map(user);
        let room_id = rooms.create_room(&room_of(&people[0], "11", Preset::PublicChat)).await.unwrap();
        for guest in &people[1..] {
            rooms.join(&room_id, guest, None, content(json!({}))).await.unwrap();
        }
        let room = rooms.room(&room_id).await.unwrap().unwrap();
        let mut said: Vec<Arc<Event>> = Vec::new();
        let (mut read, mut gone) = (Read::default(), BTreeSet::new());
        let me = &people[1];
        for step in 0..60 {
            let sender = &people[random.random_range(0..people.len())];
            let root = (!said.is_empty()).then(|| Arc::clone(&said[random.random_range(0..said.len().min(4))]));
            match (random.random_range(0..9), root) {
                (0..3, Some(root)) if root.row.thread.is_none() => {
                    let relation = json!({ "rel_type": "m.thread", "event_id": root.id() });
                    let reply = content(json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation }));
                    let new = NewEvent::message(sender, "m.room.message", reply);
                    let id = rooms.send(&room_id, new).await.unwrap();
                    said.push(rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap());
                }
                (3, _) if !said.is_empty() => {
                    let place = random.random_range(0..said.len());
                    read.all = read.all.max(Some(place));
                }
                (4, _) if !said.is_empty() => read.main = read.main.max(Some(random.random_range(0..said.len()))),
                (8, Some(_)) => {
                    let place = random.random_range(0..said.len());
                    // Not by oneself: whoever sends something has read what stands before it.
                    let mut redaction = NewEvent::message(&people[0], "m.room.redaction", Object::new());
                    redaction.redacts = Some(said[place].id().clone());
                    rooms.send(&room_id, redaction).await.unwrap();
                    gone.insert(place);
                }
                (5, Some(root)) => {
                    let mark = read.threads.entry(root.id().to_string()).or_default();
                    *mark = (*mark).max(random.random_range(0..said.len()));
                }
                _ => {
                    let id = rooms.send(&room_id, text(sender, &step.to_string())).await.unwrap();
                    said.push(rooms.event_by_id(&room, id.as_str()).await.unwrap().unwrap());
                }
            }
            let mark = |place: usize| Mark { pos: said[place].pos(), messages: said[place].row.messages };
            let marks = ReadMarks {
                all: read.all.map(mark).unwrap_or_default(),
                main: read.main.map(mark).unwrap_or_default(),
                threads: read.threads.iter().map(|(root, place)| (root.clone(), mark(*place))).collect(),
            };
            let row = rooms.membership_row(room.num, me).await.unwrap().unwrap();
            let unread = rooms.unread(&room, &row, &marks, &BTreeSet::new()).await.unwrap();
            let (main, threads) = count(&said, &gone, me.as_str(), &read);
            assert_eq!(unread.main.notifications, main, "seed {seed}, step {step}: {read:?}");
            let found: BTreeMap<String, i64> =
                unread.threads.into_iter().map(|(root, counts)| (root, counts.notifications)).collect();
            assert_eq!(found, threads, "seed {seed}, step {step}: {read:?}");
        }
    }
}

/// What a user has not read of the main timeline, and of all threads.
async fn sums(rooms: &rooms::Rooms, room_id: &str, me: &UserId) -> (i64, i64) {
    let room = rooms.room(room_id).await.unwrap().unwrap();
    let row = rooms.membership_row(room.num, me).await.unwrap().unwrap();
    let unread = rooms.unread(&room, &row, &ReadMarks::default(), &BTreeSet::new()).await.unwrap();
    (unread.main.notifications, unread.threads.values().map(|counts| counts.notifications).sum())
}

#[tokio::test]
async fn whatever_one_sends_into_a_thread_is_reading_it() {
    let rooms = rooms().await;
    let [alice, bob] = ["alice", "bob"].map(user);
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PublicChat)).await.unwrap();
    rooms.join(&room_id, &bob, None, content(json!({}))).await.unwrap();
    let relate = async |sender: &UserId, kind: &str, relation: Value| {
        let body = content(json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation }));
        rooms.send(&room_id, NewEvent::message(sender, kind, body)).await.unwrap()
    };
    let root = rooms.send(&room_id, text(&alice, "root")).await.unwrap();
    let reply = relate(&alice, "m.room.message", json!({ "rel_type": "m.thread", "event_id": root })).await;
    assert_eq!(sums(&rooms, &room_id, &bob).await, (1, 1));
    let like = json!({ "rel_type": "m.annotation", "event_id": reply, "key": "+" });
    let reaction = relate(&bob, "m.reaction", like).await;
    assert_eq!(sums(&rooms, &room_id, &bob).await, (1, 0));
    let mut redaction = NewEvent::message(&alice, "m.room.redaction", Object::new());
    redaction.redacts = Some(reaction);
    rooms.send(&room_id, redaction).await.unwrap();
    assert_eq!(sums(&rooms, &room_id, &bob).await, (1, 0), "what was read stays read");
    let edit = relate(&alice, "m.room.message", json!({ "rel_type": "m.replace", "event_id": reply })).await;
    assert_eq!(sums(&rooms, &room_id, &bob).await, (1, 1), "what notifies counts in its thread, reply or not");
    let mut redaction = NewEvent::message(&alice, "m.room.redaction", Object::new());
    redaction.redacts = Some(edit);
    rooms.send(&room_id, redaction).await.unwrap();
    assert_eq!(sums(&rooms, &room_id, &bob).await, (1, 0));
}

//! The visibility function against the text of the specification, on histories made by chance.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rooms::visibility::Viewer;
use rooms::{Error, Event, NewEvent, Preset, Rooms};
use serde_json::json;
use store::UserId;

use crate::harness::{content, room_of, rooms, text, user};

const VISIBILITY: &str = "m.room.history_visibility";

/// What a user's view of an event depends on: the state then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Then {
    visibility: String,
    membership: String,
}

impl Then {
    /// The state for a user just before the event at `place` of a linear history.
    fn before(history: &[Arc<Event>], place: usize, user: &UserId) -> Self {
        let last = |kind: &str, state_key: &str, member: &str| {
            let set = history[..place].iter().rev().find(|event| event.pdu.is_state_of(kind, state_key))?;
            Some(set.pdu.content.get(member)?.as_str()?.to_owned())
        };
        Self {
            visibility: last(VISIBILITY, "", "history_visibility").unwrap_or_else(|| "shared".to_owned()),
            membership: last("m.room.member", user.as_str(), "membership").unwrap_or_else(|| "leave".to_owned()),
        }
    }

    /// The five rules of the specification, in its order.
    fn allows(&self, joined_later: bool) -> bool {
        match (self.visibility.as_str(), self.membership.as_str()) {
            ("world_readable", _) | (_, "join") => true,
            ("invited", membership) => membership == "invite",
            ("joined", _) => false,
            // `shared`, and every value that the specification does not know.
            _ => joined_later,
        }
    }
}

/// Whether the user may see the event at `place`, said slowly.
fn may_see(history: &[Arc<Event>], place: usize, user: &UserId) -> bool {
    let event = &history[place];
    let own = event.pdu.is_state_of("m.room.member", user.as_str());
    let joined_later = history[place..]
        .iter()
        .any(|later| later.pdu.is_state_of("m.room.member", user.as_str()) && later.pdu.membership() == Some("join"));
    let (before, after) = (Then::before(history, place, user), Then::before(history, place + 1, user));
    if before.allows(joined_later) {
        return true;
    }
    // One thing beyond the text: whoever was invited, knocked or banned learns how that ended.
    (own || event.pdu.is_state_of(VISIBILITY, ""))
        && (after.allows(joined_later) || (own && before.membership != "leave"))
}

struct Played {
    rooms: Arc<Rooms>,
    room_id: String,
    history: Vec<Arc<Event>>,
}

/// A room with changes of membership and visibility by chance.
async fn play(seed: u64) -> Played {
    let mut random = StdRng::seed_from_u64(seed);
    let rooms = rooms().await;
    let alice = user("alice");
    let room_id = rooms.create_room(&room_of(&alice, "11", Preset::PublicChat)).await.unwrap();
    let join_rules = json!({ "join_rule": if seed.is_multiple_of(2) { "public" } else { "knock" } });
    rooms.send(&room_id, NewEvent::state(&alice, "m.room.join_rules", "", content(join_rules))).await.unwrap();
    for step in 0..60 {
        let target = user(["bob", "carl"][random.random_range(0..2)]);
        let member = |sender: &UserId, membership: &str| {
            let value = json!({ "membership": membership, "reason": step.to_string() });
            NewEvent::state(sender, "m.room.member", target.as_str(), content(value))
        };
        let new = match random.random_range(0..12) {
            0..3 => text(&alice, &step.to_string()),
            3 => text(&target, &step.to_string()),
            4 | 5 => {
                let value = ["joined", "invited", "shared", "world_readable", "odd"][random.random_range(0..5)];
                let value = json!({ "history_visibility": value, "n": step });
                NewEvent::state(&alice, VISIBILITY, "", content(value))
            }
            6 => member(&alice, "invite"),
            7 => member(&alice, "leave"),
            8 => member(&alice, "ban"),
            9 => member(&target, "leave"),
            10 => member(&target, "knock"),
            _ => member(&target, "join"),
        };
        match rooms.send(&room_id, new).await {
            Ok(_) | Err(Error::Forbidden(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let room = rooms.room(&room_id).await.unwrap().unwrap();
    let mut history = Vec::new();
    let mut next = room.head().extremities[0].id.clone();
    loop {
        let event = rooms.event_by_id(&room, next.as_str()).await.unwrap().unwrap();
        history.push(Arc::clone(&event));
        match event.pdu.prev_events.first() {
            Some(previous) => next = previous.clone(),
            None => break,
        }
    }
    history.reverse();
    Played { rooms, room_id, history }
}

#[tokio::test]
async fn cr11_visibility_is_what_the_specification_says() {
    let (mut seen, mut hidden) = (0, 0);
    for seed in 0..40 {
        let played = play(seed).await;
        let room = played.rooms.room(&played.room_id).await.unwrap().unwrap();
        for name in ["alice", "bob", "carl", "nobody"] {
            let me = user(name);
            let mut viewer = Viewer::new(&played.rooms, &room, &me).await.unwrap();
            for (place, event) in played.history.iter().enumerate() {
                let expected = may_see(&played.history, place, &me);
                let then = Then::before(&played.history, place, &me);
                let found = viewer.sees(event).await.unwrap();
                let pdu = &event.pdu;
                assert_eq!(
                    found, expected,
                    "seed {seed}, {me}, event {place} {} {:?}: {then:?}",
                    pdu.kind, pdu.content
                );
                *(if found { &mut seen } else { &mut hidden }) += 1;
            }
        }
    }
    assert!(seen > 500 && hidden > 500, "{seen} seen, {hidden} hidden");
}

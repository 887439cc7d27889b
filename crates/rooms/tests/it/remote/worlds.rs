//! A server joins a room with a past of forks, conflicts, rejected and soft-failed events, fetches all of its history,
//! and comes to the same states as those who were there.

use std::collections::{BTreeMap, BTreeSet};

use rooms::{Accepted, flags};

use super::{Server, all_received, join, received};
use crate::graphs::{check_memberships, play};
use crate::harness::history;

#[tokio::test]
async fn a_late_server_comes_to_the_same_states() {
    let mut n_compared = 0;
    for (seed, version) in [(900, "11"), (901, "12"), (902, "6"), (903, "1")] {
        let world = play(seed, version, 60).await;
        let room_id = world.room_id.clone();
        let one = Server { rooms: world.servers[0].clone(), engine: world.servers[0].store().engine().clone() };
        let open =
            super::state(&"@ann:one.test".into(), "m.room.join_rules", serde_json::json!({ "join_rule": "public" }));
        if one.rooms.send(&room_id, open).await.is_err() {
            continue;
        }
        let four = Server::new("four.test").await;
        let joined = join(&four, &one, &room_id, "eve").await.unwrap();
        assert_eq!(one.current(&room_id).await, four.current(&room_id).await, "seed {seed}");
        check_memberships(&four.rooms, &*four.room(&room_id).await, "four.test").await;
        fetch_history(&one, &four, &room_id).await;
        let (here, there) = (four.room(&room_id).await, one.room(&room_id).await);
        assert_eq!(four.current(&room_id).await, one.current(&room_id).await, "seed {seed}: history is no present");
        for (pdu, _) in &world.events {
            let (mine, theirs) = (four.event(&room_id, &pdu.event_id).await, one.get(&room_id, &pdu.event_id).await);
            let Some(mine) = mine.filter(|event| !event.has(flags::OUTLIER)) else { continue };
            let before = four.ids(&here, mine.state_before().unwrap()).await;
            let expected = one.ids(&there, theirs.state_before().unwrap()).await;
            assert!(before == expected, "seed {seed}, version {version}: {}", pdu.event_id);
            assert_eq!(mine.rejected(), theirs.rejected(), "seed {seed}: {}", pdu.event_id);
            n_compared += 1;
        }
        let shown: BTreeSet<String> = history(&four.rooms, &room_id, &four.user("eve"))
            .await
            .iter()
            .map(|event| event.id().to_string())
            .collect();
        assert!(shown.len() >= 30, "seed {seed}: {} events are shown", shown.len());
        assert_eq!(here.head().extremities.len(), 1);
        assert_eq!(here.head().extremities[0].id, *joined.id());
        // Everything once more, by another way, changes nothing.
        let (held, head) = (four.current(&room_id).await, four.room(&room_id).await.head());
        for (pdu, _) in &world.events {
            let accepted = four.accept(received(pdu, world.rules)).await;
            assert!(!matches!(accepted, Accepted::Judged(ref event) if event.row.pos.is_some()), "{:?}", pdu.event_id);
        }
        assert_eq!(four.current(&room_id).await, held);
        assert_eq!(four.room(&room_id).await.head().extremities, head.extremities);
    }
    assert!(n_compared > 100, "only {n_compared} events were compared");
}

/// Asks for history until nothing comes any more, telling the state at every event.
async fn fetch_history(from: &Server, to: &Server, room_id: &str) {
    let rules = to.room(room_id).await.rules;
    for _ in 0..100 {
        let room = to.room(room_id).await;
        let gaps = to.rooms.backward_gaps(&room, to.rooms.live_end(&room)).await.unwrap();
        if gaps.is_empty() {
            return;
        }
        let events = from.rooms.events_before(room_id, &gaps, 15).await.unwrap();
        let mut states = BTreeMap::new();
        let known: BTreeSet<_> = events.iter().map(|event| event.id().clone()).collect();
        for event in events.iter().filter(|event| event.pdu.prev_events.iter().any(|id| !known.contains(id))) {
            let state = from.rooms.state_before(room_id, event.id()).await.unwrap();
            let ids: Vec<_> = state.iter().map(|event| event.id().clone()).collect();
            let chain = from.rooms.auth_chain(room_id, &ids).await.unwrap();
            let outliers = [all_received(&state, rules), all_received(&chain, rules)].concat();
            to.rooms.accept_outliers(room_id, outliers).await.unwrap();
            states.insert(event.id().clone(), ids.into());
        }
        let placed = to.rooms.accept_history(room_id, all_received(&events, rules), states).await.unwrap();
        assert!(!placed.is_empty(), "the gaps {gaps:?} stay");
    }
    panic!("the history has no end");
}

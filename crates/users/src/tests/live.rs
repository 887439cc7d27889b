//! Typing and presence.

use std::collections::BTreeSet;

use store::RoomNum;

use super::{Bench, user};
use crate::presence::PresenceState;

#[tokio::test]
async fn cr24_typing_ends_by_itself_and_readers_learn_of_it() {
    let bench = Bench::new().await;
    let (room, alice) = (RoomNum(1), user("alice"));
    let start = bench.users.volatile().position().number;
    bench.users.set_typing(room, &alice, Some(5_000));
    assert_eq!(bench.users.typing_since(room, start), Some(BTreeSet::from([alice.clone()])));
    let seen = bench.users.volatile().position().number;
    assert_eq!(bench.users.typing_since(room, seen), None, "nothing new");
    bench.users.set_typing(room, &alice, Some(5_000));
    assert_eq!(bench.users.volatile().position().number, seen, "typing on changes nothing");
    bench.clock.advance(5_000);
    assert!(bench.users.typing_in(room).is_empty());
    bench.users.tick();
    assert_eq!(bench.users.typing_since(room, seen), Some(BTreeSet::new()));
    let seen = bench.users.volatile().position().number;
    bench.users.set_typing(room, &alice, None);
    assert_eq!(bench.users.volatile().position().number, seen, "stopping what has ended changes nothing");
    assert_eq!(bench.users.typing_since(RoomNum(2), 0), None);
}

#[tokio::test]
async fn another_epoch_means_everything_again() {
    let bench = Bench::new().await;
    bench.users.set_typing(RoomNum(1), &user("alice"), Some(5_000));
    let volatile = bench.users.volatile();
    let position = volatile.position();
    assert_eq!(volatile.since(&position.epoch, position.number), position.number);
    assert_eq!(volatile.since("other", position.number), 0);
    assert_eq!(volatile.since(&position.epoch, position.number + 1), 0);
}

#[tokio::test]
async fn presence_fades_and_changes_are_told_once() {
    let bench = Bench::new().await;
    let alice = user("alice");
    bench.users.set_presence(&alice, PresenceState::Online, Some("here".to_owned())).unwrap();
    let changes = bench.users.presence_since(0);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].1.state, changes[0].1.status.as_deref()), (PresenceState::Online, Some("here")));
    let seen = bench.users.volatile().position().number;
    bench.users.presence_seen(&alice, PresenceState::Online);
    assert!(bench.users.presence_since(seen).is_empty(), "the same presence is not told again");
    for minute in 1..=6 {
        bench.clock.advance(60_000);
        bench.users.presence_seen(&alice, PresenceState::Unavailable);
        bench.users.tick();
        let state = bench.users.presence(&alice).unwrap().state;
        let expected = if minute <= 5 { PresenceState::Online } else { PresenceState::Unavailable };
        assert_eq!(state, expected, "minute {minute}");
    }
    bench.clock.advance(61_000);
    bench.users.tick();
    assert_eq!(bench.users.presence(&alice).unwrap().state, PresenceState::Offline);
    assert_eq!(bench.users.presence_since(seen).len(), 1, "one line per user");
    assert!(bench.users.set_presence(&alice, PresenceState::Online, Some("x".repeat(2_000))).is_err());
}

#[tokio::test]
async fn presence_can_be_switched_off() {
    let bench = Bench::with(|options| options.presence = false).await;
    bench.users.set_presence(&user("alice"), PresenceState::Online, None).unwrap();
    assert_eq!(bench.users.presence(&user("alice")), None);
}

#[tokio::test]
async fn after_a_clock_jumped_back_typing_and_presence_end_in_their_usual_time() {
    let bench = Bench::new().await;
    let (room, alice) = (RoomNum(1), user("alice"));
    bench.users.set_typing(room, &alice, Some(30_000));
    bench.users.set_presence(&alice, PresenceState::Online, None).unwrap();
    bench.clock.advance(-3_600_000);
    bench.users.tick();
    assert_eq!(bench.users.typing_in(room), BTreeSet::from([alice.clone()]));
    assert_eq!(bench.users.presence(&alice).unwrap().state, PresenceState::Online);
    for _ in 0..15 {
        bench.clock.advance(60_000);
        bench.users.tick();
    }
    assert!(bench.users.typing_in(room).is_empty());
    assert_eq!(bench.users.presence(&alice).unwrap().state, PresenceState::Offline);
}

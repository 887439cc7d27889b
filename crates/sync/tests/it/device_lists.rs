//! Whose devices are to be learnt, and whose need not be followed any more (behaviours CE4, CE5, CE14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use event::Object;
use rooms::Rooms;
use serde_json::{Value, json};
use store::model::Model;
use store::{StreamPosition, UserId};
use users::presence::{Presence, PresenceState};

use crate::bench::{Bench, user};
use crate::remote::{join, other, received, room_of};

/// Longer than any wait that is ended by news.
const PATIENCE: Duration = Duration::from_secs(60);

async fn bench() -> Arc<Bench> {
    Bench::new(Arc::new(Model::new()), |follower| follower).await
}

async fn sync(bench: &Bench, user: &UserId, since: &Value) -> Value {
    bench.sync(user, since["next_batch"].as_str(), Duration::ZERO).await
}

/// Both lists of an answer.
fn lists(answer: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = |list: &str| {
        let names = answer["device_lists"][list].as_array().into_iter().flatten();
        names.map(|name| name.as_str().unwrap()).collect()
    };
    (names("changed"), names("left"))
}

/// The newest event of the other server's room comes.
async fn carry(bench: &Bench, other: &Rooms, room_id: &str) {
    let room = other.room(room_id).await.unwrap().unwrap();
    let newest = room.head().extremities[0].id.clone();
    let event = other.event_by_id(&room, newest.as_str()).await.unwrap().unwrap();
    bench.rooms.accept(received(&event.pdu)).await.unwrap();
}

async fn leaves(bench: &Bench, other: &Rooms, room_id: &str, who: &UserId) {
    other.leave(room_id, who, None).await.unwrap();
    carry(bench, other, room_id).await;
}

async fn joins(bench: &Bench, other: &Rooms, room_id: &str, who: &UserId) {
    other.join(room_id, who, None, Object::new()).await.unwrap();
    carry(bench, other, room_id).await;
}

#[tokio::test]
async fn ce4_users_of_other_servers_are_listed_when_met_and_when_they_change() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let (alice, carol) = (user("alice"), UserId::from("@carol:two.test"));
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    join(&bench, &other, &room_id, &alice).await;
    let met = sync(&bench, &alice, &start).await;
    assert_eq!(lists(&met), (vec![bob.as_str()], vec![]), "{met}");
    bench.users.remote_devices_changed(&bob).await.unwrap();
    bench.users.remote_devices_changed(&carol).await.unwrap();
    let changed = sync(&bench, &alice, &met).await;
    assert_eq!(lists(&changed), (vec![bob.as_str()], vec![]), "carol is nobody to alice: {changed}");
    joins(&bench, &other, &room_id, &carol).await;
    let joined = sync(&bench, &alice, &changed).await;
    assert_eq!(lists(&joined), (vec![carol.as_str()], vec![]), "{joined}");
    assert_eq!(lists(&sync(&bench, &alice, &joined).await), (vec![], vec![]));
}

#[tokio::test]
async fn ce4_who_is_in_another_shared_room_is_not_gone() {
    let bench = bench().await;
    let (other, bob, first) = other().await;
    let second = room_of(&other, &bob).await;
    let alice = user("alice");
    for room_id in [&first, &second] {
        join(&bench, &other, room_id, &alice).await;
    }
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    leaves(&bench, &other, &first, &bob).await;
    let one_left = sync(&bench, &alice, &start).await;
    assert_eq!(lists(&one_left), (vec![], vec![]), "{one_left}");
    leaves(&bench, &other, &second, &bob).await;
    let both_left = sync(&bench, &alice, &one_left).await;
    assert_eq!(lists(&both_left), (vec![], vec![bob.as_str()]), "{both_left}");
    joins(&bench, &other, &first, &bob).await;
    let back = sync(&bench, &alice, &both_left).await;
    assert_eq!(lists(&back), (vec![bob.as_str()], vec![]), "{back}");
    bench.rooms.leave(&second, &alice, None).await.unwrap();
    let away = sync(&bench, &alice, &back).await;
    assert_eq!(lists(&away), (vec![], vec![]), "bob is still in the first room: {away}");
    bench.rooms.leave(&first, &alice, None).await.unwrap();
    let alone = sync(&bench, &alice, &away).await;
    assert_eq!(lists(&alone), (vec![], vec![bob.as_str()]), "{alone}");
}

#[tokio::test]
async fn ce4_who_was_away_between_two_answers_is_to_be_learnt_anew() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    join(&bench, &other, &room_id, &alice).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    leaves(&bench, &other, &room_id, &bob).await;
    joins(&bench, &other, &room_id, &bob).await;
    let back = sync(&bench, &alice, &start).await;
    assert_eq!(lists(&back), (vec![bob.as_str()], vec![]), "of what bob changed meanwhile nothing was told: {back}");
}

#[tokio::test]
async fn ce4_an_invite_after_a_leave_does_not_hide_who_is_gone() {
    let bench = bench().await;
    let (alice, dave) = (user("alice"), user("dave"));
    let room_id = bench.room(&[dave.clone(), alice.clone()]).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    bench.rooms.leave(&room_id, &alice, None).await.unwrap();
    bench.rooms.invite(&room_id, &dave, &alice, None, Object::new()).await.unwrap();
    let answer = sync(&bench, &alice, &start).await;
    assert_eq!(lists(&answer), (vec![], vec![dave.as_str()]), "{answer}");
}

#[tokio::test]
async fn ce4_filters_of_rooms_hide_nobody() {
    let bench = bench().await;
    let (alice, dave) = (user("alice"), user("dave"));
    let room_id = bench.room(std::slice::from_ref(&alice)).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    bench.rooms.join(&room_id, &dave, None, Object::new()).await.unwrap();
    let filter = json!({ "room": { "not_rooms": [room_id] } }).to_string();
    let answer = bench.sync_with(&alice, start["next_batch"].as_str(), &filter, Duration::ZERO).await;
    assert_eq!(lists(&answer), (vec![dave.as_str()], vec![]), "{answer}");
    assert!(answer["rooms"].is_null());
}

#[tokio::test]
async fn ce5_the_changes_of_any_span_are_those_of_sync_in_this_life_and_the_next() {
    let engine = Arc::new(Model::new());
    let bench = Bench::new(Arc::<Model>::clone(&engine), |follower| follower).await;
    let (other, bob, first) = other().await;
    let second = room_of(&other, &bob).await;
    let (alice, carol, dave) = (user("alice"), UserId::from("@carol:two.test"), user("dave"));
    let mut answers = vec![bench.sync(&alice, None, Duration::ZERO).await];
    let next = async |answers: &mut Vec<Value>| {
        let answer = sync(&bench, &alice, answers.last().unwrap()).await;
        answers.push(answer);
    };
    join(&bench, &other, &first, &alice).await;
    join(&bench, &other, &second, &alice).await;
    next(&mut answers).await;
    joins(&bench, &other, &second, &carol).await;
    let theirs = bench.room(&[dave.clone(), alice.clone()]).await;
    next(&mut answers).await;
    bench.users.remote_devices_changed(&bob).await.unwrap();
    bench.users.put_device(&dave, &"PHONE".into(), Some("Phone".to_owned()), true).await.unwrap();
    next(&mut answers).await;
    leaves(&bench, &other, &second, &carol).await;
    bench.rooms.leave(&theirs, &alice, None).await.unwrap();
    leaves(&bench, &other, &first, &bob).await;
    next(&mut answers).await;
    assert_eq!(lists(&answers[1]), (vec![bob.as_str()], vec![]));
    assert_eq!(lists(&answers[2]), (vec![carol.as_str(), dave.as_str()], vec![]));
    assert_eq!(lists(&answers[3]), (vec![bob.as_str(), dave.as_str()], vec![]));
    assert_eq!(lists(&answers[4]), (vec![], vec![carol.as_str(), dave.as_str()]));
    let token = |n: usize| answers[n]["next_batch"].as_str().unwrap();
    let restarted = Bench::new(engine, |follower| follower).await;
    for sync in [&bench.sync, &restarted.sync] {
        let span = async |from: usize, to: usize| {
            let found = sync.device_list_changes(&alice, token(from), token(to)).await.unwrap();
            let names = |users: BTreeSet<UserId>| users.iter().map(ToString::to_string).collect::<Vec<_>>();
            (names(found.changed), names(found.left))
        };
        let names = |users: &[&UserId]| users.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(span(0, 4).await, (names(&[&bob]), vec![]), "who came and went was never there");
        assert_eq!(span(1, 4).await, (names(&[&bob]), vec![]));
        assert_eq!(span(2, 4).await, (names(&[&bob]), names(&[&carol, &dave])));
        assert_eq!(span(3, 4).await, (vec![], names(&[&carol, &dave])));
        assert_eq!(span(4, 4).await, (vec![], vec![]));
        assert!(sync.device_list_changes(&alice, "s999999_x_1", token(4)).await.is_err(), "of no server's making");
    }
}

/// A user of another server whose presence is told is seen by those who share a room.
#[tokio::test]
async fn cy16_presence_of_users_of_other_servers_arrives() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let (alice, dave) = (user("alice"), user("dave"));
    join(&bench, &other, &room_id, &alice).await;
    let (start, theirs) =
        (bench.sync(&alice, None, Duration::ZERO).await, bench.sync(&dave, None, Duration::ZERO).await);
    let waiting = bench.sync(&alice, start["next_batch"].as_str(), PATIENCE);
    let (answer, ()) = tokio::join!(waiting, async {
        let presence = Presence {
            state: PresenceState::Online,
            status: Some("here".to_owned()),
            active_ms: 0,
            seen_ms: 0,
            currently_active: true,
        };
        bench.users.receive_presence(&bob, presence);
    });
    assert_eq!(answer["presence"]["events"][0]["sender"], bob.as_str(), "{answer}");
    assert!(sync(&bench, &dave, &theirs).await["presence"].is_null(), "to dave bob is nobody");
}

/// Whoever waits is woken by a change of a user of another server, also one that is followed by nothing else.
#[tokio::test]
async fn ce4_a_change_elsewhere_wakes_who_shares_a_room() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    join(&bench, &other, &room_id, &alice).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    let waiting = bench.sync(&alice, start["next_batch"].as_str(), PATIENCE);
    let (answer, ()) = tokio::join!(waiting, async {
        bench.users.remote_devices_changed(&bob).await.unwrap();
    });
    assert_eq!(lists(&answer), (vec![bob.as_str()], vec![]), "{answer}");
}

/// The same right after a restart, when no room is in memory yet.
#[tokio::test]
async fn ce4_a_change_elsewhere_wakes_who_waits_since_before_a_restart() {
    let engine = Arc::new(Model::new());
    let bench = Bench::new(Arc::<Model>::clone(&engine), |follower| follower).await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    join(&bench, &other, &room_id, &alice).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    let bench = Bench::restarted(engine).await;
    let waiting = bench.sync(&alice, start["next_batch"].as_str(), PATIENCE);
    let (answer, ()) = tokio::join!(waiting, async {
        bench.users.remote_devices_changed(&bob).await.unwrap();
    });
    assert_eq!(lists(&answer), (vec![bob.as_str()], vec![]), "{answer}");
}

/// CE14: whoever sees a member for the first time knows whose keys to ask for, also where the answer was lost.
#[tokio::test]
async fn ce14_a_new_member_and_a_new_device_come_with_their_device_lists() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let (alice, carol) = (user("alice"), UserId::from("@carol:two.test"));
    join(&bench, &other, &room_id, &alice).await;
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    let waiting = bench.sync(&alice, start["next_batch"].as_str(), PATIENCE);
    let (answer, ()) = tokio::join!(waiting, joins(&bench, &other, &room_id, &carol));
    let shown = answer["rooms"]["join"][&room_id]["timeline"].to_string();
    assert!(shown.contains(carol.as_str()), "{answer}");
    assert_eq!(lists(&answer), (vec![carol.as_str()], vec![]), "{answer}");
    bench.users.remote_devices_changed(&bob).await.unwrap();
    bench.say(&room_id, &alice, "to all devices").await;
    for _ in 0..2 {
        let again = sync(&bench, &alice, &start).await;
        assert_eq!(lists(&again), (vec![bob.as_str(), carol.as_str()], vec![]), "{again}");
    }
}

/// CE12: what was known of somebody at a position still holds only where both have been in one room since.
#[tokio::test]
async fn ce12_who_has_shared_a_room_since_when_is_known() {
    let bench = bench().await;
    let (other, bob, room_id) = other().await;
    let alice = user("alice");
    let before = bench.store.watermark();
    join(&bench, &other, &room_id, &alice).await;
    let shared = async |since: StreamPosition| {
        let asked = BTreeMap::from([(bob.clone(), since)]);
        !bench.sync.shared_since(&alice, asked).await.unwrap().is_empty()
    };
    let joined = bench.store.watermark();
    assert!(!shared(before).await);
    assert!(shared(joined).await, "bob was there when alice joined");
    leaves(&bench, &other, &room_id, &bob).await;
    assert!(!shared(joined).await && !shared(bench.store.watermark()).await);
    joins(&bench, &other, &room_id, &bob).await;
    let back = bench.store.watermark();
    assert!(!shared(joined).await, "he was away in between");
    assert!(shared(back).await);
    bench.rooms.leave(&room_id, &alice, None).await.unwrap();
    assert!(!shared(back).await);
}

//! Lazily loaded members that the timeline has too (behaviours CY1, CY7, CY8).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use store::model::Model;
use store::{DeviceId, UserId};
use sync::Request;
use users::presence::PresenceState;

use crate::bench::{Bench, user};

/// The members in one list of events.
fn members(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events.filter(|event| event["type"] == "m.room.member").map(|event| event["state_key"].as_str().unwrap()).collect()
}

/// A first sync with lazily loaded members.
async fn lazy_sync(bench: &Bench, user: &UserId, use_state_after: bool) -> Value {
    lazy_sync_since(bench, user, use_state_after, None).await
}

async fn lazy_sync_since(bench: &Bench, user: &UserId, use_state_after: bool, since: Option<&Value>) -> Value {
    let request = Request {
        user: user.clone(),
        device: Some(DeviceId::from("LAZY")),
        since: since.map(|answer| answer["next_batch"].as_str().unwrap().to_owned()),
        filter: Some(r#"{"room":{"state":{"lazy_load_members":true}}}"#.to_owned()),
        full_state: false,
        use_state_after,
        set_presence: PresenceState::Offline,
        timeout: Duration::ZERO,
        now_ms: 0,
    };
    serde_json::from_str(&bench.sync.sync(&request).await.unwrap()).unwrap()
}

#[tokio::test]
async fn cy1_a_hero_in_the_timeline_is_not_told_twice() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.named_room(None, &[ann.clone(), bob.clone()]).await;
    let answer = lazy_sync(&bench, &ann, false).await;
    let section = &answer["rooms"]["join"][&room];
    assert_eq!(section["summary"]["m.heroes"][0], bob.as_str());
    assert!(members(&section["timeline"]["events"]).contains(&bob.as_str()));
    assert!(members(&section["state"]["events"]).is_empty());
    for _ in 0..10 {
        bench.say(&room, &ann, "on").await;
    }
    bench.say(&room, &ann, "and on").await;
    let answer = lazy_sync(&bench, &ann, false).await;
    assert!(members(&answer["rooms"]["join"][&room]["state"]["events"]).contains(&bob.as_str()), "out of sight");
}

#[tokio::test]
async fn cy7_state_after_has_the_members_of_the_timeline() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.room(std::slice::from_ref(&ann)).await;
    bench.rooms.ban(&room, &ann, &bob, None).await.unwrap();
    let answer = lazy_sync(&bench, &ann, true).await;
    let section = &answer["rooms"]["join"][&room];
    let mut told = members(&section["state_after"]["events"]);
    told.sort_unstable();
    assert_eq!(told, [ann.as_str(), bob.as_str()], "clients apply no state of the timeline");
}

/// What a lost answer told was not told: the request comes again, with the same token.
#[tokio::test]
async fn cy7_members_of_an_answer_that_was_lost_come_again() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (ann, bob, carol) = (user("ann"), user("bob"), user("carol"));
    let room = bench.room(&[ann.clone(), bob.clone(), carol.clone()]).await;
    for _ in 0..20 {
        bench.say(&room, &ann, "on").await;
    }
    let next = async |since: &Value| {
        let answer = lazy_sync_since(&bench, &ann, false, Some(since)).await;
        let told = members(&answer["rooms"]["join"][&room]["state"]["events"]);
        let told: Vec<String> = told.into_iter().map(str::to_owned).collect();
        (answer, told)
    };
    let start = lazy_sync(&bench, &ann, false).await;
    bench.say(&room, &bob, "who is this").await;
    let (lost, told) = next(&start).await;
    assert_eq!(told, [bob.as_str()]);
    let (again, told) = next(&start).await;
    assert_eq!(told, [bob.as_str()], "the first answer never came: {lost}");
    bench.say(&room, &bob, "still me").await;
    let (known, told) = next(&again).await;
    assert!(told.is_empty(), "the second did");

    bench.say(&room, &carol, "out of sight soon").await;
    let (_, told) = next(&known).await;
    assert_eq!(told, [carol.as_str()]);
    for _ in 0..20 {
        bench.say(&room, &ann, "on").await;
    }
    let (without, told) = next(&known).await;
    assert!(told.is_empty(), "she is not in what is shown of the gap");
    bench.say(&room, &carol, "again").await;
    let (_, told) = next(&without).await;
    assert_eq!(told, [carol.as_str()], "only the lost answer had told of her");
}

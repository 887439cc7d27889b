//! Lazily loaded members that the timeline has too (behaviours CY1, CY7, CY8).

use std::sync::Arc;

use serde_json::Value;
use store::model::Model;

use crate::bench::{Bench, user};

/// The members in one list of events.
fn members(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap().iter();
    events.filter(|event| event["type"] == "m.room.member").map(|event| event["state_key"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn cy1_a_hero_in_the_timeline_is_not_told_twice() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.named_room(None, &[ann.clone(), bob.clone()]).await;
    let answer = bench.lazy_sync(&ann, false).await;
    let section = &answer["rooms"]["join"][&room];
    assert_eq!(section["summary"]["m.heroes"][0], bob.as_str());
    assert!(members(&section["timeline"]["events"]).contains(&bob.as_str()));
    assert!(members(&section["state"]["events"]).is_empty());
    for _ in 0..10 {
        bench.say(&room, &ann, "on").await;
    }
    bench.say(&room, &ann, "and on").await;
    let answer = bench.lazy_sync(&ann, false).await;
    assert!(members(&answer["rooms"]["join"][&room]["state"]["events"]).contains(&bob.as_str()), "out of sight");
}

#[tokio::test]
async fn cy7_state_after_has_the_members_of_the_timeline() {
    let bench = Bench::new(Arc::new(Model::new()), |follower| follower).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.room(std::slice::from_ref(&ann)).await;
    bench.rooms.ban(&room, &ann, &bob, None).await.unwrap();
    let answer = bench.lazy_sync(&ann, true).await;
    let section = &answer["rooms"]["join"][&room];
    let mut told = members(&section["state_after"]["events"]);
    told.sort_unstable();
    assert_eq!(told, [ann.as_str(), bob.as_str()], "clients apply no state of the timeline");
}

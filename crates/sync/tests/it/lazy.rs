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
    let request = Request {
        user: user.clone(),
        device: Some(DeviceId::from("LAZY")),
        since: None,
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

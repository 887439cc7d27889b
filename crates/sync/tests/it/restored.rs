//! A database that was put back from a backup: clients with tokens of the lost future end with the right picture.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use event::{Json, Object};
use rooms::NewEvent;
use serde_json::{Value, json};
use store::{Engine, UserId};

use crate::bench::{Bench, user};

async fn start(path: &Path) -> (Arc<sqlite::Sqlite>, Arc<Bench>) {
    let engine = Arc::new(sqlite::Sqlite::open(path, sqlite::Options::default()).unwrap());
    let bench = Bench::new(engine.clone(), |follower| follower).await;
    (engine, bench)
}

async fn sync(bench: &Bench, user: &UserId, since: Option<&Value>) -> Value {
    let since = since.map(|answer| answer["next_batch"].as_str().unwrap());
    bench.sync(user, since, Duration::ZERO).await
}

fn content(value: Value) -> Object {
    match Json::from(value) {
        Json::Object(object) => object,
        other => panic!("not an object: {other:?}"),
    }
}

async fn topic(bench: &Bench, room: &str, by: &UserId, topic: &str) {
    let event = NewEvent::state(by, "m.room.topic", "", content(json!({ "topic": topic })));
    bench.rooms.send(room, event).await.unwrap();
}

/// What a client knows of a room that it is joined to, once it has applied an answer's state and timeline.
fn topic_of(section: &Value) -> Option<&str> {
    let events = ["state", "timeline"].map(|part| section[part]["events"].as_array());
    let mut topics = events.into_iter().flatten().flatten().filter(|event| event["type"] == "m.room.topic");
    topics.next_back().and_then(|event| event["content"]["topic"].as_str())
}

fn bodies(section: &Value) -> Vec<&str> {
    let events = section["timeline"]["events"].as_array().into_iter().flatten();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn tokens_of_a_lost_future_get_everything_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("hearth.db"), directory.path().join("copy.db"));
    let (engine, bench) = start(&path).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.room(&[ann.clone(), bob.clone()]).await;
    let quiet = bench.room(&[ann.clone(), bob.clone()]).await;
    let other = bench.room(std::slice::from_ref(&ann)).await;
    let left = bench.room(&[ann.clone(), bob.clone()]).await;
    bench.rooms.leave(&left, &bob, None).await.unwrap();
    topic(&bench, &room, &ann, "kept").await;
    bench.say(&room, &ann, "before").await;
    let before = sync(&bench, &bob, None).await;
    engine.backup(&copy, |_, _| {}).unwrap();
    topic(&bench, &room, &ann, "lost").await;
    bench.say(&room, &ann, "lost").await;
    bench.rooms.join(&other, &bob, None, Object::new()).await.unwrap();
    bench.rooms.join(&left, &bob, None, Object::new()).await.unwrap();
    bench.rooms.leave(&quiet, &bob, None).await.unwrap();
    let lost = sync(&bench, &bob, Some(&before)).await;
    assert_eq!(topic_of(&lost["rooms"]["join"][&room]), Some("lost"));
    assert!(lost["rooms"]["join"][&left].is_object() && lost["rooms"]["leave"][&quiet].is_object());
    engine.close().await;
    drop(bench);
    sqlite::prepare_restored(&copy).unwrap();
    let (engine, bench) = start(&copy).await;

    let answer = sync(&bench, &bob, Some(&lost)).await;
    let section = &answer["rooms"]["join"][&room];
    assert_eq!(topic_of(section), Some("kept"), "the state is whole again");
    assert_eq!(section["timeline"]["limited"], true, "what the client has of the timeline is wrong");
    assert!(bodies(section).ends_with(&["before"]));
    assert!(answer["rooms"]["join"][&quiet].is_object(), "the room that was left in the lost future");
    assert!(answer["rooms"]["leave"][&left].is_object(), "the room that was joined in the lost future");
    let changed = answer["device_lists"]["changed"].as_array().unwrap();
    assert!(changed.contains(&json!(ann.as_str())), "keys may be others than those that were seen");

    topic(&bench, &room, &ann, "new").await;
    bench.say(&room, &ann, "after").await;
    let next = sync(&bench, &bob, Some(&answer)).await;
    let section = &next["rooms"]["join"][&room];
    assert_eq!((topic_of(section), bodies(section)), (Some("new"), vec!["after"]), "nothing twice");
    assert_eq!(section["timeline"]["limited"], false);
    assert!(next["rooms"]["join"][&quiet].is_null() && next["rooms"]["leave"].is_null());

    // A token from before the backup is as good as ever, also one that was never moved since.
    let old = sync(&bench, &bob, Some(&before)).await;
    let section = &old["rooms"]["join"][&room];
    assert_eq!((topic_of(section), bodies(section)), (Some("new"), vec!["after"]));
    assert_eq!(section["timeline"]["limited"], false);
    // The lost token is answered alike however late it comes.
    let late = sync(&bench, &bob, Some(&lost)).await;
    assert_eq!(topic_of(&late["rooms"]["join"][&room]), Some("new"));
    engine.close().await;
}

#[tokio::test]
async fn one_backup_may_be_restored_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (path, first) = (directory.path().join("hearth.db"), directory.path().join("first.db"));
    let second = directory.path().join("second.db");
    let (engine, bench) = start(&path).await;
    let (ann, bob) = (user("ann"), user("bob"));
    let room = bench.room(&[ann.clone(), bob.clone()]).await;
    topic(&bench, &room, &ann, "kept").await;
    engine.backup(&first, |_, _| {}).unwrap();
    engine.backup(&second, |_, _| {}).unwrap();
    engine.close().await;
    sqlite::prepare_restored(&first).unwrap();
    let (engine, bench) = start(&first).await;
    topic(&bench, &room, &ann, "lost").await;
    let lost = sync(&bench, &bob, None).await;
    engine.close().await;
    let token = lost["next_batch"].as_str().unwrap().trim_start_matches('s');
    let position: i64 = token.split('_').next().unwrap().parse().unwrap();
    // Positions of a later restore begin after a thousand more for each second that has passed.
    let second = directory.path().join("again.db");
    while {
        std::fs::copy(directory.path().join("second.db"), &second).unwrap();
        sqlite::prepare_restored(&second).unwrap().counter <= position
    } {}
    let (engine, bench) = start(&second).await;
    let answer = sync(&bench, &bob, Some(&lost)).await;
    assert_eq!(topic_of(&answer["rooms"]["join"][&room]), Some("kept"));
    engine.close().await;
}

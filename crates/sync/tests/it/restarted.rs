//! What a client is told that goes on with a token from before a restart.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use store::model::Model;

use crate::bench::{Bench, user};

async fn next(bench: &Bench, since: &Value) -> Value {
    bench.sync(&user("alice"), since["next_batch"].as_str(), Duration::ZERO).await
}

/// The rooms of an answer.
fn rooms(answer: &Value) -> Vec<&String> {
    answer["rooms"]["join"].as_object().into_iter().flatten().map(|(room, _)| room).collect()
}

/// CR24: nobody knows after a restart who typed before. A client that believes somebody to type is told otherwise; others
/// are not told of thousands of rooms in which nothing happened.
#[tokio::test]
async fn cr24_who_typed_before_a_restart_types_no_more() {
    let engine = Arc::new(Model::new());
    let bench = Bench::new(Arc::<Model>::clone(&engine), |follower| follower).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (room, quiet) =
        (bench.room(&[alice.clone(), bob.clone()]).await, bench.room(std::slice::from_ref(&alice)).await);
    let before = bench.sync(&alice, None, Duration::ZERO).await;
    let num = bench.rooms.room(&room).await.unwrap().unwrap().num;
    bench.users.set_typing(num, &bob, Some(60_000));
    let typing = next(&bench, &before).await;
    assert_eq!(typing["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"][0], bob.as_str());
    bench.users.set_typing(num, &bob, None);
    let ended = next(&bench, &typing).await;
    assert_eq!(ended["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"][0], Value::Null);
    let bench = Bench::restarted(engine).await;
    for quiet in [&before, &ended] {
        let answer = next(&bench, quiet).await;
        assert!(rooms(&answer).is_empty(), "{answer}");
    }
    let answer = next(&bench, &typing).await;
    let event = &answer["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!((&event["type"], event["content"]["user_ids"].as_array().unwrap().len()), (&"m.typing".into(), 0));
    assert!(rooms(&next(&bench, &answer).await).is_empty(), "{answer}");
    bench.say(&quiet, &alice, "one").await;
    assert_eq!(rooms(&next(&bench, &before).await), [&quiet]);
}

/// What happened between the token and the restart is looked up in the stream.
#[tokio::test]
async fn cy1_news_from_before_a_restart_come_and_nothing_else() {
    let engine = Arc::new(Model::new());
    let bench = Bench::new(Arc::<Model>::clone(&engine), |follower| follower).await;
    let alice = user("alice");
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(bench.room(std::slice::from_ref(&alice)).await);
    }
    let start = bench.sync(&alice, None, Duration::ZERO).await;
    bench.say(&all[1], &alice, "one").await;
    let later = next(&bench, &start).await;
    bench.say(&all[3], &alice, "two").await;
    let bench = Bench::restarted(engine).await;
    let answer = next(&bench, &later).await;
    assert_eq!(rooms(&answer), [&all[3]]);
    let mut expected = [&all[1], &all[3]];
    expected.sort();
    let answer = next(&bench, &start).await;
    let mut found = rooms(&answer);
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(rooms(&next(&bench, &later).await), [&all[3]], "the earlier ones do not come again");
}

//! Whispers come to every other node, and not back.

use std::time::Duration;

use store::{CommitBatch, Engine};

use crate::database::Database;

/// How often a whisper is said again while nobody hears it: the other node may not listen yet.
const AGAIN: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_hear_each_other_and_not_themselves() {
    let Some(database) = Database::make().await else { return };
    let (one, two) = (database.open().await, database.open().await);
    let (mouth_of_one, mouth_of_two) = (one.whispers().unwrap(), two.whispers().unwrap());
    let (mut ear_of_one, mut ear_of_two) = (mouth_of_one.listen(), mouth_of_two.listen());
    let heard = loop {
        mouth_of_one.tell("\u{1} \"one\" ü".to_owned());
        if let Ok(heard) = tokio::time::timeout(AGAIN, ear_of_two.recv()).await {
            break heard.unwrap();
        }
    };
    assert_eq!(&*heard, "\u{1} \"one\" ü");
    let heard = loop {
        mouth_of_two.tell("two".to_owned());
        if let Ok(heard) = tokio::time::timeout(AGAIN, ear_of_one.recv()).await {
            break heard.unwrap();
        }
    };
    assert_eq!(&*heard, "two");
    // Many at once, and commits beside them.
    for number in 0..500 {
        mouth_of_one.tell(format!("{number:04}{}", "x".repeat(100)));
    }
    one.submit(CommitBatch::new()).await.unwrap();
    let mut next = 0;
    while next < 500 {
        let text = ear_of_two.recv().await.unwrap();
        if text.starts_with(&format!("{next:04}x")) {
            next += 1;
        }
    }
    for node in [one, two] {
        node.close().await;
    }
    database.dispose().await;
}

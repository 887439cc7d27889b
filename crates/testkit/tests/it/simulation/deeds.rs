//! What users do: mostly change state, for that is what servers must agree on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::encoded;

use super::people::Person;
use super::story::{STATE_EVENTS_MIN, Story};

/// Longest pause between two deeds of a user, in milliseconds.
const PAUSE_MS_MAX: u64 = 3_000;
/// Different state keys of the state that means nothing.
const STATE_KEYS: u64 = 12;

/// Does one thing after the other until there are enough state events.
pub async fn run(story: Arc<Story>, person: Arc<Person>) {
    while story.state_events.load(Ordering::Relaxed) < STATE_EVENTS_MIN {
        tokio::time::sleep(Duration::from_millis(person.chance.below(PAUSE_MS_MAX))).await;
        let room = person.chance.pick(&story.rooms).id.clone();
        do_something(&story, &person, &room).await;
    }
}

async fn do_something(story: &Story, person: &Person, room: &str) {
    let chance = &person.chance;
    let path = format!("/rooms/{}", encoded(room));
    let other = chance.pick(&story.people).user.clone();
    // Those whose clients follow everything stay.
    let stays = |user: &str| story.syncers.iter().any(|syncer| syncer.person.user == user);
    match chance.below(100) {
        86 | 87 if stays(&other) => {}
        92 if stays(&person.user) => {}
        0..70 => set_state(story, person, room).await,
        70..82 => {
            if let Some(event) = person.say(room).await {
                story.acknowledge(person, room, event, false);
            }
        }
        82..86 => drop(change_level(story, person, room, &other).await),
        86 => drop(person.post(&format!("{path}/kick"), json!({ "user_id": other })).await),
        87 => drop(person.post(&format!("{path}/ban"), json!({ "user_id": other })).await),
        88..90 => drop(person.post(&format!("{path}/unban"), json!({ "user_id": other })).await),
        90..92 => drop(person.post(&format!("{path}/invite"), json!({ "user_id": other })).await),
        92 => drop(person.post(&format!("{path}/leave"), json!({})).await),
        93..97 => {
            let via = &chance.pick(&story.nodes).name;
            drop(person.post(&format!("/join/{}?server_name={via}", encoded(room)), json!({})).await);
        }
        97 => {
            let rule = if chance.permille(300) { "invite" } else { "public" };
            put_state(story, person, room, "m.room.join_rules", "", json!({ "join_rule": rule })).await;
        }
        _ => redact_something(story, person, room).await,
    }
}

async fn set_state(story: &Story, person: &Person, room: &str) {
    let value = person.chance.draw();
    match person.chance.below(6) {
        0 => put_state(story, person, room, "m.room.name", "", json!({ "name": value.to_string() })).await,
        1 => put_state(story, person, room, "m.room.topic", "", json!({ "topic": value.to_string() })).await,
        _ => {
            let key = format!("k{}", person.chance.below(STATE_KEYS));
            put_state(story, person, room, "org.example.state", &key, json!({ "value": value.to_string() })).await;
        }
    }
}

async fn put_state(story: &Story, person: &Person, room: &str, kind: &str, state_key: &str, content: Value) {
    let path = format!("/rooms/{}/state/{kind}/{state_key}", encoded(room));
    if let Some((200, answer)) = person.put(&path, content).await {
        story.acknowledge(person, room, testkit::text(&answer["event_id"]), true);
    }
}

/// Gives another user another power level.
async fn change_level(story: &Story, person: &Person, room: &str, other: &str) -> Option<()> {
    let path = format!("/rooms/{}/state/m.room.power_levels", encoded(room));
    let (status, mut levels) = person.get(&path).await?;
    if status == 200 && levels.is_object() {
        levels["users"][other] = json!(person.chance.pick(&[0, 25, 50, 50, 75, 99]));
        put_state(story, person, room, "m.room.power_levels", "", levels).await;
    }
    Some(())
}

async fn redact_something(story: &Story, person: &Person, room: &str) {
    let known: Vec<String> = {
        let acknowledged = story.acknowledged.lock();
        acknowledged.iter().filter(|one| one.room == room).map(|one| one.event.clone()).collect()
    };
    if known.is_empty() {
        return;
    }
    let path = format!("/rooms/{}/redact/{}", encoded(room), encoded(person.chance.pick::<String>(&known)));
    let path = format!("{path}/{}", person.transaction());
    if let Some((200, answer)) = person.put(&path, json!({})).await {
        story.acknowledge(person, room, testkit::text(&answer["event_id"]), false);
    }
}

//! After the faults: everything that waits is sent, then each server says something in each room, so that what one of
//! them did not take for part of the graph becomes part of it everywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use event::Json;
use rooms::remote::{left_out, partial};
use store::Read;
use store::tables::core::JobRow;
use store::tables::federation::InboundPduRow;

use super::checks::everywhere;
use super::forgery::{self, Forged};
use super::node::Node;
use super::story::Story;

/// So long nothing may pass between servers to count as quiet.
const QUIET: Duration = Duration::from_secs(15);
/// Simulated time in which it must become quiet: longer than any server waits before it tries again.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// Waits until it is quiet, and lets all servers speak once. Answers what went wrong.
pub async fn settle(story: &Story) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(quiet(story).await.err());
    wrong.extend(missing(story).await);
    for node in &story.nodes {
        for room in &story.rooms {
            let Some(found) = node.up().unwrap().room(&room.id).await else { continue };
            let local = found.head().local.clone();
            let speaker = story.people.iter().find(|person| local.contains(person.user.as_str()));
            if let Some(speaker) = speaker
                && let Some(event) = speaker.say(&room.id).await
            {
                story.acknowledge(speaker, &room.id, event, false);
            }
        }
        wrong.extend(quiet(story).await.err());
    }
    for syncer in &story.syncers {
        // Until there is nothing new; a server shows so much at a time.
        for _ in 0..3 {
            syncer.sync(0).await;
        }
    }
    wrong
}

/// Has a server send what must not be shown, and waits until it is judged.
pub async fn attack(story: &Story, wrong: &mut Vec<String>) -> Vec<Forged> {
    let room = story.chance.pick(&story.rooms);
    let forged = forgery::forge(story, room).await;
    wrong.extend(quiet(story).await.err());
    for syncer in &story.syncers {
        syncer.sync(0).await;
    }
    forged
}

/// Events that servers have not got that were in the room all the time: nobody has said anything since that would make
/// them ask for what they lack, so each of them must have been sent.
async fn missing(story: &Story) -> Vec<String> {
    let mut wrong = Vec::new();
    for room in &story.rooms {
        let sent: Vec<(String, String)> = {
            let acknowledged = story.acknowledged.lock();
            let here = acknowledged.iter().filter(|one| one.room == room.id && room.steady.contains(&one.server));
            here.map(|one| (one.event.clone(), one.server.clone())).collect()
        };
        for node in story.nodes.iter().filter(|node| room.steady.contains(&node.name)) {
            let up = node.up().unwrap();
            let Some(found) = up.room(&room.id).await else { continue };
            // Of very much that was missed, the ends are sent, and the rest is fetched by who pages there.
            let local = found.head().local.clone();
            let reader = story.people.iter().find(|person| local.contains(person.user.as_str()));
            // Conflicts over join rules may take even those out of a room who were there before.
            let Some(reader) = reader else { continue };
            wrong.extend(reader.history(&room.id).await.err());
            let mut lacks = Vec::new();
            let senders = who_believe_in(story, &room.id, &node.name).await;
            for (id, server) in sent.iter().filter(|(_, server)| senders.contains(server)) {
                let is_known = up.running.rooms.event_by_id(&found, id).await.unwrap().is_some();
                if !is_known && was_in_room(story, &room.id, (id, server), &node.name).await {
                    lacks.push(id);
                }
            }
            if let Some(first) = lacks.first() {
                let (n, room) = (lacks.len(), format!("{} (version {})", room.id, room.version));
                let known = everywhere(story, &found.id, first).await;
                wrong.push(format!("{n} events of {room}, {first} among them, were not sent to {}:{known}", node.name));
            }
        }
    }
    wrong
}

/// Whether a server was in the room when another one sent an event, as that saw it: else it was not sent to it, even if the
/// conflict over that has ended in its favour.
async fn was_in_room(story: &Story, room_id: &str, (event_id, sender): (&str, &str), server: &str) -> bool {
    let Some(up) = story.nodes.iter().find(|node| node.name == sender).and_then(|node| node.up()) else { return true };
    let Some(room) = up.room(room_id).await else { return true };
    let Some(event) = up.running.rooms.event_by_id(&room, event_id).await.unwrap() else { return true };
    let Some(before) = event.state_before() else { return true };
    let state = up.running.rooms.whole_state(&room, before).await.unwrap();
    let suffix = format!(":{server}");
    let is_join = |event: &Arc<rooms::Event>| {
        let joins = event.pdu.content.get("membership").and_then(Json::as_str) == Some("join");
        joins && event.pdu.state_key.as_deref().is_some_and(|user| user.ends_with(&suffix))
    };
    state.iter().any(is_join)
}

/// The servers that take a server for one in the room: who is out of it for them, though not for itself, is sent nothing.
async fn who_believe_in(story: &Story, room_id: &str, server: &str) -> BTreeSet<String> {
    let mut believing = BTreeSet::new();
    for node in &story.nodes {
        let Some(room) = node.up().unwrap().room(room_id).await else { continue };
        if room.head().servers.get(server).is_some_and(|joined| *joined > 0) {
            believing.insert(node.name.clone());
        }
    }
    believing
}

/// Waits until nothing is under way.
pub async fn quiet(story: &Story) -> Result<(), String> {
    let began = tokio::time::Instant::now();
    let mut waits = QUIET;
    loop {
        let before = story.network.delivered();
        tokio::time::sleep(waits).await;
        let mut busy = Vec::new();
        for node in &story.nodes {
            busy.extend(busy_with(story, node).await.map(|what| format!("{}: {what}", node.name)));
        }
        if story.network.delivered() == before && busy.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("it does not become quiet: {busy:?}"));
        }
        waits = (waits * 2).min(Duration::from_secs(600));
    }
}

/// What a server still has to do.
async fn busy_with(story: &Story, node: &Node) -> Option<String> {
    let up = node.up()?;
    let remote = up.running.remote.as_ref()?;
    let behind = remote.outbound.report().into_iter().find(|(_, failures, queued)| *failures > 0 || *queued > 0);
    if let Some((server, failures, queued)) = behind {
        return Some(format!("{queued} events for {server}, which failed {failures} times"));
    }
    let row: Option<InboundPduRow> = up.running.store.one(Read::prefix::<InboundPduRow>(vec![])).await.unwrap();
    if let Some(row) = row {
        return Some(format!("{} of {} is queued", row.event_id, row.origin));
    }
    let jobs: Vec<JobRow> = up.running.store.all(Read::prefix::<JobRow>(vec![])).await.unwrap();
    for job in jobs.into_iter().filter(|job| job.kind == partial::JOB || job.kind == left_out::JOB) {
        // Who is out of a room for all others, and does not know, is told nothing any more.
        if who_believe_in(story, &job.name, &node.name).await.iter().any(|server| *server != node.name) {
            return Some(format!("{} of {} is to be done", job.kind, job.name));
        }
    }
    None
}

//! Messages to devices: to many in one request, and many to one; with their delivery.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::meter::{Meter, Round, timed};
use super::people::{Way, World, holds};
use crate::bench::http::Connection;
use crate::bench::world::User;

/// Requests to one device.
const REQUESTS: usize = 1_000;
/// The length of a ciphertext that carries the key of a room.
const CIPHERTEXT_BYTES: usize = 600;
/// Syncs that may bring all messages of a device.
const SYNCS_MAX: usize = 100;

/// Sends to these devices of different users.
fn send(link: &mut Connection, from: &User, to: &[User], txn: &str) -> Result<(), String> {
    let message = json!({
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "ciphertext": { "device": { "type": 1, "body": "c".repeat(CIPHERTEXT_BYTES) } },
        "sender_key": txn,
    });
    let messages: Map<String, Value> =
        to.iter().map(|user| (user.id.clone(), json!({ &user.device: message }))).collect();
    let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/{txn}");
    let body = json!({ "messages": messages }).to_string();
    link.request("PUT", &path, &from.token, &body)?.json().map(|_| ())
}

/// One request to all, then a sync of each.
pub fn to_all(world: &mut World) -> Result<Vec<Round>, String> {
    world.catch_up(Way::Plain)?;
    let txn = format!("all{}", world.next());
    let (mut link, count) = (world.connect(), world.people.len());
    let mut sent = Meter::new(&world.server);
    sent.run(count, |walls| timed(walls, || send(&mut link, &world.bob, &world.people, &txn)))?;
    let sent = sent.finish();
    let mut delivered = Meter::new(&world.server);
    let marker = format!("\"{txn}\"");
    let tokens = delivered.run(count, |walls| {
        let people = world.people.iter().zip(&world.people_at[Way::Plain as usize]);
        people.map(|(user, at)| fetch(&mut link, walls, user, at, &marker)).collect::<Result<Vec<_>, _>>()
    })?;
    world.people_at[Way::Plain as usize] = tokens;
    // The next sync says that the messages have come.
    world.catch_up(Way::Plain)?;
    let delivered = delivered.finish();
    Ok(vec![sent.with_work_of(&delivered), delivered])
}

/// Syncs, which has to bring the message; answers the next token.
fn fetch(
    link: &mut Connection,
    walls: &mut Vec<Duration>,
    user: &User,
    at: &str,
    marker: &str,
) -> Result<String, String> {
    let body = timed(walls, || Way::Plain.sync(link, user, at, 0))?;
    if holds(&body, marker) { Way::Plain.token(&body) } else { Err(format!("{} got no message", user.id)) }
}

/// Many requests to one device, then as many syncs as bring them all.
pub fn to_one(world: &mut World) -> Result<Vec<Round>, String> {
    world.catch_up(Way::Plain)?;
    let (mut link, first) = (world.connect(), world.next());
    let mut sent = Meter::new(&world.server);
    sent.run(REQUESTS, |walls| {
        (0..REQUESTS).try_for_each(|n| {
            let txn = format!("one{first}x{n}");
            timed(walls, || send(&mut link, &world.bob, &world.people[..1], &txn))
        })
    })?;
    let sent = sent.finish();
    let mut delivered = Meter::new(&world.server);
    let at = world.people_at[Way::Plain as usize][0].clone();
    let at = delivered.run(REQUESTS, |walls| fetch_all(&mut link, walls, &world.people[0], at))?;
    world.people_at[Way::Plain as usize][0] = at;
    let delivered = delivered.finish();
    Ok(vec![sent.with_work_of(&delivered), delivered])
}

/// Syncs until all messages have come and the server knows it; answers the next token.
fn fetch_all(link: &mut Connection, walls: &mut Vec<Duration>, user: &User, mut at: String) -> Result<String, String> {
    let mut found = 0;
    for _ in 0..SYNCS_MAX {
        let body = timed(walls, || Way::Plain.sync(link, user, &at, 0))?;
        let answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        at = Way::Plain.token(&body)?;
        let come = answer["to_device"]["events"].as_array().map_or(0, Vec::len);
        found += come;
        if come == 0 && found >= REQUESTS {
            return Ok(at);
        }
    }
    Err(format!("{found} of {REQUESTS} messages came"))
}

//! Keys of other servers' users: asked for where the users are, all servers at a time (client-server API, "Key
//! management API"). An answer counts only for the users and devices of the server that gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use endpoint::Error;
use event::{Json, Object};
use federation::Remote;
use federation::client::Client;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::value::RawValue;
use store::{StreamPosition, UserId};
use tokio::time::{Instant, timeout_at};
use users::keys::device_keys::Queried;
use users::keys::{ByUser, KEY_BYTES_MAX, Text};

use crate::{State, error_map};

/// How long other servers are waited for where the client does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest that a client can ask to wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Servers that are asked at a time on behalf of one request.
const SERVERS_AT_ONCE: usize = 100;
/// Users of whom one request to a server asks.
const USERS_PER_REQUEST: usize = 500;
/// Users of one server whose lists are fetched on behalf of one request.
const FETCHED_PER_SERVER_MAX: usize = 20;
/// Keys of one device that an answer to a claim may hold.
const CLAIMED_PER_DEVICE_MAX: usize = 10;

/// The wanted ones of other servers, by server.
type ByServer<T> = BTreeMap<String, BTreeMap<UserId, T>>;
/// One-time keys by user and device: `{algorithm:id: key}`.
type Claimed = ByUser<BTreeMap<String, Text>>;

/// Until when other servers are waited for, by the `timeout` of a request in milliseconds.
pub fn deadline(timeout_ms: Option<u64>) -> Instant {
    Instant::now() + timeout_ms.map_or(TIMEOUT, Duration::from_millis).min(TIMEOUT_MAX)
}

/// Adds to `found` the keys of other servers' users as `asker` may know them. The answer names the servers that failed.
///
/// # Errors
/// As the store says.
pub async fn query(
    state: &State,
    asker: &UserId,
    mut wanted: BTreeMap<UserId, Vec<String>>,
    deadline: Instant,
    found: &mut Queried<Text>,
) -> Result<BTreeSet<String>, Error> {
    wanted.retain(|user, _| !state.users.is_local(user));
    let own = state.rooms.server_name();
    let mut failures = BTreeSet::new();
    if let Some(remote) = &state.remote {
        let Copies { mut current, few } = copies(state, asker, &wanted).await?;
        // A server that does not answer holds up only what is asked of itself.
        let others = wanted.iter().filter(|(user, _)| !current.contains(*user) && !few.contains(*user));
        let others: BTreeMap<UserId, Vec<String>> =
            others.map(|(user, devices)| (user.clone(), devices.clone())).collect();
        wanted.retain(|user, _| !others.contains_key(user));
        let asked = ask(Some(&remote.client), own, others, deadline, found);
        let (fetched, failed) = tokio::join!(fetch(remote, few, deadline), asked);
        failures.extend(failed);
        current.extend(fetched);
        let copied = wanted.iter().filter(|(user, _)| current.contains(*user));
        let copied = copied.map(|(user, devices)| (user.clone(), devices.clone())).collect();
        for user in state.users.add_remote_key_texts(&copied, found).await.map_err(error_map::users)? {
            wanted.remove(&user);
        }
    }
    let client = state.remote.as_ref().map(|remote| &remote.client);
    failures.extend(ask(client, own, wanted, deadline, found).await);
    state.users.add_own_signatures(asker, found).await.map_err(error_map::users)?;
    Ok(failures)
}

/// Users of other servers, by what is to be done about copies of their lists.
struct Copies {
    /// Of these there are copies that hold.
    current: BTreeSet<UserId>,
    /// The lists of these are to be fetched and kept.
    few: BTreeSet<UserId>,
}

async fn copies(state: &State, asker: &UserId, wanted: &BTreeMap<UserId, Vec<String>>) -> Result<Copies, Error> {
    let users: Vec<UserId> = wanted.keys().cloned().collect();
    let copies = state.users.remote_lists(&users).await.map_err(error_map::users)?;
    let current = state.sync.shared_since(asker, copies).await.map_err(error_map::sync)?;
    let rest = users.into_iter().filter(|user| !current.contains(user));
    let rest = rest.map(|user| (user, StreamPosition(i64::MAX))).collect();
    let mut by_server: BTreeMap<String, Vec<UserId>> = BTreeMap::new();
    for user in state.sync.shared_since(asker, rest).await.map_err(error_map::sync)? {
        by_server.entry(user.server_name().to_owned()).or_default().push(user);
    }
    let few = by_server.into_values().filter(|users| users.len() <= FETCHED_PER_SERVER_MAX).flatten();
    Ok(Copies { current: current.into_iter().collect(), few: few.collect() })
}

/// Fetches the lists of users and keeps them. Answers whose could be had.
async fn fetch(remote: &Remote, users: BTreeSet<UserId>, deadline: Instant) -> Vec<UserId> {
    let fetches = users.into_iter().map(|user| async move {
        let fetched = timeout_at(deadline, remote.devices.fetch(&user)).await;
        matches!(fetched, Ok(Ok(true))).then_some(user)
    });
    stream::iter(fetches).buffer_unordered(SERVERS_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Adds to `found` the keys that other servers answer. The answer names the servers that failed.
///
/// Without a client, which is without federation, all of them fail.
async fn ask(
    client: Option<&Client>,
    own: &str,
    wanted: BTreeMap<UserId, Vec<String>>,
    deadline: Instant,
    found: &mut Queried<Text>,
) -> BTreeSet<String> {
    let ask_one = |server: String, wanted: BTreeMap<UserId, Vec<String>>| {
        let client = client.cloned();
        async move {
            let names = wanted.iter().map(|(user, devices)| (user.to_string(), devices.clone())).collect();
            let answer = match client {
                Some(client) => {
                    timeout_at(deadline, client.query_keys(&server, &names)).await.ok().and_then(Result::ok)
                }
                None => None,
            };
            (server, wanted, answer)
        }
        .boxed()
    };
    let asked: Vec<_> = requests(by_server(own, wanted)).map(|(server, wanted)| ask_one(server, wanted)).collect();
    let mut answers = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    let mut failures = BTreeSet::new();
    while let Some((server, wanted, answer)) = answers.next().await {
        match answer {
            Some(answer) => take_queried(&wanted, &answer, found),
            None => drop(failures.insert(server)),
        }
    }
    failures
}

/// Adds to `claimed` one-time keys of other servers' users. The answer names the servers that failed, as in [`ask`].
pub async fn claim(
    client: Option<&Client>,
    own: &str,
    wanted: ByUser<String>,
    deadline: Instant,
    claimed: &mut Claimed,
) -> BTreeSet<String> {
    let ask_one = |server: String, wanted: ByUser<String>| {
        let client = client.cloned();
        async move {
            let of_user = |devices: &BTreeMap<String, String>| {
                let devices = devices.iter().map(|(id, algorithm)| (id.clone(), Json::from(algorithm.as_str())));
                Json::Object(devices.collect())
            };
            let body: Object = wanted.iter().map(|(user, devices)| (user.to_string(), of_user(devices))).collect();
            let answer = match client {
                Some(client) => timeout_at(deadline, client.claim_keys(&server, body)).await.ok().and_then(Result::ok),
                None => None,
            };
            (server, wanted, answer)
        }
        .boxed()
    };
    let asked: Vec<_> = requests(by_server(own, wanted)).map(|(server, wanted)| ask_one(server, wanted)).collect();
    let mut answers = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE);
    let mut failures = BTreeSet::new();
    while let Some((server, wanted, answer)) = answers.next().await {
        match answer {
            Some(answer) => take_claimed(&wanted, &answer, claimed),
            None => drop(failures.insert(server)),
        }
    }
    failures
}

/// The wanted users that are not ours, by server. What is no user id at all has no server that could fail.
fn by_server<T>(own: &str, wanted: BTreeMap<UserId, T>) -> ByServer<T> {
    let mut servers = ByServer::new();
    for (user, of) in wanted {
        let server = user.server_name().to_owned();
        if server != own && event::ids::is_server_name(&server) {
            servers.entry(server).or_default().insert(user, of);
        }
    }
    servers
}

/// As many requests as it takes to ask for all.
fn requests<T>(servers: ByServer<T>) -> impl Iterator<Item = (String, BTreeMap<UserId, T>)> {
    servers.into_iter().flat_map(|(server, mut wanted)| {
        let mut parts = Vec::new();
        while let Some((at, _)) = wanted.iter().nth(USERS_PER_REQUEST) {
            let rest = wanted.split_off(&at.clone());
            parts.push((server.clone(), std::mem::replace(&mut wanted, rest)));
        }
        parts.push((server, wanted));
        parts
    })
}

/// Takes what was asked for from the answer to a query; a key that names another user or device is passed over.
fn take_queried(wanted: &BTreeMap<UserId, Vec<String>>, answer: &Object, found: &mut Queried<Text>) {
    let of_user = |member: &str, user: &UserId| answer.get(member).and_then(|users| users.get(user.as_str()));
    let names = |key: &Json, member: &str, name: &str| key.get(member).and_then(Json::as_str) == Some(name);
    for (user, devices) in wanted {
        let keys = of_user("device_keys", user).and_then(Json::as_object);
        for (id, key) in keys.into_iter().flatten() {
            let asked = devices.is_empty() || devices.contains(id);
            if !asked || !names(key, "user_id", user.as_str()) || !names(key, "device_id", id) {
                continue;
            }
            if let Some(key) = text(key) {
                found.device_keys.entry(user.clone()).or_default().insert(id.clone(), key);
            }
        }
        let cross = |member: &str| of_user(member, user).filter(|key| names(key, "user_id", user.as_str()));
        if let Some(key) = cross("master_keys").and_then(text) {
            found.master_keys.insert(user.clone(), key);
        }
        if let Some(key) = cross("self_signing_keys").and_then(text) {
            found.self_signing_keys.insert(user.clone(), key);
        }
    }
}

/// Takes from the answer to a claim the keys of the devices and algorithms that were asked for.
fn take_claimed(wanted: &ByUser<String>, answer: &Object, claimed: &mut Claimed) {
    for (user, devices) in wanted {
        let given = answer.get("one_time_keys").and_then(|users| users.get(user.as_str()));
        for (device, algorithm) in devices {
            let keys = given.and_then(|devices| devices.get(device)).and_then(Json::as_object);
            let fits = |id: &str| id.strip_prefix(algorithm.as_str()).is_some_and(|rest| rest.starts_with(':'));
            let keys = keys.into_iter().flatten().filter(|(id, _)| fits(id)).take(CLAIMED_PER_DEVICE_MAX);
            let keys: BTreeMap<String, Text> = keys.filter_map(|(id, key)| Some((id.clone(), text(key)?))).collect();
            if !keys.is_empty() {
                claimed.entry(user.clone()).or_default().insert(device.clone(), keys);
            }
        }
    }
}

/// A key as text to hand out, unless it is larger than any of ours.
fn text(key: &Json) -> Option<Text> {
    let text = key.to_canonical_string();
    if text.len() > KEY_BYTES_MAX { None } else { RawValue::from_string(text).ok() }
}

#[cfg(test)]
mod tests;

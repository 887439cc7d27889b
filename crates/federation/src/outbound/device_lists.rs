//! Changes of local users' devices and cross-signing keys, told to the servers that share a room with the user
//! (server-server API, "Device Management").
//!
//! That something is to be told has a row per server and user until the server has it. What is told is the difference
//! to what that server was told before. Where several devices changed, each has an EDU of the same `stream_id`: a peer
//! that minds asks for the whole list, any other has the whole difference all the same.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use event::Object;
use serde_json::{Value as Content, json};
use sha2::{Digest as _, Sha256};
use store::tables::federation::{DeviceListDueRow, DeviceListSentRow};
use store::tables::users::DeviceChangeRow;
use store::{CommitBatch, Read, StreamPosition, UserId, Value};

use super::Outbound;
use super::destination::Destination;
use super::edus::edu;
use crate::Result;

/// Users of whose devices one transaction tells.
const USERS_MAX: u32 = 20;
/// Devices of one user of which is told one by one; where more changed, the peer is made to ask for all.
const DEVICES_MAX: usize = 20;
/// Servers for which one batch stores that they are to be told.
const SERVERS_PER_BATCH: usize = 500;

/// What a destination knows once it has a transaction.
pub(super) struct Told {
    due: StreamPosition,
    sent: DeviceListSentRow,
}

impl Told {
    /// Adds to a batch that the destination knows.
    pub fn add_to(self, batch: &mut CommitBatch) {
        let (server, user) = (self.sent.server.as_str(), &self.sent.user_id);
        batch.delete::<DeviceListDueRow>(vec![server.into(), user.into(), self.due.into()]);
        batch.put(self.sent);
    }
}

/// A user's devices and keys as other servers see them.
struct Now {
    stream_id: i64,
    /// The rest of the EDU of each device.
    devices: BTreeMap<String, Content>,
    /// The content of the EDU about cross-signing keys.
    signing: Option<Content>,
}

impl Outbound {
    /// A local user's devices or keys changed at `pos`.
    pub(super) async fn tell_device_list(self: &Arc<Self>, user: &UserId, pos: StreamPosition) -> Result<()> {
        let servers = self.servers_sharing_with(user).await?;
        let servers: Vec<String> =
            servers.into_iter().filter(|server| self.client.reach().permits(server) && self.sends_to(server)).collect();
        for some in servers.chunks(SERVERS_PER_BATCH) {
            let mut batch = CommitBatch::new();
            for server in some {
                let prefix = vec![Value::from(server.as_str()), Value::from(user)];
                batch.delete_range::<DeviceListDueRow>(prefix, Bound::Unbounded, Bound::Excluded(pos.into()));
                let at_ms = self.clock.now_ms();
                batch.put(DeviceListDueRow { server: server.clone(), user_id: user.clone(), pos, at_ms });
            }
            self.store_soon(batch).await?;
            some.iter().for_each(|server| self.wake_for_device_lists(server));
        }
        Ok(())
    }

    /// A local user has joined a room at `pos` in which these servers are: those that do not know all of the user's devices,
    /// since they shared no room when something changed, are told.
    pub(super) async fn introduce_devices(
        self: &Arc<Self>,
        user: &UserId,
        servers: &[String],
        pos: StreamPosition,
    ) -> Result<()> {
        let Some(change) = self.store.get::<DeviceChangeRow>(vec![user.into()]).await? else { return Ok(()) };
        let mine = |server: &&String| self.client.reach().permits(server) && self.sends_to(server);
        let servers: Vec<&String> = servers.iter().filter(mine).collect();
        for some in servers.chunks(SERVERS_PER_BATCH) {
            let key = |server: &str| vec![Value::from(server), Value::from(user)];
            let reads = some.iter().map(|server| Read::get::<DeviceListSentRow>(key(server))).collect();
            let told = self.store.read(reads).await?;
            let (mut batch, mut due) = (CommitBatch::new(), Vec::new());
            for (server, rows) in some.iter().zip(told) {
                let sent: Option<DeviceListSentRow> = rows.one()?;
                if sent.is_none_or(|sent| sent.stream_id < change.pos.0) {
                    let (server, user_id, at_ms) = ((*server).clone(), user.clone(), self.clock.now_ms());
                    due.push(server.clone());
                    batch.delete_range::<DeviceListDueRow>(key(&server), Bound::Unbounded, Bound::Excluded(pos.into()));
                    batch.put(DeviceListDueRow { server, user_id, pos, at_ms });
                }
            }
            self.store_soon(batch).await?;
            due.iter().for_each(|server| self.wake_for_device_lists(server));
        }
        Ok(())
    }

    pub(super) fn wake_for_device_lists(self: &Arc<Self>, server: &str) {
        if let Some(destination) = self.destination(server) {
            destination.queue.lock().device_lists = true;
            self.wake(&destination);
        }
    }

    /// At most `max` EDUs about device lists that changed, and what is true once they have arrived.
    pub(super) async fn device_list_edus(
        &self,
        destination: &Destination,
        max: usize,
    ) -> Result<(Vec<Object>, Vec<Told>)> {
        if !std::mem::take(&mut destination.queue.lock().device_lists) {
            return Ok(Default::default());
        }
        let outcome = self.due_edus(&destination.server, max).await;
        // Looked at again after this transaction: there may be more.
        let more = outcome.as_ref().map_or(true, |(_, _, more)| *more);
        destination.queue.lock().device_lists |= more;
        outcome.map(|(edus, told, _)| (edus, told))
    }

    /// As [`Outbound::device_list_edus`], and whether any rows were there.
    async fn due_edus(&self, server: &str, max: usize) -> Result<(Vec<Object>, Vec<Told>, bool)> {
        let read = Read::prefix::<DeviceListDueRow>(vec![Value::from(server)]).limit(USERS_MAX);
        let rows: Vec<DeviceListDueRow> = self.store.all(read).await?;
        let (mut edus, mut told) = (Vec::new(), Vec::new());
        let mut settled = CommitBatch::new();
        let more = !rows.is_empty();
        for row in rows {
            let key = vec![Value::from(server), Value::from(&row.user_id)];
            let sent: Option<DeviceListSentRow> = self.store.get(key).await?;
            let now = self.devices_now(&row.user_id).await?;
            let (of_user, sent) = difference(server, &row.user_id, sent, now);
            if of_user.is_empty() {
                settled.delete::<DeviceListDueRow>(vec![server.into(), (&row.user_id).into(), row.pos.into()]);
                continue;
            }
            if edus.len() + of_user.len() > max {
                break;
            }
            edus.extend(of_user);
            told.push(Told { due: row.pos, sent });
        }
        self.store_soon(settled).await?;
        Ok((edus, told, more))
    }

    async fn devices_now(&self, user: &UserId) -> Result<Now> {
        // Before the keys are read: a change in between is told again rather than never.
        let change: Option<DeviceChangeRow> = self.store.get(vec![Value::from(user)]).await?;
        let wanted = BTreeMap::from([(user.clone(), Vec::new())]);
        // Nobody in particular asks: signatures of other users and user-signing keys are not for servers.
        let mut queried = self.users.query_keys(&UserId::from(""), &wanted).await?;
        let keys = queried.device_keys.remove(user).unwrap_or_default();
        let device = |keys| device(keys, self.options.device_names);
        let (master, own) = (queried.master_keys.remove(user), queried.self_signing_keys.remove(user));
        let signing = (master.is_some() || own.is_some()).then(|| {
            let mut content = json!({ "user_id": user.as_str() });
            for (name, key) in [("master_key", master), ("self_signing_key", own)] {
                if let Some(key) = key {
                    content[name] = key;
                }
            }
            content
        });
        Ok(Now {
            stream_id: change.map_or(0, |change| change.pos.0),
            devices: keys.into_iter().map(|(id, keys)| (id, device(keys))).collect(),
            signing,
        })
    }
}

/// What an EDU tells of a device.
fn device(mut keys: Content, names: bool) -> Content {
    let unsigned = keys.as_object_mut().and_then(|keys| keys.remove("unsigned"));
    let mut device = json!({ "keys": keys });
    let name = unsigned.as_ref().and_then(|unsigned| unsigned.get("device_display_name"));
    if let Some(name) = name.filter(|_| names) {
        device["device_display_name"] = name.clone();
    }
    device
}

/// The EDUs from what a server was told to what is true now, and the row that says that it knows.
fn difference(
    server: &str,
    user: &UserId,
    before: Option<DeviceListSentRow>,
    now: Now,
) -> (Vec<Object>, DeviceListSentRow) {
    let told = before.as_ref().and_then(|row| serde_json::from_str::<BTreeMap<String, String>>(&row.devices).ok());
    let told = told.unwrap_or_default();
    let hashes: BTreeMap<&String, String> = now.devices.iter().map(|(id, device)| (id, hash(device))).collect();
    let gone = told.keys().filter(|id| !now.devices.contains_key(*id)).map(|id| (id, json!({ "deleted": true })));
    let changed = now.devices.iter().filter(|(id, _)| told.get(*id) != hashes.get(id));
    let changes: Vec<_> = changed.map(|(id, device)| (id, device.clone())).chain(gone).collect();
    // Without a predecessor that it knows, a peer asks for the whole list.
    let known = before.as_ref().filter(|_| changes.len() <= DEVICES_MAX).map(|row| row.stream_id);
    let prev_id: Vec<i64> = known.into_iter().collect();
    let told_now = !changes.is_empty();
    let mut edus = Vec::new();
    for (id, mut content) in changes.into_iter().take(DEVICES_MAX) {
        content["user_id"] = json!(user.as_str());
        content["device_id"] = json!(id);
        content["stream_id"] = json!(now.stream_id);
        content["prev_id"] = json!(prev_id);
        edus.push(edu("m.device_list_update", content));
    }
    let signing = now.signing.as_ref().map(hash).unwrap_or_default();
    if let Some(content) = now.signing
        && before.as_ref().is_none_or(|row| row.signing != signing)
    {
        edus.push(edu("m.signing_key_update", content));
    }
    let stream_id = match before {
        Some(before) if !told_now => before.stream_id,
        _ => now.stream_id,
    };
    let devices = json!(hashes).to_string();
    (edus, DeviceListSentRow { server: server.to_owned(), user_id: user.clone(), stream_id, devices, signing })
}

/// A short name for what is told.
fn hash(content: &Content) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(Sha256::digest(content.to_string()))
}

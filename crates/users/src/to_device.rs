//! To-device messages: kept until the device has synced past them (client-server API, "Send-to-Device messaging";
//! behaviours CE10, CY12).

pub(crate) mod backlog;

use std::collections::BTreeMap;

use event::{Json, Object};
use store::tables::federation::OutboundEduRow;
use store::tables::users::{DeviceRow, ToDeviceRow, ToDeviceTransactionRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, StreamPosition, UserId, Value};

use crate::keys::INT_MAX;
use crate::{Error, Users};

/// Messages in one answer of `/sync`.
pub const MESSAGES_PER_SYNC: u32 = 100;
/// Bytes that one message's content may have.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1_024;
/// Messages of one EDU to another server.
const EDU_MESSAGES_MAX: usize = 500;
/// Bytes of the contents of one EDU, but for a last message that goes beyond.
const EDU_BYTES_MAX: usize = 64 * 1_024;
/// Characters of the id of an EDU; the specification allows 32.
const EDU_ID_LENGTH: usize = 20;
/// The device id that stands for all devices.
const ALL_DEVICES: &str = "*";

/// Contents as JSON text, by user and device id or `*`.
pub type Messages = BTreeMap<UserId, BTreeMap<String, String>>;
/// A user and the contents by device id or `*`.
type ForUser<'a> = (&'a UserId, &'a BTreeMap<String, String>);

impl Users {
    /// Sends messages to users' devices: `*` is all devices of this moment, unknown devices are passed over. With a
    /// transaction id (the sender's device and the id) a repeated call sends nothing; the answer says whether it sent.
    ///
    /// What is for other servers is stored for them; whoever calls leaves out those that cannot be sent to.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::InvalidParam`] for a message to another server that is not canonical JSON.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        kind: &str,
        transaction: Option<(&DeviceId, &str)>,
        messages: &Messages,
    ) -> Result<bool, Error> {
        let mut batch = CommitBatch::new();
        if let Some((device, txn_id)) = transaction {
            let row = ToDeviceTransactionRow {
                user_id: sender.clone(),
                device_id: device.clone(),
                kind: kind.to_owned(),
                txn_id: txn_id.to_owned(),
                at_ms: self.now(),
            };
            let key = vec![sender.into(), device.into(), Value::from(kind), Value::from(txn_id)];
            batch.expect_absent::<ToDeviceTransactionRow>(key).put(row);
        }
        for (user, contents) in messages.iter().filter(|(user, _)| self.is_local(user)) {
            self.add_messages(&mut batch, (sender, None), kind, user, contents).await?;
        }
        self.add_edus(&mut batch, sender, kind, messages)?;
        self.commit_once(batch).await
    }

    /// Takes in the messages of another server's user, of which the id tells a repetition. Where too many of that user wait
    /// for a device, the message is dropped; the bound is that of the whole server where the user is not `known` here.
    /// Says whether anything was stored.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Store`].
    pub async fn receive_to_device(
        &self,
        sender: &UserId,
        known: bool,
        kind: &str,
        id: &str,
        messages: &Messages,
    ) -> Result<bool, Error> {
        // A remote sender has no device of its own here.
        let device = DeviceId::from("");
        let key = vec![sender.into(), (&device).into(), Value::from(kind), Value::from(id)];
        if self.store.get::<ToDeviceTransactionRow>(key.clone()).await?.is_some() {
            return Ok(false);
        }
        let mut batch = CommitBatch::new();
        for (user, contents) in messages.iter().filter(|(user, _)| self.is_local(user)) {
            self.add_messages(&mut batch, (sender, Some(known)), kind, user, contents).await?;
        }
        // Ids alone could be made up without end.
        if batch.is_empty() {
            return Ok(false);
        }
        batch.expect_absent::<ToDeviceTransactionRow>(key).put(ToDeviceTransactionRow {
            user_id: sender.clone(),
            device_id: device,
            kind: kind.to_owned(),
            txn_id: id.to_owned(),
            at_ms: self.now(),
        });
        self.commit_once(batch).await
    }

    /// How many messages of other servers were dropped since the start, because too many waited.
    pub fn to_device_dropped(&self) -> u64 {
        self.backlogs.dropped()
    }

    /// Commits what expects its transaction to be new.
    async fn commit_once(&self, batch: CommitBatch) -> Result<bool, Error> {
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds the messages for a user's devices. A sender comes with whether it is known here, if it is not ours.
    async fn add_messages(
        &self,
        batch: &mut CommitBatch,
        (sender, remote): (&UserId, Option<bool>),
        kind: &str,
        user: &UserId,
        contents: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if contents.values().any(|content| content.len() > MESSAGE_BYTES_MAX) {
            return Err(Error::TooLarge("a to-device message"));
        }
        let devices: Vec<DeviceRow> = self.store.all(Read::prefix::<DeviceRow>(vec![Value::from(user)])).await?;
        let mut pos = None;
        for device in devices {
            let content = contents.get(device.device_id.as_str()).or_else(|| contents.get(ALL_DEVICES));
            let Some(content) = content else { continue };
            if let Some(known) = remote {
                let key = (user.clone(), device.device_id.clone());
                if !self.backlogs.admit(&self.store, self.now(), &key, (sender, known), content).await? {
                    continue;
                }
            }
            let pos = *pos.get_or_insert_with(|| batch.announce(StreamKind::ToDevice, None, Some(user.clone()), None));
            batch.put(ToDeviceRow {
                user_id: user.clone(),
                device_id: device.device_id,
                pos,
                sender: sender.clone(),
                kind: kind.to_owned(),
                content: content.clone(),
            });
        }
        Ok(())
    }

    /// Adds the EDUs for other servers, of which the first of its users is announced.
    fn add_edus(&self, batch: &mut CommitBatch, sender: &UserId, kind: &str, messages: &Messages) -> Result<(), Error> {
        let mut servers: BTreeMap<&str, Vec<ForUser<'_>>> = BTreeMap::new();
        let is_remote = |user: &UserId| !self.is_local(user) && event::ids::is_user_id(user.as_str());
        for (user, contents) in messages.iter().filter(|(user, contents)| is_remote(user) && !contents.is_empty()) {
            servers.entry(user.server_name()).or_default().push((user, contents));
        }
        for (server, users) in servers {
            let Some((first, _)) = users.first() else { continue };
            let pos = batch.announce(StreamKind::ToDevice, None, Some((*first).clone()), None);
            for (number, messages) in (0_i64..).zip(portions(&users)?) {
                let id = store::clock::random_text(self.entropy.as_ref(), EDU_ID_LENGTH);
                let content = Object::from([
                    ("message_id".to_owned(), Json::from(id)),
                    ("messages".to_owned(), Json::Object(messages)),
                    ("sender".to_owned(), Json::from(sender.as_str())),
                    ("type".to_owned(), Json::from(kind)),
                ]);
                let edu = Object::from([
                    ("content".to_owned(), Json::Object(content)),
                    ("edu_type".to_owned(), Json::from("m.direct_to_device")),
                ]);
                let edu = Json::Object(edu).to_canonical_string();
                batch.put(OutboundEduRow { server: server.to_owned(), pos, number, edu });
            }
        }
        Ok(())
    }

    /// The messages that wait for a device after `since`, up to and including `up_to`, in order of arrival: at most
    /// `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn to_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        since: StreamPosition,
        up_to: StreamPosition,
        limit: u32,
    ) -> Result<Vec<ToDeviceRow>, Error> {
        let read = Read::prefix::<ToDeviceRow>(vec![user.into(), device.into()]);
        Ok(self.store.all(read.after(since).up_to(up_to).limit(limit)).await?)
    }

    /// Deletes the messages of a device up to and including `up_to`: it has synced with a token from after them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_to_device(&self, user: &UserId, device: &DeviceId, up_to: StreamPosition) -> Result<(), Error> {
        if self.to_device(user, device, StreamPosition::ZERO, up_to, 1).await?.is_empty() {
            return Ok(());
        }
        let mut batch = CommitBatch::new();
        let upper = std::collections::Bound::Included(up_to.into());
        batch.delete_range::<ToDeviceRow>(vec![user.into(), device.into()], std::collections::Bound::Unbounded, upper);
        self.commit(batch).await?;
        self.backlogs.fetched(user, device);
        Ok(())
    }
}

/// The messages to one server's users, as `{user: {device: content}}` in portions for one EDU each.
fn portions(users: &[ForUser<'_>]) -> Result<Vec<Object>, Error> {
    let mut portions = Vec::new();
    let (mut portion, mut count, mut bytes) = (Object::new(), 0, 0);
    let all = users.iter().flat_map(|(user, contents)| contents.iter().map(move |(device, text)| (user, device, text)));
    for (user, device, text) in all {
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(Error::TooLarge("a to-device message"));
        }
        // One that peers cannot check the signature of would hold up all that waits for them.
        let content = Json::object_from_slice(text.as_bytes()).ok().map(Json::Object).filter(is_canonical);
        let content = content
            .ok_or_else(|| Error::InvalidParam("What is sent to another server must be canonical JSON.".to_owned()))?;
        let of_user = portion.entry(user.to_string()).or_insert_with(|| Json::Object(Object::new()));
        if let Some(of_user) = of_user.as_object_mut() {
            of_user.insert(device.clone(), content);
        }
        count += 1;
        bytes += text.len();
        if count >= EDU_MESSAGES_MAX || bytes >= EDU_BYTES_MAX {
            portions.push(std::mem::take(&mut portion));
            (count, bytes) = (0, 0);
        }
    }
    if count > 0 {
        portions.push(portion);
    }
    Ok(portions)
}

/// Whether all numbers are of those that canonical JSON has.
fn is_canonical(value: &Json) -> bool {
    match value {
        Json::Int(int) => int.unsigned_abs() <= INT_MAX,
        Json::Number(_) | Json::Deep(_) => false,
        Json::Array(items) => items.iter().all(is_canonical),
        Json::Object(members) => members.values().all(is_canonical),
        Json::Null | Json::Bool(_) | Json::String(_) => true,
    }
}

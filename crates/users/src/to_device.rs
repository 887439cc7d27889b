//! To-device messages: kept until the device has synced past them (client-server API, "Send-to-Device messaging";
//! behaviours CE10, CY12).

use std::collections::BTreeMap;

use store::tables::users::{DeviceRow, ToDeviceRow, ToDeviceTransactionRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, StreamPosition, UserId, Value};

use crate::{Error, Users};

/// Messages in one answer of `/sync`.
pub const MESSAGES_PER_SYNC: u32 = 100;
/// Bytes that one message's content may have.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1_024;
/// The device id that stands for all devices.
const ALL_DEVICES: &str = "*";

/// Contents as JSON text, by user and device id or `*`.
pub type Messages = BTreeMap<UserId, BTreeMap<String, String>>;

impl Users {
    /// Sends messages to local users' devices: `*` is all devices of this moment, unknown devices are passed over. With
    /// a transaction id (the sender's device and the id) a repeated call sends nothing; the answer says whether it sent.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
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
            self.add_messages(&mut batch, sender, kind, user, contents).await?;
        }
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn add_messages(
        &self,
        batch: &mut CommitBatch,
        sender: &UserId,
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
        self.commit(batch).await.map(drop)
    }
}

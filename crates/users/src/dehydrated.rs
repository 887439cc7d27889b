//! Dehydrated devices (MSC3814): a device that no client runs. It is stored encrypted, gets to-device messages like any
//! other, and the user's next client wakes it to read them. Each user has one at most.

use serde_json::Value as Json;
use store::tables::users::{DehydratedDeviceRow, DeviceRow, ToDeviceRow};
use store::{CommitBatch, DeviceId, StreamPosition, UserId, Value};

use crate::devices::announce_device_change;
use crate::keys::upload::{Known, Upload};
use crate::login::{DEVICE_ID_BYTES_MAX, DEVICE_NAME_BYTES_MAX};
use crate::to_device::MESSAGES_PER_SYNC;
use crate::{Error, Users};

/// Most bytes of what it takes to wake a device: it has a private key for each one-time key.
const DATA_BYTES_MAX: usize = 64 * 1_024;

/// A dehydrated device, as it is uploaded.
#[derive(Clone, Copy, Debug)]
pub struct Dehydrated<'a> {
    /// Its id.
    pub device: &'a DeviceId,
    /// What it takes to wake it.
    pub data: &'a Json,
    /// Its name.
    pub display_name: Option<&'a str>,
    /// Its keys.
    pub keys: Upload<'a>,
}

impl Users {
    /// Stores a user's dehydrated device with its keys, in place of the one before, which is deleted with all that waits for
    /// it: all of it or nothing.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for an id that is none or that another device of the user has; [`Error::TooLarge`]; as
    /// [`Users::upload_keys`].
    pub async fn put_dehydrated_device(&self, user: &UserId, new: &Dehydrated<'_>) -> Result<(), Error> {
        if new.device.as_str().is_empty() || new.device.as_str().len() > DEVICE_ID_BYTES_MAX {
            return Err(Error::InvalidParam(format!("`device_id` has 1 to {DEVICE_ID_BYTES_MAX} bytes.")));
        }
        if new.display_name.is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
            return Err(Error::TooLarge("the device's name"));
        }
        let data = new.data.to_string();
        if data.len() > DATA_BYTES_MAX {
            return Err(Error::TooLarge("`device_data`"));
        }
        let mut batch = CommitBatch::new();
        let row = DehydratedDeviceRow { user_id: user.clone(), device_id: new.device.clone(), data };
        let before = self.dehydrated_device(user).await?.map(|(device, _)| device);
        match &before {
            Some(device) => {
                self.remove_device(&mut batch, user, device).await?;
            }
            None => {
                batch.expect_absent::<DehydratedDeviceRow>(vec![user.into()]);
            }
        }
        let key = vec![Value::from(user), Value::from(new.device)];
        if before.as_ref() != Some(new.device) {
            if self.store.get::<DeviceRow>(key.clone()).await?.is_some() {
                return Err(Error::InvalidParam("`device_id` is that of another device.".to_owned()));
            }
            batch.expect_absent::<DeviceRow>(key);
        }
        self.add_device(&mut batch, user, new.device, new.display_name.map(str::to_owned));
        self.add_keys(&mut batch, (user, new.device), &new.keys, Known::default()).await?;
        batch.put(row);
        self.commit(batch).await.map(drop)
    }

    /// A user's dehydrated device: its id, and what it takes to wake it as JSON text.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn dehydrated_device(&self, user: &UserId) -> Result<Option<(DeviceId, String)>, Error> {
        let row = self.store.get::<DehydratedDeviceRow>(vec![user.into()]).await?;
        Ok(row.map(|row| (row.device_id, row.data)))
    }

    /// Deletes a user's dehydrated device, if there is one; answers its id.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_dehydrated_device(&self, user: &UserId) -> Result<Option<DeviceId>, Error> {
        let Some((device, _)) = self.dehydrated_device(user).await? else { return Ok(None) };
        // Deleting it expects that it is still the one.
        let mut batch = CommitBatch::new();
        self.remove_device(&mut batch, user, &device).await?;
        announce_device_change(&mut batch, user);
        self.commit(batch).await?;
        Ok(Some(device))
    }

    /// The messages that wait for a user's dehydrated device after a position, in order of arrival, and whether more of
    /// them do. They stay until the device is deleted: whoever reads them may not live to the end.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if that is not the user's dehydrated device.
    pub async fn dehydrated_messages(
        &self,
        user: &UserId,
        device: &DeviceId,
        after: StreamPosition,
    ) -> Result<(Vec<ToDeviceRow>, bool), Error> {
        if self.dehydrated_device(user).await?.is_none_or(|(known, _)| known != *device) {
            return Err(Error::Forbidden("this is not your dehydrated device"));
        }
        let most = usize::try_from(MESSAGES_PER_SYNC).unwrap_or(usize::MAX);
        let upto = self.store.watermark();
        let mut messages = self.to_device(user, device, after, upto, MESSAGES_PER_SYNC + 1).await?;
        let more = messages.len() > most;
        messages.truncate(most);
        Ok((messages, more))
    }
}

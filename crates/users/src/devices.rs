//! Devices: listed, named, deleted with all that belongs to them (client-server API, "Device Management"; CA19).

use store::tables::users::{
    DehydratedDeviceRow, DeviceChangeRow, DeviceKeysRow, DeviceRow, DeviceSeenRow, FallbackKeyRow, KeySignatureRow,
    OneTimeKeyRow, PusherRow, SyncConnectionRow, SyncConnectionStateRow, ToDeviceRow,
};
use store::{CommitBatch, DeviceId, Read, StreamKind, StreamPosition, UserId, Value};

use crate::login::{DEVICE_ID_BYTES_MAX, DEVICE_NAME_BYTES_MAX};
use crate::{Error, Users};

/// A device as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// When it was last seen, in milliseconds since the epoch, and from which address.
    pub last_seen: Option<LastSeen>,
}

/// When and where a device was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// In milliseconds since the epoch.
    pub ts: i64,
    /// The client's address.
    pub ip: String,
    /// What the client called itself.
    pub user_agent: String,
}

impl Users {
    /// A user's devices, in order of their ids.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn devices(&self, user: &UserId) -> Result<Vec<Device>, Error> {
        let key = vec![Value::from(user)];
        let reads = vec![Read::prefix::<DeviceRow>(key.clone()), Read::prefix::<DeviceSeenRow>(key)];
        let mut rows = self.store.read(reads).await?.into_iter();
        let devices: Vec<DeviceRow> = rows.next().unwrap_or_default().all()?;
        let seen: Vec<DeviceSeenRow> = rows.next().unwrap_or_default().all()?;
        Ok(devices.into_iter().map(|device| with_last_seen(device, &seen)).collect())
    }

    /// One of a user's devices.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn device(&self, user: &UserId, device: &DeviceId) -> Result<Option<Device>, Error> {
        let key = vec![Value::from(user), Value::from(device)];
        let reads = vec![Read::get::<DeviceRow>(key.clone()), Read::get::<DeviceSeenRow>(key)];
        let mut rows = self.store.read(reads).await?.into_iter();
        let device: Option<DeviceRow> = rows.next().unwrap_or_default().one()?;
        let seen: Vec<DeviceSeenRow> = rows.next().unwrap_or_default().all()?;
        Ok(device.map(|device| with_last_seen(device, &seen)))
    }

    /// Names a device. With `create`, as appservices may, an unknown one is made; the answer says whether it was.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`] for the name, [`Error::InvalidParam`] for the id.
    pub async fn put_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<String>,
        create: bool,
    ) -> Result<bool, Error> {
        if display_name.as_ref().is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
            return Err(Error::TooLarge("the device's name"));
        }
        if device.as_str().is_empty() || device.as_str().len() > DEVICE_ID_BYTES_MAX {
            return Err(Error::InvalidParam("A device id has 1 to 255 bytes.".to_owned()));
        }
        let key = vec![Value::from(user), Value::from(device)];
        let mut batch = CommitBatch::new();
        let created = match self.store.get::<DeviceRow>(key.clone()).await? {
            Some(_) if display_name.is_none() => return Ok(false),
            Some(row) => {
                batch.expect_present::<DeviceRow>(key).put(DeviceRow { display_name, ..row });
                announce_device_change(&mut batch, user);
                false
            }
            None if create => {
                self.add_device(&mut batch, user, device, display_name);
                true
            }
            None => return Err(Error::NotFound("the device")),
        };
        self.commit(batch).await?;
        Ok(created)
    }

    /// Deletes devices with their tokens, keys, messages and pushers. Unknown ones are passed over (CA19).
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_devices(&self, user: &UserId, devices: &[DeviceId]) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        for device in devices {
            self.remove_device(&mut batch, user, device).await?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        announce_device_change(&mut batch, user);
        self.commit(batch).await?;
        self.sweep_pushers(user).await
    }

    /// Adds the deletion of all of a user's devices, but for `keep`, to a batch. When that is committed, pushers that were
    /// set meanwhile are still to be swept ([`Users::sweep_pushers`]).
    pub(crate) async fn remove_all_devices(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        keep: Option<&DeviceId>,
    ) -> Result<(), Error> {
        let devices: Vec<DeviceRow> = self.store.all(Read::prefix::<DeviceRow>(vec![Value::from(user)])).await?;
        for device in devices.iter().filter(|device| Some(&device.device_id) != keep) {
            self.remove_device(batch, user, &device.device_id).await?;
        }
        self.end_tokens(batch, user, None, keep).await?;
        announce_device_change(batch, user);
        Ok(())
    }

    pub(crate) async fn remove_device(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<(), Error> {
        let key = vec![Value::from(user), Value::from(device)];
        self.end_tokens(batch, user, Some(device), None).await?;
        let pushers: Vec<PusherRow> = self.store.all(Read::prefix::<PusherRow>(vec![Value::from(user)])).await?;
        for pusher in pushers.into_iter().filter(|pusher| pusher.device_id == *device) {
            batch.delete::<PusherRow>(vec![Value::from(user), pusher.app_id.into(), pusher.pushkey.into()]);
            batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
        }
        if self.dehydrated_device(user).await?.is_some_and(|(dehydrated, _)| dehydrated == *device) {
            batch.expect_equals::<DehydratedDeviceRow>(vec![user.into()], "device_id", device);
            batch.delete::<DehydratedDeviceRow>(vec![user.into()]);
        }
        batch
            .delete::<DeviceRow>(key.clone())
            .delete::<DeviceSeenRow>(key.clone())
            .delete::<DeviceKeysRow>(key.clone())
            .delete_prefix::<ToDeviceRow>(key.clone())
            .delete_prefix::<OneTimeKeyRow>(key.clone())
            .delete_prefix::<FallbackKeyRow>(key.clone())
            .delete_prefix::<KeySignatureRow>(key.clone())
            .delete_prefix::<SyncConnectionRow>(key.clone())
            .delete_prefix::<SyncConnectionStateRow>(key);
        Ok(())
    }

    pub(crate) fn add_device(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<String>,
    ) {
        let mut display_name = display_name;
        if let Some(name) = &mut display_name {
            while name.len() > DEVICE_NAME_BYTES_MAX {
                name.pop();
            }
        }
        // A message that was sent while an earlier device of this id was deleted is not for this one (CA6).
        batch.delete_prefix::<ToDeviceRow>(vec![user.into(), device.into()]);
        batch.put(DeviceRow { user_id: user.clone(), device_id: device.clone(), display_name, created_ms: self.now() });
        announce_device_change(batch, user);
    }

    /// Users whose devices or keys changed after `since`, up to and including `up_to`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn device_changes(
        &self,
        since: StreamPosition,
        up_to: StreamPosition,
    ) -> Result<Vec<(UserId, StreamPosition)>, Error> {
        let read = Read::along::<DeviceChangeRow>(DeviceChangeRow::BY_POS, vec![]).after(since).up_to(up_to);
        let rows: Vec<DeviceChangeRow> = self.store.all(read).await?;
        Ok(rows.into_iter().map(|row| (row.user_id, row.pos)).collect())
    }
}

/// Adds to a batch that a user's devices or keys changed.
pub(crate) fn announce_device_change(batch: &mut CommitBatch, user: &UserId) {
    let pos = batch.announce(StreamKind::DeviceList, None, Some(user.clone()), None);
    batch.put(DeviceChangeRow { user_id: user.clone(), pos });
}

fn with_last_seen(device: DeviceRow, seen: &[DeviceSeenRow]) -> Device {
    let last_seen = seen.iter().find(|seen| seen.device_id == device.device_id).map(|seen| LastSeen {
        ts: seen.seen_ms,
        ip: seen.ip.clone(),
        user_agent: seen.user_agent.clone(),
    });
    Device { id: device.device_id, display_name: device.display_name, last_seen }
}

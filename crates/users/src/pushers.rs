//! Pushers: where notifications go (client-server API, "Push Notifications"; behaviour CP7). Delivering is a reader's
//! work.

use store::tables::users::{DeviceRow, PusherRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, StreamPosition, UserId, Value};

use crate::{Error, Users};

/// Bytes that a pushkey may have.
pub const PUSHKEY_BYTES_MAX: usize = 512;
/// Characters that an app id may have.
pub const APP_ID_CHARS_MAX: usize = 64;
/// The member of a pusher by which it is switched off (MSC3881).
pub const ENABLED: &str = "enabled";
/// Bytes that a pusher may have, as it is stored.
pub const PUSHER_BYTES_MAX: usize = 16 << 10;
/// Pushers that a user may have.
const PUSHERS_MAX: usize = 200;

impl Users {
    /// A user's pushers.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn pushers(&self, user: &UserId) -> Result<Vec<PusherRow>, Error> {
        Ok(self.store.all(Read::prefix::<PusherRow>(vec![Value::from(user)])).await?)
    }

    /// Sets a pusher, a JSON object as in the API, in the name of a device. Unless `append`, other users' pushers with
    /// the same app and key go. A pusher that is switched on or off and stays the same otherwise stays its device's
    /// (MSC3881).
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for app id or key; [`Error::TooLarge`] for too many, and for one that is too large;
    /// [`Error::Conflict`] for a device that has been deleted: nothing would end the pusher.
    pub async fn put_pusher(
        &self,
        user: &UserId,
        device: &DeviceId,
        app_id: &str,
        pushkey: &str,
        pusher: String,
        append: bool,
    ) -> Result<(), Error> {
        if app_id.chars().count() > APP_ID_CHARS_MAX || pushkey.len() > PUSHKEY_BYTES_MAX {
            return Err(Error::InvalidParam("`app_id` may have 64 characters, `pushkey` 512 bytes.".to_owned()));
        }
        if pusher.len() > PUSHER_BYTES_MAX {
            return Err(Error::TooLarge("a pusher of more than 16 KiB"));
        }
        // So that of many at once none is counted too few.
        let _turn = self.queues.turn(user).await;
        let same = vec![Value::from(app_id), Value::from(pushkey)];
        let same: Vec<PusherRow> = self.store.all(Read::along::<PusherRow>(PusherRow::BY_KEY, same)).await?;
        let (known, others): (Vec<_>, Vec<_>) = same.into_iter().partition(|row| row.user_id == *user);
        if known.is_empty() && self.pushers(user).await?.len() >= PUSHERS_MAX {
            return Err(Error::TooLarge("the number of pushers"));
        }
        let switched = known.into_iter().find(|known| same_but_for_switch(&known.pusher, &pusher));
        let (device, created_ms) =
            switched.map_or((device.clone(), self.now()), |known| (known.device_id, known.created_ms));
        let mut batch = CommitBatch::new();
        batch.expect_present::<DeviceRow>(vec![user.into(), (&device).into()]);
        for other in others.into_iter().filter(|_| !append) {
            batch.announce(StreamKind::Pusher, None, Some(other.user_id.clone()), None);
            batch.delete::<PusherRow>(vec![other.user_id.into(), other.app_id.into(), other.pushkey.into()]);
        }
        let pos = batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
        batch.put(PusherRow {
            user_id: user.clone(),
            app_id: app_id.to_owned(),
            pushkey: pushkey.to_owned(),
            device_id: device,
            pusher,
            created_ms,
            pos,
        });
        self.commit(batch).await.map(drop)
    }

    /// Deletes a pusher whose gateway says that it leads nowhere, unless it was set anew meanwhile: then false.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_rejected_pusher(
        &self,
        user: &UserId,
        app_id: &str,
        pushkey: &str,
        pos: StreamPosition,
    ) -> Result<bool, Error> {
        let key = vec![user.into(), Value::from(app_id), Value::from(pushkey)];
        let mut batch = CommitBatch::new();
        batch.expect_equals::<PusherRow>(key.clone(), "pos", pos);
        batch.delete::<PusherRow>(key);
        batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
        match self.commit(batch).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a pusher, if it is there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_pusher(&self, user: &UserId, app_id: &str, pushkey: &str) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        batch.delete::<PusherRow>(vec![user.into(), Value::from(app_id), Value::from(pushkey)]);
        batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
        self.commit(batch).await.map(drop)
    }

    /// Deletes those of a user's pushers whose device is gone: what was set while its device was being deleted. To be
    /// called after the deletion, when no more of them can come.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn sweep_pushers(&self, user: &UserId) -> Result<(), Error> {
        for pusher in self.pushers(user).await? {
            let device = vec![Value::from(user), Value::from(&pusher.device_id)];
            if self.store.get::<DeviceRow>(device.clone()).await?.is_some() {
                continue;
            }
            let key = vec![Value::from(user), pusher.app_id.into(), pusher.pushkey.into()];
            let mut batch = CommitBatch::new();
            batch.expect_absent::<DeviceRow>(device);
            batch.expect_equals::<PusherRow>(key.clone(), "pos", pusher.pos);
            batch.delete::<PusherRow>(key);
            batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
            match self.commit(batch).await {
                // It is gone already, or is another device's by now.
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The pushers of all users.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn all_pushers(&self) -> Result<Vec<PusherRow>, Error> {
        Ok(self.store.all(Read::prefix::<PusherRow>(vec![])).await?)
    }
}

/// Whether two pushers differ in nothing but whether they are switched on.
fn same_but_for_switch(one: &str, other: &str) -> bool {
    let read = |text: &str| {
        let mut pusher: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        pusher.remove(ENABLED);
        Some(pusher)
    };
    one != other && read(one).is_some_and(|one| read(other) == Some(one))
}

//! Pushers: where notifications go (client-server API, "Push Notifications"; behaviour CP7). Delivering is a reader's
//! work.

use store::tables::users::{DeviceRow, PusherRow};
use store::{CommitBatch, DeviceId, Read, StreamKind, StreamPosition, UserId, Value};

use crate::{Error, Users};

/// Bytes that a pushkey may have.
pub const PUSHKEY_BYTES_MAX: usize = 512;
/// Characters that an app id may have.
pub const APP_ID_CHARS_MAX: usize = 64;
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
    /// the same app and key go.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for app id or key; [`Error::TooLarge`] for too many; [`Error::Conflict`] for a device that
    /// has been deleted: nothing would end the pusher.
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
        if self.pushers(user).await?.len() >= PUSHERS_MAX {
            return Err(Error::TooLarge("the number of pushers"));
        }
        let mut batch = CommitBatch::new();
        batch.expect_present::<DeviceRow>(vec![user.into(), device.into()]);
        let same = vec![Value::from(app_id), Value::from(pushkey)];
        let others: Vec<PusherRow> = self.store.all(Read::along::<PusherRow>(PusherRow::BY_KEY, same)).await?;
        for other in others.into_iter().filter(|other| !append && other.user_id != *user) {
            batch.announce(StreamKind::Pusher, None, Some(other.user_id.clone()), None);
            batch.delete::<PusherRow>(vec![other.user_id.into(), other.app_id.into(), other.pushkey.into()]);
        }
        let pos = batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
        batch.put(PusherRow {
            user_id: user.clone(),
            app_id: app_id.to_owned(),
            pushkey: pushkey.to_owned(),
            device_id: device.clone(),
            pusher,
            created_ms: self.now(),
            pos,
        });
        self.commit(batch).await.map(drop)
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

    /// Pushers of all users that were set after `since`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn all_pushers(&self, since: StreamPosition) -> Result<Vec<PusherRow>, Error> {
        let mut rows: Vec<PusherRow> = self.store.all(Read::prefix::<PusherRow>(vec![])).await?;
        rows.retain(|row| row.pos > since);
        Ok(rows)
    }
}

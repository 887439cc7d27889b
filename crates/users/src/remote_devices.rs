//! Devices of other servers' users. Their keys are asked for where they are; kept here is only when they changed.

use store::{CommitBatch, UserId};

use crate::devices::announce_device_change;
use crate::{Error, Users};

impl Users {
    /// The devices or keys of another server's user have changed: whoever shares a room with the user learns of it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn remote_devices_changed(&self, user: &UserId) -> Result<(), Error> {
        if self.is_local(user) {
            return Ok(());
        }
        let mut batch = CommitBatch::new();
        announce_device_change(&mut batch, user);
        self.commit(batch).await.map(drop)
    }
}

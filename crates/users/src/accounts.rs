//! Accounts: password, deactivation, locking, suspension (client-server API, "Account deactivation", "Account locking",
//! "Account suspension"; behaviours CA7, CA8, CA13).

use store::tables::mail::{EmailSessionRow, ThreepidRow};
use store::tables::users::{
    AccountDataRow, AccountRow, BackupKeyRow, BackupVersionRow, CrossSigningKeyRow, ErasedUserRow, FilterRow,
    KeySignatureRow, ProfileRow, PusherRow, ThreadSubscriptionRow, ToDeviceRow, UiaSessionRow,
};
use store::{Check, CommitBatch, DeviceId, Expect, Read, Row, StreamKind, UserId, Value};

use crate::email::MEDIUM;
use crate::jobs::Job;
use crate::uia::Proof;
use crate::{Error, RETRIES_MAX, Users};

impl Users {
    /// The account of a user, deactivated ones included.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn account(&self, user: &UserId) -> Result<Option<AccountRow>, Error> {
        Ok(self.store.get(vec![Value::from(user)]).await?)
    }

    /// Whether a local account of this id exists and is not deactivated.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_active(&self, user: &UserId) -> Result<bool, Error> {
        Ok(self.account(user).await?.is_some_and(|account| !account.deactivated))
    }

    /// Accounts in order of their ids, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn accounts(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<AccountRow>, Error> {
        let read = Read::prefix::<AccountRow>(vec![]).limit(limit);
        let read = match after {
            Some(user) => read.after(Value::from(user)),
            None => read,
        };
        Ok(self.store.all(read).await?)
    }

    /// Whether the server has no account yet.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_fresh(&self) -> Result<bool, Error> {
        Ok(self.accounts(None, 1).await?.is_empty())
    }

    /// Sets a new password. With `logout_devices`, all sessions but that of `keep` end, with their devices (CA7).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidParam`] for the password.
    pub async fn change_password(
        &self,
        user: &UserId,
        password: &str,
        logout_devices: bool,
        keep: Option<&DeviceId>,
    ) -> Result<(), Error> {
        let hash = self.passwords.hash(password).await?;
        let mut batch = CommitBatch::new();
        if logout_devices {
            self.remove_all_devices(&mut batch, user, keep).await?;
        }
        self.end_resets(&mut batch, user, "").await?;
        self.tell_of_password(&mut batch, user).await?;
        self.change_account(user, batch, |account| account.password_hash = Some(hash.clone())).await?;
        self.mails_queued();
        if logout_devices { self.sweep_pushers(user).await } else { Ok(()) }
    }

    /// Sets a new password for whoever has shown to receive the mail of the account's address; what was shown is used up.
    /// With `logout_devices`, all sessions end, with their devices (CA7, CA15).
    ///
    /// # Errors
    /// [`Error::EmailNotProven`], [`Error::Deactivated`], [`Error::Locked`], [`Error::InvalidParam`] for the password.
    pub async fn reset_password(&self, proof: &Proof, password: &str, logout_devices: bool) -> Result<UserId, Error> {
        let hash = self.passwords.hash(password).await?;
        let sid = proof.email_session.as_deref().ok_or(Error::EmailNotProven)?;
        for _ in 0..RETRIES_MAX {
            let session = self.email_session(sid).await?;
            let proven = |session: &EmailSessionRow| session.open && session.validated_ms.is_some();
            let session = session.filter(proven).ok_or(Error::EmailNotProven)?;
            let account = self.account_to_reset(&session).await?;
            let user = account.user_id.clone();
            let mut batch = CommitBatch::new();
            let holder = vec![MEDIUM.into(), session.address.as_str().into()];
            batch.expect_equals::<ThreepidRow>(holder, "user_id", &user);
            if let Some(uia) = &proof.session {
                batch.delete::<UiaSessionRow>(vec![Value::from(uia.as_str())]);
            }
            if logout_devices {
                self.remove_all_devices(&mut batch, &user, None).await?;
            }
            self.end_resets(&mut batch, &user, sid).await?;
            self.tell_of_password(&mut batch, &user).await?;
            Self::use_email_session(&mut batch, session);
            expect_unchanged(&mut batch, account.clone());
            batch.put(AccountRow { password_hash: Some(hash.clone()), ..account });
            batch.announce(StreamKind::Account, None, Some(user.clone()), None);
            match self.commit(batch).await {
                Ok(_) => {
                    self.mails_queued();
                    if logout_devices {
                        self.sweep_pushers(&user).await?;
                    }
                    return Ok(user);
                }
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// Deactivates an account for ever: sessions, devices, keys and their backups, pushers, profile, e-mail
    /// addresses go; the id stays
    /// reserved. `erase` removes account data and filters too, and lets those who come into a room later see the user's
    /// events pruned only.
    /// That the user leaves all rooms is for the caller: [`Job::LeaveRooms`] (CA8).
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn deactivate(&self, user: &UserId, erase: bool) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        self.remove_all_devices(&mut batch, user, None).await?;
        let key = vec![Value::from(user)];
        batch.delete_prefix::<ProfileRow>(key.clone());
        batch.delete_prefix::<PusherRow>(key.clone());
        batch.delete_prefix::<CrossSigningKeyRow>(key.clone()).delete_prefix::<KeySignatureRow>(key.clone());
        batch.delete_prefix::<BackupVersionRow>(key.clone()).delete_prefix::<BackupKeyRow>(key.clone());
        // A message that came while its device was deleted would be left without.
        batch.delete_prefix::<ToDeviceRow>(key.clone());
        batch.announce(StreamKind::Profile, None, Some(user.clone()), None);
        self.add_job(&mut batch, Job::LeaveRooms, user);
        self.remove_threepids(&mut batch, user).await?;
        if erase {
            batch.delete_prefix::<AccountDataRow>(key.clone()).delete_prefix::<FilterRow>(key);
            batch.delete_prefix::<ThreadSubscriptionRow>(vec![Value::from(user)]);
            let pos = batch.announce(StreamKind::Erasure, None, Some(user.clone()), None);
            batch.put(ErasedUserRow { user_id: user.clone(), pos });
        }
        self.change_account(user, batch, |account| {
            account.password_hash = None;
            account.deactivated = true;
            account.erased |= erase;
        })
        .await?;
        self.reload_push_rules(user).await
    }

    /// Locks or unlocks an account, at the word of the administrator `by`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for oneself and other administrators; [`Error::NotFound`].
    pub async fn set_locked(&self, by: &UserId, user: &UserId, locked: bool) -> Result<(), Error> {
        self.check_target(by, user).await?;
        self.change_account(user, CommitBatch::new(), |account| account.locked = locked).await
    }

    /// Suspends an account or ends that, at the word of the administrator `by`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for oneself and other administrators; [`Error::NotFound`].
    pub async fn set_suspended(&self, by: &UserId, user: &UserId, suspended: bool) -> Result<(), Error> {
        self.check_target(by, user).await?;
        self.change_account(user, CommitBatch::new(), |account| account.suspended = suspended).await
    }

    /// Makes an account an administrator's, or ends that.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_admin(&self, user: &UserId, admin: bool) -> Result<(), Error> {
        self.change_account(user, CommitBatch::new(), |account| account.admin = admin).await
    }

    /// The account that an administrator asks about.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for another server's user; [`Error::NotFound`] also for deactivated ones.
    pub async fn managed_account(&self, user: &UserId) -> Result<AccountRow, Error> {
        if !self.is_local(user) {
            return Err(Error::InvalidParam("This user does not belong to this server.".to_owned()));
        }
        let account = self.account(user).await?.filter(|account| !account.deactivated);
        account.ok_or(Error::NotFound("the account"))
    }

    async fn check_target(&self, by: &UserId, user: &UserId) -> Result<(), Error> {
        if by == user {
            return Err(Error::Forbidden("Administrators cannot do this to themselves."));
        }
        if self.managed_account(user).await?.admin {
            return Err(Error::Forbidden("Administrators cannot do this to each other."));
        }
        Ok(())
    }

    /// Commits a change of an account together with `batch`, again if another change came between.
    async fn change_account(
        &self,
        user: &UserId,
        batch: CommitBatch,
        change: impl Fn(&mut AccountRow),
    ) -> Result<(), Error> {
        for _ in 0..RETRIES_MAX {
            let before = self.account(user).await?.ok_or(Error::NotFound("the account"))?;
            let mut after = before.clone();
            change(&mut after);
            let mut batch = batch.clone();
            expect_unchanged(&mut batch, before);
            batch.put(after);
            batch.announce(StreamKind::Account, None, Some(user.clone()), None);
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                outcome => return outcome.map(drop),
            }
        }
        Err(Error::Conflict)
    }
}

/// Demands that a row is still as it was read.
pub(crate) fn expect_unchanged<R: Row>(batch: &mut CommitBatch, row: R) {
    let values = row.into_values();
    let key = R::TABLE.key_of(&values);
    for (column, value) in R::TABLE.columns.iter().zip(values).skip(R::TABLE.key) {
        batch.checks.push(Check { table: R::TABLE, key: key.clone(), expect: Expect::Equals(column.name, value) });
    }
}

//! The e-mail addresses of accounts (client-server API, "Adding account administrative contact information"; behaviour
//! CA15). Their owners are told by mail when something changes by which an account could be lost.

use serde_json::Value as Json;
use store::tables::mail::{EmailSessionRow, ThreepidRow};
use store::{CommitBatch, Read, StreamKind, UserId};

use crate::accounts::expect_unchanged;
use crate::email::address::Address;
use crate::email::sessions::{Purpose, check_secret};
use crate::email::{Kind, MEDIUM};
use crate::uia::Failure;
use crate::{Error, RETRIES_MAX, Users};

/// Addresses that an account may have.
const ADDRESSES_MAX: usize = 20;

impl Users {
    /// The addresses of a user.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn threepids(&self, user: &UserId) -> Result<Vec<ThreepidRow>, Error> {
        Ok(self.store.all(Read::along::<ThreepidRow>(ThreepidRow::BY_USER, vec![user.into()])).await?)
    }

    /// Whether a session's address is confirmed, so that it can be added.
    ///
    /// # Errors
    /// [`Error::EmailNotProven`]; [`Error::InvalidParam`] for the secret.
    pub async fn check_addable(&self, user: &UserId, sid: &str, client_secret: &str) -> Result<(), Error> {
        self.email()?;
        self.addable(user, sid, client_secret).await.map(drop)
    }

    async fn addable(&self, user: &UserId, sid: &str, client_secret: &str) -> Result<EmailSessionRow, Error> {
        check_secret("client_secret", client_secret)?;
        let session = self.proven_session(sid, client_secret, Purpose::Add, Some(user)).await?;
        session.map_err(|failure| match failure {
            Failure::UnknownEmailSession => Error::EmailSessionUnknown,
            _ => Error::EmailNotProven,
        })
    }

    /// Adds the address of a session to a user's account; the session is used up.
    ///
    /// # Errors
    /// [`Error::EmailNotProven`], [`Error::AddressInUse`], [`Error::TooLarge`] for too many.
    pub async fn add_threepid(&self, user: &UserId, sid: &str, client_secret: &str) -> Result<(), Error> {
        self.email()?;
        for _ in 0..RETRIES_MAX {
            let account = self.account(user).await?.filter(|account| !account.deactivated && !account.locked);
            let account = account.ok_or(Error::NotFound("account"))?;
            let session = self.addable(user, sid, client_secret).await?;
            if self.threepid(&session.address).await?.is_some() {
                return Err(Error::AddressInUse);
            }
            let known = self.threepids(user).await?;
            if known.len() >= ADDRESSES_MAX {
                return Err(Error::TooLarge("the number of addresses"));
            }
            let mut batch = CommitBatch::new();
            let address = session.mailbox.clone();
            self.add_threepid_row(&mut batch, user, session);
            expect_unchanged(&mut batch, account);
            self.tell(&mut batch, Kind::AddressAdded, known, user, &address)?;
            batch.announce(StreamKind::Account, None, Some(user.clone()), None);
            match self.commit(batch).await {
                Ok(_) => {
                    self.mails_queued();
                    return Ok(());
                }
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// Adds the address that a session has confirmed to a batch, and the end of the session.
    pub(crate) fn add_threepid_row(&self, batch: &mut CommitBatch, user: &UserId, session: EmailSessionRow) {
        let now_ms = self.now();
        batch.expect_absent::<ThreepidRow>(vec![MEDIUM.into(), session.address.as_str().into()]);
        batch.put(ThreepidRow {
            medium: MEDIUM.to_owned(),
            address: session.address.clone(),
            user_id: user.clone(),
            mailbox: session.mailbox.clone(),
            validated_ms: session.validated_ms.unwrap_or(now_ms),
            added_ms: now_ms,
        });
        Self::use_email_session(batch, session);
    }

    /// Takes an address from a user's account, if it is there.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_threepid(&self, user: &UserId, medium: &str, address: &str) -> Result<(), Error> {
        let Some(address) = Some(address).filter(|_| medium == MEDIUM).and_then(Address::parse) else {
            return Ok(());
        };
        let Some(row) = self.threepid(&address.canonical).await?.filter(|row| row.user_id == *user) else {
            return Ok(());
        };
        let mut batch = CommitBatch::new();
        self.tell(&mut batch, Kind::AddressRemoved, self.threepids(user).await?, user, &row.mailbox)?;
        self.end_resets(&mut batch, user, "").await?;
        self.end_mails_to(&mut batch, user, &row.address).await?;
        batch.delete::<ThreepidRow>(vec![MEDIUM.into(), row.address.as_str().into()]);
        expect_unchanged(&mut batch, row);
        batch.announce(StreamKind::Account, None, Some(user.clone()), None);
        match self.commit(batch).await {
            Ok(_) => {
                self.mails_queued();
                Ok(())
            }
            // Somebody else has removed it meanwhile.
            Err(Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Adds to a batch that a user's account has no address any more.
    pub(crate) async fn remove_threepids(&self, batch: &mut CommitBatch, user: &UserId) -> Result<(), Error> {
        for row in self.threepids(user).await? {
            batch.delete::<ThreepidRow>(vec![row.medium.into(), row.address.into()]);
        }
        self.end_resets(batch, user, "").await
    }

    /// Adds to a batch mails to all addresses of a user, that the password has changed.
    pub(crate) async fn tell_of_password(&self, batch: &mut CommitBatch, user: &UserId) -> Result<(), Error> {
        self.tell(batch, Kind::PasswordChanged, self.threepids(user).await?, user, "")
    }

    /// Adds to a batch mails about an account to some of its addresses. Nothing is said where no mail can be sent, or too
    /// many wait: the change itself does not depend on it.
    fn tell(
        &self,
        batch: &mut CommitBatch,
        kind: Kind,
        to: Vec<ThreepidRow>,
        user: &UserId,
        changed: &str,
    ) -> Result<(), Error> {
        for row in to.into_iter().filter(|_| self.options.email.is_some()) {
            let mut content = self.content(&row.mailbox, Some(user.as_str()));
            content.insert("changed".to_owned(), Json::from(changed));
            match self.add_mail(batch, kind, &row.mailbox, "", content) {
                Ok(()) | Err(Error::TooManyMails) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

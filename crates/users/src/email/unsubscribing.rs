//! Mails about what is unread, and how they are ended without signing in: by a link whose token stands for one pusher.

use serde_json::{Map, Value as Json, json};
use store::clock::random_text;
use store::tables::mail::{MailRow, UnsubscribeRow};
use store::tables::users::PusherRow;
use store::{CommitBatch, Read, StreamKind, UserId, Value};

use super::address::Address;
use super::queue::TOKEN_LENGTH;
use super::{Kind, Options};
use crate::{Error, Users, secret};

/// Where a link leads that ends such mails, under the server's public address.
pub const UNSUBSCRIBE_PATH: &str = "/_hearth/email/unsubscribe";
/// The app of pushers of the kind `email`.
pub const APP: &str = "m.email";
/// How long a link works, in milliseconds.
const LINK_MS: i64 = 90 * 24 * 60 * 60 * 1_000;

/// What one mail says.
pub struct Notifications<'a> {
    /// Whose pusher.
    pub user: &'a UserId,
    /// Its app.
    pub app_id: &'a str,
    /// Its address, as the pusher has it.
    pub pushkey: &'a str,
    /// Where the mail goes.
    pub mailbox: &'a str,
    /// Rooms with their messages.
    pub rooms: Vec<Json>,
    /// How many messages.
    pub unread: usize,
}

impl Users {
    /// Whether this server sends mail.
    pub fn sends_mail(&self) -> bool {
        self.options.email.is_some()
    }

    /// The mailbox of a user that compares equal to an address; none if it is not the user's.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn mailbox_of(&self, user: &UserId, address: &str) -> Result<Option<String>, Error> {
        let Some(address) = Address::parse(address).filter(|_| self.sends_mail()) else { return Ok(None) };
        let row = self.threepid(&address.canonical).await?.filter(|row| row.user_id == *user);
        Ok(row.map(|row| row.mailbox))
    }

    /// Adds a mail about what is unread to a batch. [`Users::mails_queued`] is to be called when that is committed.
    ///
    /// # Errors
    /// [`Error::TooManyMails`].
    pub fn add_notifications(&self, batch: &mut CommitBatch, told: Notifications<'_>) -> Result<(), Error> {
        let Notifications { user, app_id, pushkey, mailbox, rooms, unread } = told;
        let mut content = self.content(mailbox, Some(user.as_str()));
        content.insert("rooms".to_owned(), Json::Array(rooms));
        content.insert("unread".to_owned(), unread.into());
        content.insert("pusher".to_owned(), json!({ "app_id": app_id, "pushkey": pushkey }));
        self.add_mail(batch, Kind::Notifications, mailbox, "", content)
    }

    /// Gives a mail the link that ends such mails, and adds the hash of its token to a batch.
    pub(crate) fn add_unsubscribing(
        &self,
        batch: &mut CommitBatch,
        email: &Options,
        row: &MailRow,
        content: &mut Map<String, Json>,
    ) {
        if row.kind != Kind::Notifications.name() {
            return;
        }
        let pusher = content.remove("pusher").unwrap_or_default();
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let token = random_text(&*self.entropy, TOKEN_LENGTH);
        batch.put(UnsubscribeRow {
            token_hash: secret::hash(&token),
            user_id: UserId::from(content.get("user_id").map(text).unwrap_or_default()),
            app_id: text(&pusher["app_id"]),
            pushkey: text(&pusher["pushkey"]),
            expires_ms: self.now() + LINK_MS,
        });
        let link = format!("{}{UNSUBSCRIBE_PATH}?token={token}", email.base_url);
        content.insert("unsubscribe".to_owned(), link.into());
    }

    /// The address that a link stands for; none if the link is not valid.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unsubscription(&self, token: &str) -> Result<Option<String>, Error> {
        Ok(self.unsubscribe_row(token).await?.map(|row| row.pushkey))
    }

    /// Ends the mails of the pusher that a link stands for; its address. Once more changes nothing.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unsubscribe(&self, token: &str) -> Result<Option<String>, Error> {
        let Some(row) = self.unsubscribe_row(token).await? else { return Ok(None) };
        self.delete_pusher(&row.user_id, &row.app_id, &row.pushkey).await?;
        Ok(Some(row.pushkey))
    }

    async fn unsubscribe_row(&self, token: &str) -> Result<Option<UnsubscribeRow>, Error> {
        let row: Option<UnsubscribeRow> = self.store.get(vec![Value::Blob(secret::hash(token))]).await?;
        Ok(row.filter(|row| row.expires_ms > self.now()))
    }

    /// Adds to a batch the end of the pushers that send mail to an address of a user.
    pub(crate) async fn end_mails_to(
        &self,
        batch: &mut CommitBatch,
        user: &UserId,
        canonical: &str,
    ) -> Result<(), Error> {
        for pusher in self.pushers(user).await?.into_iter().filter(|pusher| pusher.app_id == APP) {
            if Address::parse(&pusher.pushkey).is_some_and(|address| address.canonical == canonical) {
                batch.delete::<PusherRow>(vec![user.into(), pusher.app_id.into(), pusher.pushkey.into()]);
                batch.announce(StreamKind::Pusher, None, Some(user.clone()), None);
            }
        }
        Ok(())
    }

    /// Removes links that work no more.
    pub(crate) async fn prune_unsubscribing(&self, batch: &mut CommitBatch, rows_max: u32) -> Result<(), Error> {
        let read = Read::along::<UnsubscribeRow>(UnsubscribeRow::BY_EXPIRY, vec![]).up_to(self.now()).limit(rows_max);
        for row in self.store.all::<UnsubscribeRow>(read).await? {
            batch.delete::<UnsubscribeRow>(vec![Value::Blob(row.token_hash)]);
        }
        Ok(())
    }
}

//! Which threads a user follows (MSC4306). A client subscribes by itself when somebody mentions the user there; that does not
//! undo what the user has decided after the mention.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};
use store::tables::users::ThreadSubscriptionRow;
use store::{CommitBatch, Read, StreamKind, StreamPosition, UserId, Value};

use crate::accounts::expect_unchanged;
use crate::{Error, RETRIES_MAX, Users};

impl Users {
    /// Subscribes a user to a thread: at the user's word, or at that of a client that has seen an event at position `cause`.
    /// False if the user has unsubscribed since then.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn subscribe_to_thread(
        &self,
        user: &UserId,
        room_id: &str,
        root: &str,
        cause: Option<StreamPosition>,
    ) -> Result<bool, Error> {
        self.add_thread_rules(user).await?;
        for _ in 0..RETRIES_MAX {
            let row = self.thread_subscription_row(user, room_id, root).await?;
            match (&row, cause) {
                (Some(row), Some(cause)) if !row.subscribed && cause <= row.pos => return Ok(false),
                // What the user has said counts more than what a client does by itself.
                (Some(row), cause) if row.subscribed && (cause.is_some() || !row.automatic) => return Ok(true),
                _ => {}
            }
            match self.put_thread_subscription((user, room_id, root), row, true, cause.is_some()).await {
                Err(Error::Conflict) => {}
                outcome => return outcome.map(|()| true),
            }
        }
        Err(Error::Conflict)
    }

    /// Ends a user's subscription to a thread, if there is one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unsubscribe_from_thread(&self, user: &UserId, room_id: &str, root: &str) -> Result<(), Error> {
        for _ in 0..RETRIES_MAX {
            let row = self.thread_subscription_row(user, room_id, root).await?;
            if row.as_ref().is_none_or(|row| !row.subscribed) {
                return Ok(());
            }
            match self.put_thread_subscription((user, room_id, root), row, false, false).await {
                Err(Error::Conflict) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    async fn put_thread_subscription(
        &self,
        (user, room_id, root): (&UserId, &str, &str),
        before: Option<ThreadSubscriptionRow>,
        subscribed: bool,
        automatic: bool,
    ) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        match before {
            Some(row) => expect_unchanged(&mut batch, row),
            None => drop(batch.expect_absent::<ThreadSubscriptionRow>(key(user, room_id, root))),
        }
        let pos = batch.announce(StreamKind::ThreadSubscription, None, Some(user.clone()), None);
        batch.put(ThreadSubscriptionRow {
            user_id: user.clone(),
            room_id: room_id.to_owned(),
            root: root.to_owned(),
            subscribed,
            automatic,
            pos,
        });
        self.commit(batch).await.map(drop)
    }

    async fn thread_subscription_row(
        &self,
        user: &UserId,
        room_id: &str,
        root: &str,
    ) -> Result<Option<ThreadSubscriptionRow>, Error> {
        Ok(self.store.get(key(user, room_id, root)).await?)
    }

    /// Whether a user is subscribed to a thread, and then whether a client did it by itself.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn thread_subscription(&self, user: &UserId, room_id: &str, root: &str) -> Result<Option<bool>, Error> {
        let row = self.thread_subscription_row(user, room_id, root).await?;
        Ok(row.filter(|row| row.subscribed).map(|row| row.automatic))
    }

    /// Those of these users who are subscribed to a thread.
    pub(crate) async fn thread_subscribers(
        &self,
        room_id: &str,
        root: &str,
        users: &[&UserId],
    ) -> Result<BTreeSet<UserId>, Error> {
        let reads = users.iter().map(|user| Read::get::<ThreadSubscriptionRow>(key(user, room_id, root))).collect();
        let mut subscribers = BTreeSet::new();
        for rows in self.store.read(reads).await? {
            let row = rows.one::<ThreadSubscriptionRow>()?.filter(|row| row.subscribed);
            subscribers.extend(row.map(|row| row.user_id));
        }
        Ok(subscribers)
    }

    /// The last changes of a user's subscriptions in `(since, upto]`, newest first, and at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn thread_subscriptions(
        &self,
        user: &UserId,
        since: StreamPosition,
        upto: StreamPosition,
        limit: u32,
    ) -> Result<Vec<ThreadSubscriptionRow>, Error> {
        let read = Read::along::<ThreadSubscriptionRow>(ThreadSubscriptionRow::BY_POS, vec![user.into()]);
        Ok(self.store.all(read.after(since).up_to(upto).reverse().limit(limit)).await?)
    }
}

fn key(user: &UserId, room_id: &str, root: &str) -> Vec<Value> {
    vec![user.into(), room_id.into(), root.into()]
}

/// Changes as clients are told of them (MSC4308): by whether the thread is subscribed to, then by room and thread. What is
/// empty is left out.
pub fn told(rows: &[ThreadSubscriptionRow]) -> Map<String, Json> {
    let mut told = json!({});
    for row in rows {
        let (part, change) = match row.subscribed {
            true => ("subscribed", json!({ "automatic": row.automatic, "bump_stamp": row.pos.0 })),
            false => ("unsubscribed", json!({ "bump_stamp": row.pos.0 })),
        };
        told[part][row.room_id.as_str()][row.root.as_str()] = change;
    }
    match told {
        Json::Object(told) => told,
        _ => Map::new(),
    }
}

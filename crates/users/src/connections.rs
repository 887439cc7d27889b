//! Connections of sliding sync: what each has been sent is kept as of two generations, since the newest answer may have
//! been lost (MSC4186; behaviour CZ1). What a state holds is for the sync engine to know.
//!
//! An answer that changes the state makes a new generation. If the request named the newest one, the client has it, and
//! what was before is forgotten; if it named the one before, the client does not have the newest, which gives way.

use store::tables::users::{SyncConnectionRow, SyncConnectionStateRow};
use store::{CommitBatch, DeviceId, Read, UserId, Value};

use crate::{Error, Users};

/// Most connections of one device: the one unused for the longest gives way.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection lives that nobody uses.
const UNUSED_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How exactly it is known when a connection was used.
const USED_MS_STEP: i64 = 24 * 60 * 60 * 1_000;
/// Where generations come from.
const GENERATIONS: &str = "sync_generations";

/// Which connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Whose.
    pub user: UserId,
    /// The device; empty where the session has none.
    pub device: DeviceId,
    /// As the client calls it; empty where it does not.
    pub conn_id: String,
}

impl ConnectionId {
    fn key(&self) -> Vec<Value> {
        vec![Value::from(&self.user), Value::from(&self.device), Value::from(self.conn_id.as_str())]
    }

    fn state_key(&self, generation: i64) -> Vec<Value> {
        let mut key = self.key();
        key.push(generation.into());
        key
    }

    fn row(&self, tip: i64, parent: i64, used_ms: i64) -> SyncConnectionRow {
        let Self { user, device, conn_id } = self.clone();
        SyncConnectionRow { user_id: user, device_id: device, conn_id, tip, parent, used_ms }
    }

    fn state_row(&self, generation: i64, state: Vec<u8>) -> SyncConnectionStateRow {
        let Self { user, device, conn_id } = self.clone();
        SyncConnectionStateRow { user_id: user, device_id: device, conn_id, generation, state }
    }
}

impl Users {
    /// The newest generation of a connection, if a client may go on from this one. Notes that the connection is used.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn connection_tip(&self, connection: &ConnectionId, generation: i64) -> Result<Option<i64>, Error> {
        let Some(row) = self.store.get::<SyncConnectionRow>(connection.key()).await? else { return Ok(None) };
        let tip = row.tip;
        if tip != generation && row.parent != generation {
            return Ok(None);
        }
        if row.used_ms.saturating_add(USED_MS_STEP) <= self.now() {
            let mut batch = CommitBatch::new();
            batch.expect_equals::<SyncConnectionRow>(connection.key(), "tip", tip);
            batch.put(SyncConnectionRow { used_ms: self.now(), ..row });
            // Whoever came first has noted it.
            match self.commit(batch).await {
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(tip))
    }

    /// What a connection had been sent as of a generation.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn connection_state(&self, connection: &ConnectionId, generation: i64) -> Result<Option<Vec<u8>>, Error> {
        let row = self.store.get::<SyncConnectionStateRow>(connection.state_key(generation)).await?;
        Ok(row.map(|row| row.state))
    }

    /// Begins a connection, anew if there was one of this name. Returns its first generation.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn begin_connection(&self, connection: &ConnectionId, state: Vec<u8>) -> Result<i64, Error> {
        let generation = self.store.next_number(GENERATIONS).await?;
        let mut batch = CommitBatch::new();
        let device = vec![Value::from(&connection.user), Value::from(&connection.device)];
        let mut rows: Vec<SyncConnectionRow> = self.store.all(Read::prefix::<SyncConnectionRow>(device)).await?;
        rows.retain(|row| row.conn_id != connection.conn_id);
        rows.sort_by_key(|row| std::cmp::Reverse(row.used_ms));
        for row in rows.into_iter().skip(CONNECTIONS_MAX - 1) {
            forget(&mut batch, row);
        }
        batch.delete_prefix::<SyncConnectionStateRow>(connection.key());
        batch.put(connection.row(generation, generation, self.now()));
        batch.put(connection.state_row(generation, state));
        self.commit(batch).await?;
        Ok(generation)
    }

    /// Takes a connection from a generation to a new one, which is returned. `tip` is what was the newest when the request
    /// came: if it no longer is, `None`. A later request was answered meanwhile, and what its client has must stand, though
    /// a proxy may hold up an earlier one that the client has given up.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn advance_connection(
        &self,
        connection: &ConnectionId,
        from: i64,
        tip: i64,
        state: Vec<u8>,
    ) -> Result<Option<i64>, Error> {
        let Some(row) = self.store.get::<SyncConnectionRow>(connection.key()).await? else { return Ok(None) };
        let gone = match from {
            from if from == row.tip => row.parent,
            from if from == row.parent => row.tip,
            _ => return Ok(None),
        };
        if row.tip != tip {
            return Ok(None);
        }
        let generation = self.store.next_number(GENERATIONS).await?;
        let mut batch = CommitBatch::new();
        batch.expect_equals::<SyncConnectionRow>(connection.key(), "tip", tip);
        if gone != from {
            batch.delete::<SyncConnectionStateRow>(connection.state_key(gone));
        }
        batch.put(connection.row(generation, from, self.now()));
        batch.put(connection.state_row(generation, state));
        match self.commit(batch).await {
            Ok(_) => Ok(Some(generation)),
            Err(Error::Conflict) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds to a batch the end of connections that nobody uses.
    pub(crate) async fn add_unused_connections(&self, batch: &mut CommitBatch, limit: u32) -> Result<(), Error> {
        let read = Read::along::<SyncConnectionRow>(SyncConnectionRow::BY_USED, vec![]);
        for row in self.store.all::<SyncConnectionRow>(read.up_to(self.now() - UNUSED_MS_MAX).limit(limit)).await? {
            forget(batch, row);
        }
        Ok(())
    }
}

fn forget(batch: &mut CommitBatch, row: SyncConnectionRow) {
    let key = vec![Value::from(&row.user_id), Value::from(&row.device_id), Value::from(row.conn_id)];
    batch.delete::<SyncConnectionRow>(key.clone()).delete_prefix::<SyncConnectionStateRow>(key);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::tests::{Bench, user};

    fn connection(conn_id: &str) -> ConnectionId {
        let (device, conn_id) = (DeviceId::from("DEVICE"), conn_id.to_owned());
        ConnectionId { user: user("alice"), device, conn_id }
    }

    #[tokio::test]
    async fn cz1_a_connection_goes_on_from_its_newest_generation_or_the_one_before() {
        let bench = Bench::new().await;
        let (users, one) = (&bench.users, connection("one"));
        let first = users.begin_connection(&one, vec![1]).await.unwrap();
        let lost = users.advance_connection(&one, first, first, vec![2]).await.unwrap().unwrap();
        assert!(
            users.connection_tip(&one, lost).await.unwrap().is_some()
                && users.connection_tip(&one, first).await.unwrap().is_some()
        );
        let second = users.advance_connection(&one, first, lost, vec![3]).await.unwrap().unwrap();
        assert!(users.connection_tip(&one, lost).await.unwrap().is_none(), "it gave way");
        assert_eq!(users.connection_state(&one, lost).await.unwrap(), None);
        assert_eq!(users.advance_connection(&one, lost, lost, vec![9]).await.unwrap(), None);
        let late = users.advance_connection(&one, first, lost, vec![9]).await.unwrap();
        assert_eq!(late, None, "what came later stands");
        let third = users.advance_connection(&one, second, second, vec![4]).await.unwrap().unwrap();
        assert!(users.connection_tip(&one, first).await.unwrap().is_none(), "what came after it was had");
        assert_eq!(users.connection_state(&one, third).await.unwrap(), Some(vec![4]));
        assert!(users.connection_tip(&connection("two"), third).await.unwrap().is_none(), "another's");
        let anew = users.begin_connection(&one, vec![5]).await.unwrap();
        assert!(users.connection_tip(&one, third).await.unwrap().is_none());
        assert_eq!(users.connection_state(&one, anew).await.unwrap(), Some(vec![5]));
    }

    #[tokio::test]
    async fn cz1_connections_that_nobody_uses_end() {
        let bench = Bench::new().await;
        let users = &bench.users;
        let mut generations = Vec::new();
        for n in 0..=CONNECTIONS_MAX {
            generations.push(users.begin_connection(&connection(&n.to_string()), vec![]).await.unwrap());
            bench.clock.advance(1);
        }
        assert!(users.connection_tip(&connection("0"), generations[0]).await.unwrap().is_none(), "one too many");
        assert!(users.connection_tip(&connection("1"), generations[1]).await.unwrap().is_some());
        bench.clock.advance(UNUSED_MS_MAX - USED_MS_STEP);
        assert!(users.connection_tip(&connection("2"), generations[2]).await.unwrap().is_some());
        bench.clock.advance(2 * USED_MS_STEP);
        users.prune().await.unwrap();
        assert!(users.connection_tip(&connection("1"), generations[1]).await.unwrap().is_none());
        assert!(users.connection_tip(&connection("2"), generations[2]).await.unwrap().is_some(), "it was used");
        users.delete_devices(&user("alice"), &[DeviceId::from("DEVICE")]).await.unwrap();
        assert!(users.connection_tip(&connection("2"), generations[2]).await.unwrap().is_none());
    }
}

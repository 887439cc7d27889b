//! The encrypted backup of room keys, version by version (client-server API, "Server-side key backups"; behaviour CE9).

use serde_json::Value as Json;
use store::tables::users::{BackupKeyRow, BackupVersionRow};
use store::{CommitBatch, Read, UserId, Value};

use crate::accounts::expect_unchanged;
use crate::{Error, RETRIES_MAX, Users};

/// Keys that one request brings.
const KEYS_MAX: usize = 10_000;
/// Most bytes of the ids of a room and of a session.
const ID_BYTES_MAX: usize = 255;
/// Bytes that `auth_data` or one key's `session_data` may have.
const DATA_BYTES_MAX: usize = 64 * 1_024;

/// A room key as the client sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupKey {
    /// The room.
    pub room_id: String,
    /// The Megolm session.
    pub session_id: String,
    /// Lowest message index that it decrypts.
    pub first_message_index: i64,
    /// How often it was forwarded.
    pub forwarded_count: i64,
    /// Whether its origin was verified.
    pub is_verified: bool,
    /// The encrypted key.
    pub session_data: Json,
}

impl Users {
    /// Makes a new backup version and returns it.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub async fn create_backup(&self, user: &UserId, algorithm: &str, auth_data: &Json) -> Result<i64, Error> {
        let auth_data = check_size(auth_data)?;
        for _ in 0..RETRIES_MAX {
            let read = Read::prefix::<BackupVersionRow>(vec![Value::from(user)]).reverse();
            let last: Option<BackupVersionRow> = self.store.one(read).await?;
            let version = last.map_or(1, |row| row.version + 1);
            let mut batch = CommitBatch::new();
            batch.expect_absent::<BackupVersionRow>(vec![user.into(), version.into()]).put(BackupVersionRow {
                user_id: user.clone(),
                version,
                algorithm: algorithm.to_owned(),
                auth_data: auth_data.clone(),
                etag: 0,
                count: 0,
                deleted: false,
            });
            match self.commit(batch).await {
                Ok(_) => return Ok(version),
                Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict)
    }

    /// A backup version, or the current one.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a deleted one.
    pub async fn backup(&self, user: &UserId, version: Option<i64>) -> Result<BackupVersionRow, Error> {
        let missing = Error::NotFound("the backup version");
        match version {
            Some(version) => {
                let row: Option<BackupVersionRow> = self.store.get(vec![user.into(), version.into()]).await?;
                row.filter(|row| !row.deleted).ok_or(missing)
            }
            None => {
                let read = Read::prefix::<BackupVersionRow>(vec![Value::from(user)]).reverse();
                let rows: Vec<BackupVersionRow> = self.store.all(read).await?;
                rows.into_iter().find(|row| !row.deleted).ok_or(missing)
            }
        }
    }

    /// Replaces the `auth_data` of a version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidParam`] for another algorithm, [`Error::TooLarge`].
    pub async fn update_backup(
        &self,
        user: &UserId,
        version: i64,
        algorithm: &str,
        auth_data: &Json,
    ) -> Result<(), Error> {
        let auth_data = check_size(auth_data)?;
        let row = self.backup(user, Some(version)).await?;
        if row.algorithm != algorithm {
            return Err(Error::InvalidParam("The algorithm of a backup does not change.".to_owned()));
        }
        let mut batch = CommitBatch::new();
        expect_unchanged(&mut batch, row.clone());
        batch.put(BackupVersionRow { auth_data, ..row });
        self.commit(batch).await.map(drop)
    }

    /// Deletes a version with its keys. Again is no error.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a version that never was.
    pub async fn delete_backup(&self, user: &UserId, version: i64) -> Result<(), Error> {
        let key = vec![Value::from(user), Value::from(version)];
        let row: Option<BackupVersionRow> = self.store.get(key.clone()).await?;
        let row = row.ok_or(Error::NotFound("the backup version"))?;
        let mut batch = CommitBatch::new();
        batch.delete_prefix::<BackupKeyRow>(key);
        batch.put(BackupVersionRow { deleted: true, count: 0, auth_data: "{}".to_owned(), ..row });
        self.commit(batch).await.map(drop)
    }

    /// Puts keys into the current version: a stored one gives way only to a better one. Returns the version's row after.
    ///
    /// # Errors
    /// [`Error::WrongBackupVersion`] with the current one, [`Error::NotFound`] without any, [`Error::TooLarge`],
    /// [`Error::InvalidParam`] for ids that are too long.
    pub async fn put_backup_keys(
        &self,
        user: &UserId,
        version: i64,
        keys: &[BackupKey],
    ) -> Result<BackupVersionRow, Error> {
        if keys.len() > KEYS_MAX {
            return Err(Error::TooLarge("the number of keys"));
        }
        if keys.iter().any(|key| key.room_id.len() > ID_BYTES_MAX || key.session_id.len() > ID_BYTES_MAX) {
            return Err(Error::InvalidParam(format!("Room and session ids may have {ID_BYTES_MAX} bytes.")));
        }
        for _ in 0..RETRIES_MAX {
            let current = self.backup(user, None).await?;
            if current.version != version {
                return Err(Error::WrongBackupVersion(current.version.to_string()));
            }
            match self.try_put_keys(user, current, keys).await {
                Err(Error::Conflict) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Conflict)
    }

    async fn try_put_keys(
        &self,
        user: &UserId,
        current: BackupVersionRow,
        keys: &[BackupKey],
    ) -> Result<BackupVersionRow, Error> {
        let address = |key: &BackupKey| {
            vec![user.into(), current.version.into(), key.room_id.as_str().into(), key.session_id.as_str().into()]
        };
        let reads = keys.iter().map(|key| Read::get::<BackupKeyRow>(address(key))).collect();
        let stored = self.store.read(reads).await?;
        let mut batch = CommitBatch::new();
        expect_unchanged(&mut batch, current.clone());
        let mut after = current.clone();
        for (key, stored) in keys.iter().zip(stored) {
            let stored: Option<BackupKeyRow> = stored.one()?;
            if stored.as_ref().is_some_and(|stored| !is_better(key, stored)) {
                continue;
            }
            after.count += i64::from(stored.is_none());
            after.etag = current.etag + 1;
            batch.put(row(user, current.version, key)?);
        }
        if after == current {
            return Ok(current);
        }
        batch.put(after.clone());
        self.commit(batch).await?;
        Ok(after)
    }

    /// The keys of a version: all, of one room, or one.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the version.
    pub async fn backup_keys(
        &self,
        user: &UserId,
        version: i64,
        room: Option<&str>,
        session: Option<&str>,
    ) -> Result<Vec<BackupKeyRow>, Error> {
        self.backup(user, Some(version)).await?;
        Ok(self.store.all(Read::prefix::<BackupKeyRow>(prefix(user, version, room, session))).await?)
    }

    /// Deletes keys of a version: all, of one room, or one. Returns the version's row after.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the version.
    pub async fn delete_backup_keys(
        &self,
        user: &UserId,
        version: i64,
        room: Option<&str>,
        session: Option<&str>,
    ) -> Result<BackupVersionRow, Error> {
        for _ in 0..RETRIES_MAX {
            let current = self.backup(user, Some(version)).await?;
            let found = self.backup_keys(user, version, room, session).await?.len();
            if found == 0 {
                return Ok(current);
            }
            let mut batch = CommitBatch::new();
            expect_unchanged(&mut batch, current.clone());
            batch.delete_prefix::<BackupKeyRow>(prefix(user, version, room, session));
            let count = current.count - i64::try_from(found).unwrap_or(0);
            let after = BackupVersionRow { count, etag: current.etag + 1, ..current };
            batch.put(after.clone());
            match self.commit(batch).await {
                Err(Error::Conflict) => {}
                outcome => return outcome.map(|_| after),
            }
        }
        Err(Error::Conflict)
    }
}

fn prefix(user: &UserId, version: i64, room: Option<&str>, session: Option<&str>) -> Vec<Value> {
    let mut prefix = vec![user.into(), version.into()];
    prefix.extend(room.map(Value::from));
    prefix.extend(session.filter(|_| room.is_some()).map(Value::from));
    prefix
}

fn row(user: &UserId, version: i64, key: &BackupKey) -> Result<BackupKeyRow, Error> {
    Ok(BackupKeyRow {
        user_id: user.clone(),
        version,
        room_id: key.room_id.clone(),
        session_id: key.session_id.clone(),
        first_message_index: key.first_message_index,
        forwarded_count: key.forwarded_count,
        is_verified: key.is_verified,
        session_data: check_size(&key.session_data)?,
    })
}

fn check_size(data: &Json) -> Result<String, Error> {
    let text = data.to_string();
    if text.len() > DATA_BYTES_MAX { Err(Error::TooLarge("the backup's data")) } else { Ok(text) }
}

/// Verified beats unverified; then the lower first index; then the lower forwarded count.
fn is_better(key: &BackupKey, stored: &BackupKeyRow) -> bool {
    let rank = |verified: bool, index: i64, forwarded: i64| (!verified, index, forwarded);
    rank(key.is_verified, key.first_message_index, key.forwarded_count)
        < rank(stored.is_verified, stored.first_message_index, stored.forwarded_count)
}

//! What users keep about a room, removed with the room: receipts, read markers, tags, other account data, push rules,
//! subscriptions to threads.
//!
//! The room engine cannot do it, since these rows are not its own. That it is to be done is noted before the room is
//! purged, so that a crash in between leaves nothing behind.

use store::tables::core::JobRow;
use store::tables::users::{AccountDataRow, ReceiptRow, ThreadSubscriptionRow};
use store::{CommitBatch, Read, RoomNum, Value};

use crate::push_rules::RuleKind;
use crate::{Error, Users};

/// The kind of the jobs that name rooms, by id, of which nothing shall be kept; the cursor is the room's number.
const JOB: &str = "users.forget_room";
/// Rows that one batch removes.
const STEP_ROWS: u32 = 500;
/// Jobs that are looked at at a time.
const JOBS_MAX: u32 = 100;

impl Users {
    /// Notes that what users keep about a room is to go: before the room itself does.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn begin_forgetting(&self, room: RoomNum, room_id: &str) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        batch.put(JobRow {
            kind: JOB.to_owned(),
            name: room_id.to_owned(),
            cursor: room.0.to_string(),
            due_ms: self.now(),
            failures: 0,
        });
        self.commit(batch).await.map(drop)
    }

    /// The rooms of which nothing shall be kept once they are gone, by number and id.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn to_be_forgotten(&self) -> Result<Vec<(RoomNum, String)>, Error> {
        let read = Read::prefix::<JobRow>(vec![Value::from(JOB)]).limit(JOBS_MAX);
        let jobs: Vec<JobRow> = self.store.all(read).await?;
        Ok(jobs.into_iter().map(|job| (RoomNum(job.cursor.parse().unwrap_or_default()), job.name)).collect())
    }

    /// Removes what users keep about a room that is gone, and the note that it is to be done.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn forget_room(&self, room: RoomNum, room_id: &str) -> Result<(), Error> {
        while self.remove_receipts(room).await?
            || self.remove_room_data(room_id).await?
            || self.remove_thread_subscriptions(room_id).await?
        {}
        self.refresh_push_rules().await?;
        for user in self.push_rules.users_with_rules() {
            match self.delete_push_rule(&user, RuleKind::Room, room_id).await {
                Ok(()) | Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut batch = CommitBatch::new();
        batch.delete::<JobRow>(vec![Value::from(JOB), Value::from(room_id)]);
        self.commit(batch).await.map(drop)
    }

    async fn remove_receipts(&self, room: RoomNum) -> Result<bool, Error> {
        let rows: Vec<ReceiptRow> =
            self.store.all(Read::prefix::<ReceiptRow>(vec![room.into()]).limit(STEP_ROWS)).await?;
        let mut batch = CommitBatch::new();
        for row in rows {
            let key = [room.into(), row.user_id.into(), row.receipt_type.into(), row.thread.into()];
            batch.delete::<ReceiptRow>(key.to_vec());
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.commit(batch).await.map(|_| true)
    }

    async fn remove_thread_subscriptions(&self, room_id: &str) -> Result<bool, Error> {
        let read = Read::along::<ThreadSubscriptionRow>(ThreadSubscriptionRow::BY_ROOM, vec![Value::from(room_id)]);
        let rows: Vec<ThreadSubscriptionRow> = self.store.all(read.limit(STEP_ROWS)).await?;
        let mut batch = CommitBatch::new();
        for row in rows {
            batch.delete::<ThreadSubscriptionRow>(vec![row.user_id.into(), row.room_id.into(), row.root.into()]);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.commit(batch).await.map(|_| true)
    }

    async fn remove_room_data(&self, room_id: &str) -> Result<bool, Error> {
        let read = Read::along::<AccountDataRow>(AccountDataRow::BY_ROOM, vec![Value::from(room_id)]);
        let rows: Vec<AccountDataRow> = self.store.all(read.limit(STEP_ROWS)).await?;
        let mut batch = CommitBatch::new();
        for row in rows {
            batch.delete::<AccountDataRow>(vec![row.user_id.into(), row.room_id.into(), row.kind.into()]);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.commit(batch).await.map(|_| true)
    }
}

//! Work on many rooms that a change of an account brings with it, and that survives a crash: noted in the batch of the
//! change, done at once by whoever made it, and taken up again later if that came to nothing.

use store::tables::core::JobRow;
use store::{CommitBatch, Read, UserId, Value};

use crate::{Error, Users};

/// How long whoever made the change has for the work, before others take it up.
const GRACE_MS: i64 = 10 * 60_000;
/// Jobs of a kind that are taken up at a time.
const JOBS_MAX: u32 = 100;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A deactivated user leaves all rooms and rejects all invites (CA8).
    LeaveRooms,
    /// A changed name or avatar is written to the user's member events (CR26).
    TellProfile,
}

impl Job {
    fn kind(self) -> &'static str {
        match self {
            Self::LeaveRooms => "users.leave_rooms",
            Self::TellProfile => "users.tell_profile",
        }
    }
}

impl Users {
    pub(crate) fn add_job(&self, batch: &mut CommitBatch, job: Job, user: &UserId) {
        batch.put(JobRow {
            kind: job.kind().to_owned(),
            name: user.to_string(),
            cursor: String::new(),
            due_ms: self.now() + GRACE_MS,
            failures: 0,
        });
    }

    /// Users whose job was not done by those who should have.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn overdue(&self, job: Job) -> Result<Vec<UserId>, Error> {
        let read = Read::prefix::<JobRow>(vec![Value::from(job.kind())]).limit(JOBS_MAX);
        let jobs: Vec<JobRow> = self.store.all(read).await?;
        let now = self.now();
        Ok(jobs.into_iter().filter(|job| job.due_ms <= now).map(|job| UserId::from(job.name)).collect())
    }

    /// Notes that a job is done.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn finish(&self, job: Job, user: &UserId) -> Result<(), Error> {
        let mut batch = CommitBatch::new();
        batch.delete::<JobRow>(vec![Value::from(job.kind()), Value::from(user)]);
        self.commit(batch).await.map(drop)
    }
}

//! Reports of what users find inappropriate: rooms, events, users (client-server API, "Reporting Content"). They are kept
//! for administrators to read; what was reported may be gone by then.

use store::tables::users::ReportRow;
use store::{CommitBatch, Read, UserId};

use crate::{Error, Users};

/// Bytes that a reason may have.
pub const REASON_BYTES_MAX: usize = 16 * 1_024;
/// Bytes that an id of what is reported may have.
const ID_BYTES_MAX: usize = 255;
/// The sequence by which reports are numbered.
const SEQUENCE: &str = "reports";

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported<'a> {
    /// A room.
    Room {
        /// Its id.
        room_id: &'a str,
    },
    /// An event.
    Event {
        /// The id of its room.
        room_id: &'a str,
        /// Its id.
        event_id: &'a str,
        /// Who sent it.
        sender: &'a str,
    },
    /// A user.
    User {
        /// Who.
        user: &'a UserId,
    },
}

impl Users {
    /// Keeps a report. Whether there is such a thing is for the caller to know.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the reason, [`Error::InvalidParam`] for an id that is none, [`Error::Store`].
    pub async fn report(&self, reporter: &UserId, reported: Reported<'_>, reason: &str) -> Result<(), Error> {
        if reason.len() > REASON_BYTES_MAX {
            return Err(Error::TooLarge("the reason"));
        }
        let (about, room_id, event_id, user_id) = match reported {
            Reported::Room { room_id } => ("room", Some(room_id), None, None),
            Reported::Event { room_id, event_id, sender } => ("event", Some(room_id), Some(event_id), Some(sender)),
            Reported::User { user } => ("user", None, None, Some(user.as_str())),
        };
        if [room_id, event_id, user_id].into_iter().flatten().any(|id| id.len() > ID_BYTES_MAX) {
            return Err(Error::InvalidParam("An id has at most 255 bytes.".to_owned()));
        }
        let mut batch = CommitBatch::new();
        batch.put(ReportRow {
            number: self.store.next_numbers(SEQUENCE, 1).await?,
            reporter: reporter.clone(),
            about: about.to_owned(),
            room_id: room_id.map(ToOwned::to_owned),
            event_id: event_id.map(ToOwned::to_owned),
            user_id: user_id.map(UserId::from),
            reason: reason.to_owned(),
            at_ms: self.now(),
        });
        self.commit(batch).await.map(drop)
    }

    /// Reports newest first, those before the number `before` if one is given, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn reports(&self, before: Option<i64>, limit: u32) -> Result<Vec<ReportRow>, Error> {
        let read = Read::prefix::<ReportRow>(Vec::new()).reverse().limit(limit);
        let read = match before {
            Some(number) => read.before(number),
            None => read,
        };
        Ok(self.store.all(read).await?)
    }
}

//! Reports of what users find inappropriate: rooms, events, users (client-server API, "Reporting Content"). They are kept
//! for administrators to read. An event may be redacted by then, so its report holds it as it was.
//!
//! What one user can make the server keep is bounded ([`REPORTS_MAX`]), and reports go when their time has come
//! ([`crate::Options::reports_kept_ms`]).

use store::tables::users::ReportRow;
use store::{CommitBatch, Read, UserId, Value};

use crate::{Error, Users};

/// Bytes that a reason may have.
pub const REASON_BYTES_MAX: usize = 16 * 1_024;
/// Bytes that an id of what is reported may have.
const ID_BYTES_MAX: usize = 255;
/// Reports of one reporter that are kept. Beyond them, the reporter's oldest ones go.
pub const REPORTS_MAX: u32 = 100;
/// Reports that are removed at a time.
const PRUNED_MAX: u32 = 500;
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
        /// The event as it is now, as JSON.
        json: &'a str,
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
        let (about, room_id, event_id, user_id, event) = match reported {
            Reported::Room { room_id } => ("room", Some(room_id), None, None, None),
            Reported::Event { room_id, event_id, sender, json } => {
                ("event", Some(room_id), Some(event_id), Some(sender), Some(json))
            }
            Reported::User { user } => ("user", None, None, Some(user.as_str()), None),
        };
        if [room_id, event_id, user_id].into_iter().flatten().any(|id| id.len() > ID_BYTES_MAX) {
            return Err(Error::InvalidParam("An id has at most 255 bytes.".to_owned()));
        }
        // Of reports that come at the same moment, the next one removes what is too many.
        let of_reporter = Read::along::<ReportRow>(ReportRow::BY_REPORTER, vec![Value::from(reporter.clone())]);
        let kept: Vec<ReportRow> = self.store.all(of_reporter.reverse().limit(REPORTS_MAX + PRUNED_MAX)).await?;
        let mut batch = CommitBatch::new();
        for row in kept.into_iter().skip(REPORTS_MAX as usize - 1) {
            batch.delete::<ReportRow>(vec![Value::from(row.number)]);
        }
        batch.put(ReportRow {
            number: self.store.next_numbers(SEQUENCE, 1).await?,
            reporter: reporter.clone(),
            about: about.to_owned(),
            room_id: room_id.map(ToOwned::to_owned),
            event_id: event_id.map(ToOwned::to_owned),
            user_id: user_id.map(UserId::from),
            reason: reason.to_owned(),
            event: event.map(ToOwned::to_owned),
            at_ms: self.now(),
            closed_ms: None,
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

    /// A report.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Store`].
    pub async fn kept_report(&self, number: i64) -> Result<ReportRow, Error> {
        let row = self.store.get::<ReportRow>(vec![Value::from(number)]).await?;
        row.ok_or(Error::NotFound("the report"))
    }

    /// Notes that an administrator is done with a report. The first time counts.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] if it is removed at this moment, [`Error::Store`].
    pub async fn close_report(&self, number: i64) -> Result<(), Error> {
        let row = self.kept_report(number).await?;
        if row.closed_ms.is_some() {
            return Ok(());
        }
        let mut batch = CommitBatch::new();
        batch.expect_equals::<ReportRow>(vec![Value::from(number)], "at_ms", row.at_ms);
        batch.put(ReportRow { closed_ms: Some(self.now()), ..row });
        self.commit(batch).await.map(drop)
    }

    /// Removes reports whose time has come, oldest first.
    pub(crate) async fn prune_reports(&self) -> Result<(), Error> {
        let due_ms = self.now().saturating_sub(self.options.reports_kept_ms);
        let oldest: Vec<ReportRow> = self.store.all(Read::prefix::<ReportRow>(Vec::new()).limit(PRUNED_MAX)).await?;
        let mut batch = CommitBatch::new();
        for row in oldest.into_iter().take_while(|row| row.at_ms < due_ms) {
            batch.delete::<ReportRow>(vec![Value::from(row.number)]);
        }
        if batch.is_empty() { Ok(()) } else { self.commit(batch).await.map(drop) }
    }
}

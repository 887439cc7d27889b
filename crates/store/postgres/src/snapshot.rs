//! One snapshot for as long as the copy of a whole database takes, while others go on writing.

use store::{Error, Read, Rows};
use tokio::sync::Mutex;

use crate::connection::{Connection, Fault};
use crate::reader;
use crate::route::Route;

/// The snapshot may rest while what was read is written elsewhere.
const PATIENT: &str = "SET idle_in_transaction_session_timeout = 0";

/// The database as it was at one moment. It ends when it is dropped; until then PostgreSQL keeps what was deleted since.
pub struct Snapshot(Mutex<Connection>);

impl Snapshot {
    /// The database as it is now.
    pub(crate) async fn take(route: &Route) -> Result<Self, Error> {
        let connection = Connection::open(route, None).await.map_err(Fault::into_error)?;
        // PostgreSQL takes the snapshot with the first statement of the transaction.
        for statement in [PATIENT, reader::BEGIN, "SELECT 1"] {
            connection.execute(statement).await.map_err(Fault::into_error)?;
        }
        Ok(Self(Mutex::new(connection)))
    }

    /// Answers reads as the engine does, from this moment.
    ///
    /// # Errors
    /// As PostgreSQL says; nothing is tried again, since the snapshot is gone with its connection.
    pub async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        for read in &reads {
            read.well_formed()?;
        }
        let mut connection = self.0.lock().await;
        reader::answer(&mut connection, &reads, true).await.map_err(Fault::into_error)
    }
}

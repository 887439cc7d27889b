//! Stored filters (client-server API, "Filtering"). A filter's id is derived from its text: storing it twice is once.

use store::tables::users::FilterRow;
use store::{CommitBatch, Read, UserId, Value};

use crate::{Error, Users, secret};

/// Bytes that a stored filter may have.
pub const FILTER_BYTES_MAX: usize = 64 * 1_024;
/// Filters that a user may have.
const FILTERS_MAX: usize = 1_000;
/// Bytes of the hash that make up an id.
const ID_BYTES: usize = 9;

impl Users {
    /// Stores a filter, a JSON object whose shape the caller has checked, and returns its id.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub async fn put_filter(&self, user: &UserId, filter: String) -> Result<String, Error> {
        if filter.len() > FILTER_BYTES_MAX {
            return Err(Error::TooLarge("the filter"));
        }
        // Must not begin with `{`, by which inline filters are told from ids.
        let hash = secret::hash(&filter);
        let filter_id = secret::hex(hash.get(..ID_BYTES).unwrap_or_default());
        let stored: Vec<FilterRow> = self.store.all(Read::prefix::<FilterRow>(vec![Value::from(user)])).await?;
        if stored.iter().any(|row| row.filter_id == filter_id) {
            return Ok(filter_id);
        }
        if stored.len() >= FILTERS_MAX {
            return Err(Error::TooLarge("the number of filters"));
        }
        let mut batch = CommitBatch::new();
        batch.put(FilterRow { user_id: user.clone(), filter_id: filter_id.clone(), filter });
        self.commit(batch).await?;
        Ok(filter_id)
    }

    /// A stored filter, as JSON text.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn filter(&self, user: &UserId, filter_id: &str) -> Result<Option<String>, Error> {
        let row: Option<FilterRow> = self.store.get(vec![Value::from(user), Value::from(filter_id)]).await?;
        Ok(row.map(|row| row.filter))
    }
}

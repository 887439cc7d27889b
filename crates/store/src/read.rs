//! What is read: typed point and range reads, many in one snapshot and one round trip.

use std::collections::Bound;

use crate::{Error, Index, Row, Table, Value};

/// The rows of a read that names no limit of its own.
pub const LIMIT_MAX: u32 = 1_000_000;

/// One read: the rows of a table whose key (or index) starts with `prefix` and whose next column lies within the
/// bounds, in that key's or index's order.
#[derive(Clone, Debug)]
pub struct Read {
    /// The table.
    pub table: &'static Table,
    /// The index to read along; `None` is the primary key.
    pub index: Option<&'static Index>,
    /// Values of the first columns of [`Table::order`].
    pub prefix: Vec<Value>,
    /// Lower bound of the column after the prefix.
    pub lower: Bound<Value>,
    /// Upper bound of the column after the prefix.
    pub upper: Bound<Value>,
    /// Highest first.
    pub reverse: bool,
    /// At most so many rows.
    pub limit: u32,
}

impl Read {
    /// The row with this primary key.
    pub fn get<R: Row>(key: Vec<Value>) -> Self {
        debug_assert_eq!(key.len(), R::TABLE.key, "a get names the whole key of {}", R::TABLE.name);
        Self { limit: 1, ..Self::prefix::<R>(key) }
    }

    /// All rows whose primary key starts with `prefix`.
    pub fn prefix<R: Row>(prefix: Vec<Value>) -> Self {
        Self {
            table: R::TABLE,
            index: None,
            prefix,
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
            reverse: false,
            limit: LIMIT_MAX,
        }
    }

    /// All rows whose columns of `index` start with `prefix`.
    pub fn along<R: Row>(index: &'static Index, prefix: Vec<Value>) -> Self {
        Self { index: Some(index), ..Self::prefix::<R>(prefix) }
    }

    /// Only rows whose next column is greater than `value`.
    pub fn after(self, value: impl Into<Value>) -> Self {
        Self { lower: Bound::Excluded(value.into()), ..self }
    }

    /// Only rows whose next column is at least `value`.
    pub fn from(self, value: impl Into<Value>) -> Self {
        Self { lower: Bound::Included(value.into()), ..self }
    }

    /// Only rows whose next column is less than `value`.
    pub fn before(self, value: impl Into<Value>) -> Self {
        Self { upper: Bound::Excluded(value.into()), ..self }
    }

    /// Only rows whose next column is at most `value`.
    pub fn up_to(self, value: impl Into<Value>) -> Self {
        Self { upper: Bound::Included(value.into()), ..self }
    }

    /// Highest first.
    pub fn reverse(self) -> Self {
        Self { reverse: true, ..self }
    }

    /// At most `limit` rows.
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// Whether the read fits its table: what an engine asks before it answers.
    ///
    /// # Errors
    /// [`Error::Engine`] naming the table: an index of another table, a prefix that is longer than the key or index, a
    /// value that is not of its column's type.
    pub fn well_formed(&self) -> Result<(), Error> {
        let malformed = |detail: &str| Err(Error::Engine(format!("a malformed read of {}: {detail}", self.table.name)));
        if self.index.is_some_and(|index| !self.table.indexes.iter().any(|known| known.name == index.name)) {
            return malformed("the index is of another table");
        }
        let order = self.table.order(self.index);
        if self.prefix.len() > order.len() {
            return malformed("the prefix is longer than the key");
        }
        let bounds = [&self.lower, &self.upper].map(|bound| match bound {
            Bound::Included(value) | Bound::Excluded(value) => Some(value),
            Bound::Unbounded => None,
        });
        let next = order
            .get(self.prefix.len())
            .into_iter()
            .flat_map(|place| bounds.into_iter().flatten().map(move |v| (place, v)));
        for (place, value) in order.iter().zip(&self.prefix).chain(next) {
            let fits = self.table.columns.get(*place).is_some_and(|column| value.is(column.column_type));
            if !fits && *value != Value::Null {
                return malformed("a value is not of its column's type");
            }
        }
        Ok(())
    }
}

/// The rows that one [`Read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(pub Vec<Vec<Value>>);

impl Rows {
    /// Decodes all rows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a stored value does not fit its column.
    pub fn all<R: Row>(self) -> Result<Vec<R>, Error> {
        self.0.into_iter().map(R::from_values).collect()
    }

    /// Decodes the first row, if any.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a stored value does not fit its column.
    pub fn one<R: Row>(self) -> Result<Option<R>, Error> {
        self.0.into_iter().next().map(R::from_values).transpose()
    }
}

//! Group commit: judges queued batches in order against the stored rows and what earlier ones of the group wrote, and
//! coalesces those that pass into the writes of one transaction. Shared by all engines.

use std::collections::{BTreeMap, Bound};

use crate::tables::core::{CounterRow, StreamRow};
use crate::{Check, ColumnType, CommitBatch, Error, Expect, Row, StreamEntry, StreamPosition, Table, Value, Write};

/// A row's address: table name and primary key.
pub type Address = (&'static str, Vec<Value>);

/// A range of primary keys to delete: prefix and the bounds of the next key column.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// The table.
    pub table: &'static Table,
    /// First columns of the key.
    pub prefix: Vec<Value>,
    /// Lower bound of the next key column.
    pub lower: Bound<Value>,
    /// Upper bound of the next key column.
    pub upper: Bound<Value>,
}

/// What a position that is not given yet counts as when it is compared with bounds: beyond all that a caller can name.
const PENDING: Value = Value::Int(i64::MAX - 1);

impl KeyRange {
    /// Whether a row (or key) of the table lies in the range. Placeholders of positions lie behind every position.
    pub fn holds(&self, row: &[Value]) -> bool {
        let place = self.prefix.len();
        if !row.starts_with(&self.prefix) || place >= self.table.key {
            return row.starts_with(&self.prefix);
        }
        let pending = self.table.columns.get(place).is_some_and(|column| column.column_type == ColumnType::Position);
        row.get(place).is_none_or(|next| match next {
            Value::Int(number) if pending && *number < 0 => within(&PENDING, &self.lower, &self.upper),
            next => within(next, &self.lower, &self.upper),
        })
    }
}

/// Whether a value lies within bounds.
pub fn within(value: &Value, lower: &Bound<Value>, upper: &Bound<Value>) -> bool {
    let above = match lower {
        Bound::Unbounded => true,
        Bound::Included(bound) => value >= bound,
        Bound::Excluded(bound) => value > bound,
    };
    above
        && match upper {
            Bound::Unbounded => true,
            Bound::Included(bound) => value <= bound,
            Bound::Excluded(bound) => value < bound,
        }
}

/// The writes of one transaction: apply `ranges` first, then of `rows` the deletions, then the others (no key stands
/// twice).
///
/// A unique index is judged on what is left behind, not on the way there: two rows of one batch may swap their values.
/// So an engine whose statements judge at once deletes every row of `rows` before it inserts the new ones, at least when
/// the quick way met a violation. A violation drops the one batch that made it: an engine that merged several undoes the
/// transaction and commits them one by one. (Where a later batch of the same group takes the other row away, either
/// outcome is right: nobody ever sees both rows.)
#[derive(Debug, Default)]
pub struct Merged {
    /// Ranges to delete.
    pub ranges: Vec<KeyRange>,
    /// Per table: the new row of each key, or `None` to delete it.
    pub rows: BTreeMap<&'static str, (TableRef, NewRows)>,
    /// All stream entries, in order.
    pub stream: Vec<StreamEntry>,
    /// Per batch of the group, in order: place of its first stream entry and their number, or the check that failed.
    pub outcomes: Vec<Result<(usize, usize), usize>>,
}

/// The new row of each key, or `None` to delete it.
pub type NewRows = BTreeMap<Vec<Value>, Option<Vec<Value>>>;

/// A table, by reference, with the traits that a map's value needs.
pub type TableRef = &'static Table;

/// The rows that the checks of `batches` look at, each once, in order: what an engine reads (and locks) beforehand.
pub fn checked_rows<'a>(batches: impl IntoIterator<Item = &'a CommitBatch>) -> Vec<(&'static Table, Vec<Value>)> {
    let mut rows = BTreeMap::new();
    for check in batches.into_iter().flat_map(|batch| &batch.checks) {
        rows.insert((check.table.name, check.key.clone()), check.table);
    }
    rows.into_iter().map(|((_, key), table)| (table, key)).collect()
}

/// Judges `batches` in order against `stored` (the rows of [`checked_rows`] that exist) and merges those that pass.
/// Positions stay placeholders relative to the group: entry `k` of [`Merged::stream`] is `-(k + 1)`; see [`resolve`].
pub fn merge(batches: &[CommitBatch], stored: &BTreeMap<Address, Vec<Value>>) -> Merged {
    let mut merged = Merged::default();
    for batch in batches {
        let failed = batch.checks.iter().position(|check| !merged.check_holds(check, stored));
        let outcome = match failed {
            Some(check) => Err(check),
            None => {
                let first = merged.stream.len();
                for write in &batch.writes {
                    merged.write(write, first);
                }
                merged.stream.extend(batch.stream.iter().cloned());
                Ok((first, batch.stream.len()))
            }
        };
        merged.outcomes.push(outcome);
    }
    merged.add_stream_rows();
    merged
}

/// Replaces the placeholders of positions in a row: entry `k` of the group becomes `first + k`.
pub fn resolve(table: &Table, row: &mut [Value], first: StreamPosition) {
    for (column, value) in table.columns.iter().zip(row) {
        if column.column_type != ColumnType::Position {
            continue;
        }
        if let Value::Int(number) = value
            && *number < 0
        {
            *number = first.0 - *number - 1;
        }
    }
}

impl Merged {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.rows.is_empty() && self.stream.is_empty()
    }

    fn check_holds(&self, check: &Check, stored: &BTreeMap<Address, Vec<Value>>) -> bool {
        let row = self.current(check.table, &check.key, stored);
        match (&check.expect, row) {
            (Expect::Absent, row) => row.is_none(),
            (Expect::Present, row) => row.is_some(),
            (Expect::Equals(column, value), Some(row)) => {
                check.table.column(column).and_then(|place| row.get(place)) == Some(value)
            }
            (Expect::Equals(..), None) => false,
        }
    }

    fn current<'a>(
        &'a self,
        table: &'static Table,
        key: &[Value],
        stored: &'a BTreeMap<Address, Vec<Value>>,
    ) -> Option<&'a Vec<Value>> {
        if let Some(row) = self.rows.get(table.name).and_then(|(_, rows)| rows.get(key)) {
            return row.as_ref();
        }
        if self.ranges.iter().any(|range| range.table == table && range.holds(key)) {
            return None;
        }
        stored.get(&(table.name, key.to_vec()))
    }

    /// Adds one write whose placeholders count from stream entry `first` of the group.
    fn write(&mut self, write: &Write, first: usize) {
        match write {
            Write::Put { table, row } => {
                let mut row = row.clone();
                shift(table, &mut row, first);
                let key = table.key_of(&row);
                self.rows_of(table).insert(key, Some(row));
            }
            Write::Delete { table, key } => {
                let mut key = key.clone();
                shift(table, &mut key, first);
                self.rows_of(table).insert(key, None);
            }
            Write::DeleteRange { table, prefix, lower, upper } => {
                let range = KeyRange { table, prefix: prefix.clone(), lower: lower.clone(), upper: upper.clone() };
                self.rows_of(table).retain(|key, _| !range.holds(key));
                self.ranges.push(range);
            }
        }
    }

    fn rows_of(&mut self, table: &'static Table) -> &mut NewRows {
        &mut self.rows.entry(table.name).or_insert_with(|| (table, BTreeMap::new())).1
    }

    fn add_stream_rows(&mut self) {
        let rows: Vec<StreamRow> = (self.stream.iter().enumerate())
            .map(|(place, entry)| StreamRow {
                pos: StreamPosition::pending(place),
                kind: entry.kind as i64,
                room: entry.room,
                user_id: entry.user.clone(),
                number: entry.number,
            })
            .collect();
        for row in rows {
            self.write(&Write::Put { table: StreamRow::TABLE, row: row.into_values() }, 0);
        }
    }
}

/// Moves a batch's own placeholders behind the `first` stream entries of the group.
fn shift(table: &Table, row: &mut [Value], first: usize) {
    let first = i64::try_from(first).unwrap_or(0);
    for (column, value) in table.columns.iter().zip(row) {
        if column.column_type == ColumnType::Position
            && let Value::Int(number) = value
            && *number < 0
        {
            *number -= first;
        }
    }
}

/// Whether the batch fits the declarations of its tables: what an engine asks before it takes one in.
///
/// # Errors
/// [`Error::Engine`] naming the table and what is wrong: a wrong number of values, a value of another type, NULL where it
/// is not allowed, a placeholder of a position that the batch does not announce, a row of the counter.
pub fn well_formed(batch: &CommitBatch) -> Result<(), Error> {
    for check in &batch.checks {
        columns_fit(check.table, &check.key, check.table.key, 0)?;
        if let Expect::Equals(column, _) = &check.expect
            && check.table.column(column).is_none()
        {
            return Err(malformed(check.table, &format!("has no column {column}")));
        }
    }
    let announced = i64::try_from(batch.stream.len()).unwrap_or(i64::MAX);
    for write in &batch.writes {
        match write {
            Write::Put { table, row } => fits(table, row, table.columns.len(), announced)?,
            Write::Delete { table, key } => fits(table, key, table.key, announced)?,
            Write::DeleteRange { table, prefix, lower, upper } => range_fits(table, prefix, lower, upper)?,
        }
    }
    Ok(())
}

/// Whether a row to be imported fits its table.
///
/// # Errors
/// As [`well_formed`].
pub fn row_fits(table: &Table, row: &[Value]) -> Result<(), Error> {
    columns_fit(table, row, table.columns.len(), 0)
}

fn fits(table: &Table, values: &[Value], wanted: usize, announced: i64) -> Result<(), Error> {
    if table == CounterRow::TABLE {
        return Err(malformed(table, "is written by engines only"));
    }
    columns_fit(table, values, wanted, announced)
}

fn columns_fit(table: &Table, values: &[Value], wanted: usize, announced: i64) -> Result<(), Error> {
    if values.len() != wanted {
        return Err(malformed(table, &format!("takes {wanted} values, not {}", values.len())));
    }
    for (place, (column, value)) in table.columns.iter().zip(values).enumerate() {
        let fits = match (column.column_type, value) {
            (_, Value::Null) => column.nullable && place >= table.key,
            (ColumnType::Position, Value::Int(number)) => *number >= -announced,
            (column_type, value) => value.is(column_type),
        };
        if !fits {
            return Err(malformed(table, &format!("does not take such a value in column {}", column.name)));
        }
    }
    Ok(())
}

fn range_fits(table: &Table, prefix: &[Value], lower: &Bound<Value>, upper: &Bound<Value>) -> Result<(), Error> {
    if prefix.len() > table.key {
        return Err(malformed(table, "has a shorter key than the range"));
    }
    fits(table, prefix, prefix.len(), 0)?;
    let next = table.columns.get(prefix.len()).filter(|_| prefix.len() < table.key);
    for bound in [lower, upper] {
        if let (Bound::Included(value) | Bound::Excluded(value), Some(column)) = (bound, next)
            && !value.is(column.column_type)
        {
            return Err(malformed(table, &format!("does not compare such a value with column {}", column.name)));
        }
    }
    Ok(())
}

fn malformed(table: &Table, detail: &str) -> Error {
    Error::Engine(format!("a malformed batch: table {} {detail}", table.name))
}

//! Group commit: judges queued batches in order against the stored rows and what earlier ones of the group wrote, and
//! coalesces those that pass into the writes of one transaction. Shared by all engines.

use std::collections::{BTreeMap, Bound};

use crate::tables::core::StreamRow;
use crate::{Check, CommitBatch, Expect, Row, StreamEntry, StreamPosition, Table, Value, Write};

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

impl KeyRange {
    /// Whether a row (or key) of the table lies in the range.
    pub fn holds(&self, row: &[Value]) -> bool {
        row.starts_with(&self.prefix)
            && row.get(self.prefix.len()).is_none_or(|next| within(next, &self.lower, &self.upper))
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

/// The writes of one transaction: apply `ranges` first, then `rows` (no key stands twice).
#[derive(Debug, Default)]
pub struct Merged {
    /// Ranges to delete.
    pub ranges: Vec<KeyRange>,
    /// Per table: the new row of each key, or `None` to delete it.
    pub rows: BTreeMap<&'static str, (TableRef, BTreeMap<Vec<Value>, Option<Vec<Value>>>)>,
    /// All stream entries, in order.
    pub stream: Vec<StreamEntry>,
    /// Per batch of the group, in order: place of its first stream entry and their number, or the check that failed.
    pub outcomes: Vec<Result<(usize, usize), usize>>,
}

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
        if column.column_type != crate::ColumnType::Position {
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
                self.rows_of(table).insert(key.clone(), None);
            }
            Write::DeleteRange { table, prefix, lower, upper } => {
                let range = KeyRange { table, prefix: prefix.clone(), lower: lower.clone(), upper: upper.clone() };
                self.rows_of(table).retain(|key, _| !range.holds(key));
                self.ranges.push(range);
            }
        }
    }

    fn rows_of(&mut self, table: &'static Table) -> &mut BTreeMap<Vec<Value>, Option<Vec<Value>>> {
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
        if column.column_type == crate::ColumnType::Position
            && let Value::Int(number) = value
            && *number < 0
        {
            *number -= first;
        }
    }
}

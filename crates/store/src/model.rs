//! The in-memory engine: the plainest thing that fulfils the contract. It is the oracle of the conformance suite and the
//! store of fast tests.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::merge::{self, Merged};
use crate::tables::core::CounterRow;
use crate::{
    CommitBatch, CommitError, Committed, Engine, Error, Index, Notifier, Read, Row, Rows, StreamPosition, Table,
    Ticket, Value,
};

/// The rows of one table by primary key, and per unique index the key that holds each value.
#[derive(Default)]
struct Stored {
    rows: BTreeMap<Vec<Value>, Vec<Value>>,
    unique: BTreeMap<&'static str, BTreeMap<Vec<Value>, Vec<Value>>>,
}

type Tables = BTreeMap<&'static str, Stored>;

/// A row as it was before a batch touched it: what undoes the batch.
type Before = (&'static Table, Vec<Value>, Option<Vec<Value>>);

/// An in-memory database.
pub struct Model {
    state: Mutex<State>,
    notifier: Notifier,
}

#[derive(Default)]
struct State {
    tables: Tables,
    closed: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self { state: Mutex::default(), notifier: Notifier::new(StreamPosition::ZERO) }
    }
}

impl Model {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    /// All rows of a table, in the order of its key.
    pub fn rows(&self, table: &'static Table) -> Vec<Vec<Value>> {
        self.state
            .lock()
            .tables
            .get(table.name)
            .map(|stored| stored.rows.values().cloned().collect())
            .unwrap_or_default()
    }

    fn apply(&self, batch: CommitBatch) -> Result<Committed, CommitError> {
        merge::well_formed(&batch)?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::Closed.into());
        }
        let tables = &mut state.tables;
        let stored = merge::checked_rows([&batch])
            .into_iter()
            .filter_map(|(table, key)| {
                let row = tables.get(table.name)?.rows.get(&key)?.clone();
                Some(((table.name, key), row))
            })
            .collect();
        let merged = merge::merge(&[batch], &stored);
        if let Some(Err(check)) = merged.outcomes.first() {
            return Err(CommitError::Conflict { check: *check });
        }
        let end = counter(tables);
        let first = StreamPosition(end + 1);
        write(tables, &merged, first)?;
        let last = end + i64::try_from(merged.stream.len()).unwrap_or(0);
        if last > end {
            let counter = tables.entry(CounterRow::TABLE.name).or_default();
            counter.remove(CounterRow::TABLE, &[Value::Int(1)]);
            counter.insert(CounterRow::TABLE, CounterRow { id: 1, pos: last }.into_values())?;
        }
        self.notifier.publish(first, &merged.stream);
        Ok(Committed { first: StreamPosition(first.0.min(last)), last: StreamPosition(last) })
    }
}

/// Applies all of `merged` or, if a unique index is violated, nothing.
fn write(tables: &mut Tables, merged: &Merged, first: StreamPosition) -> Result<(), Error> {
    let mut before: Vec<Before> = Vec::new();
    for range in &merged.ranges {
        let stored = tables.entry(range.table.name).or_default();
        let keys: Vec<_> = stored.rows.keys().filter(|key| range.holds(key)).cloned().collect();
        for key in keys {
            let row = stored.remove(range.table, &key);
            before.push((range.table, key, row));
        }
    }
    let mut fresh = Vec::new();
    for (table, rows) in merged.rows.values() {
        let stored = tables.entry(table.name).or_default();
        for (key, row) in rows {
            let mut key = key.clone();
            merge::resolve(table, &mut key, first);
            let old = stored.remove(table, &key);
            before.push((table, key, old));
            if let Some(mut row) = row.clone() {
                merge::resolve(table, &mut row, first);
                fresh.push((*table, row));
            }
        }
    }
    for (table, row) in fresh {
        if let Err(error) = tables.entry(table.name).or_default().insert(table, row) {
            undo(tables, before);
            return Err(error);
        }
    }
    Ok(())
}

fn undo(tables: &mut Tables, before: Vec<Before>) {
    for (table, key, _) in &before {
        tables.entry(table.name).or_default().remove(table, key);
    }
    for (table, _, row) in before {
        if let Some(row) = row {
            let restored = tables.entry(table.name).or_default().insert(table, row);
            debug_assert!(restored.is_ok(), "what stood before a batch violated nothing");
        }
    }
}

impl Stored {
    fn remove(&mut self, table: &Table, key: &[Value]) -> Option<Vec<Value>> {
        let row = self.rows.remove(key)?;
        for index in table.indexes.iter().filter(|index| index.unique) {
            if let Some(value) = unique_value(table, index, &row) {
                self.unique.entry(index.name).or_default().remove(&value);
            }
        }
        Some(row)
    }

    /// Adds a row whose key is not there.
    fn insert(&mut self, table: &Table, row: Vec<Value>) -> Result<(), Error> {
        for index in table.indexes.iter().filter(|index| index.unique) {
            let taken = unique_value(table, index, &row)
                .is_some_and(|value| self.unique.get(index.name).is_some_and(|values| values.contains_key(&value)));
            if taken {
                return Err(Error::Engine(format!("unique index {} of {} is violated", index.name, table.name)));
            }
        }
        let key = table.key_of(&row);
        for index in table.indexes.iter().filter(|index| index.unique) {
            if let Some(value) = unique_value(table, index, &row) {
                self.unique.entry(index.name).or_default().insert(value, key.clone());
            }
        }
        self.rows.insert(key, row);
        Ok(())
    }
}

/// What must be unique about a row; nothing if a column is NULL.
fn unique_value(table: &Table, index: &Index, row: &[Value]) -> Option<Vec<Value>> {
    let value: Vec<Value> = index.columns.iter().filter_map(|name| row.get(table.column(name)?).cloned()).collect();
    (!value.contains(&Value::Null)).then_some(value)
}

fn counter(tables: &Tables) -> i64 {
    let row = tables.get(CounterRow::TABLE.name).and_then(|stored| stored.rows.get([Value::Int(1)].as_slice()));
    match row.and_then(|row| row.get(1)) {
        Some(Value::Int(pos)) => *pos,
        _ => 0,
    }
}

/// The rows of `stored` that a read asks for: also the oracle by which other engines are judged.
pub fn select<'a>(read: &Read, stored: impl Iterator<Item = &'a Vec<Value>>) -> Vec<Vec<Value>> {
    let order = read.table.order(read.index);
    let ordered = |row: &Vec<Value>| order.iter().filter_map(|column| row.get(*column).cloned()).collect::<Vec<_>>();
    let mut rows: Vec<(Vec<Value>, &Vec<Value>)> = stored
        .map(|row| (ordered(row), row))
        .filter(|(key, _)| {
            key.starts_with(&read.prefix)
                && key
                    .get(read.prefix.len())
                    .is_none_or(|next| *next != Value::Null && merge::within(next, &read.lower, &read.upper))
        })
        .collect();
    rows.sort();
    if read.reverse {
        rows.reverse();
    }
    let limit = usize::try_from(read.limit).unwrap_or(usize::MAX);
    rows.into_iter().take(limit).map(|(_, row)| row.clone()).collect()
}

#[async_trait]
impl Engine for Model {
    fn submit(&self, batch: CommitBatch) -> Ticket {
        let (outcome, ticket) = Ticket::new();
        // A dropped ticket does not undo the commit.
        drop(outcome.send(self.apply(batch)));
        ticket
    }

    async fn read(&self, reads: Vec<Read>) -> Result<Vec<Rows>, Error> {
        let state = self.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let empty = Stored::default();
        reads
            .iter()
            .map(|read| {
                read.well_formed()?;
                let rows = &state.tables.get(read.table.name).unwrap_or(&empty).rows;
                Ok(Rows(match read.index {
                    Some(_) => select(read, rows.values()),
                    // The rows of a prefix of the key lie together.
                    None => {
                        let from = rows.range(read.prefix.clone()..);
                        let near = from.take_while(|(key, _)| key.starts_with(&read.prefix));
                        select(read, near.map(|(_, row)| row))
                    }
                }))
            })
            .collect()
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        for row in &rows {
            merge::row_fits(table, row)?;
        }
        let mut state = self.state.lock();
        let mut before = Vec::new();
        for row in rows {
            let key = table.key_of(&row);
            let stored = state.tables.entry(table.name).or_default();
            before.push((table, key.clone(), stored.remove(table, &key)));
            if let Err(error) = stored.insert(table, row) {
                // Of a key that stood twice, the row from before the import is the first one removed.
                before.reverse();
                undo_import(&mut state.tables, before);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn close(&self) {
        self.state.lock().closed = true;
    }
}

/// Undoes an import: its steps, last first.
fn undo_import(tables: &mut Tables, steps: Vec<Before>) {
    for step in steps {
        undo(tables, vec![step]);
    }
}

//! The in-memory engine: the plainest thing that fulfils the contract. It is the oracle of the conformance suite and the
//! store of fast tests.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::tables::core::CounterRow;
use crate::{
    CommitBatch, CommitError, Committed, Engine, Error, Notifier, Read, Row, Rows, StreamPosition, Table, Ticket,
    Value, merge,
};

type Rowset = BTreeMap<Vec<Value>, Vec<Value>>;

/// An in-memory database.
pub struct Model {
    tables: Mutex<BTreeMap<&'static str, Rowset>>,
    notifier: Notifier,
}

impl Default for Model {
    fn default() -> Self {
        Self { tables: Mutex::default(), notifier: Notifier::new(StreamPosition::ZERO) }
    }
}

impl Model {
    /// An empty database.
    pub fn new() -> Self {
        Self::default()
    }

    fn apply(&self, batch: CommitBatch) -> Result<Committed, CommitError> {
        let mut tables = self.tables.lock();
        let stored = merge::checked_rows([&batch])
            .into_iter()
            .filter_map(|(table, key)| {
                let row = tables.get(table.name)?.get(&key)?.clone();
                Some(((table.name, key), row))
            })
            .collect();
        let merged = merge::merge(&[batch], &stored);
        if let Some(Err(check)) = merged.outcomes.first() {
            return Err(CommitError::Conflict { check: *check });
        }
        let end = counter(&tables);
        let first = StreamPosition(end + 1);
        for range in &merged.ranges {
            tables.entry(range.table.name).or_default().retain(|key, _| !range.holds(key));
        }
        for (name, (table, rows)) in &merged.rows {
            let stored = tables.entry(name).or_default();
            for (key, row) in rows {
                let Some(row) = row else {
                    stored.remove(key);
                    continue;
                };
                let mut row = row.clone();
                merge::resolve(table, &mut row, first);
                check_unique(table, stored, &row)?;
                stored.insert(table.key_of(&row), row);
            }
        }
        let last = end + i64::try_from(merged.stream.len()).unwrap_or(0);
        if last > end {
            let row = CounterRow { id: 1, pos: last }.into_values();
            tables.entry(CounterRow::TABLE.name).or_default().insert(vec![Value::Int(1)], row);
        }
        self.notifier.publish(first, &merged.stream);
        Ok(Committed { first: StreamPosition(first.0.min(last.max(end))), last: StreamPosition(last) })
    }
}

fn counter(tables: &BTreeMap<&'static str, Rowset>) -> i64 {
    let row = tables.get(CounterRow::TABLE.name).and_then(|rows| rows.get(&vec![Value::Int(1)]));
    match row.and_then(|row| row.get(1)) {
        Some(Value::Int(pos)) => *pos,
        _ => 0,
    }
}

fn check_unique(table: &Table, stored: &Rowset, row: &[Value]) -> Result<(), Error> {
    let key = table.key_of(row);
    for index in table.indexes.iter().filter(|index| index.unique) {
        let columns: Vec<usize> = index.columns.iter().filter_map(|name| table.column(name)).collect();
        let of = |row: &[Value]| columns.iter().map(|column| row.get(*column).cloned()).collect::<Vec<_>>();
        let wanted = of(row);
        if wanted.contains(&Some(Value::Null)) {
            continue;
        }
        if stored.iter().any(|(other, values)| *other != key && of(values) == wanted) {
            return Err(Error::Engine(format!("unique index {} of {} is violated", index.name, table.name)));
        }
    }
    Ok(())
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
        let tables = self.tables.lock();
        let empty = Rowset::new();
        Ok(reads
            .iter()
            .map(|read| {
                let stored = tables.get(read.table.name).unwrap_or(&empty);
                if read.index.is_none() && read.prefix.len() == read.table.key {
                    return Rows(stored.get(&read.prefix).cloned().into_iter().collect());
                }
                Rows(select(read, stored.values()))
            })
            .collect())
    }

    fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    async fn import(&self, table: &'static Table, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        let mut tables = self.tables.lock();
        let stored = tables.entry(table.name).or_default();
        for row in rows {
            stored.insert(table.key_of(&row), row);
        }
        Ok(())
    }

    async fn close(&self) {}
}

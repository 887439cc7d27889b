//! Random batches and reads over the declared tables, from small sets of values so that keys, checks and unique values
//! meet often.

use std::collections::Bound;

use super::rng::Rng;
use super::{Failure, Harness, Pair, Size};
use crate::tables::core::{CounterRow, MetaRow, StreamRow, WriterRow};
use crate::{
    Check, Column, ColumnType, CommitBatch, CommitError, Engine, Expect, Index, LIMIT_MAX, Read, RoomNum, Row,
    StreamEntry, StreamKind, StreamPosition, Table, UserId, Value, Write,
};

/// Tables of one run: few, so that rows meet.
const TABLES_PER_RUN: usize = 5;
/// Every so many rounds the database is opened again.
const ROUNDS_PER_OPENING: usize = 5;

pub(super) async fn run(harness: &dyn Harness, seed: u64, size: &Size) -> Result<(), Failure> {
    let mut rng = Rng::new(seed);
    let tables = pick_tables(&mut rng);
    let mut pair = Pair::fresh(harness).await;
    for round in 1..=size.rounds {
        let known = pair.model.notifier().watermark();
        let mut submitted = Vec::new();
        for _ in 0..size.batches {
            let batch = Draw { rng: &mut rng, tables: &tables, pair: &pair, known, announced: 0 }.batch();
            let last = pair.submit(batch).await;
            let refused = matches!(last.wanted, Err(CommitError::Store(_)));
            submitted.push(last);
            // Had a later batch of the group taken the other row away, the engine might have let it pass.
            if refused {
                break;
            }
        }
        for submitted in submitted {
            pair.settle(submitted).await.map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        }
        for _ in 0..size.reads {
            let known = pair.model.notifier().watermark();
            let mut draw = Draw { rng: &mut rng, tables: &tables, pair: &pair, known, announced: 0 };
            let reads = (0..=draw.rng.below(4)).map(|_| draw.read()).collect();
            pair.compare(reads).await.map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        }
        pair.compare_all(&tables).await?;
        if round % ROUNDS_PER_OPENING == 0 {
            let crash = rng.chance(50);
            let reopened = pair.reopen(harness, crash, &tables).await;
            reopened.map_err(|failure| Failure(format!("round {round}, crash {crash}: {failure}")))?;
        }
    }
    pair.engine.close().await;
    Ok(())
}

/// Some tables, but none that engines write into on their own.
fn pick_tables(rng: &mut Rng) -> Vec<&'static Table> {
    let own = [CounterRow::TABLE, StreamRow::TABLE, WriterRow::TABLE, MetaRow::TABLE];
    let mut all: Vec<_> = crate::tables::all().into_iter().filter(|table| !own.contains(table)).collect();
    let mut picked = Vec::new();
    while picked.len() < TABLES_PER_RUN && !all.is_empty() {
        picked.push(all.swap_remove(rng.below(all.len())));
    }
    picked
}

/// What random things are drawn from.
struct Draw<'a> {
    rng: &'a mut Rng,
    tables: &'a [&'static Table],
    pair: &'a Pair,
    /// The last position that a submitter can know.
    known: StreamPosition,
    /// Stream entries of the batch being drawn.
    announced: usize,
}

impl Draw<'_> {
    fn batch(mut self) -> CommitBatch {
        let mut batch = CommitBatch::new();
        self.announced = if self.rng.chance(70) { 1 + self.rng.below(3) } else { 0 };
        batch.stream = (0..self.announced).map(|_| self.entry()).collect();
        for _ in 0..self.rng.below(4) {
            if let Some(check) = self.check() {
                batch.checks.push(check);
            }
        }
        for _ in 0..self.rng.below(5) {
            self.write(&mut batch.writes);
        }
        batch
    }

    fn table(&mut self) -> &'static Table {
        self.rng.pick(self.tables).copied().unwrap_or(MetaRow::TABLE)
    }

    fn entry(&mut self) -> StreamEntry {
        let number = i64::try_from(1 + self.rng.below(15)).unwrap_or(1);
        StreamEntry {
            kind: StreamKind::from_number(number).unwrap_or(StreamKind::Event),
            room: self.rng.chance(60).then_some(RoomNum(number)),
            user: self.rng.chance(40).then(|| UserId::from("@a:b")),
            number: self.rng.chance(50).then_some(i64::MIN + number),
        }
    }

    /// A stored row of which a submitter can know, if there is one.
    fn stored(&mut self, table: &'static Table) -> Option<Vec<Value>> {
        let known = self.known.0;
        let rows: Vec<_> = self.pair.model.rows(table).into_iter().filter(|row| knowable(table, row, known)).collect();
        self.rng.pick(&rows).cloned()
    }

    fn key(&mut self, table: &'static Table) -> Vec<Value> {
        let stored = if self.rng.chance(70) { self.stored(table) } else { None };
        match stored {
            Some(row) => table.key_of(&row),
            None => table.columns.iter().take(table.key).map(|column| self.literal(column)).collect(),
        }
    }

    fn check(&mut self) -> Option<Check> {
        let table = self.table();
        let key = self.key(table);
        let row = self.pair.model.rows(table).into_iter().find(|row| row.starts_with(&key));
        let truthful = self.rng.chance(85);
        let expect = match (row, self.rng.below(3)) {
            (Some(_), 0) if truthful => Expect::Present,
            (None, _) if truthful => Expect::Absent,
            (Some(row), _) if truthful => {
                let place = self.rng.below(table.columns.len());
                let (column, value) = (table.columns.get(place)?, row.get(place)?.clone());
                // A position that this group gives has no number yet that could be compared.
                knowable_value(column, &value, self.known.0).then_some(Expect::Equals(column.name, value))?
            }
            (_, 0) => Expect::Absent,
            (_, 1) => Expect::Present,
            _ => {
                let column = table.columns.get(self.rng.below(table.columns.len()))?;
                Expect::Equals(column.name, self.literal(column))
            }
        };
        Some(Check { table, key, expect })
    }

    fn write(&mut self, writes: &mut Vec<Write>) {
        let table = self.table();
        match self.rng.below(10) {
            0..=6 => {
                let row = self.row(table);
                let again = self.rng.chance(10);
                if again {
                    // One row twice in a batch, or put and deleted at once.
                    let delete = Write::Delete { table, key: table.key_of(&row) };
                    writes.push(Write::Put { table, row: row.clone() });
                    writes.push(delete);
                }
                if !again || self.rng.chance(50) {
                    writes.push(Write::Put { table, row });
                }
            }
            7 | 8 => {
                let key = self.key(table);
                writes.push(Write::Delete { table, key });
            }
            _ => {
                let mut prefix = self.key(table);
                prefix.truncate(1 + self.rng.below(table.key));
                let next = table.columns.get(prefix.len()).filter(|_| prefix.len() < table.key);
                let (lower, upper) = (self.bound(next), self.bound(next));
                writes.push(Write::DeleteRange { table, prefix, lower, upper });
            }
        }
    }

    /// A new row, or a stored one with some columns changed.
    fn row(&mut self, table: &'static Table) -> Vec<Value> {
        let stored = if self.rng.chance(50) { self.stored(table) } else { None };
        let fresh: Vec<Value> = table.columns.iter().map(|column| self.value(column)).collect();
        match stored {
            None => fresh,
            Some(row) => {
                let keep = |place: usize, rng: &mut Rng| place < table.key || rng.chance(70);
                row.into_iter()
                    .zip(fresh)
                    .enumerate()
                    .map(|(place, (old, new))| if keep(place, self.rng) { old } else { new })
                    .collect()
            }
        }
    }

    fn read(&mut self) -> Read {
        let table = if self.rng.chance(90) { self.table() } else { StreamRow::TABLE };
        let index = if self.rng.chance(50) { self.rng.pick(table.indexes).copied() } else { None };
        let order = table.order(index);
        let from = if self.rng.chance(80) { self.stored(table) } else { None };
        let length = self.rng.below(order.len() + 1);
        let column = |place: &usize| table.columns.get(*place);
        let prefix = order
            .iter()
            .take(length)
            .filter_map(|place| match &from {
                Some(row) => row.get(*place).cloned(),
                None => column(place).map(|column| self.literal(column)),
            })
            .collect();
        let next = order.get(length).and_then(column);
        let (lower, upper) = (self.bound(next), self.bound(next));
        let limit = [LIMIT_MAX, LIMIT_MAX, 0, 1, 2, 3, 7].get(self.rng.below(7)).copied().unwrap_or(1);
        Read {
            table,
            index: index as Option<&'static Index>,
            prefix,
            lower,
            upper,
            reverse: self.rng.chance(50),
            limit,
        }
    }

    fn bound(&mut self, column: Option<&Column>) -> Bound<Value> {
        let Some(column) = column else { return Bound::Unbounded };
        let value = match self.literal(column) {
            Value::Null => return Bound::Unbounded,
            value => value,
        };
        match self.rng.below(3) {
            0 => Bound::Included(value),
            1 => Bound::Excluded(value),
            _ => Bound::Unbounded,
        }
    }

    /// A value to write: in a column of positions often one that is yet to be given.
    fn value(&mut self, column: &Column) -> Value {
        if column.column_type == ColumnType::Position && self.announced > 0 && self.rng.chance(60) {
            return StreamPosition::pending(self.rng.below(self.announced)).into();
        }
        self.literal(column)
    }

    fn literal(&mut self, column: &Column) -> Value {
        if column.nullable && self.rng.chance(25) {
            return Value::Null;
        }
        let rare = self.rng.chance(20);
        match column.column_type {
            ColumnType::Int if rare => {
                Value::Int(self.rng.pick(&[i64::MIN, i64::MAX, -1, i64::MIN + 1, 1 << 53]).copied().unwrap_or(0))
            }
            ColumnType::Int => Value::Int(i64::try_from(self.rng.below(4)).unwrap_or(0)),
            ColumnType::Position if rare => Value::Int(i64::MAX),
            ColumnType::Position => {
                let end = usize::try_from(self.known.0.min(6)).unwrap_or(0) + 1;
                Value::Int(i64::try_from(self.rng.below(end)).unwrap_or(0))
            }
            ColumnType::Text => {
                const RARE: [&str; 7] = ["", "a\0", "a\0b", "é", "\u{FFFD}", "𝄞", "\u{10FFFF}"];
                let from: &[&str] = if rare { &RARE } else { &["a", "b", "B", "ab"] };
                Value::from(self.rng.pick(from).copied().unwrap_or(""))
            }
            ColumnType::Blob if rare => Value::Blob(vec![0xFF; self.rng.below(6_000)]),
            ColumnType::Blob => {
                let from: [&[u8]; 4] = [&[], &[0], &[0, 0], &[0x61]];
                Value::Blob(self.rng.pick(&from).map(|bytes| bytes.to_vec()).unwrap_or_default())
            }
        }
    }
}

/// Whether a submitter can know the row's key: no position in it was given since it last looked.
fn knowable(table: &Table, row: &[Value], known: i64) -> bool {
    table.columns.iter().take(table.key).zip(row).all(|(column, value)| knowable_value(column, value, known))
}

fn knowable_value(column: &Column, value: &Value, known: i64) -> bool {
    match value {
        Value::Int(number) if column.column_type == ColumnType::Position => *number <= known || *number == i64::MAX,
        _ => true,
    }
}

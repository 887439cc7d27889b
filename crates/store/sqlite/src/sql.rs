//! The SQL that the table declarations yield, and the statements that a connection keeps prepared.

use std::collections::{Bound, HashMap};
use std::fmt::Write as _;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, ToSql};
use store::{ColumnType, Error, Read, Table, Value, merge::KeyRange};

use crate::errors;

/// Statements that one connection keeps prepared. When there are more, it starts anew: shapes are few in practice.
pub(crate) const STATEMENTS_MAX: usize = 1_000;

/// `CREATE TABLE` for a table.
pub(crate) fn create_table(table: &Table) -> String {
    let rowid = has_rowid(table);
    let mut columns = Vec::new();
    for (place, column) in table.columns.iter().enumerate() {
        let key = if rowid && place == 0 { " PRIMARY KEY" } else { "" };
        let null = if column.nullable { "" } else { " NOT NULL" };
        columns.push(format!("\"{}\" {}{null}{key}", column.name, type_name(column.column_type)));
    }
    // A single integer is its own row number; every other key would cost a second tree beside the rows'.
    let (key, without) =
        if rowid { (String::new(), "") } else { (format!(", PRIMARY KEY ({})", key_list(table)), ", WITHOUT ROWID") };
    format!("CREATE TABLE IF NOT EXISTS \"{}\" ({}{key}) STRICT{without}", table.name, columns.join(", "))
}

/// `CREATE INDEX` for each index of a table. SQLite appends the primary key to every index by itself.
pub(crate) fn create_indexes(table: &Table) -> Vec<String> {
    table
        .indexes
        .iter()
        .map(|index| {
            let unique = if index.unique { "UNIQUE " } else { "" };
            let columns = list(index.columns.iter().copied());
            let name = index_name(table.name, index.name);
            format!("CREATE {unique}INDEX IF NOT EXISTS \"{name}\" ON \"{}\" ({columns})", table.name)
        })
        .collect()
}

/// A column's type in SQL.
pub(crate) fn type_name(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Int | ColumnType::Position => "INTEGER",
        ColumnType::Text => "TEXT",
        ColumnType::Blob => "BLOB",
    }
}

fn has_rowid(table: &Table) -> bool {
    table.key == 1 && table.columns.first().is_some_and(|key| type_name(key.column_type) == "INTEGER")
}

fn index_name(table: &str, index: &str) -> String {
    format!("{table}_{}", index.to_lowercase())
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn key_list(table: &Table) -> String {
    list(table.key_columns())
}

fn upsert(table: &Table) -> String {
    let marks = vec!["?"; table.columns.len()].join(", ");
    let columns = list(table.columns.iter().map(|column| column.name));
    let set: Vec<String> =
        table.columns.iter().skip(table.key).map(|column| format!("\"{0}\" = excluded.\"{0}\"", column.name)).collect();
    let action = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
    format!("INSERT INTO \"{}\" ({columns}) VALUES ({marks}) ON CONFLICT ({}) DO {action}", table.name, key_list(table))
}

/// Changes a row without touching the columns of indexes, so that their pages need not be written.
fn update(table: &Table) -> String {
    let set: Vec<String> = unindexed(table).map(|(_, name)| format!("\"{name}\" = ?")).collect();
    let key: Vec<String> = table.key_columns().map(|name| format!("\"{name}\" = ?")).collect();
    format!("UPDATE \"{}\" SET {} WHERE {}", table.name, set.join(", "), key.join(" AND "))
}

/// Places and names of the columns that stand neither in the key nor in an index.
fn unindexed(table: &Table) -> impl Iterator<Item = (usize, &'static str)> {
    let indexed = |name: &str| table.indexes.iter().any(|index| index.columns.contains(&name));
    let columns = table.columns.iter().enumerate().skip(table.key);
    columns.map(|(place, column)| (place, column.name)).filter(move |(_, name)| !indexed(name))
}

/// Whether the new form of a row differs from the stored one outside key and indexes only, and in anything at all that
/// [`Statements::update`] could set.
fn keeps_indexes(table: &Table, old: &[Value], new: &[Value]) -> bool {
    let free: Vec<usize> = unindexed(table).map(|(place, _)| place).collect();
    let same = |place: &usize| free.contains(place) || old.get(*place) == new.get(*place);
    !free.is_empty() && !table.indexes.is_empty() && (0..table.columns.len()).all(|place| same(&place))
}

fn delete(table: &Table) -> String {
    let key: Vec<String> = table.key_columns().map(|name| format!("\"{name}\" = ?")).collect();
    format!("DELETE FROM \"{}\" WHERE {}", table.name, key.join(" AND "))
}

/// One side of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Edge {
    Open,
    Included,
    Excluded,
}

impl Edge {
    fn of(bound: &Bound<Value>) -> Self {
        match bound {
            Bound::Unbounded | Bound::Included(Value::Null) | Bound::Excluded(Value::Null) => Self::Open,
            Bound::Included(_) => Self::Included,
            Bound::Excluded(_) => Self::Excluded,
        }
    }
}

/// What the text of a statement depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shape {
    Upsert(&'static str),
    Update(&'static str),
    Delete(&'static str),
    DeleteRange { table: &'static str, prefix: usize, lower: Edge, upper: Edge },
    Select(Select),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Select {
    table: &'static str,
    index: Option<&'static str>,
    prefix: usize,
    /// Bit k: the k-th value of the prefix is NULL.
    nulls: u64,
    lower: Edge,
    upper: Edge,
    reverse: bool,
}

impl Select {
    fn of(read: &Read) -> Self {
        let whole = read.prefix.len() >= read.table.order(read.index).len();
        let edge = |bound| if whole { Edge::Open } else { Edge::of(bound) };
        let nulls = read.prefix.iter().enumerate().filter(|(_, value)| **value == Value::Null);
        Self {
            table: read.table.name,
            index: read.index.map(|index| index.name),
            prefix: read.prefix.len(),
            nulls: nulls.fold(0, |bits, (place, _)| bits | 1 << place),
            lower: edge(&read.lower),
            upper: edge(&read.upper),
            reverse: read.reverse,
        }
    }

    fn text(&self, read: &Read) -> String {
        let order = read.table.order(read.index);
        let name = |place: &usize| read.table.columns.get(*place).map_or("", |column| column.name);
        let mut conditions = Vec::new();
        for (place, column) in order.iter().take(self.prefix).enumerate() {
            let test = if self.nulls & (1 << place) == 0 { "= ?" } else { "IS NULL" };
            conditions.push(format!("\"{}\" {test}", name(column)));
        }
        if let Some(next) = order.get(self.prefix) {
            conditions.extend(edges(name(next), self.lower, self.upper));
            let nullable = read.table.columns.get(*next).is_some_and(|column| column.nullable);
            if nullable && self.lower == Edge::Open && self.upper == Edge::Open {
                conditions.push(format!("\"{}\" IS NOT NULL", name(next)));
            }
        }
        let mut text = format!("SELECT {} FROM \"{}\"", list(read.table.columns.iter().map(|c| c.name)), self.table);
        if let Some(index) = self.index {
            // The declared index is the one that was meant; SQLite has no statistics to know better.
            write!(text, " INDEXED BY \"{}\"", index_name(self.table, index)).unwrap_or_default();
        }
        if !conditions.is_empty() {
            write!(text, " WHERE {}", conditions.join(" AND ")).unwrap_or_default();
        }
        let direction = if self.reverse { " DESC" } else { "" };
        let order: Vec<String> =
            order.iter().skip(self.prefix).map(|place| format!("\"{}\"{direction}", name(place))).collect();
        if !order.is_empty() {
            write!(text, " ORDER BY {}", order.join(", ")).unwrap_or_default();
        }
        text + " LIMIT ?"
    }
}

impl Select {
    fn run(&self, statement: &mut Statement<'_>, read: &Read) -> Result<Vec<Vec<Value>>, Error> {
        let bounded = read.prefix.len() < read.table.order(read.index).len();
        if bounded && matches!(&read.upper, Bound::Included(Value::Null) | Bound::Excluded(Value::Null)) {
            return Ok(Vec::new());
        }
        let values = read
            .prefix
            .iter()
            .filter(|value| **value != Value::Null)
            .chain(bound_value(self.lower, &read.lower))
            .chain(bound_value(self.upper, &read.upper));
        let mut place = 1;
        for value in values {
            statement.raw_bind_parameter(place, Bind(value)).map_err(errors::engine)?;
            place += 1;
        }
        statement.raw_bind_parameter(place, i64::from(read.limit)).map_err(errors::engine)?;
        let mut found = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(errors::engine)? {
            found.push(values_of(read.table, row)?);
        }
        Ok(found)
    }
}

/// The texts of reads, for a connection that cannot be borrowed for long: it keeps its statements by their texts.
#[derive(Default)]
pub(crate) struct Texts(HashMap<Select, String>);

impl Texts {
    /// The rows that a read asks for.
    pub(crate) fn select(&mut self, connection: &Connection, read: &Read) -> Result<Vec<Vec<Value>>, Error> {
        let shape = Select::of(read);
        if self.0.len() >= STATEMENTS_MAX && !self.0.contains_key(&shape) {
            self.0.clear();
        }
        let text = self.0.entry(shape.clone()).or_insert_with(|| shape.text(read));
        let mut statement = connection.prepare_cached(text).map_err(errors::engine)?;
        shape.run(&mut statement, read)
    }
}

/// The SQL of a read.
pub(crate) fn text_of(read: &Read) -> String {
    Select::of(read).text(read)
}

fn edges(column: &str, lower: Edge, upper: Edge) -> impl Iterator<Item = String> {
    let lower = match lower {
        Edge::Open => None,
        Edge::Included => Some(format!("\"{column}\" >= ?")),
        Edge::Excluded => Some(format!("\"{column}\" > ?")),
    };
    let upper = match upper {
        Edge::Open => None,
        Edge::Included => Some(format!("\"{column}\" <= ?")),
        Edge::Excluded => Some(format!("\"{column}\" < ?")),
    };
    lower.into_iter().chain(upper)
}

fn delete_range(range: &KeyRange, lower: Edge, upper: Edge) -> String {
    let mut conditions: Vec<String> =
        range.table.key_columns().take(range.prefix.len()).map(|name| format!("\"{name}\" = ?")).collect();
    if let Some(next) = range.table.key_columns().nth(range.prefix.len()) {
        conditions.extend(edges(next, lower, upper));
    }
    let mut text = format!("DELETE FROM \"{}\"", range.table.name);
    if !conditions.is_empty() {
        write!(text, " WHERE {}", conditions.join(" AND ")).unwrap_or_default();
    }
    text
}

/// A value on its way into a statement.
struct Bind<'a>(&'a Value);

impl ToSql for Bind<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The statements of one connection.
pub(crate) struct Statements<'c> {
    connection: &'c Connection,
    prepared: HashMap<Shape, Statement<'c>>,
}

impl<'c> Statements<'c> {
    pub(crate) fn new(connection: &'c Connection) -> Self {
        Self { connection, prepared: HashMap::new() }
    }

    fn get(&mut self, shape: Shape, text: impl FnOnce() -> String) -> rusqlite::Result<&mut Statement<'c>> {
        if self.prepared.len() >= STATEMENTS_MAX && !self.prepared.contains_key(&shape) {
            self.prepared.clear();
        }
        Ok(match self.prepared.entry(shape) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.connection.prepare(&text())?),
        })
    }

    /// Inserts the row, or replaces the one of equal key. Another row that agrees in a unique index is an error.
    pub(crate) fn upsert(&mut self, table: &'static Table, row: &[Value]) -> rusqlite::Result<()> {
        execute(self.get(Shape::Upsert(table.name), || upsert(table))?, row.iter())
    }

    /// Replaces a row that is known to be stored as `old`.
    pub(crate) fn replace(&mut self, table: &'static Table, old: &[Value], row: &[Value]) -> rusqlite::Result<()> {
        if !keeps_indexes(table, old, row) {
            return self.upsert(table, row);
        }
        let statement = self.get(Shape::Update(table.name), || update(table))?;
        let set = unindexed(table).filter_map(|(place, _)| row.get(place));
        execute(statement, set.chain(row.iter().take(table.key)))
    }

    pub(crate) fn delete(&mut self, table: &'static Table, key: &[Value]) -> rusqlite::Result<()> {
        execute(self.get(Shape::Delete(table.name), || delete(table))?, key.iter())
    }

    pub(crate) fn delete_range(&mut self, range: &KeyRange) -> rusqlite::Result<()> {
        let bounded = range.prefix.len() < range.table.key;
        let edge = |bound| if bounded { Edge::of(bound) } else { Edge::Open };
        let (lower, upper) = (edge(&range.lower), edge(&range.upper));
        let shape = Shape::DeleteRange { table: range.table.name, prefix: range.prefix.len(), lower, upper };
        let values =
            range.prefix.iter().chain(bound_value(lower, &range.lower)).chain(bound_value(upper, &range.upper));
        execute(self.get(shape, || delete_range(range, lower, upper))?, values)
    }

    /// The rows that a read asks for.
    pub(crate) fn select(&mut self, read: &Read) -> Result<Vec<Vec<Value>>, Error> {
        let shape = Select::of(read);
        let text_shape = shape.clone();
        let statement = self.get(Shape::Select(shape.clone()), || text_shape.text(read)).map_err(errors::engine)?;
        shape.run(statement, read)
    }

    /// The row with this primary key.
    pub(crate) fn row(&mut self, table: &'static Table, key: Vec<Value>) -> Result<Option<Vec<Value>>, Error> {
        let read = Read {
            table,
            index: None,
            prefix: key,
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
            reverse: false,
            limit: 1,
        };
        Ok(self.select(&read)?.into_iter().next())
    }
}

fn bound_value(edge: Edge, bound: &Bound<Value>) -> Option<&Value> {
    match bound {
        Bound::Included(value) | Bound::Excluded(value) if edge != Edge::Open => Some(value),
        _ => None,
    }
}

fn execute<'a>(statement: &mut Statement<'_>, values: impl Iterator<Item = &'a Value>) -> rusqlite::Result<()> {
    for (place, value) in values.enumerate() {
        statement.raw_bind_parameter(place + 1, Bind(value))?;
    }
    statement.raw_execute()?;
    // Else the statement keeps a copy of the last row's bytes.
    statement.clear_bindings();
    Ok(())
}

fn values_of(table: &'static Table, row: &rusqlite::Row<'_>) -> Result<Vec<Value>, Error> {
    let mut values = Vec::with_capacity(table.columns.len());
    for (place, column) in table.columns.iter().enumerate() {
        values.push(match row.get_ref(place).map_err(errors::engine)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Int(number),
            ValueRef::Text(text) => Value::Text(
                std::str::from_utf8(text)
                    .map_err(|error| Error::Corrupt { table: table.name, detail: format!("{}: {error}", column.name) })?
                    .to_owned(),
            ),
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            ValueRef::Real(_) => {
                let detail = format!("column {} holds a fraction", column.name);
                return Err(Error::Corrupt { table: table.name, detail });
            }
        });
    }
    Ok(values)
}

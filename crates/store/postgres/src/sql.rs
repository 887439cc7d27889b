//! The texts of all statements on declared tables, made from the declarations.

use std::collections::Bound;
use std::fmt::Write as _;

use store::merge::KeyRange;
use store::{Column, ColumnType, Read, Table, Value};

use crate::params::Param;

/// A name in SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The SQL type of a column.
pub fn type_of(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Int | ColumnType::Position => "bigint",
        ColumnType::Text => "text",
        ColumnType::Blob => "bytea",
    }
}

fn listed<T>(items: impl IntoIterator<Item = T>, separator: &str, mut text: impl FnMut(usize, T) -> String) -> String {
    let texts: Vec<String> = items.into_iter().enumerate().map(|(place, item)| text(place, item)).collect();
    texts.join(separator)
}

/// `"a", "b"`, each with `before` in front.
fn names<'a>(columns: impl IntoIterator<Item = &'a Column>, before: &str) -> String {
    listed(columns, ", ", |_, column| format!("{before}{}", quoted(column.name)))
}

/// `unnest($1::bigint[], …)` over the first `width` columns; the first parameter is `$1`.
fn unnest(table: &Table, width: usize) -> String {
    let arrays = listed(table.columns.iter().take(width), ", ", |place, column| {
        format!("${}::{}[]", place + 1, type_of(column.column_type))
    });
    format!("unnest({arrays})")
}

/// `k(c0, c1, …)`.
fn alias(name: &str, width: usize) -> String {
    format!("{name}({})", listed(0..width, ", ", |_, place| format!("c{place}")))
}

fn key_equals(table: &Table) -> String {
    let name = quoted(table.name);
    listed(table.columns.iter().take(table.key), " AND ", |place, column| {
        format!("{name}.{} = k.c{place}", quoted(column.name))
    })
}

/// Locks and returns the rows with the given keys (one array per key column), in key order.
pub fn lock(table: &Table) -> String {
    lock_and(table, &names(table.columns, &format!("{}.", quoted(table.name))))
}

/// Locks the rows with the given keys (one array per key column), in key order.
pub fn hold(table: &Table) -> String {
    lock_and(table, "1")
}

fn lock_and(table: &Table, answer: &str) -> String {
    let name = quoted(table.name);
    let before = format!("{name}.");
    format!(
        "SELECT {answer} FROM {name} JOIN {} AS {} ON {} ORDER BY {} FOR UPDATE OF {name}",
        unnest(table, table.key),
        alias("k", table.key),
        key_equals(table),
        names(table.columns.iter().take(table.key), &before),
    )
}

/// Deletes the rows with the given keys (one array per key column).
pub fn delete(table: &Table) -> String {
    format!(
        "DELETE FROM {} USING {} AS {} WHERE {}",
        quoted(table.name),
        unnest(table, table.key),
        alias("k", table.key),
        key_equals(table)
    )
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Insertion {
    /// The rows are new; one of equal key is a violation of the primary key.
    Fresh,
    /// Rows of equal key are replaced.
    Replace,
}

/// Writes whole rows (one array per column). With `placed`, placeholders of positions are replaced: the last parameter is
/// the number of the transaction's stream entries, and the counter stands at the last of them.
pub fn insert(table: &Table, insertion: Insertion, placed: bool) -> String {
    let width = table.columns.len();
    let mut sql = format!("INSERT INTO {} ({}) ", quoted(table.name), names(table.columns, ""));
    if placed {
        let columns = listed(table.columns, ", ", |place, column| match column.column_type {
            ColumnType::Position => format!("CASE WHEN u.c{place} < 0 THEN f.pos - u.c{place} ELSE u.c{place} END"),
            _ => format!("u.c{place}"),
        });
        // Entry k of n is `-(k + 1)` and gets `pos - n + 1 + k`, where `pos` is that of the last entry.
        let ends = format!("(SELECT pos - ${}::bigint AS pos FROM counter WHERE id = 1) AS f", width + 1);
        write_to(&mut sql, &format!("SELECT {columns} FROM {} AS {}, {ends}", unnest(table, width), alias("u", width)));
    } else {
        write_to(&mut sql, &format!("SELECT * FROM {}", unnest(table, width)));
    }
    if insertion == Insertion::Replace {
        let key = names(table.columns.iter().take(table.key), "");
        let others = table.columns.get(table.key..).unwrap_or_default();
        let set = listed(others, ", ", |_, column| format!("{0} = excluded.{0}", quoted(column.name)));
        let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {set}") };
        write_to(&mut sql, &format!(" ON CONFLICT ({key}) DO {action}"));
    }
    sql
}

/// Writing to a `String` cannot fail.
fn write_to(sql: &mut String, text: &str) {
    sql.push_str(text);
}

/// The deletion of a range of keys and its parameters.
pub fn delete_range(range: &KeyRange) -> (String, Vec<Param<'_>>) {
    let order: Vec<usize> = (0..range.table.key).collect();
    let mut conditions = Conditions::new(range.table, Style::Single);
    conditions.add_prefix(&order, &range.prefix);
    conditions.add_bounds(&order, range.prefix.len(), &range.lower, &range.upper);
    let sql = format!("DELETE FROM {}{}", quoted(range.table.name), conditions.where_clause());
    (sql, conditions.params)
}

/// How a read names its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `$1`, `$2`, …
    Single,
    /// `k.c0`, `k.c1`, …: columns of the rows of `k`, one per merged read.
    Merged,
}

struct Conditions<'a> {
    table: &'static Table,
    style: Style,
    texts: Vec<String>,
    params: Vec<Param<'a>>,
    types: Vec<ColumnType>,
}

impl<'a> Conditions<'a> {
    fn new(table: &'static Table, style: Style) -> Self {
        Self { table, style, texts: Vec::new(), params: Vec::new(), types: Vec::new() }
    }

    fn value(&mut self, value: &'a Value, column_type: ColumnType) -> String {
        let place = self.types.len();
        self.types.push(column_type);
        match self.style {
            Style::Single => {
                self.params.push(Param::one(value, column_type));
                format!("${}::{}", place + 1, type_of(column_type))
            }
            Style::Merged => format!("k.c{place}"),
        }
    }

    fn add_prefix(&mut self, order: &[usize], prefix: &'a [Value]) {
        for (place, value) in order.iter().zip(prefix) {
            let Some(column) = self.table.columns.get(*place) else { continue };
            let text = match value {
                Value::Null => format!("{} IS NULL", quoted(column.name)),
                value => format!("{} = {}", quoted(column.name), self.value(value, column.column_type)),
            };
            self.texts.push(text);
        }
    }

    fn add_bounds(&mut self, order: &[usize], place: usize, lower: &'a Bound<Value>, upper: &'a Bound<Value>) {
        let Some(column) = order.get(place).and_then(|place| self.table.columns.get(*place)) else { return };
        let name = quoted(column.name);
        // NULL is less than every value, and no row with NULL in this column is wanted.
        match lower {
            Bound::Included(value) if *value != Value::Null => {
                let value = self.value(value, column.column_type);
                self.texts.push(format!("{name} >= {value}"));
            }
            Bound::Excluded(value) if *value != Value::Null => {
                let value = self.value(value, column.column_type);
                self.texts.push(format!("{name} > {value}"));
            }
            _ if column.nullable => self.texts.push(format!("{name} IS NOT NULL")),
            _ => {}
        }
        match upper {
            Bound::Unbounded => {}
            Bound::Included(Value::Null) | Bound::Excluded(Value::Null) => self.texts.push("FALSE".to_owned()),
            Bound::Included(value) => {
                let value = self.value(value, column.column_type);
                self.texts.push(format!("{name} <= {value}"));
            }
            Bound::Excluded(value) => {
                let value = self.value(value, column.column_type);
                self.texts.push(format!("{name} < {value}"));
            }
        }
    }

    fn where_clause(&self) -> String {
        if self.texts.is_empty() { String::new() } else { format!(" WHERE {}", self.texts.join(" AND ")) }
    }
}

/// `ORDER BY` of the columns after the prefix, whose own are constant.
fn order_by(read: &Read, order: &[usize]) -> String {
    let rest = order.get(read.prefix.len()..).unwrap_or_default();
    if rest.is_empty() {
        return String::new();
    }
    let columns = rest.iter().filter_map(|place| read.table.columns.get(*place));
    let direction = |column: &Column| match (read.reverse, column.nullable) {
        (false, false) => "",
        (false, true) => " NULLS FIRST",
        (true, false) => " DESC",
        (true, true) => " DESC NULLS LAST",
    };
    let terms = listed(columns, ", ", |_, column| format!("{}{}", quoted(column.name), direction(column)));
    format!(" ORDER BY {terms}")
}

/// One read as one statement.
pub fn select(read: &Read) -> (String, Vec<Param<'_>>) {
    let (sql, mut conditions) = select_styled(read, Style::Single);
    let limit = format!(" LIMIT ${}::bigint", conditions.types.len() + 1);
    conditions.params.push(Param::Int(Some(i64::from(read.limit))));
    (sql + &limit, conditions.params)
}

/// All of a read but its values: reads of equal shape have the same text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    table: &'static str,
    index: Option<&'static str>,
    /// Which values of the prefix are NULL.
    prefix: Vec<bool>,
    bounds: [u8; 2],
    reverse: bool,
}

/// The shape of a read.
pub fn shape(read: &Read) -> Shape {
    let bound = |bound: &Bound<Value>| match bound {
        Bound::Unbounded => 0,
        Bound::Included(Value::Null) => 1,
        Bound::Excluded(Value::Null) => 2,
        Bound::Included(_) => 3,
        Bound::Excluded(_) => 4,
    };
    Shape {
        table: read.table.name,
        index: read.index.map(|index| index.name),
        prefix: read.prefix.iter().map(|value| *value == Value::Null).collect(),
        bounds: [bound(&read.lower), bound(&read.upper)],
        reverse: read.reverse,
    }
}

/// The values of a read for which its text has places, in their order: NULL and bounds without a column have none.
fn values(read: &Read, places: usize) -> impl Iterator<Item = &Value> {
    let bounds = [&read.lower, &read.upper].into_iter().filter_map(|bound| match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value),
        Bound::Unbounded => None,
    });
    read.prefix.iter().chain(bounds).filter(|value| **value != Value::Null).take(places)
}

/// Reads of one shape as one statement: the first column of its answer is the place of the read among `reads`, from 1;
/// the rows of each read come in its order.
pub fn select_merged<'a>(reads: &[&'a Read]) -> (String, Vec<Param<'a>>) {
    let (sql, types) = reads
        .first()
        .map(|read| select_styled(read, Style::Merged))
        .map(|(sql, conditions)| (sql, conditions.types))
        .unwrap_or_default();
    let mut columns: Vec<Vec<&'a Value>> = vec![Vec::with_capacity(reads.len()); types.len()];
    for read in reads {
        for (column, value) in columns.iter_mut().zip(values(read, types.len())) {
            column.push(value);
        }
    }
    let mut params: Vec<Param<'a>> =
        columns.into_iter().zip(&types).map(|(column, of)| Param::column(column.into_iter(), *of)).collect();
    params.push(Param::Ints(reads.iter().map(|read| Some(i64::from(read.limit))).collect()));
    let mut arrays = listed(&types, ", ", |place, of| format!("${}::{}[]", place + 1, type_of(*of)));
    let mut of_k = listed(0..types.len(), ", ", |_, place| format!("c{place}"));
    for text in [&mut arrays, &mut of_k] {
        if !text.is_empty() {
            text.push_str(", ");
        }
    }
    // A String takes all that is written to it.
    let _infallible = write!(arrays, "${}::bigint[]", types.len() + 1);
    let sql = format!(
        "SELECT k.place, t.* FROM unnest({arrays}) WITH ORDINALITY AS k({of_k}most, place) \
         CROSS JOIN LATERAL ({sql} LIMIT k.most) AS t"
    );
    (sql, params)
}

fn select_styled(read: &Read, style: Style) -> (String, Conditions<'_>) {
    let order = read.table.order(read.index);
    let mut conditions = Conditions::new(read.table, style);
    conditions.add_prefix(&order, &read.prefix);
    conditions.add_bounds(&order, read.prefix.len(), &read.lower, &read.upper);
    let sql = format!(
        "SELECT {} FROM {}{}{}",
        names(read.table.columns, ""),
        quoted(read.table.name),
        conditions.where_clause(),
        order_by(read, &order)
    );
    (sql, conditions)
}

/// The statements that create a table and its indexes, each with the name of what it creates.
pub fn create(table: &Table) -> Vec<(String, String)> {
    let columns = listed(table.columns, ", ", |place, column| {
        let of = match column.column_type {
            ColumnType::Text => "text COLLATE \"C\"",
            other => type_of(other),
        };
        let null = if column.nullable && place >= table.key { "" } else { " NOT NULL" };
        format!("{} {of}{null}", quoted(column.name))
    });
    let key = names(table.columns.iter().take(table.key), "");
    let statement = format!("CREATE TABLE {} ({columns}, PRIMARY KEY ({key}))", quoted(table.name));
    let mut statements = vec![(table.name.to_owned(), statement)];
    for index in table.indexes {
        // A unique index holds its own columns only; any other gives the whole order in which it is read.
        let order = table.order(Some(index));
        let count = if index.unique { index.columns.len() } else { order.len() };
        let columns = order.iter().take(count).filter_map(|place| table.columns.get(*place));
        let terms = listed(columns, ", ", |_, column| {
            format!("{}{}", quoted(column.name), if column.nullable { " NULLS FIRST" } else { "" })
        });
        let unique = if index.unique { "UNIQUE " } else { "" };
        let name = format!("{}_{}", table.name, index.name.to_lowercase());
        let statement = format!("CREATE {unique}INDEX {} ON {} ({terms})", quoted(&name), quoted(table.name));
        statements.push((name, statement));
    }
    statements
}

#[cfg(test)]
mod tests {
    use super::{Insertion, insert, lock, select, select_merged};
    use store::tables::core::{JobRow, StreamRow};
    use store::{Read, Row};

    #[test]
    fn a_read_along_an_index_names_its_order() {
        let read = Read::along::<JobRow>(JobRow::BY_DUE, vec![]).up_to(7_i64).limit(3);
        let (sql, params) = select(&read);
        assert!(
            sql.ends_with("WHERE \"due_ms\" <= $1::bigint ORDER BY \"due_ms\", \"kind\", \"name\" LIMIT $2::bigint"),
            "{sql}"
        );
        assert_eq!(params.len(), 2);
    }

    #[test]
    fn merged_reads_join_their_values() {
        let reads =
            [Read::get::<JobRow>(vec!["a".into(), "b".into()]), Read::get::<JobRow>(vec!["a".into(), "c".into()])];
        let (sql, params) = select_merged(&reads.iter().collect::<Vec<_>>());
        assert!(sql.contains("unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS k(c0, c1, most, place)"));
        assert!(sql.ends_with("WHERE \"kind\" = k.c0 AND \"name\" = k.c1 LIMIT k.most) AS t"), "{sql}");
        assert_eq!(params.len(), 3);
    }

    #[test]
    fn positions_are_placed_after_the_counter() {
        let sql = insert(StreamRow::TABLE, Insertion::Fresh, true);
        assert!(sql.contains("CASE WHEN u.c0 < 0 THEN f.pos - u.c0 ELSE u.c0 END, u.c1"), "{sql}");
        assert!(sql.ends_with("(SELECT pos - $6::bigint AS pos FROM counter WHERE id = 1) AS f"), "{sql}");
        assert!(lock(StreamRow::TABLE).ends_with("ORDER BY \"stream\".\"pos\" FOR UPDATE OF \"stream\""));
    }
}

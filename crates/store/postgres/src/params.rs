//! Values on their way to and from PostgreSQL: parameters, one per value or one array per column, and decoded rows.

use std::borrow::Cow;

use store::{ColumnType, Error, Table, Value};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::text;

/// A statement's parameter.
#[derive(Debug)]
pub enum Param<'a> {
    /// One integer.
    Int(Option<i64>),
    /// One text, escaped.
    Text(Option<Cow<'a, str>>),
    /// One byte string.
    Blob(Option<&'a [u8]>),
    /// A column of integers.
    Ints(Vec<Option<i64>>),
    /// A column of texts, escaped.
    Texts(Vec<Option<Cow<'a, str>>>),
    /// A column of byte strings.
    Blobs(Vec<Option<&'a [u8]>>),
}

impl<'a> Param<'a> {
    /// One value. NULL gets the type of the column that it stands for.
    pub fn one(value: &'a Value, column_type: ColumnType) -> Self {
        match (value, column_type) {
            (Value::Int(number), _) => Self::Int(Some(*number)),
            (Value::Text(content), _) => Self::Text(Some(text::encode(content))),
            (Value::Blob(bytes), _) => Self::Blob(Some(bytes)),
            (Value::Null, ColumnType::Int | ColumnType::Position) => Self::Int(None),
            (Value::Null, ColumnType::Text) => Self::Text(None),
            (Value::Null, ColumnType::Blob) => Self::Blob(None),
        }
    }

    /// An array of the values of one column. A value of another type than the column's counts as NULL; batches are
    /// checked against the declarations before they come here.
    pub fn column(values: impl Iterator<Item = &'a Value>, column_type: ColumnType) -> Self {
        match column_type {
            ColumnType::Int | ColumnType::Position => Self::Ints(
                values.map(|value| if let Value::Int(number) = value { Some(*number) } else { None }).collect(),
            ),
            ColumnType::Text => Self::Texts(
                values
                    .map(|value| if let Value::Text(content) = value { Some(text::encode(content)) } else { None })
                    .collect(),
            ),
            ColumnType::Blob => Self::Blobs(
                values
                    .map(|value| if let Value::Blob(bytes) = value { Some(bytes.as_slice()) } else { None })
                    .collect(),
            ),
        }
    }

    /// As the driver wants it.
    pub fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Int(value) => value,
            Self::Text(value) => value,
            Self::Blob(value) => value,
            Self::Ints(values) => values,
            Self::Texts(values) => values,
            Self::Blobs(values) => values,
        }
    }
}

/// The columns of `keys` (the first `width` of the table's columns), each as one array.
pub fn key_arrays<'a>(table: &Table, width: usize, keys: &[&'a [Value]]) -> Vec<Param<'a>> {
    (table.columns.iter().take(width).enumerate())
        .map(|(place, column)| Param::column(keys.iter().filter_map(|key| key.get(place)), column.column_type))
        .collect()
}

/// A row of a table, whose columns start at place `from` of the answer.
///
/// # Errors
/// [`Error::Corrupt`] if a value cannot be what its column declares.
pub fn decode_row(table: &'static Table, row: &Row, from: usize) -> Result<Vec<Value>, Error> {
    let corrupt = |name: &str| Error::Corrupt { table: table.name, detail: format!("column {name} cannot be read") };
    (table.columns.iter().enumerate())
        .map(|(place, column)| decode_value(row, from + place, column.column_type).ok_or_else(|| corrupt(column.name)))
        .collect()
}

fn decode_value(row: &Row, place: usize, column_type: ColumnType) -> Option<Value> {
    let value = match column_type {
        ColumnType::Int | ColumnType::Position => row.try_get::<_, Option<i64>>(place).ok()?.map(Value::Int),
        ColumnType::Text => match row.try_get::<_, Option<String>>(place).ok()? {
            Some(stored) => Some(Value::Text(text::decode(stored)?)),
            None => None,
        },
        ColumnType::Blob => row.try_get::<_, Option<Vec<u8>>>(place).ok()?.map(Value::Blob),
    };
    Some(value.unwrap_or(Value::Null))
}

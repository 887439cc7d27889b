//! How a table is declared: one `table!` yields the row struct, its columns, key and indexes, from which every engine
//! makes its DDL, inserts and reads.

use crate::{ColumnType, Error, Value};

/// A table of the database.
#[derive(Debug)]
pub struct Table {
    /// Its name in SQL.
    pub name: &'static str,
    /// All columns; the first [`Table::key`] of them are the primary key.
    pub columns: &'static [Column],
    /// Number of columns of the primary key.
    pub key: usize,
    /// Further orders in which rows can be read.
    pub indexes: &'static [&'static Index],
}

/// A column of a table.
#[derive(Debug)]
pub struct Column {
    /// Its name in SQL.
    pub name: &'static str,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// A secondary index. Its order is its columns, then the primary key.
#[derive(Debug)]
pub struct Index {
    /// Its name within the table, in upper case.
    pub name: &'static str,
    /// The indexed columns, in order.
    pub columns: &'static [&'static str],
    /// Whether two rows may not agree in all (non-NULL) indexed columns.
    pub unique: bool,
}

impl Table {
    /// The place of a column, by name. `None` if the table has no such column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Names of the primary key's columns.
    pub fn key_columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().take(self.key).map(|column| column.name)
    }

    /// Places of the columns in whose order `index` (or the primary key, if `None`) reads: the index's columns, then
    /// those of the primary key that are not among them.
    pub fn order(&self, index: Option<&Index>) -> Vec<usize> {
        let mut order: Vec<usize> =
            index.map(|index| index.columns.iter().filter_map(|name| self.column(name)).collect()).unwrap_or_default();
        for key in 0..self.key {
            if !order.contains(&key) {
                order.push(key);
            }
        }
        order
    }

    /// The primary key of a row of this table.
    pub fn key_of(&self, row: &[Value]) -> Vec<Value> {
        row.iter().take(self.key).cloned().collect()
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Table {}

/// A struct that is one row of a table. Implemented by [`crate::table!`].
pub trait Row: Sized + Send + 'static {
    /// The table.
    const TABLE: &'static Table;
    /// The values, in column order.
    fn into_values(self) -> Vec<Value>;
    /// Back from the values, in column order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming table and column if a value is missing or of another type.
    fn from_values(values: Vec<Value>) -> Result<Self, Error>;
}

/// Declares a table: `table! { "name" => RowStruct key(column, …) { column: Type, … } index NAME(column, …); unique NAME(…); }`.
/// The key's columns must come first.
#[macro_export]
macro_rules! table {
    (
        $(#[$doc:meta])*
        $name:literal => $row:ident key($($key:ident),+) {
            $( $(#[$field_doc:meta])* $field:ident : $type:ty ),+ $(,)?
        }
        $( index $index:ident ($($index_column:ident),+); )*
        $( unique $unique:ident ($($unique_column:ident),+); )*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $row {
            $( $(#[$field_doc])* pub $field: $type, )+
        }

        impl $row {
            $(
                /// Index of the table; see its declaration for the columns.
                pub const $index: &'static $crate::Index = &$crate::Index {
                    name: stringify!($index),
                    columns: &[$(stringify!($index_column)),+],
                    unique: false,
                };
            )*
            $(
                /// Unique index of the table; see its declaration for the columns.
                pub const $unique: &'static $crate::Index = &$crate::Index {
                    name: stringify!($unique),
                    columns: &[$(stringify!($unique_column)),+],
                    unique: true,
                };
            )*
        }

        impl $crate::Row for $row {
            const TABLE: &'static $crate::Table = &$crate::Table {
                name: $name,
                columns: &[
                    $( $crate::Column {
                        name: stringify!($field),
                        column_type: <$type as $crate::Field>::TYPE,
                        nullable: <$type as $crate::Field>::NULLABLE,
                    } ),+
                ],
                key: [$(stringify!($key)),+].len(),
                indexes: &[$(Self::$index,)* $(Self::$unique,)*],
            };

            fn into_values(self) -> Vec<$crate::Value> {
                vec![$( $crate::Field::into_value(self.$field) ),+]
            }

            fn from_values(values: Vec<$crate::Value>) -> Result<Self, $crate::Error> {
                let mut values = values.into_iter();
                Ok(Self {
                    $( $field: $crate::decode(&mut values, $name, stringify!($field))?, )+
                })
            }
        }
    };
}

/// Takes the next column's value; for [`crate::table!`].
///
/// # Errors
/// [`Error::Corrupt`] naming table and column.
pub fn decode<F: crate::Field>(
    values: &mut impl Iterator<Item = Value>,
    table: &'static str,
    column: &'static str,
) -> Result<F, Error> {
    values
        .next()
        .and_then(F::from_value)
        .ok_or_else(|| Error::Corrupt { table, detail: format!("column {column} is missing or of another type") })
}

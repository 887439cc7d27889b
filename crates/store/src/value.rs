//! The values that a column can hold, and how Rust types map to them.

use serde::{Deserialize, Serialize};

use crate::{DeviceId, EventNum, RoomNum, StreamPosition, UserId};

/// One stored value. Text orders bytewise in every engine; a text may hold any Unicode, also NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL. Never part of a primary key; a range read never returns a row whose ranged column is NULL.
    Null,
    /// A signed 64-bit integer: numbers, booleans (0, 1), times in milliseconds since the epoch.
    Int(i64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Whether this is a (non-NULL) value of a column of this type.
    pub fn is(&self, column_type: ColumnType) -> bool {
        match self {
            Value::Null => false,
            Value::Int(_) => matches!(column_type, ColumnType::Int | ColumnType::Position),
            Value::Text(_) => column_type == ColumnType::Text,
            Value::Blob(_) => column_type == ColumnType::Blob,
        }
    }

    /// Bytes that its content takes: for limits, not exact.
    pub fn size(&self) -> usize {
        match self {
            Value::Null => 1,
            Value::Int(_) => 8,
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
        }
    }
}

/// The type of a column, from which each engine makes its DDL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// [`Value::Int`].
    Int,
    /// [`Value::Int`] that holds a stream position: a negative value `-k` in a batch stands for the position of the
    /// batch's `k`-th stream entry and is replaced by the engine at commit.
    Position,
    /// [`Value::Text`].
    Text,
    /// [`Value::Blob`].
    Blob,
}

/// A Rust type that fills one column.
pub trait Field: Sized {
    /// The column's type.
    const TYPE: ColumnType;
    /// Whether the column may be NULL.
    const NULLABLE: bool = false;
    /// Into the stored form.
    fn into_value(self) -> Value;
    /// Back from the stored form; `None` if the value is of another type.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! int_field {
    ($type:ty, $column:ident, $into:expr, $from:expr) => {
        impl Field for $type {
            const TYPE: ColumnType = ColumnType::$column;
            fn into_value(self) -> Value {
                Value::Int($into(self))
            }
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Int(number) => $from(number),
                    _ => None,
                }
            }
        }
    };
}

int_field!(i64, Int, |n| n, Some);
int_field!(u32, Int, i64::from, |n| u32::try_from(n).ok());
int_field!(bool, Int, i64::from, |n| Some(n != 0));
int_field!(RoomNum, Int, |n: RoomNum| n.0, |n| Some(RoomNum(n)));
int_field!(EventNum, Int, |n: EventNum| n.0, |n| Some(EventNum(n)));
int_field!(StreamPosition, Position, |n: StreamPosition| n.0, |n| Some(StreamPosition(n)));

impl Field for String {
    const TYPE: ColumnType = ColumnType::Text;
    fn into_value(self) -> Value {
        Value::Text(self)
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Field for UserId {
    const TYPE: ColumnType = ColumnType::Text;
    fn into_value(self) -> Value {
        Value::Text(self.0.to_string())
    }
    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(UserId::from)
    }
}

impl Field for DeviceId {
    const TYPE: ColumnType = ColumnType::Text;
    fn into_value(self) -> Value {
        Value::Text(self.0.to_string())
    }
    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(DeviceId::from)
    }
}

impl Field for Vec<u8> {
    const TYPE: ColumnType = ColumnType::Blob;
    fn into_value(self) -> Value {
        Value::Blob(self)
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl<F: Field> Field for Option<F> {
    const TYPE: ColumnType = F::TYPE;
    const NULLABLE: bool = true;
    fn into_value(self) -> Value {
        self.map_or(Value::Null, F::into_value)
    }
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            other => F::from_value(other).map(Some),
        }
    }
}

macro_rules! value_from {
    ($($type:ty),+) => {
        $(impl From<$type> for Value {
            fn from(field: $type) -> Self {
                field.into_value()
            }
        })+
    };
}

value_from!(i64, u32, bool, RoomNum, EventNum, StreamPosition, String, UserId, DeviceId, Vec<u8>);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<&UserId> for Value {
    fn from(user: &UserId) -> Self {
        Value::Text(user.as_str().to_owned())
    }
}

impl From<&DeviceId> for Value {
    fn from(device: &DeviceId) -> Self {
        Value::Text(device.as_str().to_owned())
    }
}

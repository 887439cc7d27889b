//! JSON values whose numbers survive bit-exactly, and a parser for them.
//!
//! Events of room versions 1 to 5 may hold numbers that neither `i64` nor
//! `f64` can carry, and their hashes cover the digits. A value keeps such a
//! number as the text that was read. The parser refuses what two
//! implementations could read in two ways: duplicate keys and lone surrogates.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

mod parser;

/// A JSON object; keys are ordered by code point, as canonical JSON wants them.
pub type Object = BTreeMap<String, Json>;

/// Deepest nesting of arrays and objects that is read.
pub const MAX_DEPTH: usize = 127;

/// How deep the nesting of what this server stored may go. More than what is read from outside: nothing that once was let
/// in may become unreadable.
const MAX_STORED_DEPTH: usize = 2 * MAX_DEPTH;

/// Largest text that [`Json::from_slice`] reads, in bytes.
pub const MAX_INPUT_BYTES: usize = 128 * 1024 * 1024;

/// A JSON value.
///
/// `Deserialize` works from text or from a `serde_json::Value`; it does not
/// work inside `#[serde(flatten)]` or untagged enums, which lose the digits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer without fraction or exponent that fits.
    Int(i64),
    /// Any other number as the text that was read: floats, `-0`, large
    /// integers. Occurs in room versions 1 to 5 only.
    Number(Box<str>),
    /// What is nested deeper than [`MAX_DEPTH`], as the text that was read. Only [`Json::from_slice_shallow`] makes it.
    Deep(Box<str>),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Object),
}

/// Why a text is not JSON that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is longer than [`MAX_INPUT_BYTES`].
    #[error("the JSON text is larger than {MAX_INPUT_BYTES} bytes")]
    TooLarge,
    /// The text breaks the grammar at a byte offset.
    #[error("{what} at byte {at}")]
    Syntax {
        /// What was wrong.
        what: &'static str,
        /// Byte offset from the start of the text.
        at: usize,
    },
    /// An object has the same key twice.
    #[error("duplicate key `{0}`")]
    DuplicateKey(String),
    /// The text is JSON, but not an object.
    #[error("expected a JSON object")]
    NotAnObject,
}

impl Json {
    /// Reads one JSON value; white space may surround it.
    ///
    /// # Errors
    ///
    /// See [`JsonError`]; among others for duplicate keys, lone surrogates,
    /// invalid UTF-8 and nesting deeper than [`MAX_DEPTH`].
    pub fn from_slice(text: &[u8]) -> Result<Json, JsonError> {
        parser::parse(text)
    }

    /// Reads one JSON value like [`Json::from_slice`], but keeps what is nested too deeply as the text that stands
    /// there. So one part of a text that nobody can read does not hide the others, and a signature over all of it can
    /// be checked if whoever signed wrote canonical JSON.
    ///
    /// # Errors
    ///
    /// As [`Json::from_slice`], but for the nesting.
    pub fn from_slice_shallow(text: &[u8]) -> Result<Json, JsonError> {
        parser::parse_shallow(text)
    }

    /// Whether all of the value was read: nothing was nested too deeply.
    pub fn is_read(&self) -> bool {
        match self {
            Json::Deep(_) => false,
            Json::Array(array) => array.iter().all(Json::is_read),
            Json::Object(object) => object.values().all(Json::is_read),
            _ => true,
        }
    }

    /// Reads one JSON object.
    ///
    /// # Errors
    ///
    /// As [`Json::from_slice`], and [`JsonError::NotAnObject`].
    pub fn object_from_slice(text: &[u8]) -> Result<Object, JsonError> {
        match parser::parse(text)? {
            Json::Object(object) => Ok(object),
            _ => Err(JsonError::NotAnObject),
        }
    }

    /// Reads an object that this server has stored: whether it is nested too deeply was asked when it came.
    ///
    /// # Errors
    ///
    /// As [`Json::object_from_slice`].
    pub(crate) fn stored_object(text: &[u8]) -> Result<Object, JsonError> {
        match parser::parse_to(text, MAX_STORED_DEPTH)? {
            Json::Object(object) => Ok(object),
            _ => Err(JsonError::NotAnObject),
        }
    }

    /// Whether arrays and objects are nested deeper than `levels`.
    pub fn is_deeper(&self, levels: usize) -> bool {
        let below = |value: &Json| value.is_deeper(levels.saturating_sub(1));
        match self {
            Json::Array(array) => levels == 0 || array.iter().any(below),
            Json::Object(object) => levels == 0 || object.values().any(below),
            Json::Deep(_) => true,
            _ => false,
        }
    }

    /// A member of an object; `None` for other values.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?.get(key)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an [`Json::Int`].
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Json::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Json::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The members of an object.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The members of an object, to change them.
    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        match self {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }

    /// The canonical JSON of this value as text.
    pub fn to_canonical_string(&self) -> String {
        let mut out = String::new();
        crate::canonical_json::write(self, &mut out);
        out
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(bool) => serializer.serialize_bool(*bool),
            Json::Int(int) => serializer.serialize_i64(*int),
            Json::Number(text) | Json::Deep(text) => {
                RawValue::from_string(text.to_string()).map_err(S::Error::custom)?.serialize(serializer)
            }
            Json::String(text) => serializer.serialize_str(text),
            Json::Array(array) => serializer.collect_seq(array),
            Json::Object(object) => serializer.collect_map(object),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        parser::parse(raw.get().as_bytes()).map_err(D::Error::custom)
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Json::Null,
            Value::Bool(bool) => Json::Bool(bool),
            Value::Number(number) => match number.as_i64() {
                Some(int) => Json::Int(int),
                None => Json::Number(number.to_string().into()),
            },
            Value::String(text) => Json::String(text),
            Value::Array(array) => Json::Array(array.into_iter().map(Json::from).collect()),
            Value::Object(object) => Json::Object(object.into_iter().map(|(k, v)| (k, Json::from(v))).collect()),
        }
    }
}

impl From<Json> for serde_json::Value {
    /// Numbers beyond `i64` and `u64` become the nearest float; one beyond the
    /// floats too becomes `null`.
    fn from(json: Json) -> Self {
        use serde_json::Value;
        match json {
            Json::Null => Value::Null,
            Json::Bool(bool) => Value::Bool(bool),
            Json::Int(int) => Value::from(int),
            Json::Number(text) => serde_json::from_str(&text).unwrap_or(Value::Null),
            Json::Deep(_) => Value::Null,
            Json::String(text) => Value::String(text),
            Json::Array(array) => Value::Array(array.into_iter().map(Value::from).collect()),
            Json::Object(object) => Value::Object(object.into_iter().map(|(k, v)| (k, Value::from(v))).collect()),
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Json::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Json::String(text)
    }
}

impl From<Cow<'_, str>> for Json {
    fn from(text: Cow<'_, str>) -> Self {
        Json::String(text.into_owned())
    }
}

impl From<i64> for Json {
    fn from(int: i64) -> Self {
        Json::Int(int)
    }
}

impl From<bool> for Json {
    fn from(bool: bool) -> Self {
        Json::Bool(bool)
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Json::Object(object)
    }
}

impl From<Vec<Json>> for Json {
    fn from(array: Vec<Json>) -> Self {
        Json::Array(array)
    }
}

//! Parameters of the query string, read leniently: unknown ones are ignored, a repeated one is a list or its first value,
//! and an error names the parameter.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::FromRequestParts;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

use crate::Error;

/// Number of parameters of a query string that are looked at.
const PARAMETERS_MAX: usize = 256;

/// The query string as `T`: a struct of strings, numbers, booleans, unit enums, options and lists of these.
///
/// # Errors
/// `M_MISSING_PARAM` or `M_INVALID_PARAM`, naming the parameter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query string as `T`.
///
/// # Errors
/// As [`Query`].
pub fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Error> {
    let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs(query).take(PARAMETERS_MAX) {
        parameters.entry(name).or_default().push(value);
    }
    let values = parameters.into_iter().map(|(name, values)| {
        let parameter = Parameter { name: name.clone(), values };
        (name, parameter)
    });
    T::deserialize(MapDeserializer::new(values)).map_err(|wrong: Wrong| wrong.0)
}

/// The decoded pairs of a query string, in order.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// The values of one parameter.
struct Parameter {
    name: String,
    values: Vec<String>,
}

/// The error of the deserializer: an [`Error`] already.
#[derive(Debug)]
struct Wrong(Error);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Error::invalid_param(message.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(Error::missing_param(field))
    }
}

impl Parameter {
    fn text(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }

    fn wrong(&self, expected: &str) -> Wrong {
        Wrong(Error::invalid_param(format!("The parameter `{}` is no {expected}.", self.name)))
    }

    fn boolean(&self) -> Result<bool, Wrong> {
        match self.text() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.wrong("boolean")),
        }
    }

    /// Names the parameter in an error that a visitor made.
    fn named<V>(&self, result: Result<V, Wrong>) -> Result<V, Wrong> {
        result.map_err(|Wrong(error)| {
            let message = format!("The parameter `{}` is wrong: {}", self.name, error.message);
            Wrong(Error { message: message.into(), ..error })
        })
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let number: $type = self.text().parse().map_err(|_| self.wrong("number in its range"))?;
            self.named(visitor.$visit(number))
        })+
    };
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.named(visitor.visit_str(self.text()))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_bool(self.boolean()?)
    }

    numbers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f64 visit_f64 f64
    );

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let Self { name, values } = self;
        let each = values.into_iter().map(|value| Self { name: name.clone(), values: vec![value] });
        visitor.visit_seq(SeqDeserializer::new(each))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let name = Self { name: self.name.clone(), values: Vec::new() };
        name.named(visitor.visit_enum(self))
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Wrong> for Parameter {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> EnumAccess<'de> for Parameter {
    type Error = Wrong;
    type Variant = UnitVariant;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, UnitVariant), Wrong> {
        let value = seed.deserialize(self.text().to_owned().into_deserializer())?;
        Ok((value, UnitVariant))
    }
}

/// A query string has no enums with contents.
struct UnitVariant;

impl<'de> VariantAccess<'de> for UnitVariant {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Wrong> {
        Err(serde::de::Error::custom("a query parameter has no contents"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Wrong> {
        Err(serde::de::Error::custom("a query parameter has no contents"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Wrong> {
        Err(serde::de::Error::custom("a query parameter has no contents"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Direction {
        B,
        F,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Parameters {
        from: String,
        limit: Option<u32>,
        dir: Option<Direction>,
        #[serde(default)]
        server_name: Vec<String>,
        #[serde(default)]
        full: bool,
    }

    fn refused(query: &str, errcode: &str, name: &str) {
        let error = parse_query::<Parameters>(query).unwrap_err();
        assert_eq!(error.errcode, errcode, "{query}: {error:?}");
        assert!(error.message.contains(&format!("`{name}`")), "{query}: {error:?}");
    }

    #[test]
    fn parameters_are_decoded_once() {
        let read: Parameters =
            parse_query("from=a%252Fb+c&limit=10&dir=b&server_name=x&server_name=y%3A1&full=true&other=1").unwrap();
        let expected = Parameters {
            from: "a%2Fb c".to_owned(),
            limit: Some(10),
            dir: Some(Direction::B),
            server_name: vec!["x".to_owned(), "y:1".to_owned()],
            full: true,
        };
        assert_eq!(read, expected);
        assert_eq!(parse_query::<Parameters>("from=1&from=2").unwrap().from, "1");
    }

    #[test]
    fn the_wrong_parameter_is_named() {
        refused("", "M_MISSING_PARAM", "from");
        refused("from=a&limit=ten", "M_INVALID_PARAM", "limit");
        refused("from=a&limit=-1", "M_INVALID_PARAM", "limit");
        refused("from=a&dir=up", "M_INVALID_PARAM", "dir");
        refused("from=a&full=maybe", "M_INVALID_PARAM", "full");
    }
}

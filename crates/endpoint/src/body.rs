//! Request bodies: JSON whatever the `Content-Type` says, with errors that name the member (behaviours CB4, CB11).

mod objects;

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRef, FromRequest, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{Door, Error};
use objects::Objects;

/// A JSON body of type `T`.
///
/// # Errors
/// `M_TOO_LARGE`, `M_NOT_JSON` where it is no JSON or no UTF-8, `M_BAD_JSON` naming the member that is missing or wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonBody<T>(pub T);

/// Like [`JsonBody`], for endpoints all of whose members are optional: an empty body is an empty object.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptionalBody<T>(pub T);

/// The bytes of a body, at most as many as the door's options allow for JSON.
#[derive(Clone, Debug, Default)]
pub struct RawBody(pub Bytes);

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// `M_TOO_LARGE`; `M_UNKNOWN` when the connection broke.
pub async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Error> {
    let too_large = || Error::too_large(format!("A request of this kind may have {bytes_max} bytes."));
    // What announces itself as too large is not waited for.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Error::unknown(http::StatusCode::BAD_REQUEST, "The request broke off.")),
    }
}

/// Reads `bytes` as JSON of type `T`.
///
/// # Errors
/// As [`JsonBody`].
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::not_json("The body is no UTF-8."))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = T::deserialize(Objects(&mut deserializer)).and_then(|read| deserializer.end().map(|()| read));
    read.map_err(|error| explain::<T>(text, &error))
}

/// Reads a JSON value as type `T`, as [`parse_json`] does.
///
/// # Errors
/// `M_BAD_JSON`.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Error> {
    T::deserialize(Objects(value)).map_err(|error| Error::bad_json(error.to_string()))
}

/// Says what is wrong with a body that did not parse: this may take its time.
fn explain<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Error {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Error::not_json("The body is no JSON.");
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(Objects(&mut deserializer)) {
        Err(found) if found.path().iter().next().is_some() => {
            Error::bad_json(format!("`{}`: {}", found.path(), without_place(&found.inner().to_string())))
        }
        _ => Error::bad_json(without_place(&error.to_string()).to_owned()),
    }
}

/// The message without " at line 1 column 2", which says nothing to the author of a client.
fn without_place(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}

impl<S, T> FromRequest<S> for JsonBody<T>
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
    T: DeserializeOwned,
{
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        parse_json(&bytes).map(Self)
    }
}

impl<S, T> FromRequest<S> for OptionalBody<T>
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
    T: DeserializeOwned + Default,
{
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        parse_json(&bytes).map(Self)
    }
}

impl<S> FromRequest<S> for RawBody
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let door = Arc::<Door>::from_ref(state);
        read_body(request.into_body(), door.options.json_body_bytes_max).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only its parsing is tested")]
        count: u8,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only its parsing is tested")]
        name: String,
        #[serde(default)]
        #[expect(dead_code, reason = "only its parsing is tested")]
        inner: Vec<Inner>,
    }

    fn check(body: &[u8], errcode: &str, names: &str) {
        let error = parse_json::<Outer>(body).unwrap_err();
        assert_eq!(error.errcode, errcode, "{error:?}");
        assert!(error.message.contains(names), "{error:?}");
    }

    #[test]
    fn cb4_what_is_wrong_with_a_body_is_named() {
        check(b"", "M_NOT_JSON", "");
        check(b"{\"name\":", "M_NOT_JSON", "");
        check(b"{\"name\":1,", "M_NOT_JSON", "");
        check(b"{\"name\":\"\xff\"}", "M_NOT_JSON", "UTF-8");
        check(b"{\"name\":\"a\"} x", "M_NOT_JSON", "");
        check(b"{}", "M_BAD_JSON", "missing field `name`");
        check(b"[]", "M_BAD_JSON", "");
        check(b"[\"a\",[]]", "M_BAD_JSON", "sequence");
        check(b"{\"name\":\"a\",\"inner\":[[1]]}", "M_BAD_JSON", "`inner[0]`");
        check(b"{\"name\":1}", "M_BAD_JSON", "`name`");
        check(b"{\"name\":\"a\",\"inner\":[{\"count\":1},{\"count\":-1}]}", "M_BAD_JSON", "`inner[1].count`");
    }

    #[test]
    fn cb11_unknown_members_are_ignored() {
        assert!(parse_json::<Outer>(b"{\"name\":\"a\",\"other\":{}}").is_ok());
    }

    #[test]
    fn a_body_that_nests_without_end_is_refused() {
        check("[".repeat(1_000_000).as_bytes(), "M_NOT_JSON", "");
    }
}

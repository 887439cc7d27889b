//! Where two devices meet, one of which signs the other in by a QR code: `/_matrix/client/unstable/org.matrix.msc4108/rendezvous`
//! as clients of today speak it (MSC4108 of 2024: bytes, with an `ETag`), and
//! `/_matrix/client/unstable/io.element.msc4388/rendezvous` (MSC4388: JSON).
//!
//! The flag `org.matrix.msc4108` in `/versions` says that the whole sign-in works. It needs the device authorization grant
//! of the OAuth 2.0 API, which is not there yet, so the flag is not set.

use std::time::{Duration, SystemTime};

use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, extract};
use bytes::Bytes;
use endpoint::{ClientAddress, Error, OptionalRequester, Path, RateClass, Requester, body, error, read_body};
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, PRAGMA,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use users::rendezvous::{PAYLOAD_BYTES_MAX, Payload, Written};

use crate::{Routes, State, error_map};

/// The paths, which also tell the places of one kind from those of the other.
const PLAIN: &str = "/org.matrix.msc4108/rendezvous";
const JSON: &str = "/io.element.msc4388/rendezvous";

/// Bytes of a JSON body: each byte of the payload may be escaped.
const JSON_BYTES_MAX: usize = 6 * PAYLOAD_BYTES_MAX + 1_024;

/// What clients are told to wait while there are too many places, in milliseconds.
const FULL_RETRY_MS: u64 = 30_000;

/// The routes of this file.
pub fn routes() -> Router<State> {
    Router::new()
        .unstable(PLAIN, post(create_plain))
        .unstable(&format!("{PLAIN}/{{id}}"), get(read_plain).put(write_plain).delete(delete_plain))
        .unstable(JSON, get(discover).post(create_json))
        .unstable(&format!("{JSON}/{{id}}"), get(read_json).put(write_json).delete(delete_json))
}

/// Opening a place is an attempt to log in, of a user's client or of nobody's.
async fn open(
    state: &State,
    client: ClientAddress,
    requester: Option<&Requester>,
    dialect: &str,
    data: Vec<u8>,
) -> Result<(String, Payload), Error> {
    match requester {
        Some(requester) => state.door.limit(RateClass::Logins, requester)?,
        None => state.door.limit_address(RateClass::Logins, client)?,
    }
    let for_user = requester.is_some_and(|requester| !requester.guest);
    let opened = state.users.open_rendezvous(dialect, data, for_user).await.map_err(error_map::users)?;
    opened.ok_or_else(|| Error::limit_exceeded(FULL_RETRY_MS))
}

fn no_place() -> Error {
    Error::not_found("There is no such rendezvous, or its time is over.")
}

async fn found(state: &State, client: ClientAddress, dialect: &str, id: &str) -> Result<Payload, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    state.users.rendezvous(dialect, id).await.map_err(error_map::users)?.ok_or_else(no_place)
}

async fn delete(state: &State, client: ClientAddress, dialect: &str, id: &str) -> Result<(), Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let closed = state.users.close_rendezvous(dialect, id).await.map_err(error_map::users)?;
    if closed { Ok(()) } else { Err(no_place()) }
}

/// The answer names the place by its whole address, which goes into the QR code: without a public address, there is none.
async fn create_plain(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    OptionalRequester(requester): OptionalRequester,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Error> {
    let base_url = state.options.public_base_url.as_ref().ok_or_else(Error::unrecognized)?;
    let data = plain_body(&headers, body).await?;
    let (id, payload) = open(&state, client, requester.as_ref(), PLAIN, data.to_vec()).await?;
    let url = format!("{base_url}/_matrix/client/unstable{PLAIN}/{id}");
    // Older clients look into the header (MSC3886).
    let location = [(LOCATION, url.clone())];
    let answer = (StatusCode::CREATED, plain_headers(&payload), location, Json(json!({ "url": url })));
    Ok(answer.into_response())
}

async fn read_plain(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    not_shown(&headers)?;
    let payload = found(&state, client, PLAIN, &id).await?;
    let known = headers.get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
    if known
        .is_some_and(|tag| tag.split(',').any(|tag| tag.trim() == "*" || sequence_of(tag) == Some(payload.sequence)))
    {
        return Ok((StatusCode::NOT_MODIFIED, plain_headers(&payload)).into_response());
    }
    let headers = (plain_headers(&payload), [(CONTENT_TYPE, "text/plain")]);
    Ok((headers.0, headers.1, payload.data).into_response())
}

async fn write_plain(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let data = plain_body(&headers, body).await?;
    let tag = headers.get(IF_MATCH).ok_or_else(|| Error::missing_param("If-Match"))?;
    let seen = tag.to_str().ok().and_then(sequence_of);
    let seen = seen.ok_or_else(|| Error::invalid_param("`If-Match` must be the `ETag` of an answer."))?;
    let written = state.users.write_rendezvous(PLAIN, &id, Some(seen), data.to_vec()).await;
    match written.map_err(error_map::users)? {
        // With a type, although there is no body: some caches drop the tag of an answer without one.
        Written::Done(payload) => {
            let kind = [(CONTENT_TYPE, "text/plain")];
            Ok((StatusCode::ACCEPTED, plain_headers(&payload), kind).into_response())
        }
        Written::Overtaken(payload) => {
            let error = Error::unknown(StatusCode::PRECONDITION_FAILED, "There is something else already.")
                .with("org.matrix.msc4108.errcode", "M_CONCURRENT_WRITE");
            Ok((plain_headers(&payload), error).into_response())
        }
        Written::Nowhere => Err(no_place()),
    }
}

async fn delete_plain(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    delete(&state, client, PLAIN, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn plain_body(headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, Error> {
    let kind = headers.get(CONTENT_TYPE).ok_or_else(|| Error::missing_param("Content-Type"))?;
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("text/plain") {
        return Err(Error::invalid_param("`Content-Type` must be `text/plain`."));
    }
    read_body(body, PAYLOAD_BYTES_MAX).await
}

/// What each answer about a place says of it.
fn plain_headers(payload: &Payload) -> [(HeaderName, HeaderValue); 5] {
    let text = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    [
        (ETAG, text(format!("\"{}\"", payload.sequence))),
        (EXPIRES, text(http_date(payload.expires_ms))),
        (LAST_MODIFIED, text(http_date(payload.changed_ms))),
        (CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (PRAGMA, HeaderValue::from_static("no-cache")),
    ]
}

fn http_date(ms: i64) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
}

/// The number in a tag. A proxy that compresses answers makes weak tags of ours.
fn sequence_of(tag: &str) -> Option<i64> {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Refuses a browser that would show what is there to a person as a page of this server.
fn not_shown(headers: &HeaderMap) -> Result<(), Error> {
    let is = |name: &str, bad: fn(&[u8]) -> bool| headers.get(name).is_some_and(|value| bad(value.as_bytes()));
    let shown = is("sec-fetch-dest", |destination| destination != b"empty")
        || is("sec-fetch-mode", |mode| mode == b"navigate")
        || is("sec-fetch-user", |user| user == b"?1");
    if shown { Err(Error::forbidden("This is not to be looked at in a browser.")) } else { Ok(()) }
}

/// Anybody may open a place.
async fn discover(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    _: OptionalRequester,
) -> Result<Json<Value>, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    Ok(Json(json!({ "create_available": true })))
}

#[derive(Debug, Deserialize)]
struct NewBody {
    data: String,
}

async fn create_json(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    OptionalRequester(requester): OptionalRequester,
    body: axum::body::Body,
) -> Result<Json<Value>, Error> {
    let NewBody { data } = body::parse_json(&read_body(body, JSON_BYTES_MAX).await?)?;
    let (id, payload) = open(&state, client, requester.as_ref(), JSON, data.into_bytes()).await?;
    Ok(Json(json!({
        "id": id,
        "sequence_token": payload.sequence.to_string(),
        "expires_in_ms": left_ms(&state, &payload),
    })))
}

async fn read_json(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    not_shown(&headers)?;
    let payload = found(&state, client, JSON, &id).await?;
    let left_ms = left_ms(&state, &payload);
    let data = String::from_utf8(payload.data).map_err(Error::internal)?;
    Ok(Json(json!({ "data": data, "sequence_token": payload.sequence.to_string(), "expires_in_ms": left_ms })))
}

fn left_ms(state: &State, payload: &Payload) -> i64 {
    (payload.expires_ms - state.clock.now_ms()).max(0)
}

#[derive(Debug, Deserialize)]
struct WriteBody {
    sequence_token: String,
    data: String,
}

async fn write_json(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
    body: axum::body::Body,
) -> Result<Json<Value>, Error> {
    state.door.limit_address(RateClass::Requests, client)?;
    let WriteBody { sequence_token, data } = body::parse_json(&read_body(body, JSON_BYTES_MAX).await?)?;
    let seen = sequence_token.parse().ok();
    let written = state.users.write_rendezvous(JSON, &id, seen, data.into_bytes()).await.map_err(error_map::users)?;
    match written {
        Written::Done(payload) => Ok(Json(json!({ "sequence_token": payload.sequence.to_string() }))),
        Written::Overtaken(_) => Err(Error::concurrent_write()),
        Written::Nowhere => Err(no_place()),
    }
}

async fn delete_json(
    extract::State(state): extract::State<State>,
    client: ClientAddress,
    Path(id): Path<String>,
) -> Result<Json<Value>, Error> {
    delete(&state, client, JSON, &id).await?;
    Ok(error::empty())
}

//! Requests of this server to others: signed, sent by the [`Transport`], answered with JSON or an [`Error`].

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use event::{Json, Object, SigningKey, canonical_json};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::discovery::ServerName;
use crate::transport::{AnswerBody, Incoming, Limits, Outgoing, Transport, TransportError};
use crate::{Error, Result, x_matrix};

/// Most bytes of an answer that reports an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// What is percent-encoded in a path segment or a query: all but the unreserved characters (RFC 3986).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// With which servers this one federates. Names are compared as host names are, without regard to case.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    allowed: Option<BTreeSet<String>>,
    denied: BTreeSet<String>,
}

impl Reach {
    /// With those of `allowed` (with all, if there is no such list) that are not among `denied`.
    pub fn new(allowed: Option<&[String]>, denied: &[String]) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { allowed: allowed.map(lower), denied: lower(denied) }
    }

    /// Whether this server speaks with that one.
    pub fn permits(&self, server: &str) -> bool {
        let server = server.to_ascii_lowercase();
        !self.denied.contains(&server) && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&server))
    }
}

/// Sends requests to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    server_name: Arc<str>,
    key: Arc<SigningKey>,
    transport: Arc<dyn Transport>,
    reach: Arc<Reach>,
}

impl Client {
    /// A client of this server.
    pub fn new(server_name: &str, key: Arc<SigningKey>, transport: Arc<dyn Transport>, reach: Reach) -> Self {
        Self { server_name: server_name.into(), key, transport, reach: Arc::new(reach) }
    }

    /// The name of this server.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// With whom this server federates.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Forgets how a server was found, because it does not answer or because it has just spoken to us.
    pub fn forget(&self, server: &str) {
        self.transport.forget(server);
    }

    /// Sends a signed request and returns the body of the successful answer.
    ///
    /// `path_and_query` goes out as it is given, percent-encoded ([`path`] does so).
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Unreachable`], [`Error::Remote`] for any status but 2xx.
    pub async fn request(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<&Object>,
        limits: Limits,
    ) -> Result<Bytes> {
        let incoming = self.stream(destination, method, path_and_query, body, limits).await?;
        self.collect(destination, incoming.body, limits.body_bytes_max).await
    }

    /// As [`Client::request`], with a body that is in canonical form already.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn request_canonical(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Bytes,
        limits: Limits,
    ) -> Result<Bytes> {
        let incoming = self.signed(destination, method, path_and_query, Some(body), limits).await?;
        self.collect(destination, incoming.body, limits.body_bytes_max).await
    }

    /// As [`Client::request`], with the answer's body read as a JSON object.
    ///
    /// # Errors
    /// As [`Client::request`], and [`Error::Malformed`] if it is none.
    pub async fn json(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<&Object>,
        limits: Limits,
    ) -> Result<Object> {
        let bytes = self.request(destination, method, path_and_query, body, limits).await?;
        object(destination, &bytes)
    }

    /// Sends a signed request and returns the head of the successful answer, with its body to be read piece by piece.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn stream(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<&Object>,
        limits: Limits,
    ) -> Result<Incoming> {
        self.signed(destination, method, path_and_query, body.map(canonical), limits).await
    }

    async fn signed(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
        limits: Limits,
    ) -> Result<Incoming> {
        let content = body.as_deref();
        let signed = x_matrix::sign(&self.key, &method, path_and_query, &self.server_name, destination, content);
        self.send(destination, method, path_and_query, body, limits, Some(&signed.header())).await
    }

    /// Sends a request without a signature, as those for keys are, and returns the JSON object of the successful answer.
    ///
    /// # Errors
    /// As [`Client::json`].
    pub async fn json_unsigned(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<&Object>,
        limits: Limits,
    ) -> Result<Object> {
        let incoming = self.send(destination, method, path_and_query, body.map(canonical), limits, None).await?;
        let bytes = self.collect(destination, incoming.body, limits.body_bytes_max).await?;
        object(destination, &bytes)
    }

    /// As [`Client::stream`], without a signature.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn stream_unsigned(&self, destination: &str, path_and_query: &str, limits: Limits) -> Result<Incoming> {
        self.send(destination, Method::GET, path_and_query, None, limits, None).await
    }

    /// Fetches a URL that another server gave, as anybody could: nothing of the request says who asks.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn fetch(&self, server: &str, url: &str, limits: Limits) -> Result<Incoming> {
        let incoming = self.transport.fetch(url, limits).await.map_err(|error| unreachable(server, error))?;
        if incoming.status.is_success() {
            return Ok(incoming);
        }
        Err(self.remote_error(server, incoming).await)
    }

    /// Whether a server is another one, with which this one federates.
    pub fn reaches(&self, server: &str) -> bool {
        server != &*self.server_name && self.reach.permits(server)
    }

    async fn send(
        &self,
        destination: &str,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
        limits: Limits,
        authorization: Option<&str>,
    ) -> Result<Incoming> {
        if !self.reaches(destination) {
            return Err(Error::Denied(destination.to_owned()));
        }
        if let Err(error) = ServerName::parse(destination) {
            return Err(unreachable(destination, TransportError::NotFound(error.to_string())));
        }
        let same = PathAndQuery::try_from(path_and_query).is_ok_and(|parsed| parsed.as_str() == path_and_query);
        if !same {
            // What is sent must be what was signed.
            return Err(malformed(destination, "a request for it has a path that cannot be sent"));
        }
        let request = Outgoing {
            destination: destination.to_owned(),
            method,
            path_and_query: path_and_query.to_owned(),
            headers: headers(authorization, body.is_some()),
            body,
            limits,
        };
        let incoming = self.transport.send(request).await.map_err(|error| unreachable(destination, error))?;
        if incoming.status.is_success() {
            return Ok(incoming);
        }
        Err(self.remote_error(destination, incoming).await)
    }

    /// What the other server says is wrong; an unreadable explanation is no explanation.
    async fn remote_error(&self, server: &str, incoming: Incoming) -> Error {
        let status = incoming.status;
        let bytes = self.collect(server, incoming.body, ERROR_BYTES_MAX).await.unwrap_or_default();
        remote(server, status, &bytes)
    }

    async fn collect(&self, server: &str, mut body: AnswerBody, bytes_max: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unreachable(server, error))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > bytes_max {
                return Err(unreachable(server, TransportError::TooLarge));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }
}

/// A path of fixed text and percent-encoded segments, with a query of percent-encoded values:
/// `path("/_matrix/federation/v1/event", &["$id"], &[])`.
pub fn path(prefix: &str, segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut path = prefix.to_owned();
    for segment in segments {
        path.push('/');
        path.extend(utf8_percent_encode(segment, ENCODED));
    }
    for (place, (name, value)) in query.iter().enumerate() {
        path.push(if place == 0 { '?' } else { '&' });
        path.extend(utf8_percent_encode(name, ENCODED));
        path.push('=');
        path.extend(utf8_percent_encode(value, ENCODED));
    }
    path
}

fn canonical(body: &Object) -> Bytes {
    Bytes::from(canonical_json::to_bytes(body))
}

fn headers(authorization: Option<&str>, has_body: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*;q=0.5"));
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    // A server name that cannot stand in a header leads to no address either.
    if let Some(value) = authorization.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

fn object(server: &str, bytes: &[u8]) -> Result<Object> {
    Json::object_from_slice(bytes).map_err(|error| malformed(server, &error.to_string()))
}

fn remote(server: &str, status: StatusCode, bytes: &[u8]) -> Error {
    let body: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    Error::Remote { server: server.to_owned(), status, errcode: text("errcode"), message: text("error"), body }
}

fn malformed(server: &str, reason: &str) -> Error {
    Error::Malformed { server: server.to_owned(), reason: reason.to_owned() }
}

fn unreachable(server: &str, error: TransportError) -> Error {
    Error::Unreachable { server: server.to_owned(), error }
}

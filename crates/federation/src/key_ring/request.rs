//! Who sent a request: the check of its `X-Matrix` headers.

use event::{Json, JsonSignatureError, Object};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

use super::{KeyRing, Wanted};
use crate::discovery::ServerName;
use crate::x_matrix::{HeaderError, XMatrix, signed_object};

/// Most `X-Matrix` headers of one request: a server may sign with several keys.
const HEADERS_MAX: usize = 8;

/// Why it is not known who sent a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no `X-Matrix` header.
    #[error("the request is not signed: there is no X-Matrix header")]
    Missing,
    /// A header cannot be read.
    #[error("the X-Matrix header: {0}")]
    Header(#[from] HeaderError),
    /// There are more than [`HEADERS_MAX`] headers, or they name different servers.
    #[error("the X-Matrix headers contradict each other")]
    Contradiction,
    /// `origin` is no server name, or ours.
    #[error("the origin is not another server's name")]
    Origin,
    /// `destination` is another server.
    #[error("the request is meant for another server")]
    Destination,
    /// This server does not federate with that one.
    #[error("this server does not federate with {0}")]
    Denied(String),
    /// A signature is wrong, or no key is known that is valid now.
    #[error(transparent)]
    Signature(#[from] JsonSignatureError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl From<RequestError> for endpoint::Error {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Store(error) => error.into(),
            RequestError::Denied(_) => Self::forbidden(error.to_string()),
            other => Self::unauthorized(other.to_string()),
        }
    }
}

impl KeyRing {
    /// The server that signed a request, after its signatures and the destination are checked.
    ///
    /// `uri` is the raw path and query as they came, `content` the body as it was read, absent if the body is empty.
    ///
    /// # Errors
    /// See [`RequestError`]; as an [`endpoint::Error`] it is 401, or 403 for a server that we do not federate with.
    pub async fn verify_request(
        &self,
        headers: &HeaderMap,
        method: &Method,
        uri: &str,
        content: Option<&Object>,
    ) -> Result<String, RequestError> {
        let signed = x_matrix_headers(headers)?;
        let origin = self.origin_of(&signed)?;
        let now_ms = self.now_ms();
        let wanted: Vec<Wanted> = signed
            .iter()
            .map(|by| Wanted { server: origin.clone(), key_id: by.key.clone(), minimum_valid_until_ts: now_ms })
            .collect();
        let keys = self.keys_for(&wanted).await?.current(now_ms);
        let mut object = signed_object(method, uri, &origin, self.own().server_name(), content);
        let by_key: Object = signed.into_iter().map(|by| (by.key, Json::from(by.signature))).collect();
        let signatures = Object::from([(origin.clone(), Json::from(by_key))]);
        object.insert("signatures".to_owned(), Json::from(signatures));
        event::verify_json(&object, &origin, &keys)?;
        Ok(origin)
    }

    /// The origin that all headers agree on, if it may speak to us here.
    fn origin_of(&self, signed: &[XMatrix]) -> Result<String, RequestError> {
        let first = signed.first().ok_or(RequestError::Missing)?;
        if signed.iter().any(|other| other.origin != first.origin) {
            return Err(RequestError::Contradiction);
        }
        let ours = self.own().server_name();
        if signed.iter().filter_map(|by| by.destination.as_deref()).any(|destination| destination != ours) {
            return Err(RequestError::Destination);
        }
        if ServerName::parse(&first.origin).is_err() || first.origin == ours {
            return Err(RequestError::Origin);
        }
        if !self.client().reach().permits(&first.origin) {
            return Err(RequestError::Denied(first.origin.clone()));
        }
        Ok(first.origin.clone())
    }
}

/// All `X-Matrix` headers; those of other schemes are left out.
fn x_matrix_headers(headers: &HeaderMap) -> Result<Vec<XMatrix>, RequestError> {
    let mut signed = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| HeaderError::Syntax)?;
        match XMatrix::parse(text) {
            Ok(by) => signed.push(by),
            Err(HeaderError::Scheme) => {}
            Err(error) => return Err(error.into()),
        }
        if signed.len() > HEADERS_MAX {
            return Err(RequestError::Contradiction);
        }
    }
    Ok(signed)
}

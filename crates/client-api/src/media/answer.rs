//! The answer that carries content: its headers, parts of it, and "not modified" (behaviours CM4, CM5, CM12).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use endpoint::Error;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use media::{Content, Reader};

use super::range::{self, Part};
use super::refused;

/// The policy that the specification recommends ("Content repository").
const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";

/// What stands behind an address never changes, but may be for those only who have a token.
const CACHING: &str = "private, max-age=31536000, immutable";

/// Not among the names that the `http` crate knows.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The type of content whose declared type cannot stand in a header.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What the content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// What somebody uploaded, of a type that somebody declared.
    AsDeclared,
    /// An image of a type that we found out.
    Inline,
}

/// Serves content, or the part of it that was asked for.
pub(super) async fn serve(
    content: Content,
    method: &Method,
    request: &HeaderMap,
    served: Served,
) -> Result<Response, Error> {
    let tag = format!("\"{}\"", content.tag);
    let mut headers = headers(&content, &tag, served);
    if is_known(request, &tag) {
        headers.remove(CONTENT_TYPE);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let size = content.size;
    let (status, range) = match part(method, request, &tag, size) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Range(range) => {
            set(&mut headers, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Part::Beyond => {
            let error = Error::unknown(StatusCode::RANGE_NOT_SATISFIABLE, "The range lies beyond the end.");
            let mut response = error.into_response();
            set(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => body(content.open(Some(range)).await.map_err(refused)?),
    };
    Ok((status, headers, body).into_response())
}

fn headers(content: &Content, tag: &str, served: Served) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_str(&content.content_type).unwrap_or(OCTETS);
    headers.insert(CONTENT_TYPE, content_type);
    let disposition = match served {
        Served::AsDeclared => media::disposition(&content.content_type, content.file_name.as_deref()),
        // The specification demands `inline`; the uploader's name for the original may have another ending.
        Served::Inline => media::disposition("image/png", content.file_name.as_deref()),
    };
    set(&mut headers, CONTENT_DISPOSITION, &disposition);
    set(&mut headers, ETAG, tag);
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, CACHING),
        (ACCEPT_RANGES, "bytes"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// For values that are visible ASCII by their making.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => tracing::error!(%name, "a header has characters that it cannot have"),
    }
}

/// Whether the client has this very content already.
fn is_known(request: &HeaderMap, tag: &str) -> bool {
    let tags = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    tags.flat_map(|value| value.split(',')).map(str::trim).any(|known| {
        let known = known.strip_prefix("W/").unwrap_or(known);
        known == "*" || known == tag
    })
}

fn part(method: &Method, request: &HeaderMap, tag: &str, size: u64) -> Part {
    let asked = request.get(RANGE).and_then(|value| value.to_str().ok());
    let same = request.get(IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
    match asked {
        Some(asked) if *method == Method::GET && same => range::parse(asked, size),
        _ => Part::Whole,
    }
}

fn body(reader: Reader) -> Body {
    Body::from_stream(stream::unfold(reader, |mut reader| async move {
        let chunk = match reader.next().await {
            Ok(None) => return None,
            Ok(Some(chunk)) => Ok(chunk),
            Err(error) => {
                tracing::error!(%error, "a download broke off");
                Err(std::io::Error::other("the download broke off"))
            }
        };
        Some((chunk, reader))
    }))
}

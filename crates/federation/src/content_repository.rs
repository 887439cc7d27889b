//! Media of other servers: fetched from `GET /_matrix/federation/v1/media/download/{mediaId}`
//! (`data/api/server-server/content_repository.yaml`), or from the deprecated route where a server knows no other.
//!
//! The answer is `multipart/mixed`: a part of JSON, then the content or a `Location` where it stands. It is parsed and
//! written as it comes, so that neither a large file nor a part without end is ever held in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyDataStream;
use media::{Label, Mxc};
use mime::Mime;
use multer::Multipart;

use crate::Error;
use crate::client::{Client, path};
use crate::transport::{AnswerBody, Incoming, Limits, TransportError};

/// How long a file may take, in all.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long the other server may wait for content that has not been uploaded yet. Whoever asked asks again after that, as
/// long as the client is willing to wait.
const WAIT_MS: &str = "5000";
/// Most bytes that an answer may have before the content begins, and beside it.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Fetches media from other servers.
pub struct RemoteMedia {
    client: Client,
}

impl RemoteMedia {
    /// Media that this client fetches.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The deprecated route, for servers from before authenticated media: it must not go on to a third server.
    async fn legacy(&self, mxc: &Mxc, into: &mut media::Incoming, limits: Limits) -> Result<Label, media::Error> {
        let segments = [mxc.server_name(), mxc.media_id()];
        let query = [("allow_remote", "false"), ("timeout_ms", WAIT_MS)];
        let path = path("/_matrix/media/v3/download", &segments, &query);
        let answer = self.client.stream_unsigned(mxc.server_name(), &path, limits).await;
        whole(answer.map_err(|error| refused(mxc, &error))?, mxc, into).await
    }

    /// The second part of an answer: the content, or where it stands.
    async fn parts(
        &self,
        answer: Incoming,
        mxc: &Mxc,
        into: &mut media::Incoming,
        limits: Limits,
    ) -> Result<Label, media::Error> {
        let boundary = boundary(&answer.headers).ok_or_else(|| failed(mxc, "it is not multipart"))?;
        let in_content = Arc::new(AtomicBool::new(false));
        let mut parts = Multipart::new(paced(answer.body, Arc::clone(&in_content)), boundary);
        // What the first part says of the content is empty so far. It is dropped to go on to the next.
        let next = parts.next_field().await.map_err(|error| failed(mxc, error))?;
        drop(next.ok_or_else(|| failed(mxc, "it has no parts"))?);
        let next = parts.next_field().await.map_err(|error| failed(mxc, error))?;
        let content = next.ok_or_else(|| failed(mxc, "it has no second part"))?;
        in_content.store(true, Ordering::Relaxed);
        let Some(location) = text(content.headers(), &LOCATION) else {
            let label = label(content.headers());
            pour(content, mxc, into).await?;
            return Ok(label);
        };
        drop((content, parts));
        let answer = self.client.fetch(mxc.server_name(), &location, limits).await;
        whole(answer.map_err(|error| refused(mxc, &error))?, mxc, into).await
    }
}

#[async_trait]
impl media::Remote for RemoteMedia {
    async fn fetch(&self, mxc: &Mxc, into: &mut media::Incoming) -> Result<Label, media::Error> {
        let content_bytes_max = usize::try_from(into.bytes_max()).unwrap_or(usize::MAX);
        let limits = Limits { timeout: TIMEOUT, body_bytes_max: content_bytes_max.saturating_add(HEAD_BYTES_MAX) };
        let path = path("/_matrix/federation/v1/media/download", &[mxc.media_id()], &[("timeout_ms", WAIT_MS)]);
        match self.client.stream(mxc.server_name(), Method::GET, &path, None, limits).await {
            Ok(answer) => self.parts(answer, mxc, into, limits).await,
            Err(Error::Remote { status: StatusCode::NOT_FOUND, errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                self.legacy(mxc, into, limits).await
            }
            Err(error) => Err(refused(mxc, &error)),
        }
    }
}

/// An answer that is the content itself.
async fn whole(answer: Incoming, mxc: &Mxc, into: &mut media::Incoming) -> Result<Label, media::Error> {
    let label = label(&answer.headers);
    pour(BodyDataStream::new(answer.body), mxc, into).await?;
    Ok(label)
}

async fn pour<E: std::fmt::Display>(
    mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin + Send,
    mxc: &Mxc,
    into: &mut media::Incoming,
) -> Result<(), media::Error> {
    while let Some(chunk) = chunks.next().await {
        into.push(chunk.map_err(|error| failed(mxc, error))?).await?;
    }
    Ok(())
}

/// A body, one chunk at a time: the parser takes whatever is there at once, and errs where it is told of a last chunk and
/// the end in one breath. Until the content begins, it may have so many bytes only.
fn paced(
    body: AnswerBody,
    in_content: Arc<AtomicBool>,
) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static {
    stream::unfold((BodyDataStream::new(body), 0_usize), move |(mut body, bytes)| {
        let in_content = Arc::clone(&in_content);
        async move {
            if bytes > 0 {
                tokio::task::yield_now().await;
            }
            let endless = bytes > HEAD_BYTES_MAX && !in_content.load(Ordering::Relaxed);
            let chunk = if endless { Err(TransportError::TooLarge) } else { body.next().await? };
            let bytes = bytes.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
            Some((chunk, (body, bytes)))
        }
    })
}

/// The text that divides the parts of an answer.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type: Mime = headers.get(CONTENT_TYPE)?.to_str().ok()?.parse().ok()?;
    if content_type.essence_str() != "multipart/mixed" {
        return None;
    }
    let boundary = content_type.get_param(mime::BOUNDARY)?.as_str().to_owned();
    (!boundary.is_empty()).then_some(boundary)
}

/// What the other server declares of the content (behaviour CM5).
fn label(headers: &HeaderMap) -> Label {
    let disposition = text(headers, &CONTENT_DISPOSITION);
    Label {
        content_type: text(headers, &CONTENT_TYPE),
        file_name: disposition.as_deref().and_then(media::file_name_of),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn failed(mxc: &Mxc, reason: impl std::fmt::Display) -> media::Error {
    tracing::info!(%mxc, %reason, "the answer of another server with media cannot be used");
    media::Error::RemoteFailed
}

/// What another server's refusal means.
fn refused(mxc: &Mxc, error: &Error) -> media::Error {
    tracing::debug!(%mxc, %error, "no media from another server");
    match error {
        Error::Denied(_) => media::Error::NotFound,
        Error::Unreachable { error: TransportError::TooLarge, .. } => media::Error::RemoteTooLarge,
        Error::Remote { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => media::Error::NotYetUploaded,
        Error::Remote { errcode, .. } if errcode == "M_TOO_LARGE" => media::Error::RemoteTooLarge,
        Error::Remote { status: StatusCode::NOT_FOUND, .. } => media::Error::NotFound,
        _ => media::Error::RemoteFailed,
    }
}

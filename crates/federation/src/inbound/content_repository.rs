//! `GET /_matrix/federation/v1/media/{download,thumbnail}/{mediaId}` (`data/api/server-server/content_repository.yaml`):
//! media of this server's users, as `multipart/mixed` of an empty JSON object and the content.

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, extract};
use bytes::Bytes;
use endpoint::{Error, Path, Query};
use futures_util::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use media::{Asked, Content, Door, Method, Mxc, Reader};
use serde::Deserialize;

use super::access::Signed;
use super::error_map;
use crate::Federation;

/// How long an answer waits for content that has not been uploaded yet, where the other server does not say.
const WAIT_MS_DEFAULT: i64 = 20_000;
/// How long an answer waits at most.
const WAIT_MS_MAX: i64 = 60_000;
/// Characters of the text that divides the parts: no content has it but by a chance of 62 to the power of 32.
const BOUNDARY_LENGTH: usize = 32;

/// The routes of this file.
pub(super) fn routes() -> Router<Arc<Federation>> {
    Router::new()
        .route("/_matrix/federation/v1/media/download/{media_id}", get(download))
        .route("/_matrix/federation/v1/media/thumbnail/{media_id}", get(thumbnail))
        .route("/_matrix/federation/unstable/org.matrix.msc3916.v2/media/download/{media_id}", get(download))
        .route("/_matrix/federation/unstable/org.matrix.msc3916.v2/media/thumbnail/{media_id}", get(thumbnail))
}

#[derive(Debug, Deserialize)]
struct DownloadParameters {
    timeout_ms: Option<i64>,
}

async fn download(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(media_id): Path<String>,
    Query(parameters): Query<DownloadParameters>,
    _: Signed,
) -> Result<Response, Error> {
    let mxc = mxc(&federation, &media_id)?;
    let ask = || federation.media.content(&mxc, Door::Authenticated);
    let content = when_uploaded(&federation, parameters.timeout_ms, ask).await?;
    answer(&federation, content).await
}

#[derive(Debug, Deserialize)]
struct ThumbnailParameters {
    width: u32,
    height: u32,
    method: Option<String>,
    #[serde(default)]
    animated: bool,
    timeout_ms: Option<i64>,
}

async fn thumbnail(
    extract::State(federation): extract::State<Arc<Federation>>,
    Path(media_id): Path<String>,
    Query(parameters): Query<ThumbnailParameters>,
    _: Signed,
) -> Result<Response, Error> {
    let ThumbnailParameters { width, height, method, animated, timeout_ms } = parameters;
    let method = Method::from_text(method.as_deref().unwrap_or("scale"))
        .ok_or_else(|| Error::invalid_param("The parameter `method` is neither `crop` nor `scale`."))?;
    let mxc = mxc(&federation, &media_id)?;
    let asked = Asked { width, height, method, animated };
    let ask = || federation.media.thumbnail(&mxc, &asked, Door::Authenticated);
    let content = when_uploaded(&federation, timeout_ms, ask).await?;
    answer(&federation, content).await
}

fn mxc(federation: &Federation, media_id: &str) -> Result<Mxc, Error> {
    Mxc::new(federation.rooms.server_name(), media_id).map_err(error_map::media)
}

/// Asks again as long as the content is announced but has not come and the other server is willing to wait.
async fn when_uploaded<F>(
    federation: &Federation,
    timeout_ms: Option<i64>,
    ask: impl Fn() -> F,
) -> Result<Content, Error>
where
    F: Future<Output = Result<Content, media::Error>>,
{
    let wait_ms = timeout_ms.unwrap_or(WAIT_MS_DEFAULT).clamp(0, WAIT_MS_MAX);
    let until_ms = federation.clock.now_ms().saturating_add(wait_ms);
    loop {
        match ask().await {
            Err(media::Error::NotYetUploaded) if federation.clock.now_ms() < until_ms => {
                federation.media.arrival().await;
            }
            outcome => return outcome.map_err(error_map::media),
        }
    }
}

async fn answer(federation: &Federation, content: Content) -> Result<Response, Error> {
    let boundary = store::clock::random_text(federation.entropy.as_ref(), BOUNDARY_LENGTH);
    let disposition = media::disposition(&content.content_type, content.file_name.as_deref());
    // A declared type that could end the part's head is not repeated.
    let visible = content.content_type.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let content_type = if visible { content.content_type.as_str() } else { "application/octet-stream" };
    let head = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n\
         --{boundary}\r\nContent-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let reader = content.open(None).await.map_err(error_map::media)?;
    let chunks =
        stream::iter([Ok(Bytes::from(head))]).chain(chunks(reader)).chain(stream::iter([Ok(Bytes::from(tail))]));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    Ok(([(CONTENT_TYPE, content_type)], Body::from_stream(chunks)).into_response())
}

fn chunks(reader: Reader) -> impl stream::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(None) => None,
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Err(error) => {
                tracing::error!(%error, "a download broke off");
                Some((Err(std::io::Error::other("the download broke off")), None))
            }
        }
    })
}

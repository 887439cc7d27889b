//! `POST /_matrix/media/v3/upload`, `/_matrix/client/v1/media/{config,download,thumbnail}` and what is left of their
//! predecessors (`data/api/client-server/content-repo.yaml`, `authed-content-repo.yaml`).

mod answer;
pub mod previews;
mod range;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use endpoint::{Door, Error, GuestRequester, Path, Query, RateClass, Requester};
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Method, StatusCode};
use media::{Asked, Content, Label, Media, Mxc, Upload};
use serde::Deserialize;
use serde_json::{Value, json};

use self::answer::{Served, serve};

/// Where the deprecated routes stand, and those of uploads still.
const MEDIA: [&str; 3] = ["/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1"];

/// Where the authenticated routes stand.
const CLIENT_MEDIA: &str = "/_matrix/client/v1/media";

/// How long a download waits for content that has not been uploaded yet, where the client does not say.
const WAIT_MS_DEFAULT: i64 = 20_000;

/// How long a download waits at most.
const WAIT_MS_MAX: i64 = 60_000;

/// After an upload was refused, so many further bytes are read and thrown away: many clients look at the answer
/// only once they have sent everything.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a user with too many pending uploads is told to wait.
const PENDING_RETRY_MS: u64 = 60_000;

/// What a user with too many uploads under way is told to wait.
const AT_ONCE_RETRY_MS: u64 = 2_000;

/// The routes of this file.
pub fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<Door>: FromRef<S>,
    Media: FromRef<S>,
{
    let authenticated = Router::new()
        .route(&format!("{CLIENT_MEDIA}/config"), get(config))
        .route(&format!("{CLIENT_MEDIA}/download/{{server_name}}/{{media_id}}"), get(download))
        .route(&format!("{CLIENT_MEDIA}/download/{{server_name}}/{{media_id}}/{{file_name}}"), get(download_as))
        .route(&format!("{CLIENT_MEDIA}/thumbnail/{{server_name}}/{{media_id}}"), get(thumbnail))
        .route("/_matrix/media/v1/create", post(create))
        .route("/_matrix/media/v3/upload/{server_name}/{media_id}", put(upload_to));
    MEDIA.iter().fold(authenticated, |router, prefix| {
        router
            .route(&format!("{prefix}/upload"), post(upload))
            .route(&format!("{prefix}/config"), get(config))
            .route(&format!("{prefix}/download/{{server_name}}/{{media_id}}"), get(old_download))
            .route(&format!("{prefix}/download/{{server_name}}/{{media_id}}/{{file_name}}"), get(old_download_as))
            .route(&format!("{prefix}/thumbnail/{{server_name}}/{{media_id}}"), get(old_thumbnail))
    })
}

/// The parameters of an upload.
#[derive(Debug, Deserialize)]
struct UploadParameters {
    filename: Option<String>,
}

/// The parameters of a download.
#[derive(Debug, Deserialize)]
struct DownloadParameters {
    timeout_ms: Option<u64>,
}

/// What the deprecated routes take on top. They never ask another server and never redirect, whatever is asked for.
#[derive(Debug, Deserialize)]
struct OldParameters {
    #[serde(rename = "allow_remote")]
    _allow_remote: Option<bool>,
    #[serde(rename = "allow_redirect")]
    _allow_redirect: Option<bool>,
}

/// The parameters of a thumbnail.
#[derive(Debug, Deserialize)]
struct ThumbnailParameters {
    width: u32,
    height: u32,
    method: Option<String>,
    #[serde(default)]
    animated: bool,
    timeout_ms: Option<u64>,
}

/// What both downloads and thumbnails need of a request.
struct Asker {
    media: Media,
    door: Arc<Door>,
    route: media::Door,
    http_method: Method,
    headers: HeaderMap,
}

async fn config(_: Requester, State(media): State<Media>) -> Json<Value> {
    Json(json!({ "m.upload.size": media.upload_bytes_max() }))
}

async fn create(
    requester: Requester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
) -> Result<Json<Value>, Error> {
    door.limit(RateClass::Uploads, &requester)?;
    let created = media.create(&requester.user_id).await.map_err(refused)?;
    Ok(Json(json!({ "content_uri": created.mxc.to_string(), "unused_expires_at": created.expires_ms })))
}

async fn upload(
    requester: Requester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Query(parameters): Query<UploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Error> {
    door.limit(RateClass::Uploads, &requester)?;
    let begun = media.begin_upload(&requester.user_id, label(&headers, parameters), size(&headers)).await;
    let mxc = receive(begun, &headers, body).await?;
    Ok(Json(json!({ "content_uri": mxc.to_string() })))
}

async fn upload_to(
    requester: Requester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(parameters): Query<UploadParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Error> {
    door.limit(RateClass::Uploads, &requester)?;
    let mxc = Mxc::new(&server_name, &media_id).map_err(refused)?;
    let label = label(&headers, parameters);
    let begun = media.begin_upload_to(&requester.user_id, &mxc, label, size(&headers)).await;
    receive(begun, &headers, body).await?;
    Ok(endpoint::error::empty())
}

fn label(headers: &HeaderMap, parameters: UploadParameters) -> Label {
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Label { content_type, file_name: parameters.filename }
}

fn size(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Receives the whole body of an upload that was begun, or refused at once.
async fn receive(begun: Result<Upload, media::Error>, headers: &HeaderMap, body: Body) -> Result<Mxc, Error> {
    let mut chunks = body.into_data_stream();
    let outcome = match begun {
        Ok(upload) => fill(upload, &mut chunks).await?,
        // A client that asks first is answered before it sends anything.
        Err(error) if headers.contains_key(EXPECT) => return Err(refused(error)),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        discard(&mut chunks).await;
    }
    outcome.map_err(refused)
}

/// The outer error is the connection's.
async fn fill(mut upload: Upload, chunks: &mut BodyDataStream) -> Result<Result<Mxc, media::Error>, Error> {
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|_| Error::unknown(StatusCode::BAD_REQUEST, "The upload broke off."))?;
        if let Err(error) = upload.push(chunk).await {
            return Ok(Err(error));
        }
    }
    Ok(upload.finish().await)
}

async fn discard(chunks: &mut BodyDataStream) {
    let mut left = DISCARD_BYTES_MAX;
    while let Some(Ok(chunk)) = chunks.next().await {
        let Some(rest) = left.checked_sub(chunk.len()) else { return };
        left = rest;
    }
}

async fn download(
    _: GuestRequester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(parameters): Query<DownloadParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Authenticated, http_method, headers };
    asker.download(&server_name, &media_id, None, parameters).await
}

async fn download_as(
    _: GuestRequester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id, file_name)): Path<(String, String, String)>,
    Query(parameters): Query<DownloadParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Authenticated, http_method, headers };
    asker.download(&server_name, &media_id, Some(file_name), parameters).await
}

async fn thumbnail(
    _: GuestRequester,
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(parameters): Query<ThumbnailParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Authenticated, http_method, headers };
    asker.thumbnail(&server_name, &media_id, parameters).await
}

/// Without authentication, only what is older than the freeze is there (behaviour CM3).
async fn old_download(
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(parameters): Query<DownloadParameters>,
    _: Query<OldParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Unauthenticated, http_method, headers };
    asker.download(&server_name, &media_id, None, parameters).await
}

async fn old_download_as(
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id, file_name)): Path<(String, String, String)>,
    Query(parameters): Query<DownloadParameters>,
    _: Query<OldParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Unauthenticated, http_method, headers };
    asker.download(&server_name, &media_id, Some(file_name), parameters).await
}

async fn old_thumbnail(
    State(media): State<Media>,
    State(door): State<Arc<Door>>,
    Path((server_name, media_id)): Path<(String, String)>,
    Query(parameters): Query<ThumbnailParameters>,
    _: Query<OldParameters>,
    http_method: Method,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let asker = Asker { media, door, route: media::Door::Unauthenticated, http_method, headers };
    asker.thumbnail(&server_name, &media_id, parameters).await
}

impl Asker {
    async fn download(
        self,
        server_name: &str,
        media_id: &str,
        file_name: Option<String>,
        parameters: DownloadParameters,
    ) -> Result<Response, Error> {
        let mxc = Mxc::new(server_name, media_id).map_err(refused)?;
        let mut content = self.when_uploaded(parameters.timeout_ms, || self.media.content(&mxc, self.route)).await?;
        if file_name.is_some() {
            content.file_name = file_name;
        }
        serve(content, &self.http_method, &self.headers, Served::AsDeclared).await
    }

    async fn thumbnail(
        self,
        server_name: &str,
        media_id: &str,
        parameters: ThumbnailParameters,
    ) -> Result<Response, Error> {
        let ThumbnailParameters { width, height, method, animated, timeout_ms } = parameters;
        let method = media::Method::from_text(method.as_deref().unwrap_or("scale"))
            .ok_or_else(|| Error::invalid_param("The parameter `method` is neither `crop` nor `scale`."))?;
        let mxc = Mxc::new(server_name, media_id).map_err(refused)?;
        let asked = Asked { width, height, method, animated };
        let made = self.when_uploaded(timeout_ms, || self.media.thumbnail(&mxc, &asked, self.route)).await;
        let content = match made {
            // Of remote media it is the other server that sends what is too large.
            Err(error) if error.status == StatusCode::PAYLOAD_TOO_LARGE && !self.media.is_local(&mxc) => {
                return Err(error.status(StatusCode::BAD_GATEWAY));
            }
            made => made?,
        };
        serve(content, &self.http_method, &self.headers, Served::Inline).await
    }

    /// Asks again as long as the content is announced but has not come and the client is willing to wait.
    async fn when_uploaded<F>(&self, timeout_ms: Option<u64>, ask: impl Fn() -> F) -> Result<Content, Error>
    where
        F: Future<Output = Result<Content, media::Error>>,
    {
        let wait_ms = timeout_ms.map_or(WAIT_MS_DEFAULT, |ms| i64::try_from(ms).unwrap_or(i64::MAX).min(WAIT_MS_MAX));
        let until_ms = self.door.clock.now_ms().saturating_add(wait_ms);
        loop {
            match ask().await {
                Err(media::Error::NotYetUploaded) if self.door.clock.now_ms() < until_ms => self.media.arrival().await,
                outcome => return outcome.map_err(refused),
            }
        }
    }
}

/// What a client is told of an error of the media store.
fn refused(error: media::Error) -> Error {
    use media::Error as Media;
    match error {
        Media::BadAddress | Media::NotFound => Error::not_found("There is no such media."),
        Media::TooLarge { max } => Error::too_large(format!("A file may have {max} bytes.")),
        Media::BadLabel(what) => Error::invalid_param(format!("Something is wrong with {what}.")),
        Media::QuotaReached => Error::forbidden("Your quota for uploads is used up."),
        Media::TooManyAtOnce => Error::limit_exceeded(AT_ONCE_RETRY_MS),
        Media::TooManyPending => Error::limit_exceeded(PENDING_RETRY_MS),
        Media::NotCreator => Error::forbidden("This media id was created by another user."),
        Media::AlreadyUploaded => Error::cannot_overwrite_media(),
        Media::NotYetUploaded => Error::not_yet_uploaded(),
        Media::NotThumbnailable => Error::unknown(StatusCode::BAD_REQUEST, "No thumbnail can be made of this content."),
        Media::ImageTooLarge => Error::too_large("This image is too large for a thumbnail."),
        Media::BadSize => Error::invalid_param("Width and height must be greater than zero."),
        Media::RemoteFailed => Error::unknown(StatusCode::BAD_GATEWAY, "The media could not be fetched."),
        Media::RemoteTooLarge => Error::too_large("The media is too large.").status(StatusCode::BAD_GATEWAY),
        Media::BadUrl => Error::invalid_param("The parameter `url` is no URL with `http` or `https`."),
        Media::UrlDenied => Error::forbidden("This server does not preview that URL."),
        Media::UrlUnreachable => Error::unknown(StatusCode::BAD_GATEWAY, "That URL cannot be previewed."),
        Media::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => store::Error::DiskFull.into(),
        Media::Store(error) => error.into(),
        Media::FileLost { .. } | Media::JobDropped | Media::Io(_) => Error::internal(error),
    }
}

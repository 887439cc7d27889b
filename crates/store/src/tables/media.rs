//! Tables of the media store.

use crate::{Row, Table, UserId, table};

/// The tables of this file.
pub const TABLES: &[&Table] = &[
    MediaRow::TABLE,
    ThumbnailRow::TABLE,
    MediaPendingRow::TABLE,
    MediaUsageRow::TABLE,
    RemoteMediaRow::TABLE,
    UrlPreviewRow::TABLE,
];

table! {
    /// A stored file: `mxc://server_name/media_id`. Committed only after the file itself is durable.
    "media" => MediaRow key(server_name, media_id) {
        /// The server that the media belongs to: our own name for what local users uploaded.
        server_name: String,
        /// The media id.
        media_id: String,
        /// The local user who uploaded it; none for what was fetched from elsewhere.
        uploader: Option<UserId>,
        /// The content type that was declared at upload.
        content_type: String,
        /// The file name that was declared at upload.
        file_name: Option<String>,
        /// Bytes of the file.
        size: i64,
        /// SHA-256 of the file.
        sha256: Vec<u8>,
        /// Name of the file in the media directory.
        file: String,
        /// When it was stored, in milliseconds since the epoch.
        created_ms: i64,
        /// The administrator who quarantined it: it is served to nobody while this is set.
        quarantined_by: Option<String>,
        /// Whether the unauthenticated routes serve it: only what an older server held before the freeze.
        unauthenticated: bool,
    }
    index BY_UPLOADER(uploader, created_ms);
    unique BY_FILE(file);
}

table! {
    /// A thumbnail that was made and kept.
    "media_thumbnails" => ThumbnailRow key(server_name, media_id, width, height, method, animated) {
        /// Server name of the media.
        server_name: String,
        /// Media id of the media.
        media_id: String,
        /// The width that was asked for, in pixels.
        width: u32,
        /// The height that was asked for, in pixels.
        height: u32,
        /// `crop` or `scale`.
        method: String,
        /// Whether an animated thumbnail was asked for.
        animated: bool,
        /// Content type of the thumbnail.
        content_type: String,
        /// Bytes of the file.
        size: i64,
        /// Name of the file in the media directory.
        file: String,
        /// When it was made, in milliseconds since the epoch.
        created_ms: i64,
    }
    unique BY_FILE(file);
}

table! {
    /// A media id that was handed out and whose content has not come yet. Deleted when it comes.
    "media_pending" => MediaPendingRow key(media_id) {
        /// The media id, on this server.
        media_id: String,
        /// Who asked for it: the only one who may upload to it.
        creator: UserId,
        /// When it lapses, in milliseconds since the epoch.
        expires_ms: i64,
    }
    index BY_CREATOR(creator, expires_ms);
    index BY_EXPIRY(expires_ms);
}

table! {
    /// What a local user's uploads amount to, for quotas. Changed in the batches that store or delete media.
    "media_usage" => MediaUsageRow key(user_id) {
        /// The user.
        user_id: UserId,
        /// Number of files.
        files: i64,
        /// Bytes of all files.
        bytes: i64,
        /// Raised by one with each change: what compare-and-swap compares.
        version: i64,
    }
}

table! {
    /// When media of another server was last asked for: what has not been for long is deleted, to be fetched again.
    "media_remote" => RemoteMediaRow key(server_name, media_id) {
        /// Server name of the media.
        server_name: String,
        /// Media id of the media.
        media_id: String,
        /// The last use, in milliseconds since the epoch; exact to a day.
        used_ms: i64,
    }
    index BY_USE(used_ms);
}

table! {
    /// What was found behind a URL at some time: a preview, with a copy of its image among our own media.
    "url_previews" => UrlPreviewRow key(url_sha256, fetched_ms) {
        /// SHA-256 of the URL.
        url_sha256: Vec<u8>,
        /// When it was found, in milliseconds since the epoch.
        fetched_ms: i64,
        /// The URL.
        url: String,
        /// What clients are told, as JSON.
        properties: String,
        /// Media id of the image's copy.
        image: Option<String>,
        /// Bytes of that copy.
        image_bytes: i64,
    }
    index BY_AGE(fetched_ms);
}

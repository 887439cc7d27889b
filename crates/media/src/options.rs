//! The limits of the media store.

use std::path::PathBuf;

/// Bytes in a mebibyte.
const MEBIBYTE: u64 = 1024 * 1024;

/// What the media store is given at boot.
#[derive(Clone, Debug)]
pub struct Options {
    /// This server's name: the server part of local media's addresses.
    pub server_name: String,
    /// The directory of all files; made if it is not there.
    pub directory: PathBuf,
    /// Most bytes of an upload.
    pub upload_bytes_max: u64,
    /// Most uploads that one user may have under way at once: what bounds the files that no quota counts yet.
    pub uploads_at_once_max: u32,
    /// Most bytes of all of one user's uploads; none is no limit.
    pub user_bytes_max: Option<u64>,
    /// Most files of one user; none is no limit.
    pub user_files_max: Option<u64>,
    /// Most media ids that one user may hold without content.
    pub pending_max: u32,
    /// How long a media id waits for its content, in milliseconds.
    pub pending_ms: i64,
    /// Most pixels of an image that is decoded.
    pub pixels_max: u64,
    /// Most bytes of an image file that is decoded.
    pub image_bytes_max: u64,
    /// Most thumbnails that are kept of one piece of media; more are made again each time.
    pub thumbnails_kept_max: u32,
    /// At start, unfinished files younger than this (in milliseconds) are left alone: they may be uploads of other
    /// nodes that share the directory. 0 where no other node does.
    pub unfinished_ms: i64,
}

impl Options {
    /// The defaults, for a server name and a directory.
    pub fn new(server_name: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            server_name: server_name.into(),
            directory: directory.into(),
            upload_bytes_max: 50 * MEBIBYTE,
            uploads_at_once_max: 32,
            user_bytes_max: None,
            user_files_max: None,
            pending_max: 5,
            pending_ms: 24 * 60 * 60 * 1000,
            pixels_max: 32_000_000,
            image_bytes_max: 32 * MEBIBYTE,
            thumbnails_kept_max: 32,
            unfinished_ms: 0,
        }
    }
}

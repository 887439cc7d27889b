//! What can go wrong with media.

use std::sync::Arc;

/// Why media was not stored, served or thumbnailed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A server name or media id breaks its grammar: no such media can exist.
    #[error("this is not the address of any media")]
    BadAddress,
    /// There is no such media, or it is served to nobody.
    #[error("there is no such media")]
    NotFound,
    /// The content has more bytes than the server takes.
    #[error("the content is larger than the {max} bytes that this server accepts")]
    TooLarge {
        /// The limit, in bytes.
        max: u64,
    },
    /// A content type or file name is too long or cannot stand in a header.
    #[error("{0} is too long or has characters that it cannot have")]
    BadLabel(&'static str),
    /// The user's uploads have reached their quota.
    #[error("the quota for uploads is used up")]
    QuotaReached,
    /// The user has too many uploads under way.
    #[error("too many uploads are under way: wait until some are done")]
    TooManyAtOnce,
    /// The user has too many media ids without content.
    #[error("too many uploads are pending: finish some of them first")]
    TooManyPending,
    /// The media id belongs to somebody else.
    #[error("this media id was created by another user")]
    NotCreator,
    /// The media id already has content.
    #[error("this media id already has content")]
    AlreadyUploaded,
    /// The media id exists, but its content has not been uploaded yet.
    #[error("the content has not been uploaded yet")]
    NotYetUploaded,
    /// No thumbnail can be made: not an image of a known format, or a damaged one.
    #[error("no thumbnail can be made of this content")]
    NotThumbnailable,
    /// The image is too large to be decoded.
    #[error("the image is too large for a thumbnail")]
    ImageTooLarge,
    /// The size that was asked for is empty.
    #[error("width and height must be greater than zero")]
    BadSize,
    /// The origin of remote media cannot be reached or its answer is of no use.
    #[error("the media could not be fetched from its server")]
    RemoteFailed,
    /// Remote media is larger than this server takes.
    #[error("the remote media is too large")]
    RemoteTooLarge,
    /// What was to be previewed is no URL of the web.
    #[error("this is no URL with http or https")]
    BadUrl,
    /// The administrator wants no previews of this URL.
    #[error("this URL is not previewed here")]
    UrlDenied,
    /// Nothing can be found behind a URL, or nothing that may be looked at.
    #[error("this URL cannot be looked at")]
    UrlUnreachable,
    /// A stored row names a file that is not there or is of another size.
    #[error("the file {file} of table {table} is missing or damaged")]
    FileLost {
        /// The table whose row names it.
        table: &'static str,
        /// The file's name in the media directory.
        file: String,
    },
    /// The blocking executor did not run a job to its end.
    #[error("a blocking job was dropped")]
    JobDropped,
    /// The file system failed.
    #[error("media directory: {0}")]
    Io(Arc<std::io::Error>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

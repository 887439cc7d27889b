//! What previews ask of the web, which is given at boot: one request, no redirection followed.

use async_trait::async_trait;
use bytes::Bytes;

/// What is looked for, so that servers can choose what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A page, or whatever else a link leads to.
    Page,
    /// An image.
    Image,
    /// A description of a page, in JSON (oEmbed).
    Embed,
}

/// The web.
#[async_trait]
pub trait Web: Send + Sync + 'static {
    /// Asks for a URL with `http` or `https`, and waits for the head of the answer. A redirection is an answer: where it
    /// leads is judged first.
    ///
    /// # Errors
    /// [`Unreachable`] if nobody answers, or only at an address that may not be reached.
    async fn get(&self, url: &str, wanted: Wanted) -> Result<Answer, Unreachable>;
}

/// The body of an answer as it comes.
#[async_trait]
pub trait Body: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Unreachable`] if it breaks off.
    async fn next(&mut self) -> Result<Option<Bytes>, Unreachable>;
}

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The declared type.
    pub content_type: Option<String>,
    /// Where a redirection leads.
    pub location: Option<String>,
    /// Whether the body is compressed: nothing is unpacked here, so that what is small stays small.
    pub compressed: bool,
    /// The body.
    pub body: Box<dyn Body>,
}

/// Why there is no answer, for the log alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

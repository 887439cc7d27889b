//! Looking at a URL: redirections one by one, bytes and time within bounds, and a page or an image made of them.

use std::time::Duration;

use tokio::time::timeout;
use url::Url;

use super::page::{self, Page};
use super::picture::{Picture, picture_type};
use super::{Answer, Found, Json, Previews, Wanted, charset, embed};
use crate::{Error, blocking};

/// Most hops that a redirection takes.
const REDIRECTIONS_MAX: usize = 5;

/// Most bytes of a page; what comes behind them is not looked at.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes of a description in JSON.
const EMBED_BYTES_MAX: usize = 64 * 1024;

/// How long a page and a description may take, redirections and body included.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an image may take.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Images that are tried until one will do.
const IMAGES_TRIED_MAX: usize = 2;

/// An answer, and the URL that it came from in the end.
struct Fetched {
    url: Url,
    answer: Answer,
}

impl Previews {
    /// Looks at a URL that is permitted.
    pub(super) async fn look(&self, url: &Url) -> Result<Found, Error> {
        let fetched = within(PAGE_TIMEOUT, self.fetch(url, Wanted::Page)).await?;
        let content_type = fetched.answer.content_type.as_deref().map(essence);
        match content_type.as_deref() {
            Some(image) if image.starts_with("image/") => self.look_at_image(fetched).await,
            None | Some("text/html" | "application/xhtml+xml") => self.look_at_page(fetched).await,
            // Something to be downloaded; what it is called is seen in the URL.
            Some(_) => Ok(Found::default()),
        }
    }

    async fn look_at_page(&self, fetched: Fetched) -> Result<Found, Error> {
        let Fetched { url, answer } = fetched;
        let content_type = answer.content_type.clone();
        let bytes = within(PAGE_TIMEOUT, read(answer, PAGE_BYTES_MAX)).await?;
        let base = url.clone();
        let parsed = blocking::run_long(&self.inner.media.inner.blocking, move || {
            page::read(&charset::decode(&bytes, content_type.as_deref()), &base)
        });
        // Whatever a parser may panic at is no page.
        let mut page = parsed.await.map_err(|_| Error::UrlUnreachable)?;
        self.ask_further(&mut page).await;
        let mut found = Found::default();
        for address in page.images.iter().take(IMAGES_TRIED_MAX) {
            found.picture = self.image_of(address).await;
            if found.picture.is_some() {
                break;
            }
        }
        let guessed = [("og:title", page.guesses.title), ("og:description", page.guesses.description)];
        for (name, guess) in guessed {
            if let Some(guess) = guess {
                page.properties.entry(name.to_owned()).or_insert(guess);
            }
        }
        found.properties = page.properties.into_iter().map(|(name, value)| (name, Json::String(value))).collect();
        Ok(found)
    }

    /// Fills in from a description in JSON what the page leaves open. If there is none, that is no matter.
    async fn ask_further(&self, page: &mut Page) {
        let Some(address) = page.embed.take().filter(|_| embed::is_wanted(page)) else { return };
        let Ok(address) = self.inner.options.rules.permits(address) else { return };
        let asked = within(PAGE_TIMEOUT, async {
            let Fetched { url, answer } = self.fetch(&address, Wanted::Embed).await?;
            Ok((url, read(answer, EMBED_BYTES_MAX).await?))
        });
        if let Ok((url, json)) = asked.await {
            let (mut taken, blocking) = (std::mem::take(page), &self.inner.media.inner.blocking);
            let filled = blocking::run(blocking, move || {
                embed::fill_in(&mut taken, &json, &url);
                taken
            });
            *page = filled.await.unwrap_or_default();
        }
    }

    async fn look_at_image(&self, fetched: Fetched) -> Result<Found, Error> {
        let picture = within(IMAGE_TIMEOUT, self.receive(fetched.answer)).await;
        match picture {
            Ok(picture) => Ok(Found { picture: Some(picture), ..Found::default() }),
            Err(Error::UrlUnreachable) => Err(Error::UrlUnreachable),
            Err(error) => {
                tracing::debug!(%error, "an image is not previewed");
                Ok(Found::default())
            }
        }
    }

    /// A copy of the image of a page, if one can be had.
    async fn image_of(&self, address: &Url) -> Option<Picture> {
        let address = self.inner.options.rules.permits(address.clone()).ok()?;
        let received = within(IMAGE_TIMEOUT, async {
            let fetched = self.fetch(&address, Wanted::Image).await?;
            self.receive(fetched.answer).await
        });
        match received.await {
            Ok(picture) => Some(picture),
            Err(error) => {
                tracing::debug!(%error, "a page is previewed without its image");
                None
            }
        }
    }

    /// Asks for a URL, and for where it leads. Each hop is judged like the first.
    async fn fetch(&self, url: &Url, wanted: Wanted) -> Result<Fetched, Error> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTIONS_MAX {
            let answer = self.inner.web.get(url.as_str(), wanted).await.map_err(unreachable)?;
            match answer.status {
                200..=299 if !answer.compressed => return Ok(Fetched { url, answer }),
                301 | 302 | 303 | 307 | 308 => {
                    let next = answer.location.and_then(|location| url.join(&location).ok());
                    let next = next.ok_or(Error::UrlUnreachable)?;
                    // Not told apart: nobody is to learn by this what leads where.
                    url = self.inner.options.rules.permits(next).map_err(|_| Error::UrlUnreachable)?;
                }
                _ => return Err(Error::UrlUnreachable),
            }
        }
        Err(Error::UrlUnreachable)
    }

    /// Receives an image, unless images have taken all the room there is for them.
    async fn receive(&self, answer: Answer) -> Result<Picture, Error> {
        let bytes_max = self.inner.options.bytes_max;
        if self.inner.stored_bytes.load(std::sync::atomic::Ordering::Relaxed) >= bytes_max {
            self.look_for_room();
            return Err(Error::QuotaReached);
        }
        let declared = answer.content_type.as_deref().map(essence);
        if declared.as_deref().is_some_and(|declared| picture_type(declared).is_none()) {
            return Err(Error::NotThumbnailable);
        }
        Picture::receive(&self.inner.media, answer.body).await
    }
}

/// The bytes of an answer, as many as are looked at.
async fn read(mut answer: Answer, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await.map_err(unreachable)? {
        let room = bytes_max - bytes.len();
        bytes.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if bytes.len() == bytes_max {
            break;
        }
    }
    Ok(bytes)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, work).await.unwrap_or(Err(Error::UrlUnreachable))
}

pub(super) fn unreachable(cause: super::Unreachable) -> Error {
    tracing::debug!(%cause, "a URL cannot be looked at");
    Error::UrlUnreachable
}

/// A type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

//! Previews of URLs, put together: the web over HTTP and TLS, with the filter on addresses that all that leaves has.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use egress::{Egress, Fetch, Limits, Schemes};
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use media::Media;
use media::previews::{Answer, Body, PreviewOptions, Previews, Unreachable, Wanted, Web};

use crate::boot::Error;
use crate::config::Config;

/// Who asks, for the owners of the sites that are asked.
const USER_AGENT: &str = concat!("Hearth/", env!("CARGO_PKG_VERSION"), " (bot; link previews of a Matrix server)");

/// Bounds on one hop. Of a body as much is read as is looked at, and the rest, however long, never comes.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: usize::MAX };

/// The web.
struct Http {
    egress: Egress,
    languages: HeaderValue,
}

#[async_trait]
impl Web for Http {
    async fn get(&self, url: &str, wanted: Wanted) -> Result<Answer, Unreachable> {
        let accept = match wanted {
            Wanted::Page => "text/html,application/xhtml+xml;q=0.9,image/*;q=0.8,*/*;q=0.5",
            Wanted::Image => "image/png,image/jpeg,image/webp,image/gif;q=0.9,*/*;q=0.1",
            Wanted::Embed => "application/json",
        };
        let headers = [(ACCEPT, HeaderValue::from_static(accept)), (ACCEPT_LANGUAGE, self.languages.clone())];
        let fetch = Fetch {
            url: url.to_owned(),
            schemes: Schemes::HttpToo,
            method: Method::GET,
            headers: HeaderMap::from_iter(headers),
            body: None,
            redirects_max: 0,
            limits: LIMITS,
        };
        let response = self.egress.fetch(fetch).await.map_err(unreachable)?;
        let header = |name: HeaderName| response.headers.get(name).map(|value| value.as_bytes());
        let text = |name| header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        Ok(Answer {
            status: response.status.as_u16(),
            content_type: text(CONTENT_TYPE),
            location: text(LOCATION),
            compressed: header(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")),
            body: Box::new(Chunks(response.body)),
        })
    }
}

/// A body, piece by piece.
struct Chunks(egress::Body);

#[async_trait]
impl Body for Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Unreachable> {
        loop {
            match self.0.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.map_err(unreachable)?.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

fn unreachable(error: egress::Error) -> Unreachable {
    Unreachable(error.to_string())
}

/// Builds the previews, if there are to be any.
///
/// # Errors
/// [`Error::Previews`] if certificates cannot be read or the settings are wrong.
pub fn build_if_enabled(config: &Config, media: &Media) -> Result<Option<Previews>, Error> {
    let config = &config.previews;
    if !config.enabled {
        return Ok(None);
    }
    let wrong = |error: String| Error::Previews(error);
    let ranges = config.private_ranges.iter().map(|range| range.parse());
    let allowed_private_ranges =
        ranges.collect::<Result<_, egress::RangeError>>().map_err(|error| wrong(error.to_string()))?;
    let trust = egress::Trust { extra_ca_files: config.ca_files.clone(), verify_certificates: true };
    let user_agent = USER_AGENT.to_owned();
    let options = egress::Options { user_agent, allowed_private_ranges, trust, ..egress::Options::default() };
    let egress = Egress::new(options).map_err(|error| wrong(error.to_string()))?;
    let languages = HeaderValue::from_str(&config.languages.join(",")).map_err(|error| wrong(error.to_string()))?;
    let options = PreviewOptions {
        rules: config.rules.clone(),
        kept_ms: config.kept_ms,
        bytes_max: config.bytes_max,
        ..PreviewOptions::default()
    };
    Ok(Some(Previews::new(media.clone(), Arc::new(Http { egress, languages }), options)))
}

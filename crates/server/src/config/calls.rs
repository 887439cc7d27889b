//! The keys of calls: which services there are beside this server that clients are sent to.

use users::turn::Servers;

use super::Error;
use super::sources::Settings;

/// Milliseconds for which TURN credentials must be good at least: a call has to be set up with them.
const LIFETIME_MS_MIN: i64 = 60_000;

/// Services for calls.
#[derive(Clone, Debug)]
pub struct Calls {
    /// Addresses of services that let clients into calls over LiveKit, the preferred first.
    pub livekit_urls: Vec<String>,
    /// TURN servers, for calls between two.
    pub turn: Option<Servers>,
}

impl Calls {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of(settings: &Settings) -> Result<Self, Error> {
        Ok(Self { livekit_urls: livekit_urls(settings)?, turn: turn(settings)? })
    }
}

fn livekit_urls(settings: &Settings) -> Result<Vec<String>, Error> {
    const KEY: &str = "calls.livekit_urls";
    let urls = settings.texts(KEY)?;
    match urls.iter().find(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        Some(url) => Err(settings.wrong(KEY, &format!("has `{url}`, which must start with `https://` or `http://`"))),
        None => Ok(urls),
    }
}

/// None where there is neither a server nor a secret; one without the other would silently do nothing.
fn turn(settings: &Settings) -> Result<Option<Servers>, Error> {
    const URIS: &str = "calls.turn_uris";
    let uris = settings.texts(URIS)?;
    let secret = settings.optional_text("calls.turn_shared_secret")?;
    let lifetime_ms = settings.milliseconds("calls.turn_lifetime")?;
    if let Some(uri) = uris.iter().find(|uri| !uri.starts_with("turn:") && !uri.starts_with("turns:")) {
        return Err(settings.wrong(URIS, &format!("has `{uri}`, which must start with `turn:` or `turns:`")));
    }
    if !(LIFETIME_MS_MIN..i64::MAX).contains(&lifetime_ms) {
        return Err(settings.wrong("calls.turn_lifetime", "must be a minute at least, and have an end"));
    }
    match (uris.is_empty(), secret) {
        (true, None) => Ok(None),
        (false, Some(secret)) => Ok(Some(Servers { uris, secret, lifetime_ms })),
        (true, Some(_)) => Err(settings.wrong(URIS, "must name a server if there is `calls.turn_shared_secret`")),
        (false, None) => Err(settings.wrong("calls.turn_shared_secret", "must be given if there is `calls.turn_uris`")),
    }
}

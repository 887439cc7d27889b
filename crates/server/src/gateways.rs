//! Pushers, put together: their gateways over HTTP and TLS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use egress::{Egress, Fetch, Limits, Schemes};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt as _;
use push::{Answer, Gateways, Push, Unreachable};
use rooms::Rooms;
use store::Store;
use users::Users;

use crate::boot::Error;
use crate::config::Config;
use crate::nodes::Nodes;
use crate::world::World;

/// Bounds on one push. Gateways wait for those behind them before they answer; which take longer count as away.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_bytes_max: 64 << 10 };

/// Gateways over the network. Which addresses are reached is filtered after they were looked up, and no redirection is
/// followed.
struct Http {
    egress: Egress,
    schemes: Schemes,
}

#[async_trait]
impl Gateways for Http {
    async fn notify(&self, url: &str, body: Bytes) -> Result<Answer, Unreachable> {
        let wrong = |error: egress::Error| Unreachable(error.to_string());
        let fetch = Fetch {
            url: url.to_owned(),
            schemes: self.schemes,
            method: Method::POST,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]),
            body: Some(body),
            redirects_max: 0,
            limits: LIMITS,
        };
        let response = self.egress.fetch(fetch).await.map_err(wrong)?;
        let body = response.body.collect().await.map_err(wrong)?.to_bytes();
        Ok(Answer { status: response.status.as_u16(), body })
    }
}

/// The gateways of the program.
///
/// # Errors
/// [`Error::Push`] if certificates cannot be read or the settings are wrong.
fn over_http(config: &Config) -> Result<Arc<dyn Gateways>, Error> {
    let ranges = config.push_private_ranges.iter().map(|range| range.parse());
    let allowed_private_ranges =
        ranges.collect::<Result<_, egress::RangeError>>().map_err(|error| Error::Push(error.to_string()))?;
    let trust = egress::Trust { extra_ca_files: config.push_ca_files.clone(), verify_certificates: true };
    let options = egress::Options { allowed_private_ranges, trust, ..egress::Options::default() };
    let egress = Egress::new(options).map_err(|error| Error::Push(error.to_string()))?;
    let schemes = if config.push_http_gateways { Schemes::HttpToo } else { Schemes::Https };
    Ok(Arc::new(Http { egress, schemes }))
}

/// Builds the pushers, if there are to be any. Nothing is sent before [`crate::outgoing::run`].
///
/// # Errors
/// [`Error::Push`] if certificates cannot be read or the settings are wrong.
pub fn build_if_enabled(
    config: &Config,
    world: &World,
    store: &Store,
    (users, rooms): (&Arc<Users>, &Arc<Rooms>),
    nodes: &Arc<Nodes>,
) -> Result<Option<Arc<Push>>, Error> {
    if !config.push_enabled {
        return Ok(None);
    }
    let gateways = match &world.gateways {
        Some(gateways) => Arc::clone(gateways),
        None => over_http(config)?,
    };
    let usual = push::Options::default();
    let (mail_delay_ms, mail_interval_ms) = match &config.email {
        Some(email) => (email.notification_delay_ms, email.notification_interval_ms),
        None => (usual.mail_delay_ms, usual.mail_interval_ms),
    };
    Ok(Some(Push::new(push::Parts {
        store: store.clone(),
        rooms: Arc::clone(rooms),
        users: Arc::clone(users),
        gateways,
        clock: Arc::clone(&world.clock),
        entropy: Arc::clone(&world.entropy),
        nodes: Arc::clone(nodes) as _,
        spawner: Arc::new(|work| drop(tokio::spawn(work))),
        options: push::Options {
            badge: config.push_badge,
            include_content: config.push_include_content,
            zero_counts: config.push_zero_counts,
            mail_delay_ms,
            mail_interval_ms,
            ..usual
        },
    })))
}

//! The real [`Transport`]: servers are found by [`discovery`](crate::discovery) and reached over HTTPS.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use egress::{Deadline, Egress, Route, Srv};
use http_body_util::BodyExt;
use store::{Clock, Entropy};

use crate::discovery::{self, Answer, Fetch, Lookup, WellKnown};
use crate::transport::{Incoming, Limits, Outgoing, Transport, TransportError};

/// Redirections that are followed from a URL that another server gave.
const REDIRECTS_MAX: u32 = 5;

/// The settings.
#[derive(Clone, Debug)]
pub struct HttpsOptions {
    /// The port at which `.well-known` is fetched: 443, except where that port cannot be had.
    pub well_known_port: u16,
}

impl Default for HttpsOptions {
    fn default() -> Self {
        Self { well_known_port: 443 }
    }
}

/// Reaches other servers over the network.
pub struct Https {
    egress: Egress,
    world: World,
    entropy: Arc<dyn Entropy>,
}

impl Https {
    /// A transport over a client.
    pub fn new(egress: Egress, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, options: HttpsOptions) -> Self {
        let fetch = WellKnownFiles { egress: egress.clone(), port: options.well_known_port };
        let world = World { egress: egress.clone(), well_known: WellKnown::new(Box::new(fetch), clock) };
        Self { egress, world, entropy }
    }

    async fn route(&self, server: &str) -> Result<Route, egress::Error> {
        let found = discovery::find(server, &self.world, self.entropy.as_ref()).await;
        let found = found.map_err(|error| egress::Error::NotFound(error.to_string()))?;
        Route::tls(found.endpoints, &found.certificate, &found.host)
    }
}

#[async_trait]
impl Transport for Https {
    async fn send(&self, request: Outgoing) -> Result<Incoming, TransportError> {
        let deadline = Deadline::after(request.limits.timeout);
        let route = deadline.bound(self.route(&request.destination)).await.map_err(in_our_words)?;
        let limits = egress::Limits { timeout: request.limits.timeout, body_bytes_max: request.limits.body_bytes_max };
        let request = egress::Request {
            route,
            method: request.method,
            path_and_query: request.path_and_query,
            headers: request.headers,
            body: request.body,
            limits,
        };
        Ok(incoming(self.egress.send_until(request, deadline).await.map_err(in_our_words)?))
    }

    async fn fetch(&self, url: &str, limits: Limits) -> Result<Incoming, TransportError> {
        let limits = egress::Limits { timeout: limits.timeout, body_bytes_max: limits.body_bytes_max };
        let fetch = egress::Fetch { redirects_max: REDIRECTS_MAX, ..egress::Fetch::get(url, limits) };
        Ok(incoming(self.egress.fetch(fetch).await.map_err(in_our_words)?))
    }

    fn forget(&self, server: &str) {
        self.world.well_known.forget(server);
    }
}

fn incoming(response: egress::Response) -> Incoming {
    let body = response.body.map_err(in_our_words).boxed_unsync();
    Incoming { status: response.status, headers: response.headers, body }
}

fn in_our_words(error: egress::Error) -> TransportError {
    match error {
        egress::Error::NotFound(_) | egress::Error::Forbidden(_) | egress::Error::Request(_) => {
            TransportError::NotFound(error.to_string())
        }
        egress::Error::Certificate(reason) => TransportError::Certificate(reason),
        egress::Error::Timeout => TransportError::Timeout,
        egress::Error::TooLarge => TransportError::TooLarge,
        egress::Error::Connection(_) | egress::Error::Redirect(_) => TransportError::Connection(error.to_string()),
    }
}

/// What discovery asks, asked of the network.
struct World {
    egress: Egress,
    well_known: WellKnown,
}

#[async_trait]
impl Lookup for World {
    async fn well_known(&self, host: &str) -> Option<String> {
        self.well_known.delegated(host).await
    }

    async fn srv(&self, name: &str) -> Vec<Srv> {
        // A name server that fails at SRV records is no reason not to try the host itself.
        self.egress.resolver().srv(name).await.unwrap_or_default()
    }

    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        self.egress.resolver().addresses(host).await.unwrap_or_default()
    }
}

/// Fetches `.well-known` files.
struct WellKnownFiles {
    egress: Egress,
    port: u16,
}

#[async_trait]
impl Fetch for WellKnownFiles {
    async fn fetch(&self, host: &str) -> Option<Answer> {
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        let url = format!("https://{host}{port}/.well-known/matrix/server");
        let limits = egress::Limits { timeout: discovery::TIMEOUT, body_bytes_max: discovery::BYTES_MAX };
        let fetch = egress::Fetch { redirects_max: discovery::REDIRECTS_MAX, ..egress::Fetch::get(url, limits) };
        let response = match self.egress.fetch(fetch).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(host, %error, "no .well-known");
                return None;
            }
        };
        let body = response.body.collect().await.ok()?.to_bytes();
        Some(Answer { status: response.status, headers: response.headers, body })
    }
}

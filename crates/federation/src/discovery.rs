//! From a server name to where it is reached (server-server API, "Resolving server names").
//!
//! [`find`] is the decision alone, over a [`Lookup`] that asks DNS and fetches `.well-known`. The name that the
//! certificate must bear and the `Host` header are those of the delegated name, never those of an SRV record's target: DNS
//! is not to be trusted with that.

mod server_name;
mod well_known;

use std::net::IpAddr;

use async_trait::async_trait;
use egress::{ENDPOINTS_MAX, Endpoint, Srv};
use futures_util::future::join_all;
use store::Entropy;

pub use server_name::{Host, ServerName, ServerNameError};
pub use well_known::{Answer, BYTES_MAX, Fetch, REDIRECTS_MAX, TIMEOUT, WellKnown, delegation};

/// The port of a server that names none.
pub const PORT: u16 = 8448;

/// SRV records, in the order in which they are asked for: the second, deprecated, only if there is none of the first.
const SRV_PREFIXES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// What discovery asks the world.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// `m.server` of the host's `.well-known/matrix/server`; `None` if there is no valid one.
    async fn well_known(&self, host: &str) -> Option<String>;

    /// The SRV records of a name; none if it has none or cannot be looked up.
    async fn srv(&self, name: &str) -> Vec<Srv>;

    /// The addresses of a host; none if it has none or cannot be looked up.
    async fn addresses(&self, host: &str) -> Vec<IpAddr>;
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where to connect, in order.
    pub endpoints: Vec<Endpoint>,
    /// The name or address that its certificate must be for.
    pub certificate: String,
    /// The `Host` header.
    pub host: String,
}

/// Why a server is not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// It has no name that could be looked up.
    #[error(transparent)]
    Name(#[from] ServerNameError),
    /// Its name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
}

/// Finds a server.
///
/// # Errors
/// See [`DiscoveryError`].
pub async fn find(name: &str, lookup: &dyn Lookup, entropy: &dyn Entropy) -> Result<Found, DiscoveryError> {
    let name = ServerName::parse(name)?;
    let delegated = match (&name.host, name.port) {
        // Steps 1 and 2: an address or a port says it all.
        (Host::Address(_), _) | (_, Some(_)) => None,
        // Step 3. What is no server name is no answer.
        (Host::Name(host), None) => lookup.well_known(host).await.and_then(|name| ServerName::parse(&name).ok()),
    };
    // What holds for a delegated name (steps 3.1 to 3.5) holds for one that delegates to nobody (1, 2, 4 to 6).
    find_delegated(delegated.unwrap_or(name), lookup, entropy).await
}

async fn find_delegated(name: ServerName, lookup: &dyn Lookup, entropy: &dyn Entropy) -> Result<Found, DiscoveryError> {
    let ServerName { host, port, text } = name;
    let (endpoints, certificate) = match host {
        Host::Address(address) => {
            let endpoint = Endpoint { addresses: vec![address], port: port.unwrap_or(PORT) };
            (vec![endpoint], address.to_string())
        }
        Host::Name(host) => match port {
            Some(port) => (vec![endpoint(lookup, &host, port).await], host),
            None => (find_by_srv(lookup, &host, entropy).await, host),
        },
    };
    let endpoints: Vec<Endpoint> = endpoints.into_iter().filter(|endpoint| !endpoint.addresses.is_empty()).collect();
    if endpoints.is_empty() {
        return Err(DiscoveryError::NoAddress(certificate));
    }
    Ok(Found { endpoints, certificate, host: text })
}

/// The targets of the SRV records, or the host itself if it has none.
async fn find_by_srv(lookup: &dyn Lookup, host: &str, entropy: &dyn Entropy) -> Vec<Endpoint> {
    for prefix in SRV_PREFIXES {
        let records = lookup.srv(&format!("{prefix}.{host}")).await;
        if !records.is_empty() {
            let mut records = in_order(records, entropy);
            records.truncate(ENDPOINTS_MAX);
            return join_all(records.iter().map(|srv| endpoint(lookup, &srv.target, srv.port))).await;
        }
    }
    vec![endpoint(lookup, host, PORT).await]
}

async fn endpoint(lookup: &dyn Lookup, host: &str, port: u16) -> Endpoint {
    Endpoint { addresses: lookup.addresses(host).await, port }
}

/// Orders SRV records by priority, and by chance according to their weights within one (RFC 2782).
fn in_order(mut records: Vec<Srv>, entropy: &dyn Entropy) -> Vec<Srv> {
    // Records without weight stand first, so that they have a small chance.
    records.sort_by_key(|srv| (srv.priority, srv.weight != 0));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let same = records.iter().take_while(|srv| srv.priority == priority);
        let total: u64 = same.clone().map(|srv| u64::from(srv.weight)).sum();
        let drawn = below(total + 1, entropy);
        let mut sum = 0;
        let chosen = same.clone().position(|srv| {
            sum += u64::from(srv.weight);
            sum >= drawn
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// A number below `end`; the bias of the remainder does not matter for spreading load.
fn below(end: u64, entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes) % end.max(1)
}

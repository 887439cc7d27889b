//! Names to addresses and SRV records, with DNS's own caching; `/etc/hosts` and `localhost` count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver as Hickory, TokioResolver};

use crate::Error;

/// Most addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// Most SRV records of one name that are looked at.
pub const SRV_RECORDS_MAX: usize = 8;

/// Time for one query to one name server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Times that a query is sent.
const QUERY_ATTEMPTS: usize = 2;
/// Longest time for which an answer is kept.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest time for which "there is none" is kept.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5 * 60);

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Within a priority, how likely it comes first.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without the final dot.
    pub target: String,
}

/// Looks names up.
pub struct Resolver {
    inner: TokioResolver,
}

impl Resolver {
    /// Asks the given name servers, or those of the system (`/etc/resolv.conf`) if there are none.
    ///
    /// # Errors
    /// [`Error::Connection`] if the resolver cannot be set up.
    pub fn new(name_servers: &[SocketAddr]) -> Result<Self, Error> {
        let failed = |error: NetError| Error::Connection(format!("the resolver cannot start: {error}"));
        let provider = TokioRuntimeProvider::default();
        let mut builder = if name_servers.is_empty() {
            Hickory::builder(provider.clone()).unwrap_or_else(|error| {
                tracing::warn!(%error, "the system names no name servers: only `/etc/hosts` and addresses lead anywhere");
                Hickory::builder_with_config(ResolverConfig::from_name_servers(Vec::new()), provider)
            })
        } else {
            let servers = name_servers.iter().map(name_server).collect();
            Hickory::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        bound(builder.options_mut());
        Ok(Self { inner: builder.build().map_err(failed)? })
    }

    /// The addresses of a host, IPv6 and IPv4 in turn; empty if it has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no name server answers.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            // RFC 6761, section 6.3: never asked of DNS.
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        match self.inner.lookup_ip(absolute(host)).await {
            Ok(found) => Ok(in_turn(found.iter())),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(not_found(host, &error)),
        }
    }

    /// The SRV records of a name, unordered; empty if it has none, or says that there is no such service.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no name server answers.
    pub async fn srv(&self, name: &str) -> Result<Vec<Srv>, Error> {
        let found = match self.inner.srv_lookup(absolute(name)).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(not_found(name, &error)),
        };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_utf8().trim_end_matches('.').to_owned(),
            }),
            _ => None,
        });
        Ok(records.filter(|srv| !srv.target.is_empty() && srv.port != 0).take(SRV_RECORDS_MAX).collect())
    }

    /// Forgets all answers.
    pub fn forget(&self) {
        self.inner.clear_cache();
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn bound(options: &mut ResolverOpts) {
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_ATTEMPTS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// The name as an absolute one: search domains are not for server names.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

/// IPv6 and IPv4 addresses in turn (RFC 8305, section 4), without repetitions.
fn in_turn(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = found.partition(IpAddr::is_ipv6);
    let mut addresses = Vec::new();
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    loop {
        let (next_six, next_four) = (six.next(), four.next());
        if next_six.is_none() && next_four.is_none() {
            break;
        }
        for address in [next_six, next_four].into_iter().flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

fn not_found(name: &str, error: &NetError) -> Error {
    tracing::debug!(name, %error, "a name cannot be looked up");
    Error::NotFound(name.to_owned())
}

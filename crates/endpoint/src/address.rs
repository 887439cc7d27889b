//! From which address a request came, also behind proxies that are trusted to say so.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::HeaderMap;
use http::request::Parts;

use crate::Door;

/// How many entries of `X-Forwarded-For` are looked at.
const FORWARDED_ENTRIES_MAX: usize = 16;

/// The other end of the connection, put into each request by the listener. `None` is a Unix socket.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub Option<SocketAddr>);

/// The address of the client: the peer's, or what a trusted proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// A range of addresses in the form `10.0.0.0/8`, `::1/128` or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address lies in the range. An IPv4 address in IPv6 clothing counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_prefix(u32::from(network).into(), u32::from(address).into(), 32, self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_prefix(u128::from(network), u128::from(address), 128, self.prefix)
            }
            _ => false,
        }
    }
}

fn same_prefix(one: u128, other: u128, bits: u8, prefix: u8) -> bool {
    let dropped = u32::from(bits.saturating_sub(prefix));
    one.checked_shr(dropped).unwrap_or(0) == other.checked_shr(dropped).unwrap_or(0)
}

/// That a text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no range such as 10.0.0.0/8")]
pub struct NotANetwork(pub String);

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

/// The client's address: from the right of `X-Forwarded-For`, the first that is no trusted proxy.
pub fn client_address(
    peer: Option<SocketAddr>,
    headers: &HeaderMap,
    trusted: &[Network],
    unix_trusted: bool,
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = match peer {
        Some(peer) => peer.ip().to_canonical(),
        None if unix_trusted => IpAddr::V4(Ipv4Addr::LOCALHOST),
        None => return IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    if peer.is_some() && !is_trusted(address) {
        return address;
    }
    let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev().take(FORWARDED_ENTRIES_MAX) {
        let Some(hop) = parse_hop(hop) else { break };
        address = hop;
        if !is_trusted(address) {
            break;
        }
    }
    address
}

fn parse_hop(hop: &str) -> Option<IpAddr> {
    let bare = hop.trim_start_matches('[').split(']').next().unwrap_or(hop);
    let parsed = bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

impl ClientAddress {
    /// The address behind a request's parts.
    pub fn of(parts: &Parts, door: &Door) -> Self {
        let peer = parts.extensions.get::<PeerAddress>().and_then(|peer| peer.0);
        let options = &door.options;
        Self(client_address(peer, &parts.headers, &options.trusted_proxies, options.unix_proxies_trusted))
    }
}

impl<S> FromRequestParts<S> for ClientAddress
where
    S: Send + Sync,
    Arc<Door>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts, &Arc::from_ref(state)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(peer: &str, forwarded: &str, trusted: &[&str], expect: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        let trusted: Vec<Network> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let address = client_address(Some(peer.parse().unwrap()), &headers, &trusted, false);
        assert_eq!(address, expect.parse::<IpAddr>().unwrap(), "{peer} {forwarded} {trusted:?}");
    }

    #[test]
    fn forwarded_addresses_are_believed_from_trusted_proxies_alone() {
        check("203.0.113.9:1", "198.51.100.1", &["127.0.0.1"], "203.0.113.9");
        check("127.0.0.1:1", "198.51.100.1", &["127.0.0.1"], "198.51.100.1");
        check("127.0.0.1:1", "6.6.6.6, 198.51.100.1", &["127.0.0.0/8"], "198.51.100.1");
        check("10.1.1.1:1", "198.51.100.1, 10.2.2.2", &["10.0.0.0/8"], "198.51.100.1");
        check("127.0.0.1:1", "nonsense", &["127.0.0.1"], "127.0.0.1");
        check("127.0.0.1:1", "[2001:db8::1]:4711", &["127.0.0.1"], "2001:db8::1");
        check("[::ffff:127.0.0.1]:1", "198.51.100.7", &["127.0.0.1"], "198.51.100.7");
    }

    #[test]
    fn ranges_are_read() {
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("example.org".parse::<Network>().is_err());
        assert!(!"10.0.0.0/8".parse::<Network>().unwrap().contains("11.0.0.1".parse().unwrap()));
        assert!("fd00::/8".parse::<Network>().unwrap().contains("fdff::1".parse().unwrap()));
    }
}

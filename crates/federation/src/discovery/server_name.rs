//! A server name taken apart (appendices, "Server Name"), more strictly than identifiers want it: what does not pass leads
//! nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest server name, in bytes: it stands in identifiers, which have no more.
const NAME_BYTES_MAX: usize = 255;
/// Longest DNS name, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
/// Longest part of a DNS name between dots, in bytes.
const LABEL_BYTES_MAX: usize = 63;
/// Most digits of a port.
const PORT_DIGITS_MAX: usize = 5;

/// The text is no server name that can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a server name")]
pub struct ServerNameError;

/// The host of a server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

/// A server name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// The host.
    pub host: Host,
    /// The port, if it names one.
    pub port: Option<u16>,
    /// The whole, as it was given: what `Host` says.
    pub text: String,
}

impl ServerName {
    /// Takes a name apart.
    ///
    /// # Errors
    /// If it is too long, has a port that is no port, or a host that is neither an address nor a DNS name. A host that
    /// ends in a number is an IPv4 address or wrong, so no other notation of addresses passes.
    pub fn parse(text: &str) -> Result<Self, ServerNameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(ServerNameError);
        }
        let (host, port) = split(text)?;
        let host = match host.strip_prefix('[') {
            Some(inside) => Host::Address(IpAddr::V6(v6(inside.strip_suffix(']').ok_or(ServerNameError)?)?)),
            None => name_or_v4(host)?,
        };
        Ok(Self { host, port: port.map(port_of).transpose()?, text: text.to_owned() })
    }
}

/// Host and port as text.
fn split(text: &str) -> Result<(&str, Option<&str>), ServerNameError> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(ServerNameError)? + 1;
        let (host, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(ServerNameError),
        };
    }
    Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))))
}

fn port_of(text: &str) -> Result<u16, ServerNameError> {
    let digits = !text.is_empty() && text.len() <= PORT_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.filter(|port| *port != 0).ok_or(ServerNameError)
}

fn v6(text: &str) -> Result<Ipv6Addr, ServerNameError> {
    // Zones name an interface of this machine.
    if text.contains('%') { Err(ServerNameError) } else { text.parse().map_err(|_| ServerNameError) }
}

fn name_or_v4(text: &str) -> Result<Host, ServerNameError> {
    let last = text.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = last.strip_prefix(['0']).is_some_and(|rest| rest.starts_with(['x', 'X']));
    if numeric || hexadecimal {
        let address: Ipv4Addr = text.parse().map_err(|_| ServerNameError)?;
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let valid = text.len() <= HOST_BYTES_MAX && text.split('.').all(label);
    if valid { Ok(Host::Name(text.to_owned())) } else { Err(ServerNameError) }
}

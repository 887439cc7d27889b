//! Where a request goes: the addresses to connect to, the name that the certificate must bear, and the `Host` header are
//! three different things.

use std::net::{IpAddr, SocketAddr};

use rustls_pki_types::ServerName;

use crate::Error;

/// Most endpoints of a route.
pub const ENDPOINTS_MAX: usize = 8;

/// One place at which a service may be reached: addresses that are as good as each other, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The addresses, in the order in which they are tried.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    pub(crate) fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to connect: an endpoint is tried only if none before it can be reached.
    pub endpoints: Vec<Endpoint>,
    /// The name (or address) that the certificate must be for. A name is sent as SNI, an address is not. Without TLS, none.
    pub certificate: Option<ServerName<'static>>,
    /// The `Host` header.
    pub host: String,
}

impl Route {
    /// A route over TLS.
    ///
    /// # Errors
    /// [`Error::Request`] if `certificate` is neither a DNS name nor an address.
    pub fn tls(endpoints: Vec<Endpoint>, certificate: &str, host: &str) -> Result<Self, Error> {
        let certificate = ServerName::try_from(certificate.to_owned())
            .map_err(|_| Error::Request(format!("`{certificate}` is no name of a server")))?;
        Ok(Self { endpoints, certificate: Some(certificate), host: host.to_owned() })
    }
}

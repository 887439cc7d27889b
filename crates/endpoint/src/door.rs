//! What every endpoint shares: how to find out who asks, the rate limits, the clock, and the options of the door.

use std::sync::Arc;

use store::Clock;

use crate::{ClientAddress, Error, Network, RateClass, RateLimiter, RateLimits, Requester, Sessions};

/// The options of the door.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that a JSON body may have.
    pub json_body_bytes_max: usize,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether what comes through a Unix socket comes from a trusted proxy.
    pub unix_proxies_trusted: bool,
    /// The rate limits.
    pub rate_limits: RateLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            json_body_bytes_max: 16 * 1024 * 1024,
            trusted_proxies: Vec::new(),
            unix_proxies_trusted: true,
            rate_limits: RateLimits::default(),
        }
    }
}

/// The door: one per server. Every state of a router yields it as `Arc<Door>`.
pub struct Door {
    /// Who a token belongs to.
    pub sessions: Arc<dyn Sessions>,
    /// The token buckets.
    pub limiter: RateLimiter,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The options.
    pub options: Options,
}

impl Door {
    /// A door with full buckets.
    pub fn new(sessions: Arc<dyn Sessions>, clock: Arc<dyn Clock>, options: Options) -> Self {
        let limiter = RateLimiter::new(options.rate_limits.clone(), Arc::clone(&clock));
        Self { sessions, limiter, clock, options }
    }

    /// Counts a request of a user against a class. Application services that are not limited pass (CB9).
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn limit(&self, class: RateClass, requester: &Requester) -> Result<(), Error> {
        if requester.rate_limited { self.limiter.take(class, requester.user_id.as_str()) } else { Ok(()) }
    }

    /// Counts a request of nobody in particular against a class, by address. Addresses of one IPv6 site count as one.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn limit_address(&self, class: RateClass, client: ClientAddress) -> Result<(), Error> {
        self.limiter.take(class, &address_key(client))
    }

    /// Whether [`Door::limit_address`] would let the next request through.
    ///
    /// # Errors
    /// `M_LIMIT_EXCEEDED`.
    pub fn check_address(&self, class: RateClass, client: ClientAddress) -> Result<(), Error> {
        self.limiter.check(class, &address_key(client))
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: whoever has one has them all.
fn address_key(ClientAddress(address): ClientAddress) -> String {
    match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("{:x}/64", u128::from(address) >> 64),
    }
}

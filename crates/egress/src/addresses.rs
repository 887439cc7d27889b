//! Which addresses may be reached: those of the public Internet, and private ranges only where an administrator has
//! allowed them. Asked after DNS and for each hop, so a name that points inside leads nowhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, as in `10.0.0.0/8` or `fd00::/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    bits: u8,
}

/// The text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no range of addresses such as `10.0.0.0/8`")]
pub struct RangeError(String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let bits_max = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(bits_max), |bits| bits.trim().parse().map_err(|_| wrong()))?;
        if bits > bits_max { Err(wrong()) } else { Ok(Self { first, bits }) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.bits)
    }
}

impl Range {
    /// Whether the address lies in the range. An IPv4 address that is written as IPv6 is that IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, canonical(address)) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                same_start(u128::from(u32::from(first)) << 96, u128::from(u32::from(address)) << 96, self.bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => same_start(first.into(), address.into(), self.bits),
            _ => false,
        }
    }
}

fn same_start(one: u128, other: u128, bits: u8) -> bool {
    bits == 0 || (one ^ other) >> (128 - u32::from(bits.min(128))) == 0
}

fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Decides which addresses may be reached.
#[derive(Clone, Debug, Default)]
pub struct AddressFilter {
    allowed: Vec<Range>,
}

impl AddressFilter {
    /// Public addresses, and those in `allowed_private_ranges`.
    pub fn new(allowed_private_ranges: Vec<Range>) -> Self {
        Self { allowed: allowed_private_ranges }
    }

    /// Whether the address may be reached.
    pub fn permits(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.iter().any(|range| range.contains(address))
    }
}

/// Whether the address belongs to the public Internet, also after whatever translates it (6to4, NAT64, Teredo) has done so.
pub fn is_public(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation();
    // RFC 6890 and its successors: this network, carrier-grade NAT, protocol assignments, the 6to4 relay, benchmarking,
    // and from 240.0.0.0 on what is reserved, the broadcast address included.
    let reserved = a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19))
        || a >= 240;
    !special && !reserved
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        // NAT64 (RFC 6052): the IPv4 address stands in the last 32 bits.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(embedded(high, low)),
        // 6to4 (RFC 3056): it stands after the prefix.
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Teredo, ORCHID and other protocol assignments; documentation; segment routing.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        // Only 2000::/3 is given out. Loopback, unspecified, IPv4-compatible, local NAT64, discard-only, unique local,
        // link-local, site-local and multicast addresses all lie outside it.
        [first, second, ..] => (0x2000..0x4000).contains(&first) && !(first == 0x3fff && second < 0x1000),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    /// SEC-ssrf.
    #[test]
    fn only_public_addresses_may_be_reached() {
        let inside = "0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 \
             172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.1 \
             203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
             ::127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 100::1 2001::1 2001:10::1 2001:db8::1 \
             2002:7f00:1::1 2002:a00:1:: 2002:c0a8:101::1 3fff::1 fc00::1 fd12::1 fe80::1 fec0::1 ff02::1 4000::1 \
             5f00::1";
        for text in inside.split_whitespace() {
            assert!(!public(text), "{text} is not public");
        }
        let outside = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 198.17.0.1 198.20.0.1 \
             223.255.255.255 ::ffff:8.8.8.8 64:ff9b::808:808 2001:4860:4860::8888 2002:808:808::1 2a00::1";
        for text in outside.split_whitespace() {
            assert!(public(text), "{text} is public");
        }
    }

    #[test]
    fn allowed_ranges_are_exceptions_and_nothing_more() {
        let filter = AddressFilter::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        let permits = |text: &str| filter.permits(text.parse().unwrap());
        for text in ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::7", "8.8.8.8"] {
            assert!(permits(text), "{text}");
        }
        for text in ["10.2.0.1", "127.0.0.1", "fd00:2::1", "::1", "169.254.169.254"] {
            assert!(!permits(text), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        for text in ["0.0.0.0/0", "::/0", "127.0.0.1", "::1/128", "10.0.0.0/8"] {
            assert!(text.parse::<Range>().is_ok(), "{text}");
        }
        for text in ["", "/8", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "localhost"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Range>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Range>().unwrap().contains("::1".parse().unwrap()));
    }
}

//! `mxc://` addresses: the one type by which media is looked up, so that nothing unvalidated reaches a look-up or a path.

use std::fmt;
use std::net::Ipv6Addr;

use crate::Error;

/// Most bytes of a server name (client-server API appendices, "Server Name").
const SERVER_NAME_BYTES_MAX: usize = 255;

/// Most bytes of a media id. The specification sets no limit; nobody's ids come near this one.
const MEDIA_ID_BYTES_MAX: usize = 255;

/// The address of a piece of media: a valid server name and a media id of `A–Z a–z 0–9 _ -` only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mxc {
    server_name: String,
    media_id: String,
}

impl Mxc {
    /// From the two parts, percent-decoded.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if either part breaks its grammar: such media cannot exist.
    pub fn new(server_name: &str, media_id: &str) -> Result<Self, Error> {
        if !is_server_name(server_name) || !is_media_id(media_id) {
            return Err(Error::BadAddress);
        }
        Ok(Self { server_name: server_name.to_owned(), media_id: media_id.to_owned() })
    }

    /// From a whole `mxc://…` URI.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if it is not one.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        let rest = uri.strip_prefix("mxc://").ok_or(Error::BadAddress)?;
        let (server_name, media_id) = rest.split_once('/').ok_or(Error::BadAddress)?;
        Self::new(server_name, media_id)
    }

    /// The server that the media belongs to.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// The media id.
    pub fn media_id(&self) -> &str {
        &self.media_id
    }
}

impl fmt::Display for Mxc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mxc://{}/{}", self.server_name, self.media_id)
    }
}

fn is_media_id(text: &str) -> bool {
    (1..=MEDIA_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Appendices, "Server Name": a host name, an IPv4 address or a bracketed IPv6 address, then optionally a port.
fn is_server_name(text: &str) -> bool {
    if text.is_empty() || text.len() > SERVER_NAME_BYTES_MAX {
        return false;
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port = port.strip_prefix(':').map_or(port.is_empty(), is_port);
        return address.parse::<Ipv6Addr>().is_ok() && port;
    }
    let (host, port) = text.split_once(':').map_or((text, true), |(host, port)| (host, is_port(port)));
    port && is_host(host)
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The grammar would let through a host of dots alone (`..`); no host is named so, and paths would go astray by it.
fn is_host(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[track_caller]
    fn check(server_name: &str, media_id: &str, valid: bool) {
        assert_eq!(Mxc::new(server_name, media_id).is_ok(), valid, "{server_name:?} {media_id:?}");
    }

    #[test]
    fn cm7_addresses_that_follow_the_grammar() {
        for server in ["example.org", "EXAMPLE.org:8448", "127.0.0.1:1", "[::1]:8448", "[2001:db8::1]", "localhost"] {
            check(server, "aZ09_-", true);
        }
        check("example.org", &"a".repeat(255), true);
    }

    /// SEC-media-paths.
    #[test]
    fn cm7_media_ids_that_break_the_grammar() {
        for id in ["", ".", "..", "a/b", "../x", "a.b", "a\0", "%2e%2e", "a b", "ä", "a\\b", "a:b", "a\n", "~"] {
            check("example.org", id, false);
        }
        check("example.org", &"a".repeat(256), false);
    }

    /// SEC-media-paths.
    #[test]
    fn cm7_server_names_that_break_the_grammar() {
        let long = "a".repeat(256);
        for server in [
            "",
            ".",
            "..",
            "...",
            "../example.org",
            "example.org/..",
            "a/b",
            "a\\b",
            "a b",
            "a_b",
            "a%2f",
            "ä.example",
            "a:",
            "a:123456",
            "a:1:2",
            "a:x",
            ":80",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[]",
            "[..]",
            "[::1%eth0]",
            "user@example.org",
            "a\0",
            long.as_str(),
        ] {
            check(server, "id", false);
        }
    }

    #[test]
    fn uris_are_read_and_written() {
        let mxc = Mxc::parse("mxc://example.org:8448/abc").unwrap();
        assert_eq!((mxc.server_name(), mxc.media_id()), ("example.org:8448", "abc"));
        assert_eq!(mxc.to_string(), "mxc://example.org:8448/abc");
        for uri in
            ["", "mxc://", "mxc://a", "mxc://a/", "mxc:///b", "http://a/b", "mxc://a/b/c", "mxc://a/b?x", "MXC://a/b"]
        {
            assert!(Mxc::parse(uri).is_err(), "{uri}");
        }
    }
}

//! What may be previewed: the administrator's lists of URLs, and what no server of the web is called.
//!
//! A rule is a domain, with all that is below it; the beginning of a URL; or a pattern with `*`. What is denied is never
//! asked for, at no hop of a redirection and for no image; where something is allowed, nothing else is.

use std::str::FromStr;

use url::{Host, Url};

/// Longest URL that is asked for, in bytes.
pub(crate) const URL_BYTES_MAX: usize = 2 * 1024;

/// Most bytes of a rule.
const RULE_BYTES_MAX: usize = 512;

/// Ports below this belong to other services than the web, but for the two that are the web's own.
const PRIVILEGED_PORTS: u16 = 1024;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A host and all hosts below it, or an address.
    Domain(String),
    /// How a URL begins behind its scheme.
    Beginning(String),
    /// A pattern that the whole URL must fit, where `*` stands for anything; in lower case.
    Pattern(String),
}

/// The lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where it is not empty, only these.
    pub allow: Vec<Rule>,
    /// Never these.
    pub deny: Vec<Rule>,
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no domain (`example.org`), no beginning of a URL (`https://example.org/a/`) and no pattern (`*.pdf`)"
)]
pub struct RuleError(String);

/// Why a URL is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is none of the web.
    Malformed,
    /// The administrator does not want it, or it leads to another service than the web.
    Denied,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError(text.to_owned());
        let text = text.trim();
        if text.is_empty() || text.len() > RULE_BYTES_MAX {
            return Err(wrong());
        }
        if text.contains('*') {
            return Ok(Self::Pattern(text.to_ascii_lowercase()));
        }
        if text.contains("://") {
            let url = Url::parse(text).map_err(|_| wrong())?;
            let web = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
            return if web { Ok(Self::Beginning(behind_scheme(&url))) } else { Err(wrong()) };
        }
        let host = text.strip_suffix('.').unwrap_or(text);
        let host = host.strip_prefix('.').unwrap_or(host);
        let bare = host.parse::<std::net::Ipv6Addr>().is_ok();
        let host = Host::parse(&if bare { format!("[{host}]") } else { host.to_owned() }).map_err(|_| wrong())?;
        Ok(Self::Domain(host.to_string()))
    }
}

impl Rule {
    /// Whether a URL falls under the rule.
    fn holds(&self, url: &Url) -> bool {
        match self {
            Self::Domain(domain) => {
                let host = host(url);
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || (above.ends_with('.') && url.domain().is_some()))
            }
            Self::Beginning(beginning) => behind_scheme(url).starts_with(beginning.as_str()),
            Self::Pattern(pattern) => {
                let plain = format!("{}://{}", url.scheme(), behind_scheme(url)).to_ascii_lowercase();
                fits(plain.as_bytes(), pattern.as_bytes())
            }
        }
    }
}

impl Rules {
    /// From the texts of the lists.
    ///
    /// # Errors
    /// [`RuleError`] naming the first text that is no rule.
    pub fn of(allow: &[String], deny: &[String]) -> Result<Self, RuleError> {
        let read = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<Rule>, RuleError>>();
        Ok(Self { allow: read(allow)?, deny: read(deny)? })
    }

    /// The URL, if it is one of the web that may be asked for.
    pub(crate) fn permitted(&self, text: &str) -> Result<Url, Refusal> {
        if text.len() > URL_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        let url = Url::parse(text).map_err(|_| Refusal::Malformed)?;
        self.permits(url)
    }

    /// The same of a URL that has been read.
    pub(crate) fn permits(&self, mut url: Url) -> Result<Url, Refusal> {
        url.set_fragment(None);
        let web = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty());
        if !web || !url.username().is_empty() || url.password().is_some() || url.as_str().len() > URL_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        let other_service = url.port().is_some_and(|port| port < PRIVILEGED_PORTS && port != 80 && port != 443);
        let allowed = self.allow.is_empty() || self.allow.iter().any(|rule| rule.holds(&url));
        let denied = self.deny.iter().any(|rule| rule.holds(&url));
        if other_service || denied || !allowed { Err(Refusal::Denied) } else { Ok(url) }
    }
}

/// The host, without the dot by which a name can end that is not to be completed.
fn host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_suffix('.').unwrap_or(host)
}

/// Host, port, path and query, written in the one way in which rules are: a letter is a letter, encoded or not.
fn behind_scheme(url: &Url) -> String {
    let mut plain = host(url).to_owned();
    if let Some(port) = url.port() {
        plain = format!("{plain}:{port}");
    }
    let rest = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut bytes = rest.bytes().peekable();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, hexadecimal(ahead.next()), hexadecimal(ahead.next())) {
            (b'%', Some(high), Some(low)) if is_unreserved(high * 16 + low) => {
                decoded.push(high * 16 + low);
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    plain.push_str(&String::from_utf8_lossy(&decoded));
    plain
}

fn hexadecimal(byte: Option<u8>) -> Option<u8> {
    char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// RFC 3986, section 2.3: what means the same encoded or not.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether the text fits the pattern. Looks back to the last `*` alone, so that no pattern is slow.
fn fits(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut in_pattern, mut back) = (0, 0, None);
    while let Some(byte) = text.get(at) {
        match pattern.get(in_pattern) {
            Some(b'*') => {
                in_pattern += 1;
                back = Some((at, in_pattern));
            }
            Some(expected) if expected == byte => {
                at += 1;
                in_pattern += 1;
            }
            _ => {
                let Some((from, behind)) = back else { return false };
                back = Some((from + 1, behind));
                (at, in_pattern) = (from + 1, behind);
            }
        }
    }
    pattern.iter().skip(in_pattern).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Rules::of(&owned(allow), &owned(deny)).unwrap()
    }

    /// That a deny rule denies some URLs, that as an allow rule it allows just these, and that other URLs fare the other
    /// way round.
    fn check(rule: &str, under: &[&str], beside: &[&str]) {
        let (denying, allowing) = (rules(&[], &[rule]), rules(&[rule], &[]));
        for url in under {
            assert_eq!(denying.permitted(url), Err(Refusal::Denied), "deny {rule}: {url}");
            assert!(allowing.permitted(url).is_ok(), "allow {rule}: {url}");
        }
        for url in beside {
            assert!(denying.permitted(url).is_ok(), "deny {rule}: {url}");
            assert_eq!(allowing.permitted(url), Err(Refusal::Denied), "allow {rule}: {url}");
        }
        let both = rules(&[rule], &[rule]);
        assert!(under.iter().all(|url| both.permitted(url) == Err(Refusal::Denied)), "what is denied stays so: {rule}");
    }

    /// SEC-preview-rules: a domain stands for itself and all below it, however its name is written.
    #[test]
    fn cm11_domains_are_denied_and_allowed_with_all_below_them() {
        let under = [
            "https://example.org",
            "http://example.org/a?b",
            "https://example.org:8443/",
            "https://EXAMPLE.org/",
            "https://www.example.org/",
            "https://a.b.example.org/",
            "https://example.org./",
            "https://ex%61mple.org/",
            "https:example.org",
            "https:\\\\example.org\\a",
            "https://example.org/#https://other.org",
        ];
        let beside = [
            "https://notexample.org/",
            "https://example.org.evil.com/",
            "https://evil.com/example.org",
            "https://org/",
        ];
        for rule in ["example.org", "Example.ORG", "example.org.", ".example.org", " example.org "] {
            check(rule, &under, &beside);
        }
        check(
            "bücher.example",
            &["https://xn--bcher-kva.example/", "https://BÜCHER.example/"],
            &["https://bucher.example/"],
        );
        let addresses = ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1:8080/a"];
        check("127.0.0.1", &addresses, &["http://1.127.0.0.1.example/", "http://27.0.0.1/", "http://[::1]/"]);
        check("::1", &["http://[::1]/", "http://[0:0:0:0:0:0:0:1]/"], &["http://[2::1]/"]);
        check("[::1]", &["http://[::1]/"], &["http://[2::1]/"]);
    }

    /// SEC-preview-rules: the beginning of a URL.
    #[test]
    fn cm11_beginnings_are_denied_and_allowed() {
        let under = [
            "https://example.org/private/",
            "http://example.org/private/a",
            "https://example.org/%70rivate/a",
            "https://example.org/b/../private/a",
            "https://example.org:443/private/",
            "https://example.org./private/?x",
        ];
        let beside = ["https://example.org/", "https://example.org/private", "https://www.example.org/private/"];
        check("https://example.org/private/", &under, &beside);
        check(
            "https://example.org",
            &["https://example.org/x"],
            &["https://example.org.evil.com/", "https://example.org:8443/"],
        );
    }

    /// SEC-preview-rules: patterns.
    #[test]
    fn cm11_patterns_are_denied_and_allowed() {
        check(
            "*.pdf",
            &["https://a.org/b.pdf", "https://a.org/b.PDF", "https://a.org/b%2Epdf"],
            &["https://a.org/b.pdf?x"],
        );
        check(
            "*://*.example.org/*",
            &["https://a.example.org/", "http://a.b.example.org/c"],
            &["https://example.org/"],
        );
        check("http://*", &["http://a.org/"], &["https://a.org/"]);
        check("*", &["http://a.org/", "https://b.org/c"], &[]);
        check("*track*er*", &["https://a.org/track/me/er", "https://tracker.org/"], &["https://a.org/trace"]);
    }

    /// SEC-preview-rules: without rules all of the web is open, and nothing else.
    #[test]
    fn cm11_only_the_web_is_previewed() {
        let rules = Rules::default();
        for url in [
            "https://a.org",
            "http://a.org:80/",
            "https://a.org:8443",
            "http://[2001:db8::1]:8080/",
            "http://a.org:1024",
        ] {
            assert!(rules.permitted(url).is_ok(), "{url}");
        }
        let long = format!("https://a.org/{}", "x".repeat(URL_BYTES_MAX));
        let grows = format!("https://a.org/{}", "ü".repeat(URL_BYTES_MAX / 3));
        let malformed = [
            "",
            "a.org",
            "/a",
            "ftp://a.org/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/html,x",
            "mxc://a/b",
            "https://",
            "https:///",
            "https://u:p@a.org/",
            "https://u@a.org/",
            "https://a b/",
            "https://a.org:99999/",
            &long,
            &grows,
        ];
        for url in malformed {
            assert_eq!(rules.permitted(url), Err(Refusal::Malformed), "{url}");
        }
        for url in ["http://a.org:22/", "http://a.org:25/", "https://a.org:0/", "http://a.org:1023/"] {
            assert_eq!(rules.permitted(url), Err(Refusal::Denied), "{url}");
        }
    }

    #[test]
    fn rules_are_read_strictly() {
        let long = "a".repeat(RULE_BYTES_MAX + 1);
        for text in
            ["", " ", "ftp://a.org/", "https://u@a.org/", "https://", "a b", "a/b", "10.0.0.0/8", "a:80", long.as_str()]
        {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    /// SEC-preview-rules.
    #[test]
    fn cm11_no_pattern_is_slow() {
        let text = "a".repeat(URL_BYTES_MAX);
        let pattern = format!("{}b", "*a".repeat(RULE_BYTES_MAX / 2));
        assert!(!fits(text.as_bytes(), pattern.as_bytes()));
        assert!(fits(b"abcbd", b"a*b*d") && fits(b"", b"**") && !fits(b"", b"a") && !fits(b"ab", b"a"));
    }
}

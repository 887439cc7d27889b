//! E-mail addresses: which are taken, and which are the same (appendices, "3PID Types").

use caseless::default_case_fold_str;

/// Bytes that an address may have (RFC 5321, 4.5.3.1.3).
const BYTES_MAX: usize = 254;
/// Bytes that the part before the `@` may have (RFC 5321, 4.5.3.1.1).
const LOCAL_BYTES_MAX: usize = 64;

/// An e-mail address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As it was written, but for the domain, which is in lower case and ASCII: where mail goes.
    pub mailbox: String,
    /// As addresses are compared: case-folded.
    pub canonical: String,
}

impl Address {
    /// Reads an address: `user@domain` and nothing else. Quoted users and addresses of hosts by number are not taken.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let odd_dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        if local.is_empty() || local.len() > LOCAL_BYTES_MAX || odd_dots || !local.chars().all(is_of_local_part) {
            return None;
        }
        let domain = domain_of(domain)?;
        let mailbox = format!("{local}@{domain}");
        let canonical = format!("{}@{domain}", default_case_fold_str(local));
        (mailbox.len() <= BYTES_MAX && canonical.len() <= 2 * BYTES_MAX).then_some(Self { mailbox, canonical })
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        self.canonical.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// Letters and digits of any script, and the marks that need no quotes (RFC 5322, 3.2.3): nothing that ends a header.
fn is_of_local_part(c: char) -> bool {
    c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
}

/// A domain in lower case, with other scripts in ASCII.
fn domain_of(text: &str) -> Option<String> {
    let domain = idna::domain_to_ascii(text).ok()?.to_ascii_lowercase();
    let is_label = |label: &str| {
        let fits = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && fits && !label.starts_with('-') && !label.ends_with('-')
    };
    let by_number = domain.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (domain.len() <= 253 && domain.split('.').all(is_label) && !by_number).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_by_their_folded_form() {
        let check = |text: &str, mailbox: &str, canonical: &str| {
            let address = Address::parse(text);
            let expected = Address { mailbox: mailbox.to_owned(), canonical: canonical.to_owned() };
            assert_eq!(address, Some(expected), "{text}");
        };
        check("bob@example.com", "bob@example.com", "bob@example.com");
        check("Bob.Baker+x@Example.COM", "Bob.Baker+x@example.com", "bob.baker+x@example.com");
        check("Strauß@Example.com", "Strauß@example.com", "strauss@example.com");
        check("bob@Bücher.example", "bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example");
        check("bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example");
        check("o'neil@localhost", "o'neil@localhost", "o'neil@localhost");
    }

    /// SEC-mail-injection: no address carries what a mail program or a header would read as more than one.
    #[test]
    fn what_is_more_than_an_address_is_refused() {
        let long = format!("{}@example.com", "x".repeat(65));
        for bad in [
            "",
            "bob",
            "@example.com",
            "bob@",
            "bob@@example.com",
            "bob@a@example.com",
            "a@evil.com,b@example.com",
            "Bob <bob@example.com>",
            "\"bob\"@example.com",
            "bob@example.com\r\nBcc: eve@example.com",
            "bob\r\nBcc: eve@example.com",
            "bob\n@example.com",
            "bob @example.com",
            " bob@example.com",
            "bob@example.com ",
            "bob\u{0}@example.com",
            "bob\u{200b}@example.com",
            "bob\u{202e}@example.com",
            ".bob@example.com",
            "bob.@example.com",
            "b..ob@example.com",
            "bob@[127.0.0.1]",
            "bob@127.0.0.1",
            "bob@exa mple.com",
            "bob@-example.com",
            "bob@example..com",
            "bob@example.com:25",
            "mailto:bob@example.com",
            &long,
            &format!("bob@{}.com", "a.".repeat(130)),
        ] {
            assert_eq!(Address::parse(bad), None, "{bad:?}");
        }
    }
}

//! E-mail: what this server writes to people, and how they show that an address is theirs.
//!
//! [`sessions`] holds what `requestToken` begins and a link in a mail confirms; [`crate::threepids`] holds which account
//! has which address. A mail is queued in the batch that decides it ([`queue`]) and leaves later by way of a [`Mailer`]
//! that is given at boot. The token of a link is made when its mail leaves, and only its hash is stored.

pub mod address;
pub mod queue;
pub mod sessions;
pub mod unsubscribing;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value as Json};

use crate::{Error, Users};

/// The medium of e-mail addresses among third-party identifiers.
pub const MEDIUM: &str = "email";

/// Where the links of mails lead, under the server's public address.
pub const CONFIRM_PATH: &str = "/_hearth/email/confirm";

/// A mail as it leaves: what its templates are filled with.
#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    /// The same for each try.
    pub id: String,
    /// The address.
    pub to: String,
    /// Which templates.
    pub kind: Kind,
    /// What is filled in.
    pub content: Map<String, Json>,
}

/// What a mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whoever registers is to confirm the address.
    Register,
    /// Whoever adds the address to an account is to confirm it.
    Add,
    /// Whoever has forgotten a password may set a new one.
    Reset,
    /// Somebody wanted to use an address that belongs to an account already.
    InUse,
    /// The account's password is another now.
    PasswordChanged,
    /// The account has got an address.
    AddressAdded,
    /// The account has lost an address.
    AddressRemoved,
    /// Something is unread.
    Notifications,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Register,
        Self::Add,
        Self::Reset,
        Self::InUse,
        Self::PasswordChanged,
        Self::AddressAdded,
        Self::AddressRemoved,
        Self::Notifications,
    ];

    /// The name of its templates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Add => "add",
            Self::Reset => "reset",
            Self::InUse => "in_use",
            Self::PasswordChanged => "password_changed",
            Self::AddressAdded => "address_added",
            Self::AddressRemoved => "address_removed",
            Self::Notifications => "notifications",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Why a mail has not left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// It never will: the mail server, or its own form, does not allow it.
    #[error("refused: {0}")]
    Refused(String),
    /// Not now.
    #[error("put off: {0}")]
    Deferred(String),
    /// The mail server cannot be reached, so no other mail can leave either.
    #[error("the mail server cannot be used: {0}")]
    Away(String),
}

/// Carries mails away.
#[async_trait]
pub trait Mailer: Send + Sync + 'static {
    /// Hands one mail to the mail server.
    ///
    /// # Errors
    /// [`Undelivered`].
    async fn send(&self, mail: &Mail) -> Result<(), Undelivered>;
}

/// Whether an address belongs to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtRegistration {
    /// It is not asked for.
    Off,
    /// Who wants may confirm one.
    Optional,
    /// Nobody registers without.
    Required,
}

/// What the administrator decides about e-mail.
#[derive(Clone)]
pub struct Options {
    /// Carries mails away.
    pub mailer: Arc<dyn Mailer>,
    /// The address under which clients reach the server, to which links lead.
    pub base_url: String,
    /// Hosts to whose pages the confirming page may lead on (`next_link`), with or without a port.
    pub next_link_hosts: Vec<String>,
    /// Whether answers may tell which addresses belong to an account.
    pub reveal_addresses: bool,
    /// Whether an address belongs to a registration.
    pub at_registration: AtRegistration,
    /// The only domains of addresses; empty: all. `*.example.org` stands for what is below.
    pub allowed_domains: Vec<String>,
    /// Domains whose addresses are not taken.
    pub denied_domains: Vec<String>,
}

impl Options {
    /// Usual settings.
    pub fn new(mailer: Arc<dyn Mailer>, base_url: &str) -> Self {
        Self {
            mailer,
            base_url: base_url.trim_end_matches('/').to_owned(),
            next_link_hosts: Vec::new(),
            reveal_addresses: false,
            at_registration: AtRegistration::Off,
            allowed_domains: Vec::new(),
            denied_domains: Vec::new(),
        }
    }

    /// Whether addresses of a domain are taken.
    fn takes(&self, domain: &str) -> bool {
        let is = |entry: &String| match entry.strip_prefix("*.") {
            Some(above) => domain.strip_suffix(above).is_some_and(|below| below.ends_with('.')),
            None => domain == entry,
        };
        let allowed = self.allowed_domains.is_empty() || self.allowed_domains.iter().any(is);
        allowed && !self.denied_domains.iter().any(is)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("email::Options").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl Users {
    /// The settings of e-mail.
    ///
    /// # Errors
    /// [`Error::NoMail`] where this server sends none.
    pub(crate) fn email(&self) -> Result<&Options, Error> {
        self.options.email.as_ref().ok_or(Error::NoMail)
    }

    /// Whether, and how, an address belongs to a registration.
    pub fn email_at_registration(&self) -> AtRegistration {
        self.options.email.as_ref().map_or(AtRegistration::Off, |email| email.at_registration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    #[async_trait]
    impl Mailer for Nowhere {
        async fn send(&self, _: &Mail) -> Result<(), Undelivered> {
            Ok(())
        }
    }

    #[test]
    fn domains_are_allowed_and_denied() {
        let check = |allowed: &[&str], denied: &[&str], domain: &str, expect: bool| {
            let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
            let options = Options::new(Arc::new(Nowhere), "https://example.org");
            let options = Options { allowed_domains: list(allowed), denied_domains: list(denied), ..options };
            assert_eq!(options.takes(domain), expect, "{allowed:?} {denied:?} {domain}");
        };
        check(&[], &[], "example.org", true);
        check(&["example.org"], &[], "example.org", true);
        check(&["example.org"], &[], "sub.example.org", false);
        check(&["*.example.org"], &[], "sub.example.org", true);
        check(&["*.example.org"], &[], "example.org", false);
        check(&["*.example.org"], &[], "badexample.org", false);
        check(&[], &["example.org"], "example.org", false);
        check(&["*.example.org"], &["bad.example.org"], "bad.example.org", false);
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("nothing"), None);
    }
}

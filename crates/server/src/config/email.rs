//! The keys of e-mail: the mail server, who writes, and who needs an address.

use std::path::PathBuf;

use http::Uri;
use percent_encoding::percent_decode_str;
use users::email::AtRegistration;

use super::Error;
use super::sources::Settings;
use crate::mailer::{self, Security};

const URL: &str = "email.url";
const FROM: &str = "email.from";
const AT_REGISTRATION: &str = "registration.email";

/// How e-mail is sent.
#[derive(Clone, Debug)]
pub struct Email {
    /// The mail server, and who writes.
    pub server: mailer::Settings,
    /// The address under which clients reach this server.
    pub base_url: String,
    /// Hosts to whose pages people may be led on.
    pub next_link_hosts: Vec<String>,
    /// Whether strangers may learn if an address belongs to an account.
    pub reveal_addresses: bool,
    /// How long a message is unread before a mail tells of it, in milliseconds.
    pub notification_delay_ms: i64,
    /// How long after such a mail the next may come, in milliseconds.
    pub notification_interval_ms: i64,
    /// Whether who registers confirms an address.
    pub at_registration: AtRegistration,
    /// The only domains of addresses; empty: all.
    pub allowed_domains: Vec<String>,
    /// Domains whose addresses may not be used.
    pub denied_domains: Vec<String>,
}

impl Email {
    /// Reads and checks the keys; none where no mail is sent.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of(settings: &Settings) -> Result<Option<Self>, Error> {
        let at_registration = match settings.text(AT_REGISTRATION)?.as_str() {
            "off" => AtRegistration::Off,
            "optional" => AtRegistration::Optional,
            "required" => AtRegistration::Required,
            _ => return Err(settings.wrong(AT_REGISTRATION, "must be `off`, `optional` or `required`")),
        };
        let Some(url) = settings.optional_text(URL)? else {
            return match at_registration {
                AtRegistration::Off => Ok(None),
                _ => Err(settings.wrong(AT_REGISTRATION, "needs `email.url`, by which mails are sent")),
            };
        };
        let from =
            settings.optional_text(FROM)?.ok_or_else(|| settings.wrong(FROM, "must be given with `email.url`"))?;
        if let Err(error) = from.parse::<lettre::message::Mailbox>() {
            return Err(settings.wrong(FROM, &format!("is no address such as `Hearth <noreply@example.org>`: {error}")));
        }
        let base_url = settings.url("public_base_url")?;
        let base_url = base_url.ok_or_else(|| {
            settings.wrong("public_base_url", "must be given with `email.url`: links in mails lead there")
        })?;
        let lower = |list: Vec<String>| list.into_iter().map(|entry| entry.to_ascii_lowercase()).collect();
        let paths = |list: Vec<String>| list.into_iter().map(PathBuf::from).collect();
        let (security, host, port, credentials) = mail_server(&url).map_err(|wrong| settings.wrong(URL, &wrong))?;
        let server = mailer::Settings {
            security,
            host,
            port,
            credentials,
            from,
            templates: settings.optional_text("email.templates")?.map(PathBuf::from),
            ca_files: paths(settings.texts("email.trusted_ca_files")?),
        };
        Ok(Some(Self {
            server,
            base_url,
            next_link_hosts: lower(settings.texts("email.next_link_hosts")?),
            reveal_addresses: settings.boolean("email.reveal_addresses")?,
            notification_delay_ms: settings.milliseconds("email.notification_delay")?,
            notification_interval_ms: settings.milliseconds("email.notification_interval")?,
            at_registration,
            allowed_domains: lower(settings.texts("registration.email_allowed_domains")?),
            denied_domains: lower(settings.texts("registration.email_denied_domains")?),
        }))
    }
}

type MailServer = (Security, String, u16, Option<(String, String)>);

/// Reads the address of a mail server. What is wrong is said without the address, which holds a password.
fn mail_server(url: &str) -> Result<MailServer, String> {
    let shape = || "must be like `smtps://user:password@host`, `smtp://…` or `smtp+plain://host`".to_owned();
    let uri: Uri = url.parse().map_err(|_| shape())?;
    let (security, port) = match uri.scheme_str() {
        Some("smtps") => (Security::Tls, 465),
        Some("smtp") => (Security::StartTls, 587),
        Some("smtp+plain") => (Security::Plain, 25),
        _ => return Err(shape()),
    };
    let authority = uri.authority().ok_or_else(shape)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() || uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
        return Err(shape());
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let credentials = match authority.as_str().rsplit_once('@') {
        None => None,
        Some(_) if security == Security::Plain => {
            return Err("must not have a password without TLS: use `smtp://` or `smtps://`".to_owned());
        }
        Some((pair, _)) => {
            let (user, password) = pair.split_once(':').ok_or_else(shape)?;
            Some((decoded(user).map_err(|_| shape())?, decoded(password).map_err(|_| shape())?))
        }
    };
    Ok((security, host, authority.port_u16().unwrap_or(port), credentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_has_an_address() {
        let check = |url: &str, expect: MailServer| assert_eq!(mail_server(url), Ok(expect), "{url}");
        let host = || "mail.example.org".to_owned();
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        check("smtps://mail.example.org", (Security::Tls, host(), 465, None));
        check("smtp://a%40b:p%3Aw%2F@mail.example.org/", (Security::StartTls, host(), 587, pair("a@b", "p:w/")));
        check("smtp+plain://mail.example.org:2525", (Security::Plain, host(), 2525, None));
        check("smtp+plain://[::1]:2525", (Security::Plain, "::1".to_owned(), 2525, None));
    }

    #[test]
    fn what_is_wrong_with_it_is_said_without_the_password() {
        for url in [
            "mail.example.org",
            "http://mail.example.org",
            "smtps://",
            "smtp://user@mail.example.org",
            "smtp+plain://user:hidden@mail.example.org",
            "smtps://user:hidden@mail.example.org/path",
            "smtps://user:hid den@mail.example.org",
        ] {
            let Err(wrong) = mail_server(url) else { panic!("{url} is taken") };
            assert!(!wrong.contains("hidden") && !wrong.contains("hid den"), "{url}: {wrong}");
        }
    }
}

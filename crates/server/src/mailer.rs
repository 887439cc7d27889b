//! Mails, put together and handed to a mail server (SMTP): over TLS with a verified certificate, or without TLS where the
//! configuration says so.

pub mod templates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::time::timeout;
use users::email::Mail;
use users::{Mailer, Undelivered};

use templates::{Rendered, Templates};

/// Time for one answer of the mail server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for one mail, from the connection to the last answer.
const MAIL_TIMEOUT: Duration = Duration::from_secs(120);
/// Connections to the mail server that are kept.
const CONNECTIONS_MAX: u32 = 4;
/// Answers of mail servers that are not about this mail, though they are meant for good: those about signing in, TLS and
/// commands, and 554, with which a server also greets those that it serves nothing. Who mends the configuration wants to find
/// the mails still there.
const NOT_OF_THIS_MAIL: &[u16] = &[421, 454, 500, 502, 503, 504, 521, 530, 534, 535, 538, 554];

/// How the mail server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (`smtps://`).
    Tls,
    /// TLS after `STARTTLS`, or nothing (`smtp://`).
    StartTls,
    /// No TLS (`smtp+plain://`).
    Plain,
}

/// The mail server, and who writes.
#[derive(Clone)]
pub struct Settings {
    /// How it is reached.
    pub security: Security,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password, if it wants them.
    pub credentials: Option<(String, String)>,
    /// Whom mails come from.
    pub from: String,
    /// A folder with templates that take the place of the built-in ones.
    pub templates: Option<PathBuf>,
    /// Further certificate authorities, PEM files.
    pub ca_files: Vec<PathBuf>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("host", &self.host).field("from", &self.from).finish_non_exhaustive()
    }
}

/// Sends mails by SMTP.
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    templates: Templates,
    from: Mailbox,
}

impl Smtp {
    /// Reads templates and certificates. Nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let from: Mailbox = settings.from.parse().map_err(|error| format!("`email.from`: {error}"))?;
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host.as_str())
            .port(settings.port)
            .timeout(Some(ANSWER_TIMEOUT))
            .hello_name(ClientId::Domain(from.email.domain().to_owned()))
            .pool_config(PoolConfig::new().max_size(CONNECTIONS_MAX))
            .tls(tls(settings)?);
        if let Some((user, password)) = settings.credentials.clone() {
            builder = builder.credentials(Credentials::new(user, password));
        }
        Ok(Self { transport: builder.build(), templates: Templates::load(settings.templates.as_deref())?, from })
    }

    fn message(&self, mail: &Mail) -> Result<Message, String> {
        let Rendered { subject, text, html } = self.templates.render(mail)?;
        let to: Address = mail.to.parse().map_err(|_| "the recipient is no address".to_owned())?;
        let builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .header(AutoSubmitted("auto-generated".to_owned()));
        let builder = match mail.content.get("unsubscribe").and_then(serde_json::Value::as_str) {
            Some(link) => builder
                .header(ListUnsubscribe(format!("<{link}>")))
                .header(ListUnsubscribePost("List-Unsubscribe=One-Click".to_owned())),
            None => builder,
        };
        let parts = MultiPart::alternative()
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text))
            .singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(html));
        builder.multipart(parts).map_err(|error| error.to_string())
    }
}

fn tls(settings: &Settings) -> Result<Tls, String> {
    if settings.security == Security::Plain {
        return Ok(Tls::None);
    }
    let store = match egress::machine_has_authorities() {
        true => CertificateStore::Default,
        false => CertificateStore::WebpkiRoots,
    };
    let mut parameters = TlsParameters::builder(settings.host.clone()).certificate_store(store);
    for path in &settings.ca_files {
        let wrong = |reason: String| format!("`email.trusted_ca_files`: {}: {reason}", path.display());
        let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        parameters =
            parameters.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| wrong(error.to_string()))?);
    }
    let parameters = parameters.build_rustls().map_err(|error| error.to_string())?;
    Ok(match settings.security {
        Security::Tls => Tls::Wrapper(parameters),
        Security::StartTls => Tls::Required(parameters),
        Security::Plain => Tls::None,
    })
}

#[async_trait]
impl Mailer for Smtp {
    async fn send(&self, mail: &Mail) -> Result<(), Undelivered> {
        let message = self.message(mail).map_err(Undelivered::Refused)?;
        match timeout(MAIL_TIMEOUT, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(undelivered(&error, mail)),
            Err(_) => Err(Undelivered::Away("it took too long".to_owned())),
        }
    }
}

fn undelivered(error: &lettre::transport::smtp::Error, mail: &Mail) -> Undelivered {
    let text = error.to_string();
    let of_this_mail = error.status().is_some_and(|code| !NOT_OF_THIS_MAIL.contains(&u16::from(code)));
    // A mail server that takes no addresses of other scripts never takes this one.
    if (error.is_permanent() && of_this_mail) || (error.is_client() && !mail.to.is_ascii()) {
        return Undelivered::Refused(text);
    }
    if error.is_transient() && of_this_mail { Undelivered::Deferred(text) } else { Undelivered::Away(text) }
}

/// A header of one value.
macro_rules! header {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        struct $type(String);

        impl Header for $type {
            fn name() -> HeaderName {
                HeaderName::new_from_ascii_str($name)
            }

            fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Ok(Self(text.to_owned()))
            }

            fn display(&self) -> HeaderValue {
                HeaderValue::new(Self::name(), self.0.clone())
            }
        }
    };
}

header!(
    /// By which answering machines do not answer (RFC 3834).
    AutoSubmitted,
    "Auto-Submitted"
);
header!(
    /// Where no more such mails are asked for (RFC 2369).
    ListUnsubscribe,
    "List-Unsubscribe"
);
header!(
    /// That a mail program may do so by itself (RFC 8058).
    ListUnsubscribePost,
    "List-Unsubscribe-Post"
);

/// The mailer of the program.
///
/// # Errors
/// What is wrong with the settings.
pub fn of(settings: &Settings) -> Result<Arc<dyn Mailer>, String> {
    Ok(Arc::new(Smtp::new(settings)?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;
    use users::email::Kind;

    use super::*;

    fn smtp() -> Smtp {
        Smtp::new(&Settings {
            security: Security::Plain,
            host: "localhost".to_owned(),
            port: 25,
            credentials: None,
            from: "Hearth <noreply@example.org>".to_owned(),
            templates: None,
            ca_files: Vec::new(),
        })
        .unwrap()
    }

    fn mail(to: &str, server_name: &str) -> Mail {
        let content = json!({
            "server_name": server_name,
            "address": to,
            "user_id": "@alice:example.org",
            "link": "https://example.org/_hearth/email/confirm?sid=1&token=2",
        });
        let content = content.as_object().unwrap().clone();
        Mail { id: "ID".to_owned(), to: to.to_owned(), kind: Kind::Register, content }
    }

    /// SEC-mail-injection: what stands in a mail adds no header and no markup.
    #[tokio::test]
    async fn names_in_a_mail_add_no_header_and_no_markup() {
        let evil = "evil\r\nBcc: eve@example.com\r\n\r\n<script>alert(1)</script>";
        let message = smtp().message(&mail("bob@example.com", evil)).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        let (_, html) = text.split_once("Content-Type: text/html").unwrap();
        assert!(!html.contains("<script>"), "{html}");
        assert_eq!(message.envelope().to().len(), 1);
        assert!(smtp().message(&mail("bob@example.com\r\nBcc: eve@example.com", "example.org")).is_err());
        assert!(smtp().message(&mail("bob@example.com, eve@example.com", "example.org")).is_err());
    }

    #[tokio::test]
    async fn a_mail_has_both_forms_and_an_id_of_its_own() {
        let message = smtp().message(&mail("bob@example.com", "example.org")).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        for part in ["multipart/alternative", "text/plain", "text/html", "<ID@example.org>", "To: bob@example.com"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("Auto-Submitted: auto-generated"), "{text}");
    }

    #[tokio::test]
    async fn nobody_listens_so_the_mail_server_is_away() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let smtp = Smtp {
            transport: AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(port).build(),
            ..smtp()
        };
        let outcome = smtp.send(&mail("bob@example.com", "example.org")).await;
        assert!(matches!(outcome, Err(Undelivered::Away(_))), "{outcome:?}");
    }
}

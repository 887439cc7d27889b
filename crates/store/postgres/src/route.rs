//! Where PostgreSQL is, and how the way there is protected: `sslmode` and `sslrootcert` of the URL, as in libpq.
//!
//! Without `sslmode`, and with `prefer`, connections are plain, as suits a local socket, loopback or a private network.
//! `require` encrypts; with an `sslrootcert` it also checks the certificate, as `verify-ca` does. `verify-full` checks the
//! name in it too. The authorities are those of the PEM file `sslrootcert`, or the machine's own where it says `system`
//! or nothing.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use store::Error;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connection::describe;

/// What `sslrootcert` says for the authorities that the machine trusts.
const SYSTEM: &str = "system";

/// Where PostgreSQL is.
#[derive(Clone)]
pub struct Route {
    /// Host, user, database and so on.
    pub config: Config,
    /// Encryption, if it is wanted.
    pub tls: Option<MakeRustlsConnect>,
}

/// What is demanded of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Nothing: who listens cannot read along, who sits in between can.
    Nothing,
    /// An authority that is trusted has signed it.
    Authority,
    /// And it is of this host.
    Name,
}

impl Route {
    /// Reads a connection URL.
    ///
    /// # Errors
    /// [`Error::Unusable`] if it is none, or its certificates cannot be read.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let (rest, mode, authorities) = take_tls(url);
        let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            Error::Unusable(format!(
                "the PostgreSQL address cannot be read ({}): write postgres://user:password@host:port/database, \
                 or postgres://user@/database?host=/run/postgresql for a local socket",
                describe(&error)
            ))
        })?;
        if config.get_hosts().len() > 1 {
            // Of several hosts, the one that is the primary now.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let check = match (mode.as_deref(), &authorities) {
            (None | Some("disable" | "prefer"), None) => {
                config.ssl_mode(SslMode::Disable);
                return Ok(Self { config, tls: None });
            }
            (Some("require"), None) => Check::Nothing,
            (Some("require" | "verify-ca"), _) => Check::Authority,
            (Some("verify-full"), _) => Check::Name,
            (None | Some("disable" | "prefer"), Some(_)) => {
                return unusable(
                    "sslrootcert of the PostgreSQL address needs sslmode=verify-full beside it".to_owned(),
                );
            }
            (Some(other), _) => {
                return unusable(format!(
                    "the PostgreSQL address has the unknown sslmode={other}: write disable, require, verify-ca or \
                     verify-full"
                ));
            }
        };
        if check == Check::Nothing {
            tracing::warn!("sslmode=require does not check whose certificate PostgreSQL shows: verify-full does");
        }
        config.ssl_mode(SslMode::Require);
        Ok(Self { config, tls: Some(MakeRustlsConnect::new(client(check, authorities.as_deref())?)) })
    }

    /// The same under another application name.
    pub fn named(&self, name: &str) -> Self {
        let mut named = self.clone();
        named.config.application_name(name);
        named
    }
}

fn unusable<T>(text: String) -> Result<T, Error> {
    Err(Error::Unusable(text))
}

/// Parts `sslmode` and `sslrootcert` from the URL: the driver does not know all of them.
fn take_tls(url: &str) -> (String, Option<String>, Option<String>) {
    // The password may hold a question mark.
    let authority = url.find('@').unwrap_or(0);
    let Some(start) = url.get(authority..).and_then(|rest| rest.find('?')).map(|place| authority + place) else {
        return (url.to_owned(), None, None);
    };
    let (base, query) = (url.get(..start).unwrap_or_default(), url.get(start + 1..).unwrap_or_default());
    let (mut mode, mut authorities, mut rest) = (None, None, Vec::new());
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let value = |text: &str| Some(percent_decode_str(text).decode_utf8_lossy().into_owned());
        match part.split_once('=') {
            Some(("sslmode", text)) => mode = value(text),
            Some(("sslrootcert", text)) => authorities = value(text),
            _ => rest.push(part),
        }
    }
    let rest = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    (rest, mode, authorities)
}

fn client(check: Check, authorities: Option<&str>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: &dyn std::fmt::Display| Error::Unusable(format!("TLS to PostgreSQL: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    if check == Check::Nothing {
        let verifier = Arc::new(Lenient { provider, authority: None });
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let roots = roots(authorities)?;
    if check == Check::Name {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let authority = Some(authority.map_err(|error| failed(&error))?);
    let verifier = Arc::new(Lenient { provider, authority });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The authorities that are trusted.
fn roots(authorities: Option<&str>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(path) = authorities.filter(|path| *path != SYSTEM) else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return unusable("this machine has no trusted certificates: name a file by sslrootcert".to_owned());
        }
        return Ok(roots);
    };
    let wrong = |error: &dyn std::fmt::Display| Error::Unusable(format!("sslrootcert {path}: {error}"));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    for certificate in certificates {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate in PEM form"));
    }
    Ok(roots)
}

/// Checks less than the whole: that the peer has the certificate's key, always; who signed it, where that is known.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is what comes last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tls_is_parted_from_the_rest() {
        let part = |url: &str| take_tls(url);
        assert_eq!(part("postgres://a:b?c@h/d"), ("postgres://a:b?c@h/d".to_owned(), None, None));
        let (rest, mode, authorities) =
            part("postgres://a:b?c@h/d?sslmode=verify-full&connect_timeout=3&sslrootcert=%2Fetc%2Fca.pem");
        assert_eq!(rest, "postgres://a:b?c@h/d?connect_timeout=3");
        assert_eq!((mode.unwrap(), authorities.unwrap()), ("verify-full".to_owned(), "/etc/ca.pem".to_owned()));
        let (rest, mode, _) = part("postgres:///d?host=/run/postgresql&sslmode=disable");
        assert_eq!((rest.as_str(), mode.unwrap().as_str()), ("postgres:///d?host=/run/postgresql", "disable"));
    }

    #[test]
    fn only_some_modes_encrypt() {
        let parse = |query: &str| Route::parse(&format!("postgres://u@h/d{query}"));
        for plain in ["", "?sslmode=prefer", "?sslmode=disable"] {
            assert!(parse(plain).unwrap().tls.is_none(), "{plain}");
        }
        let route = parse("?sslmode=require").unwrap();
        assert!(route.tls.is_some());
        assert_eq!(route.config.get_ssl_mode(), SslMode::Require);
        for wrong in ["?sslmode=yes", "?sslrootcert=x.pem", "?sslmode=verify-full&sslrootcert=no-such-file.pem"] {
            assert!(matches!(parse(wrong), Err(Error::Unusable(text)) if text.contains("ssl")), "{wrong}");
        }
    }
}

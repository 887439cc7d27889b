//! TLS: certificate and key from files.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or holds something else.
    #[error("{path}: {wrong}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        wrong: String,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate of a listener, read again when its files change: a renewed one needs no restart.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    current: RwLock<(Option<Stamp>, Arc<CertifiedKey>)>,
}

/// When the two files were last changed.
type Stamp = (SystemTime, SystemTime);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().1))
    }
}

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// If a file cannot be read, or the two do not fit.
    pub fn read(files: &Tls) -> Result<Arc<Self>, Error> {
        let current = (stamp(files), load(files)?);
        Ok(Arc::new(Self { files: files.clone(), current: RwLock::new(current) }))
    }

    /// Reads the files again if they have changed. If they cannot be used, the certificate stays as it was.
    pub fn refresh(&self) {
        let found = stamp(&self.files);
        if found.is_none() || found == self.current.read().0 {
            return;
        }
        let path = self.files.certificate.display();
        match load(&self.files) {
            Ok(key) => {
                *self.current.write() = (found, key);
                tracing::info!(%path, "the certificate has been read again");
            }
            // Perhaps one of the two is still being written.
            Err(error) => tracing::warn!(%path, %error, "the certificate has changed and cannot be used"),
        }
    }

    /// An acceptor with this certificate; HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// If the versions of TLS cannot be had.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn stamp(files: &Tls) -> Option<Stamp> {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Some((changed(&files.certificate)?, changed(&files.key)?))
}

fn load(files: &Tls) -> Result<Arc<CertifiedKey>, Error> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| Error::File {
        path: path.display().to_string(),
        wrong: error.to_string(),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&files.certificate, &error))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"the file holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let key = CertifiedKey::from_der(chain, key, &default_provider())?;
    Ok(Arc::new(key))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;
    use std::time::Duration;

    use super::*;

    /// Writes a file, and makes it look as if that had happened `later` seconds after the epoch.
    fn write(path: &Path, text: &str, later: u64) {
        std::fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(later)).unwrap();
    }

    fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
        certificate.current.read().1.cert.clone()
    }

    #[test]
    fn a_renewed_certificate_is_read_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let files = Tls { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        let make = |later: u64| {
            let made = rcgen::generate_simple_self_signed(["hearth.test".to_owned()]).unwrap();
            write(&files.key, &made.signing_key.serialize_pem(), later);
            write(&files.certificate, &made.cert.pem(), later);
        };
        make(1);
        let certificate = Certificate::read(&files).unwrap();
        let first = chain(&certificate);
        certificate.refresh();
        assert_eq!(chain(&certificate), first);

        make(2);
        certificate.refresh();
        let second = chain(&certificate);
        assert_ne!(second, first);

        write(&files.certificate, "half a", 3);
        certificate.refresh();
        assert_eq!(chain(&certificate), second);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = Tls { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
        let make = || rcgen::generate_simple_self_signed(["hearth.test".to_owned()]).unwrap();
        write(&files.certificate, &make().cert.pem(), 1);
        write(&files.key, &make().signing_key.serialize_pem(), 1);
        assert!(matches!(Certificate::read(&files), Err(Error::Unusable(_))));
    }
}

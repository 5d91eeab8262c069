//! TLS: the certificate and its key, read at the start and again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as RustlsError, InconsistentKeys, ServerConfig};

/// Between looks at the files.
const OFTEN: Duration = Duration::from_secs(2);

/// The certificate of a TLS port.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    /// Digest of the files as they were read last, whether they could be used or not; zeros where they could not be read.
    seen: Mutex<[u8; 32]>,
    acceptor: TlsAcceptor,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{flag} {path}: {error}", path = path.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{flag} {path}: {reason}", path = path.display())]
    Unusable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library refuses the settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] RustlsError),
}

impl Tls {
    /// Reads the certificate chain at `cert` and its key at `key`.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        // Chosen explicitly, since a build may contain two providers.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = Files::read(cert, key)?;
        let shown = Arc::new(Shown(ArcSwap::from_pointee(files.certified(cert, key, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (cert, key, seen) = (cert.to_owned(), key.to_owned(), Mutex::new(files.digest()));
        Ok(Arc::new(Self { cert, key, provider, shown, seen, acceptor }))
    }

    /// Reads the files again if they have changed; new connections see the new certificate. Files that cannot be used change
    /// nothing.
    ///
    /// # Errors
    /// As [`Tls::load`], once for each change of the files.
    pub fn reload(&self) -> Result<Reload, TlsError> {
        let files = Files::read(&self.cert, &self.key);
        let digest = files.as_ref().map_or([0; 32], Files::digest);
        let before = std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), digest);
        if before == digest {
            return Ok(Reload::Unchanged);
        }
        let files = files?;
        self.shown.0.store(Arc::new(files.certified(&self.cert, &self.key, &self.provider)?));
        Ok(Reload::Changed)
    }

    /// [`Tls::reload`], into the log.
    pub fn refresh(&self) {
        match self.reload() {
            Ok(Reload::Unchanged) => {}
            Ok(Reload::Changed) => tracing::info!(cert = %self.cert.display(), "the certificate was read again"),
            Err(error) => tracing::error!(%error, "the certificate could not be read again; the old one stays"),
        }
    }

    /// Never ends: looks at the files again and again.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(OFTEN).await;
            let tls = Arc::clone(&self);
            // Reading a network file system may block, so this runs on a blocking thread. A panic is already in the log.
            drop(tokio::task::spawn_blocking(move || tls.refresh()).await);
        }
    }

    /// What makes a connection a TLS one.
    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

/// The result of [`Tls::reload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The files are as they were.
    Unchanged,
    /// Another certificate is shown.
    Changed,
}

/// The certificate for new connections.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";

/// Both files.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |flag, path: &Path| {
            std::fs::read(path).map_err(|error| TlsError::Unreadable { flag, path: path.to_owned(), error })
        };
        Ok(Self { cert: read(CERT, cert)?, key: read(KEY, key)? })
    }

    fn digest(&self) -> [u8; 32] {
        let parts = [Sha256::digest(&self.cert), Sha256::digest(&self.key)];
        Sha256::digest(parts.concat()).into()
    }

    fn certified(&self, cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let fail = |flag, path: &Path, reason: String| TlsError::Unusable { flag, path: path.to_owned(), reason };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<Result<_, _>>()
            .map_err(|error| fail(CERT, cert, format!("it is not PEM: {error}")))?;
        if chain.is_empty() {
            let reason = "it holds no certificate; a PEM file with -----BEGIN CERTIFICATE----- is needed";
            return Err(fail(CERT, cert, reason.into()));
        }
        let secret = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let encrypted = self.key.windows(17).any(|text| text == b"ENCRYPTED PRIVATE");
            let reason = match encrypted {
                true => "the key has a passphrase; write it without one (openssl pkey -in FILE -out PLAIN)".into(),
                false => {
                    format!("it holds no private key; a PEM file with -----BEGIN PRIVATE KEY----- is needed ({error})")
                }
            };
            fail(KEY, key, reason)
        })?;
        CertifiedKey::from_der(chain, secret, provider).map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                fail(KEY, key, format!("the key does not belong to the certificate in {}", cert.display()))
            }
            RustlsError::InvalidCertificate(reason) => {
                fail(CERT, cert, format!("the certificate is invalid: {reason}"))
            }
            error => fail(KEY, key, format!("the key cannot be used: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        let write = |(one, two): (&str, &str)| {
            std::fs::write(&cert, one).unwrap();
            std::fs::write(&key, two).unwrap();
        };
        let missing = Tls::load(&cert, &key).err().unwrap().to_string();
        assert!(missing.starts_with("--tls-cert ") && missing.contains("cert.pem: No such file"), "{missing}");
        let ((one, one_key), (two, two_key)) = (pair("one"), pair("two"));
        let broken = one.replacen("MII", "!!!", 1);
        let passphrase = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let refused = [
            (("", one_key.as_str()), "cert.pem: it holds no certificate"),
            ((one_key.as_str(), one_key.as_str()), "cert.pem: it holds no certificate"),
            ((broken.as_str(), one_key.as_str()), "cert.pem: "),
            ((one.as_str(), ""), "key.pem: it holds no private key"),
            ((one.as_str(), passphrase), "key.pem: the key has a passphrase"),
            ((one.as_str(), two_key.as_str()), "key.pem: the key does not belong to the certificate in"),
        ];
        for (files, expected) in refused {
            write(files);
            let message = Tls::load(&cert, &key).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
        write((&one, &one_key));
        let tls = Tls::load(&cert, &key).unwrap();
        let shown = || tls.shown.0.load().cert[0].clone();
        let before = shown();
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
        // As where only one of two files was written yet.
        write((&two, &one_key));
        assert!(tls.reload().is_err());
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged, "a failure is said once");
        assert_eq!(shown(), before);
        write((&two, &two_key));
        assert_eq!(tls.reload().unwrap(), Reload::Changed);
        assert_ne!(shown(), before);
    }
}

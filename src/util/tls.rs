//! TLS on the relay's own listener: the certificate, and its replacement without a restart.
//!
//! Knows no files: the settings read the [`TlsIdentity`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Protocols offered in the handshake (RFC 7301), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// The name of HTTP/2 in the handshake (RFC 9113 §3.2).
pub(crate) const HTTP2: &[u8] = b"h2";

/// Why a certificate and its key cannot be used, phrased to follow the word "expected". Never repeats
/// the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate, or one that cannot be parsed.
    #[error("a file with certificates in PEM, the server's own first")]
    Certificate,
    /// No private key, or one that is encrypted.
    #[error("a file with a private key in PEM (PKCS#8, PKCS#1 or SEC 1), not encrypted")]
    Key,
    /// A kind of key that TLS knows no signature for.
    #[error("a private key of RSA, P-256, P-384 or Ed25519")]
    KindOfKey,
    /// Both can be parsed, but they do not belong together.
    #[error("the private key of the first certificate in TLS_CERTIFICATE")]
    Mismatch,
}

impl IdentityError {
    /// Whether the key is at fault, and not the certificate.
    pub fn is_of_the_key(self) -> bool {
        self != Self::Certificate
    }
}

/// A certificate chain and the private key that belongs to it.
#[derive(Clone)]
pub struct TlsIdentity(Arc<CertifiedKey>);

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TlsIdentity({} certificates)", self.0.cert.len())
    }
}

impl TlsIdentity {
    /// Reads a chain, the server's own certificate first, and its key, both in PEM (RFC 7468).
    ///
    /// # Errors
    /// When there is no certificate, no key, or they do not fit.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        if chain.is_empty() {
            return Err(IdentityError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| IdentityError::Key)?;
        let key = ring::sign::any_supported_type(&key).map_err(|_| IdentityError::KindOfKey)?;
        let identity = CertifiedKey::new(chain, key);
        match identity.keys_match() {
            // Nothing is known against them.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Self(Arc::new(identity)))
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch),
            Err(_) => Err(IdentityError::Certificate),
        }
    }
}

/// The active identity. New connections get the current one; open ones keep theirs.
pub struct Identities(ArcSwap<CertifiedKey>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Identities")
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Identities {
    /// Starts with `identity`.
    pub fn new(TlsIdentity(first): TlsIdentity) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(first)))
    }

    /// Replaces it.
    pub fn replace(&self, TlsIdentity(next): TlsIdentity) {
        self.0.store(next);
    }

    /// For handshakes with the active identity: TLS 1.2 or 1.3, HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// When the system provides no random numbers.
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let identities: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(identities);
        // So that thousands of clients that reconnect at once do not need a signature each.
        config.ticketer = ring::Ticketer::new()?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}

/// Environment variables that replace the system's certificate authorities.
const TRUST_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// An environment variable for trust anchors names none that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct TrustAnchorError {
    /// `SSL_CERT_FILE` or `SSL_CERT_DIR`.
    pub variable: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// Checks the trust anchors that the environment names, which every outgoing TLS connection
/// depends on. The system's own are not checked: a service without any may need none.
///
/// # Errors
/// [`TrustAnchorError`] when there is not one certificate.
pub fn trust_anchors() -> Result<(), TrustAnchorError> {
    let [file, folder] = TRUST_VARIABLES.map(std::env::var_os);
    if let Some(file) = file {
        let wrong = |problem: String| TrustAnchorError {
            variable: TRUST_VARIABLES[0],
            problem: format!("{}: {problem}", std::path::Path::new(&file).display()),
        };
        let pem = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        let (added, _) = roots.add_parsable_certificates(certificates);
        return if added > 0 {
            Ok(())
        } else {
            Err(wrong("expected a file with certificates in PEM".to_owned()))
        };
    }
    if let Some(folders) = folder
        && !folders.is_empty()
        && !std::env::split_paths(&folders).any(|folder| folder.is_dir())
    {
        let problem = format!("{}: no such directory", std::path::Path::new(&folders).display());
        return Err(TrustAnchorError { variable: TRUST_VARIABLES[1], problem });
    }
    Ok(())
}

//! `token-relay healthcheck`: asks an instance on this machine whether it is ready.
//!
//! For containers, whose image holds no other client.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use crate::settings::{Settings, reachable};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// For each step of the conversation.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Whom to ask, and how.
pub struct Instance {
    address: SocketAddr,
    tls: bool,
}

impl Instance {
    /// The instance that the settings describe.
    pub fn of(settings: &Settings) -> Self {
        Self { address: reachable(settings.server.listen), tls: settings.tls.is_some() }
    }

    /// The instance at `url`, of which scheme, host and port count.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when it is no URL of HTTP; otherwise when there is no such host.
    pub fn at(url: &url::Url) -> io::Result<Self> {
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(io::Error::new(ErrorKind::InvalidInput, "expected an http(s) URL")),
        };
        let address = url.socket_addrs(|| None)?.first().copied().ok_or(ErrorKind::NotFound)?;
        Ok(Self { address, tls })
    }

    /// The answer to whether it is ready, head and body.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn ask(&self) -> io::Result<String> {
        let stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        if self.tls {
            let name = ServerName::from(self.address.ip());
            let client = ClientConnection::new(Arc::new(tls_config()?), name);
            self.converse(StreamOwned::new(client.map_err(io::Error::other)?, stream))
        } else {
            self.converse(stream)
        }
    }

    fn converse(&self, mut stream: impl Read + Write) -> io::Result<String> {
        let address = self.address;
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        stream.flush()?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn tls_config() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes whatever certificate is shown. The instance is asked at its address, while its certificate
/// is for the name that the world knows, by an authority that this machine need not know. Nothing
/// secret is said, and whoever could answer in its place on this machine could as well end it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

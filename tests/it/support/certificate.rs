//! Certificates for a relay that speaks TLS, and clients that trust them.

use std::{path::Path, process::Command, sync::Arc};

use reqwest::{Certificate, Client, ClientBuilder, redirect::Policy};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Makes `<name>.crt`, for this machine, and `<name>.key` in `folder`.
pub fn make(folder: &Path, name: &str) {
    let done = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", &format!("/CN={name}"), "-keyout", &format!("{name}.key")])
        .args(["-out", &format!("{name}.crt"), "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .current_dir(folder)
        .output()
        .expect("openssl runs; install the package openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A client that trusts the certificates in these files and no others.
pub fn trusting(files: &[&str]) -> ClientBuilder {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = files.iter().map(|file| std::fs::read(file).unwrap());
    let certificates = certificates.map(|pem| Certificate::from_pem(&pem).unwrap());
    Client::builder().tls_certs_only(certificates).redirect(Policy::none())
}

/// A TLS connection that offers `protocol` and trusts the certificates in these files.
pub async fn connect(
    address: &str,
    protocol: &str,
    files: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_over(TcpStream::connect(address).await?, protocol, files).await
}

/// Likewise, over a connection that exists already.
pub async fn connect_over(
    socket: TcpStream,
    protocol: &str,
    files: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    for file in files {
        roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, socket).await
}

/// The server's certificate, as it stands in its file.
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

//! A connection to a server: in clear or over TLS, with HTTP/1.1 or as a share of an HTTP/2 connection.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{Error, Result},
    net::{TcpSocket, TcpStream},
    sync::OnceCell,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

/// Connected bytes.
pub type Link = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The certificate that servers over TLS have.
static TRUSTED: OnceLock<CertificateDer<'static>> = OnceLock::new();

/// Trusts the certificate in this file and no other.
pub fn trust(file: &Path) {
    let certificate = CertificateDer::from_pem_file(file).expect("a certificate");
    TRUSTED.set(certificate).expect("one certificate");
}

/// What [`trust`] was given.
pub fn trusted() -> Option<&'static CertificateDer<'static>> {
    TRUSTED.get()
}

/// What is offered by ALPN (RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http1,
    Http2,
}

fn connector(protocol: Protocol) -> TlsConnector {
    static CONNECTORS: OnceLock<[TlsConnector; 2]> = OnceLock::new();
    let connectors = CONNECTORS.get_or_init(|| {
        [&b"http/1.1"[..], b"h2"].map(|protocol| {
            let mut roots = RootCertStore::empty();
            roots.add(trusted().expect("--certificate").clone()).expect("a certificate");
            let config = ClientConfig::builder().with_root_certificates(roots);
            let mut config = config.with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            // Each connection is another browser's.
            config.resumption = Resumption::disabled();
            TlsConnector::from(Arc::new(config))
        })
    });
    connectors[protocol as usize].clone()
}

/// A server: its address, and whether it speaks TLS.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: bool,
}

impl Target {
    /// Of `http://ADDRESS` or `https://ADDRESS` of the loopback network.
    pub fn of(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let tls = match scheme {
            "http" => false,
            "https" => true,
            other => panic!("{other} is neither http nor https"),
        };
        let address: SocketAddr =
            rest.split('/').next().unwrap_or_default().parse().expect("an address");
        assert!(address.ip().is_loopback(), "loopback only");
        Self { address, tls }
    }

    /// Its origin (RFC 6454).
    pub fn origin(&self) -> String {
        format!("http{}://{}", if self.tls { "s" } else { "" }, self.address)
    }

    /// Connects, from `source` where it matters.
    pub async fn connect(&self, source: Option<Ipv4Addr>, protocol: Protocol) -> Result<Link> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let socket = socket.connect(self.address).await?;
        socket.set_nodelay(true)?;
        if !self.tls {
            return Ok(Either::Left(socket));
        }
        let name = ServerName::from(self.address.ip());
        let stream = connector(protocol).connect(name, socket).await?;
        if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Error::other("the server does not speak HTTP/2"));
        }
        Ok(Either::Right(Box::new(stream)))
    }
}

/// The address from which client `number` connects. Clients are spread over eight, since one has
/// 28 000 ports.
pub fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8)
}

/// HTTP/2 connections that streams share, each opened when its first stream is.
pub struct Shared {
    connections: Vec<OnceCell<SendRequest<Bytes>>>,
    per_connection: usize,
}

impl Shared {
    /// For `streams` streams, `per_connection` on each.
    pub fn new(streams: usize, per_connection: usize) -> Self {
        let count = streams.div_ceil(per_connection);
        Self { connections: (0..count).map(|_| OnceCell::new()).collect(), per_connection }
    }

    /// The connection of stream `number`.
    pub async fn of(&self, target: Target, number: usize) -> Result<SendRequest<Bytes>> {
        let index = number / self.per_connection;
        let connection = self.connections[index].get_or_try_init(|| async move {
            let link = target.connect(Some(source(index)), Protocol::Http2).await?;
            let (sender, connection) = h2::client::handshake(link).await.map_err(Error::other)?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            Result::Ok(sender)
        });
        Ok(connection.await?.clone())
    }
}

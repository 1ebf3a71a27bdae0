//! The TLS handshake of accepted connections.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::http::{AppState, operator::metrics::HandshakeOutcome};

/// What a listener needs to speak TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Performs the handshake.
    pub(crate) acceptor: TlsAcceptor,
    /// Where handshakes are counted.
    pub(crate) app: AppState,
}

impl Tls {
    /// The connection behind the handshake, if it succeeds within `timeout`.
    pub(crate) async fn handshake(
        self,
        socket: TcpStream,
        timeout: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let handshake = tokio::time::timeout(timeout, self.acceptor.accept(socket)).await;
        let outcome = match &handshake {
            Ok(Ok(_)) => HandshakeOutcome::Succeeded,
            Ok(Err(error)) => {
                // Port scanners and load balancers' health checks do this all the time.
                tracing::debug!(%error, "TLS handshake failed");
                HandshakeOutcome::Failed
            }
            Err(_) => {
                tracing::debug!("TLS handshake timed out");
                HandshakeOutcome::TimedOut
            }
        };
        self.app.metrics.handshake(outcome);
        handshake.ok()?.ok()
    }
}

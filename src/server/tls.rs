//! The TLS handshake of accepted connections.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;

use crate::{
    http::{AppState, operator::metrics::HandshakeOutcome},
    server::{network_stream::Tcp, tls_stream::TlsStream},
};

/// What a listener needs to speak TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    /// How the handshake is performed.
    pub(crate) config: Arc<ServerConfig>,
    /// Where handshakes are counted.
    pub(crate) app: AppState,
}

impl Tls {
    /// The connection behind the handshake, if it succeeds within `timeout`.
    pub(crate) async fn handshake(
        self,
        socket: Tcp,
        timeout: Duration,
    ) -> Option<Box<TlsStream<Tcp>>> {
        let handshake = tokio::time::timeout(timeout, TlsStream::accept(self.config, socket)).await;
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

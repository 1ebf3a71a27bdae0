//! Accepts connections and hands each to the SSE fast path or to hyper.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    server::{
        direct_write::StreamTransport,
        error::AppError,
        hyper,
        sse_fast_path::{self, FirstRequest, Rewound},
        tls::Tls,
    },
    util,
};

/// Connections that the kernel completes before they are accepted. Thousands of clients may
/// reconnect in the same second.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept; most likely the process has no file descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Limits on the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Connections open at the same time.
    pub(crate) max_connections: usize,
    /// Time for a request head to arrive, and for the next one on an idle connection.
    pub(crate) header_timeout: Duration,
}

/// Listens on `address`.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, AppError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| AppError::Listen { address, source })
}

/// Accepts connections until `shutdown`; `connections` tracks those still open. With `tls`, only
/// TLS is accepted.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
    connections: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
            // Before a TLS handshake no answer would be understood.
            if tls.is_none() {
                refuse(&socket);
            }
            continue;
        };
        // Without it only latency suffers.
        let _ = socket.set_nodelay(true);
        let connection = Connection {
            peer,
            router: router.clone(),
            limits,
            permit,
            shutdown: shutdown.clone(),
            tracker: connections.clone(),
        };
        match tls.clone() {
            None => connections.spawn(connection.serve(socket)),
            Some(tls) => connections.spawn(connection.serve_tls(tls, socket)),
        };
    }
}

/// Answers 503 without reading a request.
fn refuse(socket: &TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    // It fits into an empty socket buffer; where it does not, the client gets no answer.
    let _ = socket.try_write(FULL);
}

/// An accepted connection.
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) router: Router,
    pub(crate) limits: ConnectionLimits,
    /// Its place among the connections of the listener.
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

impl Connection {
    /// Performs the TLS handshake, then serves.
    async fn serve_tls(self, tls: Tls, socket: TcpStream) {
        let handshake = tokio::select! {
            () = self.shutdown.cancelled() => return,
            handshake = tls.handshake(socket, self.limits.header_timeout) => handshake,
        };
        let Some(socket) = handshake.map(Box::new) else { return };
        if socket.get_ref().1.alpn_protocol() == Some(util::tls::HTTP2) {
            Box::pin(hyper::serve(self, socket)).await;
        } else {
            Box::pin(self.serve(socket)).await;
        }
    }

    async fn serve<S: StreamTransport>(self, mut socket: S) {
        let read = sse_fast_path::read_first_request(&mut socket);
        let first = tokio::select! {
            () = self.shutdown.cancelled() => return,
            first = tokio::time::timeout(self.limits.header_timeout, read) => first,
        };
        match first {
            Ok(Ok(FirstRequest::EventStream(request))) => {
                sse_fast_path::serve(self, socket, request).await;
            }
            Ok(Ok(FirstRequest::Other(read))) if read.is_empty() => {}
            Ok(Ok(FirstRequest::Other(read))) => {
                Box::pin(hyper::serve(self, Rewound::new(read, socket))).await;
            }
            Ok(Err(error)) => tracing::trace!(%error, "connection closed before a request"),
            Err(_) => tracing::trace!("no request in time"),
        }
    }
}

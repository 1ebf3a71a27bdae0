//! Accepts connections and hands each to the SSE fast path or to hyper.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    server::{
        connection::{Connection, ConnectionLimits, Segments},
        connection_slots::ConnectionSlots,
        error::ListenError,
        hyper::{self, Begun, HttpVersion},
        network_stream::{NetworkStream, Tcp},
        parking::Parking,
        sse_fast_path::{self, FirstRequest},
        tls::Tls,
    },
    util,
};

/// Connections that the kernel completes before they are accepted. Thousands of clients may
/// reconnect in the same second.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, most likely for want of a file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Listens on `address`.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| ListenError { address, source })
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
    parking: Arc<Parking>,
) {
    let slots = ConnectionSlots::new(limits.max_connections);
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
        let Some(slot) = slots.take(peer.ip()) else {
            // Before a TLS handshake no answer would be understood.
            if tls.is_none() {
                refuse(&socket);
            }
            continue;
        };
        // Without it only latency suffers.
        let _ = socket.set_nodelay(true);
        let socket = Tcp::from(socket);
        let connection = Connection {
            peer,
            router: router.clone(),
            limits,
            slot,
            shutdown: shutdown.clone(),
            tracker: connections.clone(),
            parking: Arc::clone(&parking),
        };
        match tls.clone() {
            None => connections.spawn(serve_connection(connection, socket)),
            Some(tls) => connections.spawn(serve_tls(connection, tls, socket)),
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

/// Performs the TLS handshake, then serves.
async fn serve_tls(connection: Connection, tls: Tls, socket: Tcp) {
    let handshake = tokio::select! {
        () = connection.shutdown.cancelled() => return,
        handshake = tls.handshake(socket, connection.limits.header_timeout) => handshake,
    };
    let Some(socket) = handshake else { return };
    if socket.alpn_protocol() == Some(util::tls::HTTP2) {
        let (version, read) = (HttpVersion::Http2, Segments::new());
        let begun = Begun { version, read, response: None };
        Box::pin(hyper::serve(connection, socket, begun)).await;
    } else {
        Box::pin(serve_connection(connection, socket)).await;
    }
}

async fn serve_connection<S: NetworkStream>(connection: Connection, mut socket: S) {
    let read = sse_fast_path::read_first_request(&mut socket);
    let first = tokio::select! {
        () = connection.shutdown.cancelled() => return,
        first = tokio::time::timeout(connection.limits.header_timeout, read) => first,
    };
    match first {
        Ok(Ok(FirstRequest::EventStream(request))) => {
            sse_fast_path::serve(connection, socket, request).await;
        }
        Ok(Ok(FirstRequest::Other(_, read))) if read.is_empty() => {}
        Ok(Ok(FirstRequest::Other(version, read))) => {
            let begun = Begun { version, read, response: None };
            Box::pin(hyper::serve(connection, socket, begun)).await;
        }
        Ok(Err(error)) => tracing::trace!(%error, "connection closed before a request"),
        Err(_) => tracing::trace!("no request in time"),
    }
}

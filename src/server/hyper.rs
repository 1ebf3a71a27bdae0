//! Serves a connection with hyper, HTTP/1.1 or HTTP/2.

use std::{sync::Arc, time::Duration};

use ::http::Request;
use ::hyper::{body::Incoming, service::service_fn};
use axum::extract::ConnectInfo;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt as _;

use crate::server::{listener::Connection, open_requests::OpenRequests};

/// Maximum size of a request head, in bytes.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// Maximum number of header fields of a request.
pub(crate) const MAX_HEADERS: usize = 64;

/// Serves the connection until it closes. A connection without an open request closes after the
/// header timeout.
pub(crate) async fn serve<S>(connection: Connection, socket: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connection { peer, router, limits, permit: _permit, shutdown, tracker: _ } = connection;
    let header_timeout = limits.header_timeout;
    let open = Arc::new(OpenRequests::new());
    let counting = Arc::clone(&open);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let open_request = counting.begin(&request);
        let response = router.clone().oneshot(request);
        async move { response.await.map(|response| open_request.until_answered(response)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        // WebSockets over HTTP/2 (RFC 8441).
        .enable_connect_protocol()
        .max_concurrent_streams(250)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(socket), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = open.idle(header_timeout) => {
            connection.as_mut().graceful_shutdown();
            // Also when the client does not take the GOAWAY.
            tokio::select! {
                served = connection => served,
                () = open.idle(header_timeout) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::trace!(%error, "connection failed");
    }
}

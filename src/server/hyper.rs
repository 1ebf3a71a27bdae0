//! Serves a connection with hyper, HTTP/1.1 or HTTP/2.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ::http::{Request, Response, header};
use ::hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
    upgrade::Upgraded,
};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    http::{
        MAX_FIELDS, MAX_HEAD,
        addons::streams::websocket::{ServeUpgraded, WebSocket},
    },
    server::{
        connection::{Connection, Segments},
        requests::{Abandoned, OpenRequest, Requests},
        socket::{ClientSocket, LingeringSocket},
    },
};

/// Bytes of a request head that are buffered at most. Above [`MAX_HEAD`], so that the limit does not
/// depend on how the head is cut into segments or on the whitespace in it.
pub(crate) const MAX_BUFFERED_HEAD: usize = MAX_HEAD + 8 * 1024;

/// Requests open at the same time on one HTTP/2 connection; at least 100 (RFC 9113 §6.5.2).
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// Flow-control window of an HTTP/2 connection and of each request on it, in bytes: the initial one of
/// RFC 9113 §6.9.2, and several times what a body may have by default. Small frames that nobody has read
/// are limited in proportion to it.
const WINDOW: u32 = 65_535;

/// Time in which a response is produced that waits for nothing but the processor and the store.
const MAX_RESPONSE_TIME: Duration = Duration::from_millis(100);

/// What a client of HTTP/2 sends first (RFC 9113 §3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The version that a connection speaks from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    /// HTTP/1.1, or malformed.
    Http1,
    /// HTTP/2, by ALPN or with prior knowledge.
    Http2,
}

/// The beginning of a connection: what was read already, and the response to the first request where
/// there is one.
pub(crate) struct Begun {
    pub(crate) version: HttpVersion,
    pub(crate) read: Segments,
    pub(crate) response: Option<Response<Body>>,
}

/// Serves the connection until it closes. A connection without an open request closes after the
/// header timeout, one whose client does not take a response after the write timeout.
pub(crate) async fn serve<S>(connection: Connection, socket: S, begun: Begun)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Connection { peer, router, limits, slot, shutdown, tracker: _, parking: _ } = connection;
    let header_timeout = limits.header_timeout;
    let requests = Requests::new();
    let Begun { version, read, response } = begun;
    let socket = LingeringSocket::new(socket, slot, shutdown.clone());
    let socket = ClientSocket::new(read, socket, requests.clone());
    let (opened, first) = (requests.clone(), Mutex::new(response));
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut open, mut request) = opened.begin(request);
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let router = first.is_none().then(|| router.clone());
        // In an allocation of its own: over HTTP/2 the task of a request lives until its answer is
        // taken, which may be long after this future has ended.
        Box::pin(async move {
            let response = match (first, router) {
                (Some(response), _) => response,
                (None, Some(router)) => {
                    open.admitted().await;
                    request.extensions_mut().insert(ConnectInfo(peer));
                    if request.headers().contains_key(header::UPGRADE) {
                        request.extensions_mut().insert(ServeUpgraded(serve_upgraded::<S>));
                    }
                    respond(router, request, &mut open).await
                }
                (None, None) => Response::default(),
            };
            Ok::<_, Infallible>(open.answer(response))
        })
    });
    let (io, until) = (TokioIo::new(socket), Until { requests, header_timeout, shutdown });
    // Which of the two is known already; where hyper finds out, it parses what it has looked at apart
    // from the rest.
    let served = match version {
        HttpVersion::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(header_timeout)
                .max_buf_size(MAX_BUFFERED_HEAD)
                .max_headers(MAX_FIELDS);
            let connection = builder.serve_connection(io, service).with_upgrades();
            drive(connection, http1::UpgradeableConnection::graceful_shutdown, until).await
        }
        HttpVersion::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                // WebSockets over HTTP/2 (RFC 8441).
                .enable_connect_protocol()
                .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
                .initial_connection_window_size(WINDOW)
                .initial_stream_window_size(WINDOW)
                .max_header_list_size(u32::try_from(MAX_BUFFERED_HEAD).unwrap_or(u32::MAX))
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(20));
            let connection = builder.serve_connection(io, service);
            drive(connection, http2::Connection::graceful_shutdown, until).await
        }
    };
    if let Err(error) = served {
        tracing::trace!(%error, "connection failed");
    }
}

/// Serves a WebSocket on the socket of its connection, which nothing else uses after the upgrade.
fn serve_upgraded<S>(upgraded: Upgraded, websocket: WebSocket)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match upgraded.downcast::<TokioIo<ClientSocket<S>>>() {
        Ok(parts) => {
            let (socket, read) = parts.io.into_inner().into_upgraded(parts.read_buf);
            websocket.spawn(socket, &read);
        }
        Err(upgraded) => websocket.spawn(TokioIo::new(upgraded), &[]),
    }
}

/// The response to a request. One that others wait for and that takes longer admits them.
async fn respond(router: Router, request: Request<Body>, open: &mut OpenRequest) -> Response<Body> {
    if !open.holds_permit() {
        let Ok(response) = router.oneshot(request).await;
        return response;
    }
    let mut response = std::pin::pin!(router.oneshot(request));
    let Ok(response) = match tokio::time::timeout(MAX_RESPONSE_TIME, response.as_mut()).await {
        Ok(response) => response,
        Err(_) => {
            open.release();
            response.await
        }
    };
    response
}

/// When a connection is closed from here.
struct Until {
    requests: Requests,
    header_timeout: Duration,
    shutdown: CancellationToken,
}

/// Serves until the connection ends, or is abandoned.
async fn drive<C>(connection: C, close: fn(Pin<&mut C>), until: Until) -> ::hyper::Result<()>
where
    C: Future<Output = ::hyper::Result<()>>,
{
    let Until { requests, header_timeout, shutdown } = until;
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            served = connection.as_mut() => return served,
            () = shutdown.cancelled(), if !closing => {
                close(connection.as_mut());
                closing = true;
            }
            abandoned = requests.abandoned(header_timeout) => {
                if closing || abandoned == Abandoned::Stalled {
                    tracing::trace!(?abandoned, "connection dropped");
                    return Ok(());
                }
                close(connection.as_mut());
                closing = true;
            }
        }
    }
}

//! From an accepted socket to the router, and the light path of a waiting stream.
//!
//! Called by `app`. A listener with a certificate shakes hands first ([`crate::util::tls`]). hyper serves
//! every connection, save one whose first request opens an event stream: a general-purpose server
//! keeps buffers and a state machine of some 20 kB for it, while all it does is wait. Such a request
//! is read here, goes through the very same router, and its socket is then held by a task of a few
//! hundred bytes that only writes (`line`).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use axum::{Router, body::Body, extract::ConnectInfo};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    http::{AppState, addons::streams::sse::Parking, operator::metrics::HandshakeOutcome},
    server::{
        direct_write::{Socket, StreamSocket, WRITE_TIMEOUT, chunk},
        open_requests::OpenRequests,
    },
    util::tls,
};

/// Largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Most header fields of a request.
const MAX_HEADERS: usize = 64;

/// What connections may use.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections open at the same time.
    pub most: usize,
    /// For a request head to come, and for the next one on an idle connection.
    pub header_timeout: Duration,
}

/// What a listener needs to speak TLS.
#[derive(Clone)]
pub struct Tls {
    /// Shakes hands.
    pub acceptor: TlsAcceptor,
    /// Where handshakes are counted.
    pub app: AppState,
}

impl Tls {
    /// The connection behind the handshake, if it succeeds within `timeout`.
    async fn shake_hands(
        self,
        socket: TcpStream,
        timeout: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let shaken = tokio::time::timeout(timeout, self.acceptor.accept(socket)).await;
        let outcome = match &shaken {
            Ok(Ok(_)) => HandshakeOutcome::Succeeded,
            Ok(Err(error)) => {
                // Scanners and health checks of load balancers do this all day.
                tracing::debug!(%error, "TLS handshake failed");
                HandshakeOutcome::Failed
            }
            Err(_) => {
                tracing::debug!("TLS handshake not in time");
                HandshakeOutcome::TimedOut
            }
        };
        self.app.metrics.handshake(outcome);
        shaken.ok()?.ok()
    }
}

/// Accepts connections until `shutdown`, then returns; `connections` tracks those still open. With
/// `tls` it speaks TLS alone.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
    connections: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(limits.most));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            // Before a handshake nothing can be said that a client understands.
            if tls.is_none() {
                refuse(&socket);
            }
            continue;
        };
        // Failing to set it costs latency only.
        let _ = socket.set_nodelay(true);
        let connection = Connection { peer, router: router.clone(), limits, permit };
        let (shutdown, tracker) = (shutdown.clone(), connections.clone());
        match tls.clone() {
            None => connections.spawn(connection.run(socket, shutdown, tracker)),
            Some(tls) => connections.spawn(connection.run_tls(tls, socket, shutdown, tracker)),
        };
    }
}

/// The least that a client without a place is told.
fn refuse(socket: &TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n\
        content-length: 0\r\nconnection: close\r\n\r\n";
    // If it does not fit into an empty socket buffer, the client hears nothing; it is refused
    // all the same.
    let _ = socket.try_write(FULL);
}

struct Connection {
    peer: SocketAddr,
    router: Router,
    limits: ConnectionLimits,
    permit: OwnedSemaphorePermit,
}

/// The first request of a connection.
enum First {
    /// Opens an event stream over HTTP/1.1.
    Events(Box<Request<Body>>),
    /// Anything else, or not enough of it to tell: the bytes read so far.
    Other(Bytes),
}

impl Connection {
    /// Shakes hands, then runs.
    async fn run_tls(
        self,
        tls: Tls,
        socket: TcpStream,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    ) {
        let shaken = tokio::select! {
            () = shutdown.cancelled() => return,
            shaken = tls.shake_hands(socket, self.limits.header_timeout) => shaken,
        };
        let Some(socket) = shaken.map(Box::new) else { return };
        if socket.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
            Box::pin(self.write_directly(socket, shutdown)).await;
        } else {
            Box::pin(self.run(socket, shutdown, tracker)).await;
        }
    }

    async fn run<S: Socket>(
        self,
        mut socket: S,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    ) {
        let first = tokio::select! {
            () = shutdown.cancelled() => return,
            first = tokio::time::timeout(self.limits.header_timeout, read_first(&mut socket)) => first,
        };
        match first {
            Ok(Ok(First::Events(request))) => self.hold(socket, request, &tracker).await,
            Ok(Ok(First::Other(read))) if read.is_empty() => {}
            Ok(Ok(First::Other(read))) => {
                Box::pin(self.write_directly(Rewound { read, socket }, shutdown)).await;
            }
            Ok(Err(error)) => tracing::trace!(%error, "connection ended before a request"),
            Err(_) => tracing::trace!("no request in time"),
        }
    }

    /// Serves the connection with hyper.
    async fn write_directly<S>(self, socket: S, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, router) = (self.peer, self.router);
        let open = Arc::new(OpenRequests::new());
        let counting = Arc::clone(&open);
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let begun = counting.begin(&request);
            let response = router.clone().oneshot(request);
            async move { response.await.map(|response| begun.until_answered(response)) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
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
            () = open.idle(self.limits.header_timeout) => {
                connection.as_mut().graceful_shutdown();
                // A client that does not hear of it keeps nothing open either.
                tokio::select! {
                    served = connection => served,
                    () = open.idle(self.limits.header_timeout) => Ok(()),
                }
            }
        };
        if let Err(error) = served {
            tracing::trace!(%error, "connection ended");
        }
    }

    /// Answers a request for an event stream and, if it is granted, holds the socket.
    async fn hold<S: Socket>(
        self,
        mut socket: S,
        request: Box<Request<Body>>,
        tracker: &TaskTracker,
    ) {
        let mut request = *request;
        let parking = Parking::default();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(parking.clone());
        let response = match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let Some(mut events) = parking.take() else {
            if let Err(error) = answer(&mut socket, response).await {
                tracing::trace!(%error, "answer not sent");
            }
            return;
        };
        let (mut parts, _) = response.into_parts();
        // Of the empty body that stands in for the stream.
        parts.headers.remove(header::CONTENT_LENGTH);
        let mut head = encode_head(parts.status, &parts.headers);
        head.extend_from_slice(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n");
        if let Some(opening) = events.next().await {
            head.extend_from_slice(&chunk(&opening));
        }
        let permit = self.permit;
        // A task of its own, because the future of this one is large and would live as long.
        tracker.spawn(async move {
            if let Err(error) = StreamSocket::run(socket, head.into(), events).await {
                tracing::trace!(%error, "event stream ended");
            }
            drop(permit);
        });
    }
}

fn encode_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    head.extend_from_slice(format!("date: {date}\r\n").as_bytes());
    head
}

/// Sends an ordinary answer and closes: a refused stream is rare, and its connection with it.
async fn answer<S>(socket: &mut S, mut response: Response<Body>) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let body = match std::mem::take(response.body_mut()).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err(io::Error::other(error)),
    };
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    } else {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut head = encode_head(response.status(), response.headers());
    head.extend_from_slice(b"connection: close\r\n\r\n");
    head.extend_from_slice(&body);
    let all = async {
        socket.write_all(&head).await?;
        socket.shutdown().await
    };
    tokio::time::timeout(WRITE_TIMEOUT, all).await?
}

/// Reads until it is clear whether the connection begins with a request for an event stream.
async fn read_first<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<First> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut read).await? == 0 {
            return Ok(First::Other(read.freeze()));
        }
        match recognise(&read) {
            Recognised::NotYet if read.len() < MAX_HEAD => {}
            Recognised::NotYet | Recognised::Other => return Ok(First::Other(read.freeze())),
            Recognised::Events(request) => return Ok(First::Events(request)),
        }
    }
}

enum Recognised {
    NotYet,
    Other,
    Events(Box<Request<Body>>),
}

/// Tells a request for an event stream from everything else, as early as the bytes allow.
fn recognise(read: &[u8]) -> Recognised {
    const METHOD: &[u8] = b"GET ";
    let known = read.len().min(METHOD.len());
    if read[..known] != METHOD[..known] {
        return Recognised::Other;
    }
    // Before the first line is over nothing can be said; after it, only its path matters.
    let Some(line) = read.iter().position(|byte| *byte == b'\n') else { return Recognised::NotYet };
    let target = read[METHOD.len()..line].split(|byte| *byte == b' ').next().unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if !(path.ends_with(b"/events") || path.ends_with(b"/events/")) {
        return Recognised::Other;
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(read) {
        Ok(httparse::Status::Partial) => Recognised::NotYet,
        // What follows the head belongs to a body or a second request: hyper knows what to do.
        Ok(httparse::Status::Complete(length)) if length == read.len() => {
            build(&head).map_or(Recognised::Other, |request| Recognised::Events(Box::new(request)))
        }
        _ => Recognised::Other,
    }
}

/// The request, if it is one that this path can answer as HTTP asks; `None` leaves it to hyper.
fn build(head: &httparse::Request<'_, '_>) -> Option<Request<Body>> {
    if head.version != Some(1) {
        return None;
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = head.path?.parse().ok()?;
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let headers = request.headers();
    let has_body =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT]
            .iter()
            .any(|name| headers.contains_key(name));
    // Exactly one Host (RFC 9112 §3.2); anything else is hyper's to refuse.
    (!has_body && headers.get_all(header::HOST).iter().count() == 1).then_some(request)
}

/// A socket of which some bytes were read already.
struct Rewound<S> {
    read: Bytes,
    socket: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> &'static str {
        match recognise(bytes) {
            Recognised::NotYet => "not yet",
            Recognised::Other => "other",
            Recognised::Events(_) => "events",
        }
    }

    #[test]
    fn event_streams_are_recognised_and_nothing_else_is() {
        let events = "GET /addons/sessions/abc/events HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(kind(events.as_bytes()), "events");
        for length in 0..events.len() {
            assert_eq!(kind(&events.as_bytes()[..length]), "not yet", "{length}");
        }
        for other in [
            "POST /addons/sessions HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /addons/me HTTP/1.1\r\n",
            "GET /a/events HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /a/events HTTP/1.1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHo st: a\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(kind(other.as_bytes()), "other", "{other:?}");
        }
    }
}

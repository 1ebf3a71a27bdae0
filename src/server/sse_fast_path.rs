//! The SSE fast path: a first request that opens an event stream over HTTP/1.1.
//!
//! A general-purpose server keeps buffers and a state machine of some 20 kB for a connection that
//! does nothing but wait. Such a request is read here and passes the same router; then a task of a
//! few hundred bytes writes to the socket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use axum::{body::Body, extract::ConnectInfo};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tower::ServiceExt as _;

use crate::{
    http::addons::streams::sse::Handoff,
    server::{
        direct_write::{StreamSocket, StreamTransport, WRITE_TIMEOUT, chunk},
        hyper::{MAX_HEAD, MAX_HEADERS},
        listener::Connection,
    },
};

/// The first request of a connection.
pub(crate) enum FirstRequest {
    /// Opens an event stream over HTTP/1.1.
    EventStream(Box<Request<Body>>),
    /// Anything else, or too little to decide: the bytes read so far.
    Other(Bytes),
}

/// Answers the request and, if it is granted, runs its event stream.
pub(crate) async fn serve<S: StreamTransport>(
    connection: Connection,
    mut socket: S,
    request: Box<Request<Body>>,
) {
    let Connection { peer, router, permit, tracker, .. } = connection;
    let mut request = *request;
    let handoff = Handoff::default();
    request.extensions_mut().insert(ConnectInfo(peer));
    request.extensions_mut().insert(handoff.clone());
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let Some(mut events) = handoff.take() else {
        if let Err(error) = send_response(&mut socket, response).await {
            tracing::trace!(%error, "response not sent");
        }
        return;
    };
    let (mut parts, _) = response.into_parts();
    // That of the empty body in place of the stream.
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut head = encode_head(parts.status, &parts.headers);
    head.extend_from_slice(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    if let Some(opening) = events.next().await {
        head.extend_from_slice(&chunk(&opening));
    }
    // In a new task, because the future of this one is large and would live as long.
    tracker.spawn(async move {
        if let Err(error) = StreamSocket::run(socket, head.into(), events).await {
            tracing::trace!(%error, "event stream failed");
        }
        drop(permit);
    });
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

/// Sends a response without a stream and closes the connection.
async fn send_response<S>(socket: &mut S, mut response: Response<Body>) -> io::Result<()>
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
pub(crate) async fn read_first_request<S>(socket: &mut S) -> io::Result<FirstRequest>
where
    S: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut read).await? == 0 {
            return Ok(FirstRequest::Other(read.freeze()));
        }
        match classify(&read) {
            Classified::Incomplete if read.len() < MAX_HEAD => {}
            Classified::Incomplete | Classified::Other => {
                return Ok(FirstRequest::Other(read.freeze()));
            }
            Classified::EventStream(request) => return Ok(FirstRequest::EventStream(request)),
        }
    }
}

enum Classified {
    Incomplete,
    Other,
    EventStream(Box<Request<Body>>),
}

/// Distinguishes a request for an event stream from everything else, as early as the bytes allow.
fn classify(read: &[u8]) -> Classified {
    const METHOD: &[u8] = b"GET ";
    let known = read.len().min(METHOD.len());
    if read[..known] != METHOD[..known] {
        return Classified::Other;
    }
    // The request line must be complete; of it, only the path matters.
    let Some(line) = read.iter().position(|byte| *byte == b'\n') else {
        return Classified::Incomplete;
    };
    let target = read[METHOD.len()..line].split(|byte| *byte == b' ').next().unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if !(path.ends_with(b"/events") || path.ends_with(b"/events/")) {
        return Classified::Other;
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(read) {
        Ok(httparse::Status::Partial) => Classified::Incomplete,
        // What follows the head is a body or a second request, which hyper handles.
        Ok(httparse::Status::Complete(length)) if length == read.len() => build(&head)
            .map_or(Classified::Other, |request| Classified::EventStream(Box::new(request))),
        _ => Classified::Other,
    }
}

/// The request, or `None` for one that only hyper can answer correctly.
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
    // Exactly one Host (RFC 9112 §3.2); hyper handles everything else.
    (!has_body && headers.get_all(header::HOST).iter().count() == 1).then_some(request)
}

/// A socket of which some bytes have been read already.
pub(crate) struct Rewound<S> {
    read: Bytes,
    socket: S,
}

impl<S> Rewound<S> {
    /// Reads of `socket` yield `read` first.
    pub(crate) fn new(read: Bytes, socket: S) -> Self {
        Self { read, socket }
    }
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
        match classify(bytes) {
            Classified::Incomplete => "incomplete",
            Classified::Other => "other",
            Classified::EventStream(_) => "event stream",
        }
    }

    #[test]
    fn only_event_streams_take_the_fast_path() {
        let events = "GET /addons/sessions/abc/events HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(kind(events.as_bytes()), "event stream");
        for length in 0..events.len() {
            assert_eq!(kind(&events.as_bytes()[..length]), "incomplete", "{length}");
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

//! The SSE fast path: a first request that opens an event stream over HTTP/1.1.
//!
//! A general-purpose server keeps buffers and a state machine of some 20 kB for a connection that
//! does nothing but wait. Such a request is read here and passes the same router; then the socket is
//! parked.

use std::{io, time::SystemTime};

use axum::{body::Body, extract::ConnectInfo};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tower::ServiceExt as _;

use crate::{
    http::{MAX_FIELDS, addons::streams::sse::Handoff},
    server::{
        connection::{Connection, Segments},
        direct_write::{Carried, StreamSocket, chunk},
        hyper::{self, Begun, HTTP2_PREFACE, HttpVersion, MAX_BUFFERED_HEAD},
        network_stream::NetworkStream,
    },
};

/// Capacity of the first buffer, in bytes: more than most heads have.
const FIRST_READ: usize = 1024;

/// The first request of a connection.
pub(crate) enum FirstRequest {
    /// Opens an event stream over HTTP/1.1.
    EventStream(FirstEventStream),
    /// Anything else, or too little to decide: the bytes read so far.
    Other(HttpVersion, Segments),
}

/// A first request for an event stream.
pub(crate) struct FirstEventStream {
    request: Box<Request<Body>>,
    /// Its bytes.
    read: Segments,
}

/// Answers the request. Its event stream runs here; hyper sends any other response and serves the
/// rest of the connection.
pub(crate) async fn serve<S: NetworkStream>(
    connection: Connection,
    socket: S,
    FirstEventStream { request, read }: FirstEventStream,
) {
    let mut request = *request;
    let handoff = Handoff::default();
    request.extensions_mut().insert(ConnectInfo(connection.peer));
    request.extensions_mut().insert(handoff.clone());
    let Ok(response) = connection.router.clone().oneshot(request).await;
    let Some(mut events) = handoff.take() else {
        let begun = Begun { version: HttpVersion::Http1, read, response: Some(response) };
        Box::pin(hyper::serve(connection, socket, begun)).await;
        return;
    };
    let Connection { slot, tracker, parking, .. } = connection;
    let (mut parts, _) = response.into_parts();
    // That of the empty body in place of the stream.
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut head = encode_head(parts.status, &parts.headers);
    if let Some(opening) = events.next().await {
        head.extend_from_slice(&chunk(&opening));
    }
    StreamSocket::run(socket, head.into(), Carried::new(events, slot, tracker.token()), &parking);
}

/// The head of an event stream, as hyper writes it.
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
    let last = format!("transfer-encoding: chunked\r\ndate: {date}\r\n\r\n");
    head.extend_from_slice(last.as_bytes());
    head
}

/// Reads until it is clear whether the connection begins with a request for an event stream.
pub(crate) async fn read_first_request<S>(socket: &mut S) -> io::Result<FirstRequest>
where
    S: AsyncRead + Unpin,
{
    let mut read = BytesMut::with_capacity(FIRST_READ);
    let mut ends = Vec::new();
    loop {
        let ended = read_available(socket, &mut read).await? == 0;
        ends.push(read.len());
        let first = match classify(&read) {
            Classified::Incomplete if !ended && read.len() < MAX_BUFFERED_HEAD => continue,
            Classified::EventStream(request) => {
                let read = segments(read.freeze(), &ends);
                FirstRequest::EventStream(FirstEventStream { request, read })
            }
            Classified::Incomplete | Classified::Http1 => {
                FirstRequest::Other(HttpVersion::Http1, segments(read.freeze(), &ends))
            }
            Classified::Http2 => {
                FirstRequest::Other(HttpVersion::Http2, segments(read.freeze(), &ends))
            }
        };
        return Ok(first);
    }
}

/// Reads what has arrived, as hyper reads it: at once, not in pieces of the small buffer that most heads
/// fit into.
async fn read_available<S>(socket: &mut S, read: &mut BytesMut) -> io::Result<usize>
where
    S: AsyncRead + Unpin,
{
    let before = read.len();
    socket.read_buf(read).await?;
    while read.len() == read.capacity() && read.len() < MAX_BUFFERED_HEAD {
        read.reserve(MAX_BUFFERED_HEAD - read.len());
        match socket.read_buf(read).now_or_never() {
            Some(Ok(1..)) => {}
            Some(Err(error)) => return Err(error),
            // The end is read again.
            Some(Ok(0)) | None => break,
        }
    }
    Ok(read.len() - before)
}

/// Cuts bytes where reads ended: hyper waits for the rest of a head by other rules than it parses one,
/// so that it must get the pieces that it would have read itself.
fn segments(mut bytes: Bytes, ends: &[usize]) -> Segments {
    let all = bytes.len();
    let segments = ends.iter().map(|end| bytes.split_to(end + bytes.len() - all));
    segments.filter(|segment| !segment.is_empty()).collect()
}

enum Classified {
    Incomplete,
    /// HTTP/1.1 that asks for something else, or is malformed.
    Http1,
    Http2,
    EventStream(Box<Request<Body>>),
}

/// Distinguishes a request for an event stream from everything else, as early as the bytes allow.
fn classify(read: &[u8]) -> Classified {
    const METHOD: &[u8] = b"GET ";
    if read.starts_with(HTTP2_PREFACE) {
        return Classified::Http2;
    }
    if [METHOD, HTTP2_PREFACE].iter().any(|start| start.starts_with(read)) {
        return Classified::Incomplete;
    }
    if !read.starts_with(METHOD) {
        return Classified::Http1;
    }
    // Where the request line is complete, the path decides.
    if let Some(line) = read.iter().position(|byte| *byte == b'\n') {
        let target = read[METHOD.len()..line].split(|byte| *byte == b' ').next();
        let path =
            target.unwrap_or_default().split(|byte| *byte == b'?').next().unwrap_or_default();
        if !(path.ends_with(b"/events") || path.ends_with(b"/events/")) {
            return Classified::Http1;
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(read) {
        Ok(httparse::Status::Partial) => Classified::Incomplete,
        // What follows the head is a body or a second request, which hyper handles, as it does line
        // ends that it may wait behind, and a head that does not fit into its buffer.
        Ok(httparse::Status::Complete(length))
            if length == read.len()
                && length <= MAX_BUFFERED_HEAD
                && read.ends_with(b"\r\n\r\n") =>
        {
            build(&head)
                .map_or(Classified::Http1, |request| Classified::EventStream(Box::new(request)))
        }
        _ => Classified::Http1,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> &'static str {
        match classify(bytes) {
            Classified::Incomplete => "incomplete",
            Classified::Http1 => "other",
            Classified::Http2 => "HTTP/2",
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
            "PRI * HTTP/2.0\r\n\r\nSN",
            "GET /a/events HTTP/1.1\nHost: a\n\n",
            "GET /a/events HTTP/1.1\r\nHost: a\n\r\n",
            "GET /addons/me HTTP/1.1\r\n",
            "GET /a/events HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /a/events HTTP/1.1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET /a/events HTTP/1.1\r\nHo st: a\r\n\r\n",
            "GET /a/events HTTP/1.1\rHost: a\r\r",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(kind(other.as_bytes()), "other", "{other:?}");
        }
        let with_fields = |count: usize, value: &str| {
            let fields: String = (1..count).map(|it| format!("X-{it}: {value}\r\n")).collect();
            format!("GET /a/events HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
        };
        for (head, expected) in [
            (with_fields(MAX_FIELDS, "y"), "event stream"),
            (with_fields(MAX_FIELDS + 1, "y"), "other"),
            (with_fields(2, &"y".repeat(MAX_BUFFERED_HEAD)), "other"),
        ] {
            assert_eq!(kind(head.as_bytes()), expected);
        }
        for length in 0..=HTTP2_PREFACE.len() {
            let expected = if length == HTTP2_PREFACE.len() { "HTTP/2" } else { "incomplete" };
            assert_eq!(kind(&HTTP2_PREFACE[..length]), expected);
        }
        assert_eq!(kind(&[HTTP2_PREFACE, b"\0\0"].concat()), "HTTP/2");
    }
}

//! The socket of a waiting event stream, shared by its task and the thread that delivers the token.
//!
//! The task writes the head, the heartbeats and every other end; the token is written on the thread
//! that delivers it, before any task is woken ([`DirectWriter`]). Both write under one lock and
//! never wait while holding it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    http::addons::streams::{
        Encoder, Transport as _,
        body::PROBES,
        sse::{EventSource, EventStream},
    },
    relay::DirectWriter,
    server::{linger::Lingering, tls_stream::TlsStream},
    session::{SealedPayload, SessionKey},
};

/// Time for a client to take a few bytes; after it the connection counts as dead.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that are read while an event stream is open, where a client has nothing to send. Further ones
/// wait unread, as they do behind hyper.
const MAX_UNEXPECTED: usize = 1024;

/// Ends a body in the chunked transfer coding (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection that can carry an event stream.
pub(crate) trait NetworkStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the protocol has a closing message of its own (`close_notify`). TCP has none: closing
    /// the socket sends the same, with one system call less.
    const HAS_CLOSE_NOTIFY: bool;
}

impl NetworkStream for TcpStream {
    const HAS_CLOSE_NOTIFY: bool = false;
}

impl NetworkStream for Box<TlsStream<TcpStream>> {
    const HAS_CLOSE_NOTIFY: bool = true;
}

/// The socket of one event stream.
pub(crate) struct StreamSocket<S> {
    writer: Mutex<Writer<S>>,
    encoder: Encoder,
}

struct Writer<S> {
    socket: S,
    /// Bytes that the socket has not taken yet.
    unsent: Bytes,
    /// Whether a write is in progress, which the task completes.
    writing: bool,
    /// Whether the last chunk has been queued.
    finished: bool,
}

impl<S: NetworkStream> Writer<S> {
    /// Queues bytes; after the last ones, nothing.
    fn begin(&mut self, bytes: Bytes, last: bool) {
        if !self.finished {
            (self.unsent, self.writing, self.finished) = (bytes, true, last);
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.unsent.is_empty() {
            match ready!(socket.as_mut().poll_write(context, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.unsent.advance(written),
            }
        }
        self.unsent = Bytes::new();
        ready!(socket.poll_flush(context))?;
        self.writing = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: NetworkStream> StreamSocket<S> {
    /// Runs an event stream over `socket`, beginning with `head`, until it ends or the client
    /// disconnects.
    ///
    /// # Errors
    /// When the client disconnected or did not read in time.
    pub(crate) async fn run(socket: S, head: Bytes, mut events: EventStream) -> io::Result<()> {
        let writer = Writer { socket, unsent: head, writing: true, finished: false };
        let stream = Arc::new(Self { writer: Mutex::new(writer), encoder: events.encoder() });
        events.set_direct_writer(Arc::clone(&stream) as Arc<dyn DirectWriter>);
        stream.sent().await?;
        let mut unexpected = 0;
        loop {
            tokio::select! {
                biased;
                next = events.next() => {
                    if stream.send_next(next, &events).await? {
                        break;
                    }
                }
                ended = stream.sending_ended(&mut unexpected) => {
                    ended?;
                    // Boxed, because few streams come here and the room of all is counted.
                    Box::pin(stream.run_half_closed(&mut events)).await?;
                    break;
                }
            }
        }
        if S::HAS_CLOSE_NOTIFY {
            // The client has the last chunk even if this fails.
            let close =
                poll_fn(|context| Pin::new(&mut stream.writer().socket).poll_shutdown(context));
            let _ = tokio::time::timeout(WRITE_TIMEOUT, close).await;
        }
        if !stream.drop_received() {
            Box::pin(stream.linger()).await;
        }
        Ok(())
    }

    /// Continues with a client that has shut down its sending side, or has closed the connection: the
    /// answer to what is sent now tells them apart.
    async fn run_half_closed(&self, events: &mut EventStream) -> io::Result<()> {
        let mut probes = PROBES.iter();
        loop {
            let pause = probes.as_slice().first().copied();
            let probe = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                next = events.next() => {
                    if self.send_next(next, events).await? {
                        return Ok(());
                    }
                }
                () = probe => {
                    probes.next();
                    self.send(chunk(&EventSource::heartbeat()), false).await?;
                }
            }
        }
    }

    /// Sends what the stream yielded, and returns whether it was the last.
    async fn send_next(&self, next: Option<Bytes>, events: &EventStream) -> io::Result<bool> {
        let (bytes, last) = (next.unwrap_or_default(), events.is_over());
        // The last bytes go with the last chunk: one system call and one packet less.
        self.send(if last { last_chunks(&bytes) } else { chunk(&bytes) }, last).await?;
        Ok(last)
    }

    /// Reads and drops what has arrived, and returns whether that was all. With unread bytes, closing
    /// would reset the connection, and the client could lose the last event.
    fn drop_received(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = [0u8; MAX_UNEXPECTED];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut writer = self.writer();
        loop {
            let before = buffer.filled().len();
            let read = Pin::new(&mut writer.socket).poll_read(&mut context, &mut buffer);
            if buffer.remaining() == 0 {
                return false;
            }
            if !matches!(read, Poll::Ready(Ok(()))) || buffer.filled().len() == before {
                return true;
            }
        }
    }

    /// Closes the sending side, and reads and drops until the client closes too.
    async fn linger(&self) {
        let mut lingering = Lingering::new();
        poll_fn(|context| {
            let socket = &mut self.writer().socket;
            // A connection that is broken ends the second as well.
            let _ = ready!(lingering.poll_close_sending(socket, context));
            lingering.poll(socket, false, context)
        })
        .await;
    }

    fn writer(&self) -> MutexGuard<'_, Writer<S>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes, unless the token was written meanwhile. Returns when everything is sent.
    async fn send(&self, bytes: Bytes, last: bool) -> io::Result<()> {
        self.writer().begin(bytes, last);
        self.sent().await
    }

    /// Waits until everything is sent. The common case, an empty socket buffer, needs no timer.
    async fn sent(&self) -> io::Result<()> {
        match poll_fn(|context| Poll::Ready(self.writer().poll_send(context))).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                let sent = poll_fn(|context| self.writer().poll_send(context));
                Box::pin(tokio::time::timeout(WRITE_TIMEOUT, sent)).await?
            }
        }
    }

    /// Returns when the client shuts down its sending side.
    ///
    /// # Errors
    /// When the connection is broken.
    async fn sending_ended(&self, unexpected: &mut usize) -> io::Result<()> {
        poll_fn(|context| {
            let mut bytes = [0u8; 64];
            while *unexpected <= MAX_UNEXPECTED {
                let mut buffer = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut self.writer().socket).poll_read(context, &mut buffer))?;
                match buffer.filled().len() {
                    0 => return Poll::Ready(Ok(())),
                    read => *unexpected += read,
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl<S: NetworkStream> DirectWriter for StreamSocket<S> {
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool {
        let mut writer = self.writer();
        if writer.writing || writer.finished {
            return false;
        }
        let Some(token) = self.encoder.open(key, payload) else { return false };
        writer.begin(last_chunks(&token.frame::<EventSource>()), true);
        // The task, which is woken next, sends the rest or finds the error.
        let _ = writer.poll_send(&mut Context::from_waker(Waker::noop()));
        drop(writer);
        token.done();
        true
    }
}

/// One chunk of the chunked transfer coding (RFC 9112 §7.1).
pub(crate) fn chunk(bytes: &[u8]) -> Bytes {
    framed(bytes, &[])
}

/// The last bytes and the end of the body.
fn last_chunks(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() { Bytes::from_static(LAST_CHUNK) } else { framed(bytes, LAST_CHUNK) }
}

fn framed(bytes: &[u8], after: &[u8]) -> Bytes {
    let length = format!("{:X}\r\n", bytes.len());
    let mut framed = Vec::with_capacity(length.len() + bytes.len() + 2 + after.len());
    framed.extend_from_slice(length.as_bytes());
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed.extend_from_slice(after);
    framed.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    impl NetworkStream for DuplexStream {
        const HAS_CLOSE_NOTIFY: bool = false;
    }

    #[tokio::test]
    async fn what_a_slow_client_does_not_take_at_once_is_sent_later() {
        let (socket, mut client) = duplex(8);
        let text = Bytes::from_static(b"more than eight bytes of an event");
        let mut writer = Writer { socket, unsent: text.clone(), writing: true, finished: true };
        // As the delivering thread does: once, and without a waker.
        let first = writer.poll_send(&mut Context::from_waker(Waker::noop()));
        assert!(first.is_pending());
        assert_eq!((writer.writing, writer.unsent.len()), (true, text.len() - 8));
        let mut got = vec![0; text.len()];
        let sending = poll_fn(|context| writer.poll_send(context));
        let (sent, read) = tokio::join!(sending, client.read_exact(&mut got));
        assert!(sent.is_ok() && read.is_ok());
        assert_eq!(got, text);
        assert_eq!((writer.writing, writer.unsent.len()), (false, 0));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_an_error_that_stays() {
        let (socket, client) = duplex(8);
        drop(client);
        let mut writer =
            Writer { socket, unsent: Bytes::from_static(b"event"), writing: true, finished: true };
        for _ in 0..2 {
            let sent = writer.poll_send(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(sent, Poll::Ready(Err(_))), "{sent:?}");
            assert!(writer.writing);
        }
    }

    #[test]
    fn chunks_are_framed() {
        assert_eq!(chunk(b":\n\n"), "3\r\n:\n\n\r\n");
        assert_eq!(last_chunks(b"a\n\n"), "3\r\na\n\n\r\n0\r\n\r\n");
        assert_eq!(last_chunks(b""), "0\r\n\r\n");
    }
}

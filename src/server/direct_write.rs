//! The socket of a waiting event stream, written to by two: its task and whoever brings the token.
//!
//! Made by [`crate::server::connection`] for the light path. The task writes the head, heartbeats and every
//! other end; a token goes out on the thread of the login, or of the bus, before any task is woken
//! ([`DirectWriter`]). Both write under one lock and never wait in it. Knows no states.

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
use tokio_rustls::server::TlsStream;

use crate::{
    http::addons::streams::{
        Encoder,
        sse::{self, EventStream},
    },
    relay::DirectWriter,
    session::{SealedPayload, SessionKey},
};

/// A client that does not take a few bytes in this time is not there any more.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that a client may send while its event stream is open before it is cut off; it has no
/// reason to send any.
const MAX_NOISE: usize = 1024;

/// Ends a body in the chunked transfer coding (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A socket that can be held.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether it has a farewell of its own. TCP has not: what closing sends is the same, and one
    /// system call less.
    const SAYS_GOODBYE: bool;
}

impl Socket for TcpStream {
    const SAYS_GOODBYE: bool = false;
}

impl Socket for Box<TlsStream<TcpStream>> {
    const SAYS_GOODBYE: bool = true;
}

/// A held socket.
pub struct StreamSocket<S> {
    held: Mutex<Held<S>>,
    encoder: Encoder,
}

struct Held<S> {
    socket: S,
    /// What the socket has not taken yet.
    unsent: Bytes,
    /// Whether something is on its way; then its task is the one that writes.
    under_way: bool,
    /// Whether the last chunk is on its way or sent.
    over: bool,
}

impl<S: Socket> Held<S> {
    /// Puts bytes on their way, the last ones or not; after the last ones nothing more.
    fn begin(&mut self, bytes: Bytes, last: bool) {
        if !self.over {
            (self.unsent, self.under_way, self.over) = (bytes, true, last);
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
        self.under_way = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> StreamSocket<S> {
    /// Runs an event stream over `socket`, beginning with `head`, until it ends or the client
    /// leaves.
    ///
    /// # Errors
    /// When the client left, sent too much, or did not take what it was sent in time.
    pub async fn run(socket: S, head: Bytes, mut events: EventStream) -> io::Result<()> {
        let held = Held { socket, unsent: head, under_way: true, over: false };
        let line = Arc::new(Self { held: Mutex::new(held), encoder: events.encoder() });
        events.set_direct_writer(Arc::clone(&line) as Arc<dyn DirectWriter>);
        line.sent().await?;
        let mut noise = 0;
        loop {
            tokio::select! {
                biased;
                next = events.next() => {
                    let bytes = next.unwrap_or_default();
                    if events.is_over() {
                        // In one write with the end, which spares a system call and a packet.
                        line.send(last_chunks(&bytes), true).await?;
                        break;
                    }
                    line.send(chunk(&bytes), false).await?;
                }
                left = line.left(&mut noise) => return left,
            }
        }
        if S::SAYS_GOODBYE {
            // The client has seen the end even if this fails.
            let bye = poll_fn(|context| Pin::new(&mut line.held().socket).poll_shutdown(context));
            let _ = tokio::time::timeout(WRITE_TIMEOUT, bye).await;
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes, unless the token went out meanwhile; either way all is sent then.
    async fn send(&self, bytes: Bytes, last: bool) -> io::Result<()> {
        self.held().begin(bytes, last);
        self.sent().await
    }

    /// Waits until all is sent. The common case, an empty socket buffer, needs no timer.
    async fn sent(&self) -> io::Result<()> {
        match poll_fn(|context| Poll::Ready(self.held().poll_send(context))).await {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                let sent = poll_fn(|context| self.held().poll_send(context));
                Box::pin(tokio::time::timeout(WRITE_TIMEOUT, sent)).await?
            }
        }
    }

    /// Ends when the client closes its side.
    async fn left(&self, noise: &mut usize) -> io::Result<()> {
        poll_fn(|context| {
            let mut bytes = [0u8; 64];
            loop {
                let mut buffer = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut self.held().socket).poll_read(context, &mut buffer))?;
                match buffer.filled().len() {
                    0 => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                    read => *noise += read,
                }
                if *noise > MAX_NOISE {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        })
        .await
    }
}

impl<S: Socket> DirectWriter for StreamSocket<S> {
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool {
        let mut held = self.held();
        if held.under_way || held.over {
            return false;
        }
        let Some(token) = self.encoder.open(key, payload) else { return false };
        held.begin(last_chunks(sse::token_event(&token).as_bytes()), true);
        // What the socket does not take, or an error, is the task's to find: it is woken next.
        let _ = held.poll_send(&mut Context::from_waker(Waker::noop()));
        drop(held);
        token.done();
        true
    }
}

/// One chunk of the chunked transfer coding (RFC 9112 §7.1).
pub fn chunk(bytes: &[u8]) -> Bytes {
    framed(bytes, &[])
}

/// The last bytes and the end of the body.
fn last_chunks(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() { Bytes::from_static(LAST_CHUNK) } else { framed(bytes, LAST_CHUNK) }
}

fn framed(bytes: &[u8], after: &[u8]) -> Bytes {
    let length = format!("{:x}\r\n", bytes.len());
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

    impl Socket for DuplexStream {
        const SAYS_GOODBYE: bool = false;
    }

    #[tokio::test]
    async fn what_a_slow_client_does_not_take_at_once_is_sent_later() {
        let (socket, mut client) = duplex(8);
        let text = Bytes::from_static(b"more than eight bytes of an event");
        let mut held = Held { socket, unsent: text.clone(), under_way: true, over: true };
        // As whoever brings the token does it: once, and without being woken.
        let first = held.poll_send(&mut Context::from_waker(Waker::noop()));
        assert!(first.is_pending());
        assert_eq!((held.under_way, held.unsent.len()), (true, text.len() - 8));
        let mut got = vec![0; text.len()];
        let sending = poll_fn(|context| held.poll_send(context));
        let (sent, read) = tokio::join!(sending, client.read_exact(&mut got));
        assert!(sent.is_ok() && read.is_ok());
        assert_eq!(got, text);
        assert_eq!((held.under_way, held.unsent.len()), (false, 0));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_an_error_that_stays() {
        let (socket, client) = duplex(8);
        drop(client);
        let mut held =
            Held { socket, unsent: Bytes::from_static(b"event"), under_way: true, over: true };
        for _ in 0..2 {
            let sent = held.poll_send(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(sent, Poll::Ready(Err(_))), "{sent:?}");
            assert!(held.under_way);
        }
    }

    #[test]
    fn chunks_are_framed() {
        assert_eq!(chunk(b":\n\n"), "3\r\n:\n\n\r\n");
        assert_eq!(last_chunks(b"a\n\n"), "3\r\na\n\n\r\n0\r\n\r\n");
        assert_eq!(last_chunks(b""), "0\r\n\r\n");
    }
}

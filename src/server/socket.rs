//! The socket of a connection as hyper uses it.
//!
//! It begins with bytes that have been read already, withholds a half-close from hyper while a
//! request is being answered, and closes so that the client can read the last response (lingering
//! close, RFC 9112 §9.6).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use crate::server::{connection::Segments, connection_slots::ConnectionSlot, requests::Requests};

/// Idle timeout after the server has closed its side.
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// Maximum time that a client may continue to send.
const LINGER: Duration = Duration::from_secs(30);

/// Maximum number of bytes that are read and discarded while it does.
const MAX_LINGER_BYTES: usize = 64 * 1024 * 1024;

/// A connection's socket.
pub(crate) struct ClientSocket<S> {
    /// Bytes that were read before and are still to be returned.
    read: Segments,
    socket: S,
    requests: Requests,
    /// Whether the client has shut down its sending side.
    ended: bool,
    closing: Option<Lingering>,
    shutdown: CancellationToken,
    _slot: ConnectionSlot,
}

/// A close in progress.
struct Lingering {
    sending_closed: bool,
    until: Instant,
    idle: Pin<Box<Sleep>>,
    dropped: usize,
}

impl<S> ClientSocket<S> {
    /// Reads of the socket yield `read` first. The connection counts as open, and keeps its `slot`,
    /// until the socket is dropped. A lingering close ends early on `shutdown`.
    pub(crate) fn new(
        read: Segments,
        socket: S,
        requests: Requests,
        slot: ConnectionSlot,
        shutdown: CancellationToken,
    ) -> Self {
        Self { read, socket, requests, ended: false, closing: None, shutdown, _slot: slot }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(segment) = self.read.front_mut() {
            let length = segment.len().min(buffer.remaining());
            buffer.put_slice(&segment.split_to(length));
            if segment.is_empty() {
                self.read.pop_front();
            }
            if self.read.is_empty() {
                self.read = Segments::new();
            }
            return Poll::Ready(Ok(()));
        }
        if !self.ended {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                self.requests.received();
                return Poll::Ready(Ok(()));
            }
            self.ended = true;
        }
        self.requests.poll_end(context).map(Ok)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, bytes));
        self.requests.sent();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, slices));
        self.requests.sent();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, closing, ended, shutdown, .. } = &mut *self;
        let lingering = closing.get_or_insert_with(Lingering::new);
        if !lingering.sending_closed {
            ready!(Pin::new(&mut *socket).poll_shutdown(context))?;
            lingering.sending_closed = true;
        }
        if *ended {
            return Poll::Ready(Ok(()));
        }
        // To close while the client sends would reset the connection, and with it what the client
        // has not read.
        lingering.poll(socket, shutdown, context)
    }
}

impl Lingering {
    fn new() -> Self {
        Self {
            sending_closed: false,
            until: Instant::now() + LINGER,
            idle: Box::pin(tokio::time::sleep(LINGER_IDLE)),
            dropped: 0,
        }
    }

    /// Reads and discards until the client closes or a limit is reached.
    fn poll<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        shutdown: &CancellationToken,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.dropped += buffer.filled().len();
                }
                // Closed, or broken: either way nothing is left to protect.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
            let now = Instant::now();
            if self.dropped > MAX_LINGER_BYTES || now >= self.until || shutdown.is_cancelled() {
                return Poll::Ready(Ok(()));
            }
            self.idle.as_mut().reset(now + LINGER_IDLE);
        }
        self.idle.as_mut().poll(context).map(Ok)
    }
}

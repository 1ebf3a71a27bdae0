//! The socket of a connection as hyper uses it.
//!
//! It begins with bytes that have been read already, withholds a half-close from hyper while a
//! request is being answered, and lingers when it closes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::server::{
    connection::Segments, connection_slots::ConnectionSlot, linger::Lingering, requests::Requests,
};

/// A connection's socket.
pub(crate) struct ClientSocket<S> {
    /// Bytes that were read before and are still to be returned.
    read: Segments,
    socket: LingeringSocket<S>,
    requests: Requests,
}

impl<S> ClientSocket<S> {
    /// Reads of the socket yield `read` first.
    pub(crate) fn new(read: Segments, socket: LingeringSocket<S>, requests: Requests) -> Self {
        Self { read, socket, requests }
    }

    /// The socket of a connection that is upgraded, on which no more requests come, and what was read
    /// from it before, after the bytes that hyper has read.
    pub(crate) fn into_upgraded(self, read: Bytes) -> (LingeringSocket<S>, Bytes) {
        let Self { read: segments, socket, requests: _ } = self;
        if segments.is_empty() {
            return (socket, read);
        }
        let mut read = BytesMut::from(read);
        segments.iter().for_each(|segment| read.extend_from_slice(segment));
        (socket, read.freeze())
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
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if self.socket.ended {
            return self.requests.poll_end(context).map(Ok);
        }
        self.requests.received();
        Poll::Ready(Ok(()))
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
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A socket that lingers when it closes.
pub(crate) struct LingeringSocket<S> {
    socket: S,
    /// Whether the client has shut down its sending side.
    ended: bool,
    /// Boxed, because it is not there while a client waits.
    closing: Option<Box<Lingering>>,
    shutdown: CancellationToken,
    _slot: ConnectionSlot,
}

impl<S> LingeringSocket<S> {
    /// The connection counts as open, and holds its `slot`, until the socket is dropped. A lingering
    /// close ends early on `shutdown`.
    pub(crate) fn new(socket: S, slot: ConnectionSlot, shutdown: CancellationToken) -> Self {
        Self { socket, ended: false, closing: None, shutdown, _slot: slot }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LingeringSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ended {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
            self.ended = buffer.filled().len() == before && buffer.remaining() > 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LingeringSocket<S> {
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
        let Self { socket, closing, ended, shutdown, .. } = &mut *self;
        let lingering = closing.get_or_insert_with(|| Box::new(Lingering::new()));
        ready!(lingering.poll_close_sending(socket, context))?;
        if *ended {
            return Poll::Ready(Ok(()));
        }
        lingering.poll(socket, shutdown.is_cancelled(), context).map(Ok)
    }
}

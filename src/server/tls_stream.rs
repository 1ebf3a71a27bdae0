//! TLS on an accepted connection (RFC 8446, RFC 5246), over rustls' unbuffered interface: bytes are
//! held only while some are pending in either direction, so that a connection which waits costs its
//! keys and no buffers.

use std::{
    future::poll_fn,
    io,
    mem::{MaybeUninit, take},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::server::network_stream::{NetworkStream, Tcp};

/// Maximum plaintext of a record, in bytes (RFC 8446 §5.1): what one write encrypts.
const MAX_FRAGMENT: usize = 16 * 1024;

/// Bytes that encryption adds to a record at most (RFC 8446 §5.2), with its header.
const MAX_EXPANSION: usize = 256 + 5;

/// Bytes that are read from the socket at a time.
const READ_SIZE: usize = MAX_FRAGMENT + MAX_EXPANSION;

/// Maximum number of bytes that may arrive before a record or a handshake message is complete.
const MAX_INCOMPLETE: usize = 64 * 1024;

/// A TLS connection of a server whose handshake is complete.
pub(crate) struct TlsStream<S> {
    socket: S,
    session: UnbufferedServerConnection,
    receiving: Receiving,
    /// Whether `close_notify` was queued.
    sending_closed: bool,
    /// `None` while nothing is pending.
    pending: Option<Box<Pending>>,
}

/// What the client can still send.
enum Receiving {
    Open,
    /// Nothing after its `close_notify`.
    Closed,
    /// Nothing: it closed the connection without `close_notify`.
    Truncated,
    /// Nothing: it broke the protocol. The error is reported once.
    Failed(Option<io::Error>),
}

/// Bytes on their way.
#[derive(Default)]
struct Pending {
    /// The beginning of a record, or of a handshake message, whose rest has not arrived.
    incomplete: Vec<u8>,
    /// Decrypted bytes that have not been read. Nothing more is received while there are any.
    plaintext: BytesMut,
    /// Records that the socket has not taken.
    outgoing: BytesMut,
}

/// What is done once everything that arrived is processed.
enum Then<'a> {
    Receive,
    Send(&'a [u8]),
    Close,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Performs the handshake. Boxed, because thousands of connections wait with it.
    ///
    /// # Errors
    /// When the client disconnects or breaks the protocol; it is sent an alert then.
    pub(crate) async fn accept(config: Arc<ServerConfig>, socket: S) -> io::Result<Box<Self>> {
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let receiving = Receiving::Open;
        let mut stream =
            Box::new(Self { socket, session, receiving, sending_closed: false, pending: None });
        poll_fn(|context| stream.poll_handshake(context)).await?;
        Ok(stream)
    }

    /// The application protocol that was agreed on (RFC 7301).
    pub(crate) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.receiving {
                Receiving::Open => {}
                Receiving::Failed(error) => return Poll::Ready(Err(failed(error))),
                Receiving::Closed | Receiving::Truncated => {
                    let error = "the connection was closed during the handshake";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
                }
            }
            // The client may have to send before it reads on.
            let sent = self.poll_send(context)?;
            if !self.session.is_handshaking() {
                ready!(sent);
                return Pin::new(&mut self.socket).poll_flush(context);
            }
            ready!(self.poll_receive(context, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Reads from the socket once and processes what arrived. Plaintext goes into `read`, and what it
    /// has no room for is pending.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [MaybeUninit::uninit(); READ_SIZE];
        let mut arrived = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut arrived))?;
        let arrived = arrived.filled_mut();
        if arrived.is_empty() {
            self.receiving = Receiving::Truncated;
            return Poll::Ready(Ok(()));
        }
        let mut incomplete = self.take_incomplete();
        let processed = if incomplete.is_empty() {
            self.process(arrived, read, Then::Receive).map(|used| arrived[used..].to_vec())
        } else {
            incomplete.extend_from_slice(arrived);
            self.process(&mut incomplete, read, Then::Receive).map(|used| match used {
                0 => incomplete,
                // Not drained, which would leave the room of the rest allocated.
                used => incomplete[used..].to_vec(),
            })
        };
        let error = match processed {
            Ok(rest) if rest.len() <= MAX_INCOMPLETE => {
                self.put_incomplete(rest);
                return Poll::Ready(Ok(()));
            }
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too long"),
            Err(error) => error,
        };
        self.fail(error, context);
        Poll::Ready(Ok(()))
    }

    /// Ends the receiving side, and tries to send the alert about it.
    fn fail(&mut self, error: io::Error, context: &mut Context<'_>) {
        self.receiving = Receiving::Failed(Some(error));
        while self.session.wants_write() {
            // Where something is to be sent, no bytes are looked at.
            let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut []);
            let Ok(ConnectionState::EncodeTlsData(data)) = state else { break };
            if encode(data, &mut self.pending).is_err() {
                break;
            }
        }
        // The error counts, whether or not the client can be sent the reason.
        let _ = self.poll_send(context);
    }

    /// Sends what is pending.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pending) = &mut self.pending else { return Poll::Ready(Ok(())) };
        while !pending.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(context, &pending.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => pending.outgoing.advance(sent),
            }
        }
        pending.outgoing = BytesMut::new();
        self.release();
        Poll::Ready(Ok(()))
    }
}

impl<S> TlsStream<S> {
    /// Processes the records in `incoming` and returns how many of its bytes are used up.
    fn process(
        &mut self,
        incoming: &mut [u8],
        read: &mut ReadBuf<'_>,
        then: Then<'_>,
    ) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.session.process_tls_records(&mut incoming[used..]);
            let done = match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        deliver(record.payload, read, &mut self.pending);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(data) => {
                    encode(data, &mut self.pending)?;
                    false
                }
                ConnectionState::TransmitTlsData(sent) => {
                    // In order before everything that follows.
                    sent.done();
                    false
                }
                ConnectionState::PeerClosed => {
                    self.receiving = Receiving::Closed;
                    false
                }
                ConnectionState::WriteTraffic(traffic) => {
                    encrypt(traffic, &then, &mut self.pending)?;
                    true
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => match then {
                    Then::Receive | Then::Close => true,
                    Then::Send(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                },
                // Early data, which is not offered (RFC 8446 §4.2.10).
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            used += discard;
            if done {
                // What follows `close_notify` is ignored (RFC 8446 §6.1).
                let closed = matches!(self.receiving, Receiving::Closed);
                return Ok(if closed { incoming.len() } else { used });
            }
        }
    }

    /// Queues what `then` sends, after everything that is pending.
    fn queue(&mut self, then: Then<'_>) -> io::Result<()> {
        let mut incomplete = self.take_incomplete();
        let used = match self.process(&mut incomplete, &mut ReadBuf::new(&mut []), then) {
            Ok(used) => used,
            Err(error) => {
                // How much of it was used is not known.
                self.receiving = Receiving::Failed(None);
                return Err(error);
            }
        };
        incomplete.drain(..used);
        self.put_incomplete(incomplete);
        Ok(())
    }

    fn take_incomplete(&mut self) -> Vec<u8> {
        self.pending.as_mut().map(|pending| take(&mut pending.incomplete)).unwrap_or_default()
    }

    fn put_incomplete(&mut self, incomplete: Vec<u8>) {
        if !incomplete.is_empty() {
            self.pending.get_or_insert_default().incomplete = incomplete;
        }
        self.release();
    }

    /// Reads plaintext that is pending, and returns whether there was any.
    fn read_plaintext(&mut self, read: &mut ReadBuf<'_>) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        let length = pending.plaintext.len().min(read.remaining());
        if length == 0 {
            return false;
        }
        read.put_slice(&pending.plaintext[..length]);
        pending.plaintext.advance(length);
        if pending.plaintext.is_empty() {
            pending.plaintext = BytesMut::new();
            self.release();
        }
        true
    }

    /// Frees the buffers if nothing is pending.
    fn release(&mut self) {
        let idle = |pending: &mut Box<Pending>| {
            pending.incomplete.is_empty()
                && pending.plaintext.is_empty()
                && pending.outgoing.is_empty()
        };
        self.pending.take_if(idle);
    }
}

impl NetworkStream for Box<TlsStream<Tcp>> {
    const HAS_CLOSE_NOTIFY: bool = true;
    const HOLDS_BYTES: bool = true;

    fn tcp(&mut self) -> &mut Tcp {
        &mut self.socket
    }

    fn has_unsent(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| !pending.outgoing.is_empty())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buffer.filled().len();
        while buffer.remaining() > 0 && !stream.read_plaintext(buffer) {
            match &mut stream.receiving {
                Receiving::Open => ready!(stream.poll_receive(context, buffer))?,
                Receiving::Closed => break,
                Receiving::Truncated => {
                    let error = "the client closed the connection without close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)));
                }
                Receiving::Failed(error) => return Poll::Ready(Err(failed(error))),
            }
            // Before the error that may have followed it.
            if buffer.filled().len() > before {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if stream.sending_closed || matches!(stream.receiving, Receiving::Failed(_)) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(stream.poll_send(context))?;
        let bytes = &bytes[..bytes.len().min(MAX_FRAGMENT)];
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        stream.queue(Then::Send(bytes))?;
        match stream.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // A flush sends the rest.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// One record for slices that fit into one: a head and its body need one packet.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices = slices.iter().filter(|slice| !slice.is_empty());
        let (Some(first), second) = (slices.next(), slices.next()) else {
            return self.poll_write(context, &[]);
        };
        let Some(second) = second else { return self.poll_write(context, first) };
        let mut joined = Vec::with_capacity(MAX_FRAGMENT);
        for slice in [first, second].into_iter().chain(slices) {
            joined.extend_from_slice(&slice[..slice.len().min(MAX_FRAGMENT - joined.len())]);
        }
        self.poll_write(context, &joined)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send(context))?;
        Pin::new(&mut stream.socket).poll_flush(context)
    }

    /// Sends `close_notify`, and closes the sending side.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.sending_closed {
            stream.sending_closed = true;
            // After an alert nothing is sent.
            if !matches!(stream.receiving, Receiving::Failed(_)) {
                stream.queue(Then::Close)?;
            }
        }
        ready!(stream.poll_send(context))?;
        match ready!(Pin::new(&mut stream.socket).poll_shutdown(context)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            // The client has closed the connection already.
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Plaintext goes to the reader, and what it has no room for is pending.
fn deliver(plaintext: &[u8], read: &mut ReadBuf<'_>, pending: &mut Option<Box<Pending>>) {
    // In order: once something is pending, the reader has no room left.
    let (now, later) = plaintext.split_at(plaintext.len().min(read.remaining()));
    read.put_slice(now);
    if !later.is_empty() {
        pending.get_or_insert_default().plaintext.extend_from_slice(later);
    }
}

/// Queues a record that the session made itself.
fn encode<T>(mut data: EncodeTlsData<'_, T>, pending: &mut Option<Box<Pending>>) -> io::Result<()> {
    let outgoing = &mut pending.get_or_insert_default().outgoing;
    let start = outgoing.len();
    match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(room)) => {
            outgoing.resize(start + room.required_size, 0);
            data.encode(&mut outgoing[start..]).map(drop).map_err(io::Error::other)
        }
        other => other.map(drop).map_err(io::Error::other),
    }
}

/// Queues the records of what is to be sent.
fn encrypt<T>(
    mut traffic: WriteTraffic<'_, T>,
    then: &Then<'_>,
    pending: &mut Option<Box<Pending>>,
) -> io::Result<()> {
    let plaintext = match then {
        Then::Receive => return Ok(()),
        Then::Send(bytes) => Some(*bytes),
        Then::Close => None,
    };
    let outgoing = &mut pending.get_or_insert_default().outgoing;
    let start = outgoing.len();
    let mut room = plaintext.unwrap_or_default().len() + MAX_EXPANSION;
    loop {
        outgoing.resize(start + room, 0);
        let target = &mut outgoing[start..];
        let encrypted = match plaintext {
            Some(bytes) => traffic.encrypt(bytes, target),
            None => traffic.queue_close_notify(target),
        };
        match encrypted {
            Ok(length) => {
                outgoing.truncate(start + length);
                return Ok(());
            }
            // A message of the session comes first.
            Err(EncryptError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(error) => {
                outgoing.truncate(start);
                return Err(io::Error::other(error));
            }
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The error that ended the receiving side, once.
fn failed(error: &mut Option<io::Error>) -> io::Error {
    error.take().unwrap_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests;

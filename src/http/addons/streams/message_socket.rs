//! WebSocket messages on a socket (RFC 6455 §5). Buffers, and the state of the protocol, exist only
//! while something is incomplete: a socket that waits has neither.

use std::{
    io::{self, Cursor, Read, Write},
    mem::MaybeUninit,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext, frame::FrameHeader},
};

/// Buffer size in either direction, in bytes. Frames are small.
const BUFFER: usize = 1024;

/// Maximum size of a message from a client, in bytes, of which `{"type":"ack"}` is the only one.
const MAX_MESSAGE: usize = 1024;

/// Maximum number of bytes that wait to be written: a token, or the pongs of a client that only pings.
const MAX_WRITE_BUFFER: usize = 64 * 1024;

/// The server's end of a WebSocket over the socket `S`.
pub struct MessageSocket<S> {
    socket: S,
    /// `None` while nothing is incomplete.
    incomplete: Option<Box<Incomplete>>,
}

/// A WebSocket on which something is incomplete.
struct Incomplete {
    protocol: Protocol,
    progress: Progress,
}

struct Protocol {
    context: WebSocketContext,
    /// Whether a message may be written: not before an earlier one that the socket has not taken.
    is_ready: bool,
    /// Whether nothing more can be received.
    ended: bool,
}

/// How far either direction is.
struct Progress {
    /// Whether received bytes may hold further messages.
    unread: bool,
    /// Whether every read ended where a frame ends, and no message came in fragments. Otherwise the state
    /// of the protocol is needed for the rest of the connection.
    whole: bool,
    /// Whether bytes may wait for the socket.
    unsent: bool,
}

impl Incomplete {
    /// A WebSocket on which these bytes were received.
    fn new(received: &[u8]) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(MAX_WRITE_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let (received, role) = (received.to_vec(), Role::Server);
        let (unread, whole) = (!received.is_empty(), are_whole(&received));
        let context = WebSocketContext::from_partially_read(received, role, Some(config));
        let protocol = Protocol { context, is_ready: true, ended: false };
        Box::new(Self { protocol, progress: Progress { unread, whole, unsent: false } })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageSocket<S> {
    /// A WebSocket after its opening handshake, with which these bytes were received.
    pub fn new(socket: S, received: &[u8]) -> Self {
        let incomplete = (!received.is_empty()).then(|| Incomplete::new(received));
        Self { socket, incomplete }
    }

    /// Receives the next message. `None` after the end of the connection, or after an error.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.incomplete.is_none() {
            let mut bytes = [MaybeUninit::uninit(); BUFFER];
            let mut received = ReadBuf::uninit(&mut bytes);
            if let Err(error) = ready!(Pin::new(&mut self.socket).poll_read(context, &mut received))
            {
                return Poll::Ready(Some(Err(error.into())));
            }
            let received = received.filled();
            if received.is_empty() {
                return Poll::Ready(None);
            }
            // The answer to a heartbeat, which most messages are.
            if is_pong(received) {
                return Poll::Ready(Some(Ok(Message::Pong(Bytes::new()))));
            }
            self.incomplete = Some(Incomplete::new(received));
        }
        self.with_protocol(context, |protocol, io| {
            if protocol.ended {
                return Poll::Ready(None);
            }
            let Poll::Ready(message) = unless_blocked(protocol.context.read(io)) else {
                return Poll::Pending;
            };
            protocol.ended = message.is_err();
            Poll::Ready(match message {
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => None,
                message => Some(message),
            })
        })
    }

    /// Returns once a message may be written.
    ///
    /// # Errors
    /// When the connection is broken or closed.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &self.incomplete {
            Some(incomplete) if !incomplete.protocol.is_ready => self.poll_flush(context),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Writes a message, which [`Self::poll_flush`] sends.
    ///
    /// # Errors
    /// When the connection is broken or closed, or too much waits to be sent.
    pub fn start_send(&mut self, message: Message, context: &mut Context<'_>) -> Result<(), Error> {
        self.with_protocol(context, |protocol, io| {
            io.progress.unsent = true;
            match unless_blocked(protocol.context.write(io, message)) {
                Poll::Ready(written) => written,
                // It is queued.
                Poll::Pending => {
                    protocol.is_ready = false;
                    Ok(())
                }
            }
        })
    }

    /// Returns once everything is sent.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.incomplete.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.with_protocol(context, |protocol, io| {
            let flushed = ready!(unless_blocked(protocol.context.flush(io)));
            protocol.is_ready = true;
            Poll::Ready(match flushed {
                // The closing handshake is complete.
                Err(Error::ConnectionClosed) => Ok(()),
                flushed => flushed,
            })
        })
    }

    /// Closes the connection below.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    /// Applies `act`, and drops the state of the protocol when nothing is incomplete after it.
    fn with_protocol<T>(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut Protocol, &mut Io<'_, '_, S>) -> T,
    ) -> T {
        let Self { socket, incomplete } = self;
        let current = incomplete.get_or_insert_with(|| Incomplete::new(&[]));
        let Incomplete { protocol, progress } = &mut **current;
        let mut io = Io { socket, progress, context };
        let result = act(protocol, &mut io);
        // The last flush writes a pong for which the buffer had no room.
        if io.progress.is_complete()
            && !protocol.ended
            && protocol.context.can_write()
            && protocol.context.flush(&mut io).is_ok()
        {
            *incomplete = None;
        }
        result
    }
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.whole && !self.unread && !self.unsent
    }
}

/// A socket as the protocol uses it.
struct Io<'a, 'b, S> {
    socket: &'a mut S,
    progress: &'a mut Progress,
    context: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Io<'_, '_, S> {
    /// Called when all that was read has been returned as messages, except for the beginning of one.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.socket).poll_read(self.context, &mut buffer) {
            Poll::Ready(read) => {
                read?;
                self.progress.unread = true;
                self.progress.whole &= are_whole(buffer.filled());
                Ok(buffer.filled().len())
            }
            Poll::Pending => {
                self.progress.unread = false;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Io<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.unsent = true;
        blocking(Pin::new(&mut *self.socket).poll_write(self.context, bytes))
    }

    /// Called when everything is written.
    fn flush(&mut self) -> io::Result<()> {
        blocking(Pin::new(&mut *self.socket).poll_flush(self.context))?;
        self.progress.unsent = false;
        Ok(())
    }
}

fn blocking<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn unless_blocked<T>(result: Result<T, Error>) -> Poll<Result<T, Error>> {
    match result {
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

/// The first frame's header and the bytes after the frame, if all of it is there.
fn first_frame(bytes: &[u8]) -> Option<(FrameHeader, &[u8])> {
    let mut cursor = Cursor::new(bytes);
    let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
    let end = usize::try_from(cursor.position().checked_add(length)?).ok()?;
    Some((header, bytes.get(end..)?))
}

/// Whether these are complete frames of messages that are not fragmented.
fn are_whole(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match first_frame(bytes) {
            Some((header, rest)) if header.is_final => bytes = rest,
            _ => return false,
        }
    }
    true
}

/// Whether this is one valid pong from a client.
fn is_pong(bytes: &[u8]) -> bool {
    /// FIN, no reserved bit, opcode 0xA.
    const PONG: u8 = 0x8a;
    /// MASK, and the length of a control frame, which is at most 125.
    const MASKED: RangeInclusive<u8> = 0x80..=0x80 + 125;
    matches!(bytes, [PONG, length, ..] if MASKED.contains(length))
        && first_frame(bytes).is_some_and(|(_, rest)| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Waker};

    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{WebSocket, error::ProtocolError};

    use super::*;

    /// A socket whose bytes come in pieces, with a pause before each, and that takes as many at a time as
    /// it has `room` for.
    struct Pieces {
        pieces: VecDeque<Vec<u8>>,
        paused: bool,
        written: Vec<u8>,
        room: usize,
    }

    impl Pieces {
        fn new(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
            let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
            Self { pieces, paused: false, written: Vec::new(), room: usize::MAX }
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.paused = !self.paused;
            if self.paused {
                return Poll::Pending;
            }
            let Some(mut piece) = self.pieces.pop_front() else { return Poll::Ready(Ok(())) };
            if piece.len() > buffer.remaining() {
                let rest = piece.split_off(buffer.remaining());
                self.pieces.push_front(rest);
            }
            buffer.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What was received, and how it ended.
    #[derive(Debug, PartialEq)]
    struct Seen(Vec<Message>, String);

    impl Seen {
        fn add(&mut self, message: Option<Result<Message, Error>>) -> bool {
            match message {
                // Its payload means nothing.
                Some(Ok(Message::Pong(_))) => self.0.push(Message::Pong(Bytes::new())),
                Some(Ok(message)) => self.0.push(message),
                // The end of a connection has several names.
                None
                | Some(Err(
                    Error::ConnectionClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )) => self.1 = "end".to_owned(),
                Some(Err(error)) => self.1 = error.to_string(),
            }
            self.1.is_empty()
        }
    }

    fn noop() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn receive(socket: &mut MessageSocket<Pieces>) -> Seen {
        let mut seen = Seen(Vec::new(), String::new());
        loop {
            if let Poll::Ready(message) = socket.poll_next(&mut noop())
                && !seen.add(message)
            {
                assert!(
                    seen.1 == "end" || matches!(socket.poll_next(&mut noop()), Poll::Ready(None))
                );
                return seen;
            }
        }
    }

    /// What tungstenite alone makes of the same bytes: received, and written.
    fn reference(bytes: &[u8]) -> (Seen, Vec<u8>) {
        struct Both<'a>(&'a [u8], Vec<u8>);
        impl Read for Both<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl Write for Both<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let mut socket =
            WebSocket::from_raw_socket(Both(bytes, Vec::new()), Role::Server, Some(config));
        let mut seen = Seen(Vec::new(), String::new());
        while seen.add(Some(socket.read())) {}
        (seen, socket.into_inner().1)
    }

    fn frame(first: u8, mask: Option<u8>, payload: &[u8]) -> Vec<u8> {
        let masked = if mask.is_some() { 0x80 } else { 0 };
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(length @ 0..126) => frame.push(masked | length),
            _ => {
                frame.push(masked | 126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend(mask.into_iter().flat_map(|mask| [mask; 4]));
        frame.extend(payload.iter().map(|byte| byte ^ mask.unwrap_or_default()));
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let opcode = prop_oneof![
            8 => Just(0x8a_u8), 8 => Just(0x89), 4 => Just(0x81), 1 => Just(0x82), 1 => Just(0x01),
            2 => Just(0x80), 1 => Just(0x00), 1 => Just(0x88), 1 => any::<u8>(),
        ];
        let mask = prop_oneof![20 => any::<u8>().prop_map(Some), 1 => Just(None)];
        let payload = prop_oneof![
            4 => Just(Vec::new()),
            4 => "[a-z]{1,20}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..130),
            1 => prop::collection::vec(Just(b'x'), 1000..1030),
        ];
        let frame =
            (opcode, mask, payload).prop_map(|(first, mask, payload)| frame(first, mask, &payload));
        prop::collection::vec(frame, 0..8).prop_map(|frames| frames.concat())
    }

    proptest! {
        // Mostly whole frames, or any pieces.
        #[test]
        fn dropping_the_state_of_the_protocol_changes_nothing(
            pieces in prop::collection::vec(frames(), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            early in any::<bool>(),
        ) {
            let all = pieces.concat();
            let (seen, written) = reference(&all);
            let mut cut: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            cut.extend([0, all.len()]);
            cut.sort_unstable();
            let cut = cut.windows(2).map(|ends| all[ends[0]..ends[1]].to_vec()).collect();
            for mut pieces in [pieces, cut] {
                let first = if early && !pieces.is_empty() { pieces.remove(0) } else { Vec::new() };
                let mut socket = MessageSocket::new(Pieces::new(pieces), &first);
                prop_assert_eq!(&receive(&mut socket), &seen);
                prop_assert_eq!(&socket.socket.written, &written);
            }
        }
    }

    #[test]
    fn a_socket_that_waits_has_no_state_of_the_protocol() {
        let (ping, pong) = (frame(0x89, Some(7), b"hello"), frame(0x8a, Some(7), b""));
        let acknowledgement = frame(0x81, Some(7), br#"{"type":"ack"}"#);
        let (beginning, end) = ping.split_at(3);
        for (pieces, messages, stays) in [
            (vec![pong.clone()], 1, false),
            (vec![ping.clone()], 1, false),
            (vec![acknowledgement.clone()], 1, false),
            (vec![[&ping[..], &pong, &acknowledgement].concat()], 3, false),
            (vec![ping.clone(), [&pong[..], &ping].concat(), pong.clone()], 4, false),
            (vec![beginning.to_vec(), end.to_vec()], 1, true),
            (vec![frame(0x01, Some(7), b"{"), frame(0x80, Some(7), b"}")], 1, true),
            (vec![beginning.to_vec()], 0, true),
        ] {
            let reads = pieces.len();
            let mut socket = MessageSocket::new(Pieces::new(pieces), &[]);
            let mut received = 0;
            while !(socket.socket.pieces.is_empty() && socket.socket.paused) {
                received += usize::from(socket.poll_next(&mut noop()).is_ready());
            }
            assert_eq!((received, socket.incomplete.is_some()), (messages, stays), "{reads}");
        }
        let mut socket = MessageSocket::new(Pieces::new([]), &[]);
        socket.start_send(Message::Ping(Bytes::new()), &mut noop()).unwrap();
        assert!(socket.incomplete.is_some());
        assert!(matches!(socket.poll_flush(&mut noop()), Poll::Ready(Ok(()))));
        assert!(socket.incomplete.is_none());
        assert_eq!(socket.socket.written, [0x89, 0]);
        socket.start_send(Message::Close(None), &mut noop()).unwrap();
        assert!(socket.poll_flush(&mut noop()).is_ready());
        assert!(socket.incomplete.is_some(), "the closing handshake is not complete");
    }

    #[test]
    fn what_the_socket_does_not_take_is_sent_later() {
        let pings = vec![frame(0x89, Some(7), b"hello"); 3];
        let mut socket = MessageSocket::new(Pieces::new(pings), &[]);
        socket.socket.room = 3;
        let text = Message::text("a token");
        let mut received = 0;
        while received < 3 {
            received += usize::from(socket.poll_next(&mut noop()).is_ready());
        }
        socket.start_send(text, &mut noop()).unwrap();
        assert!(socket.poll_flush(&mut noop()).is_pending());
        assert!(socket.incomplete.is_some());
        socket.socket.room = usize::MAX;
        assert!(socket.poll_flush(&mut noop()).is_ready());
        assert!(socket.socket.written.starts_with(b"\x8a\x05hello"));
        let written = &socket.socket.written;
        assert!(written.windows(9).any(|part| part == b"\x81\x07a token"), "{written:?}");
        socket.socket.paused = false;
        assert!(socket.poll_next(&mut noop()).is_pending());
        assert!(socket.incomplete.is_none());
    }
}

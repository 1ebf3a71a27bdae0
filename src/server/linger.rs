//! Lingering close (RFC 9112 §9.6): a server that closed while its client sends would reset the
//! connection, and with it what the client has not read.

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

/// Idle timeout after the server has closed its side.
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// Maximum time that a client may continue to send.
const LINGER: Duration = Duration::from_secs(30);

/// Maximum number of bytes that are read and discarded while it does.
const MAX_LINGER_BYTES: usize = 64 * 1024 * 1024;

/// A close in progress.
pub(crate) struct Lingering {
    sending_closed: bool,
    until: Instant,
    idle: Pin<Box<Sleep>>,
    dropped: usize,
}

impl Lingering {
    /// A close that begins now.
    pub(crate) fn new() -> Self {
        Self {
            sending_closed: false,
            until: Instant::now() + LINGER,
            idle: Box::pin(tokio::time::sleep(LINGER_IDLE)),
            dropped: 0,
        }
    }

    /// Closes the sending side, once.
    pub(crate) fn poll_close_sending<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.sending_closed {
            ready!(Pin::new(socket).poll_shutdown(context))?;
            self.sending_closed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and discards until the client closes or a limit is reached; with `at_once`, what has
    /// arrived.
    pub(crate) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        at_once: bool,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.dropped += buffer.filled().len();
                }
                // Closed, or broken: either way nothing is left to protect.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            let now = Instant::now();
            if self.dropped > MAX_LINGER_BYTES || now >= self.until || at_once {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(now + LINGER_IDLE);
        }
        self.idle.as_mut().poll(context)
    }
}

//! A client's connection, TCP or TLS, and the TCP socket below it, which the runtime watches or the
//! parking.

use std::{
    io::{self, Read as _, Write as _},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection that can carry an event stream.
pub(crate) trait NetworkStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the protocol has a closing message of its own (`close_notify`). TCP has none: closing
    /// the socket sends the same, with one system call less.
    const HAS_CLOSE_NOTIFY: bool;

    /// Whether bytes can be held above the socket, which nothing reports while it is parked.
    const HOLDS_BYTES: bool;

    /// The socket below.
    fn tcp(&mut self) -> &mut Tcp;

    /// Whether bytes wait to be sent that no write is about.
    fn has_unsent(&self) -> bool;
}

/// A TCP socket.
pub(crate) struct Tcp(Watched);

enum Watched {
    /// By the runtime.
    Active(TcpStream),
    /// By the parking, or by nobody while a task looks what has happened. Calls that would block are
    /// pending, and wake nothing.
    Parked(mio::net::TcpStream),
    /// By nobody: the operating system refused to go from one to the other.
    Lost,
}

impl From<TcpStream> for Tcp {
    fn from(socket: TcpStream) -> Self {
        Self(Watched::Active(socket))
    }
}

impl Tcp {
    /// Lets the runtime watch the socket.
    ///
    /// # Errors
    /// When it cannot; the connection is lost.
    pub(crate) fn activate(&mut self) -> io::Result<()> {
        if let Watched::Parked(_) = self.0
            && let Watched::Parked(socket) = std::mem::replace(&mut self.0, Watched::Lost)
        {
            self.0 = Watched::Active(TcpStream::from_std(socket.into())?);
        }
        Ok(())
    }

    /// The socket for the parking. The runtime no longer watches it.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn park(&mut self) -> io::Result<&mut mio::net::TcpStream> {
        if let Watched::Active(_) = self.0
            && let Watched::Active(socket) = std::mem::replace(&mut self.0, Watched::Lost)
        {
            self.0 = Watched::Parked(mio::net::TcpStream::from_std(socket.into_std()?));
        }
        match &mut self.0 {
            Watched::Parked(socket) => Ok(socket),
            Watched::Active(_) | Watched::Lost => Err(lost()),
        }
    }

    /// Whether the runtime watches the socket.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.0, Watched::Active(_))
    }
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// The result of a call that does not block.
fn pending_if_blocked<T>(mut call: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        return match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => Poll::Ready(done),
        };
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Watched::Active(socket) => Pin::new(socket).poll_read(context, buffer),
            Watched::Parked(socket) => pending_if_blocked(|| {
                let read = socket.read(buffer.initialize_unfilled())?;
                buffer.advance(read);
                Ok(())
            }),
            Watched::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Watched::Active(socket) => Pin::new(socket).poll_write(context, bytes),
            Watched::Parked(socket) => pending_if_blocked(|| socket.write(bytes)),
            Watched::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Watched::Active(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Watched::Parked(socket) => pending_if_blocked(|| socket.write_vectored(slices)),
            Watched::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// TCP holds nothing back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Watched::Active(socket) => Pin::new(socket).poll_shutdown(context),
            Watched::Parked(socket) => Poll::Ready(socket.shutdown(std::net::Shutdown::Write)),
            Watched::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl NetworkStream for Tcp {
    const HAS_CLOSE_NOTIFY: bool = false;
    const HOLDS_BYTES: bool = false;

    fn tcp(&mut self) -> &mut Tcp {
        self
    }

    fn has_unsent(&self) -> bool {
        false
    }
}

//! The socket of a waiting event stream, shared by its task and the thread that delivers the token.
//!
//! While nothing happens the stream is parked and has no task. The token is written on the thread that
//! delivers it, before any task is woken ([`DirectWriter`]); heartbeats by the thread of the parking;
//! everything else by a task. All write under one lock and never wait while holding it.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{FutureExt as _, poll};
use tokio::{io::ReadBuf, time::Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    http::addons::streams::{
        Encoder, Transport as _,
        body::PROBES,
        sse::{EventSource, EventStream},
    },
    relay::DirectWriter,
    server::{
        connection_slots::ConnectionSlot,
        linger::Lingering,
        network_stream::NetworkStream,
        parking::{Parked, Parking, Place},
    },
    session::{SealedPayload, SessionKey},
};

/// Time for a client to take a few bytes; after it the connection counts as dead.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that are read while an event stream is open, where a client has nothing to send. Further ones
/// wait unread, as they do behind hyper.
const MAX_UNEXPECTED: u16 = 1024;

/// Ends a body in the chunked transfer coding (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What runs over the socket of an event stream.
pub(crate) struct Carried {
    events: EventStream,
    _slot: ConnectionSlot,
    /// The connection counts as open while this is there.
    _tracked: TaskTrackerToken,
    /// Bytes that the client has sent.
    unexpected: u16,
    /// Whether the client has shut down its sending side.
    half_closed: bool,
}

impl Carried {
    pub(crate) fn new(
        events: EventStream,
        slot: ConnectionSlot,
        tracked: TaskTrackerToken,
    ) -> Box<Self> {
        Box::new(Self { events, _slot: slot, _tracked: tracked, unexpected: 0, half_closed: false })
    }
}

/// The socket of one event stream.
pub(crate) struct StreamSocket<S> {
    writer: Mutex<Writer<S>>,
    encoder: Encoder,
    parking: Arc<Parking>,
}

struct Writer<S> {
    socket: S,
    /// Bytes that the socket has not taken yet.
    unsent: Bytes,
    /// Whether a write is in progress, which the task completes.
    writing: bool,
    /// Whether the last chunk has been queued.
    finished: bool,
    /// What is parked with the socket, and where.
    parked: Option<(Place, Box<Carried>)>,
}

impl<S: NetworkStream> Writer<S> {
    fn new(socket: S, unsent: Bytes) -> Self {
        Self { socket, unsent, writing: true, finished: false, parked: None }
    }

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

    /// Reads and drops up to [`MAX_UNEXPECTED`] bytes. Ready when the client has shut down its sending
    /// side.
    ///
    /// # Errors
    /// When the connection is broken.
    fn poll_end(
        &mut self,
        unexpected: &mut u16,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 64];
        while *unexpected <= MAX_UNEXPECTED {
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
            match buffer.filled().len() {
                0 => return Poll::Ready(Ok(())),
                read => *unexpected += u16::try_from(read).unwrap_or(MAX_UNEXPECTED),
            }
        }
        Poll::Pending
    }
}

/// What a parked stream needs.
enum Need<T> {
    /// Nothing.
    Nothing(T),
    /// A task.
    Task,
    /// To be dropped: the connection is broken.
    End(io::Error),
}

impl<S: NetworkStream> StreamSocket<S> {
    /// Runs an event stream over `socket`, beginning with `head`, until it ends or the client
    /// disconnects. Most often it is parked when this returns.
    pub(crate) fn run(socket: S, head: Bytes, carried: Box<Carried>, parking: &Arc<Parking>) {
        let stream = Arc::new(Self {
            writer: Mutex::new(Writer::new(socket, head)),
            encoder: carried.events.encoder(),
            parking: Arc::clone(parking),
        });
        carried.events.set_direct_writer(Arc::clone(&stream) as Arc<dyn DirectWriter>);
        let sent = stream.writer().poll_send(&mut Context::from_waker(Waker::noop()));
        let carried = match sent {
            Poll::Ready(Err(error)) => return ended(&error),
            Poll::Ready(Ok(())) if !carried.events.is_over() => match stream.park(carried) {
                Ok(()) => return,
                Err(Ok(carried)) => carried,
                Err(Err(error)) => return ended(&error),
            },
            _ => carried,
        };
        stream.spawn(carried);
    }

    /// Continues in a task, or a little later where the token is written: all that is left is to close the
    /// connection, which its client does not wait for.
    fn spawn(self: Arc<Self>, carried: Box<Carried>) {
        let parking = Arc::clone(&self.parking);
        let is_written = {
            let writer = self.writer();
            writer.finished && !writer.writing
        };
        if is_written {
            parking.end_soon(Box::new(move || self.end_at_once(carried)));
        } else {
            parking.spawn(self.run_to_end(carried));
        }
    }

    /// Does without a task what is left of a stream whose last bytes are written, unless something has to be
    /// waited for.
    fn end_at_once(self: Arc<Self>, carried: Box<Carried>) {
        let parking = Arc::clone(&self.parking);
        let mut task = Box::pin(self.run_to_end(carried));
        if (&mut task).now_or_never().is_none() {
            parking.spawn(task);
        }
    }

    async fn run_to_end(self: Arc<Self>, carried: Box<Carried>) {
        if let Err(error) = self.serve(carried).await {
            ended(&error);
        }
    }

    /// Serves until the stream ends or is parked.
    async fn serve(self: Arc<Self>, mut carried: Box<Carried>) -> io::Result<()> {
        loop {
            self.sent().await?;
            if carried.events.is_over() {
                self.send(last_chunks(&[]), true).await?;
                return self.end().await;
            }
            if carried.half_closed {
                // Boxed, because few streams come here.
                Box::pin(self.run_half_closed(&mut carried.events)).await?;
                return self.end().await;
            }
            if let Some(last) = self.check(&mut carried).await? {
                // The last bytes go with the last chunk: one system call and one packet less.
                self.send(last_chunks(&last), true).await?;
                return self.end().await;
            }
            if carried.half_closed {
                continue;
            }
            carried = match self.park(carried) {
                Ok(()) => return Ok(()),
                Err(Ok(carried)) => carried,
                Err(Err(error)) => return Err(error),
            };
            if self.has_to_wait()? {
                self.wait(&mut carried).await?;
            }
        }
    }

    /// Looks whether the stream is over, and meanwhile for the client's end.
    async fn check(&self, carried: &mut Carried) -> io::Result<Option<Bytes>> {
        let Carried { events, unexpected, half_closed, .. } = carried;
        let mut check = pin!(events.check());
        if let Poll::Ready(last) = poll!(check.as_mut()) {
            return Ok(last);
        }
        self.writer().socket.tcp().activate()?;
        tokio::select! {
            biased;
            last = check => Ok(last),
            ended = self.sending_ended(unexpected) => {
                *half_closed = true;
                ended.map(|()| None)
            }
        }
    }

    /// Waits in the task, where the connection cannot be parked.
    async fn wait(&self, carried: &mut Carried) -> io::Result<()> {
        let Carried { events, unexpected, half_closed, .. } = carried;
        tokio::select! {
            biased;
            next = events.next() => {
                let (bytes, last) = (next.unwrap_or_default(), events.is_over());
                self.send(if last { last_chunks(&bytes) } else { chunk(&bytes) }, last).await
            }
            ended = self.sending_ended(unexpected) => {
                *half_closed = true;
                ended
            }
        }
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
                    let (bytes, last) = (next.unwrap_or_default(), events.is_over());
                    let bytes = if last { last_chunks(&bytes) } else { chunk(&bytes) };
                    self.send(bytes, last).await?;
                    if last {
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

    /// Closes the connection, when all is sent.
    async fn end(&self) -> io::Result<()> {
        if S::HAS_CLOSE_NOTIFY {
            // The client has the last chunk even if this fails.
            let _ = self
                .complete(|writer, context| Pin::new(&mut writer.socket).poll_shutdown(context))
                .await;
        }
        if !self.drop_received() {
            Box::pin(self.linger()).await;
        }
        Ok(())
    }

    /// Reads and drops what has arrived, and returns whether that was all. With unread bytes, closing
    /// would reset the connection, and the client could lose the last event.
    fn drop_received(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut unexpected = 0;
        let ended = self.writer().poll_end(&mut unexpected, &mut context);
        ended.is_ready() || unexpected <= MAX_UNEXPECTED
    }

    /// Closes the sending side, and reads and drops until the client closes too.
    async fn linger(&self) {
        if self.writer().socket.tcp().activate().is_err() {
            return;
        }
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

    /// Whether a task waits for what happens next: the socket is not parked, or the token was written and
    /// the signal that says so has not arrived.
    fn has_to_wait(&self) -> io::Result<bool> {
        let mut writer = self.writer();
        if writer.finished {
            writer.socket.tcp().activate()?;
        }
        Ok(writer.socket.tcp().is_active())
    }

    /// Sends bytes, unless the token was written meanwhile. Returns when everything is sent.
    async fn send(&self, bytes: Bytes, last: bool) -> io::Result<()> {
        self.writer().begin(bytes, last);
        self.sent().await
    }

    /// Waits until everything is sent.
    async fn sent(&self) -> io::Result<()> {
        self.complete(Writer::poll_send).await
    }

    /// Completes a write. The common case, an empty socket buffer, needs no timer, and nobody who
    /// watches the socket.
    async fn complete(
        &self,
        mut write: impl FnMut(&mut Writer<S>, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> io::Result<()> {
        match poll_fn(|context| Poll::Ready(write(&mut self.writer(), context))).await {
            Poll::Ready(done) => done,
            Poll::Pending => {
                self.writer().socket.tcp().activate()?;
                let done = poll_fn(|context| write(&mut self.writer(), context));
                Box::pin(tokio::time::timeout(WRITE_TIMEOUT, done)).await?
            }
        }
    }

    /// Returns when the client shuts down its sending side.
    ///
    /// # Errors
    /// When the connection is broken.
    async fn sending_ended(&self, unexpected: &mut u16) -> io::Result<()> {
        poll_fn(|context| self.writer().poll_end(unexpected, context)).await
    }
}

fn ended(error: &io::Error) {
    tracing::trace!(%error, "event stream failed");
}

/// Parking. What runs over a socket is never dropped under the lock: its end takes other locks.
impl<S: NetworkStream> StreamSocket<S> {
    /// Parks the stream, where the connection can be and nothing has happened.
    ///
    /// # Errors
    /// What runs over it, which a task has to look after, or the error for which the connection is
    /// lost.
    fn park(
        self: &Arc<Self>,
        mut carried: Box<Carried>,
    ) -> Result<(), Result<Box<Carried>, io::Error>> {
        let mut guard = self.writer();
        let writer = &mut *guard;
        if writer.writing || writer.finished || writer.socket.has_unsent() {
            return Err(Ok(carried));
        }
        let place = match self.find_place(writer, &mut carried) {
            Ok(Some(place)) => place,
            Ok(None) => return Err(Ok(carried)),
            Err(error) => {
                drop(guard);
                return Err(Err(error));
            }
        };
        let look = if S::HOLDS_BYTES {
            writer.poll_end(&mut carried.unexpected, &mut Context::from_waker(Waker::noop()))
        } else {
            Poll::Pending
        };
        if look.is_pending()
            && !writer.socket.has_unsent()
            && carried.events.wait().wake_by(&Waker::from(Arc::clone(self)))
        {
            writer.parked = Some((place, carried));
            return Ok(());
        }
        self.leave(writer, place);
        drop(guard);
        match look {
            Poll::Ready(Err(error)) => return Err(Err(error)),
            Poll::Ready(Ok(())) => carried.half_closed = true,
            Poll::Pending => {}
        }
        Err(Ok(carried))
    }

    /// A place for the socket; `None` when the parking has none.
    ///
    /// # Errors
    /// When the connection is lost.
    fn find_place(
        self: &Arc<Self>,
        writer: &mut Writer<S>,
        carried: &mut Carried,
    ) -> io::Result<Option<Place>> {
        let deadline = carried.events.wait().deadline();
        let parked = Arc::clone(self) as Arc<dyn Parked>;
        match self.parking.park(writer.socket.tcp().park()?, parked, deadline) {
            Ok(place) => Ok(Some(place)),
            Err(error) => {
                tracing::debug!(%error, "event stream not parked");
                writer.socket.tcp().activate().map(|()| None)
            }
        }
    }

    /// Gives a place back.
    fn leave(&self, writer: &mut Writer<S>, place: Place) {
        if let Ok(socket) = writer.socket.tcp().park() {
            self.parking.leave(place, socket);
        }
    }

    /// Ends the parking, unless `look` finds nothing to be done.
    fn resume<T>(
        self: Arc<Self>,
        look: impl FnOnce(&mut Writer<S>, &mut Carried) -> Need<T>,
    ) -> Option<T> {
        let mut writer = self.writer();
        let (place, mut carried) = writer.parked.take()?;
        let broken = match look(&mut writer, &mut carried) {
            Need::Nothing(nothing) => {
                writer.parked = Some((place, carried));
                return Some(nothing);
            }
            Need::Task => None,
            Need::End(error) => Some(error),
        };
        self.leave(&mut writer, place);
        drop(writer);
        match broken {
            None => self.spawn(carried),
            Some(error) => ended(&error),
        }
        None
    }
}

impl<S: NetworkStream> Wake for StreamSocket<S> {
    fn wake(self: Arc<Self>) {
        self.resume(|_, _| Need::<()>::Task);
    }
}

impl<S: NetworkStream> Parked for StreamSocket<S> {
    fn readable(self: Arc<Self>) {
        self.resume(|writer, carried| {
            let mut context = Context::from_waker(Waker::noop());
            match writer.poll_end(&mut carried.unexpected, &mut context) {
                // Such as the answer to a key update.
                Poll::Pending if writer.socket.has_unsent() => Need::Task,
                Poll::Pending => Need::Nothing(()),
                Poll::Ready(Ok(())) => {
                    carried.half_closed = true;
                    Need::Task
                }
                Poll::Ready(Err(error)) => Need::End(error),
            }
        });
    }

    fn due(self: Arc<Self>, now: Instant) -> Option<Instant> {
        let next = self.resume(|writer, carried| {
            let wait = carried.events.wait();
            if wait.has_expired(now) {
                return Need::Task;
            }
            if !wait.take_heartbeat(now) {
                return Need::Nothing(None);
            }
            writer.begin(chunk(&EventSource::heartbeat()), false);
            match writer.poll_send(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) => Need::Nothing(Some(wait.deadline())),
                Poll::Pending => Need::Task,
                Poll::Ready(Err(error)) => Need::End(error),
            }
        });
        next.flatten()
    }

    fn evicted(self: Arc<Self>) {
        self.resume(|_, _| Need::<()>::Task);
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
    use crate::server::network_stream::Tcp;

    impl NetworkStream for DuplexStream {
        const HAS_CLOSE_NOTIFY: bool = false;
        const HOLDS_BYTES: bool = false;

        fn tcp(&mut self) -> &mut Tcp {
            unreachable!("not parked here")
        }

        fn has_unsent(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn what_a_slow_client_does_not_take_at_once_is_sent_later() {
        let (socket, mut client) = duplex(8);
        let text = Bytes::from_static(b"more than eight bytes of an event");
        let mut writer = Writer { finished: true, ..Writer::new(socket, text.clone()) };
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
        let event = Bytes::from_static(b"event");
        let mut writer = Writer { finished: true, ..Writer::new(socket, event) };
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

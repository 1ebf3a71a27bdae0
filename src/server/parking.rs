//! Parked connections: sockets that only wait, watched by one thread.
//!
//! A task and a socket of the runtime take more memory than all that a waiting stream has to keep. A
//! parked connection is an entry in a table, and becomes a task again when something happens to it. Those whose
//! stream is over are ended by the same thread, many at once.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, Waker, net::TcpStream};
use slab::Slab;
use tokio::{runtime::Handle, time::Instant};

/// Precision of deadlines: they are kept at most so much later.
const TICK: Duration = Duration::from_millis(50);

/// Sockets that are reported at a time.
const MAX_EVENTS: usize = 256;

/// The token of the thread's own waker.
const WAKE: Token = Token(usize::MAX);

/// Pause after an error of the operating system, before the sockets are asked for again.
const RETRY: Duration = Duration::from_millis(100);

/// Connections that are ended before other threads have a turn.
const ENDS_AT_ONCE: usize = 4;

/// Ends a connection.
pub(crate) type End = Box<dyn FnOnce() + Send>;

/// A connection that can be parked.
pub(crate) trait Parked: Send + Sync + 'static {
    /// Bytes have arrived, or the end of them, or the connection has broken.
    fn readable(self: Arc<Self>);

    /// The deadline may have passed. Returns the next one, unless the connection is no longer parked or
    /// has a later one.
    fn due(self: Arc<Self>, now: Instant) -> Option<Instant>;

    /// No connection is parked from now on.
    fn evicted(self: Arc<Self>);
}

/// The place of a parked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// The parked connections of a server.
pub(crate) struct Parking {
    registry: Registry,
    waker: Waker,
    runtime: Handle,
    /// What ticks are counted from.
    start: Instant,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    closed: bool,
    places: Slab<Arc<dyn Parked>>,
    /// Places by the tick in which they are due. One that was left stays until then; whoever has it by
    /// then is merely asked too early.
    due: BTreeMap<u64, Vec<Place>>,
    /// The tick until which the thread sleeps.
    sleeps_until: Option<u64>,
    /// Connections that are to end.
    ends: Vec<End>,
}

impl Table {
    /// Has the thread sleep until `tick` at most. True where it has to be woken for that.
    fn sleep_at_most_until(&mut self, tick: u64) -> bool {
        let wakes = self.sleeps_until.is_none_or(|until| tick < until);
        if wakes {
            self.sleeps_until = Some(tick);
        }
        wakes
    }
}

/// Ends the parking when dropped: all connections become tasks again.
pub(crate) struct ParkingGuard(Arc<Parking>);

impl Drop for ParkingGuard {
    fn drop(&mut self) {
        self.0.table().closed = true;
        self.0.wake();
    }
}

impl Parking {
    /// Starts the thread, which works until the guard is dropped.
    ///
    /// # Errors
    /// When the operating system has no room for it.
    pub(crate) fn start() -> io::Result<(Arc<Self>, ParkingGuard)> {
        let poll = Poll::new()?;
        let parking = Arc::new(Self {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            runtime: Handle::current(),
            start: Instant::now(),
            table: Mutex::default(),
        });
        let watched = Arc::clone(&parking);
        thread::Builder::new().name("parking".to_owned()).spawn(move || watched.watch(poll))?;
        let guard = ParkingGuard(Arc::clone(&parking));
        Ok((parking, guard))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the thread of parked connections was not woken");
        }
    }

    /// Parks a connection. It may be reported from another thread before this returns.
    ///
    /// # Errors
    /// When the socket cannot be watched, or the server is ending.
    pub(crate) fn park(
        &self,
        socket: &mut TcpStream,
        parked: Arc<dyn Parked>,
        deadline: Instant,
    ) -> io::Result<Place> {
        let mut table = self.table();
        if table.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let index = table.places.vacant_key();
        let place = Place(u32::try_from(index).map_err(io::Error::other)?);
        self.registry.register(socket, Token(index), Interest::READABLE)?;
        table.places.insert(parked);
        let tick = self.tick_after(deadline);
        table.due.entry(tick).or_default().push(place);
        let is_first = table.sleep_at_most_until(tick);
        drop(table);
        if is_first {
            self.wake();
        }
        Ok(place)
    }

    /// Ends the parking of one connection.
    pub(crate) fn leave(&self, place: Place, socket: &mut TcpStream) {
        let parked = self.table().places.try_remove(place.0 as usize);
        // The runtime may watch the socket from now on.
        if let Err(error) = self.registry.deregister(socket) {
            tracing::debug!(%error, "parked connection not deregistered");
        }
        drop(parked);
    }

    /// Ends a connection in the next tick, on the thread of the parking and with others: the one that calls
    /// this has a token to deliver, and a browser to answer.
    pub(crate) fn end_soon(&self, end: End) {
        let mut table = self.table();
        if table.closed {
            drop(table);
            return end();
        }
        table.ends.push(end);
        let is_first = table.ends.len() == 1 && {
            let tick = self.tick_at(Instant::now()) + 1;
            table.due.entry(tick).or_default();
            table.sleep_at_most_until(tick)
        };
        drop(table);
        if is_first {
            self.wake();
        }
    }

    /// Runs a task on the runtime of this thread, or on the one of the server.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match Handle::try_current() {
            Ok(runtime) => runtime.spawn(task),
            Err(_) => self.runtime.spawn(task),
        };
    }

    /// The first tick that is not before `deadline`.
    fn tick_after(&self, deadline: Instant) -> u64 {
        let ticks =
            deadline.saturating_duration_since(self.start).as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The tick that has begun.
    fn tick_at(&self, now: Instant) -> u64 {
        let ticks = now.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos();
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn watch(&self, mut poll: Poll) {
        // Tasks and timers are made here too.
        let _runtime = self.runtime.enter();
        let mut events = Events::with_capacity(MAX_EVENTS);
        while let Some(timeout) = self.sleep() {
            match poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "parked connections cannot be watched");
                    thread::sleep(RETRY);
                }
            }
            for event in &events {
                self.with(event.token().0, Parked::readable);
            }
            self.run_due(Instant::now());
            self.run_ends();
        }
        self.run_ends();
        let places = std::mem::take(&mut self.table().places);
        for (_, parked) in places {
            parked.evicted();
        }
    }

    /// How long the thread may sleep; `None` when it ends.
    fn sleep(&self) -> Option<Option<Duration>> {
        let mut table = self.table();
        if table.closed {
            return None;
        }
        let next = table.due.first_key_value().map(|(tick, _)| *tick);
        table.sleeps_until = next;
        let since_start = self.start.elapsed();
        Some(next.map(|tick| {
            let ticks = u32::try_from(tick).unwrap_or(u32::MAX);
            TICK.saturating_mul(ticks).saturating_sub(since_start)
        }))
    }

    /// Calls the connection at a place, if there is one. One that panics does not harm the others.
    fn with<T>(&self, index: usize, call: impl FnOnce(Arc<dyn Parked>) -> T) -> Option<T> {
        let parked = self.table().places.get(index).cloned()?;
        catch_unwind(AssertUnwindSafe(|| call(parked))).ok()
    }

    fn run_ends(&self) {
        let ends = std::mem::take(&mut self.table().ends);
        for (index, end) in ends.into_iter().enumerate() {
            if index % ENDS_AT_ONCE == ENDS_AT_ONCE - 1 {
                thread::yield_now();
            }
            let _ = catch_unwind(AssertUnwindSafe(end));
        }
    }

    fn run_due(&self, now: Instant) {
        let tick = self.tick_at(now);
        loop {
            let Some(places) = ({
                let mut table = self.table();
                let is_due = table.due.first_key_value().is_some_and(|(first, _)| *first <= tick);
                is_due.then(|| table.due.pop_first()).flatten()
            }) else {
                return;
            };
            for place in places.1 {
                let next = self.with(place.0 as usize, |parked| parked.due(now)).flatten();
                if let Some(next) = next {
                    let tick = self.tick_after(next).max(tick + 1);
                    self.table().due.entry(tick).or_default().push(place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{Ipv4Addr, TcpListener},
        sync::mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Call {
        Readable,
        Due,
        Evicted,
    }

    /// Reports its calls, and is due again after a while.
    struct Reporter {
        calls: Mutex<Sender<Call>>,
        again: Option<Duration>,
    }

    impl Reporter {
        fn new(again: Option<Duration>) -> (Arc<Self>, Receiver<Call>) {
            let (calls, reported) = channel();
            (Arc::new(Self { calls: Mutex::new(calls), again }), reported)
        }

        fn report(&self, call: Call) {
            let _ = self.calls.lock().unwrap().send(call);
        }
    }

    impl Parked for Reporter {
        fn readable(self: Arc<Self>) {
            self.report(Call::Readable);
        }

        fn due(self: Arc<Self>, now: Instant) -> Option<Instant> {
            self.report(Call::Due);
            self.again.map(|again| now + again)
        }

        fn evicted(self: Arc<Self>) {
            self.report(Call::Evicted);
        }
    }

    /// Both ends of a connection.
    fn connection() -> (TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        (TcpStream::from_std(socket), client)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_arrived_before_the_socket_was_parked_is_reported_too() {
        let (parking, _guard) = Parking::start().unwrap();
        let (mut socket, mut client) = connection();
        client.write_all(b"early").unwrap();
        let (reporter, calls) = Reporter::new(None);
        let place = parking.park(&mut socket, reporter, Instant::now() + SOON * 100).unwrap();
        assert_eq!(calls.recv_timeout(SOON), Ok(Call::Readable));
        client.write_all(b"late").unwrap();
        assert_eq!(calls.recv_timeout(SOON), Ok(Call::Readable));
        parking.leave(place, &mut socket);
        drop(client);
        assert!(calls.recv_timeout(SOON).is_err(), "the place has dropped the connection");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn deadlines_hold_in_whatever_order_they_are_set() {
        let (parking, _guard) = Parking::start().unwrap();
        let now = Instant::now();
        let mut parked = Vec::new();
        for (milliseconds, again) in [(60_000, None), (300, None), (100, Some(TICK))] {
            let (mut socket, client) = connection();
            let (reporter, calls) = Reporter::new(again);
            let deadline = now + Duration::from_millis(milliseconds);
            let place = parking.park(&mut socket, reporter, deadline).unwrap();
            parked.push((milliseconds, place, socket, client, calls));
        }
        for (milliseconds, _, _, _, calls) in &parked[1..] {
            assert_eq!(calls.recv_timeout(SOON), Ok(Call::Due));
            assert!(now.elapsed() >= Duration::from_millis(*milliseconds), "too early");
        }
        let (_, place, socket, _, again) = &mut parked[2];
        assert_eq!(again.recv_timeout(SOON), Ok(Call::Due), "the next deadline");
        parking.leave(*place, socket);
        let (_, _, _, _, later) = &parked[0];
        assert!(later.try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_evicts_all_and_takes_none() {
        let (parking, guard) = Parking::start().unwrap();
        let (mut socket, _client) = connection();
        let (reporter, calls) = Reporter::new(None);
        parking.park(&mut socket, reporter, Instant::now() + SOON * 100).unwrap();
        drop(guard);
        assert_eq!(calls.recv_timeout(SOON), Ok(Call::Evicted));
        let (mut socket, _client) = connection();
        let (reporter, _calls) = Reporter::new(None);
        assert!(parking.park(&mut socket, reporter, Instant::now() + SOON).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_panics_does_not_harm_the_others() {
        struct Faulty;
        impl Parked for Faulty {
            fn readable(self: Arc<Self>) {
                panic!("a fault");
            }

            fn due(self: Arc<Self>, _: Instant) -> Option<Instant> {
                panic!("a fault");
            }

            fn evicted(self: Arc<Self>) {}
        }
        let (parking, _guard) = Parking::start().unwrap();
        let (mut faulty, mut faulty_client) = connection();
        let soon = Instant::now() + TICK;
        parking.park(&mut faulty, Arc::new(Faulty), soon).unwrap();
        faulty_client.write_all(b"a").unwrap();
        let (mut socket, _client) = connection();
        let (reporter, calls) = Reporter::new(None);
        parking.park(&mut socket, reporter, soon + TICK * 4).unwrap();
        assert_eq!(calls.recv_timeout(SOON), Ok(Call::Due));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ends_come_soon_and_together_and_none_is_lost() {
        let (parking, guard) = Parking::start().unwrap();
        let (ended, ends) = channel();
        let end = |name: &'static str| -> End {
            let ended = ended.clone();
            Box::new(move || {
                let _ = ended.send((name, thread::current().id()));
            })
        };
        parking.end_soon(Box::new(|| panic!("a fault")));
        parking.end_soon(end("soon"));
        let (name, at) = ends.recv_timeout(SOON).unwrap();
        assert_eq!(name, "soon");
        assert_ne!(at, thread::current().id(), "on the thread of the parking");
        // Nothing is due any more, so that the thread sleeps until it is woken.
        while parking.table().sleeps_until.is_some() {
            thread::yield_now();
        }
        parking.end_soon(end("woken"));
        assert_eq!(ends.recv_timeout(SOON).unwrap().0, "woken");
        parking.end_soon(end("last"));
        drop(guard);
        parking.end_soon(end("after"));
        let mut rest = [ends.recv_timeout(SOON).unwrap().0, ends.recv_timeout(SOON).unwrap().0];
        rest.sort_unstable();
        assert_eq!(rest, ["after", "last"]);
    }
}

//! The requests of one connection: which are open, and whether the client still reads.
//!
//! Shared by the connection's socket, its requests and the task that serves it. Over HTTP/2 an
//! event stream may wait for minutes on a connection without any other request, so silence alone
//! says nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::Semaphore, time::Instant};

use crate::{http::HalfClose, server::direct_write::WRITE_TIMEOUT};

/// Responses of one connection of HTTP/2 that are produced, or wait for the client, at the same time.
/// Further requests wait, so that a client that takes nothing makes the relay hold few responses.
const MAX_RESPONSES: usize = 16;

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// No request was open for the whole time.
    Idle,
    /// The client stopped reading a response.
    Stalled,
}

/// The requests of one connection.
#[derive(Clone)]
pub(crate) struct Requests(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    half_close: HalfClose,
    /// One permit for each of [`MAX_RESPONSES`].
    responses: Semaphore,
}

struct State {
    open: usize,
    /// When a request was answered or the client took bytes last.
    active_at: Instant,
    /// When a request was answered last.
    answered_at: Option<Instant>,
    http2: bool,
    /// Whether a handler waits for more of a request's body.
    body_wanted: bool,
    /// The reader of the socket, while a half-close is withheld from it.
    withheld_from: Option<Waker>,
    /// Bodies of responses, and since when each waits for the client.
    bodies: Vec<Option<Instant>>,
}

impl State {
    /// Reports a withheld half-close to the reader of the socket.
    fn release_end(&mut self) {
        if let Some(reader) = self.withheld_from.take() {
            reader.wake();
        }
    }
}

impl Requests {
    /// A connection without requests.
    pub(crate) fn new() -> Self {
        let state = State {
            open: 0,
            active_at: Instant::now(),
            answered_at: None,
            http2: false,
            body_wanted: false,
            withheld_from: None,
            bodies: Vec::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            half_close: HalfClose::observed(),
            responses: Semaphore::new(MAX_RESPONSES),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as open until its response has been produced, or it is given up.
    pub(crate) fn begin(&self, request: Request<Incoming>) -> (OpenRequest, Request<Body>) {
        let mut state = self.state();
        state.open += 1;
        let version = request.version();
        state.http2 = version == Version::HTTP_2;
        drop(state);
        let tunnel = request.method() == Method::CONNECT;
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(RequestBody { body, requests: self.clone() })
            }
        });
        if version != Version::HTTP_2 {
            request.extensions_mut().insert(self.0.half_close.clone());
        }
        (OpenRequest { requests: self.clone(), version, tunnel, has_permit: false }, request)
    }

    /// Records that the client sent something.
    pub(crate) fn received(&self) {
        self.state().body_wanted = false;
    }

    /// Records that the client read something. Over HTTP/2 that may be the acknowledgement of a ping,
    /// so that only for a while after a response it counts as a part of it.
    pub(crate) fn sent(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        let Some(answered_at) = state.answered_at else { return };
        if !state.http2 || now < answered_at + WRITE_TIMEOUT {
            state.active_at = now;
        }
    }

    /// Whether the reader of the socket may see a half-close.
    ///
    /// It is withheld while a completely received request is open: that request is answered (RFC 9112
    /// §9.6), where hyper would drop it.
    pub(crate) fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.http2 || state.open == 0 || state.body_wanted {
            return Poll::Ready(());
        }
        state.withheld_from = Some(context.waker().clone());
        drop(state);
        self.0.half_close.notify();
        Poll::Pending
    }

    /// Returns when no request was open for `idle_timeout`, or when the client has not taken any
    /// more of a response for [`WRITE_TIMEOUT`].
    ///
    /// Requests do not wake it, which would poll their connection's task twice more for each; it checks
    /// when a deadline may have passed.
    pub(crate) async fn abandoned(&self, idle_timeout: Duration) -> Abandoned {
        loop {
            let now = Instant::now();
            let (idle_at, stalled_at) = {
                let state = self.state();
                let active_at = if state.open == 0 { state.active_at } else { now };
                let stalled = state.bodies.iter().flatten().min();
                (active_at + idle_timeout, stalled.map(|since| *since + WRITE_TIMEOUT))
            };
            if stalled_at.is_some_and(|at| at <= now) {
                return Abandoned::Stalled;
            }
            if idle_at <= now {
                return Abandoned::Idle;
            }
            tokio::time::sleep_until(stalled_at.map_or(idle_at, |at| at.min(idle_at))).await;
        }
    }
}

/// One open request.
pub(crate) struct OpenRequest {
    requests: Requests,
    version: Version,
    tunnel: bool,
    /// Whether its response is one of [`MAX_RESPONSES`].
    has_permit: bool,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.release();
        let mut state = self.requests.state();
        state.open -= 1;
        state.active_at = Instant::now();
        state.answered_at = Some(state.active_at);
        if state.open == 0 {
            state.release_end();
        }
    }
}

impl OpenRequest {
    /// Waits until its response is one of the [`MAX_RESPONSES`].
    pub(crate) async fn admitted(&mut self) {
        if self.version != Version::HTTP_2 {
            return;
        }
        // Nothing closes the semaphore.
        if let Ok(permit) = self.requests.0.responses.acquire().await {
            permit.forget();
            self.has_permit = true;
        }
    }

    /// Whether it was admitted in place of others.
    pub(crate) fn holds_permit(&self) -> bool {
        self.has_permit
    }

    /// Admits another request: this one waits for something else than its client.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.has_permit) {
            self.requests.0.responses.add_permits(1);
        }
    }

    /// Counts the request as open until its response has been produced.
    pub(crate) fn answer(self, mut response: Response<Body>) -> Response<ResponseBody> {
        if self.version == Version::HTTP_10 {
            // hyper would promise to keep the connection open, whatever the response says.
            *response.version_mut() = Version::HTTP_10;
        }
        let mut state = self.requests.state();
        if self.tunnel && response.status() == StatusCode::OK {
            // A WebSocket (RFC 8441), whose end is not seen here: this connection is never idle.
            state.open += 1;
        }
        let free = state.bodies.iter().position(Option::is_none);
        let index = free.unwrap_or(state.bodies.len());
        let waiting = (!response.body().is_end_stream()).then(Instant::now);
        match free {
            Some(free) => state.bodies[free] = waiting,
            None => state.bodies.push(waiting),
        }
        drop(state);
        response.map(|body| ResponseBody { body, index, request: self })
    }
}

/// The body of a response that is being sent.
pub(crate) struct ResponseBody {
    body: Body,
    /// Its place in [`State::bodies`].
    index: usize,
    request: OpenRequest,
}

impl ResponseBody {
    fn waits_for_client(&self, since: Option<Instant>) {
        let mut state = self.request.requests.state();
        if let Some(waiting) = state.bodies.get_mut(self.index) {
            *waiting = since;
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.waits_for_client(None);
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // It is polled when the client has room; a pending one waits for the handler instead.
        self.waits_for_client(polled.is_ready().then(Instant::now));
        if polled.is_pending() {
            self.request.release();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request as its handler reads it.
struct RequestBody {
    body: Incoming,
    requests: Requests,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() {
            let mut state = self.requests.state();
            state.body_wanted = true;
            state.release_end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn open(requests: &Requests) -> OpenRequest {
        requests.state().open += 1;
        let version = Version::HTTP_11;
        OpenRequest { requests: requests.clone(), version, tunnel: false, has_permit: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_was_open_for_that_long() {
        let requests = Requests::new();
        let start = Instant::now();
        let abandoned = requests.abandoned(TIMEOUT);
        let used = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            let first = open(&requests);
            tokio::time::sleep(Duration::from_secs(3)).await;
            let second = open(&requests);
            drop(first);
            tokio::time::sleep(Duration::from_secs(30)).await;
            drop(second);
            start.elapsed()
        };
        let (abandoned, last) = tokio::join!(abandoned, used);
        assert_eq!((abandoned, last), (Abandoned::Idle, Duration::from_secs(42)));
        // The clock of the test has the precision of its timers.
        let late = start.elapsed() - last - TIMEOUT;
        assert!(late < Duration::from_millis(5), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pings_keep_no_connection_of_http2_open() {
        let requests = Requests::new();
        let start = Instant::now();
        let pings = async |requests: &Requests| loop {
            requests.sent();
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let abandoned = tokio::select! {
            () = pings(&requests) => unreachable!(),
            abandoned = requests.abandoned(TIMEOUT) => abandoned,
        };
        assert_eq!((abandoned, start.elapsed().as_secs()), (Abandoned::Idle, 10), "no request yet");
        // What follows a response may be a part of it.
        requests.state().http2 = true;
        drop(open(&requests));
        let start = Instant::now();
        tokio::select! {
            () = pings(&requests) => unreachable!(),
            _ = requests.abandoned(TIMEOUT) => {}
        }
        let most = WRITE_TIMEOUT + TIMEOUT;
        assert!(start.elapsed() > TIMEOUT && start.elapsed() <= most, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_something_keeps_its_connection() {
        let requests = Requests::new();
        drop(open(&requests));
        let start = Instant::now();
        let takes = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                requests.sent();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = takes => unreachable!(),
            abandoned = requests.abandoned(TIMEOUT) => assert_eq!(abandoned, Abandoned::Idle),
        }
        assert!(start.elapsed() >= Duration::from_secs(55), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_not_taken_is_stalled_and_one_that_waits_for_us_is_not() {
        let requests = Requests::new();
        let start = Instant::now();
        let waiting = open(&requests).answer(Response::new(Body::from_stream(
            futures_util::stream::pending::<Result<Bytes, std::io::Error>>(),
        )));
        let mut waiting = waiting.into_body();
        let mut context = Context::from_waker(Waker::noop());
        let polled = http_body::Body::poll_frame(Pin::new(&mut waiting), &mut context);
        assert!(polled.is_pending());
        let patient = tokio::time::timeout(WRITE_TIMEOUT * 3, requests.abandoned(TIMEOUT)).await;
        assert!(patient.is_err());
        let untaken = open(&requests).answer(Response::new(Body::from("text")));
        assert_eq!(requests.abandoned(TIMEOUT).await, Abandoned::Stalled);
        assert!(start.elapsed() >= WRITE_TIMEOUT * 4, "{:?}", start.elapsed());
        drop(untaken);
        let patient = tokio::time::timeout(WRITE_TIMEOUT * 3, requests.abandoned(TIMEOUT)).await;
        assert!(patient.is_err());
    }

    #[test]
    fn the_end_of_sending_is_seen_when_no_complete_request_is_open() {
        let context = Context::from_waker(Waker::noop());
        let requests = Requests::new();
        assert!(requests.poll_end(&context).is_ready());
        let request = open(&requests);
        assert!(requests.poll_end(&context).is_pending());
        requests.state().body_wanted = true;
        assert!(requests.poll_end(&context).is_ready());
        // It arrived after all.
        requests.received();
        assert!(requests.poll_end(&context).is_pending());
        drop(request);
        assert!(requests.poll_end(&context).is_ready());
    }
}

//! Counts the open requests of a connection, which distinguishes an idle connection from a waiting
//! one.
//!
//! Over HTTP/2 an event stream may wait for minutes on a connection without any other request, so
//! silence alone says nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// Open requests of one connection.
pub(crate) struct OpenRequests(Shared);

#[derive(Clone)]
struct Shared(Arc<Mutex<Count>>);

struct Count {
    open: usize,
    /// When there was a request last.
    idle_since: Instant,
}

impl Shared {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenRequests {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Shared(Arc::new(Mutex::new(Count { open: 0, idle_since: Instant::now() }))))
    }

    /// Counts a request until the last of its answer has gone, or it is given up.
    pub(crate) fn begin<B>(&self, request: &Request<B>) -> OpenRequest {
        self.0.count().open += 1;
        OpenRequest { shared: self.0.clone(), tunnel: request.method() == Method::CONNECT }
    }

    /// Ends when no request was open for the whole of `timeout`.
    ///
    /// It looks at the count when its time may be over and is not woken by requests, of which each
    /// would otherwise cost its connection's task two turns more.
    pub(crate) async fn idle(&self, timeout: Duration) {
        loop {
            let now = Instant::now();
            let over = {
                let count = self.0.count();
                let since = if count.open == 0 { count.idle_since } else { now };
                since + timeout
            };
            if over <= now {
                return;
            }
            tokio::time::sleep_until(over).await;
        }
    }
}

/// One open request.
pub(crate) struct OpenRequest {
    shared: Shared,
    tunnel: bool,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut count = self.shared.count();
        count.open -= 1;
        count.idle_since = Instant::now();
    }
}

impl OpenRequest {
    /// Counts the request until its answer has gone.
    pub(crate) fn until_answered(self, response: Response<Body>) -> Response<Counted> {
        if self.tunnel && response.status() == StatusCode::OK {
            // A WebSocket (RFC 8441), whose end is not seen here: the connection has lost its right
            // to be called idle.
            self.shared.count().open += 1;
        }
        response.map(|body| Counted { body, _request: self })
    }
}

/// The body of an answer that is not over yet.
pub(crate) struct Counted {
    body: Body,
    _request: OpenRequest,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
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

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_was_open_for_that_long() {
        let open = OpenRequests::new();
        let start = Instant::now();
        let idle = open.idle(TIMEOUT);
        let requests = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            let first = open.begin(&Request::new(()));
            tokio::time::sleep(Duration::from_secs(3)).await;
            let second = open.begin(&Request::new(()));
            drop(first);
            tokio::time::sleep(Duration::from_secs(30)).await;
            drop(second);
            start.elapsed()
        };
        let ((), last) = tokio::join!(idle, requests);
        assert_eq!(last, Duration::from_secs(42));
        // The clock of the test has the precision of its timers.
        let late = start.elapsed() - last - TIMEOUT;
        assert!(late < Duration::from_millis(5), "{late:?}");
    }
}

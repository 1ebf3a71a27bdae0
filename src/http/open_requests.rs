//! How many requests of one connection are open, so that an idle connection can be told from a
//! waiting one.
//!
//! Used by [`super::connection`]. Over HTTP/2 a stream may wait for minutes on a connection that asks
//! nothing else, so that neither side's silence says anything.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// Open requests of one connection.
pub(super) struct OpenRequests(Arc<Count>);

struct Count {
    open: AtomicUsize,
    /// When there was a request last.
    idle_since: Mutex<Instant>,
}

impl OpenRequests {
    /// None yet.
    pub(super) fn new() -> Self {
        let idle_since = Mutex::new(Instant::now());
        Self(Arc::new(Count { open: AtomicUsize::new(0), idle_since }))
    }

    /// Counts a request until the last of its answer has gone, or it is given up.
    pub(super) fn begin<B>(&self, request: &Request<B>) -> Begun {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Begun { count: Arc::clone(&self.0), tunnel: request.method() == Method::CONNECT }
    }

    /// Ends when no request was open for the whole of `patience`.
    ///
    /// It looks at the count when its time may be over and is not woken by requests, of which each
    /// would otherwise cost its connection's task two turns more.
    pub(super) async fn idle(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            let over = if self.0.open.load(Ordering::Acquire) == 0 {
                *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) + patience
            } else {
                now + patience
            };
            if over <= now {
                return;
            }
            tokio::time::sleep_until(over).await;
        }
    }
}

/// One open request.
pub(super) struct Begun {
    count: Arc<Count>,
    tunnel: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Before the count, so that whoever finds none open finds this time.
        *self.count.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.count.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Begun {
    /// Counts the request until its answer has gone.
    pub(super) fn until_answered(self, response: Response<Body>) -> Response<Counted> {
        if self.tunnel && response.status() == StatusCode::OK {
            // A WebSocket (RFC 8441), whose end is not seen here: the connection has lost its right
            // to be called idle.
            self.count.open.fetch_add(1, Ordering::AcqRel);
        }
        response.map(|body| Counted { body, _begun: self })
    }
}

/// The body of an answer that is not over yet.
pub(super) struct Counted {
    body: Body,
    _begun: Begun,
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

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_was_open_for_that_long() {
        let open = OpenRequests::new();
        let start = Instant::now();
        let idle = open.idle(PATIENCE);
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
        let late = start.elapsed() - last - PATIENCE;
        assert!(late < Duration::from_millis(5), "{late:?}");
    }
}

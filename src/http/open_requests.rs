//! How many requests of one connection are open, so that an idle connection can be told from a
//! waiting one.
//!
//! Used by [`super::connection`]. Over HTTP/2 a stream may wait for minutes on a connection that asks
//! nothing else, so that neither side's silence says anything.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

/// Open requests of one connection.
pub(super) struct OpenRequests(watch::Sender<usize>);

impl OpenRequests {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Counts a request until the last of its answer has gone, or it is given up.
    pub(super) fn begin<B>(&self, request: &Request<B>) -> Begun {
        self.0.send_modify(|open| *open += 1);
        Begun { open: self.0.clone(), tunnel: request.method() == Method::CONNECT }
    }

    /// Ends when no request was open for the whole of `patience`.
    pub(super) async fn idle(&self, patience: Duration) {
        let mut open = self.0.subscribe();
        // The sender is ours, so neither wait can fail.
        while open.wait_for(|open| *open == 0).await.is_ok()
            && tokio::time::timeout(patience, open.changed()).await.is_ok()
        {}
    }
}

/// One open request.
pub(super) struct Begun {
    open: watch::Sender<usize>,
    tunnel: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

impl Begun {
    /// Counts the request until its answer has gone.
    pub(super) fn until_answered(self, response: Response<Body>) -> Response<Counted> {
        if self.tunnel && response.status() == StatusCode::OK {
            // A WebSocket (RFC 8441), whose end is not seen here: the connection has lost its right
            // to be called idle.
            self.open.send_modify(|open| *open += 1);
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

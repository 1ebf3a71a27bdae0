//! Response bodies that grow while the client waits.
//!
//! [`BodyStream`] yields the bytes. hyper sends them as a body; on the SSE fast path the connection
//! writes them itself.

use std::{
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::header;
use http_body::Frame;
use pin_project_lite::pin_project;

use crate::{
    http::{
        HalfClose,
        addons::streams::{Encoder, Transport, Wait, WaitEvent},
    },
    relay::DirectWriter,
    session::Outcome,
};

/// A transport that streams the body of a response.
pub trait BodyTransport: Transport<Frame = Bytes> {
    /// `Content-Type` of the response.
    const MEDIA_TYPE: &'static str;

    /// What is sent before anything has happened.
    fn opening() -> String {
        String::new()
    }
}

/// The bytes of one body.
pub struct BodyStream<T> {
    wait: Wait,
    stage: Stage,
    transport: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Waiting,
    Done,
}

impl<T: BodyTransport> BodyStream<T> {
    /// The body of a client that waits.
    pub fn new(wait: Wait) -> Self {
        Self { wait, stage: Stage::Opening, transport: PhantomData }
    }

    /// Makes the messages of this stream.
    pub fn encoder(&self) -> Encoder {
        self.wait.encoder()
    }

    /// Lets the thread that receives the token write it by `direct_writer`, where the client's
    /// credentials allow it. Then this stream ends without yielding anything.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        self.wait.set_direct_writer(direct_writer);
    }

    /// The next bytes to send; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::Done => None,
            Stage::Opening => {
                self.stage = Stage::Waiting;
                let opening = T::opening();
                Some(match self.wait.take_found() {
                    Some(found) => [opening.as_bytes(), &self.last_frame(found)].concat().into(),
                    None => opening.into(),
                })
            }
            Stage::Waiting => Some(match self.wait.next().await {
                WaitEvent::Ended(outcome) => self.last_frame(outcome),
                WaitEvent::Idle => T::heartbeat(),
            }),
        }
    }

    /// The last bytes, if the wait is over by now. Waits for nothing but the store. Cancel-safe.
    pub async fn check(&mut self) -> Option<Bytes> {
        let outcome = self.wait.check().await?;
        Some(self.last_frame(outcome))
    }

    /// The wait, while nothing is sent.
    pub fn wait(&mut self) -> &mut Wait {
        &mut self.wait
    }

    /// Whether [`Self::next`] has given its last bytes.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Done
    }

    fn last_frame(&mut self, outcome: Outcome) -> Bytes {
        self.stage = Stage::Done;
        T::message(self.wait.session().key, &self.wait.message(outcome))
    }
}

impl<T: BodyTransport + 'static> BodyStream<T> {
    /// As a body for hyper.
    pub fn into_body(self, half_close: HalfClose) -> Body {
        if !half_close.is_observed() {
            // Over HTTP/2: without the room of the probes.
            return Body::new(Growing::new(stream::unfold(self, async |mut bytes| {
                let next = bytes.next().await?;
                Some(((next, bytes.is_over()), bytes))
            })));
        }
        let probes = Probes { half_close, sent: 0 };
        Body::new(Growing::new(stream::unfold((self, probes), async |(mut bytes, mut probes)| {
            let next = tokio::select! {
                biased;
                next = bytes.next() => next?,
                () = probes.next() => T::heartbeat(),
            };
            Some(((next, bytes.is_over()), (bytes, probes)))
        })))
    }
}

pin_project! {
    /// A body of frames, each with whether it is the last: over HTTP/2 that one carries `END_STREAM`
    /// (RFC 9113 §6.1), instead of an empty one that follows.
    struct Growing<S> {
        #[pin]
        frames: S,
        is_over: bool,
    }
}

impl<S> Growing<S> {
    fn new(frames: S) -> Self {
        Self { frames, is_over: false }
    }
}

impl<S: Stream<Item = (Bytes, bool)>> http_body::Body for Growing<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.project();
        let Some((bytes, is_last)) = ready!(this.frames.poll_next(context)) else {
            return Poll::Ready(None);
        };
        *this.is_over = is_last;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Pauses before each probe of a half-closed connection: bytes whose arrival at a connection that
/// was closed altogether is answered with a reset.
pub const PROBES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)];

/// The probes of one stream.
struct Probes {
    half_close: HalfClose,
    sent: usize,
}

impl Probes {
    /// Waits until the next one is due. Cancel-safe.
    async fn next(&mut self) {
        let Some(pause) = PROBES.get(self.sent) else { return std::future::pending().await };
        self.half_close.wait().await;
        tokio::time::sleep(*pause).await;
        self.sent += 1;
    }
}

/// The response with `body`.
pub fn respond<T: BodyTransport>(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE.as_str(), T::MEDIA_TYPE),
        // A proxy that compresses would hold frames back (RFC 9111 §5.2.2.6).
        (header::CACHE_CONTROL.as_str(), "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        // Nothing that follows on the connection is answered; over HTTP/2 it is left out.
        (header::CONNECTION.as_str(), "close"),
    ];
    (headers, body).into_response()
}

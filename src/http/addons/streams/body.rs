//! Response bodies that grow while the client waits.
//!
//! [`BodyStream`] yields the bytes. hyper sends them as a body; on the SSE fast path the connection
//! writes them itself.

use std::{convert::Infallible, marker::PhantomData, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;

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
            return Body::from_stream(stream::unfold(self, async |mut bytes| {
                let next = bytes.next().await?;
                Some((Ok::<_, Infallible>(next), bytes))
            }));
        }
        let probes = Probes { half_close, sent: 0 };
        Body::from_stream(stream::unfold((self, probes), async |(mut bytes, mut probes)| {
            let next = tokio::select! {
                biased;
                next = bytes.next() => next?,
                () = probes.next() => T::heartbeat(),
            };
            Some((Ok::<_, Infallible>(next), (bytes, probes)))
        }))
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

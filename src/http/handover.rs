//! Responses with a token that the store has given up: handed back when the client does not take it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::{http::HalfClose, relay::Handover};

/// Pause after a byte that says nothing, in which a client that closed its connection resets it.
const PROBE: Duration = Duration::from_millis(300);

/// Whitespace before JSON.
const BLANK: Bytes = Bytes::from_static(b"\n");

/// `response`, a JSON text, which completes `handover` when its body has been sent.
pub fn completing(response: Response, handover: Handover, half_close: &HalfClose) -> Response {
    if handover.is_none() {
        return response;
    }
    let is_half_closed = half_close.has_happened();
    response.map(|body| {
        if is_half_closed {
            probing(body, handover)
        } else {
            Body::new(HandoverBody { body, handover: Some(handover) })
        }
    })
}

/// What is sent next to a client that no longer sends.
enum Step {
    Probe(Body, Handover),
    Content(Body, Handover),
    End(Handover),
}

/// A client that no longer sends either waits for the rest or has gone, which only writing tells: the
/// token follows a blank, and is delivered when nothing broke the connection after it.
fn probing(body: Body, handover: Handover) -> Body {
    let steps = stream::unfold(Step::Probe(body, handover), async |step| match step {
        Step::Probe(body, handover) => Some((BLANK, Step::Content(body, handover))),
        Step::Content(body, handover) => {
            tokio::time::sleep(PROBE).await;
            let content = body.collect().await.ok()?.to_bytes();
            Some((content, Step::End(handover)))
        }
        Step::End(handover) => {
            // Meanwhile the content is written, or fails to be.
            tokio::time::sleep(Duration::from_millis(1)).await;
            handover.delivered();
            None
        }
    });
    Body::from_stream(futures_util::StreamExt::map(steps, Ok::<_, Infallible>))
}

/// The body for a client that still takes part.
struct HandoverBody {
    body: Body,
    handover: Option<Handover>,
}

impl http_body::Body for HandoverBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_last = match &polled {
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if is_last && let Some(handover) = self.handover.take() {
            handover.delivered();
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

//! `GET /addons/sessions/{id}/events`: server-sent events (WHATWG HTML §9.2).
//!
//! [`EventStream`] yields the bytes of the stream. hyper sends them as a body; on the SSE fast path
//! the connection writes them itself, and the token without asking the stream.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequestParts, RawQuery, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header, request::Parts};
use tokio::time::Instant;

use crate::{
    api::paths,
    http::{
        App, AppState, SendingEnded, Transport,
        addons::streams::{
            AUTHENTICATED, DirectDelivery, Encoder, StreamMessage, authenticated,
            credentials::Credentials,
        },
        error::{
            Problem,
            ProblemType::{
                InstanceFull, OriginRefused, ReaderUnauthorized, SessionNotFound, ShuttingDown,
                StoreUnavailable, TooManyGuesses, TooManyStreams,
            },
            Problems, types,
        },
        operator::metrics::{OpenStream, Reconnect},
        responses::EVENT_STREAM,
        tags,
    },
    relay::{Delivery, DirectWriter, Subscription},
    session::{Digest, EventId, GoneReason, Outcome, SessionRef, SubscriptionId},
    telemetry::{Link, Trace},
};

/// The final events whose ids acknowledge nothing.
const ENDS: [&str; 2] = ["failed", "expired"];

/// The query parameter by which `event-source-polyfill` sends the id of the last event: it avoids
/// the header, which would need a preflight.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";

/// A comment, which clients ignore.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// How long a client waits before it reconnects, in milliseconds: a moment of its own for each, so
/// that thousands do not come back at once when an instance dies. An `EventSource` adds no chance.
const RETRY: Range<u64> = 1_000..3_000;

/// Likewise when the instance shuts down in order.
const RETRY_WHEN_DRAINING: Range<u64> = 100..3_100;

/// The bytes of one event stream.
pub struct EventStream {
    encoder: Encoder,
    reader: Subscription,
    next_heartbeat: Instant,
    stage: Stage,
    _open: OpenStream,
}

/// The event that carries a token.
pub fn token_event(token: &DirectDelivery<'_>) -> String {
    event(AUTHENTICATED, &token.event, &authenticated(None, &token.token))
}

fn event(name: &str, id: &EventId, data: &str) -> String {
    format!("event: {name}\nid: {}\ndata: {data}\n\n", id.as_str())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Waiting,
    Done,
}

impl EventStream {
    /// The stream of a reader that was let in.
    pub fn new(app: AppState, reader: Subscription, opened_by: Link) -> Self {
        let open = app.metrics.stream_opened(Transport::Sse);
        let next_heartbeat = Instant::now() + app.settings.session.heartbeat;
        let encoder = Encoder::new(app, opened_by);
        Self { encoder, reader, next_heartbeat, stage: Stage::Opening, _open: open }
    }

    /// What puts this stream's token into words.
    pub fn encoder(&self) -> Encoder {
        self.encoder.clone()
    }

    /// Lets the caller that brings the token write it to `direct_writer`, where the reader's credentials
    /// allow it. Then this stream ends without yielding anything.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        self.reader.set_direct_writer(direct_writer);
    }

    /// The next bytes to send; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::Done => None,
            Stage::Opening => {
                self.stage = Stage::Waiting;
                let mut opening = format!("retry: {}\n\n", one_of(RETRY));
                if let Some(found) = self.reader.take_found() {
                    opening.push_str(&self.last_event(found));
                }
                Some(Bytes::from(opening))
            }
            Stage::Waiting => {
                let wait = tokio::time::timeout_at(self.next_heartbeat, self.reader.outcome());
                match wait.await {
                    Ok(outcome) => Some(Bytes::from(self.last_event(outcome))),
                    Err(_) => {
                        self.next_heartbeat =
                            Instant::now() + self.encoder.app.settings.session.heartbeat;
                        Some(Bytes::from_static(HEARTBEAT))
                    }
                }
            }
        }
    }

    /// Whether [`Self::next`] has given its last bytes.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Done
    }

    fn last_event(&mut self, outcome: Outcome) -> String {
        self.stage = Stage::Done;
        let session = self.reader.session().key;
        let token_event = match &outcome {
            Outcome::Token { payload, .. } => Some(EventId::of_token(payload)),
            _ => None,
        };
        let told = self.encoder.tell(session, outcome);
        let name = match &told {
            StreamMessage::Authenticated(_) => AUTHENTICATED,
            StreamMessage::Failed(_) => ENDS[0],
            StreamMessage::Expired => ENDS[1],
            StreamMessage::Nothing => return String::new(),
            StreamMessage::Reconnect => {
                return format!("retry: {}\n\n", one_of(RETRY_WHEN_DRAINING));
            }
        };
        let id = token_event
            .filter(|_| name == AUTHENTICATED)
            .unwrap_or_else(|| EventId::of_end(name, session));
        event(name, &id, &told.to_json(false))
    }

    /// As a body for hyper.
    fn into_body(self, sending_ended: Option<SendingEnded>) -> Body {
        let probes = Probes { sending_ended, sent: 0 };
        Body::from_stream(stream::unfold((self, probes), async |(mut events, mut probes)| {
            let bytes = tokio::select! {
                biased;
                next = events.next() => next?,
                () = probes.next() => Bytes::from_static(HEARTBEAT),
            };
            Some((Ok::<_, std::convert::Infallible>(bytes), (events, probes)))
        }))
    }
}

/// Pauses before what is sent to find out whether a client that no longer sends is still there: a
/// connection that was closed answers with a reset.
pub const PROBES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)];

/// The probes of one stream.
struct Probes {
    sending_ended: Option<SendingEnded>,
    sent: usize,
}

impl Probes {
    /// Waits until the next one is due. Cancel-safe.
    async fn next(&mut self) {
        let (Some(sending_ended), Some(pause)) = (&self.sending_ended, PROBES.get(self.sent))
        else {
            return std::future::pending().await;
        };
        sending_ended.wait().await;
        tokio::time::sleep(*pause).await;
        self.sent += 1;
    }
}

/// A random number of the range.
fn one_of(range: Range<u64>) -> u64 {
    range.start + SubscriptionId::generate().as_u64() % (range.end - range.start)
}

/// A request extension of the SSE fast path, by which a handler hands its stream to the connection.
#[derive(Clone, Default)]
pub struct Handoff(Arc<Mutex<Option<EventStream>>>);

impl Handoff {
    fn put(&self, events: EventStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }

    /// The stream, if a handler put one here.
    pub fn take(&self) -> Option<EventStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a request for an event stream knows of its connection.
pub struct StreamConnection {
    handoff: Option<Handoff>,
    sending_ended: Option<SendingEnded>,
}

impl<S: Sync> FromRequestParts<S> for StreamConnection {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self { handoff: parts.extensions.remove(), sending_ended: parts.extensions.remove() })
    }
}

/// The id of the last event that the client received, as it says when it reconnects.
pub fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> Option<EventId> {
    match headers.get("last-event-id") {
        Some(id) => id.to_str().ok().and_then(EventId::parse),
        None => url::form_urlencoded::parse(query?.as_bytes())
            .find(|(name, _)| name == LAST_EVENT_ID_PARAMETER)
            .and_then(|(_, id)| EventId::parse(&id)),
    }
}

/// Whether a client that reconnects has received the end of its stream, so that 204 should tell it
/// to stop. The id of the token's event acknowledges the token; those of other ends change nothing,
/// and one that is no end of this session begins a new stream.
///
/// # Errors
/// 401, 404, 503 as problem details.
pub async fn has_received_end(
    app: &App,
    session: SessionRef,
    session_token: Option<Digest>,
    received: Option<EventId>,
    trace: &Trace,
) -> Result<bool, Problem> {
    let Some(received) = received else { return Ok(false) };
    let is_end = ENDS.iter().any(|name| EventId::of_end(name, session.key) == received);
    let has_received = is_end || app.acknowledge(session, session_token, received, trace).await?;
    if has_received {
        app.metrics.stream_reconnected(Reconnect::LastEventId);
    }
    Ok(has_received)
}

/// Server-sent events: one of `authenticated`, `failed`, `expired` ends the stream
#[utoipa::path(
    get,
    path = paths::SESSION_EVENTS,
    tag = tags::ADD_IN,
    params(
        ("session_id" = String, Path, description = "The session."),
        (
            "Last-Event-ID" = Option<String>, Header,
            description = "`1` says that the event has arrived, and acknowledges the token.",
        ),
    ),
    security((), ("session_token" = [])),
    responses(
        (
            status = 200,
            description = "`data` of an event is the JSON of the long poll's answer 200.",
            body = String, content_type = EVENT_STREAM,
        ),
        (status = 204, description = "The token was acknowledged; an `EventSource` stops."),
        Problems<{
            types(&[
                ReaderUnauthorized, OriginRefused, SessionNotFound, TooManyGuesses, TooManyStreams, InstanceFull,
                ShuttingDown, StoreUnavailable,
            ])
        }>,
    ),
)]
pub async fn events(
    State(app): State<AppState>,
    credentials: Credentials,
    trace: Trace,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    connection: StreamConnection,
) -> Result<Response, Problem> {
    let Credentials { session, session_token } = credentials;
    let received = last_event_id(&headers, query.as_deref());
    if has_received_end(&app, session, session_token, received, &trace).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let relay = app.relay.in_trace(&trace);
    let reader = relay.open(session, session_token, Delivery::UntilAcknowledged).await?;
    Ok(respond(app, reader, connection, &trace))
}

/// The answer to a reader that was let in.
pub fn respond(
    app: AppState,
    mut reader: Subscription,
    connection: StreamConnection,
    trace: &Trace,
) -> Response {
    match reader.take_found() {
        // 204 tells an EventSource to stop reconnecting.
        Some(Outcome::Gone(GoneReason::Acknowledged)) => {
            return StatusCode::NO_CONTENT.into_response();
        }
        Some(found) => reader.put_back(found),
        None => {}
    }
    let events = EventStream::new(app, reader, trace.link());
    let body = match connection.handoff {
        Some(handoff) => {
            handoff.put(events);
            Body::empty()
        }
        None => events.into_body(connection.sending_ended),
    };
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        // A proxy that compresses would hold events back (RFC 9111 §5.2.2.6).
        (header::CACHE_CONTROL.as_str(), "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        // Whatever follows the request on its connection is not answered; over HTTP/2 it is left out.
        (header::CONNECTION.as_str(), "close"),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reconnects_are_spread() {
        let mut pauses: Vec<u64> = (0..1_000).map(|_| one_of(RETRY)).collect();
        assert!(pauses.iter().all(|pause| RETRY.contains(pause)));
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 500, "{} different pauses of 1000", pauses.len());
    }

    #[test]
    fn what_a_waiting_stream_keeps_stays_small() {
        assert_eq!(size_of::<Link>(), if cfg!(feature = "opentelemetry") { 8 } else { 0 });
        assert!(size_of::<EventStream>() <= 160, "{}", size_of::<EventStream>());
    }

    proptest! {
        #[test]
        fn only_an_event_id_counts_from_the_header_or_else_the_query(
            id in prop_oneof!["[A-Za-z0-9_-]{22}", "[01 ]{0,2}", "[-+\"1.0]{1,3}", any::<String>()],
        ) {
            let expected = EventId::parse(&id);
            let none = HeaderMap::new();
            let encoded: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
            let query = format!("_=1&lastEventId={encoded}");
            prop_assert_eq!(&last_event_id(&none, Some(&query)), &expected);
            if let Ok(value) = HeaderValue::from_bytes(id.as_bytes()) {
                let headers = HeaderMap::from_iter([("last-event-id".parse().unwrap(), value)]);
                prop_assert_eq!(last_event_id(&headers, Some("lastEventId=aaaaaaaaaaaaaaaaaaaaaa")), expected);
            }
        }
    }
}

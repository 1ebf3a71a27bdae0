//! `GET /addons/sessions/{id}/events`: server-sent events (WHATWG HTML §9.2).

use std::{
    convert::Infallible,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, request::Parts};

use crate::{
    api::paths,
    http::{
        AppState, HalfClose,
        addons::streams::{
            self, Channel, Credentials, Protocol, StreamMessage, Transport, Wait,
            body::{self, BodyStream, BodyTransport},
        },
        error::{
            Problem,
            ProblemType::{
                InstanceFull, OriginRefused, ReaderUnauthorized, SessionNotFound, ShuttingDown,
                StoreUnavailable, TooManyGuesses, TooManyStreams,
            },
            Problems, types,
        },
        openapi_tags,
        operator::metrics::Reconnect,
        responses::EVENT_STREAM,
    },
    session::{EventId, GoneReason, Outcome, SessionKey, SubscriptionId},
    telemetry::Trace,
};

/// The final events whose IDs acknowledge nothing.
const ENDS: [&str; 2] = ["failed", "expired"];

/// The query parameter by which `event-source-polyfill` sends the ID of the last event: it avoids
/// the header, which would need a preflight.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";

/// A comment, which clients ignore.
const HEARTBEAT: &[u8] = b":\n\n";

/// Reconnection time of a client, in milliseconds: a random one for each, so that thousands do not
/// reconnect at once when an instance fails. An `EventSource` adds no jitter.
const RETRY: Range<u64> = 1_000..3_000;

/// Likewise when the instance shuts down in order.
const RETRY_WHEN_DRAINING: Range<u64> = 100..3_100;

/// Server-sent events, as the AsyncAPI document describes them.
pub const CHANNEL: Channel = Channel {
    name: "events",
    operation: "sendEvent",
    path: paths::SESSION_EVENTS,
    title: "Server-sent events",
    server: "Event streams.",
    description: || {
        "`text/event-stream` (WHATWG HTML, 9.2). `retry` comes first, a comment is the heartbeat, \
         one event ends the stream. A bound session is read with the session token as a bearer \
         token, or by the cookie that its creation has set. A reconnect with the id of the event, \
         as `Last-Event-ID` or `?lastEventId=`, is answered with 204; that of the token's event \
         acknowledges the token."
            .to_owned()
    },
    protocol: Protocol::Http,
    tagged: false,
};

/// The bytes of an event stream.
pub type EventStream = BodyStream<EventSource>;

/// A request for an event stream.
pub struct EventSource {
    /// The ID of the last event that the client received, as it says when it reconnects.
    last_event_id: Option<EventId>,
    handoff: Option<Handoff>,
    half_close: HalfClose,
}

impl<S: Sync> FromRequestParts<S> for EventSource {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self {
            last_event_id: last_event_id(&parts.headers, parts.uri.query()),
            handoff: parts.extensions.remove(),
            half_close: HalfClose::from_request_parts(parts, state).await?,
        })
    }
}

impl Transport for EventSource {
    const NAME: &'static str = "Sse";

    type Frame = Bytes;

    async fn accept(self, wait: Wait) -> Result<Response, Problem> {
        // 204 tells an `EventSource` to stop reconnecting.
        if let Some(Outcome::Gone(GoneReason::Acknowledged)) = wait.found() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let events = EventStream::new(wait);
        let body = match self.handoff {
            Some(handoff) => {
                handoff.put(events);
                Body::empty()
            }
            None => events.into_body(self.half_close),
        };
        Ok(body::respond::<Self>(body))
    }

    fn heartbeat() -> Bytes {
        Bytes::from_static(HEARTBEAT)
    }

    fn message(session: SessionKey, message: &StreamMessage) -> Bytes {
        let (name, id) = match (message, message.name()) {
            (StreamMessage::Authenticated { payload, .. }, Some(name)) => {
                (name, EventId::of_token(payload))
            }
            (_, Some(name)) => (name, EventId::of_end(name, session)),
            (StreamMessage::Reconnect, None) => return retry(RETRY_WHEN_DRAINING).into(),
            (_, None) => return Bytes::new(),
        };
        let (id, data) = (id.as_str(), message.to_json(false));
        format!("event: {name}\nid: {id}\ndata: {data}\n\n").into()
    }

    /// Answers a client that reconnects and has received the end of its stream with 204, so that it
    /// stops. The ID of the token's event acknowledges the token; those of other ends change nothing,
    /// and one that is no end of this session begins a new stream.
    async fn answer_now(
        &self,
        app: &AppState,
        credentials: Credentials,
        trace: &Trace,
    ) -> Result<Option<Response>, Problem> {
        let Credentials { session, session_token } = credentials;
        let Some(received) = self.last_event_id.clone() else { return Ok(None) };
        let is_end = ENDS.iter().any(|name| EventId::of_end(name, session.key) == received);
        if !is_end && !app.acknowledge(session, session_token, received, trace).await? {
            return Ok(None);
        }
        app.metrics.stream_reconnected(Reconnect::LastEventId);
        Ok(Some(StatusCode::NO_CONTENT.into_response()))
    }
}

impl BodyTransport for EventSource {
    const MEDIA_TYPE: &'static str = EVENT_STREAM;

    fn opening() -> String {
        retry(RETRY)
    }
}

fn retry(range: Range<u64>) -> String {
    format!("retry: {}\n\n", one_of(range))
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

/// The ID of the last event that the client received, as it says when it reconnects.
fn last_event_id(headers: &HeaderMap, query: Option<&str>) -> Option<EventId> {
    match headers.get("last-event-id") {
        Some(id) => id.to_str().ok().and_then(EventId::parse),
        None => url::form_urlencoded::parse(query?.as_bytes())
            .find(|(name, _)| name == LAST_EVENT_ID_PARAMETER)
            .and_then(|(_, id)| EventId::parse(&id)),
    }
}

/// Server-sent events: one of `authenticated`, `failed`, `expired` ends the stream
#[utoipa::path(
    get,
    path = paths::SESSION_EVENTS,
    tag = openapi_tags::ADD_IN,
    params(
        ("session_id" = String, Path, description = "The session."),
        (
            "Last-Event-ID" = Option<String>, Header,
            description = "ID of the last event received; that of the token's event acknowledges \
                the token.",
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
    credentials: Result<Credentials, Problem>,
    trace: Trace,
    source: EventSource,
) -> Result<Response, Problem> {
    streams::serve(app, credentials, source, &trace).await
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::Link;

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

//! The waiting side: three transports over one [`Subscription`](crate::relay::Subscription).
//!
//! Here is what they share: who may read, what a reader is told, and the answer as JSON.

pub mod credentials;
pub mod long_poll;
pub mod sse;
pub mod websocket;

use std::time::Duration;

use serde::Serialize;

use crate::{
    http::{AppState, operator::metrics::Reconnect},
    session::{EventId, Failure, GoneReason, Outcome, SealedPayload, SessionKey},
    telemetry::{DeliverySpan, Link},
    token::TokenResponse,
};

/// Name of the state, the event and the message that carry a token.
const AUTHENTICATED: &str = "authenticated";

/// What a reader is told at the end of its wait.
pub enum StreamMessage {
    /// The token.
    Authenticated(TokenResponse),
    /// The login failed.
    Failed(Failure),
    /// The session's time is over.
    Expired,
    /// It has the token already; nothing is left to say.
    Nothing,
    /// Come again: the instance shuts down.
    Reconnect,
}

#[derive(Serialize)]
struct Authenticated<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    state: &'a str,
    #[serde(flatten)]
    token: &'a TokenResponse,
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    state: &'a str,
    #[serde(flatten)]
    failure: &'a Failure,
}

impl StreamMessage {
    /// Translates an outcome of the relay; opens the sealed payload.
    pub fn from_outcome(app: &AppState, key: SessionKey, outcome: Outcome, reader: &Link) -> Self {
        match outcome {
            Outcome::Token { payload, age } => Self::from_payload(app, key, &payload, age, reader),
            Outcome::Failed(failure) => Self::Failed(failure),
            Outcome::Superseded => {
                app.metrics.stream_reconnected(Reconnect::NewestReader);
                Self::Failed(Failure::new(
                    "superseded",
                    "Another connection reads this session now.",
                ))
            }
            Outcome::Gone(GoneReason::Expired) => Self::Expired,
            Outcome::WrittenDirectly | Outcome::Gone(GoneReason::Acknowledged) => Self::Nothing,
            Outcome::Gone(GoneReason::Cancelled) => {
                Self::Failed(Failure::new("cancelled", "The sign-in was cancelled."))
            }
            Outcome::Gone(GoneReason::Replayed) => Self::Failed(Failure::new(
                "transit_token_replayed",
                "The sign-in link was used twice. It may have leaked, so the session was ended.",
            )),
            Outcome::Draining => Self::Reconnect,
        }
    }

    /// Opens a token that the store handed out.
    pub fn from_payload(
        app: &AppState,
        key: SessionKey,
        payload: &SealedPayload,
        age: Duration,
        reader: &Link,
    ) -> Self {
        match TokenResponse::unseal(&app.sealing_keys, key, payload) {
            Ok(token) => {
                note_delivery(app, key, &token, age, reader);
                Self::Authenticated(token)
            }
            Err(error) => {
                tracing::error!(session = %key, %error, "sealed token could not be opened");
                app.metrics.lost();
                Self::Failed(Failure::new("server_error", "The token could not be read."))
            }
        }
    }

    /// The message as one line of JSON; `tagged` adds the member `type` (WebSocket).
    pub fn to_json(&self, tagged: bool) -> String {
        let tag = |name| tagged.then_some(name);
        let json = match self {
            Self::Authenticated(token) => return authenticated(tag(AUTHENTICATED), token),
            Self::Failed(failure) => {
                serde_json::to_string(&Failed { r#type: tag("failed"), state: "failed", failure })
            }
            Self::Expired if tagged => Ok(r#"{"type":"expired","state":"expired"}"#.to_owned()),
            Self::Expired => Ok(r#"{"state":"expired"}"#.to_owned()),
            Self::Nothing | Self::Reconnect => Ok(r#"{"state":"pending"}"#.to_owned()),
        };
        or_empty(json)
    }
}

/// Puts into words what one stream is told.
#[derive(Clone)]
pub struct Encoder {
    app: AppState,
    /// To the request that opened the stream, for the traces.
    opened_by: Link,
}

impl Encoder {
    /// For a stream of the request that `opened_by` links to.
    pub fn new(app: AppState, opened_by: Link) -> Self {
        Self { app, opened_by }
    }

    /// What an outcome is in words; a token counts as delivered.
    pub fn tell(&self, key: SessionKey, outcome: Outcome) -> StreamMessage {
        StreamMessage::from_outcome(&self.app, key, outcome, &self.opened_by)
    }

    /// Opens a sealed token that is about to be handed over; `None` when it cannot be opened.
    pub fn open(&self, key: SessionKey, payload: &SealedPayload) -> Option<DirectDelivery<'_>> {
        let token = TokenResponse::unseal(&self.app.sealing_keys, key, payload).ok()?;
        let event = EventId::of_token(payload);
        Some(DirectDelivery { encoder: self, key, event, token })
    }
}

/// A token that is being handed over.
pub struct DirectDelivery<'a> {
    encoder: &'a Encoder,
    key: SessionKey,
    event: EventId,
    token: TokenResponse,
}

impl DirectDelivery<'_> {
    /// Counts and logs it, once it is sent.
    pub fn done(self) {
        let Encoder { app, opened_by } = self.encoder;
        note_delivery(app, self.key, &self.token, Duration::ZERO, opened_by);
    }
}

/// A token as one line of JSON, with the member `type` if there is one.
fn authenticated(r#type: Option<&str>, token: &TokenResponse) -> String {
    or_empty(serde_json::to_string(&Authenticated { r#type, state: AUTHENTICATED, token }))
}

/// Strings and numbers always serialise; an empty object is still valid JSON.
fn or_empty(json: serde_json::Result<String>) -> String {
    json.unwrap_or_else(|_| "{}".to_owned())
}

/// Counts and logs a token that was handed out, `age` after its login was stored.
fn note_delivery(
    app: &AppState,
    key: SessionKey,
    token: &TokenResponse,
    age: Duration,
    reader: &Link,
) {
    app.metrics.delivered(age);
    let delivery = DeliverySpan::new(app.tracing.as_ref(), key, token.trace(), reader);
    delivery.log(|| tracing::info!(target: "audit", session = %key, "token delivered"));
}

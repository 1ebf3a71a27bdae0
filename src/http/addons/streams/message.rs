//! The message that ends a wait, and the payload of every transport: one line of JSON.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    http::{App, AppState, addons::streams::Transport, operator::metrics::Reconnect},
    session::{Failure, GoneReason, Outcome, SealedPayload, SessionKey, Surface},
    telemetry::{DeliverySpan, Link},
    token::TokenResponse,
};

/// What a client is sent at the end of its wait.
pub enum StreamMessage {
    /// The token.
    Authenticated {
        /// The token as the client receives it.
        token: Box<TokenResponse>,
        /// The token as the store holds it; the event's ID derives from it.
        payload: SealedPayload,
    },
    /// The sign-in failed.
    Failed(Failure),
    /// The session expired.
    Expired,
    /// The client has the token already; nothing is left to send.
    Nothing,
    /// The instance shuts down; the client should reconnect.
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
    /// The message's name: the value of `state`, and the name of the event. `None` for those that
    /// have no payload.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Authenticated { .. } => Some("authenticated"),
            Self::Failed(_) => Some("failed"),
            Self::Expired => Some("expired"),
            Self::Nothing | Self::Reconnect => None,
        }
    }

    /// The message as one line of JSON. `tagged` adds the member `type`, for transports that have no
    /// event names.
    pub fn to_json(&self, tagged: bool) -> String {
        let Some(state) = self.name() else { return r#"{"state":"pending"}"#.to_owned() };
        let r#type = tagged.then_some(state);
        let json = match self {
            Self::Authenticated { token, .. } => {
                serde_json::to_string(&Authenticated { r#type, state, token })
            }
            Self::Failed(failure) => serde_json::to_string(&Failed { r#type, state, failure }),
            _ if tagged => Ok(r#"{"type":"expired","state":"expired"}"#.to_owned()),
            _ => Ok(r#"{"state":"expired"}"#.to_owned()),
        };
        // Strings and numbers always serialise; an empty object is still valid JSON.
        json.unwrap_or_else(|_| "{}".to_owned())
    }
}

/// Makes the messages of one stream.
#[derive(Clone)]
pub struct Encoder {
    app: AppState,
    /// The request that opened the stream, for the traces.
    opened_by: Link,
}

impl Encoder {
    /// An encoder for the stream that `opened_by` opened.
    pub fn new(app: AppState, opened_by: Link) -> Self {
        Self { app, opened_by }
    }

    /// The state that all handlers share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Translates an outcome of the relay. A token is unsealed, and counted and logged as delivered.
    pub fn message(&self, key: SessionKey, outcome: Outcome) -> StreamMessage {
        let failed = |error: &str, description: &str| {
            StreamMessage::Failed(Failure::new(error, description))
        };
        match outcome {
            Outcome::Token { payload, age } => {
                match TokenResponse::unseal(&self.app.sealing_keys, key, &payload) {
                    Ok(token) => {
                        self.record_delivery(key, &token, age);
                        StreamMessage::Authenticated { token: Box::new(token), payload }
                    }
                    Err(error) => {
                        tracing::error!(session = %key, %error, "sealed token could not be opened");
                        self.app.metrics.lost();
                        failed("server_error", "The token could not be read.")
                    }
                }
            }
            Outcome::Failed(failure) => StreamMessage::Failed(failure),
            Outcome::Superseded => {
                self.app.metrics.stream_reconnected(Reconnect::NewestReader);
                failed("superseded", "Another connection reads this session now.")
            }
            Outcome::Gone(GoneReason::Expired) => StreamMessage::Expired,
            Outcome::WrittenDirectly | Outcome::Gone(GoneReason::Acknowledged) => {
                StreamMessage::Nothing
            }
            Outcome::Gone(GoneReason::Cancelled) => {
                failed("cancelled", "The sign-in was cancelled.")
            }
            Outcome::Gone(GoneReason::Replayed) => failed(
                "transit_token_replayed",
                "The sign-in link was used twice. It may have leaked, so the session was ended.",
            ),
            Outcome::Draining => StreamMessage::Reconnect,
        }
    }

    /// Unseals a token that is about to be written directly; `None` when it cannot be opened.
    pub fn open(&self, key: SessionKey, payload: &SealedPayload) -> Option<DirectDelivery<'_>> {
        let token = TokenResponse::unseal(&self.app.sealing_keys, key, payload).ok()?;
        let message =
            StreamMessage::Authenticated { token: Box::new(token), payload: payload.clone() };
        Some(DirectDelivery { encoder: self, key, message })
    }

    /// Counts and logs a token that was delivered, `age` after its sign-in was stored.
    fn record_delivery(&self, key: SessionKey, token: &TokenResponse, age: Duration) {
        let client = token
            .client()
            .cloned()
            .unwrap_or_else(|| self.app.clients.load().label(Surface::Native, None));
        self.app.metrics.delivered(&client, age);
        let tracing = self.app.tracing.as_ref();
        let delivery = DeliverySpan::new(tracing, key, token.trace(), &self.opened_by);
        delivery.log(|| tracing::info!(target: "audit", session = %key, client_id = %client, "token delivered"));
    }
}

/// A token that a [`DirectWriter`](crate::relay::DirectWriter) writes.
pub struct DirectDelivery<'a> {
    encoder: &'a Encoder,
    key: SessionKey,
    message: StreamMessage,
}

impl DirectDelivery<'_> {
    /// The token as `T` sends it.
    pub fn frame<T: Transport>(&self) -> T::Frame {
        T::message(self.key, &self.message)
    }

    /// Counts and logs the delivery, once the token is written.
    pub fn done(self) {
        if let StreamMessage::Authenticated { token, .. } = &self.message {
            self.encoder.record_delivery(self.key, token, Duration::ZERO);
        }
    }
}

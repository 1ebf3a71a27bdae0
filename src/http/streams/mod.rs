//! The waiting side: three transports over one [`Reader`](crate::relay::Reader).
//!
//! Here is what they share: who may read, what a reader is told, and the answer as JSON.

pub mod credentials;
pub mod long_poll;
pub mod sse;
pub mod websocket;

use std::time::Duration;

use serde::Serialize;

use super::{AppState, metrics::Reconnect};
use crate::{
    relay::Outcome,
    session::{Failure, GoneReason, SealedPayload, SessionKey},
    token::TokenResponse,
    trace,
};

/// What a reader is told at the end of its wait.
pub enum Told {
    /// The token.
    Authenticated(TokenResponse),
    /// The login failed.
    Failed(Failure),
    /// The session's time is over.
    Expired,
    /// It has the token already; nothing is left to say.
    Nothing,
    /// Come again: the instance shuts down.
    ComeAgain,
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

impl Told {
    /// Translates an outcome of the relay; opens the sealed payload.
    pub fn from_outcome(app: &AppState, key: SessionKey, outcome: Outcome) -> Self {
        match outcome {
            Outcome::Token(payload, age) => Self::from_payload(app, key, &payload, age),
            Outcome::Failed(failure) => Self::Failed(failure),
            Outcome::Superseded => {
                app.metrics.stream_reconnected(Reconnect::NewestReader);
                Self::Failed(Failure::new(
                    "superseded",
                    "Another connection reads this session now.",
                ))
            }
            Outcome::Gone(GoneReason::Expired) => Self::Expired,
            Outcome::Gone(GoneReason::Acknowledged) => Self::Nothing,
            Outcome::Gone(GoneReason::Cancelled) => {
                Self::Failed(Failure::new("cancelled", "The sign-in was cancelled."))
            }
            Outcome::Gone(GoneReason::Replayed) => Self::Failed(Failure::new(
                "transit_token_replayed",
                "The sign-in link was used twice. It may have leaked, so the session was ended.",
            )),
            Outcome::Draining => Self::ComeAgain,
        }
    }

    /// Opens a token that the store handed out.
    pub fn from_payload(
        app: &AppState,
        key: SessionKey,
        payload: &SealedPayload,
        age: Duration,
    ) -> Self {
        match TokenResponse::unseal(&app.sealing_keys, key, payload) {
            Ok(token) => {
                app.metrics.delivered(age);
                let delivery = trace::deliver(app.tracing.as_ref(), key, token.trace());
                delivery.during(|| {
                    tracing::info!(target: "audit", session = %key, "token delivered");
                });
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
            Self::Authenticated(token) => serde_json::to_string(&Authenticated {
                r#type: tag("authenticated"),
                state: "authenticated",
                token,
            }),
            Self::Failed(failure) => {
                serde_json::to_string(&Failed { r#type: tag("failed"), state: "failed", failure })
            }
            Self::Expired if tagged => Ok(r#"{"type":"expired","state":"expired"}"#.to_owned()),
            Self::Expired => Ok(r#"{"state":"expired"}"#.to_owned()),
            Self::Nothing | Self::ComeAgain => Ok(r#"{"state":"pending"}"#.to_owned()),
        };
        // Strings and numbers always serialise; an empty object is still valid JSON.
        json.unwrap_or_else(|_| "{}".to_owned())
    }
}

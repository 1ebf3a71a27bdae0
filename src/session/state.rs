//! The states of a session, what it carries and how a wait for it ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a session is read and entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The session ID alone reads and enters.
    Legacy,
    /// Reading needs the session token, entering the transit token.
    Bound,
    /// The device authorization grant (RFC 8628): reading needs the session token or the device code
    /// that holds it, entering the user code. Exactly one of them gets the token.
    Device,
    /// The Meet surface: reading needs cookie and CSRF token, entering the exchange.
    Meet,
}

impl Profile {
    /// The surface that its sessions belong to.
    pub fn surface(self) -> Surface {
        match self {
            Self::Legacy | Self::Bound | Self::Device => Surface::Native,
            Self::Meet => Surface::Meet,
        }
    }
}

/// A set of endpoints with sessions, tokens and logins of its own.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Surface {
    /// The endpoints below `/addons/`.
    Native,
    /// The endpoints that are compatible with La Suite Meet.
    Meet,
}

/// The state of a session; `docs/architecture.md` has the diagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Created; nobody has signed in yet.
    Pending,
    /// The token is stored and not delivered yet.
    Authenticated,
    /// The token was delivered and stays readable until it is acknowledged or the grace is over.
    Delivered,
    /// The sign-in failed.
    Failed(Failure),
    /// Over; the reason is remembered for a while, for late callers.
    Gone(GoneReason),
}

/// Why a sign-in failed, in the terms of RFC 6749 §4.1.2.1 where they fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Error code: `access_denied`, `server_error`, `temporarily_unavailable`, …
    pub error: String,
    /// Text for developers and people; holds no secret.
    pub error_description: String,
}

impl Failure {
    /// A failure from its code and description.
    pub fn new(error: &str, error_description: impl Into<String>) -> Self {
        Self { error: error.to_owned(), error_description: error_description.into() }
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoneReason {
    /// The token was acknowledged, or delivered by a poll that delivers once.
    Acknowledged,
    /// The reader cancelled it before a token was issued.
    Cancelled,
    /// It expired.
    Expired,
    /// Its transit token was used twice and may have leaked.
    Replayed,
}

impl GoneReason {
    /// Every reason.
    pub(crate) const ALL: [Self; 4] =
        [Self::Acknowledged, Self::Cancelled, Self::Expired, Self::Replayed];

    /// The name in stores and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
        }
    }
}

/// How a read or a wait ended. Stores, relay and transports share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The token.
    Token {
        /// The sealed token response.
        payload: SealedPayload,
        /// Time since the sign-in was stored.
        age: Duration,
    },
    /// The token has been written to the client's connection already.
    WrittenDirectly,
    /// The sign-in failed.
    Failed(Failure),
    /// A newer subscription of the same session took over.
    Superseded,
    /// The session is over.
    Gone(GoneReason),
    /// This instance is shutting down; the client should reconnect.
    Draining,
}

/// The token response in an AEAD envelope that only the `token` module opens. Stores, bus and
/// relay handle nothing else of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedPayload(pub bytes::Bytes);

impl std::fmt::Debug for SealedPayload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SealedPayload({} bytes)", self.0.len())
    }
}

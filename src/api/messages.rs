//! Messages to a waiting reader, and from it.

use serde::{Deserialize, Serialize};

use crate::api::{ErrorResponse, TokenResponse};

/// An event of a stream, a message of a WebSocket; each is the last one.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Event {
    /// The sign-in succeeded; this is the access token.
    Authenticated(TokenResponse),
    /// The sign-in failed; there will be no token.
    Failed(ErrorResponse),
    /// The session expired before the sign-in ended.
    Expired,
}

/// Answer of a long poll when the sign-in has ended.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PollAnswer {
    /// The sign-in succeeded.
    Authenticated(TokenResponse),
    /// The sign-in failed.
    Failed(ErrorResponse),
}

/// Answer of a long poll when the sign-in has not ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Waiting {
    /// The sign-in has not ended.
    Pending,
}

/// Message of a client on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The token arrived; the relay deletes it.
    Ack,
}

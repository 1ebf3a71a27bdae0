//! `GET /addons/sessions/{id}/ws`: WebSocket (RFC 6455), subprotocol `token-relay.v1`.
//!
//! A browser cannot see the status of a refused upgrade, so refusals are close codes.

use std::time::Duration;

use axum::{
    extract::{
        FromRequestParts, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use http::request::Parts;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Told,
    credentials::{Credentials, SUBPROTOCOL},
};
use crate::{
    http::{AppState, Transport, problem::Problem},
    relay::{Outcome, Reader},
    trace,
};

/// The subprotocol's close codes.
pub mod code {
    /// All is said.
    pub const DONE: u16 = 1000;
    /// The client sent something unknown.
    pub const POLICY: u16 = 1008;
    /// The instance restarts.
    pub const RESTART: u16 = 1012;
    /// Full, or the store is away.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// Session token missing or wrong.
    pub const UNAUTHORIZED: u16 = 4401;
    /// Foreign origin.
    pub const FORBIDDEN: u16 = 4403;
    /// No such session.
    pub const NOT_FOUND: u16 = 4404;
    /// The session's time is over.
    pub const EXPIRED: u16 = 4408;
    /// Too many readers of one session.
    pub const TOO_MANY: u16 = 4429;
}

/// Frames in either direction are small; the defaults of 128 KiB a direction would be the
/// largest part of a waiting stream.
const BUFFER: usize = 1024;

/// Largest message accepted from a client; `{"type":"ack"}` is all it has to say.
const MAX_MESSAGE: usize = 1024;

/// How long a client may take for its acknowledgement before the connection is closed.
const ACK_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientMessage {
    Ack,
}

/// Opens a WebSocket.
///
/// # Errors
/// 400 or 426 when the request is no WebSocket upgrade with the subprotocol, as problem details.
pub async fn websocket(
    State(app): State<AppState>,
    upgrade: Upgrade,
    credentials: Result<Credentials, Problem>,
) -> Response {
    let opened = match credentials {
        Ok(Credentials { key, session_token }) => {
            app.relay.open(key, session_token, false).await.map_err(Problem::from)
        }
        Err(problem) => Err(problem),
    };
    respond(app, upgrade, opened)
}

/// Upgrades and streams, or upgrades and closes with a code that says why.
pub fn respond(app: AppState, upgrade: Upgrade, opened: Result<Reader, Problem>) -> Response {
    let opened_by = trace::Link::to_current();
    upgrade.0.on_upgrade(async move |socket| match opened {
        Ok(reader) => {
            let open = app.metrics.stream_opened(Transport::WebSocket);
            stream(app, socket, reader, opened_by).await;
            drop(open);
        }
        Err(problem) => {
            let code = match problem {
                Problem::ReaderUnauthorized => code::UNAUTHORIZED,
                Problem::OriginRefused => code::FORBIDDEN,
                Problem::SessionNotFound => code::NOT_FOUND,
                Problem::TooManyStreams => code::TOO_MANY,
                Problem::ShuttingDown => code::RESTART,
                _ => code::TRY_AGAIN_LATER,
            };
            close(socket, code, "refused").await;
        }
    })
}

/// A WebSocket upgrade that offers our subprotocol; everything else is refused before the upgrade.
pub struct Upgrade(WebSocketUpgrade);

impl FromRequestParts<AppState> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await.map_err(|_| {
            Problem::BadRequest("This is a WebSocket endpoint (RFC 6455 §4.1).".to_owned())
        })?;
        if !super::credentials::offered(&parts.headers).any(|offer| offer == SUBPROTOCOL) {
            return Err(Problem::BadRequest(format!("Offer the subprotocol `{SUBPROTOCOL}`.")));
        }
        Ok(Self(
            upgrade
                .protocols([SUBPROTOCOL])
                .read_buffer_size(BUFFER)
                .write_buffer_size(BUFFER)
                .max_write_buffer_size(64 * 1024)
                .max_message_size(MAX_MESSAGE)
                .max_frame_size(MAX_MESSAGE),
        ))
    }
}

async fn stream(app: AppState, mut socket: WebSocket, mut reader: Reader, opened_by: trace::Link) {
    let mut next_ping = Instant::now() + app.heartbeat;
    // A client that answered no ping between two of ours is gone.
    let mut answered = true;
    let outcome = loop {
        tokio::select! {
            outcome = reader.outcome() => break outcome,
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    if serde_json::from_str::<ClientMessage>(&text).is_err() {
                        return close(socket, code::POLICY, "unknown message").await;
                    }
                    // Nothing was delivered yet, so there is nothing to acknowledge.
                    answered = true;
                }
                Some(Ok(Message::Binary(_))) => {
                    return close(socket, code::POLICY, "text only").await;
                }
                Some(Ok(_)) => answered = true,
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep_until(next_ping) => {
                if !answered {
                    return;
                }
                answered = false;
                next_ping = Instant::now() + app.heartbeat;
                let ping = socket.send(Message::Ping(bytes::Bytes::new()));
                if !matches!(tokio::time::timeout(app.heartbeat, ping).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    };
    if outcome == Outcome::Draining {
        return close(socket, code::RESTART, "restart").await;
    }
    let told = opened_by.during(|| Told::from_outcome(&app, reader.key(), outcome));
    match &told {
        Told::Nothing => return close(socket, code::DONE, "acknowledged").await,
        Told::ComeAgain => return close(socket, code::RESTART, "restart").await,
        Told::Authenticated(_) | Told::Failed(_) | Told::Expired => {}
    }
    if socket.send(Message::Text(told.to_json(true).into())).await.is_err() {
        return;
    }
    match told {
        Told::Authenticated(_) => {
            if acknowledged(&mut socket).await {
                let (key, session_token) = (reader.key(), reader.session_token());
                if let Err(problem) = app.end_session(key, session_token).await {
                    tracing::debug!(session = %key, ?problem, "acknowledgement not stored");
                }
            }
            close(socket, code::DONE, "done").await;
        }
        Told::Expired => close(socket, code::EXPIRED, "expired").await,
        _ => close(socket, code::DONE, "done").await,
    }
}

/// Whether the client acknowledges before its patience or the connection ends.
async fn acknowledged(socket: &mut WebSocket) -> bool {
    let wait = async {
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(text) = message {
                return serde_json::from_str::<ClientMessage>(&text).is_ok();
            }
        }
        false
    };
    tokio::time::timeout(ACK_PATIENCE, wait).await.unwrap_or(false)
}

async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    let goodbye = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // Until the client's own close frame, so that ours is not lost in a reset.
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // A client that does not answer loses nothing but the politeness.
    let _ = tokio::time::timeout(Duration::from_secs(5), goodbye).await;
}

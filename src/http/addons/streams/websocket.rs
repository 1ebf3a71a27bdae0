//! `GET /addons/sessions/{id}/ws`: WebSocket (RFC 6455), subprotocol `token-relay.v1`.
//!
//! A browser cannot see the status of a refused upgrade, so refusals are close codes.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::{
    extract::{
        FromRequestParts, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, request::Parts};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    api::paths,
    http::{
        AppState, Transport,
        addons::streams::{
            AUTHENTICATED, Encoder, StreamMessage, authenticated,
            credentials::{self, Credentials, SUBPROTOCOL},
        },
        error::{Problem, ProblemType::BadRequest, Problems, types},
        guesses::Guessed,
        middleware::ClientAddress,
        tags,
    },
    relay::{Delivery, DirectWriter, Subscription},
    session::{Outcome, SealedPayload, SessionKey},
    telemetry::Trace,
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

/// WebSocket, subprotocol `token-relay.v1`; close codes say why it ends
#[utoipa::path(
    get,
    path = paths::SESSION_WEBSOCKET,
    tag = tags::ADD_IN,
    params(("session_id" = String, Path, description = "The session.")),
    security((), ("session_token" = [])),
    responses(
        (
            status = 101,
            description = "Messages are the long poll's answer 200 with the member `type`; the \
                client sends `{\"type\":\"ack\"}`. Close codes: 1000 done, 1012 restart, 1013 try \
                again later, 4401 credentials, 4403 origin, 4404 unknown, 4408 expired, 4429 too \
                many streams.",
        ),
        Problems<{ types(&[BadRequest]) }>,
    ),
)]
pub async fn websocket(
    State(app): State<AppState>,
    upgrade: Upgrade,
    credentials: Result<Credentials, Problem>,
    address: ClientAddress,
    headers: HeaderMap,
    trace: Trace,
) -> Response {
    let opened = match credentials {
        Ok(Credentials { key, session_token }) => {
            let relay = app.relay.in_trace(&trace);
            let opened = relay.open(key, session_token, Delivery::UntilAcknowledged);
            opened.await.map_err(Problem::from)
        }
        Err(problem) => Err(problem),
    };
    let opened = opened.map_err(|problem| match problem {
        // The answer is 101, so that `count_guesses` does not see it.
        Problem::ReaderUnauthorized if credentials::presented(&headers) => {
            app.wrong_guess(Guessed::SessionToken, address, problem)
        }
        problem => problem,
    });
    respond(app, upgrade, opened, &trace)
}

/// Upgrades and streams, or upgrades and closes with a code that says why.
pub fn respond(
    app: AppState,
    upgrade: Upgrade,
    opened: Result<Subscription, Problem>,
    trace: &Trace,
) -> Response {
    let encoder = Encoder::new(Arc::clone(&app), trace.link());
    upgrade.0.on_upgrade(async move |socket| {
        let socket = Arc::new(SharedSocket::new(socket, encoder));
        match opened {
            Ok(reader) => {
                let open = app.metrics.stream_opened(Transport::WebSocket);
                reader.set_direct_writer(Arc::clone(&socket) as Arc<dyn DirectWriter>);
                stream(app, &socket, reader).await;
                drop(open);
            }
            Err(problem) => {
                let code = match problem {
                    Problem::ReaderUnauthorized => code::UNAUTHORIZED,
                    Problem::OriginRefused => code::FORBIDDEN,
                    Problem::SessionNotFound => code::NOT_FOUND,
                    Problem::TooManyStreams | Problem::TooManyGuesses(_) => code::TOO_MANY,
                    Problem::ShuttingDown => code::RESTART,
                    _ => code::TRY_AGAIN_LATER,
                };
                socket.close(code, "refused").await;
            }
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
        if !crate::http::addons::streams::credentials::offered(&parts.headers)
            .any(|offer| offer == SUBPROTOCOL)
        {
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

/// A socket shared by its task and the thread that delivers the token.
struct SharedSocket {
    held: Mutex<Held>,
    encoder: Encoder,
}

struct Held {
    socket: WebSocket,
    /// Whether a message is on its way; then its task is the one that writes.
    under_way: bool,
    /// Whether the token is on its way or sent.
    handed_over: bool,
}

impl SharedSocket {
    fn new(socket: WebSocket, encoder: Encoder) -> Self {
        Self { held: Mutex::new(Held { socket, under_way: false, handed_over: false }), encoder }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_handed_over(&self) -> bool {
        self.held().handed_over
    }

    async fn receive(&self) -> Option<Result<Message, axum::Error>> {
        poll_fn(|context| self.held().socket.poll_next_unpin(context)).await
    }

    async fn send(&self, message: Message) -> Result<(), axum::Error> {
        let mut message = Some(message);
        poll_fn(|context| {
            let mut held = self.held();
            held.under_way = true;
            ready!(held.socket.poll_ready_unpin(context))?;
            message.take().map_or(Ok(()), |message| held.socket.start_send_unpin(message))?;
            ready!(held.socket.poll_flush_unpin(context))?;
            held.under_way = false;
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Waits until all is sent.
    async fn sent(&self) -> Result<(), axum::Error> {
        poll_fn(|context| self.held().socket.poll_flush_unpin(context)).await
    }

    async fn close(&self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: reason.into() };
        let goodbye = async {
            if self.send(Message::Close(Some(frame))).await.is_ok() {
                // Until the client's own close frame, so that ours is not lost in a reset.
                while let Some(Ok(_)) = self.receive().await {}
            }
        };
        // A client that does not answer loses nothing but the politeness.
        let _ = tokio::time::timeout(Duration::from_secs(5), goodbye).await;
    }
}

impl DirectWriter for SharedSocket {
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool {
        let mut held = self.held();
        if held.under_way || held.handed_over {
            return false;
        }
        let Some(token) = self.encoder.open(key, payload) else { return false };
        let mut context = Context::from_waker(Waker::noop());
        if !matches!(held.socket.poll_ready_unpin(&mut context), Poll::Ready(Ok(()))) {
            return false;
        }
        let text = authenticated(Some(AUTHENTICATED), &token.token);
        if held.socket.start_send_unpin(Message::Text(text.into())).is_err() {
            return false;
        }
        held.handed_over = true;
        // What the socket does not take, or an error, is the task's to find: it is woken next.
        let _ = held.socket.poll_flush_unpin(&mut context);
        drop(held);
        token.done();
        true
    }
}

async fn stream(app: AppState, socket: &SharedSocket, mut reader: Subscription) {
    let mut next_ping = Instant::now() + app.settings.session.heartbeat;
    // A client that answered no ping between two of ours is gone.
    let mut answered = true;
    // A token that was handed over may be acknowledged before this task hears of it.
    let mut acknowledged_early = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = reader.outcome() => break outcome,
            message = socket.receive() => match message {
                Some(Ok(Message::Text(text))) => {
                    if serde_json::from_str::<ClientMessage>(&text).is_err() {
                        return socket.close(code::POLICY, "unknown message").await;
                    }
                    // Before anything is delivered there is nothing to acknowledge.
                    acknowledged_early = socket.is_handed_over();
                    answered = true;
                }
                Some(Ok(Message::Binary(_))) => {
                    return socket.close(code::POLICY, "text only").await;
                }
                Some(Ok(_)) => answered = true,
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep_until(next_ping) => {
                if !answered {
                    return;
                }
                answered = false;
                next_ping = Instant::now() + app.settings.session.heartbeat;
                let ping = socket.send(Message::Ping(bytes::Bytes::new()));
                if !matches!(tokio::time::timeout(app.settings.session.heartbeat, ping).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    };
    match outcome {
        Outcome::WrittenDirectly => {}
        Outcome::Draining => return socket.close(code::RESTART, "restart").await,
        outcome => {
            let told = socket.encoder.tell(reader.key(), outcome);
            let (code, reason) = match told {
                StreamMessage::Nothing => return socket.close(code::DONE, "acknowledged").await,
                StreamMessage::Reconnect => return socket.close(code::RESTART, "restart").await,
                StreamMessage::Expired => (code::EXPIRED, "expired"),
                StreamMessage::Authenticated(_) | StreamMessage::Failed(_) => (code::DONE, "done"),
            };
            if socket.send(Message::Text(told.to_json(true).into())).await.is_err() {
                return;
            }
            if !matches!(told, StreamMessage::Authenticated(_)) {
                return socket.close(code, reason).await;
            }
        }
    }
    if acknowledged_early || acknowledged(socket).await {
        let (key, session_token) = (reader.key(), reader.session_token());
        if let Err(problem) = app.end_session(key, session_token, &Trace::none()).await {
            tracing::debug!(session = %key, ?problem, "acknowledgement not stored");
        }
    }
    socket.close(code::DONE, "done").await;
}

/// Whether the client takes the token and acknowledges it before its timeout or the connection
/// ends.
async fn acknowledged(socket: &SharedSocket) -> bool {
    let wait = async {
        socket.sent().await.ok()?;
        while let Some(Ok(message)) = socket.receive().await {
            if let Message::Text(text) = message {
                return serde_json::from_str::<ClientMessage>(&text).ok();
            }
        }
        None
    };
    matches!(tokio::time::timeout(ACK_PATIENCE, wait).await, Ok(Some(ClientMessage::Ack)))
}

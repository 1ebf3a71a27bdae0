//! `GET /addons/sessions/{id}/ws`: WebSocket (RFC 6455), subprotocol `token-relay.v1`.
//!
//! A browser cannot see the status of a refused upgrade, so refusals are close codes.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::{CapacityError, ProtocolError},
    handshake::derive_accept_key,
    protocol::CloseFrame,
};

use crate::{
    api::paths,
    http::{
        AppState,
        addons::streams::{
            self, Channel, Credentials, Encoder, Protocol, StreamMessage, Transport, Wait,
            credentials::{self, SUBPROTOCOL},
            message_socket::MessageSocket,
        },
        error::{
            Problem,
            ProblemType::{BadRequest, WebSocketVersion},
            Problems, types,
        },
        guesses::{Attempt, Guessed},
        middleware::ClientAddress,
        openapi_tags,
    },
    relay::DirectWriter,
    session::{Outcome, SealedPayload, SessionKey, Surface},
    telemetry::Trace,
};

/// Close codes: those of RFC 6455 §7.4.1, and the subprotocol's own from 4400.
pub mod code {
    /// Normal closure: nothing is left to send.
    pub const DONE: u16 = 1000;
    /// The client broke the protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// The client sent a binary message.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// The client sent text that is not UTF-8.
    pub const INVALID_TEXT: u16 = 1007;
    /// The client sent an unknown message.
    pub const POLICY: u16 = 1008;
    /// The client sent a message that is too large.
    pub const TOO_LARGE: u16 = 1009;
    /// The instance is restarting.
    pub const RESTART: u16 = 1012;
    /// No room, or the store is unavailable.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// The session token is missing or wrong.
    pub const UNAUTHORIZED: u16 = 4401;
    /// The origin is not allowed.
    pub const FORBIDDEN: u16 = 4403;
    /// There is no such session.
    pub const NOT_FOUND: u16 = 4404;
    /// The session has expired.
    pub const EXPIRED: u16 = 4408;
    /// The session has too many readers.
    pub const TOO_MANY: u16 = 4429;
}

/// Close codes that a client may act on, in order, and their meanings.
pub const CLOSE_CODES: [(u16, &str); 9] = [
    (code::DONE, "Normal closure."),
    (code::POLICY, "The client sent something other than an acknowledgement."),
    (code::RESTART, "The instance restarts; reconnect."),
    (code::TRY_AGAIN_LATER, "The instance is full, or its store is unavailable; retry later."),
    (code::UNAUTHORIZED, "The session token is missing or wrong."),
    (code::FORBIDDEN, "The page's origin may not use the session's cookie."),
    (code::NOT_FOUND, "No such session."),
    (code::EXPIRED, "The session has expired."),
    (code::TOO_MANY, "Too many readers wait for this session."),
];

/// The WebSocket, as the AsyncAPI document describes it.
pub const CHANNEL: Channel = Channel {
    name: "websocket",
    operation: "sendMessage",
    path: paths::SESSION_WEBSOCKET,
    title: "WebSocket",
    server: "WebSockets.",
    description: || {
        let codes = CLOSE_CODES.map(|(code, meaning)| format!("{code}: {meaning}")).join(" ");
        format!(
            "Subprotocol `{SUBPROTOCOL}`. A bound session is read with the session token as a \
             second subprotocol, `bearer.<session_token>`, as a bearer token, or by the cookie that \
             its creation has set. One message, then the relay closes; a reader of a token \
             acknowledges first. Pings are the heartbeat. Close codes: {codes}"
        )
    },
    protocol: Protocol::WebSocket,
    tagged: true,
};

/// Maximum number of pings and pongs of a client between two pings of ours.
const MAX_HEARTBEATS: usize = 128;

/// Why a client that sends more is refused.
const TOO_MANY_PINGS: Ended = Ended::Refused(code::POLICY, "too many pings");

/// Timeout for the acknowledgement of a token.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for the client's part of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The version of the protocol (RFC 6455 §4.1).
const VERSION: &str = "13";

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientMessage {
    Ack,
}

/// WebSocket, subprotocol `token-relay.v1`; close codes say why it ends
#[utoipa::path(
    get,
    path = paths::SESSION_WEBSOCKET,
    tag = openapi_tags::ADD_IN,
    params(("session_id" = String, Path, description = "The session.")),
    security((), ("session_token" = [])),
    responses(
        (
            status = 101,
            description = "Messages are the long poll's answer 200 with the member `type`; the \
                client sends `{\"type\":\"ack\"}`. Close codes: 1000 done, 1002 protocol error, 1003 \
                binary message, 1007 text that is not UTF-8, 1008 unknown message, 1009 message too \
                large, 1012 restart, 1013 try again later, 4401 credentials, 4403 origin, 4404 \
                unknown, 4408 expired, 4429 too many streams.",
        ),
        Problems<{ types(&[BadRequest, WebSocketVersion]) }>,
    ),
)]
pub async fn websocket(
    State(app): State<AppState>,
    upgrade: Upgrade,
    credentials: Result<Credentials, Problem>,
    address: ClientAddress,
    headers: HeaderMap,
    trace: Trace,
) -> Result<Response, Problem> {
    // The answer to a wrong token is 101 as well, so that `count_guesses` does not see it.
    let guesser = credentials::presented(&headers).then_some((Surface::Native, address));
    streams::serve(app, credentials, Upgrade { guesser, ..upgrade }, &trace).await
}

/// The opening handshake of a client that offers the subprotocol (RFC 6455 §4.2, RFC 8441 §5).
/// Everything else is refused before the upgrade.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    serve: Option<ServeUpgraded>,
    /// Completes the handshake.
    response: Response,
    /// The client whose wrong session token counts as a guess.
    guesser: Option<(Surface, ClientAddress)>,
}

/// A WebSocket whose opening handshake is complete.
pub struct WebSocket {
    encoder: Encoder,
    purpose: Purpose,
}

/// What a socket is upgraded for.
enum Purpose {
    Wait(Wait),
    /// To be closed with this code, which says why the client is refused.
    Refusal(u16),
}

/// A request extension: serves a WebSocket on the connection's own socket, without what HTTP needs.
#[derive(Clone, Copy, Debug)]
pub struct ServeUpgraded(pub fn(Upgraded, WebSocket));

impl WebSocket {
    /// Serves it on `socket`, from which `received` was read already, in a task of its own.
    pub fn spawn<S>(self, socket: S, received: &[u8])
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { encoder, purpose } = self;
        let socket = Arc::new(SharedSocket::new(MessageSocket::new(socket, received), encoder));
        match purpose {
            Purpose::Wait(mut wait) => {
                // By reference, because the future of the task would hold a moved wait twice.
                tokio::spawn(async move { stream(&socket, &mut wait).await });
            }
            Purpose::Refusal(code) => {
                tokio::spawn(async move { socket.close(code, "refused").await });
            }
        }
    }
}

impl Upgrade {
    /// The same, where a wrong session token counts as a guess of `guesser`.
    pub fn counting(self, guesser: ClientAddress) -> Self {
        Self { guesser: Some((Surface::Meet, guesser)), ..self }
    }

    /// Completes the handshake and serves the socket.
    fn spawn(self, encoder: Encoder, purpose: Purpose) -> Response {
        let Self { on_upgrade, response, serve, .. } = self;
        let websocket = WebSocket { encoder, purpose };
        tokio::spawn(async move {
            match (on_upgrade.await, serve) {
                (Ok(upgraded), Some(ServeUpgraded(serve))) => serve(upgraded, websocket),
                (Ok(upgraded), None) => websocket.spawn(TokioIo::new(upgraded), &[]),
                (Err(error), _) => tracing::trace!(%error, "upgrade failed"),
            }
        });
        response
    }
}

impl Transport for Upgrade {
    const NAME: &'static str = "WebSocket";

    type Frame = Message;

    async fn accept(self, wait: Wait) -> Result<Response, Problem> {
        Ok(self.spawn(wait.encoder(), Purpose::Wait(wait)))
    }

    fn heartbeat() -> Message {
        Message::Ping(Bytes::new())
    }

    fn message(_: SessionKey, message: &StreamMessage) -> Message {
        Message::Text(message.to_json(true).into())
    }

    /// Upgrades, and closes with a code that says why: a browser cannot see the status of a refused
    /// upgrade.
    async fn refuse(self, app: AppState, problem: Problem) -> Result<Response, Problem> {
        let problem = match (problem, self.guesser) {
            (problem @ Problem::ReaderUnauthorized, Some((surface, address))) => {
                let attempt = match surface {
                    Surface::Native => Attempt::new(&app, Guessed::SessionToken, address, None),
                    Surface::Meet => Attempt::of_meet(&app, Guessed::SessionToken, address),
                };
                attempt.wrong(problem).await
            }
            (problem, _) => problem,
        };
        let code = match problem {
            Problem::ReaderUnauthorized => code::UNAUTHORIZED,
            Problem::OriginRefused(_) => code::FORBIDDEN,
            Problem::SessionNotFound => code::NOT_FOUND,
            Problem::TooManyStreams | Problem::TooManyGuesses(_) => code::TOO_MANY,
            Problem::ShuttingDown => code::RESTART,
            _ => code::TRY_AGAIN_LATER,
        };
        let encoder = Encoder::new(app, Trace::none().link());
        Ok(self.spawn(encoder, Purpose::Refusal(code)))
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let refused = |text: &str| Problem::BadRequest(text.to_owned());
        let headers = &parts.headers;
        let mut response = Body::empty().into_response();
        if parts.version == Version::HTTP_2 {
            let protocol = parts.extensions.get::<hyper::ext::Protocol>();
            if parts.method != Method::CONNECT
                || protocol.is_none_or(|protocol| protocol.as_str() != "websocket")
            {
                return Err(refused("This is a WebSocket endpoint (RFC 8441 §5)."));
            }
            version(headers)?;
        } else {
            if parts.method != Method::GET
                || !has_token(headers, header::CONNECTION, "upgrade")
                || !has_token(headers, header::UPGRADE, "websocket")
            {
                return Err(refused("This is a WebSocket endpoint (RFC 6455 §4.1)."));
            }
            // What comes after the head are frames.
            if headers.contains_key(header::TRANSFER_ENCODING)
                || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
            {
                return Err(refused("The request has a body."));
            }
            version(headers)?;
            let accept = accept_key(headers).ok_or_else(|| {
                refused("`Sec-WebSocket-Key` is 16 bytes in Base64, once (RFC 6455 §4.1).")
            })?;
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !credentials::offered(headers).any(|offer| offer == SUBPROTOCOL) {
            return Err(Problem::BadRequest(format!("Offer the subprotocol `{SUBPROTOCOL}`.")));
        }
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        // Not there where the connection cannot be upgraded, such as over HTTP/1.0.
        let on_upgrade = parts.extensions.remove();
        let on_upgrade =
            on_upgrade.ok_or_else(|| refused("This connection cannot be upgraded."))?;
        let serve = parts.extensions.remove();
        Ok(Self { on_upgrade, serve, response, guesser: None })
    }
}

/// Whether a list of tokens, in any number of lines, has one (RFC 9110 §5.6.1).
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|found| found.trim().eq_ignore_ascii_case(token))
}

fn version(headers: &HeaderMap) -> Result<(), Problem> {
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) if version == VERSION => Ok(()),
        _ => Err(Problem::WebSocketVersion),
    }
}

/// `Sec-WebSocket-Accept` (RFC 6455 §4.2.2).
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return None };
    if STANDARD.decode(key.as_bytes()).ok()?.len() != 16 {
        return None;
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

/// What a client sends.
enum Received {
    /// `{"type":"ack"}`.
    Acknowledgement,
    /// A ping or a pong.
    Heartbeat,
}

/// Why nothing more is received.
#[derive(Debug)]
enum Ended {
    /// The connection has closed.
    Closed,
    /// The client sent what it may not; code and reason.
    Refused(u16, &'static str),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                Self::Refused(code::TOO_LARGE, "message too large")
            }
            Error::Utf8(_) => Self::Refused(code::INVALID_TEXT, "not UTF-8"),
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::SendAfterClosing
                | ProtocolError::ReceivedAfterClosing,
            ) => Self::Closed,
            Error::Protocol(_) => Self::Refused(code::PROTOCOL_ERROR, "protocol error"),
            _ => Self::Closed,
        }
    }
}

/// A socket shared by its task and the thread that delivers the token.
struct SharedSocket<S> {
    writer: Mutex<Writer<S>>,
    encoder: Encoder,
}

struct Writer<S> {
    socket: MessageSocket<S>,
    /// Whether the task is writing a message.
    writing: bool,
    /// Whether the token has been queued.
    delivered: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Writer<S> {
    /// Receives one message.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Received, Ended>> {
        loop {
            let message = ready!(self.socket.poll_next(context));
            return Poll::Ready(match message.ok_or(Ended::Closed)?? {
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(ClientMessage::Ack) => Ok(Received::Acknowledgement),
                    Err(_) => Err(Ended::Refused(code::POLICY, "unknown message")),
                },
                Message::Binary(_) => Err(Ended::Refused(code::UNSUPPORTED_DATA, "text only")),
                Message::Ping(_) | Message::Pong(_) => Ok(Received::Heartbeat),
                // The next read answers it.
                Message::Close(_) | Message::Frame(_) => continue,
            });
        }
    }

    /// Takes the message and sends it.
    fn poll_send(
        &mut self,
        message: &mut Option<Message>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.writing = true;
        ready!(self.socket.poll_ready(context))?;
        message.take().map_or(Ok(()), |message| self.socket.start_send(message, context))?;
        ready!(self.socket.poll_flush(context))?;
        self.writing = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> SharedSocket<S> {
    fn new(socket: MessageSocket<S>, encoder: Encoder) -> Self {
        Self { writer: Mutex::new(Writer { socket, writing: false, delivered: false }), encoder }
    }

    fn writer(&self) -> MutexGuard<'_, Writer<S>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_delivered(&self) -> bool {
        self.writer().delivered
    }

    /// Receives one message. Cancel-safe.
    async fn receive(&self) -> Result<Received, Ended> {
        poll_fn(|context| self.writer().poll_receive(context)).await
    }

    /// Sends a message, or what is left of the one before.
    async fn send(&self, message: Option<Message>) -> Result<(), Error> {
        let mut message = message;
        poll_fn(|context| self.writer().poll_send(&mut message, context)).await
    }

    /// Sends a ping, if the client takes it within `timeout`.
    async fn ping(&self, timeout: Duration) -> bool {
        let at_once = |context: &mut Context<'_>| {
            let mut ping = Some(Upgrade::heartbeat());
            let sent = self.writer().poll_send(&mut ping, context);
            Poll::Ready((sent.map(|sent| sent.is_ok()), ping.is_some()))
        };
        match poll_fn(at_once).await {
            (Poll::Ready(sent), _) => sent,
            // Boxed, because few clients take nothing and the room of all is counted.
            (Poll::Pending, unwritten) => {
                let rest = self.send(unwritten.then(Upgrade::heartbeat));
                matches!(Box::pin(tokio::time::timeout(timeout, rest)).await, Ok(Ok(())))
            }
        }
    }

    /// Waits until all is sent.
    async fn sent(&self) -> Result<(), Error> {
        poll_fn(|context| self.writer().socket.poll_flush(context)).await
    }

    /// Closes with a code and a reason, so that the client can read them.
    async fn close(&self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let close = async {
            if self.send(Some(Message::Close(Some(frame)))).await.is_ok() {
                // Until the client's own close frame.
                while let Some(Ok(_)) =
                    poll_fn(|context| self.writer().socket.poll_next(context)).await
                {
                }
            }
            let shut_down = |context: &mut Context<'_>| self.writer().socket.poll_shutdown(context);
            // After what the client still sends.
            let _ = poll_fn(shut_down).await;
        };
        // A client that does not take part is cut off.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }

    /// Closes as the client's end asks for.
    async fn close_after(&self, ended: Ended) {
        if let Ended::Refused(code, reason) = ended {
            self.close(code, reason).await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> DirectWriter for SharedSocket<S> {
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool {
        let mut writer = self.writer();
        if writer.writing || writer.delivered {
            return false;
        }
        let Some(token) = self.encoder.open(key, payload) else { return false };
        let mut context = Context::from_waker(Waker::noop());
        if !matches!(writer.socket.poll_ready(&mut context), Poll::Ready(Ok(()))) {
            return false;
        }
        if writer.socket.start_send(token.frame::<Upgrade>(), &mut context).is_err() {
            return false;
        }
        writer.delivered = true;
        // The task, which is woken next, sends the rest or finds the error.
        let _ = writer.socket.poll_flush(&mut context);
        drop(writer);
        token.done();
        true
    }
}

/// What happens in a wait.
enum Event {
    /// The wait may be over.
    Signalled,
    /// A heartbeat is due, or the session expires.
    Due,
    Received(Result<Received, Ended>),
}

/// Waits for the outcome, sends it, and closes once the client has it.
///
/// The room of every waiting socket is counted: there is one timer, and what few sockets do, or do once,
/// is boxed.
async fn stream<S>(socket: &Arc<SharedSocket<S>>, wait: &mut Wait)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    wait.set_direct_writer(Arc::clone(socket) as Arc<dyn DirectWriter>);
    let mut timer = pin!(tokio::time::sleep_until(wait.deadline()));
    // A client that sent nothing between two pings is gone.
    let mut answered = true;
    // Pings and pongs since the last ping.
    let mut heartbeats = 0;
    // A token that was written directly may be acknowledged before this task is woken.
    let mut acknowledged_early = false;
    let outcome = loop {
        let received = match poll_fn(|context| poll_event(socket, wait, timer.as_mut(), context))
            .await
        {
            Event::Received(received) => received,
            Event::Due if !wait.has_expired(Instant::now()) => {
                // What arrived in time counts, even where it is read only now.
                let received =
                    |context: &mut Context<'_>| Poll::Ready(socket.writer().poll_receive(context));
                let received = poll_fn(received).await;
                if received.is_pending() && !answered {
                    return;
                }
                wait.take_heartbeat(Instant::now());
                timer.as_mut().reset(wait.deadline());
                (answered, heartbeats) = (false, 0);
                if !socket.ping(wait.heartbeat_interval()).await {
                    return;
                }
                let Poll::Ready(received) = received else { continue };
                received
            }
            Event::Signalled | Event::Due => match Box::pin(wait.check()).await {
                Some(outcome) => break outcome,
                None => continue,
            },
        };
        match received {
            // Before anything is delivered there is nothing to acknowledge.
            Ok(Received::Acknowledgement) => acknowledged_early = socket.is_delivered(),
            Ok(Received::Heartbeat) if heartbeats < MAX_HEARTBEATS => heartbeats += 1,
            Ok(Received::Heartbeat) => return Box::pin(socket.close_after(TOO_MANY_PINGS)).await,
            Err(ended) => return Box::pin(socket.close_after(ended)).await,
        }
        answered = true;
    };
    Box::pin(finish(socket, wait, outcome, acknowledged_early)).await;
}

fn poll_event<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &SharedSocket<S>,
    wait: &Wait,
    timer: Pin<&mut Sleep>,
    context: &mut Context<'_>,
) -> Poll<Event> {
    if !wait.wake_by(context.waker()) {
        return Poll::Ready(Event::Signalled);
    }
    if timer.poll(context).is_ready() {
        return Poll::Ready(Event::Due);
    }
    socket.writer().poll_receive(context).map(Event::Received)
}

/// Sends the outcome, unless it is written, and closes once the client has it.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &SharedSocket<S>,
    wait: &Wait,
    outcome: Outcome,
    acknowledged_early: bool,
) {
    if outcome != Outcome::WrittenDirectly {
        let message = wait.message(outcome);
        let (code, reason) = match message {
            StreamMessage::Nothing => return socket.close(code::DONE, "acknowledged").await,
            StreamMessage::Reconnect => return socket.close(code::RESTART, "restart").await,
            StreamMessage::Expired => (code::EXPIRED, "expired"),
            StreamMessage::Authenticated { .. } | StreamMessage::Failed(_) => (code::DONE, "done"),
        };
        let frame = Upgrade::message(wait.session().key, &message);
        if socket.send(Some(frame)).await.is_err() {
            return;
        }
        if !matches!(message, StreamMessage::Authenticated { .. }) {
            return socket.close(code, reason).await;
        }
    }
    let acknowledged = if acknowledged_early { Ok(()) } else { acknowledgement(socket).await };
    match acknowledged {
        Ok(()) => {
            let (session, session_token) = (wait.session(), wait.session_token());
            let app = socket.encoder.app();
            if let Err(problem) = app.end_session(session, session_token, &Trace::none()).await {
                tracing::debug!(session = %session.key, ?problem, "acknowledgement not stored");
            }
            socket.close(code::DONE, "done").await;
        }
        Err(ended) => socket.close_after(ended).await,
    }
}

/// Waits until the client has the token and acknowledges it.
async fn acknowledgement<S>(socket: &SharedSocket<S>) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let wait = async {
        socket.sent().await?;
        for _ in 0..MAX_HEARTBEATS {
            if let Received::Acknowledgement = socket.receive().await? {
                return Ok(());
            }
        }
        Err(TOO_MANY_PINGS)
    };
    match tokio::time::timeout(ACK_TIMEOUT, wait).await {
        Ok(ended) => ended,
        // It has the token; the session ends by itself.
        Err(_) => Err(Ended::Refused(code::DONE, "done")),
    }
}

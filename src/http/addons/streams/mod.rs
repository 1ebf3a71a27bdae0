//! Streams: the transports by which a waiting client is sent the outcome of its session.
//!
//! A transport is an implementation of [`Transport`] in a file of its own, and a line in each of
//! [`TRANSPORTS`], [`CHANNELS`] and [`endpoints`]. One that streams the body of a response
//! implements [`body::BodyTransport`] as well.

pub mod body;
pub mod credentials;
pub mod long_poll;
pub mod message;
pub mod message_socket;
pub mod sse;
pub mod wait;
pub mod websocket;

use axum::response::Response;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

pub use self::{
    credentials::Credentials,
    message::{DirectDelivery, Encoder, StreamMessage},
    wait::{Wait, WaitEvent},
};

use crate::{
    http::{
        AppState,
        error::Problem,
        methods::{Also, MethodsExt as _},
    },
    relay::Delivery,
    session::SessionKey,
    telemetry::Trace,
};

/// Labels of the transports in the metrics.
pub const TRANSPORTS: [&str; 3] =
    [sse::EventSource::NAME, websocket::Upgrade::NAME, long_poll::LongPoll::NAME];

/// Transports that push, as the AsyncAPI document describes them.
pub const CHANNELS: [Channel; 2] = [sse::CHANNEL, websocket::CHANNEL];

/// The endpoints of streams. The long poll is a method of the session's resource.
pub fn endpoints() -> OpenApiRouter<AppState> {
    const CORS: &[Also] = &[Also::Options];
    OpenApiRouter::default().routes(routes!(sse::events).answering(CORS)).routes(
        routes!(websocket::websocket)
            // WebSocket over HTTP/2 (RFC 8441 §4).
            .map(|routes| routes.connect(websocket::websocket))
            .answering(CORS),
    )
}

/// A way to send the outcome of a session to a client that waits. A value is one request for it.
pub trait Transport: Sized + Send {
    /// Label in the metrics.
    const NAME: &'static str;

    /// What is sent at a time.
    type Frame;

    /// Answers a client that was admitted, at once or when the wait is over.
    fn accept(self, wait: Wait) -> impl Future<Output = Result<Response, Problem>> + Send;

    /// Sends that nothing has happened, which keeps the connection open.
    fn heartbeat() -> Self::Frame;

    /// Sends the message that ends the wait for `session`.
    fn message(session: SessionKey, message: &StreamMessage) -> Self::Frame;

    /// Refuses a client, where the status of the response is not what tells it.
    ///
    /// # Errors
    /// `problem`, where it is.
    fn refuse(
        self,
        _app: AppState,
        problem: Problem,
    ) -> impl Future<Output = Result<Response, Problem>> + Send {
        std::future::ready(Err(problem))
    }

    /// Answers a request that has no need to wait.
    ///
    /// # Errors
    /// 401, 404, 410, 503 as problem details.
    fn answer_now(
        &self,
        _app: &AppState,
        _credentials: Credentials,
        _trace: &Trace,
    ) -> impl Future<Output = Result<Option<Response>, Problem>> + Send {
        std::future::ready(Ok(None))
    }

    /// What delivering the token over this transport does to the session.
    fn delivery(_credentials: Credentials) -> Delivery {
        Delivery::UntilAcknowledged
    }
}

/// Serves a client over `transport`: checks its credentials, waits and answers.
///
/// # Errors
/// What [`Transport::refuse`] leaves to the status of the response.
pub async fn serve<T: Transport>(
    app: AppState,
    credentials: Result<Credentials, Problem>,
    transport: T,
    trace: &Trace,
) -> Result<Response, Problem> {
    let credentials = match credentials {
        Ok(credentials) => credentials,
        Err(problem) => return transport.refuse(app, problem).await,
    };
    if let Some(response) = transport.answer_now(&app, credentials, trace).await? {
        return Ok(response);
    }
    let Credentials { session, session_token } = credentials;
    let relay = app.relay.in_trace(trace);
    match relay.open(session, session_token, T::delivery(credentials)).await {
        Ok(subscription) => {
            transport.accept(Wait::new(app, T::NAME, subscription, trace.link())).await
        }
        Err(error) => transport.refuse(app, error.into()).await,
    }
}

/// A transport as the AsyncAPI document describes it.
pub struct Channel {
    /// Key of the channel and of its server.
    pub name: &'static str,
    /// Name of the operation that sends.
    pub operation: &'static str,
    /// Path of the endpoint.
    pub path: &'static str,
    /// Title of the channel.
    pub title: &'static str,
    /// Description of the server.
    pub server: &'static str,
    /// How a client connects, what is sent, and how it ends.
    pub description: fn() -> String,
    /// What carries it.
    pub protocol: Protocol,
    /// Whether the payload has the member `type`.
    pub tagged: bool,
}

/// The protocol below a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The body of an HTTP response.
    Http,
    /// A WebSocket (RFC 6455); the client acknowledges on it.
    WebSocket,
}

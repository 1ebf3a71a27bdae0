//! `POST /addons/sessions` creates a session, `DELETE /addons/sessions/{id}` ends it.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    http::{
        App, AppState,
        addons::streams::credentials::Credentials,
        cookies,
        error::Problem,
        middleware::{ClientAddress, LimitedBody},
    },
    relay::{CreateSession, Created},
    session::{Digest, Profile, SECRET_BYTES, SessionId, SessionKey, SessionToken},
    store::Ended,
    telemetry::Trace,
};

/// Longest name that an add-in may give itself, in characters.
const MAX_CLIENT_NAME: usize = 64;

/// Body of the request; an empty body stands for the legacy profile.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// Reading the session will need the session token of the answer.
    #[serde(default)]
    bind: bool,
    /// The dialog shows a user code before the login; needs `bind`.
    #[serde(default)]
    confirm: bool,
    /// The add-in's name, shown to the person.
    client_name: Option<String>,
}

/// A created session.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CreateResponse {
    /// Names the session; in the legacy profile it also reads it.
    session_id: String,
    /// Remaining life in seconds.
    expires_in: u64,
    /// To be opened in the dialog.
    transit_url: String,
    /// Server-sent events.
    events_url: String,
    /// WebSocket.
    websocket_url: String,
    /// Long poll; `DELETE` acknowledges or cancels.
    poll_url: String,
    /// Reads a bound session. Given once.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<String>,
    /// Enters a bound session, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    transit_token: Option<String>,
    /// To be shown beside the dialog when confirmation is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_code: Option<String>,
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<CreateRequest, Problem> {
    if body.is_empty() {
        return Ok(CreateRequest::default());
    }
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"));
    if !json {
        return Err(Problem::UnsupportedMediaType);
    }
    // The parser's own message could repeat what was sent; its position is enough.
    let request: CreateRequest = serde_json::from_slice(body).map_err(|error| {
        Problem::BadRequest(format!(
            "The body is not `{{\"bind\": …, \"confirm\": …, \"client_name\": …}}` \
             (line {}, column {}).",
            error.line(),
            error.column()
        ))
    })?;
    if request.confirm && !request.bind {
        return Err(Problem::BadRequest("`confirm` needs `bind`.".to_owned()));
    }
    if let Some(name) = &request.client_name
        && (name.trim().is_empty()
            || name.chars().count() > MAX_CLIENT_NAME
            || name.chars().any(char::is_control))
    {
        return Err(Problem::BadRequest(format!(
            "`client_name` has 1 to {MAX_CLIENT_NAME} printable characters."
        )));
    }
    Ok(request)
}

/// Creates a session.
///
/// # Errors
/// 400, 403, 413, 415, 429, 503 as problem details.
pub async fn create(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    let request = parse(&headers, &body)?;
    if app.require_bound_sessions && !request.bind {
        return Err(Problem::BoundSessionRequired);
    }
    app.admit_creation(address)?;
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok())
        .filter(|origin| origin.len() <= 256)
        .map(str::to_owned);
    let session_id = SessionId::generate();
    let session_token = request.bind.then(SessionToken::generate);
    let created = app
        .relay
        .in_trace(&trace)
        .create(CreateSession {
            session_id: session_id.clone(),
            session_token: session_token.as_ref().map(SessionToken::digest),
            profile: if request.bind { Profile::Bound } else { Profile::Legacy },
            confirm: request.confirm,
            client_name: request.client_name,
            origin,
            ttl: app.session_ttl,
            transit_token_ttl: app.transit_token_ttl,
            random_bytes: SECRET_BYTES,
            trace: trace.context(),
        })
        .await?;
    app.metrics.session_created();
    trace.adopt(session_id.key(), None);
    tracing::info!(
        target: "audit",
        session = %session_id.key(),
        client = %address.0,
        bound = request.bind,
        "session created"
    );
    Ok(answer(&app, &session_id, session_token.as_ref(), &created))
}

fn answer(
    app: &App,
    session_id: &SessionId,
    session_token: Option<&SessionToken>,
    created: &Created,
) -> Response {
    let id = session_id.expose();
    let transit = match &created.transit_token {
        Some(token) => format!("addons/transit/?transit_token={}", token.expose()),
        None => format!("addons/transit/?session_id={id}"),
    };
    let stream = format!("addons/sessions/{id}");
    let body = CreateResponse {
        session_id: id.to_owned(),
        expires_in: app.session_ttl.as_secs(),
        transit_url: app.public(&transit),
        events_url: app.public(&format!("{stream}/events")),
        websocket_url: app.public_websocket(&format!("{stream}/ws")),
        poll_url: app.public(&stream),
        session_token: session_token.map(|token| token.expose().to_owned()),
        transit_token: created.transit_token.as_ref().map(|token| token.expose().to_owned()),
        user_code: created.user_code.as_ref().map(|code| code.as_str().to_owned()),
    };
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(token) = session_token {
        let name = cookies::reader_name(app, session_id.key());
        let value = token.expose().to_owned();
        let cookie = cookies::set(app, name, value, app.session_ttl, cookies::Reach::Reader);
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Acknowledges a token or cancels a pending session; for one that is over already it is a
/// success as well (RFC 9110 §9.2.2).
///
/// # Errors
/// 401, 404, 503 as problem details.
pub async fn end(
    State(app): State<AppState>,
    Credentials { key, session_token }: Credentials,
    trace: Trace,
) -> Result<Response, Problem> {
    app.end_session(key, session_token, &trace).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    let name = cookies::reader_name(&app, key);
    response
        .headers_mut()
        .insert(header::SET_COOKIE, cookies::delete(&app, name, cookies::Reach::Reader));
    Ok(response)
}

impl App {
    /// Ends a session on its reader's behalf.
    ///
    /// # Errors
    /// When the session or the credentials are unknown, or the store is away.
    pub async fn end_session(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
        trace: &Trace,
    ) -> Result<(), Problem> {
        let ended = self.relay.in_trace(trace).end(key, session_token).await?;
        match ended {
            Ended::Unknown => return Err(Problem::SessionNotFound),
            Ended::Unauthorized => return Err(Problem::ReaderUnauthorized),
            Ended::Acknowledged => tracing::info!(target: "audit", session = %key, "acknowledged"),
            Ended::Cancelled => tracing::info!(target: "audit", session = %key, "cancelled"),
            Ended::Already(_) | Ended::Failed => {}
        }
        Ok(())
    }
}

//! The Meet-compatible surface under `/api/v1.0`: the endpoints of La Suite Meet's Outlook add-in, with
//! the same statuses, on top of the relay's sessions and sign-in.
//!
//! Errors have the shape `{"detail": …}`. Off unless configured. Either the relay has the login of
//! browsers, or the platform keeps it and is asked whose browser calls `exchange`.

mod account;
mod csrf;
mod login;

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::{
    Json,
    extract::{Request, State},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use cookie::{Cookie, SameSite};
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

pub use crate::http::meet::account::Accounts;

use crate::{
    api::{
        Secret,
        meet::{Detail as DetailBody, Exchange, Initialised, Status},
        messages::Waiting,
        paths,
    },
    http::{
        App, AppState, HalfClose,
        addons::streams::{
            self, Credentials, Encoder, StreamMessage, Transport as _, credentials,
            long_poll::LongPoll, sse, websocket,
        },
        cookies,
        error::Problem,
        exchanges::CodeExchanges,
        extract::LimitedBody,
        guesses::{Attempt, Guessed},
        handover,
        meet::account::{AccountError, PlatformAccount},
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        openapi_tags,
        responses::{Details, EVENT_STREAM, statuses},
    },
    oidc::BrowserLogin,
    relay::{CreateSession, Delivery, ReadError},
    session::{
        DialogId, Digest, GoneReason, Outcome, Profile, SessionDetails, SessionId, SessionRef,
        State as SessionState, Surface, TransitToken,
    },
    settings::MeetProof,
    signin::{Admission, Candidate, HookError, NotCompleted},
    store::{Entered, Entry, Peeked, StoreError},
    telemetry::Trace,
    token::{MeetIssuer, TokenResponse},
    util::{clock::UnixTime, network::Network},
};

/// Lifetime of the CSRF cookie; Django's default, a year.
const CSRF_TTL: Duration = Duration::from_secs(31_449_600);

/// Settings of this surface in the form in which it needs them.
pub struct Meet {
    /// Lifetime of a session.
    pub session_ttl: Duration,
    /// Lifetime of a transit token.
    pub transit_token_ttl: Duration,
    /// Makes the add-in's CSRF tokens.
    pub csrf_keys: ArcSwap<CsrfKeys>,
    /// Makes the access tokens.
    pub issuer: ArcSwap<MeetIssuer>,
    /// Random bytes in session ID and transit token.
    pub random_bytes: usize,
    /// Name of the session cookie.
    pub session_id_cookie: String,
    /// Whether the session cookie is `Partitioned`.
    pub partitioned: bool,
    /// Name of the cookie with the CSRF token of `exchange`.
    pub csrf_cookie: String,
    /// The platform's accounts, where the platform has the login of browsers.
    pub accounts: Option<Accounts>,
    /// ID-token claim that becomes `user_id`.
    pub user_id_claim: String,
    /// Where `authenticate` may return to.
    pub return_to: Vec<url::Url>,
    /// Lifetime of the browser login.
    pub login_ttl: Duration,
    /// Whether a logout with `returnTo` continues at the provider.
    pub provider_logout: bool,
    /// Codes that are being exchanged.
    pub exchanges: CodeExchanges,
}

/// Keys of CSRF tokens.
#[derive(Clone)]
pub struct CsrfKeys {
    current: Hmac<Sha256>,
    /// The previous one, and until when its tokens are accepted.
    previous: Option<(Hmac<Sha256>, Instant)>,
}

impl CsrfKeys {
    /// One key.
    pub fn new(current: Hmac<Sha256>) -> Self {
        Self { current, previous: None }
    }

    /// Another key, in use from now on. Tokens made with the previous key are accepted for `keep`.
    #[must_use]
    pub fn followed_by(&self, next: Hmac<Sha256>, keep: Duration) -> Self {
        Self { current: next, previous: Some((self.current.clone(), Instant::now() + keep)) }
    }

    fn make(&self, session_id: &SessionId) -> String {
        mac(&self.current, session_id.expose())
    }

    /// Whether `token` is that of the session whose cookie is `session_id`, letter for letter.
    fn made(&self, session_id: &str, token: &str) -> bool {
        let previous = self.previous.iter().filter(|(_, until)| Instant::now() < *until);
        std::iter::once(&self.current)
            .chain(previous.map(|(key, _)| key))
            .any(|key| mac(key, session_id).as_bytes().ct_eq(token.as_bytes()).into())
    }
}

/// HMAC-SHA256 of a session's ID in lower-case hex.
fn mac(key: &Hmac<Sha256>, session_id: &str) -> String {
    hex::encode(key.clone().chain_update(session_id.as_bytes()).finalize().into_bytes())
}

/// An error in the shape that the add-in expects.
struct Detail {
    status: StatusCode,
    text: Cow<'static, str>,
    /// `WWW-Authenticate` (RFC 9110 §11.6.1).
    challenge: Option<&'static str>,
}

impl IntoResponse for Detail {
    fn into_response(self) -> Response {
        let headers = [(header::CACHE_CONTROL, "no-store")];
        let body = Json(json!({"detail": self.text}));
        let mut response = (self.status, headers, body).into_response();
        if let Some(challenge) = self.challenge {
            let value = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

impl Detail {
    const fn new(status: StatusCode, text: &'static str) -> Self {
        Self { status, text: Cow::Borrowed(text), challenge: None }
    }
}

const MISSING_CREDENTIALS: Detail = Detail::new(StatusCode::UNAUTHORIZED, "Missing credentials.");
const MISSING_CSRF: Detail = Detail::new(StatusCode::BAD_REQUEST, "Missing CSRF token.");
const WRONG_CSRF: Detail = Detail::new(StatusCode::BAD_REQUEST, "Invalid CSRF token.");
const SESSION_NOT_FOUND: Detail = Detail::new(StatusCode::NOT_FOUND, "Session not found.");
const INVALID_SESSION: Detail = Detail::new(StatusCode::BAD_REQUEST, "Invalid or expired session.");
/// With the challenge of the Django service, which no browser asks its person about.
const NOT_LOGGED_IN: Detail = Detail {
    status: StatusCode::UNAUTHORIZED,
    text: Cow::Borrowed("Authentication credentials were not provided."),
    challenge: Some("Session"),
};
const MALFORMED_JSON: Detail = Detail::new(StatusCode::BAD_REQUEST, "JSON parse error.");
const MISSING_TRANSIT: Detail = Detail::new(StatusCode::BAD_REQUEST, "Missing transit_token.");
const INVALID_TRANSIT: Detail =
    Detail::new(StatusCode::BAD_REQUEST, "Invalid or expired transit token.");
const OTHER_NETWORK: Detail =
    Detail::new(StatusCode::FORBIDDEN, "The session was started from another network.");
const UNAVAILABLE: Detail =
    Detail::new(StatusCode::SERVICE_UNAVAILABLE, "The service is unavailable. Try again.");

impl From<csrf::Refusal> for Detail {
    fn from(refusal: csrf::Refusal) -> Self {
        let text = format!("CSRF Failed: {refusal}").into();
        Self { status: StatusCode::FORBIDDEN, text, challenge: None }
    }
}

impl From<AccountError> for Detail {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotLoggedIn => NOT_LOGGED_IN,
            AccountError::Unavailable => UNAVAILABLE,
        }
    }
}

impl From<StoreError> for Detail {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "session store");
        match error {
            StoreError::Unavailable(_) => UNAVAILABLE,
            StoreError::Corrupt(_) => INVALID_SESSION,
        }
    }
}

/// The endpoints of sessions, which pages of allowed origins may call.
pub fn session_endpoints() -> OpenApiRouter<AppState> {
    const CORS: &[Also] = &[Also::Options];
    OpenApiRouter::default()
        .routes(routes!(init).answering(CORS))
        .routes(routes!(poll).answering(CORS))
        .routes(routes!(exchange).answering(CORS))
        .routes(routes!(events).answering(CORS))
        .routes(routes!(socket).map(|routes| routes.connect(socket)).answering(CORS))
        .layer(from_fn(as_detail))
}

/// The endpoints of the browser login.
pub fn login_endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(login::authenticate).answering(&[]))
        .routes(routes!(login::callback, login::callback_form).answering(&[]))
        .routes(routes!(login::logout).answering(&[Also::Head]))
        .routes(routes!(login::logout_callback).answering(&[Also::Head]))
        .layer(from_fn(as_detail))
}

/// Renders a problem in the shape of this surface.
async fn as_detail(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let detail = match &problem {
        Problem::MethodNotAllowed => format!("Method \"{method}\" not allowed."),
        Problem::TooManySessions(_) | Problem::TooManyGuesses(_) => {
            "Request was throttled.".to_owned()
        }
        problem => problem.detail().unwrap_or_else(|| problem.to_string()),
    };
    let body = Json(DetailBody { detail }).into_response();
    response.headers_mut().extend(body.headers().clone());
    *response.body_mut() = body.into_body();
    response
}

impl App {
    /// The surface's settings; its routes exist only when they do.
    fn meet(&self) -> Result<&Meet, Detail> {
        self.meet.as_ref().ok_or(Detail::new(StatusCode::NOT_FOUND, "Not found."))
    }
}

impl Meet {
    /// `csrf_token` of a session: hex HMAC-SHA256 of its ID.
    fn csrf_token(&self, session_id: &SessionId) -> String {
        self.csrf_keys.load().make(session_id)
    }

    /// The session and the credentials of a request of the add-in. A wrong token counts as a guess.
    async fn reader(
        &self,
        app: &App,
        address: ClientAddress,
        headers: &HeaderMap,
        csrf: Option<&str>,
        trace: &Trace,
    ) -> Result<Credentials, Response> {
        let refused = match self.read_credentials(headers, csrf, trace) {
            Ok(reader) => return Ok(reader),
            Err(refused) => refused,
        };
        if refused.text == WRONG_CSRF.text
            && let attempt = Attempt::of_meet(app, Guessed::SessionToken, address)
            && let problem @ Problem::TooManyGuesses(_) =
                attempt.wrong(Problem::ReaderUnauthorized).await
        {
            return Err(problem.into_response());
        }
        Err(refused.into_response())
    }

    fn read_credentials(
        &self,
        headers: &HeaderMap,
        csrf: Option<&str>,
        trace: &Trace,
    ) -> Result<Credentials, Detail> {
        let cookie = cookies::get(headers, &self.session_id_cookie)
            .filter(|value| !value.is_empty())
            .ok_or(MISSING_CREDENTIALS)?;
        let presented = csrf.filter(|token| !token.is_empty()).ok_or(MISSING_CSRF)?;
        if !self.csrf_keys.load().made(&cookie, presented) {
            return Err(WRONG_CSRF);
        }
        let session_id = SessionId::parse(&cookie).map_err(|_| SESSION_NOT_FOUND)?;
        trace.adopt(session_id.key(), None);
        Ok(Credentials {
            session: SessionRef::meet(session_id.key()),
            session_token: Some(Digest::of(presented.as_bytes())),
        })
    }

    fn session_cookie(&self, value: &str, ttl: Duration) -> HeaderValue {
        set_cookie(&self.session_id_cookie, value, ttl, |cookie| {
            cookie.set_http_only(true);
            cookie.set_same_site(SameSite::None);
            // The add-in's page is in a frame of another site.
            cookie.set_partitioned(self.partitioned);
        })
    }
}

fn set_cookie(
    name: &str,
    value: &str,
    ttl: Duration,
    adjust: impl FnOnce(&mut Cookie<'_>),
) -> HeaderValue {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let mut cookie = Cookie::build((name, value))
        .path("/")
        .secure(true)
        .max_age(cookie::time::Duration::seconds(seconds))
        .build();
    adjust(&mut cookie);
    HeaderValue::from_str(&cookie.to_string()).unwrap_or(HeaderValue::from_static(""))
}

fn csrf_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(csrf::HEADER).and_then(|value| value.to_str().ok())
}

/// Creates a session
#[utoipa::path(
    post,
    path = paths::MEET_INIT,
    tag = openapi_tags::MEET,
    responses(
        (
            status = 201, description = "The tokens; the session is a cookie.", body = Initialised,
        ),
        Details<{ statuses(&[429, 500, 503]) }>,
    ),
)]
async fn init(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
) -> Response {
    match try_init(&app, address, &trace, &headers).await {
        Ok(response) => response,
        Err(detail) => detail,
    }
}

async fn try_init(
    app: &App,
    address: ClientAddress,
    trace: &Trace,
    headers: &HeaderMap,
) -> Result<Response, Response> {
    let meet = app.meet().map_err(IntoResponse::into_response)?;
    app.admit_creation(address).map_err(IntoResponse::into_response)?;
    let session_id = SessionId::generate_with(meet.random_bytes);
    let key = session_id.key();
    let csrf_token = meet.csrf_token(&session_id);
    let created = app
        .relay
        .in_trace(trace)
        .create(CreateSession {
            session: key,
            // Reading needs both, so that the cookie alone opens nothing anywhere.
            session_token: Some(Digest::of(csrf_token.as_bytes())),
            profile: Profile::Meet,
            browser: None,
            details: SessionDetails {
                network: Some(Network::of(address.0).to_string()),
                origin: headers
                    .get(header::ORIGIN)
                    .and_then(|value| value.to_str().ok())
                    .filter(|origin| origin.len() <= 256)
                    .map(str::to_owned),
                created_at: Some(UnixTime::now().as_secs()),
                ..SessionDetails::default()
            },
            ttl: meet.session_ttl,
            transit_token_ttl: meet.transit_token_ttl,
            random_bytes: meet.random_bytes,
            trace: trace.context(),
        })
        .await
        .map_err(|error| Detail::from(error).into_response())?;
    let label = app.clients.load().label(Surface::Meet, None);
    app.metrics.session_created(&label);
    trace.adopt(key, None);
    tracing::info!(
        target: "audit",
        session = %key,
        client = %address.0,
        client_id = %label,
        "session created"
    );
    let transit_token =
        created.transit_token.map(|token| token.expose().into()).unwrap_or_default();
    let body = Json(Initialised { transit_token, csrf_token: csrf_token.into() });
    let mut response = (StatusCode::CREATED, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::SET_COOKIE, meet.session_cookie(session_id.expose(), meet.session_ttl));
    Ok(response)
}

/// Polls for the token
#[utoipa::path(
    post,
    path = paths::MEET_POLL,
    tag = openapi_tags::MEET,
    params((
        "X-CSRFToken" = Option<String>, Header, description = "The session's `csrf_token`.",
        example = "<csrf_token>",
    )),
    security(("addons_session" = [])),
    responses(
        (status = 200, description = "The token, once.", body = Polled),
        (status = 202, description = "The sign-in has not ended.", body = Waiting),
        Details<{ statuses(&[400, 401, 404, 429, 500, 503]) }>,
    ),
)]
async fn poll(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    half_close: HalfClose,
    headers: HeaderMap,
) -> Result<Response, Detail> {
    let meet = app.meet()?;
    let csrf = csrf_header(&headers);
    let Credentials { session, session_token } =
        match meet.reader(&app, address, &headers, csrf, &trace).await {
            Ok(credentials) => credentials,
            Err(refusal) => return Ok(refusal),
        };
    let relay = app.relay.in_trace(&trace);
    let (message, handover) = match relay.poll(session, session_token, Delivery::Once).await {
        Ok(None) => return Ok(LongPoll::heartbeat()),
        Ok(Some((outcome @ (Outcome::Token { .. } | Outcome::Failed(_)), handover))) => {
            let encoder = Encoder::new(app.clone(), trace.link());
            (encoder.message(session.key, outcome), handover)
        }
        Err(ReadError::Store(error)) => return Err(error.into()),
        Ok(Some(_)) | Err(_) => return Err(SESSION_NOT_FOUND),
    };
    let StreamMessage::Authenticated { token, .. } = &message else { return Err(INVALID_SESSION) };
    let headers = [(header::CACHE_CONTROL, "no-store")];
    let mut response = (headers, Json(Polled::of(token))).into_response();
    response.headers_mut().insert(header::SET_COOKIE, meet.session_cookie("", Duration::ZERO));
    Ok(handover::completing(response, handover, &half_close))
}

/// The token as the Django service answers it.
#[derive(Serialize, utoipa::ToSchema)]
struct Polled {
    /// `authenticated`.
    state: &'static str,
    /// For `Authorization: Bearer` (RFC 6750).
    access_token: Secret,
    /// `Bearer` unless configured.
    token_type: String,
    /// Lifetime of the token in seconds, from its issue.
    expires_in: u64,
    /// Scopes, separated by spaces.
    scope: String,
}

impl Polled {
    fn of(token: &TokenResponse) -> Self {
        Self {
            state: "authenticated",
            access_token: token.access_token().expose().into(),
            token_type: token.token_type().to_owned(),
            expires_in: token.lifetime().as_secs(),
            scope: token.scope().to_owned(),
        }
    }
}

/// Server-sent events
#[utoipa::path(
    get,
    path = paths::MEET_EVENTS,
    tag = openapi_tags::MEET,
    params((
        "X-CSRFToken" = Option<String>, Header, description = "The session's `csrf_token`.",
        example = "<csrf_token>",
    )),
    security(("addons_session" = [])),
    responses(
        (
            status = 200, description = "As on the native surface.",
            body = String, content_type = EVENT_STREAM,
        ),
        (status = 204, description = "The token was acknowledged."),
        Details<{ statuses(&[400, 401, 404, 429, 500, 503]) }>,
    ),
)]
async fn events(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
    source: sse::EventSource,
) -> Result<Response, Detail> {
    let csrf = csrf_header(&headers);
    let credentials = match app.meet()?.reader(&app, address, &headers, csrf, &trace).await {
        Ok(credentials) => credentials,
        Err(refusal) => return Ok(refusal),
    };
    let served = streams::serve(app, Ok(credentials), source, &trace).await;
    served.map_err(|problem| detail_of(&problem))
}

/// WebSocket
#[utoipa::path(
    get,
    path = paths::MEET_WEBSOCKET,
    tag = openapi_tags::MEET,
    security(("addons_session" = [])),
    responses(
        (
            status = 101,
            description = "As on the native surface; `csrf.<csrf_token>` is a subprotocol.",
        ),
        Details<{ statuses(&[400, 426, 500]) }>,
    ),
)]
async fn socket(
    State(app): State<AppState>,
    upgrade: websocket::Upgrade,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
) -> Result<Response, Detail> {
    let csrf = credentials::offered(&headers)
        .find_map(|offer| offer.strip_prefix("csrf."))
        .or(csrf_header(&headers));
    let credentials = app.meet()?.read_credentials(&headers, csrf, &trace);
    let (credentials, upgrade) = match credentials {
        Ok(credentials) => (Ok(credentials), upgrade),
        Err(Detail { status: StatusCode::NOT_FOUND, .. }) => {
            (Err(Problem::SessionNotFound), upgrade)
        }
        Err(refused) if refused.text == WRONG_CSRF.text => {
            (Err(Problem::ReaderUnauthorized), upgrade.counting(address))
        }
        Err(_) => (Err(Problem::ReaderUnauthorized), upgrade),
    };
    let served = streams::serve(app, credentials, upgrade, &trace).await;
    served.map_err(|problem| detail_of(&problem))
}

fn detail_of(problem: &Problem) -> Detail {
    match problem {
        Problem::SessionNotFound | Problem::ReaderUnauthorized => SESSION_NOT_FOUND,
        Problem::TooManyStreams => {
            Detail::new(StatusCode::TOO_MANY_REQUESTS, "Too many streams on this session.")
        }
        _ => UNAVAILABLE,
    }
}

/// Whether Python takes a value for false.
fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// The transit token of an exchange.
fn transit_token(headers: &HeaderMap, body: &[u8]) -> Result<TransitToken, Detail> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if body.is_empty() {
        return Err(MISSING_TRANSIT);
    }
    if !essence.eq_ignore_ascii_case("application/json") {
        let text = format!("Unsupported media type \"{media_type}\" in request.").into();
        return Err(Detail { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, text, challenge: None });
    }
    let mut members: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| MALFORMED_JSON)?;
    match members.remove("transit_token") {
        Some(Value::String(text)) if !text.is_empty() => {
            TransitToken::parse(&text).map_err(|_| INVALID_TRANSIT)
        }
        Some(value) if !is_falsy(&value) => Err(INVALID_TRANSIT),
        _ => Err(MISSING_TRANSIT),
    }
}

/// The browser that is logged in fulfils the session
#[utoipa::path(
    post,
    path = paths::MEET_EXCHANGE,
    tag = openapi_tags::MEET,
    params((
        "X-CSRFToken" = Option<String>, Header, description = "As in the CSRF cookie.",
        example = "<csrf_token>",
    )),
    request_body(
        content = Exchange, example = json!({ "transit_token": "<transit_token>" }),
    ),
    responses(
        (status = 200, description = "The session has its token.", body = Status),
        Details<{ statuses(&[400, 401, 403, 404, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn exchange(
    State(app): State<AppState>,
    client: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Detail> {
    let ClientAddress(address) = client;
    let meet = app.meet()?;
    let relay = app.relay.in_trace(&trace);
    let login = match &meet.accounts {
        Some(accounts) => {
            // Nobody is logged in without a cookie, whatever else the request lacks.
            if !accounts.has_cookies(&headers) {
                return Err(NOT_LOGGED_IN);
            }
            None
        }
        None => Some(login::logged_in(&app, &trace, &headers).await?),
    };
    check_csrf(&app, meet, &headers, login.as_ref())?;
    let token = transit_token(&headers, &body)?;
    let session = SessionRef::meet(token.session());
    let key = session.key;
    let entry = Entry::TransitToken(token.digest());
    let unknown = async || {
        let attempt = Attempt::of_meet(&app, Guessed::TransitToken, client);
        match attempt.wrong(Problem::NotFound).await {
            problem @ Problem::TooManyGuesses(_) => Ok(problem.into_response()),
            _ => Err(INVALID_TRANSIT),
        }
    };
    let by_address =
        app.settings.meet.as_ref().is_some_and(|settings| settings.proof == MeetProof::Address);
    let mut origin = None;
    if by_address || meet.accounts.is_some() || app.hook.is_some() {
        // Looked at and not consumed: what is refused below leaves it as good as it was.
        match relay.peek(session, entry, None).await? {
            Peeked::Open(info)
                if by_address
                    && info.details.network.as_deref()
                        != Some(Network::of(address).to_string().as_str()) =>
            {
                tracing::warn!(
                    target: "audit",
                    session = %key,
                    client = %address,
                    setting = "MEET_PROOF",
                    "exchange from another network than init"
                );
                return Err(OTHER_NETWORK);
            }
            Peeked::Open(info) => origin = info.details.origin,
            // A second exchange by somebody who is logged in ends the session, below.
            Peeked::Used => {}
            Peeked::NotPending(SessionState::Gone(_)) => return Err(SESSION_NOT_FOUND),
            Peeked::Unknown => return unknown().await,
            Peeked::TransitExpired | Peeked::NotPending(_) => return Err(INVALID_TRANSIT),
        }
    }
    let person = match (&meet.accounts, login) {
        (Some(accounts), _) => {
            Person::of_account(accounts.of(&headers, &trace).await?, accounts.url().as_str())
        }
        (None, Some(login)) => Person::from(login),
        (None, None) => return Err(NOT_LOGGED_IN),
    };
    let issuer = meet.issuer.load();
    let sign_in = app.sign_in(&trace);
    let admission = match sign_in.hook {
        None => Admission::default(),
        Some(hook) => {
            let candidate = person.candidate(issuer.scope(), origin.as_deref());
            match hook.ask(candidate, &trace).await {
                Ok(admission) => admission,
                Err(HookError::Unavailable) => return Err(UNAVAILABLE),
                Err(error @ HookError::Denied { .. }) => {
                    let failure = error.failure();
                    let text = failure.error_description.clone().into();
                    sign_in.fail(session, failure, error.outcome()).await;
                    return Err(Detail { status: StatusCode::FORBIDDEN, text, challenge: None });
                }
            }
        }
    };
    let subject = admission.meet_subject(person.user_id.clone(), issuer.scope());
    // The exchange is the whole dialog: that of another login is a second one, which ends the session,
    // and that of the same login repeats one that did not get far.
    let dialog = DialogId::of_exchange(&person.login, &token.digest());
    match relay.enter(session, entry, dialog).await? {
        Entered::Admitted(info) => trace.adopt(key, info.trace),
        // The token was polled, or taken back, before.
        Entered::NotPending(SessionState::Gone(
            GoneReason::Acknowledged | GoneReason::Replayed,
        )) => return Err(INVALID_TRANSIT),
        Entered::NotPending(SessionState::Gone(_)) => return Err(SESSION_NOT_FOUND),
        // As in the Django service, a second exchange takes the token back.
        Entered::Replayed
        | Entered::NotPending(SessionState::Authenticated | SessionState::Delivered) => {
            tracing::warn!(target: "audit", session = %key, "transit token replayed");
            relay.evict(session, GoneReason::Replayed).await?;
            return Err(INVALID_TRANSIT);
        }
        Entered::Unknown => return unknown().await,
        Entered::TransitExpired | Entered::NotPending(_) => return Err(INVALID_TRANSIT),
    }
    let completed =
        sign_in.complete_with(session, &person.subject, |now| issuer.issue(&subject, now)).await;
    match completed {
        Ok(()) => {
            let headers = [(header::CACHE_CONTROL, "no-store")];
            Ok((headers, Json(json!({"status": "ok"}))).into_response())
        }
        Err(NotCompleted::TooLate | NotCompleted::Already) => Err(SESSION_NOT_FOUND),
        Err(NotCompleted::Store(error)) => Err(error.into()),
        Err(NotCompleted::Issuer(_) | NotCompleted::Refused(_)) => {
            Err(Detail::new(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be issued."))
        }
    }
}

/// The person whose browser calls `exchange`.
struct Person {
    /// Who vouches for the account: the provider, or the URL of the platform's accounts.
    issuer: String,
    /// The account there; names it in the log.
    subject: String,
    user_id: String,
    claims: Map<String, Value>,
    /// Names the login.
    login: String,
}

impl From<BrowserLogin> for Person {
    fn from(login: BrowserLogin) -> Self {
        let BrowserLogin { issuer, subject, user_id, claims, csrf_token: login, .. } = login;
        Self { issuer, subject, user_id, claims, login }
    }
}

impl Person {
    fn of_account(account: PlatformAccount, url: &str) -> Self {
        let PlatformAccount { user_id, fields } = account;
        let (issuer, subject, login) = (url.to_owned(), user_id.clone(), user_id.clone());
        Self { issuer, subject, user_id, claims: fields, login }
    }

    /// What the claims hook is asked. What calls `init` is no registered client, and
    /// nothing shows where it is.
    fn candidate<'p>(&'p self, scope: &'p str, origin: Option<&'p str>) -> Candidate<'p> {
        Candidate {
            iss: &self.issuer,
            sub: &self.subject,
            claims: &self.claims,
            client_id: "addons",
            client_name: None,
            origin,
            origin_proved: false,
            scope,
            acr: None,
            auth_time: None,
        }
    }
}

/// Refuses forged requests as Django does. Where the relay has the login, the token must also be
/// that of this very login, so that a planted cookie is of no use.
fn check_csrf(
    app: &App,
    meet: &Meet,
    headers: &HeaderMap,
    login: Option<&BrowserLogin>,
) -> Result<(), csrf::Refusal> {
    let origin = app.origin();
    let settings = app.settings.meet.as_ref();
    let site = csrf::Site {
        origin: &origin,
        trusted: settings.map_or(&[][..], |settings| &settings.csrf_trusted_origins),
        // Pages of add-ins read sessions; the platform's login is none of their business.
        allowed: if login.is_some() { &app.settings.session.allowed_origins } else { &[] },
        cookie: &meet.csrf_cookie,
        takes_those_of_0_1: login.is_some(),
    };
    let secret = site.check(headers)?;
    let is_of_login = |login: &BrowserLogin| -> bool {
        login.csrf_token.as_bytes().ct_eq(secret.as_bytes()).into()
    };
    if login.is_none_or(is_of_login) { Ok(()) } else { Err(csrf::Refusal::Incorrect) }
}

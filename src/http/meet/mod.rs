//! The Meet-compatible surface under `/api/v1.0`: the endpoints of La Suite Meet's Outlook add-in, with
//! the same statuses, on top of the relay's sessions and sign-in.
//!
//! Errors have the shape `{"detail": …}`. Off unless configured.

mod login;

use std::time::{Duration, Instant};

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
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

use crate::{
    api::{
        meet::{Detail as DetailBody, Exchange, Initialised, Status},
        messages::{PollAnswer, Waiting},
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
        guesses::Guessed,
        handover,
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        openapi_tags,
        responses::{Details, EVENT_STREAM, statuses},
    },
    oidc::BrowserLogin,
    relay::{CreateSession, Delivery, ReadError},
    session::{
        DialogId, Digest, Outcome, Profile, SessionDetails, SessionId, SessionRef,
        State as SessionState, TransitToken,
    },
    settings::MeetProof,
    signin::NotCompleted,
    store::{Entered, Entry, Peeked, StoreError},
    telemetry::Trace,
    token::MeetIssuer,
    util::{clock::UnixTime, network::Network},
};

/// Django's names for the double-submitted token.
const CSRF_COOKIE: &str = "csrftoken";
const CSRF_HEADER: &str = "x-csrftoken";

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
        hex::encode(mac(&self.current, session_id).finalize().into_bytes())
    }

    fn made(&self, session_id: &SessionId, token: &[u8]) -> bool {
        let previous = self.previous.iter().filter(|(_, until)| Instant::now() < *until);
        std::iter::once(&self.current)
            .chain(previous.map(|(key, _)| key))
            .any(|key| mac(key, session_id).verify_slice(token).is_ok())
    }
}

/// HMAC-SHA256 of a session's ID.
fn mac(key: &Hmac<Sha256>, session_id: &SessionId) -> Hmac<Sha256> {
    key.clone().chain_update(session_id.expose().as_bytes())
}

/// An answer in the shape that the add-in expects.
struct Detail(StatusCode, &'static str);

impl IntoResponse for Detail {
    fn into_response(self) -> Response {
        let headers = [(header::CACHE_CONTROL, "no-store")];
        (self.0, headers, Json(json!({"detail": self.1}))).into_response()
    }
}

const MISSING_CREDENTIALS: Detail = Detail(StatusCode::UNAUTHORIZED, "Missing credentials.");
const MISSING_CSRF: Detail = Detail(StatusCode::BAD_REQUEST, "Missing CSRF token.");
const WRONG_CSRF: Detail = Detail(StatusCode::BAD_REQUEST, "Invalid CSRF token.");
const SESSION_NOT_FOUND: Detail = Detail(StatusCode::NOT_FOUND, "Session not found.");
const INVALID_SESSION: Detail = Detail(StatusCode::BAD_REQUEST, "Invalid or expired session.");
const NOT_LOGGED_IN: Detail =
    Detail(StatusCode::UNAUTHORIZED, "Authentication credentials were not provided.");
const MISSING_TRANSIT: Detail = Detail(StatusCode::BAD_REQUEST, "Missing transit_token.");
const INVALID_TRANSIT: Detail =
    Detail(StatusCode::BAD_REQUEST, "Invalid or expired transit token.");
const OTHER_NETWORK: Detail =
    Detail(StatusCode::FORBIDDEN, "The session was started from another network.");
const UNAVAILABLE: Detail =
    Detail(StatusCode::SERVICE_UNAVAILABLE, "The service is unavailable. Try again.");

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
        self.meet.as_ref().ok_or(Detail(StatusCode::NOT_FOUND, "Not found."))
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
        if refused.1 == WRONG_CSRF.1
            && let problem @ Problem::TooManyGuesses(_) =
                app.wrong_guess(Guessed::SessionToken, address, Problem::ReaderUnauthorized)
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
        let session_id = SessionId::parse(&cookie).map_err(|_| SESSION_NOT_FOUND)?;
        let token = hex::decode(presented).map_err(|_| WRONG_CSRF)?;
        if !self.csrf_keys.load().made(&session_id, &token) {
            return Err(WRONG_CSRF);
        }
        trace.adopt(session_id.key(), None);
        Ok(Credentials {
            session: SessionRef::meet(session_id.key()),
            session_token: Some(Digest::of(presented.to_ascii_lowercase().as_bytes())),
        })
    }

    fn session_cookie(&self, value: &str, ttl: Duration) -> HeaderValue {
        set_cookie(&self.session_id_cookie, value, ttl, |cookie| {
            // Partitioned, because the add-in's page sits in a frame of another site.
            cookie.set_http_only(true);
            cookie.set_same_site(SameSite::None);
            cookie.set_partitioned(true);
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
    headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok())
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
    let csrf_token = meet.csrf_token(&session_id);
    let created = app
        .relay
        .in_trace(trace)
        .create(CreateSession {
            session_id: session_id.clone(),
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
    app.metrics.session_created("meet");
    trace.adopt(session_id.key(), None);
    tracing::info!(target: "audit", session = %session_id.key(), client = %address.0, "session created");
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
    params(("X-CSRFToken" = Option<String>, Header, description = "The session's `csrf_token`.")),
    security(("addons_session" = [])),
    responses(
        (status = 200, description = "The token, once.", body = PollAnswer),
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
    let StreamMessage::Authenticated { .. } = &message else { return Err(INVALID_SESSION) };
    let mut response = LongPoll::message(session.key, &message);
    response.headers_mut().insert(header::SET_COOKIE, meet.session_cookie("", Duration::ZERO));
    Ok(handover::completing(response, handover, &half_close))
}

/// Server-sent events
#[utoipa::path(
    get,
    path = paths::MEET_EVENTS,
    tag = openapi_tags::MEET,
    params(("X-CSRFToken" = Option<String>, Header, description = "The session's `csrf_token`.")),
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
        Details<{ statuses(&[400, 500]) }>,
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
        Err(Detail(StatusCode::NOT_FOUND, _)) => (Err(Problem::SessionNotFound), upgrade),
        Err(refused) if refused.1 == WRONG_CSRF.1 => {
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
            Detail(StatusCode::TOO_MANY_REQUESTS, "Too many streams on this session.")
        }
        _ => UNAVAILABLE,
    }
}

#[derive(Deserialize)]
struct AnyExchange {
    transit_token: Option<serde_json::Value>,
}

/// The browser that is logged in fulfils the session
#[utoipa::path(
    post,
    path = paths::MEET_EXCHANGE,
    tag = openapi_tags::MEET,
    params(("X-CSRFToken" = Option<String>, Header, description = "The session's `csrf_token`.")),
    request_body = Exchange,
    responses(
        (status = 200, description = "The session has its token.", body = Status),
        Details<{ statuses(&[400, 401, 403, 404, 413, 429, 500, 503]) }>,
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
    let login = login::logged_in(&app, &trace, &headers).await?;
    let relay = app.relay.in_trace(&trace);
    check_csrf(&app, &headers, &login)?;
    let exchange: AnyExchange = if body.is_empty() {
        AnyExchange { transit_token: None }
    } else {
        serde_json::from_slice(&body)
            .map_err(|_| Detail(StatusCode::BAD_REQUEST, "JSON parse error."))?
    };
    let text = match exchange.transit_token {
        Some(serde_json::Value::String(text)) if !text.is_empty() => text,
        Some(serde_json::Value::String(_) | serde_json::Value::Null) | None => {
            return Err(MISSING_TRANSIT);
        }
        Some(_) => return Err(INVALID_TRANSIT),
    };
    let token = TransitToken::parse(&text).map_err(|_| INVALID_TRANSIT)?;
    let key = token.session();
    // The exchange is the whole dialog: that of another login is a second one, which ends the session,
    // and that of the same login repeats one whose answer was lost.
    let entry = Entry::TransitToken(token.digest());
    let dialog = DialogId::of_exchange(&login.csrf_token, &token.digest());
    let proof = app.settings.meet.as_ref().map(|settings| settings.proof);
    if proof == Some(MeetProof::Address)
        && let Peeked::Open(info) = relay.peek(SessionRef::meet(key), entry, None).await?
        && info.details.network.as_deref() != Some(Network::of(address).to_string().as_str())
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
    match relay.enter(SessionRef::meet(key), entry, dialog).await? {
        Entered::Admitted(info) => trace.adopt(key, info.trace),
        Entered::NotPending(SessionState::Gone(_)) => return Err(SESSION_NOT_FOUND),
        Entered::Replayed => {
            tracing::warn!(target: "audit", session = %key, "transit token replayed");
            return Err(INVALID_TRANSIT);
        }
        Entered::Unknown => {
            let wrong = Problem::NotFound;
            return match app.wrong_guess(Guessed::TransitToken, client, wrong) {
                problem @ Problem::TooManyGuesses(_) => Ok(problem.into_response()),
                _ => Err(INVALID_TRANSIT),
            };
        }
        Entered::TransitExpired | Entered::NotPending(_) => return Err(INVALID_TRANSIT),
    }
    let issuer = meet.issuer.load();
    let completed = app
        .sign_in(&trace)
        .complete_with(SessionRef::meet(key), &login.subject, |now| {
            issuer.issue(&login.user_id, now)
        })
        .await;
    match completed {
        Ok(()) => {
            let headers = [(header::CACHE_CONTROL, "no-store")];
            Ok((headers, Json(json!({"status": "ok"}))).into_response())
        }
        Err(NotCompleted::TooLate | NotCompleted::Already) => Err(SESSION_NOT_FOUND),
        Err(NotCompleted::Store(error)) => Err(error.into()),
        Err(NotCompleted::Issuer(_)) => {
            Err(Detail(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be issued."))
        }
    }
}

/// Django's rules: the header repeats the cookie, and over HTTPS the request must come from a page
/// of ours (Origin, or Referer where the browser sends no Origin). Both must also be the token of
/// this very login, so that a planted cookie is of no use.
fn check_csrf(app: &App, headers: &HeaderMap, login: &BrowserLogin) -> Result<(), Detail> {
    let forbidden = |detail| Detail(StatusCode::FORBIDDEN, detail);
    let ours = |origin: &str| {
        origin == app.public_url.origin().ascii_serialization()
            || app.settings.session.allowed_origins.iter().any(|allowed| allowed == origin)
    };
    match headers.get(header::ORIGIN) {
        Some(origin) if origin.to_str().is_ok_and(ours) => {}
        Some(_) => {
            return Err(forbidden("CSRF Failed: Origin checking failed."));
        }
        None if app.is_https() => {
            let referer = headers
                .get(header::REFERER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| url::Url::parse(text).ok())
                .ok_or(forbidden("CSRF Failed: Referer checking failed - no Referer."))?;
            if !ours(&referer.origin().ascii_serialization()) {
                return Err(forbidden("CSRF Failed: Referer checking failed."));
            }
        }
        None => {}
    }
    let cookie =
        cookies::get(headers, CSRF_COOKIE).ok_or(forbidden("CSRF Failed: CSRF cookie not set."))?;
    let header = csrf_header(headers).ok_or(forbidden("CSRF Failed: CSRF token missing."))?;
    let expected = Digest::of(login.csrf_token.as_bytes());
    let matches = |text: &str| expected.matches(&Digest::of(text.as_bytes()));
    if matches(&cookie) && matches(header) {
        Ok(())
    } else {
        Err(forbidden("CSRF Failed: CSRF token incorrect."))
    }
}

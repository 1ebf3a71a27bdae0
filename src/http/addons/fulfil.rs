//! `POST /addons/fulfil`: a backend that knows the person by other means completes a session of an
//! add-in, and learns whether the result arrived.
//!
//! What the person proved is the backend's responsibility; which sessions it may complete is the
//! operator's decision (`fulfilled_by`). Everything about any other session is unknown to it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts as _, Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    api::{
        backend::{FulfilRequest, FulfilResponse},
        paths,
    },
    http::{
        App, AppState,
        addons::streams::long_poll::{MAX_WAIT, preferred_wait},
        error::{
            Problem,
            ProblemType::{
                BadRequest, BodyTooLarge, InvalidClient, InvalidScope, SessionGone,
                SessionNotFound, SessionNotPending, StoreUnavailable, TooManyGuesses,
                TransitTokenExpired, UnsupportedMediaType,
            },
            Problems, types,
        },
        extract::{self, ClientBasic},
        guesses::{Attempt, Guessed},
        middleware::ClientAddress,
        openapi_tags,
    },
    relay::{Relay, Watch},
    session::{
        ClientId, DialogId, Failure, GoneReason, Identity, Profile, SessionInfo, SessionRef,
        State as SessionState, TransitToken, UserCode,
    },
    settings::Client,
    signin::{NotCompleted, Recipient, SignInOutcome},
    store::{Entry, Peeked},
    telemetry::Trace,
    token::Holder,
};

/// Maximum size of a payload in bytes.
const MAX_PAYLOAD: usize = 16 * 1024;

/// Maximum size of the body: payload, claims and all else.
const MAX_BODY: usize = 40 * 1024;

/// Maximum length of an error code and of its description, in characters.
const MAX_ERROR: usize = 64;
const MAX_DESCRIPTION: usize = 300;

/// What becomes of the session.
enum Act {
    Complete { account: Option<Account>, payload: Option<Map<String, Value>> },
    Fail(Failure),
}

struct Account {
    subject: String,
    claims: Map<String, Value>,
    scope: Option<String>,
}

fn bad(detail: &str) -> Problem {
    Problem::BadRequest(detail.to_owned())
}

impl Act {
    fn of(request: &mut FulfilRequest) -> Result<Self, Problem> {
        let FulfilRequest { subject, claims, scope, payload, error, error_description, .. } =
            std::mem::take(request);
        if let Some(error) = error {
            if subject.is_some() || claims.is_some() || scope.is_some() || payload.is_some() {
                return Err(bad("`error` stands without an account and a payload."));
            }
            let description = error_description.unwrap_or_default();
            // RFC 6749 §4.1.2.1.
            let is_code = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
            if error.is_empty() || error.len() > MAX_ERROR || !error.bytes().all(is_code) {
                return Err(bad("`error` is a code such as `access_denied`."));
            }
            if description.chars().count() > MAX_DESCRIPTION
                || description.chars().any(char::is_control)
            {
                return Err(Problem::BadRequest(format!(
                    "`error_description` has up to {MAX_DESCRIPTION} printable characters."
                )));
            }
            return Ok(Self::Fail(Failure { error, error_description: description }));
        }
        if error_description.is_some() {
            return Err(bad("`error_description` needs `error`."));
        }
        let account = match subject {
            Some(subject) => {
                // OpenID Connect Core §2: no more than 255 ASCII characters.
                let is_subject = subject.bytes().all(|byte| byte.is_ascii_graphic());
                if !(1..=255).contains(&subject.len()) || !is_subject {
                    return Err(bad("`subject` has 1 to 255 visible ASCII characters."));
                }
                Some(Account { subject, claims: claims.unwrap_or_default(), scope })
            }
            None if claims.is_some() || scope.is_some() => {
                return Err(bad("`claims` and `scope` need `subject`."));
            }
            None => None,
        };
        if let Some(payload) = &payload {
            let size = serde_json::to_vec(payload).map_or(usize::MAX, |json| json.len());
            if size > MAX_PAYLOAD {
                return Err(Problem::BodyTooLarge);
            }
        }
        if account.is_none() && payload.is_none() {
            return Err(bad("One of `subject`, `payload` and `error` is needed."));
        }
        Ok(Self::Complete { account, payload })
    }
}

/// The confidential client that calls.
async fn backend(
    app: &App,
    address: ClientAddress,
    headers: &HeaderMap,
) -> Result<Arc<Client>, Problem> {
    let basic = ClientBasic::of(headers).ok().flatten().ok_or(Problem::InvalidClient)?;
    let clients = app.clients.load_full();
    let attempt = Attempt::of_client(app, address, &clients, &basic).admit()?;
    let find = |(id, secret): (Cow<'_, str>, Cow<'_, str>)| clients.authenticate(&id, &secret);
    match basic.readings().find_map(find) {
        Some(client) => {
            attempt.right().await?;
            Ok(Arc::clone(client))
        }
        None => Err(attempt.wrong(Problem::InvalidClient).await),
    }
}

/// A session, as a backend presents it.
struct Presented {
    session: SessionRef,
    entry: Entry,
    backend: DialogId,
    clients: Vec<ClientId>,
}

impl Presented {
    async fn enter(&self, relay: &Relay) -> Result<Peeked<SessionInfo>, Problem> {
        let Self { session, entry, backend, clients } = self;
        Ok(relay.enter_by_backend(*session, *entry, *backend, clients).await?)
    }
}

/// The session of the transit token or the user code.
async fn presented<'a>(
    app: &'a App,
    trace: &Trace,
    address: ClientAddress,
    backend: &Client,
    transit_token: Option<&str>,
    user_code: Option<&str>,
) -> Result<(Presented, Attempt<'a>), Problem> {
    let attempt = |guessed| Attempt::new(app, guessed, address, Some(&backend.id));
    let (session, entry, attempt) = match (transit_token, user_code) {
        (Some(text), None) => {
            let attempt = attempt(Guessed::TransitToken);
            let Ok(token) = TransitToken::parse(text) else {
                return Err(attempt.wrong(Problem::SessionNotFound).await);
            };
            let entry = Entry::TransitToken(token.digest());
            (token.session(), entry, attempt)
        }
        (None, Some(text)) => {
            let attempt = attempt(Guessed::UserCode).reserve().await?;
            let relay = app.relay.in_trace(trace);
            let target = match UserCode::from_typed(text) {
                Some(code) => relay.find_code_for_backend(&code).await?,
                None => None,
            };
            let Some(target) = target else {
                return Err(attempt.wrong(Problem::SessionNotFound).await);
            };
            // A code is good as long as its session.
            let entry = Entry::OpenedDialog(target.transit_token);
            (target.session, entry, attempt)
        }
        _ => return Err(bad("Either `transit_token` or `user_code` is needed.")),
    };
    let clients = app.clients.load();
    let theirs = clients.iter().filter(|client| client.fulfilled_by.contains(&backend.id));
    let presented = Presented {
        session: SessionRef::native(session),
        entry,
        backend: DialogId::of_backend(&backend.id, session),
        clients: theirs.map(|client| client.id.clone()).collect(),
    };
    Ok((presented, attempt))
}

/// A backend completes or fails a session
///
/// The caller is a client with a secret that the session's client names in `fulfilled_by`; a session
/// of any other client is unknown to it. Proof of who the person is, is its duty.
#[utoipa::path(
    post,
    path = paths::FULFIL,
    tag = openapi_tags::API,
    security(("client" = [])),
    params((
        "Prefer" = Option<String>, Header,
        description = "`wait=N` (RFC 7240 §4.3), 0 to 60 seconds: waits for the acknowledgement.",
    )),
    request_body(
        content = FulfilRequest,
        example = json!({ "transit_token": "<transit_token>", "subject": "alice", "payload": { "room": "42" } }),
    ),
    responses(
        (
            status = 200, description = "What became of the session so far.",
            body = FulfilResponse,
        ),
        Problems<{
            types(&[
                BadRequest, InvalidScope, InvalidClient, SessionNotFound, SessionNotPending,
                SessionGone, TransitTokenExpired, BodyTooLarge, UnsupportedMediaType,
                TooManyGuesses, StoreUnavailable,
            ])
        }>,
    ),
)]
pub(super) async fn fulfil(
    State(app): State<AppState>,
    trace: Trace,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let address = ClientAddress::from_request_parts(&mut parts, &app).await?;
    let backend = backend(&app, address, &parts.headers).await?;
    let wait = preferred_wait(&parts.headers).map(|seconds| seconds.min(MAX_WAIT));
    let request = Request::from_parts(parts, body);
    let extract::Json(mut request) =
        extract::Json::<FulfilRequest>::up_to(MAX_BODY, request).await?;
    let (transit_token, user_code) = (request.transit_token.take(), request.user_code.take());
    let act = Act::of(&mut request)?;
    let transit_token = transit_token.as_ref().map(|token| token.expose());
    let (presented, attempt) =
        presented(&app, &trace, address, &backend, transit_token, user_code.as_deref()).await?;
    let relay = app.relay.in_trace(&trace);
    let info = match presented.enter(&relay).await? {
        Peeked::Open(info) => info,
        Peeked::Unknown => {
            return Err(attempt.wrong(Problem::SessionNotFound).await);
        }
        found => {
            attempt.take_back().await;
            return Err(match found {
                Peeked::TransitExpired => Problem::TransitTokenExpired,
                Peeked::NotPending(SessionState::Gone(reason)) => Problem::SessionGone(reason),
                _ => Problem::SessionNotPending,
            });
        }
    };
    attempt.right().await?;
    if info.profile == Profile::Device && matches!(act, Act::Complete { payload: Some(_), .. }) {
        return Err(bad("`payload` is not for a device, which expects a token response."));
    }
    trace.adopt(presented.session.key, info.trace);
    // Before the result is stored, so that no acknowledgement is missed. Without room for it the
    // answer comes at once.
    let watch = match wait {
        Some(seconds) if seconds > 0 => relay.watch(presented.session).await.ok(),
        _ => None,
    };
    let has_failed = matches!(act, Act::Fail(_));
    perform(&app, &trace, &backend, presented.session, info, act).await?;
    tracing::info!(
        target: "audit",
        session = %presented.session.key,
        backend = %backend.id,
        failed = has_failed,
        "session fulfilled by a backend"
    );
    let unwatched = if has_failed { "failed" } else { "authenticated" };
    let mut result = FulfilResponse { state: unwatched.to_owned(), delivered: false };
    if let (Some(watch), Some(seconds)) = (watch, wait)
        && !has_failed
    {
        result = receipt(&presented, &relay, &watch, Duration::from_secs(seconds)).await?;
    }
    let mut response = ([(header::CACHE_CONTROL, "no-store")], Json(result)).into_response();
    let applied = wait.and_then(|seconds| HeaderValue::from_str(&format!("wait={seconds}")).ok());
    if let Some(applied) = applied {
        let name = HeaderName::from_static("preference-applied");
        response.headers_mut().insert(name, applied);
    }
    Ok(response)
}

async fn perform(
    app: &App,
    trace: &Trace,
    backend: &Client,
    session: SessionRef,
    info: SessionInfo,
    act: Act,
) -> Result<(), Problem> {
    let sign_in = app.sign_in(trace);
    let client = info.profile == Profile::Device;
    let recipient = Recipient {
        holder: info.session_token.map(|session_token| Holder { session_token, client }),
        binding: info.details.binding.clone(),
    };
    let completed = match act {
        Act::Fail(failure) => sign_in.reject(session, failure, SignInOutcome::Denied).await,
        Act::Complete { account: None, payload } => {
            let client = info.details.client_id.as_ref();
            let payload = payload.unwrap_or_default();
            let backend = backend.id.as_str();
            sign_in.deliver(session, client, &recipient, payload, backend).await
        }
        Act::Complete { account: Some(account), payload } => {
            let scope = scope(app, &info, account.scope.as_deref())?;
            let identity = Identity {
                idp: Some(backend.id.clone()),
                ..Identity::new(account.subject, account.claims)
                    .signed_in_to(info.details.client_id, scope)
            };
            let completed = sign_in.complete_beside(session, recipient, &identity, payload);
            completed.await.map(|_| ())
        }
    };
    completed.map_err(|error| match error {
        NotCompleted::Already | NotCompleted::TooLate => Problem::SessionNotPending,
        NotCompleted::Store(error) => error.into(),
        NotCompleted::Issuer(_) | NotCompleted::Refused(_) => Problem::Internal,
    })
}

/// The scope of the token: no more than the session may have.
fn scope(
    app: &App,
    info: &SessionInfo,
    requested: Option<&str>,
) -> Result<Option<String>, Problem> {
    let Some(requested) = requested else { return Ok(info.details.scope.clone()) };
    let invalid = || {
        Problem::InvalidScope("The session may not have the scope that is requested.".to_owned())
    };
    let clients = app.clients.load();
    let client = clients.find(info.details.client_id.as_ref().map(ClientId::as_str));
    let client = client.map_err(|_| Problem::UnknownClient)?;
    let granted = client.scope_for(Some(requested)).map_err(|_| invalid())?;
    let within = |scope: &str| match &info.details.scope {
        Some(session) => session.split(' ').any(|own| own == scope),
        None => true,
    };
    if granted.split(' ').all(within) { Ok(Some(granted)) } else { Err(invalid()) }
}

/// Waits up to `wait` for the acknowledgement, and says how far the session came.
async fn receipt(
    presented: &Presented,
    relay: &Relay,
    watch: &Watch,
    wait: Duration,
) -> Result<FulfilResponse, Problem> {
    let deadline = Instant::now() + wait;
    loop {
        let changed = tokio::time::timeout_at(deadline, watch.changed()).await;
        let state = match presented.enter(relay).await? {
            Peeked::NotPending(state) => state,
            // Its time was over.
            _ => SessionState::Gone(GoneReason::Expired),
        };
        let is_over = !matches!(changed, Ok(true));
        let (state, delivered) = match state {
            SessionState::Gone(reason) => ("gone", reason == GoneReason::Acknowledged),
            SessionState::Failed(_) => ("failed", false),
            SessionState::Delivered if is_over => ("delivered", true),
            SessionState::Authenticated | SessionState::Pending if is_over => {
                ("authenticated", false)
            }
            _ => continue,
        };
        return Ok(FulfilResponse { state: state.to_owned(), delivered });
    }
}

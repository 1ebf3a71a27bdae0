//! `POST /addons/token`: an access token for a refresh token (RFC 6749 §6) or a device code
//! (RFC 8628 §3.4).
//!
//! A refresh token of a session is its creator's, whose client ID is the session ID and whose secret
//! is the session token. One of the device authorization grant is also the registered client's.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{TokenResponse, oauth::TokenRequest, paths},
    http::{
        App, AppState, HalfClose,
        error::Problem,
        extract::Form,
        guesses::{Attempt, Guessed},
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        oauth::{
            client::{Caller, Presented, presented},
            device, dpop,
        },
        openapi_tags,
        operator::metrics::RefreshOutcome,
        responses::{FORM, OAuthErrors, statuses},
    },
    session::{ClientId, SessionId, SessionToken, Surface},
    signin::{HookError, NotCompleted},
    telemetry::Trace,
    token::{InvalidProof, Presenter, RefreshError},
    util::clock::UnixTime,
};

/// The endpoint of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(token).answering(&[Also::Options]))
}

/// Why no token is issued.
enum Refused {
    /// The refresh token is not valid.
    Grant(RefreshError),
    /// The request is not.
    Problem(Problem),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Who presents a refresh token: the creator of a session, or a registered client.
async fn presenter(
    app: &App,
    address: ClientAddress,
    presented: &[Presented],
) -> Result<Presenter, Problem> {
    let as_session = |(id, secret): &Presented| {
        let id = SessionId::parse(id.expose()).ok()?;
        let secret = SessionToken::parse(secret.as_ref()?.expose()).ok()?;
        Some(Presenter::Session(id.key(), secret.digest()))
    };
    let clients = app.clients.load_full();
    // A client ID may look like a session ID.
    let registered = presented.iter().any(|(id, _)| clients.find(Some(id.expose())).is_ok());
    if !registered && let Some(session) = presented.iter().find_map(as_session) {
        return Ok(session);
    }
    if presented.is_empty() {
        // A refresh token alone is nobody's.
        return Err(Problem::InvalidClient);
    }
    let Caller { client, .. } = Caller::new(app, address, presented).await?;
    Ok(Presenter::Client(client.id.clone()))
}

/// Why the next token of a grant is not issued; its refresh token stays unused.
fn not_admitted(error: NotCompleted) -> Refused {
    let problem = match error {
        NotCompleted::Refused(error @ HookError::Denied { .. }) => {
            Problem::InvalidGrant(error.failure().error_description)
        }
        NotCompleted::Refused(HookError::Unavailable) => Problem::HookUnavailable,
        error => {
            tracing::error!(%error, "access token not issued");
            Problem::Internal
        }
    };
    Refused::Problem(problem)
}

/// `client` is set to the client of the grant as soon as that is known.
async fn refresh(
    app: &App,
    trace: &Trace,
    address: ClientAddress,
    headers: &HeaderMap,
    form: TokenRequest,
    client: &mut Option<ClientId>,
) -> Result<Response, Refused> {
    let sign_in = app.sign_in(trace);
    let refresh = sign_in.refresh.as_ref().ok_or(Problem::UnsupportedGrantType)?;
    let presented = presented(headers, form.client_id, form.client_secret)?;
    let presenter = presenter(app, address, &presented).await?;
    match &presenter {
        Presenter::Session(session, _) => trace.adopt(*session, None),
        Presenter::Client(id) => *client = Some(id.clone()),
    }
    let token = form
        .refresh_token
        .ok_or_else(|| Problem::BadRequest("missing field `refresh_token`".to_owned()))?;
    let now = UnixTime::now();
    let opened = refresh.open(&app.sealing_keys, token.expose(), now).ok();
    if let Some(grant) = &opened
        && grant.is_held_by(&presenter)
    {
        client.clone_from(&grant.identity.client_id);
    }
    if let Some(grant) = &opened
        && app.logouts.in_trace(trace).cover(grant.signed_in()).await.map_err(Problem::from)?
    {
        // Its access tokens, too, are not valid any more.
        refresh.end(grant.id).await.map_err(Problem::from)?;
        tracing::info!(target: "audit", session = %grant.session(), "grant ended by a logout");
        return Err(Refused::Grant(RefreshError::Ended));
    }
    // Asked before the refresh token is used up, so that it works again when the hook does.
    let proof = dpop::presented(app, headers, &dpop::token_request(app)?, None);
    let proof = proof.map_err(Problem::from)?;
    if let Some(grant) = opened.as_ref().filter(|grant| grant.is_held_by(&presenter)) {
        let clients = app.clients.load();
        let own = clients.find(grant.identity.client_id.as_ref().map(ClientId::as_str));
        let must_be_bound = own.is_ok_and(|client| client.dpop_required);
        match (grant.binding.dpop_key, proof.as_ref().map(|presented| presented.proof.key)) {
            (Some(own), Some(key)) if own != key => {
                return Err(Problem::from(InvalidProof::Key).into());
            }
            (Some(_), None) => return Err(Problem::from(InvalidProof::Missing).into()),
            (None, None) if must_be_bound => {
                return Err(Problem::from(InvalidProof::Missing).into());
            }
            _ => {}
        }
        if let Some(proof) = &proof {
            proof.use_up(app, trace).await?.map_err(Problem::from)?;
        }
    }
    let dpop_key = proof.as_ref().map(|presented| presented.proof.key);
    let admission = match opened {
        Some(grant) if grant.is_held_by(&presenter) => {
            sign_in.admit(&grant.identity).await.map_err(not_admitted)?
        }
        _ => None,
    };
    let keys = &app.sealing_keys;
    let rotated = refresh.rotate(keys, token.expose(), &presenter, dpop_key, now).await;
    let (grant, next) = match rotated {
        Ok(rotated) => rotated,
        Err(RefreshError::Store(error)) => return Err(Problem::from(error).into()),
        Err(error) => {
            if matches!(error, RefreshError::Reused | RefreshError::WrongClient) {
                tracing::warn!(target: "audit", ?presenter, %error, "refresh refused");
            }
            return Err(Refused::Grant(error));
        }
    };
    let token =
        sign_in.refreshed(grant.session(), &grant, next, admission.as_ref()).map_err(|error| {
            tracing::error!(%error, "access token not issued");
            Problem::Internal
        })?;
    let mut response = ([(header::CACHE_CONTROL, "no-store")], Json(token)).into_response();
    dpop::set_nonce(&mut response, proof.and_then(|proof| proof.next_nonce(app)));
    Ok(response)
}

/// An access token for a refresh token (RFC 6749 §6) or a device code (RFC 8628 §3.4)
///
/// A refresh token that was sent is used up. For a device code, `Prefer: wait=N` (0 to 60 seconds)
/// holds the request while the person has not decided.
#[utoipa::path(
    post,
    path = paths::TOKEN,
    tag = openapi_tags::ADD_IN,
    security((), ("client" = []), ("session_as_client" = [])),
    params(("Prefer" = Option<String>, Header, description = "`wait=N` (RFC 7240 §4.3).")),
    request_body(
        content = TokenRequest, content_type = FORM,
        examples(
            ("device" = (
                summary = "The token of a device code:",
                value = json!({
                    "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                    "device_code": "<device_code>", "client_id": "<client_id>",
                }),
            )),
            ("refresh" = (
                summary = "The next token, with the refresh token of a session:",
                value = json!({
                    "grant_type": "refresh_token", "refresh_token": "<refresh_token>",
                    "client_id": "<session_id>", "client_secret": "<session_token>",
                }),
            )),
        ),
    ),
    responses(
        (status = 200, description = "The tokens.", body = TokenResponse),
        OAuthErrors<{ statuses(&[400, 401, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn token(
    State(app): State<AppState>,
    trace: Trace,
    address: ClientAddress,
    half_close: HalfClose,
    headers: HeaderMap,
    Form(form): Form<TokenRequest>,
) -> Response {
    match form.grant_type.as_str() {
        "refresh_token" => {}
        device::GRANT_TYPE => {
            return device::token(&app, &trace, address, &headers, half_close, form).await;
        }
        _ => return Problem::UnsupportedGrantType.into_response(),
    }
    let mut client = None;
    let refreshed = refresh(&app, &trace, address, &headers, form, &mut client).await;
    let (outcome, response) = match refreshed {
        Ok(response) => (RefreshOutcome::Refreshed, response),
        Err(Refused::Grant(error)) => {
            let problem = Problem::InvalidGrant(error.to_string());
            let (outcome, problem) = match error {
                RefreshError::Reused => (RefreshOutcome::Reused, problem),
                RefreshError::Invalid | RefreshError::WrongClient => {
                    let attempt =
                        Attempt::new(&app, Guessed::RefreshToken, address, client.as_ref());
                    (RefreshOutcome::Refused, attempt.wrong(problem).await)
                }
                _ => (RefreshOutcome::Refused, problem),
            };
            (outcome, problem.into_response())
        }
        Err(Refused::Problem(problem)) => {
            let outcome = match problem.status().is_server_error() {
                true => RefreshOutcome::Failed,
                false => RefreshOutcome::Refused,
            };
            (outcome, problem.into_response())
        }
    };
    let client = app.clients.load().label(Surface::Native, client.as_ref());
    app.metrics.refresh(&client, outcome);
    dpop::with_nonce(&app, response)
}

//! `POST /addons/token`: a new access token for a refresh token (RFC 6749 §6), without a dialog.
//!
//! The client is the session's creator: its ID is the session ID, its secret the session token.

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
        App, AppState,
        error::Problem,
        extract::{ClientBasic, Form},
        guesses::Guessed,
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        openapi_tags,
        operator::metrics::RefreshOutcome,
        responses::{FORM, OAuthErrors, statuses},
    },
    session::{SessionId, SessionToken},
    telemetry::Trace,
    token::RefreshError,
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

/// The client's session and session token: HTTP Basic, or form fields (RFC 6749 §2.3.1), not both.
fn client(headers: &HeaderMap, form: &TokenRequest) -> Result<(SessionId, SessionToken), Problem> {
    let parse = |id: &str, secret: &str| {
        SessionId::parse(id)
            .ok()
            .zip(SessionToken::parse(secret).ok())
            .ok_or(Problem::InvalidClient)
    };
    match ClientBasic::of(headers).map_err(|_| Problem::InvalidClient)? {
        Some(_) if form.client_secret.is_some() => {
            Err(Problem::BadRequest("The client authenticates in one way, not two.".to_owned()))
        }
        Some(basic) => {
            let mut readings = basic.readings().map(|(id, secret)| parse(&id, &secret));
            readings.find(Result::is_ok).unwrap_or(Err(Problem::InvalidClient))
        }
        None => {
            let (id, secret) = form
                .client_id
                .as_ref()
                .zip(form.client_secret.as_ref())
                .ok_or(Problem::InvalidClient)?;
            parse(id.expose(), secret.expose())
        }
    }
}

async fn refresh(
    app: &App,
    trace: &Trace,
    headers: &HeaderMap,
    form: Result<Form<TokenRequest>, Problem>,
) -> Result<Response, Refused> {
    let sign_in = app.sign_in(trace);
    let refresh = sign_in.refresh.as_ref().ok_or(Problem::NotFound)?;
    let Form(form) = form?;
    if form.grant_type != "refresh_token" {
        return Err(Problem::UnsupportedGrantType.into());
    }
    let (session, secret) = client(headers, &form)?;
    trace.adopt(session.key(), None);
    let token = form
        .refresh_token
        .ok_or_else(|| Problem::BadRequest("missing field `refresh_token`".to_owned()))?;
    let now = UnixTime::now();
    if let Ok(grant) = refresh.open(&app.sealing_keys, token.expose(), now)
        && app.logouts.in_trace(trace).cover(grant.signed_in()).await.map_err(Problem::from)?
    {
        // Its access tokens, too, are not valid any more.
        refresh.end(grant.id).await.map_err(Problem::from)?;
        tracing::info!(target: "audit", session = %session.key(), "grant ended by a logout");
        return Err(Refused::Grant(RefreshError::Ended));
    }
    let rotated = refresh
        .rotate(&app.sealing_keys, token.expose(), session.key(), secret.digest(), now)
        .await;
    let (grant, next) = match rotated {
        Ok(rotated) => rotated,
        Err(RefreshError::Store(error)) => return Err(Problem::from(error).into()),
        Err(error) => {
            if matches!(error, RefreshError::Reused | RefreshError::WrongClient) {
                tracing::warn!(target: "audit", session = %session.key(), %error, "refresh refused");
            }
            return Err(Refused::Grant(error));
        }
    };
    let token = sign_in.refreshed(session.key(), &grant, next).map_err(|error| {
        tracing::error!(%error, "access token not issued");
        Problem::Internal
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(token)).into_response())
}

/// A new access token for a refresh token (RFC 6749 §6)
#[utoipa::path(
    post,
    path = paths::TOKEN,
    tag = openapi_tags::ADD_IN,
    security(("session_as_client" = [])),
    request_body(content = TokenRequest, content_type = FORM),
    responses(
        (
            status = 200, description = "The tokens; the refresh token that was sent is used up.",
            body = TokenResponse,
        ),
        OAuthErrors<{ statuses(&[400, 401, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn token(
    State(app): State<AppState>,
    trace: Trace,
    address: ClientAddress,
    headers: HeaderMap,
    form: Result<Form<TokenRequest>, Problem>,
) -> Response {
    let (outcome, response) = match refresh(&app, &trace, &headers, form).await {
        Ok(response) => (RefreshOutcome::Refreshed, response),
        Err(Refused::Grant(error)) => {
            let problem = Problem::InvalidGrant(error.to_string());
            let (outcome, problem) = match error {
                RefreshError::Reused => (RefreshOutcome::Reused, problem),
                RefreshError::Invalid | RefreshError::WrongClient => {
                    let problem = app.wrong_guess(Guessed::RefreshToken, address, problem);
                    (RefreshOutcome::Refused, problem)
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
    app.metrics.refresh(outcome);
    response
}

//! `POST /addons/token`: a new access token for a refresh token (RFC 6749 §6), without a dialog.
//!
//! The client is the session's creator: its ID is the session ID, its secret the session token.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{
    http::{
        App, AppState,
        dialog::single,
        error::Problem,
        middleware::LimitedBody,
        oauth::{client_credentials, resource},
        operator::metrics::RefreshOutcome,
    },
    session::{SessionId, SessionToken},
    telemetry::Trace,
    token::RefreshError,
    util::clock::UnixTime,
};

/// Why no token is given (RFC 6749 §5.2).
enum Refused {
    InvalidRequest(&'static str),
    InvalidClient,
    InvalidGrant(RefreshError),
    UnsupportedGrantType,
    /// Nothing that the client did.
    Problem(Problem),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, error, title, detail) = match self {
            Self::Problem(problem) => return problem.into_response(),
            Self::InvalidRequest(detail) => {
                (StatusCode::BAD_REQUEST, "invalid_request", "Bad request", detail.to_owned())
            }
            Self::InvalidClient => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "Client credentials missing or wrong",
                "The client is the session: its ID and its session token.".to_owned(),
            ),
            Self::InvalidGrant(error) => (
                StatusCode::BAD_REQUEST,
                "invalid_grant",
                "Refresh token not valid",
                error.to_string(),
            ),
            Self::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "Grant type not supported",
                "The grant type is `refresh_token`.".to_owned(),
            ),
        };
        // The members of RFC 6749 for OAuth clients, those of RFC 9457 for everybody else.
        let body = json!({
            "error": error,
            "error_description": detail,
            "type": format!("urn:token-relay:problem:{}", error.replace('_', "-")),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"session\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The client's session and session token: HTTP Basic, or form fields (RFC 6749 §2.3.1), not both.
fn client(headers: &HeaderMap, form: Option<&str>) -> Result<(SessionId, SessionToken), Refused> {
    let (id, secret) = if headers.contains_key(header::AUTHORIZATION) {
        if single(form, "client_secret").is_some() {
            return Err(Refused::InvalidRequest("The client authenticates in one way, not two."));
        }
        client_credentials::basic(headers).pop().ok_or(Refused::InvalidClient)?
    } else {
        single(form, "client_id")
            .zip(single(form, "client_secret"))
            .ok_or(Refused::InvalidClient)?
    };
    match (SessionId::parse(&id), SessionToken::parse(&secret)) {
        (Ok(id), Ok(secret)) => Ok((id, secret)),
        _ => Err(Refused::InvalidClient),
    }
}

async fn refresh(
    app: &App,
    trace: &Trace,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, Refused> {
    let sign_in = app.sign_in(trace);
    let refresh = sign_in.refresh.as_ref().ok_or(Refused::Problem(Problem::NotFound))?;
    let form = resource::form(headers, body)
        .ok_or(Refused::InvalidRequest("Send `grant_type` and `refresh_token` as a form."))?;
    match single(Some(form), "grant_type").as_deref() {
        Some("refresh_token") => {}
        Some(_) => return Err(Refused::UnsupportedGrantType),
        None => return Err(Refused::InvalidRequest("Send one `grant_type`.")),
    }
    let (session, secret) = client(headers, Some(form))?;
    trace.adopt(session.key(), None);
    let token = single(Some(form), "refresh_token")
        .ok_or(Refused::InvalidRequest("Send one `refresh_token`."))?;
    let now = UnixTime::now();
    let rotated =
        refresh.rotate(&app.sealing_keys, &token, session.key(), secret.digest(), now).await;
    let (grant, next) = match rotated {
        Ok(rotated) => rotated,
        Err(RefreshError::Store(error)) => return Err(Refused::Problem(error.into())),
        Err(error) => {
            if matches!(error, RefreshError::Reused | RefreshError::WrongClient) {
                tracing::warn!(target: "audit", session = %session.key(), %error, "refresh refused");
            }
            return Err(Refused::InvalidGrant(error));
        }
    };
    let token = sign_in.refreshed(session.key(), &grant, next).map_err(|error| {
        tracing::error!(%error, "access token not issued");
        Refused::Problem(Problem::Internal)
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(token)).into_response())
}

/// `POST /addons/token`.
pub async fn token(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let refreshed = refresh(&app, &trace, &headers, &body).await;
    let outcome = match &refreshed {
        Ok(_) => RefreshOutcome::Refreshed,
        Err(Refused::InvalidGrant(RefreshError::Reused)) => RefreshOutcome::Reused,
        Err(Refused::Problem(_)) => RefreshOutcome::Failed,
        Err(_) => RefreshOutcome::Refused,
    };
    if app.refresh.is_some() {
        app.metrics.refresh(outcome);
    }
    refreshed.unwrap_or_else(IntoResponse::into_response)
}

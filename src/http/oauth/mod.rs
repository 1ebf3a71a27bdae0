//! Endpoints for APIs and OAuth clients: token, introspection, revocation, metadata.

mod client;
mod device;
mod dpop;
mod logout;
mod resource;
mod token;

use axum::{
    Json,
    middleware::map_response,
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

pub use self::resource::well_known;

use crate::{
    api::oauth::OAuthError,
    http::{AppState, error::Problem},
};

/// The endpoints of this folder that pages of allowed origins may call.
pub fn endpoints() -> OpenApiRouter<AppState> {
    let oauth = resource::client_endpoints().merge(token::endpoints()).merge(device::endpoints());
    resource::endpoints().merge(oauth.layer(map_response(as_oauth_error)))
}

/// What the OpenID provider calls.
pub fn provider_endpoints() -> OpenApiRouter<AppState> {
    logout::endpoints().layer(map_response(as_oauth_error))
}

/// Renders a problem as RFC 6749 §5.2 says, with the members of RFC 9457 beside.
async fn as_oauth_error(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let details = problem.details();
    let detail = details.detail.unwrap_or_else(|| details.title.clone());
    let body = OAuthError {
        error: code(&problem).to_owned(),
        error_description: detail.clone(),
        r#type: details.r#type,
        title: details.title,
        status: details.status,
        detail,
    };
    let body = Json(body).into_response();
    response.headers_mut().extend(body.headers().clone());
    *response.body_mut() = body.into_body();
    response
}

/// The error code of RFC 6749 §5.2 or RFC 8628 §3.5, or of RFC 6749 §4.1.2.1 where those have none.
fn code(problem: &Problem) -> &'static str {
    match problem {
        Problem::InvalidClient => "invalid_client",
        Problem::InvalidGrant(_) => "invalid_grant",
        Problem::InvalidDpopProof(_) => "invalid_dpop_proof",
        Problem::UseDpopNonce => "use_dpop_nonce",
        Problem::UnsupportedGrantType => "unsupported_grant_type",
        Problem::InvalidScope(_) => "invalid_scope",
        Problem::UnauthorizedClient(_) => "unauthorized_client",
        Problem::AuthorizationPending => "authorization_pending",
        Problem::SlowDown(_) => "slow_down",
        Problem::ExpiredToken => "expired_token",
        Problem::SignInFailed(failure) => match failure.error.as_str() {
            "server_error" => "server_error",
            "temporarily_unavailable" => "temporarily_unavailable",
            _ => "access_denied",
        },
        Problem::OriginRefused(_) => "access_denied",
        problem => match problem.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                "temporarily_unavailable"
            }
            status if status.is_server_error() => "server_error",
            _ => "invalid_request",
        },
    }
}

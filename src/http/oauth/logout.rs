//! `POST /addons/backchannel_logout`: the provider ends what a person was granted (OpenID Connect
//! Back-Channel Logout §2.5).

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{Secret, paths},
    http::{
        AppState,
        error::Problem,
        extract::Form,
        methods::MethodsExt as _,
        openapi_tags,
        responses::{FORM, OAuthErrors, statuses},
    },
    session::Digest,
    telemetry::Trace,
};

/// The endpoint of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(backchannel_logout).answering(&[]))
}

/// How long a logout token is remembered, so that a repetition ends no later sign-in. Tokens without
/// `exp` are refused after two minutes; the specification recommends as much for those with one.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The logout request.
#[derive(serde::Deserialize, utoipa::ToSchema)]
struct LogoutForm {
    /// The logout token (§2.4).
    logout_token: Secret,
}

/// Back-channel logout
///
/// Ends the refresh grants and browser logins of the session at the provider that the logout token
/// names, or of all sessions of its subject.
#[utoipa::path(
    post,
    path = paths::BACKCHANNEL_LOGOUT,
    tag = openapi_tags::API,
    request_body(
        content = LogoutForm, content_type = FORM,
        example = json!({ "logout_token": "<logout_token>" }),
    ),
    responses(
        (status = 200, description = "Logged out, now or before."),
        OAuthErrors<{ statuses(&[400, 413, 415, 500, 503]) }>,
    ),
)]
async fn backchannel_logout(
    State(app): State<AppState>,
    trace: Trace,
    Form(form): Form<LogoutForm>,
) -> Result<Response, Problem> {
    let text = form.logout_token.expose();
    let logout = app.login.in_trace(&trace).logout_token(text).await.map_err(|error| {
        let (field, reason) = (error.field.as_deref(), &*error.reason);
        tracing::warn!(field, reason, "logout token refused");
        Problem::BadRequest("The logout token is not accepted.".to_owned())
    })?;
    let (relay, seen) = (app.relay.in_trace(&trace), Digest::of(text.as_bytes()));
    if !relay.store().is_marked(seen).await? {
        let (subject, session_id) = (logout.subject.as_deref(), logout.session_id.as_deref());
        app.logouts.in_trace(&trace).record(&logout.issuer, subject, session_id).await?;
        // All sessions of the person: access tokens, too, end at once.
        if let (Some(subject), None) = (subject, session_id) {
            app.end_account(&trace, subject, "the provider").await?;
        }
        relay.store().mark(seen, REMEMBERED).await?;
        tracing::info!(
            target: "audit",
            subject = logout.subject.map(|subject| format!("{:?}", Digest::of(subject.as_bytes()))),
            "logged out by the provider"
        );
    }
    Ok((StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response())
}

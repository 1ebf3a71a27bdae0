//! The operator's surface: health, readiness, metrics, and whom to tell of a vulnerability.

pub mod metrics;
pub mod page;
pub mod recent;

use std::time::SystemTime;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{
        operator::{Health, Readiness},
        paths,
    },
    http::{
        AppState,
        error::{Problem, ProblemType::NotFound, Problems, types},
        methods::{Also, MethodsExt as _},
        openapi_tags,
    },
    oidc::{ProviderStatus, Severity},
};

/// The endpoints of this folder, with `/metrics` if `metrics`.
pub fn endpoints(metrics: bool) -> OpenApiRouter<AppState> {
    let endpoints = OpenApiRouter::default()
        .routes(routes!(healthz).answering(&[Also::Head]))
        .routes(routes!(readyz).answering(&[Also::Head]))
        .routes(routes!(security_txt).answering(&[Also::Head]));
    if metrics { endpoints.merge(metrics_endpoint()) } else { endpoints }
}

/// `/metrics` alone.
pub fn metrics_endpoint() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(metrics).answering(&[Also::Head]))
}

/// Liveness: the process runs and answers
///
/// Depends on nothing else: instances must not be restarted because their store is unavailable.
#[utoipa::path(
    get,
    path = paths::HEALTHZ,
    tag = openapi_tags::OPERATOR,
    responses(
        (status = 200, description = "The process answers.", body = Health),
        Problems<{ types(&[]) }>,
    ),
)]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Readiness: whether this instance should get traffic
#[utoipa::path(
    get,
    path = paths::READYZ,
    tag = openapi_tags::OPERATOR,
    responses(
        (status = 200, description = "It should.", body = Readiness),
        (status = 503, description = "It should not get traffic; the body says why.", body = Readiness),
        Problems<{ types(&[]) }>,
    ),
)]
async fn readyz(State(app): State<AppState>) -> Response {
    let store = app.relay.store().check().await;
    app.metrics.store_answered(store.is_ok());
    let draining = app.relay.registry().is_draining();
    let ready = store.is_ok() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (provider, provider_problem) = match app.login.status() {
        ProviderStatus::Pending => ("not yet reached", None),
        ProviderStatus::Discovered => ("discovered", None),
        ProviderStatus::Outdated(reason) => ("discovered", Some(reason)),
        ProviderStatus::Failed(reason) => ("discovery failed", Some(reason)),
    };
    let body = Readiness {
        status: if ready { "ready" } else { "not ready" }.to_owned(),
        store: if store.is_ok() { "up" } else { "unavailable" }.to_owned(),
        provider: provider.to_owned(),
        provider_problem,
        provider_warnings: app
            .login
            .findings()
            .iter()
            .filter(|finding| finding.severity > Severity::Note)
            .map(|finding| finding.text.clone())
            .collect(),
        draining,
        streams: app.relay.registry().waiting(),
    };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Media type of `security.txt`.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Whom to tell of a vulnerability (RFC 9116)
///
/// 404 where the operator has configured no contact, or a date that is over.
#[utoipa::path(
    get,
    path = paths::SECURITY_TXT,
    tag = openapi_tags::OPERATOR,
    responses(
        (
            status = 200, description = "Contacts, and when they stop being valid.",
            body = String, content_type = PLAIN_TEXT,
        ),
        Problems<{ types(&[NotFound]) }>,
    ),
)]
async fn security_txt(State(app): State<AppState>) -> Result<Response, Problem> {
    let server = &app.settings.server;
    let expires = server.security_expires.filter(|expires| *expires > SystemTime::now());
    let Some(expires) = expires.filter(|_| !server.security_contact.is_empty()) else {
        return Err(Problem::NotFound);
    };
    let contacts = server.security_contact.iter().map(|contact| format!("Contact: {contact}\n"));
    let text = format!(
        "{}Expires: {}\nCanonical: {}\n",
        contacts.collect::<String>(),
        humantime::format_rfc3339_seconds(expires),
        app.public(paths::SECURITY_TXT)
    );
    Ok(([(header::CONTENT_TYPE, PLAIN_TEXT)], text).into_response())
}

/// Media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics for Prometheus
///
/// Pings the store, so that its state is current at every scrape.
#[utoipa::path(
    get,
    path = paths::METRICS,
    tag = openapi_tags::OPERATOR,
    responses(
        (
            status = 200, description = "OpenMetrics text.",
            body = String, content_type = OPENMETRICS,
        ),
        Problems<{ types(&[]) }>,
    ),
)]
async fn metrics(State(app): State<AppState>) -> Response {
    let store = app.relay.store();
    app.metrics.store_answered(store.check().await.is_ok());
    let text = app.metrics.encode(store.session_count());
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

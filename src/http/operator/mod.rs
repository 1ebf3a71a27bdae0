//! The operator's surface: health, readiness, metrics.

pub mod metrics;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::json;

use crate::http::AppState;

/// `GET /healthz`: the process runs and answers. Asks nothing of anybody else, so that a store
/// that is away does not get every instance restarted.
pub async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// `GET /readyz`: 200 when this instance should get traffic, 503 with the reason otherwise.
pub async fn readyz(State(app): State<AppState>) -> Response {
    let store = app.relay.store().check().await;
    app.metrics.store_answered(store.is_ok());
    let draining = app.relay.registry().is_draining();
    let ready = store.is_ok() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if ready { "ready" } else { "not ready" },
        "store": if store.is_ok() { "up" } else { "away" },
        "provider": if app.login.is_discovered() { "discovered" } else { "not yet reached" },
        "draining": draining,
        "streams": app.relay.registry().waiting(),
    });
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Media type of the metrics.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`: Prometheus. Asks the store for a sign of life, so that what is said of it is true
/// whoever else asks.
pub async fn metrics(State(app): State<AppState>) -> Response {
    let store = app.relay.store();
    app.metrics.store_answered(store.check().await.is_ok());
    let text = app.metrics.encode(store.session_count());
    ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response()
}

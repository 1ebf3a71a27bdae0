//! Every route of the main listener, and of the one for metrics.

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::http::{
    AppState,
    addons::{sessions, streams},
    assets, dialog,
    docs::{asyncapi, openapi},
    error::Problem,
    meet, middleware,
    oauth::{resource, token as refresh},
    operator,
};

/// Refuses HEAD where GET hands something out or uses something up: a link checker must not.
async fn no_head() -> Problem {
    Problem::MethodNotAllowed
}

/// Everything that is served on the main listener.
pub fn router(app: AppState) -> Router {
    let session = Router::new()
        .route("/addons/sessions", post(sessions::create))
        .route("/addons/sessions/", post(sessions::create))
        .route(
            "/addons/sessions/{session_id}",
            get(streams::long_poll::poll).delete(sessions::end).head(no_head),
        )
        .route("/addons/sessions/{session_id}/events", get(streams::sse::events).head(no_head))
        .route(
            "/addons/sessions/{session_id}/ws",
            get(streams::websocket::websocket).connect(streams::websocket::websocket),
        )
        .route("/addons/me", get(resource::me))
        .route("/addons/verify", get(resource::verify))
        .route("/addons/token", post(refresh::token))
        .route("/addons/introspect", post(resource::introspect))
        .route("/addons/revoke", post(resource::revoke))
        // Before the CORS layer, which must see preflight requests first.
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(middleware::cors(&app));
    let dialog = Router::new()
        .route("/addons/transit/", get(dialog::transit).head(no_head))
        .route("/addons/transit", get(dialog::transit).head(no_head))
        .route("/addons/transit/confirm", post(dialog::confirm))
        .route("/callback", get(dialog::callback).head(no_head))
        .route("/addons/redirect", get(dialog::redirect).head(no_head))
        .route("/addons/success", get(dialog::success))
        .route("/addons/error", get(dialog::error));
    let operator = Router::new()
        .route("/.well-known/jwks.json", get(resource::jwks))
        .route("/.well-known/oauth-authorization-server", get(resource::metadata))
        .route("/healthz", get(operator::healthz))
        .route("/readyz", get(operator::readyz))
        .route("/openapi.json", get(openapi::openapi))
        .route("/asyncapi.json", get(asyncapi::asyncapi))
        .route("/docs", get(openapi::docs));
    let mut router =
        session.merge(dialog).merge(operator).merge(assets::router()).merge(app.pages.router());
    if app.meet.is_some() {
        router = router.merge(meet::router(&app));
    }
    if app.metrics_here {
        router = router.route("/metrics", get(operator::metrics));
    }
    #[cfg(feature = "demo")]
    if app.demo_pane {
        router = router.merge(assets::demo_router());
    }
    router = router
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn(middleware::log));
    if app.tracing.is_some() {
        router = router.layer(from_fn_with_state(Arc::clone(&app), middleware::trace));
    }
    router
        .layer(from_fn_with_state(Arc::clone(&app), middleware::security_headers))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .with_state(app)
}

/// What is served on the separate metrics listener.
pub fn metrics_router(app: AppState) -> Router {
    Router::new()
        .route("/metrics", get(operator::metrics))
        .fallback(async || Problem::NotFound)
        .with_state(app)
}

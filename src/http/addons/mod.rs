//! Endpoints for add-ins: sessions and their streams.

pub mod sessions;
pub mod streams;

use utoipa_axum::router::OpenApiRouter;

use crate::http::AppState;

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    sessions::endpoints().merge(streams::endpoints())
}

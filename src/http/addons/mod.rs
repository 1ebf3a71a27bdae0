//! What add-ins call: sessions and their streams; and what their backends call.

mod fulfil;
pub mod sessions;
pub mod streams;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{AppState, methods::MethodsExt as _};

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    sessions::endpoints().merge(streams::endpoints())
}

/// The endpoint for backends, which no page calls.
pub fn backend_endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(fulfil::fulfil).answering(&[]))
}

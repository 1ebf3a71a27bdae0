//! The documentation that the relay serves: OpenAPI and AsyncAPI documents, and both as a page.

mod asyncapi;
mod openapi;
mod page;
mod samples;

use std::sync::Arc;

use axum::{
    Extension, Router,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header};
use url::Url;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::openapi::document;
use crate::{
    api::paths,
    http::{
        AppState,
        error::{Problem, Problems, types},
        methods::{Also, MethodsExt as _},
        openapi_tags,
        pages::Pages,
        responses::{HTML, JSON},
    },
};

/// The documents, as they are served.
pub struct Documents {
    openapi: Option<Bytes>,
    asyncapi: Option<Bytes>,
    page: Option<Bytes>,
    policy: HeaderValue,
}

impl Documents {
    /// Describes `endpoints`, which are reached at `public_url`, in the look of `pages`.
    pub fn new(public_url: &Url, pages: &Pages, endpoints: OpenApi) -> Self {
        let api = document(public_url.as_str(), endpoints);
        Self {
            openapi: rendered(api.to_json()),
            asyncapi: rendered(serde_json::to_string(&asyncapi::document(public_url))),
            page: rendered(page::render(pages.look(), &api)),
            policy: pages.reading_policy(),
        }
    }
}

fn rendered(text: Result<String, impl std::fmt::Display>) -> Option<Bytes> {
    text.map(Bytes::from)
        .inspect_err(|error| tracing::error!(%error, "documentation not rendered"))
        .ok()
}

/// The endpoints of this folder, without their documents.
pub fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(openapi_json).answering(&[Also::Head]))
        .routes(routes!(asyncapi_json).answering(&[Also::Head]))
        .routes(routes!(docs).answering(&[Also::Head]))
}

/// Gives `endpoints` their documents.
pub fn with(documents: Documents, endpoints: Router<AppState>) -> Router<AppState> {
    endpoints.layer(Extension(Arc::new(documents)))
}

fn json(document: Option<Bytes>) -> Result<Response, Problem> {
    let headers = [
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, "public, max-age=300"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    Ok((headers, document.ok_or(Problem::Internal)?).into_response())
}

/// The OpenAPI document
#[utoipa::path(
    get,
    path = paths::OPENAPI,
    tag = openapi_tags::OPERATOR,
    responses(
        (status = 200, description = "OpenAPI 3.1.", body = Object, content_type = JSON),
        Problems<{ types(&[]) }>,
    ),
)]
async fn openapi_json(
    Extension(documents): Extension<Arc<Documents>>,
) -> Result<Response, Problem> {
    json(documents.openapi.clone())
}

/// The AsyncAPI document: event streams and WebSockets
#[utoipa::path(
    get,
    path = paths::ASYNCAPI,
    tag = openapi_tags::OPERATOR,
    responses(
        (status = 200, description = "AsyncAPI 3.0.", body = Object, content_type = JSON),
        Problems<{ types(&[]) }>,
    ),
)]
async fn asyncapi_json(
    Extension(documents): Extension<Arc<Documents>>,
) -> Result<Response, Problem> {
    json(documents.asyncapi.clone())
}

/// Both documents as a page
#[utoipa::path(
    get,
    path = paths::DOCS,
    tag = openapi_tags::OPERATOR,
    responses(
        (status = 200, description = "The page.", body = String, content_type = HTML),
        Problems<{ types(&[]) }>,
    ),
)]
async fn docs(Extension(documents): Extension<Arc<Documents>>) -> Result<Response, Problem> {
    let page = documents.page.clone().ok_or(Problem::Internal)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(HTML)),
        (header::CONTENT_SECURITY_POLICY, documents.policy.clone()),
    ];
    Ok((headers, page).into_response())
}

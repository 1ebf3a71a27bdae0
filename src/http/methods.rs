//! The methods that a route answers, and 405 with `Allow` for all others (RFC 9110 §15.5.6).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use utoipa::openapi::PathItem;
use utoipa_axum::router::UtoipaMethodRouter;

use crate::http::{AppState, error::Problem};

/// Methods that a route answers besides those of its handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Also {
    /// HEAD where it answers GET. Not where GET hands something out: a link checker must not.
    Head,
    /// OPTIONS, in the CORS layer.
    Options,
}

/// Adds the answer 405, with `Allow`, to the routes of `utoipa_axum::routes!`.
pub trait MethodsExt {
    /// Answers the methods of the handlers and `also`, and refuses all others.
    #[must_use]
    fn answering(self, also: &[Also]) -> Self;
}

impl MethodsExt for UtoipaMethodRouter<AppState> {
    fn answering(self, also: &[Also]) -> Self {
        let (schemas, paths, mut routes) = self;
        let mut allowed: Vec<&str> = paths.paths.values().flat_map(methods).collect();
        let gets = allowed.contains(&"GET");
        if gets && also.contains(&Also::Head) {
            allowed.push("HEAD");
        }
        if also.contains(&Also::Options) {
            allowed.push("OPTIONS");
        }
        let allow = HeaderValue::from_str(&allowed.join(", "))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        let refuse = async move || refuse(allow);
        if gets && !also.contains(&Also::Head) {
            routes = routes.head(refuse.clone());
        }
        (schemas, paths, routes.fallback(refuse))
    }
}

fn methods(item: &PathItem) -> impl Iterator<Item = &'static str> + use<> {
    [
        ("GET", item.get.is_some()),
        ("POST", item.post.is_some()),
        ("PUT", item.put.is_some()),
        ("PATCH", item.patch.is_some()),
        ("DELETE", item.delete.is_some()),
    ]
    .into_iter()
    .filter_map(|(method, answered)| answered.then_some(method))
}

fn refuse(allow: HeaderValue) -> Response {
    ([(header::ALLOW, allow)], Problem::MethodNotAllowed).into_response()
}

//! Every route of the main listener, and of the one for metrics.

use std::sync::Arc;

use axum::{Router, middleware::from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::http::{
    App, AppState,
    addons::{self, streams::credentials},
    assets, dialog,
    docs::{self, Documents},
    error::Problem,
    meet, middleware, oauth, operator,
};

/// The surfaces that are off unless configured.
#[derive(Clone, Copy, Debug)]
pub struct Optional {
    /// The meet-compatible surface.
    pub meet: bool,
    /// The login of browsers on it, where the platform does not have it.
    pub meet_login: bool,
    /// `/metrics` on the main listener.
    pub metrics: bool,
}

impl Optional {
    /// All of them.
    pub const ALL: Self = Self { meet: true, meet_login: true, metrics: true };

    fn of(app: &App) -> Self {
        Self {
            meet: app.meet.is_some(),
            meet_login: app.meet.as_ref().is_some_and(|meet| meet.accounts.is_none()),
            metrics: app.settings.server.metrics_listen.is_none(),
        }
    }
}

/// The endpoints, by the layers that they need.
struct Endpoints {
    /// Pages of allowed origins may call these.
    cross_origin: OpenApiRouter<AppState>,
    same_origin: OpenApiRouter<AppState>,
    docs: OpenApiRouter<AppState>,
}

impl Endpoints {
    fn new(optional: Optional) -> Self {
        let mut cross_origin = addons::endpoints().merge(oauth::endpoints());
        let mut same_origin = dialog::endpoints()
            .merge(addons::backend_endpoints())
            .merge(oauth::well_known())
            .merge(oauth::provider_endpoints())
            .merge(operator::endpoints(optional.metrics));
        if optional.meet {
            cross_origin = cross_origin.merge(meet::session_endpoints());
        }
        if optional.meet_login {
            same_origin = same_origin.merge(meet::login_endpoints());
        }
        Self { cross_origin, same_origin, docs: docs::endpoints() }
    }

    fn openapi(&mut self) -> OpenApi {
        let mut openapi = self.cross_origin.to_openapi();
        openapi.merge(self.same_origin.to_openapi());
        openapi.merge(self.docs.to_openapi());
        openapi
    }
}

/// The OpenAPI document of a relay that is reached at the URL `server`.
pub fn openapi(server: &str, optional: Optional) -> OpenApi {
    docs::document(server, Endpoints::new(optional).openapi())
}

/// Everything that is served on the main listener.
pub fn router(app: AppState) -> Router {
    let mut endpoints = Endpoints::new(Optional::of(&app));
    let documents = Documents::new(&app.public_url, &app.pages, endpoints.openapi());
    let count_guesses = from_fn_with_state(Arc::clone(&app), credentials::count_guesses);
    let mut router = Router::from(endpoints.cross_origin)
        .layer((middleware::cors(&app), count_guesses))
        .merge(endpoints.same_origin)
        .merge(docs::with(documents, endpoints.docs.into()))
        .merge(assets::router())
        .merge(app.pages.router());
    if app.settings.server.metrics_listen.is_none() && app.settings.server.operator_token.is_some()
    {
        router = router.merge(operator::page::router(&app));
    }
    if app.meet.is_some() {
        router = router.merge(assets::meet_router());
    }
    #[cfg(feature = "demo")]
    if app.demo_pane {
        router = router.merge(assets::demo_router());
    }
    let surround = from_fn_with_state(Arc::clone(&app), middleware::surround);
    router
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer((CatchPanicLayer::custom(middleware::panicked), surround))
        .with_state(app)
}

/// What is served on the separate metrics listener, the operator's page and health checks included: they
/// answer there also
/// when the main listener is full.
pub fn metrics_router(app: AppState) -> Router {
    Router::from(operator::endpoints(true))
        .merge(operator::page::router(&app))
        .fallback(async || Problem::NotFound)
        .layer(from_fn_with_state(Arc::clone(&app), middleware::surround))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn described() -> Value {
        serde_json::to_value(openapi("http://127.0.0.1/", Optional::ALL)).unwrap()
    }

    /// Every operation, as its method in lower case, its path and what is said of it.
    fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| {
                let operations = item.as_object().unwrap().iter();
                operations
                    .map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
            })
            .collect()
    }

    #[test]
    fn the_document_is_openapi_3_1_and_every_reference_leads_somewhere() {
        let document = described();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["servers"][0]["url"], "http://127.0.0.1");
        let text = document.to_string();
        let references =
            text.split("\"$ref\":\"").skip(1).map(|rest| &rest[..rest.find('"').unwrap()]);
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn operations_have_names_of_their_own_and_links_lead_to_them() {
        let document = described();
        let operations = operations(&document);
        let names: BTreeSet<_> = operations
            .iter()
            .map(|(.., operation)| operation["operationId"].as_str().unwrap())
            .collect();
        assert_eq!(names.len(), operations.len());
        let created = &document["paths"]["/addons/sessions"]["post"]["responses"]["201"];
        let links = created["links"].as_object().unwrap();
        assert_eq!(links.len(), 5);
        for (name, link) in links {
            assert!(names.contains(link["operationId"].as_str().unwrap()), "{name}");
        }
    }

    #[test]
    fn every_operation_is_in_a_group_and_says_what_it_does_and_answers() {
        let document = described();
        let groups: BTreeSet<_> = document["tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| tag["name"].as_str().unwrap())
            .collect();
        for (method, path, operation) in operations(&document) {
            let group = operation["tags"][0].as_str().unwrap();
            assert!(groups.contains(group), "{method} {path}: {group}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
            for requirement in operation["security"].as_array().into_iter().flatten() {
                for scheme in requirement.as_object().unwrap().keys() {
                    let schemes = &document["components"]["securitySchemes"];
                    assert!(schemes.get(scheme).is_some(), "{method} {path}: {scheme}");
                }
            }
            let answers = operation["responses"].as_object().unwrap();
            let describes = |answer: &Value| {
                let shared = answer["$ref"].as_str().and_then(|it| document.pointer(&it[1..]));
                !shared.unwrap_or(answer)["description"].as_str().unwrap().is_empty()
            };
            assert!(answers.len() > 1 && answers.values().all(describes), "{method} {path}");
        }
    }

    #[test]
    fn what_is_off_is_not_described() {
        let none = Optional { meet: false, meet_login: false, metrics: false };
        let document = serde_json::to_value(openapi("/", none)).unwrap();
        let paths = document["paths"].as_object().unwrap();
        for off in ["/metrics", "/api/v1.0/addons/sessions/init/"] {
            assert!(!paths.contains_key(off), "{off}");
        }
        assert!(paths.contains_key("/addons/sessions"));
    }
}

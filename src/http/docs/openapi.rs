//! The OpenAPI 3.1 document: the declarations of the endpoints, and what they have in common.

use utoipa::{
    ToSchema,
    openapi::{
        ContentBuilder, Info, License, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr, Response,
        ResponseBuilder, Schema, ServerBuilder,
        path::Operation,
        schema::ComponentsBuilder,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    api::{ProblemDetails, meet::Detail, oauth::OAuthError},
    http::{
        MAX_FIELDS, MAX_HEAD,
        error::{PROBLEM_JSON, ProblemType},
        openapi_tags,
    },
};

/// How callers authenticate: name, and scheme with a description.
fn security_schemes() -> [(&'static str, SecurityScheme); 5] {
    let http = |scheme, description: &str| {
        SecurityScheme::Http(
            HttpBuilder::new().scheme(scheme).description(Some(description)).build(),
        )
    };
    let cookie = ApiKeyValue::with_description("addonsSid", "Session cookie, with `X-CSRFToken`");
    [
        ("session_token", http(HttpAuthScheme::Bearer, "Session token of a bound session")),
        ("access_token", http(HttpAuthScheme::Bearer, "Access token")),
        ("client", http(HttpAuthScheme::Basic, "Client ID and secret")),
        ("session_as_client", http(HttpAuthScheme::Basic, "Session ID and session token")),
        ("addons_session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie))),
    ]
}

/// Responses to any request, whatever it asks for: their names, statuses and descriptions.
fn common_responses() -> [(&'static str, &'static str, Response); 5] {
    let empty = |description: String| ResponseBuilder::new().description(description).build();
    let problem = |problem: ProblemType| {
        let schema = Ref::from_schema_name("ProblemDetails");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        ResponseBuilder::new().description(problem.meaning()).content(PROBLEM_JSON, content).build()
    };
    [
        ("BadRequest", "400", problem(ProblemType::BadRequest)),
        (
            "HeadTooLarge",
            "431",
            empty(format!(
                "The head of the request is larger than {} KiB, or has more than {MAX_FIELDS} fields.",
                MAX_HEAD / 1024
            )),
        ),
        ("InternalError", "500", problem(ProblemType::Internal)),
        ("TransferCoding", "501", problem(ProblemType::TransferCoding)),
        (
            "Full",
            "503",
            empty("All connections are taken; `Retry-After` says when to retry.".to_owned()),
        ),
    ]
}

fn schema<T: ToSchema>() -> (String, RefOr<Schema>) {
    (T::name().into_owned(), T::schema())
}

/// The document for `endpoints`, which are reached at the URL `server`.
pub fn document(server: &str, endpoints: OpenApi) -> OpenApi {
    let OpenApi { mut paths, components, .. } = endpoints;
    let common = common_responses();
    for (path, item) in &mut paths.paths {
        for (method, operation) in operations_mut(item) {
            operation.operation_id = Some(operation_id(method, path));
            // Where it declares none of its own.
            for (name, status, _) in &common {
                let responses = &mut operation.responses.responses;
                let reference = || Ref::from_response_name(*name).into();
                responses.entry((*status).to_owned()).or_insert_with(reference);
            }
        }
    }
    let mut components = ComponentsBuilder::from(components.unwrap_or_default())
        // Bodies of errors, which the endpoints only refer to.
        .schemas_from_iter([schema::<ProblemDetails>(), schema::<OAuthError>(), schema::<Detail>()])
        .responses_from_iter(common.map(|(name, _, response)| (name, response)));
    for (name, scheme) in security_schemes() {
        components = components.security_scheme(name, scheme);
    }
    let mut info = Info::new("token-relay", env!("CARGO_PKG_VERSION"));
    info.description = Some(env!("CARGO_PKG_DESCRIPTION").to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url(server.trim_end_matches('/')).build()]))
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(openapi_tags::ALL.map(|(name, description)| {
            TagBuilder::new().name(name).description(Some(description)).build()
        })))
        .build()
}

/// The operations of a path, with their methods.
pub(super) fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [("GET", &mut item.get), ("POST", &mut item.post), ("DELETE", &mut item.delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `get_addons_sessions_session_id` and so on: stable, and good as a name in generated clients.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|character: char| !character.is_ascii_alphanumeric());
    std::iter::once(method.to_ascii_lowercase())
        .chain(words.filter(|word| !word.is_empty()).map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

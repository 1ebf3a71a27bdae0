//! `GET /docs`: the OpenAPI and AsyncAPI documents as one page, without JavaScript.

use askama::Template;
use utoipa::openapi::{
    OpenApi, RefOr, Required,
    path::Operation,
    security::{ApiKey, SecurityScheme},
};

use crate::http::{
    addons::streams::websocket,
    assets,
    docs::{
        asyncapi::{self, Message},
        openapi,
    },
    error::ProblemType,
    openapi_tags,
};

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs<'a> {
    base: &'a str,
    version: &'static str,
    assets: String,
    groups: Vec<Group<'a>>,
    messages: Vec<Message>,
    errors: &'static [(&'static str, &'static str)],
    close_codes: &'static [(u16, &'static str)],
    problems: &'static [ProblemType],
}

struct Group<'a> {
    name: &'static str,
    description: &'static str,
    endpoints: Vec<Endpoint<'a>>,
}

struct Endpoint<'a> {
    method: &'static str,
    path: &'a str,
    summary: &'a str,
    description: &'a str,
    credentials: String,
    body: Option<Body<'a>>,
    parameters: Vec<(&'a str, &'a str)>,
    responses: Vec<Response<'a>>,
}

struct Body<'a> {
    contents: Vec<Content<'a>>,
    required: bool,
}

struct Response<'a> {
    status: &'a str,
    meaning: &'a str,
    contents: Vec<Content<'a>>,
}

struct Content<'a> {
    media_type: &'a str,
    /// Name of the schema; none for a text.
    schema: Option<&'a str>,
}

/// The page for an OpenAPI document; `base` is the path of the public URL.
pub fn render(base: &str, api: &OpenApi) -> Result<String, askama::Error> {
    let groups = openapi_tags::ALL.map(|(name, description)| {
        let endpoints = api.paths.paths.iter().flat_map(|(path, item)| {
            openapi::operations(item)
                .filter(|(_, operation)| operation.tags.iter().flatten().any(|tag| tag == name))
                .map(|(method, operation)| endpoint(api, method, path, operation))
        });
        Group { name, description, endpoints: endpoints.collect() }
    });
    Docs {
        base: base.trim_end_matches('/'),
        version: env!("CARGO_PKG_VERSION"),
        assets: assets::version(),
        groups: groups.into_iter().filter(|group| !group.endpoints.is_empty()).collect(),
        messages: asyncapi::messages(),
        errors: &asyncapi::ERRORS,
        close_codes: &websocket::CLOSE_CODES,
        problems: ProblemType::ALL,
    }
    .render()
}

fn endpoint<'a>(
    api: &'a OpenApi,
    method: &'static str,
    path: &'a str,
    operation: &'a Operation,
) -> Endpoint<'a> {
    let parameters =
        operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some((
                parameter.name.as_str(),
                parameter.description.as_deref().unwrap_or_default(),
            )),
            RefOr::Ref(_) => None,
        });
    let body = match &operation.request_body {
        Some(RefOr::T(body)) => Some(Body {
            contents: contents(&body.content),
            required: body.required == Some(Required::True),
        }),
        _ => None,
    };
    let responses =
        operation.responses.responses.iter().filter_map(|(status, response)| match response {
            RefOr::T(response) => Some(Response {
                status,
                meaning: &response.description,
                contents: contents(&response.content),
            }),
            RefOr::Ref(_) => None,
        });
    Endpoint {
        method,
        path,
        summary: operation.summary.as_deref().unwrap_or_default(),
        description: operation.description.as_deref().unwrap_or_default(),
        credentials: credentials(api, operation),
        body,
        parameters: parameters.collect(),
        responses: responses.collect(),
    }
}

fn contents<'a>(
    contents: impl IntoIterator<Item = (&'a String, &'a RefOr<utoipa::openapi::Content>)>,
) -> Vec<Content<'a>> {
    let describe = |(media_type, content): (&'a String, &'a RefOr<_>)| {
        let RefOr::T(utoipa::openapi::Content { schema, .. }) = content else {
            return Content { media_type, schema: None };
        };
        let schema = match schema {
            Some(RefOr::Ref(reference)) => reference.ref_location.rsplit('/').next(),
            _ => None,
        };
        Content { media_type, schema }
    };
    contents.into_iter().map(describe).collect()
}

/// The ways to authenticate, from the security schemes that the operation names.
fn credentials(api: &OpenApi, operation: &Operation) -> String {
    // A requirement has no accessor for its names; its JSON has them as keys.
    let requirements: Vec<Vec<String>> = operation
        .security
        .iter()
        .flatten()
        .filter_map(|requirement| serde_json::to_value(requirement).ok())
        .filter_map(|value| Some(value.as_object()?.keys().cloned().collect()))
        .collect();
    let schemes = api.components.as_ref().map(|components| &components.security_schemes);
    let names = requirements.iter().flatten().filter_map(|name| match schemes?.get(name)? {
        RefOr::T(scheme) => description(scheme),
        RefOr::Ref(_) => None,
    });
    let mut text = names.collect::<Vec<_>>().join(", or ");
    if text.is_empty() {
        text.push_str("none");
    } else if requirements.iter().any(Vec::is_empty) {
        text.push_str(", optional");
    }
    text
}

fn description(scheme: &SecurityScheme) -> Option<&str> {
    match scheme {
        SecurityScheme::Http(http) => http.description.as_deref(),
        SecurityScheme::ApiKey(ApiKey::Cookie(key)) => key.description.as_deref(),
        _ => None,
    }
}

//! `GET /docs`: the OpenAPI and AsyncAPI documents as one page, without JavaScript.

use askama::Template;
use serde_json::Value;
use utoipa::openapi::{
    OpenApi, Ref, RefOr, Required, Schema,
    path::Operation,
    security::{ApiKey, SecurityScheme},
};

use crate::http::{
    addons::streams::websocket,
    docs::{
        asyncapi::{self, Message},
        openapi,
        samples::{Sample, samples},
    },
    error::ProblemType,
    openapi_tags,
    pages::Look,
};

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs<'a> {
    look: &'a Look,
    version: &'static str,
    groups: Vec<Group<'a>>,
    objects: Vec<Object>,
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
    samples: Vec<Sample>,
}

/// An object of JSON or a form, as the schemas declare it.
struct Object {
    name: String,
    description: String,
    members: Vec<Member>,
}

struct Member {
    name: String,
    /// Its type, or the name of its schema.
    kind: String,
    /// Whether `kind` is an [`Object`] of the page.
    is_object: bool,
    required: bool,
    meaning: String,
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

/// The page for an OpenAPI document.
pub fn render(look: &Look, api: &OpenApi) -> Result<String, askama::Error> {
    // What the samples and objects are derived from; a document always serialises.
    let document = serde_json::to_value(api).unwrap_or_default();
    let groups = openapi_tags::ALL.map(|(name, description)| {
        let endpoints = api.paths.paths.iter().flat_map(|(path, item)| {
            openapi::operations(item)
                .filter(|(_, operation)| operation.tags.iter().flatten().any(|tag| tag == name))
                .map(|(method, operation)| Endpoint {
                    samples: samples(&document, method, path),
                    ..endpoint(api, method, path, operation)
                })
        });
        Group { name, description, endpoints: endpoints.collect() }
    });
    Docs {
        look,
        version: env!("CARGO_PKG_VERSION"),
        objects: objects(&document),
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
        samples: Vec::new(),
    }
}

/// The objects that the document declares.
fn objects(document: &Value) -> Vec<Object> {
    let schemas = document["components"]["schemas"].as_object();
    let object = |(name, schema): (&String, &Value)| {
        let mut members = Vec::new();
        add_members(document, schema, &mut members);
        (!members.is_empty()).then(|| Object {
            name: name.clone(),
            description: schema["description"].as_str().unwrap_or_default().to_owned(),
            members,
        })
    };
    schemas.into_iter().flatten().filter_map(object).collect()
}

/// Adds the members of `schema`, of its parts and of its alternatives.
fn add_members(document: &Value, schema: &Value, members: &mut Vec<Member>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return target.into_iter().for_each(|target| add_members(document, target, members));
    }
    for part in parts_of(schema) {
        add_members(document, part, members);
    }
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if members.iter().any(|member| member.name == *name) {
            continue;
        }
        let referred = referred(property);
        let target = referred.and_then(|name| document["components"]["schemas"].get(name));
        let mut of_target = Vec::new();
        target.into_iter().for_each(|target| add_members(document, target, &mut of_target));
        let parts = parts_of(property).chain([property]);
        let own = parts.filter_map(|part| part["description"].as_str()).next();
        let meaning = own.or_else(|| target?["description"].as_str()).unwrap_or_default();
        members.push(Member {
            name: name.clone(),
            kind: match (referred, target) {
                (Some(name), _) if !of_target.is_empty() => name.to_owned(),
                (_, Some(target)) => kind(target),
                _ => kind(property),
            },
            is_object: !of_target.is_empty(),
            required: required.iter().any(|required| *required == name),
            meaning: meaning.to_owned(),
        });
    }
}

/// Name of the schema that a property, or the part of it that is not null, refers to.
fn referred(property: &Value) -> Option<&str> {
    parts_of(property).chain([property]).find_map(|part| part["$ref"].as_str()?.rsplit('/').next())
}

/// The alternatives and parts of a schema.
fn parts_of(schema: &Value) -> impl Iterator<Item = &Value> {
    let parts = ["oneOf", "allOf", "anyOf"].into_iter();
    parts.flat_map(|parts| schema[parts].as_array().into_iter().flatten())
}

/// The type of a schema, for a reader.
fn kind(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
        return values.join(", ");
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("array of {}", kind_of_items(schema)),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let named = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            named.collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

fn kind_of_items(schema: &Value) -> String {
    referred(&schema["items"]).map_or_else(|| kind(&schema["items"]), str::to_owned)
}

/// `text` in parts; true for code, which is between backticks.
fn prose(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.split('`').enumerate().map(|(index, part)| (index % 2 == 1, part))
}

fn contents<'a>(
    contents: impl IntoIterator<Item = (&'a String, &'a RefOr<utoipa::openapi::Content>)>,
) -> Vec<Content<'a>> {
    let describe = |(media_type, content): (&'a String, &'a RefOr<_>)| {
        let RefOr::T(utoipa::openapi::Content { schema, .. }) = content else {
            return Content { media_type, schema: None };
        };
        let schema = match schema {
            Some(RefOr::Ref(reference)) => name_of(reference),
            Some(RefOr::T(Schema::OneOf(alternatives))) => {
                alternatives.items.iter().find_map(|item| match item {
                    RefOr::Ref(reference) => name_of(reference),
                    RefOr::T(_) => None,
                })
            }
            _ => None,
        };
        Content { media_type, schema }
    };
    contents.into_iter().map(describe).collect()
}

fn name_of(reference: &Ref) -> Option<&str> {
    reference.ref_location.rsplit('/').next()
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

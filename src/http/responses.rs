//! Responses in the OpenAPI document: pages, and the shapes of errors.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, PartialSchema,
    openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, Schema},
};

/// Media type of JSON.
pub const JSON: &str = "application/json";
/// Media type of pages.
pub const HTML: &str = "text/html; charset=utf-8";
/// Media type of forms.
pub const FORM: &str = "application/x-www-form-urlencoded";
/// Media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Statuses of errors, with what they mean on every surface.
const STATUSES: [(u16, &str); 14] = [
    (400, "The request cannot be understood."),
    (401, "Credentials are missing or wrong."),
    (403, "Not allowed."),
    (404, "No such session."),
    (405, "The resource does not answer this method."),
    (409, "The session is past this step."),
    (410, "The session is over."),
    (413, "The body is too large."),
    (415, "The body is not of the expected media type."),
    (426, "An upgrade is required."),
    (429, "Too many requests; `Retry-After` says when to retry."),
    (500, "The service failed; its log says why."),
    (502, "The OpenID provider cannot be used."),
    (503, "The session store or this instance is unavailable; retry later."),
];

/// A set of statuses, for the types below. A status that is not listed here does not compile.
pub const fn statuses(statuses: &[u16]) -> u64 {
    let (mut set, mut index) = (0, 0);
    while index < statuses.len() {
        let mut position = 0;
        while STATUSES[position].0 != statuses[index] {
            position += 1;
        }
        set |= 1 << position;
        index += 1;
    }
    set
}

fn described(
    set: u64,
    media_type: &str,
    schema: &RefOr<Schema>,
) -> BTreeMap<String, RefOr<Response>> {
    STATUSES
        .iter()
        .enumerate()
        .filter(|(position, _)| set & (1 << position) != 0)
        .map(|(_, (status, meaning))| {
            let content = ContentBuilder::new().schema(Some(schema.clone())).build();
            let response =
                ResponseBuilder::new().description(*meaning).content(media_type, content);
            (status.to_string(), response.build().into())
        })
        .collect()
}

/// Errors as pages for people.
pub struct ErrorPages<const STATUSES: u64>;

impl<const STATUSES: u64> IntoResponses for ErrorPages<STATUSES> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        described(STATUSES, HTML, &String::schema())
    }
}

/// Errors of the OAuth endpoints (RFC 6749 §5.2).
pub struct OAuthErrors<const STATUSES: u64>;

impl<const STATUSES: u64> IntoResponses for OAuthErrors<STATUSES> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        described(STATUSES, JSON, &Ref::from_schema_name("OAuthError").into())
    }
}

/// Errors of the meet-compatible surface.
pub struct Details<const STATUSES: u64>;

impl<const STATUSES: u64> IntoResponses for Details<STATUSES> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        described(STATUSES, JSON, &Ref::from_schema_name("Detail").into())
    }
}

//! For the APIs that add-ins call: a protected resource, forward authentication, introspection,
//! revocation, keys and metadata.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{
    http::{
        App, AppState, dialog::single, error::Problem, middleware::LimitedBody,
        oauth::client_credentials,
    },
    session::Digest,
    telemetry::Trace,
    token::Claims,
    util::clock::UnixTime,
};

/// Why a bearer token is refused (RFC 6750 §3.1).
enum Refused {
    /// None was presented.
    Missing,
    /// It was malformed, forged, expired or revoked; the text says which.
    Invalid(String),
    /// It cannot be told, because the store is away.
    Problem(Problem),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (challenge, detail) = match self {
            Self::Problem(problem) => return problem.into_response(),
            // Without credentials there is no error to name.
            Self::Missing => ("Bearer realm=\"addons\"".to_owned(), "A bearer token is required."),
            Self::Invalid(ref description) => (
                format!(
                    "Bearer realm=\"addons\", error=\"invalid_token\", \
                     error_description=\"{description}\""
                ),
                description.as_str(),
            ),
        };
        let body = json!({
            "type": "urn:token-relay:problem:invalid-token",
            "title": "Access token missing or not valid",
            "status": 401,
            "detail": detail,
        });
        let mut response = (StatusCode::UNAUTHORIZED, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The claims behind `Authorization: Bearer`.
async fn authenticate(app: &App, trace: &Trace, headers: &HeaderMap) -> Result<Claims, Refused> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Refused::Missing)?;
    let token = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or(Refused::Missing)?;
    let claims = app.verifier.verify(token).map_err(|error| Refused::Invalid(error.to_string()))?;
    match app.revocations.in_trace(trace).is_revoked(&claims).await {
        Ok(false) => Ok(claims),
        Ok(true) => Err(Refused::Invalid("The token was revoked".to_owned())),
        Err(error) => Err(Refused::Problem(error.into())),
    }
}

/// `GET /addons/me`: the claims behind the presented token.
pub async fn me(State(app): State<AppState>, trace: Trace, headers: HeaderMap) -> Response {
    match authenticate(&app, &trace, &headers).await {
        Ok(claims) => ([(header::CACHE_CONTROL, "no-store")], Json(claims)).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// `GET /addons/verify`: forward authentication for nginx `auth_request`, Traefik and Caddy.
pub async fn verify(State(app): State<AppState>, trace: Trace, headers: HeaderMap) -> Response {
    let claims = match authenticate(&app, &trace, &headers).await {
        Ok(claims) => claims,
        Err(refused) => return refused.into_response(),
    };
    let mut response = StatusCode::OK.into_response();
    let fields = [
        ("x-auth-subject", Some(claims.sub.as_str())),
        ("x-auth-scope", Some(claims.scope.as_str())),
        ("x-auth-token-id", Some(claims.jti.as_str())),
        ("x-auth-name", claims.extra.get("name").and_then(|name| name.as_str())),
        ("x-auth-email", claims.extra.get("email").and_then(|email| email.as_str())),
    ];
    for (name, value) in fields {
        // All are always there: a proxy that copies one which is not may pass on something else in
        // its place, such as what the client sent. A claim that is no header value (line breaks) is
        // left out rather than mangled.
        let value = HeaderValue::from_bytes(value.unwrap_or_default().as_bytes())
            .unwrap_or(HeaderValue::from_static(""));
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Compares the secret in constant time.
fn authenticate_client(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let known = client_credentials::basic(headers).iter().any(|(id, secret)| {
        let presented = Digest::of(secret.as_bytes());
        app.introspection_clients
            .load()
            .iter()
            .any(|(known, digest)| known == id && digest.matches(&presented))
    });
    if known { Ok(()) } else { Err(Problem::ClientUnauthorized) }
}

/// The body if it is a form by its content type.
pub(crate) fn form<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<&'a str> {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.starts_with("application/x-www-form-urlencoded"))?;
    std::str::from_utf8(body).ok()
}

fn token_of(headers: &HeaderMap, body: &[u8]) -> Result<String, Problem> {
    single(form(headers, body), "token")
        .ok_or_else(|| Problem::BadRequest("Send one `token` as a form.".to_owned()))
}

/// `POST /addons/introspect` (RFC 7662).
///
/// # Errors
/// 400, 401, 503 as problem details.
pub async fn introspect(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    authenticate_client(&app, &headers)?;
    let token = token_of(&headers, &body)?;
    let mut answer = json!({"active": false});
    if let Ok(claims) = app.verifier.verify(&token)
        && !app.revocations.in_trace(&trace).is_revoked(&claims).await?
    {
        answer = serde_json::to_value(&claims).map_err(|_| Problem::Internal)?;
        if let Some(members) = answer.as_object_mut() {
            members.insert("active".to_owned(), true.into());
            members.insert("token_type".to_owned(), "Bearer".into());
        }
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// `POST /addons/revoke` (RFC 7009): 200 whether or not the token was one. Its bearer may revoke
/// a token without client credentials, since it could use it as well. A refresh token takes the
/// whole grant along, access tokens included (§2.1).
///
/// # Errors
/// 400, 401, 503 as problem details.
pub async fn revoke(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    let token = token_of(&headers, &body)?;
    if headers.contains_key(header::AUTHORIZATION) {
        authenticate_client(&app, &headers)?;
    }
    let now = UnixTime::now();
    if let Ok(claims) = app.verifier.verify(&token) {
        app.revocations.in_trace(&trace).revoke(&claims.jti, claims.remaining()).await?;
        tracing::info!(target: "audit", token = ?Digest::of(claims.jti.as_bytes()), "token revoked");
    } else if let Some(refresh) = &app.refresh
        && let Ok(grant) = refresh.open(&app.sealing_keys, &token, now)
    {
        refresh.in_trace(&trace).end(grant.id).await?;
        tracing::info!(target: "audit", grant = ?grant.id, "grant revoked");
    }
    Ok((StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response())
}

/// `GET /.well-known/jwks.json` (RFC 7517 §5): public keys only.
pub async fn jwks(State(app): State<AppState>) -> Response {
    let headers = [
        (header::CACHE_CONTROL.as_str(), "public, max-age=300"),
        (header::CONTENT_TYPE.as_str(), "application/jwk-set+json"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN.as_str(), "*"),
        ("cross-origin-resource-policy", "cross-origin"),
    ];
    (headers, Json(app.signing_keys.jwks()).into_response().into_body()).into_response()
}

/// `GET /.well-known/oauth-authorization-server` (RFC 8414).
pub async fn metadata(State(app): State<AppState>) -> Response {
    let mut body = json!({
        "issuer": app.issuer.issuer,
        "jwks_uri": app.public(".well-known/jwks.json"),
        "introspection_endpoint": app.public("addons/introspect"),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
        "revocation_endpoint": app.public("addons/revoke"),
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
        "response_types_supported": [],
        "grant_types_supported": [],
        "scopes_supported": app.issuer.scope.split(' ').collect::<Vec<_>>(),
        "service_documentation": app.public("docs"),
    });
    if app.refresh.is_some() {
        body["token_endpoint"] = json!(app.public("addons/token"));
        body["token_endpoint_auth_methods_supported"] =
            json!(["client_secret_basic", "client_secret_post"]);
        body["grant_types_supported"] = json!(["refresh_token"]);
    }
    ([(header::CACHE_CONTROL, "public, max-age=300")], Json(body)).into_response()
}

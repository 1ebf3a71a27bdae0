//! Endpoints for APIs: the protected resource, forward authentication, introspection, revocation,
//! keys and metadata.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, OptionalFromRequestParts, State},
    response::{AppendHeaders, IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{
        oauth::{
            Introspection, JwkSet, ResourceMetadata, RevocationForm, ServerMetadata, TokenForm,
        },
        paths,
    },
    http::{
        App, AppState,
        error::{
            Problem,
            ProblemType::{InvalidToken, ProofRequired, StoreUnavailable},
            Problems, types,
        },
        extract::{self, ClientBasic, Form},
        guesses::Attempt,
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        oauth::{device, dpop},
        openapi_tags,
        operator::metrics::Revoked,
        responses::{FORM, OAuthErrors, statuses},
    },
    session::Digest,
    settings::{Client, ClientSetting, Grant},
    telemetry::Trace,
    token::{self, Claims, InvalidProof},
    util::clock::UnixTime,
};

/// The protected resource and forward authentication.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(me).answering(&[Also::Head, Also::Options]))
        .routes(routes!(verify).answering(&[Also::Head, Also::Options]))
}

/// What clients call with their secret.
pub(super) fn client_endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(introspect).answering(&[Also::Options]))
        .routes(routes!(revoke).answering(&[Also::Options]))
}

/// Keys and metadata.
pub fn well_known() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(jwks).answering(&[Also::Head]))
        .routes(routes!(client_jwks).answering(&[Also::Head]))
        .routes(routes!(metadata).answering(&[Also::Head]))
        .routes(routes!(me_metadata).answering(&[Also::Head]))
}

/// Media type of a key set (RFC 7517 §8.5.2).
const KEY_SET: &str = "application/jwk-set+json";

/// The claims of the request's access token (RFC 6750 §2.1, RFC 9449 §7.1), and the nonce for the next
/// proof where it is time for one.
struct AccessToken(Claims, Option<HeaderValue>);

/// Why a request to a protected resource is refused, with where its metadata are (RFC 9728 §5.1).
struct Refused {
    problem: Problem,
    /// Whether the request used the scheme `DPoP`.
    by_proof: bool,
    resource_metadata: Option<String>,
    app: AppState,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = dpop::with_nonce(&self.app, self.problem.into_response());
        let headers = response.headers_mut();
        let Some(challenge) = headers.get(header::WWW_AUTHENTICATE) else { return response };
        let mut challenge = challenge.to_str().unwrap_or_default().to_owned();
        // The scheme of the request is answered, with the algorithms of its proofs (RFC 9449 §7.1).
        if self.by_proof
            && let Some(parameters) = challenge.strip_prefix("Bearer ")
        {
            challenge = format!("DPoP {parameters}, {}", token::dpop::supported());
        }
        if let Some(url) = self.resource_metadata {
            challenge.push_str(&format!(", resource_metadata=\"{url}\""));
        }
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl FromRequestParts<AppState> for AccessToken {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Refused> {
        // For `/addons/verify` the resource is what the proxy protects; its metadata are the API's.
        let resource_metadata =
            (parts.uri.path() == paths::ME).then(|| app.public(paths::ME_METADATA));
        let token = extract::access_token(&parts.headers);
        let by_proof = matches!(token, Ok(Some(extract::AccessToken::Dpop(_))));
        let app = AppState::clone(app);
        match Self::of(&app, parts).await {
            Ok(token) => Ok(token),
            Err(problem) => Err(Refused { problem, by_proof, resource_metadata, app }),
        }
    }
}

impl AccessToken {
    async fn of(app: &AppState, parts: &mut Parts) -> Result<Self, Problem> {
        let invalid = |detail: String| Problem::InvalidToken(Some(detail));
        let token = extract::access_token(&parts.headers).ok().flatten();
        let (token, by_proof) = match token.ok_or(Problem::InvalidToken(None))? {
            extract::AccessToken::Bearer(token) => (token, false),
            extract::AccessToken::Dpop(token) => (token, true),
        };
        let claims = app.verifier.verify(&token).map_err(|error| invalid(error.to_string()))?;
        let presented = match (claims.cnf, by_proof) {
            (None, false) => None,
            (None, true) => return Err(invalid("The token is not bound to a key".to_owned())),
            (Some(_), false) => return Err(Problem::ProofRequired(InvalidProof::Missing)),
            (Some(confirmation), true) => {
                let request = dpop::resource_request(app, parts).map_err(Problem::ProofRequired)?;
                let presented = dpop::presented(app, &parts.headers, &request, Some(&token))
                    .and_then(|presented| presented.ok_or(InvalidProof::Missing))
                    .and_then(|presented| match presented.proof.key == confirmation.jkt {
                        true => Ok(presented),
                        false => Err(InvalidProof::Key),
                    });
                Some(presented.map_err(Problem::ProofRequired)?)
            }
        };
        let Ok(trace) = Trace::from_request_parts(parts, app).await;
        if app.revocations.in_trace(&trace).is_revoked(&claims).await? {
            return Err(invalid("The token was revoked".to_owned()));
        }
        let mut nonce = None;
        if let Some(presented) = presented {
            presented.use_up(app, &trace).await?.map_err(Problem::ProofRequired)?;
            nonce = presented.next_nonce(app);
        }
        Ok(Self(claims, nonce))
    }
}

/// The confidential client that the request authenticates, by HTTP Basic.
struct AuthenticatedClient(Arc<Client>);

impl AuthenticatedClient {
    /// The client, which must have `grant` if one is asked for; `None` when the request has no
    /// credentials.
    async fn of(
        app: &AppState,
        parts: &mut Parts,
        grant: Option<Grant>,
    ) -> Result<Option<Self>, Problem> {
        let basic = ClientBasic::of(&parts.headers).map_err(|_| Problem::InvalidClient)?;
        let Some(basic) = basic else { return Ok(None) };
        let address = ClientAddress::from_request_parts(parts, app).await?;
        let clients = app.clients.load_full();
        let attempt = Attempt::of_client(app, address, &clients, &basic).admit()?;
        let mut readings = basic.readings();
        let client = readings.find_map(|(id, secret)| {
            let client = clients.authenticate(&id, &secret)?;
            grant.is_none_or(|grant| client.may(grant)).then(|| Arc::clone(client))
        });
        match client {
            Some(client) => {
                attempt.right().await?;
                Ok(Some(Self(client)))
            }
            None => Err(attempt.wrong(Problem::InvalidClient).await),
        }
    }

    /// Refuses a client without this grant.
    fn check(&self, grant: Grant) -> Result<(), Problem> {
        if self.0.may(grant) {
            return Ok(());
        }
        let setting = self.0.setting(ClientSetting::Grants);
        Err(Problem::UnauthorizedClient(format!("`{setting}` does not allow this.")))
    }
}

/// One that may introspect tokens.
impl FromRequestParts<AppState> for AuthenticatedClient {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        Self::of(app, parts, Some(Grant::Introspect)).await?.ok_or(Problem::InvalidClient)
    }
}

/// Any, or none: who has a token may revoke it.
impl OptionalFromRequestParts<AppState> for AuthenticatedClient {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &AppState,
    ) -> Result<Option<Self>, Problem> {
        Self::of(app, parts, None).await
    }
}

/// The claims of the access token
#[utoipa::path(
    get,
    path = paths::ME,
    tag = openapi_tags::API,
    security(("access_token" = [])),
    responses(
        (status = 200, description = "The claims.", body = Claims),
        Problems<{ types(&[InvalidToken, ProofRequired, StoreUnavailable]) }>,
    ),
)]
async fn me(AccessToken(claims, nonce): AccessToken) -> Response {
    let mut response = ([(header::CACHE_CONTROL, "no-store")], Json(claims)).into_response();
    dpop::set_nonce(&mut response, nonce);
    response
}

/// Forward authentication for a proxy
///
/// For `auth_request` of nginx, `forward_auth` of Caddy, `ForwardAuth` of Traefik.
#[utoipa::path(
    get,
    path = paths::VERIFY,
    tag = openapi_tags::API,
    security(("access_token" = [])),
    responses(
        (
            status = 200, description = "The token is valid; `X-Auth-*` headers have its claims.",
            headers(
                ("X-Auth-Subject", description = "`sub`; a token whose subject is no visible ASCII text is refused."),
                ("X-Auth-Scope", description = "`scope`."),
                ("X-Auth-Token-Id", description = "`jti`."),
                ("X-Auth-Name", description = "`name`; empty without."),
                ("X-Auth-Email", description = "`email`; empty without, and where it is not verified."),
            ),
        ),
        Problems<{ types(&[InvalidToken, ProofRequired, StoreUnavailable]) }>,
    ),
)]
async fn verify(AccessToken(claims, nonce): AccessToken) -> Result<Response, Problem> {
    let unfit = |name| {
        Problem::InvalidToken(Some(format!("The claim `{name}` cannot be sent in a header")))
    };
    // Claims that authorise arrive exactly as they are in the token, or not at all.
    let subject = exact(&claims.sub).filter(|_| !claims.sub.is_empty()).ok_or(unfit("sub"))?;
    let scope = exact(&claims.scope).ok_or(unfit("scope"))?;
    let token_id = exact(&claims.jti).ok_or(unfit("jti"))?;
    let email = claims.extra.get("email").filter(|_| is_email_verified(&claims));
    // All are always there: a proxy that copies one which is not may pass on something else in its
    // place, such as what the client sent.
    let mut response = AppendHeaders([
        (HeaderName::from_static("x-auth-subject"), subject),
        (HeaderName::from_static("x-auth-scope"), scope),
        (HeaderName::from_static("x-auth-token-id"), token_id),
        (HeaderName::from_static("x-auth-name"), shown(claims.extra.get("name"))),
        (HeaderName::from_static("x-auth-email"), shown(email)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ])
    .into_response();
    dpop::set_nonce(&mut response, nonce);
    Ok(response)
}

/// `text` as a header value that every recipient reads as the same text: visible ASCII, and spaces
/// in between (RFC 9110 §5.5).
fn exact(text: &str) -> Option<HeaderValue> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let is_trimmed = text.trim_ascii() == text;
    if is_plain && is_trimmed { HeaderValue::from_str(text).ok() } else { None }
}

/// A claim that is shown to people, as UTF-8; empty where it is no header value.
fn shown(claim: Option<&Value>) -> HeaderValue {
    let text = claim.and_then(Value::as_str).unwrap_or_default().trim();
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""))
}

/// Whether the provider, or the operator in its place, vouches for the e-mail address.
fn is_email_verified(claims: &Claims) -> bool {
    match claims.extra.get("email_verified") {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(verified)) => verified == "true",
        _ => false,
    }
}

/// Introspection (RFC 7662)
#[utoipa::path(
    post,
    path = paths::INTROSPECT,
    tag = openapi_tags::API,
    security(("client" = [])),
    request_body(
        content = TokenForm, content_type = FORM,
        example = json!({ "token": "<access_token>" }),
    ),
    responses(
        (
            status = 200, description = "Whether the token is active, and its claims.",
            body = Introspection,
        ),
        OAuthErrors<{ statuses(&[400, 401, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn introspect(
    State(app): State<AppState>,
    trace: Trace,
    client: AuthenticatedClient,
    Form(form): Form<TokenForm>,
) -> Result<Response, Problem> {
    client.check(Grant::Introspect)?;
    let mut answer = Introspection { active: false, claims: Default::default() };
    if let Ok(claims) = app.verifier.verify(form.token.expose())
        && !app.revocations.in_trace(&trace).is_revoked(&claims).await?
    {
        answer.active = true;
        match serde_json::to_value(&claims) {
            Ok(Value::Object(claims)) => answer.claims = claims,
            _ => return Err(Problem::Internal),
        }
        answer.claims.insert("token_type".to_owned(), claims.token_type().into());
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Revocation (RFC 7009)
///
/// 200 whether or not the token was valid. The bearer of a token may revoke it without client
/// credentials, since it could use the token as well. A refresh token ends its whole grant, access
/// tokens included (§2.1). With `sub` in the place of `token`, everything that this person was granted
/// until now ends: access tokens, refresh tokens, browser logins; for clients with the grant `revoke`.
#[utoipa::path(
    post,
    path = paths::REVOKE,
    tag = openapi_tags::API,
    security((), ("client" = [])),
    request_body(
        content = RevocationForm, content_type = FORM,
        example = json!({ "token": "<access_token>" }),
    ),
    responses(
        (status = 200, description = "The token is no longer valid."),
        OAuthErrors<{ statuses(&[400, 401, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn revoke(
    State(app): State<AppState>,
    trace: Trace,
    client: Option<AuthenticatedClient>,
    Form(form): Form<RevocationForm>,
) -> Result<Response, Problem> {
    match (&form.token, form.sub.as_deref()) {
        (Some(token), None) => revoke_token(&app, &trace, token.expose()).await?,
        (None, Some(subject)) if !subject.is_empty() => {
            let client = client.ok_or(Problem::InvalidClient)?;
            client.check(Grant::Revoke)?;
            app.end_account(&trace, subject, client.0.id.as_str()).await?;
        }
        _ => return Err(Problem::BadRequest("Send `token` or `sub`, one of them.".to_owned())),
    }
    Ok((StatusCode::OK, [(header::CACHE_CONTROL, "no-store")]).into_response())
}

async fn revoke_token(app: &App, trace: &Trace, token: &str) -> Result<(), Problem> {
    if let Ok(claims) = app.verifier.verify(token) {
        app.revocations.in_trace(trace).revoke(&claims.jti, claims.remaining()).await?;
        app.metrics.revoked(Revoked::Token);
        tracing::info!(target: "audit", token = ?Digest::of(claims.jti.as_bytes()), "token revoked");
    } else if let Some(refresh) = &app.refresh
        && let Ok(grant) = refresh.open(&app.sealing_keys, token, UnixTime::now())
    {
        refresh.in_trace(trace).end(grant.id).await?;
        app.metrics.revoked(Revoked::Grant);
        tracing::info!(target: "audit", grant = ?grant.id, "grant revoked");
    }
    Ok(())
}

/// The public keys (RFC 7517 §5)
#[utoipa::path(
    get,
    path = paths::JWKS,
    tag = openapi_tags::API,
    responses(
        (
            status = 200,
            description = "The keys; none when tokens are signed with a shared secret.",
            body = JwkSet, content_type = KEY_SET,
        ),
        Problems<{ types(&[]) }>,
    ),
)]
async fn jwks(State(app): State<AppState>) -> Response {
    let headers = [
        (header::CACHE_CONTROL.as_str(), "public, max-age=300"),
        (header::CONTENT_TYPE.as_str(), KEY_SET),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN.as_str(), "*"),
        ("cross-origin-resource-policy", "cross-origin"),
    ];
    (headers, Json(app.signing_keys.jwks()).into_response().into_body()).into_response()
}

/// Public keys of the relay as a client of the OpenID provider (`private_key_jwt`, RFC 7523)
#[utoipa::path(
    get,
    path = paths::CLIENT_JWKS,
    tag = openapi_tags::API,
    responses(
        (status = 200, description = "The keys; none without `OIDC_CLIENT_KEY`.", body = Object,
         content_type = KEY_SET),
        Problems<{ types(&[]) }>,
    ),
)]
async fn client_jwks(State(app): State<AppState>) -> Response {
    let headers = [
        (header::CACHE_CONTROL.as_str(), "public, max-age=300"),
        (header::CONTENT_TYPE.as_str(), KEY_SET),
    ];
    let keys = app.login.client_key_set().unwrap_or_else(|| serde_json::json!({"keys": []}));
    (headers, Json(keys).into_response().into_body()).into_response()
}

/// Authorization server metadata (RFC 8414)
#[utoipa::path(
    get,
    path = paths::METADATA,
    tag = openapi_tags::API,
    responses(
        (status = 200, description = "The metadata.", body = ServerMetadata),
        Problems<{ types(&[]) }>,
    ),
)]
async fn metadata(State(app): State<AppState>) -> Response {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let grants =
        [(app.refresh.is_some(), "refresh_token"), (device::is_offered(&app), device::GRANT_TYPE)];
    let body = ServerMetadata {
        issuer: app.issuer.issuer.clone(),
        jwks_uri: app.public(paths::JWKS),
        token_endpoint: app.public(paths::TOKEN),
        token_endpoint_auth_methods_supported: list(&[
            "none",
            "client_secret_basic",
            "client_secret_post",
        ]),
        device_authorization_endpoint: device::is_offered(&app)
            .then(|| app.public(paths::DEVICE_AUTHORIZATION)),
        introspection_endpoint: app.public(paths::INTROSPECT),
        introspection_endpoint_auth_methods_supported: list(&["client_secret_basic"]),
        revocation_endpoint: app.public(paths::REVOKE),
        revocation_endpoint_auth_methods_supported: list(&["client_secret_basic", "none"]),
        response_types_supported: Vec::new(),
        grant_types_supported: grants
            .into_iter()
            .filter(|(offered, _)| *offered)
            .map(|(_, name)| name.to_owned())
            .collect(),
        scopes_supported: scopes(&app),
        ui_locales_supported: app.pages.languages(),
        dpop_signing_alg_values_supported: dpop::algorithms(),
        protected_resources: vec![app.public(paths::ME)],
        service_documentation: app.public(paths::DOCS),
    };
    (PUBLIC, Json(body)).into_response()
}

/// Metadata are read by anybody, from any page.
const PUBLIC: [(&str, &str); 2] =
    [("cache-control", "public, max-age=300"), ("access-control-allow-origin", "*")];

/// Every scope that a token may have.
fn scopes(app: &App) -> Vec<String> {
    let clients = app.clients.load();
    let all: BTreeSet<&String> = clients.iter().flat_map(|client| &client.scope).collect();
    all.into_iter().cloned().collect()
}

/// Protected resource metadata of `/addons/me` (RFC 9728)
#[utoipa::path(
    get,
    path = paths::ME_METADATA,
    tag = openapi_tags::API,
    responses(
        (status = 200, description = "The metadata.", body = ResourceMetadata),
        Problems<{ types(&[]) }>,
    ),
)]
async fn me_metadata(State(app): State<AppState>) -> Response {
    let body = ResourceMetadata {
        resource: app.public(paths::ME),
        authorization_servers: vec![app.issuer.issuer.clone()],
        scopes_supported: scopes(&app),
        bearer_methods_supported: vec!["header".to_owned()],
        dpop_signing_alg_values_supported: dpop::algorithms(),
        resource_name: "The claims of the access token".to_owned(),
        resource_documentation: app.public(paths::DOCS),
    };
    (PUBLIC, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_that_a_recipient_could_read_as_another_is_no_header_value() {
        for text in ["alice", "a b", "", "auth0|123", "a,b", "https://id.example/alice"] {
            assert_eq!(exact(text).unwrap(), text);
        }
        for text in [" admin", "admin ", "admin\t", "a\r\nX-Auth-Scope: all", "é", "\u{a0}", "a\0"]
        {
            assert!(exact(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_value_is_its_text(text in any::<String>()) {
            if let Some(value) = exact(&text) {
                prop_assert_eq!(value.to_str().unwrap().trim(), text);
            }
        }
    }

    #[test]
    fn only_a_verified_email_address_is_passed_on() {
        let claims = |verified: Option<Value>| {
            let mut claims: Claims = serde_json::from_value(json!({
                "iss": "i", "sub": "s", "aud": "a", "exp": 1, "iat": 1, "nbf": 1, "jti": "j",
                "scope": "", "email": "alice@example.com",
            }))
            .unwrap();
            if let Some(verified) = verified {
                claims.extra.insert("email_verified".to_owned(), verified);
            }
            claims
        };
        for (verified, passed) in [
            (None, false),
            (Some(json!(false)), false),
            (Some(json!("false")), false),
            (Some(json!(1)), false),
            (Some(json!(null)), false),
            (Some(json!(true)), true),
            (Some(json!("true")), true),
        ] {
            assert_eq!(is_email_verified(&claims(verified.clone())), passed, "{verified:?}");
        }
    }
}

//! The embedded OpenID provider of `token-relay demo`: a few named users, a login form, the code
//! flow with PKCE.
//!
//! Started by [`run`](crate::demo::run) on a listener of its own; the relay talks to it over HTTP as to
//! any other provider. Its users and passwords are public, so it is no provider for real use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::{Query, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jsonwebtoken::{
    Algorithm,
    jwk::{CommonParameters, Jwk, PublicKeyUse},
};
use openidconnect::{
    AccessToken, Audience, AuthUrl, AuthorizationCode, EmptyAdditionalClaims,
    EmptyAdditionalProviderMetadata, EmptyExtraTokenFields, EndUserEmail, EndUserName, IssuerUrl,
    JsonWebKeySet, JsonWebKeySetUrl, LocalizedClaim, Nonce, PrivateSigningKey, ResponseTypes,
    Scope, SigningError, StandardClaims, SubjectIdentifier, TokenUrl, UserInfoUrl,
    core::{
        CoreClientAuthMethod, CoreIdToken, CoreIdTokenClaims, CoreIdTokenFields, CoreJsonWebKey,
        CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreResponseType, CoreSubjectIdentifierType,
        CoreTokenResponse, CoreTokenType,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    http::extract::ClientBasic, session::Digest, token::jws::PrivateKey, util::random::random_bytes,
};

/// How long a code can be redeemed.
const CODE_LIFE: Duration = Duration::from_secs(60);

/// How long an access token of this provider is accepted by its userinfo endpoint.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// Maximum number of codes and tokens held; a demo has a handful, a benchmark some thousands.
const MOST_GRANTS: usize = 100_000;

/// The one client of this provider.
#[derive(Clone, Debug)]
pub struct RegisteredClient {
    /// `client_id`.
    pub id: String,
    /// `client_secret`.
    pub secret: String,
    /// The redirect URIs, compared exactly.
    pub redirect_uris: Vec<String>,
}

/// The provider cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the demo provider cannot be set up: {0}")]
pub struct DemoProviderError(String);

/// What signs the ID tokens (EdDSA).
struct IdTokenKey {
    private: PrivateKey,
    public: CoreJsonWebKey,
}

impl IdTokenKey {
    fn generate() -> Result<Self, DemoProviderError> {
        let failed = |error: &dyn std::fmt::Display| DemoProviderError(error.to_string());
        let private = PrivateKey::generate(Algorithm::EdDSA).map_err(|error| failed(&error))?;
        let common = CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_id: Some(hex::encode(random_bytes::<8>())),
            ..CommonParameters::default()
        };
        let algorithm = private.public().ok_or_else(|| failed(&"no public key"))?;
        let public = serde_json::to_value(Jwk { common, algorithm })
            .and_then(serde_json::from_value)
            .map_err(|error| failed(&error))?;
        Ok(Self { private, public })
    }
}

impl PrivateSigningKey for IdTokenKey {
    type VerificationKey = CoreJsonWebKey;

    fn sign(
        &self,
        algorithm: &CoreJwsSigningAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SigningError> {
        match algorithm {
            CoreJwsSigningAlgorithm::EdDsa => {
                self.private.sign(message).map_err(|_| SigningError::CryptoError)
            }
            other => Err(SigningError::UnsupportedAlg(format!("{other:?}"))),
        }
    }

    fn as_verification_key(&self) -> CoreJsonWebKey {
        self.public.clone()
    }
}

/// The provider.
pub struct DemoProvider {
    issuer: String,
    client: RegisteredClient,
    key: IdTokenKey,
    metadata: serde_json::Value,
    grants: Mutex<Grants>,
    /// Whether `login_hint` logs in without the form; for benchmarks.
    auto_login: bool,
}

#[derive(Default)]
struct Grants {
    codes: HashMap<String, Grant>,
    tokens: HashMap<String, (User, Instant)>,
}

struct Grant {
    user: User,
    redirect_uri: String,
    code_challenge: String,
    nonce: Option<String>,
    until: Instant,
}

/// Names of the users, which are their passwords too.
pub(super) fn usernames() -> [&'static str; 3] {
    User::ALL.map(User::username)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Alice,
    Bob,
    Carol,
}

impl User {
    const ALL: [Self; 3] = [Self::Alice, Self::Bob, Self::Carol];

    fn username(self) -> &'static str {
        match self {
            Self::Alice => "alice",
            Self::Bob => "bob",
            Self::Carol => "carol",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Alice => "Alice Liddell",
            Self::Bob => "Bob Cratchit",
            Self::Carol => "Carol Kennicott",
        }
    }

    fn email(self) -> String {
        format!("{}@example.com", self.username())
    }

    fn find(username: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|user| user.username() == username)
    }

    fn standard_claims(self) -> StandardClaims<openidconnect::core::CoreGenderClaim> {
        let mut name = LocalizedClaim::new();
        name.insert(None, EndUserName::new(self.name().to_owned()));
        StandardClaims::new(SubjectIdentifier::new(self.username().to_owned()))
            .set_name(Some(name))
            .set_email(Some(EndUserEmail::new(self.email())))
            .set_email_verified(Some(true))
    }
}

/// Parameters of an authorization request (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct AuthorizationRequest {
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    response_type: String,
    #[serde(default)]
    scope: String,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    login_hint: Option<String>,
}

#[derive(Deserialize)]
struct LoginForm {
    #[serde(flatten)]
    request: AuthorizationRequest,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    action: String,
}

#[derive(Template)]
#[template(path = "demo_login.html")]
struct LoginPage<'a> {
    fields: &'a [(&'static str, String)],
    username: &'a str,
    wrong_password: bool,
}

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(default)]
    grant_type: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    code_verifier: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

impl DemoProvider {
    /// A provider for one client, with a signing key of its own.
    ///
    /// # Errors
    /// When `issuer` is no URL.
    pub fn new(
        issuer: &str,
        client: RegisteredClient,
        auto_login: bool,
    ) -> Result<Arc<Self>, DemoProviderError> {
        let failed = |error: &dyn std::fmt::Display| DemoProviderError(error.to_string());
        let key = IdTokenKey::generate()?;
        let metadata = metadata(issuer).map_err(|error| failed(&error))?;
        let issuer = issuer.to_owned();
        Ok(Arc::new(Self { issuer, client, key, metadata, grants: Mutex::default(), auto_login }))
    }

    /// Its endpoints.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/jwks", get(jwks))
            .route("/authorize", get(authorize).post(log_in))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo).post(userinfo))
            .route("/login.css", get(stylesheet))
            .with_state(self)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a request must not be answered by a redirect (RFC 6749 §4.1.2.1).
    fn knows_client(&self, request: &AuthorizationRequest) -> bool {
        request.client_id == self.client.id
            && self.client.redirect_uris.contains(&request.redirect_uri)
    }

    /// The error that the client is sent for an invalid request.
    fn objection(request: &AuthorizationRequest) -> Option<&'static str> {
        let challenged = request.code_challenge_method.as_deref() == Some("S256")
            && request.code_challenge.as_ref().is_some_and(|challenge| challenge.len() == 43);
        if request.response_type != "code" {
            Some("unsupported_response_type")
        } else if !request.scope.split(' ').any(|scope| scope == "openid") {
            Some("invalid_scope")
        } else if !challenged {
            Some("invalid_request")
        } else {
            None
        }
    }

    fn send_back(&self, request: &AuthorizationRequest, results: &[(&str, &str)]) -> Response {
        let Ok(mut url) = url::Url::parse(&request.redirect_uri) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(results);
            if let Some(state) = &request.state {
                query.append_pair("state", state);
            }
            query.append_pair("iss", &self.issuer);
        }
        let mut response = Redirect::to(url.as_str()).into_response();
        no_store(&mut response);
        response
    }

    fn grant(&self, request: &AuthorizationRequest, user: User) -> Response {
        let code = URL_SAFE_NO_PAD.encode(random_bytes::<32>());
        let now = Instant::now();
        let grant = Grant {
            user,
            redirect_uri: request.redirect_uri.clone(),
            code_challenge: request.code_challenge.clone().unwrap_or_default(),
            nonce: request.nonce.clone(),
            until: now + CODE_LIFE,
        };
        {
            let mut grants = self.grants();
            if grants.codes.len() >= MOST_GRANTS {
                grants.codes.retain(|_, grant| grant.until > now);
            }
            if grants.codes.len() >= MOST_GRANTS {
                drop(grants);
                return self.send_back(request, &[("error", "temporarily_unavailable")]);
            }
            grants.codes.insert(code.clone(), grant);
        }
        self.send_back(request, &[("code", &code)])
    }

    fn login_page(
        &self,
        request: &AuthorizationRequest,
        username: &str,
        wrong_password: bool,
    ) -> Response {
        let optional = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut fields = vec![
            ("client_id", request.client_id.clone()),
            ("redirect_uri", request.redirect_uri.clone()),
            ("response_type", request.response_type.clone()),
            ("scope", request.scope.clone()),
            ("state", optional(&request.state)),
            ("nonce", optional(&request.nonce)),
            ("code_challenge", optional(&request.code_challenge)),
            ("code_challenge_method", optional(&request.code_challenge_method)),
        ];
        fields.retain(|(_, value)| !value.is_empty());
        let page = LoginPage { fields: &fields, username, wrong_password };
        let Ok(html) = page.render() else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let status = if wrong_password { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        let mut response = (status, Html(html)).into_response();
        no_store(&mut response);
        // Browsers apply `form-action` to the redirect after the form as well.
        let target = url::Url::parse(&request.redirect_uri)
            .map(|url| url.origin().ascii_serialization())
            .unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src 'self'; form-action 'self' {target}; \
             base-uri 'none'; frame-ancestors 'none'"
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn authenticates_client(&self, headers: &HeaderMap, request: &TokenRequest) -> bool {
        let expected = Digest::of(self.client.secret.as_bytes());
        let is_ours = |id: &str, secret: &str| {
            *id == self.client.id && expected.matches(&Digest::of(secret.as_bytes()))
        };
        match ClientBasic::of(headers) {
            Ok(Some(basic)) => basic.readings().any(|(id, secret)| is_ours(&id, &secret)),
            _ => is_ours(
                request.client_id.as_deref().unwrap_or_default(),
                request.client_secret.as_deref().unwrap_or_default(),
            ),
        }
    }

    /// Redeems a code, which can be used once, even where that fails (RFC 6749 §4.1.2).
    fn redeem(&self, request: &TokenRequest) -> Option<(Grant, String)> {
        let mut grants = self.grants();
        let grant = grants.codes.remove(&request.code)?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(request.code_verifier.as_bytes()));
        let now = Instant::now();
        let fits = grant.until > now
            && grant.redirect_uri == request.redirect_uri
            && Digest::of(grant.code_challenge.as_bytes())
                .matches(&Digest::of(challenge.as_bytes()));
        if !fits {
            return None;
        }
        if grants.tokens.len() >= MOST_GRANTS {
            grants.tokens.retain(|_, (_, until)| *until > now);
        }
        let token = URL_SAFE_NO_PAD.encode(random_bytes::<32>());
        grants.tokens.insert(token.clone(), (grant.user, now + TOKEN_LIFE));
        Some((grant, token))
    }

    fn tokens(&self, grant: &Grant, access_token: String) -> Option<CoreTokenResponse> {
        let now = Utc::now();
        let access_token = AccessToken::new(access_token);
        let claims = CoreIdTokenClaims::new(
            IssuerUrl::new(self.issuer.clone()).ok()?,
            vec![Audience::new(self.client.id.clone())],
            now + TOKEN_LIFE,
            now,
            grant.user.standard_claims(),
            EmptyAdditionalClaims {},
        )
        .set_nonce(grant.nonce.clone().map(Nonce::new))
        .set_auth_time(Some(now));
        let id_token = CoreIdToken::new(
            claims,
            &self.key,
            CoreJwsSigningAlgorithm::EdDsa,
            Some(&access_token),
            None::<&AuthorizationCode>,
        )
        .ok()?;
        let fields = CoreIdTokenFields::new(Some(id_token), EmptyExtraTokenFields {});
        let mut response = CoreTokenResponse::new(access_token, CoreTokenType::Bearer, fields);
        response.set_expires_in(Some(&TOKEN_LIFE));
        Some(response)
    }
}

fn metadata(issuer: &str) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let at = |path: &str| format!("{issuer}/{path}");
    let metadata = CoreProviderMetadata::new(
        IssuerUrl::new(issuer.to_owned())?,
        AuthUrl::new(at("authorize"))?,
        JsonWebKeySetUrl::new(at("jwks"))?,
        vec![ResponseTypes::new(vec![CoreResponseType::Code])],
        vec![CoreSubjectIdentifierType::Public],
        vec![CoreJwsSigningAlgorithm::EdDsa],
        EmptyAdditionalProviderMetadata {},
    )
    .set_token_endpoint(Some(TokenUrl::new(at("token"))?))
    .set_userinfo_endpoint(Some(UserInfoUrl::new(at("userinfo"))?))
    .set_scopes_supported(Some(
        ["openid", "profile", "email"].map(|scope| Scope::new(scope.to_owned())).to_vec(),
    ))
    .set_token_endpoint_auth_methods_supported(Some(vec![
        CoreClientAuthMethod::ClientSecretBasic,
        CoreClientAuthMethod::ClientSecretPost,
    ]));
    let mut json = serde_json::to_value(metadata)?;
    if let Some(members) = json.as_object_mut() {
        members.insert("code_challenge_methods_supported".to_owned(), json!(["S256"]));
        members.insert("authorization_response_iss_parameter_supported".to_owned(), json!(true));
    }
    Ok(json)
}

fn no_store(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

async fn configuration(State(provider): State<Arc<DemoProvider>>) -> Response {
    Json(&provider.metadata).into_response()
}

async fn jwks(State(provider): State<Arc<DemoProvider>>) -> Response {
    Json(JsonWebKeySet::new(vec![provider.key.as_verification_key()])).into_response()
}

async fn stylesheet() -> Response {
    const STYLE: &str = include_str!("../../static/demo-provider/login.css");
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

async fn authorize(
    State(provider): State<Arc<DemoProvider>>,
    Query(request): Query<AuthorizationRequest>,
) -> Response {
    if !provider.knows_client(&request) {
        return (StatusCode::BAD_REQUEST, "Unknown client or redirect URI.").into_response();
    }
    if let Some(error) = DemoProvider::objection(&request) {
        return provider.send_back(&request, &[("error", error)]);
    }
    let hinted = request.login_hint.as_deref().and_then(User::find);
    match hinted {
        Some(user) if provider.auto_login => provider.grant(&request, user),
        None if provider.auto_login => provider.grant(&request, User::Alice),
        hinted => provider.login_page(&request, hinted.map_or("", User::username), false),
    }
}

async fn log_in(
    State(provider): State<Arc<DemoProvider>>,
    Form(form): Form<LoginForm>,
) -> Response {
    let request = form.request;
    if !provider.knows_client(&request) {
        return (StatusCode::BAD_REQUEST, "Unknown client or redirect URI.").into_response();
    }
    if let Some(error) = DemoProvider::objection(&request) {
        return provider.send_back(&request, &[("error", error)]);
    }
    if form.action == "cancel" {
        return provider.send_back(
            &request,
            &[
                ("error", "access_denied"),
                ("error_description", "The person cancelled the sign-in."),
            ],
        );
    }
    match User::find(&form.username) {
        // The passwords are the names, so there is nothing to compare in constant time.
        Some(user) if form.password == user.username() => provider.grant(&request, user),
        _ => provider.login_page(&request, &form.username, true),
    }
}

async fn token(
    State(provider): State<Arc<DemoProvider>>,
    headers: HeaderMap,
    Form(request): Form<TokenRequest>,
) -> Response {
    let refuse = |status, error: &str| {
        let mut response = (status, Json(json!({"error": error}))).into_response();
        no_store(&mut response);
        response
    };
    if !provider.authenticates_client(&headers, &request) {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "invalid_client");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"demo\""));
        return response;
    }
    if request.grant_type != "authorization_code" {
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let Some((grant, access_token)) = provider.redeem(&request) else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_grant");
    };
    match provider.tokens(&grant, access_token) {
        Some(tokens) => {
            let mut response = Json(tokens).into_response();
            no_store(&mut response);
            response
        }
        None => refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    }
}

async fn userinfo(State(provider): State<Arc<DemoProvider>>, headers: HeaderMap) -> Response {
    let user = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .and_then(|token| provider.grants().tokens.get(token).copied())
        .filter(|(_, until)| *until > Instant::now());
    match user {
        Some((user, _)) => Json(json!({
            "sub": user.username(),
            "name": user.name(),
            "email": user.email(),
            "email_verified": true,
        }))
        .into_response(),
        None => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
    }
}

//! The OpenID provider as this service sees it: found, kept fresh, asked, believed or not.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use openidconnect::{
    AccessToken, AccessTokenHash, AdditionalProviderMetadata, AuthType, AuthorizationCode,
    ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, DiscoveryError, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge,
    PkceCodeVerifier, ProviderMetadata, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, TokenResponse,
    core::{
        CoreAuthDisplay, CoreAuthenticationFlow, CoreClaimName, CoreClaimType, CoreClient,
        CoreClientAuthMethod, CoreGrantType, CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm,
        CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType, CoreTokenResponse,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    oidc::{CallbackQuery, LoginAttempt, LoginError, http_client::BackChannel},
    session::Identity,
    telemetry::Trace,
    util::http_client::CallError,
};

/// How long metadata and keys are used before they are fetched again.
const FRESH: Duration = Duration::from_secs(3600);

/// Shortest time between two fetches, so that forged tokens cannot make us hammer the provider.
const FETCH_PAUSE: Duration = Duration::from_secs(10);

/// What the client needs to know; from the settings.
#[derive(Clone)]
pub struct LoginSettings {
    /// The provider's issuer identifier.
    pub issuer: url::Url,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`; a public client without.
    pub client_secret: Option<String>,
    /// Scopes besides `openid`.
    pub scopes: Vec<String>,
    /// Where the provider sends people back to.
    pub redirect_uri: String,
    /// For one back-channel call.
    pub timeout: Duration,
    /// Tolerated difference between the provider's clock and ours.
    pub clock_skew: Duration,
    /// Claims to be looked up at the userinfo endpoint when the ID token lacks them.
    pub claims: Vec<String>,
}

/// Optional parameters of an authorization request (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Debug, Default)]
pub struct AuthorizationOptions {
    /// `login_hint`.
    pub login_hint: Option<String>,
    /// `ui_locales`.
    pub ui_locales: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct IssuerParameter {
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for IssuerParameter {}

type Metadata = ProviderMetadata<
    IssuerParameter,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

#[derive(Clone)]
struct Known {
    metadata: Arc<Metadata>,
    since: Instant,
}

/// The provider. Cheap to clone.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
    http: BackChannel,
}

struct Inner {
    settings: LoginSettings,
    /// The one of the settings, until it is replaced.
    client_secret: ArcSwapOption<String>,
    issuer: IssuerUrl,
    /// The same with a slash at the end, if its path is empty: some providers write theirs so.
    issuer_with_slash: Option<IssuerUrl>,
    known: RwLock<Option<Known>>,
    /// Locked while a fetch is under way, so that there is one only.
    fetches: Mutex<Fetches>,
}

/// What came of the last fetches.
#[derive(Default)]
struct Fetches {
    /// When what is known was last refreshed.
    refreshed: Option<Instant>,
    /// When one last failed, and why.
    failed: Option<(Instant, String)>,
}

impl Provider {
    /// A provider that is not looked for yet.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn new(settings: LoginSettings) -> Result<Self, LoginError> {
        // An issuer is compared letter by letter, and the `url` crate gives an empty path a slash,
        // so that the two spellings of such an issuer cannot be told apart here.
        let text = settings.issuer.as_str();
        let configured = |text: &str| {
            IssuerUrl::new(text.to_owned())
                .map_err(|error| LoginError::Configuration(error.to_string()))
        };
        let (issuer, issuer_with_slash) = if settings.issuer.path() == "/" {
            (configured(text.trim_end_matches('/'))?, Some(configured(text)?))
        } else {
            (configured(text)?, None)
        };
        let http = BackChannel::new(settings.timeout)
            .map_err(|error| LoginError::Configuration(error.to_string()))?;
        let inner = Arc::new(Inner {
            client_secret: ArcSwapOption::from(settings.client_secret.clone().map(Arc::new)),
            settings,
            issuer,
            issuer_with_slash,
            known: RwLock::new(None),
            fetches: Mutex::default(),
        });
        Ok(Self { inner, http })
    }

    /// The same provider, with the calls of the back channel recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { inner: Arc::clone(&self.inner), http: self.http.in_trace(trace) }
    }

    /// Logs in at the provider with another secret from now on.
    pub fn replace_client_secret(&self, secret: Option<String>) {
        self.inner.client_secret.store(secret.map(Arc::new));
    }

    /// Begins to look for the provider, so that the first person need not wait for it.
    pub fn discover_in_background(&self) {
        let provider = self.clone();
        tokio::spawn(async move {
            match provider.metadata().await {
                Ok(_) => {
                    tracing::info!(issuer = %provider.inner.issuer.as_str(), "provider discovered")
                }
                Err(error) => tracing::warn!(%error, "provider not discovered yet"),
            }
        });
    }

    /// Whether the provider was reached once.
    pub fn is_discovered(&self) -> bool {
        self.known().is_some()
    }

    fn known(&self) -> Option<Known> {
        self.inner.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authorization endpoint.
    ///
    /// # Errors
    /// When the provider cannot be found.
    pub async fn authorization_endpoint(&self) -> Result<url::Url, LoginError> {
        Ok(self.metadata().await?.authorization_endpoint().url().clone())
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, LoginError> {
        match self.known() {
            Some(known) if known.since.elapsed() < FRESH => Ok(known.metadata),
            // Stale is better than none: a provider may be away for a moment.
            Some(known) => Ok(self.fetch(Some(&known)).await.unwrap_or(known.metadata)),
            None => self.fetch(None).await,
        }
    }

    /// Fetches metadata and keys, unless somebody else just did.
    async fn fetch(&self, outdated: Option<&Known>) -> Result<Arc<Metadata>, LoginError> {
        let arrived = Instant::now();
        let mut last = self.inner.fetches.lock().await;
        if let Some(known) = self.known()
            && outdated.is_none_or(|outdated| known.since > outdated.since)
        {
            return Ok(known.metadata);
        }
        // Whoever waited for a fetch that failed shares its failure. Trying again one after the
        // other, the last of many would wait for as many time-outs.
        if let Some((when, reason)) = &last.failed
            && *when >= arrived
        {
            return Err(LoginError::Unavailable(reason.clone()));
        }
        // A first discovery is never held back; refreshing what is known is.
        if outdated.is_some() && last.refreshed.is_some_and(|last| last.elapsed() < FETCH_PAUSE) {
            return Err(LoginError::Unavailable("asked a moment ago".to_owned()));
        }
        // One deadline for discovery document and key set together.
        let fetched = match tokio::time::timeout(self.inner.settings.timeout, self.discover()).await
        {
            Ok(fetched) => fetched.map_err(|error| format!("discovery failed: {}", chain(&error))),
            Err(_) => Err("discovery took too long".to_owned()),
        };
        // Not before: a fetch that ended because its browser went away holds back nobody.
        if outdated.is_some() {
            last.refreshed = Some(Instant::now());
        }
        match fetched {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                let known = Known { metadata: Arc::clone(&metadata), since: Instant::now() };
                *self.inner.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
                Ok(metadata)
            }
            Err(reason) => {
                last.failed = Some((Instant::now(), reason.clone()));
                Err(LoginError::Unavailable(reason))
            }
        }
    }

    /// Fetches metadata and keys; refuses metadata of another issuer.
    async fn discover(&self) -> Result<Metadata, DiscoveryError<CallError>> {
        let found = Metadata::discover_async(self.inner.issuer.clone(), &self.http).await;
        match (found, &self.inner.issuer_with_slash) {
            (Err(DiscoveryError::Validation(_)), Some(other)) => {
                Metadata::discover_async(other.clone(), &self.http).await
            }
            (found, _) => found,
        }
    }

    fn client(&self, metadata: &Metadata, redirect_uri: &str) -> Result<Client, LoginError> {
        let redirect = RedirectUrl::new(redirect_uri.to_owned())
            .map_err(|error| LoginError::Configuration(error.to_string()))?;
        let mut client = CoreClient::from_provider_metadata(
            metadata.clone(),
            ClientId::new(self.inner.settings.client_id.clone()),
            self.inner
                .client_secret
                .load()
                .as_ref()
                .map(|secret| ClientSecret::new(secret.to_string())),
        )
        .set_redirect_uri(redirect);
        let methods = metadata.token_endpoint_auth_methods_supported();
        let basic = |methods: &Vec<_>| methods.contains(&CoreClientAuthMethod::ClientSecretBasic);
        let post = |methods: &Vec<_>| methods.contains(&CoreClientAuthMethod::ClientSecretPost);
        if methods.is_some_and(|methods| post(methods) && !basic(methods)) {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        Ok(client)
    }

    /// Begins a login that comes back to the configured redirect URI.
    ///
    /// # Errors
    /// When the provider cannot be found.
    pub async fn begin(
        &self,
        options: &AuthorizationOptions,
    ) -> Result<(url::Url, LoginAttempt), LoginError> {
        self.begin_at(&self.inner.settings.redirect_uri, options).await
    }

    /// Begins a login that comes back to `redirect_uri`: code flow with PKCE S256, state, nonce.
    ///
    /// # Errors
    /// When the provider cannot be found.
    pub async fn begin_at(
        &self,
        redirect_uri: &str,
        options: &AuthorizationOptions,
    ) -> Result<(url::Url, LoginAttempt), LoginError> {
        let metadata = self.metadata().await?;
        let client = self.client(&metadata, redirect_uri)?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                || CsrfToken::new_random_len(32),
                || Nonce::new_random_len(32),
            )
            .set_pkce_challenge(challenge);
        for scope in self.inner.settings.scopes.iter().filter(|scope| *scope != "openid") {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        if let Some(hint) = &options.login_hint {
            request = request.add_extra_param("login_hint", hint.clone());
        }
        if let Some(locales) = &options.ui_locales {
            request = request.add_extra_param("ui_locales", locales.clone());
        }
        let (url, state, nonce) = request.url();
        let attempt = LoginAttempt::new(
            state.secret().clone(),
            nonce.secret().clone(),
            verifier.into_secret(),
        );
        Ok((url, attempt))
    }

    /// Ends a login begun by [`Self::begin`].
    ///
    /// # Errors
    /// [`LoginError`] for whatever went wrong on the way.
    pub async fn finish(
        &self,
        attempt: LoginAttempt,
        query: CallbackQuery,
    ) -> Result<Identity, LoginError> {
        self.finish_at(&self.inner.settings.redirect_uri, attempt, query).await
    }

    /// Ends a login begun by [`Self::begin_at`] with the same `redirect_uri`.
    ///
    /// # Errors
    /// [`LoginError`] for whatever went wrong on the way.
    pub async fn finish_at(
        &self,
        redirect_uri: &str,
        attempt: LoginAttempt,
        query: CallbackQuery,
    ) -> Result<Identity, LoginError> {
        if !attempt.has_state(query.state()) {
            return Err(LoginError::StateMismatch);
        }
        if attempt.is_too_old() {
            return Err(LoginError::AttemptExpired);
        }
        let metadata = self.metadata().await?;
        // Before anything else is believed, an error included (RFC 9207 §2.4).
        match &query.issuer {
            Some(issuer) if issuer == metadata.issuer().as_str() => {}
            None if !metadata
                .additional_metadata()
                .authorization_response_iss_parameter_supported => {}
            _ => return Err(LoginError::IssuerMismatch),
        }
        let code = query.result.map_err(LoginError::Refused)?;
        let client = self.client(&metadata, redirect_uri)?;
        let tokens = self.exchange(&client, code, attempt.pkce_verifier).await?;
        let id_token = tokens
            .id_token()
            .ok_or_else(|| LoginError::IdToken("the provider sent none".to_owned()))?;
        let nonce = Nonce::new(attempt.nonce);
        let mut claims = match self.verify(&metadata, id_token, &nonce, tokens.access_token()) {
            // A key that we do not know may be a new one.
            Err(Unverified::Key(reason)) => {
                let known = self.known();
                let metadata =
                    self.fetch(known.as_ref()).await.map_err(|_| LoginError::IdToken(reason))?;
                self.verify(&metadata, id_token, &nonce, tokens.access_token())
            }
            verified => verified,
        }
        .map_err(|error| LoginError::IdToken(error.into_reason()))?;
        let subject = match claims.get("sub") {
            Some(Value::String(subject)) if !subject.is_empty() => subject.clone(),
            _ => return Err(LoginError::IdToken("no subject".to_owned())),
        };
        if self.inner.settings.claims.iter().any(|name| !claims.contains_key(name)) {
            self.add_userinfo(&metadata, tokens.access_token(), &subject, &mut claims).await;
        }
        let wanted = ["name", "preferred_username", "email"];
        claims.retain(|name, _| {
            wanted.contains(&name.as_str()) || self.inner.settings.claims.contains(name)
        });
        Ok(Identity { subject, claims })
    }

    async fn exchange(
        &self,
        client: &Client,
        code: String,
        verifier: String,
    ) -> Result<CoreTokenResponse, LoginError> {
        client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| LoginError::Unavailable("the provider has no token endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier))
            .request_async(&self.http)
            .await
            .map_err(|error| match error {
                RequestTokenError::ServerResponse(response) => match response.error().as_ref() {
                    busy @ ("temporarily_unavailable" | "server_error") => {
                        LoginError::Unavailable(format!("the token endpoint answered {busy}"))
                    }
                    code => LoginError::CodeRefused(error_code(code).to_owned()),
                },
                RequestTokenError::Request(error) => LoginError::Unavailable(chain(&error)),
                // The parser's own message could repeat a token.
                RequestTokenError::Parse(..) => {
                    LoginError::Unavailable("the token endpoint's answer is malformed".to_owned())
                }
                RequestTokenError::Other(_) => {
                    LoginError::Unavailable("the token endpoint's answer is unexpected".to_owned())
                }
            })
    }

    /// Verifies an ID token (OpenID Connect Core §3.1.3.7) and returns all its claims.
    fn verify(
        &self,
        metadata: &Metadata,
        id_token: &CoreIdToken,
        nonce: &Nonce,
        access_token: &AccessToken,
    ) -> Result<Map<String, Value>, Unverified> {
        let skew = chrono::TimeDelta::from_std(self.inner.settings.clock_skew).unwrap_or_default();
        // `none` and the HMAC family are never among them: a key that the provider publishes must
        // not become a shared secret.
        let algorithms = metadata
            .id_token_signing_alg_values_supported()
            .iter()
            .filter(|algorithm| is_asymmetric(algorithm))
            .cloned();
        let verifier = CoreIdTokenVerifier::new_public_client(
            ClientId::new(self.inner.settings.client_id.clone()),
            metadata.issuer().clone(),
            metadata.jwks().clone(),
        )
        .set_allowed_algs(algorithms)
        .set_time_fn(move || Utc::now() - skew)
        .set_issue_time_verifier_fn(move |issued: DateTime<Utc>| {
            if issued > Utc::now() + skew { Err("issued in the future".to_owned()) } else { Ok(()) }
        });
        let claims = id_token.claims(&verifier, nonce).map_err(Unverified::from)?;
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = id_token.signing_alg();
            let key = id_token.signing_key(&verifier);
            let actual = match (algorithm, key) {
                (Ok(algorithm), Ok(key)) => {
                    AccessTokenHash::from_token(access_token, algorithm, key).ok()
                }
                _ => None,
            };
            if actual.as_ref() != Some(expected) {
                return Err(Unverified::Claims("at_hash does not match".to_owned()));
            }
        }
        // The library leaves the authorized party to its caller (§3.1.3.7, step 5).
        if claims.authorized_party().is_some_and(|party| **party != self.inner.settings.client_id) {
            return Err(Unverified::Claims("its authorized party is another client".to_owned()));
        }
        // The library keeps the standard claims; the operator may have configured others.
        let text = id_token.to_string();
        let claims = text
            .split('.')
            .nth(1)
            .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
            .and_then(|json| serde_json::from_slice::<Map<String, Value>>(&json).ok())
            .ok_or_else(|| Unverified::Claims("not a JSON object".to_owned()))?;
        // No claim of OpenID Connect, but some providers send it (RFC 7519 §4.1.5).
        let earliest = claims.get("nbf").and_then(Value::as_f64);
        #[allow(clippy::cast_precision_loss)]
        if earliest.is_some_and(|earliest| earliest > (Utc::now() + skew).timestamp() as f64) {
            return Err(Unverified::Claims("not valid yet".to_owned()));
        }
        Ok(claims)
    }

    /// Adds what userinfo knows; without it the login goes on with what there is.
    async fn add_userinfo(
        &self,
        metadata: &Metadata,
        access_token: &AccessToken,
        subject: &str,
        claims: &mut Map<String, Value>,
    ) {
        let Some(endpoint) = metadata.userinfo_endpoint() else { return };
        let request = http::Request::get(endpoint.url().as_str())
            .header(http::header::AUTHORIZATION, format!("Bearer {}", access_token.secret()))
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new());
        let Ok(request) = request else { return };
        let answer = match self.http.send(request).await {
            Ok(answer) if answer.status().is_success() => answer,
            Ok(answer) => {
                tracing::warn!(status = answer.status().as_u16(), "userinfo refused");
                return;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "userinfo unavailable");
                return;
            }
        };
        let userinfo = serde_json::from_slice::<HashMap<String, Value>>(answer.body());
        match userinfo {
            // Another person's claims must never be mixed in (OpenID Connect Core §5.3.2).
            Ok(userinfo) if userinfo.get("sub").and_then(Value::as_str) == Some(subject) => {
                for (name, value) in userinfo {
                    claims.entry(name).or_insert(value);
                }
            }
            Ok(_) => tracing::warn!("userinfo is about somebody else"),
            Err(_) => tracing::warn!("userinfo is no JSON object"),
        }
    }
}

/// Why an ID token is not believed.
enum Unverified {
    /// Its key is not known; a fresh key set may help.
    Key(String),
    /// It says something wrong.
    Claims(String),
}

impl Unverified {
    fn into_reason(self) -> String {
        match self {
            Self::Key(reason) | Self::Claims(reason) => reason,
        }
    }
}

impl From<ClaimsVerificationError> for Unverified {
    fn from(error: ClaimsVerificationError) -> Self {
        use SignatureVerificationError as Signature;
        // The library's messages repeat expected and found values, the nonce among them.
        match error {
            ClaimsVerificationError::SignatureVerification(
                Signature::NoMatchingKey | Signature::CryptoError(_) | Signature::AmbiguousKeyId(_),
            ) => Self::Key("its signature does not verify with a known key".to_owned()),
            ClaimsVerificationError::SignatureVerification(Signature::DisallowedAlg(_)) => {
                Self::Claims("its algorithm is not allowed".to_owned())
            }
            ClaimsVerificationError::SignatureVerification(_) => {
                Self::Claims("its signature does not verify".to_owned())
            }
            ClaimsVerificationError::Expired(_) => Self::Claims("expired".to_owned()),
            ClaimsVerificationError::InvalidAudience(_) => {
                Self::Claims("it is for another client".to_owned())
            }
            ClaimsVerificationError::InvalidIssuer(_) => {
                Self::Claims("it is from another issuer".to_owned())
            }
            ClaimsVerificationError::InvalidNonce(_) => {
                Self::Claims("its nonce is another one".to_owned())
            }
            _ => Self::Claims("its claims are not acceptable".to_owned()),
        }
    }
}

fn is_asymmetric(algorithm: &CoreJwsSigningAlgorithm) -> bool {
    !matches!(
        algorithm,
        CoreJwsSigningAlgorithm::None
            | CoreJwsSigningAlgorithm::HmacSha256
            | CoreJwsSigningAlgorithm::HmacSha384
            | CoreJwsSigningAlgorithm::HmacSha512
    )
}

/// An error code of the token endpoint, if it looks like one of RFC 6749 §5.2: anything else could
/// repeat what it was sent.
fn error_code(text: &str) -> &str {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if fits { text } else { "with no known error code" }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

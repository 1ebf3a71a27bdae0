//! The OpenID provider: discovery, refreshing its metadata and keys, and the requests of a sign-in.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use crate::{
    oidc::{
        attempt::LoginAttempt,
        authorization_response::{AuthorizationResponse, ResponseOutcome},
        claims::full_name,
        client_key::ClientKeys,
        error::{FailureKind, LoginError, Step},
        flow::{Flow, Tokens},
        http_client::BackChannel,
        jws::KeySet,
        logout,
        metadata::Metadata,
        options::{AuthorizationOptions, ClientSecrets, ProviderOptions, RequiredClaims},
        probe::{self, Finding, Severity},
        provider_error::ProviderError,
        userinfo,
        verify::{IdToken, LogoutToken, TokenVerifier, Unverified},
    },
    session::{IdTokenHint, Identity},
    telemetry::Trace,
};

/// How long metadata and keys are used before they are fetched again.
const FRESH: Duration = Duration::from_secs(3600);

/// Minimum time between two fetches of what is known, so that forged tokens cannot make the relay
/// hammer the provider.
const FETCH_PAUSE: Duration = Duration::from_secs(10);

/// Pause between two attempts to discover a provider that was never reached.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(30);

/// How long a replaced client secret is still tried after the new one.
const SECRET_OVERLAP: Duration = Duration::from_secs(600);

/// Where the metadata are, below the issuer (OpenID Connect Discovery §4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Claims that are always copied: those by which pages and consumers of a token name an account.
const KEPT_CLAIMS: [&str; 4] = ["name", "preferred_username", "email", "email_verified"];

/// Metadata and keys as they were fetched together.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) keys: Arc<KeySet>,
    /// What the metadata and the options do not agree on.
    findings: Arc<[Finding]>,
    since: Instant,
}

/// What is known of the provider at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderStatus {
    /// Discovery has not ended yet.
    Pending,
    /// Metadata and keys are there.
    Discovered,
    /// Metadata and keys are there, but fetching them anew failed.
    Outdated(String),
    /// Discovery failed.
    Failed(String),
}

/// The provider. Cheap to clone.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
    http: BackChannel,
    /// What an account must have besides what the options require.
    required: RequiredClaims,
}

struct Inner {
    options: ProviderOptions,
    secrets: ArcSwap<Secrets>,
    keys: ArcSwap<ClientKeys>,
    known: RwLock<Option<Known>>,
    /// Why the last fetch failed, if it did.
    problem: RwLock<Option<LoginError>>,
    /// Locked while a fetch is under way, so that there is one only.
    fetches: Mutex<Fetches>,
}

/// The client secrets, with those that they replaced until the overlap is over.
struct Secrets {
    current: ClientSecrets,
    previous: Option<(ClientSecrets, Instant)>,
}

impl Secrets {
    fn usable(&self) -> ClientSecrets {
        match &self.previous {
            Some((previous, until)) if Instant::now() < *until => {
                self.current.clone().followed_by(previous)
            }
            _ => self.current.clone(),
        }
    }
}

/// The results of the last fetches.
#[derive(Default)]
struct Fetches {
    /// When what is known was last fetched anew.
    refreshed: Option<Instant>,
    /// When one last failed, and why.
    failed: Option<(Instant, LoginError)>,
    /// What was logged of the last findings.
    findings: Arc<[Finding]>,
}

impl Provider {
    /// A provider that is not discovered yet.
    ///
    /// # Errors
    /// When the options make no client.
    pub fn new(options: ProviderOptions) -> Result<Self, LoginError> {
        let http = BackChannel::new(options.timeout)
            .map_err(|error| LoginError::failed(Step::Configuration, error.to_string()))?;
        let current = options.client_secrets.clone();
        let inner = Arc::new(Inner {
            secrets: ArcSwap::from_pointee(Secrets { current, previous: None }),
            keys: ArcSwap::from_pointee(options.client_keys.clone()),
            options,
            known: RwLock::new(None),
            problem: RwLock::new(None),
            fetches: Mutex::default(),
        });
        Ok(Self { inner, http, required: RequiredClaims::default() })
    }

    /// The same provider, with the calls of the back channel recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { http: self.http.in_trace(trace), ..self.clone() }
    }

    /// The same provider for accounts that meet further requirements.
    #[must_use]
    pub fn requiring(self, required: RequiredClaims) -> Self {
        Self { required, ..self }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &ProviderOptions {
        &self.inner.options
    }

    /// Authenticates with other secrets from now on; those before are still tried for a while,
    /// since the provider may not know the new ones yet.
    pub fn replace_client_secrets(&self, secrets: ClientSecrets) {
        let previous = self.inner.secrets.load().current.clone();
        let previous = Some((previous, Instant::now() + SECRET_OVERLAP));
        self.inner.secrets.store(Arc::new(Secrets { current: secrets, previous }));
    }

    /// Authenticates with other keys from now on.
    pub fn replace_client_keys(&self, keys: ClientKeys) {
        self.inner.keys.store(Arc::new(keys));
    }

    /// The public halves of the client's keys as a JWK set, if it has keys.
    pub fn client_key_set(&self) -> Option<Value> {
        let keys = self.inner.keys.load();
        (!keys.is_empty()).then(|| keys.public_set())
    }

    /// Begins to discover the provider, so that the first person need not wait for it, and tries
    /// again until it is there.
    pub fn discover_in_background(&self) {
        let (inner, http) = (Arc::downgrade(&self.inner), self.http.clone());
        tokio::spawn(async move {
            let mut logged = None;
            while let Some(inner) = inner.upgrade() {
                let required = RequiredClaims::default();
                let provider = Self { inner, http: http.clone(), required };
                match provider.known_or_fetched().await {
                    Ok(known) => {
                        let issuer = known.metadata.issuer.as_str();
                        tracing::info!(issuer, "provider discovered");
                        return;
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        if logged.as_ref() != Some(&reason) {
                            tracing::warn!(
                                status = error.status,
                                content_type = error.content_type.as_deref(),
                                field = error.field.as_deref(),
                                reason,
                                "provider not discovered; trying again"
                            );
                            logged = Some(reason);
                        }
                    }
                }
                drop(provider);
                tokio::time::sleep(DISCOVERY_PAUSE).await;
            }
        });
    }

    /// What is known of the provider, for readiness.
    pub fn status(&self) -> ProviderStatus {
        let problem = self.inner.problem.read().unwrap_or_else(PoisonError::into_inner);
        let reason = problem.as_ref().map(|error| match error.status {
            Some(status) => format!("{error} (HTTP {status})"),
            None => error.to_string(),
        });
        match (self.known().is_some(), reason) {
            (true, None) => ProviderStatus::Discovered,
            (true, Some(reason)) => ProviderStatus::Outdated(reason),
            (false, None) => ProviderStatus::Pending,
            (false, Some(reason)) => ProviderStatus::Failed(reason),
        }
    }

    /// Time since metadata and keys were fetched, where they are there.
    pub fn known_for(&self) -> Option<std::time::Duration> {
        self.known().map(|known| known.since.elapsed())
    }

    fn known(&self) -> Option<Known> {
        self.inner.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authorization endpoint.
    ///
    /// # Errors
    /// When the provider is not discovered.
    pub async fn authorization_endpoint(&self) -> Result<Url, LoginError> {
        Ok(self.known_or_fetched().await?.metadata.authorization_endpoint.clone())
    }

    pub(crate) async fn known_or_fetched(&self) -> Result<Known, LoginError> {
        match self.known() {
            Some(known) if known.since.elapsed() < FRESH => Ok(known),
            // Outdated is better than none: a provider may be unavailable for a moment.
            Some(known) => Ok(self.fetch(Some(&known)).await.unwrap_or(known)),
            None => self.fetch(None).await,
        }
    }

    /// Newer metadata and keys than those that did not fit, unless they were fetched a moment ago.
    async fn newer(&self, outdated: &Known) -> Option<Known> {
        self.fetch(Some(outdated)).await.ok()
    }

    /// Fetches metadata and keys, unless another request just did.
    async fn fetch(&self, outdated: Option<&Known>) -> Result<Known, LoginError> {
        let arrived = Instant::now();
        let mut last = self.inner.fetches.lock().await;
        if let Some(known) = self.known()
            && outdated.is_none_or(|outdated| known.since > outdated.since)
        {
            return Ok(known);
        }
        // Requests that waited for a fetch that failed share its failure. Trying again one after
        // the other, the last of many would wait for as many timeouts.
        if let Some((when, error)) = &last.failed
            && *when >= arrived
        {
            return Err(error.clone());
        }
        // A first discovery is never held back; refreshing what is known is.
        if outdated.is_some() && last.refreshed.is_some_and(|last| last.elapsed() < FETCH_PAUSE) {
            let reason = "the metadata were fetched a moment ago";
            return Err(LoginError::new(FailureKind::Unavailable, Step::Discovery, reason));
        }
        // One deadline for metadata and key set together.
        let fetched = tokio::time::timeout(self.inner.options.timeout, self.discover()).await;
        let fetched = fetched.unwrap_or_else(|_| {
            let reason = "no answer within OIDC_TIMEOUT";
            Err(LoginError::new(FailureKind::Unavailable, Step::Discovery, reason))
        });
        // Not before: a fetch that ended with its request holds back no other.
        if outdated.is_some() {
            last.refreshed = Some(Instant::now());
        }
        let mut problem = self.inner.problem.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(known) => {
                let is_new = |finding: &&Finding| !last.findings.contains(finding);
                let grave =
                    known.findings.iter().filter(|finding| finding.severity > Severity::Note);
                for Finding { check, text, .. } in grave.filter(is_new) {
                    tracing::warn!(check, warning = text, "the provider and the settings");
                }
                last.findings = Arc::clone(&known.findings);
                *problem = None;
                let mut place = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
                *place = Some(known.clone());
                Ok(known)
            }
            Err(error) => {
                last.failed = Some((Instant::now(), error.clone()));
                *problem = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Fetches metadata and keys; refuses metadata of another issuer.
    async fn discover(&self) -> Result<Known, LoginError> {
        let options = &self.inner.options;
        let metadata_url = metadata_url(&options.issuer);
        let json = self.json(Step::Discovery, &metadata_url).await?;
        let metadata = Metadata::parse(&json, &options.issuer)?;
        if metadata.issuer.is_template() && options.allowed_tenants.is_empty() {
            let reason = "the provider serves many tenants: OIDC_ALLOWED_TENANTS must name those \
                that may sign in";
            return Err(LoginError::failed(Step::Configuration, reason).at("issuer"));
        }
        let keys = match &metadata.jwks_uri {
            Some(uri) => {
                let json = self.json(Step::Keys, uri).await?;
                KeySet::parse(&json).ok_or_else(|| {
                    LoginError::failed(Step::Keys, "the key set has no list of keys").at("keys")
                })?
            }
            // Tokens that are signed with the client secret need no keys.
            None if !options.signing_algorithms.is_empty() => KeySet::default(),
            None => {
                let reason = "the metadata lack a usable URL";
                return Err(LoginError::failed(Step::Discovery, reason).at("jwks_uri"));
            }
        };
        let mut known = Known {
            metadata: Arc::new(metadata),
            keys: Arc::new(keys),
            findings: Arc::default(),
            since: Instant::now(),
        };
        known.findings = probe::compare(&self.flow(&known), &known.keys).into();
        Ok(known)
    }

    /// What the provider's metadata and the options do not agree on, as far as it is known.
    pub fn findings(&self) -> Arc<[Finding]> {
        self.known().map(|known| known.findings).unwrap_or_default()
    }

    /// Fetches the metadata, compares them with the options, and asks the provider whether it takes
    /// this client with each of `redirect_uris`. Signs nobody in.
    pub async fn probe(&self, redirect_uris: &[String]) -> Vec<Finding> {
        let known = match self.known_or_fetched().await {
            Ok(known) => known,
            Err(error) => {
                let text = probe::described(&error);
                return vec![Finding::new(Severity::Error, "provider.discovery", text)];
            }
        };
        let issuer = known.metadata.issuer.as_str();
        let plural = if known.keys.len() == 1 { "" } else { "s" };
        let text = format!("discovered {issuer} with {} usable key{plural}", known.keys.len());
        let mut findings = vec![Finding::new(Severity::Note, "provider.discovery", text)];
        findings.extend(known.findings.iter().cloned());
        let flow = self.flow(&known);
        for redirect_uri in redirect_uris {
            let text = format!("to be registered at the provider: {redirect_uri}");
            findings.push(Finding::new(Severity::Note, "provider.redirect_uri", text));
            for finding in probe::ask(&flow, redirect_uri).await {
                // The credentials are the same for each.
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
        findings
    }

    async fn json(&self, step: Step, url: &Url) -> Result<Map<String, Value>, LoginError> {
        let received = self.http.get(url, "application/json").await;
        let received = received.map_err(|error| LoginError::no_answer(step, &error))?;
        if !received.status.is_success() {
            let reason = format!("no document at {}", url.as_str());
            return Err(LoginError::bad_answer(step, &received, reason));
        }
        received.json().ok_or_else(|| {
            let reason = format!("what is at {} is not a JSON object", url.as_str());
            LoginError::bad_answer(step, &received, reason)
        })
    }

    /// Begins a sign-in that comes back to the configured redirect URI.
    ///
    /// # Errors
    /// When the provider is not discovered or does not take the request.
    pub async fn begin(
        &self,
        asked: &AuthorizationOptions,
    ) -> Result<(Url, LoginAttempt), LoginError> {
        self.begin_at(&self.inner.options.redirect_uri, asked).await
    }

    /// Begins a sign-in that comes back to `redirect_uri`: code flow with state, nonce and PKCE.
    ///
    /// # Errors
    /// When the provider is not discovered or does not take the request.
    pub async fn begin_at(
        &self,
        redirect_uri: &str,
        asked: &AuthorizationOptions,
    ) -> Result<(Url, LoginAttempt), LoginError> {
        let known = self.known_or_fetched().await?;
        self.flow(&known).authorization(redirect_uri, asked).await
    }

    fn flow<'p>(&'p self, known: &'p Known) -> Flow<'p> {
        Flow {
            options: &self.inner.options,
            secrets: self.inner.secrets.load().usable(),
            keys: self.inner.keys.load_full(),
            metadata: &known.metadata,
            http: &self.http,
        }
    }

    /// Ends a sign-in begun by [`Self::begin`].
    ///
    /// # Errors
    /// [`LoginError`] for whatever went wrong on the way.
    pub async fn finish(
        &self,
        attempt: LoginAttempt,
        response: AuthorizationResponse,
    ) -> Result<Identity, LoginError> {
        self.finish_at(&self.inner.options.redirect_uri, attempt, response).await
    }

    /// Ends a sign-in begun by [`Self::begin_at`] with the same `redirect_uri`.
    ///
    /// # Errors
    /// [`LoginError`] for whatever went wrong on the way.
    pub async fn finish_at(
        &self,
        redirect_uri: &str,
        attempt: LoginAttempt,
        response: AuthorizationResponse,
    ) -> Result<Identity, LoginError> {
        let step = Step::AuthorizationResponse;
        if !response.state().is_some_and(|state| attempt.has_state(state)) {
            let reason = "the state is not this sign-in's";
            return Err(LoginError::failed(step, reason).at("state"));
        }
        if attempt.remaining().is_zero() {
            let reason = "the person took longer than the sign-in lasts";
            return Err(LoginError::new(FailureKind::TooLate, step, reason));
        }
        let mut known = self.known_or_fetched().await?;
        // Before anything else is believed, an error included (RFC 9207 §2.4).
        match &response.issuer {
            Some(issuer) if known.metadata.issuer.is_named_by(issuer) => {}
            None if !known.metadata.promises_iss => {}
            Some(_) => return Err(LoginError::failed(step, "`iss`: another issuer").at("iss")),
            None => {
                let reason = "`iss`: missing, though the provider announces it";
                return Err(LoginError::failed(step, reason).at("iss"));
            }
        }
        let code = match response.outcome {
            ResponseOutcome::Code(code) => code,
            ResponseOutcome::Error { code, description } => {
                return Err(LoginError::refused(ProviderError { code, description }));
            }
            ResponseOutcome::Malformed(reason) => return Err(LoginError::failed(step, reason)),
        };
        let verifier = &attempt.pkce_verifier;
        let exchanged = self.flow(&known).exchange(redirect_uri, &code, verifier).await;
        let tokens = match exchanged {
            Ok(tokens) => tokens,
            Err(error) => {
                // The provider may have moved, or wants another method now.
                let again = match self.moved(&known, &error).await {
                    Some(newer) => {
                        known = newer;
                        Some(self.flow(&known).exchange(redirect_uri, &code, verifier).await)
                    }
                    None => None,
                };
                again.unwrap_or(Err(error))?
            }
        };
        let mut verified = self.verifier(&known, |verifier| {
            verifier.id_token(&tokens.id_token, &attempt.nonce, &tokens.access_token)
        });
        if let Err(Unverified::Outdated(_)) = &verified
            && let Some(newer) = self.newer(&known).await
        {
            known = newer;
            verified = self.verifier(&known, |verifier| {
                verifier.id_token(&tokens.id_token, &attempt.nonce, &tokens.access_token)
            });
        }
        let id_token = verified.map_err(Unverified::into_error)?;
        self.identity(known, id_token, tokens, response.user.as_deref()).await
    }

    /// Newer metadata, where the exchange failed as it would at an endpoint that is not in use any
    /// more, and they make a difference. A timeout or a refused code says nothing about that.
    async fn moved(&self, known: &Known, error: &LoginError) -> Option<Known> {
        let code = error.provider.as_ref().map(|provider| provider.code.as_str());
        let may_have_moved = match (code, error.status) {
            (Some("invalid_client" | "unauthorized_client"), _) => true,
            (Some(_), _) => false,
            (None, Some(status)) => status >= 300,
            (None, None) => error.kind == FailureKind::Unavailable && !error.is_timeout(),
        };
        if !may_have_moved {
            return None;
        }
        let newer = self.newer(known).await?;
        let differs = newer.metadata.token_endpoint != known.metadata.token_endpoint
            || self.flow(&newer).method().ok() != self.flow(known).method().ok();
        differs.then_some(newer)
    }

    fn verifier<T>(&self, known: &Known, run: impl FnOnce(&TokenVerifier<'_>) -> T) -> T {
        let secrets = self.inner.secrets.load().usable();
        run(&TokenVerifier {
            options: &self.inner.options,
            secrets: &secrets,
            metadata: &known.metadata,
            keys: &known.keys,
        })
    }

    /// The identity of an ID token, with what userinfo adds.
    async fn identity(
        &self,
        mut known: Known,
        id_token: IdToken,
        tokens: Tokens,
        user: Option<&str>,
    ) -> Result<Identity, LoginError> {
        let options = &self.inner.options;
        let IdToken { issuer, subject, mut claims } = id_token;
        let wanted = |name: &str| {
            KEPT_CLAIMS.contains(&name)
                || options.claims.iter().any(|claim| claim == name)
                || options.required_claims.names().any(|claim| claim == name)
        };
        let mut asked = options
            .claims
            .iter()
            .map(String::as_str)
            .chain(options.required_claims.names())
            .chain(self.required.names());
        let lacks = asked.any(|name| !claims.contains_key(name));
        if lacks || options.userinfo_required {
            match self.userinfo(&mut known, &tokens.access_token, &subject).await {
                Ok(Some(userinfo)) => {
                    for (name, value) in userinfo {
                        claims.entry(name).or_insert(value);
                    }
                }
                Ok(None) if options.userinfo_required => {
                    let reason = "the provider has no UserInfo endpoint";
                    return Err(LoginError::failed(Step::Userinfo, reason).at("userinfo_endpoint"));
                }
                Ok(None) => {}
                Err(error) if options.userinfo_required => return Err(error),
                Err(error) => userinfo::log(&error),
            }
        }
        if let Some(user) = user {
            userinfo::add_user_parameter(user, &mut claims);
        }
        if !claims.contains_key("name")
            && let Some(name) = full_name(&claims)
        {
            claims.insert("name".to_owned(), Value::String(name));
        }
        if options.trust_email && claims.contains_key("email") {
            claims.entry("email_verified").or_insert(Value::Bool(true));
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut identity = Identity {
            issuer,
            acr: text("acr"),
            session_id: text("sid"),
            amr: texts(claims.get("amr")),
            auth_time: claims.get("auth_time").and_then(seconds),
            id_token: Some(IdTokenHint::new(tokens.id_token)),
            ..Identity::new(subject, Map::new())
        };
        check(&options.required_claims, &claims)?;
        check(&self.required, &claims)?;
        claims.retain(|name, _| wanted(name));
        identity.claims = claims;
        Ok(identity)
    }

    /// What the UserInfo endpoint says of the subject, if there is one.
    async fn userinfo(
        &self,
        known: &mut Known,
        access_token: &str,
        subject: &str,
    ) -> Result<Option<Map<String, Value>>, LoginError> {
        let Some(endpoint) = known.metadata.userinfo_endpoint.clone() else { return Ok(None) };
        let received = userinfo::fetch(&self.http, &endpoint, access_token).await?;
        let mut claims = match userinfo::signed(&received) {
            Some(token) => {
                let mut verified = self.verifier(known, |verifier| verifier.userinfo(token));
                if let Err(Unverified::Outdated(_)) = &verified
                    && let Some(newer) = self.newer(known).await
                {
                    *known = newer;
                    verified = self.verifier(known, |verifier| verifier.userinfo(token));
                }
                verified.map_err(Unverified::into_error)?
            }
            None => received.json().ok_or_else(|| {
                let reason = "the answer is neither a JSON object nor a signed token";
                LoginError::bad_answer(Step::Userinfo, &received, reason)
            })?,
        };
        claims.retain(|_, value| !value.is_null());
        // Another person's claims must never be mixed in (OpenID Connect Core §5.3.2).
        if claims.get("sub").and_then(Value::as_str) == Some(subject) {
            Ok(Some(claims))
        } else {
            let reason = "`sub`: not that of the ID token";
            Err(LoginError::bad_answer(Step::Userinfo, &received, reason).at("sub"))
        }
    }

    /// Where to send the browser to be logged out at the provider as well (OpenID Connect
    /// RP-Initiated Logout §2), if the provider offers that.
    pub async fn logout_url(&self, request: &logout::LogoutRequest<'_>) -> Option<Url> {
        let known = self.known_or_fetched().await.ok()?;
        let endpoint = known.metadata.end_session_endpoint.clone()?;
        Some(request.url(endpoint, &self.inner.options.client_id))
    }

    /// Verifies a logout token (OpenID Connect Back-Channel Logout §2.6).
    ///
    /// # Errors
    /// When it is not to be believed, or the provider is not discovered.
    pub async fn logout_token(&self, token: &str) -> Result<LogoutToken, LoginError> {
        let known = self.known_or_fetched().await?;
        let verified = self.verifier(&known, |verifier| verifier.logout_token(token));
        let verified = match verified {
            Err(Unverified::Outdated(error)) => match self.newer(&known).await {
                Some(newer) => self.verifier(&newer, |verifier| verifier.logout_token(token)),
                None => Err(Unverified::Outdated(error)),
            },
            verified => verified,
        };
        verified.map_err(Unverified::into_error)
    }
}

/// Whether an account may sign in by its claims.
///
/// # Errors
/// When a claim does not meet its requirement.
fn check(required: &RequiredClaims, claims: &Map<String, Value>) -> Result<(), LoginError> {
    match required.unmet(claims) {
        None => Ok(()),
        Some(name) => {
            let reason = match claims.contains_key(name) {
                true => format!("`{name}` has none of the required values"),
                false => format!("`{name}` is required, and the provider sends none"),
            };
            let error = LoginError::new(FailureKind::NotAllowed, Step::Requirements, reason);
            Err(error.at(name.to_owned()))
        }
    }
}

/// Where an issuer's metadata are.
pub(crate) fn metadata_url(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    url.set_path(&format!("{}{WELL_KNOWN}", issuer.path().trim_end_matches('/')));
    url
}

/// The texts of a claim that is a list of texts or one text.
fn texts(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// A time in whole seconds, of whatever shape.
fn seconds(claim: &Value) -> Option<u64> {
    let seconds = match claim {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse::<f64>().ok()?,
        _ => return None,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (seconds.is_finite() && seconds >= 0.0).then_some(seconds as u64)
}

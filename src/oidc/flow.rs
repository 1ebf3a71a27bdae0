//! The two requests of the code flow that carry a client's identity: the authorization request,
//! pushed where the provider wants it (RFC 9126), and the exchange of the code.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, StatusCode, header};
use openidconnect::{
    AsyncHttpClient, AuthUrl, AuthorizationCode, ClientId, CsrfToken, EmptyAdditionalClaims,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl, JsonWebKeySet, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    Scope, StandardErrorResponse, TokenUrl,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType,
        CoreGenderClaim, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreRevocableToken,
        CoreRevocationErrorResponse, CoreTokenIntrospectionResponse,
    },
};
use serde_json::Value;
use url::Url;

use crate::{
    oidc::{
        attempt::{DEFAULT_TTL, LoginAttempt},
        client_auth::{ClientCredentials, Method},
        client_key::ClientKeys,
        error::{LoginError, Step},
        http_client::{BYTE_ORDER_MARK, BackChannel, Received},
        metadata::Metadata,
        options::{AuthParams, AuthorizationOptions, ClientSecrets, Prompt, ProviderOptions},
        provider_error::ProviderError,
        token_response::TokenAnswer,
    },
    util::http_client::CallError,
};

/// The library's client with a token response of ours.
type Client = openidconnect::Client<
    EmptyAdditionalClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    TokenAnswer,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
>;

/// Characters of a state or nonce that the relay draws: 256 random bits.
const RANDOM_BYTES: u32 = 32;

/// The result of the token endpoint.
pub(crate) struct Tokens {
    pub(crate) access_token: String,
    pub(crate) id_token: String,
}

/// The code flow with one provider as it is known at the moment.
pub(crate) struct Flow<'p> {
    pub(crate) options: &'p ProviderOptions,
    pub(crate) secrets: ClientSecrets,
    pub(crate) keys: Arc<ClientKeys>,
    pub(crate) metadata: &'p Metadata,
    pub(crate) http: &'p BackChannel,
}

impl Flow<'_> {
    /// How the client authenticates.
    pub(crate) fn method(&self) -> Result<Method, LoginError> {
        Method::choose(
            self.options.client_auth,
            !self.secrets.is_empty(),
            !self.keys.is_empty(),
            self.metadata,
        )
    }

    fn client(&self, redirect_uri: &str) -> Result<Client, LoginError> {
        let refused = |error: openidconnect::url::ParseError| {
            LoginError::failed(Step::Configuration, error.to_string())
        };
        let issuer = self.metadata.issuer.of_tenant("tenant");
        let issuer = IssuerUrl::new(issuer).map_err(refused)?;
        let id = ClientId::new(self.options.client_id.clone());
        let client = openidconnect::Client::new(id, issuer, JsonWebKeySet::default());
        Ok(client
            .set_auth_uri(AuthUrl::from_url(self.metadata.authorization_endpoint.clone()))
            .set_token_uri(TokenUrl::from_url(self.metadata.token_endpoint.clone()))
            .set_redirect_uri(RedirectUrl::new(redirect_uri.to_owned()).map_err(refused)?))
    }

    /// Makes an authorization request: where to send the browser, and what to remember.
    pub(crate) async fn authorization(
        &self,
        redirect_uri: &str,
        asked: &AuthorizationOptions,
    ) -> Result<(Url, LoginAttempt), LoginError> {
        let method = self.method()?;
        let (url, attempt) = self.request(method, redirect_uri, asked)?;
        let url = if self.metadata.requires_par { self.push(method, &url).await? } else { url };
        Ok((url, attempt))
    }

    /// The request as a URL.
    fn request(
        &self,
        method: Method,
        redirect_uri: &str,
        asked: &AuthorizationOptions,
    ) -> Result<(Url, LoginAttempt), LoginError> {
        let client = self.client(redirect_uri)?;
        let state = asked.state.clone();
        let mut request = client.authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            || state.map_or_else(|| CsrfToken::new_random_len(RANDOM_BYTES), CsrfToken::new),
            || Nonce::new_random_len(RANDOM_BYTES),
        );
        let mut verifier = String::new();
        if self.options.pkce || method == Method::None {
            let (challenge, secret) = PkceCodeChallenge::new_random_sha256();
            request = request.set_pkce_challenge(challenge);
            verifier = secret.into_secret();
        }
        for scope in self.options.scopes.iter().filter(|scope| *scope != "openid") {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        for (name, value) in self.parameters(asked).iter() {
            request = request.add_extra_param(name.to_owned(), value.to_owned());
        }
        let (url, state, nonce) = request.url();
        let attempt = LoginAttempt::new(
            state.into_secret(),
            nonce.secret().clone(),
            verifier,
            asked.ttl.unwrap_or(DEFAULT_TTL),
        );
        Ok((url, attempt))
    }

    /// The parameters besides those that the protocol needs.
    fn parameters(&self, asked: &AuthorizationOptions) -> AuthParams {
        let mut parameters = self.options.auth_params.clone();
        for (name, value) in asked.params.iter() {
            parameters.set(name, value);
        }
        match asked.prompt {
            Some(Prompt::None) => parameters.set("prompt", "none"),
            // What the operator says is at least as strict as what a session asks for.
            Some(prompt) if parameters.get("prompt").is_none() => {
                // The closest value that the provider announces.
                let choice = [prompt, Prompt::Login].map(Prompt::as_str);
                match choice.into_iter().find(|value| self.metadata.may_prompt(value)) {
                    Some(value) => parameters.set("prompt", value),
                    None => parameters.remove("prompt"),
                }
            }
            Some(_) | None => {}
        }
        if let Some(hint) = asked.login_hint.as_deref().filter(|hint| !hint.is_empty()) {
            parameters.set("login_hint", hint);
        }
        if let Some(locales) = &asked.ui_locales
            && self.metadata.ui_locales.is_some()
        {
            parameters.set("ui_locales", locales.as_str());
        }
        parameters
    }

    /// Pushes the request (RFC 9126 §2); gives where to send the browser with its reference.
    async fn push(&self, method: Method, url: &Url) -> Result<Url, LoginError> {
        let step = Step::PushedAuthorization;
        let endpoint = self.metadata.par_endpoint.as_ref().ok_or_else(|| {
            let reason = "the provider requires pushed requests but names no place for them";
            LoginError::failed(Step::Discovery, reason).at("pushed_authorization_request_endpoint")
        })?;
        let pairs = url.query_pairs().into_owned().collect::<Vec<_>>();
        let mut last = None;
        for secret in self.secrets_for(method) {
            let credentials = self.credentials(method, secret)?;
            // The request names the client already.
            let fields = credentials.fields.iter().filter(|(name, _)| *name != "client_id");
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&pairs)
                .extend_pairs(fields)
                .finish();
            let mut request = http::Request::post(endpoint.as_str())
                .header(header::ACCEPT, "application/json")
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some(value) = credentials.authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let request = request.body(form.into_bytes());
            let request = request
                .map_err(|_| LoginError::failed(step, "the request cannot be represented"))?;
            let received = match self.http.send(request).await {
                Ok(response) => Received::from(response),
                Err(error) => return Err(LoginError::no_answer(step, &error)),
            };
            let json = received.json().filter(|_| received.status.is_success());
            if let Some(Value::String(reference)) =
                json.as_ref().and_then(|json| json.get("request_uri"))
            {
                let mut pushed = self.metadata.authorization_endpoint.clone();
                pushed
                    .query_pairs_mut()
                    .append_pair("client_id", &self.options.client_id)
                    .append_pair("request_uri", reference);
                return Ok(pushed);
            }
            let reason = match (received.status.is_success(), &json) {
                (true, Some(_)) => "the answer names no request",
                (true, None) => "the answer is not a JSON object",
                (false, _) => "the provider refused the request",
            };
            let error = self.explained(LoginError::bad_answer(step, &received, reason), method);
            let is_refused_client = is_invalid_client(&error);
            last = Some(error);
            if !is_refused_client {
                break;
            }
        }
        Err(last.unwrap_or_else(|| LoginError::failed(step, "there is no credential")))
    }

    /// Exchanges the code (RFC 6749 §4.1.3).
    pub(crate) async fn exchange(
        &self,
        redirect_uri: &str,
        code: &str,
        verifier: &str,
    ) -> Result<Tokens, LoginError> {
        let method = self.method()?;
        let mut last = None;
        for (position, secret) in self.secrets_for(method).into_iter().enumerate() {
            match self.exchange_with(method, secret, redirect_uri, code, verifier).await {
                Ok(tokens) => {
                    if position > 0 {
                        tracing::warn!(
                            "the provider refused the first client secret and took another"
                        );
                    }
                    return Ok(tokens);
                }
                Err(error) if is_invalid_client(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            LoginError::failed(Step::TokenEndpoint, "there is no credential to send")
        }))
    }

    /// The secrets to try, or none once where the method sends none.
    fn secrets_for(&self, method: Method) -> Vec<Option<&str>> {
        if method.sends_secret() { self.secrets.expose().map(Some).collect() } else { vec![None] }
    }

    fn credentials(
        &self,
        method: Method,
        secret: Option<&str>,
    ) -> Result<ClientCredentials, LoginError> {
        ClientCredentials::new(method, self.options, secret, &self.keys, self.metadata)
    }

    async fn exchange_with(
        &self,
        method: Method,
        secret: Option<&str>,
        redirect_uri: &str,
        code: &str,
        verifier: &str,
    ) -> Result<Tokens, LoginError> {
        let step = Step::TokenEndpoint;
        let client = self.client(redirect_uri)?;
        let credentials = self.credentials(method, secret)?;
        let mut request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
        if !verifier.is_empty() {
            request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
        }
        for (name, value) in credentials.fields.iter().filter(|(name, _)| *name != "client_id") {
            request = request.add_extra_param(*name, value.clone());
        }
        let channel = TokenChannel {
            http: self.http.clone(),
            authorization: credentials.authorization,
            received: Mutex::new(None),
        };
        let result = request.request_async(&channel).await;
        let received = channel.received.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(received) = received else {
            return Err(match result {
                Err(RequestTokenError::Request(error)) => LoginError::no_answer(step, &error),
                _ => LoginError::failed(step, "the request cannot be represented"),
            });
        };
        let error = match result {
            Ok(TokenAnswer { wrong: None, id_token: None, .. }) => {
                let reason = "the answer has no ID token; is `openid` allowed for this client?";
                LoginError::bad_answer(step, &received, reason).at("id_token")
            }
            Ok(answer) => match (answer.wrong, answer.id_token.clone()) {
                (None, Some(id_token)) => {
                    let access_token = answer.access_token().secret().clone();
                    return Ok(Tokens { access_token, id_token });
                }
                (field, _) => {
                    let reason = if received.provider_error().is_some() {
                        "the answer is an error, though its status is not".to_owned()
                    } else {
                        format!("the answer's `{}` is not acceptable", field.unwrap_or("id_token"))
                    };
                    let error = LoginError::bad_answer(step, &received, reason);
                    match error.provider {
                        Some(_) => error.at("error"),
                        None => error.at(field.unwrap_or("id_token")),
                    }
                }
            },
            Err(_) => {
                let reason = match (received.status.is_success(), received.status.is_redirection())
                {
                    (true, _) => "the answer is not a JSON object",
                    (_, true) => "the answer is a redirect, which is not followed",
                    _ => "the provider refused the code or the client",
                };
                LoginError::bad_answer(step, &received, reason)
            }
        };
        let mut error = self.explained(error, method);
        // A provider may repeat what it was sent.
        let secrets = [Some(code), Some(verifier), secret];
        error.redact(secrets.into_iter().flatten());
        Err(error)
    }

    /// Adds what the operator must know to what the provider said.
    fn explained(&self, mut error: LoginError, method: Method) -> LoginError {
        match error.provider.as_ref().map(|provider| provider.code.as_str()) {
            Some("invalid_client" | "unauthorized_client") => {
                error.client_auth = Some(method.described());
                error.reason = "the provider does not accept this client or its credentials: \
                    compare client ID, secret and method with its registration"
                    .into();
            }
            Some("invalid_grant") => {
                error.reason = "the provider does not accept the code: it was used, has expired, \
                    or belongs to another client, redirect URI or PKCE verifier"
                    .into();
            }
            _ if error.status == Some(401) => error.client_auth = Some(method.described()),
            _ => {}
        }
        error
    }
}

fn is_invalid_client(error: &LoginError) -> bool {
    error.provider.as_ref().is_some_and(|provider| provider.code == "invalid_client")
}

/// The way to the token endpoint: adds the client's header, which the library knows in one form
/// only, and keeps the answer as it came.
struct TokenChannel {
    http: BackChannel,
    authorization: Option<HeaderValue>,
    received: Mutex<Option<Received>>,
}

impl TokenChannel {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let answer = Received::from(self.http.send(self.authorized(request)).await?);
        let response = for_library(&answer);
        *self.received.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        Ok(response)
    }

    /// The form names the client only where no header does.
    fn authorized(&self, mut request: HttpRequest) -> HttpRequest {
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            let pairs = url::form_urlencoded::parse(request.body()).into_owned();
            let others = pairs.filter(|(name, _)| name != "client_id").collect::<Vec<_>>();
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            *request.body_mut() = form.extend_pairs(others).finish().into_bytes();
        }
        request
    }
}

impl<'c> AsyncHttpClient<'c> for TokenChannel {
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, CallError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

/// The answer as the library has it: 200 for every success, and JSON by its content type if it is
/// JSON.
fn for_library(answer: &Received) -> HttpResponse {
    let is_json = answer.json().is_some();
    let body = answer.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&answer.body);
    let mut response = HttpResponse::new(body.to_vec());
    *response.status_mut() = match answer.status {
        status if status.is_success() && is_json => StatusCode::OK,
        status if status.is_success() => StatusCode::BAD_GATEWAY,
        status => status,
    };
    if is_json {
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    response
}

impl LoginError {
    /// Takes what must not be logged out of what the provider said.
    fn redact<'s>(&mut self, secrets: impl Iterator<Item = &'s str>) {
        let Some(provider) = &mut self.provider else { return };
        let ProviderError { code, description } = &mut **provider;
        for secret in secrets.filter(|secret| secret.len() >= 4) {
            for text in [Some(&mut *code), description.as_mut()].into_iter().flatten() {
                *text = text.replace(secret, "(redacted)");
                // The bound on the text may have cut the secret in two.
                let beginnings = (4..secret.len()).rev().filter_map(|end| secret.get(..end));
                if let Some(cut) = beginnings.into_iter().find(|cut| text.ends_with(cut)) {
                    text.truncate(text.len() - cut.len());
                }
            }
        }
    }
}

//! What the provider offers against what is configured, and what it says to this very client.

use http::{HeaderValue, header};
use openidconnect::HttpRequest;
use url::Url;

use crate::oidc::{
    error::{FailureKind, LoginError, Step},
    flow::Flow,
    http_client::{Received, uri},
    jws::{self, KeySet},
    options::{AuthorizationOptions, ClientAuth, Prompt, lists},
    provider_error::{ProviderError, clean},
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is to be done.
    Note,
    /// Some sign-ins may fail, or protection is given away.
    Warning,
    /// Sign-ins fail.
    Error,
}

impl Severity {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at, such as `provider.scopes`.
    pub check: &'static str,
    /// What was found and, where something is to be done, the setting that does it.
    pub text: String,
}

impl Finding {
    /// A finding.
    pub fn new(severity: Severity, check: &'static str, text: impl Into<String>) -> Self {
        Self { severity, check, text: text.into() }
    }
}

/// Finds with less to write.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn note(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Finding::new(Severity::Note, check, text));
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Finding::new(Severity::Warning, check, text));
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Finding::new(Severity::Error, check, text));
    }
}

/// The names that the provider lists, fit to be shown.
fn shown(list: &[String]) -> String {
    clean(&list.join(" "))
}

/// Compares what the provider announces with what is configured. Sends nothing.
pub(crate) fn compare(flow: &Flow<'_>, keys: &KeySet) -> Vec<Finding> {
    let (options, metadata) = (flow.options, flow.metadata);
    let mut found = Findings::default();
    for warning in &metadata.warnings {
        found.warn("provider.metadata", warning.as_str());
    }
    compare_authentication(flow, &mut found);
    compare_signatures(flow, keys, &mut found);
    if let Some(offered) = &metadata.scopes {
        let lacks = |scope: &&String| !offered.contains(scope);
        for scope in options.scopes.iter().filter(lacks) {
            let text =
                format!("`{scope}` of OIDC_SCOPES is not in scopes_supported ({})", shown(offered));
            found.warn("provider.scopes", text);
        }
    }
    if let Some(mode) = options.auth_params.get("response_mode") {
        // The default of OpenID Connect Discovery §3.
        let default = ["query", "fragment"].map(str::to_owned);
        let offered = metadata.response_modes.as_deref().unwrap_or(&default);
        if !offered.iter().any(|name| name == mode) {
            let text = format!(
                "`{mode}` of OIDC_AUTH_PARAMS is not in response_modes_supported ({})",
                shown(offered)
            );
            found.warn("provider.response_mode", text);
        }
    }
    let takes_pkce = lists(metadata.challenge_methods.as_deref(), "S256");
    match (options.pkce, takes_pkce) {
        (true, Some(false)) => {
            let text = "code_challenge_methods_supported lacks S256; OIDC_PKCE=false leaves it out";
            found.warn("provider.pkce", text);
        }
        (false, Some(true)) => {
            let text = "the provider takes PKCE, but OIDC_PKCE=false leaves it out";
            found.warn("provider.pkce", text);
        }
        (true, None) => found.note(
            "provider.pkce",
            "the provider does not announce PKCE; it is sent, since a provider ignores what it does \
             not know (RFC 6749 §3.1)",
        ),
        (true, Some(true)) | (false, _) => {}
    }
    if let Some(offered) = &metadata.claims {
        let lacks = |name: &&str| !offered.iter().any(|claim| claim == name);
        for name in options.required_claims.names().filter(lacks) {
            let text = format!("`{name}` of OIDC_REQUIRED_CLAIMS is not in claims_supported");
            found.warn("provider.claims", text);
        }
        for name in options.claims.iter().map(String::as_str).filter(lacks) {
            let text = format!("the claim `{name}` is not in claims_supported");
            found.note("provider.claims", text);
        }
    }
    match (&metadata.userinfo_endpoint, options.userinfo_required) {
        (None, true) => found.fail(
            "provider.userinfo",
            "OIDC_USERINFO_REQUIRED=true, but the provider has no userinfo_endpoint",
        ),
        (None, false) => found.note("provider.userinfo", "there is no userinfo_endpoint"),
        (Some(_), _) => {}
    }
    if metadata.requires_par && metadata.par_endpoint.is_none() {
        let text = "the provider requires pushed requests but names no place for them \
            (pushed_authorization_request_endpoint)";
        found.fail("provider.par", text);
    }
    if !metadata.may_prompt(Prompt::SelectAccount.as_str()) {
        let text = "prompt_values_supported lacks select_account; after a typed code `login` is \
            asked for in its place, if that is supported";
        found.note("provider.prompt", text);
    }
    if metadata.end_session_endpoint.is_none() {
        let text = "there is no end_session_endpoint; a logout ends at the relay";
        found.note("provider.logout", text);
    }
    found.0
}

fn compare_authentication(flow: &Flow<'_>, found: &mut Findings) {
    const CHECK: &str = "provider.client_auth";
    let (options, metadata) = (flow.options, flow.metadata);
    let method = match flow.method() {
        Ok(method) => method,
        Err(error) => return found.fail(CHECK, error.reason),
    };
    found.note(CHECK, format!("the relay authenticates by {}", method.described()));
    let offered = metadata.token_auth_methods.as_deref();
    if options.client_auth != ClientAuth::Auto && lists(offered, method.as_str()) == Some(false) {
        let text = format!(
            "{} is not in token_endpoint_auth_methods_supported ({})",
            method.as_str(),
            shown(offered.unwrap_or_default())
        );
        found.warn(CHECK, text);
    }
    let algorithms = metadata.token_auth_algorithms.as_deref();
    if method.sends_assertion() && !flow.keys.sign_with_one_of(algorithms) {
        let text = format!(
            "OIDC_CLIENT_KEY signs with none of token_endpoint_auth_signing_alg_values_supported \
             ({})",
            shown(algorithms.unwrap_or_default())
        );
        found.warn(CHECK, text);
    }
}

fn compare_signatures(flow: &Flow<'_>, keys: &KeySet, found: &mut Findings) {
    const CHECK: &str = "provider.signatures";
    let configured = &flow.options.signing_algorithms;
    let announced = flow.metadata.signing_algorithms.as_deref();
    if let Some(announced) = announced {
        let is_accepted = |name: &String| {
            jws::algorithm(name).is_some_and(|algorithm| {
                if configured.is_empty() {
                    !jws::is_symmetric(algorithm)
                } else {
                    configured.contains(algorithm)
                }
            })
        };
        if !announced.iter().any(is_accepted) {
            let text = format!(
                "the provider signs ID tokens with none of the algorithms that the relay accepts \
                 ({}); those with the client secret must be named in OIDC_SIGNING_ALGORITHMS",
                shown(announced)
            );
            found.fail(CHECK, text);
        }
        for name in configured.names().filter(|name| !announced.contains(name)) {
            let text = format!(
                "`{name}` of OIDC_SIGNING_ALGORITHMS is not in \
                 id_token_signing_alg_values_supported ({})",
                shown(announced)
            );
            found.warn(CHECK, text);
        }
    }
    if keys.len() == 0 && !configured.needs_secret() {
        found.fail(CHECK, "the key set has no key that the relay can use");
    } else if keys.skipped > 0 {
        let all = keys.len() + keys.skipped;
        let text = format!("{} of the {all} keys of the key set cannot be used", keys.skipped);
        found.note(CHECK, text);
    }
}

/// Asks the provider what it says to this client: whether it takes an authorization request that
/// comes back to `redirect_uri`, and the client's credentials. Signs nobody in.
pub(crate) async fn ask(flow: &Flow<'_>, redirect_uri: &str) -> Vec<Finding> {
    let mut found = Findings::default();
    match flow.authorization(redirect_uri, &AuthorizationOptions::default()).await {
        Ok((url, _)) => ask_authorization(flow, &url, redirect_uri, &mut found).await,
        Err(error) => found.fail("provider.authorization", described(&error)),
    }
    const CHECK: &str = "provider.credentials";
    // No provider issued this code, so whoever accepts the client refuses the code.
    let verifier = "token-relay-check-config-token-relay-check-config";
    match flow.exchange(redirect_uri, "token-relay-check-config", verifier).await {
        Err(error) => match error.provider.as_ref().map(|error| error.code.as_str()) {
            Some("invalid_grant") => found.note(CHECK, "the provider accepts the client"),
            Some("invalid_client" | "unauthorized_client") => found.fail(CHECK, described(&error)),
            _ if error.kind == FailureKind::Unavailable || error.status == Some(401) => {
                found.fail(CHECK, described(&error));
            }
            _ => {
                let text = format!(
                    "whether the provider accepts the client cannot be seen in its answer: {}",
                    described(&error)
                );
                found.warn(CHECK, text);
            }
        },
        Ok(_) => found.warn(CHECK, "the provider exchanged a code that it never issued"),
    }
    found.0
}

/// Opens the authorization request as a browser without cookies does, and follows nothing.
async fn ask_authorization(flow: &Flow<'_>, url: &Url, redirect_uri: &str, found: &mut Findings) {
    const CHECK: &str = "provider.authorization";
    let mut request = HttpRequest::new(Vec::new());
    *request.uri_mut() = uri(url);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/html"));
    let response = match flow.http.send(request).await {
        Ok(response) => response,
        Err(error) => {
            let error = LoginError::no_answer(Step::AuthorizationResponse, &error);
            return found.fail(CHECK, described(&error));
        }
    };
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let sent_back = location
        .and_then(|location| url.join(location).ok())
        .filter(|location| location.as_str().starts_with(redirect_uri));
    let parameter = |name: &str| {
        let mut pairs = sent_back.as_ref()?.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    if let Some(code) = parameter("error") {
        let error = ProviderError::new(&code, parameter("error_description").as_deref());
        let text = format!("the provider refuses the request: {}", named(&error));
        return found.fail(CHECK, text);
    }
    let received = Received::from(response);
    match received.status {
        status if status.is_success() || status.is_redirection() => {
            let text = format!("the provider takes a request that comes back to {redirect_uri}");
            found.note(CHECK, text);
        }
        status if status.is_client_error() => {
            let error = received.provider_error().map(|error| format!(": {}", named(&error)));
            let text = format!(
                "the provider refuses the request (HTTP {}){}; is {redirect_uri} registered for \
                 the client {}, and does it take every parameter of OIDC_AUTH_PARAMS and \
                 OIDC_SCOPES?",
                status.as_u16(),
                error.unwrap_or_default(),
                flow.options.client_id,
            );
            found.fail(CHECK, text);
        }
        status => {
            let text = format!("the authorization endpoint answers HTTP {}", status.as_u16());
            found.warn(CHECK, text);
        }
    }
}

fn named(error: &ProviderError) -> String {
    match &error.description {
        Some(description) => format!("{} ({description})", error.code),
        None => error.code.clone(),
    }
}

/// An error with what the provider said, on one line.
pub(crate) fn described(error: &LoginError) -> String {
    let mut text = error.to_string();
    if let Some(status) = error.status {
        text.push_str(&format!(" (HTTP {status})"));
    }
    if let Some(provider) = &error.provider {
        text.push_str(&format!("; the provider says {}", named(provider)));
    }
    if let Some(method) = error.client_auth {
        text.push_str(&format!("; sent: {method}"));
    }
    text
}

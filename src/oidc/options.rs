//! What the operator configures about the provider and about this client of it, in the form that
//! the client works with.

use std::{borrow::Cow, time::Duration};

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroizing;

use crate::oidc::{claims::has_value, client_key::ClientKeys, jws};

/// How the relay authenticates at the token endpoint (OpenID Connect Core §9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// `private_key_jwt` where a key is configured; else `client_secret_basic`, unless the provider
    /// offers only others; `none` without any credential.
    #[default]
    Auto,
    /// `client_secret_basic`, ID and secret form-encoded first (RFC 6749 §2.3.1).
    Basic,
    /// `client_secret_basic` with ID and secret as they are, as RFC 7617 alone would have it.
    BasicRaw,
    /// `client_secret_post`.
    Post,
    /// `private_key_jwt` (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// `none`: a public client.
    None,
}

impl ClientAuth {
    /// Every method, as the setting names it.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("basic", Self::Basic),
        ("basic_raw", Self::BasicRaw),
        ("post", Self::Post),
        ("private_key_jwt", Self::PrivateKeyJwt),
        ("none", Self::None),
    ];

    /// The method of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find_map(|(known, method)| (*known == name).then_some(*method))
    }
}

/// Client secrets: the first is sent, the others are tried when the provider refuses it, so that a
/// rotation needs no moment at which both sides change.
#[derive(Clone, Default)]
pub struct ClientSecrets(Vec<Zeroizing<String>>);

impl std::fmt::Debug for ClientSecrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ClientSecrets({} redacted)", self.0.len())
    }
}

impl ClientSecrets {
    /// Takes secrets, the one to be sent first.
    pub fn new<T: Into<String>>(secrets: impl IntoIterator<Item = T>) -> Self {
        Self(secrets.into_iter().map(|secret| Zeroizing::new(secret.into())).collect())
    }

    /// The secrets themselves.
    pub(crate) fn expose(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|secret| secret.as_str())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These first, then those of `previous` that are not among them.
    #[must_use]
    pub fn followed_by(mut self, previous: &Self) -> Self {
        /// One that is in use and one that was.
        const MAX: usize = 4;
        for secret in &previous.0 {
            if self.0.len() < MAX && !self.0.contains(secret) {
                self.0.push(secret.clone());
            }
        }
        self
    }
}

/// Further parameters of the authorization request, such as `acr_values`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthParams(Vec<(String, String)>);

/// Parameters that the relay sets itself.
const OWN_PARAMETERS: [&str; 10] = [
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
];

impl AuthParams {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is expected instead, when the relay sets a parameter itself or cannot take the answer.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parameters = Vec::<(String, String)>::new();
        for (name, value) in url::form_urlencoded::parse(text.trim().as_bytes()) {
            if name.is_empty() || OWN_PARAMETERS.contains(&&*name) {
                return Err(format!(
                    "a query string of further parameters; the relay sets `{name}` itself"
                ));
            }
            if name == "response_mode" && value != "query" && value != "form_post" {
                return Err("response_mode `query` or `form_post`".to_owned());
            }
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(format!("a query string with one `{name}`"));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// Every parameter.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a parameter.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }
}

/// Claims that an account must have to sign in, such as `email_verified=true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredClaims(Vec<(String, Vec<String>)>);

impl RequiredClaims {
    /// Reads requirements `name=value` or `name=value|value`; each must be met, by one of its
    /// values.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse<'t>(requirements: impl IntoIterator<Item = &'t str>) -> Result<Self, String> {
        requirements
            .into_iter()
            .map(|text| {
                let (name, values) = text
                    .split_once('=')
                    .ok_or("requirements such as email_verified=true or groups=staff|admins")?;
                let values = values.split('|').map(str::trim).map(str::to_owned);
                let values = values.filter(|value| !value.is_empty()).collect::<Vec<_>>();
                if name.trim().is_empty() || values.is_empty() {
                    return Err("a name and a value in each requirement".to_owned());
                }
                Ok((name.trim().to_owned(), values))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The names of the claims.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The first claim that does not meet its requirement. An array meets it by one element.
    pub fn unmet<'s>(&'s self, claims: &Map<String, Value>) -> Option<&'s str> {
        let met = |(name, values): &&(String, Vec<String>)| {
            claims.get(name).is_some_and(|claim| values.iter().any(|value| has_value(claim, value)))
        };
        self.0.iter().find(|requirement| !met(requirement)).map(|(name, _)| name.as_str())
    }
}

/// Algorithms with which ID tokens and signed userinfo may be signed. Without any named, the
/// asymmetric ones that the provider announces: a shared secret must be asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningAlgorithms(Vec<Algorithm>);

impl SigningAlgorithms {
    /// Reads their names (RFC 7518 §3.1, RFC 8037).
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse<'t>(names: impl IntoIterator<Item = &'t str>) -> Result<Self, String> {
        names
            .into_iter()
            .map(|name| {
                jws::algorithm(name).ok_or_else(|| format!("one of {}", jws::SUPPORTED.join(", ")))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether one of them is a shared secret's.
    pub fn needs_secret(&self) -> bool {
        self.0.iter().any(|algorithm| jws::is_symmetric(*algorithm))
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|algorithm| format!("{algorithm:?}"))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, algorithm: Algorithm) -> bool {
        self.0.contains(&algorithm)
    }
}

/// Everything that is configured about the provider and this client of it.
#[derive(Clone, Debug)]
pub struct ProviderOptions {
    /// The provider's issuer identifier, `https` unless loopback.
    pub issuer: Url,
    /// `client_id`.
    pub client_id: String,
    /// Client secrets.
    pub client_secrets: ClientSecrets,
    /// Keys for `private_key_jwt`.
    pub client_keys: ClientKeys,
    /// How to authenticate at the token endpoint.
    pub client_auth: ClientAuth,
    /// `aud` of client assertions; the issuer if there is none.
    pub assertion_audience: Option<String>,
    /// Scopes; `openid` is always sent.
    pub scopes: Vec<String>,
    /// Further parameters of every authorization request.
    pub auth_params: AuthParams,
    /// Whether the authorization request carries a PKCE challenge (RFC 7636). Without, only the
    /// nonce binds the code to the attempt, so a public client always sends it.
    pub pkce: bool,
    /// Where the provider sends people back to.
    pub redirect_uri: String,
    /// For one back-channel call.
    pub timeout: Duration,
    /// Tolerated difference between the provider's clock and ours.
    pub clock_skew: Duration,
    /// Claims to look up at the UserInfo endpoint where the ID token lacks them, and to keep.
    pub claims: Vec<String>,
    /// Audiences besides the client ID that an ID token may have.
    pub trusted_audiences: Vec<String>,
    /// Tenants (`tid`) that may sign in where the provider serves many.
    pub allowed_tenants: Vec<String>,
    /// What an account must have.
    pub required_claims: RequiredClaims,
    /// Whether an e-mail address counts as verified where the provider does not say.
    pub trust_email: bool,
    /// Whether a sign-in fails where userinfo cannot be had.
    pub userinfo_required: bool,
    /// Algorithms for ID tokens and signed userinfo.
    pub signing_algorithms: SigningAlgorithms,
}

impl ProviderOptions {
    /// A public client with the default of every option.
    pub fn new(issuer: Url, client_id: impl Into<String>, redirect_uri: impl Into<String>) -> Self {
        Self {
            issuer,
            client_id: client_id.into(),
            client_secrets: ClientSecrets::default(),
            client_keys: ClientKeys::default(),
            client_auth: ClientAuth::Auto,
            assertion_audience: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec(),
            auth_params: AuthParams::default(),
            pkce: true,
            redirect_uri: redirect_uri.into(),
            timeout: Duration::from_secs(10),
            clock_skew: Duration::from_secs(60),
            claims: Vec::new(),
            trusted_audiences: Vec::new(),
            allowed_tenants: Vec::new(),
            required_claims: RequiredClaims::default(),
            trust_email: false,
            userinfo_required: false,
            signing_algorithms: SigningAlgorithms::default(),
        }
    }
}

/// `prompt` of an authorization request (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// The person must not be asked.
    None,
    /// The person must authenticate again.
    Login,
    /// The person must consent again.
    Consent,
    /// The person must choose an account.
    SelectAccount,
}

impl From<crate::api::Prompt> for Prompt {
    fn from(requested: crate::api::Prompt) -> Self {
        match requested {
            crate::api::Prompt::Login => Self::Login,
            crate::api::Prompt::SelectAccount => Self::SelectAccount,
            crate::api::Prompt::Consent => Self::Consent,
        }
    }
}

impl Prompt {
    /// The parameter's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Login => "login",
            Self::Consent => "consent",
            Self::SelectAccount => "select_account",
        }
    }
}

/// What one authorization request asks for besides what is configured.
#[derive(Clone, Debug, Default)]
pub struct AuthorizationOptions {
    /// `state`, 32 characters or more that nobody can guess; random if there is none.
    pub state: Option<String>,
    /// How long the person may take; ten minutes if nothing is said.
    pub ttl: Option<Duration>,
    /// `login_hint`.
    pub login_hint: Option<String>,
    /// `prompt`. One that the operator configures takes its place, but never that of `none`.
    pub prompt: Option<Prompt>,
    /// `ui_locales`, sent only where the provider announces locales.
    pub ui_locales: Option<String>,
    /// Further parameters, which take the place of the configured ones.
    pub params: AuthParams,
}

/// The first of `texts` that names something in `list`.
pub(crate) fn lists(list: Option<&[String]>, text: &str) -> Option<bool> {
    list.map(|list| list.iter().any(|entry| entry == text))
}

/// A text that is most often one of ours.
pub(crate) type Text = Cow<'static, str>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_of_the_relay_cannot_be_configured() {
        let params = AuthParams::parse("acr_values=eidas1&claims=%7B%22a%22%3A1%7D").unwrap();
        assert_eq!(params.get("acr_values"), Some("eidas1"));
        assert_eq!(params.get("claims"), Some("{\"a\":1}"));
        for text in ["state=x", "a=1&client_id=x", "response_mode=fragment", "a=1&a=2", "=x"] {
            assert!(AuthParams::parse(text).is_err(), "{text}");
        }
        assert!(AuthParams::parse("response_mode=form_post").is_ok());
        assert_eq!(AuthParams::parse(""), Ok(AuthParams::default()));
    }

    #[test]
    fn required_claims_are_met_by_any_shape_that_says_so() {
        let required = RequiredClaims::parse(["email_verified=true", "groups=staff|admins"]);
        let required = required.unwrap();
        let unmet = |claims: Value| required.unmet(claims.as_object().unwrap()).map(str::to_owned);
        for (claims, expected) in [
            (json!({"email_verified": true, "groups": ["guests", "admins"]}), None),
            (json!({"email_verified": "true", "groups": "staff"}), None),
            (json!({"email_verified": false, "groups": ["staff"]}), Some("email_verified")),
            (json!({"groups": ["staff"]}), Some("email_verified")),
            (json!({"email_verified": true, "groups": ["staffs"]}), Some("groups")),
            (json!({"email_verified": true, "groups": {"staff": true}}), Some("groups")),
            (json!({"email_verified": true}), Some("groups")),
        ] {
            assert_eq!(unmet(claims.clone()).as_deref(), expected, "{claims}");
        }
        for text in ["email_verified", "=x", "a=", "a=|"] {
            assert!(RequiredClaims::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = ClientSecrets::new(["one", "two"]);
        assert!(!format!("{secrets:?}").contains("one"));
        let next = ClientSecrets::new(["three"]).followed_by(&secrets);
        assert_eq!(next.expose().collect::<Vec<_>>(), ["three", "one", "two"]);
    }
}

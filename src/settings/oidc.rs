//! The OpenID provider.

use std::{collections::BTreeMap, time::Duration};

use url::Url;
use zeroize::Zeroizing;

use crate::{
    api::Secret,
    oidc::{
        AuthParams, ClientAuth, ClientKeys, ClientSecrets, ProviderOptions, RequiredClaims,
        SigningAlgorithms,
    },
    settings::{
        declaration::{Reloadable, secret, section, setting},
        source::Source,
        token::pem_blocks,
        value::{MINUTE, SECOND, any_secret, choice, duration, flag, list, secure_url, text},
    },
};

section! {
    /// The OpenID provider.
    pub struct OidcSettings {
        /// Issuer identifier of the OpenID provider; `https` unless loopback
        issuer: Url = setting("OIDC_ISSUER").required("")
            .alias(&["OIDC_OP_DISCOVERY_ENDPOINT"]), issuer;
        /// Client ID at the provider; the redirect URI is `<PUBLIC_URL>/callback`
        client_id: String = setting("OIDC_CLIENT_ID").required("")
            .alias(&["OIDC_RP_CLIENT_ID"]), text;
        /// Client secret at the provider; of several, one a line, the first is sent and the others
        /// are tried when it is refused
        client_secret: Option<Secret> =
            secret("OIDC_CLIENT_SECRET").optional("none").alias(&["OIDC_RP_CLIENT_SECRET"])
                .reload(Reloadable::OidcClientSecret),
            any_secret;
        /// Private keys in PEM (PKCS#8) for `private_key_jwt`; the first signs, all are published
        /// at `<PUBLIC_URL>/.well-known/client-jwks.json`
        client_key: Option<Secret> =
            secret("OIDC_CLIENT_KEY").optional("none").reload(Reloadable::OidcClientKey),
            any_secret;
        /// Authentication at the token endpoint: `auto`, `basic` (form-encoded, RFC 6749 §2.3.1),
        /// `basic_raw` (not encoded), `post`, `private_key_jwt` or `none`; `auto` is
        /// `private_key_jwt` with a key, else `basic` unless only `post` is offered, `none` without
        /// a credential
        client_auth: ClientAuth =
            setting("OIDC_CLIENT_AUTH").default("auto"), choice(&ClientAuth::NAMES);
        /// `aud` of client assertions (`private_key_jwt`)
        assertion_audience: Option<String> =
            setting("OIDC_CLIENT_ASSERTION_AUDIENCE").optional("the issuer"), text;
        /// Scopes of the authorization request; `openid` is always among them
        scopes: Vec<String> = setting("OIDC_SCOPES").default("openid profile email")
            .alias(&["OIDC_RP_SCOPES"]), scopes;
        /// Further parameters of the authorization request as a query string, such as
        /// `acr_values=eidas1&response_mode=form_post`
        auth_params: AuthParams =
            setting("OIDC_AUTH_PARAMS").optional("none")
                .alias(&["OIDC_AUTH_REQUEST_EXTRA_PARAMS"]), auth_params;
        /// Whether the authorization request carries a PKCE challenge; for providers that refuse
        /// every parameter that they do not list
        pkce: bool = setting("OIDC_PKCE").default("true"), flag;
        /// Audiences besides the client ID that an ID token without `azp` may have
        trusted_audiences: Vec<String> =
            setting("OIDC_TRUSTED_AUDIENCES").optional("none"), list;
        /// Tenants (`tid`) that may sign in; required where the provider serves many
        allowed_tenants: Vec<String> =
            setting("OIDC_ALLOWED_TENANTS").optional("any"), list;
        /// Claims that an account must have, such as `email_verified=true,groups=staff|admins`
        required_claims: RequiredClaims =
            setting("OIDC_REQUIRED_CLAIMS").optional("none"), required_claims;
        /// Whether an e-mail address counts as verified where the provider does not say
        trust_email: bool = setting("OIDC_TRUST_EMAIL").default("false"), flag;
        /// Whether a sign-in fails when userinfo cannot be had
        userinfo_required: bool = setting("OIDC_USERINFO_REQUIRED").default("false"), flag;
        /// Signature algorithms of ID tokens and signed userinfo; those with the client secret
        /// (`HS256`, `HS384`, `HS512`) only if named here
        signing_algorithms: SigningAlgorithms =
            setting("OIDC_SIGNING_ALGORITHMS").optional("the asymmetric ones of the provider"),
            signing_algorithms;
        /// Timeout of one request to the provider
        timeout: Duration = setting("OIDC_TIMEOUT").default("10s"), duration(SECOND / 10, MINUTE);
        /// Tolerated difference between the provider's clock and this host's
        clock_skew: Duration =
            setting("OIDC_CLOCK_SKEW").default("60s"), duration(Duration::ZERO, 10 * MINUTE);
    }
}

impl OidcSettings {
    pub(crate) fn check(&self, source: &mut Source) {
        if self.client_key.is_some() && (self.read_client_keys().is_none()) {
            source.reject("OIDC_CLIENT_KEY", &crate::oidc::ClientKeyError.to_string());
        }
        let (method, needed) = match self.client_auth {
            ClientAuth::Basic => ("basic", "OIDC_CLIENT_SECRET"),
            ClientAuth::BasicRaw => ("basic_raw", "OIDC_CLIENT_SECRET"),
            ClientAuth::Post => ("post", "OIDC_CLIENT_SECRET"),
            ClientAuth::PrivateKeyJwt => ("private_key_jwt", "OIDC_CLIENT_KEY"),
            ClientAuth::Auto | ClientAuth::None => ("", ""),
        };
        if !needed.is_empty() && !source.has(needed) {
            source.missing(needed, &format!("with OIDC_CLIENT_AUTH={method}"));
        }
        let is_public = self.client_auth == ClientAuth::None
            || (self.client_secret.is_none() && self.client_key.is_none());
        if is_public && !self.pkce {
            source.reject("OIDC_PKCE", "true for a client without a secret or key");
        }
        if self.signing_algorithms.needs_secret() && self.client_secret.is_none() {
            source.missing("OIDC_CLIENT_SECRET", "with an HMAC in OIDC_SIGNING_ALGORITHMS");
        }
    }

    /// Client secrets, the one to be sent first.
    pub fn client_secrets(&self) -> ClientSecrets {
        let lines = self.client_secret.iter().flat_map(|secret| secret.expose().lines());
        ClientSecrets::new(lines.filter(|line| !line.is_empty()))
    }

    fn read_client_keys(&self) -> Option<ClientKeys> {
        let Some(text) = &self.client_key else { return Some(ClientKeys::default()) };
        // Files of environment variables have one line for each, so PEM comes with `\n` in it.
        let blocks = pem_blocks(&Zeroizing::new(text.expose().replace("\\n", "\n")));
        let keys = ClientKeys::from_pem(blocks.iter().map(Secret::expose)).ok()?;
        (!keys.is_empty()).then_some(keys)
    }

    /// Keys for client assertions, the one that signs first.
    pub fn client_keys(&self) -> ClientKeys {
        self.read_client_keys().unwrap_or_default()
    }

    /// What the provider is set up with, for a callback at `redirect_uri` and a service that copies
    /// `claims`.
    pub fn options(&self, redirect_uri: String, claims: Vec<String>) -> ProviderOptions {
        ProviderOptions {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            client_secrets: self.client_secrets(),
            client_keys: self.client_keys(),
            client_auth: self.client_auth,
            assertion_audience: self.assertion_audience.clone(),
            scopes: self.scopes.clone(),
            auth_params: self.auth_params.clone(),
            pkce: self.pkce,
            redirect_uri,
            timeout: self.timeout,
            clock_skew: self.clock_skew,
            claims,
            trusted_audiences: self.trusted_audiences.clone(),
            allowed_tenants: self.allowed_tenants.clone(),
            required_claims: self.required_claims.clone(),
            trust_email: self.trust_email,
            userinfo_required: self.userinfo_required,
            signing_algorithms: self.signing_algorithms.clone(),
        }
    }
}

/// Scopes separated by spaces or commas, with `openid` (OpenID Connect Core §3.1.2.1).
fn scopes(text: &str) -> Result<Vec<String>, String> {
    let parts = text.split([' ', ',']).filter(|scope| !scope.is_empty());
    let mut scopes: Vec<_> = parts.map(str::to_owned).collect();
    if !scopes.iter().any(|scope| scope == "openid") {
        scopes.insert(0, "openid".to_owned());
    }
    Ok(scopes)
}

/// The path of the discovery document below an issuer (OpenID Connect Discovery §4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// An issuer, or the URL of its discovery document.
fn issuer(text: &str) -> Result<Url, String> {
    secure_url(text.strip_suffix(DISCOVERY).unwrap_or(text))
}

/// Parameters as a query string, or as an object in JSON or a dictionary in Python.
fn auth_params(text: &str) -> Result<AuthParams, String> {
    if !text.trim_start().starts_with(['{', '[']) {
        return AuthParams::parse(text);
    }
    let members =
        serde_json::from_str(text).or_else(|_| serde_json::from_str(&text.replace('\'', "\"")));
    let members: BTreeMap<String, Member> =
        members.map_err(|_| "a query string, or an object of texts and integers".to_owned())?;
    let members = members.into_iter().map(|(name, member)| match member {
        Member::Text(text) => (name, text),
        Member::Integer(number) => (name, number.to_string()),
    });
    AuthParams::parse(
        &url::form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish(),
    )
}

/// The value of a parameter in an object.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Member {
    Text(String),
    Integer(i64),
}

/// Requirements separated by commas.
pub(crate) fn required_claims(text: &str) -> Result<RequiredClaims, String> {
    RequiredClaims::parse(text.split(',').map(str::trim).filter(|part| !part.is_empty()))
}

fn signing_algorithms(text: &str) -> Result<SigningAlgorithms, String> {
    SigningAlgorithms::parse(text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty()))
}

//! The OpenID provider.

use std::time::Duration;

use url::Url;

use crate::{
    api::Secret,
    oidc::LoginSettings,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        value::{MINUTE, SECOND, any_secret, duration, secure_url, text},
    },
};

section! {
    /// The OpenID provider.
    pub struct OidcSettings {
        /// Issuer identifier of the OpenID provider; `https` unless loopback
        issuer: Url = setting("OIDC_ISSUER").required(""), secure_url;
        /// Client ID at the provider; the redirect URI is `<PUBLIC_URL>/callback`
        client_id: String = setting("OIDC_CLIENT_ID").required(""), text;
        /// Client secret at the provider; a public client without
        client_secret: Option<Secret> =
            secret("OIDC_CLIENT_SECRET").optional("none").reload(Reloadable::OidcClientSecret),
            any_secret;
        /// Scopes of the authorization request; `openid` is always among them
        scopes: Vec<String> = setting("OIDC_SCOPES").default("openid profile email"), scopes;
        /// Timeout of one request to the provider
        timeout: Duration = setting("OIDC_TIMEOUT").default("10s"), duration(SECOND / 10, MINUTE);
        /// Tolerated clock difference in ID tokens
        clock_skew: Duration =
            setting("OIDC_CLOCK_SKEW").default("60s"), duration(Duration::ZERO, 10 * MINUTE);
    }
}

impl OidcSettings {
    /// What the provider is set up with, for a callback at `redirect_uri` and a service that copies
    /// `claims`.
    pub fn options(&self, redirect_uri: String, claims: Vec<String>) -> LoginSettings {
        LoginSettings {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.as_ref().map(|secret| secret.expose().to_owned()),
            scopes: self.scopes.clone(),
            redirect_uri,
            timeout: self.timeout,
            clock_skew: self.clock_skew,
            claims,
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

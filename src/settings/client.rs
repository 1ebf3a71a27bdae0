//! The settings of one registered client: `[clients.<client_id>]` in the settings file.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use url::Url;

use crate::{
    api::Secret,
    oidc::{AuthParams, RequiredClaims},
    session::ClientId,
    settings::{
        declaration::{Reloadable, secret, section, setting},
        oidc::required_claims,
        source::Source,
        token::TokenSettings,
        value::{
            DAY, SECOND, choice, duration, exact_origin, flag, list, list_of, secrets_of, text,
            words_of,
        },
    },
};

/// Minimum length of a client's secret, in characters.
const MIN_SECRET: usize = 32;

section! {
    /// One registered client. What is optional is inherited from the global settings.
    pub struct ClientSettings {
        /// Name on the dialog pages
        name: Option<String> =
            setting("name").optional("the client ID").reload(Reloadable::Clients), text;
        /// Origins from which it calls, exact, separated by commas; `https` unless loopback
        origins: Vec<String> =
            setting("origins").optional("none").reload(Reloadable::Clients), list_of(origin);
        /// Whether pages without an origin (`Origin: null`) may call for it, as plug-in hosts show them
        opaque_origins: Option<bool> =
            setting("opaque_origins").optional("`OPAQUE_ORIGINS`").reload(Reloadable::Clients),
            flag;
        /// Proofs of which a dialog needs one: `browser`, `opener`, `code`
        proofs: Option<BTreeSet<Proof>> =
            setting("proofs").optional("`browser opener`, and `code` without origins")
                .reload(Reloadable::Clients),
            proofs;
        /// Scopes that it may request, and that it gets when it requests none
        scope: Option<Vec<String>> =
            setting("scope").optional("`TOKEN_SCOPE`").reload(Reloadable::Clients), scope;
        /// `aud` of its access tokens, separated by commas; another one than that of other clients
        audience: Vec<String> =
            setting("audience").optional("`TOKEN_AUDIENCE`").reload(Reloadable::Clients), list;
        /// Lifetime of its access tokens
        token_ttl: Option<Duration> =
            setting("token_ttl").optional("`TOKEN_TTL`").reload(Reloadable::Clients),
            duration(SECOND, 30 * DAY);
        /// Lifetime of its sessions
        session_ttl: Option<Duration> =
            setting("session_ttl").optional("`SESSION_TTL`").reload(Reloadable::Clients),
            duration(10 * SECOND, DAY);
        /// Claims that an account must have besides, such as `email_verified=true,groups=staff|admins`
        required_claims: RequiredClaims =
            setting("required_claims").optional("none").reload(Reloadable::Clients),
            required_claims;
        /// Further parameters of its authorization requests, as a query string
        auth_params: AuthParams =
            setting("auth_params").optional("none").reload(Reloadable::Clients),
            AuthParams::parse;
        /// Whether it gets refresh tokens
        refresh: Option<bool> =
            setting("refresh").optional("`true` with `REFRESH_TOKEN_TTL`")
                .reload(Reloadable::Clients),
            flag;
        /// Whether it may create sessions without a session token
        legacy: Option<bool> =
            setting("legacy").optional("`LEGACY_SESSIONS`").reload(Reloadable::Clients), flag;
        /// Whether its tokens must be bound to a key of the client (DPoP, RFC 9449)
        dpop_required: Option<bool> =
            setting("dpop_required").optional("`DPOP_REQUIRED`").reload(Reloadable::Clients), flag;
        /// Secrets of 32 characters or more that authenticate it, separated by commas or lines
        secrets: Vec<Secret> =
            secret("secret").optional("none; a public client").reload(Reloadable::Clients),
            secrets_of(MIN_SECRET);
        /// What it may do: `session`, `device`, `introspect`, `revoke` (everything of a person)
        grants: BTreeSet<Grant> =
            setting("grants").default("session").reload(Reloadable::Clients), grants;
        /// Client IDs of backends that may fulfil its sessions
        fulfilled_by: Vec<ClientId> =
            setting("fulfilled_by").optional("none").reload(Reloadable::Clients),
            list_of(client_id);
    }
}

/// What shows that the browser in a dialog belongs to the reader of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// The session was created in this browser.
    Browser,
    /// The page that opened the dialog holds the session token, at an origin of the client.
    Opener,
    /// The person types the user code that the client displays.
    Code,
}

impl Proof {
    /// Every proof by its name in the settings.
    const NAMES: [(&'static str, Self); 3] =
        [("browser", Self::Browser), ("opener", Self::Opener), ("code", Self::Code)];
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// Create sessions.
    Session,
    /// Use the device authorization grant (RFC 8628).
    Device,
    /// Introspect and revoke tokens (RFC 7662, RFC 7009), authenticated by its secret.
    Introspect,
    /// End everything that a person was granted, authenticated by its secret.
    Revoke,
}

impl Grant {
    const NAMES: [(&'static str, Self); 4] = [
        ("session", Self::Session),
        ("device", Self::Device),
        ("introspect", Self::Introspect),
        ("revoke", Self::Revoke),
    ];
}

/// Hosts whose pages many parties use at the same origin, so that an origin says little.
const SHARED_HOSTS: [&str; 8] = [
    "outlook.office.com",
    "outlook.office365.com",
    "outlook.live.com",
    "outlook.cloud.microsoft",
    "teams.microsoft.com",
    "teams.cloud.microsoft",
    "mail.google.com",
    "docs.google.com",
];

/// What an operator should know of an origin.
pub(crate) fn warning_of_origin(origin: &str) -> Option<&'static str> {
    let url = Url::parse(origin).ok()?;
    if SHARED_HOSTS.iter().any(|shared| url.host_str() == Some(shared)) {
        return Some("is shared by many add-ins: name the origin that serves the task pane");
    }
    (!token_relay_client::is_secure(&url))
        .then_some("is plain HTTP: anybody on the network can act in its name")
}

impl ClientSettings {
    /// Whether people sign in for it.
    fn signs_in(&self) -> bool {
        self.grants.contains(&Grant::Session) || self.grants.contains(&Grant::Device)
    }

    /// Checks what must hold within one client; `source` reads this one.
    fn check(&self, refresh_token_ttl: Option<Duration>, token_ttl: Duration, source: &mut Source) {
        for (grant, need) in [
            (Grant::Introspect, "with the grant introspect"),
            (Grant::Revoke, "with the grant revoke"),
        ] {
            if self.grants.contains(&grant) && self.secrets.is_empty() {
                source.missing("secret", need);
                break;
            }
        }
        let accepts_code = self.proofs.as_ref().is_none_or(|own| own.contains(&Proof::Code));
        let proofs = proofs_or_default(self.proofs.as_ref(), &self.origins);
        if self.opaque_origins == Some(true) && !proofs.contains(&Proof::Code) {
            source.reject("opaque_origins", "false, or code among the proofs");
        }
        if self.grants.contains(&Grant::Device) && !accepts_code {
            source.reject("proofs", "code among them, with the grant device");
        }
        match refresh_token_ttl {
            None if self.refresh == Some(true) => {
                source.reject("refresh", "false, or REFRESH_TOKEN_TTL besides");
            }
            Some(ttl)
                if self.refresh != Some(false) && ttl < self.token_ttl.unwrap_or(token_ttl) =>
            {
                source.reject("token_ttl", "no more than REFRESH_TOKEN_TTL");
            }
            _ => {}
        }
        for origin in &self.origins {
            if let Some(warning) = warning_of_origin(origin) {
                source.warn("origins", format!("{origin} {warning}"));
            }
        }
    }
}

/// Checks what must hold within and between clients.
pub(crate) fn check_all(
    clients: &BTreeMap<ClientId, ClientSettings>,
    token: &TokenSettings,
    source: &mut Source,
) {
    let mut audiences = BTreeMap::<String, &ClientId>::new();
    for (id, client) in clients {
        source.within(id, |source| {
            client.check(token.refresh_token_ttl, token.ttl, source);
            for backend in &client.fulfilled_by {
                let found = clients.get(backend);
                if found.is_none_or(|backend| backend.secrets.is_empty()) {
                    source.reject("fulfilled_by", "IDs of registered clients that have a secret");
                    break;
                }
            }
            if !client.signs_in() {
                return;
            }
            let mut configured = [&client.audience, &token.audience].into_iter();
            let own = configured.find(|audience| !audience.is_empty()).cloned();
            let own = own.unwrap_or_else(|| vec!["PUBLIC_URL".to_owned()]);
            for audience in own {
                match audiences.get(&audience) {
                    Some(other) => source.warn(
                        "audience",
                        format!(
                            "{audience} is that of {other} too: what accepts a token of one accepts \
                             a token of the other"
                        ),
                    ),
                    None => {
                        audiences.insert(audience, id);
                    }
                }
            }
        });
    }
}

/// The proofs that dialogs of `origins` accept: `own`, or else those of the browser and the opener, and the
/// code where there are no origins.
pub(crate) fn proofs_or_default(
    own: Option<&BTreeSet<Proof>>,
    origins: &[String],
) -> BTreeSet<Proof> {
    own.cloned().unwrap_or_else(|| {
        let code = origins.is_empty().then_some(Proof::Code);
        [Proof::Browser, Proof::Opener].into_iter().chain(code).collect()
    })
}

/// One or more proofs, separated by spaces or commas.
pub(crate) fn proofs(text: &str) -> Result<BTreeSet<Proof>, String> {
    words_of(text, choice(&Proof::NAMES), "one or more of browser, opener and code")
}

fn grants(text: &str) -> Result<BTreeSet<Grant>, String> {
    words_of(text, choice(&Grant::NAMES), "one or more of session, device, introspect and revoke")
}

pub(crate) fn client_id(text: &str) -> Result<ClientId, String> {
    text.parse().map_err(|_| "client IDs, separated by commas".to_owned())
}

/// An exact origin to which proofs may be sent.
fn origin(text: &str) -> Result<String, String> {
    match exact_origin(text) {
        Some(url) if token_relay_client::is_secure(&url) => Ok(text.to_owned()),
        _ => Err("exact https origins such as https://addin.example (no path, no `*`, no `null`, \
                  http only for loopback hosts)"
            .to_owned()),
    }
}

/// Scopes separated by spaces or commas (RFC 6749 §3.3).
pub(crate) fn scope(text: &str) -> Result<Vec<String>, String> {
    let is_scope = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let parts: Vec<_> = text.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || !parts.iter().all(|part| part.bytes().all(is_scope)) {
        return Err("scopes such as `rooms:read rooms:create`".to_owned());
    }
    Ok(parts.into_iter().map(str::to_owned).collect())
}

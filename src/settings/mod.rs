//! Every setting: name, default, validation, where it comes from (environment, file, `*_FILE`).
//!
//! Read by `main`, and again by `app` when they may have changed. Knows nothing of what the settings
//! are used for. `table` names every setting, `source` reads them, `load` makes sense of them.

mod load;
mod source;
mod table;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use crate::settings::load::Described;
pub use crate::settings::source::{SettingsError, SettingsErrors, environment};
pub use crate::settings::table::markdown;

use ipnet::IpNet;
use url::Url;
use zeroize::Zeroizing;

use crate::{session::Digest, store::StoreSettings, telemetry::Sampler, util::tls::Identity};

/// A secret from the settings; prints itself as `(redacted)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<String>);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("(redacted)")
    }
}

/// Signature algorithm of access tokens (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256; the default.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// HMAC with SHA-256 and a shared secret.
    Hs256,
}

/// All settings, valid and with defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `LISTEN`, default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `TLS_CERTIFICATE` and `TLS_KEY`: what `LISTEN` speaks TLS with; plain HTTP without.
    pub tls: Option<Identity>,
    /// `PUBLIC_URL`: where browsers and add-ins reach the relay, without a trailing slash in the
    /// path. Default `http://<LISTEN>`, or `https` with TLS, see [`Settings::public_url_for`]; `https`
    /// unless the host is loopback.
    pub public_url: Option<Url>,
    /// `METRICS_LISTEN`: separate listener for `/metrics`; without it, it is on `LISTEN`.
    pub metrics_listen: Option<SocketAddr>,
    /// `OIDC_*`.
    pub oidc: OidcSettings,
    /// `REDIS_*`; in memory without `REDIS_URL`.
    pub store: StoreSettings,
    /// `SIGNING_*`, `TOKEN_*`.
    pub token: TokenSettings,
    /// `COOKIE_KEYS[_FILE]`: comma- or line-separated secrets of 32 characters or more, the first
    /// seals, all open. Drawn at random when unset and the store is in memory; required with Redis.
    pub cookie_keys: Vec<Secret>,
    /// `SEALING_KEYS[_FILE]`: likewise, for payloads in the store.
    pub sealing_keys: Vec<Secret>,
    /// `SESSION_TTL`, default 15 min.
    pub session_ttl: Duration,
    /// `TRANSIT_TOKEN_TTL`, default 120 s.
    pub transit_token_ttl: Duration,
    /// `DELIVERY_GRACE`, default 30 s.
    pub delivery_grace: Duration,
    /// `HEARTBEAT`, default 15 s.
    pub heartbeat: Duration,
    /// `DRAIN_TIMEOUT`, default 30 s.
    pub drain_timeout: Duration,
    /// `ALLOWED_ORIGINS`: exact origins for CORS, default none.
    pub allowed_origins: Vec<String>,
    /// `TRUSTED_PROXIES`: networks whose `Forwarded`/`X-Forwarded-For` is believed, default none.
    pub trusted_proxies: Vec<IpNet>,
    /// `REQUIRE_BOUND_SESSIONS`, default false.
    pub require_bound_sessions: bool,
    /// Limits; see [`Limits`].
    pub limits: Limits,
    /// `MEET_COMPATIBLE` (alias `ADDONS_ENABLED`): the meet-compatible surface, off by default.
    pub meet: Option<MeetSettings>,
    /// Looks of the dialog pages.
    pub brand: Brand,
    /// `FRAME_ANCESTORS`: hosts that may frame the task pane pages (CSP), default none.
    pub frame_ancestors: Vec<String>,
    /// `HSTS`: `Strict-Transport-Security` max-age, default off.
    pub hsts: Option<Duration>,
    /// `INTROSPECTION_CLIENTS`: `id:secret` pairs for introspection and revocation (RFC 7662).
    pub introspection_clients: Vec<(String, Secret)>,
    /// `LOG_FORMAT`: `text` (default) or `json`.
    pub log_json: bool,
    /// `OTLP_*`, `OTEL_*`: where traces go; `None` makes none.
    pub traces: Option<TraceSettings>,
}

/// Traces.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// `OTLP_ENDPOINT`: base URL of the receiver.
    pub endpoint: Url,
    /// `OTLP_HEADERS[_FILE]`: name and value of each.
    pub headers: Vec<(String, Secret)>,
    /// `OTEL_SERVICE_NAME`, default `token-relay`.
    pub service_name: String,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`, default all, or as the caller says.
    pub sampler: Sampler,
}

/// The OpenID provider.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// `OIDC_ISSUER`, required; `https` unless loopback.
    pub issuer: Url,
    /// `OIDC_CLIENT_ID`, required.
    pub client_id: String,
    /// `OIDC_CLIENT_SECRET[_FILE]`; without it the relay is a public client (PKCE alone).
    pub client_secret: Option<Secret>,
    /// `OIDC_SCOPES`, default `openid profile email`; `openid` is always among them.
    pub scopes: Vec<String>,
    /// `OIDC_TIMEOUT` of one back-channel request, default 10 s.
    pub timeout: Duration,
    /// `OIDC_CLOCK_SKEW` tolerated in ID tokens, default 60 s.
    pub clock_skew: Duration,
}

/// The access token that the relay forges.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// `SIGNING_ALGORITHM`: `ES256` (default), `EdDSA`, `RS256`, `HS256`.
    pub algorithm: SigningAlgorithm,
    /// `SIGNING_KEY[_FILE]`: PEM (PKCS#8), or for HS256 secrets of 32 bytes or more, one a line. The
    /// first signs, all verify. Without any, a key is drawn at start (single process only; ES256,
    /// EdDSA and HS256).
    pub signing_keys: Vec<Secret>,
    /// `PREVIOUS_SIGNING_KEY[_FILE]`: likewise, none of which signs.
    pub previous_signing_keys: Vec<Secret>,
    /// `TOKEN_ISSUER`, default `PUBLIC_URL`.
    pub issuer: Option<String>,
    /// `TOKEN_AUDIENCE`, default `PUBLIC_URL`; several separated by commas.
    pub audience: Vec<String>,
    /// `TOKEN_SCOPE`, default `addons`.
    pub scope: String,
    /// `TOKEN_TTL`, default 1 h.
    pub ttl: Duration,
    /// `REFRESH_TOKEN_TTL` and `REFRESH_GRANT_TTL`: refresh tokens for bound sessions, off unless
    /// the former is set.
    pub refresh: Option<RefreshSettings>,
    /// `TOKEN_CLAIMS`: claims copied from the ID token or userinfo, default `name,email`.
    pub claims: Vec<String>,
}

/// Refresh tokens.
#[derive(Clone, Debug)]
pub struct RefreshSettings {
    /// `REFRESH_TOKEN_TTL`: how long one may stay unused; at least `TOKEN_TTL`.
    pub token_ttl: Duration,
    /// `REFRESH_GRANT_TTL`: how long they may follow each other after one login, default 30 d.
    pub grant_ttl: Duration,
}

/// What one instance and one client may use; see guarantee 7 in the README.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `MAX_STREAMS` open on this instance, default 19 000.
    pub max_streams: usize,
    /// `MAX_STREAMS_PER_SESSION`, default 4.
    pub max_streams_per_session: usize,
    /// `MAX_CONNECTIONS` on this instance, default 19 500.
    pub max_connections: usize,
    /// `MAX_BODY` bytes of a request body, default 16 384.
    pub max_body: usize,
    /// `SESSIONS_PER_MINUTE` that one client address may create, default 60.
    pub sessions_per_minute: u32,
    /// `HEADER_TIMEOUT` within which a request's head must have come, default 10 s.
    pub header_timeout: Duration,
}

/// The meet-compatible surface.
#[derive(Clone, Debug)]
pub struct MeetSettings {
    /// `ADDONS_SESSION_TTL`, default 1 h; plain numbers are seconds in all `ADDONS_*`.
    pub session_ttl: Duration,
    /// `ADDONS_TRANSIT_TOKEN_TTL`, default 120 s.
    pub transit_token_ttl: Duration,
    /// `ADDONS_CSRF_SECRET[_FILE]`, required, 32 characters or more.
    pub csrf_secret: Secret,
    /// `ADDONS_TOKEN_SECRET_KEY[_FILE]`, required, 32 characters or more.
    pub token_secret_key: Secret,
    /// `ADDONS_TOKEN_ALG`, default HS256; HS256, HS384, HS512.
    pub token_algorithm: String,
    /// `ADDONS_TOKEN_ISSUER`, default `lasuite-meet`.
    pub token_issuer: String,
    /// `ADDONS_TOKEN_AUDIENCE`, default `addons`.
    pub token_audience: String,
    /// `ADDONS_TOKEN_TTL`, default 7200 s.
    pub token_ttl: Duration,
    /// `ADDONS_TOKEN_TYPE`, default `Bearer`.
    pub token_type: String,
    /// `ADDONS_TOKEN_SCOPE`, default `rooms:create`.
    pub token_scope: String,
    /// `ADDONS_RANDOM_TOKEN_BYTE_LENGTH`, default 60.
    pub random_token_byte_length: usize,
    /// `ADDONS_SESSION_ID_COOKIE`, default `addonsSid`.
    pub session_id_cookie: String,
    /// `MEET_USER_ID_CLAIM`: ID-token claim that becomes `user_id`, default `sub`.
    pub user_id_claim: String,
    /// `MEET_RETURN_TO`: origins or URL prefixes to which `authenticate` may return; required.
    pub return_to: Vec<Url>,
    /// `MEET_LOGIN_TTL` of the browser login, default 12 h.
    pub login_ttl: Duration,
}

/// Looks of the dialog pages.
#[derive(Clone, Debug, Default)]
pub struct Brand {
    /// `BRAND_NAME`, default `token-relay`.
    pub name: String,
    /// `BRAND_LOGO_URL`: `https` image, default none.
    pub logo_url: Option<Url>,
    /// `BRAND_COLOR`: `#rrggbb` accent, default the built-in.
    pub color: Option<String>,
    /// `OFFICE_JS_URL`: where dialog pages load Office.js from, so that they can use
    /// `messageParent`; default none (no external script).
    pub office_js_url: Option<Url>,
}

/// Settings as they were read at one moment, to be compared with those of another.
pub struct Snapshot {
    /// The settings.
    pub settings: Settings,
    digests: BTreeMap<&'static str, Digest>,
    files: Vec<PathBuf>,
}

impl Snapshot {
    /// Every file that holds a part of the settings.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names of the settings whose values differ from those in `other`.
    pub fn differs_from(&self, other: &Self) -> Vec<&'static str> {
        let names = table::TABLE.iter().map(|entry| entry.name);
        names.filter(|name| self.digests.get(name) != other.digests.get(name)).collect()
    }
}

impl Settings {
    /// Where the world reaches a service that is bound to `bound`. One that listens everywhere and
    /// was not told its name is reached on this machine.
    pub fn public_url_for(&self, bound: SocketAddr) -> Url {
        let bound = reachable(bound);
        // An address always makes a URL; the issuer is one that exists in any case.
        self.public_url
            .clone()
            .or_else(|| Url::parse(&format!("{}://{bound}", self.scheme())).ok())
            .unwrap_or_else(|| self.oidc.issuer.clone())
    }

    /// The scheme that `LISTEN` is spoken to with.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// `iss` of access tokens: the public URL unless configured.
    pub fn token_issuer_for(&self, public_url: &Url) -> String {
        self.token.issuer.clone().unwrap_or_else(|| without_slash(public_url))
    }

    /// `aud` of access tokens: the public URL unless configured.
    pub fn token_audience_for(&self, public_url: &Url) -> Vec<String> {
        match self.token.audience.as_slice() {
            [] => vec![without_slash(public_url)],
            audience => audience.to_vec(),
        }
    }
}

/// `address`, or the loopback address in the place of "everywhere".
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn without_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

//! The state that all handlers share.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use governor::DefaultKeyedRateLimiter;
use http::{HeaderMap, HeaderValue, header};
use url::Url;

use crate::{
    http::{
        dialog::PreparedSignIns,
        error::Problem,
        exchanges::CodeExchanges,
        guesses::GuessLimiter,
        meet,
        middleware::ClientAddress,
        operator::{
            metrics::{self, Revoked},
            recent::Recent,
        },
        pages,
        quota::CreationQuota,
    },
    oidc,
    relay::Relay,
    session::Digest,
    settings::{Client, ClientSetting, Clients, OPAQUE_ORIGIN, Settings},
    signin::{ClaimsHook, SignIn},
    store::StoreError,
    telemetry::{Trace, Tracing},
    token::{
        Format, Issuer, KeyRing, Logouts, Refresh, Revocations, RollingUpgrade, SigningKeys,
        Verifier,
    },
};

/// The state that all handlers share.
pub struct App {
    /// Sessions and the subscriptions that wait for them.
    pub relay: Arc<Relay>,
    /// The OpenID provider.
    pub login: oidc::Provider,
    /// Seals tokens for the store.
    pub sealing_keys: Arc<KeyRing>,
    /// Seals cookies.
    pub cookie_keys: KeyRing,
    /// Notices instances of version 0.1 on the store.
    pub upgrade: RollingUpgrade,
    /// Signs access tokens and publishes its public half.
    pub signing_keys: Arc<SigningKeys>,
    /// Issues access tokens.
    pub issuer: Issuer,
    /// Verifies access tokens.
    pub verifier: Verifier,
    /// Access tokens that were revoked before they expired.
    pub revocations: Revocations,
    /// Logouts at the provider.
    pub logouts: Logouts,
    /// Refresh tokens, where they are enabled.
    pub refresh: Option<Refresh>,
    /// Is asked before a token is issued, where one is configured.
    pub hook: Option<ClaimsHook>,
    /// Add-ins and backends.
    pub clients: ArcSwap<Clients>,
    /// Authorization codes that are being exchanged.
    pub exchanges: CodeExchanges,
    /// Sign-ins that only have to be completed.
    pub(crate) prepared: PreparedSignIns,
    /// Pages for people.
    pub pages: Arc<pages::Pages>,
    /// Metrics.
    pub metrics: Arc<metrics::Metrics>,
    /// What happened lately.
    pub recent: Recent,
    /// Traces, where they are enabled.
    pub tracing: Option<Tracing>,
    /// `PUBLIC_URL`, ending in `/`.
    pub public_url: Url,
    /// The settings at start-up; what a reload replaces is in the other fields.
    pub settings: Arc<Settings>,
    /// Failed attempts by client address and in total.
    pub guesses: Arc<GuessLimiter>,
    /// Log lines about origins that are not allowed.
    pub refused_origins: DefaultKeyedRateLimiter<[u8; 2]>,
    /// Session creations by client address.
    pub creations: CreationQuota,
    /// `Strict-Transport-Security`, where configured.
    pub hsts: Option<HeaderValue>,
    /// The Meet-compatible surface, where it is enabled.
    pub meet: Option<meet::Meet>,
    /// Whether the demo task pane is served at `/`.
    pub demo_pane: bool,
}

/// [`App`] as handlers get it.
pub type AppState = Arc<App>;

impl App {
    /// Whether browsers reach this service over HTTPS.
    pub fn is_https(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// The public URL of `path`.
    pub fn public(&self, path: &str) -> String {
        [self.public_url.as_str(), path.trim_start_matches('/')].concat()
    }

    /// The path of `path` as browsers see it, for redirects within this service.
    pub fn path(&self, path: &str) -> String {
        format!("{}{}", self.public_url.path(), path.trim_start_matches('/'))
    }

    /// The public URL of `path` with the WebSocket scheme.
    pub fn public_websocket(&self, path: &str) -> String {
        // http → ws, https → wss.
        let scheme_specific = self.public_url.as_str().trim_start_matches("http");
        ["ws", scheme_specific, path.trim_start_matches('/')].concat()
    }

    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.settings.server.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// Whether a request with ambient credentials comes from a page that may use them. One without an
    /// origin may not: it can be any site's.
    pub fn origin_is_ours_or_allowed(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::ORIGIN) {
            // Browsers leave it out on same-origin GETs; everything cross-origin carries it here,
            // since CORS requests and WebSocket handshakes always do.
            None => true,
            Some(origin) => origin
                .to_str()
                .ok()
                .filter(|origin| *origin != OPAQUE_ORIGIN)
                .is_some_and(|origin| self.is_own_origin(origin) || self.allows_origin(origin)),
        }
    }

    /// Whether pages of this origin are the relay's.
    pub fn is_own_origin(&self, origin: &str) -> bool {
        origin == self.public_url.origin().ascii_serialization()
    }

    /// Whether pages of this origin may call: that of any client, or one of `ALLOWED_ORIGINS`.
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.settings.session.allowed_origins.iter().any(|allowed| allowed == origin)
            || self.clients.load().have_origin(origin)
    }

    /// Refuses a page of `origin`, which is not `client`'s. The log names origin and setting once a
    /// minute.
    pub fn refuse_origin(&self, origin: &str, client: Option<&Client>) -> Problem {
        let opaque = origin == OPAQUE_ORIGIN;
        let what = if opaque { ClientSetting::OpaqueOrigins } else { ClientSetting::Origins };
        let clients = self.clients.load();
        let setting = match client.or(clients.implied().map(|implied| &**implied)) {
            Some(client) => client.setting(what),
            // Before the request's body is read.
            None if opaque => "clients.<client_id>.opaque_origins".to_owned(),
            None => "clients.<client_id>.origins".to_owned(),
        };
        // A digest's first bytes, so that a stranger's origins take up no memory.
        let digest = Digest::of(format!("{setting} {origin}").as_bytes());
        let key = [digest.as_bytes()[0], digest.as_bytes()[1]];
        if self.refused_origins.check_key(&key).is_ok() {
            tracing::warn!(?origin, setting, "origin not allowed");
        }
        Problem::OriginRefused(match opaque {
            true => format!("Pages without an origin may not call; `{setting}` would allow it."),
            false => format!("The origin {origin} is not among those of `{setting}`."),
        })
    }

    /// What completes or fails a sign-in within `trace`.
    pub fn sign_in(&self, trace: &Trace) -> SignIn<'_> {
        SignIn {
            relay: self.relay.in_trace(trace),
            issuer: &self.issuer,
            clients: self.clients.load_full(),
            signing_keys: &self.signing_keys,
            sealing_keys: &self.sealing_keys,
            refresh: self.refresh.as_ref().map(|refresh| refresh.in_trace(trace)),
            hook: self.hook.as_ref(),
            observer: &*self.metrics,
            trace: trace.clone(),
        }
    }

    /// Counts a session's creation against the client's quota.
    ///
    /// # Errors
    /// [`Problem::TooManySessions`] when it is used up.
    pub fn admit_creation(&self, ClientAddress(address): ClientAddress) -> Result<(), Problem> {
        self.creations.take(address).map_err(Problem::TooManySessions)
    }

    /// Whether an instance of version 0.1 may take the next step of a sign-in.
    pub(crate) fn serves_beside_0_1(&self) -> bool {
        self.cookie_keys.format() == Format::V1
    }

    /// Asks the store whether instances of version 0.1 use it.
    pub(crate) async fn check_upgrade(&self) {
        let rings = [&*self.sealing_keys, &self.cookie_keys];
        let noticed = self.relay.take_noticed_0_1();
        if let Err(error) = self.upgrade.check(&rings, noticed).await {
            if noticed {
                self.relay.notice_0_1();
            }
            tracing::debug!(%error, "the store was not asked about version 0.1");
        }
    }

    /// Ends everything that was granted to the person `subject` until now; `by` is for the audit log.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub(crate) async fn end_account(
        &self,
        trace: &Trace,
        subject: &str,
        by: &str,
    ) -> Result<(), StoreError> {
        self.revocations.in_trace(trace).end_account(subject).await?;
        self.metrics.revoked(Revoked::Account);
        self.recent.ended(subject, by);
        let subject = Digest::of(subject.as_bytes());
        tracing::info!(target: "audit", ?subject, by, "everything of the person revoked");
        Ok(())
    }
}

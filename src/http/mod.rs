//! HTTP surface: one file a caller.
//!
//! [`sessions`] and [`streams`] serve the add-in, [`dialog`] the browser, [`resource`] the APIs,
//! [`operator`] whoever runs it; [`connection`] carries their bytes. Called by `app`, which fills
//! [`App`]; calls `login`, `token` and `relay`.

pub mod assets;
pub mod asyncapi;
pub mod client_credentials;
pub mod connection;
mod cookies;
pub mod dialog;
mod line;
pub mod meet;
pub mod metrics;
pub mod middleware;
mod open_requests;
pub mod openapi;
pub mod operator;
pub mod pages;
pub mod problem;
pub mod refresh;
pub mod resource;
pub mod sessions;
pub mod streams;
pub mod tls;

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use governor::{DefaultKeyedRateLimiter, clock::Clock};
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use tower_http::catch_panic::CatchPanicLayer;
use url::Url;

pub use metrics::Transport;
use middleware::ClientAddress;
use problem::Problem;

use crate::{
    login,
    relay::Relay,
    session::Digest,
    token::{Forge, KeyRing, Refresh, Revocations, SigningKeys, Verifier},
    trace::Tracing,
};

/// What all handlers share. Built once by `app`.
pub struct App {
    /// The heart.
    pub relay: Arc<Relay>,
    /// The OpenID provider.
    pub login: login::Provider,
    /// Seals tokens for the store.
    pub sealing_keys: KeyRing,
    /// Seals cookies.
    pub cookie_keys: KeyRing,
    /// Signs access tokens and publishes its public half.
    pub signing_keys: Arc<SigningKeys>,
    /// Makes access tokens.
    pub forge: Forge,
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Access tokens that are revoked before their time.
    pub revocations: Revocations,
    /// Refresh tokens, when they are on.
    pub refresh: Option<Refresh>,
    /// Clients of introspection and revocation: ID and digest of the secret.
    pub introspection_clients: ArcSwap<Vec<(String, Digest)>>,
    /// Pages for people.
    pub pages: Arc<pages::Pages>,
    /// Counters.
    pub metrics: Arc<metrics::Metrics>,
    /// Traces, when they are on.
    pub tracing: Option<Tracing>,
    /// Where the world reaches this service; ends in `/`.
    pub public_url: Url,
    /// Life of a session.
    pub session_ttl: Duration,
    /// Life of a transit token.
    pub transit_token_ttl: Duration,
    /// Pause between signs of life on a stream.
    pub heartbeat: Duration,
    /// Whether the legacy profile is off.
    pub require_bound_sessions: bool,
    /// Exact origins that may call with credentials.
    pub allowed_origins: Vec<String>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Session creations by client address.
    pub creations: DefaultKeyedRateLimiter<IpAddr>,
    /// `Strict-Transport-Security`, when configured.
    pub hsts: Option<HeaderValue>,
    /// The meet-compatible surface, when it is on.
    pub meet: Option<meet::Meet>,
    /// Whether `/metrics` is served beside everything else.
    pub metrics_here: bool,
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

    /// The public URL of `path`, which has no leading slash.
    pub fn public(&self, path: &str) -> String {
        format!("{}{path}", self.public_url)
    }

    /// The path of `path` as browsers see it, for redirects within this service.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.path())
    }

    /// The public URL of `path` with the WebSocket scheme.
    pub fn public_websocket(&self, path: &str) -> String {
        // http → ws, https → wss.
        format!("ws{}", self.public(path).trim_start_matches("http"))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// Whether a request with ambient credentials comes from a page that may use them.
    pub fn origin_is_ours_or_allowed(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::ORIGIN) {
            // Browsers leave it out on same-origin GETs; everything cross-origin carries it here,
            // since CORS requests and WebSocket handshakes always do.
            None => true,
            Some(origin) => origin.to_str().is_ok_and(|origin| {
                origin == self.public_url.origin().ascii_serialization()
                    || self.allowed_origins.iter().any(|allowed| allowed == origin)
            }),
        }
    }

    /// Counts a session's creation against the client's allowance.
    ///
    /// # Errors
    /// [`Problem::TooManySessions`] when it is used up.
    pub fn admit_creation(&self, ClientAddress(address): ClientAddress) -> Result<(), Problem> {
        self.creations.check_key(&allowance_key(address)).map_err(|denied| {
            Problem::TooManySessions(denied.wait_time_from(self.creations.clock().now()))
        })
    }
}

/// One IPv6 customer has a /64 at the least, so single addresses would be no limit.
fn allowance_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

/// Refuses HEAD where GET hands something out or uses something up: a link checker must not.
async fn no_head() -> Problem {
    Problem::MethodNotAllowed
}

/// Everything that is served on the main listener.
pub fn router(app: AppState) -> Router {
    let session = Router::new()
        .route("/addons/sessions", post(sessions::create))
        .route("/addons/sessions/", post(sessions::create))
        .route(
            "/addons/sessions/{session_id}",
            get(streams::long_poll::poll).delete(sessions::end).head(no_head),
        )
        .route("/addons/sessions/{session_id}/events", get(streams::sse::events).head(no_head))
        .route(
            "/addons/sessions/{session_id}/ws",
            get(streams::websocket::websocket).connect(streams::websocket::websocket),
        )
        .route("/addons/me", get(resource::me))
        .route("/addons/verify", get(resource::verify))
        .route("/addons/token", post(refresh::token))
        .route("/addons/introspect", post(resource::introspect))
        .route("/addons/revoke", post(resource::revoke))
        // Before the CORS layer, which must see preflight requests first.
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(middleware::cors(&app));
    let dialog = Router::new()
        .route("/addons/transit/", get(dialog::transit).head(no_head))
        .route("/addons/transit", get(dialog::transit).head(no_head))
        .route("/addons/transit/confirm", post(dialog::confirm))
        .route("/callback", get(dialog::callback).head(no_head))
        .route("/addons/redirect", get(dialog::redirect).head(no_head))
        .route("/addons/success", get(dialog::success))
        .route("/addons/error", get(dialog::error));
    let operator = Router::new()
        .route("/.well-known/jwks.json", get(resource::jwks))
        .route("/.well-known/oauth-authorization-server", get(resource::metadata))
        .route("/healthz", get(operator::healthz))
        .route("/readyz", get(operator::readyz))
        .route("/openapi.json", get(openapi::openapi))
        .route("/asyncapi.json", get(asyncapi::asyncapi))
        .route("/docs", get(openapi::docs));
    let mut router =
        session.merge(dialog).merge(operator).merge(assets::router()).merge(app.pages.router());
    if app.meet.is_some() {
        router = router.merge(meet::router(&app));
    }
    if app.metrics_here {
        router = router.route("/metrics", get(operator::metrics));
    }
    #[cfg(feature = "demo")]
    if app.demo_pane {
        router = router.merge(assets::demo_router());
    }
    router = router
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn(middleware::log));
    if app.tracing.is_some() {
        router = router.layer(from_fn_with_state(Arc::clone(&app), middleware::trace));
    }
    router
        .layer(from_fn_with_state(Arc::clone(&app), middleware::security_headers))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .with_state(app)
}

/// What is served on the separate metrics listener.
pub fn metrics_router(app: AppState) -> Router {
    Router::new()
        .route("/metrics", get(operator::metrics))
        .fallback(async || Problem::NotFound)
        .with_state(app)
}

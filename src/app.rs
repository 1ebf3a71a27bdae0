//! Wires settings into state and router, serves, and shuts down so that nothing is lost.
//!
//! Called by `main` and by tests, which start the same thing. Shutting down is one road: take no
//! more connections, tell every waiting reader to come again, wait for them to be gone, end.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::HeaderValue;
use governor::{Quota, RateLimiter};
use hmac::{Hmac, Mac as _};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    http::{
        self, App, AppState,
        connection::{self, ConnectionLimits},
        meet::Meet,
        metrics::Metrics,
        pages::{Pages, PagesError},
    },
    login::{self, LoginSettings},
    relay::{Relay, Timing, Waiters},
    session::Digest,
    settings::{MeetSettings, RefreshSettings, Secret, Settings, SigningAlgorithm, TraceSettings},
    store::{
        Observed, Observer, SessionStore, StoreError,
        memory::MemoryStore,
        redis::{RedisStore, RedisStoreOptions},
    },
    token::{
        Forge, KeyError, KeyRing, MeetClaims, MeetForge, Refresh, Revocations, SigningKeys,
        Verifier,
    },
    trace::{Tracing, TracingError, TracingOptions},
};

/// How long a dialog's request waits for a store that is away before the person is asked to try
/// again.
const FULFIL_PATIENCE: Duration = Duration::from_secs(8);

/// Of the drain timeout, kept for the export of the last traces.
const FLUSH: Duration = Duration::from_secs(1);

/// How often the creation allowances of clients that went away are forgotten.
const ALLOWANCE_SWEEP: Duration = Duration::from_secs(60);

/// Why the service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// A key from the settings is of no use.
    #[error("{setting}: {source}")]
    Key {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The OpenID client cannot be built.
    #[error("OIDC_ISSUER: {0}")]
    Login(#[from] login::LoginError),
    /// The store cannot be built.
    #[error("REDIS_URL: {0}")]
    Store(#[from] StoreError),
    /// The dialog pages cannot be prepared.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// Traces cannot be exported.
    #[error("OTLP_ENDPOINT: {0}")]
    Traces(#[from] TracingError),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
}

/// A running service.
pub struct Server {
    address: SocketAddr,
    public_url: url::Url,
    app: AppState,
    accepting: CancellationToken,
    connections: TaskTracker,
    drain_timeout: Duration,
}

impl Server {
    /// Starts the service; it serves when this returns.
    ///
    /// # Errors
    /// When it cannot listen or a key is of no use.
    pub async fn start(settings: Settings) -> Result<Self, AppError> {
        Self::start_with(settings, false).await
    }

    /// Like [`Self::start`], with the demo task pane at `/` if `demo_pane`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(settings: Settings, demo_pane: bool) -> Result<Self, AppError> {
        let listener = listen(settings.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|source| AppError::Listen { address: settings.listen, source })?;
        let app = build(&settings, address, demo_pane).await?;
        let limits = ConnectionLimits {
            most: settings.limits.max_connections,
            header_timeout: settings.limits.header_timeout,
        };
        let accepting = CancellationToken::new();
        let connections = TaskTracker::new();
        tokio::spawn(connection::serve(
            listener,
            http::router(Arc::clone(&app)),
            limits,
            accepting.clone(),
            connections.clone(),
        ));
        if let Some(metrics) = settings.metrics_listen {
            tokio::spawn(connection::serve(
                listen(metrics).await?,
                http::metrics_router(Arc::clone(&app)),
                ConnectionLimits { most: 64, ..limits },
                accepting.clone(),
                connections.clone(),
            ));
        }
        tokio::spawn(sweep_allowances(Arc::clone(&app), accepting.clone()));
        app.login.discover_in_background();
        let public_url = app.public_url.clone();
        let drain_timeout = settings.drain_timeout;
        Ok(Self { address, public_url, app, accepting, connections, drain_timeout })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the world reaches it.
    pub fn public_url(&self) -> &url::Url {
        &self.public_url
    }

    /// What its handlers share.
    pub fn app(&self) -> &AppState {
        &self.app
    }

    /// Stops accepting, tells the waiting readers to come again, and waits until all connections
    /// are gone or the drain timeout is over.
    pub async fn shut_down(self) {
        self.accepting.cancel();
        let waiting = self.app.relay.waiters().waiting();
        tracing::info!(waiting, "draining");
        self.app.relay.waiters().drain();
        self.connections.close();
        let deadline = Instant::now() + self.drain_timeout;
        // What is left of the time at the end is for the last traces.
        let reserved = match &self.app.tracing {
            Some(_) => (self.drain_timeout / 5).min(FLUSH),
            None => Duration::ZERO,
        };
        let patience = self.drain_timeout - reserved;
        match tokio::time::timeout(patience, self.connections.wait()).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => {
                let left = self.connections.len();
                tracing::warn!(left, "connections left when the drain timeout was over");
            }
        }
        if let Some(tracing) = &self.app.tracing {
            tracing.shut_down(deadline.saturating_duration_since(Instant::now())).await;
        }
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the service cannot start.
pub async fn serve(settings: Settings) -> Result<(), AppError> {
    let server = Server::start(settings).await?;
    announce(&format!("token-relay listening on http://{}", server.address()));
    until_told(server).await
}

/// Waits for a signal, then shuts down.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn until_told(server: Server) -> Result<(), AppError> {
    told_to_end()?.await;
    server.shut_down().await;
    Ok(())
}

/// Ends with SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be listened to.
pub fn told_to_end() -> Result<impl Future<Output = ()>, AppError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Prints a line for people and scripts on standard output. Nobody may be reading.
pub fn announce(line: &str) {
    use std::io::Write as _;
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn listen(address: SocketAddr) -> Result<TcpListener, AppError> {
    let bind = || -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Thousands of clients may reconnect in the same second.
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| AppError::Listen { address, source })
}

async fn sweep_allowances(app: AppState, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ALLOWANCE_SWEEP) => app.creations.retain_recent(),
        }
    }
}

fn key_ring(setting: &'static str, secrets: &[Secret]) -> Result<KeyRing, AppError> {
    if secrets.is_empty() {
        return Ok(KeyRing::random());
    }
    KeyRing::new(secrets.iter().map(|secret| secret.expose().as_bytes()))
        .map_err(|source| AppError::Key { setting, source })
}

fn signing_keys(settings: &Settings) -> Result<SigningKeys, AppError> {
    let token = &settings.token;
    let algorithm = match token.algorithm {
        SigningAlgorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        SigningAlgorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        SigningAlgorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        SigningAlgorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
    };
    let keys = match &token.signing_key {
        Some(key) => SigningKeys::from_secret(algorithm, key.expose().as_bytes()),
        None => SigningKeys::generate(algorithm),
    }
    .map_err(|source| AppError::Key { setting: "SIGNING_KEY", source })?;
    match &token.previous_signing_key {
        None => Ok(keys),
        Some(previous) => keys
            .with_previous(algorithm, previous.expose().as_bytes())
            .map_err(|source| AppError::Key { setting: "PREVIOUS_SIGNING_KEY", source }),
    }
}

fn traces(settings: &TraceSettings) -> Result<Tracing, TracingError> {
    let headers = settings.headers.iter();
    Tracing::start(&TracingOptions {
        endpoint: settings.endpoint.clone(),
        headers: headers.map(|(name, value)| (name.clone(), value.0.clone())).collect(),
        service_name: settings.service_name.clone(),
        sampler: settings.sampler,
    })
}

fn login_settings(settings: &Settings, redirect_uri: String) -> LoginSettings {
    let mut claims = settings.token.claims.clone();
    if let Some(meet) = &settings.meet {
        claims.push(meet.user_id_claim.clone());
    }
    let oidc = &settings.oidc;
    LoginSettings {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        client_secret: oidc.client_secret.as_ref().map(|secret| secret.expose().to_owned()),
        scopes: oidc.scopes.clone(),
        redirect_uri,
        timeout: oidc.timeout,
        clock_skew: oidc.clock_skew,
        claims,
    }
}

fn meet(settings: &MeetSettings) -> Result<Meet, AppError> {
    let claims = MeetClaims {
        issuer: settings.token_issuer.clone(),
        audience: settings.token_audience.clone(),
        scope: settings.token_scope.clone(),
        token_type: settings.token_type.clone(),
        ttl: settings.token_ttl,
    };
    let secret = settings.token_secret_key.expose().as_bytes();
    let forge = MeetForge::new(&settings.token_algorithm, secret, claims)
        .map_err(|source| AppError::Key { setting: "ADDONS_TOKEN_SECRET_KEY", source })?;
    let csrf_key = Hmac::new_from_slice(settings.csrf_secret.expose().as_bytes())
        .map_err(|_| AppError::Key { setting: "ADDONS_CSRF_SECRET", source: KeyError::Missing })?;
    Ok(Meet {
        session_ttl: settings.session_ttl,
        transit_token_ttl: settings.transit_token_ttl,
        csrf_key,
        forge,
        random_bytes: settings.random_token_byte_length,
        session_id_cookie: settings.session_id_cookie.clone(),
        user_id_claim: settings.user_id_claim.clone(),
        return_to: settings.return_to.clone(),
        login_ttl: settings.login_ttl,
    })
}

async fn build(
    settings: &Settings,
    address: SocketAddr,
    demo_pane: bool,
) -> Result<AppState, AppError> {
    let mut public_url = settings.public_url_for(address);
    if !public_url.path().ends_with('/') {
        public_url.set_path(&format!("{}/", public_url.path()));
    }
    let limits = &settings.limits;
    let waiters = Waiters::new(limits.max_streams, limits.max_streams_per_session);
    let metrics = Arc::new(Metrics::new(Arc::clone(&waiters), settings.redis.is_none()));
    let store: Arc<dyn SessionStore> = match &settings.redis {
        None => MemoryStore::new(waiters.clone()),
        Some(redis) => {
            let options = RedisStoreOptions {
                url: redis.url.expose().to_owned(),
                prefix: redis.prefix.clone(),
                command_timeout: redis.timeout,
            };
            RedisStore::connect(&options, waiters.clone()).await?
        }
    };
    let observer: Arc<dyn Observer> = Arc::clone(&metrics) as _;
    let store: Arc<dyn SessionStore> = Observed::new(store, observer, settings.redis.is_some());
    let timing =
        Timing { delivery_grace: settings.delivery_grace, fulfil_patience: FULFIL_PATIENCE };
    let relay = Relay::new(Arc::clone(&store), waiters, timing);
    let signing_keys = Arc::new(signing_keys(settings)?);
    let issuer = settings.token_issuer_for(&public_url);
    let audience = settings.token_audience_for(&public_url);
    let forge = Forge {
        issuer: issuer.clone(),
        audience: audience.clone(),
        scope: settings.token.scope.clone(),
        ttl: settings.token.ttl,
        claims: settings.token.claims.clone(),
    };
    let redirect_uri = format!("{public_url}callback");
    let quota =
        Quota::per_minute(NonZeroU32::new(limits.sessions_per_minute).unwrap_or(NonZeroU32::MIN));
    Ok(Arc::new(App {
        login: login::Provider::new(login_settings(settings, redirect_uri))?,
        sealing_keys: key_ring("SEALING_KEYS", &settings.sealing_keys)?,
        cookie_keys: key_ring("COOKIE_KEYS", &settings.cookie_keys)?,
        verifier: Verifier::new(Arc::clone(&signing_keys), issuer, audience),
        refresh: settings.token.refresh.as_ref().map(|refresh| {
            let RefreshSettings { token_ttl, grant_ttl } = *refresh;
            Refresh::new(Arc::clone(&store), token_ttl, grant_ttl, settings.token.ttl)
        }),
        revocations: Revocations::new(store),
        introspection_clients: settings
            .introspection_clients
            .iter()
            .map(|(id, secret)| (id.clone(), Digest::of(secret.expose().as_bytes())))
            .collect(),
        pages: Arc::new(Pages::new(&settings.brand, &public_url, &settings.frame_ancestors)?),
        metrics,
        tracing: settings.traces.as_ref().map(traces).transpose()?,
        session_ttl: settings.session_ttl,
        transit_token_ttl: settings.transit_token_ttl,
        heartbeat: settings.heartbeat,
        require_bound_sessions: settings.require_bound_sessions,
        allowed_origins: settings.allowed_origins.clone(),
        trusted_proxies: settings.trusted_proxies.clone(),
        max_body: limits.max_body,
        creations: RateLimiter::<IpAddr, _, _>::dashmap(quota),
        hsts: settings.hsts.and_then(|life| {
            HeaderValue::from_str(&format!("max-age={}; includeSubDomains", life.as_secs())).ok()
        }),
        meet: settings.meet.as_ref().map(meet).transpose()?,
        metrics_here: settings.metrics_listen.is_none(),
        demo_pane,
        relay,
        signing_keys,
        forge,
        public_url,
    }))
}

//! Wires settings into state and router, serves, and shuts down so that nothing is lost.
//!
//! Called by `main` and by tests, which start the same thing. Shutting down is one road: take no
//! more connections, tell every waiting reader to come again, wait for them to be gone, end.
//! `secrets` makes keys of settings, `reload` puts new ones into force.

pub mod connection;
mod direct_write;
mod open_requests;
mod reload;
mod secrets;

use std::{
    io::{self, IsTerminal as _},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::HeaderValue;
use arc_swap::ArcSwap;
use governor::{Quota, RateLimiter};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    http::{
        self, App, AppState,
        dialog::pages::{Pages, PagesError},
        meet::{CsrfKeys, Meet},
        operator::metrics::Metrics,
    },
    oidc::{self, LoginSettings},
    relay::{Registry, Relay, Timing},
    server::{
        connection::{ConnectionLimits, Tls},
        reload::Reloader,
        secrets::{MeetSecrets, Secrets},
    },
    settings::{
        Brand, MeetSettings, RefreshSettings, Settings, SettingsErrors, Snapshot, TraceSettings,
    },
    store::{
        Observed, Observer, SessionStore, StoreError,
        memory::MemoryStore,
        redis::{RedisStore, RedisStoreOptions},
    },
    telemetry::{Tracing, TracingError, TracingOptions},
    token::{Issuer, KeyError, Refresh, Revocations, Verifier},
    util::tls::Identities,
};

/// How long a dialog's request waits for a store that is away before the person is asked to try
/// again.
const FULFIL_TIMEOUT: Duration = Duration::from_secs(8);

/// Of the drain timeout, kept for the export of the last traces.
const FLUSH: Duration = Duration::from_secs(1);

/// How often the creation allowances of clients that went away are forgotten.
const ALLOWANCE_SWEEP: Duration = Duration::from_secs(60);

/// Pause between two looks at the readers that are left in a shutdown.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    Login(#[from] oidc::LoginError),
    /// The store cannot be built.
    #[error("REDIS_URL: {0}")]
    Store(#[from] StoreError),
    /// The dialog pages cannot be prepared.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// TLS cannot be spoken.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Traces cannot be exported.
    #[error("OTLP_ENDPOINT: {0}")]
    Traces(#[from] TracingError),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
}

/// Reads the settings again, from where they came from.
pub type ReadSettings = Box<dyn Fn() -> Result<Snapshot, SettingsErrors> + Send + Sync>;

/// A running service.
pub struct Server {
    address: SocketAddr,
    public_url: url::Url,
    app: AppState,
    /// What TLS is spoken with, if it is.
    identities: Option<Arc<Identities>>,
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
        let identities = settings.tls.clone().map(Identities::new);
        let tls = match &identities {
            Some(identities) => {
                Some(Tls { acceptor: identities.acceptor()?, app: Arc::clone(&app) })
            }
            None => None,
        };
        tokio::spawn(connection::serve(
            listener,
            tls,
            http::router(Arc::clone(&app)),
            limits,
            accepting.clone(),
            connections.clone(),
        ));
        if let Some(metrics) = settings.metrics_listen {
            tokio::spawn(connection::serve(
                listen(metrics).await?,
                None,
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
        Ok(Self { address, public_url, app, identities, accepting, connections, drain_timeout })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the world reaches it.
    pub fn public_url(&self) -> &url::Url {
        &self.public_url
    }

    /// The scheme that it is spoken to with.
    pub fn scheme(&self) -> &'static str {
        if self.identities.is_some() { "https" } else { "http" }
    }

    /// What its handlers share.
    pub fn app(&self) -> &AppState {
        &self.app
    }

    /// Stops accepting, tells the waiting readers to come again, and waits until all connections
    /// are gone or the drain timeout is over.
    pub async fn shut_down(self) {
        self.accepting.cancel();
        let waiting = self.app.relay.registry().waiting();
        tracing::info!(waiting, "draining");
        self.app.relay.registry().drain();
        self.connections.close();
        let deadline = Instant::now() + self.drain_timeout;
        // What is left of the time at the end is for the last traces.
        let reserved = match &self.app.tracing {
            Some(_) => (self.drain_timeout / 5).min(FLUSH),
            None => Duration::ZERO,
        };
        let gone = async {
            self.connections.wait().await;
            // WebSockets have left the connections that they came by.
            while self.app.relay.registry().waiting() > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(self.drain_timeout - reserved, gone).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => {
                let left = self.connections.len();
                let waiting = self.app.relay.registry().waiting();
                tracing::warn!(left, waiting, "connections left when the drain timeout was over");
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
pub async fn serve(snapshot: Snapshot, read_settings: ReadSettings) -> Result<(), AppError> {
    let signals = Signals::listen()?;
    let server = Server::start(snapshot.settings.clone()).await?;
    announce(&format!("token-relay listening on {}://{}", server.scheme(), server.address()));
    until_told(server, signals, snapshot, read_settings).await;
    Ok(())
}

/// The signals that the service heeds.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to listen; from here on none of them ends the process by itself.
    ///
    /// # Errors
    /// When they cannot be listened to.
    pub fn listen() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for any of them, for who has nothing to reload.
    pub async fn any(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Reloads when told or when files change, until SIGTERM or SIGINT; then shuts down.
pub async fn until_told(
    server: Server,
    signals: Signals,
    snapshot: Snapshot,
    read_settings: ReadSettings,
) {
    let Signals { mut terminate, mut interrupt, mut hang_up } = signals;
    // A terminal that is closed sends the same signal as an operator who wants a reload.
    let has_terminal = io::stdin().is_terminal();
    let identities = server.identities.clone();
    let mut reloader = Reloader::new(snapshot, read_settings, Arc::clone(&server.app), identities);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => {
                if has_terminal {
                    break;
                }
                reloader.reload().await;
            }
            () = reloader.files_changed() => reloader.reload_changes().await,
        }
    }
    server.shut_down().await;
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
        client_secret: secrets::client_secret(settings),
        scopes: oidc.scopes.clone(),
        redirect_uri,
        timeout: oidc.timeout,
        clock_skew: oidc.clock_skew,
        claims,
    }
}

fn meet(settings: &MeetSettings, MeetSecrets { csrf_key, issuer }: MeetSecrets) -> Meet {
    Meet {
        session_ttl: settings.session_ttl,
        transit_token_ttl: settings.transit_token_ttl,
        csrf_keys: ArcSwap::from_pointee(CsrfKeys::new(csrf_key)),
        issuer: ArcSwap::from_pointee(issuer),
        random_bytes: settings.random_token_byte_length,
        session_id_cookie: settings.session_id_cookie.clone(),
        user_id_claim: settings.user_id_claim.clone(),
        return_to: settings.return_to.clone(),
        login_ttl: settings.login_ttl,
    }
}

/// The look of the dialog. In the demo its last page loads the stand-in for Office.js, so that the
/// sample Outlook add-in is told as Outlook would tell it.
fn brand(settings: &Settings, public_url: &url::Url, demo_pane: bool) -> Brand {
    let mut brand = settings.brand.clone();
    if demo_pane && brand.office_js_url.is_none() {
        brand.office_js_url = public_url.join(http::assets::OFFICE_STUB).ok();
    }
    brand
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
    let registry = Registry::new(limits.max_streams, limits.max_streams_per_session);
    let metrics = Arc::new(Metrics::new(Arc::clone(&registry), settings.redis.is_none()));
    let store: Arc<dyn SessionStore> = match &settings.redis {
        None => MemoryStore::new(registry.clone()),
        Some(redis) => {
            let options = RedisStoreOptions {
                url: redis.url.expose().to_owned(),
                prefix: redis.prefix.clone(),
                command_timeout: redis.timeout,
            };
            RedisStore::connect(&options, registry.clone()).await?
        }
    };
    let observer: Arc<dyn Observer> = Arc::clone(&metrics) as _;
    let store: Arc<dyn SessionStore> = Observed::new(store, observer, settings.redis.is_some());
    let timing = Timing { delivery_grace: settings.delivery_grace, fulfil_timeout: FULFIL_TIMEOUT };
    let relay = Relay::new(Arc::clone(&store), registry, timing);
    let secrets = Secrets::of(settings)?;
    let signing_keys = Arc::new(secrets.signing_keys);
    let issuer = settings.token_issuer_for(&public_url);
    let audience = settings.token_audience_for(&public_url);
    let token_issuer = Issuer {
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
        login: oidc::Provider::new(login_settings(settings, redirect_uri))?,
        sealing_keys: secrets.sealing_keys,
        cookie_keys: secrets.cookie_keys,
        verifier: Verifier::new(Arc::clone(&signing_keys), issuer, audience),
        refresh: settings.token.refresh.as_ref().map(|refresh| {
            let RefreshSettings { token_ttl, grant_ttl } = *refresh;
            Refresh::new(Arc::clone(&store), token_ttl, grant_ttl, settings.token.ttl)
        }),
        revocations: Revocations::new(store),
        introspection_clients: ArcSwap::from_pointee(secrets.introspection_clients),
        pages: Arc::new(Pages::new(
            &brand(settings, &public_url, demo_pane),
            &public_url,
            &settings.frame_ancestors,
        )?),
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
        meet: settings.meet.as_ref().zip(secrets.meet).map(|(settings, keys)| meet(settings, keys)),
        metrics_here: settings.metrics_listen.is_none(),
        demo_pane,
        relay,
        signing_keys,
        issuer: token_issuer,
        public_url,
    }))
}

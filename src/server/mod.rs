//! The running service: start, serve, and a shutdown that loses nothing.
//!
//! A shutdown stops accepting, asks every waiting reader to reconnect, waits until all connections
//! have closed, and exports the last traces.

mod app;
mod connection;
mod connection_slots;
mod direct_write;
mod error;
mod file_limit;
mod hyper;
mod linger;
mod listener;
mod network_stream;
mod parking;
mod reload;
mod requests;
mod secrets;
mod signals;
mod socket;
mod sse_fast_path;
mod tls;
mod tls_stream;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use crate::server::app::provider_options;
pub use crate::server::{
    error::{AppError, ListenError},
    signals::{Signals, run_until_signal},
};

use crate::{
    http::{self, AppState},
    server::{
        connection::ConnectionLimits,
        parking::{Parking, ParkingGuard},
        tls::Tls,
    },
    settings::{Settings, SettingsErrors, Snapshot},
    util::tls::Identities,
};

/// The part of the drain timeout reserved for exporting the last traces.
const TRACE_EXPORT_TIME: Duration = Duration::from_secs(1);

/// Interval at which unused creation quotas are dropped.
const QUOTA_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Interval at which the store is asked whether instances of version 0.1 use it.
const UPGRADE_CHECK_INTERVAL: Duration = Duration::from_secs(600);

/// Interval at which a shutdown counts the remaining readers.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Connections open at the same time on the metrics listener.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// Reads the settings again from their sources.
pub type ReadSettings = Box<dyn Fn() -> Result<Snapshot, SettingsErrors> + Send + Sync>;

/// A running service.
pub struct Server {
    address: SocketAddr,
    public_url: url::Url,
    app: AppState,
    /// Certificate and key, where the listener speaks TLS.
    identities: Option<Arc<Identities>>,
    accepting: CancellationToken,
    connections: TaskTracker,
    /// Ends with the server.
    _parking: ParkingGuard,
    drain_timeout: Duration,
}

impl Server {
    /// Starts the service, which serves from when this returns.
    ///
    /// # Errors
    /// When it cannot listen or a key is unusable.
    pub async fn start(settings: Settings) -> Result<Self, AppError> {
        Self::start_with(settings, false).await
    }

    /// Like [`Self::start`], with the demo task pane at `/` if `demo_pane`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(settings: Settings, demo_pane: bool) -> Result<Self, AppError> {
        let settings = Arc::new(settings);
        let listener = listener::bind(settings.server.listen)?;
        let address = listener
            .local_addr()
            .map_err(|source| ListenError { address: settings.server.listen, source })?;
        let app = app::build(Arc::clone(&settings), address, demo_pane).await?;
        let limits = ConnectionLimits {
            max_connections: file_limit::raise(settings.limits.max_connections),
            header_timeout: settings.limits.header_timeout,
        };
        let accepting = CancellationToken::new();
        let connections = TaskTracker::new();
        let (parking, guard) = Parking::start().map_err(AppError::Parking)?;
        let identities = settings.tls.clone().map(Identities::new);
        let tls = match &identities {
            Some(identities) => Some(Tls { config: identities.config()?, app: Arc::clone(&app) }),
            None => None,
        };
        tokio::spawn(listener::serve(
            listener,
            tls,
            http::router(Arc::clone(&app)),
            limits,
            accepting.clone(),
            connections.clone(),
            Arc::clone(&parking),
        ));
        if let Some(metrics) = settings.server.metrics_listen {
            tokio::spawn(listener::serve(
                listener::bind(metrics)?,
                None,
                http::metrics_router(Arc::clone(&app)),
                ConnectionLimits { max_connections: MAX_METRICS_CONNECTIONS, ..limits },
                accepting.clone(),
                connections.clone(),
                parking,
            ));
        }
        tokio::spawn(sweep_quotas(Arc::clone(&app), accepting.clone()));
        tokio::spawn(check_upgrade(Arc::clone(&app), accepting.clone()));
        app.login.discover_in_background();
        let public_url = app.public_url.clone();
        let drain_timeout = settings.server.drain_timeout;
        Ok(Self {
            address,
            public_url,
            app,
            identities,
            accepting,
            connections,
            _parking: guard,
            drain_timeout,
        })
    }

    /// The address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL by which clients reach it.
    pub fn public_url(&self) -> &url::Url {
        &self.public_url
    }

    /// The scheme of the listener.
    pub fn scheme(&self) -> &'static str {
        if self.identities.is_some() { "https" } else { "http" }
    }

    /// The state that its handlers share.
    pub fn app(&self) -> &AppState {
        &self.app
    }

    /// Stops accepting, asks the waiting readers to reconnect, and waits until all connections have
    /// closed or the drain timeout has passed.
    pub async fn shut_down(self) {
        self.accepting.cancel();
        let waiting = self.app.relay.registry().waiting();
        tracing::info!(waiting, "draining");
        self.app.relay.registry().drain();
        self.connections.close();
        let deadline = Instant::now() + self.drain_timeout;
        // The rest is for the export of the last traces.
        let reserved = match &self.app.tracing {
            Some(_) => (self.drain_timeout / 5).min(TRACE_EXPORT_TIME),
            None => Duration::ZERO,
        };
        let closed = async {
            self.connections.wait().await;
            // An upgraded connection is no longer tracked; its reader is.
            while self.app.relay.registry().waiting() > 0 {
                tokio::time::sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        match tokio::time::timeout(self.drain_timeout - reserved, closed).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => {
                let left = self.connections.len();
                let waiting = self.app.relay.registry().waiting();
                tracing::warn!(left, waiting, "drain timeout passed with open connections");
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
    snapshot.log_warnings();
    let server = Server::start(snapshot.settings.clone()).await?;
    announce(format!("token-relay listening on {}://{}", server.scheme(), server.address()));
    run_until_signal(server, signals, snapshot, read_settings).await;
    Ok(())
}

/// Prints one line on standard output, on another thread and without an error: nobody may be
/// reading.
pub fn announce(line: String) {
    let print = move || {
        use std::io::Write as _;
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    };
    if let Err(error) = std::thread::Builder::new().name("announce".to_owned()).spawn(print) {
        tracing::warn!(%error, "address not printed");
    }
}

async fn sweep_quotas(app: AppState, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(QUOTA_SWEEP_INTERVAL) => {
                app.creations.retain_recent();
                app.guesses.retain_recent();
            }
        }
    }
}

async fn check_upgrade(app: AppState, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(UPGRADE_CHECK_INTERVAL) => app.check_upgrade().await,
        }
    }
}

//! `token-relay demo`: the relay as `serve` runs it, an OpenID provider beside it, and a demo
//! task pane.

mod platform;
mod provider;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use crate::demo::platform::Platform;
pub use crate::demo::provider::{DemoProvider, DemoProviderError, RegisteredClient};

use crate::{
    api::{Secret, paths},
    server::{self, AppError, ListenError, Server, Signals},
    session::SessionToken,
    settings::{DemoPlatform, SettingsErrors, Snapshot},
    util::{browser, random::random_bytes},
};

/// `client_id` of the relay at the embedded provider.
pub const CLIENT_ID: &str = "token-relay-demo";

/// Path of the demo task pane.
const OUTLOOK: &str = "/outlook/";

/// Options of `token-relay demo`.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Where the relay listens.
    pub listen: SocketAddr,
    /// Where the embedded provider listens.
    pub provider_listen: SocketAddr,
    /// Where the embedded platform listens, if there is one.
    pub platform_listen: Option<SocketAddr>,
    /// Whether a browser is opened.
    pub open: bool,
    /// Whether addresses that others reach and configured keys are accepted.
    pub allow_production: bool,
}

/// Why the demo cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The settings from the environment are invalid.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// The demo would be reached by others, or would use keys of a deployment.
    #[error(
        "{0}: the demo signs in anybody, so it refuses this without --allow-production; \
         see `token-relay serve`"
    )]
    Production(String),
    /// The relay does not start.
    #[error(transparent)]
    App(#[from] AppError),
    /// The provider does not start.
    #[error(transparent)]
    Provider(#[from] DemoProviderError),
    /// The relay or the provider cannot listen on its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs the demo until a signal.
///
/// # Errors
/// When relay or provider do not start.
pub async fn run(options: DemoOptions) -> Result<(), DemoError> {
    let signals = Signals::listen()?;
    let Demo { server, issuer, snapshot, client_secret, platform } =
        start(options, crate::settings::environment()).await?;
    let url = server.public_url().as_str().trim_end_matches('/').to_owned();
    let accounts = platform.as_ref().map(|platform| format!(", platform: {}", platform.origin));
    let accounts = accounts.unwrap_or_default();
    server::announce(format!(
        "token-relay demo: open {url} (provider: {issuer}{accounts})\n\
         \x20 users          {} (the password is the name)\n\
         \x20 in Outlook     {url}{}\n\
         \x20 interfaces     {url}{}\n\
         \x20 in a terminal  token-relay login {url}",
        provider::usernames().join(", "),
        OUTLOOK,
        paths::DOCS,
    ));
    if options.open {
        browser::open(&url);
    }
    let read_settings = Box::new(move || {
        let environment = crate::settings::environment();
        let platform = platform.as_ref();
        Snapshot::demo(options.listen, &issuer, CLIENT_ID, &client_secret, platform, environment)
    });
    server::run_until_signal(server, signals, snapshot, read_settings).await;
    Ok(())
}

/// A running demo.
pub struct Demo {
    /// The relay.
    pub server: Server,
    /// The provider's issuer.
    pub issuer: String,
    snapshot: Snapshot,
    client_secret: String,
    platform: Option<DemoPlatform>,
}

/// Starts the platform; its pages need to know the relay.
async fn start_platform(address: SocketAddr) -> Result<(DemoPlatform, Arc<Platform>), DemoError> {
    let unusable = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(unusable)?;
    let origin = format!("http://{}", listener.local_addr().map_err(unusable)?);
    let key = || Secret::from(hex::encode(random_bytes::<32>()));
    let shared =
        DemoPlatform { origin, hook_secret: key(), csrf_secret: key(), token_secret: key() };
    let platform = Platform::new(&shared.origin, &shared.hook_secret);
    let router = Arc::clone(&platform).router();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the demo platform ended");
        }
    });
    Ok((shared, platform))
}

/// Starts relay and provider.
///
/// # Errors
/// As [`run`].
pub async fn start(
    options: DemoOptions,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Demo, DemoError> {
    let environment: Vec<_> = environment.into_iter().collect();
    if !options.allow_production {
        refuse_production(options, &environment)?;
    }
    let unusable = |address| move |source| ListenError { address, source };
    let listener = TcpListener::bind(options.provider_listen)
        .await
        .map_err(unusable(options.provider_listen))?;
    let bound = listener.local_addr().map_err(unusable(options.provider_listen))?;
    let issuer = format!("http://{bound}");
    let secret = SessionToken::generate().expose().to_owned();
    let platform = match options.platform_listen {
        Some(address) => Some(start_platform(address).await?),
        None => None,
    };
    let shared = platform.as_ref().map(|(shared, _)| shared);
    let snapshot =
        Snapshot::demo(options.listen, &issuer, CLIENT_ID, &secret, shared, environment)?;
    snapshot.log_warnings();
    let server = Server::start_with(snapshot.settings.clone(), true).await?;
    let platform = platform.map(|(shared, platform)| {
        if let Some(meet) = &snapshot.settings.meet {
            platform.connect(server.public_url(), meet);
        }
        shared
    });
    let client = RegisteredClient {
        id: CLIENT_ID.to_owned(),
        secret: secret.clone(),
        redirect_uris: [paths::CALLBACK, paths::MEET_CALLBACK]
            .map(|path| server.app().public(path))
            .to_vec(),
    };
    let auto_login = is_on(std::env::var("TOKEN_RELAY_DEMO_AUTO_LOGIN").ok().as_deref());
    let provider = DemoProvider::new(&issuer, client, auto_login)?.router();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, provider).await {
            tracing::error!(%error, "the demo provider ended");
        }
    });
    Ok(Demo { server, issuer, snapshot, client_secret: secret, platform })
}

/// Whether a variable that is no setting switches something on: off when empty, as settings are, and
/// where it says so.
fn is_on(value: Option<&str>) -> bool {
    let value = value.map(|value| value.trim().to_ascii_lowercase()).unwrap_or_default();
    !matches!(value.as_str(), "" | "0" | "false" | "no" | "off")
}

/// Keys that a deployment shares with others; the demo makes its own.
const PRODUCTION_KEYS: [&str; 4] =
    ["SIGNING_KEY", "COOKIE_KEYS", "SEALING_KEYS", "ADDONS_TOKEN_SECRET_KEY"];

fn refuse_production(
    options: DemoOptions,
    environment: &[(String, String)],
) -> Result<(), DemoError> {
    let addresses = [options.listen, options.provider_listen].into_iter();
    for address in addresses.chain(options.platform_listen) {
        if !address.ip().is_loopback() {
            return Err(DemoError::Production(format!("{address} is no loopback address")));
        }
    }
    let is_key = |name: &str| {
        let name = name.strip_prefix("TOKEN_RELAY_").unwrap_or(name);
        PRODUCTION_KEYS.contains(&name.strip_suffix("_FILE").unwrap_or(name))
    };
    match environment.iter().find(|(name, value)| is_key(name) && !value.trim().is_empty()) {
        Some((name, _)) => Err(DemoError::Production(format!("{name} is set"))),
        None => Ok(()),
    }
}

/// Options of `token-relay demo-provider`.
#[derive(Clone, Debug)]
pub struct DemoProviderOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its issuer URL, as browsers and the relay reach it.
    pub issuer: String,
    /// The one client that it knows.
    pub client: RegisteredClient,
}

/// Runs the provider alone, for a deployment that is being tried, until a signal.
///
/// # Errors
/// When it does not start.
pub async fn run_provider(options: DemoProviderOptions) -> Result<(), DemoError> {
    let DemoProviderOptions { listen: address, issuer, client } = options;
    let signals = Signals::listen()?;
    let unusable = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(unusable)?;
    let bound = listener.local_addr().map_err(unusable)?;
    let router = DemoProvider::new(&issuer, client, false)?.router();
    server::announce(format!("token-relay demo-provider: {issuer} listening on http://{bound}"));
    axum::serve(listener, router).with_graceful_shutdown(signals.any()).await.map_err(unusable)?;
    Ok(())
}

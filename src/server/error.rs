//! Why the service cannot start.

use std::{io, net::SocketAddr};

use crate::{
    http::pages::PagesError, oidc, store::StoreError, telemetry::TracingError, token::KeyError,
};

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A configured key is unusable.
    #[error("{setting}: {source}")]
    Key {
        /// The setting.
        setting: &'static str,
        /// Why it is unusable.
        source: KeyError,
    },
    /// The OpenID client cannot be built.
    #[error("OIDC_ISSUER: {0}")]
    Login(#[from] oidc::LoginError),
    /// The store cannot be built.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The dialog pages cannot be prepared.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Traces cannot be exported.
    #[error("OTLP_ENDPOINT: {0}")]
    Traces(#[from] TracingError),
    /// A file with certificate authorities cannot be read.
    #[error("{setting}: {source}")]
    Authorities {
        /// The setting.
        setting: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The HTTP client of a service of the operator's cannot be built.
    #[error("cannot call services: {0}")]
    Service(#[from] reqwest::Error),
    /// Signal handlers cannot be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
}

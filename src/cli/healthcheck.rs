//! `token-relay healthcheck`: checks whether an instance is ready. For containers, whose image has no
//! other HTTP client.

use std::time::Duration;

use http::StatusCode;
use url::Url;

use crate::{
    settings::{Settings, reachable},
    util::http_client::{self, CallError},
};

/// Time limit for the whole check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of an answer in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Why the check fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthcheckError {
    /// The argument names no instance.
    #[error("expected an http(s) URL")]
    NotHttp,
    /// The instance is not ready.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The instance does not answer.
    #[error("{0}: {err}", err = .1.chain())]
    NoAnswer(String, #[source] CallError),
    /// The check cannot be made.
    #[error("{}", .0.chain())]
    Client(#[from] CallError),
}

/// The `/readyz` of the instance at `url`, of which only scheme, host and port count.
pub(super) fn endpoint(mut url: Url) -> Result<Url, HealthcheckError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(HealthcheckError::NotHttp);
    }
    url.set_path("/readyz");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// The `/readyz` of the instance that `settings` configure.
pub(super) fn configured(settings: &Settings) -> Result<Url, HealthcheckError> {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", reachable(settings.server.listen));
    Url::parse(&url).map_err(|_| HealthcheckError::NotHttp)
}

/// Asks the instance with this `/readyz`.
///
/// Any certificate is accepted: the instance is asked at its address, while its certificate is for
/// its public name, from an authority that this machine need not know. Nothing secret is sent, and a
/// program that could answer in the instance's place on this machine could as well end it.
pub(super) async fn check(endpoint: Url) -> Result<(), HealthcheckError> {
    let client = http_client::builder(TIMEOUT)
        // The environment's proxy is for the provider, not for an instance on this machine.
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .map_err(CallError::from)?;
    let instance = endpoint.origin().ascii_serialization();
    let request = client.get(endpoint).build().map_err(CallError::from)?;
    let answer = http_client::call(&client, request, MAX_ANSWER).await;
    let answer = answer.map_err(|error| HealthcheckError::NoAnswer(instance, error))?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => {
            let body = String::from_utf8_lossy(answer.body());
            Err(HealthcheckError::NotReady(format!("{status} {}", body.trim())))
        }
    }
}

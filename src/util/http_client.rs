//! HTTP clients whose calls are bounded in time and size and follow no redirect.

use std::time::Duration;

use http::Response;

/// Time limit for connecting, within that of the whole call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request could not be sent or its answer not read. Without the URL, whose query might hold
    /// a secret.
    #[error("no answer")]
    Request(#[source] reqwest::Error),
    /// The body is too large.
    #[error("the answer is larger than {max} bytes")]
    TooLarge {
        /// Maximum size in bytes.
        max: usize,
    },
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

impl CallError {
    /// The error and all its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// A client whose every call ends within `timeout`.
pub fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    // Whatever else in the process installs a provider installs this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .timeout(timeout)
        .user_agent(concat!("token-relay/", env!("CARGO_PKG_VERSION")))
}

/// Sends `request` and reads an answer of at most `max` bytes.
///
/// # Errors
/// [`CallError`].
pub async fn call(
    client: &reqwest::Client,
    request: reqwest::Request,
    max: usize,
) -> Result<Response<Vec<u8>>, CallError> {
    let mut answer = client.execute(request).await?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > max {
            return Err(CallError::TooLarge { max });
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::new(body);
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

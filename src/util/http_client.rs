//! HTTP clients whose calls are bounded in time and size and follow no redirect.

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::sync::Semaphore;

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

/// Calls of a [`ServiceClient`] that are under way at once.
const MAX_CALLS: usize = 64;

/// Calls of a [`ServiceClient`] that wait for their turn.
const MAX_WAITING: usize = 512;

/// Why a service gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request could not be sent, or its answer could not be read.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No answer in time, the wait for its turn included.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Too many calls wait already.
    #[error("{MAX_WAITING} calls wait for it already")]
    Overloaded,
}

impl ServiceError {
    /// The error and all its causes on one line.
    pub fn chain(&self) -> String {
        match self {
            Self::Call(error) => error.chain(),
            other => other.to_string(),
        }
    }
}

/// Certificate authorities that sign for one service.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<reqwest::Certificate>);

impl Authorities {
    /// Reads certificates in PEM; `None` when there is not one.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let certificates = reqwest::Certificate::from_pem_bundle(pem).ok()?;
        (!certificates.is_empty()).then_some(Self(certificates))
    }
}

/// A client of one service of the operator's: its connections are pooled, and calls under way and
/// calls that wait are bounded, so that a slow service holds up nothing else.
#[derive(Clone)]
pub struct ServiceClient {
    client: reqwest::Client,
    /// One permit a call under way.
    turns: Arc<Semaphore>,
    /// One permit a call under way or waiting.
    places: Arc<Semaphore>,
    timeout: Duration,
    max: usize,
}

impl ServiceClient {
    /// A client whose every call ends within `timeout` with an answer of at most `max` bytes. It
    /// trusts `authorities`, or those of the system without any.
    ///
    /// # Errors
    /// When the client cannot be built, as without any trust anchors.
    pub fn new(
        timeout: Duration,
        max: usize,
        authorities: Authorities,
    ) -> Result<Self, reqwest::Error> {
        // HTTP/1.1, whose `Host` may differ from the name that the connection is made to.
        // The limit of a call includes the wait for its turn; this one is never reached first.
        let mut builder = builder(timeout + Duration::from_secs(1)).http1_only();
        if !authorities.0.is_empty() {
            builder = builder.tls_certs_only(authorities.0);
        }
        Ok(Self {
            client: builder.build()?,
            turns: Arc::new(Semaphore::new(MAX_CALLS)),
            places: Arc::new(Semaphore::new(MAX_CALLS + MAX_WAITING)),
            timeout,
            max,
        })
    }

    /// Sends `request` when it is its turn.
    ///
    /// # Errors
    /// [`ServiceError`]. A status is no error here.
    pub async fn call(&self, request: reqwest::Request) -> Result<Response<Vec<u8>>, ServiceError> {
        let Ok(_place) = self.places.try_acquire() else { return Err(ServiceError::Overloaded) };
        let answered = async {
            let _turn = self.turns.acquire().await;
            call(&self.client, request, self.max).await
        };
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ServiceError::TimedOut(self.timeout)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_never_answers_holds_a_bounded_number_of_calls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let service =
            ServiceClient::new(Duration::from_secs(5), 1024, Authorities::default()).unwrap();
        let calls: Vec<_> = (0..MAX_CALLS + MAX_WAITING + 10)
            .map(|_| {
                let (service, url) = (service.clone(), url.parse().unwrap());
                let request = reqwest::Request::new(http::Method::GET, url);
                tokio::spawn(async move { service.call(request).await })
            })
            .collect();
        let (mut overloaded, mut late) = (0, 0);
        for call in calls {
            match call.await.unwrap().unwrap_err() {
                ServiceError::Overloaded => overloaded += 1,
                _ => late += 1,
            }
        }
        assert_eq!((overloaded, late), (10, MAX_CALLS + MAX_WAITING));
    }
}

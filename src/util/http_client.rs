//! HTTP clients whose calls are bounded in time and size and follow no redirect.

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::{sync::Semaphore, time::timeout};

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

/// Maximum wait for a turn. It is apart from the time limit of the call: if the wait came out of that
/// limit, the calls whose turn comes under constant overload would be those with the least time left,
/// and a service that needs a second for its answer would answer none in time.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Why a service gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request could not be sent, or its answer could not be read.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Calls that were under way took too long for this one to be sent.
    #[error(
        "not asked: {MAX_CALLS} calls were under way for {}",
        humantime::format_duration(MAX_WAIT)
    )]
    Busy,
    /// Too many calls wait already.
    #[error("not asked: {MAX_CALLS} calls are under way and {MAX_WAITING} wait")]
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

/// Bounds the calls of one service that are under way, those that wait, and how long they wait.
#[derive(Clone)]
struct Turns {
    /// One permit a call under way.
    turns: Arc<Semaphore>,
    /// One permit a call under way or waiting.
    places: Arc<Semaphore>,
}

impl Turns {
    fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(MAX_CALLS)),
            places: Arc::new(Semaphore::new(MAX_CALLS + MAX_WAITING)),
        }
    }

    /// Runs `call` when it is its turn, for at most `limit`.
    async fn take<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, ServiceError> {
        let Ok(_place) = self.places.try_acquire() else { return Err(ServiceError::Overloaded) };
        let Ok(_turn) = timeout(MAX_WAIT, self.turns.acquire()).await else {
            return Err(ServiceError::Busy);
        };
        match timeout(limit, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ServiceError::TimedOut(limit)),
        }
    }
}

/// A client of one service of the operator's: its connections are pooled, and calls under way and
/// calls that wait are bounded, so that a slow service holds up nothing else.
#[derive(Clone)]
pub struct ServiceClient {
    client: reqwest::Client,
    turns: Turns,
    timeout: Duration,
    max: usize,
}

impl ServiceClient {
    /// A client whose every call ends within `timeout`, counted from when it is sent, with an answer
    /// of at most `max` bytes. It trusts `authorities`, or those of the system without any.
    ///
    /// # Errors
    /// When the client cannot be built, as without any trust anchors.
    pub fn new(
        timeout: Duration,
        max: usize,
        authorities: Authorities,
    ) -> Result<Self, reqwest::Error> {
        // HTTP/1.1, whose `Host` may differ from the name that the connection is made to.
        // `Turns` ends the call first, so that the error names the limit.
        let mut builder = builder(timeout + Duration::from_secs(1)).http1_only();
        if !authorities.0.is_empty() {
            builder = builder.tls_certs_only(authorities.0);
        }
        Ok(Self { client: builder.build()?, turns: Turns::new(), timeout, max })
    }

    /// Sends `request` when it is its turn.
    ///
    /// # Errors
    /// [`ServiceError`]. A status is no error here.
    pub async fn call(&self, request: reqwest::Request) -> Result<Response<Vec<u8>>, ServiceError> {
        self.turns.take(self.timeout, call(&self.client, request, self.max)).await
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
        let (mut overloaded, mut busy, mut late) = (0, 0, 0);
        for call in calls {
            match call.await.unwrap().unwrap_err() {
                ServiceError::Overloaded => overloaded += 1,
                ServiceError::Busy => busy += 1,
                ServiceError::TimedOut(_) | ServiceError::Call(_) => late += 1,
            }
        }
        assert_eq!((overloaded, busy, late), (10, MAX_WAITING, MAX_CALLS));
    }

    /// A thousand calls a second for ten seconds, of a service that can answer 64: it answers 64.
    #[tokio::test(start_paused = true)]
    async fn a_slow_service_under_constant_overload_still_answers_what_it_can() {
        for seconds in [1, 4] {
            let turns = Turns::new();
            let mut calls = Vec::new();
            for _ in 0..10_000 {
                let turns = turns.clone();
                calls.push(tokio::spawn(async move {
                    let asked = tokio::time::Instant::now();
                    let answer = tokio::time::sleep(Duration::from_secs(seconds));
                    let call = async {
                        answer.await;
                        Ok(())
                    };
                    let result = turns.take(Duration::from_secs(5), call).await;
                    (result, asked.elapsed())
                }));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (mut answered, mut late, mut slowest) = (0, 0, Duration::ZERO);
            for call in calls {
                let (result, took) = call.await.unwrap();
                answered += usize::from(result.is_ok());
                late += usize::from(matches!(result, Err(ServiceError::TimedOut(_))));
                slowest = slowest.max(took);
            }
            let possible = MAX_CALLS * 10 / seconds as usize;
            assert!(answered >= possible, "{answered} of {possible} at {seconds} s");
            assert_eq!(late, 0, "at {seconds} s");
            let limit = MAX_WAIT + Duration::from_secs(seconds) + Duration::from_millis(100);
            assert!(slowest <= limit, "{slowest:?}");
        }
    }
}

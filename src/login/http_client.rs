//! The back channel to the provider: bounded in time and size, following no redirects.

use std::{pin::Pin, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

/// Largest answer that is read, in bytes. Metadata and key sets are a few kilobytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// A back-channel call failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request could not be made or its answer not read. Without the URL, whose query might
    /// tell something.
    #[error("no answer")]
    Request(#[source] reqwest::Error),
    /// The answer is larger than any honest one.
    #[error("the answer is larger than {MAX_RESPONSE} bytes")]
    TooLarge,
    /// The answer cannot be represented.
    #[error("the answer is malformed")]
    Malformed,
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

/// The back channel.
#[derive(Clone)]
pub struct BackChannel(reqwest::Client);

impl BackChannel {
    /// A client whose every call takes `timeout` at the most.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        // Another part of the process may have installed it already; either is this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout.min(Duration::from_secs(5)))
            .timeout(timeout)
            .user_agent(concat!("token-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self(client))
    }

    /// Sends one request.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut response = self.0.execute(request.try_into()?).await?;
        let mut answer = http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = std::mem::take(response.headers_mut());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_RESPONSE {
                return Err(HttpError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        answer.body(body).map_err(|_| HttpError::Malformed)
    }
}

impl<'c> AsyncHttpClient<'c> for BackChannel {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

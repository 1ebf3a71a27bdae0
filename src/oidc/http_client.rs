//! The back channel to the provider: bounded in time and size, following no redirects.

use std::{pin::Pin, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::telemetry::{Kind, TRACEPARENT, Trace};

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

impl HttpError {
    /// A word for it, for the operator's traces.
    fn kind(&self) -> &'static str {
        match self {
            Self::Request(error) if error.is_timeout() => "timeout",
            Self::Request(error) if error.is_connect() => "connect",
            Self::Request(_) => "request",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
        }
    }
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

/// The back channel.
#[derive(Clone)]
pub struct BackChannel {
    client: reqwest::Client,
    trace: Trace,
}

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
        Ok(Self { client, trace: Trace::none() })
    }

    /// The same, with its calls recorded in `trace` and continued by the provider.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { client: self.client.clone(), trace: trace.clone() }
    }

    /// Sends one request.
    pub async fn send(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let call = self.trace.child(request.method().to_string(), Kind::Client);
        if let Some(context) = call.context() {
            let uri = request.uri();
            let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or("-"));
            let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
            call.set("http.request.method", request.method().as_str());
            call.set("server.address", host);
            call.set_number("server.port", port.into());
            // Without the query, and without a user that an address could name.
            call.set("url.full", format!("{scheme}://{host}:{port}{}", uri.path()));
            if let Some(value) = context.to_header() {
                request.headers_mut().insert(TRACEPARENT, value);
            }
        }
        let answer = self.exchange(request).await;
        match &answer {
            Ok(answer) => {
                let status = answer.status();
                call.set_number("http.response.status_code", status.as_u16().into());
                if !status.is_success() {
                    call.failed(status.as_str());
                }
            }
            Err(error) => call.failed(error.kind()),
        }
        answer
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut response = self.client.execute(request.try_into()?).await?;
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

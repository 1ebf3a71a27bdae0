//! The back channel to the provider: bounded in time and size, following no redirects.

use std::{pin::Pin, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

use crate::{
    telemetry::{Kind, TRACEPARENT, Trace},
    util::http_client::{self, CallError},
};

/// Maximum size of an answer in bytes. Metadata and key sets are a few kilobytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// `error.type` of a failed call in a trace.
fn kind(error: &CallError) -> &'static str {
    match error {
        CallError::Request(error) if error.is_timeout() => "timeout",
        CallError::Request(error) if error.is_connect() => "connect",
        CallError::Request(_) => "request",
        CallError::TooLarge { .. } => "too_large",
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
        Ok(Self { client: http_client::builder(timeout).build()?, trace: Trace::none() })
    }

    /// The same, with its calls recorded in `trace` and continued by the provider.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { client: self.client.clone(), trace: trace.clone() }
    }

    /// Sends one request.
    pub async fn send(&self, mut request: HttpRequest) -> Result<HttpResponse, CallError> {
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
        let answer = match request.try_into() {
            Ok(request) => http_client::call(&self.client, request, MAX_RESPONSE).await,
            Err(error) => Err(CallError::from(error)),
        };
        match &answer {
            Ok(answer) => {
                let status = answer.status();
                call.set_number("http.response.status_code", status.as_u16().into());
                if !status.is_success() {
                    call.failed(status.as_str());
                }
            }
            Err(error) => call.failed(kind(error)),
        }
        answer
    }
}

impl<'c> AsyncHttpClient<'c> for BackChannel {
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, CallError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

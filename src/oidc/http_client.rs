//! The back channel to the provider: bounded in time and size, following no redirects.

use std::{error::Error, io::ErrorKind, time::Duration};

use http::{HeaderValue, StatusCode, header};
use openidconnect::{HttpRequest, HttpResponse};
use serde_json::{Map, Value};

use crate::{
    oidc::provider_error::ProviderError,
    telemetry::{Kind, TRACEPARENT, Trace},
    util::http_client::{self, CallError},
};

/// Maximum size of a response, in bytes. Metadata and key sets are a few kilobytes, an ID token
/// with hundreds of groups some tens.
const MAX_RESPONSE: usize = 256 * 1024;

/// What some servers begin a JSON text with (RFC 8259 §8.1).
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Maximum length of a content type in the log, in characters.
const MAX_CONTENT_TYPE: usize = 80;

/// What a failed call means.
pub(crate) trait FailedCall {
    /// Whether the same request may succeed later without anybody changing anything.
    fn may_pass(&self) -> bool;

    /// Whether there was no answer in time.
    fn is_timeout(&self) -> bool;

    /// Whether the connection was closed before there was any answer, as servers and proxies do with
    /// one that they take for idle.
    fn is_closed(&self) -> bool;

    /// The error and its causes in one line, with what an operator can do about it.
    fn describe(&self) -> String;

    /// `error.type` of the call in a trace.
    fn kind(&self) -> &'static str;
}

impl FailedCall for CallError {
    fn may_pass(&self) -> bool {
        match self {
            Self::Request(error) => !error.is_builder() && certificate_error(error).is_none(),
            Self::TooLarge { .. } => false,
        }
    }

    fn is_timeout(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_timeout() && !error.is_connect())
    }

    fn is_closed(&self) -> bool {
        let Self::Request(error) = self else { return false };
        let mut source = error.source();
        while let Some(cause) = source {
            // The end of the connection, or a reset where the server had closed it before.
            let is_end = cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(|error| error.is_incomplete_message() || error.is_canceled());
            let is_reset = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                )
            });
            if is_end || is_reset {
                return true;
            }
            source = cause.source();
        }
        false
    }

    fn describe(&self) -> String {
        if let Self::Request(error) = self {
            if let Some(cause) = certificate_error(error) {
                return format!(
                    "the provider's certificate is not trusted ({cause}); SSL_CERT_FILE names the \
                     authorities to trust instead of the system's"
                );
            }
            if error.is_timeout() {
                return "no answer within OIDC_TIMEOUT".to_owned();
            }
        }
        self.chain()
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Request(error) if error.is_timeout() => "timeout",
            Self::Request(error) if error.is_connect() => "connect",
            Self::Request(_) => "request",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// What TLS finds wrong with a certificate, if that is why there is no answer.
fn certificate_error(error: &reqwest::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        // An I/O error names the cause of what it wraps, not what it wraps.
        let tls = cause.downcast_ref::<rustls::Error>().or_else(|| {
            cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()
        });
        if let Some(rustls::Error::InvalidCertificate(certificate)) = tls {
            return Some(certificate.to_string());
        }
        source = cause.source();
    }
    None
}

/// A provider's answer as it came.
#[derive(Clone)]
pub struct Received {
    /// Its status.
    pub status: StatusCode,
    /// Its content type, bounded.
    pub content_type: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl From<HttpResponse> for Received {
    fn from(response: HttpResponse) -> Self {
        let content_type = response.headers().get(header::CONTENT_TYPE).map(|value| {
            let printable = value.as_bytes().iter().filter(|byte| (b' '..=b'~').contains(byte));
            printable.take(MAX_CONTENT_TYPE).map(|byte| char::from(*byte)).collect()
        });
        Self { status: response.status(), content_type, body: response.into_body() }
    }
}

impl Received {
    /// The media type, without parameters and in lower case.
    pub fn media_type(&self) -> Option<String> {
        let essence = self.content_type.as_deref()?.split(';').next()?;
        Some(essence.trim().to_ascii_lowercase())
    }

    /// The body as a JSON object, whatever the content type says. A byte order mark is ignored.
    pub fn json(&self) -> Option<Map<String, Value>> {
        let body = self.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.body);
        serde_json::from_slice(body).ok()
    }

    /// The error that the body names (RFC 6749 §5.2), if it does.
    pub fn provider_error(&self) -> Option<ProviderError> {
        let json = self.json()?;
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            // Some providers nest it.
            Value::Object(nested) => ["code", "message", "error", "status"]
                .iter()
                .find_map(|name| nested.get(*name)?.as_str().map(str::to_owned)),
            _ => None,
        };
        let code = json.get("error").and_then(text)?;
        let description = json.get("error_description").and_then(text);
        Some(ProviderError::new(&code, description.as_deref()))
    }

    /// Whether the status says that the server is down or overloaded for now.
    pub fn is_overloaded(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 500 | 502..=504 | 520..=530)
    }
}

/// The back channel.
#[derive(Clone)]
pub struct BackChannel {
    client: reqwest::Client,
    trace: Trace,
}

impl BackChannel {
    /// A client whose every call takes at most `timeout`.
    ///
    /// # Errors
    /// When the client cannot be built, as without any trust anchors.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        Ok(Self { client: http_client::builder(timeout).build()?, trace: Trace::none() })
    }

    /// The same, with its calls recorded in `trace` and continued by the provider.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { client: self.client.clone(), trace: trace.clone() }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// [`CallError`] when there is no answer. A status is no error here.
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
        let answer = self.call(request).await;
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

    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let request: reqwest::Request = request.try_into()?;
        let again = request.try_clone();
        match (http_client::call(&self.client, request, MAX_RESPONSE).await, again) {
            // The server may not have had the request. If it had, a code is used up: the sign-in
            // would have failed without a second attempt as well (RFC 9112 §9.3.1).
            (Err(error), Some(again)) if error.is_closed() => {
                http_client::call(&self.client, again, MAX_RESPONSE).await
            }
            (answer, _) => answer,
        }
    }

    /// Gets a resource.
    ///
    /// # Errors
    /// [`CallError`] when there is no answer. A status is no error here.
    pub async fn get(&self, url: &url::Url, accept: &'static str) -> Result<Received, CallError> {
        let mut request = HttpRequest::new(Vec::new());
        *request.uri_mut() = uri(url);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        self.send(request).await.map(Received::from)
    }
}

/// A URL as the URI of a request; an empty one, which is never reached, for what is none.
pub(crate) fn uri(url: &url::Url) -> http::Uri {
    url.as_str().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Reads one request and answers it, so that the connection may be used again.
    async fn answer(stream: &mut TcpStream) {
        read(stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    }

    async fn read(stream: &mut TcpStream) {
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
    }

    #[tokio::test]
    async fn a_connection_that_closes_as_it_is_used_again_costs_no_sign_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url::Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream).await;
            read(&mut stream).await;
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream).await;
            // With the request unread, the connection is reset.
            stream.readable().await.unwrap();
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream).await;
            // A server that never answers is not asked without end.
            for _ in 0..2 {
                read(&mut stream).await;
                drop(stream);
                (stream, _) = listener.accept().await.unwrap();
            }
        });
        let channel = BackChannel::new(Duration::from_secs(5)).unwrap();
        for _ in 0..3 {
            let received = channel.get(&url, "application/json").await;
            assert_eq!(received.map(|received| received.status).ok(), Some(StatusCode::OK));
        }
        let error = channel.get(&url, "application/json").await.err().unwrap();
        assert!(error.is_closed() && error.may_pass(), "{}", error.describe());
        served.abort();
    }
}

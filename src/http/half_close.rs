//! Half-closed connections: the client has shut down its sending side (RFC 9112 §9.6).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use tokio_util::sync::CancellationToken;

/// A request extension that says when the client has shut down its sending side.
///
/// The request is answered all the same. Only a response that waits has to find out whether the
/// client still reads: closing the whole connection looks the same at first. The default stands for
/// a connection on which this is not observed.
#[derive(Clone, Debug, Default)]
pub struct HalfClose(Option<CancellationToken>);

impl HalfClose {
    /// For a connection on which it is observed.
    pub fn observed() -> Self {
        Self(Some(CancellationToken::new()))
    }

    /// Whether it is observed on this connection.
    pub fn is_observed(&self) -> bool {
        self.0.is_some()
    }

    /// Reports that the client has shut down its sending side.
    pub fn notify(&self) {
        if let Some(token) = &self.0 {
            token.cancel();
        }
    }

    /// Whether the client has shut down its sending side.
    pub fn has_happened(&self) -> bool {
        self.0.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Returns once the client has shut down its sending side. Cancel-safe.
    pub async fn wait(&self) {
        match &self.0 {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for HalfClose {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().unwrap_or_default())
    }
}

//! DPoP (RFC 9449) at the token endpoint and at protected resources: which request a proof must be
//! for, its nonce, and that it works once.

use std::net::SocketAddr;

use axum::{extract::ConnectInfo, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use url::Url;

use crate::{
    api::paths,
    http::{App, error::Problem},
    store,
    telemetry::Trace,
    token::{
        DpopProof, InvalidProof, ProvenRequest,
        dpop::{self, ALGORITHMS},
    },
    util::clock::UnixTime,
};

/// The field of a proof.
const DPOP: &str = "dpop";

/// The field of a nonce.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// `dpop_signing_alg_values_supported`.
pub(super) fn algorithms() -> Vec<String> {
    ALGORITHMS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// A proof that is valid for its request, and not used up yet.
pub(super) struct PresentedProof {
    pub(super) proof: DpopProof,
    /// Whether it is time for the next nonce.
    renew_nonce: bool,
}

/// The proof of a request; `None` when it has none.
///
/// # Errors
/// [`InvalidProof`].
pub(super) fn presented(
    app: &App,
    headers: &HeaderMap,
    request: &ProvenRequest,
    access_token: Option<&str>,
) -> Result<Option<PresentedProof>, InvalidProof> {
    let mut fields = headers.get_all(DPOP).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(InvalidProof::Several);
    }
    let text = field.to_str().map_err(|_| InvalidProof::Malformed("JWT"))?;
    let (proof, now) = (DpopProof::parse(text)?, UnixTime::now());
    proof.check(request, access_token, now)?;
    let renew_nonce = proof.check_nonce(&app.sealing_keys, now)?;
    Ok(Some(PresentedProof { proof, renew_nonce }))
}

impl PresentedProof {
    /// Uses the proof up; last of all, so that only valid requests leave a mark in the store.
    ///
    /// # Errors
    /// When the store is unavailable; the inner one when it was used before.
    pub(super) async fn use_up(
        &self,
        app: &App,
        trace: &Trace,
    ) -> Result<Result<(), InvalidProof>, Problem> {
        let store = store::in_trace(app.relay.store(), trace);
        Ok(self.proof.use_up(&*store).await?)
    }

    /// The nonce for the next proof, where it is time for one.
    pub(super) fn next_nonce(&self, app: &App) -> Option<HeaderValue> {
        self.renew_nonce.then(|| nonce(app)).flatten()
    }
}

/// A nonce as the value of a field.
fn nonce(app: &App) -> Option<HeaderValue> {
    HeaderValue::from_str(&dpop::nonce(&app.sealing_keys, UnixTime::now())).ok()
}

/// Adds a nonce to an answer that demands one.
pub(super) fn with_nonce(app: &App, mut response: Response) -> Response {
    let needs_nonce = matches!(
        response.extensions().get::<Problem>(),
        Some(Problem::UseDpopNonce | Problem::ProofRequired(_))
    );
    if needs_nonce {
        set_nonce(&mut response, nonce(app));
    }
    response
}

/// Adds a nonce to an answer.
pub(super) fn set_nonce(response: &mut Response, nonce: Option<HeaderValue>) {
    if let Some(nonce) = nonce {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
}

/// The error of the token endpoint (RFC 9449 §5, §8).
impl From<InvalidProof> for Problem {
    fn from(error: InvalidProof) -> Self {
        match error {
            InvalidProof::Nonce => Self::UseDpopNonce,
            error => Self::InvalidDpopProof(error.to_string()),
        }
    }
}

/// A request to the token endpoint, as its client sees it.
pub(super) fn token_request(app: &App) -> Result<ProvenRequest, Problem> {
    let uri = Url::parse(&app.public(paths::TOKEN)).map_err(|_| Problem::Internal)?;
    Ok(ProvenRequest { method: "POST".to_owned(), uri })
}

/// The request that a proof at a protected resource is for: the one that arrived, or, at
/// `/addons/verify`, the one that the proxy in front asks about. What that was, only a trusted proxy
/// can say, and it must overwrite what the client says of it.
///
/// # Errors
/// When a proxy says nothing, too much, or is not trusted.
pub(super) fn resource_request(app: &App, parts: &Parts) -> Result<ProvenRequest, InvalidProof> {
    if parts.uri.path() != paths::VERIFY {
        let uri = Url::parse(&app.public(parts.uri.path()))
            .map_err(|_| InvalidProof::Uri(String::new()))?;
        return Ok(ProvenRequest { method: parts.method.as_str().to_owned(), uri });
    }
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let is_trusted = peer.is_some_and(|ConnectInfo(peer)| app.trusts(peer.ip().to_canonical()));
    if !is_trusted {
        tracing::warn!(
            "a DPoP proof at /addons/verify is refused: the proxy that asks is not in \
             TRUSTED_PROXIES, so what it says of the request is not believed"
        );
        return Err(InvalidProof::UnknownRequest);
    }
    let field = |name: &str| {
        let mut fields = parts.headers.get_all(name).iter();
        let field = fields.next().and_then(|value| value.to_str().ok());
        field.filter(|_| fields.next().is_none())
    };
    let method = field("x-forwarded-method");
    let uri = field("x-forwarded-proto")
        .zip(field("x-forwarded-host"))
        .zip(field("x-forwarded-uri").filter(|uri| uri.starts_with('/')))
        .and_then(|((scheme, host), uri)| Url::parse(&format!("{scheme}://{host}{uri}")).ok());
    let Some((method, uri)) = method.zip(uri) else {
        tracing::warn!(
            "a DPoP proof at /addons/verify is refused: the proxy sends not exactly one each of \
             X-Forwarded-Method, -Proto, -Host and -Uri"
        );
        return Err(InvalidProof::UnknownRequest);
    };
    Ok(ProvenRequest { method: method.to_owned(), uri })
}

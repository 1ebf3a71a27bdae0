//! Middleware of every request: client address, security headers, CORS, log line, panic barrier.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, Method, header, request::Parts};
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowOrigin, CorsLayer};

use crate::{
    api::paths,
    http::{AppState, error::Problem, request_head},
    settings::OPAQUE_ORIGIN,
    telemetry::{RequestHead, Trace, TraceContext},
};

/// The address of the client, seen through the configured proxies.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

impl FromRequestParts<AppState> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let ConnectInfo(peer) =
            parts.extensions.get::<ConnectInfo<SocketAddr>>().copied().ok_or(Problem::Internal)?;
        let mut address = peer.ip().to_canonical();
        // From the right: each proxy that we trust vouches for the address before it.
        let forwarded = parts
            .headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect::<Vec<_>>();
        for hop in forwarded.into_iter().rev() {
            if !app.trusts(address) {
                break;
            }
            match parse_hop(hop) {
                Some(hop) => address = hop,
                None => break,
            }
        }
        Ok(Self(address))
    }
}

fn parse_hop(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .map(|address| address.to_canonical())
        .ok()
}

/// Origins of clients by exact match, with credentials except where pages have none of their own;
/// nothing when none is configured.
pub fn cors(app: &AppState) -> CorsLayer {
    let app = Arc::clone(app);
    let allows = move |origin: &HeaderValue, _: &Parts| {
        let Ok(origin) = origin.to_str() else { return false };
        if app.allows_origin(origin) {
            return true;
        }
        // A page that is refused here cannot read the response, so that the log names the setting now.
        if !app.is_own_origin(origin) {
            app.refuse_origin(origin, None);
        }
        false
    };
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allows))
        .allow_credentials(AllowCredentials::predicate(|origin: &HeaderValue, _: &Parts| {
            origin != OPAQUE_ORIGIN
        }))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Event source polyfills and tracing libraries add headers of their own; what a page of an
        // allowed origin sends is not restricted.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            header::RETRY_AFTER,
            HeaderName::from_static("preference-applied"),
            // For the next proof, and whether it is the nonce that is missing (RFC 9449 §8).
            HeaderName::from_static("dpop-nonce"),
            header::WWW_AUTHENTICATE,
        ])
        .max_age(Duration::from_secs(600))
}

/// What surrounds every route: refuses heads that no route accepts, traces and logs the request, and adds
/// the headers that every answer carries, unless its handler sets them.
///
/// One function, because each layer of a router is copied for each request.
pub async fn surround(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = match request_head::check(&request) {
        Ok(()) => traced(&app, request, next).await,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Some(hsts) = &app.hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    response
}

/// Logs one line for the request: never its URI, which can hold a session ID, but the route it matched.
async fn logged(request: Request, next: Next) -> Response {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return next.run(request).await;
    }
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    tracing::debug!(
        %method,
        route = route.as_ref().map_or("unmatched", MatchedPath::as_str),
        status = response.status().as_u16(),
        milliseconds = started.elapsed().as_secs_f64() * 1000.0,
        "answered"
    );
    response
}

/// Routes whose handlers find out which trace their request belongs to: that of its session.
const DEFERRED: [&str; 9] = [
    "/addons/transit",
    paths::TRANSIT,
    paths::CONFIRM,
    paths::CALLBACK,
    paths::REDIRECT,
    paths::SUCCESS,
    paths::ERROR,
    paths::MEET_CALLBACK,
    paths::MEET_EXCHANGE,
];

/// A span for each request of an add-in, a browser or an API; not for files and probes. As in the
/// log, the URI is left out.
async fn traced(app: &AppState, mut request: Request, next: Next) -> Response {
    let Some(tracing) = &app.tracing else { return logged(request, next).await };
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let wanted = |route: &String| {
        let ours = ["/addons/", "/callback", "/api/v1.0/"];
        ours.iter().any(|prefix| route.starts_with(prefix)) && !route.starts_with("/addons/static")
    };
    let Some(route) = route.filter(wanted) else { return logged(request, next).await };
    let head = RequestHead {
        method: request.method().clone(),
        deferred: DEFERRED.contains(&route.as_str()),
        route,
        scheme: if app.is_https() { "https" } else { "http" },
        host: app.public_url.host_str().map(str::to_owned),
        port: app.public_url.port_or_known_default(),
        incoming: TraceContext::from_headers(request.headers()),
    };
    let span = tracing.request(head);
    request.extensions_mut().insert(span.trace());
    span.run(logged(request, next)).await
}

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The answer after a panic in a handler, which is a defect but must not take others along.
pub fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    Problem::Internal.into_response()
}

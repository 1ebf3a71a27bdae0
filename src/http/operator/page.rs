//! The operator's page: the numbers of `/metrics`, what happened lately, and the end of a person's
//! tokens.
//!
//! Who may see it: with `OPERATOR_TOKEN`, whoever has that token (HTTP Basic, so that a browser asks for
//! it and a script can send it). Without, everybody who reaches the metrics listener at an address or
//! at `localhost`, since a page of another site could otherwise reach it by a name of its own (DNS
//! rebinding); on the main listener nobody. Tokens are ended with `OPERATOR_TOKEN` only.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Form, Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::Authority};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use token_relay_client::printable;
use tokio::{
    sync::{Mutex, Semaphore},
    time::MissedTickBehavior,
};

use crate::{
    api::paths,
    http::{
        AppState,
        error::Problem,
        extract::ClientBasic,
        guesses::{Attempt, Guessed},
        middleware::ClientAddress,
    },
    oidc::ProviderStatus,
    session::Digest,
    telemetry::Trace,
    util::clock::UnixTime,
};

/// Interval between two states on the page.
const INTERVAL: Duration = Duration::from_secs(2);

/// Age up to which a state serves further pages: less than [`INTERVAL`], so that no page shows the
/// same one twice.
const MAX_AGE: Duration = Duration::from_millis(1500);

/// Maximum number of pages that are kept up to date at once.
const MAX_WATCHERS: usize = 16;

/// Nothing but its own files, and no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = include_str!("../../../static/operator/index.html");
const SCRIPT: &str = include_str!("../../../static/operator/operator.js");
const STYLE: &str = concat!(
    include_str!("../../../static/pages/colours.css"),
    include_str!("../../../static/operator/operator.css")
);
const ICON: &str = include_str!("../../../static/icon.svg");

/// The page and what it needs.
pub fn router(app: &AppState) -> Router<AppState> {
    let file = |content_type: &'static str, text: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, content_type)], text))
    };
    let pages = Arc::new(OpenPages {
        permits: Arc::new(Semaphore::new(MAX_WATCHERS)),
        state: Mutex::default(),
    });
    let (watched, ended) = (Arc::clone(&pages), pages);
    let path = |name: &str| format!("{}{name}", paths::OPERATOR);
    Router::new()
        .route(paths::OPERATOR, file("text/html; charset=utf-8", HTML))
        .route(&path("operator.js"), file("text/javascript; charset=utf-8", SCRIPT))
        .route(&path("operator.css"), file("text/css; charset=utf-8", STYLE))
        .route(&path("icon.svg"), file("image/svg+xml", ICON))
        .route(&path("events"), get(async move |State(app): State<AppState>| events(app, watched)))
        .route(&path("revoke"), post(revoke).layer(Extension(ended)))
        .layer(from_fn_with_state(Arc::clone(app), admit))
}

/// Lets those in who may see the page.
async fn admit(
    State(app): State<AppState>,
    address: ClientAddress,
    request: Request,
    next: Next,
) -> Response {
    let refused = match &app.settings.server.operator_token {
        Some(token) => {
            let expected = Digest::of(token.expose().as_bytes());
            let attempt = match Attempt::new(&app, Guessed::OperatorToken, address, None).admit() {
                Ok(attempt) => attempt,
                Err(problem) => return problem.into_response(),
            };
            let presented = ClientBasic::of(request.headers()).ok().flatten();
            match presented {
                None => Some(unauthorized()),
                Some(basic) => {
                    let is_right = basic
                        .readings()
                        .any(|(_, secret)| expected.matches(&Digest::of(secret.as_bytes())));
                    if is_right {
                        attempt.right().await.err().map(IntoResponse::into_response)
                    } else {
                        // Its answer would name another way to authenticate.
                        Some(match attempt.wrong(Problem::InvalidClient).await {
                            Problem::InvalidClient => unauthorized(),
                            limited => limited.into_response(),
                        })
                    }
                }
            }
        }
        None if is_direct(request.headers()) => None,
        None => {
            let text = "Open this page at an IP address or at localhost, or set OPERATOR_TOKEN.\n";
            Some((StatusCode::FORBIDDEN, text).into_response())
        }
    };
    let mut response = match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn unauthorized() -> Response {
    let challenge = "Basic realm=\"token-relay operator\", charset=\"UTF-8\"";
    let text = "The password is OPERATOR_TOKEN; the user name does not matter.\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], text).into_response()
}

/// The host that a request names, without its port.
fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(header::HOST)?.to_str().ok()?.parse().ok()
}

/// Whether the request names an address or `localhost`, which no other site can point elsewhere.
fn is_direct(headers: &HeaderMap) -> bool {
    host(headers).is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok()
    })
}

/// Whether a page of this very listener sent the request.
fn is_own_page(app: &AppState, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    let is_local = app.settings.server.metrics_listen.is_some()
        && host(headers).is_some_and(|host| origin == format!("http://{host}"));
    is_local || origin == app.origin()
}

#[derive(Deserialize)]
struct EndForm {
    sub: String,
}

/// Ends everything that a person was granted.
async fn revoke(
    State(app): State<AppState>,
    Extension(pages): Extension<Arc<OpenPages>>,
    trace: Trace,
    headers: HeaderMap,
    Form(form): Form<EndForm>,
) -> Response {
    if app.settings.server.operator_token.is_none() {
        let text = "Tokens are ended with OPERATOR_TOKEN only.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    // The browser adds the password to requests of other sites as well.
    if !is_own_page(&app, &headers) {
        let text = "Only the operator's page may send this: Origin is another one.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if form.sub.trim().is_empty() {
        return (StatusCode::BAD_REQUEST, "Name the person by `sub`.\n").into_response();
    }
    match app.end_account(&trace, form.sub.trim(), "operator").await {
        Ok(()) => {
            // So that the pages show it with their next state.
            pages.state.lock().await.take();
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => Problem::from(error).into_response(),
    }
}

/// What all open pages share.
struct OpenPages {
    permits: Arc<Semaphore>,
    /// The last state, and when it was made.
    state: Mutex<Option<(Instant, Arc<str>)>>,
}

impl OpenPages {
    /// The state. However many pages are open, the store is asked for one of them at a time.
    async fn state(&self, app: &AppState) -> Arc<str> {
        let mut last = self.state.lock().await;
        if let Some((made, state)) = &*last
            && made.elapsed() < MAX_AGE
        {
            return Arc::clone(state);
        }
        let state = Arc::<str>::from(state(app).await.to_string());
        *last = Some((Instant::now(), Arc::clone(&state)));
        state
    }
}

/// The state, now and every two seconds, until the instance shuts down.
fn events(app: AppState, pages: Arc<OpenPages>) -> Response {
    let Ok(permit) = Arc::clone(&pages.permits).try_acquire_owned() else {
        let text = "Too many of these pages are open.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = futures_util::stream::unfold(ticks, move |mut ticks| {
        let (app, pages) = (Arc::clone(&app), Arc::clone(&pages));
        // Held for as long as the page is open.
        let _ = &permit;
        async move {
            ticks.tick().await;
            if app.relay.registry().is_draining() {
                return None;
            }
            let event = Event::default().event("state").data(pages.state(&app).await);
            Some((Ok::<_, Infallible>(event), ticks))
        }
    });
    let mut response = Sse::new(stream).into_response();
    let no_buffer = HeaderValue::from_static("no");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no_buffer);
    response
}

/// What the page shows.
async fn state(app: &AppState) -> Value {
    let store = app.relay.store();
    let begun = Instant::now();
    let answer = store.check().await;
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    app.metrics.store_answered(answer.is_ok());
    let standing = app.metrics.store_state();
    let text = app.metrics.encode(store.session_count());
    let (provider, problem) = match app.login.status() {
        ProviderStatus::Pending => ("not yet reached", None),
        ProviderStatus::Discovered => ("discovered", None),
        ProviderStatus::Outdated(reason) => ("discovered, but not reached lately", Some(reason)),
        ProviderStatus::Failed(reason) => ("discovery failed", Some(reason)),
    };
    let jwks = app.signing_keys.jwks();
    let key_ids: Vec<_> = jwks.keys.iter().filter_map(|key| key.common.key_id.as_ref()).collect();
    let may_revoke = app.settings.server.operator_token.is_some();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": UnixTime::now().as_secs(),
        "started_at": app.recent.started_at.as_secs(),
        "samples": samples(&text),
        "logins_last_hour": app.metrics.logins_last_hour(),
        "provider": {
            "issuer": app.settings.oidc.issuer.as_str(),
            "state": provider,
            "problem": problem.map(|problem| printable(&problem)),
            "age": app.login.known_for().map(|age| age.as_secs()),
        },
        "store": {
            "kind": if app.settings.store.url.is_some() { "Redis" } else { "memory" },
            "is_up": answer.is_ok(),
            "problem": answer.err().map(|error| printable(&error.to_string())),
            "milliseconds": milliseconds,
            "since": standing.answers.map(|(_, since)| since.as_secs()),
            "last_error": standing.last_error.map(|(operation, at)| {
                json!({ "operation": operation, "at": at.as_secs() })
            }),
        },
        "signing_key_ids": key_ids,
        "keys": app.recent.keys(),
        "failures": app.recent.failures(),
        // Who it was is for those who have operator's rights.
        "ended": if may_revoke { json!(app.recent.ended_accounts()) } else { json!([]) },
        "may_revoke": may_revoke,
    })
}

/// The samples of an exposition, so that the page has the same numbers as `/metrics`.
fn samples(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Value> {
    let (series, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut parsed = Map::new();
    // Label values are names and numbers of ours, or client IDs: none has a quotation mark.
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once("=\"")?;
        parsed.insert(key.to_owned(), json!(value.trim_end_matches('"')));
    }
    Some(json!({ "name": name, "labels": parsed, "value": value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a A, {b}.\na{x=\"1\",y=\"two words\"} 3\nb_total 0.5\n# EOF\n";
        let expected = [
            json!({"name": "a", "labels": {"x": "1", "y": "two words"}, "value": 3.0}),
            json!({"name": "b_total", "labels": {}, "value": 0.5}),
        ];
        assert_eq!(samples(text), expected);
    }

    #[test]
    fn only_an_address_or_localhost_is_direct() {
        for (host, expected) in [
            ("127.0.0.1:9090", true),
            ("[::1]:9090", true),
            ("localhost", true),
            ("10.1.2.3", true),
            ("relay.example:9090", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            assert_eq!(is_direct(&headers), expected, "{host}");
        }
        assert!(!is_direct(&HeaderMap::new()));
    }
}

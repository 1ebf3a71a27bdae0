//! The embedded platform of `token-relay demo --platform`: it has accounts of its own, which the
//! claims hook maps people to, and a page where they can be suspended. Whoever signs in first gets an
//! account. Nothing of it is for real use.

use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::State,
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{session::Digest, util::random::random_bytes};

/// Maximum number of accounts.
const MAX_ACCOUNTS: usize = 1000;

/// An account of the platform.
struct Account {
    id: String,
    /// Who it is at the provider.
    issuer: String,
    subject: String,
    name: String,
    tokens: u64,
    /// The client that the last token is for.
    client: String,
    is_suspended: bool,
}

/// The platform.
pub struct Platform {
    /// SHA-256 of the relay's secret.
    secret: Digest,
    /// Its own origin.
    origin: String,
    accounts: Mutex<Vec<Account>>,
}

#[derive(Template)]
#[template(path = "demo_platform.html")]
struct Page<'a> {
    accounts: &'a [Account],
}

/// What the hook is asked; see [`Candidate`](crate::signin::Candidate).
#[derive(Deserialize)]
struct Question {
    iss: String,
    sub: String,
    #[serde(default)]
    claims: serde_json::Map<String, Value>,
    client_id: String,
    client_name: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    id: String,
    suspended: bool,
}

impl Platform {
    /// A platform at `origin` without accounts, whose hook the relay calls with `secret`.
    pub fn new(origin: &str, secret: &str) -> Arc<Self> {
        Arc::new(Self {
            secret: Digest::of(secret.as_bytes()),
            origin: origin.to_owned(),
            accounts: Mutex::default(),
        })
    }

    /// Its pages and its hook.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/accounts", post(change))
            .route("/hook", post(hook))
            .route("/login.css", get(stylesheet))
            .with_state(self)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Account>) -> T) -> T {
        work(&mut self.accounts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request comes from the relay.
    fn is_relay(&self, headers: &HeaderMap) -> bool {
        let authorization = headers.get(header::AUTHORIZATION);
        let secret = authorization.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        secret.is_some_and(|secret| self.secret.matches(&Digest::of(secret.as_bytes())))
    }

    fn decide(&self, question: Question) -> Response {
        self.with(|accounts| {
            let is_theirs = |account: &Account| {
                account.issuer == question.iss && account.subject == question.sub
            };
            let account = match accounts.iter().position(is_theirs) {
                Some(at) => &mut accounts[at],
                None if accounts.len() >= MAX_ACCOUNTS => {
                    return refused("The demo platform has no room for another account.");
                }
                None => {
                    accounts.push(Account {
                        id: uuid(),
                        issuer: question.iss,
                        name: question
                            .claims
                            .get("name")
                            .and_then(Value::as_str)
                            .unwrap_or(&question.sub)
                            .to_owned(),
                        subject: question.sub,
                        tokens: 0,
                        client: String::new(),
                        is_suspended: false,
                    });
                    let last = accounts.len() - 1;
                    &mut accounts[last]
                }
            };
            if account.is_suspended {
                return refused("The demo platform has suspended this account.");
            }
            account.tokens += 1;
            account.client = question.client_name.unwrap_or(question.client_id);
            let claims = json!({"platform_tokens": account.tokens});
            Json(json!({"user_id": account.id, "claims": claims})).into_response()
        })
    }
}

fn refused(description: &str) -> Response {
    (StatusCode::FORBIDDEN, Json(json!({"error_description": description}))).into_response()
}

/// A random UUID (RFC 9562 §5.4).
fn uuid() -> String {
    let mut bytes = random_bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

async fn page(State(platform): State<Arc<Platform>>) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ];
    match platform.with(|accounts| Page { accounts }.render()) {
        Ok(page) => (headers, Html(page)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn change(
    State(platform): State<Arc<Platform>>,
    headers: HeaderMap,
    Form(change): Form<Change>,
) -> Response {
    if headers.get(header::ORIGIN).is_none_or(|origin| *origin != *platform.origin) {
        return StatusCode::FORBIDDEN.into_response();
    }
    platform.with(|accounts| {
        for account in accounts.iter_mut().filter(|account| account.id == change.id) {
            account.is_suspended = change.suspended;
        }
    });
    Redirect::to("/").into_response()
}

async fn hook(
    State(platform): State<Arc<Platform>>,
    headers: HeaderMap,
    Json(question): Json<Question>,
) -> Response {
    if platform.is_relay(&headers) {
        platform.decide(question)
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

async fn stylesheet() -> impl IntoResponse {
    let text = include_str!("../../static/demo-provider/login.css");
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], text)
}

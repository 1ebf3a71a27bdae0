//! The embedded platform of `token-relay demo --platform`: it has accounts of its own, to which the
//! claims hook maps the people of the provider, and a login of its own with an add-in, which
//! `MEET_ACCOUNT_URL` is for. Accounts can be suspended on its page. Nothing of it is for real use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use askama::Template;
use axum::{
    Form, Json, Router,
    extract::{Query, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    api::Secret, http::cookies, session::Digest, settings::MeetSettings, token::jws,
    util::random::random_bytes,
};

/// Maximum number of accounts, and of logins.
const MAX_ACCOUNTS: usize = 1000;

/// Cookie of a login.
const LOGIN: &str = "demo_platform_session";

/// Who can log in; the password is the name.
const USERS: [(&str, &str); 2] = [("dora", "Dora Spenlow"), ("edwin", "Edwin Drood")];

/// An account of the platform.
struct Account {
    id: String,
    login: Login,
    name: String,
    tokens: u64,
    /// The client that the last token is for.
    client: String,
    is_suspended: bool,
}

/// How a person signs in to an account.
#[derive(PartialEq, Eq)]
enum Login {
    /// At the provider.
    Provider { issuer: String, subject: String },
    /// Here, by this user name.
    Platform(String),
}

impl Account {
    fn new(login: Login, name: &str) -> Self {
        Self {
            id: uuid(),
            login,
            name: name.to_owned(),
            tokens: 0,
            client: String::new(),
            is_suspended: false,
        }
    }
}

/// The platform.
pub struct Platform {
    /// SHA-256 of the relay's secret.
    secret: Digest,
    /// Its own origin.
    origin: String,
    relay: OnceLock<Relay>,
    people: Mutex<People>,
}

/// What the platform knows of the relay.
struct Relay {
    origin: String,
    token_key: DecodingKey,
    validation: Validation,
    csrf_cookie: String,
}

#[derive(Default)]
struct People {
    accounts: Vec<Account>,
    /// Account IDs by the SHA-256 of a login's cookie.
    logins: HashMap<Digest, String>,
}

impl People {
    /// The account with this login, which is made where it is not there; `None` where they are too
    /// many.
    fn account(&mut self, login: Login, name: &str) -> Option<&mut Account> {
        let at = match self.accounts.iter().position(|account| account.login == login) {
            Some(at) => at,
            None if self.accounts.len() >= MAX_ACCOUNTS => return None,
            None => {
                self.accounts.push(Account::new(login, name));
                self.accounts.len() - 1
            }
        };
        self.accounts.get_mut(at)
    }

    fn by_id(&mut self, id: &str) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|account| account.id == id)
    }

    /// The account that the browser with these headers is logged in to.
    fn logged_in(&mut self, headers: &HeaderMap) -> Option<&mut Account> {
        let cookie = cookies::get(headers, LOGIN)?;
        let id = self.logins.get(&Digest::of(cookie.as_bytes()))?.clone();
        self.by_id(&id)
    }
}

#[derive(Template)]
#[template(path = "demo_platform.html")]
struct Page<'a> {
    accounts: &'a [Account],
}

#[derive(Template)]
#[template(path = "demo_platform_login.html")]
struct LoginPage<'a> {
    users: &'a [(&'a str, &'a str)],
    return_to: &'a str,
    is_wrong: bool,
}

#[derive(Template)]
#[template(path = "demo_platform_addin.html")]
struct AddIn<'a> {
    relay: &'a str,
    csrf_cookie: &'a str,
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

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
    #[serde(rename = "returnTo")]
    return_to: String,
}

#[derive(Deserialize)]
struct Onward {
    #[serde(default, rename = "returnTo")]
    return_to: String,
}

/// Claims of a token of the Meet-compatible surface.
#[derive(Deserialize)]
struct Claims {
    user_id: String,
}

impl Platform {
    /// A platform at `origin` without accounts, whose hook the relay calls with `secret`.
    pub fn new(origin: &str, secret: &Secret) -> Arc<Self> {
        Arc::new(Self {
            secret: Digest::of(secret.expose().as_bytes()),
            origin: origin.to_owned(),
            relay: OnceLock::new(),
            people: Mutex::default(),
        })
    }

    /// Tells the platform where the relay is and what its tokens are like.
    pub fn connect(&self, relay: &Url, meet: &MeetSettings) {
        let mut validation = Validation::new(meet.token_algorithm);
        validation.set_issuer(&[&meet.token_issuer]);
        validation.set_audience(&[&meet.token_audience]);
        let _ = self.relay.set(Relay {
            origin: relay.origin().ascii_serialization(),
            token_key: DecodingKey::from_secret(meet.token_secret_key.expose().as_bytes()),
            validation,
            csrf_cookie: meet.csrf_cookie.clone(),
        });
    }

    /// Its pages, its hook and its API.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/accounts", post(change))
            .route("/hook", post(hook))
            .route("/login.css", get(stylesheet))
            .route("/addin/{page}", get(add_in))
            .route("/addin.js", get(script))
            .route("/api/v1.0/authenticate/", get(login_page).post(log_in))
            .route("/api/v1.0/users/me/", get(me))
            .route("/external-api/v1.0/rooms/", post(create_room))
            .with_state(self)
    }

    fn with<T>(&self, work: impl FnOnce(&mut People) -> T) -> T {
        work(&mut self.people.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request comes from the relay.
    fn is_relay(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|secret| self.secret.matches(&Digest::of(secret.as_bytes())))
    }

    /// Whether a form is one of this platform's pages.
    fn is_own(&self, headers: &HeaderMap) -> bool {
        headers.get(header::ORIGIN).is_some_and(|origin| *origin == *self.origin)
    }

    fn decide(&self, question: Question) -> Response {
        let is_account = question.iss == format!("{}/api/v1.0/users/me/", self.origin);
        let name = question.claims.get("name").and_then(Value::as_str);
        let name = name.unwrap_or(&question.sub).to_owned();
        self.with(|people| {
            let account = if is_account {
                people.by_id(&question.sub)
            } else {
                let login = Login::Provider { issuer: question.iss, subject: question.sub };
                people.account(login, &name)
            };
            let Some(account) = account else {
                return refused("The demo platform has no room for another account.");
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

    /// A page with its content security policy: it may call the relay where there is one.
    fn shown(&self, page: Result<String, askama::Error>) -> Response {
        let relay = self.relay.get().map(|relay| relay.origin.as_str()).unwrap_or_default();
        let socket = relay.replacen("http", "ws", 1);
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self' {relay}; connect-src 'self' {relay} {socket}; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        let headers =
            [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_SECURITY_POLICY, &policy)];
        match page {
            Ok(page) => (headers, Html(page)).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// The credential of the `Bearer` scheme.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn refused(description: &str) -> Response {
    (StatusCode::FORBIDDEN, Json(json!({"error_description": description}))).into_response()
}

fn detail(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({"detail": text}))).into_response()
}

/// A path of this platform, or its first page.
fn own_path(return_to: &str) -> &str {
    let is_path = return_to.starts_with('/') && !return_to.starts_with("//");
    if is_path && !return_to.contains('\\') { return_to } else { "/" }
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
    let page = platform.with(|people| Page { accounts: &people.accounts }.render());
    platform.shown(page)
}

async fn change(
    State(platform): State<Arc<Platform>>,
    headers: HeaderMap,
    Form(change): Form<Change>,
) -> Response {
    if !platform.is_own(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    platform.with(|people| {
        if let Some(account) = people.by_id(&change.id) {
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

/// The pages of the add-in: `pane`, its `dialog`, and `done`, where the login returns to.
async fn add_in(State(platform): State<Arc<Platform>>) -> Response {
    match platform.relay.get() {
        Some(Relay { origin, csrf_cookie, .. }) => {
            platform.shown(AddIn { relay: origin, csrf_cookie }.render())
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn login_form(platform: &Platform, return_to: &str, is_wrong: bool) -> Response {
    platform.shown(LoginPage { users: &USERS, return_to, is_wrong }.render())
}

async fn login_page(
    State(platform): State<Arc<Platform>>,
    Query(onward): Query<Onward>,
) -> Response {
    login_form(&platform, own_path(&onward.return_to), false)
}

async fn log_in(
    State(platform): State<Arc<Platform>>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Response {
    if !platform.is_own(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let return_to = own_path(&form.return_to);
    let user = USERS.iter().find(|(user, _)| *user == form.username && *user == form.password);
    let Some((user, name)) = user else {
        return login_form(&platform, return_to, true);
    };
    let session = hex::encode(random_bytes::<32>());
    let is_known = platform.with(|people| {
        let Some(account) = people.account(Login::Platform((*user).to_owned()), name) else {
            return false;
        };
        let id = account.id.clone();
        if people.logins.len() >= MAX_ACCOUNTS {
            people.logins.clear();
        }
        people.logins.insert(Digest::of(session.as_bytes()), id);
        true
    });
    if !is_known {
        return refused("The demo platform has no room for another account.");
    }
    let mut response = Redirect::to(return_to).into_response();
    let csrf = hex::encode(random_bytes::<16>());
    let csrf_cookie = platform.relay.get().map_or("csrftoken", |relay| &relay.csrf_cookie);
    for cookie in [
        format!("{LOGIN}={session}; Path=/; HttpOnly; SameSite=Lax"),
        format!("{csrf_cookie}={csrf}; Path=/; SameSite=Lax"),
    ] {
        if let Ok(value) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response
}

/// The account of the browser, as the relay asks for it.
async fn me(State(platform): State<Arc<Platform>>, headers: HeaderMap) -> Response {
    platform.with(|people| match people.logged_in(&headers) {
        None => detail(StatusCode::UNAUTHORIZED, "Not logged in."),
        Some(account) if account.is_suspended => {
            detail(StatusCode::FORBIDDEN, "This account is suspended.")
        }
        Some(account) => Json(json!({"id": account.id, "full_name": account.name})).into_response(),
    })
}

/// The protected resource: it looks the account up by the platform's own ID.
async fn create_room(State(platform): State<Arc<Platform>>, headers: HeaderMap) -> Response {
    let user_id = platform.relay.get().zip(bearer(&headers)).and_then(|(relay, token)| {
        let token = jws::decode::<Claims>(token, &relay.token_key, &relay.validation).ok()?;
        Some(token.claims.user_id)
    });
    platform.with(|people| match user_id.and_then(|id| people.by_id(&id)) {
        Some(account) if !account.is_suspended => {
            let room = json!({"owner": account.id, "owner_name": account.name});
            (StatusCode::CREATED, Json(room)).into_response()
        }
        _ => detail(StatusCode::UNAUTHORIZED, "No token of an account that is active."),
    })
}

async fn stylesheet() -> impl IntoResponse {
    let text = include_str!("../../static/demo-provider/login.css");
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], text)
}

async fn script() -> impl IntoResponse {
    let text = include_str!("../../static/demo-platform/addin.js");
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], text)
}

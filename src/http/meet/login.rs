//! The browser's login at the provider and its end: `authenticate`, `callback`, `logout` and
//! `logout-callback`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use cookie::SameSite;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    api::{meet::Status, paths},
    http::{
        App, AppState, cookies,
        dialog::{
            CallbackQuery, DIALOG_TTL, Handle, MAX_DIALOGS, found, new_reference, page_of,
            see_sealed_form,
        },
        error::Problem,
        exchange_handover::exchange_once,
        exchanges::CodeExchange,
        extract::{LimitedBody, Query},
        meet::{CSRF_TTL, Detail, Meet, NOT_LOGGED_IN, UNAVAILABLE, csrf, set_cookie},
        openapi_tags,
        pages::{ErrorPage, ui_locales},
        responses::{Details, ErrorPages, FORM, statuses},
    },
    oidc::{
        AuthorizationOptions, AuthorizationResponse, BrowserLogin, LoginAttempt, LoginError,
        LogoutRequest, Prompt, ReturnTo,
    },
    session::{Digest, IdTokenHint, Identity, Surface},
    store::StoreError,
    telemetry::{Trace, TraceContext},
    token::Purpose,
};

/// What the browser carries to the provider and back.
#[derive(Serialize, Deserialize)]
struct LoggingIn {
    /// None when the login has ended: a callback that is repeated still ends on `return_to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<LoginAttempt>,
    return_to: String,
    /// Whether the person must not be asked, so that a login which needs them is no failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    silent: bool,
    /// Where it is in a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
}

/// The query of `authenticate`.
#[derive(Deserialize)]
pub(super) struct AuthenticateQuery {
    #[serde(rename = "returnTo")]
    return_to: Option<String>,
    silent: Option<String>,
}

/// The query of `logout`.
#[derive(Deserialize)]
pub(super) struct LogoutQuery {
    #[serde(rename = "returnTo")]
    return_to: Option<String>,
}

/// The query of `logout-callback`.
#[derive(Deserialize)]
pub(super) struct LoggedOutQuery {
    state: Option<String>,
}

fn attempt_cookie(app: &App, handle: &Handle) -> String {
    format!("{}{}", attempt_prefix(app), handle.as_str())
}

/// Beginning of the names of the cookies of unfinished logins.
fn attempt_prefix(app: &App) -> String {
    cookies::dialog_name(app, "login-")
}

fn open_attempt(app: &App, headers: &HeaderMap, handle: &Handle) -> Option<LoggingIn> {
    let sealed = cookies::get(headers, &attempt_cookie(app, handle))?;
    let context = handle.as_str().as_bytes();
    app.cookie_keys.open_text(Purpose::BrowserLoginAttempt, context, &sealed).ok()
}

/// Sets the cookie of a login that is under way or has ended.
fn store_attempt(
    app: &App,
    response: &mut Response,
    handle: &Handle,
    logging_in: &LoggingIn,
) -> Result<(), Detail> {
    let context = handle.as_str().as_bytes();
    let purpose = Purpose::BrowserLoginAttempt;
    let sealed = app.cookie_keys.seal_text(purpose, context, logging_in, DIALOG_TTL);
    let sealed = sealed.map_err(|_| UNAVAILABLE)?;
    let name = attempt_cookie(app, handle);
    let cookie = cookies::set(app, name, sealed, DIALOG_TTL, cookies::Reach::Dialog);
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(())
}

/// Deletes the oldest cookies of a browser that has as many unfinished logins as it may have
/// dialogs: more would overflow the request head.
fn make_room(app: &App, response: &mut Response, headers: &HeaderMap) {
    let prefix = attempt_prefix(app);
    let mut attempts: Vec<_> = cookies::names(headers, &prefix)
        .filter_map(|name| Handle::parse(&name))
        .map(|handle| {
            let attempt = open_attempt(app, headers, &handle).and_then(|opened| opened.attempt);
            (attempt.map(|attempt| attempt.remaining()), handle)
        })
        .collect();
    if attempts.len() < MAX_DIALOGS {
        return;
    }
    // One that has ended, or cannot be opened any more, is the oldest of all.
    attempts.sort_by_key(|(remaining, _)| *remaining);
    let surplus = attempts.len() + 1 - MAX_DIALOGS;
    for (_, handle) in &attempts[..surplus] {
        let cookie = cookies::delete(app, attempt_cookie(app, handle), cookies::Reach::Dialog);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Logs a failed login; gives its page and the reference under which the log has the cause.
fn log_failure(app: &App, trace: &Trace, error: &LoginError) -> (ErrorPage, String) {
    let (page, reference) = app.login_reference(trace, None, error);
    app.metrics.login(&app.clients.load().label(Surface::Meet, None), page.outcome());
    (page, reference)
}

/// Logs the browser in
///
/// With `silent=true` the provider asks nothing; a person who is not logged in there is sent back to
/// `returnTo` without a login.
#[utoipa::path(
    get,
    path = paths::MEET_AUTHENTICATE,
    tag = openapi_tags::MEET,
    params(
        (
            "returnTo" = Option<String>, Query, example = "<return_to>",
            description = "Where to go afterwards; must be allowed.",
        ),
        ("silent" = Option<bool>, Query, description = "Whether the person must not be asked."),
    ),
    responses(
        (status = 302, description = "To the OpenID provider."),
        Details<{ statuses(&[400, 500, 503]) }>,
        ErrorPages<{ statuses(&[502]) }>,
    ),
)]
pub(super) async fn authenticate(
    State(app): State<AppState>,
    trace: Trace,
    Query(AuthenticateQuery { return_to, silent }): Query<AuthenticateQuery>,
    headers: HeaderMap,
) -> Result<Response, Detail> {
    let meet = app.meet()?;
    let return_to = return_to
        .and_then(|text| ReturnTo::parse(&text, &meet.return_to).ok())
        .ok_or(Detail::new(StatusCode::BAD_REQUEST, "returnTo is missing or not allowed."))?;
    let silent = silent.is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let options = AuthorizationOptions {
        prompt: silent.then_some(Prompt::None),
        ui_locales: ui_locales(&headers),
        ttl: Some(DIALOG_TTL),
        ..AuthorizationOptions::default()
    };
    let login = app.login.in_trace(&trace);
    let (url, attempt) = match login.begin_at(&app.public(paths::MEET_CALLBACK), &options).await {
        Ok(begun) => begun,
        Err(error) => {
            let (page, reference) = log_failure(&app, &trace, &error);
            if silent {
                return Ok(found(return_to.as_str()));
            }
            return Ok(app.error_page_with(&headers, StatusCode::BAD_GATEWAY, page, &reference));
        }
    };
    let handle = Handle::of(attempt.state());
    let return_to = return_to.as_str().to_owned();
    let logging_in =
        LoggingIn { attempt: Some(attempt), return_to, silent, trace: trace.context() };
    let mut response = found(url.as_str());
    make_room(&app, &mut response, &headers);
    store_attempt(&app, &mut response, &handle, &logging_in)?;
    Ok(response)
}

/// The provider lets the browser post the response (`response_mode=form_post`)
///
/// The cookie of the login does not come with a cross-site POST, so the form is sealed into the URL
/// of a GET, which it does come with.
#[utoipa::path(
    post,
    path = paths::MEET_CALLBACK,
    tag = openapi_tags::MEET,
    request_body(
        content = String, content_type = FORM,
        example = json!("state=<state>&code=<code>&iss=<iss>"),
    ),
    responses(
        (status = 303, description = "To the callback, with the form sealed."),
        Details<{ statuses(&[413, 415, 500]) }>,
    ),
)]
pub(super) async fn callback_form(
    State(app): State<AppState>,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    see_sealed_form(&app, paths::MEET_CALLBACK, &body)
}

/// The provider sends the browser back (RFC 6749 §4.1.2)
#[utoipa::path(
    get,
    path = paths::MEET_CALLBACK,
    tag = openapi_tags::MEET,
    params(CallbackQuery),
    responses(
        (status = 302, description = "To `returnTo`, or to the error page."),
        ErrorPages<{ statuses(&[400]) }>,
        Details<{ statuses(&[500, 503]) }>,
    ),
)]
pub(super) async fn callback(
    State(app): State<AppState>,
    trace: Trace,
    Query(parameters): Query<CallbackQuery>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Detail> {
    let meet = app.meet()?;
    let answer = parameters.answer(&app, query);
    let refused = |page| app.error_page(&trace, &headers, StatusCode::BAD_REQUEST, page);
    let Some(state) = answer.state().map(str::to_owned) else {
        return Ok(refused(ErrorPage::BadRequest));
    };
    let handle = Handle::of(&state);
    let Some(logging_in) = open_attempt(&app, &headers, &handle) else {
        return Ok(refused(ErrorPage::WrongBrowser));
    };
    let LoggingIn { attempt, return_to, silent, trace: begun } = logging_in;
    trace.resume(begun);
    let Some(attempt) = attempt else {
        // Reloaded, or the back button was used.
        return Ok(found(&return_to));
    };
    let exchanged = meet.exchanges.share(&state, || {
        let (app, trace) = (Arc::clone(&app), trace.clone());
        async move {
            let exchange = |attempt| exchange(&app, &trace, attempt, answer, silent);
            exchange_once(&app, &trace, attempt, exchange).await
        }
    });
    let identity = match exchanged.await {
        CodeExchange::Identity(identity) => identity,
        CodeExchange::Failed(..) if silent => return Ok(found(&return_to)),
        CodeExchange::Failed(page, reference) => {
            return Ok(app.to_error_page_with(page, &reference, app.office_window()));
        }
        CodeExchange::Elsewhere => return Ok(refused(ErrorPage::WrongBrowser)),
        CodeExchange::Unavailable => return Err(UNAVAILABLE),
    };
    let Some(user_id) = identity.claim_text(&meet.user_id_claim) else {
        let reference = new_reference(&trace);
        let claim = meet.user_id_claim.as_str();
        tracing::error!(reference, claim, "the provider gave no such claim (MEET_USER_ID_CLAIM)");
        let page = ErrorPage::LoginFailed.as_str();
        app.recent.failed(&reference, page, None, "the provider gave no claim MEET_USER_ID_CLAIM");
        let window = app.office_window();
        return Ok(app.to_error_page_with(ErrorPage::LoginFailed, &reference, window));
    };
    let mut response = found(&return_to);
    log_in(&app, meet, &trace, &mut response, &identity, user_id).await?;
    let ended = LoggingIn { attempt: None, return_to, silent, trace: None };
    store_attempt(&app, &mut response, &handle, &ended)?;
    Ok(response)
}

async fn exchange(
    app: &App,
    trace: &Trace,
    attempt: LoginAttempt,
    answer: AuthorizationResponse,
    silent: bool,
) -> CodeExchange {
    let login = app.login.in_trace(trace);
    match login.finish_at(&app.public(paths::MEET_CALLBACK), attempt, answer).await {
        Ok(identity) => CodeExchange::Identity(Arc::new(identity)),
        // What a silent login is for: to find out.
        Err(error) if silent && error.is_interaction_required() => {
            CodeExchange::Failed(page_of(error.kind), String::new())
        }
        Err(error) => {
            let (page, reference) = log_failure(app, trace, &error);
            CodeExchange::Failed(page, reference)
        }
    }
}

/// Sets the cookies of a login.
async fn log_in(
    app: &App,
    meet: &Meet,
    trace: &Trace,
    response: &mut Response,
    identity: &Identity,
    user_id: String,
) -> Result<(), Detail> {
    let csrf = csrf::generate();
    let mut login = BrowserLogin::new(identity, user_id, csrf.clone());
    if app.hook.is_some() {
        login.claims = identity.claims.clone();
    }
    let seal = |login: &BrowserLogin| {
        let sealed = app.cookie_keys.seal_text(Purpose::BrowserLogin, b"", login, meet.login_ttl);
        sealed.map_err(|_| UNAVAILABLE)
    };
    let mut sealed = seal(&login)?;
    if sealed.len() > cookies::MAX_COOKIE
        && let Some(id_token) = login.id_token.take()
    {
        // Only its logout at the provider needs it.
        let name = stored_id_token(&login);
        let context = name.as_bytes();
        let text = id_token.expose().as_bytes();
        let value = app.cookie_keys.seal(Purpose::BrowserLoginIdToken, context, text);
        app.relay.in_trace(trace).store().put_value(name, value.into(), meet.login_ttl).await?;
        sealed = seal(&login)?;
    }
    let [current, earlier] = cookies::login_names(app);
    let login_cookie = |name: &str, value: &str, ttl| {
        set_cookie(name, value, ttl, |cookie| {
            cookie.set_http_only(true);
            cookie.set_same_site(SameSite::Lax);
        })
    };
    // Version 0.1 finds the login by its own name only; else that name is not left behind. Over HTTP
    // the two are one name, which an answer sets once (RFC 6265 §4.1.1).
    let earlier = match app.serves_beside_0_1() {
        _ if earlier == current => None,
        true => {
            // It has no logout at the provider.
            login.id_token = None;
            Some(login_cookie(&earlier, &seal(&login)?, meet.login_ttl))
        }
        false => Some(login_cookie(&earlier, "", Duration::ZERO)),
    };
    let cookies = [
        login_cookie(&current, &sealed, meet.login_ttl),
        set_cookie(&meet.csrf_cookie, &csrf, CSRF_TTL, |cookie| {
            cookie.set_same_site(SameSite::Lax)
        }),
    ];
    for cookie in earlier.into_iter().chain(cookies) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(())
}

/// The login of a browser, whether it still counts or not.
fn browser_login(app: &App, headers: &HeaderMap) -> Option<BrowserLogin> {
    let mut names = cookies::login_names(app).into_iter();
    let sealed = names.find_map(|name| cookies::get(headers, &name))?;
    app.cookie_keys.open_text(Purpose::BrowserLogin, b"", &sealed).ok()
}

/// The login of a browser that is logged in.
pub(super) async fn logged_in(
    app: &App,
    trace: &Trace,
    headers: &HeaderMap,
) -> Result<BrowserLogin, Detail> {
    let login = browser_login(app, headers).ok_or(NOT_LOGGED_IN)?;
    let (relay, logouts) = (app.relay.in_trace(trace), app.logouts.in_trace(trace));
    let revocations = app.revocations.in_trace(trace);
    let (ended, logged_out, revoked) = tokio::try_join!(
        relay.store().is_marked(ended(&login)),
        logouts.cover(login.signed_in()),
        revocations.has_ended(&login.subject, login.signed_in().at)
    )?;
    if ended || logged_out || revoked { Err(NOT_LOGGED_IN) } else { Ok(login) }
}

/// The mark of a login that a logout ended; its CSRF token is like no other.
fn ended(login: &BrowserLogin) -> Digest {
    Digest::of(format!("login ended:{}", login.csrf_token).as_bytes())
}

/// The name of the ID token of a login in the store.
fn stored_id_token(login: &BrowserLogin) -> Digest {
    Digest::of(format!("id token of login:{}", login.csrf_token).as_bytes())
}

/// The ID token of a login, if the relay has it.
async fn id_token(
    app: &App,
    trace: &Trace,
    login: &BrowserLogin,
) -> Result<Option<IdTokenHint>, StoreError> {
    if let Some(id_token) = &login.id_token {
        return Ok(Some(id_token.clone()));
    }
    let (relay, name) = (app.relay.in_trace(trace), stored_id_token(login));
    let Some(sealed) = relay.store().value(name).await? else { return Ok(None) };
    let opened = app.cookie_keys.open(Purpose::BrowserLoginIdToken, name.as_bytes(), &sealed);
    relay.store().remove_value(name).await?;
    let text = opened.ok().and_then(|text| std::str::from_utf8(&text).map(str::to_owned).ok());
    Ok(text.map(IdTokenHint::new))
}

/// `state` of a logout at the provider.
#[derive(Serialize, Deserialize)]
struct LoggingOut {
    return_to: String,
}

/// Ends the browser login
///
/// With `returnTo`, and where the provider announces it, at the provider too (OpenID Connect
/// RP-Initiated Logout); the browser then comes back by `logout-callback`.
#[utoipa::path(
    get,
    path = paths::MEET_LOGOUT,
    tag = openapi_tags::MEET,
    params(("returnTo" = Option<String>, Query, description = "Where to go afterwards.", example = "<return_to>")),
    responses(
        (status = 200, description = "The login has ended.", body = Status),
        (status = 302, description = "To the provider, or to `returnTo`."),
        Details<{ statuses(&[400, 500, 503]) }>,
    ),
)]
pub(super) async fn logout(
    State(app): State<AppState>,
    trace: Trace,
    Query(LogoutQuery { return_to }): Query<LogoutQuery>,
    headers: HeaderMap,
) -> Result<Response, Detail> {
    let meet = app.meet()?;
    let return_to = return_to
        .map(|text| ReturnTo::parse(&text, &meet.return_to))
        .transpose()
        .map_err(|_| Detail::new(StatusCode::BAD_REQUEST, "returnTo is not allowed."))?;
    let login = browser_login(&app, &headers);
    // A copy of the cookie must not outlive the logout.
    if let Some(login) = &login {
        app.relay.in_trace(&trace).store().mark_durably(ended(login), meet.login_ttl).await?;
    }
    let mut response = match (return_to, &login) {
        (None, _) => Json(json!({"status": "ok"})).into_response(),
        (Some(return_to), None) => found(return_to.as_str()),
        (Some(return_to), Some(login)) => {
            let at_provider = provider_logout(&app, meet, &trace, login, &return_to).await?;
            found(at_provider.as_ref().map_or(return_to.as_str(), url::Url::as_str))
        }
    };
    let csrf_cookie = meet.csrf_cookie.as_str();
    for name in cookies::login_names(&app).iter().map(String::as_str).chain([csrf_cookie]) {
        let cookie = set_cookie(name, "", Duration::ZERO, |cookie| {
            cookie.set_same_site(SameSite::Lax);
        });
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Where the browser logs out at the provider, if it announces that and the operator wants it.
async fn provider_logout(
    app: &App,
    meet: &Meet,
    trace: &Trace,
    login: &BrowserLogin,
    return_to: &ReturnTo,
) -> Result<Option<url::Url>, Detail> {
    if !meet.provider_logout {
        return Ok(None);
    }
    let state = LoggingOut { return_to: return_to.as_str().to_owned() };
    let state = app.cookie_keys.seal_text(Purpose::LogoutState, b"", &state, DIALOG_TTL);
    let state = state.map_err(|_| UNAVAILABLE)?;
    let id_token = id_token(app, trace, login).await?;
    let request = LogoutRequest {
        id_token: id_token.as_ref(),
        redirect_uri: &app.public(paths::MEET_LOGOUT_CALLBACK),
        state: &state,
    };
    Ok(app.login.in_trace(trace).logout_url(&request).await)
}

/// The provider sends the browser back after a logout
#[utoipa::path(
    get,
    path = paths::MEET_LOGOUT_CALLBACK,
    tag = openapi_tags::MEET,
    params(("state" = Option<String>, Query, description = "As sent to the provider.", example = "<state>")),
    responses(
        (status = 302, description = "To the `returnTo` of the logout."),
        Details<{ statuses(&[400, 500]) }>,
    ),
)]
pub(super) async fn logout_callback(
    State(app): State<AppState>,
    Query(LoggedOutQuery { state }): Query<LoggedOutQuery>,
) -> Result<Response, Detail> {
    const INVALID_STATE: Detail = Detail::new(StatusCode::BAD_REQUEST, "Invalid or expired state.");
    let meet = app.meet()?;
    let state = state.ok_or(INVALID_STATE)?;
    let opened = app.cookie_keys.open_text::<LoggingOut>(Purpose::LogoutState, b"", &state);
    let LoggingOut { return_to } = opened.map_err(|_| INVALID_STATE)?;
    // The settings may have changed since.
    let return_to = ReturnTo::parse(&return_to, &meet.return_to).map_err(|_| INVALID_STATE)?;
    Ok(found(return_to.as_str()))
}

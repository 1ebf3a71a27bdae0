//! The way back from the provider: `GET /callback`, the page about the account, and `GET /addons/redirect`,
//! which completes the sign-in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        App, AppState,
        dialog::{
            cookie::{Dialog, Finished, Handle, Proven, Stage},
            found, page_of,
            policy::{self, Policy},
            see_other,
            visit::{Decision, DialogForm, DialogQuery, PageQuery, Posted, Visit},
        },
        error::{Problem, ProblemType, Problems, types},
        extract::LimitedBody,
        methods::MethodsExt as _,
        middleware::ClientAddress,
        openapi_tags,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
    },
    oidc::{AuthorizationResponse, LoginAttempt, MAX_FORM},
    session::{Digest, Failure, Identity, SessionRef},
    signin::{NotCompleted, SignInOutcome},
    telemetry::Trace,
    token::{OpenError, Purpose},
};

/// The endpoints of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(callback, callback_form).answering(&[]))
        .routes(routes!(redirect).answering(&[]))
        .routes(routes!(account).answering(&[]))
}

/// How long the result of an exchange is remembered for a reloaded callback.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The result of exchanging a code.
#[derive(Clone)]
enum Exchanged {
    Identity(Arc<Identity>),
    /// The session has failed.
    Failed(ErrorPage),
    /// Another instance exchanged the code.
    Elsewhere,
    /// The store is unavailable.
    Unavailable,
}

/// Exchanges under way, by `state`. Each is detached from the request that began it, and shared by
/// all requests with the same `state`: a browser may cancel the request and repeat it.
#[derive(Default)]
pub struct Exchanges(Mutex<HashMap<Digest, Shared<BoxFuture<'static, Exchanged>>>>);

impl Exchanges {
    fn share(
        app: &AppState,
        trace: &Trace,
        session: SessionRef,
        attempt: LoginAttempt,
        answer: AuthorizationResponse,
    ) -> Shared<BoxFuture<'static, Exchanged>> {
        let key = Digest::of(attempt.state().as_bytes());
        let mut exchanges = app.exchanges.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchange) = exchanges.get(&key) {
            return exchange.clone();
        }
        let (owned, trace) = (Arc::clone(app), trace.clone());
        let task = tokio::spawn(async move {
            let exchanged = exchange(&owned, &trace, session, attempt, answer).await;
            let app = Arc::clone(&owned);
            tokio::spawn(async move {
                tokio::time::sleep(REMEMBERED).await;
                app.exchanges.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            });
            exchanged
        });
        let exchange = task.map(|ended| ended.unwrap_or(Exchanged::Unavailable)).boxed().shared();
        exchanges.insert(key, exchange.clone());
        exchange
    }
}

async fn exchange(
    app: &App,
    trace: &Trace,
    session: SessionRef,
    attempt: LoginAttempt,
    answer: AuthorizationResponse,
) -> Exchanged {
    match app.use_state_once(trace, attempt.state()).await {
        Ok(true) => {}
        Ok(false) => return Exchanged::Elsewhere,
        Err(error) => {
            tracing::warn!(session = %session.key, %error, "callback deferred");
            return Exchanged::Unavailable;
        }
    }
    match app.login.in_trace(trace).finish(attempt, answer).await {
        Ok(identity) => {
            // Nothing here logs out at the provider, and the cookie has little room.
            Exchanged::Identity(Arc::new(Identity { id_token: None, ..identity }))
        }
        Err(error) => {
            let page = page_of(error.kind);
            error.log(Some(session.key), None);
            app.sign_in(trace).fail(session, error.failure(), page.outcome()).await;
            Exchanged::Failed(page)
        }
    }
}

/// How long a posted form waits for the GET that fetches it.
const FORM_TTL: Duration = Duration::from_secs(60);

/// The query of the callback, beside what the provider sends.
#[derive(Deserialize)]
struct CallbackQuery {
    /// What [`callback_form`] sealed.
    form: Option<String>,
}

/// The provider lets the browser post the response (`response_mode=form_post`)
///
/// The cookies of a dialog do not come with a cross-site POST, so the form is sealed into the URL of
/// a GET, which they do come with.
#[utoipa::path(
    post,
    path = paths::CALLBACK,
    tag = openapi_tags::DIALOG,
    request_body(content = String, content_type = FORM),
    responses(
        (status = 303, description = "To the callback, with the form sealed."),
        Problems<{ types(&[ProblemType::BodyTooLarge]) }>,
    ),
)]
async fn callback_form(
    State(app): State<AppState>,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    if body.len() > MAX_FORM {
        return Err(Problem::BodyTooLarge);
    }
    let form = String::from_utf8_lossy(&body);
    let sealed = app.cookie_keys.seal_text(Purpose::CallbackForm, b"", &form, FORM_TTL);
    let sealed = sealed.map_err(|_| Problem::Internal)?;
    Ok(see_other(&app.path(&format!("{}?form={sealed}", paths::CALLBACK))))
}

/// The provider sends the browser back (RFC 6749 §4.1.2)
#[utoipa::path(
    get,
    path = paths::CALLBACK,
    tag = openapi_tags::DIALOG,
    params(
        ("state" = Option<String>, Query, description = "As sent to the provider."),
        ("code" = Option<String>, Query, description = "The authorization code."),
        ("iss" = Option<String>, Query, description = "The provider's issuer (RFC 9207)."),
        ("error" = Option<String>, Query, description = "Why the provider sends no code."),
        ("error_description" = Option<String>, Query, description = "The same for people."),
    ),
    responses(
        (status = 302, description = "To the next step."),
        ErrorPages<{ statuses(&[400, 410, 500, 503]) }>,
    ),
)]
async fn callback(
    State(app): State<AppState>,
    PageQuery(CallbackQuery { form }): PageQuery<CallbackQuery>,
    RawQuery(query): RawQuery,
    visit: Visit,
) -> Response {
    let form =
        form.and_then(|sealed| app.cookie_keys.open_text(Purpose::CallbackForm, b"", &sealed).ok());
    let answer = AuthorizationResponse::parse(&form.or(query).unwrap_or_default());
    let Some(state) = answer.state() else {
        return visit.error_of(
            ErrorPage::BadRequest,
            ErrorPage::BadRequest.status(),
            None,
            Some("the provider's answer has no state"),
        );
    };
    let bearing = match app.bearing(state) {
        Ok(bearing) => bearing,
        Err(OpenError::Expired) => return visit.error(ErrorPage::TooSlow),
        Err(_) => return visit.error(ErrorPage::WrongBrowser),
    };
    let visit = Visit { window: bearing.window(), ..visit };
    let session = bearing.session();
    let handle = bearing.handle();
    let dialog = handle.as_ref().and_then(|handle| visit.dialog(handle));
    let (Some(handle), Some(mut dialog)) = (handle, dialog) else {
        // The oldest of too many dialogs, or another browser.
        let failure = Failure::new("access_denied", "The browser did not keep its cookie.");
        return visit.fail(session, failure, SignInOutcome::Denied, ErrorPage::WrongBrowser).await;
    };
    let Stage::LoggingIn { attempt, proven } = dialog.stage.clone() else {
        // Reloaded, or the back button was used: the next step still knows what to do.
        return visit.to_step(paths::REDIRECT, &handle);
    };
    if attempt.state() != state {
        // This dialog went to the provider again, in another window.
        let cause = "the answer belongs to an earlier attempt of this dialog";
        return visit.error_about(ErrorPage::WrongBrowser, session, cause);
    }
    let exchanged = Exchanges::share(&app, &visit.trace, session, attempt, answer).await;
    let identity = match exchanged {
        Exchanged::Identity(identity) => {
            let details = &dialog.details;
            (*identity).clone().signed_in_to(details.client_id.clone(), details.scope.clone())
        }
        Exchanged::Failed(page) => {
            let mut response = app.to_error_page(&visit.trace, page, visit.window);
            app.forget_dialog(&mut response, &handle);
            return response;
        }
        Exchanged::Elsewhere => {
            let cause = "the answer was used before";
            return visit.error_about(ErrorPage::WrongBrowser, session, cause);
        }
        Exchanged::Unavailable => {
            return visit.error_about(ErrorPage::Unavailable, session, "the store is unavailable");
        }
    };
    dialog.stage = Stage::LoggedIn { identity, proven };
    let mut response = visit.to_step(paths::REDIRECT, &handle);
    if !app.store_dialog(&mut response, &visit.headers, &handle, &dialog) {
        let failure = Failure::new("server_error", "The provider's claims are too large.");
        tracing::error!(
            session = %session.key,
            "the claims are too large for a cookie; shorten `TOKEN_CLAIMS`"
        );
        app.sign_in(&visit.trace).fail(session, failure, SignInOutcome::ProviderFailed).await;
        response = app.to_error_page(&visit.trace, ErrorPage::LoginFailed, visit.window);
        app.forget_dialog(&mut response, &handle);
    }
    response
}

/// Issues the access token and hands it to the session
///
/// After a code or a button the person is asked first.
#[utoipa::path(
    get,
    path = paths::REDIRECT,
    tag = openapi_tags::DIALOG,
    params(("dialog" = String, Query, description = "Handle of the dialog.")),
    responses(
        (
            status = 200, description = "Asks whether the client may have access as the account.",
            body = String, content_type = HTML,
        ),
        (status = 302, description = "To the last page."),
        ErrorPages<{ statuses(&[400, 500, 503]) }>,
    ),
)]
async fn redirect(
    State(app): State<AppState>,
    ClientAddress(address): ClientAddress,
    PageQuery(query): PageQuery<DialogQuery>,
    visit: Visit,
) -> Response {
    let Some(handle) = query.handle() else {
        return visit.error(ErrorPage::WrongBrowser);
    };
    let Some(dialog) = visit.dialog(&handle) else {
        return visit.error(ErrorPage::WrongBrowser);
    };
    match dialog.stage.clone() {
        Stage::LoggedIn { identity, proven } if proven.needs_account_page() => {
            let policy = Policy::of(&app, dialog.details.client_id.as_ref());
            let view = policy::view(&dialog.details, &policy, address);
            let language = app.pages.language(&visit.headers);
            let (fields, account) = (dialog.fields(&handle), identity.display_name());
            app.pages.account(language, fields, view, account, dialog.window())
        }
        Stage::LoggedIn { identity, proven } => {
            visit.complete(handle, dialog, &identity, proven).await
        }
        Stage::Finished(_) => visit.to_step(paths::SUCCESS, &handle),
        _ => visit.error_about(
            ErrorPage::WrongBrowser,
            dialog.session(),
            "the dialog has no identity yet",
        ),
    }
}

/// The person decides whether the client may have access
#[utoipa::path(
    post,
    path = paths::ACCOUNT,
    tag = openapi_tags::DIALOG,
    request_body(content = DialogForm<Decision>, content_type = FORM),
    responses(
        (status = 303, description = "To the last page."),
        ErrorPages<{ statuses(&[400, 403, 409, 413, 500, 503]) }>,
    ),
)]
async fn account(Posted { visit, handle, dialog, fields }: Posted<Decision>) -> Response {
    match dialog.stage.clone() {
        Stage::LoggedIn { identity, proven } if fields.is_continue() => {
            visit.complete(handle, dialog, &identity, proven).await
        }
        Stage::LoggedIn { .. } => visit.not_me(&handle, &dialog).await,
        // Sent twice.
        Stage::Finished(_) => visit.to_step(paths::SUCCESS, &handle),
        _ => visit.error_about(ErrorPage::Used, dialog.session(), "the dialog is not at this step"),
    }
}

impl Visit {
    /// Completes the sign-in and leads to the last page.
    async fn complete(
        &self,
        handle: Handle,
        mut dialog: Dialog,
        identity: &Identity,
        proven: Proven,
    ) -> Response {
        let app = &self.app;
        let session = dialog.session();
        let after_form = proven.needs_account_page();
        let url = app.path(&format!("{}?dialog={}", paths::SUCCESS, handle.as_str()));
        let mut response = if after_form { see_other(&url) } else { found(&url) };
        let completed =
            app.sign_in(&self.trace).complete(session, dialog.session_token, identity).await;
        let account = identity.display_name().to_owned();
        match completed {
            Ok(completed) => {
                dialog.stage = Stage::Finished(Finished {
                    account,
                    token_id: completed.token_id,
                    expires_at: completed.expires_at.as_secs(),
                    grant: completed.grant,
                    autoclose: !after_form,
                });
                // Without it the last page merely names no account.
                app.store_dialog(&mut response, &self.headers, &handle, &dialog);
                response
            }
            // An earlier request of this dialog, which the browser cancelled or repeated.
            Err(NotCompleted::Already) => response,
            Err(NotCompleted::TooLate) => {
                let mut response = app.to_error_page(&self.trace, ErrorPage::TooSlow, self.window);
                app.forget_dialog(&mut response, &handle);
                response
            }
            Err(NotCompleted::Issuer(_)) => {
                app.to_error_page(&self.trace, ErrorPage::Unavailable, self.window)
            }
            // The cookie stays: the person can repeat this very step when the store is back.
            Err(NotCompleted::Store(error)) => self.store_error(session, error),
        }
    }
}

//! The way back from the provider: `GET /callback`, the page about the account, and `GET /addons/redirect`,
//! which completes the sign-in.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use serde::Deserialize;
use utoipa::{
    PartialSchema as _,
    openapi::path::{Parameter, ParameterBuilder, ParameterIn},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        App, AppState,
        dialog::{
            cookie::{Account, Dialog, Finished, Handle, Proven, Stage},
            found,
            policy::{self, Policy},
            prepared::Ahead,
            see_other,
            visit::{Decision, DialogForm, DialogQuery, PageQuery, Posted, Visit},
        },
        error::{Problem, ProblemType, Problems, types},
        exchange_handover::exchange_once,
        exchanges::CodeExchange,
        extract::LimitedBody,
        methods::MethodsExt as _,
        middleware::ClientAddress,
        openapi_tags,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
    },
    oidc::{AuthorizationResponse, LoginAttempt, MAX_FORM, RequiredClaims},
    session::{
        ClientId, Failure, GoneReason, Identity, Requested, SessionRef, State as SessionState,
    },
    signin::{HookError, NotCompleted, SignInOutcome},
    store::Peeked,
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

async fn exchange(
    app: &App,
    trace: &Trace,
    session: SessionRef,
    attempt: LoginAttempt,
    answer: AuthorizationResponse,
    required: RequiredClaims,
) -> CodeExchange {
    let provider = app.login.in_trace(trace).requiring(required);
    match provider.finish(attempt, answer).await {
        Ok(identity) => {
            // Nothing here logs out at the provider, and the cookie has little room.
            CodeExchange::Identity(Arc::new(Identity { id_token: None, ..identity }))
        }
        Err(error) => {
            let (page, reference) = app.login_reference(trace, Some(session.key), &error);
            app.sign_in(trace).fail(session, error.failure(), page.outcome()).await;
            CodeExchange::Failed(page, reference)
        }
    }
}

/// How long a posted form waits for the GET that fetches it.
const FORM_TTL: Duration = Duration::from_secs(60);

/// The query of a callback, beside what the provider sends.
#[derive(Deserialize)]
pub(crate) struct CallbackQuery {
    /// What [`see_sealed_form`] sealed.
    form: Option<String>,
}

impl CallbackQuery {
    /// What the provider sent, in the query or in the form that was sealed.
    pub(crate) fn answer(&self, app: &App, query: Option<String>) -> AuthorizationResponse {
        let form = self.form.as_deref().and_then(|sealed| open_sealed_form(app, sealed));
        AuthorizationResponse::parse(&form.or(query).unwrap_or_default())
    }
}

/// What the provider sends (RFC 6749 §4.1.2, §4.1.2.1), for the OpenAPI document.
impl utoipa::IntoParams for CallbackQuery {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        [
            ("state", "As sent to the provider."),
            ("code", "The authorization code."),
            ("iss", "The provider's issuer (RFC 9207)."),
            ("error", "Why the provider sends no code."),
            ("error_description", "The same for people."),
        ]
        .map(|(name, description)| {
            let example =
                matches!(name, "state" | "code" | "iss").then(|| format!("<{name}>").into());
            ParameterBuilder::new()
                .name(name)
                .example(example)
                .parameter_in(ParameterIn::Query)
                .description(Some(description))
                .schema(Some(Option::<String>::schema()))
                .build()
        })
        .into()
    }
}

/// The provider lets the browser post the response (`response_mode=form_post`)
///
/// The cookies of a dialog do not come with a cross-site POST, so the form is sealed into the URL of
/// a GET, which they do come with.
#[utoipa::path(
    post,
    path = paths::CALLBACK,
    tag = openapi_tags::DIALOG,
    request_body(
        content = String, content_type = FORM,
        example = json!("state=<state>&code=<code>&iss=<iss>"),
    ),
    responses(
        (status = 303, description = "To the callback, with the form sealed."),
        Problems<{ types(&[ProblemType::BodyTooLarge, ProblemType::UnsupportedMediaType]) }>,
    ),
)]
async fn callback_form(
    State(app): State<AppState>,
    LimitedBody(body): LimitedBody,
) -> Result<Response, Problem> {
    see_sealed_form(&app, paths::CALLBACK, &body)
}

/// To the callback at `path`, with `form` sealed into the URL. The URL can be used as often as the
/// `state` in the form: for one exchange.
pub(crate) fn see_sealed_form(app: &App, path: &str, form: &[u8]) -> Result<Response, Problem> {
    if form.len() > MAX_FORM {
        return Err(Problem::BodyTooLarge);
    }
    let form = String::from_utf8_lossy(form);
    let sealed = app.cookie_keys.seal_text(Purpose::CallbackForm, b"", &form, FORM_TTL);
    let sealed = sealed.map_err(|_| Problem::Internal)?;
    Ok(see_other(&app.path(&format!("{path}?form={sealed}"))))
}

/// The form that [`see_sealed_form`] sealed.
fn open_sealed_form(app: &App, sealed: &str) -> Option<String> {
    app.cookie_keys.open_text(Purpose::CallbackForm, b"", sealed).ok()
}

/// The provider sends the browser back (RFC 6749 §4.1.2)
#[utoipa::path(
    get,
    path = paths::CALLBACK,
    tag = openapi_tags::DIALOG,
    params(CallbackQuery),
    responses(
        (status = 302, description = "To the next step."),
        ErrorPages<{ statuses(&[400, 410, 500, 503]) }>,
    ),
)]
async fn callback(
    State(app): State<AppState>,
    PageQuery(parameters): PageQuery<CallbackQuery>,
    RawQuery(query): RawQuery,
    visit: Visit,
) -> Response {
    let answer = parameters.answer(&app, query);
    let Some(state) = answer.state() else {
        return visit.error_of(
            ErrorPage::BadRequest,
            ErrorPage::BadRequest.status(),
            None,
            Some("the provider's answer has no state"),
        );
    };
    let (visit, handle, mut dialog) = match app.bearing(state) {
        Ok(bearing) => {
            let visit = Visit { window: bearing.window(), ..visit };
            let handle = bearing.handle();
            let dialog = handle.as_ref().and_then(|handle| visit.dialog(handle));
            let (Some(handle), Some(dialog)) = (handle, dialog) else {
                // The oldest of too many dialogs, or another browser.
                let failure = Failure::new("access_denied", "The browser did not keep its cookie.");
                let (session, page) = (bearing.session(), ErrorPage::WrongBrowser);
                return visit.fail(session, failure, SignInOutcome::Denied, page).await;
            };
            (visit, handle, dialog)
        }
        Err(OpenError::Expired) => return visit.too_slow(state).await,
        Err(_) => match app.dialog_of_0_1(&visit.trace, &visit.headers, state) {
            Some((handle, dialog)) => (visit.within(&dialog), handle, dialog),
            None => return visit.error(ErrorPage::WrongBrowser),
        },
    };
    let session = dialog.session();
    let Stage::LoggingIn { attempt, proven } = dialog.stage.clone() else {
        // Reloaded, or the back button was used: the next step still knows what to do.
        return visit.to_step(paths::REDIRECT, &handle);
    };
    if attempt.state() != state {
        // This dialog went to the provider again, in another window.
        let cause = "the answer belongs to an earlier attempt of this dialog";
        return visit.error_about(ErrorPage::WrongBrowser, session, cause);
    }
    let clients = app.clients.load();
    let client = clients.find(dialog.details.client_id.as_ref().map(ClientId::as_str));
    // Without the client, which is not registered any more, no token will be issued.
    let required = client.map(|client| client.required_claims.clone()).unwrap_or_default();
    let state = state.to_owned();
    let exchanged = app.exchanges.share(&state, || {
        let (app, trace) = (Arc::clone(&app), visit.trace.clone());
        async move {
            let exchange = |attempt| exchange(&app, &trace, session, attempt, answer, required);
            exchange_once(&app, &trace, attempt, exchange).await
        }
    });
    let identity = match exchanged.await {
        CodeExchange::Identity(identity) => {
            let details = &dialog.details;
            (*identity).clone().signed_in_to(details.client_id.clone(), details.scope.clone())
        }
        CodeExchange::Failed(page, reference) => {
            let mut response = app.to_error_page_with(page, &reference, visit.window);
            app.forget_dialog(&mut response, &handle);
            return response;
        }
        CodeExchange::Elsewhere => {
            let cause = "the answer was used before";
            return visit.error_about(ErrorPage::WrongBrowser, session, cause);
        }
        CodeExchange::Unavailable => {
            return visit.error_about(ErrorPage::Unavailable, session, "the store is unavailable");
        }
    };
    dialog.stage = Stage::LoggedIn { account: Account::InCookie(Arc::new(identity)), proven };
    let mut response = visit.to_step(paths::REDIRECT, &handle);
    if !app.store_dialog(&mut response, &visit.headers, &handle, &dialog) {
        if let Err(error) = app.move_account_to_store(&visit.trace, &mut dialog).await {
            // The person can repeat this very step when the store is back.
            return visit.store_error(session, error);
        }
        return visit.with_dialog(response, &handle, &dialog);
    }
    app.prepare_sign_in(&response, &handle, dialog);
    response
}

/// Issues the access token and hands it to the session
///
/// After a code or a button the person is asked first.
#[utoipa::path(
    get,
    path = paths::REDIRECT,
    tag = openapi_tags::DIALOG,
    params(("dialog" = String, Query, description = "Handle of the dialog.", example = "<dialog>")),
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
    mut visit: Visit,
) -> Response {
    let Some(handle) = query.handle() else {
        return visit.error(ErrorPage::WrongBrowser);
    };
    let Some(mut dialog) = visit.dialog(&handle) else {
        return visit.error(ErrorPage::WrongBrowser);
    };
    match dialog.stage.clone() {
        Stage::LoggedIn { account, proven } if proven.needs_account_page() => {
            let identity = match visit.identity(&handle, &dialog, account).await {
                Ok(identity) => identity,
                Err(page) => return page,
            };
            dialog.make_csrf(&app, &handle);
            let policy = Policy::of(&app, dialog.details.client_id.as_ref());
            let view = policy::view(&dialog.details, &policy, address);
            let language = app.pages.language(&visit.headers);
            let (fields, account) = (dialog.fields(&handle), identity.display_name());
            let page = app.pages.account(language, fields, view, account, dialog.window());
            // The cookie of 0.1 has no token for the form.
            if dialog.entered_by_0_1 { visit.with_dialog(page, &handle, &dialog) } else { page }
        }
        Stage::LoggedIn { account, proven } => {
            let ahead = visit.ahead.take();
            visit.complete(handle, dialog, account, proven, ahead).await
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
    request_body(
        content = DialogForm<Decision>, content_type = FORM,
        example = json!({ "dialog": "<dialog>", "csrf": "<csrf>", "decision": "continue" }),
    ),
    responses(
        (status = 303, description = "To the last page."),
        ErrorPages<{ statuses(&[400, 403, 409, 413, 415, 500, 503]) }>,
    ),
)]
async fn account(Posted { visit, handle, dialog, fields }: Posted<Decision>) -> Response {
    match dialog.stage.clone() {
        Stage::LoggedIn { account, proven } if fields.is_continue() => {
            visit.complete(handle, dialog, account, proven, None).await
        }
        Stage::LoggedIn { account, .. } => {
            visit.app.remove_account(&visit.trace, &account).await;
            visit.not_me(&handle, &dialog).await
        }
        // Sent twice.
        Stage::Finished(_) => visit.to_step(paths::SUCCESS, &handle),
        _ => visit.error_about(ErrorPage::Used, dialog.session(), "the dialog is not at this step"),
    }
}

impl Visit {
    /// The person took longer than the session lasts: says so, and ends a session that this host's
    /// clock, running ahead, takes for expired too early.
    async fn too_slow(self, state: &str) -> Response {
        let Some(bearing) = self.app.expired_bearing(state) else {
            return self.error(ErrorPage::TooSlow);
        };
        let (session, window) = (bearing.session(), bearing.window());
        self.trace.adopt(session.key, None);
        let failure = Failure::new("access_denied", "The sign-in took too long.");
        let (outcome, page) = (SignInOutcome::TooLate, ErrorPage::TooSlow);
        Self { window, ..self }.fail(session, failure, outcome, page).await
    }

    /// The identity of the account that signed in, or the page that says why there is none.
    async fn identity(
        &self,
        handle: &Handle,
        dialog: &Dialog,
        account: Account,
    ) -> Result<Arc<Identity>, Response> {
        let session = dialog.session();
        match self.app.identity(&self.trace, account).await {
            Ok(Some(identity)) => return Ok(identity),
            Ok(None) => {}
            Err(error) => return Err(self.store_error(session, error)),
        }
        // It is removed when the session has its token, and expires with the session.
        let relay = self.app.relay.in_trace(&self.trace);
        Err(match relay.peek(session, dialog.entry(), Some(dialog.id)).await {
            Ok(Peeked::NotPending(
                SessionState::Authenticated
                | SessionState::Delivered
                | SessionState::Gone(GoneReason::Acknowledged),
            )) => self.to_step(paths::SUCCESS, handle),
            Ok(Peeked::Open(_)) => {
                let failure = Failure::new("server_error", "The account is not stored any more.");
                let outcome = SignInOutcome::StoreFailed;
                self.fail(session, failure, outcome, ErrorPage::LoginFailed).await
            }
            Ok(_) => self.error_about(ErrorPage::Expired, session, "the session is over"),
            Err(error) => self.store_error(session, error),
        })
    }

    /// The page for an account that the claims hook does not admit, in the hook's words.
    fn not_admitted(&self, session: SessionRef, error: &HookError) -> Response {
        let (page, detail) = match error {
            HookError::Denied { description } => (ErrorPage::Refused, description.as_deref()),
            HookError::Unavailable => (ErrorPage::Unavailable, None),
        };
        let cause = error.to_string();
        let reference = self.app.reference(&self.trace, page, Some(session), Some(&cause));
        let language = self.app.pages.language(&self.headers);
        self.app.pages.error(page.status(), language, page, detail, &reference, self.window)
    }

    /// Completes the sign-in and leads to the last page.
    async fn complete(
        &self,
        handle: Handle,
        mut dialog: Dialog,
        account: Account,
        proven: Proven,
        ahead: Option<Box<Ahead>>,
    ) -> Response {
        let app = &self.app;
        let session = dialog.session();
        let identity = match self.identity(&handle, &dialog, account.clone()).await {
            Ok(identity) => identity,
            Err(page) => return page,
        };
        let after_form = proven.needs_account_page();
        let url = app.path(&format!("{}?dialog={}", paths::SUCCESS, handle.as_str()));
        let mut response = if after_form { see_other(&url) } else { found(&url) };
        // For the claims hook, now and when the token is refreshed.
        let identity = match &app.hook {
            None => identity,
            Some(_) => Arc::new(Arc::unwrap_or_clone(identity).at_request(Requested {
                client_name: dialog.details.client_name.clone(),
                origin: dialog.details.origin.clone(),
                origin_proved: proven.shows_origin(),
            })),
        };
        let sign_in = app.sign_in(&self.trace);
        let recipient = dialog.recipient();
        let (issued, cookie) = match ahead.map(|ahead| *ahead) {
            Some(Ahead { issued, cookie }) => (Some(issued), cookie),
            None => (None, None),
        };
        let completed = sign_in.complete(session, recipient, &identity, issued).await;
        if matches!(
            completed,
            Ok(_) | Err(NotCompleted::Already | NotCompleted::TooLate | NotCompleted::Refused(_))
        ) {
            app.remove_account(&self.trace, &account).await;
        }
        match completed {
            Ok(completed) => {
                // One that was made ahead continues no trace.
                let cookie = cookie.filter(|_| self.trace.context().is_none());
                // Without it the last page merely names no account.
                match cookie.and_then(|cookie| cookie.of(&completed, app)) {
                    Some(cookie) => {
                        app.append_dialog(&mut response, &self.headers, &handle, cookie);
                    }
                    None => {
                        let finished = Finished::new(&identity, &completed, !after_form);
                        dialog.stage = Stage::Finished(finished);
                        app.store_dialog(&mut response, &self.headers, &handle, &dialog);
                    }
                }
                response
            }
            // An earlier request of this dialog, which the browser cancelled or repeated.
            Err(NotCompleted::Already) => response,
            Err(NotCompleted::TooLate) => {
                let cause = "the session ended before the sign-in did";
                let mut response = self.to_error_page(ErrorPage::TooSlow, session, cause);
                app.forget_dialog(&mut response, &handle);
                response
            }
            Err(NotCompleted::Refused(error)) => {
                let mut response = self.not_admitted(session, &error);
                app.forget_dialog(&mut response, &handle);
                response
            }
            Err(NotCompleted::Issuer(error)) => {
                self.to_error_page(ErrorPage::Unavailable, session, &error.to_string())
            }
            // The cookie stays: the person can repeat this very step when the store is back.
            Err(NotCompleted::Store(error)) => self.store_error(session, error),
        }
    }
}

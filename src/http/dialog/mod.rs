//! The browser dialog: enter, confirm, go to the provider, come back, fulfil, say how it went.
//!
//! What the browser carries from step to step is one encrypted cookie a dialog, named by a handle
//! that is no secret, so that several dialogs in one browser keep apart and any instance can take
//! the next step. Every step leaves by a redirect or a page that works without JavaScript.

use std::time::Duration;

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{ProblemDetails, paths},
    http::{
        App, AppState, cookies,
        error::{
            PROBLEM_JSON, Problem,
            ProblemType::{BadRequest, BodyTooLarge},
            Problems, types,
        },
        extract::LimitedBody,
        methods::{Also, MethodsExt as _},
        pages::{ErrorPage, Fields, RequestView, Window},
        responses::{ErrorPages, FORM, HTML, statuses},
        tags,
    },
    oidc::{AuthorizationResponse, FailureKind, LoginAttempt, LoginError},
    session::{
        DialogId, Digest, Failure, Identity, Profile, SessionId, SessionInfo, SessionKey,
        SessionRef, State as SessionState, TransitToken, UserCode,
    },
    signin::{NotCompleted, Outcome},
    store::{Entered, Entry, Peeked, StoreError},
    telemetry::{Trace, TraceContext},
    token::Purpose,
};

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    let transit = routes!(transit).answering(&[]);
    OpenApiRouter::default()
        .route("/addons/transit", transit.2.clone())
        .routes(transit)
        .routes(routes!(confirm).answering(&[]))
        .routes(routes!(callback).answering(&[]))
        .routes(routes!(redirect).answering(&[]))
        .routes(routes!(success).answering(&[Also::Head]))
        .routes(routes!(error).answering(&[Also::Head]))
}

/// How long a person may take from entering to the end.
pub(crate) const DIALOG_TTL: Duration = Duration::from_secs(600);

/// Dialogs of one browser that may be open at once; more would overflow the request head.
const MAX_DIALOGS: usize = 8;

/// Form of the confirmation page.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the form")]
struct Decision {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
    /// `continue`; anything else refuses.
    decision: String,
}

/// What the cookie of one dialog holds.
#[derive(Serialize, Deserialize)]
struct Dialog {
    add_in: AddIn,
    stage: Stage,
}

/// Who waits for the dialog's end.
#[derive(Clone, Serialize, Deserialize)]
struct AddIn {
    session: SessionKey,
    /// SHA-256 of the session token of a bound session; what a refresh token is bound to.
    session_token: Option<Digest>,
    name: Option<String>,
    /// Where the dialog is in a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
}

impl AddIn {
    /// The request goes on where the last one was in the trace, and the next one where this is.
    fn go_on(&mut self, trace: &Trace) {
        trace.adopt(self.session, self.trace);
        self.trace = trace.context().or(self.trace);
    }
}

#[derive(Serialize, Deserialize)]
enum Stage {
    Confirming { csrf: String },
    LoggingIn { attempt: LoginAttempt },
    LoggedIn { identity: Identity },
    Finished { account: String },
}

/// Names a dialog's cookie: the beginning of a digest, so that it reveals nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Handle(String);

impl Handle {
    const LENGTH: usize = 16;

    /// The handle of a dialog that is recognised by `secret`.
    pub(crate) fn of(secret: &str) -> Self {
        let mut text = Digest::of(secret.as_bytes()).to_base64url();
        text.truncate(Self::LENGTH);
        Self(text)
    }

    /// The handle as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == Self::LENGTH && text.bytes().all(alphabet)).then(|| Self(text.to_owned()))
    }

    fn query(query: Option<&str>) -> Option<Self> {
        Self::parse(&single(query, "dialog")?)
    }
}

/// The value of a parameter that stands exactly once.
pub(crate) fn single(query: Option<&str>, name: &str) -> Option<String> {
    let mut values = url::form_urlencoded::parse(query?.as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned());
    match (values.next(), values.next()) {
        (value, None) => value,
        _ => None,
    }
}

impl App {
    fn dialog(&self, trace: &Trace, headers: &HeaderMap, handle: &Handle) -> Option<Dialog> {
        let sealed = cookies::get(headers, &cookies::dialog_name(self, &handle.0))?;
        let mut dialog: Dialog =
            self.cookie_keys.open_text(Purpose::Dialog, handle.0.as_bytes(), &sealed).ok()?;
        dialog.add_in.go_on(trace);
        Some(dialog)
    }

    fn keep_dialog(&self, response: &mut Response, handle: &Handle, dialog: &Dialog) -> Option<()> {
        let sealed = self
            .cookie_keys
            .seal_text(Purpose::Dialog, handle.0.as_bytes(), dialog, DIALOG_TTL)
            .ok()?;
        // Browsers drop larger cookies silently, and the person would be lost.
        (sealed.len() <= 3800).then_some(())?;
        let name = cookies::dialog_name(self, &handle.0);
        let cookie = cookies::set(self, name, sealed, DIALOG_TTL, cookies::Reach::Dialog);
        response.headers_mut().append(header::SET_COOKIE, cookie);
        Some(())
    }

    fn forget_dialog(&self, response: &mut Response, handle: &Handle) {
        let name = cookies::dialog_name(self, &handle.0);
        let cookie = cookies::delete(self, name, cookies::Reach::Dialog);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }

    /// Makes room when a browser has too many dialogs open, oldest unknown: all go.
    fn make_room(&self, response: &mut Response, headers: &HeaderMap) {
        let prefix = cookies::dialog_name(self, "");
        let names = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter_map(|(name, _)| name.strip_prefix(&prefix).and_then(Handle::parse))
            .collect::<Vec<_>>();
        if names.len() >= MAX_DIALOGS {
            for handle in &names {
                self.forget_dialog(response, handle);
            }
        }
    }

    pub(crate) fn error_page(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        status: StatusCode,
        kind: ErrorPage,
    ) -> Response {
        let reference = reference(trace, kind);
        let language = self.pages.language(headers);
        self.pages.error(status, language, kind, None, &reference, Window::Later)
    }

    /// An error after the provider's redirect: leaves the URL with the code behind.
    pub(crate) fn to_error_page(&self, trace: &Trace, kind: ErrorPage) -> Response {
        let reference = reference(trace, kind);
        found(&self.path(&format!(
            "{}?error={}&reference={reference}",
            paths::ERROR,
            kind.as_str()
        )))
    }

    /// Sends the browser to the provider.
    async fn begin_login(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        add_in: AddIn,
        after_form: bool,
    ) -> Response {
        let (url, attempt) = match self.login.in_trace(trace).begin(&Default::default()).await {
            Ok(begun) => begun,
            Err(error) => {
                let kind = self.fail_login(trace, add_in.session, &error).await;
                return self.error_page(trace, headers, StatusCode::BAD_GATEWAY, kind);
            }
        };
        let handle = Handle::of(attempt.state());
        let dialog = Dialog { add_in, stage: Stage::LoggingIn { attempt } };
        let mut response = if after_form {
            self.pages.onward(self.pages.language(headers), url.as_str(), Window::Later)
        } else {
            found(url.as_str())
        };
        self.make_room(&mut response, headers);
        if self.keep_dialog(&mut response, &handle, &dialog).is_none() {
            return self.error_page(
                trace,
                headers,
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorPage::Unavailable,
            );
        }
        response
    }

    /// Tells the waiting reader that the login failed, and picks the person's page.
    async fn fail_login(
        &self,
        trace: &Trace,
        session: SessionKey,
        error: &LoginError,
    ) -> ErrorPage {
        let kind = page_of(error.kind);
        error.log(Some(session), None);
        self.sign_in(trace)
            .fail(SessionRef::native(session), error.failure(), kind.outcome())
            .await;
        kind
    }

    /// Marks a callback's state as used; false when it was before. The cookie alone cannot make it
    /// single-use: a kept copy of it could be sent again.
    pub(crate) async fn use_state_once(
        &self,
        trace: &Trace,
        state: &str,
    ) -> Result<bool, StoreError> {
        let used = Digest::of(format!("state:{state}").as_bytes());
        self.relay.in_trace(trace).store().mark(used, DIALOG_TTL).await
    }
}

/// The page for a login that failed at the provider.
pub(crate) fn page_of(kind: FailureKind) -> ErrorPage {
    match kind {
        FailureKind::Denied => ErrorPage::Denied,
        FailureKind::NotAllowed => ErrorPage::Refused,
        FailureKind::TooLate => ErrorPage::Expired,
        FailureKind::Unavailable => ErrorPage::LoginUnavailable,
        FailureKind::InteractionRequired | FailureKind::Failed => ErrorPage::LoginFailed,
    }
}

impl ErrorPage {
    /// What the operator counts when a login ends at the provider with this page.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Denied | Self::Refused => Outcome::Denied,
            _ => Outcome::ProviderFailed,
        }
    }
}

/// A reference that the person reads out and the operator finds in the log, and in the trace.
fn reference(trace: &Trace, kind: ErrorPage) -> String {
    let reference = UserCode::generate().as_str().to_owned();
    trace.note("token_relay.reference", reference.as_str());
    tracing::info!(reference, ?kind, "dialog ended with an error page");
    reference
}

/// 302 that no cache keeps.
pub(crate) fn found(url: &str) -> Response {
    let mut response = Redirect::to(url).into_response();
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The dialog opens
#[utoipa::path(
    get,
    path = paths::TRANSIT,
    tag = tags::DIALOG,
    params(
        ("session_id" = Option<String>, Query, description = "The session, if it is legacy."),
        (
            "transit_token" = Option<String>, Query,
            description = "The transit token of a bound session; single use.",
        ),
    ),
    responses(
        (
            status = 200, description = "Asks to compare the user code.",
            body = String, content_type = HTML,
        ),
        (status = 302, description = "To the OpenID provider."),
        ErrorPages<{ statuses(&[400, 404, 409, 410, 500, 502, 503]) }>,
    ),
)]
pub async fn transit(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.as_deref();
    let by_id = single(query, "session_id");
    let by_token = single(query, "transit_token");
    let (session, entered) = match (by_id, by_token) {
        (Some(id), None) if app.settings.session.legacy() => match SessionId::parse(&id) {
            Ok(id) => {
                let session = SessionRef::native(id.key());
                let relay = app.relay.in_trace(&trace);
                // A legacy session may be entered any number of times.
                let entered = match relay.peek(session, Entry::SessionId, None).await {
                    Ok(Peeked::Open(info)) => Ok(Entered::Admitted(info)),
                    Ok(Peeked::NotPending(state)) => Ok(Entered::NotPending(state)),
                    Ok(_) => Ok(Entered::Unknown),
                    Err(error) => Err(error),
                };
                (id.key(), entered)
            }
            Err(_) => {
                return app.error_page(
                    &trace,
                    &headers,
                    StatusCode::BAD_REQUEST,
                    ErrorPage::BadRequest,
                );
            }
        },
        (None, Some(token)) => match TransitToken::parse(&token) {
            Ok(token) => {
                let (session, entry) =
                    (SessionRef::native(token.session()), Entry::TransitToken(token.digest()));
                let relay = app.relay.in_trace(&trace);
                (token.session(), relay.enter(session, entry, DialogId::generate()).await)
            }
            Err(_) => {
                return app.error_page(
                    &trace,
                    &headers,
                    StatusCode::BAD_REQUEST,
                    ErrorPage::BadRequest,
                );
            }
        },
        _ => {
            return app.error_page(
                &trace,
                &headers,
                StatusCode::BAD_REQUEST,
                ErrorPage::BadRequest,
            );
        }
    };
    let (status, kind) = match entered {
        Ok(Entered::Admitted(info)) => return admit(&app, &trace, &headers, session, info).await,
        Ok(Entered::Unknown) => (StatusCode::NOT_FOUND, ErrorPage::BadRequest),
        Ok(Entered::TransitExpired) => (StatusCode::GONE, ErrorPage::Expired),
        Ok(Entered::Replayed) => {
            tracing::warn!(target: "audit", session = %session, "transit token replayed");
            (StatusCode::GONE, ErrorPage::Replayed)
        }
        Ok(Entered::NotPending(SessionState::Gone(_) | SessionState::Failed(_))) => {
            (StatusCode::GONE, ErrorPage::Expired)
        }
        Ok(Entered::NotPending(_)) => (StatusCode::CONFLICT, ErrorPage::Replayed),
        Err(error) => {
            let problem = Problem::from(error);
            (problem.status(), ErrorPage::Unavailable)
        }
    };
    app.error_page(&trace, &headers, status, kind)
}

async fn admit(
    app: &App,
    trace: &Trace,
    headers: &HeaderMap,
    session: SessionKey,
    info: SessionInfo,
) -> Response {
    let session_token = info.session_token.filter(|_| matches!(info.profile, Profile::Bound));
    let mut add_in =
        AddIn { session, session_token, name: info.details.client_name, trace: info.trace };
    add_in.go_on(trace);
    let Some(user_code) = info.details.user_code else {
        return app.begin_login(trace, headers, add_in, false).await;
    };
    let csrf = SessionId::generate().expose().to_owned();
    let handle = Handle::of(&csrf);
    let request = RequestView {
        client: add_in.name.as_deref(),
        origin: info.details.origin.as_deref(),
        ..RequestView::default()
    };
    let language = app.pages.language(headers);
    let fields = Fields { dialog: &handle.0, csrf: &csrf };
    let mut response =
        app.pages.confirm(language, fields, request, user_code.as_str(), Window::Later);
    let dialog = Dialog { add_in, stage: Stage::Confirming { csrf } };
    app.make_room(&mut response, headers);
    match app.keep_dialog(&mut response, &handle, &dialog) {
        Some(()) => response,
        None => app.error_page(
            trace,
            headers,
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorPage::Unavailable,
        ),
    }
}

/// The person decides on the user code
#[utoipa::path(
    post,
    path = paths::CONFIRM,
    tag = tags::DIALOG,
    request_body(content = Decision, content_type = FORM),
    responses(
        (
            status = 200, description = "The sign-in was refused.",
            body = String, content_type = HTML,
        ),
        (status = 302, description = "To the OpenID provider."),
        Problems<{ types(&[BadRequest, BodyTooLarge]) }>,
        ErrorPages<{ statuses(&[500, 502, 503]) }>,
        (
            status = 400, description = "The form cannot be understood.",
            content((String = HTML), (ProblemDetails = PROBLEM_JSON)),
        ),
    ),
)]
pub async fn confirm(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let refuse =
        || app.error_page(&trace, &headers, StatusCode::BAD_REQUEST, ErrorPage::BadRequest);
    let form = std::str::from_utf8(&body).ok();
    let (Some(handle), Some(csrf), Some(decision)) =
        (Handle::query(form), single(form, "csrf"), single(form, "decision"))
    else {
        return refuse();
    };
    let Some(dialog) = app.dialog(&trace, &headers, &handle) else { return refuse() };
    let Stage::Confirming { csrf: expected } = &dialog.stage else { return refuse() };
    let same = Digest::of(expected.as_bytes()).matches(&Digest::of(csrf.as_bytes()));
    // The page forbids referrers, so browsers send `null` for its own origin; the token is what
    // protects this form, and a foreign origin merely an early no.
    let ours = app.public_url.origin().ascii_serialization();
    let origin_ok = headers
        .get(header::ORIGIN)
        .is_none_or(|origin| origin == "null" || origin.as_bytes() == ours.as_bytes());
    if !same || !origin_ok {
        return refuse();
    }
    let mut response = if decision == "continue" {
        app.begin_login(&trace, &headers, dialog.add_in, true).await
    } else {
        let failure = Failure::new("access_denied", "The person did not recognise this sign-in.");
        app.sign_in(&trace)
            .fail(SessionRef::native(dialog.add_in.session), failure, Outcome::Denied)
            .await;
        app.error_page(&trace, &headers, StatusCode::OK, ErrorPage::NotMe)
    };
    app.forget_dialog(&mut response, &handle);
    response
}

/// The provider sends the browser back (RFC 6749 §4.1.2)
#[utoipa::path(
    get,
    path = paths::CALLBACK,
    tag = tags::DIALOG,
    params(
        ("state" = Option<String>, Query, description = "As sent to the provider."),
        ("code" = Option<String>, Query, description = "The authorization code."),
        ("iss" = Option<String>, Query, description = "The provider's issuer (RFC 9207)."),
        ("error" = Option<String>, Query, description = "Why the provider sends no code."),
        ("error_description" = Option<String>, Query, description = "The same for people."),
    ),
    responses(
        (status = 302, description = "To the next step."),
        ErrorPages<{ statuses(&[400, 500, 503]) }>,
    ),
)]
pub async fn callback(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let response = AuthorizationResponse::parse(query.as_deref().unwrap_or_default());
    let Some(state) = response.state().map(str::to_owned) else {
        return app.error_page(&trace, &headers, StatusCode::BAD_REQUEST, ErrorPage::BadRequest);
    };
    let handle = Handle::of(&state);
    let (add_in, attempt) = match app.dialog(&trace, &headers, &handle) {
        Some(Dialog { add_in, stage: Stage::LoggingIn { attempt } }) => (add_in, attempt),
        // Reloaded, or the back button was used: the next step still knows what to do.
        Some(_) => return found(&app.path(&format!("{}?dialog={}", paths::REDIRECT, handle.0))),
        None => {
            return app.error_page(
                &trace,
                &headers,
                StatusCode::BAD_REQUEST,
                ErrorPage::WrongBrowser,
            );
        }
    };
    match app.use_state_once(&trace, &state).await {
        Ok(true) => {}
        Ok(false) => {
            return app.error_page(
                &trace,
                &headers,
                StatusCode::BAD_REQUEST,
                ErrorPage::WrongBrowser,
            );
        }
        Err(error) => {
            let status = Problem::from(error).status();
            return app.error_page(&trace, &headers, status, ErrorPage::Unavailable);
        }
    }
    let session = add_in.session;
    let identity = match app.login.in_trace(&trace).finish(attempt, response).await {
        Ok(identity) => identity,
        Err(error) => {
            let kind = app.fail_login(&trace, session, &error).await;
            let mut response = app.to_error_page(&trace, kind);
            app.forget_dialog(&mut response, &handle);
            return response;
        }
    };
    let dialog = Dialog { add_in, stage: Stage::LoggedIn { identity } };
    let mut response = found(&app.path(&format!("{}?dialog={}", paths::REDIRECT, handle.0)));
    if app.keep_dialog(&mut response, &handle, &dialog).is_none() {
        let failure = Failure::new("server_error", "The provider's claims are too large.");
        app.sign_in(&trace)
            .fail(SessionRef::native(session), failure, Outcome::ProviderFailed)
            .await;
        response = app.to_error_page(&trace, ErrorPage::LoginFailed);
        app.forget_dialog(&mut response, &handle);
    }
    response
}

/// Issues the access token and delivers it
#[utoipa::path(
    get,
    path = paths::REDIRECT,
    tag = tags::DIALOG,
    params(("dialog" = Option<String>, Query, description = "Handle of the dialog.")),
    responses(
        (status = 302, description = "To the success or the error page."),
        ErrorPages<{ statuses(&[400, 500, 503]) }>,
    ),
)]
pub async fn redirect(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let refuse =
        || app.error_page(&trace, &headers, StatusCode::BAD_REQUEST, ErrorPage::WrongBrowser);
    let Some(handle) = Handle::query(query.as_deref()) else { return refuse() };
    let success = app.path(&format!("{}?dialog={}", paths::SUCCESS, handle.0));
    let (add_in, identity) = match app.dialog(&trace, &headers, &handle) {
        Some(Dialog { add_in, stage: Stage::LoggedIn { identity } }) => (add_in, identity),
        Some(Dialog { stage: Stage::Finished { .. }, .. }) => return found(&success),
        _ => return refuse(),
    };
    let account = identity.display_name().to_owned();
    let session = add_in.session;
    let completed = app
        .sign_in(&trace)
        .complete(SessionRef::native(session), add_in.session_token, &identity)
        .await;
    match completed {
        Ok(()) => {
            let mut response = found(&success);
            let dialog = Dialog { add_in, stage: Stage::Finished { account } };
            // Without it the success page merely names no account.
            let _ = app.keep_dialog(&mut response, &handle, &dialog);
            response
        }
        Err(NotCompleted::TooLate) => {
            let mut response = app.to_error_page(&trace, ErrorPage::Expired);
            app.forget_dialog(&mut response, &handle);
            response
        }
        Err(NotCompleted::Issuer(_)) => app.to_error_page(&trace, ErrorPage::Unavailable),
        // The cookie stays: the person can reload this very page when the store is back.
        Err(NotCompleted::Store(error)) => {
            let status = Problem::from(error).status();
            app.error_page(&trace, &headers, status, ErrorPage::Unavailable)
        }
    }
}

/// The person is signed in
#[utoipa::path(
    get,
    path = paths::SUCCESS,
    tag = tags::DIALOG,
    params(("dialog" = Option<String>, Query, description = "Handle of the dialog.")),
    responses(
        (status = 200, description = "The page.", body = String, content_type = HTML),
        ErrorPages<{ statuses(&[500]) }>,
    ),
)]
pub async fn success(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let dialog =
        Handle::query(query.as_deref()).and_then(|handle| app.dialog(&trace, &headers, &handle));
    let (account, client_name) = match dialog {
        Some(Dialog { stage: Stage::Finished { account }, add_in }) => (Some(account), add_in.name),
        _ => (None, None),
    };
    let language = app.pages.language(&headers);
    let (account, client) = (account.as_deref(), client_name.as_deref());
    app.pages.success(language, account, client, true, None, Window::Later)
}

/// The person is not signed in
#[utoipa::path(
    get,
    path = paths::ERROR,
    tag = tags::DIALOG,
    params(
        ("error" = Option<String>, Query, description = "Which error."),
        ("reference" = Option<String>, Query, description = "What the log has as `reference`."),
    ),
    responses(
        (status = 200, description = "The page.", body = String, content_type = HTML),
        ErrorPages<{ statuses(&[500]) }>,
    ),
)]
pub async fn error(
    State(app): State<AppState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.as_deref();
    let kind = single(query, "error").and_then(|text| text.parse::<ErrorPage>().ok());
    // Only what looks like a reference of ours is shown; the page repeats nothing else.
    let reference = single(query, "reference").filter(|text| UserCode::is_well_formed(text));
    app.pages.error(
        StatusCode::OK,
        app.pages.language(&headers),
        kind.unwrap_or(ErrorPage::LoginFailed),
        None,
        reference.as_deref().unwrap_or_default(),
        Window::Later,
    )
}

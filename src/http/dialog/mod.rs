//! The browser dialog: enter, prove, go to the provider, come back, finish.
//!
//! A browser carries its dialog in one sealed cookie, so that any instance takes the next step. Until
//! the step that continues to the provider nothing is consumed.

mod callback;
mod cookie;
mod enter;
mod finish;
mod policy;
mod proof;

use std::time::Duration;

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use crate::http::dialog::callback::Exchanges;
use crate::http::dialog::cookie::Dialog;
pub(crate) use crate::http::dialog::cookie::Handle;
pub(crate) use crate::http::dialog::policy::Policy;
pub(crate) use crate::http::dialog::policy::network_of;

use crate::{
    api::paths,
    http::{
        App, AppState,
        methods::{Also, MethodsExt as _},
        pages::{ErrorPage, Window},
    },
    oidc::{FailureKind, LoginError},
    session::{Digest, Failure, SessionRef, UserCode},
    signin::Outcome,
    store::StoreError,
    telemetry::Trace,
};

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    let transit = routes!(enter::transit).answering(&[]);
    OpenApiRouter::default()
        .route("/addons/transit", transit.2.clone())
        .routes(transit)
        .routes(routes!(proof::opener).answering(&[]))
        .routes(routes!(proof::code).answering(&[]))
        .routes(routes!(proof::confirm).answering(&[]))
        .routes(routes!(callback::callback, callback::callback_form).answering(&[]))
        .routes(routes!(callback::redirect).answering(&[]))
        .routes(routes!(callback::account).answering(&[]))
        .routes(routes!(finish::success, finish::undo).answering(&[Also::Head]))
        .routes(routes!(finish::error).answering(&[Also::Head]))
}

/// How long a browser login of the meet-compatible surface may take.
pub(crate) const DIALOG_TTL: Duration = Duration::from_secs(600);

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

/// Where the person's request stands: what every page needs.
pub(crate) struct Visit<'a> {
    app: &'a App,
    trace: &'a Trace,
    headers: &'a HeaderMap,
    /// The window that an error page is shown in.
    window: Window,
}

impl<'a> Visit<'a> {
    /// A request with `fields`, its query or its form.
    fn new(app: &'a App, trace: &'a Trace, headers: &'a HeaderMap, fields: Option<&str>) -> Self {
        let window = if app.is_in_office(headers, fields) { Window::Office } else { Window::Later };
        Self { app, trace, headers, window }
    }

    /// The same in the window of `dialog`.
    fn within(self, dialog: &Dialog) -> Self {
        Self { window: dialog.window(), ..self }
    }

    /// An error page with the status that fits.
    fn error(&self, page: ErrorPage) -> Response {
        self.error_of(page, page.status(), None, None)
    }

    /// An error page about a session; the log has the cause under the reference that is shown.
    fn error_about(&self, page: ErrorPage, session: SessionRef, cause: &str) -> Response {
        self.error_of(page, page.status(), Some(session), Some(cause))
    }

    fn error_of(
        &self,
        page: ErrorPage,
        status: StatusCode,
        session: Option<SessionRef>,
        cause: Option<&str>,
    ) -> Response {
        let reference = reference(self.trace, page, session, cause);
        let language = self.app.pages.language(self.headers);
        self.app.pages.error(status, language, page, None, &reference, self.window)
    }

    /// An error page for a store that is unavailable.
    fn store_error(&self, session: SessionRef, error: StoreError) -> Response {
        let cause = error.to_string();
        let status = crate::http::error::Problem::from(error).status();
        self.error_of(ErrorPage::Unavailable, status, Some(session), Some(&cause))
    }

    /// Fails the session, and shows the page that says so.
    async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
        outcome: Outcome,
        page: ErrorPage,
    ) -> Response {
        let cause = failure.error_description.clone();
        self.app.sign_in(self.trace).fail(session, failure, outcome).await;
        self.error_about(page, session, &cause)
    }

    /// Fails the session because the provider failed, and picks the person's page.
    async fn fail_login(&self, session: SessionRef, error: &LoginError) -> ErrorPage {
        let page = page_of(error.kind);
        error.log(Some(session.key), None);
        self.app.sign_in(self.trace).fail(session, error.failure(), page.outcome()).await;
        page
    }
}

impl App {
    /// An error page for a browser without a dialog of this folder.
    pub(crate) fn error_page(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        status: StatusCode,
        page: ErrorPage,
    ) -> Response {
        let window = self.unknown_window();
        Visit { app: self, trace, headers, window }.error_of(page, status, None, None)
    }

    /// An error after the provider's redirect: leaves the URL with the code behind.
    pub(crate) fn to_error_page(&self, trace: &Trace, page: ErrorPage, window: Window) -> Response {
        let reference = reference(trace, page, None, None);
        found(&self.error_location(page, &reference, window))
    }

    /// The window of a browser login without a dialog of this folder. It may be a dialog of Office
    /// where that is configured; nothing in its requests says so.
    pub(crate) fn unknown_window(&self) -> Window {
        if self.pages.load_office() { Window::Office } else { Window::Later }
    }

    /// The address of an error page. Where the dialog is one of Office, it says so: its cookie may
    /// not be there any more.
    fn error_location(&self, page: ErrorPage, reference: &str, window: Window) -> String {
        let office = if window == Window::Office { "&office=1" } else { "" };
        let name = page.as_str();
        self.path(&format!("{}?error={name}&reference={reference}{office}", paths::ERROR))
    }

    /// Whether a request with `fields` comes from a dialog of Office: Office says so in the first
    /// address, later the cookie of the dialog does. Only pages without a secret and without a form
    /// may rely on it.
    fn is_in_office(&self, headers: &HeaderMap, fields: Option<&str>) -> bool {
        self.pages.load_office()
            && (["_host_Info", "office"].iter().any(|name| single(fields, name).is_some())
                || Handle::query(fields)
                    .and_then(|handle| self.peek_dialog(headers, &handle))
                    .is_some_and(|dialog| dialog.office))
    }

    /// Marks a callback's state as used; false when it was before. The cookie alone cannot make it
    /// single-use: a copy of it could be sent again.
    pub(crate) async fn use_state_once(
        &self,
        trace: &Trace,
        state: &str,
    ) -> Result<bool, StoreError> {
        let used = Digest::of(format!("state:{state}").as_bytes());
        self.relay.in_trace(trace).store().mark(used, self.settings.session.ttl).await
    }

    /// Whether a form comes from a page of ours: exactly our origin, which browsers always send with
    /// a POST.
    fn is_from_our_page(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::ORIGIN)
            .is_some_and(|origin| origin.as_bytes() == self.origin().as_bytes())
    }

    /// The relay's own origin.
    pub(crate) fn origin(&self) -> String {
        self.public_url.origin().ascii_serialization()
    }
}

/// The page for a login that failed at the provider.
pub(crate) fn page_of(kind: FailureKind) -> ErrorPage {
    match kind {
        FailureKind::Denied => ErrorPage::Denied,
        FailureKind::NotAllowed => ErrorPage::Refused,
        FailureKind::TooLate => ErrorPage::TooSlow,
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

/// A reference that the person reads out and the operator finds in the log, with the cause and the
/// session, and in the trace.
fn reference(
    trace: &Trace,
    page: ErrorPage,
    session: Option<SessionRef>,
    cause: Option<&str>,
) -> String {
    let reference = UserCode::generate().as_str().to_owned();
    trace.note("token_relay.reference", reference.as_str());
    let session = session.map(|session| session.key.to_string());
    tracing::info!(
        reference,
        session,
        cause,
        page = page.as_str(),
        "dialog ended with an error page"
    );
    reference
}

/// 302 that no cache stores.
pub(crate) fn found(url: &str) -> Response {
    let mut response = Redirect::to(url).into_response();
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 303 that no cache stores: after a form.
fn see_other(url: &str) -> Response {
    let mut response = found(url);
    *response.status_mut() = StatusCode::SEE_OTHER;
    response
}

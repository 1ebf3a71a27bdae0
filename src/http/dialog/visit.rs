//! A browser's request for a page of a dialog: its query or form, typed and checked.

use std::convert::Infallible;

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    response::Response,
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    http::{
        App, AppState,
        dialog::{
            cookie::{Dialog, Handle},
            prepared::Ahead,
        },
        error::Problem,
        extract::{Form, Query},
        pages::{ErrorPage, Window},
    },
    oidc::LoginError,
    session::{Failure, SessionRef},
    signin::SignInOutcome,
    store::StoreError,
    telemetry::Trace,
};

/// A request for a page: what every answer to it needs.
pub(super) struct Visit {
    pub(super) app: AppState,
    pub(super) trace: Trace,
    pub(super) headers: HeaderMap,
    /// The window that an error page is shown in.
    pub(super) window: Window,
    /// The dialog that the query names, where it is known without its cookie, or that had to be opened to
    /// know the window.
    pub(super) opened: Option<Box<(Handle, Dialog)>>,
    /// What was made ahead for the sign-in that this request completes.
    pub(super) ahead: Option<Box<Ahead>>,
}

/// The parameters that say which window a page is shown in.
#[derive(Default, Deserialize)]
struct WindowQuery {
    /// Office adds it to the first address.
    #[serde(rename = "_host_Info")]
    host_info: Option<String>,
    /// In addresses of error pages.
    office: Option<String>,
    dialog: Option<String>,
}

impl FromRequestParts<AppState> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        let trace = Trace::from_request_parts(parts, app).await?;
        let headers = parts.headers.clone();
        // Which window it is matters less than any answer.
        let query: WindowQuery =
            serde_urlencoded::from_str(parts.uri.query().unwrap_or_default()).unwrap_or_default();
        let mut visit = Self {
            app: app.clone(),
            trace,
            headers,
            window: Window::Later,
            opened: None,
            ahead: None,
        };
        let handle = query.dialog.as_deref().and_then(Handle::parse);
        if query.host_info.is_some() || query.office.is_some() {
            visit.window = app.office_window();
        } else if let Some(handle) = handle {
            visit.open(handle);
        }
        Ok(visit)
    }
}

/// The query of a page; one that is not understood is answered with an error page.
pub(super) struct PageQuery<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for PageQuery<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Response> {
        match Query::from_request_parts(parts, app).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(problem) => {
                let Ok(visit) = Visit::from_request_parts(parts, app).await;
                Err(visit.refuse_request(&problem))
            }
        }
    }
}

/// The query of a page that names its dialog.
#[derive(Deserialize)]
pub(super) struct DialogQuery {
    /// Handle of the dialog.
    dialog: Option<String>,
}

impl DialogQuery {
    /// The handle, if there is a well-formed one.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.dialog.as_deref().and_then(Handle::parse)
    }
}

/// The form of a page of a dialog.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct DialogForm<T> {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
    #[serde(flatten)]
    fields: T,
}

/// Fields of a page with buttons.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct Decision {
    /// `continue`; anything else refuses.
    pub(super) decision: Option<String>,
}

impl Decision {
    /// Whether the person continues.
    pub(super) fn is_continue(&self) -> bool {
        self.decision.as_deref() == Some("continue")
    }
}

/// A form that a page of ours posted, in the browser that holds the cookie of its dialog.
///
/// Requires exactly our origin, the dialog's cookie and its CSRF token. Anything else is answered
/// with an error page; where the form is ours and the browser has lost the cookie, the session
/// fails.
pub(super) struct Posted<T> {
    pub(super) visit: Visit,
    pub(super) handle: Handle,
    pub(super) dialog: Dialog,
    pub(super) fields: T,
}

impl<T: DeserializeOwned + Send> FromRequest<AppState> for Posted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let Ok(mut visit) = Visit::from_request_parts(&mut parts, app).await;
        let request = Request::from_parts(parts, body);
        let DialogForm { dialog, csrf, fields } = match Form::from_request(request, app).await {
            Ok(Form(form)) => form,
            Err(problem) => return Err(visit.refuse_request(&problem)),
        };
        let Some(handle) = Handle::parse(&dialog) else {
            return Err(visit.error(ErrorPage::BadRequest));
        };
        visit.open(handle.clone());
        if !visit.is_from_our_page() && !app.is_form_of_0_1(&visit.headers, &handle) {
            return Err(visit.error_of(
                ErrorPage::BadRequest,
                StatusCode::FORBIDDEN,
                None,
                Some("the form's Origin is not the relay's"),
            ));
        }
        let Some(dialog) = visit.dialog(&handle) else {
            let Ok(bearing) = app.bearing(&csrf) else {
                return Err(visit.error(ErrorPage::WrongBrowser));
            };
            let failure = Failure::new("access_denied", "The browser did not keep its cookie.");
            visit.window = bearing.window();
            let page = ErrorPage::WrongBrowser;
            return Err(visit.fail(bearing.session(), failure, SignInOutcome::Denied, page).await);
        };
        if !dialog.has_csrf(&csrf) {
            return Err(visit.error_about(
                ErrorPage::BadRequest,
                dialog.session(),
                "the form's CSRF token is wrong",
            ));
        }
        Ok(Self { visit, handle, dialog, fields })
    }
}

impl Visit {
    /// The same in the window of `dialog`.
    pub(super) fn within(self, dialog: &Dialog) -> Self {
        Self { window: dialog.window(), ..self }
    }

    /// The dialog that the browser holds the cookie of.
    pub(super) fn dialog(&self, handle: &Handle) -> Option<Dialog> {
        match self.opened.as_deref() {
            Some((opened, dialog)) if opened == handle => Some(dialog.clone().resumed(&self.trace)),
            _ => self.app.dialog(&self.trace, &self.headers, handle),
        }
    }

    /// Opens the dialog whose sign-in is prepared, or whose cookie says that its pages are shown in Office's
    /// window. Only pages without a secret and without a form may rely on the window.
    fn open(&mut self, handle: Handle) {
        let dialog = match self.app.take_prepared(&self.headers, &handle) {
            Some((dialog, ahead)) => {
                self.ahead = Some(ahead);
                Some(dialog)
            }
            None if self.app.pages.load_office() => self.app.peek_dialog(&self.headers, &handle),
            None => None,
        };
        let Some(dialog) = dialog else { return };
        if dialog.office {
            self.window = self.app.office_window();
        }
        self.opened = Some(Box::new((handle, dialog)));
    }

    /// Whether a form comes from a page of ours: exactly our origin, which browsers always send with
    /// a POST.
    pub(super) fn is_from_our_page(&self) -> bool {
        self.headers
            .get(header::ORIGIN)
            .is_some_and(|origin| origin.as_bytes() == self.app.origin().as_bytes())
    }

    /// An error page for a request that is not understood.
    pub(super) fn refuse_request(&self, problem: &Problem) -> Response {
        let cause = problem.detail().unwrap_or_else(|| problem.to_string());
        self.error_of(ErrorPage::BadRequest, problem.status(), None, Some(&cause))
    }

    /// An error page with the status that fits.
    pub(super) fn error(&self, page: ErrorPage) -> Response {
        self.error_of(page, page.status(), None, None)
    }

    /// An error page about a session; the log has the cause under the reference that is shown.
    pub(super) fn error_about(
        &self,
        page: ErrorPage,
        session: SessionRef,
        cause: &str,
    ) -> Response {
        self.error_of(page, page.status(), Some(session), Some(cause))
    }

    /// An error page with `status`; the log has `session` and `cause` under the reference that is
    /// shown.
    pub(super) fn error_of(
        &self,
        page: ErrorPage,
        status: StatusCode,
        session: Option<SessionRef>,
        cause: Option<&str>,
    ) -> Response {
        let reference = self.app.reference(&self.trace, page, session, cause);
        let language = self.app.pages.language(&self.headers);
        self.app.pages.error(status, language, page, None, &reference, self.window)
    }

    /// An error page for an address that presented too many wrong secrets.
    pub(super) fn too_many_guesses(&self, session: SessionRef, problem: &Problem) -> Response {
        let cause = "too many wrong secrets from this address";
        let mut response = self.error_about(ErrorPage::TooManyRequests, session, cause);
        if let Some(seconds) = problem.retry_after_seconds() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// An error page for a store that is unavailable.
    pub(super) fn store_error(&self, session: SessionRef, error: StoreError) -> Response {
        let cause = error.to_string();
        let status = Problem::from(error).status();
        self.error_of(ErrorPage::Unavailable, status, Some(session), Some(&cause))
    }

    /// Fails the session, and shows the page that says so.
    pub(super) async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
        outcome: SignInOutcome,
        page: ErrorPage,
    ) -> Response {
        let cause = failure.error_description.clone();
        self.app.sign_in(&self.trace).fail(session, failure, outcome).await;
        self.error_about(page, session, &cause)
    }

    /// Fails the session because the provider failed; gives the person's page and the reference
    /// under which the log has the cause.
    pub(super) async fn fail_login(
        &self,
        session: SessionRef,
        error: &LoginError,
    ) -> (ErrorPage, String) {
        let (page, reference) = self.app.login_reference(&self.trace, Some(session.key), error);
        self.app.sign_in(&self.trace).fail(session, error.failure(), page.outcome()).await;
        (page, reference)
    }

    /// An error after the provider's redirect: leaves the URL with the code behind.
    pub(super) fn to_error_page(
        &self,
        page: ErrorPage,
        session: SessionRef,
        cause: &str,
    ) -> Response {
        let reference = self.app.reference(&self.trace, page, Some(session), Some(cause));
        self.app.to_error_page_with(page, &reference, self.window)
    }
}

impl App {
    /// The window of a page of a dialog that Office may have opened.
    pub(crate) fn office_window(&self) -> Window {
        if self.pages.load_office() { Window::Office } else { Window::Later }
    }
}

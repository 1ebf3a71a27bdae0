//! The browser dialog: entry, proof, the provider and back, last page.
//!
//! A browser carries its dialog in one sealed cookie, so that any instance takes the next step. Until
//! the step that continues to the provider nothing is consumed.

mod callback;
mod cookie;
mod device;
mod earlier;
mod enter;
mod finish;
mod policy;
mod prepared;
mod proof;
mod visit;

use std::time::Duration;

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use crate::http::dialog::callback::{CallbackQuery, see_sealed_form};
pub(crate) use crate::http::dialog::cookie::{Handle, MAX_DIALOGS};
pub(crate) use crate::http::dialog::policy::Policy;
pub use crate::http::dialog::prepared::PreparedSignIns;

use crate::{
    api::paths,
    http::{
        App, AppState,
        pages::{ErrorPage, Window},
    },
    oidc::{FailureKind, LoginAttempt, LoginError},
    session::{Digest, SessionKey, SessionRef, UserCode},
    signin::SignInOutcome,
    store::StoreError,
    telemetry::Trace,
    token::Purpose,
};

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    enter::endpoints()
        .merge(proof::endpoints())
        .merge(device::endpoints())
        .merge(callback::endpoints())
        .merge(finish::endpoints())
}

/// How long a browser login of the meet-compatible surface may take.
pub(crate) const DIALOG_TTL: Duration = Duration::from_secs(600);

/// How long the address of an error page shows its reference.
const REFERENCE_TTL: Duration = Duration::from_secs(24 * 3600);

impl App {
    /// An error page for a browser without a dialog of this folder.
    pub(crate) fn error_page(
        &self,
        trace: &Trace,
        headers: &HeaderMap,
        status: StatusCode,
        page: ErrorPage,
    ) -> Response {
        // It may be a dialog of Office; nothing in its requests says so.
        let (window, language) = (self.office_window(), self.pages.language(headers));
        let reference = self.reference(trace, page, None, None);
        self.pages.error(status, language, page, None, &reference, window)
    }

    /// The same whose cause the log has under `reference` already.
    pub(crate) fn error_page_with(
        &self,
        headers: &HeaderMap,
        status: StatusCode,
        page: ErrorPage,
        reference: &str,
    ) -> Response {
        let language = self.pages.language(headers);
        self.pages.error(status, language, page, None, reference, self.office_window())
    }

    /// To the error page whose cause the log has under `reference`.
    pub(crate) fn to_error_page_with(
        &self,
        page: ErrorPage,
        reference: &str,
        window: Window,
    ) -> Response {
        found(&self.error_location(page, reference, window))
    }

    /// The address of an error page. Where the dialog is one of Office, it says so: its cookie may
    /// not be there any more. The reference is sealed, so that no other site makes the relay show
    /// one of its own.
    fn error_location(&self, page: ErrorPage, reference: &str, window: Window) -> String {
        let office = if window == Window::Office { "&office=1" } else { "" };
        let name = page.as_str();
        let context = name.as_bytes();
        let purpose = Purpose::ErrorReference;
        // A text always serialises.
        let sealed = self.cookie_keys.seal_text(purpose, context, &reference, REFERENCE_TTL);
        let sealed = sealed.unwrap_or_default();
        self.path(&format!("{}?error={name}&reference={sealed}{office}", paths::ERROR))
    }

    /// The reference that [`Self::error_location`] sealed for `page`.
    fn error_reference(&self, page: ErrorPage, sealed: &str) -> Option<String> {
        let context = page.as_str().as_bytes();
        self.cookie_keys.open_text(Purpose::ErrorReference, context, sealed).ok()
    }

    /// Marks a callback's state as used; false when it was before. The cookie alone cannot make it
    /// single-use: a copy of it could be sent again.
    pub(crate) async fn use_state_once(
        &self,
        trace: &Trace,
        attempt: &LoginAttempt,
    ) -> Result<bool, StoreError> {
        let used = Digest::of(format!("state:{}", attempt.state()).as_bytes());
        self.relay.in_trace(trace).store().mark(used, attempt.ttl()).await
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
    pub(crate) fn outcome(self) -> SignInOutcome {
        match self {
            Self::Denied | Self::Refused => SignInOutcome::Denied,
            _ => SignInOutcome::ProviderFailed,
        }
    }
}

/// A reference that the person reads out and the operator finds in the trace and in the log.
pub(crate) fn new_reference(trace: &Trace) -> String {
    let reference = UserCode::generate().as_str().to_owned();
    trace.note("token_relay.reference", reference.as_str());
    reference
}

impl App {
    /// A reference under which the log and the operator's page have the cause and the session.
    fn reference(
        &self,
        trace: &Trace,
        page: ErrorPage,
        session: Option<SessionRef>,
        cause: Option<&str>,
    ) -> String {
        let reference = new_reference(trace);
        let session = session.map(|session| session.key.to_string());
        let cause = cause.unwrap_or_else(|| page.usual_cause());
        tracing::info!(
            reference,
            session,
            cause,
            page = page.as_str(),
            "dialog ended with an error page"
        );
        if !page.status().is_success() {
            self.recent.failed(&reference, page.as_str(), session, cause);
        }
        reference
    }

    /// Likewise for a login that failed at the provider.
    pub(crate) fn login_reference(
        &self,
        trace: &Trace,
        session: Option<SessionKey>,
        error: &LoginError,
    ) -> (ErrorPage, String) {
        let (page, reference) = (page_of(error.kind), new_reference(trace));
        error.log(session, Some(&reference));
        let session = session.map(|session| session.to_string());
        self.recent.failed(&reference, page.as_str(), session, &error.cause());
        (page, reference)
    }
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

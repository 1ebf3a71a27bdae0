//! The browser dialog: entry, proof, the provider and back, last page.
//!
//! A browser carries its dialog in one sealed cookie, so that any instance takes the next step. Until
//! the step that continues to the provider nothing is consumed.

mod callback;
mod cookie;
mod enter;
mod finish;
mod policy;
mod proof;
mod visit;

use std::time::Duration;

use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;

pub use crate::http::dialog::callback::Exchanges;
pub(crate) use crate::http::dialog::cookie::Handle;
pub(crate) use crate::http::dialog::policy::Policy;

use crate::{
    api::paths,
    http::{
        App, AppState,
        pages::{ErrorPage, Window},
    },
    oidc::FailureKind,
    session::{Digest, SessionRef, UserCode},
    signin::SignInOutcome,
    store::StoreError,
    telemetry::Trace,
};

/// The endpoints of this folder.
pub fn endpoints() -> OpenApiRouter<AppState> {
    enter::endpoints()
        .merge(proof::endpoints())
        .merge(callback::endpoints())
        .merge(finish::endpoints())
}

/// How long a browser login of the meet-compatible surface may take.
pub(crate) const DIALOG_TTL: Duration = Duration::from_secs(600);

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
        let reference = reference(trace, page, None, None);
        self.pages.error(status, language, page, None, &reference, window)
    }

    /// An error after the provider's redirect: leaves the URL with the code behind.
    pub(crate) fn to_error_page(&self, trace: &Trace, page: ErrorPage, window: Window) -> Response {
        let reference = reference(trace, page, None, None);
        found(&self.error_location(page, &reference, window))
    }

    /// The address of an error page. Where the dialog is one of Office, it says so: its cookie may
    /// not be there any more.
    fn error_location(&self, page: ErrorPage, reference: &str, window: Window) -> String {
        let office = if window == Window::Office { "&office=1" } else { "" };
        let name = page.as_str();
        self.path(&format!("{}?error={name}&reference={reference}{office}", paths::ERROR))
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

//! `/addons/device`: the person types the user code of a device (RFC 8628 §3.3). From then on it is a
//! dialog like any other whose proof was a code.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        App, AppState, cookies,
        dialog::{
            cookie::{Dialog, Handle, Proven, Stage},
            enter::Leave,
            policy::Policy,
            visit::Visit,
        },
        error::{Problem, Problems, types},
        extract::Form,
        guesses::{Attempt, Guessed},
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        openapi_tags,
        pages::{DeviceHint, ErrorPage},
        responses::{ErrorPages, FORM, HTML, statuses},
    },
    session::{ClientId, Digest, SessionDetails, SessionRef, SessionToken, UserCode},
    settings::Grant,
    store::{CodeTarget, Entry, Peeked, StoreError},
    token::Purpose,
};

/// The endpoint of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(page, submit).answering(&[Also::Head]))
}

/// How long a page may stay open before its form is sent.
const PAGE_TTL: Duration = Duration::from_secs(24 * 3600);

/// Fields of the page.
#[derive(Deserialize, utoipa::ToSchema)]
struct DeviceForm {
    /// As in the page.
    csrf: String,
    /// The code that the device shows.
    #[serde(default)]
    user_code: String,
}

/// Asks for the user code of a device (RFC 8628 §3.3)
#[utoipa::path(
    get,
    path = paths::DEVICE,
    tag = openapi_tags::DIALOG,
    responses(
        (status = 200, description = "Asks for the code.", body = String, content_type = HTML),
        Problems<{ types(&[]) }>,
    ),
)]
async fn page(State(app): State<AppState>, headers: HeaderMap) -> Response {
    app.device_page(&headers, None)
}

/// The person types the user code of a device
#[utoipa::path(
    post,
    path = paths::DEVICE,
    tag = openapi_tags::DIALOG,
    request_body(
        content = DeviceForm, content_type = FORM,
        example = json!({ "csrf": "<csrf>", "user_code": "<user_code>" }),
    ),
    responses(
        (
            status = 200, description = "Leads to the OpenID provider, or asks again.",
            body = String, content_type = HTML,
        ),
        ErrorPages<{ statuses(&[400, 403, 409, 410, 413, 415, 429, 500, 502, 503]) }>,
    ),
)]
async fn submit(
    State(app): State<AppState>,
    address: ClientAddress,
    visit: Visit,
    form: Result<Form<DeviceForm>, Problem>,
) -> Response {
    let Form(DeviceForm { csrf, user_code }) = match form {
        Ok(form) => form,
        Err(problem) => return visit.refuse_request(&problem),
    };
    if !visit.is_from_our_page() {
        let cause = Some("the form's Origin is not the relay's");
        return visit.error_of(ErrorPage::BadRequest, StatusCode::FORBIDDEN, None, cause);
    }
    let cookie = cookies::get(&visit.headers, &cookies::device_name(&app)).unwrap_or_default();
    let opened: Result<(), _> =
        app.cookie_keys.open_text(Purpose::DevicePage, cookie.as_bytes(), &csrf);
    if cookie.is_empty() || opened.is_err() {
        return visit.error(ErrorPage::WrongBrowser);
    }
    let Some(code) = UserCode::from_typed(&user_code) else {
        // It has not the form of a code: nothing was guessed.
        return app.device_page(&visit.headers, Some(DeviceHint::Malformed));
    };
    match visit.device_code(address, &code).await {
        Ok(page) => page,
        Err(Refused::Store(error)) => {
            let status = Problem::from(error).status();
            visit.error_of(ErrorPage::Unavailable, status, None, Some("the store is unavailable"))
        }
        Err(Refused::Guess(problem @ Problem::TooManyGuesses(_))) => too_many(&visit, problem),
        Err(Refused::Guess(problem)) => {
            let cause = Some("the attempt could not be counted");
            visit.error_of(ErrorPage::Unavailable, problem.status(), None, cause)
        }
    }
}

/// Why a code is not looked at, or not any more.
enum Refused {
    Store(StoreError),
    Guess(Problem),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The page for a client that guesses, and when it may try again.
fn too_many(visit: &Visit, problem: Problem) -> Response {
    let mut page = visit.error(ErrorPage::TooManyRequests);
    if let Some(after) = problem.into_response().headers_mut().remove(header::RETRY_AFTER) {
        page.headers_mut().insert(header::RETRY_AFTER, after);
    }
    page
}

impl App {
    /// The page that asks for a code.
    fn device_page(&self, headers: &HeaderMap, hint: Option<DeviceHint>) -> Response {
        let name = cookies::device_name(self);
        let sent = cookies::get(headers, &name).filter(|id| Digest::from_base64url(id).is_ok());
        let cookie = sent.unwrap_or_else(|| SessionToken::generate().expose().to_owned());
        let csrf = self
            .cookie_keys
            .seal_text(Purpose::DevicePage, cookie.as_bytes(), &(), PAGE_TTL)
            .unwrap_or_default();
        let mut response = self.pages.device(self.pages.language(headers), &csrf, hint);
        let cookie = cookies::set(self, name, cookie, PAGE_TTL, cookies::Reach::Dialog);
        response.headers_mut().append(header::SET_COOKIE, cookie);
        response
    }
}

impl Visit {
    /// The next page for a code that was typed, within the limits on guesses: of each client address
    /// and of all together, over all instances. An attempt is counted before the code is looked up,
    /// so that attempts in parallel gain nothing.
    async fn device_code(
        &self,
        address: ClientAddress,
        code: &UserCode,
    ) -> Result<Response, Refused> {
        let app = &self.app;
        let attempt = Attempt::new(app, Guessed::UserCode, address, None);
        let attempt = attempt.reserve().await.map_err(Refused::Guess)?;
        let relay = app.relay.in_trace(&self.trace);
        if let Some(target) = relay.find_code(code).await?
            && let Some(page) = self.enter_by_code(target).await?
        {
            attempt.right().await.map_err(Refused::Guess)?;
            return Ok(page);
        }
        match attempt.wrong(Problem::NotFound).await {
            problem @ Problem::TooManyGuesses(_) => Err(Refused::Guess(problem)),
            _ => Ok(app.device_page(&self.headers, Some(DeviceHint::Unknown))),
        }
    }

    /// Enters the session behind a code; `None` when it is over.
    async fn enter_by_code(&self, target: CodeTarget) -> Result<Option<Response>, Refused> {
        let app = &self.app;
        let CodeTarget { session, transit_token } = target;
        let session = SessionRef::native(session);
        let handle = Handle::of(&transit_token.to_base64url());
        let existing = self.dialog(&handle).filter(|dialog| dialog.session() == session);
        match existing.as_ref().map(|dialog| &dialog.stage) {
            // Typed again, after the back button.
            Some(Stage::LoggedIn { .. }) => {
                return Ok(Some(self.to_step_after_form(paths::REDIRECT, &handle)));
            }
            Some(Stage::Finished(_)) => {
                return Ok(Some(self.to_step_after_form(paths::SUCCESS, &handle)));
            }
            _ => {}
        }
        let entry = Entry::OpenedDialog(transit_token);
        let relay = app.relay.in_trace(&self.trace);
        let dialog = existing.as_ref().map(|dialog| dialog.id);
        let dialog = match relay.peek(session, entry, dialog).await? {
            Peeked::Open(info) => {
                self.trace.adopt(session.key, info.trace);
                let client_id = info.details.client_id.as_ref();
                let policy = Policy::of(app, client_id);
                let clients = app.clients.load();
                let client = clients.find(client_id.map(ClientId::as_str)).ok();
                if !policy.code || !client.is_some_and(|client| client.may(Grant::Device)) {
                    tracing::warn!(
                        session = %session.key, setting = policy.setting,
                        "the client may no longer use the device authorization grant"
                    );
                    return Ok(None);
                }
                let context = self.trace.context().or(info.trace);
                existing.unwrap_or_else(|| {
                    Dialog::of_device(
                        session,
                        transit_token,
                        info.session_token,
                        info.details,
                        context,
                    )
                })
            }
            // Another browser has entered with this code: it is known to two, so the sign-in ends,
            // as with any other proof that is given twice.
            Peeked::Used => {
                let details = SessionDetails::default();
                Dialog::of_device(session, transit_token, None, details, self.trace.context())
            }
            Peeked::NotPending(_) | Peeked::Unknown | Peeked::TransitExpired => return Ok(None),
        };
        let mut dialog = dialog;
        dialog.make_csrf(app, &handle);
        let label = app.clients.load().label(session.surface, dialog.details.client_id.as_ref());
        tracing::info!(
            target: "audit", session = %session.key, client_id = %label, "user code typed"
        );
        Ok(Some(self.onward(handle, dialog, Proven::Code, Leave::Page).await))
    }
}

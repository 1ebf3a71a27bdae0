//! `GET /addons/transit/`: the dialog opens. Changes nothing unless the browser is the one that
//! created the session.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        AppState, cookies,
        dialog::{
            cookie::{Dialog, EntryKey, Handle, Proven, Stage},
            found,
            policy::{self, Policy},
            see_other,
            visit::{PageQuery, Visit},
        },
        error::Problem,
        guesses::{Attempt, Guessed},
        methods::MethodsExt as _,
        middleware::ClientAddress,
        openapi_tags,
        pages::{ErrorPage, ProofPage, ui_locales},
        responses::{ErrorPages, HTML, statuses},
    },
    oidc::{AuthorizationOptions, Prompt},
    session::{
        ClientId, Digest, Failure, Profile, SessionId, SessionRef, State as SessionState,
        TransitToken,
    },
    signin::SignInOutcome,
    store::{Entered, Entry, Peeked, StoreError},
};

/// The endpoint of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    let transit = routes!(transit).answering(&[]);
    OpenApiRouter::default().route("/addons/transit", transit.2.clone()).routes(transit)
}

/// The query of the first page.
#[derive(Deserialize)]
struct EnterQuery {
    session_id: Option<String>,
    transit_token: Option<String>,
    /// Office adds it.
    #[serde(rename = "_host_Info")]
    host_info: Option<String>,
}

/// Whether a browser fetches the page before anybody wants to see it. It may not do that; it asks
/// again when somebody does.
fn is_prefetch(headers: &HeaderMap) -> bool {
    ["sec-purpose", "purpose", "x-purpose", "x-moz"].iter().any(|name| {
        headers.get(*name).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.contains("prefetch") || value.contains("prerender") || value.contains("preview")
        })
    })
}

/// Whether the response is shown as a page of its own, and not in a frame or read by a script.
fn is_document(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-dest").is_none_or(|dest| dest == "document")
}

/// The dialog opens
#[utoipa::path(
    get,
    path = paths::TRANSIT,
    tag = openapi_tags::DIALOG,
    params(
        ("session_id" = Option<String>, Query, description = "The session, if it is legacy."),
        (
            "transit_token" = Option<String>, Query, example = "<transit_token>",
            description = "The transit token of a bound session; single use.",
        ),
    ),
    responses(
        (
            status = 200, description = "Asks for a proof that the browser is the reader's.",
            body = String, content_type = HTML,
        ),
        (status = 302, description = "To the OpenID provider."),
        ErrorPages<{ statuses(&[400, 404, 409, 410, 429, 500, 502, 503]) }>,
    ),
)]
async fn transit(
    State(app): State<AppState>,
    address: ClientAddress,
    PageQuery(query): PageQuery<EnterQuery>,
    mut visit: Visit,
) -> Response {
    if is_prefetch(&visit.headers) {
        let headers = [(header::CACHE_CONTROL, "no-store")];
        return (StatusCode::SERVICE_UNAVAILABLE, headers).into_response();
    }
    let parsed = match (query.session_id, query.transit_token) {
        (Some(id), None) => SessionId::parse(&id)
            .ok()
            .map(|session| (Handle::of(&id), session.key(), EntryKey::SessionId)),
        (None, Some(token)) => TransitToken::parse(&token).ok().map(|transit| {
            (Handle::of(&token), transit.session(), EntryKey::TransitToken(transit.digest()))
        }),
        _ => None,
    };
    let Some((handle, key, entry_key)) = parsed else {
        return visit.error(ErrorPage::BadRequest);
    };
    let session = SessionRef::native(key);
    let existing = visit.dialog(&handle).filter(|dialog| dialog.session() == session);
    if let Some(dialog) = &existing {
        visit = visit.within(dialog);
    }
    let entry = match (&existing, entry_key) {
        (Some(dialog), _) => dialog.entry(),
        (None, EntryKey::SessionId) => Entry::SessionId,
        (None, EntryKey::TransitToken(digest)) => Entry::TransitToken(digest),
    };
    match existing.as_ref().map(|dialog| &dialog.stage) {
        // Opened again, or the back button: the next step knows what to do.
        Some(Stage::LoggedIn { .. }) => return visit.to_step(paths::REDIRECT, &handle),
        Some(Stage::Finished(_)) => return visit.to_step(paths::SUCCESS, &handle),
        _ => {}
    }
    let relay = app.relay.in_trace(&visit.trace);
    let peeked = relay.peek(session, entry, existing.as_ref().map(|dialog| dialog.id)).await;
    let info = match peeked {
        Ok(Peeked::Open(info)) => info,
        Ok(Peeked::Unknown) => {
            if let EntryKey::TransitToken(_) = entry_key
                && let attempt = Attempt::new(&app, Guessed::TransitToken, address, None)
                && let problem @ Problem::TooManyGuesses(_) = attempt.wrong(Problem::NotFound).await
            {
                return visit.too_many_guesses(session, &problem);
            }
            return visit.error_of(
                ErrorPage::BadRequest,
                StatusCode::NOT_FOUND,
                Some(session),
                Some("unknown session or token"),
            );
        }
        Ok(Peeked::TransitExpired) => {
            return visit.error_about(ErrorPage::Expired, session, "the transit token has expired");
        }
        Ok(Peeked::Used) => {
            return visit.error_about(ErrorPage::Used, session, "another dialog has the link");
        }
        Ok(Peeked::NotPending(SessionState::Gone(_) | SessionState::Failed(_))) => {
            return visit.error_about(ErrorPage::Expired, session, "the session is over");
        }
        Ok(Peeked::NotPending(_)) => {
            return visit.error_about(ErrorPage::Used, session, "the sign-in is completed");
        }
        Err(error) => return visit.store_error(session, error),
    };
    visit.trace.adopt(key, info.trace);
    let policy = Policy::of(&app, info.details.client_id.as_ref());
    let office = app.pages.load_office() && query.host_info.is_some();
    let mut dialog = existing.unwrap_or_else(|| {
        let context = visit.trace.context().or(info.trace);
        let details = info.details.clone();
        let token = info.session_token;
        let mut new = Dialog::new(session, entry_key, token, details, context, office);
        new.is_of_0_1 = info.is_of_0_1 && info.profile == Profile::Bound;
        new
    });
    dialog.make_csrf(&app, &handle);
    let same_browser = policy.browser
        && is_document(&visit.headers)
        && info.browser.is_some_and(|creator| {
            cookies::browser(&app, &visit.headers)
                .is_some_and(|browser| creator.matches(&Digest::of(browser.as_bytes())))
        });
    let proven = match &dialog.stage {
        // Back from the provider: this dialog has given its proof.
        Stage::LoggingIn { proven, .. } => Some(*proven),
        Stage::Confirming { proven } if !same_browser => {
            let proven = *proven;
            return visit.confirm_page(handle, dialog, proven, &policy, address);
        }
        _ if same_browser => Some(Proven::Browser),
        _ if policy.never => Some(Proven::Nothing),
        _ => None,
    };
    match proven {
        Some(proven) if matches!(dialog.stage, Stage::LoggingIn { .. }) => {
            visit.onward(handle, dialog, proven, Leave::Redirect).await
        }
        Some(proven) if dialog.details.confirm => {
            visit.confirm_page(handle, dialog, proven, &policy, address)
        }
        Some(proven) => visit.onward(handle, dialog, proven, Leave::Redirect).await,
        None => visit.first_page(handle, dialog, &policy, address, None),
    }
}

/// How the browser is sent to the provider.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// By a redirect, after a link.
    Redirect,
    /// By a page, after a form.
    Page,
    /// By the script of the page.
    Script,
}

impl Visit {
    /// To another step of a dialog.
    pub(super) fn to_step(&self, path: &str, handle: &Handle) -> Response {
        found(&self.app.path(&format!("{path}?dialog={}", handle.as_str())))
    }

    /// The same after a form.
    pub(super) fn to_step_after_form(&self, path: &str, handle: &Handle) -> Response {
        see_other(&self.app.path(&format!("{path}?dialog={}", handle.as_str())))
    }

    /// `response` with the dialog's cookie.
    pub(super) fn with_dialog(
        &self,
        mut response: Response,
        handle: &Handle,
        dialog: &Dialog,
    ) -> Response {
        if self.app.store_dialog(&mut response, &self.headers, handle, dialog) {
            response
        } else {
            self.error_about(ErrorPage::Unavailable, dialog.session(), "the cookie is too large")
        }
    }

    /// The page that asks for a proof.
    pub(super) fn first_page(
        &self,
        handle: Handle,
        mut dialog: Dialog,
        policy: &Policy,
        ClientAddress(address): ClientAddress,
        remaining: Option<u32>,
    ) -> Response {
        let pages = &self.app.pages;
        let language = pages.language(&self.headers);
        let challenge = match dialog.stage {
            Stage::Proving { challenge } => challenge,
            _ => Digest::random(),
        };
        dialog.stage = Stage::Proving { challenge };
        let details = dialog.details.clone();
        let view = policy::view(&details, policy, address);
        let response = if dialog.is_legacy() {
            pages.legacy(language, dialog.fields(&handle), view)
        } else {
            let origins: Vec<&str> = policy.origins.iter().map(String::as_str).collect();
            let own = self.app.origin();
            let origins = serde_json::to_string(&[&origins[..], &[own.as_str()]].concat())
                .unwrap_or_default();
            let challenge = challenge.to_base64url();
            if !policy.code {
                tracing::info!(
                    session = %dialog.session().key,
                    client = view.client,
                    setting = policy.setting,
                    "the dialog waits for its opener; the code is not among the client's proofs"
                );
            }
            let page = ProofPage {
                challenge: policy.opener.then_some(challenge.as_str()),
                origins: &origins,
                code: policy.code && dialog.details.user_code.is_some(),
                remaining,
                setting: &policy.setting,
                office: dialog.office,
            };
            pages.proof(language, dialog.fields(&handle), view, page)
        };
        self.with_dialog(response, &handle, &dialog)
    }

    /// The page that asks to compare the code, which the creator asked for.
    pub(super) fn confirm_page(
        &self,
        handle: Handle,
        mut dialog: Dialog,
        proven: Proven,
        policy: &Policy,
        ClientAddress(address): ClientAddress,
    ) -> Response {
        dialog.stage = Stage::Confirming { proven };
        let details = dialog.details.clone();
        let code = details.user_code.as_ref().map(|code| code.as_str()).unwrap_or_default();
        let view = policy::view(&details, policy, address);
        let language = self.app.pages.language(&self.headers);
        let fields = dialog.fields(&handle);
        let response = self.app.pages.confirm(language, fields, view, code, dialog.window());
        self.with_dialog(response, &handle, &dialog)
    }

    /// Consumes the transit token.
    ///
    /// # Errors
    /// The page that refuses.
    async fn enter(&self, dialog: &Dialog, leave: Leave) -> Result<(), Response> {
        let session = dialog.session();
        let relay = self.app.relay.in_trace(&self.trace);
        let (page, cause) = match relay.enter(session, dialog.entry(), dialog.id).await {
            Ok(Entered::Admitted(_)) => return Ok(()),
            Ok(Entered::Replayed) => {
                let clients = self.app.clients.load();
                let label = clients.label(session.surface, dialog.details.client_id.as_ref());
                tracing::warn!(
                    target: "audit", session = %session.key, client_id = %label,
                    "transit token replayed"
                );
                (ErrorPage::Replayed, "two dialogs used the link")
            }
            Ok(Entered::Unknown) => (ErrorPage::BadRequest, "unknown session or token"),
            Ok(Entered::TransitExpired | Entered::NotPending(_)) => {
                (ErrorPage::Expired, "the session is over")
            }
            Err(error) => return Err(self.refuse_for_store(leave, session, error)),
        };
        Err(self.refuse(leave, page, session, cause))
    }

    /// Consumes the transit token and sends the browser to the provider.
    pub(super) async fn onward(
        &self,
        handle: Handle,
        mut dialog: Dialog,
        proven: Proven,
        leave: Leave,
    ) -> Response {
        let session = dialog.session();
        // Version 0.1 enters before it shows its first page.
        if !dialog.entered_by_0_1
            && let Err(refusal) = self.enter(&dialog, leave).await
        {
            return refusal;
        }
        let clients = self.app.clients.load();
        let label = clients.label(session.surface, dialog.details.client_id.as_ref());
        tracing::info!(target: "audit", session = %session.key, client_id = %label, proof = ?proven, "dialog entered");
        let client = clients.find(dialog.details.client_id.as_ref().map(ClientId::as_str));
        let options = AuthorizationOptions {
            state: Some(self.app.bear(&dialog, &handle)),
            // Never without a person who chooses, where a person vouched for the browser.
            prompt: if proven.needs_account_page() {
                Some(Prompt::SelectAccount)
            } else {
                dialog.details.prompt.map(Prompt::from)
            },
            login_hint: dialog.details.login_hint.clone(),
            ui_locales: ui_locales(&self.headers),
            ttl: Some(self.app.session_ttl(&dialog)),
            params: client.map(|client| client.auth_params.clone()).unwrap_or_default(),
        };
        let (url, attempt) = match self.app.login.in_trace(&self.trace).begin(&options).await {
            Ok(begun) => begun,
            Err(error) => {
                let (page, reference) = self.fail_login(session, &error).await;
                return self.refuse_with(leave, page, StatusCode::BAD_GATEWAY, &reference);
            }
        };
        dialog.stage = Stage::LoggingIn { attempt, proven };
        let language = self.app.pages.language(&self.headers);
        let response = match leave {
            Leave::Redirect => found(url.as_str()),
            Leave::Page => self.app.pages.onward(language, url.as_str(), dialog.window()),
            Leave::Script => axum::Json(serde_json::json!({"location": url})).into_response(),
        };
        self.with_dialog(response, &handle, &dialog)
    }

    /// An error page, or its address where the page's script goes there.
    pub(super) fn refuse(
        &self,
        leave: Leave,
        page: ErrorPage,
        session: SessionRef,
        cause: &str,
    ) -> Response {
        let reference = self.app.reference(&self.trace, page, Some(session), Some(cause));
        self.refuse_with(leave, page, page.status(), &reference)
    }

    /// Likewise, where the log has the cause under `reference` already.
    fn refuse_with(
        &self,
        leave: Leave,
        page: ErrorPage,
        status: StatusCode,
        reference: &str,
    ) -> Response {
        if leave == Leave::Script {
            let location = self.app.error_location(page, reference, self.window);
            return (page.status(), axum::Json(serde_json::json!({"location": location})))
                .into_response();
        }
        let pages = &self.app.pages;
        pages.error(status, pages.language(&self.headers), page, None, reference, self.window)
    }

    /// Likewise, for a store that is unavailable.
    pub(super) fn refuse_for_store(
        &self,
        leave: Leave,
        session: SessionRef,
        error: StoreError,
    ) -> Response {
        match leave {
            Leave::Script => {
                self.refuse(leave, ErrorPage::Unavailable, session, &error.to_string())
            }
            _ => self.store_error(session, error),
        }
    }

    /// The person said that the sign-in is not theirs.
    pub(super) async fn not_me(&self, handle: &Handle, dialog: &Dialog) -> Response {
        let failure = Failure::new("access_denied", "The person did not recognise this sign-in.");
        let session = dialog.session();
        let mut response =
            self.fail(session, failure, SignInOutcome::Denied, ErrorPage::NotMe).await;
        *response.status_mut() = StatusCode::OK;
        self.app.forget_dialog(&mut response, handle);
        response
    }
}

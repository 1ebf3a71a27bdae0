//! The last pages of a dialog.

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        AppState,
        dialog::{
            cookie::{Account, Finished, Stage},
            policy::Policy,
            visit::{DialogForm, DialogQuery, PageQuery, Posted, Visit},
        },
        error::{Problems, types},
        methods::{Also, MethodsExt as _},
        openapi_tags,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
    },
    session::{GoneReason, State as SessionState},
    store::Peeked,
    util::clock::UnixTime,
};

/// The endpoints of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(success, undo).answering(&[Also::Head]))
        .routes(routes!(error).answering(&[Also::Head]))
}

/// Fields of the last page.
#[derive(Deserialize, utoipa::ToSchema)]
struct Undo {
    /// `everywhere` ends everything that the person was granted, not this sign-in alone.
    decision: Option<String>,
}

/// The query of an error page.
#[derive(Deserialize)]
struct ErrorQuery {
    error: Option<String>,
    reference: Option<String>,
}

/// The sign-in succeeded
#[utoipa::path(
    get,
    path = paths::SUCCESS,
    tag = openapi_tags::DIALOG,
    params(("dialog" = Option<String>, Query, description = "Handle of the dialog.", example = "<dialog>")),
    responses(
        (
            status = 200,
            description = "Names the account; offers to undo the sign-in. Says so where none has ended.",
            body = String, content_type = HTML,
        ),
        (status = 302, description = "Back to the step that is not done."),
        ErrorPages<{ statuses(&[404, 409, 410, 500, 503]) }>,
        Problems<{ types(&[]) }>,
    ),
)]
async fn success(
    State(app): State<AppState>,
    PageQuery(query): PageQuery<DialogQuery>,
    visit: Visit,
) -> Response {
    let language = app.pages.language(&visit.headers);
    let handle = query.handle();
    let dialog = handle.as_ref().and_then(|handle| visit.dialog(handle));
    let (Some(handle), Some(dialog)) = (handle, dialog) else {
        return visit.no_sign_in();
    };
    let visit = visit.within(&dialog);
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    let client = policy.name.as_deref().or(dialog.details.client_name.as_deref());
    match &dialog.stage {
        Stage::Finished(Finished { account, autoclose, .. }) => app.pages.success(
            language,
            Some(account),
            client,
            *autoclose,
            // Version 0.1 says nothing of the token, so it cannot be undone.
            dialog.has_forms().then(|| dialog.fields(&handle)),
            visit.window,
        ),
        // The browser did not receive the response that completed the sign-in, or did not ask for it yet.
        Stage::LoggedIn { account, .. } => {
            let session = dialog.session();
            let relay = app.relay.in_trace(&visit.trace);
            match relay.peek(session, dialog.entry(), Some(dialog.id)).await {
                Ok(Peeked::Open(_)) => visit.to_step(paths::REDIRECT, &handle),
                Ok(Peeked::NotPending(
                    SessionState::Authenticated
                    | SessionState::Delivered
                    | SessionState::Gone(GoneReason::Acknowledged),
                )) => {
                    let account = match account {
                        Account::InCookie(identity) => Some(identity.display_name()),
                        Account::InStore(_) => None,
                    };
                    app.pages.success(language, account, client, false, None, visit.window)
                }
                Ok(_) => visit.error_about(ErrorPage::Expired, session, "the session is over"),
                Err(error) => visit.store_error(session, error),
            }
        }
        _ => visit.no_sign_in(),
    }
}

impl Visit {
    /// The last page where no sign-in has ended: it was opened by hand, or by a stranger's link.
    fn no_sign_in(&self) -> Response {
        let language = self.app.pages.language(&self.headers);
        self.app.pages.error(StatusCode::OK, language, ErrorPage::NoSignIn, None, "", self.window)
    }
}

/// The person says that the sign-in was not theirs, or signs out everywhere
///
/// Revokes the access token, ends the grant, and the session if it was not delivered; or all tokens and
/// grants of the person.
#[utoipa::path(
    post,
    path = paths::SUCCESS,
    tag = openapi_tags::DIALOG,
    request_body(
        content = DialogForm<Undo>, content_type = FORM,
        example = json!({ "dialog": "<dialog>", "csrf": "<csrf>" }),
    ),
    responses(
        (status = 200, description = "Undone.", body = String, content_type = HTML),
        ErrorPages<{ statuses(&[400, 403, 409, 413, 415, 503]) }>,
    ),
)]
async fn undo(
    State(app): State<AppState>,
    Posted { visit, handle, dialog, fields }: Posted<Undo>,
) -> Response {
    let session = dialog.session();
    let Stage::Finished(finished) = &dialog.stage else {
        return visit.error_about(ErrorPage::Used, session, "the dialog is not at this step");
    };
    let everywhere = fields.decision.as_deref() == Some("everywhere");
    if everywhere {
        let ended = app.end_account(&visit.trace, &finished.subject, "the person").await;
        if let Err(error) = ended {
            return visit.store_error(session, error);
        }
    } else if let Some(id) = &finished.token_id {
        let expires_at = UnixTime::from_secs(finished.expires_at);
        let remaining = expires_at.saturating_since(UnixTime::now());
        if let Err(error) = app.revocations.in_trace(&visit.trace).revoke(id, remaining).await {
            return visit.store_error(session, error);
        }
    }
    if let (Some(refresh), Some(grant)) = (&app.refresh, finished.grant)
        && let Err(error) = refresh.in_trace(&visit.trace).end(grant).await
    {
        return visit.store_error(session, error);
    }
    if let Err(error) = app.relay.in_trace(&visit.trace).evict(session, GoneReason::Cancelled).await
    {
        return visit.store_error(session, error);
    }
    let mut response = if everywhere {
        visit.error_about(ErrorPage::SignedOut, session, "the person signed out everywhere")
    } else {
        let clients = app.clients.load();
        let label = clients.label(session.surface, dialog.details.client_id.as_ref());
        tracing::warn!(
            target: "audit", session = %session.key, client_id = %label, "undone by the person"
        );
        visit.error_about(ErrorPage::Undone, session, "the person said that it was not them")
    };
    app.forget_dialog(&mut response, &handle);
    response
}

/// The sign-in failed
#[utoipa::path(
    get,
    path = paths::ERROR,
    tag = openapi_tags::DIALOG,
    params(
        ("error" = Option<String>, Query, description = "Name of the page.", example = "expired"),
        ("reference" = Option<String>, Query, description = "Reference in the log, sealed."),
        ("office" = Option<String>, Query, description = "Sent where the dialog is one of Office."),
    ),
    responses(
        (
            status = 200, description = "Says what happened and what to do.",
            body = String, content_type = HTML,
        ),
        Problems<{ types(&[]) }>,
    ),
)]
async fn error(
    State(app): State<AppState>,
    PageQuery(query): PageQuery<ErrorQuery>,
    visit: Visit,
) -> Response {
    let page = query.error.and_then(|text| text.parse::<ErrorPage>().ok());
    let Some(page) = page else { return visit.no_sign_in() };
    // Only a reference that the relay sealed is shown; the page repeats nothing else.
    let reference = query.reference.and_then(|sealed| app.error_reference(page, &sealed));
    app.pages.error(
        StatusCode::OK,
        app.pages.language(&visit.headers),
        page,
        None,
        reference.as_deref().unwrap_or_default(),
        visit.window,
    )
}

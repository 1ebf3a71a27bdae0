//! The last pages of a dialog.

use axum::{
    extract::{RawQuery, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};

use crate::{
    api::paths,
    http::{
        AppState,
        dialog::{
            Visit,
            cookie::{Handle, Stage},
            policy::Policy,
            single,
        },
        error::{Problems, types},
        extract::LimitedBody,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
        tags,
    },
    session::{GoneReason, UserCode},
    telemetry::Trace,
    util::clock::UnixTime,
};

/// Fields of the last page.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the form")]
struct Undo {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
}

/// The sign-in succeeded
#[utoipa::path(
    get,
    path = paths::SUCCESS,
    tag = tags::DIALOG,
    params(("dialog" = Option<String>, Query, description = "Handle of the dialog.")),
    responses(
        (
            status = 200, description = "Names the account; offers to undo the sign-in.",
            body = String, content_type = HTML,
        ),
        Problems<{ types(&[]) }>,
    ),
)]
pub async fn success(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let language = app.pages.language(&headers);
    let handle = Handle::query(query.as_deref());
    let dialog = handle.as_ref().and_then(|handle| app.dialog(&trace, &headers, handle));
    let (Some(handle), Some(dialog)) = (handle, dialog) else {
        let visit = Visit::new(&app, &trace, &headers, query.as_deref());
        return app.pages.success(language, None, None, false, None, visit.window);
    };
    let Stage::Finished(finished) = &dialog.stage else {
        return app.pages.success(language, None, None, false, None, dialog.window());
    };
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    app.pages.success(
        language,
        Some(&finished.account),
        policy.name.as_deref().or(dialog.details.client_name.as_deref()),
        finished.autoclose,
        Some(dialog.fields(&handle)),
        dialog.window(),
    )
}

/// The person says that the sign-in was not theirs
///
/// Revokes the access token, ends the grant, and the session if it was not delivered.
#[utoipa::path(
    post,
    path = paths::SUCCESS,
    tag = tags::DIALOG,
    request_body(content = Undo, content_type = FORM),
    responses(
        (status = 200, description = "Undone.", body = String, content_type = HTML),
        ErrorPages<{ statuses(&[400, 403, 409, 413, 503]) }>,
    ),
)]
pub async fn undo(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let visit = Visit::new(&app, &trace, &headers, std::str::from_utf8(&body).ok());
    let (handle, dialog, _) = match visit.posted(&body).await {
        Ok(posted) => posted,
        Err(page) => return page,
    };
    let session = dialog.session();
    let Stage::Finished(finished) = &dialog.stage else {
        return visit.error_about(ErrorPage::Used, session, "the dialog is not at this step");
    };
    if let Some(id) = &finished.token_id {
        let expires_at = UnixTime::from_secs(finished.expires_at);
        let remaining = expires_at.saturating_since(UnixTime::now());
        if let Err(error) = app.revocations.in_trace(&trace).revoke(id, remaining).await {
            return visit.store_error(session, error);
        }
    }
    if let (Some(refresh), Some(grant)) = (&app.refresh, finished.grant)
        && let Err(error) = refresh.in_trace(&trace).end(grant).await
    {
        return visit.store_error(session, error);
    }
    if let Err(error) = app.relay.in_trace(&trace).evict(session, GoneReason::Cancelled).await {
        return visit.store_error(session, error);
    }
    tracing::warn!(target: "audit", session = %session.key, "undone by the person");
    let mut response =
        visit.error_about(ErrorPage::Undone, session, "the person said that it was not them");
    app.forget_dialog(&mut response, &handle);
    response
}

/// The sign-in failed
#[utoipa::path(
    get,
    path = paths::ERROR,
    tag = tags::DIALOG,
    params(
        ("error" = Option<String>, Query, description = "Name of the page."),
        ("reference" = Option<String>, Query, description = "Reference in the log."),
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
pub async fn error(
    State(app): State<AppState>,
    trace: Trace,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.as_deref();
    let page = single(query, "error").and_then(|text| text.parse::<ErrorPage>().ok());
    // Only what looks like a reference of ours is shown; the page repeats nothing else.
    let reference = single(query, "reference").filter(|text| UserCode::is_well_formed(text));
    app.pages.error(
        StatusCode::OK,
        app.pages.language(&headers),
        page.unwrap_or(ErrorPage::LoginFailed),
        None,
        reference.as_deref().unwrap_or_default(),
        Visit::new(&app, &trace, &headers, query).window,
    )
}

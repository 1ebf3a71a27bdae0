//! `POST /addons/transit/…`: the opener's proof, the typed code, the buttons. Each needs the dialog's
//! cookie, its CSRF token and exactly our origin.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use crate::{
    api::paths,
    http::{
        AppState,
        dialog::{
            Visit,
            cookie::{Dialog, Handle, Proven, Stage},
            enter::Leave,
            policy::Policy,
            single,
        },
        extract::LimitedBody,
        middleware::ClientAddress,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
        tags,
    },
    relay::CodeCheck,
    session::{Digest, Failure, UserCode},
    signin::Outcome,
    store::Peeked,
    telemetry::Trace,
};

/// Fields of the opener's proof.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the form")]
struct OpenerProof {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
    /// Origin of the opener, as the browser named it.
    origin: String,
    /// base64url of the HMAC.
    proof: String,
}

/// Fields of the page that asks for the code.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the form")]
struct TypedCode {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
    /// The code that the add-in shows.
    user_code: String,
    /// `deny` refuses.
    decision: Option<String>,
}

/// Fields of a page with buttons.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "describes the form")]
pub(super) struct Decision {
    /// Handle of the dialog.
    dialog: String,
    /// As in the page.
    csrf: String,
    /// `continue`; anything else refuses.
    decision: String,
}

impl Visit<'_> {
    /// The dialog that a form belongs to.
    ///
    /// # Errors
    /// The page that refuses. Where the form is ours and the browser has lost the cookie, the
    /// session fails.
    pub(super) async fn posted(&self, body: &[u8]) -> Result<(Handle, Dialog, String), Response> {
        let form = std::str::from_utf8(body).ok();
        let (Some(handle), Some(csrf)) = (Handle::query(form), single(form, "csrf")) else {
            return Err(self.error(ErrorPage::BadRequest));
        };
        if !self.app.is_from_our_page(self.headers) {
            return Err(self.error_of(
                ErrorPage::BadRequest,
                StatusCode::FORBIDDEN,
                None,
                Some("the form's Origin is not the relay's"),
            ));
        }
        let Some(dialog) = self.app.dialog(self.trace, self.headers, &handle) else {
            let Ok(bearing) = self.app.bearing(&csrf) else {
                return Err(self.error(ErrorPage::WrongBrowser));
            };
            let failure = Failure::new("access_denied", "The browser did not keep its cookie.");
            let session = bearing.session();
            let outcome = Outcome::Denied;
            let visit = Visit { window: bearing.window(), ..*self };
            return Err(visit.fail(session, failure, outcome, ErrorPage::WrongBrowser).await);
        };
        if !dialog.has_csrf(&csrf) {
            return Err(self.error_about(
                ErrorPage::BadRequest,
                dialog.session(),
                "the form's CSRF token is wrong",
            ));
        }
        Ok((handle, dialog, form.unwrap_or_default().to_owned()))
    }
}

/// The opener proves that it holds the session token
#[utoipa::path(
    post,
    path = paths::PROOF,
    tag = tags::DIALOG,
    request_body(content = OpenerProof, content_type = FORM),
    responses(
        (status = 200, description = "Where the page continues."),
        (status = 403, description = "The proof is not accepted; the next challenge."),
        ErrorPages<{ statuses(&[400, 409, 413, 502, 503]) }>,
    ),
)]
pub async fn opener(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let visit = Visit::new(&app, &trace, &headers, std::str::from_utf8(&body).ok());
    let (handle, mut dialog, form) = match visit.posted(&body).await {
        Ok(posted) => posted,
        Err(page) => return page,
    };
    let session = dialog.session();
    let Stage::Proving { challenge } = dialog.stage else {
        let cause = "the dialog is past its proof";
        return visit.refuse(Leave::Script, ErrorPage::Used, session, cause);
    };
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    let origin = single(Some(&form), "origin").unwrap_or_default();
    let proof = single(Some(&form), "proof").unwrap_or_default();
    let relay = app.relay.in_trace(&trace);
    // A copy of the cookie cannot use the challenge again.
    let used = Digest::of(format!("challenge:{}", challenge.to_base64url()).as_bytes());
    let fresh = match relay.store().mark(used, app.settings.session.ttl).await {
        Ok(fresh) => fresh,
        Err(error) => return visit.refuse_for_store(Leave::Script, session, error),
    };
    let info = match relay.peek(session, dialog.entry(), Some(dialog.id)).await {
        Ok(Peeked::Open(info)) => Some(info),
        // Another dialog has entered: a proof of this one ends the session, in `onward`.
        Ok(Peeked::Used) => None,
        Ok(_) => {
            let cause = "the session is over";
            return visit.refuse(Leave::Script, ErrorPage::Expired, session, cause);
        }
        Err(error) => return visit.refuse_for_store(Leave::Script, session, error),
    };
    let proven = info.is_none_or(|info| {
        URL_SAFE_NO_PAD.decode(&proof).is_ok_and(|proof| {
            info.details
                .proof_key
                .is_some_and(|key| key.proves(session.key, challenge.as_bytes(), &proof))
        })
    });
    let accepted = policy.accepts_opener(&app, &origin);
    if fresh && proven && accepted {
        if dialog.details.confirm {
            dialog.stage = Stage::Confirming { proven: Proven::Opener };
            // At the same address is the page that compares codes now.
            let response = axum::Json(json!({"reload": true})).into_response();
            return visit.with_dialog(response, &handle, &dialog);
        }
        return visit.onward(handle, dialog, Proven::Opener, Leave::Script).await;
    }
    tracing::warn!(
        target: "audit",
        session = %session.key,
        origin,
        origin_allowed = accepted,
        mac_valid = proven,
        setting = policy.setting,
        "the opener's proof is not accepted"
    );
    let challenge = Digest::random();
    dialog.stage = Stage::Proving { challenge };
    let next = axum::Json(json!({"challenge": challenge.to_base64url()}));
    let mut response = (StatusCode::FORBIDDEN, next).into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    visit.with_dialog(response, &handle, &dialog)
}

/// The person types the user code
#[utoipa::path(
    post,
    path = paths::CODE,
    tag = tags::DIALOG,
    request_body(content = TypedCode, content_type = FORM),
    responses(
        (
            status = 200, description = "Leads to the OpenID provider, or asks again.",
            body = String, content_type = HTML,
        ),
        ErrorPages<{ statuses(&[400, 403, 409, 410, 413, 502, 503]) }>,
    ),
)]
pub async fn code(
    State(app): State<AppState>,
    trace: Trace,
    address: ClientAddress,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let visit = Visit::new(&app, &trace, &headers, std::str::from_utf8(&body).ok());
    let (handle, dialog, form) = match visit.posted(&body).await {
        Ok(posted) => posted,
        Err(page) => return page,
    };
    let session = dialog.session();
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    if !policy.code || !matches!(dialog.stage, Stage::Proving { .. }) {
        return visit.error_about(ErrorPage::Used, session, "the dialog is past its proof");
    }
    if single(Some(&form), "decision").as_deref() == Some("deny") {
        return visit.not_me(&handle, &dialog).await;
    }
    let typed = single(Some(&form), "user_code").and_then(|text| UserCode::from_typed(&text));
    let Some(typed) = typed else {
        // It has not the form of a code: nothing was guessed.
        return visit.first_page(
            handle,
            dialog,
            &policy,
            address,
            Some(crate::relay::CODE_ATTEMPTS),
        );
    };
    match app.relay.in_trace(&trace).check_user_code(session, &typed).await {
        Ok(CodeCheck::Right(_)) => visit.onward(handle, dialog, Proven::Code, Leave::Page).await,
        Ok(CodeCheck::Wrong { remaining }) => {
            tracing::warn!(
                target: "audit", session = %session.key, client = %address.0, remaining,
                "wrong user code"
            );
            visit.first_page(handle, dialog, &policy, address, Some(remaining))
        }
        Ok(CodeCheck::Exhausted) => {
            app.metrics.login(Outcome::Denied);
            tracing::warn!(
                target: "audit", session = %session.key, client = %address.0,
                "wrong user code too often; the sign-in failed"
            );
            let mut response =
                visit.error_about(ErrorPage::WrongCode, session, "the code was wrong too often");
            app.forget_dialog(&mut response, &handle);
            response
        }
        Ok(CodeCheck::Unknown | CodeCheck::NotPending(_)) => {
            visit.error_about(ErrorPage::Expired, session, "the session is over")
        }
        Err(error) => visit.store_error(session, error),
    }
}

/// The person decides
#[utoipa::path(
    post,
    path = paths::CONFIRM,
    tag = tags::DIALOG,
    request_body(content = Decision, content_type = FORM),
    responses(
        (
            status = 200, description = "Leads to the OpenID provider.",
            body = String, content_type = HTML,
        ),
        ErrorPages<{ statuses(&[400, 403, 409, 410, 413, 502, 503]) }>,
    ),
)]
pub async fn confirm(
    State(app): State<AppState>,
    trace: Trace,
    headers: HeaderMap,
    LimitedBody(body): LimitedBody,
) -> Response {
    let visit = Visit::new(&app, &trace, &headers, std::str::from_utf8(&body).ok());
    let (handle, dialog, form) = match visit.posted(&body).await {
        Ok(posted) => posted,
        Err(page) => return page,
    };
    let proven = match &dialog.stage {
        Stage::Confirming { proven } => *proven,
        Stage::Proving { .. } if dialog.is_legacy() => Proven::Button,
        // Sent twice.
        Stage::LoggingIn { proven, .. } => *proven,
        _ => {
            let cause = "the dialog is not at this step";
            return visit.error_about(ErrorPage::Used, dialog.session(), cause);
        }
    };
    match single(Some(&form), "decision").as_deref() {
        Some("continue") => visit.onward(handle, dialog, proven, Leave::Page).await,
        _ => visit.not_me(&handle, &dialog).await,
    }
}

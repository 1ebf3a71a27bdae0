//! `POST /addons/transit/…`: the opener's proof, the typed code, the buttons. Each needs the dialog's
//! cookie, its CSRF token and exactly our origin.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::paths,
    http::{
        AppState,
        dialog::{
            cookie::{Proven, Stage},
            enter::Leave,
            policy::Policy,
            visit::{Decision, DialogForm, Posted},
        },
        error::Problem,
        guesses::{Attempt, Guessed},
        methods::MethodsExt as _,
        middleware::ClientAddress,
        openapi_tags,
        pages::ErrorPage,
        responses::{ErrorPages, FORM, HTML, statuses},
    },
    relay::CodeCheck,
    session::{Digest, Surface, UserCode},
    signin::SignInOutcome,
    store::Peeked,
};

/// The endpoints of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(opener).answering(&[]))
        .routes(routes!(code).answering(&[]))
        .routes(routes!(confirm).answering(&[]))
}

/// Fields of the opener's proof.
#[derive(Deserialize, utoipa::ToSchema)]
struct OpenerProof {
    /// Origin of the opener, as the browser named it.
    #[serde(default)]
    origin: String,
    /// base64url of the HMAC.
    #[serde(default)]
    proof: String,
}

/// Fields of the page that asks for the code.
#[derive(Deserialize, utoipa::ToSchema)]
struct TypedCode {
    /// The code that the add-in shows.
    user_code: Option<String>,
    /// `deny` refuses.
    decision: Option<String>,
}

/// The opener proves that it holds the session token
#[utoipa::path(
    post,
    path = paths::PROOF,
    tag = openapi_tags::DIALOG,
    request_body(
        content = DialogForm<OpenerProof>, content_type = FORM,
        example = json!({
            "dialog": "<dialog>", "csrf": "<csrf>", "origin": "<origin>", "proof": "<proof>",
        }),
    ),
    responses(
        (status = 200, description = "Where the page continues."),
        (status = 403, description = "The proof is not accepted; the next challenge."),
        ErrorPages<{ statuses(&[400, 409, 413, 415, 502, 503]) }>,
    ),
)]
async fn opener(
    State(app): State<AppState>,
    Posted { visit, handle, mut dialog, fields }: Posted<OpenerProof>,
) -> Response {
    let OpenerProof { origin, proof } = fields;
    let session = dialog.session();
    let Stage::Proving { challenge } = dialog.stage else {
        let cause = "the dialog is past its proof";
        return visit.refuse(Leave::Script, ErrorPage::Used, session, cause);
    };
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    let relay = app.relay.in_trace(&visit.trace);
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
        // What a program sent as its `Origin` at the creation is no proof.
        dialog.details.origin = Some(origin);
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
    tag = openapi_tags::DIALOG,
    request_body(
        content = DialogForm<TypedCode>, content_type = FORM,
        example = json!({ "dialog": "<dialog>", "csrf": "<csrf>", "user_code": "<user_code>" }),
    ),
    responses(
        (
            status = 200, description = "Leads to the OpenID provider, or asks again.",
            body = String, content_type = HTML,
        ),
        ErrorPages<{ statuses(&[400, 403, 409, 410, 413, 415, 429, 502, 503]) }>,
    ),
)]
async fn code(
    State(app): State<AppState>,
    address: ClientAddress,
    Posted { visit, handle, dialog, fields }: Posted<TypedCode>,
) -> Response {
    let session = dialog.session();
    let policy = Policy::of(&app, dialog.details.client_id.as_ref());
    if !policy.code || !matches!(dialog.stage, Stage::Proving { .. }) {
        return visit.error_about(ErrorPage::Used, session, "the dialog is past its proof");
    }
    if fields.decision.as_deref() == Some("deny") {
        return visit.not_me(&handle, &dialog).await;
    }
    let typed = fields.user_code.and_then(|text| UserCode::from_typed(&text));
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
    let client = dialog.details.client_id.as_ref();
    let attempt = Attempt::new(&app, Guessed::DialogCode, address, client);
    let attempt = match attempt.reserve().await {
        Ok(attempt) => attempt,
        Err(problem @ Problem::TooManyGuesses(_)) => {
            return visit.too_many_guesses(session, &problem);
        }
        Err(problem) => {
            let cause = Some("the attempt could not be counted");
            return visit.error_of(ErrorPage::Unavailable, problem.status(), Some(session), cause);
        }
    };
    let checked = app.relay.in_trace(&visit.trace).check_user_code(session, &typed).await;
    match &checked {
        Ok(CodeCheck::Right(_)) => {
            if let Err(problem) = attempt.right().await {
                return visit.too_many_guesses(session, &problem);
            }
        }
        Ok(CodeCheck::Wrong { .. } | CodeCheck::Exhausted) => {
            attempt.wrong(Problem::BadRequest(String::new())).await;
        }
        _ => attempt.take_back().await,
    }
    match checked {
        Ok(CodeCheck::Right(_)) => visit.onward(handle, dialog, Proven::Code, Leave::Page).await,
        Ok(CodeCheck::Wrong { remaining }) => {
            let label = app.clients.load().label(session.surface, client);
            tracing::warn!(
                target: "audit", session = %session.key, client = %address.0, client_id = %label,
                remaining, "wrong user code"
            );
            visit.first_page(handle, dialog, &policy, address, Some(remaining))
        }
        Ok(CodeCheck::Exhausted) => {
            let client = app.clients.load().label(Surface::Native, client);
            app.metrics.login(&client, SignInOutcome::Denied);
            tracing::warn!(
                target: "audit", session = %session.key, client = %address.0, client_id = %client,
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
    tag = openapi_tags::DIALOG,
    request_body(
        content = DialogForm<Decision>, content_type = FORM,
        example = json!({ "dialog": "<dialog>", "csrf": "<csrf>", "decision": "continue" }),
    ),
    responses(
        (
            status = 200, description = "Leads to the OpenID provider.",
            body = String, content_type = HTML,
        ),
        ErrorPages<{ statuses(&[400, 403, 409, 410, 413, 415, 502, 503]) }>,
    ),
)]
async fn confirm(Posted { visit, handle, dialog, fields }: Posted<Decision>) -> Response {
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
    if fields.is_continue() {
        visit.onward(handle, dialog, proven, Leave::Page).await
    } else {
        visit.not_me(&handle, &dialog).await
    }
}

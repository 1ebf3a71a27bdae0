//! The device authorization grant (RFC 8628): a client that shows a code, a person who types it on
//! any device, and a token for the client that polls or, better, waits at a stream.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{
        Secret,
        oauth::{DeviceAuthorization, DeviceRequest, TokenRequest},
        paths,
    },
    http::{
        App, AppState, HalfClose,
        addons::{
            sessions::{MAX_ORIGIN, binding, check_client_name},
            streams::{
                Encoder, StreamMessage, Transport as _, Wait,
                long_poll::{LongPoll, MAX_WAIT, preferred_wait},
            },
        },
        error::Problem,
        extract::Form,
        guesses::{Attempt, Guessed},
        handover,
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        oauth::{
            client::{Caller, presented},
            dpop,
        },
        openapi_tags,
        responses::{FORM, OAuthErrors, statuses},
    },
    relay::{CreateSession, Delivery, PacedPoll, ReadError},
    session::{
        Binding, ClientId, Digest, GoneReason, Outcome, Profile, SECRET_BYTES, SessionDetails,
        SessionId, SessionKey, SessionRef, SessionToken, Thumbprint,
    },
    settings::{Client, ClientSetting, Grant},
    telemetry::Trace,
    token::{InvalidProof, OpenError, Purpose},
    util::{clock::UnixTime, network::Network},
};

/// The endpoint of this file.
pub(super) fn endpoints() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(authorize).answering(&[Also::Options]))
}

/// `grant_type` of RFC 8628 §3.4.
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What a device code holds, sealed. It expires with its session.
#[derive(Serialize, Deserialize)]
struct DeviceCode {
    #[serde(rename = "k")]
    session: SessionKey,
    #[serde(rename = "t")]
    session_token: Digest,
    #[serde(rename = "c")]
    client: ClientId,
    #[serde(rename = "b", default, skip_serializing_if = "Binding::is_empty")]
    binding: Binding,
}

/// Begins a sign-in on another device (RFC 8628 §3.1)
///
/// A client that knows `events_url` or `websocket_url` gets the token at once, with `session_token`
/// as its credentials; any other polls the token endpoint.
#[utoipa::path(
    post,
    path = paths::DEVICE_AUTHORIZATION,
    tag = openapi_tags::ADD_IN,
    security((), ("client" = [])),
    request_body(
        content = DeviceRequest, content_type = FORM,
        example = json!({ "client_id": "<client_id>", "client_name": "Notes" }),
    ),
    responses(
        (status = 200, description = "The codes.", body = DeviceAuthorization),
        OAuthErrors<{ statuses(&[400, 401, 403, 413, 415, 429, 500, 503]) }>,
    ),
)]
async fn authorize(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
    Form(form): Form<DeviceRequest>,
) -> Result<Response, Problem> {
    let presented = presented(&headers, form.client_id, form.client_secret)?;
    let Caller { client, is_authenticated } = Caller::new(&app, address, &presented)
        .await?
        .with(Grant::Device)?
        .at_its_origin(&app, &headers)?;
    let scope = form.scope.as_deref().map(|scope| client.scope_for(Some(scope)));
    let scope = scope.transpose().map_err(|_| {
        let setting = client.setting(ClientSetting::Scope);
        Problem::InvalidScope(format!("The client may request no more than `{setting}` has."))
    })?;
    if let Some(name) = &form.client_name {
        check_client_name(name)?;
    }
    app.admit_creation(address)?;
    let encryption_key = form.encryption_key.as_deref().map(serde_json::from_str).transpose();
    let encryption_key = encryption_key.map_err(|_| {
        Problem::BadRequest("`encryption_key` is a public key as JSON (RFC 7517).".to_owned())
    })?;
    let binding = binding(encryption_key.as_ref(), form.dpop_jkt.as_deref())?;
    if client.dpop_required && binding.encryption_key.is_some() && binding.dpop_key.is_none() {
        let detail = "`encryption_key` needs `dpop_jkt` where tokens must be bound to a key.";
        return Err(Problem::BadRequest(detail.to_owned()));
    }
    let binding_of_code = binding.clone();
    let session_id = SessionId::generate();
    let key = session_id.key();
    let session_token = SessionToken::generate();
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok())
        .filter(|origin| origin.len() <= MAX_ORIGIN)
        .map(str::to_owned);
    let ttl = client.session_ttl;
    let user_code = app
        .relay
        .in_trace(&trace)
        .create_for_device(CreateSession {
            session: key,
            session_token: Some(session_token.digest()),
            profile: Profile::Device,
            browser: None,
            details: SessionDetails {
                client_id: (!client.is_implied()).then(|| client.id.clone()),
                client_authenticated: is_authenticated,
                scope,
                client_name: form.client_name,
                origin,
                network: Some(Network::of(address.0).to_string()),
                created_at: Some(UnixTime::now().as_secs()),
                binding,
                ..SessionDetails::default()
            },
            ttl,
            // Entered by the user code alone.
            transit_token_ttl: ttl,
            random_bytes: SECRET_BYTES,
            trace: trace.context(),
        })
        .await?;
    let code = DeviceCode {
        session: key,
        session_token: session_token.digest(),
        client: client.id.clone(),
        binding: binding_of_code,
    };
    let device_code = app
        .sealing_keys
        .seal_text(Purpose::DeviceCode, b"", &code, ttl)
        .map_err(|_| Problem::Internal)?;
    app.metrics.session_created(&client.id);
    trace.adopt(key, None);
    tracing::info!(
        target: "audit",
        session = %key,
        client = %address.0,
        client_id = %client.id,
        device = true,
        "session created"
    );
    let id = session_id.expose();
    let path = |template| paths::of_session(template, id);
    let body = DeviceAuthorization {
        device_code: device_code.into(),
        user_code: user_code.as_str().to_owned(),
        verification_uri: app.public(paths::DEVICE),
        expires_in: ttl.as_secs(),
        interval: app.settings.session.device_interval.as_secs(),
        events_url: app.public(&path(paths::SESSION_EVENTS)),
        websocket_url: app.public_websocket(&path(paths::SESSION_WEBSOCKET)),
        poll_url: app.public(&path(paths::SESSION)),
        session_id: id.into(),
        session_token: session_token.expose().into(),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// The token for a device code (RFC 8628 §3.4). `Prefer: wait=N` (RFC 7240 §4.3) holds the request
/// while the person has not decided.
pub(super) async fn token(
    app: &AppState,
    trace: &Trace,
    address: ClientAddress,
    headers: &HeaderMap,
    half_close: HalfClose,
    form: TokenRequest,
) -> Response {
    let wait = preferred_wait(headers).map(|seconds| seconds.min(MAX_WAIT));
    let presented = presented(headers, form.client_id, form.client_secret);
    let redeemed = async {
        let Caller { client, .. } =
            Caller::new(app, address, &presented?).await?.with(Grant::Device)?;
        let proof = dpop::presented(app, headers, &dpop::token_request(app)?, None)?;
        let code = device_code(app, trace, address, &client.id, form.device_code).await?;
        let bind_to = proven(&client, &code, proof.as_ref())?;
        if let Some(proof) = &proof {
            proof.use_up(app, trace).await??;
        }
        let mut response = redeem(app, trace, code, wait, bind_to, half_close).await?;
        dpop::set_nonce(&mut response, proof.and_then(|proof| proof.next_nonce(app)));
        Ok::<_, Problem>(response)
    };
    let mut response = dpop::with_nonce(app, redeemed.await.into_response());
    let applied = wait.and_then(|seconds| HeaderValue::from_str(&format!("wait={seconds}")).ok());
    if let Some(applied) = applied {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

/// The key that the tokens of this code are bound to when they are fetched, if any (RFC 9449 §5).
fn proven(
    client: &Client,
    code: &DeviceCode,
    proof: Option<&dpop::PresentedProof>,
) -> Result<Option<Thumbprint>, Problem> {
    match (code.binding.dpop_key, proof.map(|presented| presented.proof.key)) {
        (Some(own), Some(key)) if own == key => Ok(None),
        (Some(_), Some(_)) => Err(InvalidProof::Key.into()),
        (Some(_), None) => Err(InvalidProof::Missing.into()),
        (None, None) if client.dpop_required => Err(InvalidProof::Missing.into()),
        (None, None) => Ok(None),
        (None, Some(_)) if code.binding.encryption_key.is_some() => {
            let detail =
                "With `encryption_key`, the key is named by `dpop_jkt` from the beginning.";
            Err(Problem::InvalidDpopProof(detail.to_owned()))
        }
        (None, Some(key)) => Ok(Some(key)),
    }
}

/// Opens the device code of a client.
async fn device_code(
    app: &AppState,
    trace: &Trace,
    address: ClientAddress,
    client: &ClientId,
    device_code: Option<Secret>,
) -> Result<DeviceCode, Problem> {
    let code =
        device_code.ok_or_else(|| Problem::BadRequest("missing field `device_code`".to_owned()))?;
    let code: DeviceCode = match app.sealing_keys.open_text(Purpose::DeviceCode, b"", code.expose())
    {
        Ok(code) => code,
        Err(OpenError::Expired) => return Err(Problem::ExpiredToken),
        Err(_) => {
            let wrong = Problem::InvalidGrant("The device code is not valid.".to_owned());
            let attempt = Attempt::new(app, Guessed::DeviceCode, address, Some(client));
            return Err(attempt.wrong(wrong).await);
        }
    };
    trace.adopt(code.session, None);
    if code.client != *client {
        tracing::warn!(
            target: "audit", session = %code.session, client_id = %client,
            "a device code was presented by another client"
        );
        let detail = "The device code was issued to another client.";
        return Err(Problem::InvalidGrant(detail.to_owned()));
    }
    Ok(code)
}

async fn redeem(
    app: &AppState,
    trace: &Trace,
    code: DeviceCode,
    wait: Option<u64>,
    bind_to: Option<Thumbprint>,
    half_close: HalfClose,
) -> Result<Response, Problem> {
    let session = SessionRef::native(code.session);
    let relay = app.relay.in_trace(trace);
    let (interval, session_token) = (app.settings.session.device_interval, code.session_token);
    let polled = relay.paced_poll(session, Some(session_token), interval).await;
    let (outcome, handover) = match polled {
        Ok(PacedPoll::Settled(outcome, handover)) => (outcome, handover),
        Ok(PacedPoll::TooEarly { interval }) => return Err(Problem::SlowDown(interval)),
        Ok(PacedPoll::Pending) => match wait.filter(|seconds| *seconds > 0) {
            None => return Err(Problem::AuthorizationPending),
            Some(seconds) => {
                let subscription = relay.open(session, Some(session_token), Delivery::Once).await?;
                let mut wait =
                    Wait::new(AppState::clone(app), LongPoll::NAME, subscription, trace.link());
                let timeout = Duration::from_secs(seconds);
                let held = tokio::select! {
                    biased;
                    outcome = tokio::time::timeout(timeout, wait.outcome()) => outcome.ok(),
                    // The client may be gone, and a token for nobody would be lost.
                    () = half_close.wait() => None,
                };
                (held.ok_or(Problem::AuthorizationPending)?, wait.take_handover())
            }
        },
        Err(ReadError::Unknown) => return Err(Problem::ExpiredToken),
        Err(error) => return Err(error.into()),
    };
    let response = answer(app, session.key, outcome, bind_to, trace)?;
    Ok(handover::completing(response, handover, &half_close))
}

fn answer(
    app: &AppState,
    key: SessionKey,
    outcome: Outcome,
    bind_to: Option<Thumbprint>,
    trace: &Trace,
) -> Result<Response, Problem> {
    match outcome {
        // Not this reader's end: another one waits now, or another instance will answer.
        Outcome::Superseded | Outcome::Draining => Err(Problem::AuthorizationPending),
        Outcome::Failed(failure) => Err(Problem::SignInFailed(failure)),
        Outcome::Gone(GoneReason::Expired) => Err(Problem::ExpiredToken),
        Outcome::Gone(GoneReason::Acknowledged) | Outcome::WrittenDirectly => {
            let detail = "The token for this device code was delivered before.";
            Err(Problem::InvalidGrant(detail.to_owned()))
        }
        outcome => match Encoder::new(AppState::clone(app), trace.link()).message(key, outcome) {
            StreamMessage::Authenticated { token, .. } => {
                let token = match bind_to {
                    None => token,
                    Some(key) => token
                        .bind(key, &app.signing_keys, &app.sealing_keys)
                        .map(Box::new)
                        .map_err(|_| Problem::Internal)?,
                };
                Ok(([(header::CACHE_CONTROL, "no-store")], Json(token)).into_response())
            }
            StreamMessage::Failed(failure) => Err(Problem::SignInFailed(failure)),
            _ => Err(Problem::Internal),
        },
    }
}

/// Whether any client may use the device authorization grant.
pub(super) fn is_offered(app: &App) -> bool {
    app.clients.load().iter().any(|client| client.may(Grant::Device))
}

//! `POST /addons/sessions` creates a session, `DELETE /addons/sessions/{id}` ends it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{CreateRequest, CreateResponse, EncryptionKey, paths},
    http::{
        App, AppState,
        addons::streams::{Credentials, long_poll},
        cookies,
        dialog::Policy,
        error::{
            Problem,
            ProblemType::{
                BadRequest, BodyTooLarge, BoundSessionRequired, InvalidClient, InvalidScope,
                OriginRefused, ReaderUnauthorized, SessionNotFound, StoreUnavailable,
                TooManyGuesses, TooManySessions, UnknownClient, UnsupportedMediaType,
            },
            Problems, types,
        },
        extract::{ClientBasic, Json},
        guesses::{Attempt, Guessed},
        methods::{Also, MethodsExt as _},
        middleware::ClientAddress,
        openapi_tags,
    },
    relay::{CreateSession, Created},
    session::{
        self, Binding, Digest, EventId, GoneReason, InvalidEncryptionKey, Profile, ProofKey,
        SECRET_BYTES, SessionDetails, SessionId, SessionKey, SessionRef, SessionToken, Thumbprint,
        UserCode,
    },
    settings::{Client, ClientSetting, Grant, OPAQUE_ORIGIN},
    store::{Acknowledged, Ended},
    telemetry::Trace,
    token::jwe,
    util::{clock::UnixTime, network::Network},
};

/// Maximum length of an `Origin`, in bytes.
pub(crate) const MAX_ORIGIN: usize = 256;

/// Maximum length of the name of an add-in, in characters.
const MAX_CLIENT_NAME: usize = 64;

/// Maximum length of a `login_hint`, in characters: that of an e-mail address (RFC 5321 §4.5.3.1).
const MAX_LOGIN_HINT: usize = 320;

/// The endpoints of sessions.
pub fn endpoints() -> OpenApiRouter<AppState> {
    const CORS: &[Also] = &[Also::Options];
    let create = routes!(create).answering(CORS);
    OpenApiRouter::default()
        .route("/addons/sessions/", create.2.clone())
        .routes(create)
        .routes(routes!(long_poll::poll, end).answering(CORS))
}

/// The checks that the types of the request leave over.
fn check(request: &CreateRequest) -> Result<(), Problem> {
    if request.confirm && !request.bind {
        return Err(Problem::BadRequest("`confirm` needs `bind`.".to_owned()));
    }
    if let Some(hint) = &request.login_hint
        && (hint.trim().is_empty()
            || hint.chars().count() > MAX_LOGIN_HINT
            || hint.chars().any(char::is_control))
    {
        return Err(Problem::BadRequest(format!(
            "`login_hint` has 1 to {MAX_LOGIN_HINT} printable characters."
        )));
    }
    request.client_name.as_deref().map_or(Ok(()), check_client_name)
}

/// Checks the name by which an add-in calls itself.
pub(crate) fn check_client_name(name: &str) -> Result<(), Problem> {
    let fits = !name.trim().is_empty()
        && name.chars().count() <= MAX_CLIENT_NAME
        && !name.chars().any(char::is_control);
    fits.then_some(()).ok_or_else(|| {
        Problem::BadRequest(format!(
            "`client_name` has 1 to {MAX_CLIENT_NAME} printable characters."
        ))
    })
}

/// The keys of a creator, checked.
pub(crate) fn binding(
    encryption_key: Option<&EncryptionKey>,
    dpop_jkt: Option<&str>,
) -> Result<Binding, Problem> {
    let check = |jwk| {
        let key = session::EncryptionKey::try_from(jwk)?;
        jwe::check(&key).map(|()| key)
    };
    let encryption_key = encryption_key.map(check).transpose();
    let refuse = |error: InvalidEncryptionKey| Problem::BadRequest(error.to_string());
    let thumbprint = |text| {
        let key = Thumbprint::from_base64url(text).ok().filter(|key| !key.is_unknown());
        key.ok_or_else(|| {
            let detail = "`dpop_jkt` is the SHA-256 thumbprint of a key in base64url (RFC 7638).";
            Problem::BadRequest(detail.to_owned())
        })
    };
    Ok(Binding {
        encryption_key: encryption_key.map_err(refuse)?,
        dpop_key: dpop_jkt.map(thumbprint).transpose()?,
    })
}

/// The client that creates a session.
struct Creator {
    client: Arc<Client>,
    /// What it requests, if that is less than all of its own.
    scope: Option<String>,
    /// Whether it proved by its secret that it is this client.
    is_authenticated: bool,
}

impl Creator {
    async fn new(
        app: &App,
        address: ClientAddress,
        headers: &HeaderMap,
        request: &CreateRequest,
        origin: Option<&str>,
    ) -> Result<Self, Problem> {
        let clients = app.clients.load_full();
        let client = clients
            .find(request.client_id.as_deref())
            .ok()
            .filter(|client| client.may(Grant::Session))
            .ok_or(Problem::UnknownClient)?;
        // Without clients, an origin is no more than what the dialog shows. With them, a page acts in
        // the name of its own only.
        if headers.contains_key(header::ORIGIN) && !client.is_implied() {
            let origin = origin.unwrap_or_default();
            if !app.is_own_origin(origin) && !client.has_origin(origin) {
                return Err(app.refuse_origin(origin, Some(client)));
            }
        }
        let scope = request.scope.as_deref().map(|scope| client.scope_for(Some(scope)));
        let scope = scope.transpose().map_err(|_| {
            let setting = client.setting(ClientSetting::Scope);
            Problem::InvalidScope(format!("The client may request no more than `{setting}` has."))
        })?;
        let is_authenticated = match ClientBasic::of(headers) {
            Ok(None) => false,
            Ok(Some(basic)) => {
                let attempt = Attempt::new(app, Guessed::ClientSecret, address, Some(&client.id));
                let attempt = attempt.admit()?;
                let is_client = |(id, secret): (Cow<'_, str>, Cow<'_, str>)| {
                    id == client.id.as_str() && client.is_authenticated_by(&secret)
                };
                if !basic.readings().any(is_client) {
                    return Err(attempt.wrong(Problem::InvalidClient).await);
                }
                attempt.right().await?;
                true
            }
            Err(_) => return Err(Problem::InvalidClient),
        };
        Ok(Self { client: Arc::clone(client), scope, is_authenticated })
    }
}

/// A browser that creates a session, recognised when it opens the dialog.
struct Recognised {
    digest: Digest,
    /// The cookie that this response sets, if the browser has none yet.
    set: Option<HeaderValue>,
}

/// Recognises the browser of a creation by JSON that only a page of the relay itself, or of one of
/// the client's origins on the same site, can make a browser send. The `Origin` of a program that
/// is no browser proves nothing, and harms nobody: its cookie is in no browser.
fn recognise(app: &App, headers: &HeaderMap, policy: &Policy) -> Option<Recognised> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = value("origin")?;
    let same_site = || value("sec-fetch-site") == Some("same-site");
    let ours =
        origin == app.origin() || (policy.origins.iter().any(|own| own == origin) && same_site());
    let by_script = matches!(value("sec-fetch-mode"), None | Some("cors" | "same-origin"));
    if !ours || !by_script {
        return None;
    }
    let sent = cookies::browser(app, headers);
    let set = sent.is_none().then(SessionToken::generate);
    let id = sent.as_deref().or(set.as_ref().map(SessionToken::expose))?;
    Some(Recognised {
        digest: Digest::of(id.as_bytes()),
        set: set.as_ref().map(|id| cookies::set_browser(app, id)),
    })
}

/// Creates a session
#[utoipa::path(
    post,
    path = paths::SESSIONS,
    tag = openapi_tags::ADD_IN,
    security((), ("client" = [])),
    request_body(
        content = Option<CreateRequest>,
        example = json!({ "bind": true, "client_id": "<client_id>", "client_name": "Notes" }),
    ),
    responses(
        (
            status = 201,
            description = "The session. Its tokens are answered once.",
            body = CreateResponse,
            links(
                ("poll" = (
                    operation_id = "get_addons_sessions_session_id",
                    parameters(("session_id" = "$response.body#/session_id")),
                )),
                ("end" = (
                    operation_id = "delete_addons_sessions_session_id",
                    parameters(("session_id" = "$response.body#/session_id")),
                )),
                ("events" = (
                    operation_id = "get_addons_sessions_session_id_events",
                    parameters(("session_id" = "$response.body#/session_id")),
                )),
                ("websocket" = (
                    operation_id = "get_addons_sessions_session_id_ws",
                    parameters(("session_id" = "$response.body#/session_id")),
                )),
                ("transit" = (
                    operation_id = "get_addons_transit",
                    parameters(("transit_token" = "$response.body#/transit_token")),
                )),
            ),
        ),
        Problems<{
            types(&[
                BadRequest, UnknownClient, InvalidScope, InvalidClient, BoundSessionRequired,
                OriginRefused, BodyTooLarge, UnsupportedMediaType, TooManySessions, TooManyGuesses,
                StoreUnavailable,
            ])
        }>,
    ),
)]
pub async fn create(
    State(app): State<AppState>,
    address: ClientAddress,
    trace: Trace,
    headers: HeaderMap,
    body: Option<Json<CreateRequest>>,
) -> Result<Response, Problem> {
    // An empty body stands for a legacy session.
    let by_json = body.is_some();
    let request = body.map(|Json(request)| request).unwrap_or_default();
    check(&request)?;
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok())
        .filter(|origin| origin.len() <= MAX_ORIGIN)
        .map(str::to_owned);
    let Creator { client, scope, is_authenticated } =
        Creator::new(&app, address, &headers, &request, origin.as_deref()).await?;
    if !client.legacy && !request.bind {
        return Err(Problem::BoundSessionRequired);
    }
    app.admit_creation(address)?;
    let binding = binding(request.encryption_key.as_ref(), request.dpop_jkt.as_deref())?;
    if client.dpop_required && binding.dpop_key.is_none() {
        return Err(Problem::BadRequest(format!(
            "`dpop_jkt` is needed: `{}` has every token bound to a key (RFC 9449).",
            client.setting(ClientSetting::DpopRequired)
        )));
    }
    let session_id = SessionId::generate();
    let key = session_id.key();
    let session_token = request.bind.then(SessionToken::generate);
    let policy = Policy::of(&app, Some(&client.id));
    let for_backends = request.bind && !client.fulfilled_by.is_empty();
    let has_code = request.bind && !for_backends && (policy.code || request.confirm);
    let user_code = has_code.then(UserCode::generate);
    let recognised = by_json.then(|| recognise(&app, &headers, &policy)).flatten();
    let new = CreateSession {
        session: key,
        session_token: session_token.as_ref().map(SessionToken::digest),
        profile: if request.bind { Profile::Bound } else { Profile::Legacy },
        browser: recognised.as_ref().map(|browser| browser.digest),
        details: SessionDetails {
            client_id: (!client.is_implied()).then(|| client.id.clone()),
            client_authenticated: is_authenticated,
            scope,
            client_name: request.client_name,
            origin: origin.filter(|origin| origin != OPAQUE_ORIGIN),
            network: Some(Network::of(address.0).to_string()),
            user_code: user_code.clone(),
            confirm: request.confirm,
            login_hint: request.login_hint,
            prompt: request.prompt,
            proof_key: session_token.as_ref().map(ProofKey::of),
            created_at: Some(UnixTime::now().as_secs()),
            binding,
        },
        ttl: client.session_ttl,
        transit_token_ttl: app.settings.session.transit_token_ttl,
        random_bytes: SECRET_BYTES,
        trace: trace.context(),
    };
    let relay = app.relay.in_trace(&trace);
    let (created, user_code) = match for_backends {
        // The person may type the code at one of them.
        true => {
            relay.create_for_backends(new).await.map(|(created, code)| (created, Some(code)))?
        }
        false => (relay.create(new).await?, user_code),
    };
    app.metrics.session_created(&client.id);
    trace.adopt(key, None);
    tracing::info!(
        target: "audit",
        session = %key,
        client = %address.0,
        client_id = %client.id,
        bound = request.bind,
        "session created"
    );
    let mut response = answer(
        &app,
        (&session_id, key),
        session_token.as_ref(),
        user_code.as_ref(),
        &created,
        client.session_ttl,
    );
    if let Some(cookie) = recognised.and_then(|browser| browser.set) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn answer(
    app: &App,
    (session_id, key): (&SessionId, SessionKey),
    session_token: Option<&SessionToken>,
    user_code: Option<&UserCode>,
    created: &Created,
    ttl: Duration,
) -> Response {
    let id = session_id.expose();
    let transit = match &created.transit_token {
        Some(token) => format!("{}?transit_token={}", paths::TRANSIT, token.expose()),
        None => format!("{}?session_id={id}", paths::TRANSIT),
    };
    let path = |template| paths::of_session(template, id);
    let body = CreateResponse {
        session_id: id.into(),
        expires_in: ttl.as_secs(),
        transit_url: app.public(&transit),
        events_url: app.public(&path(paths::SESSION_EVENTS)),
        websocket_url: app.public_websocket(&path(paths::SESSION_WEBSOCKET)),
        poll_url: app.public(&path(paths::SESSION)),
        session_token: session_token.map(|token| token.expose().into()),
        transit_token: created.transit_token.as_ref().map(|token| token.expose().into()),
        user_code: user_code.map(|code| code.as_str().to_owned()),
    };
    let mut response = (StatusCode::CREATED, axum::Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(token) = session_token {
        let name = cookies::reader_name(app, key);
        let value = token.expose().to_owned();
        let cookie = cookies::set(app, name, value, ttl, cookies::Reach::Reader);
        headers.append(header::SET_COOKIE, cookie);
    }
    response
}

/// Acknowledges the token, or cancels the sign-in
///
/// For a session that has ended it is a success as well (RFC 9110 §9.2.2).
#[utoipa::path(
    delete,
    path = paths::SESSION,
    tag = openapi_tags::ADD_IN,
    params(("session_id" = String, Path, description = "The session.")),
    security((), ("session_token" = [])),
    responses(
        (status = 204, description = "The session has ended."),
        Problems<{
            types(&[
                ReaderUnauthorized, OriginRefused, SessionNotFound, TooManyGuesses, StoreUnavailable,
            ])
        }>,
    ),
)]
pub async fn end(
    State(app): State<AppState>,
    Credentials { session, session_token }: Credentials,
    trace: Trace,
) -> Result<Response, Problem> {
    app.end_session(session, session_token, &trace).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    let name = cookies::reader_name(&app, session.key);
    response
        .headers_mut()
        .insert(header::SET_COOKIE, cookies::delete(&app, name, cookies::Reach::Reader));
    Ok(response)
}

impl App {
    /// Acknowledges a token on behalf of a client that names its event; false when the event is not
    /// that of the session's token.
    ///
    /// # Errors
    /// When the session or the credentials are unknown, or the store is unavailable.
    pub async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
        trace: &Trace,
    ) -> Result<bool, Problem> {
        let relay = self.relay.in_trace(trace);
        match relay.acknowledge(session, session_token, event).await? {
            Acknowledged::Done => {
                tracing::info!(target: "audit", session = %session.key, "acknowledged");
                Ok(true)
            }
            Acknowledged::Already(GoneReason::Acknowledged) => Ok(true),
            Acknowledged::Already(_) | Acknowledged::OtherEvent => Ok(false),
            Acknowledged::Unknown => Err(Problem::SessionNotFound),
            Acknowledged::Unauthorized => Err(Problem::ReaderUnauthorized),
        }
    }

    /// Ends a session on its reader's behalf.
    ///
    /// # Errors
    /// When the session or the credentials are unknown, or the store is unavailable.
    pub async fn end_session(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        trace: &Trace,
    ) -> Result<(), Problem> {
        let ended = self.relay.in_trace(trace).end(session, session_token).await?;
        match ended {
            Ended::Unknown => return Err(Problem::SessionNotFound),
            Ended::Unauthorized => return Err(Problem::ReaderUnauthorized),
            Ended::Acknowledged => {
                tracing::info!(target: "audit", session = %session.key, "acknowledged")
            }
            Ended::Cancelled => {
                tracing::info!(target: "audit", session = %session.key, "cancelled")
            }
            Ended::Already(_) | Ended::Failed => {}
        }
        Ok(())
    }
}

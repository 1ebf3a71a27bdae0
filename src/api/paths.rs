//! Every path of the relay, as the router takes it and as clients fill it in.

/// Creates a session.
pub const SESSIONS: &str = "/addons/sessions";
/// One session: long poll, acknowledge, cancel.
pub const SESSION: &str = "/addons/sessions/{session_id}";
/// Server-sent events of a session.
pub const SESSION_EVENTS: &str = "/addons/sessions/{session_id}/events";
/// WebSocket of a session.
pub const SESSION_WEBSOCKET: &str = "/addons/sessions/{session_id}/ws";

/// A backend fulfils a session.
pub const FULFIL: &str = "/addons/fulfil";

/// The dialog opens here.
pub const TRANSIT: &str = "/addons/transit/";
/// The decision on the confirmation page.
pub const CONFIRM: &str = "/addons/transit/confirm";
/// The opener's proof.
pub const PROOF: &str = "/addons/transit/proof";
/// The typed user code.
pub const CODE: &str = "/addons/transit/code";
/// The person types the user code of a device (RFC 8628 §3.3).
pub const DEVICE: &str = "/addons/device";
/// The decision on the page about the account.
pub const ACCOUNT: &str = "/addons/account";
/// Redirect URI at the OpenID provider.
pub const CALLBACK: &str = "/callback";
/// Issues and delivers the token of a finished sign-in.
pub const REDIRECT: &str = "/addons/redirect";
/// Last page of a successful sign-in.
pub const SUCCESS: &str = "/addons/success";
/// Last page of a failed sign-in.
pub const ERROR: &str = "/addons/error";

/// Claims of the presented access token.
pub const ME: &str = "/addons/me";
/// Forward authentication.
pub const VERIFY: &str = "/addons/verify";
/// Token endpoint (RFC 6749 §3.2).
pub const TOKEN: &str = "/addons/token";
/// Device authorization endpoint (RFC 8628 §3.1).
pub const DEVICE_AUTHORIZATION: &str = "/addons/device_authorization";
/// Introspection endpoint (RFC 7662).
pub const INTROSPECT: &str = "/addons/introspect";
/// Revocation endpoint (RFC 7009).
pub const REVOKE: &str = "/addons/revoke";
/// Logout token endpoint (OpenID Connect Back-Channel Logout §2.5).
pub const BACKCHANNEL_LOGOUT: &str = "/addons/backchannel_logout";
/// Key set (RFC 7517 §5).
pub const JWKS: &str = "/.well-known/jwks.json";
/// Key set of the relay as a client of the OpenID provider (`private_key_jwt`).
pub const CLIENT_JWKS: &str = "/.well-known/client-jwks.json";
/// Authorization server metadata (RFC 8414).
pub const METADATA: &str = "/.well-known/oauth-authorization-server";
/// Protected resource metadata of `/addons/me` (RFC 9728).
pub const ME_METADATA: &str = "/.well-known/oauth-protected-resource/addons/me";

/// Whom to tell of a vulnerability (RFC 9116).
pub const SECURITY_TXT: &str = "/.well-known/security.txt";
/// Liveness.
pub const HEALTHZ: &str = "/healthz";
/// Readiness.
pub const READYZ: &str = "/readyz";
/// Metrics.
pub const METRICS: &str = "/metrics";
/// The operator's page.
pub const OPERATOR: &str = "/operator/";
/// The OpenAPI document.
pub const OPENAPI: &str = "/openapi.json";
/// The AsyncAPI document.
pub const ASYNCAPI: &str = "/asyncapi.json";
/// Both documents as a page.
pub const DOCS: &str = "/docs";
/// Files of the client and of the pages are below this.
pub const STATIC: &str = "/addons/static";

/// Meet: creates a session.
pub const MEET_INIT: &str = "/api/v1.0/addons/sessions/init/";
/// Meet: one poll of a session.
pub const MEET_POLL: &str = "/api/v1.0/addons/sessions/poll/";
/// Meet: server-sent events of a session.
pub const MEET_EVENTS: &str = "/api/v1.0/addons/sessions/events/";
/// Meet: WebSocket of a session.
pub const MEET_WEBSOCKET: &str = "/api/v1.0/addons/sessions/ws/";
/// Meet: fulfils a session.
pub const MEET_EXCHANGE: &str = "/api/v1.0/addons/sessions/exchange/";
/// Meet: starts the browser login.
pub const MEET_AUTHENTICATE: &str = "/api/v1.0/authenticate/";
/// Meet: redirect URI at the OpenID provider.
pub const MEET_CALLBACK: &str = "/api/v1.0/callback/";
/// Meet: ends the browser login.
pub const MEET_LOGOUT: &str = "/api/v1.0/logout/";

/// Meet: the provider sends the browser back here after a logout.
pub const MEET_LOGOUT_CALLBACK: &str = "/api/v1.0/logout-callback/";

/// `template` with `session_id` filled in.
pub fn of_session(template: &str, session_id: &str) -> String {
    match template.split_once("{session_id}") {
        Some((before, after)) => [before, session_id, after].concat(),
        None => template.to_owned(),
    }
}

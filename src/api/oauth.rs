//! Bodies of the OAuth endpoints.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Secret;

/// Form of `POST /addons/token` (RFC 6749 §6, RFC 8628 §3.4).
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenRequest {
    /// `refresh_token` or `urn:ietf:params:oauth:grant-type:device_code`.
    pub grant_type: String,
    /// The newest refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// The device code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_code: Option<Secret>,
    /// The client, or the session ID with a session's refresh token; unless sent by Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Secret>,
    /// The client's secret if it has one, or the session token; unless sent by Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
}

/// Form of `POST /addons/device_authorization` (RFC 8628 §3.1).
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceRequest {
    /// The registered client, unless sent by Basic; `addons` without registered ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Secret>,
    /// Its secret if it has one, unless sent by Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// Scopes that the token is to have, separated by spaces; all that the client may have without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// What the program calls itself; shown to the person where the client has no registered name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// A public key of the client as JSON (an `EncryptionKey`): the answer of the token endpoint is
    /// encrypted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<String>,
    /// Thumbprint of the client's key (RFC 7638), to which its tokens are bound (RFC 9449). Where it is
    /// left out, a proof at the token endpoint binds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpop_jkt: Option<String>,
}

/// Answer to `POST /addons/device_authorization` (RFC 8628 §3.2). There is no
/// `verification_uri_complete`: a person who types the code knows whose sign-in it is.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceAuthorization {
    /// For the token endpoint.
    pub device_code: Secret,
    /// To be shown to the person, who types it at `verification_uri`.
    pub user_code: String,
    /// The page that asks for the code.
    pub verification_uri: String,
    /// Lifetime of both codes in seconds.
    pub expires_in: u64,
    /// Minimum time between two polls in seconds.
    pub interval: u64,
    /// Server-sent events: the token at once. Read with `session_token`.
    pub events_url: String,
    /// WebSocket, likewise.
    pub websocket_url: String,
    /// Long poll; `DELETE` acknowledges a token from a stream, or cancels.
    pub poll_url: String,
    /// Names the session.
    pub session_id: Secret,
    /// Reads the streams.
    pub session_token: Secret,
}

/// Form of `POST /addons/introspect` (RFC 7662 §2.1).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenForm {
    /// The access token.
    pub token: Secret,
}

/// Form of `POST /addons/revoke` (RFC 7009 §2.1): `token` or `sub`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RevocationForm {
    /// The access token or refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// The person of whom everything ends: `sub` of the access tokens. Needs a client with the grant
    /// `revoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
}

/// An error of an OAuth endpoint: the members of RFC 6749 §5.2, and those of RFC 9457.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OAuthError {
    /// Code of RFC 6749 §5.2.
    pub error: String,
    /// What is wrong with this request.
    pub error_description: String,
    /// `urn:token-relay:problem:…`.
    pub r#type: String,
    /// The same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// As `error_description`.
    pub detail: String,
}

/// Answer of the introspection endpoint (RFC 7662 §2.2).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Introspection {
    /// Whether the token is active.
    pub active: bool,
    /// Its claims, if it is.
    #[serde(flatten)]
    #[schema(additional_properties)]
    pub claims: Map<String, Value>,
}

/// A key set (RFC 7517 §5).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JwkSet {
    /// JSON Web Keys.
    #[schema(value_type = Vec<Object>)]
    pub keys: Vec<Value>,
}

/// Authorization server metadata (RFC 8414 §2).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServerMetadata {
    /// `iss` of access tokens.
    pub issuer: String,
    /// Key set.
    pub jwks_uri: String,
    /// Token endpoint.
    pub token_endpoint: String,
    /// How clients authenticate there.
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Device authorization endpoint (RFC 8628 §4), where a client may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_authorization_endpoint: Option<String>,
    /// Introspection endpoint.
    pub introspection_endpoint: String,
    /// How clients authenticate there.
    pub introspection_endpoint_auth_methods_supported: Vec<String>,
    /// Revocation endpoint.
    pub revocation_endpoint: String,
    /// How clients authenticate there.
    pub revocation_endpoint_auth_methods_supported: Vec<String>,
    /// None: there is no authorization endpoint.
    pub response_types_supported: Vec<String>,
    /// Grant types of the token endpoint.
    pub grant_types_supported: Vec<String>,
    /// Scopes that a token may have.
    pub scopes_supported: Vec<String>,
    /// Languages of the pages.
    pub ui_locales_supported: Vec<String>,
    /// Algorithms of DPoP proofs (RFC 9449 §5.1).
    pub dpop_signing_alg_values_supported: Vec<String>,
    /// Resources whose metadata name this server (RFC 9728 §4).
    pub protected_resources: Vec<String>,
    /// The documentation.
    pub service_documentation: String,
}

/// Protected resource metadata (RFC 9728 §2).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResourceMetadata {
    /// The resource.
    pub resource: String,
    /// Issuers whose tokens it accepts.
    pub authorization_servers: Vec<String>,
    /// Scopes that a token may have.
    pub scopes_supported: Vec<String>,
    /// How a token is sent (RFC 6750 §2): `header`.
    pub bearer_methods_supported: Vec<String>,
    /// Algorithms of DPoP proofs (RFC 9728 §2).
    pub dpop_signing_alg_values_supported: Vec<String>,
    /// What it is called.
    pub resource_name: String,
    /// The documentation.
    pub resource_documentation: String,
}

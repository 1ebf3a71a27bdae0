//! Bodies of the OAuth endpoints.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Secret;

/// Form of `POST /addons/token` (RFC 6749 §6).
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenRequest {
    /// `refresh_token`.
    pub grant_type: String,
    /// The newest refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// The session ID, unless sent by Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Secret>,
    /// The session token, unless sent by Basic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
}

/// Form of `POST /addons/introspect` and `POST /addons/revoke` (RFC 7662 §2.1, RFC 7009 §2.1).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenForm {
    /// The access token; for revocation also a refresh token.
    pub token: Secret,
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
    /// Token endpoint, where refresh tokens are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// How clients authenticate there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_endpoint_auth_methods_supported: Vec<String>,
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
    /// The documentation.
    pub service_documentation: String,
}

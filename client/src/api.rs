//! The JSON that travels between the relay and its clients.
//!
//! The relay serialises what the client deserialises and the other way round, so each message is
//! declared once. With the feature `openapi` every type is a `utoipa::ToSchema`.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A text that gives access to something: it is wiped from memory when dropped, and `Debug` does
/// not print it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Body of `POST /addons/sessions`. An empty body stands for a legacy session, which its ID alone
/// opens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// Reading the session will need the `session_token` of the answer.
    #[serde(default)]
    pub bind: bool,
    /// The dialog shows a user code before the login; needs `bind`.
    #[serde(default)]
    pub confirm: bool,
    /// The add-in's name, shown to the person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// The registered client, where the relay has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Scopes that the token is to have, separated by spaces; all that the client may have without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Passed on to the OpenID provider as `login_hint`, such as the person's e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_hint: Option<String>,
    /// Passed on to the OpenID provider as `prompt`, unless the relay's operator or the dialog's
    /// proof decides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// A public key of the add-in: token answers are encrypted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<EncryptionKey>,
    /// SHA-256 thumbprint of a key of the add-in (RFC 7638): its tokens are of use with proofs of this
    /// key alone (DPoP, RFC 9449 §10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9_-]{43}$"))]
    pub dpop_jkt: Option<String>,
}

/// A public key on P-256 as a JWK (RFC 7517, RFC 7518 §6.2.1). Members that are not listed are
/// ignored, but those of a private key are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EncryptionKey {
    /// `EC`.
    #[cfg_attr(feature = "openapi", schema(pattern = "^EC$"))]
    pub kty: String,
    /// `P-256`.
    #[cfg_attr(feature = "openapi", schema(pattern = "^P-256$"))]
    pub crv: String,
    /// The first coordinate, 32 bytes in base64url.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9_-]{43}$"))]
    pub x: String,
    /// The second one.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[A-Za-z0-9_-]{43}$"))]
    pub y: String,
    /// `ECDH-ES`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// `enc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#use: Option<String>,
    /// Further members.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(additional_properties))]
    pub further: serde_json::Map<String, serde_json::Value>,
}

/// What the OpenID provider is to ask of the person (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// To authenticate again.
    Login,
    /// To choose an account.
    SelectAccount,
    /// To consent again.
    Consent,
}

/// Answer to `POST /addons/sessions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateResponse {
    /// Names the session; a legacy session is also read by it.
    pub session_id: Secret,
    /// Remaining lifetime of the session in seconds.
    pub expires_in: u64,
    /// To be opened in the dialog.
    pub transit_url: String,
    /// Server-sent events.
    pub events_url: String,
    /// WebSocket, subprotocol `token-relay.v1`.
    pub websocket_url: String,
    /// Long poll; `DELETE` acknowledges the token or cancels the session.
    pub poll_url: String,
    /// Reads a bound session. Given once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// Opens the dialog of a bound session. Single use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit_token: Option<Secret>,
    /// To be shown beside the dialog (RFC 8628 §6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_code: Option<String>,
}

/// The token response (RFC 6749 §5.1), and what a backend delivers beside the token or in its place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenResponse {
    /// For `Authorization: Bearer` (RFC 6750). Left out, with `token_type`, `expires_in` and
    /// `scope`, where a backend delivers a `payload` alone.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub access_token: Secret,
    /// For the next access token, where the relay issues refresh tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// `Bearer`, or `DPoP` where it is bound to a key.
    #[serde(default)]
    pub token_type: String,
    /// Remaining lifetime in seconds at the time of delivery.
    #[serde(default)]
    pub expires_in: u64,
    /// Scopes, separated by spaces.
    #[serde(default)]
    pub scope: String,
    /// When the login ended, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub authenticated_at: u64,
    /// What the add-in's backend delivers (`POST /addons/fulfil`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Map<String, serde_json::Value>>,
    /// All the other members, encrypted for the `encryption_key` of the creation; then it stands
    /// alone. A compact JWE (RFC 7516): `ECDH-ES` and `A256GCM`, with SHA-256 of the session ID in
    /// `apv`. `expires_in` counts from the issue of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<Secret>,
}

/// An error (RFC 6749 §5.2, §4.1.2.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorResponse {
    /// The code, such as `access_denied`.
    pub error: String,
    /// For people.
    #[serde(default)]
    pub error_description: String,
}

/// What a poll answers and what the events `authenticated` and `failed` carry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SessionState {
    /// The person has not signed in yet.
    Pending,
    /// The token.
    Authenticated(TokenResponse),
    /// The sign-in failed.
    Failed(ErrorResponse),
}

/// Problem details (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemDetails {
    /// `urn:token-relay:problem:…`; see the table of problems.
    #[serde(default)]
    pub r#type: String,
    /// The same for every problem of this type.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What is wrong with this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why the session is over, as the event streams name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

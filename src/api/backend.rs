//! Bodies of the endpoint for backends.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::api::Secret;

/// Body of `POST /addons/fulfil`: which session, and what becomes of it, an account, a payload, both,
/// or an error.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FulfilRequest {
    /// The transit token of the session, or else its user code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transit_token: Option<Secret>,
    /// The user code of the session, as the person typed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_code: Option<String>,
    /// `sub` of the access token: the account, 1 to 255 visible ASCII characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Further claims of the access token. Those that the relay sets itself are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Map<String, Value>>,
    /// Scope of the access token: a part of what the session may have, and all of it without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Delivered as it is; at most 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Map<String, Value>>,
    /// Fails the sign-in with this code (RFC 6749 §4.1.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
}

/// What became of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FulfilResponse {
    /// `authenticated`, `delivered`, `failed`, or `gone` once it was acknowledged.
    pub state: String,
    /// Whether a reader of the session has it.
    pub delivered: bool,
}

//! Bodies of the operator's endpoints.

use serde::{Deserialize, Serialize};

/// Answer of `GET /healthz`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Answer of `GET /readyz`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Readiness {
    /// `ready` or `not ready`.
    pub status: String,
    /// `up` or `unavailable`: the session store.
    pub store: String,
    /// `discovered`, `not yet reached` or `discovery failed`: the OpenID provider.
    pub provider: String,
    /// Why the provider's metadata or keys could not be fetched the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_problem: Option<String>,
    /// What the provider's metadata and the settings do not agree on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provider_warnings: Vec<String>,
    /// Whether the instance is shutting down.
    pub draining: bool,
    /// Open streams.
    pub streams: usize,
}

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
    /// `discovered` or `not yet reached`: the OpenID provider.
    pub provider: String,
    /// Whether the instance is shutting down.
    pub draining: bool,
    /// Open streams.
    pub streams: usize,
}

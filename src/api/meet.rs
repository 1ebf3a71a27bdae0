//! Bodies of the meet-compatible surface.

use serde::{Deserialize, Serialize};

use crate::api::Secret;

/// Answer of `init`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Initialised {
    /// Opens the session's dialog. Single use.
    pub transit_token: Secret,
    /// Reads the session, together with the cookie.
    pub csrf_token: Secret,
}

/// Body of `exchange`.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exchange {
    /// As returned by `init`.
    pub transit_token: Secret,
}

/// An answer that only says that it worked.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// `ok`.
    pub status: String,
}

/// An error, in the shape of Django REST framework.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Detail {
    /// What is wrong, for people.
    pub detail: String,
}

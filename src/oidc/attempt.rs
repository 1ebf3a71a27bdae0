//! One attempt to sign in: what the relay must remember from the authorization request to the
//! authorization response.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{session::Digest, util::clock::UnixTime};

/// `state`, `nonce` and PKCE verifier of one attempt. Secret; stored sealed.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginAttempt {
    pub(crate) state: String,
    pub(crate) nonce: String,
    /// Empty where PKCE is off.
    pub(crate) pkce_verifier: String,
    /// Seconds since the Unix epoch.
    begun_at: u64,
    /// Seconds. An attempt that release 0.1 began has none.
    #[serde(default = "default_ttl")]
    ttl: u64,
}

/// Default lifetime of an attempt.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(600);

fn default_ttl() -> u64 {
    DEFAULT_TTL.as_secs()
}

impl std::fmt::Debug for LoginAttempt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LoginAttempt(redacted)")
    }
}

impl LoginAttempt {
    pub(crate) fn new(state: String, nonce: String, pkce_verifier: String, ttl: Duration) -> Self {
        Self {
            state,
            nonce,
            pkce_verifier,
            begun_at: UnixTime::now().as_secs(),
            ttl: ttl.as_secs(),
        }
    }

    /// The `state` parameter, by which the response finds its attempt.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// How long it lasts.
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl)
    }

    /// Its remaining lifetime.
    pub fn remaining(&self) -> Duration {
        let ends_at = UnixTime::from_secs(self.begun_at) + Duration::from_secs(self.ttl);
        ends_at.saturating_since(UnixTime::now())
    }

    pub(crate) fn has_state(&self, other: &str) -> bool {
        Digest::of(self.state.as_bytes()).matches(&Digest::of(other.as_bytes()))
    }
}

//! The token response as it lies sealed in the store and as the reader gets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    forge::AccessToken,
    sealing::{KeyRing, OpenError, Purpose},
};
use crate::session::{SealedPayload, SessionKey};

/// The members of RFC 6749 §5.1, and when the login ended.
#[derive(Clone, Debug, Serialize)]
pub struct TokenResponse {
    #[serde(serialize_with = "expose")]
    access_token: AccessToken,
    token_type: String,
    /// Remaining life in seconds at the time of delivery.
    expires_in: u64,
    scope: String,
    /// When the login ended, in milliseconds since the Unix epoch.
    authenticated_at: u64,
    #[serde(skip)]
    expires_at: u64,
}

fn expose<S: Serializer>(token: &AccessToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

/// What is sealed; short names, because it is kept once for every session.
#[derive(Serialize, Deserialize)]
struct Kept {
    t: String,
    y: String,
    s: String,
    a: u64,
    e: u64,
}

impl TokenResponse {
    /// A response for a token made at `now`, the time since the Unix epoch.
    pub fn new(
        access_token: AccessToken,
        token_type: &str,
        ttl: Duration,
        scope: &str,
        now: Duration,
    ) -> Self {
        Self {
            access_token,
            token_type: token_type.to_owned(),
            expires_in: ttl.as_secs(),
            scope: scope.to_owned(),
            authenticated_at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            expires_at: now.as_secs() + ttl.as_secs(),
        }
    }

    /// The access token.
    pub fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    /// Seals it for the session that it belongs to.
    pub fn seal(&self, keys: &KeyRing, session: SessionKey) -> SealedPayload {
        let kept = Kept {
            t: self.access_token.expose().to_owned(),
            y: self.token_type.clone(),
            s: self.scope.clone(),
            a: self.authenticated_at,
            e: self.expires_at,
        };
        // Strings and numbers always serialise.
        let plaintext = zeroize::Zeroizing::new(serde_json::to_vec(&kept).unwrap_or_default());
        let context = session.digest().as_bytes();
        SealedPayload(keys.seal(Purpose::Payload, context, &plaintext).into())
    }

    /// Opens what [`Self::seal`] sealed for the same session.
    ///
    /// # Errors
    /// When it was sealed for another session or with a key that is gone.
    pub fn unseal(
        keys: &KeyRing,
        session: SessionKey,
        payload: &SealedPayload,
    ) -> Result<Self, OpenError> {
        let plaintext = keys.open(Purpose::Payload, session.digest().as_bytes(), &payload.0)?;
        let kept: Kept = serde_json::from_slice(&plaintext).map_err(|_| OpenError::Invalid)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self {
            access_token: AccessToken::new(kept.t),
            token_type: kept.y,
            expires_in: kept.e.saturating_sub(now),
            scope: kept.s,
            authenticated_at: kept.a,
            expires_at: kept.e,
        })
    }
}

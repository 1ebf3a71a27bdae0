//! Access tokens that were revoked before they expired, known to every instance through the store.

use std::{sync::Arc, time::Duration};

use crate::{
    session::Digest,
    store::{self, Store, StoreError},
    telemetry::Trace,
    token::verify::Claims,
};

/// The revoked access tokens, by their `jti`.
pub struct Revocations {
    store: Arc<dyn Store>,
}

impl Revocations {
    /// Revocations in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The same, with the calls of the store recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { store: store::in_trace(&self.store, trace) }
    }

    fn name(jti: &str) -> Digest {
        Digest::of(format!("revoked:{jti}").as_bytes())
    }

    /// Revokes a token for the rest of its lifetime, `remaining`. Revoking it again changes nothing.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn revoke(&self, jti: &str, remaining: Duration) -> Result<(), StoreError> {
        self.store.mark(Self::name(jti), remaining).await.map(|_| ())
    }

    /// Whether a token was revoked, or the grant that it belongs to.
    ///
    /// # Errors
    /// When the store is unavailable; the caller must then refuse the token.
    pub async fn is_revoked(&self, claims: &Claims) -> Result<bool, StoreError> {
        let token = self.store.is_marked(Self::name(&claims.jti));
        let Some(grant) = claims.sid else { return token.await };
        let (token, grant) = tokio::try_join!(token, self.store.is_grant_ended(grant))?;
        Ok(token || grant)
    }
}

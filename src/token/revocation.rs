//! Access tokens that were revoked before they expired, known to every instance through the store.

use std::{sync::Arc, time::Duration};

use crate::{
    session::{AccountId, Digest},
    store::{self, Store, StoreError},
    telemetry::Trace,
    token::verify::Claims,
    util::clock::UnixTime,
};

/// The revoked access tokens: by their `jti`, by their grant, and by the person.
pub struct Revocations {
    store: Arc<dyn Store>,
    /// `iss` of the access tokens.
    issuer: String,
    /// How long the end of everything that a person was granted is remembered: as long as a grant or
    /// an access token can be valid.
    memory: Duration,
}

impl Revocations {
    /// Revocations in `store` of access tokens of `issuer`. No access token, refresh token or browser
    /// login is valid for longer than `max_ttl`.
    pub fn new(store: Arc<dyn Store>, issuer: String, max_ttl: Duration) -> Self {
        // Verifiers tolerate clocks that differ a little.
        Self { store, issuer, memory: max_ttl + Duration::from_secs(60) }
    }

    /// The same, with the calls of the store recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        let store = store::in_trace(&self.store, trace);
        Self { store, issuer: self.issuer.clone(), memory: self.memory }
    }

    fn name(jti: &str) -> Digest {
        Digest::of(format!("revoked:{jti}").as_bytes())
    }

    /// Revokes a token for the rest of its lifetime, `remaining`. Revoking it again changes nothing.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn revoke(&self, jti: &str, remaining: Duration) -> Result<(), StoreError> {
        self.store.mark_durably(Self::name(jti), remaining).await.map(|_| ())
    }

    /// Ends everything that was granted to the person `subject` until now: access tokens, grants with
    /// their refresh tokens, browser logins.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn end_account(&self, subject: &str) -> Result<(), StoreError> {
        let account = AccountId::new(&self.issuer, subject);
        self.store.end_account(account, UnixTime::now(), self.memory).await
    }

    /// Whether what was granted to the person `subject` at `granted_at` has ended.
    ///
    /// # Errors
    /// When the store is unavailable; the caller must then refuse.
    pub async fn has_ended(&self, subject: &str, granted_at: UnixTime) -> Result<bool, StoreError> {
        let account = AccountId::new(&self.issuer, subject);
        let ended_at = self.store.account_ended_at(account).await?;
        Ok(ended_at.is_some_and(|ended_at| granted_at <= ended_at))
    }

    /// Whether a token was revoked, or the grant that it belongs to, or everything of its person.
    ///
    /// # Errors
    /// When the store is unavailable; the caller must then refuse the token.
    pub async fn is_revoked(&self, claims: &Claims) -> Result<bool, StoreError> {
        // `iat` has no fraction, so a token of the second of the end counts as issued before.
        let person = self.has_ended(&claims.sub, UnixTime::from_secs(claims.iat));
        let token = self.store.is_marked(Self::name(&claims.jti));
        let Some(grant) = claims.sid else {
            return tokio::try_join!(token, person).map(|(token, person)| token || person);
        };
        let grant = self.store.is_grant_ended(grant);
        let (token, person, grant) = tokio::try_join!(token, person, grant)?;
        Ok(token || person || grant)
    }
}

//! Logouts at the provider (OpenID Connect Back-Channel Logout): what was granted before one does
//! not count any more, on any instance.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    session::{AccountId, Digest},
    store::{self, Store, StoreError},
    telemetry::Trace,
    util::clock::UnixTime,
};

/// A sign-in, as far as a logout names what it ends.
#[derive(Clone, Copy, Debug)]
pub struct SignedIn<'a> {
    /// The provider's `iss`; empty where an earlier version did not record it.
    pub issuer: &'a str,
    /// The provider's `sub`.
    pub subject: &'a str,
    /// The provider's `sid`.
    pub session_id: Option<&'a str>,
    /// When it was.
    pub at: UnixTime,
}

/// The logouts.
pub struct Logouts {
    store: Arc<dyn Store>,
    /// How long one is remembered.
    memory: Duration,
}

/// The name under which the store has the logout of an account.
fn of_account(issuer: &str, subject: &str) -> Digest {
    let account = AccountId::new(issuer, subject);
    Digest::of(&[b"logout of account:", &account.as_ref()[..]].concat())
}

/// The name under which the store has the logout of a session at the provider.
fn of_session(issuer: &str, session_id: &str) -> Digest {
    let named = format!("logout of session:{} {issuer} {session_id}", issuer.len());
    Digest::of(named.as_bytes())
}

impl Logouts {
    /// Logouts in `store`, each remembered for `memory`: as long as what it ends could last.
    pub fn new(store: Arc<dyn Store>, memory: Duration) -> Self {
        Self { store, memory }
    }

    /// The same, with the calls of the store recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { store: store::in_trace(&self.store, trace), memory: self.memory }
    }

    /// Records a logout: of one session at the provider if it names one, else of all of the
    /// subject's. By this host's clock, since a provider's that is behind would spare what came
    /// shortly before.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn record(
        &self,
        issuer: &str,
        subject: Option<&str>,
        session_id: Option<&str>,
    ) -> Result<(), StoreError> {
        let name = match (session_id, subject) {
            (Some(session_id), _) => of_session(issuer, session_id),
            (None, Some(subject)) => of_account(issuer, subject),
            (None, None) => return Ok(()),
        };
        let now = UnixTime::now().as_millis().to_string();
        self.store.put_value(name, Bytes::from(now), self.memory).await
    }

    /// Whether a logout since has ended what this sign-in granted.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn cover(&self, signed_in: SignedIn<'_>) -> Result<bool, StoreError> {
        let SignedIn { issuer, subject, session_id, at } = signed_in;
        let account = self.store.value(of_account(issuer, subject));
        let session = async {
            match session_id {
                Some(session_id) => self.store.value(of_session(issuer, session_id)).await,
                None => Ok(None),
            }
        };
        let (account, session) = tokio::try_join!(account, session)?;
        let is_later = |logout: Bytes| {
            let logout = std::str::from_utf8(&logout).ok().and_then(|text| text.parse().ok());
            logout.is_none_or(|logout: u64| at.as_millis() <= logout)
        };
        Ok([account, session].into_iter().flatten().any(is_later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    struct Nobody;

    impl crate::store::Notifier for Nobody {
        fn changed(&self, _: crate::session::SessionKey, _: Option<crate::store::Fulfilled>) {}
        fn resync(&self) {}
    }

    #[tokio::test]
    async fn a_logout_ends_what_came_before_it_and_nothing_else() {
        let store = MemoryStore::new(Arc::new(Nobody), usize::MAX);
        let logouts = Logouts::new(store, Duration::from_secs(60));
        let before = UnixTime::now();
        let after = before + Duration::from_secs(5);
        let sign_in =
            |issuer, subject, session_id, at| SignedIn { issuer, subject, session_id, at };
        let covered = async |signed_in| logouts.cover(signed_in).await.unwrap();

        logouts.record("https://a", Some("alice"), Some("1")).await.unwrap();
        assert!(covered(sign_in("https://a", "alice", Some("1"), before)).await);
        assert!(!covered(sign_in("https://a", "alice", Some("1"), after)).await);
        assert!(!covered(sign_in("https://a", "alice", Some("2"), before)).await);
        assert!(!covered(sign_in("https://a", "alice", None, before)).await);
        assert!(!covered(sign_in("https://b", "alice", Some("1"), before)).await);

        logouts.record("https://a", Some("alice"), None).await.unwrap();
        assert!(covered(sign_in("https://a", "alice", Some("2"), before)).await);
        assert!(covered(sign_in("https://a", "alice", None, before)).await);
        assert!(!covered(sign_in("https://a", "alice", None, after)).await);
        assert!(!covered(sign_in("https://a", "bob", None, before)).await);
        assert!(!covered(sign_in("https://b", "alice", None, before)).await);
    }
}

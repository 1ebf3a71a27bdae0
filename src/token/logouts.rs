//! Logouts at the provider (OpenID Connect Back-Channel Logout): what was granted before one does
//! not count any more, on any instance.

use std::{sync::Arc, time::Duration};

use crate::{
    session::AccountId,
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

/// A session at the provider, which a logout ends as it ends an account.
fn session_at(issuer: &str, session_id: &str) -> AccountId {
    AccountId::new(&format!("session at {issuer}"), session_id)
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
        let ended = match (session_id, subject) {
            (Some(session_id), _) => session_at(issuer, session_id),
            (None, Some(subject)) => AccountId::new(issuer, subject),
            (None, None) => return Ok(()),
        };
        self.store.end_account(ended, UnixTime::now(), self.memory).await
    }

    /// Whether a logout since has ended what this sign-in granted.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn cover(&self, signed_in: SignedIn<'_>) -> Result<bool, StoreError> {
        let SignedIn { issuer, subject, session_id, at } = signed_in;
        let account = self.store.account_ended_at(AccountId::new(issuer, subject));
        let session = async {
            match session_id {
                Some(id) => self.store.account_ended_at(session_at(issuer, id)).await,
                None => Ok(None),
            }
        };
        let (account, session) = tokio::try_join!(account, session)?;
        let ended_at = account.max(session);
        Ok(ended_at.is_some_and(|ended_at| at.as_millis() <= ended_at.as_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    struct Nobody;

    impl crate::store::Notifier for Nobody {
        fn changed(
            &self,
            _: crate::session::SessionKey,
            _: Option<crate::store::Fulfilled>,
        ) -> bool {
            false
        }
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
    #[tokio::test]
    async fn a_logout_outlives_a_restart_with_a_state_file() {
        let name = format!("token-relay-logouts-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let open = || {
            let store = MemoryStore::with_state_file(&path, Arc::new(Nobody), 1 << 20).unwrap();
            Logouts::new(store, Duration::from_secs(60))
        };
        let at = UnixTime::now();
        let logouts = open();
        logouts.record("https://a", Some("alice"), None).await.unwrap();
        drop(logouts);
        let signed_in = |subject| SignedIn { issuer: "https://a", subject, session_id: None, at };
        let logouts = open();
        assert!(logouts.cover(signed_in("alice")).await.unwrap());
        assert!(!logouts.cover(signed_in("bob")).await.unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}

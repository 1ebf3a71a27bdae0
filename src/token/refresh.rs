//! Refresh tokens: rotated on every use, bound to the session's creator, self-contained.
//!
//! A refresh token is an envelope with everything that the next access token needs; the store holds
//! only the generation of the newest one (RFC 9700 §4.14.2).

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{
    session::{ClientId, Digest, GrantId, Identity, SessionKey},
    store::{self, Rotated, Store, StoreError},
    telemetry::Trace,
    token::{
        logouts::SignedIn,
        sealing::{KeyRing, Purpose},
        secret::RefreshToken,
    },
    util::clock::UnixTime,
};

/// A grant, as a refresh token carries it.
#[derive(Clone, Debug)]
pub struct RefreshGrant {
    /// The `sid` of the access tokens issued under it.
    pub id: GrantId,
    /// Counts the refresh tokens of the grant, from 1.
    generation: u32,
    /// The session that the person signed in for.
    session: SessionKey,
    /// SHA-256 of its session token, which a client presents with the refresh token.
    client: Digest,
    /// The person.
    pub identity: Identity,
    /// When the person signed in.
    pub authenticated_at: UnixTime,
    /// When this refresh token expires.
    expires_at: UnixTime,
    /// When the grant expires, however often its token is rotated.
    ends_at: UnixTime,
}

impl RefreshGrant {
    /// What a logout at the provider may end.
    pub fn signed_in(&self) -> SignedIn<'_> {
        SignedIn {
            issuer: &self.identity.issuer,
            subject: &self.identity.subject,
            session_id: self.identity.session_id.as_deref(),
            at: self.authenticated_at,
        }
    }
}

/// What the envelope holds, in the order of [`RefreshGrant`]'s fields.
#[derive(Serialize, Deserialize)]
struct Sealed {
    i: GrantId,
    g: u32,
    s: SessionKey,
    k: Digest,
    u: String,
    c: Map<String, Value>,
    a: u64,
    x: u64,
    e: u64,
    /// The provider's `iss` and `sid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    n: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    h: Option<String>,
    /// The client and the scope that it requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    l: Option<ClientId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<String>,
}

/// Why a refresh token is refused.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// It was not issued here, or has expired.
    #[error("the refresh token is not valid or has expired")]
    Invalid,
    /// It belongs to another session, or the session token does not match.
    #[error("the refresh token was not given to this client")]
    WrongClient,
    /// It was used before, which ends the grant.
    #[error("the refresh token was used before; sign in again")]
    Reused,
    /// The grant has ended: it was revoked, or one of its refresh tokens was used twice.
    #[error("the grant has ended; sign in again")]
    Ended,
    /// The store is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Issues, rotates and ends grants.
pub struct Refresh {
    store: Arc<dyn Store>,
    /// Lifetime of one refresh token.
    token_ttl: Duration,
    /// Maximum lifetime of a grant.
    grant_ttl: Duration,
    /// How long the store remembers that a grant ended: as long as an access token can be valid.
    memory: Duration,
}

impl Refresh {
    /// Refresh tokens that expire after `token_ttl` each, and after `grant_ttl` together;
    /// `access_token_ttl` is the lifetime of the access tokens beside them.
    pub fn new(
        store: Arc<dyn Store>,
        token_ttl: Duration,
        grant_ttl: Duration,
        access_token_ttl: Duration,
    ) -> Self {
        // Verifiers tolerate clocks that differ a little.
        let memory = access_token_ttl + Duration::from_secs(60);
        Self { store, token_ttl, grant_ttl, memory }
    }

    /// The same, with the calls of the store recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        Self { store: store::in_trace(&self.store, trace), ..*self }
    }

    /// Begins a grant with its first refresh token, for the session whose session token has the
    /// digest `client`.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn begin(
        &self,
        keys: &KeyRing,
        session: SessionKey,
        client: Digest,
        identity: Identity,
        now: UnixTime,
    ) -> Result<(GrantId, RefreshToken), StoreError> {
        let id = GrantId::generate();
        let grant = RefreshGrant {
            id,
            generation: 1,
            session,
            client,
            identity,
            authenticated_at: now,
            expires_at: now + self.token_ttl.min(self.grant_ttl),
            ends_at: now + self.grant_ttl,
        };
        self.store.begin_grant(id, grant.expires_at.saturating_since(now)).await?;
        Ok((id, grant.seal(keys)))
    }

    /// The grant of a refresh token that was issued here and has not expired at `now`.
    ///
    /// # Errors
    /// [`RefreshError::Invalid`].
    pub fn open(
        &self,
        keys: &KeyRing,
        text: &str,
        now: UnixTime,
    ) -> Result<RefreshGrant, RefreshError> {
        RefreshGrant::open(keys, text)
            .filter(|grant| now < grant.expires_at)
            .ok_or(RefreshError::Invalid)
    }

    /// Exchanges a refresh token for the next one, for the client with this session and session
    /// token.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn rotate(
        &self,
        keys: &KeyRing,
        text: &str,
        session: SessionKey,
        client: Digest,
        now: UnixTime,
    ) -> Result<(RefreshGrant, RefreshToken), RefreshError> {
        let mut grant = self.open(keys, text, now)?;
        if grant.session != session || !grant.client.matches(&client) {
            return Err(RefreshError::WrongClient);
        }
        let expires_at = (now + self.token_ttl).min(grant.ends_at);
        let ttl = expires_at.saturating_since(now);
        match self.store.rotate_grant(grant.id, grant.generation, ttl, self.memory).await? {
            Rotated::Done => {}
            Rotated::Reused => return Err(RefreshError::Reused),
            Rotated::Ended => return Err(RefreshError::Ended),
            Rotated::Unknown => return Err(RefreshError::Invalid),
        }
        grant.generation = grant.generation.saturating_add(1);
        grant.expires_at = expires_at;
        let next = grant.seal(keys);
        Ok((grant, next))
    }

    /// Ends a grant: its refresh tokens at once, and its access tokens wherever they are verified.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn end(&self, grant: GrantId) -> Result<(), StoreError> {
        self.store.end_grant(grant, self.memory).await
    }
}

impl RefreshGrant {
    fn seal(&self, keys: &KeyRing) -> RefreshToken {
        let sealed = Sealed {
            i: self.id,
            g: self.generation,
            s: self.session,
            k: self.client,
            u: self.identity.subject.clone(),
            c: self.identity.claims.clone(),
            a: self.authenticated_at.as_millis(),
            x: self.expires_at.as_secs(),
            e: self.ends_at.as_secs(),
            n: self.identity.issuer.clone(),
            h: self.identity.session_id.clone(),
            l: self.identity.client_id.clone(),
            o: self.identity.scope.clone(),
        };
        // Strings, numbers and JSON always serialise.
        let plaintext = Zeroizing::new(serde_json::to_vec(&sealed).unwrap_or_default());
        let envelope = keys.seal(Purpose::RefreshToken, &[], &plaintext);
        RefreshToken::new(URL_SAFE_NO_PAD.encode(envelope))
    }

    fn open(keys: &KeyRing, text: &str) -> Option<Self> {
        let envelope = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plaintext = keys.open(Purpose::RefreshToken, &[], &envelope).ok()?;
        let sealed: Sealed = serde_json::from_slice(&plaintext).ok()?;
        Some(Self {
            id: sealed.i,
            generation: sealed.g,
            session: sealed.s,
            client: sealed.k,
            identity: Identity {
                issuer: sealed.n,
                session_id: sealed.h,
                ..Identity::new(sealed.u, sealed.c).signed_in_to(sealed.l, sealed.o)
            },
            authenticated_at: UnixTime::from_millis(sealed.a),
            expires_at: UnixTime::from_secs(sealed.x),
            ends_at: UnixTime::from_secs(sealed.e),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{session::SessionId, store::memory::MemoryStore};

    struct Nobody;

    impl crate::store::Notifier for Nobody {
        fn changed(&self, _: SessionKey, _: Option<crate::store::Fulfilled>) {}
        fn resync(&self) {}
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn refresh() -> Refresh {
        Refresh::new(MemoryStore::new(Arc::new(Nobody)), 24 * HOUR, 30 * HOUR, HOUR)
    }

    fn identity() -> Identity {
        let claims = serde_json::json!({"name": "Alice"}).as_object().cloned().unwrap_or_default();
        Identity::new("alice", claims)
    }

    #[tokio::test]
    async fn tokens_rotate_and_a_second_use_ends_the_grant() {
        let (refresh, keys) = (refresh(), KeyRing::random());
        let (session, client) = (SessionId::generate().key(), Digest::of(b"session token"));
        let (id, first) = refresh.begin(&keys, session, client, identity(), NOW).await.unwrap();
        let rotate = async |token: &RefreshToken, now| {
            refresh.rotate(&keys, token.expose(), session, client, now).await
        };
        let (grant, second) = rotate(&first, NOW + HOUR).await.unwrap();
        assert_eq!((grant.id, grant.identity.subject.as_str()), (id, "alice"));
        assert_eq!(grant.identity.claims["name"], "Alice");
        assert_eq!(grant.authenticated_at, NOW);
        let (_, third) = rotate(&second, NOW + 2 * HOUR).await.unwrap();
        assert!(matches!(rotate(&first, NOW + 2 * HOUR).await, Err(RefreshError::Reused)));
        assert!(matches!(rotate(&third, NOW + 2 * HOUR).await, Err(RefreshError::Ended)));
        assert!(refresh.store.is_grant_ended(id).await.unwrap());
    }

    #[tokio::test]
    async fn a_token_is_refused_from_another_client_and_after_it_expired() {
        let (refresh, keys) = (refresh(), KeyRing::random());
        let (session, client) = (SessionId::generate().key(), Digest::of(b"session token"));
        let (_, token) = refresh.begin(&keys, session, client, identity(), NOW).await.unwrap();
        let rotate = async |keys, session, client, now| {
            refresh.rotate(keys, token.expose(), session, client, now).await
        };
        let other = Digest::of(b"another");
        assert!(matches!(rotate(&keys, session, other, NOW).await, Err(RefreshError::WrongClient)));
        let elsewhere = SessionId::generate().key();
        assert!(matches!(
            rotate(&keys, elsewhere, client, NOW).await,
            Err(RefreshError::WrongClient)
        ));
        let later = NOW + 24 * HOUR;
        assert!(matches!(rotate(&keys, session, client, later).await, Err(RefreshError::Invalid)));
        let foreign = KeyRing::random();
        assert!(matches!(rotate(&foreign, session, client, NOW).await, Err(RefreshError::Invalid)));
        // None of that consumed it.
        let (_, next) = rotate(&keys, session, client, NOW + 20 * HOUR).await.unwrap();
        // The grant ends, whenever its last token was issued.
        let end = NOW + 30 * HOUR;
        let late = refresh.rotate(&keys, next.expose(), session, client, end).await;
        assert!(matches!(late, Err(RefreshError::Invalid)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_refresh_token_by_chance(text in ".{0,400}") {
            let opened = RefreshGrant::open(&KeyRing::random(), &text);
            proptest::prop_assert!(opened.is_none());
        }
    }
}

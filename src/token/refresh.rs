//! Refresh tokens: rotated on every use, bound to the session's creator, self-contained.
//!
//! A refresh token is an envelope with everything that the next access token needs; the store holds
//! only the generation of the newest one (RFC 9700 §4.14.2).

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    session::{
        AccountId, Binding, ClientId, Digest, GrantId, Identity, Requested, SessionKey, Thumbprint,
    },
    store::{self, Rotated, Store, StoreError},
    telemetry::Trace,
    token::{
        logouts::SignedIn,
        sealing::{KeyRing, Purpose},
        secret::RefreshToken,
    },
    util::{clock::UnixTime, wiped::WipedBytes},
};

/// Who may use the refresh tokens of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// SHA-256 of the session token: whoever holds it may.
    pub session_token: Digest,
    /// Whether the client alone may, too, by its client ID and its secret if it has one: clients of
    /// the device authorization grant know no session.
    pub client: bool,
}

/// Who presents a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presenter {
    /// The session's creator, by SHA-256 of its session token.
    Session(SessionKey, Digest),
    /// A client, as RFC 6749 §3.2.1 and §6 know it.
    Client(ClientId),
}

/// A grant, as a refresh token carries it.
#[derive(Clone, Debug)]
pub struct RefreshGrant {
    /// The `sid` of the access tokens issued under it.
    pub id: GrantId,
    /// Counts the refresh tokens of the grant, from 1.
    generation: u32,
    /// The session that the person signed in for.
    session: SessionKey,
    /// Who may use it.
    holder: Holder,
    /// The keys of the client, to which its tokens are bound.
    pub binding: Binding,
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
    /// Whether the client may use it without the session token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    d: bool,
    /// How and when the provider authenticated the person: `acr`, `amr`, `auth_time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ar: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    am: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// The backend in the provider's place, and what the client said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b: Option<ClientId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    q: Option<Requested>,
    /// The keys of the client.
    #[serde(default, skip_serializing_if = "Binding::is_empty")]
    w: Binding,
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
    /// `iss` of the access tokens.
    issuer: String,
    /// Lifetime of one refresh token.
    token_ttl: Duration,
    /// Maximum lifetime of a grant.
    grant_ttl: Duration,
    /// How long the store remembers that a grant ended: as long as an access token can be valid.
    memory: Duration,
}

impl Refresh {
    /// Refresh tokens that expire after `token_ttl` each, and after `grant_ttl` together;
    /// `access_token_ttl` is the lifetime of the access tokens of `issuer` beside them.
    pub fn new(
        store: Arc<dyn Store>,
        issuer: String,
        token_ttl: Duration,
        grant_ttl: Duration,
        access_token_ttl: Duration,
    ) -> Self {
        // Verifiers tolerate clocks that differ a little.
        let memory = access_token_ttl + Duration::from_secs(60);
        Self { store, issuer, token_ttl, grant_ttl, memory }
    }

    /// The same, with the calls of the store recorded in `trace`.
    #[must_use]
    pub fn in_trace(&self, trace: &Trace) -> Self {
        let store = store::in_trace(&self.store, trace);
        Self { store, issuer: self.issuer.clone(), ..*self }
    }

    /// Begins a grant with its first refresh token, for `holder`.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn begin(
        &self,
        keys: &KeyRing,
        session: SessionKey,
        holder: Holder,
        binding: Binding,
        identity: Identity,
        now: UnixTime,
    ) -> Result<(GrantId, RefreshToken), StoreError> {
        let id = GrantId::generate();
        let grant = RefreshGrant {
            id,
            generation: 1,
            session,
            holder,
            binding,
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

    /// Exchanges a refresh token for the next one, which is bound to `dpop_key` from now on where that
    /// is named.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn rotate(
        &self,
        keys: &KeyRing,
        text: &str,
        presenter: &Presenter,
        dpop_key: Option<Thumbprint>,
        now: UnixTime,
    ) -> Result<(RefreshGrant, RefreshToken), RefreshError> {
        let mut grant = self.open(keys, text, now)?;
        if !grant.is_held_by(presenter) {
            return Err(RefreshError::WrongClient);
        }
        let account = AccountId::new(&self.issuer, &grant.identity.subject);
        let ended_at = self.store.account_ended_at(account).await?;
        if ended_at.is_some_and(|ended_at| grant.authenticated_at <= ended_at) {
            return Err(RefreshError::Ended);
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
        grant.binding.dpop_key = dpop_key.or(grant.binding.dpop_key);
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
    /// The session that the person signed in for.
    pub fn session(&self) -> SessionKey {
        self.session
    }

    /// Whether `presenter` may use it.
    pub fn is_held_by(&self, presenter: &Presenter) -> bool {
        match presenter {
            Presenter::Session(session, session_token) => {
                self.session == *session && self.holder.session_token.matches(session_token)
            }
            Presenter::Client(client) => {
                let implied = ClientId::implied();
                let own = self.identity.client_id.as_ref().unwrap_or(&implied);
                self.holder.client && own == client
            }
        }
    }

    /// The same refresh token bound to `key`; `None` where it cannot be opened.
    pub(super) fn bind(keys: &KeyRing, text: &str, key: Thumbprint) -> Option<RefreshToken> {
        let mut grant = Self::open(keys, text)?;
        grant.binding.dpop_key = Some(key);
        Some(grant.seal(keys))
    }

    fn seal(&self, keys: &KeyRing) -> RefreshToken {
        let sealed = Sealed {
            i: self.id,
            g: self.generation,
            s: self.session,
            k: self.holder.session_token,
            u: self.identity.subject.clone(),
            c: self.identity.claims.clone(),
            a: self.authenticated_at.as_millis(),
            x: self.expires_at.as_secs(),
            e: self.ends_at.as_secs(),
            n: self.identity.issuer.clone(),
            h: self.identity.session_id.clone(),
            l: self.identity.client_id.clone(),
            o: self.identity.scope.clone(),
            d: self.holder.client,
            ar: self.identity.acr.clone(),
            am: self.identity.amr.clone(),
            at: self.identity.auth_time,
            b: self.identity.idp.clone(),
            q: Some((*self.identity.requested).clone())
                .filter(|said| *said != Requested::default()),
            w: self.binding.clone(),
        };
        // Strings, numbers and JSON always serialise.
        let plaintext = WipedBytes::from(serde_json::to_vec(&sealed).unwrap_or_default());
        let envelope = keys.seal(Purpose::RefreshToken, &[], &plaintext);
        RefreshToken::new(URL_SAFE_NO_PAD.encode(envelope))
    }

    fn open(keys: &KeyRing, text: &str) -> Option<Self> {
        let envelope = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plaintext = keys.open(Purpose::RefreshToken, &[], &envelope).ok()?;
        let sealed: Sealed = serde_json::from_slice(&plaintext).ok()?;
        let identity = Identity {
            issuer: sealed.n,
            session_id: sealed.h,
            acr: sealed.ar,
            amr: sealed.am,
            auth_time: sealed.at,
            idp: sealed.b,
            ..Identity::new(sealed.u, sealed.c)
                .signed_in_to(sealed.l, sealed.o)
                .at_request(sealed.q.unwrap_or_default())
        };
        Some(Self {
            id: sealed.i,
            generation: sealed.g,
            session: sealed.s,
            holder: Holder { session_token: sealed.k, client: sealed.d },
            binding: sealed.w,
            identity,
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
        fn changed(&self, _: SessionKey, _: Option<crate::store::Fulfilled>) -> bool {
            false
        }
        fn resync(&self) {}
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn refresh() -> Refresh {
        let store = MemoryStore::new(Arc::new(Nobody), usize::MAX);
        Refresh::new(store, "https://relay.example".to_owned(), 24 * HOUR, 30 * HOUR, HOUR)
    }

    fn holder() -> Holder {
        Holder { session_token: Digest::of(b"session token"), client: false }
    }

    fn identity() -> Identity {
        let claims = serde_json::json!({"name": "Alice"}).as_object().cloned().unwrap_or_default();
        Identity::new("alice", claims)
    }

    #[tokio::test]
    async fn tokens_rotate_and_a_second_use_ends_the_grant() {
        let (refresh, keys) = (refresh(), KeyRing::random());
        let (session, holder) = (SessionId::generate().key(), holder());
        let (id, first) = refresh
            .begin(&keys, session, holder, Binding::default(), identity(), NOW)
            .await
            .unwrap();
        let presenter = Presenter::Session(session, holder.session_token);
        let rotate = async |token: &RefreshToken, now| {
            refresh.rotate(&keys, token.expose(), &presenter, None, now).await
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
    async fn everything_of_a_person_ends_and_what_is_granted_later_does_not() {
        let (refresh, keys) = (refresh(), KeyRing::random());
        let (session, holder) = (SessionId::generate().key(), holder());
        let presenter = Presenter::Session(session, holder.session_token);
        let (_, before) = refresh
            .begin(&keys, session, holder, Binding::default(), identity(), NOW)
            .await
            .unwrap();
        let at = NOW + Duration::from_secs(1);
        let alice = AccountId::new("https://relay.example", "alice");
        refresh.store.end_account(alice, at, 30 * HOUR).await.unwrap();
        let later = NOW + HOUR;
        let (_, after) = refresh
            .begin(&keys, session, holder, Binding::default(), identity(), later)
            .await
            .unwrap();
        let rotate = async |token: &RefreshToken| {
            refresh.rotate(&keys, token.expose(), &presenter, None, later).await
        };
        assert!(matches!(rotate(&before).await, Err(RefreshError::Ended)));
        assert!(rotate(&after).await.is_ok());
    }

    #[tokio::test]
    async fn a_token_is_refused_from_another_client_and_after_it_expired() {
        let (refresh, keys) = (refresh(), KeyRing::random());
        let (session, holder) = (SessionId::generate().key(), holder());
        let client = holder.session_token;
        let (_, token) = refresh
            .begin(&keys, session, holder, Binding::default(), identity(), NOW)
            .await
            .unwrap();
        let rotate = async |keys, session, client, now| {
            let presenter = Presenter::Session(session, client);
            refresh.rotate(keys, token.expose(), &presenter, None, now).await
        };
        // Nor is it the client's without its session.
        let client_alone = Presenter::Client(ClientId::implied());
        let alone = refresh.rotate(&keys, token.expose(), &client_alone, None, NOW).await;
        assert!(matches!(alone, Err(RefreshError::WrongClient)));
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
        let presenter = Presenter::Session(session, client);
        let late = refresh.rotate(&keys, next.expose(), &presenter, None, end).await;
        assert!(matches!(late, Err(RefreshError::Invalid)));
    }

    #[tokio::test]
    async fn a_client_without_a_session_uses_its_own_tokens_and_no_others() {
        let (refresh, keys, session) = (refresh(), KeyRing::random(), SessionId::generate().key());
        let holder = Holder { client: true, ..holder() };
        let signed_in = Identity {
            acr: Some("urn:example:loa2".to_owned()),
            amr: vec!["pwd".to_owned(), "otp".to_owned()],
            auth_time: Some(1_799_999_000),
            issuer: "https://id.example".to_owned(),
            ..identity().signed_in_to("cli".parse().ok(), None)
        };
        let (_, first) = refresh
            .begin(&keys, session, holder, Binding::default(), signed_in, NOW)
            .await
            .unwrap();
        let rotate = async |token: &RefreshToken, presenter| {
            refresh.rotate(&keys, token.expose(), &presenter, None, NOW).await
        };
        let other = Presenter::Client("other".parse().unwrap());
        assert!(matches!(rotate(&first, other).await, Err(RefreshError::WrongClient)));
        let own = Presenter::Client("cli".parse().unwrap());
        let (grant, second) = rotate(&first, own.clone()).await.unwrap();
        // What the next access token says of the login (RFC 9068 §2.2.1).
        assert_eq!(grant.identity.acr.as_deref(), Some("urn:example:loa2"));
        assert_eq!(grant.identity.amr, ["pwd", "otp"]);
        assert_eq!(grant.identity.auth_time, Some(1_799_999_000));
        assert_eq!(grant.identity.issuer, "https://id.example");
        let by_session = Presenter::Session(session, holder.session_token);
        let (_, third) = rotate(&second, by_session).await.unwrap();
        assert!(matches!(rotate(&first, own.clone()).await, Err(RefreshError::Reused)));
        assert!(matches!(rotate(&third, own).await, Err(RefreshError::Ended)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_refresh_token_by_chance(text in ".{0,400}") {
            let opened = RefreshGrant::open(&KeyRing::random(), &text);
            proptest::prop_assert!(opened.is_none());
        }
    }
}

//! The token response, as it is encrypted for its reader, sealed for the store, and delivered.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::{Map, Value};

use crate::{
    session::{ClientId, EncryptionKey, SealedPayload, SessionKey, Thumbprint},
    telemetry::TraceContext,
    token::{
        dpop::{DPOP, KeyConfirmation},
        error::SignError,
        jwe::{self, EncryptError},
        keys::SigningKeys,
        refresh::RefreshGrant,
        sealing::{KeyRing, OpenError, Purpose},
        secret::{AccessToken, RefreshToken},
    },
    util::{clock::UnixTime, wiped::WipedBytes},
};

/// The members of RFC 6749 §5.1, when the person signed in, and the payload of a backend.
#[derive(Clone, Debug)]
pub struct TokenResponse {
    /// Empty where a backend delivers a payload alone, and once it is encrypted.
    access_token: AccessToken,
    refresh_token: Option<RefreshToken>,
    token_type: String,
    /// Remaining lifetime at delivery, in seconds.
    expires_in: u64,
    scope: String,
    /// When the person signed in, in milliseconds since the Unix epoch.
    authenticated_at: u64,
    payload: Option<Box<Map<String, Value>>>,
    /// All of the above as JWE, in its place.
    encrypted: Option<Box<str>>,
    /// `jti` of the access token, until it is sealed.
    id: Option<String>,
    expires_at: u64,
    /// The sign-in's place in a trace.
    trace: Option<TraceContext>,
    /// The client, as metrics and log name it, where it is not the implied one.
    client: Option<ClientId>,
}

impl Serialize for TokenResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(encrypted) = &self.encrypted {
            let mut response = serializer.serialize_struct("TokenResponse", 1)?;
            response.serialize_field("encrypted", encrypted)?;
            return response.end();
        }
        let has_token = !self.access_token.expose().is_empty();
        let (token, refresh) = (usize::from(has_token) * 4, self.refresh_token.is_some());
        let members = token + usize::from(refresh) + 1 + usize::from(self.payload.is_some());
        let mut response = serializer.serialize_struct("TokenResponse", members)?;
        if has_token {
            response.serialize_field("access_token", self.access_token.expose())?;
            if let Some(token) = &self.refresh_token {
                response.serialize_field("refresh_token", token.expose())?;
            }
            response.serialize_field("token_type", &self.token_type)?;
            response.serialize_field("expires_in", &self.expires_in)?;
            response.serialize_field("scope", &self.scope)?;
        }
        response.serialize_field("authenticated_at", &self.authenticated_at)?;
        if let Some(payload) = &self.payload {
            response.serialize_field("payload", payload)?;
        }
        response.end()
    }
}

tokio::task_local! {
    /// The response that the current task hands over, to which session, and as what it was sealed.
    static HANDED_OVER: (SessionKey, SealedPayload, TokenResponse);
}

/// What the envelope holds: access token, type, scope, times, refresh token, trace, client. The names are
/// short because every waiting session stores one.
#[derive(Serialize, Deserialize)]
struct Sealed {
    t: String,
    y: String,
    s: String,
    a: u64,
    e: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<TraceContext>,
    /// The payload of a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p: Option<Map<String, Value>>,
    /// The client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<ClientId>,
    /// All of it as JWE for the reader's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    j: Option<String>,
}

impl TokenResponse {
    /// The response for a token issued at `now`.
    pub fn new(
        access_token: AccessToken,
        token_type: &str,
        ttl: Duration,
        scope: &str,
        now: UnixTime,
    ) -> Self {
        Self {
            access_token,
            refresh_token: None,
            token_type: token_type.to_owned(),
            expires_in: ttl.as_secs(),
            scope: scope.to_owned(),
            authenticated_at: now.as_millis(),
            payload: None,
            encrypted: None,
            id: None,
            expires_at: now.as_secs() + ttl.as_secs(),
            trace: None,
            client: None,
        }
    }

    /// A payload that a backend delivers at `now`, and no token.
    pub fn without_token(payload: Map<String, Value>, now: UnixTime) -> Self {
        let none = AccessToken::new(String::new());
        Self { payload: Some(Box::new(payload)), ..Self::new(none, "", Duration::ZERO, "", now) }
    }

    /// Adds the payload of a backend, if there is one.
    #[must_use]
    pub fn with_payload(self, payload: Option<Map<String, Value>>) -> Self {
        Self { payload: payload.map(Box::new), ..self }
    }

    /// Adds a refresh token, for a person who signed in at `authenticated_at`.
    pub fn with_refresh(self, token: RefreshToken, authenticated_at: UnixTime) -> Self {
        let authenticated_at = authenticated_at.as_millis();
        Self { refresh_token: Some(token), authenticated_at, ..self }
    }

    /// Adds the sign-in's place in a trace, if that is exported.
    #[must_use]
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace: trace.filter(TraceContext::is_sampled), ..self }
    }

    /// Adds the client, which whoever delivers the response counts.
    #[must_use]
    pub fn with_client(self, client: Option<ClientId>) -> Self {
        Self { client, ..self }
    }

    /// Adds the `jti` of the access token.
    pub(crate) fn with_id(self, id: String) -> Self {
        Self { id: Some(id), ..self }
    }

    /// `jti` of the access token, until it is sealed.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When the access token expires.
    pub fn expires_at(&self) -> UnixTime {
        UnixTime::from_secs(self.expires_at)
    }

    /// The access token.
    pub fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    /// `token_type`.
    pub fn token_type(&self) -> &str {
        &self.token_type
    }

    /// `scope`.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Lifetime of the access token from its issue.
    pub fn lifetime(&self) -> Duration {
        let issued_at = UnixTime::from_millis(self.authenticated_at);
        Duration::from_secs(self.expires_at.saturating_sub(issued_at.as_secs()))
    }

    /// The sign-in's place in a trace.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The client, where it is not the implied one.
    pub fn client(&self) -> Option<&ClientId> {
        self.client.as_ref()
    }

    /// Whether it can be opened by its reader alone.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted.is_some()
    }

    /// The same tokens bound to `key`, for a client that shows it when it fetches them (RFC 9449 §5).
    /// A payload and tokens that are bound already stay as they are.
    ///
    /// # Errors
    /// When the access token cannot be signed.
    pub fn bind(
        self,
        key: Thumbprint,
        signing_keys: &SigningKeys,
        sealing_keys: &KeyRing,
    ) -> Result<Self, SignError> {
        let claims = self.access_token.expose().split('.').nth(1);
        let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims = claims.and_then(|json| serde_json::from_slice::<Map<_, _>>(&json).ok());
        let Some(mut claims) = claims else { return Ok(self) };
        let confirmation = serde_json::to_value(KeyConfirmation { jkt: key })?;
        match claims.insert("cnf".to_owned(), confirmation) {
            Some(bound) if bound["jkt"] != Thumbprint::unknown().to_base64url() => return Ok(self),
            _ => {}
        }
        let bind = |token: &RefreshToken| RefreshGrant::bind(sealing_keys, token.expose(), key);
        Ok(Self {
            access_token: AccessToken::new(signing_keys.sign_access_token(&claims)?),
            refresh_token: self.refresh_token.as_ref().and_then(bind),
            token_type: DPOP.to_owned(),
            ..self
        })
    }

    /// Encrypts the response for the key of its reader: from here on neither the store nor the bus
    /// nor this service can open it.
    ///
    /// # Errors
    /// [`EncryptError`].
    pub fn encrypt(self, key: &EncryptionKey, session: SessionKey) -> Result<Self, EncryptError> {
        // Strings and numbers always serialise.
        let plaintext = WipedBytes::from(serde_json::to_vec(&self).unwrap_or_default());
        let encrypted = jwe::encrypt(key, session.digest().as_bytes(), &plaintext)?;
        let none = AccessToken::new(String::new());
        Ok(Self {
            access_token: none,
            refresh_token: None,
            token_type: String::new(),
            scope: String::new(),
            payload: None,
            encrypted: Some(encrypted.into()),
            ..self
        })
    }

    /// Seals the response for its session.
    pub fn seal(&self, keys: &KeyRing, session: SessionKey) -> SealedPayload {
        let sealed = Sealed {
            t: self.access_token.expose().to_owned(),
            y: self.token_type.clone(),
            s: self.scope.clone(),
            a: self.authenticated_at,
            e: self.expires_at,
            r: self.refresh_token.as_ref().map(|token| token.expose().to_owned()),
            c: self.trace,
            p: self.payload.as_deref().cloned(),
            n: self.client.clone(),
            j: self.encrypted.as_deref().map(str::to_owned),
        };
        // Strings and numbers always serialise.
        let plaintext = WipedBytes::from(serde_json::to_vec(&sealed).unwrap_or_default());
        let context = session.digest().as_bytes();
        SealedPayload(keys.seal(Purpose::Payload, context, &plaintext).into())
    }

    /// Runs what hands `payload` over to `session`, as which this response was sealed for it. Where that
    /// delivers it to a reader on this instance at once, nothing has to be decrypted.
    pub fn known_as<F: Future>(
        self,
        session: SessionKey,
        payload: SealedPayload,
        hand_over: F,
    ) -> impl Future<Output = F::Output> {
        HANDED_OVER.scope((session, payload, self), hand_over)
    }

    /// The response that was sealed as `payload` for `session`, if the current task hands it over.
    fn handed_over(session: SessionKey, payload: &SealedPayload) -> Option<Self> {
        let known = |(owner, sealed, response): &(SessionKey, SealedPayload, Self)| {
            // The same bytes in the same place, which nothing else can have while they are kept.
            let is_same = *owner == session && std::ptr::eq::<[u8]>(&*sealed.0, &*payload.0);
            is_same.then(|| Self {
                expires_in: seconds_until(response.expires_at),
                id: None,
                ..response.clone()
            })
        };
        HANDED_OVER.try_with(known).ok().flatten()
    }

    /// Opens what [`Self::seal`] sealed for the same session.
    ///
    /// # Errors
    /// When it was sealed for another session or with a key that is no longer in the ring.
    pub fn unseal(
        keys: &KeyRing,
        session: SessionKey,
        payload: &SealedPayload,
    ) -> Result<Self, OpenError> {
        if let Some(known) = Self::handed_over(session, payload) {
            return Ok(known);
        }
        let plaintext = keys.open(Purpose::Payload, session.digest().as_bytes(), &payload.0)?;
        let sealed: Sealed = serde_json::from_slice(&plaintext).map_err(|_| OpenError::Invalid)?;
        Ok(Self {
            access_token: AccessToken::new(sealed.t),
            refresh_token: sealed.r.map(RefreshToken::new),
            token_type: sealed.y,
            expires_in: seconds_until(sealed.e),
            scope: sealed.s,
            authenticated_at: sealed.a,
            payload: sealed.p.map(Box::new),
            encrypted: sealed.j.map(Into::into),
            id: None,
            expires_at: sealed.e,
            trace: sealed.c,
            client: sealed.n,
        })
    }
}

/// Seconds from now until a Unix time; 0 where it has passed.
fn seconds_until(time: u64) -> u64 {
    time.saturating_sub(UnixTime::now().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    /// What a version without traces seals.
    #[derive(Serialize, Deserialize)]
    struct Earlier {
        t: String,
        y: String,
        s: String,
        a: u64,
        e: u64,
    }

    #[tokio::test]
    async fn only_what_the_current_task_hands_over_is_read_without_its_key() {
        let (keys, others) = (KeyRing::random(), KeyRing::random());
        let session = SessionId::generate().key();
        let secret = AccessToken::new("token".into());
        let ttl = Duration::from_secs(60);
        let token =
            TokenResponse::new(secret, "Bearer", ttl, "a", UnixTime::now()).with_id("id".into());
        let payload = token.seal(&keys, session);
        let read = |payload: &SealedPayload| {
            TokenResponse::unseal(&others, session, payload)
                .map(|read| (read.access_token.expose().to_owned(), read.expires_in, read.id))
        };
        assert_eq!(read(&payload), Err(OpenError::UnknownKey));
        let copy = SealedPayload(bytes::Bytes::copy_from_slice(&payload.0));
        let inside = async {
            assert_eq!(read(&copy), Err(OpenError::UnknownKey), "the same bytes from elsewhere");
            let elsewhere = payload.clone();
            let other_task = tokio::spawn({
                let others = KeyRing::random();
                async move { TokenResponse::unseal(&others, session, &elsewhere).is_ok() }
            });
            assert!(!other_task.await.unwrap(), "another task");
            let stranger = SessionId::generate().key();
            let read_by_stranger = TokenResponse::unseal(&keys, stranger, &payload);
            assert_eq!(read_by_stranger.err(), Some(OpenError::Invalid), "another session");
            read(&payload)
        };
        let (known, expires_in, id) =
            token.known_as(session, payload.clone(), inside).await.unwrap();
        assert_eq!((known.as_str(), id), ("token", None));
        assert!((59..=60).contains(&expires_in), "{expires_in}");
        assert_eq!(read(&payload), Err(OpenError::UnknownKey));
    }

    #[test]
    fn versions_with_and_without_traces_read_each_other() {
        let (keys, session) = (KeyRing::random(), SessionId::generate().key());
        let context = session.digest().as_bytes();
        let earlier = Earlier { t: "token".into(), y: "Bearer".into(), s: "a".into(), a: 1, e: 2 };
        let plaintext = serde_json::to_vec(&earlier).unwrap();
        let payload = SealedPayload(keys.seal(Purpose::Payload, context, &plaintext).into());
        let read = TokenResponse::unseal(&keys, session, &payload).unwrap();
        assert_eq!((read.access_token.expose(), read.trace()), ("token", None));

        let trace = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let sealed = Sealed {
            t: "token".to_owned(),
            y: "Bearer".to_owned(),
            s: "a".to_owned(),
            a: 1,
            e: 2,
            r: None,
            c: trace,
            p: None,
            n: None,
            j: None,
        };
        let plaintext = serde_json::to_vec(&sealed).unwrap();
        assert_eq!(serde_json::from_slice::<Earlier>(&plaintext).unwrap().t, "token");
        let payload = SealedPayload(keys.seal(Purpose::Payload, context, &plaintext).into());
        let read = TokenResponse::unseal(&keys, session, &payload).unwrap();
        assert_eq!(read.trace(), trace);
        assert!(!serde_json::to_string(&read).unwrap().contains("4bf92f"), "the add-in sees it");
    }
}

//! The token response as it lies sealed in the store and as the reader gets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    session::{SealedPayload, SessionKey},
    telemetry::TraceContext,
    token::{
        issuer::AccessToken,
        refresh::RefreshToken,
        sealing::{KeyRing, OpenError, Purpose},
    },
};

/// The members of RFC 6749 §5.1, and when the login ended.
#[derive(Clone, Debug, Serialize)]
pub struct TokenResponse {
    #[serde(serialize_with = "expose")]
    access_token: AccessToken,
    #[serde(serialize_with = "expose_refresh", skip_serializing_if = "Option::is_none")]
    refresh_token: Option<RefreshToken>,
    token_type: String,
    /// Remaining life in seconds at the time of delivery.
    expires_in: u64,
    scope: String,
    /// When the login ended, in milliseconds since the Unix epoch.
    authenticated_at: u64,
    #[serde(skip)]
    expires_at: u64,
    /// Where its login is in a trace.
    #[serde(skip)]
    trace: Option<TraceContext>,
}

/// A time since the Unix epoch as the answer writes it.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn expose<S: Serializer>(token: &AccessToken, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose())
}

fn expose_refresh<S: Serializer>(
    token: &Option<RefreshToken>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    token.as_ref().map(RefreshToken::expose).serialize(serializer)
}

/// What is sealed; short names, because it is kept once for every session.
#[derive(Serialize, Deserialize)]
struct SealedClaims {
    t: String,
    y: String,
    s: String,
    a: u64,
    e: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<TraceContext>,
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
            refresh_token: None,
            token_type: token_type.to_owned(),
            expires_in: ttl.as_secs(),
            scope: scope.to_owned(),
            authenticated_at: milliseconds(now),
            expires_at: now.as_secs() + ttl.as_secs(),
            trace: None,
        }
    }

    /// Adds a refresh token, for a login that ended at `authenticated_at`, since the Unix epoch.
    pub fn with_refresh(self, token: RefreshToken, authenticated_at: Duration) -> Self {
        let authenticated_at = milliseconds(authenticated_at);
        Self { refresh_token: Some(token), authenticated_at, ..self }
    }

    /// Adds the login's place in a trace, if that is exported.
    #[must_use]
    pub fn with_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace: trace.filter(TraceContext::is_sampled), ..self }
    }

    /// The access token.
    pub fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    /// The login's place in a trace.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// Seals it for the session that it belongs to.
    pub fn seal(&self, keys: &KeyRing, session: SessionKey) -> SealedPayload {
        let kept = SealedClaims {
            t: self.access_token.expose().to_owned(),
            y: self.token_type.clone(),
            s: self.scope.clone(),
            a: self.authenticated_at,
            e: self.expires_at,
            r: self.refresh_token.as_ref().map(|token| token.expose().to_owned()),
            c: self.trace,
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
        let kept: SealedClaims =
            serde_json::from_slice(&plaintext).map_err(|_| OpenError::Invalid)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self {
            access_token: AccessToken::new(kept.t),
            refresh_token: kept.r.map(RefreshToken::new),
            token_type: kept.y,
            expires_in: kept.e.saturating_sub(now),
            scope: kept.s,
            authenticated_at: kept.a,
            expires_at: kept.e,
            trace: kept.c,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    /// What a version without traces keeps.
    #[derive(Serialize, Deserialize)]
    struct Earlier {
        t: String,
        y: String,
        s: String,
        a: u64,
        e: u64,
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
        let kept = SealedClaims {
            t: "token".to_owned(),
            y: "Bearer".to_owned(),
            s: "a".to_owned(),
            a: 1,
            e: 2,
            r: None,
            c: trace,
        };
        let plaintext = serde_json::to_vec(&kept).unwrap();
        assert_eq!(serde_json::from_slice::<Earlier>(&plaintext).unwrap().t, "token");
        let payload = SealedPayload(keys.seal(Purpose::Payload, context, &plaintext).into());
        let read = TokenResponse::unseal(&keys, session, &payload).unwrap();
        assert_eq!(read.trace(), trace);
        assert!(!serde_json::to_string(&read).unwrap().contains("4bf92f"), "the add-in sees it");
    }
}

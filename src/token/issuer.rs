//! Issues access tokens: JWTs of RFC 9068, and the plainer ones of the meet-compatible surface.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, Header};
use serde_json::{Map, Value, json};

use crate::{
    session::{ClientId, GrantId, Identity, Thumbprint},
    token::{
        dpop::{BEARER, DPOP, KeyConfirmation},
        error::{KeyError, SignError},
        jwe::EncryptError,
        jws::PrivateKey,
        keys::SigningKeys,
        response::TokenResponse,
        secret::AccessToken,
    },
    util::{clock::UnixTime, random::random_bytes},
};

/// Claims that the relay sets itself and never copies from the provider.
const REGISTERED: [&str; 15] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "sid",
    "scope",
    "client_id",
    "cnf",
    "idp",
    "acr",
    "amr",
    "auth_time",
];

/// Size of an access token above which proxies need settings of their own, in bytes.
const LARGE: usize = 8000;

/// Whether the relay sets this claim itself, so that nobody else can.
pub fn is_registered_claim(name: &str) -> bool {
    REGISTERED.contains(&name)
}

/// The token cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key does not sign.
    #[error("the access token cannot be signed: {0}")]
    Sign(#[from] SignError),
    /// The key of the client takes no encryption.
    #[error(transparent)]
    Encrypt(#[from] EncryptError),
    /// The client that the person signed in to is not registered any more.
    #[error("the client is not registered any more")]
    UnknownClient,
}

/// Issues the access tokens of the native surface.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// `iss`.
    pub issuer: String,
    /// `aud`; a string if it is one, an array otherwise.
    pub audience: Vec<String>,
    /// `client_id`.
    pub client_id: ClientId,
    /// `scope`.
    pub scope: String,
    /// From `iat` to `exp`.
    pub ttl: Duration,
    /// Names of the claims that are copied from the provider.
    pub claims: Vec<String>,
}

impl Issuer {
    /// Issues a token that belongs to no grant.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn issue(
        &self,
        keys: &SigningKeys,
        identity: &Identity,
        now: UnixTime,
    ) -> Result<TokenResponse, IssueError> {
        self.issue_under(None, None, keys, identity, now)
    }

    /// Issues a token that ends with `grant`, which it names as `sid`, and that is of use with proofs
    /// of the key `bound_to` alone (RFC 9449 §6).
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn issue_under(
        &self,
        grant: Option<GrantId>,
        bound_to: Option<Thumbprint>,
        keys: &SigningKeys,
        identity: &Identity,
        now: UnixTime,
    ) -> Result<TokenResponse, IssueError> {
        let mut claims = self
            .claims
            .iter()
            .filter(|name| !is_registered_claim(name))
            .filter_map(|name| Some((name.clone(), identity.claims.get(name)?.clone())))
            .collect::<Map<_, _>>();
        let audience = match self.audience.as_slice() {
            [one] => json!(one),
            several => json!(several),
        };
        let issued_at = now.as_secs();
        let jti = URL_SAFE_NO_PAD.encode(random_bytes::<16>());
        for (name, value) in [
            ("iss", json!(self.issuer)),
            ("sub", json!(identity.subject)),
            ("aud", audience),
            ("exp", json!(issued_at + self.ttl.as_secs())),
            ("iat", json!(issued_at)),
            ("nbf", json!(issued_at)),
            ("jti", json!(jti)),
            ("client_id", json!(self.client_id)),
            ("scope", json!(self.scope)),
        ] {
            claims.insert(name.to_owned(), value);
        }
        // How the person was authenticated (RFC 9068 §2.2.1), as far as the provider said.
        for (name, value) in [
            ("acr", identity.acr.as_ref().map(|acr| json!(acr))),
            ("amr", (!identity.amr.is_empty()).then(|| json!(identity.amr))),
            ("auth_time", identity.auth_time.map(|time| json!(time))),
            ("idp", identity.idp.as_ref().map(|backend| json!(backend))),
        ] {
            claims.extend(value.map(|value| (name.to_owned(), value)));
        }
        if let Some(grant) = grant {
            claims.insert("sid".to_owned(), json!(grant));
        }
        if let Some(key) = bound_to {
            claims.insert("cnf".to_owned(), json!(KeyConfirmation { jkt: key }));
        }
        let signed = keys.sign_access_token(&claims)?;
        if signed.len() > LARGE {
            let bytes = signed.len();
            tracing::warn!(
                bytes,
                "the access token is larger than most proxies take in a header field (8 KiB); \
                 TOKEN_CLAIMS has claims that need so much"
            );
        }
        let token = AccessToken::new(signed);
        let token_type = if bound_to.is_some() { DPOP } else { BEARER };
        Ok(TokenResponse::new(token, token_type, self.ttl, &self.scope, now).with_id(jti))
    }
}

/// Issues the access tokens of the meet-compatible surface.
pub struct MeetIssuer {
    key: PrivateKey,
    issuer: String,
    audience: String,
    scope: String,
    token_type: String,
    ttl: Duration,
}

/// The constant claims of a [`MeetIssuer`], and how long its tokens are valid.
#[derive(Clone, Debug)]
pub struct MeetClaims {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// `scope`.
    pub scope: String,
    /// `token_type` of the response.
    pub token_type: String,
    /// From `iat` to `exp`.
    pub ttl: Duration,
}

/// Whom a token of a [`MeetIssuer`] is for.
#[derive(Clone, Debug)]
pub struct MeetSubject {
    /// `user_id`.
    pub user_id: String,
    /// `scope`.
    pub scope: String,
    /// Further claims; registered ones are left out.
    pub claims: Map<String, Value>,
}

impl MeetIssuer {
    /// An issuer that signs with the secret that the API verifies with.
    ///
    /// # Errors
    /// When the algorithm is none of HS256, HS384, HS512, or the secret is too short.
    pub fn new(algorithm: Algorithm, secret: &[u8], claims: MeetClaims) -> Result<Self, KeyError> {
        if algorithm.family() != AlgorithmFamily::Hmac {
            return Err(KeyError::Unsupported(algorithm));
        }
        if secret.len() < 32 {
            return Err(KeyError::TooShort { min: 32 });
        }
        let MeetClaims { issuer, audience, scope, token_type, ttl } = claims;
        let key = PrivateKey::from_secret(algorithm, secret)?;
        Ok(Self { key, issuer, audience, scope, token_type, ttl })
    }

    /// The scope of a token unless it is narrowed.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Issues a token.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn issue(&self, subject: &MeetSubject, now: UnixTime) -> Result<TokenResponse, IssueError> {
        let mut claims = subject.claims.clone();
        claims.retain(|name, value| !is_registered_claim(name) && !value.is_null());
        for (name, value) in [
            ("iat", json!(now.as_secs())),
            ("exp", json!(now.as_secs() + self.ttl.as_secs())),
            ("user_id", json!(subject.user_id)),
            ("iss", json!(self.issuer)),
            ("aud", json!(self.audience)),
            ("scope", json!(subject.scope)),
        ] {
            claims.insert(name.to_owned(), value);
        }
        let token = self.key.sign_compact(&Header::new(self.key.algorithm()), &claims)?;
        let token = AccessToken::new(token);
        Ok(TokenResponse::new(token, &self.token_type, self.ttl, &subject.scope, now))
    }
}

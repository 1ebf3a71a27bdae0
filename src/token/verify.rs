//! Verifies access tokens that the relay issued.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jsonwebtoken::{Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    session::{ClientId, GrantId},
    token::{
        dpop::{BEARER, DPOP, KeyConfirmation},
        jws,
        keys::SigningKeys,
    },
    util::clock::UnixTime,
};

/// How long an expired token is still accepted, in seconds.
const LEEWAY: u64 = 5;

/// Tolerated difference between the clocks of two instances, in seconds: a token of one that is ahead is
/// valid at once, and a revoked one stays revoked at one that is behind.
const MAX_CLOCK_DIFFERENCE: u64 = 60;

/// Why a token is refused; its text is the `error_description` (RFC 6750 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Not a JWT, or without a claim that every token has.
    #[error("The token is malformed")]
    Malformed,
    /// Signed with another key or algorithm, or altered.
    #[error("The token's signature is not valid")]
    Signature,
    /// Expired.
    #[error("The token expired")]
    Expired,
    /// Its validity begins later.
    #[error("The token is not valid yet")]
    Early,
    /// From another issuer or for another audience.
    #[error("The token is not for this service")]
    Foreign,
}

/// Claims of an access token (RFC 9068 §2.2).
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Subject: the person.
    pub sub: String,
    /// Audience: a string or an array of them.
    pub aud: Value,
    /// Expiration time, in seconds since the Unix epoch.
    pub exp: u64,
    /// Time of issue, in seconds since the Unix epoch.
    pub iat: u64,
    /// Start of validity, in seconds since the Unix epoch.
    pub nbf: u64,
    /// The token's ID.
    pub jti: String,
    /// The client that the token was issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub client_id: Option<ClientId>,
    /// Scopes, separated by spaces.
    pub scope: String,
    /// The grant that the token ends with, if it came with a refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sid: Option<GrantId>,
    /// The key that the token is bound to, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<KeyConfirmation>,
    /// Claims copied from the provider.
    #[serde(flatten)]
    #[schema(additional_properties)]
    pub extra: Map<String, Value>,
}

impl Claims {
    /// `token_type`: `DPoP` where it is bound to a key.
    pub fn token_type(&self) -> &'static str {
        if self.cnf.is_some() { DPOP } else { BEARER }
    }

    /// How long the token will still be accepted by any instance, at least a second.
    pub fn remaining(&self) -> Duration {
        let end = self.exp.saturating_add(LEEWAY + MAX_CLOCK_DIFFERENCE);
        let end = UnixTime::from_secs(end);
        end.saturating_since(UnixTime::now()).max(Duration::from_secs(1))
    }
}

/// Accepts tokens of one issuer for any of several audiences.
#[derive(Debug)]
pub struct Verifier {
    keys: Arc<SigningKeys>,
    issuer: String,
    audience: ArcSwap<Vec<String>>,
}

impl Verifier {
    /// Accepts tokens that `keys` signed as `issuer` for `audience`.
    pub fn new(keys: Arc<SigningKeys>, issuer: String, audience: Vec<String>) -> Self {
        Self { keys, issuer, audience: ArcSwap::from_pointee(audience) }
    }

    /// Accepts tokens for `audience` from now on, instead of those before.
    pub fn replace_audience(&self, audience: Vec<String>) {
        self.audience.store(Arc::new(audience));
    }

    /// Verifies signature, issuer, audience and times.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn verify(&self, token: &str) -> Result<Claims, Rejected> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Rejected::Malformed)?;
        // No other JWT of ours, such as one of the Meet surface, is an access token (RFC 9068 §4).
        let is_access_token = header.typ.as_deref().is_some_and(|media_type| {
            ["at+jwt", "application/at+jwt"].iter().any(|own| media_type.eq_ignore_ascii_case(own))
        });
        if !is_access_token {
            return Err(Rejected::Malformed);
        }
        let id = header.kid.ok_or(Rejected::Signature)?;
        let key = self.keys.find(&id).ok_or(Rejected::Signature)?;
        // The key decides on the algorithm, never the token (RFC 8725 §3.1).
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY;
        // Below, with a tolerance of its own.
        validation.validate_nbf = false;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audience.load());
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let decoded = jws::decode::<Claims>(token, &key.decoding, &validation);
        let claims = decoded.map(|data| data.claims).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Rejected::Expired,
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Rejected::Signature,
            ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => Rejected::Foreign,
            _ => Rejected::Malformed,
        })?;
        let latest = UnixTime::now().as_secs().saturating_add(MAX_CLOCK_DIFFERENCE);
        if claims.nbf > latest { Err(Rejected::Early) } else { Ok(claims) }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::{
        session::{ClientId, Identity},
        token::Issuer,
    };

    fn issuer() -> Issuer {
        Issuer {
            issuer: "https://relay.example/".to_owned(),
            audience: vec!["https://api.example".to_owned()],
            client_id: ClientId::implied(),
            scope: "addons".to_owned(),
            ttl: Duration::from_secs(3600),
            claims: vec!["name".to_owned(), "sub".to_owned(), "missing".to_owned()],
        }
    }

    fn identity() -> Identity {
        let claims = json!({"name": "Alice", "sub": "somebody else", "email": "a@example"});
        Identity::new("alice", claims.as_object().unwrap().clone())
    }

    fn verifier(keys: &Arc<SigningKeys>, issuer: &Issuer) -> Verifier {
        Verifier::new(Arc::clone(keys), issuer.issuer.clone(), issuer.audience.clone())
    }

    #[test]
    fn an_issued_token_verifies_and_carries_the_claims_that_were_asked_for() {
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256] {
            let keys = Arc::new(SigningKeys::generate(algorithm).unwrap());
            let issuer = issuer();
            let token = issuer.issue(&keys, &identity(), UnixTime::now()).unwrap();
            let claims = verifier(&keys, &issuer).verify(token.access_token().expose()).unwrap();
            assert_eq!((claims.sub.as_str(), claims.scope.as_str()), ("alice", "addons"));
            assert_eq!(claims.extra.get("name"), Some(&json!("Alice")));
            assert!(!claims.extra.contains_key("email"));
        }
    }

    #[test]
    fn foreign_expired_and_altered_tokens_are_refused() {
        let keys = Arc::new(SigningKeys::generate(Algorithm::ES256).unwrap());
        let issuer = issuer();
        let verifier = verifier(&keys, &issuer);
        let make = |issuer: &Issuer, now| {
            issuer.issue(&keys, &identity(), now).unwrap().access_token().expose().to_owned()
        };
        let hours_ago = UnixTime::from_secs(UnixTime::now().as_secs() - 7200);
        assert_eq!(verifier.verify(&make(&issuer, hours_ago)).unwrap_err(), Rejected::Expired);
        let ahead = |seconds| UnixTime::from_secs(UnixTime::now().as_secs() + seconds);
        assert!(verifier.verify(&make(&issuer, ahead(30))).is_ok(), "of an instance ahead");
        assert_eq!(verifier.verify(&make(&issuer, ahead(90))).unwrap_err(), Rejected::Early);
        let elsewhere =
            Issuer { audience: vec!["https://other.example".to_owned()], ..issuer.clone() };
        assert_eq!(
            verifier.verify(&make(&elsewhere, UnixTime::now())).unwrap_err(),
            Rejected::Foreign
        );
        let impostor = Issuer { issuer: "https://evil.example/".to_owned(), ..issuer.clone() };
        assert_eq!(
            verifier.verify(&make(&impostor, UnixTime::now())).unwrap_err(),
            Rejected::Foreign
        );
        let token = make(&issuer, UnixTime::now());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let altered = format!("{}.{signature}", head.replace('.', ".e"));
        assert!(verifier.verify(&altered).is_err());
        let other = SigningKeys::generate(Algorithm::ES256).unwrap();
        let unknown = issuer.issue(&other, &identity(), UnixTime::now()).unwrap();
        assert_eq!(
            verifier.verify(unknown.access_token().expose()).unwrap_err(),
            Rejected::Signature
        );
        for text in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert!(verifier.verify(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_public_key_is_no_hmac_secret() {
        let keys = Arc::new(SigningKeys::generate(Algorithm::ES256).unwrap());
        let issuer = issuer();
        let public = serde_json::to_vec(&keys.jwks().keys[0]).unwrap();
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some("at+jwt".to_owned());
        header.kid = keys.jwks().keys[0].common.key_id.clone();
        let claims = json!({
            "iss": issuer.issuer, "sub": "eve", "aud": issuer.audience[0], "exp": UnixTime::now().as_secs() + 60,
            "iat": UnixTime::now().as_secs(), "nbf": UnixTime::now().as_secs(), "jti": "x", "scope": "addons",
        });
        let token = jws::encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap();
        assert_eq!(verifier(&keys, &issuer).verify(&token).unwrap_err(), Rejected::Signature);
    }

    #[test]
    fn a_jwt_of_another_type_is_no_access_token() {
        let secret = [3u8; 32];
        let keys = Arc::new(SigningKeys::from_secret(Algorithm::HS256, &secret).unwrap());
        let issuer = issuer();
        let verifier = verifier(&keys, &issuer);
        let token = issuer.issue(&keys, &identity(), UnixTime::now()).unwrap();
        let token = token.access_token().expose();
        let header = jsonwebtoken::decode_header(token).unwrap();
        let claims = serde_json::to_value(verifier.verify(token).unwrap()).unwrap();
        for (typ, accepted) in [
            (Some("at+jwt"), true),
            (Some("application/at+JWT"), true),
            (Some("JWT"), false),
            (Some("logout+jwt"), false),
            (None, false),
        ] {
            let header = Header { typ: typ.map(str::to_owned), ..header.clone() };
            let other = jws::encode(&header, &claims, &EncodingKey::from_secret(&secret)).unwrap();
            assert_eq!(verifier.verify(&other).is_ok(), accepted, "{typ:?}");
        }
    }

    #[test]
    fn a_token_of_the_previous_key_is_accepted_while_keys_rotate() {
        let (old, new) = ([1u8; 32], [2u8; 32]);
        let before = SigningKeys::from_secret(Algorithm::HS256, &old).unwrap();
        let issuer = issuer();
        let token = issuer.issue(&before, &identity(), UnixTime::now()).unwrap();
        let token = token.access_token().expose();
        let after = SigningKeys::from_secret(Algorithm::HS256, &new).unwrap();
        let during = SigningKeys::from_secret(Algorithm::HS256, &new)
            .and_then(|keys| keys.with_other(Algorithm::HS256, &old));
        assert!(verifier(&Arc::new(during.unwrap()), &issuer).verify(token).is_ok());
        assert!(verifier(&Arc::new(after), &issuer).verify(token).is_err());
    }
}

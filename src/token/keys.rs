//! Signing keys of access tokens: the current one, and those that are being rotated in or out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header,
    jwk::{CommonParameters, Jwk, JwkSet, PublicKeyUse},
};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    token::{
        error::{KeyError, SignError},
        jws::{self, PrivateKey},
    },
    util::random::random_bytes,
};

/// Minimum length of a shared secret, in bytes (RFC 7518 §3.2 asks for the size of the hash).
const MIN_SECRET_LENGTH: usize = 32;

/// One key pair or shared secret.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    private: PrivateKey,
    pub(crate) decoding: DecodingKey,
    /// `None` for a shared secret.
    public: Option<Jwk>,
}

impl SigningKey {
    fn parse(algorithm: Algorithm, text: &[u8]) -> Result<Self, KeyError> {
        match algorithm.family() {
            AlgorithmFamily::Hmac => Self::shared(algorithm, text),
            _ => Self::key_pair(PrivateKey::from_pem(algorithm, text)?),
        }
    }

    fn shared(algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < MIN_SECRET_LENGTH {
            return Err(KeyError::TooShort { min: MIN_SECRET_LENGTH });
        }
        // A thumbprint would be a hash of the secret itself; the label makes it useless for
        // anything but telling keys apart.
        let digest = Sha256::new().chain_update(b"token-relay hmac key id\0");
        let id = hex::encode(&digest.chain_update(secret).finalize()[..8]);
        let private = PrivateKey::from_secret(algorithm, secret)?;
        let decoding = DecodingKey::from_secret(secret);
        Ok(Self { id, algorithm, private, decoding, public: None })
    }

    fn key_pair(private: PrivateKey) -> Result<Self, KeyError> {
        let algorithm = private.algorithm();
        let refused = |_| KeyError::NotAPrivateKey(algorithm);
        let parameters = private.public().ok_or(KeyError::Unsupported(algorithm))?;
        let common = CommonParameters {
            key_algorithm: Some(algorithm.into()),
            public_key_use: Some(PublicKeyUse::Signature),
            ..CommonParameters::default()
        };
        let mut public = Jwk { common, algorithm: parameters };
        let id = jws::thumbprint(&public).map_err(refused)?;
        public.common.key_id = Some(id.clone());
        let decoding = DecodingKey::from_jwk(&public).map_err(refused)?;
        Ok(Self { id, algorithm, private, decoding, public: Some(public) })
    }

    /// Signs `claims` as a compact JWS (RFC 7515 §7.1).
    pub(crate) fn sign(
        &self,
        header: &Header,
        claims: &impl Serialize,
    ) -> Result<String, SignError> {
        self.private.sign_compact(header, claims)
    }
}

/// The current key, which signs, and others, which only verify. They can be replaced while in use.
pub struct SigningKeys(ArcSwap<Keys>);

#[derive(Clone)]
struct Keys {
    current: Arc<SigningKey>,
    /// Configured beside the current one.
    others: Vec<Arc<SigningKey>>,
    /// Former current keys, and until when they verify what they signed.
    retired: Vec<(Instant, Arc<SigningKey>)>,
}

impl Keys {
    /// All that verify now, the current one first.
    fn all(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        let now = Instant::now();
        let retired = self.retired.iter().filter(move |(until, _)| now < *until);
        std::iter::once(&self.current).chain(&self.others).chain(retired.map(|(_, key)| key))
    }

    fn find(&self, id: &str) -> Option<&Arc<SigningKey>> {
        self.all().find(|key| key.id == id)
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SigningKeys({:?})", self.current().algorithm)
    }
}

impl SigningKeys {
    fn of(current: SigningKey) -> Self {
        let keys = Keys { current: Arc::new(current), others: Vec::new(), retired: Vec::new() };
        Self(ArcSwap::from_pointee(keys))
    }

    /// Signs with `secret`: a PEM private key (PKCS#8), or a shared secret for HS256.
    ///
    /// # Errors
    /// When it is no such key or too weak.
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::ES256 | Algorithm::EdDSA | Algorithm::RS256 | Algorithm::HS256 => {
                Ok(Self::of(SigningKey::parse(algorithm, secret)?))
            }
            other => Err(KeyError::Unsupported(other)),
        }
    }

    /// Adds a key that verifies and is published but does not sign.
    ///
    /// # Errors
    /// When it is no such key or too weak.
    pub fn with_other(self, algorithm: Algorithm, secret: &[u8]) -> Result<Self, KeyError> {
        let other = SigningKey::parse(algorithm, secret)?;
        let mut keys = Keys::clone(&self.0.load());
        // A key that is named twice is one key.
        if keys.find(&other.id).is_none() {
            keys.others.push(Arc::new(other));
        }
        Ok(Self(ArcSwap::from_pointee(keys)))
    }

    /// Replaces the keys by those of `new`. The former current key still verifies for `keep`, the
    /// remaining lifetime of the last token that it signed; so do earlier ones for the rest of
    /// theirs. Calls must not overlap.
    pub fn replace(&self, new: Self, keep: Duration) {
        let (old, mut keys) = (self.0.load(), Keys::clone(&new.0.load()));
        let now = Instant::now();
        keys.retired = old.retired.iter().filter(|(until, _)| now < *until).cloned().collect();
        keys.retired.push((now + keep, Arc::clone(&old.current)));
        keys.retired.retain(|(_, key)| key.id != keys.current.id);
        self.0.store(Arc::new(keys));
    }

    /// Generates a key that exists only in this process.
    ///
    /// # Errors
    /// For RS256, which would take seconds.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let current = match algorithm.family() {
            AlgorithmFamily::Hmac => {
                SigningKey::shared(algorithm, &*Zeroizing::new(random_bytes::<32>()))?
            }
            _ => SigningKey::key_pair(PrivateKey::generate(algorithm)?)?,
        };
        Ok(Self::of(current))
    }

    /// Signs the claims of an access token (RFC 9068 §2.1).
    pub(super) fn sign_access_token(
        &self,
        claims: &Map<String, Value>,
    ) -> Result<String, SignError> {
        let key = self.current();
        let mut header = Header::new(key.algorithm);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(key.id.clone());
        key.sign(&header, claims)
    }

    pub(crate) fn current(&self) -> Arc<SigningKey> {
        Arc::clone(&self.0.load().current)
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<SigningKey>> {
        self.0.load().find(id).cloned()
    }

    /// The public keys (RFC 7517 §5), each once; empty for shared secrets.
    pub fn jwks(&self) -> JwkSet {
        let mut keys = Vec::<Jwk>::new();
        for key in self.0.load().all().filter_map(|key| key.public.as_ref()) {
            if keys.iter().all(|known| known.common.key_id != key.common.key_id) {
                keys.push(key.clone());
            }
        }
        JwkSet { keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_publish_no_private_member() {
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
            let keys = SigningKeys::generate(algorithm).unwrap();
            let json = serde_json::to_value(keys.jwks()).unwrap();
            let key = json["keys"][0].as_object().unwrap();
            for private in ["d", "p", "q", "k", "dp", "dq", "qi"] {
                assert!(!key.contains_key(private), "{algorithm:?} {private}");
            }
            assert_eq!(key["use"], "sig");
            assert_eq!(key["kid"].as_str().unwrap().len(), 43);
        }
        let keys = SigningKeys::generate(Algorithm::HS256).unwrap();
        assert!(keys.jwks().keys.is_empty());
    }

    fn ids(keys: &SigningKeys) -> Vec<String> {
        keys.jwks().keys.into_iter().filter_map(|key| key.common.key_id).collect()
    }

    fn generated() -> SigningKeys {
        SigningKeys::generate(Algorithm::ES256).unwrap()
    }

    #[test]
    fn a_key_that_signed_verifies_for_a_while_after_it_was_replaced() {
        let hour = Duration::from_secs(3600);
        let keys = generated();
        let first = ids(&keys);
        let (second, third) = (generated(), generated());
        let (second_id, third_id) = (ids(&second), ids(&third));
        keys.replace(second, hour);
        assert_eq!(ids(&keys), [second_id.clone(), first.clone()].concat());
        assert_eq!(keys.current().id, second_id[0]);
        // Another replacement neither drops it early nor extends a key that has had its time.
        keys.replace(third, Duration::ZERO);
        assert_eq!(ids(&keys), [third_id, first.clone()].concat());
        assert!(keys.find(&first[0]).is_some() && keys.find(&second_id[0]).is_none());
    }

    #[test]
    fn a_key_that_comes_back_is_published_once() {
        let secrets =
            [b"one secret of thirty-two bytes or more", b"two secrets of thirty-two bytes or mor"];
        let make = |order: [usize; 2]| {
            let keys = SigningKeys::from_secret(Algorithm::HS256, secrets[order[0]]).unwrap();
            keys.with_other(Algorithm::HS256, secrets[order[1]]).unwrap()
        };
        let keys = make([0, 1]);
        for order in [[1, 0], [0, 1], [1, 0]] {
            keys.replace(make(order), Duration::from_secs(60));
            let known = keys.0.load();
            assert!(known.retired.len() == 1 && known.others.len() == 1);
            assert_eq!(keys.current().id, make(order).current().id);
        }
    }

    #[test]
    fn bad_keys_are_refused_without_being_shown() {
        let secret = b"not a key, and confidential";
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::HS256] {
            let error = SigningKeys::from_secret(algorithm, secret).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("confidential"));
        }
        assert_eq!(
            SigningKeys::generate(Algorithm::RS256).unwrap_err(),
            KeyError::CannotGenerate(Algorithm::RS256)
        );
        assert_eq!(
            SigningKeys::from_secret(Algorithm::HS512, &[7; 64]).unwrap_err(),
            KeyError::Unsupported(Algorithm::HS512)
        );
    }
}

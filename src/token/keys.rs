//! Signing keys of access tokens: the current one, and those that are rotated in or out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use p256::pkcs8::EncodePrivateKey;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{session::random_bytes, token::ecdsa};

/// Shortest shared secret, in bytes (RFC 7518 §3.2 asks for the size of the hash).
const MIN_SECRET_LENGTH: usize = 32;

/// Shortest RSA modulus, in bytes (RFC 7518 §3.3).
const SHORTEST_MODULUS: usize = 256;

/// A key is of no use. Never says what the key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("no key given")]
    Missing,
    /// A secret that could be guessed.
    #[error("the secret must have {least} bytes or more")]
    TooShort {
        /// Bytes that it must have.
        least: usize,
    },
    /// Not a private key for the algorithm.
    #[error("not a PEM private key for {0:?} (PKCS#8)")]
    NotAPrivateKey(Algorithm),
    /// RSA of less than 2048 bits.
    #[error("an RSA key must have 2048 bits or more")]
    WeakRsa,
    /// Nothing that this service signs with.
    #[error("{0:?} is not supported")]
    Unsupported(Algorithm),
    /// A key cannot be drawn for this algorithm.
    #[error("a key for {0:?} must be configured")]
    CannotGenerate(Algorithm),
}

/// What signs.
enum Signer {
    /// The JWT library, for all algorithms but one.
    Library(EncodingKey),
    /// ES256, the default. With the library's own signature the way from the end of a login to its
    /// arrival took 0.53 ms at the median, with this one 0.16 ms.
    P256(Box<EcdsaKeyPair>, SystemRandom),
}

/// A token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error(transparent)]
    Library(#[from] jsonwebtoken::errors::Error),
    #[error("the token cannot be serialised")]
    Serialise(#[from] serde_json::Error),
    #[error("the key does not sign")]
    Refused,
}

/// One key pair or shared secret.
pub(crate) struct SigningKey {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    signer: Signer,
    pub(crate) decoding: DecodingKey,
    /// `None` for a shared secret.
    public: Option<Jwk>,
}

impl SigningKey {
    fn parse(algorithm: Algorithm, text: &[u8]) -> Result<Self, KeyError> {
        let refused = |_| KeyError::NotAPrivateKey(algorithm);
        let encoding = match algorithm.family() {
            AlgorithmFamily::Hmac if text.len() < MIN_SECRET_LENGTH => {
                return Err(KeyError::TooShort { least: MIN_SECRET_LENGTH });
            }
            AlgorithmFamily::Hmac => EncodingKey::from_secret(text),
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(text).map_err(refused)?,
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(text).map_err(refused)?,
            AlgorithmFamily::Ed => EncodingKey::from_ed_pem(text).map_err(refused)?,
        };
        Self::new(algorithm, encoding, text)
    }

    fn new(algorithm: Algorithm, encoding: EncodingKey, secret: &[u8]) -> Result<Self, KeyError> {
        ecdsa::install();
        let refused = |_| KeyError::NotAPrivateKey(algorithm);
        if algorithm.family() == AlgorithmFamily::Hmac {
            // A thumbprint would be a hash of the secret itself; the label makes it useless for
            // anything but telling keys apart.
            let digest = Sha256::new().chain_update(b"token-relay hmac key id\0");
            let id = hex::encode(&digest.chain_update(secret).finalize()[..8]);
            let decoding = DecodingKey::from_secret(secret);
            let signer = Signer::Library(encoding);
            return Ok(Self { id, algorithm, signer, decoding, public: None });
        }
        let mut public = Jwk::from_encoding_key(&encoding, algorithm).map_err(refused)?;
        if let jsonwebtoken::jwk::AlgorithmParameters::RSA(parameters) = &public.algorithm
            // base64url: four characters for three bytes.
            && parameters.n.len() * 3 / 4 < SHORTEST_MODULUS
        {
            return Err(KeyError::WeakRsa);
        }
        let id = public.thumbprint(ThumbprintHash::SHA256).map_err(refused)?;
        public.common.key_id = Some(id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&public).map_err(refused)?;
        let signer = if algorithm == Algorithm::ES256 {
            p256_signer(&encoding).ok_or(KeyError::NotAPrivateKey(algorithm))?
        } else {
            Signer::Library(encoding)
        };
        Ok(Self { id, algorithm, signer, decoding, public: Some(public) })
    }

    /// Signs `claims` as a compact JWS (RFC 7515 §7.1).
    pub(crate) fn sign(
        &self,
        header: &Header,
        claims: &impl Serialize,
    ) -> Result<String, SignError> {
        match &self.signer {
            Signer::Library(key) => Ok(jsonwebtoken::encode(header, claims, key)?),
            Signer::P256(key, random) => {
                let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
                token.push('.');
                URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut token);
                let signature =
                    key.sign(random, token.as_bytes()).map_err(|_| SignError::Refused)?;
                token.push('.');
                URL_SAFE_NO_PAD.encode_string(signature, &mut token);
                Ok(token)
            }
        }
    }
}

/// The fast signer for a P-256 key that the JWT library took.
fn p256_signer(encoding: &EncodingKey) -> Option<Signer> {
    use p256::pkcs8::DecodePrivateKey as _;
    let key = p256::SecretKey::from_pkcs8_der(encoding.as_bytes()).ok()?;
    // Written anew, because the public key may be left out in the original and is wanted here.
    let der = key.to_pkcs8_der().ok()?;
    let random = SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_bytes(), &random)
        .ok()
        .map(|key| Signer::P256(Box::new(key), random))
}

/// The current key, which signs, and others, which verify. They can be replaced while in use.
pub struct SigningKeys(ArcSwap<Keys>);

#[derive(Clone)]
struct Keys {
    current: Arc<SigningKey>,
    /// On their way in or out.
    others: Vec<Arc<SigningKey>>,
    /// Signed until they were replaced, and verify until the time given, named in settings or not.
    retired: Vec<(Instant, Arc<SigningKey>)>,
}

impl Keys {
    /// All that verify now, each once, the current one first.
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

    /// Verifies and publishes `secret` beside the current key.
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

    /// Takes the keys of `new` in the place of its own. The key that signed until now still verifies
    /// for `keep`, the life of its last token, and so do earlier ones until their time is over.
    /// Called by one task at a time.
    pub fn replace(&self, new: Self, keep: Duration) {
        let (old, mut keys) = (self.0.load(), Keys::clone(&new.0.load()));
        let now = Instant::now();
        keys.retired = old.retired.iter().filter(|(until, _)| now < *until).cloned().collect();
        keys.retired.push((now + keep, Arc::clone(&old.current)));
        keys.retired.retain(|(_, key)| key.id != keys.current.id);
        self.0.store(Arc::new(keys));
    }

    /// Draws a key that lives as long as this process.
    ///
    /// # Errors
    /// For RS256, which would take seconds.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let refused = |_| KeyError::CannotGenerate(algorithm);
        let current = match algorithm {
            Algorithm::ES256 => {
                // A random number is no key only if it is zero or beyond the group's order, which
                // has a chance of 2^-32.
                let key = loop {
                    let bytes = Zeroizing::new(random_bytes::<32>());
                    if let Ok(key) = p256::SecretKey::from_slice(&*bytes) {
                        break key;
                    }
                };
                let der = key.to_pkcs8_der().map_err(refused)?;
                SigningKey::new(algorithm, EncodingKey::from_ec_der(der.as_bytes()), &[])?
            }
            Algorithm::EdDSA => {
                let bytes = Zeroizing::new(random_bytes::<32>());
                // RFC 8410 §7: a fixed head, then the seed. This form has no public key, which the
                // JWK is derived from by the length of the whole.
                const HEAD: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
                let der = Zeroizing::new([&HEAD[..], &bytes[..]].concat());
                SigningKey::new(algorithm, EncodingKey::from_ed_der(&der), &[])?
            }
            Algorithm::HS256 => {
                let secret = Zeroizing::new(random_bytes::<32>());
                SigningKey::parse(algorithm, &*secret)?
            }
            other => return Err(KeyError::CannotGenerate(other)),
        };
        Ok(Self::of(current))
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

    fn drawn() -> SigningKeys {
        SigningKeys::generate(Algorithm::ES256).unwrap()
    }

    #[test]
    fn a_key_that_signed_verifies_for_a_while_after_it_was_replaced() {
        let hour = Duration::from_secs(3600);
        let keys = drawn();
        let first = ids(&keys);
        let (second, third) = (drawn(), drawn());
        let (second_id, third_id) = (ids(&second), ids(&third));
        keys.replace(second, hour);
        assert_eq!(ids(&keys), [second_id.clone(), first.clone()].concat());
        assert_eq!(keys.current().id, second_id[0]);
        // Another reload does not make it go early, nor does it keep what has had its time.
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

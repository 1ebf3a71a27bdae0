//! A key pair on P-256 that belongs to one sign-in.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::{PublicKey, SecretKey, ecdh::SharedSecret};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    ClientError,
    api::{EncryptionKey, Secret},
};

/// Bytes of a private key and of a coordinate on P-256.
pub(crate) const SIZE: usize = 32;

/// Bytes of an uncompressed point (SEC 1 §2.3.3): 4, then both coordinates.
pub(crate) const POINT: usize = 1 + 2 * SIZE;

/// A key pair on P-256; `Debug` does not print it.
#[derive(Clone)]
pub(crate) struct KeyPair(SecretKey);

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyPair(redacted)")
    }
}

/// The private key in base64url: `d` of RFC 7518 §6.2.2.1.
impl Serialize for KeyPair {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.private().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyPair {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.expose()).map(Zeroizing::new);
        bytes
            .ok()
            .and_then(|bytes| SecretKey::from_slice(&bytes).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("malformed key"))
    }
}

impl KeyPair {
    /// A new one.
    ///
    /// # Errors
    /// [`ClientError::NoRandomness`].
    pub(crate) fn generate() -> Result<Self, ClientError> {
        let mut bytes = Zeroizing::new([0; SIZE]);
        loop {
            SystemRandom::new().fill(&mut *bytes).map_err(|_| ClientError::NoRandomness)?;
            // All but one in 2³² numbers are below the order of the curve.
            if let Ok(key) = SecretKey::from_slice(&*bytes) {
                return Ok(Self(key));
            }
        }
    }

    /// The point of its public key, uncompressed.
    pub(crate) fn point(&self) -> [u8; POINT] {
        let mut point = [0; POINT];
        let bytes = self.0.public_key().to_sec1_bytes();
        // Both have the same length.
        point.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
        point
    }

    /// Its public key.
    pub(crate) fn public(&self) -> EncryptionKey {
        let point = self.point();
        let (x, y) = point[1..].split_at(SIZE);
        EncryptionKey {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
            ..EncryptionKey::default()
        }
    }

    /// The private key, as bytes.
    pub(crate) fn private_bytes(&self) -> Zeroizing<[u8; SIZE]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// `d` of its JWK.
    pub(crate) fn private(&self) -> Secret {
        URL_SAFE_NO_PAD.encode(self.private_bytes()).into()
    }

    /// Its private JWK.
    pub(crate) fn jwk(&self) -> PrivateKey {
        PrivateKey { public: self.public(), d: self.private() }
    }

    /// What it and the holder of `theirs` agree on (RFC 7518 §4.6).
    pub(crate) fn agree(&self, theirs: &PublicKey) -> SharedSecret {
        self.0.diffie_hellman(theirs)
    }
}

/// A private key on P-256 as a JWK (RFC 7518 §6.2.2).
#[derive(Clone, Debug, Serialize)]
pub struct PrivateKey {
    #[serde(flatten)]
    public: EncryptionKey,
    d: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_saved_and_not_shown() {
        let own = KeyPair::generate().unwrap();
        let text = serde_json::to_string(&own).unwrap();
        let read: KeyPair = serde_json::from_str(&text).unwrap();
        assert_eq!(read.public(), own.public());
        assert_eq!(format!("{own:?}"), "KeyPair(redacted)");
        assert!(!format!("{:?}", own.jwk()).contains(own.private().expose()));
        for malformed in ["\"\"", "\"AAAA\"", "7", &format!("{:?}", "A".repeat(43))] {
            assert!(serde_json::from_str::<KeyPair>(malformed).is_err(), "{malformed}");
        }
    }
}

//! The public keys of a session's creator, to which what it receives is bound.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    api,
    session::digest::{Digest, digest_identifier},
};

/// Bytes of a coordinate on P-256.
const COORDINATE: usize = 32;

/// First byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Members of a JWK that no public key has (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
pub(crate) const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What is wrong with an `encryption_key`; never what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEncryptionKey {
    /// It is private, or a shared secret.
    #[error("`encryption_key` holds a private key; send the public key alone.")]
    Private,
    /// It is of another type or on another curve.
    #[error("`encryption_key` has `kty` `EC` and `crv` `P-256`.")]
    Curve,
    /// A coordinate is not what RFC 7518 §6.2.1.2 says.
    #[error("`encryption_key` has `x` and `y`, each 32 bytes in base64url without padding.")]
    Coordinate,
    /// It is for something else.
    #[error("`encryption_key` is for `alg` `ECDH-ES` and `use` `enc`, where it names them.")]
    Use,
    /// Its point is not on the curve.
    #[error("`encryption_key` is no point of the curve P-256.")]
    Point,
}

/// A public key on P-256 for which the relay encrypts (RFC 7518 §4.6), as an uncompressed point.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 1 + 2 * COORDINATE]);

impl EncryptionKey {
    /// The point, uncompressed: 4, then both coordinates.
    pub fn point(&self) -> &[u8; 1 + 2 * COORDINATE] {
        &self.0
    }

    fn of_coordinates(coordinates: &[u8; 2 * COORDINATE]) -> Self {
        let mut point = [UNCOMPRESSED; 1 + 2 * COORDINATE];
        point[1..].copy_from_slice(coordinates);
        Self(point)
    }
}

/// Everything but whether the point is on the curve, which takes cryptography.
impl TryFrom<&api::EncryptionKey> for EncryptionKey {
    type Error = InvalidEncryptionKey;

    fn try_from(jwk: &api::EncryptionKey) -> Result<Self, InvalidEncryptionKey> {
        if PRIVATE_MEMBERS.iter().any(|member| jwk.further.contains_key(*member)) {
            return Err(InvalidEncryptionKey::Private);
        }
        if jwk.kty != "EC" || jwk.crv != "P-256" {
            return Err(InvalidEncryptionKey::Curve);
        }
        let is = |value: &Option<String>, own: &str| value.as_ref().is_none_or(|it| it == own);
        if !is(&jwk.alg, "ECDH-ES") || !is(&jwk.r#use, "enc") {
            return Err(InvalidEncryptionKey::Use);
        }
        let mut coordinates = [0; 2 * COORDINATE];
        for (text, place) in [&jwk.x, &jwk.y].into_iter().zip(coordinates.chunks_mut(COORDINATE)) {
            match URL_SAFE_NO_PAD.decode(text) {
                Ok(bytes) if bytes.len() == COORDINATE => place.copy_from_slice(&bytes),
                _ => return Err(InvalidEncryptionKey::Coordinate),
            }
        }
        Ok(Self::of_coordinates(&coordinates))
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EncryptionKey({}…)", hex::encode(&self.0[1..7]))
    }
}

/// Both coordinates in base64url.
impl Serialize for EncryptionKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0[1..]))
    }
}

impl<'de> Deserialize<'de> for EncryptionKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut coordinates = [0; 2 * COORDINATE];
        match URL_SAFE_NO_PAD.decode_slice(&*text, &mut coordinates) {
            Ok(length) if length == coordinates.len() => Ok(Self::of_coordinates(&coordinates)),
            _ => Err(serde::de::Error::custom("malformed key")),
        }
    }
}

digest_identifier! {
    /// SHA-256 thumbprint of a public key (RFC 7638).
    Thumbprint
}

impl Thumbprint {
    /// That of no key: what is bound to it can be used by nobody.
    pub fn unknown() -> Self {
        Self(Digest::from_bytes([0; 32]))
    }

    /// Whether it is that of no key.
    pub fn is_unknown(self) -> bool {
        self == Self::unknown()
    }
}

/// The keys of a session's creator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    /// Every token answer is encrypted for it.
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    pub encryption_key: Option<EncryptionKey>,
    /// Access tokens and refresh tokens are of use with proofs of this key alone (RFC 9449).
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub dpop_key: Option<Thumbprint>,
}

impl Binding {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Bob's key of RFC 7518 appendix C.
    fn bob() -> Value {
        json!({
            "kty": "EC", "crv": "P-256",
            "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
            "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
        })
    }

    fn parse(jwk: Value) -> Result<EncryptionKey, InvalidEncryptionKey> {
        EncryptionKey::try_from(&serde_json::from_value::<api::EncryptionKey>(jwk).unwrap())
    }

    fn with(member: &str, value: Value) -> Value {
        let mut jwk = bob();
        jwk[member] = value;
        jwk
    }

    #[test]
    fn a_key_survives_the_store() {
        let key = parse(bob()).unwrap();
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<EncryptionKey>(&text).unwrap(), key);
        assert!(serde_json::from_str::<EncryptionKey>("\"AAAA\"").is_err());
        // As WebCrypto exports it.
        assert!(parse(with("key_ops", json!([]))).is_ok());
        assert!(parse(with("ext", json!(true))).is_ok());
        assert!(parse(with("alg", json!("ECDH-ES"))).is_ok());
        assert!(parse(with("use", json!("enc"))).is_ok());
    }

    #[test]
    fn any_other_key_is_refused_by_its_reason() {
        for member in PRIVATE_MEMBERS {
            assert_eq!(parse(with(member, json!("AAAA"))), Err(InvalidEncryptionKey::Private));
        }
        for (member, value, reason) in [
            ("kty", "RSA", InvalidEncryptionKey::Curve),
            ("kty", "ec", InvalidEncryptionKey::Curve),
            ("crv", "P-384", InvalidEncryptionKey::Curve),
            ("crv", "secp256k1", InvalidEncryptionKey::Curve),
            ("alg", "ECDH-ES+A256KW", InvalidEncryptionKey::Use),
            ("use", "sig", InvalidEncryptionKey::Use),
            ("x", "", InvalidEncryptionKey::Coordinate),
            ("x", "AAAA", InvalidEncryptionKey::Coordinate),
            ("y", "e8lnCO+AlStT+NJVX+crhB7QRYhiix03illJOVAOyck", InvalidEncryptionKey::Coordinate),
            ("y", "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck=", InvalidEncryptionKey::Coordinate),
            // Bits beyond the last byte.
            ("y", "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOycl", InvalidEncryptionKey::Coordinate),
        ] {
            assert_eq!(parse(with(member, json!(value))), Err(reason), "{member} {value}");
        }
    }
}

//! JSON Web Encryption (RFC 7516) with ring: `ECDH-ES` in direct key agreement (RFC 7518 §4.6) with
//! `A256GCM`, in compact serialisation.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    error::Unspecified,
    rand::SystemRandom,
};
use token_relay_client::concat_kdf;

use crate::{
    session::{EncryptionKey, InvalidEncryptionKey},
    util::random::random_bytes,
};

/// `enc`.
const ENCRYPTION: &str = "A256GCM";

/// Size of its key.
const KEY_BITS: u32 = 256;

/// The system has no random numbers, or the key is no point of its curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token answer cannot be encrypted")]
pub struct EncryptError;

impl From<Unspecified> for EncryptError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// Refuses a key that is no point of the curve (NIST SP 800-56A §5.6.2.3.3), for which nothing could
/// be encrypted later.
///
/// # Errors
/// [`InvalidEncryptionKey::Point`].
pub fn check(key: &EncryptionKey) -> Result<(), InvalidEncryptionKey> {
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new());
    let point = UnparsedPublicKey::new(&ECDH_P256, key.point());
    own.and_then(|own| agree_ephemeral(own, &point, |_| ()))
        .map_err(|_| InvalidEncryptionKey::Point)
}

/// Encrypts `plaintext` for `key`; `recipient` is `apv` (RFC 7518 §4.6.1.3), which binds the result to
/// one place.
///
/// # Errors
/// [`EncryptError`].
pub fn encrypt(
    key: &EncryptionKey,
    recipient: &[u8],
    plaintext: &[u8],
) -> Result<String, EncryptError> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let public = own.compute_public_key()?;
    let (x, y) = public.as_ref().get(1..).ok_or(EncryptError)?.split_at(public.as_ref().len() / 2);
    let header = serde_json::json!({
        "alg": "ECDH-ES",
        "enc": ENCRYPTION,
        "apv": encode(recipient),
        "epk": { "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) },
    });
    let mut text = encode(header.to_string().as_bytes());
    let point = UnparsedPublicKey::new(&ECDH_P256, key.point());
    let content_key = agree_ephemeral(own, &point, |secret| {
        concat_kdf(secret, ENCRYPTION, b"", recipient, KEY_BITS)
    })?;
    let content_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*content_key)?);
    let nonce = random_bytes::<NONCE_LEN>();
    let mut content = plaintext.to_vec();
    let tag = content_key.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(nonce),
        // The encoded header (RFC 7516 §5.1).
        Aad::from(text.as_bytes()),
        &mut content,
    )?;
    // The key itself is agreed upon, so that the second part is empty (RFC 7518 §4.6).
    text.push_str("..");
    for (part, end) in [(&nonce[..], "."), (&content, "."), (tag.as_ref(), "")] {
        URL_SAFE_NO_PAD.encode_string(part, &mut text);
        text.push_str(end);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api;

    fn key(jwk: Value) -> EncryptionKey {
        let jwk: api::EncryptionKey = serde_json::from_value(jwk).unwrap();
        EncryptionKey::try_from(&jwk).unwrap()
    }

    fn bob() -> Value {
        json!({
            "kty": "EC", "crv": "P-256",
            "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
            "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
        })
    }

    /// RFC 7518 appendix C.
    #[test]
    fn the_example_of_rfc_7518_gives_its_key() {
        let secret = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49,
            110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        let derived = concat_kdf(&secret, "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(URL_SAFE_NO_PAD.encode(&derived[..16]), "VqqN6vgjbSBcIijNcacQGg");
    }

    #[test]
    fn what_is_encrypted_has_the_parts_of_rfc_7516_and_differs_each_time() {
        let make = || encrypt(&key(bob()), b"session", b"the token").unwrap();
        let (one, other) = (make(), make());
        assert_ne!(one, other);
        let parts: Vec<_> = one.split('.').collect();
        let sizes: Vec<_> =
            parts.iter().map(|part| URL_SAFE_NO_PAD.decode(part).unwrap().len()).collect();
        assert_eq!(sizes[1..], [0, 12, b"the token".len(), 16]);
        let header: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
        assert_eq!((&header["alg"], &header["enc"]), (&json!("ECDH-ES"), &json!("A256GCM")));
        assert_eq!(header["apv"], URL_SAFE_NO_PAD.encode("session"));
        assert_eq!(header.get("zip"), None);
    }

    #[test]
    fn a_point_beside_the_curve_is_refused() {
        assert_eq!(check(&key(bob())), Ok(()));
        let beside = |member: &str, value: &str| {
            let mut jwk = bob();
            jwk[member] = json!(value);
            key(jwk)
        };
        let (zero, ones) = (URL_SAFE_NO_PAD.encode([0; 32]), URL_SAFE_NO_PAD.encode([255; 32]));
        for other in [
            beside("y", "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ"),
            beside("x", &zero),
            beside("y", &ones),
            key(json!({"kty": "EC", "crv": "P-256", "x": zero, "y": zero})),
        ] {
            assert_eq!(check(&other), Err(InvalidEncryptionKey::Point));
            assert!(encrypt(&other, b"", b"").is_err());
        }
    }
}

//! The key of one sign-in, for which the relay encrypts: `ECDH-ES` in direct key agreement (RFC 7518
//! §4.6) with `A256GCM`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::PublicKey;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    ClientError,
    api::{EncryptionKey, Secret, TokenResponse},
    checks,
    key::{KeyPair, PrivateKey, SIZE},
};

/// The key pair of one sign-in, which opens what is encrypted for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DecryptionKey(KeyPair);

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    apv: String,
    epk: EncryptionKey,
    zip: Option<serde::de::IgnoredAny>,
    crit: Option<serde::de::IgnoredAny>,
}

impl DecryptionKey {
    /// A new one.
    ///
    /// # Errors
    /// [`ClientError::NoRandomness`].
    pub fn generate() -> Result<Self, ClientError> {
        KeyPair::generate().map(Self)
    }

    /// Its public key, the `encryption_key` of a creation.
    pub fn public(&self) -> EncryptionKey {
        self.0.public()
    }

    /// Its private JWK.
    pub(crate) fn jwk(&self) -> PrivateKey {
        self.0.jwk()
    }

    /// What a relay answers the reader of this session; anything that is not encrypted for this key and
    /// this session is refused.
    ///
    /// # Errors
    /// [`ClientError::NotEncrypted`], and [`ClientError::Malformed`] where the content is no token.
    pub fn open(
        &self,
        session_id: &Secret,
        answer: &TokenResponse,
    ) -> Result<TokenResponse, ClientError> {
        let encrypted = answer.encrypted.as_ref().ok_or(ClientError::NotEncrypted)?;
        let content = self.decrypt(session_id.expose().as_bytes(), encrypted.expose());
        let content = content.ok_or(ClientError::NotEncrypted)?;
        let token: TokenResponse = serde_json::from_slice(&content)
            .map_err(|_| ClientError::Malformed("the encrypted token"))?;
        checks::token(token)
    }

    fn decrypt(&self, session_id: &[u8], encrypted: &str) -> Option<Zeroizing<Vec<u8>>> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let parts: Vec<_> = encrypted.split('.').collect();
        let [head, "", nonce, text, tag] = parts[..] else { return None };
        let header: Header = serde_json::from_slice(&decode(head)?).ok()?;
        let session = digest(&SHA256, session_id);
        let expected = header.alg == "ECDH-ES"
            && header.enc == "A256GCM"
            && header.apv == URL_SAFE_NO_PAD.encode(session)
            && header.zip.is_none()
            && header.crit.is_none();
        if !expected || header.epk.kty != "EC" || header.epk.crv != "P-256" {
            return None;
        }
        let (x, y) = (decode(&header.epk.x)?, decode(&header.epk.y)?);
        if x.len() != SIZE || y.len() != SIZE {
            return None;
        }
        let theirs = PublicKey::from_sec1_bytes(&[&[4], &x[..], &y[..]].concat()).ok()?;
        let secret = self.0.agree(&theirs);
        let key = concat_kdf(secret.raw_secret_bytes(), "A256GCM", b"", session.as_ref(), 256);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).ok()?);
        let nonce = Nonce::try_assume_unique_for_key(&decode(nonce)?).ok()?;
        let mut content = Zeroizing::new(decode(text)?);
        content.extend_from_slice(&decode(tag)?);
        let length = key.open_in_place(nonce, Aad::from(head.as_bytes()), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

/// The Concat KDF (NIST SP 800-56A §5.8.1) as RFC 7518 §4.6.2 profiles it, in one round of SHA-256: the
/// first `bits` of it are the key. `producer` and `recipient` are `apu` and `apv`, decoded.
pub fn concat_kdf(
    secret: &[u8],
    algorithm: &str,
    producer: &[u8],
    recipient: &[u8],
    bits: u32,
) -> Zeroizing<[u8; SHA256_OUTPUT_LEN]> {
    let mut hash = Context::new(&SHA256);
    hash.update(&1u32.to_be_bytes());
    hash.update(secret);
    for part in [algorithm.as_bytes(), producer, recipient] {
        // Parts are short: constants, and the key of a session.
        hash.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.update(&bits.to_be_bytes());
    let mut key = Zeroizing::new([0; SHA256_OUTPUT_LEN]);
    key.copy_from_slice(hash.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(d: &str) -> DecryptionKey {
        serde_json::from_value(serde_json::json!(d)).unwrap()
    }

    /// RFC 7518 appendix C, as Bob computes it.
    #[test]
    fn the_example_of_rfc_7518_gives_its_key() {
        let bob = key("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw");
        let public = bob.public();
        assert_eq!(public.x, "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ");
        assert_eq!(public.y, "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck");
        let (x, y) = (
            URL_SAFE_NO_PAD.decode("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0").unwrap(),
            URL_SAFE_NO_PAD.decode("SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps").unwrap(),
        );
        let alice = PublicKey::from_sec1_bytes(&[&[4], &x[..], &y[..]].concat()).unwrap();
        let secret = bob.0.agree(&alice);
        let derived = concat_kdf(secret.raw_secret_bytes(), "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(URL_SAFE_NO_PAD.encode(&derived[..16]), "VqqN6vgjbSBcIijNcacQGg");
    }

    #[test]
    fn an_answer_in_the_clear_is_refused_whatever_is_beside_it() {
        let (own, session) = (DecryptionKey::generate().unwrap(), Secret::from("session"));
        let token = TokenResponse {
            access_token: "e30.e30.e30".into(),
            token_type: "Bearer".to_owned(),
            ..TokenResponse::default()
        };
        for encrypted in [None, Some(""), Some("a.b.c.d.e"), Some("e30..AAAA.AAAA.AAAA")] {
            let encrypted = encrypted.map(Secret::from);
            let answer = TokenResponse { encrypted, ..token.clone() };
            assert!(matches!(own.open(&session, &answer), Err(ClientError::NotEncrypted)));
        }
    }
}

//! Authenticated encryption of what leaves this process: payloads in the store and on the bus,
//! refresh tokens, cookies.
//!
//! Envelope: version (1 byte), key ID (4), nonce (24), XChaCha20-Poly1305 ciphertext. The random
//! 192-bit nonces need no counter shared between instances. Purpose and context are authenticated,
//! so that an envelope is valid in one place only.

use std::time::Duration;

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    token::error::KeyError,
    util::{clock::UnixTime, random::random_bytes},
};

const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = 1 + KEY_ID + NONCE;

/// Minimum length of a secret from which a key is derived, in bytes.
const MIN_SECRET_LENGTH: usize = 32;

/// What an envelope is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A token response in the store.
    Payload,
    /// The cookie of a dialog.
    Dialog,
    /// `state` and CSRF tokens of a dialog: which session they belong to.
    DialogState,
    /// The cookie of a browser login that is at the provider.
    BrowserLoginAttempt,
    /// The cookie of a browser login.
    BrowserLogin,
    /// A refresh token.
    RefreshToken,
    /// The details of a session in the store.
    SessionDetails,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Payload => b"payload",
            Self::Dialog => b"dialog",
            Self::DialogState => b"dialog-state",
            Self::BrowserLoginAttempt => b"browser-login-attempt",
            Self::BrowserLogin => b"browser-login",
            Self::RefreshToken => b"refresh-token",
            Self::SessionDetails => b"session-details",
        }
    }
}

/// Why an envelope cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was not sealed here, was altered, or is for another purpose or context.
    #[error("not an envelope for this purpose and context")]
    Invalid,
    /// It was sealed with a key that is not in the ring, or no longer.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// Its lifetime is over.
    #[error("expired")]
    Expired,
}

/// Sealing keys: the first seals, all open. They can be replaced while the ring is in use.
pub struct KeyRing {
    keys: ArcSwap<Vec<Key>>,
}

struct Key {
    id: [u8; KEY_ID],
    cipher: XChaCha20Poly1305,
}

impl Key {
    fn derive(secret: &[u8]) -> Self {
        // The secret is random by contract, so one hash with a label for each use is a sound key
        // derivation (NIST SP 800-56C, one-step).
        let labelled = |label: &[u8]| {
            Sha256::new().chain_update(label).chain_update([0]).chain_update(secret).finalize()
        };
        let key = Zeroizing::new(<[u8; 32]>::from(labelled(b"token-relay sealing key")));
        let digest = labelled(b"token-relay key id");
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&digest[..KEY_ID]);
        Self { id, cipher: XChaCha20Poly1305::new((&*key).into()) }
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "KeyRing({} keys)", self.keys.load().len())
    }
}

impl KeyRing {
    /// A ring from secrets of 32 bytes or more.
    ///
    /// # Errors
    /// When there is none or one is too short.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, KeyError> {
        let keys = secrets
            .into_iter()
            .map(|secret| {
                if secret.len() < MIN_SECRET_LENGTH {
                    return Err(KeyError::TooShort { min: MIN_SECRET_LENGTH });
                }
                Ok(Key::derive(secret))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::Missing) } else { Ok(Self::of(keys)) }
    }

    /// A ring with one random key, lost when the process ends.
    pub fn random() -> Self {
        Self::of(vec![Key::derive(&*Zeroizing::new(random_bytes::<32>()))])
    }

    fn of(keys: Vec<Key>) -> Self {
        Self { keys: ArcSwap::from_pointee(keys) }
    }

    /// Replaces the keys by those of `other`. What was sealed with a key that is not among them can
    /// no longer be opened.
    pub fn replace(&self, other: Self) {
        self.keys.store(other.keys.into_inner());
    }

    /// Seals `plaintext` for `purpose` and `context`; empty beyond XChaCha20's 256 GiB.
    pub fn seal(&self, purpose: Purpose, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let keys = self.keys.load();
        let Some(key) = keys.first() else { return Vec::new() };
        let nonce = random_bytes::<NONCE>();
        let aad = associated(purpose, context);
        let mut envelope = Vec::with_capacity(HEAD + plaintext.len() + TAG);
        envelope.push(VERSION);
        envelope.extend_from_slice(&key.id);
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(plaintext);
        let text = InOutBuf::from(&mut envelope[HEAD..]);
        match key.cipher.encrypt_inout_detached(&XNonce::from(nonce), &aad, text) {
            Ok(tag) => envelope.extend_from_slice(&tag),
            // Nothing is better than plaintext.
            Err(_) => envelope.clear(),
        }
        envelope
    }

    /// Opens what [`Self::seal`] sealed for the same purpose and context.
    ///
    /// # Errors
    /// [`OpenError`], which does not say which part was wrong.
    pub fn open(
        &self,
        purpose: Purpose,
        context: &[u8],
        envelope: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (head, ciphertext) = envelope.split_at_checked(HEAD).ok_or(OpenError::Invalid)?;
        let (version, rest) = head.split_at(1);
        let (id, nonce) = rest.split_at(KEY_ID);
        if version != [VERSION] {
            return Err(OpenError::Invalid);
        }
        let nonce = XNonce::try_from(nonce).map_err(|_| OpenError::Invalid)?;
        let aad = associated(purpose, context);
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.id == id).ok_or(OpenError::UnknownKey)?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        key.cipher.decrypt_in_place(&nonce, &aad, &mut *text).map_err(|_| OpenError::Invalid)?;
        Ok(text)
    }

    /// Seals a value for `ttl` as base64url text, for a cookie.
    ///
    /// # Errors
    /// When the value cannot be serialised.
    pub fn seal_text<T: Serialize>(
        &self,
        purpose: Purpose,
        context: &[u8],
        value: &T,
        ttl: Duration,
    ) -> Result<String, serde_json::Error> {
        let until = UnixTime::now().as_secs().saturating_add(ttl.as_secs());
        let plaintext = Zeroizing::new(serde_json::to_vec(&Timed { until, value })?);
        Ok(URL_SAFE_NO_PAD.encode(self.seal(purpose, context, &plaintext)))
    }

    /// Opens what [`Self::seal_text`] sealed.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_text<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        context: &[u8],
        text: &str,
    ) -> Result<T, OpenError> {
        let envelope = URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Invalid)?;
        let plaintext = self.open(purpose, context, &envelope)?;
        let timed: Timed<T> = serde_json::from_slice(&plaintext).map_err(|_| OpenError::Invalid)?;
        let expired = UnixTime::now().as_secs() >= timed.until;
        if expired { Err(OpenError::Expired) } else { Ok(timed.value) }
    }
}

#[derive(Serialize, Deserialize)]
struct Timed<T> {
    until: u64,
    value: T,
}

fn associated(purpose: Purpose, context: &[u8]) -> Vec<u8> {
    // No label has a zero byte, so the boundary to the context is unambiguous.
    [purpose.label(), &[0], context].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &[u8] = b"an old secret of thirty-two bytes or more";
    const NEW: &[u8] = b"a new secret of thirty-two bytes or more!";

    proptest! {
        #[test]
        fn an_envelope_opens_for_its_purpose_and_context_only(
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
            context in proptest::collection::vec(any::<u8>(), 0..40),
            flip in any::<prop::sample::Index>(),
        ) {
            let ring = KeyRing::new([NEW]).unwrap();
            let envelope = ring.seal(Purpose::Payload, &context, &plaintext);
            prop_assert_eq!(&*ring.open(Purpose::Payload, &context, &envelope).unwrap(), &plaintext);
            prop_assert!(ring.open(Purpose::Dialog, &context, &envelope).is_err());
            prop_assert!(ring.open(Purpose::Payload, b"another place, longer than forty bytes in all", &envelope).is_err());
            let mut altered = envelope.clone();
            altered[flip.index(envelope.len())] ^= 1;
            prop_assert!(ring.open(Purpose::Payload, &context, &altered).is_err());
            prop_assert!(ring.open(Purpose::Payload, &context, &envelope[..flip.index(envelope.len())]).is_err());
        }
    }

    /// Sealed by version 0.1.
    const SEALED: &str = "0110f20b83fac19dd281fb730f3485fd064e4b34d480595e5c0d09b1318a794771dbb2\
        2e07d48c686ad4b621078ba83ab53ef2236ee62a418315a9c0ebeb1aa07f6f";

    #[test]
    fn what_version_0_1_sealed_opens() {
        let envelope = hex::decode(SEALED).unwrap();
        let opened = KeyRing::new([OLD]).unwrap().open(Purpose::Payload, b"context", &envelope);
        assert_eq!(**opened.unwrap(), *b"sealed by version 0.1");
    }

    #[test]
    fn keys_rotate() {
        let before = KeyRing::new([OLD]).unwrap();
        let during = KeyRing::new([NEW, OLD]).unwrap();
        let after = KeyRing::new([NEW]).unwrap();
        let envelope = before.seal(Purpose::Payload, b"", b"text");
        assert!(during.open(Purpose::Payload, b"", &envelope).is_ok());
        assert_eq!(after.open(Purpose::Payload, b"", &envelope), Err(OpenError::UnknownKey));
        let envelope = during.seal(Purpose::Payload, b"", b"text");
        assert!(after.open(Purpose::Payload, b"", &envelope).is_ok());
    }

    #[test]
    fn a_ring_takes_other_keys_while_it_is_in_use() {
        let ring = KeyRing::new([OLD]).unwrap();
        let envelope = ring.seal(Purpose::Payload, b"", b"text");
        ring.replace(KeyRing::new([NEW, OLD]).unwrap());
        assert!(ring.open(Purpose::Payload, b"", &envelope).is_ok());
        let newer = ring.seal(Purpose::Payload, b"", b"text");
        ring.replace(KeyRing::new([NEW]).unwrap());
        assert_eq!(ring.open(Purpose::Payload, b"", &envelope), Err(OpenError::UnknownKey));
        assert!(ring.open(Purpose::Payload, b"", &newer).is_ok());
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert!(matches!(KeyRing::new([&b"short"[..]]), Err(KeyError::TooShort { .. })));
        assert!(matches!(KeyRing::new([]), Err(KeyError::Missing)));
    }

    #[test]
    fn cookies_expire() {
        let ring = KeyRing::random();
        let text = ring.seal_text(Purpose::Dialog, b"a", &7, Duration::from_secs(60)).unwrap();
        assert_eq!(ring.open_text::<u8>(Purpose::Dialog, b"a", &text), Ok(7));
        let text = ring.seal_text(Purpose::Dialog, b"a", &7, Duration::ZERO).unwrap();
        assert_eq!(ring.open_text::<u8>(Purpose::Dialog, b"a", &text), Err(OpenError::Expired));
    }
}

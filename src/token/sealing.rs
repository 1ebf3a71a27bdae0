//! Authenticated encryption of data that leaves this process: payloads in the store and on the bus,
//! refresh tokens, cookies.
//!
//! Envelope: format (1 byte), key ID (4), nonce (24), XChaCha20-Poly1305 ciphertext. The random
//! 192-bit nonces need no counter shared between instances. Purpose and context are authenticated,
//! so that an envelope is valid in one place only. The format says how its key was derived; both are
//! opened, so that a rolling upgrade from 0.1 loses nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{AeadInOut as _, inout::InOutBuf},
};
use ring::hkdf::{HKDF_SHA256, Salt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    session::Digest,
    token::error::KeyError,
    util::{clock::UnixTime, random::random_bytes, wiped::WipedBytes},
};

const KEY_ID: usize = 4;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = 1 + KEY_ID + NONCE;

/// Minimum length of a secret from which a key is derived, in bytes.
const MIN_SECRET_LENGTH: usize = 32;

/// How the key of an envelope is derived from the configured secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SHA-256 of a label and the secret; version 0.1 seals and opens nothing else.
    V1,
    /// HKDF-SHA-256 (RFC 5869) with a label for each setting.
    V2,
}

impl Format {
    const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The first byte of an envelope.
    fn byte(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

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
    /// The result of exchanging a code, for the other instances.
    Exchanged,
    /// A form that the provider let the browser post, on its way to the callback.
    CallbackForm,
    /// The account of a dialog in the store, where it is too large for a cookie.
    DialogAccount,
    /// The ID token of a browser login in the store, likewise.
    BrowserLoginIdToken,
    /// The reference in the address of an error page.
    ErrorReference,
    /// `state` of a logout at the provider.
    LogoutState,
    /// A device code (RFC 8628).
    DeviceCode,
    /// The CSRF token of the page that asks for a device's user code.
    DevicePage,
    /// A nonce of DPoP proofs.
    DpopNonce,
    /// A user code of the device authorization grant, as the store knows it.
    UserCode,
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
            Self::Exchanged => b"exchanged",
            Self::CallbackForm => b"callback-form",
            Self::DialogAccount => b"dialog-account",
            Self::BrowserLoginIdToken => b"browser-login-id-token",
            Self::ErrorReference => b"error-reference",
            Self::LogoutState => b"logout-state",
            Self::DeviceCode => b"device-code",
            Self::DevicePage => b"device-page",
            Self::DpopNonce => b"dpop-nonce",
            Self::UserCode => b"user-code",
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
    /// It has expired.
    #[error("expired")]
    Expired,
}

/// Sealing keys: the first seals, all open. They can be replaced while the ring is in use.
pub struct KeyRing {
    keys: ArcSwap<Vec<Key>>,
    /// Whether it seals in [`Format::V1`].
    v1: AtomicBool,
}

/// What a ring seals with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId {
    format: Format,
    id: [u8; KEY_ID],
}

/// The keys that derive from one secret, by [`Format`].
struct Key {
    v1: DerivedKey,
    v2: DerivedKey,
}

struct DerivedKey {
    id: [u8; KEY_ID],
    cipher: XChaCha20Poly1305,
    /// For digests.
    mac: ring::hmac::Key,
}

impl Key {
    fn derive(label: &str, secret: &[u8]) -> Self {
        Self { v1: DerivedKey::v1(secret), v2: DerivedKey::v2(label, secret) }
    }

    fn of(&self, format: Format) -> &DerivedKey {
        match format {
            Format::V1 => &self.v1,
            Format::V2 => &self.v2,
        }
    }
}

impl DerivedKey {
    fn v1(secret: &[u8]) -> Self {
        let labelled = |label: &[u8]| {
            let hash = Sha256::new().chain_update(label).chain_update([0]);
            <[u8; 32]>::from(hash.chain_update(secret).finalize())
        };
        Self::new(labelled(b"token-relay sealing key"), labelled(b"token-relay key id"))
    }

    fn v2(label: &str, secret: &[u8]) -> Self {
        let pseudorandom = Salt::new(HKDF_SHA256, b"token-relay v2").extract(secret);
        let expand = |usage: &str| {
            let mut output = [0; 32];
            let info = [label.as_bytes(), b" ", usage.as_bytes()];
            // 32 bytes are the length of the hash, so neither step can fail.
            if let Ok(okm) = pseudorandom.expand(&info, HKDF_SHA256) {
                let _ = okm.fill(&mut output);
            }
            output
        };
        Self::new(expand("key"), expand("id"))
    }

    fn new(key: [u8; 32], id: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        let mut short = [0; KEY_ID];
        short.copy_from_slice(&id[..KEY_ID]);
        // A key of its own, so that no key serves two algorithms.
        let labelled = Sha256::new().chain_update(b"token-relay digests\0").chain_update(*key);
        let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &labelled.finalize());
        Self { id: short, cipher: XChaCha20Poly1305::new((&*key).into()), mac }
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "KeyRing({} keys)", self.keys.load().len())
    }
}

impl KeyRing {
    /// A ring from secrets of 32 bytes or more. `label` separates its keys from those that another
    /// ring makes of the same secret: the name of the setting.
    ///
    /// # Errors
    /// When there is none or one is too short.
    pub fn new<'a>(
        label: &str,
        secrets: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, KeyError> {
        let keys = secrets
            .into_iter()
            .map(|secret| {
                if secret.len() < MIN_SECRET_LENGTH {
                    return Err(KeyError::TooShort { min: MIN_SECRET_LENGTH });
                }
                Ok(Key::derive(label, secret))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::Missing) } else { Ok(Self::of(keys)) }
    }

    /// A ring with one random key, lost when the process ends.
    pub fn random() -> Self {
        Self::of(vec![Key::derive("random", &*Zeroizing::new(random_bytes::<32>()))])
    }

    fn of(keys: Vec<Key>) -> Self {
        Self { keys: ArcSwap::from_pointee(keys), v1: AtomicBool::new(false) }
    }

    /// The format in which it seals: [`Format::V2`] unless [`Self::seal_in`] says otherwise.
    pub fn format(&self) -> Format {
        if self.v1.load(Ordering::Relaxed) { Format::V1 } else { Format::V2 }
    }

    /// Seals in `format` from now on.
    pub fn seal_in(&self, format: Format) {
        self.v1.store(format == Format::V1, Ordering::Relaxed);
    }

    /// The key that seals now, in its format.
    pub fn current(&self) -> Option<KeyId> {
        let format = self.format();
        self.keys.load().first().map(|key| KeyId { format, id: key.of(format).id })
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
        let format = self.format();
        let key = key.of(format);
        let nonce = random_bytes::<NONCE>();
        let aad = associated(purpose, context);
        let mut envelope = Vec::with_capacity(HEAD + plaintext.len() + TAG);
        envelope.push(format.byte());
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
    ) -> Result<WipedBytes, OpenError> {
        let (head, ciphertext) = envelope.split_at_checked(HEAD).ok_or(OpenError::Invalid)?;
        let (version, rest) = head.split_at(1);
        let (id, nonce) = rest.split_at(KEY_ID);
        let format = Format::ALL.into_iter().find(|format| [format.byte()] == version);
        let format = format.ok_or(OpenError::Invalid)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| OpenError::Invalid)?;
        let aad = associated(purpose, context);
        let keys = self.keys.load();
        let mut keys = keys.iter().map(|key| key.of(format));
        let key = keys.find(|key| key.id == id).ok_or(OpenError::UnknownKey)?;
        let mut text = ciphertext.to_vec();
        // A text that is not authentic is not decrypted.
        key.cipher.decrypt_in_place(&nonce, &aad, &mut text).map_err(|_| OpenError::Invalid)?;
        Ok(text.into())
    }

    /// Digests of a short secret, which without the keys cannot be guessed from them: one for each
    /// key, the first for what is stored from now on.
    pub fn digests(&self, purpose: Purpose, text: &str) -> Vec<Digest> {
        let content = associated(purpose, text.as_bytes());
        let keys = self.keys.load();
        let digest = |key: &Key| {
            // The same at every instance, whichever format it seals in.
            let tag = ring::hmac::sign(&key.v2.mac, &content);
            <[u8; 32]>::try_from(tag.as_ref()).ok().map(Digest::from_bytes)
        };
        keys.iter().filter_map(digest).collect()
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
        let plaintext = WipedBytes::from(serde_json::to_vec(&Timed { until, value })?);
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
        let timed = self.open_timed(purpose, context, text)?;
        let expired = UnixTime::now().as_secs() >= timed.until;
        if expired { Err(OpenError::Expired) } else { Ok(timed.value) }
    }

    /// Opens what [`Self::seal_text`] sealed, also when its lifetime is over: to end what it stands
    /// for, never to continue it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_expired_text<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        context: &[u8],
        text: &str,
    ) -> Result<T, OpenError> {
        self.open_timed(purpose, context, text).map(|timed| timed.value)
    }

    fn open_timed<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        context: &[u8],
        text: &str,
    ) -> Result<Timed<T>, OpenError> {
        let envelope = URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Invalid)?;
        let plaintext = self.open(purpose, context, &envelope)?;
        serde_json::from_slice(&plaintext).map_err(|_| OpenError::Invalid)
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
            let ring = KeyRing::new("SEALING_KEYS", [NEW]).unwrap();
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
        let opened = KeyRing::new("SEALING_KEYS", [OLD]).unwrap().open(
            Purpose::Payload,
            b"context",
            &envelope,
        );
        assert_eq!(*opened.unwrap(), *b"sealed by version 0.1");
    }

    #[test]
    fn keys_rotate() {
        let before = KeyRing::new("SEALING_KEYS", [OLD]).unwrap();
        let during = KeyRing::new("SEALING_KEYS", [NEW, OLD]).unwrap();
        let after = KeyRing::new("SEALING_KEYS", [NEW]).unwrap();
        let envelope = before.seal(Purpose::Payload, b"", b"text");
        assert!(during.open(Purpose::Payload, b"", &envelope).is_ok());
        assert_eq!(after.open(Purpose::Payload, b"", &envelope), Err(OpenError::UnknownKey));
        let envelope = during.seal(Purpose::Payload, b"", b"text");
        assert!(after.open(Purpose::Payload, b"", &envelope).is_ok());
    }

    #[test]
    fn a_ring_takes_other_keys_while_it_is_in_use() {
        let ring = KeyRing::new("SEALING_KEYS", [OLD]).unwrap();
        let envelope = ring.seal(Purpose::Payload, b"", b"text");
        ring.replace(KeyRing::new("SEALING_KEYS", [NEW, OLD]).unwrap());
        assert!(ring.open(Purpose::Payload, b"", &envelope).is_ok());
        let newer = ring.seal(Purpose::Payload, b"", b"text");
        ring.replace(KeyRing::new("SEALING_KEYS", [NEW]).unwrap());
        assert_eq!(ring.open(Purpose::Payload, b"", &envelope), Err(OpenError::UnknownKey));
        assert!(ring.open(Purpose::Payload, b"", &newer).is_ok());
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert!(matches!(
            KeyRing::new("SEALING_KEYS", [&b"short"[..]]),
            Err(KeyError::TooShort { .. })
        ));
        assert!(matches!(KeyRing::new("SEALING_KEYS", []), Err(KeyError::Missing)));
    }

    #[test]
    fn cookies_expire() {
        let ring = KeyRing::random();
        let text = ring.seal_text(Purpose::Dialog, b"a", &7, Duration::from_secs(60)).unwrap();
        assert_eq!(ring.open_text::<u8>(Purpose::Dialog, b"a", &text), Ok(7));
        let text = ring.seal_text(Purpose::Dialog, b"a", &7, Duration::ZERO).unwrap();
        assert_eq!(ring.open_text::<u8>(Purpose::Dialog, b"a", &text), Err(OpenError::Expired));
    }

    #[test]
    fn both_formats_open_and_a_setting_keeps_its_keys_to_itself() {
        let ring = |label, format| {
            let ring = KeyRing::new(label, [NEW]).unwrap();
            ring.seal_in(format);
            ring
        };
        let (before, now) = (ring("SEALING_KEYS", Format::V1), ring("SEALING_KEYS", Format::V2));
        for (seals, opens) in [(&before, &now), (&now, &before)] {
            let envelope = seals.seal(Purpose::Payload, b"a", b"text");
            assert_eq!(&*opens.open(Purpose::Payload, b"a", &envelope).unwrap(), b"text");
        }
        assert_eq!(before.seal(Purpose::Payload, b"", b"")[0], 1);
        let mut envelope = now.seal(Purpose::Payload, b"", b"text");
        assert_eq!(envelope[0], 2);
        let other = ring("COOKIE_KEYS", Format::V2);
        assert_eq!(other.open(Purpose::Payload, b"", &envelope), Err(OpenError::UnknownKey));
        envelope[0] = 1;
        assert!(now.open(Purpose::Payload, b"", &envelope).is_err());
    }
}

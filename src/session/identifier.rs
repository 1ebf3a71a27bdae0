//! Identifiers and secrets of a session as types.
//!
//! What travels on the wire ([`SessionId`], [`SessionToken`], [`TransitToken`]) is a secret and
//! never prints itself. What the store sees ([`SessionKey`], [`Digest`]) is a SHA-256 of it, so
//! that reading the store gives nobody the right to read a session.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of randomness in every secret of the native surface.
pub const SECRET_BYTES: usize = 32;

/// Longest secret accepted from the wire, in characters. The meet-compatible surface lets the
/// operator choose the length; nothing sensible is longer than this.
const MAX_SECRET_CHARS: usize = 512;

/// The text is not an identifier that this service could have handed out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed identifier")]
pub struct InvalidIdentifier;

/// A new buffer filled from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give; nothing safe can be done then.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    fill_randomly(&mut bytes);
    bytes
}

/// Fills `bytes` likewise.
fn fill_randomly(bytes: &mut [u8]) {
    #[allow(clippy::expect_used)]
    getrandom::fill(bytes).expect("the operating system provides randomness");
}

/// SHA-256 of a secret; what the store keeps in its place.
#[derive(Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes `secret`.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares without leaking the position of the first difference through time.
    pub fn matches(&self, other: &Digest) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// base64url without padding, 43 characters.
    pub fn to_base64url(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`Self::to_base64url`] wrote.
    ///
    /// # Errors
    /// When `text` is not base64url of exactly 32 bytes.
    pub fn from_base64url(text: &str) -> Result<Self, InvalidIdentifier> {
        decode32(text).map(Self)
    }
}

impl AsRef<[u8; 32]> for Digest {
    fn as_ref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}…", hex::encode(&self.0[..6]))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64url())
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_base64url(&text).map_err(serde::de::Error::custom)
    }
}

fn decode32(text: &str) -> Result<[u8; 32], InvalidIdentifier> {
    if text.len() != 43 {
        return Err(InvalidIdentifier);
    }
    let mut bytes = [0u8; 32];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(32) => Ok(bytes),
        _ => Err(InvalidIdentifier),
    }
}

/// The store's key of a session: SHA-256 of its [`SessionId`]. Safe to log (shortened by
/// `Debug`): it names a session but does not open it.
#[derive(
    Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SessionKey(Digest);

impl SessionKey {
    /// The key as a digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// base64url without padding, 43 characters.
    pub fn to_base64url(self) -> String {
        self.0.to_base64url()
    }

    /// Reads what [`Self::to_base64url`] wrote.
    ///
    /// # Errors
    /// When `text` is not base64url of exactly 32 bytes.
    pub fn from_base64url(text: &str) -> Result<Self, InvalidIdentifier> {
        Digest::from_base64url(text).map(Self)
    }
}

impl AsRef<[u8; 32]> for SessionKey {
    fn as_ref(&self) -> &[u8; 32] {
        self.0.as_ref()
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.0)
    }
}

/// Names what one login granted: the family of refresh tokens that follow from it, and the access
/// tokens made with them. No secret; it opens nothing.
#[derive(
    Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct GrantId(Digest);

impl GrantId {
    /// Draws a new one of 256 random bits.
    pub fn generate() -> Self {
        Self(Digest(random_bytes()))
    }

    /// The ID as a digest, under which the store keeps the grant.
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// base64url without padding, 43 characters.
    pub fn to_base64url(self) -> String {
        self.0.to_base64url()
    }
}

impl AsRef<[u8; 32]> for GrantId {
    fn as_ref(&self) -> &[u8; 32] {
        self.0.as_ref()
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Declares a newtype of a text that redacts itself and is wiped when dropped.
macro_rules! redacted_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(zeroize::Zeroizing<String>);

        impl $name {
            /// The text itself, for the one place that sends it to its owner.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}
pub(crate) use redacted_text;

/// Declares such a newtype of a secret that is drawn here and comes back on the wire.
macro_rules! secret_text {
    ($(#[$doc:meta])* $name:ident) => {
        redacted_text! {
            $(#[$doc])*
            $name
        }

        impl $name {
            /// Draws a new one of [`SECRET_BYTES`] random bytes, base64url.
            pub fn generate() -> Self {
                Self::generate_with(SECRET_BYTES)
            }

            /// Draws a new one of `bytes` random bytes (32 at the least), base64url.
            pub fn generate_with(bytes: usize) -> Self {
                let mut buffer = Zeroizing::new(vec![0u8; bytes.max(SECRET_BYTES)]);
                fill_randomly(&mut buffer);
                Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(&buffer)))
            }

            /// Takes one from the wire.
            ///
            /// # Errors
            /// When it is shorter than 32 random bytes, overlong or not base64url.
            pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
                let fits = (43..=MAX_SECRET_CHARS).contains(&text.len());
                let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                if fits && text.bytes().all(alphabet) {
                    Ok(Self(Zeroizing::new(text.to_owned())))
                } else {
                    Err(InvalidIdentifier)
                }
            }

            /// What the store keeps instead of the secret.
            pub fn digest(&self) -> Digest {
                Digest::of(self.0.as_bytes())
            }
        }
    };
}

secret_text! {
    /// Names a session on the wire and, in the legacy profile, opens it.
    SessionId
}

secret_text! {
    /// Proves possession of a bound session; given once to its creator.
    SessionToken
}

impl SessionId {
    /// The store's key of this session.
    pub fn key(&self) -> SessionKey {
        SessionKey(self.digest())
    }
}

/// The single-use token in the dialog's URL: which session (its [`SessionKey`], no secret) and
/// 256 random bits or more. Carrying the key spares the store an index from token to session, so
/// that one key of the store holds all of a session and every transition is atomic in it.
#[derive(Clone)]
pub struct TransitToken {
    session: SessionKey,
    text: Zeroizing<String>,
}

impl TransitToken {
    /// Draws a new one for `session` with `bytes` random bytes (32 at the least).
    pub fn generate_with(session: SessionKey, bytes: usize) -> Self {
        let secret = SessionToken::generate_with(bytes);
        let text = Zeroizing::new(format!("{}{}", session.to_base64url(), secret.expose()));
        Self { session, text }
    }

    /// Draws a new one for `session`.
    pub fn generate(session: SessionKey) -> Self {
        Self::generate_with(session, SECRET_BYTES)
    }

    /// Takes one from the wire.
    ///
    /// # Errors
    /// When it cannot be one of ours by its form.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
        // The alphabet check comes first, so that the split below is on a character's border.
        SessionToken::parse(text)?;
        let (key, secret) = text.split_at_checked(43).ok_or(InvalidIdentifier)?;
        SessionToken::parse(secret)?;
        Ok(Self {
            session: SessionKey::from_base64url(key)?,
            text: Zeroizing::new(text.to_owned()),
        })
    }

    /// The session that it belongs to.
    pub fn session(&self) -> SessionKey {
        self.session
    }

    /// The token itself, for the one place that hands it to the session's creator.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What the store keeps instead of the token.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

impl fmt::Debug for TransitToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TransitToken(redacted)")
    }
}

/// Tells one waiting connection from another; drawn anew for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReaderId(u64);

impl ReaderId {
    /// Draws a new one. Zero stands for "no reader" in the stores and is never drawn.
    pub fn generate() -> Self {
        Self(u64::from_le_bytes(random_bytes()).max(1))
    }

    /// Takes one that a store kept; zero stands for none.
    pub fn from_u64(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// A short code that a person compares between the add-in and the dialog: `BCDF-GHJK`, of the
/// alphabet of RFC 8628 §6.1 (no vowels, so that no word appears).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UserCode(String);

impl UserCode {
    const ALPHABET: &'static [u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

    /// Draws a new one, every letter equally likely.
    pub fn generate() -> Self {
        let mut code = String::with_capacity(9);
        while code.len() < 9 {
            let [byte] = random_bytes::<1>();
            // 240 is the largest multiple of 20 in a byte; above it letters would be unequal.
            if byte < 240 {
                if code.len() == 4 {
                    code.push('-');
                }
                code.push(char::from(Self::ALPHABET[usize::from(byte % 20)]));
            }
        }
        Self(code)
    }

    /// The code as a person reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` has the form of a code.
    pub fn is_well_formed(text: &str) -> bool {
        text.len() == 9
            && text.bytes().enumerate().all(|(position, byte)| match position {
                4 => byte == b'-',
                _ => Self::ALPHABET.contains(&byte),
            })
    }

    /// Takes one that a store kept.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts on both sides of what is accepted.
    fn near_identifiers() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z0-9_-]{43}",
            "[A-Za-z0-9_-]{80,90}",
            "[A-Za-z0-9_-]{505,520}",
            "[A-Za-z0-9_=+/. -]{40,46}",
            "[A-Za-z0-9_-]{41}\\PC{1,2}",
            any::<String>(),
        ]
    }

    fn in_alphabet(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    }

    proptest! {
        #[test]
        fn identifiers_are_accepted_by_length_and_alphabet(text in near_identifiers()) {
            let fits = (43..=MAX_SECRET_CHARS).contains(&text.len()) && in_alphabet(&text);
            prop_assert_eq!(SessionId::parse(&text).is_ok(), fits);
            match SessionToken::parse(&text) {
                Ok(token) => {
                    prop_assert_eq!(token.expose(), &text);
                    let shown = format!("{token:?}");
                    prop_assert!(!shown.contains(&text));
                }
                Err(_) => prop_assert!(!fits),
            }
            if let Ok(transit) = TransitToken::parse(&text) {
                prop_assert!(fits && text.len() >= 86);
                prop_assert_eq!(transit.expose(), &text);
                prop_assert!(text.starts_with(&transit.session().to_base64url()));
            }
        }

        #[test]
        fn a_digest_has_one_spelling(text in near_identifiers(), bytes: [u8; 32]) {
            if let Ok(digest) = Digest::from_base64url(&text) {
                prop_assert_eq!(digest.to_base64url(), text.clone());
                prop_assert_eq!(SessionKey::from_base64url(&text).map(SessionKey::to_base64url), Ok(text));
            }
            let digest = Digest(bytes);
            prop_assert_eq!(Digest::from_base64url(&digest.to_base64url()), Ok(digest));
        }

        #[test]
        fn only_user_codes_look_like_user_codes(
            text in prop_oneof!["[A-Z]{4}-[A-Z]{4}", "[BCDF]{4}.[BCDF]{4}", any::<String>()],
        ) {
            let expected = text.len() == 9
                && text.chars().enumerate().all(|(position, letter)| {
                    if position == 4 { letter == '-' } else { "BCDFGHJKLMNPQRSTVWXZ".contains(letter) }
                });
            prop_assert_eq!(UserCode::is_well_formed(&text), expected);
        }
    }

    #[test]
    fn secrets_never_print_themselves() {
        let id = SessionId::generate();
        let transit = TransitToken::generate(id.key());
        for shown in [format!("{id:?}"), format!("{transit:?}"), format!("{:?}", id.key())] {
            assert!(!shown.contains(id.expose()));
            assert!(!shown.contains(transit.expose()));
        }
    }

    #[test]
    fn what_was_generated_parses_and_leads_to_the_same_key() {
        let id = SessionId::generate();
        assert_eq!(id.expose().len(), 43);
        assert_eq!(SessionId::parse(id.expose()).map(|parsed| parsed.key()), Ok(id.key()));
        let transit = TransitToken::generate_with(id.key(), 60);
        let parsed = TransitToken::parse(transit.expose()).expect("parses");
        assert_eq!(parsed.session(), id.key());
        assert!(parsed.digest().matches(&transit.digest()));
    }

    #[test]
    fn malformed_identifiers_are_refused() {
        for text in
            ["", "short", &"a".repeat(42), &"a".repeat(513), &"é".repeat(30), &"a+b/".repeat(11)]
        {
            assert!(SessionId::parse(text).is_err(), "{text}");
            assert!(TransitToken::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn user_codes_have_the_alphabet_of_rfc_8628() {
        for _ in 0..200 {
            let code = UserCode::generate();
            let (left, right) = code.as_str().split_once('-').expect("a dash");
            assert_eq!((left.len(), right.len()), (4, 4));
            assert!(
                left.chars()
                    .chain(right.chars())
                    .all(|letter| "BCDFGHJKLMNPQRSTVWXZ".contains(letter))
            );
        }
    }
}

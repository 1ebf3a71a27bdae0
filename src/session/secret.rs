//! The secrets of a session that travel: redacted in logs, only their digests are stored.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::{
    session::{
        digest::{Digest, InvalidIdentifier},
        key::SessionKey,
    },
    util::{random::fill_random, redacted::redacted_text, wiped::WipedText},
};

/// Random bytes in every secret of the native surface.
pub const SECRET_BYTES: usize = 32;

/// Maximum length of a secret on the wire, in characters. The Meet surface lets the operator
/// choose the length; nothing sensible is longer.
const MAX_SECRET_CHARS: usize = 512;

/// Declares a secret that is issued here and comes back on the wire.
macro_rules! secret_text {
    ($(#[$doc:meta])* $name:ident) => {
        redacted_text! {
            $(#[$doc])*
            $name
        }

        impl $name {
            /// A new one of [`SECRET_BYTES`] random bytes, base64url.
            pub fn generate() -> Self {
                Self::generate_with(SECRET_BYTES)
            }

            /// A new one of `bytes` random bytes, at least [`SECRET_BYTES`], base64url.
            pub fn generate_with(bytes: usize) -> Self {
                let mut buffer = Zeroizing::new(vec![0u8; bytes.max(SECRET_BYTES)]);
                fill_random(&mut buffer);
                Self(URL_SAFE_NO_PAD.encode(&buffer).into())
            }

            /// Reads one from the wire.
            ///
            /// # Errors
            /// When it is shorter than 32 random bytes, too long or not base64url.
            pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
                if is_secret(text) {
                    Ok(Self(text.to_owned().into()))
                } else {
                    Err(InvalidIdentifier)
                }
            }

            /// SHA-256 of the secret, which is stored in its place.
            pub fn digest(&self) -> Digest {
                Digest::of(self.0.as_bytes())
            }
        }
    };
}

/// Whether `text` has the length and the alphabet of a secret.
fn is_secret(text: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (43..=MAX_SECRET_CHARS).contains(&text.len()) && text.bytes().all(in_alphabet)
}

secret_text! {
    /// Names a session on the wire and, in the legacy profile, reads it.
    SessionId
}

secret_text! {
    /// Proof of possession of a bound session; given once, to its creator.
    SessionToken
}

impl SessionId {
    /// The store's key of this session.
    pub fn key(&self) -> SessionKey {
        SessionKey::new(self.digest())
    }
}

/// The single-use token in the dialog's URL: the [`SessionKey`], which is no secret, followed by
/// 256 random bits or more. With the key in it the store needs no index from token to session, and
/// every transition touches one record.
#[derive(Clone)]
pub struct TransitToken {
    session: SessionKey,
    text: WipedText,
}

impl TransitToken {
    /// A new one for `session` with `bytes` random bytes, at least [`SECRET_BYTES`].
    pub fn generate_with(session: SessionKey, bytes: usize) -> Self {
        let secret = SessionToken::generate_with(bytes);
        let text = format!("{}{}", session.to_base64url(), secret.expose());
        Self { session, text: text.into() }
    }

    /// A new one for `session`.
    pub fn generate(session: SessionKey) -> Self {
        Self::generate_with(session, SECRET_BYTES)
    }

    /// Reads one from the wire.
    ///
    /// # Errors
    /// When it does not have the form of a transit token.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentifier> {
        // The alphabet is checked first, so that the text can be split at any byte.
        if !is_secret(text) {
            return Err(InvalidIdentifier);
        }
        let (key, secret) = text.split_at_checked(43).ok_or(InvalidIdentifier)?;
        if !is_secret(secret) {
            return Err(InvalidIdentifier);
        }
        let session = SessionKey::from_base64url(key)?;
        Ok(Self { session, text: text.to_owned().into() })
    }

    /// The session that it belongs to.
    pub fn session(&self) -> SessionKey {
        self.session
    }

    /// The token in clear, to be sent to the session's creator and to nobody else.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the token, which is stored in its place.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

impl fmt::Debug for TransitToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TransitToken(redacted)")
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
    }

    #[test]
    fn secrets_are_redacted() {
        let id = SessionId::generate();
        let transit = TransitToken::generate(id.key());
        for shown in [format!("{id:?}"), format!("{transit:?}"), format!("{:?}", id.key())] {
            assert!(!shown.contains(id.expose()));
            assert!(!shown.contains(transit.expose()));
        }
    }

    #[test]
    fn a_generated_identifier_parses_and_leads_to_the_same_key() {
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
}

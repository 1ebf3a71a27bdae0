//! SHA-256 digests, which stores and cookies hold in place of secrets.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::util::random::random_bytes;

/// The text cannot be an identifier that this service issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed identifier")]
pub struct InvalidIdentifier;

/// SHA-256 of a secret.
#[derive(Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes `secret`.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// 256 random bits, for an identifier that is the digest of nothing.
    pub(crate) fn random() -> Self {
        Self(random_bytes())
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
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
        if text.len() != 43 {
            return Err(InvalidIdentifier);
        }
        let mut bytes = [0u8; 32];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(32) => Ok(Self(bytes)),
            _ => Err(InvalidIdentifier),
        }
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

/// Declares an identifier that is a [`Digest`] and no secret: it names something and opens nothing,
/// so it may be logged (`Debug` and `Display` shorten it).
macro_rules! digest_identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Hash, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($crate::session::Digest);

        impl $name {
            /// The identifier as a digest.
            pub fn digest(&self) -> &$crate::session::Digest {
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
            pub fn from_base64url(text: &str) -> Result<Self, $crate::session::InvalidIdentifier> {
                $crate::session::Digest::from_base64url(text).map(Self)
            }
        }

        impl From<$crate::session::Digest> for $name {
            fn from(digest: $crate::session::Digest) -> Self {
                Self(digest)
            }
        }

        impl AsRef<[u8; 32]> for $name {
            fn as_ref(&self) -> &[u8; 32] {
                self.0.as_ref()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{:?}", self.0)
            }
        }
    };
}
pub(crate) use digest_identifier;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_has_one_spelling(
            text in prop_oneof!["[A-Za-z0-9_-]{43}", "[A-Za-z0-9_=+/-]{40,46}", any::<String>()],
            bytes: [u8; 32],
        ) {
            if let Ok(digest) = Digest::from_base64url(&text) {
                prop_assert_eq!(digest.to_base64url(), text);
            }
            let digest = Digest(bytes);
            prop_assert_eq!(Digest::from_base64url(&digest.to_base64url()), Ok(digest));
        }
    }
}

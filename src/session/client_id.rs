//! The identifier of a registered client.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Maximum length of a client ID, in bytes.
const MAX_LENGTH: usize = 128;

/// A client ID (RFC 6749 §2.2): 1 to 128 visible ASCII characters (Appendix A.1). Public, not a
/// secret. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(Arc<str>);

/// Not a client ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client ID has 1 to {MAX_LENGTH} visible ASCII characters")]
pub struct InvalidClientId;

impl ClientId {
    /// The client that exists without any registered one.
    pub fn implied() -> Self {
        Self::named("addons")
    }

    /// A name of ours.
    pub(crate) fn named(name: &'static str) -> Self {
        Self(name.into())
    }

    /// The ID as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=MAX_LENGTH).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidClientId)
        }
    }
}

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.as_str().to_owned()
    }
}

impl std::borrow::Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_visible_ascii() {
        for right in ["addons", "my-addin", "https://api.example/x", "a"] {
            assert_eq!(right.parse::<ClientId>().unwrap().as_str(), right);
        }
        for wrong in ["", "two words", "a\n", "é", &"a".repeat(129)] {
            assert_eq!(wrong.parse::<ClientId>(), Err(InvalidClientId), "{wrong}");
        }
    }
}

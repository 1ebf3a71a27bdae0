//! Identifiers that stores use as keys.

use crate::session::digest::{Digest, digest_identifier};

digest_identifier! {
    /// The store's key of a session: SHA-256 of its [`SessionId`](crate::session::SessionId).
    SessionKey
}

impl SessionKey {
    /// The key of the session whose ID has this digest.
    pub(crate) fn new(digest: Digest) -> Self {
        Self(digest)
    }
}

digest_identifier! {
    /// Names what one sign-in granted: its refresh tokens and the access tokens issued with them.
    GrantId
}

impl GrantId {
    /// A new one of 256 random bits.
    pub fn generate() -> Self {
        Self(Digest::random())
    }
}

//! Identifiers that stores use as keys.

use crate::session::{
    client_id::ClientId,
    digest::{Digest, digest_identifier},
    state::Surface,
};

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

/// A session as a caller of one surface addresses it. A session of the other surface is unknown to
/// that caller.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct SessionRef {
    /// The caller's surface.
    pub surface: Surface,
    /// The session.
    pub key: SessionKey,
}

impl SessionRef {
    /// A session of the native surface.
    pub fn native(key: SessionKey) -> Self {
        Self { surface: Surface::Native, key }
    }

    /// A session of the Meet surface.
    pub fn meet(key: SessionKey) -> Self {
        Self { surface: Surface::Meet, key }
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

digest_identifier! {
    /// Names a dialog, that is one browser in one sign-in. The dialog that enters a session is the
    /// only one that may continue it. No secret: the dialog's sealed cookie proves it.
    DialogId
}

impl DialogId {
    /// The place of a dialog that the client `backend` takes in a session; the same whenever it tries
    /// again.
    pub fn of_backend(backend: &ClientId, session: SessionKey) -> Self {
        let session = session.to_base64url();
        Self(Digest::of(format!("backend {backend} {session}").as_bytes()))
    }

    /// A new one of 256 random bits.
    pub fn generate() -> Self {
        Self(Digest::random())
    }

    /// The dialog that consists of one exchange: that of a browser login, named by its CSRF token,
    /// and a transit token. A repeated exchange is the same dialog.
    pub fn of_exchange(login: &str, transit: &Digest) -> Self {
        let named = format!("exchange {} {login}", transit.to_base64url());
        Self(Digest::of(named.as_bytes()))
    }
}

digest_identifier! {
    /// Names an account: SHA-256 of its issuer and its subject, with their lengths, so that no two
    /// accounts share a name (OpenID Connect Core §2: `sub` is unique within `iss` only).
    AccountId
}

impl AccountId {
    /// The account `subject` at `issuer`.
    pub fn new(issuer: &str, subject: &str) -> Self {
        let named = format!("account {} {issuer} {} {subject}", issuer.len(), subject.len());
        Self(Digest::of(named.as_bytes()))
    }
}

//! Names of keys and channels.

use std::sync::Arc;

use crate::session::{AccountId, Digest, GrantId, SessionKey};

/// The names of keys and channels.
#[derive(Clone)]
pub(super) struct Names {
    prefix: Arc<str>,
}

impl Names {
    /// Names that begin with `prefix`, which has no braces: they choose a cluster's slot.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(super) fn session(&self, key: SessionKey) -> String {
        format!("{}:{{{}}}", self.prefix, key.to_base64url())
    }

    pub(super) fn channel(&self, key: SessionKey) -> String {
        format!("{}:{{{}}}:events", self.prefix, key.to_base64url())
    }

    /// The session that a channel belongs to.
    pub(super) fn session_of(&self, channel: &str) -> Option<SessionKey> {
        let key = channel.strip_prefix(&*self.prefix)?.strip_prefix(":{")?;
        SessionKey::from_base64url(key.strip_suffix("}:events")?).ok()
    }

    /// The key that the health check writes to.
    pub(super) fn probe(&self) -> String {
        format!("{}:{{probe}}", self.prefix)
    }

    pub(super) fn probe_channel(&self) -> String {
        format!("{}:{{probe}}:events", self.prefix)
    }

    pub(super) fn grant(&self, grant: GrantId) -> String {
        format!("{}:grant:{{{}}}", self.prefix, grant.to_base64url())
    }

    pub(super) fn value(&self, name: Digest) -> String {
        format!("{}:value:{{{}}}", self.prefix, name.to_base64url())
    }

    pub(super) fn count(&self, name: Digest) -> String {
        format!("{}:count:{{{}}}", self.prefix, name.to_base64url())
    }

    pub(super) fn code(&self, code: Digest) -> String {
        format!("{}:code:{{{}}}", self.prefix, code.to_base64url())
    }

    pub(super) fn account(&self, account: AccountId) -> String {
        format!("{}:account:{{{}}}", self.prefix, account.to_base64url())
    }

    pub(super) fn mark(&self, name: Digest) -> String {
        format!("{}:mark:{{{}}}", self.prefix, name.to_base64url())
    }
}

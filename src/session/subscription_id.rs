//! Identifies one reader of a session.

use crate::util::random::random_bytes;

/// Tells one subscription or poll of a session from another; new for each. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// A new one. Zero stands for "none" in the stores and is never generated.
    pub fn generate() -> Self {
        Self(u64::from_le_bytes(random_bytes()).max(1))
    }

    /// The ID that a store returned; zero stands for none.
    pub fn from_u64(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number that is stored.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

//! The person who signed in.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who signed in, by the provider's claims (OpenID Connect Core §2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's `sub`.
    pub subject: String,
    /// Further claims of the ID token and of userinfo, as far as they were asked for.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// The name by which a person recognises the account.
    pub fn display_name(&self) -> &str {
        ["name", "preferred_username", "email"]
            .iter()
            .find_map(|claim| self.claims.get(*claim)?.as_str())
            .unwrap_or(&self.subject)
    }

    /// A claim as text; numbers too, since some providers number their users.
    pub fn claim_text(&self, name: &str) -> Option<String> {
        match self.claims.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            None if name == "sub" => Some(self.subject.clone()),
            _ => None,
        }
    }
}

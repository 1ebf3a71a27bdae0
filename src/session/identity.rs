//! The person who signed in.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{session::client_id::ClientId, util::redacted::redacted_text};

redacted_text! {
    /// An ID token as it came, to be sent back as `id_token_hint`; prints itself as `(redacted)`.
    IdTokenHint
}

impl IdTokenHint {
    /// Takes the token.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }
}

impl Serialize for IdTokenHint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for IdTokenHint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What a client said when it began a sign-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// Where it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Whether a proof shows that it began there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub origin_proved: bool,
}

impl Requested {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Who signed in, by the provider's claims (OpenID Connect Core §2). An account is the issuer and the subject together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The provider's `iss`.
    #[serde(default)]
    pub issuer: String,
    /// The provider's `sub`.
    pub subject: String,
    /// Further claims of the ID token and of userinfo, as far as they were asked for.
    pub claims: Map<String, Value>,
    /// `acr`: how the provider authenticated the person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// `amr`, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// `auth_time`: when, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
    /// `sid`: the session at the provider, which a logout names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The client that the person signed in to; the implied one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// The scope that the client gets; all of its own without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The backend that vouches for the account in the provider's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idp: Option<ClientId>,
    /// What the client said when it began the sign-in.
    #[serde(default, skip_serializing_if = "Requested::is_empty")]
    pub requested: Box<Requested>,
    /// The ID token itself, for a logout that the relay begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<IdTokenHint>,
}

impl Identity {
    /// An account with claims and nothing else.
    pub fn new(subject: impl Into<String>, claims: Map<String, Value>) -> Self {
        Self {
            issuer: String::new(),
            subject: subject.into(),
            claims,
            acr: None,
            amr: Vec::new(),
            auth_time: None,
            session_id: None,
            client_id: None,
            scope: None,
            idp: None,
            requested: Box::default(),
            id_token: None,
        }
    }

    /// The same, signed in to a client that gets `scope`; see the fields.
    #[must_use]
    pub fn signed_in_to(self, client_id: Option<ClientId>, scope: Option<String>) -> Self {
        Self { client_id, scope, ..self }
    }

    /// The same, at the request of a client that said `requested`.
    #[must_use]
    pub fn at_request(self, requested: Requested) -> Self {
        Self { requested: Box::new(requested), ..self }
    }

    /// The name by which a person recognises the account.
    pub fn display_name(&self) -> &str {
        ["name", "preferred_username", "email"]
            .iter()
            .find_map(|claim| self.claims.get(*claim)?.as_str().filter(|text| !text.is_empty()))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(claims: Value) -> Identity {
        let Value::Object(claims) = claims else { panic!("{claims}") };
        Identity::new("subject", claims)
    }

    #[test]
    fn an_account_has_a_name() {
        assert_eq!(with(json!({"name": "Ada", "email": "a@x"})).display_name(), "Ada");
        assert_eq!(with(json!({"name": "", "email": "a@x"})).display_name(), "a@x");
        assert_eq!(with(json!({"name": 1})).display_name(), "subject");
    }

    #[test]
    fn an_id_token_is_not_shown() {
        let hint = IdTokenHint::new("eyJ0".to_owned());
        assert!(!format!("{hint:?}").contains("eyJ0"));
    }
}

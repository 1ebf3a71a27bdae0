//! The `id` of the event that ends a stream (WHATWG HTML §9.2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::session::{key::SessionKey, state::SealedPayload};

/// An event's id: 22 characters that belong to one event of one session.
///
/// That of a token's event is a hash of the sealed payload, which only its recipient can know, so
/// that presenting it proves the delivery. Those of other final events are hashes of the session
/// and the event's name: they tell a client that reconnects apart from a new one, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId(String);

impl EventId {
    /// Length in characters.
    const LENGTH: usize = 22;

    fn new(label: &str, content: &[u8]) -> Self {
        let digest =
            Sha256::new().chain_update(label).chain_update([0]).chain_update(content).finalize();
        let mut text = URL_SAFE_NO_PAD.encode(digest);
        text.truncate(Self::LENGTH);
        Self(text)
    }

    /// The id of the event that carries `payload`.
    pub fn of_token(payload: &SealedPayload) -> Self {
        Self::new("token-relay event", &payload.0)
    }

    /// The id of the final event `name`, other than the token's, of `session`.
    pub fn of_end(name: &str, session: SessionKey) -> Self {
        Self::new(name, session.as_ref())
    }

    /// Reads one from the wire; `None` when it cannot be an id of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == Self::LENGTH && text.bytes().all(in_alphabet)).then(|| Self(text.to_owned()))
    }

    /// The id as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[test]
    fn ids_belong_to_one_event_of_one_session() {
        let (one, two) = (SessionId::generate().key(), SessionId::generate().key());
        let payload = |bytes: &'static [u8]| SealedPayload(bytes::Bytes::from_static(bytes));
        let ids = [
            EventId::of_end("failed", one),
            EventId::of_end("failed", two),
            EventId::of_end("superseded", one),
            EventId::of_token(&payload(b"one")),
            EventId::of_token(&payload(b"two")),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(EventId::parse(id.as_str()).as_ref(), Some(id));
            assert!(!ids[..index].contains(id), "{id:?}");
        }
        for text in
            ["", "1", "aaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaa=", "éaaaaaaaaaaaaaaaaaaaa"]
        {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }
}

//! The details of a session: what its creator sent, and what is displayed to the person.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    api::Prompt,
    session::{
        binding::Binding,
        client_id::ClientId,
        digest::{Digest, InvalidIdentifier},
        key::SessionKey,
        secret::SessionToken,
        state::Profile,
        user_code::UserCode,
    },
    telemetry::TraceContext,
};

/// The details of a session. Stores hold them sealed: they name people's add-ins and networks, and
/// the user code and the proof key are secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionDetails {
    /// The client that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// The scope that the client requested; all of its own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whether the creation was authenticated by the client's secret.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_authenticated: bool,
    /// The add-in's name as its creator sent it: displayed, never trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    /// The `Origin` header of the creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The network of the creation, as it is displayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Time of the creation, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<u64>,
    /// The code that the person types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_code: Option<UserCode>,
    /// Whether its creator asked for a page on which the person compares the code.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
    /// `login_hint` of its authorization request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_hint: Option<String>,
    /// `prompt` of its authorization request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// The key of the opener's proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof_key: Option<ProofKey>,
    /// The keys of its creator.
    #[serde(skip_serializing_if = "Binding::is_empty")]
    pub binding: Binding,
}

/// The key with which an opener proves that it holds the session token, without revealing it:
/// SHA-256 of a label and the token.
#[derive(Clone, PartialEq, Eq)]
pub struct ProofKey(Zeroizing<[u8; 32]>);

impl ProofKey {
    /// The key of the session with this token.
    pub fn of(token: &SessionToken) -> Self {
        let digest = Sha256::new()
            .chain_update("token-relay proof key v1")
            .chain_update(token.expose())
            .finalize();
        Self(Zeroizing::new(digest.into()))
    }

    /// The proof of an opener that holds the session token: HMAC-SHA256 of a label, the key of the
    /// session (its raw 32 bytes) and the challenge (likewise).
    pub fn prove(&self, session: SessionKey, challenge: &[u8; 32]) -> [u8; 32] {
        self.mac(session, challenge).finalize().into_bytes().into()
    }

    /// Whether `proof` is [`Self::prove`] of the same, in constant time.
    pub fn proves(&self, session: SessionKey, challenge: &[u8; 32], proof: &[u8]) -> bool {
        self.mac(session, challenge).verify_slice(proof).is_ok()
    }

    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn mac(&self, session: SessionKey, challenge: &[u8; 32]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(&*self.0)
            .expect("a key of any length")
            .chain_update("token-relay proof v1")
            .chain_update(session.as_ref())
            .chain_update(challenge)
    }

    /// The 32 bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProofKey(redacted)")
    }
}

impl Serialize for ProofKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.0)))
    }
}

impl<'de> Deserialize<'de> for ProofKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let key = Digest::from_base64url(&text)
            .map_err(|InvalidIdentifier| serde::de::Error::custom("malformed key"))?;
        Ok(Self(Zeroizing::new(*key.as_bytes())))
    }
}

/// What is known of a session besides its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// How it is read and entered.
    pub profile: Profile,
    /// SHA-256 of the session token, whose preimage a reader of a bound session presents.
    pub session_token: Option<Digest>,
    /// SHA-256 of the browser ID of its creator, when that was recorded.
    pub browser: Option<Digest>,
    /// The trace context of the creation, which the dialog continues.
    pub trace: Option<TraceContext>,
    /// What its creator sent.
    pub details: SessionDetails,
    /// Whether version 0.1 created it, so that it has no secrets for proofs.
    pub is_of_0_1: bool,
}

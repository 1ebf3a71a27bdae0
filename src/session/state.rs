//! The states of a session and what it carries.

use serde::{Deserialize, Serialize};

use crate::{
    session::{Digest, UserCode},
    telemetry::TraceContext,
};

/// How a session is read and entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The session ID alone reads and enters.
    Legacy,
    /// Reading needs the session token, entering the transit token.
    Bound,
    /// The meet-compatible surface: cookie and CSRF token read, exchange enters.
    Meet,
}

/// What is known of a session besides its state; nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// How it is read and entered.
    pub profile: Profile,
    /// Shown by the dialog before the login when confirmation is on.
    pub user_code: Option<UserCode>,
    /// The add-in's name as it gave it; shown to the person, never trusted.
    pub client_name: Option<String>,
    /// The `Origin` header with which the session was created.
    pub origin: Option<String>,
    /// SHA-256 of the session token of a bound session; the reader must present its preimage.
    #[serde(skip)]
    pub session_token: Option<Digest>,
    /// Where its creation is in a trace, so that the dialog goes on there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// Where a session stands. See the state diagram in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Created; nobody has logged in yet.
    Pending,
    /// The token is there and nobody has been given it.
    Authenticated,
    /// A reader was given the token and may ask again until acknowledged or grace is over.
    Delivered,
    /// The login failed; the reader is told why.
    Failed(Failure),
    /// Over. Kept for a while so that a late caller learns why.
    Gone(GoneReason),
}

/// Why a login failed, in the terms of RFC 6749 §4.1.2.1 where they fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Error code: `access_denied`, `server_error`, `temporarily_unavailable`, …
    pub error: String,
    /// For people; holds no secret.
    pub error_description: String,
}

impl Failure {
    /// A failure from its code and description.
    pub fn new(error: &str, error_description: impl Into<String>) -> Self {
        Self { error: error.to_owned(), error_description: error_description.into() }
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoneReason {
    /// The reader has the token and said so, or read it by a read-once poll.
    Acknowledged,
    /// The reader gave up before a token came.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Its transit token was used twice; it may have leaked.
    Replayed,
}

impl GoneReason {
    /// The name under which stores keep it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
        }
    }
}

/// The token response, sealed: an AEAD envelope that only the `token` module can open. The store,
/// the bus and the relay see nothing else of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedPayload(pub bytes::Bytes);

impl std::fmt::Debug for SealedPayload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SealedPayload({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a version without traces knows of a session.
    #[derive(Serialize, Deserialize)]
    struct Earlier {
        profile: Profile,
        user_code: Option<UserCode>,
        client_name: Option<String>,
        origin: Option<String>,
    }

    #[test]
    fn versions_with_and_without_traces_read_each_other() {
        let earlier = Earlier {
            profile: Profile::Bound,
            user_code: None,
            client_name: Some("Add-in".to_owned()),
            origin: None,
        };
        let kept = serde_json::to_string(&earlier).unwrap();
        let mut info: SessionInfo = serde_json::from_str(&kept).unwrap();
        assert_eq!(info.trace, None);
        assert_eq!(serde_json::to_string(&info).unwrap(), kept, "without a trace nothing is added");
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        info.trace = TraceContext::parse(parent);
        let kept = serde_json::to_string(&info).unwrap();
        assert!(serde_json::from_str::<Earlier>(&kept).is_ok());
        assert_eq!(serde_json::from_str::<SessionInfo>(&kept).unwrap(), info);
    }
}

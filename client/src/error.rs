//! Why there is no token.

use http::StatusCode;

use crate::checks;

/// Why there is no token. Texts of the relay in it are printable and bounded.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The relay's URL is neither `https` nor on this machine, or holds a password.
    #[error("the relay must be reached by https (http only on this machine)")]
    Insecure,
    /// The relay cannot be reached, or every connection to it breaks.
    #[error("the relay cannot be reached: {0}")]
    Unreachable(String),
    /// The relay refuses the request, or what answers is no relay.
    #[error("the relay answered {status}{}", .detail.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// The reason that it gives.
        detail: Option<String>,
    },
    /// The sign-in failed.
    #[error("{error}{}{description}", if .description.is_empty() { "" } else { ": " })]
    Failed {
        /// The error code (RFC 6749 §4.1.2.1), such as `access_denied`, or an end of the session:
        /// `cancelled`, `superseded`, `transit_token_replayed`.
        error: String,
        /// For people.
        description: String,
    },
    /// The time to sign in is over, or the session was ended by another client.
    #[error("the time to sign in is over")]
    Expired,
    /// The answer names a URL outside the relay's origin. Where the relay has several names, its public
    /// URL is the one to use.
    #[error("the relay's {member} is at {found}, not at {expected}")]
    ForeignUrl {
        /// Member of the answer.
        member: &'static str,
        /// The origin that it names.
        found: String,
        /// The relay's origin.
        expected: String,
    },
    /// The token is not encrypted for the key of this sign-in.
    #[error(
        "the token is not encrypted for this program: something between it and the relay may have \
         changed the sign-in"
    )]
    NotEncrypted,
    /// The token is not bound to the key of this sign-in, as [`SignIn::dpop`](crate::SignIn::dpop) asked.
    #[error(
        "the token is not bound to the key of this program: something between it and the relay may \
         have changed the sign-in"
    )]
    NotBound,
    /// The system has no random numbers for a key.
    #[error("the system has no random numbers")]
    NoRandomness,
    /// The answer is not what a relay sends.
    #[error("the relay's answer cannot be understood: {0}")]
    Malformed(&'static str),
}

impl ClientError {
    /// The code of RFC 6749 §4.1.2.1 that fits best, or `expired_token` (RFC 8628 §3.5).
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { error, .. } => error,
            Self::Expired => "expired_token",
            Self::Unreachable(_) => "temporarily_unavailable",
            Self::Refused { status, .. } if status.is_server_error() => "temporarily_unavailable",
            Self::Insecure | Self::Refused { .. } => "invalid_request",
            Self::ForeignUrl { .. }
            | Self::NotEncrypted
            | Self::NotBound
            | Self::NoRandomness
            | Self::Malformed(_) => "server_error",
        }
    }
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may hold a session ID, and the innermost source names the cause.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = cause.to_string();
            source = cause.source();
        }
        Self::Unreachable(checks::printable(&text))
    }
}

//! Why a login failed, and what the waiting reader is told of it.

use crate::session::Failure;

/// A login failed. Holds no code, no token and no secret, so that it can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The settings make no client.
    #[error("{0}")]
    Configuration(String),
    /// The provider cannot be reached, is too slow, or answers nonsense at a back-channel call.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// The provider sent the person back with an error (RFC 6749 §4.1.2.1).
    #[error("the provider answered {}", .0.error)]
    Refused(Failure),
    /// The callback does not belong to this attempt.
    #[error("the callback's state is not this attempt's")]
    StateMismatch,
    /// The callback comes from another provider (RFC 9207).
    #[error("the callback's issuer is missing or another one")]
    IssuerMismatch,
    /// The attempt took too long.
    #[error("the attempt is too old")]
    AttemptExpired,
    /// The provider took neither code nor verifier; its error code follows.
    #[error("the token endpoint refused the code: {0}")]
    CodeRefused(String),
    /// The ID token is not to be believed.
    #[error("the ID token is not valid: {0}")]
    IdToken(String),
}

impl LoginError {
    /// What the waiting reader is told.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Refused(failure) => failure.clone(),
            Self::Unavailable(_) => Failure::new(
                "temporarily_unavailable",
                "The identity provider cannot be reached. Try again later.",
            ),
            Self::AttemptExpired => Failure::new("access_denied", "The sign-in took too long."),
            Self::Configuration(_)
            | Self::StateMismatch
            | Self::IssuerMismatch
            | Self::CodeRefused(_)
            | Self::IdToken(_) => {
                Failure::new("server_error", "The identity provider's answer was not accepted.")
            }
        }
    }
}

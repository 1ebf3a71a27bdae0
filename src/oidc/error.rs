//! Why a sign-in failed at the provider: one type, with what its one log line says and what the
//! add-in and the person learn of it.

use std::borrow::Cow;

use crate::{
    oidc::{
        http_client::{FailedCall as _, Received},
        provider_error::ProviderError,
    },
    session::{Failure, SessionKey},
    util::http_client::CallError,
};

/// What a failed sign-in is to the person and to the add-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FailureKind {
    /// The person or the provider refused.
    Denied,
    /// The account does not meet the operator's requirements.
    NotAllowed,
    /// The provider needs the person, who must not be asked (`login_required` and the like,
    /// OpenID Connect Core §3.1.2.6).
    InteractionRequired,
    /// The person took too long.
    TooLate,
    /// The provider is down, too slow or overloaded: waiting may help.
    Unavailable,
    /// The provider's answer is not acceptable, or it does not accept the relay: only an operator
    /// can help.
    Failed,
}

impl FailureKind {
    /// What the provider's error is to the person and to the add-in.
    fn of(error: &ProviderError) -> Self {
        if error.is_denial() {
            Self::Denied
        } else if error.needs_interaction() {
            Self::InteractionRequired
        } else if error.code == "temporarily_unavailable" {
            Self::Unavailable
        } else {
            Self::Failed
        }
    }
}

/// Where in the sign-in it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// The relay's own configuration.
    Configuration,
    /// The provider's metadata.
    Discovery,
    /// The provider's key set.
    Keys,
    /// The pushed authorization request (RFC 9126).
    PushedAuthorization,
    /// The authorization response (RFC 6749 §4.1.2).
    AuthorizationResponse,
    /// The token endpoint.
    TokenEndpoint,
    /// The ID token.
    IdToken,
    /// The UserInfo endpoint.
    Userinfo,
    /// The operator's requirements.
    Requirements,
    /// The logout token (OpenID Connect Back-Channel Logout §2.4).
    LogoutToken,
}

impl Step {
    /// Its name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Discovery => "discovery",
            Self::Keys => "key set",
            Self::PushedAuthorization => "pushed authorization request",
            Self::AuthorizationResponse => "authorization response",
            Self::TokenEndpoint => "token endpoint",
            Self::IdToken => "ID token",
            Self::Userinfo => "userinfo",
            Self::Requirements => "requirements",
            Self::LogoutToken => "logout token",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A sign-in failed. Holds no code, no token and no secret, so that it can be logged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct LoginError {
    /// What it is to the person and to the add-in.
    pub kind: FailureKind,
    /// Where it failed.
    pub step: Step,
    /// What is wrong, for the operator.
    pub reason: Cow<'static, str>,
    /// Status of the provider's answer.
    pub status: Option<u16>,
    /// Content type of the provider's answer.
    pub content_type: Option<Box<str>>,
    /// The provider's own error.
    pub provider: Option<Box<ProviderError>>,
    /// Path of the field that is wrong.
    pub field: Option<Cow<'static, str>>,
    /// How the relay authenticated at the token endpoint.
    pub client_auth: Option<&'static str>,
    /// Whether the cause was logged already, by the request that met it first.
    pub(crate) is_repeated: bool,
    /// Whether there was no answer in time.
    pub(crate) is_timeout: bool,
}

impl LoginError {
    pub(crate) fn new(kind: FailureKind, step: Step, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            step,
            reason: reason.into(),
            status: None,
            content_type: None,
            provider: None,
            field: None,
            client_auth: None,
            is_repeated: false,
            is_timeout: false,
        }
    }

    /// A failure that only the operator can resolve.
    pub(crate) fn failed(step: Step, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FailureKind::Failed, step, reason)
    }

    /// A request without a response.
    pub(crate) fn no_answer(step: Step, error: &CallError) -> Self {
        let kind = if error.may_pass() { FailureKind::Unavailable } else { FailureKind::Failed };
        Self { is_timeout: error.is_timeout(), ..Self::new(kind, step, error.describe()) }
    }

    /// Whether there was no answer in time.
    pub(crate) fn is_timeout(&self) -> bool {
        self.is_timeout
    }

    /// An unexpected response.
    pub(crate) fn bad_answer(
        step: Step,
        received: &Received,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        let provider = received.provider_error();
        let kind = match provider.as_ref().map(FailureKind::of) {
            None | Some(FailureKind::Failed) if received.is_overloaded() => {
                FailureKind::Unavailable
            }
            kind => kind.unwrap_or(FailureKind::Failed),
        };
        Self {
            status: Some(received.status.as_u16()),
            content_type: received.content_type.as_deref().map(Box::from),
            provider: provider.map(Box::new),
            ..Self::new(kind, step, reason)
        }
    }

    /// The provider sent the person back with an error.
    pub(crate) fn refused(error: ProviderError) -> Self {
        let kind = FailureKind::of(&error);
        let reason = "the provider ended the sign-in with an error";
        Self {
            provider: Some(Box::new(error)),
            ..Self::new(kind, Step::AuthorizationResponse, reason)
        }
    }

    /// The same, with the path of the field that is wrong.
    #[must_use]
    pub(crate) fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// What the waiting add-in learns, in the terms of RFC 6749 §4.1.2.1.
    pub fn failure(&self) -> Failure {
        let described = |default: &'static str| {
            let text = self.provider.as_ref().and_then(|error| error.description.clone());
            // A description of the token endpoint is for the operator: it speaks of the relay.
            match self.step {
                Step::AuthorizationResponse => text.unwrap_or_else(|| default.to_owned()),
                _ => default.to_owned(),
            }
        };
        match self.kind {
            FailureKind::Denied => {
                Failure::new("access_denied", described("The identity provider ended the sign-in."))
            }
            FailureKind::NotAllowed => {
                Failure::new("access_denied", "This account may not sign in here.")
            }
            FailureKind::InteractionRequired => {
                let code = self.provider.as_ref().map_or("login_required", |error| &error.code);
                Failure::new(code, described("The identity provider must ask the person."))
            }
            FailureKind::TooLate => Failure::new("access_denied", "The sign-in took too long."),
            FailureKind::Unavailable => Failure::new(
                "temporarily_unavailable",
                "The identity provider cannot be reached. Try again later.",
            ),
            FailureKind::Failed => match self.step {
                Step::Configuration | Step::Discovery | Step::Keys => Failure::new(
                    "server_error",
                    "The sign-in service and the identity provider do not fit together.",
                ),
                Step::AuthorizationResponse if self.provider.is_some() => Failure::new(
                    "server_error",
                    described("The identity provider ended the sign-in with an error."),
                ),
                _ => {
                    Failure::new("server_error", "The identity provider's answer was not accepted.")
                }
            },
        }
    }

    /// Whether the provider would have to ask the person.
    pub fn is_interaction_required(&self) -> bool {
        self.kind == FailureKind::InteractionRequired
    }

    /// The cause on one line, with what the provider answered, as the log has it in fields.
    pub fn cause(&self) -> String {
        let mut text = self.to_string();
        if let Some(status) = self.status {
            text.push_str(&format!("; HTTP {status}"));
        }
        if let Some(content_type) = &self.content_type {
            text.push_str(&format!(" {content_type}"));
        }
        if let Some(error) = &self.provider {
            text.push_str(&format!("; {}", error.code));
            if let Some(description) = &error.description {
                text.push_str(&format!(": {description}"));
            }
        }
        text
    }

    /// Writes the one log line that names the cause: for the session, under the reference that the
    /// person is shown.
    pub fn log(&self, session: Option<SessionKey>, reference: Option<&str>) {
        let session = session.map(|session| session.to_string());
        let provider = self.provider.as_ref();
        tracing::warn!(
            session,
            reference,
            step = self.step.as_str(),
            status = self.status,
            content_type = self.content_type.as_deref(),
            error = provider.map(|error| error.code.as_str()),
            error_description = provider.and_then(|error| error.description.as_deref()),
            field = self.field.as_deref(),
            client_auth = self.client_auth,
            reason = %self.reason,
            "{}",
            if self.is_repeated { "sign-in failed before" } else { "sign-in failed" },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_has_many_names() {
        for code in [
            "access_denied",
            "user_cancelled_login",
            "user_cancelled_authorize",
            "authorization_declined",
            "user_denied",
            "login_aborted",
        ] {
            let error = LoginError::refused(ProviderError::new(code, None));
            assert_eq!(error.failure().error, "access_denied", "{code}");
        }
        for (code, expected) in [
            ("login_required", "login_required"),
            ("consent_required", "consent_required"),
            ("temporarily_unavailable", "temporarily_unavailable"),
            ("server_error", "server_error"),
            ("invalid_scope", "server_error"),
            ("Y000400", "server_error"),
            ("", "server_error"),
        ] {
            let error = LoginError::refused(ProviderError::new(code, None));
            assert_eq!(error.failure().error, expected, "{code}");
        }
    }
}

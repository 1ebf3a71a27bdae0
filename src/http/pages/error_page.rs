//! The error pages: one declaration of name, status and texts.

use http::StatusCode;
use serde::Deserialize;
use strum::EnumProperty as _;

/// An error page. Its snake-case name is the one in URLs and in the locale files.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Deserialize,
    strum::EnumIter,
    strum::EnumProperty,
    strum::EnumString,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ErrorPage {
    /// The session is over, or its transit token is too old.
    #[strum(props(status = 410, cause = "the session has ended, or its link has expired"))]
    Expired,
    /// Another dialog has used the link.
    #[strum(props(status = 409, cause = "another dialog has used the link"))]
    Used,
    /// The link was used twice; the session was ended.
    #[strum(props(status = 410, cause = "the link was used twice, which ended the session"))]
    Replayed,
    /// The cookie of the dialog is missing or belongs to another one.
    #[strum(props(
        status = 400,
        cause = "the dialog's cookie is missing or belongs to another sign-in"
    ))]
    WrongBrowser,
    /// The user code was wrong too often.
    #[strum(props(status = 403, cause = "too many wrong codes"))]
    WrongCode,
    /// The person took longer than the session lives.
    #[strum(props(status = 410, cause = "the sign-in took longer than its session lasts"))]
    TooSlow,
    /// The person or the provider refused (`access_denied`).
    #[strum(props(status = 403, cause = "the person or the provider refused"))]
    Denied,
    /// The person said that the sign-in is not theirs.
    #[strum(props(status = 403, cause = "the person said that the sign-in is not theirs"))]
    NotMe,
    /// The same after the sign-in: its token is revoked.
    #[strum(props(status = 200))]
    Undone,
    /// Everything that the person was granted has ended.
    #[strum(props(status = 200))]
    SignedOut,
    /// The provider is unavailable.
    #[strum(props(status = 503, cause = "the provider does not answer"))]
    LoginUnavailable,
    /// The provider answered with an error, or with something that cannot be accepted.
    #[strum(props(status = 502, cause = "the provider's answer is not acceptable"))]
    LoginFailed,
    /// The login succeeded, but policy refuses this account.
    #[strum(props(status = 403, cause = "the account is not allowed"))]
    Refused,
    /// The relay or its store has a problem.
    #[strum(props(status = 503, cause = "the relay or its store has a problem"))]
    Unavailable,
    /// A rate limit is reached.
    #[strum(props(status = 429, cause = "a rate limit is reached"))]
    TooManyRequests,
    /// The request is malformed.
    #[strum(props(status = 400, cause = "the request is malformed, or its token is unknown"))]
    BadRequest,
    /// A last page was opened, and no sign-in has ended in this browser. No error.
    #[strum(props(status = 200))]
    NoSignIn,
}

impl ErrorPage {
    /// The HTTP status that fits.
    pub fn status(self) -> StatusCode {
        self.get_int("status")
            .and_then(|status| u16::try_from(status).ok())
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The cause where the log has no better one; empty for a page that is no failure.
    pub fn usual_cause(self) -> &'static str {
        self.get_str("cause").unwrap_or_default()
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

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
    #[strum(props(status = 410))]
    Expired,
    /// Another dialog has used the link.
    #[strum(props(status = 409))]
    Used,
    /// The link was used twice; the session was ended.
    #[strum(props(status = 410))]
    Replayed,
    /// The cookie of the dialog is missing or belongs to another one.
    #[strum(props(status = 400))]
    WrongBrowser,
    /// The user code was wrong too often.
    #[strum(props(status = 403))]
    WrongCode,
    /// The person took longer than the session lives.
    #[strum(props(status = 410))]
    TooSlow,
    /// The person or the provider refused (`access_denied`).
    #[strum(props(status = 403))]
    Denied,
    /// The person said that the sign-in is not theirs.
    #[strum(props(status = 403))]
    NotMe,
    /// The same after the sign-in: its token is revoked.
    #[strum(props(status = 200))]
    Undone,
    /// Everything that the person was granted has ended.
    #[strum(props(status = 200))]
    SignedOut,
    /// The provider is unavailable.
    #[strum(props(status = 503))]
    LoginUnavailable,
    /// The provider answered with an error, or with something that cannot be accepted.
    #[strum(props(status = 502))]
    LoginFailed,
    /// The login succeeded, but policy refuses this account.
    #[strum(props(status = 403))]
    Refused,
    /// The relay or its store has a problem.
    #[strum(props(status = 503))]
    Unavailable,
    /// A rate limit is reached.
    #[strum(props(status = 429))]
    TooManyRequests,
    /// The request is malformed.
    #[strum(props(status = 400))]
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

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

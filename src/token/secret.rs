//! Access and refresh tokens as secrets.

use crate::util::redacted::redacted_text;

redacted_text! {
    /// An access token; prints itself as `(redacted)`.
    AccessToken
}

impl AccessToken {
    pub(crate) fn new(text: String) -> Self {
        Self(text.into())
    }
}

redacted_text! {
    /// A refresh token; prints itself as `(redacted)`.
    RefreshToken
}

impl RefreshToken {
    pub(crate) fn new(text: String) -> Self {
        Self(text.into())
    }
}

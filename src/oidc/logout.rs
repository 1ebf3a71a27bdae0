//! Logout that the relay begins (OpenID Connect RP-Initiated Logout).

use url::Url;

use crate::session::IdTokenHint;

/// A logout at the provider.
pub struct LogoutRequest<'r> {
    /// The ID token of the sign-in, if it is at hand.
    pub id_token: Option<&'r IdTokenHint>,
    /// Where the provider sends the browser afterwards; registered there.
    pub redirect_uri: &'r str,
    /// `state`, which comes back with it.
    pub state: &'r str,
}

impl LogoutRequest<'_> {
    /// The request at `endpoint`. The client names itself only where no ID token does: some
    /// providers refuse every parameter that they do not need.
    pub(crate) fn url(&self, mut endpoint: Url, client_id: &str) -> Url {
        {
            let mut query = endpoint.query_pairs_mut();
            match self.id_token {
                Some(token) => query.append_pair("id_token_hint", token.expose()),
                None => query.append_pair("client_id", client_id),
            };
            query.append_pair("post_logout_redirect_uri", self.redirect_uri);
            query.append_pair("state", self.state);
        }
        endpoint
    }
}

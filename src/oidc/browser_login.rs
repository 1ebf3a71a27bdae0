//! The browser's own login on the meet-compatible surface, and where it may return to.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    session::{IdTokenHint, Identity},
    token::SignedIn,
    util::clock::UnixTime,
};

/// Content of the encrypted cookie of a logged-in browser.
#[derive(Clone, Serialize, Deserialize)]
pub struct BrowserLogin {
    /// The provider's `sub`.
    pub subject: String,
    /// What becomes `user_id` in the access token.
    pub user_id: String,
    /// The CSRF token of this login.
    pub csrf_token: String,
    /// The provider's `iss`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// The provider's `sid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    /// When the person logged in, in seconds since the Unix epoch.
    #[serde(default)]
    logged_in_at: u64,
    /// The ID token, to log out at the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_token: Option<IdTokenHint>,
    /// What the provider says of the person, for the claims hook.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub claims: Map<String, Value>,
}

impl BrowserLogin {
    /// A login that begins now.
    pub fn new(identity: &Identity, user_id: String, csrf_token: String) -> Self {
        Self {
            subject: identity.subject.clone(),
            user_id,
            csrf_token,
            issuer: identity.issuer.clone(),
            session_id: identity.session_id.clone(),
            logged_in_at: UnixTime::now().as_secs(),
            id_token: identity.id_token.clone(),
            claims: Map::new(),
        }
    }

    /// What a logout at the provider may end.
    pub fn signed_in(&self) -> SignedIn<'_> {
        SignedIn {
            issuer: &self.issuer,
            subject: &self.subject,
            session_id: self.session_id.as_deref(),
            at: UnixTime::from_secs(self.logged_in_at),
        }
    }
}

impl std::fmt::Debug for BrowserLogin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("BrowserLogin(redacted)")
    }
}

/// The page may not be returned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an allowed page to return to")]
pub struct NotAllowed;

/// A page that the browser may be sent back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(Url);

impl ReturnTo {
    /// Accepts an absolute URL of one of the `allowed` origins, below the path of that entry.
    ///
    /// # Errors
    /// For everything else, and for all that parsers could read in two ways.
    pub fn parse(text: &str, allowed: &[Url]) -> Result<Self, NotAllowed> {
        // Browsers turn backslashes into slashes and drop tabs and line breaks; what needs such
        // repair is no honest URL.
        let suspicious =
            |letter: char| letter == '\\' || letter.is_control() || letter.is_whitespace();
        if text.contains(suspicious)
            || !(text.starts_with("https://") || text.starts_with("http://"))
        {
            return Err(NotAllowed);
        }
        let url = Url::parse(text).map_err(|_| NotAllowed)?;
        let plain = url.username().is_empty() && url.password().is_none();
        // An encoded slash, backslash or dot could become another path behind a proxy.
        let lower = url.path().to_ascii_lowercase();
        let encoded = ["%2f", "%5c", "%2e", "%00"].iter().any(|code| lower.contains(code));
        let fits = |entry: &Url| entry.origin() == url.origin() && below(entry.path(), url.path());
        if plain && !encoded && url.has_host() && allowed.iter().any(fits) {
            Ok(Self(url))
        } else {
            Err(NotAllowed)
        }
    }

    /// The page's URL.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Whether `path` is `prefix` or continues it after a slash.
fn below(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed() -> Vec<Url> {
        vec![
            Url::parse("https://meet.example").unwrap(),
            Url::parse("https://office.example:8443/addins/meet").unwrap(),
        ]
    }

    #[test]
    fn honest_pages_are_accepted() {
        for page in [
            "https://meet.example/",
            "https://meet.example/addon/done?x=1#y",
            "https://MEET.example:443/",
            "https://office.example:8443/addins/meet",
            "https://office.example:8443/addins/meet/done",
        ] {
            assert!(ReturnTo::parse(page, &allowed()).is_ok(), "{page}");
        }
    }

    #[test]
    fn open_redirects_are_refused() {
        for page in [
            "",
            "/relative",
            "//meet.example",
            "//evil.example",
            "https:meet.example",
            "https:/\\evil.example",
            "https://meet.example\\@evil.example/",
            "https://meet.example@evil.example/",
            "https://user:pass@meet.example/",
            "https://meet.example.evil.example/",
            "https://meet.example:8080/",
            "http://meet.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://meet.example/%2f%2fevil.example",
            "https://meet.example/%5cevil.example",
            "https://evil.example/?https://meet.example/",
            "https://evil.example/#https://meet.example/",
            " https://meet.example/",
            "https://meet.example/\r\nSet-Cookie: a=b",
            "ht\ntps://meet.example/",
            "https://office.example:8443/addins/meetings",
            "https://office.example:8443/addins/meet/../../x",
            "https://office.example:8443/",
            "https://%6deet.example@evil.example",
        ] {
            assert_eq!(ReturnTo::parse(page, &allowed()), Err(NotAllowed), "{page}");
        }
    }

    #[test]
    fn the_page_is_used_as_it_was_understood() {
        // A browser reads these in the same way; what it is sent leaves it no choice.
        for (page, understood) in [
            ("https://meet.example/%2e%2e/x", "https://meet.example/x"),
            ("https://meet.example/a/../x", "https://meet.example/x"),
            ("https://meet\u{3002}example/", "https://meet.example/"),
        ] {
            let page = ReturnTo::parse(page, &allowed()).unwrap();
            assert_eq!(page.as_str(), understood);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_on_an_allowed_origin(
            tail in "[ -~]{0,40}",
            head in prop_oneof![
                Just("https://meet.example"), Just("https://"), Just("https:"), Just(""),
                Just("https://office.example:8443/addins/meet"),
            ],
        ) {
            let text = format!("{head}{tail}");
            if let Ok(page) = ReturnTo::parse(&text, &allowed()) {
                let again = Url::parse(page.as_str()).unwrap();
                prop_assert!(allowed().iter().any(|entry| entry.origin() == again.origin()));
            }
        }
    }
}

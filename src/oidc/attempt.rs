//! One attempt to log in: what the browser carries to the provider, and what comes back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    session::{Digest, Failure},
    util::clock::UnixTime,
};

/// How long a person may take at the provider.
const LONGEST: Duration = Duration::from_secs(600);

/// Longest error description that is passed on, in characters.
const MAX_DESCRIPTION: usize = 200;

/// State, nonce and PKCE verifier of one attempt; kept in an encrypted cookie.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginAttempt {
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) pkce_verifier: String,
    begun_at: u64,
}

impl std::fmt::Debug for LoginAttempt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LoginAttempt(redacted)")
    }
}

impl LoginAttempt {
    pub(crate) fn new(state: String, nonce: String, pkce_verifier: String) -> Self {
        Self { state, nonce, pkce_verifier, begun_at: UnixTime::now().as_secs() }
    }

    /// The `state` parameter, by which the callback finds its attempt.
    pub fn state(&self) -> &str {
        &self.state
    }

    pub(crate) fn is_too_old(&self) -> bool {
        UnixTime::now().saturating_since(UnixTime::from_secs(self.begun_at)) > LONGEST
    }

    pub(crate) fn has_state(&self, other: &str) -> bool {
        Digest::of(self.state.as_bytes()).matches(&Digest::of(other.as_bytes()))
    }
}

/// The callback's query is not one of RFC 6749 §4.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed callback")]
pub struct InvalidCallback;

/// The parameters with which the provider sends the person back.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackQuery {
    state: String,
    pub(crate) issuer: Option<String>,
    pub(crate) result: Result<String, Failure>,
}

impl std::fmt::Debug for CallbackQuery {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CallbackQuery(redacted)")
    }
}

impl CallbackQuery {
    /// Reads a query string. A parameter that stands twice is refused (RFC 6749 §3.1), one that is
    /// not known is ignored.
    ///
    /// # Errors
    /// When `state` is missing, or there is neither `code` nor `error`.
    pub fn parse(query: &str) -> Result<Self, InvalidCallback> {
        let (mut state, mut code, mut issuer) = (None, None, None);
        let (mut error, mut description) = (None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut state,
                "code" => &mut code,
                "iss" => &mut issuer,
                "error" => &mut error,
                "error_description" => &mut description,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(InvalidCallback);
            }
        }
        let state: String =
            state.filter(|text: &String| !text.is_empty()).ok_or(InvalidCallback)?;
        let result = match (code, error) {
            (Some(code), None) if !code.is_empty() => Ok(code),
            (None, Some(error)) => Err(provider_failure(&error, description.as_deref())),
            _ => return Err(InvalidCallback),
        };
        Ok(Self { state, issuer, result })
    }

    /// The `state` parameter.
    pub fn state(&self) -> &str {
        &self.state
    }
}

/// The provider's error, reduced to the alphabet of RFC 6749 Appendix A.7 and A.8.
fn provider_failure(error: &str, description: Option<&str>) -> Failure {
    let printable = |letter: &char| matches!(letter, ' '..='~') && !matches!(letter, '"' | '\\');
    let error = error.chars().filter(printable).take(64).collect::<String>();
    let description = description.unwrap_or("The identity provider ended the sign-in.");
    let description = description.chars().filter(printable).take(MAX_DESCRIPTION);
    let error = if error.is_empty() { "server_error".to_owned() } else { error };
    Failure { error, error_description: description.collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes a text as the value of a query parameter.
    fn encoded(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(
            query in prop_oneof![
                "((state|code|iss|error|error_description|x)=[a-z%+]{0,4}&?){0,6}",
                any::<String>(),
            ],
        ) {
            let Ok(read) = CallbackQuery::parse(&query) else { return Ok(()) };
            prop_assert!(!read.state().is_empty());
            let pairs = url::form_urlencoded::parse(query.as_bytes()).collect::<Vec<_>>();
            for name in ["state", "code", "iss", "error", "error_description"] {
                prop_assert!(pairs.iter().filter(|(key, _)| key == name).count() <= 1);
            }
            let has = |name: &str| pairs.iter().any(|(key, _)| key == name);
            prop_assert_eq!(read.result.is_ok(), has("code"));
            prop_assert_ne!(has("code"), has("error"));
        }

        #[test]
        fn what_was_sent_is_what_is_read(state in ".{1,20}", code in ".{1,20}", iss: String) {
            let query =
                format!("iss={}&code={}&state={}", encoded(&iss), encoded(&code), encoded(&state));
            let read = CallbackQuery::parse(&query).unwrap();
            prop_assert_eq!(read.state(), state);
            prop_assert_eq!((read.result, read.issuer), (Ok(code), Some(iss)));
        }

        #[test]
        fn an_error_is_cut_to_the_alphabet_of_rfc_6749(error: String, description: String) {
            let query = format!(
                "state=s&error={}&error_description={}", encoded(&error), encoded(&description),
            );
            let failure = CallbackQuery::parse(&query).unwrap().result.unwrap_err();
            let allowed = |text: &str| {
                text.chars().all(|letter| matches!(letter, ' '..='!' | '#'..='[' | ']'..='~'))
            };
            prop_assert!(!failure.error.is_empty() && failure.error.len() <= 64);
            prop_assert!(failure.error_description.len() <= MAX_DESCRIPTION);
            prop_assert!(allowed(&failure.error) && allowed(&failure.error_description));
        }
    }

    #[test]
    fn callbacks_are_read_strictly() {
        let query = CallbackQuery::parse("code=c&state=s&iss=https%3A%2F%2Fa&session_state=x");
        let query = query.unwrap();
        assert_eq!((query.state(), &query.result), ("s", &Ok("c".to_owned())));
        for bad in [
            "",
            "code=c",
            "state=s",
            "state=s&state=t&code=c",
            "state=s&code=c&code=d",
            "state=s&code=c&error=e",
            "state=&code=c",
            "state=s&code=",
        ] {
            assert_eq!(CallbackQuery::parse(bad), Err(InvalidCallback), "{bad}");
        }
    }

    #[test]
    fn provider_errors_are_cleaned() {
        let query = "state=s&error=access_denied&error_description=%3Cb%3E%22no%22%0a%c3%a9";
        let failure = CallbackQuery::parse(query).unwrap().result.unwrap_err();
        assert_eq!(failure, Failure::new("access_denied", "<b>no"));
    }
}

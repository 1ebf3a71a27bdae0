//! The authorization response: with what the provider sends the person back, in a query or, with
//! `response_mode=form_post`, in a form (RFC 6749 §4.1.2, OAuth 2.0 Form Post Response Mode).

use serde::{Deserialize, Serialize};

use crate::oidc::provider_error::ProviderError;

/// Maximum size of a form from a provider, in bytes. A code has at most one or two kilobytes; Apple
/// adds a name.
pub const MAX_FORM: usize = 4 * 1024;

/// The parameters of RFC 6749 §4.1.2, RFC 9207 and, from Apple, `user`.
///
/// Reading never fails: what is wrong is part of the response, so that the sign-in with this `state` can
/// be ended with it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationResponse {
    state: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) outcome: ResponseOutcome,
    /// Apple sends the person's name once, beside the first code.
    pub(crate) user: Option<String>,
}

/// What the response says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ResponseOutcome {
    Code(String),
    Error { code: String, description: Option<String> },
    Malformed(String),
}

impl std::fmt::Debug for AuthorizationResponse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AuthorizationResponse(redacted)")
    }
}

/// The values of one parameter: none, one (however often), or several that differ.
#[derive(Default)]
struct Parameter {
    first: Option<String>,
    differs: bool,
}

impl Parameter {
    fn add(&mut self, value: String) {
        match &self.first {
            Some(first) => self.differs |= *first != value,
            None => self.first = Some(value),
        }
    }

    /// The value, if it is not empty.
    fn value(&self) -> Option<&str> {
        self.first.as_deref().filter(|text| !text.is_empty())
    }
}

impl AuthorizationResponse {
    /// Reads a query string or a form.
    ///
    /// A parameter with two different values is not acceptable (RFC 6749 §3.1), save for the
    /// description of an error; one that is not known is ignored.
    pub fn parse(text: &str) -> Self {
        let [mut state, mut code, mut issuer, mut error, mut description, mut user] =
            std::array::from_fn(|_| Parameter::default());
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let parameter = match &*name {
                "state" => &mut state,
                "code" => &mut code,
                "iss" => &mut issuer,
                "error" => &mut error,
                "error_description" => &mut description,
                "user" => &mut user,
                _ => continue,
            };
            parameter.add(value.into_owned());
        }
        let twice = [(&state, "state"), (&code, "code"), (&issuer, "iss"), (&error, "error")]
            .into_iter()
            .find_map(|(parameter, name)| parameter.differs.then_some(name));
        let outcome = match (twice, code.value(), error.value()) {
            (Some(name), ..) => ResponseOutcome::Malformed(format!("two values of {name}")),
            (None, Some(_), Some(_)) => {
                ResponseOutcome::Malformed("both code and error".to_owned())
            }
            (None, Some(code), None) => ResponseOutcome::Code(code.to_owned()),
            (None, None, Some(error)) => {
                let error = ProviderError::new(error, description.value());
                ResponseOutcome::Error { code: error.code, description: error.description }
            }
            (None, None, None) if code.first.is_some() => {
                ResponseOutcome::Malformed("an empty code".to_owned())
            }
            (None, None, None) => ResponseOutcome::Malformed("neither code nor error".to_owned()),
        };
        let state = state.value().filter(|_| !state.differs).map(str::to_owned);
        Self { state, issuer: issuer.first, outcome, user: user.first }
    }

    /// The `state` parameter, by which the response finds its attempt.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The provider's error, if that is what the response says. It is not authenticated: before
    /// anything is done about it, the state must be ours.
    pub fn error(&self) -> Option<ProviderError> {
        match &self.outcome {
            ResponseOutcome::Error { code, description } => {
                Some(ProviderError { code: code.clone(), description: description.clone() })
            }
            ResponseOutcome::Code(_) | ResponseOutcome::Malformed(_) => None,
        }
    }

    /// What is wrong with a response whose attempt is not known, for the log.
    pub fn describe(&self) -> String {
        match (&self.outcome, &self.state) {
            (ResponseOutcome::Malformed(reason), _) => reason.clone(),
            (ResponseOutcome::Error { .. }, _) => "the provider sent an error".to_owned(),
            (ResponseOutcome::Code(_), None) => "no state".to_owned(),
            (ResponseOutcome::Code(_), Some(_)) => {
                "no sign-in of this browser has this state".to_owned()
            }
        }
    }
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
        fn any_response_is_read(
            query in prop_oneof![
                "((state|code|iss|error|error_description|x)=[a-z%+]{0,4}&?){0,6}",
                any::<String>(),
            ],
        ) {
            let read = AuthorizationResponse::parse(&query);
            let pairs = url::form_urlencoded::parse(query.as_bytes()).collect::<Vec<_>>();
            let values = |name: &str| {
                let values = pairs.iter().filter(|(key, _)| key == name);
                values.map(|(_, value)| value.to_string()).collect::<std::collections::HashSet<_>>()
            };
            prop_assert_eq!(
                read.state().is_some(),
                values("state").len() == 1 && !values("state").contains(""),
            );
            if let ResponseOutcome::Code(code) = &read.outcome {
                prop_assert!(values("code").len() == 1 && values("code").contains(code));
                prop_assert!(values("error").iter().all(String::is_empty));
            }
        }

        #[test]
        fn what_was_sent_is_what_is_read(state in ".{1,20}", code in ".{1,20}", iss: String) {
            let query =
                format!("iss={}&code={}&state={}", encoded(&iss), encoded(&code), encoded(&state));
            let read = AuthorizationResponse::parse(&query);
            prop_assert_eq!(read.state(), Some(state.as_str()));
            prop_assert_eq!(read.issuer, Some(iss));
            prop_assert!(read.outcome == ResponseOutcome::Code(code));
        }

        #[test]
        fn an_error_is_bounded_and_has_no_line_break(error: String, description: String) {
            let query = format!(
                "state=s&error=x{}&error_description={}", encoded(&error), encoded(&description),
            );
            let error = AuthorizationResponse::parse(&query).error().unwrap();
            prop_assert!(!error.code.is_empty() && error.code.len() <= 64);
            prop_assert!(error.code.chars().all(|letter| matches!(letter, '!'..='~')));
            if let Some(text) = error.description {
                prop_assert!(text.chars().count() <= 200 && !text.contains(char::is_control));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_the_state_still_found() {
        let malformed = |query: &str| {
            let read = AuthorizationResponse::parse(query);
            let ResponseOutcome::Malformed(reason) = &read.outcome else { panic!("{query}") };
            (read.state().map(str::to_owned), reason.clone())
        };
        let known = Some("s".to_owned());
        for (query, state, reason) in [
            ("", None, "neither code nor error"),
            ("state=s", known.clone(), "neither code nor error"),
            ("state=s&code=", known.clone(), "an empty code"),
            ("state=s&state=t&code=c", None, "two values of state"),
            ("state=s&code=c&code=d", known.clone(), "two values of code"),
            ("state=s&code=c&error=e", known, "both code and error"),
        ] {
            assert_eq!(malformed(query), (state, reason.to_owned()), "{query}");
        }
    }

    #[test]
    fn what_does_no_harm_is_read() {
        let twice = "state=s&state=s&code=c&code=c&session_state=x";
        let read = AuthorizationResponse::parse(twice);
        assert!(read.outcome == ResponseOutcome::Code("c".to_owned()) && read.state() == Some("s"));
        let query = "state=s&error=access_denied&error_description=one&error_description=two";
        let error = AuthorizationResponse::parse(query).error().unwrap();
        assert_eq!(error.description.as_deref(), Some("one"));
        let query = "error=access_denied&error_description=L%27utilisateur+a+refus%C3%A9";
        let error = AuthorizationResponse::parse(query).error().unwrap();
        assert_eq!(error.description.as_deref(), Some("L'utilisateur a refus\u{e9}"));
    }
}

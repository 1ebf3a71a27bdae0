//! What is accepted from a relay that may be hostile.

use std::time::Duration;

use http::StatusCode;
use url::{Host, Url};

use crate::{
    ClientError,
    api::{ErrorResponse, Secret, TokenResponse},
};

/// Maximum length of a text for people, in characters.
const MAX_TEXT: usize = 300;

/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 2048;

/// Maximum length of a session ID or a session token, in characters.
const MAX_SECRET: usize = 512;

/// Maximum length of a token or a scope, in characters.
const MAX_TOKEN: usize = 64 * 1024;

/// Maximum lifetime of a session.
pub(crate) const MAX_EXPIRES_IN: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether secrets may travel to `url`: by `https`, or by `http` to this machine. A URL with a
/// password in it is refused, because it would be shown wherever the URL is.
pub fn is_secure(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    let anonymous = url.username().is_empty() && url.password().is_none();
    anonymous && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
}

/// `text` on one line without characters that move a terminal's cursor, are invisible or change the
/// direction of writing, cut to 300 characters.
pub fn printable(text: &str) -> String {
    let is_printable = |each: &char| {
        !each.is_control()
            && !matches!(
                each,
                '\u{ad}'
                    | '\u{61c}'
                    | '\u{180e}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{feff}'
                    | '\u{fff9}'..='\u{fffb}'
                    | '\u{e0000}'..='\u{e007f}'
            )
    };
    text.chars().filter(is_printable).take(MAX_TEXT).collect()
}

/// A URL that the answer names as `member`: on the origin of `relay`, and nothing else.
pub(crate) fn url(relay: &Url, member: &'static str, text: &str) -> Result<Url, ClientError> {
    let url = (text.len() <= MAX_URL).then(|| Url::parse(text).ok()).flatten();
    let url = url.ok_or(ClientError::Malformed(member))?;
    if url.origin() != relay.origin() || !is_secure(&url) {
        let (found, expected) = (url.origin(), relay.origin());
        return Err(ClientError::ForeignUrl {
            member,
            found: printable(&found.ascii_serialization()),
            expected: expected.ascii_serialization(),
        });
    }
    Ok(url)
}

/// A session ID or session token: base64url.
pub(crate) fn secret(member: &'static str, secret: Secret) -> Result<Secret, ClientError> {
    let text = secret.expose();
    let is_valid = (1..=MAX_SECRET).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_valid { Ok(secret) } else { Err(ClientError::Malformed(member)) }
}

/// A user code: four letters, a dash, four letters (RFC 8628 §6.1).
pub(crate) fn user_code(code: String) -> Result<String, ClientError> {
    let is_valid = code.len() == 9
        && code.bytes().enumerate().all(|(at, byte)| match at {
            4 => byte == b'-',
            _ => byte.is_ascii_uppercase(),
        });
    if is_valid { Ok(code) } else { Err(ClientError::Malformed("user_code")) }
}

/// Access token, token type, scope and refresh token by their grammar (RFC 6750 §2.1, RFC 6749
/// appendix A).
pub(crate) fn token(token: TokenResponse) -> Result<TokenResponse, ClientError> {
    let is_valid = |text: &str, allowed: fn(u8) -> bool| {
        (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(allowed)
    };
    let b64token = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let scope = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // A backend may deliver a payload alone.
    let payload_alone = token.payload.is_some()
        && token.access_token.is_empty()
        && token.token_type.is_empty()
        && token.refresh_token.is_none();
    if payload_alone {
        return Ok(TokenResponse { scope: String::new(), expires_in: 0, ..token });
    }
    if !is_valid(token.access_token.expose(), b64token) {
        return Err(ClientError::Malformed("access_token"));
    }
    if token.token_type.len() > 32 || !is_valid(&token.token_type, name) {
        return Err(ClientError::Malformed("token_type"));
    }
    if !token.scope.is_empty() && !is_valid(&token.scope, scope) {
        return Err(ClientError::Malformed("scope"));
    }
    if let Some(refresh_token) = &token.refresh_token
        && !is_valid(refresh_token.expose(), |byte| byte.is_ascii_graphic())
    {
        return Err(ClientError::Malformed("refresh_token"));
    }
    Ok(token)
}

/// An error of the sign-in. A code outside the grammar of RFC 6749 appendix A.7 becomes `server_error`.
pub(crate) fn failure(failure: &ErrorResponse) -> ClientError {
    let is_valid = (1..=64).contains(&failure.error.len())
        && failure.error.bytes().all(|byte| byte.is_ascii_graphic())
        && !failure.error.contains(['"', '\\']);
    let error = if is_valid { failure.error.clone() } else { "server_error".to_owned() };
    ClientError::Failed { error, description: printable(&failure.error_description) }
}

/// An answer that refuses the request.
pub(crate) fn refused(status: StatusCode, detail: Option<&str>) -> ClientError {
    ClientError::Refused { status, detail: detail.map(printable).filter(|text| !text.is_empty()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relay() -> Url {
        Url::parse("https://relay.example/sub/").unwrap()
    }

    #[test]
    fn urls_are_on_the_origin_of_the_relay() {
        assert!(
            url(&relay(), "x", "https://relay.example/addons/transit/?transit_token=a").is_ok()
        );
        for text in [
            "http://relay.example/",
            "https://relay.example:8443/",
            "https://relay.example.evil.example/",
            "https://relay.example@evil.example/",
            "https://user:secret@relay.example/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/html,x",
            "https:relay",
            "",
            "--help",
        ] {
            assert!(url(&relay(), "x", text).is_err(), "{text}");
        }
        let long = format!("https://relay.example/{}", "a".repeat(MAX_URL));
        assert!(url(&relay(), "x", &long).is_err());
    }

    #[test]
    fn the_way_to_the_relay_is_encrypted_or_short() {
        let secure = |text: &str| is_secure(&Url::parse(text).unwrap());
        for text in
            ["https://relay.example", "http://127.0.0.1:8080", "http://[::1]", "http://a.localhost"]
        {
            assert!(secure(text), "{text}");
        }
        for text in [
            "http://relay.example",
            "https://user@relay.example",
            "ftp://127.0.0.1",
            "http://localhost.example",
        ] {
            assert!(!secure(text), "{text}");
        }
    }

    #[test]
    fn codes_and_tokens_have_their_grammar() {
        assert!(user_code("BCDF-GHJK".into()).is_ok());
        for code in ["", "BCDFGHJK", "bcdf-ghjk", "BCDF-GHJ\u{1b}", "BCDF-GHJKL", "\u{1b}[2J-AAAA"]
        {
            assert!(user_code(code.into()).is_err(), "{code:?}");
        }
        let long = "a".repeat(513);
        for text in ["", "a b", "a\r", "é", &long] {
            assert!(secret("x", text.into()).is_err(), "{text:?}");
        }
        let answer = |access_token: &str, token_type: &str, scope: &str, refresh_token: &str| {
            TokenResponse {
                access_token: access_token.into(),
                refresh_token: Some(refresh_token.into()),
                token_type: token_type.into(),
                expires_in: u64::MAX,
                scope: scope.into(),
                ..TokenResponse::default()
            }
        };
        assert!(token(answer("e30.e30.e30", "Bearer", "read write", "r_1")).is_ok());
        assert!(token(answer("e30.e30.e30", "DPoP", "", "r_1")).is_ok());
        let payload = || Some(serde_json::Map::from_iter([("seat".to_owned(), 7.into())]));
        let alone = TokenResponse { payload: payload(), ..TokenResponse::default() };
        assert!(token(alone.clone()).is_ok());
        assert!(token(TokenResponse { payload: None, ..alone.clone() }).is_err());
        assert!(token(TokenResponse { token_type: "Bearer".into(), ..alone }).is_err());
        let beside = answer("e30.e30.e30", "Bearer", "", "r_1");
        assert!(token(TokenResponse { payload: payload(), ..beside }).is_ok());
        for (access_token, token_type, scope, refresh_token) in [
            ("", "Bearer", "", "r"),
            ("a b", "Bearer", "", "r"),
            ("a\u{1b}]0;x\u{7}", "Bearer", "", "r"),
            ("a", "Bearer\n", "", "r"),
            ("a", "", "", "r"),
            ("a", "Bearer", "a\nb", "r"),
            ("a", "Bearer", "", "r\u{9b}"),
        ] {
            let checked = token(answer(access_token, token_type, scope, refresh_token));
            assert!(
                checked.is_err(),
                "{access_token:?} {token_type:?} {scope:?} {refresh_token:?}"
            );
        }
    }

    #[test]
    fn the_error_code_is_one_word() {
        let of = |error: &str| {
            let response =
                ErrorResponse { error: error.into(), error_description: "\u{1b}[31mno".into() };
            failure(&response).to_string()
        };
        assert_eq!(of("access_denied"), "access_denied: [31mno");
        for error in ["", "a b", "a\u{7}", "\"", &"a".repeat(65)] {
            assert_eq!(of(error), "server_error: [31mno");
        }
    }

    proptest! {
        #[test]
        fn no_text_moves_the_cursor_or_hides(text: String) {
            let text = printable(&text);
            prop_assert!(text.chars().count() <= MAX_TEXT);
            let hidden = ['\u{202e}', '\u{2066}', '\u{200b}'];
            let found = text.chars().any(|each| each.is_control() || hidden.contains(&each));
            prop_assert!(!found);
        }
    }
}

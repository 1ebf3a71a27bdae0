//! Django's protection against cross-site request forgery, with the answers of Django REST framework.
//!
//! A header repeats the secret of a cookie, plain (32 characters) or masked (64), and the request
//! comes from a page of a trusted origin. Browsers send the origin in `Origin`; where there is none,
//! a site over HTTPS demands the `Referer`.

use http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;
use url::Url;

use crate::{http::cookies, settings::TrustedOrigin, util::random::random_bytes};

/// Header with the CSRF token.
pub(super) const HEADER: &str = "x-csrftoken";

/// Length of the secret.
const SECRET_LENGTH: usize = 32;

/// Length of the secret of version 0.1: 32 bytes in base64url.
const SECRET_LENGTH_OF_0_1: usize = 43;

/// Length of a masked secret: a mask, and the secret shifted by it.
const TOKEN_LENGTH: usize = 2 * SECRET_LENGTH;

const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Why a request is refused, in the words of Django.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("Origin checking failed - {0} does not match any trusted origins.")]
    Origin(String),
    #[error("Referer checking failed - no Referer.")]
    NoReferer,
    #[error("Referer checking failed - Referer is malformed.")]
    MalformedReferer,
    #[error("Referer checking failed - Referer is insecure while host is secure.")]
    InsecureReferer,
    #[error("Referer checking failed - {0} does not match any trusted origins.")]
    Referer(String),
    #[error("CSRF cookie not set.")]
    NoCookie,
    #[error("CSRF cookie {0}.")]
    Cookie(MalformedCsrfToken),
    #[error("CSRF token missing.")]
    NoToken,
    #[error("CSRF token from the 'X-Csrftoken' HTTP header {0}.")]
    Token(MalformedCsrfToken),
    #[error("CSRF token from the 'X-Csrftoken' HTTP header incorrect.")]
    Incorrect,
}

/// What has not the form of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MalformedCsrfToken {
    #[error("has incorrect length")]
    Length,
    #[error("has invalid characters")]
    Characters,
}

/// A new secret.
pub(super) fn generate() -> String {
    let mut secret = String::with_capacity(SECRET_LENGTH);
    while secret.len() < SECRET_LENGTH {
        let [byte] = random_bytes::<1>();
        // 248 is the largest multiple of 62 in a byte; above it characters would be unequal.
        if byte < 248 {
            secret.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        }
    }
    secret
}

/// The site whose pages are protected.
pub(super) struct Site<'a> {
    /// Its own origin.
    pub origin: &'a str,
    /// Further origins whose pages may call it.
    pub trusted: &'a [TrustedOrigin],
    /// The same by their exact text.
    pub allowed: &'a [String],
    /// Name of the cookie.
    pub cookie: &'a str,
    /// Whether the secret of a login of version 0.1 is one as well. For one release.
    pub takes_those_of_0_1: bool,
}

impl Site<'_> {
    fn trusts(&self, origin: &str) -> bool {
        origin == self.origin
            || self.trusted.iter().any(|trusted| trusted.matches(origin))
            || self.allowed.iter().any(|allowed| allowed == origin)
    }

    /// Checks a request, and returns the secret that cookie and header agree on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        self.check_source(headers)?;
        let cookie = cookies::get(headers, self.cookie).ok_or(Refusal::NoCookie)?;
        let secret = self.secret_of(&cookie).map_err(Refusal::Cookie)?;
        let presented = headers.get(HEADER).ok_or(Refusal::NoToken)?;
        let presented =
            presented.to_str().map_err(|_| Refusal::Token(MalformedCsrfToken::Characters))?;
        let presented = self.secret_of(presented).map_err(Refusal::Token)?;
        if presented.as_bytes().ct_eq(secret.as_bytes()).into() {
            Ok(secret)
        } else {
            Err(Refusal::Incorrect)
        }
    }

    fn secret_of(&self, token: &str) -> Result<String, MalformedCsrfToken> {
        let is_of_0_1 = token.len() == SECRET_LENGTH_OF_0_1
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if self.takes_those_of_0_1 && is_of_0_1 {
            return Ok(token.to_owned());
        }
        secret_of(token)
    }

    fn check_source(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            return if self.trusts(&origin) {
                Ok(())
            } else {
                Err(Refusal::Origin(origin.into_owned()))
            };
        }
        if !self.origin.starts_with("https://") {
            return Ok(());
        }
        let referer = headers.get(header::REFERER).ok_or(Refusal::NoReferer)?;
        let referer = referer.to_str().map_err(|_| Refusal::MalformedReferer)?;
        let url =
            Url::parse(referer).ok().filter(Url::has_host).ok_or(Refusal::MalformedReferer)?;
        if url.scheme() != "https" {
            return Err(Refusal::InsecureReferer);
        }
        match self.trusts(&url.origin().ascii_serialization()) {
            true => Ok(()),
            false => Err(Refusal::Referer(referer.to_owned())),
        }
    }
}

/// The secret of a token in either form.
fn secret_of(token: &str) -> Result<String, MalformedCsrfToken> {
    if token.len() != SECRET_LENGTH && token.len() != TOKEN_LENGTH {
        return Err(MalformedCsrfToken::Length);
    }
    let place = |byte: u8| ALPHABET.iter().position(|known| *known == byte);
    let places: Vec<usize> =
        token.bytes().map(place).collect::<Option<_>>().ok_or(MalformedCsrfToken::Characters)?;
    if places.len() == SECRET_LENGTH {
        return Ok(token.to_owned());
    }
    let (mask, shifted) = places.split_at(SECRET_LENGTH);
    let unmasked = shifted.iter().zip(mask).map(|(shifted, mask)| {
        char::from(ALPHABET[(shifted + ALPHABET.len() - mask) % ALPHABET.len()])
    });
    Ok(unmasked.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "abcdefghijklmnopqrstuvwxyzABCDEF";

    fn site(origin: &str) -> Site<'_> {
        Site { origin, trusted: &[], allowed: &[], cookie: "csrftoken", takes_those_of_0_1: false }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn checked(site: &Site<'_>, more: &[(&'static str, &str)]) -> String {
        let cookie = format!("csrftoken={SECRET}");
        let pairs = [&[("cookie", cookie.as_str()), (HEADER, SECRET)], more].concat();
        site.check(&headers(&pairs)).map_or_else(|refusal| refusal.to_string(), |_| "ok".to_owned())
    }

    /// As Django masks a secret.
    fn masked(secret: &str, mask: &str) -> String {
        let place = |byte: u8| ALPHABET.iter().position(|known| *known == byte).unwrap();
        let shifted = secret.bytes().zip(mask.bytes()).map(|(secret, mask)| {
            char::from(ALPHABET[(place(secret) + place(mask)) % ALPHABET.len()])
        });
        mask.chars().chain(shifted).collect()
    }

    proptest! {
        #[test]
        fn a_masked_secret_is_the_secret(secret in "[a-zA-Z0-9]{32}", mask in "[a-zA-Z0-9]{32}") {
            prop_assert_eq!(secret_of(&masked(&secret, &mask)), Ok(secret.clone()));
            prop_assert_eq!(secret_of(&secret), Ok(secret));
        }

        #[test]
        fn nothing_else_is_a_token(text in any::<String>()) {
            let is_token = [32, 64].contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            prop_assert_eq!(secret_of(&text).is_ok(), is_token);
        }
    }

    #[test]
    fn a_secret_of_0_1_is_one_for_logins_of_the_relay_alone() {
        let secret = "abcdefghijklmnopqrstuvwxyz-_ABCDEFGHIJKLMNO";
        let cookie = format!("csrftoken={secret}");
        let check = |site: Site<'_>, presented| {
            site.check(&headers(&[("cookie", cookie.as_str()), (HEADER, presented)]))
        };
        let own = || Site { takes_those_of_0_1: true, ..site("http://relay.example") };
        assert_eq!(check(own(), secret), Ok(secret.to_owned()));
        let other = "ABCdefghijklmnopqrstuvwxyz-_ABCDEFGHIJKLMNO";
        assert_eq!(check(own(), other), Err(Refusal::Incorrect));
        let malformed = Refusal::Cookie(MalformedCsrfToken::Length);
        assert_eq!(check(site("http://relay.example"), secret), Err(malformed));
    }

    #[test]
    fn a_request_comes_from_a_page_of_the_site() {
        let https = site("https://meet.example");
        for (more, expected) in [
            (&[("origin", "https://meet.example")][..], "ok"),
            (
                &[("origin", "https://evil.example")],
                "Origin checking failed - https://evil.example does not match any trusted origins.",
            ),
            (
                &[("origin", "null")],
                "Origin checking failed - null does not match any trusted origins.",
            ),
            (&[], "Referer checking failed - no Referer."),
            (&[("referer", "https://meet.example/addons/success.html")], "ok"),
            (&[("referer", "nonsense")], "Referer checking failed - Referer is malformed."),
            (
                &[("referer", "http://meet.example/")],
                "Referer checking failed - Referer is insecure while host is secure.",
            ),
            (
                &[("referer", "https://meet.example.evil.example/x")],
                "Referer checking failed - https://meet.example.evil.example/x does not match any \
                 trusted origins.",
            ),
            (
                &[("origin", "https://evil.example"), ("referer", "https://meet.example/")],
                "Origin checking failed - https://evil.example does not match any trusted origins.",
            ),
        ] {
            assert_eq!(checked(&https, more), expected, "{more:?}");
        }
        assert_eq!(checked(&site("http://127.0.0.1:8080"), &[]), "ok");
    }

    #[test]
    fn further_origins_are_exact_or_all_below_a_domain() {
        let trusted = [
            TrustedOrigin::Exact("https://office.example:8443".to_owned()),
            TrustedOrigin::Domain { scheme: "https".to_owned(), host: "meet.example".to_owned() },
        ];
        let site = Site { trusted: &trusted, ..site("https://relay.example") };
        for (origin, fits) in [
            ("https://office.example:8443", true),
            ("https://office.example", false),
            ("https://a.b.meet.example", true),
            ("https://meet.example", true),
            ("http://a.meet.example", false),
            ("https://evilmeet.example", false),
            ("https://a.meet.example:444", false),
        ] {
            let answer = checked(&site, &[("origin", origin)]);
            assert_eq!(answer == "ok", fits, "{origin}: {answer}");
            let referer = format!("{origin}/x");
            let answer = checked(&site, &[("referer", &referer)]);
            assert_eq!(answer == "ok", fits, "{referer}: {answer}");
        }
    }

    #[test]
    fn cookie_and_header_carry_the_same_secret() {
        let site = site("http://127.0.0.1:8080");
        let long = "a".repeat(33);
        let other = "b".repeat(32);
        let odd = "-".repeat(32);
        let cookie = format!("csrftoken={SECRET}");
        let twice = format!("csrftoken={SECRET}; csrftoken={other}");
        for (cookie, header, expected) in [
            ("", SECRET, "CSRF cookie not set."),
            (&twice, SECRET, "CSRF cookie not set."),
            (&format!("csrftoken={long}"), SECRET, "CSRF cookie has incorrect length."),
            (&format!("csrftoken={odd}"), SECRET, "CSRF cookie has invalid characters."),
            (&cookie, "", "CSRF token from the 'X-Csrftoken' HTTP header has incorrect length."),
            (
                &cookie,
                &odd,
                "CSRF token from the 'X-Csrftoken' HTTP header has invalid characters.",
            ),
            (&cookie, &other, "CSRF token from the 'X-Csrftoken' HTTP header incorrect."),
        ] {
            let headers = headers(&[("cookie", cookie), (HEADER, header)]);
            assert_eq!(site.check(&headers).unwrap_err().to_string(), expected);
        }
        let headers = headers(&[("cookie", cookie.as_str())]);
        assert_eq!(site.check(&headers).unwrap_err(), Refusal::NoToken);
        let [new, other] = [generate(), generate()];
        assert!(secret_of(&new).is_ok() && new != other);
    }
}

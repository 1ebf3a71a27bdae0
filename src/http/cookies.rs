//! Names and attributes of the relay's own cookies.
//!
//! Over HTTPS they carry the `__Host-` prefix, so that no other host can set them; a relay on
//! loopback HTTP (demo, tests) does without, because browsers refuse the prefix there.

use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};
use memchr::memchr;

use crate::{
    http::App,
    session::{Digest, SessionKey, SessionToken},
};

/// Maximum size of a cookie's value, in bytes. Browsers drop values beyond 4 KiB silently, and proxies
/// take 4 KiB of a whole response's head by default; what does not fit waits in the store.
pub const MAX_COOKIE: usize = 2600;

/// What a cookie is for decides whether it travels cross-site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A dialog's cookie: sent on top-level navigation only.
    Dialog,
    /// A reader's cookie: sent from the add-in's frame, kept apart for each embedding site.
    Reader,
}

fn prefixed(app: &App, name: &str) -> String {
    if app.is_https() { format!("__Host-{name}") } else { name.to_owned() }
}

/// Beginning of the name of readers' cookies, after `__Host-`.
pub const READER_PREFIX: &str = "token-relay-reader-";

/// The cookie that reads a bound session from a plain `EventSource`.
pub fn reader_name(app: &App, key: SessionKey) -> String {
    prefixed(app, &format!("{READER_PREFIX}{}", &key.to_base64url()[..10]))
}

/// The cookie that recognises the browser between a creation and its dialog.
pub fn browser_name(app: &App) -> String {
    prefixed(app, "token-relay-browser")
}

/// The browser ID of a request, if it has the form of one.
pub fn browser(app: &App, headers: &HeaderMap) -> Option<String> {
    get(headers, &browser_name(app)).filter(|id| Digest::from_base64url(id).is_ok())
}

/// The cookie that a form of the page for user codes must come with.
pub fn device_name(app: &App) -> String {
    prefixed(app, "token-relay-device")
}

/// Sets the browser ID. It ends with the browser, and is sent with top-level navigation.
pub fn set_browser(app: &App, id: &SessionToken) -> HeaderValue {
    let cookie = Cookie::build((browser_name(app), id.expose().to_owned()))
        .path("/")
        .http_only(true)
        .secure(app.is_https())
        .same_site(SameSite::Lax);
    header_value(&cookie.build())
}

/// What follows `prefix` in the names of the request's cookies.
pub fn names(headers: &HeaderMap, prefix: &str) -> impl Iterator<Item = String> {
    pairs(headers)
        .filter_map(|pair| str::from_utf8(&pair[..memchr(b'=', pair)?]).ok())
        .filter_map(move |name| name.strip_prefix(prefix).map(str::to_owned))
}

/// The pairs of name and value. Bytes, since a cookie that another service on this host set may hold any.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::COOKIE).iter().flat_map(|value| {
        let mut rest = Some(value.as_bytes());
        std::iter::from_fn(move || {
            let bytes = rest?;
            let end = memchr(b';', bytes);
            rest = end.map(|end| &bytes[end + 1..]);
            Some(bytes[..end.unwrap_or(bytes.len())].trim_ascii())
        })
    })
}

/// The names of the cookie of a browser login on the Meet surface: the one to set, and the one of
/// version 0.1, which is read for one release.
pub fn login_names(app: &App) -> [String; 2] {
    [prefixed(app, "token-relay-login"), "token-relay-login".to_owned()]
}

/// The cookie of one dialog.
pub fn dialog_name(app: &App, handle: &str) -> String {
    prefixed(app, &format!("token-relay-dialog-{handle}"))
}

/// The value of the request's cookie `name`. Sent twice with different values, it counts as absent:
/// one of them was planted.
pub fn get(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut found: Option<&[u8]> = None;
    for pair in pairs(headers) {
        let value = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        let Some(value) = value else { continue };
        if found.is_some_and(|earlier| earlier != value) {
            return None;
        }
        found = Some(value);
    }
    found.filter(|value| value.is_ascii()).and_then(|value| String::from_utf8(value.to_vec()).ok())
}

/// The value to which a response sets the cookie `name`.
pub fn set_by<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::SET_COOKIE).iter();
    let mut values = cookies.filter_map(|cookie| {
        cookie.to_str().ok()?.strip_prefix(name)?.strip_prefix('=')?.split(';').next()
    });
    values.next()
}

/// A `Set-Cookie` value.
pub fn set(app: &App, name: String, value: String, ttl: Duration, reach: Reach) -> HeaderValue {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let mut cookie = Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .secure(app.is_https())
        .max_age(cookie::time::Duration::seconds(seconds));
    cookie = match reach {
        Reach::Reader if app.is_https() => cookie.same_site(SameSite::None).partitioned(true),
        Reach::Reader | Reach::Dialog => cookie.same_site(SameSite::Lax),
    };
    header_value(&cookie.build())
}

/// A `Set-Cookie` value that deletes.
pub fn delete(app: &App, name: String, reach: Reach) -> HeaderValue {
    set(app, name, String::new(), Duration::ZERO, reach)
}

fn header_value(cookie: &Cookie<'_>) -> HeaderValue {
    // Names and values of ours are base64url and dashes.
    HeaderValue::from_str(&cookie.to_string()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "__Host-token-relay-dialog-abc";

    fn headers<'a>(values: impl IntoIterator<Item = &'a str>) -> HeaderMap {
        let values = values.into_iter().map(|value| HeaderValue::from_bytes(value.as_bytes()));
        values.map(|value| (header::COOKIE, value.unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (line, value) in [
            (format!("{NAME}=v"), Some("v")),
            (format!("a=b; {NAME}=v; c=d"), Some("v")),
            (format!("a=b;{NAME}=v=w"), Some("v=w")),
            (format!("{NAME}="), Some("")),
            (format!("{NAME}=v; {NAME}=v"), Some("v")),
            (format!("{NAME}=v; {NAME}=w"), None),
            (format!("{NAME}x=v; x{NAME}=v; {NAME}"), None),
            (format!("a={NAME}=v"), None),
            (format!("other=\u{e9}; {NAME}=v"), Some("v")),
            (format!("{NAME}=\u{e9}"), None),
        ] {
            assert_eq!(get(&headers([line.as_str()]), NAME).as_deref(), value, "{line}");
        }
        let planted = [format!("{NAME}=v"), format!("{NAME}=w")];
        assert_eq!(get(&headers(planted.iter().map(String::as_str)), NAME), None);
    }

    #[test]
    fn names_are_found_beside_cookies_of_other_services() {
        let headers = headers([
            "other=\u{e9}; \u{e9}=x; dialog-abc=v;dialog-def=; dialog-ghi",
            "dialog-jkl=w",
        ]);
        assert_eq!(names(&headers, "dialog-").collect::<Vec<_>>(), ["abc", "def", "jkl"]);
    }

    proptest! {
        #[test]
        fn a_cookie_is_found_among_any_others(
            before in proptest::collection::vec("[a-z]{1,9}=[^;\\p{Cc}]{0,9}", 0..4),
            value in "[A-Za-z0-9_-]{0,60}",
            after in proptest::collection::vec("[a-z]{1,9}=[^;\\p{Cc}]{0,9}", 0..4),
        ) {
            let mut pairs = before;
            pairs.push(format!("{NAME}={value}"));
            pairs.extend(after);
            let one = pairs.join("; ");
            prop_assert_eq!(get(&headers([one.as_str()]), NAME), Some(value.clone()));
            // HTTP/2 may send each pair in a header field of its own (RFC 9113 §8.2.3).
            let split = headers(pairs.iter().map(String::as_str));
            prop_assert_eq!(get(&split, NAME), Some(value));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, name in "[a-z=;]{0,3}") {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let found = get(&HeaderMap::from_iter([(header::COOKIE, value)]), &name);
                prop_assert!(found.is_none_or(|found| found.is_ascii()));
            }
        }
    }
}

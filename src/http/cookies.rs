//! Names and attributes of the native surface's cookies.
//!
//! Over HTTPS they carry the `__Host-` prefix, so that no other host can set them; a relay on
//! loopback HTTP (demo, tests) does without, because browsers refuse the prefix there.

use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

use super::App;
use crate::session::SessionKey;

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

/// The cookie that reads a bound session from a plain `EventSource`.
pub fn reader_name(app: &App, key: SessionKey) -> String {
    prefixed(app, &format!("token-relay-reader-{}", &key.to_base64url()[..10]))
}

/// The cookie of one dialog.
pub fn dialog_name(app: &App, handle: &str) -> String {
    prefixed(app, &format!("token-relay-dialog-{handle}"))
}

/// The value of the request's cookie `name`. Sent twice with different values, it counts as absent:
/// one of them was planted.
pub fn get(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        for pair in value.to_str().ok()?.split(';') {
            if let Some((key, value)) = pair.trim().split_once('=')
                && key == name
            {
                match &found {
                    Some(earlier) if earlier != value => return None,
                    _ => found = Some(value.to_owned()),
                }
            }
        }
    }
    found
}

/// A `Set-Cookie` value.
pub fn set(app: &App, name: String, value: String, life: Duration, reach: Reach) -> HeaderValue {
    let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
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

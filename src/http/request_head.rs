//! Limits and checks of the head of a request, the same on every route.

use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, Version, header, uri::Authority};

use crate::http::error::Problem;

/// Maximum size of a request head, in bytes.
pub const MAX_HEAD: usize = 16 * 1024;

/// Maximum number of header fields of a request.
pub const MAX_FIELDS: usize = 100;

/// Why a request is refused by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Too many bytes or fields.
    TooLarge,
    /// The host that is asked for is not clear; says why.
    Host(&'static str),
    /// The body has a transfer coding other than `chunked`, or has it twice.
    TransferCoding,
}

impl IntoResponse for HeadError {
    fn into_response(self) -> Response {
        match self {
            // As hyper answers a head that does not fit into its buffer.
            Self::TooLarge => {
                let close = [(header::CONNECTION, "close")];
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, close).into_response()
            }
            // What follows is not understood, so that no other request can be found in it.
            Self::TransferCoding => {
                ([(header::CONNECTION, "close")], Problem::TransferCoding).into_response()
            }
            Self::Host(detail) => Problem::BadRequest(detail.to_owned()).into_response(),
        }
    }
}

/// Checks size, `Host` and `Transfer-Encoding` of a request.
///
/// # Errors
/// 431 when the head is too large, 400 when the request does not name exactly one host
/// (RFC 9112 §3.2, RFC 9113 §8.3.1), 501 when its body is coded in another way than by `chunked`
/// (RFC 9112 §6.1).
pub fn check<B>(request: &Request<B>) -> Result<(), HeadError> {
    if request.headers().len() > MAX_FIELDS || size(request) > MAX_HEAD {
        return Err(HeadError::TooLarge);
    }
    // hyper has refused those that do not end with `chunked`.
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (!coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some())
    {
        return Err(HeadError::TransferCoding);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next().is_some());
    let host = match host.map(|host| host.to_str().ok().filter(|host| is_host(host))) {
        Some(None) => return Err(HeadError::Host("`Host` is not a host with an optional port.")),
        Some(Some(host)) => Some(host),
        None => None,
    };
    let authority = request.uri().authority().map(Authority::as_str);
    match request.version() {
        _ if another => Err(HeadError::Host("`Host` is there more than once.")),
        Version::HTTP_11 if host.is_none() => Err(HeadError::Host("`Host` is missing.")),
        Version::HTTP_2 => match (authority, host) {
            (None, None) => Err(HeadError::Host("`:authority` is missing.")),
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                Err(HeadError::Host("`Host` is not `:authority`."))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// `uri-host [ ":" port ]`; empty where the target has no authority.
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return text.is_empty() };
    let host = authority.host();
    let port = text.strip_prefix(host).unwrap_or(text);
    port.is_empty()
        || !host.is_empty()
            && port
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Bytes of the head in HTTP/1.1, without optional whitespace.
fn size<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields = request.headers().iter();
    let fields: usize =
        fields.map(|(name, value)| name.as_str().len() + value.as_bytes().len() + 4).sum();
    request.method().as_str().len() + target + fields + " HTTP/1.1\r\n\r\n ".len()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn exactly_one_host_is_named() {
        use Version as V;
        for (version, uri, hosts, fits) in [
            (V::HTTP_11, "/", &["a"][..], true),
            (V::HTTP_11, "/", &["a.example:443"], true),
            (V::HTTP_11, "/", &["[::1]:80"], true),
            (V::HTTP_11, "/", &[""], true),
            (V::HTTP_11, "/", &[], false),
            (V::HTTP_11, "/", &["a", "a"], false),
            (V::HTTP_11, "/", &["user@a"], false),
            (V::HTTP_11, "/", &["a:b@a"], false),
            (V::HTTP_11, "/", &["a:"], true),
            (V::HTTP_11, "/", &["a:80a"], false),
            (V::HTTP_11, "/", &["a:+80"], false),
            (V::HTTP_11, "/", &["[::1]:x"], false),
            (V::HTTP_11, "/", &["::1"], false),
            (V::HTTP_11, "/", &[":80"], false),
            (V::HTTP_11, "/", &["a b"], false),
            (V::HTTP_11, "/", &["a/b"], false),
            (V::HTTP_11, "http://a/", &[], false),
            (V::HTTP_10, "/", &[], true),
            (V::HTTP_10, "/", &["a", "b"], false),
            (V::HTTP_2, "http://a/", &[], true),
            (V::HTTP_2, "http://a/", &["A"], true),
            (V::HTTP_2, "http://a/", &["b"], false),
            (V::HTTP_2, "/", &["a"], true),
            (V::HTTP_2, "/", &[], false),
        ] {
            let checked = check(&request(version, uri, hosts));
            assert_eq!(checked.is_ok(), fits, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn a_body_is_coded_once_and_by_chunked_alone() {
        for (codings, fits) in [
            (&["chunked"][..], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
        ] {
            let mut head = request(Version::HTTP_11, "/", &["a"]);
            for coding in codings {
                head.headers_mut()
                    .append(header::TRANSFER_ENCODING, HeaderValue::from_static(coding));
            }
            let expected = if fits { Ok(()) } else { Err(HeadError::TransferCoding) };
            assert_eq!(check(&head), expected, "{codings:?}");
        }
    }

    #[test]
    fn heads_are_limited_in_size_and_fields() {
        let mut head = request(Version::HTTP_11, "/", &["a"]);
        for number in 1..MAX_FIELDS {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            head.headers_mut().insert(name, HeaderValue::from_static("value"));
        }
        assert_eq!(check(&head), Ok(()));
        head.headers_mut().append("x-1", HeaderValue::from_static("value"));
        assert_eq!(check(&head), Err(HeadError::TooLarge));
        let mut head = request(Version::HTTP_11, "/", &["a"]);
        let left = MAX_HEAD - "GET / HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n".len();
        head.headers_mut().insert("x", HeaderValue::try_from("y".repeat(left)).unwrap());
        assert_eq!(check(&head), Ok(()));
        head.headers_mut().insert("x", HeaderValue::try_from("y".repeat(left + 1)).unwrap());
        assert_eq!(check(&head), Err(HeadError::TooLarge));
    }
}

//! Typed requests: handlers receive what they asked for, or the request is refused before them.
//!
//! Unknown parameters of a query or a form are ignored, so that cache busters and later clients do
//! no harm; a known one that occurs twice is refused.

use std::{borrow::Cow, time::Duration};

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use bytes::Bytes;
use headers::{
    Authorization, HeaderMapExt as _,
    authorization::{Basic, Credentials},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::http::{AppState, error::Problem};

/// Timeout for receiving the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request, limited in size (`MAX_BODY`) and time.
pub struct LimitedBody(pub Bytes);

impl FromRequest<AppState> for LimitedBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        Self::up_to(app.settings.limits.max_body, request).await
    }
}

impl LimitedBody {
    async fn up_to(max: usize, request: Request) -> Result<Self, Problem> {
        if is_encoded(request.headers()) {
            return Err(Problem::UnsupportedMediaType);
        }
        // Before the body is asked for by `100 Continue` (RFC 9110 §10.1.1).
        if request.body().size_hint().lower() > u64::try_from(max).unwrap_or(u64::MAX) {
            return Err(Problem::BodyTooLarge);
        }
        let body = Limited::new(request.into_body(), max);
        match tokio::time::timeout(BODY_TIMEOUT, body.collect()).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge),
            Ok(Err(_)) => Err(Problem::BadRequest("The body broke off.".to_owned())),
            Err(_) => Err(Problem::BadRequest("The body took too long.".to_owned())),
        }
    }
}

/// Whether the body has a content coding, none of which is understood (RFC 9110 §8.4).
fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.map(HeaderValue::as_bytes).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether `Content-Type` is `media_type`, whatever its parameters.
fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

/// A body that is a JSON object (RFC 8259). [`Option`] of it is `None` for an empty body of any type.
pub struct Json<T>(pub T);

impl<T> Json<T>
where
    T: DeserializeOwned,
{
    fn parse(is_json: bool, body: &[u8]) -> Result<Self, Problem> {
        if !is_json {
            return Err(Problem::UnsupportedMediaType);
        }
        // RFC 8259 §8.1 lets a parser ignore a byte order mark.
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        // An array would be taken for the members in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::BadRequest("The body is not a JSON object.".to_owned()));
        }
        // The parser's own message could repeat what was sent; its position is enough.
        serde_json::from_slice(body).map(Self).map_err(|error| {
            Problem::BadRequest(format!(
                "The body is not the JSON that is expected (line {}, column {}).",
                error.line(),
                error.column()
            ))
        })
    }
}

impl<T> Json<T>
where
    T: DeserializeOwned,
{
    /// A body of up to `max` bytes, whatever `MAX_BODY` is.
    ///
    /// # Errors
    /// When it is larger, or something else.
    pub async fn up_to(max: usize, request: Request) -> Result<Self, Problem> {
        let is_json = is_of_type(request.headers(), "application/json");
        let LimitedBody(body) = LimitedBody::up_to(max, request).await?;
        Self::parse(is_json, &body)
    }
}

impl<T> FromRequest<AppState> for Json<T>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        let is_json = is_of_type(request.headers(), "application/json");
        let LimitedBody(body) = LimitedBody::from_request(request, app).await?;
        Self::parse(is_json, &body)
    }
}

impl<T> OptionalFromRequest<AppState> for Json<T>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Option<Self>, Problem> {
        let is_json = is_of_type(request.headers(), "application/json");
        let LimitedBody(body) = LimitedBody::from_request(request, app).await?;
        if body.is_empty() { Ok(None) } else { Self::parse(is_json, &body).map(Some) }
    }
}

/// Says what is wrong with parameters, and never what was sent.
fn refuse(error: &impl std::fmt::Display) -> Problem {
    let text = error.to_string();
    // These name the parameter alone, and so do messages of ours, which begin with it.
    let names_it = ["missing field ", "duplicate field ", "`"];
    Problem::BadRequest(if names_it.iter().any(|start| text.starts_with(start)) {
        text
    } else {
        "A parameter has a value that is not understood.".to_owned()
    })
}

/// The query.
pub struct Query<T>(pub T);

impl<T> FromRequestParts<AppState> for Query<T>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query).map(Self).map_err(|error| refuse(&error))
    }
}

/// A body of `application/x-www-form-urlencoded`. A parameter without a value counts as omitted
/// (RFC 6749 §3.1).
pub struct Form<T>(pub T);

impl<T> Form<T>
where
    T: DeserializeOwned,
{
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let has_value = |pair: &&[u8]| {
            pair.iter().position(|byte| *byte == b'=').is_some_and(|at| at + 1 < pair.len())
        };
        let pairs: Vec<&[u8]> = body.split(|byte| *byte == b'&').filter(has_value).collect();
        serde_urlencoded::from_bytes(&pairs.join(&b'&')).map(Self).map_err(|error| refuse(&error))
    }
}

impl<T> FromRequest<AppState> for Form<T>
where
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        if !is_of_type(request.headers(), "application/x-www-form-urlencoded") {
            return Err(Problem::UnsupportedMediaType);
        }
        let LimitedBody(body) = LimitedBody::from_request(request, app).await?;
        Self::parse(&body)
    }
}

/// `Authorization` with another scheme, with credentials that are malformed, or more than once: who read
/// another line of it, such as a proxy, would see another person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedAuthorization;

fn authorization<C: Credentials>(headers: &HeaderMap) -> Result<Option<C>, MalformedAuthorization> {
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(MalformedAuthorization);
    }
    let value = headers.typed_try_get::<Authorization<C>>().map_err(|_| MalformedAuthorization)?;
    Ok(value.map(|Authorization(credentials)| credentials))
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1).
///
/// # Errors
/// When there is an `Authorization` that is not one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<String>, MalformedAuthorization> {
    let credentials = authorization::<headers::authorization::Bearer>(headers)?;
    Ok(credentials.map(|bearer| bearer.token().trim().to_owned()))
}

/// The access token of a request to a protected resource, as its scheme says it is used.
#[derive(Debug, PartialEq, Eq)]
pub enum AccessToken {
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer(String),
    /// `Authorization: DPoP` (RFC 9449 §7.1).
    Dpop(String),
}

/// The access token of a request.
///
/// # Errors
/// When there is an `Authorization` that holds none.
pub fn access_token(headers: &HeaderMap) -> Result<Option<AccessToken>, MalformedAuthorization> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().filter(|_| fields.next().is_none());
    let dpop = field.and_then(|value| value.to_str().ok()?.split_once(' '));
    match dpop {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("dpop") => {
            Ok(Some(AccessToken::Dpop(token.trim().to_owned())))
        }
        _ => Ok(bearer(headers)?.map(AccessToken::Bearer)),
    }
}

/// Client ID and secret of `Authorization: Basic` (RFC 6749 §2.3.1).
#[derive(Clone)]
pub struct ClientBasic(Basic);

impl ClientBasic {
    /// Those of a request.
    ///
    /// # Errors
    /// When there is an `Authorization` that is not one.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, MalformedAuthorization> {
        Ok(authorization::<Basic>(headers)?.map(Self))
    }

    /// What the client may mean: ID and secret as they stand (`curl -u`), then form-decoded (as the
    /// RFC demands).
    pub fn readings(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let (id, secret) = (self.0.username(), self.0.password());
        let encoded = [id, secret].iter().any(|text| text.contains(['%', '+']));
        let plain = (Cow::Borrowed(id), Cow::Borrowed(secret));
        let decoded = encoded.then(|| (Cow::Owned(decoded(id)), Cow::Owned(decoded(secret))));
        std::iter::once(plain).chain(decoded)
    }
}

impl std::fmt::Debug for ClientBasic {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClientBasic(redacted)")
    }
}

fn decoded(text: &str) -> String {
    // A pair has a name and a value; here the whole text is the value.
    let whole = format!("={}", text.replace('&', "%26"));
    url::form_urlencoded::parse(whole.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wanted {
        a: String,
        b: Option<u8>,
    }

    fn form(text: &str) -> Result<Wanted, Problem> {
        Form::parse(text.as_bytes()).map(|Form(wanted)| wanted)
    }

    #[test]
    fn unknown_parameters_are_ignored_and_known_ones_stand_once() {
        let wanted = |b| Ok(Wanted { a: "x y".to_owned(), b });
        assert_eq!(form("a=x+y&_=1700000000"), wanted(None));
        assert_eq!(form("_&_=&a=x%20y&b=1&_=2&_=3"), wanted(Some(1)));
        assert_eq!(form("a=&a=x+y&b=&b"), wanted(None));
        for (text, detail) in [
            ("a=x&a=x", "duplicate field `a`"),
            ("b=1", "missing field `a`"),
            ("a=", "missing field `a`"),
            ("a=x&b=secret", "A parameter has a value that is not understood."),
        ] {
            assert_eq!(form(text), Err(Problem::BadRequest(detail.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_json() {
        let body = b"\xef\xbb\xbf{\"a\":\"x\"}";
        assert!(Json::<Wanted>::parse(true, body).is_ok());
        assert!(Json::<Wanted>::parse(true, b"\xef\xbb\xbf").is_err());
    }

    fn authorized(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    fn readings(text: &str) -> Vec<(String, String)> {
        let headers = authorized(&format!("Basic {}", STANDARD.encode(text)));
        let basic = ClientBasic::of(&headers).ok().flatten();
        let owned = |(id, secret): (Cow<'_, str>, Cow<'_, str>)| (id.into(), secret.into());
        basic.iter().flat_map(ClientBasic::readings).map(owned).collect()
    }

    proptest! {
        #[test]
        fn both_ways_of_writing_basic_are_read(id in "[^:]{1,20}", secret in ".{0,40}") {
            let encode = |text: &str| {
                url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
            };
            let meant = (id.clone(), secret.clone());
            let plain = format!("{id}:{secret}");
            prop_assert!(readings(&plain).contains(&meant));
            let encoded = format!("{}:{}", encode(&id), encode(&secret));
            prop_assert!(readings(&encoded).contains(&meant));
        }
    }

    #[test]
    fn another_scheme_is_malformed_and_never_nobody() {
        assert!(readings("without a colon").is_empty());
        for value in ["Bearer eDp5", "Basic", "Basic %", "Basic //8="] {
            assert!(ClientBasic::of(&authorized(value)).is_err(), "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), Ok(None));
        assert_eq!(bearer(&authorized("bearer  abc ")), Ok(Some("abc".to_owned())));
        for value in ["Basic eDp5", "abc"] {
            assert_eq!(bearer(&authorized(value)), Err(MalformedAuthorization), "{value}");
        }
    }

    #[test]
    fn of_two_lines_of_authorization_none_counts() {
        let lines = ["Bearer abc", "DPoP abc", "Basic eDp5"];
        for (first, second) in lines.iter().flat_map(|first| lines.map(|second| (first, second))) {
            let mut headers = authorized(first);
            headers.append(header::AUTHORIZATION, second.parse().unwrap());
            assert_eq!(access_token(&headers), Err(MalformedAuthorization), "{first}, {second}");
            assert_eq!(bearer(&headers), Err(MalformedAuthorization), "{first}, {second}");
            assert!(ClientBasic::of(&headers).is_err(), "{first}, {second}");
        }
    }
}

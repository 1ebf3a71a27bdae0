//! Credentials of a reader: bearer token, cookie or WebSocket subprotocol.
//!
//! Never the query string, which ends up in logs.

use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};

use crate::{
    http::{
        AppState, cookies,
        error::Problem,
        extract,
        guesses::{Attempt, Guessed},
        middleware::ClientAddress,
    },
    session::{Digest, SessionId, SessionRef, SessionToken},
    telemetry::Trace,
};

/// Subprotocol of the stream itself.
pub const SUBPROTOCOL: &str = "token-relay.v1";

/// A reader's credentials for the session in the path.
#[derive(Clone, Copy, Debug)]
pub struct Credentials {
    /// Which session.
    pub session: SessionRef,
    /// SHA-256 of the presented session token.
    pub session_token: Option<Digest>,
}

impl FromRequestParts<AppState> for Credentials {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Problem> {
        let path = axum::extract::RawPathParams::from_request_parts(parts, app)
            .await
            .map_err(|_| Problem::SessionNotFound)?;
        let id = path
            .iter()
            .find_map(|(name, value)| (name == "session_id").then_some(value))
            .and_then(|text| SessionId::parse(text).ok())
            .ok_or(Problem::SessionNotFound)?;
        let session = SessionRef::native(id.key());
        if let Some(trace) = parts.extensions.get::<Trace>() {
            trace.adopt(session.key, None);
        }
        if let Some(token) = bearer(&parts.headers)? {
            return Ok(Self { session, session_token: Some(token.digest()) });
        }
        if let Some(token) = subprotocol(&parts.headers)? {
            return Ok(Self { session, session_token: Some(token.digest()) });
        }
        let Some(value) = cookies::get(&parts.headers, &cookies::reader_name(app, session.key))
        else {
            return Ok(Self { session, session_token: None });
        };
        // A cookie is sent along by any page that makes the browser do so, and a WebSocket is not
        // held back by CORS.
        if !app.origin_is_ours_or_allowed(&parts.headers) {
            let origin = parts.headers.get(header::ORIGIN);
            let origin = origin.and_then(|origin| origin.to_str().ok()).unwrap_or_default();
            return Err(app.refuse_origin(origin, None));
        }
        let token = SessionToken::parse(&value).map_err(|_| Problem::ReaderUnauthorized)?;
        Ok(Self { session, session_token: Some(token.digest()) })
    }
}

/// Counts wrong session tokens as guesses. A request without any is none.
pub async fn count_guesses(
    State(app): State<AppState>,
    address: ClientAddress,
    request: Request,
    next: Next,
) -> Response {
    let presented = presented(request.headers());
    let response = next.run(request).await;
    match response.extensions().get::<Problem>() {
        Some(problem @ Problem::ReaderUnauthorized) if presented => {
            let problem = problem.clone();
            let attempt = Attempt::new(&app, Guessed::SessionToken, address, None);
            attempt.wrong(problem).await.into_response()
        }
        _ => response,
    }
}

/// Whether a request has something that may be a session token.
pub fn presented(headers: &HeaderMap) -> bool {
    let has_cookie = |value: &HeaderValue| {
        value.to_str().is_ok_and(|cookies| cookies.contains(cookies::READER_PREFIX))
    };
    headers.contains_key(header::AUTHORIZATION)
        || offered(headers).any(|offer| offer.starts_with("bearer."))
        || headers.get_all(header::COOKIE).iter().any(has_cookie)
}

/// `Authorization: Bearer` (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<SessionToken>, Problem> {
    let token = extract::bearer(headers).map_err(|_| Problem::ReaderUnauthorized)?;
    token
        .map(|token| SessionToken::parse(&token).map_err(|_| Problem::ReaderUnauthorized))
        .transpose()
}

/// `Sec-WebSocket-Protocol: bearer.<session_token>`, which a browser can set where it cannot set
/// `Authorization`.
fn subprotocol(headers: &HeaderMap) -> Result<Option<SessionToken>, Problem> {
    offered(headers)
        .find_map(|offer| offer.strip_prefix("bearer."))
        .map(|token| SessionToken::parse(token).map_err(|_| Problem::ReaderUnauthorized))
        .transpose()
}

/// The subprotocols that the client offers.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offering(text: &str) -> Option<HeaderMap> {
        let value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        Some(HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, value)]))
    }

    fn authorized(text: &str) -> Option<HeaderMap> {
        let value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        Some(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
    }

    proptest! {
        #[test]
        fn the_token_is_found_among_any_subprotocols(
            before in proptest::collection::vec("[a-z][a-z.0-9]{0,6}", 0..3),
            after in proptest::collection::vec("[ -+.-~]{0,9}", 0..3),
            space in " {0,2}",
        ) {
            let token = SessionToken::generate();
            let mut offers = before;
            offers.retain(|offer| !offer.starts_with("bearer."));
            offers.push(format!("bearer.{}", token.expose()));
            offers.extend(after);
            let headers = offering(&offers.join(&format!(",{space}"))).unwrap();
            let found = subprotocol(&headers).ok().flatten();
            prop_assert!(found.is_some_and(|found| found.digest().matches(&token.digest())));
            prop_assert_eq!(bearer(&headers).map(|token| token.is_some()), Ok(false));
        }

        #[test]
        fn what_is_no_token_is_refused_and_never_ignored(text in "[ -~]{0,60}") {
            let fits = SessionToken::parse(text.trim()).is_ok();
            if !text.contains(',') {
                let read = subprotocol(&offering(&format!("bearer.{text}")).unwrap());
                prop_assert_eq!(read.is_ok(), SessionToken::parse(text.trim_end()).is_ok());
            }
            let read = bearer(&authorized(&format!("Bearer {text}")).unwrap());
            prop_assert_eq!(read.is_ok(), fits);
            let basic = authorized(&format!("Basic {text}")).unwrap();
            prop_assert!(bearer(&basic).is_err());
        }

        #[test]
        fn any_header_is_read_without_a_panic(text: String) {
            if let Some(headers) = offering(&text) {
                let _ = subprotocol(&headers);
            }
            if let Some(headers) = authorized(&text) {
                // One that is there is taken or refused.
                prop_assert!(!matches!(bearer(&headers), Ok(None)));
            }
        }
    }
}

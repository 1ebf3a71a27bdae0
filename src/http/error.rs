//! Errors of the native surface in one shape: problem details (RFC 9457).
//!
//! Every handler returns [`Problem`]; nothing in one is secret. The meet-compatible surface has
//! a shape of its own.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{relay::ReadError, session::GoneReason, store::StoreError};

/// What went wrong. The variant decides type, status and title; see the table in the README.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The request cannot be understood; the text says what of it.
    BadRequest(String),
    /// No credentials, or wrong ones, for a bound session.
    ReaderUnauthorized,
    /// A page of a foreign origin used a cookie that is not meant for it.
    OriginRefused,
    /// No such session, or none with an ID of this form.
    SessionNotFound,
    /// The session is over.
    SessionGone(GoneReason),
    /// Legacy sessions are turned off.
    BoundSessionRequired,
    /// No such resource.
    NotFound,
    /// The resource exists, the method does not.
    MethodNotAllowed,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The body is not JSON by its content type.
    UnsupportedMediaType,
    /// This client creates too many sessions.
    TooManySessions(Duration),
    /// This session has too many streams.
    TooManyStreams,
    /// This instance has no room; another may.
    InstanceFull,
    /// This instance shuts down; another is there or will be.
    ShuttingDown,
    /// The store is away.
    StoreUnavailable,
    /// Client credentials of introspection or revocation are missing or wrong.
    ClientUnauthorized,
    /// The service failed in a way that it should not; the reference is in the log.
    Internal,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

impl Problem {
    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as Code;
        match self {
            Self::BadRequest(_) => (Code::BAD_REQUEST, "bad-request", "Bad request"),
            Self::ReaderUnauthorized => {
                (Code::UNAUTHORIZED, "session-token-required", "Session token missing or wrong")
            }
            Self::OriginRefused => (Code::FORBIDDEN, "origin-refused", "Origin not allowed"),
            Self::SessionNotFound => (Code::NOT_FOUND, "session-not-found", "No such session"),
            Self::SessionGone(_) => (Code::GONE, "session-gone", "The session is over"),
            Self::BoundSessionRequired => {
                (Code::FORBIDDEN, "bound-session-required", "Only bound sessions are accepted")
            }
            Self::NotFound => (Code::NOT_FOUND, "not-found", "No such resource"),
            Self::MethodNotAllowed => {
                (Code::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::BodyTooLarge => (Code::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::UnsupportedMediaType => {
                (Code::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Body must be JSON")
            }
            Self::TooManySessions(_) => {
                (Code::TOO_MANY_REQUESTS, "too-many-sessions", "Too many sessions created")
            }
            Self::TooManyStreams => {
                (Code::TOO_MANY_REQUESTS, "too-many-streams", "Too many streams on this session")
            }
            Self::InstanceFull => {
                (Code::SERVICE_UNAVAILABLE, "instance-full", "No room for another stream")
            }
            Self::ShuttingDown => {
                (Code::SERVICE_UNAVAILABLE, "shutting-down", "This instance is shutting down")
            }
            Self::StoreUnavailable => {
                (Code::SERVICE_UNAVAILABLE, "store-unavailable", "The session store is away")
            }
            Self::ClientUnauthorized => {
                (Code::UNAUTHORIZED, "invalid-client", "Client credentials missing or wrong")
            }
            Self::Internal => (Code::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.parts().0
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::BadRequest(detail) => Some(detail.clone()),
            Self::SessionGone(reason) => Some(format!("The session is {}.", reason.as_str())),
            Self::ReaderUnauthorized => Some(
                "Send the session token as `Authorization: Bearer`, as the cookie set at \
                 creation, or as the WebSocket subprotocol `bearer.<token>`."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Why a session is over, as the event streams name it.
    fn error(&self) -> Option<&'static str> {
        match self {
            Self::SessionGone(GoneReason::Acknowledged) => Some("gone"),
            Self::SessionGone(GoneReason::Cancelled) => Some("cancelled"),
            Self::SessionGone(GoneReason::Expired) => Some("expired"),
            Self::SessionGone(GoneReason::Replayed) => Some("transit_token_replayed"),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManySessions(after) => Some(*after),
            Self::TooManyStreams | Self::InstanceFull | Self::StoreUnavailable => {
                Some(Duration::from_secs(5))
            }
            Self::ShuttingDown => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title) = self.parts();
        let body = Body {
            r#type: format!("urn:token-relay:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            error: self.error(),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after() {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        let challenge = match self {
            Self::ReaderUnauthorized => Some("Bearer realm=\"session\", error=\"invalid_token\""),
            Self::ClientUnauthorized => Some("Basic realm=\"token-relay\", charset=\"UTF-8\""),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => {
                tracing::warn!(reason, "session store unavailable");
                Self::StoreUnavailable
            }
            StoreError::Corrupt(reason) => {
                tracing::error!(reason, "session store answered unexpectedly");
                Self::Internal
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        use crate::relay::JoinError;
        match error {
            ReadError::Unknown => Self::SessionNotFound,
            ReadError::Unauthorized => Self::ReaderUnauthorized,
            ReadError::Join(JoinError::InstanceFull) => Self::InstanceFull,
            ReadError::Join(JoinError::SessionFull) => Self::TooManyStreams,
            ReadError::Join(JoinError::Draining) => Self::ShuttingDown,
            ReadError::Store(error) => error.into(),
        }
    }
}

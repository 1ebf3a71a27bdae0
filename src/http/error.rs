//! Errors of every surface as one enum, and their shape on the native surface: problem details
//! (RFC 9457). The OAuth endpoints and the meet-compatible surface render the same enum in theirs.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use utoipa::{
    IntoResponses,
    openapi::{
        ContentBuilder, Ref, RefOr, Response as DescribedResponse, ResponseBuilder,
        example::ExampleBuilder,
    },
};

use crate::{
    api::ProblemDetails,
    relay::ReadError,
    session::{Failure, GoneReason},
    store::StoreError,
    token::{InvalidProof, dpop},
};

/// Media type of problem details.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Retry interval where the cause is not a rate limit.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// Declares each problem once: variant, payload, status, name in `type`, title.
macro_rules! problems {
    ($($(#[doc = $meaning:literal])+
        $name:ident $(($payload:ty))? = $status:ident, $slug:literal, $title:literal;)+) => {
        /// Why a request is refused; nothing in it is secret.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Problem {
            $($(#[doc = $meaning])+ #[error($title)] $name $(($payload))?,)+
        }

        /// A problem without its particulars: what `type` names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ProblemType {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Problem {
            /// Its type.
            pub fn r#type(&self) -> ProblemType {
                match self {
                    $(Self::$name { .. } => ProblemType::$name,)+
                }
            }
        }

        impl ProblemType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its HTTP status.
            pub fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)+
                }
            }

            /// Last part of `type`; stable.
            pub fn slug(self) -> &'static str {
                match self {
                    $(Self::$name => $slug,)+
                }
            }

            /// The same for every problem of this type.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)+
                }
            }

            /// When it is answered.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+).trim_ascii(),)+
                }
            }
        }
    };
}

problems! {
    /// The request cannot be understood; `detail` says what of it.
    BadRequest(String) = BAD_REQUEST, "bad-request", "Bad request";
    /// The session token of a bound session is missing or wrong.
    ReaderUnauthorized = UNAUTHORIZED, "session-token-required", "Session token missing or wrong";
    /// A page of this origin may not do this; `detail` names the setting that would allow it.
    OriginRefused(String) = FORBIDDEN, "origin-refused", "Origin not allowed";
    /// Clients are registered, and the request names none, or one that is not.
    UnknownClient = BAD_REQUEST, "unknown-client", "Unknown client";
    /// The client may not have the scope that it requests (RFC 6749 §5.2).
    InvalidScope(String) = BAD_REQUEST, "invalid-scope", "Scope not allowed";
    /// There is no such session.
    SessionNotFound = NOT_FOUND, "session-not-found", "No such session";
    /// The session has its result already, or a browser is signing in to it.
    SessionNotPending = CONFLICT, "session-not-pending", "The session is not pending";
    /// The transit token has expired; the session has not.
    TransitTokenExpired = GONE, "transit-token-expired", "The transit token has expired";
    /// The session has ended; `error` says why.
    SessionGone(GoneReason) = GONE, "session-gone", "The session is over";
    /// Legacy sessions are off.
    BoundSessionRequired = FORBIDDEN, "bound-session-required", "Only bound sessions are accepted";
    /// There is no such resource.
    NotFound = NOT_FOUND, "not-found", "No such resource";
    /// The resource does not answer this method; `Allow` lists those that it does.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed";
    /// The body is larger than `MAX_BODY`.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "Body too large";
    /// The body is not of the expected media type.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type";
    /// The body has a transfer coding other than `chunked` (RFC 9112 §6.1).
    TransferCoding = NOT_IMPLEMENTED, "transfer-coding", "Transfer coding not supported";
    /// The WebSocket protocol's version is not 13 (RFC 6455 §4.4).
    WebSocketVersion = UPGRADE_REQUIRED, "websocket-version", "WebSocket version not supported";
    /// This client address created too many sessions.
    TooManySessions(Duration) = TOO_MANY_REQUESTS, "too-many-sessions", "Too many sessions created";
    /// This client address presented too many wrong secrets.
    TooManyGuesses(Duration) = TOO_MANY_REQUESTS, "too-many-guesses", "Too many failed attempts";
    /// The session has too many streams.
    TooManyStreams = TOO_MANY_REQUESTS, "too-many-streams", "Too many streams on this session";
    /// This instance has no room for another stream.
    InstanceFull = SERVICE_UNAVAILABLE, "instance-full", "No room for another stream";
    /// This instance is shutting down.
    ShuttingDown = SERVICE_UNAVAILABLE, "shutting-down", "This instance is shutting down";
    /// The session store is unavailable.
    StoreUnavailable = SERVICE_UNAVAILABLE, "store-unavailable", "The session store is unavailable";
    /// The claims hook is unavailable, so that it cannot be decided who may have a token.
    HookUnavailable = SERVICE_UNAVAILABLE, "hook-unavailable", "The claims hook is unavailable";
    /// The access token is missing, malformed, expired or revoked (RFC 6750 §3.1).
    InvalidToken(Option<String>) = UNAUTHORIZED, "invalid-token", "Access token missing or not valid";
    /// Client credentials are missing or wrong.
    InvalidClient = UNAUTHORIZED, "invalid-client", "Client credentials missing or wrong";
    /// The client may not do this; `detail` names the setting that would allow it (RFC 6749 §5.2).
    UnauthorizedClient(String) = BAD_REQUEST, "unauthorized-client", "The client may not do this";
    /// The DPoP proof is missing or not valid; `detail` says why (RFC 9449 §5).
    InvalidDpopProof(String) = BAD_REQUEST, "invalid-dpop-proof", "DPoP proof missing or not valid";
    /// The DPoP proof needs the nonce that the answer carries as `DPoP-Nonce` (RFC 9449 §8).
    UseDpopNonce = BAD_REQUEST, "use-dpop-nonce", "DPoP proof without a valid nonce";
    /// The access token is bound to a key, and the request proves no possession of it (RFC 9449 §7.1).
    ProofRequired(InvalidProof) = UNAUTHORIZED, "proof-required", "Access token without a valid DPoP proof";
    /// The grant presented is not valid (RFC 6749 §5.2).
    InvalidGrant(String) = BAD_REQUEST, "invalid-grant", "Grant not valid";
    /// The person has not decided yet (RFC 8628 §3.5).
    AuthorizationPending = BAD_REQUEST, "authorization-pending", "The person has not decided yet";
    /// The person has not decided yet, and the client polls too often (RFC 8628 §3.5).
    SlowDown(Duration) = BAD_REQUEST, "slow-down", "Polled too often";
    /// The device code has expired (RFC 8628 §3.5).
    ExpiredToken = BAD_REQUEST, "expired-token", "The device code has expired";
    /// The sign-in failed, or was refused by the person or the provider.
    SignInFailed(Failure) = BAD_REQUEST, "sign-in-failed", "The sign-in failed";
    /// The token endpoint has no such grant type.
    UnsupportedGrantType = BAD_REQUEST, "unsupported-grant-type", "Grant type not supported";
    /// The service failed; its log says why.
    Internal = INTERNAL_SERVER_ERROR, "internal", "Internal error";
}

impl ProblemType {
    /// The URI in `type`.
    pub fn uri(self) -> String {
        format!("urn:token-relay:problem:{}", self.slug())
    }
}

impl Problem {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.r#type().status()
    }

    /// What is wrong with this request, for developers.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::BadRequest(detail)
            | Self::InvalidGrant(detail)
            | Self::InvalidDpopProof(detail)
            | Self::OriginRefused(detail)
            | Self::UnauthorizedClient(detail)
            | Self::InvalidScope(detail) => Some(detail.clone()),
            Self::UseDpopNonce => Some(InvalidProof::Nonce.to_string()),
            Self::ProofRequired(reason) => Some(reason.to_string()),
            Self::AuthorizationPending => Some(
                "Poll again after `interval`, or wait at `events_url` for the token.".to_owned(),
            ),
            Self::SlowDown(interval) => {
                Some(format!("From now on, wait {} s between two polls.", interval.as_secs()))
            }
            Self::ExpiredToken => Some("Begin the sign-in again.".to_owned()),
            Self::SignInFailed(failure) => Some(failure.error_description.clone()),
            Self::UnknownClient => Some(
                "Send the `client_id` of a client that the relay's operator has registered."
                    .to_owned(),
            ),
            Self::SessionGone(reason) => Some(format!("The session is {}.", reason.as_str())),
            Self::ReaderUnauthorized => Some(
                "Send the session token as `Authorization: Bearer`, as the cookie set at \
                 creation, or as the WebSocket subprotocol `bearer.<token>`."
                    .to_owned(),
            ),
            Self::BoundSessionRequired => Some(
                "Send `\"bind\": true`. The operator can allow sessions without a session token \
                 with `LEGACY_SESSIONS`."
                    .to_owned(),
            ),
            Self::InvalidToken(detail) => {
                Some(detail.clone().unwrap_or_else(|| "A bearer token is required.".to_owned()))
            }
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
            Self::TooManySessions(after) | Self::TooManyGuesses(after) => Some(*after),
            Self::TooManyStreams
            | Self::InstanceFull
            | Self::StoreUnavailable
            | Self::HookUnavailable => Some(RETRY_LATER),
            Self::ShuttingDown => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// `Retry-After` in seconds (RFC 9110 §10.2.3).
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let after = self.retry_after()?;
        Some((after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1))
    }

    /// `WWW-Authenticate` (RFC 9110 §11.6.1).
    fn challenge(&self) -> Option<HeaderValue> {
        let fixed = match self {
            Self::ReaderUnauthorized => "Bearer realm=\"session\", error=\"invalid_token\"",
            Self::InvalidClient => "Basic realm=\"token-relay\", charset=\"UTF-8\"",
            // Without credentials there is no error to name (RFC 6750 §3.1).
            Self::InvalidToken(None) => "Bearer realm=\"addons\"",
            Self::InvalidToken(Some(description)) => {
                let challenge = format!(
                    "Bearer realm=\"addons\", error=\"invalid_token\", \
                     error_description=\"{description}\""
                );
                return HeaderValue::from_str(&challenge).ok();
            }
            Self::ProofRequired(reason) => {
                let error = match reason {
                    InvalidProof::Nonce => "use_dpop_nonce",
                    // The scheme is another, so there is no proof to find fault with.
                    InvalidProof::Missing => "invalid_token",
                    _ => "invalid_dpop_proof",
                };
                let challenge = format!(
                    "DPoP realm=\"addons\", error=\"{error}\", error_description=\"{reason}\", {}",
                    dpop::supported()
                );
                return HeaderValue::from_str(&challenge).ok();
            }
            _ => return None,
        };
        Some(HeaderValue::from_static(fixed))
    }

    /// Problem details.
    pub fn details(&self) -> ProblemDetails {
        let kind = self.r#type();
        ProblemDetails {
            r#type: kind.uri(),
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: self.detail(),
            error: self.error().map(str::to_owned),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.details())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::WebSocketVersion = self {
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // For the surfaces that render it in a shape of their own.
        response.extensions_mut().insert(self);
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

/// The problems that an endpoint may answer, for its description; `TYPES` is made by [`types`].
///
/// Besides them, every endpoint may answer [`Problem::Internal`].
pub struct Problems<const TYPES: u64>;

/// A set of types, for [`Problems`].
pub const fn types(types: &[ProblemType]) -> u64 {
    let (mut set, mut index) = (0, 0);
    while index < types.len() {
        set |= 1 << types[index] as u64;
        index += 1;
    }
    set
}

impl<const TYPES: u64> IntoResponses for Problems<TYPES> {
    fn responses() -> BTreeMap<String, RefOr<DescribedResponse>> {
        let set = TYPES | types(&[ProblemType::Internal]);
        let mut by_status = BTreeMap::<u16, Vec<ProblemType>>::new();
        for kind in ProblemType::ALL.iter().filter(|kind| set & types(&[**kind]) != 0) {
            by_status.entry(kind.status().as_u16()).or_default().push(*kind);
        }
        let describe = |(status, kinds): (u16, Vec<ProblemType>)| {
            let meanings = kinds.iter().map(|kind| kind.meaning()).collect::<Vec<_>>().join(" ");
            let schema = Ref::from_schema_name("ProblemDetails");
            let content = kinds.iter().fold(ContentBuilder::new().schema(Some(schema)), example);
            let response = ResponseBuilder::new()
                .description(meanings)
                .content(PROBLEM_JSON, content.build())
                .build();
            (status.to_string(), response.into())
        };
        by_status.into_iter().map(describe).collect()
    }
}

fn example(content: ContentBuilder, kind: &ProblemType) -> ContentBuilder {
    let value = json!({
        "type": kind.uri(),
        "title": kind.title(),
        "status": kind.status().as_u16(),
    });
    let example = ExampleBuilder::new().summary(kind.meaning()).value(Some(value)).build();
    content.examples_from_iter([(kind.slug(), example)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn problem_types_have_names_of_their_own_and_fit_a_set() {
        let slugs: BTreeSet<_> = ProblemType::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemType::ALL.len());
        assert!(ProblemType::ALL.len() <= 64);
    }

    #[test]
    fn an_endpoint_describes_each_status_once_with_every_type_of_it() {
        type Two = Problems<{ types(&[ProblemType::SessionNotFound, ProblemType::NotFound]) }>;
        let responses = Two::responses();
        assert_eq!(responses.keys().collect::<Vec<_>>(), ["404", "500"]);
        let RefOr::T(response) = &responses["404"] else { panic!("a reference") };
        let RefOr::T(content) = &response.content[PROBLEM_JSON] else { panic!("a reference") };
        assert_eq!(content.examples.len(), 2);
    }
}

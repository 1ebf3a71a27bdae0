//! `GET /addons/sessions/{id}`: the long poll, which answers at once or waits for up to a minute.
//!
//! For legacy clients, and for networks that let no stream through.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    api::{
        messages::{PollAnswer, Waiting},
        paths,
    },
    http::{
        AppState, HalfClose,
        addons::streams::{self, Credentials, Encoder, StreamMessage, Transport, Wait},
        error::{
            Problem,
            ProblemType::{
                BadRequest, InstanceFull, OriginRefused, ReaderUnauthorized, SessionGone,
                SessionNotFound, ShuttingDown, StoreUnavailable, TooManyGuesses, TooManyStreams,
            },
            Problems, types,
        },
        extract::Query,
        handover, openapi_tags,
        operator::metrics::Reconnect,
    },
    relay::{Delivery, Handover},
    session::{GoneReason, Outcome, SessionKey},
    telemetry::Trace,
};

/// Maximum wait, in seconds.
pub const MAX_WAIT: u64 = 60;

/// Query of the long poll.
#[derive(Debug, Deserialize)]
pub struct PollQuery {
    wait: Option<String>,
}

/// How long to wait, from `?wait=` or `Prefer: wait=` (RFC 7240 §4.3); the query wins.
fn wait(query: &PollQuery, headers: &HeaderMap) -> Result<(u64, bool), Problem> {
    if let Some(text) = &query.wait {
        return match whole_number(text) {
            Some(seconds) if seconds <= MAX_WAIT => Ok((seconds, false)),
            _ => Err(Problem::BadRequest(format!(
                "`wait` is a whole number of seconds from 0 to {MAX_WAIT}."
            ))),
        };
    }
    Ok(preferred_wait(headers).map_or((0, false), |seconds| (seconds.min(MAX_WAIT), true)))
}

/// The seconds of `Prefer: wait=N`. A preference that cannot be understood is ignored (RFC 7240 §2).
pub fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split(';').next()?.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, value)| whole_number(value.trim().trim_matches('"')))
}

/// Digits only: the standard library would take a sign as well.
fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A poll.
pub struct LongPoll {
    timeout: Duration,
    /// Whether the timeout comes from `Prefer`.
    preferred: bool,
    half_close: HalfClose,
}

impl LongPoll {
    /// The answer to an outcome, or to none within the timeout.
    fn answer(
        &self,
        encoder: &Encoder,
        session: SessionKey,
        settled: Option<(Outcome, Handover)>,
    ) -> Result<Response, Problem> {
        let (outcome, handover) = settled.unzip();
        let mut response = match outcome {
            None | Some(Outcome::Draining) => Self::heartbeat(),
            // A newer poll waits: this one has nothing to return.
            Some(Outcome::Superseded) => {
                encoder.app().metrics.stream_reconnected(Reconnect::NewestReader);
                Self::heartbeat()
            }
            Some(Outcome::Gone(reason)) => return Err(Problem::SessionGone(reason)),
            Some(Outcome::WrittenDirectly) => {
                return Err(Problem::SessionGone(GoneReason::Acknowledged));
            }
            Some(outcome) => Self::message(session, &encoder.message(session, outcome)),
        };
        if self.preferred
            && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", self.timeout.as_secs()))
        {
            response.headers_mut().insert("preference-applied", applied);
        }
        Ok(handover::completing(response, handover.unwrap_or_default(), &self.half_close))
    }
}

impl Transport for LongPoll {
    const NAME: &'static str = "LongPoll";

    type Frame = Response;

    async fn accept(self, mut wait: Wait) -> Result<Response, Problem> {
        let (encoder, session) = (wait.encoder(), wait.session().key);
        let deadline = Instant::now() + self.timeout;
        let settled = async {
            let outcome = tokio::time::timeout_at(deadline, wait.outcome()).await.ok()?;
            let handover = wait.take_handover();
            drop(wait);
            if outcome == Outcome::Superseded {
                // Answered at once, a client would poll again and supersede the newer one in turn.
                tokio::time::sleep_until(deadline).await;
            }
            Some((outcome, handover))
        };
        let settled = tokio::select! {
            biased;
            settled = settled => settled,
            // The client may be gone, and a token for nobody would be lost.
            () = self.half_close.wait() => None,
        };
        self.answer(&encoder, session, settled)
    }

    fn heartbeat() -> Response {
        json(StatusCode::ACCEPTED, r#"{"state":"pending"}"#.to_owned())
    }

    fn message(_: SessionKey, message: &StreamMessage) -> Response {
        json(StatusCode::OK, message.to_json(false))
    }

    async fn answer_now(
        &self,
        app: &AppState,
        credentials: Credentials,
        trace: &Trace,
    ) -> Result<Option<Response>, Problem> {
        if !self.timeout.is_zero() {
            return Ok(None);
        }
        let Credentials { session, session_token } = credentials;
        let relay = app.relay.in_trace(trace);
        let settled = relay.poll(session, session_token, Self::delivery(credentials)).await?;
        let encoder = Encoder::new(app.clone(), trace.link());
        self.answer(&encoder, session.key, settled).map(Some)
    }

    fn delivery(credentials: Credentials) -> Delivery {
        match credentials.session_token {
            // Clients of legacy sessions expect that a poll delivers once.
            None => Delivery::Once,
            Some(_) => Delivery::UntilAcknowledged,
        }
    }
}

/// Long poll for the token
#[utoipa::path(
    get,
    path = paths::SESSION,
    tag = openapi_tags::ADD_IN,
    params(
        ("session_id" = String, Path, description = "The session."),
        (
            "wait" = Option<u64>, Query, minimum = 0, maximum = 60, example = 25,
            description = "Maximum wait in seconds; 0 by default.",
        ),
        ("Prefer" = Option<String>, Header, description = "`wait=N` (RFC 7240 §4.3), instead."),
    ),
    security((), ("session_token" = [])),
    responses(
        (status = 200, description = "The sign-in has ended.", body = PollAnswer),
        (status = 202, description = "The sign-in has not ended.", body = Waiting),
        Problems<{
            types(&[
                BadRequest, ReaderUnauthorized, OriginRefused, SessionNotFound, SessionGone,
                TooManyGuesses, TooManyStreams, InstanceFull, ShuttingDown, StoreUnavailable,
            ])
        }>,
    ),
)]
pub async fn poll(
    State(app): State<AppState>,
    credentials: Credentials,
    Query(query): Query<PollQuery>,
    trace: Trace,
    half_close: HalfClose,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (seconds, preferred) = wait(&query, &headers)?;
    let poll = LongPoll { timeout: Duration::from_secs(seconds), preferred, half_close };
    streams::serve(app, Ok(credentials), poll, &trace).await
}

/// A JSON answer that no cache stores.
fn json(status: StatusCode, body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefer(value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", HeaderValue::from_str(value).unwrap());
        preferred_wait(&headers)
    }

    #[test]
    fn prefer_wait_is_read_as_rfc_7240_writes_it() {
        assert_eq!(prefer("wait=10"), Some(10));
        assert_eq!(prefer("respond-async, Wait = \"7\""), Some(7));
        assert_eq!(prefer("wait=5; foo=bar"), Some(5));
        assert_eq!(prefer("wait=soon"), None);
        assert_eq!(prefer("handling=lenient"), None);
    }

    #[test]
    fn the_query_is_strict_and_the_preference_is_capped() {
        let query = |text: &str| PollQuery { wait: Some(text.to_owned()) };
        let none = HeaderMap::new();
        assert_eq!(wait(&query("60"), &none), Ok((60, false)));
        for text in ["61", "-1", "1.5", "", "a"] {
            assert!(wait(&query(text), &none).is_err(), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("prefer", HeaderValue::from_static("wait=3600"));
        assert_eq!(wait(&PollQuery { wait: None }, &headers), Ok((60, true)));
    }

    proptest! {
        #[test]
        fn a_wait_of_the_query_is_digits_up_to_the_maximum(
            text in prop_oneof!["[0-9]{0,3}", "[-+ 0-9.e]{0,4}", any::<String>()],
        ) {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let expected = digits.then(|| text.parse::<u64>().ok()).flatten();
            let read = wait(&PollQuery { wait: Some(text) }, &HeaderMap::new());
            match expected.filter(|seconds| *seconds <= MAX_WAIT) {
                Some(seconds) => prop_assert_eq!(read, Ok((seconds, false))),
                None => prop_assert!(read.is_err()),
            }
        }

        #[test]
        fn no_preference_makes_a_poll_fail_or_wait_longer(
            text in prop_oneof!["(wait|Wait|x)( ?= ?\"?[-+0-9]{0,22}\"?)?(;|,)?.{0,9}", any::<String>()],
        ) {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                let headers = HeaderMap::from_iter([("prefer".parse().unwrap(), value)]);
                let read = wait(&PollQuery { wait: None }, &headers);
                prop_assert!(read.is_ok_and(|(seconds, _)| seconds <= MAX_WAIT));
            }
        }

        #[test]
        fn the_first_wait_counts(
            other in "[a-z]{1,3}(=[a-z0-9]{1,5})?", seconds in 0_u64..=MAX_WAIT, second: u32,
        ) {
            let value = format!("{other}, wait={seconds}; {other}, wait={second}");
            prop_assert_eq!(prefer(&value), Some(seconds));
        }
    }
}

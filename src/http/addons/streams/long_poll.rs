//! `GET /addons/sessions/{id}`: answers at once, or waits up to a minute (legacy clients and
//! networks that let nothing else through).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    api::{
        messages::{Ended, Waiting},
        paths,
    },
    http::{
        AppState, SendingEnded, Transport,
        addons::streams::{StreamMessage, credentials::Credentials},
        error::{
            Problem,
            ProblemType::{
                BadRequest, InstanceFull, OriginRefused, ReaderUnauthorized, SessionGone,
                SessionNotFound, ShuttingDown, StoreUnavailable, TooManyGuesses, TooManyStreams,
            },
            Problems, types,
        },
        extract::Query,
        operator::metrics::Reconnect,
        tags,
    },
    relay::{Delivery, Subscription},
    session::{GoneReason, Outcome},
    telemetry::Trace,
};

const LONGEST_WAIT: u64 = 60;

/// Query of the long poll.
#[derive(Debug, Deserialize)]
pub struct PollQuery {
    wait: Option<String>,
}

/// How long to wait, from `?wait=` or `Prefer: wait=` (RFC 7240 §4.3); the query wins.
fn wait(query: &PollQuery, headers: &HeaderMap) -> Result<(u64, bool), Problem> {
    if let Some(text) = &query.wait {
        return match whole_number(text) {
            Some(seconds) if seconds <= LONGEST_WAIT => Ok((seconds, false)),
            _ => Err(Problem::BadRequest(format!(
                "`wait` is a whole number of seconds from 0 to {LONGEST_WAIT}."
            ))),
        };
    }
    Ok(preferred_wait(headers).map_or((0, false), |seconds| (seconds.min(LONGEST_WAIT), true)))
}

/// A preference that cannot be understood is ignored (RFC 7240 §2).
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
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

/// Long poll for the token
#[utoipa::path(
    get,
    path = paths::SESSION,
    tag = tags::ADD_IN,
    params(
        ("session_id" = String, Path, description = "The session."),
        (
            "wait" = Option<u64>, Query, minimum = 0, maximum = 60,
            description = "Maximum wait in seconds; 0 by default.",
        ),
        ("Prefer" = Option<String>, Header, description = "`wait=N` (RFC 7240 §4.3), instead."),
    ),
    security((), ("session_token" = [])),
    responses(
        (status = 200, description = "The sign-in has ended.", body = Ended),
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
    sending_ended: Option<Extension<SendingEnded>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (seconds, preferred) = wait(&query, &headers)?;
    let Credentials { session, session_token } = credentials;
    // Clients of legacy sessions expect that a poll delivers once.
    let delivery = match session_token {
        None => Delivery::Once,
        Some(_) => Delivery::UntilAcknowledged,
    };
    let relay = app.relay.in_trace(&trace);
    let outcome = if seconds == 0 {
        relay.poll(session, session_token, delivery).await?
    } else {
        let subscription = relay.open(session, session_token, delivery).await?;
        let _open = app.metrics.stream_opened(Transport::LongPoll);
        tokio::select! {
            biased;
            outcome = settle(subscription, Duration::from_secs(seconds)) => outcome,
            // It may be gone, and a token for nobody would be lost.
            () = sending_side_ends(sending_ended) => None,
        }
    };
    let mut response = match outcome {
        Some(outcome) => answer(&app, session.key, outcome, &trace)?,
        None => pending(),
    };
    if preferred {
        let applied = HeaderValue::from_str(&format!("wait={seconds}"));
        if let Ok(applied) = applied {
            response.headers_mut().insert("preference-applied", applied);
        }
    }
    Ok(response)
}

async fn sending_side_ends(sending_ended: Option<Extension<SendingEnded>>) {
    match sending_ended {
        Some(Extension(sending_ended)) => sending_ended.wait().await,
        None => std::future::pending().await,
    }
}

/// The outcome, or `None` when there is none within `timeout`.
pub async fn settle(mut subscription: Subscription, timeout: Duration) -> Option<Outcome> {
    let deadline = Instant::now() + timeout;
    let outcome = tokio::time::timeout_at(deadline, subscription.outcome()).await.ok();
    if outcome == Some(Outcome::Superseded) {
        // Answered at once, a client would poll again and supersede the newer one in turn.
        drop(subscription);
        tokio::time::sleep_until(deadline).await;
    }
    outcome
}

fn answer(
    app: &Arc<crate::http::App>,
    key: crate::session::SessionKey,
    outcome: Outcome,
    trace: &Trace,
) -> Result<Response, Problem> {
    match outcome {
        Outcome::Gone(reason) => Err(Problem::SessionGone(reason)),
        // A newer poll waits, or another instance will answer: this one has nothing.
        Outcome::Superseded => {
            app.metrics.stream_reconnected(Reconnect::NewestReader);
            Ok(pending())
        }
        Outcome::Draining => Ok(pending()),
        outcome => {
            let told = StreamMessage::from_outcome(app, key, outcome, &trace.link());
            if let StreamMessage::Expired | StreamMessage::Nothing = told {
                return Err(Problem::SessionGone(GoneReason::Expired));
            }
            Ok(json(StatusCode::OK, told.to_json(false)))
        }
    }
}

/// 202: nothing yet.
pub fn pending() -> Response {
    json(StatusCode::ACCEPTED, r#"{"state":"pending"}"#.to_owned())
}

/// A JSON answer that no cache keeps.
pub fn json(status: StatusCode, body: String) -> Response {
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
        fn a_wait_of_the_query_is_digits_up_to_the_longest(
            text in prop_oneof!["[0-9]{0,3}", "[-+ 0-9.e]{0,4}", any::<String>()],
        ) {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let expected = digits.then(|| text.parse::<u64>().ok()).flatten();
            let read = wait(&PollQuery { wait: Some(text) }, &HeaderMap::new());
            match expected.filter(|seconds| *seconds <= LONGEST_WAIT) {
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
                prop_assert!(read.is_ok_and(|(seconds, _)| seconds <= LONGEST_WAIT));
            }
        }

        #[test]
        fn the_first_wait_counts(
            other in "[a-z]{1,3}(=[a-z0-9]{1,5})?", seconds in 0_u64..=LONGEST_WAIT, second: u32,
        ) {
            let value = format!("{other}, wait={seconds}; {other}, wait={second}");
            prop_assert_eq!(prefer(&value), Some(seconds));
        }
    }
}

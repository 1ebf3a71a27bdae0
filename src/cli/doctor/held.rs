//! What is held open: a stream, a WebSocket and a long poll, and when their bytes arrive.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::{StatusCode, header};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Doctor, Fault, Session, TIMEOUT, chain};
use crate::{api::paths, oidc::Severity};

/// Subprotocol of the WebSocket.
const SUBPROTOCOL: &str = "token-relay.v1";

/// Maximum size of what a held connection may carry, in bytes; heartbeats have a few.
const MAX_HELD: usize = 64 * 1024;

/// Maximum duration of a long poll.
const MAX_POLL: Duration = Duration::from_secs(60);

/// How a held stream or WebSocket fared.
pub(super) enum Held {
    /// It opened at once, stayed and delivered the outcome at once, after so many heartbeats.
    Well(usize),
    /// It opened, but what was sent at once did not arrive at once.
    Late(String),
    /// It is compressed.
    Compressed(String),
    /// It could not be opened.
    Refused(String),
    /// It ended after so long, before the session did.
    Cut(Duration),
    /// It opened and stayed, but the session could not be cancelled.
    NotCancelled(String),
}

/// How a long poll fared.
pub(super) enum Polled {
    /// It was answered by the relay.
    Well,
    /// It was answered by somebody else, or broken off, after so long.
    Cut(Duration, String),
}

impl Doctor {
    /// Opens the event stream of a session, holds it, and cancels the session.
    pub(super) async fn hold_stream(&self, session: &Session) -> Held {
        let path = paths::of_session(paths::SESSION_EVENTS, session.id.expose());
        let request = self
            .http
            .get(self.url(&path))
            .header(header::ACCEPT, "text/event-stream")
            // As browsers do: a proxy that compresses does it then.
            .header(header::ACCEPT_ENCODING, "gzip, deflate, br, zstd")
            .bearer_auth(session.token.expose());
        let late = |what: &str| {
            Held::Late(format!("{what} within {}", humantime::format_duration(TIMEOUT)))
        };
        let mut answer = match timeout(TIMEOUT, request.send()).await {
            Err(_) => return late("the head of an event stream does not arrive"),
            Ok(Err(error)) => return Held::Refused(chain(&error)),
            Ok(Ok(answer)) => answer,
        };
        if answer.status() != StatusCode::OK {
            return Held::Refused(format!("the event stream is answered {}", answer.status()));
        }
        if let Some(encoding) = answer.headers().get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Held::Compressed(String::from_utf8_lossy(encoding.as_bytes()).into_owned());
        }
        let opened = Instant::now();
        match timeout(TIMEOUT, answer.chunk()).await {
            Err(_) => return late("the first bytes of an event stream do not arrive"),
            Ok(Err(_) | Ok(None)) => return Held::Cut(opened.elapsed()),
            Ok(Ok(Some(_))) => {}
        }
        // Comments, which are heartbeats, until the time is over.
        let (mut size, mut heartbeats) = (0, 0);
        let held = timeout(self.wait, async {
            while let Ok(Some(chunk)) = answer.chunk().await {
                size += chunk.len();
                heartbeats += 1;
                if size > MAX_HELD {
                    break;
                }
            }
        });
        if held.await.is_ok() {
            return Held::Cut(opened.elapsed());
        }
        let outcome = async {
            let mut bytes = Vec::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                bytes.extend_from_slice(&chunk);
                if bytes.windows(6).any(|part| part == b"event:") {
                    return true;
                }
                if bytes.len() > MAX_HELD {
                    break;
                }
            }
            false
        };
        let (ended, outcome) = tokio::join!(self.end(session), timeout(TIMEOUT, outcome));
        if let Err(how) = ended {
            return Held::NotCancelled(how);
        }
        match outcome {
            Ok(true) => Held::Well(heartbeats),
            Ok(false) => Held::Cut(opened.elapsed()),
            Err(_) => late("the outcome of a session does not arrive on its stream"),
        }
    }

    /// Opens the WebSocket of a session, holds it, and cancels the session.
    pub(super) async fn hold_websocket(&self, session: &Session) -> Held {
        let path = paths::of_session(paths::SESSION_WEBSOCKET, session.id.expose());
        let key = generate_key();
        let request = self
            .http1
            .get(self.url(&path))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
            .bearer_auth(session.token.expose());
        let answer = match timeout(TIMEOUT, request.send()).await {
            Err(_) => return Held::Refused("the handshake is not answered".to_owned()),
            Ok(Err(error)) => return Held::Refused(chain(&error)),
            Ok(Ok(answer)) => answer,
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Held::Refused(format!("the handshake is answered {}", answer.status()));
        }
        let accept = answer.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accept.is_none_or(|accept| accept != derive_accept_key(key.as_bytes()).as_str()) {
            return Held::Refused("the handshake has a wrong Sec-WebSocket-Accept".to_owned());
        }
        let upgraded = match timeout(TIMEOUT, answer.upgrade()).await {
            Ok(Ok(upgraded)) => upgraded,
            _ => return Held::Refused("the connection is not upgraded".to_owned()),
        };
        let opened = Instant::now();
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_HELD))
            .max_frame_size(Some(MAX_HELD));
        let mut socket =
            WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(limits)).await;
        let mut heartbeats = 0;
        let held = timeout(self.wait, async {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Close(_) | Message::Text(_) => break,
                    Message::Ping(_) => heartbeats += 1,
                    _ => {}
                }
            }
        });
        if held.await.is_ok() {
            return Held::Cut(opened.elapsed());
        }
        let outcome = async {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Text(_) => return true,
                    Message::Close(_) => return false,
                    _ => {}
                }
            }
            false
        };
        let (ended, outcome) = tokio::join!(self.end(session), timeout(TIMEOUT, outcome));
        if let Err(how) = ended {
            return Held::NotCancelled(how);
        }
        match outcome {
            Ok(true) => Held::Well(heartbeats),
            Ok(false) => Held::Cut(opened.elapsed()),
            Err(_) => Held::Late(format!(
                "the outcome of a session does not arrive on its WebSocket within {}",
                humantime::format_duration(TIMEOUT)
            )),
        }
    }

    /// Polls a session that does not end.
    pub(super) async fn hold_poll(&self, session: &Session) -> Polled {
        let wait = self.wait.min(MAX_POLL);
        let path = paths::of_session(paths::SESSION, session.id.expose());
        let request = self
            .http
            .get(format!("{}?wait={}", self.url(&path), wait.as_secs()))
            .bearer_auth(session.token.expose());
        let begun = Instant::now();
        let answer = tokio::select! {
            answer = request.send() => answer,
            () = sleep(wait + TIMEOUT) => {
                return Polled::Cut(begun.elapsed(), "it is not answered".to_owned());
            }
        };
        match answer {
            Ok(answer) if answer.status().is_success() => Polled::Well,
            Ok(answer) => {
                Polled::Cut(begun.elapsed(), format!("it is answered {}", answer.status()))
            }
            Err(error) => Polled::Cut(begun.elapsed(), chain(&error)),
        }
    }

    /// Some proxies pass on the first bytes and hold back what follows. A WebSocket is a tunnel, so
    /// that its heartbeats say how many the stream should have had.
    fn report_heartbeats(&mut self, of_stream: usize, websocket: &Held) {
        let wait = humantime::format_duration(self.wait);
        match websocket {
            Held::Well(expected @ 2..) if of_stream == 0 => {
                let text = format!(
                    "event streams are buffered: of {expected} heartbeats within {wait} none arrives"
                );
                self.fault(Severity::Error, "buffering", Fault::Buffering, &text);
            }
            _ if of_stream == 0 && self.wait >= MAX_POLL => {
                let text = format!(
                    "no heartbeat of an event stream arrives within {wait}: it is buffered, unless \
                     HEARTBEAT is longer"
                );
                self.fault(Severity::Warning, "buffering", Fault::Buffering, &text);
            }
            _ => self.note("buffering", "an event stream opens, stays and delivers at once"),
        }
    }

    pub(super) fn report_stream(&mut self, held: Held, websocket: &Held) {
        let check = "buffering";
        match held {
            Held::Well(heartbeats) => self.report_heartbeats(heartbeats, websocket),
            Held::Late(text) => {
                let text = format!("{text}: event streams are buffered, so that no token arrives");
                self.fault(Severity::Error, check, Fault::Buffering, &text);
            }
            Held::Compressed(encoding) => {
                let text = format!(
                    "event streams are compressed ({encoding}): compression holds events back, and \
                     their size reveals what they contain"
                );
                self.fault(Severity::Error, "compression", Fault::Compression, &text);
            }
            Held::Refused(text) => {
                self.found.push(super::finding(Severity::Error, check, text));
            }
            Held::NotCancelled(text) => {
                self.fault(Severity::Warning, "methods", Fault::Methods, &text);
            }
            Held::Cut(after) => {
                let text = format!("an event stream is cut after {}", rounded(after));
                self.fault(Severity::Error, "idle", Fault::IdleTimeout, &text);
            }
        }
    }

    pub(super) fn report_websocket(&mut self, held: Held, are_streams_buffered: bool) {
        let check = "websocket";
        match held {
            // One cause, one line that mends it.
            Held::Late(text) | Held::Refused(text) if are_streams_buffered => {
                let text = format!("a WebSocket does not open: {text}");
                self.fault(Severity::Error, "buffering", Fault::Buffering, &text);
            }
            Held::Well(_) => self.note(check, "opens, stays and delivers at once"),
            // Said of the stream already, which had the same cause.
            Held::NotCancelled(_) => self.note(check, "opens and stays"),
            Held::Late(text) | Held::Compressed(text) | Held::Refused(text) => {
                let text = format!("{text}; clients fall back to event streams");
                self.fault(Severity::Warning, check, Fault::WebSocket, &text);
            }
            Held::Cut(after) => {
                let text = format!("a WebSocket is cut after {}", rounded(after));
                self.fault(Severity::Warning, "idle", Fault::WebSocketTimeout, &text);
            }
        }
    }

    pub(super) fn report_poll(&mut self, polled: Polled) {
        match polled {
            Polled::Well => {
                let wait = humantime::format_duration(self.wait.min(MAX_POLL));
                self.note("idle", format!("a long poll of {wait} is answered by the relay"));
            }
            Polled::Cut(after, how) => {
                let text = format!("a long poll is cut after {}: {how}", rounded(after));
                self.fault(Severity::Warning, "idle", Fault::IdleTimeout, &text);
            }
        }
    }
}

/// In whole seconds.
fn rounded(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs_f64().round() as u64))
}

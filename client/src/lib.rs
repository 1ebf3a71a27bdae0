//! Signs a person in through a token-relay and waits for the token by push.
//!
//! Uses an event stream, and long polls where no stream gets through. [`api`] holds the wire types,
//! which the relay shares.

pub mod api;
mod event_stream;

use std::{fmt, time::Duration};

use http::{StatusCode, header};
use reqwest::{RequestBuilder, Response};
use tokio::time::Instant;
use url::{Host, Url};

use crate::{
    api::{
        CreateRequest, CreateResponse, ErrorResponse, ProblemDetails, Secret, SessionState,
        TokenResponse,
    },
    event_stream::EventStream,
};

/// Longest wait for an answer's head; for the first bytes of a stream too, then a proxy keeps it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Without a heartbeat for so long (there is one every 15 s) the connection is dead.
const SILENCE: Duration = Duration::from_secs(50);

/// How long one long poll hangs, in seconds.
const LONG_POLL: u64 = 25;

/// Pause before a reconnect when the relay named none, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The relay must be reached by `https`, or on this machine.
    #[error("the relay must be reached by https (http only on this machine)")]
    Insecure,
    /// The relay cannot be reached, or breaks off whenever it is.
    #[error("the relay cannot be reached: {0}")]
    Unreachable(String),
    /// The relay does not want to, or what answers is no relay.
    #[error("the relay answered {status}{}", .detail.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// What it said.
        detail: Option<String>,
    },
    /// The login failed: an error code of RFC 6749 §4.1.2.1 and its description.
    #[error("{error}: {description}")]
    Failed {
        /// The code, such as `access_denied`.
        error: String,
        /// For people.
        description: String,
    },
    /// The time to sign in is over, or the session was ended by somebody else.
    #[error("the time to sign in is over")]
    Expired,
    /// What answers does not speak as a relay does.
    #[error("the relay's answer cannot be understood")]
    Malformed,
}

impl ClientError {
    /// The code of RFC 6749 §4.1.2.1 that fits best, or `expired_token` (RFC 8628 §3.5).
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { error, .. } => error,
            Self::Expired => "expired_token",
            Self::Unreachable(_) => "temporarily_unavailable",
            Self::Refused { status, .. } if status.is_server_error() => "temporarily_unavailable",
            Self::Insecure | Self::Refused { .. } => "invalid_request",
            Self::Malformed => "server_error",
        }
    }
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may hold a session ID, and the sources say what went wrong.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = cause.to_string();
            source = cause.source();
        }
        Self::Unreachable(text)
    }
}

/// A sign-in that is wanted.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// What the person is told that they sign in to.
    pub client_name: Option<String>,
    /// Whether the person first compares a code (RFC 8628 §5.4).
    pub confirm: bool,
}

/// A relay.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    http: reqwest::Client,
}

fn settle(state: SessionState) -> Option<Result<TokenResponse, ClientError>> {
    match state {
        SessionState::Pending => None,
        SessionState::Authenticated(token) => Some(Ok(token)),
        SessionState::Failed(ErrorResponse { error, error_description: description }) => {
            Some(Err(ClientError::Failed { error, description }))
        }
    }
}

/// Whether secrets may travel to `url`: by `https`, or by `http` to this machine. A URL with a
/// password in it is refused, because it would be shown wherever the URL is.
pub fn is_secure(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    let anonymous = url.username().is_empty() && url.password().is_none();
    anonymous && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
}

/// A connection ended without an answer: come again.
enum Cut {
    /// The answer is final.
    Final(ClientError),
    /// No stream gets through here.
    NoStream(ClientError),
    /// Later, after the pause that the relay named.
    Again(ClientError, Option<Duration>),
}

impl From<reqwest::Error> for Cut {
    fn from(error: reqwest::Error) -> Self {
        Self::Again(error.into(), None)
    }
}

impl Client {
    /// A client of the relay whose public URL is `base`.
    ///
    /// # Errors
    /// [`ClientError::Insecure`] unless it is `https` or on this machine.
    pub fn new(mut base: Url) -> Result<Self, ClientError> {
        if !is_secure(&base) {
            return Err(ClientError::Insecure);
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // Another part of the process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(TIMEOUT)
            .user_agent(concat!("token-relay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { base, http })
    }

    /// Creates a bound session for `wanted`. Then the person opens
    /// [`PendingSignIn::transit_url`], and [`PendingSignIn::token`] waits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sign_in(&self, wanted: &SignIn) -> Result<PendingSignIn, ClientError> {
        let url = self.base.join("addons/sessions").map_err(|_| ClientError::Malformed)?;
        let create = CreateRequest {
            bind: true,
            confirm: wanted.confirm,
            client_name: wanted.client_name.clone(),
        };
        let body = serde_json::to_vec(&create).map_err(|_| ClientError::Malformed)?;
        let request = self
            .http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .timeout(TIMEOUT);
        let answer = request.send().await?;
        if answer.status() != StatusCode::CREATED {
            return Err(refusal(answer).await);
        }
        let created: CreateResponse =
            serde_json::from_slice(&read(answer).await?).map_err(|_| ClientError::Malformed)?;
        let url = |text: &str| Url::parse(text).map_err(|_| ClientError::Malformed);
        Ok(PendingSignIn {
            http: self.http.clone(),
            session_id: created.session_id,
            session_token: created.session_token.ok_or(ClientError::Malformed)?,
            user_code: created.user_code,
            transit_url: url(&created.transit_url)?,
            events_url: url(&created.events_url)?,
            poll_url: url(&created.poll_url)?,
            expires_in: Duration::from_secs(created.expires_in),
            created: Instant::now(),
        })
    }
}

/// A sign-in that waits for its person.
pub struct PendingSignIn {
    http: reqwest::Client,
    session_id: Secret,
    session_token: Secret,
    user_code: Option<String>,
    transit_url: Url,
    events_url: Url,
    poll_url: Url,
    expires_in: Duration,
    created: Instant,
}

impl fmt::Debug for PendingSignIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingSignIn").finish_non_exhaustive()
    }
}

impl PendingSignIn {
    /// Where the person signs in. Works once.
    pub fn transit_url(&self) -> &Url {
        &self.transit_url
    }

    /// What the dialog shows, too, when confirmation is on.
    pub fn user_code(&self) -> Option<&str> {
        self.user_code.as_deref()
    }

    /// How long the person has.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// Client ID of the refresh token.
    pub fn session_id(&self) -> &Secret {
        &self.session_id
    }

    /// Client secret of the refresh token.
    pub fn session_token(&self) -> &Secret {
        &self.session_token
    }

    /// Waits for the token and acknowledges it. Reconnects as long as there is time.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn token(&self) -> Result<TokenResponse, ClientError> {
        // The relay knows best when the time is over; this is for one that has gone.
        let end = self.created + self.expires_in + Duration::from_secs(2);
        let mut last = None;
        let settled = tokio::time::timeout_at(end, self.wait(&mut last)).await;
        let token = settled.unwrap_or_else(|_| Err(last.unwrap_or(ClientError::Expired)))?;
        // The token is here; if this is lost, the session ends by itself.
        let _ = self.end().await;
        Ok(token)
    }

    /// Gives up: the session ends at once, and the dialog says so.
    ///
    /// # Errors
    /// When the relay cannot be reached; the session then expires by itself.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        self.end().await
    }

    async fn end(&self) -> Result<(), ClientError> {
        let request = self.http.delete(self.poll_url.clone()).timeout(TIMEOUT / 2);
        self.authorize(request).send().await?;
        Ok(())
    }

    fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        request.bearer_auth(self.session_token.expose())
    }

    /// `last` is why the last connection ended.
    async fn wait(&self, last: &mut Option<ClientError>) -> Result<TokenResponse, ClientError> {
        let (mut stream, mut events) = (true, EventStream::default());
        let mut pause = PAUSE;
        loop {
            let begun = Instant::now();
            let cut = match if stream { self.listen(&mut events).await } else { self.poll().await }
            {
                Ok(token) => return Ok(token),
                Err(cut) => cut,
            };
            // A connection that lasted was a good one.
            if begun.elapsed() > SILENCE {
                pause = PAUSE;
            }
            let wait = match cut {
                Cut::Final(error) => return Err(error),
                Cut::NoStream(error) => {
                    *last = Some(error);
                    stream = false;
                    continue;
                }
                Cut::Again(error, after) => {
                    *last = Some(error);
                    after.unwrap_or(pause).max(events.retry.take().unwrap_or_default())
                }
            };
            tokio::time::sleep(jittered(wait)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads the event stream to its end.
    async fn listen(&self, events: &mut EventStream) -> Result<TokenResponse, Cut> {
        let mut request = self
            .authorize(self.http.get(self.events_url.clone()))
            .header(header::ACCEPT, "text/event-stream");
        if !events.last_event_id.is_empty() {
            request = request.header("last-event-id", &events.last_event_id);
        }
        let silent = |what: &str| ClientError::Unreachable(format!("{what} is silent"));
        let answer = tokio::time::timeout(TIMEOUT, request.send())
            .await
            .map_err(|_| Cut::NoStream(silent("the event stream")))??;
        let mut answer = accepted(answer).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE);
        if !media_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream")) {
            return Err(Cut::NoStream(ClientError::Malformed));
        }
        events.begin_again();
        let mut timeout = TIMEOUT;
        loop {
            let chunk = match tokio::time::timeout(timeout, answer.chunk()).await {
                Ok(chunk) => chunk?,
                Err(_) if timeout == TIMEOUT => {
                    return Err(Cut::NoStream(silent("the event stream")));
                }
                Err(_) => return Err(Cut::Again(silent("the relay"), None)),
            };
            let ended = || Cut::Again(ClientError::Unreachable("it hung up".to_owned()), None);
            let chunk = chunk.ok_or_else(ended)?;
            timeout = SILENCE;
            let malformed = |_| Cut::Final(ClientError::Malformed);
            for event in events.push(&chunk).map_err(|_| Cut::Final(ClientError::Malformed))? {
                match event.name.as_str() {
                    "authenticated" | "failed" => {
                        let told: SessionState =
                            serde_json::from_str(&event.data).map_err(malformed)?;
                        if let Some(settled) = settle(told) {
                            return settled.map_err(Cut::Final);
                        }
                    }
                    "expired" => return Err(Cut::Final(ClientError::Expired)),
                    // Of a later version.
                    _ => {}
                }
            }
        }
    }

    /// Asks once, and waits for the answer a while.
    async fn poll(&self) -> Result<TokenResponse, Cut> {
        let mut url = self.poll_url.clone();
        url.query_pairs_mut().append_pair("wait", &LONG_POLL.to_string());
        let begun = Instant::now();
        let request = self.authorize(self.http.get(url));
        let request = request.timeout(Duration::from_secs(LONG_POLL) + TIMEOUT);
        let answer = accepted(request.send().await?).await?;
        let told: SessionState = serde_json::from_slice(&read(answer).await.map_err(Cut::Final)?)
            .map_err(|_| Cut::Final(ClientError::Malformed))?;
        match settle(told) {
            Some(settled) => settled.map_err(Cut::Final),
            // A proxy that answers at once must not be asked in a tight loop.
            None => {
                let least = Duration::from_secs(1).saturating_sub(begun.elapsed());
                Err(Cut::Again(ClientError::Expired, Some(least)))
            }
        }
    }
}

/// A little sooner or later than `wait`, so that clients which were cut off together do not come
/// back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the pause is merely the same for all.
    let _ = getrandom::fill(&mut byte);
    let [byte] = byte;
    wait.mul_f64(0.75 + f64::from(byte) / 512.0)
}

/// Sorts out answers that are no answer yet.
async fn accepted(answer: Response) -> Result<Response, Cut> {
    match answer.status() {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(answer),
        // Acknowledged or gone: by somebody else, who had the session token.
        StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Cut::Final(ClientError::Expired))
        }
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            let after = answer
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .map(|seconds: u32| Duration::from_secs(u64::from(seconds)).min(LONGEST_PAUSE));
            Err(Cut::Again(refusal(answer).await, after))
        }
        _ => Err(Cut::Final(refusal(answer).await)),
    }
}

async fn refusal(answer: Response) -> ClientError {
    let status = answer.status();
    let problem = read(answer).await.ok();
    let problem = problem.and_then(|body| serde_json::from_slice::<ProblemDetails>(&body).ok());
    let detail = problem.and_then(|problem| problem.detail.or(Some(problem.title)));
    // It goes to a terminal.
    let detail = detail.map(|text| text.chars().filter(|it| !it.is_control()).take(300).collect());
    ClientError::Refused { status, detail }
}

async fn read(mut answer: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ClientError::Malformed);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

//! A sign-in that waits for its person.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

use crate::{
    ClientError,
    api::{CreateResponse, Secret, SessionState, TokenResponse},
    checks,
    client::{TIMEOUT, read, refusal},
    encryption::DecryptionKey,
    event_stream::EventStream,
    key::PrivateKey,
    proof::{self, Proof, ProofKey},
};

/// Without a heartbeat for so long (there is one every 15 s) the connection is dead.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(50);

/// How long one long poll hangs, in seconds.
const LONG_POLL: u64 = 25;

/// Pause before a reconnect when the relay named none.
const PAUSE: Duration = Duration::from_secs(1);

/// Maximum pause before a reconnect, whatever the relay names.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A pending sign-in in a form that another run of the program can [resume](crate::Client::resume).
///
/// It holds the session's secrets: store it where only its owner can read it, and delete it when the
/// token has arrived or [`SavedSignIn::expires_at`] is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedSignIn {
    session_id: Secret,
    session_token: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_code: Option<String>,
    transit_url: String,
    events_url: String,
    poll_url: String,
    expires_at: u64,
    /// Of a sign-in that an earlier version saved there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decryption_key: Option<DecryptionKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof_key: Option<ProofKey>,
}

impl SavedSignIn {
    /// The session that a relay created just now, for `expires_in`.
    pub(crate) fn new(
        created: CreateResponse,
        decryption_key: DecryptionKey,
        proof_key: Option<ProofKey>,
        expires_in: Duration,
    ) -> Result<Self, ClientError> {
        let session_token = created.session_token.ok_or(ClientError::Malformed("session_token"))?;
        Ok(Self {
            session_id: created.session_id,
            session_token,
            user_code: created.user_code,
            transit_url: created.transit_url,
            events_url: created.events_url,
            poll_url: created.poll_url,
            expires_at: (since_epoch() + expires_in).as_secs(),
            decryption_key: Some(decryption_key),
            proof_key,
        })
    }

    /// When the time to sign in is over, in seconds since the Unix epoch.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// The rest of the time to sign in.
    pub(crate) fn expires_in(&self) -> Duration {
        let rest = Duration::from_secs(self.expires_at).saturating_sub(since_epoch());
        rest.min(checks::MAX_EXPIRES_IN)
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A sign-in that waits for its person.
pub struct PendingSignIn {
    http: reqwest::Client,
    saved: SavedSignIn,
    transit_url: Url,
    events_url: Url,
    poll_url: Url,
    token_url: Url,
    expires_in: Duration,
    created: Instant,
}

impl fmt::Debug for PendingSignIn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingSignIn").finish_non_exhaustive()
    }
}

/// Why a connection ended without an outcome of the sign-in.
enum Interruption {
    /// The error is final.
    Final(ClientError),
    /// No stream gets through here.
    NoStream(ClientError),
    /// Reconnect, after the pause that the relay named.
    Retry(ClientError, Option<Duration>),
}

impl From<reqwest::Error> for Interruption {
    fn from(error: reqwest::Error) -> Self {
        Self::Retry(error.into(), None)
    }
}

impl PendingSignIn {
    pub(crate) fn new(
        http: reqwest::Client,
        relay: &Url,
        saved: SavedSignIn,
        expires_in: Duration,
    ) -> Result<Self, ClientError> {
        if expires_in.is_zero() {
            return Err(ClientError::Expired);
        }
        let saved = SavedSignIn {
            session_id: checks::secret("session_id", saved.session_id)?,
            session_token: checks::secret("session_token", saved.session_token)?,
            user_code: saved.user_code.map(checks::user_code).transpose()?,
            ..saved
        };
        Ok(Self {
            http,
            transit_url: checks::url(relay, "transit_url", &saved.transit_url)?,
            events_url: checks::url(relay, "events_url", &saved.events_url)?,
            poll_url: checks::url(relay, "poll_url", &saved.poll_url)?,
            token_url: relay.join("addons/token").map_err(|_| ClientError::Insecure)?,
            saved,
            expires_in,
            created: Instant::now(),
        })
    }

    /// Where the person signs in. Single use.
    pub fn transit_url(&self) -> &Url {
        &self.transit_url
    }

    /// The code that the person types there (RFC 8628 §6.1).
    pub fn user_code(&self) -> Option<&str> {
        self.saved.user_code.as_deref()
    }

    /// How long the person had when the sign-in began or was resumed.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }

    /// Client ID for the refresh token.
    pub fn session_id(&self) -> &Secret {
        &self.saved.session_id
    }

    /// Client secret for the refresh token.
    pub fn session_token(&self) -> &Secret {
        &self.saved.session_token
    }

    /// The private key for which its tokens are encrypted, as a JWK (RFC 7518 §6.2.2).
    pub fn decryption_key(&self) -> Option<PrivateKey> {
        self.saved.decryption_key.as_ref().map(DecryptionKey::jwk)
    }

    /// The key that its tokens are bound to, where [`SignIn::dpop`](crate::SignIn::dpop) asked for that.
    pub fn proof_key(&self) -> Option<&ProofKey> {
        self.saved.proof_key.as_ref()
    }

    /// Exchanges a refresh token of this sign-in for the next tokens. Each works once, and a second
    /// use ends the grant.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn refresh(&self, refresh_token: &Secret) -> Result<TokenResponse, ClientError> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh_token.expose())
            .append_pair("client_id", self.saved.session_id.expose())
            .append_pair("client_secret", self.saved.session_token.expose())
            .finish();
        let mut proof =
            self.proof_key().map(|key| key.prove_without_token(Method::POST, &self.token_url));
        let answer = loop {
            let mut request = self
                .http
                .post(self.token_url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone())
                .timeout(TIMEOUT);
            if let Some(proof) = &mut proof {
                request = request.headers(proof.headers()?);
            }
            let answer = request.send().await?;
            let again = |proof: &mut Proof| proof.renew(answer.status(), answer.headers());
            if !proof.as_mut().is_some_and(again) {
                break answer;
            }
        };
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer).await);
        }
        let answer: TokenResponse = serde_json::from_slice(&read(answer).await?)
            .map_err(|_| ClientError::Malformed("the refreshed token"))?;
        self.opened(answer)
    }

    /// The sign-in in a form that another run of the program can resume.
    pub fn save(&self) -> SavedSignIn {
        self.saved.clone()
    }

    /// Waits for the token and acknowledges it. Reconnects until the time is over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn token(&self) -> Result<TokenResponse, ClientError> {
        // The relay reports the end itself; this is for one that is unavailable.
        let end = self.created + self.expires_in + Duration::from_secs(2);
        let mut last = None;
        let settled = tokio::time::timeout_at(end, self.wait(&mut last)).await;
        let settled = settled.unwrap_or_else(|_| Err(last.unwrap_or(ClientError::Expired)));
        if let Err(error @ (ClientError::NotEncrypted | ClientError::NotBound)) = settled {
            // Whoever has the token does not use this session further.
            let _ = self.end().await;
            return Err(error);
        }
        let token = settled?;
        // The token is here; where this is lost, the session ends by itself.
        let _ = self.end().await;
        Ok(token)
    }

    /// Cancels the sign-in: the session ends at once, and the dialog says so.
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
        request.bearer_auth(self.saved.session_token.expose())
    }

    /// `last` is why the last connection ended.
    async fn wait(&self, last: &mut Option<ClientError>) -> Result<TokenResponse, ClientError> {
        let (mut stream, mut events) = (true, EventStream::default());
        let mut pause = PAUSE;
        loop {
            let begun = Instant::now();
            let received = if stream { self.listen(&mut events).await } else { self.poll().await };
            let interruption = match received {
                Ok(token) => return Ok(token),
                Err(interruption) => interruption,
            };
            // A connection that lasted was a good one.
            if begun.elapsed() > HEARTBEAT_TIMEOUT {
                pause = PAUSE;
            }
            let wait = match interruption {
                Interruption::Final(error) => return Err(error),
                Interruption::NoStream(error) => {
                    *last = Some(error);
                    stream = false;
                    continue;
                }
                Interruption::Retry(error, after) => {
                    *last = Some(error);
                    after.unwrap_or(pause).max(events.retry.take().unwrap_or_default())
                }
            };
            tokio::time::sleep(jittered(wait.min(MAX_PAUSE))).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Reads the event stream to its end.
    async fn listen(&self, events: &mut EventStream) -> Result<TokenResponse, Interruption> {
        let mut request = self
            .authorize(self.http.get(self.events_url.clone()))
            .header(header::ACCEPT, "text/event-stream");
        if !events.last_event_id.is_empty() {
            request = request.header("last-event-id", &events.last_event_id);
        }
        let silent = |what: &str| ClientError::Unreachable(format!("{what} is silent"));
        let answer = tokio::time::timeout(TIMEOUT, request.send())
            .await
            .map_err(|_| Interruption::NoStream(silent("the event stream")))??;
        let mut answer = accepted(answer).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE);
        if !media_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream")) {
            let error = ClientError::Malformed("the event stream");
            return Err(Interruption::NoStream(error));
        }
        events.begin_again();
        let mut timeout = TIMEOUT;
        loop {
            let chunk = match tokio::time::timeout(timeout, answer.chunk()).await {
                Ok(chunk) => chunk?,
                Err(_) if timeout == TIMEOUT => {
                    return Err(Interruption::NoStream(silent("the event stream")));
                }
                Err(_) => return Err(Interruption::Retry(silent("the relay"), None)),
            };
            let ended = || {
                let error = ClientError::Unreachable("the event stream ended".to_owned());
                Interruption::Retry(error, None)
            };
            let chunk = chunk.ok_or_else(ended)?;
            timeout = HEARTBEAT_TIMEOUT;
            let malformed = || Interruption::Final(ClientError::Malformed("an event"));
            for event in events.push(&chunk).map_err(|_| malformed())? {
                match event.name.as_str() {
                    "authenticated" | "failed" => {
                        let state: SessionState =
                            serde_json::from_str(&event.data).map_err(|_| malformed())?;
                        if let Some(outcome) = self.outcome(state) {
                            return outcome.map_err(Interruption::Final);
                        }
                    }
                    "expired" => return Err(Interruption::Final(ClientError::Expired)),
                    // Of a later version.
                    _ => {}
                }
            }
        }
    }

    /// How the sign-in ended, if it has.
    fn outcome(&self, state: SessionState) -> Option<Result<TokenResponse, ClientError>> {
        match state {
            SessionState::Pending => None,
            SessionState::Authenticated(answer) => Some(self.opened(answer)),
            SessionState::Failed(failure) => Some(Err(checks::failure(&failure))),
        }
    }

    fn opened(&self, answer: TokenResponse) -> Result<TokenResponse, ClientError> {
        let token = match &self.saved.decryption_key {
            Some(key) => key.open(&self.saved.session_id, &answer)?,
            None => checks::token(answer)?,
        };
        let is_bound = token.token_type.eq_ignore_ascii_case(proof::SCHEME);
        if self.saved.proof_key.is_some() && !is_bound && !token.access_token.is_empty() {
            return Err(ClientError::NotBound);
        }
        Ok(token)
    }

    /// Polls once.
    async fn poll(&self) -> Result<TokenResponse, Interruption> {
        let mut url = self.poll_url.clone();
        url.query_pairs_mut().append_pair("wait", &LONG_POLL.to_string());
        let begun = Instant::now();
        let request = self.authorize(self.http.get(url));
        let request = request.timeout(Duration::from_secs(LONG_POLL) + TIMEOUT);
        let answer = accepted(request.send().await?).await?;
        let body = read(answer).await.map_err(Interruption::Final)?;
        let state: SessionState = serde_json::from_slice(&body)
            .map_err(|_| Interruption::Final(ClientError::Malformed("the poll's answer")))?;
        match self.outcome(state) {
            Some(outcome) => outcome.map_err(Interruption::Final),
            // A proxy that answers at once must not be asked in a tight loop.
            None => {
                let rest = Duration::from_secs(1).saturating_sub(begun.elapsed());
                Err(Interruption::Retry(ClientError::Expired, Some(rest)))
            }
        }
    }
}

/// A little more or less than `wait`, so that clients which were cut off together do not come back
/// together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the pause is merely the same for all.
    let _ = SystemRandom::new().fill(&mut byte);
    wait.mul_f64(0.75 + f64::from(byte[0]) / 512.0)
}

/// Separates answers with content from refusals.
async fn accepted(answer: Response) -> Result<Response, Interruption> {
    match answer.status() {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(answer),
        // Acknowledged or ended, by another client that has the session token.
        StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(Interruption::Final(ClientError::Expired))
        }
        status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
            let after = answer
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .map(|seconds: u32| Duration::from_secs(u64::from(seconds)));
            Err(Interruption::Retry(refusal(answer).await, after))
        }
        _ => Err(Interruption::Final(refusal(answer).await)),
    }
}

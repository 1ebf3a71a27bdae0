//! A session from creation to acknowledgement, and the subscriptions that wait for it.
//!
//! Moves sealed payloads between a [`Store`] and the subscriptions on this instance, and seals what
//! is known of a session. Knows no HTTP and opens no token.

mod details;
mod handover;
mod notes;
mod registry;
mod subscription;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

pub use crate::relay::{
    handover::Handover,
    registry::{DirectWriter, Interruptions, JoinError, Registry},
    subscription::Subscription,
    watch::Watch,
};

use crate::{
    relay::notes::Notes,
    session::{
        ClientId, DialogId, Digest, EventId, Failure, GoneReason, Outcome, Profile, SealedPayload,
        SessionDetails, SessionInfo, SessionKey, SessionRef, State, SubscriptionId, TransitToken,
        UserCode,
    },
    store::{
        self, Acknowledged, CodeAttempt, CodeTarget, DeliveryNote, Ended, Entered, Entry,
        FailedSession, NewSession, Peeked, ReadMode, ReadRequest, ReadResult, Retention, Store,
        StoreError, Stored, StoredDetails, StoredSession,
    },
    telemetry::{Trace, TraceContext},
    token::{KeyRing, Purpose},
};

/// Times of a session.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long the token stays readable after its first delivery.
    pub delivery_grace: Duration,
    /// Retry window for [`Relay::fulfil`] while the store is unavailable.
    pub fulfil_timeout: Duration,
}

/// What delivering a token does to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It ends the session: polls of the legacy profile and of the Meet surface.
    Once,
    /// The token stays readable until it is acknowledged or the grace is over.
    UntilAcknowledged,
}

/// A session to be created.
#[derive(Clone, Debug)]
pub struct CreateSession {
    /// Its key. The ID is the caller's, who may have to derive other secrets from it.
    pub session: SessionKey,
    /// SHA-256 of the session token; none in the legacy profile.
    pub session_token: Option<Digest>,
    /// How it is read and entered.
    pub profile: Profile,
    /// SHA-256 of the browser ID, when the creation proves the browser.
    pub browser: Option<Digest>,
    /// What is displayed to the person, and the secrets of the proofs.
    pub details: SessionDetails,
    /// Lifetime of the session.
    pub ttl: Duration,
    /// Lifetime of the transit token.
    pub transit_token_ttl: Duration,
    /// Number of random bytes in the transit token.
    pub random_bytes: usize,
    /// The creation's place in a trace.
    pub trace: Option<TraceContext>,
}

/// The secrets of a new session, for its creator. The relay keeps only their digests.
#[derive(Debug)]
pub struct Created {
    /// Enters a bound or Meet session.
    pub transit_token: Option<TransitToken>,
}

/// How many times a person may type the user code of one session.
pub const CODE_ATTEMPTS: u32 = 5;

/// Result of checking a user code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeCheck {
    /// It is the session's.
    Right(Box<SessionInfo>),
    /// It is another one.
    Wrong {
        /// Attempts left.
        remaining: u32,
    },
    /// It was the last attempt, or there was none left: the session has failed.
    Exhausted,
    /// No such session.
    Unknown,
    /// The session is not pending.
    NotPending(State),
}

/// Result of a poll by a client that may not poll too often.
#[derive(Debug)]
pub enum PacedPoll {
    /// No outcome yet.
    Pending,
    /// No outcome yet, and the poll came too early.
    TooEarly {
        /// Minimum time between two polls from now on.
        interval: Duration,
    },
    /// The session has an outcome.
    Settled(Outcome, Handover),
}

/// How often a user code is drawn again when another session has it.
const CODE_DRAWS: usize = 8;

/// Why a session cannot be read or waited for.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such session.
    #[error("no such session")]
    Unknown,
    /// The session token is missing or wrong.
    #[error("missing or wrong session token")]
    Unauthorized,
    /// A limit is reached, or the instance is shutting down.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The store is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Subscriptions that ask the store at the same time. After a deploy thousands of clients reconnect
/// within a second; asked all at once, the store would answer none of them in time, nor the logins
/// between them.
const MAX_OPENING: usize = 256;

/// Maximum time for which a subscription waits until it may ask the store.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// Delivers sealed tokens to the clients that wait for them.
pub struct Relay {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    sealing_keys: Arc<KeyRing>,
    timing: Timing,
    /// Turns of the subscriptions to ask the store.
    opening: Arc<Semaphore>,
    /// Deliveries that are recorded soon.
    notes: Arc<Notes>,
    /// Whether a session of version 0.1 was found.
    noticed_0_1: Arc<AtomicBool>,
    /// The relay that this one is within a trace.
    untraced: Option<Arc<Relay>>,
}

impl Relay {
    /// A relay over `store`, which was opened with `registry` as its notifier. `sealing_keys` seal
    /// the details of sessions.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        sealing_keys: Arc<KeyRing>,
        timing: Timing,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            registry,
            sealing_keys,
            timing,
            opening: Arc::new(Semaphore::new(MAX_OPENING)),
            notes: Arc::default(),
            noticed_0_1: Arc::default(),
            untraced: None,
        })
    }

    /// The same relay, with its calls to the store recorded in `trace`.
    pub fn in_trace(self: &Arc<Self>, trace: &Trace) -> Arc<Self> {
        if trace.is_none() {
            return Arc::clone(self);
        }
        let untraced = self.untraced();
        Arc::new(Self {
            store: store::in_trace(&untraced.store, trace),
            registry: Arc::clone(&self.registry),
            sealing_keys: Arc::clone(&self.sealing_keys),
            timing: self.timing.clone(),
            opening: Arc::clone(&self.opening),
            notes: Arc::clone(&self.notes),
            noticed_0_1: Arc::clone(&self.noticed_0_1),
            untraced: Some(untraced),
        })
    }

    /// For work that outlives the request.
    fn untraced(self: &Arc<Self>) -> Arc<Self> {
        Arc::clone(self.untraced.as_ref().unwrap_or(self))
    }

    /// The subscriptions that wait on this instance.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether a session of version 0.1 was found since this was asked last.
    pub fn take_noticed_0_1(&self) -> bool {
        self.noticed_0_1.swap(false, Ordering::Relaxed)
    }

    /// Records that a session of version 0.1 was found.
    pub fn notice_0_1(&self) {
        self.noticed_0_1.store(true, Ordering::Relaxed);
    }

    /// The store, for marks and health.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What a delivery does to the session.
    fn retention(&self, delivery: Delivery) -> Retention {
        match delivery {
            // A new one for each read, so that one is handed back without the next.
            Delivery::Once => Retention::Once(SubscriptionId::generate()),
            Delivery::UntilAcknowledged => Retention::Grace(self.timing.delivery_grace),
        }
    }

    /// Reads from `store`. A read that may end the session is completed even if the caller is dropped
    /// meanwhile, or the answer is lost; then the token is handed back.
    async fn read(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        session: SessionRef,
        request: ReadRequest,
    ) -> Result<(ReadResult, Handover), StoreError> {
        let Retention::Once(reader) = request.retention else {
            return Ok((store.read(session, request).await?, Handover::none()));
        };
        let handover = Handover::new(self.untraced(), session, reader);
        let (answer, answered) = oneshot::channel();
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let read = store.read(session, request).await;
            let read = read.map(|read| match read {
                ReadResult::Settled(Outcome::Token { .. }) => (read, handover),
                _ => {
                    handover.delivered();
                    (read, Handover::none())
                }
            });
            // Dropped with the handover when nobody waits any more.
            drop(answer.send(read));
        });
        let stopped = |_| Err(StoreError::Unavailable("shutting down".to_owned()));
        answered.await.unwrap_or_else(stopped)
    }

    /// Creates a session.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn create(&self, request: CreateSession) -> Result<Created, StoreError> {
        let transit_token = match request.profile {
            Profile::Legacy => None,
            Profile::Bound | Profile::Device | Profile::Meet => {
                Some(TransitToken::generate_with(request.session, request.random_bytes))
            }
        };
        self.create_entered_by(request, transit_token).await
    }

    async fn create_entered_by(
        &self,
        request: CreateSession,
        transit_token: Option<TransitToken>,
    ) -> Result<Created, StoreError> {
        let key = request.session;
        let session = StoredSession {
            profile: request.profile,
            session_token: request.session_token,
            browser: request.browser,
            trace: request.trace,
            details: details::seal(&self.sealing_keys, key, &request.details),
            client: request.details.client_id,
        };
        let transit =
            transit_token.as_ref().map(|token| (token.digest(), request.transit_token_ttl));
        self.store.create(key, NewSession { session, transit, ttl: request.ttl }).await?;
        Ok(Created { transit_token })
    }

    /// Creates a bound session with a user code by which backends find it, and which no other such
    /// session has. It opens nothing on the page of the device authorization grant.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn create_for_backends(
        &self,
        mut request: CreateSession,
    ) -> Result<(Created, UserCode), StoreError> {
        let (session, ttl) = (request.session, request.ttl);
        let token = TransitToken::generate_with(session, request.random_bytes);
        let target = CodeTarget { session, transit_token: token.digest() };
        for _ in 0..CODE_DRAWS {
            let code = UserCode::generate();
            let name = self.backend_code_names(&code).into_iter().next();
            if let Some(name) = name
                && self.store.claim_code(name, target, ttl).await?
            {
                request.details.user_code = Some(code.clone());
                let created = self.create_entered_by(request, Some(token)).await?;
                return Ok((created, code));
            }
        }
        Err(StoreError::Unavailable("no user code is free".to_owned()))
    }

    /// What a user code leads a backend to: a session of an add-in, or one of the device
    /// authorization grant.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn find_code_for_backend(
        &self,
        code: &UserCode,
    ) -> Result<Option<CodeTarget>, StoreError> {
        for name in self.backend_code_names(code) {
            if let Some(target) = self.store.find_code(name).await? {
                return Ok(Some(target));
            }
        }
        self.find_code(code).await
    }

    fn backend_code_names(&self, code: &UserCode) -> Vec<Digest> {
        self.sealing_keys.digests(Purpose::UserCode, &format!("backend {}", code.as_str()))
    }

    /// Creates a session of the device authorization grant, with a user code that no other one has.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn create_for_device(&self, request: CreateSession) -> Result<UserCode, StoreError> {
        let ttl = request.ttl;
        let session = request.session;
        // The code comes last: what it leads to is there.
        let created = self.create(CreateSession { profile: Profile::Device, ..request }).await?;
        let transit_token = created.transit_token.as_ref().map(TransitToken::digest);
        let target = transit_token.map(|transit_token| CodeTarget { session, transit_token });
        if let Some(target) = target {
            for _ in 0..CODE_DRAWS {
                let code = UserCode::generate();
                let name = self.code_names(&code).into_iter().next();
                if let Some(name) = name
                    && self.store.claim_code(name, target, ttl).await?
                {
                    return Ok(code);
                }
            }
        }
        Err(StoreError::Unavailable("no user code is free".to_owned()))
    }

    /// What a user code of the device authorization grant leads to.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn find_code(&self, code: &UserCode) -> Result<Option<CodeTarget>, StoreError> {
        for name in self.code_names(code) {
            if let Some(target) = self.store.find_code(name).await? {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// The names under which the store may know a user code, the newest first.
    fn code_names(&self, code: &UserCode) -> Vec<Digest> {
        self.sealing_keys.digests(Purpose::UserCode, code.as_str())
    }

    /// Looks at a session on behalf of a browser that asks for its dialog, and changes nothing.
    /// `dialog` is the one that this browser holds the cookie of, if any.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Peeked<SessionInfo>, StoreError> {
        Ok(match self.store.peek(session, entry, dialog).await? {
            Peeked::Open(stored) => Peeked::Open(self.open_details(session.key, stored)?),
            Peeked::Unknown => Peeked::Unknown,
            Peeked::TransitExpired => Peeked::TransitExpired,
            Peeked::Used => Peeked::Used,
            Peeked::NotPending(state) => Peeked::NotPending(state),
        })
    }

    /// `dialog` continues to the provider, which consumes the transit token. The same dialog may
    /// enter again; another one that enters ends the session.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Result<Entered<SessionInfo>, StoreError> {
        Ok(match self.store.enter(session, entry, dialog).await? {
            Entered::Admitted(stored) => Entered::Admitted(self.open_details(session.key, stored)?),
            Entered::Unknown => Entered::Unknown,
            Entered::TransitExpired => Entered::TransitExpired,
            Entered::Replayed => Entered::Replayed,
            Entered::NotPending(state) => Entered::NotPending(state),
        })
    }

    /// A backend enters in the place of a dialog, for sessions of `clients` only.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn enter_by_backend(
        &self,
        session: SessionRef,
        entry: Entry,
        backend: DialogId,
        clients: &[ClientId],
    ) -> Result<Peeked<SessionInfo>, StoreError> {
        Ok(match self.store.enter_by_backend(session, entry, backend, clients).await? {
            Peeked::Open(stored) => Peeked::Open(self.open_details(session.key, stored)?),
            Peeked::Unknown => Peeked::Unknown,
            Peeked::TransitExpired => Peeked::TransitExpired,
            Peeked::Used => Peeked::Used,
            Peeked::NotPending(state) => Peeked::NotPending(state),
        })
    }

    /// Watches the changes of a session without reading it.
    ///
    /// # Errors
    /// When a limit is reached or the store is unavailable.
    pub async fn watch(self: &Arc<Self>, session: SessionRef) -> Result<Watch, ReadError> {
        let mailbox = self.registry.join(session.key)?;
        let mut watch = Watch::new(self.untraced(), session, mailbox);
        watch.subscribe(&*self.store).await?;
        Ok(watch)
    }

    /// Compares the user code that a person typed. The last wrong one ends the session.
    ///
    /// # Errors
    /// When the store is unavailable; whether the attempt was counted is then unknown.
    pub async fn check_user_code(
        &self,
        session: SessionRef,
        typed: &UserCode,
    ) -> Result<CodeCheck, StoreError> {
        let (remaining, stored) =
            match self.store.count_code_attempt(session, CODE_ATTEMPTS).await? {
                CodeAttempt::Allowed { remaining, session } => (remaining, session),
                CodeAttempt::Unknown => return Ok(CodeCheck::Unknown),
                CodeAttempt::NotPending(state) => return Ok(CodeCheck::NotPending(state)),
                // An instance may have stopped between the last attempt and the end of the session.
                CodeAttempt::Exhausted => return self.end_after_wrong_codes(session).await,
            };
        let info = self.open_details(session.key, stored)?;
        if info.details.user_code.as_ref().is_some_and(|code| code.matches(typed)) {
            return Ok(CodeCheck::Right(Box::new(info)));
        }
        match remaining {
            0 => self.end_after_wrong_codes(session).await,
            _ => Ok(CodeCheck::Wrong { remaining }),
        }
    }

    async fn end_after_wrong_codes(&self, session: SessionRef) -> Result<CodeCheck, StoreError> {
        let failure = Failure::new(
            "access_denied",
            format!("A wrong user code was entered {CODE_ATTEMPTS} times."),
        );
        self.store.fail(session, failure).await?;
        Ok(CodeCheck::Exhausted)
    }

    fn open_details(
        &self,
        key: SessionKey,
        stored: StoredSession,
    ) -> Result<SessionInfo, StoreError> {
        let StoredSession { profile, session_token, browser, trace, details, client: _ } = stored;
        let is_of_0_1 = matches!(details, StoredDetails::Clear(_));
        if is_of_0_1 {
            self.notice_0_1();
        }
        let details = details::open(&self.sealing_keys, key, details)?;
        Ok(SessionInfo { profile, session_token, browser, trace, details, is_of_0_1 })
    }

    /// Stores the result of a sign-in and publishes it. Retries while the store is unavailable, until
    /// [`Timing::fulfil_timeout`] is over. After an error either nothing has changed, or the store has
    /// the result after all and subscriptions will find it.
    ///
    /// # Errors
    /// When the store stayed unavailable.
    pub async fn fulfil(
        &self,
        session: SessionRef,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError> {
        let deadline = Instant::now() + self.timing.fulfil_timeout;
        let mut pause = Duration::from_millis(100);
        let mut retried = false;
        loop {
            match self.store.fulfil(session, payload.clone()).await {
                // An earlier attempt may have been executed although its answer was lost.
                Ok(Stored::NotPending(
                    State::Authenticated | State::Delivered | State::Gone(GoneReason::Acknowledged),
                )) if retried => return Ok(Stored::Done),
                Ok(stored) => return Ok(stored),
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(error) => {
                    tracing::debug!(session = %session.key, %error, "retrying fulfil");
                }
            }
            retried = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Records that the sign-in failed and publishes it.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
    ) -> Result<FailedSession, StoreError> {
        self.store.fail(session, failure).await
    }

    /// Reads once, without waiting. `None`: still pending. The [`Handover`] is to be notified when the
    /// client has the outcome.
    ///
    /// # Errors
    /// When the session or the credentials are unknown or the store is unavailable.
    pub async fn poll(
        self: &Arc<Self>,
        session: SessionRef,
        session_token: Option<Digest>,
        delivery: Delivery,
    ) -> Result<Option<(Outcome, Handover)>, ReadError> {
        let retention = self.retention(delivery);
        let request = ReadRequest { session_token, mode: ReadMode::Poll, retention };
        let (read, handover) = self.read(&self.store, session, request).await?;
        match read {
            ReadResult::Unknown => Err(ReadError::Unknown),
            ReadResult::Unauthorized => Err(ReadError::Unauthorized),
            ReadResult::Pending { .. } | ReadResult::TooEarly { .. } => Ok(None),
            ReadResult::Settled(outcome) => Ok(Some((outcome, handover))),
        }
    }

    /// Reads once, without waiting, on behalf of a client that may poll every `interval`. A token
    /// ends the session, unless the [`Handover`] hands it back.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub async fn paced_poll(
        self: &Arc<Self>,
        session: SessionRef,
        session_token: Option<Digest>,
        interval: Duration,
    ) -> Result<PacedPoll, ReadError> {
        let (mode, retention) = (ReadMode::PacedPoll(interval), self.retention(Delivery::Once));
        let request = ReadRequest { session_token, mode, retention };
        let (read, handover) = self.read(&self.store, session, request).await?;
        match read {
            ReadResult::Unknown => Err(ReadError::Unknown),
            ReadResult::Unauthorized => Err(ReadError::Unauthorized),
            ReadResult::Pending { .. } => Ok(PacedPoll::Pending),
            ReadResult::TooEarly { interval } => Ok(PacedPoll::TooEarly { interval }),
            ReadResult::Settled(outcome) => Ok(PacedPoll::Settled(outcome, handover)),
        }
    }

    /// Starts to wait for a session's outcome.
    ///
    /// # Errors
    /// When the session or the credentials are unknown, a limit is reached or the store is
    /// unavailable.
    pub async fn open(
        self: &Arc<Self>,
        session: SessionRef,
        session_token: Option<Digest>,
        delivery: Delivery,
    ) -> Result<Subscription, ReadError> {
        let mailbox = self.registry.join(session.key)?;
        // Created at once, so that its drop leaves and unsubscribes whatever fails below.
        let mut subscription =
            Subscription::new(self.untraced(), session, mailbox, session_token, delivery);
        let _turn =
            tokio::time::timeout(OPENING_TIMEOUT, self.opening.acquire()).await.map_err(|_| {
                StoreError::Unavailable("too many subscriptions wait for it".to_owned())
            })?;
        subscription.subscribe(&self.store).await?;
        subscription.attach(&self.store).await?;
        Ok(subscription)
    }

    /// Ends a session on behalf of a client that shows, by the id of its event, that it has the
    /// token.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
    ) -> Result<Acknowledged, StoreError> {
        self.store.acknowledge(session, session_token, event).await
    }

    /// Acknowledges the token or cancels the session, whatever its state.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn end(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        self.store.end(session, session_token).await
    }

    /// Ends a session whatever its state.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn evict(&self, session: SessionRef, reason: GoneReason) -> Result<bool, StoreError> {
        self.store.evict(session, reason).await
    }

    /// Records a delivery that the bus made before the store was asked. If that fails the token
    /// merely stays readable with the same credentials until the session expires.
    fn note_delivery(
        self: &Arc<Self>,
        session: SessionRef,
        subscription: SubscriptionId,
        session_token: Option<Digest>,
    ) {
        let grace = self.timing.delivery_grace;
        let note = DeliveryNote { session, session_token, subscription, grace };
        let wait = self.store.notes_wait();
        if !wait.is_zero() {
            if self.notes.push(note) {
                let relay = self.untraced();
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    relay.note(&relay.notes.take()).await;
                });
            }
            return;
        }
        let relay = Arc::clone(self);
        let mut noting = Box::pin(async move { relay.note(&[note]).await });
        // A store in memory answers at once, and then no task is needed.
        if (&mut noting).now_or_never().is_none() {
            tokio::spawn(noting);
        }
    }

    async fn note(&self, notes: &[DeliveryNote]) {
        if let Err(error) = self.store.note_deliveries(notes).await {
            tracing::debug!(deliveries = notes.len(), %error, "deliveries not recorded");
        }
    }
}

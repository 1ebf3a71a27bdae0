//! Where sessions live: the trait every store implements, its words and its errors.
//!
//! Called by `relay` (sessions), `token` (revocation) and `login` (single-use values). Knows no
//! HTTP and sees no token in clear. Every method of [`SessionStore`] is one atomic transition, so
//! that two instances can never both consume, fulfil or deliver.

mod instrumented;
pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;

pub use crate::store::instrumented::{OPERATIONS, Observed, Observer, STATES};

use crate::session::{
    Digest, Failure, GoneReason, GrantId, ReaderId, SealedPayload, SessionInfo, SessionKey, State,
};

/// How long a session that is over is remembered, so that a late caller hears 410 and not 404.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// The store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full or too slow; the same call may succeed later. Whether the
    /// transition took place is unknown, so callers must ask again and not assume.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
    /// It answered something that this version does not understand.
    #[error("the session store answered unexpectedly: {0}")]
    Corrupt(String),
}

/// A session to be created.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// What is known of it.
    pub info: SessionInfo,
    /// SHA-256 of the transit token and its life; `None` in the legacy profile.
    pub transit: Option<(Digest, Duration)>,
    /// How long it lives.
    pub ttl: Duration,
}

/// By what right a dialog enters.
#[derive(Clone, Debug)]
pub enum Entry {
    /// By the session ID itself; only in the legacy profile.
    SessionId,
    /// By the transit token of which this is the SHA-256; consumed.
    Transit(Digest),
}

/// What came of entering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The dialog may go on to the login.
    Admitted(SessionInfo),
    /// No such session, the wrong token, or the wrong way to enter this profile.
    Unknown,
    /// The transit token's own life is over; the session lives on.
    TransitExpired,
    /// The transit token was used before; the session has been killed for it.
    Replayed,
    /// The session is not pending any more.
    NotPending(State),
}

/// What came of storing a login's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Stored, and every reader told.
    Done,
    /// No such session.
    Unknown,
    /// It was not pending any more; nothing changed.
    NotPending(State),
}

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Looks once, without waiting and without displacing a reader that waits.
    Poll,
    /// Begins to wait: becomes the session's reader in place of any earlier one.
    Attach(ReaderId),
    /// Was told of a change and collects, if still the session's reader. The newest reader wins:
    /// an older one may be a connection that died without a word.
    Claim(ReaderId),
}

/// A reader's request.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// SHA-256 of the presented session token, if one was.
    pub session_token: Option<Digest>,
    /// What it wants.
    pub mode: ReadMode,
    /// Read-once: handing out the token ends the session (legacy and meet-compatible polls).
    /// Otherwise the token stays readable for this long after the first delivery.
    pub grace: Option<Duration>,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// No such session.
    Unknown,
    /// A bound session, and the token was missing or wrong. Nothing changed.
    Unauthorized,
    /// Nothing yet.
    Pending {
        /// The session's remaining life.
        remaining: Duration,
    },
    /// The token.
    Token {
        /// To be opened by the `token` module.
        payload: SealedPayload,
        /// Since the login was stored.
        age: Duration,
    },
    /// The login failed.
    Failed(Failure),
    /// A newer reader took this one's place.
    Superseded,
    /// Over.
    Gone(GoneReason),
}

/// Why a session is being ended by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had its token: acknowledged.
    Acknowledged,
    /// It was still pending: cancelled.
    Cancelled,
    /// It was over already.
    Already(GoneReason),
    /// It had failed; now forgotten.
    Failed,
    /// No such session.
    Unknown,
    /// A bound session, and the token was missing or wrong. Nothing changed.
    Unauthorized,
}

/// What came of using a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// It was the newest; the next one takes its place.
    Done,
    /// An older one was used again, so it has leaked: the grant is ended for it.
    Reused,
    /// The grant was ended before.
    Ended,
    /// No such grant, or its time is over.
    Unknown,
}

/// Sessions and their atomic transitions.
///
/// Every method fails with [`StoreError::Unavailable`] when the store cannot be reached in a
/// bounded time.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Keeps a new session.
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError>;

    /// A dialog enters. A transit token is consumed; its second use kills the session and tells
    /// its readers.
    async fn enter(&self, key: SessionKey, entry: Entry) -> Result<Entered, StoreError>;

    /// Pending → authenticated, keeping the session's remaining life; tells every reader.
    async fn fulfil(&self, key: SessionKey, payload: SealedPayload) -> Result<Stored, StoreError>;

    /// Pending → failed; tells every reader.
    async fn fail(&self, key: SessionKey, failure: Failure) -> Result<Stored, StoreError>;

    /// Reads and, where the mode and the state call for it, delivers.
    async fn read(&self, key: SessionKey, read: Read) -> Result<ReadOutcome, StoreError>;

    /// Acknowledges or cancels; tells every reader. `session_token` as in [`Read`].
    async fn end(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError>;

    /// Ends the session whatever its profile and state, as when it may have leaked; tells every
    /// reader. False when there was nothing to end.
    async fn evict(&self, key: SessionKey, reason: GoneReason) -> Result<bool, StoreError>;

    /// Sets a mark for `ttl` (a value already used, a revoked token). True when it was not set
    /// before: of several callers exactly one hears true.
    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError>;

    /// Whether a mark is set.
    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError>;

    /// Keeps a new grant, whose first refresh token is generation 1, for `ttl`.
    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError>;

    /// The refresh token of `generation` is used: the next generation takes its place, for `ttl`.
    /// The use of an older one ends the grant, which is remembered for `memory`. A newer one than
    /// the store knows of is taken as the newest: the store forgot (a failover).
    async fn rotate_grant(
        &self,
        grant: GrantId,
        generation: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError>;

    /// Ends a grant and remembers it for `memory`, by which all access tokens of it have expired.
    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError>;

    /// Whether a grant was ended.
    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError>;

    /// How many sessions it holds, those that have just ended included, if it can tell at once.
    fn held(&self) -> Option<usize> {
        None
    }

    /// Asks the store for a sign of life.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Begins to hear of changes of `key`; returns when the subscription stands. Calls for the
    /// same key may nest; each that succeeded is paired with one [`Self::unsubscribe`], one that
    /// failed or was dropped with none.
    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError>;

    /// Ends what [`Self::subscribe`] began. Never blocks and never fails: a leftover subscription
    /// costs memory and nothing else, and ends with the connection.
    fn unsubscribe(&self, key: SessionKey);
}

/// A fulfilment as the bus carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfilled {
    /// The session's reader at that moment.
    pub reader: Option<ReaderId>,
    /// The sealed token response.
    pub payload: SealedPayload,
}

/// What a store tells the readers that wait on this instance. Handed in when the store is made.
pub trait Notifier: Send + Sync + 'static {
    /// The session changed; with what it was fulfilled if that was the change.
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>);

    /// Messages may have been missed (reconnect, failover): every reader must look again.
    fn resync(&self);

    /// A connection to the store was lost and stands again.
    fn reconnected(&self) {}
}

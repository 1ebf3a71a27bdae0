//! Where sessions, grants and one-time marks are stored: the traits, their types and [`open`].
//!
//! Every method is one atomic transition, so that two instances never both consume, fulfil or
//! deliver. A further store is one more folder here and one more variant of [`StoreUrl`].

mod instrumented;
pub mod memory;
pub mod redis;
mod transition;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::store::{
    instrumented::{OPERATIONS, STATES, StoreObserver},
    redis::{RedisOptions, RedisUrl, UnusableUrl},
    transition::{
        Acknowledged, CodeAttempt, CodeTarget, DeliveryNote, Ended, Entered, Entry, FailedSession,
        Fulfilled, NewSession, Peeked, ReadMode, ReadRequest, ReadResult, Retention, Rotated,
        Stored, StoredDetails, StoredSession,
    },
};

use crate::{
    session::{
        AccountId, ClientId, DialogId, Digest, EventId, Failure, GoneReason, GrantId,
        SealedPayload, SessionKey, SessionRef, SubscriptionId,
    },
    store::{instrumented::Instrumented, memory::MemoryStore, redis::RedisStore},
    telemetry::Trace,
    util::clock::UnixTime,
};

/// How long the end of a session is remembered, so that a late caller is answered 410 and not 404.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// How much earlier than its interval a poll may come: timers are not exact.
pub const PACE_TOLERANCE: Duration = Duration::from_millis(500);

/// By how much a poll that comes too early lengthens the interval (RFC 8628 §3.5).
pub const PACE_STEP: Duration = Duration::from_secs(5);

/// Maximum interval between two polls.
pub const MAX_PACE: Duration = Duration::from_secs(60);

/// A store outside this process, shared by any number of instances. Its scheme names the kind.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// Redis or Valkey.
    Redis(RedisUrl),
}

impl StoreUrl {
    /// Checks a URL as far as possible without connecting.
    ///
    /// # Errors
    /// When no store can be reached by it.
    pub fn parse(text: &str) -> Result<Self, UnusableUrl> {
        RedisUrl::parse(text).map(Self::Redis)
    }
}

/// Which store to open, and how.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store; without one the memory of this process, which a restart loses.
    pub url: Option<StoreUrl>,
    /// Prefix of every key and channel, without braces.
    pub prefix: String,
    /// Maximum duration of one command.
    pub command_timeout: Duration,
    /// File for what must outlive a restart of the store in memory: revocations and ended grants.
    pub state_file: Option<PathBuf>,
    /// Maximum size of everything stored in memory, in bytes; what does not fit is refused.
    pub max_memory: usize,
}

impl StoreOptions {
    /// Whether several instances share the store, so that they must also share their keys.
    pub fn is_shared(&self) -> bool {
        self.url.is_some()
    }
}

/// Opens the store: `notifier` is called on every change of a subscribed session, `observer` after
/// every call.
///
/// # Errors
/// When the settings are unusable. A server that cannot be reached is none: the store then fails
/// every call until it can.
pub async fn open(
    options: &StoreOptions,
    notifier: Arc<dyn Notifier>,
    observer: Arc<dyn StoreObserver>,
) -> Result<Arc<dyn Store>, StoreError> {
    let StoreOptions { url, prefix, command_timeout, state_file, max_memory } = options.clone();
    let store: Arc<dyn Store> = match url {
        None => match state_file {
            None => MemoryStore::new(notifier, max_memory),
            Some(path) => MemoryStore::with_state_file(&path, notifier, max_memory)?,
        },
        Some(StoreUrl::Redis(url)) => {
            RedisStore::connect(&RedisOptions { url, prefix, command_timeout }, notifier).await?
        }
    };
    let remote = options.is_shared();
    Ok(Arc::new(Instrumented::new(store, observer, remote)))
}

/// `store`, with its calls recorded in `trace` where there is one.
pub fn in_trace(store: &Arc<dyn Store>, trace: &Trace) -> Arc<dyn Store> {
    let traced = if trace.is_none() { None } else { store.recording(trace) };
    traced.unwrap_or_else(|| Arc::clone(store))
}

/// A call to the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, is full or too slow; the same call may succeed later. Whether
    /// the transition took place is unknown, so a caller must not assume either.
    #[error("the session store is unavailable: {0}")]
    Unavailable(String),
    /// The store returned something that this version does not understand.
    #[error("the session store answered unexpectedly: {0}")]
    Corrupt(String),
}

/// Everything that a store offers.
pub trait Store:
    SessionStore
    + CodeStore
    + GrantStore
    + AccountStore
    + MarkStore
    + ValueStore
    + ChangeFeed
    + StoreHealth
    + Traced
{
}

impl<T> Store for T where
    T: SessionStore
        + CodeStore
        + GrantStore
        + AccountStore
        + MarkStore
        + ValueStore
        + ChangeFeed
        + StoreHealth
        + Traced
{
}

/// A store that can record its calls in a trace.
pub trait Traced {
    /// The same store, recording in `trace`; `None` if its calls are no spans.
    fn recording(&self, trace: &Trace) -> Option<Arc<dyn Store>> {
        let _ = trace;
        None
    }
}

/// Sessions and their transitions. A session of one surface is unknown to callers of the other.
/// Every method fails with [`StoreError::Unavailable`] when the store does not answer within a
/// bounded time.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Stores a new session.
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError>;

    /// Looks at a session on behalf of a dialog, if the browser has one, and changes nothing.
    async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Peeked<StoredSession>, StoreError>;

    /// `dialog` enters, which consumes the transit token. It may enter again; another dialog that
    /// enters ends the session as [`GoneReason::Replayed`].
    async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Result<Entered<StoredSession>, StoreError>;

    /// A backend enters in the place of a dialog, if the session is of one of `clients`; one of
    /// another client is unknown to it. It may enter again. Where a dialog has entered, nothing
    /// changes.
    async fn enter_by_backend(
        &self,
        session: SessionRef,
        entry: Entry,
        backend: DialogId,
        clients: &[ClientId],
    ) -> Result<Peeked<StoredSession>, StoreError>;

    /// Counts an attempt to type the user code, at most `max` of them. It is counted before the code
    /// is compared, so that attempts in parallel gain nothing.
    async fn count_code_attempt(
        &self,
        session: SessionRef,
        max: u32,
    ) -> Result<CodeAttempt<StoredSession>, StoreError>;

    /// Pending → authenticated. The session's expiry does not change.
    async fn fulfil(
        &self,
        session: SessionRef,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError>;

    /// Pending → failed.
    async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
    ) -> Result<FailedSession, StoreError>;

    /// Reads the session and, where mode and state call for it, delivers the token.
    async fn read(
        &self,
        session: SessionRef,
        request: ReadRequest,
    ) -> Result<ReadResult, StoreError>;

    /// Records deliveries, each as a read by [`ReadMode::Claim`] would.
    async fn note_deliveries(&self, notes: &[DeliveryNote]) -> Result<(), StoreError>;

    /// How long a note of a delivery should wait for others that go with it.
    fn notes_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Undoes a delivery by [`Retention::Once`] to a reader that left before it had the token: the
    /// token is readable again. False, and nothing changes, when there was no such delivery, the
    /// session has expired, or its reader has ended it since.
    async fn hand_back(
        &self,
        session: SessionRef,
        reader: SubscriptionId,
    ) -> Result<bool, StoreError>;

    /// Ends the session if `event` is the id of the event that delivered its token.
    async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
    ) -> Result<Acknowledged, StoreError>;

    /// Acknowledges the token or cancels the session, whatever its state, on behalf of the reader
    /// with this session token.
    async fn end(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError>;

    /// Ends the session whatever its profile and state. False when there was nothing to end.
    async fn evict(&self, session: SessionRef, reason: GoneReason) -> Result<bool, StoreError>;
}

/// User codes of the device authorization grant (RFC 8628): an index of their own, in which a code
/// leads to one session. Codes are stored as keyed digests.
#[async_trait]
pub trait CodeStore: Send + Sync + 'static {
    /// Gives `code` to a session for `ttl`. False when another session has it.
    async fn claim_code(
        &self,
        code: Digest,
        target: CodeTarget,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// The session that has `code`.
    async fn find_code(&self, code: Digest) -> Result<Option<CodeTarget>, StoreError>;
}

/// Grants: what a sign-in with refresh tokens granted, and whether it was ended.
#[async_trait]
pub trait GrantStore: Send + Sync + 'static {
    /// Stores a new grant for `ttl`. Its first refresh token is generation 1.
    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError>;

    /// Replaces the refresh token of `generation` by the next one, which lives for `ttl`. An older
    /// generation ends the grant, which is remembered for `memory`; a newer one than the store knows
    /// is accepted, because the store may have lost the latest writes in a failover.
    async fn rotate_grant(
        &self,
        grant: GrantId,
        generation: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError>;

    /// Ends a grant and remembers that for `memory`, in which all its access tokens expire.
    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError>;

    /// Whether the grant was ended.
    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError>;
}

/// Accounts of which everything that was granted has ended.
#[async_trait]
pub trait AccountStore: Send + Sync + 'static {
    /// Ends what was granted to `account` up to `at`, and remembers that for `memory`. Of several
    /// times the latest counts.
    async fn end_account(
        &self,
        account: AccountId,
        at: UnixTime,
        memory: Duration,
    ) -> Result<(), StoreError>;

    /// The time up to which everything granted to `account` has ended.
    async fn account_ended_at(&self, account: AccountId) -> Result<Option<UnixTime>, StoreError>;
}

/// Marks: values that were used once, tokens that were revoked.
#[async_trait]
pub trait MarkStore: Send + Sync + 'static {
    /// Sets a mark for `ttl`. True for the caller that set it, false when it was set already.
    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError>;

    /// The same for a mark that must outlive a restart. In memory it does with a state file only.
    async fn mark_durably(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError>;

    /// Whether the mark is set.
    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError>;

    /// Adds `amount` to the count of this name and returns the sum. A count ends `window` after its
    /// first addition. A negative amount begins none.
    async fn count(&self, name: Digest, amount: i64, window: Duration) -> Result<i64, StoreError>;
}

/// Sealed values that are too large for a cookie, by a digest that only the cookie holds.
#[async_trait]
pub trait ValueStore: Send + Sync + 'static {
    /// Stores a value for `ttl`, in place of an earlier one of the same name.
    async fn put_value(&self, name: Digest, value: Bytes, ttl: Duration) -> Result<(), StoreError>;

    /// The value; `None` when it has expired or was removed.
    async fn value(&self, name: Digest) -> Result<Option<Bytes>, StoreError>;

    /// Removes a value.
    async fn remove_value(&self, name: Digest) -> Result<(), StoreError>;
}

/// Changes of the sessions that somebody on this instance waits for.
#[async_trait]
pub trait ChangeFeed: Send + Sync + 'static {
    /// Subscribes to the changes of `key`; returns once the subscription is confirmed. Calls for one
    /// key nest: each that succeeded is paired with one [`Self::unsubscribe`], one that failed or
    /// was dropped with none.
    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError>;

    /// Ends what [`Self::subscribe`] began, soon. Never blocks and never fails: a leftover subscription
    /// costs memory only and ends with the connection.
    fn unsubscribe(&self, key: SessionKey);
}

/// Health of a store.
#[async_trait]
pub trait StoreHealth: Send + Sync + 'static {
    /// Tries what sessions need.
    async fn check(&self) -> Result<(), StoreError>;

    /// Number of sessions held, recently ended ones included, if the store knows without asking.
    fn session_count(&self) -> Option<usize> {
        None
    }
}

/// Receives the changes of subscribed sessions.
pub trait Notifier: Send + Sync + 'static {
    /// The session changed; `fulfilled` carries the payload when the change was a fulfilment. True when
    /// a subscription was woken that has to send something yet.
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>) -> bool;

    /// Changes may have been missed (reconnect, failover): every subscription must read again.
    fn resync(&self);

    /// A connection to the store was lost and has been re-established.
    fn reconnected(&self) {}
}

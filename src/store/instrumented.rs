//! A store whose calls are counted, timed and traced, whichever store it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    session::{
        AccountId, ClientId, DialogId, Digest, EventId, Failure, GoneReason, GrantId, Outcome,
        SealedPayload, SessionKey, SessionRef, SubscriptionId,
    },
    store::{
        AccountStore, Acknowledged, ChangeFeed, CodeAttempt, CodeStore, CodeTarget, DeliveryNote,
        Ended, Entered, Entry, FailedSession, GrantStore, MarkStore, NewSession, Peeked, ReadMode,
        ReadRequest, ReadResult, Retention, Rotated, SessionStore, Store, StoreError, StoreHealth,
        Stored, StoredSession, Traced, ValueStore,
    },
    telemetry::Trace,
    util::clock::UnixTime,
};

/// Every operation by name.
pub const OPERATIONS: [&str; 30] = [
    "create",
    "peek",
    "enter",
    "enter_by_backend",
    "count_code_attempt",
    "fulfil",
    "fail",
    "poll",
    "attach",
    "claim",
    "hand_back",
    "acknowledge",
    "end",
    "evict",
    "mark",
    "is_marked",
    "put_value",
    "value",
    "remove_value",
    "count",
    "claim_code",
    "find_code",
    "begin_grant",
    "rotate_grant",
    "end_grant",
    "is_grant_ended",
    "end_account",
    "account_ended_at",
    "ping",
    "subscribe",
];

/// Every state that [`StoreObserver::state_entered`] reports.
pub const STATES: [&str; 6] =
    ["pending", "authenticated", "failed", "acknowledged", "cancelled", "replayed"];

/// Observes the calls of a store.
pub trait StoreObserver: Send + Sync + 'static {
    /// A call has returned after `elapsed`, with an error if `failed`.
    fn call_finished(&self, operation: &'static str, elapsed: Duration, failed: bool);

    /// A session entered a state by a call of this instance.
    fn state_entered(&self, state: &'static str);
}

/// A store and its observer.
pub(super) struct Instrumented {
    store: Arc<dyn Store>,
    observer: Arc<dyn StoreObserver>,
    /// Whether a call leaves the process and therefore is a span of its own.
    remote: bool,
    trace: Trace,
}

impl Instrumented {
    pub(super) fn new(
        store: Arc<dyn Store>,
        observer: Arc<dyn StoreObserver>,
        remote: bool,
    ) -> Self {
        Self { store, observer, remote, trace: Trace::none() }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let result = call.await;
        let (elapsed, failed) = (start.elapsed(), result.is_err());
        self.observer.call_finished(operation, elapsed, failed);
        if self.remote {
            self.trace.store_call(operation, elapsed, failed);
        }
        result
    }
}

impl Traced for Instrumented {
    fn recording(&self, trace: &Trace) -> Option<Arc<dyn Store>> {
        self.remote.then(|| {
            let (store, observer) = (Arc::clone(&self.store), Arc::clone(&self.observer));
            Arc::new(Self { store, observer, remote: true, trace: trace.clone() }) as _
        })
    }
}

#[async_trait]
impl SessionStore for Instrumented {
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError> {
        self.call("create", self.store.create(key, session)).await?;
        self.observer.state_entered("pending");
        Ok(())
    }

    async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Peeked<StoredSession>, StoreError> {
        self.call("peek", self.store.peek(session, entry, dialog)).await
    }

    async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Result<Entered<StoredSession>, StoreError> {
        let entered = self.call("enter", self.store.enter(session, entry, dialog)).await?;
        if entered == Entered::Replayed {
            self.observer.state_entered("replayed");
        }
        Ok(entered)
    }

    async fn enter_by_backend(
        &self,
        session: SessionRef,
        entry: Entry,
        backend: DialogId,
        clients: &[ClientId],
    ) -> Result<Peeked<StoredSession>, StoreError> {
        let entered = self.store.enter_by_backend(session, entry, backend, clients);
        self.call("enter_by_backend", entered).await
    }

    async fn count_code_attempt(
        &self,
        session: SessionRef,
        max: u32,
    ) -> Result<CodeAttempt<StoredSession>, StoreError> {
        self.call("count_code_attempt", self.store.count_code_attempt(session, max)).await
    }

    async fn fulfil(
        &self,
        session: SessionRef,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError> {
        let stored = self.call("fulfil", self.store.fulfil(session, payload)).await?;
        if stored == Stored::Done {
            self.observer.state_entered("authenticated");
        }
        Ok(stored)
    }

    async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
    ) -> Result<FailedSession, StoreError> {
        let failed = self.call("fail", self.store.fail(session, failure)).await?;
        if failed.stored == Stored::Done {
            self.observer.state_entered("failed");
        }
        Ok(failed)
    }

    async fn read(
        &self,
        session: SessionRef,
        request: ReadRequest,
    ) -> Result<ReadResult, StoreError> {
        let operation = match request.mode {
            ReadMode::Poll | ReadMode::PacedPoll(_) => "poll",
            ReadMode::Attach(_) => "attach",
            ReadMode::Claim(_) => "claim",
        };
        let ends_session = matches!(request.retention, Retention::Once(_));
        let result = self.call(operation, self.store.read(session, request)).await?;
        if ends_session && matches!(result, ReadResult::Settled(Outcome::Token { .. })) {
            self.observer.state_entered("acknowledged");
        }
        Ok(result)
    }

    async fn note_deliveries(&self, notes: &[DeliveryNote]) -> Result<(), StoreError> {
        self.call("claim", self.store.note_deliveries(notes)).await
    }

    fn notes_wait(&self) -> Duration {
        self.store.notes_wait()
    }

    async fn hand_back(
        &self,
        session: SessionRef,
        reader: SubscriptionId,
    ) -> Result<bool, StoreError> {
        self.call("hand_back", self.store.hand_back(session, reader)).await
    }

    async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
    ) -> Result<Acknowledged, StoreError> {
        let call = self.store.acknowledge(session, session_token, event);
        let acknowledged = self.call("acknowledge", call).await?;
        if acknowledged == Acknowledged::Done {
            self.observer.state_entered("acknowledged");
        }
        Ok(acknowledged)
    }

    async fn end(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let ended = self.call("end", self.store.end(session, session_token)).await?;
        match ended {
            Ended::Acknowledged => self.observer.state_entered("acknowledged"),
            Ended::Cancelled => self.observer.state_entered("cancelled"),
            Ended::Already(_) | Ended::Failed | Ended::Unknown | Ended::Unauthorized => {}
        }
        Ok(ended)
    }

    async fn evict(&self, session: SessionRef, reason: GoneReason) -> Result<bool, StoreError> {
        let evicted = self.call("evict", self.store.evict(session, reason)).await?;
        if evicted && reason == GoneReason::Replayed {
            self.observer.state_entered("replayed");
        }
        Ok(evicted)
    }
}

#[async_trait]
impl MarkStore for Instrumented {
    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        self.call("mark", self.store.mark(name, ttl)).await
    }

    async fn mark_durably(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        self.call("mark", self.store.mark_durably(name, ttl)).await
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        self.call("is_marked", self.store.is_marked(name)).await
    }

    async fn count(&self, name: Digest, amount: i64, window: Duration) -> Result<i64, StoreError> {
        self.call("count", self.store.count(name, amount, window)).await
    }
}

#[async_trait]
impl CodeStore for Instrumented {
    async fn claim_code(
        &self,
        code: Digest,
        target: CodeTarget,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.call("claim_code", self.store.claim_code(code, target, ttl)).await
    }

    async fn find_code(&self, code: Digest) -> Result<Option<CodeTarget>, StoreError> {
        self.call("find_code", self.store.find_code(code)).await
    }
}

#[async_trait]
impl ValueStore for Instrumented {
    async fn put_value(&self, name: Digest, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        self.call("put_value", self.store.put_value(name, value, ttl)).await
    }

    async fn value(&self, name: Digest) -> Result<Option<Bytes>, StoreError> {
        self.call("value", self.store.value(name)).await
    }

    async fn remove_value(&self, name: Digest) -> Result<(), StoreError> {
        self.call("remove_value", self.store.remove_value(name)).await
    }
}

#[async_trait]
impl GrantStore for Instrumented {
    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError> {
        self.call("begin_grant", self.store.begin_grant(grant, ttl)).await
    }

    async fn rotate_grant(
        &self,
        grant: GrantId,
        generation: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError> {
        let rotated = self.store.rotate_grant(grant, generation, ttl, memory);
        self.call("rotate_grant", rotated).await
    }

    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError> {
        self.call("end_grant", self.store.end_grant(grant, memory)).await
    }

    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError> {
        self.call("is_grant_ended", self.store.is_grant_ended(grant)).await
    }
}

#[async_trait]
impl AccountStore for Instrumented {
    async fn end_account(
        &self,
        account: AccountId,
        at: UnixTime,
        memory: Duration,
    ) -> Result<(), StoreError> {
        self.call("end_account", self.store.end_account(account, at, memory)).await
    }

    async fn account_ended_at(&self, account: AccountId) -> Result<Option<UnixTime>, StoreError> {
        self.call("account_ended_at", self.store.account_ended_at(account)).await
    }
}

#[async_trait]
impl ChangeFeed for Instrumented {
    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.call("subscribe", self.store.subscribe(key)).await
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.store.unsubscribe(key);
    }
}

#[async_trait]
impl StoreHealth for Instrumented {
    async fn check(&self) -> Result<(), StoreError> {
        self.call("ping", self.store.check()).await
    }

    fn session_count(&self) -> Option<usize> {
        self.store.session_count()
    }
}

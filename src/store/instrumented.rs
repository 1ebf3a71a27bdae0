//! A store whose calls are counted, timed and traced, whichever store it is.
//!
//! Made by `app` around the real one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use crate::{
    session::{Digest, Failure, GoneReason, GrantId, SealedPayload, SessionKey},
    store::{
        Ended, Entered, Entry, NewSession, Read, ReadMode, ReadOutcome, Rotated, SessionStore,
        StoreError, Stored,
    },
    telemetry,
};

/// Every operation by name.
pub const OPERATIONS: [&str; 17] = [
    "create",
    "enter",
    "fulfil",
    "fail",
    "poll",
    "attach",
    "claim",
    "acknowledge",
    "evict",
    "mark",
    "is_marked",
    "begin_grant",
    "rotate_grant",
    "end_grant",
    "is_grant_ended",
    "ping",
    "subscribe",
];

/// Every state that [`Observer::came_into`] hears of.
pub const STATES: [&str; 6] =
    ["pending", "authenticated", "failed", "acknowledged", "cancelled", "replayed"];

/// Who is told of what a store does.
pub trait Observer: Send + Sync + 'static {
    /// A call ended; `failed` when the store did not do what it was asked.
    fn called(&self, operation: &'static str, took: Duration, failed: bool);

    /// A session came into a state by a call of this instance.
    fn came_into(&self, state: &'static str);
}

/// A store and its observer.
pub struct Observed {
    store: Arc<dyn SessionStore>,
    observer: Arc<dyn Observer>,
    /// Whether a call leaves the process, and so is a part of a trace.
    remote: bool,
}

impl Observed {
    /// Observes `store`.
    pub fn new(
        store: Arc<dyn SessionStore>,
        observer: Arc<dyn Observer>,
        remote: bool,
    ) -> Arc<Self> {
        Arc::new(Self { store, observer, remote })
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let answer = call.await;
        let (took, failed) = (began.elapsed(), answer.is_err());
        self.observer.called(operation, took, failed);
        if self.remote {
            telemetry::store_call(operation, took, failed);
        }
        answer
    }
}

#[async_trait]
impl SessionStore for Observed {
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError> {
        self.call("create", self.store.create(key, session)).await?;
        self.observer.came_into("pending");
        Ok(())
    }

    async fn enter(&self, key: SessionKey, entry: Entry) -> Result<Entered, StoreError> {
        let entered = self.call("enter", self.store.enter(key, entry)).await?;
        if entered == Entered::Replayed {
            self.observer.came_into("replayed");
        }
        Ok(entered)
    }

    async fn fulfil(&self, key: SessionKey, payload: SealedPayload) -> Result<Stored, StoreError> {
        let stored = self.call("fulfil", self.store.fulfil(key, payload)).await?;
        if stored == Stored::Done {
            self.observer.came_into("authenticated");
        }
        Ok(stored)
    }

    async fn fail(&self, key: SessionKey, failure: Failure) -> Result<Stored, StoreError> {
        let stored = self.call("fail", self.store.fail(key, failure)).await?;
        if stored == Stored::Done {
            self.observer.came_into("failed");
        }
        Ok(stored)
    }

    async fn read(&self, key: SessionKey, read: Read) -> Result<ReadOutcome, StoreError> {
        let operation = match read.mode {
            ReadMode::Poll => "poll",
            ReadMode::Attach(_) => "attach",
            ReadMode::Claim(_) => "claim",
        };
        let once = read.grace.is_none();
        let outcome = self.call(operation, self.store.read(key, read)).await?;
        if once && matches!(outcome, ReadOutcome::Token { .. }) {
            self.observer.came_into("acknowledged");
        }
        Ok(outcome)
    }

    async fn end(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let ended = self.call("acknowledge", self.store.end(key, session_token)).await?;
        match ended {
            Ended::Acknowledged => self.observer.came_into("acknowledged"),
            Ended::Cancelled => self.observer.came_into("cancelled"),
            Ended::Already(_) | Ended::Failed | Ended::Unknown | Ended::Unauthorized => {}
        }
        Ok(ended)
    }

    async fn evict(&self, key: SessionKey, reason: GoneReason) -> Result<bool, StoreError> {
        let evicted = self.call("evict", self.store.evict(key, reason)).await?;
        if evicted && reason == GoneReason::Replayed {
            self.observer.came_into("replayed");
        }
        Ok(evicted)
    }

    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        self.call("mark", self.store.mark(name, ttl)).await
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        self.call("is_marked", self.store.is_marked(name)).await
    }

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

    fn held(&self) -> Option<usize> {
        self.store.held()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", self.store.ping()).await
    }

    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.call("subscribe", self.store.subscribe(key)).await
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.store.unsubscribe(key);
    }
}

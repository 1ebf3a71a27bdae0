//! Stores under test, the sessions in them and what they publish.

use std::{
    any::Any,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use token_relay::{
    session::{
        DialogId, Digest, EventId, Failure, GoneReason, Outcome, Profile, SealedPayload, SessionId,
        SessionKey, SessionRef, SubscriptionId,
    },
    store::{
        Acknowledged, Ended, Entered, Entry, Fulfilled, NewSession, Notifier, Peeked, ReadMode,
        ReadRequest, ReadResult, RedisOptions, Retention, Store, StoreHealth as _, Stored,
        StoredDetails, StoredSession,
        memory::MemoryStore,
        redis::{RedisStore, RedisUrl},
    },
};

use crate::support::redis::{Cluster, Server, eventually};

/// Records what the store publishes.
#[derive(Default)]
pub struct Recorder {
    changes: Mutex<HashMap<SessionKey, Vec<Option<SealedPayload>>>>,
    resyncs: AtomicUsize,
}

impl Notifier for Recorder {
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>) -> bool {
        self.changes
            .lock()
            .unwrap()
            .entry(key)
            .or_default()
            .push(fulfilled.map(|fulfilled| fulfilled.payload));
        false
    }

    fn resync(&self) {
        self.resyncs.fetch_add(1, Ordering::SeqCst);
    }
}

impl Recorder {
    pub fn of(&self, session: SessionRef) -> Vec<Option<SealedPayload>> {
        self.changes.lock().unwrap().get(&session.key).cloned().unwrap_or_default()
    }

    pub fn resyncs(&self) -> usize {
        self.resyncs.load(Ordering::SeqCst)
    }

    /// Waits for the first `count` notices of a session.
    pub async fn heard(&self, session: SessionRef, count: usize) -> Vec<Option<SealedPayload>> {
        eventually("a notice comes", || async { self.of(session).len() >= count }).await;
        self.of(session)
    }
}

/// A store with what keeps it alive.
#[derive(Clone)]
pub struct Harness {
    pub store: Arc<dyn Store>,
    pub notices: Arc<Recorder>,
    _server: Arc<dyn Any + Send + Sync>,
}

pub const TIMEOUT: Duration = Duration::from_secs(2);

pub fn settings(url: &str) -> RedisOptions {
    let url = RedisUrl::parse(url).expect("a URL");
    RedisOptions { url, prefix: "test".to_owned(), command_timeout: TIMEOUT }
}

pub async fn redis_at(url: &str) -> (Arc<RedisStore>, Arc<Recorder>) {
    let notices = Arc::new(Recorder::default());
    let store = RedisStore::connect(&settings(url), notices.clone()).await.expect("a store");
    (store, notices)
}

pub async fn redis() -> Harness {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    store.check().await.expect("redis answers");
    Harness { store, notices, _server: Arc::new(server) }
}

pub async fn redis_cluster() -> Harness {
    let cluster = Cluster::start().await;
    let (store, notices) = redis_at(&cluster.url()).await;
    store.check().await.expect("the cluster answers");
    Harness { store, notices, _server: Arc::new(cluster) }
}

pub fn key() -> SessionKey {
    SessionId::generate().key()
}

pub fn digest() -> Digest {
    *key().digest()
}

pub fn payload(text: &'static [u8]) -> SealedPayload {
    SealedPayload(Bytes::from_static(text))
}

/// Sealed bytes are arbitrary: none may be mistaken for text.
pub fn sealed() -> SealedPayload {
    payload(b"\x01\x00\xff\r\n$5\r\nsealed\x00")
}

pub const LIFE: Duration = Duration::from_secs(60);
pub const GRACE: Option<Duration> = Some(Duration::from_secs(30));

pub fn stored(profile: Profile) -> StoredSession {
    StoredSession {
        profile,
        session_token: None,
        browser: None,
        trace: None,
        details: StoredDetails::Sealed(Bytes::from_static(b"\x01\xff\r\n sealed details")),
        client: None,
    }
}

pub fn legacy() -> NewSession {
    NewSession { session: stored(Profile::Legacy), transit: None, ttl: LIFE }
}

pub fn bound(session_token: Digest, transit: Digest) -> NewSession {
    let session = StoredSession {
        session_token: Some(session_token),
        browser: Some(digest()),
        ..stored(Profile::Bound)
    };
    NewSession { session, transit: Some((transit, LIFE)), ttl: LIFE }
}

pub fn device(session_token: Digest, transit: Digest) -> NewSession {
    let new = bound(session_token, transit);
    let session = StoredSession { profile: Profile::Device, ..new.session };
    NewSession { session, ..new }
}

pub fn meet(transit: Digest) -> NewSession {
    NewSession { session: stored(Profile::Meet), transit: Some((transit, LIFE)), ttl: LIFE }
}

/// Keeps the token for the grace, or delivers it once.
pub fn retention(grace: Option<Duration>) -> Retention {
    grace.map_or_else(|| Retention::Once(SubscriptionId::generate()), Retention::Grace)
}

pub fn poll(grace: Option<Duration>) -> ReadRequest {
    ReadRequest { session_token: None, mode: ReadMode::Poll, retention: retention(grace) }
}

pub fn attach(subscription: SubscriptionId) -> ReadRequest {
    ReadRequest {
        session_token: None,
        mode: ReadMode::Attach(subscription),
        retention: retention(GRACE),
    }
}

pub fn claim(subscription: SubscriptionId) -> ReadRequest {
    ReadRequest {
        session_token: None,
        mode: ReadMode::Claim(subscription),
        retention: retention(GRACE),
    }
}

pub fn is_token(outcome: &ReadResult) -> bool {
    matches!(outcome, ReadResult::Settled(Outcome::Token { payload, .. }) if *payload == sealed())
}

pub fn is_pending(outcome: &ReadResult) -> bool {
    matches!(outcome, ReadResult::Pending { .. })
}

impl Harness {
    pub async fn create(&self, session: NewSession) -> SessionRef {
        let session_ref = SessionRef { surface: session.session.profile.surface(), key: key() };
        self.store.create(session_ref.key, session).await.expect("created");
        session_ref
    }

    /// A legacy session that is authenticated.
    pub async fn authenticated(&self) -> SessionRef {
        let session = self.create(legacy()).await;
        assert_eq!(self.fulfil(session).await, Stored::Done);
        session
    }

    pub async fn subscribe(&self, session: SessionRef) {
        self.store.subscribe(session.key).await.expect("subscribed");
    }

    pub async fn fulfil(&self, session: SessionRef) -> Stored {
        self.store.fulfil(session, sealed()).await.expect("an answer")
    }

    pub async fn fail(&self, session: SessionRef, failure: Failure) -> Stored {
        self.store.fail(session, failure).await.expect("an answer").stored
    }

    pub async fn read(&self, session: SessionRef, request: ReadRequest) -> ReadResult {
        self.store.read(session, request).await.expect("an answer")
    }

    pub async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Peeked<StoredSession> {
        self.store.peek(session, entry, dialog).await.expect("an answer")
    }

    pub async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Entered<StoredSession> {
        self.store.enter(session, entry, dialog).await.expect("an answer")
    }

    pub async fn acknowledge(&self, session: SessionRef, event: EventId) -> Acknowledged {
        self.store.acknowledge(session, None, event).await.expect("an answer")
    }

    pub async fn end(&self, session: SessionRef) -> Ended {
        self.store.end(session, None).await.expect("an answer")
    }

    pub async fn evict(&self, session: SessionRef) -> bool {
        self.store.evict(session, GoneReason::Replayed).await.expect("an answer")
    }
}

/// The store of a single process.
pub async fn memory() -> Harness {
    let notices = Arc::new(Recorder::default());
    let store = MemoryStore::new(notices.clone(), 64 << 20);
    Harness { store, notices, _server: Arc::new(()) }
}

pub fn superseded() -> ReadResult {
    ReadResult::Settled(Outcome::Superseded)
}

pub fn gone(reason: GoneReason) -> ReadResult {
    ReadResult::Settled(Outcome::Gone(reason))
}

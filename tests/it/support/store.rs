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
        Digest, GoneReason, Outcome, Profile, SealedPayload, SessionId, SessionInfo, SessionKey,
        SubscriptionId, UserCode,
    },
    store::{
        Ended, Entered, Entry, Fulfilled, Health as _, NewSession, Notifier, ReadMode, ReadRequest,
        ReadResult, RedisOptions, Store, Stored,
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
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>) {
        self.changes
            .lock()
            .unwrap()
            .entry(key)
            .or_default()
            .push(fulfilled.map(|fulfilled| fulfilled.payload));
    }

    fn resync(&self) {
        self.resyncs.fetch_add(1, Ordering::SeqCst);
    }
}

impl Recorder {
    pub fn of(&self, key: SessionKey) -> Vec<Option<SealedPayload>> {
        self.changes.lock().unwrap().get(&key).cloned().unwrap_or_default()
    }

    pub fn resyncs(&self) -> usize {
        self.resyncs.load(Ordering::SeqCst)
    }

    /// Waits for the first `count` notices of a session.
    pub async fn heard(&self, key: SessionKey, count: usize) -> Vec<Option<SealedPayload>> {
        eventually("a notice comes", || async { self.of(key).len() >= count }).await;
        self.of(key)
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

pub fn info(profile: Profile) -> SessionInfo {
    SessionInfo {
        profile,
        user_code: None,
        client_name: None,
        origin: None,
        session_token: None,
        trace: None,
    }
}

pub fn legacy() -> NewSession {
    NewSession { info: info(Profile::Legacy), transit: None, ttl: LIFE }
}

pub fn bound(session_token: Digest, transit: Digest) -> NewSession {
    let info = SessionInfo {
        user_code: Some(UserCode::generate()),
        client_name: Some("Mail \u{2713} add-in".to_owned()),
        origin: Some("https://add-in.example".to_owned()),
        session_token: Some(session_token),
        ..info(Profile::Bound)
    };
    NewSession { info, transit: Some((transit, LIFE)), ttl: LIFE }
}

pub fn meet(transit: Digest) -> NewSession {
    NewSession { info: info(Profile::Meet), transit: Some((transit, LIFE)), ttl: LIFE }
}

pub fn poll(grace: Option<Duration>) -> ReadRequest {
    ReadRequest { session_token: None, mode: ReadMode::Poll, grace }
}

pub fn attach(subscription: SubscriptionId) -> ReadRequest {
    ReadRequest { session_token: None, mode: ReadMode::Attach(subscription), grace: GRACE }
}

pub fn claim(subscription: SubscriptionId) -> ReadRequest {
    ReadRequest { session_token: None, mode: ReadMode::Claim(subscription), grace: GRACE }
}

pub fn is_token(outcome: &ReadResult) -> bool {
    matches!(outcome, ReadResult::Settled(Outcome::Token { payload, .. }) if *payload == sealed())
}

pub fn is_pending(outcome: &ReadResult) -> bool {
    matches!(outcome, ReadResult::Pending { .. })
}

impl Harness {
    pub async fn create(&self, session: NewSession) -> SessionKey {
        let key = key();
        self.store.create(key, session).await.expect("created");
        key
    }

    /// A legacy session whose token is there.
    pub async fn authenticated(&self) -> SessionKey {
        let key = self.create(legacy()).await;
        assert_eq!(self.fulfil(key).await, Stored::Done);
        key
    }

    pub async fn fulfil(&self, key: SessionKey) -> Stored {
        self.store.fulfil(key, sealed()).await.expect("an answer")
    }

    pub async fn read(&self, key: SessionKey, request: ReadRequest) -> ReadResult {
        self.store.read(key, request).await.expect("an answer")
    }

    pub async fn enter(&self, key: SessionKey, entry: Entry) -> Entered {
        self.store.enter(key, entry).await.expect("an answer")
    }

    pub async fn end(&self, key: SessionKey) -> Ended {
        self.store.end(key, None).await.expect("an answer")
    }
}

/// The store of a single process.
pub async fn memory() -> Harness {
    let notices = Arc::new(Recorder::default());
    let store = MemoryStore::new(notices.clone());
    Harness { store, notices, _server: Arc::new(()) }
}

pub fn superseded() -> ReadResult {
    ReadResult::Settled(Outcome::Superseded)
}

pub fn gone(reason: GoneReason) -> ReadResult {
    ReadResult::Settled(Outcome::Gone(reason))
}

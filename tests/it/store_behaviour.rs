//! One set of tests for every store, then what only Redis can do: fail and come back.
//!
//! The set is instantiated behind [`cases`]; a further store is one more line there.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::redis::{Cluster, Sentinels, Server, command, eventually, tls_server, within};
use bytes::Bytes;
use token_relay::session::{
    Digest, Failure, GoneReason, GrantId, Profile, ReaderId, SealedPayload, SessionId, SessionInfo,
    SessionKey, State, UserCode,
};
use token_relay::store::redis::{RedisStore, RedisStoreOptions};
use token_relay::store::{
    Ended, Entered, Entry, Fulfilled, NewSession, Notifier, Read, ReadMode, ReadOutcome, Rotated,
    SessionStore, StoreError, Stored, TOMBSTONE,
};

/// Keeps what the store tells.
#[derive(Default)]
struct Recorder {
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
    fn of(&self, key: SessionKey) -> Vec<Option<SealedPayload>> {
        self.changes.lock().unwrap().get(&key).cloned().unwrap_or_default()
    }

    fn resyncs(&self) -> usize {
        self.resyncs.load(Ordering::SeqCst)
    }

    /// Waits for the first `count` notices of a session.
    async fn heard(&self, key: SessionKey, count: usize) -> Vec<Option<SealedPayload>> {
        eventually("a notice comes", || async { self.of(key).len() >= count }).await;
        self.of(key)
    }
}

/// A store with what keeps it alive.
#[derive(Clone)]
struct Harness {
    store: Arc<dyn SessionStore>,
    notices: Arc<Recorder>,
    _server: Arc<dyn Any + Send + Sync>,
}

const TIMEOUT: Duration = Duration::from_secs(2);

fn options(url: &str) -> RedisStoreOptions {
    RedisStoreOptions { url: url.to_owned(), prefix: "test".to_owned(), command_timeout: TIMEOUT }
}

async fn redis_at(url: &str) -> (Arc<RedisStore>, Arc<Recorder>) {
    let notices = Arc::new(Recorder::default());
    let store = RedisStore::connect(&options(url), notices.clone()).await.expect("a store");
    (store, notices)
}

async fn redis() -> Harness {
    let server = Server::start(&[]).await;
    let (store, notices) = redis_at(&server.url()).await;
    store.ping().await.expect("redis answers");
    Harness { store, notices, _server: Arc::new(server) }
}

async fn redis_cluster() -> Harness {
    let cluster = Cluster::start().await;
    let (store, notices) = redis_at(&cluster.url()).await;
    store.ping().await.expect("the cluster answers");
    Harness { store, notices, _server: Arc::new(cluster) }
}

fn key() -> SessionKey {
    SessionId::generate().key()
}

fn digest() -> Digest {
    *key().digest()
}

fn payload(text: &'static [u8]) -> SealedPayload {
    SealedPayload(Bytes::from_static(text))
}

/// Sealed bytes are arbitrary: none may be mistaken for text.
fn sealed() -> SealedPayload {
    payload(b"\x01\x00\xff\r\n$5\r\nsealed\x00")
}

const LIFE: Duration = Duration::from_secs(60);
const GRACE: Option<Duration> = Some(Duration::from_secs(30));

fn info(profile: Profile) -> SessionInfo {
    SessionInfo {
        profile,
        user_code: None,
        client_name: None,
        origin: None,
        session_token: None,
        trace: None,
    }
}

fn legacy() -> NewSession {
    NewSession { info: info(Profile::Legacy), transit: None, ttl: LIFE }
}

fn bound(session_token: Digest, transit: Digest) -> NewSession {
    let info = SessionInfo {
        user_code: Some(UserCode::generate()),
        client_name: Some("Mail \u{2713} add-in".to_owned()),
        origin: Some("https://add-in.example".to_owned()),
        session_token: Some(session_token),
        ..info(Profile::Bound)
    };
    NewSession { info, transit: Some((transit, LIFE)), ttl: LIFE }
}

fn meet(transit: Digest) -> NewSession {
    NewSession { info: info(Profile::Meet), transit: Some((transit, LIFE)), ttl: LIFE }
}

fn poll(grace: Option<Duration>) -> Read {
    Read { session_token: None, mode: ReadMode::Poll, grace }
}

fn attach(reader: ReaderId) -> Read {
    Read { session_token: None, mode: ReadMode::Attach(reader), grace: GRACE }
}

fn claim(reader: ReaderId) -> Read {
    Read { session_token: None, mode: ReadMode::Claim(reader), grace: GRACE }
}

fn is_token(outcome: &ReadOutcome) -> bool {
    matches!(outcome, ReadOutcome::Token { payload, .. } if *payload == sealed())
}

fn is_pending(outcome: &ReadOutcome) -> bool {
    matches!(outcome, ReadOutcome::Pending { .. })
}

impl Harness {
    async fn create(&self, session: NewSession) -> SessionKey {
        let key = key();
        self.store.create(key, session).await.expect("created");
        key
    }

    /// A legacy session whose token is there.
    async fn authenticated(&self) -> SessionKey {
        let key = self.create(legacy()).await;
        assert_eq!(self.fulfil(key).await, Stored::Done);
        key
    }

    async fn fulfil(&self, key: SessionKey) -> Stored {
        self.store.fulfil(key, sealed()).await.expect("an answer")
    }

    async fn read(&self, key: SessionKey, read: Read) -> ReadOutcome {
        self.store.read(key, read).await.expect("an answer")
    }

    async fn enter(&self, key: SessionKey, entry: Entry) -> Entered {
        self.store.enter(key, entry).await.expect("an answer")
    }

    async fn end(&self, key: SessionKey) -> Ended {
        self.store.end(key, None).await.expect("an answer")
    }
}

/// What holds for every store. Each case gets a fresh one.
mod cases {
    use super::*;

    pub async fn an_unknown_session_is_unknown_to_all(it: Harness) {
        let key = key();
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Unknown);
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.fulfil(key).await, Stored::Unknown);
        let failed = it.store.fail(key, Failure::new("access_denied", "no")).await.unwrap();
        assert_eq!(failed, Stored::Unknown);
        assert_eq!(it.end(key).await, Ended::Unknown);
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
    }

    pub async fn a_pending_session_tells_its_remaining_life(it: Harness) {
        let key = it.create(legacy()).await;
        let ReadOutcome::Pending { remaining } = it.read(key, poll(None)).await else {
            panic!("not pending")
        };
        assert!(remaining <= LIFE && remaining > LIFE - Duration::from_secs(5), "{remaining:?}");
    }

    pub async fn a_read_once_poll_ends_the_session(it: Harness) {
        let key = it.authenticated().await;
        assert!(is_token(&it.read(key, poll(None)).await));
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Gone(GoneReason::Acknowledged));
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Gone(GoneReason::Acknowledged)));
    }

    pub async fn the_age_counts_from_the_login(it: Harness) {
        let key = it.authenticated().await;
        let start = Instant::now();
        let outcome = loop {
            // Before the read, which may be what takes its time.
            let late = start.elapsed() > Duration::from_millis(300);
            let outcome = it.read(key, poll(GRACE)).await;
            if late {
                break outcome;
            }
        };
        let ReadOutcome::Token { age, .. } = outcome else { panic!("{outcome:?}") };
        assert!(age >= Duration::from_millis(250) && age < Duration::from_secs(10), "{age:?}");
    }

    pub async fn within_the_grace_the_token_is_read_again(it: Harness) {
        let key = it.authenticated().await;
        for _ in 0..3 {
            assert!(is_token(&it.read(key, poll(GRACE)).await));
        }
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Delivered));
        // A read-once poll is the last one, also now.
        assert!(is_token(&it.read(key, poll(None)).await));
        assert_eq!(it.read(key, poll(GRACE)).await, ReadOutcome::Gone(GoneReason::Acknowledged));
    }

    pub async fn after_the_grace_the_session_is_over(it: Harness) {
        let key = it.authenticated().await;
        let grace = Duration::from_millis(400);
        let start = Instant::now();
        assert!(is_token(&it.read(key, poll(Some(grace))).await));
        // Later reads do not extend it.
        let outcome = loop {
            let outcome = it.read(key, poll(Some(grace))).await;
            if !is_token(&outcome) {
                break outcome;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "the grace has no end");
        };
        // The store counts in milliseconds.
        assert!(start.elapsed() + Duration::from_millis(2) >= grace, "{:?}", start.elapsed());
        assert_eq!(outcome, ReadOutcome::Gone(GoneReason::Expired));
    }

    pub async fn the_grace_ends_with_the_session(it: Harness) {
        let ttl = Duration::from_millis(600);
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert!(is_token(&it.read(key, poll(GRACE)).await));
        eventually("the session expires", || async {
            it.read(key, poll(GRACE)).await == ReadOutcome::Gone(GoneReason::Expired)
        })
        .await;
    }

    pub async fn a_session_expires_and_is_remembered(it: Harness) {
        let ttl = Duration::from_millis(300);
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        assert!(is_pending(&it.read(key, poll(None)).await));
        eventually("the session expires", || async {
            it.read(key, poll(None)).await == ReadOutcome::Gone(GoneReason::Expired)
        })
        .await;
        let gone = State::Gone(GoneReason::Expired);
        assert_eq!(it.fulfil(key).await, Stored::NotPending(gone.clone()));
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::NotPending(gone));
        assert_eq!(it.end(key).await, Ended::Already(GoneReason::Expired));
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
    }

    pub async fn fulfilling_does_not_prolong_the_session(it: Harness) {
        let ttl = Duration::from_millis(700);
        let start = Instant::now();
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        eventually("half its life is over", || async { start.elapsed() > ttl / 2 }).await;
        assert_eq!(it.fulfil(key).await, Stored::Done);
        eventually("the session expires", || async {
            it.read(key, claim(ReaderId::generate())).await != ReadOutcome::Superseded
        })
        .await;
        assert!(start.elapsed() < ttl * 2, "lived {:?} in place of {ttl:?}", start.elapsed());
        let outcome = it.read(key, poll(None)).await;
        assert_eq!(outcome, ReadOutcome::Gone(GoneReason::Expired));
    }

    pub async fn the_newest_reader_wins(it: Harness) {
        let key = it.create(legacy()).await;
        let (old, new) = (ReaderId::generate(), ReaderId::generate());
        assert!(is_pending(&it.read(key, attach(old)).await));
        assert!(is_pending(&it.read(key, attach(new)).await));
        // Before there is a token nobody is turned away.
        assert!(is_pending(&it.read(key, claim(old)).await));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.read(key, claim(old)).await, ReadOutcome::Superseded);
        assert!(is_token(&it.read(key, claim(new)).await));
        // Also after the delivery.
        assert_eq!(it.read(key, claim(old)).await, ReadOutcome::Superseded);
        assert!(is_token(&it.read(key, claim(new)).await));
        assert!(is_token(&it.read(key, attach(old)).await));
        assert_eq!(it.read(key, claim(new)).await, ReadOutcome::Superseded);
        assert!(is_token(&it.read(key, claim(old)).await));
    }

    pub async fn a_poll_displaces_nobody(it: Harness) {
        let key = it.create(legacy()).await;
        let reader = ReaderId::generate();
        assert!(is_pending(&it.read(key, attach(reader)).await));
        assert!(is_pending(&it.read(key, poll(GRACE)).await));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert!(is_token(&it.read(key, claim(reader)).await));
    }

    pub async fn attaching_after_the_login_delivers_at_once(it: Harness) {
        let key = it.authenticated().await;
        let reader = ReaderId::generate();
        assert!(is_token(&it.read(key, attach(reader)).await));
        assert!(is_token(&it.read(key, claim(reader)).await));
    }

    pub async fn a_bound_session_needs_its_token(it: Harness) {
        let (session_token, transit) = (digest(), digest());
        let session = bound(session_token, transit);
        let expected = session.info.clone();
        let key = it.create(session).await;
        let with = |session_token, mode| Read { session_token, mode, grace: GRACE };
        let reader = ReaderId::generate();
        for wrong in [None, Some(digest()), Some(transit)] {
            for mode in [ReadMode::Poll, ReadMode::Attach(reader), ReadMode::Claim(reader)] {
                assert_eq!(it.read(key, with(wrong, mode)).await, ReadOutcome::Unauthorized);
            }
            assert_eq!(it.store.end(key, wrong).await.unwrap(), Ended::Unauthorized);
        }
        let right = Some(session_token);
        assert!(is_pending(&it.read(key, with(right, ReadMode::Attach(reader))).await));
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(expected));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        // A stranger changes nothing: it displaces no reader and consumes no token.
        let stranger = ReadMode::Attach(ReaderId::generate());
        assert_eq!(it.read(key, with(None, stranger)).await, ReadOutcome::Unauthorized);
        assert_eq!(
            it.read(key, Read { grace: None, ..with(None, stranger) }).await,
            ReadOutcome::Unauthorized
        );
        assert!(is_token(&it.read(key, with(right, ReadMode::Claim(reader))).await));
        assert_eq!(it.store.end(key, right).await.unwrap(), Ended::Acknowledged);
        // Also what is over is only told to who may know.
        assert_eq!(it.read(key, with(None, ReadMode::Poll)).await, ReadOutcome::Unauthorized);
        assert_eq!(
            it.read(key, with(right, ReadMode::Poll)).await,
            ReadOutcome::Gone(GoneReason::Acknowledged)
        );
        assert_eq!(
            it.store.end(key, right).await.unwrap(),
            Ended::Already(GoneReason::Acknowledged)
        );
    }

    pub async fn a_legacy_session_is_entered_by_its_id_any_number_of_times(it: Harness) {
        let key = it.create(legacy()).await;
        for _ in 0..2 {
            let entered = it.enter(key, Entry::SessionId).await;
            assert_eq!(entered, Entered::Admitted(info(Profile::Legacy)));
        }
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(
            it.enter(key, Entry::SessionId).await,
            Entered::NotPending(State::Authenticated)
        );
    }

    pub async fn a_meet_session_is_not_entered_by_its_id(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(
            it.enter(key, Entry::Transit(transit)).await,
            Entered::Admitted(info(Profile::Meet))
        );
    }

    pub async fn a_replayed_transit_token_kills_the_session(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        it.store.subscribe(key).await.unwrap();
        assert!(matches!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(_)));
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Gone(GoneReason::Replayed));
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Gone(GoneReason::Replayed)));
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
    }

    pub async fn a_replay_takes_back_a_token_that_nobody_has_yet(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert!(matches!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(_)));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Gone(GoneReason::Replayed));
    }

    pub async fn a_transit_token_expires_before_its_session(it: Harness) {
        let transit = digest();
        let session =
            NewSession { transit: Some((transit, Duration::from_millis(1))), ..meet(transit) };
        let key = it.create(session).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::TransitExpired);
        assert!(is_pending(&it.read(key, poll(None)).await));
    }

    pub async fn an_unused_transit_token_finds_the_session_not_pending(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert_eq!(it.end(key).await, Ended::Cancelled);
        assert_eq!(
            it.enter(key, Entry::Transit(transit)).await,
            Entered::NotPending(State::Gone(GoneReason::Cancelled))
        );
    }

    pub async fn a_failure_is_told(it: Harness) {
        let key = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        let failure = Failure::new("access_denied", "the person said n\u{f6}");
        let stored = it.store.fail(key, failure.clone()).await.unwrap();
        assert_eq!(stored, Stored::Done);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Failed(failure.clone()));
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Failed(failure.clone()));
        let failed = State::Failed(failure.clone());
        assert_eq!(it.fulfil(key).await, Stored::NotPending(failed.clone()));
        assert_eq!(
            it.store.fail(key, Failure::new("server_error", "")).await.unwrap(),
            Stored::NotPending(failed.clone())
        );
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::NotPending(failed));
        assert_eq!(it.end(key).await, Ended::Failed);
        assert!(!matches!(it.read(key, poll(None)).await, ReadOutcome::Failed(_)));
    }

    pub async fn a_login_that_came_first_is_not_undone_by_a_failure(it: Harness) {
        let key = it.authenticated().await;
        assert_eq!(
            it.store.fail(key, Failure::new("server_error", "late")).await.unwrap(),
            Stored::NotPending(State::Authenticated)
        );
        assert!(is_token(&it.read(key, poll(None)).await));
    }

    pub async fn ending_acknowledges_or_cancels(it: Harness) {
        let key = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        assert_eq!(it.end(key).await, Ended::Cancelled);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.end(key).await, Ended::Already(GoneReason::Cancelled));
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Gone(GoneReason::Cancelled));

        let key = it.authenticated().await;
        it.store.subscribe(key).await.unwrap();
        assert!(is_token(&it.read(key, poll(GRACE)).await));
        assert_eq!(it.end(key).await, Ended::Acknowledged);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.read(key, poll(GRACE)).await, ReadOutcome::Gone(GoneReason::Acknowledged));
    }

    pub async fn evicting_ends_any_profile(it: Harness) {
        let session_token = digest();
        let key = it.create(bound(session_token, digest())).await;
        it.store.subscribe(key).await.unwrap();
        assert!(it.store.evict(key, GoneReason::Replayed).await.unwrap());
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
        let read = Read { session_token: Some(session_token), ..poll(None) };
        assert_eq!(it.read(key, read).await, ReadOutcome::Gone(GoneReason::Replayed));
    }

    pub async fn a_fulfilment_is_told_with_its_payload(it: Harness) {
        let key = it.create(legacy()).await;
        let other = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        assert_eq!(it.fulfil(other).await, Stored::Done);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        let heard = it.notices.heard(key, 1).await;
        assert!(heard == [Some(sealed())] || heard == [None], "{heard:?}");
        assert!(it.notices.of(other).is_empty(), "nobody subscribed to it");
    }

    pub async fn subscriptions_nest_and_end(it: Harness) {
        let key = it.create(legacy()).await;
        let last = it.create(legacy()).await;
        for _ in 0..3 {
            it.store.subscribe(key).await.unwrap();
        }
        it.store.unsubscribe(key);
        it.store.unsubscribe(key);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.notices.heard(key, 1).await.len(), 1, "one notice, however many registry");
        it.store.unsubscribe(key);
        // One unsubscribe too many does no harm.
        it.store.unsubscribe(key);
        // Subscribing is in order with unsubscribing, so after this the latter is done.
        it.store.subscribe(last).await.unwrap();
        assert_eq!(it.end(key).await, Ended::Acknowledged);
        assert_eq!(it.end(last).await, Ended::Cancelled);
        it.notices.heard(last, 1).await;
        assert_eq!(it.notices.of(key).len(), 1, "nobody subscribed to it any more");
    }

    pub async fn leaving_and_coming_back_loses_nothing(it: Harness) {
        // An unsubscribe under way must not end the subscription that follows it.
        let mut tasks = tokio::task::JoinSet::new();
        let it = Arc::new(it);
        for _ in 0..50 {
            let it = it.clone();
            tasks.spawn(async move {
                let key = it.create(legacy()).await;
                for _ in 0..20 {
                    it.store.subscribe(key).await.unwrap();
                    it.store.unsubscribe(key);
                }
                it.store.subscribe(key).await.unwrap();
                assert_eq!(it.fulfil(key).await, Stored::Done);
                it.notices.heard(key, 1).await;
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("no task fails");
        }
    }

    pub async fn a_mark_is_set_once(it: Harness) {
        let (name, other) = (digest(), digest());
        assert!(!it.store.is_marked(name).await.unwrap());
        assert!(it.store.mark(name, LIFE).await.unwrap());
        assert!(!it.store.mark(name, LIFE).await.unwrap());
        assert!(it.store.is_marked(name).await.unwrap());
        assert!(!it.store.is_marked(other).await.unwrap());
        assert!(it.store.mark(other, Duration::from_millis(50)).await.unwrap());
        eventually("the mark expires", || async { !it.store.is_marked(other).await.unwrap() })
            .await;
        assert!(it.store.mark(other, LIFE).await.unwrap());
    }

    pub async fn refresh_tokens_follow_each_other_and_a_reuse_ends_the_grant(it: Harness) {
        let (grant, other) = (GrantId::generate(), GrantId::generate());
        let rotate = async |grant, generation| {
            it.store.rotate_grant(grant, generation, LIFE, LIFE).await.unwrap()
        };
        assert_eq!(rotate(grant, 1).await, Rotated::Unknown);
        it.store.begin_grant(grant, LIFE).await.unwrap();
        it.store.begin_grant(other, LIFE).await.unwrap();
        assert_eq!(rotate(grant, 1).await, Rotated::Done);
        assert_eq!(rotate(grant, 2).await, Rotated::Done);
        assert!(!it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(rotate(grant, 2).await, Rotated::Reused);
        assert!(it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(rotate(grant, 3).await, Rotated::Ended);
        // After a failover the store may know less than a client that was answered.
        assert_eq!(rotate(other, 4).await, Rotated::Done);
        assert_eq!(rotate(other, 5).await, Rotated::Done);
        assert!(!it.store.is_grant_ended(other).await.unwrap());
    }

    pub async fn a_grant_is_ended_or_expires(it: Harness) {
        let (grant, unknown, short) =
            (GrantId::generate(), GrantId::generate(), GrantId::generate());
        it.store.begin_grant(grant, LIFE).await.unwrap();
        it.store.end_grant(grant, LIFE).await.unwrap();
        assert!(it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(it.store.rotate_grant(grant, 1, LIFE, LIFE).await.unwrap(), Rotated::Ended);
        // Ended though the store never heard of it: its access tokens may be about.
        assert!(!it.store.is_grant_ended(unknown).await.unwrap());
        it.store.end_grant(unknown, LIFE).await.unwrap();
        assert!(it.store.is_grant_ended(unknown).await.unwrap());
        // Each use prolongs it, and without one it ends.
        it.store.begin_grant(short, LIFE).await.unwrap();
        let brief = Duration::from_millis(50);
        assert_eq!(it.store.rotate_grant(short, 1, brief, LIFE).await.unwrap(), Rotated::Done);
        // A use would prolong it, so it is looked at only once it must be over.
        tokio::time::sleep(2 * brief).await;
        assert_eq!(it.store.rotate_grant(short, 2, LIFE, LIFE).await.unwrap(), Rotated::Unknown);
    }

    /// Runs `act` 100 times at once and counts the results that `wanted` accepts.
    async fn at_once<T, F, Act>(act: Act, wanted: fn(&T) -> bool) -> usize
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        Act: Fn() -> F,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            tasks.spawn(act());
        }
        let results = tasks.join_all().await;
        results.iter().filter(|result| wanted(result.as_ref().expect("an answer"))).count()
    }

    pub async fn of_many_dialogs_with_one_transit_token_one_is_admitted(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        let act = || {
            let store = it.store.clone();
            async move { store.enter(key, Entry::Transit(transit)).await }
        };
        assert_eq!(at_once(act, |entered| matches!(entered, Entered::Admitted(_))).await, 1);
        assert_eq!(it.read(key, poll(None)).await, ReadOutcome::Gone(GoneReason::Replayed));
    }

    pub async fn of_many_read_once_polls_one_has_the_token(it: Harness) {
        let key = it.authenticated().await;
        let act = || {
            let store = it.store.clone();
            async move { store.read(key, poll(None)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_readers_the_newest_has_the_token(it: Harness) {
        let key = it.create(legacy()).await;
        let readers: Vec<ReaderId> = (0..100).map(|_| ReaderId::generate()).collect();
        for reader in &readers {
            assert!(is_pending(&it.read(key, attach(*reader)).await));
        }
        assert_eq!(it.fulfil(key).await, Stored::Done);
        let next = AtomicUsize::new(0);
        let act = || {
            let (store, reader) = (it.store.clone(), readers[next.fetch_add(1, Ordering::SeqCst)]);
            async move { store.read(key, claim(reader)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_logins_one_is_stored(it: Harness) {
        let key = it.create(legacy()).await;
        let act = || {
            let store = it.store.clone();
            async move { store.fulfil(key, sealed()).await }
        };
        assert_eq!(at_once(act, |stored| *stored == Stored::Done).await, 1);
    }

    pub async fn of_many_uses_of_a_refresh_token_one_is_taken(it: Harness) {
        let grant = GrantId::generate();
        it.store.begin_grant(grant, LIFE).await.unwrap();
        let act = || {
            let store = it.store.clone();
            async move { store.rotate_grant(grant, 1, LIFE, LIFE).await }
        };
        assert_eq!(at_once(act, |rotated| *rotated == Rotated::Done).await, 1);
        assert!(it.store.is_grant_ended(grant).await.unwrap());
    }

    pub async fn of_many_marks_one_is_first(it: Harness) {
        let name = digest();
        let act = || {
            let store = it.store.clone();
            async move { store.mark(name, LIFE).await }
        };
        assert_eq!(at_once(act, |first| *first).await, 1);
    }
}

/// Hands the names of all cases to another macro.
macro_rules! with_every_case {
    ($then:ident, $($argument:tt)*) => {
        $then! {
            $($argument)*;
            an_unknown_session_is_unknown_to_all,
            a_pending_session_tells_its_remaining_life,
            a_read_once_poll_ends_the_session,
            the_age_counts_from_the_login,
            within_the_grace_the_token_is_read_again,
            after_the_grace_the_session_is_over,
            the_grace_ends_with_the_session,
            a_session_expires_and_is_remembered,
            fulfilling_does_not_prolong_the_session,
            the_newest_reader_wins,
            a_poll_displaces_nobody,
            attaching_after_the_login_delivers_at_once,
            a_bound_session_needs_its_token,
            a_legacy_session_is_entered_by_its_id_any_number_of_times,
            a_meet_session_is_not_entered_by_its_id,
            a_replayed_transit_token_kills_the_session,
            a_replay_takes_back_a_token_that_nobody_has_yet,
            a_transit_token_expires_before_its_session,
            an_unused_transit_token_finds_the_session_not_pending,
            a_failure_is_told,
            a_login_that_came_first_is_not_undone_by_a_failure,
            ending_acknowledges_or_cancels,
            evicting_ends_any_profile,
            a_fulfilment_is_told_with_its_payload,
            subscriptions_nest_and_end,
            leaving_and_coming_back_loses_nothing,
            a_mark_is_set_once,
            refresh_tokens_follow_each_other_and_a_reuse_ends_the_grant,
            a_grant_is_ended_or_expires,
            of_many_dialogs_with_one_transit_token_one_is_admitted,
            of_many_read_once_polls_one_has_the_token,
            of_many_readers_the_newest_has_the_token,
            of_many_logins_one_is_stored,
            of_many_marks_one_is_first,
            of_many_uses_of_a_refresh_token_one_is_taken,
        }
    };
}

/// Makes a test of each case, each with a store of its own.
macro_rules! behaviour_of {
    ($module:ident, $harness:path; $($case:ident,)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::cases::$case($harness().await).await;
                }
            )+
        }
    };
}

/// Makes one test of all cases on one server, where a server each would take too long to start.
macro_rules! shared_behaviour_of {
    ($test:ident, $harness:path; $($case:ident,)+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let it = $harness().await;
            $(
                println!("{}", stringify!($case));
                cases::$case(it.clone()).await;
            )+
        }
    };
}

/// The store of a single process.
async fn memory() -> Harness {
    let notices = Arc::new(Recorder::default());
    let store = token_relay::store::memory::MemoryStore::new(notices.clone());
    Harness { store, notices, _server: Arc::new(()) }
}

with_every_case!(behaviour_of, in_memory, super::memory);
with_every_case!(behaviour_of, in_redis, super::redis);
with_every_case!(shared_behaviour_of, in_a_cluster, redis_cluster);

/// What only Redis can do: be inspected, fail, and come back.
mod only_redis {
    use super::*;

    fn name(key: SessionKey) -> String {
        format!("test:{{{}}}", key.to_base64url())
    }

    /// The store sees a login pass: everything works.
    async fn works(store: &Arc<RedisStore>, notices: &Recorder) {
        let key = key();
        store.create(key, legacy()).await.expect("created");
        store.subscribe(key).await.expect("subscribed");
        assert_eq!(store.fulfil(key, sealed()).await.expect("stored"), Stored::Done);
        assert_eq!(notices.heard(key, 1).await, [Some(sealed())]);
        assert!(is_token(&store.read(key, poll(None)).await.expect("read")));
        store.unsubscribe(key);
        assert!(store.mark(digest(), LIFE).await.expect("marked"));
        let grant = GrantId::generate();
        store.begin_grant(grant, LIFE).await.expect("begun");
        assert_eq!(store.rotate_grant(grant, 1, LIFE, LIFE).await.expect("taken"), Rotated::Done);
        assert!(!store.is_grant_ended(grant).await.expect("an answer"));
    }

    async fn works_at(url: &str) {
        let (store, notices) = redis_at(url).await;
        store.ping().await.expect("redis answers");
        works(&store, &notices).await;
    }

    /// Waits until the store works again and every subscription stands.
    async fn recovered(store: &Arc<RedisStore>, limit: Duration) {
        within(limit, "the store is back", || async { store.ping().await.is_ok() }).await;
    }

    #[tokio::test]
    async fn the_key_outlives_the_session_by_the_tombstone_and_nothing_prolongs_it() {
        let server = Server::start(&[]).await;
        let (store, _notices) = redis_at(&server.url()).await;
        let hand = server.client().await;
        let (key, transit) = (key(), digest());
        store.create(key, bound(digest(), transit)).await.unwrap();
        let expiry = async || command(&hand, &["PEXPIRETIME", &name(key)]).await.as_i64().unwrap();
        let created = expiry().await;
        let left = command(&hand, &["PTTL", &name(key)]).await.as_i64().unwrap();
        let full = i64::try_from((LIFE + TOMBSTONE).as_millis()).unwrap();
        assert!(left <= full && left > full - 5000, "{left}");
        store.enter(key, Entry::Transit(transit)).await.unwrap();
        assert_eq!(expiry().await, created);
        store.fulfil(key, sealed()).await.unwrap();
        assert_eq!(expiry().await, created);
        store.evict(key, GoneReason::Replayed).await.unwrap();
        assert_eq!(expiry().await, created);
        let mut left: Vec<String> = hand_fields(&hand, key).await;
        left.sort();
        // No payload, no name, no address: only what a late caller is recognised by.
        assert_eq!(left, ["k", "m", "s", "t", "tu", "tx", "w", "x"]);
    }

    async fn hand_fields(hand: &fred::clients::Client, key: SessionKey) -> Vec<String> {
        command(hand, &["HKEYS", &name(key)]).await.convert().expect("names")
    }

    #[tokio::test]
    async fn a_sign_in_costs_a_fixed_number_of_commands() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        works(&store, &notices).await;
        let hand = server.client().await;
        command(&hand, &["CONFIG", "RESETSTAT"]).await;
        let sign_ins = 50;
        for _ in 0..sign_ins {
            let (key, session_token, transit) = (key(), Some(digest()), digest());
            store.create(key, bound(session_token.unwrap(), transit)).await.unwrap();
            store.subscribe(key).await.unwrap();
            let reader = ReaderId::generate();
            let read = Read { session_token, ..attach(reader) };
            assert!(is_pending(&store.read(key, read).await.unwrap()));
            store.enter(key, Entry::Transit(transit)).await.unwrap();
            store.fulfil(key, sealed()).await.unwrap();
            notices.heard(key, 1).await;
            let read = Read { session_token, ..claim(reader) };
            assert!(is_token(&store.read(key, read).await.unwrap()));
            store.end(key, session_token).await.unwrap();
            store.unsubscribe(key);
        }
        let stats = command(&hand, &["INFO", "commandstats"]).await.as_string().unwrap();
        let calls = |command: &str| {
            let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
            let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
            calls.map_or(0, |calls| calls.parse::<usize>().expect("a number"))
        };
        let (scripts, subscribes, pings) = (calls("evalsha"), calls("subscribe"), calls("ping"));
        let unsubscribes = calls("unsubscribe");
        let sent = scripts + calls("eval") + subscribes + unsubscribes + pings;
        println!(
            "{sign_ins} sign-ins: {scripts} scripts, {subscribes} subscribe, {unsubscribes} \
             unsubscribe, {pings} ping; {:.2} commands each",
            sent as f64 / f64::from(sign_ins)
        );
        let sign_ins = usize::try_from(sign_ins).unwrap();
        assert_eq!(scripts, 6 * sign_ins);
        // In full only once each.
        assert!(calls("eval") <= 6, "scripts are sent by their digest");
        assert!(subscribes == sign_ins && unsubscribes <= sign_ins);
        // One behind each subscription, and a heartbeat now and then.
        assert!(pings <= sign_ins + 10, "{pings}");
    }

    #[tokio::test]
    async fn scripts_that_the_server_forgot_are_sent_again() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        works(&store, &notices).await;
        command(&server.client().await, &["SCRIPT", "FLUSH"]).await;
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn a_killed_subscription_stands_again_and_readers_look() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        let hand = server.client().await;
        let keys: Vec<SessionKey> = (0..200).map(|_| key()).collect();
        for key in &keys {
            store.create(*key, legacy()).await.unwrap();
            store.subscribe(*key).await.unwrap();
        }
        for round in 0..3 {
            let before = notices.resyncs();
            let killed = command(&hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            assert_eq!(killed.as_i64(), Some(1), "one connection, however many sessions");
            eventually("readers are told to look", || async { notices.resyncs() > before }).await;
            for key in keys.iter().skip(round).step_by(3) {
                store.fulfil(*key, sealed()).await.unwrap();
            }
            for key in keys.iter().skip(round).step_by(3) {
                assert_eq!(notices.heard(*key, 1).await, [Some(sealed())]);
            }
        }
    }

    #[tokio::test]
    async fn many_thousands_of_subscriptions_stand_again_quickly() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        let keys: Vec<SessionKey> = (0..20_000).map(|_| key()).collect();
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for keys in keys.chunks(200) {
            let (store, keys) = (store.clone(), keys.to_vec());
            tasks.spawn(async move {
                for key in keys {
                    store.subscribe(key).await.expect("subscribed");
                }
            });
        }
        tasks.join_all().await;
        println!("20 000 subscriptions in {:?}", start.elapsed());
        let hand = server.client().await;
        let before = notices.resyncs();
        let start = Instant::now();
        command(&hand, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        eventually("readers are told to look", || async { notices.resyncs() > before }).await;
        println!("20 000 subscriptions again in {:?}", start.elapsed());
        let channels = command(&hand, &["PUBSUB", "CHANNELS", "test:*"]).await;
        let fred::types::Value::Array(channels) = channels else { panic!("{channels:?}") };
        assert_eq!(channels.len(), keys.len());
        for key in &keys {
            store.unsubscribe(*key);
        }
        eventually("none is left", || async {
            let left = command(&hand, &["PUBSUB", "CHANNELS", "test:*"]).await;
            matches!(left, fred::types::Value::Array(left) if left.is_empty())
        })
        .await;
    }

    #[tokio::test]
    async fn a_killed_and_restarted_server_is_taken_up_again() {
        let mut server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        let waiting = key();
        store.create(waiting, legacy()).await.unwrap();
        store.subscribe(waiting).await.unwrap();
        let before = notices.resyncs();
        server.kill();
        within(TIMEOUT, "the loss is noticed", || async { store.ping().await.is_err() }).await;
        let start = Instant::now();
        for _ in 0..20 {
            let error = store.create(key(), legacy()).await.expect_err("redis is away");
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
        store.subscribe(key()).await.expect_err("redis is away");
        // At most the first call waits, for a connection that was just lost; the others hear at once.
        let limit = TIMEOUT + Duration::from_millis(500);
        assert!(start.elapsed() < limit, "calls queue up: {:?}", start.elapsed());
        server.restart();
        recovered(&store, Duration::from_secs(10)).await;
        assert!(notices.resyncs() > before);
        // The server was empty after its restart, but the subscription stands.
        store.create(waiting, legacy()).await.unwrap();
        assert_eq!(store.fulfil(waiting, sealed()).await.unwrap(), Stored::Done);
        assert_eq!(notices.heard(waiting, 1).await, [Some(sealed())]);
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn the_store_comes_up_before_redis() {
        let mut server = Server::start(&[]).await;
        server.kill();
        let start = Instant::now();
        let (store, notices) = redis_at(&server.url()).await;
        assert!(start.elapsed() < TIMEOUT * 2, "{:?}", start.elapsed());
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
        server.restart();
        recovered(&store, Duration::from_secs(10)).await;
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_unavailable_in_time() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        works(&store, &notices).await;
        command(&server.client().await, &["CLIENT", "PAUSE", "3000", "ALL"]).await;
        let start = Instant::now();
        let error = store.create(key(), legacy()).await.expect_err("the server is paused");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(start.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", start.elapsed());
        recovered(&store, Duration::from_secs(15)).await;
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn a_full_server_still_hands_out_and_ends() {
        let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
        let (store, notices) = redis_at(&server.url()).await;
        let (ready, pending) = (key(), key());
        for key in [ready, pending] {
            store.create(key, legacy()).await.unwrap();
            store.subscribe(key).await.unwrap();
        }
        store.fulfil(ready, sealed()).await.unwrap();
        notices.heard(ready, 1).await;
        command(&server.client().await, &["CONFIG", "SET", "maxmemory", "1"]).await;
        for result in [
            store.create(key(), legacy()).await.map(drop),
            store.fulfil(pending, sealed()).await.map(drop),
            store.mark(digest(), LIFE).await.map(drop),
        ] {
            let error = result.expect_err("the server is full");
            assert!(
                matches!(&error, StoreError::Unavailable(why) if why.contains("OOM")),
                "{error}"
            );
        }
        assert!(is_token(&store.read(ready, poll(GRACE)).await.unwrap()));
        assert_eq!(store.end(ready, None).await.unwrap(), Ended::Acknowledged);
        // Nothing was half done: the session is pending and nobody heard anything.
        assert!(is_pending(&store.read(pending, poll(None)).await.unwrap()));
        assert!(notices.of(pending).is_empty());
        assert_eq!(store.end(pending, None).await.unwrap(), Ended::Cancelled);
    }

    #[tokio::test]
    async fn a_demoted_server_is_unavailable() {
        let server = Server::start(&[]).await;
        let (store, notices) = redis_at(&server.url()).await;
        works(&store, &notices).await;
        let hand = server.client().await;
        command(&hand, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let error = store.create(key(), legacy()).await.expect_err("it only reads");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        command(&hand, &["REPLICAOF", "NO", "ONE"]).await;
        recovered(&store, Duration::from_secs(10)).await;
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn a_user_with_few_rights_suffices() {
        let server = Server::start(&[]).await;
        let hand = server.client().await;
        command(
            &hand,
            &[
                "ACL",
                "SETUSER",
                "relay",
                "on",
                ">p@ss:w/rd",
                "~test:*",
                "&test:*",
                "-@all",
                "+@connection",
                "+@pubsub",
                "+@hash",
                "+eval",
                "+evalsha",
                "+del",
                "+exists",
                "+get",
                "+set",
                "+pexpireat",
                "+time",
            ],
        )
        .await;
        command(&hand, &["ACL", "SETUSER", "default", "off"]).await;
        works_at(&format!("redis://relay:p%40ss%3Aw%2Frd@127.0.0.1:{}", server.port)).await;
        let (store, _notices) =
            redis_at(&format!("redis://relay:hunter2@127.0.0.1:{}", server.port)).await;
        let error = store.ping().await.expect_err("the password is wrong");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn databases_and_prefixes_keep_stores_apart() {
        let server = Server::start(&[]).await;
        works_at(&format!("{}/3", server.url())).await;
        let (store, _notices) = redis_at(&format!("{}/3", server.url())).await;
        let (here, _notices) = redis_at(&server.url()).await;
        let key = key();
        store.create(key, legacy()).await.unwrap();
        assert!(is_pending(&store.read(key, poll(None)).await.unwrap()));
        assert_eq!(here.read(key, poll(None)).await.unwrap(), ReadOutcome::Unknown);
    }

    #[tokio::test]
    async fn a_unix_socket_works() {
        let directory = crate::support::redis::Directory::new();
        let socket = directory.file("redis.sock");
        let _server = Server::start(&["--unixsocket", &socket]).await;
        works_at(&format!("redis+unix://{socket}?db=2")).await;
    }

    #[tokio::test]
    async fn tls_works_and_is_checked() {
        let (server, authority) = tls_server().await;
        let url = |host: &str| format!("rediss://{host}:{}", server.port);
        works_at(&format!("{}?ca={authority}", url("localhost"))).await;
        works_at(&format!("{}?ca={authority}", url("127.0.0.1"))).await;
        // Signed by nobody whom the system knows.
        let (store, _notices) = redis_at(&url("localhost")).await;
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    }

    #[tokio::test]
    async fn two_stores_hear_each_other() {
        let server = Server::start(&[]).await;
        let (one, one_hears) = redis_at(&server.url()).await;
        let (two, _two_hears) = redis_at(&server.url()).await;
        let key = key();
        one.create(key, legacy()).await.unwrap();
        one.subscribe(key).await.unwrap();
        two.fulfil(key, sealed()).await.unwrap();
        assert_eq!(one_hears.heard(key, 1).await, [Some(sealed())]);
    }

    #[tokio::test]
    async fn a_moved_slot_takes_its_sessions_along() {
        let cluster = Cluster::start().await;
        let (store, notices) = redis_at(&cluster.url()).await;
        works(&store, &notices).await;
        let key = key();
        store.create(key, legacy()).await.unwrap();
        store.subscribe(key).await.unwrap();
        let slot = fred::util::redis_keyslot(name(key).as_bytes());
        let from = cluster.owner(slot).await;
        let before = notices.resyncs();
        cluster.move_slot(slot, from, (from + 1) % 3).await;
        eventually("readers are told to look", || async { notices.resyncs() > before }).await;
        recovered(&store, Duration::from_secs(10)).await;
        assert_eq!(store.fulfil(key, sealed()).await.unwrap(), Stored::Done);
        assert_eq!(notices.heard(key, 1).await, [Some(sealed())]);
        works(&store, &notices).await;
    }

    #[tokio::test]
    async fn a_cluster_node_that_was_killed_comes_back() {
        let mut cluster = Cluster::start().await;
        let (store, notices) = redis_at(&cluster.url()).await;
        let keys: Vec<SessionKey> = (0..30).map(|_| key()).collect();
        for key in &keys {
            store.subscribe(*key).await.unwrap();
        }
        let before = notices.resyncs();
        cluster.servers[1].restart();
        within(Duration::from_secs(20), "readers are told to look", || async {
            notices.resyncs() > before && store.ping().await.is_ok()
        })
        .await;
        for key in &keys {
            within(Duration::from_secs(20), "each slot is served", || async {
                store.create(*key, legacy()).await.is_ok()
            })
            .await;
            assert_eq!(store.fulfil(*key, sealed()).await.unwrap(), Stored::Done);
            notices.heard(*key, 1).await;
        }
    }

    #[tokio::test]
    async fn a_failover_by_sentinels_is_followed() {
        let mut it = Sentinels::start().await;
        let (store, notices) = redis_at(&it.url()).await;
        works(&store, &notices).await;
        let waiting = key();
        store.create(waiting, legacy()).await.unwrap();
        store.subscribe(waiting).await.unwrap();
        let follower = it.replica.client().await;
        eventually("the session is replicated", || async {
            command(&follower, &["EXISTS", &name(waiting)]).await.as_i64() == Some(1)
        })
        .await;
        let before = notices.resyncs();
        it.primary.kill();
        within(TIMEOUT, "the loss is noticed", || async { store.ping().await.is_err() }).await;
        recovered(&store, Duration::from_secs(40)).await;
        assert!(notices.resyncs() > before);
        assert_eq!(store.fulfil(waiting, sealed()).await.unwrap(), Stored::Done);
        assert_eq!(notices.heard(waiting, 1).await, [Some(sealed())]);
        works(&store, &notices).await;
    }
}

//! Sessions in the memory of one process: the store when no Redis URL is set.
//!
//! Called through [`SessionStore`]. A transition holds the lock of one shard and never waits in
//! it. Times are tokio's, so that tests can move the clock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    session::{
        Digest, Failure, GoneReason, GrantId, Profile, ReaderId, SealedPayload, SessionInfo,
        SessionKey, State,
    },
    store::{
        Ended, Entered, Entry, Fulfilled, NewSession, Notifier, Read, ReadMode, ReadOutcome,
        Rotated, SessionStore, StoreError, Stored, TOMBSTONE,
    },
};

const SHARDS: usize = 64;

/// Sessions or marks that one process keeps at most; beyond it creation answers "unavailable"
/// instead of eating the machine's memory.
const CAPACITY: usize = 2_000_000;

/// A [`SessionStore`] for a single process. Nothing survives a restart.
pub struct MemoryStore {
    sessions: Expiring<SessionKey, Record>,
    marks: Expiring<Digest, ()>,
    grants: Expiring<GrantId, Grant>,
    notifier: Arc<dyn Notifier>,
}

struct Record {
    info: SessionInfo,
    transit: Option<Transit>,
    expires_at: Instant,
    reader: Option<ReaderId>,
    /// Readers of this session that wait to be told.
    subscribers: usize,
    phase: Phase,
}

enum Grant {
    Standing {
        /// Of the newest refresh token.
        generation: u32,
    },
    Ended,
}

struct Transit {
    digest: Digest,
    expires_at: Instant,
    used: bool,
}

enum Phase {
    Pending,
    Authenticated { payload: SealedPayload, since: Instant },
    Delivered { payload: SealedPayload, since: Instant, until: Instant },
    Failed(Failure),
    Gone(GoneReason),
}

impl Record {
    /// Turns what time has overtaken into `Gone(Expired)`, so that no transition sees it.
    fn at(&mut self, now: Instant) -> &mut Self {
        let over = match &self.phase {
            Phase::Gone(_) => false,
            Phase::Delivered { until, .. } => now >= *until || now >= self.expires_at,
            _ => now >= self.expires_at,
        };
        if over {
            self.phase = Phase::Gone(GoneReason::Expired);
        }
        self
    }

    fn state(&self) -> State {
        match &self.phase {
            Phase::Pending => State::Pending,
            Phase::Authenticated { .. } => State::Authenticated,
            Phase::Delivered { .. } => State::Delivered,
            Phase::Failed(failure) => State::Failed(failure.clone()),
            Phase::Gone(reason) => State::Gone(*reason),
        }
    }

    fn admits(&self, presented: Option<&Digest>) -> bool {
        match (&self.info.session_token, presented) {
            (None, _) => true,
            (Some(kept), Some(presented)) => kept.matches(presented),
            (Some(_), None) => false,
        }
    }

    fn deliver(
        &mut self,
        payload: SealedPayload,
        since: Instant,
        until: Instant,
        once: bool,
        now: Instant,
    ) -> ReadOutcome {
        self.phase = if once {
            Phase::Gone(GoneReason::Acknowledged)
        } else {
            Phase::Delivered { payload: payload.clone(), since, until }
        };
        ReadOutcome::Token { payload, age: now - since }
    }
}

impl MemoryStore {
    /// An empty store that tells `notifier` of every change.
    pub fn new(notifier: Arc<dyn Notifier>) -> Arc<Self> {
        let (sessions, marks, grants) = (Expiring::new(), Expiring::new(), Expiring::new());
        Arc::new(Self { sessions, marks, grants, notifier })
    }

    /// Runs one transition on a session; `None` when there is no such session.
    fn with<T>(
        &self,
        key: SessionKey,
        transition: impl FnOnce(&mut Record, Instant) -> T,
    ) -> Option<T> {
        let now = Instant::now();
        let mut shard = self.sessions.shard(&key);
        let (record, forget_at) = shard.entries.get_mut(&key)?;
        if now >= *forget_at {
            return None;
        }
        Some(transition(record.at(now), now))
    }

    /// Tells the readers of a change, outside the lock.
    fn tell(&self, key: SessionKey, fulfilled: Option<Fulfilled>) {
        if self.with(key, |record, _| record.subscribers > 0) == Some(true) {
            self.notifier.changed(key, fulfilled);
        }
    }

    fn store_result(
        &self,
        key: SessionKey,
        phase: impl FnOnce(&Record, Instant) -> Phase,
    ) -> Stored {
        self.with(key, |record, now| match record.phase {
            Phase::Pending => {
                record.phase = phase(record, now);
                Stored::Done
            }
            _ => Stored::NotPending(record.state()),
        })
        .unwrap_or(Stored::Unknown)
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError> {
        let now = Instant::now();
        let expires_at = now + session.ttl;
        let record = Record {
            info: session.info,
            transit: session.transit.map(|(digest, ttl)| Transit {
                digest,
                expires_at: now + ttl,
                used: false,
            }),
            expires_at,
            reader: None,
            subscribers: 0,
            phase: Phase::Pending,
        };
        self.sessions.insert(key, record, now, expires_at + TOMBSTONE).map(|_| ())
    }

    async fn enter(&self, key: SessionKey, entry: Entry) -> Result<Entered, StoreError> {
        let entered = self.with(key, |record, now| {
            match (&entry, &mut record.transit) {
                (Entry::SessionId, None) if record.info.profile == Profile::Legacy => {}
                (Entry::Transit(presented), Some(transit)) if transit.digest.matches(presented) => {
                    if transit.used {
                        record.phase = Phase::Gone(GoneReason::Replayed);
                        return Entered::Replayed;
                    }
                    if now >= transit.expires_at {
                        return Entered::TransitExpired;
                    }
                    transit.used = true;
                }
                _ => return Entered::Unknown,
            }
            match record.phase {
                Phase::Pending => Entered::Admitted(record.info.clone()),
                _ => Entered::NotPending(record.state()),
            }
        });
        if entered == Some(Entered::Replayed) {
            self.tell(key, None);
        }
        Ok(entered.unwrap_or(Entered::Unknown))
    }

    async fn fulfil(&self, key: SessionKey, payload: SealedPayload) -> Result<Stored, StoreError> {
        let mut reader = None;
        let stored = self.store_result(key, |record, since| {
            reader = record.reader;
            Phase::Authenticated { payload: payload.clone(), since }
        });
        if stored == Stored::Done {
            self.tell(key, Some(Fulfilled { reader, payload }));
        }
        Ok(stored)
    }

    async fn fail(&self, key: SessionKey, failure: Failure) -> Result<Stored, StoreError> {
        let stored = self.store_result(key, |_, _| Phase::Failed(failure));
        if stored == Stored::Done {
            self.tell(key, None);
        }
        Ok(stored)
    }

    async fn read(&self, key: SessionKey, read: Read) -> Result<ReadOutcome, StoreError> {
        let outcome = self.with(key, |record, now| {
            if !record.admits(read.session_token.as_ref()) {
                return ReadOutcome::Unauthorized;
            }
            if let ReadMode::Attach(reader) = read.mode {
                record.reader = Some(reader);
            }
            let displaced = match read.mode {
                ReadMode::Claim(reader) => record.reader != Some(reader),
                ReadMode::Poll | ReadMode::Attach(_) => false,
            };
            let once = read.grace.is_none();
            match &record.phase {
                Phase::Pending => ReadOutcome::Pending { remaining: record.expires_at - now },
                Phase::Authenticated { .. } | Phase::Delivered { .. } if displaced => {
                    ReadOutcome::Superseded
                }
                Phase::Authenticated { payload, since } => {
                    let (payload, since) = (payload.clone(), *since);
                    let until = (now + read.grace.unwrap_or_default()).min(record.expires_at);
                    record.deliver(payload, since, until, once, now)
                }
                Phase::Delivered { payload, since, until } => {
                    let (payload, since, until) = (payload.clone(), *since, *until);
                    record.deliver(payload, since, until, once, now)
                }
                Phase::Failed(failure) => ReadOutcome::Failed(failure.clone()),
                Phase::Gone(reason) => ReadOutcome::Gone(*reason),
            }
        });
        Ok(outcome.unwrap_or(ReadOutcome::Unknown))
    }

    async fn end(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let ended = self.with(key, |record, _| {
            if !record.admits(session_token.as_ref()) {
                return Ended::Unauthorized;
            }
            let (reason, ended) = match &record.phase {
                Phase::Pending => (GoneReason::Cancelled, Ended::Cancelled),
                Phase::Authenticated { .. } | Phase::Delivered { .. } => {
                    (GoneReason::Acknowledged, Ended::Acknowledged)
                }
                Phase::Failed(_) => (GoneReason::Acknowledged, Ended::Failed),
                Phase::Gone(reason) => return Ended::Already(*reason),
            };
            record.phase = Phase::Gone(reason);
            ended
        });
        let ended = ended.unwrap_or(Ended::Unknown);
        if !matches!(ended, Ended::Unknown | Ended::Unauthorized | Ended::Already(_)) {
            self.tell(key, None);
        }
        Ok(ended)
    }

    async fn evict(&self, key: SessionKey, reason: GoneReason) -> Result<bool, StoreError> {
        let evicted = self.with(key, |record, _| {
            let alive = !matches!(record.phase, Phase::Gone(_));
            if alive {
                record.phase = Phase::Gone(reason);
            }
            alive
        });
        if evicted == Some(true) {
            self.tell(key, None);
        }
        Ok(evicted.unwrap_or(false))
    }

    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        let now = Instant::now();
        self.marks.insert(name, (), now, now + ttl)
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        let shard = self.marks.shard(&name);
        Ok(shard.entries.get(&name).is_some_and(|((), until)| Instant::now() < *until))
    }

    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.grants.insert(grant, Grant::Standing { generation: 1 }, now, now + ttl).map(|_| ())
    }

    async fn rotate_grant(
        &self,
        grant: GrantId,
        presented: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError> {
        let now = Instant::now();
        let mut shard = self.grants.shard(&grant);
        let Some((kept, until)) = shard.entries.get_mut(&grant).filter(|(_, until)| now < *until)
        else {
            return Ok(Rotated::Unknown);
        };
        Ok(match kept {
            Grant::Ended => Rotated::Ended,
            Grant::Standing { generation } if presented < *generation => {
                (*kept, *until) = (Grant::Ended, now + memory);
                Rotated::Reused
            }
            Grant::Standing { generation } => {
                (*generation, *until) = (presented.saturating_add(1), now + ttl);
                Rotated::Done
            }
        })
    }

    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.grants.insert(grant, Grant::Ended, now, now + memory)?;
        if let Some(kept) = self.grants.shard(&grant).entries.get_mut(&grant) {
            *kept = (Grant::Ended, now + memory);
        }
        Ok(())
    }

    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError> {
        let shard = self.grants.shard(&grant);
        let kept = shard.entries.get(&grant).filter(|(_, until)| Instant::now() < *until);
        Ok(matches!(kept, Some((Grant::Ended, _))))
    }

    fn held(&self) -> Option<usize> {
        Some(self.sessions.len())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.with(key, |record, _| record.subscribers += 1);
        Ok(())
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.with(key, |record, _| record.subscribers = record.subscribers.saturating_sub(1));
    }
}

/// A map in shards whose entries are forgotten at a time of their own. Forgetting happens while
/// inserting (two for one, so that it keeps up), hence needs no task.
struct Expiring<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
}

struct Shard<K, V> {
    entries: HashMap<K, (V, Instant)>,
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Copy + Ord + Hash + AsRef<[u8; 32]>, V> Expiring<K, V> {
    fn new() -> Self {
        let shard = || Mutex::new(Shard { entries: HashMap::new(), queue: BinaryHeap::new() });
        Self { shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        // A transition changes a record in one assignment; a panic elsewhere leaves it whole.
        self.shards[usize::from(key.as_ref()[0]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries, those whose time is over and that are not forgotten yet included.
    fn len(&self) -> usize {
        let lengths = self
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).entries.len());
        lengths.sum()
    }

    /// True when the key was free.
    fn insert(
        &self,
        key: K,
        value: V,
        now: Instant,
        forget_at: Instant,
    ) -> Result<bool, StoreError> {
        let mut guard = self.shard(&key);
        let shard = &mut *guard;
        for _ in 0..2 {
            match shard.queue.peek() {
                Some(Reverse((when, _))) if *when <= now => {
                    if let Some(Reverse((_, due))) = shard.queue.pop()
                        && let Some((_, until)) = shard.entries.get(&due)
                    {
                        // Its life may have been prolonged since.
                        match *until {
                            until if until <= now => drop(shard.entries.remove(&due)),
                            until => shard.queue.push(Reverse((until, due))),
                        }
                    }
                }
                _ => break,
            }
        }
        if shard.entries.get(&key).is_some_and(|(_, until)| now < *until) {
            return Ok(false);
        }
        if shard.entries.len() >= CAPACITY / SHARDS {
            return Err(StoreError::Unavailable("the in-memory store is full".to_owned()));
        }
        shard.entries.insert(key, (value, forget_at));
        shard.queue.push(Reverse((forget_at, key)));
        Ok(true)
    }
}

//! The store of a single process. A restart loses everything but, with a state file, what was ended.
//!
//! A transition holds the lock of one shard and never waits in it. Times are tokio's, so that tests
//! can move the clock.

mod expiring;
mod journal;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    session::{
        AccountId, ClientId, DialogId, Digest, EventId, Failure, GoneReason, GrantId, Outcome,
        Profile, SealedPayload, SessionKey, SessionRef, State, SubscriptionId,
    },
    store::{
        AccountStore, Acknowledged, ChangeFeed, CodeAttempt, CodeStore, CodeTarget, DeliveryNote,
        Ended, Entered, Entry, FailedSession, Fulfilled, GrantStore, MAX_PACE, MarkStore,
        NewSession, Notifier, PACE_STEP, PACE_TOLERANCE, Peeked, ReadMode, ReadRequest, ReadResult,
        Retention, Rotated, SessionStore, StoreError, StoreHealth, Stored, StoredDetails,
        StoredSession, TOMBSTONE, Traced, ValueStore,
        memory::{
            expiring::{Budget, ExpiringMap, HeapSize},
            journal::{EndedKind, Journal, JournalEntry},
        },
    },
    util::clock::UnixTime,
};

/// The store.
pub struct MemoryStore {
    sessions: ExpiringMap<SessionKey, Record>,
    marks: ExpiringMap<Digest, ()>,
    values: ExpiringMap<Digest, Bytes>,
    counts: ExpiringMap<Digest, i64>,
    codes: ExpiringMap<Digest, CodeTarget>,
    grants: ExpiringMap<GrantId, Grant>,
    accounts: ExpiringMap<AccountId, UnixTime>,
    journal: Option<Journal>,
    budget: Arc<Budget>,
    notifier: Arc<dyn Notifier>,
}

struct Record {
    session: StoredSession,
    transit: Option<Transit>,
    /// The dialog that entered.
    dialog: Option<DialogId>,
    /// Attempts to type the user code.
    code_attempts: u32,
    expires_at: Instant,
    /// The newest subscription, which gets the token.
    subscription: Option<SubscriptionId>,
    /// Number of subscribers to changes.
    subscribers: usize,
    /// How often it may be polled, once it was.
    pace: Option<Box<Pace>>,
    phase: Phase,
    /// The token that was delivered once, while its reader may hand it back.
    delivered_once: Option<Box<DeliveredOnce>>,
}

struct DeliveredOnce {
    reader: SubscriptionId,
    payload: SealedPayload,
    since: Instant,
}

/// The pace of polls (RFC 8628 §3.5).
struct Pace {
    interval: Duration,
    last: Instant,
}

enum Grant {
    Active {
        /// Of the newest refresh token.
        generation: u32,
    },
    Ended,
}

struct Transit {
    digest: Digest,
    expires_at: Instant,
}

/// What an allocation takes besides its bytes, and a shared buffer's counter.
const ALLOCATION: usize = 48;

impl HeapSize for Record {
    fn heap_size(&self) -> usize {
        let details = match &self.session.details {
            StoredDetails::Sealed(envelope) => envelope.len(),
            StoredDetails::Clear(details) => size_of_val(&**details),
        };
        let phase = match &self.phase {
            Phase::Authenticated { payload, .. } | Phase::Delivered { payload, .. } => {
                payload.0.len() + ALLOCATION
            }
            Phase::Failed(failure) => {
                failure.error.len() + failure.error_description.len() + 2 * ALLOCATION
            }
            Phase::Pending | Phase::Gone(_) => 0,
        };
        let delivered = self.delivered_once.as_ref().map_or(0, |delivered| {
            size_of_val(&**delivered) + delivered.payload.0.len() + 2 * ALLOCATION
        });
        let pace = self.pace.as_ref().map_or(0, |pace| size_of_val(&**pace));
        details + ALLOCATION + phase + delivered + pace
    }
}

impl HeapSize for Bytes {
    fn heap_size(&self) -> usize {
        self.len() + ALLOCATION
    }
}

impl HeapSize for Grant {}

impl HeapSize for CodeTarget {}

impl HeapSize for i64 {}

impl HeapSize for UnixTime {}

enum Phase {
    Pending,
    Authenticated { payload: SealedPayload, since: Instant },
    Delivered { payload: SealedPayload, since: Instant, until: Instant },
    Failed(Failure),
    Gone(GoneReason),
}

impl Record {
    /// Applies the expiry, so that no transition sees an expired state.
    fn at(&mut self, now: Instant) -> &mut Self {
        let expired = match &self.phase {
            Phase::Gone(_) => false,
            Phase::Delivered { until, .. } => now >= *until || now >= self.expires_at,
            _ => now >= self.expires_at,
        };
        if expired {
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

    /// Whether a dialog may look at or enter the session with `entry`.
    fn accepts(&self, entry: Entry) -> bool {
        match (entry, &self.transit) {
            (Entry::SessionId, None) => self.session.profile == Profile::Legacy,
            (Entry::TransitToken(presented) | Entry::OpenedDialog(presented), Some(transit)) => {
                transit.digest.matches(&presented)
            }
            _ => false,
        }
    }

    /// Whether the transit token expired before `entry` was opened.
    fn entry_expired(&self, entry: Entry, now: Instant) -> bool {
        matches!(entry, Entry::TransitToken(_))
            && self.dialog.is_none()
            && self.transit.as_ref().is_some_and(|transit| now >= transit.expires_at)
    }

    fn admits(&self, presented: Option<&Digest>) -> bool {
        match (&self.session.session_token, presented) {
            (None, _) => true,
            (Some(expected), Some(presented)) => expected.matches(presented),
            (Some(_), None) => false,
        }
    }

    /// Counts a poll that may come every `interval`; the longer interval if it comes too early.
    fn too_early(&mut self, interval: Duration, now: Instant) -> Option<Duration> {
        let Some(pace) = &mut self.pace else {
            self.pace = Some(Box::new(Pace { interval, last: now }));
            return None;
        };
        let early = now.duration_since(pace.last) + PACE_TOLERANCE < pace.interval;
        pace.last = now;
        if !early {
            return None;
        }
        pace.interval = (pace.interval + PACE_STEP).min(MAX_PACE);
        Some(pace.interval)
    }

    /// Delivers the token. The first delivery sets until when it stays readable.
    fn deliver(
        &mut self,
        payload: SealedPayload,
        since: Instant,
        until: Option<Instant>,
        retention: Retention,
        now: Instant,
    ) -> ReadResult {
        self.phase = match retention {
            Retention::Once(reader) => {
                let delivered = DeliveredOnce { reader, payload: payload.clone(), since };
                self.delivered_once = Some(Box::new(delivered));
                Phase::Gone(GoneReason::Acknowledged)
            }
            Retention::Grace(grace) => {
                let until = until.unwrap_or_else(|| (now + grace).min(self.expires_at));
                Phase::Delivered { payload: payload.clone(), since, until }
            }
        };
        ReadResult::Settled(Outcome::Token { payload, age: now - since })
    }
}

impl MemoryStore {
    /// An empty store that takes about `max_bytes` of memory at most.
    pub fn new(notifier: Arc<dyn Notifier>, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self::empty(None, notifier, max_bytes))
    }

    fn empty(journal: Option<Journal>, notifier: Arc<dyn Notifier>, max_bytes: usize) -> Self {
        let budget = Budget::new(max_bytes);
        let (new, whole) = (budget.without_reserve(), budget.whole());
        Self {
            sessions: ExpiringMap::new(&budget, new),
            marks: ExpiringMap::new(&budget, whole),
            values: ExpiringMap::new(&budget, whole),
            counts: ExpiringMap::new(&budget, whole),
            codes: ExpiringMap::new(&budget, new),
            grants: ExpiringMap::new(&budget, whole),
            accounts: ExpiringMap::new(&budget, whole),
            journal,
            budget,
            notifier,
        }
    }

    /// A store that remembers in `state_file` what was ended.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn with_state_file(
        state_file: &Path,
        notifier: Arc<dyn Notifier>,
        max_bytes: usize,
    ) -> Result<Arc<Self>, StoreError> {
        let (journal, entries) = Journal::open(state_file)?;
        let store = Self::empty(Some(journal), notifier, max_bytes);
        let (now, clock) = (Instant::now(), UnixTime::now());
        for entry in entries {
            let digest = Digest::from_bytes(entry.digest);
            let until = now + entry.expires_at.saturating_since(clock);
            match entry.kind {
                EndedKind::Mark => store.marks.insert(digest, (), now, until)?,
                EndedKind::Grant => store.grants.insert(digest.into(), Grant::Ended, now, until)?,
                EndedKind::Account => store.accounts.insert(digest.into(), entry.at, now, until)?,
            };
        }
        Ok(Arc::new(store))
    }

    /// Writes what has ended to the state file, where there is one.
    async fn record(
        &self,
        kind: EndedKind,
        digest: &[u8; 32],
        at: UnixTime,
        memory: Duration,
    ) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let expires_at = UnixTime::now() + memory;
        journal.write(JournalEntry { kind, digest: *digest, at, expires_at }).await
    }

    /// Runs one transition on a session; `None` when there is no such session on this surface.
    fn on<T>(
        &self,
        session: SessionRef,
        transition: impl FnOnce(&mut Record, Instant) -> T,
    ) -> Option<T> {
        self.with(session.key, |record, now| {
            let found = record.session.profile.surface() == session.surface;
            found.then(|| transition(record, now))
        })?
    }

    fn read_now(&self, session: SessionRef, request: ReadRequest) -> ReadResult {
        let result = self.on(session, |record, now| {
            if !record.admits(request.session_token.as_ref()) {
                return ReadResult::Unauthorized;
            }
            if let ReadMode::Attach(subscription) = request.mode {
                record.subscription = Some(subscription);
            }
            let superseded = match request.mode {
                ReadMode::Claim(subscription) => record.subscription != Some(subscription),
                ReadMode::Poll | ReadMode::PacedPoll(_) | ReadMode::Attach(_) => false,
            };
            if let (Phase::Pending, ReadMode::PacedPoll(interval)) = (&record.phase, request.mode)
                && let Some(interval) = record.too_early(interval, now)
            {
                return ReadResult::TooEarly { interval };
            }
            let of_device = record.session.profile == Profile::Device;
            match &record.phase {
                Phase::Pending => ReadResult::Pending {
                    remaining: record.expires_at - now,
                    client: record.session.client.clone(),
                },
                // A stream has it.
                Phase::Delivered { .. }
                    if of_device && matches!(request.retention, Retention::Once(_)) =>
                {
                    ReadResult::Settled(Outcome::Gone(GoneReason::Acknowledged))
                }
                Phase::Authenticated { .. } | Phase::Delivered { .. } if superseded => {
                    ReadResult::Settled(Outcome::Superseded)
                }
                Phase::Authenticated { payload, since } => {
                    let (payload, since) = (payload.clone(), *since);
                    record.deliver(payload, since, None, request.retention, now)
                }
                Phase::Delivered { payload, since, until } => {
                    let (payload, since, until) = (payload.clone(), *since, *until);
                    record.deliver(payload, since, Some(until), request.retention, now)
                }
                Phase::Failed(failure) => ReadResult::Settled(Outcome::Failed(failure.clone())),
                Phase::Gone(reason) => ReadResult::Settled(Outcome::Gone(*reason)),
            }
        });
        result.unwrap_or(ReadResult::Unknown)
    }

    /// Runs one transition on a session whatever its surface.
    fn with<T>(
        &self,
        key: SessionKey,
        transition: impl FnOnce(&mut Record, Instant) -> T,
    ) -> Option<T> {
        let now = Instant::now();
        let mut shard = self.sessions.shard(&key);
        let (record, forgotten_at) = shard.entries.get_mut(&key)?;
        if now >= *forgotten_at {
            return None;
        }
        let before = record.heap_size();
        let result = transition(record.at(now), now);
        self.budget.recount(before, record.heap_size());
        Some(result)
    }

    fn rotate(&self, grant: GrantId, presented: u32, ttl: Duration, memory: Duration) -> Rotated {
        let now = Instant::now();
        let mut shard = self.grants.shard(&grant);
        let Some((stored, until)) = shard.entries.get_mut(&grant).filter(|(_, until)| now < *until)
        else {
            return Rotated::Unknown;
        };
        match stored {
            Grant::Ended => Rotated::Ended,
            Grant::Active { generation } if presented < *generation => {
                (*stored, *until) = (Grant::Ended, now + memory);
                Rotated::Reused
            }
            Grant::Active { generation } => {
                (*generation, *until) = (presented.saturating_add(1), now + ttl);
                Rotated::Done
            }
        }
    }

    /// Publishes a change, outside the lock. True when a subscription was woken that has to send something
    /// yet.
    fn publish(&self, key: SessionKey, fulfilled: Option<Fulfilled>) -> bool {
        self.with(key, |record, _| record.subscribers > 0) == Some(true)
            && self.notifier.changed(key, fulfilled)
    }

    fn store_result(
        &self,
        session: SessionRef,
        phase: impl FnOnce(&Record, Instant) -> Phase,
    ) -> Stored {
        self.on(session, |record, now| match record.phase {
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
            session: session.session,
            transit: session.transit.map(|(digest, ttl)| Transit { digest, expires_at: now + ttl }),
            dialog: None,
            code_attempts: 0,
            expires_at,
            subscription: None,
            subscribers: 0,
            pace: None,
            phase: Phase::Pending,
            delivered_once: None,
        };
        self.sessions.insert(key, record, now, expires_at + TOMBSTONE).map(|_| ())
    }

    async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Peeked<StoredSession>, StoreError> {
        let peeked = self.on(session, |record, now| {
            if !record.accepts(entry) {
                Peeked::Unknown
            } else if record.dialog.is_some_and(|entered| dialog != Some(entered)) {
                Peeked::Used
            } else if record.entry_expired(entry, now) {
                Peeked::TransitExpired
            } else if matches!(record.phase, Phase::Pending) {
                Peeked::Open(record.session.clone())
            } else {
                Peeked::NotPending(record.state())
            }
        });
        Ok(peeked.unwrap_or(Peeked::Unknown))
    }

    async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Result<Entered<StoredSession>, StoreError> {
        let mut ended = false;
        let entered = self.on(session, |record, now| {
            if !record.accepts(entry) {
                Entered::Unknown
            } else if record.dialog.is_some_and(|entered| entered != dialog) {
                ended = !matches!(record.phase, Phase::Gone(_));
                if ended {
                    record.phase = Phase::Gone(GoneReason::Replayed);
                }
                Entered::Replayed
            } else if record.entry_expired(entry, now) {
                Entered::TransitExpired
            } else if matches!(record.phase, Phase::Pending) {
                record.dialog = Some(dialog);
                Entered::Admitted(record.session.clone())
            } else {
                Entered::NotPending(record.state())
            }
        });
        if ended {
            self.publish(session.key, None);
        }
        Ok(entered.unwrap_or(Entered::Unknown))
    }

    async fn enter_by_backend(
        &self,
        session: SessionRef,
        entry: Entry,
        backend: DialogId,
        clients: &[ClientId],
    ) -> Result<Peeked<StoredSession>, StoreError> {
        let entered = self.on(session, |record, now| {
            let is_theirs = record.session.client.as_ref().is_some_and(|own| clients.contains(own));
            if !record.accepts(entry) || !is_theirs {
                Peeked::Unknown
            } else if !matches!(record.phase, Phase::Pending) {
                Peeked::NotPending(record.state())
            } else if record.dialog.is_some_and(|entered| entered != backend) {
                Peeked::Used
            } else if record.entry_expired(entry, now) {
                Peeked::TransitExpired
            } else {
                record.dialog = Some(backend);
                Peeked::Open(record.session.clone())
            }
        });
        Ok(entered.unwrap_or(Peeked::Unknown))
    }

    async fn count_code_attempt(
        &self,
        session: SessionRef,
        max: u32,
    ) -> Result<CodeAttempt<StoredSession>, StoreError> {
        let attempt = self.on(session, |record, _| {
            if !matches!(record.phase, Phase::Pending) {
                return CodeAttempt::NotPending(record.state());
            }
            match max.checked_sub(record.code_attempts + 1) {
                None => CodeAttempt::Exhausted,
                Some(remaining) => {
                    record.code_attempts += 1;
                    CodeAttempt::Allowed { remaining, session: record.session.clone() }
                }
            }
        });
        Ok(attempt.unwrap_or(CodeAttempt::Unknown))
    }

    async fn fulfil(
        &self,
        session: SessionRef,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError> {
        self.budget.check_growth(payload.0.len())?;
        let (mut subscription, mut hands_over) = (None, true);
        let stored = self.store_result(session, |record, since| {
            subscription = record.subscription;
            // Of a stream and a poll one alone gets the token, so both ask for it.
            hands_over = record.session.profile != Profile::Device;
            Phase::Authenticated { payload: payload.clone(), since }
        });
        if stored == Stored::Done {
            let payload = hands_over.then_some(Fulfilled { subscription, payload });
            if self.publish(session.key, payload) {
                // The tasks that were woken run, and write, before the browser is answered.
                tokio::task::yield_now().await;
            }
        }
        Ok(stored)
    }

    async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
    ) -> Result<FailedSession, StoreError> {
        let stored = self.store_result(session, |_, _| Phase::Failed(failure));
        if stored == Stored::Done {
            self.publish(session.key, None);
        }
        let client = self.on(session, |record, _| record.session.client.clone()).flatten();
        Ok(FailedSession { stored, client })
    }

    async fn read(
        &self,
        session: SessionRef,
        request: ReadRequest,
    ) -> Result<ReadResult, StoreError> {
        Ok(self.read_now(session, request))
    }

    async fn note_deliveries(&self, notes: &[DeliveryNote]) -> Result<(), StoreError> {
        for note in notes {
            self.read_now(note.session, (*note).into());
        }
        Ok(())
    }

    async fn hand_back(
        &self,
        session: SessionRef,
        reader: SubscriptionId,
    ) -> Result<bool, StoreError> {
        let handed_back = self.on(session, |record, now| {
            let delivered = record.delivered_once.take_if(|delivered| delivered.reader == reader);
            let Some(delivered) = delivered.filter(|_| now < record.expires_at) else {
                return false;
            };
            let DeliveredOnce { payload, since, .. } = *delivered;
            record.phase = Phase::Authenticated { payload, since };
            true
        });
        if handed_back == Some(true) {
            self.publish(session.key, None);
        }
        Ok(handed_back.unwrap_or(false))
    }

    async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
    ) -> Result<Acknowledged, StoreError> {
        let acknowledged = self.on(session, |record, _| {
            if !record.admits(session_token.as_ref()) {
                return Acknowledged::Unauthorized;
            }
            match &record.phase {
                Phase::Authenticated { payload, .. } | Phase::Delivered { payload, .. }
                    if EventId::of_token(payload) == event =>
                {
                    record.phase = Phase::Gone(GoneReason::Acknowledged);
                    Acknowledged::Done
                }
                Phase::Gone(reason) => Acknowledged::Already(*reason),
                _ => Acknowledged::OtherEvent,
            }
        });
        let acknowledged = acknowledged.unwrap_or(Acknowledged::Unknown);
        if acknowledged == Acknowledged::Done {
            self.publish(session.key, None);
        }
        Ok(acknowledged)
    }

    async fn end(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let ended = self.on(session, |record, _| {
            if !record.admits(session_token.as_ref()) {
                return Ended::Unauthorized;
            }
            let (reason, ended) = match &record.phase {
                Phase::Pending => (GoneReason::Cancelled, Ended::Cancelled),
                Phase::Authenticated { .. } | Phase::Delivered { .. } => {
                    (GoneReason::Acknowledged, Ended::Acknowledged)
                }
                Phase::Failed(_) => (GoneReason::Acknowledged, Ended::Failed),
                Phase::Gone(reason) => {
                    record.delivered_once = None;
                    return Ended::Already(*reason);
                }
            };
            record.phase = Phase::Gone(reason);
            ended
        });
        let ended = ended.unwrap_or(Ended::Unknown);
        if !matches!(ended, Ended::Unknown | Ended::Unauthorized | Ended::Already(_)) {
            self.publish(session.key, None);
        }
        Ok(ended)
    }

    async fn evict(&self, session: SessionRef, reason: GoneReason) -> Result<bool, StoreError> {
        let evicted = self.on(session, |record, _| {
            let alive = !matches!(record.phase, Phase::Gone(_));
            if alive {
                record.phase = Phase::Gone(reason);
            }
            alive
        });
        if evicted == Some(true) {
            self.publish(session.key, None);
        }
        Ok(evicted.unwrap_or(false))
    }
}

#[async_trait]
impl MarkStore for MemoryStore {
    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        let now = Instant::now();
        self.marks.insert(name, (), now, now + ttl)
    }

    async fn mark_durably(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        let set = self.mark(name, ttl).await?;
        // Also where it was set before: writing it may have failed then.
        self.record(EndedKind::Mark, name.as_bytes(), UnixTime::from_secs(0), ttl).await?;
        Ok(set)
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        let shard = self.marks.shard(&name);
        Ok(shard.entries.get(&name).is_some_and(|((), until)| Instant::now() < *until))
    }

    async fn count(&self, name: Digest, amount: i64, window: Duration) -> Result<i64, StoreError> {
        let now = Instant::now();
        if amount < 0 {
            let mut shard = self.counts.shard(&name);
            let counted = shard.entries.get_mut(&name).filter(|(_, until)| now < *until);
            return Ok(counted.map_or(0, |(sum, _)| {
                *sum += amount;
                *sum
            }));
        }
        if self.counts.insert(name, amount, now, now + window)? {
            return Ok(amount);
        }
        let mut shard = self.counts.shard(&name);
        Ok(shard.entries.get_mut(&name).map_or(amount, |(sum, _)| {
            *sum += amount;
            *sum
        }))
    }
}

#[async_trait]
impl CodeStore for MemoryStore {
    async fn claim_code(
        &self,
        code: Digest,
        target: CodeTarget,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let now = Instant::now();
        self.codes.insert(code, target, now, now + ttl)
    }

    async fn find_code(&self, code: Digest) -> Result<Option<CodeTarget>, StoreError> {
        let shard = self.codes.shard(&code);
        let found = shard.entries.get(&code).filter(|(_, until)| Instant::now() < *until);
        Ok(found.map(|(target, _)| *target))
    }
}

#[async_trait]
impl ValueStore for MemoryStore {
    async fn put_value(&self, name: Digest, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.values.remove(&name);
        self.values.insert(name, value, now, now + ttl).map(|_| ())
    }

    async fn value(&self, name: Digest) -> Result<Option<Bytes>, StoreError> {
        let shard = self.values.shard(&name);
        let stored = shard.entries.get(&name).filter(|(_, until)| Instant::now() < *until);
        Ok(stored.map(|(value, _)| value.clone()))
    }

    async fn remove_value(&self, name: Digest) -> Result<(), StoreError> {
        self.values.remove(&name);
        Ok(())
    }
}

#[async_trait]
impl GrantStore for MemoryStore {
    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.grants.insert(grant, Grant::Active { generation: 1 }, now, now + ttl).map(|_| ())
    }

    async fn rotate_grant(
        &self,
        grant: GrantId,
        presented: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError> {
        let rotated = self.rotate(grant, presented, ttl, memory);
        if rotated == Rotated::Reused {
            self.record(EndedKind::Grant, grant.as_ref(), UnixTime::from_secs(0), memory).await?;
        }
        Ok(rotated)
    }

    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError> {
        let now = Instant::now();
        self.grants.insert(grant, Grant::Ended, now, now + memory)?;
        if let Some(stored) = self.grants.shard(&grant).entries.get_mut(&grant) {
            *stored = (Grant::Ended, now + memory);
        }
        self.record(EndedKind::Grant, grant.as_ref(), UnixTime::from_secs(0), memory).await
    }

    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError> {
        let shard = self.grants.shard(&grant);
        let stored = shard.entries.get(&grant).filter(|(_, until)| Instant::now() < *until);
        Ok(matches!(stored, Some((Grant::Ended, _))))
    }
}

#[async_trait]
impl AccountStore for MemoryStore {
    async fn end_account(
        &self,
        account: AccountId,
        at: UnixTime,
        memory: Duration,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        self.accounts.insert(account, at, now, now + memory)?;
        if let Some((ended_at, until)) = self.accounts.shard(&account).entries.get_mut(&account) {
            (*ended_at, *until) = ((*ended_at).max(at), now + memory);
        }
        self.record(EndedKind::Account, account.as_ref(), at, memory).await
    }

    async fn account_ended_at(&self, account: AccountId) -> Result<Option<UnixTime>, StoreError> {
        let shard = self.accounts.shard(&account);
        let stored = shard.entries.get(&account).filter(|(_, until)| Instant::now() < *until);
        Ok(stored.map(|(ended_at, _)| *ended_at))
    }
}

#[async_trait]
impl ChangeFeed for MemoryStore {
    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.with(key, |record, _| record.subscribers += 1);
        Ok(())
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.with(key, |record, _| record.subscribers = record.subscribers.saturating_sub(1));
    }
}

impl Traced for MemoryStore {}

#[async_trait]
impl StoreHealth for MemoryStore {
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn session_count(&self) -> Option<usize> {
        Some(self.sessions.len())
    }
}

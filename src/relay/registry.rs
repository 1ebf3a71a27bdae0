//! Who waits on this instance: a sharded map from session to the mailboxes of its readers.
//!
//! Filled by `delivery`, rung by the store through [`Notifier`]. A mailbox is a few words
//! and a waker: a waiting reader costs no task of its own and wakes only when it is rung. Whoever
//! brings a payload may hand it to the reader's client at once, by its [`DirectWriter`]. Knows neither
//! states nor transports.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};

use atomic_waker::AtomicWaker;
use smallvec::SmallVec;

use crate::{
    session::{ReaderId, SealedPayload, SessionKey},
    store::{Fulfilled, Notifier},
};

const SHARDS: usize = 64;

const CHANGED: u8 = 1;
const DRAINING: u8 = 2;

/// Why no reader can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    /// This instance has all the readers it may have.
    #[error("this instance has no room for another waiting reader")]
    Instance,
    /// This session has all the readers it may have.
    #[error("this session has too many waiting readers")]
    Session,
    /// This instance is shutting down.
    #[error("this instance is shutting down")]
    Draining,
}

/// What rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The session changed, or may have.
    Changed,
    /// The instance is shutting down.
    Draining,
}

/// A way to a reader's client that is open to whoever brings the payload.
pub trait DirectWriter: Send + Sync {
    /// Sends the payload of `key` without waiting; false when the reader has to.
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool;
}

/// What the bus brought for one reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The payload, which is the reader's to send.
    Payload(SealedPayload),
    /// Sent already.
    WrittenDirectly,
}

/// Where one waiting reader is told.
pub struct Mailbox {
    reader: ReaderId,
    rung: AtomicU8,
    waker: AtomicWaker,
    arrived: Mutex<Option<Arrived>>,
    direct_writer: OnceLock<Arc<dyn DirectWriter>>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Mailbox {
    fn ring(&self, bit: u8) {
        self.rung.fetch_or(bit, Ordering::AcqRel);
        self.waker.wake();
    }

    /// The identity under which this reader attaches to its session.
    pub fn reader(&self) -> ReaderId {
        self.reader
    }

    /// Waits until rung. Draining comes last, so that a token that arrived goes out first.
    pub async fn rung(&self) -> Ring {
        poll_fn(|context| {
            self.waker.register(context.waker());
            let rung = self.rung.load(Ordering::Acquire);
            let (bit, ring) = match rung {
                0 => return Poll::Pending,
                rung if rung & CHANGED != 0 => (CHANGED, Ring::Changed),
                _ => (DRAINING, Ring::Draining),
            };
            self.rung.fetch_and(!bit, Ordering::AcqRel);
            Poll::Ready(ring)
        })
        .await
    }

    /// Opens a way around the reader. Only the first one is kept.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        let _ = self.direct_writer.set(direct_writer);
    }

    /// What the bus brought for this very reader, once.
    pub fn take_arrived(&self) -> Option<Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn arrive(&self, key: SessionKey, payload: &SealedPayload) {
        let handed_over = self
            .direct_writer
            .get()
            .is_some_and(|direct_writer| direct_writer.write_directly(key, payload));
        let arrived =
            if handed_over { Arrived::WrittenDirectly } else { Arrived::Payload(payload.clone()) };
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) = Some(arrived);
    }
}

/// How often the store was lost and found again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruptions {
    /// Connections that were lost and stand again.
    pub reconnects: u64,
    /// Times that messages may have been missed, so that every reader looked again.
    pub resyncs: u64,
    /// Readers that looked again.
    pub readers: u64,
}

type Shard = HashMap<SessionKey, SmallVec<[Arc<Mailbox>; 1]>>;

/// All readers that wait on this instance.
pub struct Registry {
    shards: Vec<Mutex<Shard>>,
    waiting: AtomicUsize,
    draining: AtomicBool,
    most: usize,
    most_per_session: usize,
    reconnects: AtomicU64,
    resyncs: AtomicU64,
    resynced_readers: AtomicU64,
}

impl Registry {
    /// Room for `most` readers, `most_per_session` of one session.
    pub fn new(most: usize, most_per_session: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            waiting: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            most,
            most_per_session,
            reconnects: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            resynced_readers: AtomicU64::new(0),
        })
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, Shard> {
        let byte = key.digest().as_bytes()[1];
        self.shards[usize::from(byte) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reader of `key`.
    ///
    /// # Errors
    /// [`Crowded`] when a limit is reached or the instance shuts down.
    pub fn join(&self, key: SessionKey) -> Result<Arc<Mailbox>, Crowded> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.most {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(Crowded::Instance);
        }
        let mailbox = Arc::new(Mailbox {
            reader: ReaderId::generate(),
            rung: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            arrived: Mutex::new(None),
            direct_writer: OnceLock::new(),
        });
        let mut shard = self.shard(&key);
        // Looked at under the shard's lock, so that `drain` either rings this mailbox or is seen.
        let refused = if self.draining.load(Ordering::Acquire) {
            Some(Crowded::Draining)
        } else {
            let mailboxes = shard.entry(key).or_default();
            if mailboxes.len() >= self.most_per_session {
                Some(Crowded::Session)
            } else {
                mailboxes.push(Arc::clone(&mailbox));
                None
            }
        };
        match refused {
            Some(crowded) => {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                Err(crowded)
            }
            None => Ok(mailbox),
        }
    }

    /// Removes a reader that [`Self::join`] added.
    pub fn leave(&self, key: SessionKey, mailbox: &Arc<Mailbox>) {
        let mut shard = self.shard(&key);
        if let Entry::Occupied(mut entry) = shard.entry(key) {
            let before = entry.get().len();
            entry.get_mut().retain(|other| !Arc::ptr_eq(other, mailbox));
            if entry.get().len() < before {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
            }
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    /// How many readers wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// What the store's connection went through so far.
    pub fn interruptions(&self) -> Interruptions {
        Interruptions {
            reconnects: self.reconnects.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            readers: self.resynced_readers.load(Ordering::Relaxed),
        }
    }

    /// Whether the instance is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes no more readers and tells all that wait to leave.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.ring_all(DRAINING);
    }

    fn ring_all(&self, bit: u8) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for mailbox in shard.values().flatten() {
                mailbox.ring(bit);
            }
        }
    }
}

impl Notifier for Registry {
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>) {
        // Outside of the lock, under which nothing is sent.
        let mailboxes = self.shard(&key).get(&key).cloned().unwrap_or_default();
        for mailbox in mailboxes {
            if let Some(Fulfilled { reader, payload }) = &fulfilled
                && *reader == Some(mailbox.reader)
            {
                mailbox.arrive(key, payload);
            }
            mailbox.ring(CHANGED);
        }
    }

    fn resync(&self) {
        let readers = u64::try_from(self.waiting()).unwrap_or(u64::MAX);
        self.resyncs.fetch_add(1, Ordering::Relaxed);
        self.resynced_readers.fetch_add(readers, Ordering::Relaxed);
        self.ring_all(CHANGED);
    }

    fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[tokio::test]
    async fn a_ring_before_the_wait_is_not_lost() {
        let registry = Registry::new(10, 10);
        let key = SessionId::generate().key();
        let mailbox = registry.join(key).unwrap();
        registry.changed(key, None);
        registry.drain();
        assert_eq!(mailbox.rung().await, Ring::Changed);
        assert_eq!(mailbox.rung().await, Ring::Draining);
    }

    #[test]
    fn limits_hold_and_room_comes_back() {
        let registry = Registry::new(2, 1);
        let (first, second, third) =
            (SessionId::generate().key(), SessionId::generate().key(), SessionId::generate().key());
        let mailbox = registry.join(first).unwrap();
        assert_eq!(registry.join(first).unwrap_err(), Crowded::Session);
        let _other = registry.join(second).unwrap();
        assert_eq!(registry.join(third).unwrap_err(), Crowded::Instance);
        registry.leave(first, &mailbox);
        registry.leave(first, &mailbox);
        assert_eq!(registry.waiting(), 1);
        assert!(registry.join(third).is_ok());
        registry.drain();
        assert_eq!(registry.join(first).unwrap_err(), Crowded::Instance);
    }
}

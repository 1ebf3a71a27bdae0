//! The subscriptions that wait on this instance: a sharded map from session to mailboxes.
//!
//! A mailbox is a few words and a waker, so that a waiting subscription costs no task of its own.
//! The thread that receives a payload may write it to the client at once, by a [`DirectWriter`].

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

use atomic_waker::AtomicWaker;
use smallvec::SmallVec;

use crate::{
    session::{SealedPayload, SessionKey, SubscriptionId},
    store::{Fulfilled, Notifier},
};

const SHARDS: usize = 64;

/// Maximum number of subscriptions of one session whose credentials are still being checked.
const MAX_JOINING: usize = 64;

const CHANGED: u8 = 1;
const SUPERSEDED: u8 = 2;
const DRAINING: u8 = 4;

/// Why no subscription can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// This instance holds its maximum number of subscriptions.
    #[error("this instance has no room for another subscription")]
    InstanceFull,
    /// Too many subscriptions of this session are being opened at once.
    #[error("too many subscriptions of this session are being opened")]
    SessionFull,
    /// This instance is shutting down.
    #[error("this instance is shutting down")]
    Draining,
}

/// Why a mailbox was signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The session changed, or may have.
    Changed,
    /// A newer subscription of the session took this one's place.
    Superseded,
    /// The instance is shutting down.
    Draining,
}

/// Writes a payload to a client's connection on the thread that received it.
pub trait DirectWriter: Send + Sync {
    /// Writes the payload of `key` without blocking; false when the subscription has to send it.
    fn write_directly(&self, key: SessionKey, payload: &SealedPayload) -> bool;
}

/// A payload that the bus delivered for one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusDelivery {
    /// To be sent by the subscription.
    Payload(SealedPayload),
    /// Written by its [`DirectWriter`] already.
    WrittenDirectly,
}

/// What wakes one subscription, and the payload that the bus delivered for it.
pub struct Mailbox {
    subscription: SubscriptionId,
    /// The pending signals, a bit for each.
    signals: AtomicU8,
    /// Whether its credentials were found right.
    admitted: AtomicBool,
    waker: AtomicWaker,
    delivery: Mutex<Option<BusDelivery>>,
    direct_writer: OnceLock<Arc<dyn DirectWriter>>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mailbox")
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

impl Mailbox {
    fn signal(&self, bit: u8) {
        self.signals.fetch_or(bit, Ordering::AcqRel);
        self.waker.wake();
    }

    /// The ID under which this subscription attaches to its session.
    pub fn subscription(&self) -> SubscriptionId {
        self.subscription
    }

    /// Waits for a signal. A change comes first, so that a token that has arrived is sent.
    pub async fn signalled(&self) -> Signal {
        poll_fn(|context| {
            self.waker.register(context.waker());
            self.take_signal().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits until there is a signal, and leaves it.
    pub async fn has_signal(&self) {
        poll_fn(
            |context| {
                if self.wake_by(context.waker()) { Poll::Pending } else { Poll::Ready(()) }
            },
        )
        .await;
    }

    /// Takes a signal that has arrived, a change first.
    pub fn take_signal(&self) -> Option<Signal> {
        let (bit, signal) = match self.signals.load(Ordering::Acquire) {
            0 => return None,
            signals if signals & CHANGED != 0 => (CHANGED, Signal::Changed),
            signals if signals & SUPERSEDED != 0 => (SUPERSEDED, Signal::Superseded),
            _ => (DRAINING, Signal::Draining),
        };
        self.signals.fetch_and(!bit, Ordering::AcqRel);
        Some(signal)
    }

    /// Has `waker` woken by the next signal. False when there is one already, which may not wake it.
    pub fn wake_by(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.signals.load(Ordering::Acquire) == 0
    }

    fn is_admitted(&self) -> bool {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Sets the direct writer. Only the first one counts.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        let _ = self.direct_writer.set(direct_writer);
    }

    /// Takes what the bus delivered for this subscription.
    pub fn take_delivery(&self) -> Option<BusDelivery> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Leaves the payload here; true when it was written directly.
    fn deliver(&self, key: SessionKey, payload: &SealedPayload) -> bool {
        let written =
            self.direct_writer.get().is_some_and(|writer| writer.write_directly(key, payload));
        let delivery = if written {
            BusDelivery::WrittenDirectly
        } else {
            BusDelivery::Payload(payload.clone())
        };
        *self.delivery.lock().unwrap_or_else(PoisonError::into_inner) = Some(delivery);
        written
    }
}

/// Interruptions of the connection to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruptions {
    /// Connections that were lost and re-established.
    pub reconnects: u64,
    /// Times that changes may have been missed, so that every subscription read again.
    pub resyncs: u64,
    /// Subscriptions that read again.
    pub subscriptions: u64,
}

type Shard = HashMap<SessionKey, SmallVec<[Arc<Mailbox>; 1]>>;

/// All subscriptions that wait on this instance.
pub struct Registry {
    shards: Vec<Mutex<Shard>>,
    waiting: AtomicUsize,
    draining: AtomicBool,
    max: usize,
    max_per_session: usize,
    reconnects: AtomicU64,
    resyncs: AtomicU64,
    resynced_subscriptions: AtomicU64,
}

impl Registry {
    /// Room for `max` subscriptions, `max_per_session` of one session: beyond that the newest takes
    /// the place of the oldest.
    pub fn new(max: usize, max_per_session: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            waiting: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            max,
            max_per_session,
            reconnects: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            resynced_subscriptions: AtomicU64::new(0),
        })
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, Shard> {
        let byte = key.digest().as_bytes()[1];
        self.shards[usize::from(byte) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription of `key` whose credentials are yet to be checked; it displaces nobody
    /// before [`Self::admit`].
    ///
    /// # Errors
    /// When a limit is reached or the instance is shutting down.
    pub fn join(&self, key: SessionKey) -> Result<Arc<Mailbox>, JoinError> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.max {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(JoinError::InstanceFull);
        }
        let mailbox = Arc::new(Mailbox {
            subscription: SubscriptionId::generate(),
            signals: AtomicU8::new(0),
            admitted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            delivery: Mutex::new(None),
            direct_writer: OnceLock::new(),
        });
        let mut shard = self.shard(&key);
        // Read under the shard's lock: either `drain` signals this mailbox or it is seen here.
        let refused = if self.draining.load(Ordering::Acquire) {
            Some(JoinError::Draining)
        } else {
            let mailboxes = shard.entry(key).or_default();
            let joining = mailboxes.iter().filter(|mailbox| !mailbox.is_admitted()).count();
            if joining >= MAX_JOINING {
                Some(JoinError::SessionFull)
            } else {
                mailboxes.push(Arc::clone(&mailbox));
                None
            }
        };
        match refused {
            Some(error) => {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                Err(error)
            }
            None => Ok(mailbox),
        }
    }

    /// Admits a subscription whose credentials are right. When its session has too many, the oldest
    /// is superseded: it may be a connection that died without a word.
    pub fn admit(&self, key: SessionKey, mailbox: &Mailbox) {
        let mut shard = self.shard(&key);
        mailbox.admitted.store(true, Ordering::Relaxed);
        let Some(mailboxes) = shard.get_mut(&key) else { return };
        let admitted = mailboxes.iter().filter(|mailbox| mailbox.is_admitted()).count();
        if admitted <= self.max_per_session.max(1) {
            return;
        }
        let oldest = mailboxes
            .iter()
            .position(|other| other.is_admitted() && other.subscription != mailbox.subscription);
        let superseded = oldest.map(|oldest| mailboxes.remove(oldest));
        drop(shard);
        if let Some(superseded) = superseded {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            superseded.signal(SUPERSEDED);
        }
    }

    /// Removes a subscription that [`Self::join`] added.
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

    /// Number of waiting subscriptions.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Interruptions so far.
    pub fn interruptions(&self) -> Interruptions {
        Interruptions {
            reconnects: self.reconnects.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            subscriptions: self.resynced_subscriptions.load(Ordering::Relaxed),
        }
    }

    /// Whether the instance is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Refuses new subscriptions and signals all that wait.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.signal_all(DRAINING);
    }

    fn signal_all(&self, bit: u8) {
        for shard in &self.shards {
            // Outside the lock, which a subscription that ends takes.
            let mailboxes: Vec<_> = {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.values().flatten().cloned().collect()
            };
            for mailbox in mailboxes {
                mailbox.signal(bit);
            }
        }
    }
}

impl Notifier for Registry {
    fn changed(&self, key: SessionKey, fulfilled: Option<Fulfilled>) -> bool {
        // Outside the lock, under which nothing is sent.
        let mailboxes = self.shard(&key).get(&key).cloned().unwrap_or_default();
        let mut unsent = false;
        for mailbox in mailboxes {
            let is_written =
                fulfilled.as_ref().is_some_and(|Fulfilled { subscription, payload }| {
                    *subscription == Some(mailbox.subscription) && mailbox.deliver(key, payload)
                });
            mailbox.signal(CHANGED);
            unsent |= !is_written;
        }
        unsent
    }

    fn resync(&self) {
        let subscriptions = u64::try_from(self.waiting()).unwrap_or(u64::MAX);
        self.resyncs.fetch_add(1, Ordering::Relaxed);
        self.resynced_subscriptions.fetch_add(subscriptions, Ordering::Relaxed);
        self.signal_all(CHANGED);
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
    async fn a_signal_before_the_wait_is_not_lost() {
        let registry = Registry::new(10, 10);
        let key = SessionId::generate().key();
        let mailbox = registry.join(key).unwrap();
        registry.changed(key, None);
        registry.drain();
        assert_eq!(mailbox.signalled().await, Signal::Changed);
        assert_eq!(mailbox.signalled().await, Signal::Draining);
    }

    #[test]
    fn only_admitted_subscriptions_displace_the_oldest() {
        let registry = Registry::new(100, 2);
        let key = SessionId::generate().key();
        let mailboxes: Vec<_> = (0..4).map(|_| registry.join(key).unwrap()).collect();
        let superseded =
            |mailbox: &Arc<Mailbox>| mailbox.signals.load(Ordering::Acquire) & SUPERSEDED != 0;
        registry.admit(key, &mailboxes[1]);
        registry.admit(key, &mailboxes[0]);
        assert!(!mailboxes.iter().any(superseded), "a stranger displaces nobody");
        registry.admit(key, &mailboxes[2]);
        assert!(superseded(&mailboxes[0]) && !superseded(&mailboxes[1]));
        assert_eq!(registry.waiting(), 3);
        registry.leave(key, &mailboxes[0]);
        assert_eq!(registry.waiting(), 3, "its place is gone already");
        registry.admit(key, &mailboxes[3]);
        assert!(superseded(&mailboxes[1]) && !superseded(&mailboxes[3]));
    }

    #[test]
    fn openings_at_once_are_bounded() {
        let registry = Registry::new(1000, 2);
        let key = SessionId::generate().key();
        let joined: Vec<_> = (0..MAX_JOINING).map(|_| registry.join(key).unwrap()).collect();
        assert_eq!(registry.join(key).unwrap_err(), JoinError::SessionFull);
        registry.admit(key, &joined[0]);
        assert!(registry.join(key).is_ok());
    }

    #[test]
    fn limits_hold_and_room_comes_back() {
        let registry = Registry::new(2, 1);
        let (first, second, third) =
            (SessionId::generate().key(), SessionId::generate().key(), SessionId::generate().key());
        let mailbox = registry.join(first).unwrap();
        let _other = registry.join(second).unwrap();
        assert_eq!(registry.join(third).unwrap_err(), JoinError::InstanceFull);
        registry.leave(first, &mailbox);
        registry.leave(first, &mailbox);
        assert_eq!(registry.waiting(), 1);
        assert!(registry.join(third).is_ok());
        registry.drain();
        assert_eq!(registry.join(first).unwrap_err(), JoinError::InstanceFull);
    }
}

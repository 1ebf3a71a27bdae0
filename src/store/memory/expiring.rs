//! A sharded map whose entries are removed some time after they expired, and which counts the memory
//! that they take.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;

use crate::store::StoreError;

const SHARDS: usize = 64;

/// Expired entries that an insertion removes at most. More than one, so that it keeps up.
const REMOVALS: usize = 4;

/// The share of the limit that is left for the results of sign-ins that have begun: one of so many.
const RESERVED_SHARE: usize = 8;

/// Number of entries below which a shard's table is not worth shrinking.
const SMALL_TABLE: usize = 64;

/// The memory that the maps of one store take together, in bytes, and its limit.
pub(super) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Bytes that are taken.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit for sessions, which leaves something for the results of those that have begun.
    pub(super) fn without_reserve(&self) -> usize {
        self.max - self.max / RESERVED_SHARE
    }

    /// The limit for everything else.
    pub(super) fn whole(&self) -> usize {
        self.max
    }

    /// Takes `bytes` for a new entry.
    fn take(&self, bytes: usize, limit: usize) -> Result<(), StoreError> {
        let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .map(drop)
            .map_err(|_| full())
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether an entry may grow by `bytes`.
    pub(super) fn check_growth(&self, bytes: usize) -> Result<(), StoreError> {
        if self.used().saturating_add(bytes) <= self.max { Ok(()) } else { Err(full()) }
    }

    /// Counts an entry that took `before` bytes and takes `after`.
    pub(super) fn recount(&self, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.give_back(before - after);
        }
    }
}

fn full() -> StoreError {
    StoreError::Unavailable("the in-memory store is full".to_owned())
}

/// The memory that a value takes besides itself, in bytes.
pub(super) trait HeapSize {
    fn heap_size(&self) -> usize {
        0
    }
}

impl HeapSize for () {}

/// The map. An insertion removes some expired entries, which keeps up and needs no task.
pub(super) struct ExpiringMap<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    budget: Arc<Budget>,
    /// The bytes of the budget beyond which nothing is inserted.
    limit: usize,
}

/// One lock's share of the map.
pub(super) struct Shard<K, V> {
    /// Values with their expiry.
    pub(super) entries: HashMap<K, (V, Instant)>,
    /// When to look at an entry again. Its expiry may have been extended since.
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Copy + Ord + Hash + AsRef<[u8; 32]>, V: HeapSize> ExpiringMap<K, V> {
    pub(super) fn new(budget: &Arc<Budget>, limit: usize) -> Self {
        let shard = || Mutex::new(Shard { entries: HashMap::new(), queue: BinaryHeap::new() });
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, budget: Arc::clone(budget), limit }
    }

    /// Locks the shard of `key`.
    pub(super) fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        // A transition changes a record in one assignment, so a panic elsewhere leaves it whole.
        self.shards[usize::from(key.as_ref()[0]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of entries, expired ones that are not removed yet included.
    pub(super) fn len(&self) -> usize {
        let lengths = self
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).entries.len());
        lengths.sum()
    }

    /// The memory that an entry takes: its places in table and queue, which grow by doubling and leave
    /// their former memory to the allocator, and what the value refers to, a quarter more for what the
    /// allocator adds. Measured: what the process takes is this and less.
    fn size(value: &V) -> usize {
        3 * size_of::<(K, (V, Instant))>()
            + 2 * size_of::<Reverse<(Instant, K)>>()
            + value.heap_size() * 5 / 4
    }

    /// Inserts `value` unless `key` is in use; true when it was inserted.
    ///
    /// # Errors
    /// When there is no room in the budget.
    pub(super) fn insert(
        &self,
        key: K,
        value: V,
        now: Instant,
        expires_at: Instant,
    ) -> Result<bool, StoreError> {
        let mut shard = self.shard(&key);
        self.remove_expired(&mut shard, now);
        if let Some((found, until)) = shard.entries.get(&key) {
            if now < *until {
                return Ok(false);
            }
            self.budget.give_back(Self::size(found));
            shard.entries.remove(&key);
        }
        self.budget.take(Self::size(&value), self.limit)?;
        shard.entries.insert(key, (value, expires_at));
        shard.queue.push(Reverse((expires_at, key)));
        Ok(true)
    }

    /// Removes an entry.
    pub(super) fn remove(&self, key: &K) {
        if let Some((value, _)) = self.shard(key).entries.remove(key) {
            self.budget.give_back(Self::size(&value));
        }
    }

    fn remove_expired(&self, shard: &mut Shard<K, V>, now: Instant) {
        for _ in 0..REMOVALS {
            match shard.queue.peek() {
                Some(Reverse((when, _))) if *when <= now => {}
                _ => break,
            }
            let Some(Reverse((_, due))) = shard.queue.pop() else { break };
            let Some((value, until)) = shard.entries.get(&due) else { continue };
            let until = *until;
            if until <= now {
                self.budget.give_back(Self::size(value));
                shard.entries.remove(&due);
            } else {
                shard.queue.push(Reverse((until, due)));
            }
        }
        // After a flood the tables give their memory back.
        let length = shard.entries.len();
        if shard.entries.capacity() > SMALL_TABLE && length < shard.entries.capacity() / 8 {
            shard.entries.shrink_to(length * 2);
            shard.queue.shrink_to(length * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::SessionId;

    impl HeapSize for Vec<u8> {
        fn heap_size(&self) -> usize {
            self.capacity()
        }
    }

    #[test]
    fn what_expires_makes_room_and_the_budget_comes_back_to_nothing() {
        const ENTRIES: usize = 10_000;
        let (now, ttl) = (Instant::now(), Duration::from_secs(1));
        let budget = Budget::new(ENTRIES * 1000);
        let map = ExpiringMap::new(&budget, budget.without_reserve());
        let insert = |now| map.insert(SessionId::generate().key(), vec![0; 800], now, now + ttl);
        let inserted = (0..ENTRIES * 2).take_while(|_| insert(now).is_ok()).count();
        assert!((ENTRIES / 2..ENTRIES).contains(&inserted), "{inserted}");
        assert!(budget.used() <= budget.without_reserve());
        budget.check_growth(budget.max / RESERVED_SHARE).unwrap();
        budget.check_growth(budget.max / 4).unwrap_err();
        // Later insertions succeed, and leave nothing of the flood.
        let mut later = now;
        for _ in 0..ENTRIES {
            later += ttl / 1000;
            let _ = insert(later);
        }
        let (length, used) = (map.len(), budget.used());
        assert!(length < 3000, "{length}");
        assert_eq!(
            used,
            length * ExpiringMap::<crate::session::SessionKey, _>::size(&vec![0; 800])
        );
        let capacity: usize =
            map.shards.iter().map(|shard| shard.lock().unwrap().entries.capacity()).sum();
        assert!(capacity < ENTRIES, "{capacity}");
    }
}

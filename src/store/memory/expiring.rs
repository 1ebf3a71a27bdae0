//! A sharded map whose entries are removed some time after they expired.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::store::StoreError;

const SHARDS: usize = 64;

/// Maximum number of entries. Beyond it insertion fails, rather than use up the machine's memory.
const CAPACITY: usize = 2_000_000;

/// The map. An insertion removes up to two expired entries, which keeps up and needs no task.
pub(super) struct ExpiringMap<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
}

/// One lock's share of the map.
pub(super) struct Shard<K, V> {
    /// Values with their expiry.
    pub(super) entries: HashMap<K, (V, Instant)>,
    /// When to look at an entry again. Its expiry may have been extended since.
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Copy + Ord + Hash + AsRef<[u8; 32]>, V> ExpiringMap<K, V> {
    pub(super) fn new() -> Self {
        let shard = || Mutex::new(Shard { entries: HashMap::new(), queue: BinaryHeap::new() });
        Self { shards: (0..SHARDS).map(|_| shard()).collect() }
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

    /// Inserts `value` unless `key` is in use; true when it was inserted.
    pub(super) fn insert(
        &self,
        key: K,
        value: V,
        now: Instant,
        expires_at: Instant,
    ) -> Result<bool, StoreError> {
        let mut guard = self.shard(&key);
        let shard = &mut *guard;
        for _ in 0..2 {
            match shard.queue.peek() {
                Some(Reverse((when, _))) if *when <= now => {
                    if let Some(Reverse((_, due))) = shard.queue.pop()
                        && let Some((_, until)) = shard.entries.get(&due)
                    {
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
        shard.entries.insert(key, (value, expires_at));
        shard.queue.push(Reverse((expires_at, key)));
        Ok(true)
    }
}

//! Slots: the connections that one listener may have open at the same time.
//!
//! The last slots are reserved for networks with few connections, so that one that takes all others
//! does not lock out a health check.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::util::network::Network;

/// One in so many slots is reserved.
const RESERVED_SHARE: usize = 50;

/// Maximum number of reserved slots.
const MAX_RESERVED: usize = 64;

/// A network with fewer connections than this may take a reserved slot.
const FEW: u32 = 4;

/// The slots of one listener.
pub(crate) struct ConnectionSlots {
    max: usize,
    reserved: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_network: HashMap<Network, u32>,
}

impl ConnectionSlots {
    /// Slots for `max` connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let reserved = (max / RESERVED_SHARE).min(MAX_RESERVED);
        Arc::new(Self { max, reserved, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a connection from `address`, if there is one for it.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        let network = Network::of(address);
        let mut taken = self.taken();
        let free = self.max.saturating_sub(taken.all);
        let has = taken.by_network.get(&network).copied().unwrap_or_default();
        if free == 0 || (free <= self.reserved && has >= FEW) {
            return None;
        }
        taken.all += 1;
        taken.by_network.insert(network, has + 1);
        Some(ConnectionSlot { slots: Arc::clone(self), network })
    }
}

/// The slot of one connection, free again when dropped.
pub(crate) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    network: Network,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.all -= 1;
        if let Entry::Occupied(mut entry) = taken.by_network.entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_network_cannot_take_the_reserved_slots() {
        let slots = ConnectionSlots::new(100);
        let greedy = address("2001:db8::1");
        let held: Vec<_> = (0..200).filter_map(|_| slots.take(greedy)).collect();
        assert_eq!(held.len(), 98);
        assert!(slots.take(address("2001:db8::2")).is_none(), "the same network");
        let probe = slots.take(address("192.0.2.1"));
        assert!(probe.is_some());
        let other = slots.take(address("::ffff:192.0.2.1"));
        assert!(other.is_some());
        assert!(slots.take(address("192.0.2.2")).is_none(), "all are taken");
        drop(probe);
        drop(other);
        drop(held);
        let taken = slots.taken();
        assert_eq!((taken.all, taken.by_network.len()), (0, 0));
    }

    #[test]
    fn few_slots_are_for_everybody() {
        let slots = ConnectionSlots::new(10);
        let held: Vec<_> = (0..20).filter_map(|_| slots.take(address("192.0.2.1"))).collect();
        assert_eq!(held.len(), 10);
    }
}

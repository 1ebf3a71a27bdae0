//! The places for connections of one listener.
//!
//! The last places go only to networks that have few, so that one address that takes all others
//! does not lock out a health check.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The share of reserved places is one of so many.
const RESERVED_SHARE: usize = 50;

/// The maximum number of reserved places.
const MAX_RESERVED: usize = 64;

/// Connections with which a network still gets a reserved place.
const FEW: u32 = 4;

/// The places of one listener.
pub(crate) struct Places {
    max: usize,
    reserved: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_network: HashMap<Network, u32>,
}

/// An IPv4 address, or the first 64 bits of an IPv6 address, which one customer has at least.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Network(u64);

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // `::/32` is no network of anybody.
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

impl Places {
    /// Places for `max` connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let reserved = (max / RESERVED_SHARE).min(MAX_RESERVED);
        Arc::new(Self { max, reserved, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, if there is one for it.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let network = Network::of(address);
        let mut taken = self.taken();
        let free = self.max.saturating_sub(taken.all);
        let has = taken.by_network.get(&network).copied().unwrap_or_default();
        if free == 0 || (free <= self.reserved && has >= FEW) {
            return None;
        }
        taken.all += 1;
        taken.by_network.insert(network, has + 1);
        Some(Place { places: Arc::clone(self), network })
    }
}

/// The place of one connection, free again when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    network: Network,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
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
    fn one_network_cannot_take_the_reserved_places() {
        let places = Places::new(100);
        let greedy = address("2001:db8::1");
        let held: Vec<_> = (0..200).filter_map(|_| places.take(greedy)).collect();
        assert_eq!(held.len(), 98);
        assert!(places.take(address("2001:db8::2")).is_none(), "the same network");
        let probe = places.take(address("192.0.2.1"));
        assert!(probe.is_some());
        let other = places.take(address("::ffff:192.0.2.1"));
        assert!(other.is_some());
        assert!(places.take(address("192.0.2.2")).is_none(), "all are taken");
        drop(probe);
        drop(other);
        drop(held);
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_network.len()), (0, 0));
    }

    #[test]
    fn few_places_are_for_everybody() {
        let places = Places::new(10);
        let held: Vec<_> = (0..20).filter_map(|_| places.take(address("192.0.2.1"))).collect();
        assert_eq!(held.len(), 10);
    }
}

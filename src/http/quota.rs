//! The quota of session creations, by client address and by the networks that contain it.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

/// Prefixes of IPv6 and what each may create, in multiples of one client's quota. One customer has
/// a /64 at least, and often a /56 or a /48.
const PREFIXES: [(u32, u32); 3] = [(64, 1), (56, 4), (48, 16)];

/// Creations of sessions by client.
pub struct CreationQuota {
    /// By IPv4 address or IPv6 /64, then by the larger prefixes.
    levels: [DefaultKeyedRateLimiter<u64>; PREFIXES.len()],
}

impl CreationQuota {
    /// `per_minute` creations of one client.
    pub fn new(per_minute: NonZeroU32) -> Self {
        let levels = PREFIXES.map(|(_, multiple)| {
            let multiple = NonZeroU32::new(multiple).unwrap_or(NonZeroU32::MIN);
            RateLimiter::dashmap(Quota::per_minute(per_minute.saturating_mul(multiple)))
        });
        Self { levels }
    }

    /// Counts a creation.
    ///
    /// # Errors
    /// When a quota is used up: how long until the next creation is allowed.
    pub fn take(&self, address: IpAddr) -> Result<(), Duration> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) => {
                return check(&self.levels[0], u64::from(address.to_bits()));
            }
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // The smallest network first: one that floods does not use up what its neighbours have.
        for (level, (prefix, _)) in self.levels.iter().zip(PREFIXES) {
            check(level, address >> (64 - prefix) << (64 - prefix))?;
        }
        Ok(())
    }

    /// Forgets clients whose quota is full again.
    pub fn retain_recent(&self) {
        for level in &self.levels {
            level.retain_recent();
            level.shrink_to_fit();
        }
    }
}

fn check(level: &DefaultKeyedRateLimiter<u64>, network: u64) -> Result<(), Duration> {
    level.check_key(&network).map_err(|denied| denied.wait_time_from(level.clock().now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(quota: &CreationQuota, addresses: impl Iterator<Item = String>) -> usize {
        addresses.filter(|address| quota.take(address.parse().unwrap()).is_ok()).count()
    }

    #[test]
    fn a_flood_from_a_48_is_bounded_and_its_neighbours_are_not() {
        let quota = CreationQuota::new(NonZeroU32::new(10).unwrap());
        let one = (0..100).map(|host| format!("2001:db8:1:1::{host:x}"));
        assert_eq!(created(&quota, one), 10);
        let of_56 = (0..256).map(|subnet| format!("2001:db8:1:{subnet:x}::1"));
        assert_eq!(created(&quota, of_56), 30);
        let of_48 = (0..=u16::MAX).step_by(64).map(|subnet| format!("2001:db8:1:{subnet:x}::1"));
        // A few more with the time that this takes.
        let of_48 = created(&quota, of_48);
        assert!((120..140).contains(&of_48), "{of_48}");
        assert!(quota.take("2001:db8:2::1".parse().unwrap()).is_ok());
        let mapped = (0..100).map(|_| "::ffff:192.0.2.1".to_owned());
        assert_eq!(created(&quota, mapped), 10);
        assert!(quota.take("192.0.2.1".parse().unwrap()).is_err());
        assert!(quota.take("192.0.2.2".parse().unwrap()).is_ok());
    }
}

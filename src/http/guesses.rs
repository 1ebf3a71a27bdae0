//! Limits on guessing secrets: failed attempts are counted by client address and in total, and
//! together by all instances that share a store.
//!
//! A wrong secret uses up the allowance of its address and that of everybody together. Where it is
//! used up, the answer is 429. [`GuessLimiter::admit`] refuses before the secret is looked at, which
//! is for secrets that people or operators chose and for codes; a secret of 256 random bits needs no
//! such refusal, and a reader behind the address of somebody who guesses keeps getting in.
//!
//! The allowance in all protects against many addresses. An address that presented a right secret in
//! the last hour is not refused because of it, so that strangers cannot lock known clients out.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use crate::{
    http::error::Problem,
    session::Digest,
    store::{Store, StoreError},
    util::network::Network,
};

/// What was guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Guessed {
    /// The secret of a client.
    ClientSecret,
    /// The session token of a bound session.
    SessionToken,
    /// A user code (RFC 8628 §6.1).
    UserCode,
    /// The user code of one session, in the session's dialog.
    DialogCode,
    /// A refresh token.
    RefreshToken,
    /// A transit token.
    TransitToken,
    /// A device code (RFC 8628).
    DeviceCode,
}

impl Guessed {
    /// Failed attempts per minute of one client address.
    pub const BY_ADDRESS: NonZeroU32 = at_least_one(30);

    /// Failed attempts per minute of all addresses together.
    pub const fn in_all(self) -> NonZeroU32 {
        match self {
            // 20^8 codes, of which as many are right as devices wait (RFC 8628 §5.1).
            Self::UserCode => at_least_one(120),
            _ => at_least_one(1200),
        }
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// The window in which instances that share a store count failed attempts together.
const WINDOW: Duration = Duration::from_secs(60);

/// How long an address is known after a right secret.
const KNOWN: Duration = Duration::from_secs(3600);

/// Maximum number of addresses with a standing; above it those whose standing ends first are dropped.
const MAX_STANDINGS: usize = 50_000;

/// What is recorded of an address.
#[derive(Clone, Copy, Default)]
struct Standing {
    refused_until: Option<Instant>,
    known_until: Option<Instant>,
    /// Refused because of what all instances together have counted.
    refused_together_until: Option<Instant>,
}

impl Standing {
    fn ends(&self) -> Option<Instant> {
        self.refused_until.max(self.known_until).max(self.refused_together_until)
    }
}

/// The result of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was wrong; the allowance is not used up.
    Wrong,
    /// The allowance is used up: the answer is 429. `first` says that it was not before.
    Refused {
        /// When to try again.
        retry_after: Duration,
        /// Whether the last attempt of the address was not refused.
        first: bool,
    },
}

/// The allowances for one kind of secret.
struct Allowance {
    by_network: DefaultKeyedRateLimiter<Network>,
    in_all: DefaultDirectRateLimiter,
    refused_until: Mutex<Option<Instant>>,
    standings: Mutex<HashMap<Network, Standing>>,
}

impl Allowance {
    fn new(guessed: Guessed) -> Self {
        Self {
            by_network: RateLimiter::dashmap(Quota::per_minute(Guessed::BY_ADDRESS)),
            in_all: RateLimiter::direct(Quota::per_minute(guessed.in_all())),
            refused_until: Mutex::default(),
            standings: Mutex::default(),
        }
    }

    /// Refuses a network for `wait`.
    fn refuse(&self, network: Network, wait: Duration, now: Instant) -> Verdict {
        let mut standings = self.standings();
        make_room(&mut standings, now);
        let standing = standings.entry(network).or_default();
        // Attempts that follow each other closely are one run.
        let first = standing.refused_until.is_none_or(|until| until + wait < now);
        standing.refused_until = Some(now + wait);
        Verdict::Refused { retry_after: wait, first }
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<Network, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The allowances for every kind of secret.
pub struct GuessLimiter {
    allowances: HashMap<Guessed, Allowance>,
}

impl Default for GuessLimiter {
    fn default() -> Self {
        use strum::IntoEnumIterator as _;
        Self {
            allowances: Guessed::iter().map(|guessed| (guessed, Allowance::new(guessed))).collect(),
        }
    }
}

impl GuessLimiter {
    /// Refuses an attempt before the secret is looked at.
    ///
    /// # Errors
    /// [`Problem::TooManyGuesses`] while the address has used its allowance up, or all addresses
    /// have and this one is not known.
    pub fn admit(&self, guessed: Guessed, address: IpAddr) -> Result<(), Problem> {
        let Some(allowance) = self.allowances.get(&guessed) else { return Ok(()) };
        let now = Instant::now();
        let standing =
            allowance.standings().get(&Network::of(address)).copied().unwrap_or_default();
        let in_all = *allowance.refused_until.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = standing.known_until.is_some_and(|until| until > now);
        let own = standing.refused_until.max(standing.refused_together_until);
        let refused_until = own.max(if is_known { None } else { in_all }).filter(|at| *at > now);
        match refused_until {
            None => Ok(()),
            Some(until) => Err(Problem::TooManyGuesses(until - now)),
        }
    }

    /// Whether the address presented a right secret of this kind in the last hour.
    pub fn knows(&self, guessed: Guessed, address: IpAddr) -> bool {
        let standing = self
            .allowances
            .get(&guessed)
            .and_then(|allowance| allowance.standings().get(&Network::of(address)).copied());
        standing.is_some_and(|standing| standing.known_until > Some(Instant::now()))
    }

    /// Refuses the address for `duration`: other instances have seen its guesses.
    pub fn refuse(&self, guessed: Guessed, address: IpAddr, duration: Duration) {
        let Some(allowance) = self.allowances.get(&guessed) else { return };
        let now = Instant::now();
        let mut standings = allowance.standings();
        make_room(&mut standings, now);
        standings.entry(Network::of(address)).or_default().refused_until = Some(now + duration);
    }

    /// Counts a wrong secret.
    pub fn wrong(&self, guessed: Guessed, address: IpAddr) -> Verdict {
        let Some(allowance) = self.allowances.get(&guessed) else { return Verdict::Wrong };
        let (network, now) = (Network::of(address), Instant::now());
        if let Err(wait) = allowance.in_all.check().map_err(|not_until| wait(&not_until)) {
            *allowance.refused_until.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(now + wait);
        }
        let Err(wait) =
            allowance.by_network.check_key(&network).map_err(|not_until| wait(&not_until))
        else {
            let standing = allowance.standings().get(&network).copied().unwrap_or_default();
            return match standing.refused_together_until.filter(|until| *until > now) {
                None => Verdict::Wrong,
                Some(until) => Verdict::Refused { retry_after: until - now, first: false },
            };
        };
        allowance.refuse(network, wait, now)
    }

    /// Counts a wrong secret together with those of all instances that share `store`, and refuses
    /// further ones here where their allowance is used up.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn count_together(
        &self,
        store: &dyn Store,
        guessed: Guessed,
        address: IpAddr,
    ) -> Result<(), StoreError> {
        let Some(allowance) = self.allowances.get(&guessed) else { return Ok(()) };
        let (network, kind): (_, &str) = (Network::of(address), guessed.into());
        let name = |of: &str| Digest::of(format!("guess:{kind}:{of}").as_bytes());
        let (by_network, in_all) = tokio::try_join!(
            store.count(name(&network.to_string()), 1, WINDOW),
            store.count(name("all"), 1, WINDOW)
        )?;
        if in_all >= i64::from(guessed.in_all().get()) {
            *allowance.refused_until.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(Instant::now() + WINDOW);
        }
        if by_network >= i64::from(Guessed::BY_ADDRESS.get()) {
            let now = Instant::now();
            let mut standings = allowance.standings();
            make_room(&mut standings, now);
            standings.entry(network).or_default().refused_together_until = Some(now + WINDOW);
        }
        Ok(())
    }

    /// Records a correct secret.
    pub fn right(&self, guessed: Guessed, address: IpAddr) {
        let Some(allowance) = self.allowances.get(&guessed) else { return };
        let now = Instant::now();
        let mut standings = allowance.standings();
        make_room(&mut standings, now);
        standings.entry(Network::of(address)).or_default().known_until = Some(now + KNOWN);
    }

    /// Removes addresses whose allowances are full again.
    pub fn retain_recent(&self) {
        let now = Instant::now();
        for allowance in self.allowances.values() {
            allowance.by_network.retain_recent();
            allowance.by_network.shrink_to_fit();
            allowance.standings().retain(|_, standing| standing.ends() > Some(now));
        }
    }
}

fn wait(not_until: &NotUntil<Instant>) -> Duration {
    not_until.wait_time_from(DefaultClock::default().now())
}

fn make_room(standings: &mut HashMap<Network, Standing>, now: Instant) {
    if standings.len() < MAX_STANDINGS {
        return;
    }
    standings.retain(|_, standing| standing.ends() > Some(now));
    if standings.len() >= MAX_STANDINGS {
        let mut ends: Vec<_> = standings.values().map(Standing::ends).collect();
        let (_, median, _) = ends.select_nth_unstable(MAX_STANDINGS / 2);
        let median = *median;
        standings.retain(|_, standing| standing.ends() > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn an_address_that_guesses_is_refused_and_others_are_not() {
        let guesses = GuessLimiter::default();
        for _ in 0..Guessed::BY_ADDRESS.get() {
            assert!(guesses.admit(Guessed::ClientSecret, address(1)).is_ok());
            assert_eq!(guesses.wrong(Guessed::ClientSecret, address(1)), Verdict::Wrong);
        }
        let Verdict::Refused { retry_after, first: true } =
            guesses.wrong(Guessed::ClientSecret, address(1))
        else {
            panic!("not refused");
        };
        assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(60));
        let refused = guesses.admit(Guessed::ClientSecret, address(1));
        assert!(matches!(refused, Err(Problem::TooManyGuesses(after)) if after <= retry_after));
        let again = guesses.wrong(Guessed::ClientSecret, address(1));
        assert!(matches!(again, Verdict::Refused { first: false, .. }));
        assert!(guesses.admit(Guessed::ClientSecret, address(2)).is_ok());
        assert!(guesses.admit(Guessed::UserCode, address(1)).is_ok());
    }

    #[test]
    fn many_addresses_together_are_refused_and_known_ones_are_not() {
        let guesses = GuessLimiter::default();
        guesses.right(Guessed::UserCode, address(255));
        let in_all = u8::try_from(Guessed::UserCode.in_all().get()).unwrap();
        for last in 0..=in_all {
            assert_eq!(guesses.wrong(Guessed::UserCode, address(last)), Verdict::Wrong);
        }
        assert!(guesses.admit(Guessed::UserCode, address(254)).is_err());
        assert!(guesses.admit(Guessed::UserCode, address(255)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let guesses = GuessLimiter::default();
        let host = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        for last in 0..=Guessed::BY_ADDRESS.get() {
            guesses.wrong(Guessed::ClientSecret, host(u16::try_from(last).unwrap()));
        }
        assert!(guesses.admit(Guessed::ClientSecret, host(9999)).is_err());
        let other = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert!(guesses.admit(Guessed::ClientSecret, other).is_ok());
    }

    #[test]
    fn standings_are_bounded() {
        let guesses = GuessLimiter::default();
        for host in 0..u32::try_from(MAX_STANDINGS).unwrap() + 10 {
            guesses.right(Guessed::ClientSecret, IpAddr::from(host.to_be_bytes()));
        }
        let standings = guesses.allowances[&Guessed::ClientSecret].standings();
        assert!(standings.len() <= MAX_STANDINGS);
    }
}

//! Limits on guessing secrets: failed attempts are counted by client address and in total, and
//! together by all instances that share a store.
//!
//! A wrong secret uses up the allowance of its address and that of everybody together, in the store
//! before it is answered. Where it is used up, the answer is 429, and says nothing about the secret.
//! [`Attempt::admit`] refuses before the secret is looked at, which is for secrets that people or
//! operators chose and for codes; a secret of 256 random bits needs no such refusal, and a reader
//! behind the address of somebody who guesses keeps getting in.
//!
//! A right secret that people or operators chose is counted too, and then taken back, where its
//! address has guessed wrong here in the last minute: otherwise a burst at several instances would
//! have as many tries as fit in before the first of them is counted. Codes, which are short, are
//! counted before they are looked up ([`Attempt::reserve`]), but for one at a time of an address that
//! has typed right ones.
//!
//! The allowance in all protects against many addresses. An address that presented a right secret in
//! the last hour is not refused because of it, so that strangers cannot lock known clients out.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

use crate::{
    http::{App, error::Problem, extract::ClientBasic, middleware::ClientAddress},
    session::{ClientId, Digest, Surface},
    settings::Clients,
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
    /// The token of the operator's page.
    OperatorToken,
}

impl Guessed {
    /// Failed attempts per minute of one client address.
    pub const BY_ADDRESS: NonZeroU32 = at_least_one(30);

    /// Whether people or operators chose it, so that it may be short; all else has 256 random bits.
    fn is_chosen(self) -> bool {
        matches!(self, Self::ClientSecret | Self::UserCode | Self::DialogCode | Self::OperatorToken)
    }

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
    /// Until when its last wrong secret here counts.
    guessed_until: Option<Instant>,
}

impl Standing {
    fn ends(&self) -> Option<Instant> {
        self.refused_until.max(self.known_until).max(self.guessed_until)
    }
}

/// Pauses before an attempt is taken back again where the store was unavailable.
const TAKE_BACK_PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// The result of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
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

    /// Until when addresses that are not known are refused.
    fn refused_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.refused_until.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn admit(&self, guessed: Guessed, address: IpAddr) -> Result<(), Problem> {
        let Some(allowance) = self.allowances.get(&guessed) else { return Ok(()) };
        let now = Instant::now();
        let (standing, in_all) = (self.standing(guessed, address), *allowance.refused_until());
        let is_known = standing.known_until.is_some_and(|until| until > now);
        let refused_until =
            standing.refused_until.max(if is_known { None } else { in_all }).filter(|at| *at > now);
        match refused_until {
            None => Ok(()),
            Some(until) => Err(Problem::TooManyGuesses(until - now)),
        }
    }

    /// What is recorded of the address.
    fn standing(&self, guessed: Guessed, address: IpAddr) -> Standing {
        let allowance = self.allowances.get(&guessed);
        allowance
            .and_then(|allowance| allowance.standings().get(&Network::of(address)).copied())
            .unwrap_or_default()
    }

    /// Whether the address presented a right secret of this kind in the last hour.
    fn knows(&self, guessed: Guessed, address: IpAddr) -> bool {
        self.standing(guessed, address).known_until > Some(Instant::now())
    }

    /// Whether the address presented a wrong secret of this kind here in the last minute.
    fn has_guessed(&self, guessed: Guessed, address: IpAddr) -> bool {
        self.standing(guessed, address).guessed_until > Some(Instant::now())
    }

    /// Marks an address that is known and has not guessed as if it had; `None` for any other.
    fn mark_known(&self, guessed: Guessed, address: IpAddr) -> Option<Instant> {
        let now = Instant::now();
        let mut standings = self.allowances.get(&guessed)?.standings();
        let standing = standings.get_mut(&Network::of(address))?;
        if standing.known_until <= Some(now) || standing.guessed_until > Some(now) {
            return None;
        }
        standing.guessed_until = Some(now + WINDOW);
        standing.guessed_until
    }

    /// Removes a mark, unless the address has guessed wrong since.
    fn clear(&self, guessed: Guessed, address: IpAddr, mark: Instant) {
        let Some(allowance) = self.allowances.get(&guessed) else { return };
        if let Some(standing) = allowance.standings().get_mut(&Network::of(address)) {
            standing.guessed_until.take_if(|until| *until == mark);
        }
    }

    /// Counts a wrong secret of this instance.
    fn wrong(&self, guessed: Guessed, address: IpAddr) -> Verdict {
        let Some(allowance) = self.allowances.get(&guessed) else { return Verdict::Wrong };
        let (network, now) = (Network::of(address), Instant::now());
        if let Err(wait) = allowance.in_all.check().map_err(|not_until| wait(&not_until)) {
            *allowance.refused_until() = Some(now + wait);
        }
        let Err(wait) =
            allowance.by_network.check_key(&network).map_err(|not_until| wait(&not_until))
        else {
            let mut standings = allowance.standings();
            make_room(&mut standings, now);
            let standing = standings.entry(network).or_default();
            standing.guessed_until = Some(now + WINDOW);
            return match standing.refused_until.filter(|until| *until > now) {
                None => Verdict::Wrong,
                Some(until) => Verdict::Refused { retry_after: until - now, first: false },
            };
        };
        allowance.refuse(network, wait, now)
    }

    /// Counts an attempt together with those of all instances that share `store`, and refuses it
    /// where the allowance is used up.
    ///
    /// # Errors
    /// When the store is unavailable.
    async fn count_together(
        &self,
        store: &dyn Store,
        guessed: Guessed,
        address: IpAddr,
    ) -> Result<Verdict, StoreError> {
        let Some(allowance) = self.allowances.get(&guessed) else { return Ok(Verdict::Wrong) };
        let network = Network::of(address);
        let (by_network, in_all) = count(store, guessed, network, 1).await?;
        let now = Instant::now();
        if in_all >= i64::from(guessed.in_all().get()) {
            *allowance.refused_until() = Some(now + WINDOW);
        }
        let allowed = i64::from(Guessed::BY_ADDRESS.get());
        if by_network > allowed {
            return Ok(allowance.refuse(network, WINDOW, now));
        }
        if in_all > i64::from(guessed.in_all().get()) && !self.knows(guessed, address) {
            return Ok(allowance.refuse(network, WINDOW, now));
        }
        Ok(Verdict::Wrong)
    }

    /// Records a correct secret.
    fn right(&self, guessed: Guessed, address: IpAddr) {
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

/// Adds to the counts of a network and of all, and returns both.
async fn count(
    store: &dyn Store,
    guessed: Guessed,
    network: Network,
    amount: i64,
) -> Result<(i64, i64), StoreError> {
    let kind: &str = guessed.into();
    let name = |of: &str| Digest::of(format!("guess:{kind}:{of}").as_bytes());
    tokio::try_join!(
        store.count(name(&network.to_string()), amount, WINDOW),
        store.count(name("all"), amount, WINDOW)
    )
}

/// Takes an attempt back once the store is available again, while it still counts.
async fn take_back_later(store: Arc<dyn Store>, guessed: Guessed, network: Network) {
    for pause in TAKE_BACK_PAUSES {
        tokio::time::sleep(pause).await;
        if count(&*store, guessed, network, -1).await.is_ok() {
            return;
        }
    }
    tracing::debug!("an attempt stays counted for a minute");
}

/// An attempt to present a secret.
#[must_use]
pub struct Attempt<'a> {
    app: &'a App,
    guessed: Guessed,
    address: IpAddr,
    /// The client that it names, for metrics and log.
    client: ClientId,
    /// Whether it is counted in the store already.
    is_reserved: bool,
    /// The mark of an attempt that is not, set while it lasts.
    mark: Option<Instant>,
}

impl<'a> Attempt<'a> {
    /// An attempt from `address` that names `client`, if any.
    pub fn new(
        app: &'a App,
        guessed: Guessed,
        ClientAddress(address): ClientAddress,
        client: Option<&ClientId>,
    ) -> Self {
        let client = app.clients.load().label(Surface::Native, client);
        Self { app, guessed, address, client, is_reserved: false, mark: None }
    }

    /// An attempt to authenticate as a client.
    pub fn of_client(
        app: &'a App,
        address: ClientAddress,
        clients: &Clients,
        basic: &ClientBasic,
    ) -> Self {
        let named = |(id, _): (Cow<'_, str>, _)| {
            clients.find(Some(&id)).ok().map(|client| client.id.clone())
        };
        match basic.readings().find_map(named) {
            Some(id) => Self::new(app, Guessed::ClientSecret, address, Some(&id)),
            None => Self::of_unknown_client(app, address),
        }
    }

    /// An attempt to authenticate as a client that is not registered.
    pub fn of_unknown_client(app: &'a App, address: ClientAddress) -> Self {
        let client = Clients::unknown();
        Self { client, ..Self::new(app, Guessed::ClientSecret, address, None) }
    }

    /// An attempt on the Meet surface.
    pub fn of_meet(app: &'a App, guessed: Guessed, address: ClientAddress) -> Self {
        let client = app.clients.load().label(Surface::Meet, None);
        Self { client, ..Self::new(app, guessed, address, None) }
    }

    /// Refuses the attempt before the secret is looked at, see `GuessLimiter::admit`.
    ///
    /// # Errors
    /// [`Problem::TooManyGuesses`].
    pub fn admit(self) -> Result<Self, Problem> {
        match self.app.guesses.admit(self.guessed, self.address) {
            Ok(()) => Ok(self),
            Err(problem) => {
                self.app.metrics.guess_refused(&self.client, self.guessed);
                Err(problem)
            }
        }
    }

    /// Counts the attempt in the store before the secret is looked at, so that attempts in parallel
    /// gain nothing wherever they are made. The only one of an address that presented right secrets
    /// in the last hour, and no wrong one in the last minute, is not counted.
    ///
    /// # Errors
    /// [`Problem::TooManyGuesses`], and [`Problem::StoreUnavailable`].
    pub async fn reserve(self) -> Result<Self, Problem> {
        let mut attempt = self.admit()?;
        attempt.mark = attempt.app.guesses.mark_known(attempt.guessed, attempt.address);
        if attempt.mark.is_none() {
            attempt.count_first().await?;
        }
        Ok(attempt)
    }

    async fn count_first(&mut self) -> Result<(), Problem> {
        let (guesses, store) = (&self.app.guesses, self.app.relay.store());
        let verdict = guesses.count_together(&**store, self.guessed, self.address).await?;
        self.is_reserved = true;
        match verdict {
            Verdict::Wrong => Ok(()),
            Verdict::Refused { retry_after, first } => Err(self.refused(retry_after, first)),
        }
    }

    /// The secret is right.
    ///
    /// # Errors
    /// [`Problem::TooManyGuesses`] where it is one try too many, see the module.
    pub async fn right(mut self) -> Result<(), Problem> {
        let (guessed, address) = (self.guessed, self.address);
        if !self.is_reserved
            && self.mark.is_none()
            && self.is_counted_together()
            && guessed.is_chosen()
            && self.app.guesses.has_guessed(guessed, address)
        {
            // While the store is unavailable, this instance counts alone.
            if let Err(problem @ Problem::TooManyGuesses(_)) = self.count_first().await {
                return Err(problem);
            }
        }
        self.app.guesses.right(guessed, address);
        self.take_back().await;
        Ok(())
    }

    /// The attempt was none: the count is taken back, where there is one.
    pub async fn take_back(self) {
        if let Some(mark) = self.mark {
            self.app.guesses.clear(self.guessed, self.address, mark);
        }
        if !self.is_reserved {
            return;
        }
        let (store, network) = (self.app.relay.store(), Network::of(self.address));
        if count(&**store, self.guessed, network, -1).await.is_err() {
            // Otherwise the people of one address who try again after the store was unavailable would
            // be refused for attempts that were none.
            tokio::spawn(take_back_later(Arc::clone(store), self.guessed, network));
        }
    }

    /// The secret is wrong. The answer is `problem`, or 429 where the allowance is used up.
    pub async fn wrong(self, problem: Problem) -> Problem {
        let (app, guessed, address) = (self.app, self.guessed, self.address);
        let mut verdict = app.guesses.wrong(guessed, address);
        if self.is_reserved {
            // The count that was taken before decides alone.
            verdict = Verdict::Wrong;
        } else if verdict == Verdict::Wrong && self.is_counted_together() {
            let store = app.relay.store();
            match app.guesses.count_together(&**store, guessed, address).await {
                Ok(together) => verdict = together,
                Err(error) => {
                    tracing::debug!(%error, "wrong secret counted by this instance alone")
                }
            }
        }
        match verdict {
            Verdict::Wrong => {
                let secret: &str = guessed.into();
                app.metrics.guess_wrong(&self.client, guessed);
                tracing::warn!(
                    target: "audit", client = %address, client_id = %self.client, secret,
                    "wrong secret"
                );
                problem
            }
            Verdict::Refused { retry_after, first } => self.refused(retry_after, first),
        }
    }

    fn is_counted_together(&self) -> bool {
        let is_code = matches!(self.guessed, Guessed::UserCode | Guessed::DialogCode);
        is_code || self.app.settings.store.url.is_some()
    }

    fn refused(&self, retry_after: Duration, first: bool) -> Problem {
        let secret: &str = self.guessed.into();
        self.app.metrics.guess_refused(&self.client, self.guessed);
        if first {
            tracing::warn!(
                target: "audit",
                client = %self.address,
                client_id = %self.client,
                secret,
                "too many wrong secrets; further ones are refused and not logged"
            );
        }
        Problem::TooManyGuesses(retry_after)
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

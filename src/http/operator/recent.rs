//! What happened lately on this instance, for the operator's page. Everything is bounded, and nothing
//! in it is secret.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use token_relay_client::printable;

use crate::{
    settings::{KeyOrigin, KeySource},
    util::clock::UnixTime,
};

/// Maximum number of failures, and of revocations, that are remembered.
const MAX_ENTRIES: usize = 50;

/// Minutes of an hour.
const MINUTES: u64 = 60;

/// A sign-in that ended with an error page.
#[derive(Clone, Debug, Serialize)]
pub struct FailedSignIn {
    /// When, in seconds since 1970.
    pub at: u64,
    /// What the person was shown.
    pub reference: String,
    /// Name of the error page.
    pub page: &'static str,
    /// Why, as in the log.
    pub cause: String,
    /// Digest of the session ID, as in the log.
    pub session: Option<String>,
}

/// The end of everything that a person was granted.
#[derive(Clone, Debug, Serialize)]
pub struct EndedAccount {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The person's `sub`.
    pub subject: String,
    /// Who ended it: a client ID, or what the person or operator used.
    pub by: String,
}

/// The keys of one setting, and since when they are these.
#[derive(Clone, Debug, Serialize)]
pub struct KeyState {
    /// The setting.
    pub setting: &'static str,
    /// What `since` is the time of.
    pub origin: &'static str,
    /// In seconds since 1970.
    pub since: u64,
}

impl KeyState {
    fn new(KeySource { setting, origin, .. }: &KeySource, now: UnixTime) -> Self {
        let (origin, since) = match origin {
            KeyOrigin::File(changed) => ("file changed", *changed),
            KeyOrigin::Given => ("loaded", now),
            KeyOrigin::Random => ("random, made at the start", now),
        };
        Self { setting, origin, since: since.as_secs() }
    }
}

/// What happened lately, newest first.
#[derive(Debug)]
pub struct Recent {
    /// When the process started.
    pub started_at: UnixTime,
    keys: Mutex<Vec<KeyState>>,
    failures: Mutex<VecDeque<FailedSignIn>>,
    ended: Mutex<VecDeque<EndedAccount>>,
}

impl Recent {
    /// Nothing has happened since the start with these keys.
    pub fn new(keys: &[KeySource]) -> Self {
        let now = UnixTime::now();
        Self {
            started_at: now,
            keys: Mutex::new(keys.iter().map(|source| KeyState::new(source, now)).collect()),
            failures: Mutex::default(),
            ended: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<T>(entries: &Mutex<VecDeque<T>>, entry: T) {
    let mut entries = lock(entries);
    entries.truncate(MAX_ENTRIES - 1);
    entries.push_front(entry);
}

impl Recent {
    /// Remembers a sign-in that ended with an error page.
    pub fn failed(
        &self,
        reference: &str,
        page: &'static str,
        session: Option<String>,
        cause: &str,
    ) {
        let (at, cause) = (UnixTime::now().as_secs(), printable(cause));
        let reference = reference.to_owned();
        remember(&self.failures, FailedSignIn { at, reference, page, cause, session });
    }

    /// Remembers whose tokens ended.
    pub fn ended(&self, subject: &str, by: &str) {
        let (at, subject, by) = (UnixTime::now().as_secs(), printable(subject), printable(by));
        remember(&self.ended, EndedAccount { at, subject, by });
    }

    /// Records that these keys were exchanged.
    pub(crate) fn keys_exchanged<'s>(&self, sources: impl IntoIterator<Item = &'s KeySource>) {
        let now = UnixTime::now();
        let mut keys = lock(&self.keys);
        for source in sources {
            keys.retain(|key| key.setting != source.setting);
            keys.push(KeyState::new(source, now));
        }
    }

    /// The keys of each setting.
    pub fn keys(&self) -> Vec<KeyState> {
        lock(&self.keys).clone()
    }

    /// Failures, the newest first.
    pub fn failures(&self) -> Vec<FailedSignIn> {
        lock(&self.failures).iter().cloned().collect()
    }

    /// Ends of everything of a person, the newest first.
    pub fn ended_accounts(&self) -> Vec<EndedAccount> {
        lock(&self.ended).iter().cloned().collect()
    }
}

/// Counts by outcome in each of the last sixty minutes.
#[derive(Debug, Default)]
pub struct LastHour(Mutex<VecDeque<(u64, BTreeMap<&'static str, u64>)>>);

impl LastHour {
    /// Counts one.
    pub fn count(&self, outcome: &'static str) {
        self.count_at(outcome, UnixTime::now().as_secs() / 60);
    }

    fn count_at(&self, outcome: &'static str, minute: u64) {
        let mut minutes = lock(&self.0);
        if minutes.back().is_none_or(|(last, _)| *last < minute) {
            minutes.push_back((minute, BTreeMap::new()));
        }
        while minutes.front().is_some_and(|(first, _)| first + MINUTES <= minute) {
            minutes.pop_front();
        }
        if let Some((_, counts)) = minutes.back_mut() {
            *counts.entry(outcome).or_default() += 1;
        }
    }

    /// The counts of the last hour, to the minute.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts_at(UnixTime::now().as_secs() / 60)
    }

    fn counts_at(&self, minute: u64) -> BTreeMap<&'static str, u64> {
        let mut sum = BTreeMap::new();
        for (_, counts) in lock(&self.0).iter().filter(|(own, _)| own + MINUTES > minute) {
            for (outcome, count) in counts {
                *sum.entry(*outcome).or_default() += count;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hour_forgets_what_is_older() {
        let hour = LastHour::default();
        hour.count_at("Denied", 100);
        hour.count_at("Denied", 100);
        hour.count_at("Succeeded", 159);
        assert_eq!(hour.counts_at(159), BTreeMap::from([("Denied", 2), ("Succeeded", 1)]));
        assert_eq!(hour.counts_at(160), BTreeMap::from([("Succeeded", 1)]));
        hour.count_at("Succeeded", 170);
        assert_eq!(hour.counts_at(170), BTreeMap::from([("Succeeded", 2)]));
        assert!(hour.counts_at(1000).is_empty());
        // A clock that was set back counts on.
        hour.count_at("Denied", 5);
        assert_eq!(hour.counts_at(170)["Denied"], 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Recent::new(&[]);
        for number in 0..200 {
            recent.failed(&number.to_string(), "denied", None, &"\u{1b}\u{202e}x".repeat(900));
            recent.ended(&number.to_string(), "backend");
        }
        let failures = recent.failures();
        assert_eq!((failures.len(), failures[0].reference.as_str()), (MAX_ENTRIES, "199"));
        assert_eq!(failures[0].cause, "x".repeat(300));
        assert_eq!(recent.ended_accounts().len(), MAX_ENTRIES);
    }
}

//! The contract that every store keeps.
//!
//! The cases are in [`cases`]; a further store is one more line at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use token_relay::{
    session::{Failure, GoneReason, GrantId, Outcome, Profile, State, SubscriptionId},
    store::{
        Ended, Entered, Entry, NewSession, ReadMode, ReadRequest, ReadResult, Rotated, StoreError,
        Stored,
    },
};

use crate::support::{redis::eventually, store::*};

/// The cases. Each gets a fresh store.
mod cases {
    use super::*;

    pub async fn an_unknown_session_is_unknown_to_all(it: Harness) {
        let key = key();
        assert_eq!(it.read(key, poll(None)).await, ReadResult::Unknown);
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.fulfil(key).await, Stored::Unknown);
        let failed = it.store.fail(key, Failure::new("access_denied", "no")).await.unwrap();
        assert_eq!(failed, Stored::Unknown);
        assert_eq!(it.end(key).await, Ended::Unknown);
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
    }

    pub async fn a_pending_session_has_a_remaining_lifetime(it: Harness) {
        let key = it.create(legacy()).await;
        let ReadResult::Pending { remaining } = it.read(key, poll(None)).await else {
            panic!("not pending")
        };
        assert!(remaining <= LIFE && remaining > LIFE - Duration::from_secs(5), "{remaining:?}");
    }

    pub async fn a_read_once_poll_ends_the_session(it: Harness) {
        let key = it.authenticated().await;
        assert!(is_token(&it.read(key, poll(None)).await));
        assert_eq!(it.read(key, poll(None)).await, gone(GoneReason::Acknowledged));
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Gone(GoneReason::Acknowledged)));
    }

    pub async fn the_age_counts_from_the_login(it: Harness) {
        let key = it.authenticated().await;
        let start = Instant::now();
        let outcome = loop {
            // Before the read, which may be what takes its time.
            let late = start.elapsed() > Duration::from_millis(300);
            let outcome = it.read(key, poll(GRACE)).await;
            if late {
                break outcome;
            }
        };
        let ReadResult::Settled(Outcome::Token { age, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(age >= Duration::from_millis(250) && age < Duration::from_secs(10), "{age:?}");
    }

    pub async fn within_the_grace_the_token_is_read_again(it: Harness) {
        let key = it.authenticated().await;
        for _ in 0..3 {
            assert!(is_token(&it.read(key, poll(GRACE)).await));
        }
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Delivered));
        // A read-once poll is the last one, also now.
        assert!(is_token(&it.read(key, poll(None)).await));
        assert_eq!(it.read(key, poll(GRACE)).await, gone(GoneReason::Acknowledged));
    }

    pub async fn after_the_grace_the_session_is_over(it: Harness) {
        let key = it.authenticated().await;
        let grace = Duration::from_millis(400);
        let start = Instant::now();
        assert!(is_token(&it.read(key, poll(Some(grace))).await));
        // Later reads do not extend it.
        let outcome = loop {
            let outcome = it.read(key, poll(Some(grace))).await;
            if !is_token(&outcome) {
                break outcome;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "the grace has no end");
        };
        // The store counts in milliseconds.
        assert!(start.elapsed() + Duration::from_millis(2) >= grace, "{:?}", start.elapsed());
        assert_eq!(outcome, gone(GoneReason::Expired));
    }

    pub async fn the_grace_ends_with_the_session(it: Harness) {
        let ttl = Duration::from_millis(600);
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert!(is_token(&it.read(key, poll(GRACE)).await));
        eventually("the session expires", || async {
            it.read(key, poll(GRACE)).await == gone(GoneReason::Expired)
        })
        .await;
    }

    pub async fn a_session_expires_and_is_remembered(it: Harness) {
        let ttl = Duration::from_millis(300);
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        assert!(is_pending(&it.read(key, poll(None)).await));
        eventually("the session expires", || async {
            it.read(key, poll(None)).await == gone(GoneReason::Expired)
        })
        .await;
        let gone = State::Gone(GoneReason::Expired);
        assert_eq!(it.fulfil(key).await, Stored::NotPending(gone.clone()));
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::NotPending(gone));
        assert_eq!(it.end(key).await, Ended::Already(GoneReason::Expired));
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
    }

    pub async fn fulfilling_does_not_prolong_the_session(it: Harness) {
        let ttl = Duration::from_millis(700);
        let start = Instant::now();
        let key = it.create(NewSession { ttl, ..legacy() }).await;
        eventually("half its life is over", || async { start.elapsed() > ttl / 2 }).await;
        assert_eq!(it.fulfil(key).await, Stored::Done);
        eventually("the session expires", || async {
            it.read(key, claim(SubscriptionId::generate())).await != superseded()
        })
        .await;
        assert!(start.elapsed() < ttl * 2, "lived {:?} in place of {ttl:?}", start.elapsed());
        let outcome = it.read(key, poll(None)).await;
        assert_eq!(outcome, gone(GoneReason::Expired));
    }

    pub async fn the_newest_subscription_wins(it: Harness) {
        let key = it.create(legacy()).await;
        let (old, new) = (SubscriptionId::generate(), SubscriptionId::generate());
        assert!(is_pending(&it.read(key, attach(old)).await));
        assert!(is_pending(&it.read(key, attach(new)).await));
        // Before there is a token nobody is turned away.
        assert!(is_pending(&it.read(key, claim(old)).await));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.read(key, claim(old)).await, superseded());
        assert!(is_token(&it.read(key, claim(new)).await));
        // Also after the delivery.
        assert_eq!(it.read(key, claim(old)).await, superseded());
        assert!(is_token(&it.read(key, claim(new)).await));
        assert!(is_token(&it.read(key, attach(old)).await));
        assert_eq!(it.read(key, claim(new)).await, superseded());
        assert!(is_token(&it.read(key, claim(old)).await));
    }

    pub async fn a_poll_displaces_nobody(it: Harness) {
        let key = it.create(legacy()).await;
        let subscription = SubscriptionId::generate();
        assert!(is_pending(&it.read(key, attach(subscription)).await));
        assert!(is_pending(&it.read(key, poll(GRACE)).await));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert!(is_token(&it.read(key, claim(subscription)).await));
    }

    pub async fn attaching_after_the_login_delivers_at_once(it: Harness) {
        let key = it.authenticated().await;
        let subscription = SubscriptionId::generate();
        assert!(is_token(&it.read(key, attach(subscription)).await));
        assert!(is_token(&it.read(key, claim(subscription)).await));
    }

    pub async fn a_bound_session_needs_its_token(it: Harness) {
        let (session_token, transit) = (digest(), digest());
        let session = bound(session_token, transit);
        let expected = session.info.clone();
        let key = it.create(session).await;
        let with = |session_token, mode| ReadRequest { session_token, mode, grace: GRACE };
        let subscription = SubscriptionId::generate();
        for wrong in [None, Some(digest()), Some(transit)] {
            for mode in
                [ReadMode::Poll, ReadMode::Attach(subscription), ReadMode::Claim(subscription)]
            {
                assert_eq!(it.read(key, with(wrong, mode)).await, ReadResult::Unauthorized);
            }
            assert_eq!(it.store.end(key, wrong).await.unwrap(), Ended::Unauthorized);
        }
        let right = Some(session_token);
        assert!(is_pending(&it.read(key, with(right, ReadMode::Attach(subscription))).await));
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(expected));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        // A stranger changes nothing: it displaces no subscription and consumes no token.
        let stranger = ReadMode::Attach(SubscriptionId::generate());
        assert_eq!(it.read(key, with(None, stranger)).await, ReadResult::Unauthorized);
        assert_eq!(
            it.read(key, ReadRequest { grace: None, ..with(None, stranger) }).await,
            ReadResult::Unauthorized
        );
        assert!(is_token(&it.read(key, with(right, ReadMode::Claim(subscription))).await));
        assert_eq!(it.store.end(key, right).await.unwrap(), Ended::Acknowledged);
        // The end of a session is disclosed to its reader only.
        assert_eq!(it.read(key, with(None, ReadMode::Poll)).await, ReadResult::Unauthorized);
        assert_eq!(it.read(key, with(right, ReadMode::Poll)).await, gone(GoneReason::Acknowledged));
        assert_eq!(
            it.store.end(key, right).await.unwrap(),
            Ended::Already(GoneReason::Acknowledged)
        );
    }

    pub async fn a_legacy_session_is_entered_by_its_id_any_number_of_times(it: Harness) {
        let key = it.create(legacy()).await;
        for _ in 0..2 {
            let entered = it.enter(key, Entry::SessionId).await;
            assert_eq!(entered, Entered::Admitted(info(Profile::Legacy)));
        }
        assert_eq!(it.enter(key, Entry::Transit(digest())).await, Entered::Unknown);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(
            it.enter(key, Entry::SessionId).await,
            Entered::NotPending(State::Authenticated)
        );
    }

    pub async fn a_meet_session_is_not_entered_by_its_id(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::Unknown);
        assert_eq!(
            it.enter(key, Entry::Transit(transit)).await,
            Entered::Admitted(info(Profile::Meet))
        );
    }

    pub async fn a_replayed_transit_token_kills_the_session(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        it.store.subscribe(key).await.unwrap();
        assert!(matches!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(_)));
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.read(key, poll(None)).await, gone(GoneReason::Replayed));
        assert_eq!(it.fulfil(key).await, Stored::NotPending(State::Gone(GoneReason::Replayed)));
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
    }

    pub async fn a_replay_takes_back_a_token_that_nobody_has_yet(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert!(matches!(it.enter(key, Entry::Transit(transit)).await, Entered::Admitted(_)));
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::Replayed);
        assert_eq!(it.read(key, poll(None)).await, gone(GoneReason::Replayed));
    }

    pub async fn a_transit_token_expires_before_its_session(it: Harness) {
        let transit = digest();
        let session =
            NewSession { transit: Some((transit, Duration::from_millis(1))), ..meet(transit) };
        let key = it.create(session).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(it.enter(key, Entry::Transit(transit)).await, Entered::TransitExpired);
        assert!(is_pending(&it.read(key, poll(None)).await));
    }

    pub async fn an_unused_transit_token_finds_the_session_not_pending(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        assert_eq!(it.end(key).await, Ended::Cancelled);
        assert_eq!(
            it.enter(key, Entry::Transit(transit)).await,
            Entered::NotPending(State::Gone(GoneReason::Cancelled))
        );
    }

    pub async fn a_failure_is_published(it: Harness) {
        let key = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        let failure = Failure::new("access_denied", "the person said n\u{f6}");
        let stored = it.store.fail(key, failure.clone()).await.unwrap();
        assert_eq!(stored, Stored::Done);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(
            it.read(key, poll(None)).await,
            ReadResult::Settled(Outcome::Failed(failure.clone()))
        );
        assert_eq!(
            it.read(key, poll(None)).await,
            ReadResult::Settled(Outcome::Failed(failure.clone()))
        );
        let failed = State::Failed(failure.clone());
        assert_eq!(it.fulfil(key).await, Stored::NotPending(failed.clone()));
        assert_eq!(
            it.store.fail(key, Failure::new("server_error", "")).await.unwrap(),
            Stored::NotPending(failed.clone())
        );
        assert_eq!(it.enter(key, Entry::SessionId).await, Entered::NotPending(failed));
        assert_eq!(it.end(key).await, Ended::Failed);
        assert!(!matches!(it.read(key, poll(None)).await, ReadResult::Settled(Outcome::Failed(_))));
    }

    pub async fn a_login_that_came_first_is_not_undone_by_a_failure(it: Harness) {
        let key = it.authenticated().await;
        assert_eq!(
            it.store.fail(key, Failure::new("server_error", "late")).await.unwrap(),
            Stored::NotPending(State::Authenticated)
        );
        assert!(is_token(&it.read(key, poll(None)).await));
    }

    pub async fn ending_acknowledges_or_cancels(it: Harness) {
        let key = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        assert_eq!(it.end(key).await, Ended::Cancelled);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.end(key).await, Ended::Already(GoneReason::Cancelled));
        assert_eq!(it.read(key, poll(None)).await, gone(GoneReason::Cancelled));

        let key = it.authenticated().await;
        it.store.subscribe(key).await.unwrap();
        assert!(is_token(&it.read(key, poll(GRACE)).await));
        assert_eq!(it.end(key).await, Ended::Acknowledged);
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert_eq!(it.read(key, poll(GRACE)).await, gone(GoneReason::Acknowledged));
    }

    pub async fn evicting_ends_any_profile(it: Harness) {
        let session_token = digest();
        let key = it.create(bound(session_token, digest())).await;
        it.store.subscribe(key).await.unwrap();
        assert!(it.store.evict(key, GoneReason::Replayed).await.unwrap());
        assert_eq!(it.notices.heard(key, 1).await, [None]);
        assert!(!it.store.evict(key, GoneReason::Replayed).await.unwrap());
        let read = ReadRequest { session_token: Some(session_token), ..poll(None) };
        assert_eq!(it.read(key, read).await, gone(GoneReason::Replayed));
    }

    pub async fn a_fulfilment_is_published_with_its_payload(it: Harness) {
        let key = it.create(legacy()).await;
        let other = it.create(legacy()).await;
        it.store.subscribe(key).await.unwrap();
        assert_eq!(it.fulfil(other).await, Stored::Done);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        let heard = it.notices.heard(key, 1).await;
        assert!(heard == [Some(sealed())] || heard == [None], "{heard:?}");
        assert!(it.notices.of(other).is_empty(), "nobody subscribed to it");
    }

    pub async fn subscriptions_nest_and_end(it: Harness) {
        let key = it.create(legacy()).await;
        let last = it.create(legacy()).await;
        for _ in 0..3 {
            it.store.subscribe(key).await.unwrap();
        }
        it.store.unsubscribe(key);
        it.store.unsubscribe(key);
        assert_eq!(it.fulfil(key).await, Stored::Done);
        assert_eq!(it.notices.heard(key, 1).await.len(), 1, "one notice, however many subscribers");
        it.store.unsubscribe(key);
        // One unsubscribe too many does no harm.
        it.store.unsubscribe(key);
        // Subscribing is in order with unsubscribing, so after this the latter is done.
        it.store.subscribe(last).await.unwrap();
        assert_eq!(it.end(key).await, Ended::Acknowledged);
        assert_eq!(it.end(last).await, Ended::Cancelled);
        it.notices.heard(last, 1).await;
        assert_eq!(it.notices.of(key).len(), 1, "nobody subscribed to it any more");
    }

    pub async fn leaving_and_coming_back_loses_nothing(it: Harness) {
        // An unsubscribe under way must not end the subscription that follows it.
        let mut tasks = tokio::task::JoinSet::new();
        let it = Arc::new(it);
        for _ in 0..50 {
            let it = it.clone();
            tasks.spawn(async move {
                let key = it.create(legacy()).await;
                for _ in 0..20 {
                    it.store.subscribe(key).await.unwrap();
                    it.store.unsubscribe(key);
                }
                it.store.subscribe(key).await.unwrap();
                assert_eq!(it.fulfil(key).await, Stored::Done);
                it.notices.heard(key, 1).await;
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("no task fails");
        }
    }

    pub async fn a_mark_is_set_once(it: Harness) {
        let (name, other) = (digest(), digest());
        assert!(!it.store.is_marked(name).await.unwrap());
        assert!(it.store.mark(name, LIFE).await.unwrap());
        assert!(!it.store.mark(name, LIFE).await.unwrap());
        assert!(it.store.is_marked(name).await.unwrap());
        assert!(!it.store.is_marked(other).await.unwrap());
        assert!(it.store.mark(other, Duration::from_millis(50)).await.unwrap());
        eventually("the mark expires", || async { !it.store.is_marked(other).await.unwrap() })
            .await;
        assert!(it.store.mark(other, LIFE).await.unwrap());
    }

    pub async fn refresh_tokens_follow_each_other_and_a_reuse_ends_the_grant(it: Harness) {
        let (grant, other) = (GrantId::generate(), GrantId::generate());
        let rotate = async |grant, generation| {
            it.store.rotate_grant(grant, generation, LIFE, LIFE).await.unwrap()
        };
        assert_eq!(rotate(grant, 1).await, Rotated::Unknown);
        it.store.begin_grant(grant, LIFE).await.unwrap();
        it.store.begin_grant(other, LIFE).await.unwrap();
        assert_eq!(rotate(grant, 1).await, Rotated::Done);
        assert_eq!(rotate(grant, 2).await, Rotated::Done);
        assert!(!it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(rotate(grant, 2).await, Rotated::Reused);
        assert!(it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(rotate(grant, 3).await, Rotated::Ended);
        // After a failover the store may know less than a client that was answered.
        assert_eq!(rotate(other, 4).await, Rotated::Done);
        assert_eq!(rotate(other, 5).await, Rotated::Done);
        assert!(!it.store.is_grant_ended(other).await.unwrap());
    }

    pub async fn a_grant_is_ended_or_expires(it: Harness) {
        let (grant, unknown, short) =
            (GrantId::generate(), GrantId::generate(), GrantId::generate());
        it.store.begin_grant(grant, LIFE).await.unwrap();
        it.store.end_grant(grant, LIFE).await.unwrap();
        assert!(it.store.is_grant_ended(grant).await.unwrap());
        assert_eq!(it.store.rotate_grant(grant, 1, LIFE, LIFE).await.unwrap(), Rotated::Ended);
        // Ended though the store never heard of it: its access tokens may be about.
        assert!(!it.store.is_grant_ended(unknown).await.unwrap());
        it.store.end_grant(unknown, LIFE).await.unwrap();
        assert!(it.store.is_grant_ended(unknown).await.unwrap());
        // Each use prolongs it, and without one it ends.
        it.store.begin_grant(short, LIFE).await.unwrap();
        let brief = Duration::from_millis(50);
        assert_eq!(it.store.rotate_grant(short, 1, brief, LIFE).await.unwrap(), Rotated::Done);
        // A use would prolong it, so it is looked at only once it must be over.
        tokio::time::sleep(2 * brief).await;
        assert_eq!(it.store.rotate_grant(short, 2, LIFE, LIFE).await.unwrap(), Rotated::Unknown);
    }

    /// Runs `act` 100 times at once and counts the results that `wanted` accepts.
    async fn at_once<T, F, Act>(act: Act, wanted: fn(&T) -> bool) -> usize
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        Act: Fn() -> F,
    {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            tasks.spawn(act());
        }
        let results = tasks.join_all().await;
        results.iter().filter(|result| wanted(result.as_ref().expect("an answer"))).count()
    }

    pub async fn of_many_dialogs_with_one_transit_token_one_is_admitted(it: Harness) {
        let transit = digest();
        let key = it.create(meet(transit)).await;
        let act = || {
            let store = it.store.clone();
            async move { store.enter(key, Entry::Transit(transit)).await }
        };
        assert_eq!(at_once(act, |entered| matches!(entered, Entered::Admitted(_))).await, 1);
        assert_eq!(it.read(key, poll(None)).await, gone(GoneReason::Replayed));
    }

    pub async fn of_many_read_once_polls_one_has_the_token(it: Harness) {
        let key = it.authenticated().await;
        let act = || {
            let store = it.store.clone();
            async move { store.read(key, poll(None)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_subscriptions_the_newest_has_the_token(it: Harness) {
        let key = it.create(legacy()).await;
        let subscriptions: Vec<SubscriptionId> =
            (0..100).map(|_| SubscriptionId::generate()).collect();
        for subscription in &subscriptions {
            assert!(is_pending(&it.read(key, attach(*subscription)).await));
        }
        assert_eq!(it.fulfil(key).await, Stored::Done);
        let next = AtomicUsize::new(0);
        let act = || {
            let (store, subscription) =
                (it.store.clone(), subscriptions[next.fetch_add(1, Ordering::SeqCst)]);
            async move { store.read(key, claim(subscription)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_logins_one_is_stored(it: Harness) {
        let key = it.create(legacy()).await;
        let act = || {
            let store = it.store.clone();
            async move { store.fulfil(key, sealed()).await }
        };
        assert_eq!(at_once(act, |stored| *stored == Stored::Done).await, 1);
    }

    pub async fn of_many_uses_of_a_refresh_token_one_is_taken(it: Harness) {
        let grant = GrantId::generate();
        it.store.begin_grant(grant, LIFE).await.unwrap();
        let act = || {
            let store = it.store.clone();
            async move { store.rotate_grant(grant, 1, LIFE, LIFE).await }
        };
        assert_eq!(at_once(act, |rotated| *rotated == Rotated::Done).await, 1);
        assert!(it.store.is_grant_ended(grant).await.unwrap());
    }

    pub async fn of_many_marks_one_is_first(it: Harness) {
        let name = digest();
        let act = || {
            let store = it.store.clone();
            async move { store.mark(name, LIFE).await }
        };
        assert_eq!(at_once(act, |first| *first).await, 1);
    }
}

/// Hands the names of all cases to another macro.
macro_rules! with_every_case {
    ($then:ident, $($argument:tt)*) => {
        $then! {
            $($argument)*;
            an_unknown_session_is_unknown_to_all,
            a_pending_session_has_a_remaining_lifetime,
            a_read_once_poll_ends_the_session,
            the_age_counts_from_the_login,
            within_the_grace_the_token_is_read_again,
            after_the_grace_the_session_is_over,
            the_grace_ends_with_the_session,
            a_session_expires_and_is_remembered,
            fulfilling_does_not_prolong_the_session,
            the_newest_subscription_wins,
            a_poll_displaces_nobody,
            attaching_after_the_login_delivers_at_once,
            a_bound_session_needs_its_token,
            a_legacy_session_is_entered_by_its_id_any_number_of_times,
            a_meet_session_is_not_entered_by_its_id,
            a_replayed_transit_token_kills_the_session,
            a_replay_takes_back_a_token_that_nobody_has_yet,
            a_transit_token_expires_before_its_session,
            an_unused_transit_token_finds_the_session_not_pending,
            a_failure_is_published,
            a_login_that_came_first_is_not_undone_by_a_failure,
            ending_acknowledges_or_cancels,
            evicting_ends_any_profile,
            a_fulfilment_is_published_with_its_payload,
            subscriptions_nest_and_end,
            leaving_and_coming_back_loses_nothing,
            a_mark_is_set_once,
            refresh_tokens_follow_each_other_and_a_reuse_ends_the_grant,
            a_grant_is_ended_or_expires,
            of_many_dialogs_with_one_transit_token_one_is_admitted,
            of_many_read_once_polls_one_has_the_token,
            of_many_subscriptions_the_newest_has_the_token,
            of_many_logins_one_is_stored,
            of_many_marks_one_is_first,
            of_many_uses_of_a_refresh_token_one_is_taken,
        }
    };
}

/// Makes a test of each case, each with a store of its own.
macro_rules! contract_of {
    ($module:ident, $harness:path; $($case:ident,)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::cases::$case($harness().await).await;
                }
            )+
        }
    };
}

/// Makes one test of all cases on one server, where a server each would take too long to start.
macro_rules! shared_contract_of {
    ($test:ident, $harness:path; $($case:ident,)+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let it = $harness().await;
            $(
                println!("{}", stringify!($case));
                cases::$case(it.clone()).await;
            )+
        }
    };
}

with_every_case!(contract_of, in_memory, super::memory);
with_every_case!(contract_of, in_redis, super::redis);
with_every_case!(shared_contract_of, in_a_cluster, redis_cluster);

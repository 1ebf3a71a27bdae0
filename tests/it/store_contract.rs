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

use bytes::Bytes;
use token_relay::{
    relay::{DirectWriter, Registry},
    session::{
        AccountId, ClientId, DialogId, Digest, EventId, Failure, GoneReason, GrantId, Outcome,
        SealedPayload, SessionKey, SessionRef, State, SubscriptionId, Surface,
    },
    store::{
        Acknowledged, ChangeFeed as _, CodeAttempt, CodeTarget, DeliveryNote, Ended, Entered,
        Entry, NewSession, Peeked, ReadMode, ReadRequest, ReadResult, Retention, Rotated,
        SessionStore as _, StoreError, Stored, StoredSession, memory::MemoryStore,
    },
    util::clock::UnixTime,
};

use crate::support::{redis::eventually, store::*};

/// The cases. Each gets a fresh store.
mod cases {
    use super::*;

    pub async fn an_unknown_session_is_unknown_to_all(it: Harness) {
        let session = SessionRef::native(key());
        assert_eq!(it.read(session, poll(None)).await, ReadResult::Unknown);
        assert_eq!(
            it.enter(session, Entry::SessionId, DialogId::generate()).await,
            Entered::Unknown
        );
        assert_eq!(
            it.enter(session, Entry::TransitToken(digest()), DialogId::generate()).await,
            Entered::Unknown
        );
        assert_eq!(it.fulfil(session).await, Stored::Unknown);
        let failed = it.fail(session, Failure::new("access_denied", "no")).await;
        assert_eq!(failed, Stored::Unknown);
        assert_eq!(it.end(session).await, Ended::Unknown);
        assert!(!it.evict(session).await);
    }

    pub async fn of_a_stream_and_a_poll_of_a_device_one_gets_the_token(it: Harness) {
        let token = digest();
        let by = |mode, grace| ReadRequest {
            session_token: Some(token),
            mode,
            retention: retention(grace),
        };
        let paced = by(ReadMode::PacedPoll(Duration::from_secs(5)), None);
        for stream_first in [true, false] {
            let session = it.create(device(token, digest())).await;
            it.subscribe(session).await;
            let subscription = SubscriptionId::generate();
            let attach = by(ReadMode::Attach(subscription), GRACE);
            assert!(is_pending(&it.read(session, attach).await));
            assert_eq!(it.fulfil(session).await, Stored::Done);
            // The payload is not on the bus: both have to ask.
            assert_eq!(it.notices.heard(session, 1).await, [None]);
            let claim = by(ReadMode::Claim(subscription), GRACE);
            if stream_first {
                assert!(is_token(&it.read(session, claim).await));
                assert_eq!(it.read(session, paced).await, gone(GoneReason::Acknowledged));
                let held = by(ReadMode::Attach(SubscriptionId::generate()), None);
                assert_eq!(it.read(session, held).await, gone(GoneReason::Acknowledged));
                // The stream comes again until it acknowledges.
                assert!(is_token(&it.read(session, attach).await));
            } else {
                assert!(is_token(&it.read(session, paced).await));
                assert_eq!(it.read(session, paced).await, gone(GoneReason::Acknowledged));
                assert_eq!(it.read(session, claim).await, gone(GoneReason::Acknowledged));
            }
        }
    }

    pub async fn a_poll_that_comes_too_early_lengthens_the_interval(it: Harness) {
        let token = digest();
        let session = it.create(device(token, digest())).await;
        let interval = Duration::from_millis(1_500);
        let mode = ReadMode::PacedPoll(interval);
        let paced = ReadRequest { session_token: Some(token), mode, retention: retention(None) };
        assert!(is_pending(&it.read(session, paced).await));
        tokio::time::sleep(interval).await;
        assert!(is_pending(&it.read(session, paced).await));
        for seconds in [5, 10] {
            let interval = interval + Duration::from_secs(seconds);
            assert_eq!(it.read(session, paced).await, ReadResult::TooEarly { interval });
        }
        let other = ReadRequest { session_token: Some(digest()), ..paced };
        assert_eq!(it.read(session, other).await, ReadResult::Unauthorized);
        // There is an end to it.
        for _ in 0..20 {
            it.read(session, paced).await;
        }
        let interval = Duration::from_secs(60);
        assert_eq!(it.read(session, paced).await, ReadResult::TooEarly { interval });
        // A token is not held back.
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert!(is_token(&it.read(session, paced).await));
    }

    pub async fn a_user_code_has_one_session_until_it_expires(it: Harness) {
        let target = || CodeTarget { session: key(), transit_token: digest() };
        let (code, first, second) = (digest(), target(), target());
        let ttl = Duration::from_millis(400);
        assert_eq!(it.store.find_code(code).await.unwrap(), None);
        assert!(it.store.claim_code(code, first, ttl).await.unwrap());
        assert!(!it.store.claim_code(code, second, ttl).await.unwrap());
        assert_eq!(it.store.find_code(code).await.unwrap(), Some(first));
        assert_eq!(it.store.find_code(digest()).await.unwrap(), None);
        eventually("the code is free", || async {
            it.store.claim_code(code, second, LIFE).await.unwrap()
        })
        .await;
        assert_eq!(it.store.find_code(code).await.unwrap(), Some(second));
    }

    pub async fn a_count_adds_up_and_begins_anew(it: Harness) {
        let (name, window) = (digest(), Duration::from_millis(500));
        for expected in 1..=3 {
            assert_eq!(it.store.count(name, 1, window).await.unwrap(), expected);
        }
        assert_eq!(it.store.count(name, -1, window).await.unwrap(), 2);
        assert_eq!(it.store.count(digest(), 1, window).await.unwrap(), 1);
        eventually("the window is over", || async {
            it.store.count(name, 0, window).await.unwrap() == 0
        })
        .await;
    }

    pub async fn a_pending_session_has_a_remaining_lifetime(it: Harness) {
        let session = it.create(legacy()).await;
        let ReadResult::Pending { remaining, .. } = it.read(session, poll(None)).await else {
            panic!("not pending")
        };
        assert!(remaining <= LIFE && remaining > LIFE - Duration::from_secs(5), "{remaining:?}");
    }

    pub async fn a_read_once_poll_ends_the_session(it: Harness) {
        let session = it.authenticated().await;
        assert!(is_token(&it.read(session, poll(None)).await));
        assert_eq!(it.read(session, poll(None)).await, gone(GoneReason::Acknowledged));
        assert_eq!(
            it.fulfil(session).await,
            Stored::NotPending(State::Gone(GoneReason::Acknowledged))
        );
    }

    pub async fn a_token_that_was_delivered_once_can_be_handed_back(it: Harness) {
        let session = it.authenticated().await;
        it.subscribe(session).await;
        let reader = SubscriptionId::generate();
        let once = |reader| ReadRequest { retention: Retention::Once(reader), ..poll(None) };
        let hand_back = async |reader| it.store.hand_back(session, reader).await.unwrap();
        assert!(!hand_back(reader).await, "nothing was delivered");
        assert!(is_token(&it.read(session, once(reader)).await));
        assert_eq!(it.read(session, once(reader)).await, gone(GoneReason::Acknowledged));
        let event = EventId::of_token(&sealed());
        let already = Acknowledged::Already(GoneReason::Acknowledged);
        assert_eq!(it.acknowledge(session, event.clone()).await, already);
        assert!(!hand_back(SubscriptionId::generate()).await, "another reader");
        assert!(hand_back(reader).await);
        assert_eq!(it.notices.heard(session, 1).await, [None], "whoever waits looks again");
        assert!(!hand_back(reader).await, "it is back already");
        // It is as before: a subscription gets it, and its event acknowledges it.
        let subscription = SubscriptionId::generate();
        assert!(is_token(&it.read(session, attach(subscription)).await));
        assert_eq!(it.acknowledge(session, event).await, Acknowledged::Done);
        assert!(!hand_back(reader).await);

        // Whoever ended the session since then does not find it alive again.
        let session = it.authenticated().await;
        assert!(is_token(&it.read(session, once(reader)).await));
        assert_eq!(it.end(session).await, Ended::Already(GoneReason::Acknowledged));
        assert!(!it.store.hand_back(session, reader).await.unwrap());
        assert_eq!(it.read(session, poll(GRACE)).await, gone(GoneReason::Acknowledged));
    }

    pub async fn the_age_counts_from_the_login(it: Harness) {
        let session = it.authenticated().await;
        let start = Instant::now();
        let outcome = loop {
            // Before the read, which may be what takes its time.
            let late = start.elapsed() > Duration::from_millis(300);
            let outcome = it.read(session, poll(GRACE)).await;
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
        let session = it.authenticated().await;
        for _ in 0..3 {
            assert!(is_token(&it.read(session, poll(GRACE)).await));
        }
        assert_eq!(it.fulfil(session).await, Stored::NotPending(State::Delivered));
        // A read-once poll is the last one, also now.
        assert!(is_token(&it.read(session, poll(None)).await));
        assert_eq!(it.read(session, poll(GRACE)).await, gone(GoneReason::Acknowledged));
    }

    pub async fn after_the_grace_the_session_is_over(it: Harness) {
        let session = it.authenticated().await;
        let grace = Duration::from_millis(400);
        let start = Instant::now();
        assert!(is_token(&it.read(session, poll(Some(grace))).await));
        // Later reads do not extend it.
        let outcome = loop {
            let outcome = it.read(session, poll(Some(grace))).await;
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
        let session = it.create(NewSession { ttl, ..legacy() }).await;
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert!(is_token(&it.read(session, poll(GRACE)).await));
        eventually("the session expires", || async {
            it.read(session, poll(GRACE)).await == gone(GoneReason::Expired)
        })
        .await;
    }

    pub async fn a_session_expires_and_is_remembered(it: Harness) {
        let ttl = Duration::from_millis(300);
        let session = it.create(NewSession { ttl, ..legacy() }).await;
        assert!(is_pending(&it.read(session, poll(None)).await));
        eventually("the session expires", || async {
            it.read(session, poll(None)).await == gone(GoneReason::Expired)
        })
        .await;
        let gone = State::Gone(GoneReason::Expired);
        assert_eq!(it.fulfil(session).await, Stored::NotPending(gone.clone()));
        assert_eq!(
            it.enter(session, Entry::SessionId, DialogId::generate()).await,
            Entered::NotPending(gone)
        );
        assert_eq!(it.end(session).await, Ended::Already(GoneReason::Expired));
        assert!(!it.evict(session).await);
    }

    pub async fn fulfilling_does_not_prolong_the_session(it: Harness) {
        let ttl = Duration::from_millis(700);
        let start = Instant::now();
        let session = it.create(NewSession { ttl, ..legacy() }).await;
        eventually("half its life is over", || async { start.elapsed() > ttl / 2 }).await;
        assert_eq!(it.fulfil(session).await, Stored::Done);
        eventually("the session expires", || async {
            it.read(session, claim(SubscriptionId::generate())).await != superseded()
        })
        .await;
        assert!(start.elapsed() < ttl * 2, "lived {:?} in place of {ttl:?}", start.elapsed());
        let outcome = it.read(session, poll(None)).await;
        assert_eq!(outcome, gone(GoneReason::Expired));
    }

    pub async fn the_newest_subscription_wins(it: Harness) {
        let session = it.create(legacy()).await;
        let (old, new) = (SubscriptionId::generate(), SubscriptionId::generate());
        assert!(is_pending(&it.read(session, attach(old)).await));
        assert!(is_pending(&it.read(session, attach(new)).await));
        // Before there is a token nobody is turned away.
        assert!(is_pending(&it.read(session, claim(old)).await));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert_eq!(it.read(session, claim(old)).await, superseded());
        assert!(is_token(&it.read(session, claim(new)).await));
        // Also after the delivery.
        assert_eq!(it.read(session, claim(old)).await, superseded());
        assert!(is_token(&it.read(session, claim(new)).await));
        assert!(is_token(&it.read(session, attach(old)).await));
        assert_eq!(it.read(session, claim(new)).await, superseded());
        assert!(is_token(&it.read(session, claim(old)).await));
    }

    pub async fn deliveries_are_noted_of_their_readers_only(it: Harness) {
        let mut notes = Vec::new();
        let mut expected = Vec::new();
        // More than go by one command.
        for number in 0..150 {
            let (token, subscription) = (digest(), SubscriptionId::generate());
            let session = it.create(bound(token, digest())).await;
            let attach = ReadRequest { session_token: Some(token), ..attach(subscription) };
            assert!(is_pending(&it.read(session, attach).await));
            let mut note = DeliveryNote {
                session,
                session_token: Some(token),
                subscription,
                grace: Duration::from_secs(30),
            };
            let state = match number % 5 {
                1 => {
                    note.session_token = Some(digest());
                    State::Authenticated
                }
                2 => {
                    note.subscription = SubscriptionId::generate();
                    State::Authenticated
                }
                3 => {
                    note.session.surface = Surface::Meet;
                    State::Authenticated
                }
                _ => State::Delivered,
            };
            if number % 10 != 9 {
                assert_eq!(it.fulfil(session).await, Stored::Done);
            }
            expected.push((
                session,
                if number % 10 == 9 { Stored::Done } else { Stored::NotPending(state) },
            ));
            notes.push(note);
        }
        let unknown = DeliveryNote { session: SessionRef::native(key()), ..notes[0] };
        notes.push(unknown);
        it.store.note_deliveries(&notes).await.expect("noted");
        it.store.note_deliveries(&notes[..1]).await.expect("noted");
        it.store.note_deliveries(&[]).await.expect("noted");
        for (number, (session, state)) in expected.into_iter().enumerate() {
            assert_eq!(it.fulfil(session).await, state, "{number}");
        }
        assert_eq!(it.fulfil(unknown.session).await, Stored::Unknown);
    }

    pub async fn the_first_note_of_a_delivery_starts_the_grace(it: Harness) {
        let (token, subscription) = (digest(), SubscriptionId::generate());
        let session = it.create(bound(token, digest())).await;
        let attach = ReadRequest { session_token: Some(token), ..attach(subscription) };
        assert!(is_pending(&it.read(session, attach).await));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        let grace = Duration::from_millis(400);
        let note = DeliveryNote { session, session_token: Some(token), subscription, grace };
        let start = Instant::now();
        for note in [note, DeliveryNote { grace: Duration::from_secs(60), ..note }] {
            it.store.note_deliveries(&[note]).await.expect("noted");
        }
        let poll = ReadRequest { session_token: Some(token), ..poll(GRACE) };
        eventually("the grace is over", || async {
            it.read(session, poll).await == gone(GoneReason::Expired)
        })
        .await;
        assert!(start.elapsed() + Duration::from_millis(2) >= grace, "{:?}", start.elapsed());
    }

    pub async fn a_poll_displaces_nobody(it: Harness) {
        let session = it.create(legacy()).await;
        let subscription = SubscriptionId::generate();
        assert!(is_pending(&it.read(session, attach(subscription)).await));
        assert!(is_pending(&it.read(session, poll(GRACE)).await));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert!(is_token(&it.read(session, claim(subscription)).await));
    }

    pub async fn attaching_after_the_login_delivers_at_once(it: Harness) {
        let session = it.authenticated().await;
        let subscription = SubscriptionId::generate();
        assert!(is_token(&it.read(session, attach(subscription)).await));
        assert!(is_token(&it.read(session, claim(subscription)).await));
    }

    pub async fn a_bound_session_needs_its_token(it: Harness) {
        let (session_token, transit) = (digest(), digest());
        let session = it.create(bound(session_token, transit)).await;
        let with =
            |session_token, mode| ReadRequest { session_token, mode, retention: retention(GRACE) };
        let subscription = SubscriptionId::generate();
        let event = EventId::of_token(&sealed());
        for wrong in [None, Some(digest()), Some(transit)] {
            for mode in
                [ReadMode::Poll, ReadMode::Attach(subscription), ReadMode::Claim(subscription)]
            {
                assert_eq!(it.read(session, with(wrong, mode)).await, ReadResult::Unauthorized);
            }
            assert_eq!(it.store.end(session, wrong).await.unwrap(), Ended::Unauthorized);
        }
        let right = Some(session_token);
        assert!(is_pending(&it.read(session, with(right, ReadMode::Attach(subscription))).await));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        // A stranger changes nothing: displaces no subscription, consumes no token.
        let stranger = ReadMode::Attach(SubscriptionId::generate());
        for grace in [GRACE, None] {
            let read = ReadRequest { retention: retention(grace), ..with(None, stranger) };
            assert_eq!(it.read(session, read).await, ReadResult::Unauthorized);
        }
        let acknowledged = it.store.acknowledge(session, None, event.clone()).await.unwrap();
        assert_eq!(acknowledged, Acknowledged::Unauthorized);
        assert!(is_token(&it.read(session, with(right, ReadMode::Claim(subscription))).await));
        assert_eq!(it.store.end(session, right).await.unwrap(), Ended::Acknowledged);
        // The end of a session is disclosed to its reader only.
        assert_eq!(it.read(session, with(None, ReadMode::Poll)).await, ReadResult::Unauthorized);
        assert_eq!(
            it.read(session, with(right, ReadMode::Poll)).await,
            gone(GoneReason::Acknowledged)
        );
        let ended = it.store.end(session, right).await.unwrap();
        assert_eq!(ended, Ended::Already(GoneReason::Acknowledged));
    }

    /// A session of each profile, what enters it, and what was stored of it.
    async fn one_of_each(it: &Harness) -> Vec<(SessionRef, Entry, StoredSession)> {
        let (bound_transit, meet_transit) = (digest(), digest());
        let mut all = Vec::new();
        for (new, entry) in [
            (legacy(), Entry::SessionId),
            (bound(digest(), bound_transit), Entry::TransitToken(bound_transit)),
            (meet(meet_transit), Entry::TransitToken(meet_transit)),
        ] {
            let stored = new.session.clone();
            all.push((it.create(new).await, entry, stored));
        }
        all
    }

    pub async fn each_profile_is_entered_in_its_own_way_only(it: Harness) {
        for (session, entry, stored) in one_of_each(&it).await {
            let dialog = DialogId::generate();
            let mut wrong = vec![
                Entry::TransitToken(digest()),
                Entry::OpenedDialog(digest()),
                Entry::TransitToken(*session.key.digest()),
            ];
            if entry != Entry::SessionId {
                wrong.push(Entry::SessionId);
            }
            for wrong in wrong {
                assert_eq!(it.peek(session, wrong, None).await, Peeked::Unknown, "{wrong:?}");
                assert_eq!(it.enter(session, wrong, dialog).await, Entered::Unknown, "{wrong:?}");
            }
            assert_eq!(it.peek(session, entry, None).await, Peeked::Open(stored.clone()));
            assert_eq!(it.enter(session, entry, dialog).await, Entered::Admitted(stored));
        }
    }

    pub async fn a_backend_enters_sessions_of_its_clients_only(it: Harness) {
        let [own, other]: [ClientId; 2] = ["rooms", "files"].map(|id| id.parse().unwrap());
        let (backend, clients) = (DialogId::generate(), [other.clone(), own.clone()]);
        let enter = async |session: SessionRef, transit: Digest, by: DialogId, of: &[ClientId]| {
            let entry = Entry::TransitToken(transit);
            it.store.enter_by_backend(session, entry, by, of).await.unwrap()
        };
        let create = async |client: Option<&ClientId>| {
            let transit = digest();
            let mut new = bound(digest(), transit);
            new.session.client = client.cloned();
            (it.create(new).await, transit)
        };
        let (session, transit) = create(Some(&own)).await;
        for (by_clients, token) in
            [(&clients[..], digest()), (&clients[..1], transit), (&[][..], transit)]
        {
            assert_eq!(enter(session, token, backend, by_clients).await, Peeked::Unknown);
        }
        for _ in 0..2 {
            assert!(matches!(enter(session, transit, backend, &clients).await, Peeked::Open(_)));
        }
        let second = enter(session, transit, DialogId::generate(), &clients).await;
        assert_eq!(second, Peeked::Used);
        assert_eq!(it.fulfil(session).await, Stored::Done, "nothing has ended");
        let late = enter(session, transit, backend, &clients).await;
        assert_eq!(late, Peeked::NotPending(State::Authenticated));
        assert_eq!(enter(session, transit, backend, &clients[..1]).await, Peeked::Unknown);
        assert!(it.evict(session).await);
        let gone = enter(session, transit, backend, &clients).await;
        assert!(matches!(gone, Peeked::NotPending(State::Gone(_))), "{gone:?}");
        assert_eq!(enter(session, transit, backend, &clients[..1]).await, Peeked::Unknown);

        let (session, transit) = create(None).await;
        assert_eq!(enter(session, transit, backend, &clients).await, Peeked::Unknown);
        let (session, transit) = create(Some(&own)).await;
        let entry = Entry::TransitToken(transit);
        assert!(matches!(
            it.enter(session, entry, DialogId::generate()).await,
            Entered::Admitted(_)
        ));
        assert_eq!(enter(session, transit, backend, &clients).await, Peeked::Used);
        assert_eq!(it.fulfil(session).await, Stored::Done, "the dialog goes on");
    }

    pub async fn looking_changes_nothing(it: Harness) {
        for (session, entry, stored) in one_of_each(&it).await {
            it.subscribe(session).await;
            for dialog in [None, None, Some(DialogId::generate())] {
                let peeked = it.peek(session, entry, dialog).await;
                assert_eq!(peeked, Peeked::Open(stored.clone()));
            }
            let dialog = DialogId::generate();
            assert_eq!(it.enter(session, entry, dialog).await, Entered::Admitted(stored.clone()));
            // By now the transit token is consumed: only its dialog gets its page again.
            for _ in 0..2 {
                assert_eq!(it.peek(session, entry, None).await, Peeked::Used);
                let other = Some(DialogId::generate());
                assert_eq!(it.peek(session, entry, other).await, Peeked::Used);
                let peeked = it.peek(session, entry, Some(dialog)).await;
                assert_eq!(peeked, Peeked::Open(stored.clone()));
            }
            assert_eq!(it.fulfil(session).await, Stored::Done);
            assert_eq!(it.peek(session, entry, None).await, Peeked::Used);
            assert_eq!(
                it.peek(session, entry, Some(dialog)).await,
                Peeked::NotPending(State::Authenticated)
            );
            assert_eq!(it.notices.heard(session, 1).await.len(), 1, "of the fulfilment alone");
        }
    }

    pub async fn a_dialog_enters_again_and_a_second_one_ends_the_session(it: Harness) {
        for (session, entry, stored) in one_of_each(&it).await {
            it.subscribe(session).await;
            let (dialog, other) = (DialogId::generate(), DialogId::generate());
            for _ in 0..3 {
                let entered = it.enter(session, entry, dialog).await;
                assert_eq!(entered, Entered::Admitted(stored.clone()));
            }
            assert_eq!(it.enter(session, entry, other).await, Entered::Replayed);
            assert_eq!(it.notices.heard(session, 1).await, [None]);
            let replayed = State::Gone(GoneReason::Replayed);
            assert_eq!(it.fulfil(session).await, Stored::NotPending(replayed.clone()));
            assert_eq!(it.enter(session, entry, other).await, Entered::Replayed);
            assert_eq!(it.enter(session, entry, dialog).await, Entered::NotPending(replayed));
            assert_eq!(it.notices.of(session).len(), 1, "its end is published once");
        }
    }

    pub async fn a_second_dialog_takes_back_a_token_that_nobody_has_yet(it: Harness) {
        let transit = digest();
        let (session, entry) = (it.create(meet(transit)).await, Entry::TransitToken(transit));
        let entered = it.enter(session, entry, DialogId::generate()).await;
        assert!(matches!(entered, Entered::Admitted(_)));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert_eq!(it.enter(session, entry, DialogId::generate()).await, Entered::Replayed);
        assert_eq!(it.read(session, poll(None)).await, gone(GoneReason::Replayed));
    }

    pub async fn a_transit_token_expires_before_its_session(it: Harness) {
        let transit = digest();
        let entry = Entry::TransitToken(transit);
        let brief = Duration::from_secs(1);
        let new = || NewSession { transit: Some((transit, brief)), ..meet(transit) };
        let (entered, opened) = (it.create(new()).await, it.create(new()).await);
        let dialog = DialogId::generate();
        assert!(matches!(it.enter(entered, entry, dialog).await, Entered::Admitted(_)));
        eventually("the transit token expires", || async {
            it.peek(opened, entry, None).await == Peeked::TransitExpired
        })
        .await;
        assert_eq!(it.enter(opened, entry, dialog).await, Entered::TransitExpired);
        assert!(is_pending(&it.read(opened, poll(None)).await));
        // The dialog that entered in time comes again, and one that was opened in time enters.
        assert!(matches!(it.peek(entered, entry, Some(dialog)).await, Peeked::Open(_)));
        assert!(matches!(it.enter(entered, entry, dialog).await, Entered::Admitted(_)));
        let opened_entry = Entry::OpenedDialog(transit);
        assert!(matches!(it.peek(opened, opened_entry, None).await, Peeked::Open(_)));
        assert!(matches!(it.enter(opened, opened_entry, dialog).await, Entered::Admitted(_)));
    }

    pub async fn an_unused_transit_token_finds_the_session_not_pending(it: Harness) {
        let transit = digest();
        let (session, entry) = (it.create(meet(transit)).await, Entry::TransitToken(transit));
        assert_eq!(it.end(session).await, Ended::Cancelled);
        let cancelled = State::Gone(GoneReason::Cancelled);
        assert_eq!(it.peek(session, entry, None).await, Peeked::NotPending(cancelled.clone()));
        let entered = it.enter(session, entry, DialogId::generate()).await;
        assert_eq!(entered, Entered::NotPending(cancelled));
    }

    pub async fn a_session_is_unknown_to_the_other_surface(it: Harness) {
        for (session, entry, _) in one_of_each(&it).await {
            let surface = match session.surface {
                Surface::Native => Surface::Meet,
                Surface::Meet => Surface::Native,
            };
            let elsewhere = SessionRef { surface, ..session };
            it.subscribe(session).await;
            let unchanged = async |it: &Harness| {
                let subscription = SubscriptionId::generate();
                let dialog = DialogId::generate();
                let failure = Failure::new("access_denied", "no");
                let event = EventId::of_token(&sealed());
                assert_eq!(it.peek(elsewhere, entry, None).await, Peeked::Unknown);
                assert_eq!(it.enter(elsewhere, entry, dialog).await, Entered::Unknown);
                let attempt = it.store.count_code_attempt(elsewhere, 5).await.unwrap();
                assert_eq!(attempt, CodeAttempt::Unknown);
                assert_eq!(it.fulfil(elsewhere).await, Stored::Unknown);
                assert_eq!(it.fail(elsewhere, failure).await, Stored::Unknown);
                for read in [poll(None), poll(GRACE), attach(subscription), claim(subscription)] {
                    assert_eq!(it.read(elsewhere, read).await, ReadResult::Unknown);
                }
                assert_eq!(it.acknowledge(elsewhere, event).await, Acknowledged::Unknown);
                assert_eq!(it.end(elsewhere).await, Ended::Unknown);
                assert!(!it.evict(elsewhere).await);
            };
            unchanged(&it).await;
            assert!(matches!(it.peek(session, entry, None).await, Peeked::Open(_)));
            assert_eq!(it.fulfil(session).await, Stored::Done);
            unchanged(&it).await;
            assert_eq!(it.notices.heard(session, 1).await.len(), 1, "of the fulfilment alone");
            assert_eq!(it.fulfil(session).await, Stored::NotPending(State::Authenticated));
        }
    }

    pub async fn attempts_at_the_user_code_are_counted(it: Harness) {
        let new = bound(digest(), digest());
        let stored = new.session.clone();
        let session = it.create(new).await;
        let attempt = async || it.store.count_code_attempt(session, 3).await.unwrap();
        for remaining in [2, 1, 0] {
            let allowed = CodeAttempt::Allowed { remaining, session: stored.clone() };
            assert_eq!(attempt().await, allowed);
        }
        assert_eq!(attempt().await, CodeAttempt::Exhausted);
        assert_eq!(it.fail(session, Failure::new("access_denied", "no")).await, Stored::Done);
        assert!(matches!(attempt().await, CodeAttempt::NotPending(State::Failed(_))));
        let unknown = SessionRef::native(key());
        let attempt = it.store.count_code_attempt(unknown, 3).await.unwrap();
        assert_eq!(attempt, CodeAttempt::Unknown);
    }

    pub async fn only_the_id_of_the_tokens_own_event_acknowledges(it: Harness) {
        let session = it.create(legacy()).await;
        it.subscribe(session).await;
        let event = EventId::of_token(&sealed());
        let others = [
            EventId::of_token(&payload(b"another")),
            EventId::of_end("failed", session.key),
            EventId::of_end("superseded", session.key),
        ];
        // Not a pending session.
        assert_eq!(it.acknowledge(session, event.clone()).await, Acknowledged::OtherEvent);
        assert!(is_pending(&it.read(session, poll(GRACE)).await));
        assert_eq!(it.fulfil(session).await, Stored::Done);
        for other in others {
            assert_eq!(it.acknowledge(session, other).await, Acknowledged::OtherEvent);
        }
        assert!(is_token(&it.read(session, poll(GRACE)).await));
        assert_eq!(it.acknowledge(session, event.clone()).await, Acknowledged::Done);
        assert_eq!(it.notices.heard(session, 2).await.len(), 2, "fulfilled and acknowledged");
        let already = Acknowledged::Already(GoneReason::Acknowledged);
        assert_eq!(it.acknowledge(session, event.clone()).await, already);
        assert_eq!(it.read(session, poll(GRACE)).await, gone(GoneReason::Acknowledged));
        // Not a failed one.
        let failed = it.create(legacy()).await;
        assert_eq!(it.fail(failed, Failure::new("access_denied", "no")).await, Stored::Done);
        assert_eq!(it.acknowledge(failed, event.clone()).await, Acknowledged::OtherEvent);
        let unknown = SessionRef::native(key());
        assert_eq!(it.acknowledge(unknown, event).await, Acknowledged::Unknown);
    }

    /// A client that was given the token by the bus may acknowledge before the delivery is recorded.
    pub async fn a_token_is_acknowledged_before_its_claim(it: Harness) {
        let session = it.authenticated().await;
        let event = EventId::of_token(&sealed());
        assert_eq!(it.acknowledge(session, event).await, Acknowledged::Done);
        let late = it.read(session, claim(SubscriptionId::generate())).await;
        assert_eq!(late, gone(GoneReason::Acknowledged));
    }

    pub async fn a_failure_is_published(it: Harness) {
        let session = it.create(legacy()).await;
        it.subscribe(session).await;
        let failure = Failure::new("access_denied", "the person said n\u{f6}");
        let stored = it.fail(session, failure.clone()).await;
        assert_eq!(stored, Stored::Done);
        assert_eq!(it.notices.heard(session, 1).await, [None]);
        assert_eq!(
            it.read(session, poll(None)).await,
            ReadResult::Settled(Outcome::Failed(failure.clone()))
        );
        assert_eq!(
            it.read(session, poll(None)).await,
            ReadResult::Settled(Outcome::Failed(failure.clone()))
        );
        let failed = State::Failed(failure.clone());
        assert_eq!(it.fulfil(session).await, Stored::NotPending(failed.clone()));
        assert_eq!(
            it.fail(session, Failure::new("server_error", "")).await,
            Stored::NotPending(failed.clone())
        );
        assert_eq!(
            it.enter(session, Entry::SessionId, DialogId::generate()).await,
            Entered::NotPending(failed)
        );
        assert_eq!(it.end(session).await, Ended::Failed);
        assert!(!matches!(
            it.read(session, poll(None)).await,
            ReadResult::Settled(Outcome::Failed(_))
        ));
    }

    pub async fn a_login_that_came_first_is_not_undone_by_a_failure(it: Harness) {
        let session = it.authenticated().await;
        assert_eq!(
            it.fail(session, Failure::new("server_error", "late")).await,
            Stored::NotPending(State::Authenticated)
        );
        assert!(is_token(&it.read(session, poll(None)).await));
    }

    pub async fn ending_acknowledges_or_cancels(it: Harness) {
        let session = it.create(legacy()).await;
        it.subscribe(session).await;
        assert_eq!(it.end(session).await, Ended::Cancelled);
        assert_eq!(it.notices.heard(session, 1).await, [None]);
        assert_eq!(it.end(session).await, Ended::Already(GoneReason::Cancelled));
        assert_eq!(it.read(session, poll(None)).await, gone(GoneReason::Cancelled));

        let session = it.authenticated().await;
        it.subscribe(session).await;
        assert!(is_token(&it.read(session, poll(GRACE)).await));
        assert_eq!(it.end(session).await, Ended::Acknowledged);
        assert_eq!(it.notices.heard(session, 1).await, [None]);
        assert_eq!(it.read(session, poll(GRACE)).await, gone(GoneReason::Acknowledged));
    }

    pub async fn evicting_ends_any_profile(it: Harness) {
        let session_token = digest();
        let session = it.create(bound(session_token, digest())).await;
        it.subscribe(session).await;
        assert!(it.evict(session).await);
        assert_eq!(it.notices.heard(session, 1).await, [None]);
        assert!(!it.evict(session).await);
        let read = ReadRequest { session_token: Some(session_token), ..poll(None) };
        assert_eq!(it.read(session, read).await, gone(GoneReason::Replayed));
    }

    pub async fn a_fulfilment_is_published_with_its_payload(it: Harness) {
        let session = it.create(legacy()).await;
        let other = it.create(legacy()).await;
        it.subscribe(session).await;
        assert_eq!(it.fulfil(other).await, Stored::Done);
        assert_eq!(it.fulfil(session).await, Stored::Done);
        let heard = it.notices.heard(session, 1).await;
        assert!(heard == [Some(sealed())] || heard == [None], "{heard:?}");
        assert!(it.notices.of(other).is_empty(), "nobody subscribed to it");
    }

    pub async fn subscriptions_nest_and_end(it: Harness) {
        let session = it.create(legacy()).await;
        let last = it.create(legacy()).await;
        for _ in 0..3 {
            it.subscribe(session).await;
        }
        it.store.unsubscribe(session.key);
        it.store.unsubscribe(session.key);
        assert_eq!(it.fulfil(session).await, Stored::Done);
        assert_eq!(
            it.notices.heard(session, 1).await.len(),
            1,
            "one notice, however many subscribers"
        );
        it.store.unsubscribe(session.key);
        // One unsubscribe too many does no harm.
        it.store.unsubscribe(session.key);
        it.subscribe(last).await;
        assert_eq!(it.end(last).await, Ended::Cancelled);
        it.notices.heard(last, 1).await;
        assert_eq!(it.end(session).await, Ended::Acknowledged);

        // Soon nothing is heard of a session that was left.
        let pauses = AtomicUsize::new(0);
        eventually("an end of a subscription", || async {
            let [left, last] = [it.create(legacy()).await, it.create(legacy()).await];
            for _ in 0..3 {
                it.subscribe(left).await;
            }
            it.subscribe(last).await;
            // One unsubscribe too many does no harm.
            for _ in 0..4 {
                it.store.unsubscribe(left.key);
            }
            let pause = 5 * pauses.fetch_add(1, Ordering::Relaxed) as u64;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            assert_eq!(it.fulfil(left).await, Stored::Done);
            assert_eq!(it.end(last).await, Ended::Cancelled);
            // Changes are heard in their order.
            it.notices.heard(last, 1).await;
            it.notices.of(left).is_empty()
        })
        .await;
        let pause = 5 * (pauses.into_inner() - 1);
        assert!(pause <= 500, "after {pause} ms");
    }

    pub async fn leaving_and_coming_back_loses_nothing(it: Harness) {
        // An unsubscribe under way must not end the subscription that follows it.
        let mut tasks = tokio::task::JoinSet::new();
        let it = Arc::new(it);
        for _ in 0..50 {
            let it = it.clone();
            tasks.spawn(async move {
                let session = it.create(legacy()).await;
                for _ in 0..20 {
                    it.subscribe(session).await;
                    it.store.unsubscribe(session.key);
                }
                it.subscribe(session).await;
                assert_eq!(it.fulfil(session).await, Stored::Done);
                it.notices.heard(session, 1).await;
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

    pub async fn a_value_is_stored_replaced_and_removed(it: Harness) {
        let (name, other) = (digest(), digest());
        // As large as the claims of somebody in a thousand groups.
        let large = Bytes::from(vec![0xff; 200_000]);
        assert_eq!(it.store.value(name).await.unwrap(), None);
        it.store.put_value(name, large.clone(), LIFE).await.unwrap();
        assert_eq!(it.store.value(name).await.unwrap(), Some(large));
        it.store.put_value(name, Bytes::from_static(b"\r\n\0"), LIFE).await.unwrap();
        assert_eq!(it.store.value(name).await.unwrap(), Some(Bytes::from_static(b"\r\n\0")));
        assert_eq!(it.store.value(other).await.unwrap(), None);
        it.store.remove_value(name).await.unwrap();
        it.store.remove_value(name).await.unwrap();
        assert_eq!(it.store.value(name).await.unwrap(), None);
        let short = Duration::from_millis(50);
        it.store.put_value(other, Bytes::from_static(b"x"), short).await.unwrap();
        eventually("the value expires", || async {
            it.store.value(other).await.unwrap().is_none()
        })
        .await;
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

    pub async fn an_account_has_ended_up_to_the_latest_time(it: Harness) {
        let account = |name| AccountId::new("https://relay.example", name);
        let (alice, bob) = (account("alice"), account("bob"));
        let at = UnixTime::from_millis(1_800_000_000_123);
        assert_eq!(it.store.account_ended_at(alice).await.unwrap(), None);
        it.store.end_account(alice, at, LIFE).await.unwrap();
        it.store.end_account(alice, UnixTime::from_millis(5), LIFE).await.unwrap();
        assert_eq!(it.store.account_ended_at(alice).await.unwrap(), Some(at));
        let later = at + Duration::from_millis(1);
        it.store.end_account(alice, later, LIFE).await.unwrap();
        assert_eq!(it.store.account_ended_at(alice).await.unwrap(), Some(later));
        assert_eq!(it.store.account_ended_at(bob).await.unwrap(), None);
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
        let session = it.create(meet(transit)).await;
        let act = || {
            let store = it.store.clone();
            async move { store.enter(session, Entry::TransitToken(transit), DialogId::generate()).await }
        };
        assert_eq!(at_once(act, |entered| matches!(entered, Entered::Admitted(_))).await, 1);
        assert_eq!(it.read(session, poll(None)).await, gone(GoneReason::Replayed));
    }

    pub async fn of_many_read_once_polls_one_has_the_token(it: Harness) {
        let session = it.authenticated().await;
        let act = || {
            let store = it.store.clone();
            async move { store.read(session, poll(None)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_subscriptions_the_newest_has_the_token(it: Harness) {
        let session = it.create(legacy()).await;
        let subscriptions: Vec<SubscriptionId> =
            (0..100).map(|_| SubscriptionId::generate()).collect();
        for subscription in &subscriptions {
            assert!(is_pending(&it.read(session, attach(*subscription)).await));
        }
        assert_eq!(it.fulfil(session).await, Stored::Done);
        let next = AtomicUsize::new(0);
        let act = || {
            let (store, subscription) =
                (it.store.clone(), subscriptions[next.fetch_add(1, Ordering::SeqCst)]);
            async move { store.read(session, claim(subscription)).await }
        };
        assert_eq!(at_once(act, is_token).await, 1);
    }

    pub async fn of_many_logins_one_is_stored(it: Harness) {
        let session = it.create(legacy()).await;
        let act = || {
            let store = it.store.clone();
            async move { store.fulfil(session, sealed()).await }
        };
        assert_eq!(at_once(act, |stored| *stored == Stored::Done).await, 1);
    }

    pub async fn of_many_attempts_at_the_user_code_five_are_allowed(it: Harness) {
        let session = it.create(bound(digest(), digest())).await;
        let act = || {
            let store = it.store.clone();
            async move { store.count_code_attempt(session, 5).await }
        };
        let allowed = at_once(act, |attempt| matches!(attempt, CodeAttempt::Allowed { .. })).await;
        assert_eq!(allowed, 5);
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
            of_a_stream_and_a_poll_of_a_device_one_gets_the_token,
            a_poll_that_comes_too_early_lengthens_the_interval,
            a_user_code_has_one_session_until_it_expires,
            a_count_adds_up_and_begins_anew,
            a_pending_session_has_a_remaining_lifetime,
            a_read_once_poll_ends_the_session,
            a_token_that_was_delivered_once_can_be_handed_back,
            the_age_counts_from_the_login,
            within_the_grace_the_token_is_read_again,
            after_the_grace_the_session_is_over,
            the_grace_ends_with_the_session,
            a_session_expires_and_is_remembered,
            fulfilling_does_not_prolong_the_session,
            the_newest_subscription_wins,
            deliveries_are_noted_of_their_readers_only,
            the_first_note_of_a_delivery_starts_the_grace,
            a_poll_displaces_nobody,
            attaching_after_the_login_delivers_at_once,
            a_bound_session_needs_its_token,
            each_profile_is_entered_in_its_own_way_only,
            a_backend_enters_sessions_of_its_clients_only,
            looking_changes_nothing,
            a_dialog_enters_again_and_a_second_one_ends_the_session,
            a_second_dialog_takes_back_a_token_that_nobody_has_yet,
            a_transit_token_expires_before_its_session,
            an_unused_transit_token_finds_the_session_not_pending,
            a_session_is_unknown_to_the_other_surface,
            attempts_at_the_user_code_are_counted,
            only_the_id_of_the_tokens_own_event_acknowledges,
            a_token_is_acknowledged_before_its_claim,
            a_failure_is_published,
            a_login_that_came_first_is_not_undone_by_a_failure,
            ending_acknowledges_or_cancels,
            evicting_ends_any_profile,
            a_fulfilment_is_published_with_its_payload,
            subscriptions_nest_and_end,
            leaving_and_coming_back_loses_nothing,
            a_mark_is_set_once,
            a_value_is_stored_replaced_and_removed,
            refresh_tokens_follow_each_other_and_a_reuse_ends_the_grant,
            a_grant_is_ended_or_expires,
            an_account_has_ended_up_to_the_latest_time,
            of_many_dialogs_with_one_transit_token_one_is_admitted,
            of_many_read_once_polls_one_has_the_token,
            of_many_subscriptions_the_newest_has_the_token,
            of_many_logins_one_is_stored,
            of_many_marks_one_is_first,
            of_many_attempts_at_the_user_code_five_are_allowed,
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

/// Writes every payload, or none.
struct Writer(bool);

impl DirectWriter for Writer {
    fn write_directly(&self, _: SessionKey, _: &SealedPayload) -> bool {
        self.0
    }
}

#[tokio::test]
async fn in_memory_who_fulfils_goes_on_once_the_woken_have_run() {
    for writes_directly in [false, true] {
        let registry = Registry::new(1, 1);
        let store = MemoryStore::new(registry.clone(), 1 << 20);
        let session = SessionRef::native(key());
        store.create(session.key, legacy()).await.unwrap();
        store.subscribe(session.key).await.unwrap();
        let mailbox = registry.join(session.key).unwrap();
        mailbox.set_direct_writer(Arc::new(Writer(writes_directly)));
        let attach = ReadRequest {
            session_token: None,
            mode: ReadMode::Attach(mailbox.subscription()),
            retention: retention(GRACE),
        };
        assert!(is_pending(&store.read(session, attach).await.unwrap()));
        let woken = tokio::spawn(async move { mailbox.signalled().await });
        tokio::task::yield_now().await;
        assert_eq!(store.fulfil(session, sealed()).await.unwrap(), Stored::Done);
        // On one thread it ran if this task has waited for it.
        assert_eq!(woken.is_finished(), !writes_directly);
    }
}

with_every_case!(contract_of, in_memory, super::memory);
with_every_case!(contract_of, in_redis, super::redis);
with_every_case!(shared_contract_of, in_a_cluster, redis_cluster);

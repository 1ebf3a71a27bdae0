//! The relay over the in-memory store: wake-ups, the clock, and the state machine as a property.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use crate::{relay::*, store::memory::MemoryStore};

fn relay() -> Arc<Relay> {
    let registry = Registry::new(10_000, 4);
    let store = MemoryStore::new(registry.clone(), usize::MAX);
    let timing =
        Timing { delivery_grace: Duration::from_secs(30), fulfil_timeout: Duration::from_secs(5) };
    Relay::new(store, registry, Arc::new(KeyRing::random()), timing)
}

fn request(profile: Profile) -> CreateSession {
    let token = (profile == Profile::Bound).then(|| Digest::of(b"session token"));
    CreateSession {
        session: crate::session::SessionId::generate().key(),
        session_token: token,
        profile,
        browser: None,
        details: SessionDetails::default(),
        ttl: Duration::from_secs(900),
        transit_token_ttl: Duration::from_secs(120),
        random_bytes: 32,
        trace: None,
    }
}

async fn legacy(relay: &Relay) -> SessionRef {
    let request = request(Profile::Legacy);
    let key = SessionRef::native(request.session);
    relay.create(request).await.unwrap();
    key
}

fn sealed(text: &'static str) -> SealedPayload {
    SealedPayload(Bytes::from_static(text.as_bytes()))
}

/// What a poll that reaches its client says.
async fn polled(
    relay: &Arc<Relay>,
    key: SessionRef,
    session_token: Option<Digest>,
    delivery: Delivery,
) -> Option<Outcome> {
    let (outcome, handover) = relay.poll(key, session_token, delivery).await.unwrap()?;
    handover.delivered();
    Some(outcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fulfil_and_subscribe_at_the_same_moment_lose_nothing() {
    let relay = relay();
    for _ in 0..1_000 {
        let key = legacy(&relay).await;
        let reading = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move {
                relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap().outcome().await
            }
        });
        let fulfilling = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.fulfil(key, sealed("token")).await.unwrap() }
        });
        assert_eq!(fulfilling.await.unwrap(), Stored::Done);
        assert!(
            matches!(reading.await.unwrap(), Outcome::Token { payload, .. } if payload == sealed("token"))
        );
    }
    assert_eq!(relay.registry().waiting(), 0);
}

#[tokio::test]
async fn of_two_subscriptions_that_wait_the_newest_wins_alone() {
    let relay = relay();
    let key = legacy(&relay).await;
    let mut older = relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap();
    let mut newer = relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap();
    relay.fulfil(key, sealed("token")).await.unwrap();
    assert_eq!(older.outcome().await, Outcome::Superseded);
    assert!(matches!(newer.outcome().await, Outcome::Token { .. }));
}

/// What was handed over, by a client that takes it or does not.
struct Client {
    takes: bool,
    got: Mutex<Vec<SealedPayload>>,
}

impl DirectWriter for Client {
    fn write_directly(&self, _: SessionKey, payload: &SealedPayload) -> bool {
        self.got.lock().unwrap().push(payload.clone());
        self.takes
    }
}

/// A session whose subscription has an direct_writer, fulfilled; what went by the direct_writer and what by the subscription.
async fn handed_over(profile: Profile, takes: bool) -> (usize, Outcome, Arc<Relay>, SessionRef) {
    let relay = relay();
    let request = request(profile);
    let (key, session_token) = (SessionRef::native(request.session), request.session_token);
    relay.create(request).await.unwrap();
    let mut subscription =
        relay.open(key, session_token, Delivery::UntilAcknowledged).await.unwrap();
    let client = Arc::new(Client { takes, got: Mutex::default() });
    subscription.set_direct_writer(Arc::clone(&client) as Arc<dyn DirectWriter>);
    assert_eq!(relay.fulfil(key, sealed("token")).await.unwrap(), Stored::Done);
    let went = client.got.lock().unwrap().len();
    (went, subscription.outcome().await, relay, key)
}

#[tokio::test(start_paused = true)]
async fn a_bound_subscription_is_given_the_token_before_it_wakes_and_its_grace_begins() {
    let (went, outcome, relay, key) = handed_over(Profile::Bound, true).await;
    assert_eq!((went, outcome), (1, Outcome::WrittenDirectly));
    // The delivery is noted by a task of its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let session_token = Some(Digest::of(b"session token"));
    let read = || polled(&relay, key, session_token, Delivery::UntilAcknowledged);
    assert!(matches!(read().await, Some(Outcome::Token { .. })));
    tokio::time::sleep(relay.timing.delivery_grace).await;
    assert_eq!(read().await, Some(Outcome::Gone(GoneReason::Expired)));
}

#[tokio::test]
async fn what_cannot_be_handed_over_is_the_subscriptions() {
    let (went, outcome, ..) = handed_over(Profile::Bound, false).await;
    assert_eq!(
        (went, outcome),
        (1, Outcome::Token { payload: sealed("token"), age: Duration::ZERO })
    );
}

#[tokio::test]
async fn a_legacy_subscription_asks_the_store_first() {
    let (went, outcome, ..) = handed_over(Profile::Legacy, true).await;
    assert_eq!(went, 0);
    assert!(matches!(outcome, Outcome::Token { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_once_polls_hand_the_token_to_exactly_one() {
    let relay = relay();
    for _ in 0..200 {
        let key = legacy(&relay).await;
        relay.fulfil(key, sealed("token")).await.unwrap();
        let polls = (0..8).map(|_| {
            let relay = Arc::clone(&relay);
            tokio::spawn(async move { polled(&relay, key, None, Delivery::Once).await })
        });
        let mut winners = 0;
        for poll in polls.collect::<Vec<_>>() {
            match poll.await.unwrap() {
                Some(Outcome::Token { .. }) => winners += 1,
                other => assert_eq!(other, Some(Outcome::Gone(GoneReason::Acknowledged))),
            }
        }
        assert_eq!(winners, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivered_token_is_readable_again_until_grace_is_over() {
    let relay = relay();
    let key = legacy(&relay).await;
    relay.fulfil(key, sealed("token")).await.unwrap();
    let read = || async {
        relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap().outcome().await
    };
    assert!(matches!(read().await, Outcome::Token { .. }));
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(matches!(read().await, Outcome::Token { .. }));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(read().await, Outcome::Gone(GoneReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_subscription_hears_that_the_session_expired() {
    let relay = relay();
    let key = legacy(&relay).await;
    let mut subscription = relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(subscription.outcome().await, Outcome::Gone(GoneReason::Expired));
    assert_eq!(begun.elapsed().as_secs(), 900);
    assert_eq!(
        relay.fulfil(key, sealed("late")).await.unwrap(),
        Stored::NotPending(State::Gone(GoneReason::Expired))
    );
    tokio::time::advance(crate::store::TOMBSTONE).await;
    assert_eq!(relay.fulfil(key, sealed("late")).await.unwrap(), Stored::Unknown);
}

#[tokio::test]
async fn a_cancelled_wait_loses_no_wake_up() {
    let relay = relay();
    let key = legacy(&relay).await;
    let mut subscription = relay.open(key, None, Delivery::UntilAcknowledged).await.unwrap();
    assert!(futures_util::FutureExt::now_or_never(subscription.outcome()).is_none());
    relay.fulfil(key, sealed("token")).await.unwrap();
    assert!(matches!(subscription.outcome().await, Outcome::Token { .. }));
}

#[tokio::test]
async fn a_replayed_transit_token_kills_the_session_and_tells_the_subscription() {
    let relay = relay();
    let request = request(Profile::Bound);
    let (key, session_token) = (SessionRef::native(request.session), request.session_token);
    let token = relay.create(request).await.unwrap().transit_token.unwrap();
    let mut subscription =
        relay.open(key, session_token, Delivery::UntilAcknowledged).await.unwrap();
    let entry = Entry::TransitToken(token.digest());
    let (dialog, other) = (DialogId::generate(), DialogId::generate());
    for _ in 0..2 {
        let entered = relay.enter(key, entry, dialog).await.unwrap();
        assert!(matches!(entered, Entered::Admitted(_)), "{entered:?}");
    }
    assert_eq!(relay.enter(key, entry, other).await.unwrap(), Entered::Replayed);
    assert_eq!(subscription.outcome().await, Outcome::Gone(GoneReason::Replayed));
}

#[tokio::test]
async fn a_stranger_gets_nothing_and_burns_nothing() {
    let relay = relay();
    let request = request(Profile::Bound);
    let (key, session_token) = (SessionRef::native(request.session), request.session_token);
    relay.create(request).await.unwrap();
    relay.fulfil(key, sealed("token")).await.unwrap();
    for wrong in [None, Some(Digest::of(b"guess"))] {
        assert!(matches!(
            relay.open(key, wrong, Delivery::UntilAcknowledged).await,
            Err(ReadError::Unauthorized)
        ));
        assert!(matches!(
            relay.poll(key, wrong, Delivery::Once).await,
            Err(ReadError::Unauthorized)
        ));
        assert_eq!(relay.end(key, wrong).await.unwrap(), Ended::Unauthorized);
    }
    assert!(matches!(
        polled(&relay, key, session_token, Delivery::UntilAcknowledged).await,
        Some(Outcome::Token { .. })
    ));
}

/// One call on a session.
#[derive(Clone, Copy, Debug)]
enum Call {
    Peek,
    Enter,
    EnterFromElsewhere,
    Fulfil,
    Fail,
    Poll,
    PollOnce,
    End,
    Wait(u64),
}

/// What the state diagram says, written down a second time and as simply as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Pending,
    Authenticated,
    Delivered(u64),
    Failed,
    Gone,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_sequence_of_calls_follows_the_state_diagram(
        calls in proptest::collection::vec(
            prop_oneof![
                Just(Call::Peek), Just(Call::Enter), Just(Call::EnterFromElsewhere), Just(Call::Fulfil), Just(Call::Fail), Just(Call::Poll),
                Just(Call::PollOnce), Just(Call::End), (0u64..400).prop_map(Call::Wait),
            ],
            1..24,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let relay = relay();
            let mut request = request(Profile::Bound);
            request.transit_token_ttl = Duration::from_secs(900);
            let (key, token) = (SessionRef::native(request.session), request.session_token);
            let transit = relay.create(request).await.unwrap().transit_token.unwrap();
            let (entry, dialog) = (Entry::TransitToken(transit.digest()), DialogId::generate());
            let (mut now, mut model, mut entered, mut delivered_once) = (0u64, Model::Pending, false, 0);
            for call in calls {
                let over = match model {
                    Model::Delivered(until) => now >= until || now >= 900,
                    Model::Gone => false,
                    _ => now >= 900,
                };
                if over {
                    model = Model::Gone;
                }
                // Past the tombstone the store may forget; the diagram ends there.
                if now >= 960 {
                    break;
                }
                match call {
                    Call::Wait(seconds) => {
                        tokio::time::advance(Duration::from_secs(seconds)).await;
                        now += seconds;
                    }
                    // Looking changes nothing, whatever the state.
                    Call::Peek => {
                        let peeked = relay.peek(key, entry, Some(dialog)).await.unwrap();
                        prop_assert_eq!(
                            matches!(peeked, Peeked::Open(_)),
                            model == Model::Pending && now < 900
                        );
                        let elsewhere = relay.peek(key, entry, None).await.unwrap();
                        prop_assert_eq!(elsewhere == Peeked::Used, entered);
                    }
                    Call::Enter => {
                        let outcome = relay.enter(key, entry, dialog).await.unwrap();
                        prop_assert_eq!(
                            matches!(outcome, Entered::Admitted(_)),
                            model == Model::Pending && now < 900
                        );
                        entered |= matches!(outcome, Entered::Admitted(_));
                    }
                    Call::EnterFromElsewhere if entered => {
                        let outcome = relay.enter(key, entry, DialogId::generate()).await.unwrap();
                        prop_assert_eq!(outcome, Entered::Replayed);
                        model = Model::Gone;
                    }
                    Call::EnterFromElsewhere => {}
                    Call::Fulfil => {
                        let outcome = relay.fulfil(key, sealed("token")).await.unwrap();
                        prop_assert_eq!(outcome == Stored::Done, model == Model::Pending);
                        if model == Model::Pending { model = Model::Authenticated; }
                    }
                    Call::Fail => {
                        let outcome = relay.fail(key, Failure::new("access_denied", "no")).await.unwrap();
                        prop_assert_eq!(outcome.stored == Stored::Done, model == Model::Pending);
                        if model == Model::Pending { model = Model::Failed; }
                    }
                    Call::Poll | Call::PollOnce => {
                        let once = matches!(call, Call::PollOnce);
                        let delivery = if once { Delivery::Once } else { Delivery::UntilAcknowledged };
                        let outcome = polled(&relay, key, token, delivery).await;
                        match model {
                            Model::Pending => prop_assert!(outcome.is_none(), "{outcome:?}"),
                            Model::Failed => prop_assert!(matches!(outcome, Some(Outcome::Failed(_))), "{outcome:?}"),
                            Model::Gone => prop_assert!(matches!(outcome, Some(Outcome::Gone(_))), "{outcome:?}"),
                            Model::Authenticated | Model::Delivered(_) => {
                                prop_assert!(matches!(outcome, Some(Outcome::Token { .. })), "{outcome:?}");
                                if model == Model::Authenticated { delivered_once += 1; }
                                model = match (once, model) {
                                    (true, _) => Model::Gone,
                                    (false, Model::Delivered(until)) => Model::Delivered(until),
                                    (false, _) => Model::Delivered(now + 30),
                                };
                            }
                        }
                    }
                    Call::End => {
                        let outcome = relay.end(key, token).await.unwrap();
                        prop_assert_eq!(matches!(outcome, Ended::Already(_)), model == Model::Gone);
                        model = Model::Gone;
                    }
                }
                prop_assert!(delivered_once <= 1);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_reader_that_leaves_before_it_has_the_token_hands_it_back() {
    let relay = relay();
    let has_token = async |key| {
        // A task of its own hands it back.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let polled = polled(&relay, key, None, Delivery::Once).await;
        assert!(matches!(polled, Some(Outcome::Token { .. })), "{polled:?}");
        let polled = relay.poll(key, None, Delivery::Once).await.unwrap();
        assert!(matches!(polled, Some((Outcome::Gone(GoneReason::Acknowledged), _))), "{polled:?}");
    };
    // It leaves while the store is asked.
    let key = legacy(&relay).await;
    relay.fulfil(key, sealed("token")).await.unwrap();
    let mut poll = Box::pin(relay.poll(key, None, Delivery::Once));
    let mut context = Context::from_waker(Waker::noop());
    assert!(poll.as_mut().poll(&mut context).is_pending());
    tokio::task::yield_now().await;
    drop(poll);
    has_token(key).await;
    // It leaves with the token in hand.
    let key = legacy(&relay).await;
    relay.fulfil(key, sealed("token")).await.unwrap();
    drop(relay.poll(key, None, Delivery::Once).await.unwrap());
    has_token(key).await;
    // A subscription leaves while it claims the token, or with it.
    for takes in [false, true] {
        let key = legacy(&relay).await;
        let mut subscription = relay.open(key, None, Delivery::Once).await.unwrap();
        relay.fulfil(key, sealed("token")).await.unwrap();
        if takes {
            assert!(matches!(subscription.outcome().await, Outcome::Token { .. }));
        } else {
            let mut outcome = Box::pin(subscription.outcome());
            assert!(outcome.as_mut().poll(&mut context).is_pending());
            tokio::task::yield_now().await;
            drop(outcome);
        }
        drop(subscription);
        has_token(key).await;
    }
}

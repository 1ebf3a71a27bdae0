//! One wait for a session's outcome.
//!
//! The order makes the guarantee: join and subscribe first, then read the state, then wait. A change
//! comes either before the read, which sees it, or after, and then it signals the mailbox.

use std::{sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use crate::{
    relay::{
        Delivery, Handover, ReadError, Relay,
        registry::{BusDelivery, DirectWriter, Mailbox, Signal},
    },
    session::{ClientId, Digest, GoneReason, Outcome, SessionRef, SubscriptionId},
    store::{ReadMode, ReadRequest, ReadResult, Retention, Store, StoreError},
};

/// First pause before the store is asked again while it is unavailable; doubles up to
/// [`MAX_RETRY_PAUSE`].
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(250);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(4);

/// A client that waits for a session's outcome. Dropping it ends the wait.
pub struct Subscription {
    relay: Arc<Relay>,
    session: SessionRef,
    mailbox: Arc<Mailbox>,
    session_token: Option<Digest>,
    delivery: Delivery,
    /// When the session expires; set by the first read.
    expires_at: Instant,
    /// What a read found. Boxed, because most subscriptions wait and their size matters.
    found: Option<Box<Found>>,
    /// Whether a change was signalled and not looked into; survives a cancelled `outcome`.
    changed: bool,
    /// Whether the store's subscription was confirmed and must be ended.
    subscribed: bool,
}

/// What a read of a session found.
#[derive(Default)]
struct Found {
    /// The outcome, until it is taken.
    outcome: Option<Outcome>,
    /// The token that [`Delivery::Once`] took out of the store.
    handover: Handover,
    /// The client of a session that is pending, until it is taken.
    client: Option<ClientId>,
}

impl Subscription {
    pub(crate) fn new(
        relay: Arc<Relay>,
        session: SessionRef,
        mailbox: Arc<Mailbox>,
        session_token: Option<Digest>,
        delivery: Delivery,
    ) -> Self {
        let expires_at = Instant::now();
        Self {
            relay,
            session,
            mailbox,
            session_token,
            delivery,
            expires_at,
            found: None,
            changed: false,
            subscribed: false,
        }
    }

    pub(crate) async fn subscribe(&mut self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        store.subscribe(self.session.key).await?;
        self.subscribed = true;
        Ok(())
    }

    pub(crate) async fn attach(&mut self, store: &Arc<dyn Store>) -> Result<(), ReadError> {
        let attach = self.request(ReadMode::Attach(self.mailbox.subscription()));
        let (read, handover) = self.relay.read(store, self.session, attach).await?;
        self.found = match read {
            ReadResult::Unknown => return Err(ReadError::Unknown),
            ReadResult::Unauthorized => return Err(ReadError::Unauthorized),
            ReadResult::Pending { remaining, client } => {
                self.expires_at = Instant::now() + remaining;
                client.map(|client| Box::new(Found { client: Some(client), ..Found::default() }))
            }
            ReadResult::TooEarly { .. } => None,
            ReadResult::Settled(outcome) => {
                Some(Box::new(Found { outcome: Some(outcome), handover, client: None }))
            }
        };
        self.relay.registry.admit(self.session.key, &self.mailbox);
        Ok(())
    }

    fn request(&self, mode: ReadMode) -> ReadRequest {
        let retention = self.relay.retention(self.delivery);
        ReadRequest { session_token: self.session_token, mode, retention }
    }

    /// The session.
    pub fn session(&self) -> SessionRef {
        self.session
    }

    /// SHA-256 of the session token that was presented.
    pub fn session_token(&self) -> Option<Digest> {
        self.session_token
    }

    /// When the session expires unless something happens.
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// The outcome, where the session had one when the wait began.
    pub fn found(&self) -> Option<&Outcome> {
        self.found.as_ref()?.outcome.as_ref()
    }

    /// Takes what [`Self::found`] returns.
    pub fn take_found(&mut self) -> Option<Outcome> {
        self.found.as_mut()?.outcome.take()
    }

    /// Takes the registered client of a session that had no outcome when the wait began, which the
    /// rest of the wait has no room for.
    pub fn take_client(&mut self) -> Option<ClientId> {
        let client = self.found.as_mut()?.client.take();
        self.found.take_if(|_| client.is_some());
        client
    }

    /// What has to be notified once the outcome has reached the client; empty for
    /// [`Delivery::UntilAcknowledged`].
    pub fn take_handover(&mut self) -> Handover {
        self.found.take().map(|found| found.handover).unwrap_or_default()
    }

    /// Whether a payload on the bus may be delivered before the store is asked: only clients with
    /// the session token read a bound session, so the one that the bus names is entitled to it. The
    /// claim follows, to start the grace.
    fn trusts_bus(&self) -> bool {
        self.session_token.is_some() && self.delivery == Delivery::UntilAcknowledged
    }

    /// Lets the thread that receives the token write it by `direct_writer`, if the store need not
    /// be asked first.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        if self.trusts_bus() {
            self.mailbox.set_direct_writer(direct_writer);
        }
    }

    /// Waits for the outcome. Cancel-safe: a dropped call loses no wake-up.
    ///
    /// While the store is unavailable the subscription keeps waiting and asks again with growing
    /// pauses; a `resync` of the store ends the pause early.
    pub async fn outcome(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.check().await {
                return outcome;
            }
            tokio::select! {
                biased;
                () = self.mailbox.has_signal() => {}
                () = tokio::time::sleep_until(self.expires_at) => {}
            }
        }
    }

    /// The outcome, if there is one by now. Waits for nothing but the store. Cancel-safe.
    pub async fn check(&mut self) -> Option<Outcome> {
        if let Some(found) = self.take_found() {
            return Some(found);
        }
        loop {
            if self.changed {
                let outcome = self.collect().await;
                self.changed = false;
                if outcome.is_some() {
                    return outcome;
                }
            }
            match self.mailbox.take_signal() {
                Some(Signal::Draining) => return Some(Outcome::Draining),
                Some(Signal::Superseded) => return Some(Outcome::Superseded),
                Some(Signal::Changed) => self.changed = true,
                None => break,
            }
        }
        (Instant::now() >= self.expires_at).then_some(Outcome::Gone(GoneReason::Expired))
    }

    /// Has `waker` woken when [`Self::check`] may find something, unless the session expires first. False
    /// when it may find something already.
    pub fn wake_by(&self, waker: &Waker) -> bool {
        !self.changed && self.found().is_none() && self.mailbox.wake_by(waker)
    }

    /// Reads what became of the session; `None` when it is still pending.
    async fn collect(&mut self) -> Option<Outcome> {
        let subscription = self.mailbox.subscription();
        if self.trusts_bus()
            && let Some(delivery) = self.mailbox.take_delivery()
        {
            self.relay.note_delivery(self.session, subscription, self.session_token);
            return Some(match delivery {
                BusDelivery::Payload(payload) => Outcome::Token { payload, age: Duration::ZERO },
                BusDelivery::WrittenDirectly => Outcome::WrittenDirectly,
            });
        }
        // Boxed, so that a subscription that waits has no room for it.
        Box::pin(self.claim_until_answered(subscription)).await
    }

    /// Claims the outcome from the store, again while the store does not answer.
    async fn claim_until_answered(&mut self, subscription: SubscriptionId) -> Option<Outcome> {
        let mut pause = FIRST_RETRY_PAUSE;
        // The reader of a claim that may have taken the token although its answer was lost.
        let mut unanswered = None;
        loop {
            let claim = self.request(ReadMode::Claim(subscription));
            match self.claim(claim, &mut unanswered).await {
                Ok((ReadResult::Pending { .. } | ReadResult::TooEarly { .. }, _)) => return None,
                Ok((ReadResult::Settled(outcome), handover)) => {
                    self.found = Some(Box::new(Found { handover, ..Found::default() }));
                    return Some(outcome);
                }
                // The store lost the session during the wait.
                Ok((ReadResult::Unknown | ReadResult::Unauthorized, _)) => {
                    return Some(Outcome::Gone(GoneReason::Expired));
                }
                Err(error) => {
                    tracing::debug!(session = %self.session.key, %error, "claim deferred");
                    tokio::select! {
                        signal = self.mailbox.signalled() => match signal {
                            Signal::Draining => return Some(Outcome::Draining),
                            Signal::Superseded => return Some(Outcome::Superseded),
                            Signal::Changed => {}
                        },
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(MAX_RETRY_PAUSE);
                    if Instant::now() >= self.expires_at {
                        return Some(Outcome::Gone(GoneReason::Expired));
                    }
                }
            }
        }
    }

    /// Reads after a change, once an earlier read without an answer has been undone.
    async fn claim(
        &self,
        claim: ReadRequest,
        unanswered: &mut Option<SubscriptionId>,
    ) -> Result<(ReadResult, Handover), StoreError> {
        if let Some(reader) = *unanswered {
            self.relay.store.hand_back(self.session, reader).await?;
        }
        *unanswered = match claim.retention {
            Retention::Once(reader) => Some(reader),
            Retention::Grace(_) => None,
        };
        self.relay.read(&self.relay.store, self.session, claim).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.relay.registry.leave(self.session.key, &self.mailbox);
        if self.subscribed {
            self.relay.store.unsubscribe(self.session.key);
        }
    }
}

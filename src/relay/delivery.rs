//! One reader's wait, from subscribing to the outcome.
//!
//! Made by [`Relay::open`](crate::relay::Relay::open), driven by the transports. The order is the
//! guarantee: join and subscribe first, then read the state, then wait; so a change can come
//! before the read (the read sees it) or after (the mailbox is rung), never between.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    relay::{
        Relay,
        registry::{Arrived, DirectWriter, Mailbox, Ring},
    },
    session::{Digest, Failure, GoneReason, SealedPayload, SessionKey},
    store::{Read, ReadMode, ReadOutcome, SessionStore, StoreError},
};

/// First pause before the store is asked again while it is away; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The token, sealed, and how long ago the login was stored.
    Token(SealedPayload, Duration),
    /// The token is with the client already, by the reader's [`DirectWriter`].
    WrittenDirectly,
    /// The login failed.
    Failed(Failure),
    /// A newer reader of the same session took over.
    Superseded,
    /// The session is over.
    Gone(GoneReason),
    /// This instance shuts down; the reader must come again.
    Draining,
}

/// A reader that waits. Dropping it ends the subscription.
pub struct Subscription {
    relay: Arc<Relay>,
    key: SessionKey,
    mailbox: Arc<Mailbox>,
    session_token: Option<Digest>,
    once: bool,
    /// Set by the first read; the session expires then if nothing else happens.
    expires_at: Instant,
    /// What the first read found, if the wait was over before it began.
    /// Boxed, because most readers wait and their room is counted.
    found: Option<Box<Outcome>>,
    /// Rung, and what rang not yet looked into; survives a cancelled call of `outcome`.
    rung: bool,
    /// Whether the store's subscription stands and must be ended.
    subscribed: bool,
}

/// What the first read may answer instead of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    Unknown,
    Unauthorized,
}

impl Subscription {
    pub(crate) fn new(
        relay: Arc<Relay>,
        key: SessionKey,
        mailbox: Arc<Mailbox>,
        session_token: Option<Digest>,
        once: bool,
    ) -> Self {
        let expires_at = Instant::now();
        Self {
            relay,
            key,
            mailbox,
            session_token,
            once,
            expires_at,
            found: None,
            rung: false,
            subscribed: false,
        }
    }

    pub(crate) async fn subscribe(&mut self, store: &dyn SessionStore) -> Result<(), StoreError> {
        store.subscribe(self.key).await?;
        self.subscribed = true;
        Ok(())
    }

    pub(crate) async fn attach(
        &mut self,
        store: &dyn SessionStore,
    ) -> Result<Result<(), NotAdmitted>, StoreError> {
        let attach = ReadMode::Attach(self.mailbox.reader());
        let outcome = store.read(self.key, self.request(attach)).await?;
        self.found = match outcome {
            ReadOutcome::Unknown => return Ok(Err(NotAdmitted::Unknown)),
            ReadOutcome::Unauthorized => return Ok(Err(NotAdmitted::Unauthorized)),
            ReadOutcome::Pending { remaining } => {
                self.expires_at = Instant::now() + remaining;
                None
            }
            settled => Self::settled(settled).map(Box::new),
        };
        Ok(Ok(()))
    }

    fn request(&self, mode: ReadMode) -> Read {
        let grace = (!self.once).then_some(self.relay.timing.delivery_grace);
        Read { session_token: self.session_token, mode, grace }
    }

    fn settled(outcome: ReadOutcome) -> Option<Outcome> {
        match outcome {
            ReadOutcome::Pending { .. } => None,
            ReadOutcome::Token { payload, age } => Some(Outcome::Token(payload, age)),
            ReadOutcome::Failed(failure) => Some(Outcome::Failed(failure)),
            ReadOutcome::Superseded => Some(Outcome::Superseded),
            ReadOutcome::Gone(reason) => Some(Outcome::Gone(reason)),
            // The store lost the session while it was waited for.
            ReadOutcome::Unknown | ReadOutcome::Unauthorized => {
                Some(Outcome::Gone(GoneReason::Expired))
            }
        }
    }

    /// The session that is read.
    pub fn key(&self) -> SessionKey {
        self.key
    }

    /// The credentials with which it is read.
    pub fn session_token(&self) -> Option<Digest> {
        self.session_token
    }

    /// When the session expires if nothing happens.
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// What was there already when the reader came, without waiting.
    pub fn take_found(&mut self) -> Option<Outcome> {
        self.found.take().map(|found| *found)
    }

    /// Puts back what [`Self::take_found`] gave.
    pub fn put_back(&mut self, found: Outcome) {
        self.found = Some(Box::new(found));
    }

    /// A bound session's only readers are those with its session token. When the bus names this
    /// one it need not wait for the store's consent: the claim follows, to start the grace.
    fn trusts_the_bus(&self) -> bool {
        self.session_token.is_some() && !self.once
    }

    /// Lets whoever brings the token send it by `direct_writer`, if no consent of the store is needed.
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        if self.trusts_the_bus() {
            self.mailbox.set_direct_writer(direct_writer);
        }
    }

    /// Waits for the outcome. Cancel-safe: a dropped call loses no wake-up.
    ///
    /// While the store is away the reader keeps waiting and asks again with growing pauses; a
    /// `resync` of the store ends the pause early.
    pub async fn outcome(&mut self) -> Outcome {
        if let Some(found) = self.take_found() {
            return found;
        }
        loop {
            if self.rung {
                let outcome = self.collect().await;
                self.rung = false;
                if let Some(outcome) = outcome {
                    return outcome;
                }
            }
            tokio::select! {
                biased;
                ring = self.mailbox.rung() => match ring {
                    Ring::Draining => return Outcome::Draining,
                    Ring::Changed => self.rung = true,
                },
                () = tokio::time::sleep_until(self.expires_at) => {
                    return Outcome::Gone(GoneReason::Expired);
                }
            }
        }
    }

    /// Asks the store what became of the session.
    async fn collect(&self) -> Option<Outcome> {
        if self.trusts_the_bus()
            && let Some(arrived) = self.mailbox.take_arrived()
        {
            self.relay.claim_later(self.key, self.mailbox.reader(), self.session_token);
            return Some(match arrived {
                Arrived::Payload(payload) => Outcome::Token(payload, Duration::ZERO),
                Arrived::WrittenDirectly => Outcome::WrittenDirectly,
            });
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let claim = self.request(ReadMode::Claim(self.mailbox.reader()));
            match self.relay.store.read(self.key, claim).await {
                Ok(outcome) => return Self::settled(outcome),
                Err(error) => {
                    tracing::debug!(session = %self.key, %error, "claim deferred");
                    tokio::select! {
                        ring = self.mailbox.rung() => if ring == Ring::Draining {
                            return Some(Outcome::Draining);
                        },
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if Instant::now() >= self.expires_at {
                        return Some(Outcome::Gone(GoneReason::Expired));
                    }
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.relay.registry.leave(self.key, &self.mailbox);
        if self.subscribed {
            self.relay.store.unsubscribe(self.key);
        }
    }
}

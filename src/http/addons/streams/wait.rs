//! One client's wait for the outcome of a session, whatever the transport.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    http::{
        AppState,
        addons::streams::{Encoder, StreamMessage},
        operator::metrics::OpenStream,
    },
    relay::{DirectWriter, Handover, Subscription},
    session::{Digest, Outcome, SessionRef},
    telemetry::Link,
};

/// A client that waits. Counts as an open stream until dropped.
pub struct Wait {
    encoder: Encoder,
    subscription: Subscription,
    next_heartbeat: Instant,
    _open: Option<OpenStream>,
}

/// What happens next in a wait.
pub enum WaitEvent {
    /// Nothing, for an interval of heartbeats.
    Idle,
    /// The wait is over.
    Ended(Outcome),
}

impl Wait {
    /// A client that was admitted to wait over `transport`.
    pub fn new(
        app: AppState,
        transport: &'static str,
        mut subscription: Subscription,
        opened_by: Link,
    ) -> Self {
        let client = subscription.take_client();
        // One that has its outcome already does not wait.
        let open = subscription.found().is_none().then(|| {
            let surface = subscription.session().surface;
            let client = app.clients.load().label(surface, client.as_ref());
            app.metrics.stream_opened(&client, transport)
        });
        let next_heartbeat = Instant::now() + app.settings.session.heartbeat;
        let encoder = Encoder::new(app, opened_by);
        Self { encoder, subscription, next_heartbeat, _open: open }
    }

    /// The session that it waits for.
    pub fn session(&self) -> SessionRef {
        self.subscription.session()
    }

    /// SHA-256 of the session token that the client presented.
    pub fn session_token(&self) -> Option<Digest> {
        self.subscription.session_token()
    }

    /// Makes the messages of this wait.
    pub fn encoder(&self) -> Encoder {
        self.encoder.clone()
    }

    /// Interval of heartbeats.
    pub fn heartbeat_interval(&self) -> Duration {
        self.encoder.app().settings.session.heartbeat
    }

    /// Lets the thread that receives the token write it by `direct_writer`, where the client's
    /// credentials allow it. Then the wait ends with [`Outcome::WrittenDirectly`].
    pub fn set_direct_writer(&self, direct_writer: Arc<dyn DirectWriter>) {
        self.subscription.set_direct_writer(direct_writer);
    }

    /// The outcome, where there was one when the wait began.
    pub fn found(&self) -> Option<&Outcome> {
        self.subscription.found()
    }

    /// Takes what [`Self::found`] returns.
    pub fn take_found(&mut self) -> Option<Outcome> {
        self.subscription.take_found()
    }

    /// Waits for the outcome, or until a heartbeat is due. Cancel-safe.
    pub async fn next(&mut self) -> WaitEvent {
        loop {
            if let Some(outcome) = self.check().await {
                return WaitEvent::Ended(outcome);
            }
            if self.take_heartbeat(Instant::now()) {
                return WaitEvent::Idle;
            }
            // One timer for both deadlines: the room of a timer is counted in every waiting stream.
            let mut due = pin!(tokio::time::sleep_until(self.deadline()));
            poll_fn(|context| {
                let woken = !self.wake_by(context.waker());
                if woken { Poll::Ready(()) } else { due.as_mut().poll(context) }
            })
            .await;
        }
    }

    /// The outcome, if there is one by now. Waits for nothing but the store. Cancel-safe.
    pub async fn check(&mut self) -> Option<Outcome> {
        self.subscription.check().await
    }

    /// Has `waker` woken when [`Self::check`] may find something before [`Self::deadline`]. False when it
    /// may find something already.
    pub fn wake_by(&self, waker: &Waker) -> bool {
        self.subscription.wake_by(waker)
    }

    /// When a heartbeat is due, or the session expires.
    pub fn deadline(&self) -> Instant {
        self.next_heartbeat.min(self.subscription.expires_at())
    }

    /// Whether the session has expired, unless something happened to it.
    pub fn has_expired(&self, now: Instant) -> bool {
        now >= self.subscription.expires_at()
    }

    /// Whether a heartbeat is due, which is then taken as sent.
    pub fn take_heartbeat(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_heartbeat;
        if is_due {
            self.next_heartbeat = now + self.heartbeat_interval();
        }
        is_due
    }

    /// Waits for the outcome alone. Cancel-safe.
    pub async fn outcome(&mut self) -> Outcome {
        self.subscription.outcome().await
    }

    /// What is to be completed when the outcome has reached the client.
    pub fn take_handover(&mut self) -> Handover {
        self.subscription.take_handover()
    }

    /// Translates the outcome; a token counts as delivered.
    pub fn message(&self, outcome: Outcome) -> StreamMessage {
        self.encoder.message(self.session().key, outcome)
    }
}

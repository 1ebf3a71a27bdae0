//! A token that was taken out of the store for one reader, until it is certain that the reader has it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use crate::{
    relay::Relay,
    session::{SessionRef, SubscriptionId},
};

/// Pauses between attempts while the store is unavailable.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Hands a token back to the store when it is dropped before [`Self::delivered`].
#[derive(Default)]
pub struct Handover(Option<Box<Pending>>);

struct Pending {
    relay: Arc<Relay>,
    session: SessionRef,
    reader: SubscriptionId,
}

impl Handover {
    /// Nothing was taken.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(relay: Arc<Relay>, session: SessionRef, reader: SubscriptionId) -> Self {
        Self(Some(Box::new(Pending { relay, session, reader })))
    }

    /// Whether nothing was taken.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The reader has the token, as far as this process can know.
    pub fn delivered(mut self) {
        self.0 = None;
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.0.as_ref().map(|pending| pending.session.key);
        formatter.debug_tuple("Handover").field(&session).finish()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let Some(pending) = self.0.take() else { return };
        // Outside of a runtime the process has ended.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(hand_back(pending));
        }
    }
}

async fn hand_back(pending: Box<Pending>) {
    let Pending { relay, session, reader } = *pending;
    let mut pauses = PAUSES.into_iter();
    loop {
        match relay.store().hand_back(session, reader).await {
            Ok(true) => {
                tracing::info!(target: "audit", session = %session.key, "token taken back: its reader has left");
                return;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(session = %session.key, %error, "token not taken back yet");
            }
        }
        match pauses.next() {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                tracing::warn!(session = %session.key, "token not taken back: its reader has left, and the store is unavailable");
                return;
            }
        }
    }
}

//! A watch on a session: it learns that the session changed, and never becomes its reader.

use std::sync::Arc;

use crate::{
    relay::{
        Relay,
        registry::{Mailbox, Signal},
    },
    session::SessionRef,
    store::{Store, StoreError},
};

/// A watch. Dropping it ends it.
pub struct Watch {
    relay: Arc<Relay>,
    session: SessionRef,
    mailbox: Arc<Mailbox>,
    subscribed: bool,
}

impl Watch {
    pub(crate) fn new(relay: Arc<Relay>, session: SessionRef, mailbox: Arc<Mailbox>) -> Self {
        Self { relay, session, mailbox, subscribed: false }
    }

    pub(crate) async fn subscribe(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        store.subscribe(self.session.key).await?;
        self.subscribed = true;
        Ok(())
    }

    /// Waits until the session may have changed; false when there is nothing to wait for any more.
    pub async fn changed(&self) -> bool {
        self.mailbox.signalled().await == Signal::Changed
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.relay.registry.leave(self.session.key, &self.mailbox);
        if self.subscribed {
            self.relay.store.unsubscribe(self.session.key);
        }
    }
}

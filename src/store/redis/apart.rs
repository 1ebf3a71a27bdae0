//! Whether keys of several sessions may go into one command. Not in a cluster, where they are rarely in one
//! slot; a server may be in cluster mode without being configured as one here, and says so.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::store::StoreError;

/// Whether each session is a command of its own.
#[derive(Clone)]
pub(super) struct Apart(Arc<AtomicBool>);

impl Apart {
    /// At first, as the URL says.
    pub(super) fn new(cluster: bool) -> Self {
        Self(Arc::new(AtomicBool::new(cluster)))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether the server refused keys of several slots; from then on, each session is a command of its own.
    pub(super) fn is_demanded_by(&self, error: &StoreError) -> bool {
        let (StoreError::Unavailable(text) | StoreError::Corrupt(text)) = error;
        let demanded = text.contains("CROSSSLOT");
        if demanded && !self.0.swap(true, Ordering::Relaxed) {
            tracing::info!("Redis is in cluster mode: each session is a command of its own");
        }
        demanded
    }
}

//! Deliveries that are yet to be recorded in the store, which records many at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::DeliveryNote;

/// Deliveries that are yet to be recorded.
#[derive(Default)]
pub(super) struct Notes(Mutex<Vec<DeliveryNote>>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Vec<DeliveryNote>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; true for the first, whose caller has to take all of them later.
    pub(super) fn push(&self, note: DeliveryNote) -> bool {
        let mut notes = self.lock();
        notes.push(note);
        notes.len() == 1
    }

    /// Takes all of them.
    pub(super) fn take(&self) -> Vec<DeliveryNote> {
        std::mem::take(&mut *self.lock())
    }
}

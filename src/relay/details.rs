//! Seals the details of a session for the store, bound to the session.

use crate::{
    session::{SessionDetails, SessionKey},
    store::{StoreError, StoredDetails},
    token::{KeyRing, Purpose},
    util::wiped::WipedBytes,
};

pub(super) fn seal(keys: &KeyRing, session: SessionKey, details: &SessionDetails) -> StoredDetails {
    // Strings and numbers always serialise.
    let plaintext = WipedBytes::from(serde_json::to_vec(details).unwrap_or_default());
    let envelope = keys.seal(Purpose::SessionDetails, session.as_ref(), &plaintext);
    StoredDetails::Sealed(envelope.into())
}

pub(super) fn open(
    keys: &KeyRing,
    session: SessionKey,
    stored: StoredDetails,
) -> Result<SessionDetails, StoreError> {
    let envelope = match stored {
        StoredDetails::Sealed(envelope) => envelope,
        StoredDetails::Clear(details) => return Ok(*details),
    };
    let corrupt = |why: &dyn std::fmt::Display| StoreError::Corrupt(format!("details: {why}"));
    let plaintext = keys
        .open(Purpose::SessionDetails, session.as_ref(), &envelope)
        .map_err(|error| corrupt(&error))?;
    serde_json::from_slice(&plaintext).map_err(|_| corrupt(&"not understood"))
}

//! The vocabulary of a session: identifiers, secrets, states, payload.
//!
//! Used by every other module; knows nothing of HTTP, of stores or of tokens' content.

mod identifier;
mod state;

pub use crate::session::identifier::{
    Digest, GrantId, InvalidIdentifier, ReaderId, SECRET_BYTES, SessionId, SessionKey,
    SessionToken, TransitToken, UserCode,
};
pub(crate) use crate::session::identifier::{random_bytes, redacted_text};
pub use crate::session::state::{Failure, GoneReason, Profile, SealedPayload, SessionInfo, State};

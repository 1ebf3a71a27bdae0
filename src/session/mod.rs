//! The vocabulary of a session: identifiers, secrets, states, payload.
//!
//! Used by every other module; knows nothing of HTTP, of stores or of tokens' content.

mod identifier;
mod state;

pub use identifier::{
    Digest, GrantId, InvalidIdentifier, ReaderId, SECRET_BYTES, SessionId, SessionKey,
    SessionToken, TransitToken, UserCode,
};
pub(crate) use identifier::{random_bytes, redacted_text};
pub use state::{Failure, GoneReason, Profile, SealedPayload, SessionInfo, State};

//! The terms of a session: identifiers, secrets, states, outcome, sealed payload.
//!
//! A secret that travels ([`SessionId`], [`SessionToken`], [`TransitToken`]) is redacted in logs;
//! what is stored ([`SessionKey`], [`Digest`]) is its SHA-256 and opens nothing.

mod binding;
mod client_id;
mod details;
mod digest;
mod event_id;
mod identity;
mod key;
mod secret;
mod state;
mod subscription_id;
mod user_code;

pub(crate) use crate::session::binding::PRIVATE_MEMBERS;
pub use crate::session::{
    binding::{Binding, EncryptionKey, InvalidEncryptionKey, Thumbprint},
    client_id::{ClientId, InvalidClientId},
    details::{ProofKey, SessionDetails, SessionInfo},
    digest::{Digest, InvalidIdentifier},
    event_id::EventId,
    identity::{IdTokenHint, Identity, Requested},
    key::{AccountId, DialogId, GrantId, SessionKey, SessionRef},
    secret::{SECRET_BYTES, SessionId, SessionToken, TransitToken},
    state::{Failure, GoneReason, Outcome, Profile, SealedPayload, State, Surface},
    subscription_id::SubscriptionId,
    user_code::UserCode,
};

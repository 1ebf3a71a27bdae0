//! Access tokens: forging, keys, verification, revocation, sealing; refresh tokens.
//!
//! Called by `http`; calls `store` for revocation. The only module that sees a token in clear
//! between its making and its delivery.

mod ecdsa;
mod forge;
mod keys;
mod refresh;
mod response;
mod revocation;
mod sealing;
mod verify;
mod xchacha;

pub use forge::{AccessToken, Forge, ForgeError, MeetClaims, MeetForge, Subject};
pub use keys::{KeyError, SigningKeys};
pub use refresh::{Grant, Refresh, RefreshError, RefreshToken};
pub use response::TokenResponse;
pub use revocation::Revocations;
pub use sealing::{KeyRing, OpenError, Purpose};
pub use verify::{Claims, Rejected, Verifier};

//! Access tokens: forging, keys, verification, revocation, sealing; refresh tokens.
//!
//! Called by `http`; calls `store` for revocation. The only module that sees a token in clear
//! between its making and its delivery.

mod error;
mod issuer;
pub mod jws;
mod keys;
mod refresh;
mod response;
mod revocation;
mod sealing;
mod verify;

pub use crate::token::error::{KeyError, SignError};
pub use crate::token::issuer::{AccessToken, IssueError, Issuer, MeetClaims, MeetIssuer};
pub use crate::token::keys::SigningKeys;
pub use crate::token::refresh::{Grant, Refresh, RefreshError, RefreshToken};
pub use crate::token::response::TokenResponse;
pub use crate::token::revocation::Revocations;
pub use crate::token::sealing::{KeyRing, OpenError, Purpose};
pub use crate::token::verify::{Claims, Rejected, Verifier};

//! Access and refresh tokens: issuing, verifying, revoking, and sealing them for the store.
//!
//! No other module sees a token in clear between its issue and its delivery.

pub mod dpop;
mod error;
mod issuer;
pub mod jwe;
pub mod jws;
mod keys;
mod logouts;
mod refresh;
mod response;
mod revocation;
mod sealing;
mod secret;
mod upgrade;
mod verify;

pub use crate::token::{
    dpop::{DpopProof, InvalidProof, KeyConfirmation, ProvenRequest},
    error::{KeyError, SignError},
    issuer::{IssueError, Issuer, MeetClaims, MeetIssuer, MeetSubject, is_registered_claim},
    keys::SigningKeys,
    logouts::{Logouts, SignedIn},
    refresh::{Holder, Presenter, Refresh, RefreshError, RefreshGrant},
    response::TokenResponse,
    revocation::Revocations,
    sealing::{Format, KeyId, KeyRing, OpenError, Purpose},
    secret::{AccessToken, RefreshToken},
    upgrade::RollingUpgrade,
    verify::{Claims, Rejected, Verifier},
};

pub(crate) use crate::token::keys::SigningKey;

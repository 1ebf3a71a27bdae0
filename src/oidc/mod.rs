//! Sign-in at an OpenID provider: discovery, the code flow, and what is believed of its answers.
//!
//! Knows no sessions: on whose behalf a person signs in is the caller's business.

mod attempt;
mod authorization_response;
mod browser_login;
mod claims;
mod client_auth;
mod client_key;
mod error;
mod flow;
mod http_client;
mod jws;
mod logout;
mod metadata;
mod options;
mod probe;
mod provider;
mod provider_error;
#[cfg(test)]
mod tests;
mod token_response;
mod userinfo;
mod verify;

pub use crate::oidc::attempt::LoginAttempt;
pub use crate::oidc::authorization_response::{AuthorizationResponse, MAX_FORM};
pub use crate::oidc::browser_login::{BrowserLogin, NotAllowed, ReturnTo};
pub use crate::oidc::client_key::{ClientKeyError, ClientKeys};
pub use crate::oidc::error::{FailureKind, LoginError, Step};
pub use crate::oidc::logout::LogoutRequest;
pub use crate::oidc::options::{
    AuthParams, AuthorizationOptions, ClientAuth, ClientSecrets, Prompt, ProviderOptions,
    RequiredClaims, SigningAlgorithms,
};
pub use crate::oidc::probe::{Finding, Severity};
pub use crate::oidc::provider::{Provider, ProviderStatus};
pub use crate::oidc::provider_error::ProviderError;
pub use crate::oidc::verify::LogoutToken;

//! OpenID Connect login: discovery, authorization request, callback; the browser login's cookie.
//!
//! Called by `http`, which keeps what a browser must carry. Knows no sessions: whom a login is for
//! is the caller's business.

mod attempt;
mod browser_login;
mod error;
mod http_client;
mod provider;
#[cfg(test)]
mod tests;

pub use crate::oidc::attempt::{CallbackQuery, InvalidCallback, LoginAttempt};
pub use crate::oidc::browser_login::{BrowserLogin, NotAllowed, ReturnTo};
pub use crate::oidc::error::LoginError;
pub use crate::oidc::provider::{AuthorizationOptions, LoginSettings, Provider};

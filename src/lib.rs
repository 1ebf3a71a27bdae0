//! token-relay: pushes the result of a browser sign-in to the add-in that waits for it.
//!
//! The road from request to delivery, top down; a module imports only from modules below it:
//! [`settings`] and [`app`] start the process, [`http`] speaks to add-ins, browsers and
//! operators, [`login`] to the OpenID provider, [`token`] forges and seals, [`relay`] hands a
//! sealed token to whoever waits, [`store`] keeps the sessions, [`session`] is the vocabulary,
//! and [`trace`] tells the operator what belongs together. Beside the road:
//! [`demo`] is a relay with a provider of its own.

pub mod api;
pub mod cli;
#[cfg(feature = "demo")]
pub mod demo;
pub mod http;
pub mod oidc;
pub mod relay;
pub mod server;
pub mod session;
pub mod settings;
pub mod signin;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod util;

//! token-relay: pushes the result of a browser sign-in to the add-in that waits for it.
//!
//! From request to delivery: [`server`] accepts connections, [`http`] serves add-ins, browsers, APIs
//! and operators, [`oidc`] speaks to the OpenID provider, [`signin`] completes or fails a sign-in,
//! [`token`] issues and seals, [`relay`] delivers to the subscriptions that wait, and [`store`] has the
//! sessions. `docs/architecture.md` follows a sign-in through the modules.

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

//! The wire contract: paths, and the bodies of requests and responses, declared once for the relay
//! and its clients.

pub mod backend;
pub mod meet;
pub mod messages;
pub mod oauth;
pub mod operator;
pub mod paths;

pub use token_relay_client::api::*;

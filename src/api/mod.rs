//! The JSON of the native surface, declared once for the relay and its clients.

pub use token_relay_client::api::*;

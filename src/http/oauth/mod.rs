//! What APIs and OAuth clients call: token, introspection, revocation, metadata.

pub mod client_credentials;
pub mod resource;
pub mod token;

//! What add-ins call: sessions and their streams.

pub mod sessions;
pub mod streams;

//! Helpers that several modules share.

pub mod browser;
pub mod clock;
pub mod http_client;
pub(crate) mod huge_pages;
pub mod network;
pub(crate) mod private_file;
pub(crate) mod random;
pub(crate) mod redacted;
pub mod tls;
pub(crate) mod wiped;

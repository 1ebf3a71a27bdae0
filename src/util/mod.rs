//! Small things that more than one module needs and no crate has.

pub mod browser;
pub mod clock;
pub mod http_client;
pub(crate) mod random;
pub(crate) mod redacted;
pub mod tls;

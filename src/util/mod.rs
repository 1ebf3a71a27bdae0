//! Small things that more than one module needs and no crate has.

pub mod browser;
pub mod tls;

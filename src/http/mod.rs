//! HTTP surface: one file a caller.

pub mod assets;
pub mod pages;

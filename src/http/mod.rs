//! HTTP surface: one file a caller.

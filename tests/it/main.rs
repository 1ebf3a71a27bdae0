//! The integration tests: the real binary on a free port, and the programs around it.
//!
//! One crate, so that everything is linked once. [`support`] starts and talks to what is tested.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acknowledgement;
mod apis;
mod attacks;
mod bad_input;
mod certified_provider;
mod check_online;
mod claims_hook;
mod clients;
mod command_line;
mod deployed;
mod device;
mod doctor;
mod dpop;
mod drain;
mod encrypted_delivery;
mod fulfil;
mod guesses;
mod instances;
mod meet;
mod metrics;
mod oauth_clients;
mod operator;
mod packages;
mod platform;
mod proofs;
mod provider_cases;
mod provider_logout;
mod providers;
mod proxies;
mod python_client;
mod races;
mod redis_faults;
mod redis_servers;
mod refresh;
mod release;
mod reload;
mod repeated_callback;
mod resource;
mod revocation;
mod sign_in;
mod store_contract;
mod structure;
mod support;
mod terminal;
mod tls;
#[cfg(feature = "opentelemetry")]
mod traces;
mod upgrade;
mod wire;
mod wire_clients;
mod wire_differential;
mod wire_process;
mod wire_websocket;

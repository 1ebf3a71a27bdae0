//! The HTTP surface: one folder per caller.
//!
//! [`addons`] serves the add-in, [`dialog`] the browser, [`oauth`] APIs and OAuth clients, [`meet`]
//! the Meet add-in, [`operator`] the operator, [`docs`] developers.

pub mod addons;
pub mod assets;
pub(crate) mod cookies;
pub mod dialog;
pub mod docs;
pub mod error;
mod exchange_handover;
pub mod exchanges;
pub mod extract;
pub mod guesses;
mod half_close;
mod handover;
pub mod meet;
mod methods;
pub mod middleware;
pub mod oauth;
mod openapi_tags;
pub mod operator;
pub mod pages;
mod quota;
mod request_head;
mod responses;
mod router;
mod state;

pub use self::{
    addons::streams::TRANSPORTS,
    dialog::PreparedSignIns,
    exchanges::CodeExchanges,
    half_close::HalfClose,
    quota::CreationQuota,
    request_head::{MAX_FIELDS, MAX_HEAD},
    router::{Optional, metrics_router, openapi, router},
    state::{App, AppState},
};

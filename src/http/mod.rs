//! The HTTP surface: one folder a caller.
//!
//! [`addons`] serves the add-in, [`dialog`] the browser, [`oauth`] APIs and OAuth clients, [`meet`]
//! the Meet add-in, [`operator`] whoever runs the relay, [`docs`] whoever reads about it.

pub mod addons;
pub mod assets;
mod cookies;
pub mod dialog;
pub mod docs;
pub mod error;
pub mod extract;
pub mod guesses;
mod head;
pub mod meet;
mod methods;
pub mod middleware;
pub mod oauth;
pub mod operator;
pub mod pages;
mod quota;
mod responses;
mod router;
mod sending_ended;
mod state;
mod tags;

pub use self::{
    head::{MAX_FIELDS, MAX_HEAD},
    operator::metrics::Transport,
    quota::CreationQuota,
    router::{Optional, metrics_router, openapi, router},
    sending_ended::SendingEnded,
    state::{App, AppState},
};

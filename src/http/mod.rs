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
pub mod meet;
pub mod middleware;
pub mod oauth;
pub mod operator;
mod router;
mod state;

pub use self::{
    operator::metrics::Transport,
    router::{metrics_router, router},
    state::{App, AppState},
};

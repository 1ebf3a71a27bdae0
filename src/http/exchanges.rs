//! Exchanges of authorization codes under way, by `state`. Each is detached from the request that
//! began it and shared by all requests with the same `state`: a browser may cancel a request and
//! repeat it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use crate::{
    http::pages::ErrorPage,
    session::{Digest, Identity},
};

/// How long the result of an exchange is remembered for a reloaded callback.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The result of exchanging a code.
#[derive(Clone)]
pub enum CodeExchange {
    /// The person is known.
    Identity(Arc<Identity>),
    /// The sign-in failed; the page and the reference under which the log has the cause.
    Failed(ErrorPage, String),
    /// Another instance exchanged the code.
    Elsewhere,
    /// The store is unavailable.
    Unavailable,
}

/// An exchange that several requests wait for.
type Shareable = Shared<BoxFuture<'static, CodeExchange>>;

/// The exchanges of one surface.
#[derive(Default)]
pub struct CodeExchanges(Arc<Mutex<HashMap<Digest, Shareable>>>);

impl CodeExchanges {
    /// The exchange for `state`: the one under way or just ended, else that which `begin` makes.
    pub(crate) fn share<F>(&self, state: &str, begin: impl FnOnce() -> F) -> Shareable
    where
        F: Future<Output = CodeExchange> + Send + 'static,
    {
        let key = Digest::of(state.as_bytes());
        let mut exchanges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchange) = exchanges.get(&key) {
            return exchange.clone();
        }
        let (exchange, all) = (begin(), Arc::clone(&self.0));
        let task = tokio::spawn(async move {
            let result = exchange.await;
            tokio::spawn(async move {
                tokio::time::sleep(REMEMBERED).await;
                all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            });
            result
        });
        let exchange =
            task.map(|ended| ended.unwrap_or(CodeExchange::Unavailable)).boxed().shared();
        exchanges.insert(key, exchange.clone());
        exchange
    }
}

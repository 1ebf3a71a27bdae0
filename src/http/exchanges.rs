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

use crate::session::Digest;

/// How long the result of an exchange is remembered for a reloaded callback.
const REMEMBERED: Duration = Duration::from_secs(60);

/// An exchange that several requests wait for.
type Exchange<T> = Shared<BoxFuture<'static, T>>;

/// The exchanges of one surface; `T` is the result of one.
pub struct CodeExchanges<T>(Arc<Mutex<HashMap<Digest, Exchange<T>>>>);

impl<T> Default for CodeExchanges<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> CodeExchanges<T> {
    /// The exchange for `state`: the one under way or just ended, else that which `begin` makes.
    /// `aborted` is the result of one that panics.
    pub(crate) fn share<F>(&self, state: &str, aborted: T, begin: impl FnOnce() -> F) -> Exchange<T>
    where
        F: Future<Output = T> + Send + 'static,
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
        let exchange = task.map(|ended| ended.unwrap_or(aborted)).boxed().shared();
        exchanges.insert(key, exchange.clone());
        exchange
    }
}

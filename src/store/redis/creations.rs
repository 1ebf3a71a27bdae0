//! Creates sessions, those of the same tick by one command.
//!
//! The library writes each script by itself, so that under load every session would cost a write here
//! and the start of a script at the server. While others are under way, a creation therefore waits
//! until the tasks that are ready have run, and goes together with those that have come until then,
//! unless each has to be [`Apart`].

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::store::{
    StoreError,
    redis::{apart::Apart, runner::Runner, script::SCRIPTS},
};

/// Maximum number of sessions that one command creates; meanwhile the server does nothing else.
const TOGETHER: usize = 32;

type Created = Result<(), StoreError>;

/// A session that waits to be created: its key and the script's arguments.
struct Waiting {
    name: String,
    arguments: Vec<Value>,
    created: oneshot::Sender<Created>,
}

/// Creates sessions.
pub(super) struct Creations {
    shared: Arc<Shared>,
    under_way: AtomicUsize,
}

struct Shared {
    runner: Runner,
    apart: Apart,
    waiting: Mutex<Vec<Waiting>>,
}

/// Counts a creation until it is answered or given up.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Creations {
    pub(super) fn new(runner: Runner, apart: Apart) -> Self {
        let shared = Shared { runner, apart, waiting: Mutex::default() };
        Self { shared: Arc::new(shared), under_way: AtomicUsize::new(0) }
    }

    /// Creates a session.
    ///
    /// # Errors
    /// As the script's, which those that go together share.
    pub(super) async fn create(&self, name: String, arguments: Vec<Value>) -> Created {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = UnderWay(&self.under_way);
        if others == 0 || self.shared.apart.is_set() {
            return self.shared.run(&[&name], &[&arguments]).await;
        }
        let (created, answer) = oneshot::channel();
        let first = {
            let mut waiting = self.shared.waiting();
            waiting.push(Waiting { name, arguments, created });
            waiting.len() == 1
        };
        if first {
            // A task of its own: the others must not end with the request that came first.
            tokio::spawn(Arc::clone(&self.shared).create_together());
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("shutting down".to_owned())))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates what waits when the tasks that are ready have run.
    async fn create_together(self: Arc<Self>) {
        tokio::task::yield_now().await;
        let mut waiting = mem::take(&mut *self.waiting());
        waiting.retain(|one| !one.created.is_closed());
        let mut groups = Vec::new();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(TOGETHER));
            groups.push(self.create_group(mem::replace(&mut waiting, rest)));
        }
        join_all(groups).await;
    }

    async fn create_group(&self, group: Vec<Waiting>) {
        let (names, arguments): (Vec<&str>, Vec<&[Value]>) =
            group.iter().map(|one| (one.name.as_str(), one.arguments.as_slice())).unzip();
        let created = self.run(&names, &arguments).await;
        if created.as_ref().is_err_and(|error| self.apart.is_demanded_by(error)) && group.len() > 1
        {
            let each = group.into_iter().map(|one| async move {
                let _ = one.created.send(self.run(&[&one.name], &[&one.arguments]).await);
            });
            join_all(each).await;
            return;
        }
        for one in group {
            // Where nobody waits any more, the session expires unused.
            let _ = one.created.send(created.clone());
        }
    }

    async fn run(&self, names: &[&str], arguments: &[&[Value]]) -> Created {
        let reply = self.runner.run_on_all(&SCRIPTS.create, names, arguments).await?;
        match reply.word() {
            b"created" => Ok(()),
            _ => Err(reply.unexpected()),
        }
    }
}

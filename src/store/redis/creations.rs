//! Creates sessions, those of the same tick by one command.
//!
//! The library writes each script by itself, so that under load every session would cost a write here
//! and the start of a script at the server. While others are under way, a creation therefore waits
//! until the tasks that are ready have run, and goes together with those that have come until then.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use fred::types::Value;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::store::{
    StoreError,
    redis::{runner::Runner, script::SCRIPTS},
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
    runner: Runner,
    /// In a cluster the keys of two sessions are rarely on one server.
    cluster: bool,
    under_way: AtomicUsize,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

/// Counts a creation until it is answered or given up.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Creations {
    pub(super) fn new(runner: Runner, cluster: bool) -> Self {
        Self { runner, cluster, under_way: AtomicUsize::new(0), waiting: Arc::default() }
    }

    /// Creates a session.
    ///
    /// # Errors
    /// As the script's, which those that go together share.
    pub(super) async fn create(&self, name: String, arguments: Vec<Value>) -> Created {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = UnderWay(&self.under_way);
        if others == 0 || self.cluster {
            return run(&self.runner, &[&name], arguments).await;
        }
        let (created, answer) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Waiting { name, arguments, created });
            waiting.len() == 1
        };
        if first {
            // A task of its own: the others must not end with the request that came first.
            tokio::spawn(create_together(self.runner.clone(), Arc::clone(&self.waiting)));
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("shutting down".to_owned())))
    }
}

/// Creates what waits when the tasks that are ready have run.
async fn create_together(runner: Runner, waiting: Arc<Mutex<Vec<Waiting>>>) {
    tokio::task::yield_now().await;
    let mut waiting = mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
    waiting.retain(|one| !one.created.is_closed());
    let mut groups = Vec::new();
    while !waiting.is_empty() {
        let rest = waiting.split_off(waiting.len().min(TOGETHER));
        groups.push(create_group(&runner, mem::replace(&mut waiting, rest)));
    }
    join_all(groups).await;
}

async fn create_group(runner: &Runner, mut group: Vec<Waiting>) {
    let arguments = group.iter_mut().flat_map(|one| mem::take(&mut one.arguments)).collect();
    let names: Vec<&str> = group.iter().map(|one| one.name.as_str()).collect();
    let created = run(runner, &names, arguments).await;
    for one in group {
        // Where nobody waits any more, the session expires unused.
        let _ = one.created.send(created.clone());
    }
}

async fn run(runner: &Runner, names: &[&str], arguments: Vec<Value>) -> Created {
    let reply = runner.run_on_all(&SCRIPTS.create, names, arguments).await?;
    match reply.word() {
        b"created" => Ok(()),
        _ => Err(reply.unexpected()),
    }
}

//! Runs scripts by the connection for commands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fred::{
    bytes_utils::Str,
    clients::{Client, WithOptions},
    error::Error,
    interfaces::{ClientLike, KeysInterface},
    types::{ClusterHash, CustomCommand, Value, scripts::Script},
    util::redis_keyslot,
};
use futures_util::{FutureExt as _, future};
use tokio::time::Instant;

use crate::store::{
    StoreError,
    redis::{
        error::{is_unknown_script, is_unread_flag, reason, store_error},
        reply::Reply,
        script::Transition,
    },
};

/// What all attempts at a command may take together, beyond the limit of one.
const ATTEMPTS_GRACE: Duration = Duration::from_millis(50);

/// Runs scripts.
#[derive(Clone)]
pub(super) struct Runner {
    client: WithOptions<Client>,
    timeout: Duration,
    /// Whether the server was found not to read the flags of scripts; found out anew with each
    /// connection.
    plain_scripts: Arc<AtomicBool>,
}

impl Runner {
    pub(super) fn new(
        client: WithOptions<Client>,
        timeout: Duration,
        plain_scripts: Arc<AtomicBool>,
    ) -> Self {
        Self { client, timeout, plain_scripts }
    }

    /// Runs a script on one key.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or does not answer in time.
    pub(super) async fn run(
        &self,
        script: &Transition,
        name: &str,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        self.run_on_all(script, &[name], &[&arguments]).await
    }

    /// Runs a script on one key whose message somebody waits for more than for its answer.
    ///
    /// A server writes first to whom it had something to write for last: without more that is who
    /// sent the script. One that has a short answer to get already, in the same packet, comes after those
    /// that the script publishes to, and gets both at once.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn run_answered_last(
        &self,
        script: &Transition,
        name: &str,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        // A command that the library does not send by itself when another one follows.
        let earlier = self.client.exists::<i64, _>(name).boxed();
        let run = self.run(script, name, arguments);
        // In this order. What the first answers, or that it fails, is of no interest.
        future::join(earlier, run).await.1
    }

    /// Runs a script on several keys, with the arguments of each; a cluster's have to be in one slot.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn run_on_all(
        &self,
        script: &Transition,
        names: &[&str],
        arguments: &[&[Value]],
    ) -> Result<Reply, StoreError> {
        let began = Instant::now();
        let usual = self.usual(script);
        let answered = match self.evaluate("EVALSHA", usual.sha1(), names, arguments).await {
            Err(error) if is_unknown_script(&error) => {
                // The library limits each attempt and cancels a command properly, so this limit, for all
                // attempts together, must not fire first.
                let rest = self.in_full(script, names, arguments);
                tokio::time::timeout_at(began + self.timeout + ATTEMPTS_GRACE, rest)
                    .await
                    .map_err(|_| StoreError::Unavailable("no answer in time".to_owned()))?
            }
            other => other,
        };
        answered.map(Reply::new).map_err(|error| self.failed(&error))
    }

    /// The form of a script that this server reads, as far as that is known.
    fn usual<'a>(&self, script: &'a Transition) -> &'a Script {
        if self.plain_scripts.load(Ordering::Relaxed) { &script.plain } else { &script.flagged }
    }

    /// Sends a script in full, without its flags where the server does not read them.
    async fn in_full(
        &self,
        script: &Transition,
        names: &[&str],
        arguments: &[&[Value]],
    ) -> Result<Vec<Bytes>, Error> {
        let text = |script: &Script| script.lua().cloned().unwrap_or_default();
        match self.evaluate("EVAL", &text(self.usual(script)), names, arguments).await {
            Err(error) if is_unread_flag(&error) => {
                if !self.plain_scripts.swap(true, Ordering::Relaxed) {
                    tracing::info!("Redis is older than version 7: scripts without flags");
                }
                self.evaluate("EVAL", &text(&script.plain), names, arguments).await
            }
            other => other,
        }
    }

    /// `EVAL` or `EVALSHA`. The library's own methods for these ignore the client's options: they
    /// would repeat a script whose answer was lost.
    async fn evaluate(
        &self,
        command: &'static str,
        script: &Str,
        names: &[&str],
        arguments: &[&[Value]],
    ) -> Result<Vec<Bytes>, Error> {
        let slot = redis_keyslot(names.first().copied().unwrap_or_default().as_bytes());
        let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
        let values = arguments.iter().map(|of_key| of_key.len()).sum::<usize>();
        let mut all = Vec::with_capacity(names.len() + values + 2);
        all.extend([Value::from(script.clone()), Value::Integer(count)]);
        all.extend(names.iter().copied().map(Value::from));
        arguments.iter().for_each(|of_key| all.extend_from_slice(of_key));
        let command = CustomCommand::new_static(command, ClusterHash::Custom(slot), false);
        // The library's future is large, and would be copied at every step up to the request that
        // waits for it.
        self.client.custom(command, all).boxed().await
    }

    /// Converts the library's error.
    pub(super) fn failed(&self, error: &Error) -> StoreError {
        if reason(error).starts_with("READONLY") {
            // The server became a replica and kept the connection: find the new primary.
            let client = self.client.clone();
            tokio::spawn(async move { client.force_reconnection().await });
        }
        store_error(error)
    }
}

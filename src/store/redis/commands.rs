//! Sends commands, those of the same tick together.
//!
//! The library's task writes what is queued when it runs, and the runtime runs it right after the task
//! that queued a command: under load each command would be one write here and one read at the server.
//! While others are in flight, a command therefore waits until the tasks that are ready have run.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::{CustomCommand, Value};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// Maximum number of commands sent together.
const BATCH: usize = 256;

type Answer = Result<Vec<Bytes>, Error>;

/// A command that waits to be sent.
struct Queued {
    command: CustomCommand,
    arguments: Vec<Value>,
    answer: oneshot::Sender<Answer>,
}

/// The connection for commands.
pub(crate) struct Commands {
    client: WithOptions<Client>,
    in_flight: AtomicUsize,
    queue: mpsc::UnboundedSender<Queued>,
    _task: AbortOnDropHandle<()>,
}

/// Counts a command until it is answered or given up.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Commands {
    /// Sends by `client`, with its options.
    pub(crate) fn new(client: WithOptions<Client>) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let task = AbortOnDropHandle::new(tokio::spawn(send(client.clone(), queued)));
        Self { client, in_flight: AtomicUsize::new(0), queue, _task: task }
    }

    /// Sends a command.
    ///
    /// # Errors
    /// As the client's.
    pub(crate) async fn send(&self, command: CustomCommand, arguments: Vec<Value>) -> Answer {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _counted = InFlight(&self.in_flight);
        if others == 0 {
            return custom(&self.client, command, arguments).await;
        }
        let (answer, answered) = oneshot::channel();
        let stopped = || Error::new(ErrorKind::Canceled, "shutting down");
        self.queue.send(Queued { command, arguments, answer }).map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The library's future is large, and would be copied at every step up to the request that waits for it.
fn custom(
    client: &WithOptions<Client>,
    command: CustomCommand,
    arguments: Vec<Value>,
) -> BoxFuture<'_, Answer> {
    client.custom(command, arguments).boxed()
}

/// Sends what is queued, and passes the answers on.
async fn send(client: WithOptions<Client>, mut queue: mpsc::UnboundedReceiver<Queued>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next() => {}
            count = queue.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                tokio::task::yield_now().await;
                while batch.len() < BATCH && let Ok(queued) = queue.try_recv() {
                    batch.push(queued);
                }
                for Queued { command, arguments, answer } in batch.drain(..) {
                    let client = &client;
                    in_flight.push(async move {
                        let _ = answer.send(custom(client, command, arguments).await);
                    });
                }
            }
        }
    }
}

//! Subscriptions to changes: one connection per instance (in a cluster one to each primary), one
//! channel for each session that somebody on this instance waits for.
//!
//! Callers count in [`Local`]; a single task makes the server agree with the counts, so that the
//! commands for one channel never overtake each other. The task compares with what is wanted now.
//! Nobody waits for the end of a subscription, so that many are ended by one command.
//!
//! `fred` answers `SUBSCRIBE` as soon as it is written, hence the `PING` after each batch: its
//! answer follows those of the batch. An error it matches to another command or to none, hence the
//! message that [`Task::probe`] waits for on each new connection. It answers `SSUBSCRIBE` when the
//! server confirms, but takes one channel per command; there many commands are in flight instead. It
//! does not report that a slot moved (the server then drops the subscription), hence the regular
//! check of the slot map.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, ClusterInterface, EventInterface, PubsubInterface};
use fred::types::config::{Options, Server};
use fred::types::{Message, Value};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    session::{SealedPayload, SessionKey, SubscriptionId},
    store::{
        Fulfilled, Notifier, StoreError,
        redis::{connection::Plan, error::store_error, keep_connected, names::Names},
    },
};

/// Maximum number of channels in one command, and of requests handled together.
const BATCH: usize = 512;

/// Maximum number of `SSUBSCRIBE` commands in flight.
const IN_FLIGHT: usize = 256;

/// Time for which ends of subscriptions are gathered.
const ENDS_TOGETHER: Duration = Duration::from_millis(4);

/// Interval between two checks of the slot map: the maximum time until a moved slot is noticed.
const MAP_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between two pings on a connection that may receive nothing for hours.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Pause between two messages that try whether subscriptions receive.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// Pause before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// The same after the server refused to subscribe, which takes somebody to change.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The callers' side.
pub(crate) struct Subscriber {
    local: Arc<Local>,
    requests: mpsc::UnboundedSender<Request>,
    connected: watch::Receiver<bool>,
    /// Why there is no connection.
    failure: watch::Receiver<Option<String>>,
    commands: Client,
    timeout: Duration,
    _task: AbortOnDropHandle<()>,
}

/// The channels wanted on this instance.
#[derive(Default)]
struct Local {
    channels: Mutex<Channels>,
    /// Whether every channel is subscribed; false from a lost connection until all are again.
    complete: AtomicBool,
}

#[derive(Default)]
struct Channels {
    wanted: HashMap<SessionKey, Channel>,
    /// What the server may still send messages of, though nobody wants them.
    left: Vec<SessionKey>,
}

struct Channel {
    /// Number of callers that subscribed.
    subscribers: usize,
    /// Whether the server confirmed the subscription on the current connection.
    confirmed: bool,
}

enum Request {
    /// A caller subscribed and waits for the confirmation.
    Subscribe { key: SessionKey, answer: oneshot::Sender<Result<(), StoreError>> },
    /// There are channels that nobody wants any more.
    End,
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, Channels> {
        // Nothing panics while holding it, and the counts stay right in any case.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes one subscriber; true when the first channel is left that nobody wants any more.
    fn leave(&self, key: SessionKey) -> bool {
        let mut channels = self.lock();
        let Some(channel) = channels.wanted.get_mut(&key) else { return false };
        channel.subscribers -= 1;
        if channel.subscribers > 0 {
            return false;
        }
        channels.wanted.remove(&key);
        channels.left.push(key);
        channels.left.len() == 1
    }

    /// Takes the channels that were left and are not wanted again.
    fn take_left(&self) -> HashSet<SessionKey> {
        let mut channels = self.lock();
        let mut left: HashSet<_> = std::mem::take(&mut channels.left).into_iter().collect();
        left.retain(|key| !channels.wanted.contains_key(key));
        left
    }
}

/// Reverts the count when a caller gives up before its subscription is confirmed.
struct Undo<'a> {
    subscriber: &'a Subscriber,
    key: SessionKey,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.subscriber.unsubscribe(self.key);
        }
    }
}

impl Subscriber {
    pub(crate) fn start(
        plan: Plan,
        commands: Client,
        names: Names,
        notifier: Arc<dyn Notifier>,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        let local = Arc::new(Local::default());
        let (requests, incoming) = mpsc::unbounded_channel();
        let (connected_sender, connected) = watch::channel(false);
        let (failure_sender, failure) = watch::channel(None);
        let connection = Connection::open(&plan, &names, &notifier)?;
        let task = Task {
            cluster: plan.is_cluster(),
            plan,
            commands: commands.clone(),
            names,
            notifier,
            timeout,
            local: Arc::clone(&local),
            incoming,
            connected: connected_sender,
            connection,
            slot_map: None,
            failure: failure_sender,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        Ok(Self { local, requests, connected, failure, commands, timeout, _task: task })
    }

    /// Returns once the first connection is established.
    pub(crate) async fn first_connection(&self) {
        // An error means that the task has ended, and then there is nothing to wait for.
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }

    /// Returns once the first attempt to connect has failed.
    pub(crate) async fn first_failure(&self) {
        let _ = self.failure.clone().wait_for(Option::is_some).await;
    }

    /// Why there is no connection, as far as that is known.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.local.complete.load(Ordering::Acquire) {
            return Ok(());
        }
        let unknown = || "subscriptions are not re-established yet".to_owned();
        Err(StoreError::Unavailable(self.failure().unwrap_or_else(unknown)))
    }

    /// On an error the caller is not counted and need not unsubscribe.
    pub(crate) async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        // While Redis is unreachable a caller fails at once; while only the subscriptions are being
        // re-established, the request below waits its turn.
        if !self.commands.is_connected() {
            return Err(StoreError::Unavailable("not connected".to_owned()));
        }
        let confirmed = {
            let mut channels = self.local.lock();
            let channel =
                channels.wanted.entry(key).or_insert(Channel { subscribers: 0, confirmed: false });
            channel.subscribers += 1;
            channel.confirmed
        };
        let mut undo = Undo { subscriber: self, key, armed: true };
        if !confirmed {
            let (answer, answered) = oneshot::channel();
            let _ = self.requests.send(Request::Subscribe { key, answer });
            match tokio::time::timeout(self.timeout, answered).await {
                Ok(Ok(result)) => result?,
                Ok(Err(_)) => return Err(StoreError::Unavailable("shutting down".to_owned())),
                Err(_) => {
                    return Err(StoreError::Unavailable("no subscription in time".to_owned()));
                }
            }
        }
        undo.armed = false;
        Ok(())
    }

    pub(crate) fn unsubscribe(&self, key: SessionKey) {
        if self.local.leave(key) {
            let _ = self.requests.send(Request::End);
        }
    }
}

/// One client of the library with the tasks that drive it. Replaced as a whole after an error: the
/// library cannot match an error to a subscription, which would shift all later answers.
struct Connection {
    client: SubscriberClient,
    reconnects: Receiver<Server>,
    /// Also reports failed attempts to connect; those name no server.
    errors: Receiver<(Error, Option<Server>)>,
    /// Reports that messages were lost within this process.
    lagged: mpsc::Receiver<()>,
    /// Notified of each message on the channel of the health check.
    probed: Arc<Notify>,
    _driver: AbortOnDropHandle<()>,
    _messages: AbortOnDropHandle<()>,
}

impl Connection {
    fn open(plan: &Plan, names: &Names, notifier: &Arc<dyn Notifier>) -> Result<Self, StoreError> {
        let client = plan.subscriber()?;
        // Before connecting, so that the first event is not missed.
        let (reconnects, errors) = (client.reconnect_rx(), client.error_rx());
        let (lag, lagged) = mpsc::channel(1);
        let probed = Arc::new(Notify::new());
        let messages = tokio::spawn(forward(
            client.message_rx(),
            names.clone(),
            Arc::clone(notifier),
            Arc::clone(&probed),
            lag,
        ));
        let driver = tokio::spawn(keep_connected(client.to_client()));
        Ok(Self {
            client,
            reconnects,
            errors,
            lagged,
            probed,
            _driver: AbortOnDropHandle::new(driver),
            _messages: AbortOnDropHandle::new(messages),
        })
    }
}

/// Reads the message of a fulfilment: `p`, the subscription, a colon, the payload.
fn fulfilled(message: &Bytes) -> Option<Fulfilled> {
    let rest = message.strip_prefix(b"p")?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let subscription = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    // The prefix letter and the colon.
    let payload = SealedPayload(message.slice(colon + 2..));
    Some(Fulfilled { subscription: SubscriptionId::from_u64(subscription), payload })
}

/// Forwards each message to the notifier.
async fn forward(
    mut messages: Receiver<Message>,
    names: Names,
    notifier: Arc<dyn Notifier>,
    probed: Arc<Notify>,
    lag: mpsc::Sender<()>,
) {
    loop {
        match messages.recv().await {
            Ok(message) => {
                let Some(key) = names.session_of(&message.channel) else {
                    probed.notify_waiters();
                    continue;
                };
                let payload = match message.value {
                    Value::Bytes(bytes) => bytes,
                    Value::String(text) => text.into_inner(),
                    _ => continue,
                };
                notifier.changed(key, fulfilled(&payload));
            }
            Err(RecvError::Lagged(_)) => {
                // A full queue means that it has been reported already.
                let _ = lag.try_send(());
            }
            Err(RecvError::Closed) => return,
        }
    }
}

struct Task {
    plan: Plan,
    /// Publishes the messages of [`Self::probe`].
    commands: Client,
    cluster: bool,
    names: Names,
    notifier: Arc<dyn Notifier>,
    timeout: Duration,
    local: Arc<Local>,
    incoming: mpsc::UnboundedReceiver<Request>,
    connected: watch::Sender<bool>,
    connection: Connection,
    /// The slot map just before everything was subscribed.
    slot_map: Option<Vec<Slots>>,
    /// Why no connection could be made, as it was logged last.
    failure: watch::Sender<Option<String>>,
}

impl Task {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut map_check = tokio::time::interval(MAP_INTERVAL);
        map_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end_at = None;
        loop {
            let ends = async {
                match end_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.connection.reconnects.recv() => match event {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        if *self.connected.borrow() {
                            self.notifier.reconnected();
                        }
                        self.resubscribe().await;
                    }
                    Err(RecvError::Closed) => self.replace("closed".to_owned()).await,
                },
                event = self.connection.errors.recv() => match event {
                    // A connection was lost. This waits for the next one, or, when that is slow,
                    // leaves the rest to its event. Resubscribing once too often does no harm.
                    Ok((_, Some(_))) | Err(RecvError::Lagged(_)) => self.resubscribe().await,
                    Ok((error, None)) => self.report(&error),
                    Err(RecvError::Closed) => self.replace("closed".to_owned()).await,
                },
                Some(()) = self.connection.lagged.recv() => {
                    tracing::warn!("bus messages overflowed; every subscription reads again");
                    self.notifier.resync();
                }
                _ = heartbeat.tick() => {
                    if let Err(error) = self.ping().await {
                        self.replace(error.details().to_owned()).await;
                    }
                }
                _ = map_check.tick(), if self.cluster && self.local.complete.load(Ordering::Acquire) => {
                    // Without an answer there will be an event or the next check.
                    if let Some(found) = self.fetch_slot_map().await
                        && self.slot_map.as_ref() != Some(&found)
                    {
                        self.replace("slots moved".to_owned()).await;
                    }
                }
                count = self.incoming.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    let is_end = |request: &Request| matches!(request, Request::End);
                    if batch.iter().any(is_end) {
                        end_at = Some(Instant::now() + ENDS_TOGETHER);
                    }
                    self.reconcile(&mut batch).await;
                }
                () = ends => {
                    end_at = None;
                    let left: Vec<_> = self.local.take_left().into_iter().collect();
                    let ended = self.unsubscribe(&left).await;
                    self.replace_after(ended).await;
                }
            }
        }
    }

    /// Logs why an attempt to connect failed, once for each reason.
    fn report(&self, error: &Error) {
        let mut reason = match store_error(error) {
            StoreError::Unavailable(reason) | StoreError::Corrupt(reason) => reason,
        };
        // A server that was reached before has not changed its mind about TLS.
        if !*self.connected.borrow()
            && let Some(remedy) = self.plan.tls_remedy(error)
        {
            reason = format!("{reason} ({remedy})");
        }
        if self.failure.borrow().as_ref() != Some(&reason) {
            tracing::warn!(reason, "Redis cannot be reached or refuses");
            self.failure.send_replace(Some(reason));
        }
    }

    /// Subscribes to what is wanted now of the sessions in `batch`.
    async fn reconcile(&mut self, batch: &mut Vec<Request>) {
        let mut wanted = HashSet::new();
        {
            let channels = self.local.lock();
            for request in batch.iter() {
                if let Request::Subscribe { key, .. } = request
                    && channels.wanted.get(key).is_some_and(|channel| !channel.confirmed)
                {
                    wanted.insert(*key);
                }
            }
        }
        let keys: Vec<_> = wanted.iter().copied().collect();
        let result = if keys.is_empty() { Ok(()) } else { self.subscribe(&keys).await };
        let answer = result.as_ref().copied().map_err(store_error);
        for request in batch.drain(..) {
            if let Request::Subscribe { key, answer: sender } = request {
                // A channel that was confirmed already does not depend on this attempt.
                let own = if wanted.contains(&key) { repeat(&answer) } else { Ok(()) };
                let _ = sender.send(own);
            }
        }
        self.replace_after(result).await;
    }

    /// Opens a new connection if the server refused a command on this one.
    async fn replace_after(&mut self, result: Result<(), Error>) {
        if let Err(error) = result
            && self.connection.client.is_connected()
        {
            self.replace(error.details().to_owned()).await;
        }
    }

    /// Receives a message on the channel of the health check, so that a missing right shows before
    /// a session needs it.
    async fn probe(&self) -> Result<(), Error> {
        let (client, name) = (&self.connection.client, self.names.probe_channel());
        if self.cluster {
            client.ssubscribe(name.clone()).await?;
        } else {
            client.subscribe(name.clone()).await?;
        }
        let mut refused = None;
        // From now on: a message of an earlier probe shows nothing.
        let mut message = std::pin::pin!(self.connection.probed.notified());
        let received = async {
            // The subscription may come into force after the first message, and the connection that
            // publishes may be established after this one.
            loop {
                if let Err(error) = self.publish_probe(name.clone()).await {
                    refused = Some(error);
                }
                if tokio::time::timeout(PROBE_PAUSE, message.as_mut()).await.is_ok() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.timeout, received).await.is_err() {
            let silent = || {
                let reason = "a subscription received nothing; is SUBSCRIBE or SSUBSCRIBE allowed?";
                Error::new(ErrorKind::Unknown, reason)
            };
            return Err(refused.unwrap_or_else(silent));
        }
        if self.cluster { client.sunsubscribe(name).await } else { client.unsubscribe(name).await }
    }

    async fn publish_probe(&self, name: String) -> Result<(), Error> {
        let options =
            Options { timeout: Some(self.timeout), fail_fast: true, ..Options::default() };
        let client = self.commands.with_options(&options);
        let _: Value = match self.cluster {
            true => client.spublish(name, "").await?,
            false => client.publish(name, "").await?,
        };
        Ok(())
    }

    /// Subscribes and marks the channels as confirmed.
    async fn subscribe(&self, keys: &[SessionKey]) -> Result<(), Error> {
        if self.cluster {
            self.each(keys, |client, name| async move { client.ssubscribe(name).await }).await?;
        } else {
            let client = &self.connection.client;
            for names in self.channels(keys).chunks(BATCH) {
                client.subscribe(names.to_vec()).await?;
            }
            let _: Value = client.ping(None).await?;
        }
        let mut channels = self.local.lock();
        for key in keys {
            if let Some(channel) = channels.wanted.get_mut(key) {
                channel.confirmed = true;
            }
        }
        Ok(())
    }

    async fn unsubscribe(&self, keys: &[SessionKey]) -> Result<(), Error> {
        if self.cluster {
            self.each(keys, |client, name| async move { client.sunsubscribe(name).await }).await
        } else {
            for names in self.channels(keys).chunks(BATCH) {
                self.connection.client.unsubscribe(names.to_vec()).await?;
            }
            Ok(())
        }
    }

    /// One command for each channel, many in flight: in a cluster each may go to another node.
    async fn each<Answer>(
        &self,
        keys: &[SessionKey],
        command: impl Fn(SubscriberClient, String) -> Answer,
    ) -> Result<(), Error>
    where
        Answer: Future<Output = Result<(), Error>>,
    {
        stream::iter(self.channels(keys))
            .map(|name| command(self.connection.client.clone(), name))
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    fn channels(&self, keys: &[SessionKey]) -> Vec<String> {
        keys.iter().map(|key| self.names.channel(*key)).collect()
    }

    /// Subscribes to everything on a new connection, then makes every subscription read again.
    async fn resubscribe(&mut self) {
        self.local.complete.store(false, Ordering::Release);
        loop {
            let attempt = async {
                // Answered only once the connection is complete.
                let _: Value = self.connection.client.ping(None).await?;
                // Further events from the same connecting (a cluster has one for each primary)
                // are covered by what follows.
                while self.connection.reconnects.try_recv().is_ok() {}
                while self.connection.errors.try_recv().is_ok() {}
                if self.cluster {
                    self.slot_map = self.fetch_slot_map().await;
                }
                let keys: Vec<SessionKey> = {
                    let mut channels = self.local.lock();
                    channels.wanted.values_mut().for_each(|channel| channel.confirmed = false);
                    channels.wanted.keys().copied().collect()
                };
                self.probe().await?;
                self.subscribe(&keys).await
            };
            match attempt.await {
                Ok(()) => break,
                Err(error) if self.connection.client.is_connected() => {
                    self.report(&error);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    if self.reopen().is_err() {
                        return;
                    }
                    if !self.wait_for_connection().await {
                        return;
                    }
                }
                // The next event comes with the next connection.
                Err(_) => return,
            }
        }
        self.failure.send_replace(None);
        self.local.complete.store(true, Ordering::Release);
        self.connected.send_replace(true);
        self.notifier.resync();
    }

    /// Waits for a connection just opened; false when it takes longer than the timeout and its
    /// event has to be awaited.
    async fn wait_for_connection(&mut self) -> bool {
        let client = self.connection.client.clone();
        tokio::time::timeout(self.timeout, client.wait_for_connect()).await.is_ok()
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.connection = Connection::open(&self.plan, &self.names, &self.notifier)?;
        Ok(())
    }

    /// Opens a new connection; its first event re-establishes the subscriptions.
    async fn replace(&mut self, reason: String) {
        tracing::warn!(reason, "replacing the connection for subscriptions");
        self.local.complete.store(false, Ordering::Release);
        while let Err(error) = self.reopen() {
            tracing::error!(%error, "cannot create a client for subscriptions");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Pings each connected server.
    async fn ping(&self) -> Result<(), Error> {
        let client = &self.connection.client;
        if !client.is_connected() {
            // It is reconnecting already.
            return Ok(());
        }
        for server in client.active_connections() {
            let options = Options {
                cluster_node: self.cluster.then_some(server),
                timeout: Some(self.timeout),
                ..Options::default()
            };
            let _: Value = client.with_options(&options).ping(None).await?;
        }
        Ok(())
    }

    /// Which primary serves which slots.
    async fn fetch_slot_map(&self) -> Option<Vec<Slots>> {
        let options =
            Options { timeout: Some(self.timeout), fail_fast: true, ..Options::default() };
        let client = self.connection.client.with_options(&options);
        let answer: Value = client.cluster_slots().await.ok()?;
        let Value::Array(ranges) = answer else { return None };
        let mut map: Vec<Slots> = ranges.into_iter().filter_map(slots).collect();
        map.sort();
        Some(map)
    }
}

fn repeat(answer: &Result<(), StoreError>) -> Result<(), StoreError> {
    match answer {
        Ok(()) => Ok(()),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

/// First and last slot, host and port of their primary.
type Slots = (u64, u64, String, u64);

/// Reads one range of the answer to `CLUSTER SLOTS`.
fn slots(range: Value) -> Option<Slots> {
    let Value::Array(range) = range else { return None };
    let [first, last, Value::Array(primary), ..] = &range[..] else { return None };
    let [host, port, ..] = &primary[..] else { return None };
    Some((first.as_u64()?, last.as_u64()?, host.as_string()?, port.as_u64()?))
}

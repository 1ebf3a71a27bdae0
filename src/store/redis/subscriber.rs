//! Hears of changes: one connection an instance (in a cluster one to each primary), one channel
//! for each session that somebody here waits for.
//!
//! Called by the store alone. Callers count in [`Local`]; a single task then makes the server
//! agree with what is counted, so that the commands for one channel can never overtake each
//! other. The task looks at what is wanted now, not at what was asked for when: a session that was
//! left and entered again meanwhile costs nothing.
//!
//! `fred` answers `SUBSCRIBE` as soon as it is written, hence the `PING` behind each batch: its
//! answer follows those of the batch. `SSUBSCRIBE` it answers when the server confirms, but only
//! for one channel a command; there many commands travel at once instead. It does not report that
//! a slot moved (the server then drops the subscription and says so), hence the regular look at
//! the cluster's map.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, SubscriberClient};
use fred::error::Error;
use fred::interfaces::{ClientLike, ClusterInterface, EventInterface, PubsubInterface};
use fred::types::config::{Options, Server};
use fred::types::{Message, Value};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    session::{ReaderId, SealedPayload, SessionKey},
    store::{
        Fulfilled, Notifier, StoreError,
        redis::{Names, connection::Plan, keep_connected, store_error},
    },
};

/// Channels in one `SUBSCRIBE`, and requests taken up together.
const BATCH: usize = 512;

/// `SSUBSCRIBE` commands under way at once.
const IN_FLIGHT: usize = 256;

/// Between two looks at the cluster's map; the longest that a moved slot goes unnoticed.
const MAP_INTERVAL: Duration = Duration::from_secs(1);

/// Between two signs of life asked of a connection that may hear nothing for hours.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// The part that callers hold.
pub(crate) struct Subscriber {
    local: Arc<Local>,
    requests: mpsc::UnboundedSender<Request>,
    connected: watch::Receiver<bool>,
    commands: Client,
    timeout: Duration,
    _task: AbortOnDropHandle<()>,
}

/// What is wanted here.
#[derive(Default)]
struct Local {
    channels: Mutex<HashMap<SessionKey, Channel>>,
    /// Every channel stands; false from a lost connection until all are subscribed again.
    standing: AtomicBool,
}

struct Channel {
    registry: usize,
    /// The server confirmed, on the present connection as far as is known.
    confirmed: bool,
}

/// Somebody came (and waits to hear that the subscription stands) or the last one left.
struct Request {
    key: SessionKey,
    answer: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Local {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Channel>> {
        // Nothing panics while holding it; counts stay right in any case.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one less; true when it was the last.
    fn leave(&self, key: SessionKey) -> bool {
        let mut channels = self.lock();
        let Some(channel) = channels.get_mut(&key) else { return false };
        channel.registry -= 1;
        let last = channel.registry == 0;
        if last {
            channels.remove(&key);
        }
        last
    }
}

/// Takes the count back when a caller gives up before its subscription stood.
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
        let connection = Connection::open(&plan, &names, &notifier)?;
        let task = Task {
            cluster: plan.is_cluster(),
            plan,
            names,
            notifier,
            timeout,
            local: Arc::clone(&local),
            incoming,
            connected: connected_sender,
            connection,
            map: None,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        Ok(Self { local, requests, connected, commands, timeout, _task: task })
    }

    /// Returns when the first connection stands.
    pub(crate) async fn first_connection(&self) {
        // An error means that the task is gone, and then there is nothing to wait for.
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
    }

    pub(crate) fn standing(&self) -> Result<(), StoreError> {
        if self.local.standing.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Unavailable("subscriptions do not stand".to_owned()))
        }
    }

    /// On an error the caller is not counted and need not unsubscribe.
    pub(crate) async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        // While Redis is away a caller hears at once; while it is only the subscriptions that do
        // not stand yet, the request below waits its turn.
        if !self.commands.is_connected() {
            return Err(StoreError::Unavailable("not connected".to_owned()));
        }
        let confirmed = {
            let mut channels = self.local.lock();
            let channel = channels.entry(key).or_insert(Channel { registry: 0, confirmed: false });
            channel.registry += 1;
            channel.confirmed
        };
        let mut undo = Undo { subscriber: self, key, armed: true };
        if !confirmed {
            let (answer, answered) = oneshot::channel();
            let _ = self.requests.send(Request { key, answer: Some(answer) });
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
            let _ = self.requests.send(Request { key, answer: None });
        }
    }
}

/// One client of the library with the tasks that drive it. Replaced as a whole when it is not
/// trusted any more: an error that answers a subscription cannot be told apart by the library and
/// would shift all later answers.
struct Connection {
    client: SubscriberClient,
    reconnects: Receiver<Server>,
    /// Also tells of attempts to connect that failed; those name no server.
    errors: Receiver<(Error, Option<Server>)>,
    /// Says that messages were lost on their way through this process.
    lagged: mpsc::Receiver<()>,
    _driver: AbortOnDropHandle<()>,
    _messages: AbortOnDropHandle<()>,
}

impl Connection {
    fn open(plan: &Plan, names: &Names, notifier: &Arc<dyn Notifier>) -> Result<Self, StoreError> {
        let client = plan.subscriber()?;
        // Before connecting, so that the first event is not missed.
        let (reconnects, errors) = (client.reconnect_rx(), client.error_rx());
        let (lag, lagged) = mpsc::channel(1);
        let messages =
            tokio::spawn(hand_on(client.message_rx(), names.clone(), Arc::clone(notifier), lag));
        let driver = tokio::spawn(keep_connected(client.to_client()));
        Ok(Self {
            client,
            reconnects,
            errors,
            lagged,
            _driver: AbortOnDropHandle::new(driver),
            _messages: AbortOnDropHandle::new(messages),
        })
    }
}

/// What a message says of a fulfilment: `p`, the reader's number, a colon, the payload.
fn fulfilled(message: &Bytes) -> Option<Fulfilled> {
    let rest = message.strip_prefix(b"p")?;
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let reader = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    // The prefix letter and the colon.
    let payload = SealedPayload(message.slice(colon + 2..));
    Some(Fulfilled { reader: ReaderId::from_u64(reader), payload })
}

/// Gives each message to the notifier.
async fn hand_on(
    mut messages: Receiver<Message>,
    names: Names,
    notifier: Arc<dyn Notifier>,
    lag: mpsc::Sender<()>,
) {
    loop {
        match messages.recv().await {
            Ok(message) => {
                let Some(key) = names.session_of(&message.channel) else { continue };
                let payload = match message.value {
                    Value::Bytes(bytes) => bytes,
                    Value::String(text) => text.into_inner(),
                    _ => continue,
                };
                notifier.changed(key, fulfilled(&payload));
            }
            Err(RecvError::Lagged(_)) => {
                // Full means that it has been said already.
                let _ = lag.try_send(());
            }
            Err(RecvError::Closed) => return,
        }
    }
}

struct Task {
    plan: Plan,
    cluster: bool,
    names: Names,
    notifier: Arc<dyn Notifier>,
    timeout: Duration,
    local: Arc<Local>,
    incoming: mpsc::UnboundedReceiver<Request>,
    connected: watch::Sender<bool>,
    connection: Connection,
    /// The cluster's map as it was just before everything was subscribed.
    map: Option<Vec<Slots>>,
}

impl Task {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(MAP_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = self.connection.reconnects.recv() => match event {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        if *self.connected.borrow() {
                            self.notifier.reconnected();
                        }
                        self.stand_again().await;
                    }
                    Err(RecvError::Closed) => self.replace("closed".to_owned()).await,
                },
                event = self.connection.errors.recv() => match event {
                    // A connection was lost. This waits for the next one, or when that is slow
                    // leaves the rest to its event. If all is well already it is done once more.
                    Ok((_, Some(_))) | Err(RecvError::Lagged(_)) => self.stand_again().await,
                    Ok((_, None)) => {}
                    Err(RecvError::Closed) => self.replace("closed".to_owned()).await,
                },
                Some(()) = self.connection.lagged.recv() => {
                    tracing::warn!("messages came faster than they were taken; readers look again");
                    self.notifier.resync();
                }
                _ = heartbeat.tick() => {
                    if let Err(error) = self.alive().await {
                        self.replace(error.details().to_owned()).await;
                    }
                }
                _ = look.tick(), if self.cluster && self.local.standing.load(Ordering::Acquire) => {
                    // None: no answer, and then there will be an event or the next look.
                    if let Some(found) = self.map().await
                        && self.map.as_ref() != Some(&found)
                    {
                        self.replace("slots moved".to_owned()).await;
                    }
                }
                count = self.incoming.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.settle(&mut batch).await;
                }
            }
        }
    }

    /// Makes the server agree with what is wanted now of the sessions in `batch`.
    async fn settle(&mut self, batch: &mut Vec<Request>) {
        let (mut wanted, mut unwanted) = (HashSet::new(), HashSet::new());
        {
            let channels = self.local.lock();
            for request in batch.iter() {
                match channels.get(&request.key) {
                    Some(channel) if channel.confirmed => {}
                    Some(_) => drop(wanted.insert(request.key)),
                    None => drop(unwanted.insert(request.key)),
                }
            }
        }
        let result = self
            .settle_with(wanted.iter().copied().collect(), unwanted.into_iter().collect())
            .await;
        let answer = result.as_ref().copied().map_err(store_error);
        for request in batch.drain(..) {
            if let Some(sender) = request.answer {
                // Whoever is confirmed already needs nothing of this attempt.
                let own =
                    if wanted.contains(&request.key) { answer_again(&answer) } else { Ok(()) };
                let _ = sender.send(own);
            }
        }
        if let Err(error) = result
            && self.connection.client.is_connected()
        {
            self.replace(error.details().to_owned()).await;
        }
    }

    async fn settle_with(
        &self,
        wanted: Vec<SessionKey>,
        unwanted: Vec<SessionKey>,
    ) -> Result<(), Error> {
        if !unwanted.is_empty() {
            self.forget(&unwanted).await?;
        }
        if !wanted.is_empty() {
            self.begin(&wanted).await?;
        }
        Ok(())
    }

    /// Subscribes and notes what stands.
    async fn begin(&self, keys: &[SessionKey]) -> Result<(), Error> {
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
            if let Some(channel) = channels.get_mut(key) {
                channel.confirmed = true;
            }
        }
        Ok(())
    }

    async fn forget(&self, keys: &[SessionKey]) -> Result<(), Error> {
        if self.cluster {
            self.each(keys, |client, name| async move { client.sunsubscribe(name).await }).await
        } else {
            self.connection.client.unsubscribe(self.channels(keys)).await
        }
    }

    /// One command a channel, several under way: in a cluster each may be for another node.
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

    /// The connection is new: subscribes to everything again, then has every reader look.
    async fn stand_again(&mut self) {
        self.local.standing.store(false, Ordering::Release);
        loop {
            let attempt = async {
                // Answered only when the whole connecting is done.
                let _: Value = self.connection.client.ping(None).await?;
                // Further events from the same connecting (a cluster has one for each primary)
                // are covered by what follows.
                while self.connection.reconnects.try_recv().is_ok() {}
                while self.connection.errors.try_recv().is_ok() {}
                if self.cluster {
                    self.map = self.map().await;
                }
                let keys: Vec<SessionKey> = {
                    let mut channels = self.local.lock();
                    channels.values_mut().for_each(|channel| channel.confirmed = false);
                    channels.keys().copied().collect()
                };
                self.begin(&keys).await
            };
            match attempt.await {
                Ok(()) => break,
                Err(error) if self.connection.client.is_connected() => {
                    tracing::warn!(error = error.details(), "redis refuses subscriptions");
                    tokio::time::sleep(PAUSE).await;
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
        self.local.standing.store(true, Ordering::Release);
        self.connected.send_replace(true);
        self.notifier.resync();
    }

    /// Until a connection just opened stands, for a while; false when it is slower than that and
    /// its event has to be awaited as ever.
    async fn wait_for_connection(&mut self) -> bool {
        let client = self.connection.client.clone();
        tokio::time::timeout(self.timeout, client.wait_for_connect()).await.is_ok()
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.connection = Connection::open(&self.plan, &self.names, &self.notifier)?;
        Ok(())
    }

    /// Begins with a new connection; its first event brings the subscriptions back.
    async fn replace(&mut self, why: String) {
        tracing::warn!(why, "new connection for subscriptions");
        self.local.standing.store(false, Ordering::Release);
        while let Err(error) = self.reopen() {
            tracing::error!(%error, "no client for subscriptions");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks each server that it is connected to for a sign of life.
    async fn alive(&self) -> Result<(), Error> {
        let client = &self.connection.client;
        if !client.is_connected() {
            // It is trying already.
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

    /// Which primary has which slots.
    async fn map(&self) -> Option<Vec<Slots>> {
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

fn answer_again(answer: &Result<(), StoreError>) -> Result<(), StoreError> {
    match answer {
        Ok(()) => Ok(()),
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

/// First and last slot, host and port of the primary.
type Slots = (u64, u64, String, u64);

/// One range of the answer to `CLUSTER SLOTS`.
fn slots(range: Value) -> Option<Slots> {
    let Value::Array(range) = range else { return None };
    let [first, last, Value::Array(primary), ..] = &range[..] else { return None };
    let [host, port, ..] = &primary[..] else { return None };
    Some((first.as_u64()?, last.as_u64()?, host.as_string()?, port.as_u64()?))
}

//! Redis or Valkey, shared by any number of instances.
//!
//! One hash holds one session; each transition is one Lua script on that hash, which also publishes
//! the change. Sessions that are created at once share a script. Keys and channels:
//!
//! - `<prefix>:{<session key>}`: the session; in a cluster the hash tag keeps its channel beside it.
//! - `<prefix>:{<session key>}:events`: one letter, or `p`, the subscription and the sealed payload.
//! - `<prefix>:mark:{<digest>}`: a mark.
//! - `<prefix>:value:{<digest>}`: a sealed value that is too large for a cookie.
//! - `<prefix>:count:{<digest>}`: a count.
//! - `<prefix>:code:{<digest>}`: the session and the transit token's digest behind a user code of the
//!   device authorization grant.
//! - `<prefix>:grant:{<grant>}`: the generation of a grant's newest refresh token, or its end.
//! - `<prefix>:account:{<account>}`: the time up to which everything granted to it has ended.

mod apart;
mod connection;
mod creations;
mod deliveries;
mod error;
mod names;
mod record;
mod reply;
mod runner;
mod script;
mod subscriber;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::clients::{Client, WithOptions};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
use fred::types::config::Options;
use fred::types::{Expiration, SetOptions, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

pub use crate::store::redis::connection::{RedisUrl, UnusableUrl};
use crate::{
    session::{
        AccountId, ClientId, DialogId, Digest, EventId, Failure, GoneReason, GrantId, Outcome,
        SealedPayload, SessionKey, SessionRef, SubscriptionId, Surface,
    },
    store::{
        AccountStore, Acknowledged, ChangeFeed, CodeAttempt, CodeStore, CodeTarget, DeliveryNote,
        Ended, Entered, Entry, FailedSession, GrantStore, MAX_PACE, MarkStore, NewSession,
        Notifier, PACE_STEP, PACE_TOLERANCE, Peeked, ReadMode, ReadRequest, ReadResult, Retention,
        Rotated, SessionStore, StoreError, StoreHealth, Stored, StoredSession, TOMBSTONE, Traced,
        ValueStore,
        redis::{
            apart::Apart,
            connection::Plan,
            creations::Creations,
            deliveries::Deliveries,
            names::Names,
            reply::Reply,
            runner::Runner,
            script::{SCRIPTS, Transition},
            subscriber::Subscriber,
        },
    },
    util::clock::UnixTime,
};

/// The value of a grant that was ended; `rotate_grant.lua` writes it too.
const ENDED: &str = "x";

/// Time for which notes of deliveries are gathered.
const NOTES_WAIT: Duration = Duration::from_millis(4);

/// Time for the failure of the first attempt to connect to become known, beyond the timeout.
const FAILURE_GRACE: Duration = Duration::from_millis(500);

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Where it is.
    pub url: RedisUrl,
    /// Prefix of every key and channel, without braces.
    pub prefix: String,
    /// Maximum duration of one command.
    pub command_timeout: Duration,
}

/// The store. Tasks of its own keep it connected and end with it.
pub struct RedisStore {
    client: WithOptions<Client>,
    runner: Runner,
    creations: Creations,
    deliveries: Deliveries,
    names: Names,
    publish: &'static str,
    subscriber: Subscriber,
    _connection: AbortOnDropHandle<()>,
    _reconnects: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// Opens the store and waits up to one command timeout for the first connection. While Redis is
    /// unreachable every call fails at once; the store connects as soon as it can.
    ///
    /// # Errors
    /// When the URL, the certificates that it names or the prefix are unusable.
    pub async fn connect(
        settings: &RedisOptions,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Arc<Self>, StoreError> {
        let timeout = settings.command_timeout;
        if settings.prefix.contains(['{', '}']) {
            return Err(StoreError::Unavailable("the key prefix contains a brace".to_owned()));
        }
        let plan = Plan::new(&settings.url, timeout)?;
        let names = Names::new(&settings.prefix);
        let client = plan.client()?;
        let cluster = plan.is_cluster();
        let plain_scripts = Arc::new(AtomicBool::new(false));
        let first = client.clone();
        // Before connecting, so that the first connection is not taken for a second one.
        let reconnects = tokio::spawn(report_reconnects(
            client.clone(),
            cluster,
            Arc::clone(&notifier),
            Arc::clone(&plain_scripts),
        ));
        let connection = tokio::spawn(keep_connected(client.clone()));
        let subscriber = Subscriber::start(plan, client.clone(), names.clone(), notifier, timeout)?;
        let both = async {
            if !first.is_connected() {
                let _ = first.wait_for_connect().await;
            }
            subscriber.first_connection().await;
        };
        if tokio::time::timeout(timeout, both).await.is_err() {
            tracing::warn!("Redis cannot be reached; retrying");
            // An attempt may take as long as that, and its failure says more.
            let _ = tokio::time::timeout(FAILURE_GRACE, subscriber.first_failure()).await;
        }
        let client = client.with_options(&Options {
            timeout: Some(timeout),
            // While Redis is unreachable calls must not be queued for later, and a call that was
            // in flight must not be executed twice.
            fail_fast: true,
            ..Options::default()
        });
        let runner = Runner::new(client.clone(), timeout, plain_scripts);
        let apart = Apart::new(cluster);
        Ok(Arc::new(Self {
            client,
            creations: Creations::new(runner.clone(), apart.clone()),
            deliveries: Deliveries::new(runner.clone(), apart),
            runner,
            names,
            publish: if cluster { "SPUBLISH" } else { "PUBLISH" },
            subscriber,
            _connection: AbortOnDropHandle::new(connection),
            _reconnects: AbortOnDropHandle::new(reconnects),
        }))
    }

    /// Runs a script on a stored session.
    async fn run(
        &self,
        script: &Transition,
        session: SessionRef,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let all = self.with_channel(session, arguments);
        self.runner.run(script, &self.names.session(session.key), all).await
    }

    /// The arguments of such a script. The first are the publish command, the channel and the surface.
    fn with_channel(&self, session: SessionRef, arguments: Vec<Value>) -> Vec<Value> {
        let mut all = Vec::with_capacity(arguments.len() + 3);
        all.push(Value::from_static_str(self.publish));
        all.push(Value::from(self.names.channel(session.key)));
        all.push(Value::from_static_str(surface(session)));
        all.extend(arguments);
        all
    }

    /// Looks at a session, or enters it.
    async fn visit(
        &self,
        session: SessionRef,
        verb: &'static str,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Reply, StoreError> {
        let (kind, digest) = match entry {
            Entry::SessionId => ("id", None),
            Entry::TransitToken(digest) => ("token", Some(digest)),
            Entry::OpenedDialog(digest) => ("dialog", Some(digest)),
        };
        let arguments = vec![
            Value::from_static_str(verb),
            Value::from_static_str(kind),
            optional(digest),
            dialog.map(DialogId::to_base64url).unwrap_or_default().into(),
        ];
        self.run(&SCRIPTS.enter, session, arguments).await
    }

    async fn set_grant(
        &self,
        grant: GrantId,
        value: &'static str,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let (name, expiry) = (self.names.grant(grant), Some(Expiration::PX(milliseconds(ttl))));
        self.client
            .set(name, value, expiry, None, false)
            .await
            .map_err(|error| self.runner.failed(&error))
    }
}

/// Connects and stays connected. The library gives up only when it takes an answer for a
/// configuration error, for instance while a cluster is being formed; then this starts over.
async fn keep_connected(client: Client) {
    loop {
        // Aborting the outer task must end the inner one too.
        let connection = AbortOnDropHandle::new(client.connect());
        let _ = connection.await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reports every reconnect. A cluster's primaries count one by one.
fn report_reconnects(
    client: Client,
    cluster: bool,
    notifier: Arc<dyn Notifier>,
    plain_scripts: Arc<AtomicBool>,
) -> impl Future<Output = ()> + Send {
    let mut connections = client.reconnect_rx();
    async move {
        let mut known = Vec::new();
        loop {
            let connected = connections.recv().await;
            plain_scripts.store(false, Ordering::Relaxed);
            match connected {
                // Without a cluster any server after the first one replaces it.
                Ok(server) if known.contains(&server) || (!cluster && !known.is_empty()) => {
                    notifier.reconnected();
                }
                Ok(server) => known.push(server),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// At least one: Redis refuses an expiry of zero.
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// A session's surface, as scripts call it.
fn surface(session: SessionRef) -> &'static str {
    match session.surface {
        Surface::Native => "native",
        Surface::Meet => "meet",
    }
}

fn optional(digest: Option<Digest>) -> Value {
    digest.map(Digest::to_base64url).unwrap_or_default().into()
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError> {
        let NewSession { session, transit, ttl } = session;
        let transit_ttl = transit.map(|(_, ttl)| milliseconds(ttl).to_string());
        let mut fields = Vec::with_capacity(16);
        record::write(&mut fields, session, transit.map(|(digest, _)| digest))?;
        let mut arguments: Vec<Value> = vec![
            milliseconds(ttl).into(),
            milliseconds(ttl.saturating_add(TOMBSTONE)).into(),
            transit_ttl.unwrap_or_default().into(),
            i64::try_from(fields.len()).unwrap_or(i64::MAX).into(),
        ];
        arguments.extend(fields);
        self.creations.create(self.names.session(key), arguments).await
    }

    async fn peek(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: Option<DialogId>,
    ) -> Result<Peeked<StoredSession>, StoreError> {
        let reply = self.visit(session, "peek", entry, dialog).await?;
        match reply.word() {
            b"admitted" => record::read(&reply).map(Peeked::Open),
            b"unknown" => Ok(Peeked::Unknown),
            b"transit_expired" => Ok(Peeked::TransitExpired),
            b"used" => Ok(Peeked::Used),
            b"not_pending" => reply.state().map(Peeked::NotPending),
            _ => Err(reply.unexpected()),
        }
    }

    async fn enter(
        &self,
        session: SessionRef,
        entry: Entry,
        dialog: DialogId,
    ) -> Result<Entered<StoredSession>, StoreError> {
        let reply = self.visit(session, "enter", entry, Some(dialog)).await?;
        match reply.word() {
            b"admitted" => record::read(&reply).map(Entered::Admitted),
            b"unknown" => Ok(Entered::Unknown),
            b"transit_expired" => Ok(Entered::TransitExpired),
            b"replayed" => Ok(Entered::Replayed),
            b"not_pending" => reply.state().map(Entered::NotPending),
            _ => Err(reply.unexpected()),
        }
    }

    async fn enter_by_backend(
        &self,
        session: SessionRef,
        entry: Entry,
        backend: DialogId,
        clients: &[ClientId],
    ) -> Result<Peeked<StoredSession>, StoreError> {
        let (kind, digest) = match entry {
            Entry::SessionId => return Ok(Peeked::Unknown),
            Entry::TransitToken(digest) => ("token", digest),
            Entry::OpenedDialog(digest) => ("dialog", digest),
        };
        let mut arguments = vec![
            digest.to_base64url().into(),
            backend.to_base64url().into(),
            Value::from_static_str(kind),
        ];
        arguments.extend(clients.iter().map(|client| client.as_str().into()));
        let reply = self.run(&SCRIPTS.enter_by_backend, session, arguments).await?;
        match reply.word() {
            b"admitted" => record::read(&reply).map(Peeked::Open),
            b"unknown" => Ok(Peeked::Unknown),
            b"transit_expired" => Ok(Peeked::TransitExpired),
            b"used" => Ok(Peeked::Used),
            b"not_pending" => reply.state().map(Peeked::NotPending),
            _ => Err(reply.unexpected()),
        }
    }

    async fn count_code_attempt(
        &self,
        session: SessionRef,
        max: u32,
    ) -> Result<CodeAttempt<StoredSession>, StoreError> {
        let arguments = vec![i64::from(max).into()];
        let reply = self.run(&SCRIPTS.count_code_attempt, session, arguments).await?;
        match reply.word() {
            b"allowed" => Ok(CodeAttempt::Allowed {
                remaining: reply.text(1)?.parse().map_err(|_| reply.unexpected())?,
                session: record::read(&reply)?,
            }),
            b"exhausted" => Ok(CodeAttempt::Exhausted),
            b"unknown" => Ok(CodeAttempt::Unknown),
            b"not_pending" => reply.state().map(CodeAttempt::NotPending),
            _ => Err(reply.unexpected()),
        }
    }

    async fn fulfil(
        &self,
        session: SessionRef,
        payload: SealedPayload,
    ) -> Result<Stored, StoreError> {
        let event = EventId::of_token(&payload);
        let arguments = vec![payload.0.into(), event.as_str().into()];
        let name = self.names.session(session.key);
        let all = self.with_channel(session, arguments);
        self.runner.run_answered_last(&SCRIPTS.fulfil, &name, all).await?.stored()
    }

    async fn fail(
        &self,
        session: SessionRef,
        failure: Failure,
    ) -> Result<FailedSession, StoreError> {
        let arguments = vec![failure.error.into(), failure.error_description.into()];
        let reply = self.run(&SCRIPTS.fail, session, arguments).await?;
        Ok(FailedSession { stored: reply.stored()?, client: reply.client()? })
    }

    async fn read(
        &self,
        session: SessionRef,
        request: ReadRequest,
    ) -> Result<ReadResult, StoreError> {
        let (mode, subscription) = match request.mode {
            ReadMode::Poll => ("poll", String::new()),
            ReadMode::PacedPoll(interval) => ("paced", milliseconds(interval).to_string()),
            ReadMode::Attach(subscription) => ("attach", subscription.as_u64().to_string()),
            ReadMode::Claim(subscription) => ("claim", subscription.as_u64().to_string()),
        };
        let (grace, reader) = match request.retention {
            Retention::Grace(grace) => (grace.as_millis().to_string(), String::new()),
            Retention::Once(reader) => (String::new(), reader.as_u64().to_string()),
        };
        let mut arguments = vec![
            optional(request.session_token),
            Value::from_static_str(mode),
            subscription.into(),
            grace.into(),
            reader.into(),
        ];
        if let ReadMode::PacedPoll(_) = request.mode {
            let pace = [PACE_TOLERANCE, PACE_STEP, MAX_PACE];
            arguments.extend(pace.map(|duration| Value::from(milliseconds(duration))));
        }
        let reply = self.run(&SCRIPTS.read, session, arguments).await?;
        let outcome = match reply.word() {
            b"unknown" => return Ok(ReadResult::Unknown),
            b"unauthorized" => return Ok(ReadResult::Unauthorized),
            b"pending" => {
                let (remaining, client) = (reply.milliseconds(1)?, reply.client()?);
                return Ok(ReadResult::Pending { remaining, client });
            }
            b"too_early" => return Ok(ReadResult::TooEarly { interval: reply.milliseconds(1)? }),
            b"token" => Outcome::Token {
                payload: SealedPayload(reply.field(1)?.clone()),
                age: reply.milliseconds(2)?,
            },
            b"failed" => Outcome::Failed(reply.failure(1)?),
            b"superseded" => Outcome::Superseded,
            b"gone" => Outcome::Gone(reply.reason(1)?),
            _ => return Err(reply.unexpected()),
        };
        Ok(ReadResult::Settled(outcome))
    }

    async fn note_deliveries(&self, notes: &[DeliveryNote]) -> Result<(), StoreError> {
        self.deliveries.note(&self.names, notes).await
    }

    fn notes_wait(&self) -> Duration {
        NOTES_WAIT
    }

    async fn hand_back(
        &self,
        session: SessionRef,
        reader: SubscriptionId,
    ) -> Result<bool, StoreError> {
        let arguments = vec![reader.as_u64().to_string().into()];
        let reply = self.run(&SCRIPTS.hand_back, session, arguments).await?;
        match reply.word() {
            b"done" => Ok(true),
            b"nothing" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }

    async fn acknowledge(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
        event: EventId,
    ) -> Result<Acknowledged, StoreError> {
        let arguments = vec![optional(session_token), event.as_str().into()];
        let reply = self.run(&SCRIPTS.acknowledge, session, arguments).await?;
        match reply.word() {
            b"acknowledged" => Ok(Acknowledged::Done),
            b"other_event" => Ok(Acknowledged::OtherEvent),
            b"already" => reply.reason(1).map(Acknowledged::Already),
            b"unknown" => Ok(Acknowledged::Unknown),
            b"unauthorized" => Ok(Acknowledged::Unauthorized),
            _ => Err(reply.unexpected()),
        }
    }

    async fn end(
        &self,
        session: SessionRef,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let reply = self.run(&SCRIPTS.end, session, vec![optional(session_token)]).await?;
        match reply.word() {
            b"acknowledged" => Ok(Ended::Acknowledged),
            b"cancelled" => Ok(Ended::Cancelled),
            b"already" => reply.reason(1).map(Ended::Already),
            b"failed" => Ok(Ended::Failed),
            b"unknown" => Ok(Ended::Unknown),
            b"unauthorized" => Ok(Ended::Unauthorized),
            _ => Err(reply.unexpected()),
        }
    }

    async fn evict(&self, session: SessionRef, reason: GoneReason) -> Result<bool, StoreError> {
        let reason = Value::from_static_str(reason.as_str());
        let reply = self.run(&SCRIPTS.evict, session, vec![reason]).await?;
        match reply.word() {
            b"evicted" => Ok(true),
            b"nothing" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }
}

#[async_trait]
impl MarkStore for RedisStore {
    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        let expiry = Some(Expiration::PX(milliseconds(ttl)));
        let set: Option<String> = self
            .client
            .set(self.names.mark(name), "1", expiry, Some(SetOptions::NX), false)
            .await
            .map_err(|error| self.runner.failed(&error))?;
        Ok(set.is_some())
    }

    async fn mark_durably(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        self.mark(name, ttl).await
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        let found: i64 = self
            .client
            .exists(self.names.mark(name))
            .await
            .map_err(|error| self.runner.failed(&error))?;
        Ok(found > 0)
    }

    async fn count(&self, name: Digest, amount: i64, window: Duration) -> Result<i64, StoreError> {
        let arguments = vec![amount.into(), milliseconds(window).into()];
        let reply = self.runner.run(&SCRIPTS.count, &self.names.count(name), arguments).await?;
        match reply.word() {
            b"counted" => reply.text(1)?.parse().map_err(|_| reply.unexpected()),
            _ => Err(reply.unexpected()),
        }
    }
}

#[async_trait]
impl CodeStore for RedisStore {
    async fn claim_code(
        &self,
        code: Digest,
        target: CodeTarget,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let CodeTarget { session, transit_token } = target;
        let value = format!("{}{}", session.to_base64url(), transit_token.to_base64url());
        let expiry = Some(Expiration::PX(milliseconds(ttl)));
        let set: Option<String> = self
            .client
            .set(self.names.code(code), value, expiry, Some(SetOptions::NX), false)
            .await
            .map_err(|error| self.runner.failed(&error))?;
        Ok(set.is_some())
    }

    async fn find_code(&self, code: Digest) -> Result<Option<CodeTarget>, StoreError> {
        let value: Option<String> = self
            .client
            .get(self.names.code(code))
            .await
            .map_err(|error| self.runner.failed(&error))?;
        let parse = |text: &str| {
            let (session, transit_token) = text.split_at_checked(43)?;
            let session = SessionKey::from_base64url(session).ok()?;
            let transit_token = Digest::from_base64url(transit_token).ok()?;
            Some(CodeTarget { session, transit_token })
        };
        let corrupt = || StoreError::Corrupt("a user code that leads nowhere".to_owned());
        value.map(|text| parse(&text).ok_or_else(corrupt)).transpose()
    }
}

#[async_trait]
impl ValueStore for RedisStore {
    async fn put_value(&self, name: Digest, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        let (name, expiry) = (self.names.value(name), Some(Expiration::PX(milliseconds(ttl))));
        self.client
            .set(name, value, expiry, None, false)
            .await
            .map_err(|error| self.runner.failed(&error))
    }

    async fn value(&self, name: Digest) -> Result<Option<Bytes>, StoreError> {
        self.client.get(self.names.value(name)).await.map_err(|error| self.runner.failed(&error))
    }

    async fn remove_value(&self, name: Digest) -> Result<(), StoreError> {
        self.client.del(self.names.value(name)).await.map_err(|error| self.runner.failed(&error))
    }
}

#[async_trait]
impl GrantStore for RedisStore {
    async fn begin_grant(&self, grant: GrantId, ttl: Duration) -> Result<(), StoreError> {
        self.set_grant(grant, "1", ttl).await
    }

    async fn rotate_grant(
        &self,
        grant: GrantId,
        generation: u32,
        ttl: Duration,
        memory: Duration,
    ) -> Result<Rotated, StoreError> {
        let arguments = vec![
            i64::from(generation).into(),
            milliseconds(ttl).into(),
            milliseconds(memory).into(),
        ];
        let name = self.names.grant(grant);
        let reply = self.runner.run(&SCRIPTS.rotate_grant, &name, arguments).await?;
        match reply.word() {
            b"rotated" => Ok(Rotated::Done),
            b"reused" => Ok(Rotated::Reused),
            b"ended" => Ok(Rotated::Ended),
            b"unknown" => Ok(Rotated::Unknown),
            _ => Err(reply.unexpected()),
        }
    }

    async fn end_grant(&self, grant: GrantId, memory: Duration) -> Result<(), StoreError> {
        self.set_grant(grant, ENDED, memory).await
    }

    async fn is_grant_ended(&self, grant: GrantId) -> Result<bool, StoreError> {
        let value: Option<String> = self
            .client
            .get(self.names.grant(grant))
            .await
            .map_err(|error| self.runner.failed(&error))?;
        Ok(value.as_deref() == Some(ENDED))
    }
}

#[async_trait]
impl AccountStore for RedisStore {
    async fn end_account(
        &self,
        account: AccountId,
        at: UnixTime,
        memory: Duration,
    ) -> Result<(), StoreError> {
        let arguments = vec![at.as_millis().to_string().into(), milliseconds(memory).into()];
        let name = self.names.account(account);
        let reply = self.runner.run(&SCRIPTS.end_account, &name, arguments).await?;
        match reply.word() {
            b"ended" => Ok(()),
            _ => Err(reply.unexpected()),
        }
    }

    async fn account_ended_at(&self, account: AccountId) -> Result<Option<UnixTime>, StoreError> {
        let stored: Option<u64> = self
            .client
            .get(self.names.account(account))
            .await
            .map_err(|error| self.runner.failed(&error))?;
        Ok(stored.map(UnixTime::from_millis))
    }
}

#[async_trait]
impl ChangeFeed for RedisStore {
    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.subscriber.subscribe(key).await
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.subscriber.unsubscribe(key);
    }
}

impl Traced for RedisStore {}

#[async_trait]
impl StoreHealth for RedisStore {
    async fn check(&self) -> Result<(), StoreError> {
        // A server that answers PING may still refuse what sessions need: a read-only replica, an ACL
        // without scripts, a renamed command, no memory left.
        let arguments =
            vec![Value::from_static_str(self.publish), Value::from(self.names.probe_channel())];
        let reply = self.runner.run(&SCRIPTS.probe, &self.names.probe(), arguments).await;
        // Without a connection the library says only that there is none.
        let reason = || self.subscriber.failure().filter(|_| !self.client.is_connected());
        let reply = reply.map_err(|error| reason().map_or(error, StoreError::Unavailable))?;
        if reply.word() != b"ready" {
            return Err(reply.unexpected());
        }
        // Without its subscriptions an instance should get no clients.
        self.subscriber.check()
    }
}

//! Sessions in Redis or Valkey (7.0 or later), shared by any number of instances.
//!
//! Called by whoever holds a [`SessionStore`]. One hash holds one session; each transition is one
//! Lua script on that hash, which also publishes the change. Keys and channels:
//!
//! - `<prefix>:{<session key>}`: the session; in a cluster its hash tag puts the channel beside it.
//! - `<prefix>:{<session key>}:events`: one letter, or `p` and the sealed payload.
//! - `<prefix>:mark:{<digest>}`: a mark.
//! - `<prefix>:grant:{<grant>}`: the generation of a grant's newest refresh token, or that it ended.
//!
//! Knows no HTTP and sees no token in clear.

mod connection;
mod script;
mod subscriber;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
use fred::types::config::Options;
use fred::types::scripts::Script;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};
use fred::util::redis_keyslot;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

pub use crate::store::redis::connection::UnusableUrl;
use crate::{
    session::{
        Digest, Failure, GoneReason, GrantId, Profile, SealedPayload, SessionInfo, SessionKey,
        State,
    },
    store::{
        Ended, Entered, Entry, NewSession, Notifier, Read, ReadMode, ReadOutcome, Rotated,
        SessionStore, StoreError, Stored, TOMBSTONE,
        redis::{connection::Plan, script::SCRIPTS, subscriber::Subscriber},
    },
};

/// The value of a grant that was ended, as `rotate_grant.lua` writes it too.
const ENDED: &str = "x";

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisStoreOptions {
    /// One of
    /// `redis://[user:password@]host[:port][/database]`,
    /// `redis+unix:///path/to/socket[?db=database]`,
    /// `redis-sentinel://[user:password@]host[:port][/database]?sentinelServiceName=name` with
    /// further sentinels as `&node=host:port` and their own credentials as `&sentinelUsername=` and
    /// `&sentinelPassword=`, or
    /// `redis-cluster://[user:password@]host[:port]` with further nodes as `?node=host:port`.
    /// `rediss` in place of `redis` is TLS; `ca=/path/to/file.pem` then replaces the system's
    /// certificates. `valkey` and `valkeys` mean the same.
    pub url: String,
    /// What every key and channel begins with.
    pub prefix: String,
    /// The longest that one call may take.
    pub command_timeout: Duration,
}

impl RedisStoreOptions {
    /// Whether `url` can be connected to, as far as can be told without trying.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(url: &str) -> Result<(), UnusableUrl> {
        let plan = Plan::new(url, Duration::from_secs(1)).and_then(|plan| plan.client());
        plan.map(drop)
    }
}

impl fmt::Debug for RedisStoreOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisStoreOptions")
            .field("prefix", &self.prefix)
            .field("command_timeout", &self.command_timeout)
            .finish_non_exhaustive()
    }
}

/// The store. It connects, and reconnects for ever, in tasks of its own that end with it.
pub struct RedisStore {
    client: WithOptions<Client>,
    names: Names,
    timeout: Duration,
    publish: &'static str,
    subscriber: Subscriber,
    _connection: AbortOnDropHandle<()>,
    _reconnects: AbortOnDropHandle<()>,
}

/// The names of keys and channels.
#[derive(Clone)]
struct Names {
    prefix: Arc<str>,
}

impl Names {
    fn session(&self, key: SessionKey) -> String {
        format!("{}:{{{}}}", self.prefix, key.to_base64url())
    }

    fn channel(&self, key: SessionKey) -> String {
        format!("{}:{{{}}}:events", self.prefix, key.to_base64url())
    }

    /// The session whose channel this is.
    fn session_of(&self, channel: &str) -> Option<SessionKey> {
        let key = channel.strip_prefix(&*self.prefix)?.strip_prefix(":{")?;
        SessionKey::from_base64url(key.strip_suffix("}:events")?).ok()
    }

    fn grant(&self, grant: GrantId) -> String {
        format!("{}:grant:{{{}}}", self.prefix, grant.to_base64url())
    }

    fn mark(&self, name: Digest) -> String {
        format!("{}:mark:{{{}}}", self.prefix, name.to_base64url())
    }
}

impl RedisStore {
    /// Makes the store and gives Redis one command's time to be reached. When it is away the store
    /// comes up all the same, fails every call at once and connects when Redis is there.
    ///
    /// # Errors
    /// When the URL or the file of certificates that it names is unusable.
    pub async fn connect(
        settings: &RedisStoreOptions,
        notifier: Arc<dyn Notifier>,
    ) -> Result<Arc<Self>, StoreError> {
        let timeout = settings.command_timeout;
        if settings.prefix.contains(['{', '}']) {
            return Err(StoreError::Unavailable("the prefix of keys holds a brace".to_owned()));
        }
        let plan = Plan::new(&settings.url, timeout)?;
        let names = Names { prefix: settings.prefix.as_str().into() };
        let client = plan.client()?;
        let publish = if plan.is_cluster() { "SPUBLISH" } else { "PUBLISH" };
        let first = client.clone();
        // Before connecting, so that the first connection is not taken for a second one.
        let reconnects = tokio::spawn(report_reconnects(
            client.clone(),
            plan.is_cluster(),
            Arc::clone(&notifier),
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
            tracing::warn!("redis cannot be reached; still trying");
        }
        Ok(Arc::new(Self {
            client: client.with_options(&Options {
                timeout: Some(timeout),
                // While Redis is away calls must not queue up to be carried out later, and one
                // that was under way must not be carried out twice.
                fail_fast: true,
                ..Options::default()
            }),
            names,
            timeout,
            publish,
            subscriber,
            _connection: AbortOnDropHandle::new(connection),
            _reconnects: AbortOnDropHandle::new(reconnects),
        }))
    }

    /// Runs a script on a session. The first two arguments of all are how and where to publish.
    async fn run(
        &self,
        script: &Script,
        key: SessionKey,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let mut all = Vec::with_capacity(arguments.len() + 2);
        all.push(Value::from_static_str(self.publish));
        all.push(Value::from(self.names.channel(key)));
        all.extend(arguments);
        self.run_on(script, &self.names.session(key), all).await
    }

    /// Runs a script on one key.
    async fn run_on(
        &self,
        script: &Script,
        name: &str,
        arguments: Vec<Value>,
    ) -> Result<Reply, StoreError> {
        let answered = async {
            match self.evaluate("EVALSHA", script.sha1(), name, arguments.clone()).await {
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    let text = script.lua().cloned().unwrap_or_default();
                    self.evaluate("EVAL", &text, name, arguments).await
                }
                other => other,
            }
        };
        // The library has the same limit for each attempt and knows better how to take a command
        // back, so this one, for both attempts together, must not come first.
        let limit = self.timeout + Duration::from_millis(50);
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(fields)) => Ok(Reply { fields }),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// `EVAL` or `EVALSHA`. The library's own methods for these pay no heed to the options of the
    /// client: they would repeat a script whose answer was lost.
    async fn evaluate(
        &self,
        command: &'static str,
        script: &Str,
        name: &str,
        arguments: Vec<Value>,
    ) -> Result<Vec<Bytes>, Error> {
        let slot = ClusterHash::Custom(redis_keyslot(name.as_bytes()));
        let mut all = Vec::with_capacity(arguments.len() + 3);
        all.extend([Value::from(script.clone()), Value::Integer(1), Value::from(name)]);
        all.extend(arguments);
        self.client.custom(CustomCommand::new_static(command, slot, false), all).await
    }

    async fn set_grant(
        &self,
        grant: GrantId,
        value: &'static str,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let (name, expiry) = (self.names.grant(grant), Some(Expiration::PX(milliseconds(ttl))));
        self.client.set(name, value, expiry, None, false).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &Error) -> StoreError {
        if error.details().starts_with("READONLY") {
            // The server was demoted and kept the connection: look for the new primary.
            let client = self.client.clone();
            tokio::spawn(async move { client.force_reconnection().await });
        }
        store_error(error)
    }
}

/// Connects and stays connected. The library gives up by itself only when it takes an answer for a
/// mistake in the configuration, as during the making of a cluster; then it starts anew.
async fn keep_connected(client: Client) {
    loop {
        // Aborting the outer task must end the inner one too.
        let connection = AbortOnDropHandle::new(client.connect());
        let _ = connection.await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Tells of each time that a server was reached again. A cluster's primaries count one by one.
fn report_reconnects(
    client: Client,
    cluster: bool,
    notifier: Arc<dyn Notifier>,
) -> impl Future<Output = ()> + Send {
    let mut connections = client.reconnect_rx();
    async move {
        let mut known = Vec::new();
        loop {
            match connections.recv().await {
                // Elsewhere any server after the first one stands in for it.
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

/// What a caller learns of the library's error. Redis quotes arguments in the answer to an unknown
/// command; they end here.
fn store_error(error: &Error) -> StoreError {
    let details = error.details();
    let details = details.split(", with args").next().unwrap_or_default();
    let text = format!("{}: {details}", error.kind().to_str());
    match error.kind() {
        ErrorKind::Parse | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
            StoreError::Corrupt(text)
        }
        ErrorKind::Unknown if details.starts_with("ERR ") => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

/// A script's answer: a word and what belongs to it.
struct Reply {
    fields: Vec<Bytes>,
}

impl Reply {
    fn word(&self) -> &[u8] {
        self.fields.first().map(Bytes::as_ref).unwrap_or_default()
    }

    /// This word was not expected. It is one of ours, so it holds no secret.
    fn unexpected(&self) -> StoreError {
        let word: String = String::from_utf8_lossy(self.word()).chars().take(20).collect();
        StoreError::Corrupt(format!("answer `{word}`"))
    }

    fn field(&self, index: usize) -> Result<&Bytes, StoreError> {
        self.fields.get(index).ok_or_else(|| self.unexpected())
    }

    fn text(&self, index: usize) -> Result<&str, StoreError> {
        std::str::from_utf8(self.field(index)?).map_err(|_| self.unexpected())
    }

    fn milliseconds(&self, index: usize) -> Result<Duration, StoreError> {
        // A clock that was set back between two transitions makes an age negative.
        let number: i64 = self.text(index)?.parse().map_err(|_| self.unexpected())?;
        Ok(Duration::from_millis(number.max(0).unsigned_abs()))
    }

    fn digest(&self, index: usize) -> Result<Option<Digest>, StoreError> {
        match self.text(index)? {
            "" => Ok(None),
            text => Digest::from_base64url(text).map(Some).map_err(|_| self.unexpected()),
        }
    }

    fn reason(&self, index: usize) -> Result<GoneReason, StoreError> {
        let text = self.text(index)?;
        [GoneReason::Acknowledged, GoneReason::Cancelled, GoneReason::Expired, GoneReason::Replayed]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| self.unexpected())
    }

    fn failure(&self, index: usize) -> Result<Failure, StoreError> {
        Ok(Failure {
            error: self.text(index)?.to_owned(),
            error_description: self.text(index + 1)?.to_owned(),
        })
    }

    /// After the word `not_pending`.
    fn state(&self) -> Result<State, StoreError> {
        match self.text(1)? {
            "a" => Ok(State::Authenticated),
            "d" => Ok(State::Delivered),
            "f" => self.failure(2).map(State::Failed),
            "g" => self.reason(2).map(State::Gone),
            _ => Err(self.unexpected()),
        }
    }

    fn stored(&self) -> Result<Stored, StoreError> {
        match self.word() {
            b"done" => Ok(Stored::Done),
            b"unknown" => Ok(Stored::Unknown),
            b"not_pending" => self.state().map(Stored::NotPending),
            _ => Err(self.unexpected()),
        }
    }
}

/// At least one: Redis refuses a life of no milliseconds.
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

fn optional(digest: Option<Digest>) -> Value {
    digest.map(Digest::to_base64url).unwrap_or_default().into()
}

fn profile(profile: Profile) -> Value {
    Value::from_static_str(match profile {
        Profile::Legacy => "legacy",
        Profile::Bound => "bound",
        Profile::Meet => "meet",
    })
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn create(&self, key: SessionKey, session: NewSession) -> Result<(), StoreError> {
        let info = serde_json::to_string(&session.info)
            .map_err(|_| StoreError::Corrupt("a session that cannot be written".to_owned()))?;
        let (transit, transit_ttl) = match session.transit {
            Some((digest, ttl)) => (Some(digest), ttl),
            None => (None, Duration::ZERO),
        };
        let arguments = vec![
            profile(session.info.profile),
            info.into(),
            optional(session.info.session_token),
            milliseconds(session.ttl).into(),
            milliseconds(TOMBSTONE).into(),
            optional(transit),
            milliseconds(transit_ttl).into(),
        ];
        let reply = self.run(&SCRIPTS.create, key, arguments).await?;
        match reply.word() {
            b"created" => Ok(()),
            _ => Err(reply.unexpected()),
        }
    }

    async fn enter(&self, key: SessionKey, entry: Entry) -> Result<Entered, StoreError> {
        let transit = match entry {
            Entry::SessionId => None,
            Entry::Transit(digest) => Some(digest),
        };
        let reply = self.run(&SCRIPTS.enter, key, vec![optional(transit)]).await?;
        match reply.word() {
            b"admitted" => {
                let mut info: SessionInfo =
                    serde_json::from_slice(reply.field(1)?).map_err(|_| reply.unexpected())?;
                info.session_token = reply.digest(2)?;
                Ok(Entered::Admitted(info))
            }
            b"unknown" => Ok(Entered::Unknown),
            b"transit_expired" => Ok(Entered::TransitExpired),
            b"replayed" => Ok(Entered::Replayed),
            b"not_pending" => reply.state().map(Entered::NotPending),
            _ => Err(reply.unexpected()),
        }
    }

    async fn fulfil(&self, key: SessionKey, payload: SealedPayload) -> Result<Stored, StoreError> {
        self.run(&SCRIPTS.fulfil, key, vec![payload.0.into()]).await?.stored()
    }

    async fn fail(&self, key: SessionKey, failure: Failure) -> Result<Stored, StoreError> {
        let arguments = vec![failure.error.into(), failure.error_description.into()];
        self.run(&SCRIPTS.fail, key, arguments).await?.stored()
    }

    async fn read(&self, key: SessionKey, read: Read) -> Result<ReadOutcome, StoreError> {
        let (mode, reader) = match read.mode {
            ReadMode::Poll => ("poll", String::new()),
            ReadMode::Attach(reader) => ("attach", reader.as_u64().to_string()),
            ReadMode::Claim(reader) => ("claim", reader.as_u64().to_string()),
        };
        let grace = read.grace.map(|grace| grace.as_millis().to_string()).unwrap_or_default();
        let arguments = vec![
            optional(read.session_token),
            Value::from_static_str(mode),
            reader.into(),
            grace.into(),
        ];
        let reply = self.run(&SCRIPTS.read, key, arguments).await?;
        match reply.word() {
            b"unknown" => Ok(ReadOutcome::Unknown),
            b"unauthorized" => Ok(ReadOutcome::Unauthorized),
            b"pending" => Ok(ReadOutcome::Pending { remaining: reply.milliseconds(1)? }),
            b"token" => Ok(ReadOutcome::Token {
                payload: SealedPayload(reply.field(1)?.clone()),
                age: reply.milliseconds(2)?,
            }),
            b"failed" => reply.failure(1).map(ReadOutcome::Failed),
            b"superseded" => Ok(ReadOutcome::Superseded),
            b"gone" => reply.reason(1).map(ReadOutcome::Gone),
            _ => Err(reply.unexpected()),
        }
    }

    async fn end(
        &self,
        key: SessionKey,
        session_token: Option<Digest>,
    ) -> Result<Ended, StoreError> {
        let reply = self.run(&SCRIPTS.end, key, vec![optional(session_token)]).await?;
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

    async fn evict(&self, key: SessionKey, reason: GoneReason) -> Result<bool, StoreError> {
        let reason = Value::from_static_str(reason.as_str());
        let reply = self.run(&SCRIPTS.evict, key, vec![reason]).await?;
        match reply.word() {
            b"evicted" => Ok(true),
            b"nothing" => Ok(false),
            _ => Err(reply.unexpected()),
        }
    }

    async fn mark(&self, name: Digest, ttl: Duration) -> Result<bool, StoreError> {
        let expiry = Some(Expiration::PX(milliseconds(ttl)));
        let set: Option<String> = self
            .client
            .set(self.names.mark(name), "1", expiry, Some(SetOptions::NX), false)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(set.is_some())
    }

    async fn is_marked(&self, name: Digest) -> Result<bool, StoreError> {
        let found: i64 =
            self.client.exists(self.names.mark(name)).await.map_err(|error| self.failed(&error))?;
        Ok(found > 0)
    }

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
        let reply = self.run_on(&SCRIPTS.rotate_grant, &name, arguments).await?;
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
        let kept: Option<String> =
            self.client.get(self.names.grant(grant)).await.map_err(|error| self.failed(&error))?;
        Ok(kept.as_deref() == Some(ENDED))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let _: Value = self.client.ping(None).await.map_err(|error| self.failed(&error))?;
        // An instance that hears of nothing should not get new clients either.
        self.subscriber.standing()
    }

    async fn subscribe(&self, key: SessionKey) -> Result<(), StoreError> {
        self.subscriber.subscribe(key).await
    }

    fn unsubscribe(&self, key: SessionKey) {
        self.subscriber.unsubscribe(key);
    }
}

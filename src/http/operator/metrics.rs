//! Prometheus metrics of requests, streams, deliveries and store calls.
//!
//! Written by the handlers and, through [`StoreObserver`], by the store; read by `operator`.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder,
        text::encode,
    },
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use strum::IntoEnumIterator as _;

use crate::{
    http::{guesses::Guessed, operator::recent::LastHour},
    relay,
    session::{ClientId, Surface},
    signin::{SignInObserver, SignInOutcome, TokenGrant},
    store::{OPERATIONS, STATES, StoreObserver},
    telemetry,
    util::clock::UnixTime,
};

/// How a reconnect was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reconnect {
    /// It named the last event: the client already has the token.
    LastEventId,
    /// It superseded a subscription that still waited on this instance.
    NewestReader,
}

/// The result of using a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RefreshOutcome {
    /// A new access token.
    Refreshed,
    /// Invalid, expired, or issued to another client.
    Refused,
    /// Used a second time; its grant was ended.
    Reused,
    /// The service failed.
    Failed,
}

/// What was ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue, strum::EnumIter)]
pub enum Revoked {
    /// One access token.
    Token,
    /// A grant with all its tokens.
    Grant,
    /// Everything that a person was granted.
    Account,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs)]
pub enum HandshakeOutcome {
    Succeeded,
    Failed,
    TimedOut,
}

/// The outcome of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum ReloadOutcome {
    /// The changes were applied.
    Succeeded,
    /// Nothing had changed.
    Unchanged,
    /// The settings were rejected; the previous ones remain active.
    Failed,
}

/// A name that [`Clients::label`](crate::settings::Clients::label) gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClientLabel(ClientId);

impl EncodeLabelValue for ClientLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.0.as_str())
    }
}

impl ClientLabel {
    fn of(client: &ClientId) -> Self {
        Self(client.clone())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByClient {
    client: ClientLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByIssue {
    grant: &'static str,
    client: ClientLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByGuess {
    secret: &'static str,
    answer: &'static str,
    client: ClientLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRevoked {
    what: Revoked,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHandshakeOutcome {
    outcome: HandshakeOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReloadOutcome {
    outcome: ReloadOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: &'static str,
    client: ClientLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
    client: ClientLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReconnect {
    by: Reconnect,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRefreshOutcome {
    outcome: RefreshOutcome,
    client: ClientLabel,
}

/// Whether the store answers, since when, and the last call that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreState {
    /// The last answer, and since when every answer was the same.
    pub answers: Option<(bool, UnixTime)>,
    /// Name and time of the last operation that failed.
    pub last_error: Option<(&'static str, UnixTime)>,
}

/// The metrics of one instance.
pub struct Metrics {
    registry: Registry,
    logins_last_hour: LastHour,
    streams: Family<ByTransport, Gauge>,
    sessions_created: Family<ByClient, Counter>,
    logins: Family<ByOutcome, Counter>,
    issued: Family<ByIssue, Counter>,
    refreshes: Family<ByRefreshOutcome, Counter>,
    deliveries: Family<ByClient, Counter>,
    deliveries_lost: Counter,
    delivery_seconds: Histogram,
    transitions: Family<ByState, Counter>,
    reconnected: Family<ByReconnect, Counter>,
    store_up: Gauge,
    store_state: Mutex<StoreState>,
    handshakes: Family<ByHandshakeOutcome, Counter>,
    reloads: Family<ByReloadOutcome, Counter>,
    guesses: Family<ByGuess, Counter>,
    revocations: Family<ByRevoked, Counter>,
    store_seconds: Family<ByOperation, Histogram, fn() -> Histogram>,
    store_errors: Family<ByOperation, Counter>,
    store_sessions: Gauge,
}

fn latency() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
    ])
}

/// Interruptions of the connection to the store.
struct Interrupted(Arc<relay::Registry>);

impl fmt::Debug for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Interrupted")
    }
}

impl Collector for Interrupted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let interruptions = self.0.interruptions();
        for (name, help, value) in [
            (
                "store_reconnects",
                "Connections to the store that were lost and re-established",
                interruptions.reconnects,
            ),
            (
                "store_resyncs",
                "Times that messages may have been missed, so that every waiting reader read its session \
                 again; once when the store is first reached",
                interruptions.resyncs,
            ),
            (
                "store_resynced_readers",
                "Waiting readers that read their session again after a resync",
                interruptions.subscriptions,
            ),
        ] {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

/// Log lines that were dropped.
#[derive(Debug)]
struct LostLogLines;

impl Collector for LostLogLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Log lines dropped because standard error was full, closed or not read";
        let counter = ConstCounter::new(telemetry::log::lost_lines());
        let kind = counter.metric_type();
        counter.encode(encoder.encode_descriptor("log_lines_lost", help, None, kind)?)
    }
}

/// Counts one open stream until dropped.
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Metrics of the instance on which `readers` wait. `counts_sessions`: its store can count the
    /// sessions that it holds.
    pub fn new(readers: Arc<relay::Registry>, counts_sessions: bool) -> Self {
        let mut registry = Registry::with_prefix("token_relay");
        let metrics = Self {
            streams: Family::default(),
            sessions_created: Family::default(),
            logins: Family::default(),
            issued: Family::default(),
            refreshes: Family::default(),
            deliveries: Family::default(),
            deliveries_lost: Counter::default(),
            delivery_seconds: latency(),
            transitions: Family::default(),
            reconnected: Family::default(),
            store_up: Gauge::default(),
            store_state: Mutex::default(),
            handshakes: Family::default(),
            reloads: Family::default(),
            guesses: Family::default(),
            revocations: Family::default(),
            store_seconds: Family::new_with_constructor(latency),
            store_errors: Family::default(),
            store_sessions: Gauge::default(),
            registry: Registry::default(),
            logins_last_hour: LastHour::default(),
        };
        registry.register(
            "streams_open",
            "Readers that wait now, by client and transport",
            metrics.streams.clone(),
        );
        registry.register(
            "sessions_created",
            "Sessions created, by client",
            metrics.sessions_created.clone(),
        );
        registry.register("logins", "Sign-ins by client and outcome", metrics.logins.clone());
        registry.register(
            "tokens_issued",
            "Access tokens issued, by client and grant",
            metrics.issued.clone(),
        );
        registry.register(
            "refreshes",
            "Uses of refresh tokens by client and outcome",
            metrics.refreshes.clone(),
        );
        registry.register(
            "deliveries",
            "Tokens delivered to a reader, by client",
            metrics.deliveries.clone(),
        );
        registry.register(
            "deliveries_lost",
            "Tokens that the store handed out for a reader here and that could not be opened, sealed \
             with an unknown key or altered; anything else stays readable and is not lost. Must be 0",
            metrics.deliveries_lost.clone(),
        );
        registry.register_with_unit(
            "delivery",
            "Time from storing a sign-in to delivering its token",
            Unit::Seconds,
            metrics.delivery_seconds.clone(),
        );
        registry.register(
            "session_transitions",
            "Sessions that entered a state by a call to this instance",
            metrics.transitions.clone(),
        );
        registry.register(
            "streams_reconnected",
            "Readers that reconnected: with the ID of the last event, or in place of an earlier reader",
            metrics.reconnected.clone(),
        );
        registry.register("store_up", "Whether the store answers", metrics.store_up.clone());
        registry.register_with_unit(
            "store_call",
            "Store calls by operation, including those that failed",
            Unit::Seconds,
            metrics.store_seconds.clone(),
        );
        registry.register(
            "tls_handshakes",
            "TLS handshakes by outcome",
            metrics.handshakes.clone(),
        );
        registry.register(
            "guesses",
            "Wrong secrets, and attempts refused after too many of them, by the client that was named",
            metrics.guesses.clone(),
        );
        registry.register(
            "revocations",
            "Access tokens, grants, and accounts with everything that was granted, ended before their time",
            metrics.revocations.clone(),
        );
        for what in Revoked::iter() {
            drop(metrics.revocations.get_or_create(&ByRevoked { what }));
        }
        registry.register("reloads", "Reloads of the settings by outcome", metrics.reloads.clone());
        for outcome in [ReloadOutcome::Succeeded, ReloadOutcome::Failed] {
            drop(metrics.reloads.get_or_create(&ByReloadOutcome { outcome }));
        }
        registry.register(
            "store_errors",
            "Store calls that failed, by operation",
            metrics.store_errors.clone(),
        );
        if counts_sessions {
            registry.register(
                "store_sessions",
                "Sessions in memory, including those that ended recently",
                metrics.store_sessions.clone(),
            );
        }
        registry.register_collector(Box::new(Interrupted(readers)));
        registry.register_collector(Box::new(LostLogLines));
        // From the start, so that the first event of a kind shows as an increase.
        for state in STATES {
            drop(metrics.transitions.get_or_create(&ByState { state }));
        }
        for operation in OPERATIONS {
            drop(metrics.store_errors.get_or_create(&ByOperation { operation }));
        }
        for by in [Reconnect::LastEventId, Reconnect::NewestReader] {
            drop(metrics.reconnected.get_or_create(&ByReconnect { by }));
        }
        Self { registry, ..metrics }
    }

    /// Begins the counts of these clients of `surface`, which wait over `transports`, at zero.
    pub fn begin_clients(
        &self,
        surface: Surface,
        clients: &[ClientId],
        transports: &[&'static str],
    ) {
        for client in clients.iter().map(ClientLabel::of) {
            let named = || client.clone();
            drop(self.sessions_created.get_or_create(&ByClient { client: named() }));
            drop(self.deliveries.get_or_create(&ByClient { client: named() }));
            for &transport in transports {
                drop(self.streams.get_or_create(&ByTransport { client: named(), transport }));
            }
            for outcome in SignInOutcome::iter() {
                let outcome = outcome.into();
                drop(self.logins.get_or_create(&ByOutcome { client: named(), outcome }));
            }
            for grant in TokenGrant::iter().filter(|grant| grant.surface() == surface) {
                let grant = grant.into();
                drop(self.issued.get_or_create(&ByIssue { client: named(), grant }));
            }
            for secret in Guessed::iter().map(Into::into) {
                for answer in ["wrong", "refused"] {
                    let guess = ByGuess { client: named(), secret, answer };
                    drop(self.guesses.get_or_create(&guess));
                }
            }
        }
    }

    /// Counts a stream as open until the guard is dropped.
    pub fn stream_opened(&self, client: &ClientId, transport: &'static str) -> OpenStream {
        let client = ClientLabel::of(client);
        let gauge = self.streams.get_or_create_owned(&ByTransport { client, transport });
        gauge.inc();
        OpenStream(gauge)
    }

    /// Counts a session that `client` created.
    pub fn session_created(&self, client: &ClientId) {
        self.sessions_created.get_or_create(&ByClient { client: ClientLabel::of(client) }).inc();
    }

    /// Counts the end of a sign-in.
    pub fn login(&self, client: &ClientId, outcome: SignInOutcome) {
        let client = ClientLabel::of(client);
        self.logins_last_hour.count(outcome.into());
        self.logins.get_or_create(&ByOutcome { client, outcome: outcome.into() }).inc();
    }

    /// Sign-ins of the last hour, by outcome.
    pub fn logins_last_hour(&self) -> BTreeMap<&'static str, u64> {
        self.logins_last_hour.counts()
    }

    /// Counts the use of a refresh token.
    pub fn refresh(&self, client: &ClientId, outcome: RefreshOutcome) {
        let client = ClientLabel::of(client);
        self.refreshes.get_or_create(&ByRefreshOutcome { client, outcome }).inc();
    }

    /// Counts a token delivered to its reader, `age` after the sign-in was stored.
    pub fn delivered(&self, client: &ClientId, age: Duration) {
        self.deliveries.get_or_create(&ByClient { client: ClientLabel::of(client) }).inc();
        self.delivery_seconds.observe(age.as_secs_f64());
    }

    /// Counts a token that could not be opened.
    pub fn lost(&self) {
        self.deliveries_lost.inc();
    }

    /// Counts a wrong secret that was answered as wrong.
    pub fn guess_wrong(&self, client: &ClientId, guessed: Guessed) {
        let (client, secret) = (ClientLabel::of(client), guessed.into());
        self.guesses.get_or_create(&ByGuess { client, secret, answer: "wrong" }).inc();
    }

    /// Counts an attempt that was refused with 429.
    pub fn guess_refused(&self, client: &ClientId, guessed: Guessed) {
        let (client, secret) = (ClientLabel::of(client), guessed.into());
        self.guesses.get_or_create(&ByGuess { client, secret, answer: "refused" }).inc();
    }

    /// Counts what was ended before its time.
    pub fn revoked(&self, what: Revoked) {
        self.revocations.get_or_create(&ByRevoked { what }).inc();
    }

    /// Counts a TLS handshake.
    pub fn handshake(&self, outcome: HandshakeOutcome) {
        self.handshakes.get_or_create(&ByHandshakeOutcome { outcome }).inc();
    }

    /// Counts a reload of the settings.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.reloads.get_or_create(&ByReloadOutcome { outcome }).inc();
    }

    /// Counts a reader that reconnected.
    pub fn stream_reconnected(&self, by: Reconnect) {
        self.reconnected.get_or_create(&ByReconnect { by }).inc();
    }

    /// Records whether the store answered the last call.
    pub fn store_answered(&self, answered: bool) {
        self.store_up.set(i64::from(answered));
        let mut state = self.store_state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.answers.is_none_or(|(before, _)| before != answered) {
            state.answers = Some((answered, UnixTime::now()));
        }
    }

    /// How the store is.
    pub fn store_state(&self) -> StoreState {
        *self.store_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exposition as OpenMetrics text. `held`: the sessions that the store holds, if it knows.
    pub fn encode(&self, held: Option<usize>) -> String {
        if let Some(held) = held {
            let held = i64::try_from(held).unwrap_or(i64::MAX);
            self.store_sessions.set(held);
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl SignInObserver for Metrics {
    fn ended(&self, client: &ClientId, outcome: SignInOutcome) {
        self.login(client, outcome);
    }

    fn issued(&self, client: &ClientId, grant: TokenGrant) {
        let client = ClientLabel::of(client);
        self.issued.get_or_create(&ByIssue { client, grant: grant.into() }).inc();
    }
}

impl StoreObserver for Metrics {
    fn call_finished(&self, operation: &'static str, elapsed: Duration, failed: bool) {
        let by_operation = ByOperation { operation };
        self.store_seconds.get_or_create(&by_operation).observe(elapsed.as_secs_f64());
        if failed {
            self.store_errors.get_or_create(&by_operation).inc();
            let mut state = self.store_state.lock().unwrap_or_else(PoisonError::into_inner);
            state.last_error = Some((operation, UnixTime::now()));
        }
    }

    fn state_entered(&self, state: &'static str) {
        self.transitions.get_or_create(&ByState { state }).inc();
    }
}

//! What the operator can count: Prometheus metrics of the HTTP surface and of deliveries.
//!
//! Written by the handlers, read by `operator`.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// How a reader waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs)]
pub enum Transport {
    Sse,
    WebSocket,
    LongPoll,
}

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum LoginOutcome {
    /// The token was stored for its session.
    Succeeded,
    /// The person or the provider said no.
    Denied,
    /// The provider could not be reached or answered nonsense.
    ProviderFailed,
    /// The store stayed away.
    StoreFailed,
    /// The session was over.
    TooLate,
}

/// What came of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RefreshOutcome {
    /// A new access token.
    Refreshed,
    /// Not valid, expired, or not this client's.
    Refused,
    /// Used a second time; its grant is ended.
    Reused,
    /// The service failed.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTransport {
    transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: LoginOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRefreshOutcome {
    outcome: RefreshOutcome,
}

/// The metrics of one instance.
pub struct Metrics {
    registry: Registry,
    streams: Family<ByTransport, Gauge>,
    sessions_created: Counter,
    logins: Family<ByOutcome, Counter>,
    refreshes: Family<ByRefreshOutcome, Counter>,
    deliveries: Counter,
    deliveries_lost: Counter,
    delivery_seconds: Histogram,
    store_up: Gauge,
    store_seconds: Histogram,
}

/// Counts one open stream until dropped.
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("token_relay");
        let latency = || {
            Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
            ])
        };
        let metrics = Self {
            streams: Family::default(),
            sessions_created: Counter::default(),
            logins: Family::default(),
            refreshes: Family::default(),
            deliveries: Counter::default(),
            deliveries_lost: Counter::default(),
            delivery_seconds: latency(),
            store_up: Gauge::default(),
            store_seconds: latency(),
            registry: Registry::default(),
        };
        registry.register("streams_open", "Readers waiting now", metrics.streams.clone());
        registry.register("sessions_created", "Sessions created", metrics.sessions_created.clone());
        registry.register("logins", "Logins by outcome", metrics.logins.clone());
        registry.register(
            "refreshes",
            "Uses of refresh tokens by outcome",
            metrics.refreshes.clone(),
        );
        registry.register("deliveries", "Tokens handed to a reader", metrics.deliveries.clone());
        registry.register(
            "deliveries_lost",
            "Tokens that could not be opened for their reader; 0 unless keys are wrong",
            metrics.deliveries_lost.clone(),
        );
        registry.register_with_unit(
            "delivery",
            "From the stored login to its reader",
            Unit::Seconds,
            metrics.delivery_seconds.clone(),
        );
        registry.register("store_up", "Whether the store answers", metrics.store_up.clone());
        registry.register_with_unit(
            "store_ping",
            "Round trip to the store",
            Unit::Seconds,
            metrics.store_seconds.clone(),
        );
        for transport in [Transport::Sse, Transport::WebSocket, Transport::LongPoll] {
            drop(metrics.streams.get_or_create(&ByTransport { transport }));
        }
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a stream as open until the guard is dropped.
    pub fn stream_opened(&self, transport: Transport) -> OpenStream {
        let gauge = self.streams.get_or_create_owned(&ByTransport { transport });
        gauge.inc();
        OpenStream(gauge)
    }

    /// Counts a created session.
    pub fn session_created(&self) {
        self.sessions_created.inc();
    }

    /// Counts the end of a login.
    pub fn login(&self, outcome: LoginOutcome) {
        self.logins.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// Counts the use of a refresh token.
    pub fn refresh(&self, outcome: RefreshOutcome) {
        self.refreshes.get_or_create(&ByRefreshOutcome { outcome }).inc();
    }

    /// Counts a token handed to its reader, `age` after the login was stored.
    pub fn delivered(&self, age: Duration) {
        self.deliveries.inc();
        self.delivery_seconds.observe(age.as_secs_f64());
    }

    /// Counts a token that could not be opened.
    pub fn lost(&self) {
        self.deliveries_lost.inc();
    }

    /// Records a ping of the store; `None` when it did not answer.
    pub fn store_answered(&self, round_trip: Option<Duration>) {
        self.store_up.set(i64::from(round_trip.is_some()));
        if let Some(round_trip) = round_trip {
            self.store_seconds.observe(round_trip.as_secs_f64());
        }
    }

    /// The exposition as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

//! Traces: which request belongs to which sign-in, from the dialog to the delivery, across
//! instances. Off unless `OTLP_ENDPOINT` is set, and then without cost.
//!
//! `http` begins a span for each request and keeps the sign-in's place in the trace with the
//! session, in the dialog's sealed cookie and in the sealed payload; `login`, `token`, `relay` and
//! `store` add what they do by way of the request that is being handled, which is ambient here.
//! Whatever happens outside of a request (a stream that waits) has no span and keeps none.
//! Spans hold no session ID, token, secret, code or claim; a session is its hash, as in the log.
//!
//! Without the cargo feature `opentelemetry` every function does nothing.

mod context;
#[cfg(feature = "opentelemetry")]
mod exporter;
pub mod log;
#[cfg(feature = "opentelemetry")]
mod spans;
#[cfg(not(feature = "opentelemetry"))]
mod without;

use std::time::Duration;

pub use crate::telemetry::context::{TRACEPARENT, TraceContext};
#[cfg(feature = "opentelemetry")]
pub use crate::telemetry::spans::{
    Child, Link, Tracing, adopt, child, current, deliver, go_on, log_ids, note, store_call,
};
#[cfg(not(feature = "opentelemetry"))]
pub use crate::telemetry::without::{
    Child, Link, Tracing, adopt, child, current, deliver, go_on, log_ids, note, store_call,
};

/// Which traces are exported; the names are those of `OTEL_TRACES_SAMPLER`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// `always_on`.
    AlwaysOn,
    /// `always_off`.
    AlwaysOff,
    /// `traceidratio`: this part of all traces.
    Ratio(f64),
    /// `parentbased_always_on`: as the caller says, all without one.
    ParentBasedAlwaysOn,
    /// `parentbased_always_off`: as the caller says, none without one.
    ParentBasedAlwaysOff,
    /// `parentbased_traceidratio`: as the caller says, this part without one.
    ParentBasedRatio(f64),
}

/// Where traces go and which.
#[derive(Clone)]
pub struct TracingOptions {
    /// Base URL of the receiver (OTLP over HTTP, protobuf); `v1/traces` is appended.
    pub endpoint: url::Url,
    /// Headers of each export; values may be secret.
    pub headers: Vec<(String, zeroize::Zeroizing<String>)>,
    /// `service.name`.
    pub service_name: String,
    /// Which traces are exported.
    pub sampler: Sampler,
}

/// Traces were asked for and cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// This build cannot.
    #[error("this build has no traces (cargo feature `opentelemetry`)")]
    NotBuiltIn,
    /// The exporter cannot be made; holds no header.
    #[error("{0}")]
    Exporter(String),
}

/// What a span is in relation to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work of this service.
    Internal,
    /// A call to another one.
    Client,
    /// Hands on what another instance takes up.
    Producer,
}

/// A request as its span shows it.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: http::Method,
    /// The route it matched, never its path.
    pub route: String,
    /// `http` or `https`, as the caller sees it.
    pub scheme: &'static str,
    /// Host by which the service is known.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The caller's place in a trace.
    pub incoming: Option<TraceContext>,
    /// The trace that it continues is known to its handler only: [`adopt`] says it.
    pub adopts: bool,
}

/// How long the end of an export may be waited for when the process ends.
pub const LONGEST_FLUSH: Duration = Duration::from_secs(5);

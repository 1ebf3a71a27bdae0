//! Traces: which request belongs to which sign-in, from the dialog to the delivery, across
//! instances. Off unless `OTLP_ENDPOINT` is set, and then without cost.
//!
//! A request's handler gets its [`Trace`] as a parameter and hands it to whatever it calls. The
//! sign-in's place in the trace is stored with the session, in the dialog's sealed cookie and in the
//! sealed payload, so that it continues across requests and instances. Work outside of a request
//! (a stream that waits) has no span. Spans hold no session ID, token, secret, code or claim;
//! a session is its hash, as in the log.
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
    Child, DeliverySpan, Link, RequestSpan, Trace, Tracing, log_ids,
};
#[cfg(not(feature = "opentelemetry"))]
pub use crate::telemetry::without::{
    Child, DeliverySpan, Link, RequestSpan, Trace, Tracing, log_ids,
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
    /// `parentbased_always_on`: as the caller decides; without a caller, all.
    ParentBasedAlwaysOn,
    /// `parentbased_always_off`: as the caller decides; without a caller, none.
    ParentBasedAlwaysOff,
    /// `parentbased_traceidratio`: as the caller decides; without a caller, this part.
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

/// Traces are configured and cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// This build has no traces.
    #[error("this build has no traces (cargo feature `opentelemetry`)")]
    NotBuiltIn,
    /// The exporter cannot be made; holds no header.
    #[error("{0}")]
    Exporter(String),
}

/// How a span relates to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work of this service.
    Internal,
    /// A call to another one.
    Client,
    /// Hands work on to another instance.
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
    /// The span waits for its handler to name the trace that it continues ([`Trace::adopt`]).
    pub deferred: bool,
}

/// Time limit for the last export when the process ends.
pub const MAX_FLUSH: Duration = Duration::from_secs(5);

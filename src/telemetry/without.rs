//! `telemetry` in a build without the feature `opentelemetry`: every function does nothing.

use std::{borrow::Cow, convert::Infallible, fmt, time::Duration};

use http::Response;

use crate::telemetry::{Kind, RequestHead, TraceContext, TracingError, TracingOptions};

/// Cannot exist.
#[derive(Clone, Debug)]
pub struct Tracing(Infallible);

impl Tracing {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: &TracingOptions) -> Result<Self, TracingError> {
        Err(TracingError::NotBuiltIn)
    }

    /// Cannot be called.
    pub fn request(&self, _: RequestHead) -> RequestSpan {
        match self.0 {}
    }

    /// Cannot be called.
    pub async fn shut_down(&self, _: Duration) {
        match self.0 {}
    }
}

/// Cannot exist.
pub struct RequestSpan(Infallible);

impl RequestSpan {
    /// Cannot be called.
    pub fn trace(&self) -> Trace {
        match self.0 {}
    }

    /// Cannot be called.
    pub async fn run<B>(self, _: impl Future<Output = Response<B>>) -> Response<B> {
        match self.0 {}
    }
}

/// No trace.
#[derive(Clone, Debug, Default)]
pub struct Trace;

impl Trace {
    /// No trace.
    pub fn none() -> Self {
        Self
    }

    /// Always.
    pub fn is_none(&self) -> bool {
        true
    }

    /// Nothing.
    pub fn adopt(&self, _: impl fmt::Display, _: Option<TraceContext>) {}

    /// Nothing.
    pub fn resume(&self, _: Option<TraceContext>) {}

    /// None.
    pub fn context(&self) -> Option<TraceContext> {
        None
    }

    /// Nothing.
    pub fn note(&self, _: &'static str, _: impl Into<String>) {}

    /// No span.
    pub fn child(&self, _: impl Into<Cow<'static, str>>, _: Kind) -> Child {
        Child(Self)
    }

    /// Nothing.
    pub fn store_call(&self, _: &'static str, _: Duration, _: bool) {}

    /// No link.
    pub fn link(&self) -> Link {
        Link
    }
}

/// No span.
#[derive(Debug)]
pub struct Child(Trace);

impl std::ops::Deref for Child {
    type Target = Trace;

    fn deref(&self) -> &Trace {
        &self.0
    }
}

impl Child {
    /// Nothing.
    pub fn set(&self, _: &'static str, _: impl Into<String>) {}

    /// Nothing.
    pub fn set_number(&self, _: &'static str, _: i64) {}

    /// Nothing.
    pub fn failed(&self, _: impl Into<String>) {}

    /// Nothing.
    pub fn end(self) {}
}

/// No link.
#[derive(Clone, Debug)]
pub struct Link;

/// No span.
pub struct DeliverySpan;

impl DeliverySpan {
    /// No span.
    pub fn new(
        _: Option<&Tracing>,
        _: impl fmt::Display,
        _: Option<TraceContext>,
        _: &Link,
    ) -> Self {
        Self
    }

    /// Writes log lines.
    pub fn log(&self, write: impl FnOnce()) {
        write();
    }
}

/// None.
pub fn log_ids() -> Option<TraceContext> {
    None
}

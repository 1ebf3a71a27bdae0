//! What `trace` is in a build without the feature `opentelemetry`: nothing.

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
    pub async fn request<B>(
        &self,
        _: RequestHead,
        _: impl Future<Output = Response<B>>,
    ) -> Response<B> {
        match self.0 {}
    }

    /// Cannot be called.
    pub async fn shut_down(&self, _: Duration) {
        match self.0 {}
    }
}

/// No span.
pub struct Child;

impl Child {
    /// Runs `work`.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        work.await
    }

    /// Runs `work`.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }

    /// Nothing.
    pub fn end(self) {}

    /// None.
    pub fn context(&self) -> Option<TraceContext> {
        None
    }

    /// Nothing.
    pub fn set(&self, _: &'static str, _: impl Into<String>) {}

    /// Nothing.
    pub fn set_number(&self, _: &'static str, _: i64) {}

    /// Nothing.
    pub fn failed(&self, _: impl Into<String>) {}
}

/// No link.
#[derive(Clone)]
pub struct Link;

impl Link {
    /// None.
    pub fn to_current() -> Self {
        Self
    }

    /// Runs `work`.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// Nothing.
pub fn adopt(_: impl fmt::Display, _: Option<TraceContext>) {}

/// Nothing.
pub fn go_on(_: Option<TraceContext>) {}

/// No span.
pub fn child(_: impl Into<Cow<'static, str>>, _: Kind) -> Child {
    Child
}

/// No span.
pub fn deliver(_: Option<&Tracing>, _: impl fmt::Display, _: Option<TraceContext>) -> Child {
    Child
}

/// None.
pub fn current() -> Option<TraceContext> {
    None
}

/// None.
pub fn log_ids() -> Option<TraceContext> {
    None
}

/// Nothing.
pub fn note(_: &'static str, _: impl Into<String>) {}

/// Nothing.
pub fn store_call(_: &'static str, _: Duration, _: bool) {}

//! Spans of requests, of their parts, and of deliveries.
//!
//! A request's span begins as late as possible, with the time of its arrival: a dialog's request
//! belongs to the trace of its session, which is known only once its cookie or its token has been
//! read.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::Response;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    context::FutureExt as _,
    trace::{
        Link as SpanLink, Span as _, SpanBuilder, SpanContext, SpanKind, Status,
        TraceContextExt as _, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::telemetry::{
    Kind, MAX_FLUSH, RequestHead, TraceContext, TracingError, TracingOptions, exporter,
};

/// Which session a span is about: the beginning of its key, as in the log.
const SESSION: &str = "token_relay.session";

impl TraceContext {
    fn of(span: &SpanContext, brought: bool) -> Option<Self> {
        span.is_valid().then(|| Self {
            trace_id: span.trace_id().to_bytes(),
            span_id: span.span_id().to_bytes(),
            sampled: span.is_sampled(),
            brought,
        })
    }

    fn to_span_context(self) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace_id),
            SpanId::from_bytes(self.span_id),
            if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
            true,
            TraceState::default(),
        )
    }
}

/// Makes and exports spans. Cheap to clone.
#[derive(Clone)]
pub struct Tracing(Arc<Inner>);

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl fmt::Debug for Tracing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tracing")
    }
}

/// A request that is being handled.
struct Request {
    tracing: Tracing,
    head: RequestHead,
    arrived: SystemTime,
    span: Mutex<Begun>,
}

enum Begun {
    /// Not begun yet, with the calls of the store that were made meanwhile.
    NotYet(Vec<StoreCall>),
    /// In this context.
    Begun { context: Context, brought: bool },
}

struct StoreCall {
    operation: &'static str,
    ended: SystemTime,
    took: Duration,
    failed: bool,
}

impl Request {
    /// The context of its span, which begins now if it has not yet. `stored` is the place in a trace
    /// that the session or the dialog has.
    ///
    /// A trace that a caller brought wins over one begun here. If both were brought and are not
    /// the same, the sign-in stays in its own, and the span is linked to the other.
    fn begin(&self, stored: Option<TraceContext>) -> (Context, bool) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        let early = match &mut *span {
            Begun::Begun { context, brought } => return (context.clone(), *brought),
            Begun::NotYet(early) => std::mem::take(early),
        };
        let (parent, other) = match (self.head.incoming, stored) {
            (Some(incoming), Some(stored))
                if stored.brought && incoming.trace_id != stored.trace_id =>
            {
                (Some(stored), Some(incoming))
            }
            (Some(incoming), stored) => {
                (Some(incoming), stored.filter(|stored| stored.trace_id != incoming.trace_id))
            }
            (None, stored) => (stored, None),
        };
        let brought = parent.is_some_and(|parent| parent.brought);
        let mut builder = self.builder();
        if let Some(other) = other {
            builder = builder.with_links(vec![SpanLink::with_context(other.to_span_context())]);
        }
        let mut above = Context::new();
        if let Some(parent) = parent {
            above = above.with_remote_span_context(parent.to_span_context());
        }
        let tracer = &self.tracing.0.tracer;
        let context = above.with_span(tracer.build_with_context(builder, &above));
        for call in early {
            call.record(tracer, &context);
        }
        *span = Begun::Begun { context: context.clone(), brought };
        (context, brought)
    }

    fn builder(&self) -> SpanBuilder {
        let RequestHead { method, route, scheme, host, port, .. } = &self.head;
        let known = matches!(
            method.as_str(),
            "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH"
        );
        let (method, shown) =
            if known { (method.as_str(), method.as_str()) } else { ("_OTHER", "HTTP") };
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route.clone()),
            KeyValue::new("url.scheme", *scheme),
        ];
        if let Some(host) = host {
            attributes.push(KeyValue::new("server.address", host.clone()));
        }
        if let Some(port) = port {
            attributes.push(KeyValue::new("server.port", i64::from(*port)));
        }
        SpanBuilder::from_name(format!("{shown} {route}"))
            .with_kind(SpanKind::Server)
            .with_start_time(self.arrived)
            .with_attributes(attributes)
    }
}

impl StoreCall {
    /// Makes its span after the fact, under `parent`.
    fn record(self, tracer: &SdkTracer, parent: &Context) {
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let began = self.ended.checked_sub(self.took).unwrap_or(self.ended);
        let builder = SpanBuilder::from_name(format!("store {}", self.operation))
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes([
                KeyValue::new("db.system.name", "redis"),
                KeyValue::new("db.operation.name", self.operation),
            ]);
        let mut span = tracer.build_with_context(builder, parent);
        if self.failed {
            span.set_attribute(KeyValue::new("error.type", "unavailable"));
            span.set_status(Status::error("the store call failed"));
        }
        span.end_with_timestamp(self.ended);
    }
}

impl Tracing {
    /// Starts to export. Must be called within the runtime.
    ///
    /// # Errors
    /// When the exporter cannot be made. An unavailable receiver is no error.
    pub fn start(options: &TracingOptions) -> Result<Self, TracingError> {
        let provider = exporter::provider(options)?;
        let tracer = provider.tracer("token-relay");
        Ok(Self(Arc::new(Inner { provider, tracer })))
    }

    /// Begins the span of a request, whose handler gets [`RequestSpan::trace`].
    pub fn request(&self, head: RequestHead) -> RequestSpan {
        let deferred = head.deferred;
        let request = Arc::new(Request {
            tracing: self.clone(),
            head,
            arrived: SystemTime::now(),
            span: Mutex::new(Begun::NotYet(Vec::new())),
        });
        if !deferred {
            request.begin(None);
        }
        RequestSpan(request)
    }

    /// Exports the remaining spans and ends, within at most `within`.
    pub async fn shut_down(&self, within: Duration) {
        let within = within.min(MAX_FLUSH);
        let (done, ended) = tokio::sync::oneshot::channel();
        let provider = self.0.provider.clone();
        // Not a thread of the runtime, whose end would wait for it.
        std::thread::spawn(move || {
            let _ = done.send(provider.shutdown_with_timeout(within));
        });
        match tokio::time::timeout(within, ended).await {
            Ok(Ok(Ok(()))) => tracing::info!("traces exported"),
            _ => tracing::warn!("the last traces may not have been exported"),
        }
    }
}

/// The span of one request.
pub struct RequestSpan(Arc<Request>);

impl RequestSpan {
    /// The request's place in its trace, for its handler.
    pub fn trace(&self) -> Trace {
        Trace(Some(Position { request: Arc::clone(&self.0), part: None }))
    }

    /// Runs the handler and ends the span with its answer. Log lines written meanwhile name the
    /// trace.
    pub async fn run<B>(self, handler: impl Future<Output = Response<B>>) -> Response<B> {
        let response =
            handler.with_context(Context::new().with_value(Logged(self.0.clone()))).await;
        let (context, _) = self.0.begin(None);
        let (span, status) = (context.span(), response.status());
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
        span.end();
        response
    }
}

/// A place in the trace of a request, or nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trace(Option<Position>);

#[derive(Clone)]
struct Position {
    request: Arc<Request>,
    /// The context of a part of the request that has a span of its own.
    part: Option<Context>,
}

impl Position {
    /// Where its next child belongs.
    fn context(&self) -> Context {
        self.part.clone().unwrap_or_else(|| self.request.begin(None).0)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Trace" } else { "Trace(none)" })
    }
}

impl Trace {
    /// No trace.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Names the session that the request is about, and the trace that the request continues: what
    /// the session or the dialog has stored of it. Only the first call decides on the trace.
    pub fn adopt(&self, session: impl fmt::Display, stored: Option<TraceContext>) {
        if let Some(position) = &self.0 {
            let (context, _) = position.request.begin(stored);
            context.span().set_attribute(KeyValue::new(SESSION, session.to_string()));
        }
    }

    /// Names the trace that a request without a session continues.
    pub fn resume(&self, stored: Option<TraceContext>) {
        if let Some(position) = &self.0 {
            position.request.begin(stored);
        }
    }

    /// This place, to be stored or handed on.
    pub fn context(&self) -> Option<TraceContext> {
        let position = self.0.as_ref()?;
        let (_, brought) = position.request.begin(None);
        TraceContext::of(position.context().span().span_context(), brought)
    }

    /// Sets an attribute of the request's span.
    pub fn note(&self, name: &'static str, value: impl Into<String>) {
        if let Some(position) = &self.0 {
            let (context, _) = position.request.begin(None);
            context.span().set_attribute(KeyValue::new(name, value.into()));
        }
    }

    /// Begins a part of the work here; its span ends when the value is dropped.
    pub fn child(&self, name: impl Into<std::borrow::Cow<'static, str>>, kind: Kind) -> Child {
        Child(Self(self.0.as_ref().map(|position| {
            let builder = SpanBuilder::from_name(name).with_kind(match kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Client => SpanKind::Client,
                Kind::Producer => SpanKind::Producer,
            });
            let above = position.context();
            let span = position.request.tracing.0.tracer.build_with_context(builder, &above);
            let part = Some(above.with_span(span));
            Position { request: Arc::clone(&position.request), part }
        })))
    }

    /// Records a call of the store that has just ended.
    pub fn store_call(&self, operation: &'static str, took: Duration, failed: bool) {
        let Some(Position { request, part }) = &self.0 else { return };
        let call = StoreCall { operation, ended: SystemTime::now(), took, failed };
        let mut span = request.span.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *span, part) {
            (Begun::NotYet(early), _) => early.push(call),
            (Begun::Begun { .. }, Some(part)) => call.record(&request.tracing.0.tracer, part),
            (Begun::Begun { context, .. }, None) => call.record(&request.tracing.0.tracer, context),
        }
    }

    /// What a waiting stream keeps of this place.
    pub fn link(&self) -> Link {
        Link(self.context().filter(TraceContext::is_sampled).map(Arc::new))
    }
}

/// A span that ends when this is dropped; none where there is no trace.
#[derive(Debug)]
pub struct Child(Trace);

impl std::ops::Deref for Child {
    type Target = Trace;

    fn deref(&self) -> &Trace {
        &self.0
    }
}

impl Child {
    fn set_attribute(&self, attribute: KeyValue) {
        if let Some(Position { part: Some(part), .. }) = &self.0.0 {
            part.span().set_attribute(attribute);
        }
    }

    /// Sets an attribute.
    pub fn set(&self, name: &'static str, value: impl Into<String>) {
        self.set_attribute(KeyValue::new(name, value.into()));
    }

    /// Sets a numeric attribute.
    pub fn set_number(&self, name: &'static str, value: i64) {
        self.set_attribute(KeyValue::new(name, value));
    }

    /// Marks the span as failed: `kind` is a word for the failure, such as a status.
    pub fn failed(&self, kind: impl Into<String>) {
        self.set("error.type", kind);
        if let Some(Position { part: Some(part), .. }) = &self.0.0 {
            part.span().set_status(Status::error(""));
        }
    }

    /// Ends the span.
    pub fn end(self) {}
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(Position { part: Some(part), .. }) = &self.0.0 {
            part.span().end();
        }
    }
}

/// What a waiting stream keeps of the request that opened it: nothing unless that is exported.
#[derive(Clone, Debug)]
pub struct Link(Option<Arc<TraceContext>>);

/// The delivery of one token to its reader.
pub struct DeliverySpan(Option<Context>);

impl DeliverySpan {
    /// Continues the trace of the login, and links to the request with which the reader waits.
    pub fn new(
        tracing: Option<&Tracing>,
        session: impl fmt::Display,
        login: Option<TraceContext>,
        reader: &Link,
    ) -> Self {
        let Some((tracing, login)) = tracing.zip(login) else { return Self(None) };
        let mut builder = SpanBuilder::from_name("deliver")
            .with_kind(SpanKind::Consumer)
            .with_attributes([KeyValue::new(SESSION, session.to_string())]);
        if let Some(reader) = &reader.0 {
            builder = builder.with_links(vec![SpanLink::with_context(reader.to_span_context())]);
        }
        let above = Context::new().with_remote_span_context(login.to_span_context());
        let span = tracing.0.tracer.build_with_context(builder, &above);
        Self(Some(above.with_span(span)))
    }

    /// Writes log lines that name this span.
    pub fn log(&self, write: impl FnOnce()) {
        let _guard = self.0.clone().map(Context::attach);
        write();
    }
}

impl Drop for DeliverySpan {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// The request whose log lines are being written. The one thing here that is ambient, because
/// a log line takes no parameters.
struct Logged(Arc<Request>);

/// The IDs for the log line that is being written. Unlike [`Trace::context`] it begins no span.
pub fn log_ids() -> Option<TraceContext> {
    let (span, request) = Context::map_current(|context| {
        let request = context.get::<Logged>().map(|logged| Arc::clone(&logged.0));
        (TraceContext::of(context.span().span_context(), false), request)
    });
    span.or_else(|| {
        let request = request?;
        let begun = request.span.lock().unwrap_or_else(PoisonError::into_inner);
        match &*begun {
            Begun::Begun { context, .. } => TraceContext::of(context.span().span_context(), false),
            Begun::NotYet(_) => request.head.incoming,
        }
    })
}

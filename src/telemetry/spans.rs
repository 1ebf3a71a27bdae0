//! Spans of requests, of what they do, and of deliveries.
//!
//! The request that is being handled is a value in the ambient OpenTelemetry context. Its own span
//! begins as late as possible, with the time of its arrival: a dialog's request belongs to the
//! trace of its session, which is known only once its cookie or its token has been read.

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
    Kind, LONGEST_FLUSH, RequestHead, TraceContext, TracingError, TracingOptions, exporter,
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

/// The request in the ambient context.
struct Current(Arc<Request>);

impl Request {
    /// The context of its span, which begins now if it has not yet. `kept` is the place in a trace
    /// that the session or the dialog has.
    ///
    /// A trace that a caller brought wins over one begun here. If both were brought and are not
    /// the same, the sign-in stays in its own, and the span is linked to the other.
    fn begin(&self, kept: Option<TraceContext>) -> (Context, bool) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        let early = match &mut *span {
            Begun::Begun { context, brought } => return (context.clone(), *brought),
            Begun::NotYet(early) => std::mem::take(early),
        };
        let (parent, other) = match (self.head.incoming, kept) {
            (Some(incoming), Some(kept)) if kept.brought && incoming.trace_id != kept.trace_id => {
                (Some(kept), Some(incoming))
            }
            (Some(incoming), kept) => {
                (Some(incoming), kept.filter(|kept| kept.trace_id != incoming.trace_id))
            }
            (None, kept) => (kept, None),
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
            span.set_status(Status::error("the store did not answer as it should"));
        }
        span.end_with_timestamp(self.ended);
    }
}

impl Tracing {
    /// Begins to export. Must be called within the runtime.
    ///
    /// # Errors
    /// When the exporter cannot be made. A receiver that is away is no error.
    pub fn start(options: &TracingOptions) -> Result<Self, TracingError> {
        let provider = exporter::provider(options)?;
        let tracer = provider.tracer("token-relay");
        Ok(Self(Arc::new(Inner { provider, tracer })))
    }

    /// Handles a request in a span of its own.
    pub async fn request<B>(
        &self,
        head: RequestHead,
        handler: impl Future<Output = Response<B>>,
    ) -> Response<B> {
        let adopts = head.adopts;
        let request = Arc::new(Request {
            tracing: self.clone(),
            head,
            arrived: SystemTime::now(),
            span: Mutex::new(Begun::NotYet(Vec::new())),
        });
        if !adopts {
            request.begin(None);
        }
        let ambient = Context::new().with_value(Current(Arc::clone(&request)));
        let response = handler.with_context(ambient).await;
        let (context, _) = request.begin(None);
        let (span, status) = (context.span(), response.status());
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
        span.end();
        response
    }

    /// Exports what is left and ends, in `within` at the most.
    pub async fn shut_down(&self, within: Duration) {
        let within = within.min(LONGEST_FLUSH);
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

/// The request that is being handled, and the context of the part of it that has a span of its own.
fn handled() -> Option<(Arc<Request>, Option<Context>)> {
    Context::map_current(|context| {
        let request = Arc::clone(&context.get::<Current>()?.0);
        Some((request, context.has_active_span().then(|| context.clone())))
    })
}

/// The request that is being handled, and the context in which its next child belongs.
fn ambient() -> Option<(Arc<Request>, Context)> {
    let (request, context) = handled()?;
    let context = context.unwrap_or_else(|| request.begin(None).0);
    Some((request, context))
}

/// A token is handed to its reader: continues the trace of the login that stored it, and links to
/// the request by which the reader waits.
pub fn deliver(
    tracing: Option<&Tracing>,
    session: impl fmt::Display,
    login: Option<TraceContext>,
) -> Child {
    let Some((tracing, login)) = tracing.zip(login) else { return Child(None) };
    let mut builder = SpanBuilder::from_name("deliver")
        .with_kind(SpanKind::Consumer)
        .with_attributes([KeyValue::new(SESSION, session.to_string())]);
    let reader = ambient().map_or_else(Context::current, |(_, context)| context);
    let reader = reader.span().span_context().clone();
    if reader.is_valid() {
        builder = builder.with_links(vec![SpanLink::with_context(reader)]);
    }
    let above = Context::new().with_remote_span_context(login.to_span_context());
    let span = tracing.0.tracer.build_with_context(builder, &above);
    Child(Some(above.with_span(span)))
}

/// Says which session the request is about, and to which trace it belongs: what the session or the
/// dialog kept of it. The first word on the trace counts.
pub fn adopt(session: impl fmt::Display, kept: Option<TraceContext>) {
    if let Some(request) = request() {
        let (context, _) = request.begin(kept);
        context.span().set_attribute(KeyValue::new(SESSION, session.to_string()));
    }
}

/// Says to which trace a request belongs that is about no session yet.
pub fn go_on(kept: Option<TraceContext>) {
    if let Some(request) = request() {
        request.begin(kept);
    }
}

fn request() -> Option<Arc<Request>> {
    Context::map_current(|context| Some(Arc::clone(&context.get::<Current>()?.0)))
}

/// Where the request is in its trace, to be kept or handed on.
pub fn current() -> Option<TraceContext> {
    let (request, context) = ambient()?;
    let (_, brought) = request.begin(None);
    TraceContext::of(context.span().span_context(), brought)
}

/// What a log line says of the trace, if there is one. Unlike [`current`] it begins nothing.
pub fn log_ids() -> Option<TraceContext> {
    let (span, request) = Context::map_current(|context| {
        let request = context.get::<Current>().map(|current| Arc::clone(&current.0));
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

/// An attribute of the span of the request.
pub fn note(name: &'static str, value: impl Into<String>) {
    if let Some((request, _)) = ambient() {
        request.begin(None).0.span().set_attribute(KeyValue::new(name, value.into()));
    }
}

/// A part of what the request does; its span ends with the value.
pub fn child(name: impl Into<std::borrow::Cow<'static, str>>, kind: Kind) -> Child {
    Child(ambient().map(|(request, context)| {
        let builder = SpanBuilder::from_name(name).with_kind(match kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Client => SpanKind::Client,
            Kind::Producer => SpanKind::Producer,
        });
        let span = request.tracing.0.tracer.build_with_context(builder, &context);
        // Still with the request in it.
        Context::current().with_span(span)
    }))
}

/// A call of the store that has just ended. Outside of a request it has no span.
pub fn store_call(operation: &'static str, took: Duration, failed: bool) {
    let Some((request, context)) = handled() else { return };
    let call = StoreCall { operation, ended: SystemTime::now(), took, failed };
    let mut span = request.span.lock().unwrap_or_else(PoisonError::into_inner);
    match (&mut *span, context) {
        (Begun::NotYet(early), _) => early.push(call),
        (Begun::Begun { .. }, Some(context)) => call.record(&request.tracing.0.tracer, &context),
        (Begun::Begun { context, .. }, None) => call.record(&request.tracing.0.tracer, context),
    }
}

/// A span that ends when this is dropped; none when there is no trace.
pub struct Child(Option<Context>);

impl Child {
    /// Does `work` in it.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let context = self.0.clone().unwrap_or_else(Context::current);
        work.with_context(context).await
    }

    /// Does `work` in it.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let _guard = self.0.clone().map(Context::attach);
        work()
    }

    /// Its place in the trace.
    pub fn context(&self) -> Option<TraceContext> {
        TraceContext::of(self.0.as_ref()?.span().span_context(), false)
    }

    /// Sets an attribute.
    pub fn set(&self, name: &'static str, value: impl Into<String>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value.into()));
        }
    }

    /// Sets an attribute that is a number.
    pub fn set_number(&self, name: &'static str, value: i64) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Ends it.
    pub fn end(self) {}

    /// It failed: `kind` is a word for it, such as a status.
    pub fn failed(&self, kind: impl Into<String>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("error.type", kind.into()));
            context.span().set_status(Status::error(""));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// What a waiting stream keeps of the request that opened it: nothing unless that is exported.
#[derive(Clone)]
pub struct Link(Option<Arc<TraceContext>>);

impl Link {
    /// To the request that is being handled.
    pub fn to_current() -> Self {
        Self(current().filter(TraceContext::is_sampled).map(Arc::new))
    }

    /// Does `work`, from which [`deliver`] links here.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let span = self.0.as_ref().map(|context| context.to_span_context());
        let _guard = span.map(|span| Context::new().with_remote_span_context(span).attach());
        work()
    }
}

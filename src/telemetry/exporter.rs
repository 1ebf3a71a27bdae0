//! Sends spans to the receiver, and logs once when that fails and once when it works again.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler as SdkSampler, SdkTracerProvider},
};

use crate::{
    telemetry::{Sampler, TracingError, TracingOptions},
    util::http_client::{self, CallError},
};

/// Time limit for one export. A slower receiver loses spans and delays nothing else.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of an answer in bytes; it only names refused spans.
const MAX_ANSWER: usize = 64 * 1024;

/// The HTTP client. The exporter calls it from a thread of its own, outside of the runtime.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

impl Sender {
    fn new() -> Result<Self, TracingError> {
        let failed = |error: &dyn std::fmt::Display| TracingError::Exporter(error.to_string());
        let client = http_client::builder(TIMEOUT).build().map_err(|error| failed(&error))?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| failed(&error))?;
        Ok(Self { client, runtime, failing: AtomicBool::new(false) })
    }

    fn noted(&self, problem: Option<&str>) {
        let failing = problem.is_some();
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return;
        }
        match problem {
            Some(problem) => tracing::warn!(problem, "traces are not exported; sign-ins continue"),
            None => tracing::info!("traces are exported again"),
        }
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let answer = match request.try_into() {
        Ok(request) => http_client::call(&client, request, MAX_ANSWER).await,
        Err(error) => Err(CallError::from(error)),
    };
    answer.map(|answer| answer.map(Bytes::from)).map_err(|error| error.chain())
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.runtime.spawn(send(self.client.clone(), request)).await;
        let result = sent.unwrap_or_else(|_| Err("the process ends".to_owned()));
        match &result {
            Ok(answer) if answer.status().is_success() => self.noted(None),
            Ok(answer) => self.noted(Some(&format!("the receiver answered {}", answer.status()))),
            Err(problem) => self.noted(Some(problem)),
        }
        result.map_err(HttpError::from)
    }
}

fn sampler(sampler: Sampler) -> SdkSampler {
    let parent_based = |root| SdkSampler::ParentBased(Box::new(root));
    match sampler {
        Sampler::AlwaysOn => SdkSampler::AlwaysOn,
        Sampler::AlwaysOff => SdkSampler::AlwaysOff,
        Sampler::Ratio(ratio) => SdkSampler::TraceIdRatioBased(ratio),
        Sampler::ParentBasedAlwaysOn => parent_based(SdkSampler::AlwaysOn),
        Sampler::ParentBasedAlwaysOff => parent_based(SdkSampler::AlwaysOff),
        Sampler::ParentBasedRatio(ratio) => parent_based(SdkSampler::TraceIdRatioBased(ratio)),
    }
}

/// Builds the exporter: a bounded queue and one thread. When the queue is full, spans are dropped.
pub(crate) fn provider(options: &TracingOptions) -> Result<SdkTracerProvider, TracingError> {
    let endpoint = format!("{}/v1/traces", options.endpoint.as_str().trim_end_matches('/'));
    let headers = options.headers.iter();
    let headers: HashMap<String, String> =
        headers.map(|(name, value)| (name.clone(), value.to_string())).collect();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(TIMEOUT)
        .with_headers(headers)
        .with_http_client(Sender::new()?)
        .build()
        .map_err(|_| TracingError::Exporter("the endpoint or a header is not usable".to_owned()))?;
    let mut instance = [0; 16];
    // Without randomness all instances are called the same, and no key could have been made.
    let _ = getrandom::fill(&mut instance);
    let resource = Resource::builder()
        .with_service_name(options.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", hex::encode(instance)))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_sampler(sampler(options.sampler))
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build())
}

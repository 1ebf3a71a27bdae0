//! Traces over OTLP.

use url::Url;

use crate::{
    api::Secret,
    settings::{
        declaration::{secret, section, setting},
        source::Source,
        value::{number, text},
    },
    telemetry::{Sampler, TracingOptions},
};

section! {
    /// Traces over OTLP.
    pub struct TraceSettings {
        /// Base URL of an OpenTelemetry receiver for traces (OTLP over HTTP)
        endpoint: Option<Url> = setting("OTLP_ENDPOINT").optional("off")
            .alias(&["OTEL_EXPORTER_OTLP_ENDPOINT"]), endpoint;
        /// Headers of each export, `name=value` separated by commas
        headers: Vec<(String, Secret)> = secret("OTLP_HEADERS").optional("none")
            .alias(&["OTEL_EXPORTER_OTLP_HEADERS"]), headers;
        /// Service name in traces
        service_name: String =
            setting("OTEL_SERVICE_NAME").default("token-relay").unprefixed(), text;
        /// Traces to export: `[parentbased_]always_on`, `…always_off`, `…traceidratio`
        sampler: String =
            setting("OTEL_TRACES_SAMPLER").default("parentbased_always_on").unprefixed(), sampler;
        /// Share of the traces for `…traceidratio`, from 0 to 1
        ratio: f64 = setting("OTEL_TRACES_SAMPLER_ARG").default("1").unprefixed(), number(0.0..=1.0);
    }
}

impl TraceSettings {
    /// The section where traces are on. Variables of the OpenTelemetry specification may stand in
    /// every environment and concern others, so they are not looked at where traces are off.
    pub(crate) fn read_if_on(source: &mut Source) -> Option<Self> {
        source.has("OTLP_ENDPOINT").then(|| Self::read(source)).flatten()
    }

    /// What the exporter is started with; `None` where traces are off.
    pub fn options(&self) -> Option<TracingOptions> {
        let ratio = self.ratio;
        let headers = self.headers.iter();
        Some(TracingOptions {
            endpoint: self.endpoint.clone()?,
            headers: headers
                .map(|(name, value)| (name.clone(), value.expose().to_owned().into()))
                .collect(),
            service_name: self.service_name.clone(),
            sampler: match self.sampler.as_str() {
                "always_on" => Sampler::AlwaysOn,
                "always_off" => Sampler::AlwaysOff,
                "traceidratio" => Sampler::Ratio(ratio),
                "parentbased_always_off" => Sampler::ParentBasedAlwaysOff,
                "parentbased_traceidratio" => Sampler::ParentBasedRatio(ratio),
                _ => Sampler::ParentBasedAlwaysOn,
            },
        })
    }
}

/// A collector is often beside the service and speaks plain HTTP; spans hold no secret.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "a URL such as http://collector:4318".to_owned())?;
    let plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        return Ok(url);
    }
    Err("an http or https URL without user or query".to_owned())
}

fn headers(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && http::HeaderValue::from_str(value).is_ok();
        fits.then(|| (name.to_owned(), Secret::from(value)))
    };
    let pairs = text.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(header)
        .collect::<Option<_>>()
        .ok_or_else(|| "headers such as name=value, separated by commas".to_owned())
}

fn sampler(text: &str) -> Result<String, String> {
    match text.strip_prefix("parentbased_").unwrap_or(text) {
        "always_on" | "always_off" | "traceidratio" => Ok(text.to_owned()),
        _ => {
            Err("always_on, always_off or traceidratio, or one of them after parentbased_"
                .to_owned())
        }
    }
}

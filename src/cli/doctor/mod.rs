//! `token-relay doctor`: looks at a deployment from outside, through its proxy, and says which line
//! of the proxy's configuration mends what is wrong.
//!
//! What answers may be hostile: bodies are bounded, every wait ends, nothing is sent but to the
//! given origin, and no text of it reaches the terminal unfiltered.

mod answers;
mod held;
mod remedy;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version, header};
use serde::Serialize;
use serde_json::Value;
use token_relay_client::{
    api::{CreateRequest, CreateResponse},
    is_secure, printable,
};
use url::Url;

pub(super) use crate::cli::doctor::remedy::Proxy;
use crate::{
    api::{
        Secret,
        operator::{Health, Readiness},
        paths,
    },
    cli::doctor::{answers::is_problem, held::Held, remedy::Fault},
    oidc::Severity,
    session::SessionId,
    util::http_client,
};

/// Timeout of one request, and of everything that must arrive at once.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Difference between the clocks beyond which tokens may count as expired or not yet valid.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Maximum size of an answer, in bytes; the OpenAPI document is the largest.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// End of the name of the cookie that recognises a browser.
const BROWSER_COOKIE: &str = "token-relay-browser";

/// Options of `token-relay doctor`.
#[derive(clap::Args)]
pub(super) struct DoctorOptions {
    /// Public URL of the relay
    url: Url,
    /// Origin of an add-in, such as https://addin.example, to try cross-origin requests from
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Client ID with which sessions are created, where the relay has clients registered
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Duration for which a stream, a WebSocket and a long poll are held; shorter idle timeouts are
    /// found
    #[arg(long, value_name = "DURATION", default_value = "65s", value_parser = duration)]
    wait: Duration,
    /// Proxy whose configuration is shown [default: the one that names itself, else nginx]
    #[arg(long, value_enum)]
    proxy: Option<Proxy>,
    /// Print the findings as a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= Duration::from_secs(3600) => Ok(duration),
        _ => Err("expected a duration such as 65s, at most 1h".to_owned()),
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Diagnosis {
    /// How much it matters.
    pub(super) severity: Severity,
    /// What was looked at, such as `buffering`.
    check: &'static str,
    /// What was found.
    text: String,
    /// The proxy whose configuration `mend` is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<Proxy>,
    /// The line of configuration that mends it, or the setting of the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// What was found, one finding a line, followed by the line that mends it.
pub(super) fn lines(found: &[Diagnosis]) -> String {
    let line = |Diagnosis { severity, check, text, proxy, mend }: &Diagnosis| {
        let mut line = format!("{:<8} {check:<12} {text}\n", severity.as_str());
        if let Some(mend) = mend {
            let place = proxy.map_or("token-relay", Proxy::name);
            line.push_str(&format!("{:<21} {place}: {mend}\n", ""));
        }
        line
    };
    found.iter().map(line).collect()
}

/// A fault cannot be looked for: the relay cannot be asked at all.
struct Unusable(Diagnosis);

/// A session that was created, ended when the examination is over.
struct Session {
    id: SessionId,
    token: Secret,
}

/// What is asked, and what was found.
struct Doctor {
    base: Url,
    origin: Option<String>,
    client_id: Option<String>,
    wait: Duration,
    http: reqwest::Client,
    /// The same over HTTP/1.1, for upgrades.
    http1: reqwest::Client,
    /// The same with a connection for each request.
    anew: reqwest::Client,
    proxy: Proxy,
    found: Vec<Diagnosis>,
}

/// Looks at the relay; gives what was found. Ends within `wait` and a minute and a half.
pub(super) async fn examine(options: DoctorOptions) -> Vec<Diagnosis> {
    let mut doctor = match Doctor::new(&options) {
        Ok(doctor) => doctor,
        Err(Unusable(finding)) => return vec![finding],
    };
    let mut sessions = Vec::new();
    let limit = options.wait + 8 * TIMEOUT;
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, doctor.look(options.proxy, &mut sessions)) => ended,
        _ = tokio::signal::ctrl_c() => Ok(Err(Unusable(finding(
            Severity::Error, "connection", "ended by Ctrl-C",
        )))),
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(Unusable(finding))) => doctor.found.push(finding),
        Err(_) => doctor.found.push(finding(
            Severity::Error,
            "connection",
            format!("not done within {}", humantime::format_duration(limit)),
        )),
    }
    // Those that are open still; without an answer they expire by themselves.
    let ends = sessions.iter().map(|session| doctor.end(session));
    futures_util::future::join_all(ends).await;
    doctor.found
}

fn finding(severity: Severity, check: &'static str, text: impl AsRef<str>) -> Diagnosis {
    let text = printable(text.as_ref());
    Diagnosis { severity, check, text, proxy: None, mend: None }
}

impl Doctor {
    fn new(options: &DoctorOptions) -> Result<Self, Unusable> {
        let unusable = |text: &str| Unusable(finding(Severity::Error, "connection", text));
        if !is_secure(&options.url) {
            return Err(unusable("the URL must be https (http only on this machine)"));
        }
        let mut base = options.url.clone();
        base.set_query(None);
        base.set_fragment(None);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // A time limit holds for every wait in the place of one for the whole answer, since streams last.
        let build = |builder: reqwest::ClientBuilder| {
            let limit = options.wait + 6 * TIMEOUT;
            builder.timeout(limit).build().map_err(|error| unusable(&chain(&error)))
        };
        Ok(Self {
            http: build(http_client::builder(TIMEOUT))?,
            http1: build(http_client::builder(TIMEOUT).http1_only())?,
            anew: build(http_client::builder(TIMEOUT).pool_max_idle_per_host(0).http1_only())?,
            base,
            origin: options.origin.clone(),
            client_id: options.client_id.clone(),
            wait: options.wait,
            proxy: options.proxy.unwrap_or(Proxy::Nginx),
            found: Vec::new(),
        })
    }

    fn note(&mut self, check: &'static str, text: impl AsRef<str>) {
        self.found.push(finding(Severity::Note, check, text));
    }

    /// Something that a line of the proxy's configuration mends.
    fn diagnosis(
        &self,
        severity: Severity,
        check: &'static str,
        fault: Fault,
        text: &str,
    ) -> Diagnosis {
        let mend = Some(fault.line(self.proxy).to_owned());
        let proxy = (fault != Fault::Date).then_some(self.proxy);
        Diagnosis { proxy, mend, ..finding(severity, check, text) }
    }

    /// Reports the same.
    fn fault(&mut self, severity: Severity, check: &'static str, fault: Fault, text: &str) {
        self.found.push(self.diagnosis(severity, check, fault, text));
    }

    /// Something that a setting of the relay mends.
    fn misset(&mut self, severity: Severity, check: &'static str, text: &str, mend: String) {
        let mend = Some(printable(&mend));
        self.found.push(Diagnosis { mend, ..finding(severity, check, text) });
    }

    fn url(&self, path: &str) -> String {
        format!("{}{}", self.base, path.trim_start_matches('/'))
    }

    /// Sends a request and reads its answer, both within [`TIMEOUT`].
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Response<Vec<u8>>, String> {
        self.ask_on(&self.http, method, path, headers, body).await
    }

    /// The same with this client.
    async fn ask_on(
        &self,
        client: &reqwest::Client,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Response<Vec<u8>>, String> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(body).map_err(|error| error.to_string())?;
        let request = reqwest::Request::try_from(request).map_err(|error| chain(&error))?;
        let version = async {
            let mut answer = client.execute(request).await.map_err(|error| chain(&error))?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error))? {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Err(format!("the answer is larger than {MAX_ANSWER} bytes"));
                }
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::new(body);
            *response.status_mut() = answer.status();
            *response.version_mut() = answer.version();
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            Ok(response)
        };
        let slow = |_| format!("no answer within {}", humantime::format_duration(TIMEOUT));
        tokio::time::timeout(TIMEOUT, version).await.map_err(slow)?
    }

    async fn get(&self, path: &str) -> Result<Response<Vec<u8>>, String> {
        self.ask(Method::GET, path, &[], Vec::new()).await
    }

    /// The same on a connection of its own, which may lead to another instance.
    async fn ask_anew(&self, path: &str) -> Result<Response<Vec<u8>>, String> {
        self.ask_on(&self.anew, Method::GET, path, &[], Vec::new()).await
    }

    async fn look(
        &mut self,
        proxy: Option<Proxy>,
        sessions: &mut Vec<Session>,
    ) -> Result<(), Unusable> {
        let unusable = |text: &str| Unusable(finding(Severity::Error, "connection", text));
        let health = self.get(paths::HEALTHZ).await.map_err(|error| unusable(&error))?;
        let named = Proxy::of(health.headers());
        match (proxy, named) {
            (None, Some(named)) => {
                self.proxy = named;
                self.note("proxy", format!("{} names itself", named.name()));
            }
            (None, None) => self.note(
                "proxy",
                "no known proxy names itself; lines are those of nginx, see --proxy",
            ),
            (Some(chosen), _) => {
                self.proxy = chosen;
                self.note("proxy", format!("{}, as given by --proxy", chosen.name()));
            }
        }
        if health.status() != StatusCode::OK {
            let status = health.status();
            // Without this path it is the relay's own page that is missing.
            let below = self.base.path();
            if status == StatusCode::NOT_FOUND && below != "/" && is_problem(health.headers()) {
                let text = format!("the relay answers, but the proxy passes on {below} as well");
                let found = self.diagnosis(Severity::Error, "connection", Fault::Path, &text);
                return Err(Unusable(found));
            }
            if health.headers().contains_key(header::WWW_AUTHENTICATE) {
                return Err(unusable(&format!(
                    "{} asks for a password: what browsers and add-ins call must be open, the relay \
                     decides who may do what",
                    paths::HEALTHZ
                )));
            }
            if matches!(status.as_u16(), 502..=504) {
                let text = format!(
                    "{} answers {status}: the proxy does not reach the relay",
                    paths::HEALTHZ
                );
                let found = self.diagnosis(Severity::Error, "connection", Fault::Upstream, &text);
                return Err(Unusable(found));
            }
            return Err(unusable(&match health.headers().get(header::LOCATION) {
                Some(place) => format!(
                    "{} answers {status} and leads to {}; is that the public URL?",
                    paths::HEALTHZ,
                    String::from_utf8_lossy(place.as_bytes())
                ),
                None => format!("{} answers {status}; is that the public URL?", paths::HEALTHZ),
            }));
        }
        if serde_json::from_slice::<Health>(health.body()).is_err() {
            return Err(unusable("what answers is no relay; is that the public URL?"));
        }
        self.protocol(&health);
        self.clock(health.headers());
        self.readiness().await;
        self.plain_http().await;
        self.instances().await;
        self.metrics().await;
        let do_errors_arrive = self.errors().await?;
        self.cross_origin(do_errors_arrive).await?;
        let [first, second] = self.cookies(sessions).await?;
        self.session(&first).await?;
        let (third, created, _) = self.create(None, sessions).await?;
        self.dialog(&created).await;
        let held = tokio::join!(
            self.hold_stream(&first),
            self.hold_websocket(&second),
            self.hold_poll(&third),
        );
        let are_streams_buffered = matches!(held.0, Held::Late(_));
        self.report_stream(held.0, &held.1);
        self.report_websocket(held.1, are_streams_buffered);
        self.report_poll(held.2);
        Ok(())
    }

    fn protocol(&mut self, health: &Response<Vec<u8>>) {
        match (self.base.scheme(), health.version()) {
            ("https", Version::HTTP_2) => self.note("http2", "HTTP/2 is offered"),
            ("https", _) => self.fault(
                Severity::Warning,
                "http2",
                Fault::Http2,
                "HTTP/2 is not offered, so that a browser holds at most six streams of all its pages",
            ),
            _ => self.note("http2", "not looked at: it needs https"),
        }
    }

    fn clock(&mut self, headers: &HeaderMap) {
        let date = headers.get(header::DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(|text| httpdate::parse_http_date(text).ok()) else {
            return self.note("clock", "not looked at: the answer has no valid Date");
        };
        let now = SystemTime::now();
        let (skew, direction) = match now.duration_since(date) {
            Ok(behind) => (behind, "behind"),
            Err(ahead) => (ahead.duration(), "ahead of"),
        };
        let text = format!(
            "its clock is {} {direction} this machine's",
            humantime::format_duration(Duration::from_secs(skew.as_secs()))
        );
        if skew > MAX_CLOCK_SKEW {
            self.fault(Severity::Warning, "clock", Fault::Date, &text);
        } else {
            self.note("clock", text);
        }
    }

    async fn readiness(&mut self) {
        let mut tries = 0;
        let (status, state) = loop {
            let (status, body) = match self.get(paths::READYZ).await {
                Ok(answer) => (answer.status(), answer.into_body()),
                Err(error) => return self.note("readiness", error),
            };
            let Ok(state) = serde_json::from_slice::<Readiness>(&body) else {
                return self.note("readiness", format!("{} answers {status}", paths::READYZ));
            };
            // A relay that has just started has not asked the provider yet.
            tries += 1;
            if state.provider != "not yet reached" || tries > 5 {
                break (status, state);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let provider = state.provider_problem.unwrap_or(state.provider);
        let text = format!("{}, store {}, provider {provider}", state.status, state.store);
        let is_ready = status == StatusCode::OK && provider == "discovered";
        let severity = match (status, is_ready) {
            (_, true) => Severity::Note,
            (StatusCode::OK, false) => Severity::Warning,
            _ => Severity::Error,
        };
        if is_ready {
            self.note("readiness", text);
        } else {
            let mend = "token-relay check-config --online, where the relay runs".to_owned();
            self.misset(severity, "readiness", &text, mend);
        }
    }

    /// Whether HTTP without TLS leads to HTTPS, where both have their own ports.
    async fn plain_http(&mut self) {
        let check = "redirect";
        let mut plain = self.base.clone();
        if self.base.scheme() != "https" || plain.set_scheme("http").is_err() {
            return self.note(check, "not looked at: it needs https");
        }
        if self.base.port().is_some() {
            return self.note(check, "not looked at: which port has http is known for 443 alone");
        }
        let answer = self.http.get(plain).send();
        match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(answer)) => {
                let place = answer.headers().get(header::LOCATION);
                let place = place.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
                match place {
                    Some(place) if place.starts_with("https://") => {
                        self.note(check, "http leads to https");
                    }
                    _ => {
                        let text = format!(
                            "http is answered {} and does not lead to https",
                            answer.status()
                        );
                        self.fault(Severity::Warning, check, Fault::Redirect, &text);
                    }
                }
            }
            _ => self.note(check, "nothing answers at http"),
        }
    }

    async fn metrics(&mut self) {
        let check = "metrics";
        let is_open = |answer: &Response<Vec<u8>>, mark: &str| {
            answer.status() == StatusCode::OK
                && String::from_utf8_lossy(answer.body()).contains(mark)
        };
        match self.get(paths::METRICS).await {
            Ok(answer) if is_open(&answer, "token_relay_") => {
                let text = format!(
                    "{} can be read by everybody; close it, or serve it at METRICS_LISTEN alone",
                    paths::METRICS
                );
                self.fault(Severity::Warning, check, Fault::Metrics, &text);
            }
            _ => self.note(check, format!("{} is not reachable", paths::METRICS)),
        }
        let check = "operator";
        let page = paths::OPERATOR;
        let asks_for_token = |answer: &Response<Vec<u8>>| {
            let challenge = answer.headers().get(header::WWW_AUTHENTICATE);
            challenge.is_some_and(|it| {
                String::from_utf8_lossy(it.as_bytes()).contains("token-relay operator")
            }) || String::from_utf8_lossy(answer.body()).contains("OPERATOR_TOKEN")
        };
        match self.get(page).await {
            Ok(answer) if is_open(&answer, "token-relay: operator") => {
                let text = format!(
                    "{page} can be read by everybody: who signs in where and what fails; close it"
                );
                self.fault(Severity::Error, check, Fault::Metrics, &text);
            }
            Ok(answer) if asks_for_token(&answer) => {
                let text = format!(
                    "{page} is reachable and asks for OPERATOR_TOKEN; close it, or serve it at \
                     METRICS_LISTEN alone"
                );
                self.fault(Severity::Warning, check, Fault::Metrics, &text);
            }
            _ => self.note(check, format!("{page} is not reachable")),
        }
    }

    /// The one value of `Access-Control-Allow-Origin`, or what is wrong with it.
    fn allowed(&self, origin: &str, headers: &HeaderMap) -> Result<(), String> {
        let name = header::ACCESS_CONTROL_ALLOW_ORIGIN;
        let values: Vec<_> = headers
            .get_all(&name)
            .iter()
            .map(|it| String::from_utf8_lossy(it.as_bytes()))
            .collect();
        match values.as_slice() {
            [] => Err(format!("has no {name}")),
            [value] if value == origin => Ok(()),
            [value] => Err(format!("has {name}: {value} instead of {origin}")),
            values => Err(format!("has {name} {} times: {}", values.len(), values.join(", "))),
        }
    }

    async fn cross_origin(&mut self, do_errors_arrive: bool) -> Result<(), Unusable> {
        let Some(origin) = self.origin.clone() else {
            self.note("cors", "not looked at: --origin names an add-in's origin");
            return Ok(());
        };
        let preflight = [
            (header::ORIGIN, origin.as_str()),
            (header::ACCESS_CONTROL_REQUEST_METHOD, "POST"),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type"),
        ];
        let answer = self.ask(Method::OPTIONS, paths::SESSIONS, &preflight, Vec::new()).await;
        let wrong = match answer {
            Err(error) => Some(error),
            Ok(answer) if !answer.status().is_success() => {
                self.is_let_in(&answer, &[StatusCode::METHOD_NOT_ALLOWED])?;
                Some(format!("the preflight is answered {}", answer.status()))
            }
            Ok(answer) => {
                let headers = answer.headers();
                let allowed = headers.get(header::ACCESS_CONTROL_ALLOW_HEADERS);
                let allowed = allowed.map(|it| String::from_utf8_lossy(it.as_bytes()));
                let allowed = allowed.unwrap_or_default().to_ascii_lowercase();
                let missing =
                    !allowed.contains("authorization") || !allowed.contains("content-type");
                match self.allowed(&origin, headers) {
                    Err(wrong) => Some(format!("the answer to the preflight {wrong}")),
                    Ok(()) if missing => {
                        Some("the preflight allows no Authorization or Content-Type".to_owned())
                    }
                    Ok(()) => None,
                }
            }
        };
        let wrong = match wrong {
            Some(wrong) => Some(wrong),
            // An error is answered across origins as well, and creates nothing.
            None if do_errors_arrive => {
                let json =
                    [(header::ORIGIN, origin.as_str()), (header::CONTENT_TYPE, "application/json")];
                match self.ask(Method::POST, paths::SESSIONS, &json, b"[".to_vec()).await {
                    Err(error) => Some(error),
                    Ok(answer) => {
                        let allowed = self.allowed(&origin, answer.headers());
                        allowed.err().map(|wrong| format!("the answer to a request {wrong}"))
                    }
                }
            }
            None => None,
        };
        match wrong {
            None => self.note("cors", format!("{origin} may call")),
            // The relay leaves the header out for an origin that it does not allow; a proxy may as well.
            Some(wrong) if wrong.contains("has no ") => {
                let text = format!("{origin} may not call: {wrong}");
                let mend = format!("ALLOWED_ORIGINS={origin}, or origins of its client");
                self.misset(Severity::Error, "cors", &text, mend);
                let text =
                    "where the relay allows the origin already, the proxy removes the header";
                self.fault(Severity::Note, "cors", Fault::Cors, text);
            }
            Some(wrong) => {
                let text = format!("{origin} may not call: {wrong}");
                self.fault(Severity::Error, "cors", Fault::Cors, &text);
            }
        }
        Ok(())
    }

    /// Creates a session as a page of the relay would, with `cookie` if there is one.
    async fn create(
        &self,
        cookie: Option<&str>,
        sessions: &mut Vec<Session>,
    ) -> Result<(Session, CreateResponse, HeaderMap), Unusable> {
        let unusable = |text: String| Unusable(finding(Severity::Error, "session", text));
        let create = CreateRequest {
            bind: true,
            client_name: Some("token-relay doctor".to_owned()),
            client_id: self.client_id.clone(),
            ..CreateRequest::default()
        };
        let body = serde_json::to_vec(&create).map_err(|error| unusable(error.to_string()))?;
        let origin = self.base.origin().ascii_serialization();
        let mut headers =
            vec![(header::CONTENT_TYPE, "application/json"), (header::ORIGIN, origin.as_str())];
        headers.extend(cookie.map(|cookie| (header::COOKIE, cookie)));
        let answer = self.ask(Method::POST, paths::SESSIONS, &headers, body).await;
        let answer = answer.map_err(|error| unusable(format!("none can be created: {error}")))?;
        if answer.status() != StatusCode::CREATED {
            self.is_let_in(&answer, &[])?;
            let problem = serde_json::from_slice::<Value>(answer.body()).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or_default();
            let text = format!("none can be created: {} {detail}", answer.status());
            return Err(unusable(text.trim_end().to_owned()));
        }
        let (parts, body) = answer.into_parts();
        let no_relay = || unusable("what answers is no relay".to_owned());
        let created: CreateResponse = serde_json::from_slice(&body).map_err(|_| no_relay())?;
        let id = SessionId::parse(created.session_id.expose()).map_err(|_| no_relay())?;
        let token = created.session_token.clone().ok_or_else(no_relay)?;
        let is_plain = token.expose().bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain {
            return Err(no_relay());
        }
        sessions.push(Session { id: id.clone(), token: token.clone() });
        Ok((Session { id, token }, created, parts.headers))
    }

    /// Creates two sessions, the second with the cookie that the first one set.
    async fn cookies(&mut self, sessions: &mut Vec<Session>) -> Result<[Session; 2], Unusable> {
        let (first, created, headers) = self.create(None, sessions).await?;
        let is_public = Url::parse(&created.events_url)
            .is_ok_and(|url| url.as_str().starts_with(self.base.as_str()));
        if !is_public {
            let text = format!(
                "the relay calls itself {} but is reached at {}; cookies, links and cross-origin \
                 checks do not work so",
                Url::parse(&created.events_url).map_or_else(
                    |_| "something else".to_owned(),
                    |url| { url.origin().ascii_serialization() }
                ),
                self.base
            );
            let mend = format!("PUBLIC_URL={}", self.base.as_str().trim_end_matches('/'));
            self.misset(Severity::Error, "public_url", &text, mend);
            let second = self.create(None, sessions).await?.0;
            return Ok([first, second]);
        }
        let Some(cookie) = browser_cookie(&headers) else {
            // Without an Origin the relay neither sets it nor answers across origins.
            let is_unanswered =
                self.found.iter().any(|found| found.text.contains("has no access-control"));
            if is_unanswered {
                self.found.retain(|found| found.check != "cors");
                let text = "neither the relay's cookie nor its CORS headers arrive: the Origin header \
                    does not reach the relay";
                self.fault(Severity::Error, "origin", Fault::Origin, text);
            } else {
                let text =
                    "the relay's cookie does not arrive: the dialog cannot recognise a browser";
                self.fault(Severity::Error, "cookies", Fault::Cookies, text);
            }
            let second = self.create(None, sessions).await?.0;
            return Ok([first, second]);
        };
        let pair = cookie.split(';').next().unwrap_or_default().trim().to_owned();
        let attributes: Vec<_> =
            cookie.split(';').skip(1).map(|it| it.trim().to_ascii_lowercase()).collect();
        let has = |name: &str| attributes.iter().any(|it| it == name);
        let mut wrong = Vec::new();
        let mut expected = vec!["httponly", "samesite=lax", "path=/"];
        if self.base.scheme() == "https" {
            expected.push("secure");
            if !pair.starts_with("__Host-") {
                wrong.push("its name has no __Host-".to_owned());
            }
        }
        wrong.extend(expected.iter().filter(|it| !has(it)).map(|it| format!("{it} is missing")));
        if attributes.iter().any(|it| it.starts_with("domain")) {
            wrong.push("it has a Domain".to_owned());
        }
        let is_plain = pair.bytes().all(|byte| byte.is_ascii_graphic());
        let (second, _, headers) = self.create(is_plain.then_some(pair.as_str()), sessions).await?;
        if browser_cookie(&headers).is_some() && is_plain {
            wrong.push("the cookie that a browser sends does not reach the relay".to_owned());
        }
        if wrong.is_empty() {
            self.note("cookies", "arrive at the browser and come back whole");
        } else {
            let text = format!("a cookie was changed on its way: {}", wrong.join(", "));
            self.fault(Severity::Error, "cookies", Fault::Cookies, &text);
        }
        Ok([first, second])
    }

    /// Cancels a session, or ends what is left of it; how, where that is not possible.
    async fn end(&self, session: &Session) -> Result<(), String> {
        let path = paths::of_session(paths::SESSION, session.id.expose());
        let bearer = format!("Bearer {}", session.token.expose());
        let headers = [(header::AUTHORIZATION, bearer.as_str())];
        let answer = self.ask(Method::DELETE, &path, &headers, Vec::new()).await?;
        // A session that has ended already is no failure.
        match answer.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(format!("DELETE is answered {status}, so that nothing can be cancelled")),
        }
    }
}

/// The `Set-Cookie` that recognises a browser.
fn browser_cookie(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::SET_COOKIE).iter();
    let mut values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    values.find(|value| {
        value.split('=').next().is_some_and(|name| name.trim().ends_with(BROWSER_COOKIE))
    })
}

/// An error and its causes on one line, without the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

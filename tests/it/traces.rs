//! Traces, as a receiver gets them: one sign-in over two instances is one trace, nothing secret is
//! in it, and a receiver that is unavailable does no harm.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{
    Browser, Events, Process, client, create, form_action, hidden_inputs, redis, text,
};
use axum::{Router, body::Bytes, extract::State, routing::post};
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::span::SpanKind,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long the relay waits for a receiver: whatever waited for an export would take longer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

const SECRET: &str = crate::support::MEET_KEY;
const HEADER: &str = "key-of-the-receiver-0815";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A span as it arrived.
#[derive(Clone, Debug)]
struct Span {
    instance: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    kind: SpanKind,
    attributes: Vec<(String, String)>,
    links: Vec<(String, String)>,
    start: u64,
    end: u64,
}

impl Span {
    fn attribute(&self, name: &str) -> Option<&str> {
        let mut found = self.attributes.iter().filter(|(key, _)| key == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice in {self:?}");
        value
    }
}

fn plain(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().map(|each| (each.key.clone(), plain(each.value.as_ref()))).collect()
}

/// A receiver of OTLP over HTTP.
#[derive(Clone, Default)]
struct Receiver {
    exports: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let take = async |State(receiver): State<Self>, headers: HeaderMap, body: Bytes| {
            receiver.exports.lock().unwrap().push((headers, body));
            ([(header::CONTENT_TYPE, "application/x-protobuf")], Bytes::new())
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (receiver, url)
    }

    fn spans(&self) -> Vec<Span> {
        let exports = self.exports.lock().unwrap().clone();
        let mut spans = Vec::new();
        for (headers, body) in exports {
            assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
            assert_eq!(headers["x-key"], HEADER);
            let export = ExportTraceServiceRequest::decode(body).expect("OTLP in protobuf");
            for resource in export.resource_spans {
                let about = attributes(&resource.resource.unwrap().attributes);
                let of = |name: &str| {
                    let found = about.iter().find(|(key, _)| key == name);
                    found.unwrap_or_else(|| panic!("{name} in {about:?}")).1.clone()
                };
                assert_eq!(of("service.name"), "relay-under-test");
                assert!(!of("service.version").is_empty());
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let kind = span.kind();
                    let links = span.links.iter();
                    spans.push(Span {
                        instance: of("service.instance.id"),
                        name: span.name,
                        trace: hex::encode(span.trace_id),
                        id: hex::encode(span.span_id),
                        parent: hex::encode(span.parent_span_id),
                        kind,
                        attributes: attributes(&span.attributes),
                        links: links
                            .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
                            .collect(),
                        start: span.start_time_unix_nano,
                        end: span.end_time_unix_nano,
                    });
                }
            }
        }
        spans
    }

    /// Waits until all `names` are there; gives every span.
    async fn until(&self, names: &[&str]) -> Vec<Span> {
        let missing = || {
            let spans = self.spans();
            let there = |name: &&&str| !spans.iter().any(|span| span.name == **name);
            names.iter().filter(there).copied().collect::<Vec<_>>()
        };
        let deadline = Instant::now() + crate::support::TIMEOUT;
        while !missing().is_empty() {
            assert!(Instant::now() < deadline, "no {:?} among {:#?}", missing(), self.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.spans()
    }
}

/// Settings of an instance that exports to `receiver`.
fn exporting(receiver: &str) -> Vec<(&str, &str)> {
    vec![
        ("TOKEN_RELAY_OTLP_ENDPOINT", receiver),
        ("TOKEN_RELAY_OTLP_HEADERS", "x-key=key-of-the-receiver-0815"),
        ("OTEL_SERVICE_NAME", "relay-under-test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]
}

fn sharing<'a>(redis_url: &'a str, receiver: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut environment = exporting(receiver);
    environment.extend(crate::support::shared(redis_url));
    environment
}

fn at(relay: &Process, url: &str) -> String {
    format!("{}/{}", relay.url, url.splitn(4, '/').nth(3).unwrap())
}

/// The one span of that name in the trace.
fn one<'a>(spans: &'a [Span], trace: &str, name: &str) -> &'a Span {
    let found = spans.iter().filter(|span| span.trace == trace && span.name == name);
    let found = found.collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{name}: {found:#?} of {spans:#?}");
    found[0]
}

/// Creates a session within a trace of the add-in's own, if there is one.
async fn create_in(base: &str, traceparent: Option<&str>, body: Value) -> Value {
    let mut request = client().post(format!("{base}/addons/sessions")).json(&body);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sign_in_over_two_instances_is_one_trace_without_a_secret() {
    let server = redis::Server::start(&[]).await;
    let (receiver, url) = Receiver::start().await;
    let redis_url = server.url();
    let mut environment = sharing(&redis_url, &url);
    // The dialog shows the page that the add-in asked for, and no code.
    environment.push(("TOKEN_RELAY_CONFIRMATION", "never"));
    let (first, second) = (Process::demo(&environment), Process::demo(&environment));
    let body = json!({"bind": true, "confirm": true, "client_name": "Add-in of the test"});
    let session = create_in(&first.url, Some(&traceparent()), body).await;
    let session_token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(session_token)).await;

    let browser = Browser::default();
    let page = browser.open(&at(&second, text(&session, "transit_url"))).await;
    let mut fields = hidden_inputs(&page.body);
    fields.push(("decision".to_owned(), "continue".to_owned()));
    let login = browser.submit(form_action(&page).as_str(), &fields).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    let event = events.next().await.unwrap();
    let ended = client().delete(text(&session, "poll_url")).bearer_auth(session_token);
    assert_eq!(ended.send().await.unwrap().status(), StatusCode::NO_CONTENT);

    let stream = "GET /addons/sessions/{session_id}/events";
    let success = "GET /addons/success";
    let spans = receiver.until(&["deliver", success, stream, "GET /addons/redirect"]).await;
    // Parents first: each is the parent of the next.
    let post = one(&spans, TRACE, "POST /addons/sessions");
    let transit = one(&spans, TRACE, "GET /addons/transit/");
    let confirm = one(&spans, TRACE, "POST /addons/transit/confirm");
    let callback = one(&spans, TRACE, "GET /callback");
    let redirect = one(&spans, TRACE, "GET /addons/redirect");
    let fulfil = one(&spans, TRACE, "fulfil");
    let publish = one(&spans, TRACE, "publish");
    let deliver = one(&spans, TRACE, "deliver");
    let success = one(&spans, TRACE, success);
    assert_eq!(post.parent, PARENT);
    let chain = [post, transit, confirm, callback, redirect, fulfil, publish, deliver];
    for pair in chain.windows(2) {
        let [parent, child] = pair else { unreachable!() };
        assert_eq!(child.parent, parent.id, "{} under {}", child.name, parent.name);
        assert!(parent.start <= child.start, "{} before {}", parent.name, child.name);
    }
    assert_eq!(success.parent, redirect.id);
    assert_eq!(one(&spans, TRACE, "issue").parent, redirect.id);
    let exchange = spans.iter().find(|span| {
        span.parent == callback.id
            && span.kind == SpanKind::Client
            && span.attribute("http.request.method") == Some("POST")
    });
    let exchange = exchange.expect("the call to the token endpoint");
    assert_eq!(exchange.attribute("http.response.status_code"), Some("200"));
    assert!(exchange.attribute("url.full").unwrap().starts_with("http://127.0.0.1:"));
    // The store's calls, where they belong.
    for (name, parent) in [
        ("store create", post),
        ("store peek", transit),
        ("store enter", confirm),
        ("store mark", callback),
        ("store fulfil", publish),
    ] {
        let call = spans.iter().find(|span| span.name == name && span.parent == parent.id);
        let call = call.unwrap_or_else(|| panic!("{name} below {}", parent.name));
        assert_eq!(call.attribute("db.system.name"), Some("redis"));
        assert_eq!(call.attribute("db.operation.name"), name.strip_prefix("store "));
        assert_eq!((call.kind, &call.trace), (SpanKind::Client, &post.trace));
        assert!(call.start >= parent.start && call.end <= parent.end, "{name}");
    }
    // Both instances, each its part.
    assert_ne!(first.id(), second.id());
    assert_eq!(deliver.instance, post.instance);
    assert_ne!(deliver.instance, publish.instance);
    for span in [transit, confirm, callback, redirect, fulfil, success] {
        assert_eq!(span.instance, publish.instance, "{}", span.name);
    }
    let kinds = [
        (post, SpanKind::Server),
        (redirect, SpanKind::Server),
        (publish, SpanKind::Producer),
        (deliver, SpanKind::Consumer),
    ];
    for (span, kind) in kinds {
        assert_eq!(span.kind, kind, "{}", span.name);
    }
    // The stream came without a trace: it has its own, and the delivery is linked to it.
    let stream = spans.iter().find(|span| span.name == stream).unwrap();
    assert_ne!(stream.trace, TRACE);
    assert_eq!(deliver.links, [(stream.trace.clone(), stream.id.clone())]);
    // The conventions for HTTP; a session is its hash, the same everywhere.
    for (span, method, route, status) in [
        (post, "POST", "/addons/sessions", "201"),
        (callback, "GET", "/callback", "302"),
        (stream, "GET", "/addons/sessions/{session_id}/events", "200"),
    ] {
        assert_eq!(span.attribute("http.request.method"), Some(method));
        assert_eq!(span.attribute("http.route"), Some(route));
        assert_eq!(span.attribute("http.response.status_code"), Some(status));
        assert_eq!(span.attribute("url.scheme"), Some("http"));
        assert_eq!(span.attribute("server.address"), Some("127.0.0.1"));
    }
    let hash = post.attribute("token_relay.session").unwrap();
    for relay in [&first, &second] {
        redis::eventually("the log names the session", || async { relay.log().contains(hash) })
            .await;
    }
    for span in [transit, callback, redirect, deliver, stream] {
        assert_eq!(span.attribute("token_relay.session"), Some(hash), "{}", span.name);
    }

    // Nothing of the sign-in that is secret or personal is in a single exported byte.
    let mut secrets = vec![
        SECRET.to_owned(),
        HEADER.to_owned(),
        "alice".to_owned(),
        "Alice".to_owned(),
        "@example.com".to_owned(),
        "Add-in of the test".to_owned(),
        text(&event.data, "access_token").to_owned(),
        format!("127.0.0.1:{}", server.port),
    ];
    for member in ["session_id", "session_token", "transit_token", "user_code"] {
        secrets.push(text(&session, member).to_owned());
    }
    for (name, value) in fields.iter().filter(|(name, _)| name != "decision") {
        assert!(value.len() > 10, "{name}");
        secrets.push(value.clone());
    }
    // Code, state, nonce and challenge, in whatever address the browser saw.
    for address in login.trail.iter().chain(&page.trail) {
        let address = reqwest::Url::parse(address).unwrap();
        for (name, value) in address.query_pairs() {
            if ["code", "state", "nonce", "code_challenge", "dialog"].contains(&&*name) {
                secrets.push(value.into_owned());
            }
        }
    }
    assert!(secrets.len() >= 16, "{secrets:?}");
    let exports = receiver.exports.lock().unwrap();
    let exported = exports.iter().map(|(_, body)| body.to_vec()).collect::<Vec<_>>().concat();
    for secret in &secrets {
        let found = exported.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret:?} was exported");
    }
    println!("{} spans, {} bytes, {} secrets sought", spans.len(), exported.len(), secrets.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_the_caller_brings_is_gone_on_with_and_another_one_linked() {
    let (receiver, url) = Receiver::start().await;
    let mut environment = exporting(&url);
    environment
        .extend([("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"), ("TOKEN_RELAY_CONFIRMATION", "never")]);
    let relay = Process::demo(&environment);
    let other = "a".repeat(32);
    let others = format!("00-{other}-{PARENT}-01");

    // The add-in brings none, a proxy before the dialog brings one: the sign-in is in that.
    let session = create_in(&relay.url, None, json!({"bind": true})).await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", others.parse().unwrap());
    let page = Browser::sending(headers.clone()).to_login(&session).await;
    assert_eq!(page.url.path(), "/addons/success");
    let poll = client().get(text(&session, "poll_url")).header("traceparent", traceparent());
    let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
    assert_eq!(poll.status(), StatusCode::OK);
    let poll_name = "GET /addons/sessions/{session_id}";
    let spans = receiver.until(&["deliver", poll_name, "GET /addons/success"]).await;
    let transit = one(&spans, &other, "GET /addons/transit/");
    let post = spans.iter().find(|span| span.name == "POST /addons/sessions").unwrap();
    assert_eq!(transit.parent, PARENT);
    assert_eq!(transit.links, [(post.trace.clone(), post.id.clone())]);
    let deliver = one(&spans, &other, "deliver");
    let poll = one(&spans, TRACE, poll_name);
    assert_eq!(poll.parent, PARENT, "the poll is in the trace that it brought");
    assert_eq!(deliver.links, [(TRACE.to_owned(), poll.id.clone())]);

    // Both bring one: the sign-in stays in the add-in's, linked to the other.
    receiver.exports.lock().unwrap().clear();
    let session = create_in(&relay.url, Some(&traceparent()), json!({"bind": true})).await;
    let streams = "b".repeat(32);
    let stream = client().get(text(&session, "events_url"));
    let stream = stream.bearer_auth(text(&session, "session_token"));
    let stream = stream.header("traceparent", format!("00-{streams}-{PARENT}-01"));
    let mut events = Events::from_response(stream.send().await.unwrap());
    let page = Browser::sending(headers).to_login(&session).await;
    assert_eq!(page.url.path(), "/addons/success");
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    let spans = receiver.until(&["GET /addons/success", "deliver"]).await;
    let stream = one(&spans, &streams, "GET /addons/sessions/{session_id}/events");
    assert_eq!(stream.parent, PARENT);
    assert_eq!(one(&spans, TRACE, "deliver").links, [(streams.clone(), stream.id.clone())]);
    for name in ["GET /addons/transit/", "GET /callback", "GET /addons/redirect"] {
        let span = one(&spans, TRACE, name);
        assert_eq!(span.links, [(other.clone(), PARENT.to_owned())], "{name}");
    }

    // A caller that does not want to be traced is not, from the dialog to the delivery.
    receiver.exports.lock().unwrap().clear();
    let unsampled = traceparent().replace("-01", "-00");
    let session = create_in(&relay.url, Some(&unsampled), json!({"bind": true})).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    let page = Browser::default().to_login(&session).await;
    assert_eq!(page.url.path(), "/addons/success");
    events.next().await.unwrap();
    // A marker that is exported after all that.
    create_in(&relay.url, None, json!({})).await;
    let spans = receiver.until(&["POST /addons/sessions"]).await;
    let of_it = |span: &&Span| !span.name.ends_with("/events") && !span.name.starts_with("POST");
    assert_eq!(spans.iter().filter(of_it).map(|span| &span.name).collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_unavailable_or_never_answers_does_no_harm_and_is_named_once() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let held = Arc::clone(&accepted);
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = silent.accept().await {
            held.lock().unwrap().push(socket);
        }
    });
    let away = format!("http://127.0.0.1:{}", redis::free_port());
    for (url, is_away) in [(&away, true), (&silent_url, false)] {
        let mut environment = exporting(url);
        environment
            .extend([("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"), ("TOKEN_RELAY_DRAIN_TIMEOUT", "3s")]);
        let mut relay = Process::demo(&environment);
        let mut took = Vec::new();
        for _ in 0..5 {
            let session = create(&relay.url, Some(json!({"bind": true}))).await;
            let token = text(&session, "session_token");
            let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
            let began = Instant::now();
            let page = Browser::default().to_login(&session).await;
            assert_eq!(page.url.path(), "/addons/success");
            assert_eq!(events.next().await.unwrap().name, "authenticated");
            took.push(began.elapsed());
        }
        println!("sign-ins with a stream took {took:?}");
        assert!(took.iter().all(|one| *one < EXPORT_TIMEOUT), "{took:?}");
        if is_away {
            redis::eventually("it is said", || async {
                relay.log().contains("traces are not exported")
            })
            .await;
            // Several exports later it is still said once.
            for _ in 0..5 {
                create(&relay.url, None).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(relay.log().matches("traces are not exported").count(), 1);
        }
        let began = Instant::now();
        relay.signal("TERM");
        assert!(relay.wait().success());
        println!("ended in {:?}", began.elapsed());
        assert!(began.elapsed() < EXPORT_TIMEOUT, "{:?}", began.elapsed());
        assert!(!relay.log().contains(HEADER));
    }
    // What never answers was asked.
    assert!(!accepted.lock().unwrap().is_empty());
    accepting.abort();
}

/// How a receiver fails after it has accepted a connection.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Reads nothing.
    Hangs,
    /// Answers one byte at a time.
    Trickles,
    /// Begins an answer and resets the connection.
    Dies,
    /// Sends a body without an end.
    NeverEnds,
    /// Answers 503 and asks for patience.
    Refuses,
}

async fn fail(mut socket: tokio::net::TcpStream, fault: Fault) -> std::io::Result<()> {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n";
    if !matches!(fault, Fault::Hangs) {
        socket.read_buf(&mut Vec::with_capacity(65_536)).await?;
    }
    match fault {
        Fault::Hangs => std::future::pending::<()>().await,
        Fault::Trickles => {
            for byte in HEAD {
                socket.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Fault::Dies => {
            socket.write_all(&HEAD[..20]).await?;
            socket.set_zero_linger()?;
        }
        Fault::NeverEnds => {
            socket.write_all(HEAD).await?;
            socket.write_all(b"transfer-encoding: chunked\r\n\r\n").await?;
            loop {
                socket.write_all(b"5\r\nspans\r\n").await?;
            }
        }
        Fault::Refuses => {
            let answer = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\n\
                content-length: 0\r\nconnection: close\r\n\r\n";
            socket.write_all(answer).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_fails_in_any_way_delays_nothing() {
    const CREATIONS: usize = 400;
    let faults = [Fault::Hangs, Fault::Trickles, Fault::Dies, Fault::NeverEnds, Fault::Refuses];
    for fault in faults {
        let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", receiver.local_addr().unwrap());
        let failing = tokio::spawn(async move {
            while let Ok((socket, _)) = receiver.accept().await {
                tokio::spawn(fail(socket, fault));
            }
        });
        let mut environment = exporting(&url);
        environment.extend([
            ("TOKEN_RELAY_DRAIN_TIMEOUT", "3s"),
            ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000"),
            // A queue that fills at once.
            ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16"),
        ]);
        let mut relay = Process::demo(&environment);
        let mut took = Vec::new();
        for _ in 0..CREATIONS {
            let begun = Instant::now();
            create(&relay.url, Some(json!({"bind": true}))).await;
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        // A few may have waited for the machine.
        let slowest = took[CREATIONS - 1 - CREATIONS / 100];
        let begun = Instant::now();
        relay.signal("TERM");
        assert!(relay.wait().success());
        let ended = begun.elapsed();
        println!("{fault:?}: 99 % of {CREATIONS} creations within {slowest:?}, ended in {ended:?}");
        assert!(slowest < Duration::from_secs(1), "{fault:?}: {slowest:?}");
        assert!(ended < EXPORT_TIMEOUT, "{fault:?}: {ended:?}");
        let complaints = relay.log().matches("traces are not exported").count();
        assert!(complaints <= 1, "{fault:?}: {}", relay.log());
        failing.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_exported_when_the_process_ends() {
    let (receiver, url) = Receiver::start().await;
    let mut environment = exporting(&url);
    // Nobody would wait for so long.
    environment.retain(|(name, _)| *name != "OTEL_BSP_SCHEDULE_DELAY");
    environment.push(("OTEL_BSP_SCHEDULE_DELAY", "600000"));
    let mut relay = Process::demo(&environment);
    create(&relay.url, None).await;
    assert!(receiver.spans().is_empty());
    relay.signal("TERM");
    assert!(relay.wait().success());
    assert_eq!(receiver.spans().len(), 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_means_nothing_sent_and_no_thread_for_it() {
    let (receiver, url) = Receiver::start().await;
    let off: [&[(&str, &str)]; 3] = [
        &[],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_TRACES_SAMPLER", "always_off")],
    ];
    for environment in off {
        let mut environment = environment.to_vec();
        environment
            .extend([("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"), ("OTEL_BSP_SCHEDULE_DELAY", "20")]);
        let mut relay = Process::demo(&environment);
        let sampler = environment.iter().any(|(name, _)| *name == "OTEL_TRACES_SAMPLER");
        let session = create_in(&relay.url, Some(&traceparent()), json!({"bind": true})).await;
        let page = Browser::default().to_login(&session).await;
        assert_eq!(page.url.path(), "/addons/success");
        let tasks = std::fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap();
        let threads = tasks
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
            .collect::<Vec<_>>();
        let exporting = threads.iter().any(|name| name.starts_with("OpenTelemetry"));
        assert_eq!(exporting, sampler, "{threads:?}");
        relay.signal("TERM");
        assert!(relay.wait().success());
    }
    assert_eq!(receiver.exports.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_line_in_json_names_its_trace() {
    let (receiver, url) = Receiver::start().await;
    let mut environment = exporting(&url);
    environment.extend([
        ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
        ("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9"),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "test"),
        ("TOKEN_RELAY_LOG_FORMAT", "json"),
        ("TOKEN_RELAY_CONFIRMATION", "never"),
    ]);
    let relay = Process::start(&["serve"], &environment);
    let session = create_in(&relay.url, Some(&traceparent()), json!({"bind": true})).await;
    // The provider is away: a page with a reference, and the same trace.
    let page = Browser::default().to_login(&session).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    let transit = "GET /addons/transit/";
    let spans = receiver.until(&[transit]).await;
    redis::eventually("the last line is read", || async { relay.log().contains("sign-in failed") })
        .await;
    let log = relay.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let lines = lines.collect::<Vec<_>>();
    let line = |message: &str| {
        let found = lines.iter().find(|line| line["fields"]["message"] == message);
        found.unwrap_or_else(|| panic!("{message} in {log}"))
    };
    let created = line("session created");
    assert_eq!(created["trace_id"], TRACE);
    assert_eq!(created["span_id"], one(&spans, TRACE, "POST /addons/sessions").id);
    let ended = line("sign-in failed");
    assert_eq!(ended["trace_id"], TRACE);
    let reference = text(&ended["fields"], "reference");
    assert!(page.body.contains(reference), "the page shows {reference}");
    let transit = one(&spans, TRACE, transit);
    assert_eq!(transit.attribute("token_relay.reference"), Some(reference));
    assert_eq!(transit.attribute("error.type"), Some("502"));
    let outside = lines.iter().filter(|line| line.get("trace_id").is_none()).count();
    assert!(outside > 0, "lines outside of a request name none");
}

/// The surface of La Suite Meet: `init` in the add-in's trace, `exchange` by the browser, `poll`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_meet_compatible_surface_is_traced_as_well() {
    let (receiver, url) = Receiver::start().await;
    let return_to = "http://127.0.0.1:9/addin/done";
    let mut environment = exporting(&url);
    environment.extend([
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", return_to),
        ("ADDONS_CSRF_SECRET", SECRET),
        ("ADDONS_TOKEN_SECRET_KEY", SECRET),
    ]);
    let relay = Process::demo(&environment);
    let surface = format!("{}/api/v1.0", relay.url);
    let cookies = |answer: &reqwest::Response| {
        let set = answer.headers().get_all(header::SET_COOKIE).into_iter();
        let pairs = set.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap());
        pairs.map(str::to_owned).collect::<Vec<_>>()
    };
    let init = client().post(format!("{surface}/addons/sessions/init/"));
    let init = init.header("traceparent", traceparent()).send().await.unwrap();
    let add_in = cookies(&init).join("; ");
    let session: Value = init.json().await.unwrap();

    // A browser that does as it would over HTTPS.
    let (mut jar, mut next) = (Vec::new(), format!("{surface}/authenticate/?returnTo={return_to}"));
    while !next.starts_with(return_to) {
        let request = client().get(&next).header(header::COOKIE, jar.join("; "));
        let answer = request.send().await.unwrap();
        jar.extend(cookies(&answer));
        next = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    }
    let csrf = jar.iter().find_map(|cookie| cookie.strip_prefix("csrftoken=")).unwrap();
    let exchange = client().post(format!("{surface}/addons/sessions/exchange/"));
    let exchange = exchange
        .header(header::COOKIE, jar.join("; "))
        .header("x-csrftoken", csrf)
        .json(&json!({"transit_token": text(&session, "transit_token")}));
    assert_eq!(exchange.send().await.unwrap().status(), StatusCode::OK);
    let poll = client().post(format!("{surface}/addons/sessions/poll/"));
    let poll =
        poll.header(header::COOKIE, add_in).header("x-csrftoken", text(&session, "csrf_token"));
    assert_eq!(poll.send().await.unwrap().status(), StatusCode::OK);

    let spans = receiver.until(&["deliver", "POST /api/v1.0/addons/sessions/poll/"]).await;
    let init = one(&spans, TRACE, "POST /api/v1.0/addons/sessions/init/");
    let exchange = one(&spans, TRACE, "POST /api/v1.0/addons/sessions/exchange/");
    let publish = one(&spans, TRACE, "publish");
    let deliver = one(&spans, TRACE, "deliver");
    assert_eq!((&init.parent[..], &exchange.parent), (PARENT, &init.id));
    assert_eq!(deliver.parent, publish.id);
    // The login of the browser is for no session yet: a trace of its own.
    let begin = spans.iter().find(|span| span.name == "GET /api/v1.0/authenticate/").unwrap();
    let callback = one(&spans, &begin.trace, "GET /api/v1.0/callback/");
    assert_eq!(callback.parent, begin.id);
    for (span, named) in [(init, true), (exchange, true), (begin, false), (callback, false)] {
        assert_eq!(span.attribute("token_relay.session").is_some(), named, "{}", span.name);
    }
}

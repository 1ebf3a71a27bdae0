//! HTTP on the wire: what holds for every request, first or later on its connection, over TCP and
//! TLS. `field case N` names the public report that a test stands for.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::support::{
    certificate,
    redis::eventually,
    text,
    wire::{Relay, Transport, Wire},
};

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

/// The path and query of a URL.
fn path(url: &str) -> String {
    let url = reqwest::Url::parse(url).unwrap();
    url[url::Position::BeforePath..].to_owned()
}

fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: relay\r\n{fields}\r\n").into_bytes()
}

fn creation(body: &str) -> Vec<u8> {
    format!(
        "POST /addons/sessions HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

// Field case 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_shuts_down_its_sending_side_after_a_request_gets_the_answer() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        for (name, mut wire) in relay.both().await {
            wire.send(&get("/openapi.json", "")).await.unwrap();
            wire.finish().await;
            let answer = wire.answer().await.expect("an answer");
            assert_eq!(answer.status, 200, "{transport:?} {name}");
            assert!(answer.body.len() > 10_000);
            assert!(wire.rest().await.is_empty());
        }
        let before = relay.sessions_created().await;
        for (_, mut wire) in relay.both().await {
            wire.send(&creation(r#"{"bind":true}"#)).await.unwrap();
            wire.finish().await;
            assert_eq!(wire.answer().await.expect("an answer").status, 201);
            assert!(wire.rest().await.is_empty());
        }
        assert_eq!(relay.sessions_created().await, before + 2);
        // Two requests, then the end: both are answered.
        for (_, mut wire) in relay.both().await {
            let both = [get("/healthz", ""), get("/readyz", "")].concat();
            wire.send(&both).await.unwrap();
            wire.finish().await;
            assert_eq!(wire.answer().await.expect("the first").status, 200);
            assert_eq!(wire.answer().await.expect("the second").status, 200);
            assert!(wire.rest().await.is_empty());
        }
        // Half a body is no request.
        for (_, mut wire) in relay.both().await {
            let request = creation(r#"{"bind":true}"#);
            wire.send(&request[..request.len() - 1]).await.unwrap();
            wire.finish().await;
            let answer = wire.answer().await;
            assert!(answer.is_none_or(|answer| answer.status == 400));
        }
        assert_eq!(relay.sessions_created().await, before + 2);
    }
}

// Field case 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_client_gets_its_event_and_a_poll_its_state() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        let session = relay.create(None).await;
        for (name, mut wire) in relay.both().await {
            let poll = format!("{}?wait=60", path(text(&session, "poll_url")));
            wire.send(&get(&poll, "")).await.unwrap();
            wire.finish().await;
            let begun = Instant::now();
            let answer = wire.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text()), (202, r#"{"state":"pending"}"#), "{name}");
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
        for (name, mut wire) in relay.both().await {
            let session = relay.create(None).await;
            wire.send(&get(&path(text(&session, "events_url")), "")).await.unwrap();
            wire.finish().await;
            let head = wire.head().await.expect("an answer");
            assert_eq!(head.status, 200, "{transport:?} {name}");
            // Probes find out that it still reads.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let page = relay.browser().sign_in(&session, "alice").await;
            assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
            let rest = String::from_utf8(wire.rest().await).unwrap();
            assert!(rest.contains("event: authenticated"), "{transport:?} {name}: {rest}");
            assert!(rest.ends_with("\r\n0\r\n\r\n"), "{transport:?} {name}: {rest}");
        }
    }
}

async fn streams(relay: &Relay) -> u64 {
    let ready = relay.client().get(format!("{}/readyz", relay.process.url)).send().await.unwrap();
    ready.json::<serde_json::Value>().await.unwrap()["streams"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_connection_is_noticed_at_once() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[("TOKEN_RELAY_HEARTBEAT", "60s")]);
        for (name, mut wire) in relay.both().await {
            let session = relay.create(None).await;
            wire.send(&get(&path(text(&session, "events_url")), "")).await.unwrap();
            wire.until("retry: ").await.unwrap();
            assert_eq!(streams(&relay).await, 1);
            drop(wire);
            let begun = Instant::now();
            eventually("the stream is over", || async { streams(&relay).await == 0 }).await;
            assert!(begun.elapsed() < Duration::from_secs(3), "{transport:?} {name}");
        }
    }
}

/// Sends a request with a body of 5 MB, all of it, and reads the answer only then.
async fn send_all(mut wire: Wire, head: &str) -> (u16, String) {
    const LENGTH: usize = 5_000_000;
    let head = format!("{head}Host: relay\r\nContent-Length: {LENGTH}\r\n\r\n");
    wire.send(head.as_bytes()).await.unwrap();
    let part = vec![b' '; 50_000];
    for number in 0..LENGTH / part.len() {
        wire.send(&part).await.unwrap_or_else(|error| panic!("part {number}: {error}"));
    }
    let answer = wire.answer().await.expect("an answer");
    let text = answer.text().to_owned();
    // Then the connection is closed in order.
    assert!(wire.rest().await.is_empty());
    (answer.status, text)
}

// Field case 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_refusal_is_read_by_a_client_that_still_sends() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        let session = relay.create(Some(json!({"bind": true}))).await;
        let stream = path(text(&session, "events_url"));
        let json = "Content-Type: application/json\r\n";
        for (request, status) in [
            (format!("POST /addons/sessions HTTP/1.1\r\n{json}"), 413),
            (format!("POST /addons/transit/confirm HTTP/1.1\r\n{json}"), 415),
            (format!("POST /addons/introspect HTTP/1.1\r\n{json}"), 401),
            (format!("POST /nowhere HTTP/1.1\r\n{json}"), 404),
            (format!("PUT /addons/sessions HTTP/1.1\r\n{json}"), 405),
            (format!("GET {stream} HTTP/1.1\r\n"), 401),
        ] {
            for (name, wire) in relay.both().await {
                let (got, body) = send_all(wire, &request).await;
                if status == 415 {
                    assert!((400..=415).contains(&got), "{request}: {got} {body}");
                } else {
                    assert_eq!(got, status, "{transport:?} {name} {request} {body}");
                }
            }
        }
    }
}

// Field case 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_is_refused_before_it_sends() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        let expect = |path: &str, length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
            )
        };
        for (name, mut wire) in relay.both().await {
            wire.send(expect("/addons/sessions", 5_000_000).as_bytes()).await.unwrap();
            assert_eq!(wire.head().await.unwrap().status, 413, "{transport:?} {name}");
        }
        for (name, mut wire) in relay.both().await {
            wire.send(expect("/nowhere", 10).as_bytes()).await.unwrap();
            assert_eq!(wire.head().await.unwrap().status, 404, "{transport:?} {name}");
        }
        for (name, mut wire) in relay.both().await {
            wire.send(expect("/addons/sessions", 13).as_bytes()).await.unwrap();
            assert_eq!(wire.head().await.unwrap().status, 100, "{transport:?} {name}");
            wire.send(br#"{"bind":true}"#).await.unwrap();
            assert_eq!(wire.answer().await.unwrap().status, 201);
        }
        // Without the expectation it is the same: the length says enough.
        for (name, mut wire) in relay.both().await {
            let request = expect("/addons/sessions", 5_000_000);
            let request = request.replace("Expect: 100-continue\r\n", "");
            wire.send(request.as_bytes()).await.unwrap();
            assert_eq!(wire.answer().await.unwrap().status, 413, "{transport:?} {name}");
        }
    }
}

// Field case 11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_have_one_limit() {
    for transport in TRANSPORTS {
        let many = [("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000")];
        heads_of(&Relay::start(transport, &many)).await;
    }
}

async fn heads_of(relay: &Relay) {
    for is_stream in [false, true] {
        let with = |target: &str, fields: usize, bytes: usize| {
            let mut head = format!("GET {target} HTTP/1.1\r\nHost: relay\r\n");
            for number in 1..fields - 1 {
                head.push_str(&format!("x-{number}: y\r\n"));
            }
            let left = bytes.saturating_sub(head.len() + "x: \r\n\r\n".len());
            head.push_str(&format!("x: {}\r\n\r\n", "y".repeat(left)));
            head
        };
        for (fields, bytes, status) in [
            (100, 0, 200),
            (101, 0, 431),
            (2, 16 * 1024, 200),
            (2, 16 * 1024 + 1, 431),
            (2, 20_000, 431),
            (2, 40_000, 431),
            (50, 16 * 1024, 200),
        ] {
            for segment in [usize::MAX, 5_000, 1_000] {
                for (name, mut wire) in relay.both().await {
                    let session = relay.create(None).await;
                    let events = path(text(&session, "events_url"));
                    let head = with(if is_stream { &events } else { "/healthz" }, fields, bytes);
                    for part in head.as_bytes().chunks(segment.min(head.len())) {
                        // It may be refused before all of it is sent.
                        let _ = wire.send(part).await;
                        tokio::task::yield_now().await;
                    }
                    let answer = wire.head().await.expect("an answer");
                    assert_eq!(
                        answer.status, status,
                        "{name}: {fields} fields, {bytes} bytes in parts of {segment}"
                    );
                }
            }
        }
    }
}

/// Bodies that are not understood: a transfer coding (RFC 9112 §6.1), a content coding (RFC 9110
/// §15.5.16).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_coded_by_chunked_alone() {
    for transport in TRANSPORTS {
        codings_of(&Relay::start(transport, &[])).await;
    }
}

async fn codings_of(relay: &Relay) {
    const CHUNKED: &str = "d\r\n{\"bind\":true}\r\n0\r\n\r\n";
    for (fields, status) in [
        ("Transfer-Encoding: chunked\r\n", 201),
        ("Transfer-Encoding: CHUNKED\r\nContent-Encoding: identity\r\n", 201),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n", 415),
    ] {
        for (name, mut wire) in relay.both().await {
            let head = "POST /addons/sessions HTTP/1.1\r\nHost: relay\r\n\
                        Content-Type: application/json\r\n";
            wire.send(format!("{head}{fields}\r\n{CHUNKED}").as_bytes()).await.unwrap();
            let answer = wire.answer().await.unwrap();
            assert_eq!(answer.status, status, "{name} {fields} {}", answer.text());
            // No second request is found in what was not understood.
            if status == 501 {
                assert!(wire.rest().await.is_empty(), "{name} {fields}");
            }
        }
    }
}

/// hyper parses a malformed head that came whole, and waits for the rest of one that came in parts.
/// Either way the first request of a connection fares as a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_head_is_refused_on_a_new_connection_too() {
    for transport in TRANSPORTS {
        malformed_heads_of(&Relay::start(transport, &[])).await;
    }
}

async fn malformed_heads_of(relay: &Relay) {
    let events = "/addons/sessions/abcdefghijklmnopqrstuvwxyz/events";
    for head in [
        format!("GET {events}\r\n"),
        format!("GET {events} HTTP/1.1\r\nHost: a\r\n\r\r\n"),
        format!("GET {events} HTTP/1.1\r\nHo\0st: a\r\n"),
        "POST /addons/sessions-and-more HTTP/1.1\r\nHost: a\r\n\r\r\n".to_owned(),
    ] {
        for (name, mut wire) in relay.both().await {
            wire.send(head.as_bytes()).await.unwrap();
            assert_eq!(wire.head().await.expect(name).status, 400, "{name} {head:?}");
        }
    }
}

// Field case 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_wants_exactly_one_host() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        let session = relay.create(None).await;
        let events = path(text(&session, "events_url"));
        for target in ["/healthz", "/addons/sessions/x", "/nowhere", "/", "/metrics", &events] {
            for hosts in [
                "",
                "Host: a\r\nHost: a\r\n",
                "Host: a\r\nhost: b\r\n",
                "Host: a@b\r\n",
                "Host: a:x\r\n",
            ] {
                for (name, mut wire) in relay.both().await {
                    let request = format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
                    wire.send(request.as_bytes()).await.unwrap();
                    let answer = wire.answer().await.unwrap();
                    assert_eq!(answer.status, 400, "{transport:?} {name} {target} {hosts:?}");
                    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
                }
            }
        }
        // A target in absolute form does not replace it, and HTTP/1.0 knows none.
        for (_, mut wire) in relay.both().await {
            wire.send(b"GET http://relay/healthz HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(wire.answer().await.unwrap().status, 400);
        }
        for (_, mut wire) in relay.both().await {
            wire.send(b"GET http://relay/healthz HTTP/1.1\r\nHost: relay\r\n\r\n").await.unwrap();
            assert_eq!(wire.answer().await.unwrap().status, 200);
        }
        for (_, mut wire) in relay.both().await {
            wire.send(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
            assert_eq!(wire.answer().await.unwrap().status, 200);
        }
    }
}

// Field cases 10 and 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_is_neither_transformed_nor_its_connection_used_again() {
    for transport in TRANSPORTS {
        let relay = Relay::start(transport, &[]);
        for version in ["1.0", "1.1"] {
            for keep_alive in ["", "Connection: keep-alive\r\n"] {
                for (name, mut wire) in relay.both().await {
                    let session = relay.create(None).await;
                    let events = path(text(&session, "events_url"));
                    let request =
                        format!("GET {events} HTTP/{version}\r\nHost: relay\r\n{keep_alive}\r\n");
                    wire.send(request.as_bytes()).await.unwrap();
                    let answer = wire.head().await.unwrap();
                    let what =
                        format!("{transport:?} {name} {version} {keep_alive:?} {}", answer.head);
                    assert_eq!(answer.status, 200, "{what}");
                    assert_eq!(
                        answer.field("cache-control"),
                        Some("no-store, no-transform"),
                        "{what}"
                    );
                    assert_eq!(answer.field("connection"), Some("close"), "{what}");
                    let chunked = answer.field("transfer-encoding") == Some("chunked");
                    assert_eq!(chunked, version == "1.1", "{what}");
                    wire.until("retry: ").await.unwrap();
                    // A healthy client asks again elsewhere; what follows here is not answered.
                    wire.send(&get("/healthz", "")).await.unwrap();
                    let delete = relay.client().delete(text(&session, "poll_url")).send().await;
                    assert_eq!(delete.unwrap().status(), StatusCode::NO_CONTENT);
                    let rest = String::from_utf8(wire.rest().await).unwrap();
                    assert!(rest.contains("event: failed"), "{what}: {rest}");
                    assert!(!rest.contains("HTTP/1."), "{what}: {rest}");
                }
            }
        }
    }
}

// Field case 9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_allowed_origins_may_send_the_headers_that_polyfills_and_tracers_add() {
    let relay =
        Relay::start(Transport::Tcp, &[("TOKEN_RELAY_ALLOWED_ORIGINS", "https://add-in.example")]);
    for wanted in [
        "authorization,cache-control,x-requested-with",
        "baggage,sentry-trace,traceparent,tracestate",
        "last-event-id,prefer,content-type,x-csrftoken",
        "x-datadog-trace-id",
    ] {
        for (origin, allowed) in [("https://add-in.example", true), ("https://evil.example", false)]
        {
            let preflight = relay
                .client()
                .request(reqwest::Method::OPTIONS, format!("{}/addons/sessions", relay.process.url))
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", wanted)
                .send()
                .await
                .unwrap();
            let headers = preflight.headers();
            let origin_allowed = headers.get("access-control-allow-origin");
            assert_eq!(origin_allowed.is_some_and(|found| found == origin), allowed, "{headers:?}");
            if allowed {
                let names =
                    headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
                for name in wanted.split(',') {
                    assert!(names.split(',').any(|found| found.trim() == name), "{name}: {names}");
                }
            }
        }
    }
}

/// The status of a request of HTTP/2 over TLS whose body is sent whatever the answer.
async fn over_http2(relay: &Relay, request: http::Request<()>, body: usize) -> Result<u16, String> {
    let file = relay.certificate();
    let address = format!("localhost:{}", relay.address().port());
    let socket = certificate::connect(&address, "h2", &[&file]).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let (answer, mut sending) = client.send_request(request, body == 0).unwrap();
    let mut left = body;
    while left > 0 {
        sending.reserve_capacity(left.min(16_384));
        match std::future::poll_fn(|context| sending.poll_capacity(context)).await {
            Some(Ok(capacity)) => {
                let part = capacity.min(left);
                left -= part;
                if sending.send_data(bytes::Bytes::from(vec![b' '; part]), left == 0).is_err() {
                    break;
                }
            }
            // The stream was reset: there is an answer already.
            _ => break,
        }
    }
    let answer = tokio::time::timeout(crate::support::TIMEOUT, answer).await.expect("in time");
    connection.abort();
    answer.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
}

// Field cases 8, 11 and 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_same_rules_hold() {
    let relay = Relay::start(Transport::Tls, &[]);
    let url = |path: &str| format!("https://localhost:{}{path}", relay.address().port());
    let post = |path: &str| {
        http::Request::post(url(path)).header("content-type", "application/json").body(()).unwrap()
    };
    assert_eq!(over_http2(&relay, post("/addons/sessions"), 5_000_000).await, Ok(413));
    assert_eq!(over_http2(&relay, post("/nowhere"), 5_000_000).await, Ok(404));
    let put = http::Request::put(url("/addons/sessions")).body(()).unwrap();
    assert_eq!(over_http2(&relay, put, 5_000_000).await, Ok(405));
    let get = |fields: usize, bytes: usize| {
        let mut request = http::Request::get(url("/healthz"));
        for number in 0..fields {
            request = request.header(format!("x-{number}"), "y");
        }
        request.header("x", "y".repeat(bytes)).body(()).unwrap()
    };
    assert_eq!(over_http2(&relay, get(98, 0), 0).await, Ok(200));
    assert_eq!(over_http2(&relay, get(100, 0), 0).await, Ok(431));
    assert_eq!(over_http2(&relay, get(0, 16_000), 0).await, Ok(200));
    assert_eq!(over_http2(&relay, get(0, 17_000), 0).await, Ok(431));
    let other = http::Request::get(url("/healthz")).header("host", "other").body(()).unwrap();
    assert_eq!(over_http2(&relay, other, 0).await, Ok(400));
    let same = http::Request::get(url("/healthz"))
        .header("host", format!("localhost:{}", relay.address().port()))
        .body(())
        .unwrap();
    assert_eq!(over_http2(&relay, same, 0).await, Ok(200));
}

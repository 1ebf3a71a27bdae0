//! The relay speaks TLS and HTTP/2 itself, and takes another certificate without a restart.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::support::{
    Browser, Events, Process, TIMEOUT,
    certificate::{self, connect, shown},
    redis::{Directory, eventually, within},
    text,
    wire::tunnel,
};
use futures_util::{SinkExt as _, StreamExt as _, future::join_all};
use reqwest::{ClientBuilder, StatusCode, Version};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

/// A relay that speaks TLS, with its files.
struct Relay {
    process: Process,
    folder: Directory,
}

impl Relay {
    fn start(more: &[(&str, &str)]) -> Self {
        let folder = Directory::new();
        certificate::make(folder.path(), "relay");
        let (chain, key) = (folder.file("relay.crt"), folder.file("relay.key"));
        let mut environment = vec![
            ("TOKEN_RELAY_TLS_CERTIFICATE", chain.as_str()),
            ("TOKEN_RELAY_TLS_KEY", key.as_str()),
            ("TOKEN_RELAY_HEARTBEAT", "1s"),
        ];
        environment.extend(more);
        Self { process: Process::demo(&environment), folder }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.url)
    }

    fn address(&self) -> &str {
        self.process.url.strip_prefix("https://").unwrap()
    }

    /// A client that trusts the first certificate.
    fn trusting(&self) -> ClientBuilder {
        certificate::trusting(&[&self.folder.file("relay.crt")])
    }

    async fn create(&self) -> Value {
        let client = self.trusting().timeout(TIMEOUT).build().unwrap();
        let request = client.post(self.url("/addons/sessions")).json(&json!({"bind": true}));
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::CREATED, Version::HTTP_2));
        answer.json().await.unwrap()
    }

    async fn sign_in(&self, session: &Value) {
        let files = ["relay.crt", "next.crt"].map(|name| self.folder.file(name));
        let files = files.iter().map(String::as_str);
        let files = files.filter(|file| std::path::Path::new(file).exists()).collect::<Vec<_>>();
        let browser = Browser::with(certificate::trusting(&files));
        let page = browser.sign_in(session, "alice").await;
        assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    }

    /// The value of a counter or gauge.
    async fn metric(&self, name: &str) -> Option<u64> {
        let client = self.trusting().timeout(TIMEOUT).build().unwrap();
        let text = client.get(self.url("/metrics")).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, files: &[&str]) -> std::io::Result<CertificateDer<'static>> {
        connect(self.address(), "http/1.1", files).await.map(|stream| shown(&stream))
    }
}

async fn stream(client: &reqwest::Client, session: &Value) -> Events {
    let request = client.get(text(session, "events_url"));
    let answer = request.bearer_auth(text(session, "session_token")).send().await.unwrap();
    Events::from_response(answer)
}

async fn token(events: &mut Events) -> String {
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "authenticated");
    text(&event.data, "access_token").to_owned()
}

#[tokio::test]
async fn tokens_arrive_over_http2_and_http1_by_every_transport() {
    let relay = Relay::start(&[("TOKEN_RELAY_HSTS", "1day")]);
    assert!(relay.process.url.starts_with("https://127.0.0.1:"), "{}", relay.process.url);
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let builder = relay.trusting();
        let builder = if version == Version::HTTP_11 { builder.http1_only() } else { builder };
        let client = builder.build().unwrap();
        let health = client.get(relay.url("/healthz")).send().await.unwrap();
        assert_eq!(health.version(), version);
        assert_eq!(health.headers()["strict-transport-security"], "max-age=86400");

        let session = relay.create().await;
        assert!(text(&session, "events_url").starts_with("https://"));
        let request = client.get(text(&session, "events_url"));
        let answer = request.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        assert_eq!(answer.version(), version);
        let mut events = Events::from_response(answer);
        // The opening and a heartbeat are there before anything happens.
        events.until("\n:\n").await;
        relay.sign_in(&session).await;
        assert_eq!(token(&mut events).await.matches('.').count(), 2);
        assert!(events.next().await.is_none(), "the stream ends in order");

        let session = relay.create().await;
        let poll = client.get(format!("{}?wait=20", text(&session, "poll_url")));
        let poll = tokio::spawn(poll.bearer_auth(text(&session, "session_token")).send());
        relay.sign_in(&session).await;
        let answer = poll.await.unwrap().unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
    }
    // Many streams over one connection, which is what HTTP/2 is for.
    let client = relay.trusting().build().unwrap();
    let sessions = join_all((0..20).map(|_| relay.create())).await;
    let mut streams = join_all(sessions.iter().map(|session| stream(&client, session))).await;
    for (session, events) in sessions.iter().zip(&mut streams) {
        relay.sign_in(session).await;
        token(events).await;
    }
}

#[tokio::test]
async fn over_http2_the_frame_of_the_last_event_ends_its_stream() {
    let relay = Relay::start(&[]);
    let file = relay.folder.file("relay.crt");
    let socket = connect(relay.address(), "h2", &[&file]).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    for _ in 0..10 {
        let session = relay.create().await;
        let request = http::Request::get(text(&session, "events_url"))
            .header("authorization", format!("Bearer {}", text(&session, "session_token")))
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let mut events = answer.await.unwrap().into_body();
        relay.sign_in(&session).await;
        loop {
            let frame = events.data().await.expect("a frame").unwrap();
            events.flow_control().release_capacity(frame.len()).unwrap();
            if frame.starts_with(b"event: authenticated\n") {
                break;
            }
            assert!(!events.is_end_stream());
        }
        assert!(events.is_end_stream(), "no frame follows");
    }
}

#[tokio::test]
async fn a_websocket_over_tls_delivers() {
    let relay = Relay::start(&[]);
    let session = relay.create().await;
    let url = text(&session, "websocket_url");
    assert!(url.starts_with("wss://"), "{url}");
    let mut request = url.into_client_request().unwrap();
    let protocols = format!("token-relay.v1, bearer.{}", text(&session, "session_token"));
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let file = relay.folder.file("relay.crt");
    let socket = connect(relay.address(), "http/1.1", &[&file]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    relay.sign_in(&session).await;
    let message = loop {
        if let Message::Text(message) = socket.next().await.unwrap().unwrap() {
            break serde_json::from_str::<Value>(&message).unwrap();
        }
    };
    assert_eq!(text(&message, "type"), "authenticated");
    socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
    let close = loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => break frame.unwrap(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(close.code), 1000);
}

#[tokio::test]
async fn a_websocket_over_http2_delivers() {
    let relay =
        Relay::start(&[("TOKEN_RELAY_HEADER_TIMEOUT", "1s"), ("TOKEN_RELAY_HEARTBEAT", "60s")]);
    let session = relay.create().await;
    let file = relay.folder.file("relay.crt");
    let socket = connect(relay.address(), "h2", &[&file]).await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    // The relay says in its settings that it knows RFC 8441; they come with its first frames.
    eventually("extended CONNECT is offered", || async {
        client.is_extended_connect_protocol_enabled()
    })
    .await;
    let protocols = format!("token-relay.v1, bearer.{}", text(&session, "session_token"));
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri(text(&session, "websocket_url").replacen("wss:", "https:", 1))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", protocols)
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (answer, to_relay) = client.send_request(request, false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "token-relay.v1");
    let tunnel = tunnel(answer.into_body(), to_relay);
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(tunnel, role, None).await;
    // Waiting is not being idle, however long it takes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    relay.sign_in(&session).await;
    let message = loop {
        if let Message::Text(message) = socket.next().await.unwrap().unwrap() {
            break serde_json::from_str::<Value>(&message).unwrap();
        }
    };
    assert_eq!(text(&message, "type"), "authenticated");
    socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
    eventually("the session is over", || async {
        let client = relay.trusting().timeout(TIMEOUT).build().unwrap();
        let poll = client.get(text(&session, "poll_url"));
        let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        poll.status() == StatusCode::GONE
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_ended_and_a_waiting_one_is_not() {
    let relay =
        Relay::start(&[("TOKEN_RELAY_HEADER_TIMEOUT", "1s"), ("TOKEN_RELAY_HEARTBEAT", "60s")]);
    let file = relay.folder.file("relay.crt");
    // One says nothing after the handshake, one answers pings and asks nothing more.
    let mut silent = connect(relay.address(), "h2", &[&file]).await.unwrap();
    let socket = connect(relay.address(), "h2", &[&file]).await.unwrap();
    let (_idle, connection) = h2::client::handshake(socket).await.unwrap();
    // The third waits on a stream.
    let session = relay.create().await;
    let client = relay.trusting().build().unwrap();
    let mut events = stream(&client, &session).await;
    let succeeded = "token_relay_tls_handshakes_total{outcome=\"Succeeded\"}";
    let begun = Instant::now();
    let ended = tokio::time::timeout(TIMEOUT, connection).await.expect("the idle one is ended");
    let _ = tokio::time::timeout(TIMEOUT, silent.read_to_end(&mut Vec::new())).await.unwrap();
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(500) && took < Duration::from_secs(5),
        "{took:?} {ended:?}"
    );
    let handshakes = relay.metric(succeeded).await;
    let answer = client.get(relay.url("/healthz")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // The counting client shakes hands anew each time; the waiting one did not.
    assert_eq!(relay.metric(succeeded).await.unwrap(), handshakes.unwrap() + 1);
    relay.sign_in(&session).await;
    token(&mut events).await;
}

#[tokio::test]
async fn another_certificate_is_taken_while_streams_stay_open() {
    let relay = Relay::start(&[]);
    let folder = &relay.folder;
    let (chain, key) = (folder.file("relay.crt"), folder.file("relay.key"));
    let first = CertificateDer::from_pem_file(&chain).unwrap();
    let mut open = Vec::new();
    for builder in [relay.trusting(), relay.trusting().http1_only()] {
        let client = builder.build().unwrap();
        let session = relay.create().await;
        let mut events = stream(&client, &session).await;
        events.until("retry").await;
        // The client stays, and with it its connection.
        open.push((client, session, events));
    }

    certificate::make(folder.path(), "next");
    let next_file = folder.file("next.crt");
    let next = CertificateDer::from_pem_file(&next_file).unwrap();
    // Clients of this test trust the file of the first, so it is kept under another name.
    let old_file = folder.file("old.crt");
    std::fs::copy(&chain, &old_file).unwrap();
    let both = [old_file.as_str(), next_file.as_str()];
    assert_eq!(relay.shown(&both).await.unwrap(), first);
    // Nobody says anything: the relay watches its files.
    std::fs::copy(&next_file, &chain).unwrap();
    std::fs::copy(folder.file("next.key"), &key).unwrap();
    eventually("a new connection sees the new certificate", || async {
        relay.shown(&both).await.unwrap() == next
    })
    .await;
    relay.process.logged("TLS_CERTIFICATE, TLS_KEY").await;
    for (_client, session, mut events) in open {
        relay.sign_in(&session).await;
        token(&mut events).await;
    }

    // A certificate without its key, and something that is none: the good one stays.
    certificate::make(folder.path(), "stray");
    let stray = std::fs::read(folder.file("stray.crt")).unwrap();
    for (count, broken) in [(1, stray.as_slice()), (2, b"no certificate")] {
        std::fs::write(&chain, broken).unwrap();
        relay.process.signal("HUP");
        let both = [next_file.as_str(), &folder.file("stray.crt")];
        eventually("the failure is logged", || async {
            relay.process.log().matches("reload rejected").count() == count
        })
        .await;
        assert_eq!(relay.shown(&both).await.unwrap(), next);
    }
    let log = relay.process.log();
    assert!(log.contains("TLS_KEY: expected the private key of the first certificate"), "{log}");
    assert!(log.contains("TLS_CERTIFICATE: expected a file with certificates"), "{log}");
    std::fs::copy(&next_file, &chain).unwrap();
    assert_eq!(relay.metric("token_relay_reloads_total{outcome=\"Failed\"}").await, Some(2));
    assert_eq!(relay.metric("token_relay_reloads_total{outcome=\"Succeeded\"}").await, Some(1));
}

/// Reads until the relay ends the connection; says how long that took.
async fn ended(mut socket: TcpStream) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    // A reset ends it as well.
    let _ = tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut rest)).await.expect("an end");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshakes_stop_nobody() {
    const SLOW: usize = 300;
    let most = (SLOW + 20).to_string();
    let relay = Relay::start(&[
        ("TOKEN_RELAY_HEADER_TIMEOUT", "3s"),
        ("TOKEN_RELAY_MAX_CONNECTIONS", most.as_str()),
    ]);
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut socket = TcpStream::connect(relay.address()).await.unwrap();
        // Some say nothing, some begin a handshake and go no further.
        if number % 2 == 0 {
            socket.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        }
        slow.push(socket);
    }
    let begun = Instant::now();
    let session = relay.create().await;
    let client = relay.trusting().build().unwrap();
    let mut events = stream(&client, &session).await;
    relay.sign_in(&session).await;
    token(&mut events).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");

    // They hold places, as any connection does.
    let mut more = Vec::new();
    for _ in 0..40 {
        more.push(TcpStream::connect(relay.address()).await.unwrap());
    }
    let refused = ended(more.pop().unwrap()).await;
    assert!(refused < Duration::from_secs(1), "{refused:?}");
    for took in join_all(slow.into_iter().map(ended)).await {
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
    drop(more);
    within(TIMEOUT, "the handshakes are counted and their places free", || async {
        let name = "token_relay_tls_handshakes_total{outcome=\"TimedOut\"}";
        relay.metric(name).await >= Some(SLOW as u64)
    })
    .await;
    println!("{SLOW} slow handshakes; meanwhile a whole sign-in took {took:?}");
    // No TLS at all is a failure of its own, and gets nothing that looks like an answer.
    let mut plain = TcpStream::connect(relay.address()).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    let failed = "token_relay_tls_handshakes_total{outcome=\"Failed\"}";
    assert!(relay.metric(failed).await >= Some(1));
    assert!(!relay.process.log().contains("handshake"), "nothing of it at the usual log level");
}

#[tokio::test]
async fn streams_over_tls_are_told_of_a_shutdown() {
    let mut relay = Relay::start(&[]);
    let (over2, over1) =
        (relay.trusting().build().unwrap(), relay.trusting().http1_only().build().unwrap());
    let mut open = Vec::new();
    for client in [&over2, &over1] {
        let session = relay.create().await;
        let mut events = stream(client, &session).await;
        events.until("retry").await;
        open.push(events);
    }
    relay.process.signal("TERM");
    for mut events in open {
        assert!(events.next().await.is_none(), "an end in order");
        assert_eq!(events.raw.matches("retry: ").count(), 2, "{}", events.raw);
    }
    assert!(relay.process.wait().success());
}

/// Resident memory of a process, in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// An event stream whose client has done nothing but wait, over a TLS client of its own.
async fn waiting(relay: &Relay, session: &Value) -> tokio_rustls::client::TlsStream<TcpStream> {
    let file = relay.folder.file("relay.crt");
    let mut socket = connect(relay.address(), "http/1.1", &[&file]).await.unwrap();
    let path = reqwest::Url::parse(text(session, "events_url")).unwrap().path().to_owned();
    let token = text(session, "session_token");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    until(&mut socket, "retry:").await;
    socket
}

/// Reads until `text` arrives.
async fn until(socket: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) {
    let mut read = Vec::new();
    let arrived = async {
        while !read.windows(text.len()).any(|part| part == text.as_bytes()) {
            assert!(socket.read_buf(&mut read).await.unwrap() > 0, "ended before {text:?}");
        }
    };
    tokio::time::timeout(TIMEOUT, arrived).await.unwrap_or_else(|_| panic!("no {text:?}"));
}

#[tokio::test]
async fn clients_that_do_more_than_wait_get_their_token() {
    let relay = Relay::start(&[]);
    let session = relay.create().await;
    let mut socket = waiting(&relay, &session).await;
    for round in 0..3 {
        until(&mut socket, "\n:\n").await;
        // The relay answers with new keys of its own (RFC 8446 §4.6.3).
        socket.get_mut().1.refresh_traffic_keys().unwrap();
        socket.flush().await.unwrap();
        // Nothing that a client of an event stream has to say.
        socket.write_all(format!("round {round}").as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
    }
    until(&mut socket, "\n:\n").await;
    // `close_notify`: the client says nothing more, and reads on.
    socket.shutdown().await.unwrap();
    relay.sign_in(&session).await;
    until(&mut socket, "event: authenticated").await;
    until(&mut socket, "\r\n0\r\n\r\n").await;
    let mut rest = [0; 16];
    let end = tokio::time::timeout(TIMEOUT, socket.read(&mut rest)).await.unwrap();
    assert_eq!(end.unwrap(), 0, "the relay says `close_notify` too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_stream_over_tls_costs_little() {
    const STREAMS: usize = 1_000;
    let relay = Relay::start(&[("TOKEN_RELAY_HEARTBEAT", "60s")]);
    let client = relay.trusting().timeout(TIMEOUT).build().unwrap();
    let mut sessions = Vec::new();
    for _ in 0..STREAMS {
        let request = client.post(relay.url("/addons/sessions")).json(&json!({"bind": true}));
        sessions.push(request.send().await.unwrap().json::<Value>().await.unwrap());
    }
    let before = resident(&relay.process);
    let mut open = Vec::new();
    for session in &sessions {
        open.push(waiting(&relay, session).await);
    }
    let each = resident(&relay.process).saturating_sub(before) / STREAMS;
    println!("a waiting stream over TLS: {each} bytes");
    assert!(each < 16 * 1024, "{each}");
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_token-relay"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn certificates_that_are_of_no_use_are_said_at_once() {
    let folder = Directory::new();
    certificate::make(folder.path(), "a");
    certificate::make(folder.path(), "b");
    std::fs::write(folder.file("empty"), "").unwrap();
    let file = |name: &str| folder.file(name);
    for (chain, key, expected) in [
        (file("a.crt"), String::new(), "TLS_KEY: required with TLS_CERTIFICATE"),
        (String::new(), file("a.key"), "TLS_CERTIFICATE: required with TLS_KEY"),
        (file("none.crt"), file("a.key"), "none.crt: No such file"),
        (file("a.crt"), file("none.key"), "none.key: No such file"),
        (file("a.crt"), file("b.key"), "TLS_KEY: expected the private key of the first"),
        (file("a.key"), file("a.key"), "TLS_CERTIFICATE: expected a file with certificates"),
        (file("a.crt"), file("a.crt"), "TLS_KEY: expected a file with a private key"),
        (file("empty"), file("a.key"), "TLS_CERTIFICATE: expected a file with certificates"),
    ] {
        let environment = [
            ("TOKEN_RELAY_OIDC_ISSUER", "https://login.example"),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "relay"),
            ("TOKEN_RELAY_TLS_CERTIFICATE", chain.as_str()),
            ("TOKEN_RELAY_TLS_KEY", key.as_str()),
        ];
        for command in ["check-config", "serve"] {
            let output = run(&[command], &environment);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command}: {said}");
            assert!(said.contains(expected), "{expected} in {said}");
        }
    }
}

#[test]
fn the_health_check_asks_over_tls() {
    let relay = Relay::start(&[]);
    let output = run(&["healthcheck", &relay.process.url], &[]);
    assert!(output.status.success(), "{output:?}");
    let (chain, key) = (relay.folder.file("relay.crt"), relay.folder.file("relay.key"));
    let mut environment = vec![
        ("TOKEN_RELAY_OIDC_ISSUER", "https://login.example"),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "relay"),
        ("TOKEN_RELAY_LISTEN", relay.address()),
        ("TOKEN_RELAY_TLS_CERTIFICATE", chain.as_str()),
        ("TOKEN_RELAY_TLS_KEY", key.as_str()),
    ];
    let output = run(&["healthcheck"], &environment);
    assert!(output.status.success(), "{output:?}");
    // Without TLS the same instance does not answer.
    environment.truncate(3);
    assert!(!run(&["healthcheck"], &environment).status.success());
}

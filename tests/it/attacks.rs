//! Under attack the service stays bounded, and a person next door still signs in.

use std::time::{Duration, Instant};

use crate::support::{Browser, Events, Process, client, create, redis::within, text, wire::Wire};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use h2::client::SendRequest;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

/// Resident memory of a process without the pages of its program's file, in MiB.
fn resident(relay: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn address(relay: &Process) -> std::net::SocketAddr {
    relay.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// A connection from one of several loopback addresses, so that ports do not run out.
async fn connect(relay: &Process, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let source = std::net::Ipv4Addr::new(127, 0, 2, 1 + u8::try_from(number % 8).unwrap());
    socket.bind((source, 0).into())?;
    socket.connect(address(relay)).await
}

async fn somebody_signs_in(relay: &Process) {
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let page = Browser::default().sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success");
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_thousand_half_open_connections() {
    const CONNECTIONS: usize = 15_000;
    let relay = Process::demo(&[("TOKEN_RELAY_HEADER_TIMEOUT", "20s")]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let mut held = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let mut socket = connect(&relay, number).await.expect("this process may open 20 000 files");
        // Every second one begins a request and never ends it.
        if number % 2 == 0 {
            socket
                .write_all(b"GET /addons/sessions/x/events HTTP/1.1\r\nHost: a\r\n")
                .await
                .unwrap();
        }
        held.push(socket);
    }
    somebody_signs_in(&relay).await;
    let grown = resident(&relay) - before;
    println!("{CONNECTIONS} half-open connections: {grown} MiB more");
    assert!(grown < 200, "{grown} MiB");
    // They are all cut off when their time is over.
    let mut last = held.pop().unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), last.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_allowed_get_503() {
    let relay = Process::demo(&[("TOKEN_RELAY_MAX_CONNECTIONS", "50")]);
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(connect(&relay, number).await.unwrap());
    }
    within(Duration::from_secs(10), "the next one is refused", || async {
        let mut socket = connect(&relay, 0).await.unwrap();
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_millis(500), socket.read_to_end(&mut answer));
        matches!(read.await, Ok(Ok(_))) && answer.starts_with(b"HTTP/1.1 503")
    })
    .await;
    drop(held);
    within(Duration::from_secs(10), "there is room again", || async {
        client()
            .get(format!("{}/healthz", relay.url))
            .send()
            .await
            .is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_creations_from_one_address_leaves_others_alone() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "20"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
    ]);
    let url = format!("{}/addons/sessions", relay.url);
    let from =
        |address: &'static str| client().post(&url).header("x-forwarded-for", address).send();
    let (mut created, mut refused, begun) = (0, 0, Instant::now());
    for _ in 0..300 {
        match from("192.0.2.1").await.unwrap().status() {
            StatusCode::CREATED => created += 1,
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            other => panic!("{other}"),
        }
    }
    println!("a flood of 300: {created} created, {refused} refused");
    // One more every three seconds.
    let refilled = begun.elapsed().as_secs() / 3 + 1;
    assert!((20..=20 + refilled).contains(&created));
    assert_eq!(from("192.0.2.2").await.unwrap().status(), StatusCode::CREATED);
    // What a client writes in front of the proxy's word counts for nothing.
    assert_eq!(
        from("198.51.100.7, 192.0.2.1").await.unwrap().status(),
        StatusCode::TOO_MANY_REQUESTS
    );
    // All of one customer's IPv6 network is one client.
    for _ in 0..25 {
        let _ = from("2001:db8::1").await.unwrap();
    }
    assert_eq!(from("2001:db8::ffff").await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_cost_little_and_harm_nobody() {
    let relay = Process::demo(&[("TOKEN_RELAY_HEARTBEAT", "1s")]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let mut held = Vec::new();
    for number in 0..500 {
        let session = create(&relay.url, None).await;
        let path = format!("/{}", text(&session, "events_url").splitn(4, '/').nth(3).unwrap());
        let mut socket = connect(&relay, number).await.unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        held.push(socket);
    }
    somebody_signs_in(&relay).await;
    let grown = resident(&relay).saturating_sub(before);
    println!("500 streams that nobody reads: {grown} MiB more");
    assert!(grown < 30, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_whose_clients_talk_are_not_read_and_still_get_their_token() {
    const STREAMS: usize = 4;
    let relay = Process::demo(&[]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let mut talking = Vec::new();
    for number in 0..STREAMS {
        let session = create(&relay.url, None).await;
        let path = format!("/{}", text(&session, "events_url").splitn(4, '/').nth(3).unwrap());
        let (mut read, mut write) = connect(&relay, number).await.unwrap().into_split();
        // As the first request of its connection, and as a later one.
        let earlier = if number % 2 == 0 { "" } else { "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" };
        let request = format!("{earlier}GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        write.write_all(request.as_bytes()).await.unwrap();
        let mut received = String::new();
        while !received.contains("retry: ") {
            let mut bytes = [0; 4096];
            let length = read.read(&mut bytes).await.unwrap();
            received.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        // Until nothing more is taken.
        let noise = async {
            let mut sent = 0;
            while tokio::time::timeout(Duration::from_secs(1), write.write_all(&[b'x'; 65_536]))
                .await
                .is_ok_and(|written| written.is_ok())
            {
                sent += 65_536;
            }
            sent
        };
        let sent = noise.await;
        println!("{sent} bytes were taken");
        talking.push((session, read, write));
    }
    let during = resident(&relay);
    for (session, read, _) in &mut talking {
        let page = Browser::default().sign_in(session, "alice").await;
        assert_eq!(page.url.path(), "/addons/success");
        let mut rest = String::new();
        let end = tokio::time::timeout(Duration::from_secs(10), read.read_to_string(&mut rest));
        // The last event comes before any reset.
        let _ = end.await.expect("the connection ends");
        assert!(rest.contains("event: authenticated"), "{rest}");
    }
    bounded("streams whose clients talk", before, during, resident(&relay), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_and_fragmented_web_socket_messages_are_refused() {
    let relay = Process::demo(&[]);
    for message in
        [Message::text("x".repeat(100_000)), Message::binary(vec![0; 10]), Message::text("{}")]
    {
        let session = create(&relay.url, None).await;
        let mut request = text(&session, "websocket_url").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "token-relay.v1".parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        // The relay may end the connection while this is still being sent.
        let _ = socket.send(message).await;
        let end = tokio::time::timeout(Duration::from_secs(10), async {
            while let Some(Ok(_)) = socket.next().await {}
        });
        end.await.expect("the connection ends");
    }
    // A text message of endless fragments of two bytes.
    let session = create(&relay.url, None).await;
    let path = format!("/{}", text(&session, "websocket_url").splitn(4, '/').nth(3).unwrap());
    let mut socket = connect(&relay, 0).await.unwrap();
    let upgrade = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: token-relay.v1\r\n\r\n"
    );
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut sent = 0;
    for number in 0..100_000 {
        // Not final, masked with zeros: first a text frame, then continuations.
        let frame = [u8::from(number == 0), 0x82, 0, 0, 0, 0, b'x', b'x'];
        if socket.write_all(&frame).await.is_err() {
            break;
        }
        sent += 1;
    }
    let mut received = Vec::new();
    let end = socket.read_to_end(&mut received);
    let _ = tokio::time::timeout(Duration::from_secs(10), end).await.expect("the end");
    println!("fragments: {sent} of 100 000 were written before the end");
    // A close frame with 1009, message too large.
    assert!(received.windows(2).any(|part| part == 1009_u16.to_be_bytes()), "{received:?}");
    somebody_signs_in(&relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_or_cut_off() {
    let relay = Process::demo(&[]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let mut socket = connect(&relay, 0).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
    // Nobody reads the answers, so at some time the relay stops reading, too.
    for _ in 0..50 {
        let write = socket.write_all(request.as_bytes());
        if tokio::time::timeout(Duration::from_millis(200), write).await.is_err() {
            break;
        }
    }
    somebody_signs_in(&relay).await;
    let grown = resident(&relay).saturating_sub(before);
    println!("pipelined requests: {grown} MiB more");
    assert!(grown < 50, "{grown} MiB");
}

/// Prints and bounds what an attack costs, in MiB.
fn bounded(attack: &str, before: u64, during: u64, after: u64, most: u64) {
    println!("{attack}: RSS {before} MiB before, {during} during, {after} after");
    let grown = during.max(after).saturating_sub(before);
    assert!(grown <= most, "{attack}: {grown} MiB more");
}

/// A connection of HTTP/2 on which everything large is asked for, with its handle and the answers.
async fn ask_for_everything(
    relay: &Process,
    number: usize,
    window: u32,
) -> (JoinHandle<()>, SendRequest<Bytes>, Vec<h2::client::ResponseFuture>) {
    // As many as the relay lets a connection have.
    const REQUESTS: usize = 100;
    const LARGE: [&str; 6] = [
        "/openapi.json",
        "/asyncapi.json",
        "/docs",
        "/addons/static/token-relay.js",
        "/addons/static/icon.svg",
        // Made for each request.
        "/metrics",
    ];
    let socket = connect(relay, number).await.unwrap();
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(socket);
    let (client, connection) = handshake.await.unwrap();
    // It answers pings all the time.
    let connection = tokio::spawn(async move {
        let _ = connection.await;
    });
    let (mut client, mut answers) = (client.ready().await.unwrap(), Vec::new());
    for request in 0..REQUESTS {
        client = client.ready().await.unwrap();
        let url = format!("{}{}", relay.url, LARGE[request % LARGE.len()]);
        let request = http::Request::get(url).body(()).unwrap();
        answers.push(client.send_request(request, true).unwrap().0);
    }
    (connection, client, answers)
}

// Field case 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_no_window_lets_through_cost_little_and_end_their_connection() {
    const CONNECTIONS: usize = 10;
    let relay = Process::demo(&[]);
    somebody_signs_in(&relay).await;
    let idle = resident(&relay);
    // The same requests of clients that take the answers.
    for number in 0..CONNECTIONS {
        let (_, _client, answers) = ask_for_everything(&relay, number, 1 << 20).await;
        // All at the same time, since they share the window of the connection.
        let taken = answers.into_iter().map(async |answer| {
            let mut body = answer.await.unwrap().into_body();
            while let Some(bytes) = body.data().await {
                body.flow_control().release_capacity(bytes.unwrap().len()).unwrap();
            }
        });
        join_all(taken).await;
    }
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let (mut connections, mut clients, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let (connection, client, more) = ask_for_everything(&relay, number, 0).await;
        connections.push(connection);
        // A client closes with its last handle.
        clients.push(client);
        answers.extend(more);
    }
    let asked = answers.len();
    // The relay makes some of the answers, and would make others when those have been taken.
    let mut answers: FuturesUnordered<_> = answers.into_iter().collect();
    let mut heads = Vec::new();
    let collected = async {
        while let Some(head) = answers.next().await {
            heads.push(head.unwrap());
        }
    };
    let (_, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(2), collected),
        somebody_signs_in(&relay)
    );
    assert!(heads.len() > CONNECTIONS && heads.iter().all(|head| head.status() == StatusCode::OK));
    println!("{} of {asked} answers were begun", heads.len());
    let during = resident(&relay);
    let begun = Instant::now();
    for connection in connections {
        let end = tokio::time::timeout(Duration::from_secs(60), connection).await;
        end.expect("the relay ends the connection").unwrap();
    }
    println!("the connections were ended after {:?}", begun.elapsed());
    somebody_signs_in(&relay).await;
    println!("RSS was {idle} MiB before answers that were taken");
    // The allocator takes memory in steps of 2 MiB, so that 3 to 8 are seen.
    bounded("1000 answers behind closed windows", before, during, resident(&relay), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_large_answers_are_cut_off() {
    const CONNECTIONS: usize = 200;
    let relay = Process::demo(&[("TOKEN_RELAY_HEADER_TIMEOUT", "2s")]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let mut socket = connect(&relay, number).await.unwrap();
        socket.write_all(requests.as_bytes()).await.unwrap();
        held.push(socket);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = resident(&relay);
    somebody_signs_in(&relay).await;
    let begun = Instant::now();
    within(Duration::from_secs(60), "they are cut off", || async {
        let files = std::fs::read_dir(format!("/proc/{}/fd", relay.id())).unwrap().count();
        files < CONNECTIONS / 2
    })
    .await;
    println!("they were cut off after {:?}", begun.elapsed());
    bounded("200 clients that do not read", before, during, resident(&relay), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_with_all_connections_does_not_lock_out_a_health_check() {
    let metrics = format!("127.0.0.1:{}", crate::support::redis::free_port());
    let relay = Process::demo(&[
        ("TOKEN_RELAY_MAX_CONNECTIONS", "200"),
        ("TOKEN_RELAY_METRICS_LISTEN", &metrics),
    ]);
    let mut held = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::new(127, 0, 2, 1), 0).into()).unwrap();
        held.push(socket.connect(address(&relay)).await.unwrap());
    }
    // All three are refused or answered at once; none waits.
    let mut greedy = held.pop().unwrap();
    let mut refused = String::new();
    greedy.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    for base in [&relay.url, &format!("http://{metrics}")] {
        for path in ["/healthz", "/readyz"] {
            let health = client().get(format!("{base}{path}")).send().await.unwrap();
            assert_eq!(health.status(), StatusCode::OK, "{base}{path}");
        }
    }
    somebody_signs_in(&relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_creations_from_a_48_is_bounded() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "20"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
    ]);
    let before = resident(&relay);
    let (http, url) = (client(), format!("{}/addons/sessions", relay.url));
    let (mut created, mut refused, begun) = (0, 0, Instant::now());
    for subnet in 0..3000 {
        let from = format!("2001:db8:1:{:x}::1", subnet * 20);
        match http.post(&url).header("x-forwarded-for", from).send().await.unwrap().status() {
            StatusCode::CREATED => created += 1,
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            other => panic!("{other}"),
        }
    }
    println!("a flood of 3000 from as many /64 of one /48: {created} created, {refused} refused");
    // 16 times one client's quota, and what comes back with the time.
    assert!((320..=330 + begun.elapsed().as_secs() * 6).contains(&created), "{created}");
    let neighbour = http.post(&url).header("x-forwarded-for", "2001:db8:2::1").send().await;
    assert_eq!(neighbour.unwrap().status(), StatusCode::CREATED);
    let during = resident(&relay);
    bounded("a flood of creations", before, during, during, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_the_largest_sessions_takes_no_more_memory_than_configured() {
    const MAX: usize = 16 << 20;
    let max = MAX.to_string();
    let relay = Process::demo(&[
        ("TOKEN_RELAY_MEMORY_STORE_MAX", &max),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "4000000"),
        ("TOKEN_RELAY_LOG", "warn"),
    ]);
    somebody_signs_in(&relay).await;
    // One that begins before the flood has its place.
    let early = create(&relay.url, Some(json!({"bind": true}))).await;
    let before = resident(&relay);
    let body = json!({
        "bind": true,
        "confirm": true,
        "client_name": "\u{1d4d0}".repeat(64),
    })
    .to_string();
    let creation = format!(
        "POST /addons/sessions HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let begun = Instant::now();
    let flood = (0..8).map(|number| {
        let (creation, to) = (creation.clone(), address(&relay));
        tokio::spawn(async move {
            let mut wire = Wire::over(TcpSocket::new_v4().unwrap().connect(to).await.unwrap());
            let mut created = 0_usize;
            loop {
                wire.send(creation.as_bytes()).await.unwrap();
                match wire.answer().await.unwrap() {
                    answer if answer.status == 201 => created += 1,
                    answer => {
                        assert_eq!(answer.status, 503, "{number}: {}", answer.text());
                        assert!(answer.text().contains("store-unavailable"), "{}", answer.text());
                        return created;
                    }
                }
            }
        })
    });
    let mut created = 0;
    for connection in flood.collect::<Vec<_>>() {
        created += connection.await.unwrap();
    }
    let during = resident(&relay);
    println!(
        "{created} sessions in {:?}: {} bytes each",
        begun.elapsed(),
        ((during - before) << 20) / created as u64
    );
    assert!(created > 5_000, "{created}");
    let page = Browser::default().sign_in(&early, "alice").await;
    assert_eq!(page.url.path(), "/addons/success", "a sign-in that has begun ends well");
    // What is configured, and what any load of this kind leaves behind.
    bounded("a flood of the largest sessions", before, during, resident(&relay), 16 + 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_http2_that_only_ping_are_ended_and_cost_little() {
    const CONNECTIONS: usize = 200;
    // The client's preface with empty settings, and a ping (RFC 9113 §3.4, §6.7).
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let relay = Process::demo(&[("TOKEN_RELAY_HEADER_TIMEOUT", "2s")]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    let begun = Instant::now();
    let mut pinging = Vec::new();
    for number in 0..CONNECTIONS {
        let (mut read, mut write) = connect(&relay, number).await.unwrap().into_split();
        write.write_all(PREFACE).await.unwrap();
        // Some ping now and then, some as fast as they can; some read the answers, some do not.
        let (pings, reads) = (if number % 4 < 2 { 1 } else { 500 }, number % 2 == 0);
        let pings = PING.repeat(pings);
        pinging.push(tokio::spawn(async move {
            let reading = tokio::spawn(async move {
                let mut received = 0;
                while reads && let Ok(length @ 1..) = read.read(&mut [0; 16_384]).await {
                    received += length;
                }
                (read, received)
            });
            while write.write_all(&pings).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            reading.await.unwrap().1
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = resident(&relay);
    somebody_signs_in(&relay).await;
    let mut acknowledged = 0;
    for ping in pinging {
        let ended = tokio::time::timeout(Duration::from_secs(30), ping).await;
        acknowledged += ended.expect("the relay ends the connection").unwrap() / PING.len();
    }
    println!("they were ended after {:?}, {acknowledged} pings answered", begun.elapsed());
    bounded("200 connections that only ping", before, during, resident(&relay), 16);
}

/// Frames of HTTP/2 (RFC 9113 §4.1).
mod frames {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;

    /// The client's preface with its settings.
    pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
        let payload = settings
            .iter()
            .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()));
        let payload: Vec<u8> = payload.collect();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &payload)].concat()
    }

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// A header block for `relay` without a dynamic table: an index for the method, a path
    /// (RFC 7541 §6).
    pub fn head(method: u8, path: &str) -> Vec<u8> {
        let length = u8::try_from(path.len()).unwrap();
        [&[method, 0x86, 0x04, length], path.as_bytes(), b"\x01\x05relay"].concat()
    }

    pub const GET: u8 = 0x82;
    pub const POST: u8 = 0x83;

    pub fn request(stream: u32, method: u8, path: &str, flags: u8) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | flags, stream, &head(method, path))
    }
}

/// What a client sends without end on a connection of HTTP/2: its name, its settings, what comes first,
/// and what is repeated for each number.
type Flood = (&'static str, &'static [(u16, u32)], fn() -> Vec<u8>, fn(u32) -> Vec<u8>);

const FLOODS: [Flood; 11] = {
    use frames::*;
    const fn stream(number: u32) -> u32 {
        2 * number + 1
    }
    fn nothing() -> Vec<u8> {
        Vec::new()
    }
    /// As many large answers as a connection may have.
    fn large_answers() -> Vec<u8> {
        (0..100)
            .flat_map(|number| request(stream(number), GET, "/openapi.json", END_STREAM))
            .collect()
    }
    fn open_post() -> Vec<u8> {
        request(1, POST, "/addons/sessions", 0)
    }
    const NO_WINDOW: &[(u16, u32)] = &[(4, 0)];
    [
        ("requests that are reset at once (CVE-2023-44487)", &[], nothing, |number| {
            let request = request(stream(number), GET, "/openapi.json", END_STREAM);
            [request, frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())].concat()
        }),
        ("requests that make the relay reset them (CVE-2025-8671)", &[], nothing, |number| {
            let request = request(stream(number), GET, "/openapi.json", END_STREAM);
            [request, frame(WINDOW_UPDATE, 0, stream(number), &0_u32.to_be_bytes())].concat()
        }),
        (
            "headers without end (CVE-2024-27316)",
            &[],
            || frame(HEADERS, 0, 1, &head(GET, "/")),
            |_| frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y"),
        ),
        ("pings", &[], nothing, |_| frame(PING, 0, 0, &[0; 8])),
        ("settings", &[], nothing, |_| frame(SETTINGS, 0, 0, &[])),
        ("settings that change the windows of 100 answers", NO_WINDOW, large_answers, |number| {
            frame(SETTINGS, 0, 0, &[&[0, 4][..], &(number % 2).to_be_bytes()].concat())
        }),
        ("windows that open by a byte", NO_WINDOW, large_answers, |number| {
            let connection = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
            [connection, frame(WINDOW_UPDATE, 0, stream(number % 100), &1_u32.to_be_bytes())]
                .concat()
        }),
        ("empty parts of a body", &[], open_post, |_| frame(DATA, 0, 1, &[])),
        ("small parts of a body", &[], open_post, |_| frame(DATA, 0, 1, b"x")),
        ("priorities", &[], nothing, |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 1])),
        ("frames of no known type", &[], nothing, |_| frame(0xfa, 0, 0, &[0; 64])),
    ]
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_of_http2_cost_little_and_end_their_connection() {
    const CONNECTIONS: usize = 20;
    /// Sent on each connection unless it ends before.
    const FRAMES: u32 = 5_000;
    let floods = FLOODS.iter().map(async |(name, settings, first, repeated)| {
        let (settings, first, repeated) = (*settings, *first, *repeated);
        let relay = Process::demo(&[("TOKEN_RELAY_HEADER_TIMEOUT", "5s")]);
        somebody_signs_in(&relay).await;
        let before = resident(&relay);
        let begun = Instant::now();
        let mut floods = Vec::new();
        for number in 0..CONNECTIONS {
            let (mut read, mut write) = connect(&relay, number).await.unwrap().into_split();
            // Some read what is answered, some do not.
            let reads = number % 2 == 0;
            floods.push(tokio::spawn(async move {
                let reading = tokio::spawn(async move {
                    while reads && let Ok(1..) = read.read(&mut [0; 16_384]).await {}
                    read
                });
                let mut sent = 0;
                let mut bytes = [frames::preface(settings), first()].concat();
                while sent < FRAMES {
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                    bytes.clear();
                    (sent..sent + 100).for_each(|number| bytes.extend(repeated(number)));
                    sent += 100;
                }
                // Held open: the relay ends it.
                let mut read = reading.await.unwrap();
                while let Ok(1..) = read.read(&mut [0; 16_384]).await {}
                drop(write);
                sent
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let during = resident(&relay);
        somebody_signs_in(&relay).await;
        let mut sent = 0;
        for flood in floods {
            let ended = tokio::time::timeout(Duration::from_secs(60), flood).await;
            sent += ended.expect("the relay ends the connection").unwrap();
        }
        somebody_signs_in(&relay).await;
        let what =
            format!("{name}, {sent} on {CONNECTIONS} connections in {:.1?}", begun.elapsed());
        bounded(&what, before, during, resident(&relay), 16);
    });
    futures_util::stream::iter(floods).buffer_unordered(4).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_that_only_ping_are_cut_off() {
    const SOCKETS: usize = 100;
    let relay = Process::demo(&[
        ("TOKEN_RELAY_HEARTBEAT", "2s"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000"),
    ]);
    somebody_signs_in(&relay).await;
    let before = resident(&relay);
    // A ping of 125 bytes, masked with zeros.
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend([b'x'; 125]);
    let pings = ping.repeat(500);
    let mut pinging = Vec::new();
    for number in 0..SOCKETS {
        let session = create(&relay.url, None).await;
        let path = format!("/{}", text(&session, "websocket_url").splitn(4, '/').nth(3).unwrap());
        let mut socket = connect(&relay, number).await.unwrap();
        let upgrade = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: token-relay.v1\r\n\r\n"
        );
        socket.write_all(upgrade.as_bytes()).await.unwrap();
        let pings = pings.clone();
        pinging.push(tokio::spawn(async move { while socket.write_all(&pings).await.is_ok() {} }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = resident(&relay);
    somebody_signs_in(&relay).await;
    let begun = Instant::now();
    for ping in pinging {
        tokio::time::timeout(Duration::from_secs(30), ping).await.expect("cut off").unwrap();
    }
    println!("they were cut off after {:?}", begun.elapsed());
    bounded("100 WebSockets that only ping", before, during, resident(&relay), 24);
}

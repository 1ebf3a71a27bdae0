//! Bytes that the allocator has handed out for a waiting stream. `benches/regression` compares them
//! with what is recorded.
//!
//! A whole relay runs in this process; the clients are plain sockets of the main thread, which
//! allocate nothing while streams are open. Kernel buffers are not counted, nor what an allocator
//! rounds up.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;
use token_relay::{server::Server, settings::Snapshot};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Streams that are open before the measurement, so that tables have grown to a usual size.
///
/// A table grows when it is seven eighths full. At 20 and 40 entries in each of the registry's 64
/// shards few of them are about to, so that chance moves the result by a few bytes only.
const BEFORE: usize = 64 * 20;

/// Streams whose bytes are measured.
const MEASURED: usize = 64 * 20;

#[derive(Clone, Copy)]
enum Transport {
    Sse,
    Websocket,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Sse => "SSE",
            Self::Websocket => "WebSocket",
        }
    }

    /// The member of a session with the URL of its stream.
    fn member(self) -> &'static str {
        match self {
            Self::Sse => "events_url",
            Self::Websocket => "websocket_url",
        }
    }

    fn fields(self) -> &'static str {
        match self {
            Self::Sse => "accept: text/event-stream\r\n",
            // The key may be any 16 bytes; these are the example's in RFC 6455 §1.2.
            Self::Websocket => {
                "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 sec-websocket-protocol: token-relay.v1\r\n"
            }
        }
    }

    /// Whether `read` shows that the stream waits: the opening comment, or the handshake's end.
    fn is_open(self, read: &[u8]) -> bool {
        match self {
            Self::Sse => read.windows(7).any(|part| part == b"retry: "),
            Self::Websocket => {
                read.starts_with(b"HTTP/1.1 101") && read.windows(4).any(|part| part == b"\r\n\r\n")
            }
        }
    }
}

fn main() {
    let _profiler = dhat::Profiler::builder().testing().trim_backtraces(Some(4)).build();
    for transport in [Transport::Sse, Transport::Websocket] {
        println!("{}", serde_json::json!({"what": transport.name(), "bytes": measure(transport)}));
    }
}

/// Bytes of a stream.
fn measure(transport: Transport) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let environment = [("TOKEN_RELAY_HEARTBEAT".to_owned(), "5m".to_owned())];
    let snapshot =
        Snapshot::demo(listen, "http://127.0.0.1:1", "bench", "secret", None, environment);
    let server = runtime
        .block_on(Server::start(snapshot.expect("settings").settings))
        .expect("the relay starts");
    let target = server.address();

    let requests: Vec<String> =
        (0..BEFORE + MEASURED).map(|_| request(target, transport)).collect();
    let mut streams = Vec::with_capacity(requests.len());
    let mut open = |requests: &[String]| {
        for request in requests {
            streams.push(waiting(target, transport, request));
        }
        settled()
    };
    let before = open(&requests[..BEFORE]);
    let after = open(&requests[BEFORE..]);
    drop(streams);
    runtime.block_on(server.shut_down());
    (after as f64 - before as f64) / MEASURED as f64
}

/// Creates a session and writes the request for its stream.
fn request(target: SocketAddr, transport: Transport) -> String {
    let body = r#"{"bind":true}"#;
    let head = format!(
        "POST /addons/sessions HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = TcpStream::connect(target).expect("connected");
    socket.write_all(head.as_bytes()).expect("sent");
    socket.write_all(body.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 201"), "{answer}");
    let session: Value = serde_json::from_str(body).expect("JSON");
    let text = |name: &str| session[name].as_str().expect("a member");
    let path = text(transport.member()).splitn(4, '/').nth(3).expect("a path");
    format!(
        "GET /{path} HTTP/1.1\r\nhost: {target}\r\nauthorization: Bearer {}\r\n{}\r\n",
        text("session_token"),
        transport.fields()
    )
}

/// Opens a stream.
fn waiting(target: SocketAddr, transport: Transport, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(target).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    socket.write_all(request.as_bytes()).expect("sent");
    let (mut buffer, mut length) = ([0; 4096], 0);
    while !transport.is_open(&buffer[..length]) {
        let read = socket.read(&mut buffer[length..]).expect("a stream in time");
        assert!(read > 0, "refused: {}", String::from_utf8_lossy(&buffer[..length]));
        length += read;
    }
    socket
}

/// The bytes handed out once they no longer change: a stream's opening is read before the server
/// has dropped what made it.
fn settled() -> usize {
    let mut last = dhat::HeapStats::get().curr_bytes;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let now = dhat::HeapStats::get().curr_bytes;
        if now == last {
            return now;
        }
        last = now;
    }
    panic!("the memory of the relay does not settle");
}

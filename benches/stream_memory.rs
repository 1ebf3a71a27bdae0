//! Bytes that the allocator has handed out for a waiting stream. `benches/regression` compares them
//! with what is recorded.
//!
//! A whole relay runs in this process, and its clients in a process of their own, so that what they
//! allocate is not counted. Nor are kernel buffers, and what an allocator rounds up.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use token_relay::{server::Server, settings::Snapshot};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Creates a session that is read with a session token.
const BODY: &str = r#"{"bind":true}"#;

/// Streams on a connection of HTTP/2, of the 100 that the relay allows.
const PER_CONNECTION: usize = 90;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Sse,
    Websocket,
    SseOverTls,
    SseOverHttp2,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Sse, Self::Websocket, Self::SseOverTls, Self::SseOverHttp2];

    fn name(self) -> &'static str {
        match self {
            Self::Sse => "SSE",
            Self::Websocket => "WebSocket",
            Self::SseOverTls => "SSE over TLS",
            Self::SseOverHttp2 => "SSE over HTTP/2 and TLS",
        }
    }

    fn over_tls(self) -> bool {
        matches!(self, Self::SseOverTls | Self::SseOverHttp2)
    }

    /// Streams that are open before the measurement, so that tables have grown to a usual size, and as
    /// many again that are measured; half as many over TLS, whose handshakes take long in this build.
    ///
    /// A table grows when it is seven eighths full. At 20 and 40 entries in each of the registry's 64
    /// shards, or half of them, few are about to, so that chance moves the result by a few bytes only.
    fn streams(self) -> usize {
        match self {
            Self::Sse | Self::Websocket => 64 * 20,
            Self::SseOverTls => 64 * 10,
            Self::SseOverHttp2 => 7 * PER_CONNECTION,
        }
    }

    /// The member of a session with the URL of its stream.
    fn member(self) -> &'static str {
        if self == Self::Websocket { "websocket_url" } else { "events_url" }
    }

    fn fields(self) -> &'static str {
        if self != Self::Websocket {
            return "accept: text/event-stream\r\n";
        }
        // The key may be any 16 bytes; these are the example's in RFC 6455 §1.2.
        "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: token-relay.v1\r\n"
    }

    /// Whether `read` shows that the stream waits: the opening comment, or the handshake's end.
    fn is_open(self, read: &[u8]) -> bool {
        if self == Self::Websocket {
            read.starts_with(b"HTTP/1.1 101") && read.ends_with(b"\r\n\r\n")
        } else {
            read.windows(7).any(|part| part == b"retry: ")
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, client, number, target, certificate] = &arguments[..]
        && client == "client"
    {
        let transport = Transport::ALL[number.parse::<usize>().expect("a number")];
        let target = target.parse().expect("an address");
        return Client::new(transport, target, certificate).run();
    }
    let _profiler = dhat::Profiler::builder().testing().trim_backtraces(Some(4)).build();
    for (number, transport) in Transport::ALL.into_iter().enumerate() {
        let bytes = measure(number, transport);
        println!("{}", serde_json::json!({"what": transport.name(), "bytes": bytes}));
    }
}

/// Bytes of a stream.
fn measure(number: usize, transport: Transport) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = std::env::temp_dir().join(format!("stream-memory-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
    let mut environment = vec![("TOKEN_RELAY_HEARTBEAT".to_owned(), "5m".to_owned())];
    if transport.over_tls() {
        make_certificate(&file("key"), &file("certificate"));
        environment.push(("TOKEN_RELAY_TLS_KEY".to_owned(), file("key")));
        environment.push(("TOKEN_RELAY_TLS_CERTIFICATE".to_owned(), file("certificate")));
    }
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let snapshot =
        Snapshot::demo(listen, "http://127.0.0.1:1", "bench", "secret", None, environment);
    let server = runtime
        .block_on(Server::start(snapshot.expect("settings").settings))
        .expect("the relay starts");

    let mut clients = Clients::start(number, server.address(), &file("certificate"));
    let before = clients.next();
    let after = clients.next();
    drop(clients);
    runtime.block_on(server.shut_down());
    let _ = std::fs::remove_dir_all(folder);
    (after as f64 - before as f64) / transport.streams() as f64
}

fn make_certificate(key: &str, certificate: &str) {
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", "/CN=localhost", "-keyout", key, "-out", certificate])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .output()
        .expect("openssl runs; install the package openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The clients of one measurement.
struct Clients {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    /// Starts them; they create their sessions first.
    fn start(number: usize, target: SocketAddr, certificate: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["client", &number.to_string(), &target.to_string(), certificate])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let orders = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut clients = Self { process, orders, answers };
        clients.wait();
        clients
    }

    /// Opens as many streams as there are for each step, and returns the bytes handed out then.
    fn next(&mut self) -> usize {
        self.orders.write_all(b"open\n").expect("the clients run");
        self.wait();
        settled()
    }

    fn wait(&mut self) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the clients run");
        assert_eq!(line, "done\n");
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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

/// A connection of a client.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// The clients, in their own process.
struct Client {
    transport: Transport,
    target: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    fn new(transport: Transport, target: SocketAddr, certificate: &str) -> Self {
        let tls = transport.over_tls().then(|| {
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
            roots.add(certificate).expect("a certificate");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions of TLS")
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
        Self { transport, target, tls }
    }

    fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let streams = self.transport.streams();
            let sessions = self.create(2 * streams).await;
            println!("done");
            let (mut sockets, mut tunnels) = (Vec::new(), Vec::new());
            let mut steps = sessions.chunks(streams);
            let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(_)) = orders.next_line().await {
                let Some(step) = steps.next() else { break };
                if self.transport == Transport::SseOverHttp2 {
                    for sessions in step.chunks(PER_CONNECTION) {
                        tunnels.push(self.open_over_http2(sessions).await);
                    }
                } else {
                    for session in step {
                        sockets.push(self.open(session).await);
                    }
                }
                println!("done");
            }
        });
    }

    /// A connection over which HTTP/2 is spoken, where it is one over TLS.
    async fn connect(&self, http2: bool) -> Box<dyn Socket> {
        let socket = TcpStream::connect(self.target).await.expect("connected");
        let Some(tls) = &self.tls else { return Box::new(socket) };
        let mut tls = Arc::clone(tls);
        if !http2 {
            Arc::make_mut(&mut tls).alpn_protocols.clear();
        }
        let name = ServerName::try_from("localhost").expect("a name");
        Box::new(TlsConnector::from(tls).connect(name, socket).await.expect("a handshake"))
    }

    async fn create(&self, sessions: usize) -> Vec<Value> {
        let mut created = Vec::new();
        if self.tls.is_some() {
            let mut client = http2(self.connect(true).await).await;
            for _ in 0..sessions {
                client = client.ready().await.expect("a connection");
                created.push(self.create_over_http2(&mut client).await);
            }
        } else {
            for _ in 0..sessions {
                created.push(self.create_over_http1().await);
            }
        }
        created
    }

    async fn create_over_http2(&self, client: &mut Http2) -> Value {
        let request = http::Request::post(format!("https://{}/addons/sessions", self.target));
        let request = request.header("content-type", "application/json").body(());
        let (answer, mut sending) =
            client.send_request(request.expect("a request"), false).expect("sent");
        sending.send_data(BODY.into(), true).expect("sent");
        let mut answer = answer.await.expect("an answer").into_body();
        let mut json = Vec::new();
        while let Some(part) = answer.data().await {
            let part = part.expect("a body");
            let released = answer.flow_control().release_capacity(part.len());
            released.expect("a window");
            json.extend_from_slice(&part);
        }
        serde_json::from_slice(&json).expect("JSON")
    }

    async fn create_over_http1(&self) -> Value {
        let request = format!(
            "POST /addons/sessions HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
            self.target,
            BODY.len()
        );
        let mut socket = self.connect(false).await;
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(head.starts_with("HTTP/1.1 201"), "{answer}");
        serde_json::from_str(body).expect("JSON")
    }

    /// The path and the bearer token of a session's stream.
    fn stream<'a>(&self, session: &'a Value) -> (&'a str, &'a str) {
        let text = |name: &str| session[name].as_str().expect("a member");
        let path = text(self.transport.member()).splitn(4, '/').nth(3).expect("a path");
        (path, text("session_token"))
    }

    /// Opens a stream on a connection of its own.
    async fn open(&self, session: &Value) -> Box<dyn Socket> {
        let (path, token) = self.stream(session);
        let mut socket = self.connect(false).await;
        let request = format!(
            "GET /{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n{}\r\n",
            self.target,
            self.transport.fields()
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !self.transport.is_open(&answer) {
            let read = tokio::time::timeout(Duration::from_secs(20), socket.read_buf(&mut answer));
            let read = read.await.expect("a stream in time").expect("a stream");
            assert!(read > 0, "refused: {}", String::from_utf8_lossy(&answer));
        }
        socket
    }

    /// Opens streams on one connection.
    async fn open_over_http2(&self, sessions: &[Value]) -> Vec<h2::RecvStream> {
        let mut client = http2(self.connect(true).await).await;
        let mut open = Vec::new();
        for session in sessions {
            let (path, token) = self.stream(session);
            let request = http::Request::get(format!("https://{}/{path}", self.target))
                .header("accept", "text/event-stream")
                .header("authorization", format!("Bearer {token}"))
                .body(());
            client = client.ready().await.expect("a connection");
            let (answer, _) = client.send_request(request.expect("a request"), true).expect("sent");
            let mut stream = answer.await.expect("an answer").into_body();
            let opening = stream.data().await.expect("an opening").expect("an opening");
            assert!(self.transport.is_open(&opening), "{opening:?}");
            open.push(stream);
        }
        open
    }
}

type Http2 = h2::client::SendRequest<bytes::Bytes>;

async fn http2(socket: Box<dyn Socket>) -> Http2 {
    let (client, connection) = h2::client::handshake(socket).await.expect("a handshake");
    tokio::spawn(connection);
    client
}

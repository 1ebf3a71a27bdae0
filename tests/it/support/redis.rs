//! Real Redis servers for tests: each on a free loopback port or socket, in a directory of its
//! own, ended by its process ID when the test is over, however it ends.

// Each test file uses a part of it; a failing helper fails its test.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Config;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};

/// A directory that goes away with its owner.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "token-relay-redis-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody listens on, outside the range from which the system draws client ports,
/// since a reconnecting client could else take the port of a server that is restarting. The
/// cluster's bus needs the port 10 000 above as well.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() % 1000 * 10;
    for _ in 0..10_000 {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 11_000 + u16::try_from(offset).expect("below 10 000");
        if [port, port + 10_000].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        {
            return port;
        }
    }
    panic!("no free port");
}

/// A running `redis-server`.
pub struct Server {
    child: Child,
    pub port: u16,
    pub directory: Directory,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    /// Starts one on a free port with further arguments and waits until it answers.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::of("redis-server".as_ref(), arguments).await
    }

    /// Starts another program that speaks the same protocol.
    pub async fn of(program: &Path, arguments: &[&str]) -> Self {
        let server = Self::unchecked(program, free_port(), Directory::new(), arguments);
        server.ready().await;
        server
    }

    /// Starts one without waiting.
    pub fn start_unchecked(port: u16, directory: Directory, arguments: &[&str]) -> Self {
        Self::unchecked("redis-server".as_ref(), port, directory, arguments)
    }

    fn unchecked(program: &Path, port: u16, directory: Directory, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let child = spawn(program, port, &directory, &arguments);
        Self { child, port, directory, program: program.to_owned(), arguments }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until it answers.
    pub async fn ready(&self) {
        eventually("redis-server answers", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    /// Ends it without a word (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, self.port, &self.directory, &self.arguments);
    }

    /// Starts it again with further arguments.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|text| (*text).to_owned()));
        self.restart();
    }

    /// Starts another program in its place.
    pub fn replace(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
        self.restart();
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().expect("kill").success());
    }

    /// A client of its own for the test's hand, not the store's.
    pub async fn client(&self) -> Client {
        client(&self.url()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, port: u16, directory: &Directory, arguments: &[String]) -> Child {
    let log = File::create(directory.path().join("server.log")).expect("a log file");
    // Sentinel rewrites its configuration file, so it has one; it must be the first argument.
    let configuration = directory.path().join("sentinel.conf");
    let mut command = Command::new(program);
    if configuration.exists() {
        command.arg(configuration);
    } else {
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--dir", directory.path().to_str().expect("UTF-8")]);
    }
    if !arguments.iter().any(|argument| argument == "--port") {
        command.args(["--port", &port.to_string()]);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run ./tests/run install", program.display()))
}

/// A connected client.
pub async fn client(url: &str) -> Client {
    let config = Config::from_url(url).expect("a URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("redis answers");
    client
}

/// A connection on which nothing is sent but what the test asks.
pub struct Plain(tokio::net::TcpStream);

impl Plain {
    pub async fn connect(port: u16) -> Self {
        Self(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection"))
    }

    /// Sends an inline command; the beginning of what is answered.
    pub async fn ask(&mut self, command: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        self.0.write_all(format!("{command}\r\n").as_bytes()).await.expect("sent");
        let mut answer = [0; 1024];
        let length = self.0.read(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

/// Sends any command and returns its answer.
pub async fn command(client: &Client, words: &[&str]) -> Value {
    try_command(client, words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Sends any command.
pub async fn try_command(client: &Client, words: &[&str]) -> Result<Value, Error> {
    let arguments: Vec<String> = words[1..].iter().map(|text| (*text).to_owned()).collect();
    let name = CustomCommand::new(words[0].to_owned(), ClusterHash::FirstKey, false);
    client.custom(name, arguments).await
}

/// Waits until a condition holds, ten seconds at most.
pub async fn eventually<F, Condition>(what: &str, mut condition: F)
where
    F: FnMut() -> Condition,
    Condition: Future<Output = bool>,
{
    within(Duration::from_secs(10), what, &mut condition).await;
}

/// Waits until a condition holds.
pub async fn within<F, Condition>(limit: Duration, what: &str, mut condition: F)
where
    F: FnMut() -> Condition,
    Condition: Future<Output = bool>,
{
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "not in {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Three primaries that share the slots.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(
                Server::start(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-announce-ip",
                    "127.0.0.1",
                ])
                .await,
            );
        }
        let cluster = Self { servers };
        for (server, slots) in
            cluster.servers.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")])
        {
            let client = server.client().await;
            command(&client, &["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]).await;
            for other in &cluster.servers {
                if other.port != server.port {
                    let port = other.port.to_string();
                    command(&client, &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
                }
            }
        }
        for server in &cluster.servers {
            let client = server.client().await;
            within(Duration::from_secs(30), "the cluster is whole", || async {
                let info: String = client.cluster_info::<String>().await.unwrap_or_default();
                info.contains("cluster_state:ok") && info.contains("cluster_size:3")
            })
            .await;
        }
        cluster
    }

    pub fn url(&self) -> String {
        let [first, second, third, ..] = &self.servers[..] else { panic!("three servers") };
        format!(
            "redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}",
            first.port, second.port, third.port
        )
    }

    /// Gives each of the three primaries a replica, which takes over when it dies.
    pub async fn add_replicas(&mut self) {
        for index in 0..3 {
            let replica = Server::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--cluster-announce-ip",
                "127.0.0.1",
                "--repl-diskless-sync-delay",
                "0",
            ])
            .await;
            let (client, primary) = (replica.client().await, self.servers[index].client().await);
            let port = self.servers[index].port.to_string();
            command(&client, &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
            let id = command(&primary, &["CLUSTER", "MYID"]).await.as_string().expect("an ID");
            within(Duration::from_secs(20), "the replica knows its primary", || async {
                try_command(&client, &["CLUSTER", "REPLICATE", &id]).await.is_ok()
            })
            .await;
            within(Duration::from_secs(20), "the replica follows", || async {
                let info = command(&client, &["INFO", "replication"]).await;
                info.as_string().is_some_and(|text| text.contains("master_link_status:up"))
            })
            .await;
            self.servers.push(replica);
        }
    }

    /// The server that has the key's slot, by the word of the first one.
    pub async fn owner(&self, slot: u16) -> usize {
        let client = self.servers[0].client().await;
        let Value::Array(ranges) = command(&client, &["CLUSTER", "SLOTS"]).await else {
            panic!("ranges")
        };
        for range in ranges {
            let Value::Array(range) = range else { panic!("a range") };
            let Value::Array(primary) = &range[2] else { panic!("a primary") };
            let (first, last) =
                (range[0].as_u64().expect("slot"), range[1].as_u64().expect("slot"));
            if (first..=last).contains(&u64::from(slot)) {
                let port = primary[1].as_u64().expect("port");
                return self
                    .servers
                    .iter()
                    .position(|server| u64::from(server.port) == port)
                    .expect("one of ours");
            }
        }
        panic!("slot {slot} has no owner");
    }

    /// Moves a slot with its keys, as `redis-cli --cluster reshard` does.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.servers[from].client().await, self.servers[to].client().await);
        let id = async |client: &Client| {
            command(client, &["CLUSTER", "MYID"]).await.as_string().expect("an ID")
        };
        let (source_id, target_id) = (id(&source).await, id(&target).await);
        let text = slot.to_string();
        command(&target, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &source_id]).await;
        command(&source, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &target_id]).await;
        loop {
            let keys = command(&source, &["CLUSTER", "GETKEYSINSLOT", &text, "100"]).await;
            let Value::Array(keys) = keys else { panic!("keys") };
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let (key, port) =
                    (key.as_string().expect("a key"), self.servers[to].port.to_string());
                command(&source, &["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await;
            }
        }
        command(&target, &["CLUSTER", "SETSLOT", &text, "NODE", &target_id]).await;
        command(&source, &["CLUSTER", "SETSLOT", &text, "NODE", &target_id]).await;
        for (index, server) in self.servers.iter().enumerate() {
            if index != from && index != to {
                let client = server.client().await;
                command(&client, &["CLUSTER", "SETSLOT", &text, "NODE", &target_id]).await;
            }
        }
    }
}

/// A primary, a replica and three sentinels that watch them as `main`.
pub struct Sentinels {
    pub primary: Server,
    pub replica: Server,
    pub sentinels: Vec<Server>,
}

impl Sentinels {
    pub async fn start() -> Self {
        let primary = Server::start(&["--repl-diskless-sync-delay", "0"]).await;
        let port = primary.port.to_string();
        let replica = Server::start(&[
            "--replicaof",
            &format!("127.0.0.1 {port}"),
            "--repl-diskless-sync-delay",
            "0",
        ])
        .await;
        let follower = replica.client().await;
        eventually("the replica follows", || async {
            let info = command(&follower, &["INFO", "replication"]).await;
            info.as_string().is_some_and(|text| text.contains("master_link_status:up"))
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let directory = Directory::new();
            let own = free_port();
            let configuration = format!(
                "port {own}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor main 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds main 500\n\
                 sentinel failover-timeout main 3000\n",
                directory.path().display()
            );
            std::fs::write(directory.path().join("sentinel.conf"), configuration)
                .expect("a configuration file");
            let sentinel = Server::start_unchecked(
                own,
                directory,
                &["--sentinel", "--port", &own.to_string()],
            );
            sentinel.ready().await;
            sentinels.push(sentinel);
        }
        for sentinel in &sentinels {
            let client = sentinel.client().await;
            within(Duration::from_secs(20), "the sentinels know each other", || async {
                let found = try_command(&client, &["SENTINEL", "CKQUORUM", "main"]).await;
                let replicas = command(&client, &["SENTINEL", "REPLICAS", "main"]).await;
                found
                    .is_ok_and(|text| text.as_string().is_some_and(|text| text.starts_with("OK 3")))
                    && matches!(replicas, Value::Array(list) if list.len() == 1)
            })
            .await;
        }
        Self { primary, replica, sentinels }
    }

    pub fn url(&self) -> String {
        let [first, second, third] = &self.sentinels[..] else { panic!("three sentinels") };
        format!(
            "redis-sentinel://127.0.0.1:{}?sentinelServiceName=main&node=127.0.0.1:{}&node=127.0.0.1:{}",
            first.port, second.port, third.port
        )
    }
}

/// A server that speaks TLS alone, and the file with the authority that signed its certificate.
pub async fn tls_server() -> (Server, String) {
    let directory = Directory::new();
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl")
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .expect("openssl runs; install the package openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    std::fs::write(
        directory.path().join("server.ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .expect("a file");
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        &[
            &["req", "-x509"],
            &curve[..],
            &["-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=Test authority"],
        ]
        .concat(),
    );
    openssl(
        &[
            &["req"],
            &curve[..],
            &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        ]
        .concat(),
    );
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "server.ext",
        "-out",
        "server.crt",
    ]);
    let file = |name: &str| directory.file(name);
    let (port, authority) = (free_port(), file("ca.crt"));
    let (certificate, key, text) = (file("server.crt"), file("server.key"), port.to_string());
    let arguments = [
        "--bind",
        "127.0.0.1",
        "127.0.0.2",
        "--port",
        "0",
        "--tls-port",
        &text,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ];
    let server = Server::start_unchecked(port, directory, &arguments);
    server.ready().await;
    (server, authority)
}

//! The clients that reconnect by themselves, each from its package, through what can happen to a
//! session and its connection. Prints a matrix of clients and events.
//!
//! No client is closed when its final event has come, but for one that does not work otherwise: what it
//! does then by itself is what is tested.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    Browser, Events, Process, client, create, form_action, hidden_inputs,
    redis::{self, free_port, within},
    text,
};

/// How long anything may take that works: the largest pause of a client before it reconnects is 10 s.
const LIMIT: Duration = Duration::from_secs(25);

/// Time in which the last reconnection comes, the one that says that the final event has arrived.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Time in which a client that reconnects in a loop would be seen.
const QUIET: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Script {
    JavaScript,
    Python,
}

/// Name of the package, the script that has it, and whether it sends a session token: an
/// `EventSource` of a browser cannot.
const CLIENTS: [(&str, Script, bool); 10] = [
    ("EventSource", Script::JavaScript, false),
    ("event-source-polyfill", Script::JavaScript, true),
    ("@microsoft/fetch-event-source", Script::JavaScript, true),
    ("eventsource", Script::JavaScript, true),
    ("launchdarkly-eventsource", Script::JavaScript, true),
    ("httpx-sse", Script::Python, true),
    ("sseclient-py", Script::Python, true),
    ("ws", Script::JavaScript, true),
    ("reconnecting-websocket", Script::JavaScript, true),
    ("websockets", Script::Python, true),
];

/// What happens to a session that a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happening {
    /// The person signs in.
    Token,
    /// The person cancels.
    Failure,
    /// Nobody signs in.
    Expiry,
    /// Another reader comes, then the person signs in.
    Superseded,
    /// The proxy cuts the connection and is unreachable for a while.
    Cut,
    /// Redis dies and comes back.
    RedisGone,
    /// The relay shuts down; another instance is there.
    Restart,
}

use Happening::{Cut, Expiry, Failure, RedisGone, Restart, Superseded, Token};

const HAPPENINGS: [Happening; 7] = [Token, Failure, Expiry, Superseded, Cut, RedisGone, Restart];

/// A proxy in front of one client: counts its requests and can cut it off.
struct Gate {
    address: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
    requests: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Gate {
    async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Arc::new(Mutex::new(upstream));
        let (requests, (open, is_open)) = (Arc::new(AtomicUsize::new(0)), watch::channel(true));
        let accepting = {
            let (upstream, requests) = (Arc::clone(&upstream), Arc::clone(&requests));
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let upstream = *upstream.lock().unwrap();
                    let (requests, is_open) = (Arc::clone(&requests), is_open.clone());
                    tokio::spawn(pass(client, upstream, requests, is_open));
                }
            })
        };
        let _accepting = AbortOnDropHandle::new(accepting);
        Self { address, upstream, requests, open, _accepting }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }
}

/// Passes bytes on in both directions until the gate closes; then the client sees a reset.
async fn pass(
    mut client: TcpStream,
    upstream: SocketAddr,
    requests: Arc<AtomicUsize>,
    mut open: watch::Receiver<bool>,
) {
    let passing = async {
        let Ok(mut server) = TcpStream::connect(upstream).await else { return false };
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            let mut part = vec![0; 16_384];
            while let Ok(length @ 1..) = from_client.read(&mut part).await {
                requests.fetch_add(usize::from(part.starts_with(b"GET ")), Ordering::AcqRel);
                if to_server.write_all(&part[..length]).await.is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown().await;
        };
        let down = async {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            let _ = to_client.shutdown().await;
        };
        tokio::join!(up, down);
        true
    };
    let passed = tokio::select! {
        passed = passing => passed,
        _ = open.wait_for(|open| !open) => false,
    };
    if !passed {
        let _ = client.set_zero_linger();
    }
}

/// What a client saw.
#[derive(Debug, Deserialize)]
struct Seen {
    session: String,
    saw: String,
    #[serde(default)]
    detail: Value,
}

/// A script with clients.
struct Driver {
    child: Child,
    requests: ChildStdin,
}

impl Driver {
    fn start(script: Script, page_port: u16, seen: &Arc<Mutex<Vec<Seen>>>) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let (program, file) = match script {
            Script::JavaScript => (PathBuf::from("node"), "clients.mjs"),
            Script::Python => (root.join("target/venv/bin/python"), "clients.py"),
        };
        let mut child = Command::new(&program)
            .args([file, &page_port.to_string()])
            .current_dir(root.join("tests/support/clients"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(crate::support::stderr_opened_anew())
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?}: {error}; run ./tests/run install"));
        let requests = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().and_then(Result::ok);
        assert_eq!(ready.as_deref(), Some("ready"), "{script:?}; run ./tests/run install");
        let seen = Arc::clone(seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
                seen.lock().unwrap().push(line);
            }
        });
        Self { child, requests }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that waits for a session, and what happens to it.
struct Cell {
    client: &'static str,
    happening: Happening,
    session: Value,
    gate: Gate,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Cell {
    fn name(&self) -> String {
        format!("{} / {:?}", self.client, self.happening)
    }

    fn token(&self) -> Option<&str> {
        self.session["session_token"].as_str()
    }

    /// How often the client saw something.
    fn count(&self, saw: &str) -> usize {
        let (name, seen) = (self.name(), self.seen.lock().unwrap());
        seen.iter().filter(|line| line.session == name && line.saw == saw).count()
    }

    /// Everything that it saw, in order.
    fn history(&self) -> String {
        let (name, seen) = (self.name(), self.seen.lock().unwrap());
        let lines = seen.iter().filter(|line| line.session == name);
        let lines = lines.map(|line| match &line.detail {
            Value::Null => line.saw.clone(),
            detail => format!("{} {detail}", line.saw),
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    /// The final event that is due.
    fn due(&self) -> &'static str {
        match self.happening {
            Failure | Superseded => "failed",
            Expiry => "expired",
            Token | Cut | RedisGone | Restart => "authenticated",
        }
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            let elapsed = begun.elapsed();
            assert!(elapsed < LIMIT, "{}: {what}; it saw {}", self.name(), self.history());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What became of the session, by a poll.
    async fn state(&self) -> String {
        let mut poll = client().get(text(&self.session, "poll_url"));
        if let Some(token) = self.token() {
            poll = poll.bearer_auth(token);
        }
        let answer = poll.send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        match status {
            StatusCode::OK => text(&body, "state").to_owned(),
            StatusCode::GONE => "over".to_owned(),
            other => format!("{other} {body}"),
        }
    }

    /// The person signs in, and tries again where the relay is unavailable.
    async fn sign_in(&self) {
        let browser = Browser::default();
        for _ in 0..40 {
            let mut page = browser.to_login(&self.session).await;
            if page.status == StatusCode::OK {
                page = browser.log_in(&page, "alice", "alice").await;
            }
            if page.url.path() == "/addons/success" {
                return;
            }
            assert!(page.status.is_server_error(), "{}: {:?}", self.name(), page.trail);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("{}: unavailable for too long", self.name());
    }
}

fn address(relay: &Process) -> SocketAddr {
    relay.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// A URL with another address.
fn through(url: &str, gate: SocketAddr) -> String {
    let mut url = reqwest::Url::parse(url).unwrap();
    url.set_port(Some(gate.port())).unwrap();
    url.to_string()
}

/// Lets something happen to the cells of one kind, several at a time.
async fn each<'a, Happens: Future<Output = ()>>(
    cells: &'a [Cell],
    happening: Happening,
    happens: impl Fn(&'a Cell) -> Happens,
) {
    let chosen = cells.iter().filter(|cell| cell.happening == happening);
    stream::iter(chosen).for_each_concurrent(4, happens).await;
}

/// Waits until every client of one kind has its final event.
async fn has_ended(cells: &[Cell], happening: Happening) {
    for cell in cells.iter().filter(|cell| cell.happening == happening) {
        cell.until("its final event", || cell.count(cell.due()) > 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_that_reconnects_gets_its_token_once_and_comes_to_rest() {
    let begun = Instant::now();
    let page_port = free_port();
    let origin = format!("http://127.0.0.1:{page_port}");
    let mut server =
        redis::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let redis_url = server.url();
    let common = [
        ("TOKEN_RELAY_ALLOWED_ORIGINS", origin.as_str()),
        ("TOKEN_RELAY_PROOFS", "code"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000"),
        // A token that was not acknowledged is readable when all is over.
        ("TOKEN_RELAY_DELIVERY_GRACE", "10m"),
        ("TOKEN_RELAY_HEARTBEAT", "1s"),
    ];
    let shared = crate::support::shared(redis_url.as_str());
    let instance = || Process::demo(&[&common[..], &shared[..]].concat());
    // Dialogs go to the new one, streams to the old one as long as it is there.
    let (mut old, new) = (instance(), instance());
    let brief = Process::demo(&[&common[..], &[("TOKEN_RELAY_SESSION_TTL", "10s")]].concat());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut drivers = HashMap::from(
        [Script::JavaScript, Script::Python]
            .map(|script| (script, Driver::start(script, page_port, &seen))),
    );
    println!("ready after {:?}", begun.elapsed());

    let mut cells = Vec::new();
    for happening in HAPPENINGS {
        for (client, script, bound) in CLIENTS {
            let (creator, upstream) = match happening {
                Expiry => (&brief, &brief),
                _ => (&new, &old),
            };
            let session = create(&creator.url, bound.then(|| json!({"bind": true}))).await;
            let gate = Gate::start(address(upstream)).await;
            let seen = Arc::clone(&seen);
            let cell = Cell { client, happening, session, gate, seen };
            let request = json!({
                "session": cell.name(),
                "client": client,
                "events_url": through(text(&cell.session, "events_url"), cell.gate.address),
                "websocket_url": through(text(&cell.session, "websocket_url"), cell.gate.address),
                "token": cell.token(),
            });
            let requests = &mut drivers.get_mut(&script).unwrap().requests;
            writeln!(requests, "{request}").unwrap();
            cells.push(cell);
        }
    }
    for cell in &cells {
        cell.until("it waits", || cell.count("open") > 0).await;
    }
    println!("{} clients wait after {:?}", cells.len(), begun.elapsed());

    each(&cells, Token, Cell::sign_in).await;
    each(&cells, Failure, async |cell| {
        let browser = Browser::default();
        let login = browser.to_login(&cell.session).await;
        let mut fields = hidden_inputs(&login.body);
        fields.push(("action".to_owned(), "cancel".to_owned()));
        browser.submit(form_action(&login).as_str(), &fields).await;
    })
    .await;
    each(&cells, Superseded, async |cell| {
        let mut newer = Events::open(text(&cell.session, "events_url"), cell.token()).await;
        newer.until("retry: ").await;
        cell.sign_in().await;
        assert_eq!(newer.next().await.unwrap().name, "authenticated", "{}", cell.name());
    })
    .await;
    for happening in [Token, Failure, Superseded] {
        has_ended(&cells, happening).await;
    }
    println!("token, failure, superseded after {:?}", begun.elapsed());

    for open in [false, true] {
        for cell in cells.iter().filter(|cell| cell.happening == Cut) {
            cell.gate.open.send_replace(open);
        }
        if !open {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    for cell in cells.iter().filter(|cell| cell.happening == Cut) {
        cell.until("it is back", || cell.count("open") > 1).await;
    }
    each(&cells, Cut, Cell::sign_in).await;
    has_ended(&cells, Cut).await;
    println!("proxy cut after {:?}", begun.elapsed());
    // Until those that say so have said that they have it.
    tokio::time::sleep(LAST_WORDS).await;

    server.kill();
    within(LIMIT, "readiness is withdrawn", || async {
        let ready = client().get(format!("{}/readyz", old.url)).send().await.unwrap();
        ready.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.restart();
    for relay in [&old, &new] {
        within(LIMIT, "it is ready again", || async {
            let ready = client().get(format!("{}/readyz", relay.url)).send().await.unwrap();
            ready.status() == StatusCode::OK
        })
        .await;
    }
    each(&cells, RedisGone, Cell::sign_in).await;
    has_ended(&cells, RedisGone).await;
    println!("Redis gone and back after {:?}", begun.elapsed());

    let before: Vec<usize> = cells.iter().map(|cell| cell.count("open")).collect();
    for cell in cells.iter().filter(|cell| cell.happening != Expiry) {
        *cell.gate.upstream.lock().unwrap() = address(&new);
    }
    old.signal("TERM");
    for (cell, before) in cells.iter().zip(before).filter(|(cell, _)| cell.happening == Restart) {
        cell.until("it is at the other instance", || cell.count("open") > before).await;
    }
    assert!(old.wait().success(), "{}", old.log());
    each(&cells, Restart, Cell::sign_in).await;
    has_ended(&cells, Restart).await;
    println!("restart after {:?}", begun.elapsed());
    has_ended(&cells, Expiry).await;

    // A browser lengthens its pauses after errors, so that its last request may come late.
    let count = || cells.iter().map(|cell| cell.gate.requests()).collect::<Vec<_>>();
    let (mut requests, ended) = (count(), Instant::now());
    loop {
        tokio::time::sleep(QUIET).await;
        let later = count();
        if later == requests || ended.elapsed() > LIMIT {
            break;
        }
        requests = later;
    }
    let (mut lines, mut faults) = (HashMap::<&str, Vec<String>>::new(), Vec::new());
    for (cell, before) in cells.iter().zip(requests) {
        let (after, finals) = (cell.gate.requests(), cell.count(cell.due()));
        let state = cell.state().await;
        let outcome = match cell.due() {
            "authenticated" => "token",
            _ if cell.happening == Superseded => "superseded",
            other => other,
        };
        let rest = if after == before { "at rest" } else { "COMES AGAIN" };
        let line = format!("{outcome} ×{finals}, {after} requests, {rest}, session {state}");
        // Failures and superseded readers change nothing; a token is delivered, or acknowledged too.
        let fine = match cell.happening {
            Failure => state == "failed",
            Expiry => state == "over",
            Superseded => state == "authenticated",
            Token | Cut | RedisGone | Restart => state == "authenticated" || state == "over",
        };
        let others: usize = ["authenticated", "failed", "expired"]
            .iter()
            .filter(|name| **name != cell.due())
            .map(|name| cell.count(name))
            .sum();
        if finals != 1 || others != 0 || after != before || !fine {
            faults.push(format!("{}: {line}; it saw {}", cell.name(), cell.history()));
        }
        lines.entry(cell.client).or_default().push(line);
    }
    for (client, ..) in CLIENTS {
        println!("{client}");
        for (happening, line) in HAPPENINGS.iter().zip(&lines[client]) {
            println!("  {:<12} {line}", format!("{happening:?}"));
        }
    }
    println!("{} cells in {:?}", cells.len(), begun.elapsed());
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A process that is ended when dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `express` with `compression` in front of `http-proxy`, and its address.
fn express(upstream: &str) -> (Helper, String) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/clients");
    let mut child = Command::new("node")
        .args(["--no-warnings", "compressing-proxy.mjs", upstream])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(crate::support::stderr_opened_anew())
        .spawn()
        .expect("node starts; run ./tests/run install");
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert!(address.starts_with("http://"), "{address:?}; run ./tests/run install");
    (Helper(child), address.trim().to_owned())
}

/// nginx that compresses every answer, and its address.
async fn nginx(upstream: &str, folder: &redis::Directory) -> (Helper, String) {
    let (port, path) = (free_port(), folder.path().to_str().unwrap());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};"))
        .concat();
    let configuration = format!(
        "events {{}} http {{ {temporary} access_log off; gzip on; gzip_proxied any; \
         gzip_min_length 0; gzip_types *; server {{ listen 127.0.0.1:{port}; location / {{ \
         proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Host $host; }} }} }}"
    );
    std::fs::write(folder.file("nginx.conf"), configuration).unwrap();
    let global = format!("daemon off; master_process off; pid {path}/pid;");
    let child = Command::new("nginx")
        .args(["-e", "stderr", "-c", &folder.file("nginx.conf"), "-g", &global])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts; install the package nginx");
    let helper = Helper(child);
    redis::eventually("nginx listens", || async {
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    (helper, format!("http://127.0.0.1:{port}"))
}

// Field case 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_pass_a_proxy_that_compresses_at_once() {
    const AT_ONCE: Duration = Duration::from_secs(1);
    let page_port = free_port();
    let origin = format!("http://127.0.0.1:{page_port}");
    // Nothing pushes an event out of a buffer.
    let relay = Process::demo(&[
        ("TOKEN_RELAY_ALLOWED_ORIGINS", origin.as_str()),
        ("TOKEN_RELAY_PROOFS", "code"),
        ("TOKEN_RELAY_HEARTBEAT", "5m"),
    ]);
    let folder = redis::Directory::new();
    let (_express, express) = express(&relay.url);
    let (_nginx, nginx) = nginx(&relay.url, &folder).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut driver = Driver::start(Script::JavaScript, page_port, &seen);
    for (proxy, address) in [("compression (npm)", &express), ("nginx with gzip", &nginx)] {
        // It does compress.
        let ask = client().get(format!("{address}/openapi.json"));
        let answer = ask.header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(answer.headers()["content-encoding"], "gzip", "{proxy}");
        for (client, _, bound) in [CLIENTS[0], CLIENTS[3]] {
            let session = create(&relay.url, bound.then(|| json!({"bind": true}))).await;
            let upstream = address.strip_prefix("http://").unwrap().parse().unwrap();
            let gate = Gate::start(upstream).await;
            let seen = Arc::clone(&seen);
            let cell = Cell { client, happening: Token, session, gate, seen };
            let name = format!("{} {proxy}", cell.name());
            let request = json!({
                "session": cell.name(),
                "client": client,
                "events_url": through(text(&cell.session, "events_url"), cell.gate.address),
                "token": cell.token(),
            });
            let before = (cell.count("open"), cell.count("authenticated"));
            let begun = Instant::now();
            writeln!(driver.requests, "{request}").unwrap();
            cell.until("it is open", || cell.count("open") > before.0).await;
            let opened = begun.elapsed();
            cell.sign_in().await;
            let begun = Instant::now();
            cell.until("the token", || cell.count("authenticated") > before.1).await;
            let arrived = begun.elapsed();
            println!("{name}: open after {opened:?}, the token {arrived:?} after the sign-in");
            assert!(opened < 2 * AT_ONCE && arrived < AT_ONCE, "{name}: {opened:?} {arrived:?}");
        }
    }
}

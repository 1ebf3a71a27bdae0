//! What happens to a Redis that is in use. In each case readiness tells the truth, the log names the
//! cause, the relay recovers by itself, and a sign-in that was waiting still ends well.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use fred::clients::Client;
use futures_util::{StreamExt as _, stream};
use reqwest::StatusCode;
use serde_json::json;

use crate::{
    redis_servers::{readiness, relay_at, sign_in},
    support::{
        Browser, Events, Process, client, create,
        redis::{
            Directory, Server, command, eventually, free_port, tls_server, try_command, within,
        },
        text,
    },
};

/// Limit for what the relay has to notice, in either direction.
const LIMIT: Duration = Duration::from_secs(20);

const SETTINGS: [(&str, &str); 2] =
    [("TOKEN_RELAY_LOG", "info"), ("TOKEN_RELAY_REDIS_TIMEOUT", "500ms")];

/// Commands that begin an incident or end it.
type Commands = &'static [&'static [&'static str]];

struct Incident {
    name: &'static str,
    /// Of the server.
    arguments: &'static [&'static str],
    /// In the URL, before the host.
    credentials: &'static str,
    before: Commands,
    begin: Commands,
    end: Commands,
    /// What a creation is answered with.
    creation: StatusCode,
    /// What the log says.
    cause: &'static str,
}

const DEFAULT: Incident = Incident {
    name: "",
    arguments: &[],
    credentials: "",
    before: &[],
    begin: &[],
    end: &[],
    creation: StatusCode::SERVICE_UNAVAILABLE,
    cause: "",
};

/// Closes every connection but the test's own.
const DISCONNECT: &[&str] = &["CLIENT", "KILL", "SKIPME", "yes", "USER", "relay"];

const RELAY: &[&str] = &[
    "ACL",
    "SETUSER",
    "relay",
    "reset",
    "on",
    ">secret",
    "~test:*",
    "~token-relay:*",
    "&*",
    "+@all",
];

const INCIDENTS: [Incident; 11] = [
    Incident {
        name: "a replica now",
        begin: &[&["REPLICAOF", "127.0.0.1", "1"]],
        end: &[&["REPLICAOF", "NO", "ONE"]],
        cause: "READONLY",
        ..DEFAULT
    },
    Incident {
        name: "too few replicas",
        begin: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        end: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
        cause: "NOREPLICAS",
        ..DEFAULT
    },
    Incident {
        name: "no memory left",
        begin: &[&["CONFIG", "SET", "maxmemory", "1"]],
        end: &[&["CONFIG", "SET", "maxmemory", "0"]],
        cause: "OOM",
        ..DEFAULT
    },
    Incident {
        name: "another password",
        credentials: "relay:secret@",
        before: &[RELAY],
        begin: &[&["ACL", "SETUSER", "relay", "resetpass", ">other"], DISCONNECT],
        end: &[&["ACL", "SETUSER", "relay", ">secret"]],
        cause: "WRONGPASS",
        ..DEFAULT
    },
    Incident {
        name: "the user deleted",
        credentials: "relay:secret@",
        before: &[RELAY],
        begin: &[&["ACL", "DELUSER", "relay"]],
        end: &[RELAY],
        cause: "WRONGPASS",
        ..DEFAULT
    },
    Incident {
        name: "a password for everybody",
        begin: &[
            &["CONFIG", "SET", "requirepass", "secret"],
            &["CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal"],
            &["CLIENT", "KILL", "TYPE", "pubsub"],
        ],
        end: &[&["CONFIG", "SET", "requirepass", ""]],
        cause: "NOAUTH",
        ..DEFAULT
    },
    Incident {
        name: "no right to run scripts",
        credentials: "relay:secret@",
        before: &[RELAY],
        begin: &[&["ACL", "SETUSER", "relay", "-@scripting"]],
        end: &[&["ACL", "SETUSER", "relay", "+@all"]],
        cause: "NOPERM",
        ..DEFAULT
    },
    Incident {
        name: "no right to the keys",
        credentials: "relay:secret@",
        before: &[RELAY],
        begin: &[&["ACL", "SETUSER", "relay", "resetkeys"]],
        end: &[&["ACL", "SETUSER", "relay", "~*"]],
        cause: "NOPERM",
        ..DEFAULT
    },
    Incident {
        name: "no right to the channels",
        credentials: "relay:secret@",
        before: &[RELAY],
        // The server closes connections that subscribe to what they no longer may.
        begin: &[&["ACL", "SETUSER", "relay", "resetchannels"]],
        end: &[&["ACL", "SETUSER", "relay", "&*"]],
        // Which needs no channel.
        creation: StatusCode::CREATED,
        cause: "NOPERM",
        ..DEFAULT
    },
    Incident {
        name: "paused",
        begin: &[&["CLIENT", "PAUSE", "4000", "ALL"]],
        cause: "imeout",
        ..DEFAULT
    },
    Incident {
        name: "writes paused",
        begin: &[&["CLIENT", "PAUSE", "4000", "WRITE"]],
        cause: "imeout",
        ..DEFAULT
    },
];

/// Tries what is told of an incident between `begin` and `end`.
async fn incident(
    name: &str,
    url: &str,
    begin: impl AsyncFnOnce(),
    (creation, cause): (StatusCode, &str),
    end: impl AsyncFnOnce(),
) {
    let relay = relay_at(url, &SETTINGS);
    let waiting = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&waiting, "session_token");
    let mut events = Events::open(text(&waiting, "events_url"), Some(token)).await;
    events.until("retry: ").await;
    assert_eq!(readiness(&relay).await, StatusCode::OK, "{name}");

    begin().await;
    let began = Instant::now();
    within(LIMIT, &format!("{name}: it is not ready"), || async {
        readiness(&relay).await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let noticed = began.elapsed();
    let created = client().post(format!("{}/addons/sessions", relay.url)).send().await.unwrap();
    assert_eq!(created.status(), creation, "{name}");
    within(LIMIT, &format!("{name}: the log says {cause}"), || async {
        relay.log().contains(cause)
    })
    .await;
    assert!(!relay.log().contains("secret"), "{name}: {}", relay.log());

    end().await;
    let ended = Instant::now();
    within(LIMIT, &format!("{name}: it is ready again"), || async {
        readiness(&relay).await == StatusCode::OK
    })
    .await;
    let recovered = ended.elapsed();
    let page = Browser::default().to_login(&waiting).await;
    assert_eq!(page.url.path(), "/addons/success", "{name}: {:?}", page.trail);
    assert_eq!(events.next().await.expect(name).name, "authenticated", "{name}");
    sign_in(&relay).await;
    let log = relay.log();
    let line = log.lines().find(|line| line.contains(cause)).unwrap();
    let reason = line.split_once("reason=").map_or(line, |(_, reason)| reason);
    println!("{name}: not ready after {noticed:.1?}, ready again {recovered:.1?} later; {reason}");
    let lines = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(lines < 60, "{name}: {lines} warnings: {log}");
}

async fn all(hand: &Client, commands: Commands) {
    for words in commands {
        command(hand, words).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_does_to_redis_is_named_and_survived() {
    let incidents = INCIDENTS.iter().map(async |it| {
        let server = Server::start(it.arguments).await;
        let hand = server.client().await;
        all(&hand, it.before).await;
        let url = format!("redis://{}127.0.0.1:{}", it.credentials, server.port);
        let (begin, end) = (async || all(&hand, it.begin).await, async || all(&hand, it.end).await);
        incident(it.name, &url, begin, (it.creation, it.cause), end).await;
    });
    stream::iter(incidents).buffer_unordered(4).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_save_is_named_and_survived() {
    let folder = Directory::new();
    let gone = folder.file("gone");
    std::fs::create_dir(&gone).unwrap();
    let server = Server::start(&["--save", "3600", "1", "--dir", &gone]).await;
    let hand = server.client().await;
    let begin = async || {
        std::fs::remove_dir_all(&gone).unwrap();
        eventually("it fails to save", || async {
            let _ = try_command(&hand, &["BGSAVE"]).await;
            let info = command(&hand, &["INFO", "persistence"]).await.as_string().unwrap();
            info.contains("rdb_last_bgsave_status:err")
        })
        .await;
    };
    let end = async || {
        command(&hand, &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    };
    incident(
        "cannot save",
        &server.url(),
        begin,
        (StatusCode::SERVICE_UNAVAILABLE, "MISCONF"),
        end,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_does_not_end_is_named_and_survived() {
    let server = Server::start(&["--lua-time-limit", "100"]).await;
    let url = server.url();
    let endless = async || {
        let hand = server.client().await;
        tokio::spawn(async move {
            let _ = try_command(&hand, &["EVAL", "while true do end", "0"]).await;
        });
    };
    let end = async || {
        // Nothing else is answered.
        let mut hand = crate::support::redis::Plain::connect(server.port).await;
        let begun = Instant::now();
        while !hand.ask("SCRIPT KILL").await.contains("OK") {
            assert!(begun.elapsed() < LIMIT, "the script goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    incident("a busy script", &url, endless, (StatusCode::SERVICE_UNAVAILABLE, "BUSY"), end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_noticed_and_survived() {
    let server = Server::start(&[]).await;
    let begin = async || server.signal("STOP");
    let end = async || server.signal("CONT");
    incident("stopped", &server.url(), begin, (StatusCode::SERVICE_UNAVAILABLE, "imeout"), end)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loads_its_data_is_named_and_waited_for() {
    let mut server =
        Server::start(&["--enable-debug-command", "yes", "--save", "3600", "1000000"]).await;
    let relay = relay_at(&server.url(), &SETTINGS);
    let waiting = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&waiting, "session_token");
    let mut events = Events::open(text(&waiting, "events_url"), Some(token)).await;
    events.until("retry: ").await;
    let hand = server.client().await;
    command(&hand, &["DEBUG", "POPULATE", "20000"]).await;
    command(&hand, &["SAVE"]).await;
    drop(hand);
    // Microseconds for each of them.
    server.restart_with(&[
        "--key-load-delay",
        "200",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    eventually("the log names the reason", || async { relay.log().contains("LOADING") }).await;
    assert_eq!(readiness(&relay).await, StatusCode::SERVICE_UNAVAILABLE);
    within(LIMIT, "it is ready again", || async { readiness(&relay).await == StatusCode::OK })
        .await;
    let page = Browser::default().to_login(&waiting).await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

/// A server that speaks TLS as OpenSSL does, and its port.
fn openssl_server(certificate: &str, key: &str) -> (tokio::process::Child, u16) {
    let port = free_port();
    let server = tokio::process::Command::new("openssl")
        .args(["s_server", "-quiet", "-accept", &port.to_string()])
        .args(["-cert", certificate, "-key", key])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl runs; install the package openssl");
    (server, port)
}

/// What the log says of a port that speaks TLS and a URL that does not, and the other way round.
const NEEDS_TLS: Option<&str> = Some("if the port speaks TLS, the URL needs rediss:");
const NEEDS_NO_TLS: Option<&str> = Some("if the port is one without TLS, the URL needs redis:");

/// What cannot work is named at the start, and works when it has been mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_used_is_named() {
    let (tls, authority) = tls_server().await;
    let plain = Server::start(&[]).await;
    let locked = Server::start(&["--requirepass", "secret"]).await;
    let nobody = free_port();
    let folder = Directory::new();
    crate::support::certificate::make(folder.path(), "other");
    let (other, key) = (folder.file("other.crt"), folder.file("other.key"));
    let port = |web: &Process| web.url.rsplit_once(':').unwrap().1.to_owned();
    let web = Process::demo(&[]);
    let tls_web =
        Process::demo(&[("TOKEN_RELAY_TLS_CERTIFICATE", &other), ("TOKEN_RELAY_TLS_KEY", &key)]);
    let (_terminator, silent) = openssl_server(&other, &key);
    let ca = format!("ca={authority}");
    let sentinel = "sentinelServiceName=main";
    let cases = [
        (format!("rediss://localhost:{}", tls.port), "UnknownIssuer", None),
        (format!("rediss://localhost:{}?ca={other}", tls.port), "UnknownIssuer", None),
        // Its certificate is for other names.
        (format!("rediss://127.0.0.2:{}?{ca}", tls.port), "NotValidForName", None),
        (format!("redis://localhost:{}", tls.port), "Connection reset", NEEDS_TLS),
        (format!("redis-cluster://localhost:{}", tls.port), "Connection reset", NEEDS_TLS),
        (format!("redis-sentinel://localhost:{}?{sentinel}", tls.port), "", NEEDS_TLS),
        // Says in an alert what it wants, and closes the connection without one.
        (format!("redis://localhost:{}", port(&tls_web)), "Invalid frame", NEEDS_TLS),
        (format!("redis://localhost:{silent}"), "Connection closed", NEEDS_TLS),
        (format!("rediss://localhost:{}?{ca}", plain.port), "timed out", NEEDS_NO_TLS),
        (format!("valkeys://localhost:{}?{ca}", locked.port), "timed out", NEEDS_NO_TLS),
        (format!("rediss-cluster://localhost:{}?{ca}", plain.port), "timed out", NEEDS_NO_TLS),
        (format!("rediss-sentinel://localhost:{}?{sentinel}&{ca}", plain.port), "", NEEDS_NO_TLS),
        // Answers a handshake in plain text.
        (format!("rediss://localhost:{}?{ca}", port(&web)), "", NEEDS_NO_TLS),
        (format!("redis://127.0.0.1:{nobody}"), "Connection refused", None),
        (format!("rediss://127.0.0.1:{nobody}?{ca}"), "Connection refused", None),
        (format!("redis://no-such-host.invalid:{nobody}"), "lookup", None),
        (format!("redis://127.0.0.1:{}", locked.port), "NOAUTH", None),
        (format!("redis://:wrong@127.0.0.1:{}", locked.port), "WRONGPASS", None),
        (format!("redis://127.0.0.1:{}/99", plain.port), "DB index is out of range", None),
        (format!("redis-cluster://127.0.0.1:{}", plain.port), "cluster support disabled", None),
        (format!("redis://127.0.0.1:{}", port(&web)), "Invalid HELLO", None),
    ];
    let tried = cases.iter().map(async |(url, cause, remedy)| {
        let relay = relay_at(url, &SETTINGS);
        assert_eq!(readiness(&relay).await, StatusCode::SERVICE_UNAVAILABLE, "{url}");
        within(LIMIT, &format!("{url}: the log says {cause}, {remedy:?}"), || async {
            let log = relay.log();
            log.lines().any(|line| {
                line.contains("Redis cannot be reached or refuses")
                    && line.contains(cause)
                    && remedy.is_none_or(|remedy| line.contains(remedy))
            })
        })
        .await;
        let log = relay.log();
        for other in [NEEDS_TLS, NEEDS_NO_TLS] {
            assert!(other == *remedy || !log.contains(other.unwrap()), "{url}: {log}");
        }
        assert!(!log.contains("wrong@"), "{log}");
    });
    stream::iter(tried).buffer_unordered(4).collect::<Vec<_>>().await;
}

/// A server before Redis 6, and then a newer one in its place.
#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_5_is_refused_with_its_reason_and_replaced() {
    let program =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/redis-server-5"));
    assert!(program.exists(), "redis-server-5 is missing; run ./tests/run install");
    let mut server = Server::of(program, &[]).await;
    let relay = relay_at(&server.url(), &SETTINGS);
    assert_eq!(readiness(&relay).await, StatusCode::SERVICE_UNAVAILABLE);
    eventually("the log names the reason", || async { relay.log().contains("older than Redis 6") })
        .await;
    let creation = client().post(format!("{}/addons/sessions", relay.url)).send().await.unwrap();
    assert_eq!(creation.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.replace("redis-server".as_ref());
    within(LIMIT, "it is ready", || async { readiness(&relay).await == StatusCode::OK }).await;
    sign_in(&relay).await;
}

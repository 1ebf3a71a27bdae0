//! The process: a log that nobody takes, few file descriptors, signals, a clock that jumps.

use std::{
    fs::File,
    io::{self, PipeReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::support::{
    Browser, Events, Process, client, create,
    redis::{Directory, eventually, free_port},
    text,
};

/// Sessions whose log lines are more than a pipe and the queue of the log hold.
const SESSIONS: usize = 2500;

/// An upper bound on an orderly end.
const END: Duration = Duration::from_secs(10);

/// The demo on free ports, as a command.
fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
    command.args([
        "demo",
        "--no-open",
        "--listen",
        "127.0.0.1:0",
        "--provider-listen",
        "127.0.0.1:0",
    ]);
    command
}

/// A pipe whose reader has died.
fn dead_pipe() -> Stdio {
    let (_, writer) = io::pipe().unwrap();
    writer.into()
}

/// A full disk.
fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe that nobody reads while the reader is held.
fn unread_pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, writer.into())
}

async fn sign_in(base: &str) {
    let session = create(base, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let page = Browser::default().sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success");
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

async fn lost_lines(base: &str) -> u64 {
    let metrics = client().get(format!("{base}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("token_relay_log_lines_lost_total "));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits for the end of a process and says how.
fn ended(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < END, "the process has not ended");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Creates sessions, signs in and shuts down with a log that goes nowhere.
async fn serves_with(stderr: Stdio, name: &str) {
    serves(demo(), stderr, name).await;
}

async fn serves(mut command: Command, stderr: Stdio, name: &str) {
    // Every request is logged.
    command.env("TOKEN_RELAY_LOG", "debug").env("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000");
    let mut relay = Process::spawn(command, stderr);
    let http = client();
    let begun = Instant::now();
    for _ in 0..SESSIONS {
        let creation = http.post(format!("{}/addons/sessions", relay.url)).send().await;
        assert_eq!(creation.unwrap().status(), StatusCode::CREATED);
    }
    let took = begun.elapsed();
    sign_in(&relay.url).await;
    let lost = lost_lines(&relay.url).await;
    // A waiting stream, so that the shutdown has to drain.
    let session = create(&relay.url, None).await;
    let mut waiting = Events::open(text(&session, "events_url"), None).await;
    waiting.until("retry: ").await;
    relay.signal("TERM");
    let begun = Instant::now();
    let status = relay.wait();
    println!(
        "{name}: {SESSIONS} sessions in {took:?}, {lost} lines lost, {status} after {:?}",
        begun.elapsed()
    );
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < END);
    assert!(waiting.next().await.is_none(), "the stream ended in order");
    assert!(lost > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_changes_nothing_else() {
    serves_with(full_disk(), "/dev/full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_pipe_without_a_reader_changes_nothing_else() {
    serves_with(dead_pipe(), "a pipe whose reader died").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_pipe_that_nobody_reads_changes_nothing_else() {
    let (reader, stderr) = unread_pipe();
    serves_with(stderr, "a pipe that nobody reads").await;
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_file_of_limited_size_changes_nothing_else() {
    let folder = Directory::new();
    let log = File::create(folder.file("log")).unwrap();
    serves(limited_demo("-f 8"), log.into(), "a file that may not grow further").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_output_is_needed() {
    let (reader, writer) = io::pipe().unwrap();
    // A pipe that is full before the process begins.
    let (full_reader, full_writer) = io::pipe().unwrap();
    let mut filler = Command::new("sh")
        .args(["-c", "exec dd if=/dev/zero bs=4096 count=1024 status=none"])
        .stdout(full_writer.try_clone().unwrap())
        .spawn()
        .unwrap();
    drop(reader);
    for (name, writer) in [("dead", writer), ("full", full_writer)] {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut relay = Command::new(env!("CARGO_BIN_EXE_token-relay"))
            .args(["demo", "--no-open", "--listen", &listen.to_string()])
            .args(["--provider-listen", "127.0.0.1:0"])
            .env("TOKEN_RELAY_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        let base = format!("http://{listen}");
        eventually("it serves", || async { TcpStream::connect(listen).await.is_ok() }).await;
        sign_in(&base).await;
        assert!(Command::new("kill").arg(relay.id().to_string()).status().unwrap().success());
        assert_eq!(ended(&mut relay).code(), Some(0), "{name}");
    }
    drop(full_reader);
    filler.wait().unwrap();
}

#[test]
fn commands_end_with_their_status_where_nothing_can_be_printed() {
    let run = |arguments: &[&str], environment: &[(&str, &str)], stdout: Stdio, stderr: Stdio| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_token-relay"))
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        ended(&mut child).code()
    };
    let unreachable = format!("http://127.0.0.1:{}", free_port());
    let nobody = unreachable.as_str();
    let cases: [(&[&str], i32); 8] = [
        (&["--version"], 0),
        (&["--help"], 0),
        (&["settings"], 0),
        (&["openapi"], 0),
        (&["completions", "bash"], 0),
        (&["check-config"], 2),
        (&["serve"], 2),
        (&["healthcheck", nobody], 1),
    ];
    for (arguments, expected) in cases {
        assert_eq!(run(arguments, &[], dead_pipe(), dead_pipe()), Some(expected), "{arguments:?}");
        assert_eq!(run(arguments, &[], full_disk(), full_disk()), Some(expected), "{arguments:?}");
    }
    let wrong = [("TOKEN_RELAY_LOG", "a=b=c")];
    assert_eq!(run(&["demo"], &wrong, dead_pipe(), full_disk()), Some(2));
    assert_eq!(run(&["login", nobody, "--no-open"], &[], dead_pipe(), dead_pipe()), Some(1));
}

/// The demo with limits, set by a shell.
fn limited_demo(limits: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_token-relay")).args(demo().get_args());
    command
}

fn limited(limits: &str) -> Process {
    Process::spawn(limited_demo(limits), Stdio::piped())
}

fn address(relay: &Process) -> SocketAddr {
    relay.url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_soft_limit_of_open_files_is_raised() {
    let relay = limited("-Sn 256");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{line}");
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(TcpStream::connect(address(&relay)).await.unwrap());
    }
    sign_in(&relay.url).await;
    assert!(!relay.log().contains("RLIMIT_NOFILE"), "{}", relay.log());
}

/// Pages of 2 MiB are those that the allocator takes before the program's first line.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_taken_in_small_pages() {
    let relay = Process::spawn(demo(), Stdio::piped());
    sign_in(&relay.url).await;
    let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", relay.id())).unwrap();
    let status = read("status");
    assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
    let areas = read("smaps_rollup");
    let huge = areas.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    let kilobytes: u64 = huge.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kilobytes <= 2 * 2048, "{areas}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_limit_below_the_connections_is_named_and_kept_to() {
    let relay = limited("-n 256");
    let log = relay.log();
    let warning = log.lines().find(|line| line.contains("RLIMIT_NOFILE")).unwrap();
    assert!(warning.contains("WARN"), "{warning}");
    assert!(warning.contains("max_connections=19500 open_files=256"), "{warning}");
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(TcpStream::connect(address(&relay)).await.unwrap());
    }
    // The last one is refused in words, and does not wait for a descriptor.
    let mut answer = String::new();
    let mut last = held.pop().unwrap();
    tokio::time::timeout(END, last.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    drop(held);
    eventually("there is room again", || async {
        let health = client().get(format!("{}/healthz", relay.url)).send().await;
        health.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    sign_in(&relay.url).await;
    assert!(!relay.log().contains("cannot accept"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_are_those_of_both_families() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
    command.args(["demo", "--no-open", "--allow-production", "--listen", "[::]:0"]);
    command.args(["--provider-listen", "127.0.0.1:0"]);
    let relay = Process::spawn(command, Stdio::piped());
    let port = relay.url.rsplit_once(':').unwrap().1;
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let health = client().get(format!("http://{host}:{port}/healthz")).send().await.unwrap();
        assert_eq!(health.status(), StatusCode::OK, "{host}");
    }
}

/// The `iat` of an access token.
fn issued_at(token: &str) -> u64 {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["iat"].as_u64().unwrap()
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ends_no_session_and_dates_the_tokens() {
    const DAY: u64 = 86_400;
    let library = std::fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("install the package faketime");
    let folder = Directory::new();
    let clock = folder.file("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    let mut command = demo();
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let relay = Process::spawn(command, Stdio::piped());
    for (offset, seconds) in [("+1d", DAY), ("+0", 0)] {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let token = text(&session, "session_token");
        let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
        events.until("retry: ").await;
        // Forwards the first time, backwards the second.
        set(offset);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let poll =
            client().get(text(&session, "poll_url")).bearer_auth(token).send().await.unwrap();
        assert_eq!(poll.status(), StatusCode::ACCEPTED, "{offset}: the session still waits");
        let page = Browser::default().sign_in(&session, "alice").await;
        assert_eq!(page.url.path(), "/addons/success", "{offset}: {}", relay.log());
        let event = events.next().await.unwrap();
        assert_eq!(event.name, "authenticated", "{offset}");
        let issued_at = issued_at(text(&event.data, "access_token"));
        assert!(issued_at.abs_diff(now() + seconds) < 60, "{offset}: {issued_at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_and_the_version_disturb_no_request() {
    let mut command = demo();
    command.env("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000");
    let relay = Process::spawn(command, Stdio::piped());
    let http = client();
    let creations = async {
        for _ in 0..400 {
            let creation = http.post(format!("{}/addons/sessions", relay.url)).send().await;
            assert_eq!(creation.unwrap().status(), StatusCode::CREATED);
        }
    };
    let reloads = async {
        for _ in 0..10 {
            relay.signal("HUP");
            let version = Command::new(env!("CARGO_BIN_EXE_token-relay")).arg("--version").output();
            let version = version.unwrap();
            assert!(version.status.success());
            assert!(version.stdout.starts_with(b"token-relay "));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(creations, reloads);
    sign_in(&relay.url).await;
    eventually("the reloads are noted", || async { relay.log().contains("reload") }).await;
}

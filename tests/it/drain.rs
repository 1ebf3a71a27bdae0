//! A deploy at full size: 10 000 open streams move to another instance, and each gets its token.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{Browser, Process, TIMEOUT, redis, text};
use futures_util::{StreamExt as _, stream};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

const SECRET: &str = crate::support::MEET_KEY;

/// Open streams. A process here may open 20 000 files.
const STREAMS: usize = 10_000;

/// One of so many is a bound session that ends by a whole dialog; the others are ended by one call of
/// a browser that is logged in already, which is cheaper and takes the same way inside.
const DIALOG: usize = 25;

/// Streams that have their token before the shutdown begins.
const BEFORE: usize = 500;

/// An instance with the Meet-compatible surface.
pub fn instance(redis_url: &str, more: &[(&str, &str)]) -> Process {
    let mut environment = vec![
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        // The dialogs are not what is tested.
        ("TOKEN_RELAY_CONFIRMATION", "never"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("ADDONS_CSRF_SECRET", SECRET),
        ("ADDONS_TOKEN_SECRET_KEY", SECRET),
        ("TOKEN_RELAY_TRANSIT_TOKEN_TTL", "10m"),
        ("ADDONS_TRANSIT_TOKEN_TTL", "10m"),
    ];
    environment.extend(more);
    Process::demo(&environment)
}

fn address(relay: &Process) -> SocketAddr {
    relay.url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let policy = reqwest::redirect::Policy::none();
    reqwest::Client::builder().redirect(policy).timeout(TIMEOUT).build().unwrap()
}

/// A session: how it is read, and how it is ended.
struct Session {
    /// Path and credentials of its event stream.
    request: String,
    end: End,
}

enum End {
    /// By the dialog at this URL.
    Dialog(String),
    /// By an exchange of this transit token.
    Exchange(String),
}

async fn create(client: &reqwest::Client, base: &str, number: usize) -> Session {
    if number.is_multiple_of(DIALOG) {
        let request = client.post(format!("{base}/addons/sessions")).json(&json!({"bind": true}));
        let session: Value = request.send().await.unwrap().json().await.unwrap();
        let path = reqwest::Url::parse(text(&session, "events_url")).unwrap().path().to_owned();
        let token = text(&session, "session_token");
        let request = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {token}\r\n");
        return Session { request, end: End::Dialog(text(&session, "transit_url").to_owned()) };
    }
    let path = "/api/v1.0/addons/sessions";
    let answer = client.post(format!("{base}{path}/init/")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    let csrf = text(&body, "csrf_token");
    let request =
        format!("GET {path}/events/ HTTP/1.1\r\ncookie: {cookie}\r\nx-csrftoken: {csrf}\r\n");
    Session { request, end: End::Exchange(text(&body, "transit_token").to_owned()) }
}

/// A browser that is logged in: its cookies, and its CSRF token.
pub struct LoggedIn {
    cookies: String,
    csrf: String,
}

impl LoggedIn {
    pub async fn at(base: &str) -> Self {
        let client = http();
        let mut cookies = HashMap::new();
        let start = "/api/v1.0/authenticate/?returnTo=http://127.0.0.1:9/addin";
        let mut next = format!("{base}{start}");
        while !next.starts_with("http://127.0.0.1:9/") {
            let pairs: Vec<_> =
                cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = client.get(&next).header(header::COOKIE, pairs.join("; "));
            let answer = request.send().await.unwrap();
            for cookie in answer.headers().get_all(header::SET_COOKIE) {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                cookies.insert(name.to_owned(), value.to_owned());
            }
            assert!(answer.status().is_redirection(), "{} {next}", answer.status());
            next = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
        }
        let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Self { cookies: pairs.join("; "), csrf: cookies["csrftoken"].clone() }
    }

    /// Exchanges a transit token.
    pub async fn exchange(
        &self,
        client: &reqwest::Client,
        base: &str,
        transit_token: &str,
    ) -> StatusCode {
        self.try_exchange(client, base, transit_token).await.unwrap()
    }

    async fn try_exchange(
        &self,
        client: &reqwest::Client,
        base: &str,
        transit_token: &str,
    ) -> reqwest::Result<StatusCode> {
        let answer = client
            .post(format!("{base}/api/v1.0/addons/sessions/exchange/"))
            .header(header::COOKIE, &self.cookies)
            .header("x-csrftoken", &self.csrf)
            .json(&json!({"transit_token": transit_token}))
            .send();
        Ok(answer.await?.status())
    }

    /// Ends a login; returns how often the person had to try again: where the relay was unavailable,
    /// or where it closed an idle connection just as the request was sent on it.
    async fn end(&self, client: &reqwest::Client, base: &str, end: &End) -> usize {
        for attempt in 0..100 {
            let done = match end {
                End::Dialog(url) => {
                    let page = Browser::default().open(url).await;
                    let succeeded = page.url.path() == "/addons/success";
                    Ok(if succeeded { StatusCode::OK } else { page.status })
                }
                End::Exchange(transit_token) => {
                    self.try_exchange(client, base, transit_token).await
                }
            };
            match done {
                Ok(StatusCode::OK) => return attempt,
                // An attempt whose answer was lost may have completed the login; then its stream has
                // the token, and the test sees that it arrives.
                Ok(StatusCode::CONFLICT) if attempt > 0 => return attempt,
                Ok(StatusCode::SERVICE_UNAVAILABLE) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) if !error.is_timeout() => {}
                other => panic!("a login ended with {other:?}"),
            }
        }
        panic!("unavailable for too long");
    }
}

/// What the streams saw, all together.
#[derive(Default)]
struct Seen {
    opened: AtomicUsize,
    /// Streams that ended in order without a token, with word when to come again.
    moved: AtomicUsize,
    /// Connections that were refused or broke off.
    failed: AtomicUsize,
}

/// From one of several loopback addresses, so that ports do not run out.
async fn connect(number: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 3, 1 + u8::try_from(number % 8).unwrap()), 0).into())?;
    socket.connect(to).await
}

/// Reads one stream to its end. Gives its token, or how long it was told to wait.
async fn read(
    socket: &mut TcpStream,
    request: &str,
    seen: &Seen,
) -> std::io::Result<Result<String, Duration>> {
    socket.write_all(format!("{request}host: relay\r\n\r\n").as_bytes()).await?;
    let (mut received, mut counted) = (Vec::with_capacity(512), false);
    while socket.read_buf(&mut received).await? > 0 {
        if !counted && received.windows(6).any(|part| part == b"retry:") {
            seen.opened.fetch_add(1, Ordering::AcqRel);
            counted = true;
        }
    }
    let received = String::from_utf8(received).unwrap();
    assert!(
        received.starts_with("HTTP/1.1 200") || received.starts_with("HTTP/1.1 503"),
        "{received}"
    );
    if let Some(data) = received.lines().find_map(|line| line.strip_prefix("data: ")) {
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(text(&data, "state"), "authenticated", "{received}");
        return Ok(Ok(text(&data, "access_token").to_owned()));
    }
    if received.starts_with("HTTP/1.1 200") && received.ends_with("\r\n0\r\n\r\n") {
        seen.moved.fetch_add(1, Ordering::AcqRel);
    }
    let told = received.lines().rev().find_map(|line| line.strip_prefix("retry: "));
    let told = told.and_then(|milliseconds| milliseconds.trim().parse().ok());
    Ok(Err(Duration::from_millis(told.unwrap_or(1000))))
}

/// Waits for a token as an `EventSource` behind a load balancer does: comes again when told, and is
/// sent to the next instance where one does not answer.
async fn wait(
    number: usize,
    session: Arc<Session>,
    relays: [SocketAddr; 2],
    seen: Arc<Seen>,
) -> String {
    for relay in relays.into_iter().cycle() {
        let Ok(mut socket) = connect(number, relay).await else {
            seen.failed.fetch_add(1, Ordering::AcqRel);
            continue;
        };
        match read(&mut socket, &session.request, &seen).await {
            Ok(Ok(token)) => return token,
            Ok(Err(pause)) => tokio::time::sleep(pause).await,
            Err(_) => {
                seen.failed.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    unreachable!("cycle is endless")
}

async fn streams(relay: &Process) -> u64 {
    let ready = http().get(format!("{}/readyz", relay.url)).send().await.unwrap();
    ready.json::<Value>().await.unwrap()["streams"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_move_to_another_instance_and_lose_no_token() {
    let begun = Instant::now();
    let server = redis::Server::start(&[]).await;
    let (mut old, new) = (instance(&server.url(), &[]), instance(&server.url(), &[]));
    let relays = [address(&old), address(&new)];
    let client = http();
    let logged_in = LoggedIn::at(&new.url).await;
    let sessions: Vec<_> = stream::iter(0..STREAMS)
        .map(|number| create(&client, &new.url, number))
        .buffered(16)
        .map(Arc::new)
        .collect()
        .await;
    let seen = Arc::new(Seen::default());
    let mut waiting = JoinSet::new();
    for (number, session) in sessions.iter().enumerate() {
        waiting.spawn(wait(number, Arc::clone(session), relays, Arc::clone(&seen)));
        // No faster than they are let in, so that the queue of the listener does not overflow.
        while number > seen.opened.load(Ordering::Acquire) + 1000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    redis::within(Duration::from_secs(60), "all streams wait at the old instance", || async {
        streams(&old).await == STREAMS as u64
    })
    .await;
    println!("{STREAMS} streams open after {:?}", begun.elapsed());

    // Logins end all the time, before, while and after the old instance goes.
    let (ended, mut ended_while_draining) = (Arc::new(AtomicUsize::new(0)), 0);
    let repeats = Arc::new(AtomicUsize::new(0));
    let ending = {
        let (sessions, ended, repeats) =
            (sessions.clone(), Arc::clone(&ended), Arc::clone(&repeats));
        let base = new.url.clone();
        tokio::spawn(async move {
            let (client, logged_in, base) = (&client, &logged_in, base.as_str());
            stream::iter(sessions)
                .for_each_concurrent(8, |session| {
                    let (ended, repeats) = (Arc::clone(&ended), Arc::clone(&repeats));
                    async move {
                        let repeated = logged_in.end(client, base, &session.end).await;
                        repeats.fetch_add(repeated, Ordering::AcqRel);
                        ended.fetch_add(1, Ordering::AcqRel);
                    }
                })
                .await;
        })
    };
    redis::within(TIMEOUT, "some logins end", || async { ended.load(Ordering::Acquire) >= BEFORE })
        .await;
    let (told, before) = (Instant::now(), ended.load(Ordering::Acquire));
    old.signal("TERM");
    let drained = tokio::task::spawn_blocking(move || {
        let status = old.wait();
        (status, told.elapsed())
    });
    let (status, took) = drained.await.unwrap();
    ended_while_draining += ended.load(Ordering::Acquire) - before;
    assert!(status.success(), "the old instance ends in order");
    let (mut arrived, mut tokens) = (0, HashSet::new());
    // A login that fails ends the test at once; the streams would wait for it without an end.
    ending.await.unwrap();
    while let Some(token) = waiting.join_next().await {
        arrived += 1;
        tokens.insert(token.unwrap());
    }
    let (moved, failed) = (seen.moved.load(Ordering::Acquire), seen.failed.load(Ordering::Acquire));
    println!(
        "deploy: {STREAMS} streams, {arrived} tokens arrived; {before} logins before SIGTERM, \
         {ended_while_draining} while the old instance drained for {took:?}, {} after it; \
         {moved} streams told to move, {failed} connections refused or broken; \
         {} logins tried again; {:?} in all",
        STREAMS - before - ended_while_draining,
        repeats.load(Ordering::Acquire),
        begun.elapsed(),
    );
    assert_eq!(arrived, STREAMS);
    // Those of the compatible surface hold no more than who and when, so many are alike.
    assert!(tokens.len() >= STREAMS / DIALOG, "{} different tokens", tokens.len());
    assert!(moved > STREAMS / 2 && ended_while_draining > 0, "they moved while logins went on");
}

#[tokio::test]
async fn an_instance_with_nothing_but_websockets_says_goodbye_too() {
    let mut relay = Process::demo(&[]);
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let session = crate::support::create(&relay.url, Some(json!({"bind": true}))).await;
        let mut request = text(&session, "websocket_url").into_client_request().unwrap();
        let protocols = format!("token-relay.v1, bearer.{}", text(&session, "session_token"));
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        sockets.push(tokio_tungstenite::connect_async(request).await.unwrap().0);
    }
    redis::eventually("all sockets wait", || async { streams(&relay).await == 50 }).await;
    relay.signal("TERM");
    for mut socket in sockets {
        let close = loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 1012);
    }
    assert!(relay.wait().success());
}

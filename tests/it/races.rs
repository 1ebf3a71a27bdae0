//! Fulfil and subscribe at the same moment, over real sockets, by every transport.

use std::{sync::Arc, time::Duration};

use crate::support::{Events, client, create, text};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use token_relay::{
    relay::Delivery,
    server::Server,
    session::{Identity, Outcome, SessionId, SessionRef},
    settings::Settings,
    signin::{NotCompleted, Recipient},
    telemetry::Trace,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

const SESSIONS: usize = 1_000;

/// The service in this process, so that a test can fulfil at an exact moment.
async fn server(more: &[(&str, &str)]) -> Arc<Server> {
    let settings = [
        ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
        // Never asked: these tests end the login themselves.
        ("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9"),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "tests"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
        ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
    ];
    let settings = settings.iter().chain(more);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Arc::new(Server::start(Settings::load(settings, None).unwrap()).await.unwrap())
}

fn base(server: &Server) -> String {
    format!("http://{}", server.address())
}

fn key(session: &Value) -> SessionRef {
    SessionRef::native(SessionId::parse(text(session, "session_id")).unwrap().key())
}

/// Completes the sign-in of a session, as the dialog does.
async fn fulfil(server: &Server, session: SessionRef) -> Result<(), NotCompleted> {
    let identity = Identity::new("alice", serde_json::Map::new());
    server
        .app()
        .sign_in(&Trace::none())
        .complete(session, Recipient::default(), &identity, None)
        .await
        .map(drop)
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Sse,
    WebSocket,
    LongPoll,
}

/// Waits by one transport; the answer's `state`, or its error.
async fn wait(transport: Transport, session: Value) -> String {
    let session_token = session["session_token"].as_str();
    let event = match transport {
        Transport::Sse => {
            let mut events = Events::open(text(&session, "events_url"), session_token).await;
            events.next().await.map_or(Value::Null, |event| event.data)
        }
        Transport::WebSocket => {
            let mut request = text(&session, "websocket_url").into_client_request().unwrap();
            let bearer = session_token.map(|token| format!(", bearer.{token}"));
            let protocols = format!("token-relay.v1{}", bearer.unwrap_or_default());
            request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            loop {
                match socket.next().await.unwrap().unwrap() {
                    Message::Text(message) => {
                        socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
                        break serde_json::from_str(&message).unwrap();
                    }
                    Message::Close(_) => break Value::Null,
                    _ => {}
                }
            }
        }
        Transport::LongPoll => {
            let url = format!("{}?wait=20", text(&session, "poll_url"));
            let mut request = client().get(url);
            if let Some(token) = session_token {
                request = request.bearer_auth(token);
            }
            request.send().await.unwrap().json().await.unwrap()
        }
    };
    let member = if event["state"] == "failed" { "error" } else { "state" };
    event[member].as_str().unwrap_or("nothing").to_owned()
}

/// Of sessions as `body` asks for them: bound ones are handed over by whoever ends the login, the
/// readers of the others ask the store first.
async fn race(transport: Transport, body: Option<Value>) {
    let server = server(&[]).await;
    let base = base(&server);
    let sessions = futures_util::stream::iter(0..SESSIONS);
    let arrived = sessions
        .map(|_| {
            let (server, base, body) = (Arc::clone(&server), base.clone(), body.clone());
            tokio::spawn(async move {
                let session = create(&base, body).await;
                let key = key(&session);
                let reading = tokio::spawn(wait(transport, session));
                let fulfilling = tokio::spawn(async move { fulfil(&server, key).await });
                fulfilling.await.unwrap().unwrap();
                reading.await.unwrap()
            })
        })
        .buffer_unordered(64)
        .filter(|state| std::future::ready(state.as_ref().unwrap() == "authenticated"))
        .count()
        .await;
    println!("{transport:?}, {body:?}: {SESSIONS} races, {arrived} tokens arrived");
    assert_eq!(arrived, SESSIONS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_races_by_event_stream() {
    race(Transport::Sse, None).await;
    race(Transport::Sse, Some(json!({"bind": true}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_races_by_web_socket() {
    race(Transport::WebSocket, None).await;
    race(Transport::WebSocket, Some(json!({"bind": true}))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_races_by_long_poll() {
    race(Transport::LongPoll, None).await;
    race(Transport::LongPoll, Some(json!({"bind": true}))).await;
}

/// Whoever ends the login writes to the socket to which the stream's task writes heartbeats: the
/// stream must stay well-formed and hold the token once, whichever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_heartbeats_share_a_socket() {
    let server = server(&[("TOKEN_RELAY_HEARTBEAT", "1s")]).await;
    let base = base(&server);
    let streams = (0..300u64).map(|number| {
        let (server, base) = (Arc::clone(&server), base.clone());
        tokio::spawn(async move {
            let session = create(&base, Some(json!({"bind": true}))).await;
            let token = Some(text(&session, "session_token"));
            let mut events = Events::open(text(&session, "events_url"), token).await;
            events.until("retry: ").await;
            // Around the first heartbeat, a few on either side and many at it.
            tokio::time::sleep(Duration::from_micros(970_000 + number * 150)).await;
            fulfil(&server, key(&session)).await.unwrap();
            assert_eq!(events.next().await.unwrap().name, "authenticated");
            assert_eq!(events.next().await, None);
            assert_eq!(events.raw.matches("data: ").count(), 1);
            usize::from(events.raw.contains(":\n\n"))
        })
    });
    let mut after_a_heartbeat = 0;
    for stream in streams.collect::<Vec<_>>() {
        after_a_heartbeat += stream.await.unwrap();
    }
    println!("300 tokens at the time of a heartbeat, {after_a_heartbeat} after it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_streams_that_wait_the_newest_wins() {
    let server = server(&[]).await;
    for body in [None, Some(json!({"bind": true}))] {
        for _ in 0..100 {
            let session = create(&base(&server), body.clone()).await;
            let mut readers = Vec::new();
            for _ in 0..2 {
                let token = session["session_token"].as_str();
                let mut events = Events::open(text(&session, "events_url"), token).await;
                // Its first bytes come once it is the session's reader.
                events.until("retry: ").await;
                readers.push(events);
            }
            fulfil(&server, key(&session)).await.unwrap();
            let older = readers[0].next().await.unwrap();
            let newer = readers[1].next().await.unwrap();
            assert_eq!((older.name.as_str(), newer.name.as_str()), ("failed", "authenticated"));
            assert_eq!(older.data["error"], "superseded");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_polls_exactly_one_wins() {
    let server = server(&[]).await;
    for _ in 0..50 {
        let session = create(&base(&server), None).await;
        fulfil(&server, key(&session)).await.unwrap();
        let polls = (0..4).map(|_| client().get(text(&session, "poll_url")).send());
        let answers = futures_util::future::join_all(polls).await;
        let statuses = answers.into_iter().map(|answer| answer.unwrap().status());
        let winners = statuses.filter(|status| *status == StatusCode::OK).count();
        assert_eq!(winners, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_come_and_an_expired_session_says_so() {
    let server =
        server(&[("TOKEN_RELAY_HEARTBEAT", "1s"), ("TOKEN_RELAY_SESSION_TTL", "10s")]).await;
    let session = create(&base(&server), None).await;
    let mut events = Events::open(text(&session, "events_url"), None).await;
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "state")), ("expired", "expired"));
    let heartbeats = events.raw.matches(":\n\n").count();
    assert!((5..=11).contains(&heartbeats), "{heartbeats} heartbeats in ten seconds");
    assert_eq!(events.next().await, None);
    let late = client().get(text(&session, "poll_url")).send().await.unwrap();
    assert_eq!(late.status(), StatusCode::GONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_on_a_reused_connection_works_as_well() {
    let server = server(&[]).await;
    let session = create(&base(&server), None).await;
    // The same client, hence the same connection: the second request is served by hyper.
    let client = client();
    let poll = client.get(text(&session, "poll_url")).send().await.unwrap();
    assert_eq!(poll.status(), StatusCode::ACCEPTED);
    drop(poll.bytes().await);
    let events = client.get(text(&session, "events_url")).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    fulfil(&server, key(&session)).await.unwrap();
    let body = tokio::time::timeout(Duration::from_secs(10), events.text()).await.unwrap();
    assert!(body.unwrap().contains("event: authenticated"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_place() {
    let server = server(&[]).await;
    let session = create(&base(&server), None).await;
    for _ in 0..20 {
        let events = Events::open(text(&session, "events_url"), None).await;
        assert_eq!(server.app().relay.registry().waiting(), 1);
        drop(events);
        crate::support::redis::eventually("the place is free", || async {
            server.app().relay.registry().waiting() == 0
        })
        .await;
    }
}

/// What an instance that shares a Redis needs besides its URL.
const SHARED: [(&str, &str); 4] = [
    ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
    ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
    ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
    ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
];

/// Whether a poll has the token, now or soon.
async fn is_there(session: &Value) -> bool {
    for _ in 0..100 {
        let answer = client().get(text(session, "poll_url")).send().await.unwrap();
        match answer.status() {
            StatusCode::OK => return true,
            StatusCode::GONE | StatusCode::SERVICE_UNAVAILABLE => {}
            other => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_is_given_up_at_any_moment_loses_no_token() {
    const ROUNDS: u64 = 300;
    let redis = crate::support::redis::Server::start(&[]).await;
    let url = redis.url();
    let shared = [&[("TOKEN_RELAY_REDIS_URL", url.as_str())][..], &SHARED[..]].concat();
    for (store, settings) in [("memory", &[][..]), ("Redis", &shared[..])] {
        let server = server(settings).await;
        let base = base(&server);
        let (mut had, mut handed_back) = (0, 0);
        for round in 0..ROUNDS {
            let session = create(&base, None).await;
            let session_ref = key(&session);
            let relay = Arc::clone(&server.app().relay);
            let mut subscription =
                relay.open(session_ref, None, Delivery::Once).await.expect("it waits");
            // The reader gives up somewhere between the login and its outcome.
            let reading = async {
                let outcome = subscription.outcome().await;
                (outcome, subscription.take_handover())
            };
            let given_up = tokio::time::timeout(Duration::from_micros(300 + round * 7), reading);
            let (read, done) = tokio::join!(given_up, fulfil(&server, session_ref));
            done.unwrap();
            drop(subscription);
            match read {
                Ok((Outcome::Token { .. }, handover)) if round % 2 == 0 => {
                    handover.delivered();
                    had += 1;
                    let again = client().get(text(&session, "poll_url")).send().await.unwrap();
                    assert_eq!(again.status(), StatusCode::GONE, "{store}: once");
                }
                Ok((outcome, handover)) => {
                    assert!(matches!(outcome, Outcome::Token { .. }), "{store}: {outcome:?}");
                    drop(handover);
                    handed_back += 1;
                    assert!(is_there(&session).await, "{store}: round {round}, with the token");
                }
                Err(_) => {
                    handed_back += 1;
                    assert!(is_there(&session).await, "{store}: round {round}");
                }
            }
        }
        println!("{store}: {ROUNDS} polls, {had} had the token, {handed_back} gave up, 0 lost");
        assert!(handed_back > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_its_poll_takes_the_token_loses_nothing() {
    let redis = crate::support::redis::Server::start(&[]).await;
    let hand = redis.client().await;
    let url = redis.url();
    let mut settings = [&[("TOKEN_RELAY_REDIS_URL", url.as_str())][..], &SHARED[..]].concat();
    settings.push(("TOKEN_RELAY_REDIS_TIMEOUT", "300ms"));
    let server = server(&settings).await;
    let base = base(&server);
    // The command waits at Redis while the client leaves, or longer than the relay waits for it.
    for (pause, leaves) in [("200", true), ("800", false)] {
        let session = create(&base, None).await;
        fulfil(&server, key(&session)).await.unwrap();
        crate::support::redis::command(&hand, &["CLIENT", "PAUSE", pause, "ALL"]).await;
        let poll = client().get(text(&session, "poll_url")).send();
        if leaves {
            assert!(tokio::time::timeout(Duration::from_millis(100), poll).await.is_err());
        } else {
            assert_eq!(poll.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        // Until the pause is over.
        crate::support::redis::command(&hand, &["PING"]).await;
        assert!(is_there(&session).await, "pause of {pause} ms");
        let again = client().get(text(&session, "poll_url")).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::GONE, "once");
    }
}

//! What acknowledges a token, what a client that reconnects is told, and which reader of several
//! gets the token.

use std::{sync::Arc, time::Duration};

use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use token_relay::{
    server::Server,
    session::{Failure, Identity, SessionId, SessionRef},
    settings::Settings,
    signin::Recipient,
    telemetry::Trace,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{Events, client, create, text};

/// The service in this process, so that a test can fulfil at an exact moment.
async fn server() -> (Arc<Server>, String) {
    let settings = [
        ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
        // Never asked: these tests end the sign-in themselves.
        ("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9"),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "tests"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
        ("TOKEN_RELAY_MAX_STREAMS_PER_SESSION", "4"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let server = Server::start(Settings::load(settings, None).unwrap()).await.unwrap();
    let base = format!("http://{}", server.address());
    (Arc::new(server), base)
}

async fn bound(base: &str) -> Value {
    create(base, Some(json!({"bind": true}))).await
}

fn session_ref(session: &Value) -> SessionRef {
    SessionRef::native(SessionId::parse(text(session, "session_id")).unwrap().key())
}

async fn fulfil(server: &Server, session: &Value) {
    let identity = Identity::new("alice", Map::new());
    let sign_in = server.app().sign_in(&Trace::none());
    sign_in.complete(session_ref(session), Recipient::default(), &identity, None).await.unwrap();
}

async fn state(session: &Value) -> StatusCode {
    let poll = client().get(text(session, "poll_url"));
    poll.bearer_auth(text(session, "session_token")).send().await.unwrap().status()
}

/// Opens a stream; its first bytes come once it is the session's newest.
async fn open(session: &Value, last_event: Option<&str>) -> Events {
    let (url, token) = (text(session, "events_url"), text(session, "session_token"));
    let mut events = Events::from_response(Events::request(url, Some(token), last_event).await);
    events.until("retry: ").await;
    events
}

/// Reconnects with the id of the last event, in the header or as `event-source-polyfill` does.
async fn reconnect(session: &Value, id: &str) -> [StatusCode; 2] {
    let (url, token) = (text(session, "events_url"), text(session, "session_token"));
    let by_header = Events::request(url, Some(token), Some(id)).await.status();
    let url = format!("{url}?lastEventId={id}");
    [by_header, Events::request(&url, Some(token), None).await.status()]
}

#[tokio::test]
async fn a_first_connection_with_an_id_of_another_stream_is_a_stream() {
    let (server, base) = server().await;
    let (session, other) = (bound(&base).await, bound(&base).await);
    fulfil(&server, &other).await;
    let foreign = open(&other, None).await.next().await.unwrap().id;
    for id in ["1", "0", "", foreign.as_str()] {
        let events = open(&session, Some(id)).await;
        assert_eq!(state(&session).await, StatusCode::ACCEPTED, "{id}");
        drop(events);
    }
    let mut events = open(&session, Some("1")).await;
    fulfil(&server, &session).await;
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), events.next().await), ("authenticated", None));
    // The token of this session was delivered; an id of another one does not acknowledge it.
    assert_ne!(event.id, foreign);
    assert_eq!(reconnect(&session, &foreign).await, [StatusCode::OK; 2]);
    assert_eq!(state(&session).await, StatusCode::OK);
    assert_eq!(reconnect(&session, &event.id).await, [StatusCode::NO_CONTENT; 2]);
    assert_eq!(state(&session).await, StatusCode::GONE);
}

#[tokio::test]
async fn a_failed_or_superseded_reader_learns_it_once_and_changes_nothing() {
    let (server, base) = server().await;
    let session = bound(&base).await;
    let failure = Failure::new("access_denied", "no");
    let mut events = open(&session, None).await;
    let relay = &server.app().relay;
    relay.fail(session_ref(&session), failure).await.unwrap();
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
    assert_eq!(reconnect(&session, &event.id).await, [StatusCode::NO_CONTENT; 2]);
    assert_eq!(state(&session).await, StatusCode::OK, "the failure is still there for others");

    let session = bound(&base).await;
    let (mut older, mut newer) = (open(&session, None).await, open(&session, None).await);
    fulfil(&server, &session).await;
    let superseded = older.next().await.unwrap();
    assert_eq!(text(&superseded.data, "error"), "superseded");
    assert_eq!(reconnect(&session, &superseded.id).await, [StatusCode::NO_CONTENT; 2]);
    assert_eq!(newer.next().await.unwrap().name, "authenticated");
    assert_eq!(state(&session).await, StatusCode::OK, "not acknowledged by the superseded one");
}

#[tokio::test]
async fn the_newest_reader_gets_in_where_older_ones_vanished_without_a_word() {
    let (server, base) = server().await;
    let session = bound(&base).await;
    let (id, token) = (text(&session, "session_id"), text(&session, "session_token"));
    let mut vanished = Vec::new();
    for _ in 0..4 {
        // Neither reads nor closes.
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        let request = format!(
            "GET /addons/sessions/{id}/events HTTP/1.1\r\nHost: relay\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.readable().await.unwrap();
        vanished.push(socket);
    }
    // A stranger displaces nobody.
    let wrong = SessionId::generate();
    for _ in 0..8 {
        let url = text(&session, "events_url");
        let refused = Events::request(url, Some(wrong.expose()), None).await.status();
        assert!(refused.is_client_error(), "{refused}");
    }
    assert_eq!(server.app().relay.registry().waiting(), 4);
    let mut newest = open(&session, None).await;
    assert_eq!(server.app().relay.registry().waiting(), 4, "the oldest has gone");
    fulfil(&server, &session).await;
    assert_eq!(newest.next().await.unwrap().name, "authenticated");
}

#[tokio::test]
async fn a_superseded_poll_is_not_answered_at_once() {
    let (server, base) = server().await;
    let session = bound(&base).await;
    let poll = |seconds: u64| {
        let poll = client().get(format!("{}?wait={seconds}", text(&session, "poll_url")));
        tokio::spawn(poll.bearer_auth(text(&session, "session_token")).send())
    };
    let begun = std::time::Instant::now();
    let older = poll(2);
    while server.app().relay.registry().waiting() < 1 {
        tokio::task::yield_now().await;
    }
    let newer = (0..4).map(|_| poll(10)).collect::<Vec<_>>();
    let older = older.await.unwrap().unwrap();
    assert_eq!(older.status(), StatusCode::ACCEPTED);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    fulfil(&server, &session).await;
    let mut tokens = 0;
    for poll in newer {
        tokens += usize::from(poll.await.unwrap().unwrap().status() == StatusCode::OK);
    }
    assert_eq!(tokens, 1, "the newest one has the token");
}

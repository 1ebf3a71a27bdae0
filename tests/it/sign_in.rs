//! The main job: an add-in signs in through the browser and its token arrives by push.

use crate::support::{
    Browser, Events, Process, TIMEOUT, client, create, form_action, hidden_inputs, text,
};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode,
};

async fn get(url: &str) -> reqwest::Response {
    client().get(url).send().await.unwrap()
}

async fn me(base: &str, token: &str) -> reqwest::Response {
    client().get(format!("{base}/addons/me")).bearer_auth(token).send().await.unwrap()
}

#[tokio::test]
async fn the_sequence_of_a_legacy_add_in_works_without_cookies_on_its_side() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    let poll = text(&session, "poll_url");
    assert!(session.get("session_token").is_none());
    let pending = get(poll).await;
    assert_eq!(pending.status(), StatusCode::ACCEPTED);
    assert_eq!(pending.json::<Value>().await.unwrap(), json!({"state": "pending"}));

    let browser = Browser::default();
    let page = browser.sign_in(&session, "alice").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("Alice Liddell"), "{}", page.body);
    let paths = page.trail.iter().map(|url| url.split('?').next().unwrap()).collect::<Vec<_>>();
    let expected = ["/callback", "/addons/redirect", "/addons/account", "/addons/success"]
        .map(|path| relay.url.clone() + path);
    assert_eq!(paths[1..], expected);

    let response = get(poll).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let token: Value = response.json().await.unwrap();
    assert_eq!((text(&token, "state"), text(&token, "token_type")), ("authenticated", "Bearer"));
    assert_eq!(get(poll).await.status(), StatusCode::GONE, "a second read");

    let answer = me(&relay.url, text(&token, "access_token")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let claims: Value = answer.json().await.unwrap();
    assert_eq!((text(&claims, "sub"), text(&claims, "email")), ("alice", "alice@example.com"));
    assert_eq!(text(&claims, "iss"), relay.url);
}

#[tokio::test]
async fn an_event_stream_gets_the_token_and_may_come_back_for_it() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(json!({"bind": true, "client_name": "Test"}))).await;
    let (url, token) = (text(&session, "events_url"), text(&session, "session_token"));
    let mut events = Events::open(url, Some(token)).await;
    events.until("retry: ").await;
    events.until("\n\n").await;
    let page = Browser::default().sign_in(&session, "bob").await;
    assert!(page.body.contains("Bob Cratchit") && page.body.contains("Test"), "{}", page.body);
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), event.id.len()), ("authenticated", 22));
    assert_eq!(events.next().await, None);
    assert_eq!(me(&relay.url, text(&event.data, "access_token")).await.status(), StatusCode::OK);

    // Without Last-Event-ID the token is still owed; with it, it was received.
    let mut again = Events::open(url, Some(token)).await;
    let second = again.next().await.unwrap();
    assert_eq!(text(&second.data, "access_token"), text(&event.data, "access_token"));
    assert_eq!(second.id, event.id);
    let stop = Events::request(url, Some(token), Some(&event.id)).await;
    assert_eq!(stop.status(), StatusCode::NO_CONTENT);
    let stop = Events::request(url, Some(token), None).await;
    assert_eq!(stop.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_web_socket_gets_the_token_and_acknowledges_it() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let mut request = text(&session, "websocket_url").into_client_request().unwrap();
    let offer = format!("token-relay.v1, bearer.{}", text(&session, "session_token"));
    request.headers_mut().insert("sec-websocket-protocol", offer.parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "token-relay.v1");
    Browser::default().sign_in(&session, "carol").await;
    let message = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
    let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    assert_eq!(text(&message, "type"), "authenticated");
    assert_eq!(me(&relay.url, text(&message, "access_token")).await.status(), StatusCode::OK);
    socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
    let close = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
    match close {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Normal),
        other => panic!("{other:?}"),
    }
    let poll = client()
        .get(text(&session, "poll_url"))
        .bearer_auth(text(&session, "session_token"))
        .send();
    assert_eq!(poll.await.unwrap().status(), StatusCode::GONE);
}

#[tokio::test]
async fn a_long_poll_waits_for_the_token() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    let url = format!("{}?wait=20", text(&session, "poll_url"));
    let poll = tokio::spawn(async move { get(&url).await });
    Browser::default().sign_in(&session, "alice").await;
    let response = poll.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(&response.json().await.unwrap(), "state"), "authenticated");

    let session = create(&relay.url, None).await;
    let preferred = client().get(text(&session, "poll_url")).header("prefer", "wait=1").send();
    let response = preferred.await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["preference-applied"], "wait=1");
}

#[tokio::test]
async fn a_cancelled_login_is_told_on_both_sides() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    let mut events = Events::open(text(&session, "events_url"), None).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let mut fields = hidden_inputs(&login.body);
    fields.push(("action".to_owned(), "cancel".to_owned()));
    let page = browser.submit(form_action(&login).as_str(), &fields).await;
    assert_eq!(page.url.path(), "/addons/error");
    let event = events.next().await.unwrap();
    assert_eq!((event.name.as_str(), text(&event.data, "error")), ("failed", "access_denied"));
    let poll = get(text(&session, "poll_url")).await;
    assert_eq!(text(&poll.json().await.unwrap(), "state"), "failed");
}

#[tokio::test]
async fn a_wrong_password_can_be_corrected() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let again = browser.log_in(&login, "alice", "wrong").await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    let page = browser.log_in(&again, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/success");
}

#[tokio::test]
async fn several_dialogs_in_one_browser_keep_apart() {
    let relay = Process::demo(&[]);
    let browser = Browser::default();
    let mut dialogs = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let session = create(&relay.url, None).await;
        let login = browser.to_login(&session).await;
        dialogs.push((user, session, login));
    }
    // The one opened last ends first.
    for (user, session, login) in dialogs.iter().rev() {
        let page = browser.log_in(login, user, user).await;
        assert_eq!(page.url.path(), "/addons/success");
        let token: Value = get(text(session, "poll_url")).await.json().await.unwrap();
        let claims: Value =
            me(&relay.url, text(&token, "access_token")).await.json().await.unwrap();
        assert_eq!(text(&claims, "sub"), *user);
    }
}

#[tokio::test]
async fn confirmation_adds_a_page_and_no_ends_the_session() {
    let relay = Process::demo(&[]);
    let body = json!({"bind": true, "confirm": true, "client_name": "Outlook <b>"});
    for decision in ["continue", "deny"] {
        let browser = Browser::default();
        let session = browser.create(&relay.url, body.clone()).await;
        let mut events =
            Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
        let page = browser.open(text(&session, "transit_url")).await;
        assert!(page.body.contains(text(&session, "user_code")), "{}", page.body);
        assert!(!page.body.contains("<b>"), "unescaped");
        // Reloaded, it is there again.
        let page = browser.open(text(&session, "transit_url")).await;
        assert!(page.body.contains(text(&session, "user_code")), "{}", page.body);
        // Another browser, which has not got the dialog's cookie, decides nothing.
        let next = browser.decide(&page, decision).await;
        if decision == "continue" {
            let page = browser.log_in(&next, "alice", "alice").await;
            assert_eq!(page.url.path(), "/addons/success");
            assert_eq!(events.next().await.unwrap().name, "authenticated");
        } else {
            let event = events.next().await.unwrap();
            assert_eq!(
                (event.name.as_str(), text(&event.data, "error")),
                ("failed", "access_denied")
            );
        }
    }
}

#[tokio::test]
async fn a_second_browser_gets_a_page_and_its_proof_ends_the_session() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    let (browser, thief) = (Browser::default(), Browser::default());
    let url = text(&session, "transit_url");
    // Both look at the first page, which consumes nothing.
    let thiefs = thief.open(url).await;
    let login = browser.to_login(&session).await;
    let stranger = Browser::default().open(url).await;
    assert_eq!(stranger.status, StatusCode::CONFLICT, "its GET says that the link was used");
    // The dialog goes on, and has its page again whenever it wants.
    assert!(browser.open(url).await.body.contains("name=\"username\""));
    let ended = thief.type_code(&thiefs, text(&session, "user_code")).await;
    assert_eq!(ended.status, StatusCode::GONE, "{}", ended.body);
    let event = events.next().await.unwrap();
    assert_eq!(text(&event.data, "error"), "transit_token_replayed");
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_ne!(page.url.path(), "/addons/success", "the first dialog, too, ends with nothing");
}

#[tokio::test]
async fn state_and_code_work_once_and_in_their_own_browser_only() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    let callback = page.trail.iter().find(|url| url.contains("/callback?")).unwrap();
    let elsewhere = Browser::default().open(callback).await;
    assert_eq!(elsewhere.status, StatusCode::BAD_REQUEST);
    let forged = callback.replace("state=", "state=x");
    assert_eq!(browser.open(&forged).await.status, StatusCode::BAD_REQUEST);
    // Reloading in the same browser is harmless: the login is over and stays so.
    assert_eq!(browser.open(callback).await.url.path(), "/addons/success");
}

//! The sign-in against a certified provider that is not ours: the npm package `oidc-provider`.

use crate::support::{Browser, Events, Process, client, create, provider::OidcProvider, text};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn sign_in(relay: &Process, browser: &Browser, user: &str) -> Value {
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    let login = browser.to_login(&session).await;
    assert_eq!(login.status, StatusCode::OK, "{} {}", login.url, login.body);
    let page = browser.log_in(&login, user, user).await;
    assert_eq!(page.url.path(), "/addons/success", "{:?} {}", page.trail, relay.log());
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "authenticated", "{event:?}");
    let me = client()
        .get(format!("{}/addons/me", relay.url))
        .bearer_auth(text(&event.data, "access_token"))
        .send();
    me.await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_person_signs_in_and_userinfo_fills_in_what_the_id_token_lacks() {
    let provider = OidcProvider::start();
    let relay = provider.relay(&[]).await;
    let claims = sign_in(&relay, &Browser::default(), "alice").await;
    assert_eq!((text(&claims, "sub"), text(&claims, "name")), ("alice", "Alice Liddell"));
    assert_eq!(text(&claims, "email"), "alice@example.com");
}

#[tokio::test]
async fn key_rotation_at_the_provider_is_survived() {
    let provider = OidcProvider::start();
    let relay = provider.relay(&[]).await;
    sign_in(&relay, &Browser::default(), "alice").await;
    provider.tell("rotate-keys", String::new()).await;
    let claims = sign_in(&relay, &Browser::default(), "bob").await;
    assert_eq!(text(&claims, "sub"), "bob");
}

#[tokio::test]
async fn a_slow_and_an_absent_provider_are_told_on_both_sides() {
    let provider = OidcProvider::start();
    let relay = provider.relay(&[("TOKEN_RELAY_OIDC_TIMEOUT", "1s")]).await;
    sign_in(&relay, &Browser::default(), "alice").await;
    provider.tell("pause", "3000".to_owned()).await;
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/error");
    let event = events.next().await.unwrap();
    assert_eq!(
        (event.name.as_str(), text(&event.data, "error")),
        ("failed", "temporarily_unavailable")
    );

    let absent = Process::start(
        &["serve"],
        &[
            ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
            // Nothing listens on port 9 of this host.
            ("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9"),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
        ],
    );
    let session = create(&absent.url, Some(json!({"bind": true}))).await;
    let mut events =
        Events::open(text(&session, "events_url"), Some(text(&session, "session_token"))).await;
    let page = Browser::default().to_login(&session).await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    let event = events.next().await.unwrap();
    assert_eq!(text(&event.data, "error"), "temporarily_unavailable");
}

//! The sign-in against a certified provider that is not ours: the npm package `oidc-provider`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use crate::support::{Browser, Events, Process, client, create, text};
use reqwest::StatusCode;
use serde_json::{Value, json};

struct Provider {
    child: Child,
    /// Kept open: the provider writes notices to it.
    _stdout: BufReader<std::process::ChildStdout>,
    issuer: String,
}

impl Provider {
    fn start() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/provider");
        assert!(
            std::path::Path::new(folder).join("node_modules/oidc-provider").exists(),
            "oidc-provider is missing: run `npm ci` in tests/support/provider (Node.js 20 or newer)"
        );
        let mut child = Command::new("node")
            .args(["--no-warnings", "server.mjs"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts; install Node.js 20 or newer");
        let (mut line, mut stdout) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        stdout.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).expect("the provider's address");
        Self { child, _stdout: stdout, issuer: text(&line, "issuer").to_owned() }
    }

    async fn tell(&self, what: &str, body: String) {
        let url = format!("{}/test/{what}", self.issuer);
        let answer = client().post(url).body(body).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    /// The relay as an operator runs it, with this provider.
    async fn relay(&self, more: &[(&str, &str)]) -> Process {
        let mut environment = vec![
            ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
            ("TOKEN_RELAY_OIDC_ISSUER", self.issuer.as_str()),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
            // Straight to the provider: what comes before is tested elsewhere.
            ("TOKEN_RELAY_LEGACY_SESSIONS", "true"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
        ];
        environment.extend(more);
        let relay = Process::start(&["serve"], &environment);
        self.tell("redirect-uri", format!("{}/callback", relay.url)).await;
        relay
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let provider = Provider::start();
    let relay = provider.relay(&[]).await;
    let claims = sign_in(&relay, &Browser::default(), "alice").await;
    assert_eq!((text(&claims, "sub"), text(&claims, "name")), ("alice", "Alice Liddell"));
    assert_eq!(text(&claims, "email"), "alice@example.com");
}

#[tokio::test]
async fn key_rotation_at_the_provider_is_survived() {
    let provider = Provider::start();
    let relay = provider.relay(&[]).await;
    sign_in(&relay, &Browser::default(), "alice").await;
    provider.tell("rotate-keys", String::new()).await;
    let claims = sign_in(&relay, &Browser::default(), "bob").await;
    assert_eq!(text(&claims, "sub"), "bob");
}

#[tokio::test]
async fn a_slow_and_an_absent_provider_are_told_on_both_sides() {
    let provider = Provider::start();
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

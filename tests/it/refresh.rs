//! Refresh tokens: given with a login, used on any instance, once each; ended by a second use and
//! by revocation, together with the access tokens made with them.

use crate::support::{Browser, Events, Process, client, create, redis, text};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

fn environment(redis_url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("TOKEN_RELAY_REDIS_URL", redis_url.to_owned()),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY.to_owned()),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY.to_owned()),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256".to_owned()),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY.to_owned()),
        ("TOKEN_RELAY_TOKEN_ISSUER", "https://relay.example".to_owned()),
        ("TOKEN_RELAY_TOKEN_AUDIENCE", "https://api.example".to_owned()),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day".to_owned()),
        ("TOKEN_RELAY_LOG", "info".to_owned()),
    ]
}

fn instance(redis_url: &str) -> Process {
    let environment = environment(redis_url);
    let borrowed: Vec<_> = environment.iter().map(|(name, value)| (*name, &**value)).collect();
    Process::demo(&borrowed)
}

/// A signed-in add-in: its session and the token response.
async fn sign_in(relay: &Process) -> (Value, Value) {
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = events.next().await.unwrap().data;
    (session, answer)
}

/// Asks for tokens with the credentials of `session`.
async fn refresh(relay: &Process, session: &Value, token: &str) -> (StatusCode, Value) {
    let answer = client()
        .post(format!("{}/addons/token", relay.url))
        .basic_auth(text(session, "session_id"), Some(text(session, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", token)])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    (answer.status(), answer.json().await.unwrap())
}

async fn verify(relay: &Process, token: &str) -> StatusCode {
    let request = client().get(format!("{}/addons/verify", relay.url)).bearer_auth(token);
    request.send().await.unwrap().status()
}

#[tokio::test]
async fn an_add_in_stays_signed_in_without_a_dialog() {
    let server = redis::Server::start(&[]).await;
    let (first, second) = (instance(&server.url()), instance(&server.url()));
    let (session, answer) = sign_in(&first).await;
    let mut newest = text(&answer, "refresh_token").to_owned();
    // Acknowledged: the session is over, the grant is not.
    let request =
        client().delete(text(&session, "poll_url")).bearer_auth(text(&session, "session_token"));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let mut access_tokens = vec![text(&answer, "access_token").to_owned()];
    for relay in [&second, &first, &second] {
        let (status, tokens) = refresh(relay, &session, &newest).await;
        assert_eq!(status, StatusCode::OK, "{tokens}");
        assert_eq!(tokens["authenticated_at"], answer["authenticated_at"]);
        assert_eq!((text(&tokens, "token_type"), text(&tokens, "scope")), ("Bearer", "addons"));
        newest = text(&tokens, "refresh_token").to_owned();
        access_tokens.push(text(&tokens, "access_token").to_owned());
    }
    for token in &access_tokens {
        assert_eq!(verify(&first, token).await, StatusCode::OK);
    }
    let me = client().get(format!("{}/addons/me", second.url)).bearer_auth(&access_tokens[3]);
    let claims: Value = me.send().await.unwrap().json().await.unwrap();
    assert_eq!((text(&claims, "sub"), text(&claims, "email")), ("alice", "alice@example.com"));
    let metadata = format!("{}/.well-known/oauth-authorization-server", first.url);
    let metadata: Value = client().get(metadata).send().await.unwrap().json().await.unwrap();
    let device = "urn:ietf:params:oauth:grant-type:device_code";
    assert_eq!(metadata["grant_types_supported"], json!(["refresh_token", device]));
    assert!(text(&metadata, "token_endpoint").ends_with("/addons/token"));
}

#[tokio::test]
async fn a_second_use_ends_everything_that_the_login_granted() {
    let server = redis::Server::start(&[]).await;
    let (first, second) = (instance(&server.url()), instance(&server.url()));
    let (session, answer) = sign_in(&first).await;
    let stolen = text(&answer, "refresh_token");
    let (_, tokens) = refresh(&first, &session, stolen).await;
    let (status, refused) = refresh(&second, &session, stolen).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    let (status, refused) = refresh(&first, &session, text(&tokens, "refresh_token")).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    for relay in [&first, &second, &instance(&server.url())] {
        for answer in [&answer, &tokens] {
            let token = text(answer, "access_token");
            assert_eq!(verify(relay, token).await, StatusCode::UNAUTHORIZED);
        }
    }
    let metrics = client().get(format!("{}/metrics", second.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("token_relay_refreshes_total{outcome=\"Reused\",client=\"addons\"} 1"),
        "{metrics}"
    );
    // Another login of the same person goes on.
    let (other, answer) = sign_in(&first).await;
    assert_eq!(refresh(&second, &other, text(&answer, "refresh_token")).await.0, StatusCode::OK);
    for relay in [&first, &second] {
        let log = relay.log();
        for answer in [&answer, &tokens] {
            for name in ["access_token", "refresh_token"] {
                assert!(!log.contains(text(answer, name)), "{name} in the log");
            }
        }
        assert!(!log.contains(text(&session, "session_token")));
    }
}

#[tokio::test]
async fn revoking_a_refresh_token_takes_the_access_tokens_along() {
    let server = redis::Server::start(&[]).await;
    let (first, second) = (instance(&server.url()), instance(&server.url()));
    let (session, answer) = sign_in(&first).await;
    let token = text(&answer, "refresh_token");
    let (_, tokens) = refresh(&first, &session, token).await;
    let newest = text(&tokens, "refresh_token");
    let revoke = client().post(format!("{}/addons/revoke", second.url)).form(&[("token", newest)]);
    assert_eq!(revoke.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(refresh(&first, &session, newest).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(verify(&first, text(&answer, "access_token")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(verify(&second, text(&tokens, "access_token")).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_stranger_gets_nothing_and_uses_nothing_up() {
    let server = redis::Server::start(&[]).await;
    let relay = instance(&server.url());
    let (session, answer) = sign_in(&relay).await;
    let (other, _) = sign_in(&relay).await;
    let token = text(&answer, "refresh_token");
    let url = format!("{}/addons/token", relay.url);
    let (id, secret) = (text(&session, "session_id"), text(&session, "session_token"));
    // Another client, who is one itself.
    let (status, refused) = refresh(&relay, &other, token).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    let good = [("grant_type", "refresh_token"), ("refresh_token", token)];
    let with = |more: &[(&'static str, &str)]| {
        let all = good.iter().chain(more);
        all.map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
    };
    let cases = [
        (with(&[]), StatusCode::UNAUTHORIZED, "invalid_client"),
        (with(&[("client_id", id)]), StatusCode::UNAUTHORIZED, "invalid_client"),
        (
            with(&[("client_id", id), ("client_secret", "guessed")]),
            StatusCode::UNAUTHORIZED,
            "invalid_client",
        ),
        (
            with(&[("client_id", id), ("client_secret", text(&other, "session_token"))]),
            StatusCode::BAD_REQUEST,
            "invalid_grant",
        ),
        (
            with(&[("client_id", id), ("client_secret", secret), ("refresh_token", "two")]),
            StatusCode::BAD_REQUEST,
            "invalid_request",
        ),
        (
            vec![("grant_type", "password".to_owned())],
            StatusCode::BAD_REQUEST,
            "unsupported_grant_type",
        ),
        (vec![], StatusCode::BAD_REQUEST, "invalid_request"),
    ];
    for (fields, status, error) in cases {
        let answer = client().post(&url).form(&fields).send().await.unwrap();
        assert_eq!(answer.status(), status, "{error}");
        let challenged = answer.headers().contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(challenged, status == StatusCode::UNAUTHORIZED);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(text(&body, "error"), error);
        assert_eq!(
            (&body["detail"], &body["status"]),
            (&body["error_description"], &json!(status.as_u16()))
        );
        assert!(text(&body, "type").starts_with("urn:token-relay:problem:"));
        for secret in [token, secret, id] {
            assert!(!body.to_string().contains(secret), "{body}");
        }
    }
    for forged in ["x", &token[1..], &token.replace('a', "b"), text(&answer, "access_token")] {
        let (status, refused) = refresh(&relay, &session, forged).await;
        assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
    }
    // As form fields, and none of the above used it up.
    let fields = with(&[("client_id", id), ("client_secret", secret)]);
    let answer = client().post(&url).form(&fields).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // A session that anybody reads who has its ID has no client to bind a token to.
    let legacy = create(&relay.url, None).await;
    let mut events = Events::open(text(&legacy, "events_url"), None).await;
    Browser::default().sign_in(&legacy, "bob").await;
    assert!(events.next().await.unwrap().data.get("refresh_token").is_none());
}

#[tokio::test]
async fn without_the_setting_there_are_none() {
    let relay = Process::demo(&[]);
    let (session, answer) = sign_in(&relay).await;
    assert!(answer.get("refresh_token").is_none());
    let request = client()
        .post(format!("{}/addons/token", relay.url))
        .basic_auth(text(&session, "session_id"), Some(text(&session, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", "x")]);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(text(&answer, "error"), "unsupported_grant_type");
}

#[tokio::test]
async fn refresh_tokens_expire_when_unused() {
    let relay =
        Process::demo(&[("TOKEN_RELAY_TOKEN_TTL", "1s"), ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "2s")]);
    let (session, answer) = sign_in(&relay).await;
    let (status, tokens) = refresh(&relay, &session, text(&answer, "refresh_token")).await;
    assert_eq!(status, StatusCode::OK);
    // What is waited for is the token's own life.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let (status, refused) = refresh(&relay, &session, text(&tokens, "refresh_token")).await;
    assert_eq!((status, text(&refused, "error")), (StatusCode::BAD_REQUEST, "invalid_grant"));
}

#[tokio::test]
async fn guesses_of_session_and_refresh_tokens_are_limited_and_right_ones_get_through() {
    let relay = Process::demo(&[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day")]);
    let (session, answer) = sign_in(&relay).await;
    let (waiting, secret) = {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let secret = text(&session, "session_token").to_owned();
        (session, secret)
    };
    let http = client();
    let poll = async |token: String| {
        http.get(text(&waiting, "poll_url")).bearer_auth(token).send().await.unwrap()
    };
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(poll("A".repeat(43)).await.status());
        statuses.push(refresh(&relay, &session, "guess").await.0);
    }
    for wrong in [StatusCode::UNAUTHORIZED, StatusCode::BAD_REQUEST] {
        let count = statuses.iter().filter(|status| **status == wrong).count();
        assert!((30..40).contains(&count), "{count} answers {wrong}");
    }
    let refused = poll("A".repeat(43)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    // Without a token it is no guess.
    let anonymous = http.get(text(&waiting, "poll_url")).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(poll(secret).await.status(), StatusCode::ACCEPTED);
    let (status, _) = refresh(&relay, &session, text(&answer, "refresh_token")).await;
    assert_eq!(status, StatusCode::OK);
}

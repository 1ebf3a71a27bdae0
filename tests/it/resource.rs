//! The life of an access token after its delivery: verified, introspected, revoked, on every
//! instance.

use crate::support::{Browser, Process, client, create, redis, text};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Response, StatusCode, header};
use serde_json::Value;

const CLIENT: (&str, &str) = ("api", "the secret of the api");

fn instance(redis_url: &str) -> Process {
    Process::demo(&[
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_TOKEN_ISSUER", "https://relay.example"),
        ("TOKEN_RELAY_TOKEN_AUDIENCE", "https://api.example"),
        ("TOKEN_RELAY_INTROSPECTION_CLIENTS", "api:the secret of the api"),
    ])
}

async fn access_token(relay: &Process) -> String {
    let session = create(&relay.url, None).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = client().get(text(&session, "poll_url")).send().await.unwrap();
    text(&answer.json().await.unwrap(), "access_token").to_owned()
}

async fn verify(relay: &Process, token: &str) -> Response {
    client().get(format!("{}/addons/verify", relay.url)).bearer_auth(token).send().await.unwrap()
}

async fn introspect(relay: &Process, token: &str) -> Value {
    let answer = client()
        .post(format!("{}/addons/introspect", relay.url))
        .basic_auth(CLIENT.0, Some(CLIENT.1))
        .form(&[("token", token)])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn a_revoked_token_is_refused_everywhere_at_once_and_after_a_restart() {
    let server = redis::Server::start(&[]).await;
    let (first, second) = (instance(&server.url()), instance(&server.url()));
    let token = access_token(&first).await;
    for relay in [&first, &second] {
        let answer = verify(relay, &token).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-auth-subject"], "alice");
        assert_eq!(answer.headers()["x-auth-scope"], "addons");
        assert_eq!(answer.headers()["x-auth-email"], "alice@example.com");
        let claims = introspect(relay, &token).await;
        assert_eq!((claims["active"].as_bool(), text(&claims, "sub")), (Some(true), "alice"));
    }
    let revoke = client().post(format!("{}/addons/revoke", first.url)).form(&[("token", &token)]);
    assert_eq!(revoke.send().await.unwrap().status(), StatusCode::OK);
    drop(second);
    let restarted = instance(&server.url());
    for relay in [&first, &restarted] {
        assert_eq!(verify(relay, &token).await.status(), StatusCode::UNAUTHORIZED);
        let me = client().get(format!("{}/addons/me", relay.url)).bearer_auth(&token).send().await;
        assert_eq!(me.unwrap().status(), StatusCode::UNAUTHORIZED);
        assert_eq!(introspect(relay, &token).await, serde_json::json!({"active": false}));
    }
    // Another token of the same person is not affected.
    assert_eq!(verify(&first, &access_token(&first).await).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn introspection_is_for_known_clients_and_revocation_never_tells() {
    let server = redis::Server::start(&[]).await;
    let relay = instance(&server.url());
    let url = format!("{}/addons/introspect", relay.url);
    for (id, secret) in [("api", "wrong"), ("other", CLIENT.1), ("", "")] {
        let answer =
            client().post(&url).basic_auth(id, Some(secret)).form(&[("token", "x")]).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert!(answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic"));
    }
    let anonymous = client().post(&url).form(&[("token", "x")]).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(introspect(&relay, "no token").await, serde_json::json!({"active": false}));
    for fields in [vec![], vec![("token", "a"), ("token", "b")]] {
        let answer = client().post(&url).basic_auth(CLIENT.0, Some(CLIENT.1)).form(&fields).send();
        assert_eq!(answer.await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
    let revoke =
        client().post(format!("{}/addons/revoke", relay.url)).form(&[("token", "x")]).send();
    assert_eq!(revoke.await.unwrap().status(), StatusCode::OK, "RFC 7009 §2.2");
    let metadata = format!("{}/.well-known/oauth-authorization-server", relay.url);
    let metadata: Value = client().get(metadata).send().await.unwrap().json().await.unwrap();
    assert_eq!(text(&metadata, "issuer"), "https://relay.example");
    assert!(text(&metadata, "revocation_endpoint").ends_with("/addons/revoke"));
}

#[tokio::test]
async fn the_published_keys_verify_a_token_and_hold_no_private_part() {
    let relay = Process::demo(&[]);
    let token = access_token(&relay).await;
    let keys = format!("{}/.well-known/jwks.json", relay.url);
    let keys = client().get(keys).send().await.unwrap().text().await.unwrap();
    assert!(!keys.contains("\"d\""), "{keys}");
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&keys).unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert_eq!(
        (header.alg, header.typ.as_deref()),
        (jsonwebtoken::Algorithm::ES256, Some("at+jwt"))
    );
    let key = keys.find(&header.kid.unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(header.alg);
    validation.set_audience(&[&relay.url]);
    validation.set_issuer(&[&relay.url]);
    let key = jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
    let claims =
        token_relay::token::jws::decode::<Value>(&token, &key, &validation).unwrap().claims;
    for name in ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "name", "email"] {
        assert!(claims.get(name).is_some(), "{name} in {claims}");
    }
}

/// The value of one line of `/metrics`.
async fn metric(relay: &Process, line: &str) -> u64 {
    let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let found = metrics.lines().find_map(|each| each.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {line} in {metrics}"))
}

#[tokio::test]
async fn guesses_of_a_clients_secret_are_limited_counted_and_logged() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_INTROSPECTION_CLIENTS", "api:a secret of the tests of 32 characters"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.0/8"),
        ("TOKEN_RELAY_LOG", "info"),
    ]);
    let http = client();
    let guess = async |secret: &str, address: &str| {
        let request = http
            .post(format!("{}/addons/introspect", relay.url))
            .basic_auth("api", Some(secret))
            .header("x-forwarded-for", address)
            .form(&[("token", "x")]);
        request.send().await.unwrap()
    };
    let right = "a secret of the tests of 32 characters";
    let mut wrong = 0;
    for index in 0..1500 {
        let answer = guess(&format!("guess {index}"), "192.0.2.1").await;
        match answer.status() {
            StatusCode::UNAUTHORIZED => wrong += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                let after: u64 =
                    answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
                assert!((1..=60).contains(&after));
                let body: Value = answer.json().await.unwrap();
                assert!(text(&body, "type").ends_with("too-many-guesses"), "{body}");
            }
            status => panic!("{status}"),
        }
    }
    // 30 at once, and one more each two seconds.
    assert!((30..100).contains(&wrong), "{wrong}");
    assert!(wrong < 1500, "the last ones were refused");
    assert_eq!(guess(right, "192.0.2.1").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(guess(right, "192.0.2.2").await.status(), StatusCode::OK);
    let label = |answer| {
        format!(
            "token_relay_guesses_total{{secret=\"client_secret\",answer=\"{answer}\",client=\"api\"}}"
        )
    };
    assert_eq!(metric(&relay, &label("wrong")).await, wrong);
    assert_eq!(metric(&relay, &label("refused")).await, 1500 - wrong + 1);
    let lines = || relay.log().lines().filter(|line| line.contains("wrong secret")).count() as u64;
    // The log is written by a thread of its own.
    redis::eventually("every guess is in the log", || async { lines() > wrong }).await;
    assert!(lines() < wrong + 30, "{} lines for {wrong} guesses", lines());
    relay.logged("192.0.2.1").await;
    assert!(!relay.log().contains("guess 0"));
}

/// `token` with other claims, signed with the key of [`instance`].
fn with_claims(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let (head, rest) = token.split_once('.').unwrap();
    let claims = URL_SAFE_NO_PAD.decode(rest.split_once('.').unwrap().0).unwrap();
    let mut claims = serde_json::from_slice(&claims).unwrap();
    change(&mut claims);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, crate::support::SIGNING_KEY.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn forward_authentication_passes_a_subject_on_exactly_or_refuses_the_token() {
    let server = redis::Server::start(&[]).await;
    let relay = instance(&server.url());
    let token = access_token(&relay).await;
    let with_subject = |subject: &str| with_claims(&token, |claims| claims["sub"] = subject.into());
    for subject in ["bob", "auth0|1 2", "https://id.example/bob"] {
        let answer = verify(&relay, &with_subject(subject)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{subject}");
        assert_eq!(answer.headers()["x-auth-subject"], subject);
    }
    for subject in ["", " ", " admin", "admin\t", "a\nx-auth-scope: all", "\u{e9}ve", "admin\0"] {
        let answer = verify(&relay, &with_subject(subject)).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{subject:?}");
        assert!(!answer.headers().contains_key("x-auth-subject"));
    }
    let spaced = with_claims(&token, |claims| claims["scope"] = "all ".into());
    assert_eq!(verify(&relay, &spaced).await.status(), StatusCode::UNAUTHORIZED);
    for (verified, email) in
        [(true.into(), "alice@example.com"), (false.into(), ""), (Value::Null, "")]
    {
        let token = with_claims(&token, |claims| claims["email_verified"] = verified);
        assert_eq!(verify(&relay, &token).await.headers()["x-auth-email"], email);
    }
}

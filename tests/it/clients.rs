//! Registered clients: who may create sessions in whose name, and what the tokens of each are for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::support::{Browser, Events, Process, client, redis, text};

const SECRET: &str = "a secret of the tests of 32 characters or more";
const ORIGIN: &str = "https://addin.example";

/// A relay with an add-in, another one, and an API that introspects.
fn relay() -> Process {
    Process::demo(&[
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__NAME", "Rooms for Outlook"),
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__ORIGINS", ORIGIN),
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__SCOPE", "rooms:read rooms:create"),
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__AUDIENCE", "https://rooms.example"),
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__TOKEN_TTL", "10m"),
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__SESSION_TTL", "5m"),
        ("TOKEN_RELAY_CLIENTS__TERMINAL__AUDIENCE", "https://files.example"),
        ("TOKEN_RELAY_CLIENTS__TERMINAL__SECRET", SECRET),
        ("TOKEN_RELAY_CLIENTS__API__GRANTS", "introspect"),
        ("TOKEN_RELAY_CLIENTS__API__SECRET", "another secret of the tests of 32 characters"),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_CONFIRMATION", "never"),
        ("TOKEN_RELAY_LOG", "info"),
    ])
}

async fn create(relay: &Process, origin: Option<&str>, body: Value) -> Response {
    let mut request = client().post(format!("{}/addons/sessions", relay.url)).json(&body);
    if let Some(origin) = origin {
        request = request.header(header::ORIGIN, origin);
    }
    request.send().await.unwrap()
}

async fn problem(answer: Response, status: StatusCode) -> (String, String) {
    assert_eq!(answer.status(), status);
    let body: Value = answer.json().await.unwrap();
    let name = text(&body, "type").rsplit(':').next().unwrap().to_owned();
    (name, body["detail"].as_str().unwrap_or_default().to_owned())
}

/// Signs in and gives the token response.
async fn sign_in(relay: &Process, body: Value) -> (Value, Value) {
    let created = create(relay, None, body).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    let session: Value = created.json().await.unwrap();
    let token = text(&session, "session_token");
    let mut events = Events::open(text(&session, "events_url"), Some(token)).await;
    Browser::default().sign_in(&session, "alice").await;
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "authenticated", "{}", event.data);
    (session, event.data)
}

fn claims(token: &Value) -> Value {
    let payload = text(token, "access_token").split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_session_is_created_in_the_name_of_a_registered_client_only() {
    let relay = relay();
    for body in [
        json!({"bind": true}),
        json!({"bind": true, "client_id": "addons"}),
        json!({"bind": true, "client_id": "nobody"}),
        // This one introspects, and nobody signs in to it.
        json!({"bind": true, "client_id": "api"}),
    ] {
        let answer = create(&relay, None, body.clone()).await;
        let (name, _) = problem(answer, StatusCode::BAD_REQUEST).await;
        assert_eq!(name, "unknown-client", "{body}");
    }
    let body = json!({"bind": true, "client_id": "outlook"});
    for origin in ["https://evil.example", "https://addin.example.evil.example"] {
        for _ in 0..3 {
            let answer = create(&relay, Some(origin), body.clone()).await;
            let (name, detail) = problem(answer, StatusCode::FORBIDDEN).await;
            assert_eq!(name, "origin-refused");
            assert!(
                detail.contains(origin) && detail.contains("clients.outlook.origins"),
                "{detail}"
            );
        }
    }
    let log = relay.log();
    let lines = log.lines().filter(|line| line.contains("origin not allowed"));
    assert_eq!(lines.filter(|line| line.contains("clients.outlook.origins")).count(), 2, "{log}");
    let created = create(&relay, Some(ORIGIN), body).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    assert_eq!(created.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], ORIGIN);
    let session: Value = created.json().await.unwrap();
    assert_eq!(session["expires_in"], 300);
    let too_much = json!({"bind": true, "client_id": "outlook", "scope": "rooms:read admin"});
    let (name, detail) =
        problem(create(&relay, None, too_much).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(name, "invalid-scope");
    assert!(detail.contains("clients.outlook.scope"), "{detail}");
    for (origin, allowed) in [(ORIGIN, true), ("https://evil.example", false)] {
        let preflight = client()
            .request(Method::OPTIONS, format!("{}/addons/sessions", relay.url))
            .header(header::ORIGIN, origin)
            .header("access-control-request-method", "POST")
            .send()
            .await
            .unwrap();
        assert_eq!(preflight.headers().contains_key("access-control-allow-origin"), allowed);
    }
}

#[tokio::test]
async fn a_client_that_has_a_secret_can_prove_who_it_is() {
    let relay = relay();
    let body = json!({"bind": true, "client_id": "terminal"});
    let with = async |id: &str, secret: &str| {
        let request = client().post(format!("{}/addons/sessions", relay.url)).json(&body);
        request.basic_auth(id, Some(secret)).send().await.unwrap()
    };
    assert_eq!(with("terminal", SECRET).await.status(), StatusCode::CREATED);
    for (id, secret) in [
        ("terminal", "guess"),
        ("outlook", SECRET),
        ("api", "another secret of the tests of 32 characters"),
    ] {
        let (name, _) = problem(with(id, secret).await, StatusCode::UNAUTHORIZED).await;
        assert_eq!(name, "invalid-client", "{id}");
    }
}

#[tokio::test]
async fn a_token_is_for_its_client_with_its_audience_scope_and_lifetime() {
    let relay = relay();
    let (_, all) = sign_in(&relay, json!({"bind": true, "client_id": "outlook"})).await;
    let read = json!({"bind": true, "client_id": "outlook", "scope": "rooms:read"});
    let (session, read) = sign_in(&relay, read).await;
    let (_, other) = sign_in(&relay, json!({"bind": true, "client_id": "terminal"})).await;
    assert_eq!(text(&all, "scope"), "rooms:read rooms:create");
    for (token, client_id, audience, scope) in [
        (&all, "outlook", "https://rooms.example", "rooms:read rooms:create"),
        (&read, "outlook", "https://rooms.example", "rooms:read"),
        (&other, "terminal", "https://files.example", "addons"),
    ] {
        let claims = claims(token);
        assert_eq!(text(&claims, "client_id"), client_id);
        assert_eq!(text(&claims, "aud"), audience);
        assert_eq!((text(&claims, "scope"), text(token, "scope")), (scope, scope));
        let ttl = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(ttl, if client_id == "outlook" { 600 } else { 3600 });
        let introspected = client()
            .post(format!("{}/addons/introspect", relay.url))
            .basic_auth("api", Some("another secret of the tests of 32 characters"))
            .form(&[("token", text(token, "access_token"))])
            .send()
            .await
            .unwrap();
        let introspected: Value = introspected.json().await.unwrap();
        assert_eq!(introspected["active"], true);
        assert_eq!(text(&introspected, "client_id"), client_id);
    }
    // A refreshed token is no wider.
    let refreshed = client()
        .post(format!("{}/addons/token", relay.url))
        .basic_auth(text(&session, "session_id"), Some(text(&session, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", text(&read, "refresh_token"))])
        .send()
        .await
        .unwrap();
    let refreshed: Value = refreshed.json().await.unwrap();
    let refreshed = claims(&refreshed);
    assert_eq!(
        (text(&refreshed, "client_id"), text(&refreshed, "scope")),
        ("outlook", "rooms:read")
    );
    let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("token_relay_sessions_created_total{client=\"outlook\"} 2"),
        "{metrics}"
    );
    let log = relay.log();
    assert!(log.lines().any(|line| line.contains("session created") && line.contains("terminal")));
}

/// Everything that is counted, by name and labels, above zero.
async fn counted(relay: &Process) -> std::collections::BTreeMap<String, f64> {
    let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let samples = metrics.lines().filter_map(|line| line.strip_prefix("token_relay_"));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    samples
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .filter(|(_, value)| *value > 0.0)
        .collect()
}

#[tokio::test]
async fn what_happens_is_counted_and_logged_by_client() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_CLIENTS__NOTES__GRANTS", "session device"),
        ("TOKEN_RELAY_CLIENTS__NOTES__AUDIENCE", "https://notes.example"),
        ("TOKEN_RELAY_CLIENTS__MAIL__AUDIENCE", "https://mail.example"),
        ("TOKEN_RELAY_CLIENTS__MAIL__PROOFS", "browser code"),
        ("TOKEN_RELAY_CLIENTS__MAIL__SECRET", SECRET),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_LOG", "info"),
    ]);
    let begun = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let begun = begun.text().await.unwrap();
    for at_zero in [
        "tokens_issued_total{grant=\"device\",client=\"notes\"} 0",
        "logins_total{outcome=\"Denied\",client=\"mail\"} 0",
        "streams_open{transport=\"WebSocket\",client=\"mail\"} 0",
    ] {
        assert!(begun.contains(&format!("token_relay_{at_zero}\n")), "{at_zero}: {begun}");
    }
    // One add-in waits while the other signs in, by a session, a refresh token and a device code.
    let created = create(&relay, None, json!({"bind": true, "client_id": "mail"})).await;
    let mail: Value = created.json().await.unwrap();
    let token = Some(text(&mail, "session_token"));
    let mut waiting = Events::open(text(&mail, "events_url"), token).await;
    waiting.until("retry").await;
    assert_eq!(counted(&relay).await["streams_open{transport=\"Sse\",client=\"mail\"}"], 1.0);
    let (notes, answer) = sign_in(&relay, json!({"bind": true, "client_id": "notes"})).await;
    let token_endpoint = format!("{}/addons/token", relay.url);
    let refreshed = client()
        .post(&token_endpoint)
        .basic_auth(text(&notes, "session_id"), Some(text(&notes, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", text(&answer, "refresh_token"))])
        .send()
        .await
        .unwrap();
    assert_eq!(refreshed.status(), StatusCode::OK);
    let device = client()
        .post(format!("{}/addons/device_authorization", relay.url))
        .form(&[("client_id", "notes")])
        .send()
        .await
        .unwrap();
    let device: Value = device.json().await.unwrap();
    let mut events =
        Events::open(text(&device, "events_url"), Some(text(&device, "session_token"))).await;
    let browser = Browser::default();
    let page = browser.open(text(&device, "verification_uri")).await;
    let login = browser.type_code(&page, text(&device, "user_code")).await;
    let account = browser.log_in(&login, "alice", "alice").await;
    browser.give_access(account).await;
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    // Somebody types wrong codes at the first one.
    let browser = Browser::default();
    let mut page = browser.open(text(&mail, "transit_url")).await;
    for _ in 0..5 {
        page = browser.type_code(&page, "BBBB-BBBB").await;
    }
    assert_eq!(waiting.next().await.unwrap().name, "failed");
    // Wrong secrets, of a client and of names that strangers make up.
    for id in ["mail", "stranger-1", "stranger-2"] {
        let guess = client().post(format!("{}/addons/introspect", relay.url));
        let guess = guess.basic_auth(id, Some("guess")).form(&[("token", "a")]);
        assert_eq!(guess.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }

    let counted = counted(&relay).await;
    for (name, value) in [
        ("sessions_created_total{client=\"notes\"}", 2.0),
        ("sessions_created_total{client=\"mail\"}", 1.0),
        ("logins_total{outcome=\"Succeeded\",client=\"notes\"}", 2.0),
        ("logins_total{outcome=\"Denied\",client=\"mail\"}", 1.0),
        ("tokens_issued_total{grant=\"session\",client=\"notes\"}", 1.0),
        ("tokens_issued_total{grant=\"refresh\",client=\"notes\"}", 1.0),
        ("tokens_issued_total{grant=\"device\",client=\"notes\"}", 1.0),
        ("refreshes_total{outcome=\"Refreshed\",client=\"notes\"}", 1.0),
        ("deliveries_total{client=\"notes\"}", 2.0),
        ("guesses_total{secret=\"client_secret\",answer=\"wrong\",client=\"mail\"}", 1.0),
        ("guesses_total{secret=\"client_secret\",answer=\"wrong\",client=\"unknown\"}", 2.0),
        ("guesses_total{secret=\"dialog_code\",answer=\"wrong\",client=\"mail\"}", 5.0),
    ] {
        assert_eq!(counted.get(name), Some(&value), "{name}: {counted:#?}");
    }
    // A caller adds no names.
    let clients: std::collections::BTreeSet<_> = counted
        .keys()
        .filter_map(|name| name.split("client=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(clients, ["mail", "notes", "unknown"].into());
    for (event, client_id) in [
        ("session created", "mail"),
        ("dialog entered", "notes"),
        ("sign-in completed", "notes"),
        ("token delivered", "notes"),
        ("access token refreshed", "notes"),
        ("the sign-in failed", "mail"),
        ("wrong secret", "mail"),
    ] {
        redis::eventually(&format!("the log names {client_id} of `{event}`"), || async {
            let log = relay.log();
            let mut lines = log.lines().filter(|line| line.contains(event));
            lines.any(|line| line.contains(&format!("client_id={client_id}")))
        })
        .await;
    }
}

/// Pages without an origin: any site can make one, in a sandboxed frame.
#[tokio::test]
async fn pages_without_an_origin_call_only_for_clients_that_allow_it_and_never_with_cookies() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_CLIENTS__OUTLOOK__ORIGINS", ORIGIN),
        ("TOKEN_RELAY_CLIENTS__FIGMA__OPAQUE_ORIGINS", "true"),
        ("TOKEN_RELAY_CLIENTS__TERMINAL__SCOPE", "files"),
    ]);
    for (client_id, allowed) in [("figma", true), ("outlook", false), ("terminal", false)] {
        let body = json!({"bind": true, "client_id": client_id});
        let answer = create(&relay, Some("null"), body).await;
        if !allowed {
            let (name, detail) = problem(answer, StatusCode::FORBIDDEN).await;
            assert_eq!(name, "origin-refused");
            assert!(detail.contains(&format!("`clients.{client_id}.opaque_origins`")), "{detail}");
            continue;
        }
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(answer.headers()["access-control-allow-origin"], "null");
        assert!(!answer.headers().contains_key("access-control-allow-credentials"));
        // The cookie of a reader is a credential that its browser adds by itself.
        let cookie = answer.headers().get_all(header::SET_COOKIE).iter().next();
        let cookie =
            cookie.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap().to_owned());
        let session: Value = answer.json().await.unwrap();
        let read = client().get(text(&session, "poll_url")).header(header::ORIGIN, "null");
        let token = text(&session, "session_token");
        let by_token = read.try_clone().unwrap().bearer_auth(token).send().await.unwrap();
        assert_eq!(by_token.status(), StatusCode::ACCEPTED);
        if let Some(cookie) = cookie {
            let by_cookie = read.header(header::COOKIE, cookie).send().await.unwrap();
            assert_eq!(problem(by_cookie, StatusCode::FORBIDDEN).await.0, "origin-refused");
        }
        // The dialog names no origin and takes the code.
        let page = client().get(text(&session, "transit_url")).send().await.unwrap();
        let page = page.text().await.unwrap();
        assert!(page.contains("name=\"user_code\"") && !page.contains("null"), "{page}");
    }
    let elsewhere = Process::demo(&[]);
    let answer = create(&elsewhere, Some("null"), json!({"bind": true})).await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

//! The device authorization grant (RFC 8628): the codes, the page, the token by poll or by stream,
//! and what guessing costs. Every count is printed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::StreamExt as _;
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};
use token_relay::{
    server::Server,
    session::{Identity, SessionId, SessionRef},
    settings::Settings,
    signin::{NotCompleted, Recipient},
    telemetry::Trace,
};

use crate::support::{
    Browser, Event, Events, Page, Process, client, create, form_action, hidden_inputs, redis, text,
};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const SECRET: &str = "a secret of the tests of 32 characters or more";

/// The least wait between two polls that these tests can bear.
pub(super) const FAST: (&str, &str) = ("TOKEN_RELAY_DEVICE_INTERVAL", "1s");

fn shared(redis_url: &str, more: &[(&str, &str)]) -> Process {
    let mut environment = vec![
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_TOKEN_ISSUER", "https://relay.example"),
        ("TOKEN_RELAY_TOKEN_AUDIENCE", "https://api.example"),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
        FAST,
    ];
    environment.extend(more);
    Process::demo(&environment)
}

/// With three clients: a command line, a backend with a secret, an add-in without this grant.
fn registered() -> Process {
    Process::demo(&[
        ("TOKEN_RELAY_CLIENTS__CLI__NAME", "Map tools"),
        ("TOKEN_RELAY_CLIENTS__CLI__GRANTS", "device"),
        ("TOKEN_RELAY_CLIENTS__CLI__SCOPE", "maps:read maps:write"),
        ("TOKEN_RELAY_CLIENTS__CLI__AUDIENCE", "https://maps.example"),
        ("TOKEN_RELAY_CLIENTS__BACKEND__GRANTS", "device"),
        ("TOKEN_RELAY_CLIENTS__BACKEND__SECRET", SECRET),
        ("TOKEN_RELAY_CLIENTS__BACKEND__AUDIENCE", "https://files.example"),
        ("TOKEN_RELAY_CLIENTS__ADDIN__ORIGINS", "https://addin.example"),
        ("TOKEN_RELAY_CLIENTS__ADDIN__AUDIENCE", "https://rooms.example"),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        FAST,
    ])
}

async fn post(base: &str, path: &str, form: &[(&str, &str)]) -> Response {
    client().post(format!("{base}{path}")).form(form).send().await.unwrap()
}

pub(super) async fn authorize(base: &str, form: &[(&str, &str)]) -> Value {
    let answer = post(base, "/addons/device_authorization", form).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    answer.json().await.unwrap()
}

/// Asks for the token; the status and the body.
pub(super) async fn redeem(base: &str, client_id: &str, device: &Value) -> (StatusCode, Value) {
    let code = text(device, "device_code");
    let form = [("grant_type", DEVICE), ("device_code", code), ("client_id", client_id)];
    let answer = post(base, "/addons/token", &form).await;
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    (answer.status(), answer.json().await.unwrap())
}

/// Its error, which has to be one.
async fn refused(base: &str, client_id: &str, device: &Value) -> String {
    let (status, body) = redeem(base, client_id, device).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    text(&body, "error").to_owned()
}

/// The person opens the page and types the code.
async fn type_code(browser: &Browser, base: &str, typed: &str) -> Page {
    let page = browser.open(&format!("{base}/addons/device")).await;
    assert_eq!(page.status, StatusCode::OK);
    submit_code(browser, &page, typed).await
}

async fn submit_code(browser: &Browser, page: &Page, typed: &str) -> Page {
    let mut fields = hidden_inputs(&page.body);
    fields.push(("user_code".to_owned(), typed.to_owned()));
    browser.submit(form_action(page).as_str(), &fields).await
}

/// The whole of the person's part, at a provider that logs in by itself.
pub(super) async fn approve(base: &str, device: &Value) -> Page {
    let browser = Browser::default();
    let page = type_code(&browser, base, text(device, "user_code")).await;
    browser.give_access(page).await
}

fn claims(token: &Value) -> Value {
    let payload = text(token, "access_token").split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_client_that_only_polls_signs_a_person_in() {
    let relay = Process::demo(&[FAST, ("TOKEN_RELAY_LOG", "info")]);
    let device = authorize(&relay.url, &[("client_id", "addons"), ("client_name", "curl")]).await;
    assert_eq!(text(&device, "verification_uri"), format!("{}/addons/device", relay.url));
    assert!(device.get("verification_uri_complete").is_none());
    assert_eq!((device["interval"].as_u64(), device["expires_in"].as_u64()), (Some(1), Some(900)));
    assert_eq!(refused(&relay.url, "addons", &device).await, "authorization_pending");

    let browser = Browser::default();
    let login = type_code(&browser, &relay.url, text(&device, "user_code")).await;
    assert!(login.body.contains("name=\"username\""), "{}", login.body);
    // Somebody chooses the account, whoever is logged in there.
    assert!(login.url.query().is_some_and(|query| query.contains("prompt=select_account")));
    let page = {
        let mut fields = hidden_inputs(&login.body);
        fields.extend(
            [("username", "alice"), ("password", "alice")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        browser.submit(form_action(&login).as_str(), &fields).await
    };
    // The page about the account: who asks, from where, as whom.
    assert!(page.body.contains("id=\"question\"") && page.body.contains("curl"), "{}", page.body);
    let last = browser.give_access(page).await;
    assert_eq!(last.url.path(), "/addons/success");

    tokio::time::sleep(Duration::from_secs(1)).await;
    let (status, token) = redeem(&relay.url, "addons", &device).await;
    assert_eq!(status, StatusCode::OK, "{token}");
    assert_eq!(claims(&token)["client_id"], "addons");
    let me = client().get(format!("{}/addons/me", relay.url));
    let me = me.bearer_auth(text(&token, "access_token")).send().await.unwrap();
    assert_eq!(me.json::<Value>().await.unwrap()["sub"], "alice");
    // A device code is of no more use.
    assert_eq!(refused(&relay.url, "addons", &device).await, "invalid_grant");
    let log = relay.log();
    for line in [
        "session created",
        "user code typed",
        "dialog entered",
        "sign-in completed",
        "token delivered",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
}

#[tokio::test]
async fn polling_too_fast_costs_five_seconds_each_time() {
    let relay = Process::demo(&[FAST]);
    let device = authorize(&relay.url, &[]).await;
    let poll = async || refused(&relay.url, "addons", &device).await;
    assert_eq!(poll().await, "authorization_pending");
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(poll().await, "authorization_pending");
    // Twice at once: 1 s becomes 6 s, which a poll after 2 s does not keep.
    assert_eq!(poll().await, "slow_down");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, body) = redeem(&relay.url, "addons", &device).await;
    assert_eq!(text(&body, "error"), "slow_down");
    assert!(text(&body, "error_description").contains("11 s"), "{body}");
    // A sign-in that is over is answered at once, however impatient the client.
    approve_with_login(&relay.url, &device).await;
    assert_eq!(redeem(&relay.url, "addons", &device).await.0, StatusCode::OK);
}

async fn approve_with_login(base: &str, device: &Value) {
    let browser = Browser::default();
    let login = type_code(&browser, base, text(device, "user_code")).await;
    assert_eq!(browser.log_in(&login, "alice", "alice").await.url.path(), "/addons/success");
}

#[tokio::test]
async fn a_held_request_is_answered_when_the_person_has_decided() {
    let relay = Process::demo(&[("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1")]);
    let device = authorize(&relay.url, &[]).await;
    let hold = async |seconds: u64| {
        let form = [
            ("grant_type", DEVICE),
            ("device_code", text(&device, "device_code")),
            ("client_id", "addons"),
        ];
        let request = client().post(format!("{}/addons/token", relay.url)).form(&form);
        request.header("prefer", format!("wait={seconds}")).send().await.unwrap()
    };
    let start = Instant::now();
    let answer = hold(1).await;
    assert_eq!(answer.headers()["preference-applied"], "wait=1");
    assert_eq!(answer.json::<Value>().await.unwrap()["error"], "authorization_pending");
    assert!(start.elapsed() >= Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let approved = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(approve(&relay.url, &device).await.url.path(), "/addons/success");
        Instant::now()
    };
    let (answer, approved) = tokio::join!(hold(15), approved);
    let late = approved.elapsed();
    assert_eq!(answer.status(), StatusCode::OK);
    println!("held request answered at most {late:?} after the person's last page");
    assert!(late < Duration::from_secs(1));
}

#[tokio::test]
async fn the_person_refuses_and_the_client_learns_it() {
    let relay = registered();
    let device = authorize(&relay.url, &[("client_id", "cli")]).await;
    let browser = Browser::default();
    let page = type_code(&browser, &relay.url, text(&device, "user_code")).await;
    assert!(page.body.contains("Map tools"), "{}", page.body);
    browser.decide(&page, "deny").await;
    assert_eq!(refused(&relay.url, "cli", &device).await, "access_denied");
    // Its code leads nowhere now.
    let again = type_code(&Browser::default(), &relay.url, text(&device, "user_code")).await;
    assert_eq!(again.status, StatusCode::GONE, "{}", again.body);
}

#[tokio::test]
async fn a_second_browser_with_the_code_ends_the_sign_in() {
    let relay = registered();
    let device = authorize(&relay.url, &[("client_id", "cli")]).await;
    let (first, second) = (Browser::default(), Browser::default());
    let account = type_code(&first, &relay.url, text(&device, "user_code")).await;
    assert!(account.body.contains("id=\"question\""));
    // The same browser may type it again.
    let again = type_code(&first, &relay.url, text(&device, "user_code")).await;
    assert!(again.body.contains("id=\"question\""), "{}", again.body);
    let page = type_code(&second, &relay.url, text(&device, "user_code")).await;
    assert_eq!(page.status, StatusCode::GONE, "{}", page.body);
    assert_eq!(refused(&relay.url, "cli", &device).await, "access_denied");
}

#[tokio::test]
async fn codes_expire_with_the_session() {
    let relay = Process::demo(&[("TOKEN_RELAY_SESSION_TTL", "10s"), FAST]);
    let device = authorize(&relay.url, &[]).await;
    tokio::time::sleep(Duration::from_millis(10_300)).await;
    assert_eq!(refused(&relay.url, "addons", &device).await, "expired_token");
    let page = type_code(&Browser::default(), &relay.url, text(&device, "user_code")).await;
    assert!(page.body.contains("id=\"wrong\""), "{}", page.body);
}

#[tokio::test]
async fn the_page_takes_a_code_as_people_type_it_in_every_language() {
    let relay = registered();
    let languages =
        [("en", "Type the code"), ("fr", "Saisissez"), ("de", "Code des"), ("nl", "Typ de")];
    for (language, title) in languages {
        let headers = header::HeaderMap::from_iter([(
            header::ACCEPT_LANGUAGE,
            header::HeaderValue::from_static(language),
        )]);
        let browser = Browser::sending(headers);
        let page = browser.open(&format!("{}/addons/device", relay.url)).await;
        assert!(page.body.contains(&format!("lang=\"{language}\"")), "{}", page.body);
        assert!(page.body.contains(title), "{language}: {}", page.body);
        // Works without a script, and has none of its own.
        assert!(page.body.contains("<form method=\"post\"") && page.body.contains("required"));
        for malformed in ["BCDF", "AEIO-UAEI", "BCDF-GHJKL", "\u{202e}BCDF-GHJK"] {
            let again = submit_code(&browser, &page, malformed).await;
            assert!(again.body.contains("id=\"wrong\""), "{malformed}: {}", again.body);
        }
        type Spelling = fn(&str) -> String;
        let spellings: [Spelling; 5] = [
            |code| code.to_owned(),
            |code| code.to_lowercase(),
            |code| code.replace('-', ""),
            |code| format!("  {}\t", code.replace('-', " ").to_lowercase()),
            |code| code.chars().map(|letter| format!("{letter} ")).collect(),
        ];
        for spell in spellings {
            let device = authorize(&relay.url, &[("client_id", "cli")]).await;
            let typed = spell(text(&device, "user_code"));
            let asked = submit_code(&browser, &page, &typed).await;
            assert!(asked.body.contains("id=\"question\""), "{typed:?}: {}", asked.body);
            assert_eq!(browser.give_access(asked).await.url.path(), "/addons/success");
            assert_eq!(redeem(&relay.url, "cli", &device).await.0, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn the_form_is_taken_from_our_page_in_the_same_browser_only() {
    let relay = registered();
    let device = authorize(&relay.url, &[("client_id", "cli")]).await;
    let code = text(&device, "user_code").to_owned();
    let url = format!("{}/addons/device", relay.url);
    let browser = Browser::default();
    let page = browser.open(&url).await;
    let mut fields = hidden_inputs(&page.body);
    fields.push(("user_code".to_owned(), code.clone()));
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1:1")] {
        let answer = browser.post_from(origin, &url, &fields).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{origin:?}");
    }
    // Another browser's CSRF token, one of another page, none.
    let other = Browser::default();
    other.open(&url).await;
    let answer = other.post_from(Some(&relay.url), &url, &fields).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    for csrf in ["", "x", text(&device, "device_code")] {
        let forged = [("csrf".to_owned(), csrf.to_owned()), ("user_code".to_owned(), code.clone())];
        let answer = browser.post_from(Some(&relay.url), &url, &forged).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{csrf:?}");
    }
    // A GET with the code in it does nothing but ask.
    for query in ["user_code", "code"] {
        let page = browser.open(&format!("{url}?{query}={code}")).await;
        assert!(!page.body.contains(&code), "{}", page.body);
    }
    assert_eq!(refused(&relay.url, "cli", &device).await, "authorization_pending");
}

#[tokio::test]
async fn codes_of_devices_and_of_sessions_are_two_kinds() {
    let relay = Process::demo(&[FAST]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let device = authorize(&relay.url, &[]).await;
    // A session's code at the page for devices.
    let page = type_code(&Browser::default(), &relay.url, text(&session, "user_code")).await;
    assert!(page.body.contains("id=\"wrong\""), "{}", page.body);
    // A device's code in the dialog of a session.
    let browser = Browser::default();
    let dialog = browser.open(text(&session, "transit_url")).await;
    let page = browser.type_code(&dialog, text(&device, "user_code")).await;
    assert!(page.body.contains("id=\"wrong\""), "{}", page.body);
    // Neither does a device have a dialog, nor a session a device code.
    let transit = format!("{}/addons/transit/", relay.url);
    for query in ["session_id", "transit_token"] {
        for value in [text(&device, "session_id"), text(&device, "device_code")] {
            let page = browser.open(&format!("{transit}?{query}={value}")).await;
            assert!(page.status.is_client_error(), "{query}: {}", page.status);
        }
    }
    for code in ["session_id", "session_token", "transit_token"] {
        let forged = json!({"device_code": text(&session, code)});
        assert_eq!(refused(&relay.url, "addons", &forged).await, "invalid_grant");
    }
    assert_eq!(refused(&relay.url, "addons", &device).await, "authorization_pending");
}

#[tokio::test]
async fn clients_use_this_grant_as_they_are_registered() {
    let relay = registered();
    let ask = async |form: &[(&str, &str)]| {
        let answer = post(&relay.url, "/addons/device_authorization", form).await;
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    for (form, status, error) in [
        (&[][..], 401, "invalid_client"),
        (&[("client_id", "addons")], 401, "invalid_client"),
        (&[("client_id", "addin")], 400, "unauthorized_client"),
        (&[("client_id", "backend")], 401, "invalid_client"),
        (&[("client_id", "backend"), ("client_secret", "guess")], 401, "invalid_client"),
        (&[("client_id", "cli"), ("client_secret", "none it has")], 401, "invalid_client"),
        (&[("client_id", "cli"), ("scope", "maps:read admin")], 400, "invalid_scope"),
    ] {
        let (got, body) = ask(form).await;
        assert_eq!((got.as_u16(), text(&body, "error")), (status, error), "{form:?}: {body}");
    }
    let elsewhere = client()
        .post(format!("{}/addons/device_authorization", relay.url))
        .header(header::ORIGIN, "https://evil.example")
        .form(&[("client_id", "cli")]);
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    // A confidential client proves itself in either way, and its code is nobody else's.
    let backend = [("client_id", "backend"), ("client_secret", SECRET)];
    let by_form = authorize(&relay.url, &backend).await;
    let by_basic = client()
        .post(format!("{}/addons/device_authorization", relay.url))
        .basic_auth("backend", Some(SECRET))
        .form(&[("scope", "addons")]);
    let by_basic: Value = by_basic.send().await.unwrap().json().await.unwrap();
    assert_eq!(refused(&relay.url, "cli", &by_form).await, "invalid_grant");
    let (status, body) = redeem(&relay.url, "backend", &by_basic).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (401, "invalid_client"));
    approve(&relay.url, &by_basic).await;
    let form = [("grant_type", DEVICE), ("device_code", text(&by_basic, "device_code"))];
    let request = client().post(format!("{}/addons/token", relay.url)).form(&form);
    let token = request.basic_auth("backend", Some(SECRET)).send().await.unwrap();
    assert_eq!(token.status(), StatusCode::OK);

    // A narrower scope stays narrow, and the refresh token is this client's alone.
    let device = authorize(&relay.url, &[("client_id", "cli"), ("scope", "maps:read")]).await;
    approve(&relay.url, &device).await;
    let (_, token) = redeem(&relay.url, "cli", &device).await;
    assert_eq!(text(&claims(&token), "aud"), "https://maps.example");
    assert_eq!(text(&token, "scope"), "maps:read");
    let refresh = async |client_id: &str, token: &str| {
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client_id)];
        let answer = post(&relay.url, "/addons/token", &form).await;
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let first = text(&token, "refresh_token");
    let (status, body) = refresh("addin", first).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (400, "invalid_grant"));
    let (status, second) = refresh("cli", first).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    assert_eq!(text(&claims(&second), "scope"), "maps:read");
    assert_ne!(first, text(&second, "refresh_token"));
    // It rotates: the old one used again ends the grant.
    assert_eq!(refresh("cli", first).await.1["error"], "invalid_grant");
    assert_eq!(refresh("cli", text(&second, "refresh_token")).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn a_client_of_the_stream_has_the_token_at_once_and_acknowledges_it() {
    let relay = registered();
    let device = authorize(&relay.url, &[("client_id", "cli")]).await;
    let token = text(&device, "session_token");
    let mut events = Events::open(text(&device, "events_url"), Some(token)).await;
    events.until("retry: ").await;
    assert_eq!(refused(&relay.url, "cli", &device).await, "authorization_pending");
    approve(&relay.url, &device).await;
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "authenticated");
    // Delivered once: what else polls gets nothing.
    assert_eq!(refused(&relay.url, "cli", &device).await, "invalid_grant");
    let end = client().delete(text(&device, "poll_url")).bearer_auth(token);
    assert_eq!(end.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(refused(&relay.url, "cli", &device).await, "invalid_grant");
}

#[tokio::test]
async fn cancelling_reaches_the_poller() {
    let relay = registered();
    let device = authorize(&relay.url, &[("client_id", "cli")]).await;
    let end = client().delete(text(&device, "poll_url"));
    end.bearer_auth(text(&device, "session_token")).send().await.unwrap();
    assert_eq!(refused(&relay.url, "cli", &device).await, "access_denied");
}

/// A relay in this process, so that a test can fulfil at an exact moment.
async fn server(more: &[(&str, &str)]) -> Server {
    let settings = [
        ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
        // Never asked: these tests end the login themselves.
        ("TOKEN_RELAY_OIDC_ISSUER", "http://127.0.0.1:9"),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "tests"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        FAST,
    ];
    let settings = settings.iter().chain(more);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let server = Server::start(Settings::load(settings, None).unwrap()).await.unwrap();
    redis::eventually("it is ready", || async { server.app().relay.store().check().await.is_ok() })
        .await;
    server
}

fn is_token(event: Option<Event>) -> bool {
    event.is_some_and(|event| event.name == "authenticated")
}

/// Who got the token of one sign-in: 1 the stream, 10 the poll.
async fn race(servers: &[Server], number: usize) -> usize {
    let at = |place: usize| &servers[(number + place) % servers.len()];
    let base = |place: usize| format!("http://{}", at(place).address());
    // A store that is unavailable for a moment, as a cluster's node can be, is asked again.
    let device: Value = loop {
        let answer = post(&base(0), "/addons/device_authorization", &[]).await;
        match answer.status() {
            StatusCode::SERVICE_UNAVAILABLE => tokio::time::sleep(Duration::from_millis(50)).await,
            status => {
                assert_eq!(status, StatusCode::OK);
                break answer.json().await.unwrap();
            }
        }
    };
    let (events, path) = (base(1), text(&device, "events_url").splitn(4, '/').nth(3).unwrap());
    let (url, session_token) = (format!("{events}/{path}"), text(&device, "session_token"));
    // Every other stream is there before the token, the others come at the same moment.
    let early = match number.is_multiple_of(2) {
        true => loop {
            let answer = Events::request(&url, Some(session_token), None).await;
            if answer.status() == StatusCode::OK {
                break Some(Events::from_response(answer));
            }
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        },
        false => None,
    };
    let stream = async {
        if let Some(mut events) = early {
            return is_token(events.next().await);
        }
        loop {
            let answer = Events::request(&url, Some(session_token), None).await;
            match answer.status() {
                StatusCode::OK => return is_token(Events::from_response(answer).next().await),
                // The poll was faster.
                StatusCode::NO_CONTENT | StatusCode::GONE => return false,
                status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            }
        }
    };
    // What is polled too early is answered too, once there is a token.
    let poller = async {
        loop {
            match redeem(&base(0), "addons", &device).await {
                (StatusCode::OK, _) => return true,
                (_, body) => match text(&body, "error") {
                    "authorization_pending" | "slow_down" | "temporarily_unavailable" => {}
                    "invalid_grant" => return false,
                    other => panic!("{other}"),
                },
            }
        }
    };
    let fulfil = async {
        let session = SessionId::parse(text(&device, "session_id")).unwrap();
        let identity = Identity::new("alice", serde_json::Map::new());
        let (sign_in, session) =
            (at(2).app().sign_in(&Trace::none()), SessionRef::native(session.key()));
        while let Err(error) =
            sign_in.complete(session, Recipient::default(), &identity, None).await
        {
            match error {
                NotCompleted::Store(_) => {}
                NotCompleted::Already => break,
                other => panic!("{other}"),
            }
        }
    };
    let (streamed, polled, ()) = tokio::join!(stream, poller, fulfil);
    usize::from(streamed) + usize::from(polled) * 10
}

async fn races(servers: Vec<Server>, sign_ins: usize, store: &str) {
    let servers = Arc::new(servers);
    let counts: BTreeMap<usize, usize> = futures_util::stream::iter(0..sign_ins)
        .map(|number| {
            let servers = Arc::clone(&servers);
            tokio::spawn(async move { race(&servers, number).await })
        })
        .buffer_unordered(16)
        .fold(BTreeMap::new(), |mut counts, got| {
            *counts.entry(got.unwrap()).or_default() += 1;
            std::future::ready(counts)
        })
        .await;
    let [streamed, polled] = [1, 10].map(|who| counts.get(&who).copied().unwrap_or_default());
    println!(
        "{store}: {sign_ins} device sign-ins, a poll against a stream: {streamed} tokens by stream, \
         {polled} by poll"
    );
    assert_eq!(streamed + polled, sign_ins, "twice or never: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_poll_and_a_stream_exactly_one_gets_the_token_in_memory() {
    races(vec![server(&[]).await], 1_000, "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_poll_and_a_stream_exactly_one_gets_the_token_over_redis() {
    let redis = redis::Server::start(&[]).await;
    let url = redis.url();
    let shared = [("TOKEN_RELAY_REDIS_URL", url.as_str())];
    races(vec![server(&shared).await, server(&shared).await], 1_000, "Redis, two instances").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_poll_and_a_stream_exactly_one_gets_the_token_over_a_cluster() {
    let cluster = redis::Cluster::start().await;
    let url = cluster.url();
    let shared = [("TOKEN_RELAY_REDIS_URL", url.as_str())];
    let servers = vec![server(&shared).await, server(&shared).await];
    races(servers, 300, "Redis Cluster, two instances").await;
}

/// Calls of the store by operation, as the metrics count them.
async fn store_calls(relay: &Process) -> BTreeMap<String, u64> {
    let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let calls = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("token_relay_store_call_seconds_count{operation=\"")?;
        let (operation, count) = rest.split_once("\"} ")?;
        Some((operation.to_owned(), count.parse().ok()?))
    });
    calls.filter(|(operation, count)| operation != "ping" && *count > 0).collect()
}

#[tokio::test]
async fn what_a_login_costs_the_store() {
    let server = redis::Server::start(&[]).await;
    let relay = shared(&server.url(), &[]);
    let mut before = store_calls(&relay).await;
    let mut report = async |name: &str| {
        let after = store_calls(&relay).await;
        let spent: BTreeMap<_, _> = after
            .iter()
            .map(|(operation, count)| {
                (operation.clone(), count - before.get(operation).unwrap_or(&0))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        let sum: u64 = spent.values().sum();
        println!("a device sign-in with {name}: {sum} store commands {spent:?}");
        before = after;
        sum
    };

    let by_one_poll = async || {
        let device = authorize(&relay.url, &[]).await;
        approve(&relay.url, &device).await;
        assert_eq!(redeem(&relay.url, "addons", &device).await.0, StatusCode::OK);
    };
    by_one_poll().await;
    // Until an address has typed a right code, its attempts are counted over all instances: its own
    // count and that of all, and both are taken back.
    let first = report("one poll, from an address that is not known").await;
    by_one_poll().await;
    let by_poll = report("one poll at its end").await;
    assert_eq!(first, by_poll + 4);

    let device = authorize(&relay.url, &[]).await;
    for _ in 0..3 {
        redeem(&relay.url, "addons", &device).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    approve(&relay.url, &device).await;
    redeem(&relay.url, "addons", &device).await;
    let by_polls = report("a poller that asks four times").await;
    // One more for each poll, and nothing else.
    assert_eq!(by_polls, by_poll + 3);

    let stream = async |device: Value| {
        let token = text(&device, "session_token");
        let mut events = Events::open(text(&device, "events_url"), Some(token)).await;
        events.until("retry: ").await;
        approve(&relay.url, &device).await;
        assert_eq!(events.next().await.unwrap().name, "authenticated");
        client().delete(text(&device, "poll_url")).bearer_auth(token).send().await.unwrap();
    };
    stream(authorize(&relay.url, &[]).await).await;
    let by_stream = report("one stream, acknowledged").await;
    assert!(by_stream <= by_poll + 3, "{by_stream}");

    let device = authorize(&relay.url, &[]).await;
    redeem(&relay.url, "addons", &device).await;
    stream(device.clone()).await;
    assert_eq!(refused(&relay.url, "addons", &device).await, "invalid_grant");
    let by_both = report("a stream, and two polls beside it").await;
    assert_eq!(by_both, by_stream + 2);
}

/// A guess that is a code, and surely nobody's: of the 10 000 pending none is drawn twice.
fn guess(number: usize) -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut rest = number;
    let letters: Vec<u8> = (0..8)
        .map(|_| {
            let letter = LETTERS[rest % 20];
            rest /= 20;
            letter
        })
        .collect();
    let text = String::from_utf8(letters).unwrap();
    format!("{}-{}", &text[..4], &text[4..])
}

/// Guesses from `addresses` in turn until every one is refused; the tries that were looked at.
async fn guesses(relays: &[Process], addresses: usize) -> usize {
    let mut browsers = Vec::new();
    for number in 0..addresses {
        let address = format!("198.51.{}.{}", 100 + number / 250, number % 250);
        let headers = header::HeaderMap::from_iter([(
            "x-forwarded-for".parse().unwrap(),
            address.parse().unwrap(),
        )]);
        let browser = Browser::sending(headers);
        let page =
            browser.open(&format!("{}/addons/device", relays[number % relays.len()].url)).await;
        browsers.push((browser, page));
    }
    let (mut tries, mut round) = (0, 0);
    while !browsers.is_empty() {
        let mut left = Vec::new();
        for (browser, page) in browsers {
            let answer = submit_code(&browser, &page, &guess(31 * tries + round)).await;
            match answer.status {
                StatusCode::OK => {
                    assert!(answer.body.contains("id=\"wrong\""), "a guess was right");
                    tries += 1;
                    left.push((browser, page));
                }
                StatusCode::TOO_MANY_REQUESTS => {}
                status => panic!("{status}: {}", answer.body),
            }
        }
        browsers = left;
        round += 1;
        assert!(round < 500, "nobody is locked out");
    }
    tries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_user_codes_is_locked_out_over_all_instances() {
    const PENDING: usize = 10_000;
    let server = redis::Server::start(&[]).await;
    let trusting = [("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1/32")];
    let instances = || [shared(&server.url(), &trusting), shared(&server.url(), &trusting)];
    let mut relays = instances();
    let codes: std::collections::HashSet<String> = futures_util::stream::iter(0..PENDING)
        .map(|number| {
            let base = relays[number % 2].url.clone();
            async move { text(&authorize(&base, &[]).await, "user_code").to_owned() }
        })
        .buffer_unordered(32)
        .collect()
        .await;
    assert_eq!(codes.len(), PENDING, "two pending codes are the same");
    for addresses in [1, 100] {
        let tries = guesses(&relays, addresses).await;
        println!(
            "guessing at /addons/device, {PENDING} codes pending, two instances, {addresses} \
             address(es): {tries} tries until locked out"
        );
        assert!(tries <= if addresses == 1 { 31 } else { 121 }, "{tries}");
        // What follows begins without what was counted: as if a minute had passed.
        relays = instances();
        let hand = server.client().await;
        let names = redis::command(&hand, &["KEYS", "*:count:*"]).await;
        for name in names.into_array() {
            redis::command(&hand, &["DEL", &name.into_string().unwrap()]).await;
        }
    }
}

#[tokio::test]
async fn metadata_say_what_there_is() {
    let relay = registered();
    let get = async |path: &str| {
        let answer = client().get(format!("{}{path}", relay.url)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        answer.json::<Value>().await.unwrap()
    };
    let server = get("/.well-known/oauth-authorization-server").await;
    let url = |path: &str| format!("{}{path}", relay.url);
    assert_eq!(server["issuer"], relay.url);
    assert_eq!(server["device_authorization_endpoint"], url("/addons/device_authorization"));
    assert_eq!(server["token_endpoint"], url("/addons/token"));
    assert_eq!(server["introspection_endpoint"], url("/addons/introspect"));
    assert_eq!(server["revocation_endpoint"], url("/addons/revoke"));
    assert_eq!(server["grant_types_supported"], json!(["refresh_token", DEVICE]));
    assert_eq!(
        server["token_endpoint_auth_methods_supported"],
        json!(["none", "client_secret_basic", "client_secret_post"])
    );
    assert_eq!(server["ui_locales_supported"], json!(["de", "en", "fr", "nl"]));
    assert_eq!(server["protected_resources"], json!([url("/addons/me")]));
    let resource = get("/.well-known/oauth-protected-resource/addons/me").await;
    assert_eq!(resource["resource"], url("/addons/me"));
    assert_eq!(resource["authorization_servers"], json!([server["issuer"]]));
    assert_eq!(resource["bearer_methods_supported"], json!(["header"]));

    let metadata = url("/.well-known/oauth-protected-resource/addons/me");
    for token in [None, Some("x")] {
        let mut request = client().get(url("/addons/me"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        assert!(challenge.contains(&format!("resource_metadata=\"{metadata}\"")), "{challenge}");
        assert_eq!(challenge.contains("error=\"invalid_token\""), token.is_some());
    }
}

#[tokio::test]
async fn without_a_client_that_may_use_it_the_grant_is_not_offered() {
    let relay = Process::demo(&[("TOKEN_RELAY_ALLOWED_ORIGINS", "https://addin.example")]);
    let answer = client()
        .get(format!("{}/.well-known/oauth-authorization-server", relay.url))
        .send()
        .await
        .unwrap();
    let server: Value = answer.json().await.unwrap();
    assert!(server.get("device_authorization_endpoint").is_none(), "{server}");
    assert_eq!(server["grant_types_supported"], json!([]));
    let answer = post(&relay.url, "/addons/device_authorization", &[("client_id", "addons")]).await;
    let body: Value = answer.json().await.unwrap();
    assert_eq!(text(&body, "error"), "unauthorized_client");
    assert!(text(&body, "error_description").contains("PROOFS"), "{body}");
}

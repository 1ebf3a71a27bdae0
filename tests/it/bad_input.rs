//! Bad input at every call: the right status, one shape, nothing secret, no panic.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::support::{Browser, Events, Process, client, create, text, wire::Wire};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Checks that an answer is a problem of RFC 9457 and gives its `type`.
async fn problem(response: Response, status: StatusCode) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status.as_u16());
    assert!(!text(&body, "title").is_empty());
    text(&body, "type").rsplit(':').next().unwrap().to_owned()
}

async fn send(method: Method, url: String, body: Option<(&str, Vec<u8>)>) -> Response {
    let mut request = client().request(method, url);
    if let Some((content_type, body)) = body {
        request = request.header(header::CONTENT_TYPE, content_type).body(body);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn creation_refuses_what_it_does_not_understand() {
    let relay = Process::demo(&[("TOKEN_RELAY_MAX_BODY", "1000")]);
    let url = || format!("{}/addons/sessions", relay.url);
    let json = "application/json";
    let long_name = format!(r#"{{"client_name":"{}"}}"#, "x".repeat(65));
    for (content_type, body, status) in [
        ("text/plain", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (json, "{", StatusCode::BAD_REQUEST),
        (json, "[]", StatusCode::BAD_REQUEST),
        (json, r#"{"bind":"yes"}"#, StatusCode::BAD_REQUEST),
        (json, r#"{"unknown":1}"#, StatusCode::BAD_REQUEST),
        (json, r#"{"confirm":true}"#, StatusCode::BAD_REQUEST),
        (json, r#"{"client_name":""}"#, StatusCode::BAD_REQUEST),
        (json, r#"{"client_name":"a\nb"}"#, StatusCode::BAD_REQUEST),
        (json, long_name.as_str(), StatusCode::BAD_REQUEST),
        (json, "\u{feff}", StatusCode::BAD_REQUEST),
    ] {
        let body = Some((content_type, body.as_bytes().to_vec()));
        problem(send(Method::POST, url(), body).await, status).await;
    }
    let large = Some((json, vec![b' '; 1001]));
    problem(send(Method::POST, url(), large).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    let with_mark = Some((json, b"\xef\xbb\xbf{\"bind\":true}".to_vec()));
    assert_eq!(send(Method::POST, url(), with_mark).await.status(), StatusCode::CREATED);
    let elsewhere = send(Method::GET, format!("{}/nowhere", relay.url), None).await;
    problem(elsewhere, StatusCode::NOT_FOUND).await;
}

/// A relay that serves every endpoint, and its OpenAPI document.
async fn with_everything(more: &[(&str, &str)]) -> (Process, Value) {
    let secret = "a secret of the tests of 32 characters or more";
    let mut settings = vec![
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1/"),
        ("TOKEN_RELAY_ADDONS_CSRF_SECRET", secret),
        ("TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY", secret),
    ];
    settings.extend(more);
    let relay = Process::demo(&settings);
    let document = client().get(format!("{}/openapi.json", relay.url)).send().await.unwrap();
    let document: Value = document.json().await.unwrap();
    (relay, document)
}

/// Every answer 405 of a relay, with `Allow`.
#[tokio::test]
async fn a_refused_method_is_answered_with_those_that_are_allowed() {
    let (relay, document) = with_everything(&[]).await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 25, "{}", paths.len());
    let id = "A".repeat(43);
    // GETs that hand something out or use something up: HEAD must not.
    let without_head = |path: &str| {
        ["{session_id}", "/transit", "/callback", "/redirect", "/authenticate", "/events/", "/ws/"]
            .iter()
            .any(|part| path.contains(part))
    };
    for (path, item) in paths {
        let declared = item.as_object().unwrap();
        let url = format!("{}{}", relay.url, path.replace("{session_id}", &id));
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD] {
            let name = method.as_str().to_ascii_lowercase();
            let answers_head = declared.contains_key("get") && !without_head(path);
            if declared.contains_key(&name) || (method == Method::HEAD && answers_head) {
                continue;
            }
            let answer = send(method.clone(), url.clone(), None).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let allow = answer.headers()[header::ALLOW].to_str().unwrap().to_owned();
            let allowed: Vec<_> = allow.split(", ").collect();
            for name in declared.keys() {
                assert!(allowed.contains(&name.to_uppercase().as_str()), "{path}: {allow}");
            }
            assert_eq!(allowed.contains(&"HEAD"), answers_head, "{path}: {allow}");
            assert!(!allowed.contains(&method.as_str()), "{path}: {allow}");
            if method == Method::HEAD {
                continue;
            }
            if path.starts_with("/api/") {
                let body: Value = answer.json().await.unwrap();
                let detail = format!("Method \"{method}\" not allowed.");
                assert_eq!(body, json!({"detail": detail}), "{path}");
            } else if [
                "/device_authorization",
                "/token",
                "/introspect",
                "/revoke",
                "/backchannel_logout",
            ]
            .iter()
            .any(|end| path.ends_with(end))
            {
                let body: Value = answer.json().await.unwrap();
                assert_eq!(text(&body, "error"), "invalid_request");
            } else {
                problem(answer, StatusCode::METHOD_NOT_ALLOWED).await;
            }
        }
    }
    let poll = format!("{}/api/v1.0/addons/sessions/poll/", relay.url);
    let answer = send(Method::GET, poll, None).await;
    assert_eq!(answer.headers()[header::ALLOW], "POST, OPTIONS");
    let file = format!("{}/addons/static/icon.svg", relay.url);
    let answer = send(Method::POST, file, None).await;
    assert!(answer.headers()[header::ALLOW].to_str().unwrap().contains("GET"));
    problem(answer, StatusCode::METHOD_NOT_ALLOWED).await;
}

/// Every status that malformed, refused and oversized requests are answered with is in the OpenAPI
/// document, on every operation.
#[tokio::test]
async fn the_description_has_every_status_that_is_answered() {
    let (relay, document) = with_everything(&[("TOKEN_RELAY_MAX_BODY", "1000")]).await;
    let address = relay.url.strip_prefix("http://").unwrap();
    let fields = "X: y\r\n".repeat(101);
    let large = format!(
        "Content-Type: application/json\r\nContent-Length: 1001\r\n\r\n{}",
        "x".repeat(1001)
    );
    let requests = [
        "\r\n".to_owned(),
        "Host: a\r\nHost: b\r\n\r\n".to_owned(),
        "Host: a\r\nno colon\r\n\r\n".to_owned(),
        format!("Host: a\r\n{fields}\r\n"),
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
        "Host: a\r\nContent-Length: x\r\n\r\n".to_owned(),
        format!("Host: a\r\n{large}"),
        format!("Host: a\r\n{}", large.replace("json", "x-www-form-urlencoded")),
        "Host: a\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        "Host: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{".to_owned(),
        "Host: a\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "Host: a\r\nAuthorization: Bearer wrong\r\n\r\n".to_owned(),
        "Host: a\r\nAuthorization: Basic wrong\r\n\r\n".to_owned(),
        "Host: a\r\nOrigin: https://evil.example\r\n\r\n".to_owned(),
        "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n".to_owned(),
    ];
    let mut answered = BTreeMap::<u16, u32>::new();
    let mut missing = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let described = operation["responses"].as_object().unwrap();
            let line = format!(
                "{} {} HTTP/1.1",
                method.to_uppercase(),
                path.replace("{session_id}", "abcdefghijklmnop")
            );
            for request in &requests {
                let mut wire = Wire::over(TcpStream::connect(address).await.unwrap());
                // It may be refused before all of it is sent.
                let _ = wire.send(format!("{line}\r\n{request}").as_bytes()).await;
                let status = wire.head().await.expect("an answer").status;
                *answered.entry(status).or_default() += 1;
                if !described.contains_key(&status.to_string()) {
                    missing.insert(format!("{line}: {status}"));
                }
            }
        }
    }
    println!("{answered:?}");
    assert!(missing.is_empty(), "{missing:#?}");
    for status in [400, 401, 404, 413, 415, 426, 431, 501] {
        assert!(answered.contains_key(&status), "{status} in {answered:?}");
    }
}

#[tokio::test]
async fn unknown_parameters_are_ignored_and_known_ones_stand_once() {
    let relay =
        Process::demo(&[("TOKEN_RELAY_INTROSPECTION_CLIENTS", "api:a secret of the tests")]);
    let session = create(&relay.url, None).await;
    let poll = |query: &str| format!("{}?{query}", text(&session, "poll_url"));
    for query in ["_=1700000000", "wait=0&_=1700000000&_=2", "utm_source=x&wait=0"] {
        let answer = send(Method::GET, poll(query), None).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{query}");
    }
    let twice = send(Method::GET, poll("wait=0&wait=0"), None).await;
    problem(twice, StatusCode::BAD_REQUEST).await;
    let introspect = async |form: &str| {
        client()
            .post(format!("{}/addons/introspect", relay.url))
            .basic_auth("api", Some("a secret of the tests"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
            .body(form.to_owned())
            .send()
            .await
            .unwrap()
    };
    assert_eq!(introspect("token=x&token_type_hint=y&_=1").await.status(), StatusCode::OK);
    for form in ["token=x&token=y", "token=", ""] {
        let answer = introspect(form).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{form}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(text(&body, "error"), "invalid_request");
    }
}

#[tokio::test]
async fn unknown_malformed_and_overlong_ids_are_not_found() {
    let relay = Process::demo(&[]);
    let unknown = "A".repeat(43);
    let long = "A".repeat(600);
    for id in [unknown.as_str(), "short", "%00", "..%2f..", "%F0%9F%98%80", "a+b", &long] {
        let base = format!("{}/addons/sessions/{id}", relay.url);
        for path in ["", "?wait=1", "/events"] {
            let answer = send(Method::GET, format!("{base}{path}"), None).await;
            assert_eq!(
                problem(answer, StatusCode::NOT_FOUND).await,
                "session-not-found",
                "{id}{path}"
            );
        }
        let answer = send(Method::DELETE, base, None).await;
        problem(answer, StatusCode::NOT_FOUND).await;
        for name in ["session_id", "transit_token"] {
            let url = format!("{}/addons/transit/?{name}={id}", relay.url);
            let page = Browser::default().open(&url).await;
            assert!(page.status.is_client_error(), "{id} {}", page.status);
            assert!(page.body.starts_with("<!") && !page.body.contains(id), "{}", page.body);
        }
    }
    for query in ["", "?", "?session_id=a&transit_token=b", "?session_id=a&session_id=b"] {
        let page = Browser::default().open(&format!("{}/addons/transit/{query}", relay.url)).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn a_bound_session_opens_to_its_token_only() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let other = create(&relay.url, Some(json!({"bind": true}))).await;
    let poll = text(&session, "poll_url").to_owned();
    for token in [
        None,
        Some("guess".to_owned()),
        Some("A".repeat(43)),
        Some(text(&other, "session_token").to_owned()),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let mut request = client().request(method, &poll);
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            assert!(
                answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer")
            );
            problem(answer, StatusCode::UNAUTHORIZED).await;
        }
        let answer = Events::request(text(&session, "events_url"), token.as_deref(), None).await;
        problem(answer, StatusCode::UNAUTHORIZED).await;
    }
    // The session ID of a bound session does not enter either.
    let url = format!("{}/addons/transit/?session_id={}", relay.url, text(&session, "session_id"));
    assert_eq!(Browser::default().open(&url).await.status, StatusCode::NOT_FOUND);
    // And nothing of this has hurt the session.
    let right = client().get(&poll).bearer_auth(text(&session, "session_token")).send();
    assert_eq!(right.await.unwrap().status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_readers_cookie_reads_for_allowed_pages_only() {
    let relay = Process::demo(&[("TOKEN_RELAY_ALLOWED_ORIGINS", "https://addin.example")]);
    let url = format!("{}/addons/sessions", relay.url);
    let created = client().post(url).json(&json!({"bind": true})).send().await.unwrap();
    let cookie = created.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("Path=/"), "{cookie}");
    let session: Value = created.json().await.unwrap();
    let pair = cookie.split(';').next().unwrap();
    for (origin, status) in [
        (None, StatusCode::ACCEPTED),
        (Some("https://addin.example"), StatusCode::ACCEPTED),
        (Some("https://evil.example"), StatusCode::FORBIDDEN),
        (Some("null"), StatusCode::FORBIDDEN),
    ] {
        let mut request = client().get(text(&session, "poll_url")).header(header::COOKIE, pair);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned();
        assert_eq!(answer.status(), status, "{origin:?}");
        assert_eq!(allowed.is_some(), origin == Some("https://addin.example"));
    }
}

#[tokio::test]
async fn a_link_checker_uses_nothing_up() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    for url in
        [text(&session, "transit_url"), text(&session, "poll_url"), text(&session, "events_url")]
    {
        let answer = client().head(url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{url}");
    }
    let page = Browser::default().sign_in(&session, "alice").await;
    assert_eq!(page.url.path(), "/addons/success");
}

#[tokio::test]
async fn preflight_requests_are_answered_for_allowed_origins() {
    let relay = Process::demo(&[("TOKEN_RELAY_ALLOWED_ORIGINS", "https://addin.example")]);
    // Event source polyfills send some of them, tracing libraries the others.
    let wanted = [
        "authorization",
        "baggage",
        "cache-control",
        "content-type",
        "last-event-id",
        "sentry-trace",
        "traceparent",
        "tracestate",
        "x-requested-with",
    ];
    for (origin, allowed) in [("https://addin.example", true), ("https://evil.example", false)] {
        let answer = client()
            .request(Method::OPTIONS, format!("{}/addons/sessions", relay.url))
            .header(header::ORIGIN, origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", wanted.join(","))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), allowed);
        if allowed {
            let headers = answer.headers()["access-control-allow-headers"].to_str().unwrap();
            let headers: Vec<_> = headers.split(',').map(str::trim).collect();
            assert!(wanted.iter().all(|name| headers.contains(name)), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn waits_and_upgrades_are_checked() {
    let relay = Process::demo(&[]);
    let session = create(&relay.url, None).await;
    for wait in ["61", "-1", "x", "1e3", ""] {
        let url = format!("{}?wait={wait}", text(&session, "poll_url"));
        problem(send(Method::GET, url, None).await, StatusCode::BAD_REQUEST).await;
    }
    let socket = format!("{}/ws", text(&session, "poll_url"));
    problem(send(Method::GET, socket.clone(), None).await, StatusCode::BAD_REQUEST).await;
    let no_protocol = client()
        .get(&socket)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send();
    problem(no_protocol.await.unwrap(), StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn access_tokens_are_checked_as_rfc_6750_says() {
    let relay = Process::demo(&[]);
    for path in ["/addons/me", "/addons/verify"] {
        let url = format!("{}{path}", relay.url);
        let missing = client().get(&url).send().await.unwrap();
        // Without credentials there is no error to name; the relay's own resource has metadata.
        let mut expected = "Bearer realm=\"addons\"".to_owned();
        if path == "/addons/me" {
            let metadata = format!("{}/.well-known/oauth-protected-resource{path}", relay.url);
            expected.push_str(&format!(", resource_metadata=\"{metadata}\""));
        }
        assert_eq!(missing.headers()[header::WWW_AUTHENTICATE], expected);
        problem(missing, StatusCode::UNAUTHORIZED).await;
        for token in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            let wrong = client().get(&url).bearer_auth(token).send().await.unwrap();
            let challenge = wrong.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned();
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
            problem(wrong, StatusCode::UNAUTHORIZED).await;
        }
    }
}

#[tokio::test]
async fn limits_answer_clearly() {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "3"),
        ("TOKEN_RELAY_MAX_STREAMS_PER_SESSION", "1"),
        ("TOKEN_RELAY_MAX_STREAMS", "2"),
    ]);
    let url = format!("{}/addons/sessions", relay.url);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(create(&relay.url, None).await);
    }
    let refused = client().post(&url).header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
    let after: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after));
    assert_eq!(problem(refused, StatusCode::TOO_MANY_REQUESTS).await, "too-many-sessions");

    let events = |index: usize| text(&sessions[index], "events_url").to_owned();
    // A newer stream of a session takes the place of its oldest.
    let mut first = Events::open(&events(0), None).await;
    first.until("retry").await;
    let _second = Events::open(&events(0), None).await;
    assert_eq!(text(&first.next().await.unwrap().data, "error"), "superseded");
    let _other = Events::open(&events(1), None).await;
    let third = Events::request(&events(2), None, None).await;
    assert!(third.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(problem(third, StatusCode::SERVICE_UNAVAILABLE).await, "instance-full");
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_odd_bytes_answered() {
    let relay = Process::demo(&[("TOKEN_RELAY_HEADER_TIMEOUT", "500ms")]);
    let address = relay.url.strip_prefix("http://").unwrap().to_owned();
    for start in ["", "GET /addons/sessions/x/events HTTP/1.1\r\nHost:", "POST /addons/sessions HT"]
    {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer));
        end.await.expect("the connection is closed").unwrap();
    }
    let raw = async |request: String| {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let path = format!("/addons/sessions/{}/events", "A".repeat(43));
    let answer = raw(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    let answer = raw(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    let answer = raw(format!("GET {path} HTTP/1.1\r\nHo st: a\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer =
        raw(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000))).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Two requests in one packet: both are answered, in order.
    let two = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(two).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_whole_sign_in_leaves_no_secret_in_the_log() {
    let relay = Process::demo(&[("TOKEN_RELAY_LOG", "trace")]);
    let mut secrets = Vec::new();
    for body in [None, Some(json!({"bind": true}))] {
        let session = create(&relay.url, body).await;
        let token = session.get("session_token").and_then(Value::as_str);
        let mut events = Events::open(text(&session, "events_url"), token).await;
        let browser = Browser::default();
        let login = browser.to_login(&session).await;
        let page = browser.log_in(&login, "alice", "alice").await;
        let event = events.next().await.unwrap();
        for name in ["session_id", "session_token", "transit_token"] {
            secrets.extend(session.get(name).and_then(Value::as_str).map(str::to_owned));
        }
        secrets.push(text(&event.data, "access_token").to_owned());
        let callback = page.trail.iter().find(|url| url.contains("/callback?")).unwrap();
        for (name, value) in reqwest::Url::parse(callback).unwrap().query_pairs() {
            if name == "code" || name == "state" {
                secrets.push(value.into_owned());
            }
        }
    }
    relay.logged("TRACE").await;
    relay.logged("token delivered").await;
    let log = relay.log();
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "a secret of {} characters in: {line:?}", secret.len());
    }
}

#[test]
fn the_documentation_lists_every_problem_type() {
    let documentation = include_str!("../../docs/protocol.md");
    for kind in token_relay::http::error::ProblemType::ALL {
        assert!(documentation.contains(&format!("`{}`", kind.slug())), "{}", kind.slug());
    }
}

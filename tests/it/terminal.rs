//! `token-relay login` and the Rust client: a terminal signs in through a real relay.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{Browser, Page, Process, client, form_action, hidden_inputs, redis, text};
use axum::{body::Body, extract::Request};
use http_body_util::BodyExt as _;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use token_relay::{
    api,
    session::{Digest, EncryptionKey},
    token::jwe,
};
use token_relay_client::{Client, ClientError, SignIn};

/// `token-relay login`, ended when dropped.
struct Login {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Login {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_token-relay"))
            .arg("login")
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// The first line of JSON.
    fn begun(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let begun: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        assert_eq!(text(&begun, "state"), "pending");
        begun
    }

    /// The next line for people that is indented: the address, then the code.
    fn shown(&mut self) -> String {
        let mut line = String::new();
        while !line.starts_with("  ") {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it says no more");
        }
        line.trim().to_owned()
    }

    /// Waits for its end; what it still wrote, and how it ended.
    fn end(mut self) -> (String, String, ExitStatus) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        (stdout, stderr, status)
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn decide(browser: &Browser, page: &Page, decision: &str) -> Page {
    let mut fields = hidden_inputs(&page.body);
    fields.push(("decision".to_owned(), decision.to_owned()));
    browser.submit(form_action(page).as_str(), &fields).await
}

/// What a program shows of a sign-in, for a browser.
fn shown(pending: &token_relay_client::PendingSignIn) -> Value {
    json!({"transit_url": pending.transit_url().as_str(), "user_code": pending.user_code()})
}

async fn who(relay: &str, access_token: &str) -> String {
    let me = client().get(format!("{relay}/addons/me")).bearer_auth(access_token);
    let claims: Value = me.send().await.unwrap().json().await.unwrap();
    text(&claims, "sub").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_compares_the_code_and_the_token_is_all_that_is_printed() {
    let relay = Process::demo(&[]);
    let mut login = Login::start(&[&relay.url, "--no-open", "--client-name", "My shell"]);
    let (url, code) = (login.shown(), login.shown());
    let browser = Browser::default();
    let page = browser.open(&url).await;
    // The page asks for the code, and so does not show it.
    assert!(!page.body.contains(&code) && page.body.contains("My shell"), "{}", page.body);
    let next = browser.type_code(&page, &code).await;
    assert_eq!(browser.log_in(&next, "alice", "alice").await.url.path(), "/addons/success");
    let (stdout, stderr, status) = login.end();
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    assert_eq!(who(&relay.url, stdout.trim()).await, "alice");
    assert!(stderr.contains("Signed in for 1h"), "{stderr}");
    assert!(!stderr.contains(stdout.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_lines_of_json_and_a_status() {
    let relay = Process::demo(&[]);
    let mut login = Login::start(&[&relay.url, "--no-open", "--no-confirm", "--json"]);
    let begun = login.begun();
    assert_eq!((text(&begun, "user_code").len(), &begun["expires_in"]), (9, &Value::from(900)));
    Browser::default().sign_in(&begun, "bob").await;
    let (stdout, stderr, status) = login.end();
    assert!(status.success() && stderr.is_empty(), "{stderr}");
    let ended: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(text(&ended, "state"), "authenticated");
    assert_eq!(who(&relay.url, text(&ended, "access_token")).await, "bob");
    assert!(ended.get("session_token").is_none(), "of no use without a refresh token");

    let mut login = Login::start(&[&relay.url, "--no-open", "--json"]);
    let begun = login.begun();
    let browser = Browser::default();
    let page = browser.open(text(&begun, "transit_url")).await;
    decide(&browser, &page, "deny").await;
    let (stdout, stderr, status) = login.end();
    assert_eq!(status.code(), Some(1));
    let ended: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((text(&ended, "state"), text(&ended, "error")), ("failed", "access_denied"));
    assert!(stderr.starts_with("token-relay: access_denied"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_the_session() {
    let relay = Process::demo(&[]);
    let mut login = Login::start(&[&relay.url, "--no-open", "--no-confirm", "--json"]);
    let begun = login.begun();
    redis::eventually("it waits", || async {
        let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
        metrics
            .text()
            .await
            .unwrap()
            .contains("streams_open{transport=\"Sse\",client=\"addons\"} 1\n")
    })
    .await;
    let id = login.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let (stdout, _, status) = login.end();
    assert_eq!(status.code(), Some(130));
    assert!(stdout.contains("\"access_denied\""), "{stdout}");
    let page = Browser::default().open(text(&begun, "transit_url")).await;
    assert_eq!(page.status, StatusCode::GONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_kept_for_its_owner_and_can_be_refreshed() {
    let relay = Process::demo(&[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day")]);
    let folder = redis::Directory::new();
    let path = folder.file("token.json");
    std::fs::write(&path, "an older one").unwrap();
    let mut login =
        Login::start(&[&relay.url, "--no-open", "--no-confirm", "--json", "--store", &path]);
    let begun = login.begun();
    Browser::default().sign_in(&begun, "carol").await;
    let (stdout, stderr, status) = login.end();
    assert!(status.success(), "{stderr}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(!stdout.contains(text(&kept, "access_token")), "it is in the file");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(who(&relay.url, text(&kept, "access_token")).await, "carol");
    let answer = client()
        .post(format!("{}/addons/token", relay.url))
        .basic_auth(text(&kept, "session_id"), Some(text(&kept, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", text(&kept, "refresh_token"))])
        .send();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);

    let nowhere = folder.file("no/such/folder");
    let mut login =
        Login::start(&[&relay.url, "--no-open", "--no-confirm", "--json", "--store", &nowhere]);
    let begun = login.begun();
    Browser::default().sign_in(&begun, "carol").await;
    let (_, stderr, status) = login.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("no/such/folder"), "{stderr}");
}

#[test]
fn what_cannot_work_is_said_at_once() {
    let closed = format!("http://127.0.0.1:{}", redis::free_port());
    for (relay, said) in [
        (closed.as_str(), "cannot be reached: Connection refused"),
        ("http://relay.example", "must be reached by https"),
        ("https://user:secret@relay.example", "must be reached by https"),
    ] {
        let (stdout, stderr, status) = Login::start(&[relay, "--no-open"]).end();
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains(said) && !stderr.contains("secret"), "{stderr}");
    }
    let (_, stderr, status) = Login::start(&["relay.example"]).end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("relative URL"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_is_opened_and_the_spinner_turns_in_a_terminal() {
    // curl can type no code.
    let relay = Process::demo(&[
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
        ("TOKEN_RELAY_CONFIRMATION", "never"),
    ]);
    let folder = redis::Directory::new();
    // What stands for the person's browser: curl, which needs no form to be filled in.
    let opener = folder.file("xdg-open");
    let script = format!(
        "#!/bin/sh\nsleep 0.5\nexec curl -sSL -c {0}/jar -b {0}/jar -o {0}/page \"$1\"\n",
        folder.path().display()
    );
    std::fs::write(&opener, script).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // `script` gives it a terminal.
    let command = format!("{} login {} --no-confirm", env!("CARGO_BIN_EXE_token-relay"), relay.url);
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("PATH", path)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script runs; install the package bsdutils");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("Waiting for the sign-in; Ctrl-C cancels"), "{shown}");
    let token = shown.lines().map(str::trim).find(|line| line.contains("eyJ")).expect("the token");
    let token = &token[token.find("eyJ").unwrap()..];
    assert_eq!(who(&relay.url, token).await, "alice");
}

/// What a proxy does to event streams.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Answers with a page of its own.
    Page,
    /// Cuts the first one after its first bytes.
    Cut,
}

/// A relay behind a proxy with a fault; how many streams were asked for.
async fn behind(fault: Fault) -> (Process, String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let public_url = format!("http://{}", listener.local_addr().unwrap());
    let address = format!("127.0.0.1:{}", redis::free_port());
    let mut relay = Process::start(
        &["demo", "--no-open", "--listen", &address, "--provider-listen", "127.0.0.1:0"],
        &[("TOKEN_RELAY_PUBLIC_URL", &public_url)],
    );
    // What it prints is where people find it; here it is asked itself.
    relay.url = format!("http://{address}");
    let streams = Arc::new(AtomicUsize::new(0));
    let (upstream, count) = (relay.url.clone(), Arc::clone(&streams));
    let router = axum::Router::new().fallback(move |request: Request| {
        let (upstream, count) = (upstream.clone(), Arc::clone(&count));
        async move {
            let is_stream = request.uri().path().ends_with("/events");
            let nth = if is_stream { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
            if is_stream && fault == Fault::Page {
                let html = [(header::CONTENT_TYPE, "text/html")];
                return axum::response::IntoResponse::into_response((html, "<p>Blocked."));
            }
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let url = format!("{upstream}{}", parts.uri.path_and_query().unwrap());
            let mut headers = parts.headers;
            headers.remove(header::HOST);
            let request = client().request(parts.method, url).headers(headers).body(body);
            let mut answer = request.send().await.unwrap();
            let mut response = axum::http::Response::builder().status(answer.status());
            *response.headers_mut().unwrap() = std::mem::take(answer.headers_mut());
            response.headers_mut().unwrap().remove(header::TRANSFER_ENCODING);
            let body = if is_stream && nth == 0 {
                Body::from(answer.chunk().await.unwrap().unwrap())
            } else {
                Body::from_stream(answer.bytes_stream())
            };
            response.body(body).unwrap()
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (relay, public_url, streams)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_polls_where_no_stream_gets_through_and_comes_back_when_cut_off() {
    for (fault, asked) in [(Fault::Page, 1), (Fault::Cut, 2)] {
        let (relay, url, streams) = behind(fault).await;
        let pending =
            Client::new(url.parse().unwrap()).unwrap().sign_in(&SignIn::default()).await.unwrap();
        let session = shown(&pending);
        let token = tokio::spawn(async move { pending.token().await });
        let waits = match fault {
            Fault::Page => "streams_open{transport=\"LongPoll\",client=\"addons\"} 1\n",
            Fault::Cut => "streams_open{transport=\"Sse\",client=\"addons\"} 1\n",
        };
        redis::eventually("it waits again", || async {
            let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
            streams.load(Ordering::SeqCst) == asked && metrics.text().await.unwrap().contains(waits)
        })
        .await;
        Browser::default().sign_in(&session, "alice").await;
        let token = token.await.unwrap().unwrap();
        assert_eq!(who(&relay.url, token.access_token.expose()).await, "alice");
        assert!(!format!("{token:?}").contains(token.access_token.expose()));
        assert_eq!(streams.load(Ordering::SeqCst), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_nobody_finishes_ends() {
    let relay = Process::demo(&[("TOKEN_RELAY_SESSION_TTL", "10s")]);
    let wanted = SignIn::default();
    let client = Client::new(relay.url.parse().unwrap()).unwrap();
    let error = client.sign_in(&wanted).await.unwrap().token().await.unwrap_err();
    assert!(matches!(error, ClientError::Expired), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_does_what_it_says() {
    let relay = Process::demo(&[]);
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_token-relay"));
    let example = binary.with_file_name("examples").join("sign_in");
    let mut child = Command::new(example)
        .arg(&relay.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("built by `cargo test` when it is not told which targets");
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let url = stderr.next().unwrap().unwrap();
    let browser = Browser::default();
    let page = browser.open(url.strip_prefix("Open ").unwrap()).await;
    let code = stderr.next().unwrap().unwrap();
    let next = browser.type_code(&page, code.split_whitespace().last().unwrap()).await;
    browser.log_in(&next, "bob", "bob").await;
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let claims: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(text(&claims, "sub"), "bob");
}

/// An event whose token is encrypted for the key of the creation.
fn encrypted(event: &str, created: &Value) -> String {
    let head = "event: authenticated\ndata: ";
    let Some(content) = event.strip_prefix(head) else { return event.to_owned() };
    let jwk: api::EncryptionKey =
        serde_json::from_value(created["encryption_key"].clone()).unwrap();
    let key = EncryptionKey::try_from(&jwk).unwrap();
    let session = Digest::of("s".repeat(43).as_bytes());
    let encrypted = jwe::encrypt(&key, session.as_bytes(), content.trim().as_bytes()).unwrap();
    format!("{head}{}\n\n", json!({"state": "authenticated", "encrypted": encrypted}))
}

/// A server that answers the creation of a session with what `session` makes of an honest answer, and
/// events and polls with `outcome`.
async fn hostile(
    change: impl FnOnce(&mut Value),
    outcome: &'static str,
) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut session = json!({
        "session_id": "s".repeat(43),
        "session_token": "t".repeat(43),
        "expires_in": 60,
        "user_code": "BCDF-GHJK",
        "transit_url": format!("{url}/addons/transit/?transit_token=x"),
        "events_url": format!("{url}/addons/sessions/s/events"),
        "websocket_url": format!("{url}/addons/sessions/s/ws"),
        "poll_url": format!("{url}/addons/sessions/s"),
    });
    change(&mut session);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let created = Arc::<Mutex<Value>>::default();
    let router = axum::Router::new().fallback(move |request: Request| {
        let (session, count) = (session.to_string(), Arc::clone(&count));
        let created = Arc::clone(&created);
        async move {
            let json = |status: u16, body: String| {
                let response = axum::http::Response::builder().status(status);
                response.header(header::CONTENT_TYPE, "application/json").body(Body::from(body))
            };
            if request.method() == "POST" {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                *created.lock().unwrap() = serde_json::from_slice(&body).unwrap();
                return json(201, session).unwrap();
            }
            count.fetch_add(1, Ordering::SeqCst);
            if request.uri().path().ends_with("/events") {
                let response = axum::http::Response::builder();
                let response = response.header(header::CONTENT_TYPE, "text/event-stream");
                let outcome = encrypted(outcome, &created.lock().unwrap());
                return response.body(Body::from(outcome)).unwrap();
            }
            json(200, "{}".to_owned()).unwrap()
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, asked)
}

/// What a terminal must never be sent from a relay: everything but text and line ends.
fn is_plain(text: &str) -> bool {
    text.chars().all(|each| each == '\n' || (' '..='~').contains(&each))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_relay_opens_no_url_but_its_own_and_prints_no_code_of_its_choice() {
    let folder = redis::Directory::new();
    let opener = folder.file("xdg-open");
    let opened = folder.file("opened");
    std::fs::write(&opener, format!("#!/bin/sh\necho \"$1\" >> {opened}\n")).unwrap();
    std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    for (member, value) in [
        ("transit_url", json!("file:///etc/passwd")),
        ("transit_url", json!("https://relay.example.evil.example/")),
        ("transit_url", json!("http://127.0.0.1:1/")),
        ("transit_url", json!("--help")),
        ("transit_url", json!("smb://evil.example/share")),
        ("transit_url", json!("http://\u{1b}[31m.example/")),
        ("events_url", json!("http://169.254.169.254/latest/meta-data")),
        ("poll_url", json!("http://evil.example/")),
        ("user_code", json!("\u{1b}[2J\u{1b}[H")),
        ("user_code", json!("call +1 555 0100")),
        ("session_id", json!("../../admin")),
        ("session_token", json!("a\r\nx-injected: 1")),
        ("session_token", Value::Null),
        ("expires_in", json!(-1)),
    ] {
        let (url, asked) = hostile(|session| session[member] = value.clone(), "").await;
        let login = Login::start_with(&[&url], &[("PATH", &path)]);
        let (stdout, stderr, status) = login.end();
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{member} {value}");
        assert!(is_plain(&stderr), "{member} {value}: {stderr:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 0, "{member} {value}");
        assert!(!std::path::Path::new(&opened).exists(), "{member} {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_relay_hands_over_no_token_or_error_that_moves_the_cursor() {
    for (outcome, said) in [
        (
            "event: authenticated\ndata: {\"state\":\"authenticated\",\"access_token\":\"\\u001b]0;x\\u0007\",\"token_type\":\"Bearer\",\"expires_in\":1,\"scope\":\"\"}\n\n",
            "cannot be understood: access_token",
        ),
        (
            "event: authenticated\ndata: {\"state\":\"authenticated\",\"access_token\":\"a\",\"token_type\":\"Bearer\\u009b1m\",\"expires_in\":1,\"scope\":\"\"}\n\n",
            "cannot be understood: token_type",
        ),
        (
            "event: failed\ndata: {\"state\":\"failed\",\"error\":\"\\u001b[1mx\",\"error_description\":\"\\u001b[2J\\u202eno\\r\\nroot# \\u009b1m\"}\n\n",
            "server_error: [2Jnoroot# 1m",
        ),
    ] {
        let (url, _) = hostile(|_| {}, outcome).await;
        for arguments in [&[url.as_str(), "--no-open"][..], &[&url, "--no-open", "--json"]] {
            let (stdout, stderr, status) = Login::start(arguments).end();
            assert_eq!(status.code(), Some(1), "{outcome}");
            assert!(stderr.contains(said), "{stderr}");
            assert!(is_plain(&stdout) && is_plain(&stderr), "{stdout:?} {stderr:?}");
        }
    }
}

#[tokio::test]
async fn the_numbers_of_a_hostile_relay_break_nothing() {
    let stream = "retry: 18446744073709551615\nid: \u{1b}\n\nevent: expired\ndata: {}\n\n";
    let (url, _) = hostile(|session| session["expires_in"] = json!(u64::MAX), stream).await;
    let client = Client::new(url.parse().unwrap()).unwrap();
    let pending = client.sign_in(&SignIn::default()).await.unwrap();
    assert!(pending.expires_in() <= std::time::Duration::from_secs(86_400));
    assert!(matches!(pending.token().await, Err(ClientError::Expired)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_sign_in_is_resumed_by_another_client_of_the_same_relay() {
    let relay = Process::demo(&[]);
    let first = Client::new(relay.url.parse().unwrap()).unwrap();
    let saved = first.sign_in(&SignIn::default()).await.unwrap().save();
    drop(first);
    let text = serde_json::to_string(&saved).unwrap();
    assert!(!format!("{saved:?}").contains(saved_member(&text, "session_token").as_str()));

    let second = Client::new(relay.url.parse().unwrap()).unwrap();
    let pending = second.resume(serde_json::from_str(&text).unwrap()).unwrap();
    let session = shown(&pending);
    let token = tokio::spawn(async move { pending.token().await });
    Browser::default().sign_in(&session, "bob").await;
    assert_eq!(who(&relay.url, token.await.unwrap().unwrap().access_token.expose()).await, "bob");

    // It is over now; the relay says so.
    let again = second.resume(serde_json::from_str(&text).unwrap()).unwrap();
    assert!(matches!(again.token().await, Err(ClientError::Expired)));
    let other = Client::new("https://relay.example".parse().unwrap()).unwrap();
    let error = other.resume(serde_json::from_str(&text).unwrap()).unwrap_err();
    assert!(matches!(error, ClientError::ForeignUrl { .. }), "{error}");
    let mut old: Value = serde_json::from_str(&text).unwrap();
    old["expires_at"] = json!(1);
    let error = second.resume(serde_json::from_value(old).unwrap()).unwrap_err();
    assert!(matches!(error, ClientError::Expired), "{error}");
}

fn saved_member(text: &str, name: &str) -> String {
    let saved: Value = serde_json::from_str(text).unwrap();
    saved[name].as_str().unwrap().to_owned()
}

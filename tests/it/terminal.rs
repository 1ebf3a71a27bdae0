//! `token-relay login` and the Rust client: a terminal signs in through a real relay.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{Browser, Page, Process, client, form_action, hidden_inputs, redis, text};
use axum::{body::Body, extract::Request};
use http_body_util::BodyExt as _;
use reqwest::{StatusCode, header};
use serde_json::Value;
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
    assert!(page.body.contains(&code) && page.body.contains("My shell"), "{}", page.body);
    let next = decide(&browser, &page, "continue").await;
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
    assert_eq!((&begun["user_code"], &begun["expires_in"]), (&Value::Null, &Value::from(900)));
    Browser::default().sign_in(text(&begun, "transit_url"), "bob").await;
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
    assert!(page.body.contains(text(&begun, "user_code")));
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
        metrics.text().await.unwrap().contains("streams_open{transport=\"Sse\"} 1\n")
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
    Browser::default().sign_in(text(&begun, "transit_url"), "carol").await;
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
    Browser::default().sign_in(text(&begun, "transit_url"), "carol").await;
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
    let relay = Process::demo(&[("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1")]);
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
        let pending = Client::new(url.parse().unwrap())
            .unwrap()
            .sign_in(&SignIn { client_name: None, confirm: false })
            .await
            .unwrap();
        let transit_url = pending.transit_url().to_string();
        let token = tokio::spawn(async move { pending.token().await });
        let waits = match fault {
            Fault::Page => "streams_open{transport=\"LongPoll\"} 1\n",
            Fault::Cut => "streams_open{transport=\"Sse\"} 1\n",
        };
        redis::eventually("it waits again", || async {
            let metrics = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
            streams.load(Ordering::SeqCst) == asked && metrics.text().await.unwrap().contains(waits)
        })
        .await;
        Browser::default().sign_in(&transit_url, "alice").await;
        let token = token.await.unwrap().unwrap();
        assert_eq!(who(&relay.url, token.access_token.expose()).await, "alice");
        assert!(!format!("{token:?}").contains(token.access_token.expose()));
        assert_eq!(streams.load(Ordering::SeqCst), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_nobody_finishes_ends() {
    let relay = Process::demo(&[("TOKEN_RELAY_SESSION_TTL", "10s")]);
    let wanted = SignIn { client_name: None, confirm: false };
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
    let next = decide(&browser, &page, "continue").await;
    browser.log_in(&next, "bob", "bob").await;
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let claims: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(text(&claims, "sub"), "bob");
}

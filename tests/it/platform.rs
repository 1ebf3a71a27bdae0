//! A platform with accounts of its own in front of the relay: a real Django with users, login,
//! CSRF protection and an API, behind nginx with the route of `deploy/meet/nginx.conf`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use reqwest::{Client, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    Events, MEET_KEY, Process, TIMEOUT, certificate, form_action, hidden_inputs,
    redis::{Directory, eventually, free_port},
    text,
};

/// The Django process.
struct Platform {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Platform {
    fn start(port: u16, public_url: &str) -> Self {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let given = json!({"port": port, "public_url": public_url, "token_secret": MEET_KEY});
        let mut child = Command::new(root.join("target/venv/bin/python"))
            .args(["django_platform.py", &given.to_string()])
            .current_dir(root.join("tests/support/meet"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("Python starts; run ./tests/run install");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut platform = Self { stdin: child.stdin.take(), child, stdout };
        assert_eq!(platform.line(), "serving", "run ./tests/run install");
        platform
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// What the platform answers to a command.
    fn command(&mut self, command: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.line()
    }
}

/// An nginx process.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Platform, relay and proxy.
struct World {
    platform: Option<Platform>,
    platform_port: u16,
    relay: Process,
    relay_url: String,
    _nginx: Nginx,
    directory: Directory,
    /// Where browsers reach all of it.
    url: String,
}

impl World {
    async fn start(more: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        certificate::make(directory.path(), "meet");
        let [port, platform_port, relay_port] = [free_port(), free_port(), free_port()];
        let url = format!("https://localhost:{port}");
        let platform = Platform::start(platform_port, &url);
        let nginx = nginx(&directory, port, platform_port, relay_port);
        let relay_url = format!("http://127.0.0.1:{relay_port}");
        let listen = format!("127.0.0.1:{relay_port}");
        let account = format!("{url}/api/v1.0/users/me/");
        let authorities = directory.file("meet.crt");
        let environment = [
            ("TOKEN_RELAY_PUBLIC_URL", url.as_str()),
            ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
            ("TOKEN_RELAY_MEET_ACCOUNT_URL", &account),
            ("TOKEN_RELAY_MEET_ACCOUNT_CA", &authorities),
            ("ADDONS_ENABLED", "True"),
            ("ADDONS_CSRF_SECRET", MEET_KEY),
            ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY),
        ];
        let arguments = ["demo", "--no-open", "--allow-production", "--listen", &listen];
        let arguments = [&arguments[..], &["--provider-listen", "127.0.0.1:0"]].concat();
        let relay = Process::start(&arguments, &[&environment[..], more].concat());
        let world = Self {
            platform: Some(platform),
            platform_port,
            relay,
            relay_url,
            _nginx: nginx,
            directory,
            url,
        };
        let (client, page) = (world.client(), format!("{}/done/", world.url));
        eventually("nginx passes on", || async {
            client.get(&page).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
        world
    }

    fn client(&self) -> Client {
        certificate::trusting(&[&self.directory.file("meet.crt")]).timeout(TIMEOUT).build().unwrap()
    }

    fn jar(&self) -> Jar {
        Jar { http: self.client(), base: self.url.clone(), cookies: BTreeMap::new() }
    }

    fn platform(&mut self) -> &mut Platform {
        self.platform.as_mut().unwrap()
    }

    /// Lets `users/me/` do what is wrong.
    async fn break_account(&self, kind: &str) {
        let request = self.client().post(format!("{}/control/", self.url));
        let answer = request.json(&json!({"me": kind})).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    /// The headers of the last request for `users/me/`.
    async fn seen(&self) -> Value {
        let answer = self.client().get(format!("{}/control/", self.url)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["headers"].take()
    }
}

/// nginx with TLS: the route of `deploy/`, and the platform for all else.
fn nginx(directory: &Directory, port: u16, platform: u16, relay: u16) -> Nginx {
    let folder = directory.path().to_str().unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/meet/nginx.conf");
    let route = std::fs::read_to_string(path).unwrap();
    assert_eq!(route.matches("http://relay:8080").count(), 1);
    let route = route.replace("http://relay:8080", &format!("http://127.0.0.1:{relay}"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
        .concat();
    let whole = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
         events {{}} http {{ access_log off; {temporary}
         server {{
             listen 127.0.0.1:{port} ssl http2;
             ssl_certificate {folder}/meet.crt; ssl_certificate_key {folder}/meet.key;
             {route}
             location / {{
                 proxy_pass http://127.0.0.1:{platform};
                 proxy_set_header Host $http_host;
                 proxy_set_header X-Forwarded-Proto $scheme;
             }}
         }} }}"
    );
    std::fs::write(directory.file("nginx.conf"), whole).unwrap();
    let child = Command::new("nginx")
        .args(["-c", &directory.file("nginx.conf"), "-e", &directory.file("error.log")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts; install the package nginx");
    Nginx(child)
}

/// A browser: cookies whose values the test can read.
#[derive(Clone)]
struct Jar {
    http: Client,
    base: String,
    cookies: BTreeMap<String, String>,
}

impl Jar {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Body<'_>>,
    ) -> Response {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.cookies.is_empty() {
            let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
            request = request.header(header::COOKIE, pairs.collect::<Vec<_>>().join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = match body {
            None => request,
            Some(Body::Json(body)) => request.json(body),
            Some(Body::Form(fields)) => request.form(fields),
        };
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let (pair, rest) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if rest.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    /// Logs in on the platform, and returns the masked CSRF token of its form.
    async fn log_in(&mut self, user: &str) -> String {
        let path = "/api/v1.0/authenticate/?returnTo=/done/";
        let page = self.send(Method::GET, path, &[], None).await;
        assert_eq!(page.status(), StatusCode::OK, "Django has the login");
        let (status, url) = (page.status(), page.url().clone());
        let body = page.text().await.unwrap();
        let page = crate::support::Page { status, url, body, trail: Vec::new() };
        let mut fields = hidden_inputs(&page.body);
        let masked = fields.iter().find(|(name, _)| name == "csrfmiddlewaretoken").unwrap();
        let masked = masked.1.clone();
        fields.extend(
            [("username", user), ("password", user)]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let action = form_action(&page);
        let origin = self.base.clone();
        let headers = [("origin", origin.as_str())];
        let path = format!("{}?{}", action.path(), action.query().unwrap_or_default());
        let answer = self.send(Method::POST, &path, &headers, Some(Body::Form(&fields))).await;
        assert_eq!(answer.status(), StatusCode::FOUND, "{user} is logged in");
        assert!(self.cookies.contains_key("meet_sessionid"));
        // A login makes a new secret.
        let page = self.send(Method::GET, "/api/v1.0/authenticate/", &[], None).await;
        let fields = hidden_inputs(&page.text().await.unwrap());
        let found = fields.into_iter().find(|(name, _)| name == "csrfmiddlewaretoken");
        let (_, next) = found.unwrap();
        assert!(next.len() == 64 && next != masked);
        next
    }

    /// `init` of the add-in: the transit token and the CSRF token.
    async fn init(&mut self) -> (String, String) {
        let answer = self.send(Method::POST, &session("init"), &[], None).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        let body: Value = answer.json().await.unwrap();
        (text(&body, "transit_token").to_owned(), text(&body, "csrf_token").to_owned())
    }

    /// `exchange` of the page that the login returns to, as upstream's page calls it.
    async fn exchange(&mut self, transit_token: &str) -> Response {
        let csrf = self.cookies.get("csrftoken").cloned().unwrap_or_default();
        let origin = self.base.clone();
        let headers = [("origin", origin.as_str()), ("x-csrftoken", &csrf)];
        let body = json!({"transit_token": transit_token});
        self.send(Method::POST, &session("exchange"), &headers, Some(Body::Json(&body))).await
    }

    async fn poll(&mut self, csrf: &str) -> Response {
        self.send(Method::POST, &session("poll"), &[("x-csrftoken", csrf)], None).await
    }

    /// Creates a room at the platform with a token.
    async fn create_room(&self, token: &str) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}/external-api/v1.0/rooms/", self.base));
        let answer = request.bearer_auth(token).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }
}

#[derive(Clone, Copy)]
enum Body<'a> {
    Json(&'a Value),
    Form(&'a [(String, String)]),
}

fn session(name: &str) -> String {
    format!("/api/v1.0/addons/sessions/{name}/")
}

async fn detail(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, text(&body, "detail").to_owned())
}

const NOT_LOGGED_IN: &str = "Authentication credentials were not provided.";

#[tokio::test]
async fn an_add_in_signs_in_at_a_platform_that_keeps_its_login() {
    let mut world = World::start(&[]).await;
    let alice = world.platform().command("id alice");
    let mut browser = world.jar();
    browser.log_in("alice").await;

    // By the old poll.
    let mut add_in = world.jar();
    let (transit, csrf) = add_in.init().await;
    assert_eq!(add_in.poll(&csrf).await.status(), StatusCode::ACCEPTED);
    let done = browser.exchange(&transit).await;
    assert_eq!(done.status(), StatusCode::OK);
    assert_eq!(done.json::<Value>().await.unwrap(), json!({"status": "ok"}));
    let token: Value = add_in.poll(&csrf).await.json().await.unwrap();
    let room = add_in.create_room(text(&token, "access_token")).await;
    assert_eq!(room, (StatusCode::CREATED, json!({"owner": alice})));

    // By push: an event stream, and a WebSocket.
    let mut add_in = world.jar();
    let (transit, csrf) = add_in.init().await;
    let headers = [("x-csrftoken", csrf.as_str())];
    let events = add_in.send(Method::GET, &session("events"), &headers, None).await;
    let mut events = Events::from_response(events);
    assert_eq!(browser.exchange(&transit).await.status(), StatusCode::OK);
    let event = events.next().await.unwrap();
    assert_eq!(event.name, "authenticated");
    let room = add_in.create_room(text(&event.data, "access_token")).await;
    assert_eq!(room, (StatusCode::CREATED, json!({"owner": alice})));

    let mut add_in = world.jar();
    let (transit, csrf) = add_in.init().await;
    let url = format!("{}{}", world.relay_url.replace("http", "ws"), session("ws"));
    let mut request = url.into_client_request().unwrap();
    let cookie = format!("addonsSid={}", add_in.cookies["addonsSid"]);
    request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    let protocols = format!("token-relay.v1, csrf.{csrf}");
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(browser.exchange(&transit).await.status(), StatusCode::OK);
    let message = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
    let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    let room = add_in.create_room(text(&message, "access_token")).await;
    assert_eq!(room, (StatusCode::CREATED, json!({"owner": alice})));

    // The client's files are below the one path that is routed to the relay; the login is not there.
    let module = format!("{}/api/v1.0/addons/sessions/static/token-relay.js", world.url);
    let module = browser.http.get(module).send().await.unwrap();
    assert_eq!(module.status(), StatusCode::OK);
    assert_eq!(module.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    for name in ["authenticate", "callback", "logout"] {
        let url = format!("{}/api/v1.0/{name}/", world.relay_url);
        let answer = crate::support::client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{name}");
    }
}

/// With `deploy/meet/nginx.conf`, only what is below `addons/sessions/` reaches the relay.
#[tokio::test]
async fn nothing_but_the_sessions_is_routed_to_the_relay() {
    let world = World::start(&[]).await;
    let host = world.url.trim_start_matches("https://");
    let certificate = world.directory.file("meet.crt");
    for (target, is_relay) in [
        ("/api/v1.0/addons/sessions/init/", true),
        ("/api/v1.0/addons/sessions/poll/?x=/api/v1.0/authenticate/", true),
        ("/api/v1.0/addons/sessions/static/token-relay.js", true),
        ("/api/v1.0/addons//sessions/./init/", true),
        ("/", false),
        ("/metrics", false),
        ("/healthz", false),
        ("/addons/sessions", false),
        ("/addons/sessions/", false),
        ("/api/v1.0/addons/", false),
        ("/api/v1.0/addons/sessionsX/", false),
        ("/api/v1.0/ADDONS/sessions/init/", false),
        ("/api/v1.0/authenticate/", false),
        ("/api/v1.0/callback/", false),
        ("/api/v1.0/logout/", false),
        ("/api/v1.0/users/me/", false),
        ("/external-api/v1.0/rooms/", false),
        ("/api/v1.0/addons/sessions/../../authenticate/", false),
        ("/api/v1.0/addons/sessions/%2e%2e/%2e%2e/users/me/", false),
        ("/api/v1.0/addons/sessions/..%2f..%2f..%2f..%2fmetrics", false),
    ] {
        // Literally: an HTTP client would resolve the dots.
        let mut stream = certificate::connect(host, "http/1.1", &[&certificate]).await.unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        let by_platform = answer.contains("x-answered-by: platform");
        assert!(answer.starts_with("http/1.1 "), "{target}: {answer}");
        assert_eq!(by_platform, !is_relay, "{target}: {answer}");
    }
}

#[tokio::test]
async fn the_platform_gets_its_own_cookies_and_no_others() {
    let world = World::start(&[]).await;
    let mut browser = world.jar();
    browser.log_in("alice").await;
    let (session_id, csrf) =
        (browser.cookies["meet_sessionid"].clone(), browser.cookies["csrftoken"].clone());
    for name in ["__Host-token-relay-browser", "__Host-token-relay-reader-abc", "token-relay-login"]
    {
        browser.cookies.insert(name.to_owned(), "ours".to_owned());
    }
    browser.cookies.insert("another".to_owned(), "theirs".to_owned());
    let (transit, _) = browser.init().await;
    assert!(browser.cookies.contains_key("addonsSid"));
    assert_eq!(browser.exchange(&transit).await.status(), StatusCode::OK);
    let seen = world.seen().await;
    let expected = format!("another=theirs; csrftoken={csrf}; meet_sessionid={session_id}");
    assert_eq!(text(&seen, "Cookie"), expected);
    assert_eq!(text(&seen, "Host"), world.url.trim_start_matches("https://"));
    assert_eq!(text(&seen, "X-Forwarded-Proto"), "https");
    assert_eq!(text(&seen, "Accept"), "application/json");
}

#[tokio::test]
async fn an_exchange_that_the_platform_does_not_vouch_for_consumes_nothing() {
    let mut world = World::start(&[]).await;
    let (mut add_in, mut browser) = (world.jar(), world.jar());
    let (transit, csrf) = add_in.init().await;

    let stranger = world.jar().exchange(&transit).await;
    assert_eq!(stranger.headers()[header::WWW_AUTHENTICATE], "Session");
    assert_eq!(detail(stranger).await, (401, NOT_LOGGED_IN.to_owned()));
    let mut forged = world.jar();
    forged.send(Method::GET, "/api/v1.0/authenticate/", &[], None).await;
    forged.cookies.insert("meet_sessionid".to_owned(), "guessed".to_owned());
    assert_eq!(detail(forged.exchange(&transit).await).await, (401, NOT_LOGGED_IN.to_owned()));

    let mut ivan = world.jar();
    ivan.log_in("ivan").await;
    assert_eq!(world.platform().command("disable ivan"), "done");
    assert_eq!(detail(ivan.exchange(&transit).await).await, (401, NOT_LOGGED_IN.to_owned()));
    browser.log_in("alice").await;
    assert_eq!(world.platform().command("expire"), "done");
    assert_eq!(detail(browser.exchange(&transit).await).await, (401, NOT_LOGGED_IN.to_owned()));

    browser.log_in("alice").await;
    for kind in ["redirect", "html", "error", "huge", "odd", "slow"] {
        world.break_account(kind).await;
        let begun = Instant::now();
        let answer = browser.exchange(&transit).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        assert!(begun.elapsed() < Duration::from_secs(7), "{kind}");
        assert!(detail(answer).await.1.contains("Try again"), "{kind}");
    }
    world.platform = None;
    let answer = browser.exchange(&transit).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "down");
    for cause in ["status 302", "JSON", "status 502", "larger", "MEET_USER_ID_FIELD", "within 5s"] {
        let relay = &world.relay;
        eventually("the log names the cause", || async { relay.log().contains(cause) }).await;
    }

    world.platform = Some(Platform::start(world.platform_port, &world.url));
    browser = world.jar();
    browser.log_in("alice").await;
    assert_eq!(add_in.poll(&csrf).await.status(), StatusCode::ACCEPTED, "nothing was consumed");
    assert_eq!(browser.exchange(&transit).await.status(), StatusCode::OK);
    let again = browser.exchange(&transit).await;
    assert_eq!(detail(again).await, (400, "Invalid or expired transit token.".to_owned()));
    let answer = add_in.poll(&csrf).await;
    assert_eq!(detail(answer).await, (404, "Session not found.".to_owned()), "a replay");
}

#[tokio::test]
async fn a_user_id_may_be_an_integer_and_of_any_field() {
    let world = World::start(&[("TOKEN_RELAY_MEET_USER_ID_FIELD", "email")]).await;
    let (mut add_in, mut browser) = (world.jar(), world.jar());
    let (transit, csrf) = add_in.init().await;
    browser.log_in("alice").await;
    assert_eq!(browser.exchange(&transit).await.status(), StatusCode::OK);
    let token: Value = add_in.poll(&csrf).await.json().await.unwrap();
    let (status, body) = add_in.create_room(text(&token, "access_token")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.to_string().contains("alice@example.com"), "{body}");
}

/// Every way to send cookie, header, Origin and Referer: the relay answers as Django itself.
#[tokio::test]
async fn forged_requests_are_refused_as_django_does() {
    let trusted = [("CSRF_TRUSTED_ORIGINS", "https://office.example,https://*.meet.example")];
    let world = World::start(&trusted).await;
    let mut browser = world.jar();
    let masked = browser.log_in("alice").await;
    let secret = browser.cookies["csrftoken"].clone();
    assert_eq!((secret.len(), masked.len()), (32, 64));
    let own = world.url.clone();
    let (page, foreign) = (format!("{own}/addons/success.html"), "https://evil.example");
    let odd = "-".repeat(32);
    let sources: Vec<Vec<(&str, &str)>> = vec![
        vec![("origin", &own)],
        vec![("referer", &page)],
        vec![],
        vec![("origin", foreign)],
        vec![("origin", "null")],
        vec![("referer", "https://evil.example/x")],
        vec![("referer", "http://localhost/x")],
        vec![("referer", "nonsense")],
        vec![("origin", foreign), ("referer", &page)],
        vec![("origin", &own), ("referer", "https://evil.example/x")],
    ];
    let tokens: Vec<Vec<(&str, &str)>> = vec![
        vec![("x-csrftoken", &secret)],
        vec![("x-csrftoken", &masked)],
        vec![],
        vec![("x-csrftoken", "")],
        vec![("x-csrftoken", &odd)],
        vec![("x-csrftoken", &masked[..63])],
        vec![("x-csrftoken", &masked[32..])],
    ];
    let with_masked_cookie = Jar {
        cookies: browser
            .cookies
            .iter()
            .map(|(name, value)| {
                let value = if name == "csrftoken" { &masked } else { value };
                (name.clone(), value.clone())
            })
            .collect(),
        ..browser.clone()
    };
    let mut without_cookie = browser.clone();
    without_cookie.cookies.remove("csrftoken");
    let mut compared = BTreeMap::<String, usize>::new();
    for jar in [browser, with_masked_cookie, without_cookie] {
        for source in &sources {
            for token in &tokens {
                let headers = [&source[..], &token[..]].concat();
                let body = json!({"transit_token": ""});
                let mut answers = Vec::new();
                for path in ["/api/v1.0/protected/".to_owned(), session("exchange")] {
                    let body = Some(Body::Json(&body));
                    answers.push(
                        detail(jar.clone().send(Method::POST, &path, &headers, body).await).await,
                    );
                }
                assert_eq!(answers[0], answers[1], "Django first; {headers:?}");
                *compared.entry(answers[0].1.clone()).or_default() += 1;
            }
        }
    }
    assert_eq!(compared.values().sum::<usize>(), 3 * 10 * 7);
    assert!(compared["Missing transit_token."] >= 8, "{compared:?}");

    // What the operator trusts besides; Django would need the same setting.
    let mut jar = world.jar();
    jar.log_in("alice").await;
    let csrf = jar.cookies["csrftoken"].clone();
    for (origin, status) in [
        ("https://office.example", 400),
        ("https://a.meet.example", 400),
        ("https://meet.example.evil.example", 403),
        ("http://office.example", 403),
    ] {
        let headers = [("origin", origin), ("x-csrftoken", csrf.as_str())];
        let answer = jar.send(Method::POST, &session("exchange"), &headers, None).await;
        assert_eq!(answer.status().as_u16(), status, "{origin}");
    }
}

/// What counts of an answer, as `record.py` writes it.
async fn described(response: Response) -> Value {
    let mut headers = serde_json::Map::new();
    for name in ["Content-Type", "Allow", "WWW-Authenticate"] {
        // Django names the methods in every answer.
        let counts = name != "Allow" || response.status() == StatusCode::METHOD_NOT_ALLOWED;
        if let Some(value) = response.headers().get(name).filter(|_| counts) {
            headers.insert(name.to_owned(), json!(value.to_str().unwrap()));
        }
    }
    let cookies: Vec<Value> = response
        .headers()
        .get_all(header::SET_COOKIE)
        .iter()
        .map(|cookie| {
            let mut parts = cookie.to_str().unwrap().split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            let mut attributes: Vec<_> =
                parts.filter(|part| !part.to_lowercase().starts_with("expires=")).collect();
            attributes.sort_unstable();
            json!({"name": name, "empty": value.is_empty(), "attributes": attributes})
        })
        .collect();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let mut body = match serde_json::from_str(&text) {
        Ok(body) => body,
        Err(_) if text.is_empty() => Value::Null,
        Err(_) => json!("not JSON"),
    };
    for secret in ["transit_token", "csrf_token", "access_token"] {
        if let Some(value) = body.get_mut(secret) {
            *value = json!("…");
        }
    }
    json!({"status": status, "headers": headers, "cookies": cookies, "body": body})
}

fn recorded(name: &str) -> Value {
    let path = format!("{}/tests/support/meet/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The answers of a case.
async fn run(world: &World, person: &Jar, masked: &str, case: &Value) -> Vec<Value> {
    let (mut add_in, mut other) = (world.jar(), world.jar());
    let (transit, csrf) = add_in.init().await;
    let (_, other_csrf) = other.init().await;
    let session_id = add_in.cookies["addonsSid"].clone();
    let upper = csrf.to_uppercase();
    let fill = |text: &str| -> String {
        match text {
            "$session" => &session_id,
            "$csrf" => &csrf,
            "$csrf upper" => &upper,
            "$other_csrf" => &other_csrf,
            "$transit" => &transit,
            "$cookie" => &person.cookies["csrftoken"],
            "$masked" => masked,
            "$own" => &world.url,
            text => text,
        }
        .to_owned()
    };
    let mut answers = Vec::new();
    for step in case["steps"].as_array().unwrap() {
        tokio::time::sleep(Duration::from_secs_f64(step["wait"].as_f64().unwrap_or(0.0))).await;
        let mut cookies = BTreeMap::new();
        if let Some(session) = step["session"].as_str() {
            cookies.insert("addonsSid".to_owned(), fill(session));
        }
        if !step["login"].is_null() {
            cookies.extend(person.cookies.clone());
        }
        match step["login"].as_str() {
            Some("guessed") => cookies
                .iter_mut()
                .filter(|(name, _)| *name != "csrftoken")
                .for_each(|(_, value)| "guessed".clone_into(value)),
            Some("no csrftoken") => drop(cookies.remove("csrftoken")),
            _ => {}
        }
        let method = Method::from_bytes(step["method"].as_str().unwrap_or("POST").as_bytes());
        let url = format!("{}{}", world.url, session(text(step, "call")));
        let mut request = person.http.request(method.unwrap(), url);
        if !cookies.is_empty() {
            let pairs = cookies.iter().map(|(name, value)| format!("{name}={value}"));
            request = request.header(header::COOKIE, pairs.collect::<Vec<_>>().join("; "));
        }
        for (member, name) in
            [("csrf", "x-csrftoken"), ("django_csrf", "x-csrftoken"), ("origin", "origin")]
        {
            if let Some(value) = step[member].as_str() {
                request = request.header(name, fill(value));
            }
        }
        if let Some(content_type) = step["content_type"].as_str() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(raw) = step["raw"].as_str() {
            request = request.body(raw.to_owned());
        }
        if let Some(body) = step.get("json") {
            let mut body = body.clone();
            for value in body.as_object_mut().into_iter().flatten().map(|(_, value)| value) {
                if let Some(filled) = value.as_str().map(&fill) {
                    *value = json!(filled);
                }
            }
            request = request.json(&body);
        }
        answers.push(described(request.send().await.unwrap()).await);
    }
    answers
}

/// Request by request, the relay answers what the Django service answered when it was recorded.
/// `answers.json` names every difference, with its reason.
#[tokio::test]
async fn answers_are_those_of_the_django_service() {
    let world =
        World::start(&[("ADDONS_TRANSIT_TOKEN_TTL", "2"), ("ADDONS_SESSION_TTL", "6")]).await;
    let mut person = world.jar();
    let masked = person.log_in("alice").await;
    let (cases, recorded) = (recorded("cases.json"), recorded("answers.json"));
    let mut differences = recorded["differences"].as_array().unwrap().clone();
    let mut wrong = Vec::new();
    let cases = cases["cases"].as_array().unwrap();
    // Those that wait do so at the same time.
    let answers = cases.iter().map(|case| run(&world, &person, &masked, case));
    let answers: Vec<Vec<Value>> = futures_util::stream::iter(answers).buffered(8).collect().await;
    for (case, answers) in cases.iter().zip(answers) {
        let name = text(case, "name");
        let django = recorded["answers"][name].as_array().unwrap();
        assert_eq!(django.len(), answers.len(), "{name}: run record.py again");
        for (step, (django, relay)) in django.iter().zip(&answers).enumerate() {
            for member in ["status", "headers", "cookies", "body"] {
                let at = differences.iter().position(|difference| {
                    let cases = difference["cases"].as_array().unwrap();
                    difference["member"] == member
                        && difference["relay"] == relay[member]
                        && difference["django"] == django[member]
                        && cases.iter().any(|case| *case == json!([name, step]))
                });
                match at {
                    Some(at) => {
                        let cases = differences[at]["cases"].as_array_mut().unwrap();
                        cases.retain(|case| *case != json!([name, step]));
                    }
                    None if relay[member] == django[member] => {}
                    None => wrong.push(json!({
                        "case": [name, step], "member": member,
                        "django": django[member], "relay": relay[member],
                    })),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", serde_json::to_string_pretty(&wrong).unwrap());
    for difference in &differences {
        assert_eq!(difference["cases"], json!([]), "a difference that there is not: {difference}");
        assert!(difference["why"].as_str().is_some_and(|why| why.len() > 20), "{difference}");
    }
}

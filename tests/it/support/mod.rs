//! What integration tests share: the real binary on a free port, a browser, event streams.
//!

pub mod certificate;
pub mod dpop_key;
pub mod man_in_the_middle;
pub mod provider;
pub mod redis;
pub mod store;
pub mod wire;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use reqwest::{Client, Response, StatusCode, Url, header, redirect::Policy};
use serde_json::Value;

/// Keys of 32 bytes in hex, as `token-relay keys` makes them; those of the tests are no secret.
pub const COOKIE_KEY: &str = "d7e83e28a04b537e64424546b14caf9b67bad2f28dabce68116e0d372319fa00";
pub const SEALING_KEY: &str = "257d8188d398175b202b5e4cc3e29957a66dbb358c97d958de0fb5e598b6f675";
/// For HS256.
pub const SIGNING_KEY: &str = "bdefc259426bd086d1126108ac3955a6c15164ca1f591e0872ec7c49e4402e6a";
/// What the Meet-compatible surface shares with the Django service.
pub const MEET_KEY: &str = "8ccb033c0e48b27ff91e1ab948367e3bbc6921487c97624ed7ad064025e3dc99";
/// Two more, for what is rotated.
pub const OLD_KEY: &str = "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4";
pub const NEW_KEY: &str = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437";

/// The standard error of the tests, opened anew for a program of Node, which makes a pipe that it inherits
/// non-blocking for everybody who has it: then the tests' own output fails where nobody reads it fast enough.
pub fn stderr_opened_anew() -> Stdio {
    let stderr = std::fs::File::options().append(true).open("/dev/stderr");
    stderr.map_or_else(|_| Stdio::null(), Stdio::from)
}

/// A program beside the relay, ended when dropped. What it prints goes to a file.
pub struct Program {
    child: Child,
    output: String,
}

impl Program {
    /// Starts one that is at home in `directory`.
    pub fn start<I: AsRef<std::ffi::OsStr>>(
        name: &str,
        arguments: impl IntoIterator<Item = I>,
        directory: &redis::Directory,
    ) -> Self {
        let output = directory.file("output");
        let file = std::fs::File::create(&output).unwrap();
        let child = Command::new(name)
            .args(arguments)
            .env("HOME", directory.path())
            .env("XDG_CONFIG_HOME", directory.path())
            .env("XDG_DATA_HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{name}: {error}; install it with `./tests/run install`")
            });
        Self { child, output }
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings of instances that share the Redis at this URL.
pub fn shared(redis_url: &str) -> [(&str, &str); 5] {
    [
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
    ]
}

/// A private key for ES256.
pub fn signing_key() -> String {
    let done = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .output()
        .expect("openssl runs; install the package openssl");
    assert!(done.status.success());
    String::from_utf8(done.stdout).unwrap()
}

/// Longer than anything takes that works.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A process of `token-relay`, ended when dropped.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// What it logged so far.
    pub log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `token-relay` with `arguments` and waits until it serves.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
        command.args(arguments).envs(environment.iter().copied());
        Self::spawn(command, Stdio::piped())
    }

    /// Starts a command that becomes `token-relay` and waits until it serves. The log is collected
    /// where `stderr` is piped.
    pub fn spawn(command: Command, stderr: Stdio) -> Self {
        Self::spawn_to_line(command, stderr, 1).0
    }

    /// The same; gives its first lines as well.
    pub fn spawn_to_line(mut command: Command, stderr: Stdio, lines: usize) -> (Self, String) {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(stderr) = child.stderr.take() {
            let sink = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = sink.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            });
        }
        let mut first = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..lines {
            stdout.read_line(&mut first).unwrap();
        }
        let url = first
            .split_whitespace()
            .find(|word| word.starts_with("http://") || word.starts_with("https://"))
            .unwrap_or_else(|| panic!("no address in {first:?}; log: {}", log.lock().unwrap()))
            .to_owned();
        (Self { child, url, log }, first)
    }

    /// The demo with its provider, on free ports.
    pub fn demo(environment: &[(&str, &str)]) -> Self {
        let arguments = [
            "demo",
            "--no-open",
            "--allow-production",
            "--listen",
            "127.0.0.1:0",
            "--provider-listen",
            "127.0.0.1:0",
        ];
        Self::start(&arguments, environment)
    }

    /// The demo with a public URL that leads to a proxy. `url` is where it listens itself.
    pub fn demo_behind(public_url: &str, environment: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", redis::free_port());
        let arguments = ["demo", "--no-open", "--allow-production", "--listen", &address];
        let arguments = [&arguments[..], &["--provider-listen", "127.0.0.1:0"]].concat();
        let environment = [environment, &[("TOKEN_RELAY_PUBLIC_URL", public_url)]].concat();
        let mut process = Self::start(&arguments, &environment);
        process.url = format!("http://{address}");
        process
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has `text`: a thread of its own writes it.
    pub async fn logged(&self, text: &str) {
        let found = || async { self.log().contains(text) };
        redis::eventually(&format!("{text:?} in the log"), found).await;
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An add-in's HTTP client: no cookies, no redirects. One for all tests, because building one costs
/// tens of milliseconds; it keeps no connection, which would belong to one test's runtime.
pub fn client() -> Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(Policy::none()).timeout(TIMEOUT);
        client.pool_max_idle_per_host(0).build().unwrap()
    });
    CLIENT.clone()
}

/// Creates a session; `body` as JSON, or none for the legacy profile.
pub async fn create(base: &str, body: Option<Value>) -> Value {
    let mut request = client().post(format!("{base}/addons/sessions"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    response.json().await.unwrap()
}

/// A person's browser: cookies, redirects followed one by one.
pub struct Browser {
    client: Client,
}

impl Default for Browser {
    fn default() -> Self {
        Self::sending(header::HeaderMap::new())
    }
}

impl Browser {
    /// One behind a proxy that adds `headers` to every request.
    pub fn sending(headers: header::HeaderMap) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self::with(Client::builder().default_headers(headers))
    }

    /// One that treats loopback as browsers do: cookies for HTTPS are sent there as well.
    pub fn on_loopback() -> Self {
        let mut browser = Self::default();
        let builder = Client::builder().redirect(Policy::none()).timeout(TIMEOUT);
        browser.client = builder.cookie_provider(Arc::<Jar>::default()).build().unwrap();
        browser
    }

    /// A browser over what a builder makes, such as one that trusts a test's certificate.
    pub fn with(builder: reqwest::ClientBuilder) -> Self {
        let builder = builder.redirect(Policy::none()).cookie_store(true).timeout(TIMEOUT);
        Self { client: builder.build().unwrap() }
    }
}

/// Cookies of one host, by name.
#[derive(Default)]
struct Jar(Mutex<std::collections::BTreeMap<String, String>>);

impl reqwest::cookie::CookieStore for Jar {
    fn set_cookies(&self, values: &mut dyn Iterator<Item = &header::HeaderValue>, _: &Url) {
        let mut cookies = self.0.lock().unwrap();
        for value in values {
            let (pair, rest) = value.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if rest.contains("Max-Age=0") || rest.contains("expires=Thu, 01 Jan 1970") {
                cookies.remove(name);
            } else {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn cookies(&self, _: &Url) -> Option<header::HeaderValue> {
        let cookies = self.0.lock().unwrap();
        let pairs = cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let pairs = pairs.collect::<Vec<_>>();
        (!pairs.is_empty()).then(|| pairs.join("; ").parse().unwrap())
    }
}

/// A page, with the addresses that led there.
pub struct Page {
    pub status: StatusCode,
    pub url: Url,
    pub body: String,
    pub trail: Vec<String>,
}

impl Browser {
    /// Opens one address without following.
    pub async fn get(&self, url: &str) -> Response {
        self.client.get(url).send().await.unwrap()
    }

    /// Opens one address with headers, without following.
    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| {
            (name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap())
        });
        self.client.get(url).headers(headers.collect()).send().await.unwrap()
    }

    /// Follows redirects from one address until the next one contains `text`; gives that address.
    pub async fn follow_until(&self, url: &str, text: &str) -> String {
        let mut url = url.to_owned();
        while !url.contains(text) {
            let response = self.get(&url).await;
            let location = response.headers()[header::LOCATION].to_str().unwrap();
            url = response.url().join(location).unwrap().into();
        }
        url
    }

    /// Sends a form from a page of `origin`, without following.
    pub async fn post_from(
        &self,
        origin: Option<&str>,
        url: &str,
        fields: &[(String, String)],
    ) -> Response {
        let mut request = self.client.post(url).form(fields);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        request.send().await.unwrap()
    }

    /// Opens an address and follows redirects to a page.
    pub async fn open(&self, url: &str) -> Page {
        let response = self.get(url).await;
        self.follow(response).await
    }

    /// Sends a form and follows redirects to a page.
    pub async fn submit(&self, url: &str, fields: &[(String, String)]) -> Page {
        // As browsers do with every form.
        let origin = Url::parse(url).unwrap().origin().ascii_serialization();
        let request = self.client.post(url).header(header::ORIGIN, origin).form(fields);
        self.follow(request.send().await.unwrap()).await
    }

    async fn follow(&self, mut response: Response) -> Page {
        let mut trail = vec![response.url().to_string()];
        while response.status().is_redirection() {
            let target = response.headers()[header::LOCATION].to_str().unwrap();
            let next = response.url().join(target).unwrap();
            trail.push(next.to_string());
            assert!(trail.len() < 20, "redirects in a circle: {trail:?}");
            response = self.client.get(next).send().await.unwrap();
        }
        let (status, url) = (response.status(), response.url().clone());
        let page = Page { status, url, body: response.text().await.unwrap(), trail };
        match refresh(&page) {
            Some(target) => Box::pin(self.open(target.as_str())).await,
            None => page,
        }
    }

    /// Creates a session as a page of the relay does, so that this browser is its proof.
    pub async fn create(&self, base: &str, body: Value) -> Value {
        let request = self.client.post(format!("{base}/addons/sessions")).json(&body);
        let response = request.header(header::ORIGIN, base).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        response.json().await.unwrap()
    }

    /// Goes through the whole dialog as `user`, as a person whom the add-in shows `session`.
    pub async fn sign_in(&self, session: &Value, user: &str) -> Page {
        let login = self.to_login(session).await;
        self.log_in(&login, user, user).await
    }

    /// Opens the dialog and gives the proof that it asks for: the code, or the button of a legacy
    /// session. The page is the provider's, or the last one where that asks for nothing.
    pub async fn to_login(&self, session: &Value) -> Page {
        self.to_login_at(text(session, "transit_url"), session).await
    }

    /// The same at another address of the dialog.
    pub async fn to_login_at(&self, transit_url: &str, session: &Value) -> Page {
        let page = self.open(transit_url).await;
        let page = if page.body.contains("name=\"user_code\"") {
            self.type_code(&page, text(session, "user_code")).await
        } else if page.body.contains("data-status=\"confirm\"") {
            self.decide(&page, "continue").await
        } else {
            page
        };
        self.give_access(page).await
    }

    /// Types a user code.
    pub async fn type_code(&self, page: &Page, code: &str) -> Page {
        let mut fields = hidden_inputs(&page.body);
        fields.push(("user_code".to_owned(), code.to_owned()));
        self.submit(form_action(page).as_str(), &fields).await
    }

    /// Presses a button of a page.
    pub async fn decide(&self, page: &Page, decision: &str) -> Page {
        let mut fields = hidden_inputs(&page.body);
        fields.push(("decision".to_owned(), decision.to_owned()));
        self.submit(form_action(page).as_str(), &fields).await
    }

    /// Gives access on the page about the account, where there is one.
    pub async fn give_access(&self, page: Page) -> Page {
        let asks = page.url.path() == "/addons/redirect" && page.body.contains("id=\"question\"");
        if !asks {
            return page;
        }
        let mut last = self.decide(&page, "continue").await;
        last.trail.splice(0..0, page.trail);
        last
    }

    /// Fills in the provider's login form.
    pub async fn log_in(&self, login: &Page, user: &str, password: &str) -> Page {
        let mut fields = hidden_inputs(&login.body);
        fields.push(("username".to_owned(), user.to_owned()));
        fields.push(("password".to_owned(), password.to_owned()));
        let page = self.submit(form_action(login).as_str(), &fields).await;
        self.give_access(page).await
    }
}

/// Where the page leads by itself.
fn refresh(page: &Page) -> Option<Url> {
    let tag = &page.body[page.body.find("<meta http-equiv=\"refresh\"")?..];
    let content = attribute(tag, "content")?;
    page.url.join(content.split_once("url=")?.1).ok()
}

/// Where the page's form goes.
pub fn form_action(page: &Page) -> Url {
    let action = attribute(&page.body[page.body.find("<form").expect("a form")..], "action");
    page.url.join(&action.unwrap_or_default()).unwrap()
}

/// The page's hidden inputs.
pub fn hidden_inputs(html: &str) -> Vec<(String, String)> {
    html.split("<input")
        .skip(1)
        .filter_map(|rest| rest.split('>').next())
        .filter(|tag| attribute(tag, "type").as_deref() == Some("hidden"))
        .filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value")?)))
        .collect()
}

/// The value of an attribute of a tag.
pub fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    let text = tag[start..].split('"').next()?;
    Some(text.replace("&amp;", "&").replace("&#38;", "&").replace("&quot;", "\""))
}

/// A port that nothing listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One event of an event stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: Value,
}

/// An open event stream.
pub struct Events {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
    /// Everything received.
    pub raw: String,
}

impl Events {
    /// Opens a stream, which must be granted.
    pub async fn open(url: &str, session_token: Option<&str>) -> Self {
        let response = Self::request(url, session_token, None).await;
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self::from_response(response)
    }

    /// Reads the stream that an answer grants.
    pub fn from_response(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: Box::pin(response.bytes_stream()), text: String::new(), raw: String::new() }
    }

    /// Asks for a stream.
    pub async fn request(url: &str, token: Option<&str>, last_event: Option<&str>) -> Response {
        // A stream may last longer than any other request.
        let mut request = client().get(url).timeout(Duration::from_secs(3600));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        request.send().await.unwrap()
    }

    /// The next event, or `None` when the stream ended in order.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(TIMEOUT, async {
            loop {
                while let Some(end) = self.text.find("\n\n") {
                    let block = self.text[..end].to_owned();
                    self.text.drain(..end + 2);
                    let field = |name: &str| {
                        let prefix = format!("{name}: ");
                        block.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
                    };
                    if let Some(data) = field("data") {
                        return Some(Event {
                            name: field("event").unwrap_or_default(),
                            id: field("id").unwrap_or_default(),
                            data: serde_json::from_str(&data).unwrap(),
                        });
                    }
                }
                let bytes = self.body.next().await?.expect("the stream breaks off");
                let text = std::str::from_utf8(&bytes).unwrap();
                self.text.push_str(text);
                self.raw.push_str(text);
            }
        })
        .await
        .expect("an event in time")
    }

    /// Reads until `text` has arrived.
    pub async fn until(&mut self, text: &str) {
        let wait = async {
            while !self.raw.contains(text) {
                let bytes = self.body.next().await.expect("not the end").unwrap();
                let part = std::str::from_utf8(&bytes).unwrap();
                self.text.push_str(part);
                self.raw.push_str(part);
            }
        };
        tokio::time::timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("{text:?} in time"));
    }
}

/// Text of a JSON member.
pub fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

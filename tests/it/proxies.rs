//! The proxies that people put in front, with the configurations of `deploy/`: streams are not
//! buffered, WebSockets pass, long polls last, and nothing secret gets into a log.

use std::{
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::support::{Browser, Events, Process, Program, TIMEOUT, dpop_key::Key, redis, text};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Certificate, Client, Method, StatusCode, Url, Version, header, redirect::Policy};
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

/// A proxy.
struct Proxy {
    program: Program,
    directory: redis::Directory,
    port: u16,
    plain_port: u16,
}

impl Proxy {
    /// Starts `program` with `template` of `deploy/`, in which `replace` puts this test's places,
    /// once each.
    async fn start(
        program: &str,
        template: &str,
        replace: impl Fn(&Places) -> Vec<(&'static str, String)>,
        arguments: impl Fn(&Places) -> Vec<String>,
    ) -> Self {
        let directory = redis::Directory::new();
        certificate(directory.path());
        let places = Places {
            folder: directory.path().to_str().unwrap().to_owned(),
            configuration: directory
                .file(Path::new(template).file_name().unwrap().to_str().unwrap()),
            port: redis::free_port(),
            plain_port: redis::free_port(),
        };
        let mut configuration = deployed(template);
        for (from, to) in replace(&places) {
            assert_eq!(configuration.matches(from).count(), 1, "{from:?} in {template}");
            configuration = configuration.replace(from, &to);
        }
        std::fs::write(&places.configuration, configuration).unwrap();
        let running = Program::start(program, arguments(&places), &directory);
        let (port, plain_port) = (places.port, places.plain_port);
        let mut proxy = Self { program: running, directory, port, plain_port };
        let ready = Instant::now();
        let url = proxy.url("/readyz");
        let client = proxy.client(false);
        // An API that asks for a token has started, too.
        let answers = [StatusCode::OK, StatusCode::UNAUTHORIZED];
        while !client.get(&url).send().await.is_ok_and(|it| answers.contains(&it.status())) {
            let ended = proxy.program.ended();
            assert!(
                ended.is_none() && ready.elapsed() < TIMEOUT,
                "{program} does not pass on: {ended:?} {}",
                proxy.program.output()
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        proxy
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// `url` of the relay, at the proxy.
    fn through(&self, url: &str) -> String {
        self.url(Url::parse(url).unwrap().path())
    }

    /// A client that trusts the test's certificate, with HTTP/2 when offered, or HTTP/1.1.
    fn client(&self, with_http2: bool) -> Client {
        self.client_at([127, 0, 0, 1], with_http2)
    }

    /// The same at another address of this machine.
    fn client_at(&self, address: [u8; 4], with_http2: bool) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(self.directory.file("relay.crt")).unwrap();
        let builder = Client::builder()
            .tls_certs_only([Certificate::from_pem(&pem).unwrap()])
            .resolve("localhost", SocketAddr::from(([127, 0, 0, 1], self.port)))
            .local_address(IpAddr::from(address))
            .redirect(Policy::none())
            .timeout(TIMEOUT);
        if with_http2 { builder } else { builder.http1_only() }.build().unwrap()
    }
}

/// What the configuration of one test needs to know.
struct Places {
    folder: String,
    configuration: String,
    port: u16,
    plain_port: u16,
}

/// A file of `deploy/`.
fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes `relay.crt`, `relay.key`, and both in `relay.pem`.
pub fn certificate(folder: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -addext basicConstraints=critical,CA:FALSE -keyout relay.key -out relay.crt";
    let done = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl runs; install the package openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let [certificate, key] =
        ["relay.crt", "relay.key"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    std::fs::write(folder.join("relay.pem"), certificate + &key).unwrap();
}

/// Sessions that one client may create in a row; more than the other checks need.
const ALLOWANCE: usize = 20;

/// A relay whose heartbeats come too late to push anything out of a buffer.
fn relay() -> (Process, String) {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_HEARTBEAT", "5m"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", &ALLOWANCE.to_string()),
    ]);
    let address = relay.url.strip_prefix("http://").unwrap().to_owned();
    (relay, address)
}

async fn create(proxy: &Proxy, client: &Client) -> Value {
    let answer = client.post(proxy.url("/addons/sessions")).json(&json!({"bind": true})).send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.json().await.unwrap()
}

/// Everything that a proxy must let pass.
async fn lets_everything_pass(relay: &Process, proxy: &Proxy) {
    let mut secrets = Vec::new();
    for (with_http2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let client = proxy.client(with_http2);

        // The head and the first lines arrive though nothing follows; then the token does.
        let session = create(proxy, &client).await;
        let answer = client
            .get(proxy.through(text(&session, "events_url")))
            .bearer_auth(text(&session, "session_token"))
            .send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.version(), version);
        let mut events = Events::from_response(answer);
        events.until("retry: ").await;
        events.until("\n\n").await;
        Browser::default().sign_in(&session, "alice").await;
        let event = events.next().await.expect("an event");
        assert_eq!((event.name.as_str(), event.id.len()), ("authenticated", 22));
        let me = client.get(proxy.url("/addons/me")).bearer_auth(text(&event.data, "access_token"));
        assert_eq!(me.send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(events.next().await, None, "the end of the stream passes, too");
        secrets.push(text(&session, "session_id").to_owned());

        // A poll that began before the login.
        let session = create(proxy, &client).await;
        let poll = client
            .get(proxy.through(text(&session, "poll_url")) + "?wait=15")
            .bearer_auth(text(&session, "session_token"))
            .send();
        let poll = tokio::spawn(poll);
        redis::eventually("the poll waits", || async {
            let metrics =
                crate::support::client().get(format!("{}/metrics", relay.url)).send().await;
            let metrics = metrics.unwrap().text().await.unwrap();
            metrics
                .contains("token_relay_streams_open{transport=\"LongPoll\",client=\"addons\"} 1\n")
        })
        .await;
        let page = Browser::default().sign_in(&session, "bob").await;
        assert_eq!(page.status, StatusCode::OK);
        let answer = poll.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let token: Value = answer.json().await.unwrap();
        assert_eq!(text(&token, "state"), "authenticated");
        secrets.push(text(&session, "session_id").to_owned());

        let metrics = client.get(proxy.url("/metrics")).send().await.unwrap();
        assert_eq!(metrics.status(), StatusCode::NOT_FOUND, "metrics are not for everybody");
    }
    secrets.push(web_socket(proxy).await);
    tells_clients_apart(proxy).await;
    let output = proxy.program.output();
    for secret in secrets {
        assert!(!output.contains(&secret), "a session ID in the log of the proxy: {output}");
        assert!(!relay.log().contains(&secret));
    }
}

/// Gets a token by WebSocket; gives the session ID.
async fn web_socket(proxy: &Proxy) -> String {
    let client = proxy.client(false);
    let session = create(proxy, &client).await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let answer = client
        .get(proxy.through(text(&session, "websocket_url")))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, "token-relay.v1")
        .bearer_auth(text(&session, "session_token"))
        .send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let accepted = answer.headers()[header::SEC_WEBSOCKET_ACCEPT].to_str().unwrap();
    assert_eq!(accepted, derive_accept_key(key.as_bytes()));
    let upgraded = answer.upgrade().await.unwrap();
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    Browser::default().sign_in(&session, "carol").await;
    let next = tokio::time::timeout(TIMEOUT, socket.next()).await.expect("a message in time");
    let message: Value = serde_json::from_str(next.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(text(&message, "type"), "authenticated");
    socket.send(Message::text(r#"{"type":"ack"}"#)).await.unwrap();
    let close = tokio::time::timeout(TIMEOUT, socket.next()).await.expect("a close in time");
    assert!(matches!(close, Some(Ok(Message::Close(Some(_))))), "{close:?}");
    text(&session, "session_id").to_owned()
}

/// The relay learns each client's address from the proxy, and nothing that a client makes up.
async fn tells_clients_apart(proxy: &Proxy) {
    let create = |client: &Client, claimed: String| {
        let request = client.post(proxy.url("/addons/sessions"));
        let request = request.header("x-forwarded-for", claimed).send();
        async move { request.await.unwrap().status() }
    };
    let [greedy, modest] = [2, 3].map(|number| proxy.client_at([127, 0, 0, number], true));
    for _ in 0..ALLOWANCE {
        assert_eq!(create(&greedy, "192.0.2.0".to_owned()).await, StatusCode::CREATED);
    }
    // One more may become free meanwhile, and the next one then not.
    let refused = StatusCode::TOO_MANY_REQUESTS;
    let mut made_up = (1..=254).map(|number| format!("192.0.2.{number}"));
    redis::eventually("the allowance ends, whatever the client claims", || {
        let claimed = made_up.next().expect("an address");
        let answer = create(&greedy, claimed);
        async move { answer.await == refused }
    })
    .await;
    assert_eq!(create(&modest, "192.0.2.0".to_owned()).await, StatusCode::CREATED, "somebody else");
}

/// Plain HTTP only leads to HTTPS.
async fn leads_to_https(proxy: &Proxy) {
    let url = format!("http://127.0.0.1:{}/addons/sessions", proxy.plain_port);
    let answer = crate::support::client().get(url).send().await.unwrap();
    let permanent = [StatusCode::PERMANENT_REDIRECT, StatusCode::MOVED_PERMANENTLY];
    assert!(permanent.contains(&answer.status()), "{}", answer.status());
    let target = answer.headers()[header::LOCATION].to_str().unwrap();
    assert!(target.starts_with("https://127.0.0.1"), "{target}");
}

/// The value of the one setting `name` in seconds, for which a proxy must wait longer than for the
/// longest poll.
fn timeout(configuration: &str, name: &str) -> u64 {
    let mut values = configuration.lines().filter_map(|line| line.trim().strip_prefix(name));
    let value = values.next().unwrap_or_else(|| panic!("no {name}")).trim().trim_end_matches(';');
    assert_eq!(values.next(), None, "{name} twice");
    value.strip_suffix('s').expect("seconds").parse().unwrap()
}

/// `?wait=` at its largest.
const LONGEST_POLL: u64 = 60;

#[tokio::test]
async fn nginx_lets_everything_pass() {
    let (relay, address) = relay();
    let replace = |places: &Places| {
        let Places { folder, port, plain_port, .. } = places;
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {folder}/{name};"))
            .concat();
        vec![
            ("\nhttp {", format!("\nhttp {{ {temporary}")),
            // More than this machine may allow.
            ("worker_rlimit_nofile 40000;", String::new()),
            ("worker_connections 20000;", "worker_connections 1000;".to_owned()),
            ("/dev/stdout", format!("{folder}/access.log")),
            ("server 127.0.0.1:8080;", format!("server {address};")),
            ("listen 80;", format!("listen 127.0.0.1:{plain_port};")),
            ("listen [::]:80;", String::new()),
            ("listen 443 ssl http2;", format!("listen 127.0.0.1:{port} ssl http2;")),
            ("listen [::]:443 ssl http2;", String::new()),
            ("/etc/nginx/tls/relay.crt", format!("{folder}/relay.crt")),
            ("/etc/nginx/tls/relay.key", format!("{folder}/relay.key")),
        ]
    };
    let arguments = |places: &Places| {
        let global = format!("daemon off; master_process off; pid {}/pid;", places.folder);
        ["-e", "stderr", "-c", &places.configuration, "-g", &global].map(str::to_owned).to_vec()
    };
    let proxy = Proxy::start("nginx", "nginx.conf", replace, arguments).await;
    lets_everything_pass(&relay, &proxy).await;
    leads_to_https(&proxy).await;
    let log = std::fs::read_to_string(proxy.directory.file("access.log")).unwrap();
    assert!(log.contains(" POST 201 ") && !log.contains("addons"), "{log}");
    assert!(timeout(&deployed("nginx.conf"), "proxy_read_timeout") > LONGEST_POLL);
}

#[tokio::test]
async fn haproxy_lets_everything_pass() {
    let (relay, address) = relay();
    let replace = |places: &Places| {
        let Places { folder, port, plain_port, .. } = places;
        vec![
            ("bind :80\n", format!("bind 127.0.0.1:{plain_port}\n")),
            ("bind :443 ", format!("bind 127.0.0.1:{port} ")),
            ("/etc/haproxy/relay.pem", format!("{folder}/relay.pem")),
            ("server relay1 127.0.0.1:8080", format!("server relay1 {address}")),
        ]
    };
    let arguments =
        |places: &Places| ["-db", "-f", &places.configuration].map(str::to_owned).to_vec();
    let proxy = Proxy::start("haproxy", "haproxy.cfg", replace, arguments).await;
    lets_everything_pass(&relay, &proxy).await;
    leads_to_https(&proxy).await;
    let configuration = deployed("haproxy.cfg");
    for name in ["timeout client", "timeout server", "timeout tunnel"] {
        assert!(timeout(&configuration, name) > LONGEST_POLL, "{name}");
    }
}

#[tokio::test]
async fn caddy_lets_everything_pass() {
    let (relay, address) = relay();
    let replace = |places: &Places| {
        let Places { folder, port, plain_port, .. } = places;
        let site = format!(
            "{{\n admin off\n http_port {plain_port}\n https_port {port}\n default_bind 127.0.0.1\n}}
             localhost {{\n tls {folder}/relay.crt {folder}/relay.key\n"
        );
        vec![("\nrelay.example {", format!("\n{site}")), ("127.0.0.1:8080", address.clone())]
    };
    let arguments = |places: &Places| {
        ["run", "--adapter", "caddyfile", "--config", &places.configuration]
            .map(str::to_owned)
            .to_vec()
    };
    let proxy = Proxy::start("caddy", "Caddyfile", replace, arguments).await;
    lets_everything_pass(&relay, &proxy).await;
    assert!(!deployed("Caddyfile").contains("read_timeout "), "a poll could be cut");
}

/// Where `tests/run` puts it; Debian has no package of it.
const TRAEFIK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/traefik");

/// Starts Traefik with its static configuration as deployed and `template` for its file provider.
async fn traefik(
    template: &str,
    host: &'static str,
    addresses: impl Fn() -> Vec<(&'static str, String)>,
) -> Proxy {
    let replace = |places: &Places| {
        let folder = &places.folder;
        let certificate = format!(
            "tls: {{certificates: [{{certFile: {folder}/relay.crt, keyFile: {folder}/relay.key}}]}}"
        );
        let mut all = addresses();
        all.extend([
            (host, "Host(`localhost`)".to_owned()),
            ("tls:\n        certResolver: default\n", "tls: {}\n".to_owned()),
            ("\nhttp:\n", format!("\n{certificate}\nhttp:\n")),
        ]);
        all
    };
    let arguments = |places: &Places| {
        let Places { folder, configuration, port, plain_port } = places;
        let mut fixed = deployed("traefik/traefik.yaml");
        for (from, to) in [
            ("\":80\"", format!("\"127.0.0.1:{plain_port}\"")),
            ("\":443\"", format!("\"127.0.0.1:{port}\"")),
            ("/etc/traefik/relay.yaml", configuration.clone()),
            ("/var/lib/traefik/acme.json", format!("{folder}/acme.json")),
            ("accessLog:\n", format!("accessLog:\n  filePath: {folder}/access.log\n")),
            // It would ask for news of itself.
            ("\nproviders:", "\nglobal: {checkNewVersion: false}\nproviders:".to_owned()),
        ] {
            assert_eq!(fixed.matches(from).count(), 1, "{from:?} in traefik.yaml");
            fixed = fixed.replace(from, &to);
        }
        let path = format!("{folder}/static.yaml");
        std::fs::write(&path, fixed).unwrap();
        vec![format!("--configFile={path}")]
    };
    Proxy::start(TRAEFIK, template, replace, arguments).await
}

#[tokio::test]
async fn traefik_lets_everything_pass() {
    let (relay, address) = relay();
    let addresses = || vec![("http://127.0.0.1:8080", format!("http://{address}"))];
    let proxy = traefik("traefik/relay.yaml", "Host(`relay.example`)", addresses).await;
    lets_everything_pass(&relay, &proxy).await;
    leads_to_https(&proxy).await;
    // Traefik writes its log at its leisure.
    let log = proxy.directory.file("access.log");
    redis::eventually("the log is written", || async {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("\"DownstreamStatus\":201"))
    })
    .await;
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(!log.contains("/addons/"), "{log}");
    assert!(deployed("traefik/traefik.yaml").contains("readTimeout: 15m"));
}

/// An API on WSGI that answers with the headers as it sees them: `_` and `-` are one to it.
struct Api {
    child: Child,
    address: String,
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn api() -> Api {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/wsgi.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs; install the package python3");
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    Api { child, address: address.trim().to_owned() }
}

/// Requests by which a client might pass for somebody else: names and values of headers.
const TRICKS: [&[(&str, &str)]; 10] = [
    &[("x-auth-subject", "mallory"), ("x-auth-name", "Mallory")],
    &[("x_auth_subject", "mallory"), ("x_auth_name", "Mallory")],
    &[("x-auth_subject", "mallory"), ("x_auth-email", "mallory@example.com")],
    &[("x-auth-token_id", "1"), ("x_auth_token-id", "1"), ("x_auth_scope", "admin")],
    &[("connection", "x-auth-subject"), ("x_auth_subject", "mallory")],
    &[("connection", "close, X-Auth-Subject"), ("x-auth-subject", "mallory")],
    &[
        ("connection", "keep-alive"),
        ("connection", "x-auth-email"),
        ("x_auth_email", "m@example.com"),
    ],
    &[("connection", "X_Auth_Subject, x-auth-subject"), ("x_auth_subject", "mallory")],
    &[("x-auth-subject", "alice"), ("x-auth-subject", "mallory")],
    &[("connection", "x-auth-subject, x-auth-scope, x-auth-name, x-auth-email, x-auth-token-id")],
];

/// Who has no good token does not get through, and the API hears of the others from the relay only.
async fn asks_who_may_pass(relay: &Process, client: &Client, url: &str) {
    let refused = client.get(url).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.starts_with("Bearer"), "{challenge}");
    let forged = client.get(url).bearer_auth("x.y.z").send().await.unwrap();
    assert_eq!(forged.status(), StatusCode::UNAUTHORIZED);
    let session = crate::support::create(&relay.url, None).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = crate::support::client().get(text(&session, "poll_url")).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let token = text(&answer, "access_token");
    let plain: &[(&str, &str)] = &[];
    let mut passed = 0;
    for trick in TRICKS.into_iter().chain([plain]) {
        let request = trick.iter().fold(client.get(url).bearer_auth(token), |request, field| {
            request.header(field.0, field.1)
        });
        let answer = request.send().await.unwrap();
        if answer.status() == StatusCode::BAD_REQUEST && trick[0].0 == "connection" {
            continue;
        }
        passed += 1;
        assert_eq!(answer.status(), StatusCode::OK, "{trick:?}");
        let seen: Value = answer.json().await.unwrap();
        for (name, value) in
            [("SUBJECT", "alice"), ("SCOPE", "addons"), ("EMAIL", "alice@example.com")]
        {
            assert_eq!(text(&seen, &format!("HTTP_X_AUTH_{name}")), value, "{trick:?}: {seen}");
        }
        assert!(text(&seen, "HTTP_X_AUTH_TOKEN_ID").len() > 10, "{trick:?}: {seen}");
        // The relay of this test copies no such claim.
        assert!(seen.get("HTTP_X_AUTH_NAME").is_none_or(|name| name == ""), "{trick:?}: {seen}");
    }
    assert!(passed >= 6, "{passed}");
    asks_which_request_a_proof_is_for(relay, client, url).await;
    let revoke = crate::support::client().post(format!("{}/addons/revoke", relay.url));
    let revoke = revoke.form(&[("token", token)]).send().await.unwrap();
    assert_eq!(revoke.status(), StatusCode::OK);
    let late = client.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(late.status(), StatusCode::UNAUTHORIZED, "revoked");
}

/// A proof is for the request that the client sent, whatever it says of that request besides.
async fn asks_which_request_a_proof_is_for(relay: &Process, client: &Client, url: &str) {
    let key = Key::generate();
    let body = json!({"dpop_jkt": key.thumbprint()});
    let session = crate::support::create(&relay.url, Some(body)).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = crate::support::client().get(text(&session, "poll_url")).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let token = text(&answer, "access_token");
    let ask = |method: Method, proof: String| {
        let request = client.request(method, format!("{url}?a=b"));
        request.header(header::AUTHORIZATION, format!("DPoP {token}")).header("dpop", proof)
    };
    let proof = |nonce: &str, method: &str, url: &str| {
        key.proof(method, url, nonce, Some(token), &json!({}))
    };
    let bearer = client.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(bearer.status(), StatusCode::UNAUTHORIZED, "a bound token as a bearer token");
    let demanded = ask(Method::GET, proof("", "GET", url)).send().await.unwrap();
    assert_eq!(demanded.status(), StatusCode::UNAUTHORIZED);
    let challenge = demanded.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.contains("use_dpop_nonce"), "{challenge}");
    let nonce = demanded.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    for method in [Method::GET, Method::POST] {
        let own = proof(&nonce, method.as_str(), url);
        let answer = ask(method.clone(), own.clone()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{method}: {:?}", relay.log().lines().last());
        let again = ask(method, own).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "a replay");
    }
    let elsewhere = url.replace("/resource", "/elsewhere");
    for (fields, method, proven) in [
        (&[][..], "POST", url),
        (&[], "GET", elsewhere.as_str()),
        (&[("x-forwarded-method", "POST")], "POST", url),
        (&[("x_forwarded_method", "POST")], "POST", url),
        (&[("x-forwarded-uri", "/elsewhere")], "GET", &elsewhere),
        (&[("x_forwarded_uri", "/elsewhere")], "GET", &elsewhere),
        (
            &[("x-forwarded-host", "evil.example")],
            "GET",
            &url.replace("localhost", "evil.example").replace("127.0.0.1", "evil.example"),
        ),
    ] {
        let request = ask(Method::GET, proof(&nonce, method, proven));
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let status = request.send().await.unwrap().status();
        assert!(!status.is_success(), "{fields:?} {method} {proven}");
    }
}

fn guard() -> (Process, String) {
    let relay = Process::demo(&[
        ("TOKEN_RELAY_TOKEN_CLAIMS", "email"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1/32"),
    ]);
    let address = relay.url.strip_prefix("http://").unwrap().to_owned();
    (relay, address)
}

#[tokio::test]
async fn nginx_asks_the_relay_who_may_pass() {
    let ((relay, guard), api) = (guard(), api());
    let directory = redis::Directory::new();
    let (folder, port) = (directory.path().display(), redis::free_port());
    let site = deployed("forward-auth/nginx.conf");
    for place in ["listen 8443;", "127.0.0.1:8080", "127.0.0.1:9000"] {
        assert_eq!(site.matches(place).count(), 1, "{place}");
    }
    let site = site
        .replace("listen 8443;", &format!("listen 127.0.0.1:{port};"))
        .replace("127.0.0.1:8080", &guard)
        .replace("127.0.0.1:9000", &api.address);
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .concat();
    let whole = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
         events {{}} http {{ access_log off; {temporary} {site} }}"
    );
    std::fs::write(directory.file("nginx.conf"), whole).unwrap();
    let files = [directory.file("nginx.conf"), directory.file("error.log")];
    let _nginx = Program::start("nginx", ["-c", &files[0], "-e", &files[1]], &directory);
    let (url, client) = (format!("http://127.0.0.1:{port}/resource"), crate::support::client());
    redis::eventually("nginx answers", || async { client.get(&url).send().await.is_ok() }).await;
    asks_who_may_pass(&relay, &client, &url).await;
}

#[tokio::test]
async fn caddy_asks_the_relay_who_may_pass() {
    let ((relay, guard), api) = (guard(), api());
    let replace = |places: &Places| {
        let Places { folder, port, plain_port, .. } = places;
        let site = format!(
            "{{\n admin off\n http_port {plain_port}\n https_port {port}\n default_bind 127.0.0.1\n}}
             localhost {{\n tls {folder}/relay.crt {folder}/relay.key\n"
        );
        vec![
            ("\napi.example {", format!("\n{site}")),
            ("127.0.0.1:8080", guard.clone()),
            ("127.0.0.1:9000", api.address.clone()),
        ]
    };
    let arguments = |places: &Places| {
        ["run", "--adapter", "caddyfile", "--config", &places.configuration]
            .map(str::to_owned)
            .to_vec()
    };
    let proxy = Proxy::start("caddy", "forward-auth/Caddyfile", replace, arguments).await;
    asks_who_may_pass(&relay, &proxy.client(false), &proxy.url("/resource")).await;
}

#[tokio::test]
async fn haproxy_asks_the_relay_who_may_pass() {
    let ((relay, guard), api) = (guard(), api());
    let replace = |places: &Places| {
        let Places { folder, port, .. } = places;
        std::fs::write(format!("{folder}/auth.lua"), deployed("forward-auth/haproxy.lua")).unwrap();
        vec![
            ("/etc/haproxy/forward-auth.lua", format!("{folder}/auth.lua")),
            ("127.0.0.1:8080", guard.clone()),
            (":8443", format!("127.0.0.1:{port}")),
            ("/etc/haproxy/api.pem", format!("{folder}/relay.pem")),
            ("127.0.0.1:9000", api.address.clone()),
        ]
    };
    let arguments =
        |places: &Places| vec!["-db".to_owned(), "-f".to_owned(), places.configuration.clone()];
    let proxy = Proxy::start("haproxy", "forward-auth/haproxy.cfg", replace, arguments).await;
    asks_who_may_pass(&relay, &proxy.client(false), &proxy.url("/resource")).await;
}

#[tokio::test]
async fn traefik_asks_the_relay_who_may_pass() {
    let ((relay, guard), api) = (guard(), api());
    let addresses =
        || vec![("127.0.0.1:8080", guard.clone()), ("127.0.0.1:9000", api.address.clone())];
    let proxy = traefik("forward-auth/traefik.yaml", "Host(`api.example`)", addresses).await;
    asks_who_may_pass(&relay, &proxy.client(false), &proxy.url("/resource")).await;
}

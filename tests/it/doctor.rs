//! `token-relay doctor` through real proxies: nothing is found where a proxy is right, and each that
//! is broken in one way is found to be broken in just that way, with the line that mends it.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use axum::{body::Body, http::Response};
use futures_util::StreamExt as _;
use serde_json::Value;

use crate::support::{Process, Program, TIMEOUT, client, free_port, redis, text};

/// An add-in's origin that the relay allows.
const ORIGIN: &str = "https://addin.example";

/// A proxy in front of a relay of its own.
pub struct Deployment {
    proxy: Program,
    pub directory: redis::Directory,
    pub url: String,
    _relay: Process,
    _second: Option<Process>,
}

/// What is not as it should be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken {
    /// Lines added where the proxy passes requests on.
    pub added: &'static str,
    /// Lines added around that.
    pub around: &'static str,
    /// A line of the right configuration that is missing.
    pub missing: &'static str,
    /// A setting of the relay.
    pub setting: Option<(&'static str, &'static str)>,
}

fn nginx(port: u16, relay: &str, folder: &str, tls: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};"))
        .concat();
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 200; }}
        http {{ {temporary} access_log off;
        map $http_upgrade $to_relay {{ default upgrade; '' ''; }}
        server {{
            listen 127.0.0.1:{port} {tls};
            ssl_certificate {folder}/relay.crt; ssl_certificate_key {folder}/relay.key;
            location = /metrics {{ return 404; }}
            location /operator/ {{ return 404; }}
            #around
            location / {{
                proxy_pass http://{relay};
                proxy_http_version 1.1;
                proxy_set_header Host $http_host;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection $to_relay;
                proxy_read_timeout 75s;
                #added
            }}
        }} }}"
    )
}

fn caddy(port: u16, relay: &str, _: &str) -> String {
    format!(
        "{{\n admin off\n auto_https off\n default_bind 127.0.0.1\n}}
        http://127.0.0.1:{port} {{
            respond /metrics 404
            respond /operator/* 404
            #around
            reverse_proxy {relay} {{
                #added
            }}
        }}\n"
    )
}

fn haproxy(port: u16, relay: &str, _: &str) -> String {
    format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 75s\n timeout server 75s\n \
        timeout tunnel 75s\n\
        frontend public\n bind 127.0.0.1:{port}\n default_backend relay\n \
        http-request return status 404 if {{ path /metrics }} or {{ path_beg /operator/ }}\n\
        backend relay\n #added\n server relay {relay}\n"
    )
}

/// Where `tests/run` puts it; Debian has no package of it.
const TRAEFIK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/traefik");

/// A middleware that changes nothing.
const NOTHING: &str = "headers: {customResponseHeaders: {X-Nothing: none}}";

/// The static configuration, and the dynamic one of the file that it names.
fn traefik(port: u16, relay: &str, folder: &str) -> [String; 2] {
    let fixed = format!(
        "global: {{checkNewVersion: false, sendAnonymousUsage: false}}
entryPoints:
  web:
    address: '127.0.0.1:{port}'
    transport: {{respondingTimeouts: {{readTimeout: 15m}}}}
providers: {{file: {{filename: {folder}/dynamic.yaml}}}}
"
    );
    let dynamic = format!(
        "http:
  routers:
    relay:
      rule: PathPrefix(`/`) && !Path(`/metrics`) && !PathPrefix(`/operator/`)
      entryPoints: [web]
      middlewares: [one]
      service: relay
  middlewares:
    one: {{{NOTHING}}}
  services:
    relay: {{loadBalancer: {{serversTransport: relay, servers: [{{url: 'http://{relay}'}}]}}}}
  serversTransports:
    relay: {{forwardingTimeouts: {{responseHeaderTimeout: 75s}}}}
"
    );
    [fixed, dynamic]
}

impl Deployment {
    async fn start(program: &'static str, broken: Broken) -> Self {
        Self::start_with_tls(program, broken, None).await
    }

    /// The same over TLS with these words of nginx's `listen`.
    pub async fn start_with_tls(
        program: &'static str,
        broken: Broken,
        tls: Option<&'static str>,
    ) -> Self {
        let directory = redis::Directory::new();
        crate::proxies::certificate(directory.path());
        let port = free_port();
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let mut settings = vec![
            // Nothing but the proxy decides when bytes arrive.
            ("TOKEN_RELAY_HEARTBEAT", "5m"),
            ("TOKEN_RELAY_ALLOWED_ORIGINS", ORIGIN),
            ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
        ];
        settings.extend(broken.setting);
        let relay = Process::demo_behind(&url, &settings);
        let address = relay.url.strip_prefix("http://").unwrap();
        let folder = directory.path().to_str().unwrap();
        let parts = match program {
            "nginx" => [nginx(port, address, folder, tls.unwrap_or_default()), String::new()],
            "caddy" => [caddy(port, address, folder), String::new()],
            "haproxy" => [haproxy(port, address, folder), String::new()],
            _ => traefik(port, address, folder),
        };
        // Another instance that shares nothing with the first one.
        let second = broken.added.contains("SECOND").then(|| Process::demo_behind(&url, &settings));
        let other = second.as_ref().map_or("", |it| it.url.strip_prefix("http://").unwrap());
        let added = broken.added.replace("RELAY", address).replace("SECOND", other);
        assert!(parts.iter().any(|part| part.contains(broken.missing)), "{}", broken.missing);
        let [configuration, dynamic] = parts.map(|part| match (program, broken.missing) {
            ("traefik", "") => part,
            ("traefik", missing) => part.replace(missing, &added),
            (_, missing) => {
                let part = part.replace("#added", &added).replace("#around", broken.around);
                if missing.is_empty() { part } else { part.replace(missing, "") }
            }
        });
        let file = directory.file("configuration.yaml");
        std::fs::write(&file, configuration).unwrap();
        std::fs::write(directory.file("dynamic.yaml"), dynamic).unwrap();
        let by_name = format!("--configFile={file}");
        let (binary, arguments) = match program {
            "nginx" => (program, vec!["-e", "stderr", "-c", &file]),
            "caddy" => (program, vec!["run", "--adapter", "caddyfile", "--config", &file]),
            "haproxy" => (program, vec!["-db", "-f", &file]),
            _ => (TRAEFIK, vec![by_name.as_str()]),
        };
        let proxy = Program::start(binary, arguments, &directory);
        let mut deployment = Self { proxy, directory, url, _relay: relay, _second: second };
        let begun = Instant::now();
        // Over TLS as well: a port that answers is enough.
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = deployment.proxy.ended();
            let log = std::fs::read_to_string(deployment.directory.file("error.log"));
            let output = deployment.proxy.output() + &log.unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < TIMEOUT, "{program}: {ended:?} {output}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Traefik reads its routes once it listens.
        while program == "traefik" && !deployment.is_routed().await {
            assert!(begun.elapsed() < TIMEOUT, "{}", deployment.proxy.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        deployment
    }

    async fn is_routed(&self) -> bool {
        let answer = client().get(format!("{}/healthz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

async fn doctor(arguments: &[&str]) -> Output {
    doctor_that_trusts(None, arguments).await
}

async fn doctor_that_trusts(certificate: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_token-relay"));
    command.envs(certificate.map(|path| ("SSL_CERT_FILE", path)));
    command.arg("doctor").args(arguments).output().await.unwrap()
}

/// The exit status, and severity, check, text and line of each finding.
async fn findings(arguments: &[&str]) -> (Option<i32>, Vec<[String; 4]>) {
    let output = doctor(&[arguments, &["--json"]].concat()).await;
    let found: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} {output:?}"));
    let found = found.iter().map(|one| {
        let line = one["mend"].as_str().unwrap_or_default().to_owned();
        let [severity, check, said] =
            ["severity", "check", "text"].map(|it| text(one, it).to_owned());
        [severity, check, said, line]
    });
    (output.status.code(), found.collect())
}

#[tokio::test]
async fn a_cookie_that_lost_secure_over_tls_is_found() {
    let broken = added("proxy_cookie_flags ~ nosecure;");
    let deployment = Deployment::start_with_tls("nginx", broken, Some("ssl http2")).await;
    let certificate = deployment.directory.file("relay.crt");
    let output = doctor_that_trusts(Some(&certificate), &[&deployment.url, "--wait", "1s"]).await;
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("a cookie was changed on its way: secure is missing"), "{shown}");
}

#[tokio::test]
async fn http2_is_looked_at_over_tls() {
    for (tls, status) in [("ssl http2", 0), ("ssl", 3)] {
        let deployment = Deployment::start_with_tls("nginx", Broken::default(), Some(tls)).await;
        let certificate = deployment.directory.file("relay.crt");
        let arguments = [deployment.url.as_str(), "--wait", "2s", "--origin", ORIGIN];
        let output = doctor_that_trusts(Some(&certificate), &arguments).await;
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{shown}");
        let line = format!("\n{:<21} nginx: listen 443 ssl http2;", "");
        assert_eq!(shown.contains("HTTP/2 is not offered") && shown.contains(&line), status == 3);
        // A certificate that nobody trusts is said, and not looked past.
        let output = doctor(&arguments).await;
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains("certificate"), "{shown}");
    }
}

fn faults(found: &[[String; 4]]) -> Vec<&[String; 4]> {
    found.iter().filter(|[severity, ..]| severity != "note").collect()
}

#[tokio::test]
async fn nothing_is_found_where_the_proxy_is_right() {
    for (program, named) in [
        ("nginx", "nginx names itself"),
        ("caddy", "Caddy names itself"),
        ("haproxy", "HAProxy, as"),
        ("traefik", "Traefik, as"),
    ] {
        let deployment = Deployment::start(program, Broken::default()).await;
        let mut arguments = vec![deployment.url.as_str(), "--wait", "2s", "--origin", ORIGIN];
        if named.ends_with("as") {
            arguments.extend(["--proxy", program]);
        }
        let (code, found) = findings(&arguments).await;
        assert!(code == Some(0) && faults(&found).is_empty(), "{program} {code:?} {found:#?}");
        for expected in [
            named,
            "an event stream opens, stays and delivers at once",
            "opens, stays and delivers at once",
            "a long poll of 2s is answered by the relay",
            "https://addin.example may call",
            "arrive at the browser and come back whole",
            "/metrics is not reachable",
            "/operator/ is not reachable",
            "arrive as the relay sends them",
            "a request of 12288 bytes passes",
            "its page arrives with the relay's headers; a long query passes",
            "ready, store up, provider discovered",
        ] {
            assert!(found.iter().any(|[_, _, text, _]| text.contains(expected)), "{found:#?}");
        }
        // Nothing stays open: a stream that was held has ended, and its session.
        let metrics = client().get(format!("{}/metrics", deployment._relay.url)).send().await;
        let metrics = metrics.unwrap().text().await.unwrap();
        let open = "token_relay_streams_open{transport=\"Sse\",client=\"addons\"} 0\n";
        assert!(metrics.contains(open), "{metrics}");
        let cancelled = "token_relay_session_transitions_total{state=\"cancelled\"} 3\n";
        assert!(metrics.contains("created_total{client=\"addons\"} 3\n"), "{metrics}");
        assert!(metrics.contains(cancelled), "{metrics}");
    }
}

/// A proxy, what is broken, the exit status, the check that finds it, words of the finding, and of the
/// line that mends it.
type Case = (&'static str, Broken, i32, &'static str, &'static str, &'static str);

const WHOLE: Broken = Broken { added: "", around: "", missing: "", setting: None };

const fn added(added: &'static str) -> Broken {
    Broken { added, ..WHOLE }
}

const fn around(around: &'static str) -> Broken {
    Broken { around, ..WHOLE }
}

const fn missing(missing: &'static str) -> Broken {
    Broken { missing, ..WHOLE }
}

/// Another middleware of Traefik's, or another value.
const fn replaced(missing: &'static str, added: &'static str) -> Broken {
    Broken { added, missing, ..WHOLE }
}

const OPERATOR_TOKEN: (&str, &str) =
    ("TOKEN_RELAY_OPERATOR_TOKEN", "c2l4dHktZm91ciByYW5kb20gYnl0ZXMgb2YgYSB0ZXN0");

const CASES: &[Case] = &[
    (
        "nginx",
        // With chunks (HTTP/1.1), nginx passes on what it has in any case.
        added(
            "location ~ /events$ { proxy_pass http://RELAY; proxy_set_header Host $http_host;
             proxy_http_version 1.0; proxy_ignore_headers X-Accel-Buffering; }",
        ),
        1,
        "buffering",
        "event streams are buffered",
        "proxy_buffering off;",
    ),
    ("caddy", added("buffer_responses"), 1, "buffering", "are buffered", "flush_interval -1"),
    (
        "haproxy",
        added("http-response wait-for-body time 60s at-least 10000"),
        1,
        "buffering",
        "are buffered",
        "wait-for-body",
    ),
    (
        "nginx",
        added("gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; gzip_http_version 1.0;"),
        1,
        "compression",
        "compressed (gzip)",
        "gzip off;",
    ),
    (
        "nginx",
        replaced("proxy_read_timeout 75s;", "proxy_read_timeout 1s;"),
        1,
        "idle",
        "is cut after",
        "proxy_read_timeout 75s;",
    ),
    (
        "caddy",
        added("transport http {\n read_timeout 1s\n response_header_timeout 1s\n }"),
        1,
        "idle",
        "is cut after",
        "read_timeout",
    ),
    ("haproxy", added("timeout server 1s"), 1, "idle", "is cut after", "timeout server 75s"),
    ("haproxy", added("timeout tunnel 1s"), 3, "idle", "a WebSocket is cut", "timeout tunnel 75s"),
    (
        "nginx",
        missing("proxy_set_header Upgrade $http_upgrade;"),
        3,
        "websocket",
        "the handshake is answered",
        "proxy_set_header Upgrade $http_upgrade;",
    ),
    ("caddy", added("header_up -Upgrade"), 3, "websocket", "the handshake is", "header_up Upgrade"),
    (
        "haproxy",
        added("http-request del-header upgrade"),
        3,
        "websocket",
        "the handshake is",
        "del-header Upgrade",
    ),
    (
        "nginx",
        added("add_header Access-Control-Allow-Origin '*' always;"),
        1,
        "cors",
        "2 times",
        "add_header Access-Control-",
    ),
    (
        "caddy",
        added("header_down Access-Control-Allow-Origin *"),
        1,
        "cors",
        "access-control-allow-origin: * instead of https://addin.example",
        "header Access-Control-",
    ),
    (
        "haproxy",
        added("http-request return status 405 if METH_OPTIONS"),
        1,
        "cors",
        "the preflight is answered 405",
        "what answers OPTIONS",
    ),
    (
        "nginx",
        Broken { setting: Some(("TOKEN_RELAY_ALLOWED_ORIGINS", "https://other.example")), ..WHOLE },
        1,
        "cors",
        "https://addin.example may not call",
        "ALLOWED_ORIGINS=https://addin.example",
    ),
    (
        "nginx",
        added("proxy_hide_header Set-Cookie;"),
        1,
        "cookies",
        "does not arrive",
        "proxy_hide_header Set-Cookie",
    ),
    (
        "haproxy",
        added("http-request del-header cookie"),
        1,
        "cookies",
        "does not reach the relay",
        "del-header Cookie",
    ),
    (
        "haproxy",
        added("http-response set-header Date \"Thu, 01 Jan 2026 00:00:00 GMT\""),
        3,
        "clock",
        "behind this machine's",
        "set-ntp",
    ),
    (
        "haproxy",
        added(
            "http-request return status 200 content-type application/json string \
             '{\"info\":{\"version\":\"0.0.9\"}}' if { path /openapi.json }",
        ),
        3,
        "version",
        "the relay is 0.0.9",
        "doctor of the relay's version",
    ),
    (
        "caddy",
        missing("respond /metrics 404"),
        3,
        "metrics",
        "/metrics can be read by everybody",
        "respond /metrics 404",
    ),
    (
        "nginx",
        Broken {
            missing: "location /operator/ { return 404; }",
            setting: Some(OPERATOR_TOKEN),
            ..WHOLE
        },
        3,
        "operator",
        "asks for OPERATOR_TOKEN",
        "location /operator/ { return 404; }",
    ),
    (
        "nginx",
        Broken {
            added: "location /operator/ { proxy_pass http://RELAY;
                proxy_set_header Authorization \"Basic \
                eDpjMmw0ZEhrdFptOTFjaUJ5WVc1a2IyMGdZbmwwWlhNZ2IyWWdZU0IwWlhOMA==\"; }",
            missing: "location /operator/ { return 404; }",
            setting: Some(OPERATOR_TOKEN),
            ..WHOLE
        },
        1,
        "operator",
        "can be read by everybody",
        "location /operator/ { return 404; }",
    ),
    // Headers of requests.
    (
        "nginx",
        added("proxy_set_header Authorization '';"),
        1,
        "authorization",
        "does not reach the relay",
        "proxy_set_header Authorization $http_authorization;",
    ),
    ("caddy", added("header_up -Authorization"), 1, "authorization", "not reach", "header_up Auth"),
    (
        "haproxy",
        added("http-request del-header authorization"),
        1,
        "authorization",
        "not reach",
        "del-header Authorization",
    ),
    (
        "nginx",
        added("proxy_set_header Origin '';"),
        1,
        "origin",
        "the Origin header does not reach the relay",
        "proxy_set_header Origin $http_origin;",
    ),
    // Who is let in, and how often.
    ("haproxy", added("http-request deny if METH_POST"), 1, "access", "answers 403", "deny"),
    (
        "nginx",
        added("location = /addons/sessions { return 302 https://login.example/; }"),
        1,
        "access",
        "leads elsewhere",
        "auth_request",
    ),
    (
        "haproxy",
        added("http-request deny deny_status 429 if { path /addons/sessions }"),
        3,
        "limit",
        "limits requests",
        "http-request deny if { sc_http_req_rate(0) gt 50 }",
    ),
    // Methods, large requests, errors.
    (
        "nginx",
        added("limit_except GET POST OPTIONS { deny all; }"),
        3,
        "methods",
        "DELETE is answered 403",
        "limit_except",
    ),
    ("haproxy", added("http-request deny if METH_DELETE"), 3, "methods", "403", "METH_"),
    (
        "nginx",
        added("client_max_body_size 2k;"),
        3,
        "body",
        "of 12288 bytes is answered 413",
        "client_max_body_size",
    ),
    ("caddy", around("request_body {\n max_size 2KB\n }"), 3, "body", "of 12288 bytes", "max_size"),
    (
        "haproxy",
        added("option http-buffer-request\n http-request deny if { req.body_size gt 2000 }"),
        3,
        "body",
        "403",
        "req.body_size",
    ),
    (
        "nginx",
        added(
            "proxy_intercept_errors on; error_page 400 /sorry;
             location = /sorry { return 400 sorry; }",
        ),
        3,
        "errors",
        "in place of 400 application/problem+json",
        "proxy_intercept_errors off;",
    ),
    (
        "caddy",
        added("@bad status 400\n handle_response @bad {\n respond sorry 200\n }"),
        3,
        "errors",
        "arrives as 200",
        "handle_response",
    ),
    (
        "haproxy",
        added(
            "http-response return status 400 content-type text/html string sorry if { status 400 }",
        ),
        3,
        "errors",
        "arrives as 400 Bad Request text/html",
        "http-response return",
    ),
    (
        "nginx",
        added("if ($args ~ \"x{1000}\") { return 403; }"),
        1,
        "query",
        "of 2500 characters is answered 403",
        "large_client_header_buffers",
    ),
    (
        "haproxy",
        added("http-request deny if { query -m len gt 1000 }"),
        1,
        "query",
        "403",
        "length of url",
    ),
    // Headers of answers.
    (
        "nginx",
        added("add_header Cross-Origin-Opener-Policy same-origin always;"),
        1,
        "dialog",
        "cannot ask the add-in for its proof",
        "Cross-Origin-Opener-Policy",
    ),
    (
        "nginx",
        added("add_header Referrer-Policy no-referrer always;"),
        1,
        "dialog",
        "Origin: null",
        "Referrer-Policy",
    ),
    (
        "caddy",
        added("header_down Content-Security-Policy \"default-src 'self'\""),
        1,
        "dialog",
        "Content-Security-Policy in place of the relay's",
        "Content-Security-Policy",
    ),
    (
        "haproxy",
        added("http-response set-header cross-origin-opener-policy same-origin"),
        1,
        "dialog",
        "cannot ask the add-in",
        "Cross-Origin-Opener-Policy",
    ),
    (
        "nginx",
        added("proxy_cookie_path / /relay/;"),
        1,
        "cookies",
        "path=/ is missing",
        "proxy_cookie_path",
    ),
    (
        "nginx",
        added("proxy_cookie_flags ~ nohttponly samesite=none;"),
        1,
        "cookies",
        "httponly is missing, samesite=lax is missing",
        "proxy_cookie_flags",
    ),
    (
        "haproxy",
        added("http-response replace-header set-cookie (.*) other-\\1"),
        1,
        "cookies",
        "does not",
        "Set-Cookie",
    ),
    (
        "nginx",
        added("proxy_hide_header Cache-Control; add_header Cache-Control 'public, max-age=60';"),
        3,
        "cache",
        "in place of no-store",
        "add_header",
    ),
    (
        "haproxy",
        added("http-response set-header cache-control max-age=60"),
        3,
        "cache",
        "max-age=60",
        "Cache-Control",
    ),
    // Several instances.
    (
        "haproxy",
        added("balance roundrobin\n server second SECOND"),
        1,
        "instances",
        "sign with different keys",
        "SIGNING_KEY",
    ),
    (
        "haproxy",
        added("balance roundrobin\n server second SECOND"),
        1,
        "instances",
        "that do not share a store",
        "REDIS_URL",
    ),
    (
        "haproxy",
        added(
            "http-request set-var(proc.n) var(proc.n,0),add(1) if { path /openapi.json }\n \
             http-request return status 200 content-type application/json string \
             '{\"info\":{\"version\":\"0.0.9\"}}' if { path /openapi.json } { var(proc.n),mod(2) 0 }",
        ),
        3,
        "version",
        "instances of different versions answer: 0.0.9, ",
        "finish the upgrade",
    ),
    // Traefik.
    (
        "traefik",
        replaced(NOTHING, "buffering: {memResponseBodyBytes: 100000}"),
        1,
        "buffering",
        "are buffered",
        "no buffering middleware",
    ),
    (
        "traefik",
        replaced(NOTHING, "compress: {minResponseBodyBytes: 1}"),
        1,
        "compression",
        "are compressed",
        "excludedContentTypes: [text/event-stream]",
    ),
    (
        "traefik",
        replaced("readTimeout: 15m", "writeTimeout: 1s"),
        1,
        "idle",
        "is cut after",
        "writeTimeout: 0",
    ),
    (
        "traefik",
        replaced("responseHeaderTimeout: 75s", "responseHeaderTimeout: 1s"),
        3,
        "idle",
        "a long poll is cut",
        "responseHeaderTimeout: 75s",
    ),
    (
        "traefik",
        replaced(NOTHING, "headers: {customRequestHeaders: {Upgrade: ''}}"),
        3,
        "websocket",
        "the handshake is answered",
        "customRequestHeaders",
    ),
    (
        "traefik",
        replaced(
            NOTHING,
            "headers: {accessControlAllowOriginList: ['*'], accessControlAllowMethods: [POST], \
             accessControlAllowHeaders: ['*']}",
        ),
        1,
        "cors",
        "may not call",
        "accessControl",
    ),
    (
        "traefik",
        replaced(NOTHING, "headers: {customResponseHeaders: {Set-Cookie: ''}}"),
        1,
        "cookies",
        "does not arrive",
        "customResponseHeaders",
    ),
    (
        "traefik",
        replaced(NOTHING, "headers: {customRequestHeaders: {Authorization: ''}}"),
        1,
        "authorization",
        "not reach",
        "customRequestHeaders",
    ),
    (
        "traefik",
        replaced(NOTHING, "headers: {referrerPolicy: no-referrer}"),
        1,
        "dialog",
        "Origin: null",
        "referrerPolicy",
    ),
    (
        "traefik",
        replaced(" && !Path(`/metrics`)", ""),
        3,
        "metrics",
        "can be read by everybody",
        "!Path(`/metrics`)",
    ),
];

#[tokio::test]
async fn each_fault_of_a_proxy_is_found_with_the_line_that_mends_it() {
    let run = |case: &'static Case| async move {
        let &(program, broken, status, check, words, line) = case;
        let deployment = Deployment::start(program, broken).await;
        let wait = if check == "idle" { "4s" } else { "1s" };
        let arguments =
            [deployment.url.as_str(), "--wait", wait, "--origin", ORIGIN, "--proxy", program];
        let (code, found) = findings(&arguments).await;
        let output = deployment.proxy.output();
        let found_it = found.iter().any(|[severity, own, text, mend]| {
            severity != "note" && own == check && text.contains(words) && mend.contains(line)
        });
        let wrong = faults(&found);
        let context = format!("{program} {broken:?} {code:?} {wrong:#?} {output}");
        // Nothing else is wrong: one cause, one finding, or the same one of another transport.
        let alone = faults(&found).iter().all(|[_, own, ..]| own == check);
        (!(found_it && alone && code == Some(status))).then_some(context)
    };
    let wrong = futures_util::stream::iter(CASES).map(run).buffer_unordered(8);
    let wrong: Vec<_> = wrong.filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// nginx with nothing but this.
async fn instead(configuration: &str) -> (Program, Process, String) {
    let (relay, directory, port) = (Process::demo(&[]), redis::Directory::new(), free_port());
    let folder = directory.path().to_str().unwrap();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; events {{}}
        http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
        server {{ listen 127.0.0.1:{port}; {} }} }}",
        configuration.replace("RELAY", relay.url.strip_prefix("http://").unwrap())
    );
    let file = directory.file("configuration");
    std::fs::write(&file, configuration).unwrap();
    let proxy = Program::start("nginx", ["-e", "stderr", "-c", &file], &directory);
    redis::eventually("nginx listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    (proxy, relay, format!("http://127.0.0.1:{port}"))
}

#[tokio::test]
async fn a_relay_that_cannot_be_used_is_said_at_once() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (url, words) in [
        (nobody.as_str(), "Connection refused"),
        ("http://relay.example", "must be https"),
        ("https://user:word@relay.example", "must be https"),
    ] {
        let (code, found) = findings(&[url]).await;
        let [[severity, check, text, _]] = &found[..] else { panic!("{found:?}") };
        assert_eq!((code, severity.as_str(), check.as_str()), (Some(1), "error", "connection"));
        assert!(text.contains(words) && !text.contains("word@"), "{text}");
    }
    // Something else answers in its place, below this path or at all.
    for (configuration, path, words, line) in [
        ("location / { return 200 hello; }", "", "what answers is no relay", ""),
        ("location / { return 502; }", "", "does not reach the relay", "proxy_pass http://"),
        ("location / { return 301 https://other.example/; }", "", "leads to https://other.", ""),
        ("auth_basic x; auth_basic_user_file /dev/null;", "", "asks for a password", ""),
        ("location /relay/ { proxy_pass http://RELAY; }", "/relay", "passes on /relay/", "/;"),
    ] {
        let (proxy, _relay, url) = instead(configuration).await;
        let (code, found) = findings(&[&format!("{url}{path}"), "--wait", "1s"]).await;
        let [.., [severity, check, text, mend]] = &found[..] else { panic!("{found:?}") };
        let said = (code, severity.as_str(), check.as_str());
        assert_eq!(said, (Some(1), "error", "connection"), "{found:#?} {}", proxy.output());
        assert!(text.contains(words) && mend.contains(line), "{found:#?}");
    }
    // It calls itself otherwise than it is reached.
    let relay = Process::demo_behind("https://relay.example", &[]);
    let (code, found) = findings(&[&relay.url, "--wait", "1s"]).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let wrong = faults(&found);
    assert!(
        wrong.iter().any(|[_, check, text, mend]| {
            check == "public_url"
                && text.contains("calls itself https://relay.example")
                && *mend == format!("PUBLIC_URL={}", relay.url)
        }),
        "{found:#?}"
    );
    // No client without its name.
    let clients = [("TOKEN_RELAY_CLIENTS__ADDIN__ORIGINS", ORIGIN)];
    let relay = Process::demo(&clients);
    let (code, found) = findings(&[&relay.url, "--wait", "1s"]).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let said = |words: &str| found.iter().any(|[_, _, text, _]| text.contains(words));
    assert!(said("none can be created: 400"), "{found:#?}");
    let (code, found) =
        findings(&[&relay.url, "--wait", "1s", "--client-id", "addin", "--origin", ORIGIN]).await;
    // Its metrics are open, since nothing is in front of it.
    assert_eq!((code, faults(&found).len()), (Some(3), 1), "{found:#?}");
}

/// A server that answers everything with what moves a terminal's cursor, and never ends.
#[tokio::test]
async fn a_hostile_server_moves_no_cursor_and_does_not_hold_the_terminal() {
    let escape = "\u{1b}[2J\u{202e}\u{9b}1m";
    let created = serde_json::json!({
        "session_id": format!("{escape}x"), "expires_in": 1, "transit_url": escape,
        "events_url": escape, "websocket_url": escape, "poll_url": escape, "session_token": escape,
    });
    let ready = serde_json::json!({
        "status": escape, "store": escape, "provider": escape, "draining": false, "streams": 0,
    });
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let answer = match request.uri().path() {
            "/healthz" => Response::new(Body::from(r#"{"status":"ok"}"#)),
            "/readyz" => Response::new(Body::from(ready.to_string())),
            "/openapi.json" => Response::new(Body::from(format!(
                r#"{{"info":{{"version":"\u001b[2J{escape}"}}}}"#
            ))),
            "/metrics" => {
                Response::new(Body::from_stream(futures_util::stream::repeat_with(|| {
                    Ok::<_, std::io::Error>(vec![b'x'; 65536])
                })))
            }
            "/addons/sessions" if request.method() == "OPTIONS" => Response::builder()
                .header("access-control-allow-origin", "https://a\u{80}.example")
                .body(Body::empty())
                .unwrap(),
            _ => Response::builder().status(201).body(Body::from(created.to_string())).unwrap(),
        };
        std::future::ready(answer)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    for more in [&[][..], &["--json"]] {
        let output =
            doctor(&[&[url.as_str(), "--origin", ORIGIN, "--wait", "1s"], more].concat()).await;
        assert_eq!(output.status.code(), Some(1));
        let shown = String::from_utf8(output.stdout).unwrap();
        let is_plain = |each: char| each == '\n' || !(each.is_control() || each == '\u{202e}');
        assert!(shown.chars().all(is_plain), "{shown:?}");
        assert!(shown.contains("what answers is no relay"), "{shown}");
    }
}

/// A proxy that passes on the first bytes of an event stream and holds back what follows: no proxy that
/// can be installed does so alone.
#[tokio::test]
async fn a_stream_whose_heartbeats_are_held_back_is_found_by_those_of_the_websocket() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let relay = Process::demo_behind(&url, &[("TOKEN_RELAY_HEARTBEAT", "1s")]);
    let address = relay.url.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let relay = tokio::net::TcpStream::connect(&address).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (mut from_relay, mut to_relay)) =
                    (client.into_split(), relay.into_split());
                let is_stream = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
                let noticed = std::sync::Arc::clone(&is_stream);
                let order = std::sync::atomic::Ordering::SeqCst;
                let up = async move {
                    let mut bytes = vec![0; 65536];
                    while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                        if bytes[..read].windows(8).any(|part| part == b"/events ") {
                            noticed.store(true, order);
                        }
                        to_relay.write_all(&bytes[..read]).await.unwrap();
                    }
                };
                let down = async move {
                    let (mut bytes, mut held) = (vec![0; 65536], Vec::new());
                    let mut has_begun = false;
                    while let Ok(read @ 1..) = from_relay.read(&mut bytes).await {
                        held.extend_from_slice(&bytes[..read]);
                        let is_begin = held.windows(6).any(|part| part == b"retry:");
                        let is_end = held.windows(6).any(|part| part == b"event:");
                        if !is_stream.load(order) || is_end || (is_begin && !has_begun) {
                            has_begun = is_begin || has_begun;
                            to_client.write_all(&held).await.unwrap();
                            held.clear();
                        }
                    }
                };
                tokio::join!(up, down);
            });
        }
    });
    let (code, found) = findings(&[&url, "--wait", "5s"]).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let [_, _, text, _] = found.iter().find(|[_, check, ..]| check == "buffering").unwrap();
    assert!(text.contains("heartbeats within 5s none arrives"), "{found:#?}");
}

//! OAuth clients of others, from their packages and as they are: whole flows against two instances
//! over Redis, behind nginx, which asks them in turn.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use oauth2::{
    AuthType, ClientId, ClientSecret, DeviceAuthorizationUrl, IntrospectionUrl, RevocationUrl,
    StandardDeviceAuthorizationResponse, StandardRevocableToken, TokenIntrospectionResponse as _,
    TokenResponse as _, TokenUrl, basic::BasicClient,
};
use serde_json::{Value, json};

use crate::support::{
    Browser, Process, TIMEOUT, certificate, form_action, hidden_inputs,
    redis::{self, Directory},
    text,
};

pub const API: &str = "api";
pub const API_SECRET: &str = "a secret of the tests of 32 characters or more";

/// Redis, a provider, two relays and nginx before them.
pub struct Deployment {
    /// Its public URL, which is its issuer.
    pub url: String,
    folder: Directory,
    children: Vec<Child>,
    pub relays: Vec<Process>,
    _provider: Process,
    _redis: redis::Server,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Deployment {
    pub async fn start() -> Self {
        let folder = Directory::new();
        certificate::make(folder.path(), "relay");
        let redis = redis::Server::start(&[]).await;
        let (port, provider_port) = (redis::free_port(), redis::free_port());
        let url = format!("https://localhost:{port}");
        let issuer = format!("http://127.0.0.1:{provider_port}");
        let file = |name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
            folder.file(name)
        };
        let secret = file("client_secret", "the secret of the relay at the provider");
        let listen = format!("127.0.0.1:{provider_port}");
        let provider = Process::start(
            &[
                "demo-provider",
                "--listen",
                &listen,
                "--issuer",
                &issuer,
                "--client-secret-file",
                &secret,
                "--redirect-uri",
                &format!("{url}/callback"),
            ],
            &[],
        );
        let key = Command::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-out", &folder.file("signing.pem")])
            .output()
            .expect("openssl runs; install the package openssl");
        assert!(key.status.success());
        let redis_url = redis.url();
        let signing_key = folder.file("signing.pem");
        let environment = [
            ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
            ("TOKEN_RELAY_PUBLIC_URL", &url),
            ("TOKEN_RELAY_OIDC_ISSUER", &issuer),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET_FILE", &secret),
            ("TOKEN_RELAY_REDIS_URL", &redis_url),
            ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
            ("TOKEN_RELAY_SEALING_KEYS", crate::support::SEALING_KEY),
            ("TOKEN_RELAY_SIGNING_KEY_FILE", &signing_key),
            ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1/32"),
            ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
            ("TOKEN_RELAY_DEVICE_INTERVAL", "1s"),
            ("TOKEN_RELAY_CLIENTS__CLI__NAME", "Map tools"),
            ("TOKEN_RELAY_CLIENTS__CLI__GRANTS", "device session"),
            ("TOKEN_RELAY_CLIENTS__CLI__SCOPE", "maps:read maps:write"),
            ("TOKEN_RELAY_CLIENTS__CLI__AUDIENCE", "https://maps.example"),
            ("TOKEN_RELAY_CLIENTS__API__GRANTS", "introspect"),
            ("TOKEN_RELAY_CLIENTS__API__SECRET", API_SECRET),
        ];
        let relays: Vec<_> = (0..2).map(|_| Process::start(&["serve"], &environment)).collect();
        let servers: String = relays
            .iter()
            .map(|relay| format!("server {};\n", relay.url.strip_prefix("http://").unwrap()))
            .collect();
        let place = folder.path().display();
        let configuration = file(
            "nginx.conf",
            &format!(
                "daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log;\n\
                 events {{}}\n\
                 http {{\n\
                   access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
                   fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
                   upstream relay {{ {servers} }}\n\
                   server {{\n\
                     listen 127.0.0.1:{port} ssl;\n\
                     ssl_certificate {place}/relay.crt; ssl_certificate_key {place}/relay.key;\n\
                     location / {{\n\
                       proxy_pass http://relay; proxy_http_version 1.1; proxy_buffering off;\n\
                       proxy_set_header Host $http_host; proxy_set_header Connection '';\n\
                       proxy_set_header X-Forwarded-For $remote_addr; proxy_read_timeout 75s;\n\
                     }}\n\
                   }}\n\
                 }}\n"
            ),
        );
        let nginx = Command::new("nginx")
            .args(["-c", &configuration])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts; install the package nginx");
        let deployment =
            Self { url, folder, children: vec![nginx], relays, _provider: provider, _redis: redis };
        let client = deployment.client();
        let start = Instant::now();
        while !client
            .get(format!("{}/readyz", deployment.url))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(start.elapsed() < TIMEOUT, "nginx does not pass on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        deployment
    }

    /// The certificate that clients have to trust.
    pub fn certificate(&self) -> String {
        self.folder.file("relay.crt")
    }

    pub fn client(&self) -> reqwest::Client {
        certificate::trusting(&[&self.certificate()]).timeout(TIMEOUT).build().unwrap()
    }

    /// The person's part: opens the page, types the code, logs in, gives access.
    pub async fn approve(&self, verification_uri: &str, user_code: &str) {
        let browser = Browser::with(certificate::trusting(&[&self.certificate()]));
        let page = browser.open(verification_uri).await;
        let mut fields = hidden_inputs(&page.body);
        fields.push(("user_code".to_owned(), user_code.to_owned()));
        let login = browser.submit(form_action(&page).as_str(), &fields).await;
        assert!(login.body.contains("name=\"username\""), "{} {}", login.url, login.body);
        let last = browser.log_in(&login, "alice", "alice").await;
        assert_eq!(last.url.path(), "/addons/success", "{}", last.body);
    }

    /// Requests that each relay answered so far, pages and calls alike.
    pub async fn handled(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for relay in &self.relays {
            let metrics = crate::support::client().get(format!("{}/metrics", relay.url));
            let metrics = metrics.send().await.unwrap().text().await.unwrap();
            let calls = metrics.lines().filter_map(|line| {
                let rest = line.strip_prefix("token_relay_store_call_seconds_count{operation=")?;
                (!rest.starts_with("\"ping"))
                    .then(|| rest.split(' ').nth(1)?.parse::<u64>().ok())?
            });
            all.push(calls.sum());
        }
        all
    }
}

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a client's program: shows its code to a person, and waits for its end.
async fn run(deployment: &Deployment, program: PathBuf, script: &str) -> Value {
    let folder = root("tests/support/oauth_clients");
    let mut child = Command::new(&program)
        .args([script, &deployment.url, API, API_SECRET])
        .current_dir(folder)
        .env("NODE_EXTRA_CA_CERTS", deployment.certificate())
        .env("REQUESTS_CA_BUNDLE", deployment.certificate())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; ./tests/run install", program.display()));
    let (mut output, mut errors) =
        (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
    let (mut first, mut rest, mut problems) = (String::new(), String::new(), String::new());
    output.read_line(&mut first).unwrap();
    if let Ok(device) = serde_json::from_str::<Value>(&first) {
        deployment.approve(text(&device, "verification_uri"), text(&device, "user_code")).await;
    }
    output.read_to_string(&mut rest).unwrap();
    errors.read_to_string(&mut problems).unwrap();
    assert!(child.wait().unwrap().success(), "{script}: {first}{rest}{problems}");
    serde_json::from_str(rest.lines().last().unwrap_or_default()).unwrap()
}

/// The crate oauth2, with an HTTP client as its documentation wants one.
async fn by_oauth2(deployment: &Deployment) -> Value {
    let url = |path: &str| format!("{}/{path}", deployment.url);
    let http = deployment.client();
    let send = |request: oauth2::HttpRequest| {
        let http = http.clone();
        async move {
            let response = http.execute(request.try_into()?).await?;
            let mut answer = http::Response::builder().status(response.status());
            *answer.headers_mut().unwrap() = response.headers().clone();
            let body = response.bytes().await?.to_vec();
            Ok::<_, reqwest::Error>(answer.body(body).unwrap())
        }
    };
    let client = BasicClient::new(ClientId::new("cli".to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(TokenUrl::new(url("addons/token")).unwrap())
        .set_revocation_url(RevocationUrl::new(url("addons/revoke")).unwrap())
        .set_device_authorization_url(
            DeviceAuthorizationUrl::new(url("addons/device_authorization")).unwrap(),
        );
    let device: StandardDeviceAuthorizationResponse =
        client.exchange_device_code().request_async(&send).await.unwrap();
    let (code, page) = (device.user_code().secret(), device.verification_uri().as_str());
    let poll = client.exchange_device_access_token(&device);
    let (token, ()) = tokio::join!(
        poll.request_async(&send, tokio::time::sleep, None),
        deployment.approve(page, code)
    );
    let token = token.unwrap();
    let refresh_token = token.refresh_token().unwrap();
    let refreshed =
        client.exchange_refresh_token(refresh_token).request_async(&send).await.unwrap();
    let api = BasicClient::new(ClientId::new(API.to_owned()))
        .set_client_secret(ClientSecret::new(API_SECRET.to_owned()))
        .set_introspection_url(IntrospectionUrl::new(url("addons/introspect")).unwrap());
    let is_active = async || {
        let found = api.introspect(refreshed.access_token()).request_async(&send).await.unwrap();
        assert!(!found.active() || found.username().is_none());
        found.active()
    };
    assert!(is_active().await);
    let revoked = StandardRevocableToken::RefreshToken(refreshed.refresh_token().unwrap().clone());
    client.revoke_token(revoked).unwrap().request_async(&send).await.unwrap();
    assert!(!is_active().await);
    json!({"done": ["device", "refresh", "introspect", "revoke"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oauth_clients_of_others_sign_in_by_the_device_grant_over_two_instances() {
    let deployment = Deployment::start().await;
    let before = deployment.handled().await;
    let python = root("target/venv/bin/python");
    let node = PathBuf::from("node");
    let mut matrix = Vec::new();
    for (name, program, script) in [
        ("openid-client (npm)", &node, "openid_client.mjs"),
        ("oauth4webapi (npm)", &node, "oauth4webapi.mjs"),
        ("oauth4webapi (npm), DPoP", &node, "oauth4webapi_dpop.mjs"),
        ("Authlib (PyPI)", &python, "authlib_client.py"),
        ("requests-oauthlib (PyPI)", &python, "requests_oauthlib_client.py"),
    ] {
        matrix.push((name, run(&deployment, program.clone(), script).await));
    }
    matrix.push(("oauth2 (crates.io)", by_oauth2(&deployment).await));
    for (name, result) in &matrix {
        println!("{name:26} {}", result["done"]);
    }
    let after = deployment.handled().await;
    let calls: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    println!("store commands by instance: {calls:?}");
    assert!(calls.iter().all(|calls| *calls > 20), "one instance did it alone: {calls:?}");
}

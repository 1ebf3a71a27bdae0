//! The clients for Rust, Python and the terminal whose tokens are bound to a key (DPoP, RFC 9449), at two
//! instances over Redis that are asked in turn, and behind a proxy that takes the key out.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{body::Body, extract::Request};
use http_body_util::BodyExt as _;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use token_relay_client::{Client, ClientError, PendingSignIn, ProofKey, SignIn, api::Secret};

use crate::support::{Browser, Process, client, man_in_the_middle::ManInTheMiddle, redis, text};

const PORTAL: &str = "the secret of the portal of 32 characters or more";

/// Two instances over one Redis, and a proxy that asks them in turn.
struct Deployment {
    /// The public URL, with a path prefix that the proxy takes away.
    url: String,
    relays: Vec<Process>,
    /// Method and path of every request to the proxy.
    asked: Arc<Mutex<Vec<String>>>,
    redis: redis::Server,
}

impl Deployment {
    async fn start() -> Self {
        let redis = redis::Server::start(&[]).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/sign-in", listener.local_addr().unwrap());
        let redis_url = redis.url();
        let environment = [
            &crate::support::shared(&redis_url)[..],
            &[
                ("TOKEN_RELAY_CLIENTS__NOTES__FULFILLED_BY", "portal"),
                ("TOKEN_RELAY_CLIENTS__STRICT__FULFILLED_BY", "portal"),
                ("TOKEN_RELAY_CLIENTS__STRICT__DPOP_REQUIRED", "true"),
                ("TOKEN_RELAY_CLIENTS__PORTAL__GRANTS", "introspect"),
                ("TOKEN_RELAY_CLIENTS__PORTAL__SECRET", PORTAL),
                ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
            ],
        ];
        let environment = environment.concat();
        let relays: Vec<_> = (0..2).map(|_| Process::demo_behind(&url, &environment)).collect();
        let upstreams: Vec<_> = relays.iter().map(|relay| relay.url.clone()).collect();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (record, turn) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
        let router = axum::Router::new().fallback(move |request: Request| {
            let (upstreams, record) = (upstreams.clone(), Arc::clone(&record));
            let turn = turn.fetch_add(1, Ordering::SeqCst);
            async move {
                let (parts, body) = request.into_parts();
                let path = parts.uri.path_and_query().unwrap().as_str();
                let path = path.strip_prefix("/sign-in").expect("the prefix").to_owned();
                record.lock().unwrap().push(format!("{} {path}", parts.method));
                let url = format!("{}{path}", upstreams[turn % upstreams.len()]);
                let mut headers = parts.headers;
                headers.remove(header::HOST);
                let body = body.collect().await.unwrap().to_bytes();
                let request = client().request(parts.method, url).headers(headers).body(body);
                let mut answer = request.send().await.unwrap();
                let mut response = axum::http::Response::builder().status(answer.status());
                *response.headers_mut().unwrap() = std::mem::take(answer.headers_mut());
                response.headers_mut().unwrap().remove(header::TRANSFER_ENCODING);
                response.body(Body::from_stream(answer.bytes_stream())).unwrap()
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, relays, asked, redis }
    }

    /// How often this was asked for since the last time.
    fn asked(&self, what: &str) -> usize {
        let mut asked = self.asked.lock().unwrap();
        let before = asked.len();
        asked.retain(|request| request != what);
        before - asked.len()
    }

    /// What the add-in's backend does: the person is signed in there.
    async fn fulfil(&self, transit_url: &str) {
        let url = reqwest::Url::parse(transit_url).unwrap();
        let token = url.query_pairs().find(|(name, _)| name == "transit_token").unwrap().1;
        let answer = client()
            .post(format!("{}/addons/fulfil", self.url))
            .basic_auth("portal", Some(PORTAL))
            .json(&json!({"transit_token": token, "subject": "alice"}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    /// Who the token is for, as `/addons/me` says to the holder of the key.
    async fn me(&self, key: &ProofKey, token: &Secret) -> Result<String, StatusCode> {
        let url = format!("{}/addons/me", self.url).parse().unwrap();
        let mut proof = key.prove(Method::GET, &url, token);
        loop {
            let request = client().get(url.clone()).headers(proof.headers().unwrap());
            let answer = request.send().await.unwrap();
            if proof.renew(answer.status(), answer.headers()) {
                continue;
            }
            if answer.status() != StatusCode::OK {
                return Err(answer.status());
            }
            let claims: Value = answer.json().await.unwrap();
            assert_eq!(text(&claims["cnf"], "jkt"), key.thumbprint());
            return Ok(text(&claims, "sub").to_owned());
        }
    }

    async fn as_bearer(&self, token: &str) -> StatusCode {
        let request = client().get(format!("{}/addons/me", self.url)).bearer_auth(token);
        request.send().await.unwrap().status()
    }
}

fn wish(client_id: &str) -> SignIn {
    SignIn { client_id: Some(client_id.to_owned()), dpop: true, ..SignIn::default() }
}

/// A sign-in that another run of the program continues.
fn resumed(client: &Client, pending: &PendingSignIn) -> PendingSignIn {
    let saved = serde_json::to_string(&pending.save()).unwrap();
    client.resume(serde_json::from_str(&saved).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_proves_each_request_at_any_instance_and_refreshes() {
    let deployment = Deployment::start().await;
    let relay = Client::new(deployment.url.parse().unwrap()).unwrap();
    for client_id in ["notes", "strict"] {
        let pending = relay.sign_in(&wish(client_id)).await.unwrap();
        let pending = resumed(&relay, &pending);
        deployment.fulfil(pending.transit_url().as_str()).await;
        let token = pending.token().await.unwrap();
        assert_eq!(token.token_type, "DPoP");
        let key = pending.proof_key().unwrap();
        deployment.asked("GET /addons/me");
        for requests in [2, 1, 1] {
            assert_eq!(deployment.me(key, &token.access_token).await.unwrap(), "alice");
            // The nonce of one instance is good at the other.
            assert_eq!(deployment.asked("GET /addons/me"), requests, "{client_id}");
        }
        let next = pending.refresh(token.refresh_token.as_ref().unwrap()).await.unwrap();
        assert_eq!(deployment.asked("POST /addons/token"), 1, "the nonce is known");
        assert_ne!(next.access_token, token.access_token);
        assert_eq!(deployment.me(key, &next.access_token).await.unwrap(), "alice");
        // Another run of the program has the key, and no nonce.
        let again = resumed(&relay, &pending);
        deployment.asked("POST /addons/token");
        let last = again.refresh(next.refresh_token.as_ref().unwrap()).await.unwrap();
        assert_eq!(deployment.asked("POST /addons/token"), 2, "the nonce is asked for");
        assert_eq!(
            deployment.me(again.proof_key().unwrap(), &last.access_token).await.unwrap(),
            "alice"
        );
        assert_eq!(
            deployment.as_bearer(last.access_token.expose()).await,
            StatusCode::UNAUTHORIZED
        );
        let other = ProofKey::generate().unwrap();
        assert_eq!(deployment.me(&other, &last.access_token).await, Err(StatusCode::UNAUTHORIZED));
    }
    // Without the wish there is no key; the operator's setting is named.
    let without = SignIn { dpop: false, ..wish("notes") };
    assert!(relay.sign_in(&without).await.unwrap().proof_key().is_none());
    let without = SignIn { dpop: false, ..wish("strict") };
    let refused = relay.sign_in(&without).await.unwrap_err();
    assert!(refused.to_string().contains("clients.strict.dpop_required"), "{refused}");
    assert!(deployment.relays.iter().all(|relay| !relay.log().contains("panic")));
}

/// A program, ended when dropped.
struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// `token-relay login`.
    fn terminal(relay: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_token-relay"));
        command.args(["login", relay, "--no-open", "--no-confirm"]).args(more);
        Self::start(command)
    }

    /// A program with the client for Python.
    fn python(arguments: &[&str]) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("target/venv/bin/python3"));
        command
            .env("PYTHONPATH", root.join("client/python/src"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(root.join("tests/support/python_client/bound.py"))
            .args(arguments);
        Self::start(command)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?} {}", self.errors()))
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut text);
        text
    }

    fn succeeds(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_the_key_beside_its_token() {
    let deployment = Deployment::start().await;
    let folder = redis::Directory::new();
    let file = folder.file("token.json");
    for stores in [false, true] {
        let more = ["--json", "--dpop", "--client-id", "strict", "--store", &file];
        let mut login = Program::terminal(&deployment.url, if stores { &more } else { &more[..4] });
        deployment.fulfil(text(&login.line(), "transit_url")).await;
        let mut ended = login.line();
        assert!(login.succeeds(), "{ended}");
        if stores {
            assert!(!ended.to_string().contains("proof_key"), "{ended}");
            ended = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        }
        assert_eq!(text(&ended, "token_type"), "DPoP");
        let key: ProofKey = serde_json::from_value(ended["proof_key"].clone()).unwrap();
        let token = Secret::from(text(&ended, "access_token"));
        assert_eq!(deployment.me(&key, &token).await.unwrap(), "alice");
        assert_eq!(deployment.as_bearer(token.expose()).await, StatusCode::UNAUTHORIZED);
    }
    // A token without its key would be of no use.
    let mut alone = Program::terminal(&deployment.url, &["--dpop"]);
    assert!(!alone.succeeds());
    let errors = alone.errors();
    assert!(errors.contains("--json") && errors.contains("--store"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_proves_each_request_after_a_restart_too() {
    let deployment = Deployment::start().await;
    let folder = redis::Directory::new();
    let store = folder.file("pending.json");
    for client_id in ["notes", "strict"] {
        let mut first = Program::python(&[&deployment.url, client_id, &store, "begin"]);
        let prompt = first.line();
        // Ended like a host that crashes.
        drop(first);
        deployment.fulfil(text(&prompt, "url")).await;
        deployment.asked("GET /addons/me");
        deployment.asked("POST /addons/token");
        let mut second = Program::python(&[&deployment.url, client_id, &store, "resume"]);
        let result = second.line();
        let done = json!({
            "types": ["DPoP", "DPoP"], "subjects": ["alice", "alice", "alice"],
            "as_bearer": 401, "other_key": 401,
        });
        assert_eq!(result, done, "{}", second.errors());
        assert!(second.succeeds());
        // One for the nonce, three with it, as a bearer, and by another key without and with a nonce.
        assert_eq!(deployment.asked("GET /addons/me"), 7);
        assert_eq!(deployment.asked("POST /addons/token"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cryptography_python_says_what_is_missing_and_asks_for_nothing() {
    let deployment = Deployment::start().await;
    let mut program = Program::python(&[&deployment.url, "notes", "", "without_cryptography"]);
    let said = program.line();
    let missing = text(&said, "error");
    assert!(missing.contains("cryptography") && missing.contains("pip install"), "{said}");
    assert!(program.succeeds());
    assert_eq!(deployment.asked("POST /addons/sessions"), 0);
    // Where the tokens must be bound, the relay says so.
    let mut program = Program::python(&[&deployment.url, "strict", "", "unbound"]);
    let said = program.line();
    assert!(text(&said, "error").contains("dpop_required"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_program_takes_a_token_from_a_proxy_that_strips_the_thumbprint() {
    let proxy = ManInTheMiddle::start(&["dpop_jkt"]).await;
    let relay = Process::demo_behind(&proxy.url, &[]);
    proxy.lead_to(&relay.url);
    let mut login = Program::terminal(&proxy.url, &["--json", "--dpop"]);
    Browser::default().sign_in(&login.line(), "alice").await;
    let ended = login.line();
    assert!(!login.succeeds());
    assert!(text(&ended, "error_description").contains("not bound"), "{ended}");
    assert!(ended.get("access_token").is_none());

    let mut program = Program::python(&[&proxy.url, "", "", "stripped"]);
    let prompt = program.line();
    let shown = json!({"transit_url": prompt["url"], "user_code": prompt["user_code"]});
    Browser::default().sign_in(&shown, "alice").await;
    let ended = program.line();
    assert_eq!(text(&ended, "error"), "not_bound", "{ended}");

    let client = Client::new(proxy.url.parse().unwrap()).unwrap();
    let pending = client.sign_in(&SignIn { dpop: true, ..SignIn::default() }).await.unwrap();
    let shown = json!({"transit_url": pending.transit_url(), "user_code": pending.user_code()});
    Browser::default().sign_in(&shown, "bob").await;
    let token = pending.token().await;
    assert!(matches!(token, Err(ClientError::NotBound)), "{token:?}");
}

/// An instance whose clock is behind accepts a nonce longer than the one that issued it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_proof_is_known_longer_than_any_instance_accepts_its_nonce() {
    let deployment = Deployment::start().await;
    let relay = Client::new(deployment.url.parse().unwrap()).unwrap();
    let pending = relay.sign_in(&wish("notes")).await.unwrap();
    deployment.fulfil(pending.transit_url().as_str()).await;
    let token = pending.token().await.unwrap();
    let key = pending.proof_key().unwrap();
    assert_eq!(deployment.me(key, &token.access_token).await.unwrap(), "alice");
    let store = deployment.redis.client().await;
    let marks: Vec<String> = redis::command(&store, &["KEYS", "*:mark:*"]).await.convert().unwrap();
    let mut lifetimes = Vec::new();
    for mark in marks {
        let left: i64 = redis::command(&store, &["TTL", &mark]).await.convert().unwrap();
        // Other marks, such as that of the store's format, live for years.
        lifetimes.extend((left < 86_400).then_some(left));
    }
    // Five minutes of the nonce, and as much as the clocks of instances may differ.
    assert!(!lifetimes.is_empty());
    assert!(lifetimes.iter().all(|left| (580..=600).contains(left)), "{lifetimes:?} s");
}

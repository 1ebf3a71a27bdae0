//! Keys of add-ins beside libraries of others, `jose` (npm) and `joserfc` (PyPI): each opens and verifies
//! what the other makes. What the relay encrypts they open in `encrypted_delivery`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_relay::util::clock::UnixTime;
use token_relay_client::{
    ClientError, DecryptionKey, ProofKey,
    api::{Secret, TokenResponse},
};

use crate::support::{Browser, Events, Process, client, create, stderr_opened_anew, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that answers each line by a line of JSON.
struct Peer {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn start(name: &'static str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr_opened_anew());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { name, child, input, output }
    }

    /// The libraries, and the thumbprint of the key of each.
    fn libraries() -> [(Self, String); 2] {
        let folder = root().join("tests/support/oauth_clients");
        let run = |program: PathBuf, script: &str| {
            let mut command = Command::new(program);
            command.arg(folder.join(script));
            command
        };
        let python = root().join("target/venv/bin/python3");
        [
            Self::start("jose", run("node".into(), "jose_peer.mjs")),
            Self::start("joserfc", run(python, "joserfc_peer.py")),
        ]
        .map(|mut peer| {
            let thumbprint = peer.line().as_str().unwrap().to_owned();
            (peer, thumbprint)
        })
    }

    /// The client for Python.
    fn python_client() -> Self {
        let mut python = Command::new(root().join("target/venv/bin/python3"));
        python
            .env("PYTHONPATH", root().join("client/python/src"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(root().join("tests/support/python_client/keys.py"));
        Self::start("the client for Python", python)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}: {line:?}", self.name))
    }

    fn ask(&mut self, command: Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        self.line()
    }
}

fn base64url_sha256(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

const SESSION: &str = "a-session-id";

#[test]
fn the_clients_open_what_libraries_of_others_encrypt_for_their_session() {
    let content = json!({
        "access_token": "e30.e30.e30", "token_type": "Bearer", "expires_in": 3600, "scope": "a b",
    });
    let mut python = Peer::python_client();
    for (mut library, _) in Peer::libraries() {
        let name = library.name;
        let own = DecryptionKey::generate().unwrap();
        let mut encrypt = |key: &Value, session: &str| {
            let apv = base64url_sha256(session);
            let command = json!({"encrypt": {"key": key, "apv": apv, "content": content}});
            library.ask(command).as_str().unwrap().to_owned()
        };
        let key = serde_json::to_value(own.public()).unwrap();
        let open = |encrypted: String| {
            let answer =
                TokenResponse { encrypted: Some(encrypted.into()), ..TokenResponse::default() };
            own.open(&SESSION.into(), &answer)
        };
        let token = open(encrypt(&key, SESSION)).unwrap();
        assert_eq!(token.access_token.expose(), "e30.e30.e30", "{name}");
        let other = open(encrypt(&key, "another"));
        assert!(matches!(other, Err(ClientError::NotEncrypted)), "{name}");

        let key = python.ask(json!({"key": null}));
        let encrypted = encrypt(&key, SESSION);
        let opened = python.ask(json!({"open": [SESSION, encrypted]}));
        assert_eq!(opened, content, "{name}");
        let opened = python.ask(json!({"open": ["another", encrypted]}));
        assert_eq!(opened, json!("refused"), "{name}");
    }
    let mut javascript = Command::new("node");
    javascript.arg(root().join("tests/support/oauth_clients/jose_token_relay.mjs"));
    let output = javascript.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"opened and verified\n");
}

#[test]
fn libraries_of_others_verify_the_proofs_of_the_clients() {
    let url = "https://api.example:8443/rooms?a=b".parse().unwrap();
    let token = "e30.e30.e30";
    let mut python = Peer::python_client();
    for (mut library, _) in Peer::libraries() {
        let own = ProofKey::generate().unwrap();
        let headers = own.prove(Method::PATCH, &url, &token.into()).headers().unwrap();
        let by_rust = (headers["dpop"].to_str().unwrap().to_owned(), own.thumbprint());
        let made = python.ask(json!({"prove": ["PATCH", url, token]}));
        let by_python = (text(&made, "DPoP").to_owned(), text(&made, "thumbprint").to_owned());
        for (proof, thumbprint) in [by_rust, by_python] {
            let found = library.ask(json!({"verify": proof}));
            assert_eq!(text(&found, "thumbprint"), thumbprint, "{}", library.name);
            let claims = &found["claims"];
            assert_eq!(text(claims, "htm"), "PATCH");
            assert_eq!(text(claims, "htu"), "https://api.example:8443/rooms");
            assert_eq!(text(claims, "ath"), base64url_sha256(token));
        }
    }
}

#[tokio::test]
async fn the_relay_takes_proofs_that_libraries_of_others_make() {
    let relay = Process::demo(&[]);
    let url = format!("{}/addons/me", relay.url);
    for (mut library, thumbprint) in Peer::libraries() {
        let body = json!({"bind": true, "dpop_jkt": thumbprint});
        let session = create(&relay.url, Some(body)).await;
        let session_token = text(&session, "session_token");
        let mut events = Events::open(text(&session, "events_url"), Some(session_token)).await;
        Browser::default().sign_in(&session, "alice").await;
        let answer = events.next().await.unwrap().data;
        let token = Secret::from(text(&answer, "access_token"));
        let mut nonce = Value::Null;
        for expected in [StatusCode::UNAUTHORIZED, StatusCode::OK] {
            let jti = URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{thumbprint}{nonce}")));
            let mut claims = json!({
                "jti": jti, "htm": "GET", "htu": url, "iat": UnixTime::now().as_secs(),
                "ath": base64url_sha256(token.expose()),
            });
            if nonce.is_string() {
                claims["nonce"] = nonce.clone();
            }
            let proof = library.ask(json!({"prove": claims}));
            let request = client()
                .get(&url)
                .header(header::AUTHORIZATION, format!("DPoP {}", token.expose()))
                .header("dpop", proof.as_str().unwrap());
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), expected, "{}", library.name);
            if let Some(next) = answer.headers().get("dpop-nonce") {
                nonce = json!(next.to_str().unwrap());
            }
        }
    }
}

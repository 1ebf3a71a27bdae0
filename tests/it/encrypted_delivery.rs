//! Token answers that are encrypted for a key of the add-in, opened by libraries of others.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_relay::{
    session::{SealedPayload, SessionKey},
    token::{KeyRing, TokenResponse},
};
use token_relay_client::{Client, ClientError, SignIn};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    Browser, Events, Process, client, create, dpop_key::Key, man_in_the_middle::ManInTheMiddle,
    redis, text,
};

const PORTAL: &str = "the secret of the portal of 32 characters or more";

/// A program that has a private key and opens what is encrypted for it.
struct Opener {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its public key.
    key: Value,
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Opener {
    fn start(name: &'static str, program: PathBuf, script: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/oauth_clients");
        let mut child = Command::new(&program)
            .arg(folder.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(crate::support::stderr_opened_anew())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; see tests/run", program.display()));
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let key = line(&mut output);
        Self { name, child, input, output, key }
    }

    fn all() -> [Self; 2] {
        let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python3");
        [
            Self::start("jose", PathBuf::from("node"), "jose_key.mjs"),
            Self::start("joserfc", python, "joserfc_key.py"),
        ]
    }

    /// What is in a token answer to the reader of `session`, which holds nothing else.
    fn open(&mut self, session: &Value, answer: &Value) -> Value {
        let encrypted = text(answer, "encrypted");
        let mut members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        members.retain(|member| !["state", "type"].contains(member));
        assert_eq!(members, ["encrypted"], "{}", self.name);
        writeln!(self.input, "{encrypted}").unwrap();
        let opened = line(&mut self.output);
        let header = &opened["header"];
        let key = Sha256::digest(text(session, "session_id"));
        assert_eq!(text(header, "apv"), URL_SAFE_NO_PAD.encode(key), "{}", self.name);
        assert_eq!((text(header, "alg"), text(header, "enc")), ("ECDH-ES", "A256GCM"));
        assert!(header.get("zip").is_none() && header.get("apu").is_none());
        opened["content"].clone()
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
}

const CLIENTS: [(&str, &str); 7] = [
    ("TOKEN_RELAY_CLIENTS__ROOMS__FULFILLED_BY", "portal"),
    ("TOKEN_RELAY_CLIENTS__ROOMS__GRANTS", "session device"),
    ("TOKEN_RELAY_CLIENTS__MAPS__LEGACY", "true"),
    ("TOKEN_RELAY_CLIENTS__PORTAL__GRANTS", "introspect"),
    ("TOKEN_RELAY_CLIENTS__PORTAL__SECRET", PORTAL),
    ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
    ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "1000000"),
];

fn over_redis(url: &str) -> Process {
    let shared = crate::support::shared(url);
    Process::demo(&[&CLIENTS[..], &shared].concat())
}

async fn fulfil(relay: &Process, session: &Value, mut body: Value) {
    body["transit_token"] = session["transit_token"].clone();
    let request = client().post(format!("{}/addons/fulfil", relay.url));
    let answer = request.basic_auth("portal", Some(PORTAL)).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
}

/// The answer of a device authorization for `key`, whose person a backend then names.
async fn fulfilled_device(relay_url: &str, key: &Value, more: &[(&str, &str)]) -> Value {
    let key = key.to_string();
    let form = [&[("client_id", "rooms"), ("encryption_key", key.as_str())][..], more].concat();
    let url = format!("{relay_url}/addons/device_authorization");
    let device: Value = client().post(url).form(&form).send().await.unwrap().json().await.unwrap();
    let fulfilled = client()
        .post(format!("{relay_url}/addons/fulfil"))
        .basic_auth("portal", Some(PORTAL))
        .json(&json!({"user_code": device["user_code"], "subject": "alice"}));
    assert_eq!(fulfilled.send().await.unwrap().status(), StatusCode::OK);
    device
}

async fn refresh(relay: &Process, session: &Value, token: &Value) -> Value {
    let request = client()
        .post(format!("{}/addons/token", relay.url))
        .basic_auth(text(session, "session_id"), Some(text(session, "session_token")))
        .form(&[("grant_type", "refresh_token"), ("refresh_token", text(token, "refresh_token"))]);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

/// By one transport: the answer to the reader of a session that is fulfilled with `body`.
async fn delivered(transport: &str, relay: &Process, session: &Value, body: Value) -> Value {
    let token = text(session, "session_token");
    match transport {
        "sse" => {
            let mut events = Events::open(text(session, "events_url"), Some(token)).await;
            fulfil(relay, session, body).await;
            events.next().await.unwrap().data
        }
        "websocket" => {
            let mut request = text(session, "websocket_url").into_client_request().unwrap();
            let protocols = format!("token-relay.v1, bearer.{token}").parse().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", protocols);
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            fulfil(relay, session, body).await;
            let message = socket.next().await.unwrap().unwrap();
            serde_json::from_str(message.to_text().unwrap()).unwrap()
        }
        _ => {
            fulfil(relay, session, body).await;
            let request = client().get(text(session, "poll_url")).bearer_auth(token);
            request.send().await.unwrap().json().await.unwrap()
        }
    }
}

#[tokio::test]
async fn libraries_of_others_open_what_every_transport_and_every_refresh_answers() {
    let server = redis::Server::start(&[]).await;
    for relay in [Process::demo(&CLIENTS), over_redis(&server.url())] {
        for mut opener in Opener::all() {
            for transport in ["sse", "websocket", "long-poll"] {
                let body = json!({
                    "bind": true, "client_id": "rooms", "encryption_key": opener.key,
                });
                let session = create(&relay.url, Some(body)).await;
                let act = json!({"subject": "42", "payload": {"seat": 7}});
                let answer = delivered(transport, &relay, &session, act).await;
                let token = opener.open(&session, &answer);
                assert_eq!(
                    (text(&token, "token_type"), &token["payload"]["seat"]),
                    ("Bearer", &json!(7))
                );
                let me = client().get(format!("{}/addons/me", relay.url));
                let me = me.bearer_auth(text(&token, "access_token")).send().await.unwrap();
                assert_eq!(me.status(), StatusCode::OK);

                let first = opener.open(&session, &refresh(&relay, &session, &token).await);
                let second = opener.open(&session, &refresh(&relay, &session, &first).await);
                assert_ne!(text(&first, "access_token"), text(&second, "access_token"));
                assert_eq!(second["authenticated_at"], token["authenticated_at"]);
            }
            // A payload alone.
            let body = json!({"bind": true, "client_id": "rooms", "encryption_key": opener.key});
            let session = create(&relay.url, Some(body)).await;
            let answer = delivered("sse", &relay, &session, json!({"payload": {"seat": 8}})).await;
            let content = opener.open(&session, &answer);
            assert_eq!(content["payload"], json!({"seat": 8}));
            assert_eq!(content.get("access_token"), None);
        }
    }
}

#[tokio::test]
async fn a_login_a_legacy_session_and_a_device_are_answered_encrypted_too() {
    let relay = Process::demo(&[&CLIENTS[..], &[("TOKEN_RELAY_DEVICE_INTERVAL", "1s")]].concat());
    let [mut opener, _] = Opener::all();
    for bind in [true, false] {
        let client_id = if bind { "rooms" } else { "maps" };
        let body = json!({"bind": bind, "client_id": client_id, "encryption_key": opener.key});
        let session = create(&relay.url, Some(body)).await;
        if bind {
            fulfil(&relay, &session, json!({"subject": "alice"})).await;
        } else {
            let token = session["session_token"].as_str();
            let mut events = Events::open(text(&session, "events_url"), token).await;
            Browser::default().sign_in(&session, "alice").await;
            let answer = events.next().await.unwrap().data;
            let token = opener.open(&session, &answer);
            assert!(token.get("access_token").is_some(), "{token}");
        }
    }
    let device = fulfilled_device(&relay.url, &opener.key, &[]).await;
    let request = client().post(format!("{}/addons/token", relay.url)).form(&[
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", text(&device, "device_code")),
        ("client_id", "rooms"),
    ]);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let token = opener.open(&device, &answer);
    let request = client().post(format!("{}/addons/token", relay.url)).form(&[
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&token, "refresh_token")),
        ("client_id", "rooms"),
    ]);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert!(opener.open(&device, &answer).get("access_token").is_some());
}

#[tokio::test]
async fn both_keys_hold_for_a_token_that_was_issued_ahead() {
    for mut opener in Opener::all() {
        let relay = Process::demo(&[
            ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
            ("TOKEN_RELAY_LOG", "debug"),
        ]);
        let key = Key::generate();
        let body =
            json!({"bind": true, "encryption_key": opener.key, "dpop_jkt": key.thumbprint()});
        let session = create(&relay.url, Some(body)).await;
        let token = session["session_token"].as_str();
        let mut events = Events::open(text(&session, "events_url"), token).await;
        let browser = Browser::default();
        let dialog = text(&session, "transit_url");
        let last = browser.follow_until(dialog, "/addons/redirect").await;
        relay.logged("access token issued ahead").await;
        assert!(browser.get(&last).await.status().is_redirection());
        let token = opener.open(&session, &events.next().await.unwrap().data);
        assert_eq!(text(&token, "token_type"), "DPoP");
        let claims = text(&token, "access_token").split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(text(&claims["cnf"], "jkt"), key.thumbprint());
        relay.logged("uses the access token that was issued ahead").await;
    }
}

#[tokio::test]
async fn neither_the_store_nor_the_log_has_a_token_that_its_keys_open() {
    let server = redis::Server::start(&[]).await;
    let relay = over_redis(&server.url());
    let [mut opener, _] = Opener::all();
    let body = json!({"bind": true, "client_id": "rooms", "encryption_key": opener.key});
    let session = create(&relay.url, Some(body)).await;
    fulfil(&relay, &session, json!({"subject": "42"})).await;
    let key = Sha256::digest(text(&session, "session_id"));
    let key = SessionKey::from_base64url(&URL_SAFE_NO_PAD.encode(key)).unwrap();
    let store = server.client().await;
    let pattern = format!("*{{{}}}", key.to_base64url());
    let found = redis::command(&store, &["KEYS", &pattern]).await;
    let name: Vec<String> = found.convert().unwrap();
    let sealed = redis::command(&store, &["HGET", &name[0], "y"]).await;
    let sealed = SealedPayload(sealed.into_bytes().unwrap());
    let keys = KeyRing::new("SEALING_KEYS", [crate::support::SEALING_KEY.as_bytes()]).unwrap();
    let stored = TokenResponse::unseal(&keys, key, &sealed).unwrap();
    assert!(stored.access_token().expose().is_empty());
    let stored = serde_json::to_value(stored).unwrap();
    assert!(opener.open(&session, &stored).get("access_token").is_some());
    assert!(!relay.log().contains(text(&stored, "encrypted")));
}

#[tokio::test]
async fn a_key_that_is_no_public_key_on_p_256_is_refused_by_its_reason() {
    let relay = Process::demo(&[]);
    let [opener, _] = Opener::all();
    let with = |member: &str, value: Value| {
        let mut key = opener.key.clone();
        key[member] = value;
        key
    };
    for (key, reason) in [
        (with("d", json!("AAAA")), "private"),
        (with("k", json!("AAAA")), "private"),
        (with("crv", json!("P-521")), "`crv`"),
        (with("kty", json!("RSA")), "`kty`"),
        (with("use", json!("sig")), "`use`"),
        (with("alg", json!("RSA-OAEP")), "`alg`"),
        (with("d", Value::Null), "private"),
        (with("alg", json!("ECDH-ES+A256KW")), "`alg`"),
        (with("crv", json!("P-384")), "`crv`"),
        (with("kty", json!("OKP")), "`kty`"),
        (with("x", json!("AAAA")), "32 bytes"),
        (with("y", opener.key["x"].clone()), "no point"),
        (json!({}), "not the JSON"),
        (json!("a key"), "not the JSON"),
    ] {
        let body = json!({"bind": true, "encryption_key": key});
        let request = client().post(format!("{}/addons/sessions", relay.url)).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key}");
        assert!(text(&problem, "detail").contains(reason), "{problem}");
        assert!(!problem.to_string().contains("AAAA"), "{problem}");
        // As an OAuth error.
        let request = client().post(format!("{}/addons/device_authorization", relay.url));
        let answer = request.form(&[("encryption_key", key.to_string())]).send().await.unwrap();
        let error: Value = answer.json().await.unwrap();
        assert_eq!(text(&error, "error"), "invalid_request", "{key}");
    }
}

/// A program that signs in through `relay`: it prints where the person signs in, as JSON, then the token
/// or why there is none.
fn programs(relay: &str) -> [(&'static str, Command); 2] {
    let mut command_line = Command::new(env!("CARGO_BIN_EXE_token-relay"));
    command_line.args(["login", relay, "--no-open", "--no-confirm", "--json"]);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new(root.join("target/venv/bin/python3"));
    python.env("PYTHONPATH", root.join("client/python/src")).args(["-c", PYTHON, relay]);
    [("the command line", command_line), ("python", python)]
}

const PYTHON: &str = "
import json, sys, token_relay
show = lambda prompt: print(json.dumps({'transit_url': prompt.url, 'user_code': prompt.user_code}), flush=True)
sign_in = token_relay.sign_in(sys.argv[1], on_prompt=show, call_soon=lambda call: call(), open_browser=False)
try:
    token = sign_in.result()
    if token.refresh_token:
        token = token.refresh().result()
    print(json.dumps({'access_token': token.access_token}))
except token_relay.SignInError as error:
    print(json.dumps({'error': error.error, 'error_description': error.description}))
    sys.exit(1)
";

/// The proxy, and a relay behind it.
async fn behind_a_proxy(strips: bool) -> (ManInTheMiddle, Process) {
    let proxy = ManInTheMiddle::start(if strips { &["encryption_key"] } else { &[] }).await;
    let relay = Process::demo_behind(&proxy.url, &[("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day")]);
    proxy.lead_to(&relay.url);
    (proxy, relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_passes_a_proxy_that_records_and_none_is_taken_from_one_that_strips_the_key() {
    for strips in [false, true] {
        let (proxy, relay) = behind_a_proxy(strips).await;
        for (name, mut program) in programs(&proxy.url) {
            let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let shown = line(&mut output);
            Browser::default().sign_in(&shown, "alice").await;
            let ended = line(&mut output);
            let status = child.wait().unwrap();
            if strips {
                assert!(!status.success(), "{name}: {ended}");
                assert!(ended.get("access_token").is_none(), "{name}: {ended}");
                assert!(text(&ended, "error_description").contains("not encrypted"), "{ended}");
            } else {
                assert!(status.success(), "{name}: {ended}");
                let me = client().get(format!("{}/addons/me", relay.url));
                let me = me.bearer_auth(text(&ended, "access_token")).send().await.unwrap();
                assert_eq!(me.status(), StatusCode::OK, "{name}");
            }
        }
        let client = Client::new(proxy.url.parse().unwrap()).unwrap();
        let pending = client.sign_in(&SignIn::default()).await.unwrap();
        // Another run of the program has the key too.
        let saved = serde_json::to_string(&pending.save()).unwrap();
        let pending = client.resume(serde_json::from_str(&saved).unwrap()).unwrap();
        let shown = json!({"transit_url": pending.transit_url(), "user_code": pending.user_code()});
        Browser::default().sign_in(&shown, "bob").await;
        let token = pending.token().await;
        if strips {
            assert!(matches!(token, Err(ClientError::NotEncrypted)), "{token:?}");
            assert!(proxy.answers().contains("\"access_token\""), "the proxy reads it");
        } else {
            let token = token.unwrap();
            let next = pending.refresh(token.refresh_token.as_ref().unwrap()).await.unwrap();
            assert_ne!(next.access_token, token.access_token);
            let answers = proxy.answers();
            assert!(answers.contains("\"encrypted\""));
            for secret in ["\"access_token\"", token.access_token.expose(), "\"refresh_token\""] {
                assert!(!answers.contains(secret), "{secret}");
            }
        }
    }
}

#[tokio::test]
async fn both_keys_of_a_device_hold_for_its_code_its_stream_and_its_refresh_token() {
    let relay = Process::demo(&[&CLIENTS[..], &[("TOKEN_RELAY_DEVICE_INTERVAL", "1s")]].concat());
    let [mut opener, _] = Opener::all();
    let key = Key::generate();
    let endpoint = format!("{}/addons/token", relay.url);
    let ask = async |form: &[(&str, &str)], nonce: Option<&str>| {
        let mut request = client().post(&endpoint).form(form);
        if let Some(nonce) = nonce {
            let proof = key.proof("POST", &endpoint, nonce, None, &json!({}));
            request = request.header("dpop", proof);
        }
        let answer = request.send().await.unwrap();
        let nonce = answer.headers().get("dpop-nonce").map(|it| it.to_str().unwrap().to_owned());
        (answer.json::<Value>().await.unwrap(), nonce)
    };
    let by_code = |device: &Value| {
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code".to_owned()),
            ("device_code", text(device, "device_code").to_owned()),
            ("client_id", "rooms".to_owned()),
        ]
    };
    let thumbprint = key.thumbprint();
    let device = fulfilled_device(&relay.url, &opener.key, &[("dpop_jkt", &thumbprint)]).await;
    let form = by_code(&device);
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // A proxy that strips the proof gets nothing, encrypted or not.
    let (stripped, _) = ask(&form, None).await;
    assert_eq!(text(&stripped, "error"), "invalid_dpop_proof");
    let (demanded, nonce) = ask(&form, Some("")).await;
    assert_eq!(text(&demanded, "error"), "use_dpop_nonce");
    let nonce = nonce.unwrap();
    let token = opener.open(&device, &ask(&form, Some(&nonce)).await.0);
    assert_eq!(text(&token, "token_type"), "DPoP");
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", text(&token, "refresh_token")),
        ("client_id", "rooms"),
    ];
    assert_eq!(text(&ask(&refresh, None).await.0, "error"), "invalid_dpop_proof");
    let next = opener.open(&device, &ask(&refresh, Some(&nonce)).await.0);
    assert_eq!(text(&next, "token_type"), "DPoP");

    // The stream has the same, without a proof: what it gives is of use to the holder of both keys.
    let device = fulfilled_device(&relay.url, &opener.key, &[("dpop_jkt", &thumbprint)]).await;
    let session_token = text(&device, "session_token");
    let mut events = Events::open(text(&device, "events_url"), Some(session_token)).await;
    let token = opener.open(&device, &events.next().await.unwrap().data);
    assert_eq!(text(&token, "token_type"), "DPoP");

    // What is encrypted already cannot be bound afterwards.
    let device = fulfilled_device(&relay.url, &opener.key, &[]).await;
    let form = by_code(&device);
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (late, _) = ask(&form, Some(&nonce)).await;
    assert_eq!(text(&late, "error"), "invalid_dpop_proof");
    assert!(text(&late, "error_description").contains("dpop_jkt"), "{late}");
    let token = opener.open(&device, &ask(&form, None).await.0);
    assert_eq!(text(&token, "token_type"), "Bearer");
}

#[tokio::test]
async fn beside_the_meet_compatible_surface_keys_hold_and_that_surface_has_none() {
    let meet = [
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_ADDONS_CSRF_SECRET", crate::support::MEET_KEY),
        ("TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY", crate::support::MEET_KEY),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/"),
        ("TOKEN_RELAY_DPOP_REQUIRED", "true"),
    ];
    let relay = Process::demo(&meet);
    let [mut opener, _] = Opener::all();
    let key = Key::generate();
    let jkt = key.thumbprint();
    let body = json!({"bind": true, "encryption_key": opener.key, "dpop_jkt": jkt});
    let session = create(&relay.url, Some(body.clone())).await;
    Browser::default().sign_in(&session, "alice").await;
    let answer = client().get(text(&session, "poll_url"));
    let answer = answer.bearer_auth(text(&session, "session_token")).send().await.unwrap();
    let token = opener.open(&session, &answer.json().await.unwrap());
    assert_eq!(text(&token, "token_type"), "DPoP");
    // As upstream, it reads no body: who needs keys uses the native surface.
    let url = format!("{}/api/v1.0/addons/sessions/init/", relay.url);
    let init = client().post(url).json(&body).send().await.unwrap();
    assert_eq!(init.status(), StatusCode::CREATED);
    let init: Value = init.json().await.unwrap();
    let mut members: Vec<_> = init.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["csrf_token", "transit_token"]);
}

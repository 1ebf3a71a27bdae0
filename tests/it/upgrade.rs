//! A rolling upgrade from version 0.1: instances of both versions on one Redis.
//!
//! The tests with an instance of 0.1 need its binary, which `tests/upgrade` builds from this
//! repository's history; it names it in `RELAY_0_1_BINARY` and runs them by `--ignored`. The others run
//! on what 0.1 left in Redis and in browsers.

use std::{collections::BTreeMap, process::Command, process::Stdio};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::StreamExt as _;
use reqwest::{Client, Method, Response, StatusCode, Url, header, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use token_relay::token::{Format, KeyRing, Purpose};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    COOKIE_KEY, Events, MEET_KEY, Process, SEALING_KEY, SIGNING_KEY, TIMEOUT, attribute, client,
    create, hidden_inputs, redis, text,
};

/// The version of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Old,
    New,
}

use Version::{New, Old};

const BOTH: [Version; 2] = [Old, New];

const RETURN_TO: &str = "http://127.0.0.1:9/addin/done";

/// Instances behind one public URL, which a load balancer would have, and their provider.
struct Deployment {
    redis: redis::Server,
    provider: Process,
    public_url: String,
    old: Option<Process>,
    new: Process,
}

/// What both versions understand.
fn environment(redis: &redis::Server, issuer: &str, public_url: &str) -> Vec<(String, String)> {
    [
        ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
        ("TOKEN_RELAY_PUBLIC_URL", public_url),
        ("TOKEN_RELAY_OIDC_ISSUER", issuer),
        ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
        ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
        ("TOKEN_RELAY_REDIS_URL", &redis.url()),
        ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("TOKEN_RELAY_SESSIONS_PER_MINUTE", "100000"),
        ("ADDONS_CSRF_SECRET", MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Starts `binary serve`.
fn serve(binary: &str, environment: &[(String, String)]) -> Process {
    let mut command = Command::new(binary);
    command.arg("serve").envs(environment.iter().map(|(name, value)| (name, value)));
    Process::spawn(command, Stdio::piped())
}

impl Deployment {
    /// One of the new version, with `more` of its settings; and one of the old version where that is
    /// the binary `old`.
    async fn start(old: Option<&str>, more: &[(&str, &str)]) -> Self {
        let redis = redis::Server::start(&[]).await;
        let (public, issuer) = (redis::free_port(), redis::free_port());
        let public_url = format!("http://127.0.0.1:{public}");
        let issuer = format!("http://127.0.0.1:{issuer}");
        let secret = redis.directory.file("client-secret");
        std::fs::write(&secret, "a secret of the tests alone").unwrap();
        let callbacks = ["/callback", "/api/v1.0/callback/"].map(|path| public_url.clone() + path);
        let provider = Process::start(
            &[
                "demo-provider",
                "--listen",
                issuer.trim_start_matches("http://"),
                "--issuer",
                &issuer,
                "--client-secret-file",
                &secret,
                "--redirect-uri",
                &callbacks[0],
                "--redirect-uri",
                &callbacks[1],
            ],
            &[],
        );
        let environment = environment(&redis, &issuer, &public_url);
        let old = old.map(|binary| serve(binary, &environment));
        let mut own = environment;
        own.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let new = serve(env!("CARGO_BIN_EXE_token-relay"), &own);
        Self { redis, provider, public_url, old, new }
    }

    fn at(&self, version: Version) -> &str {
        match (version, &self.old) {
            (Old, Some(old)) => &old.url,
            (Old, None) => panic!("no instance of version 0.1"),
            (New, _) => &self.new.url,
        }
    }

    /// `url` of the public URL at an instance.
    fn url_at(&self, version: Version, url: &str) -> String {
        let url = Url::parse(url).unwrap();
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{}{query}", self.at(version), url.path())
    }

    fn serves(&self, url: &Url) -> bool {
        let own =
            [Some(&self.public_url), self.old.as_ref().map(|old| &old.url), Some(&self.new.url)];
        let origin = url.origin().ascii_serialization();
        own.into_iter().flatten().any(|own| *own == origin)
    }

    async fn verify(&self, version: Version, token: &str) -> StatusCode {
        let request = client().get(format!("{}/addons/verify", self.at(version)));
        request.bearer_auth(token).send().await.unwrap().status()
    }

    async fn refresh(&self, version: Version, session: &Value, token: &str) -> (StatusCode, Value) {
        let answer = client()
            .post(format!("{}/addons/token", self.at(version)))
            .basic_auth(text(session, "session_id"), Some(text(session, "session_token")))
            .form(&[("grant_type", "refresh_token"), ("refresh_token", token)])
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn revoke(&self, version: Version, token: &str) {
        let request = client().post(format!("{}/addons/revoke", self.at(version)));
        let answer = request.form(&[("token", token)]).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

/// A person's browser behind the load balancer, which sends each request to the instance that `route`
/// says. What is only at the new version is tried there again when the old one does not know it.
struct Browser<'a> {
    deployment: &'a Deployment,
    client: Client,
    route: &'a dyn Fn(&str) -> Version,
    /// Forms that an instance of 0.1 did not know.
    repeated: usize,
    trail: Vec<String>,
}

impl<'a> Browser<'a> {
    fn new(deployment: &'a Deployment, route: &'a dyn Fn(&str) -> Version) -> Self {
        let client = Client::builder().redirect(Policy::none()).cookie_store(true).timeout(TIMEOUT);
        let client = client.build().unwrap();
        Self { deployment, client, route, repeated: 0, trail: Vec::new() }
    }

    async fn send(
        &mut self,
        method: Method,
        url: &Url,
        form: Option<(&str, &[(String, String)])>,
    ) -> Response {
        let is_own = self.deployment.serves(url);
        let version = (self.route)(url.path());
        let send = async |url: &str| {
            let mut request = self.client.request(method.clone(), url);
            if let Some((origin, fields)) = form {
                request = request.header(header::ORIGIN, origin).form(fields);
            }
            request.send().await.unwrap()
        };
        let response = match is_own {
            false => send(url.as_str()).await,
            true => send(&self.deployment.url_at(version, url.as_str())).await,
        };
        let status = response.status();
        self.trail.push(format!("{version:?} {method} {} {status}", url.path()));
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        if is_own && version == Old && method == Method::POST && unknown.contains(&status) {
            // Back, and once more.
            self.repeated += 1;
            let again = send(&self.deployment.url_at(New, url.as_str())).await;
            self.trail.push(format!("New {method} {} {}", url.path(), again.status()));
            return again;
        }
        response
    }

    /// Goes on from `url` to a page without a form that it knows, as alice; gives that page.
    async fn go(&mut self, url: &str, user_code: Option<&str>) -> (Url, StatusCode, String) {
        let mut url = Url::parse(url).unwrap();
        let mut response = self.send(Method::GET, &url, None).await;
        for _ in 0..20 {
            if response.status().is_redirection() {
                let target = response.headers()[header::LOCATION].to_str().unwrap().to_owned();
                url = url.join(&target).unwrap();
                if url.as_str().starts_with(RETURN_TO) {
                    return (url, response.status(), String::new());
                }
                response = self.send(Method::GET, &url, None).await;
                continue;
            }
            let status = response.status();
            let by_old = self.deployment.serves(&url) && (self.route)(url.path()) == Old;
            let page = response.text().await.unwrap();
            if let Some(refresh) = page.split("<meta http-equiv=\"refresh\"").nth(1) {
                let content = attribute(refresh, "content").unwrap();
                url = url.join(content.split_once("url=").unwrap().1).unwrap();
                response = self.send(Method::GET, &url, None).await;
                continue;
            }
            let mut fields = hidden_inputs(&page);
            let has = |name: &str| page.contains(&format!("name=\"{name}\""));
            if has("username") {
                fields.push(("username".to_owned(), "alice".to_owned()));
                fields.push(("password".to_owned(), "alice".to_owned()));
            } else if let (true, Some(code)) = (has("user_code"), user_code) {
                fields.push(("user_code".to_owned(), code.to_owned()));
            } else if page.contains("data-status=\"confirm\"") {
                fields.push(("decision".to_owned(), "continue".to_owned()));
            } else {
                return (url, status, page);
            }
            let form = page.split("<form").nth(1).unwrap();
            url = url.join(&attribute(form, "action").unwrap_or_default()).unwrap();
            // The pages of 0.1 send no referrer, and browsers therefore no origin.
            let origin = match self.deployment.serves(&url) {
                true if by_old => "null".to_owned(),
                true => self.deployment.public_url.clone(),
                false => url.origin().ascii_serialization(),
            };
            response = self.send(Method::POST, &url, Some((&origin, &fields))).await;
        }
        panic!("no end: {:?}", self.trail);
    }
}

/// The binary of 0.1.
fn old_binary() -> String {
    std::env::var("RELAY_0_1_BINARY").expect("RELAY_0_1_BINARY names the binary; run tests/upgrade")
}

/// Where the steps of a dialog go.
#[derive(Clone, Copy, Debug)]
struct Steps {
    transit: Version,
    callback: Version,
    redirect: Version,
    success: Version,
}

impl Steps {
    fn all() -> impl Iterator<Item = Self> {
        (0..16).map(|bits: usize| {
            let version = |bit: usize| BOTH[bits >> bit & 1];
            let (transit, callback) = (version(0), version(1));
            Self { transit, callback, redirect: version(2), success: version(3) }
        })
    }

    fn route(self, path: &str) -> Version {
        match path {
            "/callback" => self.callback,
            "/addons/redirect" => self.redirect,
            "/addons/success" => self.success,
            _ => self.transit,
        }
    }
}

#[tokio::test]
#[ignore = "needs the binary of version 0.1; run tests/upgrade"]
async fn any_instance_takes_any_step_of_a_sign_in() {
    let deployment = Deployment::start(
        Some(&old_binary()),
        // As 0.1 is by default.
        &[("TOKEN_RELAY_LEGACY_SESSIONS", "true")],
    )
    .await;
    let (mut signed_in, mut repeated) = (0, 0);
    for body in [json!({"bind": true}), json!({"bind": true, "confirm": true}), json!({})] {
        for (creator, reader) in BOTH.into_iter().flat_map(|one| BOTH.map(|two| (one, two))) {
            for steps in Steps::all() {
                let case = format!("{body} created at {creator:?}, read at {reader:?}, {steps:?}");
                let session = create(deployment.at(creator), Some(body.clone())).await;
                let token = session["session_token"].as_str();
                let events = deployment.url_at(reader, text(&session, "events_url"));
                let mut events = Events::open(&events, token).await;
                let route = |path: &str| steps.route(path);
                let mut browser = Browser::new(&deployment, &route);
                let code = session["user_code"].as_str();
                let (url, status, page) = browser.go(text(&session, "transit_url"), code).await;
                assert_eq!(
                    (url.path(), status),
                    ("/addons/success", StatusCode::OK),
                    "{case} {:?} {page} {}",
                    browser.trail,
                    deployment.new.log()
                );
                assert!(page.contains("Alice"), "{case}: {page}");
                let event = events.next().await.unwrap();
                assert_eq!(event.name, "authenticated", "{case} {:?}", event.data);
                for version in BOTH {
                    let status =
                        deployment.verify(version, text(&event.data, "access_token")).await;
                    assert_eq!(status, StatusCode::OK, "{case} at {version:?}");
                }
                let acknowledged = client()
                    .delete(deployment.url_at(creator, text(&session, "poll_url")))
                    .bearer_auth(token.unwrap_or_default());
                if token.is_some() {
                    let acknowledged = acknowledged.send().await.unwrap();
                    assert_eq!(acknowledged.status(), StatusCode::NO_CONTENT, "{case}");
                }
                signed_in += 1;
                repeated += browser.repeated;
            }
        }
    }
    for version in BOTH {
        let metrics = client().get(format!("{}/metrics", deployment.at(version)));
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("token_relay_deliveries_lost_total 0"), "{version:?}");
    }
    println!("{signed_in} sign-ins over both versions, all arrived; {repeated} forms sent again");
}

#[tokio::test]
#[ignore = "needs the binary of version 0.1; run tests/upgrade"]
async fn grants_and_revocations_hold_at_both_versions() {
    let deployment = Deployment::start(Some(&old_binary()), &[]).await;
    for (first, second) in [(Old, New), (New, Old)] {
        let session = create(deployment.at(first), Some(json!({"bind": true}))).await;
        let route = |_: &str| first;
        let mut browser = Browser::new(&deployment, &route);
        browser.go(text(&session, "transit_url"), session["user_code"].as_str()).await;
        let poll = client().get(deployment.url_at(second, text(&session, "poll_url")));
        let poll = poll.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        let mut tokens: Value = poll.json().await.unwrap();
        for version in [second, first, second, first] {
            let refresh_token = text(&tokens, "refresh_token").to_owned();
            let (status, next) = deployment.refresh(version, &session, &refresh_token).await;
            assert_eq!(status, StatusCode::OK, "{version:?}: {next}");
            tokens = next;
            for at in BOTH {
                let status = deployment.verify(at, text(&tokens, "access_token")).await;
                assert_eq!(status, StatusCode::OK, "issued at {version:?}, verified at {at:?}");
            }
        }
        // Of the token alone, then of the grant, at the other version each time.
        let (access_token, refresh_token) =
            (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
        deployment.revoke(first, access_token).await;
        assert_eq!(deployment.verify(second, access_token).await, StatusCode::UNAUTHORIZED);
        let (status, next) = deployment.refresh(first, &session, refresh_token).await;
        assert_eq!(status, StatusCode::OK, "{next}");
        deployment.revoke(first, text(&next, "refresh_token")).await;
        let status = deployment.verify(second, text(&next, "access_token")).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, _) = deployment.refresh(second, &session, text(&next, "refresh_token")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
#[ignore = "needs the binary of version 0.1; run tests/upgrade"]
async fn meet_logins_and_exchanges_hold_at_both_versions() {
    let deployment = Deployment::start(Some(&old_binary()), &[]).await;
    let meet = async |version, name: &str, cookies: &str, csrf: &str, body: Value| {
        let url = format!("{}/api/v1.0/addons/sessions/{name}/", deployment.at(version));
        let request = client().post(url).header(header::COOKIE, cookies);
        request.header("x-csrftoken", csrf).json(&body).send().await.unwrap()
    };
    let mut exchanges = 0;
    for bits in 0..16_usize {
        let version = |bit: usize| BOTH[bits >> bit & 1];
        let (initialised, callback, exchanged, polled) =
            (version(0), version(1), version(2), version(3));
        let init = meet(initialised, "init", "", "", json!({})).await;
        let sid = init.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        let sid = sid.split(';').next().unwrap().to_owned();
        let init: Value = init.json().await.unwrap();
        // The login, whose cookies are Secure, so the test carries them.
        let mut jar = BTreeMap::new();
        let mut url = format!(
            "{}/api/v1.0/authenticate/?returnTo={RETURN_TO}",
            deployment.at(if callback == Old { New } else { Old })
        );
        let mut form: Option<Vec<(String, String)>> = None;
        while !url.starts_with(RETURN_TO) {
            let cookies: Vec<_> =
                jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut request = match &form {
                Some(fields) => client().post(&url).form(fields),
                None => client().get(&url),
            };
            request = request.header(header::COOKIE, cookies.join("; "));
            let response = request.send().await.unwrap();
            for cookie in response.headers().get_all(header::SET_COOKIE) {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                jar.insert(name.to_owned(), value.to_owned());
            }
            form = None;
            if let Some(target) = response.headers().get(header::LOCATION) {
                let target = Url::parse(&url).unwrap().join(target.to_str().unwrap()).unwrap();
                url = match deployment.serves(&target) {
                    true => deployment.url_at(callback, target.as_str()),
                    false => target.to_string(),
                };
                continue;
            }
            let status = response.status();
            let page = response.text().await.unwrap();
            assert!(page.contains("name=\"username\""), "{status} {url} {page}");
            let action =
                attribute(page.split("<form").nth(1).unwrap(), "action").unwrap_or_default();
            url = Url::parse(&url).unwrap().join(&action).unwrap().to_string();
            let mut fields = hidden_inputs(&page);
            fields.push(("username".to_owned(), "alice".to_owned()));
            fields.push(("password".to_owned(), "alice".to_owned()));
            form = Some(fields);
        }
        let cookies: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let body = json!({"transit_token": text(&init, "transit_token")});
        let answer =
            meet(exchanged, "exchange", &cookies.join("; "), &jar["csrftoken"], body).await;
        let status = answer.status();
        let answer = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "callback at {callback:?}, {exchanged:?}: {answer}");
        let poll = meet(polled, "poll", &sid, text(&init, "csrf_token"), json!({})).await;
        assert_eq!(poll.status(), StatusCode::OK, "polled at {polled:?}");
        exchanges += 1;
    }
    println!("{exchanges} exchanges over both versions, all arrived");
}

fn mark(name: &str) -> String {
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(name.as_bytes()));
    format!("token-relay:mark:{{{digest}}}")
}

/// The format in which a new session's details are sealed.
async fn format_of_a_session(deployment: &Deployment) -> u8 {
    let session = create(&deployment.new.url, Some(json!({"bind": true}))).await;
    let key = URL_SAFE_NO_PAD.encode(Sha256::digest(text(&session, "session_id").as_bytes()));
    let redis = deployment.redis.client().await;
    let sealed = redis::command(&redis, &["HGET", &format!("token-relay:{{{key}}}"), "o"]).await;
    sealed.convert::<bytes::Bytes>().unwrap()[0]
}

#[tokio::test]
async fn everything_is_sealed_for_both_versions_until_0_1_was_not_noticed_for_a_day() {
    let mut deployment = Deployment::start(None, &[]).await;
    assert_eq!(format_of_a_session(&deployment).await, 1, "on the first day");
    let redis = deployment.redis.client().await;
    let today = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    let issuer = deployment.provider.url.clone();
    let own = environment(&deployment.redis, &issuer, &deployment.public_url);
    let start = |more: &[(&str, &str)]| {
        let mut own = own.clone();
        own.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        serve(env!("CARGO_BIN_EXE_token-relay"), &own)
    };
    for day in [today - 1, today, today + 1] {
        redis::command(&redis, &["DEL", &mark(&format!("edition:0.1:{day}"))]).await;
    }
    deployment.new = start(&[]);
    assert_eq!(format_of_a_session(&deployment).await, 2, "later");
    let yesterday = mark(&format!("edition:0.1:{}", today - 1));
    redis::command(&redis, &["SET", &yesterday, "1"]).await;
    deployment.new = start(&[]);
    assert_eq!(format_of_a_session(&deployment).await, 1, "0.1 was noticed yesterday");
    deployment.new = start(&[("TOKEN_RELAY_SEALING_FORMAT", "2")]);
    assert_eq!(format_of_a_session(&deployment).await, 2, "told so");
}

/// Stores a session as 0.1 does: a record that its `create.lua` wrote, with other secrets.
async fn store_as_0_1(deployment: &Deployment, id: &str, token: &str, transit: &str) {
    let digest = |text: &str| URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()));
    let redis = deployment.redis.client().await;
    let expires = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() + 600_000;
    let expires = expires.to_string();
    let info = r#"{"profile":"bound","user_code":null,"client_name":"An add-in","origin":null}"#;
    let key = format!("token-relay:{{{}}}", digest(id));
    let (token, transit) = (digest(token), digest(transit));
    let fields = [
        "s", "p", "m", "bound", "i", info, "x", &expires, "k", &token, "t", &transit, "tx",
        &expires,
    ];
    redis::command(&redis, &[&["HSET", &key][..], &fields].concat()).await;
}

fn random_text(label: &str) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{label} {now}").as_bytes()))
}

#[tokio::test]
async fn a_session_of_0_1_is_completed_after_the_person_said_so_twice() {
    let deployment = Deployment::start(None, &[]).await;
    let (id, token) = (random_text("session"), random_text("token"));
    let key = URL_SAFE_NO_PAD.encode(Sha256::digest(id.as_bytes()));
    let transit = format!("{key}{}", random_text("transit"));
    store_as_0_1(&deployment, &id, &token, &transit).await;
    let events = format!("{}/addons/sessions/{id}/events", deployment.new.url);
    let mut events = Events::open(&events, Some(&token)).await;
    let route = |_: &str| New;
    let mut browser = Browser::new(&deployment, &route);
    let transit_url = format!("{}/addons/transit/?transit_token={transit}", deployment.public_url);
    let (url, _, page) = browser.go(&transit_url, None).await;
    assert_eq!(url.path(), "/addons/success", "{:?} {page}", browser.trail);
    let forms = browser.trail.iter().filter(|line| line.contains("POST /addons")).count();
    assert_eq!(forms, 2, "a button and the account: {:?}", browser.trail);
    assert_eq!(events.next().await.unwrap().name, "authenticated");
}

#[tokio::test]
async fn a_dialog_that_0_1_began_is_completed_and_its_cookies_are_readable_there() {
    let deployment = Deployment::start(None, &[]).await;
    let (id, token) = (random_text("session"), random_text("token"));
    let key = URL_SAFE_NO_PAD.encode(Sha256::digest(id.as_bytes()));
    let transit = format!("{key}{}", random_text("transit"));
    store_as_0_1(&deployment, &id, &token, &transit).await;
    // What 0.1 has in its cookie when the browser is at the provider.
    let (state, nonce, verifier) =
        (random_text("state"), random_text("nonce"), random_text("pkce"));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let session_token = URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes()));
    let dialog = json!({
        "add_in": {"session": key, "session_token": session_token, "name": "An add-in"},
        "stage": {"LoggingIn": {"attempt": {
            "state": state, "nonce": nonce, "pkce_verifier": verifier, "begun_at": now,
        }}},
    });
    let ring = KeyRing::new("COOKIE_KEYS", [COOKIE_KEY.as_bytes()]).unwrap();
    ring.seal_in(Format::V1);
    let handle = &URL_SAFE_NO_PAD.encode(Sha256::digest(state.as_bytes()))[..16];
    let sealed = ring.seal_text(Purpose::Dialog, handle.as_bytes(), &dialog, TIMEOUT).unwrap();
    let cookie = format!("token-relay-dialog-{handle}={sealed}");

    let mut authorize = Url::parse(&format!("{}/authorize", deployment.provider.url)).unwrap();
    authorize.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("client_id", "token-relay"),
        ("scope", "openid"),
        ("redirect_uri", &format!("{}/callback", deployment.public_url)),
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))),
        ("code_challenge_method", "S256"),
    ]);
    let page = client().get(authorize.clone()).send().await.unwrap().text().await.unwrap();
    let mut fields = hidden_inputs(&page);
    fields.push(("username".to_owned(), "alice".to_owned()));
    fields.push(("password".to_owned(), "alice".to_owned()));
    let back = client().post(authorize).form(&fields).send().await.unwrap();
    let back = back.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let callback = client()
        .get(deployment.url_at(New, &back))
        .header(header::COOKIE, &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(callback.status(), StatusCode::FOUND, "{}", deployment.new.log());
    let step = callback.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(step, format!("/addons/redirect?dialog={handle}"));
    let cookie = callback.headers()[header::SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();

    // 0.1 opens it: these are the members of its types, none of which is optional there.
    let (_, sealed) = cookie.split_once('=').unwrap();
    let opened: Value = ring.open_text(Purpose::Dialog, handle.as_bytes(), sealed).unwrap();
    assert_eq!(opened["add_in"]["session"], json!(key));
    assert_eq!(opened["add_in"]["session_token"], json!(session_token));
    assert_eq!(opened["add_in"]["name"], "An add-in");
    assert_eq!(opened["stage"]["LoggedIn"]["identity"]["subject"], "alice");
    assert!(opened["stage"]["LoggedIn"]["identity"]["claims"].is_object());

    // It asked for no proof, so the person is asked before the token is handed over.
    let url = format!("{}{step}", deployment.new.url);
    let page = client().get(url).header(header::COOKIE, &cookie).send().await.unwrap();
    let cookie = page.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    let page = page.text().await.unwrap();
    assert!(page.contains("id=\"question\""), "{page}");
    let mut fields = hidden_inputs(&page);
    fields.push(("decision".to_owned(), "continue".to_owned()));
    let answer = client()
        .post(format!("{}/addons/account", deployment.new.url))
        .header(header::COOKIE, cookie.split(';').next().unwrap())
        .header(header::ORIGIN, &deployment.public_url)
        .form(&fields)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{}", deployment.new.log());
    let poll = client().get(format!("{}/addons/sessions/{id}", deployment.new.url));
    let poll: Value = poll.bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    assert_eq!(poll["state"], "authenticated");
}

/// A reader that waits at an instance.
enum Reader {
    Stream(Events),
    Socket(Box<WebSocket>),
    LongPoll(tokio::task::JoinHandle<Option<Value>>),
}

type WebSocket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

impl Reader {
    /// Waits for `session` at an instance, the `number`th of a mixture.
    async fn open(
        deployment: &Deployment,
        version: Version,
        session: &Value,
        number: usize,
    ) -> Self {
        let token = text(session, "session_token");
        match number % 4 {
            0 => {
                let url = text(session, "websocket_url").replace("ws://", "http://");
                let url = deployment.url_at(version, &url).replace("http://", "ws://");
                let mut request = url.into_client_request().unwrap();
                let protocols = format!("token-relay.v1, bearer.{token}").parse().unwrap();
                request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
                let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
                Self::Socket(Box::new(socket))
            }
            1 => {
                let url = deployment.url_at(version, text(session, "poll_url"));
                let request = client().get(format!("{url}?wait=25")).bearer_auth(token);
                Self::LongPoll(tokio::spawn(async move {
                    request.send().await.ok()?.json::<Value>().await.ok()
                }))
            }
            _ => {
                let url = deployment.url_at(version, text(session, "events_url"));
                Self::Stream(Events::open(&url, Some(token)).await)
            }
        }
    }

    /// The access token, or nothing where the instance ended first.
    async fn token(self) -> Option<String> {
        let token = |body: &Value| body["access_token"].as_str().map(str::to_owned);
        let read = async {
            match self {
                Self::Stream(mut events) => token(&events.next().await?.data),
                Self::LongPoll(answer) => token(&answer.await.unwrap()?),
                Self::Socket(mut socket) => loop {
                    let message = socket.next().await?.ok()?;
                    if let Some(body) =
                        message.to_text().ok().and_then(|text| serde_json::from_str(text).ok())
                    {
                        return token(&body);
                    }
                },
            }
        };
        tokio::time::timeout(2 * TIMEOUT, read).await.expect("an answer or an end")
    }
}

/// A deploy: the instance of 0.1 is told to end while readers wait at it, and while it has delivered
/// tokens that nobody has acknowledged. They come again at the new version, and all get their token.
#[tokio::test]
#[ignore = "needs the binary of version 0.1; run tests/upgrade"]
async fn streams_that_are_open_at_0_1_get_their_token_from_the_new_version() {
    const SESSIONS: usize = 40;
    let mut deployment = Deployment::start(Some(&old_binary()), &[]).await;
    let (at_old, at_new) = (|_: &str| Old, |_: &str| New);
    let mut waiting = Vec::new();
    for number in 0..SESSIONS {
        let version = BOTH[number % 2];
        let session = create(deployment.at(version), Some(json!({"bind": true}))).await;
        let reader = Reader::open(&deployment, Old, &session, number / 2).await;
        waiting.push((number, session, reader));
    }

    // A quarter signs in before the deploy; their readers get the token and are cut off at once.
    let early = waiting.split_off(SESSIONS / 4 * 3);
    let mut delivered = Vec::new();
    for (number, session, reader) in early {
        let mut browser = Browser::new(&deployment, &at_old);
        let code = session["user_code"].as_str();
        let (url, ..) = browser.go(text(&session, "transit_url"), code).await;
        assert_eq!(url.path(), "/addons/success", "{:?}", browser.trail);
        let token = reader.token().await.expect("0.1 delivers");
        delivered.push((number, session, token));
    }

    let old = deployment.old.as_ref().unwrap();
    old.signal("TERM");
    let mut again = Vec::new();
    for (number, session, reader) in waiting {
        assert_eq!(reader.token().await, None, "0.1 ends before the login");
        let reader = Reader::open(&deployment, New, &session, number / 2).await;
        again.push((number, session, reader));
    }
    assert!(deployment.old.as_mut().unwrap().wait().success(), "0.1 drains");

    for (number, session, token) in &delivered {
        let reader = Reader::open(&deployment, New, session, number / 2).await;
        assert_eq!(reader.token().await.as_deref(), Some(token.as_str()), "session {number}");
    }
    let mut arrived = delivered.len();
    for (number, session, reader) in again {
        let mut browser = Browser::new(&deployment, &at_new);
        let code = session["user_code"].as_str();
        let (url, _, page) = browser.go(text(&session, "transit_url"), code).await;
        assert_eq!(url.path(), "/addons/success", "{:?} {page}", browser.trail);
        let token = reader.token().await.unwrap_or_else(|| panic!("session {number} lost"));
        assert_eq!(deployment.verify(New, &token).await, StatusCode::OK);
        arrived += 1;
    }
    println!(
        "{arrived} tokens of {SESSIONS} sessions, read at 0.1 when it was told to end, arrived at the new version"
    );
    assert_eq!(arrived, SESSIONS);
}

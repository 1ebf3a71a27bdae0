//! The meet-compatible surface, status for status, on both stores.

use std::collections::HashMap;

use crate::support::{Process, TIMEOUT, client, hidden_inputs, redis, text};
use futures_util::StreamExt as _;
use reqwest::{Method, Response, StatusCode, Url, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SECRET: &str = crate::support::MEET_KEY;
const RETURN_TO: &str = "http://127.0.0.1:9/addin/done";

/// A relay with the surface on, and the Redis it uses, if it does.
struct Fixture {
    relay: Process,
    redis: Option<redis::Server>,
}

async fn fixtures() -> Vec<Fixture> {
    let surface = [
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("ADDONS_CSRF_SECRET", SECRET),
        ("ADDONS_TOKEN_SECRET_KEY", SECRET),
        ("TOKEN_RELAY_ALLOWED_ORIGINS", "https://outlook.office.example"),
    ];
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let shared = crate::support::shared(url.as_str());
    let with_redis = [&surface[..], &shared[..]].concat();
    vec![
        Fixture { relay: Process::demo(&surface), redis: None },
        Fixture { relay: Process::demo(&with_redis), redis: Some(server) },
    ]
}

/// A client with a cookie jar that does as browsers do over HTTPS.
#[derive(Default, Clone)]
struct Client {
    base: String,
    cookies: HashMap<String, String>,
}

impl Client {
    fn new(fixture: &Fixture) -> Self {
        Self { base: fixture.relay.url.clone(), cookies: HashMap::new() }
    }

    async fn send(
        &mut self,
        method: Method,
        url: &str,
        csrf: Option<&str>,
        body: Option<Value>,
    ) -> Response {
        let url =
            if url.starts_with("http") { url.to_owned() } else { format!("{}{url}", self.base) };
        let mut request = client().request(method, url);
        if !self.cookies.is_empty() {
            let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
            request = request.header(header::COOKIE, pairs.collect::<Vec<_>>().join("; "));
        }
        if let Some(csrf) = csrf {
            request = request.header("x-csrftoken", csrf);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
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

    async fn addons(&mut self, name: &str, csrf: Option<&str>, body: Option<Value>) -> Response {
        let url = format!("/api/v1.0/addons/sessions/{name}/");
        self.send(Method::POST, &url, csrf, body).await
    }

    /// `init`, as the add-in does it.
    async fn init(&mut self) -> (String, String) {
        let answer = self.addons("init", None, None).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        for part in [
            "addonsSid=",
            "HttpOnly",
            "Secure",
            "SameSite=None",
            "Max-Age=3600",
            "Path=/",
            "Partitioned",
        ] {
            assert!(cookie.contains(part), "{part} in {cookie}");
        }
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        let csrf = text(&body, "csrf_token").to_owned();
        assert_eq!(csrf.len(), 64);
        assert!(csrf.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        (text(&body, "transit_token").to_owned(), csrf)
    }

    /// The browser login, up to the page that it returns to.
    async fn log_in(&mut self, user: &str) {
        let start = format!("/api/v1.0/authenticate/?returnTo={RETURN_TO}");
        let answer = self.send(Method::GET, &start, None, None).await;
        let login = location(&answer);
        let page = self.send(Method::GET, login.as_str(), None, None).await.text().await.unwrap();
        let mut fields = hidden_inputs(&page);
        fields.push(("username".to_owned(), user.to_owned()));
        fields.push(("password".to_owned(), user.to_owned()));
        let action = login.join("/authorize").unwrap();
        let answer = client().post(action).form(&fields).send().await.unwrap();
        let callback = location(&answer);
        assert_eq!(callback.path(), "/api/v1.0/callback/");
        let answer = self.send(Method::GET, callback.as_str(), None, None).await;
        assert_eq!(location(&answer).as_str(), RETURN_TO);
    }

    async fn exchange(&mut self, transit_token: Value) -> Response {
        let csrf = self.cookies.get("csrftoken").cloned();
        self.addons("exchange", csrf.as_deref(), Some(json!({"transit_token": transit_token})))
            .await
    }
}

fn location(response: &Response) -> Url {
    assert!(response.status().is_redirection(), "{}", response.status());
    Url::parse(response.headers()[header::LOCATION].to_str().unwrap()).unwrap()
}

async fn detail(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["detail"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, detail: &str) -> (u16, String) {
    (status, detail.to_owned())
}

#[tokio::test]
async fn the_whole_life_of_a_session() {
    for fixture in fixtures().await {
        let (mut add_in, mut browser) = (Client::new(&fixture), Client::new(&fixture));
        let (transit, csrf) = add_in.init().await;
        let pending = add_in.addons("poll", Some(&csrf), None).await;
        assert_eq!(pending.status(), StatusCode::ACCEPTED);
        assert_eq!(pending.json::<Value>().await.unwrap(), json!({"state": "pending"}));

        let stranger = browser.exchange(json!(transit)).await;
        assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED, "not logged in");
        browser.log_in("alice").await;
        let done = browser.exchange(json!(transit)).await;
        assert_eq!(done.status(), StatusCode::OK);
        assert_eq!(done.json::<Value>().await.unwrap(), json!({"status": "ok"}));

        let before = add_in.clone();
        let answer = add_in.addons("poll", Some(&csrf), None).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!add_in.cookies.contains_key("addonsSid"), "the cookie is cleared");
        let token: Value = answer.json().await.unwrap();
        assert_eq!(text(&token, "state"), "authenticated");
        assert_eq!((text(&token, "token_type"), text(&token, "scope")), ("Bearer", "rooms:create"));
        assert!((7190..=7200).contains(&token["expires_in"].as_u64().unwrap()));
        pyjwt_accepts(text(&token, "access_token"));

        let replay = before.clone().addons("poll", Some(&csrf), None).await;
        assert_eq!(detail(replay).await, is(404, "Session not found."));
        let gone = add_in.addons("poll", Some(&csrf), None).await;
        assert_eq!(detail(gone).await, is(401, "Missing credentials."));
    }
}

/// The reference implementation that the APIs use takes our token.
fn pyjwt_accepts(token: &str) {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    assert!(
        std::path::Path::new(python).exists(),
        "PyJWT is missing: python3 -m venv target/venv && target/venv/bin/pip install PyJWT"
    );
    let script = "import jwt, sys\n\
        claims = jwt.decode(sys.argv[1], sys.argv[2], algorithms=['HS256'],\n\
            issuer='lasuite-meet', audience='addons')\n\
        assert set(claims) == {'iat', 'exp', 'user_id', 'iss', 'aud', 'scope'}, claims\n\
        assert claims['user_id'] == 'alice' and claims['scope'] == 'rooms:create', claims\n\
        assert claims['exp'] - claims['iat'] == 7200, claims\n";
    let ended = std::process::Command::new(python).args(["-c", script, token, SECRET]).status();
    assert!(ended.unwrap().success(), "PyJWT refuses the token");
}

#[tokio::test]
async fn poll_answers_as_its_clients_know_it() {
    for fixture in fixtures().await {
        let mut add_in = Client::new(&fixture);
        let (_, csrf) = add_in.init().await;
        let mut other = Client::new(&fixture);
        let (_, other_csrf) = other.init().await;
        let nobody = Client::new(&fixture).addons("poll", Some(&csrf), None).await;
        assert_eq!(detail(nobody).await, is(401, "Missing credentials."));
        let answer = add_in.addons("poll", None, None).await;
        assert_eq!(detail(answer).await, is(400, "Missing CSRF token."));
        for wrong in ["0".repeat(64).as_str(), "x", other_csrf.as_str()] {
            let answer = add_in.addons("poll", Some(wrong), None).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
        // The session has survived all that.
        assert_eq!(add_in.addons("poll", Some(&csrf), None).await.status(), StatusCode::ACCEPTED);
        let mut forged = Client::new(&fixture);
        forged.cookies.insert("addonsSid".to_owned(), "nonsense".to_owned());
        let answer = forged.addons("poll", Some(&csrf), None).await;
        assert_eq!(detail(answer).await, is(400, "Invalid CSRF token."));
        // Its ID is unknown to the native surface, as is that of a native session here.
        let native = format!("/addons/sessions/{}", add_in.cookies["addonsSid"]);
        let answer = Client::new(&fixture).send(Method::GET, &native, None, None).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        for name in ["init", "poll", "exchange"] {
            let url = format!("/api/v1.0/addons/sessions/{name}/");
            let answer = add_in.send(Method::GET, &url, None, None).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{name}");
        }
    }
}

#[tokio::test]
async fn exchange_refuses_what_it_must_and_a_replay_evicts() {
    for fixture in fixtures().await {
        let mut browser = Client::new(&fixture);
        browser.log_in("bob").await;
        for missing in [json!(""), json!(null)] {
            let answer = browser.exchange(missing).await;
            assert_eq!(detail(answer).await, is(400, "Missing transit_token."));
        }
        for unknown in [json!("nonsense"), json!("A".repeat(123)), json!(7)] {
            let answer = browser.exchange(unknown).await;
            assert_eq!(detail(answer).await, is(400, "Invalid or expired transit token."));
        }
        let mut add_in = Client::new(&fixture);
        let (transit, csrf) = add_in.init().await;
        // Without Django's token, or with another one, nothing happens.
        let body = Some(json!({"transit_token": transit}));
        for csrf in [None, Some("x"), Some(csrf.as_str())] {
            let answer = browser.addons("exchange", csrf, body.clone()).await;
            assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        }
        assert_eq!(browser.exchange(json!(transit)).await.status(), StatusCode::OK);
        let answer = browser.exchange(json!(transit)).await;
        assert_eq!(detail(answer).await, is(400, "Invalid or expired transit token."));
        let answer = add_in.addons("poll", Some(&csrf), None).await;
        assert_eq!(detail(answer).await, is(404, "Session not found."), "the replay evicted it");
        browser.send(Method::GET, "/api/v1.0/logout/", None, None).await;
        let answer = browser.exchange(json!(transit)).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "logged out");
    }
}

#[tokio::test]
async fn two_clients_do_not_interfere_and_both_are_pushed_to() {
    for fixture in fixtures().await {
        let (mut first, mut second) = (Client::new(&fixture), Client::new(&fixture));
        let (first_transit, first_csrf) = first.init().await;
        let (second_transit, second_csrf) = second.init().await;
        let cookie = |client: &Client| format!("addonsSid={}", client.cookies["addonsSid"]);

        let events_url = format!("{}/api/v1.0/addons/sessions/events/", fixture.relay.url);
        let wrong = client()
            .get(&events_url)
            .header(header::COOKIE, cookie(&first))
            .header("x-csrftoken", &second_csrf)
            .send();
        assert_eq!(wrong.await.unwrap().status(), StatusCode::BAD_REQUEST);
        let events = client()
            .get(&events_url)
            .header(header::COOKIE, cookie(&first))
            .header("x-csrftoken", &first_csrf)
            .send()
            .await
            .unwrap();
        assert_eq!(events.status(), StatusCode::OK);

        let socket_url = format!("{}/api/v1.0/addons/sessions/ws/", fixture.relay.url);
        let mut request = socket_url.replace("http", "ws").into_client_request().unwrap();
        let protocols = format!("token-relay.v1, csrf.{second_csrf}");
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
        request.headers_mut().insert(header::COOKIE, cookie(&second).parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();

        let mut browser = Client::new(&fixture);
        browser.log_in("alice").await;
        assert_eq!(browser.exchange(json!(first_transit)).await.status(), StatusCode::OK);
        let body = tokio::time::timeout(TIMEOUT, events.text()).await.unwrap().unwrap();
        assert!(body.contains("event: authenticated") && body.contains("rooms:create"), "{body}");
        assert_eq!(
            second.addons("poll", Some(&second_csrf), None).await.status(),
            StatusCode::ACCEPTED
        );

        assert_eq!(browser.exchange(json!(second_transit)).await.status(), StatusCode::OK);
        let message = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(message.to_text().unwrap().contains(r#""type":"authenticated""#));
    }
}

#[tokio::test]
async fn a_corrupted_session_is_told_apart_from_an_unknown_one() {
    let fixture = fixtures().await.remove(1);
    let (mut add_in, mut browser) = (Client::new(&fixture), Client::new(&fixture));
    let (transit, csrf) = add_in.init().await;
    browser.log_in("alice").await;
    assert_eq!(browser.exchange(json!(transit)).await.status(), StatusCode::OK);
    let admin = fixture.redis.as_ref().unwrap().client().await;
    let keys = redis::command(&admin, &["KEYS", "*"]).await.into_array();
    let keys = keys.iter().map(|key| key.as_string().unwrap());
    // Nothing but the prefix and the key of the session; marks and values have a word between.
    let session = keys.into_iter().find(|key| key.starts_with("token-relay:{")).unwrap();
    redis::command(&admin, &["HSET", &session, "y", "garbage"]).await;
    let answer = add_in.addons("poll", Some(&csrf), None).await;
    assert_eq!(detail(answer).await, is(400, "Invalid or expired session."));
}

#[tokio::test]
async fn origins_and_return_addresses_are_exact() {
    let fixture = fixtures().await.remove(0);
    let preflight = |origin: &str| {
        client()
            .request(
                Method::OPTIONS,
                format!("{}/api/v1.0/addons/sessions/poll/", fixture.relay.url),
            )
            .header(header::ORIGIN, origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-csrftoken")
            .send()
    };
    let allowed = preflight("https://outlook.office.example").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://outlook.office.example");
    assert_eq!(allowed.headers()["access-control-allow-credentials"], "true");
    for origin in
        ["https://outlook.office.example.evil.example", "http://outlook.office.example", "null"]
    {
        let refused = preflight(origin).await.unwrap();
        assert!(!refused.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    for target in [
        "",
        "//evil.example",
        "https://evil.example/addin",
        "http://127.0.0.1:9/addins",
        "http://127.0.0.1:9/addin/%2e%2e/x",
        "http://user@127.0.0.1:9/addin",
        "javascript:alert(1)",
    ] {
        let url = format!("{}/api/v1.0/authenticate/", fixture.relay.url);
        let answer = client().get(url).query(&[("returnTo", target)]).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{target}");
    }
}

#[tokio::test]
async fn without_the_setting_there_is_nothing() {
    let relay = Process::demo(&[]);
    for name in ["init", "poll", "exchange", "events", "ws"] {
        let url = format!("{}/api/v1.0/addons/sessions/{name}/", relay.url);
        assert_eq!(
            client().post(url).send().await.unwrap().status(),
            StatusCode::NOT_FOUND,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_logout_ends_the_login_and_not_only_its_cookie() {
    for fixture in fixtures().await {
        let (mut add_in, mut browser) = (Client::new(&fixture), Client::new(&fixture));
        let (transit, csrf) = add_in.init().await;
        browser.log_in("alice").await;
        let mut copy = browser.clone();
        let out = browser.send(Method::GET, "/api/v1.0/logout/", None, None).await;
        assert_eq!(out.status(), StatusCode::OK);
        let answer = copy.exchange(json!(transit)).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let pending = add_in.addons("poll", Some(&csrf), None).await;
        assert_eq!(pending.status(), StatusCode::ACCEPTED, "nothing is consumed");
    }
}

#[tokio::test]
async fn with_a_proof_by_address_the_exchange_comes_from_the_network_of_init() {
    let proxied = [
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("ADDONS_CSRF_SECRET", SECRET),
        ("ADDONS_TOKEN_SECRET_KEY", SECRET),
        ("TOKEN_RELAY_MEET_PROOF", "address"),
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let fixture = Fixture { relay: Process::demo(&proxied), redis: None };
    let mut browser = Client::new(&fixture);
    browser.log_in("alice").await;
    // An attacker begins a session on a server of theirs.
    let init = format!("{}/api/v1.0/addons/sessions/init/", fixture.relay.url);
    for (begun_from, status) in [
        ("192.0.2.66", StatusCode::FORBIDDEN),
        ("2001:db8::1", StatusCode::FORBIDDEN),
        ("127.0.0.1", StatusCode::OK),
    ] {
        let begun = client().post(&init).header("x-forwarded-for", begun_from).send().await;
        let begun: Value = begun.unwrap().json().await.unwrap();
        let answer = browser.exchange(json!(text(&begun, "transit_token"))).await;
        assert_eq!(answer.status(), status, "{begun_from}");
    }
    redis::eventually("the log names the setting", || async {
        fixture.relay.log().contains("MEET_PROOF")
    })
    .await;
}

#[tokio::test]
async fn over_https_the_login_is_a_host_cookie_and_its_earlier_name_is_read() {
    let public = "https://relay.example";
    let relay = Process::demo_behind(
        public,
        &[
            ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
            ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
            ("ADDONS_CSRF_SECRET", SECRET),
            ("ADDONS_TOKEN_SECRET_KEY", SECRET),
        ],
    );
    let mut browser = Client { base: relay.url.clone(), cookies: HashMap::new() };
    let url = format!("/api/v1.0/authenticate/?returnTo={RETURN_TO}");
    let answer = browser.send(Method::GET, &url, None, None).await;
    let provider = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let page = client().get(&provider).send().await.unwrap().text().await.unwrap();
    let mut fields = hidden_inputs(&page);
    fields.push(("username".to_owned(), "alice".to_owned()));
    fields.push(("password".to_owned(), "alice".to_owned()));
    let back = client().post(&provider).form(&fields).send().await.unwrap();
    let back = back.headers()[header::LOCATION].to_str().unwrap().replace(public, &relay.url);
    let answer = browser.send(Method::GET, &back, None, None).await;
    assert_eq!(answer.headers()[header::LOCATION], RETURN_TO, "{}", relay.log());
    let set = answer.headers().get_all(header::SET_COOKIE).iter();
    let set: Vec<_> = set.map(|cookie| cookie.to_str().unwrap()).collect();
    let login = set.iter().find(|cookie| cookie.starts_with("__Host-token-relay-login=")).unwrap();
    for attribute in ["Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(login.contains(attribute) && !login.contains("Domain"), "{login}");
    }
    assert!(set.iter().any(|cookie| cookie.starts_with("token-relay-login=;")), "{set:?}");

    let login = browser.cookies.remove("__Host-token-relay-login").unwrap();
    let csrf = browser.cookies["csrftoken"].clone();
    // A login of version 0.1, and one that somebody planted beside that of this version.
    for (cookies, expected) in [
        (vec![("token-relay-login", login.as_str())], StatusCode::OK),
        (vec![("token-relay-login", "planted")], StatusCode::UNAUTHORIZED),
        (
            vec![("token-relay-login", "planted"), ("__Host-token-relay-login", &login)],
            StatusCode::OK,
        ),
    ] {
        let mut addin = Client { base: relay.url.clone(), cookies: HashMap::new() };
        let (transit_token, _) = addin.init().await;
        let cookies = cookies.iter().map(|(name, value)| format!("{name}={value}; "));
        let cookies = format!("{}csrftoken={csrf}", cookies.collect::<String>());
        let answer = client()
            .post(format!("{}/api/v1.0/addons/sessions/exchange/", relay.url))
            .header(header::COOKIE, &cookies)
            .header(header::ORIGIN, public)
            .header("x-csrftoken", &csrf)
            .json(&json!({"transit_token": transit_token}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), expected, "{cookies}");
    }
}

//! The browser requests the callback twice while the provider's token endpoint is slow, at one
//! instance and at two: both succeed, once.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, http::Request, response::IntoResponse as _};
use reqwest::{StatusCode, header};
use serde_json::json;

use crate::support::{
    COOKIE_KEY, Events, MEET_KEY, Process, SEALING_KEY, SIGNING_KEY, client, create, hidden_inputs,
    redis, text,
};

/// How long the token endpoint takes.
const PAUSE: Duration = Duration::from_millis(600);

/// Forwards to the provider, whose token endpoint it slows down.
async fn front(
    State(provider): State<Arc<str>>,
    request: Request<Body>,
) -> axum::response::Response {
    let target = request.uri().path_and_query().map(|target| target.as_str()).unwrap_or("/");
    if target == "/token" {
        tokio::time::sleep(PAUSE).await;
    }
    let url = format!("{provider}{target}");
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let mut forwarded = client().request(parts.method, url).body(body);
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = forwarded.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = (status, answer.bytes().await.unwrap()).into_response();
    for name in [header::CONTENT_TYPE, header::LOCATION] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Two instances over one Redis, the slow provider that both use, and where the browser finds them.
struct Deployment {
    server: redis::Server,
    public_url: String,
    relays: [Process; 2],
    _provider: Process,
}

impl Deployment {
    /// With the provider's way back to `callback`.
    async fn start(callback: &str, more: &[(&str, &str)]) -> Self {
        let server = redis::Server::start(&[]).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let public_url = format!("http://127.0.0.1:{}", redis::free_port());
        let secret = server.directory.file("client-secret");
        std::fs::write(&secret, "a secret of the tests alone").unwrap();
        let callback = format!("{public_url}{callback}");
        let own = format!("127.0.0.1:{}", redis::free_port());
        let provider = ["demo-provider", "--listen", &own, "--issuer", &issuer];
        let registered = ["--client-secret-file", &secret, "--redirect-uri", &callback];
        let provider = Process::start(&[&provider[..], &registered].concat(), &[]);
        let own = Arc::from(format!("http://{own}"));
        let router = Router::new().fallback(front).with_state(own);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let redis_url = server.url();
        let mut environment = vec![
            ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
            ("TOKEN_RELAY_PUBLIC_URL", public_url.as_str()),
            ("TOKEN_RELAY_OIDC_ISSUER", issuer.as_str()),
            ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
            ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
            ("TOKEN_RELAY_REDIS_URL", redis_url.as_str()),
            ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
            ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
            ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
            ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
            ("TOKEN_RELAY_CONFIRMATION", "never"),
        ];
        environment.extend(more);
        let relay = || Process::start(&["serve"], &environment);
        let relays = [relay(), relay()];
        Self { server, public_url, relays, _provider: provider }
    }

    /// Signs in as Alice at the login page; where the provider sends the browser.
    async fn sign_in(login: &str) -> String {
        let page = client().get(login).send().await.unwrap().text().await.unwrap();
        let mut fields = hidden_inputs(&page);
        fields.push(("username".to_owned(), "alice".to_owned()));
        fields.push(("password".to_owned(), "alice".to_owned()));
        let back = client().post(login).form(&fields).send().await.unwrap();
        back.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    /// What the instances have left for each other is sealed.
    async fn assert_sealed(&self) {
        let redis = self.server.client().await;
        let keys = redis::command(&redis, &["KEYS", "token-relay:value:*"]).await;
        let keys: Vec<String> = keys.convert().unwrap();
        assert!(keys.len() >= 2, "{keys:?}");
        for key in keys {
            let value = redis::command(&redis, &["GET", &key]).await;
            let value =
                String::from_utf8_lossy(&value.convert::<bytes::Bytes>().unwrap()).into_owned();
            assert!(!value.contains("alice") && !value.contains("Alice"));
        }
    }
}

/// The cookies that an answer sets, as a browser sends them.
fn cookies_of(answer: &reqwest::Response) -> String {
    let cookies = answer.headers().get_all(header::SET_COOKIE).iter();
    let cookies = cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap());
    cookies.collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn a_callback_requested_twice_succeeds_twice_and_delivers_once() {
    let deployment = Deployment::start("/callback", &[]).await;
    let (relays, public_url) = (&deployment.relays, &deployment.public_url);
    let at = |relay: &Process, url: &str| url.replace(public_url.as_str(), &relay.url);
    for (second, password) in [(0, "alice"), (1, "alice"), (1, "bob")] {
        let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
        let events = at(&relays[1], text(&session, "events_url"));
        let mut events = Events::open(&events, Some(text(&session, "session_token"))).await;
        let transit = at(&relays[0], text(&session, "transit_url"));
        let answer = client().get(transit).send().await.unwrap();
        let cookies = cookies_of(&answer);
        let login = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
        let mut back = Deployment::sign_in(&login).await;
        let fails = password == "bob";
        if fails {
            // A code that the provider does not know.
            back = back.replace("code=", "code=x");
        }
        let step = async |relay: &Process, url: &str| {
            let request = client().get(at(relay, url)).header(header::COOKIE, &cookies);
            request.send().await.unwrap()
        };
        let (one, two) = tokio::join!(step(&relays[0], &back), async {
            tokio::time::sleep(PAUSE / 3).await;
            step(&relays[second], &back).await
        });
        for answer in [one, two] {
            let location = answer.headers().get(header::LOCATION);
            let location = location.map(|location| location.to_str().unwrap().to_owned());
            assert_eq!(answer.status(), StatusCode::FOUND, "{second} {}", relays[second].log());
            let location = location.unwrap();
            if fails {
                assert!(location.starts_with("/addons/error?error=login_failed"), "{location}");
                continue;
            }
            assert!(location.starts_with("/addons/redirect?"), "{location}");
            let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
            let cookie = cookie.split(';').next().unwrap();
            let request = client().get(format!("{}{location}", relays[second].url));
            let answer = request.header(header::COOKIE, cookie).send().await.unwrap();
            let location = answer.headers()[header::LOCATION].to_str().unwrap();
            assert!(location.starts_with("/addons/success"), "{location}");
        }
        let event = events.next().await.unwrap();
        let name = if fails { "failed" } else { "authenticated" };
        assert_eq!(event.name, name, "{:?}", event.data);
    }
    deployment.assert_sealed().await;
}

#[tokio::test]
async fn a_callback_of_meet_requested_twice_logs_in_twice() {
    const RETURN_TO: &str = "http://127.0.0.1:9/addin";
    let settings = [
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", RETURN_TO),
        ("ADDONS_CSRF_SECRET", MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY),
    ];
    let deployment = Deployment::start("/api/v1.0/callback/", &settings).await;
    let at = |relay: &Process, url: &str| url.replace(&deployment.public_url, &relay.url);
    for (second, fails) in [(0, false), (1, false), (1, true)] {
        let [first, second] = [&deployment.relays[0], &deployment.relays[second]];
        let start = format!("{}/api/v1.0/authenticate/?returnTo={RETURN_TO}", first.url);
        let answer = client().get(start).send().await.unwrap();
        let cookies = cookies_of(&answer);
        let login = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
        let mut back = Deployment::sign_in(&login).await;
        if fails {
            back = back.replace("code=", "code=x");
        }
        let step = async |relay: &Process| {
            let request = client().get(at(relay, &back)).header(header::COOKIE, &cookies);
            request.send().await.unwrap()
        };
        let (one, two) = tokio::join!(step(first), async {
            tokio::time::sleep(PAUSE / 3).await;
            step(second).await
        });
        for (relay, answer) in [(first, one), (second, two)] {
            assert_eq!(answer.status(), StatusCode::FOUND, "{}", relay.log());
            let location = answer.headers()[header::LOCATION].to_str().unwrap();
            if fails {
                assert!(location.starts_with("/addons/error?error=login_failed"), "{location}");
                continue;
            }
            assert_eq!(location, RETURN_TO);
            // The login that it sets counts at either instance.
            let login = cookies_of(&answer);
            assert!(login.contains("csrftoken="), "{login}");
        }
    }
    deployment.assert_sealed().await;
}

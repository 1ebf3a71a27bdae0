//! The browser requests the callback twice while the provider's token endpoint is slow, at one
//! instance and at two: both succeed, once.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, http::Request, response::IntoResponse as _};
use reqwest::{StatusCode, header};
use serde_json::json;

use crate::support::{
    COOKIE_KEY, Events, Process, SEALING_KEY, SIGNING_KEY, client, create, hidden_inputs, redis,
    text,
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

#[tokio::test]
async fn a_callback_requested_twice_succeeds_twice_and_delivers_once() {
    let server = redis::Server::start(&[]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let public_url = format!("http://127.0.0.1:{}", redis::free_port());
    let secret = server.directory.file("client-secret");
    std::fs::write(&secret, "a secret of the tests alone").unwrap();
    let callback = format!("{public_url}/callback");
    let own = format!("127.0.0.1:{}", redis::free_port());
    let provider = ["demo-provider", "--listen", &own, "--issuer", &issuer];
    let registered = ["--client-secret-file", &secret, "--redirect-uri", &callback];
    let _provider = Process::start(&[&provider[..], &registered].concat(), &[]);
    let own = Arc::from(format!("http://{own}"));
    let router = Router::new().fallback(front).with_state(own);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let relay = || {
        Process::start(
            &["serve"],
            &[
                ("TOKEN_RELAY_LISTEN", "127.0.0.1:0"),
                ("TOKEN_RELAY_PUBLIC_URL", &public_url),
                ("TOKEN_RELAY_OIDC_ISSUER", &issuer),
                ("TOKEN_RELAY_OIDC_CLIENT_ID", "token-relay"),
                ("TOKEN_RELAY_OIDC_CLIENT_SECRET", "a secret of the tests alone"),
                ("TOKEN_RELAY_REDIS_URL", &server.url()),
                ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
                ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
                ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
                ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
                ("TOKEN_RELAY_CONFIRMATION", "never"),
            ],
        )
    };
    let relays = [relay(), relay()];
    let at = |relay: &Process, url: &str| url.replace(&public_url, &relay.url);
    for (second, password) in [(0, "alice"), (1, "alice"), (1, "bob")] {
        let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
        let events = at(&relays[1], text(&session, "events_url"));
        let mut events = Events::open(&events, Some(text(&session, "session_token"))).await;
        let transit = at(&relays[0], text(&session, "transit_url"));
        let answer = client().get(transit).send().await.unwrap();
        let cookies = answer.headers().get_all(header::SET_COOKIE).iter();
        let cookies = cookies.map(|cookie| cookie.to_str().unwrap().split(';').next().unwrap());
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        let login = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
        let page = client().get(&login).send().await.unwrap().text().await.unwrap();
        let mut fields = hidden_inputs(&page);
        fields.push(("username".to_owned(), "alice".to_owned()));
        fields.push(("password".to_owned(), "alice".to_owned()));
        let back = client().post(&login).form(&fields).send().await.unwrap();
        let mut back = back.headers()[header::LOCATION].to_str().unwrap().to_owned();
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
    // What one instance leaves for the other is sealed.
    let redis = server.client().await;
    let keys = redis::command(&redis, &["KEYS", "token-relay:value:*"]).await;
    let keys: Vec<String> = keys.convert().unwrap();
    assert!(keys.len() >= 2, "{keys:?}");
    for key in keys {
        let value = redis::command(&redis, &["GET", &key]).await;
        let value = String::from_utf8_lossy(&value.convert::<bytes::Bytes>().unwrap()).into_owned();
        assert!(!value.contains("alice") && !value.contains("Alice"));
    }
}

//! Guesses of secrets are limited by address and in all, on each transport and over all instances that
//! share a store. The numbers are those of `docs/security.md`.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, future::join_all};
use reqwest::{RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::support::{
    Browser, COOKIE_KEY, MEET_KEY, Process, SEALING_KEY, SIGNING_KEY, client, create,
    hidden_inputs, redis, text,
};

/// Wrong secrets in a minute: of an address, and of all.
const BY_ADDRESS: usize = 30;
const IN_ALL: usize = 1200;

fn relay(public_url: Option<&str>, more: &[(&str, &str)]) -> Process {
    let fixed = [
        // Each test is many clients behind one proxy.
        ("TOKEN_RELAY_TRUSTED_PROXIES", "127.0.0.1"),
        ("TOKEN_RELAY_REFRESH_TOKEN_TTL", "1day"),
        ("TOKEN_RELAY_CLIENTS__API__GRANTS", "introspect"),
        ("TOKEN_RELAY_CLIENTS__API__SECRET", "a secret of the interface of 32 characters"),
        ("TOKEN_RELAY_MEET_COMPATIBLE", "true"),
        ("TOKEN_RELAY_MEET_RETURN_TO", "http://127.0.0.1:9/addin"),
        ("ADDONS_CSRF_SECRET", MEET_KEY),
        ("ADDONS_TOKEN_SECRET_KEY", MEET_KEY),
    ];
    let environment = [&fixed, more].concat();
    match public_url {
        Some(url) => Process::demo_behind(url, &environment),
        None => Process::demo(&environment),
    }
}

/// Two instances that count together, behind one public URL if there is one.
async fn instances(public_url: Option<&str>) -> (redis::Server, [Process; 2]) {
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let shared = [
        ("TOKEN_RELAY_REDIS_URL", url.as_str()),
        ("TOKEN_RELAY_COOKIE_KEYS", COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", SIGNING_KEY),
    ];
    let instances = [relay(public_url, &shared), relay(public_url, &shared)];
    (server, instances)
}

fn from(address: &str, request: RequestBuilder) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

/// How often each status was answered, with so many requests `at_once`.
async fn tally(
    at_once: usize,
    requests: impl IntoIterator<Item = RequestBuilder>,
) -> BTreeMap<u16, usize> {
    let mut tally = BTreeMap::new();
    let mut answers = futures_util::stream::iter(requests)
        .map(|request| async { request.send().await.unwrap() })
        .buffer_unordered(at_once);
    while let Some(answer) = answers.next().await {
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(answer.headers().contains_key(header::RETRY_AFTER));
        }
        *tally.entry(answer.status().as_u16()).or_default() += 1;
    }
    tally
}

const WRONG: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A request with a wrong secret of each kind, the status of its refusal, and the kind's name in the
/// metrics.
fn wrong(kind: &str, relay: &Process, session: &Value, meet: &str) -> (RequestBuilder, u16) {
    let url = |path: &str| format!("{}{path}", relay.url);
    let session_url =
        |suffix: &str| url(&format!("/addons/sessions/{}{suffix}", text(session, "session_id")));
    let addons = |name: &str| url(&format!("/api/v1.0/addons/sessions/{name}/"));
    match kind {
        "client_secret" => {
            let request = client().post(url("/addons/introspect")).form(&[("token", "a")]);
            (request.basic_auth("api", Some("wrong")), 401)
        }
        "session_token by poll" => (client().get(session_url("")).bearer_auth(WRONG), 401),
        "session_token by DELETE" => (client().delete(session_url("")).bearer_auth(WRONG), 401),
        "session_token by events" => (client().get(session_url("/events")).bearer_auth(WRONG), 401),
        "session_token by meet poll" => {
            let request = client().post(addons("poll")).header(header::COOKIE, meet);
            (request.header("x-csrftoken", "00".repeat(32)), 400)
        }
        "session_token by meet events" => {
            let request = client().get(addons("events")).header(header::COOKIE, meet);
            (request.header("x-csrftoken", "00".repeat(32)), 400)
        }
        "refresh_token" => {
            let request = client().post(url("/addons/token"));
            let form = [("grant_type", "refresh_token"), ("refresh_token", WRONG)];
            let id = text(session, "session_id");
            (request.basic_auth(id, Some(text(session, "session_token"))).form(&form), 400)
        }
        "transit_token" => {
            let transit = text(session, "transit_token");
            let wrong = format!("{}{WRONG}", &transit[..43]);
            (client().get(url(&format!("/addons/transit/?transit_token={wrong}"))), 404)
        }
        other => panic!("{other}"),
    }
}

async fn meet_cookie(relay: &Process) -> String {
    let init = client().post(format!("{}/api/v1.0/addons/sessions/init/", relay.url));
    let init = init.send().await.unwrap();
    let cookie = init.headers()[header::SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// Wrong secrets from one address, at each instance in turn.
fn guesses(
    kind: &str,
    count: usize,
    address: &str,
    relays: &[Process],
    session: &Value,
    meet: &str,
) -> impl Iterator<Item = RequestBuilder> {
    (0..count).map(move |number| {
        let (request, _) = wrong(kind, &relays[number % relays.len()], session, meet);
        from(address, request)
    })
}

#[tokio::test]
async fn an_address_guesses_thirty_times_on_each_transport_at_two_instances_together() {
    let (_server, relays) = instances(None).await;
    let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
    let meet = meet_cookie(&relays[0]).await;
    for (place, kind) in [
        "client_secret",
        "session_token by poll",
        "session_token by DELETE",
        "session_token by events",
        "session_token by meet poll",
        "session_token by meet events",
        "refresh_token",
        "transit_token",
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("192.0.2.{}", place + 1);
        let requests = guesses(kind, 2 * BY_ADDRESS + 10, &address, &relays, &session, &meet);
        let tally = tally(1, requests).await;
        let (_, status) = wrong(kind, &relays[0], &session, &meet);
        let answered = tally.get(&status).copied().unwrap_or_default();
        println!("{kind}: {tally:?}");
        assert_eq!(answered, BY_ADDRESS, "{kind}: {tally:?}");
        assert_eq!(tally.values().sum::<usize>() - answered, tally[&429], "{kind}: {tally:?}");
        // Another address is not concerned.
        let (request, _) = wrong(kind, &relays[1], &session, &meet);
        let other = from("198.51.100.1", request).send().await.unwrap();
        assert_eq!(other.status().as_u16(), status, "{kind}");
    }
    let right =
        client().get(text(&session, "poll_url")).bearer_auth(text(&session, "session_token"));
    let right = from("192.0.2.2", right).send().await.unwrap();
    assert_eq!(right.status(), StatusCode::ACCEPTED, "a right token gets through");
}

/// The store counts before an answer is given, so a burst gains nothing.
#[tokio::test]
async fn a_burst_at_two_instances_has_thirty_tries_of_each_kind() {
    let (_server, relays) = instances(None).await;
    let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
    let meet = meet_cookie(&relays[0]).await;
    for (place, kind) in [
        "client_secret",
        "session_token by poll",
        "session_token by events",
        "session_token by meet poll",
        "refresh_token",
        "transit_token",
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("192.0.2.{}", place + 1);
        let requests = guesses(kind, 4 * BY_ADDRESS, &address, &relays, &session, &meet);
        // All of them under way at once.
        let tally = tally(4 * BY_ADDRESS, requests).await;
        let (_, status) = wrong(kind, &relays[0], &session, &meet);
        println!("burst of {kind}: {tally:?}");
        assert_eq!(tally[&status], BY_ADDRESS, "{kind}: {tally:?}");
        assert_eq!(tally[&429], 3 * BY_ADDRESS, "{kind}: {tally:?}");
    }
}

#[tokio::test]
async fn the_right_client_secret_is_no_way_round_the_count() {
    let (server, relays) = instances(None).await;
    let guess = |number: usize, address: &str, secret: &str| {
        let request = client().post(format!("{}/addons/introspect", relays[number % 2].url));
        let request = request.form(&[("token", "a")]).basic_auth("api", Some(secret));
        from(address, request)
    };
    let right = "a secret of the interface of 32 characters";
    let hand = server.client().await;
    let counts = async || redis::command(&hand, &["KEYS", "*:count:*"]).await.into_array().len();
    // One that was never wrong costs the store nothing.
    for number in 0..20 {
        let answer = guess(number, "192.0.2.1", right).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(counts().await, 0);
    // After wrong ones here or there it counts, and is taken back.
    tally(1, (0..BY_ADDRESS - 1).map(|number| guess(number, "192.0.2.2", "wrong"))).await;
    for number in 0..10 {
        let answer = guess(number, "192.0.2.2", right).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{number}");
    }
    // The thirtieth wrong one, at either instance, closes both.
    tally(1, [guess(0, "192.0.2.2", "wrong")]).await;
    for number in 0..2 {
        let answer = guess(number, "192.0.2.2", right).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{number}");
        let answer = guess(number, "192.0.2.1", right).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "another address");
    }
    // In a burst in which every fourth one is right, as if the guesser had it among its tries.
    let burst = (0..8 * BY_ADDRESS).map(|number| {
        let secret = if number % 4 == 3 { right } else { "wrong" };
        guess(number / 2, "192.0.2.3", secret)
    });
    let tally = tally(8 * BY_ADDRESS, burst).await;
    println!("burst with the right secret among: {tally:?}");
    assert!(tally[&401] <= BY_ADDRESS, "{tally:?}");
}

#[tokio::test]
async fn guesses_by_websocket_are_counted_on_both_surfaces() {
    let relay = relay(None, &[]);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let meet = meet_cookie(&relay).await;
    let native = text(&session, "websocket_url").to_owned();
    let meet_url = relay.url.replace("http", "ws") + "/api/v1.0/addons/sessions/ws/";
    let cases = [
        (native, format!("token-relay.v1, bearer.{WRONG}"), "192.0.2.1"),
        (meet_url, format!("token-relay.v1, csrf.{}", "00".repeat(32)), "192.0.2.2"),
    ];
    for (url, protocols, address) in cases {
        let mut codes = BTreeMap::new();
        for _ in 0..BY_ADDRESS + 10 {
            let mut request = url.as_str().into_client_request().unwrap();
            let headers = request.headers_mut();
            headers.insert("sec-websocket-protocol", protocols.parse().unwrap());
            headers.insert("cookie", meet.parse().unwrap());
            headers.insert("x-forwarded-for", address.parse().unwrap());
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
                panic!("no close frame");
            };
            *codes.entry(u16::from(frame.code)).or_insert(0) += 1;
        }
        // An allowance grows by one in two seconds.
        let wrong = codes.get(&4401).copied().unwrap_or_default();
        assert!((BY_ADDRESS..BY_ADDRESS + 5).contains(&wrong), "{url}: {codes:?}");
        assert_eq!(codes.get(&4429), Some(&(BY_ADDRESS + 10 - wrong)), "{url}: {codes:?}");
    }
}

#[tokio::test]
async fn all_addresses_together_guess_twelve_hundred_times() {
    let (_server, relays) = instances(None).await;
    let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
    // A secret that is refused before it is looked at, so that the limit in all is seen.
    let guess = |number: usize| {
        let (request, _) = wrong("client_secret", &relays[number % 2], &session, "");
        from(&format!("10.0.{}.{}", number / 250, number % 250), request)
    };
    let tally = tally(16, (0..IN_ALL + 400).map(guess)).await;
    println!("in all: {tally:?}");
    let wrong = tally[&401];
    assert_eq!(wrong, IN_ALL, "{tally:?}");
}

#[tokio::test]
async fn codes_are_guessed_five_times_in_a_session_and_thirty_times_from_an_address() {
    let public_url = format!("http://127.0.0.1:{}", redis::free_port());
    let (_server, relays) = instances(Some(&public_url)).await;
    let at = |number: usize, url: &str| url.replace(&public_url, &relays[number % 2].url);
    let (mut early, mut late) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..12 {
        let session = create(&relays[0].url, Some(json!({"bind": true}))).await;
        let address = header::HeaderMap::from_iter([(
            header::HeaderName::from_static("x-forwarded-for"),
            "192.0.2.7".parse().unwrap(),
        )]);
        // One dialog, whose forms a load balancer sends to two instances at once.
        let browser = Browser::sending(address);
        let page = browser.open(&at(number, text(&session, "transit_url"))).await;
        let fields = hidden_inputs(&page.body);
        let codes = ["BBBB-BBBB", "BBBB-BBBC", "BBBB-BBBD", "BBBB-BBBF", "BBBB-BBBG", "BBBB-BBBH"];
        let posts = codes.iter().enumerate().map(|(place, code)| {
            let mut fields = fields.clone();
            fields.push(("user_code".to_owned(), (*code).to_owned()));
            let url = at(place, &format!("{public_url}/addons/transit/code"));
            let (browser, origin) = (&browser, Some(public_url.as_str()));
            async move { browser.post_from(origin, &url, &fields).await }
        });
        let mut answered = BTreeMap::new();
        for answer in join_all(posts).await {
            *answered.entry(answer.status().as_u16()).or_insert(0_usize) += 1;
        }
        if number == 0 {
            // Four wrong ones, the fifth, which ended the session, and one too late.
            assert_eq!(answered.get(&200), Some(&4), "{answered:?}");
        }
        for (status, count) in answered {
            let tally = if number < 4 { &mut early } else { &mut late };
            *tally.entry(status).or_insert(0) += count;
        }
    }
    println!("first sessions: {early:?}, later ones: {late:?}");
    assert_eq!(early.get(&429), None, "{early:?}");
    assert!(late.get(&429).copied().unwrap_or_default() >= 30, "{late:?}");
    redis::eventually("the audit log has it", || async {
        relays.iter().any(|relay| relay.log().contains("dialog_code"))
    })
    .await;
}

//! The operator's page: who sees it, that its numbers are those of `/metrics`, and who may end tokens.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::support::{
    Browser, COOKIE_KEY, Events, NEW_KEY, Process, SEALING_KEY, client, free_port, redis, shared,
    text,
};

const TOKEN: &str = "c2l4dHktZm91ciByYW5kb20gYnl0ZXMgb2YgYSB0ZXN0";

/// A demo whose metrics listener is at the second address.
fn with_metrics(more: &[(&str, &str)]) -> (Process, String) {
    let listen = format!("127.0.0.1:{}", free_port());
    let environment = [&[("TOKEN_RELAY_METRICS_LISTEN", listen.as_str())], more].concat();
    (Process::demo(&environment), format!("http://{listen}"))
}

async fn get(url: String, token: Option<&str>) -> Response {
    let request = client().get(url);
    let request = match token {
        Some(token) => request.basic_auth("anybody", Some(token)),
        None => request,
    };
    request.send().await.unwrap()
}

/// The first state that the page is sent.
async fn state(listener: &str, token: Option<&str>) -> Value {
    let answer = get(format!("{listener}/operator/events"), token).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let event = Events::from_response(answer).next().await.unwrap();
    assert_eq!(event.name, "state");
    event.data
}

/// Every sample of an exposition but those that asking for it changes.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines =
        text.lines().filter(|line| !line.starts_with('#') && !line.contains("operation=\"ping\""));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// The samples of a state, written as an exposition writes them.
fn shown(state: &Value) -> BTreeMap<String, f64> {
    let samples = state["samples"].as_array().unwrap().iter().map(|sample| {
        let labels = sample["labels"].as_object().unwrap();
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", value.as_str().unwrap()))
            .collect();
        let name = text(sample, "name");
        let series = match labels.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", labels.join(",")),
        };
        (series, sample["value"].as_f64().unwrap())
    });
    samples.filter(|(series, _)| !series.contains("operation=\"ping\"")).collect()
}

/// The same with labels in alphabetical order.
fn ordered(samples: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let order = |series: String| match series.split_once('{') {
        Some((name, labels)) => {
            let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
            labels.sort_unstable();
            format!("{name}{{{}}}", labels.join(","))
        }
        None => series,
    };
    // JSON is read with an error in the last digit of a sum.
    let rounded = |value: f64| format!("{value:.12e}").parse().unwrap();
    samples.into_iter().map(|(series, value)| (order(series), rounded(value))).collect()
}

async fn create(relay: &Process) -> Value {
    let request = client().post(format!("{}/addons/sessions", relay.url));
    request.json(&json!({"bind": true})).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn the_numbers_are_those_of_the_metrics_and_failures_have_their_reference() {
    let (relay, listener) = with_metrics(&[]);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let session = create(&relay).await;
        let request =
            client().get(text(&session, "events_url")).bearer_auth(text(&session, "session_token"));
        streams.push((request.send().await.unwrap(), session));
    }
    // Two get their token, and one link is opened a second time.
    for (stream, session) in streams.drain(..2) {
        Browser::default().sign_in(&session, "alice").await;
        let event = Events::from_response(stream).next().await.unwrap();
        assert_eq!(event.name, "authenticated");
    }
    let wrong = format!("{}/addons/transit/?transit_token={}", relay.url, "x".repeat(43));
    let page = Browser::default().open(&wrong).await;
    let mut events = Events::from_response(get(format!("{listener}/operator/events"), None).await);
    // What the last requests still count may come between the two.
    let mut tries = 0;
    let state = loop {
        let state = events.next().await.unwrap().data;
        let metrics = get(format!("{listener}/metrics"), None).await.text().await.unwrap();
        let (of_page, of_metrics) = (ordered(shown(&state)), ordered(samples(&metrics)));
        if of_page == of_metrics && !of_page.is_empty() {
            break state;
        }
        tries += 1;
        assert!(tries < 10, "{of_page:#?} {of_metrics:#?}");
    };
    let sum = |name: &str, label: &str| -> f64 {
        let fits = |sample: &&Value| {
            let labels = sample["labels"].as_object().unwrap();
            sample["name"] == name && labels.values().any(|value| value == label)
        };
        let samples = state["samples"].as_array().unwrap().iter().filter(fits);
        samples.map(|sample| sample["value"].as_f64().unwrap()).sum()
    };
    assert!((sum("token_relay_streams_open", "Sse") - 3.0).abs() < 0.1);
    assert!((sum("token_relay_logins_total", "Succeeded") - 2.0).abs() < 0.1);
    assert_eq!(state["logins_last_hour"], json!({"Succeeded": 2}));
    assert_eq!(
        (text(&state["provider"], "state"), &state["store"]["is_up"]),
        ("discovered", &json!(true))
    );
    assert_eq!(state["signing_key_ids"].as_array().unwrap().len(), 1);
    // What the person reads out is there with its cause.
    let failure = &state["failures"][0];
    assert!(page.body.contains(text(failure, "reference")), "{failure} {}", page.body);
    relay.logged(text(failure, "reference")).await;
    assert!(!text(failure, "cause").is_empty(), "{failure}");
    assert!(!state.to_string().contains(&"x".repeat(43)), "{state}");
    for (_, session) in &streams {
        assert!(!state.to_string().contains(text(session, "session_id")));
    }
}

#[tokio::test]
async fn without_a_token_the_page_is_read_only_at_the_metrics_listener() {
    let (relay, listener) = with_metrics(&[]);
    let page = get(format!("{listener}/operator/"), None).await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
    let body = page.text().await.unwrap();
    assert!(!body.contains("http://") && !body.contains("https://"), "nothing from elsewhere");
    assert_eq!(get(format!("{}/operator/", relay.url), None).await.status(), StatusCode::NOT_FOUND);
    // A site that points its own name here.
    for path in ["", "events", "operator.js"] {
        let request = client().get(format!("{listener}/operator/{path}"));
        let answer = request.header(header::HOST, "evil.example:9090").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let request = client().post(format!("{listener}/operator/revoke"));
    let request = request.header(header::ORIGIN, &listener).form(&[("sub", "alice")]);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let state = state(&listener, None).await;
    assert_eq!((&state["may_revoke"], &state["ended"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn with_the_token_a_person_can_be_ended_by_the_page_alone() {
    let token = ("TOKEN_RELAY_OPERATOR_TOKEN", TOKEN);
    let (with_listener, listener) = with_metrics(&[token]);
    let alone = Process::demo(&[token]);
    for (relay, page) in [(&with_listener, listener.as_str()), (&alone, alone.url.as_str())] {
        let session = create(relay).await;
        let request = client().get(text(&session, "events_url"));
        let stream = request.bearer_auth(text(&session, "session_token")).send().await.unwrap();
        Browser::default().sign_in(&session, "alice").await;
        let token = Events::from_response(stream).next().await.unwrap().data;
        let me = async || {
            let request = client().get(format!("{}/addons/me", relay.url));
            request.bearer_auth(text(&token, "access_token")).send().await.unwrap().status()
        };
        assert_eq!(me().await, StatusCode::OK);

        let none = get(format!("{page}/operator/"), None).await;
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
        assert!(none.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
        let wrong = get(format!("{page}/operator/events"), Some("wrong")).await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(get(format!("{page}/operator/"), Some(TOKEN)).await.status(), StatusCode::OK);

        let revoke = async |origin: Option<&str>, password: Option<&str>| {
            let request =
                client().post(format!("{page}/operator/revoke")).form(&[("sub", "alice")]);
            let request = match origin {
                Some(origin) => request.header(header::ORIGIN, origin),
                None => request,
            };
            let request = match password {
                Some(password) => request.basic_auth("x", Some(password)),
                None => request,
            };
            request.send().await.unwrap().status()
        };
        assert_eq!(revoke(Some(page), None).await, StatusCode::UNAUTHORIZED);
        assert_eq!(revoke(Some(page), Some("wrong")).await, StatusCode::UNAUTHORIZED);
        for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1")] {
            assert_eq!(revoke(origin, Some(TOKEN)).await, StatusCode::FORBIDDEN, "{origin:?}");
        }
        assert_eq!(me().await, StatusCode::OK);
        assert_eq!(revoke(Some(page), Some(TOKEN)).await, StatusCode::NO_CONTENT);
        assert_eq!(me().await, StatusCode::UNAUTHORIZED);
        let ended = state(page, Some(TOKEN)).await["ended"].clone();
        assert_eq!((text(&ended[0], "subject"), text(&ended[0], "by")), ("alice", "operator"));
        assert!(!relay.log().contains(TOKEN));
    }
    // Guesses are limited.
    let mut statuses = Vec::new();
    for number in 0..40 {
        let answer = get(format!("{listener}/operator/"), Some(&format!("guess {number}"))).await;
        statuses.push(answer.status());
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
}

#[tokio::test]
async fn an_open_page_does_not_hold_up_a_shutdown() {
    let (mut relay, listener) = with_metrics(&[("TOKEN_RELAY_DRAIN_TIMEOUT", "60s")]);
    let answer = get(format!("{listener}/operator/events"), None).await;
    let mut events = Events::from_response(answer);
    assert!(events.next().await.is_some());
    relay.signal("TERM");
    while events.next().await.is_some() {}
    assert!(relay.wait().success());
}

/// The age of a key is that of its file, and a replaced file begins anew.
#[tokio::test]
async fn keys_have_the_age_of_their_files() {
    let directory = redis::Directory::new();
    let cookie_keys = directory.file("cookie_keys");
    std::fs::write(&cookie_keys, COOKIE_KEY).unwrap();
    let written = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let file = std::fs::File::options().write(true).open(&cookie_keys).unwrap();
    file.set_modified(written).unwrap();
    let settings = [
        ("TOKEN_RELAY_COOKIE_KEYS_FILE", cookie_keys.as_str()),
        ("TOKEN_RELAY_SEALING_KEYS", SEALING_KEY),
    ];
    let (relay, listener) = with_metrics(&settings);
    let key = |state: &Value, setting: &str| {
        let keys = state["keys"].as_array().unwrap().iter();
        let mut found = keys.filter(|key| key["setting"] == setting);
        let key = found.next().unwrap();
        (text(key, "origin").to_owned(), key["since"].as_u64().unwrap())
    };
    let begun = state(&listener, None).await;
    let started = begun["started_at"].as_u64().unwrap();
    assert_eq!(key(&begun, "COOKIE_KEYS"), ("file changed".to_owned(), 1_700_000_000));
    assert_eq!(key(&begun, "SEALING_KEYS").0, "loaded");
    let (origin, since) = key(&begun, "SIGNING_KEY");
    assert!(origin.starts_with("random") && since.abs_diff(started) < 5, "{begun}");
    // A new key before the old one.
    std::fs::write(&cookie_keys, format!("{NEW_KEY}\n{COOKIE_KEY}\n")).unwrap();
    file.set_modified(written + Duration::from_secs(1000)).unwrap();
    relay.signal("HUP");
    let mut events = Events::from_response(get(format!("{listener}/operator/events"), None).await);
    loop {
        let now = events.next().await.unwrap().data;
        assert_eq!(key(&now, "SIGNING_KEY"), key(&begun, "SIGNING_KEY"), "not exchanged");
        if key(&now, "COOKIE_KEYS").1 == 1_700_001_000 {
            break;
        }
    }
}

/// What Redis did lately, and that all pages together ask it no more often than one of them.
#[tokio::test]
async fn the_store_is_shown_with_its_last_error_and_asked_once_for_all_pages() {
    let server = redis::Server::start(&[]).await;
    let url = server.url();
    let settings = [&shared(&url)[..], &[("TOKEN_RELAY_REDIS_TIMEOUT", "300ms")]].concat();
    let (_relay, listener) = with_metrics(&settings);
    let mut pages = Vec::new();
    for _ in 0..8 {
        let answer = get(format!("{listener}/operator/events"), None).await;
        pages.push(Events::from_response(answer));
    }
    let mut states = Vec::new();
    for page in &mut pages {
        states.push(page.next().await.unwrap().data);
    }
    let pings = |state: &Value| {
        let mut samples = state["samples"].as_array().unwrap().iter();
        let is_count = |sample: &&Value| {
            sample["name"] == "token_relay_store_call_seconds_count"
                && sample["labels"]["operation"] == "ping"
        };
        samples.find(is_count).unwrap()["value"].as_f64().unwrap()
    };
    let (first, begun) = (pings(&states[0]), std::time::Instant::now());
    let mut last = states.remove(0);
    for page in &mut pages {
        for _ in 0..2 {
            last = page.next().await.unwrap().data;
        }
    }
    // Not once for each page, but once for an interval.
    let (asked, intervals) = (pings(&last) - first, begun.elapsed().as_secs_f64() / 1.5);
    assert!(asked >= 1.0 && asked <= intervals + 1.0, "{asked} in {intervals} intervals");
    assert_eq!((&last["store"]["kind"], &last["store"]["is_up"]), (&json!("Redis"), &json!(true)));
    let since = last["store"]["since"].as_u64().unwrap();

    let mut page = pages.swap_remove(0);
    drop(server);
    let store = loop {
        let store = page.next().await.unwrap().data["store"].clone();
        if store["is_up"] == false {
            break store;
        }
    };
    assert!(store["since"].as_u64().unwrap() >= since, "{store}");
    assert_eq!(text(&store["last_error"], "operation"), "ping", "{store}");
    assert!(!text(&store, "problem").is_empty());
}

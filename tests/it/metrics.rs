//! What the operator counts is what happened.

use std::collections::HashMap;

use crate::support::{
    Browser, Events, Process, client, create, form_action, hidden_inputs, redis, text,
};
use reqwest::{StatusCode, header};
use serde_json::json;

const SECRET: &str = crate::support::SEALING_KEY;

/// Every value by its name and labels.
async fn scrape(relay: &Process) -> HashMap<String, f64> {
    let answer = client().get(format!("{}/metrics", relay.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let text = answer.text().await.unwrap();
    assert_eq!(text.lines().last(), Some("# EOF"));
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        assert!(help.is_some_and(|help| help.len() > 10), "{name} has no help");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.strip_prefix("token_relay_").unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn state(name: &str) -> String {
    format!("session_transitions_total{{state=\"{name}\"}}")
}

fn calls(operation: &str) -> String {
    format!("store_call_seconds_count{{operation=\"{operation}\"}}")
}

#[tokio::test]
async fn a_sign_in_moves_what_it_should() {
    let relay = Process::demo(&[]);
    let before = scrape(&relay).await;
    for name in ["pending", "authenticated", "failed", "acknowledged", "cancelled", "replayed"] {
        assert_eq!(before[&state(name)], 0.0, "there from the start");
    }
    assert_eq!(before["store_sessions"], 0.0);
    assert_eq!(before["store_up"], 1.0, "without anybody having asked for readiness");

    // One that ends well. An older reader of it is displaced, a later one has had the token.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let (url, token) = (text(&session, "events_url"), Some(text(&session, "session_token")));
    let mut older = Events::open(url, token).await;
    older.until("retry").await;
    let mut newer = Events::open(url, token).await;
    newer.until("retry").await;
    Browser::default().sign_in(&session, "alice").await;
    let event = newer.next().await.unwrap();
    assert_eq!(event.name, "authenticated");
    assert_eq!(text(&older.next().await.unwrap().data, "error"), "superseded");
    let again = Events::request(url, token, Some(&event.id)).await;
    assert_eq!(again.status(), StatusCode::NO_CONTENT);
    // One that is refused by its person, one that is cancelled, one whose link leaked.
    let body = json!({"bind": true, "confirm": true});
    let browser = Browser::default();
    let session = browser.create(&relay.url, body).await;
    let page = browser.open(text(&session, "transit_url")).await;
    let mut fields = hidden_inputs(&page.body);
    fields.push(("decision".to_owned(), "deny".to_owned()));
    browser.submit(form_action(&page).as_str(), &fields).await;
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let cancel = client().delete(text(&session, "poll_url"));
    cancel.bearer_auth(text(&session, "session_token")).send().await.unwrap();
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let (first, second) = (Browser::default(), Browser::default());
    let seconds = second.open(text(&session, "transit_url")).await;
    first.to_login(&session).await;
    second.type_code(&seconds, text(&session, "user_code")).await;

    let after = scrape(&relay).await;
    for (name, times) in [
        ("pending", 4.0),
        ("authenticated", 1.0),
        ("failed", 1.0),
        ("acknowledged", 1.0),
        ("cancelled", 1.0),
        ("replayed", 1.0),
    ] {
        assert_eq!(after[&state(name)], times, "{name}");
    }
    for (operation, times) in
        [("create", 4.0), ("enter", 3.0), ("fulfil", 1.0), ("fail", 1.0), ("attach", 2.0)]
    {
        assert_eq!(after[&calls(operation)], times, "{operation}");
    }
    for operation in ["claim", "acknowledge", "ping", "subscribe", "mark"] {
        assert!(after[&calls(operation)] >= 1.0, "{operation}");
    }
    for (name, value) in [
        ("streams_reconnected_total{by=\"LastEventId\"}", 1.0),
        ("streams_reconnected_total{by=\"NewestReader\"}", 1.0),
        ("deliveries_total{client=\"addons\"}", 1.0),
        ("deliveries_lost_total", 0.0),
        ("delivery_seconds_count", 1.0),
        ("logins_total{outcome=\"Succeeded\",client=\"addons\"}", 1.0),
        ("store_sessions", 4.0),
        ("store_reconnects_total", 0.0),
        ("store_resyncs_total", 0.0),
    ] {
        assert_eq!(after[name], value, "{name}");
    }
    let errors = after.iter().filter(|(name, _)| name.starts_with("store_errors_total"));
    assert!(errors.map(|(_, value)| value).sum::<f64>() == 0.0);
}

/// An instance over that Redis; `sealing` are its keys for tokens.
fn instance(redis_url: &str, sealing: &str) -> Process {
    Process::demo(&[
        ("TOKEN_RELAY_REDIS_URL", redis_url),
        ("TOKEN_RELAY_COOKIE_KEYS", crate::support::COOKIE_KEY),
        ("TOKEN_RELAY_SEALING_KEYS", sealing),
        ("TOKEN_RELAY_SIGNING_ALGORITHM", "HS256"),
        ("TOKEN_RELAY_SIGNING_KEY", crate::support::SIGNING_KEY),
        ("TOKEN_RELAY_DEMO_AUTO_LOGIN", "1"),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_lost_and_found_is_counted() {
    let mut server =
        redis::Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let relay = instance(&server.url(), SECRET);
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let (url, token) = (text(&session, "events_url"), Some(text(&session, "session_token")));
    let mut events = Events::open(url, token).await;
    events.until("retry").await;
    let before = scrape(&relay).await;
    assert_eq!(before["store_up"], 1.0);
    assert_eq!(before["store_reconnects_total"], 0.0);
    assert_eq!(before["store_resynced_readers_total"], 0.0);
    assert!(!before.contains_key("store_sessions"), "Redis would have to count");

    server.kill();
    redis::eventually("it is noticed", || async { scrape(&relay).await["store_up"] == 0.0 }).await;
    let refused = client().post(format!("{}/addons/sessions", relay.url)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.restart();
    redis::within(crate::support::TIMEOUT, "it is back, and the reader looked again", || async {
        let now = scrape(&relay).await;
        now["store_up"] == 1.0 && now["store_resynced_readers_total"] >= 1.0
    })
    .await;
    let after = scrape(&relay).await;
    assert!(after["store_reconnects_total"] >= 1.0, "{after:?}");
    assert!(after["store_resyncs_total"] > before["store_resyncs_total"]);
    assert!(after["store_errors_total{operation=\"create\"}"] >= 1.0);
    assert!(after["store_errors_total{operation=\"ping\"}"] >= 1.0);
    let page = Browser::default().to_login(&session).await;
    assert_eq!(page.url.path(), "/addons/success");
    assert_eq!(events.next().await.unwrap().name, "authenticated");
    assert_eq!(scrape(&relay).await["deliveries_lost_total"], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_its_reader_cannot_have_is_counted_as_lost() {
    let server = redis::Server::start(&[]).await;
    let dialog = instance(&server.url(), SECRET);
    let stream = instance(&server.url(), crate::support::NEW_KEY);
    let session = create(&dialog.url, Some(json!({"bind": true}))).await;
    let path = text(&session, "events_url").strip_prefix(&dialog.url).unwrap();
    let url = format!("{}{path}", stream.url);
    let mut events = Events::open(&url, Some(text(&session, "session_token"))).await;
    Browser::default().to_login(&session).await;
    assert_eq!(text(&events.next().await.unwrap().data, "error"), "server_error");
    let counted = scrape(&stream).await;
    assert_eq!(
        (counted["deliveries_lost_total"], counted["deliveries_total{client=\"addons\"}"]),
        (1.0, 0.0)
    );
    assert_eq!(scrape(&dialog).await["deliveries_lost_total"], 0.0);
}

/// The reference in the log that the page shows. The log is read a moment after it is written.
async fn logged_reference(relay: &Process, body: &str) -> String {
    let found = || {
        let log = relay.log();
        let lines = log.lines().filter(|line| line.contains("dialog ended with an error page"));
        let mut references = lines.filter_map(|line| {
            let rest = line.split("reference=").nth(1)?;
            Some(rest.trim_matches('"').split(['"', ' ']).next()?.to_owned())
        });
        references.find(|reference| body.contains(reference.as_str()))
    };
    redis::eventually("the reference is in the log", || async { found().is_some() }).await;
    found().unwrap()
}

/// The person reads the reference out, and the operator finds it in the log.
#[tokio::test]
async fn every_error_page_has_a_reference_that_is_in_the_log() {
    let relay = Process::demo(&[]);
    let mut seen = Vec::new();
    let wrong = format!("{}/addons/transit/?transit_token=x", relay.url);
    let used = {
        let session = create(&relay.url, Some(json!({"bind": true}))).await;
        let url = text(&session, "transit_url").to_owned();
        Browser::default().to_login(&session).await;
        url
    };
    let stray = format!("{}/callback?code=c&state=s", relay.url);
    for url in [wrong, used, stray] {
        let page = Browser::default().open(&url).await;
        assert!(page.status.is_client_error(), "{url}");
        seen.push(logged_reference(&relay, &page.body).await);
    }
    // One that comes by a redirect, so that the address with the code is left behind.
    let session = create(&relay.url, Some(json!({"bind": true}))).await;
    let browser = Browser::default();
    let login = browser.to_login(&session).await;
    let cancel = client().delete(text(&session, "poll_url"));
    cancel.bearer_auth(text(&session, "session_token")).send().await.unwrap();
    let page = browser.log_in(&login, "alice", "alice").await;
    assert_eq!(page.url.path(), "/addons/error");
    seen.push(logged_reference(&relay, &page.body).await);
    let different = seen.iter().collect::<std::collections::HashSet<_>>();
    assert_eq!(different.len(), 4, "{seen:?}");
}

#[tokio::test]
async fn whom_to_tell_of_a_vulnerability_is_published_until_it_expires() {
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(30 * 86_400);
    let expires = humantime::format_rfc3339_seconds(soon).to_string();
    let relay = |expires: &str| {
        Process::demo(&[
            (
                "TOKEN_RELAY_SECURITY_CONTACT",
                "mailto:security@example.org,https://example.org/report",
            ),
            ("TOKEN_RELAY_SECURITY_EXPIRES", expires),
            ("TOKEN_RELAY_LOG", "warn"),
        ])
    };
    let get = async |relay: &Process| {
        client().get(format!("{}/.well-known/security.txt", relay.url)).send().await.unwrap()
    };
    let configured = relay(&expires);
    let answer = get(&configured).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(
        answer.text().await.unwrap(),
        format!(
            "Contact: mailto:security@example.org\nContact: https://example.org/report\n\
             Expires: {expires}\nCanonical: {}/.well-known/security.txt\n",
            configured.url
        )
    );
    let over = relay("2020-01-01T00:00:00Z");
    assert_eq!(get(&over).await.status(), StatusCode::NOT_FOUND);
    over.logged("SECURITY_EXPIRES").await;
    assert_eq!(get(&Process::demo(&[])).await.status(), StatusCode::NOT_FOUND);
}
